//! The crate's face: one text in, one answer out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use futures::stream::{self, BoxStream, StreamExt};
use thermocline_engine::{DEFAULT_DATABASE, Engine};
use thermocline_schemas::{
    Code, Column, ColumnType, Error, Properties, Result, SchemaId, TableDescriptor, TableId, TableName, TableSchema,
    is_uuid,
};
use thermocline_tiering::Tiering;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::checks::{SqlConditions, Validation, added};
use crate::front::{self, CreateTable, NamedTable, NewCheck, NewColumn, Parsed, Statement};
use crate::insert::Made;
use crate::scan::ReadStats;
use crate::session::{INTERRUPT, Interrupt, Session, SqlOptions, Waiting};

/// Answers SQL over the tables of one server.
pub struct Sql {
    tiering: Arc<Tiering>,
    session: Session,
    options: SqlOptions,
    conditions: Arc<SqlConditions>,
}

/// What comes with a statement.
#[derive(Clone, Debug)]
pub struct SqlRequest {
    /// Where names without a database are looked up.
    pub database: String,
    /// The values of `$1`, `$2`, …: null, booleans, numbers and strings.
    pub params: Vec<serde_json::Value>,
    /// Shorter than the server's limit, which it cannot pass.
    pub timeout: Option<Duration>,
}

impl Default for SqlRequest {
    fn default() -> SqlRequest {
        SqlRequest { database: DEFAULT_DATABASE.to_owned(), params: Vec::new(), timeout: None }
    }
}

/// A statement's answer, still being made. Dropping `batches` ends the work for it.
pub struct Answer {
    pub schema: SchemaRef,
    /// The type of each column as our DDL would spell it, or the closest SQL name.
    pub column_types: Vec<String>,
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    pub stats: Arc<ReadStats>,
    /// What whoever asked should know, though nothing is wrong.
    pub notes: Vec<String>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Answer").field("schema", &self.schema).field("stats", &self.stats).finish()
    }
}

impl Sql {
    /// Starts the query threads. The spill directory is ours alone: what an earlier process left there is removed.
    pub fn new(tiering: Arc<Tiering>, options: SqlOptions) -> Result<Arc<Sql>> {
        let session = Session::new(&options, tiering.warehouse().store().clone())?;
        let conditions = Arc::new(SqlConditions::new(session.query()));
        tiering.engine().set_conditions(conditions.clone());
        Ok(Arc::new(Sql { tiering, session, options, conditions }))
    }

    /// Runs one statement. Its work is done on the query threads, and ends when the answer, or this future, is dropped.
    pub async fn execute(self: &Arc<Self>, text: &str, request: SqlRequest) -> Result<Answer> {
        let timeout = request.timeout.map_or(self.options.timeout, |timeout| timeout.min(self.options.timeout));
        let deadline = Deadline { at: Instant::now() + timeout, timeout };
        let (sql, text) = (self.clone(), text.to_owned());
        let interrupt = Interrupt::at(deadline.at.into_std());
        let waiting = Waiting(interrupt.clone());
        let work = INTERRUPT.scope(interrupt, async move { sql.statement(&text, request, deadline).await });
        let mut answer = deadline.bound(Working(self.session.spawn(work)?)).await???;
        // As long as somebody reads it.
        let batches = answer.batches.inspect(move |_| {
            let _ = &waiting;
        });
        answer.batches = batches.boxed();
        Ok(answer)
    }

    async fn statement(self: &Arc<Self>, text: &str, request: SqlRequest, deadline: Deadline) -> Result<Answer> {
        let Parsed { statement, names_system_columns } = front::parse(text, self.options.depth_max)?;
        let takes_params = matches!(
            statement,
            Statement::Query { .. } | Statement::Insert { .. } | Statement::Change(_) | Statement::CreateTableAs(_)
        );
        if !takes_params && !request.params.is_empty() {
            return Err(Error::new(
                Code::InvalidRequest,
                "params are for queries, INSERT, UPDATE, DELETE and CREATE TABLE AS",
            ));
        }
        let engine = self.engine();
        match statement {
            Statement::Query { query, explain } => {
                self.query(query, explain, names_system_columns, &request, deadline).await
            }
            Statement::Insert { table, columns, source } => {
                let table = engine.table(&full_name(&table, &request)?)?;
                let rows = self.insert(&table, &columns, source, names_system_columns, &request).await?;
                Answer::rows(rows)
            }
            Statement::Change(change) => Answer::rows(self.change(&change, &request).await?),
            Statement::Truncate(all) => Answer::rows(self.truncate(&all, &request).await?),
            Statement::CreateDatabase { name, if_not_exists } => {
                engine.create_database(&name, if_not_exists).await?;
                Answer::rows(0)
            }
            Statement::DropDatabase { name, if_exists } => {
                engine.drop_database(&name, if_exists).await?;
                Answer::rows(0)
            }
            Statement::CreateTable(create) => {
                let notes = self.create_table(create, &request).await?;
                Ok(Answer { notes, ..Answer::rows(0)? })
            }
            Statement::CreateTableAs(create) => {
                let made = self.create_table_as(create, names_system_columns, &request).await?;
                let Some(Made { table, rows, mut notes }) = made else { return Answer::rows(0) };
                notes.extend(reader_notes(table.descriptor()));
                Ok(Answer { notes, ..Answer::rows(rows)? })
            }
            Statement::AlterTable { table, if_exists, alterations, not_valid } => {
                let (sql, name) = (self.clone(), full_name(&table, &request)?);
                let altered = self.to_its_end(async move {
                    let altered = sql.engine().alter_table(&name, &alterations, if_exists).await?;
                    if let Some(table) = altered.as_ref().filter(|_| !not_valid) {
                        sql.validate(name, added(table), Validation::Added).await?;
                    }
                    Ok(altered)
                });
                let altered = altered.await?;
                let notes = altered.map_or_else(Vec::new, |table| reader_notes(table.descriptor()));
                Ok(Answer { notes, ..Answer::rows(0)? })
            }
            Statement::ValidateConstraint { table, if_exists, name } => {
                let table = match engine.table(&full_name(&table, &request)?) {
                    Err(error) if if_exists && error.code() == Code::TableNotFound => return Answer::rows(0),
                    table => table?,
                };
                let check = table.descriptor().schema.check(&name).cloned();
                let check = check.ok_or_else(|| front::invalid(format!("the table has no constraint {name}")))?;
                let name = table.descriptor().name.clone();
                self.to_its_end(self.validate(name, vec![check], Validation::Known)).await?;
                Answer::rows(0)
            }
            Statement::DropTable { table, if_exists, purge } => {
                engine.drop_table(&full_name(&table, &request)?, if_exists, purge).await?;
                Answer::rows(0)
            }
            Statement::UndropTable { table, id } => {
                engine.undrop_table(&full_name(&table, &request)?, id.map(TableId)).await?;
                Answer::rows(0)
            }
            Statement::ShowDroppedTables => self.show_dropped_tables(),
            Statement::ShowDatabases => self.show_databases(),
            Statement::ShowTables { database } => self.show_tables(&database.unwrap_or(request.database)),
            Statement::ShowCreateTable { table } => self.show_create_table(&full_name(&table, &request)?),
            Statement::Describe { table } => self.describe(&table, &request),
        }
    }

    /// Does what goes on to its end though nobody waits for it any more.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let work = self.session.spawn(work)?;
        work.await.map_err(|error| Error::internal("a statement ended early").with_source(error))?
    }

    /// Makes a table; what there is to note of it.
    async fn create_table(&self, create: CreateTable, request: &SqlRequest) -> Result<Vec<String>> {
        let name = full_name(&create.table, request)?;
        let columns = create.columns.iter();
        let mut schema =
            TableSchema::new(columns.map(|column| (column.name.clone(), column.column_type.clone(), column.nullable)))?;
        for NewColumn { name, default, .. } in create.columns {
            default.map_or(Ok(()), |default| schema.set_default(&name, default))?;
        }
        for NewCheck { name: check, condition } in create.checks {
            let table = name.table.as_str();
            schema.add_check(table, check.as_deref(), &condition, SchemaId(0), &*self.conditions)?;
        }
        let pairs = create.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let properties = Properties::parse(pairs)?;
        let table = self.engine().create_table(name, schema, &create.key, properties, create.if_not_exists).await?;
        Ok(reader_notes(table.descriptor()))
    }

    /// Bytes of memory that all queries have reserved.
    pub fn memory_bytes(&self) -> u64 {
        self.session.memory_bytes()
    }

    pub(crate) fn tiering(&self) -> &Arc<Tiering> {
        &self.tiering
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.tiering.engine()
    }

    pub(crate) fn conditions(&self) -> &SqlConditions {
        &self.conditions
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn options(&self) -> &SqlOptions {
        &self.options
    }
}

/// A name with its database.
pub(crate) fn full_name(named: &NamedTable, request: &SqlRequest) -> Result<TableName> {
    if let Some((table, _)) = named.table.split_once('$') {
        return Err(Error::new(Code::InvalidName, format!("{} belongs to {table} and is only read", named.table)));
    }
    TableName::parse(named.database.as_ref().unwrap_or(&request.database), &named.table)
}

impl Answer {
    /// An answer that is there already.
    pub(crate) fn ready(batch: RecordBatch) -> Answer {
        let schema = batch.schema();
        Answer {
            column_types: column_types(&schema),
            schema,
            batches: stream::iter([Ok(batch)]).boxed(),
            stats: Arc::default(),
            notes: Vec::new(),
        }
    }

    /// The answer of DDL and DML: how many rows it was about.
    fn rows(rows: u64) -> Result<Answer> {
        let schema = Arc::new(Schema::new(vec![Field::new("rows", DataType::Int64, false)]));
        let rows = Int64Array::from(vec![rows as i64]);
        Ok(Answer::ready(RecordBatch::try_new(schema, vec![Arc::new(rows)])?))
    }
}

/// Which readers of the lake do not read the table.
fn reader_notes(table: &TableDescriptor) -> Vec<String> {
    let columns = table.schema.columns().iter().filter(|_| table.properties.lake_enabled);
    let note = |column: &Column| Some(format!("column {}: {}", column.name, column.column_type.reader_note()?));
    columns.filter_map(note).collect()
}

/// What SQL calls the columns' types.
pub(crate) fn column_types(schema: &Schema) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| if is_uuid(field) { "UUID".to_owned() } else { column_type(field.data_type()) })
        .collect()
}

fn column_type(data_type: &DataType) -> String {
    match data_type {
        // What would become microseconds in a table is what it is in an answer.
        DataType::Timestamp(TimeUnit::Nanosecond, None) => return ColumnType::TimestampNs.to_string(),
        DataType::Timestamp(TimeUnit::Nanosecond, Some(_)) => return ColumnType::TimestampTzNs.to_string(),
        _ => {}
    }
    if let Ok(own) = ColumnType::from_arrow(data_type) {
        return own.to_string();
    }
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::UInt64 => "DECIMAL(20, 0)".to_owned(),
        DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::FixedSizeBinary(_) => "BYTEA".to_owned(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("{}[]", column_type(item.data_type())),
        DataType::Struct(_) => "STRUCT".to_owned(),
        DataType::Map(..) => "MAP".to_owned(),
        other => other.to_string(),
    }
}

/// When a statement must be done, and what it was given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub at: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(crate) async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout_at(self.at, work).await.map_err(|_| {
            Error::new(Code::QueryTimeout, format!("the statement took longer than {:?}", self.timeout))
                .with_hint("ask for less at once, or allow more time with timeout=")
        })
    }
}

/// Work on the query threads that ends when nobody waits for it any more.
pub(crate) struct Working<T>(pub JoinHandle<T>);

impl<T> Future for Working<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.0).poll(context).map_err(|error| {
            let panicked = if error.is_panic() { "the query failed by a fault of ours" } else { "the query was ended" };
            Error::internal(panicked).with_source(error)
        })
    }
}

impl<T> Drop for Working<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
