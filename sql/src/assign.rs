//! What SQL converts when a value is put into a column.
//!
//! | from | to | how |
//! |---|---|---|
//! | text | numbers, booleans, dates, times | parsed, exactly |
//! | decimals, integers | floats | the nearest float |
//! | floats | narrower floats | the nearest; a number never becomes infinite |
//! | floats | integers, decimals | integers exactly; decimals rounded to the scale |
//! | dates and times | each other | as CAST does; finer than microseconds is cut |
//! | anything but bytes | text | as CAST does |
//! | lists, maps, structs | each other | what stands inside them, by this table |
//!
//! Everything else, such as the ranges of integers and the digits of decimals, is left to
//! [`thermocline_schemas::text::conform`], which takes each value exactly or names it. So is the refusal of what is not
//! in the table.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::kernels::cmp::eq;
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use thermocline_schemas::text::conform;
use thermocline_schemas::{Code, Column, ColumnType, Error, NestedField, Result, TableSchema};

use crate::meaning::has_digit;
use crate::system::batch;

/// The values for a column, converted as above and taken exactly. Rows in errors count from the array's first.
pub(crate) fn fit_column(column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    let assigned = assign(column, array)?;
    // NOT NULL is checked with whole rows.
    let alone = TableSchema::new([(column.name.as_str().to_owned(), column.column_type.clone(), true)])?;
    let batch = batch(vec![(column.name.as_str(), true, assigned)])?;
    Ok(conform(&alone, &batch)?.column(0).clone())
}

fn assign(column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    if column.column_type.is_nested() {
        return assign_inside(column, array);
    }
    let target = column.column_type.arrow();
    let from = match array.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    };
    let is_text = matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_decimal = matches!(
        from,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..)
    );
    let is_moment = matches!(from, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..));
    let is_clock = matches!(from, DataType::Time32(_) | DataType::Time64(_));
    let is_number = from.is_integer() || from.is_floating() || is_decimal;
    use ColumnType as To;
    let by_cast = match column.column_type {
        To::String => is_number || is_moment || is_clock || from == DataType::Boolean,
        To::Binary | To::Fixed(_) | To::Uuid => false,
        // Wide enough for every digit, so that conform sees those that do not fit.
        To::Decimal { .. } if is_text => return decimals(column, array),
        _ if is_text => true,
        To::Float32 | To::Float64 => is_decimal || from.is_integer() || (from.is_floating() && from != target),
        To::Date | To::Timestamp | To::TimestampTz | To::TimestampNs | To::TimestampTzNs => is_moment && from != target,
        To::Time => matches!(from, DataType::Timestamp(..)) || is_clock && from != target,
        To::Decimal { .. } => from.is_floating(),
        To::Int8 | To::Int16 | To::Int32 | To::Int64 | To::UInt8 | To::UInt16 | To::UInt32
            if from.is_floating() || is_decimal =>
        {
            return whole_numbers(column, array);
        }
        _ => false,
    };
    if by_cast { converted(column, array, &target) } else { Ok(array.clone()) }
}

/// What stands inside lists, maps and structs is put into its field as into a column; what does not fit at all is left to
/// conform.
fn assign_inside(column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    let fields = column.column_type.inner();
    let side = |field: &NestedField, offsets: &[i32], items: &ArrayRef| {
        let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
        let reached = items.slice(first as usize, (last - first) as usize);
        assign(&column.inside(field), &reached).map_err(|error| match error.row() {
            Some(item) => {
                let item = item as i64 + i64::from(first);
                error.with_row(offsets.partition_point(|start| i64::from(*start) <= item).saturating_sub(1) as u64)
            }
            None => error,
        })
    };
    let from_zero =
        |offsets: &[i32]| OffsetBuffer::from_lengths(offsets.windows(2).map(|two| (two[1] - two[0]) as usize));
    Ok(match (array.data_type(), &column.column_type) {
        (DataType::List(item), ColumnType::List(element)) => {
            let list = array.as_list::<i32>();
            let items = side(element, list.value_offsets(), list.values())?;
            let item = item.as_ref().clone().with_data_type(items.data_type().clone()).with_nullable(true);
            Arc::new(ListArray::try_new(item.into(), from_zero(list.value_offsets()), items, list.nulls().cloned())?)
        }
        (DataType::Map(_, ordered), ColumnType::Map(_)) => {
            let map = array.as_map();
            let keys = side(&fields[0], map.value_offsets(), map.keys())?;
            let values = side(&fields[1], map.value_offsets(), map.values())?;
            let sides = [("key", keys, false), ("value", values, true)].map(|(name, values, nullable)| {
                (Arc::new(Field::new(name, values.data_type().clone(), nullable)), values)
            });
            let entries = StructArray::from(Vec::from(sides));
            let field = Field::new("entries", entries.data_type().clone(), false);
            let offsets = from_zero(map.value_offsets());
            Arc::new(MapArray::try_new(field.into(), offsets, entries, map.nulls().cloned(), *ordered)?)
        }
        (DataType::Struct(have), ColumnType::Struct(_)) => {
            let values = array.as_struct();
            let named = |name: &str| fields.iter().find(|field| field.name.as_str() == name);
            let is_unnamed = !have.iter().any(|field| named(field.name()).is_some()) && have.len() == fields.len();
            let made = have.iter().zip(values.columns()).enumerate().map(|(place, (field, values))| {
                let own = if is_unnamed { fields.get(place) } else { named(field.name()) };
                let made = match own {
                    Some(own) => assign(&column.inside(own), values)?,
                    None => values.clone(),
                };
                Ok((Arc::new(Field::new(field.name(), made.data_type().clone(), true)), made))
            });
            let (made, columns): (Vec<_>, Vec<_>) = made.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            Arc::new(StructArray::try_new(made.into(), columns, values.nulls().cloned())?)
        }
        _ => array.clone(),
    })
}

/// By Arrow's cast; a value that has none is refused by name.
fn converted(column: &Column, array: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let made = cast_with_options(array, target, &options).map_err(|error| {
        let message =
            format!("column {} is {} and does not take {}", column.name, column.column_type, array.data_type());
        Error::new(Code::InvalidRow, message).with_column(column.name.as_str()).with_source(error)
    })?;
    let lost = (0..array.len())
        .find(|row| !array.is_null(*row) && (made.is_null(*row) || became_infinite(array, &made, *row)));
    match lost {
        Some(row) => Err(refused(column, array, row)),
        None => Ok(made),
    }
}

/// Whether a number was too large for the float type that it became. Texts may say infinity; digits may not mean it.
fn became_infinite(from: &ArrayRef, to: &ArrayRef, row: usize) -> bool {
    let infinite = |array: &ArrayRef| match array.data_type() {
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).is_infinite(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).is_infinite(),
        DataType::Utf8 => array.as_string::<i32>().value(row).to_ascii_lowercase().contains("inf"),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).to_ascii_lowercase().contains("inf"),
        DataType::Utf8View => array.as_string_view().value(row).to_ascii_lowercase().contains("inf"),
        _ => false,
    };
    infinite(to) && !infinite(from)
}

/// Texts as decimals; Arrow takes one without a digit for 0.
fn decimals(column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    let texts = cast(array, &DataType::LargeUtf8)?;
    let texts = texts.as_string::<i64>();
    match (0..array.len()).find(|row| texts.is_valid(*row) && !has_digit(texts.value(*row))) {
        Some(row) => Err(refused(column, array, row)),
        None => converted(column, array, &DataType::Decimal256(76, 38)),
    }
}

/// Floats and decimals that are whole numbers, as integers.
fn whole_numbers(column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    let whole = converted(column, array, &DataType::Int64)?;
    let back = cast(&whole, array.data_type())?;
    let same = eq(&back, array)?;
    match (0..array.len()).find(|row| array.is_valid(*row) && !same.value(*row)) {
        Some(row) => Err(refused(column, array, row)),
        None => Ok(whole),
    }
}

fn refused(column: &Column, array: &ArrayRef, row: usize) -> Error {
    let options = FormatOptions::default();
    let value = ArrayFormatter::try_new(array, &options).map(|values| values.value(row).to_string());
    let message = format!("column {}: the value does not fit {}", column.name, column.column_type);
    let refused = Error::new(Code::InvalidRow, message).with_row(row as u64).with_column(column.name.as_str());
    match value {
        Ok(value) => refused.with_value(value),
        Err(_) => refused,
    }
}
