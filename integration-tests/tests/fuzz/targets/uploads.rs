//! Bodies of rows, one target per format, through the function that the server decodes them with.
//!
//! Rows that are taken have the table's columns, survive our JSON, and are the same rows when written and read in each of
//! the other formats. None of these formats has a checksum, so a flipped bit may make other rows.

use arrow::array::{Array, DictionaryArray, Int64Array, RecordBatch};
use arrow::datatypes::Int32Type;
use bytes::Bytes;
use std::sync::Arc;
use thermocline_schemas::text::{DecodeOptions, EpochUnit, JsonShape};
use thermocline_schemas::{Error, TableSchema};
use thermocline_server::uploads::{UploadFormat, decode_rows};

use super::rows::{self, FORMATS};
use crate::driver::{Outcome, Target};

pub struct Upload {
    format: UploadFormat,
    schema: TableSchema,
}

impl Upload {
    pub fn new(format: UploadFormat) -> Upload {
        Upload { format, schema: rows::schema() }
    }

    fn decode(&self, format: UploadFormat, body: &[u8], epoch: Option<EpochUnit>) -> Result<RecordBatch, Error> {
        let options = DecodeOptions { epoch, ..DecodeOptions::default() };
        decode_rows(&self.schema, format, &Bytes::copy_from_slice(body), &options)
    }

    fn check(&self, batch: &RecordBatch) -> Result<(), String> {
        if batch.schema_ref().fields() != self.schema.arrow().fields() {
            return Err(format!("rows of other columns: {:?}", batch.schema_ref()));
        }
        let lines = UploadFormat::Json(JsonShape::Lines);
        let text = rows::encode(batch, lines)?;
        for format in FORMATS {
            // An array of nothing, a header alone and a stream without batches are fine; no lines at all are no body.
            let body = rows::encode(batch, format)?;
            let again = self.decode(format, &body, None).map_err(|error| {
                format!(
                    "rows that were taken are refused as {format:?}: {error:?} {:?}\n{}",
                    error.value(),
                    show(&text)
                )
            })?;
            let again = rows::encode(&again, lines)?;
            if again != text {
                return Err(format!("{format:?} makes other rows:\n{}\nof\n{}", show(&again), show(&text)));
            }
        }
        Ok(())
    }
}

impl Target for Upload {
    fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        let encode = |batch: &RecordBatch| rows::encode(batch, self.format).expect("rows can be written");
        let mut seeds =
            vec![("rows".to_owned(), encode(&rows::some(12))), ("one_row".to_owned(), encode(&rows::some(1)))];
        match self.format {
            UploadFormat::Arrow => {
                let words: DictionaryArray<Int32Type> = ["red", "green", "red"].into_iter().collect();
                let columns: Vec<(&str, Arc<dyn Array>)> =
                    vec![("id", Arc::new(Int64Array::from(vec![1, 2, 3]))), ("name", Arc::new(words))];
                seeds.push(("dictionary".to_owned(), encode(&RecordBatch::try_from_iter(columns).expect("a batch"))));
            }
            UploadFormat::Parquet => {
                let others = rows::compressed_parquet(&rows::some(12));
                seeds.extend(others.into_iter().map(|(name, body)| (name.to_owned(), body)));
            }
            UploadFormat::Json(JsonShape::Array) => seeds.push(("none".to_owned(), b"[]".to_vec())),
            UploadFormat::Json(JsonShape::Lines) => {
                let line =
                    "{\"id\":1,\"day\":0,\"at\":\"2026-11-23T13:00:00+01:00\",\"real\":1e-7,\"bytes\":\"AA==\"}\n";
                seeds.push(("epoch".to_owned(), line.as_bytes().to_vec()));
            }
            UploadFormat::Csv => seeds.push(("crlf".to_owned(), b"id,name\r\n1,\"a\"\"b\"\r\n2,\r\n".to_vec())),
        }
        seeds
    }

    fn words(&self) -> &'static [&'static str] {
        match self.format {
            UploadFormat::Json(_) => &[
                "null", "true", "{", "}", "[", "]", ",", ":", "\"id\":", "\"at\":", "1e400", "\\u0000", "\\ud800",
                "NaN", "-0", "\n",
            ],
            UploadFormat::Csv => {
                &["\"", "\"\"", ",", "\r\n", "\n", "id", "at", "NaN", "1e400", "2026-02-30", "\u{feff}"]
            }
            UploadFormat::Arrow => &["ARROW1", "\u{0}\u{0}\u{0}\u{0}", "UTC", "+25:00"],
            UploadFormat::Parquet => &["PAR1", "PARE", "\u{15}", "\u{1c}"],
        }
    }

    fn memory(&self) -> (usize, usize) {
        match self.format {
            // The rows, their five spellings, and what they are read into again.
            UploadFormat::Json(_) | UploadFormat::Csv => (400, 8 << 20),
            UploadFormat::Arrow => (400, 64 << 20),
            // Page headers may claim up to the limit of one upload before anything is known to be wrong.
            UploadFormat::Parquet => (400, 400 << 20),
        }
    }

    fn run(&mut self, input: &[u8]) -> Result<Outcome, String> {
        let decoded = self.decode(self.format, input, None);
        let lenient = self.decode(self.format, input, Some(EpochUnit::Milliseconds));
        for rows in [&decoded, &lenient].into_iter().flatten() {
            self.check(rows)?;
        }
        match decoded {
            Ok(rows) => Ok(Outcome::Taken(format!("{} rows", rows.num_rows().min(20)))),
            Err(error) => Outcome::refused(&error),
        }
    }
}

/// A text, as much of it as people read.
fn show(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(4_000).collect()
}
