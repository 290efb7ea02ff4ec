//! One value of any Arrow type that is not nested, as bare text: what JSON quotes or not, and CSV takes as it is.
//!
//! Types that tables do not have but answers may: times of day, durations and intervals are ISO 8601 (`PT1.500000S`,
//! `P1Y2M3DT4H`), where each part has its own sign; zones other than UTC are brought to UTC; binary is base64.

use std::io::Write as _;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Field, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType,
    IntervalUnit, IntervalYearMonthType, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;

use super::values::{self, Fraction};
use crate::types::is_uuid;

/// How formats treat a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Null,
    /// Numbers and booleans, which JSON has itself.
    Bare,
    /// A number, or a name when it is not finite.
    Float,
    /// Any text at all, which may need escapes.
    Text,
    /// Text that never needs escapes.
    Plain,
    /// Bytes that are a UUID.
    Uuid,
    Nested,
    /// A type that has values of another: dictionaries and runs.
    Indirect,
    /// Newer than this file.
    Unknown,
}

pub(super) fn form(field: &Field) -> Form {
    if is_uuid(field) { Form::Uuid } else { form_of(field.data_type()) }
}

/// As [`form`], of values that have no field of their own.
pub(super) fn form_of(data_type: &DataType) -> Form {
    use DataType::*;
    match data_type {
        Null => Form::Null,
        Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => Form::Bare,
        Float16 | Float32 | Float64 => Form::Float,
        Utf8 | LargeUtf8 | Utf8View => Form::Text,
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) | Date32 | Date64 | Timestamp(..) | Time32(_)
        | Time64(_) | Duration(_) | Interval(_) | Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) => {
            Form::Plain
        }
        List(_) | LargeList(_) | FixedSizeList(..) | ListView(_) | LargeListView(_) | Struct(_) | Map(..)
        | Union(..) => Form::Nested,
        Dictionary(..) | RunEndEncoded(..) => Form::Indirect,
        #[allow(unreachable_patterns, reason = "arrow may add types")]
        _ => Form::Unknown,
    }
}

/// Where the value of a row of an indirect array is: the array of values, and the place in it.
pub(super) fn resolve(array: &dyn Array, row: usize) -> Option<(&dyn Array, usize)> {
    macro_rules! dictionary {
        ($key:ty) => {{
            let dictionary = array.as_dictionary::<$key>();
            Some((dictionary.values().as_ref(), dictionary.key(row)?))
        }};
    }
    macro_rules! runs {
        ($end:ty) => {{
            let runs = array.as_any().downcast_ref::<arrow::array::RunArray<$end>>()?;
            Some((runs.values().as_ref(), runs.get_physical_index(row)))
        }};
    }
    match array.data_type() {
        DataType::Dictionary(key, _) => match key.as_ref() {
            DataType::Int8 => dictionary!(Int8Type),
            DataType::Int16 => dictionary!(Int16Type),
            DataType::Int32 => dictionary!(Int32Type),
            DataType::Int64 => dictionary!(Int64Type),
            DataType::UInt8 => dictionary!(UInt8Type),
            DataType::UInt16 => dictionary!(UInt16Type),
            DataType::UInt32 => dictionary!(UInt32Type),
            DataType::UInt64 => dictionary!(UInt64Type),
            _ => None,
        },
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => runs!(Int16Type),
            DataType::Int32 => runs!(Int32Type),
            DataType::Int64 => runs!(Int64Type),
            _ => None,
        },
        _ => None,
    }
}

/// A value of [`Form::Text`]; other types have none.
pub(super) fn text(array: &dyn Array, row: usize) -> &str {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row),
        DataType::Utf8View => array.as_string_view().value(row),
        _ => "",
    }
}

/// Whether a value of [`Form::Float`] is a number.
pub(super) fn is_finite(array: &dyn Array, row: usize) -> bool {
    match array.data_type() {
        DataType::Float16 => at::<Float16Type>(array, row).is_finite(),
        DataType::Float32 => at::<Float32Type>(array, row).is_finite(),
        _ => at::<Float64Type>(array, row).is_finite(),
    }
}

/// Appends a value that is not null of [`Form::Uuid`].
pub(super) fn spell_uuid(array: &dyn Array, row: usize, out: &mut Vec<u8>) {
    values::write_uuid(array.as_fixed_size_binary().value(row), out);
}

/// A value that is not null of [`Form::Bare`], [`Form::Float`] or [`Form::Plain`].
pub(crate) fn spelled(array: &dyn Array, row: usize) -> String {
    let mut out = Vec::new();
    spell(array, row, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends a value that is not null of [`Form::Bare`], [`Form::Float`] or [`Form::Plain`].
pub(super) fn spell(array: &dyn Array, row: usize, out: &mut Vec<u8>) {
    macro_rules! integer {
        ($type:ty) => {
            drop(write!(out, "{}", at::<$type>(array, row)))
        };
    }
    macro_rules! decimal {
        ($type:ty, $scale:expr) => {
            values::write_decimal(at::<$type>(array, row), *$scale, out)
        };
    }
    match array.data_type() {
        DataType::Boolean => out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" }),
        DataType::Int8 => integer!(Int8Type),
        DataType::Int16 => integer!(Int16Type),
        DataType::Int32 => integer!(Int32Type),
        DataType::Int64 => integer!(Int64Type),
        DataType::UInt8 => integer!(UInt8Type),
        DataType::UInt16 => integer!(UInt16Type),
        DataType::UInt32 => integer!(UInt32Type),
        DataType::UInt64 => integer!(UInt64Type),
        DataType::Float16 => spell_f32(at::<Float16Type>(array, row).to_f32(), out),
        DataType::Float32 => spell_f32(at::<Float32Type>(array, row), out),
        DataType::Float64 => {
            let value = at::<Float64Type>(array, row);
            spell_float(value, value.is_finite(), value.is_nan(), value > 0.0, out);
        }
        DataType::Decimal32(_, scale) => decimal!(Decimal32Type, scale),
        DataType::Decimal64(_, scale) => decimal!(Decimal64Type, scale),
        DataType::Decimal128(_, scale) => decimal!(Decimal128Type, scale),
        DataType::Decimal256(_, scale) => decimal!(Decimal256Type, scale),
        DataType::Date32 => values::write_date(i64::from(at::<Date32Type>(array, row)), out),
        DataType::Date64 => values::write_date(at::<Date64Type>(array, row).div_euclid(86_400_000), out),
        DataType::Timestamp(unit, zone) => {
            let number = match unit {
                TimeUnit::Second => at::<TimestampSecondType>(array, row),
                TimeUnit::Millisecond => at::<TimestampMillisecondType>(array, row),
                TimeUnit::Microsecond => at::<TimestampMicrosecondType>(array, row),
                TimeUnit::Nanosecond => at::<TimestampNanosecondType>(array, row),
            };
            let (seconds, nanos) = split(number, unit);
            values::write_timestamp(seconds, nanos, fraction(unit), zone.is_some(), out);
        }
        DataType::Time32(unit) | DataType::Time64(unit) => {
            let number = match unit {
                TimeUnit::Second => i64::from(at::<Time32SecondType>(array, row)),
                TimeUnit::Millisecond => i64::from(at::<Time32MillisecondType>(array, row)),
                TimeUnit::Microsecond => at::<Time64MicrosecondType>(array, row),
                TimeUnit::Nanosecond => at::<Time64NanosecondType>(array, row),
            };
            let (seconds, nanos) = split(number, unit);
            values::write_time(seconds.rem_euclid(86_400), nanos, fraction(unit), out);
        }
        DataType::Duration(unit) => {
            let number = match unit {
                TimeUnit::Second => at::<DurationSecondType>(array, row),
                TimeUnit::Millisecond => at::<DurationMillisecondType>(array, row),
                TimeUnit::Microsecond => at::<DurationMicrosecondType>(array, row),
                TimeUnit::Nanosecond => at::<DurationNanosecondType>(array, row),
            };
            out.extend_from_slice(b"PT");
            spell_seconds(i128::from(number) * i128::from(nanos_of(unit)), fraction(unit), out);
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            spell_interval(at::<IntervalYearMonthType>(array, row), 0, 0, Fraction::Micros, out);
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = at::<IntervalDayTimeType>(array, row);
            let nanos = i64::from(value.milliseconds) * nanos_of(&TimeUnit::Millisecond);
            spell_interval(0, value.days, nanos, Fraction::Micros, out);
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = at::<IntervalMonthDayNanoType>(array, row);
            spell_interval(value.months, value.days, value.nanoseconds, Fraction::Nanos, out);
        }
        DataType::Binary => spell_binary(array.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => spell_binary(array.as_binary::<i64>().value(row), out),
        DataType::BinaryView => spell_binary(array.as_binary_view().value(row), out),
        DataType::FixedSizeBinary(_) => spell_binary(array.as_fixed_size_binary().value(row), out),
        _ => {}
    }
}

fn at<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

fn spell_f32(value: f32, out: &mut Vec<u8>) {
    spell_float(value, value.is_finite(), value.is_nan(), value > 0.0, out);
}

/// The shortest text that reads back as the same float, which is JSON too.
fn spell_float(value: impl serde::Serialize, finite: bool, nan: bool, positive: bool, out: &mut Vec<u8>) {
    match (finite, nan, positive) {
        // A finite float into memory: there is nothing to fail.
        (true, ..) => drop(serde_json::to_writer(out, &value)),
        (_, true, _) => out.extend_from_slice(b"NaN"),
        (_, _, true) => out.extend_from_slice(b"Infinity"),
        (_, _, false) => out.extend_from_slice(b"-Infinity"),
    }
}

fn spell_binary(bytes: &[u8], out: &mut Vec<u8>) {
    let _ = write!(out, "{}", Base64Display::new(bytes, &STANDARD));
}

fn nanos_of(unit: &TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

/// Whole seconds, rounded down, and nanoseconds.
fn split(number: i64, unit: &TimeUnit) -> (i64, u32) {
    let per_second = 1_000_000_000 / nanos_of(unit);
    (number.div_euclid(per_second), (number.rem_euclid(per_second) * nanos_of(unit)) as u32)
}

fn fraction(unit: &TimeUnit) -> Fraction {
    match unit {
        TimeUnit::Nanosecond => Fraction::Nanos,
        _ => Fraction::Micros,
    }
}

fn spell_seconds(nanos: i128, fraction: Fraction, out: &mut Vec<u8>) {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let _ = write!(out, "{sign}{}", nanos / 1_000_000_000);
    values::write_fraction((nanos % 1_000_000_000) as u32, fraction, out);
    out.push(b'S');
}

fn spell_interval(months: i32, days: i32, nanos: i64, fraction: Fraction, out: &mut Vec<u8>) {
    const NANOS_PER_MINUTE: i64 = 60_000_000_000;
    if (months, days, nanos) == (0, 0, 0) {
        return out.extend_from_slice(b"PT0S");
    }
    out.push(b'P');
    let part = |number: i64, letter: &str, out: &mut Vec<u8>| {
        if number != 0 {
            let _ = write!(out, "{number}{letter}");
        }
    };
    part(i64::from(months / 12), "Y", out);
    part(i64::from(months % 12), "M", out);
    part(i64::from(days), "D", out);
    if nanos != 0 {
        out.push(b'T');
        part(nanos / NANOS_PER_MINUTE / 60, "H", out);
        part(nanos / NANOS_PER_MINUTE % 60, "M", out);
        if nanos % NANOS_PER_MINUTE != 0 {
            spell_seconds(i128::from(nanos % NANOS_PER_MINUTE), fraction, out);
        }
    }
}
