//! A short life of two tables, and what must be true of what is left of it. [`crate::keys`] has another, of tables with keys.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use thermocline_engine::disk::Disk;
use thermocline_engine::{Durability, Engine, EngineOptions, Sender, SystemClock, Table, Unfinished};
use thermocline_schemas::{ColumnType, Error, Offset, PartitionBucket, Properties, Result, TableName, TableSchema};
use thermocline_tiering::{CompactionPolicy, FollowFrom, FollowOptions, Grace, Tiering, TieringOptions, Warehouse};

use crate::disk::TestDisk;
use crate::keys::{self, BUCKETS_MAX};

pub const DATA: &str = "/data";
pub const WAREHOUSE: &str = "/warehouse";
/// `hashed` has three buckets and sinks into the lake; `plain` has one and stays hot. The others have a key and sink, with
/// deletion vectors and with position deletes.
pub const TABLES: [&str; 4] = ["hashed", "plain", "vectors", "positions"];

/// Of a table that is made with its rows.
const MADE_ROWS: i64 = 12;

/// Which tables live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    Logs,
    Keys,
}

impl Cast {
    pub const ALL: [Cast; 2] = [Cast::Logs, Cast::Keys];

    pub fn tables(self) -> Range<usize> {
        match self {
            Cast::Logs => 0..2,
            Cast::Keys => 2..4,
        }
    }
}

/// What somebody outside knows at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A table is there.
    Created(usize),
    /// Rows with these ids were sent to a table; of one with keys, a request with this number.
    Sent(usize, i64, i64),
    /// And acked; of a table with keys, with these ends in the buckets that were changed.
    Acked(usize, i64, [u64; BUCKETS_MAX]),
    /// And refused.
    Refused(usize, i64),
    /// So many offsets of a table are in the lake.
    Tiered(usize, u64),
    /// A table of the rows from this id on is to be finished, and is.
    Finishing(i64),
    Finished(i64),
}

#[derive(Clone, Copy, Debug)]
struct Request {
    /// The end of its ids.
    to: i64,
    /// If an answer was heard.
    acked: Option<bool>,
    ends: [u64; BUCKETS_MAX],
}

/// All that is known: what may and must be found.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    created: BTreeSet<usize>,
    /// By table and first id.
    requests: BTreeMap<(usize, i64), Request>,
    tiered: BTreeMap<usize, u64>,
    /// Whether a table of the rows from an id on was finished; else it may have been.
    finished: BTreeMap<i64, bool>,
}

impl Knowledge {
    pub fn add(&mut self, known: Known) {
        match known {
            Known::Created(table) => drop(self.created.insert(table)),
            Known::Sent(table, from, to) => {
                self.requests.insert((table, from), Request { to, acked: None, ends: [0; BUCKETS_MAX] });
            }
            Known::Acked(table, from, ends) => {
                let request = self.requests.get_mut(&(table, from)).expect("sent before");
                (request.acked, request.ends) = (Some(true), ends);
            }
            Known::Refused(table, from) => {
                self.requests.get_mut(&(table, from)).expect("sent before").acked = Some(false);
            }
            Known::Tiered(table, offsets) => drop(self.tiered.insert(table, offsets)),
            Known::Finishing(from) => drop(self.finished.insert(from, false)),
            Known::Finished(from) => drop(self.finished.insert(from, true)),
        }
    }

    pub fn acked_requests(&self) -> usize {
        self.requests.values().filter(|request| request.acked == Some(true)).count()
    }

    /// The ids that a table may hold: of each request all or none, of an acked one all.
    fn check(&self, table: usize, found: &BTreeSet<i64>) -> Result<(), String> {
        let mut explained = 0;
        for ((_, from), Request { to, acked, .. }) in self.requests.range((table, 0)..(table + 1, 0)) {
            let there = found.range(from..to).count() as i64;
            if there != 0 && there != to - from {
                return Err(format!("{}: {there} of request {from}..{to}", TABLES[table]));
            }
            if there == 0 && *acked == Some(true) {
                return Err(format!("{}: acked request {from}..{to} is lost", TABLES[table]));
            }
            explained += there;
        }
        if explained != found.len() as i64 {
            return Err(format!("{}: rows that nobody sent", TABLES[table]));
        }
        Ok(())
    }

    /// The same of a table with keys.
    fn check_keys(&self, table: usize, shown: &keys::Shown) -> Result<(), String> {
        let of_table = self.requests.range((table, 0)..(table + 1, 0));
        let ends = |request: &Request| (request.acked == Some(true)).then_some(request.ends);
        let requests: Vec<_> = of_table.map(|((_, from), request)| (*from, ends(request))).collect();
        match shown.explained(&requests) {
            true => Ok(()),
            false => Err(format!("{}: no outcome of {requests:?}: {shown:?}", TABLES[table])),
        }
    }
}

pub struct Node {
    pub engine: Arc<Engine>,
    pub tiering: Arc<Tiering>,
}

impl Node {
    pub async fn start(disk: Arc<dyn Disk>) -> Result<Node> {
        let options = EngineOptions {
            durability: Durability::Fsync,
            journal_file_bytes: 8 << 10,
            journal_bytes_max: 32 << 10,
            segment_bytes: 4 << 10,
            memory_bytes_max: 64 << 20,
            patience: Duration::from_millis(100),
            upkeep: false,
            ..EngineOptions::default()
        };
        let engine = Engine::open(disk.clone(), Path::new(DATA), options, Arc::new(SystemClock))?;
        let opened = async {
            let warehouse = Warehouse::local(disk, Path::new(WAREHOUSE))?;
            // Two files are written anew, and what that replaced goes at once.
            let manual = TieringOptions {
                scheduler: false,
                grace: Grace { files: Duration::ZERO, versions: Duration::from_secs(3600) },
                compaction: CompactionPolicy { files_min: 2, ..CompactionPolicy::default() },
                ..TieringOptions::default()
            };
            Tiering::open(engine.clone(), warehouse, manual).await
        };
        match opened.await {
            Ok(tiering) => Ok(Node { engine, tiering }),
            Err(error) => {
                engine.close();
                Err(error)
            }
        }
    }

    pub fn table(&self, table: usize) -> Option<Arc<Table>> {
        self.engine.table(&name(table)).ok()
    }

    pub async fn stop(self) {
        self.tiering.close().await;
        self.engine.close();
    }

    pub async fn append(&self, table: usize, ids: Range<i64>) -> Result<()> {
        self.append_to(&self.engine.table(&name(table))?, ids).await
    }

    async fn append_to(&self, table: &Arc<Table>, ids: Range<i64>) -> Result<()> {
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(ids.clone())),
            Arc::new(StringArray::from_iter_values(ids.map(text))),
        ];
        let rows = RecordBatch::try_new(table.schema().clone(), columns)?;
        self.engine.append(table, rows, Sender::default()).await.map(drop)
    }

    /// Reads a table in both ways there are. Outer error: it says that it cannot; inner: it lies.
    pub async fn read(&self, table: &Arc<Table>) -> Result<Result<Shown, String>> {
        let split = self.tiering.read_split(std::slice::from_ref(table)).await?.remove(0);
        let mut shown = Shown { lake_rows: split.lake_rows() as i64, ..Shown::default() };
        if let Some(lake) = &split.lake {
            for file in lake.files.iter() {
                let mut rows = lake.table.read_file(file, &table.descriptor().schema, Offset(0)).await?;
                while let Some(rows) = rows.next().await {
                    let rows = rows?;
                    if let Err(wrong) = shown.add(file.bucket, rows.first, &rows.batch) {
                        return Ok(Err(format!("lake: {wrong}")));
                    }
                }
            }
            for (bucket, end) in lake.version.offsets.iter() {
                if shown.end(bucket) != end.0 {
                    return Ok(Err(format!("lake: bucket {bucket} ends at {}, says {end}", shown.end(bucket))));
                }
            }
        }
        for part in &split.hot {
            for rows in &part.rows {
                for batch in rows.read(None) {
                    let batch = batch?;
                    if let Err(wrong) = shown.add(part.bucket, batch.first, &batch.batch) {
                        return Ok(Err(format!("hot: {wrong}")));
                    }
                }
            }
        }
        let mut followed = Shown { lake_rows: shown.lake_rows, ..Shown::default() };
        let mut changes =
            self.tiering.follow(table, FollowFrom::Earliest, FollowOptions { follow: false }).await?.batches;
        while let Some(change) = changes.next().await {
            let change = change?;
            if let Err(wrong) = followed.add(change.bucket, change.first, &change.batch) {
                return Ok(Err(format!("follower: {wrong}")));
            }
        }
        if followed.buckets != shown.buckets {
            return Ok(Err("a follower sees other rows than a read".to_owned()));
        }
        Ok(Ok(shown))
    }

    /// Ten rows of these ids, or the request of that number.
    pub async fn write(&self, table: usize, number: i64) -> Result<()> {
        match Cast::Logs.tables().contains(&table) {
            true => self.append(table, number..number + 10).await,
            false => self.request(table, number).await.map(drop),
        }
    }

    /// All that a table shows, as text.
    pub async fn show(&self, table: &Arc<Table>) -> Result<Result<String, String>> {
        Ok(match table.descriptor().is_keyed() {
            true => self.read_keys(table).await?.map(|shown| format!("{shown:?}")),
            false => self.read(table).await?.map(|shown| format!("{:?}", shown.buckets)),
        })
    }

    /// Tables that were made with their rows: each has them all, or is not there.
    async fn check_finished(&self, known: &Knowledge) -> Result<Result<(), String>> {
        let mut finished = known.finished.clone();
        for table in self.engine.tables() {
            let name = table.descriptor().name.table.to_string();
            let Some(from) = name.strip_prefix("made_").and_then(|from| from.parse::<i64>().ok()) else { continue };
            if finished.remove(&from).is_none() {
                return Ok(Err(format!("{name} is there and was not finished")));
            }
            let shown = match self.read(&table).await? {
                Ok(shown) => shown,
                Err(wrong) => return Ok(Err(format!("{name}: {wrong}"))),
            };
            let mut ids: Vec<_> = shown.buckets.into_values().flatten().collect();
            ids.sort_unstable();
            if !ids.iter().copied().eq(from..from + MADE_ROWS) {
                return Ok(Err(format!("{name} has the rows {ids:?}")));
            }
        }
        match finished.iter().find(|(_, is_known)| **is_known) {
            Some((from, _)) => Ok(Err(format!("made_{from} is lost"))),
            None => Ok(Ok(())),
        }
    }

    /// Reads all tables and compares with what is known.
    pub async fn check(&self, known: &Knowledge) -> Result<Result<(), String>> {
        if let Err(wrong) = self.check_finished(known).await? {
            return Ok(Err(wrong));
        }
        for (table, name) in TABLES.iter().enumerate() {
            let Some(open) = self.table(table) else {
                if known.created.contains(&table) {
                    return Ok(Err(format!("table {name} is lost")));
                }
                continue;
            };
            let tiered = known.tiered.get(&table).copied().unwrap_or_default();
            let behind = |lake: u64| format!("{name}: {lake} offsets in the lake, {tiered} were tiered");
            if open.descriptor().is_keyed() {
                let shown = match self.read_keys(&open).await? {
                    Ok(shown) => shown,
                    Err(wrong) => return Ok(Err(format!("{name}: {wrong}"))),
                };
                if let Err(wrong) = known.check_keys(table, &shown) {
                    return Ok(Err(wrong));
                }
                let lake = shown.lake_ends.iter().sum();
                if lake < tiered {
                    return Ok(Err(behind(lake)));
                }
                continue;
            }
            let shown = match self.read(&open).await? {
                Ok(shown) => shown,
                Err(wrong) => return Ok(Err(format!("{name}: {wrong}"))),
            };
            let ids: BTreeSet<i64> = shown.buckets.values().flatten().copied().collect();
            let count: usize = shown.buckets.values().map(Vec::len).sum();
            if ids.len() != count {
                return Ok(Err(format!("{name}: {} rows are there twice", count - ids.len())));
            }
            if let Err(wrong) = known.check(table, &ids) {
                return Ok(Err(wrong));
            }
            if (shown.lake_rows as u64) < tiered {
                return Ok(Err(behind(shown.lake_rows as u64)));
            }
        }
        Ok(Ok(()))
    }
}

/// The ids of each bucket, in offset order.
#[derive(Debug, Default)]
pub struct Shown {
    pub buckets: BTreeMap<PartitionBucket, Vec<i64>>,
    pub lake_rows: i64,
}

impl Shown {
    fn end(&self, bucket: PartitionBucket) -> u64 {
        self.buckets.get(&bucket).map_or(0, Vec::len) as u64
    }

    fn add(&mut self, bucket: PartitionBucket, first: Offset, batch: &RecordBatch) -> Result<(), String> {
        let end = self.end(bucket);
        if first.0 != end {
            return Err(format!("bucket {bucket} goes from offset {end} to {first}"));
        }
        let ids = batch.column(0).as_primitive::<Int64Type>().values();
        let texts = batch.column(1).as_string::<i32>();
        let own = self.buckets.entry(bucket).or_default();
        for (row, id) in ids.iter().enumerate() {
            if own.last().is_some_and(|last| last >= id) {
                return Err(format!("bucket {bucket}: id {id} is out of order"));
            }
            if texts.value(row) != text(*id) {
                return Err(format!("bucket {bucket}: id {id} has the text {:?}", texts.value(row)));
            }
            own.push(*id);
        }
        Ok(())
    }
}

pub fn text(id: i64) -> String {
    format!("row {id} {}", "x".repeat((id % 40) as usize))
}

pub fn name(table: usize) -> TableName {
    TableName::parse("public", TABLES[table]).expect("a good name")
}

/// Lives the life. Goes on after errors, as a server does, and tells the disk what was answered.
pub struct Life {
    disk: TestDisk,
    cast: Cast,
    pub known: Knowledge,
    next: i64,
    pub errors: Vec<Error>,
}

impl Life {
    pub fn new(disk: &TestDisk, cast: Cast) -> Life {
        Life { disk: disk.clone(), cast, known: Knowledge::default(), next: 0, errors: Vec::new() }
    }

    /// The first of so many numbers that nobody else has.
    pub fn take_numbers(&mut self, count: i64) -> i64 {
        self.next += count;
        self.next - count
    }

    /// Whether the disk shows what it may not have.
    pub fn is_lost(&self) -> bool {
        self.disk.lost()
    }

    pub fn know(&mut self, known: Known) {
        self.known.add(known);
        self.disk.know(known);
    }

    pub fn note(&mut self, done: Result<()>) -> bool {
        let fine = done.is_ok();
        self.errors.extend(done.err());
        fine
    }

    pub async fn create(&mut self, node: &Node) {
        for table in self.cast.tables() {
            let mut columns = vec![("id", ColumnType::Int64), ("text", ColumnType::String)];
            if self.cast == Cast::Keys {
                columns.insert(1, ("version", ColumnType::Int64));
            }
            let columns = columns.into_iter().map(|(name, column_type)| (name.to_owned(), column_type, false));
            let schema = TableSchema::new(columns).expect("good columns");
            let properties: &[_] = match table {
                0 => &[("buckets", "3"), ("bucket_key", "id"), ("hot_retention", "0s"), ("snapshot_retention", "0s")],
                1 => &[("lake_enabled", "false")],
                _ => keys::properties(table),
            };
            let key: &[String] = if self.cast == Cast::Keys { &["id".to_owned()] } else { &[] };
            let properties = Properties::parse(properties.iter().copied()).expect("good properties");
            let done = node.engine.create_table(name(table), schema, key, properties, true).await;
            if self.note(done.map(drop)) {
                self.know(Known::Created(table));
            }
        }
    }

    /// Sends something to a table of either kind.
    pub async fn write(&mut self, node: &Node, table: usize, count: i64) -> bool {
        match self.cast {
            Cast::Logs => self.append(node, table, count).await,
            Cast::Keys => self.request(node, table).await,
        }
    }

    pub async fn append(&mut self, node: &Node, table: usize, count: i64) -> bool {
        let from = self.take_numbers(count);
        let to = from + count;
        self.know(Known::Sent(table, from, to));
        let done = node.append(table, from..to).await;
        let fine = self.note(done);
        self.know(if fine { Known::Acked(table, from, [0; BUCKETS_MAX]) } else { Known::Refused(table, from) });
        fine
    }

    /// Begins a table that is not there before it has its rows, and gives it half of them.
    pub async fn begin(&mut self, node: &Node) -> Option<(i64, Unfinished)> {
        let from = self.take_numbers(MADE_ROWS);
        let name = TableName::parse("public", &format!("made_{from}")).expect("a good name");
        let columns = [("id", ColumnType::Int64), ("text", ColumnType::String)];
        let columns = columns.map(|(name, column_type)| (name.to_owned(), column_type, false));
        let schema = TableSchema::new(columns).expect("good columns");
        let properties = Properties::parse([("buckets", "2")]).expect("good properties");
        let begun = async {
            let made = node.engine.create_unfinished(name, schema, &[], properties).await?;
            node.append_to(made.table(), from..from + MADE_ROWS / 2).await?;
            Ok(made)
        };
        match begun.await {
            Ok(made) => Some((from, made)),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    /// Gives it the other half, and its name.
    async fn finish(&mut self, node: &Node, (from, made): (i64, Unfinished)) {
        let filled = node.append_to(made.table(), from + MADE_ROWS / 2..from + MADE_ROWS).await;
        if !self.note(filled) {
            return;
        }
        self.know(Known::Finishing(from));
        let done = node.engine.finish_table(made).await;
        if self.note(done.map(drop)) {
            self.know(Known::Finished(from));
        }
        let unfinished = node.engine.dropped_tables();
        assert!(unfinished.iter().all(|(table, _)| table.is_dropped()), "a table that nobody finishes does not go");
    }

    pub async fn tier(&mut self, node: &Node, table: usize) {
        let Some(open) = node.table(table) else { return };
        let offsets: u64 = open.ends().ends.values().map(|end| end.0).sum();
        let done = node.tiering.tier(&open).await;
        if self.note(done.map(drop)) {
            self.know(Known::Tiered(table, offsets));
        }
        let let_go = node.tiering.let_go_now(&open).await;
        self.note(let_go);
    }

    /// Writes small files anew, and sweeps.
    pub async fn compact(&mut self, node: &Node) {
        let Some(table) = node.table(0) else { return };
        let compacted = node.tiering.compact(&table).await;
        self.note(compacted.map(drop));
        let swept = node.tiering.sweep_now(&table).await;
        self.note(swept.map(drop));
    }

    /// A life of this cast.
    pub async fn live(&mut self) {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        match self.cast {
            Cast::Logs => self.live_with_logs(disk).await,
            Cast::Keys => self.live_with_keys(disk).await,
        }
    }

    /// All of it: two starts, a dozen requests, every way in which rows move.
    async fn live_with_logs(&mut self, disk: Arc<dyn Disk>) {
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
            let (hashed, plain) = (node.table(0), node.table(1));
            let made = self.begin(&node).await;
            if let Some((_, made)) = &made {
                let done = node.engine.seal(made.table()).await;
                self.note(done);
            }
            // Another is given up, and goes.
            drop(self.begin(&node).await);
            let purged = node.tiering.purge_dropped().await;
            self.note(purged.map(drop));
            for round in 0..3 {
                self.append(&node, 0, 12 + round).await;
                self.append(&node, 1, 5).await;
                if let Some(plain) = &plain {
                    match round {
                        0 => {
                            let done = node.engine.carry(plain).await;
                            self.note(done.map(drop));
                        }
                        1 => {
                            let done = node.engine.seal(plain).await;
                            self.note(done);
                        }
                        _ => {}
                    }
                }
                if round == 1 {
                    let done = node.engine.checkpoint().await;
                    self.note(done);
                    if let (Some(hashed), 0) = (&hashed, start) {
                        let done = node.engine.seal(hashed).await;
                        self.note(done);
                    }
                }
                if round != 0 {
                    self.tier(&node, 0).await;
                }
            }
            self.compact(&node).await;
            if let Some(made) = made {
                self.finish(&node, made).await;
            }
            self.append(&node, 0, 20).await;
            let done = node.engine.upkeep().await;
            self.note(done);
            let done = node.engine.checkpoint().await;
            self.note(done);
            self.append(&node, 0, 3).await;
            node.stop().await;
        }
    }
}
