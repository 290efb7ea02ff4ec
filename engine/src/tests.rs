//! The engine as its users see it, over a disk that loses what it may.

mod aborts;
mod alter;
mod rot;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_schemas::{Code, ColumnType, Offset, PartitionBucket, Properties, Result, TableName, TableSchema};

use crate::disk::{Disk, MemoryDisk};
use crate::*;

#[derive(Debug, Default)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_micros(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

fn options() -> EngineOptions {
    EngineOptions {
        journal_file_bytes: 16 << 10,
        journal_bytes_max: 64 << 10,
        segment_bytes: 16 << 10,
        memory_bytes_max: 64 << 20,
        patience: Duration::from_millis(100),
        upkeep: false,
        ..EngineOptions::default()
    }
}

fn open(disk: &Arc<MemoryDisk>) -> Result<Arc<Engine>> {
    Engine::open(disk.clone(), Path::new("/data"), options(), Arc::new(TestClock::default()))
}

fn name(table: &str) -> TableName {
    TableName::parse("public", table).unwrap()
}

async fn create(engine: &Engine, table: &str, properties: &[(&str, &str)]) -> Arc<Table> {
    let columns = [("id".to_owned(), ColumnType::Int64, false), ("text".to_owned(), ColumnType::String, false)];
    let schema = TableSchema::new(columns).unwrap();
    let properties = Properties::parse(properties.iter().copied()).unwrap();
    engine.create_table(name(table), schema, &[], properties, true).await.unwrap()
}

fn rows(table: &Table, ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids = Int64Array::from_iter_values(ids);
    let text = StringArray::from_iter(ids.iter().map(|id| id.map(|id| format!("row {id}"))));
    RecordBatch::try_new(table.schema().clone(), vec![Arc::new(ids), Arc::new(text)]).unwrap()
}

/// All hot rows of a bucket, with their offsets checked to be dense.
fn read(table: &Table, bucket: u32) -> Vec<i64> {
    let bucket = PartitionBucket::unpartitioned(bucket);
    let (floor, end) = (table.bucket(bucket).unwrap().trim_floor(), table.ends().end(bucket));
    let mut ids = Vec::new();
    for rows in table.hot_rows(bucket, floor, end).unwrap() {
        for batch in rows.read(None) {
            let batch = batch.unwrap();
            assert_eq!(batch.first, floor.plus(ids.len() as u64));
            assert!(batch.stamps.values().is_sorted());
            ids.extend(batch.batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    ids
}

fn writer(sequence: u64) -> Sender {
    Sender { writer: Some(WriterSequence::new("w", sequence).unwrap()), tag: "tag".to_owned(), ..Sender::default() }
}

#[tokio::test]
async fn acked_rows_are_visible_and_survive() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let table = create(&engine, "t", &[]).await;
    let answer = engine.append(&table, rows(&table, 0..3), Sender::default()).await.unwrap();
    assert_eq!((answer.rows, answer.buckets[0].first_offset, answer.buckets[0].end_offset), (3, Offset(0), Offset(3)));
    engine.append(&table, rows(&table, 3..5), Sender::default()).await.unwrap();
    assert_eq!(read(&table, 0), [0, 1, 2, 3, 4]);
    engine.close();
    assert_eq!(
        engine.append(&table, rows(&table, 5..6), Sender::default()).await.unwrap_err().code(),
        Code::ShuttingDown
    );

    let engine = open(&disk).unwrap();
    let table = engine.table(&name("t")).unwrap();
    assert_eq!(read(&table, 0), [0, 1, 2, 3, 4]);
    engine.close();
}

#[tokio::test]
async fn a_request_sent_twice_is_applied_once_even_over_restarts() {
    let disk = MemoryDisk::new();
    let mut first = Vec::new();
    for restart in 0..3 {
        let engine = open(&disk).unwrap();
        let table = create(&engine, "t", &[("buckets", "3")]).await;
        for sequence in 0..4 {
            let answer = engine.append(&table, rows(&table, [sequence]), writer(sequence as u64)).await.unwrap();
            assert_eq!(answer.duplicate, restart > 0);
            match restart {
                0 => first.push(answer.buckets),
                _ => assert_eq!(answer.buckets, first[sequence as usize], "the answer is the first one's"),
            }
        }
        let gap = engine.append(&table, rows(&table, [9]), writer(7)).await.unwrap_err();
        assert_eq!((gap.code(), gap.expected()), (Code::OutOfOrderSequence, Some(4)));
        let other = engine.append(&table, rows(&table, [9]), writer(2)).await.unwrap_err();
        assert_eq!(other.code(), Code::SequenceReused);
        // A repeat takes no offset: what is new goes on where the last new rows ended.
        engine.append(&table, rows(&table, [100 + restart]), Sender::default()).await.unwrap();
        if restart == 1 {
            engine.seal(&table).await.unwrap();
            engine.checkpoint().await.unwrap();
        }
        engine.close();
    }
}

#[tokio::test]
async fn many_writers_at_once_keep_their_order() {
    let engine = open(&MemoryDisk::new()).unwrap();
    let table = create(&engine, "t", &[("buckets", "4"), ("bucket_key", "text")]).await;
    let writers = (0..8).map(|writer| {
        let (engine, table) = (engine.clone(), table.clone());
        tokio::spawn(async move {
            for request in 0..50 {
                let first = writer * 1_000_000 + request * 10;
                engine.append(&table, rows(&table, first..first + 10), Sender::default()).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let mut all = Vec::new();
    for bucket in 0..4 {
        let ids = read(&table, bucket);
        for writer in 0..8 {
            assert!(ids.iter().filter(|id| **id / 1_000_000 == writer).is_sorted(), "bucket {bucket} writer {writer}");
        }
        all.extend(ids);
    }
    all.sort_unstable();
    let expected: Vec<i64> = (0..8).flat_map(|writer| (0..500).map(move |row| writer * 1_000_000 + row)).collect();
    assert_eq!(all, expected);
    engine.close();
}

#[tokio::test]
async fn names_clash_and_drops_take_rows_along() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let table = create(&engine, "t", &[]).await;
    engine.append(&table, rows(&table, 0..10), Sender::default()).await.unwrap();
    engine.seal(&table).await.unwrap();
    let schema = table.descriptor().schema.clone();
    let clash = engine.create_table(name("T"), schema, &[], Properties::default(), true).await.unwrap_err();
    assert_eq!(clash.code(), Code::TableExists);
    assert_eq!(engine.drop_database("public", false).await.unwrap_err().code(), Code::DatabaseNotEmpty);
    assert!(engine.drop_table(&name("t"), false, false).await.unwrap());
    assert_eq!(
        engine.append(&table, rows(&table, 0..1), Sender::default()).await.unwrap_err().code(),
        Code::TableDropped
    );
    assert_eq!(engine.drop_table(&name("t"), false, false).await.unwrap_err().code(), Code::TableNotFound);
    let again = create(&engine, "t", &[]).await;
    assert_ne!(again.descriptor().id, table.descriptor().id);
    assert_eq!(read(&again, 0), [0; 0]);
    engine.checkpoint().await.unwrap();
    assert!(!disk.list(Path::new("/data/segments")).unwrap().is_empty(), "it can be brought back");
    engine.close();
    let engine = open(&disk).unwrap();
    assert_eq!(read(&engine.table(&name("t")).unwrap(), 0), [0; 0]);
    engine.purge_table(table.descriptor().id).await.unwrap();
    assert!(engine.dropped_tables().is_empty());
    engine.checkpoint().await.unwrap();
    assert!(disk.list(Path::new("/data/segments")).unwrap().is_empty());
    engine.close();
    let engine = open(&disk).unwrap();
    assert_eq!(read(&engine.table(&name("t")).unwrap(), 0), [0; 0]);
    assert!(engine.dropped_tables().is_empty());
    engine.close();
}

#[tokio::test]
async fn memory_is_bounded_and_writers_are_told_to_wait() {
    let options = EngineOptions { memory_bytes_max: 100_000, ..options() };
    let engine = Engine::open(MemoryDisk::new(), Path::new("/data"), options, Arc::new(TestClock::default())).unwrap();
    let table = create(&engine, "t", &[]).await;
    let mut refused = None;
    for request in 0..1000 {
        match engine.append(&table, rows(&table, request * 100..request * 100 + 100), Sender::default()).await {
            Ok(_) => {}
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert_eq!(refused.unwrap().code(), Code::TooBusy);
    assert!(engine.memory_bytes() <= 110_000);
    engine.upkeep().await.unwrap();
    engine.append(&table, rows(&table, 0..100), Sender::default()).await.unwrap();
    engine.close();
}

#[tokio::test]
async fn the_journal_stays_small_however_long_it_runs() {
    let engine = open(&MemoryDisk::new()).unwrap();
    let busy = create(&engine, "busy", &[]).await;
    let idle = create(&engine, "idle", &[]).await;
    engine.append(&idle, rows(&idle, 0..3), Sender::default()).await.unwrap();
    for request in 0..400 {
        engine.append(&busy, rows(&busy, request * 20..request * 20 + 20), Sender::default()).await.unwrap();
        engine.upkeep().await.unwrap();
        assert!(engine.journal_bytes().await.unwrap() < 4 * (64 << 10));
    }
    assert_eq!(read(&idle, 0), [0, 1, 2], "carried rows are the same rows");
    assert_eq!(read(&busy, 0), (0..8000).collect::<Vec<_>>());
    engine.close();
}

/// Random operations and power cuts against a plain list. The list knows what was acked; the request that was under way
/// at a cut may be there or not.
#[test]
fn random_operations_and_power_cuts_lose_nothing() {
    let mut covered = std::collections::BTreeMap::new();
    for seed in 0..60 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(one_history(seed, &mut covered));
    }
    for state in ["append", "seal", "carry", "checkpoint", "upkeep", "trim", "restart", "power cut", "unclear"] {
        assert!(covered.get(state).copied().unwrap_or(0) > 5, "{state} was reached too seldom: {covered:?}");
    }
}

async fn one_history(seed: u64, covered: &mut std::collections::BTreeMap<&'static str, usize>) {
    let random = &mut StdRng::seed_from_u64(seed);
    let mut disk = MemoryDisk::new();
    let mut engine = open(&disk).unwrap();
    let mut table = create(&engine, "t", &[]).await;
    let (mut acked, mut floor, mut next): (Vec<i64>, usize, i64) = (Vec::new(), 0, 0);
    for step in 0..80 {
        let done = match random.random_range(0..20) {
            0..10 => {
                let count = random.random_range(1..60);
                engine.append(&table, rows(&table, next..next + count), Sender::default()).await.unwrap();
                acked.extend(next..next + count);
                next += count;
                "append"
            }
            10 => {
                engine.seal(&table).await.unwrap();
                "seal"
            }
            11 => {
                engine.carry(&table).await.unwrap();
                "carry"
            }
            12 => {
                engine.checkpoint().await.unwrap();
                "checkpoint"
            }
            13 | 14 => {
                engine.upkeep().await.unwrap();
                "upkeep"
            }
            15 => {
                floor = random.random_range(floor..=acked.len().min(floor + 50));
                let bucket = PartitionBucket::unpartitioned(0);
                engine.trim(&table, vec![(bucket, Offset(floor as u64))]).await.unwrap();
                "trim"
            }
            16 => {
                engine.close();
                engine = open(&disk).unwrap();
                "restart"
            }
            _ => {
                let under_way = random.random_bool(0.5).then(|| {
                    let (engine, table) = (engine.clone(), table.clone());
                    let batch = rows(&table, next..next + 5);
                    tokio::spawn(async move { engine.append(&table, batch, Sender::default()).await })
                });
                if under_way.is_some() {
                    tokio::task::yield_now().await;
                    std::thread::sleep(Duration::from_micros(random.random_range(0..200)));
                }
                let left = disk.power_cut(random);
                engine.close();
                disk = left;
                engine = open(&disk).unwrap_or_else(|error| panic!("seed {seed} step {step}: {error}"));
                table = engine.table(&name("t")).unwrap();
                let mut state = "power cut";
                if under_way.is_some() {
                    state = "unclear";
                    let found = table.ends().end(PartitionBucket::unpartitioned(0)).0 as usize;
                    if found > acked.len() {
                        acked.extend(next..next + 5);
                    }
                    next += 5;
                }
                state
            }
        };
        *covered.entry(done).or_default() += 1;
        table = engine.table(&name("t")).unwrap();
        let hot_from = table.bucket(PartitionBucket::unpartitioned(0)).unwrap().trim_floor().0 as usize;
        assert!(hot_from <= floor);
        assert_eq!(read(&table, 0), acked[hot_from..], "seed {seed} step {step} after {done}");
    }
    engine.close();
}

#[tokio::test]
async fn a_tag_is_kept_up_to_its_limit_and_refused_past_it() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let table = create(&engine, "t", &[]).await;
    for (length, fine) in [(0, true), (255, true), (256, false)] {
        let sender = Sender { tag: "x".repeat(length), ..Sender::default() };
        assert_eq!(engine.append(&table, rows(&table, 0..1), sender).await.is_ok(), fine, "{length}");
    }
    engine.close();
    assert_eq!(read(&open(&disk).unwrap().table(&name("t")).unwrap(), 0), [0, 0]);
}

#[tokio::test]
async fn ddl_whose_caller_goes_away_keeps_its_turn() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    for round in 0..50 {
        let schema = TableSchema::new([("id".to_owned(), ColumnType::Int64, false)]).unwrap();
        let cancelled =
            engine.create_table(name(&format!("a{round}")), schema.clone(), &[], Properties::default(), false);
        // Polled once, which hands the edit in, and dropped.
        let _ = tokio::time::timeout(Duration::ZERO, cancelled).await;
        engine.create_table(name(&format!("b{round}")), schema, &[], Properties::default(), false).await.unwrap();
    }
    let ids: std::collections::BTreeSet<_> = engine.tables().iter().map(|table| table.descriptor().id).collect();
    assert_eq!(ids.len(), engine.tables().len());
    assert!(ids.len() > 50, "some of the cancelled statements were carried out");
    let count = ids.len();
    engine.close();
    let engine = open(&disk).unwrap();
    assert_eq!(engine.tables().len(), count);
    engine.close();
}

#[tokio::test]
async fn a_journal_that_ends_before_its_checkpoint_is_refused() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let table = create(&engine, "t", &[]).await;
    engine.append(&table, rows(&table, 0..10), Sender::default()).await.unwrap();
    engine.seal(&table).await.unwrap();
    engine.checkpoint().await.unwrap();
    engine.close();
    let journal = Path::new("/data/journal");
    let newest = disk.list(journal).unwrap().pop().unwrap().name;
    disk.open(&journal.join(newest)).unwrap().set_len(64).unwrap();
    assert_eq!(open(&disk).err().unwrap().code(), Code::Corrupt);
}

/// An idle journal is marked although upkeep asks it how it stands, several times between two marks.
#[tokio::test]
async fn an_idle_journal_is_marked_while_upkeep_runs() {
    let disk = MemoryDisk::new();
    let with_upkeep = EngineOptions { upkeep: true, ..options() };
    let engine = Engine::open(disk.clone(), Path::new("/data"), with_upkeep, Arc::new(TestClock::default())).unwrap();
    let table = create(&engine, "t", &[]).await;
    engine.append(&table, rows(&table, 0..10), Sender::default()).await.unwrap();
    let before = engine.journal_bytes().await.unwrap();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if engine.journal_bytes().await.unwrap() > before {
            return engine.close();
        }
    }
    panic!("no mark within two seconds");
}

#[tokio::test]
async fn an_os_durable_engine_starts_again_after_a_power_cut() {
    for seed in 0..40 {
        let random = &mut StdRng::seed_from_u64(seed);
        let disk = MemoryDisk::new();
        let os = EngineOptions { durability: Durability::Os, ..options() };
        let engine =
            Engine::open(disk.clone(), Path::new("/data"), os.clone(), Arc::new(TestClock::default())).unwrap();
        let table = create(&engine, "t", &[]).await;
        for request in 0..60 {
            engine.append(&table, rows(&table, request * 20..request * 20 + 20), Sender::default()).await.unwrap();
            if random.random_bool(0.1) {
                engine.upkeep().await.unwrap();
            }
            if random.random_bool(0.05) {
                engine.checkpoint().await.unwrap();
            }
        }
        let left = disk.power_cut(random);
        engine.close();
        let again = Engine::open(left, Path::new("/data"), os, Arc::new(TestClock::default()));
        let again = again.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if let Ok(table) = again.table(&name("t")) {
            let ids = read(&table, 0);
            assert_eq!(
                ids,
                (0..ids.len() as i64).collect::<Vec<_>>(),
                "seed {seed}: some rows may go, but only the last"
            );
        }
        again.close();
    }
}
