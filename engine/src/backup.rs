//! The hot side of a backup: all that makes up a data directory at one journal position.
//!
//! Asked of an engine, the journal's thread says between two groups what is known at the journal's end, as it does for a
//! checkpoint; so every row that was acked before the question is in the answer, and no frame is in it by half. Of the files
//! that this names, all but the newest journal file never change, and the newest only grows: its bytes up to the position are
//! what they are. But they may be removed. So while no pass of upkeep can remove one, each gets a second name below
//! [`LINKS`], and is copied from there without haste, while writers, upkeep and rounds go on.
//!
//! Asked of a stopped directory, recovery runs on a [`ReadOnlyDisk`], and what it comes to is the answer: a torn tail is
//! left behind as a start would cut it off, and files that nothing names are no part of it.
//!
//! The checkpoint of an answer is of its very position, so of the journal only what holds rows of tails is needed.
//!
//! Not here: where the copies go, and the lake.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result, TableDescriptor};

use crate::checkpoint_format::Checkpoint;
use crate::core::Core;
use crate::disk::{Disk, Entry, ReadOnlyDisk, create_directories};
use crate::engine::{io_error, lock_directory};
use crate::journal::{Loglet, Position, files_between};
use crate::log_starts::LogStarts;
use crate::recovery::{CHECKPOINT_FILE, read_checkpoint, recover};
use crate::{EngineOptions, SystemClock};

/// Where files have second names while they are copied. What is there when a server starts was left by one that died.
const LINKS: &str = "backing-up";
/// In a data directory that is being restored, until all of it is there.
const UNFINISHED: &str = "restore-unfinished";

/// A data directory at one journal position.
#[derive(Debug)]
pub struct HotState {
    /// Every frame before it is in here, none after it is.
    pub position: Position,
    /// When that was, in microseconds since 1970.
    pub taken_at: i64,
    /// All tables, dropped ones that are still kept too.
    pub tables: Vec<HotTable>,
    /// What the file [`Self::CHECKPOINT`] holds.
    pub checkpoint: Vec<u8>,
    /// All other files.
    pub files: Vec<HotFile>,
    disk: Arc<dyn Disk>,
    /// The names to be taken back, if there are any.
    links: Option<PathBuf>,
    /// Of a stopped directory: nobody may start on it meanwhile.
    _lock: Option<Arc<dyn Any + Send + Sync>>,
}

/// A file, or the first part of one.
#[derive(Clone, Debug)]
pub struct HotFile {
    /// Its path in a data directory, as `segments/…`.
    pub name: String,
    /// Where it can be read.
    pub path: PathBuf,
    pub bytes: u64,
}

/// A table at that position.
#[derive(Clone, Debug)]
pub struct HotTable {
    pub descriptor: TableDescriptor,
    /// Of each bucket its first hot offset and its end.
    pub buckets: BTreeMap<PartitionBucket, (Offset, Offset)>,
    /// Where its log starts.
    pub starts: Arc<LogStarts>,
    /// Buckets of which nothing is served, because of rot.
    pub refused: usize,
}

/// What is known at a position, before its files are held on to.
pub(crate) struct Known {
    position: Position,
    checkpoint: Checkpoint,
    tables: Vec<HotTable>,
}

impl Known {
    /// For the journal's thread between two groups, or where nothing is written any more.
    pub(crate) fn at(core: &Core, position: Position) -> Known {
        let catalog = core.catalog();
        let tables = catalog.by_id.values().map(|table| {
            let ends = table.ends();
            let buckets = table.buckets().map(|(bucket, log)| (bucket, (log.trim_floor(), ends.end(bucket))));
            HotTable {
                descriptor: (**table.descriptor()).clone(),
                buckets: buckets.collect(),
                starts: ends.starts.clone(),
                refused: table.buckets().filter(|(_, log)| log.refused().is_some()).count(),
            }
        });
        let mut tables: Vec<_> = tables.collect();
        tables.sort_by_key(|table| table.descriptor.id);
        drop(catalog);
        Known { position, checkpoint: core.checkpoint(position), tables }
    }

    /// Its files as they lie in the data directory, for as long as nobody removes any.
    fn files(&self, core: &Core) -> Result<Vec<HotFile>> {
        let buckets = || self.checkpoint.tables.iter().flat_map(|table| &table.buckets);
        let segments = buckets().flat_map(|bucket| &bucket.segments).map(|segment| ("segments", &segment.file));
        let keys = buckets().filter_map(|bucket| bucket.index.as_ref()).map(|index| ("keys", &index.file));
        let mut files = Vec::new();
        for (directory, file) in segments.chain(keys) {
            let path = core.directory.join(directory).join(file);
            let length = core.disk.open(&path).and_then(|file| file.len());
            let bytes = length.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::corrupt(format!("{} is missing", path.display())),
                _ => io_error("open", &path, error),
            })?;
            files.push(HotFile { name: format!("{directory}/{file}"), path, bytes });
        }
        let journal = core.directory.join("journal");
        let floor = self.checkpoint.journal_floor();
        for (file, bytes) in files_between(&*core.disk, &journal, floor, self.position)? {
            files.push(HotFile { name: format!("journal/{file}"), path: journal.join(&file), bytes });
        }
        Ok(files)
    }

    /// With files that stay until the answer is let go; while no pass of upkeep is under way.
    pub(crate) fn held(self, core: &Core) -> Result<HotState> {
        let links = core.directory.join(LINKS);
        forget_links(&*core.disk, &core.directory)?;
        create_directories(&*core.disk, &links).map_err(|error| io_error("make", &links, error))?;
        let mut files = self.files(core)?;
        for file in &mut files {
            let link = links.join(file.name.replace('/', "-"));
            core.disk.link(&file.path, &link).map_err(|error| io_error("link", &file.path, error))?;
            file.path = link;
        }
        self.state(core, files, Some(links), None)
    }

    fn state(
        self,
        core: &Core,
        files: Vec<HotFile>,
        links: Option<PathBuf>,
        lock: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Result<HotState> {
        Ok(HotState {
            position: self.position,
            taken_at: core.clock.now_micros(),
            tables: self.tables,
            checkpoint: self.checkpoint.encode()?,
            files,
            disk: core.disk.clone(),
            links,
            _lock: lock,
        })
    }
}

impl HotState {
    /// The name of the checkpoint in a data directory.
    pub const CHECKPOINT: &str = CHECKPOINT_FILE;
    /// The directories of a data directory.
    pub const DIRECTORIES: [&str; 3] = ["journal", "segments", "keys"];

    /// Of a directory that no server has. It stays locked for as long as the answer lives. Blocks.
    pub fn of_stopped(disk: Arc<dyn Disk>, directory: &Path) -> Result<HotState> {
        let Stopped { disk, lock, .. } = Stopped::hold(disk, directory)?;
        let checkpoint = read_checkpoint(&*disk, directory)?;
        let options = EngineOptions { upkeep: false, ..EngineOptions::default() };
        let core = Arc::new(Core::new(disk, directory, options, Arc::new(SystemClock), &checkpoint, lock)?);
        let position = recover(&core, checkpoint)?.tail();
        let known = Known::at(&core, position);
        let files = known.files(&core)?;
        known.state(&core, files, None, Some(core.clone()))
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Takes the second names back. What a crash leaves of them goes with the next start.
    pub fn let_go(self) -> Result<()> {
        match self.links {
            Some(links) => remove_all(&*self.disk, &links),
            None => Ok(()),
        }
    }
}

/// A data directory that no server has, to be read.
pub(crate) struct Stopped {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) journal_files: Vec<Entry>,
    /// Held, it keeps servers away.
    pub(crate) lock: Box<dyn Any + Send + Sync>,
}

impl Stopped {
    /// An error if it is none, if a server has it, or if it is half restored.
    pub(crate) fn hold(disk: Arc<dyn Disk>, directory: &Path) -> Result<Stopped> {
        let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk(disk));
        let journal = directory.join("journal");
        let journal_files = disk.list(&journal).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(Code::NotFound, format!("{} is not a data directory", directory.display()))
                    .with_hint("a data directory has a folder journal; it is what `serve --data-dir` was given")
            }
            _ => io_error("list", &journal, error),
        })?;
        let lock = lock_directory(&*disk, directory)?;
        check_finished(&*disk, directory)?;
        Ok(Stopped { disk, journal_files, lock })
    }
}

/// Removes second names that an earlier process left.
pub(crate) fn forget_links(disk: &dyn Disk, directory: &Path) -> Result<()> {
    remove_all(disk, &directory.join(LINKS))
}

fn remove_all(disk: &dyn Disk, links: &Path) -> Result<()> {
    let entries = match disk.list(links) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| io_error("list", links, error))?,
    };
    for entry in entries {
        let path = links.join(entry.name);
        disk.remove(&path).map_err(|error| io_error("remove", &path, error))?;
    }
    Ok(())
}

/// Says in a new data directory that it is not whole yet, durably, and makes its directories.
pub fn begin_restore(disk: &dyn Disk, directory: &Path) -> Result<()> {
    let mark = directory.join(UNFINISHED);
    create_directories(disk, directory)
        .and_then(|()| disk.create(&mark)?.sync())
        .and_then(|()| disk.sync_directory(directory))
        .map_err(|error| io_error("make", &mark, error))?;
    for inside in HotState::DIRECTORIES {
        let inside = directory.join(inside);
        create_directories(disk, &inside).map_err(|error| io_error("make", &inside, error))?;
    }
    Ok(())
}

/// All is there, and durable.
pub fn finish_restore(disk: &dyn Disk, directory: &Path) -> Result<()> {
    let mark = directory.join(UNFINISHED);
    disk.remove(&mark).and_then(|()| disk.sync_directory(directory)).map_err(|error| io_error("remove", &mark, error))
}

/// An error for a directory whose restore was not brought to its end.
pub(crate) fn check_finished(disk: &dyn Disk, directory: &Path) -> Result<()> {
    match disk.open(&directory.join(UNFINISHED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("open", &directory.join(UNFINISHED), error)),
        Ok(_) => Err(Error::corrupt(format!("a restore into {} did not come to its end", directory.display()))
            .with_hint("remove the directory and what was restored of the warehouse, and restore again")),
    }
}
