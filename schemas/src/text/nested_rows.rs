//! Lists, maps and structs from JSON, value by value: `[…]`, `[[key, value], …]` and `{…}`.
//!
//! Always: the text of an array or object is walked once for each level that its column's type nests, and a type nests
//! only so deep; what nests deeper is refused as a value. An error names the row, the path to the value (`s.a`,
//! `l.element`, `m.value`) and the value. What values inside others take in memory, also those that take many bytes and
//! are said in few, is counted before they are made.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, MapArray, NullBufferBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;
use serde::de::{Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::conform::{check_keys, in_parent};
use super::json_decode::{Raw, malformed, token, without_place};
use super::rows::{self, Builder, Token};
use super::{DECODED_BYTES_MAX, EpochUnit};
use crate::table::Column;
use crate::{Code, ColumnType, Error, Result};

/// Where a value stands, and what may still be made.
pub(super) struct Inside<'b> {
    pub(super) row: usize,
    pub(super) epoch: Option<EpochUnit>,
    pub(super) bytes_left: &'b mut usize,
}

/// The values of a nested column, or of a nested field inside one.
pub(super) struct Nested {
    column: Column,
    /// The element; key and value; or the fields.
    inner: Vec<Part>,
    /// Where the items of each list or map begin, and where the last ones end; nothing for structs.
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

struct Part {
    /// Its name is its path.
    column: Column,
    name: String,
    builder: Builder,
}

impl Nested {
    pub(super) fn new(column: &Column) -> Nested {
        let part = |field: &crate::NestedField| {
            let column = column.inside(field);
            Part { builder: Builder::new(&column), name: field.name.as_str().to_owned(), column }
        };
        Nested {
            inner: column.column_type.inner().iter().map(part).collect(),
            column: column.clone(),
            offsets: vec![0],
            nulls: NullBufferBuilder::new(0),
        }
    }

    fn items(&self) -> i32 {
        self.offsets.last().copied().unwrap_or(0)
    }

    pub(super) fn append_null(&mut self) {
        match self.column.column_type {
            // What is NOT NULL may be null where there is no struct that it could be in.
            ColumnType::Struct(_) => self.inner.iter_mut().for_each(|part| part.builder.append_null()),
            _ => self.offsets.push(self.items()),
        }
        self.nulls.append_null();
    }

    /// Appends a value that is not null.
    pub(super) fn append(&mut self, token: Token<'_>, inside: &mut Inside<'_>) -> Result<()> {
        let (first, wanted) = match self.column.column_type {
            ColumnType::Struct(_) => (b'{', "is not an object"),
            ColumnType::Map(_) => (b'[', "is not an array of [key, value]"),
            _ => (b'[', "is not an array"),
        };
        let raw = match token {
            Token::Nested(raw) if raw.as_bytes().first() == Some(&first) => raw,
            other => return Err(rows::refused(&self.column, inside.row, other.as_value(), wanted)),
        };
        let mut refusal = None;
        let mut deserializer = serde_json::Deserializer::from_str(raw);
        let row = inside.row;
        let parsed = match self.column.column_type {
            ColumnType::Struct(_) => {
                deserializer.deserialize_map(Fields { nested: self, inside, refusal: &mut refusal })
            }
            _ => deserializer.deserialize_seq(Items { nested: self, inside, refusal: &mut refusal }),
        };
        match (refusal, parsed) {
            (Some(refusal), _) => Err(refusal),
            (None, Err(error)) => Err(malformed(row, without_place(&error)).with_column(self.column.name.as_str())),
            (None, Ok(())) => {
                self.nulls.append_non_null();
                Ok(())
            }
        }
    }

    /// One item of a list, or one entry of a map.
    fn append_item(&mut self, raw: &RawValue, inside: &mut Inside<'_>) -> Result<()> {
        match &mut self.inner[..] {
            [element] => element.append(raw, inside),
            parts => {
                let whole = raw.get();
                let Ok(sides) = serde_json::from_str::<[&RawValue; 2]>(whole) else {
                    return Err(rows::refused(&self.column, inside.row, whole, "is not a pair [key, value]"));
                };
                parts.iter_mut().zip(sides).try_for_each(|(part, raw)| part.append(raw, inside))
            }
        }
    }

    /// Rows in an error count from the first value.
    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
        let nulls = self.nulls.finish();
        let offsets = OffsetBuffer::new(std::mem::take(&mut self.offsets).into());
        let is_struct = matches!(self.column.column_type, ColumnType::Struct(_));
        let mut columns = Vec::with_capacity(self.inner.len());
        for part in self.inner.drain(..) {
            let made = part.builder.finish();
            columns.push(if is_struct { made? } else { made.map_err(|error| in_parent(error, &offsets))? });
        }
        Ok(match self.column.column_type.log_arrow() {
            DataType::List(item) => match columns.pop() {
                Some(items) => Arc::new(ListArray::try_new(item, offsets, items, nulls)?),
                None => return Err(Error::internal("a list without elements")),
            },
            DataType::Map(entries, ordered) => {
                let DataType::Struct(sides) = entries.data_type() else {
                    return Err(Error::internal("a map without entries"));
                };
                check_keys(&self.column, &columns[0], &offsets)?;
                let made = StructArray::try_new(sides.clone(), columns, None)?;
                Arc::new(MapArray::try_new(entries, offsets, made, nulls, ordered)?)
            }
            DataType::Struct(fields) => Arc::new(StructArray::try_new(fields, columns, nulls)?),
            other => return Err(Error::internal(format!("{other} does not nest"))),
        })
    }
}

impl Part {
    fn append(&mut self, raw: &RawValue, inside: &mut Inside<'_>) -> Result<()> {
        let row = inside.row;
        let text;
        let token = match token(raw.get()) {
            Ok(Raw::Plain(token)) => token,
            Ok(Raw::Text(unescaped)) => {
                text = unescaped;
                Token::Text(&text)
            }
            Err(error) => return Err(malformed(row, error).with_column(self.column.name.as_str())),
        };
        match (token, &mut self.builder) {
            (Token::Null, _) => self.append_null(row),
            (token, Builder::Nested(nested)) => nested.append(token, inside),
            (token, builder) => builder
                .append(token, inside.epoch)
                .map_err(|reason| rows::refused(&self.column, row, token.as_value(), &reason)),
        }
    }

    fn append_null(&mut self, row: usize) -> Result<()> {
        if !self.column.nullable {
            return Err(rows::missing(&self.column, row));
        }
        self.builder.append_null();
        Ok(())
    }
}

/// The items of a list or a map.
struct Items<'n, 'b> {
    nested: &'n mut Nested,
    inside: &'n mut Inside<'b>,
    refusal: &'n mut Option<Error>,
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Items { nested, inside, refusal } = self;
        let least: usize = nested.inner.iter().map(|part| part.column.column_type.least_bytes()).sum();
        let mut end = nested.items();
        while let Some(raw) = items.next_element::<&RawValue>()? {
            let appended = take(inside, &nested.column, least).and_then(|()| nested.append_item(raw, inside));
            if let Err(error) = appended {
                return Err(stop(refusal, error));
            }
            // A body has at most as many items as bytes, which are fewer than 31 bits.
            end += 1;
        }
        nested.offsets.push(end);
        Ok(())
    }
}

/// The fields of a struct.
struct Fields<'n, 'b> {
    nested: &'n mut Nested,
    inside: &'n mut Inside<'b>,
    refusal: &'n mut Option<Error>,
}

impl<'de> Visitor<'de> for Fields<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Fields { nested, inside, refusal } = self;
        let mut seen = vec![false; nested.inner.len()];
        let mut expected = 0;
        while let Some(key) = fields.next_key::<std::borrow::Cow<'de, str>>()? {
            let raw: &RawValue = fields.next_value()?;
            let is_next = nested.inner.get(expected).is_some_and(|part| part.name == key);
            let place = if is_next { Some(expected) } else { nested.inner.iter().position(|part| part.name == key) };
            let appended = match place {
                None => Err(unknown(&nested.column, inside.row, &key)),
                Some(place) if seen[place] => {
                    Err(rows::doubled(nested.inner[place].column.name.as_str()).with_row(inside.row as u64))
                }
                Some(place) => {
                    seen[place] = true;
                    expected = place + 1;
                    nested.inner[place].append(raw, inside)
                }
            };
            if let Err(error) = appended {
                return Err(stop(refusal, error));
            }
        }
        for (part, _) in nested.inner.iter_mut().zip(seen).filter(|(_, seen)| !seen) {
            if let Err(error) = part.append_null(inside.row) {
                return Err(stop(refusal, error));
            }
        }
        Ok(())
    }
}

/// A field that a struct does not have.
#[cold]
pub(super) fn unknown(column: &Column, row: usize, name: &str) -> Error {
    let cut = &name[..name.floor_char_boundary(128)];
    let message = format!("column {} has no field {}", column.name.as_str(), rows::shown(name));
    Error::new(Code::UnknownColumn, message)
        .with_row(row as u64)
        .with_column(format!("{}.{cut}", column.name.as_str()))
        .with_hint("names are exact: upper and lower case differ")
}

fn take(inside: &mut Inside<'_>, column: &Column, bytes: usize) -> Result<()> {
    match inside.bytes_left.checked_sub(bytes) {
        Some(left) => {
            *inside.bytes_left = left;
            Ok(())
        }
        None => {
            let name = column.name.as_str();
            let message = format!("what stands inside column {name} takes more than {DECODED_BYTES_MAX} bytes");
            Err(rows::too_large(message).with_row(inside.row as u64).with_column(name))
        }
    }
}

/// Keeps our error, which the parser's cannot carry, and gives one that stops the parser.
#[cold]
fn stop<E: serde::de::Error>(refusal: &mut Option<Error>, error: Error) -> E {
    *refusal = Some(error);
    E::custom("refused")
}
