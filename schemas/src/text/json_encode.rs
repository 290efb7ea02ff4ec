//! Answers as JSON, value by value, for every Arrow type a query may answer with.
//!
//! As in the table of [`crate::ColumnType`]; beyond it lists are arrays, structs objects, maps arrays of `[key,
//! value]`, a union is the value it has. What JSON has no number for is a string: decimals, and floats that are not
//! finite. 64-bit integers are plain numbers, also above 2^53.
//!
//! Not here: brackets around rows, line ends, and any knowledge of streams.

use arrow::array::{Array, AsArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::{DataType, Schema};

use super::scalars::{self, Form, form, form_of};
use crate::{Code, Error, Result};

/// Types nest no deeper than this, so that writing a value needs little stack.
const DEPTH_MAX: usize = 128;

/// Writes the rows of batches that have one schema.
pub struct JsonEncoder {
    /// Each column's `"name":`, and how its values are written.
    columns: Vec<(Vec<u8>, Form)>,
    doubled: Option<String>,
}

impl JsonEncoder {
    /// Refuses types that nobody can spell, before anything is written.
    pub fn new(schema: &Schema) -> Result<JsonEncoder> {
        for field in schema.fields() {
            check(field.data_type(), 0).map_err(|error| error.with_column(field.name()))?;
        }
        let mut names: Vec<_> = schema.fields().iter().map(|field| field.name()).collect();
        names.sort_unstable();
        let doubled = names.array_windows().find(|[left, right]| left == right).map(|[name, _]| (*name).clone());
        let columns = schema.fields().iter().map(|field| {
            let mut key = Vec::new();
            write_string(field.name(), &mut key);
            key.push(b':');
            (key, form(field))
        });
        Ok(JsonEncoder { columns: columns.collect(), doubled })
    }

    /// Whether rows can be objects: readers keep only one of two equal keys, so a doubled name is refused.
    pub fn check_objects(&self) -> Result<()> {
        match &self.doubled {
            None => Ok(()),
            Some(name) => Err(Error::new(Code::InvalidSql, format!("two columns of the answer have the name {name}"))
                .with_column(name.as_str())
                .with_hint("give one of them another name with AS")),
        }
    }

    /// One row as `{"name":value, …}`; see [`Self::check_objects`].
    pub fn write_object(&mut self, batch: &RecordBatch, row: usize, out: &mut Vec<u8>) -> Result<()> {
        self.check_objects()?;
        out.push(b'{');
        for (place, ((key, form), column)) in self.columns.iter().zip(batch.columns()).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            write_value(*form, column, row, out)?;
        }
        out.push(b'}');
        Ok(())
    }

    /// The values of one row as `[value, …]`.
    pub fn write_array(&mut self, batch: &RecordBatch, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let columns = self.columns.iter().zip(batch.columns());
        write_row(columns, b"[]", out, |((_, form), column), out| write_value(*form, column, row, out))
    }
}

fn check(data_type: &DataType, depth: usize) -> Result<()> {
    use DataType::*;
    if depth > DEPTH_MAX {
        return Err(Error::new(Code::InvalidType, format!("the type nests deeper than {DEPTH_MAX} levels")));
    }
    match data_type {
        List(item) | LargeList(item) | FixedSizeList(item, _) | ListView(item) | LargeListView(item) => {
            check(item.data_type(), depth + 1)
        }
        Map(entries, _) => check(entries.data_type(), depth + 1),
        Struct(fields) => fields.iter().try_for_each(|field| check(field.data_type(), depth + 1)),
        Union(fields, _) => fields.iter().try_for_each(|(_, field)| check(field.data_type(), depth + 1)),
        Dictionary(_, values) => check(values, depth + 1),
        RunEndEncoded(_, values) => check(values.data_type(), depth + 1),
        other if form_of(other) == Form::Unknown => Err(Error::not_built(format!("the type {other} in JSON"))),
        _ => Ok(()),
    }
}

fn write_value(form: Form, array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<()> {
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match form {
        Form::Null | Form::Unknown => out.extend_from_slice(b"null"),
        Form::Bare => scalars::spell(array, row, out),
        Form::Float if scalars::is_finite(array, row) => scalars::spell(array, row, out),
        Form::Float | Form::Plain => {
            out.push(b'"');
            scalars::spell(array, row, out);
            out.push(b'"');
        }
        Form::Uuid => {
            out.push(b'"');
            scalars::spell_uuid(array, row, out);
            out.push(b'"');
        }
        Form::Text => write_string(scalars::text(array, row), out),
        Form::Indirect => match scalars::resolve(array, row) {
            Some((values, place)) => write_value(form_of(values.data_type()), values, place, out)?,
            None => out.extend_from_slice(b"null"),
        },
        Form::Nested => write_nested(array, row, out)?,
    }
    Ok(())
}

fn write_nested(array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<()> {
    match array.data_type() {
        DataType::List(item) => write_list::<i32>(form(item), array, row, out),
        DataType::LargeList(item) => write_list::<i64>(form(item), array, row, out),
        DataType::ListView(item) => write_list_view::<i32>(form(item), array, row, out),
        DataType::LargeListView(item) => write_list_view::<i64>(form(item), array, row, out),
        DataType::FixedSizeList(item, _) => {
            let (form, list) = (form(item), array.as_fixed_size_list());
            let start = list.value_offset(row) as usize;
            let items = start..start + list.value_length() as usize;
            write_row(items, b"[]", out, |item, out| write_value(form, list.values(), item, out))
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            write_row(columns, b"{}", out, |(field, column), out| {
                write_string(field.name(), out);
                out.push(b':');
                write_value(form(field), column, row, out)
            })
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let fields = map.entries().fields();
            let sides = [(form(&fields[0]), map.keys()), (form(&fields[1]), map.values())];
            let [start, end] = [row, row + 1].map(|place| map.value_offsets()[place] as usize);
            write_row(start..end, b"[]", out, |entry, out| {
                write_row(sides, b"[]", out, |(form, side), out| write_value(form, side, entry, out))
            })
        }
        DataType::Union(..) => {
            let union = array.as_union();
            let value = union.child(union.type_id(row));
            write_value(form_of(value.data_type()), value, union.value_offset(row), out)
        }
        other => Err(Error::not_built(format!("the type {other} in JSON"))),
    }
}

fn write_list<O: OffsetSizeTrait>(form: Form, array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<()> {
    let list = array.as_list::<O>();
    let [start, end] = [row, row + 1].map(|place| list.value_offsets()[place].as_usize());
    write_row(start..end, b"[]", out, |item, out| write_value(form, list.values(), item, out))
}

fn write_list_view<O: OffsetSizeTrait>(form: Form, array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<()> {
    let list = array.as_list_view::<O>();
    let start = list.value_offsets()[row].as_usize();
    let end = start + list.value_sizes()[row].as_usize();
    write_row(start..end, b"[]", out, |item, out| write_value(form, list.values(), item, out))
}

/// Items between two brackets, with commas.
fn write_row<T>(
    items: impl IntoIterator<Item = T>,
    brackets: &[u8; 2],
    out: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    out.push(brackets[0]);
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(item, out)?;
    }
    out.push(brackets[1]);
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // A string into memory: there is nothing to fail.
    let _ = serde_json::to_writer(out, text);
}
