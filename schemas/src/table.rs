//! What a table is: its columns, its buckets, its properties. Everything else is found by its [`TableId`].

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::columns::with_field_id;
use crate::partition::{
    BUCKETS_MAX, PARTITIONS_MAX, PartitionField, PartitionPath, PartitionValue, PartitionValues, TEXT_BYTES_MAX,
    partition_fields, partition_text, tells_time, time_end,
};
use crate::{
    Check, Code, ColumnType, DeleteBehavior, Error, FieldId, Identifier, NestedField, PartitionId, Properties, Result,
    SchemaId, SystemColumn, TableId, TableName, Transform, quoted,
};

pub(crate) const COLUMNS_MAX: usize = 2_000;
/// A default's text is in every edit and checkpoint of its table.
const DEFAULT_BYTES_MAX: usize = 4 << 10;

/// A column as people declare it, with the field id that stays when the name changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    pub id: FieldId,
    pub name: Identifier,
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    pub nullable: bool,
    /// What rows get that say nothing of it, as CSV spells it; null if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

impl Column {
    /// For rows that are written from now on.
    pub(crate) fn set_default(&mut self, default: Option<String>) -> Result<()> {
        if let Some(value) = &default {
            if self.column_type.is_nested() {
                let name = self.name.as_str();
                let message = format!("column {name} is {}: its default can only be NULL", self.column_type);
                return Err(Error::new(Code::InvalidType, message).with_column(name).with_value(value.as_str()));
            }
            if value.len() > DEFAULT_BYTES_MAX {
                let message = format!("the default of column {} is longer than {DEFAULT_BYTES_MAX} bytes", self.name);
                return Err(Error::new(Code::InvalidType, message).with_column(self.name.as_str()));
            }
            crate::text::default_values(&self.column_type, value, 1).map_err(|reason| {
                let name = self.name.as_str();
                let message = format!("column {name} is {}: its default {value:?} {reason}", self.column_type);
                Error::new(Code::InvalidType, message).with_column(name).with_value(value.as_str())
            })?;
        }
        self.default = default;
        Ok(())
    }

    /// One row of what rows get that say nothing of it; none if that is null.
    pub fn default_value(&self) -> Result<Option<ArrayRef>> {
        let value = |text: &String| crate::text::default_values(&self.column_type, text, 1);
        let wrong = |reason| Error::internal(format!("the default of column {} {reason}", self.name));
        self.default.as_ref().map(value).transpose().map_err(wrong)
    }

    /// A field inside it, as if it were a column: its name is its path.
    pub fn inside(&self, field: &NestedField) -> Column {
        let name = self.name.inside(&field.name);
        Column { id: field.id, name, column_type: field.column_type.clone(), nullable: field.nullable, default: None }
    }

    /// How many fields it has, itself and what stands inside it.
    pub(crate) fn fields_count(&self) -> usize {
        self.column_type.fields_count() + 1
    }

    /// As a field of rows that are spelled so; without its field id.
    pub fn field(&self, spelling: fn(&ColumnType) -> DataType) -> Field {
        self.column_type.field(self.name.as_str(), spelling, self.nullable)
    }
}

/// One version of a table's columns.
///
/// Field ids: user columns from 1 up, then the lake's system columns, then what stands inside nested columns. All took
/// theirs when the table was made, so a column added later never meets them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSchema {
    pub id: SchemaId,
    pub(crate) columns: Vec<Column>,
    /// Field ids of [`SystemColumn::LAKE`].
    system_ids: [FieldId; 3],
    pub(crate) last_id: FieldId,
    /// When it took the place of the version before, in microseconds since 1970; 0 of the first, and of those from before
    /// this was noted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: i64,
    /// Conditions that no row in these columns may break.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) checks: Vec<Check>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
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
            let id = FieldId(checked.len() as i32 + 1);
            checked.push(Column { id, name, column_type, nullable, default: None });
        }
        match checked.iter().map(Column::fields_count).sum::<usize>() {
            0 => return Err(Error::new(Code::InvalidType, "a table needs at least one column")),
            1..=COLUMNS_MAX => {}
            count => return Err(Error::new(Code::InvalidType, format!("{count} columns are more than {COLUMNS_MAX}"))),
        }
        let user = checked.len() as i32;
        let system_ids = [FieldId(user + 1), FieldId(user + 2), FieldId(user + 3)];
        let mut last_id = FieldId(user + 3);
        checked.iter_mut().for_each(|column| column.column_type.give_ids(&mut last_id));
        Ok(TableSchema { id: SchemaId(0), columns: checked, system_ids, last_id, since: 0, checks: Vec::new() })
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Whether rows that know no field ids after `last` may lack a value that they must have: one of a new column, or of a
    /// new field inside an older one.
    pub fn needs_value_after(&self, last: FieldId) -> bool {
        fn needs(id: FieldId, nullable: bool, column_type: &ColumnType, last: FieldId) -> bool {
            if id > last {
                return !nullable;
            }
            column_type.inner().iter().any(|field| needs(field.id, field.nullable, &field.column_type, last))
        }
        self.columns.iter().any(|column| needs(column.id, column.nullable, &column.column_type, last))
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.as_str() == name)
    }

    /// Gives a column the value that rows get which say nothing of it, as CSV spells it.
    pub fn set_default(&mut self, name: &str, default: String) -> Result<()> {
        match self.columns.iter_mut().find(|column| column.name.as_str() == name) {
            Some(column) => column.set_default(Some(default)),
            None => Err(Error::new(Code::UnknownColumn, format!("there is no column {name}")).with_column(name)),
        }
    }

    /// Makes the named columns the key: they must be there, once each, of a type that equals itself, and get NOT NULL.
    fn set_key(&mut self, names: &[String]) -> Result<Vec<FieldId>> {
        let mut key = Vec::with_capacity(names.len());
        for name in names {
            let refuse =
                |code, why: String| Err(Error::new(code, format!("primary key column {name} {why}")).with_column(name));
            let Some(column) = self.columns.iter_mut().find(|column| column.name.as_str() == name) else {
                return refuse(Code::UnknownColumn, "is not a column of the table".to_owned());
            };
            if key.contains(&column.id) {
                return refuse(Code::InvalidName, "is named twice".to_owned());
            }
            if column.column_type.is_nested() {
                return refuse(Code::InvalidType, format!("is {}: a key does not nest", column.column_type));
            }
            if matches!(column.column_type, ColumnType::Float32 | ColumnType::Float64) {
                return refuse(
                    Code::InvalidType,
                    format!("is {}: NaN and −0 make floats no identity", column.column_type),
                );
            }
            column.nullable = false;
            key.push(column.id);
        }
        Ok(key)
    }

    /// The highest field id ever given.
    pub fn last_id(&self) -> FieldId {
        self.last_id
    }

    /// How rows lie in memory and in segments: user columns in order, each with its field id.
    pub fn arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields(ColumnType::log_arrow).collect::<Vec<_>>()))
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

    /// The key's columns alone, in the key's order.
    pub fn key(&self, key: &[FieldId]) -> TableSchema {
        let column = |id: &FieldId| self.columns.iter().find(|column| column.id == *id).cloned();
        TableSchema { columns: key.iter().filter_map(column).collect(), ..self.clone() }
    }

    /// The columns of a request of changes: the key's as they are, all others nullable because a delete needs only the
    /// key, and last [`CHANGE_COLUMN`].
    pub fn for_changes(&self, key: &[FieldId]) -> TableSchema {
        let mut columns = self.columns.clone();
        for column in &mut columns {
            column.nullable = !key.contains(&column.id);
        }
        let id = FieldId(self.last_id.0 + 1);
        columns.push(Column {
            id,
            name: Identifier::of_system(CHANGE_COLUMN),
            column_type: ColumnType::String,
            nullable: true,
            default: None,
        });
        TableSchema { columns, last_id: id, ..self.clone() }
    }

    fn fields(&self, spelling: fn(&ColumnType) -> DataType) -> impl Iterator<Item = Field> + '_ {
        self.columns.iter().map(move |column| with_field_id(column.field(spelling), column.id))
    }
}

pub(crate) fn fold_for_clash(name: &Identifier) -> String {
    name.as_str().to_ascii_lowercase()
}

/// The field of an upload that says, row by row, what to do with the row: `upsert` or `delete`.
pub const CHANGE_COLUMN: &str = "__change";

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

/// All that is settled about a table. A field of a later version may change what rows mean, so one that is not known is
/// refused, here and below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableDescriptor {
    pub id: TableId,
    pub name: TableName,
    pub kind: TableKind,
    /// The newest version of its columns.
    pub schema: TableSchema,
    /// All versions before it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<TableSchema>,
    /// The columns of the primary key, in its order; none for a log table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<FieldId>,
    pub bucketing: Bucketing,
    /// The constraints that rows from before may break.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_valid: Vec<Identifier>,
    /// What rows of one partition have in common; empty for a table without partitions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitioning: Vec<PartitionField>,
    /// The partitions that there are, by [`PartitionId`]. Of a table without partitioning there is one, which is not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionValues>,
    pub properties: Properties,
    /// Of a table of rows that were set aside: whose rows they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_of: Option<TableId>,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

impl TableDescriptor {
    /// A table with these columns: with a primary key of the columns named in `key`, or a log table if there are none.
    /// Checks what columns, key and properties say of each other; a key's columns become NOT NULL.
    pub fn new(
        id: TableId,
        name: TableName,
        mut schema: TableSchema,
        key: &[String],
        properties: Properties,
        created_ms: i64,
    ) -> Result<TableDescriptor> {
        let kind = if key.is_empty() { TableKind::Log } else { TableKind::PrimaryKey };
        let properties = properties.of_kind(kind)?;
        let key = schema.set_key(key)?;
        let partitioning = partitioning(&schema, &key, &properties)?;
        let bucketing = bucketing(&schema, &key, &partitioning, &properties)?;
        let (earlier, not_valid, partitions) = Default::default();
        let mut table = TableDescriptor {
            id,
            name,
            kind,
            schema,
            earlier,
            key,
            bucketing,
            not_valid,
            partitioning,
            partitions,
            properties,
            rejected_of: None,
            created_ms,
        };
        table.spell_partitioning();
        table.check_columns()?;
        Ok(table)
    }

    /// What must hold of columns and properties together.
    pub(crate) fn check_columns(&self) -> Result<()> {
        let columns = self.schema.columns();
        let fields: usize = columns.iter().map(Column::fields_count).sum();
        if fields > COLUMNS_MAX {
            let message = format!("{fields} columns, with what stands inside them, are more than {COLUMNS_MAX}");
            return Err(Error::new(Code::InvalidType, message));
        }
        if !self.properties.lake_enabled && self.properties.hot_bytes_max.is_some() {
            let message = "hot_bytes_max is for tables that have a lake: nothing else holds the rows";
            return Err(
                Error::new(Code::InvalidProperty, message).with_hint("without a lake, hot_retention bounds a log")
            );
        }
        self.check_partition_retention()?;
        if !self.properties.lake_enabled || self.properties.format_version(self.kind) >= 3 {
            return Ok(());
        }
        match columns.iter().find(|column| column.column_type.needs_format_3()) {
            None => Ok(()),
            Some(column) => Err(Error::new(
                Code::InvalidType,
                format!(
                    "column {} is {}, which version 2 of the Iceberg format has not",
                    column.name, column.column_type
                ),
            )
            .with_column(column.name.as_str())
            .with_hint("WITH (format_version = 3), or a timestamp of microseconds: TIMESTAMP, TIMESTAMPTZ")),
        }
    }

    /// With these partitions besides. Which there are already the caller knows; an error if there are too many.
    pub fn with_partitions(&self, added: &[PartitionValues]) -> Result<TableDescriptor> {
        self.check_partitions(added.len())?;
        let values = added.iter().flat_map(|values| self.partitioning.iter().zip(values));
        values.filter_map(|(field, value)| Some((field, value.as_ref()?))).try_for_each(|(field, value)| {
            let source = self.schema.columns().iter().find(|column| column.id == field.source);
            check_value(field, value, source.map(|column| &column.column_type))
        })?;
        let mut table = self.clone();
        table.partitions.extend_from_slice(added);
        Ok(table)
    }

    /// What is wrong with the rows of which each partition is the partition.
    pub fn wrong_partitions(&self, partitions: &[PartitionValues]) -> Vec<Option<Error>> {
        let wrong = |values: &PartitionValues| {
            let own = |field: &PartitionField| self.schema.columns().iter().find(|column| column.id == field.source);
            let mut values = self.partitioning.iter().zip(values);
            values.find_map(|(field, value)| {
                let source = own(field);
                let wrong = check_value(field, value.as_ref()?, source.map(|column| &column.column_type)).err()?;
                Some(match source {
                    Some(column) => wrong.with_column(column.name.as_str()),
                    None => wrong,
                })
            })
        };
        partitions.iter().map(wrong).collect()
    }

    fn check_partitions(&self, added: usize) -> Result<()> {
        let count = self.partitions.len() + added;
        let most = PARTITIONS_MAX.min(BUCKETS_MAX / self.bucketing.buckets() as usize);
        if count > most {
            let message = format!("table {} would have {count} partitions, {most} are the most", self.name);
            return Err(Error::new(Code::InvalidRow, message).with_hint(match self.bucketing.buckets() {
                1 => "partition by something that has fewer values",
                _ => "partition by something that has fewer values, or into fewer buckets",
            }));
        }
        Ok(())
    }

    /// Says in the properties what the table is partitioned by, as its columns are called now.
    pub(crate) fn spell_partitioning(&mut self) {
        let columns = self.schema.columns();
        let name = |id| columns.iter().find(|column| column.id == id).map_or("", |column| column.name.as_str());
        let parts: Vec<_> =
            self.partitioning.iter().map(|field| partition_text(field.transform, name(field.source))).collect();
        self.properties.partition_by = (!parts.is_empty()).then(|| parts.join(", "));
    }

    fn check_partition_retention(&self) -> Result<()> {
        let refuse = |message: &str, hint: &str| Err(Error::new(Code::InvalidProperty, message).with_hint(hint));
        if self.properties.partition_retention_ms.is_none() {
            return Ok(());
        }
        if !self.properties.lake_enabled {
            let message = "partition_retention is for tables that have a lake: rows go when they have been in it";
            return refuse(message, "without a lake, hot_retention bounds a log");
        }
        if self.time_field().is_none() {
            let message = "partition_retention is for tables with partitions of a year, month, day or hour";
            return refuse(message, "as PARTITION BY (day(at))");
        }
        if self.properties.delete_behavior != DeleteBehavior::Allow {
            let message = "partition_retention deletes rows, which delete_behavior does not allow";
            return refuse(message, "leave one of them out");
        }
        Ok(())
    }

    /// The first thing that partitions are made of that says when, and its place among them.
    fn time_field(&self) -> Option<(usize, &PartitionField, &ColumnType)> {
        let typed = self.partitioning.iter().enumerate().filter_map(|(place, field)| {
            let column = self.schema.columns().iter().find(|column| column.id == field.source)?;
            Some((place, field, &column.column_type))
        });
        typed.into_iter().find(|(_, field, column)| tells_time(field, column))
    }

    /// The partitions whose time has been over for as long as the table keeps them; `now` in microseconds since 1970.
    pub fn expired_partitions(&self, now: i64) -> Vec<PartitionId> {
        let all = (0..self.partitions.len() as u32).map(PartitionId);
        all.filter(|id| self.is_expired(*id, now)).collect()
    }

    /// Whether it is one of them.
    pub fn is_expired(&self, id: PartitionId, now: i64) -> bool {
        let is_over = || {
            let retention_ms = self.properties.partition_retention_ms?;
            let (place, field, column) = self.time_field()?;
            let value = self.partitions.get(id.0 as usize)?.get(place)?.as_ref()?;
            let before = now.saturating_sub((retention_ms as i64).saturating_mul(1000));
            Some(time_end(field, column, value)? <= before)
        };
        is_over().unwrap_or(false)
    }

    pub fn is_partitioned(&self) -> bool {
        !self.partitioning.is_empty()
    }

    /// A partition as paths spell it; none of a table without partitions, or if this version has not heard of it.
    pub fn partition_path(&self, id: PartitionId) -> Option<String> {
        let values = self.partitions.get(id.0 as usize)?;
        let path = PartitionPath { fields: &self.partitioning, values, columns: self.schema.columns() };
        Some(path.to_string())
    }

    /// All versions of its columns, oldest first.
    pub fn schemas(&self) -> impl Iterator<Item = &TableSchema> {
        self.earlier.iter().chain([&self.schema])
    }

    /// One version of its columns.
    pub fn schema_of(&self, id: SchemaId) -> Option<&TableSchema> {
        self.schemas().find(|schema| schema.id == id)
    }

    /// The table as it was when this version of its columns was the newest; its properties are today's.
    pub fn in_version(&self, id: SchemaId) -> Option<TableDescriptor> {
        let place = self.schemas().position(|schema| schema.id == id)?;
        let mut earlier: Vec<_> = self.schemas().take(place + 1).cloned().collect();
        let schema = earlier.pop()?;
        Some(TableDescriptor { schema, earlier, ..self.clone() })
    }

    /// The columns that the table had at a moment, in microseconds since 1970.
    pub fn schema_at(&self, moment: i64) -> &TableSchema {
        let then = self.earlier.iter().chain([&self.schema]).rev().find(|schema| schema.since <= moment);
        then.unwrap_or_else(|| self.earlier.first().unwrap_or(&self.schema))
    }

    /// Where the key's columns stand among the table's, in the key's order.
    pub fn key_places(&self) -> Vec<usize> {
        let place = |id: &FieldId| self.schema.columns().iter().position(|column| column.id == *id);
        self.key.iter().filter_map(place).collect()
    }

    /// The column whose values name groups of keys that are looked up together: the bucket key, if the table's maker chose
    /// it and it is the first of several columns of the primary key. So all keys of a group are in one bucket.
    pub fn group_column(&self) -> Option<FieldId> {
        let Bucketing::Hash { column, .. } = self.bucketing else { return None };
        let chosen = self.properties.bucket_key.is_some() && self.key.len() > 1 && self.key.first() == Some(&column);
        chosen.then_some(column)
    }

    /// The name of the lake's partition field where rows are partitioned by Iceberg's transform of the column that picks
    /// their bucket: of one without nulls, as it was called when the table was made, and not what partitions are made by.
    /// No column takes that name later.
    pub fn bucket_partition_name(&self) -> Option<String> {
        let Bucketing::Hash { column, buckets: buckets @ 2.. } = self.bucketing else { return None };
        // The specification has each transform of a column once.
        let is_same = |field: &PartitionField| field.source == column && field.transform == Transform::Bucket(buckets);
        if self.partitioning.iter().any(is_same) {
            return None;
        }
        let first = self.schemas().next()?.columns();
        let mut name = format!("{}_bucket", first.iter().find(|own| own.id == column && !own.nullable)?.name);
        let columns = first.iter().map(|column| column.name.as_str());
        let taken: Vec<_> = columns.chain(self.partitioning.iter().map(|field| field.name.as_str())).collect();
        while taken.iter().any(|taken| taken.eq_ignore_ascii_case(&name)) {
            // No column of a user starts with two underscores, and none of ours ends so.
            name.insert_str(0, "__");
        }
        Some(name)
    }

    /// Whether the lake calls something of its partitions so that is not made of this column as it is.
    pub(crate) fn is_partition_name(&self, name: &str, column: Option<FieldId>) -> bool {
        let own = |field: &&PartitionField| field.transform == Transform::Identity && Some(field.source) == column;
        let fields = self.partitioning.iter().filter(|field| !own(field)).map(|field| field.name.clone());
        fields.chain(self.bucket_partition_name()).any(|taken| taken.eq_ignore_ascii_case(name))
    }

    pub fn is_keyed(&self) -> bool {
        self.kind == TableKind::PrimaryKey
    }

    /// How the log holds rows in memory, in the journal and in segments: the user's columns, and with a key what happened
    /// (`__kind`, a code of [`crate::ChangeKind`]) and the location of the version that ended by it (`__prev`).
    pub fn log_arrow(&self) -> SchemaRef {
        self.log_arrow_of(&self.schema)
    }

    /// The same of one version of its columns.
    pub fn log_arrow_of(&self, schema: &TableSchema) -> SchemaRef {
        if !self.is_keyed() {
            return schema.arrow();
        }
        let kind = Field::new(SystemColumn::Kind.name(), DataType::UInt8, false);
        let previous = Field::new("__prev", DataType::UInt64, true);
        Arc::new(Schema::new(schema.fields(ColumnType::log_arrow).chain([kind, previous]).collect::<Vec<_>>()))
    }

    /// What a constraint says, and whether older rows may break it.
    pub fn check_text(&self, check: &Check) -> String {
        let not_valid = if self.not_valid.contains(&check.name) { " NOT VALID" } else { "" };
        format!("CHECK ({}){not_valid}", check.condition)
    }

    /// The statement that makes a table like this one.
    pub fn ddl(&self) -> String {
        let columns = self.schema.columns().iter().map(|column| {
            let null = if column.nullable { "" } else { " NOT NULL" };
            let text = |value: &String| format!(" DEFAULT '{}'", value.replace('\'', "''"));
            let default = column.default.as_ref().map(text).unwrap_or_default();
            format!("    {} {}{null}{default}", quoted(column.name.as_str()), column.column_type)
        });
        let changed = self.properties.rows(self.kind).into_iter().filter(|row| row.value != row.default);
        let name_of = |id: &FieldId| self.schema.columns().iter().find(|column| column.id == *id);
        let key: Vec<_> = self.key.iter().filter_map(name_of).map(|column| quoted(column.name.as_str())).collect();
        let key = (!key.is_empty()).then(|| format!("    PRIMARY KEY ({})", key.join(", ")));
        let checks = self.schema.checks.iter().map(|check| format!("    {}", check.ddl()));
        let properties: Vec<_> = changed.map(|row| format!("{} = '{}'", row.definition.name, row.value)).collect();
        let with = if properties.is_empty() { String::new() } else { format!(" WITH ({})", properties.join(", ")) };
        format!(
            "CREATE TABLE {}.{} (\n{}\n){with}",
            quoted(self.name.database.as_str()),
            quoted(self.name.table.as_str()),
            columns.chain(key).chain(checks).collect::<Vec<_>>().join(",\n"),
        )
    }
}

/// What the lake could not hold as a partition's value is no partition.
fn check_value(field: &PartitionField, value: &PartitionValue, source: Option<&ColumnType>) -> Result<()> {
    let name = &field.name;
    match (value, source) {
        (PartitionValue::Text(text), _) if text.len() > TEXT_BYTES_MAX => {
            let bytes = text.len();
            let message = format!("{name} is {bytes} bytes long, a partition's value {TEXT_BYTES_MAX} at most");
            Err(Error::new(Code::InvalidRow, message)
                .with_value(text)
                .with_hint("partition by truncate(n, …) of it, or bucket(n, …)"))
        }
        // The next lower multiple of something may need a digit more.
        (PartitionValue::Decimal(digits), Some(ColumnType::Decimal { precision, scale }))
            if digits.unsigned_abs() >= 10_u128.pow(u32::from(*precision)) =>
        {
            let message = format!("{name} would be {digits} / 10^{scale}, which has more than {precision} digits");
            Err(Error::new(Code::InvalidRow, message).with_hint("make it of a column with more digits"))
        }
        _ => Ok(()),
    }
}

fn partitioning(schema: &TableSchema, key: &[FieldId], properties: &Properties) -> Result<Vec<PartitionField>> {
    let Some(text) = &properties.partition_by else { return Ok(Vec::new()) };
    let fields = partition_fields(text, schema.columns())?;
    let outside = fields.iter().find(|field| !key.is_empty() && !key.contains(&field.source));
    match outside.and_then(|field| schema.columns().iter().find(|column| column.id == field.source)) {
        None => Ok(fields),
        Some(column) => Err(Error::new(
            Code::InvalidProperty,
            format!(
                "partition_by: {} is not a column of the primary key: rows of one key must share a partition",
                column.name
            ),
        )
        .with_column(column.name.as_str())
        .with_value(text)),
    }
}

fn bucketing(
    schema: &TableSchema,
    key: &[FieldId],
    partitioning: &[PartitionField],
    properties: &Properties,
) -> Result<Bucketing> {
    let buckets = properties.buckets;
    let refuse = |name: &str, why: String| {
        Err(Error::new(Code::InvalidProperty, format!("bucket_key {name} {why}")).with_column(name))
    };
    if let Some(name) = &properties.bucket_key {
        let Some(column) = schema.column(name) else { return refuse(name, "is not a column of the table".to_owned()) };
        if !column.column_type.can_be_bucket_key() {
            return refuse(name, format!("is {}, which Iceberg cannot bucket", column.column_type));
        }
        if !key.is_empty() && !key.contains(&column.id) {
            return refuse(name, "is not a column of the primary key: rows of one key must share a bucket".to_owned());
        }
        return Ok(Bucketing::Hash { buckets, column: column.id });
    }
    if key.is_empty() {
        return Ok(Bucketing::RoundRobin { buckets });
    }
    let can_be = |id: &&FieldId| {
        schema.columns().iter().any(|column| column.id == **id && column.column_type.can_be_bucket_key())
    };
    let is_free = |id: &&FieldId| partitioning.iter().all(|field| field.source != **id);
    let free = key.iter().rfind(|id| can_be(id) && is_free(id));
    match free.or_else(|| key.iter().rfind(can_be)) {
        Some(column) => Ok(Bucketing::Hash { buckets, column: *column }),
        None if buckets == 1 => Ok(Bucketing::RoundRobin { buckets }),
        None => Err(Error::new(Code::InvalidProperty, "no column of the primary key can pick a bucket")
            .with_hint("buckets = 1, or a key with a column that is not BOOLEAN")),
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
        let table = TableDescriptor::new(TableId(1), name, schema(), &[], properties, 0).unwrap();
        assert_eq!(
            table.ddl(),
            "CREATE TABLE public.t (\n    id BIGINT NOT NULL,\n    \"Name\" VARCHAR\n) WITH (buckets = '4', bucket_key = 'id')"
        );
    }

    #[test]
    fn a_default_that_was_asked_for_is_the_default() {
        for (key, version) in [(&[][..], "2"), (&["id"], "3")] {
            let named = keyed(key, &[("format_version", version)]).unwrap();
            let silent = keyed(key, &[]).unwrap();
            assert_eq!((&named.properties, named.ddl()), (&silent.properties, silent.ddl()));
            assert!(!named.ddl().contains("format_version"), "{}", named.ddl());
        }
    }

    fn keyed(key: &[&str], properties: &[(&str, &str)]) -> Result<TableDescriptor> {
        let properties = Properties::parse(properties.iter().copied()).unwrap();
        let columns = [
            ("region".into(), ColumnType::String, true),
            ("id".into(), ColumnType::Int64, true),
            ("flag".into(), ColumnType::Boolean, true),
            ("ratio".into(), ColumnType::Float64, true),
        ];
        let key: Vec<_> = key.iter().map(|name| (*name).to_owned()).collect();
        let name = TableName::parse("public", "k").unwrap();
        TableDescriptor::new(TableId(1), name, TableSchema::new(columns).unwrap(), &key, properties, 0)
    }

    #[test]
    fn a_key_makes_columns_not_null_and_picks_the_bucket_column() {
        let table = keyed(&["region", "id"], &[("buckets", "4"), ("lake_enabled", "false")]).unwrap();
        assert_eq!((table.key_places(), table.kind), (vec![0, 1], TableKind::PrimaryKey));
        assert_eq!(table.bucketing, Bucketing::Hash { buckets: 4, column: FieldId(2) });
        assert!(!table.schema.columns()[0].nullable && !table.schema.columns()[1].nullable);
        assert!(table.ddl().contains("    PRIMARY KEY (region, id)\n)"), "{}", table.ddl());
        let names: Vec<_> = table.log_arrow().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["region", "id", "flag", "ratio", "__kind", "__prev"]);
        let changes = table.schema.for_changes(&table.key);
        let nullable: Vec<_> = changes.columns().iter().map(|column| column.nullable).collect();
        assert_eq!(nullable, [false, false, true, true, true]);
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        let hot = ("lake_enabled", "false");
        for (key, properties, code) in [
            (&["nothing"][..], &[hot][..], Code::UnknownColumn),
            (&["id", "id"], &[hot], Code::InvalidName),
            (&["ratio"], &[hot], Code::InvalidType),
            (&["flag"], &[hot, ("buckets", "2")], Code::InvalidProperty),
            (&["id"], &[hot, ("bucket_key", "region")], Code::InvalidProperty),
            (&[], &[("changelog", "upsert")], Code::InvalidProperty),
        ] {
            assert_eq!(keyed(key, properties).unwrap_err().code(), code, "{key:?} {properties:?}");
        }
        assert!(keyed(&["flag"], &[hot]).is_ok());
    }

    #[test]
    fn clashes_and_wrong_keys_are_refused() {
        let twice = TableSchema::new([("a".into(), ColumnType::Int64, true), ("A".into(), ColumnType::Int64, true)]);
        assert_eq!(twice.unwrap_err().code(), Code::InvalidName);
        let float = TableSchema::new([("x".into(), ColumnType::Float64, true)]).unwrap();
        let properties = Properties::parse([("bucket_key", "x")]).unwrap();
        let refused = TableDescriptor::new(TableId(1), TableName::parse("a", "b").unwrap(), float, &[], properties, 0);
        assert_eq!(refused.unwrap_err().code(), Code::InvalidProperty);
    }
}
