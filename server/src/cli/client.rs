//! The HTTP client behind `sql`, `load`, `tail` and `demo`.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use thermocline_schemas::TableName;

use super::{Connection, EXIT_UNREACHABLE, Failure, Outcome, output};
use crate::http::NOTE;

/// A server, as its clients see it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// Why a request did not succeed.
#[derive(Debug)]
pub enum Refusal {
    /// What the server says about it.
    Problem(Box<ProblemDocument>),
    /// It did not get an answer, or not a whole one.
    Broken(Failure),
}

/// The fields of a problem document that people and programs here look at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProblemDocument {
    pub status: u16,
    pub code: String,
    pub detail: String,
    pub row: Option<u64>,
    pub column: Option<String>,
    pub value: Option<String>,
    pub hint: Option<String>,
    pub expected: Option<u64>,
}

/// What the server says of appended rows.
#[derive(Clone, Debug, Deserialize)]
pub struct Appended {
    pub rows: u64,
    pub duplicate: bool,
}

/// A writer's request, as headers say it.
#[derive(Clone, Copy, Debug)]
pub struct Numbered<'w> {
    pub writer: &'w str,
    pub sequence: u64,
}

impl Client {
    pub fn new(connection: &Connection) -> Outcome<Client> {
        let url = connection.url.trim_end_matches('/').to_owned();
        let parsed =
            url::Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
                Failure::new(format!("{url} is not an address of a server")).with_hint("as http://127.0.0.1:8080")
            })?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("thermocline/", env!("CARGO_PKG_VERSION")));
        let is_here = match parsed.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if is_here {
            // No proxy stands between us and ourselves, whatever the environment says.
            builder = builder.no_proxy();
        }
        let http =
            builder.build().map_err(|error| Failure::new(format!("the HTTP client cannot be set up: {error}")))?;
        Ok(Client { http, url, token: connection.token.clone() })
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.authorized(self.http.get(format!("{}{path}", self.url)))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.authorized(self.http.post(format!("{}{path}", self.url)))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends it; anything but success is a refusal.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Refusal> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let notes = response.headers().get_all(NOTE).iter().filter_map(|note| note.to_str().ok());
        notes.for_each(|note| output::note(format!("note: {note}")));
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        let mut problem = serde_json::from_slice(&body).unwrap_or_else(|_| ProblemDocument {
            detail: format!("the server answered {status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])),
            ..ProblemDocument::default()
        });
        problem.status = status.as_u16();
        Err(Refusal::Problem(Box::new(problem)))
    }

    /// Sends it, and the answer's JSON.
    pub async fn json(&self, request: RequestBuilder) -> Result<Value, Refusal> {
        let response = self.send(request).await?;
        response.json().await.map_err(|error| Refusal::Broken(broke_off(&error)))
    }

    /// The rows of a statement: `{"columns","rows","stats"}`.
    pub async fn sql(&self, statement: &str, database: &str) -> Result<Value, Refusal> {
        let request = self.post("/v1/sql").query(&[("database", database)]).header("accept", "application/json");
        self.json(request.header("content-type", "text/plain").body(statement.to_owned())).await
    }

    /// The table's description; none if there is no such table.
    pub async fn table(&self, table: &TableName) -> Result<Option<Value>, Refusal> {
        match self.json(self.get(&table_path(table, ""))).await {
            Ok(described) => Ok(Some(described)),
            Err(Refusal::Problem(problem)) if problem.code == "table_not_found" => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Appends rows as an idempotent writer: sent again for as long as the server is busy, away or starting.
    pub async fn append(
        &self,
        path: &str,
        content_type: &str,
        body: bytes::Bytes,
        numbered: Numbered<'_>,
    ) -> Result<Appended, Refusal> {
        let mut tries = 0;
        loop {
            let request = self.post(path).header("content-type", content_type).body(body.clone());
            let request =
                request.header("thermocline-writer", numbered.writer).header("thermocline-sequence", numbered.sequence);
            let refusal = match self.json(request).await {
                Ok(answer) => {
                    return serde_json::from_value(answer)
                        .map_err(|error| Refusal::Broken(Failure::new(format!("an answer that is not one: {error}"))));
                }
                Err(refusal) => refusal,
            };
            tries += 1;
            if tries > TRIES_MAX || !refusal.may_pass() {
                return Err(refusal);
            }
            tokio::time::sleep(Duration::from_millis(200 << tries.min(4))).await;
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Refusal {
        if error.is_connect() {
            let failure = Failure::new(format!("no server answers at {}", self.url))
                .with_hint("start one with `thermocline serve`, or name another with --url")
                .with_exit(EXIT_UNREACHABLE);
            return Refusal::Broken(failure);
        }
        Refusal::Broken(broke_off(error))
    }
}

/// With pauses that double up to some three seconds, about a minute.
const TRIES_MAX: u32 = 22;

/// An answer that did not come whole.
pub fn broke_off(error: &reqwest::Error) -> Failure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Failure::new(format!("the answer broke off, it is not complete: {text}"))
}

/// `/v1/tables/{database}/{table}` and what follows.
pub fn table_path(table: &TableName, rest: &str) -> String {
    format!("/v1/tables/{}/{}{rest}", table.database, table.table)
}

/// `db.table`, or a table of the default database.
pub fn table_name(text: &str) -> Result<TableName, String> {
    let (database, table) = text.split_once('.').unwrap_or((thermocline_engine::DEFAULT_DATABASE, text));
    TableName::parse(database, table).map_err(|error| format!("{error}; tables are named db.table"))
}

impl Refusal {
    /// Whether the same request may succeed a little later.
    fn may_pass(&self) -> bool {
        match self {
            Refusal::Problem(problem) => {
                problem.status == StatusCode::TOO_MANY_REQUESTS || problem.status == StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::Broken(_) => true,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let problem = match refusal {
            Refusal::Broken(failure) => return failure,
            Refusal::Problem(problem) => problem,
        };
        let mut message = problem.detail;
        if let Some(row) = problem.row {
            message = format!("{message} (row {row})");
        }
        if let Some(value) = problem.value.filter(|value| !value.is_empty() && !message.contains(value.as_str())) {
            message = format!("{message}: {value:?}");
        }
        if !problem.code.is_empty() {
            message = format!("{message} [{}]", problem.code);
        }
        Failure { hint: problem.hint, ..Failure::new(message) }
    }
}
