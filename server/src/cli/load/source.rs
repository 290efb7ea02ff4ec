//! Files, cut into requests.
//!
//! Text is cut between rows and sent as it is, so the server alone says what a value means. Parquet and Arrow are sent
//! as Arrow streams. A JSON array is sent as lines.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use clap::ValueEnum;
use thermocline_schemas::{Error, slice_bytes};
use thermocline_tiering::{DecodeLimits, decode_parquet};

use super::text::{self, cut_csv, cut_lines, json_array_as_lines};
use super::{Failure, Outcome, TimeUnit};
use crate::http::accept as media;

/// About how large a request is.
pub const REQUEST_BYTES: usize = 8 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    Parquet,
    Csv,
    /// One object a line
    Ndjson,
    /// One array of objects
    Json,
    /// An Arrow IPC file or stream
    Arrow,
}

impl FileFormat {
    pub fn of_name(path: &Path) -> Outcome<FileFormat> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            "parquet" | "pq" => Ok(FileFormat::Parquet),
            "csv" => Ok(FileFormat::Csv),
            "ndjson" | "jsonl" | "jsonlines" => Ok(FileFormat::Ndjson),
            "json" => Ok(FileFormat::Json),
            "arrow" | "arrows" | "feather" | "ipc" => Ok(FileFormat::Arrow),
            _ => Err(Failure::new(format!("the name {} does not tell what the file is", path.display()))
                .with_hint("say it: --input parquet, csv, ndjson, json or arrow")),
        }
    }
}

/// How text is to be understood.
#[derive(Clone, Debug, Default)]
pub struct TextOptions {
    pub time: Option<TimeUnit>,
    pub null: Option<String>,
    pub columns: Option<String>,
}

impl TextOptions {
    pub fn check(&self, format: FileFormat) -> Outcome {
        if format != FileFormat::Csv && (self.null.is_some() || self.columns.is_some()) {
            return Err(Failure::new("--null and --columns are for CSV files"));
        }
        Ok(())
    }

    /// The same as parameters of a request.
    pub fn query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if let Some(time) = self.time {
            query.append_pair("time", if time == TimeUnit::Ms { "ms" } else { "us" });
        }
        if let Some(null) = &self.null {
            query.append_pair("null", null);
        }
        if let Some(columns) = &self.columns {
            query.append_pair("header", "false").append_pair("columns", columns);
        }
        let query = query.finish();
        if query.is_empty() { "/rows".to_owned() } else { format!("/rows?{query}") }
    }
}

/// A part of a file that is sent at once.
#[derive(Debug)]
pub struct Request {
    pub body: Bytes,
    pub content_type: &'static str,
    pub rows: u64,
    /// How far in the file it reaches, for the progress bar.
    pub file_position: u64,
}

type Requests = Box<dyn Iterator<Item = Outcome<Request>> + Send>;

/// The whole file, in order; the same every time.
pub fn requests(file: Bytes, format: FileFormat, options: &TextOptions) -> Outcome<Requests> {
    let end = file.len() as u64;
    Ok(match format {
        FileFormat::Csv => Box::new(text_requests(cut_csv(file, options.columns.is_none(), REQUEST_BYTES), media::CSV)),
        FileFormat::Ndjson => Box::new(text_requests(cut_lines(file, REQUEST_BYTES), media::NDJSON)),
        FileFormat::Json => {
            let lines = Bytes::from(json_array_as_lines(&file)?);
            // Lines and array differ in length: the bar goes by the share.
            let scale = end as f64 / lines.len().max(1) as f64;
            let requests = text_requests(cut_lines(lines, REQUEST_BYTES), media::NDJSON);
            Box::new(requests.map(move |request| {
                request
                    .map(|request| Request { file_position: (request.file_position as f64 * scale) as u64, ..request })
            }))
        }
        FileFormat::Parquet | FileFormat::Arrow => {
            let (schema, batches) = batches(file, format)?;
            Box::new(arrow_requests(schema, batches, end))
        }
    })
}

fn text_requests(
    parts: impl Iterator<Item = text::Part>,
    content_type: &'static str,
) -> impl Iterator<Item = Outcome<Request>> {
    parts
        .map(move |part| Ok(Request { body: part.body, content_type, rows: part.rows, file_position: part.end as u64 }))
}

pub type Batches = Box<dyn Iterator<Item = Outcome<(RecordBatch, f64)>> + Send>;

/// The batches of a file, each with the share of the file that is behind it.
pub fn batches(file: Bytes, format: FileFormat) -> Outcome<(SchemaRef, Batches)> {
    let cannot = |error: arrow::error::ArrowError| Failure::new(format!("the Arrow file cannot be read: {error}"));
    if format == FileFormat::Parquet {
        // The file is its owner's, who may have as much as fits.
        let limits = DecodeLimits { bytes_max: u64::MAX, rows_max: u64::MAX, columns_max: usize::MAX };
        let rows = decode_parquet(file, &limits)?;
        let (schema, total) = (rows.schema().clone(), rows.rows().max(1) as f64);
        let mut done = 0;
        let batches = rows.map(move |batch: Result<RecordBatch, Error>| {
            let batch = batch?;
            done += batch.num_rows();
            Ok((batch, done as f64 / total))
        });
        return Ok((schema, Box::new(batches)));
    }
    let share = |place: usize, count: usize| (place + 1) as f64 / count.max(1) as f64;
    if file.starts_with(b"ARROW1") {
        let reader = FileReader::try_new(Cursor::new(file), None).map_err(cannot)?;
        let (schema, count) = (reader.schema(), reader.num_batches());
        let batches = reader.enumerate().map(move |(place, batch)| Ok((batch.map_err(cannot)?, share(place, count))));
        return Ok((schema, Box::new(batches)));
    }
    let reader = StreamReader::try_new(Cursor::new(file), None).map_err(cannot)?;
    let schema = reader.schema();
    Ok((schema, Box::new(reader.map(move |batch| Ok((batch.map_err(cannot)?, 0.0))))))
}

fn arrow_requests(schema: SchemaRef, mut batches: Batches, file_bytes: u64) -> impl Iterator<Item = Outcome<Request>> {
    let plain = plain_schema(&schema);
    let mut gathered: Vec<RecordBatch> = Vec::new();
    let mut gathered_bytes = 0;
    let mut waiting = std::collections::VecDeque::new();
    let mut share = 0.0;
    let mut failed = false;
    std::iter::from_fn(move || {
        loop {
            if failed {
                return None;
            }
            let full = match waiting.pop_front() {
                Some(piece) => {
                    gathered_bytes += batch_bytes(&piece);
                    gathered.push(piece);
                    gathered_bytes >= REQUEST_BYTES
                }
                None => match batches.next() {
                    Some(Ok((batch, behind))) => {
                        share = behind;
                        match as_plain(&plain, &batch) {
                            Ok(batch) => waiting.extend(pieces(&batch)),
                            Err(failure) => {
                                failed = true;
                                return Some(Err(failure));
                            }
                        }
                        false
                    }
                    Some(Err(failure)) => {
                        failed = true;
                        return Some(Err(failure));
                    }
                    None if gathered.is_empty() => return None,
                    None => true,
                },
            };
            if full {
                let file_position = (share * file_bytes as f64) as u64;
                gathered_bytes = 0;
                return Some(encode(&plain, &std::mem::take(&mut gathered), file_position));
            }
        }
    })
}

fn encode(schema: &SchemaRef, batches: &[RecordBatch], file_position: u64) -> Outcome<Request> {
    let cannot = |error: arrow::error::ArrowError| Failure::new(format!("rows cannot be sent as Arrow: {error}"));
    let mut writer = StreamWriter::try_new(Vec::with_capacity(REQUEST_BYTES), schema).map_err(cannot)?;
    for batch in batches {
        writer.write(batch).map_err(cannot)?;
    }
    let body = writer.into_inner().map_err(cannot)?.into();
    let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    Ok(Request { body, content_type: media::ARROW_STREAM, rows, file_position })
}

/// Views and dictionaries share what they point to with other rows, all of which would be sent with each piece.
fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(plain_field).collect::<Vec<_>>()))
}

fn plain_field(field: &Arc<Field>) -> Arc<Field> {
    Arc::new(field.as_ref().clone().with_data_type(plain(field.data_type())))
}

fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => match **values {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            ref other => other.clone(),
        },
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::Map(entries, ordered) => DataType::Map(plain_field(entries), *ordered),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        other => other.clone(),
    }
}

fn as_plain(schema: &SchemaRef, batch: &RecordBatch) -> Outcome<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns: Result<Vec<_>, _> = columns.map(|(column, field)| cast(column, field.data_type())).collect();
    columns
        .and_then(|columns| RecordBatch::try_new(schema.clone(), columns))
        .map_err(|error| Failure::new(format!("rows cannot be sent as Arrow: {error}")))
}

/// A large batch in pieces of about a request.
fn pieces(batch: &RecordBatch) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    let row_bytes = (batch_bytes(batch) / rows.max(1)).max(1);
    let piece_rows = (REQUEST_BYTES / row_bytes).max(1);
    (0..rows).step_by(piece_rows).map(|start| batch.slice(start, piece_rows.min(rows - start))).collect()
}

fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| slice_bytes(column)).sum()
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn large_batches_become_several_requests_with_all_rows_in_order() {
        let numbers = Int64Array::from_iter_values(0..3_000_000);
        let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as _)]).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch.slice(0, 2_500_000)).unwrap();
        writer.write(&batch.slice(2_500_000, 500_000)).unwrap();
        let file = Bytes::from(writer.into_inner().unwrap());
        let requests: Vec<_> = requests(file.clone(), FileFormat::Arrow, &TextOptions::default()).unwrap().collect();
        assert!(requests.len() >= 3);
        let mut next = 0;
        for request in &requests {
            let request = request.as_ref().unwrap();
            assert!(request.body.len() < 2 * REQUEST_BYTES);
            for batch in StreamReader::try_new(Cursor::new(request.body.clone()), None).unwrap() {
                let batch = batch.unwrap();
                let values =
                    arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(0)).clone();
                for value in values.values() {
                    assert_eq!(*value, next);
                    next += 1;
                }
            }
        }
        assert_eq!(next, 3_000_000);
        assert_eq!(requests.iter().map(|request| request.as_ref().unwrap().rows).sum::<u64>(), 3_000_000);
    }
}
