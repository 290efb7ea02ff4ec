//! The statements that a history asks, and what each must show by the list.

use std::collections::HashSet;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use futures::StreamExt;
use thermocline_sql::{Answer, SqlRequest};

use crate::compare::same;
use crate::node::Node;
use crate::oracle::{self, Oracle, Row};

/// One shape of statement. Numbers in it are picked anew each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statement {
    Everything,
    Count,
    City,
    IdRange,
    OneId,
    Offsets,
    Timestamp,
    Nulls,
    Decimal,
    Groups,
    Limit,
    Tiers,
    Changes,
    Passing,
    TwoTables,
    Join,
}

impl Statement {
    pub const ALL: [Statement; 16] = [
        Statement::Everything,
        Statement::Count,
        Statement::City,
        Statement::IdRange,
        Statement::OneId,
        Statement::Offsets,
        Statement::Timestamp,
        Statement::Nulls,
        Statement::Decimal,
        Statement::Groups,
        Statement::Limit,
        Statement::Tiers,
        Statement::Changes,
        Statement::Passing,
        Statement::TwoTables,
        Statement::Join,
    ];
}

/// A table as statements name it, what it must hold, and the end of its lake part per bucket.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub name: &'a str,
    pub oracle: &'a Oracle,
    pub lake: &'a [u64],
    /// Its newest passing column, if it has one: name and field id.
    pub passing: Option<(&'a str, u32)>,
}

pub type Numbers = Vec<i64>;

/// What must come back, as numbers.
pub enum Expected {
    /// These rows, in any order.
    Rows(Vec<Numbers>),
    /// These rows in this order.
    Ordered(Vec<Numbers>),
    /// So many different ones of these rows.
    Some(usize, HashSet<Numbers>),
    /// All columns with their contents, then bucket, offset and timestamp.
    Contents(Vec<Numbers>),
}

/// Asks one statement of `table`, some of `other` too, and compares. `pick` chooses its numbers.
pub async fn ask(
    node: &Node,
    statement: Statement,
    table: Asked<'_>,
    other: Asked<'_>,
    pick: i64,
) -> Result<(), String> {
    let (sql, expected) = question(statement, table, other, pick);
    answer(node, &sql, expected).await
}

/// Asks a statement and compares.
pub async fn answer(node: &Node, sql: &str, expected: Expected) -> Result<(), String> {
    let failed = |failure| format!("{sql}: {failure}");
    let batches = query(node, sql).await?;
    match expected {
        Expected::Rows(mut expected) => {
            let mut found = numbers(&batches)?;
            found.sort_unstable();
            expected.sort_unstable();
            same("rows", &found, &expected).map_err(failed)
        }
        Expected::Ordered(expected) => same("rows", &numbers(&batches)?, &expected).map_err(failed),
        Expected::Some(count, of) => {
            let found = numbers(&batches)?;
            let distinct: HashSet<_> = found.iter().cloned().collect();
            if found.len() != count || distinct.len() != count || !distinct.is_subset(&of) {
                return Err(failed(format!("{found:?} are not {count} different rows of the table")));
            }
            Ok(())
        }
        Expected::Contents(mut expected) => {
            let mut found = Vec::new();
            for batch in &batches {
                let last: Vec<_> = (batch.num_columns() - 3..batch.num_columns()).collect();
                let places = numbers(std::slice::from_ref(&batch.project(&last).map_err(|e| e.to_string())?))?;
                let ids = oracle::ids(batch).map_err(failed)?;
                found.extend(places.into_iter().zip(ids).map(|(mut place, id)| {
                    place.push(id);
                    place
                }));
            }
            found.sort_unstable();
            expected.sort_unstable();
            same("rows", &found, &expected).map_err(failed)
        }
    }
}

fn question(statement: Statement, table: Asked<'_>, other: Asked<'_>, pick: i64) -> (String, Expected) {
    let (name, of) = (table.name, other.name);
    let rows = |wanted: &dyn Fn(usize, u64, Row) -> bool, shown: &dyn Fn(usize, u64, Row) -> Numbers| {
        let visible = table.oracle.visible().filter(|(bucket, offset, row)| wanted(*bucket, *offset, *row));
        visible.map(|(bucket, offset, row)| shown(bucket, offset, row)).collect::<Vec<_>>()
    };
    let ids = |wanted: &dyn Fn(i64) -> bool| rows(&|_, _, row| wanted(row.id), &|_, _, row| vec![row.id]);
    let place = |bucket: usize, offset: u64, row: Row| vec![bucket as i64, offset as i64, row.stamp, row.id];
    let all = ids(&|_| true);
    let middle = all.get(pick as usize % all.len().max(1)).map_or(0, |row| row[0]);
    let city = format!("city {}", pick % 17);
    let (from, to) = (middle - pick % 40, middle + 7);
    match statement {
        Statement::Everything => {
            let sql = format!("SELECT *, __bucket, __offset, __timestamp FROM {name}");
            (sql, Expected::Contents(rows(&|_, _, _| true, &place)))
        }
        Statement::Count => {
            let sql = format!("SELECT count(*), count(id), count(note) FROM {name}");
            let notes = all.iter().filter(|row| oracle::note(row[0]).is_some()).count() as i64;
            (sql, Expected::Rows(vec![vec![all.len() as i64, all.len() as i64, notes]]))
        }
        Statement::City => {
            let sql = format!("SELECT id FROM {name} WHERE city = '{city}' AND id >= {from} ORDER BY id");
            let mut expected = ids(&|id| oracle::city(id) == city && id >= from);
            expected.sort_unstable();
            (sql, Expected::Ordered(expected))
        }
        Statement::IdRange => {
            let sql = format!("SELECT id FROM {name} WHERE id >= {from} AND id < {to}");
            (sql, Expected::Rows(ids(&|id| (from..to).contains(&id))))
        }
        Statement::OneId => {
            let sql = format!("SELECT id FROM {name} WHERE id = {middle}");
            (sql, Expected::Rows(ids(&|id| id == middle)))
        }
        Statement::Offsets => {
            let number = pick as usize % table.oracle.buckets.len();
            let first = pick as u64 % (table.oracle.buckets[number].len() as u64 + 1);
            let sql = format!(
                "SELECT __bucket, __offset, __timestamp, id FROM {name} \
                 WHERE __bucket = {number} AND __offset >= {first} AND __offset < {}",
                first + 30
            );
            let wanted = |bucket, offset, _| bucket == number && (first..first + 30).contains(&offset);
            (sql, Expected::Rows(rows(&wanted, &place)))
        }
        Statement::Timestamp => {
            // The moment of some row, so that the bound lies within the table.
            let stamps: Vec<_> = table.oracle.visible().map(|(_, _, row)| row.stamp).collect();
            let moment = stamps.get(pick as usize % stamps.len().max(1)).copied().unwrap_or_default();
            let moment = moment / 1_000_000 * 1_000_000;
            let sql = format!("SELECT id FROM {name} WHERE __timestamp >= to_timestamp({})", moment / 1_000_000);
            (sql, Expected::Rows(rows(&|_, _, row| row.stamp >= moment, &|_, _, row| vec![row.id])))
        }
        Statement::Nulls => {
            let sql = format!("SELECT id FROM {name} WHERE note IS NULL OR (small IS NULL AND ok)");
            let wanted = |id| oracle::note(id).is_none() || oracle::small(id).is_none() && oracle::ok(id) == Some(true);
            (sql, Expected::Rows(ids(&wanted)))
        }
        Statement::Decimal => {
            let cents = oracle::price(middle).unwrap_or(0);
            let (sign, size) = (if cents < 0 { "-" } else { "" }, cents.abs());
            let price = format!("{sign}{}.{:02}", size / 100, size % 100);
            let sql = format!("SELECT id FROM {name} WHERE price >= {price} AND ratio < 0");
            let wanted = |id| oracle::price(id).is_some_and(|own| own >= cents) && oracle::ratio(id) < 0.0;
            (sql, Expected::Rows(ids(&wanted)))
        }
        Statement::Groups => {
            let sql = format!("SELECT __bucket, count(*), min(id), max(id), sum(id) FROM {name} GROUP BY __bucket");
            let mut groups = Vec::new();
            for number in 0..table.oracle.buckets.len() {
                let own = rows(&|bucket, _, _| bucket == number, &|_, _, row| vec![row.id]).concat();
                if let (Some(least), Some(most)) = (own.iter().min(), own.iter().max()) {
                    groups.push(vec![number as i64, own.len() as i64, *least, *most, own.iter().sum()]);
                }
            }
            (sql, Expected::Rows(groups))
        }
        Statement::Limit => {
            let limit = pick as usize % 50;
            let sql = format!("SELECT id FROM {name} WHERE id <> {middle} LIMIT {limit}");
            let of: HashSet<_> = ids(&|id| id != middle).into_iter().collect();
            (sql, Expected::Some(limit.min(of.len()), of))
        }
        Statement::Tiers => {
            let half = |tier, view| format!("SELECT {tier}, __bucket, __offset, id FROM \"{name}${view}\"");
            let sql = format!("{} UNION ALL {}", half(0, "lake"), half(1, "hot"));
            let tiered = |bucket: usize, offset: u64| i64::from(offset >= table.lake[bucket]);
            let shown = |bucket, offset, row: Row| vec![tiered(bucket, offset), bucket as i64, offset as i64, row.id];
            (sql, Expected::Rows(rows(&|_, _, _| true, &shown)))
        }
        Statement::Changes => {
            let sql = format!(
                "SELECT __bucket, __offset, __timestamp, id FROM \"{name}$changes\" WHERE id >= {from} \
                 ORDER BY __bucket, __offset"
            );
            (sql, Expected::Ordered(rows(&|_, _, row| row.id >= from, &place)))
        }
        Statement::Passing => {
            let Some((column, field)) = table.passing else {
                return question(Statement::Changes, table, other, pick);
            };
            let sql = format!("SELECT id, coalesce({column}, 0) FROM {name} WHERE {column} IS NULL OR id >= {from}");
            let value = |row: Row| if row.field == field { oracle::passing(row.id, field) } else { 0 };
            let wanted = |_, _, row: Row| value(row) == 0 || row.id >= from;
            (sql, Expected::Rows(rows(&wanted, &|_, _, row| vec![row.id, value(row)])))
        }
        Statement::TwoTables => {
            let sql = both(name, of);
            (sql, Expected::Rows(both_expected(table.oracle, other.oracle)))
        }
        Statement::Join => {
            let sql = format!("SELECT a.id FROM {name} a JOIN {of} b ON a.id = b.id WHERE a.city = '{city}'");
            let others: HashSet<_> = other.oracle.visible().map(|(_, _, row)| row.id).collect();
            (sql, Expected::Rows(ids(&|id| oracle::city(id) == city && others.contains(&id))))
        }
    }
}

/// One statement that shows all of two tables.
pub fn both(one: &str, other: &str) -> String {
    let half = |number, name| format!("SELECT {number}, __bucket, __offset, id FROM {name}");
    format!("{} UNION ALL {}", half(0, one), half(1, other))
}

fn both_expected(one: &Oracle, other: &Oracle) -> Vec<Numbers> {
    let half = |number, oracle: &Oracle| {
        let shown = |(bucket, offset, row): (usize, u64, Row)| vec![number, bucket as i64, offset as i64, row.id];
        oracle.visible().map(shown).collect::<Vec<_>>()
    };
    [half(0, one), half(1, other)].concat()
}

/// Starts a query.
pub async fn open(node: &Node, sql: &str) -> Result<Answer, String> {
    node.sql.execute(sql, SqlRequest::default()).await.map_err(|error| format!("{sql}: {error:?}"))
}

pub async fn query(node: &Node, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let batches: Vec<_> = open(node, sql).await?.batches.collect().await;
    batches.into_iter().collect::<Result<_, _>>().map_err(|error| format!("{sql}: {error:?}"))
}

/// The rows of batches whose columns are all numbers, or times.
pub fn numbers(batches: &[RecordBatch]) -> Result<Vec<Numbers>, String> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| arrow::compute::cast(column, &DataType::Int64));
        let columns: Vec<_> = columns.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let row = |row| columns.iter().map(|column| column.as_primitive::<Int64Type>().value(row)).collect();
        rows.extend((0..batch.num_rows()).map(row));
    }
    Ok(rows)
}
