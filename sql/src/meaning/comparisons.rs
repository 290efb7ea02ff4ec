//! The walk over a plan's expressions, and over what meets in a comparison, that rules before type coercion share.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, LogicalPlan};

/// Hands every expression of a plan, inner ones first, to `rewrite`, with the columns that it may name. Columns of answers
/// keep their names.
pub(super) fn each_expression(
    plan: LogicalPlan,
    rewrite: impl Fn(Expr, &DFSchema) -> Transformed<Expr>,
) -> Result<LogicalPlan> {
    let analyzed = plan.transform_up_with_subqueries(|plan| {
        let schema = match &plan {
            // Its filters are over its own columns.
            LogicalPlan::TableScan(scan) => scan.projected_schema.as_ref().clone(),
            plan => merge_schema(&plan.inputs()),
        };
        let names = NamePreserver::new(&plan);
        let named = |expr: Expr| {
            let name = names.save(&expr);
            let rewritten = expr.transform_up(|expr| Ok(rewrite(expr, &schema)))?;
            Ok(rewritten.update_data(|expr| name.restore(expr)))
        };
        // The columns of sets of groups have names, the sets have none.
        plan.map_expressions(|expr| match expr {
            Expr::GroupingSet(_) => expr.map_children(named),
            expr => named(expr),
        })
    })?;
    Ok(analyzed.data)
}

/// A comparison with what `change` makes of all that meets in it, as many as there were; none if it is no comparison, or
/// nothing changes.
pub(super) fn with_sides(expr: &Expr, change: impl Fn(&[&Expr]) -> Option<Vec<Expr>>) -> Option<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            let mut sides = change(&[left, right])?;
            let right = Box::new(sides.remove(1));
            Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(sides.remove(0)), *op, right)))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let mut all = change(&[&[expr.as_ref()][..], &list.iter().collect::<Vec<_>>()].concat())?;
            let expr = Box::new(all.remove(0));
            Some(Expr::InList(InList::new(expr, all, *negated)))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let mut all = change(&[expr, low, high])?;
            let [high, low] = [2, 1].map(|place| Box::new(all.remove(place)));
            Some(Expr::Between(Between::new(Box::new(all.remove(0)), *negated, low, high)))
        }
        _ => None,
    }
}
