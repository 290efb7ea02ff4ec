//! The deletes of a snapshot: which rows of which data files are hidden, and by what.
//!
//! Always, by our own commits: a data file has one delete entry at most, either a deletion vector or a position-delete file
//! of its own. Read are those of others too: several files that hide rows of one data file, and files that hide rows of
//! many. A vector stands for all: where there is one, position deletes are not looked at. Equality deletes are an error.
//!
//! What was read of delete files is kept as long as there is room, since they never change.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{DataContentType, DataFile, DataFileFormat, Manifest, ManifestFile};
use object_store::path::Path as StorePath;
use roaring::RoaringTreemap;
use thermocline_schemas::{Code, Error, PartitionBucket, Result};

use super::data_files::bucket_of;
use super::layout::LakeLayout;
use super::position_deletes::{self, PATH_FIELD};
use super::vectors::{BlobPlace, read_vector};
use super::{LakeFile, LakeTable};
use crate::Warehouse;
use crate::byte_cache::ByteCache;

const CACHED_BYTES_MAX: usize = 32 << 20;

/// What hides rows of one data file in one snapshot.
#[derive(Clone, Debug)]
pub struct LakeDeletes {
    /// Hidden rows.
    pub count: u64,
    pub(super) entries: Vec<Arc<DeleteEntry>>,
}

/// One entry of a delete manifest.
#[derive(Debug)]
pub(super) struct DeleteEntry {
    pub(super) path: StorePath,
    pub(super) kind: DeleteKind,
    pub(super) bucket: PartitionBucket,
    pub(super) file: DataFile,
    pub(super) snapshot_id: i64,
    pub(super) data_sequence: i64,
    pub(super) file_sequence: i64,
    /// The address of the manifest that names it.
    pub(super) manifest: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DeleteKind {
    /// Of one data file.
    Vector { of: StorePath, blob: BlobPlace },
    /// Of one data file, or of any of the same partition.
    Positions { of: Option<StorePath> },
}

impl DeleteEntry {
    /// The data file that alone is meant.
    pub(super) fn of(&self) -> Option<&StorePath> {
        match &self.kind {
            DeleteKind::Vector { of, .. } => Some(of),
            DeleteKind::Positions { of } => of.as_ref(),
        }
    }

    pub(super) fn is_vector(&self) -> bool {
        matches!(self.kind, DeleteKind::Vector { .. })
    }

    /// Deletes apply to what was there before them, or came with them.
    fn is_late_enough(&self, file: &LakeFile) -> bool {
        file.data_sequence <= self.data_sequence
    }
}

/// The live entries of a delete manifest, with what they inherit from the list's entry for it.
pub(super) fn delete_entries(
    warehouse: &Warehouse,
    layout: &LakeLayout,
    listed: &ManifestFile,
    manifest: &Manifest,
) -> Result<Vec<Arc<DeleteEntry>>> {
    let named_by: Arc<str> = listed.manifest_path.as_str().into();
    let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
    let entries = alive.map(|entry| {
        let file = entry.data_file();
        Ok(Arc::new(DeleteEntry {
            path: warehouse.path(file.file_path())?,
            kind: kind_of(warehouse, file)?,
            bucket: bucket_of(layout, file)?,
            file: file.clone(),
            snapshot_id: entry.snapshot_id().unwrap_or(listed.added_snapshot_id),
            data_sequence: entry.sequence_number().unwrap_or(listed.sequence_number),
            file_sequence: entry.file_sequence_number.unwrap_or(listed.sequence_number),
            manifest: named_by.clone(),
        }))
    });
    entries.collect()
}

fn kind_of(warehouse: &Warehouse, file: &DataFile) -> Result<DeleteKind> {
    let url = file.file_path();
    if file.content_type() != DataContentType::PositionDeletes {
        return Err(Error::new(Code::LakeConflict, format!("{url} deletes by values, which is not read here"))
            .with_hint("roll the table back to the snapshot before it"));
    }
    let of = match file.referenced_data_file() {
        Some(data_url) => Some(warehouse.path(&data_url)?),
        None => match (file.lower_bounds().get(&PATH_FIELD.0), file.upper_bounds().get(&PATH_FIELD.0)) {
            // Bounds that were cut differ, so equal ones are the address.
            (Some(lower), Some(upper)) if lower == upper => match lower.literal() {
                iceberg::spec::PrimitiveLiteral::String(data_url) => Some(warehouse.path(data_url)?),
                _ => None,
            },
            _ => None,
        },
    };
    if file.file_format() != DataFileFormat::Puffin {
        return Ok(DeleteKind::Positions { of });
    }
    let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    match (of, number(file.content_offset()), number(file.content_size_in_bytes())) {
        (Some(of), Some(offset), Some(length)) => Ok(DeleteKind::Vector { of, blob: BlobPlace { offset, length } }),
        _ => Err(Error::corrupt(format!("a deletion vector in {url} does not say where it is, or of which file"))),
    }
}

/// The files with the deletes of their snapshot.
pub(super) async fn with_deletes(
    reader: &DeleteReader,
    files: Vec<Arc<LakeFile>>,
    entries: &[Arc<DeleteEntry>],
) -> Result<Vec<Arc<LakeFile>>> {
    if entries.is_empty() {
        return Ok(files);
    }
    let mut own: HashMap<&StorePath, Vec<&Arc<DeleteEntry>>> = HashMap::new();
    let mut shared: Vec<&Arc<DeleteEntry>> = Vec::new();
    for entry in entries {
        match entry.of() {
            Some(of) => own.entry(of).or_default().push(entry),
            None => shared.push(entry),
        }
    }
    let mut with = Vec::with_capacity(files.len());
    for file in files {
        let late_enough = |entry: &&&Arc<DeleteEntry>| entry.is_late_enough(&file);
        let own = own.get(&file.path).into_iter().flatten().filter(late_enough);
        let shared = shared.iter().filter(|entry| entry.bucket == file.bucket).filter(late_enough);
        let mut found: Vec<Arc<DeleteEntry>> = own.chain(shared).map(|entry| Arc::clone(entry)).collect();
        if found.iter().any(|entry| entry.is_vector()) {
            found.retain(|entry| entry.is_vector());
        }
        let count = match found.as_slice() {
            [] => 0,
            [one] if one.of().is_some() => one.file.record_count(),
            [_, _, ..] if found[0].is_vector() => {
                return Err(Error::corrupt(format!(
                    "{} has {} deletion vectors, and may have one",
                    file.url,
                    found.len()
                )));
            }
            // They may say the same twice, or nothing of this file.
            _ => reader.deleted(&file, &found).await?.len(),
        };
        if count == 0 {
            with.push(file);
        } else {
            let mut file = (*file).clone();
            file.deletes = Some(LakeDeletes { count, entries: found });
            with.push(Arc::new(file));
        }
    }
    Ok(with)
}

/// One data file's part of one delete file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PartOf {
    deletes: StorePath,
    data: StorePath,
}

/// Reads delete files. See the module's text.
#[derive(Debug)]
pub(super) struct DeleteReader {
    warehouse: Warehouse,
    cache: ByteCache<PartOf, RoaringTreemap>,
}

impl DeleteReader {
    pub(super) fn new(warehouse: &Warehouse) -> DeleteReader {
        DeleteReader { warehouse: warehouse.clone(), cache: ByteCache::new(CACHED_BYTES_MAX) }
    }

    /// What these entries delete of a data file, together.
    pub(super) async fn deleted(&self, file: &LakeFile, entries: &[Arc<DeleteEntry>]) -> Result<Arc<RoaringTreemap>> {
        let mut all = Arc::<RoaringTreemap>::default();
        for entry in entries {
            let found = self.entry(file, entry).await?;
            if all.is_empty() {
                all = found;
            } else {
                *Arc::make_mut(&mut all) |= &*found;
            }
        }
        match all.max() {
            Some(last) if last >= file.rows => {
                Err(Error::corrupt(format!("row {last} of {} is deleted, it has {} rows", file.url, file.rows)))
            }
            _ => Ok(all),
        }
    }

    async fn entry(&self, file: &LakeFile, entry: &DeleteEntry) -> Result<Arc<RoaringTreemap>> {
        let part = |data: &StorePath| PartOf { deletes: entry.path.clone(), data: data.clone() };
        if let Some(known) = self.cache.get(&part(&file.path)) {
            return Ok(known);
        }
        let mut found = match &entry.kind {
            DeleteKind::Vector { of, blob } => {
                HashMap::from([(of.clone(), read_vector(&self.warehouse, &entry.path, *blob).await?)])
            }
            DeleteKind::Positions { .. } => {
                let (bytes, rows) = (entry.file.file_size_in_bytes(), entry.file.record_count());
                position_deletes::read(&self.warehouse, &entry.path, bytes, rows).await?
            }
        };
        let wanted = Arc::new(found.remove(&file.path).unwrap_or_default());
        let said = entry.file.record_count();
        if entry.of().is_some() && wanted.len() != said {
            let (url, count) = (entry.file.file_path(), wanted.len());
            return Err(Error::corrupt(format!(
                "{url} deletes {count} rows of {}, its manifest says {said}",
                file.url
            )));
        }
        // The other data files of a shared one will be asked for next.
        let others = found.into_iter().map(|(data, positions)| (data, Arc::new(positions)));
        for (data, positions) in others.chain([(file.path.clone(), wanted.clone())]) {
            let bytes = positions.serialized_size() + 256;
            self.cache.put(part(&data), positions, bytes);
        }
        Ok(wanted)
    }
}

impl LakeTable {
    /// The positions of a data file that its snapshot's deletes hide; none without deletes.
    pub async fn deleted_positions(&self, file: &Arc<LakeFile>) -> Result<Arc<RoaringTreemap>> {
        match &file.deletes {
            Some(deletes) => self.deletes.deleted(file, &deletes.entries).await,
            None => Ok(Arc::default()),
        }
    }

    /// The positions of a data file that its snapshot shows. `None` stands for all.
    pub async fn live_positions(&self, file: &Arc<LakeFile>) -> Result<Option<RoaringTreemap>> {
        if file.deletes.is_none() {
            return Ok(None);
        }
        let deleted = self.deleted_positions(file).await?;
        let mut live = RoaringTreemap::new();
        live.insert_range(0..file.rows);
        live -= &*deleted;
        Ok(Some(live))
    }
}
