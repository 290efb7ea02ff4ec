//! A table as the engine runs it: one owner that orders its writes, its buckets' rows, and how far they are published.
//!
//! The owner hands out tickets: it alone chooses buckets and offsets, in one order, and the ticket goes into the journal's
//! queue before the owner is let go, so journal order is ticket order. The owner does no I/O and holds no rows.
//!
//! Always: offsets run ahead of what is durable only while their tickets are in the journal's queue. If one of those
//! fails, all behind it fail too ([`Table::abort`] raises the epoch that tickets carry), and offsets go back to what is durable.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{interleave, take_record_batch};
use arrow::datatypes::SchemaRef;
use thermocline_schemas::{
    BucketId, Bucketing, Changelog, Code, Error, Fitting, Offset, PartitionBucket, PartitionId, PartitionValues,
    Result, SchemaId, TableDescriptor, bucket_of_hash, fitted, hash_column, nullable, partition_rows,
};
use tokio::sync::{OwnedMutexGuard, watch};

use crate::bucket::{BucketLog, HotRows, ReadColumns, RowPlace};
use crate::cold::Fetched;
use crate::core::KeyedTicket;
use crate::engine::{REQUEST_BYTES_MAX, Sender};
use crate::faults::{self, Defect};
use crate::ipc::encode_batch;
use crate::journal::{Part, Position};
use crate::keys::{
    Change, ChangeRows, Derived, IndexSnapshot, KeyIndex, Keys, OldRows, Overlay, Secret, Share, derive,
};
use crate::log_starts::LogStarts;
use crate::rows_digest::rows_digest;
use crate::source_format::Source;
use crate::writers::{Answer, BucketRange, Digest, Kept, Verdict, WriterSequence, Writers};

/// One version of an open table: its columns and properties, for ever the same, over what all versions share. Whoever holds
/// it sees the table's rows in these columns, whichever they were written in.
#[derive(Debug)]
pub struct Table {
    descriptor: Arc<TableDescriptor>,
    columns: ReadColumns,
    log_schema: SchemaRef,
    state: Arc<State>,
}

/// What all versions of a table share.
#[derive(Debug)]
struct State {
    /// The buckets of each partition. It only grows, on the journal's thread.
    partitions: boxcar::Vec<Box<[BucketLog]>>,
    /// Which partition has these values; of a table without partitions, none is here.
    partition_ids: RwLock<HashMap<PartitionValues, PartitionId>>,
    owner: Mutex<Owner>,
    keyed: Option<Keyed>,
    ends: RwLock<Arc<TableEnds>>,
    published: watch::Sender<Position>,
    dropped: AtomicBool,
    /// The columns of the log, of versions that were met.
    log_schemas: Mutex<BTreeMap<SchemaId, SchemaRef>>,
}

/// What a primary-key table has besides.
#[derive(Debug)]
struct Keyed {
    keys: Keys,
    /// One request at a time is derived, in the order in which they get the lock, which is the order of tickets.
    deriver: Arc<tokio::sync::Mutex<Deriver>>,
    /// The newest ticket that the index knows.
    durable: AtomicU64,
}

/// What the next derivation builds on.
#[derive(Debug, Default)]
pub struct Deriver {
    overlay: Overlay,
    /// The owner's when the overlay was empty last; another means that all in it is void.
    epoch: u64,
    tickets: u64,
}

/// How far each bucket is published: what one moment's readers may see of a table. Refused buckets are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableEnds {
    /// The journal position at which this holds.
    pub position: Position,
    pub ends: BTreeMap<PartitionBucket, Offset>,
    /// Of a log table: where its rows start.
    pub starts: Arc<LogStarts>,
    /// When the newest frame was accepted, microseconds since 1970.
    pub stamp: i64,
}

impl TableEnds {
    pub fn end(&self, bucket: PartitionBucket) -> Offset {
        self.ends.get(&bucket).copied().unwrap_or_default()
    }

    /// The first offset of a log table that is kept, hot or cold.
    pub fn start(&self, bucket: PartitionBucket) -> Offset {
        self.starts.start(bucket)
    }
}

/// Orders the writes of one table.
#[derive(Debug, Default)]
pub struct Owner {
    /// The next offset to give, per bucket.
    next: BTreeMap<PartitionBucket, Offset>,
    /// Raised when tickets are aborted; older tickets are void.
    epoch: u64,
    /// Rows in columns of an older version are refused: they would lack what must be there, or were not checked.
    oldest_version: SchemaId,
    /// Which bucket the next keyless request goes to.
    turn: usize,
    pub writers: Writers,
}

/// A request that is checked and encoded, and needs only its offsets.
#[derive(Debug)]
pub struct Prepared {
    /// One part a bucket; a keyless request has one part whose bucket the owner chooses.
    pub parts: Vec<Part>,
    pub keyless: bool,
    pub writer: Option<(WriterSequence, Digest)>,
    pub tag: String,
    /// What the sender is told.
    pub rows: u64,
    pub ignored: u64,
    pub rejected: u64,
}

/// A request to a primary-key table that is checked and spread over buckets, and needs to be derived.
#[derive(Debug)]
pub struct PreparedChanges {
    pub shares: Vec<Share>,
    pub writer: Option<(WriterSequence, Digest)>,
    pub tag: String,
    pub rows: u64,
    pub ignored: u64,
    pub rejected: u64,
}

/// What the owner decided.
#[derive(Debug)]
pub enum Decision {
    Ticket { epoch: u64, parts: Vec<Part>, source: Source, answer: Answer },
    Settled(Verdict),
}

impl Prepared {
    /// Splits rows over buckets as the table wants it and encodes each share.
    pub fn new(table: &Table, rows: &RecordBatch, partitions: &RowPartitions, sender: Sender) -> Result<Prepared> {
        let Sender { writer, tag, digest, rejected } = sender;
        let schema_id = table.descriptor.schema.id;
        let mut parts = Vec::new();
        let mut encoded_bytes = 0;
        let mut part = |target, share: &RecordBatch| -> Result<Part> {
            let part = Part::new(target, schema_id, share.num_rows() as u32, encode_batch(share)?);
            // Each bucket's share is padded by column: many buckets of a wide table make much of few rows.
            encoded_bytes += part.payload.len() as u64;
            if encoded_bytes > 2 * REQUEST_BYTES_MAX {
                return Err(Error::new(Code::RequestTooLarge, "the request is too large once spread over its buckets")
                    .with_hint("send fewer rows at once"));
            }
            Ok(part)
        };
        let keyless = matches!(table.descriptor.bucketing, Bucketing::RoundRobin { .. });
        // A writer's empty request is a frame of no bucket.
        if rows.num_rows() > 0 {
            for (target, share) in shares(&table.descriptor, rows, partitions)? {
                parts.push(match share {
                    None => part(target, rows)?,
                    Some(share) => part(target, &take_record_batch(rows, &share)?)?,
                });
            }
        }
        let digest = || digest.map_or_else(|| rows_digest(rows, table.descriptor.schema.columns(), &[]), Ok);
        let writer = writer.map(|from| Ok::<_, Error>((from, digest()?))).transpose()?;
        Ok(Prepared { parts, keyless, writer, tag, rows: rows.num_rows() as u64, ignored: 0, rejected })
    }

    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.payload.len() as u64).sum()
    }
}

/// Which partition each row of a request is in.
#[derive(Clone, Debug)]
pub struct RowPartitions {
    /// None of one that is not there, for rows that say of keys in it that they are to go.
    partitions: Vec<Option<PartitionId>>,
    /// For each row, the number of its own among them; none where all are in the first.
    numbers: Option<Vec<u32>>,
}

impl Default for RowPartitions {
    /// Of a table without partitions.
    fn default() -> RowPartitions {
        RowPartitions { partitions: vec![Some(PartitionId(0))], numbers: None }
    }
}

impl RowPartitions {
    pub fn new(partitions: Vec<Option<PartitionId>>, numbers: Vec<u32>) -> RowPartitions {
        let numbers = (partitions.len() > 1).then_some(numbers);
        RowPartitions { partitions, numbers }
    }
}

/// Which rows go to which bucket, ascending, and none where all do. Rows of no partition go nowhere. Where the owner chooses the bucket, rows of one partition are one
/// share, of bucket 0.
fn shares(
    descriptor: &TableDescriptor,
    rows: &RecordBatch,
    of: &RowPartitions,
) -> Result<Vec<(PartitionBucket, Option<UInt32Array>)>> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let (buckets, hashes) = match descriptor.bucketing {
        Bucketing::RoundRobin { .. } => (1, None),
        Bucketing::Hash { buckets, column } => {
            let place = descriptor.schema.columns().iter().position(|own| own.id == column);
            let place = place.ok_or_else(|| Error::internal("the bucket key is no column"))?;
            (buckets, Some(hash_column(rows.column(place))?))
        }
    };
    let target = |share: usize| {
        let partition = of.partitions.get(share / buckets as usize).copied().flatten()?;
        Some(PartitionBucket { partition, bucket: BucketId((share % buckets as usize) as u32) })
    };
    if hashes.is_none() && of.numbers.is_none() {
        return Ok(target(0).map(|target| (target, None)).into_iter().collect());
    }
    let mut shares = vec![Vec::new(); of.partitions.len() * buckets as usize];
    for row in 0..rows.num_rows() {
        let partition = of.numbers.as_ref().map_or(0, |numbers| numbers[row] as usize);
        let partition = if faults::planted(Defect::PartitionIgnored) { 0 } else { partition };
        let bucket = hashes.as_ref().map_or(0, |hashes| bucket_of_hash(hashes[row], buckets) as usize);
        shares[partition * buckets as usize + bucket].push(row as u32);
    }
    let shares = shares.into_iter().enumerate().filter(|(_, share)| !share.is_empty());
    let shares = shares.filter_map(|(number, share)| Some((target(number)?, Some(share.into()))));
    let mut shares: Vec<_> = shares.collect();
    shares.sort_unstable_by_key(|(target, _)| *target);
    Ok(shares)
}

impl PreparedChanges {
    /// Checks keys and splits rows over buckets.
    pub fn new(table: &Table, request: &ChangeRows, partitions: &RowPartitions, sender: Sender) -> Result<Self> {
        let Sender { writer, tag, digest, rejected } = sender;
        let rows = request.rows();
        let hasher = &table.keys()?.hasher;
        let key: Vec<_> = table.descriptor.key_places().iter().map(|place| rows.column(*place).clone()).collect();
        let keys = hasher.hash_columns(&key)?;
        let groups = key.first().map(|first| hasher.hash_groups(first)).transpose()?.flatten().unwrap_or_default();
        let share = |(bucket, share): (PartitionBucket, Option<UInt32Array>)| -> Result<Share> {
            let Some(share) = share else {
                return Ok(Share {
                    bucket,
                    rows: rows.clone(),
                    changes: request.changes().to_vec(),
                    keys: keys.clone(),
                    groups: groups.clone(),
                    expected: request.expected().map(<[Offset]>::to_vec),
                });
            };
            let rows = take_record_batch(rows, &share)?;
            let share: Vec<_> = share.values().iter().map(|row| *row as usize).collect();
            Ok(Share {
                bucket,
                rows,
                changes: share.iter().map(|row| request.changes()[*row]).collect(),
                keys: share.iter().map(|row| keys[*row]).collect(),
                groups: share.iter().filter_map(|row| groups.get(*row).copied()).collect(),
                expected: request.expected().map(|all| share.iter().map(|row| all[*row]).collect()),
            })
        };
        let shares = shares(&table.descriptor, rows, partitions)?.into_iter().map(share).collect::<Result<Vec<_>>>()?;
        let digest = || digest.map_or_else(|| request.digest(&table.descriptor), Ok);
        let writer = writer.map(|from| Ok::<_, Error>((from, digest()?))).transpose()?;
        let (rows, ignored) = (rows.num_rows() as u64, request.ignored());
        Ok(PreparedChanges { shares, writer, tag, rows, ignored, rejected })
    }

    /// The same request, checked in one version of the columns, in those of another. One that names the rows which it changes read them in its own
    /// columns, and would take from them what it did not see.
    pub fn fit(&mut self, checked: SchemaId, table: &Table) -> Result<()> {
        if self.shares.iter().any(|share| share.expected.is_some()) {
            return Err(Error::new(Code::WriteConflict, "the table's columns were changed while the statement ran")
                .with_hint("run it again"));
        }
        if table.descriptor.schema.has_checks_after(checked) && !faults::planted(Defect::CheckOfOlderVersion) {
            return Err(is_of_older_version());
        }
        // A row that is to go may lack anything but its key.
        let target = nullable(&table.columns.schema);
        for share in &mut self.shares {
            share.rows = fitted(&share.rows, &target)?;
            let columns = table.descriptor.schema.columns().iter().zip(share.rows.columns());
            let is_upsert = |row: usize| share.changes[row] == Change::Upsert;
            for (_, values) in columns.filter(|(column, values)| !column.nullable && values.null_count() > 0) {
                let lacks = (0..share.changes.len()).any(|row| values.is_null(row) && is_upsert(row));
                if lacks && !faults::planted(Defect::OldVersionTaken) {
                    return Err(is_of_older_version());
                }
            }
        }
        Ok(())
    }
}

impl Owner {
    /// Gives a request, whose rows are in columns of `version`, its place, or says that it has one. Deduplication comes
    /// before buckets are chosen: a repeat might be sent elsewhere.
    pub fn decide(&mut self, request: Prepared, version: SchemaId) -> Result<Decision> {
        if let Some((from, digest)) = &request.writer {
            match self.writers.judge(from, digest)? {
                Verdict::New => {}
                Verdict::Repeat(mut answer) if faults::planted(Defect::RepeatAnsweredAnew) => {
                    answer.buckets.iter_mut().for_each(|range| range.first_offset = range.end_offset);
                    return Ok(Decision::Settled(Verdict::Repeat(answer)));
                }
                settled if faults::planted(Defect::RepeatTakesOffsets) => {
                    self.next.values_mut().for_each(|next| *next = next.plus(1));
                    return Ok(Decision::Settled(settled));
                }
                settled => return Ok(Decision::Settled(settled)),
            }
        }
        if version < self.oldest_version && !faults::planted(Defect::OldVersionTaken) {
            return Err(is_of_older_version());
        }
        let mut parts = request.parts;
        if request.keyless {
            for part in &mut parts {
                let last = PartitionBucket { bucket: BucketId(u32::MAX), ..part.target };
                let served: Vec<_> = self.next.range(part.target..=last).map(|(bucket, _)| *bucket).collect();
                let chosen = served.get(self.turn % served.len().max(1)).copied();
                part.target = chosen.ok_or_else(|| Error::internal("a partition without buckets"))?;
            }
            self.turn = self.turn.wrapping_add(1);
        }
        for part in &mut parts {
            let next = self.next.get_mut(&part.target);
            let next = next.ok_or_else(|| Error::internal(format!("no bucket {}", part.target)))?;
            part.base = *next;
            *next = part.end();
        }
        let Prepared { rows, ignored, rejected, .. } = request;
        let answer = Answer { rows, ignored, rejected, ..answer(&parts) };
        if let Some((from, digest)) = &request.writer {
            let kept = Kept { sequence: from.sequence, digest: *digest, answer: answer.clone() };
            self.writers.begin(&from.writer, kept);
        }
        let Prepared { writer, tag, .. } = request;
        let source = Source { writer, rows, ignored, rejected, tag };
        Ok(Decision::Ticket { epoch: self.epoch, parts, source, answer })
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a row was given its place in a bucket that is served.
    pub fn has_rows(&self) -> bool {
        self.next.values().any(|next| *next > Offset::ZERO)
    }

    /// From here on, rows in columns of older versions are refused. Answers from where on they were before.
    pub fn refuse_before(&mut self, version: SchemaId) -> SchemaId {
        std::mem::replace(&mut self.oldest_version, version)
    }

    pub fn oldest_version(&self) -> SchemaId {
        self.oldest_version
    }

    pub fn next(&self, bucket: PartitionBucket) -> Offset {
        self.next.get(&bucket).copied().unwrap_or_default()
    }
}

/// Of rows in the columns of an older version, which may lack a value or break a constraint.
fn is_of_older_version() -> Error {
    Error::new(Code::WriteConflict, "the table got a column that is NOT NULL, or a constraint, meanwhile")
        .with_hint("send again")
}

/// Reads the file of an index snapshot.
pub type ReadSnapshot<'a> = &'a dyn Fn(&IndexSnapshot) -> Result<(Secret, KeyIndex)>;

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

/// What a writer is told of its parts.
pub fn answer(parts: &[Part]) -> Answer {
    let range = |part: &Part| BucketRange {
        partition: Some(part.target.partition),
        bucket: part.target.bucket,
        first_offset: part.base,
        end_offset: part.end(),
    };
    Answer {
        rows: parts.iter().map(|part| u64::from(part.rows)).sum(),
        buckets: parts.iter().map(range).collect(),
        ..Answer::default()
    }
}

impl Table {
    /// A table whose buckets start at these offsets.
    pub fn new(descriptor: TableDescriptor, start: impl Fn(PartitionBucket) -> Offset) -> Result<Table> {
        let keyed = match descriptor.is_keyed() {
            false => None,
            true => {
                Some(Keyed { keys: Keys::new(&descriptor)?, deriver: Default::default(), durable: AtomicU64::new(0) })
            }
        };
        let state = State {
            partitions: boxcar::Vec::new(),
            partition_ids: RwLock::default(),
            keyed,
            owner: Mutex::default(),
            ends: RwLock::default(),
            published: watch::Sender::new(Position(0)),
            dropped: AtomicBool::new(false),
            log_schemas: Mutex::default(),
        };
        let table = Table::over(Arc::new(state), descriptor);
        table.open_partitions(start);
        let ends = table.served_ends();
        table.set_ends(TableEnds { ends, ..TableEnds::default() });
        Ok(table)
    }

    /// Gives those partitions buckets, which start at these offsets, that this version knows and that have none. One caller
    /// at a time.
    fn open_partitions(&self, start: impl Fn(PartitionBucket) -> Offset) {
        let state = &*self.state;
        let known = if self.descriptor.is_partitioned() { self.descriptor.partitions.len() } else { 1 };
        for number in state.partitions.count()..known {
            let partition = PartitionId(number as u32);
            let buckets = self.descriptor.bucketing.buckets();
            if let Some(keyed) = &state.keyed {
                keyed.keys.add_partition(buckets);
            }
            let targets = (0..buckets).map(|bucket| PartitionBucket { partition, bucket: BucketId(bucket) });
            let logs = targets.clone().map(|target| match state.keyed {
                Some(_) => BucketLog::keyed(start(target)),
                None => BucketLog::starting_at(start(target)),
            });
            state.partitions.push(logs.collect());
            self.owner().next.extend(targets.map(|target| (target, start(target))));
            // Last: whoever finds it may use it.
            if let Some(values) = self.descriptor.partitions.get(number) {
                let mut ids = state.partition_ids.write().unwrap_or_else(PoisonError::into_inner);
                ids.insert(values.clone(), partition);
            }
        }
    }

    /// The version that has these partitions besides, with their buckets.
    pub(crate) fn with_partitions(&self, added: &[PartitionValues]) -> Result<Table> {
        let grown = self.altered(self.descriptor.with_partitions(added)?);
        grown.open_partitions(|_| Offset::ZERO);
        let mut ends = (*grown.ends()).clone();
        let new =
            grown.buckets().skip_while(|(bucket, _)| (bucket.partition.0 as usize) < self.descriptor.partitions.len());
        ends.ends.extend(new.map(|(bucket, _)| (bucket, Offset::ZERO)));
        grown.set_ends(ends);
        Ok(grown)
    }

    /// The different partitions that these rows are in, and for each row the number of its own among them.
    pub(crate) fn partition_values(&self, rows: &RecordBatch) -> Result<(Vec<PartitionValues>, Vec<u32>)> {
        let columns = self.descriptor.schema.columns();
        let place = |id| columns.iter().position(|column| column.id == id);
        partition_rows(&self.descriptor.partitioning, |id| rows.columns().get(place(id)?))
    }

    /// The partitions that have these values, where there are such.
    pub(crate) fn partition_ids(&self, values: &[PartitionValues]) -> Vec<Option<PartitionId>> {
        let ids = self.state.partition_ids.read().unwrap_or_else(PoisonError::into_inner);
        values.iter().map(|values| ids.get(values).copied()).collect()
    }

    /// This table in the columns of a version that it had or has.
    pub fn in_version(&self, version: SchemaId) -> Result<Table> {
        let descriptor = self.descriptor.in_version(version);
        let unknown =
            || Error::internal(format!("table {} has no version {version} of its columns", self.descriptor.name));
        Ok(self.altered(descriptor.ok_or_else(unknown)?))
    }

    /// Another version of this table.
    pub(crate) fn altered(&self, descriptor: TableDescriptor) -> Table {
        Table::over(self.state.clone(), descriptor)
    }

    fn over(state: Arc<State>, descriptor: TableDescriptor) -> Table {
        let columns = ReadColumns { version: descriptor.schema.id, schema: descriptor.schema.arrow() };
        Table { columns, log_schema: descriptor.log_arrow(), descriptor: Arc::new(descriptor), state }
    }

    /// Whether it is the same version of the columns; partitions that one of them has not heard of make no difference.
    pub fn has_columns_of(&self, other: &Table) -> bool {
        self.descriptor.schema.id == other.descriptor.schema.id
    }

    pub fn descriptor(&self) -> &Arc<TableDescriptor> {
        &self.descriptor
    }

    /// The columns of rows as they are appended and read.
    pub fn schema(&self) -> &SchemaRef {
        &self.columns.schema
    }

    /// The columns of rows as they are written to the log in this version.
    pub(crate) fn log_schema(&self) -> &SchemaRef {
        &self.log_schema
    }

    /// The same of another version.
    pub(crate) fn log_schema_of(&self, version: SchemaId) -> Result<SchemaRef> {
        if version == self.columns.version {
            return Ok(self.log_schema.clone());
        }
        let mut known = self.state.log_schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(schema) = known.get(&version) {
            return Ok(schema.clone());
        }
        let schema = self.descriptor.schema_of(version);
        let unknown =
            || Error::corrupt(format!("table {} has no version {version} of its columns", self.descriptor.name));
        let schema = self.descriptor.log_arrow_of(schema.ok_or_else(unknown)?);
        known.insert(version, schema.clone());
        Ok(schema)
    }

    /// Puts batches from number `first` on, of the log or of the lake, into this version's columns; there may be more columns
    /// after them. Of a batch of another version the picked rows alone are made, and what picks them is changed.
    pub(crate) fn in_own_columns(
        &self,
        first: usize,
        batches: &mut [RecordBatch],
        picks: &mut [RowPlace],
    ) -> Result<()> {
        let is_own = |rows: &RecordBatch| {
            [&self.log_schema, &self.columns.schema].iter().any(|own| Arc::ptr_eq(rows.schema_ref(), own))
        };
        let mut others: BTreeMap<usize, Vec<u32>> = batches
            .iter()
            .enumerate()
            .skip(first)
            .filter(|(_, rows)| !is_own(rows))
            .map(|(number, _)| (number, Vec::new()))
            .collect();
        for (batch, row) in picks {
            if let Some(picked) = others.get_mut(batch) {
                picked.push(*row as u32);
                *row = picked.len() - 1;
            }
        }
        for (number, picked) in others {
            let fitting = Fitting::new(batches[number].schema_ref(), &self.columns.schema);
            let needed = batches[number].project(fitting.needed())?;
            batches[number] = fitting.apply(&take_record_batch(&needed, &UInt32Array::from(picked))?)?;
        }
        Ok(())
    }

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
    fn index_keys(&self, read: ReadSnapshot<'_>) -> Result<()> {
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

    pub fn buckets(&self) -> impl Iterator<Item = (PartitionBucket, &BucketLog)> {
        self.state.partitions.iter().flat_map(|(partition, buckets)| {
            let target =
                move |bucket| PartitionBucket { partition: PartitionId(partition as u32), bucket: BucketId(bucket) };
            (0..).map(target).zip(buckets.iter())
        })
    }

    pub fn bucket(&self, target: PartitionBucket) -> Result<&BucketLog> {
        let partition = self.state.partitions.get(target.partition.0 as usize);
        partition.and_then(|buckets| buckets.get(target.bucket.0 as usize)).ok_or_else(|| {
            Error::new(Code::InvalidOffset, format!("table {} has no bucket {target}", self.descriptor.name))
        })
    }

    /// The published ends. For several tables at one moment, [`crate::Engine::cut`].
    pub fn ends(&self) -> Arc<TableEnds> {
        self.state.ends.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The hot rows `[from, to)` of a bucket, in this version's columns; `to` at most a published end.
    pub fn hot_rows(&self, bucket: PartitionBucket, from: Offset, to: Offset) -> Result<Vec<HotRows>> {
        self.bucket(bucket)?.rows(from, to, &self.columns)
    }

    /// An error if one of the table's buckets is refused: then not all of its rows can be told.
    pub fn check_served(&self) -> Result<()> {
        self.buckets().try_for_each(|(_, log)| log.check_served())
    }

    /// Whether the request can be taken although some bucket may be refused. A keyless one goes to another bucket; but
    /// of one that may be a repeat nobody knows whether it is in the refused one.
    pub(crate) fn check_takes(&self, request: &Prepared) -> Result<()> {
        if !request.keyless {
            return request.parts.iter().try_for_each(|part| self.bucket(part.target)?.check_served());
        }
        let is_served = |part: &Part| {
            let mut own = self.state.partitions.get(part.target.partition.0 as usize).into_iter().flatten();
            own.any(|log| log.refused().is_none())
        };
        match request.writer.is_none() && request.parts.iter().all(is_served) {
            true => Ok(()),
            false => self.check_served(),
        }
    }

    /// Rings when something was published; the value is the journal position up to which.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.state.published.subscribe()
    }

    pub fn is_dropped(&self) -> bool {
        self.state.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn mark_dropped(&self, dropped: bool) {
        self.state.dropped.store(dropped, Ordering::Release);
        self.state.published.send_modify(|_| {});
    }

    /// Whether the table has, had, or is about to have a row, also one that cannot be read now.
    pub(crate) fn has_rows(&self) -> bool {
        let mut logs = self.buckets();
        self.owner().has_rows() || logs.any(|(_, log)| log.end() > Offset::ZERO || log.refused().is_some())
    }

    pub(crate) fn owner(&self) -> MutexGuard<'_, Owner> {
        self.state.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows rows up to new ends. The caller holds the publication lock, or shows no row.
    pub(crate) fn set_ends(&self, ends: TableEnds) {
        *self.state.ends.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ends);
    }

    /// Takes rows away for readers. The caller holds the publication lock, or nobody reads yet.
    pub(crate) fn set_starts(&self, starts: LogStarts) {
        self.set_ends(TableEnds { starts: Arc::new(starts), ..(*self.ends()).clone() });
    }

    pub(crate) fn ring(&self, position: Position) {
        self.state.published.send_replace(position);
    }

    /// Voids all tickets that are not durable yet.
    pub(crate) fn abort(&self, error: impl Fn() -> Error) {
        let mut owner = self.owner();
        if !faults::planted(Defect::EpochNotRaised) {
            owner.epoch += 1;
        }
        if !faults::planted(Defect::OffsetsNotGivenBack) {
            owner.next = self.served_ends();
        }
        owner.writers.abort(error);
    }

    fn served_ends(&self) -> BTreeMap<PartitionBucket, Offset> {
        let served = self.buckets().filter(|(_, log)| log.refused().is_none());
        served.map(|(target, log)| (target, log.end())).collect()
    }

    /// After recovery: what is in the buckets is published, and the owner goes on from there.
    pub(crate) fn settle(&self, position: Position, stamp: i64, read: ReadSnapshot<'_>) -> Result<()> {
        for (target, log) in self.buckets() {
            log.settle(format_args!("bucket {target} of table {}", self.descriptor.name));
        }
        self.index_keys(read)?;
        let ends = self.served_ends();
        self.owner().next = ends.clone();
        self.set_ends(TableEnds { position, ends, starts: self.ends().starts.clone(), stamp });
        self.ring(position);
        Ok(())
    }
}
