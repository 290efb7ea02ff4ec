//! A table with a primary key: what the next derivation builds on, where the row of each key is, and how it is looked up.
//!
//! Always: requests are derived one at a time, in the order of their tickets; an index knows what is published, and what several
//! buckets got together is seen together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLockReadGuard};

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::interleave;
use thermocline_schemas::{
    BucketId, Bucketing, Changelog, Code, Error, Offset, PartitionBucket, PartitionId, Result, bucket_of_hash,
    hash_column, partition_rows,
};
use tokio::sync::OwnedMutexGuard;

use super::{PreparedChanges, ReadSnapshot, Table, TableEnds};
use crate::bucket::BucketLog;
use crate::cold::Fetched;
use crate::core::KeyedTicket;
use crate::faults::{self, Defect};
use crate::journal::Part;
use crate::keys::{Change, Derived, IndexSnapshot, KeyIndex, Keys, OldRows, Overlay, Share, derive};

/// What a primary-key table has besides.
#[derive(Debug)]
pub(super) struct Keyed {
    pub(super) keys: Keys,
    /// One request at a time is derived, in the order in which they get the lock, which is the order of tickets.
    pub(super) deriver: Arc<tokio::sync::Mutex<Deriver>>,
    /// The newest ticket that the index knows.
    pub(super) durable: AtomicU64,
}

/// What the next derivation builds on.
#[derive(Debug, Default)]
pub struct Deriver {
    overlay: Overlay,
    /// The owner's when the overlay was empty last; another means that all in it is void.
    epoch: u64,
    tickets: u64,
}

impl Deriver {
    /// Derives a request in the table's columns on what all tickets before it leave. The answer is void if the owner's epoch has changed by then.
    pub fn derive(
        &mut self,
        table: &Table,
        request: &PreparedChanges,
        fetched: &Fetched,
    ) -> Result<(u64, Vec<Derived>)> {
        let keyed = table.keyed()?;
        let (epoch, next) = {
            let owner = table.owner();
            (owner.epoch, request.shares.iter().map(|share| owner.next(share.bucket)).collect::<Vec<_>>())
        };
        if epoch != self.epoch {
            if !faults::planted(Defect::OverlayKept) {
                self.overlay.clear();
            }
            self.epoch = epoch;
        }
        self.overlay.settle(keyed.durable.load(Ordering::Acquire));
        for share in &request.shares {
            table.bucket(share.bucket)?.check_served()?;
        }
        let mut derived = Vec::with_capacity(request.shares.len());
        for (share, base) in request.shares.iter().zip(next) {
            let old_rows = OldRows { overlay: &self.overlay, log: table.bucket(share.bucket)?, fetched };
            derived.push(derive(table, share, base, &keyed.keys, old_rows)?);
        }
        if faults::planted(Defect::OverlaySeen) {
            for derived in &derived {
                keyed.keys.index_mut(derived.bucket)?.apply(&derived.effects);
            }
        }
        Ok((epoch, derived))
    }

    /// What was derived has its ticket: the next derivation builds on it. Answers the ticket's number.
    pub fn accept(&mut self, parts: &[Part], derived: Vec<Derived>) -> KeyedTicket {
        self.tickets += 1;
        let mut effects = Vec::with_capacity(derived.len());
        for derived in derived {
            let part = parts.iter().find(|part| part.target == derived.bucket);
            // Without a row of its own a share has touched no key.
            if let Some(part) = part {
                self.overlay.add(self.tickets, derived.bucket, part.base, derived.rows, &derived.effects);
                effects.push((derived.bucket, derived.effects));
            }
        }
        KeyedTicket { number: self.tickets, effects }
    }
}

/// What the keys of a table come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyFigures {
    pub keys: u64,
    pub index_bytes: u64,
    pub endings_bytes: u64,
}

/// The most times that one lookup of groups looks into an index.
const GROUP_FINDS_MAX: usize = 1_000_000;

/// The most rows that one lookup of groups answers.
const GROUP_ROWS_MAX: usize = 100_000;

/// Keys, or groups of keys, on their way to their rows.
#[derive(Debug)]
pub struct Lookup {
    /// How many rows each of those asked for has.
    counts: Vec<usize>,
    /// Where these rows stand, in that order.
    places: Vec<(PartitionBucket, Offset)>,
    /// What holds the rows that are hot.
    batches: Vec<RecordBatch>,
    /// The batch and the row in it, of each that is hot.
    picks: BTreeMap<(PartitionBucket, Offset), (usize, usize)>,
}

impl Lookup {
    /// The offsets of the rows that are not hot, ascending, per bucket.
    pub fn cold(&self) -> BTreeMap<PartitionBucket, Vec<Offset>> {
        let mut cold: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (bucket, offset) in &self.places {
            if !self.picks.contains_key(&(*bucket, *offset)) {
                cold.entry(*bucket).or_default().push(*offset);
            }
        }
        for offsets in cold.values_mut() {
            offsets.sort_unstable();
            offsets.dedup();
        }
        cold
    }

    /// The rows, hot ones and those that were fetched, in the order of the keys.
    pub fn finish(mut self, table: &Table, fetched: &Fetched) -> Result<LookedUp> {
        let mut first = BTreeMap::new();
        for bucket in self.cold().into_keys() {
            let rows = fetched.rows(bucket).ok_or_else(|| Error::internal("cold rows that were not fetched"))?;
            first.insert(bucket, self.batches.len());
            self.batches.push(rows.clone());
        }
        let mut picks = Vec::with_capacity(self.places.len());
        for (bucket, offset) in &self.places {
            let cold = || Some((*first.get(bucket)?, fetched.place(*bucket, *offset)?));
            let pick = self.picks.get(&(*bucket, *offset)).copied().or_else(cold);
            picks.push(pick.ok_or_else(|| Error::internal("a row that was neither hot nor fetched"))?);
        }
        table.in_own_columns(0, &mut self.batches, &mut picks)?;
        let schema = table.schema();
        let columns = (0..schema.fields().len()).map(|column| {
            let arrays: Vec<&dyn Array> = self.batches.iter().map(|batch| batch.column(column).as_ref()).collect();
            if arrays.is_empty() {
                return Ok(arrow::array::new_empty_array(schema.field(column).data_type()));
            }
            interleave(&arrays, &picks)
        });
        let rows = RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)?;
        Ok(LookedUp { counts: self.counts, rows })
    }
}

/// What became of keys, or groups of keys, that were looked up.
#[derive(Clone, Debug)]
pub struct LookedUp {
    /// How many rows each has: a key one or none.
    pub counts: Vec<usize>,
    /// These rows, in the order in which they were asked for; those of a group by offset.
    pub rows: RecordBatch,
}

impl Table {
    fn keyed(&self) -> Result<&Keyed> {
        self.state.keyed.as_ref().ok_or_else(|| {
            Error::new(Code::WrongTableKind, format!("table {} has no primary key", self.descriptor.name))
                .with_hint("rows of a log table are only appended")
        })
    }

    pub(crate) fn keys(&self) -> Result<&Keys> {
        Ok(&self.keyed()?.keys)
    }

    /// Waits for the turn to derive.
    pub(crate) async fn deriver(&self) -> Result<OwnedMutexGuard<Deriver>> {
        Ok(self.keyed()?.deriver.clone().lock_owned().await)
    }

    /// Makes a durable ticket's effects known, on the journal's thread, before its rows are shown. All at once: the indexes
    /// of all its buckets are held, as those of a lookup are.
    pub(crate) fn apply_keys(&self, ticket: KeyedTicket) -> Result<()> {
        let keyed = self.keyed()?;
        let effects: BTreeMap<_, _> = ticket.effects.into_iter().collect();
        let mut indexes = Vec::with_capacity(effects.len());
        for (bucket, effects) in effects {
            faults::linger(Defect::IndexesApart);
            if faults::planted(Defect::IndexesApart) {
                keyed.keys.index_mut(bucket)?.apply(&effects);
            } else {
                indexes.push((keyed.keys.index_mut(bucket)?, effects));
            }
        }
        for (index, effects) in &mut indexes {
            index.apply(effects);
        }
        drop(indexes);
        keyed.durable.store(ticket.number, Ordering::Release);
        // Else the next derivation does it.
        if let Ok(mut deriver) = keyed.deriver.try_lock() {
            deriver.overlay.settle(ticket.number);
        }
        Ok(())
    }

    /// Where the newest rows of these keys stand, and those of them that are hot; `keys` are the key's columns, in the
    /// key's order.
    pub(crate) fn lookup(&self, keys: &[ArrayRef]) -> Result<Lookup> {
        let found = self.find(keys)?;
        let counts = found.iter().map(|(_, offset)| usize::from(offset.is_some())).collect();
        let there = found.into_iter().filter_map(|(bucket, offset)| Some((bucket?, offset?)));
        self.look_up(counts, there.collect())
    }

    /// The same for all keys that begin with these values of the key's first column.
    pub(crate) fn lookup_groups(&self, first: &ArrayRef) -> Result<Lookup> {
        let keys = &self.keyed()?.keys;
        let Some(groups) = keys.hasher.hash_groups(first)? else {
            return Err(Error::new(
                Code::WrongTableKind,
                format!("table {} does not look keys up by prefix", self.descriptor.name),
            )
            .with_hint(
                "a primary key of several columns, made WITH (bucket_key = '<its first column>'), or SELECT … WHERE",
            ));
        };
        let (mut counts, mut places) = (Vec::with_capacity(groups.len()), Vec::new());
        // Of each partition, unless the prefix alone tells which.
        let partitions = self.state.partitions.count();
        if groups.len().saturating_mul(partitions) > GROUP_FINDS_MAX {
            let message = format!("{} prefixes in each of {partitions} partitions are too many", groups.len());
            return Err(Error::new(Code::RequestTooLarge, message).with_hint("name fewer prefixes at once"));
        }
        let buckets = self.buckets_of(first)?;
        let in_all = |bucket| {
            let partitions = 0..partitions as u32;
            partitions.map(move |partition| PartitionBucket { partition: PartitionId(partition), bucket })
        };
        let distinct: BTreeSet<_> = buckets.iter().copied().collect();
        let indexes = self.indexes(distinct.into_iter().flat_map(in_all))?;
        for (group, bucket) in groups.into_iter().zip(buckets) {
            let before = places.len();
            for bucket in in_all(bucket) {
                places.extend(indexes[&bucket].find_group(group).into_iter().map(|offset| (bucket, offset)));
            }
            counts.push(places.len() - before);
            if places.len() > GROUP_ROWS_MAX {
                return Err(Error::new(
                    Code::RequestTooLarge,
                    format!("the prefixes have more than {GROUP_ROWS_MAX} rows"),
                )
                .with_hint("name fewer prefixes at once, or SELECT … WHERE, which streams"));
            }
        }
        self.look_up(counts, places)
    }

    /// Finds the rows that are hot.
    fn look_up(&self, counts: Vec<usize>, places: Vec<(PartitionBucket, Offset)>) -> Result<Lookup> {
        let mut lookup = Lookup { counts, places, batches: Vec::new(), picks: BTreeMap::new() };
        let mut wanted: BTreeMap<PartitionBucket, Vec<Offset>> = BTreeMap::new();
        for (bucket, offset) in &lookup.places {
            wanted.entry(*bucket).or_default().push(*offset);
        }
        for (bucket, mut hot) in wanted {
            let log = self.bucket(bucket)?;
            let floor = log.trim_floor();
            hot.retain(|offset| *offset >= floor);
            let (held, rows) = log.batches_at(hot.iter().copied())?;
            let first = lookup.batches.len();
            let picks = rows.into_iter().map(|(batch, row)| (first + batch, row));
            lookup.picks.extend(hot.into_iter().map(|offset| (bucket, offset)).zip(picks));
            lookup.batches.extend(held);
        }
        Ok(lookup)
    }

    /// The offsets of old rows that a share needs and that are no longer hot, ascending.
    pub(crate) fn cold_places(&self, share: &Share) -> Result<Vec<Offset>> {
        let floor = self.bucket(share.bucket)?.trim_floor();
        if floor == Offset::ZERO || faults::planted(Defect::LetGoRowTaken) {
            return Ok(Vec::new());
        }
        // An upsert that tells no old row needs only to know where it stood.
        let tells =
            |change: &Change| *change == Change::Delete || self.descriptor.properties.changelog == Changelog::Full;
        let places = self.keyed()?.keys.index(share.bucket)?.find(&share.keys);
        let wanted = places.into_iter().zip(&share.changes).filter(|(_, change)| tells(change));
        let mut cold: Vec<_> = wanted.filter_map(|(place, _)| place.filter(|place| *place < floor)).collect();
        cold.sort_unstable();
        cold.dedup();
        Ok(cold)
    }

    /// Where the rows stand that these keys have at `ends`, which are or were published; of a key without a row, nothing.
    /// None if that cannot be told any more, because keys have changed since.
    pub fn places_at(&self, keys: &[ArrayRef], ends: &TableEnds) -> Result<Option<Vec<(PartitionBucket, Offset)>>> {
        let mut places = Vec::new();
        for (bucket, offset) in self.find(keys)? {
            // A partition that is not there yet had no row then.
            let Some(bucket) = bucket else { continue };
            match offset {
                Some(offset) if offset < ends.end(bucket) => places.push((bucket, offset)),
                _ if faults::planted(Defect::IndexOverCut) => {}
                // The rows of a change are in the log before the index knows of it.
                None if self.bucket(bucket)?.end() == ends.end(bucket) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(places))
    }

    /// The bucket of each key, if its partition is there, and where its newest row stands.
    fn find(&self, keys: &[ArrayRef]) -> Result<Vec<(Option<PartitionBucket>, Option<Offset>)>> {
        let keyed = self.keyed()?;
        let hashes = keyed.keys.hasher.hash_columns(keys)?;
        let buckets = match self.descriptor.bucketing {
            Bucketing::RoundRobin { .. } => vec![BucketId(0); hashes.len()],
            Bucketing::Hash { column, .. } => {
                let place = self.descriptor.key.iter().position(|own| *own == column);
                let column = place.and_then(|place| keys.get(place));
                let column = column.ok_or_else(|| Error::internal("keys without the column that picks the bucket"))?;
                self.buckets_of(column)?
            }
        };
        let partitions = match self.descriptor.is_partitioned() {
            false => vec![Some(PartitionId(0)); hashes.len()],
            true => {
                let place = |id| self.descriptor.key.iter().position(|own| *own == id);
                let (values, numbers) = partition_rows(&self.descriptor.partitioning, |id| keys.get(place(id)?))?;
                let ids = self.partition_ids(&values);
                let first = faults::planted(Defect::KeyOutsidePartition).then_some(Some(PartitionId(0)));
                numbers.into_iter().map(|number| first.unwrap_or(ids[number as usize])).collect()
            }
        };
        let target = |(partition, bucket): (Option<PartitionId>, BucketId)| {
            partition.map(|partition| PartitionBucket { partition, bucket })
        };
        let mut found: Vec<_> = partitions.into_iter().zip(buckets).map(|place| (target(place), None)).collect();
        let mut own: BTreeMap<PartitionBucket, Vec<usize>> = BTreeMap::new();
        for (at, (bucket, _)) in found.iter().enumerate() {
            if let Some(bucket) = bucket {
                own.entry(*bucket).or_default().push(at);
            }
        }
        for (bucket, index) in self.indexes(own.keys().copied())? {
            let Some(own) = own.remove(&bucket) else { continue };
            let wanted: Vec<_> = own.iter().map(|at| hashes[*at]).collect();
            for (at, offset) in own.into_iter().zip(index.find(&wanted)) {
                found[at].1 = offset;
            }
        }
        Ok(found)
    }

    /// The indexes of these buckets, all of one moment. In the order of buckets, as everybody takes them who takes several.
    fn indexes(
        &self,
        buckets: impl Iterator<Item = PartitionBucket>,
    ) -> Result<BTreeMap<PartitionBucket, RwLockReadGuard<'_, KeyIndex>>> {
        let keys = self.keys()?;
        let buckets: BTreeSet<_> = buckets.collect();
        let held = buckets.into_iter().map(|bucket| {
            self.bucket(bucket)?.check_served()?;
            Ok((bucket, keys.index(bucket)?))
        });
        held.collect()
    }

    /// The buckets of these values of the column that picks the bucket.
    fn buckets_of(&self, column: &ArrayRef) -> Result<Vec<BucketId>> {
        let buckets = self.descriptor.bucketing.buckets();
        Ok(hash_column(column)?.into_iter().map(|hash| BucketId(bucket_of_hash(hash, buckets))).collect())
    }

    /// How many keys there are and the memory that knowing them takes; none in a log table.
    pub fn key_figures(&self) -> Option<KeyFigures> {
        let keyed = self.state.keyed.as_ref()?;
        let mut figures = KeyFigures::default();
        for (bucket, log) in self.buckets() {
            let index = keyed.keys.index(bucket).ok()?;
            figures.keys += index.len() as u64;
            figures.index_bytes += index.bytes();
            figures.endings_bytes += log.endings().map_or(0, |endings| endings.bytes());
        }
        Some(figures)
    }

    /// How much larger the index gets by a request, at most.
    pub(crate) fn key_growth(&self, request: &PreparedChanges) -> Result<u64> {
        let keys = self.keys()?;
        let growth = |share: &Share| {
            let upserts = share.changes.iter().filter(|change| **change == Change::Upsert).count();
            Ok(keys.index(share.bucket)?.growth(upserts))
        };
        request.shares.iter().map(growth).sum()
    }

    /// Where the newest row of each key of a bucket stands, in no order.
    pub fn key_places(&self, bucket: PartitionBucket) -> Result<Vec<Offset>> {
        Ok(self.keyed()?.keys.index(bucket)?.iter().map(|(_, offset)| offset).collect())
    }

    /// The index snapshot of a bucket, if it has let rows go.
    pub(crate) fn index_snapshot(&self, bucket: PartitionBucket) -> Option<IndexSnapshot> {
        self.state.keyed.as_ref()?.keys.snapshot(bucket).ok()?
    }

    pub(crate) fn index_snapshots(&self) -> Vec<IndexSnapshot> {
        self.buckets().filter_map(|(bucket, _)| self.index_snapshot(bucket)).collect()
    }

    /// The index of a bucket as it is now, as the bytes of a file. Changes wait while it is copied.
    pub(crate) fn draw_index_snapshot(&self, bucket: PartitionBucket) -> Result<(IndexSnapshot, Vec<u8>)> {
        let keys = self.keys()?;
        // Taken first: the index knows what was published, and maybe more.
        let end = self.ends().end(bucket);
        faults::linger(Defect::KeysKeptAhead);
        let index = keys.index(bucket)?;
        let end = if faults::planted(Defect::KeysKeptAhead) { end.plus(1) } else { end };
        let snapshot = IndexSnapshot::new(self.descriptor.id, bucket, end);
        let bytes = snapshot.encode(self.descriptor.id, keys.hasher.secret(), &index);
        Ok((snapshot, bytes))
    }

    /// After recovery: what index snapshots and hot rows say of keys. A bucket where they cannot be read is refused.
    pub(super) fn index_keys(&self, read: ReadSnapshot<'_>) -> Result<()> {
        let Some(keyed) = &self.state.keyed else { return Ok(()) };
        let keys = &keyed.keys;
        let refuse = |bucket, log: &BucketLog, error| {
            log.refuse(format_args!("bucket {bucket} of table {}", self.descriptor.name), error);
        };
        // All secrets before the first hash.
        let mut known = BTreeMap::new();
        for (bucket, log) in self.buckets() {
            let Some(snapshot) = keys.snapshot(bucket)? else { continue };
            let taken = read(&snapshot).and_then(|(secret, index)| {
                keys.hasher.take_secret(secret)?;
                Ok(index)
            });
            match taken {
                Ok(index) => {
                    *keys.index_mut(bucket)? = index;
                    known.insert(bucket, snapshot.end);
                }
                Err(error) => refuse(bucket, log, error),
            }
        }
        // The key's columns, then the change columns.
        let user = self.columns.schema.fields().len();
        let columns = self.descriptor.key_places().into_iter().chain([user, user + 1]).collect::<Vec<_>>();
        let columns = Arc::new(self.log_schema.project(&columns)?);
        for (bucket, log) in self.buckets() {
            let Some(endings) = log.endings() else { continue };
            if log.refused().is_some() {
                continue;
            }
            let mut index = keys.index_mut(bucket)?;
            let known = known.get(&bucket).copied().unwrap_or_default();
            let replay = |first, rows: &RecordBatch| keys.replay(&mut index, known, endings, first, rows);
            if let Err(error) = log.each_batch(&columns, replay) {
                refuse(bucket, log, error);
            }
        }
        Ok(())
    }
}
