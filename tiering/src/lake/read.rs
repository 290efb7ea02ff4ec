//! Reading rows of one data file back in the table's columns, in offset order, from some offset on.
//!
//! For followers. Columns are found by field id, so a renamed one is still found and a dropped one stays dropped. Rows are
//! checked to have the offsets that come next: a file that others rewrote in another order is an error, never a gap.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::{ParquetObjectReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use thermocline_engine::Stamps;
use thermocline_schemas::{Code, Error, FIELD_ID_KEY, FieldId, Offset, Result, SystemColumn, TableSchema};

use super::{LakeFile, LakeTable};
use crate::warehouse::store_error;

const BATCH_ROWS: usize = 8192;

/// Consecutive rows of one bucket.
#[derive(Clone, Debug)]
pub struct LakeRows {
    pub first: Offset,
    /// In the table's columns.
    pub batch: RecordBatch,
    pub stamps: Stamps,
}

impl LakeTable {
    /// The rows of a data file from offset `from` on.
    pub async fn read_file(
        &self,
        file: &Arc<LakeFile>,
        schema: &TableSchema,
        from: Offset,
    ) -> Result<BoxStream<'static, Result<LakeRows>>> {
        let store = self.warehouse().store().clone();
        let reader = ParquetObjectReader::new(store, file.path.clone()).with_file_size(file.bytes);
        let cannot = {
            let url = file.url.clone();
            move |error: ParquetError| cannot_read(&url, error)
        };
        // The Arrow schema that the writer embedded is not needed: ours decides.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let mut builder =
            ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await.map_err(cannot.clone())?;
        // Our own files are dense, so the place of an offset is known; a rewritten one is read from its start.
        let rows = file.rows;
        if from > file.first_offset && file.end_offset.since(file.first_offset) == rows {
            let skipped = from.since(file.first_offset).min(rows) as usize;
            let left = rows as usize - skipped;
            builder = builder
                .with_row_selection(RowSelection::from(vec![RowSelector::skip(skipped), RowSelector::select(left)]));
        }
        let stream = builder.with_batch_size(BATCH_ROWS).build().map_err(cannot.clone())?;
        let columns = Columns::new(schema)?;
        let url = file.url.clone();
        let mut next = from.max(file.first_offset);
        let read = stream.map_err(cannot).map(move |batch| columns.convert(&batch?, &mut next, &url));
        Ok(read.try_filter(|rows| std::future::ready(rows.batch.num_rows() > 0)).boxed())
    }
}

fn cannot_read(url: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<object_store::Error>() {
            Ok(gone) if matches!(*gone, object_store::Error::NotFound { .. }) => {
                Error::new(Code::SnapshotExpired, format!("cannot read {url}")).with_source(gone)
            }
            Ok(store) => store_error(*store, format!("read {url}")),
            Err(other) => Error::corrupt(format!("cannot read {url}")).with_source(other),
        },
        // The bytes are there, and are no Parquet.
        error => Error::corrupt(format!("cannot read {url}")).with_source(error),
    }
}

/// How a file's columns become the table's.
struct Columns {
    schema: SchemaRef,
    ids: Vec<FieldId>,
    offset: FieldId,
    timestamp: FieldId,
}

impl Columns {
    fn new(schema: &TableSchema) -> Result<Columns> {
        let system = |column| schema.system_id(column).ok_or_else(|| Error::internal("a lake without system columns"));
        Ok(Columns {
            schema: schema.arrow(),
            ids: schema.columns().iter().map(|column| column.id).collect(),
            offset: system(SystemColumn::Offset)?,
            timestamp: system(SystemColumn::Timestamp)?,
        })
    }

    /// Rows from `next` on, which moves past them.
    fn convert(&self, batch: &RecordBatch, next: &mut Offset, url: &str) -> Result<LakeRows> {
        let by_id: HashMap<i32, &ArrayRef> = batch
            .schema_ref()
            .fields()
            .iter()
            .zip(batch.columns())
            .filter_map(|(field, column)| Some((field.metadata().get(FIELD_ID_KEY)?.parse().ok()?, column)))
            .collect();
        let system = |id: FieldId| {
            by_id.get(&id.0).copied().ok_or_else(|| Error::corrupt(format!("{url} has no column with field id {id}")))
        };
        let offsets = system(self.offset)?.as_primitive_opt::<Int64Type>();
        let stamps = system(self.timestamp)?.as_primitive_opt::<TimestampMicrosecondType>();
        let (Some(offsets), Some(stamps)) = (offsets, stamps) else {
            return Err(Error::corrupt(format!("{url} has system columns of other types")));
        };
        // Only a rewritten file, which is read from its start, has rows before the first wanted one.
        let skipped = offsets.values().iter().take_while(|offset| (**offset as u64) < next.0).count();
        let count = batch.num_rows() - skipped;
        let dense =
            offsets.values()[skipped..].iter().zip(next.0..).all(|(offset, expected)| *offset as u64 == expected);
        if !dense {
            return Err(Error::new(
                Code::LakeConflict,
                format!("the rows of {url} are not in offset order from {next} on"),
            )
            .with_hint("another engine rewrote the file; follow from offsets that are still hot"));
        }
        let first = *next;
        *next = next.plus(count as u64);
        let mut columns = Vec::with_capacity(self.ids.len());
        for (id, field) in self.ids.iter().zip(self.schema.fields()) {
            columns.push(match by_id.get(&id.0) {
                Some(column) => arrow::compute::cast(&column.slice(skipped, count), field.data_type())?,
                // Added after the file was written.
                None => new_null_array(field.data_type(), count),
            });
        }
        let mut runs = Stamps::default();
        stamps.values()[skipped..].iter().for_each(|stamp| runs.push(1, *stamp));
        Ok(LakeRows { first, batch: RecordBatch::try_new(self.schema.clone(), columns)?, stamps: runs })
    }
}
