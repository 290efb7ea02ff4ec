//! The first page of figures: `cargo bench --workspace --bench figures`.
//!
//! Each figure stands beside a baseline measured in the same run, because machines differ and are shared: read the ratios.
//! - append: rows made durable per second, through the engine and over HTTP, beside a bare loop that encodes the same
//!   batches as Arrow IPC, takes their CRC32C, writes them to one file and syncs it.
//! - latency: from the ack of a row to SQL showing it and to its event at a subscriber.
//! - scan: an aggregation over cold and hot rows as one table, beside DataFusion on the same Parquet files alone.
#![allow(clippy::print_stdout)] // printing is what a bench is for

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::TryStreamExt;
use thermocline_engine::disk::{Disk, RealDisk};
use thermocline_engine::{Engine, EngineOptions, Sender, SystemClock, Table};
use thermocline_integration_tests::binary::Server;
use thermocline_integration_tests::oracle::{self, rows};
use thermocline_schemas::{Properties, TableName};
use thermocline_sql::{Sql, SqlOptions, SqlRequest};
use thermocline_tiering::{Tiering, TieringOptions, Warehouse};

const APPEND_ROWS: usize = 2_000_000;
const WRITERS: usize = 16;
const SCAN_LAKE_ROWS: usize = 4_000_000;
const SCAN_HOT_ROWS: usize = 400_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        println!("{} cores\n", std::thread::available_parallelism().map_or(0, usize::from));
        append().await;
        latency().await;
        scan().await;
    });
}

fn heading(title: &str) {
    println!("\n{title}\n{}", "-".repeat(title.chars().count()));
}

fn line(what: &str, per_second: f64, baseline: f64) {
    println!("{what:<46} {:>10.0} k rows/s {:>7.2} × baseline", per_second / 1e3, per_second / baseline);
}

async fn append() {
    for batch_rows in [1_000, 10_000] {
        heading(&format!("append, durable, batches of {batch_rows} rows"));
        let schema = oracle::schema().arrow();
        let batches: Vec<_> = (0..16)
            .map(|batch| rows(&schema, &(0..batch_rows as i64).map(|row| batch * 1_000_000 + row).collect::<Vec<_>>()))
            .collect();
        let requests = APPEND_ROWS / batch_rows;
        for (writers, name) in [(1, "one writer"), (WRITERS, "16 writers")] {
            let directory = tempfile::tempdir().expect("a directory can be made");
            // A group of as many batches as there are writers shares one sync, as it does in the engine.
            let baseline = bare_loop(directory.path(), &batches, requests, writers);
            line(&format!("bare encode + CRC + write + sync, groups of {writers}"), baseline, baseline);
            line(
                &format!("engine, {name}"),
                engine_append(directory.path(), &batches, requests, writers).await,
                baseline,
            );
            line(&format!("HTTP, {name}"), http_append(directory.path(), &batches, requests, writers).await, baseline);
        }
    }
}

fn encode(batch: &RecordBatch) -> Vec<u8> {
    let mut body = Vec::new();
    let mut writer = StreamWriter::try_new(&mut body, &batch.schema()).expect("the schema can be written");
    writer.write(batch).and_then(|()| writer.finish()).expect("the batch can be written");
    drop(writer);
    body
}

fn bare_loop(directory: &Path, batches: &[RecordBatch], requests: usize, group: usize) -> f64 {
    let file = RealDisk.create(&directory.join("bare")).expect("a file can be made");
    let (mut at, mut rows) = (0, 0);
    let started = Instant::now();
    for request in 0..requests {
        let batch = &batches[request % batches.len()];
        let body = encode(batch);
        let crc = crc32c::crc32c(&body).to_le_bytes();
        file.write_at(&mut [IoSlice::new(&crc), IoSlice::new(&body)], at).expect("the disk takes it");
        at += (crc.len() + body.len()) as u64;
        rows += batch.num_rows();
        if (request + 1) % group == 0 {
            file.sync().expect("the disk syncs");
        }
    }
    rows as f64 / started.elapsed().as_secs_f64()
}

async fn open_engine(directory: &Path) -> (Arc<Engine>, Arc<Table>) {
    let engine = Engine::open(Arc::new(RealDisk), directory, EngineOptions::default(), Arc::new(SystemClock));
    let engine = engine.expect("the engine opens");
    let name = TableName::parse("public", "bench").expect("a good name");
    let table = engine
        .create_table(name, oracle::schema(), &[], Properties::default(), true)
        .await
        .expect("a table can be made");
    (engine, table)
}

async fn engine_append(directory: &Path, batches: &[RecordBatch], requests: usize, writers: usize) -> f64 {
    let directory = directory.join("engine");
    let (engine, table) = open_engine(&directory).await;
    let started = Instant::now();
    let sent = (0..writers).map(|writer| {
        let (engine, table, batches) = (engine.clone(), table.clone(), batches.to_vec());
        tokio::spawn(async move {
            let mut rows = 0;
            for request in (writer..requests).step_by(writers) {
                let batch = batches[request % batches.len()].clone();
                rows += batch.num_rows();
                engine.append(&table, batch, Sender::default()).await.expect("an append is acked");
            }
            rows
        })
    });
    let mut rows = 0;
    for writer in sent.collect::<Vec<_>>() {
        rows += writer.await.expect("a writer ends well");
    }
    let seconds = started.elapsed().as_secs_f64();
    engine.close();
    std::fs::remove_dir_all(&directory).expect("the directory goes");
    rows as f64 / seconds
}

async fn http_append(directory: &Path, batches: &[RecordBatch], requests: usize, writers: usize) -> f64 {
    let directory = directory.join("http");
    let (server, _) = Server::start(&directory, &[]).await;
    server
        .sql(&format!("CREATE TABLE bench ({}) WITH (lake_freshness = '1h')", oracle::DDL_COLUMNS))
        .await
        .expect("a table");
    let bodies: Arc<Vec<_>> = Arc::new(batches.iter().map(encode).map(bytes::Bytes::from).collect());
    let batch_rows = batches[0].num_rows();
    let started = Instant::now();
    let sent = (0..writers).map(|writer| {
        let (client, url, bodies) = (server.client.clone(), server.url.clone(), bodies.clone());
        tokio::spawn(async move {
            let mut rows = 0;
            for request in (writer..requests).step_by(writers) {
                loop {
                    let body = bodies[request % bodies.len()].clone();
                    let sent = client
                        .post(format!("{url}/v1/tables/public/bench/rows"))
                        .header("content-type", "application/vnd.apache.arrow.stream")
                        .body(body);
                    let answer = sent.send().await.expect("the server answers");
                    match answer.status().as_u16() {
                        200 => break,
                        429 => tokio::time::sleep(Duration::from_millis(20)).await,
                        other => panic!("{other}: {}", answer.text().await.unwrap_or_default()),
                    }
                }
                rows += batch_rows;
            }
            rows
        })
    });
    let mut rows = 0;
    for writer in sent.collect::<Vec<_>>() {
        rows += writer.await.expect("a writer ends well");
    }
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    drop(server);
    rate
}

fn percentiles(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what:<46} p50 {:>7.2} ms   p99 {:>7.2} ms", at(0.5), at(0.99));
}

async fn latency() {
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

async fn scan() {
    heading(&format!("scan, {} M rows cold and {} M hot", SCAN_LAKE_ROWS as f64 / 1e6, SCAN_HOT_ROWS as f64 / 1e6));
    let directory = tempfile::tempdir().expect("a directory can be made");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (engine, table) = open_engine(&directory.path().join("data")).await;
    let warehouse = Warehouse::local(disk, &directory.path().join("warehouse")).expect("a warehouse");
    let manual = TieringOptions { scheduler: false, ..TieringOptions::default() };
    let tiering = Tiering::open(engine.clone(), warehouse, manual).await.expect("tiering opens");
    let sql = Sql::new(tiering.clone(), SqlOptions::default()).expect("SQL opens");
    let append = async |from: usize, to: usize| {
        for first in (from..to).step_by(50_000) {
            let ids: Vec<i64> = (first as i64..(first + 50_000).min(to) as i64).collect();
            engine.append(&table, rows(table.schema(), &ids), Sender::default()).await.expect("an append is acked");
        }
    };
    append(0, SCAN_LAKE_ROWS).await;
    let round = tiering.tier(&table).await.expect("a round");
    println!(
        "the round wrote {} files in {:.1} s, {:.0} k rows/s",
        round.files,
        round.seconds,
        round.rows as f64 / round.seconds / 1e3
    );
    let location = tiering.status(&table).await.expect("a status").location.expect("a lake");
    let files = format!("{}/data/", location.trim_start_matches("file://"));
    let context = SessionContext::new_with_config(SessionConfig::new());
    context.register_parquet("bench", files, ParquetReadOptions::default()).await.expect("the files register");
    let queries = [
        "SELECT city, count(*), sum(ratio) FROM bench GROUP BY city",
        "SELECT sum(ratio) FROM bench WHERE id >= 3900000",
        "SELECT count(note) FROM bench",
    ];
    let plain = async |query: &str| {
        context.sql(query).await.expect("it plans").collect().await.expect("it runs");
    };
    let union = async |query: &str| {
        let answer = sql.execute(query, SqlRequest::default()).await.expect("it plans");
        answer.batches.try_collect::<Vec<_>>().await.expect("it runs");
    };
    let mut measured = Vec::new();
    for query in queries {
        measured.push((query, best(async || plain(query).await).await, best(async || union(query).await).await));
    }
    append(SCAN_LAKE_ROWS, SCAN_LAKE_ROWS + SCAN_HOT_ROWS).await;
    for (query, baseline, cold) in measured {
        let both = best(async || union(query).await).await;
        println!("\n{query}");
        println!("{:<46} {baseline:>9.1?}", "  DataFusion on the Parquet files alone");
        println!("{:<46} {cold:>9.1?} {:>7.2} × baseline", "  one table, all rows cold", ratio(cold, baseline));
        println!(
            "{:<46} {both:>9.1?} {:>7.2} × baseline",
            "  one table, a tenth of the rows hot",
            ratio(both, baseline)
        );
    }
    let started = Instant::now();
    let split = tiering.read_split(std::slice::from_ref(&table)).await.expect("a split");
    println!(
        "\na read split of {} files takes {:?}",
        split[0].lake.as_ref().map_or(0, |lake| lake.files.len()),
        started.elapsed()
    );
    tiering.close().await;
    engine.close();
}

fn ratio(time: Duration, baseline: Duration) -> f64 {
    time.as_secs_f64() / baseline.as_secs_f64()
}

/// The best of a few runs: the others were disturbed.
async fn best(run: impl AsyncFn()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        run().await;
        best = best.min(started.elapsed());
    }
    best
}
