//! CREATE TABLE AS: a table that is there with all its rows or not at all, whatever comes between.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use thermocline_engine::disk::Disk;
use thermocline_schemas::{Code, Result};
use tokio::task::JoinHandle;

use super::{Node, options};

/// Many more rows than one request takes.
const LARGE: &str = "CREATE TABLE u WITH (buckets = 3) AS \
                     SELECT a.id * 1000 + b.id AS id, repeat('x', 100) || b.id AS text FROM t AS a CROSS JOIN t AS b";
const FIGURES: &str = "SELECT count(*), count(DISTINCT id), min(id), max(id), sum(length(text)) FROM u";
const WHOLE: &str = "1000000|1000000|0|999999|102890000";

/// With a key.
const LARGE_KEYED: &str = "CREATE TABLE u (PRIMARY KEY (id)) WITH (buckets = 3) AS \
                           SELECT a.id * 1000 + b.id AS id, repeat('x', 100) || b.id AS text FROM t AS a CROSS JOIN t AS b";

/// A table of the numbers to 1,000.
async fn with_numbers(node: &Node) {
    node.run("CREATE TABLE t (id BIGINT NOT NULL)").await;
    let numbers: Vec<_> = (0..1_000).map(|id| format!("({id})")).collect();
    node.run(&format!("INSERT INTO t VALUES {}", numbers.join(", "))).await;
}

/// The large one, on its way.
fn begin(node: &Node) -> JoinHandle<Result<()>> {
    begin_this(node, LARGE)
}

fn begin_this(node: &Node, statement: &'static str) -> JoinHandle<Result<()>> {
    let sql = node.sql.clone();
    tokio::spawn(async move { sql.execute(statement, Default::default()).await.map(drop) })
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_more_than_one_request_does() {
    let mut node = Node::new().await;
    with_numbers(&node).await;
    assert_eq!(node.rows(LARGE).await, ["1000000"]);
    assert_eq!(node.rows(FIGURES).await, [WHOLE]);
    // There was no moment at which it had some of its rows.
    let stamps =
        node.rows("SELECT CAST(min(__timestamp) AS VARCHAR), max(__timestamp) > min(__timestamp) FROM u").await;
    let (first, true) = (stamps[0].trim_end_matches("|true"), stamps[0].ends_with("|true")) else {
        panic!("{stamps:?}")
    };
    let error = node.refused(&format!("SELECT count(*) FROM u FOR TIMESTAMP AS OF '{first}'")).await;
    assert!(error.message().contains("was made later"), "{error}");
    node.tier("u").await;
    node.let_go("u").await;
    assert_eq!(node.rows(FIGURES).await, [WHOLE]);
    node = node.restarted().await;
    assert_eq!(node.rows(FIGURES).await, [WHOLE]);
    assert_eq!(node.rows("SELECT count(*) FROM u FOR TIMESTAMP AS OF now()").await, ["1000000"]);
    assert_eq!(node.rows("SHOW DROPPED TABLES").await, [""; 0]);
}

/// What a copy has, what it is told of what it has not, and that it is not bound by what the query knew.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_table_has_its_types() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id BIGINT NOT NULL, a TIMESTAMP(9), z TIMESTAMPTZ(9)) WITH (format_version = 3)").await;
    node.run("INSERT INTO t VALUES (1, '2026-01-01T00:00:00.123456789', '2026-01-01T00:00:00.123456789Z')").await;
    let notes = node.answer("CREATE TABLE u PARTITION BY (id) AS SELECT *, 'x' AS tag FROM t").await.unwrap().notes;
    assert_eq!(notes.iter().filter(|note| note.contains("are cut to microseconds")).count(), 2, "{notes:?}");
    assert_eq!(node.rows("SELECT a FROM u").await, ["2026-01-01T00:00:00.123456"]);
    assert!(node.rows("SHOW CREATE TABLE u").await.join("\n").contains("partition_by = 'id'"));
    node.run("INSERT INTO u (a) VALUES (NULL)").await;
    node.run("CREATE TABLE w WITH (format_version = 3) PARTITION BY (id) AS SELECT * FROM t").await;
    assert_eq!(node.rows("SELECT * FROM w EXCEPT SELECT * FROM t").await, [""; 0]);
    assert_eq!(node.rows("SELECT a FROM w").await, ["2026-01-01T00:00:00.123456789"]);
    let inside = "CREATE TABLE v WITH (format_version = 3) AS SELECT [a] AS l, {z: z} AS s, id FROM t";
    let notes = node.answer(inside).await.unwrap().notes;
    assert_eq!(notes.iter().filter(|note| note.contains("inside are cut")).count(), 2, "{notes:?}");
    for (text, part) in [
        ("CREATE TABLE x PARTITION BY (id) (id BIGINT)", "before the columns"),
        ("CREATE TABLE x WITH () (id BIGINT)", "before the columns"),
        ("CREATE TABLE x WITH (buckets = 2) WITH (buckets = 3) AS SELECT 1 AS id", "once each"),
        ("CREATE TABLE x (id BIGINT) PARTITION BY (id) PARTITION BY (id)", "once each"),
    ] {
        let error = node.refused(text).await;
        assert!(error.message().contains(part), "{text}: {error}");
    }
    let error = node.refused("CREATE TABLE IF NOT EXISTS \"T\" AS SELECT 1 AS id").await;
    assert_eq!(error.code(), Code::TableExists, "{error}");
}

/// Of a key the row that comes last stays, as with INSERT.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_made_may_have_a_key() {
    let mut node = Node::new().await;
    with_numbers(&node).await;
    let last = "CREATE TABLE u (PRIMARY KEY (k)) AS SELECT id % 10 AS k, id AS v FROM t ORDER BY id";
    assert_eq!(node.rows(last).await, ["1000"]);
    for sunk in [false, true] {
        if sunk {
            node.tier("u").await;
            node.let_go("u").await;
            node = node.restarted().await;
        }
        assert_eq!(node.rows("SELECT count(*), min(v), max(v), sum(v - k) FROM u").await, ["10|990|999|9900"]);
        assert_eq!(node.rows("SELECT v FROM u WHERE k = 7").await, ["997"]);
    }
    node.run("INSERT INTO u VALUES (7, 1)").await;
    node.run("DELETE FROM u WHERE k = 8").await;
    assert_eq!(node.rows("SELECT count(*), sum(v) FROM u").await, ["9|7951"]);
    let of_days = "CREATE TABLE w (PRIMARY KEY (id, at)) PARTITION BY (month(at)) WITH (buckets = 2) AS \
                   SELECT id, DATE '2026-01-01' + CAST(id % 90 AS INT) AS at, CAST('2026-01-01T00:00:00.123456789' AS TIMESTAMP(9)) AS n FROM t";
    assert_eq!(node.rows(of_days).await, ["1000"]);
    assert_eq!(
        node.rows("SELECT count(*), count(DISTINCT at), min(n) FROM w").await,
        ["1000|90|2026-01-01T00:00:00.123456789"]
    );
    let made = node.rows("SHOW CREATE TABLE w").await.join("\n");
    assert!(made.contains("PRIMARY KEY (id, at)") && made.contains("month(at)"), "{made}");

    for (text, code, part) in [
        ("CREATE TABLE x (PRIMARY KEY (k)) AS SELECT nullif(id, 5) AS k FROM t ORDER BY id", Code::InvalidRow, "k"),
        ("CREATE TABLE x (PRIMARY KEY (nope)) AS SELECT id FROM t", Code::UnknownColumn, "nope"),
        ("CREATE TABLE x (PRIMARY KEY (k)) AS SELECT CAST(id AS DOUBLE) AS k FROM t", Code::InvalidType, "k"),
        (
            "CREATE TABLE x (PRIMARY KEY (id)) PARTITION BY (b) AS SELECT id, 1 AS b FROM t",
            Code::InvalidProperty,
            "key",
        ),
        (
            "CREATE TABLE x (PRIMARY KEY (id), PRIMARY KEY (id)) AS SELECT id FROM t",
            Code::InvalidSql,
            "one PRIMARY KEY",
        ),
        ("CREATE TABLE x (id BIGINT) AS SELECT id FROM t", Code::NotBuilt, "with columns"),
        ("CREATE TABLE x (PRIMARY KEY (id), CHECK (id > 0)) AS SELECT id FROM t", Code::NotBuilt, "with columns"),
        ("CREATE TABLE x () AS SELECT id FROM t", Code::NotBuilt, "with columns"),
    ] {
        let error = node.refused(text).await;
        assert_eq!(error.code(), code, "{text}: {error:?}");
        assert!(error.to_string().contains(part), "{text}: {error:?}");
    }
    let error = node.refused("CREATE TABLE x (PRIMARY KEY (k)) AS SELECT nullif(id, 5) AS k FROM t ORDER BY id").await;
    assert_eq!((error.row(), error.column()), (Some(5), Some("k")), "{error:?}");
    assert!(node.engine.dropped_tables().is_empty());
}

/// Of rows of which one batch of a query is more than a request takes.
#[tokio::test(flavor = "multi_thread")]
async fn wide_rows_are_cut_as_they_must() {
    let node = Node::new().await;
    with_numbers(&node).await;
    let wide = "CREATE TABLE u AS SELECT a.id * 1000 + b.id AS id, repeat('x', 9000) AS x \
                FROM t AS a CROSS JOIN t AS b WHERE a.id < 9";
    assert_eq!(node.rows(wide).await, ["9000"]);
    let figures = "SELECT count(*), count(DISTINCT id), sum(length(x)) FROM u";
    assert_eq!(node.rows(figures).await, ["9000|9000|81000000"]);
    let error = node.refused("CREATE TABLE v AS SELECT repeat('x', 40000000) AS x, repeat('y', 40000000) AS y").await;
    assert_eq!(error.code(), Code::RequestTooLarge, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_there_before_it_has_its_rows() {
    let node = Node::new().await;
    with_numbers(&node).await;
    let making = begin(&node);
    let (mut looks, mut unfinished) = (0, 0);
    while !making.is_finished() {
        looks += 1;
        unfinished += usize::from(!node.engine.dropped_tables().is_empty());
        match node.batches(FIGURES).await {
            Ok(batches) => assert_eq!(super::lines(&batches), [WHOLE]),
            Err(error) => {
                assert_eq!(error.code(), Code::TableNotFound, "{error}");
                assert!(!error.hint().unwrap().contains("UNDROP"), "{error:?}");
            }
        }
        // It may be made by now.
        let code = node.refused("UNDROP TABLE u").await.code();
        assert!(
            code == Code::TableNotFound || code == Code::TableExists && node.batches(FIGURES).await.is_ok(),
            "{code:?}"
        );
        assert_eq!(node.rows("SHOW DROPPED TABLES").await, [""; 0]);
        assert_eq!(node.tiering.purge_dropped().await.unwrap(), 0);
        node.engine.checkpoint().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    making.await.unwrap().unwrap();
    assert!(looks > 10 && unfinished > 3, "{looks} looks, {unfinished} while it was being made");
    assert_eq!(node.rows(FIGURES).await, [WHOLE]);
}

/// Waits until a table is being made and has some rows.
async fn until_under_way(node: &Node) {
    let some = async || loop {
        let tables = node.engine.dropped_tables();
        if tables.iter().any(|(table, _)| table.ends().ends.iter().any(|(_, end)| end.0 > 0)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    tokio::time::timeout(Duration::from_secs(60), some()).await.expect("it begins");
}

/// Waits until what was begun of a table is gone, rows and all.
async fn until_gone(node: &Node) {
    let gone = async || {
        while !node.engine.dropped_tables().is_empty() {
            node.tiering.purge_dropped().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone()).await.expect("it goes");
    node.engine.checkpoint().await.unwrap();
    assert_eq!(node.disk.list(std::path::Path::new("/data/segments")).unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_given_up_leaves_nothing() {
    let node = Node::new().await;
    with_numbers(&node).await;
    let making = begin(&node);
    until_under_way(&node).await;
    for (table, _) in node.engine.dropped_tables() {
        node.engine.seal(&table).await.unwrap();
    }
    making.abort();
    assert!(making.await.unwrap_err().is_cancelled());
    until_gone(&node).await;
    assert_eq!(node.rows("SHOW TABLES").await.len(), 1);
    assert_eq!(node.rows("CREATE TABLE u AS SELECT 7 AS id").await, ["1"]);
    assert_eq!(node.rows("SELECT * FROM u").await, ["7"]);
}

/// The last row does not fit: what was written before goes.
#[tokio::test(flavor = "multi_thread")]
async fn one_whose_query_fails_late_leaves_nothing() {
    let node = Node::new().await;
    with_numbers(&node).await;
    let late = "CREATE TABLE u AS SELECT repeat('x', 100) AS text, 1 / (999999 - n) AS x FROM \
                (SELECT row_number() OVER () - 1 AS n FROM t AS a CROSS JOIN t AS b)";
    let error = node.refused(late).await;
    assert!(error.message().to_lowercase().contains("divide by zero"), "{error}");
    until_gone(&node).await;
    assert_eq!(node.refused("SELECT * FROM u").await.code(), Code::TableNotFound);
}

/// Whoever takes the name meanwhile has it.
#[tokio::test(flavor = "multi_thread")]
async fn its_name_may_be_taken_meanwhile() {
    let node = Node::new().await;
    with_numbers(&node).await;
    let making = begin(&node);
    until_under_way(&node).await;
    node.run("CREATE TABLE u (mine INT)").await;
    assert_eq!(making.await.unwrap().unwrap_err().code(), Code::TableExists);
    until_gone(&node).await;
    node.run("INSERT INTO u VALUES (1)").await;
    assert_eq!(node.rows("SELECT mine FROM u").await, ["1"]);
}

/// The power goes again and again while a table is being made: it is there with all its rows, or there is nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_leaves_all_or_nothing() {
    for statement in [LARGE, LARGE_KEYED] {
        cut_while_it_is_made(statement).await;
    }
}

async fn cut_while_it_is_made(statement: &'static str) {
    let node = Node::new().await;
    with_numbers(&node).await;
    let mut random = StdRng::seed_from_u64(11);
    let mut making = begin_this(&node, statement);
    until_under_way(&node).await;
    let mut images = Vec::new();
    for step in 0.. {
        let is_made = tokio::time::timeout(Duration::from_millis(40), &mut making).await.is_ok();
        // With one more or less of what the checkpoint knows, and what only the journal does.
        if step % 3 == 1 {
            node.engine.checkpoint().await.unwrap();
        }
        if images.len() < 8 || is_made {
            images.push(node.disk.power_cut(&mut random));
        }
        if is_made {
            break;
        }
    }
    let last = images.len() - 1;
    let mut nothing = 0;
    for (place, image) in images.into_iter().enumerate() {
        let cut = Node::open(image, node.warehouse.clone(), options()).await;
        match cut.batches(FIGURES).await {
            Ok(batches) => assert_eq!(super::lines(&batches), [WHOLE]),
            Err(error) => {
                assert!(place != last, "it was acked: {error}");
                assert_eq!(error.code(), Code::TableNotFound, "{error}");
                assert_eq!(cut.refused("UNDROP TABLE u").await.code(), Code::TableNotFound);
                until_gone(&cut).await;
                assert_eq!(cut.rows("CREATE TABLE u AS SELECT id FROM t").await, ["1000"]);
                nothing += 1;
            }
        }
        assert_eq!(cut.rows("SELECT count(*) FROM t").await, ["1000"]);
    }
    assert!(nothing > 2, "{nothing} cuts while it was being made");
}
