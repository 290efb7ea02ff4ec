//! CHECK constraints: what they refuse, on every way that rows come in, and how they follow a table that changes.

use std::sync::atomic::{AtomicBool, Ordering};

use thermocline_engine::{Change, ChangeRows, Sender, WriterSequence};
use thermocline_schemas::Code;
use thermocline_schemas::text::{DecodeOptions, JsonShape, decode_json};

use super::*;

/// With and without a primary key.
const KINDS: [&str; 2] = ["", ", PRIMARY KEY (id)"];

async fn constraints(node: &Node, table: &str) -> Vec<String> {
    let described = node.rows(&format!("DESCRIBE {table}")).await;
    let of = |line: &String| {
        let cells: Vec<_> = line.split('|').collect();
        (cells[0] == "constraint").then(|| format!("{}: {}", cells[1], cells[4]))
    };
    described.iter().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_breaks_a_constraint_is_refused_and_with_it_the_request() {
    for key in KINDS {
        let node = Node::new().await;
        node.run(&format!(
            "CREATE TABLE t (id INT NOT NULL, a INT CHECK (a > 0), b INT, CONSTRAINT fits CHECK (a < b){key})"
        ))
        .await;
        assert_eq!(constraints(&node, "t").await, ["t_a_check: CHECK (a > 0)", "fits: CHECK (a < b)"]);
        node.run("INSERT INTO t VALUES (1, 1, 2), (2, NULL, 1), (3, 5, NULL), (4, NULL, NULL)").await;
        for (statement, row, said) in [
            (
                "INSERT INTO t VALUES (5, 1, 2), (6, 2, 2)",
                1,
                "the row breaks constraint fits, CHECK (a < b): a = 2, b = 2",
            ),
            ("INSERT INTO t VALUES (5, -1, 2)", 0, "the row breaks constraint t_a_check, CHECK (a > 0): a = -1"),
            ("INSERT INTO t SELECT id + 10, a, b - 1 FROM t WHERE a < b", 0, "fits, CHECK (a < b): a = 1, b = 1"),
            ("INSERT INTO t (id, a) VALUES (7, 1), (8, 1), (9, 0)", 2, "t_a_check, CHECK (a > 0): a = 0"),
        ] {
            let error = node.refused(statement).await;
            assert_eq!((error.code(), error.row()), (Code::CheckViolation, Some(row)), "{statement} {error}");
            assert!(error.message().contains(said), "{statement}: {error}");
        }
        assert_eq!(node.rows("SELECT id FROM t ORDER BY id").await, ["1", "2", "3", "4"], "{key}");
        if !key.is_empty() {
            let error = node.refused("UPDATE t SET a = b + 1 WHERE id < 3").await;
            assert_eq!(error.code(), Code::CheckViolation, "{error}");
            assert!(error.message().contains("fits, CHECK (a < b): a = 3, b = 2"), "{error}");
            node.run("UPDATE t SET a = b - 1 WHERE id = 1").await;
            // What goes is not looked at.
            node.run("DELETE FROM t WHERE a IS NULL").await;
            assert_eq!(node.rows("SELECT * FROM t ORDER BY id").await, ["1|1|2", "3|5|"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_know_every_type() {
    let node = Node::new().await;
    node.run(
        "CREATE TABLE t (id INT, u UUID CHECK (u <> '0189dd5c-a2a5-7d1e-9a4c-0242ac120002'), d DECIMAL(20, 3) \
         CHECK (d < 100.5), at TIMESTAMPTZ CHECK (at >= '2026-01-01T00:00:00Z'), w VARCHAR \
         CHECK (w IN ('a', 'b') OR w LIKE 'c%'), l INT[] CHECK (l[1] > 0), s STRUCT(a INT, b STRUCT(c INT)) \
         CHECK (s.b.c > 0 AND s['a'] < 10), m MAP(VARCHAR, INT), CHECK (m['k'] IS NOT NULL), CHECK (length(w) * 2 < 9 OR id = 7), \
         CHECK (10 / id > 0))",
    )
    .await;
    let good = "INSERT INTO t VALUES (9, '0189dd5c-a2a5-7d1e-9a4c-0242ac120003', 100.4, \
                '2026-01-01T00:00:00Z', 'cat', [1, -1], {a: 9, b: {c: 1}}, MAP {'k': 1})";
    node.run(good).await;
    for (from, to, named) in [
        ("120003", "120002", "t_u_check"),
        ("100.4", "100.5", "t_d_check"),
        ("2026-01-01T", "2025-12-31T", "t_at_check"),
        ("'cat'", "'dog'", "t_w_check"),
        ("[1, -1]", "[0]", "t_l_check"),
        ("c: 1", "c: 0", "t_s_check"),
        ("a: 9", "a: 10", "t_s_check"),
        ("'k': 1", "'j': 1", "t_m_check"),
        ("'cat'", "'catastrophe'", "constraint t_check"),
        ("(9,", "(11,", "t_id_check"),
        ("(9,", "(0,", "t_id_check, CHECK (10 / id > 0), fails for id = 0: "),
    ] {
        let statement = good.replace(from, to);
        assert_ne!(statement, good);
        let error = node.refused(&statement).await;
        assert_eq!((error.code(), error.row()), (Code::CheckViolation, Some(0)), "{statement}: {error}");
        assert!(error.message().contains(named), "{statement}: {error}");
    }
    assert_eq!(node.rows("SELECT count(*) FROM t").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_condition_on_a_row_is_refused() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (a INT, b VARCHAR, s STRUCT(c INT))").await;
    let long = format!("b <> '{}'", "x".repeat(5_000));
    let deep = format!("a > {}1{}", "abs(".repeat(60), ")".repeat(60));
    for (condition, code) in [
        ("a > (SELECT 1)", Code::InvalidSql),
        ("EXISTS (SELECT 1 FROM t)", Code::InvalidSql),
        ("a IN (SELECT a FROM t)", Code::InvalidSql),
        ("sum(a) > 0", Code::InvalidSql),
        ("row_number() OVER () > 0", Code::InvalidSql),
        ("random() < 0.5", Code::InvalidSql),
        ("now() > '2026-01-01'", Code::InvalidSql),
        ("current_date > '2026-01-01'", Code::InvalidSql),
        ("c > 0", Code::InvalidSql),
        ("__offset > 0", Code::InvalidSql),
        ("a", Code::InvalidSql),
        ("b || 'x'", Code::InvalidSql),
        ("a > $1", Code::InvalidSql),
        ("get_field(s, 'c') > 0", Code::InvalidSql),
        (&long, Code::InvalidSql),
        (&deep, Code::SqlTooDeep),
    ] {
        for statement in [
            format!("ALTER TABLE t ADD CHECK ({condition})"),
            format!("ALTER TABLE t ADD CONSTRAINT n CHECK ({condition})"),
            format!("CREATE TABLE other (a INT, b VARCHAR, s STRUCT(c INT), CHECK ({condition}))"),
            format!("CREATE TABLE other (a INT CHECK ({condition}), b VARCHAR, s STRUCT(c INT))"),
        ] {
            let error = node.refused(&statement).await;
            let params = error.code() == Code::InvalidRequest && condition.contains('$');
            assert!(error.code() == code || params, "{statement}: {error:?}");
        }
    }
    for (statement, code) in [
        ("ALTER TABLE t DROP CONSTRAINT nothing", Code::InvalidSql),
        ("ALTER TABLE t VALIDATE CONSTRAINT nothing", Code::InvalidSql),
        ("ALTER TABLE t ADD CONSTRAINT n UNIQUE (a)", Code::NotBuilt),
        ("ALTER TABLE t ADD CONSTRAINT \"a-b\" CHECK (a > 0)", Code::InvalidName),
        ("ALTER TABLE t ADD COLUMN d INT CHECK (d > 0)", Code::InvalidSql),
        ("ALTER TABLE t ADD COLUMN d INT, ADD CHECK (d > 0)", Code::InvalidSql),
        ("ALTER TABLE t ADD CHECK (a > 0) NOT VALID, ADD CHECK (a > 1)", Code::InvalidSql),
        ("ALTER TABLE t ADD CHECK a > 0", Code::InvalidSql),
        ("ALTER TABLE t ADD CHECK (a > 0", Code::InvalidSql),
        ("CREATE TABLE u (a INT, CONSTRAINT n CHECK (a > 0), CONSTRAINT n CHECK (a > 1))", Code::InvalidName),
    ] {
        let error = node.refused(statement).await;
        assert_eq!(error.code(), code, "{statement}: {error}");
    }
    node.run("ALTER TABLE t DROP CONSTRAINT IF EXISTS nothing").await;
    assert!(constraints(&node, "t").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_come_to_rows_that_are_there() {
    for key in KINDS {
        for (tier, keep) in [(false, true), (true, true), (true, false)] {
            let node = Node::new().await;
            node.run(&format!("CREATE TABLE t (id INT NOT NULL, a INT{key})")).await;
            node.run("INSERT INTO t VALUES (1, 1), (2, NULL), (3, 30)").await;
            if tier {
                node.tier("t").await;
            }
            if !keep {
                node.let_go("t").await;
            }
            let error = node.refused("ALTER TABLE t ADD CONSTRAINT small CHECK (a < 30)").await;
            assert_eq!((error.code(), error.value()), (Code::CheckViolation, Some("a = 30")), "{error}");
            assert!(error.message().contains("constraint small"), "{error}");
            assert!(constraints(&node, "t").await.is_empty(), "{key} {tier}");
            node.run("INSERT INTO t VALUES (4, 40)").await;
            node.run("ALTER TABLE t ADD CONSTRAINT small CHECK (a < 30) NOT VALID, ADD CHECK (a <> 7) NOT VALID").await;
            assert_eq!(
                constraints(&node, "t").await,
                ["small: CHECK (a < 30) NOT VALID", "t_a_check: CHECK (a <> 7) NOT VALID"]
            );
            assert_eq!(node.refused("INSERT INTO t VALUES (5, 50)").await.code(), Code::CheckViolation);
            let error = node.refused("ALTER TABLE t VALIDATE CONSTRAINT small").await;
            assert_eq!(error.code(), Code::CheckViolation, "{error}");
            node.run("ALTER TABLE t VALIDATE CONSTRAINT t_a_check").await;
            node.run("ALTER TABLE t ADD CHECK (a <> 8), ADD CHECK (a > 0)").await;
            let all = [
                "small: CHECK (a < 30) NOT VALID",
                "t_a_check: CHECK (a <> 7)",
                "t_a_check1: CHECK (a <> 8)",
                "t_a_check2: CHECK (a > 0)",
            ];
            assert_eq!(constraints(&node, "t").await, all);
            let node = node.restarted().await;
            assert_eq!(constraints(&node, "t").await, all);
            assert_eq!(node.refused("INSERT INTO t VALUES (5, 50)").await.code(), Code::CheckViolation);
            node.run("ALTER TABLE t DROP CONSTRAINT small").await;
            node.run("INSERT INTO t VALUES (5, 50)").await;
            assert_eq!(node.refused("INSERT INTO t VALUES (6, 8)").await.code(), Code::CheckViolation);
            node.engine.checkpoint().await.unwrap();
            let node = node.restarted().await;
            assert_eq!(node.refused("INSERT INTO t VALUES (6, 8)").await.code(), Code::CheckViolation);
            node.tier("t").await;
            assert_eq!(node.rows("SELECT id, a FROM t ORDER BY id").await, ["1|1", "2|", "3|30", "4|40", "5|50"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_follow_the_names_of_columns_and_hold_them() {
    let node = Node::new().await;
    node.run(
        "CREATE TABLE t (id INT, \"A\" INT, b INT, s STRUCT(x INT, y STRUCT(z INT, q INT)), l STRUCT(x INT)[], \
         CONSTRAINT one CHECK (\"A\" < B), CONSTRAINT two CHECK (s.x < s['y']['z'] OR s.y.z = 100), CONSTRAINT three CHECK (l[1]['x'] > b))",
    )
    .await;
    let all =
        ["one: CHECK (\"A\" < b)", "two: CHECK (s.x < s['y']['z'] OR s.y.z = 100)", "three: CHECK (l[1]['x'] > b)"];
    assert_eq!(constraints(&node, "t").await, all);
    for (column, name) in
        [("\"A\"", "one"), ("b", "one"), ("s", "two"), ("s.x", "two"), ("s.y.z", "two"), ("s.y", "two")]
    {
        let error = node.refused(&format!("ALTER TABLE t DROP COLUMN {column}")).await;
        assert_eq!(error.code(), Code::InvalidType, "{column} {error}");
        assert!(error.message().contains(&format!("constraint {name}: ")), "{column} {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains(&format!("DROP CONSTRAINT {name}"))), "{error:?}");
    }
    let error = node.refused("ALTER TABLE t DROP COLUMN l").await;
    assert!(error.message().contains("three"), "{error}");
    // Names that are taken by others at once.
    node.run("ALTER TABLE t RENAME COLUMN \"A\" TO c, RENAME COLUMN b TO a, RENAME COLUMN c TO b, ALTER a TYPE BIGINT")
        .await;
    node.run("ALTER TABLE t RENAME COLUMN s.x TO w, RENAME COLUMN s.y TO x, RENAME COLUMN s.x.z TO \"Z\"").await;
    node.run("ALTER TABLE t RENAME COLUMN l.element.x TO \"X\", RENAME COLUMN s TO id2, RENAME COLUMN l TO \"L\"")
        .await;
    let all = [
        "one: CHECK (b < a)",
        "two: CHECK (id2.w < id2['x']['Z'] OR id2.x.\"Z\" = 100)",
        "three: CHECK (\"L\"[1]['X'] > a)",
    ];
    assert_eq!(constraints(&node, "t").await, all);
    node.run("INSERT INTO t VALUES (1, 1, 2, {w: 1, x: {\"Z\": 2}}, [{\"X\": 3}])").await;
    for (bad, name) in [
        ("(1, 2, 2, NULL, NULL)", "one"),
        ("(1, NULL, NULL, {w: 2, x: {\"Z\": 2}}, NULL)", "two"),
        ("(1, NULL, 3, NULL, [{\"X\": 3}])", "three"),
    ] {
        let error = node.refused(&format!("INSERT INTO t VALUES {bad}")).await;
        assert!(error.message().contains(&format!("constraint {name},")), "{error}");
    }
    // The statement that makes such a table makes one.
    let batches = node.batches("SHOW CREATE TABLE t").await.unwrap();
    let ddl = arrow::array::AsArray::as_string::<i32>(batches[0].column(0)).value(0).to_owned();
    assert!(ddl.contains("    CONSTRAINT one CHECK (b < a),\n"), "{ddl}");
    node.run("DROP TABLE t").await;
    node.run(&ddl).await;
    assert_eq!(constraints(&node, "t").await, all);
    node.run("ALTER TABLE t DROP CONSTRAINT one, DROP COLUMN b").await;
    // A wider type under which the condition means nothing.
    node.run("ALTER TABLE t ADD COLUMN n SMALLINT").await;
    node.run("ALTER TABLE t ADD CONSTRAINT kind CHECK (arrow_typeof(n) = 'Int16')").await;
    node.run("INSERT INTO t (n) VALUES (1)").await;
}

/// Rows are checked where they are sent, on threads that are not made for long conditions.
#[tokio::test(flavor = "multi_thread")]
async fn long_conditions_are_tested_on_small_stacks() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (a INT, b INT)").await;
    let either = |place: usize| if place.is_multiple_of(2) { format!("a <> {place}") } else { format!("b >= {place}") };
    let chain = |count: usize, between: &str| (0..count).map(either).collect::<Vec<_>>().join(between);
    let nested = format!("{}a > 0{}", "NOT (NOT (".repeat(10), "))".repeat(10));
    for condition in [chain(40, " AND "), chain(40, " OR "), nested, format!("a + {} > 0", ["1"; 40].join(" + "))] {
        node.run(&format!("ALTER TABLE t ADD CHECK ({condition})")).await;
    }
    for between in [" AND ", " OR "] {
        let error = node.refused(&format!("ALTER TABLE t ADD CHECK ({})", chain(60, between))).await;
        assert_eq!(error.code(), Code::SqlTooDeep, "{error}");
    }
    let table = node.table("t");
    let schema = table.descriptor().schema.clone();
    let lines = br#"{"a":-1,"b":1000000}"#;
    let rows = decode_json(&schema, lines, JsonShape::Lines, &DecodeOptions::default()).unwrap();
    let error = node.engine.append(&table, rows, Sender::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::CheckViolation, "{error}");
    let rows =
        decode_json(&schema, br#"{"a":100001,"b":1000000}"#, JsonShape::Lines, &DecodeOptions::default()).unwrap();
    node.engine.append(&table, rows, Sender::default()).await.unwrap();
}

/// What was checked before a constraint came is checked again.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_older_version_are_not_taken_unchecked() {
    for key in KINDS {
        let node = Node::new().await;
        node.run(&format!("CREATE TABLE t (id INT NOT NULL, a INT{key})")).await;
        let old = node.table("t");
        let rows = |lines: &str| {
            let schema = &old.descriptor().schema;
            decode_json(schema, lines.as_bytes(), JsonShape::Lines, &DecodeOptions::default()).unwrap()
        };
        let writer = |sequence| Sender { writer: WriterSequence::new("w", sequence).ok(), ..Sender::default() };
        let first = node.engine.append(&old, rows(r#"{"id":1,"a":-1}"#), writer(0)).await.unwrap();
        node.run("ALTER TABLE t ADD CHECK (a > 0) NOT VALID").await;
        for lines in [r#"{"id":2,"a":-2}"#, r#"{"id":2,"a":2}"#] {
            let error = node.engine.append(&old, rows(lines), Sender::default()).await.unwrap_err();
            assert_eq!(error.code(), Code::WriteConflict, "{key}: {error}");
        }
        if !key.is_empty() {
            let deletes = ChangeRows::new(old.descriptor(), rows(r#"{"id":2}"#), vec![Change::Delete]).unwrap();
            let error = node.engine.change(&old, deletes, Sender::default()).await.unwrap_err();
            assert_eq!(error.code(), Code::WriteConflict, "{key}: {error}");
        }
        // A request that was applied is known again, whatever it breaks by now.
        let again = node.engine.append(&node.table("t"), rows(r#"{"id":1,"a":-1}"#), writer(0)).await.unwrap();
        assert!(again.duplicate && again.buckets == first.buckets, "{key} {again:?}");
        let error = node.engine.append(&node.table("t"), rows(r#"{"id":1,"a":-3}"#), writer(1)).await.unwrap_err();
        assert_eq!(error.code(), Code::CheckViolation, "{key}: {error}");
        node.engine.append(&node.table("t"), rows(r#"{"id":3,"a":3}"#), writer(1)).await.unwrap();
        assert_eq!(node.rows("SELECT id, a FROM t ORDER BY id").await, ["1|-1", "3|3"]);
        // One that goes lets older versions be.
        let checked = node.table("t");
        node.run("ALTER TABLE t DROP CONSTRAINT t_a_check").await;
        node.engine.append(&checked, rows(r#"{"id":4,"a":4}"#), Sender::default()).await.unwrap();
    }
}

/// Whenever a constraint has come, no row breaks it, and no writer is told of it before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn constraints_come_and_go_under_writers() {
    for key in KINDS {
        let node = Arc::new(Node::new().await);
        node.run(&format!("CREATE TABLE t (id BIGINT NOT NULL, a INT{key})")).await;
        let done = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..3_i64)
            .map(|writer| {
                let (node, done) = (node.clone(), done.clone());
                tokio::spawn(async move {
                    let (mut taken, mut number) = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        number += 1;
                        let sign = if number % 2 == 0 { "-" } else { "" };
                        let text = format!("INSERT INTO t VALUES ({}, {sign}1)", writer * 1_000_000 + number);
                        match node.batches(&text).await {
                            Ok(_) => taken += 1,
                            Err(error) => assert_eq!(error.code(), Code::CheckViolation, "{error:?}"),
                        }
                    }
                    taken
                })
            })
            .collect();
        for round in 0..30 {
            node.run("ALTER TABLE t ADD CONSTRAINT positive CHECK (a > 0) NOT VALID").await;
            let negative = node.rows("SELECT count(*) FROM t WHERE a < 0").await;
            tokio::time::sleep(Duration::from_millis(3)).await;
            assert_eq!(node.rows("SELECT count(*) FROM t WHERE a < 0").await, negative, "{key} round {round}");
            node.run("ALTER TABLE t DROP CONSTRAINT positive").await;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        done.store(true, Ordering::Relaxed);
        let mut taken = 0;
        for writer in writers {
            taken += writer.await.unwrap();
        }
        assert_eq!(node.rows("SELECT count(*) FROM t").await, [taken.to_string()], "{key}");
    }
}
