//! The guard before the parser: size, one statement, and bounds on nesting and on chains, counted over tokens.
//!
//! Always: what passes nests at most `depth_max` brackets and CASEs deep, and no run of operators between two commas,
//! brackets or clause words is longer than [`CHAIN_MAX`]. A tree that the parser makes of it can be dropped and measured on
//! the stacks that we use (`session`); what is deeper than comfortable is then refused by `prepare`.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use thermocline_schemas::{Code, Error, Result};

use super::dialect::OurDialect;
use super::versions::spelled;
use super::{invalid, too_deep};

const TEXT_BYTES_MAX: usize = 1 << 20;
/// Operators in one run: each makes the tree one level deeper.
const CHAIN_MAX: usize = 20_000;
/// Queries put together by UNION and its kind: each makes plan and tree one level deeper.
const SET_OPERATIONS_MAX: usize = 200;
const WHENS_MAX: usize = 2_000;
/// Parts of one name, as `db.table.column.field`: where the last one is no name, the parser tries each of them in two ways.
const NAME_PARTS_MAX: usize = 12;
/// Expressions in WITH: planning looks through all that came before at each.
const NAMED_MAX: usize = 500;

/// The tokens of one statement, without its final semicolons.
pub(super) struct Tokens(Vec<TokenWithSpan>);

pub(super) fn tokens(text: &str, depth_max: usize) -> Result<Tokens> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::new(
            Code::RequestTooLarge,
            format!("{} bytes of SQL are more than {TEXT_BYTES_MAX}", text.len()),
        )
        .with_hint("send rows to /v1/tables/{db}/{table}/rows"));
    }
    let mut tokens =
        Tokenizer::new(&OurDialect, text).tokenize_with_location().map_err(|error| invalid(error.to_string()))?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    while tokens.last().is_some_and(|last| last.token == Token::SemiColon) {
        tokens.pop();
    }
    if tokens.is_empty() {
        return Err(invalid("there is no statement"));
    }
    if tokens.iter().any(|token| token.token == Token::SemiColon) {
        return Err(Error::new(Code::MultipleStatements, "one request takes one statement")
            .with_hint("send them one after the other"));
    }
    check(&tokens, depth_max)?;
    Ok(Tokens(spelled(tokens)))
}

fn check(tokens: &[TokenWithSpan], depth_max: usize) -> Result<()> {
    // The lengths of the chains that are open, one per bracket or CASE.
    let mut chains = vec![0usize];
    let (mut set_operations, mut whens, mut named) = (0, 0, 0);
    let mut after_as = false;
    // The periods of the names that are open, one per bracket, and whether a name goes on.
    let (mut periods, mut goes_on) = (vec![0usize], false);
    for TokenWithSpan { token, span } in tokens {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => periods.push(0),
            Token::RParen | Token::RBracket | Token::RBrace if periods.len() > 1 => {
                periods.pop();
            }
            Token::Period => lengthen(&mut periods),
            Token::Word(_) if !goes_on => restart(&mut periods),
            _ => {}
        }
        goes_on = *token == Token::Period;
        if periods.last().is_some_and(|count| *count >= NAME_PARTS_MAX) {
            return Err(too_deep(format!("a name has more than {NAME_PARTS_MAX} parts at line {}", span.start.line)));
        }
        named += usize::from(after_as && *token == Token::LParen);
        after_as = matches!(token, Token::Word(word) if word.keyword == Keyword::AS && word.quote_style.is_none());
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => chains.push(0),
            Token::RParen | Token::RBracket | Token::RBrace if chains.len() > 1 => {
                chains.pop();
            }
            Token::Comma => restart(&mut chains),
            Token::Placeholder(name) if !is_dollar_number(name) => return Err(question_mark(name)),
            Token::Question | Token::QuestionAnd | Token::QuestionPipe => return Err(question_mark("?")),
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::CASE => chains.push(0),
                Keyword::END if chains.len() > 1 => {
                    chains.pop();
                }
                Keyword::WHEN | Keyword::THEN | Keyword::ELSE => {
                    whens += usize::from(word.keyword == Keyword::WHEN);
                    restart(&mut chains);
                }
                Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT => {
                    set_operations += 1;
                    restart(&mut chains);
                }
                Keyword::SELECT
                | Keyword::FROM
                | Keyword::WHERE
                | Keyword::GROUP
                | Keyword::HAVING
                | Keyword::ORDER
                | Keyword::LIMIT
                | Keyword::VALUES
                | Keyword::JOIN
                | Keyword::ON => restart(&mut chains),
                Keyword::AND
                | Keyword::OR
                | Keyword::XOR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::BETWEEN
                | Keyword::IN
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::OPERATOR
                | Keyword::OVERLAPS
                | Keyword::INTERVAL => lengthen(&mut chains),
                _ => {}
            },
            Token::Word(_)
            | Token::Number(..)
            | Token::Placeholder(_)
            | Token::SingleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::Period => {}
            // Whatever else there is may be an operator.
            _ => lengthen(&mut chains),
        }
        if chains.len() > depth_max {
            return Err(too_deep(format!("brackets nest deeper than {depth_max} at line {}", span.start.line)));
        }
        if chains.last().is_some_and(|length| *length > CHAIN_MAX) {
            return Err(too_deep(format!("an expression has more than {CHAIN_MAX} operators")));
        }
    }
    if set_operations > SET_OPERATIONS_MAX {
        return Err(too_deep(format!("more than {SET_OPERATIONS_MAX} queries are put together")));
    }
    if named > NAMED_MAX {
        return Err(too_deep(format!("WITH has more than {NAMED_MAX} expressions")));
    }
    if whens > WHENS_MAX {
        return Err(too_deep(format!("CASE has more than {WHENS_MAX} branches")));
    }
    Ok(())
}

fn restart(chains: &mut [usize]) {
    if let Some(length) = chains.last_mut() {
        *length = 0;
    }
}

fn lengthen(chains: &mut [usize]) {
    if let Some(length) = chains.last_mut() {
        *length += 1;
    }
}

fn is_dollar_number(name: &str) -> bool {
    name.strip_prefix('$').is_some_and(|number| number.parse::<u16>().is_ok())
}

fn question_mark(name: &str) -> Error {
    invalid(format!("{name} is not a parameter here")).with_hint("parameters are written $1, $2, …")
}

impl Tokens {
    pub(super) fn into_tokens(self) -> Vec<TokenWithSpan> {
        self.0
    }

    /// Whether a word of the text, quoted or not, is one of those meant.
    pub(super) fn names_word(&self, meant: impl Fn(&str) -> bool) -> bool {
        self.0.iter().any(|token| matches!(&token.token, Token::Word(word) if meant(&word.value)))
    }

    /// Whether something like `AS OF …` or `FOR SYSTEM_TIME …` stands in the text. Only asked when parsing failed.
    pub(super) fn has_version_clause(&self) -> bool {
        let is = |token: &TokenWithSpan, words: &[&str]| match &token.token {
            Token::Word(word) => words.iter().any(|other| word.value.eq_ignore_ascii_case(other)),
            _ => false,
        };
        let versions = ["SYSTEM_TIME", "SYSTEM_VERSION", "VERSION", "TIMESTAMP"];
        self.0.windows(2).any(|pair| {
            (is(&pair[0], &["AS"]) && is(&pair[1], &["OF"])) || (is(&pair[0], &["FOR"]) && is(&pair[1], &versions))
        })
    }
}
