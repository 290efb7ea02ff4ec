//! A table as the engine runs it: one owner that orders its writes, its buckets' rows, and how far they are published.
//!
//! The owner hands out tickets: it alone chooses buckets and offsets, in one order, and the ticket goes into the journal's
//! queue before the owner is let go, so journal order is ticket order. The owner does no I/O and holds no rows.
//!
//! Always: offsets run ahead of what is durable only while their tickets are in the journal's queue. If one of those
//! fails, all behind it fail too ([`Table::abort`] raises the epoch that tickets carry), and offsets go back to what is durable.
//!
//! `requests`: what the owner is given. `keyed`: what a primary key adds.

mod keyed;
mod requests;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use thermocline_schemas::{
    BucketId, Code, Error, Fitting, Offset, PartitionBucket, PartitionId, PartitionValues, Result, SchemaId,
    TableDescriptor, partition_rows,
};
use tokio::sync::watch;

pub use keyed::{Deriver, KeyFigures, LookedUp, Lookup};
pub use requests::{Prepared, PreparedChanges, RowPartitions};

use self::keyed::Keyed;
use crate::bucket::{BucketLog, HotRows, ReadColumns, RowPlace};
use crate::faults::{self, Defect};
use crate::journal::{Part, Position};
use crate::keys::{IndexSnapshot, KeyIndex, Keys, Secret};
use crate::log_starts::LogStarts;
use crate::source_format::Source;
use crate::writers::{Answer, BucketRange, Kept, Verdict, Writers};

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

/// What the owner decided.
#[derive(Debug)]
pub enum Decision {
    Ticket { epoch: u64, parts: Vec<Part>, source: Source, answer: Answer },
    Settled(Verdict),
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
