//! Which databases and tables there are. Changed by edits only, in journal order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use thermocline_schemas::{Code, Error, Identifier, Result, TableId, TableName};

use crate::table::Table;

/// The database that is always there.
pub const DEFAULT_DATABASE: &str = "public";

#[derive(Debug)]
pub struct Catalog {
    pub databases: BTreeSet<Identifier>,
    pub tables: BTreeMap<TableName, Arc<Table>>,
    pub by_id: HashMap<TableId, Arc<Table>>,
    /// Ids are given once, ever.
    pub next_table_id: u64,
}

impl Catalog {
    pub fn new(databases: impl IntoIterator<Item = Identifier>, next_table_id: u64) -> Result<Catalog> {
        let mut databases: BTreeSet<_> = databases.into_iter().collect();
        databases.insert(Identifier::parse("database", DEFAULT_DATABASE)?);
        Ok(Catalog { databases, tables: BTreeMap::new(), by_id: HashMap::new(), next_table_id: next_table_id.max(1) })
    }

    /// Adds a table, or puts another version of it in the place of the one that is there.
    pub fn add(&mut self, table: Arc<Table>) {
        let descriptor = table.descriptor();
        self.next_table_id = self.next_table_id.max(descriptor.id.0 + 1);
        self.by_id.insert(descriptor.id, table.clone());
        self.tables.insert(descriptor.name.clone(), table);
    }

    pub fn remove(&mut self, id: TableId) -> Option<Arc<Table>> {
        let table = self.by_id.remove(&id)?;
        self.tables.remove(&table.descriptor().name);
        Some(table)
    }

    pub fn table(&self, name: &TableName) -> Result<Arc<Table>> {
        self.has_database(&name.database)?;
        self.tables.get(name).cloned().ok_or_else(|| {
            let alike = self.tables.keys().find(|other| other.to_string().eq_ignore_ascii_case(&name.to_string()));
            let error = Error::new(Code::TableNotFound, format!("no table {name}"));
            match alike {
                Some(alike) => error
                    .with_hint(format!("there is {alike}: names are exact, and SQL folds unquoted ones to lower case")),
                None => error.with_hint("SHOW TABLES lists what there is"),
            }
        })
    }

    pub fn has_database(&self, name: &Identifier) -> Result<()> {
        if self.databases.contains(name) {
            return Ok(());
        }
        Err(Error::new(Code::DatabaseNotFound, format!("no database {name}"))
            .with_hint(format!("CREATE DATABASE {name}")))
    }
}
