//! Columns that a SELECT writes twice.
//!
//! The planner has no two columns of one name, and calls a cast by what it casts. What stands there again, as in `SELECT x, x` or
//! `SELECT x, x::VARCHAR`, gets a name of its own, `x_1`: the one that DuckDB gives it in a table.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Select, SelectItem, VisitMut, VisitorMut};

use super::ddl::folded;

pub(super) fn name_doubles(select: &mut Select) {
    if select.projection.len() < 2 {
        return;
    }
    let mut bare = Bare { of_one: matches!(select.from.as_slice(), [only] if only.joins.is_empty()) };
    let mut name = |expr: &Expr| {
        let mut expr = expr.clone();
        let _ = expr.visit(&mut bare);
        match expr {
            Expr::Identifier(column) => (folded(&column), folded(&column)),
            Expr::CompoundIdentifier(parts) => {
                let text = parts.iter().map(folded).collect::<Vec<_>>().join(".");
                (text, parts.last().map(folded).unwrap_or_default())
            }
            other => (other.to_string().to_lowercase(), other.to_string()),
        }
    };
    let mut names: HashSet<String> = HashSet::new();
    for item in &select.projection {
        names.extend(match item {
            SelectItem::UnnamedExpr(expr) => Some(name(expr).1),
            SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
            _ => None,
        });
    }
    let (mut written, mut numbers) = (HashSet::new(), HashMap::new());
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let (text, name) = name(expr);
        if written.insert(text) {
            continue;
        }
        // A thousand of one name go on from where the last one was.
        let number = numbers.entry(name.clone()).or_insert(0_u64);
        let alias = loop {
            *number += 1;
            let alias = format!("{name}_{number}");
            if names.insert(alias.clone()) {
                break Ident::with_quote('"', alias);
            }
        };
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

/// Takes away what makes no other name: casts, brackets and, where there is but one table, what a column is of.
struct Bare {
    of_one: bool,
}

impl VisitorMut for Bare {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let bare = match expr {
            Expr::Cast { expr, .. } | Expr::Nested(expr) => expr.as_ref().clone(),
            Expr::CompoundIdentifier(parts) if self.of_one => match parts.last() {
                Some(column) => Expr::Identifier(column.clone()),
                None => return ControlFlow::Continue(()),
            },
            _ => return ControlFlow::Continue(()),
        };
        *expr = bare;
        ControlFlow::Continue(())
    }
}
