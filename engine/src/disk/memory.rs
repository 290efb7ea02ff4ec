//! A file system in memory that knows what a power cut may take.
//!
//! Each file keeps its synced bytes and the writes since; each directory its synced names and the changes since.
//! [`MemoryDisk::power_cut`] gives the disk that a cut could leave: of the unsynced writes some subset, some of them torn
//! at a 512-byte sector, of the unsynced names some subset, as the caller's random numbers choose. This is harsher than
//! most file systems and what all of them allow.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use arrow::buffer::Buffer;
use rand::Rng;

use super::{Disk, DiskFile, Entry};

const SECTOR_BYTES: usize = 512;

/// A disk in memory; a clone of the `Arc` is the same disk.
#[derive(Debug, Default)]
pub struct MemoryDisk(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    now: BTreeMap<PathBuf, Node>,
    synced: BTreeMap<PathBuf, Node>,
    /// Changes of names that no directory sync covered yet, in order.
    pending: Vec<NameChange>,
}

#[derive(Clone, Debug)]
enum Node {
    Directory,
    File(Arc<Mutex<Content>>),
}

#[derive(Clone, Debug)]
struct NameChange {
    added: Option<(PathBuf, Node)>,
    removed: Option<PathBuf>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<ContentChange>,
}

#[derive(Clone, Debug)]
enum ContentChange {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        if let Some(path) = &self.removed {
            names.remove(path);
        }
        if let Some((path, node)) = &self.added {
            names.insert(path.clone(), node.clone());
        }
    }

    fn touches(&self, directory: &Path) -> bool {
        let added = self.added.as_ref().map(|(path, _)| path);
        added.into_iter().chain(&self.removed).any(|path| path.parent() == Some(directory))
    }
}

impl ContentChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            ContentChange::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            ContentChange::Length(length) => content.resize(*length, 0),
        }
    }
}

/// A test's threads share a disk; one that panicked must not hide behind a second panic.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl MemoryDisk {
    pub fn new() -> Arc<MemoryDisk> {
        Arc::default()
    }

    /// The disk as a power cut at this moment could leave it. This one goes on as if nothing had happened.
    pub fn power_cut(&self, random: &mut impl Rng) -> Arc<MemoryDisk> {
        let names = hold(&self.0);
        let mut left = names.synced.clone();
        for change in &names.pending {
            if random.random_bool(0.5) {
                change.apply(&mut left);
            }
        }
        // A name whose directory did not last is gone with it.
        let directories: Vec<PathBuf> =
            left.iter().filter(|(_, node)| matches!(node, Node::Directory)).map(|(path, _)| path.clone()).collect();
        left.retain(|path, _| {
            path.parent().is_none_or(|parent| is_root(parent) || directories.iter().any(|d| d == parent))
        });
        // Two names of one file go on being one file.
        let mut seen: Vec<(*const Mutex<Content>, Node)> = Vec::new();
        for node in left.values_mut() {
            let Node::File(content) = node else { continue };
            let identity = Arc::as_ptr(content);
            *node = match seen.iter().find(|(other, _)| *other == identity) {
                Some((_, copy)) => copy.clone(),
                None => {
                    let copy = Node::File(Arc::new(Mutex::new(hold(content).power_cut(random))));
                    seen.push((identity, copy.clone()));
                    copy
                }
            };
        }
        Arc::new(MemoryDisk(Mutex::new(Names { now: left.clone(), synced: left, pending: Vec::new() })))
    }

    /// Flips one bit of a file, as rot does.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let content = self.file(path)?;
        let mut content = hold(&content);
        let Content { now, synced, .. } = &mut *content;
        for bytes in [now, synced] {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    /// What a failed sync of a file may do: what was not durable can still be read, and no later sync makes it so.
    pub fn lose_unsynced(&self, path: &Path) {
        if let Ok(content) = self.file(path) {
            hold(&content).pending.clear();
        }
    }

    /// The same for a directory's names.
    pub fn lose_unsynced_names(&self, directory: &Path) {
        hold(&self.0).pending.retain(|change| !change.touches(directory));
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Content>>> {
        match hold(&self.0).now.get(path) {
            Some(Node::File(content)) => Ok(content.clone()),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found(path)),
        }
    }

    fn change(&self, change: NameChange) {
        let mut names = hold(&self.0);
        change.apply(&mut names.now);
        names.pending.push(change);
    }

    fn has_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if !is_root(parent) => match hold(&self.0).now.get(parent) {
                Some(Node::Directory) => Ok(()),
                _ => Err(not_found(parent)),
            },
            _ => Ok(()),
        }
    }
}

/// The root is always there.
fn is_root(path: &Path) -> bool {
    path.parent().is_none()
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: not found", path.display()))
}

impl Content {
    fn power_cut(&self, random: &mut impl Rng) -> Content {
        let mut left = self.synced.clone();
        for change in &self.pending {
            match change {
                _ if random.random_bool(0.4) => {}
                ContentChange::Write { offset, bytes } if random.random_bool(0.3) => {
                    // Sectors are written whole, each or not.
                    let first = SECTOR_BYTES - offset % SECTOR_BYTES;
                    let mut start = 0;
                    while start < bytes.len() {
                        let end =
                            if start == 0 { first.min(bytes.len()) } else { (start + SECTOR_BYTES).min(bytes.len()) };
                        if random.random_bool(0.5) {
                            let bytes = bytes[start..end].to_vec();
                            ContentChange::Write { offset: offset + start, bytes }.apply(&mut left);
                        }
                        start = end;
                    }
                }
                change => change.apply(&mut left),
            }
        }
        Content { now: left.clone(), synced: left, pending: Vec::new() }
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.has_parent(path)?;
        if hold(&self.0).now.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        self.change(NameChange { added: Some((path.to_owned(), Node::File(content.clone()))), removed: None });
        Ok(Arc::new(MemoryFile(content)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(MemoryFile(self.file(path)?)))
    }

    fn map(&self, path: &Path) -> io::Result<Buffer> {
        let content = self.file(path)?;
        // As a fresh, aligned allocation: what a page-aligned mapping gives.
        Ok(Buffer::from_slice_ref(hold(&content).now.as_slice()))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let names = hold(&self.0);
        if !is_root(directory) && !matches!(names.now.get(directory), Some(Node::Directory)) {
            return Err(not_found(directory));
        }
        let inside = names.now.iter().filter(|(path, _)| path.parent() == Some(directory));
        Ok(inside
            .map(|(path, node)| Entry {
                name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
                is_directory: matches!(node, Node::Directory),
                bytes: match node {
                    Node::Directory => 0,
                    Node::File(content) => hold(content).now.len() as u64,
                },
                modified: SystemTime::UNIX_EPOCH,
            })
            .collect())
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.has_parent(path)?;
        match hold(&self.0).now.get(path) {
            Some(Node::Directory) => return Ok(()),
            Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            None => {}
        }
        self.change(NameChange { added: Some((path.to_owned(), Node::Directory)), removed: None });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let content = self.file(from)?;
        self.has_parent(to)?;
        self.change(NameChange { added: Some((to.to_owned(), Node::File(content))), removed: Some(from.to_owned()) });
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let content = self.file(from)?;
        self.has_parent(to)?;
        let mut names = hold(&self.0);
        if names.now.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let change = NameChange { added: Some((to.to_owned(), Node::File(content))), removed: None };
        change.apply(&mut names.now);
        names.pending.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(NameChange { added: None, removed: Some(path.to_owned()) });
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut names = hold(&self.0);
        let Names { synced, pending, .. } = &mut *names;
        pending.retain(|change| {
            let covered = change.touches(path);
            if covered {
                change.apply(synced);
            }
            !covered
        });
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        Ok(Box::new(()))
    }
}

#[derive(Debug)]
struct MemoryFile(Arc<Mutex<Content>>);

impl MemoryFile {
    fn change(&self, change: ContentChange) {
        let mut content = hold(&self.0);
        change.apply(&mut content.now);
        content.pending.push(change);
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = hold(&self.0);
        let range = offset as usize..offset as usize + buffer.len();
        let bytes = content.now.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.change(ContentChange::Write { offset: offset as usize, bytes });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut content = hold(&self.0);
        let Content { synced, pending, .. } = &mut *content;
        for change in pending.drain(..) {
            change.apply(synced);
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(ContentChange::Length(bytes as usize));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(hold(&self.0).now.len() as u64)
    }
}
