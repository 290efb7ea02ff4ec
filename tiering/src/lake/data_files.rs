//! The data files of a snapshot, read from its manifests.
//!
//! Always: a list of files is that of exactly one snapshot, and holds every live file, each with its deletes. A manifest
//! never changes, so what was read of it serves every later snapshot that carries it: after a round, only the new manifests
//! are read. A missing manifest is `SnapshotExpired`, never fewer files. Deletes have no place in a log table and are an
//! error.
//!
//! It is known of each file, and of each delete file, whether somebody in this process still holds what was read of it:
//! such files are not swept (see `orphans`).

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{
    DataContentType, DataFile, Datum, Manifest, ManifestContentType, ManifestFile, ManifestList, PrimitiveLiteral,
    Snapshot,
};
use object_store::path::Path as StorePath;
use thermocline_schemas::{Code, Error, FieldId, Offset, PartitionBucket, Result};

use super::bounds::bound_array;
use super::deletes::{DeleteEntry, DeleteReader, delete_entries, with_deletes};
use super::layout::LakeLayout;
use super::metadata_files::MetadataFiles;
use super::{LakeDeletes, LakeVersion};
use crate::guarded::guarded;

/// Lists of this many snapshots are kept.
const SNAPSHOTS_KEPT: usize = 4;
const READS_AT_ONCE: usize = 8;
/// The Avro decoder makes room for as many elements as a length says before it has seen one: a flipped bit in a count must
/// not ask for gigabytes. No string, block or map of a manifest comes near.
const AVRO_LENGTH_MAX: usize = 1 << 20;

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
    /// The `_row_id` of the first row, in format version 3; files of rows that were written anew say it row by row.
    pub first_row_id: Option<u64>,
    /// The address of the manifest that names the file.
    pub(super) manifest: Arc<str>,
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

    /// Whether all that hides rows of it hides rows of no other file.
    pub(super) fn has_own_deletes(&self) -> bool {
        self.deletes.as_ref().is_none_or(|deletes| deletes.entries.iter().all(|entry| entry.of().is_some()))
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

#[cfg(test)]
impl LakeFile {
    /// A file that is nowhere, with a row at each of these offsets.
    pub(super) fn example(
        name: &str,
        bucket: u32,
        offsets: std::ops::Range<u64>,
        bytes: u64,
        deleted: u64,
    ) -> LakeFile {
        let metrics =
            Metrics { lower: HashMap::new(), upper: HashMap::new(), nulls: HashMap::new(), nans: HashMap::new() };
        LakeFile {
            path: StorePath::from(name),
            url: format!("s3://bucket/{name}"),
            bytes,
            rows: offsets.end - offsets.start,
            deletes: (deleted > 0).then(|| LakeDeletes { count: deleted, entries: Vec::new() }),
            bucket: PartitionBucket::unpartitioned(bucket),
            first_offset: Offset(offsets.start),
            end_offset: Offset(offsets.end),
            data_sequence: 1,
            file_sequence: 1,
            first_row_id: None,
            manifest: Arc::default(),
            metrics: Arc::new(metrics),
        }
    }

    pub(super) fn with_rows(self, rows: u64) -> LakeFile {
        LakeFile { rows, ..self }
    }
}

/// Those of one bucket, of the data files of a version, which lie by bucket and first offset.
pub fn files_of(files: &[Arc<LakeFile>], bucket: PartitionBucket) -> &[Arc<LakeFile>] {
    let from = files.partition_point(|file| file.bucket < bucket);
    let count = files[from..].partition_point(|file| file.bucket == bucket);
    &files[from..from + count]
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
    manifests_of: i64,
    held: Held,
}

/// Files that were read of manifests, each with something that whoever holds the file holds.
#[derive(Debug, Default)]
struct Held {
    files: Vec<(StorePath, Weak<dyn Any + Send + Sync>)>,
    /// How many there were after those that nobody holds were left out.
    kept: usize,
}

impl Held {
    fn add(&mut self, entries: &Entries) {
        match entries {
            Entries::Data(files) => self.files.extend(files.iter().map(|file| {
                let held: Arc<dyn Any + Send + Sync> = file.metrics.clone();
                (file.path.clone(), Arc::downgrade(&held))
            })),
            Entries::Deletes(entries) => self.files.extend(entries.iter().map(|entry| {
                let held: Arc<dyn Any + Send + Sync> = entry.clone();
                (entry.path.clone(), Arc::downgrade(&held))
            })),
        }
        if self.files.len() > 2 * self.kept + 1_000 {
            self.leave_out();
        }
    }

    fn leave_out(&mut self) {
        self.files.retain(|(_, held)| held.strong_count() > 0);
        self.kept = self.files.len();
    }
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
        let Some(snapshot) = version.snapshot() else { return Ok(SnapshotFiles::default()) };
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
                    None => {
                        let found = read_manifest(files, layout, &manifest).await?;
                        self.0.lock().unwrap_or_else(PoisonError::into_inner).held.add(&found);
                        found
                    }
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
        // What is read of the past is of no use to those who go on.
        if version.metadata.current_snapshot_id() == Some(snapshot_id) {
            cached.manifests = manifests;
            cached.manifests_of = snapshot_id;
        }
        if cached.snapshots.iter().all(|(id, _)| *id != snapshot_id) {
            cached.snapshots.push((snapshot_id, found.clone()));
        }
        if cached.snapshots.len() > SNAPSHOTS_KEPT {
            cached.snapshots.remove(0);
        }
        Ok(found)
    }

    /// The data files and delete files that somebody holds; the cache itself lets go of all snapshots but this one, if
    /// one is given.
    pub(super) fn held(&self, snapshot_id: Option<i64>) -> HashSet<StorePath> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.snapshots.retain(|(id, _)| Some(*id) == snapshot_id);
        if Some(cached.manifests_of) != snapshot_id {
            cached.manifests.clear();
        }
        cached.held.leave_out();
        cached.held.files.iter().map(|(path, _)| path.clone()).collect()
    }
}

/// The manifests of the snapshot that is read of a version, in their order; empty without one.
pub(super) async fn manifest_list(files: &MetadataFiles, version: &LakeVersion) -> Result<Vec<ManifestFile>> {
    match version.snapshot() {
        Some(snapshot) => manifests_of(files, version, snapshot).await,
        None => Ok(Vec::new()),
    }
}

/// The manifests of a snapshot of a version, in their order.
pub(super) async fn manifests_of(
    files: &MetadataFiles,
    version: &LakeVersion,
    snapshot: &Snapshot,
) -> Result<Vec<ManifestFile>> {
    let bytes = read_all(files, snapshot.manifest_list()).await?;
    let (url, format) = (snapshot.manifest_list(), version.metadata.format_version());
    let list = parse(url, || ManifestList::parse_with_version(&bytes, format))?;
    Ok(list.consume_entries().into_iter().collect())
}

/// What `work` reads from the file at `url`; it is corrupt where that fails.
pub(super) fn parse<T>(url: &str, work: impl FnOnce() -> iceberg::Result<T>) -> Result<T> {
    // The first call settles it for the process.
    apache_avro::util::max_allocation_bytes(AVRO_LENGTH_MAX);
    let unreadable = || Error::corrupt(format!("{url} cannot be read"));
    guarded(unreadable, || work().map_err(|error| unreadable().with_source(error)))
}

/// The live entries of a manifest, with what they inherit from the list's entry for it.
async fn read_manifest(files: &MetadataFiles, layout: &LakeLayout, listed: &ManifestFile) -> Result<Entries> {
    let url = &listed.manifest_path;
    let manifest = manifest(files, url).await?;
    if listed.content == ManifestContentType::Deletes && layout.is_keyed() {
        return Ok(Entries::Deletes(Arc::new(delete_entries(files.warehouse(), layout, listed, &manifest)?)));
    }
    let mut found = Vec::new();
    let named_by: Arc<str> = url.as_str().into();
    for live in live_files(listed, &manifest)? {
        found.push(Arc::new(LakeFile {
            first_row_id: live.first_row_id,
            data_sequence: live.data_sequence,
            file_sequence: live.file_sequence,
            manifest: named_by.clone(),
            ..lake_file(files, layout, live.file)?
        }));
    }
    Ok(Entries::Data(Arc::new(found)))
}

/// A live entry of a data manifest, with what it inherits.
pub(super) struct LiveFile<'m> {
    pub(super) file: &'m DataFile,
    pub(super) snapshot_id: i64,
    pub(super) data_sequence: i64,
    pub(super) file_sequence: i64,
    pub(super) first_row_id: Option<u64>,
}

/// The live entries of a data manifest, with what they inherit from the list's entry for it.
pub(super) fn live_files<'m>(listed: &ManifestFile, manifest: &'m Manifest) -> Result<Vec<LiveFile<'m>>> {
    let url = &listed.manifest_path;
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
        found.push(LiveFile {
            file,
            snapshot_id: entry.snapshot_id().unwrap_or(listed.added_snapshot_id),
            data_sequence: entry.sequence_number().unwrap_or(listed.sequence_number),
            file_sequence: entry.file_sequence_number.unwrap_or(listed.sequence_number),
            first_row_id,
        });
    }
    Ok(found)
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
        manifest: Arc::default(),
        metrics: Arc::new(Metrics {
            lower: lower.clone(),
            upper: upper.clone(),
            nulls: file.null_value_counts().clone(),
            nans: file.nan_value_counts().clone(),
        }),
    })
}

pub(super) fn bucket_of(layout: &LakeLayout, file: &DataFile) -> Result<PartitionBucket> {
    layout.bucket_of(file.partition()).ok_or_else(|| {
        let partition = file.partition().fields();
        let found = format!("{} has the partition {partition:?}, which is none of the table's", file.file_path());
        Error::new(Code::LakeConflict, found)
    })
}

/// The manifest at `url`.
pub(super) async fn manifest(files: &MetadataFiles, url: &str) -> Result<Manifest> {
    let bytes = read_all(files, url).await?;
    parse(url, || Manifest::parse_avro(&bytes))
}

pub(super) async fn read_all(files: &MetadataFiles, url: &str) -> Result<bytes::Bytes> {
    let path = files.warehouse().path(url)?;
    files.get(&path).await?.ok_or_else(|| {
        Error::new(Code::SnapshotExpired, format!("{url} is not there any more"))
            .with_hint("the snapshot was expired while it was read, or files were removed by hand")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file's header is a map, which begins with how many entries it has.
    #[test]
    fn a_count_asks_for_no_memory() {
        let mut bytes = b"Obj\x01".to_vec();
        let mut count = 50_000_000_u64 << 1;
        while count >= 0x80 {
            bytes.push(count as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        let error = parse("file:///m.avro", || Manifest::parse_avro(&bytes)).unwrap_err();
        assert_eq!(error.code(), Code::Corrupt);
        let mut causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
        assert!(causes.any(|cause| cause.to_string().contains("allocate")), "{error:?}");
    }
}
