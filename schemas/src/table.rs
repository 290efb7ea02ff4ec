//! What a table is: its columns, its buckets, its properties. Everything else is found by its [`TableId`].

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::columns::with_field_id;
use crate::{
    Code, ColumnType, Error, FieldId, Identifier, Properties, Result, SchemaId, SystemColumn, TableId, TableName,
    quoted,
};

const COLUMNS_MAX: usize = 2_000;

/// A column as people declare it, with the field id that stays when the name changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub id: FieldId,
    pub name: Identifier,
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    pub nullable: bool,
}

/// One version of a table's columns.
///
/// Field ids: user columns from 1 up; the lake's system columns took theirs when the table was made, so a column added
/// later never meets them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    pub id: SchemaId,
    columns: Vec<Column>,
    /// Field ids of [`SystemColumn::LAKE`].
    system_ids: [FieldId; 3],
    last_id: FieldId,
}

impl TableSchema {
    /// The first version: columns in order as `(name, type, nullable)`.
    pub fn new(columns: impl IntoIterator<Item = (String, ColumnType, bool)>) -> Result<TableSchema> {
        let mut names = HashSet::new();
        let mut checked = Vec::new();
        for (name, column_type, nullable) in columns {
            let name = Identifier::parse("column", &name)?;
            if !names.insert(fold_for_clash(&name)) {
                return Err(Error::new(Code::InvalidName, format!("column {name} is there twice"))
                    .with_column(name.as_str())
                    .with_hint("names that differ only in case cannot stand in one table: many readers fold them"));
            }
            checked.push(Column { id: FieldId(checked.len() as i32 + 1), name, column_type, nullable });
        }
        match checked.len() {
            0 => return Err(Error::new(Code::InvalidType, "a table needs at least one column")),
            1..=COLUMNS_MAX => {}
            count => return Err(Error::new(Code::InvalidType, format!("{count} columns are more than {COLUMNS_MAX}"))),
        }
        let user = checked.len() as i32;
        let system_ids = [FieldId(user + 1), FieldId(user + 2), FieldId(user + 3)];
        Ok(TableSchema { id: SchemaId(0), columns: checked, system_ids, last_id: FieldId(user + 3) })
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.as_str() == name)
    }

    /// The highest field id ever given.
    pub fn last_id(&self) -> FieldId {
        self.last_id
    }

    /// How rows lie in memory and in segments: user columns in order, each with its field id.
    pub fn arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields(ColumnType::arrow).collect::<Vec<_>>()))
    }

    /// How a log table's lake files hold rows: user columns, then [`SystemColumn::LAKE`].
    pub fn lake_arrow(&self) -> SchemaRef {
        let system = SystemColumn::LAKE.iter().zip(self.system_ids);
        let system = system.map(|(column, id)| with_field_id(column.field(), id));
        Arc::new(Schema::new(self.fields(ColumnType::lake_arrow).chain(system).collect::<Vec<_>>()))
    }

    /// The field id of a system column in the lake; none for those that are not there.
    pub fn system_id(&self, column: SystemColumn) -> Option<FieldId> {
        let place = SystemColumn::LAKE.iter().position(|lake| *lake == column)?;
        Some(self.system_ids[place])
    }

    fn fields(&self, spelling: fn(ColumnType) -> DataType) -> impl Iterator<Item = Field> + '_ {
        self.columns.iter().map(move |column| {
            let field = Field::new(column.name.as_str(), spelling(column.column_type), column.nullable);
            with_field_id(field, column.id)
        })
    }
}

fn fold_for_clash(name: &Identifier) -> String {
    name.as_str().to_ascii_lowercase()
}

/// Rows are appended, or rows have a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    Log,
    PrimaryKey,
}

impl TableKind {
    pub fn as_str(self) -> &'static str {
        match self {
            TableKind::Log => "log",
            TableKind::PrimaryKey => "primary_key",
        }
    }
}

/// How rows find their bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bucketing {
    /// Requests go to the buckets in turn, each whole.
    RoundRobin { buckets: u32 },
    /// `iceberg_hash(column) mod buckets`, so that the lake's `bucket[n]` partitions hold the same rows.
    Hash { buckets: u32, column: FieldId },
}

impl Bucketing {
    pub fn buckets(self) -> u32 {
        match self {
            Bucketing::RoundRobin { buckets } | Bucketing::Hash { buckets, .. } => buckets,
        }
    }
}

/// All that is settled about a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDescriptor {
    pub id: TableId,
    pub name: TableName,
    pub kind: TableKind,
    pub schema: TableSchema,
    pub bucketing: Bucketing,
    pub properties: Properties,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

impl TableDescriptor {
    /// A log table; checks what columns and properties say of each other.
    pub fn log(
        id: TableId,
        name: TableName,
        schema: TableSchema,
        properties: Properties,
        created_ms: i64,
    ) -> Result<TableDescriptor> {
        let buckets = properties.buckets;
        let bucketing = match &properties.bucket_key {
            None => Bucketing::RoundRobin { buckets },
            Some(key) => {
                let column = schema.column(key).ok_or_else(|| {
                    Error::new(Code::InvalidProperty, format!("bucket_key {key} is not a column of the table"))
                        .with_column(key)
                })?;
                if !column.column_type.can_be_bucket_key() {
                    return Err(Error::new(
                        Code::InvalidProperty,
                        format!("bucket_key {key} is {}, which Iceberg cannot bucket", column.column_type),
                    )
                    .with_column(key));
                }
                Bucketing::Hash { buckets, column: column.id }
            }
        };
        Ok(TableDescriptor { id, name, kind: TableKind::Log, schema, bucketing, properties, created_ms })
    }

    /// The statement that makes a table like this one.
    pub fn ddl(&self) -> String {
        let columns = self.schema.columns().iter().map(|column| {
            let null = if column.nullable { "" } else { " NOT NULL" };
            format!("    {} {}{null}", quoted(column.name.as_str()), column.column_type)
        });
        let changed = self.properties.rows().into_iter().filter(|(definition, value)| value != definition.default);
        let properties: Vec<_> =
            changed.map(|(definition, value)| format!("{} = '{value}'", definition.name)).collect();
        let with = if properties.is_empty() { String::new() } else { format!(" WITH ({})", properties.join(", ")) };
        format!(
            "CREATE TABLE {}.{} (\n{}\n){with}",
            quoted(self.name.database.as_str()),
            quoted(self.name.table.as_str()),
            columns.collect::<Vec<_>>().join(",\n"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> TableSchema {
        TableSchema::new([("id".into(), ColumnType::Int64, false), ("Name".into(), ColumnType::String, true)]).unwrap()
    }

    #[test]
    fn lake_columns_follow_the_users_and_keep_their_ids() {
        let lake = schema().lake_arrow();
        let found: Vec<_> =
            lake.fields().iter().map(|f| (f.name().as_str(), f.metadata()[crate::FIELD_ID_KEY].as_str())).collect();
        assert_eq!(found, [("id", "1"), ("Name", "2"), ("__bucket", "3"), ("__offset", "4"), ("__timestamp", "5")]);
    }

    #[test]
    fn ddl_says_what_differs_from_the_defaults() {
        let properties = Properties::parse([("buckets", "4"), ("bucket_key", "id")]).unwrap();
        let name = TableName::parse("public", "t").unwrap();
        let table = TableDescriptor::log(TableId(1), name, schema(), properties, 0).unwrap();
        assert_eq!(
            table.ddl(),
            "CREATE TABLE public.t (\n    id BIGINT NOT NULL,\n    \"Name\" VARCHAR\n) WITH (buckets = '4', bucket_key = 'id')"
        );
    }

    #[test]
    fn clashes_and_wrong_keys_are_refused() {
        let twice = TableSchema::new([("a".into(), ColumnType::Int64, true), ("A".into(), ColumnType::Int64, true)]);
        assert_eq!(twice.unwrap_err().code(), Code::InvalidName);
        let float = TableSchema::new([("x".into(), ColumnType::Float64, true)]).unwrap();
        let properties = Properties::parse([("bucket_key", "x")]).unwrap();
        let refused = TableDescriptor::log(TableId(1), TableName::parse("a", "b").unwrap(), float, properties, 0);
        assert_eq!(refused.unwrap_err().code(), Code::InvalidProperty);
    }
}
