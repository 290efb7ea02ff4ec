//! `SELECT *` beside system columns.
//!
//! A table shows its system columns to the planner only when the statement names one; then each `*` and `t.*` over such a
//! table must leave them out. `*` over one table becomes `* EXCLUDE (__kind, …)`; over several it becomes one such
//! `t.*` for each, because EXCLUDE cannot tell the same name in two tables apart. Where that would not mean the same,
//! the statement is refused, never answered with other columns.

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Select, SelectItem,
    SelectItemQualifiedWildcardKind, TableFactor, TableWithJoins, WildcardAdditionalOptions,
};
use thermocline_schemas::{Error, Result, SystemColumn};

use super::ddl::{folded, named_table};
use super::scopes::Scopes;

/// One relation of a FROM clause.
struct Relation {
    /// How a qualifier names it: its alias, or the parts of its name; none for a subquery without alias.
    names: Vec<Ident>,
    hides: bool,
    /// Columns of USING, which `*` shows once, from the left side.
    merged: Vec<String>,
}

/// Makes the wildcards of a SELECT leave out the system columns that its tables have.
pub(super) fn hide_system_columns(select: &mut Select, scopes: &Scopes) -> Result<()> {
    let mut relations = Vec::new();
    let mut refused = None;
    for from in &select.from {
        collect(from, scopes, &mut relations, &mut refused)?;
    }
    if !relations.iter().any(|relation| relation.hides) {
        return Ok(());
    }
    if let Some("NATURAL JOIN") = refused {
        return Err(beside("NATURAL JOIN").with_hint("say the columns: JOIN … USING (…)"));
    }
    let mut projection = Vec::with_capacity(select.projection.len());
    for item in select.projection.drain(..) {
        match item {
            SelectItem::Wildcard(mut options) if relations.len() == 1 => {
                exclude(&mut options, &[]);
                projection.push(SelectItem::Wildcard(options));
            }
            SelectItem::Wildcard(options) => {
                if let Some(what) = refused {
                    return Err(beside(what));
                }
                if options.opt_exclude.is_some()
                    || options.opt_except.is_some()
                    || options.opt_replace.is_some()
                    || options.opt_rename.is_some()
                    || options.opt_ilike.is_some()
                {
                    return Err(beside("* with options over a join"));
                }
                for relation in &relations {
                    if relation.names.is_empty() {
                        return Err(beside("* over a subquery without a name"));
                    }
                    let mut options = WildcardAdditionalOptions::default();
                    if relation.hides {
                        exclude(&mut options, &relation.merged);
                    } else if !relation.merged.is_empty() {
                        exclude_names(&mut options, relation.merged.iter().map(String::as_str));
                    }
                    let name = ObjectName::from(relation.names.clone());
                    projection.push(SelectItem::QualifiedWildcard(
                        SelectItemQualifiedWildcardKind::ObjectName(name),
                        options,
                    ));
                }
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), mut options) => {
                let parts: Vec<_> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(folded).collect();
                let meant = relations
                    .iter()
                    .find(|relation| relation.names.iter().map(folded).collect::<Vec<_>>().ends_with(&parts));
                if meant.is_some_and(|relation| relation.hides) {
                    exclude(&mut options, &[]);
                }
                let kind = SelectItemQualifiedWildcardKind::ObjectName(name);
                projection.push(SelectItem::QualifiedWildcard(kind, options));
            }
            other => projection.push(other),
        }
    }
    select.projection = projection;
    Ok(())
}

fn beside(what: &str) -> Error {
    Error::not_built(format!("{what} in a statement that names system columns"))
}

fn collect(
    from: &TableWithJoins,
    scopes: &Scopes,
    relations: &mut Vec<Relation>,
    refused: &mut Option<&'static str>,
) -> Result<()> {
    factor(&from.relation, scopes, relations, refused)?;
    for join in &from.joins {
        use JoinOperator as On;
        let (constraint, kept) = match &join.join_operator {
            On::Join(on) | On::Inner(on) | On::Left(on) | On::LeftOuter(on) | On::CrossJoin(on) => (Some(on), true),
            On::Right(on) | On::RightOuter(on) | On::FullOuter(on) => {
                if matches!(on, JoinConstraint::Using(_)) {
                    refused.get_or_insert("* over RIGHT or FULL JOIN … USING");
                }
                (Some(on), true)
            }
            On::Semi(on) | On::LeftSemi(on) | On::Anti(on) | On::LeftAnti(on) => (Some(on), false),
            _ => {
                refused.get_or_insert("* over this kind of join");
                (None, true)
            }
        };
        let start = relations.len();
        factor(&join.relation, scopes, relations, refused)?;
        match constraint {
            Some(JoinConstraint::Natural) => *refused = Some("NATURAL JOIN"),
            Some(JoinConstraint::Using(columns)) if kept => {
                let merged = columns.iter().filter_map(|name| name.0.last()?.as_ident()).map(folded).collect();
                match &mut relations[start..] {
                    [joined] => joined.merged = merged,
                    _ => {
                        refused.get_or_insert("* over USING with brackets");
                    }
                }
            }
            _ => {}
        }
        if !kept {
            relations.truncate(start);
        }
    }
    Ok(())
}

fn factor(
    factor: &TableFactor,
    scopes: &Scopes,
    relations: &mut Vec<Relation>,
    refused: &mut Option<&'static str>,
) -> Result<()> {
    let alias = |alias: &Option<datafusion::sql::sqlparser::ast::TableAlias>| match alias {
        Some(alias) => vec![alias.name.clone()],
        None => Vec::new(),
    };
    let (names, hides) = match factor {
        TableFactor::Table { name, alias: own, args: None, .. } => {
            let named = named_table(name)?;
            let common = named.database.is_none() && scopes.defines(&named.table);
            let shows = named.table.ends_with("$changes")
                || named.table.ends_with("$snapshots")
                || named.database.as_deref() == Some("information_schema");
            let names = match own {
                Some(own) => vec![own.name.clone()],
                None => name.0.iter().filter_map(ObjectNamePart::as_ident).cloned().collect(),
            };
            (names, !common && !shows)
        }
        TableFactor::Table { alias: own, .. }
        | TableFactor::Derived { alias: own, .. }
        | TableFactor::TableFunction { alias: own, .. }
        | TableFactor::Function { alias: own, .. }
        | TableFactor::UNNEST { alias: own, .. } => (alias(own), false),
        TableFactor::NestedJoin { table_with_joins, alias: None } => {
            return collect(table_with_joins, scopes, relations, refused);
        }
        _ => {
            refused.get_or_insert("* over this kind of relation");
            (Vec::new(), false)
        }
    };
    relations.push(Relation { names, hides, merged: Vec::new() });
    Ok(())
}

/// Adds the system columns, and `merged`, to what a wildcard leaves out.
fn exclude(options: &mut WildcardAdditionalOptions, merged: &[String]) {
    let system = SystemColumn::ALL.iter().map(|column| column.name());
    exclude_names(options, system.chain(merged.iter().map(String::as_str)));
}

fn exclude_names<'a>(options: &mut WildcardAdditionalOptions, names: impl Iterator<Item = &'a str>) {
    let mut all = match options.opt_exclude.take() {
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
        None => Vec::new(),
    };
    let mut there: Vec<String> = all.iter().filter_map(|name| Some(folded(name.0.last()?.as_ident()?))).collect();
    if let Some(except) = &options.opt_except {
        there.push(folded(&except.first_element));
        there.extend(except.additional_elements.iter().map(folded));
    }
    for name in names.filter(|name| !there.iter().any(|there| there == name)) {
        all.push(ObjectName::from(vec![Ident::new(name)]));
    }
    options.opt_exclude = Some(ExcludeSelectItem::Multiple(all));
}
