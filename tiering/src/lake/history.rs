//! The snapshots that a version of a lake table keeps, each with the cut that it is the state of.
//!
//! A snapshot of ours says which buckets it moved from where to where, so the offsets of the one before it follow from its
//! own. Rewrites, ours and others', move nothing: they are other files at the same cut. A round also says when the rows were
//! accepted that it took in; so a snapshot is the state of the table from its newest row on, until the first row that came
//! after it.
//!
//! Always: what cannot be told is left open, and never guessed: where the chain of parents ends before the first snapshot of
//! all, what lies behind it has no offsets.

use iceberg::spec::{Schema, SchemaRef, SnapshotRef};
use thermocline_schemas::{BucketId, FieldId, Offset, PartitionBucket, PartitionId};

use super::version::commit_of;
use super::{LakeTable, LakeVersion, Offsets, properties};

/// A snapshot, or, with no id, the empty table before the first one.
#[derive(Clone, Debug)]
pub struct PastSnapshot {
    pub snapshot_id: Option<i64>,
    pub committed_at_ms: i64,
    /// The first offsets that it does not have.
    pub offsets: Offsets,
    /// When the newest row or change below its offsets was accepted, if that was noted; the least there is for the empty
    /// table.
    pub last_stamp: Option<i64>,
    /// When the first one after them was, as far as the lake knows: none for the newest snapshots, and where it was not noted.
    pub next_stamp: Option<i64>,
    schema: Option<SchemaRef>,
}

impl LakeVersion {
    /// The current snapshot and those before it that are kept, newest first, and last the empty table.
    pub fn history(&self) -> Vec<PastSnapshot> {
        let mut history: Vec<PastSnapshot> = Vec::new();
        let mut offsets = self.offsets.clone();
        let mut next_stamp = None;
        // Those at the same cut as the round that is yet to come.
        let mut since_round = 0;
        let mut ends_whole = self.metadata.current_snapshot().is_none();
        for snapshot in self.ancestors() {
            history.push(PastSnapshot {
                snapshot_id: Some(snapshot.snapshot_id()),
                committed_at_ms: snapshot.timestamp_ms(),
                offsets: offsets.clone(),
                last_stamp: None,
                next_stamp,
                schema: self.schema_of(&snapshot),
            });
            ends_whole = snapshot.parent_snapshot_id().is_none();
            if commit_of(&snapshot).is_none() {
                continue;
            }
            // One that does not say where it began is the last whose offsets are known.
            let Some(started) = before(&snapshot, &offsets) else {
                ends_whole = false;
                break;
            };
            if started != offsets {
                let stamps = stamps(&snapshot);
                for past in &mut history[since_round..] {
                    past.last_stamp = stamps.map(|(_, last)| last);
                }
                since_round = history.len();
                next_stamp = stamps.map(|(first, _)| first);
                offsets = started;
            }
        }
        // Every table begins empty, be it known until when or not.
        let next_stamp = next_stamp.filter(|_| ends_whole && offsets.is_empty());
        history.push(PastSnapshot { next_stamp, ..PastSnapshot::empty() });
        history
    }

    /// A snapshot outside that history, of which nobody says where it ends.
    pub fn alone(&self, id: i64) -> Option<PastSnapshot> {
        let snapshot = self.metadata.snapshot_by_id(id)?;
        Some(PastSnapshot {
            snapshot_id: Some(id),
            committed_at_ms: snapshot.timestamp_ms(),
            offsets: Offsets::default(),
            last_stamp: None,
            next_stamp: None,
            schema: self.schema_of(snapshot),
        })
    }

    fn schema_of(&self, snapshot: &SnapshotRef) -> Option<SchemaRef> {
        let id = snapshot.schema_id().unwrap_or_else(|| self.metadata.current_schema_id());
        self.metadata.schema_by_id(id).cloned()
    }
}

/// The offsets of the snapshot before this one of ours.
fn before(snapshot: &SnapshotRef, offsets: &Offsets) -> Option<Offsets> {
    let text = snapshot.summary().additional_properties.get(properties::CHANGED_OFFSETS)?;
    let changed: Vec<(u32, u32, u64, u64)> = serde_json::from_str(text).ok()?;
    let mut before = offsets.clone();
    for (partition, bucket, start, end) in changed {
        let at = PartitionBucket { partition: PartitionId(partition), bucket: BucketId(bucket) };
        if before.get(at) != Offset(end) {
            return None;
        }
        before.set(at, Offset(start));
    }
    Some(before)
}

fn stamps(snapshot: &SnapshotRef) -> Option<(i64, i64)> {
    serde_json::from_str(snapshot.summary().additional_properties.get(properties::STAMPS)?).ok()
}

impl PastSnapshot {
    /// The table before its first snapshot.
    pub fn empty() -> PastSnapshot {
        PastSnapshot {
            snapshot_id: None,
            committed_at_ms: 0,
            offsets: Offsets::default(),
            last_stamp: Some(i64::MIN),
            next_stamp: None,
            schema: None,
        }
    }

    /// Whether its files may have the column.
    pub fn has_column(&self, id: FieldId) -> bool {
        self.schema().is_some_and(|schema| schema.field_by_id(id.0).is_some())
    }

    /// The columns that its files may have; none for the empty table.
    pub(super) fn schema(&self) -> Option<&Schema> {
        self.schema.as_deref()
    }
}

impl LakeTable {
    /// Which version of the table's columns a snapshot has, counted from 0; none for the empty table, and where others gave
    /// it columns that no version has.
    pub fn columns_of(&self, past: &PastSnapshot) -> Option<usize> {
        self.layout().place_of(past.schema()?)
    }
}
