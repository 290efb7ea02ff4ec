//! Writing segments and reading them back.
//!
//! Always: a file is complete, synced and listed in its directory before anybody may rely on it. On reading, the skeleton
//! is verified when the file is opened, a column's bytes of a batch the first time they are touched; only then are they
//! decoded without validation. Reading is by mapping, so a column that nobody asks for costs nothing.

use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::FileWriter;
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result, TableId};

use super::segment_format::{SegmentFooter, SegmentInfo, read_layout, skeleton_crc};
use super::{Chunk, Stamps};
use crate::disk::{Disk, DiskFile};
use crate::faults::{self, Defect};
use crate::ipc::{MessageLayout, batch_bytes, concat, decode_columns, write_options};

/// A batch of a segment has at most so many rows: enough to scan fast, few enough to prune.
const BATCH_ROWS_MAX: usize = 65_536;
/// And ends early past so many bytes, far below what Arrow's 32-bit text offsets can hold.
const BATCH_BYTES_MAX: u64 = 128 << 20;

/// Writes chunks, which follow each other and share a schema, as the file `directory/file`, durably.
pub fn write_segment(
    disk: &dyn Disk,
    directory: &Path,
    file: &str,
    table: TableId,
    bucket: PartitionBucket,
    chunks: &[Arc<Chunk>],
) -> Result<SegmentInfo> {
    let path = directory.join(file);
    let first = chunks.first().ok_or_else(|| Error::internal("a segment without rows"))?;
    let schema = first.batch.schema();
    let staged =
        Staged { file: disk.create(&path).map_err(|error| cannot("create", &path, error))?, at: 0, bytes: Vec::new() };
    let mut writer = FileWriter::try_new_with_options(staged, &schema, write_options()?)?;
    let mut footer =
        SegmentFooter { table, bucket, base: first.base, stamps: Stamps::default(), column_crcs: Vec::new() };
    let mut columns = Vec::new();
    for chunk in chunks {
        footer.stamps.extend(&chunk.stamps);
    }
    let mut write = |batch: &RecordBatch| -> Result<()> {
        let before = writer.get_ref().bytes.len();
        writer.write(batch)?;
        let staged = writer.get_mut();
        let message = &staged.bytes[before..];
        let ranges = MessageLayout::read(message)?.column_ranges(&schema)?;
        footer.column_crcs.push(ranges.iter().map(|range| crc32c::crc32c(&message[range.clone()])).collect());
        columns.extend(ranges.into_iter().map(|range| range.start + before..range.end + before));
        Ok(())
    };
    let mut gathered: Vec<RecordBatch> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for chunk in chunks {
        let mut batch = chunk.batch.clone();
        while rows + batch.num_rows() > BATCH_ROWS_MAX {
            let room = BATCH_ROWS_MAX - rows;
            gathered.push(batch.slice(0, room));
            batch = batch.slice(room, batch.num_rows() - room);
            write(&concat(&schema, &std::mem::take(&mut gathered))?)?;
            (rows, bytes) = (0, 0);
        }
        rows += batch.num_rows();
        bytes += batch_bytes(&batch);
        gathered.push(batch);
        if bytes > BATCH_BYTES_MAX {
            write(&concat(&schema, &std::mem::take(&mut gathered))?)?;
            (rows, bytes) = (0, 0);
        }
    }
    if rows > 0 {
        write(&concat(&schema, &gathered)?)?;
    }
    for (key, value) in footer.encode() {
        writer.write_metadata(key, value);
    }
    writer.finish()?;
    let mut staged = writer.into_inner()?;
    let skeleton_crc = skeleton_crc(&staged.bytes, columns.into_iter())?;
    let synced = |staged: &Staged| match faults::planted(Defect::SegmentNotSynced) {
        true => Ok(()),
        false => staged.file.sync(),
    };
    staged.put().and_then(|()| synced(&staged)).map_err(|error| cannot("write", &path, error))?;
    disk.sync_directory(directory).map_err(|error| cannot("list", &path, error))?;
    metrics::counter!(crate::metric_names::SEGMENTS_SEALED.name).increment(1);
    Ok(SegmentInfo {
        bucket,
        schema: first.schema,
        base: first.base,
        rows: footer.stamps.rows() as u64,
        file: file.to_owned(),
        bytes: staged.at,
        skeleton_crc,
    })
}

/// Bytes on their way into a file. A segment is bounded by the tail that it is made from, so it is built in memory.
struct Staged {
    file: Arc<dyn DiskFile>,
    at: u64,
    bytes: Vec<u8>,
}

impl Staged {
    fn put(&mut self) -> io::Result<()> {
        self.file.write_at(&mut [IoSlice::new(&self.bytes)], self.at)?;
        self.at += self.bytes.len() as u64;
        Ok(())
    }
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    pub info: SegmentInfo,
    pub stamps: Stamps,
    /// Why nothing of it can be read.
    pub damage: Option<Arc<str>>,
    path: PathBuf,
    schema: SchemaRef,
    bytes: Buffer,
    batches: Vec<Batch>,
}

#[derive(Debug)]
struct Batch {
    /// Its first row within the segment.
    row: usize,
    message: Range<usize>,
    layout: MessageLayout,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    /// Within the message.
    range: Range<usize>,
    crc: u32,
    verified: AtomicBool,
}

impl Segment {
    /// Maps the file and verifies all of it but the columns' bytes. `schema` is the table's, of the segment's version.
    pub fn open(disk: &dyn Disk, directory: &Path, info: SegmentInfo, schema: SchemaRef) -> Result<Segment> {
        let path = directory.join(&info.file);
        let bytes = disk.map(&path).map_err(|error| cannot("map", &path, error))?;
        let named = |error: Error| error.while_doing(path.display());
        if bytes.len() as u64 != info.bytes {
            return Err(named(Error::corrupt(format!("{} bytes long, {} were written", bytes.len(), info.bytes))));
        }
        let layout = read_layout(&bytes).map_err(named)?;
        let footer = SegmentFooter::decode(&layout.metadata, info.bucket).map_err(named)?;
        let mut batches = Vec::new();
        let mut row = 0;
        for (message, crcs) in layout.messages.into_iter().zip(&footer.column_crcs) {
            let inner = MessageLayout::read(&bytes[message.clone()]).map_err(named)?;
            let ranges = inner.column_ranges(&schema).map_err(named)?;
            let column =
                |(range, crc): (Range<usize>, &u32)| Column { range, crc: *crc, verified: AtomicBool::new(false) };
            let columns: Vec<_> = ranges.into_iter().zip(crcs).map(column).collect();
            let rows = inner.rows;
            batches.push(Batch { row, message, layout: inner, columns });
            row = row.saturating_add(rows);
        }
        let columns = batches.iter().flat_map(|batch| {
            let start = batch.message.start;
            batch.columns.iter().map(move |column| column.range.start + start..column.range.end + start)
        });
        let crc = skeleton_crc(&bytes, columns).map_err(named)?;
        let skeleton = crc == info.skeleton_crc || faults::planted(Defect::SkeletonUnchecked);
        if !skeleton || row as u64 != info.rows || footer.base != info.base {
            return Err(named(Error::corrupt("segment skeleton checksum mismatch")));
        }
        Ok(Segment { info, stamps: footer.stamps, damage: None, path, schema, bytes, batches })
    }

    /// One that cannot be opened: it keeps its place and its file.
    pub fn damaged(directory: &Path, info: SegmentInfo, schema: SchemaRef, reason: Arc<str>) -> Segment {
        Segment {
            path: directory.join(&info.file),
            info,
            stamps: Stamps::default(),
            damage: Some(reason),
            schema,
            bytes: Buffer::from(Vec::<u8>::new()),
            batches: Vec::new(),
        }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows `[from, to)` of the segment, batch by batch, each with its first row's number.
    pub fn read(
        &self,
        from: usize,
        to: usize,
        projection: Option<&[usize]>,
    ) -> impl Iterator<Item = Result<(usize, RecordBatch)>> {
        let overlapping =
            self.batches.iter().filter(move |batch| batch.row < to && batch.row + batch.layout.rows > from);
        overlapping.map(move |batch| {
            let decoded = self.decode(batch, projection)?;
            let start = from.max(batch.row);
            let end = to.min(batch.row + batch.layout.rows);
            Ok((start, decoded.slice(start - batch.row, end - start)))
        })
    }

    /// The number of the first row of the batch that holds a row.
    pub fn batch_of(&self, row: usize) -> usize {
        self.batch_at(row).map_or(0, |batch| batch.row)
    }

    /// The whole batch that holds a row, in all columns.
    pub fn read_batch(&self, row: usize) -> Result<RecordBatch> {
        let batch = self.batch_at(row).ok_or_else(|| Error::internal("a row past the end of its segment"))?;
        self.decode(batch, None)
    }

    fn batch_at(&self, row: usize) -> Option<&Batch> {
        self.batches.get(self.batches.partition_point(|batch| batch.row <= row).checked_sub(1)?)
    }

    fn decode(&self, batch: &Batch, projection: Option<&[usize]>) -> Result<RecordBatch> {
        let message = self.bytes.slice_with_length(batch.message.start, batch.message.len());
        let wanted = |index: usize| projection.is_none_or(|projection| projection.contains(&index));
        for (index, column) in batch.columns.iter().enumerate().filter(|(index, _)| wanted(*index)) {
            if column.verified.load(Ordering::Acquire) {
                continue;
            }
            if crc32c::crc32c(&message[column.range.clone()]) != column.crc && !faults::planted(Defect::ColumnUnchecked)
            {
                return Err(Error::corrupt(format!(
                    "{}: segment checksum mismatch in the {} bytes from byte {}, column {}, rows from offset {}",
                    self.path.display(),
                    column.range.len(),
                    batch.message.start + column.range.start,
                    self.schema.field(index).name(),
                    self.info.base.plus(batch.row as u64)
                )));
            }
            column.verified.store(true, Ordering::Release);
        }
        decode_columns(&self.schema, &message, &batch.layout, projection)
    }

    /// Of its file.
    pub fn bytes(&self) -> u64 {
        self.info.bytes
    }

    pub fn base(&self) -> Offset {
        self.info.base
    }

    pub fn end(&self) -> Offset {
        self.info.end()
    }
}

fn cannot(doing: &str, path: &Path, error: io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::StorageFull => Code::DiskFull,
        io::ErrorKind::NotFound => Code::Corrupt,
        _ => Code::Internal,
    };
    Error::new(code, format!("cannot {doing} segment {}", path.display())).with_source(error)
}
