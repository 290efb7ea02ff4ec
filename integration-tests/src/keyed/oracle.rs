//! The map: which row each key has, and the changes that led there, per bucket, in order.
//!
//! A key is known by its `id`. Each upsert sends a version that no other has, and all columns that are not part of the key
//! follow from it; so a row that comes back with the contents of another version is seen, and an old row says which
//! upsert had made it. A version says also in which passing column, one that came and may go, it was written. The changes are derived here by the words of the documentation, one wish at a time and with none
//! of the product's code. Requests whose outcome is not known are kept as such, until a read shows which it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int16Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Decimal128Type, Int16Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use thermocline_engine::{self as engine, Answer, ChangeRows};
use thermocline_schemas::{
    ChangeKind, ColumnType, Result as Answered, TableDescriptor, TableSchema, bucket_of_hash, hash_column,
};

use crate::oracle::{COLUMNS, at, note, ok, passing_column_of, price, small};

/// Passing columns have field ids below this. It is odd, so that what follows from versions varies within one.
pub const FIELDS_MAX: i64 = 61;

/// The field id of the passing column in which a version was written; 0 without one.
fn field_of(version: i64) -> i64 {
    version.rem_euclid(FIELDS_MAX)
}

/// How many regions the keys of composite keys are spread over.
const REGIONS: i64 = 7;

/// The columns of every test table with a key.
pub fn schema() -> TableSchema {
    let columns = [
        ("id", ColumnType::Int64, false),
        ("region", ColumnType::String, false),
        ("version", ColumnType::Int64, false),
        ("note", ColumnType::String, true),
        ("small", ColumnType::Int16, true),
        ("price", ColumnType::Decimal { precision: 12, scale: 2 }, true),
        ("at", ColumnType::TimestampTz, true),
        ("ok", ColumnType::Boolean, true),
    ];
    let columns = columns.map(|(name, column_type, nullable)| (name.to_owned(), column_type, nullable));
    TableSchema::new(columns).expect("the test table is well formed")
}

/// A key's region, which never changes.
pub fn region(id: i64) -> String {
    format!("region {}", id % REGIONS)
}

/// What is wanted of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Upsert { id: i64, version: i64 },
    Delete { id: i64 },
}

impl Wish {
    pub fn id(self) -> i64 {
        match self {
            Wish::Upsert { id, .. } | Wish::Delete { id } => id,
        }
    }
}

/// Rows of these ids and versions, in a table's columns.
fn rows(table: &TableDescriptor, schema: &SchemaRef, rows: &[(i64, i64)]) -> RecordBatch {
    let ids = || rows.iter().map(|(id, _)| *id);
    let versions = || rows.iter().map(|(_, version)| *version);
    let price = Decimal128Array::from_iter(versions().map(price)).with_precision_and_scale(12, 2);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids())),
        Arc::new(StringArray::from_iter_values(ids().map(region))),
        Arc::new(Int64Array::from_iter_values(versions())),
        Arc::new(StringArray::from_iter(versions().map(note))),
        Arc::new(Int16Array::from_iter(versions().map(small))),
        Arc::new(price.expect("twelve digits hold it")),
        Arc::new(TimestampMicrosecondArray::from_iter(versions().map(at)).with_timezone("UTC")),
        Arc::new(BooleanArray::from_iter(versions().map(ok))),
    ];
    if let Some((_, field)) = passing_column_of(table) {
        let own = versions().map(|version| Some(version).filter(|version| field_of(*version) == i64::from(field)));
        columns.push(Arc::new(Int64Array::from_iter(own)));
    }
    RecordBatch::try_new(schema.clone(), columns).expect("columns fit the schema")
}

/// Living rows as another server would write them.
pub fn living_rows(table: &TableDescriptor, schema: &SchemaRef, living: &[Living]) -> RecordBatch {
    rows(table, schema, &living.iter().map(|row| (row.id, row.version)).collect::<Vec<_>>())
}

/// A request as the engine takes it. What stands beside the key in a delete must not matter, so it is anything.
pub fn request(table: &TableDescriptor, schema: &SchemaRef, wishes: &[Wish]) -> Answered<ChangeRows> {
    let values = wishes.iter().map(|wish| match wish {
        Wish::Upsert { id, version } => (*id, *version),
        Wish::Delete { id } => (*id, -1),
    });
    let changes = wishes.iter().map(|wish| match wish {
        Wish::Upsert { .. } => engine::Change::Upsert,
        Wish::Delete { .. } => engine::Change::Delete,
    });
    ChangeRows::new(table, rows(table, schema, &values.collect::<Vec<_>>()), changes.collect())
}

/// The passing column of rows that are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Its field id, 0 where there is none: it has the values that were written in it, and no others.
    Of(u32),
    /// Which one it is, if there is one, is not known: it is one for all rows that are shown together.
    Any,
}

impl Passing {
    /// That of a table's version.
    pub fn of(table: &TableDescriptor) -> Passing {
        Passing::Of(passing_column_of(table).map_or(0, |(_, field)| field))
    }

    /// What is wrong with a batch's.
    fn check(self, batch: &RecordBatch, versions: &[i64]) -> Result<(), String> {
        let named = batch.schema().fields().get(COLUMNS).is_some_and(|field| !field.name().starts_with("__"));
        let values = named.then(|| batch.column(COLUMNS).as_primitive::<Int64Type>());
        let Some(values) = values else {
            return match self {
                Passing::Of(field) if field > 0 => Err("the passing column is not shown".to_owned()),
                _ => Ok(()),
            };
        };
        let field = match self {
            Passing::Of(field) => i64::from(field),
            // Where no row has a value, it is none in which one of them was written.
            Passing::Any => match (0..versions.len()).find(|row| !values.is_null(*row)) {
                Some(row) => field_of(versions[row]),
                None => return Ok(()),
            },
        };
        for (row, version) in versions.iter().enumerate() {
            let shown = (!values.is_null(row)).then(|| values.value(row));
            if shown != Some(*version).filter(|_| field > 0 && field_of(*version) == field) {
                return Err(format!("version {version} shows {shown:?} in the passing column {self:?}"));
            }
        }
        Ok(())
    }
}

/// The ids and versions of a batch whose first columns are the table's; says which row has other contents than these
/// stand for.
pub fn contents(batch: &RecordBatch, passing: Passing) -> Result<Vec<(i64, i64)>, String> {
    let ids = batch.column(0).as_primitive::<Int64Type>().values();
    let versions = batch.column(2).as_primitive::<Int64Type>().values();
    let mut found = Vec::with_capacity(ids.len());
    for (row, (id, version)) in ids.iter().zip(versions).enumerate() {
        let text = |column: usize| batch.column(column).as_string_opt::<i32>().map(|array| array.value(row));
        let null = |column: usize| batch.column(column).is_null(row);
        let same = text(1) == Some(&region(*id))
            && null(3) == note(*version).is_none()
            && (null(3) || text(3) == note(*version).as_deref())
            && null(4) == small(*version).is_none()
            && (null(4) || Some(batch.column(4).as_primitive::<Int16Type>().value(row)) == small(*version))
            && null(5) == price(*version).is_none()
            && (null(5) || Some(batch.column(5).as_primitive::<Decimal128Type>().value(row)) == price(*version))
            && null(6) == at(*version).is_none()
            && (null(6) || Some(batch.column(6).as_primitive::<TimestampMicrosecondType>().value(row)) == at(*version))
            && null(7) == ok(*version).is_none()
            && (null(7) || Some(batch.column(7).as_boolean().value(row)) == ok(*version));
        if !same {
            return Err(format!("key {id} has version {version} and other contents: {:?}", batch.slice(row, 1)));
        }
        found.push((*id, *version));
    }
    passing.check(batch, versions)?;
    Ok(found)
}

/// A row of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    pub id: i64,
    pub version: i64,
    /// When it was accepted, in microseconds since 1970.
    pub stamp: i64,
}

/// A row of the state, and the place where it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Living {
    pub bucket: usize,
    pub offset: u64,
    pub id: i64,
    pub version: i64,
    pub stamp: i64,
}

impl Living {
    /// As statements show it: bucket, offset, timestamp, id, version.
    pub fn numbers(self) -> Vec<i64> {
        vec![self.bucket as i64, self.offset as i64, self.stamp, self.id, self.version]
    }
}

/// What a table does with requests.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub buckets: usize,
    /// Rows go to buckets by their region, else by their id.
    pub by_region: bool,
    /// `-U` and `+I` are told, not `+U` alone.
    pub full: bool,
    /// Deletes are done, else they are skipped.
    pub deletes: bool,
}

/// A request whose outcome is not known: applied whole, or not at all.
#[derive(Clone, Debug)]
struct Unclear {
    wishes: Vec<Wish>,
    stamp: i64,
    numbered: bool,
}

/// What a table must hold.
#[derive(Clone, Debug)]
pub struct KeyOracle {
    pub rules: Rules,
    /// Per bucket, all changes that ever were, from offset 0.
    pub log: Vec<Vec<Change>>,
    /// Per bucket, the first offset of which the change is kept.
    pub floors: Vec<u64>,
    /// The ends after each request: the cuts at which a reader can find the table.
    pub cuts: Vec<Vec<u64>>,
    state: BTreeMap<i64, Living>,
    next_version: i64,
    unclear: Vec<Unclear>,
}

impl KeyOracle {
    pub fn new(rules: Rules) -> KeyOracle {
        KeyOracle {
            rules,
            log: vec![Vec::new(); rules.buckets],
            floors: vec![0; rules.buckets],
            cuts: vec![vec![0; rules.buckets]],
            state: BTreeMap::new(),
            next_version: 0,
            unclear: Vec::new(),
        }
    }

    /// A version that nobody has sent, for a row in these columns.
    pub fn fresh_version(&mut self, table: &TableDescriptor) -> i64 {
        self.next_version += 1;
        (self.next_version - 1) * FIELDS_MAX + passing_column_of(table).map_or(0, |(_, field)| i64::from(field))
    }

    /// The end of each bucket.
    pub fn ends(&self) -> Vec<u64> {
        self.log.iter().map(|changes| changes.len() as u64).collect()
    }

    pub fn bucket_of(&self, id: i64) -> usize {
        let column: ArrayRef = match self.rules.by_region {
            true => Arc::new(StringArray::from_iter_values([region(id)])),
            false => Arc::new(Int64Array::from_iter_values([id])),
        };
        let hash = hash_column(&column).expect("ids and texts can be hashed")[0];
        bucket_of_hash(hash, self.rules.buckets as u32) as usize
    }

    /// Each key that has a row, and the row.
    pub fn state(&self) -> &BTreeMap<i64, Living> {
        &self.state
    }

    /// The rows that live now, by place.
    pub fn living(&self) -> Vec<Living> {
        by_place(self.state.values().copied())
    }

    /// The rows that lived at these ends, by place.
    pub fn living_at(&self, ends: &[u64]) -> Vec<Living> {
        let mut state = BTreeMap::new();
        for (bucket, (changes, end)) in self.log.iter().zip(ends).enumerate() {
            for (offset, change) in changes[..*end as usize].iter().enumerate() {
                let Change { kind, id, version, stamp } = *change;
                match kind {
                    ChangeKind::Insert | ChangeKind::UpdateAfter => {
                        state.insert(id, Living { bucket, offset: offset as u64, id, version, stamp });
                    }
                    ChangeKind::Delete => drop(state.remove(&id)),
                    ChangeKind::UpdateBefore | ChangeKind::Append => {}
                }
            }
        }
        by_place(state.into_values())
    }

    /// All changes that are kept: bucket, offset, change.
    pub fn kept(&self) -> impl Iterator<Item = (usize, u64, Change)> + '_ {
        self.log.iter().zip(&self.floors).enumerate().flat_map(|(bucket, (changes, floor))| {
            let kept = changes.iter().enumerate().skip(*floor as usize);
            kept.map(move |(offset, change)| (bucket, offset as u64, *change))
        })
    }

    /// A statement did what was wanted.
    pub fn done(&mut self, wishes: &[Wish], stamp: i64) {
        self.apply(wishes, stamp);
    }

    /// Does what is wanted, one wish after the other.
    fn apply(&mut self, wishes: &[Wish], stamp: i64) {
        for wish in wishes {
            let (bucket, before) = (self.bucket_of(wish.id()), self.state.get(&wish.id()).copied());
            let log = &mut self.log[bucket];
            let mut tell = |kind, id, version| log.push(Change { kind, id, version, stamp });
            match *wish {
                Wish::Upsert { id, version } => {
                    match before {
                        None if self.rules.full => tell(ChangeKind::Insert, id, version),
                        Some(before) if self.rules.full => {
                            tell(ChangeKind::UpdateBefore, id, before.version);
                            tell(ChangeKind::UpdateAfter, id, version);
                        }
                        _ => tell(ChangeKind::UpdateAfter, id, version),
                    }
                    let offset = self.log[bucket].len() as u64 - 1;
                    self.state.insert(id, Living { bucket, offset, id, version, stamp });
                }
                Wish::Delete { id } if self.rules.deletes => {
                    if let Some(before) = self.state.remove(&id) {
                        tell(ChangeKind::Delete, id, before.version);
                    }
                }
                Wish::Delete { .. } => {}
            }
        }
        self.cuts.push(self.ends());
    }

    /// A request was answered: what it did stands at the ends of its buckets, as the answer says.
    pub fn acked(&mut self, wishes: &[Wish], stamp: i64, answer: &Answer) -> Result<(), String> {
        let before = self.ends();
        self.apply(wishes, stamp);
        let grown = before.iter().zip(self.ends()).enumerate().filter(|(_, (before, after))| *before < after);
        let expected: Vec<_> = grown.map(|(bucket, (before, after))| (bucket as u32, *before, after)).collect();
        let ranges = answer.buckets.iter();
        let found: Vec<_> = ranges.map(|range| (range.bucket.0, range.first_offset.0, range.end_offset.0)).collect();
        let deletes = wishes.iter().filter(|wish| matches!(wish, Wish::Delete { .. })).count();
        let ignored = if self.rules.deletes { 0 } else { deletes };
        let counts = (wishes.len() - ignored, ignored);
        if found != expected || (answer.rows as usize, answer.ignored as usize) != counts {
            return Err(format!("{wishes:?} was to take {expected:?} and count {counts:?}: {answer:?}"));
        }
        Ok(())
    }

    /// Two requests that were under way at one moment were answered; the answers say in which order they came.
    pub fn both_acked(&mut self, requests: [(&[Wish], &Answer); 2], stamp: i64) -> Result<(), String> {
        let mut failures = Vec::new();
        for [first, second] in [requests, [requests[1], requests[0]]] {
            let mut tried = self.clone();
            let done = tried.acked(first.0, stamp, first.1).and_then(|()| tried.acked(second.0, stamp, second.1));
            match done {
                Ok(()) => {
                    *self = tried;
                    return Ok(());
                }
                Err(failure) => failures.push(failure),
            }
        }
        Err(format!("in neither order: {failures:?}"))
    }

    pub fn unclear(&mut self, wishes: Vec<Wish>, stamp: i64, numbered: bool) {
        self.unclear.push(Unclear { wishes, stamp, numbered });
    }

    pub fn has_unclear(&self) -> bool {
        !self.unclear.is_empty()
    }

    /// Decides unclear requests by the changes that were found behind the known ends: some of them, whole, in some order,
    /// and nothing else. Answers of each, as it had been noted, whether it was applied and whether it was numbered; none where
    /// it cannot be told, for a request that changes nothing leaves nothing to be found.
    pub fn settle(&mut self, found: &[Vec<Change>]) -> Result<Vec<(Option<bool>, bool)>, String> {
        let unclear = std::mem::take(&mut self.unclear);
        let mut fitting: Option<(KeyOracle, Vec<Option<bool>>)> = None;
        for order in orders(unclear.len()) {
            let mut tried = self.clone();
            for place in &order {
                tried.apply(&unclear[*place].wishes, unclear[*place].stamp);
            }
            let fits =
                tried.log.iter().zip(self.ends()).zip(found).all(|((log, end), found)| log[end as usize..] == **found);
            if !fits {
                continue;
            }
            let applied: Vec<_> = (0..unclear.len()).map(|place| Some(order.contains(&place))).collect();
            fitting = Some(match fitting {
                None => (tried, applied),
                Some((first, told)) => {
                    let agreed = told.into_iter().zip(applied).map(|(one, other)| one.filter(|_| one == other));
                    (first, agreed.collect())
                }
            });
        }
        let (settled, applied) = fitting.ok_or_else(|| format!("{found:?} is no outcome of {unclear:?}"))?;
        *self = settled;
        Ok(applied.into_iter().zip(unclear.iter().map(|request| request.numbered)).collect())
    }
}

fn by_place(rows: impl Iterator<Item = Living>) -> Vec<Living> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable();
    rows
}

/// Some of `count` things, in some order: every way.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    let mut longest = vec![Vec::new()];
    for _ in 0..count {
        let more = |order: &Vec<usize>| {
            let left: Vec<usize> = (0..count).filter(|place| !order.contains(place)).collect();
            left.into_iter().map(|place| [order.as_slice(), &[place]].concat()).collect::<Vec<_>>()
        };
        longest = longest.iter().flat_map(more).collect();
        all.extend(longest.iter().cloned());
    }
    all
}
