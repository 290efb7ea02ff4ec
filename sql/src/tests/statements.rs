//! DDL, SHOW, DESCRIBE, INSERT and parameters.

use futures::TryStreamExt;
use serde_json::json;

use super::{Node, lines};
use crate::SqlRequest;

#[tokio::test(flavor = "multi_thread")]
async fn databases_and_tables_come_and_go() {
    let node = Node::new().await;
    assert_eq!(node.rows("CREATE DATABASE Sales").await, ["0"]);
    node.run("CREATE SCHEMA IF NOT EXISTS sales").await;
    assert_eq!(node.rows("SHOW DATABASES;").await, ["public", "sales"]);
    node.run("CREATE TABLE sales.Orders (Id BIGINT NOT NULL, \"When\" TIMESTAMP) WITH (buckets = 2, bucket_key = id)")
        .await;
    node.run("CREATE TABLE IF NOT EXISTS sales.orders (x INT)").await;
    assert_eq!(node.rows("SHOW TABLES IN sales").await, ["sales|orders|log"]);
    assert!(node.rows("SHOW TABLES").await.is_empty());
    let ddl = node.rows("SHOW CREATE TABLE sales.orders").await.join("\n");
    assert!(ddl.contains("CREATE TABLE sales.orders") && ddl.contains("\"When\" TIMESTAMP"), "{ddl}");
    let described = node.rows("DESCRIBE sales.orders").await;
    assert_eq!(described[0], "column|id|BIGINT|false||||");
    assert_eq!(described[1], "column|When|TIMESTAMP|true||||");
    assert!(
        described.contains(&"property|buckets|||2|1|false|how many buckets, 1 to 4096".to_owned()),
        "{described:?}"
    );
    assert_eq!(node.rows("DESCRIBE sales.\"orders$changes\"").await[0], "column|__kind|VARCHAR|false||||");
    let listed = node.rows("SELECT table_schema, table_name FROM information_schema.tables").await;
    assert_eq!(listed, ["sales|orders"]);
    let columns = "SELECT column_name, data_type FROM information_schema.columns ORDER BY ordinal_position";
    assert_eq!(node.rows(columns).await, ["id|BIGINT", "When|TIMESTAMP"]);
    node.run("DROP TABLE sales.orders").await;
    node.run("DROP TABLE IF EXISTS sales.orders").await;
    node.run("DROP DATABASE sales").await;
    assert_eq!(node.rows("SHOW DATABASES").await, ["public"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn insert_converts_as_sql_does() {
    let node = Node::new().await;
    node.run(
        "CREATE TABLE t (i1 TINYINT, i2 SMALLINT, i4 INT, i8 INT8, f4 REAL, f8 DOUBLE, d NUMERIC(10, 2), day DATE, \
         ts TIMESTAMP, tz TIMESTAMPTZ, s TEXT, b BYTEA, o BOOL)",
    )
    .await;
    let inserted = node
        .rows(
            "INSERT INTO t VALUES (1, 2, 3, 4, 0.1, 0.1, 12.3, '2026-11-23', '2026-11-23 13:00:01.000001', \
             '2026-11-23T13:00:01Z', 'x', X'00ff', true), \
             ('1', 2.0, '3', 4, 5, 6, '7.5', date '2026-11-23', timestamp '2026-11-23 13:00:01', now(), 8, NULL, 'false')",
        )
        .await;
    assert_eq!(inserted, ["2"]);
    node.run("INSERT INTO t (s, i8) SELECT s || '!', i8 + 1 FROM t").await;
    let rows = node.rows("SELECT i1, i2, i4, i8, f4, f8, d, day, ts, s, b, o FROM t ORDER BY i8, s").await;
    assert_eq!(
        rows,
        [
            "1|2|3|4|5.0|6.0|7.50|2026-11-23|2026-11-23T13:00:01|8||false",
            "1|2|3|4|0.1|0.1|12.30|2026-11-23|2026-11-23T13:00:01.000001|x|00ff|true",
            "|||5|||||||8!||",
            "|||5|||||||x!||",
        ]
        .map(|row| row.to_owned())
        .map(|row| if row.starts_with("|||5") {
            row.replace("|||||||8", "||||||8").replace("|||||||x", "||||||x")
        } else {
            row
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_made_of_a_query() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id BIGINT NOT NULL, d DECIMAL(9, 2), name VARCHAR, at TIMESTAMPTZ, u UUID)").await;
    let first = "0189dd5c-a2a5-7d1e-9a4c-0242ac120002";
    node.run(&format!(
        "INSERT INTO t VALUES (1, 1.5, 'x', '2026-11-23T13:00:01Z', '{first}'), (2, 3, NULL, NULL, NULL)"
    ))
    .await;
    let made = "CREATE TABLE u WITH (buckets = 2, lake_freshness = '5s') AS \
                SELECT t.*, row_number() OVER (ORDER BY id) AS n, count(*) OVER () > 1 AS many FROM t WHERE id < $1";
    let params = vec![json!(9)];
    let answer = node.sql.execute(made, SqlRequest { params, ..SqlRequest::default() }).await.unwrap();
    assert_eq!(lines(&answer.batches.try_collect::<Vec<_>>().await.unwrap()), ["2"]);
    let ddl = node.rows("SHOW CREATE TABLE u").await.join("\n");
    for part in
        ["id BIGINT,", "d DECIMAL(9, 2)", "at TIMESTAMPTZ", "u UUID", "n BIGINT,", "many BOOLEAN\n", "buckets = '2'"]
    {
        assert!(ddl.contains(part), "{part}: {ddl}");
    }
    let rows = node.rows("SELECT id, d, name, CAST(u AS VARCHAR), n, many FROM u ORDER BY id").await;
    assert_eq!(rows, [format!("1|1.50|x|{first}|1|true"), "2|3.00|||2|true".to_owned()]);
    assert_eq!(node.rows("CREATE TABLE IF NOT EXISTS u AS SELECT 1 AS x").await, ["0"]);
    // What does not fit leaves no table behind.
    node.refused("CREATE TABLE v AS SELECT CAST(18446744073709551615 AS BIGINT UNSIGNED) AS x").await;
    node.refused("CREATE TABLE v AS SELECT id / (id - 1) AS x FROM t").await;
    assert_eq!(node.rows("SHOW TABLES").await.len(), 2);
    assert_eq!(node.rows("CREATE TABLE v AS SELECT id FROM t WHERE false").await, ["0"]);
    assert_eq!(node.rows("SELECT count(*) FROM v").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_values_and_nothing_else() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id BIGINT, name VARCHAR)").await;
    let with = async |text: &str, params: Vec<serde_json::Value>| {
        let answer = node.sql.execute(text, SqlRequest { params, ..SqlRequest::default() }).await?;
        answer.batches.try_collect::<Vec<_>>().await.map(|batches| lines(&batches))
    };
    let nasty = "x'); DROP TABLE t; --";
    with("INSERT INTO t VALUES ($1, $2), ($3, $2)", vec![json!(1), json!(nasty), json!(-2)]).await.unwrap();
    let found = with("SELECT id FROM t WHERE name = $1 AND id < $2 LIMIT $3", vec![json!(nasty), json!(0.5), json!(9)]);
    assert_eq!(found.await.unwrap(), ["-2"]);
    assert_eq!(with("SELECT $1 IS NULL, $2", vec![json!(null), json!(true)]).await.unwrap(), ["true|true"]);
    assert!(with("SELECT $1", vec![json!([1])]).await.is_err());
    assert!(with("SELECT $1", vec![json!(1), json!(2)]).await.is_err());
    assert!(with("SELECT $2", vec![json!(1), json!(2)]).await.is_err());
    assert!(with("DROP TABLE t", vec![json!(1)]).await.is_err());
}
