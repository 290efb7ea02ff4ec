//! Primary-key tables in SQL: the state at the cut, by scans and by lookups.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use thermocline_engine::{Change, ChangeRows, Sender, Table};
use thermocline_schemas::Code;

use super::Node;
use futures::{StreamExt, TryStreamExt};

/// How much of a table is in the lake.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sunk {
    /// It has none.
    NoLake,
    /// The first two of three requests.
    Older,
    All,
    /// All, and hot rows are gone.
    AllAlone,
}

const SUNK: [Sunk; 4] = [Sunk::NoLake, Sunk::Older, Sunk::All, Sunk::AllAlone];

impl Node {
    /// One request for keys of the region `r1`.
    async fn change(&self, table: &Arc<Table>, wishes: &[(i64, Change)]) {
        let ids = Int64Array::from_iter_values(wishes.iter().map(|(id, _)| *id));
        let texts = |text: &str| Arc::new(StringArray::from(vec![text; wishes.len()])) as ArrayRef;
        let columns = vec![Arc::new(ids) as ArrayRef, texts("r1"), texts("in turn")];
        let rows = RecordBatch::try_new(table.schema().clone(), columns).unwrap();
        let changes = wishes.iter().map(|(_, change)| *change).collect();
        let rows = ChangeRows::new(table.descriptor(), rows, changes).unwrap();
        self.engine.change(table, rows, Sender::default()).await.unwrap();
    }
}

async fn with_keys(buckets: u32, sunk: Sunk) -> Node {
    let node = Node::new().await;
    let lake = sunk != Sunk::NoLake;
    let ddl = format!(
        "CREATE TABLE k (id BIGINT, region VARCHAR, name VARCHAR, PRIMARY KEY (region, id)) \
         WITH (lake_enabled = {lake}, buckets = {buckets})"
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
        if lake && (round < 2 || sunk != Sunk::Older) {
            node.tier("k").await;
        }
    }
    if sunk == Sunk::AllAlone {
        node.let_go("k").await;
    }
    node
}

/// Filters that name keys answer what the same filters answer when nobody can see that they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_answer_what_scans_answer() {
    for (buckets, sunk) in [1, 4].into_iter().flat_map(|buckets| SUNK.map(|sunk| (buckets, sunk))) {
        let node = with_keys(buckets, sunk).await;
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
            assert_eq!(node.rows(&answer(named)).await, node.rows(&answer(hidden)).await, "{named} {sunk:?}");
        }
    }
}

/// Keys come and go in turn: at every cut one of them is there, whatever the index says when the plan is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_is_of_the_cut_of_its_statement() {
    let node = Arc::new(with_keys(1, Sunk::NoLake).await);
    node.run("DELETE FROM k WHERE id = 1").await;
    let writer = tokio::spawn({
        let node = node.clone();
        async move {
            let table = node.table("k");
            for turn in 0..400 {
                // In one request: one key comes, the other one goes.
                let (comes, goes) = if turn % 2 == 0 { (1, 4) } else { (4, 1) };
                node.change(&table, &[(comes, Change::Upsert), (goes, Change::Delete)]).await;
            }
        }
    });
    while !writer.is_finished() {
        let found = node.rows("SELECT count(*) FROM k WHERE region = 'r1' AND id IN (1, 4)").await;
        assert_eq!(found, ["1"]);
    }
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_shows_whether_it_looks_up_or_scans() {
    let node = with_keys(1, Sunk::NoLake).await;
    let plan = async |filter: &str| node.rows(&format!("EXPLAIN SELECT name FROM k WHERE {filter}")).await.join("\n");
    // Three rows to look at, each by itself, of the hundreds that there are.
    let found = plan("region = 'r0' AND id IN (0, 3, 6)").await;
    assert!(found.contains("rows=3,"), "{found}");
    for scanned in ["id = 3", "region = 'r0' AND id > 3", "region = 'r0' OR id = 3"] {
        let found = plan(scanned).await;
        assert!(found.contains("rows=534,"), "{scanned}: {found}");
    }
}

/// Of the lake too the rows that are looked up are read alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_in_the_lake_reads_its_row() {
    let node = with_keys(1, Sunk::AllAlone).await;
    let mut answer = node.answer("SELECT name FROM k WHERE region = 'r0' AND id IN (0, 3, 6)").await.unwrap();
    let batches: Vec<_> = answer.batches.by_ref().try_collect().await.unwrap();
    assert_eq!(super::lines(&batches).len(), 3);
    assert_eq!(answer.stats.lake_rows.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_and_limits_see_only_the_state() {
    for sunk in SUNK {
        let node = with_keys(3, sunk).await;
        let (hot, lake) = match sunk {
            Sunk::NoLake => ("200", "0"),
            Sunk::Older => ("67", "200"),
            Sunk::All | Sunk::AllAlone => ("0", "200"),
        };
        for (query, expected) in [
            ("SELECT count(*) FROM k", "200"),
            ("SELECT count(*) FROM \"k$hot\"", hot),
            ("SELECT count(*) FROM \"k$lake\"", lake),
            ("SELECT count(*) FROM (SELECT * FROM k LIMIT 150)", "150"),
            ("SELECT count(*) FROM k WHERE name = 'v0'", "67"),
            ("SELECT sum(id) FROM k", "19900"),
            ("SELECT count(DISTINCT region || id) FROM k", "200"),
        ] {
            assert_eq!(node.rows(query).await, [expected], "{query} {sunk:?}");
        }
        let (inserts, updates) = if sunk == Sunk::AllAlone { ("0", "0") } else { ("200", "167") };
        for (kind, expected) in [("+I", inserts), ("-U", updates), ("+U", updates)] {
            let query = format!("SELECT count(*) FROM \"k$changes\" WHERE __kind = '{kind}'");
            assert_eq!(node.rows(&query).await, [expected], "{query} {sunk:?}");
        }
    }
}

/// A limit is satisfied by rows that live, also where a filter lets all rows of a file pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_brings_no_row_back() {
    for sunk in SUNK {
        let node = with_keys(1, sunk).await;
        for limit in [1, 20, 66, 150] {
            // Of the even ids none has its first name any more.
            let some = format!("SELECT id, name FROM k WHERE id <> 1000 AND region <> 'r9' LIMIT {limit}");
            let counts = "count(*), count(DISTINCT id), count(*) FILTER (WHERE name = 'v0' AND id % 2 = 0)";
            let found = node.rows(&format!("SELECT {counts} FROM ({some})")).await;
            assert_eq!(found, [format!("{limit}|{limit}|0")], "{sunk:?}");
        }
    }
}

/// Rows that are in the lake are changed like others, and what was there shows in the changelog.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_the_lake_are_changed_like_others() {
    let node = with_keys(3, Sunk::AllAlone).await;
    node.run("UPDATE k SET name = name || '!' WHERE id IN (0, 1, 2)").await;
    node.run("DELETE FROM k WHERE id BETWEEN 2 AND 4").await;
    node.run("INSERT INTO k VALUES (4, 'r1', 'again'), (1000, 'r1', 'new')").await;
    let state = "SELECT id, name FROM k WHERE id < 6 OR id > 199 ORDER BY id";
    let expected = ["0|v2!", "1|v0!", "4|again", "5|v0", "1000|new"];
    assert_eq!(node.rows(state).await, expected);
    let changes = node.rows("SELECT __kind, id, name FROM \"k$changes\" WHERE id < 3 ORDER BY id, __offset").await;
    assert_eq!(changes, ["-U|0|v2", "+U|0|v2!", "-U|1|v0", "+U|1|v0!", "-U|2|v1", "+U|2|v1!", "-D|2|v1!"]);
    node.tier("k").await;
    assert_eq!(node.rows(state).await, expected);
    assert_eq!(node.rows("SELECT count(*), count(DISTINCT id) FROM \"k$lake\"").await, ["199|199"]);
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
    let node = with_keys(1, Sunk::NoLake).await;
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
    let node = Arc::new(Node::new().await);
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

#[tokio::test(flavor = "multi_thread")]
async fn truncate_deletes_every_row_and_tells_of_each() {
    for sunk in SUNK {
        let node = with_keys(3, sunk).await;
        let rows = node.rows("SELECT count(*) FROM k").await;
        let changes = node.rows("SELECT count(*) FROM \"k$changes\"").await;
        let moment = node.engine.now_micros();
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        assert_eq!(node.rows("TRUNCATE TABLE k").await, rows, "{sunk:?}");
        assert_eq!(node.rows("SELECT count(*) FROM k").await, ["0"], "{sunk:?}");
        let told = node.rows("SELECT count(*) FROM \"k$changes\" WHERE __kind = '-D'").await;
        assert!(told[0].parse::<u64>().unwrap() >= rows[0].parse().unwrap(), "{sunk:?} {told:?} {changes:?}");
        if sunk != Sunk::NoLake {
            node.tier("k").await;
            assert_eq!(node.rows("SELECT count(*) FROM \"k$lake\"").await, ["0"], "{sunk:?}");
        }
        let then = format!("SELECT count(*) FROM k TIMESTAMP AS OF to_timestamp_micros({moment})");
        assert_eq!(node.rows(&then).await, rows, "{sunk:?}");
        assert_eq!(node.rows("truncate k").await, ["0"], "{sunk:?}");
        node.run("INSERT INTO k (id, region) VALUES (1, 'r')").await;
        assert_eq!(node.rows("SELECT count(*) FROM k").await, ["1"], "{sunk:?}");
    }
    let node = Node::new().await;
    node.run("CREATE TABLE i (id INT PRIMARY KEY) WITH (delete_behavior = 'ignore')").await;
    assert_eq!(node.refused("TRUNCATE TABLE i").await.code(), Code::WrongTableKind);
}
