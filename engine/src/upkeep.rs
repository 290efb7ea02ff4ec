//! What keeps the hot tier small: tails become segments, checkpoints let journal files go.
//!
//! One thread, one pass at a time. A pass seals full tails; when memory runs short, the largest; when the journal grows
//! past half its bound, those that hold its oldest file. Small left-overs of idle buckets are carried: written once more
//! at the journal's end, so they cost bytes and not a file. Then it writes a checkpoint if that would let something go.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use thermocline_schemas::{Code, Error, PartitionBucket, Result};
use tokio::sync::oneshot;

use crate::backup::{HotState, Known};
use crate::bucket::{Segment, Stamps, write_segment};
use crate::checkpoint_format::Checkpoint;
use crate::core::{Context, Core};
use crate::edit::Edit;
use crate::engine::io_error;
use crate::faults::{self, CrashPoint, Defect};
use crate::ipc::{concat, encode_batch};
use crate::journal::{Draft, FrameKind, Journal, Part, Position, Ticket};
use crate::recovery::{carried_extra, write_checkpoint};
use crate::table::Table;

const PASS_INTERVAL: Duration = Duration::from_millis(100);
/// A tail below this is carried, not sealed, when it holds an old journal file.
const CARRY_BYTES_MAX: u64 = 256 << 10;

/// The upkeep of one engine.
pub struct Upkeep {
    core: Arc<Core>,
    journal: Arc<Journal<Context>>,
    /// One pass at a time, whoever asks; holds the number of edits at the last checkpoint.
    pass: Mutex<u64>,
    stop: Mutex<bool>,
    stopped: Condvar,
}

/// How the journal stands.
#[derive(Clone, Copy, Debug)]
struct JournalState {
    head: Position,
    tail: Position,
}

impl Upkeep {
    pub fn new(core: Arc<Core>, journal: Arc<Journal<Context>>) -> Arc<Upkeep> {
        Arc::new(Upkeep { core, journal, pass: Mutex::new(0), stop: Mutex::new(false), stopped: Condvar::new() })
    }

    /// Passes at intervals, on a thread of its own, until [`Self::stop`].
    pub fn start(self: &Arc<Self>) -> JoinHandle<()> {
        let upkeep = self.clone();
        let run = move || {
            let mut stop = upkeep.stop.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stop {
                drop(stop);
                if let Err(error) = upkeep.pass() {
                    tracing::warn!(%error, "upkeep pass failed; it will be tried again");
                }
                stop = upkeep.stop.lock().unwrap_or_else(PoisonError::into_inner);
                if !*stop {
                    stop = upkeep.stopped.wait_timeout(stop, PASS_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        };
        std::thread::Builder::new().name("upkeep".to_owned()).spawn(run).expect("the system gives a thread at start")
    }

    pub fn stop(&self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stopped.notify_all();
    }

    /// One pass over all tables.
    pub fn pass(&self) -> Result<()> {
        let mut last_edits = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let options = &self.core.options;
        let mut tails = self.tails();
        tails.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        // What readers hold is not freed by sealing; who waits for room is helped by nothing else.
        let held: u64 = tails.iter().map(|(_, _, bytes)| bytes).sum();
        let wanted = self.core.budget.wanted();
        let mut excess = held.saturating_sub(options.memory_bytes_max / 2).max(wanted.min(held));
        let mut failed = Ok(());
        for (table, bucket, bytes) in tails {
            if bytes >= options.segment_bytes || excess > 0 {
                // One that cannot be sealed must not keep the others in memory, or the journal on disk.
                failed = failed.and(self.seal(&table, bucket));
                excess = excess.saturating_sub(bytes);
            }
        }
        let state = self.journal_state()?;
        if state.tail.0 - state.head.0 > options.journal_bytes_max / 2 {
            self.free_oldest(state)?;
        }
        let news = self.core.edits() != *last_edits;
        if news && !self.core.garbage().is_empty() || self.would_free(state) {
            *last_edits = self.core.edits();
            self.checkpoint()?;
        }
        failed
    }

    /// Seals the tail of every bucket of a table.
    pub fn seal_table(&self, table: &Arc<Table>) -> Result<()> {
        let _one = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets: Vec<_> = table.buckets().map(|(bucket, _)| bucket).collect();
        buckets.into_iter().try_for_each(|bucket| self.seal(table, bucket))
    }

    /// Carries the tail of every bucket of a table; answers whether all could be.
    pub fn carry_table(&self, table: &Arc<Table>) -> Result<bool> {
        let _one = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets: Vec<_> = table.buckets().map(|(bucket, _)| bucket).collect();
        let mut all = true;
        for bucket in buckets {
            all &= self.carry(table, bucket)?;
        }
        Ok(all)
    }

    /// Writes a checkpoint now.
    pub fn checkpoint_now(&self) -> Result<()> {
        let mut last_edits = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        *last_edits = self.core.edits();
        self.checkpoint()
    }

    /// What is hot now, with its files; see `backup`.
    pub fn hot_state(&self) -> Result<HotState> {
        // No pass removes a file before it has its second name.
        let _one = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let core = self.core.clone();
        let known = self.between(move |loglet| {
            loglet.sync()?;
            Ok::<_, Error>(Known::at(&core, loglet.tail()))
        })??;
        known.held(&self.core)
    }

    /// Bytes of journal files that are kept.
    pub fn journal_bytes(&self) -> Result<u64> {
        self.journal_state().map(|state| state.tail.0 - state.head.0)
    }

    fn tails(&self) -> Vec<(Arc<Table>, PartitionBucket, u64)> {
        let catalog = self.core.catalog();
        let tables = catalog.by_id.values();
        tables
            .flat_map(|table| {
                table.buckets().map(|(bucket, log)| (table.clone(), bucket, log.tail_bytes())).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Turns what is published of a tail into a segment.
    fn seal(&self, table: &Arc<Table>, bucket: PartitionBucket) -> Result<()> {
        let log = table.bucket(bucket)?;
        let chunks = log.tail_up_to(table.ends().end(bucket));
        // A segment has one schema; what is of a later one waits for the next pass.
        let alike = chunks.iter().take_while(|chunk| chunk.schema == chunks[0].schema).count();
        let chunks = &chunks[..alike];
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(()) };
        let id = table.descriptor().id;
        let file = format!("{id}-{}-{}-{}-{}.arrow", bucket.partition, bucket.bucket, first.base, last.end());
        let directory = self.core.segment_directory();
        let path = directory.join(&file);
        match self.core.disk.remove(&path) {
            // Of a pass that failed halfway.
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("remove", &path, error)),
        }
        let added = write_segment(&*self.core.disk, &directory, &file, id, bucket, chunks).and_then(|segment| {
            faults::reached(CrashPoint::SegmentWritten);
            // Its rows may be of a later version than the table was when this pass began.
            let newest = self.core.table_by_id(id);
            let opened = self.core.open_segment(newest.as_ref().unwrap_or(table), segment.clone())?;
            self.edit(Edit::AddSegment { table: id, segment }, opened)
        });
        if let Err(error) = &added
            && error.code() != Code::ShuttingDown
            && self.core.failure().borrow().is_none()
        {
            // The edit is not in the journal, so nothing names the file; on a full disk it must not stay. Of a journal
            // that failed nobody knows what is in it.
            let _ = self.core.disk.remove(&path);
        }
        added
    }

    /// Writes an edit and waits for it.
    fn edit(&self, edit: Edit, segment: Arc<Segment>) -> Result<()> {
        let draft = edit.draft()?;
        let (reply, done) = oneshot::channel();
        let ticket = Ticket {
            draft,
            context: Context::Edit { edit: Box::new(edit), segment: Some(segment), turn: None, reply },
        };
        self.journal.submit(ticket).map_err(|_| closed())?;
        done.blocking_recv().map_err(|_| closed())?
    }

    /// Asks the journal's thread, between two groups.
    fn between<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut dyn crate::journal::Loglet) -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let asked = self.journal.between(move |loglet| {
            // The asker waits below.
            let _ = reply.send(ask(loglet));
        });
        if !asked {
            return Err(closed());
        }
        answer.blocking_recv().map_err(|_| closed())
    }

    fn journal_state(&self) -> Result<JournalState> {
        self.between(|loglet| JournalState { head: loglet.head(), tail: loglet.tail() })
    }

    /// Moves or seals the tails that hold the older half of the journal.
    fn free_oldest(&self, state: JournalState) -> Result<()> {
        let middle = Position(state.head.0 + (state.tail.0 - state.head.0) / 2);
        for (table, bucket, bytes) in self.tails() {
            let old = table.bucket(bucket)?.replay_from().is_some_and(|position| position < middle);
            if old && !(bytes < CARRY_BYTES_MAX && self.carry(&table, bucket)?) {
                self.seal(&table, bucket)?;
            }
        }
        Ok(())
    }

    /// Writes a small tail once more at the end of the journal. Only when nothing of the bucket is in flight: frames
    /// before the carried one are not read again. Answers whether it was done.
    fn carry(&self, table: &Arc<Table>, bucket: PartitionBucket) -> Result<bool> {
        let log = table.bucket(bucket)?;
        {
            let owner = table.owner();
            let end = table.ends().end(bucket);
            let chunks = log.tail_up_to(end);
            let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(true) };
            let in_flight = owner.next(bucket) != end && !faults::planted(Defect::CarriedInFlight);
            if in_flight || last.end() != end || chunks.iter().any(|chunk| chunk.schema != first.schema) {
                return Ok(false);
            }
            let batches: Vec<_> = chunks.iter().map(|chunk| chunk.batch.clone()).collect();
            let rows = concat(&first.batch.schema(), &batches)?;
            let mut stamps = Stamps::default();
            chunks.iter().for_each(|chunk| stamps.extend(&chunk.stamps));
            let mut part = Part::new(bucket, first.schema, rows.num_rows() as u32, encode_batch(&rows)?);
            part.base = first.base;
            let draft = Draft {
                kind: FrameKind::Carried,
                table: table.descriptor().id,
                parts: vec![part],
                extra: carried_extra(&[stamps]),
            };
            let context = Context::Carried { table: table.clone(), epoch: owner.epoch() };
            // Still under the owner's lock: what it gives out next comes after this frame.
            self.journal.submit(Ticket { draft, context }).map_err(|_| closed())?;
        }
        self.journal_state()?;
        Ok(true)
    }

    /// Whether a checkpoint now would let a journal file go.
    fn would_free(&self, state: JournalState) -> bool {
        let catalog = self.core.catalog();
        let needed = catalog
            .by_id
            .values()
            .flat_map(|table| table.buckets().filter_map(|(_, log)| log.replay_from()).collect::<Vec<_>>());
        let floor = needed.fold(state.tail, Position::min);
        floor.0 - state.head.0.min(floor.0) >= self.core.options.journal_file_bytes
    }

    fn checkpoint(&self) -> Result<()> {
        let core = self.core.clone();
        let (checkpoint, garbage) = self.between(move |loglet| {
            // The checkpoint says that the journal is durable up to its position.
            loglet.sync()?;
            // Only what was superfluous at this very position may go with this checkpoint.
            Ok::<_, Error>((core.checkpoint(loglet.tail()), std::mem::take(&mut *core.garbage())))
        })??;
        let floor = Checkpoint::journal_floor(&checkpoint);
        if faults::planted(Defect::JournalGoneEarly) {
            self.between(move |loglet| loglet.trim(floor))??;
        }
        if let Err(error) = write_checkpoint(&self.core, &checkpoint) {
            self.core.garbage().extend(garbage);
            if error.code() != Code::DiskFull {
                // Which of two checkpoints the disk has is not known; a second sync might lie.
                self.core.fatal(&error);
            }
            return Err(error);
        }
        faults::reached(CrashPoint::CheckpointWritten);
        for path in garbage {
            match self.core.disk.remove(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(file = %path.display(), %error, "could not remove a segment; the next start will");
                }
                _ => {}
            }
        }
        faults::reached(CrashPoint::SegmentsRemoved);
        self.between(move |loglet| loglet.trim(floor))?
    }
}

fn closed() -> Error {
    Error::new(Code::ShuttingDown, "the journal is closed")
}
