//! Reading rows of one data file back in the table's columns, in offset order, from some offset on.
//!
//! For followers. Columns are found by field id, so a renamed one is still found and a dropped one stays dropped. Rows are
//! checked to have the offsets that come next: a file that others rewrote in another order is an error, never a gap.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::{ParquetObjectReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy};
use thermocline_engine::Stamps;
use thermocline_schemas::{Code, Error, FIELD_ID_KEY, FieldId, Offset, Result, SystemColumn, TableSchema};

use super::{LakeFile, LakeTable};
use crate::guarded::{guarded, guarded_future, guarded_stream};
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
        let mut builder = open(self.warehouse().store(), file, PageIndexPolicy::Skip).await?;
        // Our own files are dense, so the place of an offset is known; a rewritten one is read from its start.
        let rows = file.rows;
        if from > file.first_offset && file.end_offset.since(file.first_offset) == rows {
            let skipped = from.since(file.first_offset).min(rows) as usize;
            let left = rows as usize - skipped;
            builder = builder
                .with_row_selection(RowSelection::from(vec![RowSelector::skip(skipped), RowSelector::select(left)]));
        }
        let columns = Columns::new(schema)?;
        let mut next = from.max(file.first_offset);
        let rows = read(builder, &file.url, move |batch, url| columns.convert(batch, &mut next, url))?;
        Ok(rows.try_filter(|rows| std::future::ready(rows.batch.num_rows() > 0)).boxed())
    }

    /// Reads a data file whole, in whatever order its rows are: an error where it does not decode, or where a value is none
    /// of its column's.
    pub async fn check_file(&self, file: &LakeFile, schema: &TableSchema) -> Result<()> {
        let columns = Columns::new(schema)?;
        // The index may lie outside the file: the footer says where it is.
        open(self.warehouse().store(), file, PageIndexPolicy::Skip).await?;
        let opened = open(self.warehouse().store(), file, PageIndexPolicy::Optional).await?;
        let whole = move |batch: &RecordBatch, url: &str| columns.of_table(batch, 0, batch.num_rows(), url).map(drop);
        read(opened, &file.url, whole)?.try_collect().await
    }
}

type Opened = ParquetRecordBatchStreamBuilder<ParquetObjectReader>;

/// Reads a file's footer, and its index of pages if wanted. Whatever it says lies within the file.
async fn open(store: &Arc<dyn ObjectStore>, file: &LakeFile, pages: PageIndexPolicy) -> Result<Opened> {
    let reader = ParquetObjectReader::new(store.clone(), file.path.clone()).with_file_size(file.bytes);
    // The Arrow schema that the writer embedded is not needed: ours decides.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(pages);
    let opening = async {
        let opened = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await;
        let opened = opened.map_err(|error| cannot_read(&file.url, error))?;
        let columns = opened.metadata().row_groups().iter().flat_map(|group| group.columns());
        // A store that is asked for bytes beyond the end would answer that it is broken, and not the file.
        let inside = columns.flat_map(pieces).all(|(start, length)| ends_by(start, length, file.bytes));
        if inside { Ok(opened) } else { Err(damaged(&file.url)) }
    };
    guarded_future(|| damaged(&file.url), opening).await
}

/// Where a column's values, its indexes and its bloom filter begin, and how long they are.
fn pieces(column: &ColumnChunkMetaData) -> impl Iterator<Item = (i64, i64)> {
    let (start, length) = column.byte_range();
    let others = [
        (column.column_index_offset(), column.column_index_length()),
        (column.offset_index_offset(), column.offset_index_length()),
        (column.bloom_filter_offset(), column.bloom_filter_length()),
    ];
    let others = others.into_iter().filter_map(|(start, length)| Some((start?, i64::from(length.unwrap_or(0)))));
    others.chain([(start as i64, length as i64)])
}

fn ends_by(start: i64, length: i64, end: u64) -> bool {
    start >= 0 && length >= 0 && start.checked_add(length).is_some_and(|own| own as u64 <= end)
}

/// What `convert` makes of the batches of a file.
fn read<T: Send + 'static>(
    opened: Opened,
    url: &str,
    mut convert: impl FnMut(&RecordBatch, &str) -> Result<T> + Send + 'static,
) -> Result<BoxStream<'static, Result<T>>> {
    let url = url.to_owned();
    let building = || opened.with_batch_size(BATCH_ROWS).build().map_err(|error| cannot_read(&url, error));
    let batches = guarded(|| damaged(&url), building)?;
    let of_panic = url.clone();
    let rows = batches.map(move |batch| convert(&batch.map_err(|error| cannot_read(&url, error))?, &url));
    Ok(guarded_stream(move || damaged(&of_panic), rows).boxed())
}

fn damaged(url: &str) -> Error {
    Error::corrupt(format!("cannot read {url}"))
}

fn cannot_read(url: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<object_store::Error>() {
            Ok(gone) if matches!(*gone, object_store::Error::NotFound { .. }) => {
                Error::new(Code::SnapshotExpired, format!("cannot read {url}")).with_source(gone)
            }
            Ok(store) => store_error(*store, format!("read {url}")),
            Err(other) => damaged(url).with_source(other),
        },
        // The bytes are there, and are no Parquet.
        error => damaged(url).with_source(error),
    }
}

/// A value that the table's type cannot hold is an error and not a null.
const EXACT: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow::util::display::FormatOptions::new() };

fn unfit(url: &str, error: arrow::error::ArrowError) -> Error {
    Error::corrupt(format!("{url} has values that the table's columns cannot have")).with_source(error)
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
        let by_id = by_id(batch);
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
        let mut runs = Stamps::default();
        stamps.values()[skipped..].iter().for_each(|stamp| runs.push(1, *stamp));
        Ok(LakeRows { first, batch: self.of_table(batch, skipped, count, url)?, stamps: runs })
    }

    /// `count` rows from place `from` on, in the table's columns.
    fn of_table(&self, batch: &RecordBatch, from: usize, count: usize, url: &str) -> Result<RecordBatch> {
        let by_id = by_id(batch);
        let mut columns = Vec::with_capacity(self.ids.len());
        for (id, field) in self.ids.iter().zip(self.schema.fields()) {
            columns.push(match by_id.get(&id.0) {
                Some(column) => cast_with_options(&column.slice(from, count), field.data_type(), &EXACT)
                    .map_err(|error| unfit(url, error))?,
                // Added after the file was written.
                None => new_null_array(field.data_type(), count),
            });
        }
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| unfit(url, error))
    }
}

fn by_id(batch: &RecordBatch) -> HashMap<i32, &ArrayRef> {
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    fields.filter_map(|(field, column)| Some((field.metadata().get(FIELD_ID_KEY)?.parse().ok()?, column))).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema};
    use thermocline_schemas::ColumnType;

    use super::*;

    /// Nothing in the lake's files says that a value fits: other engines write them, and disks rot.
    #[test]
    fn values_that_do_not_fit_are_corrupt_and_not_null() {
        let columns = [("small".to_owned(), ColumnType::Int16, false)];
        let schema = TableSchema::new(columns).unwrap();
        let columns = Columns::new(&schema).unwrap();
        let convert = |value: Option<i64>| {
            let arrays: [(FieldId, ArrayRef); 3] = [
                (columns.ids[0], Arc::new(Int64Array::from(vec![value]))),
                (columns.offset, Arc::new(Int64Array::from(vec![0]))),
                (columns.timestamp, Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC"))),
            ];
            let fields = arrays.iter().map(|(id, array)| {
                let metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), id.0.to_string())]);
                Field::new(format!("f{}", id.0), array.data_type().clone(), true).with_metadata(metadata)
            });
            let file_schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let batch = RecordBatch::try_new(file_schema, arrays.map(|(_, array)| array).to_vec()).unwrap();
            columns.convert(&batch, &mut Offset(0), "s3://bucket/file")
        };
        assert_eq!(convert(Some(7)).unwrap().batch.num_rows(), 1);
        for value in [None, Some(40_000)] {
            assert_eq!(convert(value).unwrap_err().code(), Code::Corrupt, "{value:?}");
        }
    }
}
