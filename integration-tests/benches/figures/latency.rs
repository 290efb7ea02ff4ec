//! How long one row takes to be durable, to be seen by SQL, and to reach a subscriber.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use thermocline_engine::disk::{Disk, RealDisk};
use thermocline_integration_tests::binary::Server;
use thermocline_integration_tests::oracle::{self, rows};

use crate::heading;

pub async fn run() {
    heading("latency of one row, over HTTP on loopback");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let (server, _) = Server::start(directory.path(), &[]).await;
    server.sql(&format!("CREATE TABLE bench ({})", oracle::DDL_COLUMNS)).await.expect("a table");
    let events = server
        .client
        .get(format!("{}/v1/tables/public/bench/changes?from=latest", server.url))
        .header("accept", "text/event-stream")
        .timeout(Duration::from_secs(600))
        .send()
        .await
        .expect("a subscription");
    let (sender, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut events = events.bytes_stream();
        let mut text = String::new();
        while let Ok(Some(bytes)) = events.try_next().await {
            text.push_str(&String::from_utf8_lossy(&bytes));
            while let Some(end) = text.find("\n\n") {
                if text[..end].contains("event: change") && sender.send(Instant::now()).is_err() {
                    return;
                }
                text.drain(..end + 2);
            }
        }
    });
    let schema = oracle::schema().arrow();
    let (mut acks, mut sqls, mut subscribers, mut syncs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let bare = RealDisk.create(&directory.path().join("bare")).expect("a file can be made");
    for id in 0..500 {
        let started = Instant::now();
        bare.write_at(&mut [IoSlice::new(&[0; 4096])], id as u64 * 4096)
            .and_then(|()| bare.sync())
            .expect("the disk syncs");
        syncs.push(started.elapsed());
        let sent = Instant::now();
        server.append("bench", &rows(&schema, &[id]), None).await.expect("an append is acked");
        let acked = Instant::now();
        acks.push(acked - sent);
        let answer = server.sql("SELECT count(*) FROM bench").await.expect("a count");
        assert_eq!(answer["rows"][0][0].as_i64(), Some(id + 1), "an acked row is visible at once");
        sqls.push(acked.elapsed());
        let event = arrived.recv().await.expect("an event");
        subscribers.push(event.saturating_duration_since(acked));
    }
    percentiles("bare 4 KiB write + sync", syncs);
    percentiles("request → ack", acks);
    percentiles("ack → SQL has answered with it", sqls);
    percentiles("ack → its event at an SSE subscriber", subscribers);
}

fn percentiles(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what:<46} p50 {:>7.2} ms   p99 {:>7.2} ms", at(0.5), at(0.99));
}
