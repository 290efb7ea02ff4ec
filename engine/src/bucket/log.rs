//! One bucket's hot rows in offset order: segments, then the tail.
//!
//! What recovery could not read keeps its place in that order, as a damaged segment or chunk: rows may yet turn out to be
//! superfluous, because a later segment holds them or they were let go. A bucket in which such a place is left when
//! recovery is done is **refused**, with the reason: nobody reads of it, appends to it, seals or trims it, so all that
//! may be of use to repair it stays.

use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::RecordBatch;
use thermocline_schemas::{Error, Offset, Result, SchemaId};

use super::tail::merge_small;
use super::{Chunk, Segment, Stamps};
use crate::journal::Position;
use crate::memory_budget::MemoryBudget;

/// The hot rows of one bucket. Rows past the published end may be in it; readers ask only up to an end that they took.
#[derive(Debug, Default)]
pub struct BucketLog(RwLock<Rows>);

#[derive(Debug, Default)]
struct Rows {
    /// The first offset that is kept.
    trim_floor: Offset,
    segments: Vec<Arc<Segment>>,
    tail: Vec<Arc<Chunk>>,
    /// Why nothing here is served.
    refused: Option<Arc<str>>,
}

/// Some consecutive hot rows, held for reading.
#[derive(Clone, Debug)]
pub struct HotRows {
    from: Offset,
    to: Offset,
    store: Store,
}

#[derive(Clone, Debug)]
enum Store {
    Segment(Arc<Segment>),
    Chunk(Arc<Chunk>),
}

/// Rows as a reader gets them.
#[derive(Clone, Debug)]
pub struct HotBatch {
    pub first: Offset,
    pub schema: SchemaId,
    pub batch: RecordBatch,
    pub stamps: Stamps,
}

impl BucketLog {
    /// A bucket whose first row will have the offset `start`.
    pub fn starting_at(start: Offset) -> BucketLog {
        BucketLog(RwLock::new(Rows { trim_floor: start, ..Rows::default() }))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Rows> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Rows> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of all rows that are here, published or not.
    pub fn end(&self) -> Offset {
        let rows = self.read();
        rows.tail.last().map_or_else(|| rows.covered(), |chunk| chunk.end())
    }

    pub fn trim_floor(&self) -> Offset {
        self.read().trim_floor
    }

    /// Why the bucket is refused, if it is.
    pub fn refused(&self) -> Option<Arc<str>> {
        self.read().refused.clone()
    }

    /// An error if the bucket is refused.
    pub fn check_served(&self) -> Result<()> {
        self.read().check_served()
    }

    /// Recovery is done: refuses the bucket, which people know as `name`, if something of it is damaged.
    pub fn settle(&self, name: impl std::fmt::Display) {
        let mut rows = self.write();
        let segments = rows.segments.iter().filter_map(|segment| segment.damage.as_ref());
        let damage = segments.chain(rows.tail.iter().filter_map(|chunk| chunk.damage.as_ref())).next();
        if let Some(reason) = damage.map(|damage| format!("{name} is refused: {damage}")) {
            tracing::error!("{reason}");
            rows.refused = Some(reason.into());
        }
    }

    /// The first offset that only the journal holds.
    pub fn covered(&self) -> Offset {
        self.read().covered()
    }

    /// Appends a chunk that starts at the end.
    pub fn push(&self, chunk: Chunk, budget: &Arc<MemoryBudget>) -> Result<()> {
        let end = self.end();
        if chunk.base != end {
            return Err(Error::corrupt(format!("rows from offset {} follow rows up to offset {end}", chunk.base)));
        }
        let mut rows = self.write();
        rows.tail.push(Arc::new(chunk));
        merge_small(&mut rows.tail, budget)
    }

    /// The tail's chunks up to `end`, oldest first; none that ends past it, and none of a refused bucket.
    pub fn tail_up_to(&self, end: Offset) -> Vec<Arc<Chunk>> {
        let rows = self.read();
        if rows.refused.is_some() {
            return Vec::new();
        }
        rows.tail.iter().take_while(|chunk| chunk.end() <= end).cloned().collect()
    }

    pub fn tail_bytes(&self) -> u64 {
        self.read().tail.iter().map(|chunk| chunk.bytes()).sum()
    }

    /// Where the first frame stands that holds rows of the tail.
    pub fn replay_from(&self) -> Option<Position> {
        self.read().tail.first().map(|chunk| chunk.position)
    }

    /// The tail's rows up to `end` stand at `position` of the journal now.
    pub fn carried(&self, end: Offset, position: Position) {
        for chunk in self.write().tail.iter_mut().filter(|chunk| chunk.end() <= end) {
            *chunk = Arc::new(chunk.at(position));
        }
    }

    /// The stamp of the oldest row that is only in memory and the journal.
    pub fn oldest_tail_stamp(&self) -> Option<i64> {
        self.read().tail.first().and_then(|chunk| chunk.stamps.first())
    }

    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.read().segments.clone()
    }

    /// Puts a segment in the place of the tail's rows that it holds.
    pub fn add_segment(&self, segment: Arc<Segment>) -> Result<()> {
        let mut rows = self.write();
        let covered = rows.covered();
        if segment.base() > covered {
            return Err(Error::corrupt(format!("segment {} leaves a gap after offset {covered}", segment.info.file)));
        }
        let end = segment.end();
        rows.segments.push(segment);
        rows.drop_tail_below(end)
    }

    /// Lets go of rows below `floor`; answers the segments that nobody needs any more.
    pub fn trim(&self, floor: Offset) -> Result<Vec<Arc<Segment>>> {
        let mut rows = self.write();
        if floor <= rows.trim_floor {
            return Ok(Vec::new());
        }
        let keep = rows.segments.iter().take_while(|segment| segment.end() <= floor).count();
        let gone = rows.segments.drain(..keep).collect();
        rows.trim_floor = floor;
        rows.drop_tail_below(floor)?;
        Ok(gone)
    }

    /// The rows of `[from, to)`, in order. An error if some of them are no longer here.
    pub fn rows(&self, from: Offset, to: Offset) -> Result<Vec<HotRows>> {
        let rows = self.read();
        rows.check_served()?;
        if from >= to {
            return Ok(Vec::new());
        }
        if from < rows.trim_floor {
            return Err(Error::new(
                thermocline_schemas::Code::OffsetOutOfRetention,
                format!("rows from offset {from} are no longer hot, which starts at {}", rows.trim_floor),
            ));
        }
        let segments =
            rows.segments.iter().map(|segment| (segment.base(), segment.end(), Store::Segment(segment.clone())));
        let chunks = rows.tail.iter().map(|chunk| (chunk.base, chunk.end(), Store::Chunk(chunk.clone())));
        let mut found = Vec::new();
        let mut at = from;
        for (base, end, store) in segments.chain(chunks) {
            if end <= at || base >= to {
                continue;
            }
            if base > at {
                break;
            }
            found.push(HotRows { from: at, to: end.min(to), store });
            at = end.min(to);
        }
        if at < to {
            return Err(Error::internal(format!("hot rows end at offset {at}, {to} was published")));
        }
        Ok(found)
    }

    /// The first offset in `[floor, end)` whose stamp is at least `stamp`; `end` if none is.
    pub fn offset_at(&self, stamp: i64, end: Offset) -> Offset {
        let rows = self.read();
        let segments = rows.segments.iter().map(|segment| (segment.base(), &segment.stamps));
        let chunks = rows.tail.iter().map(|chunk| (chunk.base, &chunk.stamps));
        for (base, stamps) in segments.chain(chunks) {
            let row = stamps.first_at_or_after(stamp);
            if row < stamps.rows() {
                return base.plus(row as u64).max(rows.trim_floor).min(end);
            }
        }
        end
    }
}

impl Rows {
    fn check_served(&self) -> Result<()> {
        match &self.refused {
            None => Ok(()),
            Some(reason) => Err(Error::corrupt(reason.as_ref())
                .with_hint("restore the file from a copy and start again, or drop the table")),
        }
    }

    fn covered(&self) -> Offset {
        self.segments.last().map_or(self.trim_floor, |segment| segment.end().max(self.trim_floor))
    }

    /// Drops whole chunks, and cuts the one that reaches over `floor`.
    fn drop_tail_below(&mut self, floor: Offset) -> Result<()> {
        let gone = self.tail.iter().take_while(|chunk| chunk.end() <= floor).count();
        self.tail.drain(..gone);
        if let Some(first) = self.tail.first().filter(|first| first.base < floor) {
            let cut = floor.since(first.base) as usize;
            let left = first.batch.num_rows() - cut;
            let batch = first.batch.slice(cut, left);
            self.tail[0] = Arc::new(first.cut(floor, batch, first.stamps.slice(cut, left)));
        }
        Ok(())
    }
}

impl HotRows {
    pub fn from(&self) -> Offset {
        self.from
    }

    pub fn to(&self) -> Offset {
        self.to
    }

    pub fn count(&self) -> u64 {
        self.to.since(self.from)
    }

    pub fn schema(&self) -> SchemaId {
        match &self.store {
            Store::Segment(segment) => segment.info.schema,
            Store::Chunk(chunk) => chunk.schema,
        }
    }

    /// When the first of them was accepted.
    pub fn first_stamp(&self) -> Option<i64> {
        let (base, stamps) = match &self.store {
            Store::Segment(segment) => (segment.base(), &segment.stamps),
            Store::Chunk(chunk) => (chunk.base, &chunk.stamps),
        };
        stamps.slice(self.from.since(base) as usize, 1).first()
    }

    /// The rows, batch by batch, of some columns or all.
    pub fn read(&self, projection: Option<&[usize]>) -> Box<dyn Iterator<Item = Result<HotBatch>> + Send + '_> {
        let base = match &self.store {
            Store::Segment(segment) => segment.base(),
            Store::Chunk(chunk) => chunk.base,
        };
        let (from, to) = (self.from.since(base) as usize, self.to.since(base) as usize);
        let schema = self.schema();
        match &self.store {
            Store::Chunk(chunk) => {
                let batch = chunk.batch.slice(from, to - from);
                let batch = projection.map_or(Ok(batch.clone()), |projection| batch.project(projection));
                let stamps = chunk.stamps.slice(from, to - from);
                Box::new(std::iter::once(batch.map_err(Error::from).map(|batch| HotBatch {
                    first: self.from,
                    schema,
                    batch,
                    stamps,
                })))
            }
            Store::Segment(segment) => {
                let projection = projection.map(<[usize]>::to_vec);
                let batches: Vec<_> = segment.read(from, to, projection.as_deref()).collect();
                Box::new(batches.into_iter().map(move |read| {
                    let (row, batch) = read?;
                    let stamps = segment.stamps.slice(row, batch.num_rows());
                    Ok(HotBatch { first: base.plus(row as u64), schema, batch, stamps })
                }))
            }
        }
    }
}
