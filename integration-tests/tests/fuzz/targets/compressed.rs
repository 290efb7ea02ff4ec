//! Compressed bodies, through the HTTP of a whole server in this process.
//!
//! One request was applied before. Every other says that it is that request again, so none adds rows: it is refused, or
//! known as the repeat by its rows, or told that its rows are others. The last a flipped bit must not achieve: gzip has a
//! checksum, and so has zstd as we write it.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Client;
use thermocline_engine::Durability;
use thermocline_schemas::text::JsonShape;
use thermocline_server::serve::{ServeOptions, Server};
use thermocline_server::uploads::UploadFormat;
use tokio::runtime::Runtime;

use super::rows;
use super::sql::runtime;
use crate::driver::{Outcome, Target};

const DDL: &str = "CREATE TABLE t (id BIGINT NOT NULL, flag BOOLEAN, tiny TINYINT, small SMALLINT, whole INTEGER, real REAL, \
     double DOUBLE PRECISION, price DECIMAL(12, 2), huge DECIMAL(38, 0), day DATE, wall TIMESTAMP, at TIMESTAMPTZ, \
     name VARCHAR, bytes BYTEA)";
const LINES: UploadFormat = UploadFormat::Json(JsonShape::Lines);

/// An input's first byte says its encoding: even gzip, odd zstd.
pub struct Compressed {
    runtime: Runtime,
    client: Client,
    url: String,
    _server: Server,
    _directory: tempfile::TempDir,
}

impl Compressed {
    pub fn new() -> Compressed {
        let runtime = runtime();
        let directory = tempfile::tempdir().expect("a directory can be made");
        let client = Client::builder().timeout(Duration::from_secs(50)).build().expect("a client can be made");
        let mut options = ServeOptions::new(directory.path(), "127.0.0.1:0");
        options.engine.durability = Durability::Os;
        let server = runtime.block_on(async {
            let server = Server::start(options).await.expect("a server starts");
            server.ready().await.expect("a server is ready");
            let url = format!("http://{}/v1/sql", server.address());
            let made = client.post(url).body(DDL).send().await.expect("the server answers");
            assert!(made.status().is_success());
            server
        });
        let url = format!("http://{}/v1/tables/public/t/rows", server.address());
        let compressed = Compressed { runtime, client, url, _server: server, _directory: directory };
        let body = rows::encode(&rows::some(12), LINES).expect("rows can be written");
        let (status, text) = compressed.send("identity", body);
        assert_eq!(status, 200, "{text}");
        compressed
    }

    fn send(&self, encoding: &str, body: Vec<u8>) -> (u16, String) {
        let send = async || {
            let request = self.client.post(&self.url).header("content-type", "application/x-ndjson");
            let request = request.header("content-encoding", encoding);
            let request = request.header("thermocline-writer", "fuzz").header("thermocline-sequence", 0);
            request.body(body.clone()).send().await
        };
        self.runtime.block_on(async {
            // After a refusal in the middle of a body the server closes the connection, maybe while it is used again.
            let answer = match send().await {
                Err(error) if error.is_request() => send().await,
                answered => answered,
            };
            let answer = answer.expect("the server answers");
            (answer.status().as_u16(), answer.text().await.expect("an answer is whole"))
        })
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![0], Compression::default());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory takes it")
}

fn zstd(body: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(vec![1], 3).expect("a level");
    encoder.include_checksum(true).and_then(|()| encoder.write_all(body)).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

impl Target for Compressed {
    fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        let body = rows::encode(&rows::some(12), LINES).expect("rows can be written");
        let zeros = vec![b'0'; 128 << 20];
        vec![
            ("gzip".to_owned(), gzip(&body)),
            ("zstd".to_owned(), zstd(&body)),
            ("bomb_zstd".to_owned(), zstd(&zeros)),
            ("bomb_zstd_twice".to_owned(), zstd(&zstd(&zeros))),
        ]
    }

    fn memory(&self) -> (usize, usize) {
        // A request may expand to 64 MiB, in a buffer that grows by doubling.
        (64, 320 << 20)
    }

    fn run(&mut self, input: &[u8]) -> Result<Outcome, String> {
        let Some((encoding, body)) = input.split_first() else { return Ok(Outcome::Refused("nothing".to_owned())) };
        let (status, text) = self.send(if encoding % 2 == 0 { "gzip" } else { "zstd" }, body.to_vec());
        let duplicate = text.contains("\"duplicate\":true");
        match status {
            200 if duplicate => Ok(Outcome::Taken("the same rows".to_owned())),
            400..500 => Ok(Outcome::Refused(format!("{status} {text}"))),
            _ => Err(format!("{status}: {text}")),
        }
    }

    fn run_flipped(&mut self, _whole: &[u8], flipped: &[u8]) -> Result<Outcome, String> {
        let outcome = self.run(flipped)?;
        match &outcome {
            Outcome::Refused(text) if text.contains("sequence_reused") => {
                Err(format!("a flipped bit made other rows: {text}"))
            }
            _ => Ok(outcome),
        }
    }
}
