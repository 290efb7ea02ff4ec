//! The statement front: text in, one checked [`Statement`] out.
//!
//! Always: exactly one statement; its nesting and the length of its chains are bounded before anything walks it, so that no
//! text can overflow the stack; a statement that is not ours, or not ours yet, is refused here with a word on what it is;
//! nothing is ignored in silence, above all no version clause.
//!
//! DDL and SHOW are parsed here by hand (`ddl`): they are small, and every word that we do not mean must be an error.
//! Queries are parsed by sqlparser and then walked once (`prepare`). Not here: names of tables and columns are not looked
//! up, nothing is planned.

mod balance;
mod ddl;
mod dialect;
mod doubles;
mod guard;
mod prepare;
mod scopes;
mod types;
mod versions;
mod wildcards;

use datafusion::sql::sqlparser::ast::{self, SetExpr};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use thermocline_schemas::{Alteration, Code, ColumnType, Error, Result, SystemColumn, fold};

pub(crate) use ddl::folded;
pub(crate) use dialect::OurDialect;
pub(crate) use prepare::{NamedRelation, Prepared, prepare};
pub(crate) use types::column_type;
pub(crate) use versions::VersionClause;

/// How deep expressions and queries may nest. People stay far below; each level costs stack wherever plans are walked.
pub(crate) const DEPTH_MAX: usize = 400;

/// A table as a statement names it, folded; the database only if it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedTable {
    pub database: Option<String>,
    pub table: String,
}

/// What a statement asks for.
#[derive(Debug)]
pub(crate) enum Statement {
    CreateDatabase {
        name: String,
        if_not_exists: bool,
    },
    DropDatabase {
        name: String,
        if_exists: bool,
    },
    CreateTable(CreateTable),
    CreateTableAs(CreateTableAs),
    AlterTable {
        table: NamedTable,
        if_exists: bool,
        alterations: Vec<Alteration>,
        /// Whether rows that are there are let be that break a constraint which is added.
        not_valid: bool,
    },
    /// Holds a constraint against rows that are there.
    ValidateConstraint {
        table: NamedTable,
        if_exists: bool,
        name: String,
    },
    DropTable {
        table: NamedTable,
        if_exists: bool,
        purge: bool,
    },
    /// The id is said where several tables of the name were dropped.
    UndropTable {
        table: NamedTable,
        id: Option<u64>,
    },
    ShowDroppedTables,
    ShowDatabases,
    ShowTables {
        database: Option<String>,
    },
    ShowCreateTable {
        table: NamedTable,
    },
    Describe {
        table: NamedTable,
    },
    Insert {
        table: NamedTable,
        columns: Vec<String>,
        source: Box<ast::Query>,
    },
    Change(Box<ChangeRows>),
    /// A DELETE of all rows.
    Truncate(Box<ChangeRows>),
    Query {
        query: Box<ast::Query>,
        explain: Option<Explain>,
    },
}

#[derive(Debug)]
pub(crate) struct CreateTable {
    pub table: NamedTable,
    pub if_not_exists: bool,
    pub columns: Vec<NewColumn>,
    /// The columns of the primary key; none for a log table.
    pub key: Vec<String>,
    pub checks: Vec<NewCheck>,
    pub properties: Vec<(String, String)>,
}

/// A constraint as a statement declares it.
#[derive(Debug)]
pub(crate) struct NewCheck {
    pub name: Option<String>,
    pub condition: String,
}

/// A table made of a query.
#[derive(Debug)]
pub(crate) struct CreateTableAs {
    pub table: NamedTable,
    pub if_not_exists: bool,
    /// The columns of the primary key; none for a log table.
    pub key: Vec<String>,
    pub properties: Vec<(String, String)>,
    pub source: Box<ast::Query>,
}

/// A column as a statement declares it.
#[derive(Debug)]
pub(crate) struct NewColumn {
    pub name: String,
    pub column_type: ColumnType,
    pub nullable: bool,
    /// As CSV spells it.
    pub default: Option<String>,
}

/// UPDATE or DELETE.
#[derive(Debug)]
pub(crate) struct ChangeRows {
    pub table: NamedTable,
    /// The table as the statement names it, maybe with an alias.
    pub from: ast::TableWithJoins,
    pub selection: Option<ast::Expr>,
    /// The new values of an UPDATE by column; none for a DELETE.
    pub assignments: Option<Vec<(String, ast::Expr)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Explain {
    pub analyze: bool,
    pub verbose: bool,
}

/// A statement, and what its text says beside it.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub statement: Statement,
    /// Whether a system column is named anywhere: only then do tables show theirs to the planner.
    pub names_system_columns: bool,
}

/// Parses one statement. Runs on the caller's stack: see `session` for how large that must be.
pub(crate) fn parse(text: &str, depth_max: usize) -> Result<Parsed> {
    let tokens = guard::tokens(text, depth_max)?;
    let names_system_columns = tokens.names_word(|word| SystemColumn::from_name(&fold(word)).is_some());
    let versioned = tokens.has_version_clause();
    let parser = Parser::new(&OurDialect).with_recursion_limit(depth_max.saturating_mul(2));
    let mut parser = parser.with_tokens_with_locations(tokens.into_tokens());
    let statement = ddl::statement(&mut parser).map_err(|error| match error {
        Failure::Ours(error) => error,
        // A version clause that the grammar does not know either.
        Failure::Parser(ParserError::ParserError(_)) if versioned => versions::not_understood(),
        Failure::Parser(error) => parser_error(error),
    })?;
    Ok(Parsed { statement, names_system_columns })
}

/// Why parsing stopped.
#[derive(Debug)]
enum Failure {
    Ours(Error),
    Parser(ParserError),
}

impl From<ParserError> for Failure {
    fn from(error: ParserError) -> Failure {
        Failure::Parser(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Ours(error)
    }
}

fn parser_error(error: ParserError) -> Error {
    match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => invalid(message),
        ParserError::RecursionLimitExceeded => too_deep("the statement nests too deep"),
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidSql, message)
}

fn forbidden(message: impl Into<String>) -> Error {
    Error::new(Code::Forbidden, message).with_hint("SQL reaches the tables of this server and nothing else")
}

fn too_deep(what: impl std::fmt::Display) -> Error {
    Error::new(Code::SqlTooDeep, what.to_string())
        .with_hint("use IN (…) for long lists of alternatives, and bring constants as rows of a table")
}

/// Whether a query is one, and not DML in its clothes.
fn check_is_query(query: &ast::Query) -> Result<()> {
    let mut body = &*query.body;
    loop {
        match body {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                return Err(invalid("WITH stands before a query only, not before INSERT, UPDATE, DELETE or MERGE"));
            }
            SetExpr::SetOperation { left, .. } => body = left,
            _ => return Ok(()),
        }
    }
}
