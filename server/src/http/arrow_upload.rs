//! Arrow streams from anybody: what a stream claims is held against the bytes that are there before Arrow believes it.
//!
//! Arrow's reader checks values, but it allocates what a header says first, and a flipped bit can say petabytes. So
//! each message is walked here: lengths within the body, buffers within their message, rows within what a request may
//! have, columns few and nested only as deep as a table's. Validation is never skipped.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema};
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::{self, MessageHeader, root_as_message};
use bytes::Bytes;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Code, ColumnType, Error, Result};

use super::uploads::{COLUMNS_MAX, FIXED_BYTES_MAX};

const CONTINUATION: u32 = 0xffff_ffff;

/// The batches of a stream that has at most so many rows.
pub fn decode(body: &Bytes, rows_max: u64) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    check(body, rows_max)?;
    let mut rest = Buffer::from(body.clone());
    let mut decoder = StreamDecoder::new();
    let mut ended = false;
    Ok(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let decoded = decoder.decode(&mut rest).map_err(|error| broken("it does not decode").with_source(error));
        ended = !matches!(decoded, Ok(Some(_)));
        decoded.transpose()
    }))
}

/// Walks all messages.
fn check(body: &[u8], rows_max: u64) -> Result<()> {
    let mut rest = body;
    let mut rows = 0u64;
    // How many columns the schema has, once it is there.
    let mut columns = None;
    while !rest.is_empty() {
        let Some(message) = Message::read(&mut rest)? else { break };
        let header = root_as_message(message.metadata)
            .map_err(|error| broken("a message's head is not valid").with_source(error.to_string()))?;
        match header.header_type() {
            MessageHeader::Schema if columns.is_none() => {
                check_schema(header.header_as_schema().ok_or_else(|| broken("a schema without content"))?)?;
                let schema = schema(message.whole)?;
                check_types(&schema)?;
                columns = Some(schema.fields().iter().map(|field| nodes_of(field.data_type())).sum());
            }
            MessageHeader::RecordBatch if let Some(columns) = columns => {
                let batch = header.header_as_record_batch().ok_or_else(|| broken("a batch without content"))?;
                rows = rows.saturating_add(check_batch(&batch, Some(columns), message.body, rows_max)?);
            }
            MessageHeader::DictionaryBatch if columns.is_some() => {
                let batch = header.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
                check_batch(
                    &batch.ok_or_else(|| broken("a dictionary without content"))?,
                    None,
                    message.body,
                    rows_max,
                )?;
            }
            _ => return Err(broken("a message that is out of place")),
        }
        if rows > rows_max {
            return Err(Error::new(Code::RequestTooLarge, format!("the stream has {rows} rows, more than {rows_max}"))
                .with_hint("send fewer rows at once"));
        }
    }
    // A length that rot has made zero looks like the end: what comes after would be lost without a word.
    if !rest.is_empty() && !faults::planted(Defect::BytesPastTheEnd) {
        return Err(broken("something follows its end"));
    }
    columns.map(drop).ok_or_else(|| broken("it has no schema"))
}

/// One encapsulated message, all of it there.
struct Message<'b> {
    whole: &'b [u8],
    metadata: &'b [u8],
    body: &'b [u8],
}

impl<'b> Message<'b> {
    /// Takes a message off the front; none at the end-of-stream mark.
    fn read(rest: &mut &'b [u8]) -> Result<Option<Message<'b>>> {
        let number = |at: usize| rest.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let cut = || broken("it ends within a message");
        let first = number(0).ok_or_else(cut)?;
        // Before 0.15 messages had no continuation mark; Arrow reads them still.
        let (start, length) = if first == CONTINUATION { (8, number(4).ok_or_else(cut)?) } else { (4, first) };
        if length == 0 {
            *rest = &rest[start..];
            return Ok(None);
        }
        let metadata_end = start + usize::try_from(length).map_err(|_| cut())?;
        let metadata = rest.get(start..metadata_end).ok_or_else(cut)?;
        let header = root_as_message(metadata)
            .map_err(|error| broken("a message's head is not valid").with_source(error.to_string()))?;
        let body_length = usize::try_from(header.bodyLength()).map_err(|_| broken("a body of negative length"))?;
        let end = metadata_end.checked_add(body_length).filter(|end| *end <= rest.len()).ok_or_else(cut)?;
        let message = Message { whole: &rest[..end], metadata, body: &rest[metadata_end..end] };
        *rest = &rest[end..];
        Ok(Some(message))
    }
}

/// Few columns, before each is looked at.
fn check_schema(schema: ipc::Schema<'_>) -> Result<()> {
    let columns = schema.fields().map_or(0, |fields| fields.len());
    if columns > COLUMNS_MAX {
        return Err(Error::new(Code::InvalidRow, format!("{columns} columns are more than {COLUMNS_MAX}")));
    }
    if schema.endianness() != ipc::Endianness::Little {
        return Err(Error::not_built("the big-endian Arrow stream"));
    }
    Ok(())
}

fn schema(message: &[u8]) -> Result<Schema> {
    try_schema_from_ipc_buffer(message).map_err(|error| broken("its schema is not valid").with_source(error))
}

/// No column that a table cannot have: so types nest only so deep.
fn check_types(schema: &Schema) -> Result<()> {
    let mut count = 0;
    for field in schema.fields() {
        count += 1;
        // What has no value has no type, and fits every column.
        if *field.data_type() != DataType::Null {
            let column = ColumnType::from_arrow(field.data_type()).map_err(|error| error.with_column(field.name()))?;
            count += column.fields_count();
        }
    }
    if count > COLUMNS_MAX {
        let message = format!("{count} columns, with what stands inside them, are more than {COLUMNS_MAX}");
        return Err(Error::new(Code::InvalidRow, message));
    }
    Ok(())
}

/// How many columns stand in a batch for one of this type: itself, and what is inside it.
fn nodes_of(data_type: &DataType) -> usize {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => 1 + nodes_of(item.data_type()),
        DataType::Struct(fields) => 1 + fields.iter().map(|field| nodes_of(field.data_type())).sum::<usize>(),
        _ => 1,
    }
}

/// A batch's rows, if its claims fit its body; with as many columns, those inside others included, if that is known.
fn check_batch(batch: &ipc::RecordBatch<'_>, columns: Option<usize>, body: &[u8], rows_max: u64) -> Result<u64> {
    if batch.compression().is_some() {
        return Err(Error::new(Code::UnsupportedMediaType, "the Arrow stream has compressed buffers")
            .with_hint("write it without compression, and compress the whole body with Content-Encoding: zstd"));
    }
    let rows = u64::try_from(batch.length()).map_err(|_| broken("a batch of negative length"))?;
    // Arrow takes as many as the schema has and leaves the others.
    let nodes = batch.nodes().map_or(0, |nodes| nodes.len());
    let columns = columns.unwrap_or(nodes);
    if nodes != columns && !(nodes > columns && faults::planted(Defect::SurplusColumnsLeft)) {
        return Err(broken("a batch of more or fewer columns than its schema has"));
    }
    for node in batch.nodes().into_iter().flatten() {
        let length = u64::try_from(node.length()).map_err(|_| broken("a column of negative length"))?;
        let nulls = u64::try_from(node.null_count()).map_err(|_| broken("a negative count of nulls"))?;
        if nulls > length {
            return Err(broken("more nulls than values"));
        }
        // Inside lists there are other counts than rows; the least of them takes a byte, or is nothing at all.
        if length > FIXED_BYTES_MAX {
            return Err(Error::new(
                Code::RequestTooLarge,
                format!("a column has {length} values, more than {FIXED_BYTES_MAX}"),
            )
            .with_hint("send fewer rows at once"));
        }
    }
    if rows > rows_max {
        return Err(Error::new(Code::RequestTooLarge, format!("a batch has {rows} rows, more than {rows_max}"))
            .with_hint("send fewer rows at once"));
    }
    for buffer in batch.buffers().into_iter().flatten() {
        let range = u64::try_from(buffer.offset()).ok().zip(u64::try_from(buffer.length()).ok());
        let end = range.and_then(|(offset, length)| offset.checked_add(length));
        if end.is_none_or(|end| end > body.len() as u64) {
            return Err(broken("a buffer outside its message"));
        }
    }
    for count in batch.variadicBufferCounts().into_iter().flatten() {
        if count < 0 || count > batch.buffers().map_or(0, |buffers| buffers.len()) as i64 {
            return Err(broken("more buffers announced than there are"));
        }
    }
    Ok(rows)
}

fn broken(why: &str) -> Error {
    Error::new(Code::InvalidBody, format!("the Arrow stream is broken: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Array, DictionaryArray, Int32Builder, Int64Array, ListArray, MapBuilder, StringArray, StringBuilder,
        StructArray,
    };
    use arrow::datatypes::{DataType, Field, Int32Type};
    use arrow::ipc::writer::StreamWriter;

    use super::*;

    fn stream() -> Vec<u8> {
        let words: DictionaryArray<Int32Type> = ["red", "green", "red"].into_iter().collect();
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
        for row in 0..3 {
            maps.keys().append_value("key");
            maps.values().append_value(row);
            maps.append(row != 1).unwrap();
        }
        let structs = StructArray::from(vec![(
            Arc::new(Field::new("a", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("x"), None, Some("yy")])) as Arc<dyn Array>,
        )]);
        let columns: Vec<(&str, Arc<dyn Array>)> = vec![
            ("list", Arc::new(lists)),
            ("map", Arc::new(maps.finish())),
            ("struct", Arc::new(structs)),
            ("id", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
            ("name", Arc::new(StringArray::from(vec!["a", "bb", ""]))),
            ("word", Arc::new(words)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.write(&batch.slice(1, 2)).unwrap();
        writer.into_inner().unwrap()
    }

    fn rows(body: Vec<u8>) -> Result<Vec<RecordBatch>> {
        decode(&body.into(), 1000)?.collect()
    }

    #[test]
    fn a_column_of_nothing_comes_through() {
        let schema = Arc::new(Schema::new(vec![Field::new("nothing", DataType::Null, true)]));
        let column = Arc::new(arrow::array::NullArray::new(3));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
        writer.write(&batch).unwrap();
        assert_eq!(rows(writer.into_inner().unwrap()).unwrap(), [batch]);
    }

    #[test]
    fn a_good_stream_comes_through() {
        let batches = rows(stream()).unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [3, 2]);
    }

    #[test]
    fn a_stream_cut_anywhere_is_refused_or_shorter() {
        let whole = stream();
        for length in 0..whole.len() {
            if let Ok(batches) = rows(whole[..length].to_vec()) {
                assert!(batches.len() <= 2, "{length}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_never_takes_the_process_down() {
        let whole = stream();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Uploads are decoded under a guard, like here; what must not happen is an abort.
            let decoded = std::panic::catch_unwind(|| rows(flipped).map(|batches| batches.len()));
            if let Ok(Ok(batches)) = decoded {
                assert!(batches <= 3, "bit {bit}");
            }
        }
    }

    #[test]
    fn types_that_no_table_has_are_refused_by_name() {
        let inner = Arc::new(Field::new("item", DataType::Int64, true));
        let schema = Schema::new(vec![Field::new("deep", DataType::ListView(inner), true)]);
        let body = StreamWriter::try_new(Vec::new(), &schema).unwrap().into_inner().unwrap();
        let error = rows(body).unwrap_err();
        assert_eq!((error.code(), error.column()), (Code::NotBuilt, Some("deep")));
    }

    #[test]
    fn rows_without_bytes_are_counted() {
        let schema = Arc::new(Schema::new(vec![Field::new("nothing", DataType::Null, true)]));
        let column = Arc::new(arrow::array::NullArray::new(1_000_000));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
        writer.write(&batch).unwrap();
        assert_eq!(rows(writer.into_inner().unwrap()).unwrap_err().code(), Code::RequestTooLarge);
    }
}
