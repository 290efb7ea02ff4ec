//! Good files, bombs, and broken files.

use arrow::array::{ArrayRef, Int64Array, ListArray, StringArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{Field, Int32Type};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const LIMITS: DecodeLimits = DecodeLimits { bytes_max: 10_000_000, rows_max: 100_000, columns_max: 10 };

fn file(columns: Vec<(&str, ArrayRef)>, compression: Compression) -> Bytes {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap().into()
}

fn zstd() -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(1).unwrap())
}

fn numbers(rows: i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(0..rows))
}

fn refusal(bytes: Bytes, limits: &DecodeLimits) -> Error {
    match decode_parquet(bytes, limits) {
        Err(error) => error,
        Ok(rows) => rows.collect::<Result<Vec<_>>>().unwrap_err(),
    }
}

#[test]
fn a_good_file_comes_out_as_it_went_in() {
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::LZ4_RAW, zstd()] {
        let texts: ArrayRef =
            Arc::new(StringArray::from_iter((0..20_000).map(|i| (i % 3 > 0).then(|| format!("t{i}")))));
        let bytes = file(vec![("id", numbers(20_000)), ("text", texts.clone())], compression);
        let rows = decode_parquet(bytes, &LIMITS).unwrap();
        assert_eq!(rows.schema().field(1).data_type(), &DataType::Utf8View);
        let batches = rows.collect::<Result<Vec<_>>>().unwrap();
        assert!(batches.len() > 1);
        let whole = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        assert_eq!(whole.column(0), &numbers(20_000));
        assert_eq!(&cast(whole.column(1), &DataType::Utf8).unwrap(), &texts);
    }
}

/// As pyarrow 25 writes `pa.table({"id": pa.array([], pa.int64())})`: a row group of no rows, with a dictionary and no page.
#[test]
fn a_file_without_rows_has_none() {
    let hex = "504152311504150015004c150015001200001504192c35001806736368656d6115020015042502180269640016001\
        91c191c26001c150419250006191802696415001600161c161c26002608291c150415001502000000161c16002608161c00\
        2820706172717565742d6370702d6172726f772076657273696f6e2032352e302e31191c1c0000007600000050415231";
    let bytes = (0..hex.len() / 2).map(|place| u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).unwrap());
    let rows = decode_parquet(bytes.collect::<Vec<_>>().into(), &LIMITS).unwrap();
    assert_eq!(rows.schema().field(0).name(), "id");
    assert_eq!(rows.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 0);
    let none = file(vec![("id", numbers(0))], zstd());
    assert_eq!(decode_parquet(none, &LIMITS).unwrap().map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 0);
}

#[test]
fn what_is_larger_than_the_limits_is_refused() {
    let good = file(vec![("id", numbers(1_000)), ("other", numbers(1_000))], zstd());
    for (limits, message) in [
        (DecodeLimits { rows_max: 999, ..LIMITS }, "1000 rows are more than 999"),
        (DecodeLimits { columns_max: 1, ..LIMITS }, "2 columns are more than 1"),
        (DecodeLimits { bytes_max: 15_999, ..LIMITS }, "bytes"),
    ] {
        let error = refusal(good.clone(), &limits);
        assert_eq!(error.code(), Code::RequestTooLarge, "{error}");
        assert!(error.message().contains(message), "{error}");
    }
    assert!(decode_parquet(good, &DecodeLimits { bytes_max: 30_000, rows_max: 1_000, columns_max: 2 }).is_ok());
}

#[test]
fn one_long_text_repeated_is_counted_as_often_as_it_is_there() {
    let long = "x".repeat(100_000);
    let views: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..10_000).map(|_| long.as_str())));
    let bytes = file(vec![("text", views)], zstd());
    assert!(bytes.len() < 10_000, "a gigabyte in {} bytes", bytes.len());
    let error = refusal(bytes, &LIMITS);
    assert_eq!(error.code(), Code::RequestTooLarge, "{error}");
}

#[test]
fn page_headers_that_claim_more_than_the_footer_are_refused() {
    // A page of zeros, whose header then says that it is twenty times as large.
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 50]));
    let batch = RecordBatch::try_from_iter([("zeros", zeros)]).unwrap();
    let properties = WriterProperties::builder().set_compression(zstd()).set_dictionary_enabled(false).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    let mut bytes = writer.into_inner().unwrap();
    let limits = DecodeLimits { bytes_max: 1_000, ..LIMITS };
    assert!(decode_parquet(bytes.clone().into(), &limits).is_ok());
    // Field 1, the type, is 0x15 0x00; field 2, the size, 0x15 and a number in two bytes.
    let place = bytes.windows(3).position(|window| window == [0x15, 0x00, 0x15]).unwrap() + 3;
    assert!(bytes[place] & 0x80 != 0 && bytes[place + 1] & 0x80 == 0);
    bytes[place..place + 2].copy_from_slice(&[0xfe, 0x7f]);
    let error = refusal(bytes.into(), &limits);
    assert_eq!(error.code(), Code::RequestTooLarge);
    assert!(error.message().starts_with("8191 bytes decompressed"), "{error}");
}

#[test]
fn columns_inside_columns_come_out_unless_they_nest_too_deep() {
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), None]));
    let rows = decode_parquet(file(vec![("id", numbers(2)), ("list", list.clone())], zstd()), &LIMITS).unwrap();
    assert_eq!(rows.map(|batch| batch.unwrap().column(1).len()).sum::<usize>(), 2);
    for (levels, column) in [(9, Some("list")), (13, None)] {
        let mut deep = list.clone();
        for _ in 1..levels {
            let field = Arc::new(Field::new("item", deep.data_type().clone(), true));
            let offsets = arrow::buffer::OffsetBuffer::from_lengths([deep.len()]);
            deep = Arc::new(ListArray::new(field, offsets, deep, None));
        }
        let error = refusal(file(vec![("list", deep)], zstd()), &LIMITS);
        assert_eq!(error.code(), Code::InvalidType, "{levels} {error}");
        assert!(column.is_none_or(|column| error.column() == Some(column)), "{levels} {error:?}");
    }

    // A footer whose schema goes down a million steps.
    let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
    let mut count = 1_000_000u64;
    while count >= 0x80 {
        footer.push((count & 0x7f) as u8 | 0x80);
        count >>= 7;
    }
    footer.push(count as u8);
    for _ in 0..1_000_000 {
        footer.extend([0x48, 0x01, b'a', 0x15, 0x02, 0x00]);
    }
    footer.push(0);
    let mut bytes = b"PAR1".to_vec();
    bytes.extend(&footer);
    bytes.extend((footer.len() as u32).to_le_bytes());
    bytes.extend(b"PAR1");
    let error = refusal(bytes.into(), &LIMITS);
    assert_eq!(error.code(), Code::InvalidType, "{error}");
}

#[test]
fn what_is_no_parquet_says_so() {
    let good = file(vec![("id", numbers(1_000))], zstd());
    for bad in [&b""[..], b"PAR1", b"PAR1PAR1", b"{\"id\": 1}, and more", &good[..good.len() - 1], &good[1..]] {
        assert_eq!(refusal(Bytes::copy_from_slice(bad), &LIMITS).code(), Code::InvalidBody);
    }
}

/// Whatever is broken: an error or rows, never a panic and never more than the limits.
#[test]
fn broken_files_break_nothing() {
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..300).map(|i| format!("text {}", i % 7))));
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
        (0..300).map(|row| (row % 5 > 0).then(|| (0..row % 4).map(move |item| (item > 0).then_some(item)))),
    ));
    let mut random = StdRng::seed_from_u64(7);
    for compression in [Compression::UNCOMPRESSED, zstd()] {
        let good = file(vec![("id", numbers(300)), ("text", texts.clone()), ("list", lists.clone())], compression);
        for _ in 0..3_000 {
            let mut bytes = good.to_vec();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
            let Ok(rows) = decode_parquet(bytes.into(), &LIMITS) else { continue };
            let decoded: u64 = rows.map_while(Result::ok).map(|batch| batch.num_rows() as u64).sum();
            assert!(decoded <= LIMITS.rows_max);
        }
    }
}
