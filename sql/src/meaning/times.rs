//! Times beyond the years 1677 to 2262, written as texts and compared with timestamps of microseconds.
//!
//! To compare a text with a timestamp the planner brings both to nanoseconds, which end there. A text that names a moment
//! beyond is read as microseconds instead, in the column's own type, before the planner comes to it. All texts of that
//! comparison are. Others stay as they are: nanoseconds tell more of them.

use datafusion::arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, cast};
use datafusion::optimizer::AnalyzerRule;

use super::comparisons::{each_expression, with_sides};

/// Runs before DataFusion's own type coercion.
#[derive(Debug)]
pub(super) struct FarTimes;

impl AnalyzerRule for FarTimes {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        each_expression(plan, |expr, schema| {
            let made = with_sides(&expr, |sides| in_micros(sides, schema));
            made.map_or_else(|| Transformed::no(expr), Transformed::yes)
        })
    }

    fn name(&self) -> &str {
        "far_times"
    }
}

/// These with the texts among them as timestamps; none unless a timestamp of microseconds meets a text beyond nanoseconds.
fn in_micros(exprs: &[&Expr], schema: &DFSchema) -> Option<Vec<Expr>> {
    let timestamp = exprs.iter().find_map(|expr| match expr.get_type(schema) {
        Ok(found @ DataType::Timestamp(TimeUnit::Microsecond, _)) => Some(found),
        _ => None,
    })?;
    let is_far = |expr: &&Expr| text(expr).is_some_and(|text| string_to_timestamp_nanos(text).is_err());
    if !exprs.iter().any(is_far) {
        return None;
    }
    let read = |expr: &&Expr| match text(expr) {
        Some(_) => cast((*expr).clone(), timestamp.clone()),
        None => (*expr).clone(),
    };
    Some(exprs.iter().map(read).collect())
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text), _) => {
            text.as_deref()
        }
        _ => None,
    }
}
