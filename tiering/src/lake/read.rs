//! Reading rows of one data file back in the table's columns, in offset order: from some offset on, or at some positions.
//!
//! For followers and lookups. Columns are found by field id, so a renamed one is still found and a dropped one stays
//! dropped. Rows are checked to have the offsets that come next (a log table's) or greater ones (a primary-key table's): a
//! file that others rewrote in another order is an error, never a gap. What deletes hide is for the caller to leave out.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::datatypes::{Field, Int64Type, SchemaRef, TimestampMicrosecondType};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::{ParquetObjectReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy};
use roaring::RoaringTreemap;
use thermocline_engine::Stamps;
use thermocline_schemas::{
    Code, Error, FIELD_ID_KEY, FieldId, Offset, Result, SystemColumn, TableSchema, fitted_values,
};

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

/// Rows of one bucket, at ascending offsets.
#[derive(Clone, Debug)]
pub struct PickedRows {
    /// Of each row.
    pub offsets: Vec<Offset>,
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
        let rows = read(builder, file, move |batch, url| columns.dense(batch, &mut next, url))?;
        Ok(rows.try_filter(|rows| std::future::ready(rows.batch.num_rows() > 0)).boxed())
    }

    /// Reads a data file whole, in whatever order its rows are: an error where it does not decode, or where a value is none
    /// of its column's.
    pub async fn check_file(&self, file: &Arc<LakeFile>, schema: &TableSchema) -> Result<()> {
        let columns = Columns::new(schema)?;
        // The index may lie outside the file: the footer says where it is.
        open(self.warehouse().store(), file, PageIndexPolicy::Skip).await?;
        let opened = open(self.warehouse().store(), file, PageIndexPolicy::Optional).await?;
        let whole =
            move |batch: &RecordBatch, url: &str| columns.user(&by_id(batch), 0, batch.num_rows(), url).map(drop);
        read(opened, file, whole)?.try_collect().await
    }

    /// The rows of a data file at the positions of `keep`, or all of them; of the file only the pages that hold such rows
    /// are read.
    pub async fn read_positions(
        &self,
        file: &Arc<LakeFile>,
        schema: &TableSchema,
        keep: Option<&RoaringTreemap>,
    ) -> Result<BoxStream<'static, Result<PickedRows>>> {
        let url = &file.url;
        if let Some(keep) = keep {
            match keep.max() {
                None => return Ok(stream::empty().boxed()),
                Some(last) if last >= file.rows => {
                    return Err(Error::internal(format!("position {last} of {url}, which has {} rows", file.rows)));
                }
                Some(_) => {}
            }
        }
        let mut builder = match keep {
            Some(_) => self.open_again(file).await?,
            None => open(self.warehouse().store(), file, PageIndexPolicy::Skip).await?,
        };
        let columns = Columns::new(schema)?;
        let fields = builder.schema().fields().iter();
        let wanted = fields.enumerate().filter(|(_, field)| field_id(field).is_some_and(|id| columns.has(id)));
        let wanted = ProjectionMask::roots(builder.parquet_schema(), wanted.map(|(place, _)| place));
        if let Some(keep) = keep {
            let ranges = ranges(keep);
            builder = builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, file.rows as usize));
        }
        let mut last = None;
        read(builder.with_projection(wanted), file, move |batch, url| columns.ascending(batch, &mut last, url))
    }
}

impl LakeTable {
    /// Opens a data file with its index of pages, as [`open`] does; of one that was opened of late, nothing is read.
    async fn open_again(&self, file: &Arc<LakeFile>) -> Result<Opened> {
        let store = self.warehouse().store();
        if let Some(footer) = self.footers.get(&file.path) {
            let reader = reader(store, &file.path, file.bytes);
            return Ok(ParquetRecordBatchStreamBuilder::new_with_metadata(reader, (*footer).clone()));
        }
        let opened = open(store, file, PageIndexPolicy::Optional).await?;
        let metadata = opened.metadata().clone();
        let bytes = metadata.memory_size();
        let footer = ArrowReaderMetadata::try_new(metadata, options(PageIndexPolicy::Optional));
        let footer = footer.map_err(|error| cannot_read(&file.url, error))?;
        self.footers.put(file.path.clone(), Arc::new(footer), bytes);
        Ok(opened)
    }
}

type Opened = ParquetRecordBatchStreamBuilder<ParquetObjectReader>;

/// Opens a data file: see [`open_parquet`]. It has as many rows as its manifest says.
pub(super) async fn open(store: &Arc<dyn ObjectStore>, file: &LakeFile, pages: PageIndexPolicy) -> Result<Opened> {
    let opened = open_parquet(store, &file.path, &file.url, file.bytes, pages).await?;
    let rows = opened.metadata().file_metadata().num_rows();
    if u64::try_from(rows) != Ok(file.rows) {
        return Err(Error::corrupt(format!("{} has {rows} rows, its manifest says {}", file.url, file.rows)));
    }
    Ok(opened)
}

/// Reads a file's footer, and its index of pages if wanted. Whatever it says lies within the file.
pub(super) async fn open_parquet(
    store: &Arc<dyn ObjectStore>,
    path: &StorePath,
    url: &str,
    bytes: u64,
    pages: PageIndexPolicy,
) -> Result<Opened> {
    let opening = async {
        let reader = reader(store, path, bytes);
        let opened = ParquetRecordBatchStreamBuilder::new_with_options(reader, options(pages)).await;
        let opened = opened.map_err(|error| cannot_read(url, error))?;
        let columns = opened.metadata().row_groups().iter().flat_map(|group| group.columns());
        // A store that is asked for bytes beyond the end would answer that it is broken, and not the file.
        let inside = columns.flat_map(pieces).all(|(start, length)| ends_by(start, length, bytes));
        if inside { Ok(opened) } else { Err(damaged(url)) }
    };
    guarded_future(|| damaged(url), opening).await
}

fn reader(store: &Arc<dyn ObjectStore>, path: &StorePath, bytes: u64) -> ParquetObjectReader {
    ParquetObjectReader::new(store.clone(), path.clone()).with_file_size(bytes)
}

/// The Arrow schema that the writer embedded is not needed: ours decides.
fn options(pages: PageIndexPolicy) -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(pages)
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

/// The batches of a file.
pub(super) fn batches(opened: Opened, url: &str) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let url = url.to_owned();
    let building = || opened.with_batch_size(BATCH_ROWS).build().map_err(|error| cannot_read(&url, error));
    let batches = guarded(|| damaged(&url), building)?;
    let of_panic = url.clone();
    let batches = batches.map_err(move |error| cannot_read(&url, error));
    Ok(guarded_stream(move || damaged(&of_panic), batches).boxed())
}

/// What `convert` makes of the batches of a file, which is held until the last one: see `orphans`.
fn read<T: Send + 'static>(
    opened: Opened,
    file: &Arc<LakeFile>,
    mut convert: impl FnMut(&RecordBatch, &str) -> Result<T> + Send + 'static,
) -> Result<BoxStream<'static, Result<T>>> {
    let batches = batches(opened, &file.url)?;
    let file = file.clone();
    Ok(batches.map(move |batch| convert(&batch?, &file.url)).boxed())
}

fn damaged(url: &str) -> Error {
    Error::corrupt(format!("cannot read {url}"))
}

/// The Iceberg field id of a column in a file.
pub(super) fn field_id(field: &Field) -> Option<FieldId> {
    field.metadata().get(FIELD_ID_KEY)?.parse().ok().map(FieldId)
}

/// Positions as ranges, none of which touches the next.
pub(super) fn ranges(positions: &RoaringTreemap) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut positions = positions.iter().map(|position| position as usize).peekable();
    std::iter::from_fn(move || {
        let start = positions.next()?;
        let mut end = start + 1;
        while positions.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some(start..end)
    })
}

fn cannot_read(url: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<object_store::Error>() {
            Ok(store) => store_cannot_read(url, *store),
            Err(other) => damaged(url).with_source(other),
        },
        // The bytes are there, and are no Parquet.
        error => damaged(url).with_source(error),
    }
}

/// A file that a snapshot names is missing only if the snapshot is too old.
pub(super) fn store_cannot_read(url: &str, error: object_store::Error) -> Error {
    match error {
        gone @ object_store::Error::NotFound { .. } => {
            Error::new(Code::SnapshotExpired, format!("cannot read {url}")).with_source(gone)
        }
        error => store_error(error, format!("read {url}")),
    }
}

pub(super) fn unfit(url: &str, error: arrow::error::ArrowError) -> Error {
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

    /// Whether rows are read from the column with this id.
    fn has(&self, id: FieldId) -> bool {
        self.ids.contains(&id) || id == self.offset || id == self.timestamp
    }

    /// Consecutive rows from `next` on, which moves past them.
    fn dense(&self, batch: &RecordBatch, next: &mut Offset, url: &str) -> Result<LakeRows> {
        let found = self.find(batch, url)?;
        // Only a rewritten file, which is read from its start, has rows before the first wanted one.
        let skipped = found.offsets.values().iter().take_while(|offset| (**offset as u64) < next.0).count();
        let count = batch.num_rows() - skipped;
        let mut offsets = found.offsets.values()[skipped..].iter().zip(next.0..);
        if !offsets.all(|(offset, expected)| *offset as u64 == expected) {
            return Err(out_of_order(url, format!("from {next} on")));
        }
        let first = *next;
        *next = next.plus(count as u64);
        Ok(LakeRows { first, batch: self.user(&found.by_id, skipped, count, url)?, stamps: found.stamps(skipped) })
    }

    /// Rows past offset `last`, which becomes that of the last one.
    fn ascending(&self, batch: &RecordBatch, last: &mut Option<Offset>, url: &str) -> Result<PickedRows> {
        let found = self.find(batch, url)?;
        let mut offsets = Vec::with_capacity(batch.num_rows());
        for offset in found.offsets.values() {
            let offset = Offset(*offset as u64);
            if last.is_some_and(|last| last >= offset) {
                return Err(out_of_order(url, format!("at {offset}")));
            }
            *last = Some(offset);
            offsets.push(offset);
        }
        Ok(PickedRows { offsets, batch: self.user(&found.by_id, 0, batch.num_rows(), url)?, stamps: found.stamps(0) })
    }

    fn find<'b>(&self, batch: &'b RecordBatch, url: &str) -> Result<Found<'b>> {
        let by_id = by_id(batch);
        let system = |id: FieldId| {
            by_id.get(&id).copied().ok_or_else(|| Error::corrupt(format!("{url} has no column with field id {id}")))
        };
        let offsets = system(self.offset)?.as_primitive_opt::<Int64Type>();
        let stamps = system(self.timestamp)?.as_primitive_opt::<TimestampMicrosecondType>();
        match (offsets, stamps) {
            (Some(offsets), Some(stamps)) => Ok(Found { by_id, offsets, stamps }),
            _ => Err(Error::corrupt(format!("{url} has system columns of other types"))),
        }
    }

    /// `count` rows from `start` on in the table's columns.
    fn user(&self, by_id: &ById<'_>, start: usize, count: usize, url: &str) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.ids.len());
        for (id, field) in self.ids.iter().zip(self.schema.fields()) {
            columns.push(match by_id.get(id) {
                Some(column) => {
                    fitted_values(&column.slice(start, count), field.data_type()).map_err(|error| unfit(url, error))?
                }
                // Added after the file was written.
                None => new_null_array(field.data_type(), count),
            });
        }
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| unfit(url, error))
    }
}

pub(super) type ById<'b> = HashMap<FieldId, &'b ArrayRef>;

pub(super) fn by_id(batch: &RecordBatch) -> ById<'_> {
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    fields.filter_map(|(field, column)| Some((field_id(field)?, column))).collect()
}

/// The columns of a batch of a file.
struct Found<'b> {
    by_id: ById<'b>,
    offsets: &'b Int64Array,
    stamps: &'b TimestampMicrosecondArray,
}

impl Found<'_> {
    /// Of the rows from `start` on.
    fn stamps(&self, start: usize) -> Stamps {
        let mut runs = Stamps::default();
        self.stamps.values()[start..].iter().for_each(|stamp| runs.push(1, *stamp));
        runs
    }
}

pub(super) fn out_of_order(url: &str, place: String) -> Error {
    Error::new(Code::LakeConflict, format!("the rows of {url} are not in offset order {place}"))
        .with_hint("another engine rewrote the file; follow from offsets that are still hot")
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
            columns.dense(&batch, &mut Offset(0), "s3://bucket/file")
        };
        assert_eq!(convert(Some(7)).unwrap().batch.num_rows(), 1);
        for value in [None, Some(40_000)] {
            assert_eq!(convert(value).unwrap_err().code(), Code::Corrupt, "{value:?}");
        }
    }
}
