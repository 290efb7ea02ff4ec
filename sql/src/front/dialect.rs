//! The grammar of queries: PostgreSQL's, with what DataFusion adds to SELECT.
//!
//! Differences to sqlparser's PostgreSQL: `* EXCLUDE (…)` and `* EXCEPT (…)`, DuckDB's `{a: 1}` and `MAP {…}`, versions of tables
//! (see `versions`), what `IS DISTINCT FROM` binds, and names of arguments are words only.
//! (Where they may be expressions, the parser reads each argument twice, and nested calls take time exponential in their
//! depth.)

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

#[derive(Debug)]
pub(crate) struct OurDialect;

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

/// Each of these answers as PostgreSQL's does.
macro_rules! as_postgres {
    ($($name:ident)*) => { $(fn $name(&self) -> bool { POSTGRES.$name() })* };
}

impl Dialect for OurDialect {
    /// The parser asks for the dialect by type in places, and means PostgreSQL.
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        POSTGRES.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, character: char) -> bool {
        POSTGRES.is_delimited_identifier_start(character)
    }

    fn is_identifier_start(&self, character: char) -> bool {
        POSTGRES.is_identifier_start(character)
    }

    fn is_identifier_part(&self, character: char) -> bool {
        POSTGRES.is_identifier_part(character)
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        POSTGRES.is_reserved_for_identifier(keyword)
    }

    fn is_custom_operator_part(&self, character: char) -> bool {
        POSTGRES.is_custom_operator_part(character)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        POSTGRES.get_next_precedence(parser)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        POSTGRES.prec_value(precedence)
    }

    /// The parser of 0.62 takes all that follows `IS DISTINCT FROM`, AND and OR with it, for its right side. As in Postgres, it is
    /// no link of a chain.
    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, _: u8) -> Option<Result<Expr, ParserError>> {
        let is_distinct = parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]);
        if !is_distinct && !parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) {
            return None;
        }
        let is_chain = matches!(
            expr,
            Expr::IsDistinctFrom(..)
                | Expr::IsNotDistinctFrom(..)
                | Expr::IsNull(_)
                | Expr::IsNotNull(_)
                | Expr::IsTrue(_)
                | Expr::IsNotTrue(_)
                | Expr::IsFalse(_)
                | Expr::IsNotFalse(_)
                | Expr::IsUnknown(_)
                | Expr::IsNotUnknown(_)
        );
        if is_chain {
            let message = "IS … IS DISTINCT FROM: what is on its left stands in brackets".to_owned();
            return Some(Err(ParserError::ParserError(message)));
        }
        let right = parser.parse_subexpr(self.prec_value(Precedence::Is));
        let make = if is_distinct { Expr::IsDistinctFrom } else { Expr::IsNotDistinctFrom };
        Some(right.map(|right| make(Box::new(expr.clone()), Box::new(right))))
    }

    as_postgres! {
        supports_unicode_string_literal supports_filter_during_aggregation supports_group_by_expr allow_extract_custom
        allow_extract_single_quotes supports_factorial_operator supports_bitwise_shift_operators
        supports_named_fn_args_with_colon_operator supports_nested_comments supports_string_escape_constant
        supports_numeric_literal_underscores supports_array_typedef_with_brackets supports_notnull_operator
        supports_interval_options supports_insert_table_alias supports_comma_separated_trim
    }

    fn supports_select_wildcard_exclude(&self) -> bool {
        true
    }

    fn supports_select_wildcard_except(&self) -> bool {
        true
    }

    /// Structs as `{a: 1}`.
    fn supports_dictionary_syntax(&self) -> bool {
        true
    }

    /// Maps as `MAP {'a': 1}`.
    fn support_map_literal_syntax(&self) -> bool {
        true
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }
}
