//! What DataFusion 54 would answer wrongly, and nothing here can repair, is refused.
//!
//! - Aggregates of one query that ask for their rows in different orders: all of them would get one.
//! - RANGE frames in which the row itself is not: it would be counted.
//! - Subqueries that depend on columns of one name from different tables: they would become one column.

use std::collections::HashMap;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, not_impl_err};
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Subquery, WindowFrameBound, WindowFrameUnits};
use datafusion::optimizer::AnalyzerRule;

#[derive(Debug)]
pub(super) struct Refused;

impl AnalyzerRule for Refused {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|plan| {
            if let LogicalPlan::Aggregate(aggregate) = plan {
                check_order(aggregate)?;
            }
            plan.apply_expressions(|expr| {
                expr.apply(|part| {
                    match part {
                        Expr::WindowFunction(function) => check_frame(&function.params.window_frame)?,
                        Expr::InSubquery(InSubquery { subquery, .. }) => check_names(subquery, true)?,
                        Expr::Exists(Exists { subquery, .. }) | Expr::ScalarSubquery(subquery) => {
                            check_names(subquery, false)?;
                        }
                        _ => {}
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "refused"
    }
}

fn check_order(aggregate: &Aggregate) -> Result<()> {
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
    Ok(())
}

fn check_frame(frame: &datafusion::logical_expr::WindowFrame) -> Result<()> {
    use WindowFrameBound::{Following, Preceding};
    let is_apart =
        matches!((&frame.start_bound, &frame.end_bound), (Preceding(_), Preceding(_)) | (Following(_), Following(_)));
    if frame.units == WindowFrameUnits::Range && is_apart {
        return not_impl_err!("RANGE frames without the row itself; ROWS and GROUPS may be so");
    }
    Ok(())
}

/// Columns that stand beside those of outside, and what IN looks among.
fn check_names(subquery: &Subquery, has_value: bool) -> Result<()> {
    if subquery.outer_ref_columns.is_empty() {
        return Ok(());
    }
    let mut tables: HashMap<String, Column> = HashMap::new();
    let mut meets = |column: Column| match tables.get(&column.name) {
        Some(other) if *other != column => not_impl_err!(
            "a subquery that names {other} and {column} beside columns from outside: give one another name, in a subquery in FROM"
        ),
        _ => {
            tables.insert(column.name.clone(), column);
            Ok(())
        }
    };
    if has_value {
        let (qualifier, field) = subquery.subquery.schema().qualified_field(0);
        meets(Column::new(qualifier.cloned(), field.name()))?;
    }
    subquery.subquery.apply(|plan| {
        let LogicalPlan::Filter(filter) = plan else { return Ok(TreeNodeRecursion::Continue) };
        for condition in split_conjunction(&filter.predicate).into_iter().filter(|part| part.contains_outer()) {
            condition.column_refs().into_iter().try_for_each(|column| meets(column.clone()))?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}
