//! Texts made to end the process. Each must be answered or refused, in time.

use std::time::{Duration, Instant};

use futures::StreamExt;
use thermocline_schemas::Code;

use super::{Node, options};
use crate::{SqlOptions, SqlRequest};

/// What takes longer never ends, or takes a share of something that has no bound: none of these would end in it.
const HANG: Duration = Duration::from_secs(30);

fn chain(first: &str, operator: &str, count: usize) -> String {
    let mut text = format!("SELECT {first}");
    for _ in 0..count {
        text.push_str(operator);
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_and_long_texts_do_not_abort() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (a BIGINT)").await;
    let nested = |open: &str, inner: &str, close: &str, count: usize| {
        format!("SELECT {}{inner}{}", open.repeat(count), close.repeat(count))
    };
    let deep = [
        ("plus", chain("1", "+1", 2_000)),
        ("plus long", chain("1", "+1", 100_000)),
        ("concat", chain("'a'", "||'a'", 50_000)),
        ("is null", chain("1", " IS NULL", 50_000)),
        ("casts", chain("1", "::int", 50_000)),
        ("or", format!("{} FROM t", chain("a = 0", " OR a = 1", 20_000))),
        ("parentheses", nested("(", "1", ")", 5_000)),
        ("brackets", nested("[", "1", "]", 5_000)),
        ("functions", nested("abs(", "1", ")", 5_000)),
        ("not", nested("NOT ", "true", "", 50_000)),
        ("minus", nested("- ", "1", "", 50_000)),
        ("case", nested("CASE WHEN true THEN ", "1", " END", 5_000)),
        ("subqueries", nested("(SELECT ", "1", ")", 10_000)),
        ("derived", format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(10_000), ") x".repeat(10_000))),
        ("from brackets", format!("SELECT * FROM {}t{}", "(".repeat(5_000), ")".repeat(5_000))),
        ("exists", nested("EXISTS (SELECT ", "1", ")", 5_000)),
        ("unions", "SELECT 1 UNION ALL ".repeat(5_000) + "SELECT 1"),
        ("joins", format!("SELECT 1 FROM t{}", ", t".repeat(5_000))),
        ("branches", format!("SELECT CASE {} END FROM t", "WHEN a = 1 THEN 2 ".repeat(10_000))),
        ("array of", format!("CREATE TABLE x (a {}INT{})", "ARRAY<".repeat(5_000), ">".repeat(5_000))),
    ];
    for (name, text) in deep {
        let started = Instant::now();
        let error = node.refused(&text).await;
        let code = if name == "array of" { Code::InvalidType } else { Code::SqlTooDeep };
        assert_eq!(error.code(), code, "{name}: {error:?}");
        assert!(started.elapsed() < HANG, "{name} took {:?}", started.elapsed());
    }
    let large = node.refused(&format!("SELECT '{}'", "x".repeat(1 << 20))).await;
    assert_eq!(large.code(), Code::RequestTooLarge);
    assert_eq!(node.rows("SELECT 1").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_and_again_ends() {
    let node = Node::new().await;
    let distinct = |count: usize| "a IS DISTINCT FROM ".repeat(count);
    for text in [
        format!("SELECT 1{}", ", 1".repeat(4_000)),
        format!("SELECT 1{}", ", 1".repeat(300_000)),
        format!("INSERT INTO t VALUES (a{}.", ".ic".repeat(900)),
        format!("SELECT a{}.'", ".ic".repeat(40)),
        format!("SELECT a{}.", ".ic[1]".repeat(40)),
        format!("SELECT {}1", distinct(20_000)),
        format!("CREATE TABLE x (a INT, CHECK ({}1))", distinct(3_000)),
        format!("CREATE TABLE x (a INT, CHECK (1{} IS DISTINCT FROM 1))", "+1".repeat(3_000)),
    ] {
        let started = Instant::now();
        let done = node.answer(&text).await;
        assert!(started.elapsed() < HANG, "{} took {:?}", &text[..40], started.elapsed());
        drop(done);
    }
    assert_eq!(node.rows("SELECT 1, 1").await, ["1|1"]);
}

/// Joins that find nothing for minutes: as many as there are threads, and others are answered meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn joins_that_find_nothing_end_with_their_time_and_starve_nobody() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (k BIGINT, v BIGINT)").await;
    node.run("INSERT INTO t SELECT 1, value FROM generate_series(1, 40000)").await;
    let long = "generate_series(1, 1000000)";
    for text in [
        format!("SELECT count(*) FROM {long} a(x), {long} b(y) WHERE x * y = -7"),
        "SELECT count(*) FROM t a JOIN t b ON a.k = b.k AND a.v * b.v = -7 JOIN t c ON b.k = c.k AND c.v * a.v = -7"
            .to_owned(),
    ] {
        let patient = || SqlRequest { timeout: Some(Duration::from_secs(60)), ..SqlRequest::default() };
        let hogs: Vec<_> = (0..4)
            .map(|_| {
                let (sql, text) = (node.sql.clone(), text.clone());
                tokio::spawn(async move {
                    let batches: Vec<_> = sql.execute(&text, patient()).await?.batches.collect().await;
                    batches.into_iter().collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(node.rows("SELECT count(*) FROM t").await, ["40000"]);
        assert!(hogs.iter().any(|hog| !hog.is_finished()), "{text}: others waited for it");
        for hog in hogs {
            hog.abort();
            assert!(hog.await.is_err_and(|error| error.is_cancelled()), "{text} is answered");
        }
        let impatient = SqlRequest { timeout: Some(Duration::from_secs(1)), ..SqlRequest::default() };
        let error = match node.sql.execute(&text, impatient).await {
            Err(error) => error,
            Ok(mut answer) => answer.batches.next().await.expect("an end").expect_err("it takes longer"),
        };
        assert_eq!(error.code(), Code::QueryTimeout, "{error:?}");
        // Given up by who asked.
        let asked = node.sql.execute(&text, SqlRequest::default()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(asked);
        let started = Instant::now();
        while node.sql.memory_bytes() > 0 {
            assert!(started.elapsed() < HANG, "{text} goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Each expression names the one before twice: a billion queries in a kilobyte.
#[tokio::test(flavor = "multi_thread")]
async fn names_in_with_do_not_multiply() {
    let node = Node::new().await;
    let doubling = |count: usize| {
        let more = (1..=count).map(|n| format!(", a{n} AS (SELECT l.x FROM a{0} l CROSS JOIN a{0} r)", n - 1));
        format!("WITH a0 AS (SELECT 1 AS x){} SELECT count(*) FROM a{count}", more.collect::<String>())
    };
    for count in [12, 30, 400] {
        let started = Instant::now();
        let error = node.refused(&doubling(count)).await;
        assert_eq!(error.code(), Code::SqlTooDeep, "{count}: {error:?}");
        assert!(started.elapsed() < HANG, "{count} took {:?}", started.elapsed());
    }
    assert_eq!(node.rows(&doubling(6)).await, ["1"]);
    let many = |count: usize| (0..count).map(|n| format!("a{n} AS (SELECT {n} AS x)")).collect::<Vec<_>>().join(", ");
    let error = node.refused(&format!("WITH {} SELECT x FROM a7", many(20_000))).await;
    assert_eq!(error.code(), Code::SqlTooDeep);
    assert_eq!(node.rows(&format!("WITH {} SELECT x FROM a7", many(400))).await, ["7"]);
    let nested = "WITH a AS (SELECT 1 AS x) SELECT * FROM (WITH b AS (SELECT x + 1 AS x FROM a) SELECT x FROM b) c";
    assert_eq!(node.rows(nested).await, ["2"]);
}

/// Planning takes twice as long for each level: twenty of them took minutes, without yielding.
#[tokio::test(flavor = "multi_thread")]
async fn subqueries_nest_only_so_deep() {
    let node = Node::new().await;
    let nested =
        |open: &str, count: usize| format!("SELECT {}{}", open.repeat(count), "1)".to_owned() + &")".repeat(count - 1));
    for open in ["(SELECT ", "EXISTS (SELECT ", "1 IN (SELECT ", "(WITH x AS (SELECT 1) SELECT "] {
        let started = Instant::now();
        for deep in [9, 20, 100] {
            let error = node.refused(&nested(open, deep)).await;
            assert_eq!(error.code(), Code::SqlTooDeep, "{open} {deep}: {error:?}");
        }
        assert!(started.elapsed() < HANG, "{open} took {:?}", started.elapsed());
        // Whether DataFusion can run it is another question.
        let allowed = node.answer(&nested(open, 8)).await;
        assert!(allowed.as_ref().err().is_none_or(|error| error.code() != Code::SqlTooDeep), "{open}: {allowed:?}");
    }
    // Tables made of queries are not what is meant.
    let derived = format!("SELECT * FROM {}(SELECT 1){}", "(SELECT * FROM ".repeat(30), ")".repeat(30));
    assert_eq!(node.rows(&derived).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_write_is_not_too_deep() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (a BIGINT)").await;
    node.run("INSERT INTO t VALUES (1), (4000)").await;
    let comfortable = [
        format!("SELECT count(*) FROM t WHERE a = 0{}", (1..5_000).map(|a| format!(" OR a = {a}")).collect::<String>()),
        format!("SELECT count(*) FROM t WHERE a <> 0{}", " AND a <> 5".repeat(5_000)),
        format!("SELECT count(*) FROM t WHERE a IN (4000, {})", vec!["1"; 20_000].join(", ")),
    ];
    for text in comfortable {
        let started = Instant::now();
        assert_eq!(node.rows(&text).await, ["2"]);
        assert!(started.elapsed() < HANG, "{:?}", started.elapsed());
    }
    assert_eq!(node.rows(&chain("1", "+1", 150)).await, ["151"]);
    assert_eq!(node.rows(&format!("SELECT {}1{}", "(".repeat(100), ")".repeat(100))).await, ["1"]);
    assert_eq!(node.rows(&format!("SELECT {}1{}", "abs(".repeat(30), ")".repeat(30))).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_in_its_time() {
    let node = Node::new().await;
    let request = SqlRequest { timeout: Some(Duration::from_millis(300)), ..SqlRequest::default() };
    let started = Instant::now();
    // Long, and small: a larger one may run out of memory first.
    let text = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.value * b.value % 7 = 8";
    let error = match node.sql.execute(text, request).await {
        Err(error) => error,
        Ok(mut answer) => loop {
            match answer.batches.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("answered"),
            }
        },
    };
    assert_eq!(error.code(), Code::QueryTimeout);
    assert!(started.elapsed() < HANG, "{:?}", started.elapsed());
}

/// What a statement held comes back soon after it was given up, so its threads are free for others.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_is_given_up_lets_go() {
    let node = Node::new().await;
    let joins = [
        "SELECT sum(a.value + b.value) FROM range(1000000) a, range(10000000) b",
        "SELECT sum(a.value + b.value) FROM range(1000000) a, range(10000000) b WHERE a.value < b.value + 1",
        "SELECT sum(a.value + b.value) FROM range(1000000) a JOIN range(1000000) b ON a.value % 2 = b.value % 2",
    ];
    for text in joins {
        let request = SqlRequest { timeout: Some(Duration::from_millis(300)), ..SqlRequest::default() };
        if let Ok(mut answer) = node.sql.execute(text, request).await {
            let first = answer.batches.next().await.expect("an end");
            assert_eq!(first.unwrap_err().code(), Code::QueryTimeout, "{text}");
        }
        let given_up = Instant::now();
        while node.sql.memory_bytes() > 0 {
            assert!(given_up.elapsed() < HANG, "{text} holds on to {}", node.sql.memory_bytes());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_an_end() {
    let small = SqlOptions { memory_bytes_max: 8 << 20, query_memory_bytes_max: 8 << 20, ..options() };
    let node = Node::new().await;
    let node = Node::open_again(node, small).await;
    let text = "SELECT count(*) FROM (SELECT count(*) FROM range(5000000) GROUP BY value * 7 % 5000011)";
    let error = node.refused(text).await;
    assert_eq!(error.code(), Code::ResourcesExhausted, "{error:?}");
    assert_eq!(node.rows("SELECT count(*) FROM range(1000)").await, ["1000"]);
}
