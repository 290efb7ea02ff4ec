//! Bodies of five formats, decoded into rows of a table.
//!
//! Decoding keeps a core busy, so it happens away from the threads that serve sockets, and on as many cores as there
//! are. A decoder that panics on what a client sent is that client's problem, not the server's.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use bytes::Bytes;
use thermocline_engine::{REQUEST_BYTES_MAX, Table};
use thermocline_schemas::text::{
    DecodeOptions, JsonEncoder, JsonShape, KeptRows, conform, decode_csv, decode_csv_setting_aside, decode_json,
    decode_json_setting_aside,
};
use thermocline_schemas::{CHANGE_COLUMN, Code, Error, Result, SetAside, TableSchema, slice_bytes};
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
    let work = move || decode_rows(&schema_of(&table), format, &body, &options);
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

/// The columns of rows that come for a table; with a primary key, those of its changes.
pub(crate) fn schema_of(table: &Table) -> Cow<'_, TableSchema> {
    let descriptor = table.descriptor();
    match descriptor.is_keyed() {
        false => Cow::Borrowed(&descriptor.schema),
        true => Cow::Owned(descriptor.schema.for_changes(&descriptor.key)),
    }
}

/// The rows of a body that fit, in the columns of `schema`; the others are set aside. Keeps the calling thread busy.
pub fn sift_rows(
    schema: &TableSchema,
    format: UploadFormat,
    body: &Bytes,
    options: &DecodeOptions,
    aside: &mut SetAside,
) -> Result<KeptRows> {
    let gave_up = || Error::new(Code::InvalidBody, "the decoder gave up on the body");
    guarded(gave_up, move || match format {
        UploadFormat::Json(shape) => decode_json_setting_aside(schema, body, shape, options, aside),
        UploadFormat::Csv => decode_csv_setting_aside(schema, body, options, aside),
        UploadFormat::Arrow => gather_fitting(schema, arrow_batches(schema, body)?, aside),
        UploadFormat::Parquet => gather_fitting(schema, parquet_batches(schema, body)?, aside),
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
        UploadFormat::Arrow => gather(schema, arrow_batches(schema, body)?),
        UploadFormat::Parquet => gather(schema, parquet_batches(schema, body)?),
    }
}

fn arrow_batches(schema: &TableSchema, body: &Bytes) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    arrow_upload::decode(body, FIXED_BYTES_MAX / row_bytes(schema).max(1))
}

fn parquet_batches(schema: &TableSchema, body: &Bytes) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    let limits = DecodeLimits {
        bytes_max: FIXED_BYTES_MAX,
        rows_max: FIXED_BYTES_MAX / row_bytes(schema).max(1),
        columns_max: COLUMNS_MAX,
    };
    decode_parquet(body.clone(), &limits)
}

/// What a row takes at least, nulls included.
fn row_bytes(schema: &TableSchema) -> u64 {
    schema.columns().iter().map(|column| column.column_type.least_bytes() as u64).sum()
}

/// The same of the rows that fit; the others are set aside.
fn gather_fitting(
    schema: &TableSchema,
    batches: impl Iterator<Item = Result<RecordBatch>>,
    aside: &mut SetAside,
) -> Result<KeptRows> {
    let (mut first, mut numbers) = (0, Vec::new());
    let fitting = batches.map(|batch| {
        let batch = batch?;
        let is_fitting = set_misfits_aside(schema, &batch, first, aside)?;
        let own = (0..batch.num_rows()).filter(|row| is_fitting[*row]);
        numbers.extend(own.map(|row| (first + row) as u32));
        first += batch.num_rows();
        Ok(filter_record_batch(&batch, &BooleanArray::from(is_fitting))?)
    });
    let rows = gather(schema, fitting)?;
    Ok(KeptRows { rows, numbers, spans: Vec::new() })
}

/// Which rows of a batch fit. Of a part that does not fit as a whole each half is looked at by itself.
fn set_misfits_aside(
    schema: &TableSchema,
    batch: &RecordBatch,
    first: usize,
    aside: &mut SetAside,
) -> Result<Vec<bool>> {
    let mut is_fitting = vec![true; batch.num_rows()];
    let mut encoder = JsonEncoder::new(batch.schema_ref())?;
    let mut open = vec![(0, batch.num_rows())];
    while let Some((start, end)) = open.pop() {
        let Err(error) = conform(schema, &batch.slice(start, end - start)) else { continue };
        // Else it is wrong with all rows alike.
        let Some(_) = error.row() else { return Err(error) };
        if end - start > 1 {
            let middle = start.midpoint(end);
            open.extend([(middle, end), (start, middle)]);
            continue;
        }
        let mut content = Vec::new();
        encoder.write_object(batch, start, &mut content)?;
        aside.add((first + start) as u64, error, &String::from_utf8_lossy(&content))?;
        is_fitting[start] = false;
    }
    Ok(is_fitting)
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
