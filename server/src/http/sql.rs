//! `POST /v1/sql`: one statement in, its rows out.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use thermocline_engine::DEFAULT_DATABASE;
use thermocline_schemas::{Code, Error, Identifier, Result};
use thermocline_sql::SqlRequest;

use super::Problem;
use super::accept::{self, ARROW_STREAM, CSV, JSON, NDJSON};
use super::answers::{self, Format};
use super::bodies;
use super::parameters::{Parameters, duration};
use crate::app::App;
use crate::metrics::CountedQuery;

const TEXT_BYTES_MAX: usize = 1 << 20;
/// A statement with its parameters.
const BODY_BYTES_MAX: usize = 4 << 20;

/// The JSON form of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
}

pub async fn run(
    State(app): State<Arc<App>>,
    mut parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let started = Instant::now();
    let database = parameters.take("database").unwrap_or_else(|| DEFAULT_DATABASE.to_owned());
    let timeout = parameters.take("timeout").map(|text| duration("timeout", &text)).transpose()?;
    parameters.finish()?;
    if let Some(header) =
        ["thermocline-writer", "thermocline-sequence"].into_iter().find(|header| headers.contains_key(*header))
    {
        return Err(Error::new(Code::InvalidRequest, format!("{header} is for rows: a statement is not applied once"))
            .with_hint("send rows to /v1/tables/{database}/{table}/rows, or leave the header out")
            .into());
    }
    let formats = [(JSON, Format::Json), (NDJSON, Format::Lines), (CSV, Format::Csv), (ARROW_STREAM, Format::Arrow)];
    let format = accept::choose(&headers, &formats)?;
    let store = app.store()?;
    store.engine().has_database(&Identifier::parse("database", &database)?)?;
    let as_json = is_json(&headers)?;
    let received = bodies::receive(&app, body, BODY_BYTES_MAX).await?;
    let statement = statement(&received.bytes, as_json)?;
    drop(received);
    let permit = app.query_permit().await?;
    let request = SqlRequest { database, params: statement.params, timeout };
    let mut counted = CountedQuery::begin(started);
    let answer = store.sql.execute(&statement.sql, request).await;
    let answer = answer.inspect_err(|error| counted.ended_with(error))?;
    Ok(answers::respond(answer, format, started, permit, counted).await?)
}

/// Whether the body is the JSON form; else it is the statement's text. A form is taken for text too, because that is
/// what `curl --data` says of anything.
fn is_json(headers: &HeaderMap) -> Result<bool> {
    match accept::content_type(headers)?.as_deref() {
        Some(JSON) => Ok(true),
        None | Some(accept::TEXT | "application/sql" | "application/x-www-form-urlencoded") => Ok(false),
        Some(other) => {
            Err(Error::new(Code::UnsupportedMediaType, "a statement is text/plain or application/json")
                .with_value(other))
        }
    }
}

fn statement(body: &[u8], as_json: bool) -> Result<Statement> {
    let statement = if as_json {
        serde_json::from_slice(body).map_err(|error| {
            Error::new(Code::InvalidBody, "the body is not {\"sql\": \"…\", \"params\": […]}").with_source(error)
        })?
    } else {
        let sql = std::str::from_utf8(body)
            .map_err(|error| Error::new(Code::InvalidBody, "the statement is not UTF-8").with_source(error))?;
        Statement { sql: sql.to_owned(), params: Vec::new() }
    };
    if statement.sql.len() > TEXT_BYTES_MAX {
        return Err(Error::new(Code::RequestTooLarge, format!("a statement has at most {TEXT_BYTES_MAX} bytes"))
            .with_hint("send rows to /v1/tables/{database}/{table}/rows"));
    }
    if statement.sql.trim().is_empty() {
        return Err(Error::new(Code::InvalidSql, "the statement is empty"));
    }
    Ok(statement)
}
