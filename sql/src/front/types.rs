//! Type names of DDL, and what they mean.

use datafusion::sql::sqlparser::ast::{DataType, ExactNumberInfo, TimezoneInfo};
use thermocline_schemas::{Code, ColumnType, Error, Result, fold};

/// The column type that `name` means.
pub(super) fn column_type(name: &DataType) -> Result<ColumnType> {
    use DataType as Sql;
    Ok(match name {
        Sql::Boolean | Sql::Bool => ColumnType::Boolean,
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
        Sql::Timestamp(None | Some(6), zone) => match zone {
            TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => ColumnType::Timestamp,
            TimezoneInfo::WithTimeZone | TimezoneInfo::Tz => ColumnType::TimestampTz,
        },
        Sql::Timestamp(Some(_), _) => {
            return Err(refused(name).with_hint("timestamps have microseconds: TIMESTAMP or TIMESTAMP(6)"));
        }
        Sql::Datetime(None | Some(6)) => ColumnType::Timestamp,
        Sql::Varchar(None) | Sql::CharacterVarying(None) | Sql::CharVarying(None) => ColumnType::String,
        Sql::Text | Sql::String(None) => ColumnType::String,
        Sql::Varchar(Some(_)) | Sql::CharacterVarying(Some(_)) | Sql::CharVarying(Some(_)) => {
            return Err(refused(name).with_hint("lengths are not checked: say VARCHAR"));
        }
        Sql::Bytea | Sql::Blob(None) | Sql::Binary(None) | Sql::Varbinary(None) => ColumnType::Binary,
        Sql::Time(..)
        | Sql::Uuid
        | Sql::Array(_)
        | Sql::Map(..)
        | Sql::Struct(..)
        | Sql::Tuple(_)
        | Sql::FixedString(_)
        | Sql::Nested(_)
        | Sql::JSON
        | Sql::JSONB => {
            return Err(Error::not_built(format!("the column type {name}")));
        }
        Sql::Custom(custom, arguments) if arguments.is_empty() => match fold(&custom.to_string()).as_str() {
            "int1" => ColumnType::Int8,
            "fixed" | "row" | "map" | "struct" => return Err(Error::not_built(format!("the column type {name}"))),
            _ => return Err(refused(name)),
        },
        _ => return Err(refused(name)),
    })
}

fn refused(name: &DataType) -> Error {
    Error::new(Code::InvalidType, format!("{name} is not a column type")).with_hint(
        "BOOLEAN, TINYINT, SMALLINT, INTEGER, BIGINT, REAL, DOUBLE PRECISION, DECIMAL(p, s), DATE, TIMESTAMP, \
         TIMESTAMPTZ, VARCHAR, BYTEA",
    )
}
