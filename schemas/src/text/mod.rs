//! Values as text, both ways: rows from JSON and CSV bodies, and answers as JSON and CSV.
//!
//! Always: what is decoded has exactly the table's Arrow schema and obeys NOT NULL; a value is taken exactly or refused
//! with its row, column and text. Nothing rounds except a number for a float column, which takes the nearest float.
//! Memory stays within a constant times the body, and fixed-width values, which a body can say in no bytes, within 256
//! MiB.
//!
//! Not here: reading bodies, content types, Arrow and Parquet files; those bring batches, which [`conform`] fits to a
//! table.

mod conform;
mod csv_decode;
mod csv_encode;
mod json_decode;
mod json_encode;
mod nested_rows;
mod rows;
mod scalars;
mod values;

#[cfg(test)]
mod tests;

use std::ops::Range;

use arrow::array::RecordBatch;

pub use conform::conform;
pub use csv_decode::{decode_csv, decode_csv_setting_aside};
pub use csv_encode::CsvEncoder;
pub use json_decode::{decode_json, decode_json_setting_aside};
pub use json_encode::JsonEncoder;
pub(crate) use rows::default_values;
pub(crate) use scalars::spelled;
pub use values::uuid_text;

/// The rows of a body that fit their table.
#[derive(Debug)]
pub struct KeptRows {
    pub rows: RecordBatch,
    /// Which row of the body each is.
    pub numbers: Vec<u32>,
    /// Where each row of the body stands in it, those included that were set aside; nothing where bodies are no text.
    pub spans: Vec<Range<u32>>,
}

/// What the fixed-width values of one batch may take in memory. A body of `{}` lines says a whole row of nulls in three
/// bytes, so the body's size alone does not bound its rows. Callers have finer limits; this one keeps us alive.
const DECODED_BYTES_MAX: usize = 256 << 20;

/// How a JSON body lays out its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonShape {
    /// One object per line; blank lines are nothing.
    Lines,
    /// One array of objects.
    Array,
}

/// How numbers are taken for dates and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    Milliseconds,
    Microseconds,
}

/// What a request may say about how its values are spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Takes whole numbers since 1970 for dates and times; without it they are refused.
    pub epoch: Option<EpochUnit>,
    /// The unquoted CSV field that means null. When it is not empty, an empty field is an empty string.
    pub csv_null: String,
    /// The columns of a CSV body that has no header.
    pub csv_columns: Option<Vec<String>>,
    /// More rows than this are refused.
    pub rows_max: usize,
}

impl Default for DecodeOptions {
    /// As the API is without parameters; rows are bounded by bytes alone.
    fn default() -> DecodeOptions {
        DecodeOptions { epoch: None, csv_null: String::new(), csv_columns: None, rows_max: usize::MAX }
    }
}
