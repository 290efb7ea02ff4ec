//! What a stopped data directory holds, read to the last byte and not changed.
//!
//! Three passes over a [`ReadOnlyDisk`]: every frame of every journal file, by the walk that recovery uses; recovery
//! itself, which says whether offsets follow each other and what a server would serve; every column of every segment and
//! every row that only the journal holds. What is wrong is gathered, not returned at the first.
//!
//! The directory's lock is held as long as the answer lives. The lock file says who has it, and is the only one touched.

use std::path::Path;
use std::sync::Arc;

use thermocline_schemas::{Error, PartitionBucket, Result};

use crate::backup::Stopped;
use crate::checkpoint_format::Checkpoint;
use crate::clock::Clock;
use crate::core::Core;
use crate::disk::Disk;
use crate::journal::{Durability, LocalJournal, Position, Recovered, Span};
use crate::recovery::{read_checkpoint, recover};
use crate::table::Table;
use crate::{EngineOptions, SystemClock};

/// What is in a data directory.
#[derive(Debug)]
pub struct Inspection {
    pub tables: Vec<Arc<Table>>,
    pub totals: InspectionTotals,
    /// What is wrong, each with file and byte, or with table, bucket and offset.
    pub damage: Vec<String>,
    /// What is odd and as it may be after a crash.
    pub notes: Vec<String>,
    /// Holds the lock.
    _core: Option<Arc<Core>>,
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InspectionTotals {
    pub journal_files: u64,
    pub segments: u64,
    pub frames: u64,
    /// Of all frames and segments: a row that is in both counts twice.
    pub rows: u64,
    pub bytes: u64,
}

impl Inspection {
    /// Reads the data directory. An error only where nothing can be read at all, or a server has it. Blocks; calls
    /// `progress` with the bytes that were read since it was called last.
    pub fn of(disk: Arc<dyn Disk>, directory: &Path, progress: &dyn Fn(u64)) -> Result<Inspection> {
        let Stopped { disk, journal_files: files, lock } = Stopped::hold(disk, directory)?;
        let journal = directory.join("journal");
        let mut found = Inspection {
            tables: Vec::new(),
            totals: InspectionTotals::default(),
            damage: Vec::new(),
            notes: Vec::new(),
            _core: None,
        };
        let checkpoint = match read_checkpoint(&*disk, directory) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                found.damage.push(told(&error));
                return Ok(found);
            }
        };
        let starts = files.iter().filter_map(|entry| entry.name.strip_suffix(".log")?.parse().ok().map(Position));
        let (from, durable) = (starts.min().unwrap_or_default(), checkpoint.position);
        found.walk(&disk, &journal, Span { from, durable }, progress);
        found.recovered(disk, directory, checkpoint, lock, progress)?;
        Ok(found)
    }

    /// Every frame of every file.
    fn walk(&mut self, disk: &Arc<dyn Disk>, journal: &Path, span: Span, progress: &dyn Fn(u64)) {
        let mut damage = Vec::new();
        let totals = &mut self.totals;
        let walked = LocalJournal::recover(disk.clone(), journal, Durability::Fsync, u64::MAX, span, &mut |found| {
            match found {
                Recovered::Frame(frame) => {
                    totals.frames += 1;
                    totals.rows += frame.draft.parts.iter().map(|part| u64::from(part.rows)).sum::<u64>();
                    totals.bytes += frame.end.0 - frame.place.position.0;
                    progress(frame.end.0 - frame.place.position.0);
                    damage.extend(frame.damage.into_values());
                }
                Recovered::Gap(gap) => {
                    progress(gap.to.0 - gap.from.0);
                    damage.push(gap.reason);
                }
            }
            Ok(())
        });
        self.damage.append(&mut damage);
        match walked {
            Ok(journal) => {
                self.totals.journal_files = journal.file_count() as u64;
                match journal.torn_bytes() {
                    Ok(0) => {}
                    Ok(bytes) => self.notes.push(format!(
                        "the last {bytes} bytes of the journal are a write that was never acked; the next start cuts them off"
                    )),
                    Err(error) => self.damage.push(told(&error)),
                }
            }
            Err(error) => self.damage.push(told(&error)),
        }
    }

    /// What a server would serve.
    fn recovered(
        &mut self,
        disk: Arc<dyn Disk>,
        directory: &Path,
        checkpoint: Checkpoint,
        lock: Box<dyn std::any::Any + Send + Sync>,
        progress: &dyn Fn(u64),
    ) -> Result<()> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let options = EngineOptions { upkeep: false, ..EngineOptions::default() };
        let core = Arc::new(Core::new(disk, directory, options, clock, &checkpoint, lock)?);
        match recover(&core, checkpoint) {
            // The walk has named it already if it was found there.
            Err(error) if self.damage.is_empty() => self.damage.push(told(&error)),
            Err(error) => self.notes.push(format!("a server would not start: {}", told(&error))),
            Ok(journal) => drop::<LocalJournal>(journal),
        }
        self.tables = core.catalog().by_id.values().cloned().collect();
        self.tables.sort_by_key(|table| table.descriptor().id);
        for table in self.tables.clone() {
            for (bucket, log) in table.buckets() {
                if let Some(reason) = log.refused() {
                    self.found_again(reason.to_string());
                }
                for segment in log.segments().iter().filter(|segment| segment.damage.is_none()) {
                    self.totals.segments += 1;
                    self.totals.bytes += segment.info.bytes;
                    for read in segment.read(0, segment.info.rows as usize, None) {
                        let valid = read.and_then(|(_, batch)| {
                            self.totals.rows += batch.num_rows() as u64;
                            validated(&batch).map_err(|error| error.while_doing(&segment.info.file))
                        });
                        self.note(valid);
                    }
                    progress(segment.info.bytes);
                }
                let tail = self.tail(&table, bucket);
                self.note(tail);
            }
        }
        self._core = Some(core);
        Ok(())
    }

    /// The rows that only the journal holds.
    fn tail(&self, table: &Table, bucket: PartitionBucket) -> Result<()> {
        let log = table.bucket(bucket)?;
        if log.refused().is_some() {
            return Ok(());
        }
        for rows in table.hot_rows(bucket, log.covered().max(log.trim_floor()), table.ends().end(bucket))? {
            for batch in rows.read(None) {
                let batch = batch?;
                validated(&batch.batch).map_err(|error| {
                    error.while_doing(format!(
                        "table {} bucket {bucket} offset {}",
                        table.descriptor().name,
                        batch.first
                    ))
                })?;
            }
        }
        Ok(())
    }

    fn note(&mut self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.found_again(told(&error));
        }
    }

    /// Damage that an earlier pass may have named; the later one says more.
    fn found_again(&mut self, damage: String) {
        self.damage.retain(|known| !damage.contains(known.as_str()));
        self.damage.push(damage);
    }
}

/// Reading skips the checks of values for which a checksum stands; here they are made.
fn validated(batch: &arrow::array::RecordBatch) -> Result<()> {
    for column in batch.columns() {
        column
            .to_data()
            .validate_full()
            .map_err(|error| Error::corrupt("rows that do not decode").with_source(error))?;
    }
    Ok(())
}

/// An error with its causes.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
