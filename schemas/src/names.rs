//! Names that people give: databases, tables, columns.
//!
//! One alphabet everywhere, small enough that a name is safe in a path, a URL and a SQL text without escaping.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Code, Error, Result};

const NAME_CHARS_MAX: usize = 128;
/// What is behind the name of a table in that of the table of its rows that were set aside.
pub const REJECTED: &str = "$rejected";

/// A checked name: `[A-Za-z_][A-Za-z0-9_]{0,127}`, not starting with `__`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identifier(String);

impl Identifier {
    /// `what` is the thing being named, for the message: `table`, `column`, `database`.
    pub fn parse(what: &str, name: &str) -> Result<Identifier> {
        let reason = refuse(name);
        match reason {
            None => Ok(Identifier(name.to_owned())),
            Some(reason) => Err(Error::new(Code::InvalidName, format!("{what} name {reason}"))
                .with_value(name.escape_debug().to_string())
                .with_hint("names are letters, digits and _, start with a letter or _, not with __, and have at most 128 characters")),
        }
    }

    /// A name of ours, which people cannot give.
    pub(crate) fn of_system(name: &'static str) -> Identifier {
        Identifier(name.to_owned())
    }

    /// The name of a field inside what has this name, as people write its path.
    pub(crate) fn inside(&self, field: &Identifier) -> Identifier {
        Identifier(format!("{self}.{field}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn refuse(name: &str) -> Option<&'static str> {
    let mut characters = name.chars();
    match characters.next() {
        None => return Some("is empty"),
        Some(first) if !(first.is_ascii_alphabetic() || first == '_') => return Some("must start with a letter or _"),
        Some(_) => {}
    }
    if name.len() > NAME_CHARS_MAX {
        return Some("is longer than 128 characters");
    }
    if !characters.all(|character| character.is_ascii_alphanumeric() || character == '_') {
        return Some("has a character other than letters, digits and _");
    }
    name.starts_with("__").then_some("starts with __, which is kept for system columns")
}

impl TryFrom<String> for Identifier {
    type Error = Error;

    fn try_from(name: String) -> Result<Identifier> {
        // Names of ours are stored too.
        Identifier::parse("stored", name.strip_suffix(REJECTED).unwrap_or(&name))?;
        Ok(Identifier(name))
    }
}

impl From<Identifier> for String {
    fn from(name: Identifier) -> String {
        name.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A table's full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    pub database: Identifier,
    pub table: Identifier,
}

impl TableName {
    pub fn parse(database: &str, table: &str) -> Result<TableName> {
        Ok(TableName { database: Identifier::parse("database", database)?, table: Identifier::parse("table", table)? })
    }

    /// The name of a table that is read: its own, or that of the table of its rows that were set aside.
    pub fn parse_read(database: &str, table: &str) -> Result<TableName> {
        match table.strip_suffix(REJECTED) {
            None => TableName::parse(database, table),
            Some(table) => Ok(TableName::parse(database, table)?.rejected()),
        }
    }

    /// The name of the table of its rows that were set aside.
    pub fn rejected(&self) -> TableName {
        TableName { database: self.database.clone(), table: Identifier(format!("{}{REJECTED}", self.table)) }
    }

    pub fn is_rejected(&self) -> bool {
        self.table.as_str().ends_with(REJECTED)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.database, self.table)
    }
}

/// The name that unquoted SQL text means.
pub fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Words that are no names in Postgres unless they are quoted.
const RESERVED: &str = "\
    all analyse analyze and any array as asc asymmetric authorization between binary both case cast check \
    collate collation column concurrently constraint create cross current_catalog current_date current_role \
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end \
    except exists false fetch for foreign freeze from full grant group having ilike in initially inner intersect \
    into is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset \
    on only or order outer overlaps placing primary references returning right select session_user similar some \
    symmetric table then to trailing true union unique user using when where with";

/// The name as SQL text that means exactly it, also to other engines.
pub fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !RESERVED.split(' ').any(|word| word == name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_words_of_sql_are_quoted() {
        assert!(RESERVED.split(' ').is_sorted());
        assert_eq!(["select", "id", "Id", "user", "at"].map(quoted), ["\"select\"", "id", "\"Id\"", "\"user\"", "at"]);
    }

    #[test]
    fn good_names_pass_and_bad_ones_say_why() {
        for good in ["a", "_a", "Orders_2026", &"x".repeat(128)] {
            assert_eq!(Identifier::parse("table", good).unwrap().as_str(), good);
        }
        let refusals = [
            ("", "empty"),
            ("1a", "start with a letter"),
            ("__a", "system columns"),
            ("a/b", "other than"),
            ("..", "start with a letter"),
            ("a$b", "other than"),
            ("a\0", "other than"),
            ("naïve", "other than"),
            ("a\u{202e}b", "other than"),
            (&"x".repeat(129), "longer"),
        ];
        for (bad, why) in refusals {
            let error = Identifier::parse("table", bad).unwrap_err();
            assert_eq!(error.code(), Code::InvalidName, "{bad:?}");
            assert!(error.message().contains(why), "{bad:?}: {error}");
        }
    }

    #[test]
    fn quoting_keeps_the_name() {
        assert_eq!(quoted("a_1"), "a_1");
        assert_eq!(quoted("Orders"), "\"Orders\"");
    }
}
