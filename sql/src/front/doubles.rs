//! Columns that a SELECT writes twice.
//!
//! The planner has no two columns of one name. What stands there again, as in `SELECT x, x`, gets a name of its own, `x_1`: the
//! one that DuckDB gives it in a table.

use std::collections::HashSet;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Select, SelectItem};

use super::ddl::folded;

pub(super) fn name_doubles(select: &mut Select) {
    if select.projection.len() < 2 {
        return;
    }
    let named = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expr) => Some(name(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        _ => None,
    };
    let mut names: HashSet<String> = select.projection.iter().filter_map(named).collect();
    let mut written = HashSet::new();
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        if written.insert(expr.to_string()) {
            continue;
        }
        let name = name(expr);
        let free = (1_u64..).map(|number| format!("{name}_{number}")).find(|name| names.insert(name.clone()));
        let alias = Ident::with_quote('"', free.unwrap_or(name));
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

fn name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(column) => folded(column),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded).unwrap_or_default(),
        other => other.to_string(),
    }
}
