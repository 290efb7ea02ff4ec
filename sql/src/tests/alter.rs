//! Tables that change: old rows in new columns, in each tier and across both, and what is refused.

use arrow::array::RecordBatch;
use thermocline_schemas::Code;

use super::Node;

/// One state of a table after the other: rows stay hot, are in the lake, are in both, are in files of several versions.
async fn altered(kind: &str, key: &str, sunk: [bool; 3]) -> Node {
    let node = Node::new().await;
    node.run(&format!("CREATE TABLE t (id INT NOT NULL, n SMALLINT, text VARCHAR, r REAL{key})")).await;
    node.run("INSERT INTO t VALUES (1, 7, 'a', 0.5), (2, NULL, 'b', NULL)").await;
    if sunk[0] {
        node.tier("t").await;
    }
    node.run(
        "ALTER TABLE t RENAME COLUMN text TO word, ADD COLUMN text INT DEFAULT 5, ALTER COLUMN n TYPE BIGINT, \
         ALTER COLUMN r SET DATA TYPE DOUBLE PRECISION, ALTER word FIRST",
    )
    .await;
    assert_eq!(
        node.rows("SELECT * FROM t ORDER BY id").await,
        ["a|1|7|0.5|", "b|2|||"],
        "{kind}: at once, before anything else is written"
    );
    if sunk[1] {
        node.tier("t").await;
    }
    node.run("INSERT INTO t (id, n, word) VALUES (3, 5000000000, 'c')").await;
    node.run("INSERT INTO t (id, text, r) VALUES (4, 6, 1e300)").await;
    if sunk[2] {
        node.tier("t").await;
        node.let_go("t").await;
    }
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_are_read_in_new_columns_from_every_tier() {
    for (kind, key) in [("log", ""), ("keyed", ", PRIMARY KEY (id)")] {
        for sunk in (0..8).map(|bits| [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0]) {
            let node = altered(kind, key, sunk).await;
            let check = async |node: &Node| {
                let rows = node.rows("SELECT * FROM t ORDER BY id").await;
                assert_eq!(rows, ["a|1|7|0.5|", "b|2|||", "c|3|5000000000||5", "|4||1e300|6"], "{kind} {sunk:?}");
                for (condition, ids) in [
                    ("n > 6", "1 3"),
                    ("n = 5000000000", "3"),
                    ("n IS NULL", "2 4"),
                    ("text IS NULL", "1 2"),
                    ("text >= 5", "3 4"),
                    ("word = 'a'", "1"),
                    ("r > 1", "4"),
                    ("r < 1", "1"),
                    ("id IN (1, 3)", "1 3"),
                ] {
                    let found = node.rows(&format!("SELECT id FROM t WHERE {condition} ORDER BY id")).await.join(" ");
                    assert_eq!(found, ids, "{kind} {sunk:?} {condition}");
                }
                assert_eq!(node.rows("SELECT count(text), count(n), max(n) FROM t").await, ["2|2|5000000000"]);
            };
            check(&node).await;
            node.run("ALTER TABLE t DROP COLUMN text, ADD COLUMN text VARCHAR").await;
            assert_eq!(node.rows("SELECT count(*), count(text) FROM t").await, ["4|0"], "{kind} {sunk:?}");
            node.run("ALTER TABLE t DROP COLUMN text, ADD COLUMN IF NOT EXISTS n INT").await;
            let node = node.restarted().await;
            let rows = node.rows("SELECT * FROM t ORDER BY id").await;
            assert_eq!(rows, ["a|1|7|0.5", "b|2||", "c|3|5000000000|", "|4||1e300"], "{kind} {sunk:?}");
            if kind == "keyed" {
                node.run("UPDATE t SET n = n + 1 WHERE n IS NOT NULL").await;
                node.run("DELETE FROM t WHERE id = 2").await;
                let rows = node.rows("SELECT * FROM t ORDER BY id").await;
                assert_eq!(rows, ["a|1|8|0.5", "c|3|5000000001|", "|4||1e300"], "{sunk:?}");
                node.tier("t").await;
                assert_eq!(node.rows("SELECT * FROM t ORDER BY id").await, rows, "{sunk:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_table_became_is_told() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT NOT NULL, n INT NOT NULL DEFAULT -1, d DATE DEFAULT DATE '2026-01-02')").await;
    node.run("INSERT INTO t (id) VALUES (1)").await;
    assert_eq!(node.rows("SELECT * FROM t").await, ["1|-1|2026-01-02"]);
    node.run("ALTER TABLE IF EXISTS t ALTER COLUMN n DROP NOT NULL, ALTER n DROP DEFAULT, SET (lake_freshness = '5s')")
        .await;
    node.run("ALTER TABLE IF EXISTS u ADD COLUMN x INT").await;
    node.run("INSERT INTO t (id) VALUES (2)").await;
    assert_eq!(node.rows("SELECT n FROM t ORDER BY id").await, ["-1", ""]);
    let ddl = node.rows("SHOW CREATE TABLE t").await.join("\n");
    for part in ["n INTEGER", "d DATE DEFAULT '2026-01-02'", "lake_freshness = '5s'"] {
        assert!(ddl.contains(part), "{part}: {ddl}");
    }
    assert!(!ddl.contains("n INTEGER NOT NULL"), "{ddl}");
    let node = node.restarted().await;
    assert_eq!(node.rows("SHOW CREATE TABLE t").await.join("\n"), ddl);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_change_is_refused_and_changes_nothing() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT NOT NULL, n INT, text VARCHAR, PRIMARY KEY (id)) WITH (buckets = 2)").await;
    node.run("INSERT INTO t VALUES (1, 2, 'x')").await;
    let before = node.rows("SHOW CREATE TABLE t").await;
    for (action, code) in [
        ("ADD COLUMN x INT NOT NULL", Code::InvalidType),
        ("ADD COLUMN N INT", Code::InvalidName),
        ("ADD COLUMN \"N\" INT", Code::InvalidName),
        ("ADD COLUMN __offset INT", Code::InvalidName),
        ("ADD COLUMN id_bucket INT", Code::InvalidName),
        ("ADD COLUMN x MONEY", Code::InvalidType),
        ("ADD COLUMN x INT DEFAULT 'one'", Code::InvalidType),
        ("ADD COLUMN x INT DEFAULT now()", Code::NotBuilt),
        ("ADD COLUMN x DATE DEFAULT DATE DATE '2026-01-01'", Code::InvalidSql),
        ("ADD COLUMN x INT PRIMARY KEY", Code::InvalidSql),
        ("ADD COLUMN x INT AFTER nothing", Code::UnknownColumn),
        ("ADD PRIMARY KEY (n)", Code::InvalidSql),
        ("DROP COLUMN id", Code::InvalidType),
        ("DROP COLUMN nothing", Code::UnknownColumn),
        ("DROP COLUMN n, DROP COLUMN n", Code::UnknownColumn),
        ("RENAME COLUMN n TO text", Code::InvalidName),
        ("RENAME TO u", Code::NotBuilt),
        ("ALTER COLUMN n TYPE SMALLINT", Code::InvalidType),
        ("ALTER COLUMN n TYPE VARCHAR", Code::InvalidType),
        ("ALTER COLUMN id TYPE BIGINT", Code::InvalidType),
        ("ALTER COLUMN id DROP NOT NULL", Code::InvalidType),
        ("ALTER COLUMN n SET NOT NULL", Code::InvalidSql),
        ("ALTER COLUMN n", Code::InvalidSql),
        ("SET (buckets = 4)", Code::InvalidProperty),
        ("SET (nothing = 4)", Code::InvalidProperty),
        ("SET ()", Code::InvalidSql),
        ("ADD COLUMN x INT; DROP TABLE t", Code::MultipleStatements),
        ("ADD COLUMN x INT,", Code::InvalidSql),
        ("SWAP WITH u", Code::InvalidSql),
        // The first part would do: all or none.
        ("ADD COLUMN x INT, DROP COLUMN nothing", Code::UnknownColumn),
    ] {
        let error = node.refused(&format!("ALTER TABLE t {action}")).await;
        assert_eq!(error.code(), code, "{action}: {error}");
    }
    let long = format!("ALTER TABLE t ADD COLUMN x VARCHAR DEFAULT '{}'", "x".repeat(5_000));
    assert_eq!(node.refused(&long).await.code(), Code::InvalidType);
    let deep = format!("ALTER TABLE t ADD COLUMN x DATE DEFAULT {} '2026-01-01'", "DATE ".repeat(100_000));
    assert_eq!(node.refused(&deep).await.code(), Code::InvalidSql);
    let many: Vec<_> = (0..2_000).map(|number| format!("ADD COLUMN c{number} INT")).collect();
    assert_eq!(node.refused(&format!("ALTER TABLE t {}", many.join(", "))).await.code(), Code::InvalidType);
    assert_eq!(node.refused("ALTER TABLE u ADD COLUMN x INT").await.code(), Code::TableNotFound);
    assert_eq!(node.refused("ALTER TABLE \"t$hot\" ADD COLUMN x INT").await.code(), Code::InvalidName);
    assert_eq!(node.rows("SHOW CREATE TABLE t").await, before);
    assert_eq!(node.rows("SELECT * FROM t").await, ["1|2|x"]);
}

/// From position deletes to vectors, and to types that the older format has not.
#[tokio::test(flavor = "multi_thread")]
async fn the_format_of_a_lake_is_raised() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT NOT NULL, n INT, PRIMARY KEY (id)) WITH (format_version = 2)").await;
    node.run("INSERT INTO t SELECT value, 0 FROM generate_series(1, 50) AS s (value)").await;
    node.tier("t").await;
    node.run("DELETE FROM t WHERE id <= 10").await;
    node.tier("t").await;
    assert_eq!(node.refused("ALTER TABLE t ADD COLUMN at TIMESTAMP(9)").await.code(), Code::InvalidType);
    node.run("ALTER TABLE t SET (format_version = 3), ADD COLUMN at TIMESTAMP(9)").await;
    let (count, at) = ("SELECT count(*), count(at), sum(n) FROM t", "TIMESTAMP(9) '2026-11-23 13:00:01.000000001'");
    assert_eq!(node.rows(count).await, ["40|0|0"]);
    node.tier("t").await;
    assert_eq!(node.rows(count).await, ["40|0|0"]);
    node.run(&format!("UPDATE t SET n = 1, at = {at} WHERE id <= 20")).await;
    node.tier("t").await;
    node.let_go("t").await;
    assert_eq!(node.rows(count).await, ["40|10|10"]);
    let node = node.restarted().await;
    assert_eq!(node.rows(&format!("SELECT count(*) FROM \"t$lake\" WHERE at = {at}")).await, ["10"]);
    assert_eq!(node.refused("ALTER TABLE t SET (format_version = 2)").await.code(), Code::InvalidProperty);
}

/// Each row has a value in a column that came just before it: whoever sees the row sees the column.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_has_the_columns_of_its_rows() {
    let node = std::sync::Arc::new(Node::new().await);
    node.run("CREATE TABLE t (id INT NOT NULL)").await;
    let writer = tokio::spawn({
        let node = node.clone();
        async move {
            for id in 0..40 {
                node.run(&format!("ALTER TABLE t ADD COLUMN c{id} INT")).await;
                node.run(&format!("INSERT INTO t (id, c{id}) VALUES ({id}, 1)")).await;
            }
        }
    });
    while !writer.is_finished() {
        let batches = node.batches("SELECT * FROM t ORDER BY id").await.unwrap();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if let Some(last) = rows.checked_sub(1) {
            let columns = batches[0].schema();
            assert!(
                columns.index_of(&format!("c{last}")).is_ok(),
                "{rows} rows and {} columns",
                columns.fields().len()
            );
        }
    }
    writer.await.unwrap();
}

/// Statements that name columns while others come and go see each row whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn statements_and_alterations_race() {
    let node = std::sync::Arc::new(Node::new().await);
    node.run("CREATE TABLE t (id INT NOT NULL, n INT, PRIMARY KEY (id))").await;
    let values: Vec<_> = (0..20).map(|id| format!("({id}, 0)")).collect();
    node.run(&format!("INSERT INTO t VALUES {}", values.join(", "))).await;
    let writer = tokio::spawn({
        let node = node.clone();
        async move {
            for round in 1..=30 {
                // Both at once may be more than one statement's patience: then it says so and did nothing.
                while let Err(error) = node.batches("UPDATE t SET n = n + 1").await {
                    assert_eq!(error.code(), Code::WriteConflict, "{error}");
                }
                if round % 10 == 0 {
                    node.tier("t").await;
                }
            }
        }
    });
    let mut version = 0;
    while !writer.is_finished() {
        version += 1;
        node.run(&format!("ALTER TABLE t ADD COLUMN c{version} INT DEFAULT {version}")).await;
        assert_eq!(node.rows("SELECT count(*), count(DISTINCT n) FROM t").await, ["20|1"]);
        node.run(&format!("ALTER TABLE t DROP COLUMN c{version}")).await;
    }
    writer.await.unwrap();
    assert_eq!(node.rows("SELECT DISTINCT n FROM t").await, ["30"]);
}
