//! The seam between the engine and storage: the few calls it makes of a file system, and no others.
//!
//! Always: what [`DiskFile::sync`] and [`Disk::sync_directory`] have answered for survives a power cut; nothing else need.
//! A file's bytes and its name are two things: a new file lasts only when both are synced.
//!
//! [`RealDisk`] is the operating system's; [`MemoryDisk`] keeps everything in memory, remembers what was not synced, and
//! can lose it. [`ReadOnlyDisk`] lets another be read only. Errors are plain `io::Error`s: what they mean is for the caller to say.

mod memory;
mod read_only;
mod real;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use arrow::buffer::Buffer;

use crate::faults::{self, CrashPoint, Defect};

pub use memory::MemoryDisk;
pub use read_only::ReadOnlyDisk;
pub use real::RealDisk;

/// A file system, as much of it as we use.
pub trait Disk: Send + Sync + fmt::Debug {
    /// A new, empty file; `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// An existing file, to read and write.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// A whole file that nobody will change any more, as bytes. They stay readable when the file is removed.
    fn map(&self, path: &Path) -> io::Result<Buffer>;

    /// What is directly in a directory, by name.
    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>>;

    /// Makes one directory, whose parent exists; nothing happens if it is there.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name; `AlreadyExists` if that is taken. Of many at once, one succeeds.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the directory's entries durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Bytes that may still be written where `path` is; not every disk can say.
    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes a file for this process alone, until the answer is dropped; `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
}

/// An open file. Calls may come from many threads.
#[allow(clippy::len_without_is_empty)]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Fills the buffer; `UnexpectedEof` past the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all parts, one after the other.
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes bytes and length durable.
    fn sync(&self) -> io::Result<()>;

    fn set_len(&self, bytes: u64) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;
}

/// One name in a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub is_directory: bool,
    pub bytes: u64,
    pub modified: SystemTime,
}

/// Makes `path` and the directories above it down from the first that exists, each durable in its parent.
pub fn create_directories(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if disk.list(path).is_ok() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directories(disk, parent)?;
        disk.create_directory(path)?;
        return disk.sync_directory(parent);
    }
    disk.create_directory(path)
}

/// Puts `bytes` under `path` so that after a crash either the old content or the new is there, never a part.
pub fn write_durably(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = path.with_extension("staged");
    match disk.remove(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&staged)?;
    file.write_at(&mut [IoSlice::new(bytes)], 0)?;
    file.sync()?;
    faults::reached(CrashPoint::Staged);
    disk.rename(&staged, path)?;
    if faults::planted(Defect::DirectoryNotSynced) {
        return Ok(());
    }
    disk.sync_directory(path.parent().unwrap_or(Path::new("")))
}
