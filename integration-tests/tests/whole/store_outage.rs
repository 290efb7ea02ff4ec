//! The real binary over a bucket that is gone for a while: half of the time it answers 503, then not at all.
//!
//! Meanwhile rows are accepted, read and followed, and the table's status says what is not in the lake yet and why; after
//! it everything sinks, once. `THERMOCLINE_OUTAGE_SECONDS=<n>` sets how long it lasts.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use serde_json::Value;
use thermocline_integration_tests::binary::Server;
use thermocline_integration_tests::oracle::{self, rows};
use thermocline_integration_tests::s3_double::{Fault, S3Double};

const ROWS_PER_REQUEST: i64 = 50;
/// A server that stands still does not do so for ever; the bound is for that, not for speed.
const STANDSTILL: Duration = Duration::from_secs(240);

struct Run {
    server: Server,
    schema: SchemaRef,
    acked: i64,
    slowest_ack: Duration,
}

impl Run {
    async fn append(&mut self) {
        let ids: Vec<i64> = (self.acked..self.acked + ROWS_PER_REQUEST).collect();
        let sent = Instant::now();
        self.server.append("t", &rows(&self.schema, &ids), None).await.unwrap();
        self.slowest_ack = self.slowest_ack.max(sent.elapsed());
        self.acked += ROWS_PER_REQUEST;
    }

    async fn freshness(&self) -> Value {
        let answer = self.server.client.get(format!("{}/v1/tables/public/t", self.server.url)).send().await.unwrap();
        serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap()["freshness"].clone()
    }

    async fn metric(&self, name: &str) -> f64 {
        let answer = self.server.client.get(format!("{}/metrics", self.server.url)).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0.0)
    }

    /// The single number that a query answers with.
    async fn number(&self, sql: &str) -> Result<i64, String> {
        let answer = self.server.sql(sql).await?;
        answer["rows"][0][0].as_i64().ok_or_else(|| format!("{sql}: {answer}"))
    }

    async fn until_all_is_in_the_lake(&self) -> Duration {
        let started = Instant::now();
        while self.number("SELECT count(*) FROM \"t$lake\"").await != Ok(self.acked) {
            assert!(started.elapsed() < STANDSTILL, "not in the lake: {}", self.freshness().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        started.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_store_delays_the_lake_and_nothing_else() {
    let seconds = std::env::var("THERMOCLINE_OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let outage = Duration::from_secs(seconds.unwrap_or(6));
    let double = S3Double::start().await;
    let directory = tempfile::tempdir().unwrap();
    let endpoint = double.endpoint();
    let environment = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let data = directory.path().join("data");
    let (server, _) = Server::start_with(&data, &["--warehouse", "s3://lake/of/tests"], &environment).await;
    let columns = oracle::DDL_COLUMNS;
    server.sql(&format!("CREATE TABLE t ({columns}) WITH (lake_freshness = '200ms')")).await.unwrap();
    let mut run = Run { server, schema: oracle::schema().arrow(), acked: 0, slowest_ack: Duration::ZERO };
    let followed = Arc::<Mutex<Vec<i64>>>::default();
    let follower = tokio::spawn(follow(run.server.url.clone(), followed.clone()));
    for _ in 0..5 {
        run.append().await;
    }
    run.until_all_is_in_the_lake().await;
    let before = run.acked;

    let began = Instant::now();
    double.set_policy(move |_| Some(if began.elapsed() < outage / 2 { Fault::Status(503) } else { Fault::Hang }));
    let (mut lag_rows, mut lag_seconds, mut error, mut slowest_read) = (0, 0.0_f64, None, Duration::ZERO);
    run.slowest_ack = Duration::ZERO;
    while began.elapsed() < outage {
        run.append().await;
        let asked = Instant::now();
        assert_eq!(run.number("SELECT count(*) FROM \"t$hot\"").await, Ok(run.acked - before));
        slowest_read = slowest_read.max(asked.elapsed());
        let freshness = run.freshness().await;
        lag_rows = freshness["lake_lag_rows"].as_i64().unwrap();
        lag_seconds = lag_seconds.max(freshness["lake_lag_seconds"].as_f64().unwrap());
        error = error.or(freshness["last_error"].as_str().map(str::to_owned));
        assert_eq!(lag_rows, run.acked - before, "{freshness}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_followed(&followed, run.acked).await;
    let metric = run.metric("thermocline_lake_lag_rows{").await;
    assert!(lag_seconds > outage.as_secs_f64() * 0.5, "{lag_seconds}");
    assert!(metric > 0.0, "the metric says so too");
    if outage >= Duration::from_secs(30) {
        assert!(error.is_some(), "a round has failed meanwhile, and the status says why");
    }
    let (during, slowest_ack) = (run.acked - before, run.slowest_ack);

    double.be_well();
    run.append().await;
    let catch_up = run.until_all_is_in_the_lake().await;
    let failures = run.metric("thermocline_round_failures_total{").await;
    let calls_failed = run.metric("thermocline_store_errors_total{reason=\"store_unavailable\"}").await;
    assert!(failures == 0.0 || calls_failed > 0.0, "{failures} rounds failed, and no call of the store");
    until_followed(&followed, run.acked).await;
    follower.abort();
    assert_eq!(*followed.lock().unwrap(), (0..run.acked).collect::<Vec<_>>(), "followed");
    assert_eq!(run.number("SELECT count(*) FROM t").await, Ok(run.acked));
    for tier in ["t", "\"t$lake\""] {
        let distinct = run.number(&format!("SELECT count(DISTINCT id) FROM {tier}")).await;
        assert_eq!(distinct, Ok(run.acked), "lost or doubled in {tier}");
    }
    println!(
        "outage of {outage:?}: {during} rows acked meanwhile (slowest ack {slowest_ack:.1?}, slowest hot read \
         {slowest_read:.1?}), lag {lag_rows} rows and {lag_seconds:.1} s at its end, {failures} rounds failed, caught up \
         {catch_up:.1?} after it; {} rows, lost 0, doubled 0 in the lake, by SQL and by the follower; the status said: {}",
        run.acked,
        error.as_deref().unwrap_or("nothing yet")
    );
    assert_eq!(run.server.terminate(), Some(0));
}

async fn until_followed(followed: &Mutex<Vec<i64>>, rows: i64) {
    let started = Instant::now();
    while (followed.lock().unwrap().len() as i64) < rows {
        assert!(started.elapsed() < STANDSTILL, "the follower stands still");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Follows the table from its first row on, and keeps the ids in the order in which they came.
async fn follow(url: String, seen: Arc<Mutex<Vec<i64>>>) {
    let request = reqwest::Client::new().get(format!("{url}/v1/tables/public/t/changes?from=earliest"));
    let answer = request.header("accept", "application/x-ndjson").send().await.unwrap();
    let (mut chunks, mut rest) = (answer.bytes_stream(), Vec::new());
    while let Some(Ok(chunk)) = chunks.next().await {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let change: Value = serde_json::from_slice(&line).unwrap();
            seen.lock().unwrap().extend(change["row"]["id"].as_i64());
        }
    }
}
