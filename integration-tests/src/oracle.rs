//! The plain list: what was acked, per bucket, in order.
//!
//! A row is known by its id; its other columns follow from the id, so a row that comes back under the right id with other
//! contents is seen. Requests whose outcome is not known are kept as such, until a read shows which it was.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int16Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Decimal128Type, Float64Type, Int16Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use thermocline_engine::{Answer, Table};
use thermocline_schemas::{ColumnType, TableDescriptor, TableSchema, bucket_of_hash, hash_column};

/// The columns of every test table.
pub fn schema() -> TableSchema {
    let columns = [
        ("id", ColumnType::Int64, false),
        ("city", ColumnType::String, false),
        ("note", ColumnType::String, true),
        ("small", ColumnType::Int16, true),
        ("price", ColumnType::Decimal { precision: 12, scale: 2 }, true),
        ("ratio", ColumnType::Float64, false),
        ("at", ColumnType::TimestampTz, true),
        ("ok", ColumnType::Boolean, true),
    ];
    let columns = columns.map(|(name, column_type, nullable)| (name.to_owned(), column_type, nullable));
    TableSchema::new(columns).expect("the test table is well formed")
}

/// The columns as DDL.
pub const DDL_COLUMNS: &str = "id BIGINT NOT NULL, city VARCHAR NOT NULL, note VARCHAR, small SMALLINT, \
     price DECIMAL(12, 2), ratio DOUBLE PRECISION NOT NULL, at TIMESTAMPTZ, ok BOOLEAN";

fn mixed(id: i64) -> i64 {
    (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) as i64 >> 16
}

pub fn city(id: i64) -> String {
    format!("city {}", mixed(id).rem_euclid(17))
}

pub fn note(id: i64) -> Option<String> {
    (id % 4 > 0).then(|| format!("note of {id} {}", "·".repeat((id % 9) as usize)))
}

pub fn small(id: i64) -> Option<i16> {
    (id % 5 > 0).then_some(mixed(id) as i16)
}

pub fn price(id: i64) -> Option<i128> {
    (id % 7 > 0).then_some(i128::from(mixed(id) % 1_000_000_000))
}

pub fn ratio(id: i64) -> f64 {
    mixed(id) as f64 / 3.0
}

pub fn at(id: i64) -> Option<i64> {
    (id % 3 > 0).then_some(1_700_000_000_000_000 + mixed(id) % 1_000_000_000_000)
}

pub fn ok(id: i64) -> Option<bool> {
    (id % 6 > 0).then_some(id % 2 == 0)
}

/// Rows of these ids.
pub fn rows(schema: &SchemaRef, ids: &[i64]) -> RecordBatch {
    let each = || ids.iter().copied();
    let price = Decimal128Array::from_iter(each().map(price)).with_precision_and_scale(12, 2);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(each())),
        Arc::new(StringArray::from_iter_values(each().map(city))),
        Arc::new(StringArray::from_iter(each().map(note))),
        Arc::new(Int16Array::from_iter(each().map(small))),
        Arc::new(price.expect("twelve digits hold it")),
        Arc::new(Float64Array::from_iter_values(each().map(ratio))),
        Arc::new(TimestampMicrosecondArray::from_iter(each().map(at)).with_timezone("UTC")),
        Arc::new(BooleanArray::from_iter(each().map(ok))),
    ];
    RecordBatch::try_new(schema.clone(), columns).expect("columns fit the schema")
}

/// The columns that every test table has. One may come and go behind them, under changing names.
pub const COLUMNS: usize = 8;

/// The column that comes and goes, where a table has it: its name and its field id.
pub fn passing_column(table: &Table) -> Option<(&str, u32)> {
    passing_column_of(table.descriptor())
}

pub fn passing_column_of(table: &TableDescriptor) -> Option<(&str, u32)> {
    let column = table.schema.columns().get(COLUMNS)?;
    Some((column.name.as_str(), column.id.0 as u32))
}

/// What a row has in the passing column with this field id: so it can be told in which one it was written.
pub fn passing(id: i64, field: u32) -> i64 {
    id * 4096 + i64::from(field)
}

/// Rows of these ids with all columns of a table.
pub fn rows_of(table: &Table, ids: &[i64]) -> RecordBatch {
    let Some((_, field)) = passing_column(table) else { return rows(table.schema(), ids) };
    let first = table.schema().project(&(0..COLUMNS).collect::<Vec<_>>()).expect("they are there");
    let passing: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| passing(*id, field))));
    let columns = rows(&Arc::new(first), ids).columns().iter().cloned().chain([passing]).collect();
    RecordBatch::try_new(table.schema().clone(), columns).expect("columns fit the schema")
}

/// The field id of the passing column in which each row was written, as far as a batch of the table's columns shows it.
pub fn fields_shown(batch: &RecordBatch) -> Result<Vec<u32>, String> {
    let ids = batch.column(0).as_primitive::<Int64Type>();
    let Some(values) = batch.columns().get(COLUMNS) else { return Ok(vec![0; batch.num_rows()]) };
    let values = values.as_primitive::<Int64Type>();
    let shown = |row: usize| match values.is_null(row) {
        true => Ok(0),
        false => {
            let field = values.value(row) - ids.value(row) * 4096;
            u32::try_from(field).map_err(|_| format!("row {row} has {} in a passing column", values.value(row)))
        }
    };
    (0..batch.num_rows()).map(shown).collect()
}

/// The ids of a batch whose first columns are the table's; says which row has other contents than its id stands for.
pub fn ids(batch: &RecordBatch) -> Result<Vec<i64>, String> {
    let found = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    for (row, id) in found.iter().enumerate() {
        let text = |column: usize| batch.column(column).as_string_opt::<i32>().map(|array| array.value(row));
        let null = |column: usize| batch.column(column).is_null(row);
        let same = text(1) == Some(&city(*id))
            && null(2) == note(*id).is_none()
            && (null(2) || text(2) == note(*id).as_deref())
            && null(3) == small(*id).is_none()
            && (null(3) || Some(batch.column(3).as_primitive::<Int16Type>().value(row)) == small(*id))
            && null(4) == price(*id).is_none()
            && (null(4) || Some(batch.column(4).as_primitive::<Decimal128Type>().value(row)) == price(*id))
            && batch.column(5).as_primitive::<Float64Type>().value(row).to_bits() == ratio(*id).to_bits()
            && null(6) == at(*id).is_none()
            && (null(6) || Some(batch.column(6).as_primitive::<TimestampMicrosecondType>().value(row)) == at(*id))
            && null(7) == ok(*id).is_none()
            && (null(7) || Some(batch.column(7).as_boolean().value(row)) == ok(*id));
        if !same {
            return Err(format!("row {row} has id {id} and other contents: {:?}", batch.slice(row, 1)));
        }
    }
    Ok(found)
}

/// A row of the list: its id stands for its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    /// When it was accepted, in microseconds since 1970.
    pub stamp: i64,
    /// The field id of the passing column that it was written with; 0 if there was none.
    pub field: u32,
}

impl Row {
    /// As who reads it in columns among which the passing one is this, or none.
    pub fn shown(self, field: u32) -> Row {
        Row { field: if self.field == field { field } else { 0 }, ..self }
    }
}

/// These rows, read so.
pub fn shown(rows: &[Row], field: u32) -> Vec<Row> {
    rows.iter().map(|row| row.shown(field)).collect()
}

/// A request whose outcome is not known: applied whole, or not at all.
#[derive(Clone, Debug)]
struct Unclear {
    ids: Vec<i64>,
    stamp: i64,
    field: u32,
}

/// What a table must hold.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// Per bucket, the rows in offset order, from offset 0.
    pub buckets: Vec<Vec<Row>>,
    /// Per bucket, the first offset that is still kept; 0 for tables with a lake.
    pub floors: Vec<u64>,
    /// The passing column of who writes.
    pub field: u32,
    keyed: bool,
    next_id: i64,
    unclear: Vec<Unclear>,
}

impl Oracle {
    /// `keyed`: rows go to buckets by their `city`; else a request goes to one bucket, which its answer names.
    pub fn new(buckets: usize, keyed: bool) -> Oracle {
        let empty = vec![Vec::new(); buckets];
        Oracle { buckets: empty, floors: vec![0; buckets], field: 0, keyed, next_id: 0, unclear: Vec::new() }
    }

    /// The next ids to send.
    pub fn fresh(&mut self, count: usize) -> Vec<i64> {
        let first = self.next_id;
        self.next_id += count as i64;
        (first..self.next_id).collect()
    }

    /// A request was answered: its rows are at the ends of their buckets, as the answer says.
    pub fn acked(&mut self, ids: &[i64], stamp: i64, answer: &Answer) -> Result<(), String> {
        let mut left = ids.len();
        for range in &answer.buckets {
            let bucket = range.bucket.0 as usize;
            let own: Vec<i64> = ids.iter().copied().filter(|id| self.may_lie_in(*id, bucket)).collect();
            let end = self.buckets[bucket].len() as u64;
            if range.first_offset.0 != end || range.end_offset.0 != end + own.len() as u64 {
                let count = own.len();
                return Err(format!("{count} rows were to follow offset {end} of bucket {bucket}: {answer:?}"));
            }
            left = left.saturating_sub(own.len());
            let field = self.field;
            self.buckets[bucket].extend(own.into_iter().map(|id| Row { id, stamp, field }));
        }
        if left > 0 || answer.rows != ids.len() as u64 {
            return Err(format!("of {} rows {left} were given no place: {answer:?}", ids.len()));
        }
        Ok(())
    }

    fn may_lie_in(&self, id: i64, bucket: usize) -> bool {
        !self.keyed || bucket_of(id, self.buckets.len() as u32) == bucket
    }

    pub fn unclear(&mut self, ids: Vec<i64>, stamp: i64) {
        self.unclear.push(Unclear { ids, stamp, field: self.field });
    }

    pub fn has_unclear(&self) -> bool {
        !self.unclear.is_empty()
    }

    /// Decides unclear requests by the rows that were found behind the known ends: each whole and in its order, or not at
    /// all, and nothing else. Answers which were applied, in the order in which they had been noted.
    pub fn settle(&mut self, found: &[Vec<Row>]) -> Result<Vec<bool>, String> {
        let mut left: usize = found.iter().map(Vec::len).sum();
        let mut applied = Vec::new();
        let mut fields = HashMap::new();
        for Unclear { ids, stamp, field } in std::mem::take(&mut self.unclear) {
            let mut present = 0;
            for (bucket, rows) in found.iter().enumerate() {
                let own: Vec<_> = rows.iter().filter(|row| ids.contains(&row.id)).collect();
                let sent = ids.iter().filter(|id| own.iter().any(|row| row.id == **id));
                if !own.iter().map(|row| &row.id).eq(sent) || own.iter().any(|row| row.stamp != stamp) {
                    return Err(format!("the rows of one request are not as they were sent: {own:?}"));
                }
                if let Some(row) = own.iter().find(|row| !self.may_lie_in(row.id, bucket)) {
                    return Err(format!("row {} is in bucket {bucket}", row.id));
                }
                present += own.len();
            }
            if present != 0 && present != ids.len() {
                return Err(format!("{present} of {} rows of one request are there", ids.len()));
            }
            left -= present;
            fields.extend(ids.iter().map(|id| (*id, field)));
            applied.push(present > 0);
        }
        if left > 0 {
            return Err(format!("{left} rows are there that nobody sent: {found:?}"));
        }
        for (own, found) in self.buckets.iter_mut().zip(found) {
            own.extend(found.iter().map(|row| Row { field: fields[&row.id], ..*row }));
        }
        Ok(applied)
    }

    /// What readers see: (bucket, offset, row), in order.
    pub fn visible(&self) -> impl Iterator<Item = (usize, u64, Row)> + '_ {
        self.buckets.iter().zip(&self.floors).enumerate().flat_map(|(bucket, (rows, floor))| {
            rows.iter().enumerate().skip(*floor as usize).map(move |(offset, row)| (bucket, offset as u64, *row))
        })
    }

    /// The end of each bucket.
    pub fn ends(&self) -> Vec<u64> {
        self.buckets.iter().map(|rows| rows.len() as u64).collect()
    }
}

/// Where a table of so many buckets, by `city`, has this row.
fn bucket_of(id: i64, buckets: u32) -> usize {
    let city: ArrayRef = Arc::new(StringArray::from_iter_values([city(id)]));
    let hash = hash_column(&city).expect("text can be hashed")[0];
    bucket_of_hash(hash, buckets) as usize
}
