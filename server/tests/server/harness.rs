//! A server in a directory of its own, and the few requests that tests make of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use tempfile::TempDir;
use thermocline_server::serve::{ServeOptions, Server};

use crate::openapi;

pub const ARROW: &str = "application/vnd.apache.arrow.stream";
pub const NDJSON: &str = "application/x-ndjson";

pub struct TestServer {
    server: Server,
    client: Client,
    directory: Arc<TempDir>,
    pub url: String,
}

impl TestServer {
    pub async fn start() -> TestServer {
        TestServer::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut ServeOptions)) -> TestServer {
        TestServer::start_in(Arc::new(TempDir::new().unwrap()), change).await
    }

    pub async fn start_in(directory: Arc<TempDir>, change: impl FnOnce(&mut ServeOptions)) -> TestServer {
        let mut options = ServeOptions::new(directory.path().join("data"), "127.0.0.1:0");
        options.limits.stop_timeout = Duration::from_secs(2);
        options.tiering.scheduler = false;
        change(&mut options);
        let server = Server::start(options).await.unwrap();
        server.ready().await.unwrap();
        let url = format!("http://{}", server.address());
        // Not as long as a server with the shortest patience keeps an idle connection.
        let idle = Duration::from_millis(300);
        let client = Client::builder().no_proxy().pool_idle_timeout(idle).build().unwrap();
        TestServer { server, client, directory, url }
    }

    /// With a log table `t (id BIGINT NOT NULL, name VARCHAR)`.
    pub async fn with_table() -> TestServer {
        let server = TestServer::start().await;
        server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
        server
    }

    pub fn directory(&self) -> &Arc<TempDir> {
        &self.directory
    }

    pub async fn stop(self) {
        self.server.stop().await.unwrap();
    }

    pub async fn restart(self) -> TestServer {
        self.restart_after(|_| {}).await
    }

    /// With something done to the data directory while the server is down.
    pub async fn restart_after(self, damage: impl FnOnce(&Path)) -> TestServer {
        let directory = self.directory.clone();
        self.stop().await;
        damage(&directory.path().join("data"));
        TestServer::start_in(directory, |_| {}).await
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    /// The JSON answer of a statement that succeeds.
    pub async fn sql(&self, statement: &str) -> Value {
        good(self.post("/v1/sql").body(statement.to_owned()).send().await.unwrap()).await.json().await.unwrap()
    }

    /// The only value of an answer.
    pub async fn value(&self, statement: &str) -> Value {
        self.sql(statement).await["rows"][0][0].clone()
    }

    /// Appends lines to `public.t`.
    pub async fn append(&self, lines: &str) -> Value {
        let request = self.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(lines.to_owned());
        good(request.send().await.unwrap()).await.json().await.unwrap()
    }

    pub async fn tier(&self, table: &str) -> Value {
        let response = self.post(&format!("/v1/tables/public/{table}/tier")).send().await.unwrap();
        good(response).await.json().await.unwrap()
    }
}

/// The response, which must be a success.
pub async fn good(response: Response) -> Response {
    let status = response.status();
    assert!(status.is_success(), "{status}: {}", response.text().await.unwrap());
    response
}

/// The problem document of a response that must be one, and one that the OpenAPI document tells of.
pub async fn problem(response: Response, status: u16, code: &str) -> Value {
    openapi::check_refusal(response.url().path(), status, code);
    let got = response.status().as_u16();
    let media_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{text}");
    assert_eq!(media_type.as_deref(), Some("application/problem+json"), "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["code"], code, "{text}");
    assert_eq!(problem["status"], status, "{text}");
    assert!(problem["type"].is_string() && problem["title"].is_string() && problem["detail"].is_string(), "{text}");
    problem
}

pub fn as_arrow(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

pub fn from_arrow(bytes: &[u8]) -> Vec<RecordBatch> {
    StreamReader::try_new(bytes, None).unwrap().collect::<Result<_, _>>().unwrap()
}

/// `{"id":<first>,"name":"n<first>"}` and so on, a line each.
pub fn lines(ids: std::ops::Range<u64>) -> String {
    ids.map(|id| format!("{{\"id\":{id},\"name\":\"n{id}\"}}\n")).collect()
}
