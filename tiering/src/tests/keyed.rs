//! Tables with a primary key in both tiers, against a map.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;

use arrow::array::{ArrayRef, UInt8Array};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::{Change, ChangeRows};
use thermocline_schemas::ChangeKind;

use super::*;
use crate::lake::Rewrite;
use crate::masks::Picked;

const KEYS: i64 = 80;

pub(super) type State = BTreeMap<i64, String>;

pub(super) async fn keyed(disk: &Arc<MemoryDisk>, warehouse: &Warehouse, properties: &[(&str, &str)]) -> Node {
    keyed_with(disk, warehouse, properties, manual()).await
}

pub(super) async fn keyed_with(
    disk: &Arc<MemoryDisk>,
    warehouse: &Warehouse,
    properties: &[(&str, &str)],
    tiering: TieringOptions,
) -> Node {
    let options = EngineOptions { upkeep: false, segment_bytes: 4 << 10, ..EngineOptions::default() };
    let engine = Engine::open(disk.clone(), Path::new("/data"), options, Arc::new(SystemClock)).unwrap();
    let columns = [("id".to_owned(), ColumnType::Int64, false), ("text".to_owned(), ColumnType::String, false)];
    let schema = TableSchema::new(columns).unwrap();
    let name = TableName::parse("public", "k").unwrap();
    let properties = Properties::parse(properties.iter().copied()).unwrap();
    let table = engine.create_table(name, schema, &["id".to_owned()], properties, true).await.unwrap();
    let tiering = Tiering::open(engine.clone(), warehouse.clone(), tiering).await.unwrap();
    Node { engine, tiering, table }
}

fn batch(table: &Table, rows: &[(i64, String)]) -> RecordBatch {
    let ids = Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id));
    let texts = StringArray::from_iter_values(rows.iter().map(|(_, text)| text));
    RecordBatch::try_new(table.schema().clone(), vec![Arc::new(ids) as ArrayRef, Arc::new(texts)]).unwrap()
}

pub(super) fn rows_of(batch: &RecordBatch) -> Vec<(i64, String)> {
    let ids = batch.column(0).as_primitive::<Int64Type>().values();
    ids.iter().zip(batch.column(1).as_string::<i32>()).map(|(id, text)| (*id, text.unwrap().to_owned())).collect()
}

fn add(state: &mut State, rows: Vec<(i64, String)>) {
    for (id, text) in rows {
        assert!(state.insert(id, text).is_none(), "key {id} is there twice");
    }
}

impl Node {
    pub(super) async fn try_change(&self, request: &[(i64, String, Change)]) -> thermocline_schemas::Result<()> {
        let rows: Vec<_> = request.iter().map(|(id, text, _)| (*id, text.clone())).collect();
        let changes = request.iter().map(|(_, _, change)| *change).collect();
        let rows = ChangeRows::new(self.table.descriptor(), batch(&self.table, &rows), changes)?;
        self.engine.change(&self.table, rows, Sender::default()).await.map(drop)
    }

    async fn change(&self, request: &[(i64, String, Change)]) {
        self.try_change(request).await.unwrap();
    }

    pub(super) async fn put(&self, ids: impl IntoIterator<Item = i64>, text: &str) {
        let request: Vec<_> = ids.into_iter().map(|id| (id, format!("{text} {id}"), Change::Upsert)).collect();
        self.change(&request).await;
    }

    async fn delete(&self, ids: impl IntoIterator<Item = i64>) {
        let request: Vec<_> = ids.into_iter().map(|id| (id, String::new(), Change::Delete)).collect();
        self.change(&request).await;
    }

    pub(super) async fn split(&self) -> ReadSplit {
        self.tiering.read_split(std::slice::from_ref(&self.table)).await.unwrap().remove(0)
    }

    /// Plans what to write anew, and writes it.
    async fn begin_rewrite(&self) -> Option<Rewrite> {
        let table_lake = self.tiering.table_lake(&self.table);
        let lake = table_lake.open(&self.tiering, &self.table).await.unwrap();
        let base = lake.refresh().await.unwrap();
        let plan = eager().compaction.plan(&lake.data_files(&base).await.unwrap(), true);
        // Under way for ever, so that no sweep takes its files before it is committed.
        let commit_id = ManuallyDrop::new(lake.begin()).commit_id;
        let mut rewrite = Rewrite::new(commit_id, base.clone());
        for run in &plan {
            rewrite
                .runs
                .push(lake.write_anew(rewrite.commit_id, &base, run, &lake.arrow_schema(), || Ok(())).await.unwrap());
        }
        (!plan.is_empty()).then_some(rewrite)
    }

    /// Commits it, whatever was committed since. False if its files are gone.
    async fn end_rewrite(&self, rewrite: &Rewrite) -> bool {
        let table_lake = self.tiering.table_lake(&self.table);
        let lake = table_lake.open(&self.tiering, &self.table).await.unwrap();
        self.tiering.commit(&self.table, &table_lake, lake, rewrite).await.unwrap().is_some()
    }

    /// Lets all hot rows go that are in the lake.
    pub(super) async fn trim(&self) {
        let split = self.split().await;
        let floors = self.table.buckets().map(|(bucket, _)| (bucket, split.tiered_end(bucket))).collect();
        self.engine.trim(&self.table, floors).await.unwrap();
    }

    pub(super) async fn try_lookup(&self, ids: std::ops::Range<i64>) -> thermocline_schemas::Result<State> {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
        Ok(rows_of(&self.engine.lookup(&self.table, vec![ids]).await?.rows).into_iter().collect())
    }

    async fn lookup(&self, ids: std::ops::Range<i64>) -> State {
        self.try_lookup(ids).await.unwrap()
    }

    /// The state at the published ends, and the state up to which changes were followed after it.
    async fn followed(&self) -> State {
        let options = FollowOptions { follow: false };
        let followed = self.tiering.follow(&self.table, FollowFrom::Snapshot, options).await.unwrap();
        let mut state = State::new();
        let mut batches = followed.state.unwrap();
        while let Some(rows) = batches.next().await {
            let rows = rows.unwrap();
            assert_eq!((rows.offsets.len(), rows.stamps.len()), (rows.batch.num_rows(), rows.batch.num_rows()));
            add(&mut state, rows_of(&rows.batch));
        }
        state
    }
}

/// The rows of a split's lake.
pub(super) async fn rows_in_lake(split: &ReadSplit, masked: bool) -> thermocline_schemas::Result<Vec<(i64, String)>> {
    let mut found = Vec::new();
    let schema = &split.table.descriptor().schema;
    for cut in split.lake_files(masked).await? {
        let positions = cut.picked.as_ref().map(Picked::positions);
        let lake = &split.lake.as_ref().unwrap().table;
        let mut rows = lake.read_positions(&cut.file, schema, positions.as_ref()).await?;
        let mut count = 0;
        while let Some(rows) = rows.next().await {
            let rows = rows?;
            count += rows.batch.num_rows() as u64;
            found.extend(rows_of(&rows.batch));
        }
        assert_eq!(count, cut.rows(), "{}", cut.file.url);
    }
    Ok(found)
}

async fn in_lake(split: &ReadSplit, masked: bool) -> State {
    let mut state = State::new();
    add(&mut state, rows_in_lake(split, masked).await.unwrap());
    state
}

pub(super) async fn try_state(split: &ReadSplit) -> thermocline_schemas::Result<State> {
    let mut state = State::new();
    add(&mut state, rows_in_lake(split, true).await?);
    for part in &split.hot {
        for rows in &part.rows {
            for batch in rows.read(None) {
                let batch = batch?;
                let living = arrow::compute::filter_record_batch(&batch.batch, &batch.visible(part.to).unwrap());
                add(&mut state, rows_of(&living?));
            }
        }
    }
    Ok(state)
}

async fn state(split: &ReadSplit) -> State {
    try_state(split).await.unwrap()
}

/// Folds every change that is kept over the state before it; each is checked against the row that it changes.
fn fold(split: &ReadSplit, mut state: State) -> State {
    for part in split.changes().unwrap() {
        let mut before = None;
        for rows in &part.rows {
            for batch in rows.read(None) {
                let batch = batch.unwrap();
                let kinds: &UInt8Array = batch.kinds().unwrap();
                for ((id, text), kind) in rows_of(&batch.batch).into_iter().zip(kinds.values()) {
                    match ChangeKind::from_code(*kind).unwrap() {
                        ChangeKind::Insert => assert!(state.insert(id, text).is_none(), "+I of a key that is there"),
                        ChangeKind::UpdateBefore => {
                            assert_eq!(state.get(&id), Some(&text), "-U is the row before");
                            before = Some(id);
                        }
                        ChangeKind::UpdateAfter => {
                            assert_eq!(before.take(), Some(id), "the halves of an update stand side by side");
                            state.insert(id, text);
                        }
                        ChangeKind::Delete => assert_eq!(state.remove(&id), Some(text), "-D is the row before"),
                        ChangeKind::Append => panic!("+A in a table with keys"),
                    }
                }
            }
        }
    }
    state
}

/// Requests, rounds, seals, checkpoints, letting go, restarts, files written anew, at once or over some of all these, and
/// sweeps, in both format versions: whatever is done, the state is that of a map by every way to read it, the lake alone is
/// the state of its last round, and old rows are told right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_read_gives_the_state_of_a_map() {
    let (mut replaced, mut late, mut swept) = (0, 0, 0);
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let (disk, warehouse) = (MemoryDisk::new(), memory());
        let format = ["2", "3"][seed as usize % 2];
        let buckets = ["1", "3"][seed as usize / 2 % 2];
        let properties = [("format_version", format), ("buckets", buckets), ("snapshot_retention", "0s")];
        let mut node = keyed_with(&disk, &warehouse, &properties, eager()).await;
        let (mut map, mut tiered, mut base) = (State::new(), State::new(), State::new());
        let mut rewrite: Option<Rewrite> = None;
        for step in 0..120 {
            let context = format!("seed {seed} step {step}");
            match random.random_range(0..20) {
                0 => node.engine.seal(&node.table).await.unwrap(),
                1 => node.engine.checkpoint().await.unwrap(),
                2 => {
                    node.stop().await;
                    node = keyed_with(&disk, &warehouse, &properties, eager()).await;
                    rewrite = None;
                }
                3 | 4 => {
                    node.tiering.tier(&node.table).await.unwrap();
                    tiered = map.clone();
                }
                5 => {
                    node.trim().await;
                    base = tiered.clone();
                }
                6 => replaced += node.tiering.compact(&node.table).await.unwrap().replaced,
                7 | 8 => match rewrite.take() {
                    None => rewrite = node.begin_rewrite().await,
                    Some(rewrite) => late += u64::from(node.end_rewrite(&rewrite).await),
                },
                9 => swept += node.tiering.sweep_now(&node.table).await.unwrap(),
                _ => {
                    let count = random.random_range(1..20);
                    let one = |random: &mut StdRng| {
                        let (id, text) = (random.random_range(0..KEYS), random.random_range(0..1_000_000));
                        let change = if random.random_bool(0.3) { Change::Delete } else { Change::Upsert };
                        (id, format!("text {text}"), change)
                    };
                    let request: Vec<_> = (0..count).map(|_| one(&mut random)).collect();
                    node.change(&request).await;
                    for (id, text, change) in request {
                        match change {
                            Change::Upsert => map.insert(id, text),
                            Change::Delete => map.remove(&id),
                        };
                    }
                }
            }
            let split = node.split().await;
            assert_eq!(state(&split).await, map, "{context}: both tiers");
            assert_eq!(in_lake(&split, false).await, tiered, "{context}: the lake alone");
            assert_eq!(split.lake_rows(), tiered.len() as u64, "{context}");
            assert_eq!(node.lookup(0..KEYS).await, map, "{context}: looked up");
            assert_eq!(fold(&split, base.clone()), map, "{context}: folded");
            assert_eq!(node.followed().await, map, "{context}: a snapshot follower");
            assert_eq!(node.table.key_figures().unwrap().keys, map.len() as u64, "{context}");
        }
        node.stop().await;
    }
    assert!(replaced > 30 && late > 4 && swept > 60, "{replaced} replaced, {late} late, {swept} swept");
}

/// Rounds, masks, lookups, rewrites and sweeps race with changes; each cut is one state, and no key is ever missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn splits_are_one_cut_while_rounds_rewrites_and_changes_race() {
    for format in ["2", "3"] {
        let properties = [("buckets", "2"), ("format_version", format), ("snapshot_retention", "0s")];
        let options = TieringOptions {
            // Time to read the files of a version that was drawn; what is read then is held.
            grace: Grace { files: Duration::from_millis(500), versions: Duration::from_secs(3600) },
            ..eager()
        };
        let node = Arc::new(keyed_with(&MemoryDisk::new(), &memory(), &properties, options).await);
        node.put(0..50, "round 0").await;
        let writer = tokio::spawn({
            let node = node.clone();
            async move {
                for round in 1..100 {
                    // Every request leaves all keys with one text, so a cut shows one text.
                    node.put(0..50, &format!("round {round}")).await;
                }
            }
        });
        let tierer = tokio::spawn({
            let node = node.clone();
            async move {
                for round in 0..40 {
                    node.tiering.tier(&node.table).await.unwrap();
                    if round % 3 == 2 {
                        node.trim().await;
                    }
                }
            }
        });
        let rewriter = tokio::spawn({
            let node = node.clone();
            async move {
                let (mut rewrites, mut swept) = (0, 0);
                while rewrites < 8 {
                    rewrites += u64::from(node.tiering.compact(&node.table).await.unwrap().replaced > 0);
                    swept += node.tiering.sweep_now(&node.table).await.unwrap();
                    tokio::task::yield_now().await;
                }
                swept
            }
        });
        let mut reads = 0;
        while !writer.is_finished() || !tierer.is_finished() {
            let rows = state(&node.split().await).await;
            let texts: std::collections::BTreeSet<_> =
                rows.iter().map(|(id, text)| text.strip_suffix(&format!(" {id}")).unwrap()).collect();
            assert_eq!((rows.len(), texts.len()), (50, 1), "{texts:?}");
            assert_eq!(node.lookup(0..50).await.len(), 50);
            reads += 1;
        }
        writer.await.unwrap();
        tierer.await.unwrap();
        node.put(0..50, "the last").await;
        while !rewriter.is_finished() {
            // More to be written anew.
            node.put(0..50, "the last").await;
            node.tiering.tier(&node.table).await.unwrap();
        }
        rewriter.await.unwrap();
        let rows = state(&node.split().await).await;
        assert!(rows.len() == 50 && rows.values().all(|text| text.starts_with("the last")), "{reads} reads");
    }
}

/// Whoever changes all rows again and again: what is written anew is committed all the same, and files stay few.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_without_end_starve_no_rewrite() {
    let node = Arc::new(keyed_with(&MemoryDisk::new(), &memory(), &[], eager()).await);
    let mut rounds = 0;
    let mut late = 0;
    while late < 6 {
        node.put(0..30, &format!("round {rounds}")).await;
        node.tiering.tier(&node.table).await.unwrap();
        rounds += 1;
        let Some(rewrite) = node.begin_rewrite().await else { continue };
        // While files are written, rounds go on, and end rows of them.
        for _ in 0..3 {
            node.put(rounds % 30..30, &format!("round {rounds}")).await;
            node.tiering.tier(&node.table).await.unwrap();
            rounds += 1;
        }
        assert!(node.end_rewrite(&rewrite).await, "nothing is thrown away");
        late += 1;
        let split = node.split().await;
        assert_eq!(state(&split).await.len(), 30);
        assert!(split.lake.unwrap().files.len() <= 8, "files stay few");
    }
}

/// A round whose rows cancel out leaves no file, and moves the offsets all the same.
#[tokio::test]
async fn a_round_of_rows_that_come_and_go() {
    let node = keyed(&MemoryDisk::new(), &memory(), &[]).await;
    node.put(0..10, "a").await;
    node.delete(0..10).await;
    let report = node.tiering.tier(&node.table).await.unwrap();
    assert_eq!((report.rows, report.files), (0, 0));
    let split = node.split().await;
    assert_eq!((split.tiered_end(PartitionBucket::unpartitioned(0)), split.lake_rows()), (Offset(20), 0));
    assert_eq!((state(&split).await, node.lookup(0..10).await), (State::new(), State::new()));
}

/// Changes below the first hot offset are nowhere; the answer says what to do.
#[tokio::test]
async fn a_follower_below_the_hot_tier_is_told_the_way_out() {
    let node = keyed(&MemoryDisk::new(), &memory(), &[]).await;
    node.put(0..10, "a").await;
    node.tiering.tier(&node.table).await.unwrap();
    node.trim().await;
    node.put(5..6, "b").await;
    let bucket = PartitionBucket::unpartitioned(0);
    let from = FollowFrom::Offsets([(bucket, Offset(3))].into());
    let refused = node.tiering.follow(&node.table, from, FollowOptions { follow: false }).await.err().unwrap();
    assert_eq!(
        (refused.code(), refused.hint().is_some_and(|hint| hint.contains("from=snapshot"))),
        (Code::OffsetOutOfRetention, true)
    );
    let changes =
        node.tiering.follow(&node.table, FollowFrom::Earliest, FollowOptions { follow: false }).await.unwrap();
    assert_eq!(changes.start, [(bucket, Offset(10))].into());
    let rows: Vec<_> = changes.batches.map(|batch| rows_of(&batch.unwrap().batch)).collect().await;
    let kept = [(5, "a 5".to_owned()), (5, "b 5".to_owned())];
    assert_eq!(rows.concat(), kept);
    // Rows of the lake are as young as that moment; their changes are gone all the same.
    let early = FollowFrom::Timestamp(0);
    let changes = node.tiering.follow(&node.table, early, FollowOptions { follow: false }).await.unwrap();
    let rows: Vec<_> = changes.batches.map(|batch| rows_of(&batch.unwrap().batch)).collect().await;
    assert_eq!(rows.concat(), kept);
}
