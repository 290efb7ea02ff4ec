//! Start and stop: what is answered meanwhile, and what is there afterwards.

use std::time::{Duration, Instant};

use futures::SinkExt;
use thermocline_server::serve::{ServeOptions, Server};

use crate::command_line::Serving;
use crate::harness::{NDJSON, TestServer, good, lines, problem};

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_tables_outlive_the_server() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..10)).await;
    server.tier("t").await;
    server.append(&lines(10..15)).await;
    let server = server.restart().await;
    assert_eq!(server.value("SELECT count(*) FROM t").await, 15);
    server.append(&lines(15..16)).await;
    let server = server.restart().await;
    assert_eq!(server.value("SELECT sum(id) FROM t").await, 120);
}

/// One rotten byte: the bucket whose rows it was is refused, by file and byte, and everything else is served.
#[tokio::test(flavor = "multi_thread")]
async fn rot_refuses_a_bucket_and_not_the_server() {
    let server = TestServer::with_table().await;
    server.sql("CREATE TABLE other (id BIGINT)").await;
    server.append(&lines(0..10)).await;
    server.sql("INSERT INTO other VALUES (1), (2)").await;
    let rot = |data: &std::path::Path| {
        let journal = std::fs::read_dir(data.join("journal")).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&journal).unwrap();
        let sick = bytes.windows(6).position(|window| window.ends_with(b"3n4n5")).unwrap();
        bytes[sick] ^= 4;
        std::fs::write(&journal, bytes).unwrap();
    };
    let server = server.restart_after(rot).await;
    let select = server.post("/v1/sql").body("SELECT count(*) FROM t").send().await.unwrap();
    let refused = problem(select, 500, "corrupt").await;
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("bucket 0/0 of table public.t") && detail.contains(".log: payload"), "{detail}");
    assert!(detail.contains("at byte ") && refused["hint"].is_string(), "{refused}");
    let append = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(lines(10..11));
    problem(append.send().await.unwrap(), 500, "corrupt").await;
    let follow = server.get("/v1/tables/public/t/changes?from=earliest").send().await.unwrap();
    problem(follow, 500, "corrupt").await;
    problem(server.post("/v1/tables/public/t/tier").send().await.unwrap(), 500, "corrupt").await;

    server.sql("INSERT INTO other VALUES (3)").await;
    assert_eq!(server.value("SELECT sum(id) FROM other").await, 6);
    server.tier("other").await;
    let status: serde_json::Value = server.get("/v1/tables/public/t").send().await.unwrap().json().await.unwrap();
    assert!(status["buckets"][0]["refused"].as_str().unwrap().contains("payload"), "{status}");
    let ready: serde_json::Value = server.get("/ready").send().await.unwrap().json().await.unwrap();
    assert_eq!((&ready["status"], &ready["refused_buckets"]), (&"ready".into(), &1.into()));

    let server = server.restart_after(rot).await;
    assert_eq!(server.value("SELECT count(*) FROM t").await, 10, "the bit is as it was: so are the rows");
    let ready: serde_json::Value = server.get("/ready").send().await.unwrap().json().await.unwrap();
    assert_eq!(ready["refused_buckets"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_subscriptions_cleanly_and_answers_writers() {
    let server = TestServer::start_with(|options| options.limits.stop_timeout = Duration::from_secs(60)).await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    server.append(&lines(0..3)).await;
    let request = server.get("/v1/tables/public/t/changes?from=earliest").header("accept", NDJSON);
    let following = tokio::spawn(async move { good(request.send().await.unwrap()).await.text().await });
    let request = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(lines(3..2_000));
    let writing = tokio::spawn(async move { request.send().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    let text = following.await.unwrap().expect("a clean end");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["token"].is_string(), "{last}");
    good(writing.await.unwrap().expect("an answer")).await;
}

/// While a slow writer is being answered, others are told to come again; nobody is left without an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_turns_new_requests_away_and_answers_those_under_way() {
    let server = TestServer::start_with(|options| options.limits.stop_timeout = Duration::from_secs(60)).await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    let (url, directory) = (server.url.clone(), server.directory().clone());
    let (mut sender, receiver) = futures::channel::mpsc::channel::<std::io::Result<String>>(1);
    let body = reqwest::Body::wrap_stream(receiver);
    let request = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(body);
    let writing = tokio::spawn(request.send());
    sender.send(Ok(lines(0..1))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stopping = tokio::spawn(server.stop());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    good(client.get(format!("{url}/health")).send().await.unwrap()).await;
    for (method, path) in [("GET", "/ready"), ("POST", "/v1/sql"), ("POST", "/v1/tables/public/t/rows")] {
        let request = client.request(method.parse().unwrap(), format!("{url}{path}"));
        let response = request.header("content-type", NDJSON).body(lines(7..8)).send().await.unwrap();
        if path == "/v1/sql" {
            // Whether it may be asked comes before what it is asked.
            assert!(response.status().is_client_error() || response.status().is_server_error());
            continue;
        }
        assert_eq!(response.headers()["retry-after"], "1");
        problem(response, 503, "shutting_down").await;
    }
    sender.send(Ok(lines(1..2))).await.unwrap();
    drop(sender);
    good(writing.await.unwrap().expect("an answer")).await;
    stopping.await.unwrap();
    assert!(client.get(format!("{url}/health")).send().await.is_err(), "nobody listens any more");
    let server = TestServer::start_in(directory, |_| {}).await;
    assert_eq!(server.value("SELECT count(*) FROM t").await, 2);
}

/// A query that would go on for ever does not hold the stop up for longer than it may.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_queries_and_not_for_ever() {
    let server = TestServer::start_with(|options| options.limits.stop_timeout = Duration::from_millis(700)).await;
    let long = "SELECT sum(a.value + b.value) FROM range(1000000) a, range(10000000) b";
    let asking = tokio::spawn(server.post("/v1/sql").body(long).send());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() > Duration::from_millis(600), "{:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert!(asking.await.unwrap().is_err(), "its connection was cut off");
}

/// SIGTERM to the real binary, under a subscriber and writers.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_stops_it_as_cleanly() {
    let mut server = Serving::start(&[], "info").await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    let follow = server.client.get(format!("{}/v1/tables/public/t/changes?from=earliest", server.url));
    let follow = good(follow.header("accept", NDJSON).send().await.unwrap()).await;
    let following = tokio::spawn(follow.text());
    let request = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON);
    let writing = tokio::spawn(async move {
        let mut acked = 0;
        while let Ok(response) = request.try_clone().unwrap().body(lines(acked..acked + 1)).send().await {
            match response.status().as_u16() {
                200 => acked += 1,
                503 => break,
                other => panic!("{other}"),
            }
        }
        acked
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.signal("TERM").await;
    assert_eq!(server.ended().await, Some(0));
    let acked = writing.await.unwrap();
    let text = following.await.unwrap().expect("a clean end");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["token"].is_string(), "{last}");
    assert!(acked > 0 && text.lines().filter(|line| line.contains("\"kind\"")).count() as u64 <= acked + 1, "{acked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_starts_it_says_so() {
    let directory = tempfile::TempDir::new().unwrap();
    // A data directory that is a file: the start never succeeds, so that it can be looked at.
    let data = directory.path().join("data");
    std::fs::write(&data, "").unwrap();
    let server = Server::start(ServeOptions::new(&data, "127.0.0.1:0")).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}", server.address());
    good(client.get(format!("{url}/health")).send().await.unwrap()).await;
    let response = client.get(format!("{url}/ready")).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    problem(response, 503, "starting").await;
    problem(client.get(format!("{url}/v1/tables")).send().await.unwrap(), 503, "starting").await;
    assert!(server.ready().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_strangers_can_reach_wants_a_token() {
    let directory = tempfile::TempDir::new().unwrap();
    let Err(error) = Server::start(ServeOptions::new(directory.path(), "0.0.0.0:0")).await else {
        panic!("it started")
    };
    assert!(error.hint().unwrap().contains("--token"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_has_one_server() {
    let directory = tempfile::TempDir::new().unwrap();
    let first = Server::start(ServeOptions::new(directory.path(), "127.0.0.1:0")).await.unwrap();
    first.ready().await.unwrap();
    let second = Server::start(ServeOptions::new(directory.path(), "127.0.0.1:0")).await.unwrap();
    let error = second.ready().await.unwrap_err();
    assert!(error.message().contains("another server"), "{error}");
    first.stop().await.unwrap();
}
