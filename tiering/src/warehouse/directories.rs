//! Which names in the warehouse's directories are known to outlive a power cut.
//!
//! A file system shows a new name at once and keeps it only after its directory was synced. Who reads a commit acts on it
//! (hot rows go), so a name may only be *read* once it is durable:
//! - names found from an earlier process count after the first sync of their directory by this one;
//! - a name of our own is `pending` from before it appears until its directory was synced, and a reader that meets a
//!   pending name syncs the directory itself.
//!
//! After a failed directory sync nobody knows what the disk holds, and a second sync would answer for pages that are gone:
//! every later call is refused until the process starts anew and reads what is really there.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thermocline_engine::disk::Disk;
use thermocline_engine::faults::{self, Defect};

#[derive(Debug)]
pub(super) struct Directories {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    known: Mutex<Known>,
    failed: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// Directories that this process has made or found, durable in their parents.
    made: HashSet<PathBuf>,
    /// Directories whose entries from before this process are durable.
    synced: HashSet<PathBuf>,
    /// How many publications of a name have not been synced yet.
    pending: HashMap<PathBuf, usize>,
}

impl Directories {
    pub(super) fn new(disk: Arc<dyn Disk>, root: &Path) -> Directories {
        Directories { disk, root: root.to_owned(), known: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// Refuses once a directory sync has failed.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("a directory sync failed earlier: the warehouse is refused until a restart"));
        }
        Ok(())
    }

    /// Makes `directory` and those above it up to the root, each durable in its parent.
    pub(super) fn make(&self, directory: &Path) -> io::Result<()> {
        if directory == self.root || self.known().made.contains(directory) {
            return Ok(());
        }
        let parent = directory.parent().unwrap_or(&self.root);
        self.make(parent)?;
        self.disk.create_directory(directory)?;
        self.sync(parent)?;
        self.known().made.insert(directory.to_owned());
        Ok(())
    }

    /// Says that `path` is about to appear. Each call wants one of [`Self::published`] or [`Self::withdrawn`].
    pub(super) fn announce(&self, path: &Path) {
        *self.known().pending.entry(path.to_owned()).or_default() += 1;
    }

    /// `path` has appeared: makes that last. Where it fails, the name stays pending and nobody may read it.
    pub(super) fn published(&self, path: &Path) -> io::Result<()> {
        if !faults::planted(Defect::LakeNameNotSynced) {
            self.sync(path.parent().unwrap_or(&self.root))?;
        }
        self.withdrawn(path);
        Ok(())
    }

    /// `path` was announced and did not appear through this call.
    pub(super) fn withdrawn(&self, path: &Path) {
        let mut known = self.known();
        if let Some(count) = known.pending.get_mut(path) {
            *count -= 1;
            if *count == 0 {
                known.pending.remove(path);
            }
        }
    }

    /// Before the file `path` is read: its name, and the names of the directories above it, are durable.
    pub(super) fn before_reading(&self, path: &Path) -> io::Result<()> {
        let mut above: Vec<&Path> =
            path.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)).collect();
        above.reverse();
        for directory in above {
            if !self.known().synced.contains(directory) {
                self.sync(directory)?;
                self.known().synced.insert(directory.to_owned());
            }
        }
        if self.known().pending.contains_key(path) && !faults::planted(Defect::PendingNameRead) {
            self.sync(path.parent().unwrap_or(&self.root))?;
        }
        Ok(())
    }

    /// Makes the entries of `directory` durable.
    pub(super) fn sync(&self, directory: &Path) -> io::Result<()> {
        self.check()?;
        let synced = self.disk.sync_directory(directory);
        if let Err(error) = &synced
            && !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        {
            self.failed.store(true, Ordering::Release);
            tracing::error!(directory = %directory.display(), %error, "directory sync failed");
        }
        synced
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // The sets are only ever added to or counted in one step, so a panic elsewhere leaves them whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
