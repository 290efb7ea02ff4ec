//! One attempt at a commit, built in memory: a manifest of the new files, the list that adds it to the earlier manifests,
//! and the table metadata with the new snapshot. No I/O but reading the list that is built on.
//!
//! Always: earlier manifests are carried untouched; file names are new in every attempt, so that no attempt can overwrite
//! what another one's commit names; the stamp never goes back, whatever the clock does.

use std::collections::HashMap;

use bytes::Bytes;
use chrono::Utc;
use iceberg::io::FileIO;
use iceberg::spec::{
    FormatVersion, MAIN_BRANCH, ManifestFile, ManifestListWriter, ManifestWriterBuilder, Operation, Snapshot,
    SnapshotRef, Summary, TableMetadata,
};
use object_store::path::Path as StorePath;
use thermocline_schemas::{Error, Result};
use uuid::Uuid;

use super::commit::Append;
use super::data_files::manifest_list;
use super::expire::expired;
use super::metadata_files::MetadataFiles;
use super::table::metadata_bytes;
use super::{LakeTable, LakeVersion, properties};

pub(super) struct Attempt {
    /// To be written before the version file.
    pub(super) objects: Vec<(StorePath, Bytes)>,
    pub(super) metadata: TableMetadata,
    /// `metadata` as the version file holds it.
    pub(super) bytes: Bytes,
}

/// What a commit changes beside its own snapshot.
struct History {
    expired: Vec<i64>,
    properties: HashMap<String, String>,
}

impl Attempt {
    pub(super) async fn build(table: &LakeTable, base: &LakeVersion, append: &Append) -> Result<Attempt> {
        let earlier = manifest_list(&table.files, base).await?;
        let before_ms = table.expires_before_ms(Utc::now().timestamp_millis());
        let ours = [
            (properties::OFFSETS.to_owned(), append.end.to_json()),
            (properties::COMMIT_ID.to_owned(), append.commit_id.to_string()),
            (properties::SNAPSHOT_AGE_MAX.to_owned(), table.snapshot_retention_ms.to_string()),
        ];
        let history = History { expired: expired(base, before_ms)?, properties: ours.into() };
        let built = build(&table.files, base, append, earlier, history).await;
        let (objects, metadata) = built.map_err(|error| {
            Error::internal(format!("cannot build a commit on {}", base.metadata_url)).with_source(error)
        })?;
        let bytes = metadata_bytes(&metadata)?;
        Ok(Attempt { objects, metadata, bytes })
    }
}

async fn build(
    files: &MetadataFiles,
    base: &LakeVersion,
    append: &Append,
    earlier: Vec<ManifestFile>,
    history: History,
) -> iceberg::Result<(Vec<(StorePath, Bytes)>, TableMetadata)> {
    let current = &base.metadata;
    let snapshot_id = new_snapshot_id(current);
    let attempt = Uuid::new_v4();
    // iceberg's writers want a file system: this one is in memory, and their bytes are taken from it.
    let memory = FileIO::new_with_memory();
    let mut objects = Vec::new();

    let mut manifests = Vec::new();
    if !append.files.is_empty() {
        let path = files.in_metadata(&format!("{attempt}-m0.avro"));
        let url = files.warehouse().url(&path);
        let schema = current.current_schema().clone();
        let spec = (**current.default_partition_spec()).clone();
        let builder = ManifestWriterBuilder::new(memory.new_output(&url)?, Some(snapshot_id), schema, spec);
        let mut writer = match current.format_version() {
            FormatVersion::V3 => builder.build_v3_data(),
            FormatVersion::V1 | FormatVersion::V2 => builder.build_v2_data(),
        };
        for file in &append.files {
            writer.add_file(file.data_file.clone(), -1)?; // -1: the sequence number is the snapshot's
        }
        manifests.push(writer.write_manifest_file().await?);
        objects.push((path, memory.new_input(&url)?.read().await?));
    }
    manifests.extend(earlier);

    let parent = current.current_snapshot_id();
    let sequence = current.next_sequence_number();
    let list_path = files.in_metadata(&format!("snap-{snapshot_id}-1-{attempt}.avro"));
    let list_url = files.warehouse().url(&list_path);
    let output = memory.new_output(&list_url)?.writer().await?;
    let first_row_id = current.next_row_id();
    let mut list = match current.format_version() {
        FormatVersion::V3 => ManifestListWriter::v3(output, snapshot_id, parent, sequence, Some(first_row_id)),
        FormatVersion::V1 | FormatVersion::V2 => ManifestListWriter::v2(output, snapshot_id, parent, sequence),
    };
    list.add_manifests(manifests.into_iter())?;
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
            operation: Operation::Append,
            additional_properties: summary(append, current.current_snapshot()),
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

/// What the snapshot says of itself: ours, and the counts that Iceberg's readers expect.
fn summary(append: &Append, parent: Option<&SnapshotRef>) -> HashMap<String, String> {
    let changes = append.end.changes_since(&append.start);
    let changed: Vec<_> = changes
        .iter()
        .map(|(at, start, end)| (at.partition.0, at.bucket.0, start.0, end.0))
        .map(|(partition, bucket, start, end)| format!("[{partition},{bucket},{start},{end}]"))
        .collect();
    let files = append.files.len() as u64;
    let records: u64 = append.files.iter().map(|file| file.rows()).sum();
    let bytes: u64 = append.files.iter().map(|file| file.bytes).sum();
    let mut summary: HashMap<String, String> = [
        (properties::COMMIT_ID, append.commit_id.to_string()),
        (properties::OFFSETS_HASH, append.end.hash()),
        (properties::CHANGED_OFFSETS, format!("[{}]", changed.join(","))),
        ("added-data-files", files.to_string()),
        ("added-records", records.to_string()),
        ("added-files-size", bytes.to_string()),
        ("changed-partition-count", changes.len().to_string()),
        ("engine-name", "thermocline".to_owned()),
        ("engine-version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let totals = [
        ("total-data-files", files),
        ("total-records", records),
        ("total-files-size", bytes),
        ("total-delete-files", 0),
        ("total-position-deletes", 0),
        ("total-equality-deletes", 0),
    ];
    for (name, added) in totals {
        let before = match parent {
            None => Some(0),
            Some(parent) => {
                parent.summary().additional_properties.get(name).and_then(|total| total.parse::<u64>().ok())
            }
        };
        // Where the parent does not say, neither can we.
        if let Some(before) = before {
            summary.insert(name.to_owned(), (before + added).to_string());
        }
    }
    summary
}
