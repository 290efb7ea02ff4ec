//! SHOW and DESCRIBE.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use thermocline_schemas::{Identifier, Result, TableName};

use crate::front::NamedTable;
use crate::relations::View;
use crate::sql::{Answer, Sql, SqlRequest, column_types};
use crate::system::{batch, flags, snapshot_schema, texts};

impl Sql {
    pub(crate) fn show_databases(&self) -> Result<Answer> {
        let databases = self.engine().databases();
        Ok(Answer::ready(batch(vec![("name", false, texts(databases.iter().map(Identifier::as_str)))])?))
    }

    pub(crate) fn show_tables(&self, database: &str) -> Result<Answer> {
        let database = Identifier::parse("database", database)?;
        self.engine().has_database(&database)?;
        let tables = self.engine().tables();
        let shown = tables.iter().map(|table| table.descriptor()).filter(|table| table.name.database == database);
        // What was set aside of a table is part of it, as its other relations are.
        let shown: Vec<_> = shown.filter(|table| table.rejected_of.is_none()).collect();
        Ok(Answer::ready(batch(vec![
            ("database", false, texts(shown.iter().map(|table| table.name.database.as_str()))),
            ("name", false, texts(shown.iter().map(|table| table.name.table.as_str()))),
            ("kind", false, texts(shown.iter().map(|table| table.kind.as_str()))),
        ])?))
    }

    /// The tables that UNDROP can bring back.
    pub(crate) fn show_dropped_tables(&self) -> Result<Answer> {
        let now = self.engine().now_micros();
        let mut dropped = self.engine().dropped_tables();
        dropped.retain(|(table, until)| *until > now && table.descriptor().rejected_of.is_none());
        let each = || dropped.iter().map(|(table, _)| table.descriptor());
        let until = TimestampMicrosecondArray::from_iter_values(dropped.iter().map(|(_, until)| *until));
        Ok(Answer::ready(batch(vec![
            ("database", false, texts(each().map(|table| table.name.database.as_str()))),
            ("name", false, texts(each().map(|table| table.name.table.as_str()))),
            ("kind", false, texts(each().map(|table| table.kind.as_str()))),
            ("id", false, Arc::new(Int64Array::from_iter_values(each().map(|table| table.id.0 as i64)))),
            ("kept_until", false, Arc::new(until.with_timezone("UTC"))),
        ])?))
    }

    pub(crate) fn show_create_table(&self, name: &TableName) -> Result<Answer> {
        let table = self.engine().table(name)?;
        Ok(Answer::ready(batch(vec![("statement", false, texts([table.descriptor().ddl()]))])?))
    }

    /// First the columns of a table, then its constraints, then its properties.
    pub(crate) fn describe(&self, named: &NamedTable, request: &SqlRequest) -> Result<Answer> {
        let (table, view) = self.view(named.database.as_ref().unwrap_or(&request.database), &named.table)?;
        let schema = match view {
            View::Snapshots => Arc::new(snapshot_schema()),
            view => view.columns(&table, false).schema().clone(),
        };
        let descriptor = table.descriptor();
        // As the table spells its own, with what cannot be null inside them.
        let own = |name: &str| descriptor.schema.column(name).filter(|_| view != View::Snapshots);
        let types = schema.fields().iter().zip(column_types(&schema));
        let types = types.map(|(field, spelled)| own(field.name()).map_or(spelled, |own| own.column_type.to_string()));
        let types: Vec<_> = types.collect();
        let properties = if view == View::Table { descriptor.properties.rows(descriptor.kind) } else { Vec::new() };
        let checks = if view == View::Table { descriptor.schema.checks() } else { &[] };
        let checks: Vec<_> = checks.iter().map(|check| (check.name.as_str(), descriptor.check_text(check))).collect();
        let (fields, rows) = (schema.fields().len() + checks.len(), properties.len());

        let items = std::iter::repeat_n("column", fields - checks.len());
        let items =
            items.chain(std::iter::repeat_n("constraint", checks.len())).chain(std::iter::repeat_n("property", rows));
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let names =
            names.chain(checks.iter().map(|(name, _)| *name)).chain(properties.iter().map(|row| row.definition.name));
        let types = types.iter().map(|name| Some(name.as_str())).chain(std::iter::repeat_n(None, checks.len() + rows));
        let nullable = schema.fields().iter().map(|field| Some(field.is_nullable()));
        let values = properties.iter().map(|row| Some(row.value.as_str()));
        let defaults = properties.iter().map(|row| Some(row.default));
        let alterable = properties.iter().map(|row| Some(row.definition.alterable));
        let meanings = properties.iter().map(|row| Some(row.definition.meaning));
        let below = |values: Vec<Option<&str>>| -> ArrayRef {
            Arc::new(std::iter::repeat_n(None, fields).chain(values).collect::<StringArray>())
        };
        let own = std::iter::repeat_n(None, fields - checks.len()).chain(checks.iter().map(|(_, text)| Some(&**text)));
        let values: StringArray = own.chain(values).collect();
        Ok(Answer::ready(batch(vec![
            ("item", false, texts(items)),
            ("name", false, texts(names)),
            ("type", true, Arc::new(types.collect::<StringArray>())),
            ("nullable", true, flags(nullable.chain(std::iter::repeat_n(None, checks.len() + rows)))),
            ("value", true, Arc::new(values)),
            ("default", true, below(defaults.collect())),
            ("alterable", true, flags(std::iter::repeat_n(None, fields).chain(alterable))),
            ("meaning", true, below(meanings.collect())),
        ])?))
    }
}
