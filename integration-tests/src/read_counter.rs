//! A disk that counts what is read of the journal.

use std::any::Any;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::buffer::Buffer;
use thermocline_engine::disk::{Disk, DiskFile, Entry};

/// Counts bytes of files below a `journal` directory, however they are read.
#[derive(Debug)]
pub struct ReadCounter {
    inner: Arc<dyn Disk>,
    bytes: Arc<AtomicU64>,
}

impl ReadCounter {
    pub fn new(inner: Arc<dyn Disk>) -> Arc<ReadCounter> {
        Arc::new(ReadCounter { inner, bytes: Arc::default() })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn counted(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        if !is_journal(path) {
            return file;
        }
        Arc::new(CountedFile { inner: file, bytes: self.bytes.clone() })
    }
}

fn is_journal(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "journal")
}

impl Disk for ReadCounter {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.counted(path, self.inner.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.counted(path, self.inner.open(path)?))
    }

    fn map(&self, path: &Path) -> io::Result<Buffer> {
        let mapped = self.inner.map(path)?;
        if is_journal(path) {
            self.bytes.fetch_add(mapped.len() as u64, Ordering::Relaxed);
        }
        Ok(mapped)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.inner.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.create_directory(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.inner.lock(path)
    }
}

#[derive(Debug)]
struct CountedFile {
    inner: Arc<dyn DiskFile>,
    bytes: Arc<AtomicU64>,
}

impl DiskFile for CountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.inner.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}
