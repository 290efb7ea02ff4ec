//! One lake table: where it is, its newest known version, and the way to a newer one.
//!
//! Always: the cached version only moves forward. The commits of one table go through one queue ([`LakeTable::append`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use object_store::path::Path as StorePath;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result, TableDescriptor, TableId};
use uuid::Uuid;

use super::commit::COMMIT_TIMEOUT;
use super::data_files::{DataFileCache, SnapshotFiles};
use super::deletes::DeleteReader;
use super::layout::{LakeLayout, first_properties};
use super::metadata_files::{Creation, Found, MetadataFiles};
use super::version::Owner;
use super::{FileOffsets, Grace, LakeFile, LakeFileWriter, LakeVersion, properties};
use crate::Warehouse;
use crate::byte_cache::ByteCache;

/// Of the offsets of data files, in memory.
const FILE_OFFSETS_BYTES_MAX: usize = 32 << 20;
const FOOTERS_BYTES_MAX: usize = 16 << 20;

/// An Iceberg table of ours.
#[derive(Debug)]
pub struct LakeTable {
    id: TableId,
    owner: Owner,
    /// The Iceberg uuid, which a table that took this one's place would not have.
    uuid: Uuid,
    layout: RwLock<Arc<LakeLayout>>,
    pub(super) files: MetadataFiles,
    current: RwLock<Arc<LakeVersion>>,
    pub(super) cache: DataFileCache,
    pub(super) file_offsets: ByteCache<StorePath, FileOffsets>,
    /// Of data files of which single rows were asked for, with their indexes of pages.
    pub(super) footers: ByteCache<StorePath, ArrowReaderMetadata>,
    pub(super) deletes: DeleteReader,
    /// Held while a commit builds and creates; see `commit`.
    pub(super) queue: tokio::sync::Mutex<()>,
    pub(super) grace: Grace,
    /// The commits that are being written or committed; see `orphans`.
    pub(super) under_way: Mutex<HashSet<Uuid>>,
}

impl LakeTable {
    /// The lake table of `descriptor`, made if it is not there.
    ///
    /// It lies at `<database>/<table>`, or, where that is another table's, with `-<id>` or `-<id>-<created>` added. All
    /// these places are looked at before a new one is taken, because the first may have become free since. Nothing is
    /// written before the create of `v1.metadata.json`, so a crash leaves either no table or a whole one.
    pub async fn create_or_open(warehouse: &Warehouse, descriptor: &TableDescriptor) -> Result<LakeTable> {
        let layout = LakeLayout::new(descriptor)?;
        let owner = Owner::of(descriptor);
        let table = &descriptor.name.table;
        let places = places(warehouse, descriptor);
        // After a lost race for a place, all are looked at once more.
        for _ in 0..=places.len() {
            let deadline = SystemTime::now() + COMMIT_TIMEOUT;
            let mut free = None;
            for place in &places {
                let mut found = place.newer_than(0).await?;
                if found.is_none() && free.is_none() {
                    match place.is_taken().await? {
                        false => free = Some(place),
                        // Perhaps by the very table, which another server has made since it was looked for.
                        true => found = place.newer_than(0).await?,
                    }
                }
                if let Some(found) = found
                    && Owner::in_metadata(&found.metadata) == Some(owner)
                {
                    return LakeTable::opened(descriptor, layout, place.clone(), found);
                }
            }
            let Some(place) = free else { break };
            let kind = (properties::TABLE_KIND.to_owned(), descriptor.kind.as_str().to_owned());
            let properties = first_properties().into_iter().chain(owner.properties()).chain([kind]).collect();
            let metadata = layout.first_metadata(table.as_str(), &place.location(), properties)?;
            let bytes = metadata_bytes(&metadata)?;
            let is_mine = |found: &iceberg::spec::TableMetadata| Owner::in_metadata(found) == Some(owner);
            if let Creation::Mine = place.create(1, bytes, deadline, is_mine).await? {
                place.write_hint(1).await;
                // Not what we wrote but what is there: two servers may have made the table at one time.
                let found = place.newer_than(0).await?;
                let found = found.ok_or_else(|| Error::internal(format!("{} is gone", place.version_url(1))))?;
                return LakeTable::opened(descriptor, layout, place.clone(), found);
            }
        }
        Err(Error::new(Code::LakeConflict, format!("every lake location of table {} is another's", descriptor.name))
            .with_hint(format!("tried {}", places.each_ref().map(|place| place.location()).join(", "))))
    }

    /// Removes all that is of this table's in the warehouse, if it has a place there. What stands in the metadata goes last,
    /// because it says whose place it is.
    pub async fn remove(warehouse: &Warehouse, descriptor: &TableDescriptor) -> Result<()> {
        let owner = Owner::of(descriptor);
        for place in places(warehouse, descriptor) {
            let found = place.newer_than(0).await?;
            if found.is_some_and(|found| Owner::in_metadata(&found.metadata) == Some(owner)) {
                place.remove_all().await?;
            }
        }
        Ok(())
    }

    fn opened(
        descriptor: &TableDescriptor,
        layout: LakeLayout,
        files: MetadataFiles,
        found: Found,
    ) -> Result<LakeTable> {
        let owner = Owner::of(descriptor);
        let version = files.version_of(found, owner)?;
        Ok(LakeTable {
            id: descriptor.id,
            owner,
            uuid: version.metadata.uuid(),
            layout: RwLock::new(Arc::new(layout)),
            file_offsets: ByteCache::new(FILE_OFFSETS_BYTES_MAX),
            footers: ByteCache::new(FOOTERS_BYTES_MAX),
            deletes: DeleteReader::new(files.warehouse()),
            files,
            current: RwLock::new(Arc::new(version)),
            cache: DataFileCache::default(),
            queue: tokio::sync::Mutex::default(),
            grace: Grace::default(),
            under_way: Mutex::default(),
        })
    }

    /// The same table, with another grace.
    pub fn with_grace(self, grace: Grace) -> LakeTable {
        LakeTable { grace, ..self }
    }

    pub fn id(&self) -> TableId {
        self.id
    }

    /// The absolute address of the table's directory: what other engines are pointed at.
    pub fn location(&self) -> String {
        self.files.location()
    }

    pub fn warehouse(&self) -> &Warehouse {
        self.files.warehouse()
    }

    /// The newest columns of data files: the user's, then `__bucket`, `__offset`, `__timestamp`.
    pub fn arrow_schema(&self) -> SchemaRef {
        self.layout().arrow().clone()
    }

    pub(super) fn layout(&self) -> Arc<LakeLayout> {
        self.layout.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether its newest version has the format and the columns of this version of the table, or later ones.
    pub fn knows(&self, descriptor: &TableDescriptor) -> bool {
        let layout = self.layout();
        layout.version() >= descriptor.schemas().count()
            && layout.format() >= descriptor.properties.format_version(descriptor.kind)
            && layout.has_newest(&self.current().metadata)
    }

    /// Goes by this version of the table from here on, unless it knows of a later one.
    pub fn adopt(&self, descriptor: &TableDescriptor) -> Result<()> {
        let known = self.layout();
        let properties = &descriptor.properties;
        let changed = descriptor.schemas().count() > known.version()
            || !known.knows_partitions(descriptor)
            || properties.format_version(descriptor.kind) != known.format()
            || properties.snapshot_retention_ms != known.snapshot_retention_ms();
        if changed {
            let adopted = Arc::new(LakeLayout::new(descriptor)?);
            let mut layout = self.layout.write().unwrap_or_else(PoisonError::into_inner);
            if adopted.is_as_new_as(&layout) {
                *layout = adopted;
            }
        }
        Ok(())
    }

    /// The newest version known here.
    pub fn current(&self) -> Arc<LakeVersion> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest version there is.
    pub async fn refresh(&self) -> Result<Arc<LakeVersion>> {
        match self.files.newer_than(self.current().version).await? {
            Some(found) => self.advance(self.files.version_of(found, self.owner)?),
            None => Ok(self.current()),
        }
    }

    /// Makes `version` the current one unless a newer one is, and gives the current one.
    pub(super) fn advance(&self, version: LakeVersion) -> Result<Arc<LakeVersion>> {
        if version.metadata.uuid() != self.uuid {
            return Err(Error::new(Code::LakeConflict, format!("the lake table at {} was replaced", self.location()))
                .with_hint(format!("its uuid was {} and is {}", self.uuid, version.metadata.uuid())));
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if version.version > current.version {
            *current = Arc::new(version);
        }
        Ok(current.clone())
    }

    /// The live data files of a version with their deletes, by bucket and first offset.
    pub async fn data_files(&self, version: &LakeVersion) -> Result<Arc<Vec<Arc<LakeFile>>>> {
        Ok(self.snapshot_files(version).await?.data)
    }

    /// Those of these files whose rows lie at or after a log's starts, and those whose rows lie before.
    pub async fn parted(
        &self,
        files: &[Arc<LakeFile>],
        start: impl Fn(PartitionBucket) -> Offset,
    ) -> Result<(Vec<Arc<LakeFile>>, Vec<Arc<LakeFile>>)> {
        let (mut kept, mut gone) = (Vec::with_capacity(files.len()), Vec::new());
        for file in files {
            let start = start(file.bucket);
            let (mut first, mut end) = (file.first_offset, file.end_offset);
            if first < start && start < end {
                // One that others wrote anew without saying what it has.
                let offsets = self.file_offsets(file).await?;
                (first, end) = offsets.range().unwrap_or((start, start));
            }
            match (first >= start, end <= start) {
                (true, _) => kept.push(file.clone()),
                (false, true) => gone.push(file.clone()),
                (false, false) => {
                    let (url, bucket) = (&file.url, file.bucket);
                    let message = format!("{url} has rows on both sides of the start of bucket {bucket}, {start}");
                    return Err(Error::new(Code::LakeConflict, message));
                }
            }
        }
        Ok((kept, gone))
    }

    pub(super) async fn snapshot_files(&self, version: &LakeVersion) -> Result<SnapshotFiles> {
        self.cache.load(&self.files, &self.layout(), &self.deletes, version).await
    }

    /// Whether somebody holds files of it, to read them. What was known of them is forgotten.
    pub fn is_read(&self) -> bool {
        !self.cache.held(None).is_empty()
    }

    /// A new data file for rows of one bucket in the newest columns, to be named in a commit with this id.
    pub fn file_writer(&self, commit_id: Uuid, bucket: PartitionBucket) -> Result<LakeFileWriter> {
        self.file_writer_in(commit_id, bucket, self.arrow_schema())
    }

    /// The same in the columns of some version.
    pub fn file_writer_in(
        &self,
        commit_id: Uuid,
        bucket: PartitionBucket,
        columns: SchemaRef,
    ) -> Result<LakeFileWriter> {
        LakeFileWriter::new(self, commit_id, bucket, columns)
    }
}

/// Where a table's lake may be, the first place first.
pub(super) fn places(warehouse: &Warehouse, descriptor: &TableDescriptor) -> [MetadataFiles; 3] {
    let (database, table) = (&descriptor.name.database, &descriptor.name.table);
    let names = [
        format!("{table}"),
        format!("{table}-{}", descriptor.id),
        format!("{table}-{}-{}", descriptor.id, descriptor.created_ms),
    ];
    names.map(|name| {
        let root = StorePath::from_iter([database.as_str(), name.as_str()]);
        MetadataFiles::new(warehouse, root)
    })
}

pub(super) fn metadata_bytes(metadata: &iceberg::spec::TableMetadata) -> Result<Bytes> {
    let bytes = serde_json::to_vec(metadata)
        .map_err(|error| Error::internal("table metadata does not serialise").with_source(error))?;
    Ok(bytes.into())
}
