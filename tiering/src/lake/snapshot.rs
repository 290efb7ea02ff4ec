//! One attempt at a commit, built in memory: a manifest of the new data files, one of the new deletes, those that earlier
//! entries are brought together in, the list that adds them to the earlier manifests, and the table metadata with the new
//! snapshot. No I/O but reading what is built on.
//!
//! Always: earlier manifests are carried untouched, but for those that name files or deletes which go, and for small ones,
//! which are brought together (see `regroup`). What is replaced is marked deleted in a manifest of this commit. A manifest
//! in which nothing lives was for the snapshot that it was made for, and is not carried. File names are new in every
//! attempt, so that no attempt can overwrite what another one's commit names, and say the commit that they are of; the
//! stamp never goes back, whatever the clock does.
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
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Error, Result};
use uuid::Uuid;

use super::data_files::manifest_list;
use super::ended::CommitDeletes;
use super::expire::{expired, without};
use super::merging::NewManifest;
use super::metadata_files::MetadataFiles;
use super::regroup::{regroup, regroup_deletes};
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
    written: Vec<NewManifest>,
    earlier: Vec<ManifestFile>,
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
        let mut written = Vec::new();
        if !delta.added.is_empty() {
            let added = delta.added.iter().map(|file| file.data_file.clone()).collect();
            written.push(NewManifest::of_added(ManifestContentType::Data, added));
        }
        if let Some(deletes) = &delta.deletes {
            written.extend(regroup_deletes(base, &mut earlier, deletes)?);
        }
        written.extend(regroup(&table.files, &table.layout(), base, &mut earlier, &delta.gone).await?);
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
        let built = build(&table.files, base, &delta, Manifests { written, earlier }, history).await;
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
    let sequence = current.next_sequence_number();
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
    let Manifests { written, earlier } = manifests;
    for (number, manifest) in written.into_iter().enumerate() {
        let (path, url) = in_metadata(&format!("{attempt}-m{number}.avro"));
        let mut writer = manifest_writer(&url, manifest.content)?;
        for file in manifest.added {
            writer.add_file(file, -1)?; // -1: the sequence number is the snapshot's
        }
        for kept in manifest.kept {
            let data = match faults::planted(Defect::MergeTakesNewNumbers) {
                true => sequence,
                false => kept.data_sequence,
            };
            writer.add_existing_file(kept.file, kept.snapshot_id, data, Some(kept.file_sequence))?;
        }
        for gone in manifest.gone {
            writer.add_delete_file(gone.file, gone.data_sequence, Some(gone.file_sequence))?;
        }
        let mut named = writer.write_manifest_file().await?;
        // With one, the list gives it none, which would be for rows that have their ids.
        named.first_row_id = manifest.first_row_id;
        listed.push(named);
        objects.push((path, memory.new_input(&url)?.read().await?));
    }
    listed.extend(earlier);

    let parent = current.current_snapshot_id();
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
    let builder =
        (**current).clone().into_builder(Some(base.metadata_url.clone())).set_branch_snapshot(snapshot, MAIN_BRANCH)?;
    let metadata = without(builder, &history.expired).set_properties(history.properties)?.build()?.metadata;
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
