//! A table as the engine runs it: one owner that orders its writes, its buckets' rows, and how far they are published.
//!
//! The owner hands out tickets: it alone chooses buckets and offsets, in one order, and the ticket goes into the journal's
//! queue before the owner is let go, so journal order is ticket order. The owner does no I/O and holds no rows.
//!
//! Always: offsets run ahead of what is durable only while their tickets are in the journal's queue. If one of those
//! fails, all behind it fail too ([`Table::abort`] raises the epoch that tickets carry), and offsets go back to what is durable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use thermocline_schemas::{
    Bucketing, Code, Error, Offset, PartitionBucket, Result, TableDescriptor, bucket_of_hash, hash_column,
};
use tokio::sync::watch;

use crate::bucket::{BucketLog, HotRows};
use crate::engine::REQUEST_BYTES_MAX;
use crate::ipc::encode_batch;
use crate::journal::{Part, Position};
use crate::source_format::Source;
use crate::writers::{Answer, BucketRange, Digest, Kept, Verdict, WriterSequence, Writers};

/// A table that is open. Cheap to share; the same until it is dropped.
#[derive(Debug)]
pub struct Table {
    descriptor: Arc<TableDescriptor>,
    schema: SchemaRef,
    buckets: BTreeMap<PartitionBucket, BucketLog>,
    owner: Mutex<Owner>,
    ends: RwLock<Arc<TableEnds>>,
    published: watch::Sender<Position>,
    dropped: AtomicBool,
}

/// How far each bucket is published: what one moment's readers may see of a table. Refused buckets are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEnds {
    /// The journal position at which this holds.
    pub position: Position,
    pub ends: BTreeMap<PartitionBucket, Offset>,
    /// When the newest frame was accepted, microseconds since 1970.
    pub stamp: i64,
}

impl TableEnds {
    pub fn end(&self, bucket: PartitionBucket) -> Offset {
        self.ends.get(&bucket).copied().unwrap_or_default()
    }
}

/// Orders the writes of one table.
#[derive(Debug, Default)]
pub struct Owner {
    /// The next offset to give, per bucket.
    next: BTreeMap<PartitionBucket, Offset>,
    /// Raised when tickets are aborted; older tickets are void.
    epoch: u64,
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
}

/// What the owner decided.
#[derive(Debug)]
pub enum Decision {
    Ticket { epoch: u64, parts: Vec<Part>, source: Source, answer: Answer },
    Settled(Verdict),
}

impl Prepared {
    /// Splits rows over buckets as the table wants it and encodes each share.
    pub fn new(table: &Table, rows: &RecordBatch, writer: Option<WriterSequence>, tag: String) -> Result<Prepared> {
        let schema_id = table.descriptor.schema.id;
        let part = |bucket: u32, share: &RecordBatch| -> Result<Part> {
            let target = PartitionBucket::unpartitioned(bucket);
            Ok(Part::new(target, schema_id, share.num_rows() as u32, encode_batch(share)?))
        };
        let mut parts = Vec::new();
        let mut encoded_bytes = 0;
        let mut part = |bucket, share: &RecordBatch| -> Result<Part> {
            let part = part(bucket, share)?;
            // Each bucket's share is padded by column: many buckets of a wide table make much of few rows.
            encoded_bytes += part.payload.len() as u64;
            if encoded_bytes > 2 * REQUEST_BYTES_MAX {
                return Err(Error::new(Code::RequestTooLarge, "the request is too large once spread over its buckets")
                    .with_hint("send fewer rows at once"));
            }
            Ok(part)
        };
        let keyless = match table.descriptor.bucketing {
            _ if rows.num_rows() == 0 => true,
            Bucketing::RoundRobin { .. } => {
                parts.push(part(0, rows)?);
                true
            }
            Bucketing::Hash { buckets, column } => {
                let place = table.descriptor.schema.columns().iter().position(|own| own.id == column);
                let place = place.ok_or_else(|| Error::internal("the bucket key is no column"))?;
                let mut shares = vec![Vec::new(); buckets as usize];
                for (row, hash) in hash_column(rows.column(place))?.into_iter().enumerate() {
                    shares[bucket_of_hash(hash, buckets) as usize].push(row as u32);
                }
                for (bucket, share) in shares.into_iter().enumerate().filter(|(_, share)| !share.is_empty()) {
                    let share = arrow::compute::take_record_batch(rows, &arrow::array::UInt32Array::from(share))?;
                    parts.push(part(bucket as u32, &share)?);
                }
                false
            }
        };
        let writer = writer.map(|from| (from, digest(&parts)));
        Ok(Prepared { parts, keyless, writer, tag })
    }

    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.payload.len() as u64).sum()
    }
}

/// Of the rows as encoded: the same rows in the same order give the same bytes.
fn digest(parts: &[Part]) -> Digest {
    use sha2::{Digest as _, Sha256};
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.target.bucket.0.to_le_bytes());
        hasher.update(&part.payload);
    }
    let hash: [u8; 32] = hasher.finalize().into();
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash[..16]);
    digest
}

impl Owner {
    /// Gives a request its place, or says that it has one. Deduplication comes before buckets are chosen: a repeat might
    /// be sent elsewhere.
    pub fn decide(&mut self, request: Prepared) -> Result<Decision> {
        if let Some((from, digest)) = &request.writer {
            match self.writers.judge(from, digest)? {
                Verdict::New => {}
                settled => return Ok(Decision::Settled(settled)),
            }
        }
        let mut parts = request.parts;
        if request.keyless
            && let Some(part) = parts.first_mut()
        {
            let chosen = self.next.keys().nth(self.turn % self.next.len().max(1)).copied();
            part.target = chosen.ok_or_else(|| Error::internal("a table without buckets"))?;
            self.turn = (self.turn + 1) % self.next.len();
        }
        for part in &mut parts {
            let next = self.next.get_mut(&part.target);
            let next = next.ok_or_else(|| Error::internal(format!("no bucket {}", part.target)))?;
            part.base = *next;
            *next = part.end();
        }
        let answer = answer(&parts);
        if let Some((from, digest)) = &request.writer {
            let kept = Kept { sequence: from.sequence, digest: *digest, answer: answer.clone() };
            self.writers.begin(&from.writer, kept);
        }
        let source = Source { writer: request.writer, tag: request.tag, ..Source::default() };
        Ok(Decision::Ticket { epoch: self.epoch, parts, source, answer })
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn next(&self, bucket: PartitionBucket) -> Offset {
        self.next.get(&bucket).copied().unwrap_or_default()
    }
}

/// What a writer is told of its parts.
pub fn answer(parts: &[Part]) -> Answer {
    let range = |part: &Part| BucketRange {
        partition: None,
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
    pub fn new(descriptor: TableDescriptor, start: impl Fn(PartitionBucket) -> Offset) -> Table {
        let targets = (0..descriptor.bucketing.buckets()).map(PartitionBucket::unpartitioned);
        let buckets: BTreeMap<_, _> = targets.map(|target| (target, BucketLog::starting_at(start(target)))).collect();
        let next: BTreeMap<_, _> = buckets.iter().map(|(target, log)| (*target, log.end())).collect();
        let ends = TableEnds { position: Position(0), ends: next.clone(), stamp: 0 };
        Table {
            schema: descriptor.schema.arrow(),
            descriptor: Arc::new(descriptor),
            buckets,
            owner: Mutex::new(Owner { next, ..Owner::default() }),
            ends: RwLock::new(Arc::new(ends)),
            published: watch::Sender::new(Position(0)),
            dropped: AtomicBool::new(false),
        }
    }

    pub fn descriptor(&self) -> &Arc<TableDescriptor> {
        &self.descriptor
    }

    /// The columns of rows as they are appended and read.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn buckets(&self) -> impl Iterator<Item = (PartitionBucket, &BucketLog)> {
        self.buckets.iter().map(|(target, log)| (*target, log))
    }

    pub fn bucket(&self, target: PartitionBucket) -> Result<&BucketLog> {
        self.buckets.get(&target).ok_or_else(|| {
            Error::new(Code::InvalidOffset, format!("table {} has no bucket {target}", self.descriptor.name))
        })
    }

    /// The published ends. For several tables at one moment, [`crate::Engine::cut`].
    pub fn ends(&self) -> Arc<TableEnds> {
        self.ends.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The hot rows `[from, to)` of a bucket; `to` at most a published end.
    pub fn hot_rows(&self, bucket: PartitionBucket, from: Offset, to: Offset) -> Result<Vec<HotRows>> {
        self.bucket(bucket)?.rows(from, to)
    }

    /// An error if one of the table's buckets is refused: then not all of its rows can be told.
    pub fn check_served(&self) -> Result<()> {
        self.buckets.values().try_for_each(BucketLog::check_served)
    }

    /// Whether the request can be taken although some bucket may be refused. A keyless one goes to another bucket; but
    /// of one that may be a repeat nobody knows whether it is in the refused one.
    pub(crate) fn check_takes(&self, request: &Prepared) -> Result<()> {
        if !request.keyless {
            return request.parts.iter().try_for_each(|part| self.bucket(part.target)?.check_served());
        }
        match self.buckets.values().any(|log| log.refused().is_none()) {
            true if request.writer.is_none() => Ok(()),
            _ => self.check_served(),
        }
    }

    /// Rings when something was published; the value is the journal position up to which.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.published.subscribe()
    }

    pub fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn mark_dropped(&self) {
        self.dropped.store(true, Ordering::Release);
        self.published.send_modify(|_| {});
    }

    pub(crate) fn owner(&self) -> MutexGuard<'_, Owner> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows rows up to new ends. The caller holds the publication lock.
    pub(crate) fn set_ends(&self, ends: TableEnds) {
        *self.ends.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ends);
    }

    pub(crate) fn ring(&self, position: Position) {
        self.published.send_replace(position);
    }

    /// Voids all tickets that are not durable yet.
    pub(crate) fn abort(&self, error: impl Fn() -> Error) {
        let mut owner = self.owner();
        owner.epoch += 1;
        owner.next = self.served_ends();
        owner.writers.abort(error);
    }

    fn served_ends(&self) -> BTreeMap<PartitionBucket, Offset> {
        let served = self.buckets.iter().filter(|(_, log)| log.refused().is_none());
        served.map(|(target, log)| (*target, log.end())).collect()
    }

    /// After recovery: what is in the buckets is published, and the owner goes on from there.
    pub(crate) fn settle(&self, position: Position, stamp: i64) {
        for (target, log) in &self.buckets {
            log.settle(format_args!("bucket {target} of table {}", self.descriptor.name));
        }
        let ends = self.served_ends();
        self.owner().next = ends.clone();
        self.set_ends(TableEnds { position, ends, stamp });
        self.ring(position);
    }
}
