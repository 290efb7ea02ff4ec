//! Arrays of nested types: in the columns of another version or another tier, and how much of memory they are.
//!
//! Always: what a list does not reach, before its first offset or behind its last, is neither copied nor counted; and
//! nothing at all is copied where types differ only in what they say of themselves. Where there is no struct its fields are
//! null, also those that are NOT NULL: a Parquet reader makes up values for these, and who asks for the field alone would
//! see them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, StructArray, make_array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::FormatOptions;

use crate::FIELD_ID_KEY;

/// The values in another type. Fields of structs are found by field id where both sides have them, else by name, and are
/// null where there is none. An error if a value does not fit.
pub fn fitted_values(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if values.data_type() == to && is_settled(values) {
        return Ok(values.clone());
    }
    match (values.data_type(), to) {
        (DataType::List(_), DataType::List(item)) => {
            let list = values.as_list::<i32>();
            let (offsets, reached) = reached(list.offsets(), list.values());
            let items = fitted_values(&reached, item.data_type())?;
            Ok(Arc::new(ListArray::try_new(item.clone(), offsets, items, list.nulls().cloned())?))
        }
        (DataType::Map(..), DataType::Map(entries, ordered)) => {
            let map = values.as_map();
            let all: ArrayRef = Arc::new(map.entries().clone());
            let (offsets, reached) = reached(map.offsets(), &all);
            let DataType::Struct(sides) = entries.data_type() else { return Err(no_entries(to)) };
            // The two sides are what they are by their place.
            let sides_here = reached.as_struct().columns().iter().zip(sides);
            let columns = sides_here.map(|(side, field)| fitted_values(side, field.data_type()));
            let made = StructArray::try_new(sides.clone(), columns.collect::<Result<_, _>>()?, None)?;
            Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, made, map.nulls().cloned(), *ordered)?))
        }
        (DataType::Struct(have), DataType::Struct(fields)) => {
            let values = values.as_struct();
            let column = |field: &Arc<Field>| match place_of(have, field) {
                Some(place) => fitted_values(&masked(values.column(place), values.nulls())?, field.data_type()),
                None => Ok(new_null_array(field.data_type(), values.len())),
            };
            let columns = fields.iter().map(column).collect::<Result<_, _>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), columns, values.nulls().cloned())?))
        }
        _ => {
            let exact = CastOptions { safe: false, format_options: FormatOptions::new() };
            cast_with_options(values, to, &exact)
        }
    }
}

/// Whether all fields are null wherever their struct is.
fn is_settled(values: &ArrayRef) -> bool {
    match values.data_type() {
        DataType::List(_) => is_settled(values.as_list::<i32>().values()),
        DataType::Map(..) => values.as_map().entries().columns().iter().all(is_settled),
        DataType::Struct(_) => {
            let values = values.as_struct();
            let is_null_with_it = |column: &ArrayRef| match (values.nulls(), column.nulls()) {
                (Some(nulls), Some(own)) => own.contains(nulls),
                (Some(nulls), None) => nulls.null_count() == 0,
                (None, _) => true,
            };
            values.columns().iter().all(|column| is_null_with_it(column) && is_settled(column))
        }
        _ => true,
    }
}

/// The values, and null wherever these nulls are.
pub(crate) fn masked(values: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<ArrayRef, ArrowError> {
    if nulls.is_none_or(|nulls| nulls.null_count() == 0) || *values.data_type() == DataType::Null {
        return Ok(values.clone());
    }
    let both = NullBuffer::union(nulls, values.nulls());
    Ok(make_array(values.to_data().into_builder().nulls(both).build()?))
}

fn no_entries(data_type: &DataType) -> ArrowError {
    ArrowError::InvalidArgumentError(format!("{data_type} has no entries"))
}

/// The same columns, any of which may be null, and what stands inside them too but for keys: rows of later versions may
/// lack it.
pub fn nullable_throughout(schema: &SchemaRef) -> SchemaRef {
    let field = |field: &Arc<Field>| {
        let nullable = field.as_ref().clone().with_nullable(true);
        nullable.with_data_type(nullable_type(field.data_type(), true))
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Columns as answers have them: what stands inside nested ones says nothing of field ids, and all but keys may be null.
pub fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return schema.clone();
    }
    let field = |field: &Arc<Field>| field.as_ref().clone().with_data_type(nullable_type(field.data_type(), false));
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// The rows in those columns.
pub fn plain_rows(rows: &RecordBatch) -> crate::Result<RecordBatch> {
    let schema = plain_schema(rows.schema_ref());
    if Arc::ptr_eq(&schema, rows.schema_ref()) {
        return Ok(rows.clone());
    }
    let columns = rows.columns().iter().zip(schema.fields());
    let columns =
        columns.map(|(column, field)| fitted_values(column, field.data_type())).collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// The type whose inside may be null, but for keys.
fn nullable_type(data_type: &DataType, keeps_ids: bool) -> DataType {
    let inner = |field: &Arc<Field>, nullable: bool| {
        let mut metadata = field.metadata().clone();
        if !keeps_ids {
            metadata.remove(FIELD_ID_KEY);
        }
        let field = field.as_ref().clone().with_data_type(nullable_type(field.data_type(), keeps_ids));
        Arc::new(field.with_nullable(nullable).with_metadata(metadata))
    };
    match data_type {
        DataType::List(item) => DataType::List(inner(item, true)),
        DataType::Map(entries, ordered) => {
            let sides: Fields = match entries.data_type() {
                DataType::Struct(sides) => {
                    sides.iter().enumerate().map(|(place, side)| inner(side, place > 0)).collect()
                }
                _ => return data_type.clone(),
            };
            let entries = entries.as_ref().clone().with_data_type(DataType::Struct(sides));
            DataType::Map(Arc::new(entries), *ordered)
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| inner(field, true)).collect()),
        other => other.clone(),
    }
}

/// Which of the fields it is.
fn place_of(fields: &Fields, wanted: &Field) -> Option<usize> {
    let id = |field: &Field| field.metadata().get(FIELD_ID_KEY).cloned();
    let wanted_id = id(wanted);
    fields.iter().position(|field| match (id(field), &wanted_id) {
        (Some(own), Some(wanted)) => own == *wanted,
        _ => field.name() == wanted.name(),
    })
}

/// The items that the offsets reach, and offsets from 0 on.
pub(crate) fn reached(offsets: &OffsetBuffer<i32>, items: &ArrayRef) -> (OffsetBuffer<i32>, ArrayRef) {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    if first == 0 && last as usize == items.len() {
        return (offsets.clone(), items.clone());
    }
    let lengths = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
    let from_zero = if first == 0 { offsets.clone() } else { OffsetBuffer::from_lengths(lengths) };
    (from_zero, items.slice(first as usize, (last - first) as usize))
}

/// How much memory an array's values take, buffers shared with others counted by the array's share.
pub fn slice_bytes(array: &dyn Array) -> usize {
    let nulls = if array.nulls().is_some() { array.len().div_ceil(8) } else { 0 };
    let list = |offsets: &OffsetBuffer<i32>, items: &ArrayRef| {
        let (first, last) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
        nulls + array.len() * size_of::<i32>() + slice_bytes(&items.slice(first, last - first))
    };
    match array.data_type() {
        DataType::List(_) => {
            let array = array.as_list::<i32>();
            list(array.offsets(), array.values())
        }
        DataType::Map(..) => {
            let array = array.as_map();
            let entries: ArrayRef = Arc::new(array.entries().clone());
            list(array.offsets(), &entries)
        }
        DataType::Struct(_) => {
            nulls + array.as_struct().columns().iter().map(|column| slice_bytes(column)).sum::<usize>()
        }
        _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnType, TableSchema};

    #[test]
    fn plain_columns_are_those_of_answers() {
        let structure = ColumnType::structure([
            ("u".to_owned(), ColumnType::Uuid, false),
            ("l".to_owned(), ColumnType::list(ColumnType::Int8, false).unwrap(), true),
        ]);
        let map = ColumnType::map(ColumnType::Uuid, structure.unwrap(), false).unwrap();
        let schema = TableSchema::new([("m".to_owned(), map.clone(), false)]).unwrap();
        assert_eq!(*plain_schema(&schema.arrow()).field(0).data_type(), map.arrow());
        assert_ne!(map.arrow(), map.log_arrow());
    }

    #[test]
    fn a_slice_is_as_large_as_what_it_reaches() {
        let lines: String = (0..1000).map(|row| format!("{{\"l\":[{row},1,2,3]}}\n")).collect();
        let list = ColumnType::list(ColumnType::Int64, true).unwrap();
        let schema = TableSchema::new([("l".to_owned(), list, true)]).unwrap();
        let options = crate::text::DecodeOptions::default();
        let rows =
            crate::text::decode_json(&schema, lines.as_bytes(), crate::text::JsonShape::Lines, &options).unwrap();
        assert_eq!(slice_bytes(rows.column(0)), 1000 * (4 + 4 * 8));
        assert_eq!(slice_bytes(&rows.column(0).slice(500, 10)), 10 * (4 + 4 * 8));
    }
}
