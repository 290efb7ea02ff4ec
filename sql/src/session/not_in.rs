//! `NOT IN (SELECT …)` beside OR, with nulls.
//!
//! DataFusion knows what nulls mean for a NOT IN that stands alone or beside AND. Beside OR, or inside NOT, it only asks whether
//! the value was found, and takes nulls for different. There, what NOT IN means is written out: no row of the subquery is
//! equal, or may be. Whether a filter is false or null makes no difference to it, so under AND, OR and NOT that is enough.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ExprSchema, Result};
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, not,
};
use datafusion::optimizer::AnalyzerRule;

/// Runs before DataFusion's own type coercion.
#[derive(Debug)]
pub(super) struct NotInBesideOr;

impl AnalyzerRule for NotInBesideOr {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let analyzed = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Filter(Filter { predicate, input, .. }) if has_subquery(&predicate) => {
                let predicate = alone(predicate, input.schema())?;
                Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, input)?)))
            }
            plan => Ok(Transformed::no(plan)),
        })?;
        Ok(analyzed.data)
    }

    fn name(&self) -> &str {
        "not_in_beside_or"
    }
}

fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|part| Ok(matches!(part, Expr::InSubquery(_)))).unwrap_or(false)
}

/// A filter, or one of several that must all hold.
fn alone(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            let [left, right] = [alone(*left, schema)?, alone(*right, schema)?];
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), Operator::And, Box::new(right))))
        }
        Expr::InSubquery(_) => Ok(expr),
        Expr::Not(inner) if matches!(*inner, Expr::InSubquery(_)) => Ok(match *inner {
            Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                Expr::InSubquery(InSubquery::new(expr, subquery, !negated))
            }
            inner => not(inner),
        }),
        other => beside(other, schema, true),
    }
}

/// An expression of which it matters whether it is true or, where it `is_wanted` not to be, whether it is not.
fn beside(expr: Expr, schema: &DFSchema, is_wanted: bool) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let [left, right] = [beside(*left, schema, is_wanted)?, beside(*right, schema, is_wanted)?];
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::Not(inner) => Ok(not(beside(*inner, schema, !is_wanted)?)),
        // What is wanted to be found is, and what is not wanted to be missing: nulls are not equal.
        Expr::InSubquery(part) if part.negated == is_wanted && may_be_null(&part, schema) => {
            let InSubquery { expr, subquery, negated } = part;
            maybe_equal(&expr, subquery, negated, schema)
        }
        other => Ok(other),
    }
}

fn may_be_null(part: &InSubquery, schema: &DFSchema) -> bool {
    let found = part.subquery.subquery.schema().fields();
    found.iter().any(|field| field.is_nullable()) || part.expr.nullable(schema).unwrap_or(true)
}

/// `[NOT] EXISTS (SELECT … WHERE (found = expr) IS NOT FALSE)`.
fn maybe_equal(expr: &Expr, subquery: Subquery, negated: bool, schema: &DFSchema) -> Result<Expr> {
    let Subquery { subquery, mut outer_ref_columns, spans } = subquery;
    let (qualifier, field) = subquery.schema().qualified_field(0);
    let found = Expr::from((qualifier, field));
    let outer = expr.clone().transform(|part| match part {
        Expr::Column(column) => {
            let field = schema.field_from_column(&column)?.clone();
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        part => Ok(Transformed::no(part)),
    })?;
    outer.data.apply(|part| {
        if matches!(part, Expr::OuterReferenceColumn(..)) && !outer_ref_columns.contains(part) {
            outer_ref_columns.push(part.clone());
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    })?;
    let rows =
        LogicalPlanBuilder::new(subquery.as_ref().clone()).filter(found.eq(outer.data).is_not_false())?.build()?;
    let subquery = Subquery { subquery: Arc::new(rows), outer_ref_columns, spans };
    Ok(Expr::Exists(Exists::new(subquery, negated)))
}
