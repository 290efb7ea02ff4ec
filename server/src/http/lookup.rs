//! `POST /v1/tables/{database}/{table}/lookup`: the newest rows of some keys, in the keys' order, or of all keys that begin
//! with some values of the key's first column.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use thermocline_schemas::text::{DecodeOptions, JsonEncoder, JsonShape, decode_json};
use thermocline_schemas::{Code, Error, Result};

use super::Problem;
use super::accept::{self, JSON};
use super::bodies;
use super::operations::json;
use super::parameters::{Address, Parameters, columns_of};
use crate::app::App;

const KEYS_MAX: usize = 10_000;
const BODY_BYTES_MAX: usize = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    keys: Option<Box<RawValue>>,
    prefixes: Option<Box<RawValue>>,
    columns: Option<Vec<String>>,
}

pub async fn find(
    State(app): State<Arc<App>>,
    Address(name): Address,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    if let Some(other) = accept::content_type(&headers)?.filter(|found| found != JSON) {
        return Err(Problem(
            Error::new(Code::UnsupportedMediaType, "keys are read as JSON").with_value(other.as_str()),
        ));
    }
    let store = app.store()?;
    let table = store.table(&name)?;
    let descriptor = table.descriptor();
    if !descriptor.is_keyed() {
        return Err(Problem(
            Error::new(Code::WrongTableKind, format!("table {name} has no primary key"))
                .with_hint("SELECT … WHERE finds rows of log tables"),
        ));
    }
    let received = bodies::receive(&app, body, BODY_BYTES_MAX).await?;
    let request: Request = serde_json::from_slice(&received.bytes).map_err(|error| {
        Error::new(Code::InvalidBody, format!("not a lookup: {error}"))
            .with_hint(r#"as {"keys": [{"id": 1}], "columns": ["name"]}"#)
    })?;
    let columns = columns_of(&table, request.columns)?;
    let (asked, named, by_prefix) = match (request.keys, request.prefixes) {
        (Some(keys), None) => (keys, &descriptor.key[..], false),
        (None, Some(prefixes)) => (prefixes, &descriptor.key[..1], true),
        _ => return Err(Problem(Error::new(Code::InvalidBody, "a lookup has either keys or prefixes"))),
    };
    let named = descriptor.schema.key(named);
    let asked = decode_json(&named, asked.get().as_bytes(), JsonShape::Array, &DecodeOptions::default())?;
    if asked.num_rows() > KEYS_MAX {
        let many = format!("{} keys are more than one lookup may have, {KEYS_MAX}", asked.num_rows());
        return Err(Problem(Error::new(Code::RequestTooLarge, many)));
    }
    let found = match by_prefix {
        false => store.engine().lookup(&table, asked.columns().to_vec()).await?,
        true => store.engine().lookup_groups(&table, asked.column(0).clone()).await?,
    };
    let rows = match columns {
        None => found.rows,
        Some(columns) => found.rows.project(&columns).map_err(Error::from)?,
    };
    let mut encoder = JsonEncoder::new(&rows.schema())?;
    let mut out = br#"{"rows":["#.to_vec();
    let mut next = 0..rows.num_rows();
    for (place, count) in found.counts.into_iter().enumerate() {
        out.extend_from_slice(if place > 0 { b"," } else { b"" });
        out.extend_from_slice(if by_prefix { b"[" } else { b"" });
        for (number, row) in next.by_ref().take(count).enumerate() {
            out.extend_from_slice(if number > 0 { b"," } else { b"" });
            encoder.write_object(&rows, row, &mut out)?;
        }
        out.extend_from_slice(match (by_prefix, count) {
            (true, _) => b"]",
            (false, 0) => b"null",
            (false, _) => b"",
        });
    }
    out.extend_from_slice(b"]}");
    Ok(json(out))
}
