//! Filters go down only where each column's name stands for one column.
//!
//! DataFusion 54 finds the columns of a filter that it takes down through a physical plan by their names alone. Where two
//! have one name, as behind most joins, `o.note IS NULL` would be asked of `c.note`. So its rule is given the parts of a
//! plan below which that cannot be, each by itself. What must not be lost is not: filters of queries stand as low as they
//! can before.
//!
//! The rule that takes projections down fails at some joins. Without it a plan is only slower.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;
type Plan = Arc<dyn ExecutionPlan>;

/// DataFusion's rules in their order, with those that take filters down as above.
pub(crate) fn physical_rules() -> Vec<Rule> {
    let rules = PhysicalOptimizer::new().rules.into_iter();
    let rules = rules.map(|rule| match rule.name() {
        name if name.starts_with("FilterPushdown") => Arc::new(NamedOnce(rule)) as Rule,
        "ProjectionPushdown" => Arc::new(IfItCan(rule)),
        _ => rule,
    });
    rules.collect()
}

/// A rule without which a plan is only slower.
#[derive(Debug)]
struct IfItCan(Rule);

impl PhysicalOptimizerRule for IfItCan {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        Ok(self.0.optimize(plan.clone(), config).unwrap_or_else(|error| {
            tracing::debug!(%error, rule = self.name(), "a rule of the optimizer failed; the plan goes on without it");
            plan
        }))
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

#[derive(Debug)]
struct NamedOnce(Rule);

impl PhysicalOptimizerRule for NamedOnce {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        match self.part(plan, config)? {
            (plan, true) => self.0.optimize(plan, config),
            (plan, false) => Ok(plan),
        }
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

impl NamedOnce {
    /// The plan, and whether no two columns have one name anywhere in it; where some have, its parts are done.
    fn part(&self, plan: Plan, config: &ConfigOptions) -> Result<(Plan, bool)> {
        let parts = plan.children().into_iter().map(|child| self.part(child.clone(), config));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        if parts.iter().all(|(_, once)| *once) {
            // The node itself asks its children for what they can do for it.
            return if is_named_once(&*plan) { Ok((plan, true)) } else { Ok((self.0.optimize(plan, config)?, false)) };
        }
        let done = |(part, once)| if once { self.0.optimize(part, config) } else { Ok(part) };
        let children = parts.into_iter().map(done).collect::<Result<Vec<_>>>()?;
        Ok((plan.with_new_children(children)?, false))
    }
}

fn is_named_once(plan: &dyn ExecutionPlan) -> bool {
    let schema = plan.schema();
    let mut names: Vec<_> = schema.fields().iter().map(|field| field.name()).collect();
    names.sort_unstable();
    names.array_windows().all(|[one, other]| one != other) && (!is_union(plan) || has_names_of_its_parts(plan))
}

fn is_union(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<UnionExec>() || plan.is::<InterleaveExec>()
}

/// The parts of a union go by place: there `y` may stand where it has `x`.
fn has_names_of_its_parts(plan: &dyn ExecutionPlan) -> bool {
    let (own, parts) = (plan.schema(), plan.children());
    let alike = |part: &SchemaRef| {
        part.fields().iter().map(|field| field.name()).eq(own.fields().iter().map(|field| field.name()))
    };
    parts.iter().all(|part| alike(&part.schema()))
}
