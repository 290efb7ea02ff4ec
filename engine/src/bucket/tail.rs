//! The newest rows of a bucket, in memory.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use thermocline_schemas::{Offset, Result, SchemaId};

use super::Stamps;
use crate::ipc::{batch_bytes, concat};
use crate::journal::Position;
use crate::memory_budget::{MemoryBudget, Reservation};

/// This many small neighbours become one chunk, so that a table fed row by row is not read row by row. A row is copied
/// once per level, and there are few levels between 1 row and [`MERGED_ROWS_MAX`].
const MERGE_COUNT: usize = 16;
const MERGED_ROWS_MAX: usize = 16_384;
/// Merging is work on the journal's thread.
const MERGED_BYTES_MAX: u64 = 4 << 20;

/// Consecutive rows of one bucket that share a schema.
#[derive(Debug)]
pub struct Chunk {
    pub base: Offset,
    pub schema: SchemaId,
    pub batch: RecordBatch,
    pub stamps: Stamps,
    /// Where the first frame stands that holds its rows.
    pub position: Position,
    /// Why its rows cannot be read, which then have offsets but no columns.
    pub damage: Option<Arc<str>>,
    /// How often its rows were merged.
    level: u8,
    reservation: Arc<Reservation>,
}

impl Chunk {
    pub fn new(
        base: Offset,
        schema: SchemaId,
        batch: RecordBatch,
        stamps: Stamps,
        position: Position,
        reservation: Reservation,
    ) -> Chunk {
        Chunk { base, schema, batch, stamps, position, damage: None, level: 0, reservation: Arc::new(reservation) }
    }

    /// The rows `[base, end)`, of which only the offsets are left. An empty one says that something may be missing there.
    pub fn damaged(
        base: Offset,
        end: Offset,
        position: Position,
        reason: Arc<str>,
        reservation: Reservation,
    ) -> Result<Chunk> {
        let rows = end.since(base) as usize;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
        let chunk = Chunk::new(base, SchemaId::default(), batch, Stamps::one(rows, 0), position, reservation);
        Ok(Chunk { damage: Some(reason), ..chunk })
    }

    /// The rows from `base` on, which are `batch`; the memory is still all held.
    pub fn cut(&self, base: Offset, batch: RecordBatch, stamps: Stamps) -> Chunk {
        let (schema, position, damage) = (self.schema, self.position, self.damage.clone());
        let reservation = self.reservation.clone();
        Chunk { base, schema, batch, stamps, position, damage, level: self.level, reservation }
    }

    /// The same rows, which now stand at `position` of the journal.
    pub fn at(&self, position: Position) -> Chunk {
        Chunk { position, ..self.cut(self.base, self.batch.clone(), self.stamps.clone()) }
    }

    /// The memory that it holds.
    pub fn bytes(&self) -> u64 {
        self.reservation.bytes()
    }

    pub fn end(&self) -> Offset {
        self.base.plus(self.batch.num_rows() as u64)
    }
}

/// Replaces the last [`MERGE_COUNT`] chunks by one when they are small and alike. To be called after each push.
pub fn merge_small(chunks: &mut Vec<Arc<Chunk>>, budget: &Arc<MemoryBudget>) -> Result<()> {
    while let Some(from) = chunks.len().checked_sub(MERGE_COUNT) {
        let last = &chunks[from..];
        let (level, schema) = (last[0].level, last[0].schema);
        let alike = last.iter().all(|chunk| chunk.level == level && chunk.schema == schema && chunk.damage.is_none());
        let rows: usize = last.iter().map(|chunk| chunk.batch.num_rows()).sum();
        let bytes: u64 = last.iter().map(|chunk| chunk.bytes()).sum();
        if !alike || rows > MERGED_ROWS_MAX || bytes > MERGED_BYTES_MAX {
            return Ok(());
        }
        let batches: Vec<_> = last.iter().map(|chunk| chunk.batch.clone()).collect();
        let schema_ref: SchemaRef = batches[0].schema();
        let batch = concat(&schema_ref, &batches)?;
        let mut stamps = Stamps::default();
        last.iter().for_each(|chunk| stamps.extend(&chunk.stamps));
        let reservation = budget.force(batch_bytes(&batch));
        let merged = Chunk {
            base: last[0].base,
            schema,
            batch,
            stamps,
            position: last[0].position,
            damage: None,
            level: level + 1,
            reservation: Arc::new(reservation),
        };
        chunks.truncate(from);
        chunks.push(Arc::new(merged));
    }
    Ok(())
}
