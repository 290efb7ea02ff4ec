//! Partitions whose time is over go, of tables that say so with `partition_retention`.
//!
//! A partition is named by a time, a day or an hour of some column; when that time has been over for long enough its rows
//! go, from both tiers. Always: what goes is in the lake, and rows that come late go with a later look. Of a log table the
//! partition's buckets start where rounds ended, by one edit for all, and the next commit takes their files out. Of a table
//! with a primary key the rows are deleted like any others, some at a time, each only if it is still what was read:
//! followers hear of each.
//!
//! The partition itself stays in the table's list, whose places are its numbers. A partition of null has no time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, new_null_array};
use futures::TryStreamExt;
use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{Change, ChangeRows, Sender, Table};
use thermocline_schemas::{Code, Error, Offset, PartitionId, Result};

use crate::compact::closing;
use crate::masks::{CutFile, Masks, Picked};
use crate::round::check_kept;
use crate::tiering::{TableLake, Tiering};

/// Between two looks at a table.
pub(crate) const INTERVAL_MS: i64 = 10_000;
/// Rows that are deleted at once, if they are not too large.
const DELETES_MAX: usize = 2_000;
/// What is left then waits for the next look: other tables wait too.
const LOOK_MAX: Duration = Duration::from_secs(5);

impl Tiering {
    /// Takes the rows of partitions away whose time is over, as the scheduler does by itself; how many.
    pub async fn expire_partitions(&self, table: &Arc<Table>) -> Result<u64> {
        let _one = self.upkeep.acquire().await.map_err(|_| closing())?;
        self.expire_due(table, &self.table_lake(table)).await
    }

    /// The same, for who has the permit.
    pub(crate) async fn expire_due(&self, table: &Arc<Table>, table_lake: &TableLake) -> Result<u64> {
        let table = &self.engine().newest(table);
        let over: HashSet<PartitionId> =
            table.descriptor().expired_partitions(self.engine().now_micros()).into_iter().collect();
        if over.is_empty() {
            return Ok(0);
        }
        let rows = match table.descriptor().is_keyed() {
            false => self.take_away(table, table_lake, &over).await?,
            true => self.delete_all(table, &over).await?,
        };
        if rows > 0 {
            tracing::info!(table = %table.descriptor().name, rows, "rows of partitions whose time is over went");
        }
        Ok(rows)
    }

    /// Whether a partition's time is over.
    pub(crate) fn is_expired(&self, table: &Table, partition: PartitionId) -> bool {
        table.descriptor().is_expired(partition, self.engine().now_micros())
    }

    /// Raises the starts of a log table's buckets to where rounds ended.
    async fn take_away(&self, table: &Arc<Table>, table_lake: &TableLake, over: &HashSet<PartitionId>) -> Result<u64> {
        // Between rounds: a file of the next one begins where the last one ended.
        let _between_rounds = table_lake.round.lock().await;
        let (boundary, ends) = (table_lake.published.load(), table.ends());
        let own = table.buckets().filter(|(bucket, log)| over.contains(&bucket.partition) && log.refused().is_none());
        let tiered = own.map(|(bucket, _)| match faults::planted(Defect::ExpiryBeforeTiering) {
            true => (bucket, ends.end(bucket)),
            false => (bucket, boundary.tiered_end(bucket).min(ends.end(bucket))),
        });
        let below: Vec<_> = tiered.filter(|(bucket, end)| *end > ends.start(*bucket)).collect();
        if below.is_empty() {
            return Ok(0);
        }
        self.engine().take_away(table, below).await
    }

    /// Deletes the rows in the lake that live in these partitions, as many as one look does.
    async fn delete_all(&self, table: &Arc<Table>, over: &HashSet<PartitionId>) -> Result<u64> {
        let begun = Instant::now();
        let mut split = self.read_split(std::slice::from_ref(table)).await?.remove(0);
        let Some(lake) = &split.lake else { return Ok(0) };
        let own = lake.files.iter().filter(|file| over.contains(&file.bucket.partition) && file.live_rows() > 0);
        let own: Vec<_> = own.cloned().collect();
        split.hot.retain(|part| own.iter().any(|file| file.bucket == part.bucket));
        let masks = Masks::of(&split.hot)?;
        let key = table.descriptor().schema.key(&table.descriptor().key);
        let mut gone = 0;
        for cut in CutFile::living(&lake.table, &own, &masks).await? {
            let positions = cut.picked.as_ref().map(Picked::positions);
            let mut read = lake.table.read_positions(&cut.file, &key, positions.as_ref()).await?;
            while let Some(rows) = read.try_next().await? {
                check_kept(table)?;
                if self.is_closing() {
                    return Err(closing());
                }
                gone += self.delete(table, &rows.batch, &rows.offsets).await?;
                if begun.elapsed() > LOOK_MAX {
                    return Ok(gone);
                }
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
                Err(error) if matches!(error.code(), Code::RequestTooLarge | Code::WriteConflict) && count > 1 => {
                    most = count / 2;
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
