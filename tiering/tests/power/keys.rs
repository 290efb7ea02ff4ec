//! The same for tables with a primary key: a short life of two of them, in which index snapshots are written, rounds
//! delete rows of older files, and changes need rows that were let go; and what must be true of what is left of it.
//!
//! A request's rows follow from its number. What is left must be what some of the requests make of a map, one after the
//! other: all that were acked, at the offsets of their answers, and of the others each whole or not at all. The state as both
//! tiers make it, lookups, a follower's snapshot, the lake alone at its own end, and the changes that are kept all say so.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::Int64Type;
use futures::{StreamExt, TryStreamExt};
use thermocline_engine::disk::Disk;
use thermocline_engine::{Change, ChangeRows, Sender, Table};
use thermocline_schemas::{ChangeKind, Result, bucket_of_hash, hash_column};
use thermocline_tiering::{FollowFrom, FollowOptions, Picked};

use crate::scenario::{Known, Life, Node, text};

/// Few, so that requests meet.
const KEYS: i64 = 24;
const WISHES: i64 = 9;
/// Of the tables with keys.
pub const BUCKETS_MAX: usize = 2;

/// The properties of a table.
pub fn properties(table: usize) -> &'static [(&'static str, &'static str)] {
    match table {
        2 => &[("buckets", "2"), ("hot_retention", "0s")],
        _ => &[("format_version", "2"), ("hot_retention", "0s")],
    }
}

/// What a request wants: of each key a version, or that it goes.
fn wishes(request: i64) -> impl Iterator<Item = (i64, Option<i64>)> {
    (0..WISHES).map(move |at| {
        let id = (request * 5 + at * at * 3 + at) % KEYS;
        (id, ((request + at) % 4 != 3).then_some(request * WISHES + at))
    })
}

type Row = (ChangeKind, i64, i64);

/// The map and its changes.
#[derive(Clone, Debug)]
struct Model {
    log: Vec<Vec<Row>>,
    state: BTreeMap<i64, i64>,
}

impl Model {
    fn apply(&mut self, request: i64) {
        for (id, version) in wishes(request) {
            let column: ArrayRef = Arc::new(Int64Array::from(vec![id]));
            let hash = hash_column(&column).expect("numbers can be hashed")[0];
            let log_count = self.log.len() as u32;
            let log = &mut self.log[bucket_of_hash(hash, log_count) as usize];
            match (self.state.get(&id).copied(), version) {
                (None, Some(new)) => log.push((ChangeKind::Insert, id, new)),
                (Some(old), Some(new)) => {
                    log.extend([(ChangeKind::UpdateBefore, id, old), (ChangeKind::UpdateAfter, id, new)]);
                }
                (Some(old), None) => log.push((ChangeKind::Delete, id, old)),
                (None, None) => {}
            }
            match version {
                Some(version) => self.state.insert(id, version),
                None => self.state.remove(&id),
            };
        }
    }

    /// The state at these ends.
    fn state_at(&self, ends: &[u64]) -> BTreeMap<i64, i64> {
        let mut state = BTreeMap::new();
        for (kind, id, version) in self.log.iter().zip(ends).flat_map(|(log, end)| &log[..*end as usize]) {
            match kind {
                ChangeKind::Delete => drop(state.remove(id)),
                _ => drop(state.insert(*id, *version)),
            }
        }
        state
    }

    /// Whether what it knows so far is what is shown.
    fn begins(&self, shown: &Shown) -> bool {
        let same = |(own, (floor, changes)): (&Vec<Row>, &(u64, Vec<Row>))| {
            let kept = own.get(*floor as usize..).unwrap_or_default();
            own.len() as u64 <= floor + changes.len() as u64 && changes.starts_with(kept)
        };
        self.log.iter().zip(&shown.changes).all(same)
    }

    fn is(&self, shown: &Shown) -> bool {
        let ends: Vec<_> = self.log.iter().map(|log| log.len() as u64).collect();
        ends == shown.ends()
            && self.begins(shown)
            && self.state == shown.state
            && self.state_at(&shown.lake_ends) == shown.lake
    }
}

/// All that can be read of a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Per bucket: from where on changes are kept, and these.
    changes: Vec<(u64, Vec<Row>)>,
    state: BTreeMap<i64, i64>,
    pub lake_ends: Vec<u64>,
    lake: BTreeMap<i64, i64>,
}

impl Shown {
    fn ends(&self) -> Vec<u64> {
        self.changes.iter().map(|(floor, changes)| floor + changes.len() as u64).collect()
    }

    /// Whether some of these requests, in this order, led here: the request's number, and, if it was acked, the ends that it
    /// was told.
    pub fn explained(&self, requests: &[(i64, Option<[u64; BUCKETS_MAX]>)]) -> bool {
        let model = Model { log: vec![Vec::new(); self.changes.len()], state: BTreeMap::new() };
        leads_to(model, requests, self)
    }
}

fn leads_to(model: Model, requests: &[(i64, Option<[u64; BUCKETS_MAX]>)], shown: &Shown) -> bool {
    let Some(((request, acked), others)) = requests.split_first() else { return model.is(shown) };
    let mut applied = model.clone();
    applied.apply(*request);
    let placed =
        acked.is_none_or(|ends| applied.log.iter().zip(ends).all(|(log, end)| end == 0 || log.len() as u64 == end));
    let with = placed && applied.begins(shown) && leads_to(applied, others, shown);
    with || acked.is_none() && leads_to(model, others, shown)
}

/// Adds rows that are there once.
fn add(state: &mut BTreeMap<i64, i64>, batch: &RecordBatch) -> Result<(), String> {
    for (id, version) in rows(batch)? {
        if state.insert(id, version).is_some() {
            return Err(format!("key {id} has two rows"));
        }
    }
    Ok(())
}

/// Ids and versions, with the text that each version has.
fn rows(batch: &RecordBatch) -> Result<Vec<(i64, i64)>, String> {
    let numbers = |column: usize| batch.column(column).as_primitive::<Int64Type>().values();
    let texts = batch.column(2).as_string::<i32>();
    let wrong = (0..batch.num_rows()).find(|row| texts.value(*row) != text(numbers(1)[*row]));
    match wrong {
        Some(row) => Err(format!("version {} has the text {:?}", numbers(1)[row], texts.value(row))),
        None => Ok(numbers(0).iter().copied().zip(numbers(1).iter().copied()).collect()),
    }
}

impl Node {
    /// Sends a request; answers the end in each bucket that it changed.
    pub async fn request(&self, table: usize, request: i64) -> Result<[u64; BUCKETS_MAX]> {
        let table = self.engine.table(&crate::scenario::name(table))?;
        let wishes: Vec<_> = wishes(request).collect();
        let versions = wishes.iter().map(|(_, version)| version.unwrap_or_default());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(wishes.iter().map(|(id, _)| *id))),
            Arc::new(Int64Array::from_iter_values(versions.clone())),
            Arc::new(StringArray::from_iter_values(versions.map(text))),
        ];
        let change = |version: &Option<i64>| if version.is_some() { Change::Upsert } else { Change::Delete };
        let changes = wishes.iter().map(|(_, version)| change(version)).collect();
        let rows =
            ChangeRows::new(table.descriptor(), RecordBatch::try_new(table.schema().clone(), columns)?, changes)?;
        let answer = self.engine.change(&table, rows, Sender::default()).await?;
        let mut ends = [0; BUCKETS_MAX];
        for range in answer.buckets {
            ends[range.bucket.0 as usize] = range.end_offset.0;
        }
        Ok(ends)
    }

    /// Reads a table in all ways there are. Outer error: it says that it cannot; inner: it lies.
    pub async fn read_keys(&self, table: &Arc<Table>) -> Result<Result<Shown, String>> {
        let split = self.tiering.read_split(std::slice::from_ref(table)).await?.remove(0);
        let mut shown = Shown::default();
        let schema = &table.descriptor().schema;
        for (bucket, log) in table.buckets() {
            let mut changes = Vec::new();
            let from = log.trim_floor();
            let parts = split.changes()?;
            for rows in parts.iter().filter(|part| part.bucket == bucket).flat_map(|part| &part.rows) {
                for batch in rows.read(None) {
                    let batch = batch?;
                    let found = match self::rows(&batch.batch) {
                        Ok(found) => found,
                        Err(wrong) => return Ok(Err(format!("changes: {wrong}"))),
                    };
                    if batch.first != from.plus(changes.len() as u64) {
                        return Ok(Err(format!("bucket {bucket} goes on at {}", batch.first)));
                    }
                    changes.extend(
                        found.into_iter().zip(kinds(batch.kinds())).map(|((id, version), kind)| (kind, id, version)),
                    );
                }
            }
            shown.changes.push((from.0, changes));
            shown.lake_ends.push(split.tiered_end(bucket).0);
        }
        for (masked, state) in [(false, &mut shown.lake), (true, &mut shown.state)] {
            for cut in split.lake_files(masked).await? {
                let positions = cut.picked.as_ref().map(Picked::positions);
                let lake = &split.lake.as_ref().expect("files are of a lake").table;
                let rows: Vec<_> =
                    lake.read_positions(&cut.file, schema, positions.as_ref()).await?.try_collect().await?;
                for rows in rows {
                    if let Err(wrong) = add(state, &rows.batch) {
                        return Ok(Err(format!("lake: {wrong}")));
                    }
                }
            }
        }
        for part in &split.hot {
            for batch in part.rows.iter().flat_map(|rows| rows.read(None).collect::<Vec<_>>()) {
                let batch = batch?;
                let living = batch.visible(part.to).expect("rows with keys know what ended them");
                let living = arrow::compute::filter_record_batch(&batch.batch, &living)?;
                if let Err(wrong) = add(&mut shown.state, &living) {
                    return Ok(Err(format!("hot: {wrong}")));
                }
            }
        }
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..KEYS));
        let mut looked_up = BTreeMap::new();
        if let Err(wrong) = add(&mut looked_up, &self.engine.lookup(table, vec![ids]).await?.rows) {
            return Ok(Err(format!("lookups: {wrong}")));
        }
        let followed = self.tiering.follow(table, FollowFrom::Snapshot, FollowOptions { follow: false }).await?;
        let mut state = followed.state.expect("a snapshot has a state");
        let mut followed = BTreeMap::new();
        while let Some(rows) = state.next().await {
            if let Err(wrong) = add(&mut followed, &rows?.batch) {
                return Ok(Err(format!("follower: {wrong}")));
            }
        }
        if looked_up != shown.state || followed != shown.state {
            let state = &shown.state;
            return Ok(Err(format!("read {state:?}, looked up {looked_up:?}, followed {followed:?}")));
        }
        Ok(Ok(shown))
    }
}

fn kinds(codes: Option<&UInt8Array>) -> Vec<ChangeKind> {
    let codes = codes.expect("changes have kinds").values();
    codes.iter().map(|code| ChangeKind::from_code(*code).expect("a kind of change")).collect()
}

impl Life {
    pub async fn request(&mut self, node: &Node, table: usize) -> bool {
        let request = self.take_numbers(1);
        self.know(Known::Sent(table, request, request + 1));
        let done = node.request(table, request).await;
        let ends = done.as_ref().ok().copied();
        let fine = self.note(done.map(drop));
        self.know(match ends {
            Some(ends) => Known::Acked(table, request, ends),
            None => Known::Refused(table, request),
        });
        fine
    }

    /// All of it: two starts, two dozen requests, every way in which rows move, and each table with and without hot rows.
    pub(crate) async fn live_with_keys(&mut self, disk: Arc<dyn Disk>) {
        for start in 0..2 {
            if self.is_lost() {
                // A process that starts where a sync failed is shown what the disk may not have; see the caller.
                return;
            }
            let node = match Node::start(disk.clone()).await {
                Ok(node) => node,
                Err(error) => {
                    self.errors.push(error);
                    continue;
                }
            };
            self.create(&node).await;
            for round in 0..3 {
                for table in 2..4 {
                    self.request(&node, table).await;
                    let Some(open) = node.table(table) else { continue };
                    let done = match (round, start) {
                        (0, 0) => node.engine.carry(&open).await.map(drop),
                        (1, _) => node.engine.seal(&open).await,
                        _ => Ok(()),
                    };
                    self.note(done);
                    if round != 0 {
                        self.tier(&node, table).await;
                    }
                }
                if round == 1 {
                    let done = node.engine.checkpoint().await;
                    self.note(done);
                }
            }
            // One of them goes on with rows of the lake alone.
            self.request(&node, 2).await;
            self.request(&node, 2).await;
            let done = node.engine.upkeep().await;
            self.note(done);
            let done = node.engine.checkpoint().await;
            self.note(done);
            self.request(&node, 2).await;
            node.stop().await;
        }
    }
}

#[test]
fn what_is_shown_must_be_explained() {
    let mut model = Model { log: vec![Vec::new(); 2], state: BTreeMap::new() };
    let ends = |model: &Model| [model.log[0].len() as u64, model.log[1].len() as u64];
    let mut requests = Vec::new();
    for request in 0..6 {
        if request != 2 {
            model.apply(request);
        }
        requests.push((request, (request % 2 == 1).then(|| ends(&model))));
    }
    let floors = [3, 0];
    let changes = floors.iter().zip(&model.log).map(|(floor, log)| (*floor, log[*floor as usize..].to_vec()));
    let lake_ends = ends(&model).to_vec();
    let shown =
        Shown { changes: changes.collect(), state: model.state.clone(), lake: model.state_at(&lake_ends), lake_ends };
    assert!(shown.explained(&requests));
    requests[2].1 = Some([0; 2]);
    assert!(!shown.explained(&requests), "the acked request that was left out");
    requests[2].1 = None;
    for (id, _) in wishes(5) {
        let mut state = shown.state.clone();
        match state.remove(&id) {
            Some(version) => state.insert(id, version - 1),
            None => state.insert(id, 1),
        };
        let changed = Shown {
            state,
            changes: shown.changes.clone(),
            lake: shown.lake.clone(),
            lake_ends: shown.lake_ends.clone(),
        };
        assert!(!changed.explained(&requests), "key {id} has another version");
    }
}
