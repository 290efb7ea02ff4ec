//! Joins in which null equals null, or in which a null decides: their other side is read whole.
//!
//! A hash join that has its smaller side tells the scan of the other one what it looks for, so that rows are left out there.
//! DataFusion 54 leaves out nulls too, which INTERSECT, EXCEPT and IS NOT DISTINCT FROM look for, and which decide NOT IN. Such
//! a join tells nothing: what was to be told stays true of every row.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{NullEquality, Result};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;

/// Runs behind the pushing down of filters.
#[derive(Debug)]
pub(super) struct NullsMeet;

impl PhysicalOptimizerRule for NullsMeet {
    fn name(&self) -> &str {
        "NullsMeet"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let silence = |plan: Arc<dyn ExecutionPlan>| match plan.downcast_ref::<HashJoinExec>() {
            Some(join) if join.dynamic_filter_expr().is_some() && minds_nulls(join) => {
                Ok(Transformed::yes(join.builder().reset_state().build_exec()?))
            }
            _ => Ok(Transformed::no(plan)),
        };
        plan.transform_up(silence).map(|done| done.data)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn minds_nulls(join: &HashJoinExec) -> bool {
    join.null_aware || join.null_equality() == NullEquality::NullEqualsNull
}
