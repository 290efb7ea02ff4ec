//! From what a crash left to a running state: checkpoint, then the frames after it.
//!
//! In order: the checkpoint's tables with their segments; every frame from its journal floor on. An edit below the
//! checkpoint's position is in it already. Rows of a bucket are skipped below its end (they are in a segment, or trimmed)
//! and refused past it (something is missing). From the checkpoint's position on, a data frame must start exactly at its
//! bucket's end. Files that nothing names are left-overs of a crash and go.
//!
//! Rot refuses buckets, not the start. What a damaged segment or a bad part of a frame held is known: it keeps its place in
//! its bucket (see `bucket/log.rs`). Of a frame whose header is bad nobody knows whose rows it had, so every bucket is in
//! doubt whose rows of that time the checkpoint does not have elsewhere. The bucket's next rows end the doubt: they start
//! where its rows end, or else what is missing is exactly what lies between. A frame that may have been an edit is not
//! stepped over: then the start is refused.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thermocline_schemas::{Error, PartitionBucket, Result, TableId};

use crate::bucket::{Chunk, Stamps};
use crate::checkpoint_format::Checkpoint;
use crate::core::Core;
use crate::edit::Edit;
use crate::engine::io_error;
use crate::faults::{self, Defect};
use crate::ipc::decode_batch;
use crate::journal::{Frame, FrameKind, Gap, LocalJournal, Part, Position, Recovered, Span};
use crate::source_format::Source;
use crate::table::{Table, answer};
use crate::writers::Kept;

pub const CHECKPOINT_FILE: &str = "checkpoint";

/// The newest checkpoint, or that of an engine that never ran.
pub fn read_checkpoint(core_disk: &dyn crate::disk::Disk, directory: &Path) -> Result<Checkpoint> {
    let path = directory.join(CHECKPOINT_FILE);
    match core_disk.map(&path) {
        Ok(bytes) => Checkpoint::decode(&bytes).map_err(|error| error.while_doing(path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Checkpoint::default()),
        Err(error) => Err(io_error("read", &path, error)),
    }
}

pub fn write_checkpoint(core: &Core, checkpoint: &Checkpoint) -> Result<()> {
    let path = core.directory.join(CHECKPOINT_FILE);
    crate::disk::write_durably(&*core.disk, &path, &checkpoint.encode()?)
        .map_err(|error| io_error("write", &path, error))
}

/// Brings `core` to the state of the last durable frame.
pub fn recover(core: &Arc<Core>, checkpoint: Checkpoint) -> Result<LocalJournal> {
    let (floor, durable) = (checkpoint.journal_floor(), checkpoint.position);
    let replay_from = checkpoint.tables.iter().flat_map(|state| {
        let id = state.table.id;
        state.buckets.iter().filter_map(move |bucket| Some(((id, bucket.bucket), bucket.replay_from?)))
    });
    let replay_from = replay_from.collect();
    let mut replay = Replay { core, position: checkpoint.position, replay_from, doubts: HashMap::new(), stamp: 0 };
    core.restore(checkpoint)?;
    let journal = LocalJournal::recover(
        core.disk.clone(),
        &core.directory.join("journal"),
        core.options.durability,
        core.options.journal_file_bytes,
        Span { from: floor, durable },
        &mut |found| match found {
            Recovered::Frame(frame) => {
                let position = frame.place.position;
                replay.frame(frame).map_err(|error| error.while_doing(format!("journal position {position}")))
            }
            Recovered::Gap(gap) => replay.gap(gap),
        },
    )?;
    replay.keep_doubts()?;
    let (end, stamp) = (crate::journal::Loglet::tail(&journal), replay.stamp);
    let catalog = core.catalog();
    for table in catalog.by_id.values() {
        table.settle(end, stamp, &|index| index.read(&*core.disk, &core.index_directory(), table.descriptor().id))?;
    }
    sweep(core, catalog.by_id.values())?;
    Ok(journal)
}

struct Replay<'a> {
    core: &'a Arc<Core>,
    /// The checkpoint's.
    position: Position,
    replay_from: HashMap<Key, Position>,
    /// Which buckets may miss rows past their end, since where in the journal, and why.
    doubts: HashMap<Key, (Position, Arc<str>)>,
    stamp: i64,
}

type Key = (TableId, PartitionBucket);

impl Replay<'_> {
    fn frame(&mut self, frame: Frame) -> Result<()> {
        self.stamp = self.stamp.max(frame.place.stamp);
        match frame.draft.kind {
            FrameKind::Edit if frame.place.position >= self.position || faults::planted(Defect::EditsTwice) => {
                self.core.apply(Edit::decode(&frame.draft.extra)?, frame.place.stamp, None)
            }
            FrameKind::Edit | FrameKind::Mark | FrameKind::Seal => Ok(()),
            FrameKind::Data | FrameKind::Carried => {
                // A table that is gone was dropped: its rows are nobody's.
                let Some(table) = self.core.table_by_id(frame.draft.table) else { return Ok(()) };
                self.rows(&table, frame)
            }
        }
    }

    /// No frame can be read in a part of the journal that was durable.
    fn gap(&mut self, gap: Gap) -> Result<()> {
        let catalog = self.core.catalog();
        let in_checkpoint = gap.to <= self.position;
        // Kind and table both: one flipped bit does not make an edit, which is of no table, look like rows of one.
        let rows = gap.claim.is_some_and(|(kind, table)| {
            matches!(kind, FrameKind::Data | FrameKind::Carried) && catalog.by_id.contains_key(&table)
        });
        if !in_checkpoint && !rows {
            return Err(Error::corrupt(format!(
                "{}: tables may have been made, dropped or changed there, so nothing is started",
                gap.reason
            ))
            .with_hint("restore the file from a copy"));
        }
        let reason: Arc<str> = gap.reason.into();
        for table in catalog.by_id.values() {
            for (bucket, _) in table.buckets() {
                let key = (table.descriptor().id, bucket);
                let elsewhere = in_checkpoint && self.replay_from.get(&key).is_none_or(|from| *from >= gap.to);
                if !elsewhere {
                    self.doubts.entry(key).or_insert_with(|| (gap.from, reason.clone()));
                }
            }
        }
        Ok(())
    }

    /// At the end: what may be missing at the end of these buckets, nobody knows.
    fn keep_doubts(&mut self) -> Result<()> {
        for ((table, bucket), (position, reason)) in self.doubts.drain() {
            let Some(table) = self.core.table_by_id(table) else { continue };
            let log = table.bucket(bucket)?;
            let (end, memory) = (log.end(), self.core.budget.force(0));
            log.push(Chunk::damaged(end, end, position, reason, memory)?, &self.core.budget)?;
        }
        Ok(())
    }

    fn rows(&mut self, table: &Table, frame: Frame) -> Result<()> {
        let (position, stamp) = (frame.place.position, frame.place.stamp);
        let carried = frame.draft.kind == FrameKind::Carried;
        let carried_stamps: Vec<Stamps> = if carried { carried_stamps(&frame.draft.extra)? } else { Vec::new() };
        for (index, part) in frame.draft.parts.iter().enumerate() {
            if self.replay_from.get(&(table.descriptor().id, part.target)).is_some_and(|from| position < *from) {
                continue;
            }
            let stamps = match carried_stamps.get(index) {
                Some(stamps) => stamps.clone(),
                None => Stamps::one(part.rows as usize, stamp),
            };
            let exact = !carried && position >= self.position;
            let payload = match frame.damage.get(&index) {
                Some(wrong) => Err(Arc::from(wrong.as_str())),
                None => Ok(stamps),
            };
            self.part(table, part, payload, position, exact)?;
        }
        if carried || position < self.position {
            return Ok(());
        }
        let source = Source::decode(&frame.draft.extra)?;
        if let Some((from, digest)) = source.writer {
            let answer = crate::writers::Answer {
                rows: source.rows,
                ignored: source.ignored,
                rejected: source.rejected,
                ..answer(&frame.draft.parts)
            };
            table.owner().writers.keep(&from.writer, Kept { sequence: from.sequence, digest, answer }, stamp);
        }
        Ok(())
    }

    /// The rows of one bucket in a frame; their stamps, or why they cannot be read.
    fn part(
        &mut self,
        table: &Table,
        part: &Part,
        payload: Result<Stamps, Arc<str>>,
        position: Position,
        exact: bool,
    ) -> Result<()> {
        let log = table.bucket(part.target)?;
        if let Some((since, reason)) = self.doubts.remove(&(table.descriptor().id, part.target))
            && part.base > log.end()
        {
            let missing = Chunk::damaged(log.end(), part.base, since, reason, self.core.budget.force(0))?;
            log.push(missing, &self.core.budget)?;
        }
        let end = log.end();
        let named = || format!("table {} bucket {}", table.descriptor().name, part.target);
        if part.base > end || (exact && part.base != end) {
            return Err(Error::corrupt(format!("{}: rows from offset {} where {end} comes next", named(), part.base)));
        }
        let carried_anew = position >= self.position && !exact && faults::planted(Defect::CarriedTakenAsNew);
        if part.end() <= end && !carried_anew {
            return Ok(());
        }
        let stamps = match payload {
            Ok(stamps) => stamps,
            Err(reason) => {
                let memory = self.core.budget.force(0);
                let damaged = Chunk::damaged(end, part.end(), position, reason, memory)?;
                return log.push(damaged, &self.core.budget);
            }
        };
        let schema = table.log_schema_of(part.schema)?;
        let batch = decode_batch(&schema, &part.payload).map_err(|error| error.while_doing(named()))?;
        let known = if carried_anew { 0 } else { end.since(part.base) as usize };
        let left = batch.num_rows() - known;
        let memory = self.core.budget.force(part.payload.len() as u64);
        let chunk = Chunk::new(end, part.schema, batch.slice(known, left), stamps.slice(known, left), position, memory);
        log.push(chunk, &self.core.budget)
    }
}

/// The extra of a carried frame: the stamps of each part, as JSON.
pub fn carried_extra(stamps: &[Stamps]) -> Vec<u8> {
    // Runs of two integers cannot fail to be JSON.
    serde_json::to_vec(stamps).unwrap_or_default()
}

fn carried_stamps(extra: &[u8]) -> Result<Vec<Stamps>> {
    serde_json::from_slice(extra)
        .map_err(|error| Error::corrupt("a carried frame whose stamps do not parse").with_source(error))
}

/// Removes segments and index snapshots that no table names.
fn sweep<'a>(core: &Core, tables: impl Iterator<Item = &'a Arc<Table>> + Clone) -> Result<()> {
    let segments =
        tables.clone().flat_map(|table| table.buckets().flat_map(|(_, log)| log.segments()).collect::<Vec<_>>());
    sweep_directory(core, core.segment_directory(), segments.map(|segment| segment.info.file.clone()).collect())?;
    let indexes = tables.flat_map(|table| table.index_snapshots());
    sweep_directory(core, core.index_directory(), indexes.map(|index| index.file).collect())
}

fn sweep_directory(core: &Core, directory: PathBuf, known: HashSet<String>) -> Result<()> {
    // What the last checkpoint still names must stay until the next one.
    let pending: HashSet<_> = core.garbage().iter().cloned().collect();
    let entries = match core.disk.list(&directory) {
        // A directory of an earlier version that is only looked at.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| io_error("list", &directory, error))?,
    };
    for entry in entries {
        let path = directory.join(&entry.name);
        if !entry.is_directory && !known.contains(&entry.name) && !pending.contains(&path) {
            tracing::info!(file = entry.name, "removed a file that nothing names");
            core.disk.remove(&path).map_err(|error| io_error("remove", &path, error))?;
        }
    }
    Ok(())
}
