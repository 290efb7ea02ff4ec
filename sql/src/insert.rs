//! INSERT and CREATE TABLE AS: rows that are made to fit the table and appended, by INSERT as one frame, which bounds them,
//! and to a table that is being made as they come.
//!
//! Always: all rows or none; a row that does not fit is named with its column and value, and nothing is written. A table that
//! is being made is not there for anybody until it has all its rows; if that does not come to be, it never was.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::sql::sqlparser::ast;
use futures::stream::{Fuse, StreamExt};
use thermocline_engine::{REQUEST_BYTES_MAX, Sender, Table};
use thermocline_schemas::text::conform;
use thermocline_schemas::{
    Code, ColumnType, Error, Properties, Result, TableKind, TableName, TableSchema, is_uuid, slice_bytes,
};

use crate::assign::fit_column;
use crate::change::ATTEMPTS_MAX;
use crate::errors::from_datafusion;
use crate::front::{self, prepare};
use crate::query::{plan, start};
use crate::session::Names;
use crate::sql::{Sql, SqlRequest, full_name};
use crate::system::batch;
use crate::values::{plain_values, value_columns};

/// A table that is being made takes rows in requests of so many bytes.
const CHUNK_BYTES: u64 = 16 << 20;
/// How often one of them waits for room.
const BUSY_MAX: u32 = 6;

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
                let mut rows = Fitted::new(&table.descriptor().schema, &targets, batches)?;
                let all = rows.next(REQUEST_BYTES_MAX).await?;
                if rows.next(1).await?.is_some() {
                    let message = format!("the rows to insert take more than {REQUEST_BYTES_MAX} bytes");
                    return Err(Error::new(Code::RequestTooLarge, message)
                        .with_hint("insert by ranges of a key, or use `thermocline load` for a file"));
                }
                all.unwrap_or_else(|| RecordBatch::new_empty(table.schema().clone()))
            }
        };
        let answer = self.engine().append(table, rows, Sender::default()).await?;
        Ok(answer.rows)
    }

    /// Makes a table of a query's columns and rows; none if there is one and that is fine.
    pub(crate) async fn create_table_as(
        self: &Arc<Self>,
        create: front::CreateTableAs,
        names_system_columns: bool,
        request: &SqlRequest,
    ) -> Result<Option<Made>> {
        let front::CreateTableAs { table, if_not_exists, key, properties, source } = create;
        let properties = Properties::parse(properties.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        let kind = if key.is_empty() { TableKind::Log } else { TableKind::PrimaryKey };
        let keeps_nanoseconds = !properties.lake_enabled || properties.format_version(kind) >= 3;
        let name = full_name(&table, request)?;
        if self.is_there(&name, if_not_exists)? {
            return Ok(None);
        }
        let batches = self.stream(source, None, names_system_columns, request, Arc::default()).await?;
        let fields = batches.schema();
        let columns = fields.fields().iter().map(|field| {
            let named = |error: Error| error.with_column(field.name().as_str());
            // As in Postgres and DuckDB: what a query happens to know of its rows binds nobody later.
            let nullable = !key.contains(field.name());
            Ok((field.name().clone(), column_type_of(field, keeps_nanoseconds).map_err(named)?, nullable))
        });
        let schema = TableSchema::new(columns.collect::<Result<Vec<_>>>()?)
            .map_err(|error| error.with_hint("name the query's columns: SELECT count(*) AS n …"))?;
        let targets: Vec<_> = (0..schema.columns().len()).collect();
        let note = |field: &Arc<Field>| {
            let name = field.name();
            match field.data_type() {
                DataType::Timestamp(TimeUnit::Nanosecond, _) if keeps_nanoseconds => None,
                DataType::Timestamp(TimeUnit::Nanosecond, _) => Some(format!(
                    "column {name}: nanoseconds are cut to microseconds; WITH (format_version = 3) keeps them"
                )),
                other if has_nanoseconds(other) => {
                    Some(format!("column {name}: nanoseconds inside are cut to microseconds"))
                }
                _ => None,
            }
        };
        let notes = fields.fields().iter().filter_map(note).collect();
        let mut rows = Fitted::new(&schema, &targets, batches)?;
        // A row that does not fit is mostly among the first: before there is anything to take back.
        let chunk_bytes = CHUNK_BYTES.min(self.engine().options().memory_bytes_max / 8);
        let mut some = rows.next(chunk_bytes).await?;
        let (engine, own, columns) = (self.engine().clone(), name.clone(), schema.clone());
        let made = self.to_its_end(async move { engine.create_unfinished(own, columns, &key, properties).await }).await;
        let taken = |error: Error| match error.code() {
            Code::TableExists if self.is_there(&name, if_not_exists)? => Ok(None),
            _ => Err(error),
        };
        let made = match made {
            Ok(made) => made,
            Err(error) => return taken(error),
        };
        let mut given = 0;
        while let Some(chunk) = some {
            // Known at the end too, but there is no need to get there.
            if self.is_there(&name, if_not_exists)? {
                return Ok(None);
            }
            given += self.fill(made.table(), chunk).await?;
            some = rows.next(chunk_bytes).await?;
        }
        let engine = self.engine().clone();
        match self.to_its_end(async move { engine.finish_table(made).await }).await {
            Ok(table) => Ok(Some(Made { table, rows: given, notes })),
            Err(error) => taken(error),
        }
    }

    /// Whether this table is there, which is fine; an error if none can be made of this name.
    fn is_there(&self, name: &TableName, is_fine: bool) -> Result<bool> {
        match self.engine().check_free(name) {
            Err(error) if error.code() == Code::TableExists && is_fine && self.engine().table(name).is_ok() => Ok(true),
            free => free.map(|()| false),
        }
    }

    /// Appends rows in as many requests as they need.
    async fn fill(&self, table: &Arc<Table>, rows: RecordBatch) -> Result<u64> {
        let (mut given, mut busy) = (0, 0);
        let mut left = vec![rows];
        while let Some(rows) = left.pop() {
            match self.engine().append(table, rows.clone(), Sender::default()).await {
                Ok(answer) => {
                    given += answer.rows;
                    busy = 0;
                }
                // It has waited for room, some seconds each time.
                Err(error) if error.code() == Code::TooBusy && busy < BUSY_MAX => {
                    busy += 1;
                    left.push(rows);
                }
                Err(error) if error.code() == Code::RequestTooLarge && rows.num_rows() > 1 => {
                    let half = rows.num_rows() / 2;
                    left.push(rows.slice(half, rows.num_rows() - half));
                    left.push(rows.slice(0, half));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(given)
    }
}

/// A table that was made of a query.
pub(crate) struct Made {
    pub table: Arc<Table>,
    pub rows: u64,
    /// What became other than the query said.
    pub notes: Vec<String>,
}

/// Whether it is a timestamp of nanoseconds, or has one inside.
fn has_nanoseconds(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_nanoseconds(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_nanoseconds(field.data_type())),
        _ => false,
    }
}

/// The type of a table's column for a query's.
fn column_type_of(field: &Field, keeps_nanoseconds: bool) -> Result<ColumnType> {
    match field.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, None) if keeps_nanoseconds => Ok(ColumnType::TimestampNs),
        DataType::Timestamp(TimeUnit::Nanosecond, Some(_)) if keeps_nanoseconds => Ok(ColumnType::TimestampTzNs),
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

/// The rows of a query, fitted to a table.
struct Fitted<'a> {
    schema: &'a TableSchema,
    targets: &'a [usize],
    batches: Fuse<SendableRecordBatchStream>,
    /// Rows that were read.
    rows: u64,
    /// What no longer fitted what was answered last.
    left: Option<RecordBatch>,
}

impl<'a> Fitted<'a> {
    fn new(schema: &'a TableSchema, targets: &'a [usize], batches: SendableRecordBatchStream) -> Result<Fitted<'a>> {
        let found = batches.schema().fields().len();
        if found != targets.len() {
            let message = format!("{found} values for {} columns", targets.len());
            return Err(Error::new(Code::InvalidSql, message).with_hint("name the columns: INSERT INTO t (a, b) …"));
        }
        Ok(Fitted { schema, targets, batches: batches.fuse(), rows: 0, left: None })
    }

    /// The next rows, as many as have no more than so many bytes, or one batch of the query; none after the last.
    async fn next(&mut self, bytes_max: u64) -> Result<Option<RecordBatch>> {
        let mut fitted = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = self.next_batch().await? {
            bytes += batch.columns().iter().map(|column| slice_bytes(column) as u64).sum::<u64>();
            if bytes > bytes_max && !fitted.is_empty() {
                self.left = Some(batch);
                break;
            }
            fitted.push(batch);
        }
        match fitted.as_slice() {
            [] => Ok(None),
            batches => Ok(Some(concat_batches(&self.schema.arrow(), batches)?)),
        }
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(left) = self.left.take() {
            return Ok(Some(left));
        }
        let Some(batch) = self.batches.next().await else { return Ok(None) };
        let batch = batch.map_err(from_datafusion)?;
        let columns = self.targets.iter().map(|place| &self.schema.columns()[*place]);
        let arrays = columns.zip(batch.columns()).map(|(column, array)| fit_column(column, array));
        let fit = arrays.collect::<Result<Vec<_>>>().and_then(|arrays| whole_rows(self.schema, self.targets, arrays));
        let batch = fit.map_err(|error| match error.row() {
            Some(row) => error.with_row(self.rows + row),
            None => error,
        })?;
        self.rows += batch.num_rows() as u64;
        Ok(Some(batch))
    }
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
