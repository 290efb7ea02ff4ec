//! A disk in memory that writes down what is asked of it, and fails where it is told to.

use std::any::Any;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::buffer::Buffer;
use thermocline_engine::disk::{Disk, DiskFile, Entry, MemoryDisk};

/// The kinds of calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Create,
    Open,
    Map,
    List,
    CreateDirectory,
    Rename,
    Link,
    Remove,
    SyncDirectory,
    Read,
    Write,
    Sync,
    SetLength,
    Length,
}

impl Call {
    pub const ALL: [Call; 14] = [
        Call::Create,
        Call::Open,
        Call::Map,
        Call::List,
        Call::CreateDirectory,
        Call::Rename,
        Call::Link,
        Call::Remove,
        Call::SyncDirectory,
        Call::Read,
        Call::Write,
        Call::Sync,
        Call::SetLength,
        Call::Length,
    ];

    /// Those that a full disk refuses.
    fn needs_room(self) -> bool {
        matches!(self, Call::Create | Call::CreateDirectory | Call::Link | Call::Write)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The n-th call of a kind, from 0, fails; a write after half of its bytes. What a failed sync was to make durable
    /// is lost for good, although it can still be read: the next sync will not bring it back.
    Once(Call, usize),
    /// The n-th write fails, and every cut after it: nobody can say any more what is in the file.
    WriteAndCuts(usize),
    /// From the n-th call on that needs room, all such calls fail.
    FullFrom(usize),
}

/// A call that changes something, as the disk saw it.
#[derive(Clone, Debug)]
pub enum Step {
    Create {
        path: PathBuf,
        file: usize,
    },
    CreateDirectory(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    SyncDirectory(PathBuf),
    Write {
        file: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLength {
        file: usize,
        bytes: u64,
    },
    Sync {
        file: usize,
    },
    /// Not a call: what the scenario knew at this moment.
    Known(super::scenario::Known),
}

#[derive(Clone, Debug)]
pub struct TestDisk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Arc<MemoryDisk>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Written down only when asked to.
    steps: Option<Vec<Step>>,
    /// Files by the name that they have now.
    files: std::collections::HashMap<PathBuf, usize>,
    files_made: usize,
    fault: Option<Fault>,
    seen: std::collections::HashMap<Call, usize>,
    needed_room: usize,
    struck: bool,
}

impl TestDisk {
    pub fn new(disk: Arc<MemoryDisk>, fault: Option<Fault>) -> TestDisk {
        TestDisk(Arc::new(Inner { disk, state: Mutex::new(State { fault, ..State::default() }) }))
    }

    pub fn recording() -> TestDisk {
        let disk = TestDisk::new(MemoryDisk::new(), None);
        disk.state().steps = Some(Vec::new());
        disk
    }

    pub fn memory(&self) -> &Arc<MemoryDisk> {
        &self.0.disk
    }

    /// Whether the fault has come to pass.
    pub fn struck(&self) -> bool {
        self.state().struck
    }

    /// Whether what it shows is more than what it has, for ever.
    pub fn lost(&self) -> bool {
        let lost = |fault| matches!(fault, Fault::Once(Call::Sync | Call::SyncDirectory, _));
        let state = self.state();
        state.struck && state.fault.is_some_and(lost)
    }

    /// From now on.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.fault, state.needed_room) = (fault, 0);
        state.seen.clear();
    }

    pub fn know(&self, known: super::scenario::Known) {
        self.note(|_| Step::Known(known));
    }

    pub fn steps(&self) -> Vec<Step> {
        self.state().steps.take().expect("a recording disk")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, step: impl FnOnce(&mut State) -> Step) {
        let mut state = self.state();
        if state.steps.is_some() {
            let step = step(&mut state);
            state.steps.as_mut().expect("looked at above").push(step);
        }
    }

    fn file_of(&self, path: &Path) -> usize {
        self.state().files.get(path).copied().unwrap_or(usize::MAX)
    }

    fn strike(&self, call: Call) -> io::Result<()> {
        let mut state = self.state();
        let before = *state.seen.entry(call).and_modify(|seen| *seen += 1).or_insert(1) - 1;
        state.needed_room += usize::from(call.needs_room());
        let error = match state.fault {
            Some(Fault::Once(kind, n)) if kind == call && n == before => io::Error::other("input/output error"),
            Some(Fault::WriteAndCuts(n)) if call == Call::Write && n == before => {
                io::Error::other("input/output error")
            }
            Some(Fault::WriteAndCuts(_)) if call == Call::SetLength => io::Error::other("input/output error"),
            Some(Fault::FullFrom(n)) if call.needs_room() && state.needed_room > n => io::ErrorKind::StorageFull.into(),
            _ => return Ok(()),
        };
        state.struck = true;
        Err(error)
    }
}

impl Disk for TestDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.strike(Call::Create)?;
        let inner = self.0.disk.create(path)?;
        self.note(|state| {
            let file = state.files_made;
            state.files_made += 1;
            state.files.insert(path.to_owned(), file);
            Step::Create { path: path.to_owned(), file }
        });
        Ok(Arc::new(TestFile { disk: self.clone(), inner, file: self.file_of(path), path: path.to_owned() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.strike(Call::Open)?;
        let inner = self.0.disk.open(path)?;
        Ok(Arc::new(TestFile { disk: self.clone(), inner, file: self.file_of(path), path: path.to_owned() }))
    }

    fn map(&self, path: &Path) -> io::Result<Buffer> {
        self.strike(Call::Map)?;
        self.0.disk.map(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.strike(Call::List)?;
        self.0.disk.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.strike(Call::CreateDirectory)?;
        self.0.disk.create_directory(path)?;
        self.note(|_| Step::CreateDirectory(path.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.strike(Call::Rename)?;
        self.0.disk.rename(from, to)?;
        self.note(|state| {
            if let Some(file) = state.files.remove(from) {
                state.files.insert(to.to_owned(), file);
            }
            Step::Rename { from: from.to_owned(), to: to.to_owned() }
        });
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.strike(Call::Link)?;
        self.0.disk.link(from, to)?;
        self.note(|state| {
            if let Some(file) = state.files.get(from).copied() {
                state.files.insert(to.to_owned(), file);
            }
            Step::Link { from: from.to_owned(), to: to.to_owned() }
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.strike(Call::Remove)?;
        self.0.disk.remove(path)?;
        self.note(|state| {
            state.files.remove(path);
            Step::Remove(path.to_owned())
        });
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.strike(Call::SyncDirectory).inspect_err(|_| self.0.disk.lose_unsynced_names(path))?;
        // Noted before it is done: what is noted meanwhile by another thread may or may not be covered.
        self.note(|_| Step::SyncDirectory(path.to_owned()));
        self.0.disk.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.0.disk.lock(path)
    }
}

#[derive(Debug)]
struct TestFile {
    disk: TestDisk,
    inner: Arc<dyn DiskFile>,
    file: usize,
    /// When it was opened: files are synced before they get another name.
    path: PathBuf,
}

impl DiskFile for TestFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.strike(Call::Read)?;
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.disk.strike(Call::Write).inspect_err(|_| {
            // What the disk took before it failed.
            self.inner.write_at(&mut [IoSlice::new(&bytes[..bytes.len() / 2])], offset).expect("memory takes it");
        })?;
        self.inner.write_at(&mut [IoSlice::new(&bytes)], offset)?;
        self.disk.note(|_| Step::Write { file: self.file, offset, bytes });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.strike(Call::Sync).inspect_err(|_| self.disk.0.disk.lose_unsynced(&self.path))?;
        self.disk.note(|_| Step::Sync { file: self.file });
        self.inner.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.strike(Call::SetLength)?;
        self.inner.set_len(bytes)?;
        self.disk.note(|_| Step::SetLength { file: self.file, bytes });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.strike(Call::Length)?;
        self.inner.len()
    }
}
