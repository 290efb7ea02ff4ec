//! Databases and tables: made, changed, dropped, brought back.
//!
//! Always: one at a time; checked against the catalog that the edit will meet, and there for everybody once its edit is durable.

use std::sync::Arc;

use thermocline_schemas::{
    Alteration, Code, Error, Identifier, Properties, Result, TableDescriptor, TableId, TableName, TableSchema,
    rejected_schema,
};

use super::{Engine, closing};
use crate::core::Turn;
use crate::edit::Edit;
use crate::faults::{self, Defect};
use crate::table::Table;

impl Engine {
    /// Makes a database; false if it was there and that is fine.
    pub async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<bool> {
        let name = Identifier::parse("database", name)?;
        let turn = self.ddl.clone().lock_owned().await;
        if self.core.catalog().databases.contains(&name) {
            let there = Error::new(Code::DatabaseExists, format!("database {name} is there already"));
            return if if_not_exists { Ok(false) } else { Err(there) };
        }
        self.edit(Edit::CreateDatabase { name }, Some(turn)).await.map(|()| true)
    }

    /// Drops an empty database; false if there was none and that is fine.
    pub async fn drop_database(&self, name: &str, if_exists: bool) -> Result<bool> {
        let name = Identifier::parse("database", name)?;
        let turn = self.ddl.clone().lock_owned().await;
        {
            let catalog = self.core.catalog();
            if let Err(error) = catalog.has_database(&name) {
                return if if_exists { Ok(false) } else { Err(error) };
            }
            if name.as_str() == crate::catalog::DEFAULT_DATABASE {
                return Err(Error::new(Code::DatabaseNotEmpty, "the default database stays"));
            }
            if let Some(table) = catalog.tables.keys().find(|table| table.database == name) {
                return Err(Error::new(
                    Code::DatabaseNotEmpty,
                    format!("database {name} has tables, {table} among them"),
                )
                .with_hint("drop its tables first"));
            }
        }
        self.edit(Edit::DropDatabase { name }, Some(turn)).await.map(|()| true)
    }

    /// Makes a table, with a primary key of the columns named in `key` if there are any. When it is there and that is
    /// fine, answers it as it is, whatever its columns.
    pub async fn create_table(
        &self,
        name: TableName,
        schema: TableSchema,
        key: &[String],
        properties: Properties,
        if_not_exists: bool,
    ) -> Result<Arc<Table>> {
        let turn = self.ddl.clone().lock_owned().await;
        let id = {
            let catalog = self.core.catalog();
            if let Some(table) = catalog.tables.get(&name).filter(|_| if_not_exists) {
                return Ok(table.clone());
            }
            catalog.free_id(&name)?
        };
        let created_ms = self.core.clock.now_micros() / 1000;
        let table = TableDescriptor::new(id, name.clone(), schema, key, properties, created_ms)?;
        self.edit(Edit::CreateTable { table, unfinished: false }, Some(turn)).await?;
        self.core.catalog().table(&name)
    }

    /// An error if no table can have this name now.
    pub fn check_free(&self, name: &TableName) -> Result<()> {
        self.core.catalog().free_id(name).map(drop)
    }

    /// Makes a table that nobody finds until [`Engine::finish_table`], to be given its rows before. Its name stays free.
    pub async fn create_unfinished(
        &self,
        name: TableName,
        schema: TableSchema,
        key: &[String],
        properties: Properties,
    ) -> Result<Unfinished> {
        let turn = self.ddl.clone().lock_owned().await;
        let id = self.core.catalog().free_id(&name)?;
        let created_ms = self.core.clock.now_micros() / 1000;
        let table = TableDescriptor::new(id, name, schema, key, properties, created_ms)?;
        self.edit(Edit::CreateTable { table, unfinished: true }, Some(turn)).await?;
        let table = self.table_by_id(id).ok_or_else(|| Error::internal("a table that was just made is not there"))?;
        Ok(Unfinished { table, is_asked_for: false })
    }

    /// Gives a table its name, with all rows that it has been given. An error if another table has the name meanwhile.
    pub async fn finish_table(&self, mut unfinished: Unfinished) -> Result<Arc<Table>> {
        let turn = self.ddl.clone().lock_owned().await;
        let table = unfinished.table();
        let (id, name) = (table.descriptor().id, table.descriptor().name.clone());
        self.core.catalog().free_id(&name)?;
        // Once it is asked for, it may come to be though nobody waits any more; after an error it does not in this process.
        unfinished.is_asked_for = true;
        let done = self.edit(Edit::FinishTable { table: id }, Some(turn)).await;
        unfinished.is_asked_for = done.is_ok() || faults::planted(Defect::UnfinishedStays);
        done?;
        self.core.catalog().table(&name)
    }

    /// The table of rows of a table that were set aside; it is made if there is none.
    pub async fn rejected_table(&self, table: &Arc<Table>) -> Result<Arc<Table>> {
        let id = table.descriptor().id;
        let name = table.descriptor().name.rejected();
        let known = || {
            let catalog = self.core.catalog();
            catalog.tables.get(&name).filter(|own| own.descriptor().rejected_of == Some(id)).cloned()
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let turn = self.ddl.clone().lock_owned().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let of = self.newest(table);
        let of = of.descriptor();
        if table.is_dropped() {
            return Err(Error::new(Code::TableDropped, format!("table {} was dropped", of.name)));
        }
        let properties = of.properties.of_rejected();
        let created_ms = self.core.clock.now_micros() / 1000;
        let own = TableId(self.core.catalog().next_table_id);
        let table = TableDescriptor::new(own, name.clone(), rejected_schema()?, &[], properties, created_ms)?;
        let table = TableDescriptor { rejected_of: Some(id), ..table };
        self.edit(Edit::CreateTable { table, unfinished: false }, Some(turn)).await?;
        self.core.catalog().table(&name)
    }

    /// Changes a table's columns and properties, one alteration after the other, all or none. Rows that are there stay as
    /// they were written; who holds an older version reads and writes in its columns as before. Answers this version;
    /// none if there was no table and that is fine.
    pub async fn alter_table(
        &self,
        name: &TableName,
        alterations: &[Alteration],
        if_exists: bool,
    ) -> Result<Option<Arc<Table>>> {
        let ddl = self.ddl.clone().lock_owned().await;
        let table = match self.table(name) {
            Ok(table) => table,
            Err(error) if if_exists && error.code() == Code::TableNotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let deriver = match table.descriptor().is_keyed() {
            true => Some(table.deriver().await?),
            false => None,
        };
        let current = table.descriptor();
        let has_rows = table.has_rows();
        let altered = current.altered_under(alterations, has_rows, &*self.conditions())?;
        if altered == **current {
            return Ok(Some(table.clone()));
        }
        let version = altered.schema.id;
        let needs_value = altered.schema.needs_value_after(current.schema.last_id());
        let has_new_checks = altered.schema.has_checks_after(current.schema.id);
        let is_stricter = needs_value || has_new_checks && !faults::planted(Defect::CheckOfOlderVersion);
        // Which partitions it has others say.
        let edit = Edit::AlterTable { table: TableDescriptor { partitions: Vec::new(), ..altered } };
        let draft = edit.draft()?;
        let done = {
            // Held, so that no row comes between the look and the edit.
            let mut owner = table.owner();
            if !has_rows && needs_value && owner.has_rows() {
                return Err(Error::new(Code::WriteConflict, "the table got its first rows meanwhile"));
            }
            let before = if is_stricter { owner.refuse_before(version) } else { owner.oldest_version() };
            let refused_before = Some((table.clone(), before));
            let turn = Turn { _ddl: ddl, _deriver: deriver, refused_before, epoch: None };
            self.submit_draft(edit, draft, Some(turn)).inspect_err(|_| {
                owner.refuse_before(before);
            })?
        };
        done.await.map_err(|_| closing())??;
        let newest = self.table(name)?;
        // Others may have altered it since.
        match newest.descriptor().schema.id == version {
            true => Ok(Some(newest)),
            false => newest.in_version(version).map(|table| Some(Arc::new(table))),
        }
    }

    /// Drops a table; false if there was none and that is fine. It can be brought back for `drop_retention`, or, with
    /// `purge`, not at all.
    pub async fn drop_table(&self, name: &TableName, if_exists: bool, purge: bool) -> Result<bool> {
        let turn = self.ddl.clone().lock_owned().await;
        let table = match self.table(name) {
            Ok(table) => table,
            Err(_) if if_exists => return Ok(false),
            Err(error) => return Err(error),
        };
        let kept_ms = if purge { 0 } else { table.descriptor().properties.drop_retention_ms };
        let kept = i64::try_from(kept_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
        let until = Some(self.now_micros().saturating_add(kept));
        self.edit(Edit::DropTable { table: table.descriptor().id, until }, Some(turn)).await.map(|()| true)
    }

    /// The dropped tables that are still kept, and until when each can be brought back, in microseconds since 1970; unfinished
    /// ones with [`crate::UNFINISHED`].
    pub fn dropped_tables(&self) -> Vec<(Arc<Table>, i64)> {
        let catalog = self.core.catalog();
        catalog.dropped.iter().filter_map(|(id, until)| Some((catalog.by_id.get(id)?.clone(), *until))).collect()
    }

    /// Brings a dropped table back, as it was, under its name, which must be free; `id` says which one where there are
    /// several.
    pub async fn undrop_table(&self, name: &TableName, id: Option<TableId>) -> Result<Arc<Table>> {
        let turn = self.ddl.clone().lock_owned().await;
        let now = self.now_micros();
        let table = {
            let catalog = self.core.catalog();
            catalog.free_id(name).map_err(|error| match error.code() {
                Code::TableExists => error.with_hint("drop it first: it can be brought back too"),
                _ => error,
            })?;
            let mut dropped = catalog.dropped_as(name);
            // What is due may be half gone.
            dropped.retain(|(table, until)| *until > now && id.is_none_or(|id| table.descriptor().id == id));
            match dropped.as_slice() {
                [] => {
                    return Err(Error::new(Code::TableNotFound, format!("no dropped table {name} is kept"))
                        .with_hint("SHOW DROPPED TABLES lists those that are"));
                }
                [(table, _)] => table.descriptor().id,
                several => {
                    let ids: Vec<_> = several.iter().map(|(table, _)| table.descriptor().id.to_string()).collect();
                    let message = format!("{} tables were dropped that were called {name}", several.len());
                    return Err(Error::new(Code::InvalidRequest, message)
                        .with_hint(format!("say which: UNDROP TABLE {name} ID {}", ids.join(" or "))));
                }
            }
        };
        self.edit(Edit::UndropTable { table }, Some(turn)).await?;
        self.table(name)
    }

    /// Lets go of a dropped table for good: its rows go with the next checkpoint.
    pub async fn purge_table(&self, id: TableId) -> Result<()> {
        let turn = self.ddl.clone().lock_owned().await;
        if !self.core.catalog().dropped.contains_key(&id) {
            return Ok(());
        }
        self.edit(Edit::DropTable { table: id, until: None }, Some(turn)).await
    }
}

/// A table that has no name yet. If this is dropped, it will never have one, and goes.
#[derive(Debug)]
pub struct Unfinished {
    table: Arc<Table>,
    /// The edit that finishes it is in the journal's hands.
    is_asked_for: bool,
}

impl Unfinished {
    /// What takes rows.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_asked_for {
            self.table.mark_dropped(true);
        }
    }
}
