//! Times beyond the years 1677 to 2262, written as texts and compared with timestamps of microseconds.
//!
//! To compare a text with a timestamp the planner brings both to nanoseconds, which end there. A text that names a moment
//! beyond is read as microseconds instead, in the column's own type, before the planner comes to it. All texts of that
//! comparison are. Others stay as they are: nanoseconds tell more of them.

use datafusion::arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, ExprSchemable, LogicalPlan, cast};
use datafusion::optimizer::AnalyzerRule;

/// Runs before DataFusion's own type coercion.
#[derive(Debug)]
pub(super) struct FarTimes;

impl AnalyzerRule for FarTimes {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let analyzed = plan.transform_up_with_subqueries(|plan| {
            let schema = match &plan {
                // Its filters are over its own columns.
                LogicalPlan::TableScan(scan) => scan.projected_schema.as_ref().clone(),
                plan => merge_schema(&plan.inputs()),
            };
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = expr.transform_up(|expr| Ok(rewritten(expr, &schema)))?;
                Ok(rewritten.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(analyzed.data)
    }

    fn name(&self) -> &str {
        "far_times"
    }
}

fn rewritten(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let made = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            in_micros(&[left, right], schema).map(|mut sides| {
                let right = Box::new(sides.remove(1));
                Expr::BinaryExpr(BinaryExpr::new(Box::new(sides.remove(0)), *op, right))
            })
        }
        Expr::InList(InList { expr, list, negated }) => {
            in_micros(&[&[expr.as_ref()][..], &list.iter().collect::<Vec<_>>()].concat(), schema).map(|mut all| {
                let expr = Box::new(all.remove(0));
                Expr::InList(InList::new(expr, all, *negated))
            })
        }
        Expr::Between(Between { expr, negated, low, high }) => in_micros(&[expr, low, high], schema).map(|mut all| {
            let [high, low] = [2, 1].map(|place| Box::new(all.remove(place)));
            Expr::Between(Between::new(Box::new(all.remove(0)), *negated, low, high))
        }),
        _ => None,
    };
    made.map_or_else(|| Transformed::no(expr), Transformed::yes)
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
