//! Column types in statements: as columns, as keys, compared with what people write, and what there is to say of them.

use super::{Node, lines};
use thermocline_schemas::Code;

const FIRST: &str = "0189dd5c-a2a5-7d1e-9a4c-0242ac120002";
const SECOND: &str = "f79c3e09-677c-4bbd-a479-3f349cb785e7";

/// Both tiers, and both at once.
async fn in_each_tier(node: &Node, table: &str, check: impl AsyncFn()) {
    check().await;
    node.tier(table).await;
    check().await;
    node.let_go(table).await;
    check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_types_hold_comes_back_from_each_tier() {
    let node = Node::new().await;
    node.run(
        "CREATE TABLE t (id INT, a UTINYINT, b USMALLINT, c UINTEGER, d TIME, e TIMESTAMP(9), f TIMESTAMPTZ(9), \
         g FIXED(3), h UUID) WITH (format_version = 3)",
    )
    .await;
    node.run(&format!(
        "INSERT INTO t VALUES (1, 255, 65535, 4294967295, '23:59:59.999999', '2026-11-23T13:00:01.000000001', \
         '2026-11-23T13:00:01.000000001Z', X'00ff80', '{FIRST}'), (2, 0, 0, 0, '00:00', NULL, NULL, X'000000', NULL)"
    ))
    .await;
    in_each_tier(&node, "t", async || {
        let rows = node.rows("SELECT a, b, c, d, e, f, g, CAST(h AS VARCHAR) FROM t ORDER BY id").await;
        let moment = "2026-11-23T13:00:01.000000001";
        let first = format!("255|65535|4294967295|23:59:59.999999|{moment}|{moment}Z|00ff80|{FIRST}");
        assert_eq!(rows, [first.as_str(), "0|0|0|00:00:00|||000000|"]);
        for condition in [
            "a > 200",
            "b = 65535",
            "c = 4294967295",
            "d > TIME '23:00:00'",
            "e = TIMESTAMP(9) '2026-11-23 13:00:01.000000001'",
            "f > TIMESTAMP '2026-11-23T13:00:01Z'",
            "g = X'00ff80'",
        ] {
            assert_eq!(node.rows(&format!("SELECT id FROM t WHERE {condition}")).await, ["1"], "{condition}");
        }
    })
    .await;
    for (columns, code) in [
        ("a", Code::InvalidRow),
        ("b", Code::InvalidRow),
        ("c", Code::InvalidRow),
        ("d", Code::InvalidRow),
        ("h", Code::InvalidRow),
    ] {
        let value = if matches!(columns, "a" | "b" | "c") { "-1" } else { "'24:00:00'" };
        let error = node.refused(&format!("INSERT INTO t ({columns}) VALUES ({value})")).await;
        assert_eq!((error.code(), error.column()), (code, Some(columns)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_meet_uuids_are_read_as_uuids() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (h UUID PRIMARY KEY, name VARCHAR, twin VARCHAR)").await;
    node.run(&format!("INSERT INTO t VALUES ('{FIRST}', 'a', '{SECOND}'), ('{SECOND}', 'b', '{SECOND}')")).await;
    // The key alone is looked up.
    let plan = node.rows(&format!("EXPLAIN SELECT name FROM t WHERE h = '{FIRST}'")).await.join("\n");
    assert!(plan.contains("rows=1,"), "{plan}");
    in_each_tier(&node, "t", async || {
        let upper = SECOND.to_uppercase();
        for (condition, expected) in [
            (format!("h = '{FIRST}'"), "a"),
            (format!("'{FIRST}' = h"), "a"),
            (format!("h IN ('{upper}', '11111111-1111-1111-1111-111111111111')"), "b"),
            (format!("h > '{FIRST}'"), "b"),
            (format!("h NOT IN ('{upper}')"), "a"),
            (format!("h BETWEEN '{FIRST}' AND '{FIRST}'"), "a"),
            (format!("h = CAST('{FIRST}' AS UUID)"), "a"),
            (format!("h = UUID '{FIRST}'"), "a"),
            ("h = twin".to_owned(), "b"),
            (format!("CAST(h AS VARCHAR) = '{FIRST}'"), "a"),
            (format!("CASE WHEN name = 'a' THEN h = '{FIRST}' ELSE false END"), "a"),
        ] {
            let found = node.rows(&format!("SELECT name FROM t WHERE {condition}")).await;
            assert_eq!(found, [expected], "{condition}");
        }
        let joined = "SELECT x.name FROM t AS x JOIN t AS y ON x.h = y.twin ORDER BY 1";
        assert_eq!(node.rows(joined).await, ["b", "b"]);
    })
    .await;
    node.run(&format!("UPDATE t SET name = 'c' WHERE h = '{FIRST}'")).await;
    node.run(&format!("DELETE FROM t WHERE h = '{SECOND}'")).await;
    assert_eq!(node.rows("SELECT name FROM t").await, ["c"]);
    let error = node.refused("SELECT * FROM t WHERE h = 'nonsense'").await;
    assert_eq!(error.code(), Code::InvalidSql);
    assert!(error.message().contains("nonsense"), "{error}");
    let answer = node.answer("SELECT h, twin, count(*) FROM t GROUP BY h, twin").await.unwrap();
    assert_eq!(answer.column_types, ["UUID", "VARCHAR", "BIGINT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_say_what_readers_do_not_read_and_refuse_what_iceberg_has_not() {
    let node = Node::new().await;
    let answer = node.answer("CREATE TABLE t (id INT, at TIME)").await.unwrap();
    assert_eq!(answer.notes, ["column at: Spark cannot read tables with TIME columns"]);
    assert!(node.answer("CREATE TABLE u (id INT)").await.unwrap().notes.is_empty());
    assert!(node.answer("CREATE TABLE v (at TIME) WITH (lake_enabled = false)").await.unwrap().notes.is_empty());
    for (column, code, hint) in [
        ("UBIGINT", Code::InvalidType, "DECIMAL(20, 0)"),
        ("TIMESTAMP(9)", Code::InvalidType, "format_version = 3"),
        ("TIMESTAMP(3)", Code::InvalidType, "microseconds"),
        ("TIME WITH TIME ZONE", Code::InvalidType, "no zone"),
        ("FIXED(0)", Code::InvalidType, "1 to 4096"),
        ("FIXED(999999999999999)", Code::InvalidType, "1 to 4096"),
        ("FIXED(x)", Code::InvalidType, ""),
    ] {
        let error = node.refused(&format!("CREATE TABLE no (x {column})")).await;
        assert_eq!((error.code(), error.column()), (code, Some("x")), "{column}: {error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{column}: {:?}", error.hint());
    }
    let written = node.batches("SHOW CREATE TABLE t").await.unwrap();
    assert!(lines(&written).join(" ").contains("at TIME"));
}

#[tokio::test(flavor = "multi_thread")]
async fn times_beyond_nanoseconds_are_compared_with_texts() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT, z TIMESTAMPTZ, w TIMESTAMP)").await;
    node.run(
        "INSERT INTO t VALUES (1, '0001-01-01T00:00:00Z', '9999-12-31T23:59:59.999999'), \
         (2, '2026-11-23T13:00:00Z', '2026-11-23T13:00:00'), (3, '9999-12-31T23:59:59.999999Z', '0001-01-01T00:00:00')",
    )
    .await;
    in_each_tier(&node, "t", async || {
        for (condition, ids) in [
            ("z <= '0001-01-01T00:00:00Z'", "1"),
            ("z = '9999-12-31T23:59:59.999999Z'", "3"),
            ("'1000-01-01' < z", "2 3"),
            ("w IN ('0001-01-01', '2026-11-23T13:00:00')", "2 3"),
            ("w BETWEEN '0001-01-02' AND '9999-12-31'", "2"),
            ("w > '2026-11-23T12:59:59.999999999'", "1 2"),
        ] {
            let found = node.rows(&format!("SELECT id FROM t WHERE {condition} ORDER BY id")).await.join(" ");
            assert_eq!(found, ids, "{condition}");
        }
    })
    .await;
    assert_eq!(node.refused("SELECT id FROM t WHERE z < 'soon'").await.code(), Code::InvalidSql);
    assert_eq!(node.rows("SELECT CAST('7' AS UINTEGER), CAST(7 AS UTINYINT), '9'::USMALLINT").await, ["7|7|9"]);
}
