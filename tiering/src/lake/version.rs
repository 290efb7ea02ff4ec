//! One version of a lake table: a metadata file, and what of ours is in it.
//!
//! [`LakeVersion::check_history`] decides whether tiering may build on a version. It walks from the current snapshot back
//! to the newest one with our keys:
//! - what lies before it must be `replace` (rows unchanged, e.g. a compaction by Spark); anything else changed rows behind
//!   our back, and our offsets no longer say what is in the table. In a table with a primary key that stops tiering too:
//!   rows that were moved are not found by the order of their offsets any more;
//! - that newest one must carry the hash of the offsets in the table property. If it does not, somebody rolled the table
//!   back: the property outlived the rows;
//! - if none is left (expired), the property is trusted: every one of our commits wrote it together with its rows.

use std::sync::Arc;

use iceberg::spec::{Operation, SnapshotRef, TableMetadata};
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Code, Error, Result, TableDescriptor, TableKind};
use uuid::Uuid;

use super::{Offsets, properties};

/// A version of a lake table, immutable.
#[derive(Clone, Debug)]
pub struct LakeVersion {
    /// N of `v<N>.metadata.json`.
    pub version: u64,
    /// The address of that file.
    pub metadata_url: String,
    pub metadata: Arc<TableMetadata>,
    /// What is in the lake as of this version.
    pub offsets: Offsets,
    /// Of a log table: how many rows below the offsets were taken away for good, and are in none of its files.
    pub rows_gone: u64,
    /// The newest commit of ours.
    pub commit_id: Option<Uuid>,
    /// Whether rows have a primary key, so that later ones end earlier ones.
    pub is_keyed: bool,
    /// The snapshot that is read where it is not the current one; see [`Self::at`].
    pub(crate) past: Option<i64>,
}

/// Which of our tables a lake table belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    id: u64,
    created_ms: i64,
}

impl Owner {
    pub(super) fn of(descriptor: &TableDescriptor) -> Owner {
        Owner { id: descriptor.id.0, created_ms: descriptor.created_ms }
    }

    /// None for a table that is not ours.
    pub(super) fn in_metadata(metadata: &TableMetadata) -> Option<Owner> {
        let property = |name| metadata.properties().get(name);
        Some(Owner {
            id: property(properties::TABLE_ID)?.parse().ok()?,
            created_ms: property(properties::TABLE_CREATED)?.parse().ok()?,
        })
    }

    pub(super) fn properties(self) -> [(String, String); 2] {
        [
            (properties::TABLE_ID.to_owned(), self.id.to_string()),
            (properties::TABLE_CREATED.to_owned(), self.created_ms.to_string()),
        ]
    }
}

impl LakeVersion {
    /// The version that `metadata` describes; the table must be one of ours.
    pub(super) fn new(version: u64, metadata_url: String, metadata: TableMetadata) -> Result<LakeVersion> {
        let property = |name| metadata.properties().get(name);
        let offsets = property(properties::OFFSETS).ok_or_else(|| {
            Error::new(Code::LakeConflict, format!("{metadata_url} has lost the property {}", properties::OFFSETS))
        })?;
        let offsets = Offsets::from_json(offsets).map_err(|error| error.while_doing(&metadata_url))?;
        let rows_gone = rows_gone(property(properties::ROWS_GONE)).map_err(|error| error.while_doing(&metadata_url))?;
        let commit_id = property(properties::COMMIT_ID).and_then(|id| id.parse().ok());
        let is_keyed = property(properties::TABLE_KIND).is_some_and(|kind| kind == TableKind::PrimaryKey.as_str());
        Ok(LakeVersion {
            version,
            metadata_url,
            metadata: Arc::new(metadata),
            offsets,
            rows_gone,
            commit_id,
            is_keyed,
            past: None,
        })
    }

    /// The same for reading an earlier snapshot that it keeps, up to these offsets. Nothing is built on that.
    pub fn at(&self, snapshot_id: i64, offsets: Offsets) -> Result<LakeVersion> {
        // Rewrites by others say nothing of ours, and change no rows.
        let ours = self.with_parents(self.metadata.snapshot_by_id(snapshot_id).cloned());
        let said = ours.into_iter().find(|snapshot| commit_of(snapshot).is_some());
        let rows_gone =
            rows_gone(said.as_ref().and_then(|ours| ours.summary().additional_properties.get(properties::ROWS_GONE)))?;
        Ok(LakeVersion { offsets, rows_gone, past: Some(snapshot_id), ..self.clone() })
    }

    /// The snapshot that is read; none before the first commit.
    pub(super) fn snapshot(&self) -> Option<&SnapshotRef> {
        match self.past {
            None => self.metadata.current_snapshot(),
            Some(id) => self.metadata.snapshot_by_id(id),
        }
    }

    /// The id of the snapshot that is read: the current one, if there is one, where nobody said otherwise.
    pub fn snapshot_id(&self) -> Option<i64> {
        self.snapshot().map(|snapshot| snapshot.snapshot_id())
    }

    /// The bytes of all files that the current snapshot says it added, deletes among them.
    pub fn added_bytes(&self) -> u64 {
        let snapshot = self.snapshot();
        let said = snapshot.and_then(|snapshot| snapshot.summary().additional_properties.get("added-files-size"));
        said.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
    }

    /// How many rows the current snapshot says it has.
    pub fn live_rows(&self) -> Result<u64> {
        let Some(snapshot) = self.snapshot() else { return Ok(0) };
        let total = |name: &str| snapshot.summary().additional_properties.get(name)?.parse::<u64>().ok();
        let live =
            total("total-records").zip(total("total-position-deletes")).and_then(|(all, gone)| all.checked_sub(gone));
        live.ok_or_else(|| {
            let snapshot = snapshot.snapshot_id();
            Error::new(Code::LakeConflict, format!("{}: snapshot {snapshot} does not say its rows", self.metadata_url))
        })
    }

    /// Whether the current snapshot is of a commit of ours.
    pub(super) fn is_ours(&self) -> bool {
        self.metadata.current_snapshot().is_some_and(|snapshot| commit_of(snapshot).is_some())
    }

    /// Whether a commit of ours is part of the current snapshot's history.
    pub fn contains_commit(&self, commit_id: Uuid) -> bool {
        self.ancestors().any(|snapshot| commit_of(&snapshot) == Some(commit_id))
    }

    /// Whether tiering may go on from here; see the module's text.
    pub fn check_history(&self) -> Result<()> {
        if faults::planted(Defect::HistoryUnchecked) {
            return Ok(());
        }
        let conflict = |what: String| {
            Error::new(Code::LakeConflict, format!("the lake table at {} {what}", self.metadata.location()))
        };
        if self.metadata.current_snapshot().is_none() && !self.offsets.is_empty() {
            return Err(conflict(format!("has no snapshot, but offsets {}", self.offsets))
                .with_hint("its main branch was removed or rolled back; set it to the snapshot of the last commit"));
        }
        for snapshot in self.ancestors() {
            let summary = snapshot.summary();
            if commit_of(&snapshot).is_some() {
                let hash = summary.additional_properties.get(properties::OFFSETS_HASH);
                let gone = rows_gone(summary.additional_properties.get(properties::ROWS_GONE))?;
                return if hash == Some(&self.offsets.hash()) && gone == self.rows_gone {
                    Ok(())
                } else {
                    Err(conflict(format!(
                        "was rolled back to snapshot {}, which ends before the tiered offsets {}",
                        snapshot.snapshot_id(),
                        self.offsets
                    ))
                    .with_hint("roll it forward again, or drop the table and make it anew"))
                };
            }
            if summary.operation != Operation::Replace || self.is_keyed {
                let taken =
                    if self.is_keyed { "with a primary key, none is" } else { "only rewrites that keep all rows are" };
                return Err(conflict(format!(
                    "got a foreign {} in snapshot {}: {taken} taken",
                    summary.operation.as_str(),
                    snapshot.snapshot_id()
                ))
                .with_hint("roll it back to the snapshot before that one"));
            }
        }
        Ok(())
    }

    /// The current snapshot and those before it, newest first.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = SnapshotRef> + '_ {
        self.with_parents(self.metadata.current_snapshot().cloned())
    }

    fn with_parents(&self, first: Option<SnapshotRef>) -> impl Iterator<Item = SnapshotRef> + '_ {
        std::iter::successors(first, |snapshot| self.metadata.snapshot_by_id(snapshot.parent_snapshot_id()?).cloned())
            // A file from outside might hold a circle of parents.
            .take(self.metadata.snapshots().len())
    }
}

fn rows_gone(text: Option<&String>) -> Result<u64> {
    let Some(text) = text else { return Ok(0) };
    text.parse().map_err(|_| Error::corrupt("how many rows are gone cannot be read").with_value(text.as_str()))
}

pub(super) fn commit_of(snapshot: &SnapshotRef) -> Option<Uuid> {
    snapshot.summary().additional_properties.get(properties::COMMIT_ID)?.parse().ok()
}
