//! Tests of lake tables on stores in memory and on disks, with faults in between.

mod commits;
mod contents;
mod damage;
mod deletes;
mod expire;
mod faults;
mod foreign;
mod merging;
mod orphans;
mod partitions;
mod readers;
mod rewrites;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use thermocline_schemas::{
    Alteration, ColumnType, Offset, PartitionBucket, Properties, TableDescriptor, TableId, TableName, TableSchema,
};
use uuid::Uuid;

use super::{Append, CommitOutcome, LakeTable, LakeVersion, Offsets, WrittenFile};
use crate::Warehouse;

pub(super) fn descriptor(id: u64, properties: &[(&str, &str)]) -> TableDescriptor {
    let columns = [("id".to_owned(), ColumnType::Int64, false), ("name".to_owned(), ColumnType::String, true)];
    let schema = TableSchema::new(columns).unwrap();
    let properties = Properties::parse(properties.iter().copied()).unwrap();
    TableDescriptor::new(TableId(id), TableName::parse("shop", "orders").unwrap(), schema, &[], properties, 1_000)
        .unwrap()
}

/// The same columns with a primary key.
pub(super) fn keyed_descriptor(id: u64, properties: &[(&str, &str)]) -> TableDescriptor {
    let TableDescriptor { id, name, schema, properties, created_ms, .. } = descriptor(id, properties);
    TableDescriptor::new(id, name, schema, &["id".to_owned()], properties, created_ms).unwrap()
}

/// Raises the table's format version to 3, as ALTER TABLE and a round do.
pub(super) async fn upgrade(table: &LakeTable, descriptor: &TableDescriptor) -> Arc<LakeVersion> {
    let raise = Alteration::SetProperty { name: "format_version".to_owned(), value: "3".to_owned() };
    table.evolve(&descriptor.altered(&[raise], true).unwrap()).await.unwrap()
}

pub(super) fn in_memory() -> Warehouse {
    Warehouse::with_store("s3://bucket/lake", Arc::new(InMemory::new()))
}

pub(super) fn bucket(number: u32) -> PartitionBucket {
    PartitionBucket::unpartitioned(number)
}

/// Rows `[first, first + rows)` of a bucket: the id is the offset.
pub(super) fn batch(table: &LakeTable, at: PartitionBucket, first: u64, rows: u64) -> RecordBatch {
    batch_at(table, at, first..first + rows)
}

pub(super) fn batch_at(table: &LakeTable, at: PartitionBucket, offsets: impl IntoIterator<Item = u64>) -> RecordBatch {
    let offsets: Vec<i64> = offsets.into_iter().map(|offset| offset as i64).collect();
    let names = offsets.iter().map(|offset| (offset % 3 != 0).then(|| format!("name {offset}")));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(offsets.clone())),
        Arc::new(StringArray::from_iter(names)),
        Arc::new(Int32Array::from(vec![at.bucket.0 as i32; offsets.len()])),
        Arc::new(Int64Array::from(offsets.clone())),
        Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; offsets.len()]).with_timezone("UTC")),
    ];
    RecordBatch::try_new(table.arrow_schema(), columns).unwrap()
}

pub(super) async fn write(table: &LakeTable, commit: Uuid, at: PartitionBucket, first: u64, rows: u64) -> WrittenFile {
    let mut writer = table.file_writer(commit, at).unwrap();
    writer.write(batch(table, at, first, rows)).await.unwrap();
    writer.finish().await.unwrap()
}

/// A round that adds `rows` to each of the buckets, from where `base` ends.
pub(super) async fn round(table: &LakeTable, base: &LakeVersion, adds: &[(u32, u64)]) -> Append {
    let commit_id = Uuid::new_v4();
    let mut end = base.offsets.clone();
    let mut files = Vec::new();
    for (number, rows) in adds {
        let start = base.offsets.get(bucket(*number));
        end.set(bucket(*number), start.plus(*rows));
        files.push(write(table, commit_id, bucket(*number), start.0, *rows).await);
    }
    Append {
        commit_id,
        start: base.offsets.clone(),
        end,
        files,
        ended: None,
        log_starts: Offsets::default(),
        stamps: None,
    }
}

pub(super) fn committed(outcome: CommitOutcome) -> Arc<LakeVersion> {
    match outcome {
        CommitOutcome::Committed(version) => version,
        CommitOutcome::Stale(version) => panic!("stale at {}", version.offsets),
    }
}

/// The offsets that are really in the files of the newest version, checked to be each bucket's whole range, once.
pub(super) async fn verify(table: &LakeTable) -> Offsets {
    let version = table.refresh().await.unwrap();
    version.check_history().unwrap();
    let mut found = Offsets::default();
    for file in table.data_files(&version).await.unwrap().iter() {
        let bytes = table.warehouse().store().get(&file.path).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.bytes);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        for batch in reader {
            for offset in batch.unwrap().column_by_name("__offset").unwrap().as_primitive::<Int64Type>().values() {
                assert_eq!(found.get(file.bucket), Offset(*offset as u64), "bucket {}", file.bucket);
                found.set(file.bucket, Offset(*offset as u64 + 1));
            }
        }
        assert_eq!(found.get(file.bucket), file.end_offset);
    }
    assert_eq!(found, version.offsets);
    found
}
