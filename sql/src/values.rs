//! `INSERT … VALUES`: each value is put into its column by itself.
//!
//! A query's VALUES must bring all rows of a column to one type, which is the type of none of them when a number, a text
//! and a date meet. Here each literal is read for the column that it is for, so that `12.30` is exact in a DECIMAL, the
//! nearest float in a DOUBLE PRECISION, and a date may stand as text in one row and be computed in the next.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result as PlanResult, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{ColumnarValue, EmptyRelation, Expr, LogicalPlan, Projection};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::{self, SetExpr, UnaryOperator, Value};
use thermocline_schemas::{Code, Column, ColumnType, Error, Result};

use crate::assign::fit_column;
use crate::errors::from_datafusion;
use crate::query::parser_options;
use crate::session::Names;

/// The rows of a query that is nothing but VALUES.
pub(crate) fn plain_values(query: &ast::Query) -> Option<&ast::Values> {
    let plain = query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none();
    match &*query.body {
        SetExpr::Values(values) if plain => Some(values),
        _ => None,
    }
}

/// The values as columns; none if some value is a subquery, which only a whole query can answer.
pub(crate) fn value_columns(
    state: &SessionState,
    names: &Names<'_>,
    values: &ast::Values,
    columns: &[&Column],
) -> Result<Option<Vec<ArrayRef>>> {
    let mut cells: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(values.rows.len()); columns.len()];
    for (row, found) in values.rows.iter().enumerate() {
        if found.len() != columns.len() {
            let message = format!("{} values for {} columns", found.len(), columns.len());
            return Err(Error::new(Code::InvalidSql, message)
                .with_row(row as u64)
                .with_hint("name the columns: INSERT INTO t (a, b) …"));
        }
        for ((expr, column), cells) in found.iter().zip(columns).zip(&mut cells) {
            let value = match literal(expr, &column.column_type) {
                Some(value) => value,
                None => match computed(state, names, expr).map_err(from_datafusion)? {
                    Some(value) => value,
                    None => return Ok(None),
                },
            };
            cells.push(value);
        }
    }
    let made = columns.iter().zip(cells).map(|(column, cells)| column_of(column, cells));
    made.collect::<Result<Vec<_>>>().map(Some)
}

/// A literal, read for a column of this type; none for everything that has to be computed.
fn literal(expr: &ast::Expr, target: &ColumnType) -> Option<ScalarValue> {
    match expr {
        ast::Expr::Value(value) => match &value.value {
            Value::Null => Some(ScalarValue::Null),
            Value::Boolean(value) => Some(ScalarValue::from(*value)),
            Value::SingleQuotedString(text) => Some(ScalarValue::from(text.as_str())),
            Value::Number(text, _) => Some(number(text, target)),
            _ => None,
        },
        ast::Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match &**expr {
            ast::Expr::Value(value) => match &value.value {
                Value::Number(text, _) => Some(number(&format!("-{text}"), target)),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn number(text: &str, target: &ColumnType) -> ScalarValue {
    let as_text = || ScalarValue::from(text);
    match *target {
        ColumnType::Float32 | ColumnType::Float64 => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => ScalarValue::Float64(Some(value)),
            _ => as_text(),
        },
        ColumnType::Decimal { scale, .. } => {
            decimal(text, scale).map_or_else(as_text, |value| ScalarValue::Decimal128(Some(value), 38, scale))
        }
        ColumnType::String => as_text(),
        _ => {
            let whole = match text.split_once('.') {
                Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
                _ => text,
            };
            whole.parse().map_or_else(|_| as_text(), |value| ScalarValue::Int64(Some(value)))
        }
    }
}

/// The number in units of the scale, if it is plain digits that are exact there.
fn decimal(text: &str, scale: i8) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let missing = usize::try_from(scale).ok()?.checked_sub(fraction.len())?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(missing));
    digits.parse::<i128>().ok().filter(|value| value.unsigned_abs() < 10u128.pow(38))
}

/// The value of an expression that needs no table; none for subqueries.
pub(crate) fn computed(state: &SessionState, names: &Names<'_>, expr: &ast::Expr) -> PlanResult<Option<ScalarValue>> {
    let nothing = DFSchema::empty();
    let planner = SqlToRel::new_with_options(names, parser_options());
    let expr = planner.sql_to_expr(expr.clone(), &nothing, &mut PlannerContext::new())?;
    let subquery = expr.exists(|part| {
        Ok(matches!(part, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_)))
    })?;
    if subquery {
        return Ok(None);
    }
    // So that it means what it means in a query.
    let row = LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: true, schema: Arc::new(nothing.clone()) });
    let made = LogicalPlan::Projection(Projection::try_new(vec![expr], Arc::new(row))?);
    let analyzed = state.analyzer().execute_and_check(made, state.config_options(), |_, _| {})?;
    let Some(expr) = analyzed.expressions().pop() else { return Ok(None) };
    let simplifier = names.simplifier();
    let expr = simplifier.simplify(expr.unalias_nested().data)?;
    if let Expr::Literal(value, _) = expr {
        return Ok(Some(value));
    }
    let expr = state.create_physical_expr(expr, &nothing)?;
    let one_row = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Schema::empty().into(), Vec::new(), &one_row)?;
    Ok(Some(match expr.evaluate(&row)? {
        ColumnarValue::Scalar(value) => value,
        ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0)?,
    }))
}

/// One column's values, fitted to it by runs of one type.
fn column_of(column: &Column, cells: Vec<ScalarValue>) -> Result<ArrayRef> {
    let mut fitted = Vec::new();
    let mut run: Vec<ScalarValue> = Vec::new();
    let mut run_type = DataType::Null;
    let mut done = 0;
    let mut finish = |run: &mut Vec<ScalarValue>, run_type: &DataType| -> Result<()> {
        let typed = |value: ScalarValue| match value {
            ScalarValue::Null => ScalarValue::try_from(run_type).unwrap_or(ScalarValue::Null),
            value => value,
        };
        let rows = run.len() as u64;
        let array = ScalarValue::iter_to_array(run.drain(..).map(typed)).map_err(from_datafusion)?;
        let array = fit_column(column, &array).map_err(|error| match error.row() {
            Some(row) => error.with_row(done + row),
            None => error,
        })?;
        done += rows;
        fitted.push(array);
        Ok(())
    };
    for cell in cells {
        let cell_type = cell.data_type();
        if cell_type != DataType::Null && cell_type != run_type {
            if run_type != DataType::Null && !run.is_empty() {
                finish(&mut run, &run_type)?;
            }
            run_type = cell_type;
        }
        run.push(cell);
    }
    if !run.is_empty() {
        finish(&mut run, &run_type)?;
    }
    Ok(concat(&fitted.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)
}
