//! What CHECK constraints mean: the engine and the tables know them as texts, here they are planned and tested.
//!
//! Always: a condition sees one row in the columns of one version of a table, and is the same of the same row for ever: no
//! other row, no clock, no chance. A row breaks it if it is false, or cannot be computed. It is planned once for a version
//! of the columns, and tested on all rows of a request at once.
//!
//! `ADD CONSTRAINT` first holds new rows to the constraint, then reads all that are there at a cut after that; if one breaks
//! it, the constraint goes again. A crash in between leaves one that is NOT VALID, and says so.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result as PlanResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::ast::{self, AccessExpr, Ident, Subscript, Value, VisitMut, VisitorMut};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use thermocline_engine::Table;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{
    Alteration, Check, Code, Column, ColumnType, Conditions, Error, FieldId, Result, SchemaId, TableDescriptor,
    TableId, TableName, TableSchema, Understood, fitted_values, fold, nullable, quoted,
};

use crate::condition::{parse, plan_condition};
use crate::errors::from_datafusion;
use crate::front::{folded, invalid};
use crate::scan::ScanColumns;
use crate::sql::{Sql, SqlRequest};

/// Tested on every row that comes, on threads whose stacks are small.
const DEPTH_MAX: usize = 50;
/// For planning, which needs more of it.
const STACK_BYTES: usize = 64 << 20;
/// Tables whose constraints are kept planned; past it all are planned anew.
const PLANNED_MAX: usize = 1_000;
/// A value in an error is cut to this many characters.
const VALUE_CHARS_MAX: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct SqlConditions {
    state: SessionState,
    planned: Mutex<HashMap<TableId, Arc<PlannedChecks>>>,
}

/// The constraints of one version of a table.
#[derive(Debug)]
struct PlannedChecks {
    version: SchemaId,
    checks: Vec<PlannedCheck>,
}

#[derive(Debug)]
struct PlannedCheck {
    check: Check,
    test: Arc<dyn PhysicalExpr>,
    /// Where the columns that it names stand among the table's.
    places: Vec<usize>,
    /// These columns.
    schema: SchemaRef,
}

impl SqlConditions {
    pub(crate) fn new(state: SessionState) -> SqlConditions {
        SqlConditions { state, planned: Mutex::default() }
    }

    fn planned(&self, table: &TableDescriptor) -> Result<Arc<PlannedChecks>> {
        let known = || self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |planned: &&Arc<PlannedChecks>| {
            planned.version == table.schema.id || faults::planted(Defect::ChecksOfAnyVersion)
        };
        if let Some(planned) = known().get(&table.id).filter(is_same) {
            return Ok(planned.clone());
        }
        let plan = || table.schema.checks().iter().map(|check| self.plan_check(check, &table.schema));
        let checks = with_large_stack(|| plan().collect::<Result<Vec<_>>>())?;
        let planned = Arc::new(PlannedChecks { version: table.schema.id, checks });
        let mut known = known();
        if known.len() >= PLANNED_MAX {
            known.clear();
        }
        known.insert(table.id, planned.clone());
        Ok(planned)
    }

    /// What a condition computes, and the places of the columns that it names.
    fn plan(&self, condition: &str, schema: &TableSchema) -> Result<(Expr, Vec<usize>)> {
        let columns = row_schema(schema);
        let expr = plan_condition(&self.state, &columns, condition, DEPTH_MAX)?;
        let mut refused = None;
        let walked = expr.exists(|part| {
            refused = match part {
                Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                    Some(format!("{} is not the same whenever it is asked", call.func.name()))
                }
                Expr::HigherOrderFunction(call) => Some(format!("{} is not for constraints", call.func.name())),
                Expr::ScalarVariable(..) | Expr::Placeholder(_) => Some(format!("{part} is not of the row")),
                _ => None,
            };
            Ok(refused.is_some())
        });
        walked.map_err(from_datafusion)?;
        if let Some(why) = refused {
            return Err(invalid(why).with_hint("a constraint is computed of a row's own values alone"));
        }
        let named = expr.column_refs();
        let place = |column: &datafusion::common::Column| columns.index_of(column.name());
        let mut places = named.into_iter().map(place).collect::<std::result::Result<Vec<_>, _>>()?;
        places.sort_unstable();
        places.dedup();
        Ok((expr, places))
    }

    fn plan_check(&self, check: &Check, schema: &TableSchema) -> Result<PlannedCheck> {
        let (expr, places) = self.plan(&check.condition, schema)?;
        let named = Arc::new(row_schema(schema).project(&places)?);
        let test = || -> PlanResult<Arc<dyn PhysicalExpr>> {
            self.state.create_physical_expr(expr, &DFSchema::try_from(named.as_ref().clone())?)
        };
        let test = test().map_err(from_datafusion)?;
        Ok(PlannedCheck { check: check.clone(), test, places, schema: named })
    }
}

impl Conditions for SqlConditions {
    fn understand(&self, condition: &str, schema: &TableSchema) -> Result<Understood> {
        with_large_stack(|| {
            let condition = renamed(condition, schema, schema)?;
            let (_, places) = self.plan(&condition, schema)?;
            let columns = places.into_iter().map(|place| schema.columns()[place].id).collect();
            Ok(Understood { condition, columns })
        })
    }

    fn follow(&self, condition: &str, before: &TableSchema, after: &TableSchema) -> Result<String> {
        with_large_stack(|| {
            let condition = renamed(condition, before, after)?;
            self.plan(&condition, after)?;
            Ok(condition)
        })
    }

    fn broken(
        &self,
        table: &TableDescriptor,
        rows: &RecordBatch,
        is_tested: &dyn Fn(usize) -> bool,
        most: usize,
    ) -> Result<Vec<Error>> {
        let mut broken = BTreeMap::new();
        for check in &self.planned(table)?.checks {
            check.test(rows, is_tested, most, &mut broken)?;
        }
        Ok(broken.into_values().take(most).collect())
    }
}

impl PlannedCheck {
    /// Adds what is wrong with the first rows that break it.
    fn test(
        &self,
        rows: &RecordBatch,
        is_tested: &dyn Fn(usize) -> bool,
        most: usize,
        broken: &mut BTreeMap<usize, Error>,
    ) -> Result<()> {
        let columns = self.places.iter().zip(self.schema.fields());
        // What stands inside nested columns is called by no field id here.
        let columns = columns.map(|(place, field)| fitted_values(rows.column(*place), field.data_type()));
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
        let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), columns, &count)?;
        let mut found = 0;
        match self.passed(&rows) {
            Ok(passed) if passed.false_count() == 0 => {}
            Ok(passed) => {
                let is_broken = |row: &usize| passed.is_valid(*row) && !passed.value(*row) && is_tested(*row);
                for row in (0..rows.num_rows()).filter(is_broken).take(most) {
                    broken.entry(row).or_insert_with(|| self.broken(&rows, row, None));
                }
            }
            // One of the rows is at fault, or several.
            Err(_) => {
                for row in (0..rows.num_rows()).filter(|row| is_tested(*row)) {
                    let why = match self.passed(&rows.slice(row, 1)) {
                        Ok(passed) if passed.false_count() == 0 => continue,
                        Ok(_) => None,
                        Err(error) => Some(error),
                    };
                    broken.entry(row).or_insert_with(|| self.broken(&rows, row, why));
                    found += 1;
                    if found == most {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn passed(&self, rows: &RecordBatch) -> Result<BooleanArray> {
        let passed = self.test.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()));
        let passed = passed.map_err(from_datafusion)?;
        let passed = passed.as_boolean_opt().cloned();
        passed.ok_or_else(|| Error::internal("a condition that is neither true nor false"))
    }

    /// What is wrong with a row of these columns.
    fn broken(&self, rows: &RecordBatch, row: usize, why: Option<Error>) -> Error {
        let columns = rows.schema_ref().fields().iter().zip(rows.columns());
        let values = columns.map(|(field, values)| format!("{} = {}", quoted(field.name()), shown(values, row)));
        let values = values.collect::<Vec<_>>().join(", ");
        let Check { name, condition, .. } = &self.check;
        let message = match &why {
            None => format!("the row breaks constraint {name}, CHECK ({condition}): {values}"),
            Some(why) => format!("constraint {name}, CHECK ({condition}), fails for {values}: {}", why.message()),
        };
        let error = Error::new(Code::CheckViolation, message).with_row(row as u64).with_value(values);
        match rows.schema_ref().fields().first() {
            Some(only) if rows.num_columns() == 1 => error.with_column(only.name()),
            _ => error,
        }
    }
}

fn shown(values: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let text = ArrayFormatter::try_new(values, &options).map(|values| values.value(row).try_to_string());
    match text {
        Ok(Ok(text)) => match text.char_indices().nth(VALUE_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        },
        _ => "?".to_owned(),
    }
}

/// The columns that a condition sees.
fn row_schema(schema: &TableSchema) -> SchemaRef {
    nullable(ScanColumns::new(schema, &[], &[]).schema())
}

fn with_large_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| Error::internal("cannot start a thread").with_source(error))?;
        thread.join().unwrap_or_else(|_| Err(Error::internal("planning a constraint failed by a fault of ours")))
    })
}

/// The condition as it is kept, in the names that its columns have in `after`.
fn renamed(condition: &str, before: &TableSchema, after: &TableSchema) -> Result<String> {
    let mut selection = parse(condition, DEPTH_MAX)?;
    match selection.visit(&mut Renames { before, after }) {
        ControlFlow::Continue(()) => Ok(selection.to_string()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Renames<'s> {
    before: &'s TableSchema,
    after: &'s TableSchema,
}

/// The type of a column, or of a field inside one, before and after.
type Types<'s> = (&'s ColumnType, &'s ColumnType);

impl<'s> Renames<'s> {
    fn column(&self, name: &mut Ident) -> Result<Option<Types<'s>>> {
        let Some(own) = self.before.column(&folded(name)) else { return Ok(None) };
        let then = self.after.columns().iter().find(|column| column.id == own.id);
        let then = then.ok_or_else(|| gone(own.name.as_str()))?;
        *name = ident(then.name.as_str());
        Ok(Some((&own.column_type, &then.column_type)))
    }

    /// What a field of a struct is called after, and its types.
    fn field(types: Types<'s>, name: &str) -> Result<Option<(&'s str, Types<'s>)>> {
        let (ColumnType::Struct(own), ColumnType::Struct(then)) = types else { return Ok(None) };
        let Some(own) = own.iter().find(|field| field.name.as_str() == name) else { return Ok(None) };
        let then = then.iter().find(|field| field.id == own.id).ok_or_else(|| gone(name))?;
        Ok(Some((then.name.as_str(), (&own.column_type, &then.column_type))))
    }

    /// Renames a path to a value, if it is one; answers the value's types.
    fn path(&self, expr: &mut ast::Expr) -> Result<Option<Types<'s>>> {
        match expr {
            ast::Expr::Nested(inner) => self.path(inner),
            ast::Expr::Identifier(name) => self.column(name),
            ast::Expr::CompoundIdentifier(names) => {
                let Some((first, rest)) = names.split_first_mut() else { return Ok(None) };
                let mut types = self.column(first)?;
                for name in rest {
                    let Some(of) = types else { break };
                    types = match Self::field(of, &folded(name))? {
                        Some((after, types)) => {
                            *name = ident(after);
                            Some(types)
                        }
                        None => None,
                    };
                }
                Ok(types)
            }
            ast::Expr::CompoundFieldAccess { root, access_chain } => {
                let types = self.path(root)?;
                self.chain(types, access_chain)
            }
            _ => Ok(None),
        }
    }

    /// Renames the fields of a chain as `[1]['a']`.
    fn chain(&self, mut types: Option<Types<'s>>, chain: &mut [AccessExpr]) -> Result<Option<Types<'s>>> {
        for access in chain {
            // What the planner knows of chains.
            let AccessExpr::Subscript(Subscript::Index { index }) = access else { return Ok(None) };
            types = match (types, &mut *index) {
                (Some(types @ (ColumnType::Struct(_), _)), ast::Expr::Value(value)) => match &mut value.value {
                    Value::SingleQuotedString(name) => Self::field(types, name)?.map(|(after, types)| {
                        after.clone_into(name);
                        types
                    }),
                    _ => None,
                },
                (Some((ColumnType::List(own), ColumnType::List(then))), _) => {
                    Some((&own.column_type, &then.column_type))
                }
                (Some((ColumnType::Map(own), ColumnType::Map(then))), _) => {
                    Some((&own[1].column_type, &then[1].column_type))
                }
                _ => None,
            };
        }
        Ok(types)
    }

    fn rename(&self, expr: &mut ast::Expr) -> Result<()> {
        match expr {
            ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) => self.path(expr).map(drop),
            ast::Expr::CompoundFieldAccess { root, access_chain } => {
                // The root itself comes later on the walk.
                let types = self.path(&mut root.clone())?;
                self.chain(types, access_chain).map(drop)
            }
            ast::Expr::Function(call) if fold(&call.name.to_string()) == "get_field" => {
                Err(invalid("get_field is not for constraints").with_hint("name fields as s.a"))
            }
            ast::Expr::Lambda(_) => Err(invalid("a constraint has no lambdas")),
            _ => Ok(()),
        }
    }
}

impl VisitorMut for Renames<'_> {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<Error> {
        match self.rename(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn ident(name: &str) -> Ident {
    if quoted(name) == name { Ident::new(name) } else { Ident::with_quote('"', name) }
}

/// Of a column that is no longer there.
fn gone(name: &str) -> Error {
    Error::new(Code::InvalidType, format!("it names {name}, which cannot be dropped")).with_column(name)
}

/// What becomes of a constraint that a row breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validation {
    /// It goes again.
    Added,
    /// It stays as it is.
    Known,
}

impl Sql {
    /// Holds constraints of a table against all its rows.
    pub(crate) fn validate(
        self: &Arc<Self>,
        table: TableName,
        checks: Vec<Check>,
        validation: Validation,
    ) -> BoxFuture<'static, Result<()>> {
        let sql = self.clone();
        Box::pin(async move {
            for check in &checks {
                let Err(error) = sql.validate_one(&table, check).await else { continue };
                let gone = |check: &Check| Alteration::DropCheck {
                    name: check.name.as_str().to_owned(),
                    if_exists: true,
                    since: Some(check.since),
                };
                if validation == Validation::Added {
                    let dropped: Vec<_> = checks.iter().map(gone).collect();
                    sql.engine().alter_table(&table, &dropped, true).await?;
                }
                return Err(error);
            }
            Ok(())
        })
    }

    async fn validate_one(self: &Arc<Self>, name: &TableName, check: &Check) -> Result<()> {
        let table = self.engine().table(name)?;
        let schema = &table.descriptor().schema;
        // Its columns may have other names by now.
        let Some(check) = schema.check(check.name.as_str()).filter(|own| own.since == check.since) else {
            return Err(Error::new(Code::WriteConflict, format!("constraint {} was dropped meanwhile", check.name)));
        };
        let Understood { condition, columns } = self.conditions().understand(&check.condition, schema)?;
        let column = |id: &FieldId| schema.columns().iter().find(|column| column.id == *id);
        let named: Vec<&Column> = columns.iter().filter_map(column).collect();
        let shown_columns: Vec<_> = named.iter().map(|column| quoted(column.name.as_str())).collect();
        let shown_columns = if shown_columns.is_empty() { "1".to_owned() } else { shown_columns.join(", ") };
        let from = format!("{}.{}", quoted(name.database.as_str()), quoted(name.table.as_str()));
        let text = format!("SELECT {shown_columns} FROM {from} WHERE NOT ({condition}) LIMIT 1");
        let answer = self.execute(&text, SqlRequest::default()).await?;
        let batches: Vec<RecordBatch> = answer.batches.try_collect().await?;
        let Some(row) = batches.iter().find(|batch| batch.num_rows() > 0) else {
            let valid = Alteration::ValidateCheck { name: check.name.as_str().to_owned(), since: check.since };
            self.engine().alter_table(name, &[valid], false).await?;
            return Ok(());
        };
        let values = named.iter().zip(row.columns());
        let values = values.map(|(column, values)| format!("{} = {}", quoted(column.name.as_str()), shown(values, 0)));
        let values = values.collect::<Vec<_>>().join(", ");
        let message =
            format!("a row that is there breaks constraint {}, CHECK ({}): {values}", check.name, check.condition);
        Err(Error::new(Code::CheckViolation, message)
            .with_value(values)
            .with_hint("change the row first, or say NOT VALID, which lets rows be that are there"))
    }
}

/// The constraints that a version of a table came with.
pub(crate) fn added(table: &Table) -> Vec<Check> {
    let descriptor = table.descriptor();
    let is_added = |check: &&Check| check.since == descriptor.schema.id && descriptor.not_valid.contains(&check.name);
    descriptor.schema.checks().iter().filter(is_added).cloned().collect()
}
