//! The read split: the one place that draws the line between hot and cold.
//!
//! Boundaries first, then the published ends of all tables at one journal position, then the hot rows between them, held
//! by reference; then the boundaries once more: if one has moved meanwhile, all again. So a split is one cut: each row
//! below the ends is in exactly one of its two parts, for every table of the statement, and stays readable however long
//! the reader takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::path::Path as StorePath;
use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{HotRows, LogStarts, Table, TableEnds};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result, TableSchema};

use crate::boundary::Boundary;
use crate::lake::{LakeFile, LakeTable, LakeVersion};
use crate::masks::{CutFile, Masks};
use crate::tiering::{TableLake, Tiering};

/// How often a boundary may move under a reader before it gives up. Rounds are seconds apart, a split takes microseconds.
pub(crate) const ATTEMPTS_MAX: usize = 100;

/// Which rows a read takes, from which tier.
#[derive(Clone, Debug)]
pub struct ReadSplit {
    pub table: Arc<Table>,
    /// The cut: no row at or past these offsets.
    pub ends: Arc<TableEnds>,
    /// The cold part; none when nothing was tiered, or when it was not asked for.
    pub lake: Option<LakePart>,
    /// The hot part, per bucket.
    pub hot: Vec<HotPart>,
}

/// A snapshot, and its live data files.
#[derive(Clone, Debug)]
pub struct LakePart {
    pub table: Arc<LakeTable>,
    pub version: Arc<LakeVersion>,
    pub files: Arc<Vec<Arc<LakeFile>>>,
}

impl LakePart {
    /// The files of a version, which hold as many rows as they must.
    pub(crate) async fn read(lake: &Arc<LakeTable>, version: &Arc<LakeVersion>) -> Result<LakePart> {
        let files = lake.data_files(version).await?;
        let found = rows_of(&files);
        let expected = match version.is_keyed || version.offsets.is_empty() {
            true => version.live_rows()?,
            false => version.offsets.sum().saturating_sub(version.rows_gone),
        };
        if found != expected {
            return Err(Error::new(
                Code::LakeConflict,
                format!("the snapshot at {} holds {found} rows, {expected} were tiered", version.metadata_url),
            ));
        }
        Ok(LakePart { table: lake.clone(), version: version.clone(), files })
    }

    /// The same without files whose rows lie before the log's start: the next commit takes them out of the lake.
    pub(crate) async fn from(mut self, starts: &LogStarts) -> Result<LakePart> {
        if starts.rows_gone() > self.version.rows_gone && !faults::planted(Defect::StartsUnread) {
            self.files = Arc::new(self.table.parted(&self.files, |bucket| starts.start(bucket)).await?.0);
        }
        Ok(self)
    }

    /// Reads the data file at `path` whole: an error if it is damaged, or not there any more.
    pub async fn check_file(&self, path: &StorePath, schema: &TableSchema) -> Result<()> {
        match self.files.iter().find(|file| file.path == *path) {
            Some(file) => self.table.check_file(file, schema).await,
            None => Err(Error::internal(format!("{path} is none of the snapshot's files"))),
        }
    }
}

/// The hot rows `[from, to)` of one bucket.
#[derive(Clone, Debug)]
pub struct HotPart {
    pub bucket: PartitionBucket,
    pub from: Offset,
    pub to: Offset,
    pub rows: Vec<HotRows>,
}

impl ReadSplit {
    /// The lake's files with the rows that live at the cut, or, with `masked` false, at the lake's own end.
    pub async fn lake_files(&self, masked: bool) -> Result<Vec<CutFile>> {
        let Some(lake) = &self.lake else { return Ok(Vec::new()) };
        if !self.table.descriptor().is_keyed() {
            return self.log_files(lake).await;
        }
        let masks = if masked { Masks::of(&self.hot)? } else { Masks::default() };
        CutFile::living(&lake.table, &lake.files, &masks).await
    }

    /// The files of a log table with their rows up to the cut, which may lie before the lake's end.
    async fn log_files(&self, lake: &LakePart) -> Result<Vec<CutFile>> {
        let mut files = Vec::with_capacity(lake.files.len());
        for file in lake.files.iter() {
            let end = self.ends.end(file.bucket);
            let is_past = end < self.tiered_end(file.bucket) && !faults::planted(Defect::PastRowsUncut);
            if !is_past || file.end_offset <= end {
                files.push(CutFile::whole(file.clone()));
            } else if file.first_offset < end {
                files.extend(CutFile::before(&lake.table, file, end).await?);
            }
        }
        Ok(files)
    }

    /// The first offset that the lake does not have.
    pub fn tiered_end(&self, bucket: PartitionBucket) -> Offset {
        self.lake.as_ref().map_or(Offset::ZERO, |lake| lake.version.offsets.get(bucket))
    }

    /// The files that have the rows at these offsets, with those rows alone; none if a row is in no file.
    pub async fn lake_files_at(&self, rows: &BTreeMap<PartitionBucket, Vec<Offset>>) -> Result<Option<Vec<CutFile>>> {
        let Some(lake) = &self.lake else { return Ok(rows.is_empty().then(Vec::new)) };
        let mut found = Vec::new();
        for (bucket, offsets) in rows {
            match CutFile::at(&lake.table, &lake.files, *bucket, offsets).await? {
                Some(files) => found.extend(files),
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// Every change that is kept, up to the cut.
    pub fn changes(&self) -> Result<Vec<HotPart>> {
        let mut parts = Vec::new();
        for (bucket, log) in self.table.buckets() {
            let to = self.ends.end(bucket);
            let (from, rows) = loop {
                let from = log.trim_floor().max(self.ends.start(bucket));
                match self.table.hot_rows(bucket, from, to) {
                    // Let go since; what is left is looked at again.
                    Err(error) if error.code() == Code::OffsetOutOfRetention && log.trim_floor() > from => {}
                    rows => break (from, rows?),
                }
            };
            if !rows.is_empty() {
                parts.push(HotPart { bucket, from, to, rows });
            }
        }
        Ok(parts)
    }

    pub fn hot_rows(&self) -> u64 {
        self.hot.iter().map(|part| part.to.since(part.from)).sum()
    }

    pub fn lake_rows(&self) -> u64 {
        self.lake.as_ref().map_or(0, |lake| rows_of(&lake.files))
    }
}

fn rows_of(files: &[Arc<LakeFile>]) -> u64 {
    files.iter().map(|file| file.live_rows()).sum()
}

/// A split before the lake's file list is read.
type Drawn = (Arc<Table>, Arc<Boundary>, Arc<TableEnds>, Vec<HotPart>);

impl Tiering {
    /// The splits of these tables at one cut. A table that is named twice gets the same split twice.
    pub async fn read_split(&self, tables: &[Arc<Table>]) -> Result<Vec<ReadSplit>> {
        self.read_split_of(tables, |_| true).await
    }

    /// The same, without the cold part of tables of which only hot rows are wanted: for them no store is asked.
    pub async fn read_split_of(
        &self,
        tables: &[Arc<Table>],
        wants_cold: impl Fn(&Table) -> bool,
    ) -> Result<Vec<ReadSplit>> {
        let mut lakes = Vec::with_capacity(tables.len());
        for table in tables {
            lakes.push(self.table_lake_for_reading(table).await?);
        }
        let mut splits = Vec::with_capacity(tables.len());
        for (table, boundary, ends, hot) in self.draw(tables, &lakes)? {
            let lake = match &boundary.lake {
                Some((lake, version)) if wants_cold(&table) => {
                    Some(LakePart::read(lake, version).await?.from(&ends.starts).await?)
                }
                _ => None,
            };
            splits.push(ReadSplit { table, ends, lake, hot });
        }
        Ok(splits)
    }

    fn draw(&self, tables: &[Arc<Table>], lakes: &[Arc<TableLake>]) -> Result<Vec<Drawn>> {
        for _ in 0..ATTEMPTS_MAX {
            let early = faults::planted(Defect::EndsBeforeBoundary).then(|| self.engine().cut(tables));
            faults::linger(Defect::EndsBeforeBoundary);
            let boundaries: Vec<_> = lakes.iter().map(|lake| lake.published.load()).collect();
            faults::linger(Defect::SplitNotRedrawn);
            let ends = early.unwrap_or_else(|| self.engine().cut(tables));
            let mut drawn = Vec::with_capacity(tables.len());
            for ((table, boundary), ends) in tables.iter().zip(&boundaries).zip(ends) {
                let Some(hot) = hot_parts(table, boundary, &ends)? else { break };
                drawn.push((table.clone(), boundary.clone(), ends, hot));
            }
            let unmoved = lakes.iter().zip(&boundaries).all(|(lake, boundary)| lake.published.is(boundary));
            if (unmoved || faults::planted(Defect::SplitNotRedrawn)) && drawn.len() == tables.len() {
                return Ok(drawn);
            }
        }
        Err(Error::new(Code::StoreUnavailable, "the boundary of a table moves faster than a read can be planned"))
    }
}

/// The hot rows from the boundary to the ends; none if some were let go since the boundary was loaded.
fn hot_parts(table: &Table, boundary: &Boundary, ends: &TableEnds) -> Result<Option<Vec<HotPart>>> {
    let mut parts = Vec::new();
    for (bucket, log) in table.buckets() {
        // Without a lake, what retention let go of is gone for readers too.
        let floor = if table.descriptor().properties.lake_enabled { Offset::ZERO } else { log.trim_floor() };
        let floor = if faults::planted(Defect::SplitNotRedrawn) { log.trim_floor() } else { floor };
        let from = boundary.tiered_end(bucket).max(floor).max(ends.start(bucket));
        let to = ends.end(bucket);
        match table.hot_rows(bucket, from, to) {
            Ok(rows) if rows.is_empty() => {}
            Ok(rows) => parts.push(HotPart { bucket, from, to, rows }),
            Err(error) if error.code() == Code::OffsetOutOfRetention => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(parts))
}
