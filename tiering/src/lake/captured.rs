//! A version of a lake table with all that it takes to read every snapshot it names: what a backup copies.
//!
//! Always: an object that the version names is in the list once, with what it is. Of the past there are also the metadata
//! files that its log names, as far as they are there; what these name beyond it is gone for every reader.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, DataFileFormat, Manifest, ManifestFile, TableMetadata};
use object_store::ObjectStoreExt;
use object_store::path::Path as StorePath;
use serde::{Deserialize, Serialize};
use thermocline_schemas::{Code, Error, Result, TableDescriptor};

use super::commit::COMMIT_TIMEOUT;
use super::data_files::{manifests_of, parse, read_all};
use super::metadata_files::{Creation, MetadataFiles, version_in};
use super::table::places;
use super::version::Owner;
use super::{LakeVersion, Relocation};
use crate::Warehouse;
use crate::warehouse::store_error;

const READS_AT_ONCE: usize = 8;

/// What an object of a lake is. The order is that in which they are restored: who names comes after what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// Rows; and deletes by value, which name no address either.
    Data,
    Statistics,
    PositionDeletes,
    /// A Puffin file of deletion vectors.
    Vectors,
    Manifest,
    ManifestList,
    Metadata,
}

/// An object of a lake, by its path in the warehouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeObject {
    pub path: StorePath,
    pub kind: ObjectKind,
    pub bytes: u64,
}

/// A version of a table's lake.
#[derive(Clone, Debug)]
pub struct CapturedLake {
    files: MetadataFiles,
    pub version: LakeVersion,
}

impl CapturedLake {
    /// The newest version of a table's lake; none if it has none yet. Makes nothing.
    pub async fn newest(warehouse: &Warehouse, descriptor: &TableDescriptor) -> Result<Option<CapturedLake>> {
        let owner = Owner::of(descriptor);
        for files in places(warehouse, descriptor) {
            let found = files.newer_than(0).await?;
            if let Some(found) = found.filter(|found| Owner::in_metadata(&found.metadata) == Some(owner)) {
                let version = files.version_of(found, owner)?;
                return Ok(Some(CapturedLake { files, version }));
            }
        }
        Ok(None)
    }

    /// The table's directory in the warehouse.
    pub fn root(&self) -> &StorePath {
        self.files.root()
    }

    pub fn snapshots(&self) -> usize {
        self.version.metadata.snapshots().len()
    }

    /// All its objects, by their paths.
    pub async fn objects(&self) -> Result<Vec<LakeObject>> {
        let warehouse = self.files.warehouse();
        let metadata = &self.version.metadata;
        let mut objects = BTreeMap::new();
        let mut seen = HashSet::new();
        for snapshot in metadata.snapshots() {
            let list = warehouse.path(snapshot.manifest_list())?;
            objects.insert(list.clone(), (ObjectKind::ManifestList, self.length(&list).await?));
            let mut listed = manifests_of(&self.files, &self.version, snapshot).await?;
            listed.retain(|manifest| seen.insert(manifest.manifest_path.clone()));
            let read: Vec<_> = listed.into_iter().map(|manifest| self.named(manifest)).collect();
            let named: Vec<_> = stream::iter(read).buffer_unordered(READS_AT_ONCE).try_collect().await?;
            objects.extend(named.into_iter().flatten());
        }
        let statistics = metadata.statistics_iter().map(|file| file.statistics_path.as_str());
        let of_partitions = metadata.partition_statistics_iter().map(|file| file.statistics_path.as_str());
        for url in statistics.chain(of_partitions) {
            // Others keep them where and as long as they like.
            let Ok(path) = warehouse.path(url) else { continue };
            if let Some(bytes) = self.length_if_there(&path).await? {
                objects.insert(path, (ObjectKind::Statistics, bytes));
            }
        }
        for entry in metadata.metadata_log() {
            let path = warehouse.path(&entry.metadata_file)?;
            if let Some(bytes) = self.length_if_there(&path).await? {
                objects.insert(path, (ObjectKind::Metadata, bytes));
            }
        }
        let own = warehouse.path(&self.version.metadata_url)?;
        let bytes = self.length(&own).await?;
        objects.insert(own, (ObjectKind::Metadata, bytes));
        Ok(objects.into_iter().map(|(path, (kind, bytes))| LakeObject { path, kind, bytes }).collect())
    }

    /// A manifest, and what lives in it.
    async fn named(&self, listed: ManifestFile) -> Result<Vec<(StorePath, (ObjectKind, u64))>> {
        let url = &listed.manifest_path;
        let warehouse = self.files.warehouse();
        let bytes = read_all(&self.files, url).await?;
        let manifest = parse(url, || Manifest::parse_avro(&bytes))?;
        let mut named = vec![(warehouse.path(url)?, (ObjectKind::Manifest, bytes.len() as u64))];
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            let file = entry.data_file();
            let kind = match (file.content_type(), file.file_format()) {
                (DataContentType::PositionDeletes, DataFileFormat::Puffin) => ObjectKind::Vectors,
                (DataContentType::PositionDeletes, DataFileFormat::Parquet) => ObjectKind::PositionDeletes,
                (DataContentType::PositionDeletes, other) => {
                    let path = file.file_path();
                    return Err(Error::corrupt(format!("{path} holds deletes as {other}, which cannot be moved")));
                }
                (DataContentType::Data | DataContentType::EqualityDeletes, _) => ObjectKind::Data,
            };
            named.push((warehouse.path(file.file_path())?, (kind, file.file_size_in_bytes())));
        }
        Ok(named)
    }

    async fn length(&self, path: &StorePath) -> Result<u64> {
        let length = self.length_if_there(path).await?;
        length.ok_or_else(|| Error::corrupt(format!("{} is missing", self.files.warehouse().url(path))))
    }

    async fn length_if_there(&self, path: &StorePath) -> Result<Option<u64>> {
        match self.files.warehouse().store().head(path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error(error, format!("look for {path}"))),
        }
    }
}

/// The metadata files of a table that is being restored.
#[derive(Debug)]
pub struct RestoredMetadata {
    files: MetadataFiles,
}

impl RestoredMetadata {
    pub fn of(warehouse: &Warehouse, root: &StorePath) -> RestoredMetadata {
        RestoredMetadata { files: MetadataFiles::new(warehouse, root.clone()) }
    }

    /// Creates the version file at `path`; false if that is no name of one.
    pub async fn create(&self, path: &StorePath, bytes: &Bytes) -> Result<bool> {
        let version = version_in(path).filter(|version| self.files.version_path(*version) == *path);
        let Some(version) = version else { return Ok(false) };
        let known = |metadata: &TableMetadata| (metadata.uuid(), metadata.last_updated_ms());
        let ours = serde_json::from_slice::<TableMetadata>(bytes).ok().map(|metadata| known(&metadata));
        let deadline = SystemTime::now() + COMMIT_TIMEOUT;
        match self.files.create(version, bytes.clone(), deadline, |found| ours == Some(known(found))).await? {
            Creation::Mine => Ok(true),
            Creation::Taken => {
                let taken = format!("somebody else made {path} while it was being restored");
                Err(Error::new(Code::LakeConflict, taken))
            }
        }
    }

    /// After the newest one.
    pub async fn hint(&self, version: u64) {
        self.files.write_hint(version).await;
    }
}

/// An object as it stands at another address; `bytes` is what it was.
pub async fn relocated(relocation: &mut Relocation, object: &LakeObject, bytes: Bytes) -> Result<Bytes> {
    match object.kind {
        ObjectKind::Data | ObjectKind::Statistics => Ok(bytes),
        ObjectKind::PositionDeletes => relocation.position_deletes(&object.path, bytes.len() as u64).await,
        ObjectKind::Vectors => relocation.vectors(&object.path, &bytes),
        ObjectKind::Manifest => relocation.manifest(&object.path, &bytes),
        ObjectKind::ManifestList => relocation.manifest_list(&object.path, &bytes),
        ObjectKind::Metadata => relocation.metadata(&object.path, &bytes),
    }
}
