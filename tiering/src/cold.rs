//! Rows of primary-key tables for the engine, which has let them go: by offset, out of the lake's files.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::StreamExt;
use thermocline_engine::{ColdRows, Table};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result};

use crate::masks::{CutFile, Picked};
use crate::tiering::Tiering;

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
        let mut batches = Vec::new();
        let mut bytes = 0;
        for cut in found {
            let positions = cut.picked.as_ref().map(Picked::positions);
            let mut rows = lake.read_positions(&cut.file, &table.descriptor().schema, positions.as_ref()).await?;
            while let Some(rows) = rows.next().await {
                let rows = rows?;
                bytes += rows.batch.get_array_memory_size() as u64;
                if bytes > bytes_max {
                    return Err(Error::new(
                        Code::RequestTooLarge,
                        format!("the old rows that the request needs come to more than {bytes_max} bytes"),
                    )
                    .with_hint("name fewer keys at once"));
                }
                batches.push(rows);
            }
        }
        if !batches.iter().flat_map(|rows| &rows.offsets).eq(offsets) {
            return Err(Error::internal("other rows were read than were asked for"));
        }
        Ok(concat_batches(table.schema(), batches.iter().map(|rows| &rows.batch))?)
    }
}
