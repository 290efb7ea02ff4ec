//! Batches from outside, fitted to a table: an Arrow stream, a Parquet file, a query's answer.
//!
//! Always: the result has the table's Arrow schema and obeys NOT NULL; every value is the one that came in. A column
//! may come as a relative of its type (narrower or wider integers and decimals, large, view and dictionary forms, other
//! time units and zones) as long as each of its values fits exactly; the first that does not is named. Decimals are
//! also checked when the type is right, since Arrow does not hold them to their precision, and so are dates and times,
//! whose years reach further in Arrow than in text. Fields of structs are matched by name as columns are, and lists, maps
//! and structs are made anew where they hold more than their rows reach: nothing lies under a null.
//!
//! Not here: parsing text, and conversions that change what a value means, such as a date to a timestamp.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, FixedSizeBinaryArray, ListArray, MapArray,
    OffsetSizeTrait, PrimitiveArray, RecordBatch, StructArray, UInt64Array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Fields,
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type, i256,
};
use arrow::row::{RowConverter, SortField};

use super::nested_rows::unknown;
use super::scalars;
use super::{DECODED_BYTES_MAX, rows, values};
use crate::nested_arrays::masked;
use crate::table::Column;
use crate::types::UUID_BYTES;
use crate::{Code, ColumnType, Error, Result, TableSchema};

/// The batch with the table's columns, in their order and types.
///
/// Columns are matched by name. One that is absent has its default, or is null; one that the table does not have, or that is there twice,
/// is refused.
pub fn conform(schema: &TableSchema, batch: &RecordBatch) -> Result<RecordBatch> {
    let places: HashMap<_, _> =
        schema.columns().iter().enumerate().map(|(place, column)| (column.name.as_str(), place)).collect();
    let mut found = vec![None; schema.columns().len()];
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let place = *places.get(field.name().as_str()).ok_or_else(|| rows::unknown(field.name()))?;
        if found[place].replace(array).is_some() {
            return Err(rows::doubled(field.name()));
        }
    }
    let columns = schema.columns().iter().zip(found).map(|(column, array)| {
        let array = match array {
            Some(array) => convert(column, array)?,
            None => absent(column, batch.num_rows())?,
        };
        present(column, array)
    });
    Ok(RecordBatch::try_new(schema.arrow(), columns.collect::<Result<_>>()?)?)
}

/// The values, if none is null that must not be.
fn present(column: &Column, array: ArrayRef) -> Result<ArrayRef> {
    match first_null(&array) {
        Some(row) if !column.nullable => Err(rows::missing(column, row)),
        _ => Ok(array),
    }
}

/// A column that rows say nothing of.
fn absent(column: &Column, rows: usize) -> Result<ArrayRef> {
    match &column.default {
        None => Ok(new_null_array(&column.column_type.log_arrow(), rows)),
        Some(default) if default.len().saturating_mul(rows) > DECODED_BYTES_MAX => {
            let message = format!("the default of column {} comes to too much in {rows} rows", column.name.as_str());
            Err(rows::too_large(message).with_column(column.name.as_str()))
        }
        Some(default) => rows::default_values(&column.column_type, default, rows)
            .map_err(|reason| rows::refused(column, 0, default, &reason)),
    }
}

fn first_null(array: &ArrayRef) -> Option<usize> {
    (array.null_count() > 0).then(|| (0..array.len()).find(|row| array.is_null(*row)))?
}

fn convert(column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    use ColumnType as To;
    let target = column.column_type.log_arrow();
    /// From each integer type, through a function from `i128`.
    macro_rules! from_integers {
        ($to:ty, $value:expr) => {
            match array.data_type() {
                DataType::Int8 => exact::<Int8Type, $to>(column, array, |value| $value(i128::from(value))),
                DataType::Int16 => exact::<Int16Type, $to>(column, array, |value| $value(i128::from(value))),
                DataType::Int32 => exact::<Int32Type, $to>(column, array, |value| $value(i128::from(value))),
                DataType::Int64 => exact::<Int64Type, $to>(column, array, |value| $value(i128::from(value))),
                DataType::UInt8 => exact::<UInt8Type, $to>(column, array, |value| $value(i128::from(value))),
                DataType::UInt16 => exact::<UInt16Type, $to>(column, array, |value| $value(i128::from(value))),
                DataType::UInt32 => exact::<UInt32Type, $to>(column, array, |value| $value(i128::from(value))),
                _ => exact::<UInt64Type, $to>(column, array, |value| $value(i128::from(value))),
            }
        };
    }
    Ok(match (array.data_type(), &column.column_type) {
        (DataType::Null, _) => new_null_array(&target, array.len()),
        (
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::Map(..),
            To::List(_) | To::Map(_),
        ) => repeated(column, array)?,
        (DataType::Struct(fields), To::Struct(_)) => structs(column, array.as_struct(), fields)?,
        (DataType::Dictionary(..) | DataType::RunEndEncoded(..), _) => convert(column, &unfold(column, array)?)?,
        (from, &To::Decimal { precision, scale }) => {
            let fit = |value: i128, from_scale: i8| rescale(value, from_scale, scale, precision);
            let values = match *from {
                DataType::Decimal32(_, from) => {
                    exact::<Decimal32Type, Decimal128Type>(column, array, |value| fit(value.into(), from))?
                }
                DataType::Decimal64(_, from) => {
                    exact::<Decimal64Type, Decimal128Type>(column, array, |value| fit(value.into(), from))?
                }
                DataType::Decimal128(_, from) => {
                    exact::<Decimal128Type, Decimal128Type>(column, array, |value| fit(value, from))?
                }
                DataType::Decimal256(_, from) => exact::<Decimal256Type, Decimal128Type>(column, array, |value| {
                    let (value, from) = shorten(value, from, scale)?;
                    fit(value, from)
                })?,
                _ if from.is_integer() => from_integers!(Decimal128Type, |value| fit(value, 0))?,
                _ => return Err(mismatch(column, array)),
            };
            let values: Decimal128Array = values.with_data_type(target);
            Arc::new(values)
        }
        (DataType::Boolean, To::Boolean) => Arc::clone(array),
        (DataType::Date32, To::Date) => {
            let days = array.as_primitive::<Date32Type>();
            within(column, array, days, |day| values::has_date(day.into()))?;
            Arc::clone(array)
        }
        (from, To::Int8) if from.is_integer() => Arc::new(from_integers!(Int8Type, |value| i8::try_from(value).ok())?),
        (from, To::Int16) if from.is_integer() => {
            Arc::new(from_integers!(Int16Type, |value| i16::try_from(value).ok())?)
        }
        (from, To::Int32) if from.is_integer() => {
            Arc::new(from_integers!(Int32Type, |value| i32::try_from(value).ok())?)
        }
        (DataType::Int64, To::Int64) => Arc::clone(array),
        (from, To::Int64) if from.is_integer() => {
            Arc::new(from_integers!(Int64Type, |value| i64::try_from(value).ok())?)
        }
        (from, To::UInt8) if from.is_integer() => {
            Arc::new(from_integers!(UInt8Type, |value| u8::try_from(value).ok())?)
        }
        (from, To::UInt16) if from.is_integer() => {
            Arc::new(from_integers!(UInt16Type, |value| u16::try_from(value).ok())?)
        }
        (from, To::UInt32) if from.is_integer() => {
            Arc::new(from_integers!(UInt32Type, |value| u32::try_from(value).ok())?)
        }
        (DataType::Float32, To::Float32) | (DataType::Float64, To::Float64) => Arc::clone(array),
        (DataType::Float16, To::Float32) => {
            Arc::new(exact::<Float16Type, Float32Type>(column, array, |value| Some(value.to_f32()))?)
        }
        (DataType::Float16, To::Float64) => {
            Arc::new(exact::<Float16Type, Float64Type>(column, array, |value| Some(value.to_f64()))?)
        }
        (DataType::Float32, To::Float64) => {
            Arc::new(exact::<Float32Type, Float64Type>(column, array, |value| Some(value.into()))?)
        }
        (DataType::Float64, To::Float32) => Arc::new(exact::<Float64Type, Float32Type>(column, array, |value| {
            let narrow = value as f32;
            (f64::from(narrow) == value || value.is_nan()).then_some(narrow)
        })?),
        (from, To::Float32) if from.is_integer() => Arc::new(from_integers!(Float32Type, |value: i128| {
            let float = value as f32;
            (float as i128 == value).then_some(float)
        })?),
        (from, To::Float64) if from.is_integer() => Arc::new(from_integers!(Float64Type, |value: i128| {
            let float = value as f64;
            (float as i128 == value).then_some(float)
        })?),
        (DataType::Date64, To::Date) => Arc::new(exact::<Date64Type, Date32Type>(column, array, |milliseconds| {
            let day = (milliseconds % 86_400_000 == 0).then_some(milliseconds / 86_400_000)?;
            values::has_date(day).then(|| i32::try_from(day).ok())?
        })?),
        (DataType::Time32(unit) | DataType::Time64(unit), To::Time) => {
            let micros: PrimitiveArray<Time64MicrosecondType> = match unit {
                TimeUnit::Second => {
                    exact::<Time32SecondType, _>(column, array, |value| Some(i64::from(value) * 1_000_000))
                }
                TimeUnit::Millisecond => {
                    exact::<Time32MillisecondType, _>(column, array, |value| Some(i64::from(value) * 1_000))
                }
                TimeUnit::Microsecond => Ok(array.as_primitive().clone()),
                TimeUnit::Nanosecond => exact::<Time64NanosecondType, _>(column, array, |value| {
                    (value % 1_000 == 0).then_some(value / 1_000)
                }),
            }?;
            within(column, array, &micros, values::has_time)?;
            Arc::new(micros)
        }
        (DataType::Timestamp(unit, zone), To::TimestampNs | To::TimestampTzNs)
            if zone.is_some() == (column.column_type == To::TimestampTzNs) =>
        {
            let nanos: PrimitiveArray<TimestampNanosecondType> = match unit {
                TimeUnit::Second => {
                    exact::<TimestampSecondType, _>(column, array, |value| value.checked_mul(1_000_000_000))
                }
                TimeUnit::Millisecond => {
                    exact::<TimestampMillisecondType, _>(column, array, |value| value.checked_mul(1_000_000))
                }
                TimeUnit::Microsecond => {
                    exact::<TimestampMicrosecondType, _>(column, array, |value| value.checked_mul(1_000))
                }
                TimeUnit::Nanosecond => Ok(array.as_primitive().clone()),
            }?;
            Arc::new(nanos.with_data_type(target))
        }
        (DataType::Timestamp(unit, zone), To::Timestamp | To::TimestampTz)
            if zone.is_some() == (column.column_type == To::TimestampTz) =>
        {
            let micros: PrimitiveArray<TimestampMicrosecondType> = match unit {
                TimeUnit::Second => {
                    exact::<TimestampSecondType, _>(column, array, |value| value.checked_mul(1_000_000))
                }
                TimeUnit::Millisecond => {
                    exact::<TimestampMillisecondType, _>(column, array, |value| value.checked_mul(1_000))
                }
                TimeUnit::Microsecond => Ok(array.as_primitive().clone()),
                TimeUnit::Nanosecond => exact::<TimestampNanosecondType, _>(column, array, |value| {
                    (value % 1_000 == 0).then_some(value / 1_000)
                }),
            }?;
            within(column, array, &micros, values::has_timestamp)?;
            Arc::new(micros.with_data_type(target))
        }
        (DataType::Utf8, To::String) | (DataType::Binary, To::Binary) => Arc::clone(array),
        (DataType::FixedSizeBinary(from), To::Fixed(_) | To::Uuid) if DataType::FixedSizeBinary(*from) == target => {
            Arc::clone(array)
        }
        (DataType::Binary | DataType::LargeBinary | DataType::BinaryView, To::Fixed(_) | To::Uuid) => {
            of_one_length(column, array, &target)?
        }
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, To::Uuid) => uuids(column, array)?,
        (DataType::LargeUtf8 | DataType::Utf8View, To::String)
        | (DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_), To::Binary) => {
            let bytes = text_bytes(array);
            if bytes > DECODED_BYTES_MAX {
                let message = format!("column {} of one batch has {bytes} bytes", column.name.as_str());
                return Err(rows::too_large(message).with_column(column.name.as_str()));
            }
            cast(array, &target)?
        }
        _ => return Err(mismatch(column, array)),
    })
}

/// Where the items of each row are.
type Places<'a> = Box<dyn Fn(usize) -> Range<usize> + 'a>;

/// Lists and maps.
fn repeated(column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    let of_list = |items: &ArrayRef| vec![items.clone()];
    let (items, place): (Vec<ArrayRef>, Places<'_>) = match array.data_type() {
        DataType::List(_) => (of_list(array.as_list::<i32>().values()), place(array.as_list::<i32>().value_offsets())),
        DataType::LargeList(_) => {
            (of_list(array.as_list::<i64>().values()), place(array.as_list::<i64>().value_offsets()))
        }
        DataType::Map(..) => (array.as_map().entries().columns().to_vec(), place(array.as_map().value_offsets())),
        _ => {
            let list = array.as_fixed_size_list();
            let start = |row: usize| list.value_offset(row) as usize;
            (of_list(list.values()), Box::new(move |row| start(row)..start(row) + list.value_length() as usize))
        }
    };
    let fields = column.column_type.inner();
    if fields.len() != items.len() {
        return Err(mismatch(column, array));
    }
    // What lies under nulls is left out.
    let reached = || (0..array.len()).map(|row| if array.is_valid(row) { place(row) } else { 0..0 });
    let count: usize = reached().map(|place| place.len()).sum();
    let least: usize = fields.iter().map(|field| field.column_type.least_bytes()).sum();
    if count.saturating_mul(least) > DECODED_BYTES_MAX {
        let name = column.name.as_str();
        let message =
            format!("the {count} elements of column {name} in one batch take more than {DECODED_BYTES_MAX} bytes");
        return Err(rows::too_large(message).with_column(name));
    }
    let offsets = OffsetBuffer::<i32>::from_lengths(reached().map(|place| place.len()));
    let first = reached().find(|place| !place.is_empty()).map_or(0, |place| place.start);
    let mut some = reached().filter(|place| !place.is_empty());
    let is_dense = some.try_fold(first, |end, place| (place.start == end).then_some(place.end)).is_some();
    let picked = (!is_dense).then(|| reached().flatten().map(|item| item as u64).collect::<UInt64Array>());
    let mut made = Vec::with_capacity(items.len());
    for (field, items) in fields.iter().zip(items) {
        let items = match &picked {
            None => items.slice(first, count),
            Some(picked) => take(&items, picked, None)?,
        };
        let inner = column.inside(field);
        let items = convert(&inner, &items).and_then(|items| present(&inner, items));
        made.push(items.map_err(|error| in_parent(error, &offsets))?);
    }
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0).cloned();
    Ok(match column.column_type.log_arrow() {
        DataType::List(item) => Arc::new(ListArray::try_new(item, offsets, made.swap_remove(0), nulls)?),
        DataType::Map(entries, ordered) => {
            let DataType::Struct(sides) = entries.data_type() else { return Err(mismatch(column, array)) };
            check_keys(column, &made[0], &offsets)?;
            let made = StructArray::try_new(sides.clone(), made, None)?;
            Arc::new(MapArray::try_new(entries, offsets, made, nulls, ordered)?)
        }
        _ => return Err(mismatch(column, array)),
    })
}

fn place<O: OffsetSizeTrait>(offsets: &[O]) -> Places<'_> {
    Box::new(|row| offsets[row].as_usize()..offsets[row + 1].as_usize())
}

/// Structs, whose fields are matched by name; what is `c0`, `c1`, … and nothing else has no names and goes by place.
fn structs(column: &Column, array: &StructArray, fields: &Fields) -> Result<ArrayRef> {
    let own = column.column_type.inner();
    let is_unnamed = fields.len() == own.len()
        && fields.iter().enumerate().all(|(place, field)| *field.name() == format!("c{place}"))
        && !own.iter().any(|field| field.name.as_str() == "c0");
    let mut found = vec![None; own.len()];
    for (place, (field, values)) in fields.iter().zip(array.columns()).enumerate() {
        let place = match is_unnamed {
            true => place,
            false => own
                .iter()
                .position(|own| own.name.as_str() == field.name())
                .ok_or_else(|| unknown(column, 0, field.name()))?,
        };
        if found[place].replace(values).is_some() {
            return Err(rows::doubled(column.inside(&own[place]).name.as_str()));
        }
    }
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    let mut made = Vec::with_capacity(own.len());
    for (field, values) in own.iter().zip(found) {
        let inner = column.inside(field);
        let values = match values {
            Some(values) => convert(&inner, &inside(&inner, values, nulls)?)?,
            None => absent(&inner, array.len())?,
        };
        let is_missing = |row: &usize| values.is_null(*row) && array.is_valid(*row);
        if !inner.nullable
            && let Some(row) = (0..array.len()).find(is_missing)
        {
            return Err(rows::missing(&inner, row));
        }
        made.push(values);
    }
    let DataType::Struct(fields) = column.column_type.log_arrow() else {
        return Err(Error::internal("a struct without fields"));
    };
    Ok(Arc::new(StructArray::try_new(fields, made, nulls.cloned())?))
}

/// The values with nulls wherever there is no struct that they are in: what lies there is arbitrary.
fn inside(column: &Column, values: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Dictionary(..) | DataType::RunEndEncoded(..) => masked(&unfold(column, values)?, nulls)?,
        _ => masked(values, nulls)?,
    })
}

/// An error of an item, as one of the row whose items these are.
pub(super) fn in_parent(error: Error, offsets: &OffsetBuffer<i32>) -> Error {
    match error.row() {
        Some(item) => {
            let row = offsets.partition_point(|start| *start as u64 <= item).saturating_sub(1);
            error.with_row(row as u64)
        }
        None => error,
    }
}

/// Refuses the first map that has a key twice.
pub(super) fn check_keys(column: &Column, keys: &ArrayRef, offsets: &OffsetBuffer<i32>) -> Result<()> {
    if offsets.windows(2).all(|pair| pair[1] - pair[0] < 2) {
        return Ok(());
    }
    let converter = RowConverter::new(vec![SortField::new(keys.data_type().clone())])?;
    let encoded = converter.convert_columns(std::slice::from_ref(keys))?;
    let mut seen = HashSet::new();
    for (row, pair) in offsets.windows(2).enumerate() {
        seen.clear();
        for entry in pair[0] as usize..pair[1] as usize {
            if !seen.insert(encoded.row(entry)) {
                let name = column.name.as_str();
                return Err(Error::new(Code::InvalidRow, format!("column {name} has a map with one key twice"))
                    .with_row(row as u64)
                    .with_column(name)
                    .with_value(spelled(keys, entry)));
            }
        }
    }
    Ok(())
}

/// Bytes as a type that holds so many of them, if each value has as many.
fn of_one_length(column: &Column, array: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    let bytes = cast(array, &DataType::BinaryView)?;
    let values = bytes.as_binary_view();
    let DataType::FixedSizeBinary(length) = target else { return Err(mismatch(column, array)) };
    match values.iter().position(|value| value.is_some_and(|value| value.len() != *length as usize)) {
        Some(row) => Err(rows::refused(column, row, &spelled(array, row), &format!("has not {length} bytes"))),
        None => Ok(Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.iter(), *length)?)),
    }
}

fn uuids(column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    let texts = cast(array, &DataType::Utf8View)?;
    let mut parsed = Vec::with_capacity(array.len());
    for (row, text) in texts.as_string_view().iter().enumerate() {
        let value = text.map(values::parse_uuid).transpose();
        parsed.push(value.map_err(|reason| rows::refused(column, row, text.unwrap_or_default(), &reason))?);
    }
    Ok(Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(parsed.into_iter(), UUID_BYTES)?))
}

/// Each value through `convert`; the first that has none is refused.
fn exact<From, To>(
    column: &Column,
    array: &ArrayRef,
    convert: impl Fn(From::Native) -> Option<To::Native>,
) -> Result<PrimitiveArray<To>>
where
    From: ArrowPrimitiveType,
    To: ArrowPrimitiveType,
{
    let source = array.as_primitive::<From>();
    let mut values = Vec::with_capacity(source.len());
    for (row, value) in source.values().iter().enumerate() {
        // What lies under a null is arbitrary.
        let value = if source.is_null(row) { Some(Default::default()) } else { convert(*value) };
        match value {
            Some(value) => values.push(value),
            None => return Err(rows::refused(column, row, &spelled(array, row), "does not fit")),
        }
    }
    Ok(PrimitiveArray::new(values.into(), source.nulls().cloned()))
}

/// Refuses the first value that is not one of those meant.
fn within<T: ArrowPrimitiveType>(
    column: &Column,
    array: &ArrayRef,
    converted: &PrimitiveArray<T>,
    meant: impl Fn(T::Native) -> bool,
) -> Result<()> {
    let outside = converted.iter().position(|value| value.is_some_and(|value| !meant(value)));
    outside.map_or(Ok(()), |row| Err(rows::refused(column, row, &spelled(array, row), "is out of range")))
}

/// A decimal in another scale, if that loses nothing and it has no more digits than the precision.
fn rescale(value: i128, from_scale: i8, scale: i8, precision: u8) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    let shift = i32::from(scale) - i32::from(from_scale);
    let power = 10i128.checked_pow(shift.unsigned_abs())?;
    let scaled = if shift >= 0 { value.checked_mul(power)? } else { (value % power == 0).then_some(value / power)? };
    (scaled.unsigned_abs() < 10u128.pow(u32::from(precision))).then_some(scaled)
}

/// A wide decimal without the digits that another scale does not have, if they are zeros and the rest fits.
fn shorten(value: i256, from_scale: i8, scale: i8) -> Option<(i128, i8)> {
    if from_scale <= scale || value == i256::ZERO {
        return Some((value.to_i128()?, from_scale));
    }
    let power = i256::from_i128(10).checked_pow(u32::from(from_scale.abs_diff(scale)))?;
    (value.checked_rem(power)? == i256::ZERO).then_some((value.checked_div(power)?.to_i128()?, scale))
}

/// Dictionaries and runs as plain arrays. Text becomes views first: those are small, while a dictionary may repeat one
/// long text more often than memory can hold.
fn unfold(column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    let plain = |values: &ArrayRef| match values.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => cast(values, &DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => cast(values, &DataType::BinaryView),
        _ => Ok(Arc::clone(values)),
    };
    let unfolded = match array.as_any_dictionary_opt() {
        Some(dictionary) => plain(dictionary.values()).and_then(|values| take(&values, dictionary.keys(), None)),
        None => {
            let places: Vec<_> = (0..array.len()).map(|row| scalars::resolve(array, row)).collect();
            let Some((values, _)) = places.first().copied().flatten() else {
                return Ok(new_null_array(&DataType::Null, array.len()));
            };
            let indices: PrimitiveArray<UInt64Type> =
                places.iter().map(|place| place.map(|(_, place)| place as u64)).collect();
            plain(&arrow::array::make_array(values.to_data())).and_then(|values| take(&values, &indices, None))
        }
    };
    unfolded.map_err(|error| mismatch(column, array).with_source(error))
}

fn text_bytes(array: &ArrayRef) -> usize {
    match array.data_type() {
        DataType::LargeUtf8 => array.as_string::<i64>().iter().flatten().map(str::len).sum(),
        DataType::Utf8View => array.as_string_view().iter().flatten().map(str::len).sum(),
        DataType::LargeBinary => array.as_binary::<i64>().iter().flatten().map(<[u8]>::len).sum(),
        DataType::BinaryView => array.as_binary_view().iter().flatten().map(<[u8]>::len).sum(),
        DataType::FixedSizeBinary(width) => array.len().saturating_mul(*width as usize),
        _ => 0,
    }
}

fn spelled(array: &ArrayRef, row: usize) -> String {
    let mut text = Vec::new();
    match scalars::form_of(array.data_type()) {
        scalars::Form::Text => text.extend_from_slice(scalars::text(array, row).as_bytes()),
        _ => scalars::spell(array, row, &mut text),
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cold]
fn mismatch(column: &Column, array: &ArrayRef) -> Error {
    let name = column.name.as_str();
    let message = format!("column {name} is {} and does not take {}", column.column_type, array.data_type());
    Error::new(Code::InvalidRow, message).with_column(name)
}
