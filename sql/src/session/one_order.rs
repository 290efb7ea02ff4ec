//! Aggregates of one query that ask for their rows in different orders are refused: DataFusion 54 gives all of them one.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, not_impl_err};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

#[derive(Debug)]
pub(super) struct OneOrder;

impl AnalyzerRule for OneOrder {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|plan| {
            let LogicalPlan::Aggregate(aggregate) = plan else { return Ok(TreeNodeRecursion::Continue) };
            let mut order = None;
            for expr in &aggregate.aggr_expr {
                expr.apply(|part| {
                    if let Expr::AggregateFunction(function) = part
                        && !function.params.order_by.is_empty()
                        && *order.get_or_insert(&function.params.order_by) != &function.params.order_by
                    {
                        return not_impl_err!("aggregates with different ORDER BY: one in each query, and JOIN");
                    }
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "one_order"
    }
}
