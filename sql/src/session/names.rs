//! The names of one statement: its pinned relations, and the functions. There is nothing else to find.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::catalog::{TableFunctionArgs, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, Result, ScalarValue, TableReference, plan_err};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::types::OurTypes;
use crate::front::NamedRelation;

/// Rows that one call of `generate_series` or `range` may make.
const SERIES_ROWS_MAX: i128 = 10_000_000;

/// Database and relation, both as they are called, and which of the statement's versions of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RelationKey {
    pub database: String,
    pub relation: String,
    pub version: Option<usize>,
}

pub(crate) struct Names<'a> {
    state: &'a SessionState,
    database: &'a str,
    relations: HashMap<RelationKey, Arc<dyn TableSource>>,
}

impl<'a> Names<'a> {
    /// `database` is where names without one are looked up.
    pub(crate) fn new(
        state: &'a SessionState,
        database: &'a str,
        relations: HashMap<RelationKey, Arc<dyn TableProvider>>,
    ) -> Names<'a> {
        let relations = relations.into_iter().map(|(key, provider)| (key, provider_as_source(provider))).collect();
        Names { state, database, relations }
    }

    /// Computes what is constant, as of the statement's start.
    pub(crate) fn simplifier(&self) -> ExprSimplifier {
        let context = SimplifyContext::builder()
            .with_config_options(self.state.config_options().clone())
            .with_query_execution_start_time(self.state.execution_props().query_execution_start_time)
            .build();
        ExprSimplifier::new(context)
    }
}

/// Whether a call of a series function stays within bounds. Calls over dates make their rows lazily.
fn check_series(name: &str, args: &[Expr]) -> Result<()> {
    let mut numbers = Vec::new();
    for arg in args {
        match arg {
            Expr::Literal(ScalarValue::Int64(Some(number)), _) => numbers.push(i128::from(*number)),
            Expr::Literal(ScalarValue::UInt64(Some(number)), _) => numbers.push(i128::from(*number)),
            Expr::Literal(ScalarValue::Int32(Some(number)), _) => numbers.push(i128::from(*number)),
            Expr::Literal(ScalarValue::Float64(Some(_)) | ScalarValue::Float32(Some(_)), _) => {
                return plan_err!("{name} takes whole numbers");
            }
            _ => return Ok(()),
        }
    }
    let (start, end, step) = match numbers.as_slice() {
        [end] => (0, *end, 1),
        [start, end] => (*start, *end, 1),
        [start, end, step] if *step != 0 => (*start, *end, *step),
        _ => return Ok(()),
    };
    let rows = (end - start) / step;
    if rows > SERIES_ROWS_MAX {
        return plan_err!("{name} would make {rows} rows, more than {SERIES_ROWS_MAX}");
    }
    Ok(())
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let key = RelationKey {
            database: name.schema().unwrap_or(self.database).to_owned(),
            relation: name.table().to_owned(),
            version: name.catalog().and_then(NamedRelation::version_of),
        };
        match self.relations.get(&key) {
            Some(source) if name.catalog().is_some() == key.version.is_some() => Ok(source.clone()),
            _ => plan_err!("no table {name}"),
        }
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> Result<Arc<dyn TableSource>> {
        let Some(function) = self.state.table_functions().get(name) else {
            return plan_err!("no table function {name}");
        };
        let simplifier = self.simplifier();
        let schema = DFSchema::empty();
        let simplify = |arg: Expr| simplifier.simplify(simplifier.coerce(arg, &schema)?);
        let args = args.into_iter().map(simplify).collect::<Result<Vec<_>>>()?;
        check_series(name, &args)?;
        let provider = function.create_table_provider_with_args(TableFunctionArgs::new(&args, self.state))?;
        Ok(provider_as_source(provider))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &[]
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(OurTypes))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
