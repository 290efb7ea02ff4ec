//! Round trips of every column type, refusals one per line, and bytes that mean nothing.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Date64Array, Decimal128Array,
    Decimal256Array, DictionaryArray, DurationMillisecondArray, FixedSizeBinaryArray, FixedSizeListArray, Float16Array,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int32RunArray, Int64Array,
    IntervalMonthDayNanoArray, IntervalYearMonthArray, LargeStringArray, ListArray, ListViewArray, NullArray,
    RecordBatch, StringArray, StringViewArray, StructArray, Time64MicrosecondArray, Time64NanosecondArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array, UnionArray, new_null_array,
};
use arrow::array::{Int32Builder, MapBuilder, StringBuilder};
use arrow::datatypes::{DataType, Field, Int32Type, IntervalMonthDayNano, Schema, UnionFields, i256};
use chrono::{DateTime, Datelike as _, NaiveDate};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::values;
use super::*;
use crate::{Code, ColumnType, Error, TableSchema};

const EVERY_TYPE: [(&str, ColumnType); 23] = [
    ("flag", ColumnType::Boolean),
    ("i8", ColumnType::Int8),
    ("i16", ColumnType::Int16),
    ("i32", ColumnType::Int32),
    ("i64", ColumnType::Int64),
    ("f32", ColumnType::Float32),
    ("f64", ColumnType::Float64),
    ("wide", ColumnType::Decimal { precision: 38, scale: 10 }),
    ("price", ColumnType::Decimal { precision: 5, scale: 2 }),
    ("whole", ColumnType::Decimal { precision: 38, scale: 0 }),
    ("day", ColumnType::Date),
    ("wall", ColumnType::Timestamp),
    ("instant", ColumnType::TimestampTz),
    ("text", ColumnType::String),
    ("bytes", ColumnType::Binary),
    ("u8", ColumnType::UInt8),
    ("u16", ColumnType::UInt16),
    ("u32", ColumnType::UInt32),
    ("clock", ColumnType::Time),
    ("wall_ns", ColumnType::TimestampNs),
    ("instant_ns", ColumnType::TimestampTzNs),
    ("fixed", ColumnType::Fixed(3)),
    ("uuid", ColumnType::Uuid),
];

fn every_type() -> TableSchema {
    table(&EVERY_TYPE.map(|(name, column_type)| (name, column_type, true)))
}

fn table(columns: &[(&str, ColumnType, bool)]) -> TableSchema {
    let columns = columns.iter().map(|(name, column_type, nullable)| ((*name).into(), column_type.clone(), *nullable));
    TableSchema::new(columns).unwrap()
}

fn micros_of(year: i32) -> i64 {
    NaiveDate::from_ymd_opt(year, 1, 1).unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp_micros()
}

fn instants() -> impl Strategy<Value = i64> {
    let last = NaiveDate::MAX.and_hms_micro_opt(23, 59, 59, 999_999).unwrap().and_utc().timestamp_micros();
    let first = micros_of(-262_143);
    let seconds = (micros_of(-10)..micros_of(11_000)).prop_map(|micros| micros / 1_000_000 * 1_000_000);
    prop_oneof![first..=last, micros_of(1900)..micros_of(2100), seconds, Just(first), Just(last), Just(-1), Just(0)]
}

fn texts() -> impl Strategy<Value = String> {
    const AWKWARD: [&str; 13] =
        ["", " ", ",", "\"", "\"\"", "\r\n", "\n", "\r", "null", "NaN", "\\u0041\\", "\u{0}\u{1f}", "é漢😀"];
    prop_oneof![any::<String>(), proptest::sample::select(&AWKWARD).prop_map(String::from), "[a,\"\r\n\\\\ ]{0,8}"]
}

fn decimals(precision: u32) -> impl Strategy<Value = i128> {
    let largest = 10i128.pow(precision) - 1;
    prop_oneof![-largest..=largest, -1000i128..1000, Just(largest), Just(-largest), Just(0)]
        .prop_map(move |value| value.clamp(-largest, largest))
}

/// Rows for [`every_type`], a third or so of them null, with the ends of each range.
fn batches() -> impl Strategy<Value = RecordBatch> {
    fn array<T: Into<ArrayRef>>(array: T) -> ArrayRef {
        array.into()
    }
    macro_rules! column {
        ($rows:expr, $values:expr, $array:ty) => {
            vec(option::weighted(0.7, $values), $rows)
                .prop_map(|values| array(Arc::new(<$array>::from(values)) as ArrayRef))
                .boxed()
        };
        ($rows:expr, $values:expr, $array:ty as $type:expr) => {
            vec(option::weighted(0.7, $values), $rows)
                .prop_map(|values| array(Arc::new(<$array>::from(values).with_data_type($type.arrow())) as ArrayRef))
                .boxed()
        };
    }
    macro_rules! fixed {
        ($rows:expr, $length:literal) => {
            vec(option::weighted(0.7, any::<[u8; $length]>()), $rows)
                .prop_map(|values| {
                    let values = FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), $length);
                    Arc::new(values.unwrap()) as ArrayRef
                })
                .boxed()
        };
    }
    macro_rules! ends {
        ($type:ident) => {
            prop_oneof![any::<$type>(), Just($type::MIN), Just($type::MAX), Just(0 as $type)]
        };
    }
    macro_rules! floats {
        ($type:ident) => {
            prop_oneof![
                proptest::num::$type::ANY.prop_map(|float| if float.is_nan() { $type::NAN } else { float }),
                proptest::sample::select(&[
                    -0.0,
                    0.0,
                    $type::NAN,
                    $type::INFINITY,
                    $type::NEG_INFINITY,
                    $type::MAX,
                    $type::MIN_POSITIVE,
                    0.1,
                    1e16
                ])
            ]
        };
    }
    (0usize..12).prop_flat_map(|rows| {
        let bytes = vec(any::<u8>(), 0..9);
        let columns = vec![
            column!(rows, any::<bool>(), BooleanArray),
            column!(rows, ends!(i8), Int8Array),
            column!(rows, ends!(i16), Int16Array),
            column!(rows, ends!(i32), Int32Array),
            column!(rows, ends!(i64), Int64Array),
            column!(rows, floats!(f32), Float32Array),
            column!(rows, floats!(f64), Float64Array),
            column!(rows, decimals(38), Decimal128Array as EVERY_TYPE[7].1),
            column!(rows, decimals(5), Decimal128Array as EVERY_TYPE[8].1),
            column!(rows, decimals(38), Decimal128Array as EVERY_TYPE[9].1),
            column!(rows, instants().prop_map(|micros| micros.div_euclid(86_400_000_000) as i32), Date32Array),
            column!(rows, instants(), TimestampMicrosecondArray as ColumnType::Timestamp),
            column!(rows, instants(), TimestampMicrosecondArray as ColumnType::TimestampTz),
            column!(rows, texts(), StringArray),
            vec(option::weighted(0.7, bytes), rows)
                .prop_map(|values| Arc::new(values.into_iter().collect::<BinaryArray>()) as ArrayRef)
                .boxed(),
            column!(rows, ends!(u8), UInt8Array),
            column!(rows, ends!(u16), UInt16Array),
            column!(rows, ends!(u32), UInt32Array),
            column!(rows, prop_oneof![0..86_400_000_000i64, Just(0), Just(86_399_999_999)], Time64MicrosecondArray),
            column!(rows, ends!(i64), TimestampNanosecondArray as ColumnType::TimestampNs),
            column!(rows, ends!(i64), TimestampNanosecondArray as ColumnType::TimestampTzNs),
            fixed!(rows, 3),
            fixed!(rows, 16),
        ];
        columns.prop_map(|columns| RecordBatch::try_new(every_type().arrow(), columns).unwrap())
    })
}

fn to_lines(batch: &RecordBatch) -> String {
    let mut encoder = JsonEncoder::new(batch.schema_ref()).unwrap();
    let mut out = Vec::new();
    for row in 0..batch.num_rows() {
        encoder.write_object(batch, row, &mut out).unwrap();
        out.push(b'\n');
    }
    String::from_utf8(out).unwrap()
}

fn to_arrays(batch: &RecordBatch) -> Vec<String> {
    let mut encoder = JsonEncoder::new(batch.schema_ref()).unwrap();
    let rows = (0..batch.num_rows()).map(|row| {
        let mut out = Vec::new();
        encoder.write_array(batch, row, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    });
    rows.collect()
}

fn to_csv(batch: &RecordBatch) -> String {
    let mut out = Vec::new();
    CsvEncoder.header(batch.schema_ref(), &mut out).unwrap();
    CsvEncoder.rows(batch, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

proptest! {
    #[test]
    fn json_lines_come_back(batch in batches()) {
        let lines = to_lines(&batch);
        let back = decode_json(&every_type(), lines.as_bytes(), JsonShape::Lines, &DecodeOptions::default()).unwrap();
        prop_assert_eq!(&back, &batch, "{}", lines);
        for line in lines.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn json_arrays_come_back(batch in batches()) {
        let body = format!(" [{}] ", to_lines(&batch).trim_end().replace('\n', " ,\r\n"));
        let back = decode_json(&every_type(), body.as_bytes(), JsonShape::Array, &DecodeOptions::default()).unwrap();
        prop_assert_eq!(&back, &batch, "{}", body);
    }

    #[test]
    fn csv_comes_back(batch in batches()) {
        let text = to_csv(&batch);
        let back = decode_csv(&every_type(), text.as_bytes(), &DecodeOptions::default()).unwrap();
        prop_assert_eq!(&back, &batch, "{}", text);
    }

    #[test]
    fn csv_of_one_column_comes_back(values in vec(option::of(texts()), 0..9)) {
        let schema = table(&[("only", ColumnType::String, true)]);
        let batch = RecordBatch::try_new(schema.arrow(), vec![Arc::new(StringArray::from(values))]).unwrap();
        let text = to_csv(&batch);
        prop_assert_eq!(decode_csv(&schema, text.as_bytes(), &DecodeOptions::default()).unwrap(), batch);
    }

    #[test]
    fn conforming_batches_stay_as_they_are(batch in batches()) {
        prop_assert_eq!(conform(&every_type(), &batch).unwrap(), batch);
    }

    #[test]
    fn bytes_that_mean_nothing_are_refused_or_read(body in vec(any::<u8>(), 0..200)) {
        decode_all_ways(&body);
    }

    #[test]
    fn text_that_means_nearly_something_is_refused_or_read(
        body in "(\\{|\\}|\\[|\\]|,|:|\"|\\\\|\n|\r|\"i32\"|\"text\"|i32|text|null|true|-1e5|\\\\u[0-9a-d]{4}|é| ){0,40}"
    ) {
        decode_all_ways(body.as_bytes());
    }

    #[test]
    fn a_cut_or_flipped_body_is_refused_or_read(
        batch in batches(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        for mut body in [to_lines(&batch).into_bytes(), to_csv(&batch).into_bytes()] {
            if !body.is_empty() {
                let at = at.index(body.len());
                decode_all_ways(&body[..at]);
                body[at] = byte;
                decode_all_ways(&body);
            }
        }
    }

    #[test]
    fn dates_are_those_of_chrono(days in prop_oneof![-95_000_000i32..95_000_000, -800_000..800_000]) {
        let mut out = Vec::new();
        values::write_date(i64::from(days), &mut out);
        let date = NaiveDate::from_num_days_from_ce_opt(days + 719_163).unwrap();
        prop_assert_eq!(String::from_utf8(out.clone()).unwrap(), date.to_string());
        prop_assert_eq!(values::parse_date(std::str::from_utf8(&out).unwrap()).unwrap(), days);
    }

    #[test]
    fn no_number_is_too_large_to_write(seconds in any::<i64>(), days in any::<i64>()) {
        let mut out = Vec::new();
        values::write_timestamp(seconds, 999_999_999, values::Fraction::Nanos, true, &mut out);
        values::write_date(days, &mut out);
    }

    #[test]
    fn decimals_are_read_digit_by_digit(unscaled in decimals(38), scale in 0i8..=38, zeros in 0usize..50) {
        let mut text = Vec::new();
        values::write_decimal(unscaled, scale, &mut text);
        prop_assert_eq!(values::parse_decimal(std::str::from_utf8(&text).unwrap(), 38, scale).unwrap(), unscaled);
        // The same number with its point elsewhere, an exponent to make up for it, and zeros that say nothing.
        let sign = if unscaled < 0 { "-" } else { "" };
        let digits = unscaled.unsigned_abs().to_string();
        let padding = "0".repeat(zeros);
        for text in [
            format!("{sign}{padding}{digits}.{padding}e-{scale}"),
            format!("{sign}{digits}{padding}E-{}", scale as usize + zeros),
            format!("{sign}0.{padding}{digits}e{}", (zeros + digits.len()) as i64 - i64::from(scale)),
        ] {
            prop_assert_eq!(values::parse_decimal(&text, 38, scale).unwrap(), unscaled, "{}", text);
        }
        let finer = format!("{sign}{digits}1e-{}", i32::from(scale) + 1);
        prop_assert!(values::parse_decimal(&finer, 38, scale).is_err());
    }

    #[test]
    fn timestamps_are_those_of_chrono(micros in instants()) {
        let mut out = Vec::new();
        values::write_timestamp(
            micros.div_euclid(1_000_000),
            micros.rem_euclid(1_000_000) as u32 * 1000,
            values::Fraction::Micros,
            true,
            &mut out,
        );
        let text = String::from_utf8(out).unwrap();
        let date = DateTime::from_timestamp_micros(micros).unwrap();
        let fraction = if micros % 1_000_000 == 0 { "" } else { "%.6f" };
        if (0..10_000).contains(&date.year()) {
            prop_assert_eq!(&text, &date.format(&format!("%Y-%m-%dT%H:%M:%S{fraction}Z")).to_string());
        }
        prop_assert_eq!(values::parse_timestamp(&text, true).unwrap(), micros);
    }
}

fn decode_all_ways(body: &[u8]) {
    let schema = every_type();
    for options in [
        DecodeOptions::default(),
        DecodeOptions {
            epoch: Some(EpochUnit::Milliseconds),
            csv_null: "null".into(),
            csv_columns: Some(vec!["i32".into(), "text".into()]),
            rows_max: 3,
        },
    ] {
        for decoded in [
            decode_json(&schema, body, JsonShape::Lines, &options),
            decode_json(&schema, body, JsonShape::Array, &options),
            decode_csv(&schema, body, &options),
        ] {
            match decoded {
                Ok(batch) => assert_eq!(batch.schema(), schema.arrow()),
                Err(error) => assert!(error.kind().status() < 500, "{error:?}"),
            }
        }
    }
}

/// `(code, row, column, value)` of an error, for comparing.
type Facts<'e> = (Code, Option<u64>, Option<&'e str>, Option<&'e str>);

fn facts(error: &Error) -> Facts<'_> {
    (error.code(), error.row(), error.column(), error.value())
}

/// One value of a JSON object, in a table of all types where each second row is refused.
#[test]
fn json_values_that_do_not_fit_are_named() {
    let cases = [
        ("flag", r#""true""#, "true"),
        ("flag", "1", "1"),
        ("flag", "[true]", "[true]"),
        ("i8", "128", "128"),
        ("i8", "-129", "-129"),
        ("i16", "32768", "32768"),
        ("i32", "2147483648", "2147483648"),
        ("i32", "1.5", "1.5"),
        ("i32", "15e-1", "15e-1"),
        ("i32", r#""12x""#, "12x"),
        ("i32", r#""""#, ""),
        ("i32", r#"" 1""#, " 1"),
        ("i32", "true", "true"),
        ("i32", r#"{"a":1}"#, r#"{"a":1}"#),
        ("i64", "9223372036854775808", "9223372036854775808"),
        ("i64", "-9223372036854775809", "-9223372036854775809"),
        ("i64", "1e30", "1e30"),
        ("i64", "1e999999999999999999999", "1e999999999999999999999"),
        ("i64", "1e-999999999999999999999", "1e-999999999999999999999"),
        ("i64", "9223372036854775807.5", "9223372036854775807.5"),
        ("f32", "3.5e38", "3.5e38"),
        ("f32", r#""nan""#, "nan"),
        ("f32", r#""1.5""#, "1.5"),
        ("f64", "1e309", "1e309"),
        ("f64", "-1e309", "-1e309"),
        ("f64", r#""inf""#, "inf"),
        ("f64", "false", "false"),
        ("price", "1000", "1000"),
        ("price", "999.995", "999.995"),
        ("price", r#""0.001""#, "0.001"),
        ("price", r#""1,5""#, "1,5"),
        ("price", r#"".""#, "."),
        ("price", r#""NaN""#, "NaN"),
        ("price", r#""1e""#, "1e"),
        ("wide", "10000000000000000000000000000", "10000000000000000000000000000"),
        ("day", "20000", "20000"),
        ("day", r#""2026-02-29""#, "2026-02-29"),
        ("day", r#""2026-2-9""#, "2026-2-9"),
        ("day", r#""26-02-09""#, "26-02-09"),
        ("day", r#""2026-11-23T00:00:00""#, "2026-11-23T00:00:00"),
        ("day", r#""+262143-01-01""#, "+262143-01-01"),
        ("day", r#""é026-11-2""#, "é026-11-2"),
        ("wall", r#""2026-11-23""#, "2026-11-23"),
        ("wall", r#""2026-11-23T13:00:01Z""#, "2026-11-23T13:00:01Z"),
        ("wall", r#""2026-11-23T13:00:01+02:00""#, "2026-11-23T13:00:01+02:00"),
        ("wall", r#""2026-11-23T13:00""#, "2026-11-23T13:00"),
        ("wall", r#""2026-11-23T24:00:00""#, "2026-11-23T24:00:00"),
        ("wall", r#""2026-11-23T23:59:60""#, "2026-11-23T23:59:60"),
        ("wall", r#""2026-11-23T13:00:01.""#, "2026-11-23T13:00:01."),
        ("wall", r#""2026-11-23T13:00:01.0000001""#, "2026-11-23T13:00:01.0000001"),
        ("wall", r#""2026-11-23T13:00:01.0000000000""#, "2026-11-23T13:00:01.0000000000"),
        ("wall", "1700000000000", "1700000000000"),
        ("instant", r#""2026-11-23T13:00:01""#, "2026-11-23T13:00:01"),
        ("instant", r#""2026-11-23T13:00:01+24:00""#, "2026-11-23T13:00:01+24:00"),
        ("instant", r#""2026-11-23T13:00:01 Z""#, "2026-11-23T13:00:01 Z"),
        ("instant", r#""-262143-01-01T00:00:00+01:00""#, "-262143-01-01T00:00:00+01:00"),
        ("text", "1", "1"),
        ("text", "[]", "[]"),
        ("bytes", r#""a""#, "a"),
        ("bytes", r#""YQ""#, "YQ"),
        ("bytes", r#""YR==""#, "YR=="),
        ("bytes", r#""_-==""#, "_-=="),
        ("bytes", "0", "0"),
    ];
    for (column, json, value) in cases {
        let expected = (Code::InvalidRow, Some(1), Some(column), Some(value));
        let lines = format!("{{\"text\":\"fine\"}}\n\n{{\"{column}\":{json}}}\n");
        let error = decode_json(&every_type(), lines.as_bytes(), JsonShape::Lines, &DecodeOptions::default());
        assert_eq!(facts(&error.unwrap_err()), expected, "{json}");
        let array = format!("[{{}},{{\"{column}\":{json}}}]");
        let error = decode_json(&every_type(), array.as_bytes(), JsonShape::Array, &DecodeOptions::default());
        assert_eq!(facts(&error.unwrap_err()), expected, "{json}");
    }
}

#[test]
fn json_values_in_other_spellings_are_taken() {
    let cases = [
        ("i8", "1.0", "1"),
        ("i64", "1e3", "1000"),
        ("i64", "-0", "0"),
        ("i64", "-0.0", "0"),
        ("i64", r#""-9223372036854775808""#, "-9223372036854775808"),
        ("i64", "9223372036854775807.00", "9223372036854775807"),
        ("f32", "1e-60", "0.0"),
        ("f32", "16777217", "16777216.0"),
        ("f64", "-0", "-0.0"),
        ("f64", r#""-Infinity""#, r#""-Infinity""#),
        ("f64", "1e-400", "0.0"),
        ("price", "12.3", r#""12.30""#),
        ("price", "-0.01000", r#""-0.01""#),
        ("price", "99999e-2", r#""999.99""#),
        ("price", r#""+.5""#, r#""0.50""#),
        ("price", "-0", r#""0.00""#),
        ("wide", "1234567890123456789012345678.0123456789", r#""1234567890123456789012345678.0123456789""#),
        ("whole", "12345678901234567890123456789012345678", r#""12345678901234567890123456789012345678""#),
        ("day", r#""-0044-03-15""#, r#""-0044-03-15""#),
        ("wall", r#""2026-11-23 13:00:01.5""#, r#""2026-11-23T13:00:01.500000""#),
        ("wall", r#""2026-11-23T13:00:01.000001000""#, r#""2026-11-23T13:00:01.000001""#),
        ("instant", r#""2026-11-23t13:00:01z""#, r#""2026-11-23T13:00:01Z""#),
        ("instant", r#""2026-11-23T00:30:00+02:00""#, r#""2026-11-22T22:30:00Z""#),
        ("instant", r#""1969-12-31 19:00:00.1-05""#, r#""1970-01-01T00:00:00.100000Z""#),
        ("text", r#""\ud83d\ude00\n\"\\""#, r#""😀\n\"\\""#),
        ("bytes", r#""YQ==""#, r#""YQ==""#),
        ("bytes", r#""\u0059Q==""#, r#""YQ==""#),
        ("flag", "null", "null"),
    ];
    for (column, given, expected) in cases {
        let body = format!("{{\"{column}\" : {given} }}");
        let batch = decode_json(&every_type(), body.as_bytes(), JsonShape::Lines, &DecodeOptions::default()).unwrap();
        let place = EVERY_TYPE.iter().position(|(name, _)| *name == column).unwrap();
        assert_eq!(to_arrays(&batch.project(&[place]).unwrap()), [format!("[{expected}]")], "{given}");
    }
}

/// A table of two columns, `id` NOT NULL.
fn orders() -> TableSchema {
    table(&[("id", ColumnType::Int64, false), ("note", ColumnType::String, true)])
}

#[test]
fn json_bodies_that_do_not_fit_are_refused() {
    use JsonShape::{Array, Lines};
    let row = Some;
    let cases: &[(JsonShape, &[u8], Facts<'static>)] = &[
        (Lines, b"{\"id\":1}\n{}", (Code::InvalidRow, row(1), Some("id"), Some("null"))),
        (Lines, b"{\"id\":null}", (Code::InvalidRow, row(0), Some("id"), Some("null"))),
        (Lines, b"{\"id\":1,\"id\":1}", (Code::InvalidRow, row(0), Some("id"), None)),
        (Lines, b"{\"note\":null,\"id\":1,\"note\":null}", (Code::InvalidRow, row(0), Some("note"), None)),
        (Lines, b"{\"id\":1,\"\\u0069d\":1}", (Code::InvalidRow, row(0), Some("id"), None)),
        (Lines, b"{\"id\":1}\n{\"ID\":1}", (Code::UnknownColumn, row(1), Some("ID"), None)),
        (Lines, b"{\"id\":1,\"__change\":\"d\"}", (Code::UnknownColumn, row(0), Some("__change"), None)),
        (Lines, b"{\"id\":1}\n\r\n{\"id\":", (Code::InvalidBody, row(1), None, None)),
        (Lines, b"{\"id\":1}{\"id\":2}", (Code::InvalidBody, row(0), None, None)),
        (Lines, b"{\"id\":1}\n[]", (Code::InvalidBody, row(1), None, None)),
        (Lines, b"{\"id\":1}\n7", (Code::InvalidBody, row(1), None, None)),
        (Lines, b"{\"id\":01}", (Code::InvalidBody, row(0), None, None)),
        (Lines, b"{\"id\":NaN}", (Code::InvalidBody, row(0), None, None)),
        (Lines, b"{\"id\":1,\"note\":\"\\ud800\"}", (Code::InvalidBody, row(0), None, None)),
        (Lines, b"{\"id\":1}\n{\"id\":2}\n{\"note\":\"\xff\"}\n", (Code::InvalidBody, row(2), None, None)),
        (Array, b"[{\"id\":1},{}]", (Code::InvalidRow, row(1), Some("id"), Some("null"))),
        (Array, b"[{\"id\":1},{\"id\":2,\"x\":1}]", (Code::UnknownColumn, row(1), Some("x"), None)),
        (Array, b"[{\"id\":1},", (Code::InvalidBody, row(1), None, None)),
        (Array, b"[{\"id\":1}]]", (Code::InvalidBody, row(1), None, None)),
        (Array, b"{\"id\":1}", (Code::InvalidBody, row(0), None, None)),
        (Array, b"[{\"id\":1},{\"id\":2,\"note\":\"\xff\"}]", (Code::InvalidBody, row(1), None, None)),
        (Array, b"[[{\"id\":1}]]", (Code::InvalidBody, row(0), None, None)),
    ];
    for (shape, body, expected) in cases {
        let error = decode_json(&orders(), body, *shape, &DecodeOptions::default()).unwrap_err();
        assert_eq!(facts(&error), *expected, "{}", String::from_utf8_lossy(body));
        assert!(!error.message().contains("refused"), "{error}");
    }
}

#[test]
fn empty_bodies_have_no_rows() {
    let schema = orders();
    let options = DecodeOptions::default();
    for body in ["", "\n\r\n  \n", "\u{feff}"] {
        for shape in [JsonShape::Lines, JsonShape::Array] {
            let batch = decode_json(&schema, body.as_bytes(), shape, &options).unwrap();
            assert_eq!((batch.num_rows(), batch.schema()), (0, schema.arrow()), "{body:?}");
        }
    }
    assert_eq!(decode_json(&schema, b" [ ] ", JsonShape::Array, &options).unwrap().num_rows(), 0);
    for body in ["", "id,note", "id,note\r\n", "\u{feff}note\n"] {
        let batch = decode_csv(&schema, body.as_bytes(), &options).unwrap();
        assert_eq!((batch.num_rows(), batch.schema()), (0, schema.arrow()), "{body:?}");
    }
}

#[test]
fn keys_come_in_any_order() {
    let body = b"{\"note\":\"a\",\"id\":1}\r\n{\"id\":2,\"note\":\"b\"}\n{\"id\":3}\n{\"n\\u006fte\":\"d\",\"id\":4}";
    let batch = decode_json(&orders(), body, JsonShape::Lines, &DecodeOptions::default()).unwrap();
    assert_eq!(to_arrays(&batch), [r#"[1,"a"]"#, r#"[2,"b"]"#, "[3,null]", r#"[4,"d"]"#]);
}

#[test]
fn depth_costs_nothing() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let body = format!("{{\"id\":1,\"note\":{deep}}}");
        let error = decode_json(&orders(), body.as_bytes(), JsonShape::Lines, &DecodeOptions::default()).unwrap_err();
        assert_eq!((error.code(), error.row(), error.column()), (Code::InvalidRow, Some(0), Some("note")));
        assert_eq!(error.value().unwrap().len(), 256);
        let cut = format!("{{\"note\":{}", open.repeat(100_000));
        for (body, shape) in [(&cut, JsonShape::Lines), (&cut, JsonShape::Array), (&deep, JsonShape::Array)] {
            let error = decode_json(&orders(), body.as_bytes(), shape, &DecodeOptions::default()).unwrap_err();
            assert_eq!(error.code(), Code::InvalidBody);
        }
    }
}

#[test]
fn rows_are_bounded() {
    let options = DecodeOptions { rows_max: 2, ..DecodeOptions::default() };
    let schema = orders();
    let json = b"{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n";
    let csv = b"id\n1\n2\n3\n";
    assert_eq!(decode_csv(&schema, &csv[..7], &options).unwrap().num_rows(), 2);
    let errors = [
        decode_json(&schema, json, JsonShape::Lines, &options).unwrap_err(),
        decode_csv(&schema, csv, &options).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.code(), error.row()), (Code::RequestTooLarge, Some(2)));
    }
    // Rows of nulls cost three bytes each and would fill memory.
    let wide: Vec<_> = (0..2000).map(|place| (format!("c{place}"), ColumnType::Int64, true)).collect();
    let wide = TableSchema::new(wide).unwrap();
    let error = decode_json(&wide, &b"{}\n".repeat(20_000), JsonShape::Lines, &DecodeOptions::default()).unwrap_err();
    assert_eq!((error.code(), error.row()), (Code::RequestTooLarge, Some((256 << 20) / 16_000)));
}

#[test]
fn numbers_since_1970_need_their_unit() {
    let schema = table(&[
        ("day", ColumnType::Date, true),
        ("wall", ColumnType::Timestamp, true),
        ("instant", ColumnType::TimestampTz, true),
    ]);
    let decode = |unit, body: &str| {
        let options = DecodeOptions { epoch: Some(unit), ..DecodeOptions::default() };
        decode_json(&schema, body.as_bytes(), JsonShape::Lines, &options)
    };
    let batch = decode(
        EpochUnit::Milliseconds,
        r#"{"day":-86400000,"wall":1500,"instant":"-1"}
        {"day":"2026-11-23","wall":"2026-11-23T00:00:00","instant":1e3}"#,
    );
    assert_eq!(
        to_arrays(&batch.unwrap()),
        [
            r#"["1969-12-31","1970-01-01T00:00:01.500000","1969-12-31T23:59:59.999000Z"]"#,
            r#"["2026-11-23","2026-11-23T00:00:00","1970-01-01T00:00:01Z"]"#
        ]
    );
    let batch = decode(EpochUnit::Microseconds, r#"{"day":86400000000,"wall":1500,"instant":-1}"#).unwrap();
    assert_eq!(to_arrays(&batch), [r#"["1970-01-02","1970-01-01T00:00:00.001500","1969-12-31T23:59:59.999999Z"]"#]);
    for (column, value) in
        [("day", "1"), ("wall", "1.5"), ("wall", "9223372036854775807"), ("instant", "-9223372036854775807")]
    {
        let error = decode(EpochUnit::Milliseconds, &format!("{{\"{column}\":{value}}}")).unwrap_err();
        assert_eq!(facts(&error), (Code::InvalidRow, Some(0), Some(column), Some(value)));
    }
    assert!(decode(EpochUnit::Microseconds, r#"{"wall":9223372036854775807}"#).is_err());
}

#[test]
fn csv_is_read_as_rfc_4180_has_it() {
    let read =
        |body: &str, options: &DecodeOptions| to_arrays(&decode_csv(&orders(), body.as_bytes(), options).unwrap());
    let plain = DecodeOptions::default();
    let null = DecodeOptions { csv_null: "\\N".into(), ..DecodeOptions::default() };
    let headless = DecodeOptions { csv_columns: Some(vec!["note".into(), "id".into()]), ..DecodeOptions::default() };
    let cases: [(&str, &DecodeOptions, &[&str]); 9] = [
        ("note,id\r\na,1\r\n,2\r\n\"\",3", &plain, &[r#"[1,"a"]"#, "[2,null]", r#"[3,""]"#]),
        (
            "id,note\n1,\"a,b\"\n2,\"a\"\"b\"\n3,\"a\r\nb\"\n",
            &plain,
            &[r#"[1,"a,b"]"#, r#"[2,"a\"b"]"#, r#"[3,"a\r\nb"]"#],
        ),
        ("id,note\n1,\"\"\"\"\n2,\"\"\"\"\"\"\n3,\"\"\"x\"", &plain, &[r#"[1,"\""]"#, r#"[2,"\"\""]"#, r#"[3,"\"x"]"#]),
        ("\"id\",\"note\"\n\"1\",\" a \"\n", &plain, &[r#"[1," a "]"#]),
        ("\n\nid,note\n\n1,a\n\r\n\n2,", &plain, &[r#"[1,"a"]"#, "[2,null]"]),
        ("id\n1\n2\n", &plain, &["[1,null]", "[2,null]"]),
        ("id,note\n1,\\N\n2,\"\\N\"\n3,\n", &null, &["[1,null]", r#"[2,"\\N"]"#, r#"[3,""]"#]),
        ("a,1\nid,2", &headless, &[r#"[1,"a"]"#, r#"[2,"id"]"#]),
        ("\u{feff}id,note\n1,é漢😀", &plain, &[r#"[1,"é漢😀"]"#]),
    ];
    for (body, options, expected) in cases {
        assert_eq!(read(body, options), expected, "{body:?}");
    }
}

#[test]
fn csv_bodies_that_do_not_fit_are_refused() {
    let plain = DecodeOptions::default();
    let null = DecodeOptions { csv_null: "-".into(), ..DecodeOptions::default() };
    let headless = |names: &[&str]| DecodeOptions {
        csv_columns: Some(names.iter().map(|name| (*name).into()).collect()),
        ..DecodeOptions::default()
    };
    let cases: &[(&[u8], &DecodeOptions, Facts<'static>)] = &[
        (b"id,note\n1,a\n2\n", &plain, (Code::InvalidBody, Some(1), None, None)),
        (b"id,note\n1,a,\n", &plain, (Code::InvalidBody, Some(0), None, None)),
        (b"id,note\n1,\"a\n", &plain, (Code::InvalidBody, Some(0), None, None)),
        (b"id,note\n1,\"a\"b\n", &plain, (Code::InvalidBody, Some(0), None, None)),
        (b"id,note\n1,a\"b\n", &plain, (Code::InvalidBody, Some(0), None, None)),
        (b"id,note\n1,a\rb\n", &plain, (Code::InvalidBody, Some(0), None, None)),
        (b"id,note\n1,a\n2,\xff\n", &plain, (Code::InvalidBody, Some(1), None, None)),
        (b"id,note\n1,a\n2,\"\xff\"\n", &plain, (Code::InvalidBody, Some(1), None, None)),
        (b"id,n\xffte\n1,a\n", &plain, (Code::InvalidBody, None, None, None)),
        (b"1,a\n2,\xff\n", &headless(&["id", "note"]), (Code::InvalidBody, Some(1), None, None)),
        (b"id,nota\n1,a\n", &plain, (Code::UnknownColumn, None, Some("nota"), None)),
        (b"id,__change\n1,d\n", &plain, (Code::UnknownColumn, None, Some("__change"), None)),
        (b"id,id\n1,1\n", &plain, (Code::InvalidRow, None, Some("id"), None)),
        (b"", &headless(&["id", "id"]), (Code::InvalidRow, None, Some("id"), None)),
        (b"", &headless(&["x"]), (Code::UnknownColumn, None, Some("x"), None)),
        (b"note\na\n", &plain, (Code::InvalidRow, Some(0), Some("id"), Some("null"))),
        (b"id,note\n1,a\n,b\n", &plain, (Code::InvalidRow, Some(1), Some("id"), Some("null"))),
        (b"id,note\n\"\",b\n", &plain, (Code::InvalidRow, Some(0), Some("id"), Some(""))),
        (b"id,note\n 1,b\n", &plain, (Code::InvalidRow, Some(0), Some("id"), Some(" 1"))),
        (b"id,note\n,b\n", &null, (Code::InvalidRow, Some(0), Some("id"), Some(""))),
        (b"id\n-\n", &null, (Code::InvalidRow, Some(0), Some("id"), Some("null"))),
        (b"id\n1.5\n", &plain, (Code::InvalidRow, Some(0), Some("id"), Some("1.5"))),
    ];
    for (body, options, expected) in cases {
        let error = decode_csv(&orders(), body, options).unwrap_err();
        assert_eq!(facts(&error), *expected, "{}", String::from_utf8_lossy(body));
    }
    for (column, field) in
        [("flag", "yes"), ("f64", "inf"), ("f64", "0x1"), ("f32", "1e39"), ("day", "1"), ("bytes", "a")]
    {
        let error = decode_csv(&every_type(), format!("{column}\n{field}\n").as_bytes(), &plain).unwrap_err();
        assert_eq!(facts(&error), (Code::InvalidRow, Some(0), Some(column), Some(field)));
    }
    let taken = b"flag,f64,f32,i32\nTRUE,1e5,-Infinity,+7\nFalse,NaN,.5,1.0\n";
    let batch = decode_csv(&every_type(), taken, &plain).unwrap().project(&[0, 6, 5, 3]).unwrap();
    assert_eq!(to_arrays(&batch), [r#"[true,100000.0,"-Infinity",7]"#, r#"[false,"NaN",0.5,1]"#]);
}

fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<_> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let columns = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[test]
fn answers_of_every_arrow_type_are_spelled() {
    let list = |items: [Option<Vec<Option<i32>>>; 2]| ListArray::from_iter_primitive::<Int32Type, _, _>(items);
    let lists = list([Some(vec![Some(1), None]), None]);
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for (key, value) in [("a", Some(1)), ("b", None)] {
        maps.keys().append_value(key);
        maps.values().append_option(value);
    }
    maps.append(true).unwrap();
    maps.append(false).unwrap();
    let structs = StructArray::from(vec![
        (Arc::new(Field::new("x\"", DataType::Int32, true)), Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef),
        (Arc::new(Field::new("l", lists.data_type().clone(), true)), Arc::new(lists.clone()) as ArrayRef),
    ]);
    let fixed = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), Some(2)]), None], 2);
    let sides = [Field::new("n", DataType::Int32, true), Field::new("s", DataType::Utf8, true)];
    let union = UnionArray::try_new(
        UnionFields::from_fields(sides),
        vec![0, 1].into(),
        Some(vec![0, 0].into()),
        vec![Arc::new(Int32Array::from(vec![1])), Arc::new(StringArray::from(vec!["two"]))],
    );
    let union = union.unwrap();
    let huge = i256::from_string("-12345678901234567890123456789012345678901234567890").unwrap();
    let runs =
        Int32RunArray::try_new(&Int32Array::from(vec![1, 2]), &StringArray::from(vec![Some("r"), None])).unwrap();
    let interval = |months, days, nanos| Some(IntervalMonthDayNano::new(months, days, nanos));
    let cases: Vec<(ArrayRef, [&str; 2])> = vec![
        (Arc::new(NullArray::new(2)), ["null", "null"]),
        (Arc::new(UInt8Array::from(vec![Some(255), None])), ["255", "null"]),
        (Arc::new(UInt64Array::from(vec![u64::MAX, 0])), ["18446744073709551615", "0"]),
        (Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX])), ["-9223372036854775808", "9223372036854775807"]),
        (Arc::new(Float16Array::from(vec![half(0.5), half(f32::NAN)])), ["0.5", "\"NaN\""]),
        (Arc::new(Float32Array::from(vec![0.1, f32::NEG_INFINITY])), ["0.1", "\"-Infinity\""]),
        (Arc::new(Float64Array::from(vec![-0.0, 1e300])), ["-0.0", "1e+300"]),
        (
            Arc::new(Decimal128Array::from(vec![-5, 0]).with_precision_and_scale(5, 3).unwrap()),
            ["\"-0.005\"", "\"0.000\""],
        ),
        (Arc::new(Decimal128Array::from(vec![-5, 0]).with_precision_and_scale(5, -3).unwrap()), ["\"-5000\"", "\"0\""]),
        (
            Arc::new(Decimal256Array::from(vec![huge, i256::ONE]).with_precision_and_scale(76, 2).unwrap()),
            ["\"-123456789012345678901234567890123456789012345678.90\"", "\"0.01\""],
        ),
        (Arc::new(Date32Array::from(vec![i32::MIN, i32::MAX])), ["\"-5877641-06-23\"", "\"+5881580-07-11\""]),
        (Arc::new(Date64Array::from(vec![-1, 86_400_000])), ["\"1969-12-31\"", "\"1970-01-02\""]),
        (
            Arc::new(Time64NanosecondArray::from(vec![1, 86_399_000_000_000])),
            ["\"00:00:00.000000001\"", "\"23:59:59\""],
        ),
        (
            Arc::new(TimestampNanosecondArray::from(vec![-1, 0]).with_timezone("Europe/Berlin")),
            ["\"1969-12-31T23:59:59.999999999Z\"", "\"1970-01-01T00:00:00Z\""],
        ),
        (
            Arc::new(TimestampMillisecondArray::from(vec![1500, 0])),
            ["\"1970-01-01T00:00:01.500000\"", "\"1970-01-01T00:00:00\""],
        ),
        (
            Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN, i64::MAX])),
            ["\"-290308-12-21T19:59:05.224192\"", "\"+294247-01-10T04:00:54.775807\""],
        ),
        (Arc::new(DurationMillisecondArray::from(vec![-1500, 3_600_000])), ["\"PT-1.500000S\"", "\"PT3600S\""]),
        (Arc::new(IntervalYearMonthArray::from(vec![14, -1])), ["\"P1Y2M\"", "\"P-1M\""]),
        (
            Arc::new(IntervalMonthDayNanoArray::from(vec![interval(0, 0, 0), interval(-12, 3, -5_400_500_000_000)])),
            ["\"PT0S\"", "\"P-1Y3DT-1H-30M-0.500000000S\""],
        ),
        (Arc::new(StringViewArray::from(vec![Some("\u{1}\"é"), None])), ["\"\\u0001\\\"é\"", "null"]),
        (Arc::new(BinaryViewArray::from(vec![&b"\xff\xfe"[..], b""])), ["\"//4=\"", "\"\""]),
        (Arc::new(FixedSizeBinaryArray::from(vec![b"ab", b"cd"])), ["\"YWI=\"", "\"Y2Q=\""]),
        (Arc::new(DictionaryArray::<Int32Type>::from_iter([Some("d"), None])), ["\"d\"", "null"]),
        (Arc::new(runs), ["\"r\"", "null"]),
        (Arc::new(ListViewArray::from(lists.clone())), ["[1,null]", "null"]),
        (Arc::new(fixed), ["[1,2]", "null"]),
        (Arc::new(union), ["1", "\"two\""]),
        (Arc::new(lists), ["[1,null]", "null"]),
        (Arc::new(structs), ["{\"x\\\"\":1,\"l\":[1,null]}", "{\"x\\\"\":2,\"l\":null}"]),
        (Arc::new(maps.finish()), ["[[\"a\",1],[\"b\",null]]", "null"]),
    ];
    for (array, expected) in cases {
        let batch = batch_of(vec![("v", array)]);
        assert_eq!(to_arrays(&batch), expected.map(|value| format!("[{value}]")), "{}", batch.schema());
        assert_eq!(to_lines(&batch), expected.map(|value| format!("{{\"v\":{value}}}\n")).concat());
        // A slice starts elsewhere in its buffers.
        assert_eq!(to_arrays(&batch.slice(1, 1)), [format!("[{}]", expected[1])]);
    }
}

fn half(value: f32) -> <arrow::datatypes::Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native {
    let array = arrow::compute::cast(&Float32Array::from(vec![value]), &DataType::Float16).unwrap();
    array.as_any().downcast_ref::<Float16Array>().unwrap().value(0)
}

#[test]
fn answers_that_cannot_be_spelled_are_refused_before_a_byte() {
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]));
    let batch = batch_of(vec![("a", Arc::new(Int32Array::from(vec![1]))), ("l", lists)]);
    let mut out = Vec::new();
    let header = CsvEncoder.header(batch.schema_ref(), &mut out).unwrap_err();
    let rows = CsvEncoder.rows(&batch, &mut out).unwrap_err();
    for error in [header, rows] {
        assert_eq!((error.code(), error.column(), out.len()), (Code::NotAcceptable, Some("l"), 0));
    }
    let mut deep = DataType::Int32;
    for _ in 0..200 {
        deep = DataType::List(Arc::new(Field::new_list_field(deep, true)));
    }
    let error = JsonEncoder::new(&Schema::new(vec![Field::new("deep", deep, true)])).err().unwrap();
    assert_eq!((error.code(), error.column()), (Code::InvalidType, Some("deep")));

    let ones: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let doubled = batch_of(vec![("a", Arc::clone(&ones)), ("b", Arc::clone(&ones)), ("a", ones)]);
    assert_eq!(to_arrays(&doubled), ["[1,1,1]"]);
    let error = JsonEncoder::new(doubled.schema_ref()).unwrap().write_object(&doubled, 0, &mut out).unwrap_err();
    assert_eq!((error.code(), error.column(), out.len()), (Code::InvalidSql, Some("a"), 0));
}

#[test]
fn csv_is_written_with_as_few_quotes_as_it_needs() {
    let batch = batch_of(vec![
        ("a b", Arc::new(StringArray::from(vec![Some("x"), Some(""), None, Some("q\"\n,"), Some(" ")])) as ArrayRef),
        ("n,", Arc::new(Float64Array::from(vec![Some(1.5), Some(f64::NAN), None, Some(-0.0), Some(f64::INFINITY)]))),
        ("b", Arc::new(BinaryArray::from(vec![Some(&b"a"[..]), Some(b""), None, None, None]))),
    ]);
    assert_eq!(to_csv(&batch), "a b,\"n,\",b\nx,1.5,YQ==\n\"\",NaN,\"\"\n,,\n\"q\"\"\n,\",-0.0,\n ,Infinity,\n");
}

#[test]
fn batches_from_outside_are_fitted() {
    let schema = table(&[
        ("n", ColumnType::Int32, false),
        ("f", ColumnType::Float64, true),
        ("d", ColumnType::Decimal { precision: 5, scale: 2 }, true),
        ("day", ColumnType::Date, true),
        ("at", ColumnType::TimestampTz, true),
        ("s", ColumnType::String, true),
        ("b", ColumnType::Binary, true),
        ("absent", ColumnType::Boolean, true),
    ]);
    let decimal: ArrayRef = Arc::new(
        Decimal256Array::from(vec![i256::from_i128(15_000), i256::ZERO]).with_data_type(DataType::Decimal256(76, 4)),
    );
    let dictionary: DictionaryArray<Int32Type> = [Some("x"), None].into_iter().collect();
    let batch = batch_of(vec![
        ("s", Arc::new(dictionary)),
        ("n", Arc::new(UInt64Array::from(vec![1, 2147483647]))),
        ("f", Arc::new(Int64Array::from(vec![Some(1 << 53), None]))),
        ("d", decimal),
        ("day", Arc::new(Date64Array::from(vec![86_400_000, -86_400_000]))),
        ("at", Arc::new(TimestampNanosecondArray::from(vec![1_000, -1_000]).with_timezone("+02:00"))),
        ("b", Arc::new(FixedSizeBinaryArray::from(vec![b"ab", b"cd"]))),
    ]);
    let fitted = conform(&schema, &batch).unwrap();
    assert_eq!(fitted.schema(), schema.arrow());
    assert_eq!(
        to_arrays(&fitted),
        [
            r#"[1,9007199254740992.0,"1.50","1970-01-02","1970-01-01T00:00:00.000001Z","x","YWI=",null]"#,
            r#"[2147483647,null,"0.00","1969-12-31","1969-12-31T23:59:59.999999Z",null,"Y2Q=",null]"#
        ]
    );
    assert_eq!(to_arrays(&conform(&schema, &batch.slice(1, 1)).unwrap()), to_arrays(&fitted)[1..]);
    let none = conform(&schema, &batch_of(vec![("f", new_null_array(&DataType::Null, 0))])).unwrap();
    assert_eq!(none.num_rows(), 0);
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let decimal = |values: Vec<i128>, precision, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_data_type(DataType::Decimal128(precision, scale)))
    };
    let runs = Int32RunArray::try_new(&Int32Array::from(vec![1, 2]), &Int64Array::from(vec![0, 300])).unwrap();
    let price = ColumnType::Decimal { precision: 5, scale: 2 };
    let cases: Vec<(ColumnType, ArrayRef, Option<u64>, Option<&str>)> = vec![
        (ColumnType::Int8, Arc::new(Int64Array::from(vec![127, 128])), Some(1), Some("128")),
        (ColumnType::Int8, Arc::new(runs), Some(1), Some("300")),
        (ColumnType::Int64, Arc::new(UInt64Array::from(vec![u64::MAX])), Some(0), Some("18446744073709551615")),
        (ColumnType::Int64, Arc::new(Float64Array::from(vec![1.0])), None, None),
        (ColumnType::Int64, decimal(vec![1], 5, 0), None, None),
        (ColumnType::Float32, Arc::new(Float64Array::from(vec![0.5, f64::NAN, 0.1])), Some(2), Some("0.1")),
        (ColumnType::Float32, Arc::new(Int32Array::from(vec![16_777_216, 16_777_217])), Some(1), Some("16777217")),
        (ColumnType::Float64, Arc::new(Int64Array::from(vec![i64::MAX])), Some(0), Some("9223372036854775807")),
        (price.clone(), decimal(vec![99_999, 100_000], 5, 2), Some(1), Some("1000.00")),
        (price.clone(), decimal(vec![1_500, 1_501], 10, 4), Some(1), Some("0.1501")),
        (price.clone(), Arc::new(Int32Array::from(vec![999, 1_000])), Some(1), Some("1000")),
        (price.clone(), Arc::new(Float64Array::from(vec![1.5])), None, None),
        (
            price.clone(),
            decimal(vec![i128::MIN], 38, -20),
            Some(0),
            Some("-17014118346046923173168730371588410572800000000000000000000"),
        ),
        (ColumnType::Date, Arc::new(Date64Array::from(vec![0, 1])), Some(1), Some("1970-01-01")),
        (ColumnType::Date, Arc::new(StringArray::from(vec!["2026-11-23"])), None, None),
        // Years that Arrow has and our texts have not: what was taken could not be read back.
        (ColumnType::Date, Arc::new(Date32Array::from(vec![0, -268_435_456])), Some(1), Some("-732982-09-08")),
        (
            ColumnType::Date,
            Arc::new(Date64Array::from(vec![i64::MAX / 86_400_000 * 86_400_000])),
            Some(0),
            Some("+292278994-08-17"),
        ),
        (
            ColumnType::Timestamp,
            Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN])),
            Some(0),
            Some("-290308-12-21T19:59:05.224192"),
        ),
        (
            ColumnType::Timestamp,
            Arc::new(TimestampNanosecondArray::from(vec![1_000, 1_001])),
            Some(1),
            Some("1970-01-01T00:00:00.000001001"),
        ),
        (
            ColumnType::Timestamp,
            Arc::new(TimestampSecondArray::from(vec![i64::MAX])),
            Some(0),
            Some("+292277026596-12-04T15:30:07"),
        ),
        (ColumnType::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC")), None, None),
        (ColumnType::TimestampTz, Arc::new(TimestampMicrosecondArray::from(vec![0])), None, None),
        (ColumnType::TimestampTz, Arc::new(Int64Array::from(vec![0])), None, None),
        (ColumnType::String, Arc::new(BinaryArray::from(vec![&b"a"[..]])), None, None),
        (ColumnType::Binary, Arc::new(StringArray::from(vec!["a"])), None, None),
        (ColumnType::Boolean, Arc::new(Int8Array::from(vec![1])), None, None),
        (ColumnType::String, Arc::new(LargeStringArray::from(vec![Some("a"), None])), Some(1), Some("null")),
    ];
    for (column_type, array, row, value) in cases {
        let schema = table(&[("c", column_type.clone(), false)]);
        let came = array.data_type().clone();
        let error = conform(&schema, &batch_of(vec![("c", array)])).unwrap_err();
        assert_eq!(facts(&error), (Code::InvalidRow, row, Some("c"), value), "{came} to {column_type}");
    }
    let ones = || -> ArrayRef { Arc::new(Int64Array::from(vec![1])) };
    let unknown = conform(&orders(), &batch_of(vec![("id", ones()), ("x", ones())])).unwrap_err();
    assert_eq!(facts(&unknown), (Code::UnknownColumn, None, Some("x"), None));
    let doubled = conform(&orders(), &batch_of(vec![("id", ones()), ("id", ones())])).unwrap_err();
    assert_eq!(facts(&doubled), (Code::InvalidRow, None, Some("id"), None));
    let missing = conform(&orders(), &batch_of(vec![("note", Arc::new(StringArray::from(vec!["a"])))])).unwrap_err();
    assert_eq!(facts(&missing), (Code::InvalidRow, Some(0), Some("id"), Some("null")));
}

/// A dictionary says one long text many times in few bytes.
#[test]
fn unfolding_is_bounded() {
    let long = "x".repeat(1 << 20);
    let dictionary = DictionaryArray::<Int32Type>::try_new(
        Int32Array::from(vec![0; 300]),
        Arc::new(StringArray::from(vec![long.as_str()])),
    );
    let batch =
        batch_of(vec![("id", Arc::new(Int64Array::from(vec![1; 300]))), ("note", Arc::new(dictionary.unwrap()))]);
    let error = conform(&orders(), &batch).unwrap_err();
    assert_eq!(facts(&error), (Code::RequestTooLarge, None, Some("note"), None));
}
