//! Which names WITH has defined at a point of the walk over a statement.
//!
//! Always, as SQL has it: a common table expression sees those before it, and itself only under RECURSIVE. So in
//! `WITH t AS (SELECT * FROM t) …` the inner `t` is the table.

use datafusion::sql::sqlparser::ast::Query;

use super::ddl::folded;

#[derive(Debug, Default)]
pub(super) struct Scopes(Vec<Scope>);

#[derive(Debug)]
struct Scope {
    names: Vec<String>,
    /// How many of the names have been walked. Until all are, the queries that the walk enters right here are theirs.
    done: usize,
    recursive: bool,
}

impl Scopes {
    pub(super) fn enter(&mut self, query: &Query) {
        let (names, recursive) = match &query.with {
            Some(with) => (with.cte_tables.iter().map(|cte| folded(&cte.alias.name)).collect(), with.recursive),
            None => (Vec::new(), false),
        };
        self.0.push(Scope { names, done: 0, recursive });
    }

    pub(super) fn leave(&mut self) {
        self.0.pop();
        if let Some(outer) = self.0.last_mut()
            && outer.done < outer.names.len()
        {
            outer.done += 1;
        }
    }

    /// Whether a name without database means a common table expression here.
    pub(super) fn defines(&self, name: &str) -> bool {
        self.0.iter().any(|scope| {
            let visible = (scope.done + usize::from(scope.recursive)).min(scope.names.len());
            scope.names[..visible].iter().any(|own| own == name)
        })
    }
}
