//! The data files of a snapshot, read from its manifests.
//!
//! Always: a list of files is that of exactly one snapshot, and holds every live file, each with its deletes. A manifest
//! never changes, so what was read of it serves every later snapshot that carries it: after a round, only the new manifests
//! are read. A missing manifest is `SnapshotExpired`, never fewer files. Deletes have no place in a log table and are an
//! error.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{
    DataContentType, DataFile, Datum, Literal, Manifest, ManifestContentType, ManifestFile, ManifestList,
    PrimitiveLiteral,
};
use object_store::path::Path as StorePath;
use thermocline_schemas::{BucketId, Code, Error, FieldId, Offset, PartitionBucket, PartitionId, Result};

use super::bounds::bound_array;
use super::deletes::{DeleteEntry, DeleteReader, delete_entries, with_deletes};
use super::layout::LakeLayout;
use super::metadata_files::MetadataFiles;
use super::{LakeDeletes, LakeVersion};
use crate::guarded::guarded;

/// Lists of this many snapshots are kept.
const SNAPSHOTS_KEPT: usize = 4;
const READS_AT_ONCE: usize = 8;

/// One data file of a snapshot.
#[derive(Clone, Debug)]
pub struct LakeFile {
    /// Where it is in the warehouse's store.
    pub path: StorePath,
    /// Its absolute address.
    pub url: String,
    pub bytes: u64,
    /// All rows of the file, deleted ones too.
    pub rows: u64,
    /// What hides rows of the file in this snapshot.
    pub deletes: Option<LakeDeletes>,
    pub bucket: PartitionBucket,
    /// No row of the file has a smaller offset.
    pub first_offset: Offset,
    /// Every row of the file has a smaller offset. Files that others rewrote without bounds reach to the maximum.
    pub end_offset: Offset,
    pub data_sequence: i64,
    pub file_sequence: i64,
    /// The `_row_id` of the first row, in format version 3.
    pub first_row_id: Option<u64>,
    metrics: Arc<Metrics>,
}

/// What a manifest says of a file's columns, by field id.
#[derive(Debug)]
struct Metrics {
    lower: HashMap<i32, Datum>,
    upper: HashMap<i32, Datum>,
    nulls: HashMap<i32, u64>,
    nans: HashMap<i32, u64>,
}

impl LakeFile {
    /// Rows that the snapshot hides.
    pub fn deleted(&self) -> u64 {
        self.deletes.as_ref().map_or(0, |deletes| deletes.count)
    }

    /// Rows that the snapshot shows.
    pub fn live_rows(&self) -> u64 {
        self.rows.saturating_sub(self.deleted())
    }

    /// A value that no value of the column is less than, as an array of one; none where it is not known.
    pub fn lower_bound(&self, column: FieldId) -> Option<arrow::array::ArrayRef> {
        self.metrics.lower.get(&column.0).and_then(bound_array)
    }

    /// A value that no value of the column is greater than (NaN aside), as an array of one; none where it is not known.
    pub fn upper_bound(&self, column: FieldId) -> Option<arrow::array::ArrayRef> {
        self.metrics.upper.get(&column.0).and_then(bound_array)
    }

    pub fn null_count(&self, column: FieldId) -> Option<u64> {
        self.metrics.nulls.get(&column.0).copied()
    }

    /// Bounds of a float column say nothing of its NaNs.
    pub fn nan_count(&self, column: FieldId) -> Option<u64> {
        self.metrics.nans.get(&column.0).copied()
    }
}

type Files = Arc<Vec<Arc<LakeFile>>>;

/// The files of one snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct SnapshotFiles {
    pub(super) data: Files,
    /// The live entries of its delete manifests.
    pub(super) deletes: Arc<Vec<Arc<DeleteEntry>>>,
}

#[derive(Debug, Default)]
pub(super) struct DataFileCache(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    /// By snapshot, oldest first.
    snapshots: Vec<(i64, SnapshotFiles)>,
    /// Those of the snapshot that was loaded last.
    manifests: HashMap<ManifestKey, Entries>,
}

/// A manifest's path, and the first row id that its list gives it: an upgrade to format version 3 gives it one.
type ManifestKey = (String, Option<u64>);

/// The live entries of a manifest.
#[derive(Clone, Debug)]
enum Entries {
    Data(Files),
    Deletes(Arc<Vec<Arc<DeleteEntry>>>),
}

impl DataFileCache {
    pub(super) async fn load(
        &self,
        files: &MetadataFiles,
        layout: &LakeLayout,
        deletes: &DeleteReader,
        version: &LakeVersion,
    ) -> Result<SnapshotFiles> {
        let Some(snapshot) = version.metadata.current_snapshot() else { return Ok(SnapshotFiles::default()) };
        let snapshot_id = snapshot.snapshot_id();
        let known_manifests = {
            let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, found)) = cached.snapshots.iter().find(|(id, _)| *id == snapshot_id) {
                return Ok(found.clone());
            }
            cached.manifests.clone()
        };
        // A file's partition value is its bucket only under the spec that we know.
        layout.check(&version.metadata)?;
        let list = manifest_list(files, version).await?;
        let read = list.into_iter().map(|manifest| {
            let key = (manifest.manifest_path.clone(), manifest.first_row_id);
            let known = known_manifests.get(&key).cloned();
            async move {
                let found = match known {
                    Some(found) => found,
                    None => read_manifest(files, layout, &manifest).await?,
                };
                Ok::<_, Error>((key, found))
            }
        });
        let manifests: HashMap<ManifestKey, Entries> = stream::iter(read).buffered(READS_AT_ONCE).try_collect().await?;
        let (mut all, mut entries) = (Vec::new(), Vec::new());
        for found in manifests.values() {
            match found {
                Entries::Data(found) => all.extend(found.iter().cloned()),
                Entries::Deletes(found) => entries.extend(found.iter().cloned()),
            }
        }
        all.sort_by(|left, right| {
            (left.bucket, left.first_offset, &left.path).cmp(&(right.bucket, right.first_offset, &right.path))
        });
        let data = Arc::new(with_deletes(deletes, all, &entries).await?);
        let found = SnapshotFiles { data, deletes: Arc::new(entries) };
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.manifests = manifests;
        if cached.snapshots.iter().all(|(id, _)| *id != snapshot_id) {
            cached.snapshots.push((snapshot_id, found.clone()));
        }
        if cached.snapshots.len() > SNAPSHOTS_KEPT {
            cached.snapshots.remove(0);
        }
        Ok(found)
    }
}

/// The manifests of a version's current snapshot, in their order; empty without one.
pub(super) async fn manifest_list(files: &MetadataFiles, version: &LakeVersion) -> Result<Vec<ManifestFile>> {
    let Some(snapshot) = version.metadata.current_snapshot() else { return Ok(Vec::new()) };
    let bytes = read_all(files, snapshot.manifest_list()).await?;
    let (url, format) = (snapshot.manifest_list(), version.metadata.format_version());
    let list = parse(url, || ManifestList::parse_with_version(&bytes, format))?;
    Ok(list.consume_entries().into_iter().collect())
}

/// What `work` reads from the file at `url`; it is corrupt where that fails.
pub(super) fn parse<T>(url: &str, work: impl FnOnce() -> iceberg::Result<T>) -> Result<T> {
    let unreadable = || Error::corrupt(format!("{url} cannot be read"));
    guarded(unreadable, || work().map_err(|error| unreadable().with_source(error)))
}

/// The live entries of a manifest, with what they inherit from the list's entry for it.
async fn read_manifest(files: &MetadataFiles, layout: &LakeLayout, listed: &ManifestFile) -> Result<Entries> {
    let url = &listed.manifest_path;
    let bytes = read_all(files, url).await?;
    let manifest = parse(url, || Manifest::parse_avro(&bytes))?;
    if listed.content == ManifestContentType::Deletes && layout.is_keyed() {
        return Ok(Entries::Deletes(Arc::new(delete_entries(files.warehouse(), layout, listed, &manifest)?)));
    }
    let mut found = Vec::new();
    let mut next_row_id = listed.first_row_id;
    for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
        let file = entry.data_file();
        if listed.content != ManifestContentType::Data || file.content_type() != DataContentType::Data {
            return Err(Error::new(Code::LakeConflict, format!("{url} holds deletes, which have no place there"))
                .with_hint("rows of log tables are not deleted by others; roll the table back"));
        }
        let first_row_id = match file.first_row_id().and_then(|id| u64::try_from(id).ok()) {
            Some(own) => Some(own),
            None => {
                let inherited = next_row_id;
                let after = |next: u64| next.checked_add(file.record_count());
                next_row_id = inherited
                    .map(|next| after(next).ok_or_else(|| Error::corrupt(format!("{url} has too many rows"))))
                    .transpose()?;
                inherited
            }
        };
        found.push(Arc::new(LakeFile {
            first_row_id,
            data_sequence: entry.sequence_number().unwrap_or(listed.sequence_number),
            file_sequence: entry.file_sequence_number.unwrap_or(listed.sequence_number),
            ..lake_file(files, layout, file)?
        }));
    }
    Ok(Entries::Data(Arc::new(found)))
}

fn lake_file(files: &MetadataFiles, layout: &LakeLayout, file: &DataFile) -> Result<LakeFile> {
    let (lower, upper) = (file.lower_bounds(), file.upper_bounds());
    let long = |bounds: &HashMap<i32, Datum>| match bounds.get(&layout.offset_id().0)?.literal() {
        PrimitiveLiteral::Long(offset) => u64::try_from(*offset).ok(),
        _ => None,
    };
    Ok(LakeFile {
        path: files.warehouse().path(file.file_path())?,
        url: file.file_path().to_owned(),
        bytes: file.file_size_in_bytes(),
        rows: file.record_count(),
        deletes: None,
        bucket: bucket_of(layout, file)?,
        first_offset: Offset(long(lower).unwrap_or(0)),
        end_offset: Offset(long(upper).map_or(u64::MAX, |last| last.saturating_add(1))),
        data_sequence: 0,
        file_sequence: 0,
        first_row_id: None,
        metrics: Arc::new(Metrics {
            lower: lower.clone(),
            upper: upper.clone(),
            nulls: file.null_value_counts().clone(),
            nans: file.nan_value_counts().clone(),
        }),
    })
}

pub(super) fn bucket_of(layout: &LakeLayout, file: &DataFile) -> Result<PartitionBucket> {
    if !layout.is_partitioned() {
        return Ok(PartitionBucket::default());
    }
    match file.partition().fields() {
        [Some(Literal::Primitive(PrimitiveLiteral::Int(bucket)))] if *bucket >= 0 => {
            Ok(PartitionBucket { partition: PartitionId(0), bucket: BucketId(*bucket as u32) })
        }
        other => Err(Error::new(
            Code::LakeConflict,
            format!("{} has the partition {other:?}, which is no bucket", file.file_path()),
        )),
    }
}

async fn read_all(files: &MetadataFiles, url: &str) -> Result<bytes::Bytes> {
    let path = files.warehouse().path(url)?;
    files.get(&path).await?.ok_or_else(|| {
        Error::new(Code::SnapshotExpired, format!("{url} is not there any more"))
            .with_hint("the snapshot was expired while it was read, or files were removed by hand")
    })
}
