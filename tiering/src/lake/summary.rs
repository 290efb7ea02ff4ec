//! What a snapshot says of itself: ours, and the counts that Iceberg's readers expect.
//!
//! Always: a total is the parent's plus what the commit adds, less what it takes away. Where the parent does not say, or
//! says what cannot be, neither can we.

use std::collections::{BTreeSet, HashMap};

use iceberg::spec::{DataFile, DataFileFormat, SnapshotRef};

use super::properties;
use super::snapshot::Delta;

pub(super) fn summary(delta: &Delta<'_>, parent: Option<&SnapshotRef>) -> HashMap<String, String> {
    let changes = delta.end.changes_since(delta.start);
    let changed: Vec<_> = changes
        .iter()
        .map(|(at, start, end)| (at.partition.0, at.bucket.0, start.0, end.0))
        .map(|(partition, bucket, start, end)| format!("[{partition},{bucket},{start},{end}]"))
        .collect();
    let mut added = DataCounts::default();
    delta.added.iter().for_each(|file| added.add(file.rows(), file.bytes));
    let mut gone = DataCounts::default();
    delta.gone.iter().for_each(|file| gone.add(file.rows, file.bytes));
    let deletes = delta.deletes.as_ref();
    let new = deletes.map_or_else(DeleteCounts::default, |deletes| DeleteCounts::of(deletes.added.iter()));
    let old = deletes.map_or_else(DeleteCounts::default, |deletes| {
        DeleteCounts::of(deletes.replaced.iter().map(|entry| &entry.file))
    });
    let mut partitions: BTreeSet<_> = delta.added.iter().map(|file| file.bucket).collect();
    partitions.extend(delta.gone.iter().map(|file| file.bucket));
    partitions.extend(deletes.iter().flat_map(|deletes| &deletes.buckets));
    let mut summary: HashMap<String, String> = [
        (properties::COMMIT_ID, delta.commit_id.to_string()),
        (properties::OFFSETS_HASH, delta.end.hash()),
        (properties::CHANGED_OFFSETS, format!("[{}]", changed.join(","))),
        ("added-data-files", added.files.to_string()),
        ("added-records", added.rows.to_string()),
        ("added-files-size", (added.bytes + new.bytes).to_string()),
        ("changed-partition-count", partitions.len().to_string()),
        ("engine-name", "thermocline".to_owned()),
        ("engine-version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    if let Some((first, last)) = delta.stamps {
        summary.insert(properties::STAMPS.to_owned(), format!("[{first},{last}]"));
    }
    // Of these, what is nothing is not said.
    let counts = [
        (properties::ROWS_GONE, delta.rows_gone),
        ("deleted-data-files", gone.files),
        ("deleted-records", gone.rows),
        ("added-delete-files", new.vectors + new.files),
        ("added-dvs", new.vectors),
        ("added-position-delete-files", new.files),
        ("added-position-deletes", new.positions),
        ("removed-delete-files", old.vectors + old.files),
        ("removed-dvs", old.vectors),
        ("removed-position-delete-files", old.files),
        ("removed-position-deletes", old.positions),
        ("removed-files-size", gone.bytes + old.bytes),
    ];
    for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        summary.insert(name.to_owned(), count.to_string());
    }
    let totals = [
        ("total-data-files", added.files, gone.files),
        ("total-records", added.rows, gone.rows),
        ("total-files-size", added.bytes + new.bytes, gone.bytes + old.bytes),
        ("total-delete-files", new.vectors + new.files, old.vectors + old.files),
        ("total-position-deletes", new.positions, old.positions),
        ("total-equality-deletes", 0, 0),
    ];
    for (name, added, removed) in totals {
        let before = match parent {
            None => Some(0),
            Some(parent) => {
                parent.summary().additional_properties.get(name).and_then(|total| total.parse::<u64>().ok())
            }
        };
        if let Some(total) = before.and_then(|before| (before + added).checked_sub(removed)) {
            summary.insert(name.to_owned(), total.to_string());
        }
    }
    summary
}

/// What data files come to.
#[derive(Clone, Copy, Debug, Default)]
struct DataCounts {
    files: u64,
    rows: u64,
    bytes: u64,
}

impl DataCounts {
    fn add(&mut self, rows: u64, bytes: u64) {
        self.files += 1;
        self.rows += rows;
        self.bytes += bytes;
    }
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
