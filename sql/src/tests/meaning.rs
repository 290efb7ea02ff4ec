//! What expressions mean, where DataFusion alone would answer otherwise: nulls in joins and NOT IN, IS DISTINCT FROM, whole
//! numbers at their ends, casts that lose something.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_schemas::Code;

use super::Node;

type Row = (Option<i64>, Option<&'static str>);
/// What a condition is of a row.
type Test<'a> = &'a dyn Fn(&Row) -> Option<bool>;

fn some_rows(random: &mut StdRng, count: usize) -> Vec<Row> {
    let texts = ["a", "b", "z"];
    let number = |random: &mut StdRng| random.random_bool(0.9).then(|| random.random_range(0..12));
    let text = |random: &mut StdRng| random.random_bool(0.8).then(|| texts[random.random_range(0..3)]);
    (0..count).map(|_| (number(random), text(random))).collect()
}

fn literal((id, g): &Row) -> String {
    let id = id.map_or("NULL".to_owned(), |id| id.to_string());
    let g = g.map_or("NULL".to_owned(), |g| format!("'{g}'"));
    format!("({id}, {g})")
}

/// `id IN (SELECT id FROM b)`, of three values.
fn is_in(id: Option<i64>, b: &[Row]) -> Option<bool> {
    match id {
        _ if b.is_empty() => Some(false),
        None => None,
        Some(id) if b.iter().any(|row| row.0 == Some(id)) => Some(true),
        Some(_) => b.iter().all(|row| row.0.is_some()).then_some(false),
    }
}

/// Rows of two tables, hot, in the lake, and in both, against a model; some second tables have no null, or no row.
#[tokio::test(flavor = "multi_thread")]
async fn nulls_meet_and_decide_as_in_postgres() {
    let mut random = StdRng::seed_from_u64(5);
    for (sunk, second) in [(0, 40), (1, 40), (2, 40), (2, 0), (1, 3), (0, 3)] {
        let node = Node::new().await;
        let (a, mut b) = (some_rows(&mut random, 60), some_rows(&mut random, second));
        if second == 3 {
            b.retain(|row| row.0.is_some());
        }
        for (name, rows) in [("a", &a), ("b", &b)] {
            node.run(&format!("CREATE TABLE {name} (id BIGINT, g VARCHAR)")).await;
            for (half, rows) in rows.chunks(rows.len().div_ceil(2).max(1)).enumerate() {
                let rows: Vec<_> = rows.iter().map(literal).collect();
                node.run(&format!("INSERT INTO {name} VALUES {}", rows.join(", "))).await;
                if sunk > half {
                    node.tier(name).await;
                    node.let_go(name).await;
                }
            }
        }
        let context = format!("{sunk} halves are cold, {} rows in b", b.len());
        let count = async |text: &str| node.rows(text).await[0].parse::<usize>().unwrap();
        let set = |rows: &[Row]| rows.iter().copied().collect::<BTreeSet<_>>();
        let both = set(&a).intersection(&set(&b)).count();
        let own = set(&a).difference(&set(&b)).count();
        let found = count("SELECT count(*) FROM (SELECT * FROM a INTERSECT SELECT * FROM b)").await;
        assert_eq!(found, both, "INTERSECT, {context}");
        let found = count("SELECT count(*) FROM (SELECT * FROM a EXCEPT SELECT * FROM b)").await;
        assert_eq!(found, own, "EXCEPT, {context}");
        let pairs: usize = a.iter().map(|row| b.iter().filter(|other| other.0 == row.0).count()).sum();
        let found = count("SELECT count(*) FROM a JOIN b ON a.id IS NOT DISTINCT FROM b.id").await;
        assert_eq!(found, pairs, "IS NOT DISTINCT FROM, {context}");
        let alike = a.iter().filter(|row| b.iter().any(|other| other.0 == row.0)).count();
        for (negation, wanted) in [("", alike), ("NOT ", a.len() - alike)] {
            let text = "EXISTS (SELECT 1 FROM b WHERE a.id IS NOT DISTINCT FROM b.id)";
            assert_eq!(
                count(&format!("SELECT count(*) FROM a WHERE {negation}{text}")).await,
                wanted,
                "{negation}{text}"
            );
        }
        let where_true = |test: &dyn Fn(&Row) -> Option<bool>| a.iter().filter(|row| test(row) == Some(true)).count();
        let or = |left: Option<bool>, right: Option<bool>| match (left, right) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        };
        let not = |value: Option<bool>| value.map(|value| !value);
        let is = |row: &Row, text: &str| row.1.map(|g| g == text);
        let forms: [(&str, Test); 9] = [
            ("id IN (SELECT id FROM b)", &|row| is_in(row.0, &b)),
            ("id NOT IN (SELECT id FROM b)", &|row| not(is_in(row.0, &b))),
            ("NOT (id IN (SELECT id FROM b))", &|row| not(is_in(row.0, &b))),
            ("NOT (id NOT IN (SELECT id FROM b))", &|row| is_in(row.0, &b)),
            ("id NOT IN (SELECT id FROM b) OR g = 'z'", &|row| or(not(is_in(row.0, &b)), is(row, "z"))),
            ("id IN (SELECT id FROM b) OR g = 'z'", &|row| or(is_in(row.0, &b), is(row, "z"))),
            ("NOT (id IN (SELECT id FROM b) OR g = 'a')", &|row| not(or(is_in(row.0, &b), is(row, "a")))),
            ("NOT (id NOT IN (SELECT id FROM b) OR g = 'a')", &|row| not(or(not(is_in(row.0, &b)), is(row, "a")))),
            ("id <> ALL (SELECT id FROM b)", &|row| not(is_in(row.0, &b))),
        ];
        let own = |row: &Row| {
            let of_own: Vec<Row> = a.iter().filter(|other| other.1 == Some("b")).copied().collect();
            or(not(is_in(row.0, &of_own)), is(row, "z"))
        };
        let near = |row: &Row| {
            let near: Vec<Row> = b.iter().filter(|other| row.1.is_some() && other.1 == row.1).copied().collect();
            or(not(is_in(row.0, &near)), is(row, "z"))
        };
        let forms = forms.into_iter().chain([
            ("id NOT IN (SELECT id FROM a WHERE g = 'b') OR g = 'z'", &own as Test),
            ("id NOT IN (SELECT id FROM b WHERE b.g = a.g) OR g = 'z'", &near),
        ]);
        // Others look for some of these rows, before and behind.
        node.run("CREATE TABLE c (id BIGINT)").await;
        node.run("INSERT INTO c VALUES (1), (2), (NULL)").await;
        let none = a.iter().filter(|row| not(is_in(row.0, &b)) == Some(true));
        let few = none.clone().filter(|row| matches!(row.0, Some(1 | 2))).count();
        let rest = "(SELECT id FROM a WHERE id NOT IN (SELECT id FROM b)) AS s";
        for text in [
            format!("SELECT count(*) FROM {rest} JOIN c ON s.id = c.id"),
            format!("SELECT count(*) FROM c JOIN {rest} ON s.id = c.id"),
            "SELECT count(*) FROM a WHERE id NOT IN (SELECT id FROM b) AND id IN (SELECT id FROM c)".to_owned(),
        ] {
            assert_eq!(count(&text).await, few, "{text}, {context}");
        }
        let mut first: Vec<_> = none.filter_map(|row| row.0).collect();
        first.sort_unstable();
        let shown: Vec<String> = first.iter().take(3).map(i64::to_string).collect();
        let text = format!("SELECT id FROM {rest} WHERE id IS NOT NULL ORDER BY id LIMIT 3");
        assert_eq!(node.rows(&text).await, shown, "{context}");
        for text in
            ["id > 3 AND id NOT IN (SELECT id FROM b)", "id NOT IN (SELECT id FROM b) AND id IS NOT NULL AND id > 3"]
        {
            let wanted = a.iter().filter(|row| row.0 > Some(3) && not(is_in(row.0, &b)) == Some(true)).count();
            assert_eq!(count(&format!("SELECT count(*) FROM a WHERE {text}")).await, wanted, "{text}, {context}");
        }
        let partner =
            |row: &Row| b.iter().any(|other| other.1 == row.1 && row.1.is_some() && other.0 > row.0 && row.0.is_some());
        let text = "SELECT count(*) FROM c JOIN (SELECT id FROM a WHERE EXISTS \
                    (SELECT 1 FROM b WHERE b.g = a.g AND b.id > a.id)) AS s ON s.id = c.id";
        let found = a.iter().filter(|row| matches!(row.0, Some(1 | 2)) && partner(row)).count();
        assert_eq!(count(text).await, found, "{text}, {context}");
        for (text, test) in forms {
            let found = count(&format!("SELECT count(*) FROM a WHERE {text}")).await;
            assert_eq!(found, where_true(test), "{text}, {context}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_in_not_in_deletes_nothing() {
    let node = Node::new().await;
    node.run("CREATE TABLE k (id INT PRIMARY KEY, g INT)").await;
    node.run("INSERT INTO k VALUES (1, NULL), (2, 2), (3, 3)").await;
    assert_eq!(node.rows("DELETE FROM k WHERE id NOT IN (SELECT g FROM k)").await, ["0"]);
    assert_eq!(node.rows("DELETE FROM k WHERE id NOT IN (SELECT g FROM k) OR id > 100").await, ["0"]);
    assert_eq!(node.rows("SELECT count(*) FROM k").await, ["3"]);
    let groups = "SELECT g FROM k GROUP BY g HAVING count(*) NOT IN (SELECT count(*) FROM k WHERE g = 2) OR g = 3";
    assert_eq!(node.rows(groups).await, ["3"]);
    assert_eq!(node.rows("SELECT count(*) FROM k WHERE (id NOT IN (SELECT g FROM k)) IS NOT TRUE").await, ["3"]);
    assert_eq!(node.rows("SELECT id FROM k WHERE (id IN (SELECT g FROM k)) IS TRUE ORDER BY 1").await, ["2", "3"]);
    assert_eq!(node.rows("SELECT count(*) FROM k WHERE (id IN (SELECT g FROM k)) IS FALSE").await, ["0"]);
    assert_eq!(
        node.rows("SELECT id FROM k WHERE (id IN (SELECT g FROM k)) IS NOT FALSE ORDER BY 1").await,
        ["1", "2", "3"]
    );
    let guarded = "SELECT id FROM k WHERE id NOT IN (SELECT 4 / (id - 1) FROM k WHERE id <> 1) ORDER BY 1";
    assert_eq!(node.rows(guarded).await, ["1", "3"]);
    assert_eq!(
        node.rows("SELECT id FROM k WHERE id = 1 OR id NOT IN (SELECT max(id) FROM k) ORDER BY 1").await,
        ["1", "2"]
    );
    let keys = "SELECT a.id FROM k AS a JOIN k AS b";
    assert_eq!(
        node.rows(&format!("{keys} ON a.id IS NOT DISTINCT FROM b.id WHERE a.g = b.g ORDER BY 1")).await,
        ["2", "3"]
    );
    assert_eq!(
        node.rows(&format!("{keys} ON a.g = b.g JOIN k AS c ON b.id IS NOT DISTINCT FROM c.id ORDER BY 1")).await,
        ["2", "3"]
    );
    assert_eq!(
        node.rows(&format!("{keys} ON a.g IS NOT DISTINCT FROM b.g JOIN k AS c ON b.id = c.id ORDER BY 1")).await,
        ["1", "2", "3"]
    );
    for text in [
        "SELECT * FROM k WHERE coalesce(id NOT IN (SELECT g FROM k), true)",
        "SELECT * FROM k AS o WHERE id NOT IN (SELECT g FROM k WHERE k.id = o.id LIMIT 1) OR g = 2",
    ] {
        let error = node.refused(text).await;
        assert!(error.code() == Code::NotBuilt && error.message().contains("IN (SELECT …"), "{text}: {error:?}");
    }
    // Where there can be no null, it stands anywhere.
    assert_eq!(node.rows("SELECT count(*) FROM k WHERE coalesce(id NOT IN (SELECT id FROM k), true)").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn is_distinct_from_binds_more_than_and() {
    let node = Node::new().await;
    node.run("CREATE TABLE d (id INT PRIMARY KEY, b BOOLEAN, CHECK (b IS DISTINCT FROM true AND id > 0 OR b IS TRUE))")
        .await;
    node.run("INSERT INTO d VALUES (1, true), (2, false), (3, NULL)").await;
    let ids = async |condition: &str| node.rows(&format!("SELECT id FROM d WHERE {condition} ORDER BY id")).await;
    assert_eq!(ids("b IS DISTINCT FROM true AND id = 2").await, ["2"]);
    assert_eq!(ids("b IS NOT DISTINCT FROM true OR id = 2").await, ["1", "2"]);
    assert_eq!(ids("NOT b IS DISTINCT FROM true").await, ["1"]);
    assert_eq!(ids("id IS DISTINCT FROM 1 + 1 AND id IS NOT DISTINCT FROM 3").await, ["3"]);
    assert_eq!(ids("b IS NOT DISTINCT FROM id = 1 AND id < 3").await, ["1", "2"]);
    assert_eq!(node.refused("INSERT INTO d VALUES (-5, NULL)").await.code(), Code::CheckViolation);
    assert_eq!(node.rows("DELETE FROM d WHERE b IS DISTINCT FROM true AND id = 2").await, ["1"]);
    assert_eq!(ids("(b IS DISTINCT FROM true) IS DISTINCT FROM false").await, ["3"]);
    let error = node.refused("SELECT id IS DISTINCT FROM 1 IS DISTINCT FROM 2 FROM d").await;
    assert!(error.message().contains("in brackets"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_numbers_do_not_wrap() {
    let node = Node::new().await;
    node.run("CREATE TABLE n (id INT PRIMARY KEY, x BIGINT, s SMALLINT, i INT)").await;
    node.run("INSERT INTO n VALUES (1, 9223372036854775807, 32767, 2147483647), (2, 1, 1, 1), (3, -5, -5, -5)").await;
    for sunk in [false, true] {
        if sunk {
            node.tier("n").await;
            node.let_go("n").await;
        }
        for text in [
            "SELECT x + 1 FROM n",
            "SELECT x * 2 FROM n",
            "SELECT -5 - x - 100 FROM n",
            "SELECT -(x + id - 1) * 2 FROM n",
            "SELECT id FROM n WHERE x + 1 > 0",
            "SELECT sum(x) FROM n WHERE x > 0",
            "SELECT id % 2, sum(x) FROM n WHERE x > 0 GROUP BY 1 HAVING sum(x + x) > 0",
            "SELECT sum(x) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) FROM n",
            "UPDATE n SET x = x + 1",
            "UPDATE n SET x = x + 1 WHERE id = 1",
            "CREATE TABLE m AS SELECT sum(x) AS s FROM n WHERE x > 0",
            "SELECT 9223372036854775807 + 1",
            "INSERT INTO n VALUES (4, 9223372036854775807 + 1, 1, 1)",
        ] {
            let error = node.refused(text).await;
            assert_eq!(error.code(), Code::InvalidSql, "{text}: {error:?}");
            assert!(
                error.message().to_lowercase().contains("overflow") || error.message().contains("too large"),
                "{error}"
            );
        }
        // Too large on the way is not too large.
        assert_eq!(
            node.rows("SELECT sum(x), sum(DISTINCT x), sum(i), sum(s) FROM n").await,
            ["9223372036854775803|9223372036854775803|2147483643|32763"]
        );
        let groups = "SELECT id > 0 AS g, sum(x), count(x) FROM n GROUP BY g";
        assert_eq!(node.rows(groups).await, ["true|9223372036854775803|3"]);
        let moving = "SELECT id, sum(x) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM n WHERE id > 1 ORDER BY id";
        assert_eq!(node.rows(moving).await, ["2|1", "3|-4"]);
        assert_eq!(node.rows("SELECT sum(x) FROM n WHERE id > 5").await, [""]);
        assert_eq!(node.rows("SELECT x + id - id, i + 1, s * 2 FROM n WHERE id = 2").await, ["1|2|2"]);
        assert_eq!(
            node.rows("SELECT sum(CAST(x AS DECIMAL(38, 0))) FROM n WHERE x > 0").await,
            ["9223372036854775808"]
        );
        assert_eq!(node.rows("SELECT -x FROM n ORDER BY id").await, ["-9223372036854775807", "-1", "5"]);
        let sets =
            "SELECT s * 2 AS twice, grouping(s * 2), count(*) FROM n WHERE id > 1 GROUP BY CUBE (s * 2) ORDER BY 2, 1";
        assert_eq!(node.rows(sets).await, ["-10|0|1", "2|0|1", "|1|2"]);
        let moving = node.refused("SELECT sum(DISTINCT x) OVER (ORDER BY id ROWS 1 PRECEDING) FROM n").await;
        assert_eq!(moving.code(), Code::NotBuilt, "{moving}");
        let ranks = "SELECT dense_rank() OVER (ORDER BY s) - rank() OVER (ORDER BY id) FROM n WHERE id = 2";
        assert_eq!(node.rows(ranks).await, ["0"]);
        let names = node.batches("SELECT x - 1, sum(x) FROM n WHERE id = 2 GROUP BY x - 1").await.unwrap()[0].schema();
        assert_eq!(names.field(0).name(), "n.x - Int64(1)");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn casts_in_filters_round_as_they_do_elsewhere() {
    let node = Node::new().await;
    node.run("CREATE TABLE c (id INT PRIMARY KEY, dec DECIMAL(9, 3), t TIMESTAMP(9), word VARCHAR) WITH (format_version = 3)")
        .await;
    node.run(
        "INSERT INTO c VALUES (1, 1.5, '2026-01-01T00:00:00.000000999', '7'), (2, 0.6, '2026-01-01T00:00:00', ''), \
         (3, 1, '2026-01-01T00:00:00.000001', '-')",
    )
    .await;
    for sunk in [false, true] {
        if sunk {
            node.tier("c").await;
            node.let_go("c").await;
        }
        let casts = [
            ("CAST(dec AS INT)", "1"),
            ("CAST(dec AS DECIMAL(9, 0))", "2"),
            ("CAST(dec AS BIGINT)", "0"),
            ("CAST(t AS TIMESTAMP)", "TIMESTAMP '2026-01-01T00:00:00'"),
            ("TRY_CAST(dec AS INT)", "1"),
        ];
        for (cast, value) in casts {
            // The model is what SELECT shows of each row.
            let made = format!("SELECT id, {cast} AS made FROM c ORDER BY id LIMIT 9");
            let shown = node.rows(&format!("SELECT id FROM ({made}) WHERE made = {value} ORDER BY id")).await;
            for form in [
                format!("{cast} = {value}"),
                format!("{cast} IN ({value})"),
                format!("{cast} BETWEEN {value} AND {value}"),
                format!("NOT ({cast} <> {value})"),
            ] {
                let found = node.rows(&format!("SELECT id FROM c WHERE {form} ORDER BY id")).await;
                assert_eq!(found, shown, "{form}");
                let kept = format!("SELECT count(*) FILTER (WHERE {form}) FROM c");
                assert_eq!(node.rows(&kept).await, [shown.len().to_string()], "{kept}");
            }
            assert!(!shown.is_empty(), "{cast}");
        }
        let sets = "SELECT CAST(dec AS INT) AS whole, count(*) FROM c GROUP BY GROUPING SETS ((CAST(dec AS INT)), ()) ORDER BY 2, 1";
        assert_eq!(node.rows(sets).await, ["0|1", "1|2", "|3"]);
        let there = "t AT TIME ZONE 'Europe/Oslo'";
        let made = node.rows(&format!("SELECT CAST({there} AS VARCHAR) FROM c WHERE id = 2")).await.remove(0);
        for form in [format!("{there} = TIMESTAMPTZ '{made}'"), format!("CAST({there} AS VARCHAR) = '{made}'")] {
            assert_eq!(node.rows(&format!("SELECT id FROM c WHERE {form}")).await, ["2"], "{form}");
        }
        assert_eq!(node.rows("SELECT id FROM c WHERE dec = 1.5 AND CAST(dec AS DOUBLE) > 1.4").await, ["1"]);
        for text in [
            "SELECT CAST(word AS DECIMAL(5, 2)) FROM c",
            "SELECT id FROM c WHERE dec = ''",
            "SELECT CAST('-' AS DECIMAL(5, 2))",
            "SELECT CAST('' AS DECIMAL(5, 2))",
            "INSERT INTO c (id, dec) VALUES (9, CAST('' AS DECIMAL(5, 2)))",
            "INSERT INTO c (id, dec) VALUES (9, '')",
            "INSERT INTO c (id, dec) VALUES (9, '.')",
            "INSERT INTO c (id, dec) SELECT 9, word FROM c WHERE id = 2",
        ] {
            let error = node.refused(text).await;
            assert!(matches!(error.code(), Code::InvalidSql | Code::InvalidRow), "{text}: {error:?}");
        }
        let tried = node.rows("SELECT TRY_CAST(word AS DECIMAL(5, 2)) FROM c ORDER BY id").await;
        assert_eq!(tried, ["7.00", "", ""]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_written_twice_are_two() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (x INT, y INT, z DOUBLE)").await;
    node.run("INSERT INTO t SELECT 2, 1, 1").await;
    node.run("INSERT INTO t SELECT 3, 3, 3").await;
    assert_eq!(node.rows("SELECT x, x, y, x FROM t ORDER BY 2").await, ["2|2|1|2", "3|3|3|3"]);
    assert_eq!(
        node.rows("SELECT x, t.x, x::VARCHAR, CAST(x AS BIGINT), abs(x), abs((x)::BIGINT) FROM t ORDER BY 1").await,
        ["2|2|2|2|2|2", "3|3|3|3|3|3"]
    );
    assert_eq!(node.rows("SELECT CAST(1.5 AS INT), 1.5, CAST(CAST(1.5 AS DECIMAL(5, 2)) AS INT)").await, ["1|1.5|1"]);
    let two = "SELECT a.x, b.x, a.x, b.x::VARCHAR FROM t AS a JOIN t AS b ON a.x = b.x ORDER BY 1";
    assert_eq!(node.rows(two).await, ["2|2|2|2", "3|3|3|3"]);
    let two = node.batches(two).await.unwrap()[0].schema();
    assert_eq!(two.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["x", "x", "x_1", "x_2"]);
    assert_eq!(node.rows("SELECT count(*), COUNT(*), X, x FROM t GROUP BY x ORDER BY 3").await, ["1|1|2|2", "1|1|3|3"]);
    assert_eq!(node.rows("SELECT count(*), count(*) FROM t").await, ["2|2"]);
    assert_eq!(node.rows("SELECT y, y, count(*), count(*) FROM t GROUP BY y ORDER BY y LIMIT 1").await, ["1|1|1|1"]);
    assert_eq!(node.rows("SELECT x_1 FROM (SELECT x, x FROM t) ORDER BY 1").await, ["2", "3"]);
    assert_eq!(node.rows("SELECT 1, 1 UNION ALL SELECT 2, 2 ORDER BY 1").await, ["1|1", "2|2"]);
    let names = node.batches("SELECT x, x, 5 AS x_1 FROM t").await.unwrap()[0].schema();
    assert_eq!(names.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["x", "x_2", "x_1"]);
    let params = vec![serde_json::json!(7), serde_json::json!(7)];
    let asked = crate::SqlRequest { params, ..crate::SqlRequest::default() };
    assert!(node.sql.execute("SELECT $1, $2", asked).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_planner_says_is_said_for_people() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (x INT, h UUID)").await;
    node.run("INSERT INTO t VALUES (1, '0189dd5c-a2a5-7d1e-9a4c-0242ac120002')").await;
    for sunk in [false, true] {
        if sunk {
            node.tier("t").await;
            node.let_go("t").await;
        }
        for (text, code, part) in [
            ("SELECT x IN (SELECT x FROM t) FROM t", Code::NotBuilt, "stands in WHERE"),
            ("SELECT * FROM t WHERE h = 'x'", Code::InvalidSql, "is compared with a UUID"),
            ("SELECT * FROM t WHERE x = 'abc'", Code::InvalidSql, "abc"),
            ("SELECT CAST('2026-02-30' AS DATE)", Code::InvalidSql, "2026-02-30"),
            ("SELECT * FROM t LIMIT -1", Code::InvalidSql, "LIMIT"),
        ] {
            let error = node.refused(text).await;
            assert_eq!(error.code(), code, "{text}: {error:?}");
            assert!(error.message().contains(part), "{text}: {error:?}");
            assert!(
                !error.message().contains("caused by") && !error.message().contains("optimizer"),
                "{text}: {error}"
            );
        }
    }
}

/// Runs a check on tables that are hot, then half in the lake, then all.
async fn in_each_tier(node: &Node, tables: &[&str], check: impl AsyncFn()) {
    check().await;
    for table in tables {
        node.tier(table).await;
        node.let_go(table).await;
        check().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_ask_the_column_that_is_meant_among_those_of_its_name() {
    let node = Node::new().await;
    node.run("CREATE TABLE o (id INT, cust INT, note VARCHAR)").await;
    node.run("INSERT INTO o VALUES (1, 1, 'x'), (2, 7, 'y'), (3, 1, 'z'), (4, 8, 'w')").await;
    node.run("CREATE TABLE cu (id INT, note VARCHAR)").await;
    node.run("INSERT INTO cu VALUES (1, 'n'), (50, 'm')").await;
    node.run("CREATE TABLE a (id INT, x INT)").await;
    node.run("INSERT INTO a VALUES (1, 2), (2, 3), (3, 4)").await;
    node.run("CREATE TABLE b (id INT, x INT)").await;
    node.run("INSERT INTO b VALUES (2, 100), (3, 100), (4, 100), (5, 100), (6, 100), (7, 1), (3, 2)").await;
    node.run("CREATE TABLE c (id INT, x INT)").await;
    node.run("INSERT INTO c VALUES (2, 1), (3, 2), (4, 3), (9, 9)").await;
    node.run("CREATE TABLE z (id INT)").await;
    node.run("INSERT INTO z VALUES (2)").await;
    let right = "SELECT c.id, c.note FROM o RIGHT JOIN cu AS c ON c.id = o.cust WHERE";
    let below = "JOIN z ON z.id = t.x";
    in_each_tier(&node, &["o", "cu", "a", "b", "c", "z"], async || {
        for (text, expected) in [
            (format!("{right} o.note IS NULL"), vec!["50|m"]),
            (format!("{right} o.note IS NULL OR o.note > c.note ORDER BY 1"), vec!["1|n", "1|n", "50|m"]),
            (
                format!("SELECT t.* FROM (SELECT * FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.id = a.x AND b.x > a.id)) t {below}"),
                vec!["1|2"],
            ),
            (format!("SELECT t.* FROM (SELECT * FROM a WHERE x IN (SELECT id FROM b WHERE b.x > 1)) t {below}"), vec!["1|2"]),
            (
                format!("SELECT t.* FROM (SELECT * FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.id = a.x AND b.x > a.id)) t {below}"),
                vec![],
            ),
            (format!("SELECT t.x, t.id FROM (SELECT x, id FROM a EXCEPT SELECT id, x FROM c) t {below}"), vec![]),
            (format!("SELECT t.x, t.id FROM (SELECT x, id FROM a INTERSECT SELECT id, x FROM c) t {below}"), vec!["2|1"]),
            ("SELECT a.x, b.x FROM a JOIN b ON a.x = b.id ORDER BY b.x, a.x LIMIT 2".to_owned(), vec!["3|2", "2|100"]),
            ("SELECT a.x, b.x FROM b JOIN a ON a.x = b.id ORDER BY b.x DESC, a.x LIMIT 2".to_owned(), vec!["2|100", "3|100"]),
            ("SELECT max(b.x), min(a.x) FROM a JOIN b ON a.x = b.id".to_owned(), vec!["100|2"]),
            (
                "SELECT u.* FROM z JOIN (SELECT id, x FROM a UNION ALL SELECT DISTINCT x, id FROM c) AS u ON u.id = z.id ORDER BY 1, 2"
                    .to_owned(),
                vec!["2|3", "2|3"],
            ),
            ("SELECT a.id, c.id FROM a LEFT JOIN c ON a.id = c.x WHERE c.id > 2 ORDER BY a.id".to_owned(), vec!["2|3", "3|4"]),
        ] {
            assert_eq!(node.rows(&text).await, expected, "{text}");
        }
    })
    .await;
}

/// Rows are still left out where that is sound: by joins, by LIMIT, and by IN alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_looked_for_is_told_to_scans() {
    let node = Node::new().await;
    for table in ["a", "b", "c"] {
        node.run(&format!("CREATE TABLE {table} (id INT, x INT)")).await;
        node.run(&format!("INSERT INTO {table} VALUES (1, 2), (2, 3)")).await;
        node.tier(table).await;
    }
    for (text, is_told) in [
        ("SELECT a.id, b.x FROM a JOIN b ON a.id = b.id", true),
        ("SELECT * FROM a JOIN b ON a.id = b.id JOIN c ON c.id = b.x", true),
        ("SELECT id FROM a ORDER BY x LIMIT 1", true),
        ("SELECT id FROM a WHERE id IN (SELECT id FROM b)", true),
        ("SELECT id FROM a WHERE id NOT IN (SELECT id FROM b) ORDER BY x LIMIT 1", false),
        ("SELECT a.id FROM a JOIN b ON a.id IS NOT DISTINCT FROM b.id", false),
        ("SELECT id, x FROM a INTERSECT SELECT id, x FROM b", false),
        ("SELECT a.id FROM a JOIN b ON a.id = b.id WHERE a.x IN (SELECT x FROM c)", false),
    ] {
        let plan = node.rows(&format!("EXPLAIN {text}")).await.join("\n");
        assert_eq!(plan.contains("DynamicFilter"), is_told, "{text}: {plan}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_inside_nested_values_are_found_in_each_tier() {
    let node = Node::new().await;
    node.run("CREATE TABLE n (id INT, s STRUCT(a INT), l INT[])").await;
    for row in ["(1, {a: NULL}, [NULL])", "(2, {a: 5}, [5])", "(3, {a: 6}, [6])"] {
        node.run(&format!("INSERT INTO n VALUES {row}")).await;
    }
    in_each_tier(&node, &["n"], async || {
        for column in ["s", "l"] {
            let joined = format!("SELECT a.id FROM n AS a JOIN n AS b ON a.{column} = b.{column} ORDER BY 1");
            assert_eq!(node.rows(&joined).await, ["1", "2", "3"], "{joined}");
            let among = format!("SELECT id FROM n WHERE {column} IN (SELECT {column} FROM n) ORDER BY 1");
            assert_eq!(node.rows(&among).await, ["1", "2", "3"], "{among}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_mind_nulls_and_nan() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT, d INT, f DOUBLE, r REAL)").await;
    node.run(
        "INSERT INTO t VALUES (1, 1, 'NaN', 2), (2, NULL, 2, 'NaN'), (3, NULL, -1.5, -1.5), (4, 5, -0.0, 'Infinity'), \
         (5, 3, '-Infinity', NULL), (6, 9, NULL, 0.5)",
    )
    .await;
    in_each_tier(&node, &["t"], async || {
        let frame = "OVER (ORDER BY id ROWS 1 PRECEDING)";
        let moving = format!("SELECT min(d) {frame}, max(d) {frame}, sum(d) {frame} FROM t ORDER BY id");
        assert_eq!(node.rows(&moving).await, ["1|1|1", "1|1|1", "||", "5|5|5", "3|5|8", "3|9|12"]);
        let all = "SELECT max(f), min(f), max(r), min(r) FROM t";
        assert_eq!(node.rows(all).await, ["NaN|-inf|NaN|-1.5"]);
        let groups = "SELECT id <= 2 AS g, max(f), min(f), max(r), min(r), max(d), min(d) FROM t GROUP BY g ORDER BY g";
        assert_eq!(node.rows(groups).await, ["false|-0.0|-inf|inf|-1.5|9|3", "true|NaN|2.0|NaN|2.0|1|1"]);
        assert_eq!(node.rows("SELECT max(id), min(id) FROM t").await, ["6|1"]);
        let top = "SELECT id, max(d) FROM t GROUP BY id ORDER BY max(d) DESC LIMIT 2";
        assert_eq!(node.rows(top).await.iter().filter(|row| row.ends_with('|')).count(), 2);
        let kept = "SELECT d, max(f) FILTER (WHERE id > 3) FROM t GROUP BY d ORDER BY d NULLS LAST LIMIT 3";
        assert_eq!(node.rows(kept).await, ["1|", "3|-inf", "5|-0.0"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decimals_are_found_among_numbers() {
    let node = Node::new().await;
    node.run("CREATE TABLE p (id INT, price DECIMAL(10, 2), wide DECIMAL(18, 1))").await;
    node.run("INSERT INTO p VALUES (1, 6991028.06, 1234567890123456.5), (2, 0, 7), (3, NULL, NULL)").await;
    in_each_tier(&node, &["p"], async || {
        for (condition, expected) in [
            ("price IN (6991028.06, NULL)", vec!["1"]),
            ("price IN (6991028.06, 0)", vec!["1", "2"]),
            ("price IN (6991028.06, 1.005)", vec!["1"]),
            ("price NOT IN (6991028.06, 1.005)", vec!["2"]),
            ("price NOT IN (6991028.06, NULL)", vec![]),
            ("price IN (1.005)", vec![]),
            ("price NOT IN (1.005, 7.001)", vec!["1", "2"]),
            ("price IN (99999999999, 0)", vec!["2"]),
            ("price IN (CAST(6991028.0601 AS DECIMAL(12, 2)), CAST(0.001 AS DECIMAL(12, 2)))", vec!["1", "2"]),
            ("price = 6991028.06", vec!["1"]),
            // Of more digits than a double keeps, nobody knows which was written: no other row is taken for it.
            ("wide = 1234567890123456.4", vec![]),
            ("wide IN (123456789012.5, 7)", vec!["2"]),
        ] {
            let text = format!("SELECT id FROM p WHERE {condition} ORDER BY id");
            assert_eq!(node.rows(&text).await, expected, "{condition}");
        }
    })
    .await;
}

/// What the planner would answer otherwise than it is meant, and cannot be repaired from outside.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_answered_wrongly_is_refused() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT, x INT, g VARCHAR)").await;
    node.run("INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'a')").await;
    for text in [
        "SELECT id FROM t INTERSECT ALL SELECT x FROM t",
        "SELECT id FROM t EXCEPT ALL SELECT x FROM t",
        "SELECT id FROM t UNION SELECT x FROM t INTERSECT ALL SELECT id FROM t",
        "SELECT * FROM t RIGHT JOIN (SELECT 3 AS id) AS y USING (id)",
        "SELECT * FROM t FULL JOIN (SELECT 3 AS id) AS y USING (id)",
        "SELECT * FROM t NATURAL FULL JOIN (SELECT 3 AS id) AS y",
        "SELECT array_agg(id ORDER BY id), array_agg(id ORDER BY id DESC) FROM t GROUP BY g",
        "SELECT * FROM t WHERE g SIMILAR TO 'a'",
        "SELECT t.id FROM t JOIN t AS y ON t.id = y.x AND (t.x NOT IN (SELECT x FROM t) OR y.id = 3)",
        "SELECT count(*) OVER (ORDER BY x RANGE BETWEEN 3 PRECEDING AND 1 PRECEDING) FROM t",
        "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM t AS y JOIN t AS z ON y.id = z.id WHERE z.x = t.x AND y.x = t.id)",
        "SELECT id FROM t WHERE id IN (SELECT y.x FROM t AS y JOIN t AS z ON y.id = z.id WHERE z.x = t.x)",
        "SELECT * FROM t WHERE x NOT IN (SELECT max(y.x) FROM t AS y WHERE y.id = t.id)",
        "SELECT * FROM t WHERE 0 IN (SELECT count(*) FROM t AS y WHERE y.id = t.x)",
        "SELECT * FROM t WHERE EXISTS (SELECT count(*) FROM t AS y WHERE y.id = t.x)",
        "SELECT * FROM t WHERE EXISTS (SELECT 1 FROM t AS y WHERE y.g = t.g OFFSET 2)",
        "SELECT g FROM (SELECT g, count(*) NOT IN (SELECT x FROM t) AS f FROM t GROUP BY g) AS s WHERE f OR g = 'z'",
    ] {
        assert_eq!(node.refused(text).await.code(), Code::NotBuilt, "{text}");
    }
    assert_eq!(node.rows("SELECT array_agg(id ORDER BY id), array_agg(x ORDER BY id) FROM t").await, ["[1, 2]|[1, 2]"]);
    assert_eq!(node.rows("SELECT t.id, y.id FROM t RIGHT JOIN (SELECT 2 AS id) AS y ON t.id = y.id").await.len(), 1);
    let own = "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM (SELECT max(x) AS m FROM t) AS y WHERE y.m = t.x)";
    assert_eq!(node.rows(own).await, ["2"]);
    let types =
        "SELECT z FROM (SELECT x AS z FROM t UNION ALL SELECT 1.5) WHERE z NOT IN (SELECT id FROM t) ORDER BY z";
    assert_eq!(node.rows(types).await, ["1.5"]);
    let types = "SELECT z FROM (SELECT x AS z FROM t UNION ALL SELECT 1.5) WHERE z NOT IN (SELECT id FROM t WHERE id > 1) OR z = 2 ORDER BY z";
    assert_eq!(node.rows(types).await, ["1.0", "1.5", "2.0"]);
    let types = "SELECT count(*) FROM t WHERE CAST(id AS SMALLINT) NOT IN (SELECT 1.50 FROM t) AND g NOT IN (SELECT NULL FROM t WHERE id > 5)";
    assert_eq!(node.rows(types).await, ["2"]);
    node.run("CREATE TABLE nn (id BIGINT NOT NULL, g INT, PRIMARY KEY (id))").await;
    node.run("INSERT INTO nn VALUES (1, 1), (2, 1), (3, NULL)").await;
    let own =
        "SELECT a.id FROM nn AS a WHERE a.id NOT IN (SELECT b.id FROM nn AS b WHERE b.g = a.g AND b.id > 1) ORDER BY 1";
    assert_eq!(node.rows(own).await, ["1", "3"]);
    let nested =
        |count| format!("{}SELECT x FROM t{}", "SELECT x FROM t WHERE x NOT IN (".repeat(count), ")".repeat(count));
    assert_eq!(node.refused(&nested(7)).await.code(), Code::NotBuilt);
    assert_eq!(node.rows(&nested(4)).await.len(), 2);
    assert_eq!(node.rows(&nested(3)).await.len(), 0);
    let deep = "SELECT id FROM t WHERE x NOT IN (SELECT x FROM t WHERE x NOT IN (SELECT x FROM t WHERE x > 1))";
    assert_eq!(node.rows(deep).await, ["2"]);
    let ranges = "SELECT count(*) OVER (ORDER BY x RANGE BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t ORDER BY 1";
    assert_eq!(node.rows(ranges).await, ["1", "2"]);
    let marks = "SELECT id FROM t WHERE g = 'b' OR EXISTS (SELECT 1 FROM t AS y WHERE t.x < y.x AND y.id < 5)";
    assert_eq!(node.rows(marks).await, ["1"]);
    let several = "SELECT id FROM t WHERE id <= (SELECT 2) OR x NOT IN (SELECT x FROM t WHERE x > 1) ORDER BY 1";
    assert_eq!(node.rows(several).await, ["1", "2"]);
}
