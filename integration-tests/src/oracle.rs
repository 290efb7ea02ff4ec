//! The plain list: what was acked, per bucket, in order.
//!
//! A row is known by its id; its other columns follow from the id, so a row that comes back under the right id with other
//! contents is seen. Requests whose outcome is not known are kept as such, until a read shows which it was.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int16Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Decimal128Type, Float64Type, Int16Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use thermocline_schemas::{ColumnType, TableSchema, bucket_of_hash, hash_column};

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

fn note(id: i64) -> Option<String> {
    (id % 4 > 0).then(|| format!("note of {id} {}", "·".repeat((id % 9) as usize)))
}

fn small(id: i64) -> Option<i16> {
    (id % 5 > 0).then_some(mixed(id) as i16)
}

fn price(id: i64) -> Option<i128> {
    (id % 7 > 0).then_some(i128::from(mixed(id) % 1_000_000_000))
}

fn ratio(id: i64) -> f64 {
    mixed(id) as f64 / 3.0
}

fn at(id: i64) -> Option<i64> {
    (id % 3 > 0).then_some(1_700_000_000_000_000 + mixed(id) % 1_000_000_000_000)
}

fn ok(id: i64) -> Option<bool> {
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

/// What a table must hold.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// Per bucket, the ids in offset order.
    pub buckets: Vec<Vec<i64>>,
    keyed: bool,
    turn: usize,
    next_id: i64,
    /// Requests that may have been applied or not, oldest first.
    unclear: Vec<Vec<i64>>,
}

impl Oracle {
    /// `keyed`: by `city`; else a single bucket.
    pub fn new(buckets: usize, keyed: bool) -> Oracle {
        assert!(keyed || buckets == 1, "round robin after an unclear request cannot be foretold");
        Oracle { buckets: vec![Vec::new(); buckets], keyed, turn: 0, next_id: 0, unclear: Vec::new() }
    }

    /// The next ids to send.
    pub fn fresh(&mut self, count: usize) -> Vec<i64> {
        let first = self.next_id;
        self.next_id += count as i64;
        (first..self.next_id).collect()
    }

    pub fn acked(&mut self, ids: &[i64]) {
        for (bucket, id) in self.places(ids) {
            self.buckets[bucket].push(id);
        }
    }

    pub fn unclear(&mut self, ids: Vec<i64>) {
        self.unclear.push(ids);
    }

    fn places(&mut self, ids: &[i64]) -> Vec<(usize, i64)> {
        let count = self.buckets.len() as u32;
        if !self.keyed {
            self.turn += 1;
            return ids.iter().map(|id| (0, *id)).collect();
        }
        let cities: ArrayRef = Arc::new(StringArray::from_iter_values(ids.iter().map(|id| city(*id))));
        let hashes = hash_column(&cities).expect("text can be hashed");
        ids.iter().zip(hashes).map(|(id, hash)| (bucket_of_hash(hash, count) as usize, *id)).collect()
    }

    /// Decides unclear requests by what a read of everything showed: each whole, or not at all.
    pub fn settle(&mut self, present: &std::collections::HashSet<i64>) -> Result<usize, String> {
        let mut applied = 0;
        for ids in std::mem::take(&mut self.unclear) {
            match ids.iter().filter(|id| present.contains(id)).count() {
                0 => {}
                all if all == ids.len() => {
                    self.acked(&ids);
                    applied += 1;
                }
                some => return Err(format!("{some} of {} rows of one request are there", ids.len())),
            }
        }
        Ok(applied)
    }

    pub fn rows(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    /// All ids, ascending.
    pub fn sorted(&self) -> Vec<i64> {
        let mut ids: Vec<_> = self.buckets.iter().flatten().copied().collect();
        ids.sort_unstable();
        ids
    }
}
