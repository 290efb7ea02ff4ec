//! Writes one data file: Parquet, rows of one bucket in offset order, with the metrics that a commit needs.
//!
//! Always: offsets ascend from the first row to the last, checked row by row. Those of a log table are consecutive, so a
//! written file *is* the range `[first_offset, end_offset)`; of a primary-key table's range a file has what is left. Encoding runs where it may block. Memory is bounded: a row group being encoded, plus a few
//! parts on their way to the store. The file's name was never used before (it has the commit's id and a random end), and
//! nobody sees the file before [`LakeFileWriter::finish`] has answered.
//!
//! A file whose writing failed leaves no object, and what was sent of it is taken back. A writer that is dropped leaves
//! its parts: on disk until the next start, on S3 until the bucket's lifecycle rule ends them.

use std::collections::HashMap;
use std::io;
use std::slice::Iter;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use bytes::Bytes;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat};
use object_store::path::Path as StorePath;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, LogicalType, Type as PhysicalType, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::{SchemaDescriptor, Type as ParquetType};
use thermocline_schemas::{Error, Offset, PartitionBucket, Result, SystemColumn, UUID_BYTES, is_uuid};
use uuid::Uuid;

use super::LakeTable;
use super::bounds::column_bounds;
use super::footer::without_extremes;
use super::layout::{LakeLayout, SORT_ORDER_ID, iceberg_type};
use super::leaves::{Leaf, for_each_leaf, leaves, nan_count};
use super::lineage::{ROW_ID, is_lineage};
use super::upload::Upload;
use crate::warehouse::store_error;

const ROW_GROUP_ROWS_MAX: usize = 1 << 20;
/// Of encoded bytes; the reader of a row group holds about as much.
const ROW_GROUP_BYTES_MAX: usize = 64 << 20;
/// How long taking back a failed upload may take; its store may be what failed.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A data file that is in the store, whole and durable, and in no snapshot yet.
#[derive(Clone, Debug)]
pub struct WrittenFile {
    pub path: StorePath,
    pub bucket: PartitionBucket,
    pub first_offset: Offset,
    pub end_offset: Offset,
    pub bytes: u64,
    /// How many rows each row group has.
    pub(super) row_groups: Vec<u64>,
    pub(super) data_file: DataFile,
}

impl WrittenFile {
    pub fn rows(&self) -> u64 {
        self.data_file.record_count()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// See the module's text.
pub struct LakeFileWriter {
    path: StorePath,
    url: String,
    bucket: PartitionBucket,
    layout: Arc<LakeLayout>,
    upload: Upload,
    /// Away while it encodes; gone for good once that failed.
    encoder: Option<Box<Encoder>>,
    bytes: u64,
}

impl LakeFileWriter {
    /// For rows in these columns: the table's, and perhaps more.
    pub(super) fn new(
        table: &LakeTable,
        commit_id: Uuid,
        bucket: PartitionBucket,
        schema: SchemaRef,
    ) -> Result<LakeFileWriter> {
        let random = Uuid::new_v4().as_fields().0;
        let layout = table.layout();
        let directory = layout.partition_directory(bucket)?;
        let name = format!("{}/data/{directory}{}-{commit_id}-{random:08x}.parquet", table.files.root(), bucket.bucket);
        let path = StorePath::parse(&name)
            .map_err(|error| Error::internal(format!("data file name {name}")).with_source(error))?;
        let store = table.warehouse().store().clone();
        Ok(LakeFileWriter {
            url: table.warehouse().url(&path),
            upload: Upload::new(store, path.clone()),
            path,
            bucket,
            encoder: Some(Box::new(Encoder::new(schema, bucket, !layout.is_keyed())?)),
            layout,
            bytes: 0,
        })
    }

    /// Appends rows, in the writer's columns. After an error only `abort` is left.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let encoded = self.encode(move |encoder| encoder.write(&batch)).await?.0;
        self.send(encoded).await
    }

    /// Ends the file; at least one row must have been written.
    pub async fn finish(mut self) -> Result<WrittenFile> {
        match self.end().await {
            Ok(data_file) => Ok(data_file),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn end(&mut self) -> Result<WrittenFile> {
        let (encoded, metadata) = self.encode(Encoder::finish).await?;
        self.send(encoded).await?;
        self.upload.finish().await.map_err(|error| self.refused(error))?;
        let encoder = self.encoder.take().ok_or_else(spent)?;
        let (first_offset, end_offset) = encoder.range()?;
        let data_file = self.describe(&encoder, &metadata)?;
        let row_groups = metadata.row_groups().iter().map(|group| group.num_rows().unsigned_abs()).collect();
        let (path, bucket, bytes) = (self.path.clone(), self.bucket, self.bytes);
        Ok(WrittenFile { path, bucket, first_offset, end_offset, bytes, row_groups, data_file })
    }

    /// Gives the file up, and takes back what was sent of it if the store lets us.
    pub async fn abort(self) {
        let path = self.path;
        match tokio::time::timeout(ABORT_TIMEOUT, self.upload.abort()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%path, %error, "parts of a failed upload stay behind"),
            Err(_) => tracing::warn!(%path, "parts of a failed upload stay behind, the store does not answer"),
        }
    }

    /// Lets the encoder work on a blocking thread; gives what it answered and the bytes that are ready to go.
    async fn encode<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Encoder) -> Result<T> + Send + 'static,
    ) -> Result<(Vec<Bytes>, T)> {
        let mut encoder = self.encoder.take().ok_or_else(spent)?;
        let encoding = tokio::task::spawn_blocking(move || {
            let done = work(&mut encoder)?;
            let ready = encoder.writer.inner_mut().take();
            Ok::<_, Error>((encoder, ready, done))
        });
        let (encoder, ready, done) = encoding
            .await
            .map_err(|error| Error::internal(format!("encoding {} panicked", self.path)).with_source(error))??;
        self.encoder = Some(encoder);
        Ok((ready, done))
    }

    async fn send(&mut self, encoded: Vec<Bytes>) -> Result<()> {
        for piece in encoded {
            self.bytes += piece.len() as u64;
            if let Err(error) = self.upload.put(piece).await {
                self.encoder = None;
                return Err(self.refused(error));
            }
        }
        Ok(())
    }

    fn refused(&self, error: object_store::Error) -> Error {
        store_error(error, format!("write {}", self.path))
    }

    /// The file as a manifest names it.
    fn describe(&self, encoder: &Encoder, metadata: &ParquetMetaData) -> Result<DataFile> {
        let row_groups = metadata.row_groups();
        let rows = metadata.file_metadata().num_rows().unsigned_abs();
        let (mut sizes, mut values, mut nulls) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (mut lower, mut upper) = (HashMap::new(), HashMap::new());
        for (place, Leaf { id, field, is_repeated }) in encoder.leaves.iter().enumerate() {
            let columns = row_groups.iter().map(|row_group| row_group.column(place));
            sizes.insert(id.0, columns.clone().map(|column| column.compressed_size().unsigned_abs()).sum());
            // Of repeated ones, also those places where a list is empty or null: Parquet counts them, and Iceberg its counts.
            values.insert(id.0, columns.map(|column| column.num_values().unsigned_abs()).sum());
            if is_lineage(*id) {
                continue;
            }
            let Some(bounds) = column_bounds(row_groups, place, &iceberg_type(field)?) else { continue };
            nulls.insert(id.0, bounds.nulls);
            if *is_repeated {
                continue;
            }
            lower.extend(bounds.lower.map(|bound| (id.0, bound)));
            upper.extend(bounds.upper.map(|bound| (id.0, bound)));
        }
        let splits = row_groups.iter().map(|row_group| row_group.column(0).byte_range().0 as i64).collect();
        DataFileBuilder::default()
            .content(DataContentType::Data)
            .file_path(self.url.clone())
            .file_format(DataFileFormat::Parquet)
            .partition(self.layout.partition(self.bucket)?)
            .partition_spec_id(0)
            .record_count(rows)
            .file_size_in_bytes(self.bytes)
            .column_sizes(sizes)
            .value_counts(values)
            .null_value_counts(nulls)
            .nan_value_counts(encoder.nans.clone())
            .lower_bounds(lower)
            .upper_bounds(upper)
            .split_offsets(Some(splits))
            .sort_order_id(SORT_ORDER_ID)
            .build()
            .map_err(|error| Error::internal("data file description").with_source(error))
    }
}

/// The Parquet writer and what it has seen.
struct Encoder {
    writer: ArrowWriter<Encoded>,
    schema: SchemaRef,
    leaves: Vec<Leaf>,
    bucket: PartitionBucket,
    /// Whether offsets leave nothing out.
    is_dense: bool,
    bucket_column: usize,
    offset_column: usize,
    first: Option<Offset>,
    next: Offset,
    /// NaNs of each leaf of floats, by field id.
    nans: HashMap<i32, u64>,
}

impl Encoder {
    fn new(schema: SchemaRef, bucket: PartitionBucket, is_dense: bool) -> Result<Encoder> {
        let leaves = leaves(&schema)?;
        let parquet = parquet_schema(&schema, &leaves)?;
        // Metadata of Arrow's own would only repeat what the Parquet schema says.
        let options = ArrowWriterOptions::new()
            .with_properties(writer_properties(&leaves, &parquet)?)
            .with_parquet_schema(parquet)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Encoded::default(), schema.clone(), options).map_err(fault)?;
        Ok(Encoder {
            writer,
            leaves,
            bucket,
            is_dense,
            bucket_column: schema.index_of(SystemColumn::Bucket.name())?,
            offset_column: schema.index_of(SystemColumn::Offset.name())?,
            schema,
            first: None,
            next: Offset::ZERO,
            nans: HashMap::new(),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        // Also checks the types, and that no column without nulls has one.
        let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?;
        self.follow(&batch)?;
        let mut leaves = self.leaves.iter();
        for column in batch.columns() {
            for_each_leaf(column, &mut |values| {
                if let (Some(leaf), Some(nans)) = (leaves.next(), nan_count(values)) {
                    *self.nans.entry(leaf.id.0).or_default() += nans;
                }
            });
        }
        self.writer.write(&batch).map_err(fault)
    }

    /// Checks that the rows are this bucket's and go on where the last ones ended, exactly there if they must.
    fn follow(&mut self, batch: &RecordBatch) -> Result<()> {
        let buckets = batch.column(self.bucket_column).as_primitive::<Int32Type>();
        if let Some(other) = buckets.values().iter().find(|bucket| **bucket != self.bucket.bucket.0 as i32) {
            return Err(Error::internal(format!("a row of bucket {other} in a file of bucket {}", self.bucket)));
        }
        let offsets = batch.column(self.offset_column).as_primitive::<Int64Type>();
        for offset in offsets.values() {
            let offset = Offset(u64::try_from(*offset).map_err(|_| Error::internal(format!("offset {offset}")))?);
            let follows = if self.is_dense { offset == self.next } else { offset >= self.next };
            if self.first.is_some() && !follows {
                return Err(Error::internal(format!(
                    "bucket {} goes on at offset {offset} where {} should follow",
                    self.bucket, self.next
                )));
            }
            self.first.get_or_insert(offset);
            self.next = offset.plus(1);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ParquetMetaData> {
        self.range()?;
        let metadata = self.writer.finish().map_err(fault)?;
        let has_nan =
            |(place, leaf): (usize, &Leaf)| self.nans.get(&leaf.id.0).is_some_and(|nans| *nans > 0).then_some(place);
        let columns: Vec<_> = self.leaves.iter().enumerate().filter_map(has_nan).collect();
        if columns.is_empty() {
            return Ok(metadata);
        }
        without_extremes(metadata, &columns, &mut self.writer.inner_mut().0).map_err(fault)
    }

    fn range(&self) -> Result<(Offset, Offset)> {
        let first = self.first.ok_or_else(|| Error::internal("a data file without rows"))?;
        Ok((first, self.next))
    }
}

/// Arrow's choice of Parquet types, and UUIDs by their name: readers that know one from Iceberg's schema expect it.
fn parquet_schema(schema: &SchemaRef, leaves: &[Leaf]) -> Result<SchemaDescriptor> {
    let descriptor = ArrowSchemaConverter::new().convert(schema).map_err(fault)?;
    if descriptor.num_columns() != leaves.len() {
        return Err(Error::internal("a lake column has other leaves in Parquet than in Arrow"));
    }
    let root = with_uuids(descriptor.root_schema(), &mut leaves.iter()).map_err(fault)?;
    Ok(SchemaDescriptor::new(Arc::new(root)))
}

/// The same with UUIDs by their name; `leaves` are those of the type, and of what follows it.
fn with_uuids(column: &ParquetType, leaves: &mut Iter<'_, Leaf>) -> parquet::errors::Result<ParquetType> {
    let info = column.get_basic_info();
    let id = info.has_id().then(|| info.id());
    if column.is_primitive() {
        if !leaves.next().is_some_and(|leaf| is_uuid(&leaf.field)) {
            return Ok(column.clone());
        }
        return ParquetType::primitive_type_builder(column.name(), PhysicalType::FIXED_LEN_BYTE_ARRAY)
            .with_length(UUID_BYTES)
            .with_logical_type(Some(LogicalType::Uuid))
            .with_repetition(info.repetition())
            .with_id(id)
            .build();
    }
    let fields = column.get_fields().iter().map(|field| with_uuids(field, leaves).map(Arc::new));
    let group = ParquetType::group_type_builder(column.name())
        .with_fields(fields.collect::<parquet::errors::Result<_>>()?)
        .with_converted_type(info.converted_type())
        .with_logical_type(info.logical_type_ref().cloned())
        .with_id(id);
    if info.has_repetition() { group.with_repetition(info.repetition()).build() } else { group.build() }
}

fn writer_properties(leaves: &[Leaf], parquet: &SchemaDescriptor) -> Result<WriterProperties> {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("thermocline version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(fault)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX));
    for (leaf, column) in leaves.iter().zip(parquet.columns()) {
        let path = column.path().clone();
        // Every value is another one: a dictionary would only be built and thrown away.
        if path.parts() == [SystemColumn::Offset.name()] || leaf.id == ROW_ID {
            properties = properties.set_column_dictionary_enabled(path.clone(), false);
        }
        if is_uuid(&leaf.field) {
            // Java orders UUIDs as two signed numbers, Parquet as bytes. A bound in one order loses rows in the other.
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    Ok(properties.build())
}

fn fault(error: ParquetError) -> Error {
    Error::internal("parquet").with_source(error)
}

fn spent() -> Error {
    Error::internal("a data file writer was used after an error")
}

/// Where the Parquet writer puts bytes until they are sent.
#[derive(Default)]
struct Encoded(Vec<u8>);

impl Encoded {
    fn take(&mut self) -> Vec<Bytes> {
        if self.0.is_empty() { Vec::new() } else { vec![std::mem::take(&mut self.0).into()] }
    }
}

impl io::Write for Encoded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
