//! Partitions whose time is over go, of tables that say so with `partition_retention`.
//!
//! A partition is named by a time, a day or an hour of some column; when that time has been over for long enough its rows
//! go, from both tiers. Always: never before all of them are in the lake. Of a log table the partition's buckets start
//! where they end, by one edit, and the next commit takes their files out; rows that come late are gone with the next look.
//! Of a table with a primary key the rows are deleted like any others, some at a time, each only if it is still what was
//! read: followers hear of each.
//!
//! The partition itself stays in the table's list, whose places are its numbers. A partition of null has no time.

use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use futures::TryStreamExt;
use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{Change, ChangeRows, Sender, Table};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, PartitionId, Result};

use crate::compact::closing;
use crate::masks::{CutFile, Masks, Picked};
use crate::round::check_kept;
use crate::tiering::{TableLake, Tiering};

/// Between two looks at a table.
pub(crate) const INTERVAL_MS: i64 = 10_000;
/// Rows that are deleted at once, if they are not too large.
const DELETES_MAX: usize = 2_000;

impl Tiering {
    /// Takes the rows of partitions away whose time is over, as the scheduler does by itself; how many.
    pub async fn expire_partitions(&self, table: &Arc<Table>) -> Result<u64> {
        let _one = self.upkeep.acquire().await.map_err(|_| closing())?;
        self.expire_due(table, &self.table_lake(table)).await
    }

    /// The same, for who has the permit.
    pub(crate) async fn expire_due(&self, table: &Arc<Table>, table_lake: &TableLake) -> Result<u64> {
        let table = &self.engine().newest(table);
        let mut rows = 0;
        for partition in table.descriptor().expired_partitions(self.engine().now_micros()) {
            let Some(ends) = tiered(table, table_lake, partition) else { continue };
            rows += match table.descriptor().is_keyed() {
                false => self.engine().drop_buckets(table, &ends).await?,
                true => self.delete_all(table, &ends).await?,
            };
        }
        if rows > 0 {
            tracing::info!(table = %table.descriptor().name, rows, "rows of partitions whose time is over went");
        }
        Ok(rows)
    }

    /// Deletes the rows that live in these buckets, all of whose changes are in the lake.
    async fn delete_all(&self, table: &Arc<Table>, ends: &[(PartitionBucket, Offset)]) -> Result<u64> {
        let split = self.read_split(std::slice::from_ref(table)).await?.remove(0);
        let Some(lake) = &split.lake else { return Ok(0) };
        let masks = Masks::of(&split.hot)?;
        let is_own = |cut: &CutFile| ends.iter().any(|(bucket, _)| cut.file.bucket == *bucket);
        if !lake.files.iter().any(|file| file.live_rows() > 0 && ends.iter().any(|(bucket, _)| file.bucket == *bucket))
        {
            return Ok(0);
        }
        let key = table.descriptor().schema.key(&table.descriptor().key);
        let mut gone = 0;
        for cut in CutFile::living(&lake.table, &lake.files, &masks).await?.into_iter().filter(is_own) {
            let positions = cut.picked.as_ref().map(Picked::positions);
            let mut read = lake.table.read_positions(&cut.file, &key, positions.as_ref()).await?;
            while let Some(rows) = read.try_next().await? {
                check_kept(table)?;
                if self.is_closing() {
                    return Err(closing());
                }
                gone += self.delete(table, &rows.batch, &rows.offsets).await?;
            }
        }
        Ok(gone)
    }

    /// Deletes the rows with these keys, each if it still stands where it stood. Those that do not are newer than the look.
    async fn delete(&self, table: &Arc<Table>, keys: &RecordBatch, offsets: &[Offset]) -> Result<u64> {
        let (mut at, mut most, mut gone) = (0, DELETES_MAX, 0);
        while at < keys.num_rows() {
            let count = most.min(keys.num_rows() - at);
            let rows = deletes(table, &keys.slice(at, count))?.expecting(offsets[at..at + count].to_vec())?;
            match self.engine().change(table, rows, Sender::default()).await {
                Ok(answer) => gone += answer.rows,
                Err(error) if error.code() == Code::RequestTooLarge && most > 1 => {
                    most /= 2;
                    continue;
                }
                Err(error) if error.code() == Code::WriteConflict => {}
                Err(error) => return Err(error),
            }
            at += count;
        }
        Ok(gone)
    }
}

/// The buckets of a partition with where they end, if all their rows are in the lake.
fn tiered(table: &Table, lake: &TableLake, partition: PartitionId) -> Option<Vec<(PartitionBucket, Offset)>> {
    let (boundary, ends) = (lake.published.load(), table.ends());
    let own = table.buckets().filter(|(bucket, _)| bucket.partition == partition);
    let own: Vec<_> = own.map(|(bucket, _)| (bucket, ends.end(bucket))).collect();
    let is_tiered = own.iter().all(|(bucket, end)| boundary.tiered_end(*bucket) == *end);
    (is_tiered || faults::planted(Defect::ExpiryBeforeTiering)).then_some(own)
}

/// Deletes of these keys, which are the key's columns.
fn deletes(table: &Table, keys: &RecordBatch) -> Result<ChangeRows> {
    let descriptor = table.descriptor();
    let (columns, rows) = (descriptor.schema.columns(), keys.num_rows());
    let schema = descriptor.schema.for_changes(&descriptor.key).arrow();
    let schema = Arc::new(schema.project(&(0..columns.len()).collect::<Vec<_>>())?);
    let values = columns.iter().zip(schema.fields()).map(|(column, field)| {
        match descriptor.key.iter().position(|id| *id == column.id) {
            Some(place) => keys.column(place).clone(),
            None => new_null_array(field.data_type(), rows),
        }
    });
    let values = values.collect();
    let batch = RecordBatch::try_new(schema, values)
        .map_err(|error| Error::internal("keys that do not fit their table").with_source(error))?;
    ChangeRows::new(descriptor, batch, vec![Change::Delete; rows])
}
