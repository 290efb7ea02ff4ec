//! One attempt at a commit, built in memory: a manifest of the new files, one of all deletes if the commit has some, the
//! list that adds them to the earlier manifests, and the table metadata with the new snapshot. No I/O but reading what is
//! built on.
//!
//! Always: earlier manifests of data are carried untouched. So are those of deletes, unless the commit has deletes: then
//! all delete entries that are left stand in its one delete manifest, with the numbers that they had, beside those that it
//! adds and those that it replaces. So a snapshot has one delete manifest, with an entry a data file at most. File names are
//! new in every attempt, so that no attempt can overwrite what another one's commit names; the stamp never goes back,
//! whatever the clock does.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use chrono::Utc;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, DataFileFormat, FormatVersion, MAIN_BRANCH, ManifestContentType, ManifestFile, ManifestListWriter,
    ManifestWriter, ManifestWriterBuilder, Operation, Snapshot, SnapshotRef, Summary, TableMetadata,
};
use object_store::path::Path as StorePath;
use thermocline_schemas::{Code, Error, Result};
use uuid::Uuid;

use super::commit::Append;
use super::data_files::manifest_list;
use super::ended::CommitDeletes;
use super::expire::expired;
use super::metadata_files::MetadataFiles;
use super::table::metadata_bytes;
use super::{LakeTable, LakeVersion, properties};

pub(super) struct Attempt {
    /// To be written first, in any order.
    pub(super) deletes: Vec<(StorePath, Bytes)>,
    /// To be written then, before the version file.
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
        let mut earlier = manifest_list(&table.files, base).await?;
        let deletes = match &append.ended {
            Some(ended) => CommitDeletes::of(table, base, append.commit_id, ended).await?,
            None => None,
        };
        if deletes.is_some() {
            let spec = base.metadata.default_partition_spec_id();
            let (rewritten, carried): (Vec<_>, Vec<_>) =
                earlier.into_iter().partition(|manifest| manifest.content == ManifestContentType::Deletes);
            if let Some(other) = rewritten.iter().find(|manifest| manifest.partition_spec_id != spec) {
                let path = &other.manifest_path;
                return Err(Error::new(Code::LakeConflict, format!("{path} has deletes of another partition spec")));
            }
            earlier = carried;
        }
        let before_ms = table.expires_before_ms(Utc::now().timestamp_millis());
        let ours = [
            (properties::OFFSETS.to_owned(), append.end.to_json()),
            (properties::COMMIT_ID.to_owned(), append.commit_id.to_string()),
            (properties::SNAPSHOT_AGE_MAX.to_owned(), table.snapshot_retention_ms.to_string()),
        ];
        let history = History { expired: expired(base, before_ms)?, properties: ours.into() };
        let built = build(&table.files, base, append, deletes.as_ref(), earlier, history).await;
        let (objects, metadata) = built.map_err(|error| {
            Error::internal(format!("cannot build a commit on {}", base.metadata_url)).with_source(error)
        })?;
        let bytes = metadata_bytes(&metadata)?;
        let deletes = deletes.map_or_else(Vec::new, |deletes| deletes.objects);
        Ok(Attempt { deletes, objects, metadata, bytes })
    }
}

async fn build(
    files: &MetadataFiles,
    base: &LakeVersion,
    append: &Append,
    deletes: Option<&CommitDeletes>,
    earlier: Vec<ManifestFile>,
    history: History,
) -> iceberg::Result<(Vec<(StorePath, Bytes)>, TableMetadata)> {
    let current = &base.metadata;
    let snapshot_id = new_snapshot_id(current);
    let attempt = Uuid::new_v4();
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

    let mut manifests = Vec::new();
    if !append.files.is_empty() {
        let path = files.in_metadata(&format!("{attempt}-m0.avro"));
        let url = files.warehouse().url(&path);
        let mut writer = manifest_writer(&url, ManifestContentType::Data)?;
        for file in &append.files {
            writer.add_file(file.data_file.clone(), -1)?; // -1: the sequence number is the snapshot's
        }
        manifests.push(writer.write_manifest_file().await?);
        objects.push((path, memory.new_input(&url)?.read().await?));
    }
    if let Some(deletes) = deletes {
        let path = files.in_metadata(&format!("{attempt}-m1.avro"));
        let url = files.warehouse().url(&path);
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
            // As Iceberg's own row deltas call themselves.
            operation: match deletes {
                None => Operation::Append,
                Some(_) if append.files.is_empty() => Operation::Delete,
                Some(_) => Operation::Overwrite,
            },
            additional_properties: summary(append, deletes, current.current_snapshot()),
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
fn summary(append: &Append, deletes: Option<&CommitDeletes>, parent: Option<&SnapshotRef>) -> HashMap<String, String> {
    let changes = append.end.changes_since(&append.start);
    let changed: Vec<_> = changes
        .iter()
        .map(|(at, start, end)| (at.partition.0, at.bucket.0, start.0, end.0))
        .map(|(partition, bucket, start, end)| format!("[{partition},{bucket},{start},{end}]"))
        .collect();
    let files = append.files.len() as u64;
    let records: u64 = append.files.iter().map(|file| file.rows()).sum();
    let bytes: u64 = append.files.iter().map(|file| file.bytes).sum();
    let added = deletes.map_or_else(DeleteCounts::default, |deletes| DeleteCounts::of(deletes.added.iter()));
    let removed = deletes.map_or_else(DeleteCounts::default, |deletes| {
        DeleteCounts::of(deletes.replaced.iter().map(|entry| &entry.file))
    });
    let mut partitions: BTreeSet<_> = append.files.iter().map(|file| file.bucket).collect();
    partitions.extend(deletes.iter().flat_map(|deletes| &deletes.buckets));
    let mut summary: HashMap<String, String> = [
        (properties::COMMIT_ID, append.commit_id.to_string()),
        (properties::OFFSETS_HASH, append.end.hash()),
        (properties::CHANGED_OFFSETS, format!("[{}]", changed.join(","))),
        ("added-data-files", files.to_string()),
        ("added-records", records.to_string()),
        ("added-files-size", (bytes + added.bytes).to_string()),
        ("changed-partition-count", partitions.len().to_string()),
        ("engine-name", "thermocline".to_owned()),
        ("engine-version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    // Of these, what is nothing is not said.
    let counts = [
        ("added-delete-files", added.vectors + added.files),
        ("added-dvs", added.vectors),
        ("added-position-delete-files", added.files),
        ("added-position-deletes", added.positions),
        ("removed-delete-files", removed.vectors + removed.files),
        ("removed-dvs", removed.vectors),
        ("removed-position-delete-files", removed.files),
        ("removed-position-deletes", removed.positions),
        ("removed-files-size", removed.bytes),
    ];
    for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        summary.insert(name.to_owned(), count.to_string());
    }
    let totals = [
        ("total-data-files", files, 0),
        ("total-records", records, 0),
        ("total-files-size", bytes + added.bytes, removed.bytes),
        ("total-delete-files", added.vectors + added.files, removed.vectors + removed.files),
        ("total-position-deletes", added.positions, removed.positions),
        ("total-equality-deletes", 0, 0),
    ];
    for (name, added, removed) in totals {
        let before = match parent {
            None => Some(0),
            Some(parent) => {
                parent.summary().additional_properties.get(name).and_then(|total| total.parse::<u64>().ok())
            }
        };
        // Where the parent does not say, or says what cannot be, neither can we.
        if let Some(total) = before.and_then(|before| (before + added).checked_sub(removed)) {
            summary.insert(name.to_owned(), total.to_string());
        }
    }
    summary
}

/// What delete entries come to, as summaries count them: vectors apart from files, and a vector with its blob's bytes.
#[derive(Clone, Copy, Debug, Default)]
struct DeleteCounts {
    vectors: u64,
    files: u64,
    positions: u64,
    bytes: u64,
}

impl DeleteCounts {
    fn of<'e>(entries: impl Iterator<Item = &'e DataFile>) -> DeleteCounts {
        let mut counts = DeleteCounts::default();
        for entry in entries {
            counts.positions += entry.record_count();
            if entry.file_format() == DataFileFormat::Puffin {
                counts.vectors += 1;
                counts.bytes += entry.content_size_in_bytes().unwrap_or(0).unsigned_abs();
            } else {
                counts.files += 1;
                counts.bytes += entry.file_size_in_bytes();
            }
        }
        counts
    }
}
