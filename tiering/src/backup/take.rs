//! Taking a backup: what the module's text says, of a running server and of a stopped one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use thermocline_engine::disk::{Disk, DiskFile, create_directories, write_durably};
use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{HotState, HotTable, Table};
use thermocline_schemas::{Code, Error, Result, TableDescriptor, TableId};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard};

use super::manifest_format::{BackedUpFile, BackedUpLake, BackedUpTable, Header, encode};
use super::{BackupReport, DATA, MANIFEST, Progress, WAREHOUSE, blocking, io_error, is_empty, read_chunks};
use crate::Warehouse;
use crate::lake::{CapturedLake, LakeObject};
use crate::tiering::Tiering;
use crate::warehouse::store_error;

const OBJECTS_AT_ONCE: usize = 4;
/// So many copies are planned at once, which takes memory for each.
const OBJECTS_WAITING: usize = 256;
/// How often tables that were made meanwhile are added.
const LOOKS_MAX: usize = 16;

/// The lakes of a moment, by table.
type Lakes = HashMap<TableId, Option<CapturedLake>>;

/// What keeps tables as they are for a moment, and lakes whole for as long as they are copied.
#[derive(Default)]
struct Hold {
    lakes: Lakes,
    rounds: Vec<OwnedMutexGuard<()>>,
    kept: Vec<OwnedRwLockReadGuard<()>>,
}

impl Tiering {
    /// Makes a backup in `directory`, which must be new or have nothing in it; one at a time.
    pub async fn back_up(
        self: Arc<Self>,
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        progress: Arc<Progress>,
    ) -> Result<BackupReport> {
        let Ok(_one) = self.backup.try_lock() else {
            return Err(Error::new(Code::TooBusy, "another backup is being made").with_hint("wait until it is done"));
        };
        let target = Target::begin(disk, &directory).await?;
        let mut hold = Hold::default();
        let hot = match self.capture(&mut hold).await {
            Ok(hot) => hot,
            Err(error) => return Err(target.given_up(error).await),
        };
        hold.rounds.clear();
        let state = State { hot: &hot, lakes: &hold.lakes, warehouse: self.warehouse() };
        let written = target.write(state, &progress).await;
        blocking(move || hot.let_go()).await?;
        match written {
            Ok(report) => Ok(report),
            Err(error) => Err(target.given_up(error).await),
        }
    }

    async fn still(&self, table: &Arc<Table>) -> Result<Still> {
        let own = self.table_lake(table);
        let round = own.round.clone().lock_owned().await;
        let kept = own.kept.clone().read_owned().await;
        let kept = (!faults::planted(Defect::BackupNotKept)).then_some(kept);
        let round = (!faults::planted(Defect::BackupTakesLakeFirst)).then_some(round);
        // One that was unfinished may have got a lake meanwhile.
        let lake = newest(self.warehouse(), self.engine().newest(table).descriptor()).await?;
        Ok(Still { id: table.descriptor().id, round, kept, lake })
    }

    /// Lakes first, hot rows then, while no round commits.
    async fn capture(&self, hold: &mut Hold) -> Result<HotState> {
        for _ in 0..LOOKS_MAX {
            let dropped = self.engine().dropped_tables().into_iter().map(|(table, _)| table);
            let mut tables: Vec<Arc<Table>> = self.engine().tables().into_iter().chain(dropped).collect();
            tables.retain(|table| !hold.lakes.contains_key(&table.descriptor().id));
            tables.sort_by_key(|table| table.descriptor().id);
            // Several at one time: nobody else waits for a round while it has another.
            let taking: Vec<_> = tables.iter().map(|table| self.still(table)).collect();
            let taken: Vec<_> = stream::iter(taking).buffer_unordered(OBJECTS_AT_ONCE).try_collect().await?;
            for Still { id, round, kept, lake } in taken {
                hold.rounds.extend(round);
                hold.kept.extend(kept);
                hold.lakes.insert(id, lake);
            }
            faults::linger(Defect::BackupTakesLakeFirst);
            let hot = self.engine().hot_state().await?;
            if hot.tables.iter().all(|table| hold.lakes.contains_key(&table.descriptor.id)) {
                return Ok(hot);
            }
            // Tables were made meanwhile.
            blocking(move || hot.let_go()).await?;
        }
        Err(Error::new(Code::TooBusy, "tables are being made faster than they can be backed up"))
    }
}

/// A table between two rounds.
struct Still {
    id: TableId,
    round: Option<OwnedMutexGuard<()>>,
    kept: Option<OwnedRwLockReadGuard<()>>,
    lake: Option<CapturedLake>,
}

/// Makes a backup of a data directory that no server has, and of its lakes.
pub async fn back_up_stopped(
    disk: Arc<dyn Disk>,
    data_dir: &Path,
    warehouse: &Warehouse,
    directory: &Path,
    progress: &Progress,
) -> Result<BackupReport> {
    let hot = {
        let (disk, data_dir) = (disk.clone(), data_dir.to_owned());
        blocking(move || HotState::of_stopped(disk, &data_dir)).await?
    };
    let mut lakes = Lakes::new();
    for table in &hot.tables {
        lakes.insert(table.descriptor.id, newest(warehouse, &table.descriptor).await?);
    }
    let target = Target::begin(disk, directory).await?;
    let written = target.write(State { hot: &hot, lakes: &lakes, warehouse }, progress).await;
    match written {
        Ok(report) => Ok(report),
        Err(error) => Err(target.given_up(error).await),
    }
}

async fn newest(warehouse: &Warehouse, descriptor: &TableDescriptor) -> Result<Option<CapturedLake>> {
    if !descriptor.properties.lake_enabled {
        return Ok(None);
    }
    let found = CapturedLake::newest(warehouse, descriptor).await;
    found.map_err(|error| error.while_doing(format!("the lake of table {}", descriptor.name)))
}

/// What is to be copied.
#[derive(Clone, Copy)]
struct State<'s> {
    hot: &'s HotState,
    lakes: &'s Lakes,
    warehouse: &'s Warehouse,
}

impl State<'_> {
    fn lake(&self, table: &HotTable) -> Option<&CapturedLake> {
        self.lakes.get(&table.descriptor.id)?.as_ref()
    }

    /// The tables, each with every row once.
    fn tables(&self) -> Result<Vec<BackedUpTable>> {
        self.hot.tables.iter().map(|table| self.table(table)).collect()
    }

    fn table(&self, table: &HotTable) -> Result<BackedUpTable> {
        let name = &table.descriptor.name;
        let lake = self.lake(table);
        let (mut hot_rows, mut untiered_rows) = (0, 0);
        for (bucket, (floor, end)) in &table.buckets {
            let tiered = match (lake, table.descriptor.properties.lake_enabled) {
                (Some(lake), _) => lake.version.offsets.get(*bucket),
                (None, true) => thermocline_schemas::Offset::ZERO,
                (None, false) => *floor,
            };
            // Of rows that were taken away nothing is missed.
            let tiered = tiered.max(table.starts.start(*bucket));
            let whole = *floor <= tiered && tiered <= *end;
            if !whole && table.refused == 0 && !faults::planted(Defect::BackupTakesLakeFirst) {
                return Err(Error::corrupt(format!(
                    "table {name} bucket {bucket} is hot from offset {floor} to {end}, and its lake ends at {tiered}"
                ))
                .with_hint("is it the warehouse of this data directory? `thermocline check` says more"));
            }
            hot_rows += end.0.saturating_sub(floor.0);
            untiered_rows += end.0.saturating_sub(tiered.0);
        }
        let lake = lake.map(|lake| BackedUpLake {
            root: lake.root().to_string(),
            version: lake.version.version,
            snapshots: lake.snapshots(),
        });
        let (name, id) = (name.to_string(), table.descriptor.id.0);
        Ok(BackedUpTable { name, id, hot_rows, untiered_rows, refused_buckets: table.refused, lake })
    }
}

/// A directory that becomes a backup.
struct Target {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
}

impl Target {
    async fn begin(disk: Arc<dyn Disk>, directory: &Path) -> Result<Target> {
        let directory = std::path::absolute(directory).map_err(|error| io_error("find", directory, error))?;
        let target = Target { disk: disk.clone(), directory: directory.clone() };
        let begin = move || {
            if !is_empty(&*disk, &directory)? {
                let there = format!("there is something in {}", directory.display());
                return Err(Error::new(Code::InvalidRequest, there).with_hint("name a directory that is new or empty"));
            }
            let data = HotState::DIRECTORIES.iter().map(|inside| directory.join(DATA).join(inside));
            for inside in data.chain([directory.join(WAREHOUSE)]) {
                create_directories(&*disk, &inside).map_err(|error| io_error("make", &inside, error))?;
            }
            Ok(())
        };
        blocking(begin).await?;
        Ok(target)
    }

    async fn write(&self, state: State<'_>, progress: &Progress) -> Result<BackupReport> {
        let tables = state.tables()?;
        let mut objects = BTreeMap::new();
        for lake in state.hot.tables.iter().filter_map(|table| state.lake(table)) {
            objects.extend(lake.objects().await?.into_iter().map(|object| (object.path.clone(), object)));
        }
        let hot: u64 = state.hot.files.iter().map(|file| file.bytes).sum();
        let checkpoint = state.hot.checkpoint.len() as u64;
        progress.expect(checkpoint + hot + objects.values().map(|object| object.bytes).sum::<u64>());
        let mut files = vec![self.checkpoint(&state.hot.checkpoint).await?];
        progress.add(checkpoint)?;
        for file in &state.hot.files {
            files.push(self.hot_file(state.hot.disk(), file, progress).await?);
        }
        let objects: Vec<_> = objects.into_values().collect();
        for some in objects.chunks(OBJECTS_WAITING) {
            let copying: Vec<_> = some.iter().map(|object| self.object(state.warehouse, object, progress)).collect();
            files.extend(stream::iter(copying).buffered(OBJECTS_AT_ONCE).try_collect::<Vec<_>>().await?);
        }
        let header = Header {
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: state.hot.taken_at,
            position: state.hot.position.0,
            warehouse: state.warehouse.root_url().to_owned(),
            tables,
        };
        self.finish(&header, &files).await?;
        Ok(BackupReport {
            directory: self.directory.clone(),
            made_at: header.made_at,
            position: header.position,
            tables: header.tables,
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.bytes).sum(),
        })
    }

    async fn checkpoint(&self, bytes: &[u8]) -> Result<BackedUpFile> {
        let copy = Copy::begin(self, format!("{DATA}/{}", HotState::CHECKPOINT)).await?;
        copy.put(Bytes::copy_from_slice(bytes)).await?.finish().await
    }

    async fn hot_file(
        &self,
        from: &Arc<dyn Disk>,
        file: &thermocline_engine::HotFile,
        progress: &Progress,
    ) -> Result<BackedUpFile> {
        let mut copy = Copy::begin(self, format!("{DATA}/{}", file.name)).await?;
        let (sender, mut chunks) = tokio::sync::mpsc::channel::<Bytes>(2);
        let (from, path, bytes) = (from.clone(), file.path.clone(), file.bytes);
        let reading = tokio::task::spawn_blocking(move || {
            let read = read_chunks(&*from, &path, bytes, &mut |chunk| {
                // Nobody listens any more: it was broken off.
                let sent = sender.blocking_send(chunk.to_vec().into());
                sent.map_err(|_| Error::new(Code::ShuttingDown, "it was broken off"))
            });
            read.map(drop)
        });
        while let Some(chunk) = chunks.recv().await {
            copy = copy.put(chunk.clone()).await?;
            progress.add(chunk.len() as u64)?;
        }
        reading.await.map_err(|error| Error::internal("a task ended early").with_source(error))??;
        copy.finish().await
    }

    async fn object(&self, warehouse: &Warehouse, object: &LakeObject, progress: &Progress) -> Result<BackedUpFile> {
        let failed = |error| store_error(error, format!("read {}", warehouse.url(&object.path)));
        let got = warehouse.store().get(&object.path).await.map_err(failed)?;
        let mut chunks = got.into_stream();
        let mut copy = Copy::begin(self, format!("{WAREHOUSE}/{}", object.path)).await?;
        while let Some(chunk) = chunks.try_next().await.map_err(failed)? {
            let bytes = chunk.len() as u64;
            copy = copy.put(chunk).await?;
            progress.add(bytes)?;
        }
        if copy.bytes != object.bytes {
            let (url, found, said) = (warehouse.url(&object.path), copy.bytes, object.bytes);
            return Err(Error::corrupt(format!("{url} has {found} bytes, its manifest says {said}")));
        }
        Ok(BackedUpFile { kind: Some(object.kind), ..copy.finish().await? })
    }

    /// All names are durable, and then what says so.
    async fn finish(&self, header: &Header, files: &[BackedUpFile]) -> Result<()> {
        let mut directories = BTreeSet::from([self.directory.clone()]);
        for file in files {
            let path = self.directory.join(&file.path);
            directories
                .extend(path.ancestors().skip(1).take_while(|above| *above != self.directory).map(Path::to_owned));
        }
        let (disk, bytes, manifest) = (self.disk.clone(), encode(header, files)?, self.directory.join(MANIFEST));
        let finish = move || {
            for directory in directories {
                disk.sync_directory(&directory).map_err(|error| io_error("sync", &directory, error))?;
            }
            write_durably(&*disk, &manifest, &bytes).map_err(|error| io_error("write", &manifest, error))
        };
        blocking(finish).await
    }

    /// Removes what is there, as far as it goes. Without [`MANIFEST`], which goes first, it is no backup whatever stays.
    async fn given_up(self, error: Error) -> Error {
        let (disk, directory) = (self.disk, self.directory);
        let removing = tokio::task::spawn_blocking(move || {
            let _ = disk.remove(&directory.join(MANIFEST));
            remove_files(&*disk, &directory)
        });
        if !matches!(removing.await, Ok(Ok(()))) {
            tracing::warn!("some of a backup that was given up stays");
        }
        error
    }
}

fn remove_files(disk: &dyn Disk, directory: &Path) -> std::io::Result<()> {
    for entry in disk.list(directory)? {
        let path = directory.join(&entry.name);
        match entry.is_directory {
            true => remove_files(disk, &path)?,
            false => disk.remove(&path)?,
        }
    }
    disk.sync_directory(directory)
}

/// A file of a backup that is being written.
struct Copy {
    path: String,
    full: PathBuf,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    crc: u32,
}

impl Copy {
    async fn begin(target: &Target, path: String) -> Result<Copy> {
        let (disk, directory) = (target.disk.clone(), target.directory.clone());
        blocking(move || {
            let full = directory.join(&path);
            let parent = full.parent().unwrap_or(&directory);
            let made = create_directories(&*disk, parent).and_then(|()| disk.create(&full));
            let file = made.map_err(|error| io_error("make", &full, error))?;
            Ok(Copy { path, full, file, bytes: 0, crc: 0 })
        })
        .await
    }

    async fn put(mut self, bytes: Bytes) -> Result<Copy> {
        blocking(move || {
            let written = self.file.write_at(&mut [IoSlice::new(&bytes)], self.bytes);
            written.map_err(|error| io_error("write", &self.full, error))?;
            self.crc = crc32c::crc32c_append(self.crc, &bytes);
            self.bytes += bytes.len() as u64;
            Ok(self)
        })
        .await
    }

    async fn finish(self) -> Result<BackedUpFile> {
        blocking(move || {
            self.file.sync().map_err(|error| io_error("sync", &self.full, error))?;
            Ok(BackedUpFile { path: self.path, bytes: self.bytes, crc32c: self.crc, kind: None })
        })
        .await
    }
}
