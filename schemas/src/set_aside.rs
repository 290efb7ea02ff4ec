//! Rows that do not fit their table and are set aside, each with what is wrong with it.
//!
//! They lie in `"t$rejected"`, a log table that belongs to its table `t`: it is made when the first row of it is set aside,
//! and it is dropped and brought back with it. Nobody writes to it but we.
//!
//! Always: what a request sets aside is no larger than a request may be; else the request is refused as a whole.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

use crate::{Code, ColumnType, Error, Result, TableSchema};

/// A row's own text is cut to this many bytes.
pub const CONTENT_BYTES_MAX: usize = 64 << 10;
/// What a row takes besides its texts; the name of a writer is one of each row.
const ROW_BYTES: usize = 192;

/// A row that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// Its number in the request, from 0.
    pub row: u64,
    pub code: Code,
    pub column: Option<String>,
    pub reason: String,
    /// The row as it came, or as JSON where it came in a format that is no text.
    pub content: String,
}

/// What a request sets aside.
#[derive(Debug)]
pub struct SetAside {
    rows: Vec<RejectedRow>,
    bytes_left: usize,
    bytes_max: usize,
}

impl SetAside {
    /// Of at most so many bytes.
    pub fn new(bytes_max: usize) -> SetAside {
        SetAside { rows: Vec::new(), bytes_left: bytes_max, bytes_max }
    }

    /// Sets a row aside, if the error is one of this row and not of the request.
    pub fn add(&mut self, row: u64, error: Error, content: &str) -> Result<()> {
        if !matches!(error.code(), Code::InvalidRow | Code::UnknownColumn | Code::CheckViolation | Code::InvalidBody) {
            return Err(error);
        }
        let content = &content[..content.floor_char_boundary(CONTENT_BYTES_MAX)];
        let (reason, column) = (error.message(), error.column());
        let bytes = ROW_BYTES + content.len() + reason.len() + column.map_or(0, str::len);
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| {
            let message = format!("the rows to set aside take more than {} bytes, with their reasons", self.bytes_max);
            Error::new(Code::RequestTooLarge, message).with_row(row).with_hint("send fewer rows at once")
        })?;
        self.rows.push(RejectedRow {
            row,
            code: error.code(),
            column: column.map(str::to_owned),
            reason: reason.to_owned(),
            content: content.to_owned(),
        });
        Ok(())
    }

    /// The numbers of its rows, in no order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.rows.iter().map(|rejected| rejected.row)
    }

    pub fn retain(&mut self, is_kept: impl Fn(u64) -> bool) {
        self.rows.retain(|rejected| is_kept(rejected.row));
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As rows of [`rejected_schema`], by their number. `at` is in microseconds since 1970.
    pub fn into_rows(mut self, at: i64, writer: Option<(&str, u64)>) -> Result<RecordBatch> {
        self.rows.sort_by_key(|rejected| rejected.row);
        let (rows, count) = (&self.rows, self.rows.len());
        let texts = |of: fn(&RejectedRow) -> Option<&str>| -> ArrayRef {
            Arc::new(rows.iter().map(of).collect::<StringArray>())
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(vec![at; count]).with_timezone("UTC")),
            Arc::new(std::iter::repeat_n(writer.map(|(name, _)| name), count).collect::<StringArray>()),
            Arc::new(Int64Array::from(vec![writer.map(|(_, sequence)| sequence as i64); count])),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|rejected| rejected.row as i64))),
            texts(|rejected| Some(rejected.code.as_str())),
            texts(|rejected| rejected.column.as_deref()),
            texts(|rejected| Some(&rejected.reason)),
            texts(|rejected| Some(&rejected.content)),
        ];
        Ok(RecordBatch::try_new(rejected_schema()?.arrow(), columns)?)
    }
}

/// The columns of every table of rows that were set aside.
pub fn rejected_schema() -> Result<TableSchema> {
    let columns = [
        ("at", ColumnType::TimestampTz, false),
        ("writer", ColumnType::String, true),
        ("sequence", ColumnType::Int64, true),
        ("row", ColumnType::Int64, false),
        ("code", ColumnType::String, false),
        ("column", ColumnType::String, true),
        ("reason", ColumnType::String, false),
        ("content", ColumnType::String, false),
    ];
    TableSchema::new(columns.map(|(name, column_type, nullable)| (name.to_owned(), column_type, nullable)))
}
