//! A short life of two tables, and what must be true of what is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use thermocline_engine::disk::Disk;
use thermocline_engine::{Durability, Engine, EngineOptions, Sender, SystemClock, Table};
use thermocline_schemas::{ColumnType, Error, Offset, PartitionBucket, Properties, Result, TableName, TableSchema};
use thermocline_tiering::{CompactionPolicy, FollowFrom, FollowOptions, Grace, Tiering, TieringOptions, Warehouse};

use crate::disk::TestDisk;

pub const DATA: &str = "/data";
pub const WAREHOUSE: &str = "/warehouse";
/// `hashed` has three buckets and sinks into the lake; `plain` has one and stays hot.
pub const TABLES: [&str; 2] = ["hashed", "plain"];

/// What somebody outside knows at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A table is there.
    Created(usize),
    /// Rows with these ids were sent to a table.
    Sent(usize, i64, i64),
    /// And acked.
    Acked(usize, i64),
    /// And refused.
    Refused(usize, i64),
    /// The rows that were acked by now are in the lake.
    Tiered(i64),
}

/// All that is known: what may and must be found.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    created: BTreeSet<usize>,
    /// By table and first id: the end, and whether it was acked, if that was heard.
    requests: BTreeMap<(usize, i64), (i64, Option<bool>)>,
    tiered: i64,
}

impl Knowledge {
    pub fn add(&mut self, known: Known) {
        match known {
            Known::Created(table) => drop(self.created.insert(table)),
            Known::Sent(table, from, to) => drop(self.requests.insert((table, from), (to, None))),
            Known::Acked(table, from) => self.requests.get_mut(&(table, from)).expect("sent before").1 = Some(true),
            Known::Refused(table, from) => self.requests.get_mut(&(table, from)).expect("sent before").1 = Some(false),
            Known::Tiered(rows) => self.tiered = rows,
        }
    }

    pub fn acked_requests(&self) -> usize {
        self.requests.values().filter(|(_, acked)| *acked == Some(true)).count()
    }

    /// The ids that a table may hold: of each request all or none, of an acked one all.
    fn check(&self, table: usize, found: &BTreeSet<i64>) -> Result<(), String> {
        let mut explained = 0;
        for ((_, from), (to, acked)) in self.requests.range((table, 0)..(table + 1, 0)) {
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
        let table = self.engine.table(&name(table))?;
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(ids.clone())),
            Arc::new(StringArray::from_iter_values(ids.map(text))),
        ];
        let rows = RecordBatch::try_new(table.schema().clone(), columns)?;
        self.engine.append(&table, rows, Sender::default()).await.map(drop)
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

    /// Reads all tables and compares with what is known.
    pub async fn check(&self, known: &Knowledge) -> Result<Result<(), String>> {
        for (table, name) in TABLES.iter().enumerate() {
            let Some(open) = self.table(table) else {
                if known.created.contains(&table) {
                    return Ok(Err(format!("table {name} is lost")));
                }
                continue;
            };
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
            if table == 0 && shown.lake_rows < known.tiered {
                return Ok(Err(format!("{} rows in the lake, {} were tiered", shown.lake_rows, known.tiered)));
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

fn text(id: i64) -> String {
    format!("row {id} {}", "x".repeat((id % 40) as usize))
}

fn name(table: usize) -> TableName {
    TableName::parse("public", TABLES[table]).expect("a good name")
}

/// Lives the life. Goes on after errors, as a server does, and tells the disk what was answered.
pub struct Life {
    disk: TestDisk,
    pub known: Knowledge,
    next: i64,
    pub errors: Vec<Error>,
}

impl Life {
    pub fn new(disk: &TestDisk) -> Life {
        Life { disk: disk.clone(), known: Knowledge::default(), next: 0, errors: Vec::new() }
    }

    fn know(&mut self, known: Known) {
        self.known.add(known);
        self.disk.know(known);
    }

    fn note(&mut self, done: Result<()>) -> bool {
        let fine = done.is_ok();
        self.errors.extend(done.err());
        fine
    }

    pub async fn create(&mut self, node: &Node) {
        for table in 0..TABLES.len() {
            let columns = [("id".to_owned(), ColumnType::Int64, false), ("text".to_owned(), ColumnType::String, false)];
            let schema = TableSchema::new(columns).expect("good columns");
            let properties: &[_] = match table {
                0 => &[("buckets", "3"), ("bucket_key", "id"), ("hot_retention", "0s"), ("snapshot_retention", "0s")],
                _ => &[("lake_enabled", "false")],
            };
            let properties = Properties::parse(properties.iter().copied()).expect("good properties");
            let done = node.engine.create_table(name(table), schema, &[], properties, true).await;
            if self.note(done.map(drop)) {
                self.know(Known::Created(table));
            }
        }
    }

    pub async fn append(&mut self, node: &Node, table: usize, count: i64) -> bool {
        let (from, to) = (self.next, self.next + count);
        self.next = to;
        self.know(Known::Sent(table, from, to));
        let done = node.append(table, from..to).await;
        let fine = self.note(done);
        self.know(if fine { Known::Acked(table, from) } else { Known::Refused(table, from) });
        fine
    }

    pub async fn tier(&mut self, node: &Node) {
        let Some(table) = node.table(0) else { return };
        let rows: i64 = table.ends().ends.values().map(|end| end.0 as i64).sum();
        let done = node.tiering.tier(&table).await;
        if self.note(done.map(drop)) {
            self.know(Known::Tiered(rows));
        }
        let let_go = node.tiering.let_go_now(&table).await;
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

    /// All of it: two starts, a dozen requests, every way in which rows move.
    pub async fn live(&mut self) {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        for start in 0..2 {
            if self.disk.lost() {
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
                    self.tier(&node).await;
                }
            }
            self.compact(&node).await;
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
