//! The one table of types: what a column may hold, and how SQL, Arrow and Iceberg each spell it.
//!
//! | SQL | Arrow | Iceberg | JSON |
//! |---|---|---|---|
//! | BOOLEAN | Boolean | boolean | true, false |
//! | TINYINT, SMALLINT | Int8, Int16 | int | number |
//! | INTEGER | Int32 | int | number |
//! | BIGINT | Int64 | long | number |
//! | REAL | Float32 | float | number, "NaN", "Infinity", "-Infinity" |
//! | DOUBLE PRECISION | Float64 | double | the same |
//! | DECIMAL(p, s) | Decimal128 | decimal(p, s) | string |
//! | DATE | Date32 | date | "2026-11-23" |
//! | TIMESTAMP | Timestamp(µs) | timestamp | "2026-11-23T13:00:01.000001" |
//! | TIMESTAMPTZ | Timestamp(µs, UTC) | timestamptz | the same with Z |
//! | VARCHAR | Utf8 | string | string |
//! | BYTEA | Binary | binary | base64 |

use std::fmt;

use arrow::datatypes::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::{Code, Error, Result};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    /// `precision` 1 to 38, `scale` 0 to `precision`.
    Decimal {
        precision: u8,
        scale: i8,
    },
    Date,
    /// Microseconds since 1970 of a clock on some wall.
    Timestamp,
    /// Microseconds since 1970 in UTC.
    TimestampTz,
    String,
    Binary,
}

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

    /// How rows of this type lie in memory, in segments and in answers.
    pub fn arrow(self) -> DataType {
        match self {
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::Int8 => DataType::Int8,
            ColumnType::Int16 => DataType::Int16,
            ColumnType::Int32 => DataType::Int32,
            ColumnType::Int64 => DataType::Int64,
            ColumnType::Float32 => DataType::Float32,
            ColumnType::Float64 => DataType::Float64,
            ColumnType::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
            ColumnType::Date => DataType::Date32,
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            ColumnType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            ColumnType::String => DataType::Utf8,
            ColumnType::Binary => DataType::Binary,
        }
    }

    /// How the lake's Parquet files hold it: as [`Self::arrow`], but Iceberg has no integers below 32 bits.
    pub fn lake_arrow(self) -> DataType {
        match self {
            ColumnType::Int8 | ColumnType::Int16 => DataType::Int32,
            other => other.arrow(),
        }
    }

    /// The column type for Arrow data from outside (a file, an upload, a query's answer). Wider relatives map to ours:
    /// large and view strings, dictionaries, other time units, other zones.
    pub fn from_arrow(data_type: &DataType) -> Result<ColumnType> {
        Ok(match data_type {
            DataType::Boolean => ColumnType::Boolean,
            DataType::Int8 => ColumnType::Int8,
            DataType::Int16 => ColumnType::Int16,
            DataType::Int32 => ColumnType::Int32,
            DataType::Int64 => ColumnType::Int64,
            DataType::UInt8 => ColumnType::Int16,
            DataType::UInt16 => ColumnType::Int32,
            DataType::UInt32 => ColumnType::Int64,
            DataType::Float16 | DataType::Float32 => ColumnType::Float32,
            DataType::Float64 => ColumnType::Float64,
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale) => ColumnType::decimal(u64::from(*precision), i64::from(*scale))?,
            DataType::Date32 | DataType::Date64 => ColumnType::Date,
            DataType::Timestamp(_, None) => ColumnType::Timestamp,
            DataType::Timestamp(_, Some(_)) => ColumnType::TimestampTz,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnType::String,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => ColumnType::Binary,
            DataType::Dictionary(_, value) => ColumnType::from_arrow(value)?,
            DataType::UInt64 => {
                return Err(Error::new(Code::InvalidType, "unsigned 64-bit integers have no Iceberg type")
                    .with_hint("use BIGINT, or DECIMAL(20, 0) for values above 9223372036854775807"));
            }
            other => return Err(Error::not_built(format!("the column type {other}"))),
        })
    }

    /// Whether Iceberg's `bucket` transform takes it, so that it can be a bucket key. Never floats or booleans.
    pub fn can_be_bucket_key(self) -> bool {
        !matches!(self, ColumnType::Boolean | ColumnType::Float32 | ColumnType::Float64)
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
            ColumnType::Float32 => "REAL",
            ColumnType::Float64 => "DOUBLE PRECISION",
            ColumnType::Decimal { precision, scale } => return write!(formatter, "DECIMAL({precision}, {scale})"),
            ColumnType::Date => "DATE",
            ColumnType::Timestamp => "TIMESTAMP",
            ColumnType::TimestampTz => "TIMESTAMPTZ",
            ColumnType::String => "VARCHAR",
            ColumnType::Binary => "BYTEA",
        })
    }
}
