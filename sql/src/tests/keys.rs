//! Primary-key tables in SQL: the state at the cut, by scans and by lookups.

use thermocline_schemas::Code;

use super::Node;

async fn with_keys(buckets: u32) -> Node {
    let node = Node::new().await;
    let ddl = format!(
        "CREATE TABLE k (id BIGINT, region VARCHAR, name VARCHAR, PRIMARY KEY (region, id)) \
         WITH (lake_enabled = false, buckets = {buckets})"
    );
    node.run(&ddl).await;
    for round in 0..3 {
        let rows: Vec<_> = (0..200)
            .filter(|id| id % (round + 1) == 0)
            .map(|id| format!("({id}, 'r{}', 'v{round}')", id % 3))
            .collect();
        node.run(&format!("INSERT INTO k VALUES {}", rows.join(", "))).await;
        if round == 1 {
            let table = node.table("k");
            node.engine.seal(&table).await.unwrap();
        }
    }
    node
}

/// Filters that name keys answer what the same filters answer when nobody can see that they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_answer_what_scans_answer() {
    for buckets in [1, 4] {
        let node = with_keys(buckets).await;
        for (named, hidden) in [
            ("id = 6 AND region = 'r0'", "id + 0 = 6 AND region || '' = 'r0'"),
            (
                "region = 'r1' AND id IN (1, 4, 4, 7, 1000) AND name = 'v2'",
                "region || '' = 'r1' AND id + 0 IN (1, 4, 7) AND name = 'v2'",
            ),
            ("id IN (1, 2, 3) AND region IN ('r0', 'r1', 'r2')", "id + 0 IN (1, 2, 3)"),
            ("6 = id AND region = 'r1'", "false"),
            ("(id = 1 OR id = 2) AND region = 'r1'", "id + 0 = 1"),
            ("(id = 1 OR id = 2) AND region = 'r1' AND id <> 1", "false"),
            ("id = NULL AND region = 'r1'", "false"),
            ("id = 1 AND region = 'r1' AND id = 2", "false"),
        ] {
            let answer = |filter: &str| format!("SELECT id, region, name FROM k WHERE {filter} ORDER BY id, region");
            assert_eq!(node.rows(&answer(named)).await, node.rows(&answer(hidden)).await, "{named}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_shows_whether_it_looks_up_or_scans() {
    let node = with_keys(1).await;
    let plan = async |filter: &str| node.rows(&format!("EXPLAIN SELECT name FROM k WHERE {filter}")).await.join("\n");
    // Three rows to look at, each by itself, of the hundreds that there are.
    let found = plan("region = 'r0' AND id IN (0, 3, 6)").await;
    assert!(found.contains("rows=3,"), "{found}");
    for scanned in ["id = 3", "region = 'r0' AND id > 3", "region = 'r0' OR id = 3"] {
        let found = plan(scanned).await;
        assert!(found.contains("rows=534,"), "{scanned}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_and_limits_see_only_the_state() {
    let node = with_keys(3).await;
    for (query, expected) in [
        ("SELECT count(*) FROM k", "200"),
        ("SELECT count(*) FROM \"k$hot\"", "200"),
        ("SELECT count(*) FROM \"k$lake\"", "0"),
        ("SELECT count(*) FROM (SELECT * FROM k LIMIT 150)", "150"),
        ("SELECT count(*) FROM k WHERE name = 'v0'", "67"),
        ("SELECT count(*) FROM \"k$changes\" WHERE __kind = '+I'", "200"),
        ("SELECT count(*) FROM \"k$changes\" WHERE __kind = '-U'", "167"),
    ] {
        assert_eq!(node.rows(query).await, [expected], "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_and_deletes_mean_the_rows_of_their_query() {
    let node = Node::new().await;
    node.run("CREATE TABLE k (id BIGINT PRIMARY KEY, n BIGINT NOT NULL, note VARCHAR) WITH (lake_enabled = false)")
        .await;
    node.run("CREATE TABLE l (id BIGINT)").await;
    node.run("INSERT INTO k VALUES (1, 10, 'a'), (2, 20, 'b'), (3, 30, NULL), (4, 40, 'd')").await;
    node.run("INSERT INTO l VALUES (2), (4)").await;
    for (statement, changed, left) in [
        ("UPDATE k SET n = n + id WHERE id >= 3", "2", "1|10|a 2|20|b 3|33| 4|44|d"),
        (
            "UPDATE k AS x SET n = 0, note = upper(x.note) WHERE x.id IN (SELECT id FROM l)",
            "2",
            "1|10|a 2|0|B 3|33| 4|0|D",
        ),
        ("UPDATE k SET note = NULL WHERE id = 2", "1", "1|10|a 2|0| 3|33| 4|0|D"),
        ("UPDATE k SET n = 5 WHERE false", "0", "1|10|a 2|0| 3|33| 4|0|D"),
        ("DELETE FROM k WHERE note IS NULL AND EXISTS (SELECT 1 FROM l WHERE l.id = k.id)", "1", "1|10|a 3|33| 4|0|D"),
        ("DELETE FROM k WHERE id = 77", "0", "1|10|a 3|33| 4|0|D"),
        ("DELETE FROM k WHERE id + n = 4 OR __offset = 0", "2", "3|33|"),
        ("DELETE FROM k", "1", ""),
    ] {
        assert_eq!(node.rows(statement).await, [changed], "{statement}");
        assert_eq!(node.rows("SELECT * FROM k ORDER BY id").await.join(" "), left, "{statement}");
    }
    let kinds = node.rows("SELECT __kind, count(*) FROM \"k$changes\" GROUP BY 1 ORDER BY 1").await;
    assert_eq!(kinds, ["+I|4", "+U|5", "-D|4", "-U|5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_cannot_be_are_refused() {
    let node = with_keys(1).await;
    node.run("CREATE TABLE l (id BIGINT)").await;
    for (statement, code) in [
        ("UPDATE l SET id = 1", Code::WrongTableKind),
        ("DELETE FROM l", Code::WrongTableKind),
        ("UPDATE k SET id = 1", Code::InvalidSql),
        ("UPDATE k SET nothing = 1", Code::UnknownColumn),
        ("UPDATE k SET name = 'a', name = 'b'", Code::InvalidSql),
        ("UPDATE k SET name = 'a' FROM l WHERE l.id = k.id", Code::NotBuilt),
        ("UPDATE k SET name = 'a' LIMIT 1", Code::NotBuilt),
        ("DELETE FROM k USING l WHERE l.id = k.id", Code::NotBuilt),
        ("DELETE FROM k WHERE id = 1 RETURNING id", Code::NotBuilt),
        ("DELETE FROM nothing", Code::TableNotFound),
        ("DELETE FROM k WHERE nothing = 1", Code::InvalidSql),
    ] {
        assert_eq!(node.refused(statement).await.code(), code, "{statement}");
    }
    assert_eq!(node.rows("SELECT count(*) FROM k").await, ["200"]);
}

/// Two statements add to the same rows at the same time, again and again: nothing that one adds is lost to the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_that_meet_lose_nothing() {
    let node = std::sync::Arc::new(Node::new().await);
    node.run("CREATE TABLE k (id BIGINT PRIMARY KEY, n BIGINT) WITH (lake_enabled = false, buckets = 2)").await;
    node.run("INSERT INTO k VALUES (1, 0), (2, 0), (3, 0)").await;
    let adding = |amount: i64| {
        let node = node.clone();
        tokio::spawn(async move {
            let mut done = 0;
            for _ in 0..25 {
                match node.batches(&format!("UPDATE k SET n = n + {amount}")).await {
                    Ok(_) => done += amount,
                    Err(error) => assert_eq!(error.code(), Code::WriteConflict),
                }
            }
            done
        })
    };
    let (one, other) = (adding(1), adding(1000));
    let added = one.await.unwrap() + other.await.unwrap();
    assert!(added > 0);
    assert_eq!(node.rows("SELECT DISTINCT n FROM k").await, [added.to_string()]);
}
