//! Type names of DDL, and what they mean.
//!
//! Nested types have a grammar of ours, because in the parser's no field of a struct is NOT NULL: `t[]` and `t ARRAY`,
//! `ARRAY<t>` and `LIST(t)`, `STRUCT(a t, …)` and `ROW(a t, …)`, `MAP(k, v)`, with round or angle brackets.

use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, DataType, ExactNumberInfo, TimezoneInfo};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use thermocline_schemas::{Code, ColumnType, Error, Result, fold};

use super::ddl::{Parsing, folded};
use super::invalid;

/// Nested types deeper than any that a table can have; those are for the type to refuse.
const DEPTH_MAX: usize = 32;

/// The type that stands here.
pub(super) fn parse_column_type(parser: &mut Parser) -> Parsing<ColumnType> {
    let mut types = Types { parser, is_half_closed: false };
    let found = types.column_type(0)?;
    if types.is_half_closed {
        return Err(invalid("a type has one > too many").into());
    }
    Ok(found)
}

struct Types<'p, 't> {
    parser: &'p mut Parser<'t>,
    /// Of a `>>`, which is one token, the first half is used up.
    is_half_closed: bool,
}

impl Types<'_, '_> {
    fn column_type(&mut self, depth: usize) -> Parsing<ColumnType> {
        if depth > DEPTH_MAX {
            return Err(Error::new(Code::InvalidType, format!("a type nests more than {DEPTH_MAX} levels")).into());
        }
        let mut found = match self.nested_name() {
            Some(name) => self.nested(&name, depth)?,
            None => column_type(&self.parser.parse_data_type()?)?,
        };
        while !self.is_half_closed {
            if self.parser.parse_keyword(Keyword::ARRAY) {
                found = ColumnType::list(found, true)?;
            } else if self.parser.consume_token(&Token::LBracket) {
                if !self.parser.consume_token(&Token::RBracket) {
                    return Err(without_length(&format!("{found}[…]")).into());
                }
                found = ColumnType::list(found, true)?;
            } else {
                break;
            }
        }
        Ok(found)
    }

    /// The word that begins a nested type, if one stands here.
    fn nested_name(&self) -> Option<String> {
        let Token::Word(word) = self.parser.peek_token().token else { return None };
        let name = word.value.to_ascii_uppercase();
        let is_nested =
            matches!(name.as_str(), "ARRAY" | "LIST" | "MAP" | "STRUCT" | "ROW") && word.quote_style.is_none();
        let opens = matches!(self.parser.peek_nth_token(1).token, Token::LParen | Token::Lt);
        (is_nested && opens).then_some(name)
    }

    fn nested(&mut self, name: &str, depth: usize) -> Parsing<ColumnType> {
        self.parser.next_token();
        let is_angle = self.parser.next_token().token == Token::Lt;
        let made = match name {
            "ARRAY" | "LIST" => {
                let (element, nullable) = self.inner(depth)?;
                ColumnType::list(element, nullable)?
            }
            "MAP" => {
                // That it is NOT NULL goes without saying.
                let (key, _) = self.inner(depth)?;
                self.parser.expect_token(&Token::Comma)?;
                let (value, nullable) = self.inner(depth)?;
                ColumnType::map(key, value, nullable)?
            }
            _ => {
                let mut fields = Vec::new();
                while !matches!(self.parser.peek_token().token, Token::RParen | Token::Gt) {
                    let name = folded(&self.parser.parse_identifier()?);
                    let _as_in_spark = self.parser.consume_token(&Token::Colon);
                    let (column_type, nullable) = self.inner(depth)?;
                    fields.push((name, column_type, nullable));
                    if self.is_half_closed || !self.parser.consume_token(&Token::Comma) {
                        break;
                    }
                }
                ColumnType::structure(fields)?
            }
        };
        self.close(is_angle)?;
        Ok(made)
    }

    /// A type inside another, and whether it may be null.
    fn inner(&mut self, depth: usize) -> Parsing<(ColumnType, bool)> {
        let found = self.column_type(depth + 1)?;
        let not_null = !self.is_half_closed && self.parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]);
        let _is_null = !self.is_half_closed && !not_null && self.parser.parse_keyword(Keyword::NULL);
        Ok((found, !not_null))
    }

    fn close(&mut self, is_angle: bool) -> Parsing<()> {
        if self.is_half_closed && is_angle {
            self.is_half_closed = false;
        } else if is_angle && self.parser.consume_token(&Token::ShiftRight) {
            self.is_half_closed = true;
        } else {
            self.parser.expect_token(if is_angle { &Token::Gt } else { &Token::RParen })?;
        }
        Ok(())
    }
}

fn without_length(name: &str) -> Error {
    Error::new(Code::InvalidType, format!("{name} is not a column type"))
        .with_hint("lists have no fixed length: INTEGER[]")
}

/// The column type that `name` means.
pub(crate) fn column_type(name: &DataType) -> Result<ColumnType> {
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
        Sql::Array(
            ArrayElemTypeDef::AngleBracket(element)
            | ArrayElemTypeDef::Parenthesis(element)
            | ArrayElemTypeDef::SquareBracket(element, None),
        ) => ColumnType::list(column_type(element)?, true)?,
        Sql::Array(ArrayElemTypeDef::SquareBracket(_, Some(_))) => return Err(without_length(&name.to_string())),
        Sql::Array(ArrayElemTypeDef::None) => {
            return Err(refused(name).with_hint("say of what: INTEGER[] or ARRAY<INTEGER>"));
        }
        Sql::Tuple(_) | Sql::Nested(_) | Sql::JSON | Sql::JSONB => {
            return Err(Error::not_built(format!("the column type {name}")));
        }
        Sql::Custom(custom, arguments) => match (fold(&custom.to_string()).as_str(), arguments.as_slice()) {
            ("int1", []) => ColumnType::Int8,
            ("uinteger", []) => ColumnType::UInt32,
            ("fixed", [bytes]) => ColumnType::fixed(bytes.parse().map_err(|_| refused(name))?)?,
            _ => return Err(refused(name)),
        },
        _ => return Err(refused(name)),
    })
}

fn refused(name: &DataType) -> Error {
    Error::new(Code::InvalidType, format!("{name} is not a column type")).with_hint(
        "BOOLEAN, TINYINT, SMALLINT, INTEGER, BIGINT, UTINYINT, USMALLINT, UINTEGER, REAL, DOUBLE PRECISION, \
         DECIMAL(p, s), DATE, TIME, TIMESTAMP, TIMESTAMPTZ, TIMESTAMP(9), TIMESTAMPTZ(9), VARCHAR, BYTEA, FIXED(n), UUID, \
         t[], STRUCT(a t, …), MAP(k, v)",
    )
}
