//! `POST /v1/tables/{database}/{table}/lookup`: the newest rows of some keys, in the keys' order, or of all keys that begin
//! with some values of the key's first column.
//!
//! Keys come as JSON, or as an Arrow stream of the key's columns; what comes as Arrow is answered as Arrow, a row for each
//! key: of one that is not there all columns are null, the key's too.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{Field, Schema};
use arrow::ipc::writer::StreamWriter;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use thermocline_engine::{LookedUp, Table};
use thermocline_schemas::text::{DecodeOptions, JsonEncoder, JsonShape, decode_json};
use thermocline_schemas::{Code, Error, Result, plain_rows};

use super::Problem;
use super::accept::{self, ARROW_STREAM, JSON};
use super::bodies;
use super::operations::json;
use super::parameters::{Address, Parameters, columns_of};
use super::uploads::{UploadFormat, decode_rows};
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

/// What is looked up.
struct Asked {
    /// The key's columns; only the first of them for prefixes.
    keys: RecordBatch,
    by_prefix: bool,
    columns: Option<Vec<String>>,
}

pub async fn find(
    State(app): State<Arc<App>>,
    Address(name): Address,
    mut parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let as_arrow = match accept::content_type(&headers)?.as_deref() {
        None | Some(JSON) => false,
        Some(ARROW_STREAM) => true,
        Some(other) => {
            let refused = Error::new(Code::UnsupportedMediaType, format!("keys are read as {JSON} or {ARROW_STREAM}"));
            return Err(Problem(refused.with_value(other).with_hint(format!("say so: Content-Type: {JSON}"))));
        }
    };
    // In JSON they are part of the body.
    let columns = if as_arrow { parameters.names("columns") } else { None };
    parameters.finish()?;
    let store = app.store()?;
    let table = store.table(&name)?;
    if !table.descriptor().is_keyed() {
        return Err(Problem(
            Error::new(Code::WrongTableKind, format!("table {name} has no primary key"))
                .with_hint("SELECT … WHERE finds rows of log tables"),
        ));
    }
    let received = bodies::receive(&app, body, BODY_BYTES_MAX).await?;
    // A body may be long on its way.
    let table = store.engine().newest(&table);
    let asked = match as_arrow {
        true => Asked::from_arrow(&table, &received.bytes, columns)?,
        false => Asked::from_json(&table, &received.bytes)?,
    };
    if asked.keys.num_rows() > KEYS_MAX {
        let many = format!("{} keys are more than one lookup may have, {KEYS_MAX}", asked.keys.num_rows());
        return Err(Problem(Error::new(Code::RequestTooLarge, many)));
    }
    let columns = columns_of(&table, asked.columns)?;
    let LookedUp { counts, rows } = match asked.by_prefix {
        false => store.engine().lookup(&table, asked.keys.columns().to_vec()).await?,
        true => store.engine().lookup_groups(&table, asked.keys.column(0).clone()).await?,
    };
    let rows = match columns {
        None => rows,
        Some(columns) => rows.project(&columns).map_err(Error::from)?,
    };
    match as_arrow {
        true => Ok(([(header::CONTENT_TYPE, ARROW_STREAM)], to_arrow(&counts, &plain_rows(&rows)?)?).into_response()),
        false => Ok(json(to_json(&counts, &rows, asked.by_prefix)?)),
    }
}

impl Asked {
    fn from_json(table: &Table, body: &[u8]) -> Result<Asked> {
        let request: Request = serde_json::from_slice(body).map_err(|error| {
            Error::new(Code::InvalidBody, format!("not a lookup: {error}"))
                .with_hint(r#"as {"keys": [{"id": 1}], "columns": ["name"]}"#)
        })?;
        let key = &table.descriptor().key;
        let (asked, named, by_prefix) = match (request.keys, request.prefixes) {
            (Some(keys), None) => (keys, &key[..], false),
            (None, Some(prefixes)) => (prefixes, &key[..1], true),
            _ => return Err(Error::new(Code::InvalidBody, "a lookup has either keys or prefixes")),
        };
        let named = table.descriptor().schema.key(named);
        let keys = decode_json(&named, asked.get().as_bytes(), JsonShape::Array, &DecodeOptions::default())?;
        Ok(Asked { keys, by_prefix, columns: request.columns })
    }

    fn from_arrow(table: &Table, body: &Bytes, columns: Option<Vec<String>>) -> Result<Asked> {
        let named = table.descriptor().schema.key(&table.descriptor().key);
        let keys = decode_rows(&named, UploadFormat::Arrow, body, &DecodeOptions::default())?;
        Ok(Asked { keys, by_prefix: false, columns })
    }
}

fn to_json(counts: &[usize], rows: &RecordBatch, by_prefix: bool) -> Result<Vec<u8>> {
    let mut encoder = JsonEncoder::new(&rows.schema())?;
    let mut out = br#"{"rows":["#.to_vec();
    let mut next = 0..rows.num_rows();
    for (place, count) in counts.iter().enumerate() {
        out.extend_from_slice(if place > 0 { b"," } else { b"" });
        out.extend_from_slice(if by_prefix { b"[" } else { b"" });
        for (number, row) in next.by_ref().take(*count).enumerate() {
            out.extend_from_slice(if number > 0 { b"," } else { b"" });
            encoder.write_object(rows, row, &mut out)?;
        }
        out.extend_from_slice(match (by_prefix, count) {
            (true, _) => b"]",
            (false, 0) => b"null",
            (false, _) => b"",
        });
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

fn to_arrow(counts: &[usize], rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut next = 0..rows.num_rows() as u32;
    let places: UInt32Array = counts.iter().map(|count| if *count > 0 { next.next() } else { None }).collect();
    let fields = rows.schema().fields().iter().map(|field| Field::clone(field).with_nullable(true)).collect::<Vec<_>>();
    let schema = Arc::new(Schema::new(fields));
    let each = RecordBatch::try_new(schema.clone(), take_arrays(rows.columns(), &places, None)?)?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    writer.write(&each)?;
    Ok(writer.into_inner()?)
}
