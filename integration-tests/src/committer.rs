//! Others who write to a table's lake: a second server that tiers the same rows, and an engine that rewrites it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use bytes::Bytes;
use object_store::{ObjectStoreExt, PutMode, PutPayload};
use serde_json::{Value, json};
use thermocline_engine::Table;
use thermocline_schemas::{Offset, Result as Answered};
use thermocline_tiering::{Append, CommitOutcome, LakeTable, Offsets, Warehouse};
use uuid::Uuid;

use crate::compare::bucket;
use crate::oracle::{Oracle, passing, passing_column, rows_of};

/// A commit of another server: planned, its files written, and not landed yet.
#[derive(Clone)]
pub struct Planned {
    pub table: Arc<Table>,
    append: Append,
}

impl Planned {
    /// Plans rows from where the lake is to `ends`, and writes their files. None if there is nothing to commit.
    pub async fn new(
        warehouse: &Warehouse,
        table: &Arc<Table>,
        oracle: &Oracle,
        ends: &[u64],
    ) -> Answered<Option<Planned>> {
        let lake = LakeTable::create_or_open(warehouse, table.descriptor()).await?;
        let start = lake.refresh().await?.offsets.clone();
        let mut end = start.clone();
        end.merge_max(&ends.iter().enumerate().map(|(number, end)| (bucket(table, number), Offset(*end))).collect());
        let floors = oracle.floors.iter().enumerate();
        let log_starts: Offsets = floors.map(|(number, floor)| (bucket(table, number), Offset(*floor))).collect();
        end.merge_max(&log_starts);
        let commit_id = Uuid::new_v4();
        let mut files = Vec::new();
        for (bucket, from, to) in end.changes_since(&start) {
            let from = from.max(log_starts.get(bucket));
            if from >= to {
                continue;
            }
            let number = bucket.bucket.0 as usize;
            let wanted = &oracle.buckets[number][from.0 as usize..to.0 as usize];
            let ids: Vec<_> = wanted.iter().map(|row| row.id).collect();
            let hot = rows_of(table, &ids);
            let schema = lake.arrow_schema();
            let mut columns = Vec::new();
            let field = passing_column(table).map_or(0, |(_, field)| field);
            let own = wanted.iter().map(|row| (row.field == field).then(|| passing(row.id, field)));
            let own: ArrayRef = Arc::new(Int64Array::from_iter(own));
            let hot: Vec<_> = hot.columns()[..8].iter().chain((field > 0).then_some(&own)).cloned().collect();
            for (column, field) in hot.iter().zip(schema.fields()) {
                columns.push(arrow::compute::cast(column, field.data_type())?);
            }
            let stamps = TimestampMicrosecondArray::from_iter_values(wanted.iter().map(|row| row.stamp));
            let system: [ArrayRef; 3] = [
                Arc::new(Int32Array::from_value(number as i32, ids.len())),
                Arc::new(Int64Array::from_iter_values(from.0 as i64..to.0 as i64)),
                Arc::new(stamps.with_timezone("UTC")),
            ];
            columns.extend(system);
            let mut writer = lake.file_writer(commit_id, bucket)?;
            writer.write(RecordBatch::try_new(schema.clone(), columns)?).await?;
            files.push(writer.finish().await?);
        }
        let append = Append { commit_id, start, end, files, ended: None, log_starts, stamps: None };
        Ok((!append.files.is_empty()).then(|| Planned { table: table.clone(), append }))
    }

    /// A commit that was planned elsewhere.
    pub(crate) fn of(table: &Arc<Table>, append: Append) -> Planned {
        Planned { table: table.clone(), append }
    }

    pub fn start(&self) -> &Offsets {
        &self.append.start
    }

    pub fn end(&self) -> &Offsets {
        &self.append.end
    }

    /// Commits it, however late: whether it landed.
    pub async fn land(&self, warehouse: &Warehouse) -> Answered<bool> {
        let lake = LakeTable::create_or_open(warehouse, self.table.descriptor()).await?;
        Ok(matches!(lake.append(&self.append).await?, CommitOutcome::Committed(_)))
    }
}

/// Commits a snapshot with the operation `replace` and the same files, as an engine that compacts does: with nothing but
/// the metadata file in hand. False if the table has no snapshot yet.
pub async fn replace(warehouse: &Warehouse, table: &Table) -> Result<bool, String> {
    rewrite(warehouse, table, |metadata, current| {
        let snapshots = metadata["snapshots"].as_array().ok_or("metadata without snapshots")?;
        let parent = snapshots.iter().find(|snapshot| snapshot["snapshot-id"] == current);
        let (id, mut snapshot) = (current / 2 + 1, parent.ok_or("no current snapshot")?.clone());
        let sequence = metadata["last-sequence-number"].as_i64().ok_or("no sequence number")? + 1;
        let moment = metadata["last-updated-ms"].as_i64().ok_or("no moment")? + 1;
        snapshot["snapshot-id"] = json!(id);
        snapshot["parent-snapshot-id"] = json!(current);
        snapshot["sequence-number"] = json!(sequence);
        snapshot["timestamp-ms"] = json!(moment);
        snapshot["summary"] = json!({"operation": "replace"});
        if metadata["format-version"] == 3 {
            snapshot["first-row-id"] = metadata["next-row-id"].clone();
            snapshot["added-rows"] = json!(0);
        }
        metadata["last-sequence-number"] = json!(sequence);
        metadata["last-updated-ms"] = json!(moment);
        metadata["snapshots"].as_array_mut().ok_or("no snapshots")?.push(snapshot);
        set_current(metadata, id, moment)
    })
    .await
}

/// Sets the table back to the snapshot before the current one.
pub async fn roll_back(warehouse: &Warehouse, table: &Table) -> Result<bool, String> {
    rewrite(warehouse, table, |metadata, current| {
        let snapshots = metadata["snapshots"].as_array().ok_or("metadata without snapshots")?;
        let snapshot = snapshots.iter().find(|snapshot| snapshot["snapshot-id"] == current);
        let parent = snapshot.and_then(|snapshot| snapshot["parent-snapshot-id"].as_i64()).ok_or("no parent")?;
        let moment = metadata["last-updated-ms"].as_i64().ok_or("no moment")? + 1;
        metadata["last-updated-ms"] = json!(moment);
        set_current(metadata, parent, moment)
    })
    .await
}

fn set_current(metadata: &mut Value, id: i64, moment: i64) -> Result<(), String> {
    metadata["current-snapshot-id"] = json!(id);
    metadata["refs"]["main"]["snapshot-id"] = json!(id);
    let entry = json!({"snapshot-id": id, "timestamp-ms": moment});
    metadata["snapshot-log"].as_array_mut().ok_or("no snapshot log")?.push(entry);
    Ok(())
}

/// Writes the next version of a table's metadata, which has a snapshot: `change` gets the newest, and its snapshot's id.
async fn rewrite(
    warehouse: &Warehouse,
    table: &Table,
    change: impl FnOnce(&mut Value, i64) -> Result<(), String>,
) -> Result<bool, String> {
    let failed = |error: &dyn std::fmt::Display| format!("rewriting metadata: {error}");
    let lake = LakeTable::create_or_open(warehouse, table.descriptor()).await.map_err(|error| failed(&error))?;
    let version = lake.current();
    let path = warehouse.path(&version.metadata_url).map_err(|error| failed(&error))?;
    let bytes: Bytes = match warehouse.store().get(&path).await {
        Ok(found) => found.bytes().await.map_err(|error| failed(&error))?,
        Err(error) => return Err(failed(&error)),
    };
    let mut metadata: Value = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
    let Some(current) = version.snapshot_id() else { return Ok(false) };
    change(&mut metadata, current)?;
    let next = format!("v{}.metadata.json", version.version + 1);
    let mut parts: Vec<_> = path.parts().collect();
    parts.pop();
    let path = object_store::path::Path::from_iter(parts.into_iter().map(|part| part.as_ref().to_owned())).join(next);
    let bytes = serde_json::to_vec(&metadata).map_err(|error| failed(&error))?;
    let created = warehouse.store().put_opts(&path, PutPayload::from(bytes), PutMode::Create.into()).await;
    created.map(|_| true).map_err(|error| failed(&error))
}
