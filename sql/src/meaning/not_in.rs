//! `NOT IN (SELECT …)`, and IN beside OR, with nulls.
//!
//! DataFusion 54 has a join of its own for NOT IN, and loses the nulls that decide it where other conditions on the value
//! are pushed into the subquery; beside OR, or inside NOT, it only asks whether the value was found, and takes nulls for
//! different. So what makes it null is asked besides: is one of the values null, or the value itself, where there are
//! some? Whether a filter is false or null makes no difference to it, so under AND, OR and NOT that is enough; elsewhere it
//! is refused.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, Spans, not_impl_err};
use datafusion::functions_aggregate::count::{count, count_all};
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit, not,
    scalar_subquery, when,
};
use datafusion::optimizer::AnalyzerRule;

/// Runs behind DataFusion's own type coercion: value and values are of one type by then.
#[derive(Debug)]
pub(super) struct InBesideOr;

impl AnalyzerRule for InBesideOr {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let analyzed = plan.transform_up_with_subqueries(|plan| {
            check_dependent(&plan)?;
            match plan {
                LogicalPlan::Filter(Filter { predicate, input, .. }) if has_subquery(&predicate) => {
                    let predicate = alone(predicate, input.schema())?;
                    Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, input)?)))
                }
                plan => {
                    let schema = merge_schema(&plan.inputs());
                    for expr in plan.expressions() {
                        check_elsewhere(&expr, &schema)?;
                    }
                    Ok(Transformed::no(plan))
                }
            }
        })?;
        Ok(analyzed.data)
    }

    fn name(&self) -> &str {
        "in_beside_or"
    }
}

/// Refuses subqueries of IN and EXISTS that depend on the row below what their rows do not pass one by one: DataFusion takes
/// the condition out from there, and asks it of all rows together.
fn check_dependent(plan: &LogicalPlan) -> Result<()> {
    plan.apply_expressions(|expr| {
        expr.apply(|part| {
            if let Expr::InSubquery(InSubquery { subquery, .. }) | Expr::Exists(Exists { subquery, .. }) = part
                && !subquery.outer_ref_columns.is_empty()
                && subquery.subquery.exists(|plan| Ok(binds_rows(plan)))?
            {
                return not_impl_err!(
                    "IN and EXISTS of a query with aggregates, windows or OFFSET that names columns from outside below them"
                );
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(())
}

fn binds_rows(plan: &LogicalPlan) -> bool {
    let depends = |input: &LogicalPlan| !input.all_out_ref_exprs().is_empty();
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty() && depends(&aggregate.input),
        LogicalPlan::Window(window) => depends(&window.input),
        LogicalPlan::Limit(limit) => limit.skip.is_some() && depends(&limit.input),
        _ => false,
    }
}

/// What is said of others.
pub(crate) const ALONE: &str = "IN (SELECT …) stands in WHERE and HAVING alone, beside AND, OR and NOT";

/// Refuses what may be null where nulls would be lost.
fn check_elsewhere(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let may_be_null = |part: &Expr| match part {
        Expr::InSubquery(part) => Ok(may_be_null(part, schema)),
        _ => Ok(false),
    };
    if expr.exists(may_be_null)? {
        return not_impl_err!("{ALONE}");
    }
    Ok(())
}

fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|part| Ok(matches!(part, Expr::InSubquery(_)))).unwrap_or(false)
}

/// A filter, or one of several that must all hold.
fn alone(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            let [left, right] = [alone(*left, schema)?, alone(*right, schema)?];
            Ok(left.and(right))
        }
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                alone(Expr::InSubquery(InSubquery::new(expr, subquery, !negated)), schema)
            }
            inner => beside(not(inner), schema, true),
        },
        Expr::InSubquery(part) if part.negated && (depends(&part) || may_be_null(&part, schema)) => {
            let rows = Rows::of(&part)?;
            match (depends(&part), may_be_null(&part, schema)) {
                (true, true) => Ok(not(rows.exists(&part.expr, schema, Expr::is_not_false)?)),
                (true, false) => Ok(not(rows.exists(&part.expr, schema, |equal| equal)?)),
                (false, _) => {
                    let found = rows.exists(&part.expr, schema, |equal| equal)?;
                    Ok(not(found).and(not(rows.nulls(*part.expr)?)))
                }
            }
        }
        Expr::InSubquery(_) => Ok(expr),
        other => beside(other, schema, true),
    }
}

/// An expression of which it matters whether it is true or, where it `is_wanted` not to be, whether it is false.
fn beside(expr: Expr, schema: &DFSchema, is_wanted: bool) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let [left, right] = [beside(*left, schema, is_wanted)?, beside(*right, schema, is_wanted)?];
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::Not(inner) => Ok(not(beside(*inner, schema, !is_wanted)?)),
        // These ask for one of the three alone.
        Expr::IsTrue(inner) => Ok(beside(*inner, schema, true)?.is_true()),
        Expr::IsNotTrue(inner) => Ok(beside(*inner, schema, true)?.is_not_true()),
        Expr::IsFalse(inner) => Ok(beside(*inner, schema, false)?.is_false()),
        Expr::IsNotFalse(inner) => Ok(beside(*inner, schema, false)?.is_not_false()),
        Expr::InSubquery(part) if !may_be_null(&part, schema) => Ok(Expr::InSubquery(part)),
        Expr::InSubquery(part) if part.negated != is_wanted => Ok(Expr::InSubquery(part)),
        // Null counts as found, which makes NOT IN false and what stands under NOT true.
        Expr::InSubquery(part) => {
            let negated = part.negated;
            let found = found_or_null(part, schema)?;
            Ok(if negated { not(found) } else { found })
        }
        other => {
            check_elsewhere(&other, schema)?;
            Ok(other)
        }
    }
}

/// Whether the values depend on the row whose value is looked for.
fn depends(part: &InSubquery) -> bool {
    !part.subquery.outer_ref_columns.is_empty()
}

fn may_be_null(part: &InSubquery, schema: &DFSchema) -> bool {
    let found = part.subquery.subquery.schema().fields();
    found.iter().any(|field| field.is_nullable()) || part.expr.nullable(schema).unwrap_or(true)
}

/// Whether `expr IN (…)` is true or null.
fn found_or_null(part: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let rows = Rows::of(&part)?;
    if depends(&part) {
        return rows.exists(&part.expr, schema, Expr::is_not_false);
    }
    let InSubquery { expr, subquery, .. } = part;
    let is_null = rows.nulls(expr.as_ref().clone())?;
    let subquery = subquery.with_plan(Arc::new(rows.plan.build()?));
    let found = Expr::InSubquery(InSubquery::new(expr, subquery, false));
    Ok(found.or(is_null))
}

/// A subquery may have so many parts that came of NOT IN inside it: four levels.
const ASKED_MAX: usize = 60;

/// The column of values that are looked among; no statement can name it so.
const VALUE: &str = "value of IN (…)";

/// What a value is looked for among.
struct Rows {
    plan: LogicalPlanBuilder,
    value: Expr,
    outer_ref_columns: Vec<Expr>,
}

impl Rows {
    fn of(part: &InSubquery) -> Result<Rows> {
        let Subquery { subquery, outer_ref_columns, .. } = &part.subquery;
        if depends(part) && subquery.exists(|plan| Ok(matches!(plan, LogicalPlan::Limit(_))))? {
            return not_impl_err!("NOT IN (SELECT … LIMIT) that names columns from outside");
        }
        // Each is asked twice.
        let mut asked = 0;
        subquery.apply_with_subqueries(|plan| {
            asked += usize::from(plan.schema().fields().first().is_some_and(|field| field.name() == VALUE));
            Ok(if asked > ASKED_MAX { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if asked > ASKED_MAX {
            return not_impl_err!("NOT IN that deep in NOT IN");
        }
        // Of a name that nothing else has: the value may be of the same table.
        let (qualifier, field) = subquery.schema().qualified_field(0);
        let column = Expr::from((qualifier, field)).alias(VALUE);
        let plan = LogicalPlanBuilder::new(subquery.as_ref().clone()).project([column])?;
        let value = Expr::Column(Column::new_unqualified(VALUE));
        Ok(Rows { plan, value, outer_ref_columns: outer_ref_columns.clone() })
    }

    /// `EXISTS (… WHERE test(value = expr))`.
    fn exists(&self, expr: &Expr, schema: &DFSchema, test: impl FnOnce(Expr) -> Expr) -> Result<Expr> {
        let mut outer_ref_columns = self.outer_ref_columns.clone();
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
            Ok(TreeNodeRecursion::Continue)
        })?;
        let rows = self.plan.clone().filter(test(self.value.clone().eq(outer.data)))?.build()?;
        let subquery = Subquery { subquery: Arc::new(rows), outer_ref_columns, spans: Spans::new() };
        Ok(Expr::Exists(Exists::new(subquery, false)))
    }

    /// Whether one of them is null, or the value itself is and there are some.
    fn nulls(&self, expr: Expr) -> Result<Expr> {
        // Counted, and not filtered: a filter would be asked before those that the subquery has.
        let counts = [count_all().alias("all"), count(self.value.clone()).alias("valid")];
        let [all, valid] = ["all", "valid"].map(|name| Expr::Column(Column::new_unqualified(name)));
        let (none, some, some_null) = (lit(0_i64), lit(1_i64), lit(2_i64));
        let is_there =
            when(all.clone().eq(none.clone()), none.clone()).when(all.gt(valid), some_null).otherwise(some.clone())?;
        let plan =
            self.plan.clone().aggregate(Vec::<Expr>::new(), counts)?.project([is_there.alias("there")])?.build()?;
        let enough = when(expr.is_null(), none).otherwise(some)?;
        Ok(scalar_subquery(Arc::new(plan)).gt(enough))
    }
}
