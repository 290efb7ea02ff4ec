//! Tables with a primary key: what they hold, who writes and reads them, and what is verified of them.
//!
//! A row is `item`, the key, and the columns of every test table, whose `id` stands for the others. Each item belongs
//! to one writer, so one checker (`KeyedHistory`) knows what every read may show. Some items are written all the time,
//! others so rarely that their rows have long been let go when the next change tells them.

pub mod clients;
pub mod followers;
pub mod verify;

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use thermocline_integration_tests::oracle;
use thermocline_schemas::{PartitionBucket, bucket_of_hash, hash_column};
use thermocline_tiering::check::{Key, KeyedHistory, KeyedRow, Row};

use super::clients::bucket_and_offset;
use super::followers::{rows_as_json, without_extra};

/// The items of one writer are numbered from a multiple of this.
const ITEMS_OF_WRITER: i64 = 1_000;

/// A table with a primary key that is written and read.
pub struct Target {
    pub name: &'static str,
    pub history: Mutex<KeyedHistory>,
    /// Its `WITH` properties.
    pub properties: String,
    pub buckets: u32,
    pub writers: Range<i64>,
    /// How many items each writer has.
    pub items: i64,
    /// So many changes are no longer hot.
    pub let_go: AtomicU64,
}

impl Target {
    pub fn ddl(&self) -> String {
        let columns = format!("item BIGINT PRIMARY KEY, {}", oracle::DDL_COLUMNS);
        format!("CREATE TABLE {} ({columns}) WITH (buckets = {}, {})", self.name, self.buckets, self.properties)
    }

    pub fn items_of(&self, writer: i64) -> Range<i64> {
        let first = writer * ITEMS_OF_WRITER;
        first..first + self.items
    }

    /// Where an item belongs.
    pub fn bucket_of(&self, item: i64) -> PartitionBucket {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![item]));
        let hash = hash_column(&column).expect("integers can be hashed")[0];
        PartitionBucket::unpartitioned(bucket_of_hash(hash, self.buckets))
    }
}

/// The table's columns.
fn schema() -> SchemaRef {
    let columns = oracle::schema().arrow();
    let item = Arc::new(Field::new("item", DataType::Int64, false));
    Arc::new(Schema::new(std::iter::once(item).chain(columns.fields().iter().cloned()).collect::<Vec<_>>()))
}

/// Of rows in the table's columns, with `__bucket` and `__offset` last; says which row has other contents than its id
/// stands for.
fn rows(batch: &RecordBatch) -> Result<Vec<KeyedRow>, String> {
    let items = batch.column(0).as_primitive::<Int64Type>().values();
    let others: Vec<_> = (1..batch.num_columns()).collect();
    let ids = oracle::ids(&batch.project(&others).expect("columns that are there"))?;
    let row = |(((bucket, offset), item), id): ((_, &i64), i64)| KeyedRow {
        bucket,
        offset,
        key: Key(*item as u64),
        row: Row(id as u64),
    };
    Ok(bucket_and_offset(batch).zip(items).zip(ids).map(row).collect())
}

/// The item and id of each row as JSON, if it is one; says which has other contents than its id stands for.
fn rows_from_json(rows: &[&serde_json::Value]) -> Result<Vec<Option<(Key, Row)>>, String> {
    let there: Vec<_> = rows.iter().filter(|row| !row.is_null()).collect();
    let ids: Vec<_> = there.iter().filter_map(|row| row["id"].as_i64()).collect();
    if ids.len() < there.len() {
        return Err(format!("a row without an id: {rows:?}"));
    }
    let mut expected = rows_as_json(&ids).into_iter();
    let row = |row: &&serde_json::Value| {
        if row.is_null() {
            return Ok(None);
        }
        let mut expected = expected.next().unwrap_or_default();
        expected["item"] = row["item"].clone();
        match (row["item"].as_u64(), row["id"].as_u64()) {
            (Some(item), Some(id)) if without_extra(row) == expected => Ok(Some((Key(item), Row(id)))),
            _ => Err(format!("{row}, expected {expected}")),
        }
    };
    rows.iter().map(row).collect()
}
