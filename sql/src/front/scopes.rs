//! Which names WITH has defined at a point of the walk over a statement.
//!
//! Always, as SQL has it: a common table expression sees those before it, and itself only under RECURSIVE. So in
//! `WITH t AS (SELECT * FROM t) …` the inner `t` is the table.
//!
//! The planner puts the whole expression wherever its name stands. Of expressions that each name the one before twice, thirty
//! make a billion queries of a few lines, so what comes of all names is counted here and bounded.

use datafusion::sql::sqlparser::ast::Query;

use thermocline_schemas::Result;

use super::ddl::folded;
use super::too_deep;

/// Queries and relations of a statement once every name stands for what it names.
const WEIGHT_MAX: u64 = 2_000;

#[derive(Debug, Default)]
pub(super) struct Scopes(Vec<Scope>);

#[derive(Debug)]
struct Scope {
    names: Vec<String>,
    /// How many of the names have been walked. Until all are, the queries that the walk enters right here are theirs.
    done: usize,
    recursive: bool,
    /// What each of the names that are done comes to.
    weights: Vec<u64>,
    /// What this query comes to so far.
    weight: u64,
}

impl Scopes {
    pub(super) fn enter(&mut self, query: &Query) {
        let (names, recursive) = match &query.with {
            Some(with) => (with.cte_tables.iter().map(|cte| folded(&cte.alias.name)).collect(), with.recursive),
            None => (Vec::new(), false),
        };
        self.0.push(Scope { names, done: 0, recursive, weights: Vec::new(), weight: 1 });
    }

    pub(super) fn leave(&mut self) -> Result<()> {
        let weight = self.0.pop().map_or(0, |scope| scope.weight);
        let Some(outer) = self.0.last_mut() else { return Ok(()) };
        if outer.done < outer.names.len() {
            outer.done += 1;
            outer.weights.push(weight);
            return Ok(());
        }
        self.add(weight)
    }

    /// The query that the walk is in names a relation: one of WITH, or a table.
    pub(super) fn names(&mut self, common: Option<&str>) -> Result<()> {
        let weight_in = |scope: &Scope| {
            let of_name = scope.names.iter().zip(&scope.weights).filter(|(own, _)| Some(own.as_str()) == common);
            of_name.map(|(_, weight)| *weight).max()
        };
        let weight = self.0.iter().rev().find_map(weight_in).unwrap_or(1);
        self.add(weight)
    }

    fn add(&mut self, weight: u64) -> Result<()> {
        let Some(scope) = self.0.last_mut() else { return Ok(()) };
        scope.weight = scope.weight.saturating_add(weight);
        if scope.weight > WEIGHT_MAX {
            return Err(too_deep(format!("the names in WITH stand for more than {WEIGHT_MAX} queries and tables")));
        }
        Ok(())
    }

    /// Whether a name without database means a common table expression here.
    pub(super) fn defines(&self, name: &str) -> bool {
        self.0.iter().any(|scope| {
            let visible = (scope.done + usize::from(scope.recursive)).min(scope.names.len());
            scope.names[..visible].iter().any(|own| own == name)
        })
    }
}
