//! Which statement it is, and the grammar of those that are ours alone.

use datafusion::sql::sqlparser::ast::{self, ObjectName, ObjectNamePart, TableObject, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{IsOptional, Parser};
use datafusion::sql::sqlparser::tokenizer::Token;
use thermocline_schemas::{Alteration, Code, Error, Place, Result, fold};

use super::types::parse_column_type;
use super::{
    ChangeRows, CreateTable, CreateTableAs, Explain, Failure, NamedTable, NewCheck, NewColumn, Statement,
    check_is_query, forbidden, invalid,
};

pub(super) type Parsing<T> = std::result::Result<T, Failure>;

/// The one statement of the parser's tokens.
pub(super) fn statement(parser: &mut Parser) -> Parsing<Statement> {
    let first = parser.peek_token().token;
    let word = match &first {
        Token::LParen => "SELECT".to_owned(),
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        other => return Err(invalid(format!("a statement does not start with {other}")).into()),
    };
    let statement = match word.as_str() {
        "SELECT" | "WITH" | "VALUES" | "TABLE" => Statement::Query { query: query(parser)?, explain: None },
        "EXPLAIN" => explain(parser)?,
        "INSERT" => insert(parser)?,
        "UPDATE" => update(parser)?,
        "DELETE" => delete(parser)?,
        "TRUNCATE" => truncate(parser)?,
        "CREATE" => create(parser)?,
        "ALTER" => alter(parser)?,
        "DROP" => drop(parser)?,
        "UNDROP" => undrop(parser)?,
        "SHOW" => show(parser)?,
        "DESCRIBE" | "DESC" => {
            parser.next_token();
            let _table = parser.parse_keyword(Keyword::TABLE);
            Statement::Describe { table: table(parser)? }
        }
        other => return Err(refusal(other).into()),
    };
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        return Err(Failure::Parser(datafusion::sql::sqlparser::parser::ParserError::ParserError(format!(
            "the statement should end before {rest} at line {}, column {}",
            rest.span.start.line, rest.span.start.column
        ))));
    }
    Ok(statement)
}

/// Why a statement that starts so is not taken.
fn refusal(word: &str) -> Error {
    match word {
        "MERGE" | "OPTIMIZE" | "VACUUM" | "ANALYZE" | "REFRESH" | "GRANT" | "REVOKE" => {
            Error::not_built(word)
        }
        "COPY" | "UNLOAD" | "LOAD" | "INSTALL" | "ATTACH" | "DETACH" | "IMPORT" | "EXPORT" => {
            forbidden(format!("{word} reads or writes files"))
        }
        "SET" | "RESET" | "PRAGMA" => forbidden(format!("{word} changes settings of the server")),
        "PREPARE" | "EXECUTE" | "DEALLOCATE" => {
            invalid(format!("{word} is not needed here")).with_hint("send the statement with params for $1, $2, …")
        }
        "BEGIN" | "START" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "END" => {
            invalid(format!("{word}: there are no transactions; each statement is one"))
        }
        "USE" => invalid("USE: name the database in the request, or write db.table"),
        "REPLACE" | "UPSERT" => invalid(format!("{word} is not a statement here; INSERT INTO appends")),
        _ => invalid(format!("{word} does not start a statement")).with_hint(
            "SELECT, WITH, VALUES, INSERT, UPDATE, DELETE, TRUNCATE, CREATE, ALTER, DROP, UNDROP, SHOW, DESCRIBE and EXPLAIN do",
        ),
    }
}

fn query(parser: &mut Parser) -> Parsing<Box<ast::Query>> {
    let query = parser.parse_query()?;
    check_is_query(&query)?;
    Ok(query)
}

fn explain(parser: &mut Parser) -> Parsing<Statement> {
    parser.next_token();
    let mut explain = Explain { analyze: false, verbose: false };
    loop {
        match parser.parse_one_of_keywords(&[Keyword::ANALYZE, Keyword::VERBOSE]) {
            Some(Keyword::ANALYZE) if !explain.analyze => explain.analyze = true,
            Some(Keyword::VERBOSE) if !explain.verbose => explain.verbose = true,
            Some(again) => return Err(invalid(format!("EXPLAIN says {again:?} twice")).into()),
            None => break,
        }
    }
    match parser.peek_token().token {
        Token::LParen => {}
        Token::Word(word) => match word.value.to_ascii_uppercase().as_str() {
            "SELECT" | "WITH" | "VALUES" | "TABLE" => {}
            "CREATE" | "ALTER" | "DROP" | "INSERT" | "SHOW" | "DESCRIBE" | "EXPLAIN" => {
                return Err(invalid("EXPLAIN takes a query").into());
            }
            other => return Err(refusal(other).into()),
        },
        other => return Err(invalid(format!("EXPLAIN takes a query, not {other}")).into()),
    }
    Ok(Statement::Query { query: query(parser)?, explain: Some(explain) })
}

fn insert(parser: &mut Parser) -> Parsing<Statement> {
    let ast::Statement::Insert(insert) = parser.parse_statement()? else {
        return Err(invalid("INSERT INTO table [(columns)] VALUES … or a query").into());
    };
    let refused = [
        (insert.or.is_some() || insert.replace_into || insert.overwrite || insert.ignore, "INSERT that replaces rows"),
        (insert.on.is_some(), "ON CONFLICT"),
        (insert.returning.is_some() || insert.output.is_some(), "RETURNING"),
        (insert.partitioned.is_some() || !insert.after_columns.is_empty(), "INSERT into a partition"),
    ];
    if let Some((_, what)) = refused.into_iter().find(|(there, _)| *there) {
        return Err(Error::not_built(what).into());
    }
    if !insert.assignments.is_empty()
        || insert.table_alias.is_some()
        || insert.insert_alias.is_some()
        || insert.settings.is_some()
        || insert.format_clause.is_some()
        || insert.priority.is_some()
        || insert.multi_table_insert_type.is_some()
        || !insert.optimizer_hints.is_empty()
    {
        return Err(invalid("INSERT INTO table [(columns)] VALUES … or a query is all that is taken").into());
    }
    let (TableObject::TableName(name), Some(source)) = (insert.table, insert.source) else {
        return Err(invalid("INSERT needs a table and VALUES or a query").into());
    };
    check_is_query(&source)?;
    let columns = insert.columns.iter().map(|column| match column.0.as_slice() {
        [ObjectNamePart::Identifier(name)] => Ok(folded(name)),
        _ => Err(invalid(format!("{column} is not the name of a column"))),
    });
    Ok(Statement::Insert { table: named_table(&name)?, columns: columns.collect::<Result<_>>()?, source })
}

fn update(parser: &mut Parser) -> Parsing<Statement> {
    let ast::Statement::Update(update) = parser.parse_statement()? else {
        return Err(invalid("UPDATE table SET column = value, … WHERE …").into());
    };
    let refused = [
        (update.from.is_some() || !update.table.joins.is_empty(), "UPDATE of joined tables"),
        (update.returning.is_some() || update.output.is_some(), "RETURNING"),
        (update.or.is_some() || update.limit.is_some() || !update.order_by.is_empty(), "UPDATE of some rows only"),
    ];
    if let Some((_, what)) = refused.into_iter().find(|(there, _)| *there) {
        return Err(Error::not_built(what).into());
    }
    let mut assignments = Vec::with_capacity(update.assignments.len());
    for assignment in update.assignments {
        let column = match &assignment.target {
            ast::AssignmentTarget::ColumnName(ObjectName(parts)) => match parts.as_slice() {
                [ObjectNamePart::Identifier(column)] => folded(column),
                _ => return Err(invalid(format!("{} is not the name of a column", assignment.target)).into()),
            },
            ast::AssignmentTarget::Tuple(_) => return Err(Error::not_built("SET (a, b) = …").into()),
        };
        if assignments.iter().any(|(known, _)| *known == column) {
            return Err(invalid(format!("column {column} is set twice")).with_column(&column).into());
        }
        assignments.push((column, assignment.value));
    }
    change(update.table, update.selection, Some(assignments))
}

fn delete(parser: &mut Parser) -> Parsing<Statement> {
    let ast::Statement::Delete(delete) = parser.parse_statement()? else {
        return Err(invalid("DELETE FROM table WHERE …").into());
    };
    let refused = [
        (!delete.tables.is_empty() || delete.using.is_some(), "DELETE of joined tables"),
        (delete.returning.is_some() || delete.output.is_some(), "RETURNING"),
        (delete.limit.is_some() || !delete.order_by.is_empty(), "DELETE of some rows only"),
    ];
    if let Some((_, what)) = refused.into_iter().find(|(there, _)| *there) {
        return Err(Error::not_built(what).into());
    }
    let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = delete.from;
    match <[ast::TableWithJoins; 1]>::try_from(from) {
        Ok([from]) if from.joins.is_empty() => change(from, delete.selection, None),
        _ => Err(Error::not_built("DELETE of joined tables").into()),
    }
}

/// Of a table with a primary key it is a DELETE of all rows: followers hear of each, and what was there can be read at an
/// earlier version.
fn truncate(parser: &mut Parser) -> Parsing<Statement> {
    parser.next_token();
    let _table = parser.parse_keyword(Keyword::TABLE);
    let from = parser.parse_table_and_joins()?;
    let is_plain = matches!(&from.relation, ast::TableFactor::Table { alias: None, .. }) && from.joins.is_empty();
    if !is_plain {
        return Err(invalid("TRUNCATE TABLE table is all that is taken").into());
    }
    match change(from, None, None)? {
        Statement::Change(change) => Ok(Statement::Truncate(change)),
        other => Ok(other),
    }
}

fn change(
    from: ast::TableWithJoins,
    selection: Option<ast::Expr>,
    assignments: Option<Vec<(String, ast::Expr)>>,
) -> Parsing<Statement> {
    let ast::TableFactor::Table { name, version, .. } = &from.relation else {
        return Err(invalid(format!("{} is not a table", from.relation)).into());
    };
    if version.is_some() {
        return Err(invalid(format!("an earlier version of {name} cannot be changed")).into());
    }
    let table = named_table(name)?;
    Ok(Statement::Change(Box::new(ChangeRows { table, from, selection, assignments })))
}

fn create(parser: &mut Parser) -> Parsing<Statement> {
    parser.next_token();
    if parser.parse_keywords(&[Keyword::OR, Keyword::REPLACE]) {
        return Err(Error::not_built("CREATE OR REPLACE").into());
    }
    let what = match parser.next_token().token {
        Token::Word(word) => word.value.to_ascii_uppercase(),
        other => return Err(invalid(format!("CREATE what? Not {other}")).into()),
    };
    match what.as_str() {
        "DATABASE" | "SCHEMA" => {
            let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
            Ok(Statement::CreateDatabase { name: database(parser)?, if_not_exists })
        }
        "TABLE" => create_table(parser),
        "VIEW" | "MATERIALIZED" | "INDEX" | "UNIQUE" | "ROLE" | "USER" => {
            Err(Error::not_built(format!("CREATE {what}")).into())
        }
        "TEMP" | "TEMPORARY" | "UNLOGGED" => Err(Error::not_built("temporary tables").into()),
        "EXTERNAL" => Err(forbidden("CREATE EXTERNAL TABLE reads files").into()),
        "FUNCTION" | "AGGREGATE" | "PROCEDURE" | "EXTENSION" | "SERVER" | "TRIGGER" | "MACRO" | "SECRET" => {
            Err(forbidden(format!("CREATE {what} brings code or addresses into the server")).into())
        }
        _ => Err(invalid(format!("CREATE {what} is not a statement here")).into()),
    }
}

fn create_table(parser: &mut Parser) -> Parsing<Statement> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let table = table(parser)?;
    let properties = clauses(parser)?;
    if parser.parse_keyword(Keyword::AS) {
        let (key, properties, source) = (Vec::new(), properties.unwrap_or_default(), query(parser)?);
        return Ok(Statement::CreateTableAs(CreateTableAs { table, if_not_exists, key, properties, source }));
    }
    if properties.is_some() {
        return Err(invalid("WITH (…) and PARTITION BY (…) before the columns are of CREATE TABLE … AS").into());
    }
    if !parser.consume_token(&Token::LParen) {
        return Err(
            invalid("CREATE TABLE needs its columns in brackets: CREATE TABLE t (id BIGINT NOT NULL, …)").into()
        );
    }
    let (mut columns, mut key, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        if parser.consume_token(&Token::RParen) {
            break;
        }
        if let Some(named) = primary_key(parser)? {
            set_key(&mut key, named)?;
        } else if let Some(check) = check(parser)? {
            checks.push(check);
        } else {
            let (column, is_key) = column(parser, &mut checks)?;
            if is_key {
                set_key(&mut key, vec![column.name.clone()])?;
            }
            columns.push(column);
        }
        if !parser.consume_token(&Token::Comma) {
            parser.expect_token(&Token::RParen)?;
            break;
        }
    }
    let properties = clauses(parser)?.unwrap_or_default();
    if columns.is_empty() && checks.is_empty() && !key.is_empty() && parser.parse_keyword(Keyword::AS) {
        let source = query(parser)?;
        return Ok(Statement::CreateTableAs(CreateTableAs { table, if_not_exists, key, properties, source }));
    }
    if let Token::Word(word) = parser.peek_token().token {
        return Err(match word.value.to_ascii_uppercase().as_str() {
            "AS" => Error::not_built("CREATE TABLE with columns or constraints AS a query")
                .with_hint("the columns are those of the query: CREATE TABLE t (PRIMARY KEY (id)) AS SELECT …")
                .into(),
            "LOCATION" | "STORED" => forbidden("a table lives in the warehouse of its server").into(),
            other => invalid(format!("{other} has no meaning after the columns of a table")).into(),
        });
    }
    Ok(Statement::CreateTable(CreateTable { table, if_not_exists, columns, key, checks, properties }))
}

/// `WITH (…)` and `PARTITION BY (…)`, each once, in any order, as properties; none if neither stands here.
fn clauses(parser: &mut Parser) -> Parsing<Option<Vec<(String, String)>>> {
    let (mut properties, mut partitioned) = (None, None);
    loop {
        let twice = if parser.parse_keyword(Keyword::WITH) {
            properties.replace(table_properties(parser)?).is_some()
        } else if parser.parse_one_of_keywords(&[Keyword::PARTITION, Keyword::PARTITIONED]).is_some() {
            parser.expect_keyword(Keyword::BY)?;
            partitioned.replace(vec![("partition_by".to_owned(), partition_by(parser)?)]).is_some()
        } else {
            return Ok(match (properties, partitioned) {
                (Some(properties), Some(partitioned)) => Some([properties, partitioned].concat()),
                (properties, partitioned) => properties.or(partitioned),
            });
        };
        if twice {
            return Err(invalid("WITH (…) and PARTITION BY (…) stand once each").into());
        }
    }
}

/// What stands in parentheses after PARTITION BY, as the property of that name says it.
fn partition_by(parser: &mut Parser) -> Parsing<String> {
    parser.expect_token(&Token::LParen)?;
    let (mut text, mut depth) = (String::new(), 1);
    loop {
        let token = parser.next_token().token;
        match &token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Comma | Token::Number(_, false) => {}
            Token::Word(word) => {
                text.push_str(&if word.quote_style.is_none() { fold(&word.value) } else { word.value.clone() });
                continue;
            }
            other => {
                return Err(invalid(format!("{other} has no meaning in PARTITION BY"))
                    .with_hint("as PARTITION BY (day(at), region)")
                    .into());
            }
        }
        if depth == 0 {
            return Ok(text);
        }
        text.push_str(&token.to_string());
    }
}

/// `PRIMARY KEY (a, b)`, if that is what stands here.
fn primary_key(parser: &mut Parser) -> Parsing<Option<Vec<String>>> {
    if !parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
        return Ok(None);
    }
    Ok(Some(parser.parse_parenthesized_column_list(IsOptional::Mandatory, false)?.iter().map(folded).collect()))
}

fn set_key(key: &mut Vec<String>, named: Vec<String>) -> Parsing<()> {
    if !key.is_empty() {
        return Err(invalid("a table has one PRIMARY KEY").with_hint("PRIMARY KEY (a, b) for several columns").into());
    }
    *key = named;
    Ok(())
}

/// `[CONSTRAINT name] CHECK (condition)`, if that is what stands here.
fn check(parser: &mut Parser) -> Parsing<Option<NewCheck>> {
    let name = match parser.parse_keyword(Keyword::CONSTRAINT) {
        true => Some(folded(&parser.parse_identifier()?)),
        false => None,
    };
    if !parser.parse_keyword(Keyword::CHECK) {
        return match name {
            None => Ok(None),
            Some(name) => {
                let what = parser.peek_token();
                Err(Error::not_built(format!("CONSTRAINT {name} {what}")).with_hint("CHECK (condition) is").into())
            }
        };
    }
    parser.expect_token(&Token::LParen)?;
    let condition = parser.parse_expr()?.to_string();
    parser.expect_token(&Token::RParen)?;
    Ok(Some(NewCheck { name, condition }))
}

/// A column, and whether it says that it is the key; its constraints are those of the table.
fn column(parser: &mut Parser, checks: &mut Vec<NewCheck>) -> Parsing<(NewColumn, bool)> {
    if let Token::Word(word) = parser.peek_token().token
        && word.quote_style.is_none()
    {
        match word.keyword {
            Keyword::UNIQUE | Keyword::FOREIGN | Keyword::EXCLUDE => {
                return Err(Error::not_built(format!("{} in CREATE TABLE", word.value.to_uppercase())).into());
            }
            _ => {}
        }
    }
    let name = path(parser)?;
    let column_type = of_column(parse_column_type(parser), &name)?;
    let (mut nullable, mut is_key, mut default) = (None, false, None);
    loop {
        if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
            is_key = true;
        } else if parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
            if nullable.replace(false) == Some(true) {
                return Err(invalid(format!("column {name} is both NULL and NOT NULL")).into());
            }
        } else if parser.parse_keyword(Keyword::NULL) {
            if nullable.replace(true) == Some(false) {
                return Err(invalid(format!("column {name} is both NULL and NOT NULL")).into());
            }
        } else if parser.parse_keyword(Keyword::DEFAULT) {
            if default.replace(literal(parser, &name)?).is_some() {
                return Err(invalid(format!("column {name} has two defaults")).into());
            }
        } else if let Some(check) = check(parser)? {
            checks.push(check);
        } else {
            break;
        }
    }
    if let Token::Word(word) = parser.peek_token().token {
        let what = match word.value.to_ascii_uppercase().as_str() {
            // Where an added column is put.
            "FIRST" | "AFTER" => None,
            word @ ("UNIQUE" | "REFERENCES" | "GENERATED" | "COLLATE" | "COMMENT") => {
                Some(format!("{word} on a column"))
            }
            other => return Err(invalid(format!("{other} has no meaning after column {name}")).into()),
        };
        if let Some(what) = what {
            return Err(Error::not_built(what).into());
        }
    }
    if is_key && nullable == Some(true) {
        return Err(invalid(format!("column {name} is both NULL and PRIMARY KEY")).into());
    }
    let column = NewColumn { name, column_type, nullable: nullable.unwrap_or(true), default: default.flatten() };
    Ok((column, is_key))
}

/// The name of a column, or the path of a field inside one, as `s.a`. No name has a point in it.
fn path(parser: &mut Parser) -> Parsing<String> {
    let mut path = String::new();
    loop {
        let name = folded(&parser.parse_identifier()?);
        if name.contains('.') {
            return Err(Error::new(Code::InvalidName, format!("{name:?} is not the name of a column")).into());
        }
        path.push_str(&name);
        if !parser.consume_token(&Token::Period) {
            return Ok(path);
        }
        path.push('.');
    }
}

/// An error of ours in a column's type names the column.
fn of_column<T>(parsed: Parsing<T>, name: &str) -> Parsing<T> {
    parsed.map_err(|failure| match failure {
        Failure::Ours(error) => error.with_column(name).into(),
        other => other,
    })
}

/// A value as CSV would spell it; none for NULL.
fn literal(parser: &mut Parser, column: &str) -> Parsing<Option<String>> {
    let negative = parser.consume_token(&Token::Minus);
    match parser.next_token().token {
        Token::Number(number, _) if negative => Ok(Some(format!("-{number}"))),
        Token::Number(number, _) => Ok(Some(number)),
        Token::SingleQuotedString(text) if !negative => Ok(Some(text)),
        Token::Word(word) if word.quote_style.is_none() && !negative => match word.keyword {
            Keyword::NULL => Ok(None),
            Keyword::TRUE | Keyword::FALSE => Ok(Some(fold(&word.value))),
            Keyword::DATE | Keyword::TIME | Keyword::TIMESTAMP | Keyword::TIMESTAMPTZ | Keyword::UUID => {
                match parser.next_token().token {
                    Token::SingleQuotedString(text) => Ok(Some(text)),
                    other => Err(invalid(format!("{word} wants a text in single quotes, not {other}"))
                        .with_column(column)
                        .into()),
                }
            }
            _ => Err(Error::not_built("a DEFAULT that is computed").with_column(column).into()),
        },
        other => Err(invalid(format!("{other} is not a default for column {column}"))
            .with_column(column)
            .with_hint("a number, a text in single quotes, true, false or NULL")
            .into()),
    }
}

fn alter(parser: &mut Parser) -> Parsing<Statement> {
    parser.next_token();
    if !parser.parse_keyword(Keyword::TABLE) {
        return Err(Error::not_built(format!("ALTER {}", parser.peek_token())).into());
    }
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let table = table(parser)?;
    if parser.parse_keywords(&[Keyword::VALIDATE, Keyword::CONSTRAINT]) {
        return Ok(Statement::ValidateConstraint { table, if_exists, name: folded(&parser.parse_identifier()?) });
    }
    let (mut alterations, mut not_valid) = (Vec::new(), Vec::new());
    loop {
        alteration(parser, &mut alterations)?;
        if matches!(alterations.last(), Some(Alteration::AddCheck { .. })) {
            not_valid.push(parser.parse_keywords(&[Keyword::NOT, Keyword::VALID]));
        }
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    // If a row breaks it, nothing else of the statement may have been done.
    if not_valid.contains(&false) && (not_valid.contains(&true) || not_valid.len() < alterations.len()) {
        return Err(invalid(
            "constraints that are held against the rows that are there stand alone in their statement",
        )
        .with_hint("one ALTER TABLE for the columns, then one for the constraints; or say NOT VALID of each")
        .into());
    }
    Ok(Statement::AlterTable { table, if_exists, alterations, not_valid: not_valid.contains(&true) })
}

/// Adds what one part of an ALTER TABLE says.
fn alteration(parser: &mut Parser, alterations: &mut Vec<Alteration>) -> Parsing<()> {
    let word = match parser.next_token().token {
        Token::Word(word) => word.value.to_ascii_uppercase(),
        other => return Err(invalid(format!("ALTER TABLE does what? Not {other}")).into()),
    };
    let named = path;
    alterations.push(match word.as_str() {
        "ADD" => {
            let settled = || Failure::from(invalid("a primary key is settled when a table is made"));
            if primary_key(parser)?.is_some() {
                return Err(settled());
            }
            if let Some(NewCheck { name, condition }) = check(parser)? {
                alterations.push(Alteration::AddCheck { name, condition });
                return Ok(());
            }
            let _column = parser.parse_keyword(Keyword::COLUMN);
            let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
            let mut checks = Vec::new();
            let (column, is_key) = column(parser, &mut checks)?;
            if is_key {
                return Err(settled());
            }
            if !checks.is_empty() {
                return Err(invalid(format!("column {} is added without a constraint", column.name))
                    .with_hint("ALTER TABLE … ADD CHECK (…) after that")
                    .into());
            }
            let NewColumn { name, column_type, nullable, default } = column;
            Alteration::Add { name, column_type, nullable, default, place: place(parser)?, if_not_exists }
        }
        "DROP" => {
            if parser.parse_keyword(Keyword::CONSTRAINT) {
                let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
                let name = folded(&parser.parse_identifier()?);
                alterations.push(Alteration::DropCheck { name, if_exists, since: None });
                return Ok(());
            }
            let _column = parser.parse_keyword(Keyword::COLUMN);
            let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
            Alteration::Drop { name: named(parser)?, if_exists }
        }
        "RENAME" => {
            if parser.parse_keyword(Keyword::CONSTRAINT) {
                return Err(Error::not_built("RENAME of a constraint").into());
            }
            let _column = parser.parse_keyword(Keyword::COLUMN);
            if parser.parse_keyword(Keyword::TO) {
                return Err(Error::not_built("RENAME of a table").into());
            }
            let from = named(parser)?;
            parser.expect_keyword(Keyword::TO)?;
            Alteration::Rename { from, to: folded(&parser.parse_identifier()?) }
        }
        "ALTER" => {
            let _column = parser.parse_keyword(Keyword::COLUMN);
            let name = named(parser)?;
            if let Some(place) = place(parser)? {
                Alteration::Move { name, place }
            } else if parser.parse_keywords(&[Keyword::SET, Keyword::DEFAULT]) {
                let default = literal(parser, &name)?;
                Alteration::SetDefault { name, default }
            } else if parser.parse_keywords(&[Keyword::DROP, Keyword::DEFAULT]) {
                Alteration::SetDefault { name, default: None }
            } else if parser.parse_keywords(&[Keyword::DROP, Keyword::NOT, Keyword::NULL]) {
                Alteration::DropNotNull { name }
            } else if parser.parse_keywords(&[Keyword::SET, Keyword::NOT, Keyword::NULL]) {
                return Err(invalid(format!("column {name} cannot become NOT NULL: rows may have no value for it"))
                    .with_column(&name)
                    .into());
            } else if parser.parse_keyword(Keyword::TYPE)
                || parser.parse_keywords(&[Keyword::SET, Keyword::DATA, Keyword::TYPE])
            {
                let column_type = of_column(parse_column_type(parser), &name)?;
                Alteration::SetType { name, column_type }
            } else {
                return Err(invalid(format!("ALTER COLUMN {name} does what?"))
                    .with_hint("TYPE …, DROP NOT NULL, SET DEFAULT …, DROP DEFAULT, FIRST or AFTER …")
                    .into());
            }
        }
        "SET" => {
            let properties = table_properties(parser)?;
            if properties.is_empty() {
                return Err(invalid("SET which properties?").with_hint("SET (lake_freshness = '10s')").into());
            }
            alterations.extend(properties.into_iter().map(|(name, value)| Alteration::SetProperty { name, value }));
            return Ok(());
        }
        other => {
            return Err(invalid(format!("ALTER TABLE … {other} is not a statement here"))
                .with_hint("ADD COLUMN, DROP COLUMN, RENAME COLUMN, ALTER COLUMN, ADD or DROP CONSTRAINT, SET (property = value)")
                .into());
        }
    });
    Ok(())
}

/// Where a column is put, if that is said here.
fn place(parser: &mut Parser) -> Parsing<Option<Place>> {
    if parser.parse_keyword(Keyword::FIRST) {
        return Ok(Some(Place::First));
    }
    if parser.parse_keyword(Keyword::AFTER) {
        return Ok(Some(Place::After(folded(&parser.parse_identifier()?))));
    }
    Ok(None)
}

fn table_properties(parser: &mut Parser) -> Parsing<Vec<(String, String)>> {
    parser.expect_token(&Token::LParen)?;
    let mut properties = Vec::new();
    loop {
        if parser.consume_token(&Token::RParen) {
            return Ok(properties);
        }
        let name = match parser.next_token().token {
            Token::Word(word) if word.quote_style.is_none() => fold(&word.value),
            Token::Word(word) => word.value,
            Token::SingleQuotedString(name) => name,
            other => return Err(invalid(format!("{other} is not the name of a table property")).into()),
        };
        parser.expect_token(&Token::Eq)?;
        let negative = parser.consume_token(&Token::Minus);
        let value = match parser.next_token().token {
            Token::SingleQuotedString(text) if !negative => text,
            Token::Number(number, _) if negative => format!("-{number}"),
            Token::Number(number, _) => number,
            Token::Word(word) if word.quote_style.is_none() && !negative => fold(&word.value),
            Token::Word(word) if !negative => word.value,
            other => {
                let refused = Error::new(Code::InvalidProperty, format!("{other} is not a value for {name}"));
                return Err(refused.with_hint("a number, true, false, or a text in single quotes").into());
            }
        };
        properties.push((name, value));
        if !parser.consume_token(&Token::Comma) {
            parser.expect_token(&Token::RParen)?;
            return Ok(properties);
        }
    }
}

fn drop(parser: &mut Parser) -> Parsing<Statement> {
    parser.next_token();
    let what = match parser.next_token().token {
        Token::Word(word) => word.value.to_ascii_uppercase(),
        other => return Err(invalid(format!("DROP what? Not {other}")).into()),
    };
    match what.as_str() {
        "DATABASE" | "SCHEMA" | "TABLE" => {}
        "VIEW" | "INDEX" | "ROLE" | "USER" | "MATERIALIZED" => {
            return Err(Error::not_built(format!("DROP {what}")).into());
        }
        _ => return Err(invalid(format!("DROP {what} is not a statement here")).into()),
    }
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let dropped = match what.as_str() {
        "TABLE" => {
            let table = table(parser)?;
            Statement::DropTable { table, if_exists, purge: parser.parse_keyword(Keyword::PURGE) }
        }
        _ => Statement::DropDatabase { name: database(parser)?, if_exists },
    };
    if parser.parse_keyword(Keyword::CASCADE) {
        return Err(Error::not_built("CASCADE").into());
    }
    let _as_is = parser.parse_keyword(Keyword::RESTRICT);
    Ok(dropped)
}

/// `UNDROP TABLE name [ID number]`.
fn undrop(parser: &mut Parser) -> Parsing<Statement> {
    parser.next_token();
    parser.expect_keyword(Keyword::TABLE)?;
    let table = table(parser)?;
    let id = match &parser.peek_token().token {
        Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("id") => {
            parser.next_token();
            Some(parser.parse_literal_uint()?)
        }
        _ => None,
    };
    Ok(Statement::UndropTable { table, id })
}

fn show(parser: &mut Parser) -> Parsing<Statement> {
    parser.next_token();
    let what = match parser.next_token().token {
        Token::Word(word) => word.value.to_ascii_uppercase(),
        other => return Err(invalid(format!("SHOW what? Not {other}")).into()),
    };
    match what.as_str() {
        "DATABASES" | "SCHEMAS" => Ok(Statement::ShowDatabases),
        "TABLES" => {
            let named = parser.parse_one_of_keywords(&[Keyword::IN, Keyword::FROM]).is_some();
            Ok(Statement::ShowTables { database: if named { Some(database(parser)?) } else { None } })
        }
        "DROPPED" => match parser.next_token().token {
            Token::Word(word) if word.value.eq_ignore_ascii_case("tables") => Ok(Statement::ShowDroppedTables),
            other => Err(invalid(format!("SHOW DROPPED TABLES, not {other}")).into()),
        },
        "CREATE" => {
            parser.expect_keyword(Keyword::TABLE)?;
            Ok(Statement::ShowCreateTable { table: table(parser)? })
        }
        "COLUMNS" => {
            parser.expect_one_of_keywords(&[Keyword::IN, Keyword::FROM])?;
            Ok(Statement::Describe { table: table(parser)? })
        }
        other => Err(forbidden(format!("SHOW {other} is not shown here")).into()),
    }
}

fn database(parser: &mut Parser) -> Parsing<String> {
    Ok(folded(&parser.parse_identifier()?))
}

fn table(parser: &mut Parser) -> Parsing<NamedTable> {
    let name = parser.parse_object_name(false)?;
    Ok(named_table(&name)?)
}

/// `table` or `database.table`, folded as SQL does.
pub(super) fn named_table(name: &ObjectName) -> Result<NamedTable> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(table)] => Ok(NamedTable { database: None, table: folded(table) }),
        [ObjectNamePart::Identifier(database), ObjectNamePart::Identifier(table)] => {
            Ok(NamedTable { database: Some(folded(database)), table: folded(table) })
        }
        _ => Err(invalid(format!("{name} is not the name of a table")).with_hint("table or database.table")),
    }
}

/// A name as it is meant: what is not quoted is lower case.
pub(crate) fn folded(name: &ast::Ident) -> String {
    if name.quote_style.is_none() { fold(&name.value) } else { name.value.clone() }
}

/// A literal of a parameter.
pub(super) fn parameter(value: &serde_json::Value) -> Result<Value> {
    Ok(match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Boolean(*value),
        serde_json::Value::Number(number) => Value::Number(number.to_string(), false),
        serde_json::Value::String(text) => Value::SingleQuotedString(text.clone()),
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
            return Err(Error::new(Code::InvalidRequest, "params are null, booleans, numbers and strings")
                .with_value(value.to_string()));
        }
    })
}
