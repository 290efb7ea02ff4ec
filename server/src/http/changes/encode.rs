//! Changes as events, as lines, and as Arrow.
//!
//! Each change is `{"kind","partition","bucket","offset","timestamp","row"}`; in Arrow it is a row of the user's
//! columns followed by the system columns. Events carry their token as `id:`, lines have it as lines of their own; an
//! Arrow reader finds bucket and offset in each row.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int32Array, Int64Array, NullArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use serde_json::json;
use thermocline_engine::Table;
use thermocline_schemas::text::JsonEncoder;
use thermocline_schemas::{ChangeKind, Error, Result, SystemColumn, TableId};
use thermocline_tiering::ChangeBatch;

use super::TOKEN_INTERVAL;
use crate::http::accept::{ARROW_STREAM, EVENT_STREAM, NDJSON};
use crate::http::problem;
use crate::http::token_format::{self, Positions};

/// Lines have a token at least so often.
const TOKEN_ROWS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Events,
    Lines,
    Arrow,
}

impl Format {
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Events => EVENT_STREAM,
            Format::Lines => NDJSON,
            Format::Arrow => ARROW_STREAM,
        }
    }
}

pub struct Encoder {
    table: TableId,
    columns: Option<Vec<usize>>,
    /// The place: kind, partition, bucket, offset, timestamp.
    place_schema: SchemaRef,
    form: Form,
}

enum Form {
    Events { place: JsonEncoder, row: JsonEncoder },
    Lines { place: JsonEncoder, row: JsonEncoder, rows_since_token: u64, last_token: Instant },
    Arrow { writer: Box<StreamWriter<Vec<u8>>>, schema: SchemaRef },
}

impl Encoder {
    pub fn new(format: Format, table: &Table, columns: Option<Vec<usize>>) -> Result<Encoder> {
        let row_schema = match &columns {
            None => table.schema().clone(),
            Some(columns) => Arc::new(table.schema().project(columns)?),
        };
        let place_schema = Arc::new(Schema::new(vec![
            SystemColumn::Kind.field().with_name("kind"),
            Field::new("partition", arrow::datatypes::DataType::Null, true),
            SystemColumn::Bucket.field().with_name("bucket"),
            SystemColumn::Offset.field().with_name("offset"),
            SystemColumn::Timestamp.field().with_name("timestamp"),
        ]));
        let encoders = || Ok::<_, Error>((JsonEncoder::new(&place_schema)?, JsonEncoder::new(&row_schema)?));
        let form = match format {
            Format::Events => {
                let (place, row) = encoders()?;
                Form::Events { place, row }
            }
            Format::Lines => {
                let (place, row) = encoders()?;
                Form::Lines { place, row, rows_since_token: 0, last_token: Instant::now() }
            }
            Format::Arrow => {
                let system = SystemColumn::ALL.iter().map(|column| Arc::new(column.field()));
                let fields: Vec<_> = row_schema.fields().iter().cloned().chain(system).collect();
                let schema = Arc::new(Schema::new(fields));
                Form::Arrow { writer: Box::new(StreamWriter::try_new(Vec::new(), &schema)?), schema }
            }
        };
        Ok(Encoder { table: table.descriptor().id, columns, place_schema, form })
    }

    /// What comes before the first change: the token of the place where it begins.
    pub fn begin(&mut self, positions: &Positions, out: &mut Vec<u8>) -> Result<()> {
        match &mut self.form {
            Form::Events { .. } => {
                put_id(self.table, positions, out);
                out.push(b'\n');
            }
            Form::Lines { last_token, .. } => {
                *last_token = Instant::now();
                put_token_line(self.table, positions, out);
            }
            Form::Arrow { writer, .. } => out.append(writer.get_mut()),
        }
        Ok(())
    }

    /// Sends changes, and moves the positions past them.
    pub fn changes(&mut self, changes: &ChangeBatch, positions: &mut Positions, out: &mut Vec<u8>) -> Result<()> {
        let rows = match &self.columns {
            None => changes.batch.clone(),
            Some(columns) => changes.batch.project(columns)?,
        };
        let table = self.table;
        match &mut self.form {
            Form::Events { place, row } => {
                let places = places(&self.place_schema, changes)?;
                for number in 0..changes.batch.num_rows() {
                    positions.insert(changes.bucket, changes.first.plus(number as u64 + 1));
                    out.extend_from_slice(b"event: change\n");
                    put_id(table, positions, out);
                    out.extend_from_slice(b"data: ");
                    put_change(place, row, &places, &rows, number, out)?;
                    out.extend_from_slice(b"\n\n");
                }
            }
            Form::Lines { place, row, rows_since_token, last_token } => {
                let places = places(&self.place_schema, changes)?;
                for number in 0..changes.batch.num_rows() {
                    put_change(place, row, &places, &rows, number, out)?;
                    out.push(b'\n');
                }
                positions.insert(changes.bucket, changes.next());
                *rows_since_token += changes.batch.num_rows() as u64;
                // The next slice must not make it too many.
                let many = *rows_since_token + super::ROWS_AT_ONCE as u64 > TOKEN_ROWS;
                if many || last_token.elapsed() >= TOKEN_INTERVAL {
                    (*rows_since_token, *last_token) = (0, Instant::now());
                    put_token_line(table, positions, out);
                }
            }
            Form::Arrow { writer, schema } => {
                writer.write(&with_system_columns(schema, &rows, changes)?)?;
                out.append(writer.get_mut());
                positions.insert(changes.bucket, changes.next());
            }
        }
        Ok(())
    }

    /// A sign of life, with the token.
    pub fn tick(&mut self, positions: &Positions, out: &mut Vec<u8>) -> Result<()> {
        match &mut self.form {
            Form::Events { .. } => {
                out.extend_from_slice(b": ping\n");
                put_id(self.table, positions, out);
                out.push(b'\n');
            }
            Form::Lines { rows_since_token, last_token, .. } => {
                (*rows_since_token, *last_token) = (0, Instant::now());
                put_token_line(self.table, positions, out);
            }
            // Nothing that is not a row has a place in the stream.
            Form::Arrow { .. } => {}
        }
        Ok(())
    }

    /// The clean end: the last token, and for events, if it is the end that was asked for, `event: end`.
    pub fn end(&mut self, positions: &Positions, asked_for: bool, out: &mut Vec<u8>) -> Result<()> {
        match &mut self.form {
            Form::Events { .. } => {
                if asked_for {
                    out.extend_from_slice(b"event: end\n");
                    put_id(self.table, positions, out);
                    out.extend_from_slice(b"data: {}\n\n");
                } else {
                    put_id(self.table, positions, out);
                    out.push(b'\n');
                }
            }
            Form::Lines { .. } => put_token_line(self.table, positions, out),
            Form::Arrow { writer, .. } => {
                writer.finish()?;
                out.append(writer.get_mut());
            }
        }
        Ok(())
    }

    /// Says why it ends; Arrow breaks off.
    pub fn fail(&mut self, error: Error, out: &mut Vec<u8>) -> Result<()> {
        let problem = problem::document(&error);
        match &self.form {
            Form::Events { .. } => out.extend_from_slice(format!("event: error\ndata: {problem}\n\n").as_bytes()),
            Form::Lines { .. } => {
                out.extend_from_slice(format!("{}\n", json!({ "error": problem })).as_bytes());
            }
            Form::Arrow { .. } => return Err(error),
        }
        Ok(())
    }
}

fn put_id(table: TableId, positions: &Positions, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(token_format::encode(table, positions).as_bytes());
    out.push(b'\n');
}

fn put_token_line(table: TableId, positions: &Positions, out: &mut Vec<u8>) {
    let token = token_format::encode(table, positions);
    out.extend_from_slice(format!("{{\"token\":\"{token}\"}}\n").as_bytes());
}

/// The place's object with the row as one more member.
fn put_change(
    place: &mut JsonEncoder,
    row: &mut JsonEncoder,
    places: &RecordBatch,
    rows: &RecordBatch,
    number: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    place.write_object(places, number, out)?;
    out.pop();
    out.extend_from_slice(b",\"row\":");
    row.write_object(rows, number, out)?;
    out.push(b'}');
    Ok(())
}

fn places(schema: &SchemaRef, changes: &ChangeBatch) -> Result<RecordBatch> {
    let [kind, bucket, offset, timestamp] = system_columns(changes);
    let partition: ArrayRef = Arc::new(NullArray::new(changes.batch.num_rows()));
    Ok(RecordBatch::try_new(schema.clone(), vec![kind, partition, bucket, offset, timestamp])?)
}

/// In the order of [`SystemColumn::ALL`].
fn system_columns(changes: &ChangeBatch) -> [ArrayRef; 4] {
    let rows = changes.batch.num_rows();
    let first = changes.first.0 as i64;
    let stamps = TimestampMicrosecondArray::from_iter_values(changes.stamps.values());
    [
        // Log tables have no other kind.
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(ChangeKind::Append.symbol(), rows))),
        Arc::new(Int32Array::from_value(changes.bucket.bucket.0 as i32, rows)),
        Arc::new(Int64Array::from_iter_values(first..first + rows as i64)),
        Arc::new(stamps.with_data_type(SystemColumn::Timestamp.arrow())),
    ]
}

fn with_system_columns(schema: &SchemaRef, rows: &RecordBatch, changes: &ChangeBatch) -> Result<RecordBatch> {
    let columns = rows.columns().iter().cloned().chain(system_columns(changes)).collect();
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
