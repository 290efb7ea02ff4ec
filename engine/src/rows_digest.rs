//! A digest of rows by their values, to know a repeated request again.
//!
//! The same rows in the same order have the same digest, in whatever format they came: what lies in memory under a null,
//! behind the last bit of a bitmap or before an array's offset has no part in it. Nor has the version of the table's
//! columns in which they were sent: columns are taken by field id, as wide as their type can become; the default counts as
//! null, and a column without a value is left out, because rows that do not name it are the same rows. (A text that becomes
//! another number in a wider column is another value: `0.1` as REAL and as DOUBLE PRECISION.) Fields of structs are taken like
//! columns: by field id, and not at all where none has a value.

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch, Scalar, StructArray, UInt32Array, make_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{cast, nullif, take};
use arrow::datatypes::{DataType, Fields};
use sha2::{Digest as _, Sha256};
use thermocline_schemas::{Column, Error, FIELD_ID_KEY, Result, fixed_width};

use crate::faults::{self, Defect};
use crate::writers::Digest;

/// Of rows in these columns. `wanted`: what is wanted of each row, where that can differ.
pub fn rows_digest(rows: &RecordBatch, columns: &[Column], wanted: &[u8]) -> Result<Digest> {
    let mut hasher = Sha256::new();
    hasher.update(wanted);
    hasher.update((rows.num_rows() as u64).to_le_bytes());
    let mut by_id: Vec<_> = columns.iter().zip(rows.columns()).collect();
    by_id.sort_unstable_by_key(|(column, _)| column.id);
    for (column, values) in by_id {
        let said = said(column, values)?;
        if faults::planted(Defect::DigestOfVersion) || said.null_count() < said.len() {
            hasher.update(column.id.0.to_le_bytes());
            hash_column(&said, &mut hasher)?;
        }
    }
    let hash: [u8; 32] = hasher.finalize().into();
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash[..16]);
    Ok(digest)
}

/// The values, with null in the place of those that a row would have without naming the column.
fn said(column: &Column, values: &ArrayRef) -> Result<ArrayRef> {
    match column.default_value()? {
        None => Ok(values.clone()),
        Some(default) => Ok(nullif(values, &not_distinct(values, &Scalar::new(default))?)?),
    }
}

/// The values in the widest type that their column may ever have.
fn widest(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            cast(values, &DataType::Int64)?
        }
        DataType::Float32 => cast(values, &DataType::Float64)?,
        _ => values.clone(),
    })
}

fn hash_column(column: &ArrayRef, hasher: &mut Sha256) -> Result<()> {
    match column.data_type() {
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            hash_items(column, list.offsets(), &[list.values().clone()], hasher)
        }
        DataType::Map(..) => {
            let map = column.as_map();
            hash_items(column, map.offsets(), map.entries().columns(), hasher)
        }
        DataType::Struct(fields) => hash_struct(column.as_struct(), fields, hasher),
        _ => hash_flat(&widest(column)?.to_data(), hasher),
    }
}

/// Which rows have a value.
fn hash_nulls(nulls: Option<&NullBuffer>, rows: usize, hasher: &mut Sha256) {
    hasher.update([u8::from(nulls.is_some())]);
    if let Some(nulls) = nulls {
        hasher.update(bits(rows, |row| nulls.is_valid(row)));
    }
}

/// Lists, or maps with their two sides: how long each is, and what they reach.
fn hash_items(column: &ArrayRef, offsets: &OffsetBuffer<i32>, sides: &[ArrayRef], hasher: &mut Sha256) -> Result<()> {
    let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
    hash_nulls(nulls, column.len(), hasher);
    let rows = offsets.windows(2).enumerate().filter(|(row, _)| column.is_valid(*row));
    let ranges: Vec<_> = rows.map(|(_, pair)| pair[0] as u32..pair[1] as u32).collect();
    hasher.update(gathered(ranges.iter().map(|range| (range.len() as u32).to_le_bytes())));
    let reached: UInt32Array = ranges.into_iter().flatten().collect();
    for side in sides {
        let items = take(side, &reached, None)?;
        let has_some = items.null_count() < items.len() && !faults::planted(Defect::DigestWithoutItems);
        hasher.update([u8::from(has_some)]);
        if has_some {
            hash_column(&items, hasher)?;
        }
    }
    Ok(())
}

fn hash_struct(column: &StructArray, fields: &Fields, hasher: &mut Sha256) -> Result<()> {
    let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
    hash_nulls(nulls, column.len(), hasher);
    let id = |place: usize| {
        let id = fields[place].metadata().get(FIELD_ID_KEY).and_then(|id| id.parse::<i32>().ok());
        id.ok_or_else(|| Error::internal(format!("field {} has no field id", fields[place].name())))
    };
    let mut by_id = (0..fields.len()).map(|place| Ok((id(place)?, place))).collect::<Result<Vec<_>>>()?;
    by_id.sort_unstable();
    for (id, place) in by_id {
        let values = column.column(place).to_data();
        // What lies where there is no struct is no value.
        let there = NullBuffer::union(nulls, values.nulls());
        let values = make_array(values.into_builder().nulls(there).build()?);
        if values.null_count() < values.len() {
            hasher.update(id.to_le_bytes());
            hash_column(&values, hasher)?;
        }
    }
    // No field has this id: where the struct ends.
    hasher.update(0i32.to_le_bytes());
    Ok(())
}

fn hash_flat(column: &ArrayData, hasher: &mut Sha256) -> Result<()> {
    let (offset, rows) = (column.offset(), column.len());
    let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
    hash_nulls(nulls, rows, hasher);
    let valid = |row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row));
    let first = column.buffers().first().ok_or_else(|| Error::internal("a column without values"))?;
    match column.data_type() {
        DataType::Boolean => {
            let value = |row: usize| first[(offset + row) / 8] >> ((offset + row) % 8) & 1 == 1;
            hasher.update(bits(rows, |row| valid(row) && value(row)));
        }
        DataType::Utf8 | DataType::Binary => {
            let ends = &column.buffer::<i32>(0)[..=rows];
            let values = column.buffers()[1].as_slice();
            let range = |row: usize| ends[row] as usize..ends[row + 1] as usize;
            let there = || (0..rows).filter(|row| valid(*row)).map(range);
            hasher.update(gathered(there().map(|range| (range.len() as u32).to_le_bytes())));
            match nulls {
                None => hasher.update(&values[ends[0] as usize..ends[rows] as usize]),
                Some(_) => hasher.update(gathered(there().map(|range| &values[range]))),
            }
        }
        other => {
            let width =
                fixed_width(other).ok_or_else(|| Error::internal(format!("a {other} column reached the hot tier")))?;
            let values = &first[offset * width..(offset + rows) * width];
            match nulls {
                None => hasher.update(values),
                Some(_) => {
                    let there = values.chunks_exact(width).enumerate().filter(|(row, _)| valid(*row));
                    hasher.update(gathered(there.map(|(_, value)| value)));
                }
            }
        }
    }
    Ok(())
}

/// One update of a hash costs more than a value.
fn gathered(pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    pieces.for_each(|piece| bytes.extend_from_slice(piece.as_ref()));
    bytes
}

fn bits(rows: usize, bit: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut bytes = vec![0; rows.div_ceil(8)];
    (0..rows).filter(|row| bit(*row)).for_each(|row| bytes[row / 8] |= 1 << (row % 8));
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BinaryArray, BooleanArray, Decimal128Array, Int16Array, StringArray};
    use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};

    use thermocline_schemas::text::{DecodeOptions, JsonShape, decode_json};
    use thermocline_schemas::{Alteration, ColumnType, Properties, TableDescriptor, TableId, TableName, TableSchema};

    use super::*;

    fn digest(columns: &[ArrayRef]) -> Digest {
        let names = columns.iter().enumerate().map(|(place, column)| (place.to_string(), column.clone(), true));
        let rows = RecordBatch::try_from_iter_with_nullable(names).unwrap();
        let names = ["a", "b", "c", "d", "e"].into_iter().take(columns.len());
        // The digest goes by what the values are, and not by what the column says of them.
        let schema = TableSchema::new(names.map(|name| (name.to_owned(), ColumnType::Int16, true))).unwrap();
        rows_digest(&rows, schema.columns(), &[]).unwrap()
    }

    fn rows() -> Vec<ArrayRef> {
        vec![
            Arc::new(Int16Array::from(vec![Some(1), None, Some(3)])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(StringArray::from(vec![Some("a"), None, Some("bc")])),
            Arc::new(BinaryArray::from(vec![b"x".as_slice(), b"", b"yz"])),
            Arc::new(Decimal128Array::from(vec![1, 2, 3])),
        ]
    }

    #[test]
    fn what_is_no_value_has_no_part() {
        let nulls = || Some(NullBuffer::new(BooleanBuffer::new(vec![0b1111_1101].into(), 0, 3)));
        let others: Vec<ArrayRef> = vec![
            Arc::new(Int16Array::new(vec![1, 77, 3].into(), nulls())),
            Arc::new(BooleanArray::new(BooleanBuffer::new(vec![0b1010_1011].into(), 0, 3), nulls())),
            Arc::new(StringArray::new(
                OffsetBuffer::new(ScalarBuffer::from(vec![1, 2, 4, 6])),
                b"?a!!bc".to_vec().into(),
                nulls(),
            )),
            Arc::new(BinaryArray::from(vec![b"before".as_slice(), b"x", b"", b"yz"]).slice(1, 3)),
            Arc::new(Decimal128Array::from(vec![9, 1, 2, 3, 9]).slice(1, 3)),
        ];
        for (row, other) in rows().iter().zip(&others) {
            assert_eq!(row, other, "the same values");
            assert_eq!(digest(std::slice::from_ref(row)), digest(std::slice::from_ref(other)), "{}", row.data_type());
        }
        assert_eq!(digest(&rows()), digest(&others));
    }

    #[test]
    fn every_value_has_a_part() {
        let others: [ArrayRef; 8] = [
            Arc::new(Int16Array::from(vec![Some(1), None, Some(4)])),
            Arc::new(Int16Array::from(vec![Some(1), Some(0), Some(3)])),
            Arc::new(Int16Array::from(vec![None, Some(1), Some(3)])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(true)])),
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(false)])),
            Arc::new(StringArray::from(vec![Some("ab"), None, Some("c")])),
            Arc::new(StringArray::from(vec![Some("a"), Some(""), Some("bc")])),
            Arc::new(BinaryArray::from(vec![b"xy".as_slice(), b"", b"z"])),
        ];
        for other in others {
            let mut changed = rows();
            let place = changed.iter().position(|row| row.data_type() == other.data_type()).unwrap();
            changed[place] = other.clone();
            assert_ne!(digest(&changed), digest(&rows()), "{other:?}");
        }
    }

    fn nested(lines: &str, changes: &[Alteration]) -> Digest {
        let s = ColumnType::structure([
            ("a".to_owned(), ColumnType::Int16, true),
            ("l".to_owned(), ColumnType::list(ColumnType::Float32, true).unwrap(), true),
        ]);
        let m = ColumnType::map(ColumnType::String, ColumnType::Int32, true).unwrap();
        let columns = [("id", ColumnType::Int64), ("s", s.unwrap()), ("m", m)];
        let schema = TableSchema::new(columns.map(|(name, column_type)| (name.to_owned(), column_type, true))).unwrap();
        let name = TableName::parse("public", "t").unwrap();
        let table = TableDescriptor::new(TableId(1), name, schema, &[], Properties::default(), 0).unwrap();
        let table = table.altered(changes, true).unwrap();
        let rows = decode_json(&table.schema, lines.as_bytes(), JsonShape::Lines, &DecodeOptions::default()).unwrap();
        rows_digest(&rows, table.schema.columns(), &[]).unwrap()
    }

    #[test]
    fn what_stands_inside_lists_maps_and_structs_has_a_part() {
        let row = r#"{"id":1,"s":{"a":1,"l":[0.5,null]},"m":[["k",1],["l",null]]}"#;
        assert_eq!(nested(row, &[]), nested(row, &[]));
        let mut seen = std::collections::HashSet::from([nested(row, &[])]);
        for other in [
            r#"{"id":1,"s":{"a":1,"l":[0.5,0.5]},"m":[["k",1],["l",null]]}"#,
            r#"{"id":1,"s":{"a":1,"l":[0.5]},"m":[["k",1],["l",null]]}"#,
            r#"{"id":1,"s":{"a":1,"l":[null,0.5]},"m":[["k",1],["l",null]]}"#,
            r#"{"id":1,"s":{"a":1,"l":[]},"m":[["k",1],["l",null]]}"#,
            r#"{"id":1,"s":{"a":1,"l":null},"m":[["k",1],["l",null]]}"#,
            r#"{"id":1,"s":{"a":2,"l":[0.5,null]},"m":[["k",1],["l",null]]}"#,
            r#"{"id":1,"s":{"l":[0.5,null]},"m":[["k",1],["l",null]]}"#,
            r#"{"id":1,"s":{},"m":[["k",1],["l",null]]}"#,
            r#"{"id":1,"s":null,"m":[["k",1],["l",null]]}"#,
            r#"{"id":1,"s":{"a":1,"l":[0.5,null]},"m":[["k",1],["l",1]]}"#,
            r#"{"id":1,"s":{"a":1,"l":[0.5,null]},"m":[["l",1],["k",null]]}"#,
            r#"{"id":1,"s":{"a":1,"l":[0.5,null]},"m":[["k",1]]}"#,
            r#"{"id":1,"s":{"a":1,"l":[0.5,null]},"m":[]}"#,
            r#"{"id":1,"s":{"a":1,"l":[0.5,null]}}"#,
        ] {
            assert!(seen.insert(nested(other, &[])), "{other}");
        }
    }

    #[test]
    fn nested_rows_are_the_same_in_wider_columns() {
        let row = r#"{"id":1,"s":{"a":1,"l":[0.5,null]},"m":[["k",1]]}"#;
        let wide = ColumnType::structure([
            ("a".to_owned(), ColumnType::Int64, true),
            ("l".to_owned(), ColumnType::list(ColumnType::Float64, true).unwrap(), true),
        ]);
        let wider = Alteration::SetType { name: "s".to_owned(), column_type: wide.unwrap() };
        assert_eq!(nested(row, &[wider]), nested(row, &[]));
    }
}
