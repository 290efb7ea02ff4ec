//! One table over two tiers: every query gives the same rows wherever they lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::stats::Precision;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use thermocline_schemas::Code;

use super::{Node, lines};
use crate::front::{self, Statement, prepare};
use crate::query::plan;
use crate::session::Names;

/// Rows 0 to 99 in the lake, 100 to 149 hot; every column has values in both.
async fn two_tiers() -> Node {
    let node = Node::new().await;
    node.run(
        "CREATE TABLE t (id BIGINT NOT NULL, small SMALLINT, tiny TINYINT, price DECIMAL(10, 2), f DOUBLE, day DATE, \
         ts TIMESTAMP, tz TIMESTAMPTZ, name VARCHAR, raw BYTEA, flag BOOLEAN)",
    )
    .await;
    fill(&node, 0, 60).await;
    node.tier("t").await;
    fill(&node, 60, 100).await;
    node.tier("t").await;
    fill(&node, 100, 150).await;
    node
}

async fn fill(node: &Node, from: i64, to: i64) {
    node.run(&format!(
        "INSERT INTO t SELECT v, CASE WHEN v % 7 > 0 THEN v END, v % 100, v * 1.25, v / 4.0, \
         date '2026-01-01' + CAST(v || ' days' AS INTERVAL), timestamp '2026-01-01 00:00:00.000001', \
         timestamptz '2026-01-01T00:00:00Z', 'name ' || v, CAST('x' AS BYTEA), v % 2 = 0 \
         FROM (SELECT value AS v FROM range({from}, {to}))",
    ))
    .await;
}

/// Queries with answers that follow from how rows are made.
const QUERIES: &[(&str, &[&str])] = &[
    ("SELECT count(*) FROM t", &["150"]),
    ("SELECT count(*), sum(id), min(id), max(id) FROM t", &["150|11175|0|149"]),
    ("SELECT count(small) FROM t", &["128"]),
    ("SELECT id FROM t WHERE id = 42", &["42"]),
    ("SELECT name FROM t WHERE id = 142", &["name 142"]),
    ("SELECT id FROM t WHERE id > 97 AND id < 103 ORDER BY id", &["98", "99", "100", "101", "102"]),
    ("SELECT id FROM t WHERE small = 20 OR small = 120 ORDER BY id", &["20", "120"]),
    ("SELECT count(*) FROM t WHERE small IS NULL", &["22"]),
    ("SELECT id FROM t WHERE name = 'name 99' OR name = 'name 100' ORDER BY id", &["99", "100"]),
    ("SELECT id, price FROM t WHERE price = 125.00", &["100|125.00"]),
    ("SELECT id FROM t WHERE f > 37.1 ORDER BY id", &["149"]),
    ("SELECT id FROM t WHERE day = date '2026-04-11'", &["100"]),
    ("SELECT id FROM t ORDER BY id DESC LIMIT 3", &["149", "148", "147"]),
    ("SELECT id FROM t ORDER BY id LIMIT 3 OFFSET 98", &["98", "99", "100"]),
    ("SELECT count(*) FROM (SELECT id FROM t LIMIT 120)", &["120"]),
    ("SELECT flag, count(*) FROM t GROUP BY flag ORDER BY flag", &["false|75", "true|75"]),
    ("SELECT count(*) FROM t a JOIN t b ON a.id = b.id + 1", &["149"]),
    ("SELECT count(*) FROM t WHERE id IN (SELECT id FROM t WHERE flag)", &["75"]),
    ("WITH t AS (SELECT id FROM t WHERE id < 10) SELECT count(*) FROM t", &["10"]),
    ("SELECT count(*) FROM t WHERE ts = timestamp '2026-01-01 00:00:00.000001'", &["150"]),
    ("SELECT count(*) FROM t WHERE ts = CAST('2026-01-01 00:00:00.000001' AS TIMESTAMP)", &["150"]),
    ("SELECT count(*) FROM t WHERE tz < now()", &["150"]),
    ("SELECT id, row_number() OVER (ORDER BY id DESC) FROM t ORDER BY id LIMIT 1", &["0|150"]),
    ("SELECT tiny, small, id FROM t WHERE id = 121", &["21|121|121"]),
    ("SELECT count(*) FROM t WHERE __offset >= 95 AND __offset < 105", &["10"]),
    (
        "SELECT __offset, __bucket, __kind, id FROM t WHERE __offset = 99 OR __offset = 100 ORDER BY 1",
        &["99|0|+A|99", "100|0|+A|100"],
    ),
    ("SELECT count(*) FROM t WHERE __kind = '+A'", &["150"]),
    ("SELECT count(*) FROM t WHERE __timestamp <= now()", &["150"]),
    ("SELECT count(DISTINCT __timestamp) FROM t", &["3"]),
    ("SELECT count(*) FROM \"t$hot\"", &["50"]),
    ("SELECT count(*) FROM \"t$lake\"", &["100"]),
    ("SELECT min(__offset), max(__offset) FROM \"t$hot\"", &["100|149"]),
    ("SELECT min(__offset), max(__offset) FROM public.\"t$lake\"", &["0|99"]),
    ("SELECT count(*), min(__kind) FROM \"t$changes\"", &["150|+A"]),
    ("SELECT count(*) FROM \"t$snapshots\"", &["2"]),
    (
        "SELECT sum(id) FROM t WHERE id % 2 = 0 AND id > 50 UNION ALL SELECT count(*) FROM t ORDER BY 1",
        &["150", "4900"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn queries_answer_the_same_wherever_rows_lie() {
    let mut node = two_tiers().await;
    for pass in ["hot and lake", "restarted", "all in the lake"] {
        for (query, expected) in QUERIES {
            if pass == "all in the lake" && (query.contains('$') || query.contains("__timestamp)")) {
                continue;
            }
            assert_eq!(node.rows(query).await, *expected, "{pass}: {query}");
        }
        match pass {
            "hot and lake" => node = node.restarted().await,
            _ => node.tier("t").await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn star_leaves_system_columns_out() {
    let node = Node::new().await;
    node.run("CREATE TABLE a (id BIGINT, x VARCHAR)").await;
    node.run("CREATE TABLE b (id BIGINT, y VARCHAR)").await;
    node.run("INSERT INTO a VALUES (1, 'a1'), (2, 'a2')").await;
    node.run("INSERT INTO b VALUES (1, 'b1'), (3, 'b3')").await;
    node.tier("a").await;
    let cases = [
        ("SELECT * FROM a", "id,x"),
        ("SELECT * FROM a WHERE __offset = 0", "id,x"),
        ("SELECT *, __offset FROM a", "id,x,__offset"),
        ("SELECT a.*, __offset AS o FROM a", "id,x,o"),
        ("SELECT z.*, z.__bucket FROM a z", "id,x,__bucket"),
        ("SELECT * EXCLUDE (x), __offset FROM a", "id,__offset"),
        ("SELECT * EXCEPT (x), __offset FROM a", "id,__offset"),
        ("SELECT * FROM (SELECT *, __offset FROM a) s", "id,x,__offset"),
        ("SELECT * FROM (SELECT * FROM a WHERE __offset = 1) s", "id,x"),
        ("WITH s AS (SELECT __offset o, * FROM a) SELECT * FROM s", "o,id,x"),
        ("WITH a AS (SELECT __offset, * FROM a) SELECT * FROM a", "__offset,id,x"),
        ("SELECT * FROM a JOIN b USING (id) WHERE a.__offset >= 0", "id,x,y"),
        ("SELECT * FROM a JOIN b ON a.id = b.id WHERE a.__offset >= 0", "id,x,id,y"),
        ("SELECT * FROM a, b WHERE a.__offset >= 0", "id,x,id,y"),
        ("SELECT b.*, a.__offset FROM a CROSS JOIN b", "id,y,__offset"),
        ("SELECT * FROM a LEFT SEMI JOIN b ON a.id = b.id WHERE a.__offset = 0", "id,x"),
        ("SELECT * FROM \"a$changes\"", "__kind,__bucket,__offset,__timestamp,id,x"),
        ("SELECT * FROM \"a$changes\" WHERE __offset = 1", "__kind,__bucket,__offset,__timestamp,id,x"),
        ("SELECT * FROM \"a$lake\"", "id,x"),
        ("SELECT * FROM a WHERE EXISTS (SELECT * FROM b WHERE b.__offset = a.__offset)", "id,x"),
    ];
    for (query, expected) in cases {
        let answer = node.answer(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        let names: Vec<_> = answer.schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names.join(","), expected, "{query}");
        let _: Vec<_> = answer.batches.try_collect().await.unwrap_or_else(|error| panic!("{query}: {error}"));
    }
    assert!(node.refused("SELECT x FROM (SELECT * FROM a) s WHERE __offset = 1").await.message().contains("__offset"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_show_both_legs_and_what_reaches_them() {
    let node = two_tiers().await;
    let plan = node.rows("EXPLAIN SELECT name FROM t WHERE id > 120").await.join("\n");
    for part in ["LakeScanExec: snapshot=", "files=0 of 2", "HotScanExec: buckets=[0:[100, 150)]", "predicate=id"] {
        assert!(plan.contains(part), "{part} in\n{plan}");
    }
    assert!(!plan.contains("FilterExec"), "{plan}");
    let plan = node.rows("EXPLAIN SELECT name FROM t WHERE id < 20").await.join("\n");
    assert!(plan.contains("files=1 of 2"), "{plan}");
    let plan = node.rows("EXPLAIN SELECT count(*) FROM t").await.join("\n");
    assert!(plan.contains("PlaceholderRowExec") && !plan.contains("HotScanExec"), "{plan}");
    let plan = node.rows("EXPLAIN ANALYZE SELECT name FROM t WHERE id > 95").await.join("\n");
    assert!(plan.contains("LakeScanExec") && plan.contains("output_rows"), "{plan}");

    let answer = node.answer("SELECT name FROM t WHERE id >= 95").await.unwrap();
    let stats = answer.stats.clone();
    let rows: usize =
        answer.batches.map_ok(|batch| batch.num_rows()).try_fold(0, async |sum, rows| Ok(sum + rows)).await.unwrap();
    assert_eq!(rows, 55);
    assert_eq!((stats.lake_rows.load(Ordering::Relaxed), stats.hot_rows.load(Ordering::Relaxed)), (5, 50));
    assert_eq!(stats.lake_files_pruned.load(Ordering::Relaxed), 1);
}

/// What a plan says of how many rows its hot leaf has.
fn told_of_hot_rows(plan: &Arc<dyn ExecutionPlan>) -> Option<Precision<usize>> {
    match plan.name() {
        "HotScanExec" => Some(plan.partition_statistics(None).unwrap().num_rows),
        _ => plan.children().into_iter().find_map(told_of_hot_rows),
    }
}

/// A count that is told as exact may be taken for the answer.
#[tokio::test(flavor = "multi_thread")]
async fn quantities_before_a_filter_are_not_told_as_exact() {
    let node = two_tiers().await;
    for (text, is_exact) in [("SELECT id FROM t", true), ("SELECT id FROM t WHERE small > 3", false)] {
        let Statement::Query { mut query, .. } = front::parse(text, 64).unwrap().statement else { panic!("{text}") };
        let prepared = prepare(&mut query, &[], "public", false, 64).unwrap();
        let relations = node.sql.relations(&prepared, "public", false, Arc::default()).await.unwrap();
        let state = node.sql.session().query();
        let plan = plan(&Names::new(&state, "public", relations), query, None).unwrap();
        let plan = state.create_physical_plan(&plan).await.unwrap();
        let told = told_of_hot_rows(&plan).unwrap();
        assert_eq!(told, if is_exact { Precision::Exact(50) } else { Precision::Inexact(50) }, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_our_types() {
    let node = two_tiers().await;
    let answer = node.answer("SELECT *, count(*) OVER () FROM t LIMIT 1").await.unwrap();
    let expected = [
        "BIGINT",
        "SMALLINT",
        "TINYINT",
        "DECIMAL(10, 2)",
        "DOUBLE PRECISION",
        "DATE",
        "TIMESTAMP",
        "TIMESTAMPTZ",
        "VARCHAR",
        "BYTEA",
        "BOOLEAN",
        "BIGINT",
    ];
    assert_eq!(answer.column_types, expected);
    let rows = node.rows("SELECT * FROM t WHERE id = 3 OR id = 103 ORDER BY id").await;
    assert_eq!(
        rows,
        [
            "3|3|3|3.75|0.75|2026-01-04|2026-01-01T00:00:00.000001|2026-01-01T00:00:00Z|name 3|78|false",
            "103|103|3|128.75|25.75|2026-04-14|2026-01-01T00:00:00.000001|2026-01-01T00:00:00Z|name 103|78|false",
        ]
    );
}

/// Brought to double, a decimal column's `-6991028.06` is not the double that the literal `-6991028.06` is.
#[tokio::test(flavor = "multi_thread")]
async fn a_decimal_is_found_by_its_own_digits() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (price DECIMAL(12, 2), f DOUBLE)").await;
    let prices = ["-6991028.06", "-9828014.10", "0.10", "12.30", "9007199254.93"];
    for (done, price) in prices.iter().enumerate() {
        node.run(&format!("INSERT INTO t VALUES ({price}, {price})")).await;
        if done == 2 {
            node.tier("t").await;
        }
    }
    for price in prices {
        for predicate in [
            format!("price = {price}"),
            format!("{price} = price"),
            format!("price IN ({price}, 7.25)"),
            format!("price BETWEEN {price} AND {price}"),
            format!("price >= {price} AND NOT price > {price}"),
            format!("f = {price}"),
        ] {
            assert_eq!(node.rows(&format!("SELECT price FROM t WHERE {predicate}")).await, [price], "{predicate}");
        }
        assert!(node.rows(&format!("SELECT price FROM t WHERE price = {price}1")).await.is_empty());
    }
    let plan = node.rows("EXPLAIN SELECT price FROM t WHERE price > 100.5").await.join("\n");
    assert!(plan.contains("files=0 of 1"), "files are pruned by decimals too:\n{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nan_is_found_in_both_tiers() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id BIGINT, f DOUBLE)").await;
    for from in [0, 3] {
        node.run(&format!("INSERT INTO t VALUES ({from}, 1), ({}, 'NaN'), ({}, 2)", from + 1, from + 2)).await;
        if from == 0 {
            node.tier("t").await;
        }
    }
    assert_eq!(node.rows("SELECT id FROM t WHERE f > 100 ORDER BY id").await, ["1", "4"]);
    assert_eq!(node.rows("SELECT id FROM t ORDER BY f DESC, id LIMIT 2").await, ["1", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_sees_one_cut() {
    let node = Arc::new(Node::new().await);
    node.run("CREATE TABLE t (id BIGINT) WITH (buckets = 2)").await;
    node.run("CREATE TABLE u (id BIGINT)").await;
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (node, done) = (node.clone(), done.clone());
        async move {
            let mut id = 0;
            while !done.load(Ordering::Relaxed) {
                // First u, then t: at any cut t has at most what u has.
                node.run(&format!("INSERT INTO u VALUES ({id})")).await;
                node.run(&format!("INSERT INTO t VALUES ({id})")).await;
                id += 1;
                if id % 10 == 0 {
                    node.tier("t").await;
                }
            }
        }
    });
    for _ in 0..30 {
        let query = "SELECT (SELECT count(*) FROM t) AS a, (SELECT count(*) FROM (SELECT id FROM t WHERE id >= 0)) AS b, \
                     (SELECT count(*) FROM t a JOIN t b ON a.id = b.id) AS c, (SELECT count(*) FROM u) AS d";
        let rows = node.rows(query).await;
        let counts: Vec<u64> = rows[0].split('|').map(|count| count.parse().unwrap()).collect();
        assert!(counts[0] == counts[1] && counts[1] == counts[2], "{counts:?}");
        assert!(counts[0] == counts[3] || counts[0] + 1 == counts[3], "{counts:?}");
    }
    done.store(true, Ordering::Relaxed);
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_answer_ends_its_query() {
    let node = Node::new().await;
    let mut answer = node.answer("SELECT a.value FROM range(9000000) a, range(9000000) b").await.unwrap();
    let first = answer.batches.try_next().await.unwrap();
    assert!(first.is_some_and(|batch| batch.num_rows() > 0));
    drop(answer);
    assert_eq!(lines(&node.batches("SELECT 1").await.unwrap()), ["1"]);
}

/// A bucket keeps no checksums of ours: what is in it may be anything. Whatever of a scan fails or panics, the file is named.
#[tokio::test]
async fn a_damaged_data_file_is_named_whatever_is_asked() {
    let node = two_tiers().await;
    let store = node.warehouse.store();
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let path = listed.iter().map(|object| &object.location).find(|path| path.extension() == Some("parquet")).unwrap();
    let whole = store.get(path).await.unwrap().bytes().await.unwrap().to_vec();
    let queries = ["SELECT * FROM t", "SELECT id FROM t WHERE name LIKE '%9' AND small > 3 ORDER BY price"];
    let mut found = 0;
    for at in (4..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] = 0xff;
        store.put(path, bytes.into()).await.unwrap();
        for query in queries {
            let Err(error) = node.batches(query).await else { continue };
            assert_eq!(error.code(), Code::Corrupt, "{query} with 0xff at {at}: {error:?}");
            assert!(error.message().contains(path.filename().unwrap()), "{query} with 0xff at {at}: {error:?}");
            found += 1;
        }
    }
    assert!(found > 50, "{found} errors");
}

/// A filter runs inside the scan of the lake; what it cannot compute is no damage, and the statement's fault.
#[tokio::test]
async fn a_filter_that_fails_is_the_statements_fault_in_both_tiers() {
    let node = two_tiers().await;
    for query in ["SELECT id FROM t WHERE 10 / id = 1", "SELECT id FROM t WHERE 10 / (id - 149) = 1"] {
        let error = node.refused(query).await;
        assert_eq!((error.code(), error.message()), (Code::InvalidSql, "divide by zero error"), "{query}");
    }
}
