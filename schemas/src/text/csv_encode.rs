//! Answers as CSV, which [`super::decode_csv`] reads back as it was.
//!
//! Null is an empty field and an empty string is `""`. Fields are quoted when they have a comma, a quote, a carriage
//! return or a line feed. Lines end with a line feed alone, as most tools around a shell expect. Values are spelled as
//! in JSON, without its quotes. Nested types have no place in a table of fields and are refused.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Schema};

use super::scalars::{self, Form, form, form_of};
use crate::{Code, Error, Result};

/// Writes headers and rows; it keeps nothing between them.
#[derive(Clone, Copy, Debug, Default)]
pub struct CsvEncoder;

impl CsvEncoder {
    /// The line of names; refuses types that CSV does not have, before anything is written.
    pub fn header(&self, schema: &Schema, out: &mut Vec<u8>) -> Result<()> {
        check(schema)?;
        for (place, field) in schema.fields().iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_text(field.name(), out);
        }
        out.push(b'\n');
        Ok(())
    }

    /// One line for each row.
    pub fn rows(&self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        check(batch.schema_ref())?;
        let forms: Vec<_> = batch.schema_ref().fields().iter().map(|field| form(field)).collect();
        for row in 0..batch.num_rows() {
            for (place, (form, column)) in forms.iter().zip(batch.columns()).enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_value(*form, column, row, out);
            }
            out.push(b'\n');
        }
        Ok(())
    }
}

fn check(schema: &Schema) -> Result<()> {
    for field in schema.fields() {
        if matches!(form_of(innermost(field.data_type())), Form::Nested | Form::Unknown) {
            let message = format!("column {} is {}, which CSV cannot hold", field.name(), field.data_type());
            return Err(Error::new(Code::NotAcceptable, message)
                .with_column(field.name())
                .with_hint("ask for JSON or Arrow, or select the parts as columns"));
        }
    }
    Ok(())
}

fn innermost(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => innermost(values),
        DataType::RunEndEncoded(_, values) => innermost(values.data_type()),
        other => other,
    }
}

fn write_value(form: Form, array: &dyn Array, row: usize, out: &mut Vec<u8>) {
    if array.is_null(row) {
        return;
    }
    match form {
        // The check let none but these through.
        Form::Null | Form::Nested | Form::Unknown => {}
        Form::Bare | Form::Float => scalars::spell(array, row, out),
        Form::Uuid => scalars::spell_uuid(array, row, out),
        Form::Plain => {
            let start = out.len();
            scalars::spell(array, row, out);
            if out.len() == start {
                // No bytes at all, which are not null.
                out.extend_from_slice(b"\"\"");
            }
        }
        Form::Text => write_text(scalars::text(array, row), out),
        Form::Indirect => {
            if let Some((values, place)) = scalars::resolve(array, row) {
                write_value(form_of(values.data_type()), values, place, out);
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    let special = |byte| matches!(byte, b',' | b'"' | b'\r' | b'\n');
    if !text.is_empty() && !text.bytes().any(special) {
        return out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
    for (place, piece) in text.split('"').enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(piece.as_bytes());
    }
    out.push(b'"');
}
