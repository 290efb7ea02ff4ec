//! Parquet that somebody uploads: decoded into batches, or refused before it can hurt.
//!
//! A few kilobytes of Parquet can claim, and even hold, terabytes. Before a value is decoded, everything that the file says
//! of its sizes is read and held against [`DecodeLimits`]: the footer (see `footer`), and every page's header (see
//! `pages`), because the decoder allocates what those say. What no header tells, text that one dictionary entry repeats a
//! million times, is counted as it comes out; texts and bytes are decoded as views, which repeat nothing in memory.
//!
//! Always: memory while decoding is about the file, its largest pages and one batch. A panic of the decoder on a broken file
//! is an error of the file. Types stay as Parquet tells them; Arrow's own notes in the footer are not believed.
//!
//! Not here: whether the columns fit a table. Decoding blocks: call from where that is allowed.

mod footer;
mod pages;
#[cfg(test)]
mod tests;
mod thrift;

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use thermocline_schemas::{Code, ColumnType, Error, Result, fixed_width};

use crate::guarded::guarded;

/// About how much one batch of fixed-width columns takes.
const BATCH_BYTES: u64 = 32 << 20;
const BATCH_ROWS_MAX: u64 = 8192;

/// What one upload may hold.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    /// Of decoded values, and of decompressed pages.
    pub bytes_max: u64,
    pub rows_max: u64,
    pub columns_max: usize,
}

/// The rows of an uploaded file, batch by batch. Ends after the first error.
pub struct ParquetRows {
    schema: SchemaRef,
    rows: u64,
    reader: Option<ParquetRecordBatchReader>,
    bytes_left: u64,
    limits: DecodeLimits,
}

/// Checks a whole Parquet file and gives its rows; texts and bytes come as views.
pub fn decode_parquet(bytes: Bytes, limits: &DecodeLimits) -> Result<ParquetRows> {
    footer::check(&bytes, limits)?;
    let builder = guarded(gave_up, || {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let plain = ArrowReaderMetadata::load(&bytes, options.clone()).map_err(refused)?;
        let views = options.with_schema(as_views(plain.schema())?);
        let metadata = ArrowReaderMetadata::try_new(plain.metadata().clone(), views).map_err(refused)?;
        pages::check(&bytes, metadata.metadata(), limits)?;
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata))
    })?;
    let schema = builder.schema().clone();
    let widths: u64 = schema.fields().iter().map(|field| width(field.data_type())).sum();
    let rows = builder.metadata().file_metadata().num_rows().unsigned_abs();
    let fixed = rows.saturating_mul(widths);
    if fixed > limits.bytes_max {
        return Err(too_large(format!("{rows} rows of {widths} bytes are more than {} bytes", limits.bytes_max)));
    }
    let batch_rows = (BATCH_BYTES / widths.max(1)).clamp(1, BATCH_ROWS_MAX);
    let reader = guarded(gave_up, || builder.with_batch_size(batch_rows as usize).build().map_err(refused))?;
    Ok(ParquetRows { schema, rows, reader: Some(reader), bytes_left: limits.bytes_max - fixed, limits: *limits })
}

impl ParquetRows {
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many rows the whole file has.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn decode(&mut self) -> Result<Option<RecordBatch>> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let Some(batch) = guarded(gave_up, || reader.next().transpose().map_err(refused))? else { return Ok(None) };
        let texts: u64 = batch.columns().iter().map(|column| text_bytes(column)).sum();
        self.bytes_left = self
            .bytes_left
            .checked_sub(texts)
            .ok_or_else(|| too_large(format!("the decoded rows are more than {} bytes", self.limits.bytes_max)))?;
        Ok(Some(batch))
    }
}

impl Iterator for ParquetRows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        let decoded = self.decode().transpose();
        if !matches!(decoded, Some(Ok(_))) {
            self.reader = None;
        }
        decoded
    }
}

/// The schema with views for texts and bytes. A column of a type that no table can have is refused here.
fn as_views(schema: &Schema) -> Result<SchemaRef> {
    let field = |field: &Arc<Field>| -> Result<Field> {
        // What has no value has no type, and fits every column.
        if *field.data_type() != DataType::Null {
            ColumnType::from_arrow(field.data_type()).map_err(|error| error.with_column(field.name()))?;
        }
        Ok(with_views(field))
    };
    let fields = schema.fields().iter().map(field).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// The same with views, inside it too.
fn with_views(field: &Field) -> Field {
    let inner = |field: &Arc<Field>| Arc::new(with_views(field));
    let data_type = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::List(item) => DataType::List(inner(item)),
        DataType::Map(entries, ordered) => DataType::Map(inner(entries), *ordered),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    };
    field.clone().with_data_type(data_type)
}

/// Bytes of one value, without what a view points to.
fn width(data_type: &DataType) -> u64 {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => 16,
        DataType::List(_) | DataType::Map(..) => 4,
        DataType::Struct(fields) => 1 + fields.iter().map(|field| width(field.data_type())).sum::<u64>(),
        other => fixed_width(other).unwrap_or(1) as u64,
    }
}

fn text_bytes(column: &dyn Array) -> u64 {
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().lengths().map(u64::from).sum(),
        DataType::BinaryView => column.as_binary_view().lengths().map(u64::from).sum(),
        DataType::List(_) => text_bytes(column.as_list::<i32>().values()),
        DataType::Map(..) => text_bytes(column.as_map().entries()),
        DataType::Struct(_) => column.as_struct().columns().iter().map(|column| text_bytes(column)).sum(),
        _ => 0,
    }
}

fn gave_up() -> Error {
    broken("the decoder gave up on it")
}

fn refused(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    broken("it does not decode").with_source(error)
}

fn broken(why: &str) -> Error {
    Error::new(Code::InvalidBody, format!("the Parquet file is broken: {why}"))
}

fn too_large(why: String) -> Error {
    Error::new(Code::RequestTooLarge, why).with_hint("send fewer rows at once")
}
