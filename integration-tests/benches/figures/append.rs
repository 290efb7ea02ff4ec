//! Durable appends, through each layer.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use thermocline_engine::disk::{Disk, RealDisk};
use thermocline_engine::{Engine, Sender, Table};
use thermocline_integration_tests::binary::Server;
use thermocline_integration_tests::oracle::{self, rows};
use thermocline_schemas::{Properties, TableName};

use crate::{heading, line, open_engine};

const APPEND_ROWS: usize = 2_000_000;
const WRITERS: usize = 16;

pub async fn run() {
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

/// The table that rows are appended to.
pub async fn table(engine: &Engine) -> Arc<Table> {
    let name = TableName::parse("public", "bench").expect("a good name");
    let made = engine.create_table(name, oracle::schema(), &[], Properties::default(), true);
    made.await.expect("a table can be made")
}

async fn engine_append(directory: &Path, batches: &[RecordBatch], requests: usize, writers: usize) -> f64 {
    let directory = directory.join("engine");
    let engine = open_engine(&directory);
    let table = table(&engine).await;
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
