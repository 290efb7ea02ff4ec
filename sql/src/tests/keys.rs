//! Primary-key tables in SQL: the state at the cut, by scans and by lookups.

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
