//! Type names of DDL, and what they mean.

use datafusion::sql::sqlparser::ast::{DataType, ExactNumberInfo, TimezoneInfo};
use thermocline_schemas::{Code, ColumnType, Error, Result, fold};

/// The column type that `name` means.
pub(super) fn column_type(name: &DataType) -> Result<ColumnType> {
    use DataType as Sql;
    Ok(match name {
        Sql::Boolean | Sql::Bool => ColumnType::Boolean,
        Sql::UTinyInt | Sql::UInt8 | Sql::TinyIntUnsigned(None) => ColumnType::UInt8,
        Sql::USmallInt | Sql::UInt16 | Sql::SmallIntUnsigned(None) => ColumnType::UInt16,
        Sql::UInt32 | Sql::IntUnsigned(None) | Sql::IntegerUnsigned(None) => ColumnType::UInt32,
        Sql::UBigInt | Sql::UInt64 | Sql::BigIntUnsigned(None) => {
            return Err(
                refused(name).with_hint("Iceberg has none so wide: BIGINT, or DECIMAL(20, 0) for all its values")
            );
        }
        Sql::TinyInt(None) => ColumnType::Int8,
        Sql::SmallInt(None) | Sql::Int2(None) | Sql::Int16 => ColumnType::Int16,
        Sql::Integer(None) | Sql::Int(None) | Sql::Int4(None) | Sql::Int32 => ColumnType::Int32,
        Sql::BigInt(None) | Sql::Int8(None) | Sql::Int64 => ColumnType::Int64,
        Sql::Real | Sql::Float4 | Sql::Float32 => ColumnType::Float32,
        Sql::DoublePrecision | Sql::Double(ExactNumberInfo::None) | Sql::Float8 | Sql::Float64 => ColumnType::Float64,
        Sql::Float(ExactNumberInfo::None) => ColumnType::Float64,
        // As in PostgreSQL, the digits are binary.
        Sql::Float(ExactNumberInfo::Precision(1..=24)) => ColumnType::Float32,
        Sql::Float(ExactNumberInfo::Precision(25..=53)) => ColumnType::Float64,
        Sql::Decimal(digits) | Sql::Numeric(digits) | Sql::Dec(digits) => match digits {
            ExactNumberInfo::PrecisionAndScale(precision, scale) => ColumnType::decimal(*precision, *scale)?,
            ExactNumberInfo::Precision(precision) => ColumnType::decimal(*precision, 0)?,
            ExactNumberInfo::None => {
                return Err(refused(name).with_hint("say how many digits: DECIMAL(18, 2)"));
            }
        },
        Sql::Date | Sql::Date32 => ColumnType::Date,
        Sql::Time(None | Some(6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => ColumnType::Time,
        Sql::Time(..) => {
            return Err(refused(name).with_hint("times of day have microseconds and no zone: TIME or TIME(6)"));
        }
        Sql::Timestamp(digits @ (None | Some(6 | 9)), zone) => match (zone, digits) {
            (TimezoneInfo::None | TimezoneInfo::WithoutTimeZone, Some(9)) => ColumnType::TimestampNs,
            (TimezoneInfo::None | TimezoneInfo::WithoutTimeZone, _) => ColumnType::Timestamp,
            (TimezoneInfo::WithTimeZone | TimezoneInfo::Tz, Some(9)) => ColumnType::TimestampTzNs,
            (TimezoneInfo::WithTimeZone | TimezoneInfo::Tz, _) => ColumnType::TimestampTz,
        },
        Sql::Timestamp(Some(_), _) => {
            return Err(refused(name)
                .with_hint("timestamps have microseconds, TIMESTAMP or TIMESTAMP(6), or nanoseconds, TIMESTAMP(9)"));
        }
        Sql::Datetime(None | Some(6)) => ColumnType::Timestamp,
        Sql::Varchar(None) | Sql::CharacterVarying(None) | Sql::CharVarying(None) => ColumnType::String,
        Sql::Text | Sql::String(None) => ColumnType::String,
        Sql::Varchar(Some(_)) | Sql::CharacterVarying(Some(_)) | Sql::CharVarying(Some(_)) => {
            return Err(refused(name).with_hint("lengths are not checked: say VARCHAR"));
        }
        Sql::Bytea | Sql::Blob(None) | Sql::Binary(None) | Sql::Varbinary(None) => ColumnType::Binary,
        Sql::Uuid => ColumnType::Uuid,
        Sql::Binary(Some(bytes)) => ColumnType::fixed(*bytes)?,
        Sql::Array(_) | Sql::Map(..) | Sql::Struct(..) | Sql::Tuple(_) | Sql::Nested(_) | Sql::JSON | Sql::JSONB => {
            return Err(Error::not_built(format!("the column type {name}")));
        }
        Sql::Custom(custom, arguments) => match (fold(&custom.to_string()).as_str(), arguments.as_slice()) {
            ("int1", []) => ColumnType::Int8,
            ("uinteger", []) => ColumnType::UInt32,
            ("fixed", [bytes]) => ColumnType::fixed(bytes.parse().map_err(|_| refused(name))?)?,
            ("row" | "map" | "struct", _) => return Err(Error::not_built(format!("the column type {name}"))),
            _ => return Err(refused(name)),
        },
        _ => return Err(refused(name)),
    })
}

fn refused(name: &DataType) -> Error {
    Error::new(Code::InvalidType, format!("{name} is not a column type")).with_hint(
        "BOOLEAN, TINYINT, SMALLINT, INTEGER, BIGINT, UTINYINT, USMALLINT, UINTEGER, REAL, DOUBLE PRECISION, \
         DECIMAL(p, s), DATE, TIME, TIMESTAMP, TIMESTAMPTZ, TIMESTAMP(9), TIMESTAMPTZ(9), VARCHAR, BYTEA, FIXED(n), UUID",
    )
}
