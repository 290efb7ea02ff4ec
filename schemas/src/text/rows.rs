//! Rows on their way from text into Arrow: one builder per column, filled value by value, closed row by row.
//!
//! Always: after [`Rows::end_row`] every column has the same number of values. A column's value is set at most once per
//! row. An error names the row, the column and the value it is about.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, FixedSizeBinaryBuilder, Float32Builder,
    Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder, TimestampNanosecondBuilder, UInt8Builder, UInt16Builder,
    UInt32Array, UInt32Builder,
};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::nested_rows::{Inside, Nested};
use super::values::{self, Reason};
use super::{DECODED_BYTES_MAX, DecodeOptions, EpochUnit};
use crate::table::Column;
use crate::types::UUID_BYTES;
use crate::{Code, ColumnType, Error, Result, TableSchema};

/// One value as its format spells it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Token<'t> {
    Null,
    Boolean(bool),
    /// A JSON number, digit by digit.
    Number(&'t str),
    /// A JSON string, unescaped.
    Text(&'t str),
    /// A CSV field that is not null: it has no type but its column's.
    Field(&'t str),
    /// A JSON array or object, as it is written.
    Nested(&'t str),
}

impl Token<'_> {
    pub(super) fn as_value(&self) -> &str {
        match self {
            Token::Null => "null",
            Token::Boolean(true) => "true",
            Token::Boolean(false) => "false",
            Token::Number(text) | Token::Text(text) | Token::Field(text) | Token::Nested(text) => text,
        }
    }
}

pub(super) struct Rows<'s> {
    schema: SchemaRef,
    columns: Vec<ColumnRows<'s>>,
    by_name: HashMap<&'s str, usize>,
    epoch: Option<EpochUnit>,
    /// What may still be made of values inside others, which can be said in fewer bytes than they take.
    bytes_left: usize,
    /// Rows that are complete; the row being read has this number.
    count: usize,
    /// Values of the row being read.
    row_values: usize,
    rows_max: usize,
    /// Where rows that do not fit are given up, the numbers of those.
    given_up: Option<Vec<usize>>,
}

struct ColumnRows<'s> {
    column: &'s Column,
    builder: Builder,
    /// Values so far: one more than the complete rows when the row being read has set it.
    filled: usize,
}

impl<'s> Rows<'s> {
    /// For a body of so many bytes.
    pub(super) fn new(schema: &'s TableSchema, body_bytes: usize, options: &DecodeOptions) -> Result<Rows<'s>> {
        if body_bytes > i32::MAX as usize {
            // Arrow's strings count their bytes in 31 bits.
            return Err(too_large(format!("a body of {body_bytes} bytes is more than can be decoded at once")));
        }
        let columns: Vec<_> = schema.columns().iter().map(|column| (column, Builder::new(column))).collect();
        // A body need not say a default, so its bytes count as those of a fixed width do.
        let least = |(column, _): &(&Column, Builder)| {
            column.column_type.least_bytes() + column.default.as_ref().map_or(0, String::len)
        };
        let row_bytes: usize = columns.iter().map(least).sum();
        let by_name = schema.columns().iter().enumerate().map(|(place, column)| (column.name.as_str(), place));
        Ok(Rows {
            schema: schema.arrow(),
            by_name: by_name.collect(),
            columns: columns.into_iter().map(|(column, builder)| ColumnRows { column, builder, filled: 0 }).collect(),
            epoch: options.epoch,
            bytes_left: DECODED_BYTES_MAX,
            count: 0,
            row_values: 0,
            rows_max: options.rows_max.min(DECODED_BYTES_MAX / row_bytes),
            given_up: None,
        })
    }

    /// Rows that do not fit may be given up.
    pub(super) fn giving_up(self) -> Rows<'s> {
        Rows { given_up: Some(Vec::new()), ..self }
    }

    /// Ends the row that is being read, which is none: an error of it was met.
    pub(super) fn give_up_row(&mut self) {
        for column in self.columns.iter_mut().filter(|column| column.filled == self.count) {
            column.builder.append_null();
            column.filled += 1;
        }
        self.given_up.get_or_insert_default().push(self.count);
        self.row_values = 0;
        self.count += 1;
    }

    /// The row before is none after all.
    pub(super) fn give_up_last(&mut self) {
        self.given_up.get_or_insert_default().push(self.count.saturating_sub(1));
    }

    /// The rows that were not given up, and the number that each had among all.
    pub(super) fn finish_kept(mut self) -> Result<(RecordBatch, Vec<u32>)> {
        let mut given_up = self.given_up.take().unwrap_or_default().into_iter().peekable();
        let kept = |row: &usize| given_up.next_if_eq(row).is_none();
        let numbers: Vec<_> = (0..self.count).filter(kept).map(|row| row as u32).collect();
        if numbers.len() == self.count {
            return Ok((self.finish()?, numbers));
        }
        let places = UInt32Array::from(numbers);
        let columns = self.columns.into_iter().map(|column| Ok(take(&column.builder.finish()?, &places, None)?));
        let rows = RecordBatch::try_new(self.schema, columns.collect::<Result<_>>()?)?;
        Ok((rows, places.values().to_vec()))
    }

    /// Rows that are complete.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether what CSV says of a column could be a value of it.
    pub(super) fn is_flat(&self, place: usize) -> bool {
        !self.columns[place].column.column_type.is_nested()
    }

    pub(super) fn columns_count(&self) -> usize {
        self.columns.len()
    }

    /// Where a column of that name is; if `expected` has it, without a search.
    pub(super) fn find(&self, name: &str, expected: Option<usize>) -> Option<usize> {
        expected
            .filter(|place| self.columns[*place].column.name.as_str() == name)
            .or_else(|| self.by_name.get(name).copied())
    }

    /// Whether one more row may come.
    pub(super) fn begin_row(&self) -> Result<()> {
        if self.count < self.rows_max {
            return Ok(());
        }
        Err(too_large(format!("more than {} rows in one request", self.rows_max)).with_row(self.count as u64))
    }

    pub(super) fn push(&mut self, place: usize, token: Token<'_>) -> Result<()> {
        let column = &mut self.columns[place];
        if column.filled > self.count {
            return Err(self.doubled(place));
        }
        if matches!(token, Token::Null) {
            if !column.column.nullable {
                return Err(self.missing(place));
            }
            column.builder.append_null();
        } else if let Builder::Nested(nested) = &mut column.builder {
            if self.given_up.is_some() {
                // What goes wrong inside leaves things half done: it is tried apart.
                let mut apart = Nested::new(column.column);
                let mut bytes_left = self.bytes_left;
                let tried = apart
                    .append(token, &mut Inside { row: self.count, epoch: self.epoch, bytes_left: &mut bytes_left });
                tried.and_then(|()| apart.finish()).map_err(|error| error.with_row(self.count as u64))?;
            }
            nested
                .append(token, &mut Inside { row: self.count, epoch: self.epoch, bytes_left: &mut self.bytes_left })?;
        } else if let Err(reason) = column.builder.append(token, self.epoch) {
            return Err(self.refused(place, token, reason));
        }
        column.filled += 1;
        self.row_values += 1;
        Ok(())
    }

    /// Columns that the row did not name have their default, or are null.
    pub(super) fn end_row(&mut self) -> Result<()> {
        if self.row_values < self.columns.len() {
            for place in 0..self.columns.len() {
                let column = &mut self.columns[place];
                if column.filled == self.count {
                    if let Some(default) = &column.column.default {
                        let done = column.builder.append(Token::Field(default), None);
                        done.map_err(|reason| refused(column.column, self.count, default, &reason))?;
                    } else if column.column.nullable {
                        column.builder.append_null();
                    } else {
                        return Err(self.missing(place));
                    }
                    column.filled += 1;
                }
            }
        }
        self.row_values = 0;
        self.count += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<RecordBatch> {
        let columns = self.columns.into_iter().map(|column| column.builder.finish());
        Ok(RecordBatch::try_new(self.schema, columns.collect::<Result<_>>()?)?)
    }

    #[cold]
    fn refused(&self, place: usize, token: Token<'_>, reason: Reason) -> Error {
        refused(self.columns[place].column, self.count, token.as_value(), &reason)
    }

    #[cold]
    fn missing(&self, place: usize) -> Error {
        missing(self.columns[place].column, self.count)
    }

    #[cold]
    fn doubled(&self, place: usize) -> Error {
        let name = self.columns[place].column.name.as_str();
        doubled(name).with_row(self.count as u64)
    }
}

/// A value as CSV spells it, so many times.
pub(crate) fn default_values(column_type: &ColumnType, value: &str, count: usize) -> Result<ArrayRef, Reason> {
    let mut builder = Builder::flat(column_type).ok_or(Reason::Borrowed("can only be NULL"))?;
    for _ in 0..count {
        builder.append(Token::Field(value), None)?;
    }
    builder.finish().map_err(|error| error.to_string().into())
}

/// A value that its column cannot hold.
pub(super) fn refused(column: &Column, row: usize, value: &str, reason: &str) -> Error {
    let name = column.name.as_str();
    Error::new(Code::InvalidRow, format!("column {name} is {}: {} {reason}", column.column_type, shown(value)))
        .with_row(row as u64)
        .with_column(name)
        .with_value(value)
}

/// A null where there must not be one.
pub(super) fn missing(column: &Column, row: usize) -> Error {
    let name = column.name.as_str();
    Error::new(Code::InvalidRow, format!("column {name} is NOT NULL and has no value"))
        .with_row(row as u64)
        .with_column(name)
        .with_value("null")
}

pub(super) fn doubled(name: &str) -> Error {
    Error::new(Code::InvalidRow, format!("column {name} is there twice")).with_column(name)
}

pub(super) fn unknown(name: &str) -> Error {
    let error = Error::new(Code::UnknownColumn, format!("the table has no column {}", shown(name)));
    error.with_column(cut(name, 256)).with_hint("names are exact: upper and lower case differ")
}

pub(super) fn too_large(message: String) -> Error {
    Error::new(Code::RequestTooLarge, message).with_hint("split it, or let `thermocline load` do so")
}

/// A value inside a message: short, and on one line.
pub(super) fn shown(value: &str) -> String {
    format!("{:?}", cut(value, 64))
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

pub(super) enum Builder {
    Boolean(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    UInt16(UInt16Builder),
    UInt32(UInt32Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal { values: Decimal128Builder, precision: u8, scale: i8 },
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp { values: TimestampMicrosecondBuilder, zoned: bool },
    TimestampNs { values: TimestampNanosecondBuilder, zoned: bool },
    String(StringBuilder),
    Binary { values: BinaryBuilder, decoded: Vec<u8> },
    Fixed { values: FixedSizeBinaryBuilder, bytes: usize, decoded: Vec<u8> },
    Uuid(FixedSizeBinaryBuilder),
    Nested(Box<Nested>),
}

/// Runs the same expression on whichever builder there is.
macro_rules! each {
    ($builder:expr, $values:ident => $do:expr, nested => $nested:expr) => {
        match $builder {
            Builder::Boolean($values) => $do,
            Builder::Int8($values) => $do,
            Builder::Int16($values) => $do,
            Builder::Int32($values) => $do,
            Builder::Int64($values) => $do,
            Builder::UInt8($values) => $do,
            Builder::UInt16($values) => $do,
            Builder::UInt32($values) => $do,
            Builder::Float32($values) => $do,
            Builder::Float64($values) => $do,
            Builder::Decimal { values: $values, .. } => $do,
            Builder::Date($values) => $do,
            Builder::Time($values) => $do,
            Builder::Timestamp { values: $values, .. } => $do,
            Builder::TimestampNs { values: $values, .. } => $do,
            Builder::String($values) => $do,
            Builder::Binary { values: $values, .. } => $do,
            Builder::Fixed { values: $values, .. } => $do,
            Builder::Uuid($values) => $do,
            Builder::Nested($values) => $nested,
        }
    };
}

impl Builder {
    pub(super) fn new(column: &Column) -> Builder {
        Builder::flat(&column.column_type).unwrap_or_else(|| Builder::Nested(Box::new(Nested::new(column))))
    }

    /// None for a nested type.
    fn flat(column_type: &ColumnType) -> Option<Builder> {
        let data_type = column_type.arrow();
        Some(match *column_type {
            ColumnType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            ColumnType::Int8 => Builder::Int8(Int8Builder::new()),
            ColumnType::Int16 => Builder::Int16(Int16Builder::new()),
            ColumnType::Int32 => Builder::Int32(Int32Builder::new()),
            ColumnType::Int64 => Builder::Int64(Int64Builder::new()),
            ColumnType::UInt8 => Builder::UInt8(UInt8Builder::new()),
            ColumnType::UInt16 => Builder::UInt16(UInt16Builder::new()),
            ColumnType::UInt32 => Builder::UInt32(UInt32Builder::new()),
            ColumnType::Float32 => Builder::Float32(Float32Builder::new()),
            ColumnType::Float64 => Builder::Float64(Float64Builder::new()),
            ColumnType::Decimal { precision, scale } => {
                Builder::Decimal { values: Decimal128Builder::new().with_data_type(data_type), precision, scale }
            }
            ColumnType::Date => Builder::Date(Date32Builder::new()),
            ColumnType::Time => Builder::Time(Time64MicrosecondBuilder::new()),
            ColumnType::TimestampNs | ColumnType::TimestampTzNs => Builder::TimestampNs {
                values: TimestampNanosecondBuilder::new().with_data_type(data_type),
                zoned: *column_type == ColumnType::TimestampTzNs,
            },
            ColumnType::Timestamp | ColumnType::TimestampTz => Builder::Timestamp {
                values: TimestampMicrosecondBuilder::new().with_data_type(data_type),
                zoned: *column_type == ColumnType::TimestampTz,
            },
            ColumnType::String => Builder::String(StringBuilder::new()),
            ColumnType::Binary => Builder::Binary { values: BinaryBuilder::new(), decoded: Vec::new() },
            ColumnType::Fixed(bytes) => Builder::Fixed {
                values: FixedSizeBinaryBuilder::new(bytes as i32),
                bytes: bytes as usize,
                decoded: Vec::new(),
            },
            ColumnType::Uuid => Builder::Uuid(FixedSizeBinaryBuilder::new(UUID_BYTES)),
            ColumnType::List(_) | ColumnType::Map(_) | ColumnType::Struct(_) => return None,
        })
    }

    pub(super) fn append_null(&mut self) {
        each!(self, values => values.append_null(), nested => values.append_null())
    }

    /// Of a value that does not nest.
    pub(super) fn append(&mut self, token: Token<'_>, epoch: Option<EpochUnit>) -> Result<(), Reason> {
        macro_rules! integer {
            ($values:expr) => {{
                let value = integer(token)?;
                $values.append_value(value.try_into().map_err(|_| "is out of range")?);
            }};
        }
        match self {
            Builder::Boolean(values) => values.append_value(boolean(token)?),
            Builder::Int8(values) => integer!(values),
            Builder::Int16(values) => integer!(values),
            Builder::Int32(values) => integer!(values),
            Builder::Int64(values) => values.append_value(integer(token)?),
            Builder::UInt8(values) => integer!(values),
            Builder::UInt16(values) => integer!(values),
            Builder::UInt32(values) => integer!(values),
            Builder::Float32(values) => values.append_value(float(token, |name| name as f32)?),
            Builder::Float64(values) => values.append_value(float(token, |name| name)?),
            Builder::Decimal { values, precision, scale } => match token {
                Token::Number(text) | Token::Text(text) | Token::Field(text) => {
                    values.append_value(values::parse_decimal(text, *precision, *scale)?);
                }
                _ => return Err("is not a decimal number".into()),
            },
            Builder::Date(values) => values.append_value(match since_1970(token, epoch)? {
                Since1970::Number(number, unit) => values::epoch_days(number, unit)?,
                Since1970::Text(text) => values::parse_date(text)?,
            }),
            Builder::Timestamp { values, zoned } => values.append_value(match since_1970(token, epoch)? {
                Since1970::Number(number, unit) => values::epoch_micros(number, unit)?,
                Since1970::Text(text) => values::parse_timestamp(text, *zoned)?,
            }),
            Builder::Time(values) => values.append_value(match since_1970(token, epoch)? {
                Since1970::Number(number, unit) => values::clock_micros(number, unit)?,
                Since1970::Text(text) => values::parse_time(text)?,
            }),
            Builder::TimestampNs { values, zoned } => values.append_value(match since_1970(token, epoch)? {
                Since1970::Number(number, unit) => values::epoch_nanos(number, unit)?,
                Since1970::Text(text) => values::parse_timestamp_nanos(text, *zoned)?,
            }),
            Builder::String(values) => values.append_value(text(token)?),
            Builder::Binary { values, decoded } => values.append_value(base64(token, decoded)?),
            Builder::Fixed { values, bytes, decoded } => match base64(token, decoded)? {
                value if value.len() == *bytes => fixed(values, value)?,
                value => return Err(format!("has {} bytes and not {bytes}", value.len()).into()),
            },
            Builder::Uuid(values) => fixed(values, &values::parse_uuid(text(token)?)?)?,
            Builder::Nested(_) => return Err("does not nest".into()),
        }
        Ok(())
    }

    /// Rows in an error count from the builder's first value.
    pub(super) fn finish(mut self) -> Result<ArrayRef> {
        each!(&mut self, values => Ok(Arc::new(values.finish())), nested => values.finish())
    }
}

fn boolean(token: Token<'_>) -> Result<bool, Reason> {
    match token {
        Token::Boolean(value) => Ok(value),
        Token::Field(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Token::Field(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err("is neither true nor false".into()),
    }
}

fn integer(token: Token<'_>) -> Result<i64, Reason> {
    match token {
        Token::Number(text) | Token::Text(text) | Token::Field(text) => values::parse_integer(text),
        _ => Err("is not a number".into()),
    }
}

fn float<T>(token: Token<'_>, name: impl Fn(f64) -> T) -> Result<T, Reason>
where
    T: std::str::FromStr + Copy + Into<f64>,
{
    match token {
        Token::Number(text) => values::parse_float(text),
        Token::Text(text) => values::parse_float_name(text)
            .map(name)
            .ok_or(Reason::Borrowed("is neither a number nor NaN, Infinity or -Infinity")),
        Token::Field(text) => match values::parse_float_name(text) {
            Some(value) => Ok(name(value)),
            None => values::parse_float(text),
        },
        _ => Err("is not a number".into()),
    }
}

/// A date or time: as text, or as a number if the request says how numbers count.
enum Since1970<'t> {
    Number(i64, EpochUnit),
    Text(&'t str),
}

fn since_1970<'t>(token: Token<'t>, epoch: Option<EpochUnit>) -> Result<Since1970<'t>, Reason> {
    match (token, epoch) {
        (Token::Number(text), Some(unit)) => Ok(Since1970::Number(values::parse_integer(text)?, unit)),
        (Token::Number(_), None) => Err("is a number, which is taken only with time=ms or time=us".into()),
        (Token::Text(text) | Token::Field(text), Some(unit)) => Ok(match text.parse() {
            Ok(number) => Since1970::Number(number, unit),
            Err(_) => Since1970::Text(text),
        }),
        (Token::Text(text) | Token::Field(text), None) => Ok(Since1970::Text(text)),
        _ => Err("is neither a date nor a time".into()),
    }
}

fn base64<'d>(token: Token<'_>, decoded: &'d mut Vec<u8>) -> Result<&'d [u8], Reason> {
    decoded.clear();
    STANDARD.decode_vec(text(token)?, decoded).map_err(|_| "is not base64")?;
    Ok(decoded)
}

fn fixed(values: &mut FixedSizeBinaryBuilder, value: &[u8]) -> Result<(), Reason> {
    values.append_value(value).map_err(|error| error.to_string().into())
}

fn text(token: Token<'_>) -> Result<&str, Reason> {
    match token {
        Token::Text(text) | Token::Field(text) => Ok(text),
        _ => Err("is not a string".into()),
    }
}
