//! A lake table as another engine finds it: the newest metadata file by listing, its snapshot, manifests, data files
//! with all their rows, and which of these are deleted. For checks, so it shares little with how we read it ourselves,
//! and changes nothing.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{FieldRef, Int64Type};
use bytes::Bytes;
use futures::future::TryFutureExt;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use iceberg::io::FileIO;
use iceberg::puffin::{BlobMetadata, DELETION_VECTOR_V1, PuffinReader};
use iceberg::spec::{
    DataContentType, DataFile, DataFileFormat, Datum, Manifest, ManifestContentType, ManifestEntryRef,
    PrimitiveLiteral, Struct,
};
use object_store::ObjectStoreExt;
use object_store::path::Path as StorePath;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{ParquetObjectReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use roaring::RoaringTreemap;
use thermocline_schemas::{
    Error, FIELD_ID_KEY, FieldId, Offset, PartitionId, Result, SystemColumn, TableDescriptor, TableId,
};

use super::data_files::{manifest_list, parse};
use super::layout::LakeLayout;
use super::metadata_files::MetadataFiles;
use super::position_deletes::{PATH_FIELD, POSITION_FIELD};
use super::{LakeVersion, properties, vectors};
use crate::Warehouse;
use crate::guarded::{guarded, guarded_future, guarded_stream};
use crate::warehouse::store_error;

/// The newest version of a table's lake.
#[derive(Clone, Debug)]
pub struct LakeInspection {
    files: MetadataFiles,
    version: LakeVersion,
}

/// A manifest as the list names it.
#[derive(Clone, Debug)]
pub struct NamedManifest {
    pub url: String,
    pub bytes: u64,
    /// It names deletes, and no data.
    pub deletes: bool,
    sequence: i64,
}

/// A data file as its manifest names it.
#[derive(Clone, Debug)]
pub struct NamedFile {
    pub url: String,
    pub bytes: u64,
    pub rows: u64,
    /// The bounds of `__offset`, both inclusive, if the manifest has them.
    pub offsets: Option<(Offset, Offset)>,
    partition: Struct,
    sequence: i64,
}

/// Which partition of a table its data files are in.
#[derive(Debug)]
pub struct FilePartitions(LakeLayout);

impl FilePartitions {
    pub fn of(descriptor: &TableDescriptor) -> Result<FilePartitions> {
        LakeLayout::new(descriptor).map(FilePartitions)
    }

    pub fn partition(&self, file: &NamedFile) -> Result<PartitionId> {
        let unknown = || Error::corrupt(format!("the partition {:?} is none of the table's", file.partition.fields()));
        Ok(self.0.bucket_of(&file.partition).ok_or_else(unknown)?.partition)
    }
}

/// What deletes rows of data files, as its manifest names it: a file of positions, or a vector within a Puffin file.
#[derive(Clone, Debug)]
pub struct NamedDeletes {
    pub url: String,
    pub bytes: u64,
    /// How many rows it deletes.
    pub rows: u64,
    /// The data file that it is of; of none in particular if it may be of many.
    pub of: Option<String>,
    /// Where the vector is in its file.
    vector: Option<(u64, u64)>,
    sequence: i64,
}

impl NamedDeletes {
    /// Deletes are of what was there before them, or came with them.
    pub fn is_of(&self, file: &NamedFile) -> bool {
        self.of.as_ref().is_none_or(|of| *of == file.url) && file.sequence <= self.sequence
    }
}

impl LakeInspection {
    /// What lies at `root`, a path within the warehouse as `database/table`; none if no version is there.
    pub async fn newest(warehouse: &Warehouse, root: &str) -> Result<Option<LakeInspection>> {
        let root = StorePath::parse(root)
            .map_err(|error| Error::internal(format!("{root} is no place in a warehouse")).with_source(error))?;
        let files = MetadataFiles::new(warehouse, root);
        let Some(newest) = files.newest_listed().await? else { return Ok(None) };
        let Some(found) = files.read(newest).await? else { return Ok(None) };
        let version = LakeVersion::new(found.version, files.version_url(found.version), found.metadata)?;
        Ok(Some(LakeInspection { files, version }))
    }

    pub fn version(&self) -> &LakeVersion {
        &self.version
    }

    /// Whose lake it is: the table's id and when it was made, if it is one of ours.
    pub fn owner(&self) -> Option<(TableId, i64)> {
        let property = |name| self.version.metadata.properties().get(name);
        let id = property(properties::TABLE_ID)?.parse().ok()?;
        Some((TableId(id), property(properties::TABLE_CREATED)?.parse().ok()?))
    }

    /// The list of the current snapshot's manifests; none before the first commit.
    pub fn manifest_list(&self) -> Option<&str> {
        self.version.metadata.current_snapshot().map(|snapshot| snapshot.manifest_list())
    }

    pub async fn manifests(&self) -> Result<Vec<NamedManifest>> {
        let listed = manifest_list(&self.files, &self.version).await?;
        let named = listed.into_iter().map(|manifest| NamedManifest {
            url: manifest.manifest_path,
            bytes: manifest.manifest_length.unsigned_abs(),
            deletes: manifest.content == ManifestContentType::Deletes,
            sequence: manifest.sequence_number,
        });
        Ok(named.collect())
    }

    /// The live data files of a manifest.
    pub async fn data_files(&self, manifest: &NamedManifest) -> Result<Vec<NamedFile>> {
        let mut files = Vec::new();
        for entry in self.entries(manifest).await? {
            let file = entry.data_file();
            if file.content_type() != DataContentType::Data {
                let url = &manifest.url;
                return Err(Error::corrupt(format!("{url} holds deletes, and is a manifest of data")));
            }
            files.push(NamedFile {
                url: file.file_path().to_owned(),
                bytes: file.file_size_in_bytes(),
                rows: file.record_count(),
                offsets: self.offset_bounds(file),
                partition: file.partition().clone(),
                sequence: entry.sequence_number().unwrap_or(manifest.sequence),
            });
        }
        Ok(files)
    }

    /// The live deletes of a manifest. Those by value are an error, and so are any of a log table.
    pub async fn deletes(&self, manifest: &NamedManifest) -> Result<Vec<NamedDeletes>> {
        let url = &manifest.url;
        let mut found = Vec::new();
        for entry in self.entries(manifest).await? {
            let file = entry.data_file();
            if !self.version.is_keyed {
                return Err(Error::corrupt(format!("{url} holds deletes, which a log table cannot have")));
            }
            if file.content_type() != DataContentType::PositionDeletes {
                return Err(Error::corrupt(format!("{} does not delete by position", file.file_path())));
            }
            let place = file.content_offset().zip(file.content_size_in_bytes());
            let vector = match (file.file_format(), place) {
                (DataFileFormat::Puffin, Some((offset, length))) => Some((offset as u64, length as u64)),
                (DataFileFormat::Puffin, None) => {
                    return Err(Error::corrupt(format!(
                        "{url} does not say where in {} a vector is",
                        file.file_path()
                    )));
                }
                _ => None,
            };
            found.push(NamedDeletes {
                url: file.file_path().to_owned(),
                bytes: file.file_size_in_bytes(),
                rows: file.record_count(),
                of: file.referenced_data_file(),
                vector,
                sequence: entry.sequence_number().unwrap_or(manifest.sequence),
            });
        }
        Ok(found)
    }

    async fn entries(&self, manifest: &NamedManifest) -> Result<Vec<ManifestEntryRef>> {
        let url = &manifest.url;
        let bytes = self.object(url).await?;
        if bytes.len() as u64 != manifest.bytes {
            let said = manifest.bytes;
            return Err(Error::corrupt(format!("{url} has {} bytes, its list says {said}", bytes.len())));
        }
        let parsed = parse(url, || Manifest::parse_avro(&bytes))?;
        Ok(parsed.entries().iter().filter(|entry| entry.is_alive()).cloned().collect())
    }

    async fn object(&self, url: &str) -> Result<Bytes> {
        let bytes = self.files.get(&self.files.warehouse().path(url)?).await?;
        bytes.ok_or_else(|| Error::corrupt(format!("{url} is missing")))
    }

    /// Which positions are deleted, by the address of the data file.
    pub async fn deleted(&self, deletes: &NamedDeletes) -> Result<HashMap<String, RoaringTreemap>> {
        let found = match deletes.vector {
            Some(place) => self.vector(deletes, place).await?,
            None => self.positions(deletes).await?,
        };
        let (url, said) = (&deletes.url, deletes.rows);
        let count: u64 = found.values().map(RoaringTreemap::len).sum();
        if count != said {
            return Err(Error::corrupt(format!("{url} deletes {count} rows, its manifest says {said}")));
        }
        if let Some(of) = &deletes.of
            && let Some(other) = found.keys().find(|other| *other != of)
        {
            return Err(Error::corrupt(format!("{url} is said to be of {of}, and deletes rows of {other}")));
        }
        Ok(found)
    }

    /// A vector as its Puffin file's own footer names it.
    async fn vector(&self, deletes: &NamedDeletes, place: (u64, u64)) -> Result<HashMap<String, RoaringTreemap>> {
        let url = &deletes.url;
        let unreadable = || Error::corrupt(format!("{url} cannot be read"));
        let bytes = self.object(url).await?;
        let blobs = guarded_future(unreadable, async {
            let memory = FileIO::new_with_memory();
            let read = async {
                memory.new_output(url)?.write(bytes.clone()).await?;
                let reader = PuffinReader::new(memory.new_input(url)?);
                Ok::<_, iceberg::Error>(reader.file_metadata().await?.blobs().to_vec())
            };
            read.await.map_err(|error| unreadable().with_source(error))
        });
        let blobs = blobs.await?;
        let is_it = |blob: &&BlobMetadata| (blob.offset(), blob.length()) == place;
        let blob = blobs.iter().find(is_it).filter(|blob| blob.blob_type() == DELETION_VECTOR_V1);
        let (offset, length) = place;
        let blob = blob.ok_or_else(|| Error::corrupt(format!("{url} has no deletion vector at {offset}")))?;
        let of = blob.properties().get("referenced-data-file");
        let of = of.ok_or_else(|| Error::corrupt(format!("{url}: the vector at {offset} is of no data file")))?;
        let end = offset.checked_add(length).filter(|end| *end <= bytes.len() as u64);
        let end = end.ok_or_else(|| Error::corrupt(format!("{url} ends within the vector at {offset}")))?;
        let positions = vectors::decode(&bytes[offset as usize..end as usize]);
        Ok(HashMap::from([(of.clone(), positions.map_err(|error| error.while_doing(url))?)]))
    }

    async fn positions(&self, deletes: &NamedDeletes) -> Result<HashMap<String, RoaringTreemap>> {
        let url = &deletes.url;
        let mut found: HashMap<String, RoaringTreemap> = HashMap::new();
        let mut batches = self.batches(url, deletes.bytes).await?;
        while let Some(batch) = batches.try_next().await? {
            let column = |id: FieldId| {
                let is_it = |field: &FieldRef| field_id(field) == Some(id.0);
                let place = batch.schema_ref().fields().iter().position(is_it);
                place.map(|place| batch.column(place)).filter(|column| column.null_count() == 0)
            };
            let paths = column(PATH_FIELD).and_then(|column| column.as_string_opt::<i32>());
            let positions = column(POSITION_FIELD).and_then(|column| column.as_primitive_opt::<Int64Type>());
            let (Some(paths), Some(positions)) = (paths, positions) else {
                return Err(Error::corrupt(format!("{url} does not have the columns of position deletes")));
            };
            for (path, position) in paths.iter().flatten().zip(positions.values()) {
                if !found.entry(path.to_owned()).or_default().insert(*position as u64) {
                    return Err(Error::corrupt(format!("{url} deletes row {position} of {path} twice")));
                }
            }
        }
        Ok(found)
    }

    /// What all these delete, by the address of the data file. An error if that is not one of these, older than what
    /// deletes its rows, or if a row is deleted that the file does not have, or twice.
    pub async fn all_deleted(
        &self,
        files: &[NamedFile],
        deletes: &[NamedDeletes],
    ) -> Result<HashMap<String, RoaringTreemap>> {
        let by_url: HashMap<&str, &NamedFile> = files.iter().map(|file| (file.url.as_str(), file)).collect();
        let mut all: HashMap<String, RoaringTreemap> = HashMap::new();
        for one in deletes {
            for (url, positions) in self.deleted(one).await? {
                let wrong = |what: &str| Error::corrupt(format!("{} deletes rows of {url}, {what}", one.url));
                let file = by_url.get(url.as_str()).filter(|file| one.is_of(file));
                let file = file.ok_or_else(|| wrong("which is not there, or came later"))?;
                if positions.max().is_some_and(|last| last >= file.rows) {
                    return Err(wrong("more than it has"));
                }
                let own = all.entry(url.clone()).or_default();
                if !own.is_disjoint(&positions) {
                    return Err(wrong("which were deleted before"));
                }
                *own |= positions;
            }
        }
        Ok(all)
    }

    /// All columns of a data file, batch by batch, in the file's order.
    pub async fn rows(&self, file: &NamedFile) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.batches(&file.url, file.bytes).await
    }

    /// The same without the rows at some positions.
    pub async fn rows_without(
        &self,
        file: &NamedFile,
        deleted: RoaringTreemap,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let mut next = 0;
        let rows = self.rows(file).await?.map(move |batch| {
            let batch = batch?;
            let positions = next..next + batch.num_rows() as u64;
            next = positions.end;
            let living: BooleanArray = positions.map(|position| Some(!deleted.contains(position))).collect();
            Ok(filter_record_batch(&batch, &living)?)
        });
        Ok(rows.boxed())
    }

    async fn batches(&self, url: &str, bytes: u64) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let store = self.files.warehouse().store().clone();
        let path = self.files.warehouse().path(url)?;
        let found = store.head(&path).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => Error::corrupt(format!("{url} is missing")),
            other => store_error(other, format!("read {url}")),
        })?;
        if found.size != bytes {
            return Err(Error::corrupt(format!("{url} has {} bytes, its manifest says {bytes}", found.size)));
        }
        let reader = ParquetObjectReader::new(store, path).with_file_size(bytes);
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let url = url.to_owned();
        let panicked = move || Error::corrupt(format!("{url} cannot be read"));
        let unreadable = {
            let panicked = panicked.clone();
            move |error: ParquetError| panicked().with_source(error)
        };
        let opening = ParquetRecordBatchStreamBuilder::new_with_options(reader, options);
        let builder = guarded_future(&panicked, opening.map_err(&unreadable)).await?;
        let batches = guarded(&panicked, || builder.build().map_err(&unreadable))?;
        Ok(guarded_stream(panicked, batches.map_err(unreadable)).boxed())
    }

    /// A column of a data file by its name in the table, found by field id.
    pub fn column<'b>(&self, batch: &'b RecordBatch, name: &str) -> Result<&'b ArrayRef> {
        let id = self.version.metadata.current_schema().field_id_by_name(name);
        let is_it = |field: &FieldRef| field_id(field) == id;
        let place = batch.schema_ref().fields().iter().position(is_it).filter(|_| id.is_some());
        let missing = || Error::corrupt(format!("a data file without column {name}"));
        place.map(|place| batch.column(place)).ok_or_else(missing)
    }

    fn offset_bounds(&self, file: &DataFile) -> Option<(Offset, Offset)> {
        let schema = self.version.metadata.current_schema();
        let id = schema.field_id_by_name(SystemColumn::Offset.name())?;
        let long = |bound: Option<&Datum>| match bound?.literal() {
            PrimitiveLiteral::Long(offset) => u64::try_from(*offset).ok().map(Offset),
            _ => None,
        };
        Some((long(file.lower_bounds().get(&id))?, long(file.upper_bounds().get(&id))?))
    }
}

fn field_id(field: &FieldRef) -> Option<i32> {
    field.metadata().get(FIELD_ID_KEY)?.parse().ok()
}
