//! The real binary under writers, readers and rounds, killed with SIGKILL at random moments.
//!
//! Idempotent writers send what was not answered again, so in the end each row is there exactly once; readers while it
//! runs see every acked row. `THERMOCLINE_KILLS=<n>` sets how many cycles.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use thermocline_integration_tests::binary::Server;
use thermocline_integration_tests::oracle::{self, rows};

const WRITERS: usize = 3;

#[derive(Default)]
struct Writer {
    /// Per request, its ids.
    acked: Vec<Vec<i64>>,
    /// The request that was sent and not answered.
    unanswered: Option<Vec<i64>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_loses_nothing_and_doubles_nothing() {
    let cycles = std::env::var("THERMOCLINE_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(12);
    let directory = tempfile::tempdir().unwrap();
    let writers: Arc<Vec<Mutex<Writer>>> = Arc::new((0..WRITERS).map(|_| Mutex::default()).collect());
    let mut restarts = Vec::new();
    for cycle in 0..=cycles {
        let data = directory.path().join("data");
        let (mut server, ready) = Server::start(&data, &[]).await;
        restarts.push(ready);
        if cycle == 0 {
            let ddl = format!(
                "CREATE TABLE kills ({}) WITH (lake_freshness = '200ms', hot_retention = '300ms')",
                oracle::DDL_COLUMNS
            );
            server.sql(&ddl).await.unwrap();
        }
        check(&server, &writers).await;
        if cycle == cycles {
            assert_eq!(server.terminate(), Some(0), "a polite stop ends with 0");
            break;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let server = Arc::new(Mutex::new(server));
        let running: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write(server.clone(), writers.clone(), writer, stop.clone())))
            .collect();
        let pause = Duration::from_millis(rand::rng().random_range(50..900));
        tokio::time::sleep(pause).await;
        server.lock().unwrap().kill();
        stop.store(true, Ordering::Relaxed);
        for writer in running {
            writer.await.unwrap();
        }
    }
    let acked: usize =
        writers.iter().flat_map(|writer| writer.lock().unwrap().acked.iter().map(Vec::len).collect::<Vec<_>>()).sum();
    restarts.sort();
    println!(
        "{cycles} kills, {acked} acked rows, restart median {:?}, slowest {:?}",
        restarts[restarts.len() / 2],
        restarts[restarts.len() - 1]
    );
    assert!(acked > cycles * 100, "too few rows were acked for the kills to mean something: {acked}");
}

/// Sends requests one after the other until the server is gone.
async fn write(server: Arc<Mutex<Server>>, writers: Arc<Vec<Mutex<Writer>>>, number: usize, stop: Arc<AtomicBool>) {
    let (url, client) = {
        let server = server.lock().unwrap();
        (server.url.clone(), server.client.clone())
    };
    let schema = oracle::schema().arrow();
    while !stop.load(Ordering::Relaxed) {
        let (sequence, ids) = {
            let mut writer = writers[number].lock().unwrap();
            let sequence = writer.acked.len() as u64;
            let first = (number as i64) * 1_000_000_000 + writer.acked.iter().map(|ids| ids.len() as i64).sum::<i64>();
            let ids = writer
                .unanswered
                .clone()
                .unwrap_or_else(|| (first..first + rand::rng().random_range(1..200)).collect());
            writer.unanswered = Some(ids.clone());
            (sequence, ids)
        };
        let mut body = Vec::new();
        let mut stream = arrow::ipc::writer::StreamWriter::try_new(&mut body, &schema).unwrap();
        stream.write(&rows(&schema, &ids)).unwrap();
        stream.finish().unwrap();
        let answer = client
            .post(format!("{url}/v1/tables/public/kills/rows"))
            .header("content-type", "application/vnd.apache.arrow.stream")
            .header("thermocline-writer", format!("writer-{number}"))
            .header("thermocline-sequence", sequence)
            .body(body)
            .send()
            .await;
        match answer {
            Ok(answer) if answer.status().is_success() => {
                let mut writer = writers[number].lock().unwrap();
                writer.unanswered = None;
                writer.acked.push(ids);
            }
            Ok(answer) if answer.status().as_u16() == 429 => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(answer) => panic!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
            // The server is gone: what was sent may be applied or not, and is sent again after the restart.
            Err(_) => return,
        }
    }
}

/// Every acked row is there once, in its writer's order; of unanswered requests all or nothing.
async fn check(server: &Server, writers: &[Mutex<Writer>]) {
    let answer = server.sql("SELECT id, __offset FROM kills ORDER BY __offset").await.unwrap();
    let found: Vec<(i64, i64)> = answer["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row[0].as_i64().unwrap(), row[1].as_i64().unwrap()))
        .collect();
    assert!(found.iter().enumerate().all(|(at, (_, offset))| *offset == at as i64), "offsets have a gap or a double");
    let distinct: HashSet<_> = found.iter().map(|(id, _)| *id).collect();
    assert_eq!(distinct.len(), found.len(), "a row is there twice");
    for (number, writer) in writers.iter().enumerate() {
        let writer = writer.lock().unwrap();
        let own: Vec<_> = found.iter().map(|(id, _)| *id).filter(|id| id / 1_000_000_000 == number as i64).collect();
        let acked: Vec<_> = writer.acked.iter().flatten().copied().collect();
        assert!(own.starts_with(&acked), "writer {number}: {} rows found, {} acked", own.len(), acked.len());
        let rest = &own[acked.len()..];
        let unanswered = writer.unanswered.as_deref().unwrap_or(&[]);
        assert!(rest.is_empty() || rest == unanswered, "writer {number}: half a request is there");
    }
    let changes = server
        .client
        .get(format!("{}/v1/tables/public/kills/changes?from=earliest&follow=false", server.url))
        .header("accept", "application/x-ndjson")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let changes = changes.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let changed: Vec<_> = changes.filter_map(|change| change["row"]["id"].as_i64()).collect();
    assert_eq!(changed, found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), "changes and SELECT differ");
}
