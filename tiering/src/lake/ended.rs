//! The deletes of one commit: what it ends in older files, joined with what was deleted there before; and what a rewrite
//! (see `rewrite`) makes of the deletes of files that it takes away.
//!
//! In format version 3 that is one Puffin file with a deletion vector for each touched data file, in version 2 a
//! position-delete file for each. Always: the new entry of a data file says all that is deleted of it, old and new, and the
//! entries it replaces go in the same commit, so that a data file has one at most. The first vector after an upgrade takes
//! over what position deletes said. Rows are ended once: what is deleted already, or is no row of the file, is an error
//! before anything is written.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion};
use object_store::path::Path as StorePath;
use roaring::RoaringTreemap;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Error, PartitionBucket, Result};
use uuid::Uuid;

use super::deletes::DeleteEntry;
use super::position_deletes::{self, PATH_FIELD, POSITION_FIELD};
use super::vectors::puffin;
use super::{LakeFile, LakeTable, LakeVersion};

const READS_AT_ONCE: usize = 8;

/// Rows of older files that a commit ends.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The [`LakeVersion::version`] whose files these are. On another one the commit is stale.
    pub base: u64,
    /// Each file once, with the positions of rows that end now. See [`super::FileOffsets::positions`].
    pub files: Vec<(Arc<LakeFile>, RoaringTreemap)>,
}

/// What a commit does to the delete entries of its base.
pub(super) struct CommitDeletes {
    /// The delete files, to be written before the manifest that names them.
    pub(super) objects: Vec<(StorePath, Bytes)>,
    pub(super) added: Vec<DataFile>,
    /// All those of the base.
    pub(super) earlier: Arc<Vec<Arc<DeleteEntry>>>,
    /// Those of them that go.
    pub(super) replaced: Vec<Arc<DeleteEntry>>,
    pub(super) buckets: BTreeSet<PartitionBucket>,
}

/// All that is deleted of a data file from a commit on.
pub(super) struct Joined {
    /// The address of the data file.
    pub(super) url: String,
    pub(super) bucket: PartitionBucket,
    /// One at least.
    pub(super) positions: RoaringTreemap,
}

impl CommitDeletes {
    /// The deletes of a commit on `base` that deletes `joined`, each of another data file. The entries of the data files
    /// at `gone` go. None if all stays as it is.
    pub(super) async fn of(
        table: &LakeTable,
        base: &LakeVersion,
        commit_id: Uuid,
        joined: Vec<Joined>,
        gone: &HashSet<StorePath>,
    ) -> Result<Option<CommitDeletes>> {
        let snapshot = table.snapshot_files(base).await?;
        let is_replaced = |entry: &&Arc<DeleteEntry>| entry.of().is_some_and(|of| gone.contains(of));
        let mut replaced: Vec<_> = snapshot.deletes.iter().filter(is_replaced).cloned().collect();
        if joined.is_empty() && replaced.is_empty() {
            return Ok(None);
        }
        if faults::planted(Defect::OldVectorKept) {
            replaced.clear();
        }
        let buckets = joined.iter().map(|joined| joined.bucket).chain(replaced.iter().map(|entry| entry.bucket));
        let buckets = buckets.collect();
        let (objects, added) = match base.metadata.format_version() {
            _ if joined.is_empty() => Written::default(),
            FormatVersion::V3 => vectors(table, commit_id, joined)?,
            FormatVersion::V1 | FormatVersion::V2 => position_delete_files(table, commit_id, joined).await?,
        };
        Ok(Some(CommitDeletes { objects, added, earlier: snapshot.deletes, replaced, buckets }))
    }
}

impl Ended {
    /// What is deleted of the touched files of `base` from now on.
    pub(super) async fn joined(&self, table: &LakeTable, base: &LakeVersion) -> Result<Vec<(StorePath, Joined)>> {
        let touched: Vec<_> = self.files.iter().filter(|(_, positions)| !positions.is_empty()).collect();
        if touched.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = table.snapshot_files(base).await?;
        let live: HashMap<&StorePath, &Arc<LakeFile>> = snapshot.data.iter().map(|file| (&file.path, file)).collect();
        let mut paths = HashSet::new();
        for (file, _) in &touched {
            let url = &file.url;
            if !live.contains_key(&file.path) {
                return Err(Error::internal(format!("rows of {url} end, which is not in version {}", base.version)));
            }
            if !paths.insert(&file.path) {
                return Err(Error::internal(format!("rows of {url} end in two parts")));
            }
        }
        let format = base.metadata.format_version();
        let joined: Vec<_> = touched.iter().map(|(file, new)| join(table, format, live[&file.path], new)).collect();
        stream::iter(joined).buffered(READS_AT_ONCE).try_collect().await
    }
}

async fn join(
    table: &LakeTable,
    format: FormatVersion,
    file: &Arc<LakeFile>,
    new: &RoaringTreemap,
) -> Result<(StorePath, Joined)> {
    if let Some(last) = new.max().filter(|last| *last >= file.rows) {
        return Err(Error::internal(format!("row {last} of {} ends, it has {} rows", file.url, file.rows)));
    }
    let mut old = table.deleted_positions(file).await?;
    if !old.is_disjoint(new) {
        return Err(Error::internal(format!("rows of {} end that are deleted already", file.url)));
    }
    let had_vector = file.deletes.as_ref().is_some_and(|deletes| deletes.entries[0].is_vector());
    if had_vector && faults::planted(Defect::VectorReplaced)
        || !had_vector && format == FormatVersion::V3 && faults::planted(Defect::FirstVectorForgets)
    {
        old = Arc::default();
    }
    let mut positions = &*old | new;
    positions.optimize();
    Ok((file.path.clone(), Joined { url: file.url.clone(), bucket: file.bucket, positions }))
}

type Written = (Vec<(StorePath, Bytes)>, Vec<DataFile>);

fn vectors(table: &LakeTable, commit_id: Uuid, joined: Vec<Joined>) -> Result<Written> {
    let path = table.files.root().clone().join("data").join(format!("{commit_id}-{}-deletes.puffin", random()));
    let url = table.warehouse().url(&path);
    let vectors: Vec<_> = joined.iter().map(|joined| (joined.url.clone(), joined.positions.clone())).collect();
    let (bytes, places) = puffin(&vectors)?;
    let added = joined.iter().zip(places).map(|(joined, blob)| {
        entry(table, joined, &url)?
            .file_format(DataFileFormat::Puffin)
            .file_size_in_bytes(bytes.len() as u64)
            .content_offset(Some(blob.offset as i64))
            .content_size_in_bytes(Some(blob.length as i64))
            .build()
            .map_err(|error| Error::internal("a deletion vector's description").with_source(error))
    });
    let added = added.collect::<Result<_>>()?;
    Ok((vec![(path, bytes)], added))
}

async fn position_delete_files(table: &LakeTable, commit_id: Uuid, joined: Vec<Joined>) -> Result<Written> {
    let encoding = tokio::task::spawn_blocking(move || {
        let encode = |joined: Joined| Ok((position_deletes::encode(&joined.url, &joined.positions)?, joined));
        joined.into_iter().map(encode).collect::<Result<Vec<_>>>()
    });
    let encoded =
        encoding.await.map_err(|error| Error::internal("encoding position deletes panicked").with_source(error))??;
    let (mut objects, mut added) = (Vec::new(), Vec::new());
    for (encoded, joined) in encoded {
        let bucket = joined.bucket;
        let directory = table.layout().partition_directory(bucket)?;
        let name = format!("{}-{commit_id}-{}-deletes.parquet", bucket.bucket, random());
        let path = StorePath::parse(format!("{}/data/{directory}{name}", table.files.root()))
            .map_err(|error| Error::internal(format!("delete file name {name}")).with_source(error))?;
        let count = joined.positions.len();
        let counts = |count: u64| HashMap::from([(PATH_FIELD.0, count), (POSITION_FIELD.0, count)]);
        let described = entry(table, &joined, &table.warehouse().url(&path))?
            .file_format(DataFileFormat::Parquet)
            .file_size_in_bytes(encoded.bytes.len() as u64)
            .column_sizes(encoded.sizes)
            .value_counts(counts(count))
            .null_value_counts(counts(0))
            .lower_bounds(encoded.lower)
            .upper_bounds(encoded.upper)
            .build();
        added.push(described.map_err(|error| Error::internal("a delete file's description").with_source(error))?);
        objects.push((path, encoded.bytes));
    }
    Ok((objects, added))
}

/// What entries of both kinds say.
fn entry(table: &LakeTable, joined: &Joined, url: &str) -> Result<DataFileBuilder> {
    let mut entry = DataFileBuilder::default();
    entry
        .content(DataContentType::PositionDeletes)
        .file_path(url.to_owned())
        .partition(table.layout().partition(joined.bucket)?)
        .partition_spec_id(0)
        .record_count(joined.positions.len())
        .referenced_data_file(Some(joined.url.clone()));
    Ok(entry)
}

/// A part of a name that was never used before.
fn random() -> String {
    format!("{:08x}", Uuid::new_v4().as_fields().0)
}
