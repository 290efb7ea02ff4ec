//! The one table of types: what a column may hold, and how SQL, Arrow and Iceberg each spell it.
//!
//! | SQL | Arrow | Iceberg | JSON |
//! |---|---|---|---|
//! | BOOLEAN | Boolean | boolean | true, false |
//! | TINYINT, SMALLINT | Int8, Int16 | int | number |
//! | INTEGER | Int32 | int | number |
//! | BIGINT | Int64 | long | number |
//! | UTINYINT, USMALLINT | UInt8, UInt16 | int | number |
//! | UINTEGER | UInt32 | long | number |
//! | REAL | Float32 | float | number, "NaN", "Infinity", "-Infinity" |
//! | DOUBLE PRECISION | Float64 | double | the same |
//! | DECIMAL(p, s) | Decimal128 | decimal(p, s) | string |
//! | DATE | Date32 | date | "2026-11-23" |
//! | TIME | Time64(µs) | time | "13:00:01.000001" |
//! | TIMESTAMP | Timestamp(µs) | timestamp | "2026-11-23T13:00:01.000001" |
//! | TIMESTAMPTZ | Timestamp(µs, UTC) | timestamptz | the same with Z |
//! | TIMESTAMP(9) | Timestamp(ns) | timestamp_ns | "2026-11-23T13:00:01.000000001" |
//! | TIMESTAMPTZ(9) | Timestamp(ns, UTC) | timestamptz_ns | the same with Z |
//! | VARCHAR | Utf8 | string | string |
//! | BYTEA | Binary | binary | base64 |
//! | FIXED(n) | FixedSizeBinary(n) | fixed(n) | base64 |
//! | UUID | FixedSizeBinary(16), extension `arrow.uuid` | uuid | "0189dd5c-a2a5-7d1e-9a4c-0242ac120002" |
//! | t[] | List | list | array |
//! | STRUCT(a t, b u NOT NULL) | Struct | struct | object |
//! | MAP(k, v) | Map | map | array of `[key, value]` |
//!
//! Iceberg has no unsigned integers: they are kept in the next signed type that holds them all, which `UBIGINT` has not.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::nested::{NestedField, Spelling};
use crate::{Code, Error, Result};

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    Float32,
    Float64,
    /// `precision` 1 to 38, `scale` 0 to `precision`.
    Decimal {
        precision: u8,
        scale: i8,
    },
    Date,
    /// Microseconds since midnight.
    Time,
    /// Microseconds since 1970 of a clock on some wall.
    Timestamp,
    /// Microseconds since 1970 in UTC.
    TimestampTz,
    /// Nanoseconds since 1970 of a clock on some wall.
    TimestampNs,
    /// Nanoseconds since 1970 in UTC.
    TimestampTzNs,
    String,
    Binary,
    /// So many bytes, 1 to 4096.
    Fixed(u32),
    Uuid,
    /// Elements of one type; made by [`ColumnType::list`].
    List(Arc<NestedField>),
    /// A key, which is never null, and a value; made by [`ColumnType::map`].
    Map(Arc<[NestedField; 2]>),
    /// Fields, at least one; made by [`ColumnType::structure`].
    Struct(Arc<[NestedField]>),
}

/// The most bytes of a [`ColumnType::Fixed`]: a null takes as many as a value.
const FIXED_BYTES_MAX: u64 = 4096;

/// Where Arrow notes that a column has values of a type that Arrow itself has not.
const EXTENSION_KEY: &str = "ARROW:extension:name";
const UUID_EXTENSION: &str = "arrow.uuid";
/// How long a UUID is.
pub const UUID_BYTES: i32 = 16;

/// How Arrow spells the zone of [`ColumnType::TimestampTz`].
pub(crate) const UTC: &str = "UTC";

impl ColumnType {
    /// A decimal, if its digits can be held.
    pub fn decimal(precision: u64, scale: i64) -> Result<ColumnType> {
        match (u8::try_from(precision), i8::try_from(scale)) {
            (Ok(precision @ 1..=38), Ok(scale)) if scale >= 0 && scale <= precision as i8 => {
                Ok(ColumnType::Decimal { precision, scale })
            }
            _ => Err(Error::new(Code::InvalidType, format!("DECIMAL({precision}, {scale}) cannot be held"))
                .with_hint("precision is 1 to 38 and scale 0 to precision")),
        }
    }

    /// Bytes of one length, if they can be held.
    pub fn fixed(bytes: u64) -> Result<ColumnType> {
        match bytes {
            1..=FIXED_BYTES_MAX => Ok(ColumnType::Fixed(bytes as u32)),
            _ => Err(Error::new(Code::InvalidType, format!("FIXED({bytes}) cannot be held"))
                .with_hint(format!("1 to {FIXED_BYTES_MAX} bytes; longer ones are BYTEA"))),
        }
    }

    /// How values of this type lie in memory and in answers; what stands inside it has no field ids, and may be null.
    pub fn arrow(&self) -> DataType {
        match *self {
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::Int8 => DataType::Int8,
            ColumnType::Int16 => DataType::Int16,
            ColumnType::Int32 => DataType::Int32,
            ColumnType::Int64 => DataType::Int64,
            ColumnType::UInt8 => DataType::UInt8,
            ColumnType::UInt16 => DataType::UInt16,
            ColumnType::UInt32 => DataType::UInt32,
            ColumnType::Float32 => DataType::Float32,
            ColumnType::Float64 => DataType::Float64,
            ColumnType::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
            ColumnType::Date => DataType::Date32,
            ColumnType::Time => DataType::Time64(TimeUnit::Microsecond),
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            ColumnType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            ColumnType::TimestampNs => DataType::Timestamp(TimeUnit::Nanosecond, None),
            ColumnType::TimestampTzNs => DataType::Timestamp(TimeUnit::Nanosecond, Some(UTC.into())),
            ColumnType::String => DataType::Utf8,
            ColumnType::Binary => DataType::Binary,
            ColumnType::Fixed(bytes) => DataType::FixedSizeBinary(bytes as i32),
            ColumnType::Uuid => DataType::FixedSizeBinary(UUID_BYTES),
            ColumnType::List(_) | ColumnType::Map(_) | ColumnType::Struct(_) => self.nested_arrow(Spelling::Plain),
        }
    }

    /// As [`Self::arrow`], with field ids on what stands inside it: how the log and segments hold it.
    pub fn log_arrow(&self) -> DataType {
        if self.is_nested() { self.nested_arrow(Spelling::Log) } else { self.arrow() }
    }

    /// How the lake's Parquet files hold it: as [`Self::log_arrow`], but Iceberg has no integers below 32 bits and none
    /// without a sign.
    pub fn lake_arrow(&self) -> DataType {
        match self {
            ColumnType::Int8 | ColumnType::Int16 | ColumnType::UInt8 | ColumnType::UInt16 => DataType::Int32,
            ColumnType::UInt32 => DataType::Int64,
            other if other.is_nested() => other.nested_arrow(Spelling::Lake),
            other => other.arrow(),
        }
    }

    /// A column of this type, spelled as rows lie in memory or as the lake holds them.
    pub fn field(&self, name: &str, spelling: fn(&ColumnType) -> DataType, nullable: bool) -> Field {
        let field = Field::new(name, spelling(self), nullable);
        match self {
            ColumnType::Uuid => field.with_metadata([(EXTENSION_KEY.to_owned(), UUID_EXTENSION.to_owned())].into()),
            _ => field,
        }
    }

    /// As [`Self::from_arrow`], of a field that may say more than its data type.
    pub fn of_field(field: &Field) -> Result<ColumnType> {
        ColumnType::of_field_at(field, 0)
    }

    /// Of a field that stands so many levels inside others.
    pub(crate) fn of_field_at(field: &Field, depth: usize) -> Result<ColumnType> {
        if is_uuid(field) { Ok(ColumnType::Uuid) } else { ColumnType::from_arrow_at(field.data_type(), depth) }
    }

    /// Whether only version 3 of the Iceberg format has it.
    pub fn needs_format_3(&self) -> bool {
        self.any(&|inner| matches!(inner, ColumnType::TimestampNs | ColumnType::TimestampTzNs))
    }

    /// What readers of the lake that we know make of it, if not all of them read it as it is. Seen with Spark 3.5 on Iceberg
    /// 1.10, DuckDB 1.5, PyIceberg 0.12 and Polars 2.1.
    pub fn reader_note(&self) -> Option<&'static str> {
        match self {
            nested if nested.is_nested() => nested.inner().iter().find_map(|field| field.column_type.reader_note()),
            ColumnType::Time => Some("Spark cannot read tables with TIME columns"),
            ColumnType::TimestampNs => Some("Spark cannot read tables with timestamps of nanoseconds"),
            ColumnType::TimestampTzNs => Some("Spark and DuckDB cannot read tables with TIMESTAMPTZ(9) columns"),
            _ => None,
        }
    }

    /// The column type for Arrow data from outside (a file, an upload, a query's answer). Wider relatives map to ours:
    /// large and view strings, dictionaries, other time units, other zones. Timestamps of nanoseconds become those of
    /// microseconds, which every reader of the lake knows.
    pub fn from_arrow(data_type: &DataType) -> Result<ColumnType> {
        ColumnType::from_arrow_at(data_type, 0)
    }

    fn from_arrow_at(data_type: &DataType, depth: usize) -> Result<ColumnType> {
        Ok(match data_type {
            DataType::Boolean => ColumnType::Boolean,
            DataType::Int8 => ColumnType::Int8,
            DataType::Int16 => ColumnType::Int16,
            DataType::Int32 => ColumnType::Int32,
            DataType::Int64 => ColumnType::Int64,
            DataType::UInt8 => ColumnType::UInt8,
            DataType::UInt16 => ColumnType::UInt16,
            DataType::UInt32 => ColumnType::UInt32,
            DataType::Float16 | DataType::Float32 => ColumnType::Float32,
            DataType::Float64 => ColumnType::Float64,
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale) => ColumnType::decimal(u64::from(*precision), i64::from(*scale))?,
            DataType::Date32 | DataType::Date64 => ColumnType::Date,
            DataType::Time32(_) | DataType::Time64(_) => ColumnType::Time,
            DataType::Timestamp(_, None) => ColumnType::Timestamp,
            DataType::Timestamp(_, Some(_)) => ColumnType::TimestampTz,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnType::String,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => ColumnType::Binary,
            DataType::FixedSizeBinary(bytes) => ColumnType::fixed(u64::try_from(*bytes).unwrap_or(0))?,
            DataType::Dictionary(_, value) if !value.is_nested() => ColumnType::from_arrow_at(value, depth)?,
            DataType::UInt64 => {
                return Err(Error::new(Code::InvalidType, "unsigned 64-bit integers have no Iceberg type")
                    .with_hint("use BIGINT, or DECIMAL(20, 0) for values above 9223372036854775807"));
            }
            other => ColumnType::nested_from_arrow(other, depth)?,
        })
    }

    /// Whether Iceberg's `bucket` transform takes it, so that it can be a bucket key. Never floats or booleans.
    pub fn can_be_bucket_key(&self) -> bool {
        !matches!(self, ColumnType::Boolean | ColumnType::Float32 | ColumnType::Float64) && !self.is_nested()
    }
}

impl fmt::Display for ColumnType {
    /// The SQL spelling, as our own DDL takes it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ColumnType::Boolean => "BOOLEAN",
            ColumnType::Int8 => "TINYINT",
            ColumnType::Int16 => "SMALLINT",
            ColumnType::Int32 => "INTEGER",
            ColumnType::Int64 => "BIGINT",
            ColumnType::UInt8 => "UTINYINT",
            ColumnType::UInt16 => "USMALLINT",
            ColumnType::UInt32 => "UINTEGER",
            ColumnType::Float32 => "REAL",
            ColumnType::Float64 => "DOUBLE PRECISION",
            ColumnType::Decimal { precision, scale } => return write!(formatter, "DECIMAL({precision}, {scale})"),
            ColumnType::Date => "DATE",
            ColumnType::Time => "TIME",
            ColumnType::Timestamp => "TIMESTAMP",
            ColumnType::TimestampTz => "TIMESTAMPTZ",
            ColumnType::TimestampNs => "TIMESTAMP(9)",
            ColumnType::TimestampTzNs => "TIMESTAMPTZ(9)",
            ColumnType::String => "VARCHAR",
            ColumnType::Binary => "BYTEA",
            ColumnType::Fixed(bytes) => return write!(formatter, "FIXED({bytes})"),
            ColumnType::Uuid => "UUID",
            ColumnType::List(_) | ColumnType::Map(_) | ColumnType::Struct(_) => {
                return formatter.write_str(&self.spell_nested());
            }
        })
    }
}

/// How many bytes a value takes where all of a type take as many.
pub fn fixed_width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).ok(),
        other => other.primitive_width(),
    }
}

/// Whether a column holds UUIDs.
pub fn is_uuid(field: &Field) -> bool {
    *field.data_type() == DataType::FixedSizeBinary(UUID_BYTES)
        && field.metadata().get(EXTENSION_KEY).is_some_and(|name| name == UUID_EXTENSION)
}
