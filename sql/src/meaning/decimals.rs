//! Comparisons of decimals with number literals, made exact.
//!
//! A literal like `-6991028.06` is a double for the planner, and to compare it with a decimal it is brought to a decimal of
//! fifteen places: -6991028.059999999590218. So `price = -6991028.06` would miss the rows that have -6991028.06. Where the
//! literal, written shortest, has no more places than the decimal, it is taken for the decimal that was written. One
//! with more places equals no such decimal and stays what it is, as does all arithmetic.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use super::comparisons::each_expression;

/// Runs behind DataFusion's own type coercion, whose casts it takes back.
#[derive(Debug)]
pub(super) struct ExactDecimals;

impl AnalyzerRule for ExactDecimals {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        each_expression(plan, exact)
    }

    fn name(&self) -> &str {
        "exact_decimals"
    }
}

fn exact(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let made = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            let left_is_decimal = decimals(left, &[right], schema).map(|(left, mut right)| (left, right.remove(0)));
            let sides = left_is_decimal
                .or_else(|| decimals(right, &[left], schema).map(|(right, mut left)| (left.remove(0), right)));
            sides.map(|(left, right)| Expr::BinaryExpr(BinaryExpr::new(Box::new(left), *op, Box::new(right))))
        }
        Expr::InList(InList { expr, list, negated }) => {
            among(expr, list, schema).map(|(expr, list)| Expr::InList(InList::new(Box::new(expr), list, *negated)))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            decimals(expr, &[low, high], schema).map(|(expr, mut ends)| {
                let high = ends.remove(1);
                Expr::Between(Between::new(Box::new(expr), *negated, Box::new(ends.remove(0)), Box::new(high)))
            })
        }
        _ => None,
    };
    made.map_or_else(|| Transformed::no(expr), Transformed::yes)
}

/// The decimal under a cast, and the literals that it is compared with as decimals of its type; none if `cast` is no such
/// cast or some literal does not fit.
fn decimals(cast: &Expr, literals: &[&Expr], schema: &DFSchema) -> Option<(Expr, Vec<Expr>)> {
    let expr = coerced(cast)?;
    // A column of an outer query has no type here, and stays as it is.
    let DataType::Decimal128(precision, scale) = expr.get_type(schema).ok()? else { return None };
    let decimal = |literal: &&Expr| {
        let literal = if matches!(literal, Expr::Cast(_)) { coerced(literal)? } else { literal };
        let Expr::Literal(ScalarValue::Float64(Some(value)), metadata) = literal else { return None };
        let units = units(*value, precision, scale).filter(|_| is_as_written(*value))?;
        Some(Expr::Literal(ScalarValue::Decimal128(Some(units), precision, scale), metadata.clone()))
    };
    let literals = literals.iter().map(decimal).collect::<Option<Vec<_>>>()?;
    Some((expr.clone(), literals))
}

/// What the planner has cast to meet a double; none for the casts that people write.
fn coerced(cast: &Expr) -> Option<&Expr> {
    let Expr::Cast(Cast { expr, field }) = cast else { return None };
    match field.data_type() {
        DataType::Float64 => Some(expr),
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) if *scale >= DOUBLE_DIGITS => Some(expr),
        _ => None,
    }
}

/// The digits that a double keeps of any number, and the places that the planner gives to one.
const DOUBLE_DIGITS: i8 = 15;

/// The same for the values of IN, of which those that no such decimal equals are left out, if some stay.
fn among(cast: &Expr, literals: &[Expr], schema: &DFSchema) -> Option<(Expr, Vec<Expr>)> {
    let expr = coerced(cast)?;
    let DataType::Decimal128(precision, scale) = expr.get_type(schema).ok()? else { return None };
    let (mut made, mut left_out) = (Vec::new(), 0);
    for literal in literals {
        let value = if matches!(literal, Expr::Cast(_)) { coerced(literal)? } else { literal };
        let Expr::Literal(value, metadata) = value else { return None };
        let units = match value {
            ScalarValue::Float64(Some(value)) if is_as_written(*value) => units(*value, precision, scale),
            ScalarValue::Int64(Some(value)) => {
                let digits = 10_i128.pow(u32::from(precision));
                i128::from(*value)
                    .checked_mul(10_i128.pow(u32::try_from(scale).ok()?))
                    .filter(|units| units.abs() < digits)
            }
            value if value.is_null() => {
                made.push(Expr::Literal(ScalarValue::Decimal128(None, precision, scale), metadata.clone()));
                continue;
            }
            _ => return None,
        };
        match units {
            Some(units) => {
                made.push(Expr::Literal(ScalarValue::Decimal128(Some(units), precision, scale), metadata.clone()))
            }
            None => left_out += 1,
        }
    }
    (!made.is_empty() || left_out == 0).then(|| (expr.clone(), made))
}

/// Whether a double's shortest text is what was written: of more digits, several texts are one double.
fn is_as_written(value: f64) -> bool {
    let digits = format!("{value}").chars().filter(char::is_ascii_digit).collect::<String>();
    value.is_finite() && digits.trim_start_matches('0').len() <= DOUBLE_DIGITS as usize
}

/// `value` in units of the scale, if its shortest text is exact there.
fn units(value: f64, precision: u8, scale: i8) -> Option<i128> {
    let text = format!("{value}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let missing = usize::try_from(scale).ok()?.checked_sub(fraction.len())?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(missing));
    digits.parse::<i128>().ok().filter(|units| units.unsigned_abs() < 10u128.pow(u32::from(precision)))
}
