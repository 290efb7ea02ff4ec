//! One attempt at a commit, built in memory: a manifest of the new files, one of what is left where files go, one of all
//! deletes if the commit touches some, the list that adds them to the earlier manifests, and the table metadata with the new
//! snapshot. No I/O but reading what is built on.
//!
//! Always: earlier manifests of data are carried untouched, but for those that name files which go (see `regroup`). So are
//! those of deletes, unless the commit has deletes: then all delete entries that are left stand in its one delete manifest,
//! with the numbers that they had, beside those that it adds and those that it replaces. So a snapshot has one delete
//! manifest, with an entry a data file at most. A manifest in which nothing lives was for the snapshot that it was made
//! for, and is not carried. File names are new in every attempt, so that no attempt can overwrite what another one's commit
//! names, and say the commit that they are of; the stamp never goes back, whatever the clock does.
//!
//! In format version 3 the files that a commit adds get new row ids, also those of a rewrite, in which a row that had an id
//! says it itself. Its range is then used by nobody. That is how Iceberg's own rewrites do it, what the specification calls
//! an upper bound, and what gives a row an id that had none.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use iceberg::io::FileIO;
use iceberg::spec::{
    FormatVersion, MAIN_BRANCH, ManifestContentType, ManifestFile, ManifestListWriter, ManifestWriter,
    ManifestWriterBuilder, Operation, Snapshot, Summary, TableMetadata,
};
use object_store::path::Path as StorePath;
use thermocline_schemas::{Code, Error, Result};
use uuid::Uuid;

use super::data_files::manifest_list;
use super::ended::CommitDeletes;
use super::expire::expired;
use super::metadata_files::MetadataFiles;
use super::regroup::{Regrouped, regroup};
use super::summary::summary;
use super::table::metadata_bytes;
use super::{LakeFile, LakeTable, LakeVersion, Offsets, WrittenFile, properties};

pub(super) struct Attempt {
    /// To be written first, in any order.
    pub(super) deletes: Vec<(StorePath, Bytes)>,
    /// To be written then, before the version file.
    pub(super) objects: Vec<(StorePath, Bytes)>,
    pub(super) metadata: TableMetadata,
    /// `metadata` as the version file holds it.
    pub(super) bytes: Bytes,
}

/// What a commit does to the snapshot that it builds on.
pub(super) struct Delta<'c> {
    pub(super) commit_id: Uuid,
    pub(super) operation: Operation,
    pub(super) start: &'c Offsets,
    pub(super) end: &'c Offsets,
    /// How many rows below `end` are gone for good.
    pub(super) rows_gone: u64,
    /// When the first and the last of what lies between were accepted.
    pub(super) stamps: Option<(i64, i64)>,
    pub(super) added: Vec<&'c WrittenFile>,
    /// Data files that go.
    pub(super) gone: Vec<Arc<LakeFile>>,
    pub(super) deletes: Option<CommitDeletes>,
    /// The version whose files these are: the one that is built on.
    pub(super) files_of: &'c LakeVersion,
}

/// The manifests of an attempt.
struct Manifests {
    earlier: Vec<ManifestFile>,
    regrouped: Regrouped,
}

/// What a commit changes beside its own snapshot.
struct History {
    expired: Vec<i64>,
    properties: HashMap<String, String>,
}

impl Attempt {
    pub(super) async fn build(table: &LakeTable, base: &LakeVersion, delta: Delta<'_>) -> Result<Attempt> {
        let mut earlier = manifest_list(&table.files, delta.files_of).await?;
        // Where the counts are not told, there may be something.
        let lives = |manifest: &ManifestFile| manifest.has_added_files() || manifest.has_existing_files();
        earlier.retain(lives);
        if delta.deletes.is_some() {
            let spec = base.metadata.default_partition_spec_id();
            let (rewritten, carried): (Vec<_>, Vec<_>) =
                earlier.into_iter().partition(|manifest| manifest.content == ManifestContentType::Deletes);
            if let Some(other) = rewritten.iter().find(|manifest| manifest.partition_spec_id != spec) {
                let path = &other.manifest_path;
                return Err(Error::new(Code::LakeConflict, format!("{path} has deletes of another partition spec")));
            }
            earlier = carried;
        }
        let regrouped = regroup(&table.files, base, &mut earlier, &delta.gone).await?;
        let before_ms = table.expires_before_ms(Utc::now().timestamp_millis());
        let ours = [
            (properties::OFFSETS.to_owned(), delta.end.to_json()),
            (properties::COMMIT_ID.to_owned(), delta.commit_id.to_string()),
            (properties::SNAPSHOT_AGE_MAX.to_owned(), table.layout().snapshot_retention_ms().to_string()),
        ];
        let mut properties: HashMap<_, _> = ours.into();
        if delta.rows_gone > 0 {
            properties.insert(properties::ROWS_GONE.to_owned(), delta.rows_gone.to_string());
        }
        let history = History { expired: expired(base, before_ms)?, properties };
        let built = build(&table.files, base, &delta, Manifests { earlier, regrouped }, history).await;
        let (objects, metadata) = built.map_err(|error| {
            Error::internal(format!("cannot build a commit on {}", base.metadata_url)).with_source(error)
        })?;
        let bytes = metadata_bytes(&metadata)?;
        let deletes = delta.deletes.map_or_else(Vec::new, |deletes| deletes.objects);
        Ok(Attempt { deletes, objects, metadata, bytes })
    }
}

async fn build(
    files: &MetadataFiles,
    base: &LakeVersion,
    delta: &Delta<'_>,
    manifests: Manifests,
    history: History,
) -> iceberg::Result<(Vec<(StorePath, Bytes)>, TableMetadata)> {
    let current = &base.metadata;
    let snapshot_id = new_snapshot_id(current);
    let attempt = format!("{}-{:08x}", delta.commit_id, Uuid::new_v4().as_fields().0);
    // iceberg's writers want a file system: this one is in memory, and their bytes are taken from it.
    let memory = FileIO::new_with_memory();
    let mut objects = Vec::new();

    let manifest_writer = |url: &str, content: ManifestContentType| -> iceberg::Result<ManifestWriter> {
        let schema = current.current_schema().clone();
        let spec = (**current.default_partition_spec()).clone();
        let builder = ManifestWriterBuilder::new(memory.new_output(url)?, Some(snapshot_id), schema, spec);
        Ok(match (current.format_version(), content) {
            (FormatVersion::V3, ManifestContentType::Data) => builder.build_v3_data(),
            (FormatVersion::V3, ManifestContentType::Deletes) => builder.build_v3_deletes(),
            (FormatVersion::V1 | FormatVersion::V2, ManifestContentType::Data) => builder.build_v2_data(),
            (FormatVersion::V1 | FormatVersion::V2, ManifestContentType::Deletes) => builder.build_v2_deletes(),
        })
    };
    let in_metadata = |name: &str| {
        let path = files.in_metadata(name);
        let url = files.warehouse().url(&path);
        (path, url)
    };

    let mut listed = Vec::new();
    if !delta.added.is_empty() {
        let (path, url) = in_metadata(&format!("{attempt}-m0.avro"));
        let mut writer = manifest_writer(&url, ManifestContentType::Data)?;
        for file in &delta.added {
            writer.add_file(file.data_file.clone(), -1)?; // -1: the sequence number is the snapshot's
        }
        listed.push(writer.write_manifest_file().await?);
        objects.push((path, memory.new_input(&url)?.read().await?));
    }
    if let Some(deletes) = &delta.deletes {
        let (path, url) = in_metadata(&format!("{attempt}-m1.avro"));
        let mut writer = manifest_writer(&url, ManifestContentType::Deletes)?;
        for file in &deletes.added {
            writer.add_file(file.clone(), -1)?;
        }
        for kept in &deletes.kept {
            let (data, file) = (kept.data_sequence, Some(kept.file_sequence));
            writer.add_existing_file(kept.file.clone(), kept.snapshot_id, data, file)?;
        }
        for replaced in &deletes.replaced {
            writer.add_delete_file(replaced.file.clone(), replaced.data_sequence, Some(replaced.file_sequence))?;
        }
        listed.push(writer.write_manifest_file().await?);
        objects.push((path, memory.new_input(&url)?.read().await?));
    }
    let Manifests { earlier, regrouped } = manifests;
    if !regrouped.gone.is_empty() {
        let (path, url) = in_metadata(&format!("{attempt}-m2.avro"));
        let mut writer = manifest_writer(&url, ManifestContentType::Data)?;
        for kept in regrouped.kept {
            writer.add_existing_file(kept.file, kept.snapshot_id, kept.data_sequence, Some(kept.file_sequence))?;
        }
        for gone in regrouped.gone {
            writer.add_delete_file(gone.file, gone.data_sequence, Some(gone.file_sequence))?;
        }
        let mut manifest = writer.write_manifest_file().await?;
        // With one, the list gives it none, which would be for rows that have their ids.
        manifest.first_row_id = regrouped.first_row_id;
        listed.push(manifest);
        objects.push((path, memory.new_input(&url)?.read().await?));
    }
    listed.extend(earlier);

    let parent = current.current_snapshot_id();
    let sequence = current.next_sequence_number();
    let (list_path, list_url) = in_metadata(&format!("snap-{snapshot_id}-1-{attempt}.avro"));
    let output = memory.new_output(&list_url)?.writer().await?;
    let first_row_id = current.next_row_id();
    let mut list = match current.format_version() {
        FormatVersion::V3 => ManifestListWriter::v3(output, snapshot_id, parent, sequence, Some(first_row_id)),
        FormatVersion::V1 | FormatVersion::V2 => ManifestListWriter::v2(output, snapshot_id, parent, sequence),
    };
    list.add_manifests(listed.into_iter())?;
    let next_row_id = list.next_row_id().unwrap_or(first_row_id);
    list.close().await?;
    objects.push((list_path, memory.new_input(&list_url)?.read().await?));

    let stamp = Utc::now().timestamp_millis().max(current.last_updated_ms());
    let snapshot = Snapshot::builder()
        .with_snapshot_id(snapshot_id)
        .with_parent_snapshot_id(parent)
        .with_sequence_number(sequence)
        .with_timestamp_ms(stamp)
        .with_manifest_list(list_url)
        .with_summary(Summary {
            operation: delta.operation.clone(),
            additional_properties: summary(delta, current.current_snapshot()),
        })
        .with_schema_id(current.current_schema_id());
    let snapshot = match current.format_version() {
        FormatVersion::V3 => snapshot.with_row_range(first_row_id, next_row_id - first_row_id).build(),
        FormatVersion::V1 | FormatVersion::V2 => snapshot.build(),
    };
    let metadata = (**current)
        .clone()
        .into_builder(Some(base.metadata_url.clone()))
        .set_branch_snapshot(snapshot, MAIN_BRANCH)?
        .remove_snapshots(&history.expired)
        .set_properties(history.properties)?
        .build()?
        .metadata;
    Ok((objects, metadata))
}

/// Positive and random, as Iceberg wants it.
fn new_snapshot_id(current: &TableMetadata) -> i64 {
    loop {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let id = ((high ^ low) & i64::MAX as u64) as i64;
        if id != 0 && current.snapshot_by_id(id).is_none() {
            return id;
        }
    }
}
