//! Backups: one consistent state of all tables, hot rows and lake, in a directory, and servers made of it again.
//!
//! A backup is a directory: below `data/` a data directory as it was at one journal position P, below `warehouse/` the objects
//! of each table's lake as it was then, and `backup`, which says what there is, with checksums (`manifest_format`). It is
//! whole in itself: nothing in it is linked to what it was made of, because one rotten block would then be in both.
//!
//! # One state
//!
//! Of a running server (`Tiering::back_up`), in this order:
//! 1. Each table's round lock is taken. From here on no round, rewrite or expiry commits, so no boundary moves and nothing is let
//!    go beyond it; a round that is under way is waited for. Writers and readers go on.
//! 2. Each table's lake is kept from removals: sweeps and purges leave it alone until the copy is done.
//! 3. The newest version of each lake is read, V. All that was ever let go is in it.
//! 4. Hot state is taken at the journal's end, P (`HotState`): every row that was acked before is in it.
//! 5. The round locks go back. Rounds go on, and commit what the copy does not have: its V is an earlier version, whose
//!    objects are all still there because of 2, whatever leaves the history.
//! 6. Everything is copied.
//!
//! So of every bucket `trim_floor(P) ≤ offsets(V) ≤ end(P)`, which is checked: together they have every row once (but those
//! that were taken away at once, below the log's start at P). The columns of V are no newer than those of P, because V was read before.
//!
//! A table that was made after its lock was to be taken is found in 4, and the steps are gone through again for it.
//!
//! Of a stopped server (`back_up_stopped`) it is the same without locks: its directory's own lock keeps it still.
//!
//! # What a crash leaves
//!
//! A backup that ended early has no file `backup`, and is none; what could be removed of it was. Everything that `backup` names is
//! synced before it gets its name. A restore that ended early leaves a mark in the data directory, on which no server
//! starts; version files of lakes come after all that they name.
//!
//! # Elsewhere
//!
//! Iceberg spells absolute addresses. Restored to another place, all files that have some are written anew (`lake/relocate`);
//! restored to the very same place, every file is as it was. The hot side names no place: it knows rows by their offsets.
//!
//! Not here: schedules, increments, and backups of a part. Memory is bounded by what the names of all files take.

mod manifest_format;
mod restore;
mod take;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use thermocline_engine::disk::{Disk, DiskFile};
use thermocline_schemas::{Code, Error, Result};

pub use manifest_format::{BackedUpLake, BackedUpTable};
pub use restore::{restore, restore_into};
pub use take::back_up_stopped;

/// The file that is written last.
const MANIFEST: &str = "backup";
/// The data directory in a backup.
const DATA: &str = "data";
/// The lakes in a backup.
const WAREHOUSE: &str = "warehouse";
/// How much of a file is in memory at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// How far it is, for who watches; and whether it is still wanted.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    is_cancelled: AtomicBool,
}

impl Progress {
    /// Bytes that are done, and bytes that there are to do as far as is known.
    pub fn bytes(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// It ends early, with an error, and takes back what it made.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
    }

    fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) -> Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        match self.is_cancelled.load(Ordering::Acquire) {
            true => Err(Error::new(Code::ShuttingDown, "it was broken off")),
            false => Ok(()),
        }
    }
}

/// What was backed up or restored.
#[derive(Clone, Debug)]
pub struct BackupReport {
    pub directory: PathBuf,
    /// When the backup was made, in microseconds since 1970.
    pub made_at: i64,
    pub position: u64,
    pub tables: Vec<BackedUpTable>,
    pub files: u64,
    pub bytes: u64,
}

/// Does what blocks where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal("a task ended early").with_source(error))?
}

fn io_error(doing: &str, path: &Path, error: std::io::Error) -> Error {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull => Code::DiskFull,
        std::io::ErrorKind::InvalidData => Code::Corrupt,
        _ => Code::Internal,
    };
    Error::new(code, format!("cannot {doing} {}", path.display())).with_source(error)
}

/// The first `bytes` of a file, a chunk at a time.
fn read_chunks(
    disk: &dyn Disk,
    path: &Path,
    bytes: u64,
    visit: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Arc<dyn DiskFile>> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(format!("{} is missing", path.display())),
        std::io::ErrorKind::UnexpectedEof => Error::corrupt(format!("{} is cut", path.display())),
        _ => io_error("read", path, error),
    };
    let file = disk.open(path).map_err(failed)?;
    let mut buffer = vec![0; bytes.min(CHUNK_BYTES) as usize];
    let mut at = 0;
    while at < bytes {
        let chunk = &mut buffer[..(bytes - at).min(CHUNK_BYTES) as usize];
        file.read_at(chunk, at).map_err(failed)?;
        visit(chunk)?;
        at += chunk.len() as u64;
    }
    Ok(file)
}

/// Whether no file is anywhere below a directory, or there is none of that name.
fn is_empty(disk: &dyn Disk, directory: &Path) -> Result<bool> {
    let entries = match disk.list(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        entries => entries.map_err(|error| io_error("list", directory, error))?,
    };
    for entry in entries {
        if !entry.is_directory || !is_empty(disk, &directory.join(entry.name))? {
            return Ok(false);
        }
    }
    Ok(true)
}
