//! Bodies of five formats, decoded into rows of a table.
//!
//! Decoding keeps a core busy, so it happens away from the threads that serve sockets, and on as many cores as there
//! are. A decoder that panics on what a client sent is that client's problem, not the server's.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use thermocline_engine::{REQUEST_BYTES_MAX, Table};
use thermocline_schemas::text::{DecodeOptions, JsonShape, conform, decode_csv, decode_json};
use thermocline_schemas::{CHANGE_COLUMN, Code, Error, Result, TableSchema, slice_bytes};
use thermocline_tiering::{DecodeLimits, decode_parquet, guarded};

use super::arrow_upload;
use crate::app::App;

/// Bodies up to this are decoded at once: moving them elsewhere would take longer.
const INLINE_BYTES_MAX: usize = 32 << 10;
/// What the fixed-width columns of an upload may take together, before rows are looked at.
pub const FIXED_BYTES_MAX: u64 = 4 * REQUEST_BYTES_MAX;
pub const COLUMNS_MAX: usize = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadFormat {
    Json(JsonShape),
    Csv,
    Arrow,
    Parquet,
}

/// The rows of a body, in the table's columns; with a primary key, in those of its changes.
pub(crate) async fn decode(
    app: &App,
    table: Arc<Table>,
    format: UploadFormat,
    body: Bytes,
    options: DecodeOptions,
) -> Result<RecordBatch> {
    let small = body.len() <= INLINE_BYTES_MAX && !matches!(format, UploadFormat::Arrow | UploadFormat::Parquet);
    let work = move || {
        let descriptor = table.descriptor();
        let schema = match descriptor.is_keyed() {
            false => Cow::Borrowed(&descriptor.schema),
            true => Cow::Owned(descriptor.schema.for_changes(&descriptor.key)),
        };
        decode_rows(&schema, format, &body, &options)
    };
    let decoded = if small {
        work()
    } else {
        let permit = app.decoder_permit().await?;
        let task = tokio::task::spawn_blocking(move || {
            let _held = permit;
            work()
        });
        task.await.map_err(|error| Error::internal("decoding rows").with_source(error))?
    };
    decoded.map_err(|error| match (error.code(), error.column()) {
        (Code::UnknownColumn, Some(CHANGE_COLUMN)) => Error::new(
            Code::WrongTableKind,
            format!("rows of a log table are only appended, {CHANGE_COLUMN} says more"),
        )
        .with_column(CHANGE_COLUMN),
        _ => error,
    })
}

/// The rows of a whole body, in the columns of `schema`. Keeps the calling thread busy.
pub fn decode_rows(
    schema: &TableSchema,
    format: UploadFormat,
    body: &Bytes,
    options: &DecodeOptions,
) -> Result<RecordBatch> {
    let gave_up = || Error::new(Code::InvalidBody, "the decoder gave up on the body");
    guarded(gave_up, || unguarded(schema, format, body, options))
}

fn unguarded(schema: &TableSchema, format: UploadFormat, body: &Bytes, options: &DecodeOptions) -> Result<RecordBatch> {
    match format {
        UploadFormat::Json(shape) => decode_json(schema, body, shape, options),
        UploadFormat::Csv => decode_csv(schema, body, options),
        UploadFormat::Arrow => {
            let row_bytes = row_bytes(schema);
            let batches = arrow_upload::decode(body, FIXED_BYTES_MAX / row_bytes.max(1))?;
            gather(schema, batches)
        }
        UploadFormat::Parquet => {
            let limits = DecodeLimits {
                bytes_max: FIXED_BYTES_MAX,
                rows_max: FIXED_BYTES_MAX / row_bytes(schema).max(1),
                columns_max: COLUMNS_MAX,
            };
            gather(schema, decode_parquet(body.clone(), &limits)?)
        }
    }
}

/// What a row takes at least, nulls included.
fn row_bytes(schema: &TableSchema) -> u64 {
    schema.columns().iter().map(|column| column.column_type.least_bytes() as u64).sum()
}

/// Batches fitted to the table and put together, as long as they stay within one request.
fn gather(schema: &TableSchema, batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<RecordBatch> {
    let mut fitted = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for batch in batches {
        let batch = batch?;
        let batch = conform(schema, &batch).map_err(|error| match error.row() {
            // It counts in its batch; the client counts in its request.
            Some(row) => error.with_row(rows + row),
            None => error,
        })?;
        rows += batch.num_rows() as u64;
        bytes += batch.columns().iter().map(|column| slice_bytes(column)).sum::<usize>();
        if bytes as u64 > REQUEST_BYTES_MAX {
            return Err(Error::new(
                Code::RequestTooLarge,
                format!("the rows take more than the {REQUEST_BYTES_MAX} bytes that one request may have"),
            )
            .with_hint("send fewer rows at once, or use `thermocline load`, which cuts a file into requests"));
        }
        fitted.push(batch);
    }
    match fitted.as_slice() {
        [one] => Ok(one.clone()),
        _ => Ok(arrow::compute::concat_batches(&schema.arrow(), &fitted)?),
    }
}
