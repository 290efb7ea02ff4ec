//! Masks: rows of the lake that hot changes have ended, and the lake's files as a cut sees them.
//!
//! Every change of a primary-key table says the offset of the row that it ended. So the hot rows `[boundary, cut)` name all
//! rows of the lake that are no longer part of the state at the cut, and nothing else has to be kept of them: a read
//! masks them, and a round, for which the cut is its own end, writes them down as deletes.
//!
//! Always: a masked row is in exactly one data file and lives there, or it is an error and not an answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use roaring::RoaringTreemap;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result};

use crate::lake::{FileOffsets, LakeFile, LakeTable, files_of};
use crate::split::HotPart;

/// Offsets of ended rows, per bucket.
#[derive(Clone, Debug, Default)]
pub struct Masks(BTreeMap<PartitionBucket, RoaringTreemap>);

/// A data file as a cut sees it.
#[derive(Clone, Debug)]
pub struct CutFile {
    pub file: Arc<LakeFile>,
    /// Which of its rows; none for all.
    pub picked: Option<Picked>,
}

/// Some rows of a file.
#[derive(Clone, Debug)]
pub struct Picked {
    /// Where they stand in the file, or, if `hidden`, where all others stand.
    positions: Arc<RoaringTreemap>,
    hidden: bool,
    offsets: Arc<FileOffsets>,
}

impl Masks {
    /// What the changes of these parts have ended of the rows before them.
    pub fn of(parts: &[HotPart]) -> Result<Masks> {
        let mut masks = Masks::default();
        for part in parts {
            let mut ended = RoaringTreemap::new();
            for rows in &part.rows {
                rows.each_ended(|offset| {
                    if offset < part.from {
                        ended.insert(offset.0);
                    }
                })?;
            }
            if !ended.is_empty() {
                masks.0.insert(part.bucket, ended);
            }
        }
        Ok(masks)
    }

    /// Where the ended rows stand in a table's files; files without one are not named.
    pub async fn positions(
        &self,
        lake: &LakeTable,
        files: &[Arc<LakeFile>],
    ) -> Result<Vec<(Arc<LakeFile>, RoaringTreemap)>> {
        let mut found = Vec::new();
        for (bucket, ended) in &self.0 {
            let mut left = ended.len();
            for file in files_of(files, *bucket) {
                let own = within(ended, file);
                if own.is_empty() {
                    continue;
                }
                let offsets = lake.file_offsets(file).await?;
                let own = &own & offsets.offsets();
                if own.is_empty() {
                    continue;
                }
                let positions = offsets.positions(&own)?;
                if !positions.is_disjoint(&*lake.deleted_positions(file).await?) {
                    return Err(unfit(*bucket, "rows are ended that are deleted already", &file.url));
                }
                left -= own.len();
                found.push((file.clone(), positions));
            }
            if left > 0 {
                return Err(unfit(*bucket, &format!("{left} rows are ended that are not there"), &lake.location()));
            }
        }
        Ok(found)
    }
}

fn within(offsets: &RoaringTreemap, file: &LakeFile) -> RoaringTreemap {
    let mut own = offsets.clone();
    own.remove_range(..file.first_offset.0);
    own.remove_range(file.end_offset.0..);
    own
}

fn unfit(bucket: PartitionBucket, what: &str, place: &str) -> Error {
    Error::new(Code::LakeConflict, format!("bucket {bucket} and its lake do not fit: {what}: {place}"))
}

impl CutFile {
    pub fn rows(&self) -> u64 {
        let picked = self.picked.as_ref();
        picked.map_or(self.file.rows, |picked| match picked.hidden {
            true => self.file.rows.saturating_sub(picked.positions.len()),
            false => picked.positions.len(),
        })
    }

    /// All rows.
    pub fn whole(file: Arc<LakeFile>) -> CutFile {
        CutFile { file, picked: None }
    }

    /// The files with the rows that live at a cut: without those that the snapshot deletes, and those that are masked.
    pub async fn living(lake: &LakeTable, files: &[Arc<LakeFile>], masks: &Masks) -> Result<Vec<CutFile>> {
        let masked =
            if faults::planted(Defect::MasksIgnored) { Vec::new() } else { masks.positions(lake, files).await? };
        let masked: BTreeMap<_, _> =
            masked.into_iter().map(|(file, positions)| (file.url.clone(), positions)).collect();
        let mut cut = Vec::with_capacity(files.len());
        for file in files {
            let masked = masked.get(&file.url);
            if masked.is_none() && file.deletes.is_none() {
                cut.push(CutFile::whole(file.clone()));
                continue;
            }
            let deleted = lake.deleted_positions(file).await?;
            let positions = match masked {
                Some(masked) => Arc::new(&*deleted | masked),
                None => deleted,
            };
            let offsets = lake.file_offsets(file).await?;
            let cut_file = CutFile { file: file.clone(), picked: Some(Picked { positions, hidden: true, offsets }) };
            if cut_file.rows() > 0 {
                cut.push(cut_file);
            }
        }
        Ok(cut)
    }

    /// The rows of a file below an offset; none if it has none.
    pub async fn before(lake: &LakeTable, file: &Arc<LakeFile>, end: Offset) -> Result<Option<CutFile>> {
        let offsets = lake.file_offsets(file).await?;
        let mut own = offsets.offsets().clone();
        own.remove_range(end.0..);
        // Rows ascend by their offsets.
        let count = own.len();
        let mut positions = RoaringTreemap::new();
        positions.insert_range(0..count);
        let picked = Picked { positions: Arc::new(positions), hidden: false, offsets };
        Ok((count > 0).then(|| CutFile { file: file.clone(), picked: Some(picked) }))
    }

    /// The rows at these offsets, which ascend; only files that have some. None if a row is in no file.
    pub async fn at(
        lake: &LakeTable,
        files: &[Arc<LakeFile>],
        bucket: PartitionBucket,
        wanted: &[Offset],
    ) -> Result<Option<Vec<CutFile>>> {
        let wanted = RoaringTreemap::from_sorted_iter(wanted.iter().map(|offset| offset.0))
            .map_err(|error| Error::internal("offsets that do not ascend").with_source(error))?;
        let mut left = wanted.len();
        let mut found = Vec::new();
        for file in files_of(files, bucket) {
            let own = within(&wanted, file);
            if own.is_empty() {
                continue;
            }
            let offsets = lake.file_offsets(file).await?;
            let own = &own & offsets.offsets();
            if !own.is_empty() {
                left -= own.len();
                let positions = Arc::new(offsets.positions(&own)?);
                found.push(CutFile { file: file.clone(), picked: Some(Picked { positions, hidden: false, offsets }) });
            }
        }
        Ok((left == 0).then_some(found))
    }
}

impl Picked {
    /// Where the rows stand.
    pub fn positions(&self) -> RoaringTreemap {
        if !self.hidden {
            return (*self.positions).clone();
        }
        let mut positions = RoaringTreemap::new();
        positions.insert_range(0..self.offsets.rows());
        positions - &*self.positions
    }

    /// For each row group of the file the rows to read of it; none where there is none.
    pub fn selections(&self) -> Vec<Option<RowSelection>> {
        let mut positions = self.positions.iter().peekable();
        let mut first = 0;
        let groups = self.offsets.row_groups().iter().map(|rows| {
            let end = first + rows;
            let own = std::iter::from_fn(|| positions.next_if(|position| *position < end));
            let selection = selection(own, self.hidden, first, end);
            first = end;
            selection
        });
        groups.collect()
    }
}

/// The rows `[from, to)` without those at `positions`, if they are hidden, else those at `positions` alone.
fn selection(positions: impl Iterator<Item = u64>, hidden: bool, from: u64, to: u64) -> Option<RowSelection> {
    let run = |skip, rows: u64| RowSelector { row_count: rows as usize, skip };
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = from;
    for position in positions {
        match selectors.last_mut() {
            Some(last) if last.skip == hidden && position == next => last.row_count += 1,
            _ => {
                if position > next {
                    selectors.push(run(!hidden, position - next));
                }
                selectors.push(run(hidden, 1));
            }
        }
        next = position + 1;
    }
    if next < to {
        selectors.push(run(!hidden, to - next));
    }
    selectors.iter().any(|selector| !selector.skip).then(|| selectors.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_what_lies_in_the_row_group() {
        let shown = |positions: &[u64], hidden, from, to| {
            let selection = selection(positions.iter().copied(), hidden, from, to)?;
            Some(Vec::<RowSelector>::from(selection).iter().map(|one| (one.skip, one.row_count)).collect::<Vec<_>>())
        };
        let picked = [(false, 2), (true, 3), (false, 1), (true, 3), (false, 1)];
        assert_eq!(shown(&[0, 1, 5, 9], false, 0, 10), Some(picked.to_vec()));
        assert_eq!(shown(&[0, 1, 5, 9], true, 0, 10), Some(picked.map(|(skip, rows)| (!skip, rows)).to_vec()));
        assert_eq!(shown(&[10, 11], false, 10, 15), Some(vec![(false, 2), (true, 3)]));
        assert_eq!(shown(&[14], true, 10, 15), Some(vec![(false, 4), (true, 1)]));
        assert_eq!(shown(&[], true, 10, 15), Some(vec![(false, 5)]));
        assert_eq!(shown(&[], false, 10, 15), None);
        assert_eq!(shown(&[10, 11, 12], true, 10, 13), None);
    }
}
