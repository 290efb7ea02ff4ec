//! The one walk over a query before it is planned: it finds the tables, puts in the parameters, bounds the depth, and
//! refuses what the planner would ignore.
//!
//! Always: each table of the query is in [`Prepared::relations`], with its version if it has one, so that all can be read
//! at one cut; no version clause, sample or lock is left in the query; nothing in it nests deeper than the limit.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query, Select, SetExpr, SetOperator,
    SetQuantifier, TableFactor, Value, ValueWithSpan, VisitMut, VisitorMut,
};
use thermocline_schemas::{Code, Error, Result};

use super::balance::{balance, chain_length};
use super::ddl::{named_table, parameter};
use super::doubles::name_doubles;
use super::scopes::Scopes;
use super::versions::{VersionClause, name_versioned};
use super::wildcards::hide_system_columns;
use super::{NamedTable, check_is_query, invalid, too_deep};

/// Joined tables of one SELECT: each makes the plan one level deeper.
const RELATIONS_MAX: usize = 200;

/// Columns of one SELECT: planning compares each with all others.
const COLUMNS_MAX: usize = 5_000;

/// Subqueries in expressions, one inside the other: each level doubles the time that planning takes.
const SUBQUERIES_DEEP_MAX: usize = 8;

/// What the walk found.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The tables, in the order of their first use.
    pub relations: Vec<NamedRelation>,
    /// The versions that they are asked for in.
    pub versions: Vec<VersionClause>,
}

/// A table, now or in one of the statement's versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedRelation {
    pub table: NamedTable,
    pub version: Option<usize>,
}

/// What stands before the name of a table that is read in a version; no catalog is called so.
const VERSION_CATALOG: &str = "version ";

impl NamedRelation {
    /// The version that a catalog's name stands for.
    pub(crate) fn version_of(catalog: &str) -> Option<usize> {
        catalog.strip_prefix(VERSION_CATALOG)?.parse().ok()
    }
}

/// Walks `query` and makes it ready to plan. `database` is where names without one are looked up.
pub(crate) fn prepare(
    query: &mut Query,
    params: &[serde_json::Value],
    database: &str,
    names_system_columns: bool,
    depth_max: usize,
) -> Result<Prepared> {
    let params = params.iter().map(parameter).collect::<Result<Vec<_>>>()?;
    let mut walk = Walk {
        params,
        used: BTreeSet::new(),
        names_system_columns,
        depth_max,
        depth: 0,
        expressions: 0,
        outer_expressions: Vec::new(),
        scopes: Scopes::default(),
        relations: Vec::new(),
        versions: Vec::new(),
        database: database.to_owned(),
    };
    if let ControlFlow::Break(error) = query.visit(&mut walk) {
        return Err(error);
    }
    if let Some(unused) = (0..walk.params.len()).find(|place| !walk.used.contains(place)) {
        let message = format!("{} params came, and ${} is not in the statement", walk.params.len(), unused + 1);
        return Err(Error::new(Code::InvalidRequest, message));
    }
    Ok(Prepared { relations: walk.relations, versions: walk.versions })
}

struct Walk {
    params: Vec<Value>,
    used: BTreeSet<usize>,
    names_system_columns: bool,
    depth_max: usize,
    depth: usize,
    /// How many expressions the walk is in.
    expressions: usize,
    /// The same where each query began that the walk is in.
    outer_expressions: Vec<usize>,
    scopes: Scopes,
    relations: Vec<NamedRelation>,
    versions: Vec<VersionClause>,
    database: String,
}

impl Walk {
    /// Goes `levels` down, if that is not too deep.
    fn descend(&mut self, further: usize) -> Result<()> {
        self.depth += 1;
        if self.depth + further > self.depth_max {
            return Err(too_deep(format!("the statement nests deeper than {}", self.depth_max)));
        }
        Ok(())
    }

    fn query(&mut self, query: &Query) -> Result<()> {
        check_is_query(query)?;
        self.outer_expressions.push(self.expressions);
        // Those that begin in an expression of the one before.
        let deep = self.outer_expressions.array_windows().filter(|[outer, inner]| outer < inner).count();
        if deep > SUBQUERIES_DEEP_MAX {
            return Err(too_deep(format!("subqueries nest deeper than {SUBQUERIES_DEEP_MAX}")));
        }
        let mut body = &*query.body;
        let mut length = 0;
        while let SetExpr::SetOperation { left, .. } = body {
            body = left;
            length += 1;
        }
        let mut sets = vec![&*query.body];
        while let Some(set) = sets.pop() {
            let SetExpr::SetOperation { left, op, set_quantifier, right } = set else { continue };
            if *op != SetOperator::Union && matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName) {
                let message = format!("{op} ALL, which counts how often a row is there");
                return Err(Error::not_built(message).with_hint("GROUP BY with count(*), and JOIN"));
            }
            sets.extend([&**left, &**right]);
        }
        self.descend(length)?;
        if matches!(body, SetExpr::Table(_)) {
            return Err(invalid("write SELECT * FROM for TABLE"));
        }
        if !query.locks.is_empty() {
            return Err(Error::not_built("FOR UPDATE or FOR SHARE"));
        }
        if query.fetch.is_some() {
            return Err(invalid("write LIMIT for FETCH"));
        }
        if query.settings.is_some() || query.format_clause.is_some() || query.for_clause.is_some() {
            return Err(invalid("a query has no SETTINGS, FORMAT or FOR clause here"));
        }
        Ok(())
    }

    fn select(&mut self, select: &mut Select) -> Result<()> {
        if select.into.is_some() {
            return Err(Error::not_built("SELECT INTO"));
        }
        let relations: usize = select.from.iter().map(|from| 1 + from.joins.len()).sum();
        if relations > RELATIONS_MAX {
            return Err(too_deep(format!("{relations} relations in one FROM are more than {RELATIONS_MAX}")));
        }
        for join in select.from.iter().flat_map(|from| &from.joins) {
            use JoinOperator::{FullOuter, Right, RightOuter};
            if let Right(on) | RightOuter(on) | FullOuter(on) = &join.join_operator
                && matches!(on, JoinConstraint::Using(_) | JoinConstraint::Natural)
            {
                // The planner takes the left side's column, which is null where only the right one has a row.
                return Err(Error::not_built("USING and NATURAL of RIGHT and FULL JOIN")
                    .with_hint("ON a.id = b.id, and coalesce(a.id, b.id) for the column"));
            }
        }
        if select.projection.len() > COLUMNS_MAX {
            let count = select.projection.len();
            return Err(too_deep(format!("{count} columns of one SELECT are more than {COLUMNS_MAX}")));
        }
        name_versioned(select);
        if self.names_system_columns { hide_system_columns(select, &self.scopes) } else { Ok(()) }
    }

    fn table(&mut self, factor: &TableFactor) -> Result<()> {
        let TableFactor::Table {
            name,
            args,
            with_hints,
            version,
            partitions,
            json_path,
            sample,
            index_hints,
            with_ordinality,
            ..
        } = factor
        else {
            if let TableFactor::Derived { sample: Some(_), .. } = factor {
                return Err(Error::not_built("TABLESAMPLE"));
            }
            return Ok(());
        };
        if sample.is_some() {
            return Err(Error::not_built("TABLESAMPLE"));
        }
        if !with_hints.is_empty() || !partitions.is_empty() || json_path.is_some() || !index_hints.is_empty() {
            return Err(invalid(format!("{name} takes no hints, partitions or paths")));
        }
        if args.is_some() || *with_ordinality {
            return match version {
                None => Ok(()),
                Some(_) => Err(invalid(format!("{name} is a function, and has no versions"))),
            };
        }
        let table = named_table(name)?;
        let common = table.database.is_none() && self.scopes.defines(&table.table);
        self.scopes.names(common.then_some(table.table.as_str()))?;
        match version {
            None if common => {}
            None => self.relation(NamedRelation { table, version: None }),
            Some(_) if common => return Err(invalid(format!("{name} is a query of WITH, and has no versions"))),
            // Its parameters are put in first.
            Some(_) => {}
        }
        Ok(())
    }

    fn relation(&mut self, relation: NamedRelation) {
        if !self.relations.contains(&relation) {
            self.relations.push(relation);
        }
    }

    /// Takes a version clause out of the query: the planner finds the table of that version by another name.
    fn version(&mut self, factor: &mut TableFactor) -> Result<()> {
        let TableFactor::Table { name, version, .. } = factor else { return Ok(()) };
        let Some(clause) = version.take() else { return Ok(()) };
        let clause = VersionClause::of(clause)?;
        let known = self.versions.iter().position(|known| *known == clause);
        let place = known.unwrap_or(self.versions.len());
        if known.is_none() {
            self.versions.push(clause);
        }
        let table = named_table(name)?;
        let database = table.database.clone().unwrap_or_else(|| self.database.clone());
        let parts = [format!("{VERSION_CATALOG}{place}"), database, table.table.clone()];
        *name = ObjectName(parts.map(|part| ObjectNamePart::Identifier(Ident::with_quote('"', part))).into());
        self.relation(NamedRelation { table, version: Some(place) });
        Ok(())
    }

    fn value(&mut self, value: &mut Value) -> Result<()> {
        let Value::Placeholder(name) = value else { return Ok(()) };
        let number = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        let place = number.and_then(|number| number.checked_sub(1));
        let bound = place.and_then(|place| Some((place, self.params.get(place)?.clone())));
        let Some((place, bound)) = bound else {
            let message = format!("{name} has no value: {} params came", self.params.len());
            return Err(Error::new(Code::InvalidRequest, message));
        };
        self.used.insert(place);
        *value = bound;
        Ok(())
    }
}

fn flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl VisitorMut for Walk {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        self.scopes.enter(query);
        flow(self.query(query))
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.outer_expressions.pop();
        self.depth -= 1;
        flow(self.scopes.leave())
    }

    /// When parameters are values.
    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        name_doubles(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        flow(self.select(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        flow(self.table(factor))
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        flow(self.version(factor))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::SimilarTo { .. } = expr {
            // The planner takes its pattern for a regular expression without ends.
            return ControlFlow::Break(
                Error::not_built("SIMILAR TO").with_hint("LIKE, or a regular expression: x ~ '^…$'"),
            );
        }
        balance(expr);
        self.expressions += 1;
        flow(self.descend(chain_length(expr)))
    }

    fn post_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<Error> {
        self.expressions -= 1;
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<Error> {
        flow(self.value(&mut value.value))
    }
}
