//! Lower and upper bounds of a column in a file, as Iceberg keeps them.
//!
//! Always: a lower bound is not above, and an upper bound not below, any value that is neither null nor NaN. Texts and
//! bytes are cut to 16 characters or bytes: a cut lower bound is a prefix, a cut upper bound has its last character that
//! can grow raised by one, and where none can there is no upper bound. Where the writer's statistics do not say, as of
//! floats with NaN, there is no bound at all: a missing bound costs a read, a wrong one costs rows.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use iceberg::spec::{Datum, PrimitiveLiteral, PrimitiveType};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use thermocline_engine::faults::{self, Defect};

/// Iceberg's default for metrics: `truncate(16)`.
const CUT: usize = 16;

/// What the row groups of a file say of one column. `None` in a bound: not known.
#[derive(Debug, Default)]
pub(super) struct ColumnBounds {
    pub(super) lower: Option<Datum>,
    pub(super) upper: Option<Datum>,
    pub(super) nulls: u64,
}

/// Bounds of column `place` over all row groups. `None` if a row group does not count its nulls.
pub(super) fn column_bounds(
    row_groups: &[RowGroupMetaData],
    place: usize,
    field_type: &PrimitiveType,
) -> Option<ColumnBounds> {
    let mut bounds = ColumnBounds::default();
    let mut known = true;
    for row_group in row_groups {
        let column = row_group.column(place);
        let statistics = column.statistics()?;
        let nulls = statistics.null_count_opt()?;
        bounds.nulls += nulls;
        match extremes(statistics, field_type) {
            Some((lower, upper)) => {
                bounds.lower = lesser(bounds.lower.take(), lower);
                bounds.upper = greater(bounds.upper.take(), upper);
            }
            // Nothing but nulls has no extremes.
            None if nulls == column.num_values().unsigned_abs() => {}
            None => known = false,
        }
    }
    if !known {
        (bounds.lower, bounds.upper) = (None, None);
    }
    bounds.lower = bounds.lower.map(cut_lower);
    bounds.upper = bounds.upper.and_then(cut_upper);
    Some(bounds)
}

fn extremes(statistics: &Statistics, field_type: &PrimitiveType) -> Option<(Datum, Datum)> {
    let (lowest, highest) = (statistics.min_bytes_opt()?, statistics.max_bytes_opt()?);
    Some((datum(statistics, lowest, field_type)?, datum(statistics, highest, field_type)?))
}

/// A Parquet statistic as an Iceberg value. They share their bytes, but for decimals that Parquet keeps as integers.
fn datum(statistics: &Statistics, bytes: &[u8], field_type: &PrimitiveType) -> Option<Datum> {
    let swapped: Vec<u8>;
    let bytes = match (field_type, statistics) {
        (PrimitiveType::Decimal { .. }, Statistics::Int32(_) | Statistics::Int64(_)) => {
            swapped = bytes.iter().rev().copied().collect();
            &swapped
        }
        _ => bytes,
    };
    Datum::try_from_bytes(bytes, field_type.clone()).ok()
}

fn lesser(known: Option<Datum>, new: Datum) -> Option<Datum> {
    Some(match known {
        Some(known) if known <= new => known,
        _ => new,
    })
}

fn greater(known: Option<Datum>, new: Datum) -> Option<Datum> {
    Some(match known {
        Some(known) if known >= new => known,
        _ => new,
    })
}

fn cut_lower(bound: Datum) -> Datum {
    match bound.literal() {
        PrimitiveLiteral::String(text) => Datum::string(text.chars().take(CUT).collect::<String>()),
        PrimitiveLiteral::Binary(bytes) => Datum::binary(bytes.iter().take(CUT).copied()),
        _ => bound,
    }
}

fn cut_upper(bound: Datum) -> Option<Datum> {
    match bound.literal() {
        PrimitiveLiteral::String(text) if text.chars().count() > CUT => {
            let mut cut: Vec<char> = text.chars().take(CUT).collect();
            if faults::planted(Defect::CutBoundNotRaised) {
                return Some(Datum::string(cut.into_iter().collect::<String>()));
            }
            while let Some(last) = cut.pop() {
                if let Some(raised) = next_char(last) {
                    cut.push(raised);
                    return Some(Datum::string(cut.into_iter().collect::<String>()));
                }
            }
            None
        }
        PrimitiveLiteral::Binary(bytes) if bytes.len() > CUT => {
            let mut cut = bytes[..CUT].to_vec();
            while let Some(last) = cut.pop() {
                if last < u8::MAX {
                    cut.push(last + 1);
                    return Some(Datum::binary(cut));
                }
            }
            None
        }
        _ => Some(bound),
    }
}

/// The next character in the order of code points, which is the order of UTF-8. Surrogates are no characters.
fn next_char(character: char) -> Option<char> {
    match character {
        '\u{d7ff}' => Some('\u{e000}'),
        other => char::from_u32(other as u32 + 1),
    }
}

/// A bound as an Arrow array of one value, in the type that lake files have; none for types that ours have not.
pub(super) fn bound_array(bound: &Datum) -> Option<ArrayRef> {
    Some(match (bound.literal(), bound.data_type()) {
        (PrimitiveLiteral::Boolean(value), _) => Arc::new(BooleanArray::from(vec![*value])),
        (PrimitiveLiteral::Int(days), PrimitiveType::Date) => Arc::new(Date32Array::from(vec![*days])),
        (PrimitiveLiteral::Int(value), _) => Arc::new(Int32Array::from(vec![*value])),
        (PrimitiveLiteral::Long(value), PrimitiveType::Long) => Arc::new(Int64Array::from(vec![*value])),
        (PrimitiveLiteral::Long(value), PrimitiveType::Timestamp) => {
            Arc::new(TimestampMicrosecondArray::from(vec![*value]))
        }
        (PrimitiveLiteral::Long(value), PrimitiveType::Timestamptz) => {
            Arc::new(TimestampMicrosecondArray::from(vec![*value]).with_timezone("UTC"))
        }
        (PrimitiveLiteral::Long(value), PrimitiveType::Time) => Arc::new(Time64MicrosecondArray::from(vec![*value])),
        (PrimitiveLiteral::Long(value), PrimitiveType::TimestampNs) => {
            Arc::new(TimestampNanosecondArray::from(vec![*value]))
        }
        (PrimitiveLiteral::Long(value), PrimitiveType::TimestamptzNs) => {
            Arc::new(TimestampNanosecondArray::from(vec![*value]).with_timezone("UTC"))
        }
        (PrimitiveLiteral::Float(value), _) => Arc::new(Float32Array::from(vec![value.0])),
        (PrimitiveLiteral::Double(value), _) => Arc::new(Float64Array::from(vec![value.0])),
        (PrimitiveLiteral::String(value), _) => Arc::new(StringArray::from(vec![value.as_str()])),
        // Those of fixed length may be cut.
        (PrimitiveLiteral::Binary(value), PrimitiveType::Binary) => Arc::new(BinaryArray::from_vec(vec![value])),
        (PrimitiveLiteral::Int128(value), PrimitiveType::Decimal { precision, scale }) => {
            let array = Decimal128Array::from(vec![*value]);
            Arc::new(array.with_precision_and_scale(*precision as u8, *scale as i8).ok()?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_bounds_still_hold_what_they_bound() {
        let long = "abcdefghijklmnopqrstuvwxyz";
        assert_eq!(cut_lower(Datum::string(long)), Datum::string("abcdefghijklmnop"));
        assert_eq!(cut_upper(Datum::string(long)), Some(Datum::string("abcdefghijklmnoq")));
        assert_eq!(cut_upper(Datum::string("short")), Some(Datum::string("short")));
        // Sixteen characters, not bytes; the last that can grow does, across the gap of the surrogates.
        let umlauts = "ä".repeat(17);
        assert_eq!(cut_upper(Datum::string(&umlauts)), Some(Datum::string(format!("{}å", "ä".repeat(15)))));
        let gap = format!("{}\u{d7ff}xx", "a".repeat(15));
        assert_eq!(cut_upper(Datum::string(&gap)), Some(Datum::string(format!("{}\u{e000}", "a".repeat(15)))));
        let tops = format!("a{}", char::MAX.to_string().repeat(20));
        assert_eq!(cut_upper(Datum::string(&tops)), Some(Datum::string("b")));
        assert_eq!(cut_upper(Datum::string(char::MAX.to_string().repeat(17))), None);
        assert_eq!(
            cut_upper(Datum::binary(vec![1, 255].into_iter().chain(vec![255; 20]))),
            Some(Datum::binary(vec![2]))
        );
        assert_eq!(cut_upper(Datum::binary(vec![255; 17])), None);
    }
}
