//! UPDATE and DELETE of rows that have a key: read at one cut, then written if nobody was faster.
//!
//! The statement becomes a query, for the key and the place of each row that it means, and in an UPDATE for the row's new
//! values. What the query finds is one request to the table's owner, who applies it only if every row still stands where
//! it was read. Else the query is run again, a few times, and then refused: no change of others is ever overwritten
//! unseen. (DataFusion's own DML hooks lose subqueries and LIMIT, and take no filter for all rows.)
//!
//! Always: all rows or none.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::sql::sqlparser::ast::{Ident, Query, Select, SelectItem, SetExpr, Statement};
use datafusion::sql::sqlparser::parser::Parser;
use futures::StreamExt;
use thermocline_engine::{Change, ChangeRows, REQUEST_BYTES_MAX, Sender, Table};
use thermocline_schemas::text::conform;
use thermocline_schemas::{Code, DeleteBehavior, Error, Offset, Result, SystemColumn, quoted};

use crate::assign::fit_column;
use crate::errors::from_datafusion;
use crate::front::{self, invalid, prepare};
use crate::query::{plan, start};
use crate::session::Names;
use crate::sql::{Sql, SqlRequest, full_name};
use crate::system::batch;

/// How often rows may change under a statement.
pub(crate) const ATTEMPTS_MAX: usize = 4;

impl Sql {
    /// Changes the rows that the statement means; answers how many.
    pub(crate) async fn change(&self, change: &front::ChangeRows, request: &SqlRequest) -> Result<u64> {
        let mut attempts = 1;
        loop {
            let table = self.engine().table(&full_name(&change.table, request)?)?;
            check(&table, change)?;
            let done = match self.rows_to_change(&table, change, request).await {
                Ok(rows) => self.engine().change(&table, rows, Sender::default()).await,
                Err(error) if table.has_columns_of(&self.engine().newest(&table)) => Err(error),
                Err(error) => Err(Error::new(Code::WriteConflict, "the table's columns were changed meanwhile")
                    .with_source(error)
                    .with_hint("run it again")),
            };
            match done {
                Err(error) if error.code() == Code::WriteConflict && attempts < ATTEMPTS_MAX => attempts += 1,
                answer => return Ok(answer?.rows),
            }
        }
    }

    /// Takes all rows of a table away, those with keys by deleting them; answers how many.
    pub(crate) async fn truncate(&self, all: &front::ChangeRows, request: &SqlRequest) -> Result<u64> {
        let table = self.engine().table(&full_name(&all.table, request)?)?;
        let name = &table.descriptor().name;
        if !table.descriptor().is_keyed() {
            return self.engine().truncate(&table).await;
        }
        if table.descriptor().properties.delete_behavior == DeleteBehavior::Ignore {
            return Err(Error::new(Code::WrongTableKind, format!("table {name} ignores deletes"))
                .with_hint("it was made WITH (delete_behavior = 'ignore')"));
        }
        self.change(all, request).await
    }

    async fn rows_to_change(
        &self,
        table: &Arc<Table>,
        change: &front::ChangeRows,
        request: &SqlRequest,
    ) -> Result<ChangeRows> {
        let descriptor = table.descriptor();
        let columns = descriptor.schema.columns();
        // A delete needs the key alone.
        let wanted = match &change.assignments {
            None => descriptor.key_places(),
            Some(_) => (0..columns.len()).collect(),
        };
        let mut source = query(table, &wanted, change)?;
        let prepared = prepare(&mut source, &request.params, &request.database, true, self.options().depth_max)?;
        let relations = self.relations(&prepared, &request.database, true, Arc::default()).await?;
        let state = self.session().query();
        let plan = {
            let names = Names::new(&state, &request.database, relations);
            plan(&names, source, None).map_err(from_datafusion)?
        };
        let mut batches = start(&state, plan).await.map_err(from_datafusion)?;
        let schema = descriptor.schema.for_changes(&descriptor.key);
        let (mut fitted, mut offsets, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(found) = batches.next().await {
            let found = found.map_err(from_datafusion)?;
            let mut named: Vec<(&str, bool, ArrayRef)> = Vec::with_capacity(wanted.len());
            for (place, array) in wanted.iter().zip(found.columns()) {
                let array = fit_column(&columns[*place], array)?;
                named.push((columns[*place].name.as_str(), true, array));
            }
            let places = found.column(wanted.len()).as_primitive_opt::<Int64Type>();
            let places = places.ok_or_else(|| Error::internal("rows to change without their places"))?;
            offsets.extend(places.values().iter().map(|offset| Offset(*offset as u64)));
            let rows = conform(&schema, &batch(named)?)?;
            bytes += rows.get_array_memory_size() as u64;
            if bytes > 2 * REQUEST_BYTES_MAX {
                return Err(Error::new(Code::RequestTooLarge, "the statement changes more rows than fit one request")
                    .with_hint("change them by ranges of the key"));
            }
            fitted.push(rows);
        }
        let rows = concat_batches(&schema.arrow(), &fitted)?;
        let wanted = if change.assignments.is_some() { Change::Upsert } else { Change::Delete };
        ChangeRows::from_upload(descriptor, &rows, wanted)?.expecting(offsets)
    }
}

fn check(table: &Table, change: &front::ChangeRows) -> Result<()> {
    let descriptor = table.descriptor();
    if !descriptor.is_keyed() {
        return Err(Error::new(Code::WrongTableKind, format!("table {} has no primary key", descriptor.name))
            .with_hint("rows of a log table are only appended"));
    }
    for (name, _) in change.assignments.iter().flatten() {
        let Some(column) = descriptor.schema.column(name) else {
            return Err(Error::new(Code::UnknownColumn, format!("table {} has no column {name}", descriptor.name))
                .with_column(name));
        };
        if descriptor.key.contains(&column.id) {
            return Err(invalid(format!("column {name} is of the primary key, which an UPDATE leaves as it is"))
                .with_column(name)
                .with_hint("DELETE the row, and INSERT it under its new key"));
        }
    }
    Ok(())
}

/// The query for these columns of the rows that are meant, and their places.
fn query(table: &Table, wanted: &[usize], change: &front::ChangeRows) -> Result<Box<Query>> {
    let columns = table.descriptor().schema.columns();
    let names = wanted.iter().map(|place| quoted(columns[*place].name.as_str()));
    let names: Vec<_> = names.chain([SystemColumn::Offset.name().to_owned()]).collect();
    let parsed = Parser::parse_sql(&front::OurDialect, &format!("SELECT {} FROM t", names.join(", ")));
    let Some(Statement::Query(mut query)) = parsed.ok().and_then(|mut statements| statements.pop()) else {
        return Err(Error::internal("the query of a change does not parse"));
    };
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(Error::internal("the query of a change is no SELECT"));
    };
    let Select { projection, from, selection, .. } = select.as_mut();
    *from = vec![change.from.clone()];
    selection.clone_from(&change.selection);
    for (item, place) in projection.iter_mut().zip(wanted) {
        let name = columns[*place].name.as_str();
        if let Some((_, value)) = change.assignments.iter().flatten().find(|(assigned, _)| assigned == name) {
            *item = SelectItem::ExprWithAlias { expr: value.clone(), alias: Ident::with_quote('"', name) };
        }
    }
    Ok(query)
}
