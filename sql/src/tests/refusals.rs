//! What is refused, and with which code.

use thermocline_schemas::Code;

use super::Node;

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_code() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    use Code::*;
    let cases = [
        ("", InvalidSql),
        (" ; ; ", InvalidSql),
        ("SELEC 1", InvalidSql),
        ("SELECT 1 SELECT 2", InvalidSql),
        ("SELECT 1; SELECT 2", MultipleStatements),
        ("SELECT 1; DROP TABLE t", MultipleStatements),
        // Files, addresses, settings.
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", Forbidden),
        ("CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION 'http://169.254.169.254/'", Forbidden),
        ("COPY (SELECT 1) TO '/tmp/x'", Forbidden),
        ("COPY t TO 's3://x/y'", Forbidden),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/x'", Forbidden),
        ("SELECT * FROM '/etc/passwd'", TableNotFound),
        ("SELECT * FROM \"/etc/passwd\"", TableNotFound),
        ("SELECT * FROM \"../x.parquet\"", TableNotFound),
        ("SELECT * FROM \"warehouse://lake/\"", TableNotFound),
        ("SELECT * FROM read_parquet('/etc/passwd')", InvalidSql),
        ("SET datafusion.runtime.memory_limit = '1T'", Forbidden),
        ("RESET datafusion.runtime.memory_limit", Forbidden),
        ("SHOW ALL", Forbidden),
        ("SHOW datafusion.execution.batch_size", Forbidden),
        ("CREATE FUNCTION f() RETURNS INT RETURN 1", Forbidden),
        ("LOAD 'x'", Forbidden),
        ("PREPARE p AS COPY (SELECT 1) TO '/tmp/x'", InvalidSql),
        ("EXECUTE p", InvalidSql),
        ("BEGIN", InvalidSql),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT 1, 'x'", InvalidSql),
        ("SELECT * FROM (INSERT INTO t VALUES (1, 'x')) x", InvalidSql),
        ("SELECT @@version", InvalidSql),
        // What comes later.
        ("UPDATE t SET id = 1", WrongTableKind),
        ("DELETE FROM t", WrongTableKind),
        ("TRUNCATE", InvalidSql),
        ("TRUNCATE t, u", InvalidSql),
        ("TRUNCATE t AS x", InvalidSql),
        ("TRUNCATE t CASCADE", InvalidSql),
        ("TRUNCATE \"t$hot\"", InvalidName),
        ("TRUNCATE nothing", TableNotFound),
        ("UNDROP TABLE t", TableExists),
        ("UNDROP TABLE nothing", TableNotFound),
        ("UNDROP TABLE nothing ID 7", TableNotFound),
        ("UNDROP TABLE nowhere.t", DatabaseNotFound),
        ("UNDROP TABLE nothing ID x", InvalidSql),
        ("UNDROP nothing", InvalidSql),
        ("SHOW DROPPED", InvalidSql),
        ("SHOW DROPPED TABLES LIKE 'x'", InvalidSql),
        ("DROP TABLE t PURGE CASCADE", NotBuilt),
        ("MERGE INTO t USING t AS s ON t.id = s.id WHEN MATCHED THEN DELETE", NotBuilt),
        ("CREATE TABLE x AS SELECT 1", InvalidName),
        ("CREATE TABLE x AS SELECT NULL AS a", InvalidType),
        ("CREATE TABLE x AS SELECT 1 AS a, 2 AS \"A\"", InvalidName),
        ("CREATE TABLE x AS SELECT nothing FROM t", InvalidSql),
        ("CREATE TABLE t AS SELECT 1 AS a", TableExists),
        ("CREATE TABLE x AS DELETE FROM t", InvalidSql),
        ("CREATE TABLE x WITH (bukets = 2) AS SELECT 1 AS a", InvalidProperty),
        ("CREATE TABLE x WITH (buckets = 2) (id INT)", InvalidSql),
        ("CREATE TABLE x (id INT) AS SELECT 1", NotBuilt),
        ("CREATE TABLE x (id REAL PRIMARY KEY)", InvalidType),
        ("CREATE OR REPLACE TABLE x (id INT)", NotBuilt),
        ("CREATE TEMP TABLE x (id INT)", NotBuilt),
        ("CREATE VIEW v AS SELECT 1", NotBuilt),
        ("CREATE TABLE x (id UBIGINT)", InvalidType),
        ("INSERT INTO t VALUES (1, 'x') ON CONFLICT DO NOTHING", NotBuilt),
        ("INSERT INTO t VALUES (1, 'x') RETURNING id", NotBuilt),
        ("SELECT * FROM t FOR UPDATE", NotBuilt),
        ("SELECT * FROM t TABLESAMPLE (10)", NotBuilt),
        // Tables that cannot be.
        ("CREATE TABLE x ()", InvalidType),
        ("CREATE TABLE x (id MONEY)", InvalidType),
        ("CREATE TABLE x (id DECIMAL)", InvalidType),
        ("CREATE TABLE x (id DECIMAL(39, 1))", InvalidType),
        ("CREATE TABLE x (id VARCHAR(10))", InvalidType),
        ("CREATE TABLE x (id TIMESTAMP(9))", InvalidType),
        ("CREATE TABLE x (id INT, ID INT)", InvalidName),
        ("CREATE TABLE x (__id INT)", InvalidName),
        ("CREATE TABLE \"a/b\" (id INT)", InvalidName),
        ("CREATE TABLE \"t$hot\" (id INT)", InvalidName),
        ("CREATE TABLE x (id INT) WITH (bukets = 2)", InvalidProperty),
        ("CREATE TABLE x (id INT) WITH (buckets = 0)", InvalidProperty),
        ("CREATE TABLE x (id INT NULL NOT NULL)", InvalidSql),
        ("CREATE TABLE t (id INT)", TableExists),
        ("CREATE TABLE nowhere.x (id INT)", DatabaseNotFound),
        ("CREATE DATABASE public", DatabaseExists),
        ("DROP TABLE x", TableNotFound),
        ("DROP DATABASE nowhere", DatabaseNotFound),
        ("DROP DATABASE public", DatabaseNotEmpty),
        // Rows that do not fit.
        ("INSERT INTO t VALUES (NULL, 'x')", InvalidRow),
        ("INSERT INTO t (name) VALUES ('x')", InvalidRow),
        ("INSERT INTO t (id, nome) VALUES (1, 'x')", UnknownColumn),
        ("INSERT INTO t (id, id) VALUES (1, 1)", InvalidSql),
        ("INSERT INTO t VALUES (1)", InvalidSql),
        ("INSERT INTO t VALUES ('one', 'x')", InvalidRow),
        ("INSERT INTO t VALUES (1.5, 'x')", InvalidRow),
        ("INSERT INTO t VALUES (99999999999999999999, 'x')", InvalidRow),
        ("INSERT INTO \"t$hot\" VALUES (1, 'x')", InvalidName),
        // Queries.
        ("SELECT nothing FROM t", InvalidSql),
        ("SELECT * FROM nothing", TableNotFound),
        ("SELECT * FROM \"T\"", TableNotFound),
        ("SELECT * FROM \"t$cold\"", TableNotFound),
        ("SELECT * FROM information_schema.views", TableNotFound),
        ("SELECT ?", InvalidSql),
        ("SELECT $1", InvalidRequest),
        ("SELECT 1 / 0", InvalidSql),
        ("SELECT CAST('x' AS INT)", InvalidSql),
        ("SELECT repeat('x', 10000000000)", ResourcesExhausted),
        ("SELECT lpad('x', 1000000000)", ResourcesExhausted),
        ("SELECT * FROM generate_series(1, 10000000000)", InvalidSql),
        ("SELECT * FROM range(10000000000)", InvalidSql),
        ("SELECT range(10000000000)", InvalidSql),
        ("SELECT array_repeat(1, 10000000000)", InvalidSql),
        ("SELECT * FROM t NATURAL JOIN t AS u WHERE t.__offset = 1", NotBuilt),
    ];
    for (text, code) in cases {
        let error = node.refused(text).await;
        assert_eq!(error.code(), code, "{text}: {error}");
        assert!(!error.message().is_empty() && !error.message().ends_with('.'), "{text}: {error}");
    }
    let quoted = node.refused("SELECT id FROM t WHERE name = \"a\"").await;
    assert!(quoted.hint().is_some_and(|hint| hint.contains("single")), "{quoted}");
    assert_eq!(node.rows("SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_is_named() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (small SMALLINT NOT NULL, day DATE, price DECIMAL(4, 2), r REAL)").await;
    let cases = [
        ("(1, NULL, 1, 1), (40000, NULL, 1, 1)", 1, "small", "40000"),
        ("(1, '2026-02-30', 1, 1)", 0, "day", "2026-02-30"),
        ("(1, NULL, 123.45, 1)", 0, "price", "123.45"),
        ("(1, NULL, 1.234, 1)", 0, "price", "1.234"),
        ("(1, NULL, '1.234', 1)", 0, "price", "1.234"),
        ("(1.5, NULL, 1, 1)", 0, "small", "1.5"),
        ("(1, NULL, 1, 1), (2, NULL, 1, 1), (CAST(3.5 AS DOUBLE), NULL, 1, 1)", 2, "small", "3.5"),
        ("(1, NULL, 1, 1e300)", 0, "r", ""),
        ("(1, NULL, 'much', 1)", 0, "price", "much"),
    ];
    for (values, row, column, value) in cases {
        let error = node.refused(&format!("INSERT INTO t VALUES {values}")).await;
        assert_eq!(error.code(), Code::InvalidRow, "{values}: {error}");
        assert_eq!((error.row(), error.column()), (Some(row), Some(column)), "{values}: {error}");
        assert!(error.value().unwrap_or_default().contains(value), "{values}: {:?}", error.value());
    }
    assert_eq!(node.rows("SELECT count(*) FROM t").await, ["0"]);
}
