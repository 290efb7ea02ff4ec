//! The statements that a history asks of tables with a primary key, and what each must show by the map.

use std::collections::HashSet;

use thermocline_schemas::{ChangeKind, TableDescriptor};

use super::oracle::{self, Change, FIELDS_MAX, KeyOracle, Living, Passing, region};
use crate::compare::same;
use crate::node::Node;
use crate::oracle::{note, ok, passing_column_of, price, small};
use crate::statements::{Expected, Numbers, answer, numbers, query};

/// One shape of statement. Numbers in it are picked anew each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyStatement {
    Everything,
    Count,
    Region,
    IdRange,
    OneKey,
    SeveralKeys,
    Versions,
    Offsets,
    Timestamp,
    Nulls,
    Decimal,
    Groups,
    Limit,
    Newest,
    Lake,
    Hot,
    Changes,
    ChangesOfKey,
    StateAndChanges,
    TwoTables,
    Join,
}

impl KeyStatement {
    pub const ALL: [KeyStatement; 21] = [
        KeyStatement::Everything,
        KeyStatement::Count,
        KeyStatement::Region,
        KeyStatement::IdRange,
        KeyStatement::OneKey,
        KeyStatement::SeveralKeys,
        KeyStatement::Versions,
        KeyStatement::Offsets,
        KeyStatement::Timestamp,
        KeyStatement::Nulls,
        KeyStatement::Decimal,
        KeyStatement::Groups,
        KeyStatement::Limit,
        KeyStatement::Newest,
        KeyStatement::Lake,
        KeyStatement::Hot,
        KeyStatement::Changes,
        KeyStatement::ChangesOfKey,
        KeyStatement::StateAndChanges,
        KeyStatement::TwoTables,
        KeyStatement::Join,
    ];
}

/// A table as statements name it, what it must hold, and the end of its lake part per bucket.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub name: &'a str,
    /// Its newest version.
    pub table: &'a TableDescriptor,
    pub oracle: &'a KeyOracle,
    pub lake: &'a [u64],
}

/// What a place is shown as.
pub const PLACE: &str = "__bucket, __offset, __timestamp, id, version";

/// Asks one statement of `table`, some of `other` too, and compares. `pick` chooses its numbers.
pub async fn ask(
    node: &Node,
    statement: KeyStatement,
    table: Asked<'_>,
    other: Asked<'_>,
    pick: i64,
) -> Result<(), String> {
    if statement == KeyStatement::Everything {
        return everything(node, table).await;
    }
    let (sql, expected) = question(statement, table, other, pick);
    answer(node, &sql, expected).await
}

/// All columns with their contents.
async fn everything(node: &Node, table: Asked<'_>) -> Result<(), String> {
    let sql = format!("SELECT *, __bucket, __offset, __timestamp FROM {}", table.name);
    let mut found = Vec::new();
    for batch in query(node, &sql).await? {
        let contents = oracle::contents(&batch, Passing::of(table.table));
        let contents = contents.map_err(|failure| format!("{sql}: {failure}"))?;
        let columns = batch.num_columns();
        let places = (columns - 3..columns).collect::<Vec<_>>();
        let places = numbers(&[batch.project(&places).map_err(|error| error.to_string())?])?;
        found
            .extend(places.into_iter().zip(contents).map(|(place, (id, version))| [place, vec![id, version]].concat()));
    }
    found.sort_unstable();
    let expected: Vec<_> = table.oracle.living().into_iter().map(Living::numbers).collect();
    same(&sql, &found, &expected)
}

fn question(statement: KeyStatement, table: Asked<'_>, other: Asked<'_>, pick: i64) -> (String, Expected) {
    let (name, oracle) = (table.name, table.oracle);
    let living = oracle.living();
    let rows = |wanted: &dyn Fn(&Living) -> bool, shown: &dyn Fn(&Living) -> Numbers| {
        living.iter().filter(|row| wanted(row)).map(shown).collect::<Vec<_>>()
    };
    let pairs = |wanted: &dyn Fn(&Living) -> bool| rows(wanted, &|row| vec![row.id, row.version]);
    let places = |wanted: &dyn Fn(&Living) -> bool| rows(wanted, &|row| row.numbers());
    let number = pick as usize;
    // A row that is there, if one is; its neighbours in the id may be and may not.
    let middle = living.get(number % living.len().max(1)).copied();
    let (id, version) = middle.map_or((0, 0), |row| (row.id, row.version));
    let id = if pick % 5 == 0 { id + 1 } else { id };
    let by_key = |ids: &[i64]| {
        let ids_list: Vec<_> = ids.iter().map(i64::to_string).collect();
        let ids_text = format!("id IN ({})", ids_list.join(", "));
        let regions: Vec<_> = ids.iter().map(|id| format!("'{}'", region(*id))).collect();
        match oracle.rules.by_region {
            false => ids_text,
            true => format!("region IN ({}) AND {ids_text}", regions.join(", ")),
        }
    };
    match statement {
        KeyStatement::Everything | KeyStatement::Count => {
            let sql = format!("SELECT count(*), count(id), count(note) FROM {name}");
            let notes = living.iter().filter(|row| note(row.version).is_some()).count() as i64;
            (sql, Expected::Rows(vec![vec![living.len() as i64, living.len() as i64, notes]]))
        }
        KeyStatement::Region => {
            let of = region(pick);
            let sql =
                format!("SELECT id, version FROM {name} WHERE region = '{of}' AND version >= {version} ORDER BY id");
            let mut expected = pairs(&|row| region(row.id) == of && row.version >= version);
            expected.sort_unstable();
            (sql, Expected::Ordered(expected))
        }
        KeyStatement::IdRange => {
            let (from, to) = (id - pick % 20, id + 7);
            let sql = format!("SELECT id, version FROM {name} WHERE id >= {from} AND id < {to}");
            (sql, Expected::Rows(pairs(&|row| (from..to).contains(&row.id))))
        }
        KeyStatement::OneKey => {
            let key = match oracle.rules.by_region {
                false => format!("id = {id}"),
                true => format!("{id} = id AND region = '{}'", region(id)),
            };
            // Sometimes with a filter on what is no part of the key.
            let (filter, least) = if pick % 2 == 0 { ("AND version > ", version) } else { ("AND version >= ", 0) };
            let least_found = if pick % 2 == 0 { least + 1 } else { least };
            let sql = format!("SELECT {PLACE} FROM {name} WHERE {key} {filter}{least}");
            (sql, Expected::Rows(places(&|row| row.id == id && row.version >= least_found)))
        }
        KeyStatement::SeveralKeys => {
            let ids = [id, id + 1, id + pick % 9, id - 3, 1_000];
            let sql = format!("SELECT {PLACE} FROM {name} WHERE {}", by_key(&ids));
            (sql, Expected::Rows(places(&|row| ids.contains(&row.id))))
        }
        // Those of rows that were written in this very column, whatever other had its name.
        KeyStatement::Versions if pick % 2 == 0 && passing_column_of(table.table).is_some() => {
            let (column, field) = passing_column_of(table.table).unwrap_or_default();
            let least = version - pick % 100 * FIELDS_MAX;
            let sql = format!("SELECT id, version FROM {name} WHERE {column} >= {least}");
            let own = i64::from(field);
            (sql, Expected::Rows(pairs(&|row| row.version >= least && row.version.rem_euclid(FIELDS_MAX) == own)))
        }
        KeyStatement::Versions => {
            let (from, to) = (version - pick % 100 * FIELDS_MAX, version + pick % 30 * FIELDS_MAX);
            let sql = format!("SELECT id, version FROM {name} WHERE version BETWEEN {from} AND {to}");
            (sql, Expected::Rows(pairs(&|row| (from..=to).contains(&row.version))))
        }
        KeyStatement::Offsets => {
            let bucket = number % oracle.rules.buckets;
            let first = pick as u64 % (oracle.log[bucket].len() as u64 + 1);
            let sql = format!(
                "SELECT {PLACE} FROM {name} WHERE __bucket = {bucket} AND __offset >= {first} AND __offset < {}",
                first + 60
            );
            (sql, Expected::Rows(places(&|row| row.bucket == bucket && (first..first + 60).contains(&row.offset))))
        }
        KeyStatement::Timestamp => {
            let moment = middle.map_or(0, |row| row.stamp) / 1_000_000 * 1_000_000;
            let sql =
                format!("SELECT id, version FROM {name} WHERE __timestamp >= to_timestamp({})", moment / 1_000_000);
            (sql, Expected::Rows(pairs(&|row| row.stamp >= moment)))
        }
        KeyStatement::Nulls => {
            let sql = format!("SELECT id, version FROM {name} WHERE note IS NULL OR (small IS NULL AND ok)");
            let wanted = |row: &Living| {
                note(row.version).is_none() || small(row.version).is_none() && ok(row.version) == Some(true)
            };
            (sql, Expected::Rows(pairs(&wanted)))
        }
        KeyStatement::Decimal => {
            let cents = price(version).unwrap_or(0);
            let (sign, size) = (if cents < 0 { "-" } else { "" }, cents.abs());
            let sql = format!("SELECT id, version FROM {name} WHERE price >= {sign}{}.{:02}", size / 100, size % 100);
            (sql, Expected::Rows(pairs(&|row| price(row.version).is_some_and(|own| own >= cents))))
        }
        KeyStatement::Groups => {
            let sql =
                format!("SELECT __bucket, count(*), min(version), max(version), sum(id) FROM {name} GROUP BY __bucket");
            let mut groups = Vec::new();
            for bucket in 0..oracle.rules.buckets {
                let own = rows(&|row| row.bucket == bucket, &|row| vec![row.version]).concat();
                let ids: i64 = rows(&|row| row.bucket == bucket, &|row| vec![row.id]).concat().iter().sum();
                if let (Some(least), Some(most)) = (own.iter().min(), own.iter().max()) {
                    groups.push(vec![bucket as i64, own.len() as i64, *least, *most, ids]);
                }
            }
            (sql, Expected::Rows(groups))
        }
        KeyStatement::Limit => {
            let limit = number % 50;
            let sql = format!("SELECT id, version FROM {name} WHERE id <> {id} LIMIT {limit}");
            let of: HashSet<_> = pairs(&|row| row.id != id).into_iter().collect();
            (sql, Expected::Some(limit.min(of.len()), of))
        }
        KeyStatement::Newest => {
            let limit = number % 20;
            let (order, least) =
                [("version DESC", 0), ("id", 0), ("__bucket, __offset DESC", 0), ("id DESC", 10)][number / 20 % 4];
            let sql = format!("SELECT {PLACE} FROM {name} WHERE version >= {least} ORDER BY {order} LIMIT {limit}");
            let mut expected = places(&|row| row.version >= least);
            expected.sort_unstable_by_key(|row| match order {
                "version DESC" => (-row[4], 0),
                "id" => (row[3], 0),
                "id DESC" => (-row[3], 0),
                _ => (row[0], -row[1]),
            });
            expected.truncate(limit);
            (sql, Expected::Ordered(expected))
        }
        KeyStatement::Lake => {
            let sql = format!("SELECT {PLACE} FROM \"{name}$lake\"");
            let tiered = oracle.living_at(table.lake).into_iter().map(Living::numbers);
            (sql, Expected::Rows(tiered.collect()))
        }
        KeyStatement::Hot => {
            let sql = format!("SELECT {PLACE} FROM \"{name}$hot\"");
            (sql, Expected::Rows(places(&|row| row.offset >= table.lake[row.bucket])))
        }
        KeyStatement::Changes => {
            let sql = format!(
                "SELECT {} FROM \"{name}$changes\" WHERE version >= {version} ORDER BY __bucket, __offset",
                change_place()
            );
            let wanted = oracle.kept().filter(|(_, _, change)| change.version >= version);
            (sql, Expected::Ordered(wanted.map(change_numbers).collect()))
        }
        KeyStatement::ChangesOfKey => {
            let sql = format!(
                "SELECT {} FROM \"{name}$changes\" WHERE {} ORDER BY __bucket, __offset",
                change_place(),
                by_key(&[id])
            );
            let wanted = oracle.kept().filter(|(_, _, change)| change.id == id);
            (sql, Expected::Ordered(wanted.map(change_numbers).collect()))
        }
        KeyStatement::StateAndChanges => {
            let sql = format!(
                "SELECT t.id, t.version FROM {name} t JOIN \"{name}$changes\" c ON t.id = c.id \
                 AND t.version = c.version WHERE c.__kind IN ('+I', '+U')"
            );
            (sql, Expected::Rows(pairs(&|row| row.offset >= oracle.floors[row.bucket])))
        }
        KeyStatement::TwoTables => {
            let sql = both(name, other.name);
            (sql, Expected::Rows(both_expected([oracle, other.oracle])))
        }
        KeyStatement::Join => {
            let sql = format!(
                "SELECT a.id, a.version FROM {name} a JOIN {} b ON a.id = b.id WHERE a.region = '{}'",
                other.name,
                region(pick)
            );
            let there = |row: &Living| region(row.id) == region(pick) && other.oracle.state().contains_key(&row.id);
            (sql, Expected::Rows(pairs(&there)))
        }
    }
}

/// A change as numbers: bucket, offset, code of its kind, timestamp, id, version.
pub fn change_place() -> String {
    let kinds = ChangeKind::ALL.iter().map(|kind| format!("WHEN '{}' THEN {}", kind.symbol(), kind.code()));
    let kinds = kinds.collect::<Vec<_>>().join(" ");
    format!("__bucket, __offset, CASE __kind {kinds} END, __timestamp, id, version")
}

pub fn change_numbers((bucket, offset, change): (usize, u64, Change)) -> Numbers {
    let Change { kind, id, version, stamp } = change;
    vec![bucket as i64, offset as i64, i64::from(kind.code()), stamp, id, version]
}

/// One statement that shows all of two tables.
pub fn both(one: &str, other: &str) -> String {
    let half = |number, name| format!("SELECT {number}, id, version FROM {name}");
    format!("{} UNION ALL {}", half(0, one), half(1, other))
}

/// What [`both`] must show, in order.
pub fn both_expected(oracles: [&KeyOracle; 2]) -> Vec<Numbers> {
    let rows = oracles
        .iter()
        .enumerate()
        .flat_map(|(number, oracle)| oracle.state().values().map(move |row| vec![number as i64, row.id, row.version]));
    rows.collect()
}
