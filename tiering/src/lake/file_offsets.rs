//! Where the rows of a data file stand: their offsets, in the order of their positions.
//!
//! Always: the rows of a file of ours ascend by offset, so the position of a row is the number of smaller offsets in the
//! file, and a set says it all. Files never change; so what was read once of a file's `__offset` column is kept, as long as
//! there is room. A file whose offsets do not ascend was written by others, and is an error.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use object_store::path::Path as StorePath;
use parquet::arrow::ProjectionMask;
use parquet::file::metadata::PageIndexPolicy;
use roaring::RoaringTreemap;
use thermocline_schemas::{Code, Error, Offset, Result};

use super::read::{batches, field_id, open};
use super::{LakeFile, LakeTable};

/// Offsets are counted up to each block that has any, so that a rank is found within one block.
const BLOCK_BITS: u32 = 16;

/// The offsets of a data file, and how its rows are grouped. See the module's text.
#[derive(Clone, Debug, Default)]
pub struct FileOffsets {
    row_groups: Vec<u64>,
    offsets: RoaringTreemap,
    /// The blocks that have offsets, ascending, with the number of offsets before them.
    blocks: Vec<(u64, u64)>,
    rows: u64,
}

impl FileOffsets {
    /// The first offset of its rows, and the one after the last; none of a file without rows.
    pub fn range(&self) -> Option<(Offset, Offset)> {
        Some((Offset(self.offsets.min()?), Offset(self.offsets.max()?).plus(1)))
    }

    /// Where the row with this offset stands; none if the file has no such row.
    pub fn position(&self, offset: Offset) -> Option<u64> {
        if !self.offsets.contains(offset.0) {
            return None;
        }
        let block = offset.0 >> BLOCK_BITS;
        let at = self.blocks.binary_search_by_key(&block, |(block, _)| *block).ok()?;
        let within = self.offsets.range_cardinality(block << BLOCK_BITS..=offset.0);
        Some(self.blocks[at].1 + within - 1)
    }

    /// Where the rows with these offsets stand. An error if the file lacks one of them.
    pub fn positions(&self, offsets: &RoaringTreemap) -> Result<RoaringTreemap> {
        let mut positions = RoaringTreemap::new();
        for offset in offsets {
            let position = self.position(Offset(offset));
            positions.insert(position.ok_or_else(|| Error::internal(format!("the file has no row {offset}")))?);
        }
        Ok(positions)
    }

    /// The offset of the row that stands there; none past the last row.
    pub fn offset(&self, position: u64) -> Option<Offset> {
        self.offsets.select(position).map(Offset)
    }

    /// All offsets of the file.
    pub fn offsets(&self) -> &RoaringTreemap {
        &self.offsets
    }

    /// How many rows each row group has.
    pub fn row_groups(&self) -> &[u64] {
        &self.row_groups
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds the next row. False if its offset is not past the last one's.
    pub(super) fn push(&mut self, offset: u64) -> bool {
        if self.offsets.try_push(offset).is_err() {
            return false;
        }
        let block = offset >> BLOCK_BITS;
        if self.blocks.last().is_none_or(|(last, _)| *last != block) {
            self.blocks.push((block, self.rows));
        }
        self.rows += 1;
        true
    }

    /// All rows are there, in these row groups.
    pub(super) fn finish(mut self, row_groups: Vec<u64>) -> FileOffsets {
        self.offsets.optimize();
        FileOffsets { row_groups, ..self }
    }

    /// About what this takes in memory.
    fn bytes(&self) -> usize {
        self.offsets.serialized_size() + 16 * self.blocks.len() + 8 * self.row_groups.len() + size_of::<FileOffsets>()
    }
}

impl LakeTable {
    /// The offsets of a data file.
    pub async fn file_offsets(&self, file: &Arc<LakeFile>) -> Result<Arc<FileOffsets>> {
        if let Some(known) = self.file_offsets.get(&file.path) {
            return Ok(known);
        }
        let builder = open(self.warehouse().store(), file, PageIndexPolicy::Skip).await?;
        let row_groups = builder.metadata().row_groups().iter().map(|group| group.num_rows().unsigned_abs()).collect();
        let mut found = FileOffsets::default();
        let url = &file.url;
        let id = self.layout().offset_id();
        let place = builder.schema().fields().iter().position(|field| field_id(field) == Some(id));
        let place = place.ok_or_else(|| Error::corrupt(format!("{url} has no column with field id {id}")))?;
        let only = ProjectionMask::roots(builder.parquet_schema(), [place]);
        let mut batches = batches(builder.with_projection(only), url)?;
        while let Some(batch) = batches.try_next().await? {
            let offsets = batch.column(0).as_primitive_opt::<Int64Type>();
            let offsets = offsets.ok_or_else(|| Error::corrupt(format!("{url} has offsets of another type")))?;
            for offset in offsets.values() {
                if !found.push(*offset as u64) {
                    return Err(Error::new(
                        Code::LakeConflict,
                        format!("the rows of {url} are not in offset order: {offset} comes too late"),
                    )
                    .with_hint("another engine rewrote the file; roll the table back"));
                }
            }
        }
        let found = Arc::new(found.finish(row_groups));
        self.keep_offsets(&file.path, &found);
        Ok(found)
    }

    /// Whoever asks for the offsets of this file next need not read it.
    pub(super) fn keep_offsets(&self, path: &StorePath, offsets: &Arc<FileOffsets>) {
        self.file_offsets.put(path.clone(), offsets.clone(), offsets.bytes());
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn positions_are_ranks() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            // Dense, sparse, and far apart: runs, arrays and bitmaps, in one block and in many.
            let step_max = [1, 2, 40, 100_000][seed as usize % 4];
            let mut next = random.random_range(0..1 << 40);
            let mut sorted = Vec::new();
            let mut offsets = FileOffsets::default();
            for _ in 0..5_000 {
                next += random.random_range(1..=step_max);
                assert!(offsets.push(next));
                sorted.push(next);
            }
            assert!(!offsets.push(next) && !offsets.push(next - 1), "offsets ascend");
            let offsets = offsets.finish(vec![5_000]);
            assert_eq!(offsets.rows(), 5_000);
            for (position, offset) in sorted.iter().enumerate() {
                assert_eq!(offsets.position(Offset(*offset)), Some(position as u64), "seed {seed}");
                assert_eq!(offsets.offset(position as u64), Some(Offset(*offset)));
            }
            assert_eq!(offsets.offset(5_000), None);
            let some: Vec<usize> = (0..5_000).filter(|_| random.random_bool(0.1)).collect();
            let wanted = some.iter().map(|position| sorted[*position]).collect();
            let found: Vec<_> = offsets.positions(&wanted).unwrap().iter().map(|position| position as usize).collect();
            assert_eq!(found, some);
            for offset in [0, sorted[0] - 1, next + 1, u64::MAX] {
                assert_eq!(offsets.position(Offset(offset)), None);
                assert!(offsets.positions(&[sorted[7], offset].into_iter().collect()).is_err());
            }
        }
    }
}
