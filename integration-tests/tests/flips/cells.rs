//! Values of rows in a form of their own, made from Arrow here and from text in `texts`.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    Boolean(bool),
    /// A whole number or a decimal: negative, digits without zeros at either end, power of ten.
    Exact(bool, String, i64),
    /// The bits, one for all that are not a number.
    Real(u32),
    Double(u64),
    Text(String),
    Bytes(Vec<u8>),
    Days(i64),
    Micros(i64),
}

impl Cell {
    /// Of `[+-]digits[.digits][e[+-]digits]`; none if that is not what it is.
    pub fn exact(text: &str) -> Option<Cell> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, power) = match rest.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, power.parse::<i64>().ok()?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let significant = digits.trim_start_matches('0');
        let trimmed = significant.trim_end_matches('0');
        if trimmed.is_empty() {
            return Some(Cell::Exact(false, String::new(), 0));
        }
        let power = power - fraction.len() as i64 + (significant.len() - trimmed.len()) as i64;
        Some(Cell::Exact(negative, trimmed.to_owned(), power))
    }

    pub fn real(value: f32) -> Cell {
        Cell::Real(if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() })
    }

    pub fn double(value: f64) -> Cell {
        Cell::Double(if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() })
    }
}

/// The values of each column.
pub fn cells_of(batch: &RecordBatch) -> Vec<Vec<Cell>> {
    let column = |column: &arrow::array::ArrayRef| (0..batch.num_rows()).map(|row| cell(column, row)).collect();
    batch.columns().iter().map(column).collect()
}

fn cell(column: &dyn Array, row: usize) -> Cell {
    if column.is_null(row) {
        return Cell::Null;
    }
    let whole = |number: i64| Cell::exact(&number.to_string()).unwrap();
    match column.data_type() {
        DataType::Boolean => Cell::Boolean(column.as_boolean().value(row)),
        DataType::Int8 => whole(column.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => whole(column.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => whole(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => whole(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => Cell::real(column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Cell::double(column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, scale) => {
            let unscaled = column.as_primitive::<Decimal128Type>().value(row);
            Cell::exact(&format!("{unscaled}e-{scale}")).unwrap()
        }
        DataType::Date32 => Cell::Days(column.as_primitive::<Date32Type>().value(row).into()),
        DataType::Timestamp(..) => Cell::Micros(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        DataType::Utf8 => Cell::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::Binary => Cell::Bytes(column.as_binary::<i32>().value(row).to_vec()),
        other => panic!("no table of the test has {other}"),
    }
}
