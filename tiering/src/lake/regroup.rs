//! The manifests of a commit that earlier entries stand in: those of manifests that name files which go, and of small ones
//! that are brought together (see `merging`).
//!
//! Manifests of neither kind are carried untouched. What stays of the others stands with the numbers that it had, in one
//! manifest, or in several of the target's size, each of other partitions as far as can be; what goes is marked deleted. So
//! rewrites bring manifests together as they do files.
//!
//! Always: what stays keeps its row ids. A reader counts them off from the manifest's first one; here that would be counted
//! anew, so each file says its own. Files from before the table's first snapshot in format version 3 have none to keep, and
//! get theirs by this commit as they would by any other.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{DataFile, DataFileBuilder, ManifestContentType, ManifestFile};
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Code, Error, PartitionBucket, Result};

use super::data_files::{bucket_of, live_files, manifest};
use super::ended::CommitDeletes;
use super::layout::LakeLayout;
use super::merging::{Entry, NewManifest, bytes, entries_max, take_small};
use super::metadata_files::MetadataFiles;
use super::{LakeFile, LakeVersion};

const READS_AT_ONCE: usize = 8;

/// The data manifests that name one of `files`, and small ones, written anew. They are taken out of `earlier`, which are
/// those of `version`.
pub(super) async fn regroup(
    metadata: &MetadataFiles,
    layout: &LakeLayout,
    version: &LakeVersion,
    earlier: &mut Vec<ManifestFile>,
    files: &[Arc<LakeFile>],
) -> Result<Vec<NewManifest>> {
    let mut going: HashSet<_> = files.iter().map(|file| file.url.as_str()).collect();
    let named_by: HashSet<_> = files.iter().map(|file| &*file.manifest).collect();
    let taken = take(version, earlier, ManifestContentType::Data, &named_by)?;
    let read = taken.iter().map(|listed| async move {
        let found = manifest(metadata, &listed.manifest_path).await?;
        Ok::<_, Error>((listed, found))
    });
    let read: Vec<_> = read.collect();
    let read: Vec<_> = stream::iter(read).buffered(READS_AT_ONCE).try_collect().await?;
    let spec = version.metadata.default_partition_spec_id();
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for (listed, manifest) in read {
        for live in live_files(listed, &manifest)? {
            let entry = |file: DataFile| Entry {
                file,
                snapshot_id: live.snapshot_id,
                data_sequence: live.data_sequence,
                file_sequence: live.file_sequence,
            };
            if going.remove(live.file.file_path()) {
                gone.push(entry(live.file.clone()));
                continue;
            }
            let row_id = match faults::planted(Defect::MergeForgetsRowIds) {
                true => None,
                false => live.first_row_id,
            };
            kept.push((bucket_of(layout, live.file)?, entry(with_row_id(live.file, row_id, spec)?)));
        }
    }
    if let Some(file) = going.iter().next() {
        return Err(Error::internal(format!("{file} goes, and no manifest names it")));
    }
    Ok(manifests(ManifestContentType::Data, &taken, kept, gone))
}

/// The delete manifests of a commit: what it adds, and what is left of those that name what it replaces, and of small ones.
/// These are taken out of `earlier`.
pub(super) fn regroup_deletes(
    version: &LakeVersion,
    earlier: &mut Vec<ManifestFile>,
    deletes: &CommitDeletes,
) -> Result<Vec<NewManifest>> {
    let replaced: HashSet<_> = deletes.replaced.iter().map(Arc::as_ptr).collect();
    let named_by: HashSet<_> = deletes.replaced.iter().map(|entry| &*entry.manifest).collect();
    let taken = take(version, earlier, ManifestContentType::Deletes, &named_by)?;
    let taken_paths: HashSet<_> = taken.iter().map(|listed| listed.manifest_path.as_str()).collect();
    let entry = |entry: &Arc<super::deletes::DeleteEntry>| Entry {
        file: entry.file.clone(),
        snapshot_id: entry.snapshot_id,
        data_sequence: entry.data_sequence,
        file_sequence: entry.file_sequence,
    };
    let own = deletes.earlier.iter().filter(|entry| taken_paths.contains(&*entry.manifest));
    let kept = own.filter(|entry| !replaced.contains(&Arc::as_ptr(entry)));
    let kept = kept.map(|kept| (kept.bucket, entry(kept))).collect();
    let gone = deletes.replaced.iter().map(entry).collect();
    let mut manifests = manifests(ManifestContentType::Deletes, &taken, kept, gone);
    match manifests.first_mut() {
        Some(first) => first.added = deletes.added.clone(),
        None => manifests.push(NewManifest::of_added(ManifestContentType::Deletes, deletes.added.clone())),
    }
    Ok(manifests)
}

/// Takes out of `earlier` those at `named_by`, and small ones.
fn take(
    version: &LakeVersion,
    earlier: &mut Vec<ManifestFile>,
    content: ManifestContentType,
    named_by: &HashSet<&str>,
) -> Result<Vec<ManifestFile>> {
    let is_named =
        |listed: &mut ManifestFile| listed.content == content && named_by.contains(listed.manifest_path.as_str());
    let mut taken: Vec<_> = earlier.extract_if(.., is_named).collect();
    let spec = version.metadata.default_partition_spec_id();
    if let Some(other) = taken.iter().find(|manifest| manifest.partition_spec_id != spec) {
        let path = &other.manifest_path;
        return Err(Error::new(Code::LakeConflict, format!("{path} is of another partition spec than the table's")));
    }
    taken.extend(take_small(earlier, content, spec));
    Ok(taken)
}

/// Manifests of the target's size of what stays of `taken`; what goes is in the first.
fn manifests(
    content: ManifestContentType,
    taken: &[ManifestFile],
    mut kept: Vec<(PartitionBucket, Entry)>,
    gone: Vec<Entry>,
) -> Vec<NewManifest> {
    let most = entries_max(taken.iter().map(bytes).sum(), kept.len() + gone.len());
    if kept.len() > most {
        // Bounds of partitions tell readers which manifests to open.
        kept.sort_by_key(|(bucket, entry)| (*bucket, entry.data_sequence));
    }
    let mut manifests = Vec::new();
    let mut gone = Some(gone).filter(|gone| !gone.is_empty());
    let mut kept = kept.into_iter().map(|(_, entry)| entry).peekable();
    while kept.peek().is_some() || gone.is_some() {
        let own: Vec<_> = kept.by_ref().take(most).collect();
        let row_id = |entry: &Entry| entry.file.first_row_id().and_then(|id| u64::try_from(id).ok());
        let row_ids: Option<Vec<_>> = own.iter().map(row_id).collect();
        manifests.push(NewManifest {
            content,
            added: Vec::new(),
            kept: own,
            gone: gone.take().unwrap_or_default(),
            first_row_id: row_ids.and_then(|ids| ids.into_iter().min()),
        });
    }
    manifests
}

/// The file with the id of its first row in its own entry.
fn with_row_id(file: &DataFile, first_row_id: Option<u64>, spec: i32) -> Result<DataFile> {
    let first_row_id = first_row_id.map(|id| id as i64);
    if file.first_row_id() == first_row_id {
        return Ok(file.clone());
    }
    let mut builder = DataFileBuilder::default();
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(file.partition().clone())
        .partition_spec_id(spec)
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .key_metadata(file.key_metadata().map(<[u8]>::to_vec))
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .equality_ids(file.equality_ids())
        .first_row_id(first_row_id);
    if let Some(order) = file.sort_order_id() {
        builder.sort_order_id(order);
    }
    builder.build().map_err(|error| Error::internal("a data file's description").with_source(error))
}
