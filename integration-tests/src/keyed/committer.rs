//! A second server that tiers the same table with a key: its commit is planned from the map, with the deletes of older
//! rows that it needs, and lands later.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use thermocline_engine::Table;
use thermocline_schemas::{Offset, Result as Answered};
use thermocline_tiering::{Append, Ended, LakeTable, Offsets, RoaringTreemap, Warehouse};
use uuid::Uuid;

use super::oracle::{KeyOracle, Living, living_rows};
use crate::committer::Planned;
use crate::compare::bucket;

/// Plans the rows from where the lake is to a cut of the table, and writes their files. None if the lake is there already.
pub async fn plan(
    warehouse: &Warehouse,
    table: &Arc<Table>,
    oracle: &KeyOracle,
    cut: &[u64],
) -> Answered<Option<Planned>> {
    let lake = LakeTable::create_or_open(warehouse, table.descriptor()).await?;
    let version = lake.refresh().await?;
    let start = version.offsets.clone();
    let numbers: Vec<u64> = (0..cut.len()).map(|number| start.get(bucket(table, number)).0).collect();
    if numbers.iter().zip(cut).any(|(start, end)| end < start) || numbers == cut {
        return Ok(None);
    }
    let (before, after) = (oracle.living_at(&numbers), oracle.living_at(cut));
    let commit_id = Uuid::new_v4();
    let mut files = Vec::new();
    for (number, from) in numbers.iter().enumerate() {
        let new = after.iter().filter(|row| row.bucket == number && row.offset >= *from);
        let new: Vec<Living> = new.copied().collect();
        if new.is_empty() {
            continue;
        }
        let schema = lake.arrow_schema();
        let mut columns = Vec::new();
        for (column, field) in
            living_rows(table.descriptor(), table.schema(), &new).columns().iter().zip(schema.fields())
        {
            columns.push(arrow::compute::cast(column, field.data_type())?);
        }
        let stamps = TimestampMicrosecondArray::from_iter_values(new.iter().map(|row| row.stamp));
        let system: [ArrayRef; 3] = [
            Arc::new(Int32Array::from_value(number as i32, new.len())),
            Arc::new(Int64Array::from_iter_values(new.iter().map(|row| row.offset as i64))),
            Arc::new(stamps.with_timezone("UTC")),
        ];
        columns.extend(system);
        let mut writer = lake.file_writer(commit_id, bucket(table, number))?;
        writer.write(RecordBatch::try_new(schema.clone(), columns)?).await?;
        files.push(writer.finish().await?);
    }
    let mut ended = Ended { base: version.version, files: Vec::new() };
    for file in lake.data_files(&version).await?.iter() {
        let number = file.bucket.bucket.0 as usize;
        let gone = before.iter().filter(|row| row.bucket == number && !after.contains(row)).map(|row| row.offset);
        let offsets = lake.file_offsets(file).await?;
        let own: RoaringTreemap = gone.filter(|offset| offsets.offsets().contains(*offset)).collect();
        if !own.is_empty() {
            ended.files.push((file.clone(), offsets.positions(&own)?));
        }
    }
    let end = cut.iter().enumerate().map(|(number, end)| (bucket(table, number), Offset(*end))).collect();
    let append =
        Append { commit_id, start, end, files, ended: Some(ended), log_starts: Offsets::default(), stamps: None };
    Ok(Some(Planned::of(table, append)))
}
