//! The data manifests of a commit that takes files away.
//!
//! Manifests that name none of these files are carried untouched. All others become one: what stays of them stands in it
//! with the numbers that it had, what goes is marked deleted. So rewrites bring manifests together as they do files.
//!
//! Always: what stays keeps its row ids. A reader counts them off from the manifest's first one; here that would be counted
//! anew, so each file says its own. Files from before the table's first snapshot in format version 3 have none to keep, and
//! get theirs by this commit as they would by any other.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{DataFile, DataFileBuilder, ManifestContentType, ManifestFile};
use thermocline_schemas::{Code, Error, Result};

use super::data_files::{live_files, manifest};
use super::metadata_files::MetadataFiles;
use super::{LakeFile, LakeVersion};

const READS_AT_ONCE: usize = 8;

/// An entry of a data manifest.
pub(super) struct DataEntry {
    pub(super) file: DataFile,
    pub(super) snapshot_id: i64,
    pub(super) data_sequence: i64,
    pub(super) file_sequence: i64,
}

/// The entries of the manifests that name files which go.
#[derive(Default)]
pub(super) struct Regrouped {
    pub(super) kept: Vec<DataEntry>,
    pub(super) gone: Vec<DataEntry>,
    /// The smallest row id of what stays; none if something has no ids, or nothing stays.
    pub(super) first_row_id: Option<u64>,
}

/// Reads the manifests of `version` that name one of `files`, and takes them out of `earlier`.
pub(super) async fn regroup(
    metadata: &MetadataFiles,
    version: &LakeVersion,
    earlier: &mut Vec<ManifestFile>,
    files: &[Arc<LakeFile>],
) -> Result<Regrouped> {
    let (mut going, mut named_by) = (HashSet::new(), HashSet::new());
    for file in files {
        going.insert(file.url.as_str());
        named_by.insert(&*file.manifest);
    }
    let is_touched = |listed: &mut ManifestFile| {
        listed.content == ManifestContentType::Data && named_by.contains(listed.manifest_path.as_str())
    };
    let touched: Vec<_> = earlier.extract_if(.., is_touched).collect();
    let spec = version.metadata.default_partition_spec_id();
    if let Some(other) = touched.iter().find(|manifest| manifest.partition_spec_id != spec) {
        let path = &other.manifest_path;
        return Err(Error::new(Code::LakeConflict, format!("{path} has files of another partition spec")));
    }
    let read = touched.iter().map(|listed| async move {
        let found = manifest(metadata, &listed.manifest_path).await?;
        Ok::<_, Error>((listed, found))
    });
    let read: Vec<_> = read.collect();
    let read: Vec<_> = stream::iter(read).buffered(READS_AT_ONCE).try_collect().await?;
    let mut regrouped = Regrouped::default();
    let mut first_row_ids = Some(Vec::new());
    for (listed, manifest) in read {
        for live in live_files(listed, &manifest)? {
            let entry = |file: DataFile| DataEntry {
                file,
                snapshot_id: live.snapshot_id,
                data_sequence: live.data_sequence,
                file_sequence: live.file_sequence,
            };
            if going.remove(live.file.file_path()) {
                regrouped.gone.push(entry(live.file.clone()));
                continue;
            }
            match (&mut first_row_ids, live.first_row_id) {
                (Some(ids), Some(id)) => ids.push(id),
                _ => first_row_ids = None,
            }
            regrouped.kept.push(entry(with_row_id(live.file, live.first_row_id, spec)?));
        }
    }
    if let Some(file) = going.iter().next() {
        return Err(Error::internal(format!("{file} goes, and no manifest names it")));
    }
    regrouped.first_row_id = first_row_ids.and_then(|ids| ids.into_iter().min());
    Ok(regrouped)
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
