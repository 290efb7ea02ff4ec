//! A condition on single rows, as a subscription's `where=` says it: planned once, tested on batch after batch.
//!
//! Always: it sees the columns of one version of a table and the system columns, and nothing else: no other row, no
//! subquery, no aggregate. A row for which it is null does not pass.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::prep_null_mask_filter;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result as PlanResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{EmptyRelation, Expr, ExprSchemable, Filter, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::{self, SetExpr};
use thermocline_engine::Table;
use thermocline_schemas::{Error, Result, nullable};

use crate::errors::from_datafusion;
use crate::front::{self, Statement, invalid, prepare};
use crate::query::parser_options;
use crate::relations::View;
use crate::session::Names;
use crate::sql::{Sql, Working};

/// See the module's text.
#[derive(Debug)]
pub struct Condition {
    test: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
}

impl Condition {
    /// The columns of rows that it is tested on: the system columns in the order of
    /// [`thermocline_schemas::SystemColumn::ALL`], then the table's. Any of them may be null: older rows may lack it.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Which of these rows pass; none of them is null.
    pub fn test(&self, rows: &RecordBatch) -> Result<BooleanArray> {
        let passed = self.test.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()));
        let passed = passed.map_err(from_datafusion)?;
        let passed =
            passed.as_boolean_opt().ok_or_else(|| Error::internal("a condition that is neither true nor false"))?;
        Ok(if passed.null_count() > 0 { prep_null_mask_filter(passed) } else { passed.clone() })
    }
}

impl Sql {
    /// A condition on the rows of a table, in its columns as they are now.
    pub async fn condition(self: &Arc<Self>, table: &Table, text: &str) -> Result<Condition> {
        let schema = nullable(View::Changes.columns(table, true).schema());
        let (sql, text) = (self.clone(), text.to_owned());
        // The query threads have the stack that long texts need.
        Working(self.session().spawn(async move { sql.plan_condition(schema, &text) })?).await?
    }

    fn plan_condition(&self, schema: SchemaRef, text: &str) -> Result<Condition> {
        let state = self.session().query();
        let expr = plan_condition(&state, &schema, text, self.options().depth_max)?;
        let test = || state.create_physical_expr(expr, &DFSchema::try_from(schema.as_ref().clone())?);
        Ok(Condition { test: test().map_err(from_datafusion)?, schema })
    }
}

/// What a condition on rows of these columns computes: true, false or null.
pub(crate) fn plan_condition(state: &SessionState, schema: &SchemaRef, text: &str, depth_max: usize) -> Result<Expr> {
    let mut query = parse_query(text, depth_max)?;
    let prepared = prepare(&mut query, &[], "", true, depth_max)?;
    let SetExpr::Select(select) = *query.body else { return Err(not_a_condition()) };
    let Some(selection) = select.selection.filter(|_| prepared.relations.len() == 1) else {
        return Err(not_a_condition());
    };
    let names = Names::new(state, "", std::collections::HashMap::new());
    let plan = || -> PlanResult<Option<Expr>> {
        let columns = Arc::new(DFSchema::try_from(schema.as_ref().clone())?);
        let planner = SqlToRel::new_with_options(&names, parser_options());
        let expr = planner.sql_to_expr(selection, &columns, &mut PlannerContext::new())?;
        let of_rows = |part: &Expr| {
            Ok(matches!(
                part,
                Expr::ScalarSubquery(_)
                    | Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::SetComparison(_)
                    | Expr::AggregateFunction(_)
                    | Expr::WindowFunction(_)
            ))
        };
        if expr.exists(of_rows)? {
            return Ok(None);
        }
        // So that it means what it means in a query.
        let rows = LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema: columns.clone() });
        let filter = LogicalPlan::Filter(Filter::try_new(expr, Arc::new(rows))?);
        let analyzed = state.analyzer().execute_and_check(filter, state.config_options(), |_, _| {})?;
        let LogicalPlan::Filter(Filter { predicate, .. }) = analyzed else { return Ok(None) };
        let is_boolean = matches!(predicate.get_type(&columns)?, DataType::Boolean | DataType::Null);
        is_boolean.then(|| predicate.cast_to(&DataType::Boolean, &columns)).transpose()
    };
    plan().map_err(from_datafusion)?.ok_or_else(not_a_condition)
}

/// The condition as it is written.
pub(crate) fn parse(text: &str, depth_max: usize) -> Result<ast::Expr> {
    let SetExpr::Select(select) = *parse_query(text, depth_max)?.body else { return Err(not_a_condition()) };
    match select.selection {
        Some(ast::Expr::Nested(selection)) => Ok(*selection),
        Some(selection) => Ok(selection),
        None => Err(not_a_condition()),
    }
}

/// The query that the condition is the WHERE of, and has nothing but that.
fn parse_query(text: &str, depth_max: usize) -> Result<Box<ast::Query>> {
    // What follows a condition, or ends a bracket that it did not open, makes it another query.
    let parsed = front::parse(&format!("SELECT 1 FROM t WHERE ({text}\n)"), depth_max)?;
    let Statement::Query { query, explain: None } = parsed.statement else { return Err(not_a_condition()) };
    let SetExpr::Select(select) = &*query.body else { return Err(not_a_condition()) };
    let whole = select.selection.as_ref().map(|selection| format!("SELECT 1 FROM t WHERE {selection}"));
    if whole == Some(query.to_string()) { Ok(query) } else { Err(not_a_condition()) }
}

fn not_a_condition() -> Error {
    invalid("the condition must be true or false of a row by itself")
        .with_hint("as city = 'Oslo' AND amount > 3; no subqueries, no aggregates")
}
