//! Rows as bytes: one record batch as one encapsulated Arrow IPC message, uncompressed, every buffer on a 64-byte line.
//!
//! Always: the message starts on a 64-byte line of its buffer and so does its body, so decoding copies nothing. The
//! schema is not in the message; who reads it knows the schema id.
//!
//! Decoding here skips Arrow's validation of the values. That is sound only for bytes that we encoded ourselves from
//! checked batches and whose CRC has been compared since they left memory, which is why these functions stay in the crate.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::FileDecoder;
use arrow::ipc::writer::{CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow::ipc::{Block, MetadataVersion, root_as_message};
use thermocline_schemas::{Error, Result, slice_bytes};

/// Every buffer starts on a multiple of this.
pub const ALIGNMENT: usize = 64;

/// How all our IPC is written.
pub fn write_options() -> Result<IpcWriteOptions> {
    Ok(IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?)
}

/// The batch as one message in memory of its own.
pub fn encode_batch(batch: &RecordBatch) -> Result<Buffer> {
    let options = write_options()?;
    let mut dictionaries = DictionaryTracker::new(true);
    let (found, encoded) =
        IpcDataGenerator::default().encode(batch, &mut dictionaries, &options, &mut CompressionContext::default())?;
    if !found.is_empty() {
        return Err(Error::internal("a dictionary column reached the journal"));
    }
    let mut aligned =
        Aligned(MutableBuffer::with_capacity(encoded.ipc_message.len() + encoded.arrow_data.len() + 2 * ALIGNMENT));
    write_message(&mut aligned, encoded, &options)?;
    Ok(aligned.0.into())
}

/// The batch of a message that [`encode_batch`] made; its columns are views into `message`.
pub fn decode_batch(schema: &SchemaRef, message: &Buffer) -> Result<RecordBatch> {
    let layout = MessageLayout::read(message)?;
    decode_columns(schema, message, &layout, None)
}

/// As [`decode_batch`], of some columns only, whose bytes alone are touched.
pub fn decode_columns(
    schema: &SchemaRef,
    message: &Buffer,
    layout: &MessageLayout,
    projection: Option<&[usize]>,
) -> Result<RecordBatch> {
    let decoder = FileDecoder::new(schema.clone(), MetadataVersion::V5);
    // SAFETY: this crate's encoder wrote the bytes from a valid batch, and they are in memory since, or their CRC32C was
    // compared when they came back from disk.
    let mut decoder = unsafe { decoder.with_skip_validation(true) };
    if let Some(projection) = projection {
        decoder = decoder.with_projection(projection.to_vec());
    }
    let block = Block::new(0, layout.body_start as i32, layout.body_bytes as i64);
    decoder.read_record_batch(&block, message)?.ok_or_else(|| Error::corrupt("an IPC message without rows"))
}

/// Where things lie in a message.
#[derive(Clone, Debug)]
pub struct MessageLayout {
    pub rows: usize,
    pub body_start: usize,
    pub body_bytes: usize,
    /// Where each buffer of the body starts, in the order of the columns.
    buffer_starts: Vec<usize>,
}

impl MessageLayout {
    pub fn read(message: &[u8]) -> Result<MessageLayout> {
        let wrong = || Error::corrupt("an IPC message that does not parse");
        let length = message.get(4..8).and_then(|bytes| Some(i32::from_le_bytes(bytes.try_into().ok()?)));
        let length = usize::try_from(length.ok_or_else(wrong)?).map_err(|_| wrong())?;
        let body_start = 8 + length;
        let parsed = root_as_message(message.get(8..body_start).ok_or_else(wrong)?).map_err(|_| wrong())?;
        let batch = parsed.header_as_record_batch().ok_or_else(wrong)?;
        let body_bytes = usize::try_from(parsed.bodyLength()).map_err(|_| wrong())?;
        if body_start.checked_add(body_bytes).is_none_or(|end| end > message.len()) {
            return Err(wrong());
        }
        let buffers = batch.buffers().ok_or_else(wrong)?;
        let buffer_starts = buffers.iter().map(|buffer| buffer.offset() as usize).collect();
        Ok(MessageLayout { rows: batch.length() as usize, body_start, body_bytes, buffer_starts })
    }

    /// The bytes of each column, from its first buffer to the next column's, as ranges of the whole message.
    pub fn column_ranges(&self, schema: &SchemaRef) -> Result<Vec<Range<usize>>> {
        let mut ranges = Vec::with_capacity(schema.fields().len());
        let mut next_buffer = 0;
        for field in schema.fields() {
            let start = self.buffer_starts.get(next_buffer).copied().unwrap_or(self.body_bytes);
            next_buffer += buffer_count(field.data_type())?;
            let end = self.buffer_starts.get(next_buffer).copied().unwrap_or(self.body_bytes);
            if start > end || end > self.body_bytes {
                return Err(Error::corrupt("an IPC message whose buffers are out of order"));
            }
            ranges.push(self.body_start + start..self.body_start + end);
        }
        Ok(ranges)
    }
}

/// How many buffers a column of this type has in a message.
fn buffer_count(data_type: &arrow::datatypes::DataType) -> Result<usize> {
    use arrow::datatypes::DataType as T;
    Ok(match data_type {
        T::Null => 0,
        T::Utf8 | T::LargeUtf8 | T::Binary | T::LargeBinary => 3,
        T::List(inner) | T::LargeList(inner) | T::Map(inner, _) => 2 + buffer_count(inner.data_type())?,
        T::FixedSizeList(inner, _) => 1 + buffer_count(inner.data_type())?,
        T::Struct(fields) => {
            fields.iter().map(|field| buffer_count(field.data_type())).sum::<Result<usize>>().map(|inner| 1 + inner)?
        }
        T::Dictionary(_, _)
        | T::Union(_, _)
        | T::RunEndEncoded(_, _)
        | T::Utf8View
        | T::BinaryView
        | T::ListView(_)
        | T::LargeListView(_) => {
            return Err(Error::internal(format!("a {data_type} column reached the hot tier")));
        }
        _ => 2,
    })
}

/// How much memory a batch's rows take, buffers shared with others counted by the rows' share.
pub fn batch_bytes(batch: &RecordBatch) -> u64 {
    batch.columns().iter().map(|column| slice_bytes(column) as u64).sum()
}

/// Many batches of one schema as one.
pub fn concat(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    match batches {
        [one] => Ok(one.clone()),
        _ => Ok(arrow::compute::concat_batches(&Arc::clone(schema), batches)?),
    }
}

/// Memory on a 64-byte line that can be written to.
struct Aligned(MutableBuffer);

impl Write for Aligned {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn decoding_copies_nothing_and_ranges_cover_the_body() {
        let schema =
            Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]));
        let strings = StringArray::from_iter((0..1000).map(|row| (row % 3 > 0).then(|| format!("row {row}"))));
        let batch = RecordBatch::try_new(
            schema.clone(),
            vec![Arc::new(Int64Array::from_iter_values(0..1000)), Arc::new(strings)],
        )
        .unwrap()
        .slice(5, 900);
        let message = encode_batch(&batch).unwrap();
        let decoded = decode_batch(&schema, &message).unwrap();
        assert_eq!(decoded, batch);
        let values = decoded.column(0).to_data().buffers()[0].as_ptr() as usize;
        assert!((message.as_ptr() as usize..message.as_ptr() as usize + message.len()).contains(&values));

        let layout = MessageLayout::read(&message).unwrap();
        let ranges = layout.column_ranges(&schema).unwrap();
        assert_eq!(ranges[0].start, layout.body_start);
        assert_eq!(ranges[0].end, ranges[1].start);
        assert_eq!(ranges[1].end, layout.body_start + layout.body_bytes);
        assert_eq!(layout.body_start % ALIGNMENT, 0);
        let one = decode_columns(&schema, &message, &layout, Some(&[1])).unwrap();
        assert_eq!(one.column(0), batch.column(1));
    }
}
