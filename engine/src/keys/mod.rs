//! Primary keys: from upserts and deletes to a changelog, and from a key to its row.
//!
//! The log is the row store; there is no second copy of a row. [`KeyIndex`] says for each key where its newest row stands.
//! [`derive`](derive::derive) turns a request's rows into changes: it finds the old row of each key, in the request itself,
//! in the [`Overlay`] of what is derived but not durable, or by the index, in this order. [`Endings`] keep for each hot row
//! which change ended it, so that a reader at any cut sees exactly the rows of that cut.
//!
//! Always:
//! - a row is known by its bucket and offset, in the hot tier and in the lake alike, for ever. So nothing in the index ever
//!   has to be pointed elsewhere when rows are tiered, rewritten or let go.
//! - a key is known by 128 bits of a hash under a secret of the table; 64 bits would one day take two keys for one.
//! - index and endings change on the journal's thread, before the ends that make the change visible; the overlay is seen
//!   by nobody but the table's next derivation. So lookups and SQL see what is durable and nothing else.
//! - derivation of one table happens one request at a time, in the order of its tickets.
//! - a request that changes nothing is a frame without rows: it is durable and counts for its writer, and takes no offset. (Fluss
//!   spends one offset on it; readers there had to learn that offsets have gaps. Ours have none.)
//! - rows are let go only when an [`IndexSnapshot`] holds what they said of their keys.
//!
//! Where a lookup may name the key's first column alone, [`KeyGroups`] list the keys that begin alike.
//!
//! Not here: rows that are no longer hot (`cold`).

mod change_batch;
mod derive;
mod endings;
mod groups;
mod hashes;
mod index;
mod index_snapshot;
mod overlay;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{UInt8Type, UInt64Type};
use thermocline_schemas::{ChangeKind, Error, Offset, PartitionBucket, Result, TableDescriptor};

use crate::faults::{self, Defect};

pub use change_batch::{Change, ChangeRows};
pub use derive::{DERIVED_BYTES_MAX, Derived, OldRows, Share, derive};
pub use endings::{EndedRows, Endings};
pub use groups::KeyGroups;
pub use hashes::{KeyHash, KeyHasher, Secret};
pub use index::KeyIndex;
pub use index_snapshot::IndexSnapshot;
pub use overlay::Overlay;

/// What a ticket does to the keys of a bucket.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Where the newest row of a key stands after the ticket; none when the ticket deleted it. Each key once.
    pub keys: Vec<(KeyHash, Option<Offset>)>,
    /// The group of each key; empty if keys are not grouped.
    pub groups: Vec<KeyHash>,
}

/// The keys of one table.
#[derive(Debug)]
pub struct Keys {
    pub hasher: KeyHasher,
    /// By partition and bucket. It only grows.
    partitions: boxcar::Vec<Box<[BucketKeys]>>,
}

#[derive(Debug)]
struct BucketKeys {
    index: RwLock<KeyIndex>,
    /// The one that holds what is no longer hot.
    snapshot: Mutex<Option<IndexSnapshot>>,
}

impl Keys {
    /// Of a table that has no partition yet.
    pub fn new(descriptor: &TableDescriptor) -> Result<Keys> {
        Ok(Keys { hasher: KeyHasher::new(descriptor)?, partitions: boxcar::Vec::new() })
    }

    /// Makes room for the keys of the next partition.
    pub fn add_partition(&self, buckets: u32) {
        let index = || RwLock::new(KeyIndex::with_room(0, self.hasher.is_grouped()));
        self.partitions.push((0..buckets).map(|_| BucketKeys { index: index(), snapshot: Mutex::default() }).collect());
    }

    pub fn index(&self, bucket: PartitionBucket) -> Result<RwLockReadGuard<'_, KeyIndex>> {
        Ok(self.bucket(bucket)?.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn index_mut(&self, bucket: PartitionBucket) -> Result<RwLockWriteGuard<'_, KeyIndex>> {
        Ok(self.bucket(bucket)?.index.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn snapshot(&self, bucket: PartitionBucket) -> Result<Option<IndexSnapshot>> {
        Ok(self.bucket(bucket)?.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Names the snapshot of its bucket; answers the one that it takes the place of.
    pub fn set_snapshot(&self, snapshot: IndexSnapshot) -> Result<Option<IndexSnapshot>> {
        let mut named = self.bucket(snapshot.bucket)?.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(named.replace(snapshot))
    }

    fn bucket(&self, bucket: PartitionBucket) -> Result<&BucketKeys> {
        let partition = self.partitions.get(bucket.partition.0 as usize);
        let found = partition.and_then(|buckets| buckets.get(bucket.bucket.0 as usize));
        found.ok_or_else(|| Error::internal(format!("no key index for bucket {bucket}")))
    }

    /// What rows of the log, which start at `first`, do to index and endings: as they did when they were published first.
    /// They have the key's columns, then the change columns. What is below `known` the index has.
    pub fn replay(
        &self,
        index: &mut KeyIndex,
        known: Offset,
        endings: &Endings,
        first: Offset,
        rows: &RecordBatch,
    ) -> Result<()> {
        let key = &rows.columns()[..rows.num_columns().saturating_sub(2)];
        let hashes = self.hasher.hash_columns(key)?;
        let groups = key.first().map(|first| self.hasher.hash_groups(first)).transpose()?.flatten().unwrap_or_default();
        let (kinds, _) = log_columns(rows)?;
        let skipped = known.0.saturating_sub(first.0) as usize;
        for (row, (hash, kind)) in hashes.into_iter().zip(kinds).enumerate().skip(skipped) {
            match ChangeKind::from_code(*kind) {
                Some(ChangeKind::Insert | ChangeKind::UpdateAfter) => {
                    index.put(hash, groups.get(row).copied(), first.plus(row as u64));
                }
                Some(ChangeKind::Delete) => index.remove(hash),
                _ => {}
            }
        }
        end_versions(endings, first, rows)
    }
}

/// Notes which rows the changes of `rows`, which start at `first`, have ended.
pub fn end_versions(endings: &Endings, first: Offset, rows: &RecordBatch) -> Result<()> {
    each_ended(rows, |row, ended| {
        let half = u64::from(faults::planted(Defect::EndedByFirstHalf));
        endings.end(ended, Offset(first.0 + row as u64 - half));
    })
}

/// Hands the number of each row that ends another, and the other's offset, to `visit`.
pub fn each_ended(rows: &RecordBatch, mut visit: impl FnMut(usize, Offset)) -> Result<()> {
    let (kinds, previous) = log_columns(rows)?;
    for (row, kind) in kinds.iter().enumerate() {
        // Of the two halves of an update it is the second that ends the old row.
        if *kind != ChangeKind::UpdateBefore.code() && previous.is_valid(row) {
            visit(row, Offset(previous.value(row)));
        }
    }
    Ok(())
}

type PreviousColumn<'a> = &'a arrow::array::PrimitiveArray<UInt64Type>;

/// The last two columns of the log's rows.
fn log_columns(rows: &RecordBatch) -> Result<(&[u8], PreviousColumn<'_>)> {
    let columns = rows.columns();
    let of = |back: usize| columns.len().checked_sub(back).map(|place| &columns[place]);
    let kinds = of(2).and_then(|column| column.as_primitive_opt::<UInt8Type>());
    let previous = of(1).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    match (kinds, previous) {
        (Some(kinds), Some(previous)) => Ok((kinds.values(), previous)),
        _ => Err(Error::internal("rows of a primary-key table without their change columns")),
    }
}
