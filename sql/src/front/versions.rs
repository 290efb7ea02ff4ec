//! Version clauses: `t FOR TIMESTAMP AS OF …`, `t FOR VERSION AS OF …`, and what other engines' users write for them.
//!
//! | written | means |
//! |---|---|
//! | `[FOR] TIMESTAMP AS OF x`, `FOR SYSTEM_TIME AS OF x`, `AT (TIMESTAMP => x)` | a moment |
//! | `[FOR] VERSION AS OF x`, `FOR SYSTEM_VERSION AS OF x`, `AT (VERSION => x)` | a snapshot, or offsets |
//!
//! The parser knows some of these. [`spelled`] puts the others into its words, and takes care that a name which only looks
//! like the beginning of a clause stays a name. [`VersionClause::of`] reads what the parser makes of them.
//!
//! Always: a clause ends in a [`VersionClause`] or in an error. The planner would ignore it.

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Select, TableAlias, TableFactor, TableVersion,
    TableWithJoins,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use thermocline_schemas::{Error, Result, fold};

use super::invalid;

/// Which version of a table is meant; the expression is a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VersionClause {
    Moment(Expr),
    /// A snapshot, a tag, offsets or a token.
    Version(Expr),
}

impl VersionClause {
    pub(super) fn of(version: TableVersion) -> Result<VersionClause> {
        let unknown = |clause: String| not_understood().with_value(clause);
        match version {
            TableVersion::ForSystemTimeAsOf(moment) | TableVersion::TimestampAsOf(moment) => {
                Ok(VersionClause::Moment(moment))
            }
            TableVersion::VersionAsOf(version) => Ok(VersionClause::Version(version)),
            TableVersion::Function(Expr::Function(function)) => {
                let text = function.to_string();
                let is_at = function.name.to_string().eq_ignore_ascii_case("at");
                let FunctionArguments::List(list) = function.args else { return Err(unknown(text)) };
                match <[FunctionArg; 1]>::try_from(list.args) {
                    Ok([FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. }]) if is_at => {
                        match name.value.to_ascii_uppercase().as_str() {
                            "TIMESTAMP" => Ok(VersionClause::Moment(value)),
                            "VERSION" => Ok(VersionClause::Version(value)),
                            _ => Err(unknown(text)),
                        }
                    }
                    _ => Err(unknown(text)),
                }
            }
            other => Err(unknown(other.to_string())),
        }
    }

    pub(crate) fn value(&self) -> &Expr {
        match self {
            VersionClause::Moment(value) | VersionClause::Version(value) => value,
        }
    }
}

/// For a clause that means nothing here.
pub(super) fn not_understood() -> Error {
    invalid("that is not how a version of a table is asked for")
        .with_hint("t FOR TIMESTAMP AS OF '2026-11-23T13:00:00Z', t FOR VERSION AS OF <snapshot id>, t FOR VERSION AS OF 'offsets:0=120,1=98'")
}

/// The tokens of a statement, with its version clauses in the parser's words.
pub(super) fn spelled(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let word = |at: usize| match tokens.get(at).map(|token| &token.token) {
        Some(Token::Word(word)) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        _ => String::new(),
    };
    let is = |at: usize, words: &[&str]| words.iter().enumerate().all(|(place, wanted)| word(at + place) == *wanted);
    let mut spelled: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let span = tokens[at].span;
        let mut put = |token: Token| spelled.push(TokenWithSpan { token, span });
        let after_for = at + usize::from(word(at) == "FOR");
        let is_version = is(after_for, &["VERSION", "AS", "OF"]) || is(after_for, &["SYSTEM_VERSION", "AS", "OF"]);
        let value = tokens.get(after_for + 3).map(|token| &token.token);
        match value {
            Some(value @ (Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_))) if is_version => {
                let version = [Token::make_keyword("AT"), Token::LParen, Token::make_keyword("VERSION"), Token::RArrow];
                version.into_iter().for_each(&mut put);
                put(value.clone());
                put(Token::RParen);
                at = after_for + 4;
            }
            _ if after_for > at && is(after_for, &["TIMESTAMP", "AS", "OF"]) => {
                ["FOR", "SYSTEM_TIME", "AS", "OF"].map(Token::make_keyword).into_iter().for_each(&mut put);
                at = after_for + 3;
            }
            _ => {
                let begins = matches!(word(at).as_str(), "AT" | "BEFORE" | "CHANGES") && !is(at, &["AT", "TIME"]);
                let has_arguments = tokens.get(at + 1).is_some_and(|next| next.token == Token::LParen)
                    && tokens.get(at + 3).is_some_and(|next| next.token == Token::RArrow);
                match &tokens[at].token {
                    // The parser would take such an alias for a clause.
                    Token::Word(name) if begins && !has_arguments => put(Token::Word(Word {
                        value: fold(&name.value),
                        quote_style: Some('"'),
                        keyword: Keyword::NoKeyword,
                    })),
                    token => put(token.clone()),
                }
                at += 1;
            }
        }
    }
    spelled
}

/// Gives tables with a version their own names as aliases, so that they can be called so whatever the plan calls them.
pub(super) fn name_versioned(select: &mut Select) {
    fn in_factor(factor: &mut TableFactor) {
        match factor {
            TableFactor::Table { name, alias: alias @ None, version: Some(_), .. } => {
                if let Some(name) = name.0.last().and_then(|part| part.as_ident()) {
                    *alias = Some(alias_of(name.clone()));
                }
            }
            TableFactor::NestedJoin { table_with_joins, .. } => in_joins(table_with_joins),
            _ => {}
        }
    }
    fn in_joins(from: &mut TableWithJoins) {
        in_factor(&mut from.relation);
        from.joins.iter_mut().for_each(|join| in_factor(&mut join.relation));
    }
    select.from.iter_mut().for_each(in_joins);
}

fn alias_of(name: Ident) -> TableAlias {
    TableAlias { explicit: true, name, columns: Vec::new(), at: None }
}
