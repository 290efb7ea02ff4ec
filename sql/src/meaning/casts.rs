//! Casts that mean what they say.
//!
//! - One that loses something stays where it is: of `CAST(price AS INT) = 1` the optimizer would make `price = 1.00`, which
//!   prices of 1.50 are not. So what it might take apart is put out of its sight.
//! - A text without a digit is no DECIMAL; Arrow reads it as 0.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::compute::{cast, nullif};
use datafusion::arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TryCast, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use thermocline_schemas::{Code, Error};

use super::comparisons::each_expression;

/// Runs before DataFusion's own type coercion, which makes casts that are meant to be taken apart again.
#[derive(Debug)]
pub(super) struct CastsStay;

/// Runs behind it: its casts read texts too.
#[derive(Debug)]
pub(super) struct DecimalTexts;

impl AnalyzerRule for CastsStay {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        each_expression(plan, |expr, schema| match types(&expr, schema).is_some_and(|(from, to)| loses(&from, &to)) {
            true => Transformed::yes(call(CastFunction::Kept, expr)),
            false => Transformed::no(expr),
        })
    }

    fn name(&self) -> &str {
        "casts_stay"
    }
}

impl AnalyzerRule for DecimalTexts {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let is_text = |from: &DataType| matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        each_expression(plan, |expr, schema| {
            if !types(&expr, schema).is_some_and(|(from, to)| is_text(&from) && scale(&to).is_some()) {
                return Transformed::no(expr);
            }
            let checked = |function, inner: Box<Expr>| Box::new(call(function, *inner));
            Transformed::yes(match expr {
                Expr::Cast(Cast { expr, field }) => {
                    Expr::Cast(Cast { expr: checked(CastFunction::Number, expr), field })
                }
                Expr::TryCast(TryCast { expr, field }) => {
                    Expr::TryCast(TryCast { expr: checked(CastFunction::NumberOrNull, expr), field })
                }
                other => other,
            })
        })
    }

    fn name(&self) -> &str {
        "decimal_texts"
    }
}

/// From what and to what a cast is; none if it is none, or nobody knows yet.
fn types(expr: &Expr, schema: &DFSchema) -> Option<(DataType, DataType)> {
    match expr {
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            Some((expr.get_type(schema).ok()?, field.data_type().clone()))
        }
        _ => None,
    }
}

/// Whether different values may become one, or one of another moment.
fn loses(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Timestamp(from, zone), DataType::Timestamp(to, other)) => {
            fineness(*from) > fineness(*to) || moves(zone.as_deref(), other.as_deref())
        }
        (from, to) => match (scale(from), scale(to)) {
            (Some(from), Some(to)) => from > to,
            (Some(from), None) => from > 0 && to.is_integer(),
            _ => false,
        },
    }
}

/// Whether the clock is set: what the optimizer compares then would be off by the zone.
fn moves(from: Option<&str>, to: Option<&str>) -> bool {
    let is_utc = |zone: &str| matches!(zone, "UTC" | "+00:00");
    match (from, to) {
        (Some(zone), None) | (None, Some(zone)) => !is_utc(zone),
        _ => false,
    }
}

fn fineness(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

fn scale(data_type: &DataType) -> Option<i8> {
    match data_type {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => Some(*scale),
        _ => None,
    }
}

fn call(function: CastFunction, argument: Expr) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), vec![argument]))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CastFunction {
    /// What it is given.
    Kept,
    /// A text with a digit in it, or an error.
    Number,
    /// A text with a digit in it, or null.
    NumberOrNull,
}

impl ScalarUDFImpl for CastFunction {
    fn name(&self) -> &str {
        match self {
            CastFunction::Kept => "kept",
            CastFunction::Number => "number_text",
            CastFunction::NumberOrNull => "number_text_or_null",
        }
    }

    fn signature(&self) -> &Signature {
        static SIGNATURE: LazyLock<Signature> = LazyLock::new(|| Signature::any(1, Volatility::Immutable));
        &SIGNATURE
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = args.arg_fields[0].as_ref().clone();
        let nullable = field.is_nullable() || *self == CastFunction::NumberOrNull;
        Ok(Arc::new(field.with_nullable(nullable)))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = args.args.remove(0);
        if *self == CastFunction::Kept {
            return Ok(values);
        }
        match values {
            ColumnarValue::Array(texts) => Ok(ColumnarValue::Array(self.checked(texts)?)),
            ColumnarValue::Scalar(text) => {
                let checked = self.checked(text.to_array()?)?;
                datafusion::common::ScalarValue::try_from_array(&checked, 0).map(ColumnarValue::Scalar)
            }
        }
    }
}

impl CastFunction {
    fn checked(self, texts: ArrayRef) -> Result<ArrayRef> {
        let plain = cast(&texts, &DataType::LargeUtf8)?;
        let plain = plain.as_string::<i64>();
        let is_none = |row: usize| plain.is_valid(row) && !has_digit(plain.value(row));
        let Some(first) = (0..plain.len()).find(|row| is_none(*row)) else { return Ok(texts) };
        if self == CastFunction::NumberOrNull {
            let none: BooleanArray = (0..plain.len()).map(|row| Some(is_none(row))).collect();
            return Ok(nullif(&texts, &none)?);
        }
        let message = format!("{:?} is no DECIMAL", plain.value(first));
        let error = Error::new(Code::InvalidSql, message).with_hint("NULLIF(text, '') makes empty texts NULL");
        Err(DataFusionError::External(Box::new(error)))
    }
}

/// Whether a text may be a decimal, as Arrow does not ask.
pub(crate) fn has_digit(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
}
