//! Which change ended which hot row.
//!
//! A row of the log holds a version of its key (`+I`, `+U`) until a later change of that key ends it. Row `o` is part of the
//! state at the end `H` when `o < H` and what ended it does not: the offset of the `+U` or `-D`, never of the `-U` before it,
//! for a cut may not fall between the two but arithmetic could.
//!
//! Always: an ending is written before the ends that make its change visible, so whoever reads at published ends finds it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;
use thermocline_schemas::{ChangeKind, Offset};

const BLOCK_ROWS: u64 = 4096;
/// Nothing has ended the row.
const OPEN: u64 = u64::MAX;

type Block = [AtomicU64; BLOCK_ROWS as usize];

/// The endings of one bucket's hot rows: 8 bytes a row.
#[derive(Debug, Default)]
pub struct Endings(RwLock<Blocks>);

#[derive(Debug, Default)]
struct Blocks {
    /// The number of the first block that is kept.
    first: u64,
    blocks: VecDeque<Arc<Block>>,
}

impl Endings {
    /// Makes room for rows up to `end`; rows below `floor` need none.
    pub fn extend(&self, floor: Offset, end: Offset) {
        let mut blocks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if blocks.blocks.is_empty() {
            blocks.first = floor.0 / BLOCK_ROWS;
        }
        while (blocks.first + blocks.blocks.len() as u64) * BLOCK_ROWS < end.0 {
            blocks.blocks.push_back(Arc::new(std::array::from_fn(|_| AtomicU64::new(OPEN))));
        }
    }

    /// Forgets rows below `floor`.
    pub fn trim(&self, floor: Offset) {
        let mut blocks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        while !blocks.blocks.is_empty() && (blocks.first + 1) * BLOCK_ROWS <= floor.0 {
            blocks.blocks.pop_front();
            blocks.first += 1;
        }
    }

    /// `by` has ended row `row`; a row that is no longer kept needs no ending.
    pub fn end(&self, row: Offset, by: Offset) {
        let blocks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let block = (row.0 / BLOCK_ROWS).checked_sub(blocks.first);
        if let Some(block) = block.and_then(|block| blocks.blocks.get(block as usize)) {
            block[(row.0 % BLOCK_ROWS) as usize].store(by.0, Ordering::Release);
        }
    }

    /// Of the rows `[from, to)`, for reading.
    pub fn of(&self, from: Offset, to: Offset) -> EndedRows {
        let blocks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let first = (from.0 / BLOCK_ROWS).max(blocks.first);
        let skipped = (first - blocks.first) as usize;
        let count = (to.0.div_ceil(BLOCK_ROWS)).saturating_sub(first) as usize;
        EndedRows { first, blocks: blocks.blocks.iter().skip(skipped).take(count).cloned().collect() }
    }

    pub fn bytes(&self) -> u64 {
        let blocks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        blocks.blocks.len() as u64 * size_of::<Block>() as u64
    }
}

/// The endings of some rows, held for reading.
#[derive(Clone, Debug)]
pub struct EndedRows {
    first: u64,
    blocks: Vec<Arc<Block>>,
}

impl EndedRows {
    /// Which of the rows from `first` on, of these kinds, are part of the state at `end`.
    pub fn visible(&self, first: Offset, kinds: &[u8], end: Offset) -> BooleanArray {
        const VERSIONS: [u8; 2] = [ChangeKind::Insert as u8, ChangeKind::UpdateAfter as u8];
        let visible = BooleanBuffer::collect_bool(kinds.len(), |row| {
            let offset = first.0 + row as u64;
            VERSIONS.contains(&kinds[row]) && offset < end.0 && end.0 <= self.ended_by(offset)
        });
        BooleanArray::new(visible, None)
    }

    fn ended_by(&self, row: u64) -> u64 {
        let block = (row / BLOCK_ROWS).checked_sub(self.first).and_then(|block| self.blocks.get(block as usize));
        block.map_or(OPEN, |block| block[(row % BLOCK_ROWS) as usize].load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_visible_from_its_own_offset_to_the_change_that_ends_it() {
        let endings = Endings::default();
        endings.extend(Offset(BLOCK_ROWS - 1), Offset(BLOCK_ROWS + 3));
        // +I, then -U and +U, then -D, over the border of two blocks.
        let first = Offset(BLOCK_ROWS - 1);
        let kinds = [ChangeKind::Insert, ChangeKind::UpdateBefore, ChangeKind::UpdateAfter, ChangeKind::Delete];
        let kinds = kinds.map(ChangeKind::code);
        endings.end(first, first.plus(2));
        endings.end(first.plus(2), first.plus(3));
        let rows = endings.of(first, first.plus(4));
        let visible = |end: u64| rows.visible(first, &kinds, first.plus(end)).values().iter().collect::<Vec<_>>();
        assert_eq!(visible(0), [false; 4]);
        assert_eq!(visible(1), [true, false, false, false]);
        assert_eq!(visible(2), [true, false, false, false], "between the halves of an update the old row stands");
        assert_eq!(visible(3), [false, false, true, false]);
        assert_eq!(visible(4), [false; 4]);
        endings.trim(Offset(BLOCK_ROWS));
        assert_eq!(endings.bytes(), BLOCK_ROWS * 8);
        endings.end(first, first);
    }
}
