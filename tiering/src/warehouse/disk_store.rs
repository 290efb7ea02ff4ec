//! A directory as an object store: every object a file, every answer durable.
//!
//! Writing: the bytes go to a staged file under a hidden directory, are synced, get their name (by rename, or by a hard
//! link that refuses a name that is taken), and the directory is synced. So an object is there whole or not at all, of many
//! that create one name exactly one succeeds, and `Ok` means that a power cut changes nothing. A crash leaves at most
//! staged files, which the next opening removes.
//!
//! What is written once and for all gets checksums beside it (see `sums`), and is read against them.
//!
//! Reading: see [`Directories`] for what must be synced first. Objects have no entity tags, so `PutMode::Update` and
//! `if_match` are refused. Only `head` and listings know when an object was written; a `get` says 1970.
//!
//! Paths are checked part by part: none leads out of the root or into the staged files.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use thermocline_engine::disk::{Disk, DiskFile, create_directories};
use thermocline_engine::faults::{self, Defect};
use uuid::Uuid;

use super::directories::Directories;
use super::errors::from_io;
use super::sums::{Sums, rotten};
use super::upload::DiskUpload;

/// Below the root, out of sight: files that have no name yet.
const STAGED: &str = ".staged";
/// The same, for checksums.
const SUMS: &str = ".sums";
/// The one object that is replaced, by other engines too: its checksum would be another's.
const REPLACED: &str = "version-hint.text";

/// How much of a file is read or copied at once.
const CHUNK_BYTES: u64 = 4 << 20;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct DiskStore(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    directories: Directories,
}

impl DiskStore {
    /// The store below `root`, an absolute path. Makes the directory if it is not there, and removes left-overs.
    pub fn open(disk: Arc<dyn Disk>, root: &Path) -> io::Result<DiskStore> {
        create_directories(&*disk, root)?;
        let staged = root.join(STAGED);
        disk.create_directory(&staged)?;
        for entry in disk.list(&staged)? {
            if !entry.is_directory {
                disk.remove(&staged.join(entry.name))?;
            }
        }
        let directories = Directories::new(disk.clone(), root);
        Ok(DiskStore(Arc::new(Inner { disk, root: root.to_owned(), directories })))
    }

    /// The same, to be read only: nothing is made or swept.
    pub fn open_to_read(disk: Arc<dyn Disk>, root: &Path) -> io::Result<DiskStore> {
        disk.list(root)?;
        let directories = Directories::new(disk.clone(), root);
        Ok(DiskStore(Arc::new(Inner { disk, root: root.to_owned(), directories })))
    }

    /// Runs file system calls where they may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.0.clone();
        tokio::task::spawn_blocking(move || {
            inner.directories.check().map_err(|error| from_io(&"", error))?;
            work(&inner)
        })
        .await?
    }
}

/// A file without a name, to be written and then published once.
#[derive(Debug)]
pub(super) struct StagedFile {
    pub(super) file: Arc<dyn DiskFile>,
    path: PathBuf,
}

impl Inner {
    /// Where an object lies. The parts of a store path hold no separators and are no `..`; this does not rely on it.
    fn file(&self, location: &StorePath) -> Result<PathBuf> {
        let mut path = self.root.clone();
        for (place, part) in location.parts().enumerate() {
            let part = part.as_ref();
            let leaves = part.is_empty() || part == "." || part == ".." || part.contains(['/', '\\', '\0']);
            if leaves || (place == 0 && is_hidden(part)) {
                let source = format!("{part} may not be part of an object's path").into();
                return Err(Error::Generic { store: "disk", source });
            }
            path.push(part);
        }
        Ok(path)
    }

    pub(super) fn stage(&self) -> io::Result<StagedFile> {
        let path = self.root.join(STAGED).join(Uuid::new_v4().to_string());
        Ok(StagedFile { file: self.disk.create(&path)?, path })
    }

    /// Gives a staged file its name for good. The order is the whole point: bytes, name, directory.
    pub(super) fn publish(&self, staged: &StagedFile, location: &StorePath, create: bool) -> Result<()> {
        let published = self
            .file(location)
            .and_then(|path| self.publish_as(staged, &path, create).map_err(|error| from_io(location, error)));
        if create || published.is_err() {
            self.discard(staged);
        }
        published
    }

    fn publish_as(&self, staged: &StagedFile, path: &Path, create: bool) -> io::Result<()> {
        if !faults::planted(Defect::LakeBytesNotSynced) {
            staged.file.sync()?;
        }
        let parent = path.parent().unwrap_or(&self.root);
        self.directories.make(parent)?;
        self.directories.announce(path);
        let named = if create { self.disk.link(&staged.path, path) } else { self.disk.rename(&staged.path, path) };
        match named {
            Ok(()) => {
                self.directories.published(path)?;
                // After the name, because of many that create it only one may say what is in it. What a crash leaves
                // without sums is read as it is, and so is this.
                if path.file_name().is_some_and(|name| name != REPLACED)
                    && let Err(error) = self.write_sums(staged, path)
                {
                    tracing::warn!(file = %path.display(), %error, "an object stays without checksums");
                }
                Ok(())
            }
            Err(error) => {
                self.directories.withdrawn(path);
                Err(error)
            }
        }
    }

    fn sums_path(&self, path: &Path) -> PathBuf {
        self.root.join(SUMS).join(path.strip_prefix(&self.root).unwrap_or(path))
    }

    fn write_sums(&self, staged: &StagedFile, path: &Path) -> io::Result<()> {
        let sums = Sums::of(&*staged.file)?;
        let (file, path) = (self.stage()?, self.sums_path(path));
        let parent = path.parent().unwrap_or(&self.root);
        let written = sums
            .write(&*file.file)
            .and_then(|()| self.directories.make(parent))
            .and_then(|()| self.disk.rename(&file.path, &path));
        if let Err(error) = written {
            self.discard(&file);
            return Err(error);
        }
        self.directories.sync(parent)
    }

    /// The checksums of an object, if it has any.
    fn read_sums(&self, path: &Path) -> io::Result<Option<Sums>> {
        let path = self.sums_path(path);
        let file = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = vec![0; file.len()? as usize];
        file.read_at(&mut bytes, 0)?;
        let wrong =
            || rotten(format!("{}: not the checksums that were written; without the file none are", path.display()));
        Sums::decode(&bytes).ok_or_else(wrong).map(Some)
    }

    /// Best effort: what stays is removed at the next opening.
    pub(super) fn discard(&self, staged: &StagedFile) {
        match self.disk.remove(&staged.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %staged.path.display(), %error, "staged file stays until the next start");
            }
            _ => {}
        }
    }

    fn open_to_read(&self, location: &StorePath) -> Result<OpenObject> {
        let path = self.file(location)?;
        let open = || {
            self.directories.before_reading(&path)?;
            let file = self.disk.open(&path)?;
            let (bytes, sums) = (file.len()?, self.read_sums(&path)?);
            let object = OpenObject { file, bytes, sums, path };
            if let Some(sums) = &object.sums {
                sums.check_length(bytes).map_err(|error| object.named(error))?;
            }
            Ok(object)
        };
        open().map_err(|error| from_io(location, error))
    }

    fn meta(&self, location: &StorePath) -> Result<ObjectMeta> {
        let path = self.file(location)?;
        let find = || {
            self.directories.before_reading(&path)?;
            let entries = self.disk.list(path.parent().unwrap_or(&self.root))?;
            let name = path.file_name().and_then(|name| name.to_str());
            let entry = entries.into_iter().find(|entry| Some(entry.name.as_str()) == name && !entry.is_directory);
            entry.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        let entry = find().map_err(|error| from_io(location, error))?;
        Ok(meta_of(location.clone(), entry.bytes, entry.modified.into()))
    }

    /// The objects below `prefix` and, if asked not to go deeper, the directories directly in it. Sorted by path.
    fn list(&self, prefix: Option<&StorePath>, deep: bool) -> Result<ListResult> {
        let top = prefix.cloned().unwrap_or_default();
        let mut found = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
        let mut waiting = VecDeque::from([top.clone()]);
        while let Some(directory) = waiting.pop_front() {
            let entries = match self.disk.list(&self.file(&directory)?) {
                // Not there, or gone since it was seen: nothing is in it.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                other => other.map_err(|error| from_io(&directory, error))?,
            };
            for entry in entries {
                let text = if directory.is_root() { entry.name.clone() } else { format!("{directory}/{}", entry.name) };
                // What we would never write (control characters in a name) is nobody's object.
                let Ok(location) = StorePath::parse(&text) else { continue };
                match (entry.is_directory, deep) {
                    (true, _) if is_hidden(&text) => {}
                    (true, true) => waiting.push_back(location),
                    (true, false) => found.common_prefixes.push(location),
                    (false, _) => found.objects.push(meta_of(location, entry.bytes, entry.modified.into())),
                }
            }
        }
        found.objects.sort_by(|left, right| left.location.cmp(&right.location));
        found.common_prefixes.sort();
        Ok(found)
    }

    fn delete(&self, location: &StorePath) -> Result<()> {
        let path = self.file(location)?;
        let remove = || {
            match self.disk.remove(&self.sums_path(&path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            self.disk.remove(&path)?;
            self.directories.sync(path.parent().unwrap_or(&self.root))
        };
        remove().map_err(|error| from_io(location, error))
    }

    fn copy(&self, from: &StorePath, to: &StorePath, create: bool) -> Result<()> {
        let source = self.open_to_read(from)?;
        let staged = self.stage().map_err(|error| from_io(to, error))?;
        for range in chunks(0..source.bytes) {
            let copied = source
                .read(range.clone())
                .and_then(|chunk| staged.file.write_at(&mut [IoSlice::new(&chunk)], range.start));
            if let Err(error) = copied {
                self.discard(&staged);
                return Err(from_io(to, error));
            }
        }
        self.publish(&staged, to, create)
    }
}

fn meta_of(location: StorePath, size: u64, last_modified: DateTime<Utc>) -> ObjectMeta {
    ObjectMeta { location, last_modified, size, e_tag: None, version: None }
}

fn chunks(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.step_by(CHUNK_BYTES as usize).map(move |start| start..(start + CHUNK_BYTES).min(end))
}

/// A first part of a path that is no object's.
fn is_hidden(part: &str) -> bool {
    part == STAGED || part == SUMS
}

/// An object that is being read.
#[derive(Debug)]
struct OpenObject {
    file: Arc<dyn DiskFile>,
    bytes: u64,
    sums: Option<Sums>,
    path: PathBuf,
}

impl OpenObject {
    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        if let Some(sums) = &self.sums {
            return sums.read(&*self.file, range).map_err(|error| self.named(error));
        }
        let mut buffer = vec![0; (range.end - range.start) as usize];
        self.file.read_at(&mut buffer, range.start)?;
        Ok(buffer.into())
    }

    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

fn written() -> PutResult {
    PutResult { e_tag: None, version: None }
}

fn refused(what: &str) -> Error {
    Error::NotSupported { source: format!("{what} is not supported on a local warehouse").into() }
}

#[async_trait]
impl ObjectStore for DiskStore {
    async fn put_opts(&self, location: &StorePath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(refused("a put that depends on an entity tag")),
        };
        let location = location.clone();
        self.blocking(move |inner| {
            inner.file(&location)?;
            let staged = inner.stage().map_err(|error| from_io(&location, error))?;
            let mut parts: Vec<_> = payload.iter().map(|part| IoSlice::new(part)).collect();
            if let Err(error) = staged.file.write_at(&mut parts, 0) {
                inner.discard(&staged);
                return Err(from_io(&location, error));
            }
            inner.publish(&staged, &location, create)?;
            Ok(written())
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &StorePath,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let place = location.clone();
        let staged = self
            .blocking(move |inner| {
                inner.file(&place)?;
                inner.stage().map_err(|error| from_io(&place, error))
            })
            .await?;
        Ok(Box::new(DiskUpload::new(self.clone(), location.clone(), staged)))
    }

    async fn get_opts(&self, location: &StorePath, options: GetOptions) -> Result<GetResult> {
        if options.if_match.is_some() || options.version.is_some() {
            return Err(refused("a get that depends on an entity tag or a version"));
        }
        let place = location.clone();
        let by_time = options.if_modified_since.is_some() || options.if_unmodified_since.is_some();
        if options.head || by_time || options.if_none_match.is_some() {
            let meta = self.blocking(move |inner| inner.meta(&place)).await?;
            options.check_preconditions(&meta)?;
            if options.head {
                let payload = GetResultPayload::Stream(stream::empty().boxed());
                return Ok(GetResult { payload, meta, range: 0..0, attributes: Default::default() });
            }
        }
        let place = location.clone();
        let wanted = options.range;
        let (object, range, first) = self
            .blocking(move |inner| {
                let object = inner.open_to_read(&place)?;
                let range = match wanted {
                    None => 0..object.bytes,
                    Some(wanted) => wanted
                        .as_range(object.bytes)
                        .map_err(|error| Error::Generic { store: "disk", source: Box::new(error) })?,
                };
                // Most objects fit one chunk: then opening and reading is one trip to the blocking threads.
                let first = range.start..range.end.min(range.start + CHUNK_BYTES);
                let first = object.read(first).map_err(|error| from_io(&place, error))?;
                Ok((Arc::new(object), range, first))
            })
            .await?;
        let store = self.clone();
        let place = location.clone();
        let size = object.bytes;
        let rest = stream::iter(chunks(range.start + first.len() as u64..range.end)).then(move |chunk| {
            let (store, object, place) = (store.clone(), object.clone(), place.clone());
            async move { store.blocking(move |_| object.read(chunk).map_err(|error| from_io(&place, error))).await }
        });
        let payload = GetResultPayload::Stream(stream::once(async { Ok(first) }).chain(rest).boxed());
        let meta = meta_of(location.clone(), size, DateTime::UNIX_EPOCH);
        Ok(GetResult { payload, meta, range, attributes: Default::default() })
    }

    async fn get_ranges(&self, location: &StorePath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (location, ranges) = (location.clone(), ranges.to_vec());
        self.blocking(move |inner| {
            let object = inner.open_to_read(&location)?;
            let read_one = |range: Range<u64>| {
                if range.start > range.end || range.end > object.bytes {
                    let source = format!("{location}: bytes {range:?} of {}", object.bytes).into();
                    return Err(Error::Generic { store: "disk", source });
                }
                object.read(range).map_err(|error| from_io(&location, error))
            };
            ranges.into_iter().map(read_one).collect()
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<StorePath>>) -> BoxStream<'static, Result<StorePath>> {
        let store = self.clone();
        let delete = move |location: StorePath| {
            let store = store.clone();
            async move {
                store
                    .blocking(move |inner| {
                        inner.delete(&location)?;
                        Ok(location)
                    })
                    .await
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let prefix = prefix.cloned();
        stream::once(async move { store.blocking(move |inner| inner.list(prefix.as_ref(), true)).await })
            .map_ok(|found| stream::iter(found.objects.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> Result<ListResult> {
        let prefix = prefix.cloned();
        self.blocking(move |inner| inner.list(prefix.as_ref(), false)).await
    }

    async fn copy_opts(&self, from: &StorePath, to: &StorePath, options: CopyOptions) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        let create = matches!(options.mode, CopyMode::Create);
        self.blocking(move |inner| inner.copy(&from, &to, create)).await
    }
}

impl fmt::Display for DiskStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DiskStore({})", self.0.root.display())
    }
}
