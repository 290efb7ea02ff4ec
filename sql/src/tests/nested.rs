//! Columns of lists, maps and structs in statements: how they are spelled, what they hold in each tier, what is refused.

use thermocline_schemas::text::JsonEncoder;
use thermocline_schemas::{Code, ColumnType};

use super::Node;

/// The rows of an answer, each as JSON.
async fn json(node: &Node, text: &str) -> Vec<String> {
    let batches = match node.batches(text).await {
        Ok(batches) => batches,
        Err(error) => panic!("{text}: {error:?} {:?}", error.hint()),
    };
    let mut rows = Vec::new();
    for batch in &batches {
        let mut encoder = JsonEncoder::new(batch.schema_ref()).unwrap();
        for row in 0..batch.num_rows() {
            let mut line = Vec::new();
            encoder.write_array(batch, row, &mut line).unwrap();
            rows.push(String::from_utf8(line).unwrap());
        }
    }
    rows
}

/// Hot, in both tiers, and in the lake alone.
async fn in_each_tier(node: &Node, table: &str, check: impl AsyncFn(&str)) {
    check("hot").await;
    node.tier(table).await;
    check("tiered").await;
    node.let_go(table).await;
    check("lake").await;
}

const COLUMNS: &str = "id BIGINT NOT NULL, tags VARCHAR[], s STRUCT(a SMALLINT, b VARCHAR NOT NULL, at TIMESTAMP), \
     m MAP(VARCHAR, UINTEGER), deep STRUCT(l STRUCT(u UUID, d DECIMAL(9, 2))[], m MAP(INTEGER, DOUBLE PRECISION[]))[]";

async fn filled(node: &Node, key: &str) {
    node.run(&format!("CREATE TABLE t ({COLUMNS}{key})")).await;
    node.run(
        "INSERT INTO t VALUES \
         (1, ['x', NULL, ''], {a: -7, b: 'one', at: '2026-11-23T13:00:01.000001'}, MAP {'k': 4294967295, 'l': NULL}, \
          [{l: [{u: '0189dd5c-a2a5-7d1e-9a4c-0242ac120002', d: 12.30}, NULL], m: MAP {1: [0.5, 'NaN'], 2: []}}]), \
         (2, [], {a: NULL, b: '', at: NULL}, MAP {}, [NULL, {l: NULL, m: NULL}]), \
         (3, NULL, NULL, NULL, NULL)",
    )
    .await;
}

const ROWS: [&str; 3] = [
    "[1,[\"x\",null,\"\"],{\"a\":-7,\"b\":\"one\",\"at\":\"2026-11-23T13:00:01.000001\"},[[\"k\",4294967295],[\"l\",null]],\
     [{\"l\":[{\"u\":\"0189dd5c-a2a5-7d1e-9a4c-0242ac120002\",\"d\":\"12.30\"},null],\"m\":[[1,[0.5,\"NaN\"]],[2,[]]]}]]",
    "[2,[],{\"a\":null,\"b\":\"\",\"at\":null},[],[null,{\"l\":null,\"m\":null}]]",
    "[3,null,null,null,null]",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_nested_columns_hold_comes_back_from_each_tier() {
    for (kind, key) in [("log", ""), ("keyed", ", PRIMARY KEY (id)")] {
        let node = Node::new().await;
        filled(&node, key).await;
        in_each_tier(&node, "t", async |tier: &str| {
            assert_eq!(json(&node, "SELECT * FROM t ORDER BY id").await, ROWS, "{kind} {tier}");
            for (condition, ids) in [
                ("s['a'] = -7", "1"),
                ("s['a'] IS NULL", "2 3"),
                ("s.b = 'one'", "1"),
                ("t.s.b = ''", "2"),
                ("s IS NULL", "3"),
                ("s.b IS NULL", "3"),
                ("s.b IS NOT NULL", "1 2"),
                ("s IS NOT NULL", "1 2"),
                ("tags IS NULL", "3"),
                ("array_length(tags) = 3", "1"),
                ("tags[1] = 'x'", "1"),
                ("array_has(tags, 'x')", "1"),
                ("m['k'] > 5", "1"),
                ("cardinality(m) = 2", "1"),
                ("deep[1]['l'][1]['d'] = 12.30", "1"),
                ("id > 1 AND s.b = ''", "2"),
            ] {
                let found = node.rows(&format!("SELECT id FROM t WHERE {condition} ORDER BY id")).await.join(" ");
                assert_eq!(found, ids, "{kind} {tier} {condition}");
            }
            assert_eq!(json(&node, "SELECT s.a, s['b'] FROM t ORDER BY id LIMIT 1").await, ["[-7,\"one\"]"]);
            assert_eq!(json(&node, "SELECT count(s), count(tags), count(*) FROM t").await, ["[2,2,3]"]);
            let unnested = "SELECT id, unnest(tags) AS tag FROM t WHERE id = 1";
            assert_eq!(json(&node, unnested).await, ["[1,\"x\"]", "[1,null]", "[1,\"\"]"], "{kind} {tier}");
            let together = "SELECT tags FROM t WHERE id = 2 UNION ALL SELECT ['y']";
            assert_eq!(json(&node, together).await.len(), 2);
            let grouped = "SELECT tags, count(*) FROM t GROUP BY tags ORDER BY 2, 1";
            assert_eq!(json(&node, grouped).await.len(), 3, "{kind} {tier}");
        })
        .await;
        let node = node.restarted().await;
        assert_eq!(json(&node, "SELECT * FROM t ORDER BY id").await, ROWS, "{kind} after a restart");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_columns_of_rows_with_a_key_change_with_them() {
    let node = Node::new().await;
    filled(&node, ", PRIMARY KEY (id)").await;
    for tiered in [false, true] {
        if tiered {
            node.tier("t").await;
            node.let_go("t").await;
        }
        node.run("UPDATE t SET tags = ['new'], s = {b: 'b', a: 5} WHERE id = 2").await;
        node.run("UPDATE t SET m = MAP {'z': 1} WHERE s.b = 'b'").await;
        let row = json(&node, "SELECT tags, s, m, deep FROM t WHERE id = 2").await;
        let expected = "[[\"new\"],{\"a\":5,\"b\":\"b\",\"at\":null},[[\"z\",1]],[null,{\"l\":null,\"m\":null}]]";
        assert_eq!(row, [expected], "{tiered}");
        let changes = json(&node, "SELECT __kind, tags FROM \"t$changes\" WHERE id = 2 ORDER BY __offset").await;
        assert!(changes.iter().any(|change| change == "[\"-U\",[\"new\"]]"), "{changes:?}");
        node.run("DELETE FROM t WHERE id = 1").await;
        node.run("INSERT INTO t SELECT 1, tags, s, m, deep FROM t WHERE id = 2").await;
        let copied = json(&node, "SELECT tags, s, m, deep FROM t WHERE id = 1").await;
        assert_eq!(copied, [expected], "{tiered}");
    }
    node.tier("t").await;
    assert_eq!(node.rows("SELECT count(*) FROM \"t$lake\"").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_types_are_spelled_so_that_they_can_be_said_again() {
    let node = Node::new().await;
    for (number, (said, spelled)) in [
        ("INTEGER[]", "INTEGER[]"),
        ("INT[][]", "INTEGER[][]"),
        ("INT ARRAY", "INTEGER[]"),
        ("ARRAY<INT>", "INTEGER[]"),
        ("ARRAY<ARRAY<INT>>", "INTEGER[][]"),
        ("ARRAY<ARRAY<INT>>[]", "INTEGER[][][]"),
        ("LIST(INT NOT NULL)", "LIST(INTEGER NOT NULL)"),
        ("STRUCT(a INT, \"B\" DOUBLE PRECISION NOT NULL)", "STRUCT(a INTEGER, \"B\" DOUBLE PRECISION NOT NULL)"),
        ("STRUCT<a: INT, b: ARRAY<STRING>>[]", "STRUCT(a INTEGER, b VARCHAR[])[]"),
        ("ROW(x DECIMAL(9, 2))", "STRUCT(x DECIMAL(9, 2))"),
        ("MAP(VARCHAR, BIGINT)", "MAP(VARCHAR, BIGINT)"),
        ("MAP<STRING, MAP<INT, TIMESTAMPTZ NOT NULL>>", "MAP(VARCHAR, MAP(INTEGER, TIMESTAMPTZ NOT NULL))"),
        ("STRUCT(list INT[], map MAP(DATE, UUID), struct STRUCT(row FIXED(3)))", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!("t{number}");
        node.run(&format!("CREATE TABLE {table} (id BIGINT, c {said})")).await;
        let made = node.table(&table).descriptor().clone();
        let found = made.schema.columns()[1].column_type.to_string();
        if !spelled.is_empty() {
            assert_eq!(found, spelled, "{said}");
        }
        let described = node.rows(&format!("DESCRIBE {table}")).await.join("\n");
        assert!(described.contains(&found), "{described}");
        let answer = node.answer(&format!("SELECT c FROM {table}")).await.unwrap();
        // Answers do not say what cannot be null.
        let nullable = found.replace("LIST(INTEGER NOT NULL)", "INTEGER[]").replace(" NOT NULL", "");
        assert_eq!(answer.column_types, [nullable]);
        let shown = node.batches(&format!("SHOW CREATE TABLE {table}")).await.unwrap();
        let ddl =
            arrow::array::AsArray::as_string::<i32>(shown[0].column(shown[0].num_columns() - 1)).value(0).to_owned();
        node.run(&format!("DROP TABLE {table}")).await;
        node.run(&ddl).await;
        let again = node.table(&table).descriptor().clone();
        assert_eq!(again.schema, made.schema, "{ddl}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_and_values_that_cannot_be_are_refused() {
    let node = Node::new().await;
    let deep = |levels: usize| format!("INT{}", "[]".repeat(levels));
    let wide = |fields: usize| {
        let fields: Vec<_> = (0..fields).map(|number| format!("f{number} INT")).collect();
        format!("STRUCT({})", fields.join(", "))
    };
    node.run(&format!("CREATE TABLE deepest (c {})", deep(8))).await;
    for (column, code, says) in [
        (deep(9), Code::InvalidType, "8 levels"),
        (format!("{}INT{}", "ARRAY<".repeat(40), ">".repeat(40)), Code::InvalidType, "levels"),
        (wide(2_001), Code::InvalidType, "2000"),
        ("STRUCT()".to_owned(), Code::InvalidType, "at least one field"),
        ("STRUCT(a INT, A INT)".to_owned(), Code::InvalidName, "twice"),
        ("STRUCT(__a INT)".to_owned(), Code::InvalidName, "starts with __"),
        ("MAP(INT[], INT)".to_owned(), Code::InvalidType, "do not nest"),
        ("INT[3]".to_owned(), Code::InvalidType, "INT"),
        ("STRUCT(a UBIGINT)".to_owned(), Code::InvalidType, "UBIGINT"),
        ("TIMESTAMP(9)[]".to_owned(), Code::InvalidType, "version 2"),
        ("INT[] DEFAULT '[1]'".to_owned(), Code::InvalidType, "NULL"),
        ("JSON".to_owned(), Code::NotBuilt, "JSON"),
    ] {
        let error = node.refused(&format!("CREATE TABLE no (id INT, c {column})")).await;
        assert_eq!((error.code(), error.column()), (code, Some("c")), "{column}: {error}");
        assert!(error.message().contains(says), "{column}: {error}");
    }
    for (statement, code) in [
        ("CREATE TABLE no (c INT[] PRIMARY KEY)", Code::InvalidType),
        ("CREATE TABLE no (c STRUCT(a INT)) WITH (buckets = 2, bucket_key = 'c')", Code::InvalidProperty),
    ] {
        let error = node.refused(statement).await;
        assert_eq!((error.code(), error.column()), (code, Some("c")), "{statement}: {error}");
    }
    let half = wide(1_200);
    let error = node.refused(&format!("CREATE TABLE no (a {half}, b {half})")).await;
    assert_eq!(error.code(), Code::InvalidType, "{error}");

    node.run(
        "CREATE TABLE t (id INT, s STRUCT(a SMALLINT, b VARCHAR NOT NULL), l LIST(INT NOT NULL), m MAP(INT, INT))",
    )
    .await;
    for (value, column, row) in [
        ("(1, {a: 1, b: 'x'}, NULL, NULL), (2, {a: 70000, b: 'x'}, NULL, NULL)", "s.a", Some(1)),
        ("(1, {a: 1, b: NULL}, NULL, NULL)", "s.b", Some(0)),
        ("(1, {a: 1}, NULL, NULL)", "s.b", Some(0)),
        ("(1, {a: 1, b: 'x', c: 2}, NULL, NULL)", "s.c", Some(0)),
        ("(1, NULL, [1], NULL), (1, NULL, [1, NULL], NULL)", "l.element", Some(1)),
        ("(1, NULL, ['x'], NULL)", "l.element", Some(0)),
        ("(1, NULL, 7, NULL)", "l", None),
    ] {
        let error = node.refused(&format!("INSERT INTO t VALUES {value}")).await;
        assert_eq!((error.column(), error.row()), (Some(column), row), "{value}: {error}");
        assert!(matches!(error.code(), Code::InvalidRow | Code::UnknownColumn), "{value}: {error}");
    }
    node.refused("INSERT INTO t VALUES (1, NULL, NULL, MAP {1: 2, 1: 3})").await;
    assert_eq!(node.rows("SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_columns_come_and_go_whole() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT NOT NULL, s STRUCT(a SMALLINT, b VARCHAR))").await;
    node.run("INSERT INTO t VALUES (1, {a: 7, b: 'x'})").await;
    node.tier("t").await;
    node.run("INSERT INTO t VALUES (2, {a: 8, b: 'y'})").await;
    node.run("ALTER TABLE t RENAME COLUMN s TO old, ADD COLUMN s INT[] FIRST, ADD COLUMN m MAP(VARCHAR, INT[])").await;
    node.run("ALTER TABLE t ALTER COLUMN old TYPE STRUCT(a BIGINT, b VARCHAR)").await;
    node.run("INSERT INTO t (id, s, old, m) VALUES (3, [1], {a: 5000000000, b: 'z'}, MAP {'k': [1, 2]})").await;
    in_each_tier(&node, "t", async |tier: &str| {
        let rows = json(&node, "SELECT id, s, old, m FROM t ORDER BY id").await;
        let expected = [
            "[1,null,{\"a\":7,\"b\":\"x\"},null]",
            "[2,null,{\"a\":8,\"b\":\"y\"},null]",
            "[3,[1],{\"a\":5000000000,\"b\":\"z\"},[[\"k\",[1,2]]]]",
        ];
        assert_eq!(rows, expected, "{tier}");
    })
    .await;
    let ids = |column_type: &ColumnType| column_type.inner().iter().map(|field| field.id.0).collect::<Vec<_>>();
    let schema = node.table("t").descriptor().schema.clone();
    let column = |name: &str| schema.column(name).unwrap().column_type.clone();
    // 1 and 2 are the columns, 3 to 5 the system's.
    assert_eq!((ids(&column("old")), ids(&column("s")), ids(&column("m"))), (vec![6, 7], vec![9], vec![11, 12]));
    node.run("ALTER TABLE t DROP COLUMN old").await;
    let error = node.refused("ALTER TABLE t ALTER COLUMN m TYPE MAP(VARCHAR, VARCHAR[])").await;
    assert_eq!((error.code(), error.column()), (Code::InvalidType, Some("m")), "{error}");
    node.tier("t").await;
    assert_eq!(json(&node, "SELECT * FROM t WHERE id = 3").await, ["[[1],3,[[\"k\",[1,2]]]]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_older_rows_are_found_by_their_ids_in_every_tier() {
    for (kind, key) in [("log", ""), ("keyed", ", PRIMARY KEY (id)")] {
        for sunk in (0..8).map(|bits| [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0]) {
            let node = Node::new().await;
            let columns =
                "id INT NOT NULL, s STRUCT(a SMALLINT, b VARCHAR), l STRUCT(x INT, y INT)[], m MAP(VARCHAR, REAL)";
            node.run(&format!("CREATE TABLE t ({columns}{key})")).await;
            node.run(
                "INSERT INTO t VALUES (1, {a: 7, b: 'old'}, [{x: 1, y: 2}], MAP {'k': 0.5}), (2, NULL, NULL, NULL)",
            )
            .await;
            if sunk[0] {
                node.tier("t").await;
            }
            node.run(
                "ALTER TABLE t RENAME COLUMN s.b TO c, ADD COLUMN s.b INT[], ALTER COLUMN s.a TYPE BIGINT, \
                 DROP COLUMN l.element.x, ADD COLUMN l.element.x VARCHAR FIRST, ALTER COLUMN m.value TYPE DOUBLE PRECISION",
            )
            .await;
            if sunk[1] {
                node.tier("t").await;
            }
            node.run(
                "INSERT INTO t VALUES (3, {a: 5000000000, c: 'new', b: [1]}, [{x: 'x', y: 3}, NULL], MAP {'k': 1e300})",
            )
            .await;
            if sunk[2] {
                node.tier("t").await;
                node.let_go("t").await;
            }
            let expected = [
                "[1,{\"a\":7,\"c\":\"old\",\"b\":null},[{\"x\":null,\"y\":2}],[[\"k\",0.5]]]",
                "[2,null,null,null]",
                "[3,{\"a\":5000000000,\"c\":\"new\",\"b\":[1]},[{\"x\":\"x\",\"y\":3},null],[[\"k\",1e+300]]]",
            ];
            let mut node = node;
            for round in ["as they are", "after a restart", "after one more round"] {
                if round == "after a restart" {
                    node = node.restarted().await;
                }
                assert_eq!(json(&node, "SELECT * FROM t ORDER BY id").await, expected, "{kind} {sunk:?} {round}");
                for (condition, ids) in [("s.c = 'old'", "1"), ("s.b IS NULL", "1 2"), ("s.a > 7", "3")] {
                    let found = node.rows(&format!("SELECT id FROM t WHERE {condition} ORDER BY id")).await.join(" ");
                    assert_eq!(found, ids, "{kind} {sunk:?} {round} {condition}");
                }
                if round == "after a restart" {
                    node.tier("t").await;
                }
            }
            if !key.is_empty() {
                node.run("UPDATE t SET s = {c: 'changed'} WHERE id = 1").await;
                assert_eq!(json(&node, "SELECT s.a, s.c FROM t WHERE id = 1").await, ["[null,\"changed\"]"]);
            }
        }
    }
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT, s STRUCT(a INT))").await;
    for (change, code, column) in [
        ("DROP COLUMN s.a", Code::InvalidType, "s.a"),
        ("DROP COLUMN s.b", Code::UnknownColumn, "s.b"),
        ("ADD COLUMN s.b INT DEFAULT 1", Code::InvalidType, "s.b"),
        ("ADD COLUMN id.b INT", Code::InvalidType, "id.b"),
        ("ALTER COLUMN s.a TYPE VARCHAR", Code::InvalidType, "s.a"),
    ] {
        let error = node.refused(&format!("ALTER TABLE t {change}")).await;
        assert_eq!((error.code(), error.column()), (code, Some(column)), "{change}: {error}");
    }
    let error = node.refused("CREATE TABLE u (id INT, s.a INT)").await;
    assert_eq!(error.code(), Code::InvalidName, "{error}");
    node.run("ALTER TABLE t DROP COLUMN IF EXISTS s.b, ADD COLUMN IF NOT EXISTS s.a INT").await;
}
