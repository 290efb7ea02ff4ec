//! From the names in a statement to relations, all pinned at one cut.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use thermocline_engine::Table;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Code, Error, REJECTED, Result, SystemColumn, TableId, TableName, rejected_schema};
use thermocline_tiering::{ReadSplit, Version};

use crate::front::{NamedRelation, Prepared, invalid};
use crate::scan::{Legs, ReadStats, Relation, ScanColumns};
use crate::session::RelationKey;
use crate::sql::Sql;
use crate::system;

/// Which relation of a table is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Table,
    Hot,
    Lake,
    Changes,
    Snapshots,
}

impl View {
    /// `t$changes` as the table's name and the view.
    pub(crate) fn split(relation: &str) -> Option<(&str, View)> {
        match relation.rsplit_once('$') {
            None => Some((relation, View::Table)),
            // A table, and a part of its own.
            Some((_, "rejected")) => Some((relation, View::Table)),
            Some((table, "hot")) => Some((table, View::Hot)),
            Some((table, "lake")) => Some((table, View::Lake)),
            Some((table, "changes")) => Some((table, View::Changes)),
            Some((table, "snapshots")) => Some((table, View::Snapshots)),
            Some(_) => None,
        }
    }

    /// The columns of a table's view; `shown` = system columns are part of it for the planner.
    pub(crate) fn columns(self, table: &Table, shown: bool) -> ScanColumns {
        let schema = &table.descriptor().schema;
        match self {
            View::Changes => ScanColumns::new(schema, &SystemColumn::ALL, &[]),
            _ if shown => ScanColumns::new(schema, &[], &SystemColumn::ALL),
            _ => ScanColumns::new(schema, &[], &[]),
        }
    }
}

impl Sql {
    /// The relations that a statement names.
    pub(crate) async fn relations(
        &self,
        prepared: &Prepared,
        database: &str,
        names_system_columns: bool,
        stats: Arc<ReadStats>,
    ) -> Result<HashMap<RelationKey, Arc<dyn TableProvider>>> {
        let mut relations: HashMap<RelationKey, Arc<dyn TableProvider>> = HashMap::new();
        let mut views = Vec::new();
        let versions = self.versions(&prepared.versions)?;
        for NamedRelation { table: named, version } in &prepared.relations {
            let key = RelationKey {
                database: named.database.clone().unwrap_or_else(|| database.to_owned()),
                relation: named.table.clone(),
                version: *version,
            };
            if let Some(version) = version.and_then(|version| versions.get(version)) {
                let provider = self.past(&key, version, names_system_columns, &stats).await?;
                relations.insert(key, Arc::new(provider));
                continue;
            }
            if key.database == system::INFORMATION_SCHEMA {
                let provider = self.information_schema(&key.relation)?;
                relations.insert(key, provider);
                continue;
            }
            if let Some(nothing) = self.nothing_set_aside(&key, names_system_columns)? {
                relations.insert(key, nothing);
                continue;
            }
            let (table, view) = self.view(&key.database, &key.relation)?;
            match view {
                View::Snapshots => {
                    let provider = system::snapshots(self.tiering().snapshots(&table).await?)?;
                    relations.insert(key, provider);
                }
                view => views.push((key, table, view)),
            }
        }
        // Each table once, however often it is named, and all of them at one cut.
        let mut pinned: Vec<Arc<Table>> = Vec::new();
        for (_, table, _) in &views {
            if pinned.iter().all(|other| other.descriptor().id != table.descriptor().id) {
                pinned.push(table.clone());
            }
        }
        // Who reads hot rows alone must not wait for the warehouse.
        let wants_cold = |of: &Table| {
            let mut views = views.iter().filter(|(_, table, _)| table.descriptor().id == of.descriptor().id);
            views.any(|(_, _, view)| *view != View::Hot)
        };
        if faults::planted(Defect::CutInOldColumns) && !pinned.is_empty() {
            // Not with a thread that others need to go on.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let splits = loop {
            let splits = self.tiering().read_split_of(&pinned, wants_cold).await?;
            let newest: Vec<_> = pinned.iter().map(|table| self.engine().newest(table)).collect();
            // Else the cut may have rows that the columns do not hold.
            let current = newest.iter().zip(&pinned).all(|(newest, pinned)| newest.has_columns_of(pinned));
            if current || faults::planted(Defect::CutInOldColumns) {
                break splits;
            }
            pinned = newest;
        };
        let splits: HashMap<TableId, Arc<ReadSplit>> =
            splits.into_iter().map(|split| (split.table.descriptor().id, Arc::new(split))).collect();
        for (key, table, view) in views {
            let split =
                splits.get(&table.descriptor().id).cloned().ok_or_else(|| Error::internal("a table was not split"))?;
            let relation = Relation {
                legs: match view {
                    View::Hot => Legs::Hot,
                    View::Lake => Legs::Lake,
                    _ => Legs::Both,
                },
                changes: view == View::Changes,
                columns: view.columns(&split.table, names_system_columns),
                split,
                store: self.session().store().clone(),
                stats: stats.clone(),
            };
            relations.insert(key, Arc::new(relation));
        }
        Ok(relations)
    }

    /// A table as it was.
    async fn past(
        &self,
        key: &RelationKey,
        version: &Version,
        names_system_columns: bool,
        stats: &Arc<ReadStats>,
    ) -> Result<Relation> {
        let no_versions = || {
            invalid(format!("{} has no versions", shown(&key.relation))).with_hint(
                "of a table, its name alone: t FOR TIMESTAMP AS OF …; \"t$changes\" has the offsets to choose by",
            )
        };
        if key.database == system::INFORMATION_SCHEMA {
            return Err(no_versions());
        }
        let (table, view) = self.view(&key.database, &key.relation)?;
        if view != View::Table {
            return Err(no_versions());
        }
        let split = Arc::new(self.tiering().split_at(&table, version).await?);
        Ok(Relation {
            legs: Legs::Both,
            changes: false,
            columns: view.columns(&split.table, names_system_columns),
            split,
            store: self.session().store().clone(),
            stats: stats.clone(),
        })
    }

    /// The table and the view of it that a name means.
    pub(crate) fn view(&self, database: &str, relation: &str) -> Result<(Arc<Table>, View)> {
        let unknown = || {
            Error::new(Code::TableNotFound, format!("no table {}.{}", shown(database), shown(relation)))
                .with_hint("SHOW TABLES lists what there is")
        };
        let (table, view) = View::split(relation).ok_or_else(|| {
            unknown().with_hint(
                "of each table there are \"t$hot\", \"t$lake\", \"t$changes\", \"t$snapshots\" and \"t$rejected\"",
            )
        })?;
        // A name that no table can have is the name of no table, be it a path.
        let Ok(name) = TableName::parse_read(database, table) else { return Err(unknown()) };
        Ok((self.engine().table(&name)?, view))
    }

    /// What stands for the rows that were set aside of a table of which none was.
    fn nothing_set_aside(&self, key: &RelationKey, shown: bool) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(table) = key.relation.strip_suffix(REJECTED) else { return Ok(None) };
        let Ok(name) = TableName::parse(&key.database, table) else { return Ok(None) };
        self.engine().table(&name)?;
        match self.engine().table(&name.rejected()) {
            Ok(_) => Ok(None),
            Err(_) => {
                let system: &[SystemColumn] = if shown { &SystemColumn::ALL } else { &[] };
                let columns = ScanColumns::new(&rejected_schema()?, &[], system);
                system::table(RecordBatch::new_empty(columns.schema().clone())).map(Some)
            }
        }
    }
}

/// A name from outside, safe in a message.
fn shown(name: &str) -> String {
    name.chars().take(128).collect::<String>().escape_debug().to_string()
}
