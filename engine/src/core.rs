//! The state that the journal's thread changes and everybody reads.
//!
//! [`Core`] is the journal's publisher: rows go into their buckets, ends and edits become visible, waiting clients get
//! their answer, in journal order and nowhere else. One lock, `publication`, is held for writing while the ends of a group's
//! tables are swapped, so whoever holds it for reading sees one journal position in all tables.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result, SchemaId, TableDescriptor, TableId};
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use crate::EngineOptions;
use crate::bucket::{BucketLog, Chunk, Segment, SegmentInfo, Stamps};
use crate::catalog::Catalog;
use crate::checkpoint_format::{BucketState, Checkpoint, TableState};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::edit::Edit;
use crate::faults::{self, CrashPoint, Defect};
use crate::ipc::decode_batch;
use crate::journal::{Appended, Draft, Part, Position, Publisher, Ticket};
use crate::keys::{Effects, end_versions};
use crate::log_starts::{LogStarts, Raised};
use crate::memory_budget::{MemoryBudget, Reservation};
use crate::metric_names;
use crate::table::{Deriver, Table, TableEnds};
use crate::writers::Answer;

pub type Reply<T> = oneshot::Sender<Result<T>>;

/// Whose ticket it is, and who waits for it.
pub enum Context {
    Rows {
        table: Arc<Table>,
        epoch: u64,
        memory: Reservation,
        answer: Answer,
        writer: bool,
        /// Of a primary-key table.
        keyed: Option<KeyedTicket>,
        reply: Reply<Answer>,
    },
    /// Rows of one bucket that are durable already, moved up so that old journal files can go.
    Carried { table: Arc<Table>, epoch: u64 },
    Edit {
        edit: Box<Edit>,
        /// Of an edit that adds one: opened and verified beforehand, where an error concerns nobody else.
        segment: Option<Arc<Segment>>,
        turn: Option<Turn>,
        reply: Reply<()>,
    },
}

/// Held until an edit is applied: a caller that is cancelled meanwhile must not let the next one in before.
pub struct Turn {
    /// DDL is checked and written one at a time.
    pub _ddl: OwnedMutexGuard<()>,
    /// Of a primary-key table that is altered: a request is derived in the newest columns.
    pub _deriver: Option<OwnedMutexGuard<Deriver>>,
    /// Of a table that is altered: rows of which version it refuses if nothing comes of it.
    pub refused_before: Option<(Arc<Table>, SchemaId)>,
    /// Of a table whose rows are taken away: void, like rows, if requests before it are.
    pub epoch: Option<(Arc<Table>, u64)>,
}

/// What a ticket does to the keys of its table.
pub struct KeyedTicket {
    pub number: u64,
    pub effects: Vec<(PartitionBucket, Effects)>,
}

/// Counting what keys take is a pass over all tables.
const KEY_BYTES_AGE_MAX_US: u64 = 100_000;

#[derive(Debug)]
pub struct Core {
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub options: EngineOptions,
    pub clock: Arc<dyn Clock>,
    pub budget: Arc<MemoryBudget>,
    catalog: RwLock<Catalog>,
    publication: RwLock<Position>,
    /// Files that the next checkpoint makes superfluous.
    garbage: Mutex<Vec<PathBuf>>,
    /// Edits since the start, to know whether a checkpoint would say something new.
    edits: AtomicU64,
    /// What keys take in memory, and when that was counted.
    key_bytes: Mutex<(Option<i64>, u64)>,
    /// Set once, when the journal cannot go on.
    failure: watch::Sender<Option<String>>,
    /// The data directory is ours as long as anything works on it.
    _lock: Box<dyn Any + Send + Sync>,
}

impl Core {
    pub fn new(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: EngineOptions,
        clock: Arc<dyn Clock>,
        checkpoint: &Checkpoint,
        lock: Box<dyn Any + Send + Sync>,
    ) -> Result<Core> {
        Ok(Core {
            disk,
            directory: directory.to_owned(),
            budget: MemoryBudget::new(options.memory_bytes_max),
            options,
            clock,
            catalog: RwLock::new(Catalog::new(checkpoint.databases.iter().cloned(), checkpoint.next_table_id)?),
            publication: RwLock::new(Position(0)),
            garbage: Mutex::new(Vec::new()),
            edits: AtomicU64::new(0),
            key_bytes: Mutex::default(),
            failure: watch::Sender::new(None),
            _lock: lock,
        })
    }

    pub fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn garbage(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn edits(&self) -> u64 {
        self.edits.load(Ordering::Acquire)
    }

    /// Bytes that all key indexes and endings take, as of a moment ago.
    pub fn key_bytes(&self) -> u64 {
        let now = self.clock.now_micros();
        let mut known = self.key_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0.is_none_or(|then| now.abs_diff(then) > KEY_BYTES_AGE_MAX_US) {
            let catalog = self.catalog();
            let figures = catalog.by_id.values().filter_map(|table| table.key_figures());
            *known = (Some(now), figures.map(|figures| figures.index_bytes + figures.endings_bytes).sum());
        }
        known.1
    }

    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.subscribe()
    }

    /// The published ends of these tables at one journal position.
    pub fn cut<'a>(&self, tables: impl IntoIterator<Item = &'a Arc<Table>>) -> Vec<Arc<TableEnds>> {
        let apart = faults::planted(Defect::CutTableByTable);
        let _still = (!apart).then(|| self.publication.read().unwrap_or_else(PoisonError::into_inner));
        let pause = |_: &&Arc<Table>| faults::linger(Defect::CutTableByTable);
        tables.into_iter().inspect(pause).map(|table| table.ends()).collect()
    }

    pub fn segment_directory(&self) -> PathBuf {
        self.directory.join("segments")
    }

    pub fn index_directory(&self) -> PathBuf {
        self.directory.join("keys")
    }

    /// Makes the change of an edit that was stamped so; live and at recovery.
    pub fn apply(&self, edit: Edit, stamp: i64, opened: Option<Arc<Segment>>) -> Result<()> {
        self.edits.fetch_add(1, Ordering::AcqRel);
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        match edit {
            Edit::CreateDatabase { name } => {
                catalog.databases.insert(name);
            }
            Edit::DropDatabase { name } => {
                catalog.databases.remove(&name);
            }
            Edit::CreateTable { table, unfinished } => {
                let is_named = catalog.tables.contains_key(&table.name) && !unfinished;
                if catalog.by_id.contains_key(&table.id) || is_named {
                    return Err(Error::corrupt(format!("table {} is made a second time", table.name)));
                }
                let table = Arc::new(Table::new(table, |_| Default::default())?);
                match unfinished && !faults::planted(Defect::UnfinishedShown) {
                    true => catalog.add_unfinished(table),
                    false => catalog.add(table),
                }
            }
            Edit::FinishTable { table } => {
                let unknown = || Error::corrupt(format!("table {table} is finished and not there"));
                let before = catalog.by_id.get(&table).cloned().ok_or_else(unknown)?;
                // Before now nobody could see a row of it.
                let created_ms = stamp.saturating_add(999) / 1000;
                let finished = TableDescriptor { created_ms, ..(**before.descriptor()).clone() };
                before.mark_dropped(false);
                catalog.dropped.remove(&table);
                catalog.add(Arc::new(before.altered(finished)));
            }
            Edit::AlterTable { mut table } => {
                let unknown = || Error::corrupt(format!("table {} is altered and not there", table.name));
                let before = catalog.by_id.get(&table.id).ok_or_else(unknown)?;
                if before.descriptor().schema.id != table.schema.id {
                    // Rows at or after this moment may have these columns, none before it has.
                    table.schema.since = stamp;
                }
                table.partitions.clone_from(&before.descriptor().partitions);
                let altered = before.altered(table);
                catalog.add(Arc::new(altered));
            }
            Edit::AddPartitions { table, partitions } => {
                let unknown = || Error::corrupt(format!("table {table} gets partitions and is not there"));
                let grown = catalog.by_id.get(&table).ok_or_else(unknown)?.with_partitions(&partitions)?;
                catalog.add(Arc::new(grown));
            }
            Edit::DropTable { table, until: Some(until) } => {
                // What was set aside of its rows goes with it.
                let both = [catalog.by_id.get(&table).cloned(), catalog.rejected_of(table)];
                for table in both.into_iter().flatten() {
                    table.mark_dropped(true);
                    catalog.hide(&table, until);
                }
            }
            Edit::DropTable { table, until: None } => {
                if let Some(table) = catalog.remove(table) {
                    table.mark_dropped(true);
                    let segments = table.buckets().flat_map(|(_, log)| log.segments());
                    self.garbage().extend(segments.map(|segment| self.segment_directory().join(&segment.info.file)));
                    let indexes = table.index_snapshots().into_iter();
                    self.garbage().extend(indexes.map(|index| self.index_directory().join(index.file)));
                }
            }
            Edit::UndropTable { table } => {
                let both = [catalog.by_id.get(&table).cloned(), catalog.rejected_of(table)];
                for table in both.into_iter().flatten() {
                    if catalog.dropped.remove(&table.descriptor().id).is_some() {
                        table.mark_dropped(false);
                        catalog.add(table);
                    }
                }
            }
            Edit::AddSegment { table, segment } => match catalog.by_id.get(&table) {
                Some(table) => self.add_segment(table, segment, opened)?,
                None => self.garbage().push(self.segment_directory().join(&segment.file)),
            },
            Edit::RaiseStarts { table, starts } => {
                if let Some(table) = catalog.by_id.get(&table) {
                    self.raise_starts(table, starts, stamp)?;
                }
            }
            Edit::Trim { table, floors, indexes } => {
                let Some(table) = catalog.by_id.get(&table) else {
                    self.garbage().extend(indexes.iter().map(|index| self.index_directory().join(&index.file)));
                    return Ok(());
                };
                for index in indexes {
                    let before = table.keys()?.set_snapshot(index)?;
                    self.garbage().extend(before.map(|before| self.index_directory().join(before.file)));
                }
                for (bucket, floor) in floors {
                    self.trim(table, bucket, floor)?;
                }
            }
        }
        Ok(())
    }

    fn trim(&self, table: &Table, bucket: PartitionBucket, floor: Offset) -> Result<()> {
        let gone = table.bucket(bucket)?.trim(floor)?;
        self.garbage().extend(gone.iter().map(|segment| self.segment_directory().join(&segment.info.file)));
        Ok(())
    }

    /// At one moment for all readers; those that hold rows keep them.
    fn raise_starts(&self, table: &Table, starts: Vec<(PartitionBucket, Offset)>, stamp: i64) -> Result<()> {
        let mut raised = (*table.ends().starts).clone();
        starts.iter().for_each(|(bucket, start)| raised.raise(*bucket, *start));
        let rows = table.buckets().map(|(_, log)| log.end().0).sum();
        {
            let _still = self.publication.write().unwrap_or_else(PoisonError::into_inner);
            table.set_starts(raised.raised_last(Some(Raised { at: stamp, rows })));
        }
        starts.into_iter().try_for_each(|(bucket, start)| self.trim(table, bucket, start))
    }

    fn add_segment(&self, table: &Table, info: SegmentInfo, opened: Option<Arc<Segment>>) -> Result<()> {
        let log = table.bucket(info.bucket)?;
        if info.end() <= log.covered() {
            // Trimmed while it was being written.
            self.garbage().push(self.segment_directory().join(&info.file));
            return Ok(());
        }
        let segment = match opened {
            Some(segment) => segment,
            None => match self.open_segment(table, info.clone()) {
                // Met at recovery only. The other buckets are served all the same.
                Err(error) if error.code() == Code::Corrupt => {
                    let (schema, reason) = (table.log_schema_of(info.schema)?, error.to_string().into());
                    Arc::new(Segment::damaged(&self.segment_directory(), info, schema, reason))
                }
                opened => opened?,
            },
        };
        log.add_segment(segment)
    }

    pub fn open_segment(&self, table: &Table, info: SegmentInfo) -> Result<Arc<Segment>> {
        let schema = table.log_schema_of(info.schema)?;
        Segment::open(&*self.disk, &self.segment_directory(), info, schema).map(Arc::new)
    }

    /// All that is known, for the journal's thread to call between two groups.
    pub fn checkpoint(&self, position: Position) -> Checkpoint {
        let catalog = self.catalog();
        let now = self.clock.now_micros();
        let tables = catalog.by_id.values().map(|table| TableState {
            table: (**table.descriptor()).clone(),
            dropped_until: match faults::planted(Defect::DropForgotten) {
                true => None,
                false => catalog.dropped.get(&table.descriptor().id).copied(),
            },
            buckets: table
                .buckets()
                .map(|(bucket, log)| BucketState {
                    bucket,
                    log_start: match faults::planted(Defect::StartsForgotten) {
                        true => Offset::ZERO,
                        false => table.ends().start(bucket),
                    },
                    trim_floor: log.trim_floor(),
                    segments: log.segments().iter().map(|segment| segment.info.clone()).collect(),
                    replay_from: log.replay_from(),
                    index: table.index_snapshot(bucket),
                })
                .collect(),
            starts_raised: table.ends().starts.raised(),
            writers: match faults::planted(Defect::WritersForgotten) {
                true => Vec::new(),
                false => table.owner().writers.states(now),
            },
        });
        let mut tables: Vec<_> = tables.collect();
        tables.sort_by_key(|state| state.table.id);
        Checkpoint {
            position,
            databases: catalog.databases.iter().cloned().collect(),
            next_table_id: catalog.next_table_id,
            tables,
        }
    }

    /// Puts a checkpoint's tables back, with the rows of their segments.
    pub fn restore(&self, checkpoint: Checkpoint) -> Result<()> {
        for state in checkpoint.tables {
            let floors: BTreeMap<_, _> =
                state.buckets.iter().map(|bucket| (bucket.bucket, bucket.trim_floor)).collect();
            let table = Table::new(state.table, |bucket| floors.get(&bucket).copied().unwrap_or_default())?;
            let starts = state.buckets.iter().map(|bucket| (bucket.bucket, bucket.log_start));
            table.set_starts(LogStarts::at(starts).raised_last(state.starts_raised));
            for bucket in state.buckets {
                for segment in bucket.segments {
                    self.add_segment(&table, segment, None)?;
                }
                if let Some(index) = bucket.index {
                    table.keys()?.set_snapshot(index)?;
                }
            }
            table.owner().writers.restore(state.writers);
            let table = Arc::new(table);
            let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
            match state.dropped_until {
                None => catalog.add(table),
                Some(until) => {
                    table.mark_dropped(true);
                    catalog.hide(&table, until);
                }
            }
        }
        Ok(())
    }

    /// What became of unfinished tables at the end of the process that was at it: nothing.
    pub fn abandon_unfinished(&self) {
        if faults::planted(Defect::UnfinishedKept) {
            return;
        }
        let catalog = self.catalog();
        catalog.dropped.keys().filter_map(|id| catalog.by_id.get(id)).for_each(|table| table.mark_dropped(true));
    }

    pub fn table_by_id(&self, id: TableId) -> Option<Arc<Table>> {
        self.catalog().by_id.get(&id).cloned()
    }

    /// A part as rows in memory; what is served is decoded from what was written.
    pub fn chunk(&self, table: &Table, part: &Part, appended: &Appended, memory: Reservation) -> Result<Chunk> {
        let batch = decode_batch(&table.log_schema_of(part.schema)?, &part.payload)?;
        let stamps = Stamps::one(batch.num_rows(), appended.stamp);
        Ok(Chunk::new(part.base, part.schema, batch, stamps, appended.position, memory))
    }

    /// Puts a frame's rows where readers find them once the ends are shown; with a key, the rows before what ends others.
    fn publish_rows(
        &self,
        table: &Arc<Table>,
        draft: &Draft,
        appended: &Appended,
        mut memory: Reservation,
        keyed: Option<KeyedTicket>,
    ) -> Result<()> {
        for part in &draft.parts {
            let memory = memory.split(part.payload.len() as u64);
            let (log, chunk) = (table.bucket(part.target)?, self.chunk(table, part, appended, memory)?);
            let rows = keyed.is_some().then(|| chunk.batch.clone());
            log.push(chunk, &self.budget)?;
            if let (Some(rows), Some(endings)) = (rows, log.endings()) {
                if faults::planted(Defect::EndingsBehindEnds) {
                    let (table, target, base) = (table.clone(), part.target, part.base);
                    let endings =
                        move |log: &BucketLog| log.endings().map(|endings| end_versions(endings, base, &rows));
                    faults::late(move || drop(table.bucket(target).map(endings)));
                    continue;
                }
                end_versions(endings, part.base, &rows)?;
            }
        }
        match keyed {
            Some(keyed) if faults::planted(Defect::IndexBehindEnds) => {
                let table = table.clone();
                faults::late(move || drop(table.apply_keys(keyed)));
                Ok(())
            }
            keyed => keyed.map_or(Ok(()), |keyed| table.apply_keys(keyed)),
        }
    }

    pub fn show(&self, tables: &BTreeMap<TableId, (Arc<Table>, TableEnds)>, end: Position) {
        let mut published = self.publication.write().unwrap_or_else(PoisonError::into_inner);
        for (table, ends) in tables.values() {
            table.set_ends(ends.clone());
        }
        *published = end;
        drop(published);
        for (table, _) in tables.values() {
            table.ring(end);
        }
    }

    /// The process must end.
    pub fn fatal(&self, error: &Error) {
        tracing::error!(%error, "the journal cannot go on");
        self.failure.send_replace(Some(error.to_string()));
    }
}

/// The [`Publisher`] on the journal's thread.
pub struct CorePublisher(pub Arc<Core>);

impl Publisher<Context> for CorePublisher {
    fn is_current(&mut self, ticket: &Ticket<Context>) -> bool {
        match &ticket.context {
            Context::Rows { table, epoch, .. } | Context::Carried { table, epoch } => {
                let current = table.owner().epoch() == *epoch || faults::planted(Defect::StaleTicketWritten);
                // What a dropped table has is still kept, and moved up with the rest.
                let is_new = matches!(ticket.context, Context::Rows { .. });
                current && !(is_new && table.is_dropped())
            }
            Context::Edit { turn: Some(Turn { epoch: Some((table, epoch)), .. }), .. } => {
                table.owner().epoch() == *epoch
            }
            Context::Edit { .. } => true,
        }
    }

    fn publish(&mut self, group: Vec<(Ticket<Context>, Appended)>, end: Position) {
        faults::linger(Defect::MomentNotSettled);
        let mut touched: BTreeMap<TableId, (Arc<Table>, TableEnds)> = BTreeMap::new();
        let mut answers = Vec::with_capacity(group.len());
        let mut edits = Vec::new();
        let mut settled = Vec::new();
        for (ticket, appended) in group {
            match ticket.context {
                Context::Rows { table, memory, answer, writer, keyed, reply, .. } => {
                    if let Err(error) = self.0.publish_rows(&table, &ticket.draft, &appended, memory, keyed) {
                        // Durable but not servable: only a restart, which replays the journal, can tell what is right.
                        self.0.fatal(&error);
                        let _ = reply.send(Err(error));
                        continue;
                    }
                    if writer {
                        settled.push((table.clone(), appended.stamp));
                    }
                    let id = table.descriptor().id;
                    let (table, ends) = touched.entry(id).or_insert_with(|| {
                        let ends = (*table.ends()).clone();
                        (table, ends)
                    });
                    ends.position = end;
                    ends.stamp = appended.stamp;
                    ends.ends.extend(ticket.draft.parts.iter().map(|part| (part.target, part.end())));
                    let name = table.descriptor().name.to_string();
                    let bytes = ticket.draft.parts.iter().map(|part| part.payload.len() as u64).sum();
                    metrics::counter!(metric_names::APPENDED_ROWS.name, "table" => name.clone()).increment(answer.rows);
                    metrics::counter!(metric_names::APPENDED_BYTES.name, "table" => name.clone()).increment(bytes);
                    metrics::counter!(metric_names::APPENDED_REQUESTS.name, "table" => name).increment(1);
                    answers.push((reply, answer));
                }
                Context::Carried { table, .. } => {
                    for part in &ticket.draft.parts {
                        if let Ok(log) = table.bucket(part.target) {
                            log.carried(part.end(), appended.position);
                        }
                    }
                    faults::reached(CrashPoint::Carried);
                }
                Context::Edit { edit, segment, turn, reply } => {
                    // In order with the rows around it: what came before is shown before.
                    self.0.show(&touched, end);
                    touched.clear();
                    let point = match *edit {
                        Edit::AddSegment { .. } => CrashPoint::SegmentAdded,
                        Edit::Trim { .. } => CrashPoint::Trimmed,
                        _ => CrashPoint::CatalogChanged,
                    };
                    let done = self.0.apply(*edit, appended.stamp, segment);
                    drop(turn);
                    faults::reached(point);
                    if let Err(error) = &done {
                        self.0.fatal(error);
                    }
                    edits.push((reply, done));
                }
            }
        }
        self.0.show(&touched, end);
        faults::reached(CrashPoint::Published);
        // Repeats are answered like the first: when the rows can be seen.
        for (table, stamp) in settled {
            table.owner().writers.settle(stamp);
        }
        // A client that went away does not hear its answer; its rows are there all the same.
        for (reply, answer) in answers {
            let _ = reply.send(Ok(answer));
        }
        for (reply, done) in edits {
            let _ = reply.send(done);
        }
    }

    fn abort(&mut self, tickets: Vec<Ticket<Context>>, error: &Error) {
        let again = || {
            let copy = Error::new(error.code(), error.to_string());
            match error.hint() {
                Some(hint) => copy.with_hint(hint),
                None => copy,
            }
        };
        for ticket in tickets {
            match ticket.context {
                Context::Rows { table, epoch, reply, .. } => {
                    let dropped = table.is_dropped();
                    if table.owner().epoch() == epoch {
                        table.abort(again);
                    }
                    let name = &table.descriptor().name;
                    let gone = || Error::new(Code::TableDropped, format!("table {name} was dropped"));
                    let _ = reply.send(Err(if dropped { gone() } else { again() }));
                }
                Context::Carried { .. } => {}
                Context::Edit { turn, reply, .. } => {
                    if let Some((table, version)) = turn.and_then(|turn| turn.refused_before) {
                        table.owner().refuse_before(version);
                    }
                    let _ = reply.send(Err(again()));
                }
            }
        }
    }

    fn fail(&mut self, error: &Error) {
        self.0.fatal(error);
    }
}
