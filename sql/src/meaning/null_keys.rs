//! Joins by `IS NOT DISTINCT FROM` beside joins by `=`.
//!
//! DataFusion 54 says of a whole join whether null equals null, and brings neighbouring joins, and WHERE with them,
//! together: one of them then decides for all. Where a query has both, IS NOT DISTINCT FROM is written out, and is no key of
//! a join any more.

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;

use super::comparisons::each_expression;

/// Runs before DataFusion's own type coercion.
#[derive(Debug)]
pub(super) struct NullKeys;

impl AnalyzerRule for NullKeys {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let (mut equal, mut not_distinct) = (false, false);
        plan.apply_with_subqueries(|plan| {
            let conditions = match plan {
                LogicalPlan::Filter(filter) => Some(&filter.predicate),
                LogicalPlan::Join(join) => {
                    equal |= !join.on.is_empty();
                    join.filter.as_ref()
                }
                _ => None,
            };
            for condition in conditions.into_iter().flat_map(split_conjunction) {
                if let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition
                    && !left.column_refs().is_empty()
                    && !right.column_refs().is_empty()
                {
                    equal |= *op == Operator::Eq;
                    not_distinct |= *op == Operator::IsNotDistinctFrom;
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        if !(equal && not_distinct) {
            return Ok(plan);
        }
        each_expression(plan, |expr, _| match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::IsNotDistinctFrom, right }) => {
                let nulls = left.clone().is_null().and(right.clone().is_null());
                Transformed::yes((*left).eq(*right).is_true().or(nulls))
            }
            other => Transformed::no(other),
        })
    }

    fn name(&self) -> &str {
        "null_keys"
    }
}
