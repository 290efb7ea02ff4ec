//! Compressed bodies, through a whole server without its sockets. One request was applied; every other says that it is that
//! one again, so that the server itself tells whether its rows are the same.

use std::io::Write;
use std::time::Instant;

use axum::body::Body;
use axum::http::Request;
use axum::http::request::Builder;
use flate2::Compression;
use flate2::write::GzEncoder;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use thermocline_engine::Durability;
use thermocline_schemas::text::JsonShape;
use thermocline_server::serve::{ServeOptions, Server};
use thermocline_server::uploads::UploadFormat;
use tower::ServiceExt;

use super::{ROWS, TIME_MAX, Tally, flipped, memory, rows};

const DDL: &str = "CREATE TABLE t (id BIGINT NOT NULL, flag BOOLEAN, tiny TINYINT, small SMALLINT, whole INTEGER, real REAL, \
     double DOUBLE PRECISION, price DECIMAL(12, 2), huge DECIMAL(38, 0), day DATE, wall TIMESTAMP, at TIMESTAMPTZ, \
     name VARCHAR, bytes BYTEA)";

pub fn check(count: u64, seed: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let mut options = ServeOptions::new(directory.path(), "127.0.0.1:0");
        options.engine.durability = Durability::Os;
        options.tiering.scheduler = false;
        let server = Server::start(options).await.unwrap();
        server.ready().await.unwrap();
        let made = send(&server, "/v1/sql", "text/plain", "identity", DDL.into()).await;
        assert_eq!(made.0, 200, "{}", made.1);
        let lines = rows::encode(&rows::some(ROWS), UploadFormat::Json(JsonShape::Lines)).unwrap();
        let first = write(&server, "identity", lines.clone()).await;
        assert_eq!((first.0, &first.1["duplicate"]), (200, &Value::Bool(false)), "{}", first.1);
        for (encoding, whole) in [("gzip", gzip(&lines)), ("zstd", zstd(&lines))] {
            let again = write(&server, encoding, whole.clone()).await;
            assert_eq!(again.1["duplicate"], true, "{}", again.1);
            let (mut random, mut tally) = (StdRng::seed_from_u64(seed), Tally::default());
            for _ in 0..count {
                let flip = flipped(&whole, &mut random, encoding, seed);
                let (started, begun) = (Instant::now(), memory::begin());
                let (status, answer) = write(&server, encoding, flip.body).await;
                tally.peak = tally.peak.max(memory::peak_since(begun));
                tally.slowest = tally.slowest.max(started.elapsed());
                match status {
                    200 if answer["duplicate"] == true && answer["rows"] == ROWS => tally.same += 1,
                    400 | 413 => tally.refused += 1,
                    _ => panic!("{}: {status} {answer}", flip.context),
                }
            }
            tally.print(encoding, whole.len());
            assert!(tally.slowest < TIME_MAX, "{encoding}: {:?}", tally.slowest);
            // One request may expand to 64 MiB, in a buffer that grows by doubling.
            assert!(tally.peak < 320 << 20, "{encoding}: {} bytes", tally.peak);
        }
        let (_, counted) = send(&server, "/v1/sql", "text/plain", "identity", "SELECT count(*) FROM t".into()).await;
        assert_eq!(counted["rows"][0][0], ROWS);
        server.stop().await.unwrap();
    });
}

async fn write(server: &Server, encoding: &str, body: Vec<u8>) -> (u16, Value) {
    let request = request("/v1/tables/public/t/rows", "application/x-ndjson", encoding);
    answer(server, request.header("thermocline-writer", "flips").header("thermocline-sequence", "0"), body).await
}

async fn send(server: &Server, path: &str, media: &str, encoding: &str, body: Vec<u8>) -> (u16, Value) {
    answer(server, request(path, media, encoding), body).await
}

fn request(path: &str, media: &str, encoding: &str) -> Builder {
    Request::post(path).header("content-type", media).header("content-encoding", encoding)
}

async fn answer(server: &Server, request: Builder, body: Vec<u8>) -> (u16, Value) {
    let response = server.router().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).and_then(|()| encoder.finish()).unwrap()
}

fn zstd(body: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).and_then(|()| encoder.write_all(body)).unwrap();
    encoder.finish().unwrap()
}
