//! A lake table as another engine finds it: the newest metadata file by listing, its snapshot, manifests, data files and
//! all their rows. For checks, so it shares little with how we read it ourselves, and changes nothing.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::FieldRef;
use futures::future::TryFutureExt;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, DataFile, Datum, Manifest, PrimitiveLiteral};
use object_store::ObjectStoreExt;
use object_store::path::Path as StorePath;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{ParquetObjectReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use thermocline_schemas::{Error, FIELD_ID_KEY, Offset, Result, SystemColumn, TableId};

use super::data_files::{manifest_list, parse};
use super::metadata_files::MetadataFiles;
use super::{LakeVersion, properties};
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
}

/// A data file as its manifest names it.
#[derive(Clone, Debug)]
pub struct NamedFile {
    pub url: String,
    pub bytes: u64,
    pub rows: u64,
    /// The bounds of `__offset`, both inclusive, if the manifest has them.
    pub offsets: Option<(Offset, Offset)>,
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
        });
        Ok(named.collect())
    }

    /// The live data files of a manifest.
    pub async fn data_files(&self, manifest: &NamedManifest) -> Result<Vec<NamedFile>> {
        let url = &manifest.url;
        let bytes = self.files.get(&self.files.warehouse().path(url)?).await?;
        let bytes = bytes.ok_or_else(|| Error::corrupt(format!("{url} is missing")))?;
        if bytes.len() as u64 != manifest.bytes {
            let said = manifest.bytes;
            return Err(Error::corrupt(format!("{url} has {} bytes, its list says {said}", bytes.len())));
        }
        let parsed = parse(url, || Manifest::parse_avro(&bytes))?;
        let mut files = Vec::new();
        for entry in parsed.entries().iter().filter(|entry| entry.is_alive()) {
            let file = entry.data_file();
            if file.content_type() != DataContentType::Data {
                if self.version.is_keyed {
                    continue;
                }
                return Err(Error::corrupt(format!("{url} holds deletes, which a log table cannot have")));
            }
            files.push(NamedFile {
                url: file.file_path().to_owned(),
                bytes: file.file_size_in_bytes(),
                rows: file.record_count(),
                offsets: self.offset_bounds(file),
            });
        }
        Ok(files)
    }

    /// All columns of a data file, batch by batch, in the file's order.
    pub async fn rows(&self, file: &NamedFile) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let store = self.files.warehouse().store().clone();
        let path = self.files.warehouse().path(&file.url)?;
        let found = store.head(&path).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => Error::corrupt(format!("{} is missing", file.url)),
            other => store_error(other, format!("read {}", file.url)),
        })?;
        if found.size != file.bytes {
            let said = file.bytes;
            return Err(Error::corrupt(format!("{} has {} bytes, its manifest says {said}", file.url, found.size)));
        }
        let reader = ParquetObjectReader::new(store, path).with_file_size(file.bytes);
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let url = file.url.clone();
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
        let is_it = |field: &FieldRef| field.metadata().get(FIELD_ID_KEY).and_then(|found| found.parse().ok()) == id;
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
