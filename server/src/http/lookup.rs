//! `POST /v1/tables/{database}/{table}/lookup`: the newest rows of some keys, in the keys' order.

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
    if request.prefixes.is_some() {
        return Err(Problem(Error::not_built("lookups by prefix")));
    }
    let keys = request.keys.ok_or_else(|| Error::new(Code::InvalidBody, "a lookup without keys"))?;
    let columns = columns_of(&table, request.columns)?;
    let keys = decode_json(
        &descriptor.schema.key(&descriptor.key),
        keys.get().as_bytes(),
        JsonShape::Array,
        &DecodeOptions::default(),
    )?;
    if keys.num_rows() > KEYS_MAX {
        let many = format!("{} keys are more than one lookup may have, {KEYS_MAX}", keys.num_rows());
        return Err(Problem(Error::new(Code::RequestTooLarge, many)));
    }
    let found = store.engine().lookup(&table, keys.columns().to_vec()).await?;
    let rows = match columns {
        None => found.rows,
        Some(columns) => found.rows.project(&columns).map_err(Error::from)?,
    };
    let mut encoder = JsonEncoder::new(&rows.schema())?;
    let mut out = br#"{"rows":["#.to_vec();
    let mut next = 0;
    for (place, there) in found.found.into_iter().enumerate() {
        out.extend_from_slice(if place > 0 { b"," } else { b"" });
        if there {
            encoder.write_object(&rows, next, &mut out)?;
            next += 1;
        } else {
            out.extend_from_slice(b"null");
        }
    }
    out.extend_from_slice(b"]}");
    Ok(json(out))
}
