//! Files written anew: rows of several files that stand in a row become one file, or the living rows of one that has lost
//! many.
//!
//! Two steps. [`LakeTable::write_anew`] reads and writes: for as long as it takes, and whatever is committed meanwhile, in
//! the memory of one batch, one row group and a bit for each offset. [`LakeTable::replace`] commits: one snapshot of the
//! operation `replace`, with the offsets of its base and a commit id as every commit of ours, so that the history check and
//! the guard of rounds go on from it as from any other.
//!
//! Always:
//! - Rows keep their bucket, offset, stamp, order and, in format version 3, lineage (see `lineage`). Of a log table the new
//!   file is exactly the range of the old ones; of a primary-key table it has those of their rows that lived.
//! - **What ended meanwhile has ended**: rows of the old files that commits have deleted since they were read are looked up
//!   in the new file, by their offsets, and the same commit deletes them there. So upserts never throw a rewrite away.
//! - The old files must be there still, with nothing alive again and with the same row ids; else [`CommitOutcome::Stale`].
//!   Then there is nothing to save but work: the new file is forgotten, and swept one day (see `orphans`).
//! - What is deleted of a file goes with it, in the same commit.
//! - A new file that is so old that another process may have swept it is not committed (see `orphans`): also stale. A round
//!   needs no such bound, since its offsets will have moved.
//!
//! Which files, and when: `compaction`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::array::{ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::datatypes::{Int64Type, SchemaRef};
use futures::stream::TryStreamExt;
use iceberg::spec::{FormatVersion, Operation};
use object_store::path::Path as StorePath;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::file::metadata::PageIndexPolicy;
use roaring::RoaringTreemap;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Error, Offset, Result, fitted_values};
use uuid::Uuid;

use super::ended::{CommitDeletes, Joined};
use super::lineage::{lineage, with_lineage};
use super::read::{batches, by_id, field_id, open, out_of_order, ranges, unfit};
use super::snapshot::Delta;
use super::{FileOffsets, LakeFile, LakeFileWriter, LakeTable, LakeVersion, WrittenFile};

/// A rewrite may be so old at least, however soon files are swept.
const AGE_MAX_LEAST: Duration = Duration::from_secs(60);

/// Files to be replaced, and those that replace them.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// Never used for other contents.
    pub commit_id: Uuid,
    /// The version whose files were read.
    pub base: Arc<LakeVersion>,
    /// Of other files each.
    pub runs: Vec<RewrittenRun>,
    /// Before its first file was written.
    begun: SystemTime,
}

/// Files of one bucket that stand in a row, and the one that takes their place.
#[derive(Clone, Debug)]
pub struct RewrittenRun {
    /// As they were when they were read.
    pub replaced: Vec<Arc<LakeFile>>,
    /// None if no row of them lived.
    pub written: Option<RewrittenFile>,
}

#[derive(Clone, Debug)]
pub struct RewrittenFile {
    pub file: WrittenFile,
    offsets: Arc<FileOffsets>,
}

impl LakeTable {
    /// Writes the living rows of `files`, which stand in a row in `base`, as one file in these columns. `go_on` is asked after each batch,
    /// and its error ends the work.
    pub async fn write_anew(
        &self,
        commit_id: Uuid,
        base: &LakeVersion,
        files: &[Arc<LakeFile>],
        columns: &SchemaRef,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<RewrittenRun> {
        let first = files.first().ok_or_else(|| Error::internal("a rewrite of no files"))?;
        let keeps_lineage = base.metadata.format_version() == FormatVersion::V3;
        let schema = match keeps_lineage && !faults::planted(Defect::LineageDropped) {
            true => with_lineage(columns),
            false => columns.clone(),
        };
        let mut copy = Copy {
            table: self,
            writer: LakeFileWriter::new(self, commit_id, first.bucket, schema.clone())?,
            columns: columns.clone(),
            schema,
            offsets: FileOffsets::default(),
        };
        for file in files {
            if let Err(error) = copy.file(file, &go_on).await {
                copy.writer.abort().await;
                return Err(error);
            }
        }
        let replaced = files.to_vec();
        if copy.offsets.rows() == 0 {
            copy.writer.abort().await;
            return Ok(RewrittenRun { replaced, written: None });
        }
        let file = copy.writer.finish().await?;
        let offsets = Arc::new(copy.offsets.finish(file.row_groups.clone()));
        Ok(RewrittenRun { replaced, written: Some(RewrittenFile { file, offsets }) })
    }

    /// Reads what the commit of `rewrite` would need if it came now, so that it has little left to read when it comes.
    pub async fn read_ahead(&self, rewrite: &Rewrite) -> Result<()> {
        let version = self.refresh().await?;
        rewrite.outdated(self, &version).await.map(drop)
    }
}

/// A file that is being written from others.
struct Copy<'t> {
    table: &'t LakeTable,
    writer: LakeFileWriter,
    /// Those of the table.
    columns: SchemaRef,
    /// Those of the file, which may have lineage too.
    schema: SchemaRef,
    offsets: FileOffsets,
}

impl Copy<'_> {
    /// Adds the living rows of `file`.
    async fn file(&mut self, file: &Arc<LakeFile>, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let url = &file.url;
        let keep = self.table.live_positions(file).await?;
        if keep.as_ref().is_some_and(RoaringTreemap::is_empty) {
            return Ok(());
        }
        let pages = if keep.is_some() { PageIndexPolicy::Optional } else { PageIndexPolicy::Skip };
        let mut builder = open(self.table.warehouse().store(), file, pages).await?;
        let fields = with_lineage(&self.columns);
        let wanted: HashSet<_> = fields.fields().iter().filter_map(|field| field_id(field)).collect();
        let places = builder.schema().fields().iter().enumerate();
        let places = places.filter(|(_, field)| field_id(field).is_some_and(|id| wanted.contains(&id)));
        let projection = ProjectionMask::roots(builder.parquet_schema(), places.map(|(place, _)| place));
        if let Some(keep) = &keep {
            let kept = RowSelection::from_consecutive_ranges(ranges(keep), file.rows as usize);
            builder = builder.with_row_selection(kept);
        }
        let mut positions: Box<dyn Iterator<Item = u64> + Send + '_> = match &keep {
            Some(keep) => Box::new(keep.iter()),
            None => Box::new(0..file.rows),
        };
        let mut read = batches(builder.with_projection(projection), url)?;
        while let Some(batch) = read.try_next().await? {
            go_on()?;
            let positions: Vec<u64> = positions.by_ref().take(batch.num_rows()).collect();
            if positions.len() < batch.num_rows() {
                return Err(Error::corrupt(format!("{url} has more rows than it says")));
            }
            let batch = self.convert(file, &batch, &positions)?;
            self.writer.write(batch).await?;
        }
        match positions.next() {
            Some(position) => Err(Error::corrupt(format!("{url} ends before row {position}"))),
            None => Ok(()),
        }
    }

    /// Rows of `file` in the new file's columns.
    fn convert(&mut self, file: &LakeFile, batch: &RecordBatch, positions: &[u64]) -> Result<RecordBatch> {
        let url = &file.url;
        let by_id = by_id(batch);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in self.columns.fields() {
            columns.push(match field_id(field).and_then(|id| by_id.get(&id)) {
                Some(column) => fitted_values(column, field.data_type()).map_err(|error| unfit(url, error))?,
                // Added after the file was written.
                None => new_null_array(field.data_type(), batch.num_rows()),
            });
        }
        if columns.len() < self.schema.fields().len() {
            columns.extend(lineage(file, positions, |id| by_id.get(&id).copied())?);
        }
        let offsets =
            by_id.get(&self.table.layout().offset_id()).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let offsets = offsets.ok_or_else(|| Error::corrupt(format!("{url} has no offsets")))?;
        for offset in offsets.values() {
            if !self.offsets.push(*offset as u64) {
                return Err(out_of_order(url, format!("at {offset}")));
            }
        }
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| unfit(url, error))
    }
}

impl Rewrite {
    /// A rewrite that begins now, of no files yet.
    pub fn new(commit_id: Uuid, base: Arc<LakeVersion>) -> Rewrite {
        Rewrite { commit_id, base, runs: Vec::new(), begun: SystemTime::now() }
    }

    /// Whether its files may have been swept by another process, which knows nothing of it. A clock that went back does not
    /// tell, so then too.
    fn is_too_old(&self, table: &LakeTable) -> bool {
        let most = Duration::from_millis(table.kept_ms() / 2).max(AGE_MAX_LEAST);
        !self.begun.elapsed().is_ok_and(|age| age < most)
    }

    /// The new files have the place of the old ones, and no more rows than those.
    pub(super) fn check(&self, is_keyed: bool) -> Result<()> {
        let mut paths = HashSet::new();
        for run in &self.runs {
            let (Some(first), Some(last)) = (run.replaced.first(), run.replaced.last()) else {
                return Err(Error::internal("a rewrite of no files"));
            };
            let live: u64 = run.replaced.iter().map(|file| file.live_rows()).sum();
            let in_a_row = run.replaced.windows(2).all(|pair| pair[0].end_offset <= pair[1].first_offset);
            let fits = match &run.written {
                None => live == 0,
                Some(RewrittenFile { file, .. }) if is_keyed => {
                    file.rows() == live && file.first_offset >= first.first_offset && file.end_offset <= last.end_offset
                }
                Some(RewrittenFile { file, .. }) => {
                    file.rows() == live && (file.first_offset, file.end_offset) == (first.first_offset, last.end_offset)
                }
            };
            let of_one = run.replaced.iter().all(|file| file.bucket == first.bucket)
                && run.written.iter().all(|written| written.file.bucket == first.bucket);
            let are_new = run.replaced.iter().all(|file| paths.insert(&file.path));
            if !(fits && in_a_row && of_one && are_new) {
                return Err(Error::internal(format!("a rewrite of {live} rows does not fit: {}", first.url)));
            }
        }
        Ok(())
    }

    /// What it does to `base`; none if the files are not there any more, or not as they were.
    pub(super) async fn on<'c>(&'c self, table: &LakeTable, base: &'c LakeVersion) -> Result<Option<Delta<'c>>> {
        let files_of = if faults::planted(Defect::RewriteOnOlderList) { &self.base } else { base };
        if base.metadata.format_version() != self.base.metadata.format_version() || self.is_too_old(table) {
            return Ok(None);
        }
        let Some(outdated) = self.outdated(table, files_of).await? else { return Ok(None) };
        let (mut gone, mut joined) = (Vec::new(), Vec::new());
        for (run, Outdated { now, mut ended }) in self.runs.iter().zip(outdated) {
            gone.extend(now);
            if faults::planted(Defect::RewriteForgetsEnded) {
                ended.clear();
            }
            match &run.written {
                _ if ended.is_empty() => {}
                Some(RewrittenFile { file, offsets }) => joined.push(Joined {
                    url: table.warehouse().url(&file.path),
                    bucket: file.bucket,
                    positions: offsets.positions(&ended)?,
                }),
                None => return Err(Error::internal("rows have ended where none lived")),
            }
        }
        let paths = gone.iter().map(|file| file.path.clone()).collect();
        let deletes = CommitDeletes::of(table, files_of, self.commit_id, joined, &paths).await?;
        Ok(Some(Delta {
            commit_id: self.commit_id,
            operation: Operation::Replace,
            start: &base.offsets,
            end: &base.offsets,
            rows_gone: base.rows_gone,
            stamps: None,
            added: self.runs.iter().filter_map(|run| Some(&run.written.as_ref()?.file)).collect(),
            gone,
            deletes,
            files_of,
        }))
    }

    /// The replaced files of each run as they are in `version`; none if one is not there, or is not what it was.
    async fn outdated(&self, table: &LakeTable, version: &LakeVersion) -> Result<Option<Vec<Outdated>>> {
        let files = table.data_files(version).await?;
        let there: HashMap<&StorePath, &Arc<LakeFile>> = files.iter().map(|file| (&file.path, file)).collect();
        let mut runs = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let mut outdated = Outdated::default();
            for before in &run.replaced {
                let Some(now) = there.get(&before.path).filter(|now| now.first_row_id == before.first_row_id) else {
                    return Ok(None);
                };
                outdated.now.push(Arc::clone(now));
                match ended_since(table, before, now).await? {
                    Some(offsets) => outdated.ended |= offsets,
                    None => return Ok(None),
                }
            }
            runs.push(outdated);
        }
        Ok(Some(runs))
    }

    /// Whoever asks for offsets of the new files need not read them.
    pub(super) fn keep_offsets(&self, table: &LakeTable) {
        for written in self.runs.iter().filter_map(|run| run.written.as_ref()) {
            table.keep_offsets(&written.file.path, &written.offsets);
        }
    }
}

/// Files that are being replaced.
#[derive(Default)]
struct Outdated {
    now: Vec<Arc<LakeFile>>,
    /// The offsets of rows that were alive when they were read.
    ended: RoaringTreemap,
}

/// The offsets of rows of a file that were alive and are not any more. None if one is alive again.
async fn ended_since(table: &LakeTable, before: &Arc<LakeFile>, now: &Arc<LakeFile>) -> Result<Option<RoaringTreemap>> {
    let (then, now) = (table.deleted_positions(before).await?, table.deleted_positions(now).await?);
    if !then.is_subset(&now) {
        return Ok(None);
    }
    let positions = &*now - &*then;
    if positions.is_empty() {
        return Ok(Some(positions));
    }
    let known = table.file_offsets(before).await?;
    let offset = |position| known.offset(position).map(|Offset(offset)| offset);
    let offsets: Option<RoaringTreemap> = positions.iter().map(offset).collect();
    offsets.map(Some).ok_or_else(|| Error::corrupt(format!("{} has deletes of rows that it has not", before.url)))
}

#[cfg(test)]
impl Rewrite {
    /// The same as if it had begun so much earlier.
    pub(crate) fn aged(mut self, by: Duration) -> Rewrite {
        self.begun -= by;
        self
    }
}
