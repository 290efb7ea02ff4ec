//! Changes as events, as lines, and as Arrow.
//!
//! A token never stands between the halves of an update: what follows `-U` is its `+U`. The rows of a snapshot come as `+I`
//! without tokens, because no place of the log comes after some of them.
//!
//! Each change is `{"kind","partition","bucket","offset","timestamp","row"}`; in Arrow it is a row of the user's
//! columns followed by the system columns. Events carry their token as `id:`, lines have it as lines of their own; an
//! Arrow reader finds bucket and offset in each row.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use serde_json::json;
use thermocline_engine::Table;
use thermocline_schemas::text::JsonEncoder;
use thermocline_schemas::{
    ChangeKind, Error, Fitting, PartitionBucket, Result, SystemColumn, TableId, fitted_values, nullable_throughout,
    plain_schema,
};
use thermocline_sql::Condition;
use thermocline_tiering::{ChangeBatch, StateBatch};

use super::TOKEN_INTERVAL;
use crate::http::accept::{ARROW_STREAM, EVENT_STREAM, NDJSON};
use crate::http::problem;
use thermocline_tiering::token_format::{self, Positions};

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
    format: Format,
    table: TableId,
    columns: Columns,
    /// The place: kind, partition, bucket, offset, timestamp.
    place_schema: SchemaRef,
    condition: Option<Tested>,
    form: Form,
}

/// Which rows are sent.
struct Tested {
    condition: Condition,
    /// The table's columns as the condition knows them.
    columns: Fixed,
}

/// Which columns rows are sent in.
enum Columns {
    /// The table's, as they change.
    Newest(SchemaRef),
    /// The same from the first row to the last: those that were asked for, or an Arrow stream's.
    Fixed(Fixed),
}

/// Columns for rows of whatever version.
struct Fixed {
    wanted: SchemaRef,
    /// How rows of the version that came last become these.
    last: Option<(SchemaRef, Fitting)>,
}

impl Fixed {
    fn new(wanted: SchemaRef) -> Fixed {
        Fixed { wanted, last: None }
    }

    fn fit(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        let fitting = match &mut self.last {
            Some((known, fitting)) if is_of(rows, known) => fitting,
            other => &other.insert((rows.schema(), Fitting::new(rows.schema_ref(), &self.wanted))).1,
        };
        fitting.apply(&rows.project(fitting.needed())?)
    }
}

fn is_of(rows: &RecordBatch, schema: &SchemaRef) -> bool {
    Arc::ptr_eq(rows.schema_ref(), schema) || rows.schema_ref() == schema
}

enum Form {
    Events { place: JsonEncoder, row: JsonEncoder },
    Lines { place: JsonEncoder, row: JsonEncoder, rows_since_token: u64, last_token: Instant },
    Arrow { writer: Box<StreamWriter<Vec<u8>>>, schema: SchemaRef },
}

impl Encoder {
    pub fn new(
        format: Format,
        table: &Table,
        columns: Option<Vec<usize>>,
        condition: Option<Condition>,
    ) -> Result<Encoder> {
        let row_schema = match &columns {
            None => table.schema().clone(),
            Some(columns) => Arc::new(table.schema().project(columns)?),
        };
        let place_schema = Arc::new(Schema::new(vec![
            SystemColumn::Kind.field().with_name("kind"),
            Field::new("partition", arrow::datatypes::DataType::Utf8, true),
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
                let schema = plain_schema(&Arc::new(Schema::new(fields)));
                Form::Arrow { writer: Box::new(StreamWriter::try_new(Vec::new(), &schema)?), schema }
            }
        };
        let columns = match (format, columns) {
            (Format::Arrow, _) => Columns::Fixed(Fixed::new(row_schema)),
            (_, Some(_)) => Columns::Fixed(Fixed::new(nullable_throughout(&row_schema))),
            (_, None) => Columns::Newest(row_schema),
        };
        let columns_of_condition = || Fixed::new(nullable_throughout(table.schema()));
        let condition = condition.map(|condition| Tested { condition, columns: columns_of_condition() });
        Ok(Encoder { format, table: table.descriptor().id, columns, place_schema, condition, form })
    }

    /// What comes before anything else.
    pub fn head(&mut self, out: &mut Vec<u8>) {
        if let Form::Arrow { writer, .. } = &mut self.form {
            out.append(writer.get_mut());
        }
    }

    /// What comes before the first change: the token of the place where it begins.
    pub fn begin(&mut self, positions: &Positions, out: &mut Vec<u8>) {
        match &mut self.form {
            Form::Events { .. } => {
                put_id(self.table, positions, out);
                out.push(b'\n');
            }
            Form::Lines { last_token, .. } => {
                *last_token = Instant::now();
                put_token_line(self.table, positions, out);
            }
            Form::Arrow { .. } => {}
        }
    }

    /// Sends rows of a snapshot.
    pub fn state(&mut self, state: &StateBatch, out: &mut Vec<u8>) -> Result<()> {
        let placed = Placed::state(state);
        let kept = self.kept(&placed, &state.batch)?;
        let is_kept = |row: usize| kept.as_ref().is_none_or(|kept| kept.value(row));
        let rows = self.in_columns(&state.batch)?;
        match &mut self.form {
            Form::Events { place, row } | Form::Lines { place, row, .. } => {
                let events = matches!(self.format, Format::Events);
                let places = placed.places(&self.place_schema)?;
                for number in (0..rows.num_rows()).filter(|row| is_kept(*row)) {
                    out.extend_from_slice(if events { b"event: change\ndata: " } else { b"" });
                    put_change(place, row, &places, &rows, number, out)?;
                    out.extend_from_slice(if events { b"\n\n" } else { b"\n" });
                }
            }
            Form::Arrow { writer, schema } => {
                write_kept(writer, placed.with_system_columns(schema, &rows)?, kept.as_ref())?;
                out.append(writer.get_mut());
            }
        }
        Ok(())
    }

    /// Which rows pass the condition, if there is one.
    fn kept(&mut self, placed: &Placed, rows: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(Tested { condition, columns }) = &mut self.condition else { return Ok(None) };
        let rows = columns.fit(rows)?;
        let columns = placed.columns.iter().chain(rows.columns()).zip(condition.schema().fields());
        // A condition's nested columns say nothing of field ids.
        let columns =
            columns.map(|(column, field)| fitted_values(column, field.data_type())).collect::<Result<_, _>>()?;
        condition.test(&RecordBatch::try_new(condition.schema().clone(), columns)?).map(Some)
    }

    fn in_columns(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        match &mut self.columns {
            Columns::Newest(known) => {
                if !is_of(rows, known) {
                    known.clone_from(rows.schema_ref());
                    if let Form::Events { row, .. } | Form::Lines { row, .. } = &mut self.form {
                        *row = JsonEncoder::new(known)?;
                    }
                }
                Ok(rows.clone())
            }
            Columns::Fixed(columns) => columns.fit(rows),
        }
    }

    /// Sends changes, and moves the positions past them.
    pub fn changes(&mut self, changes: &ChangeBatch, positions: &mut Positions, out: &mut Vec<u8>) -> Result<()> {
        let placed = Placed::changes(changes);
        let kept = self.kept(&placed, &changes.batch)?;
        let is_kept = |row: usize| kept.as_ref().is_none_or(|kept| kept.value(row));
        let rows = self.in_columns(&changes.batch)?;
        let table = self.table;
        // The first half of an update is sent, and not passed.
        let is_half = |row: usize| {
            changes.kinds.as_ref().is_some_and(|kinds| kinds.value(row) == ChangeKind::UpdateBefore.code())
        };
        let ends_in_half = changes.batch.num_rows().checked_sub(1).is_some_and(is_half);
        let next = if ends_in_half { changes.first.plus(changes.batch.num_rows() as u64 - 1) } else { changes.next() };
        match &mut self.form {
            Form::Events { place, row } => {
                let places = placed.places(&self.place_schema)?;
                for number in 0..changes.batch.num_rows() {
                    if !is_half(number) {
                        positions.insert(changes.bucket, changes.first.plus(number as u64 + 1));
                    }
                    if !is_kept(number) {
                        continue;
                    }
                    out.extend_from_slice(b"event: change\n");
                    if !is_half(number) {
                        put_id(table, positions, out);
                    }
                    out.extend_from_slice(b"data: ");
                    put_change(place, row, &places, &rows, number, out)?;
                    out.extend_from_slice(b"\n\n");
                }
            }
            Form::Lines { place, row, rows_since_token, last_token } => {
                let places = placed.places(&self.place_schema)?;
                for number in (0..changes.batch.num_rows()).filter(|row| is_kept(*row)) {
                    put_change(place, row, &places, &rows, number, out)?;
                    out.push(b'\n');
                }
                positions.insert(changes.bucket, next);
                *rows_since_token += changes.batch.num_rows() as u64;
                // The next slice must not make it too many.
                let many = *rows_since_token + super::ROWS_AT_ONCE as u64 > TOKEN_ROWS;
                if !ends_in_half && (many || last_token.elapsed() >= TOKEN_INTERVAL) {
                    (*rows_since_token, *last_token) = (0, Instant::now());
                    put_token_line(table, positions, out);
                }
            }
            Form::Arrow { writer, schema } => {
                write_kept(writer, placed.with_system_columns(schema, &rows)?, kept.as_ref())?;
                out.append(writer.get_mut());
                positions.insert(changes.bucket, next);
            }
        }
        Ok(())
    }

    /// A sign of life, with the token if there is one.
    pub fn tick(&mut self, positions: Option<&Positions>, out: &mut Vec<u8>) {
        match (&mut self.form, positions) {
            (Form::Events { .. }, positions) => {
                out.extend_from_slice(b": ping\n");
                if let Some(positions) = positions {
                    put_id(self.table, positions, out);
                }
                out.push(b'\n');
            }
            (Form::Lines { rows_since_token, last_token, .. }, Some(positions)) => {
                (*rows_since_token, *last_token) = (0, Instant::now());
                put_token_line(self.table, positions, out);
            }
            // Nothing that is not a row has a place in the stream.
            (Form::Lines { .. }, None) | (Form::Arrow { .. }, _) => {}
        }
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

fn write_kept(writer: &mut StreamWriter<Vec<u8>>, rows: RecordBatch, kept: Option<&BooleanArray>) -> Result<()> {
    let rows = kept.map_or_else(|| Ok(rows.clone()), |kept| filter_record_batch(&rows, kept))?;
    if rows.num_rows() > 0 {
        writer.write(&rows)?;
    }
    Ok(())
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

/// The system columns of rows, whatever they are rows of; in the order of [`SystemColumn::ALL`].
struct Placed {
    columns: [ArrayRef; 4],
    partition: Option<Arc<str>>,
}

impl Placed {
    fn changes(changes: &ChangeBatch) -> Placed {
        let rows = changes.batch.num_rows();
        let first = changes.first.0 as i64;
        let kinds: StringArray = match &changes.kinds {
            None => StringArray::from_iter_values(std::iter::repeat_n(ChangeKind::Append.symbol(), rows)),
            Some(kinds) => {
                kinds.values().iter().map(|code| ChangeKind::from_code(*code).map(ChangeKind::symbol)).collect()
            }
        };
        let offsets = Int64Array::from_iter_values(first..first + rows as i64);
        Placed::new(kinds, changes.bucket, &changes.partition, offsets, changes.stamps.values())
    }

    fn state(state: &StateBatch) -> Placed {
        let kinds = std::iter::repeat_n(ChangeKind::Insert.symbol(), state.offsets.len());
        let offsets = Int64Array::from_iter_values(state.offsets.iter().map(|offset| offset.0 as i64));
        Placed::new(
            StringArray::from_iter_values(kinds),
            state.bucket,
            &state.partition,
            offsets,
            state.stamps.iter().copied(),
        )
    }

    fn new(
        kinds: StringArray,
        bucket: PartitionBucket,
        partition: &Option<Arc<str>>,
        offsets: Int64Array,
        stamps: impl Iterator<Item = i64>,
    ) -> Placed {
        let buckets = Int32Array::from_value(bucket.bucket.0 as i32, offsets.len());
        let stamps = TimestampMicrosecondArray::from_iter_values(stamps);
        let columns: [ArrayRef; 4] = [
            Arc::new(kinds),
            Arc::new(buckets),
            Arc::new(offsets),
            Arc::new(stamps.with_data_type(SystemColumn::Timestamp.arrow())),
        ];
        Placed { columns, partition: partition.clone() }
    }

    fn places(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        let [kind, bucket, offset, timestamp] = self.columns.clone();
        let partition: ArrayRef =
            Arc::new(std::iter::repeat_n(self.partition.as_deref(), kind.len()).collect::<StringArray>());
        Ok(RecordBatch::try_new(schema.clone(), vec![kind, partition, bucket, offset, timestamp])?)
    }

    fn with_system_columns(&self, schema: &SchemaRef, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = rows.columns().iter().chain(&self.columns).zip(schema.fields());
        let columns =
            columns.map(|(column, field)| fitted_values(column, field.data_type())).collect::<Result<_, _>>()?;
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}
