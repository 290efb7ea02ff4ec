//! Following a table: cold, then hot, then live, as one stream per bucket without gap or duplicate.
//!
//! The only state is the next offset per bucket. Where it lies below the first hot offset, rows come from the lake; else
//! from the hot tier up to the published end; when there is nothing, wait until something is published, and look again.
//! If rows are let go under a follower, its next look is cold. So nothing depends on when it looks. A follower never runs
//! ahead of what SQL sees, because both go by the published ends. Rows that were taken away are an error for who has not
//! had them; but partitions whose time is over go as the table says that they go, and who is behind goes on after them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt8Array};
use arrow::compute::filter_record_batch;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{HotBatch, Stamps, Table, TableEnds};
use thermocline_schemas::{Code, Error, FieldId, Offset, PartitionBucket, Result, SystemColumn};
use tokio::sync::mpsc;

use crate::lake::{LakeFile, LakeRows, LakeTable, files_of};
use crate::masks::{CutFile, Picked};
use crate::tiering::Tiering;

/// Batches that wait for a slow follower; behind them its reading rests.
const BATCHES_AHEAD: usize = 4;
/// A hot read goes at most so far at once, so that what a follower holds stays small.
const HOT_ROWS_MAX: u64 = 65_536;

/// Where to begin.
#[derive(Clone, Debug, PartialEq)]
pub enum FollowFrom {
    /// The first row that is kept.
    Earliest,
    /// What comes next.
    Latest,
    /// The first row that is kept of those accepted at or after this moment, in microseconds since 1970; not in the future.
    Timestamp(i64),
    /// These offsets. Buckets that are not named begin at their end; where there are partitions, at their beginning, because
    /// they are newer than whoever named the others.
    Offsets(BTreeMap<PartitionBucket, Offset>),
    /// The state of a primary-key table at one cut, then what changes after it.
    Snapshot,
}

/// How to follow.
#[derive(Clone, Copy, Debug)]
pub struct FollowOptions {
    /// Go on with what is appended later; else end where the table ends now.
    pub follow: bool,
}

/// Consecutive rows of one bucket, in the columns that the table has when they are read.
#[derive(Clone, Debug)]
pub struct ChangeBatch {
    pub bucket: PartitionBucket,
    /// As paths spell it; none of a table without partitions.
    pub partition: Option<Arc<str>>,
    pub first: Offset,
    pub batch: RecordBatch,
    /// When each row was accepted.
    pub stamps: Stamps,
    /// What happened, as codes of [`thermocline_schemas::ChangeKind`]; none in a log table, where every row was appended.
    pub kinds: Option<UInt8Array>,
}

/// Rows of one bucket that are a table's state at the start of a follower.
#[derive(Clone, Debug)]
pub struct StateBatch {
    pub bucket: PartitionBucket,
    /// As paths spell it; none of a table without partitions.
    pub partition: Option<Arc<str>>,
    /// In the table's columns.
    pub batch: RecordBatch,
    /// Where each row stands in the log.
    pub offsets: Vec<Offset>,
    /// When each row was accepted.
    pub stamps: Vec<i64>,
}

impl ChangeBatch {
    /// The offset after its last row.
    pub fn next(&self) -> Offset {
        self.first.plus(self.batch.num_rows() as u64)
    }
}

/// A follower's place, and its stream.
pub struct Followed {
    /// The next offset of every bucket at the start: what a client may resume from before it has seen a row.
    pub start: BTreeMap<PartitionBucket, Offset>,
    /// With [`FollowFrom::Snapshot`] the state at `start`, to be read before the changes.
    pub state: Option<BoxStream<'static, Result<StateBatch>>>,
    pub batches: BoxStream<'static, Result<ChangeBatch>>,
}

impl Tiering {
    /// Follows a table. The stream ends with an error `table_dropped` when the table is.
    pub async fn follow(
        self: &Arc<Self>,
        table: &Arc<Table>,
        from: FollowFrom,
        options: FollowOptions,
    ) -> Result<Followed> {
        let state = match from {
            FollowFrom::Snapshot => Some(self.state(table).await?),
            _ => None,
        };
        let (from, state) = match state {
            None => (from, None),
            Some((mut ends, state)) => {
                if faults::planted(Defect::SnapshotOneLate) {
                    ends.values_mut().for_each(|end| *end = end.plus(1));
                }
                (FollowFrom::Offsets(ends), Some(state))
            }
        };
        let (start, not_before) = self.starts(table, from).await?;
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let follower =
            Follower { tiering: self.clone(), table: table.clone(), next: start.clone(), not_before, sender };
        // Taken now, and not when the task first runs.
        let target = (!options.follow).then(|| table.ends());
        tokio::spawn(follower.run(target));
        let batches = futures::stream::unfold(receiver, |mut receiver| async move {
            let batch = receiver.recv().await?;
            Some((batch, receiver))
        });
        Ok(Followed { start, state, batches: batches.fuse().boxed() })
    }

    /// The first offset of each bucket, and the moment before which rows are left out.
    async fn starts(
        &self,
        table: &Table,
        from: FollowFrom,
    ) -> Result<(BTreeMap<PartitionBucket, Offset>, Option<i64>)> {
        table.check_served()?;
        let ends = table.ends();
        let kept_from = |bucket: PartitionBucket, log: &thermocline_engine::BucketLog| {
            // What the lake has of a primary-key table is its state and not its changes.
            let all = table.descriptor().properties.lake_enabled && !table.descriptor().is_keyed();
            if all { ends.start(bucket) } else { log.trim_floor().max(ends.start(bucket)) }
        };
        let at_end = ends.ends.clone();
        match from {
            FollowFrom::Latest => Ok((at_end, None)),
            FollowFrom::Snapshot => Err(Error::internal("a snapshot that was not drawn")),
            FollowFrom::Earliest => {
                Ok((table.buckets().map(|(bucket, log)| (bucket, kept_from(bucket, log))).collect(), None))
            }
            FollowFrom::Offsets(offsets) => {
                let mut start = if table.descriptor().is_partitioned() { BTreeMap::new() } else { at_end };
                for (bucket, offset) in offsets {
                    let (floor, end) = (kept_from(bucket, table.bucket(bucket)?), ends.end(bucket));
                    if offset > end {
                        return Err(Error::new(
                            Code::InvalidOffset,
                            format!("bucket {bucket} ends at offset {end}, {offset} has not been written"),
                        ));
                    }
                    let expired = offset < floor && self.is_expired(table, bucket.partition);
                    if offset < floor && !expired {
                        return Err(out_of_retention(table, bucket, offset, floor));
                    }
                    start.insert(bucket, if expired { floor } else { offset });
                }
                Ok((start, None))
            }
            FollowFrom::Timestamp(stamp) => {
                if stamp > self.engine().now_micros() {
                    return Err(Error::new(Code::InvalidOffset, "that moment is in the future"));
                }
                let table_lake = self.table_lake_for_reading(table).await?;
                let mut start = BTreeMap::new();
                for (bucket, log) in table.buckets() {
                    // What is let go before this is in the boundary that is loaded after it.
                    let hot = log.offset_at(stamp, ends.end(bucket));
                    let boundary = table_lake.published.load();
                    let cold = match &boundary.lake {
                        // Of a primary-key table the lake has rows, and none of the changes that are no longer hot.
                        Some((lake, version)) if hot <= log.trim_floor() && !table.descriptor().is_keyed() => {
                            let id = table.descriptor().schema.system_id(SystemColumn::Timestamp);
                            let files = lake.data_files(version).await?;
                            first_file_at(&files, bucket, id, stamp)
                        }
                        _ => None,
                    };
                    start.insert(bucket, cold.map_or(hot, |cold| cold.min(hot)).max(ends.start(bucket)));
                }
                Ok((start, Some(stamp)))
            }
        }
    }
}

/// The first offset of the first file that may have a row accepted at or after `stamp`.
fn first_file_at(
    files: &[Arc<LakeFile>],
    bucket: PartitionBucket,
    column: Option<FieldId>,
    stamp: i64,
) -> Option<Offset> {
    use arrow::array::AsArray;
    use arrow::datatypes::TimestampMicrosecondType;
    let newest = |file: &LakeFile| {
        let bound = file.upper_bound(column?)?;
        bound.as_primitive_opt::<TimestampMicrosecondType>().map(|bound| bound.value(0))
    };
    let reaches = |file: &&Arc<LakeFile>| newest(file).is_none_or(|newest| newest >= stamp);
    files_of(files, bucket).iter().find(reaches).map(|file| file.first_offset)
}

fn out_of_retention(table: &Table, bucket: PartitionBucket, offset: Offset, floor: Offset) -> Error {
    Error::new(
        Code::OffsetOutOfRetention,
        format!("bucket {bucket} is kept from offset {floor}, {offset} was asked for"),
    )
    .with_hint(match table.descriptor().is_keyed() {
        true => "from=snapshot gives the state, then every change after it",
        false => "from=earliest starts at what is kept",
    })
}

type State = (BTreeMap<PartitionBucket, Offset>, BoxStream<'static, Result<StateBatch>>);

impl Tiering {
    /// The state of a primary-key table at its published ends, read as it is asked for.
    async fn state(&self, table: &Arc<Table>) -> Result<State> {
        if !table.descriptor().is_keyed() {
            return Err(Error::new(Code::WrongTableKind, "a log table has no state to begin with")
                .with_hint("from=earliest begins with its first row"));
        }
        let mut table = table.clone();
        let split = loop {
            let split = self.read_split(std::slice::from_ref(&table)).await?.into_iter().next();
            let newest = self.engine().newest(&table);
            let is_current = newest.has_columns_of(&table);
            // It has heard of all partitions that the split has rows of.
            table = newest;
            if is_current {
                break split.ok_or_else(|| Error::internal("a table was not split"))?;
            }
        };
        let files = split.lake_files(true).await?;
        let cold = split.lake.clone().map(|lake| {
            let table = table.clone();
            let files =
                futures::stream::iter(files).map(move |file| cold_state(lake.table.clone(), table.clone(), file));
            files.flatten()
        });
        let hot = split.hot.into_iter().flat_map(move |part| {
            let partition = path_of(&table, part.bucket);
            part.rows.into_iter().flat_map(move |rows| {
                let read: Vec<_> = rows.read(None).collect();
                let partition = partition.clone();
                read.into_iter().map(move |batch| state_batch(part.bucket, partition.clone(), &batch?, part.to))
            })
        });
        let cold = futures::stream::iter(cold).flatten();
        Ok((split.ends.ends.clone(), cold.chain(futures::stream::iter(hot)).boxed()))
    }
}

/// The living rows of a data file.
fn cold_state(lake: Arc<LakeTable>, table: Arc<Table>, cut: CutFile) -> BoxStream<'static, Result<StateBatch>> {
    let open = async move {
        let positions = cut.picked.as_ref().map(Picked::positions);
        let bucket = cut.file.bucket;
        let rows = lake.read_positions(&cut.file, &table.descriptor().schema, positions.as_ref()).await?;
        let partition = path_of(&table, bucket);
        let batches = rows.map_ok(move |rows| StateBatch {
            bucket,
            partition: partition.clone(),
            batch: rows.batch,
            offsets: rows.offsets,
            stamps: rows.stamps.values().collect(),
        });
        Ok::<_, Error>(batches)
    };
    futures::stream::once(open).try_flatten().boxed()
}

fn path_of(table: &Table, bucket: PartitionBucket) -> Option<Arc<str>> {
    table.descriptor().partition_path(bucket.partition).map(Arc::from)
}

fn state_batch(
    bucket: PartitionBucket,
    partition: Option<Arc<str>>,
    rows: &HotBatch,
    end: Offset,
) -> Result<StateBatch> {
    let visible =
        rows.visible(end).ok_or_else(|| Error::internal("rows with a key that do not know what ended them"))?;
    let stamps = rows.stamps.values().zip(visible.values()).filter_map(|(stamp, visible)| visible.then_some(stamp));
    Ok(StateBatch {
        bucket,
        partition,
        batch: filter_record_batch(&rows.batch, &visible)?,
        offsets: visible.values().set_indices().map(|row| rows.first.plus(row as u64)).collect(),
        stamps: stamps.collect(),
    })
}

struct Follower {
    tiering: Arc<Tiering>,
    table: Arc<Table>,
    next: BTreeMap<PartitionBucket, Offset>,
    not_before: Option<i64>,
    sender: mpsc::Sender<Result<ChangeBatch>>,
}

/// Nobody listens any more.
struct Left;

impl Follower {
    /// Up to `target`, or for ever.
    async fn run(mut self, target: Option<Arc<TableEnds>>) {
        let mut published = self.table.subscribe();
        loop {
            published.borrow_and_update();
            let ends = target.clone().unwrap_or_else(|| self.table.ends());
            // After the ends: no row below them has columns that this version has not heard of.
            if !faults::planted(Defect::FollowerKeepsColumns) {
                self.table = self.tiering.engine().newest(&self.table);
            }
            match self.catch_up(&ends.ends).await {
                Ok(Ok(())) => {}
                Ok(Err(Left)) => return,
                Err(error) => {
                    // If nobody hears it, nobody needs it.
                    let _ = self.sender.send(Err(error)).await;
                    return;
                }
            }
            if target.is_some() {
                return;
            }
            if self.table.is_dropped() {
                let gone =
                    Error::new(Code::TableDropped, format!("table {} was dropped", self.table.descriptor().name));
                let _ = self.sender.send(Err(gone)).await;
                return;
            }
            tokio::select! {
                changed = published.changed() => if changed.is_err() { return },
                () = self.sender.closed() => return,
            }
        }
    }

    /// Sends all rows up to `ends`.
    async fn catch_up(&mut self, ends: &BTreeMap<PartitionBucket, Offset>) -> Result<Result<(), Left>> {
        for (bucket, end) in ends {
            loop {
                // A bucket that was not there yet is followed from its first row.
                let late = faults::planted(Defect::PartitionFollowedLate).then_some(*end);
                let next = self.next.get(bucket).copied().or(late).unwrap_or_default();
                if next >= *end {
                    break;
                }
                // Rows that are gone for everybody else are gone for a slow reader too.
                let start = self.table.ends().start(*bucket);
                if next < start {
                    if !self.tiering.is_expired(&self.table, bucket.partition) {
                        return Err(out_of_retention(&self.table, *bucket, next, start));
                    }
                    self.next.insert(*bucket, start);
                    continue;
                }
                let to = Offset(end.0.min(next.0 + HOT_ROWS_MAX));
                let sent = match self.table.hot_rows(*bucket, next, to) {
                    Ok(rows) => self.send_hot(*bucket, &rows).await?,
                    Err(error) if error.code() == Code::OffsetOutOfRetention => {
                        self.send_cold(*bucket, next, *end).await?
                    }
                    Err(error) => return Err(error),
                };
                if sent.is_err() {
                    return Ok(Err(Left));
                }
            }
        }
        Ok(Ok(()))
    }

    async fn send_hot(
        &mut self,
        bucket: PartitionBucket,
        rows: &[thermocline_engine::HotRows],
    ) -> Result<Result<(), Left>> {
        let partition = path_of(&self.table, bucket);
        for rows in rows {
            let batches: Vec<_> = rows.read(None).collect();
            for batch in batches {
                let batch = batch?;
                let kinds = batch.kinds().cloned();
                let change = ChangeBatch {
                    bucket,
                    partition: partition.clone(),
                    first: batch.first,
                    batch: batch.batch,
                    stamps: batch.stamps,
                    kinds,
                };
                if self.send(change).await.is_err() {
                    return Ok(Err(Left));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Sends the rows of the lake from `next` on, to `end` or the end of what is in it: a round may have gone past `end`.
    async fn send_cold(&mut self, bucket: PartitionBucket, next: Offset, end: Offset) -> Result<Result<(), Left>> {
        let boundary = self.tiering.table_lake_for_reading(&self.table).await?.published.load();
        if self.table.descriptor().is_keyed() {
            let floor = self.table.bucket(bucket)?.trim_floor();
            return Err(out_of_retention(&self.table, bucket, next, floor));
        }
        let floor = self.table.bucket(bucket)?.trim_floor();
        let Some((lake, version)) = &boundary.lake else {
            return Err(out_of_retention(&self.table, bucket, next, floor));
        };
        let files = lake.data_files(version).await?;
        let mut wanted: Vec<Arc<LakeFile>> = Vec::new();
        for file in files_of(&files, bucket) {
            if file.end_offset > next && file.first_offset < end {
                wanted.push(file.clone());
            }
        }
        if wanted.first().is_none_or(|file| file.first_offset > next) {
            return Err(out_of_retention(&self.table, bucket, next, floor));
        }
        for file in wanted {
            let from = self.next.get(&bucket).copied().unwrap_or(next);
            if self.send_file(lake, &file, bucket, from, end).await?.is_err() {
                return Ok(Err(Left));
            }
        }
        if faults::planted(Defect::FollowerOneLate) {
            self.next.entry(bucket).and_modify(|next| *next = next.plus(1));
        }
        Ok(Ok(()))
    }

    async fn send_file(
        &mut self,
        lake: &LakeTable,
        file: &Arc<LakeFile>,
        bucket: PartitionBucket,
        from: Offset,
        end: Offset,
    ) -> Result<Result<(), Left>> {
        let partition = path_of(&self.table, bucket);
        let mut rows = lake.read_file(file, &self.table.descriptor().schema, from).await?;
        while let Some(read) = rows.next().await {
            let LakeRows { first, batch, stamps } = read?;
            let expected = self.next.get(&bucket).copied().unwrap_or_default();
            if first != expected {
                return Err(Error::new(
                    Code::LakeConflict,
                    format!(
                        "the lake of bucket {bucket} goes on at offset {first}, {expected} comes next: {}",
                        file.url
                    ),
                ));
            }
            let count = batch.num_rows().min(end.since(first) as usize);
            let (batch, stamps) = (batch.slice(0, count), stamps.slice(0, count));
            let partition = partition.clone();
            if self.send(ChangeBatch { bucket, partition, first, batch, stamps, kinds: None }).await.is_err() {
                return Ok(Err(Left));
            }
            if first.plus(count as u64) == end {
                break;
            }
        }
        Ok(Ok(()))
    }

    async fn send(&mut self, mut change: ChangeBatch) -> Result<(), Left> {
        let expected = self.next.get(&change.bucket).copied().unwrap_or_default();
        debug_assert_eq!(change.first, expected, "bucket {}", change.bucket);
        let (bucket, next) = (change.bucket, change.next());
        if let Some(stamp) = self.not_before {
            let early = change.stamps.first_at_or_after(stamp);
            let left = change.batch.num_rows() - early;
            change = ChangeBatch {
                bucket: change.bucket,
                partition: change.partition,
                first: change.first.plus(early as u64),
                batch: change.batch.slice(early, left),
                stamps: change.stamps.slice(early, left),
                kinds: change.kinds.map(|kinds| kinds.slice(early, left)),
            };
        }
        if change.batch.num_rows() > 0 {
            self.sender.send(Ok(change)).await.map_err(|_| Left)?;
        }
        self.next.insert(bucket, next);
        Ok(())
    }
}
