//! The leaves of a data file's columns: what Parquet keeps a column chunk for, and Iceberg metrics.
//!
//! Always: leaves stand in the order of Parquet's column chunks, which is depth first. A column that does not nest is its
//! own leaf.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, SchemaRef};
use thermocline_schemas::{Error, FieldId, Result};

use super::read::field_id;

/// A field that holds values and no other fields.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) id: FieldId,
    pub(super) field: FieldRef,
    /// Whether it stands inside a list or a map: then a row has many of its values, and bounds of them say nothing of rows.
    pub(super) is_repeated: bool,
}

/// Those of all columns.
pub(super) fn leaves(schema: &SchemaRef) -> Result<Vec<Leaf>> {
    let mut found = Vec::new();
    schema.fields().iter().try_for_each(|field| add(field, false, &mut found))?;
    Ok(found)
}

fn add(field: &FieldRef, is_repeated: bool, found: &mut Vec<Leaf>) -> Result<()> {
    match field.data_type() {
        DataType::List(item) => add(item, true, found),
        DataType::Map(entries, _) => {
            let DataType::Struct(sides) = entries.data_type() else { return Err(no_id(entries)) };
            sides.iter().try_for_each(|side| add(side, true, found))
        }
        DataType::Struct(fields) => fields.iter().try_for_each(|field| add(field, is_repeated, found)),
        _ => {
            let id = field_id(field).ok_or_else(|| no_id(field))?;
            found.push(Leaf { id, field: field.clone(), is_repeated });
            Ok(())
        }
    }
}

fn no_id(field: &Field) -> Error {
    Error::internal(format!("lake column {} has no field id", field.name()))
}

/// Hands on the values of each leaf of a column, in the leaves' order.
pub(super) fn for_each_leaf(column: &ArrayRef, see: &mut impl FnMut(&ArrayRef)) {
    let reached = |offsets: &[i32], items: &ArrayRef| {
        let (first, last) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
        items.slice(first, last - first)
    };
    match column.data_type() {
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            for_each_leaf(&reached(list.value_offsets(), list.values()), see);
        }
        DataType::Map(..) => {
            let map = column.as_map();
            for side in map.entries().columns() {
                for_each_leaf(&reached(map.value_offsets(), side), see);
            }
        }
        DataType::Struct(_) => column.as_struct().columns().iter().for_each(|column| for_each_leaf(column, see)),
        _ => see(column),
    }
}

/// How many NaNs there are; none if these are no floats.
pub(super) fn nan_count(values: &ArrayRef) -> Option<u64> {
    let count = match values.data_type() {
        DataType::Float32 => values.as_primitive::<Float32Type>().iter().flatten().filter(|x| x.is_nan()).count(),
        DataType::Float64 => values.as_primitive::<Float64Type>().iter().flatten().filter(|x| x.is_nan()).count(),
        _ => return None,
    };
    Some(count as u64)
}
