//! CHECK constraints: conditions that no row of a table may break.
//!
//! Always: a row passes if the condition is true or null. A condition is kept as text, in the names that the columns have
//! in the version that it is kept with; where a column gets another name, so does the text. What the text means is not
//! known here: [`Conditions`] knows it.
//!
//! A constraint remembers the version of the columns that it came with. Rows that were checked in an older version have
//! not met it ([`TableSchema::has_checks_after`]).

use std::fmt::Debug;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::{Code, Error, FieldId, Identifier, Result, SchemaId, TableDescriptor, TableSchema, quoted};

/// Each is tested on every row.
const CHECKS_MAX: usize = 100;
/// A condition's text is in every edit and checkpoint of its table.
pub const CONDITION_BYTES_MAX: usize = 4 << 10;
const NAME_BYTES_MAX: usize = 128;

/// One constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub name: Identifier,
    /// True, false or null of a row, as SQL.
    pub condition: String,
    /// The first version of the columns whose rows were checked.
    pub since: SchemaId,
}

impl Check {
    /// As `CREATE TABLE` says it.
    pub fn ddl(&self) -> String {
        format!("CONSTRAINT {} CHECK ({})", quoted(self.name.as_str()), self.condition)
    }
}

/// A condition that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Understood {
    /// The text to keep.
    pub condition: String,
    /// The columns that it names.
    pub columns: Vec<FieldId>,
}

/// Who knows what conditions mean.
pub trait Conditions: Debug + Send + Sync {
    /// An error if the text is no condition on single rows in these columns, or not the same whenever it is asked.
    fn understand(&self, condition: &str, schema: &TableSchema) -> Result<Understood>;

    /// The same condition where the columns are called as in `after`. An error if one that it names is gone, or is of a type
    /// there for which the condition makes no sense.
    fn follow(&self, condition: &str, before: &TableSchema, after: &TableSchema) -> Result<String>;

    /// What is wrong with rows that break a constraint of the table's newest version, by ascending row, each row once and at
    /// most `most` of them. Rows of which `is_tested` says no are let be.
    fn broken(
        &self,
        table: &TableDescriptor,
        rows: &RecordBatch,
        is_tested: &dyn Fn(usize) -> bool,
        most: usize,
    ) -> Result<Vec<Error>>;
}

/// Where nobody knows what conditions mean: there are none, then.
#[derive(Clone, Copy, Debug)]
pub struct NoConditions;

fn unknown() -> Error {
    Error::new(Code::Starting, "nobody knows yet what the constraints of the table mean")
}

impl Conditions for NoConditions {
    fn understand(&self, _: &str, _: &TableSchema) -> Result<Understood> {
        Err(unknown())
    }

    fn follow(&self, _: &str, _: &TableSchema, _: &TableSchema) -> Result<String> {
        Err(unknown())
    }

    fn broken(&self, _: &TableDescriptor, _: &RecordBatch, _: &dyn Fn(usize) -> bool, _: usize) -> Result<Vec<Error>> {
        Err(unknown())
    }
}

impl TableSchema {
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name.as_str() == name)
    }

    /// Whether rows that were checked in an older version may break a constraint of this one.
    pub fn has_checks_after(&self, version: SchemaId) -> bool {
        self.checks.iter().any(|check| check.since > version)
    }

    /// Adds a constraint on rows from version `since` on. Without a name it gets one of the table's name and, if it names
    /// one column alone, of that; answers the name.
    pub fn add_check(
        &mut self,
        table: &str,
        name: Option<&str>,
        condition: &str,
        since: SchemaId,
        conditions: &dyn Conditions,
    ) -> Result<Identifier> {
        if self.checks.len() >= CHECKS_MAX {
            return Err(Error::new(Code::InvalidSql, format!("a table has at most {CHECKS_MAX} constraints")));
        }
        if condition.len() > CONDITION_BYTES_MAX {
            return Err(Error::new(
                Code::InvalidSql,
                format!("the condition of a constraint has at most {CONDITION_BYTES_MAX} bytes"),
            ));
        }
        let named = |error: Error| match name {
            Some(name) => error.while_doing(format!("constraint {name}")),
            None => error.while_doing(format!("CHECK ({condition})")),
        };
        let Understood { condition, columns } = conditions.understand(condition, self).map_err(named)?;
        let name = match name {
            Some(name) => Identifier::parse("constraint", name)?,
            None => self.free_check_name(table, &columns)?,
        };
        if self.check(name.as_str()).is_some() {
            return Err(Error::new(Code::InvalidName, format!("constraint {name} is there already"))
                .with_hint("another name, or ALTER TABLE … DROP CONSTRAINT first"));
        }
        self.checks.push(Check { name: name.clone(), condition, since });
        Ok(name)
    }

    fn free_check_name(&self, table: &str, columns: &[FieldId]) -> Result<Identifier> {
        let only = match columns {
            [id] => self.columns.iter().find(|column| column.id == *id),
            _ => None,
        };
        let stem = only.map_or_else(|| table.to_owned(), |column| format!("{table}_{}", column.name));
        let named = |number: usize| {
            let ending = if number == 0 { "_check".to_owned() } else { format!("_check{number}") };
            let end = stem.floor_char_boundary(NAME_BYTES_MAX - ending.len());
            format!("{}{ending}", &stem[..end])
        };
        let free = (0..=CHECKS_MAX).map(named).find(|name| self.check(name).is_none());
        Identifier::parse("constraint", &free.unwrap_or_default())
    }

    /// Makes the constraints say of these columns what they said of those before.
    pub(crate) fn follow(&mut self, before: &TableSchema, conditions: &dyn Conditions) -> Result<()> {
        let follow = |check: &Check| {
            let followed = conditions.follow(&check.condition, before, self);
            followed.map_err(|error| {
                let hint = format!("ALTER TABLE … DROP CONSTRAINT {} first", quoted(check.name.as_str()));
                error.while_doing(format!("constraint {}", check.name)).with_hint(hint)
            })
        };
        let followed = self.checks.iter().map(follow).collect::<Result<Vec<_>>>()?;
        for (check, condition) in self.checks.iter_mut().zip(followed) {
            check.condition = condition;
        }
        Ok(())
    }
}

/// Of a constraint that is not there.
pub(crate) fn no_check(table: impl std::fmt::Display, name: &str) -> Error {
    Error::new(Code::InvalidSql, format!("table {table} has no constraint {}", name.escape_debug()))
        .with_hint("DESCRIBE shows those that it has")
}
