//! INSERT and CREATE TABLE AS: rows that are made to fit the table and appended as one frame.
//!
//! Always: all rows or none; a row that does not fit is named with its column and value, and nothing is written.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;
use thermocline_engine::{REQUEST_BYTES_MAX, Sender, Table};
use thermocline_schemas::text::conform;
use thermocline_schemas::{Code, ColumnType, Error, Properties, Result, TableSchema, is_uuid, slice_bytes};

use crate::assign::fit_column;
use crate::change::ATTEMPTS_MAX;
use crate::errors::from_datafusion;
use crate::front::{self, prepare};
use crate::query::{plan, start};
use crate::session::Names;
use crate::sql::{Sql, SqlRequest, full_name};
use crate::system::batch;
use crate::values::{plain_values, value_columns};

impl Sql {
    /// Appends the rows of `source`; `columns` are those that it fills, none for all.
    pub(crate) async fn insert(
        &self,
        table: &Arc<Table>,
        columns: &[String],
        source: Box<ast::Query>,
        names_system_columns: bool,
        request: &SqlRequest,
    ) -> Result<u64> {
        let mut attempts = 1;
        loop {
            match self.insert_once(table, columns, source.clone(), names_system_columns, request).await {
                // The table asks more of rows than when these were checked.
                Err(error) if error.code() == Code::WriteConflict && attempts < ATTEMPTS_MAX => attempts += 1,
                answer => return answer,
            }
        }
    }

    async fn insert_once(
        &self,
        table: &Arc<Table>,
        columns: &[String],
        mut source: Box<ast::Query>,
        names_system_columns: bool,
        request: &SqlRequest,
    ) -> Result<u64> {
        let depth_max = self.options().depth_max;
        let prepared = prepare(&mut source, &request.params, &request.database, names_system_columns, depth_max)?;
        let mut table = self.engine().newest(table);
        // Values find their columns by place: what is read and what is written must be of one version.
        let relations = loop {
            let relations = self.relations(&prepared, &request.database, names_system_columns, Arc::default()).await?;
            let newest = self.engine().newest(&table);
            if newest.has_columns_of(&table) {
                break relations;
            }
            table = newest;
        };
        let (table, targets) = (&table, targets(&table, columns)?);
        let state = self.session().query();
        let rows = {
            let names = Names::new(&state, &request.database, relations);
            match values(&state, &names, &table.descriptor().schema, &targets, &source)? {
                Some(rows) => Ok(rows),
                None => Err(plan(&names, source, None).map_err(from_datafusion)?),
            }
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(plan) => {
                let batches = start(&state, plan).await.map_err(from_datafusion)?;
                collect(&table.descriptor().schema, &targets, batches).await?
            }
        };
        let answer = self.engine().append(table, rows, Sender::default()).await?;
        Ok(answer.rows)
    }

    /// Makes a table of a query's columns and appends its rows; they are all there before the table is. Answers the table and
    /// how many rows it was given; none if there was one and that is fine.
    pub(crate) async fn create_table_as(
        &self,
        create: front::CreateTableAs,
        names_system_columns: bool,
        request: &SqlRequest,
    ) -> Result<Option<(Arc<Table>, u64)>> {
        let front::CreateTableAs { table, if_not_exists, properties, source } = create;
        let name = full_name(&table, request)?;
        if self.engine().table(&name).is_ok() {
            let there = Error::new(Code::TableExists, format!("table {name} is there already"));
            return if if_not_exists { Ok(None) } else { Err(there) };
        }
        let batches = self.stream(source, None, names_system_columns, request, Arc::default()).await?;
        let fields = batches.schema();
        let columns = fields.fields().iter().map(|field| {
            let named = |error: Error| error.with_column(field.name().as_str());
            Ok((field.name().clone(), column_type_of(field).map_err(named)?, field.is_nullable()))
        });
        let schema = TableSchema::new(columns.collect::<Result<Vec<_>>>()?)
            .map_err(|error| error.with_hint("name the query's columns: SELECT count(*) AS n …"))?;
        let targets: Vec<_> = (0..schema.columns().len()).collect();
        let rows = collect(&schema, &targets, batches).await?;
        let properties = Properties::parse(properties.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        let table = self.engine().create_table(name.clone(), schema, &[], properties, false).await?;
        match self.engine().append(&table, rows, Sender::default()).await {
            Ok(answer) => Ok(Some((table, answer.rows))),
            Err(error) => {
                self.engine().drop_table(&name, true, true).await?;
                Err(error)
            }
        }
    }
}

/// The type of a table's column for a query's.
fn column_type_of(field: &Field) -> Result<ColumnType> {
    match field.data_type() {
        _ if is_uuid(field) => Ok(ColumnType::Uuid),
        // Of row numbers and the like: one that is too large is refused with its row.
        DataType::UInt64 => Ok(ColumnType::Int64),
        DataType::Null => {
            Err(Error::new(Code::InvalidType, format!("column {} is NULL and has no type", field.name()))
                .with_hint("CAST(NULL AS VARCHAR)"))
        }
        other => ColumnType::from_arrow(other),
    }
}

/// The rows of plain VALUES; none for any other source.
fn values(
    state: &SessionState,
    names: &Names<'_>,
    schema: &TableSchema,
    targets: &[usize],
    source: &ast::Query,
) -> Result<Option<RecordBatch>> {
    let Some(values) = plain_values(source) else { return Ok(None) };
    let columns: Vec<_> = targets.iter().map(|place| &schema.columns()[*place]).collect();
    match value_columns(state, names, values, &columns)? {
        Some(arrays) => whole_rows(schema, targets, arrays).map(Some),
        None => Ok(None),
    }
}

/// All rows of a stream, fitted to the table, as one batch.
async fn collect(
    schema: &TableSchema,
    targets: &[usize],
    mut batches: SendableRecordBatchStream,
) -> Result<RecordBatch> {
    let found = batches.schema().fields().len();
    if found != targets.len() {
        let message = format!("{found} values for {} columns", targets.len());
        return Err(Error::new(Code::InvalidSql, message).with_hint("name the columns: INSERT INTO t (a, b) …"));
    }
    let mut fitted = Vec::new();
    let (mut rows, mut bytes) = (0u64, 0u64);
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(from_datafusion)?;
        let columns = targets.iter().map(|place| &schema.columns()[*place]);
        let arrays = columns.zip(batch.columns()).map(|(column, array)| fit_column(column, array));
        let fit = arrays.collect::<Result<Vec<_>>>().and_then(|arrays| whole_rows(schema, targets, arrays));
        let batch = fit.map_err(|error| match error.row() {
            Some(row) => error.with_row(rows + row),
            None => error,
        })?;
        rows += batch.num_rows() as u64;
        bytes += batch.columns().iter().map(|column| slice_bytes(column) as u64).sum::<u64>();
        if bytes > REQUEST_BYTES_MAX {
            let message = format!("the rows to insert take more than {REQUEST_BYTES_MAX} bytes");
            return Err(Error::new(Code::RequestTooLarge, message)
                .with_hint("insert by ranges of a key, or use `thermocline load` for a file"));
        }
        fitted.push(batch);
    }
    Ok(concat_batches(&schema.arrow(), &fitted)?)
}

/// The places of the columns to fill, in the order of the values.
fn targets(table: &Table, columns: &[String]) -> Result<Vec<usize>> {
    let schema = &table.descriptor().schema;
    if columns.is_empty() {
        return Ok((0..schema.columns().len()).collect());
    }
    let mut targets = Vec::with_capacity(columns.len());
    for name in columns {
        let place = schema.columns().iter().position(|column| column.name.as_str() == name);
        let place = place.ok_or_else(|| {
            Error::new(Code::UnknownColumn, format!("table {} has no column {name}", table.descriptor().name))
                .with_column(name)
        })?;
        if targets.contains(&place) {
            return Err(Error::new(Code::InvalidSql, format!("column {name} is named twice")).with_column(name));
        }
        targets.push(place);
    }
    let missing = schema
        .columns()
        .iter()
        .enumerate()
        .find(|(place, column)| !column.nullable && column.default.is_none() && !targets.contains(place));
    match missing {
        Some((_, column)) => {
            let message = format!("column {} is NOT NULL and gets no value", column.name);
            Err(Error::new(Code::InvalidRow, message).with_column(column.name.as_str()))
        }
        None => Ok(targets),
    }
}

/// Fitted columns as rows of the table; those that get no value have their default.
fn whole_rows(schema: &TableSchema, targets: &[usize], arrays: Vec<ArrayRef>) -> Result<RecordBatch> {
    let named = targets.iter().zip(arrays).map(|(place, array)| (schema.columns()[*place].name.as_str(), true, array));
    conform(schema, &batch(named.collect())?)
}
