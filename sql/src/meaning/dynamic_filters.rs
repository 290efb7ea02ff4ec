//! Which queries may leave out rows by what they find while they run.
//!
//! A hash join that has its smaller side tells the scan of the other one what it looks for; so do ORDER BY … LIMIT, min and
//! max. Rows are left out there, and whole files. DataFusion 54 leaves out too many where a null matters, for INTERSECT,
//! EXCEPT, IS NOT DISTINCT FROM and NOT IN: what is left out are nulls, which these look for or which decide. And what
//! others look for reaches the second side of a semi or anti join by the column's name alone. So queries with such joins go
//! without; a join that only asks whether there is a partner, and is the only one, keeps its own. Lists, maps and structs
//! with nulls inside stand in one order for a filter and in another for a sort: queries that see such columns go without,
//! too.

use std::borrow::Cow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{JoinType, NullEquality, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;

/// The state to run an optimized plan with.
pub(crate) fn state_for<'a>(state: &'a SessionState, plan: &LogicalPlan) -> Result<Cow<'a, SessionState>> {
    let (mut joins, mut semi, mut minds_nulls, mut is_nested) = (0, false, false, false);
    plan.apply_with_subqueries(|plan| {
        is_nested |= plan.schema().fields().iter().any(|field| field.data_type().is_nested());
        if let LogicalPlan::Join(join) = plan {
            joins += 1;
            semi |= matches!(join.join_type, JoinType::LeftSemi | JoinType::RightSemi);
            minds_nulls |= join.null_equality == NullEquality::NullEqualsNull
                || matches!(
                    join.join_type,
                    JoinType::LeftAnti | JoinType::RightAnti | JoinType::LeftMark | JoinType::RightMark
                );
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if !semi && !minds_nulls && !is_nested {
        return Ok(Cow::Borrowed(state));
    }
    let mut state = state.clone();
    let optimizer = &mut state.config_mut().options_mut().optimizer;
    optimizer.enable_topk_dynamic_filter_pushdown = false;
    optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    optimizer.enable_join_dynamic_filter_pushdown = joins == 1 && !minds_nulls && !is_nested;
    Ok(Cow::Owned(state))
}
