//! Which databases and tables there are. Changed by edits only, in journal order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use thermocline_schemas::{Code, Error, Identifier, Result, TableId, TableName};

use crate::table::Table;

/// Until when an unfinished table can be brought back: it cannot.
pub const UNFINISHED: i64 = 0;

/// The database that is always there.
pub const DEFAULT_DATABASE: &str = "public";

#[derive(Debug)]
pub struct Catalog {
    pub databases: BTreeSet<Identifier>,
    pub tables: BTreeMap<TableName, Arc<Table>>,
    /// Unfinished ones too, and dropped ones, as long as they can be brought back.
    pub by_id: HashMap<TableId, Arc<Table>>,
    /// Until when those can be brought back that are dropped, in microseconds since 1970. Those that are unfinished are among
    /// them, as if dropped long ago.
    pub dropped: BTreeMap<TableId, i64>,
    /// Ids are given once, ever.
    pub next_table_id: u64,
}

impl Catalog {
    pub fn new(databases: impl IntoIterator<Item = Identifier>, next_table_id: u64) -> Result<Catalog> {
        let mut databases: BTreeSet<_> = databases.into_iter().collect();
        databases.insert(Identifier::parse("database", DEFAULT_DATABASE)?);
        Ok(Catalog {
            databases,
            tables: BTreeMap::new(),
            by_id: HashMap::new(),
            dropped: BTreeMap::new(),
            next_table_id: next_table_id.max(1),
        })
    }

    /// Adds a table, or puts another version of it in the place of the one that is there.
    pub fn add(&mut self, table: Arc<Table>) {
        let descriptor = table.descriptor();
        self.next_table_id = self.next_table_id.max(descriptor.id.0 + 1);
        if !self.dropped.contains_key(&descriptor.id) {
            self.tables.insert(descriptor.name.clone(), table.clone());
        }
        self.by_id.insert(descriptor.id, table);
    }

    /// Adds a table that nobody finds by its name.
    pub fn add_unfinished(&mut self, table: Arc<Table>) {
        self.dropped.insert(table.descriptor().id, UNFINISHED);
        self.add(table);
    }

    /// The table of what was set aside of a table's rows.
    pub fn rejected_of(&self, id: TableId) -> Option<Arc<Table>> {
        self.by_id.values().find(|table| table.descriptor().rejected_of == Some(id)).cloned()
    }

    /// Takes a table's name away, and keeps it until then.
    pub fn hide(&mut self, table: &Arc<Table>, until: i64) {
        self.by_id.insert(table.descriptor().id, table.clone());
        self.dropped.insert(table.descriptor().id, until);
        self.forget_name(table);
    }

    pub fn remove(&mut self, id: TableId) -> Option<Arc<Table>> {
        let table = self.by_id.remove(&id)?;
        self.dropped.remove(&id);
        self.forget_name(&table);
        Some(table)
    }

    /// The name may be another table's since.
    fn forget_name(&mut self, table: &Table) {
        let descriptor = table.descriptor();
        if self.tables.get(&descriptor.name).is_some_and(|named| named.descriptor().id == descriptor.id) {
            self.tables.remove(&descriptor.name);
        }
    }

    /// The dropped tables of a name, oldest first, and until when each can be brought back.
    pub fn dropped_as(&self, name: &TableName) -> Vec<(Arc<Table>, i64)> {
        let tables = self.dropped.iter().filter_map(|(id, until)| Some((self.by_id.get(id)?.clone(), *until)));
        tables.filter(|(table, until)| table.descriptor().name == *name && *until != UNFINISHED).collect()
    }

    pub fn table(&self, name: &TableName) -> Result<Arc<Table>> {
        self.has_database(&name.database)?;
        self.tables.get(name).cloned().ok_or_else(|| {
            let alike = self.tables.keys().find(|other| other.to_string().eq_ignore_ascii_case(&name.to_string()));
            let error = Error::new(Code::TableNotFound, format!("no table {name}"));
            match alike {
                Some(alike) => error
                    .with_hint(format!("there is {alike}: names are exact, and SQL folds unquoted ones to lower case")),
                None if !self.dropped_as(name).is_empty() => {
                    error.with_hint(format!("it was dropped; UNDROP TABLE {name} brings it back"))
                }
                None => error.with_hint("SHOW TABLES lists what there is"),
            }
        })
    }

    /// The next table's id, if it can have this name.
    pub fn free_id(&self, name: &TableName) -> Result<TableId> {
        self.has_database(&name.database)?;
        // Names that differ only in case would share a folder on some file systems, and DuckDB cannot tell them apart.
        match self.tables.keys().find(|other| other.to_string().eq_ignore_ascii_case(&name.to_string())) {
            Some(other) => Err(Error::new(Code::TableExists, format!("table {other} is there already"))),
            None => Ok(TableId(self.next_table_id)),
        }
    }

    pub fn has_database(&self, name: &Identifier) -> Result<()> {
        if self.databases.contains(name) {
            return Ok(());
        }
        Err(Error::new(Code::DatabaseNotFound, format!("no database {name}"))
            .with_hint(format!("CREATE DATABASE {name}")))
    }
}
