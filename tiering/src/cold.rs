//! Rows of primary-key tables for the engine, which has let them go: by offset, out of the lake's files.
//!
//! Who asks for one row will ask for it again, or for one beside it, and a page is decoded whole in any case. So rows are
//! read and kept in blocks that stand together in their file, as long as there is room. Files never change, so a block is
//! right for ever. A request for rows all over a file would read far more than it needs in blocks, and reads its rows alone.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use futures::StreamExt;
use object_store::path::Path as StorePath;
use roaring::RoaringTreemap;
use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{ColdRows, Table};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result, SchemaId};

use crate::byte_cache::ByteCache;
use crate::lake::{LakeFile, LakeTable};
use crate::masks::{CutFile, Picked};
use crate::tiering::Tiering;

const BLOCK_ROWS: u64 = 512;
/// More blocks than this are not read for one file: its rows are read alone.
const BLOCKS_MAX: usize = 64;
const KEPT_BYTES_MAX: usize = 64 << 20;

/// The block with this number of the file at this path, in columns of this version.
type Key = (StorePath, u64, SchemaId);

/// Consecutive rows of a file.
#[derive(Debug)]
struct Block {
    offsets: Vec<Offset>,
    rows: RecordBatch,
}

/// Blocks that were asked for of late, over all tables.
#[derive(Debug)]
pub struct ColdBlocks(ByteCache<Key, Block>);

impl Default for ColdBlocks {
    fn default() -> ColdBlocks {
        ColdBlocks(ByteCache::new(KEPT_BYTES_MAX))
    }
}

impl ColdRows for Tiering {
    fn rows<'a>(
        &'a self,
        table: &'a Arc<Table>,
        bucket: PartitionBucket,
        offsets: &'a [Offset],
        bytes_max: u64,
    ) -> Pin<Box<dyn Future<Output = Result<RecordBatch>> + Send + 'a>> {
        Box::pin(self.cold_rows(table, bucket, offsets, bytes_max))
    }
}

impl Tiering {
    async fn cold_rows(
        &self,
        table: &Arc<Table>,
        bucket: PartitionBucket,
        offsets: &[Offset],
        bytes_max: u64,
    ) -> Result<RecordBatch> {
        let gone = || Error::new(Code::OffsetOutOfRetention, format!("bucket {bucket} has rows that are in no file"));
        let boundary = self.table_lake_for_reading(table).await?.published.load();
        let (lake, version) = boundary.lake.as_ref().ok_or_else(gone)?;
        let files = lake.data_files(version).await?;
        // Deleted rows are in their files still: whoever asks knows better than this version which rows live.
        let found = CutFile::at(lake, &files, bucket, offsets).await?.ok_or_else(gone)?;
        let mut rows = Rows { offsets: Vec::with_capacity(offsets.len()), batches: Vec::new(), bytes: 0, bytes_max };
        for cut in found {
            let positions = cut.picked.as_ref().map(Picked::positions).unwrap_or_default();
            self.cold_blocks.read(table, lake, &cut.file, &positions, &mut rows).await?;
        }
        if rows.offsets != offsets {
            return Err(Error::internal("other rows were read than were asked for"));
        }
        Ok(concat_batches(table.schema(), &rows.batches)?)
    }
}

/// Rows that were found, up to a size.
struct Rows {
    offsets: Vec<Offset>,
    batches: Vec<RecordBatch>,
    bytes: u64,
    bytes_max: u64,
}

impl Rows {
    fn add(&mut self, offsets: impl IntoIterator<Item = Offset>, batch: RecordBatch) -> Result<()> {
        self.bytes += batch.get_array_memory_size() as u64;
        if self.bytes > self.bytes_max {
            return Err(Error::new(
                Code::RequestTooLarge,
                format!("the old rows that the request needs come to more than {} bytes", self.bytes_max),
            )
            .with_hint("name fewer keys at once"));
        }
        self.offsets.extend(offsets);
        self.batches.push(batch);
        Ok(())
    }
}

impl ColdBlocks {
    /// Adds the rows at some positions of a file.
    async fn read(
        &self,
        table: &Table,
        lake: &LakeTable,
        file: &Arc<LakeFile>,
        positions: &RoaringTreemap,
        rows: &mut Rows,
    ) -> Result<()> {
        let schema = &table.descriptor().schema;
        let mut numbers: Vec<u64> = positions.iter().map(|position| position / BLOCK_ROWS).collect();
        numbers.dedup();
        let version = if faults::planted(Defect::BlocksOfAnyVersion) { SchemaId(0) } else { schema.id };
        let key = |number: u64| (file.path.clone(), number, version);
        let mut blocks: Vec<Option<Arc<Block>>> = numbers.iter().map(|number| self.0.get(&key(*number))).collect();
        if blocks.iter().filter(|block| block.is_none()).count() > BLOCKS_MAX {
            let mut alone = lake.read_positions(file, schema, Some(positions)).await?;
            while let Some(picked) = alone.next().await {
                let picked = picked?;
                rows.add(picked.offsets, picked.batch)?;
            }
            return Ok(());
        }
        let mut wanted = RoaringTreemap::new();
        for (number, _) in numbers.iter().zip(&blocks).filter(|(_, block)| block.is_none()) {
            wanted.insert_range(number * BLOCK_ROWS..((number + 1) * BLOCK_ROWS).min(file.rows));
        }
        let (mut offsets, mut batches) = (Vec::new(), Vec::new());
        let mut read = lake.read_positions(file, schema, Some(&wanted)).await?;
        while let Some(picked) = read.next().await {
            let picked = picked?;
            offsets.extend(picked.offsets);
            batches.push(picked.batch);
        }
        if offsets.len() as u64 != wanted.len() {
            return Err(Error::internal(format!(
                "{} of {} rows were read of {}",
                offsets.len(),
                wanted.len(),
                file.url
            )));
        }
        let read = concat_batches(table.schema(), &batches)?;
        let mut first = 0;
        for (number, block) in numbers.iter().zip(&mut blocks).filter(|(_, block)| block.is_none()) {
            let count = BLOCK_ROWS.min(file.rows - number * BLOCK_ROWS) as usize;
            // A copy, so that the block is not kept by its neighbours, nor they by it.
            let own = take_record_batch(&read, &UInt32Array::from_iter_values(first as u32..(first + count) as u32))?;
            let new = Arc::new(Block { offsets: offsets[first..first + count].to_vec(), rows: own });
            let bytes = new.rows.get_array_memory_size() + size_of_val(&new.offsets[..]);
            self.0.put(key(*number), new.clone(), bytes);
            *block = Some(new);
            first += count;
        }
        let mut positions = positions.iter().peekable();
        for (number, block) in numbers.iter().zip(blocks.iter().flatten()) {
            let end = (number + 1) * BLOCK_ROWS;
            let own = std::iter::from_fn(|| positions.next_if(|position| *position < end));
            let places: Vec<u32> = own.map(|position| (position - number * BLOCK_ROWS) as u32).collect();
            let offsets: Vec<Offset> = places.iter().map(|place| block.offsets[*place as usize]).collect();
            rows.add(offsets, take_record_batch(&block.rows, &UInt32Array::from(places))?)?;
        }
        Ok(())
    }
}
