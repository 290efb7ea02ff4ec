//! One bucket's hot rows in offset order: segments, then the tail.
//!
//! What recovery could not read keeps its place in that order, as a damaged segment or chunk: rows may yet turn out to be
//! superfluous, because a later segment holds them or they were let go. A bucket in which such a place is left when
//! recovery is done is **refused**, with the reason: nobody reads of it, appends to it, seals or trims it, so all that
//! may be of use to repair it stays.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::{AsArray, BooleanArray, RecordBatch, UInt8Array};
use arrow::datatypes::{Schema, SchemaRef, UInt8Type};
use thermocline_schemas::{Code, Error, Fitting, Offset, Result, SchemaId, fitted};

use super::tail::merge_small;
use super::{Chunk, Segment, Stamps};
use crate::faults::{self, Defect};
use crate::journal::Position;
use crate::keys::{EndedRows, Endings, each_ended};
use crate::memory_budget::MemoryBudget;

/// The hot rows of one bucket. Rows past the published end may be in it; readers ask only up to an end that they took.
#[derive(Debug, Default)]
pub struct BucketLog {
    rows: RwLock<Rows>,
    /// In a primary-key table: which change ended which row.
    endings: Option<Endings>,
}

#[derive(Debug, Default)]
struct Rows {
    /// The first offset that is kept.
    trim_floor: Offset,
    segments: Vec<Arc<Segment>>,
    tail: Vec<Arc<Chunk>>,
    /// Why nothing here is served.
    refused: Option<Arc<str>>,
}

/// The columns of the user's that rows are read in: those of one version of the table.
#[derive(Clone, Debug)]
pub struct ReadColumns {
    pub version: SchemaId,
    pub schema: SchemaRef,
}

/// Some consecutive hot rows, held for reading.
#[derive(Clone, Debug)]
pub struct HotRows {
    from: Offset,
    to: Offset,
    store: Store,
    columns: ReadColumns,
    /// In a primary-key table, whose rows have the change columns after the user's.
    ended: Option<EndedRows>,
}

/// A batch, and a row in it.
pub type RowPlace = (usize, usize);

#[derive(Clone, Debug)]
enum Store {
    Segment(Arc<Segment>),
    Chunk(Arc<Chunk>),
}

/// Rows as a reader gets them.
#[derive(Clone, Debug)]
pub struct HotBatch {
    pub first: Offset,
    /// In the reader's columns.
    pub batch: RecordBatch,
    pub stamps: Stamps,
    changes: Option<RowChanges>,
}

#[derive(Clone, Debug)]
struct RowChanges {
    kinds: UInt8Array,
    ended: EndedRows,
}

impl HotBatch {
    /// What happened, as codes of [`thermocline_schemas::ChangeKind`]; none in a log table, where every row was appended.
    pub fn kinds(&self) -> Option<&UInt8Array> {
        self.changes.as_ref().map(|changes| &changes.kinds)
    }

    /// Which rows are part of the table's state at `end`; none when all are.
    pub fn visible(&self, end: Offset) -> Option<BooleanArray> {
        let changes = self.changes.as_ref()?;
        Some(changes.ended.visible(self.first, changes.kinds.values(), end))
    }
}

impl BucketLog {
    /// A bucket whose first row will have the offset `start`.
    pub fn starting_at(start: Offset) -> BucketLog {
        BucketLog { rows: RwLock::new(Rows { trim_floor: start, ..Rows::default() }), endings: None }
    }

    /// The same of a primary-key table.
    pub fn keyed(start: Offset) -> BucketLog {
        BucketLog { endings: Some(Endings::default()), ..BucketLog::starting_at(start) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Rows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which changes ended which rows; none in a log table.
    pub fn endings(&self) -> Option<&Endings> {
        self.endings.as_ref()
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
        let damage = segments.chain(rows.tail.iter().filter_map(|chunk| chunk.damage.as_ref())).next().cloned();
        if let Some(damage) = damage {
            rows.refuse(name, damage);
        }
    }

    /// Refuses the bucket because its rows turned out to be unreadable.
    pub fn refuse(&self, name: impl std::fmt::Display, reason: impl std::fmt::Display) {
        self.write().refuse(name, reason);
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
        if let Some(endings) = self.endings() {
            endings.extend(rows.trim_floor, chunk.end());
        }
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

    /// The bytes of segments and tail that are needed for the rows from `offset` on.
    pub fn bytes_from(&self, offset: Offset) -> u64 {
        let rows = self.read();
        let segments = rows.segments.iter().filter(|segment| segment.end() > offset).map(|segment| segment.info.bytes);
        let chunks = rows.tail.iter().filter(|chunk| chunk.end() > offset).map(|chunk| chunk.bytes());
        segments.chain(chunks).sum()
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
        if let Some(endings) = self.endings() {
            endings.extend(rows.trim_floor, end);
        }
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
        if let Some(endings) = self.endings() {
            endings.trim(floor);
        }
        rows.drop_tail_below(floor)?;
        Ok(gone)
    }

    /// The rows of `[from, to)`, in order, to be read in these columns. An error if some of them are no longer here.
    pub fn rows(&self, from: Offset, to: Offset, columns: &ReadColumns) -> Result<Vec<HotRows>> {
        let rows = self.read();
        rows.check_served()?;
        if from >= to {
            return Ok(Vec::new());
        }
        if from < rows.trim_floor {
            return Err(Error::new(
                Code::OffsetOutOfRetention,
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
            let to = end.min(to);
            let ended = self.endings.as_ref().map(|endings| endings.of(at, to));
            found.push(HotRows { from: at, to, store, columns: columns.clone(), ended });
            at = to;
        }
        if at < to {
            return Err(Error::internal(format!("hot rows end at offset {at}, {to} was published")));
        }
        Ok(found)
    }

    /// Hands all rows to `visit`, in order, batch by batch, in these columns of the log.
    pub fn each_batch(
        &self,
        columns: &SchemaRef,
        mut visit: impl FnMut(Offset, &RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let (segments, tail) = {
            let rows = self.read();
            (rows.segments.clone(), rows.tail.clone())
        };
        for segment in segments.iter().filter(|_| !faults::planted(Defect::SegmentKeysForgotten)) {
            let fitting = Fitting::new(segment.schema(), columns);
            for read in segment.read(0, segment.info.rows as usize, Some(fitting.needed())) {
                let (row, batch) = read?;
                visit(segment.base().plus(row as u64), &fitting.apply(&batch)?)?;
            }
        }
        tail.iter().try_for_each(|chunk| visit(chunk.base, &fitted(&chunk.batch, columns)?))
    }

    /// The batches that hold the rows at these offsets, each as it was written, and where in them each row is.
    /// `OffsetOutOfRetention` if one was let go.
    pub fn batches_at(&self, offsets: impl Iterator<Item = Offset>) -> Result<(Vec<RecordBatch>, Vec<RowPlace>)> {
        let (segments, tail, floor) = {
            let rows = self.read();
            rows.check_served()?;
            (rows.segments.clone(), rows.tail.clone(), rows.trim_floor)
        };
        let mut batches = Vec::new();
        // By the base offset of what was read.
        let mut known: HashMap<Offset, usize> = HashMap::new();
        let mut places = Vec::new();
        for offset in offsets {
            let offset = if faults::planted(Defect::LetGoRowTaken) { offset.max(floor) } else { offset };
            let chunk = tail.partition_point(|chunk| chunk.base <= offset).checked_sub(1).map(|place| &tail[place]);
            if let Some(chunk) = chunk.filter(|chunk| offset < chunk.end()) {
                let batch = *known.entry(chunk.base).or_insert_with(|| {
                    batches.push(chunk.batch.clone());
                    batches.len() - 1
                });
                places.push((batch, offset.since(chunk.base) as usize));
                continue;
            }
            let place = segments.partition_point(|segment| segment.base() <= offset).checked_sub(1);
            let segment = place.map(|place| &segments[place]).filter(|segment| offset < segment.end());
            let Some(segment) = segment else {
                let gone = format!("the row at offset {offset} is no longer hot");
                return Err(Error::new(Code::OffsetOutOfRetention, gone));
            };
            let row = offset.since(segment.base()) as usize;
            let first = segment.batch_of(row);
            let batch = match known.entry(segment.base().plus(first as u64)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    batches.push(segment.read_batch(row)?);
                    *new.insert(batches.len() - 1)
                }
            };
            places.push((batch, row - first));
        }
        Ok((batches, places))
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
    fn refuse(&mut self, name: impl std::fmt::Display, reason: impl std::fmt::Display) {
        let reason = format!("{name} is refused: {reason}");
        tracing::error!("{reason}");
        self.refused = Some(reason.into());
    }

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

    /// The one of them at `offset`.
    pub fn only(&self, offset: Offset) -> Option<HotRows> {
        (self.from <= offset && offset < self.to).then(|| HotRows { from: offset, to: offset.plus(1), ..self.clone() })
    }

    pub fn count(&self) -> u64 {
        self.to.since(self.from)
    }

    /// The columns in which the rows were written, and their version.
    fn written(&self) -> (&Schema, SchemaId) {
        match &self.store {
            Store::Segment(segment) => (segment.schema(), segment.info.schema),
            Store::Chunk(chunk) => (chunk.batch.schema_ref(), chunk.schema),
        }
    }

    /// When the first of them was accepted.
    pub fn first_stamp(&self) -> Option<i64> {
        self.stamps().first()
    }

    /// When the last of them was accepted.
    pub fn last_stamp(&self) -> Option<i64> {
        self.stamps().last()
    }

    fn stamps(&self) -> Stamps {
        let stamps = match &self.store {
            Store::Segment(segment) => &segment.stamps,
            Store::Chunk(chunk) => &chunk.stamps,
        };
        stamps.slice(self.from.since(self.base()) as usize, self.count() as usize)
    }

    /// Hands the offset of each row that one of these changes has ended to `visit`; of a log table, none.
    pub fn each_ended(&self, mut visit: impl FnMut(Offset)) -> Result<()> {
        if self.ended.is_none() {
            return Ok(());
        }
        let columns = self.written().0.fields().len();
        let places = [columns - 2, columns - 1];
        let (from, to) = (self.from.since(self.base()) as usize, self.to.since(self.base()) as usize);
        let mut each = |rows: &RecordBatch| each_ended(rows, |_, ended| visit(ended));
        match &self.store {
            Store::Chunk(chunk) => each(&chunk.batch.slice(from, to - from).project(&places)?),
            Store::Segment(segment) => segment.read(from, to, Some(&places)).try_for_each(|read| each(&read?.1)),
        }
    }

    /// Which columns to read of what was written, all if it does not say, and how they become those that are wanted, if
    /// they are not.
    fn places(&self, wanted: Option<&[usize]>) -> Result<(Option<Fitting>, Option<Vec<usize>>)> {
        let (written, version) = self.written();
        let user = written.fields().len() - if self.ended.is_some() { 2 } else { 0 };
        let same = version == self.columns.version || faults::planted(Defect::ColumnsByPlace);
        let fitting = match (same, wanted) {
            (true, _) => None,
            (false, None) => Some(Fitting::new(written, &self.columns.schema)),
            (false, Some(wanted)) => Some(Fitting::new(written, &Arc::new(self.columns.schema.project(wanted)?))),
        };
        let places = match &fitting {
            Some(fitting) => Some(fitting.needed().to_vec()),
            None => wanted.map(<[usize]>::to_vec),
        };
        // Of rows that have a key, the kind of change is read as one column more.
        let places = match self.ended {
            None => places,
            Some(_) => Some(places.unwrap_or_else(|| (0..user).collect()).into_iter().chain([user]).collect()),
        };
        Ok((fitting, places))
    }

    fn base(&self) -> Offset {
        match &self.store {
            Store::Segment(segment) => segment.base(),
            Store::Chunk(chunk) => chunk.base,
        }
    }

    /// The rows, batch by batch, in some of the reader's columns, ascending, or all.
    pub fn read(&self, projection: Option<&[usize]>) -> Box<dyn Iterator<Item = Result<HotBatch>> + Send + '_> {
        let base = self.base();
        let (from, to) = (self.from.since(base) as usize, self.to.since(base) as usize);
        let (fitting, projection) = match self.places(projection) {
            Ok(places) => places,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let hot = move |first: Offset, batch: RecordBatch, stamps: Stamps| -> Result<HotBatch> {
            let (batch, changes) = match &self.ended {
                None => (batch, None),
                Some(ended) => {
                    let user = batch.num_columns() - 1;
                    let kinds = batch.column(user).as_primitive_opt::<UInt8Type>().cloned();
                    let kinds =
                        kinds.ok_or_else(|| Error::internal("rows with a key and without their kind of change"))?;
                    let batch = batch.project(&(0..user).collect::<Vec<_>>())?;
                    (batch, Some(RowChanges { kinds, ended: ended.clone() }))
                }
            };
            let batch = fitting.as_ref().map_or_else(|| Ok(batch.clone()), |fitting| fitting.apply(&batch))?;
            Ok(HotBatch { first, batch, stamps, changes })
        };
        match &self.store {
            Store::Chunk(chunk) => {
                let batch = chunk.batch.slice(from, to - from);
                let batch = projection.map_or(Ok(batch.clone()), |projection| batch.project(&projection));
                let stamps = chunk.stamps.slice(from, to - from);
                let batch = batch.map_err(Error::from).and_then(|batch| hot(self.from, batch, stamps));
                Box::new(std::iter::once(batch))
            }
            Store::Segment(segment) => {
                let batches: Vec<_> = segment.read(from, to, projection.as_deref()).collect();
                Box::new(batches.into_iter().map(move |read| {
                    let (row, batch) = read?;
                    let stamps = segment.stamps.slice(row, batch.num_rows());
                    hot(base.plus(row as u64), batch, stamps)
                }))
            }
        }
    }
}
