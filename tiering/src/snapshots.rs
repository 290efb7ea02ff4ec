//! The snapshots that a table's lake keeps, as people ask for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use thermocline_engine::Table;
use thermocline_schemas::{Offset, PartitionBucket, Result, TableId};

use crate::lake::PastSnapshot;
use crate::tiering::Tiering;

/// One Iceberg snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    pub snapshot_id: i64,
    pub parent_id: Option<i64>,
    pub sequence_number: i64,
    pub committed_at_ms: i64,
    pub operation: String,
    pub manifest_list: String,
    pub summary: BTreeMap<String, String>,
    pub table: TableId,
    /// Whether buckets have numbers of their own in each partition.
    pub is_partitioned: bool,
    /// The first offset of each bucket that it does not have, if that can be told.
    pub offsets: Option<BTreeMap<PartitionBucket, Offset>>,
    /// When the newest row or change was accepted that it has, in microseconds since 1970, if that was noted. It is the
    /// table's state from then on, until the next row came.
    pub last_stamp: Option<i64>,
}

impl Tiering {
    /// The snapshots of the published version, oldest first.
    pub async fn snapshots(&self, table: &Arc<Table>) -> Result<Vec<SnapshotInfo>> {
        let boundary = self.table_lake_for_reading(table).await?.published.load();
        let Some((_, version)) = &boundary.lake else { return Ok(Vec::new()) };
        let history = version.history();
        let known = |id| history.iter().find(|past| past.snapshot_id == Some(id));
        let ends =
            |past: &PastSnapshot| table.buckets().map(|(bucket, _)| (bucket, past.offsets.get(bucket))).collect();
        let snapshots = version.metadata.snapshots().map(|snapshot| SnapshotInfo {
            table: table.descriptor().id,
            is_partitioned: table.descriptor().is_partitioned(),
            offsets: known(snapshot.snapshot_id()).map(ends),
            last_stamp: known(snapshot.snapshot_id()).and_then(|past| past.last_stamp),
            snapshot_id: snapshot.snapshot_id(),
            parent_id: snapshot.parent_snapshot_id(),
            sequence_number: snapshot.sequence_number(),
            committed_at_ms: snapshot.timestamp_ms(),
            operation: snapshot.summary().operation.as_str().to_owned(),
            manifest_list: snapshot.manifest_list().to_owned(),
            summary: snapshot.summary().additional_properties.clone().into_iter().collect(),
        });
        let mut snapshots: Vec<_> = snapshots.collect();
        snapshots.sort_by_key(|snapshot| snapshot.sequence_number);
        Ok(snapshots)
    }
}
