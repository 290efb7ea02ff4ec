//! Restoring: a backup becomes a data directory and lakes.
//!
//! First every byte of the backup is held against its checksum, and nothing is written before all are right. Then the lakes
//! come, each file before what names it, then the hot files, and last the mark goes that keeps servers from starting on it.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectStoreExt, PutPayload};
use thermocline_engine::disk::{Disk, ReadOnlyDisk};
use thermocline_engine::{begin_restore, finish_restore};
use thermocline_schemas::{Code, Error, Result};

use super::manifest_format::{BackedUpFile, Header, decode};
use super::{BackupReport, DATA, MANIFEST, Progress, WAREHOUSE, blocking, io_error, is_empty, read_chunks};
use crate::lake::upload::Upload;
use crate::lake::{LakeObject, ObjectKind, Relocation, RestoredMetadata, relocated};
use crate::warehouse::store_error;
use crate::{DiskStore, Warehouse};

const OBJECTS_AT_ONCE: usize = 4;
/// So many copies are planned at once, which takes memory for each.
const OBJECTS_WAITING: usize = 256;

/// Restores the backup in `backup` to `data_dir`, and its lakes to `warehouse`, `<data_dir>/warehouse` by default. Both must be
/// new or have nothing in them.
pub async fn restore(
    disk: Arc<dyn Disk>,
    backup: &Path,
    data_dir: &Path,
    warehouse: Option<&str>,
    progress: &Progress,
) -> Result<BackupReport> {
    let place = warehouse.map_or_else(|| data_dir.join("warehouse").to_string_lossy().into_owned(), str::to_owned);
    let open = {
        let disk = disk.clone();
        move || Warehouse::open(&place, disk)
    };
    restore_into(disk, backup, data_dir, open, progress).await
}

/// The same with a warehouse of any kind, which is opened when it is known that there is a sound backup.
pub async fn restore_into(
    disk: Arc<dyn Disk>,
    backup: &Path,
    data_dir: &Path,
    warehouse: impl FnOnce() -> Result<Warehouse> + Send + 'static,
    progress: &Progress,
) -> Result<BackupReport> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| io_error("find", path, error));
    let (backup, data_dir) = (absolute(backup)?, absolute(data_dir)?);
    let (header, files) = {
        let (disk, manifest) = (disk.clone(), backup.join(MANIFEST));
        blocking(move || read_manifest(&*disk, &manifest)).await?
    };
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    progress.expect(2 * bytes);
    {
        let (disk, data_dir) = (disk.clone(), data_dir.clone());
        let check = move || match is_empty(&*disk, &data_dir)? {
            true => Ok(()),
            false => Err(occupied(&data_dir.display().to_string())),
        };
        blocking(check).await?;
    }
    for file in &files {
        verify(&disk, &backup, file, progress).await?;
    }
    let to = blocking(warehouse).await?;
    let first = to.store().list(None).try_next().await;
    if first.map_err(|error| store_error(error, format!("list {}", to.root_url())))?.is_some() {
        return Err(occupied(to.root_url()));
    }
    {
        let (disk, data_dir) = (disk.clone(), data_dir.clone());
        blocking(move || begin_restore(&*disk, &data_dir)).await?;
    }
    let lakes = Lakes::open(disk.clone(), &backup, &header, to)?;
    lakes.restore(&header, &files, progress).await?;
    for file in files.iter().filter(|file| file.kind.is_none()) {
        let (disk, from, to) = (disk.clone(), backup.join(&file.path), hot_path(&data_dir, file)?);
        let (bytes, crc) = (file.bytes, file.crc32c);
        blocking(move || copy(&*disk, &from, &to, bytes, crc)).await?;
        progress.add(file.bytes)?;
    }
    {
        let data_dir = data_dir.clone();
        blocking(move || {
            for inside in thermocline_engine::HotState::DIRECTORIES {
                let inside = data_dir.join(inside);
                disk.sync_directory(&inside).map_err(|error| io_error("sync", &inside, error))?;
            }
            // The checkpoint's name is durable before the mark goes.
            disk.sync_directory(&data_dir).map_err(|error| io_error("sync", &data_dir, error))?;
            finish_restore(&*disk, &data_dir)
        })
        .await?;
    }
    Ok(BackupReport {
        directory: data_dir,
        made_at: header.made_at,
        position: header.position,
        tables: header.tables,
        files: files.len() as u64,
        bytes,
    })
}

fn occupied(place: &str) -> Error {
    Error::new(Code::InvalidRequest, format!("there is something in {place}"))
        .with_hint("a backup is restored to a data directory and a warehouse that are new or empty")
}

fn read_manifest(disk: &dyn Disk, path: &Path) -> Result<(Header, Vec<BackedUpFile>)> {
    let bytes = disk.map(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(path).display();
            Error::new(Code::NotFound, format!("{directory} is no backup, or one that was not brought to its end"))
                .with_hint("a backup is what `thermocline backup` has made: it has a file named backup")
        }
        _ => io_error("read", path, error),
    })?;
    decode(&bytes).map_err(|error| error.while_doing(path.display()))
}

/// Holds a file against its checksum.
async fn verify(disk: &Arc<dyn Disk>, backup: &Path, file: &BackedUpFile, progress: &Progress) -> Result<()> {
    let (disk, path, bytes, said) = (disk.clone(), backup.join(&file.path), file.bytes, file.crc32c);
    let check = move || {
        let mut crc = 0;
        let read = read_chunks(&*disk, &path, bytes, &mut |chunk| {
            crc = crc32c::crc32c_append(crc, chunk);
            Ok(())
        })?;
        let length = read.len().map_err(|error| io_error("read", &path, error))?;
        match crc == said && length == bytes {
            true => Ok(()),
            false => Err(mismatch(&path)),
        }
    };
    blocking(check).await?;
    progress.add(file.bytes)
}

fn mismatch(path: &Path) -> Error {
    Error::corrupt(format!("{} is not as it was backed up: checksum mismatch", path.display()))
}

/// Where a file of the hot side goes.
fn hot_path(data_dir: &Path, file: &BackedUpFile) -> Result<std::path::PathBuf> {
    let inside = file.path.strip_prefix(DATA).and_then(|path| path.strip_prefix('/'));
    let known = inside.filter(|inside| match inside.split_once('/') {
        Some((directory, name)) => {
            thermocline_engine::HotState::DIRECTORIES.contains(&directory) && !name.contains('/')
        }
        None => *inside == thermocline_engine::HotState::CHECKPOINT,
    });
    let known =
        known.ok_or_else(|| Error::corrupt("a backup of what is no data directory").with_value(file.path.as_str()))?;
    Ok(data_dir.join(known))
}

fn copy(disk: &dyn Disk, from: &Path, to: &Path, bytes: u64, said: u32) -> Result<()> {
    let failed = |error| io_error("write", to, error);
    let file = disk.create(to).map_err(failed)?;
    let (mut at, mut crc) = (0, 0);
    read_chunks(disk, from, bytes, &mut |chunk| {
        file.write_at(&mut [IoSlice::new(chunk)], at).map_err(failed)?;
        crc = crc32c::crc32c_append(crc, chunk);
        at += chunk.len() as u64;
        Ok(())
    })?;
    if crc != said {
        return Err(mismatch(from));
    }
    file.sync().map_err(failed)
}

/// The lakes of a backup, on their way to a warehouse.
struct Lakes {
    from: Warehouse,
    to: Warehouse,
}

impl Lakes {
    /// What lies in the backup is a warehouse with the address that it had.
    fn open(disk: Arc<dyn Disk>, backup: &Path, header: &Header, to: Warehouse) -> Result<Lakes> {
        let root = backup.join(WAREHOUSE);
        let store = DiskStore::open_to_read(Arc::new(ReadOnlyDisk(disk)), &root);
        let store = store.map_err(|error| io_error("open", &root, error))?;
        Ok(Lakes { from: Warehouse::with_store(&header.warehouse, Arc::new(store)), to })
    }

    async fn restore(&self, header: &Header, files: &[BackedUpFile], progress: &Progress) -> Result<()> {
        let mut by_kind: BTreeMap<ObjectKind, Vec<(LakeObject, u32)>> = BTreeMap::new();
        for file in files {
            let Some(kind) = file.kind else { continue };
            let path = file.path.strip_prefix(WAREHOUSE).and_then(|path| path.strip_prefix('/'));
            let path = path.and_then(|path| StorePath::parse(path).ok());
            let path =
                path.ok_or_else(|| Error::corrupt("an object outside the lakes").with_value(file.path.as_str()))?;
            by_kind.entry(kind).or_default().push((LakeObject { path, kind, bytes: file.bytes }, file.crc32c));
        }
        let mut relocation = Relocation::new(&self.from, &self.to);
        for (kind, objects) in by_kind {
            match kind {
                ObjectKind::Data | ObjectKind::Statistics => {
                    for some in objects.chunks(OBJECTS_WAITING) {
                        let copying: Vec<_> =
                            some.iter().map(|(object, crc)| self.copy(object, *crc, progress)).collect();
                        stream::iter(copying).buffer_unordered(OBJECTS_AT_ONCE).try_collect::<()>().await?;
                    }
                }
                _ => {
                    for (object, crc) in &objects {
                        let bytes = self.read(object, *crc).await?;
                        let bytes = match relocation.is_none() {
                            true => bytes,
                            false => relocated(&mut relocation, object, bytes).await?,
                        };
                        self.put(header, object, bytes).await?;
                        progress.add(object.bytes)?;
                    }
                }
            }
        }
        for lake in header.tables.iter().filter_map(|table| table.lake.as_ref()) {
            RestoredMetadata::of(&self.to, &root(&lake.root)?).hint(lake.version).await;
        }
        Ok(())
    }

    async fn read(&self, object: &LakeObject, said: u32) -> Result<Bytes> {
        let got = async { self.from.store().get(&object.path).await?.bytes().await };
        let bytes = got.await.map_err(|error| store_error(error, format!("read {} of the backup", object.path)))?;
        match crc32c::crc32c(&bytes) == said {
            true => Ok(bytes),
            false => Err(mismatch(Path::new(object.path.as_ref()))),
        }
    }

    async fn copy(&self, object: &LakeObject, said: u32, progress: &Progress) -> Result<()> {
        let reading = |error| store_error(error, format!("read {} of the backup", object.path));
        let writing = |error| store_error(error, format!("write {}", self.to.url(&object.path)));
        let mut chunks = self.from.store().get(&object.path).await.map_err(reading)?.into_stream();
        let mut upload = Upload::new(self.to.store().clone(), object.path.clone());
        let mut crc = 0;
        let sent = async {
            while let Some(chunk) = chunks.try_next().await.map_err(reading)? {
                crc = crc32c::crc32c_append(crc, &chunk);
                let bytes = chunk.len() as u64;
                upload.put(chunk).await.map_err(writing)?;
                progress.add(bytes)?;
            }
            if crc != said {
                return Err(mismatch(Path::new(object.path.as_ref())));
            }
            upload.finish().await.map_err(writing)
        };
        let sent = sent.await;
        if sent.is_err() {
            // Its error would be the second one.
            let _ = upload.abort().await;
        }
        sent
    }

    async fn put(&self, header: &Header, object: &LakeObject, bytes: Bytes) -> Result<()> {
        let lakes = header.tables.iter().filter_map(|table| table.lake.as_ref());
        let roots = lakes.map(|lake| root(&lake.root)).collect::<Result<Vec<_>>>()?;
        let own = roots.iter().find(|root| object.path.prefix_matches(root));
        if let (ObjectKind::Metadata, Some(root)) = (object.kind, own)
            && RestoredMetadata::of(&self.to, root).create(&object.path, &bytes).await?
        {
            return Ok(());
        }
        let put = self.to.store().put(&object.path, PutPayload::from(bytes)).await;
        put.map(drop).map_err(|error| store_error(error, format!("write {}", self.to.url(&object.path))))
    }
}

fn root(text: &str) -> Result<StorePath> {
    StorePath::parse(text).map_err(|error| Error::corrupt(format!("{text} is no place of a lake")).with_source(error))
}
