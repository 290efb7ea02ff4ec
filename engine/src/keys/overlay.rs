//! What is derived and not known to be durable: the newest place of each key that it touched, and its rows.
//!
//! Always: an entry leaves only when the index has the same or a later place of its key (its ticket is durable), or with
//! all others (tickets were aborted, and all behind them are void too).

use std::collections::{BTreeMap, HashMap, VecDeque};

use arrow::array::RecordBatch;
use thermocline_schemas::{Offset, PartitionBucket};

use super::{Effects, KeyHash};

#[derive(Debug, Default)]
pub struct Overlay {
    buckets: BTreeMap<PartitionBucket, BucketOverlay>,
}

#[derive(Debug, Default)]
struct BucketOverlay {
    newest: HashMap<KeyHash, Newest>,
    /// In ticket order, hence in offset order.
    pending: VecDeque<Pending>,
}

#[derive(Clone, Copy, Debug)]
struct Newest {
    ticket: u64,
    place: Option<Offset>,
}

#[derive(Debug)]
struct Pending {
    ticket: u64,
    first: Offset,
    rows: RecordBatch,
    keys: Vec<KeyHash>,
}

impl Overlay {
    /// Where the newest row of a key will stand; the inner none: it will be gone; the outer: nothing is under way.
    pub fn get(&self, bucket: PartitionBucket, key: KeyHash) -> Option<Option<Offset>> {
        Some(self.buckets.get(&bucket)?.newest.get(&key)?.place)
    }

    /// The batch that holds a row, if it is under way, and the row's number in it.
    pub fn row(&self, bucket: PartitionBucket, offset: Offset) -> Option<(&RecordBatch, usize)> {
        let pending = &self.buckets.get(&bucket)?.pending;
        let after = pending.partition_point(|pending| pending.first <= offset);
        let found = pending.get(after.checked_sub(1)?)?;
        let row = offset.since(found.first) as usize;
        (row < found.rows.num_rows()).then_some((&found.rows, row))
    }

    pub fn add(&mut self, ticket: u64, bucket: PartitionBucket, first: Offset, rows: RecordBatch, effects: &Effects) {
        let overlay = self.buckets.entry(bucket).or_default();
        overlay.newest.extend(effects.keys.iter().map(|(key, place)| (*key, Newest { ticket, place: *place })));
        let keys = effects.keys.iter().map(|(key, _)| *key).collect();
        overlay.pending.push_back(Pending { ticket, first, rows, keys });
    }

    /// All tickets up to `durable` are durable, and the index says so.
    pub fn settle(&mut self, durable: u64) {
        for overlay in self.buckets.values_mut() {
            while let Some(pending) = overlay.pending.pop_front_if(|pending| pending.ticket <= durable) {
                for key in pending.keys {
                    if overlay.newest.get(&key).is_some_and(|newest| newest.ticket == pending.ticket) {
                        overlay.newest.remove(&key);
                    }
                }
            }
        }
    }

    /// Nothing that is in it will happen, or all of it has.
    pub fn clear(&mut self) {
        self.buckets.clear();
    }
}
