//! Rows from CSV as RFC 4180 has it: commas, double quotes doubled inside quotes, lines ended by CRLF or LF.
//!
//! Stricter than most readers where leniency would guess: a quote inside an unquoted field, text after a closing quote,
//! a carriage return alone and a row of another length are errors. Spaces belong to their field.
//!
//! Whether a field was quoted matters, as only an unquoted one can be null. A blank line is a row with one empty field
//! if there is one column, and nothing otherwise. A byte order mark in front is skipped.

use std::borrow::Cow;
use std::cmp::Ordering;

use arrow::array::RecordBatch;

use super::rows::{self, Rows, Token};
use super::{DecodeOptions, KeptRows};
use crate::{Code, Error, Result, SetAside, TableSchema};

/// The rows of a CSV body; an empty body has none.
pub fn decode_csv(schema: &TableSchema, body: &[u8], options: &DecodeOptions) -> Result<RecordBatch> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut rows = Rows::new(schema, body.len(), options)?;
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(error) => {
            let valid = std::str::from_utf8(&body[..error.valid_up_to()]).unwrap_or_default();
            return Err(not_utf8(valid, options.csv_columns.is_some()));
        }
    };
    let mut fields = Fields { text, at: 0 };
    let places = places(&mut fields, &rows, options)?;
    while fields.next_row(places.len()) {
        rows.begin_row()?;
        let mut count = 0;
        loop {
            let field = fields.next().map_err(|what| malformed(what).with_row(rows.count() as u64))?;
            let Some(place) = places.get(count) else {
                return Err(ragged(rows.count(), "more than", places.len()));
            };
            let is_null = !field.quoted && field.text == options.csv_null;
            rows.push(*place, if is_null { Token::Null } else { Token::Field(&field.text) })?;
            count += 1;
            if field.last {
                break;
            }
        }
        if count < places.len() {
            return Err(ragged(rows.count(), "fewer than", places.len()));
        }
        rows.end_row()?;
    }
    rows.finish()
}

/// The rows of a CSV body that fit; those that do not, or have more or fewer fields than there are columns, are set aside.
/// What is not CSV refuses the body.
pub fn decode_csv_setting_aside(
    schema: &TableSchema,
    body: &[u8],
    options: &DecodeOptions,
    aside: &mut SetAside,
) -> Result<KeptRows> {
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        // Which row it is.
        Err(_) => return Err(decode_csv(schema, body, options).err().unwrap_or_else(|| not_utf8("", true))),
    };
    let mut rows = Rows::new(schema, text.len(), options)?.giving_up();
    let mut fields = Fields { text, at: if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 } };
    let places = places(&mut fields, &rows, options)?;
    let mut spans = Vec::new();
    while fields.next_row(places.len()) {
        rows.begin_row()?;
        let (start, mut count, mut wrong) = (fields.at, 0, None);
        loop {
            let field = fields.next().map_err(|what| malformed(what).with_row(rows.count() as u64))?;
            if let Some(place) = places.get(count).filter(|_| wrong.is_none()) {
                let is_null = !field.quoted && field.text == options.csv_null;
                wrong = rows.push(*place, if is_null { Token::Null } else { Token::Field(&field.text) }).err();
            }
            count += 1;
            if field.last {
                break;
            }
        }
        let content = text[start..fields.at].trim_end_matches(['\r', '\n']);
        spans.push(start as u32..(start + content.len()) as u32);
        let wrong = match count.cmp(&places.len()) {
            Ordering::Greater => Some(ragged(rows.count(), "more than", places.len())),
            Ordering::Less => Some(ragged(rows.count(), "fewer than", places.len())),
            Ordering::Equal => wrong.or_else(|| rows.end_row().err()),
        };
        if let Some(wrong) = wrong {
            aside.add(rows.count() as u64, wrong, content)?;
            rows.give_up_row();
        }
    }
    let (rows, numbers) = rows.finish_kept()?;
    Ok(KeptRows { rows, numbers, spans })
}

/// The columns that the first line names.
/// Where the values of a row go, as the request or its header says.
fn places(fields: &mut Fields<'_>, rows: &Rows<'_>, options: &DecodeOptions) -> Result<Vec<usize>> {
    let Some(names) = &options.csv_columns else { return header(fields, rows) };
    let mut header = Header::new(rows);
    names.iter().try_for_each(|name| header.add(name))?;
    Ok(header.places)
}

fn header(fields: &mut Fields<'_>, rows: &Rows<'_>) -> Result<Vec<usize>> {
    let mut header = Header::new(rows);
    if fields.next_row(usize::MAX) {
        loop {
            let field = fields.next().map_err(malformed)?;
            header.add(&field.text)?;
            if field.last {
                break;
            }
        }
    }
    Ok(header.places)
}

struct Header<'r, 's> {
    rows: &'r Rows<'s>,
    /// The column of each field.
    places: Vec<usize>,
    seen: Vec<bool>,
}

impl<'r, 's> Header<'r, 's> {
    fn new(rows: &'r Rows<'s>) -> Header<'r, 's> {
        Header { rows, places: Vec::new(), seen: vec![false; rows.columns_count()] }
    }

    fn add(&mut self, name: &str) -> Result<()> {
        let place = self.rows.find(name, Some(self.places.len()).filter(|place| *place < self.seen.len()));
        let place = place.ok_or_else(|| rows::unknown(name))?;
        if !self.rows.is_flat(place) {
            return Err(Error::new(Code::InvalidBody, format!("column {name} is nested, which CSV cannot hold"))
                .with_column(name)
                .with_hint("send JSON, Arrow or Parquet, or leave the column out"));
        }
        if std::mem::replace(&mut self.seen[place], true) {
            return Err(rows::doubled(name));
        }
        self.places.push(place);
        Ok(())
    }
}

/// Cuts a text into fields.
struct Fields<'t> {
    text: &'t str,
    at: usize,
}

struct Field<'t> {
    text: Cow<'t, str>,
    quoted: bool,
    /// Whether it ends its row.
    last: bool,
}

impl<'t> Fields<'t> {
    /// Whether another row follows; skips blank lines if rows have more than one field.
    fn next_row(&mut self, fields_per_row: usize) -> bool {
        if fields_per_row != 1 {
            while let Some(length) = line_end(&self.text.as_bytes()[self.at..]) {
                self.at += length;
            }
        }
        self.at < self.text.len()
    }

    fn next(&mut self) -> Result<Field<'t>, &'static str> {
        let quoted = self.text.as_bytes().get(self.at) == Some(&b'"');
        let text = if quoted { self.quoted()? } else { self.unquoted() };
        let last = match &self.text.as_bytes()[self.at..] {
            [] => true,
            [b',', ..] => {
                self.at += 1;
                false
            }
            rest => match line_end(rest) {
                Some(length) => {
                    self.at += length;
                    true
                }
                None if quoted => return Err("text follows a closing quote"),
                None if rest[0] == b'"' => return Err("a quote stands inside an unquoted field"),
                None => return Err("a carriage return stands alone outside quotes"),
            },
        };
        Ok(Field { text, quoted, last })
    }

    fn unquoted(&mut self) -> Cow<'t, str> {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')).unwrap_or(rest.len());
        self.at += end;
        Cow::Borrowed(&rest[..end])
    }

    /// Stands on the opening quote; leaves behind the closing one.
    fn quoted(&mut self) -> Result<Cow<'t, str>, &'static str> {
        let mut text = Cow::Borrowed("");
        loop {
            let rest = &self.text[self.at + 1..];
            let end = rest.find('"').ok_or("a quoted field does not end")?;
            self.at += end + 2;
            let doubled = rest.as_bytes().get(end + 1) == Some(&b'"');
            // Of a doubled quote the first belongs to the text and the second opens the next piece.
            let piece = &rest[..end + usize::from(doubled)];
            if text.is_empty() {
                text = Cow::Borrowed(piece);
            } else {
                text.to_mut().push_str(piece);
            }
            if !doubled {
                return Ok(text);
            }
        }
    }
}

/// The length of the line end that `rest` starts with.
fn line_end(rest: &[u8]) -> Option<usize> {
    match rest {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}

#[cold]
fn malformed(what: &str) -> Error {
    Error::new(Code::InvalidBody, format!("the body is not CSV: {what}"))
        .with_hint("quote fields that have quotes, commas or line ends, and double the quotes inside")
}

#[cold]
fn ragged(row: usize, how: &str, columns: usize) -> Error {
    Error::new(Code::InvalidBody, format!("a row has {how} {columns} fields")).with_row(row as u64)
}

/// The row is how many rows end before the text that is not UTF-8.
#[cold]
fn not_utf8(valid: &str, headless: bool) -> Error {
    let error = Error::new(Code::InvalidBody, "the body is not UTF-8");
    let mut fields = Fields { text: valid, at: 0 };
    let mut ended = 0u64;
    let mut first_row_fields = 0;
    'rows: while fields.next_row(if ended == 0 { usize::MAX } else { first_row_fields }) {
        loop {
            let Ok(field) = fields.next() else { break 'rows };
            first_row_fields += usize::from(ended == 0);
            if field.last {
                break;
            }
        }
        if fields.at >= valid.len() && !valid.ends_with('\n') {
            break;
        }
        ended += 1;
    }
    match ended.checked_sub(u64::from(!headless)) {
        Some(row) => error.with_row(row),
        None => error,
    }
}
