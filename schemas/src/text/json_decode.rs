//! Rows from JSON: one object per line, or one array of objects.
//!
//! The parser walks the body once and hands each value's text, borrowed, to its column's builder, so numbers never pass
//! through a float and nothing is allocated per row. Values are skipped over without recursion, so depth costs nothing;
//! arrays and objects are then read as deep as their column's type is (see `nested_rows`).
//!
//! A key is looked up only when it is not the one that stood at the same place in the row before.
//!
//! Malformed JSON is `invalid_body`; an object that does not fit the table is `invalid_row` or `unknown_column`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use arrow::array::RecordBatch;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::rows::{self, Rows, Token};
use super::{DecodeOptions, JsonShape, KeptRows};
use crate::{Code, Error, Result, SetAside, TableSchema};

const MESSAGE_BYTES_MAX: usize = 200;

/// The rows of a JSON body; an empty body has none. A byte order mark in front is skipped.
pub fn decode_json(
    schema: &TableSchema,
    body: &[u8],
    shape: JsonShape,
    options: &DecodeOptions,
) -> Result<RecordBatch> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut objects = Objects { rows: Rows::new(schema, body.len(), options)?, order: Vec::new(), refusal: None };
    match (shape, std::str::from_utf8(body)) {
        (JsonShape::Lines, Ok(text)) => decode_lines(&mut objects, text)?,
        (JsonShape::Lines, Err(error)) => {
            let valid = std::str::from_utf8(&body[..error.valid_up_to()]).unwrap_or_default();
            let row = valid.split('\n').rev().skip(1).filter(|line| !is_blank(line)).count();
            return Err(not_utf8().with_row(row as u64));
        }
        (JsonShape::Array, _) if body.iter().all(u8::is_ascii_whitespace) => {}
        (JsonShape::Array, Ok(text)) => decode_array(&mut objects, serde_json::Deserializer::from_str(text))?,
        (JsonShape::Array, Err(_)) => {
            // The parser finds the place, and whatever is wrong before it.
            decode_array(&mut objects, serde_json::Deserializer::from_slice(body))?;
            return Err(not_utf8());
        }
    }
    objects.rows.finish()
}

/// The rows of a JSON body that fit; those that do not are set aside. A line that is not JSON is a row that does not fit, an
/// array that is not JSON refuses the body.
pub fn decode_json_setting_aside(
    schema: &TableSchema,
    body: &[u8],
    shape: JsonShape,
    options: &DecodeOptions,
    aside: &mut SetAside,
) -> Result<KeptRows> {
    let rows = Rows::new(schema, body.len(), options)?.giving_up();
    let objects = Objects { rows, order: Vec::new(), refusal: None };
    let mut kept = Tolerant { objects, body, aside, spans: Vec::new(), refusal: None };
    match shape {
        JsonShape::Lines => {
            let lines = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).split(|byte| *byte == b'\n');
            lines.filter(|line| !line.iter().all(is_blank_byte)).try_for_each(|line| kept.row(line))?;
        }
        JsonShape::Array => match std::str::from_utf8(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)) {
            Ok(text) if text.bytes().all(|byte| byte.is_ascii_whitespace()) => {}
            Ok(text) => {
                let mut deserializer = serde_json::Deserializer::from_str(text);
                let parsed = deserializer.deserialize_seq(Elements(&mut kept)).and_then(|()| deserializer.end());
                if let Err(error) = parsed {
                    let place = format!("at line {} byte {}", error.line(), error.column());
                    let malformed = || malformed(kept.spans.len(), format!("{} {place}", without_place(&error)));
                    return Err(kept.refusal.take().unwrap_or_else(malformed));
                }
            }
            // Where it is.
            Err(_) => return Err(decode_json(schema, body, shape, options).err().unwrap_or_else(not_utf8)),
        },
    }
    let (rows, numbers) = kept.objects.rows.finish_kept()?;
    Ok(KeptRows { rows, numbers, spans: kept.spans })
}

/// Rows of which some do not fit.
struct Tolerant<'r, 's> {
    objects: Objects<'s>,
    body: &'r [u8],
    aside: &'r mut SetAside,
    spans: Vec<Range<u32>>,
    /// Why the whole body is refused.
    refusal: Option<Error>,
}

impl Tolerant<'_, '_> {
    /// One row, which stands so in the body.
    fn row(&mut self, content: &[u8]) -> Result<()> {
        let start = content.as_ptr().addr() - self.body.as_ptr().addr();
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        self.spans.push(start as u32..(start + content.len()) as u32);
        let row = self.objects.rows.count();
        self.objects.rows.begin_row()?;
        let wrong = match std::str::from_utf8(content) {
            Err(_) => Some(malformed(row, "it is not UTF-8".to_owned())),
            Ok(text) => {
                let mut deserializer = serde_json::Deserializer::from_str(text);
                let parsed =
                    NextObject(&mut self.objects).deserialize(&mut deserializer).and_then(|()| deserializer.end());
                parsed.err().map(|error| {
                    let said = || format!("{} at byte {} of it", without_place(&error), error.column());
                    self.objects.refusal.take().unwrap_or_else(|| malformed(row, said()))
                })
            }
        };
        let Some(wrong) = wrong else { return Ok(()) };
        self.aside.add(row as u64, wrong, &String::from_utf8_lossy(content))?;
        // What follows an object on its line is met when the object is a row already.
        match self.objects.rows.count() == row {
            true => self.objects.rows.give_up_row(),
            false => self.objects.rows.give_up_last(),
        }
        Ok(())
    }
}

struct Elements<'t, 'r, 's>(&'t mut Tolerant<'r, 's>);

impl<'de> Visitor<'de> for Elements<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            if let Err(error) = self.0.row(element.get().as_bytes()) {
                self.0.refusal = Some(error);
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

fn decode_lines(objects: &mut Objects<'_>, text: &str) -> Result<()> {
    for line in text.split('\n').filter(|line| !is_blank(line)) {
        let mut deserializer = serde_json::Deserializer::from_str(line);
        let row = objects.rows.count();
        let parsed = NextObject(objects).deserialize(&mut deserializer).and_then(|()| deserializer.end());
        if let Err(error) = parsed {
            return Err(objects.refusal.take().unwrap_or_else(|| {
                let column = error.column();
                malformed(row, format!("{} at byte {column} of its line", without_place(&error)))
            }));
        }
    }
    Ok(())
}

fn decode_array<'de, R>(objects: &mut Objects<'_>, mut deserializer: serde_json::Deserializer<R>) -> Result<()>
where
    R: serde_json::de::Read<'de>,
{
    let parsed = deserializer.deserialize_seq(AllObjects(objects)).and_then(|()| deserializer.end());
    parsed.map_err(|error| {
        objects.refusal.take().unwrap_or_else(|| {
            let place = format!("at line {} byte {}", error.line(), error.column());
            malformed(objects.rows.count(), format!("{} {place}", without_place(&error)))
        })
    })
}

/// The rows so far, and what tells us how to go on.
struct Objects<'s> {
    rows: Rows<'s>,
    /// The column that the key at each place had in the rows before.
    order: Vec<usize>,
    /// Our own error, which the parser's error cannot carry.
    refusal: Option<Error>,
}

impl Objects<'_> {
    /// Keeps our error and gives one that stops the parser.
    #[cold]
    fn refuse<E: serde::de::Error>(&mut self, error: Error) -> E {
        self.refusal = Some(error);
        E::custom("refused")
    }
}

struct AllObjects<'o, 's>(&'o mut Objects<'s>);

impl<'de> Visitor<'de> for AllObjects<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(NextObject(self.0))?.is_some() {}
        Ok(())
    }
}

struct NextObject<'o, 's>(&'o mut Objects<'s>);

impl<'de> DeserializeSeed<'de> for NextObject<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for NextObject<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object for each row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let objects = self.0;
        if let Err(error) = objects.rows.begin_row() {
            return Err(objects.refuse(error));
        }
        let mut place = 0;
        while let Some(column) = entries.next_key_seed(NextKey { objects, place })? {
            let raw: &RawValue = entries.next_value()?;
            let pushed = match token(raw.get()) {
                Ok(Raw::Plain(token)) => objects.rows.push(column, token),
                Ok(Raw::Text(text)) => objects.rows.push(column, Token::Text(&text)),
                Err(error) => Err(malformed(objects.rows.count(), error)),
            };
            if let Err(error) = pushed {
                return Err(objects.refuse(error));
            }
            place += 1;
        }
        objects.rows.end_row().map_err(|error| objects.refuse(error))
    }
}

/// Reads a key and finds its column.
struct NextKey<'o, 's> {
    objects: &'o mut Objects<'s>,
    place: usize,
}

impl<'de> DeserializeSeed<'de> for NextKey<'_, '_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NextKey<'_, '_> {
    type Value = usize;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<usize, E> {
        let Objects { rows, order, .. } = self.objects;
        let expected = order.get(self.place).copied();
        let Some(column) = rows.find(key, expected) else {
            let row = rows.count() as u64;
            return Err(self.objects.refuse(rows::unknown(key).with_row(row)));
        };
        // A row has at most each column once before it is refused, so this never outgrows the columns.
        match order.get_mut(self.place) {
            Some(known) => *known = column,
            None => order.push(column),
        }
        Ok(column)
    }
}

pub(super) enum Raw<'t> {
    Plain(Token<'t>),
    Text(Cow<'t, str>),
}

/// What a value's text says; the parser has checked that it is JSON.
pub(super) fn token(raw: &str) -> Result<Raw<'_>, String> {
    Ok(Raw::Plain(match raw.as_bytes() {
        [b'n', ..] => Token::Null,
        [b't', ..] => Token::Boolean(true),
        [b'f', ..] => Token::Boolean(false),
        [b'[' | b'{', ..] => Token::Nested(raw),
        [b'"', .., b'"'] => {
            let inner = &raw[1..raw.len() - 1];
            if !inner.contains('\\') {
                return Ok(Raw::Text(Cow::Borrowed(inner)));
            }
            // Skipping does not look into escapes: a lone surrogate shows only here.
            let text = serde_json::from_str(raw).map_err(|error| without_place(&error))?;
            return Ok(Raw::Text(Cow::Owned(text)));
        }
        _ => Token::Number(raw),
    }))
}

fn is_blank(line: &str) -> bool {
    line.as_bytes().iter().all(is_blank_byte)
}

fn is_blank_byte(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

#[cold]
pub(super) fn malformed(row: usize, what: String) -> Error {
    Error::new(Code::InvalidBody, format!("row {row} is not JSON that can be read: {what}")).with_row(row as u64)
}

#[cold]
fn not_utf8() -> Error {
    Error::new(Code::InvalidBody, "the body is not UTF-8")
}

/// The parser's message, short, and without its line, which is always 1 when lines are parsed one by one.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    let mut message = error.to_string();
    if let Some(at) = message.rfind(" at line ") {
        message.truncate(at);
    }
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}
