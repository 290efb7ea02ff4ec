//! Rounds over real HTTP against a bucket that fails: every fault at every request of a round, and two servers' worth of
//! tiering that race under random faults. In the end every row is in the lake, once.
//!
//! `THERMOCLINE_SEED=<seed>` runs one race alone, `THERMOCLINE_ROUNDS=<n>` sets how many rounds each racer tries.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::MemoryDisk;
use thermocline_engine::{Engine, EngineOptions, Sender, SystemClock, Table};
use thermocline_integration_tests::oracle::{self, rows};
use thermocline_integration_tests::s3_double::{Fault, S3Double};
use thermocline_schemas::{ColumnType, Offset, Properties, Result, TableName, TableSchema};
use thermocline_tiering::{LakePart, Tiering, TieringOptions, Warehouse};

const BUCKET: &str = "lake";
/// So long a client waits for an answer that does not come, where one is hung.
pub const IMPATIENT: Duration = Duration::from_millis(300);
/// Longer than any honest answer of the double.
pub const PATIENT: Duration = Duration::from_secs(20);
/// On a busy machine an honest answer may be too late for the impatient.
pub const CLEAN_TRIES: usize = 20;

/// As the server's client, but for its patience.
pub fn warehouse(double: &S3Double, retries: usize, request_timeout: Duration) -> Warehouse {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(1), max_backoff: Duration::from_millis(10), base: 2.0 };
    let retries = RetryConfig { backoff, max_retries: retries, retry_timeout: Duration::from_secs(5) };
    let client = AmazonS3Builder::new()
        .with_endpoint(double.endpoint())
        .with_region("us-east-1")
        .with_access_key_id("key")
        .with_secret_access_key("secret")
        .with_client_options(ClientOptions::new().with_allow_http(true).with_timeout(request_timeout))
        .with_retry(retries);
    Warehouse::s3(&format!("{BUCKET}/of/tests"), client).unwrap()
}

/// An engine with one table, and as many tierings of it as one wants.
struct Hot {
    engine: Arc<Engine>,
    table: Arc<Table>,
    appended: i64,
}

impl Hot {
    async fn start() -> Hot {
        Hot::start_with(oracle::schema(), &[("buckets", "2")]).await
    }

    async fn start_with(schema: TableSchema, properties: &[(&str, &str)]) -> Hot {
        let options = EngineOptions { upkeep: false, ..EngineOptions::default() };
        let engine = Engine::open(MemoryDisk::new(), Path::new("/data"), options, Arc::new(SystemClock)).unwrap();
        let properties = Properties::parse(properties.iter().copied()).unwrap();
        let name = TableName::parse("public", "t").unwrap();
        let table = engine.create_table(name, schema, &[], properties, true).await.unwrap();
        Hot { engine, table, appended: 0 }
    }

    /// To both buckets.
    async fn append(&mut self, rows_each: i64) {
        for _ in 0..2 {
            let ids: Vec<i64> = (self.appended..self.appended + rows_each).collect();
            self.engine.append(&self.table, rows(self.table.schema(), &ids), Sender::default()).await.unwrap();
            self.appended += rows_each;
        }
    }

    async fn tiering(&self, warehouse: Warehouse) -> Arc<Tiering> {
        let options = TieringOptions { scheduler: false, ..TieringOptions::default() };
        Tiering::open(self.engine.clone(), warehouse, options).await.unwrap()
    }

    /// The ids in the lake as another process finds them, in no order.
    async fn ids_in_lake(&self, double: &S3Double) -> Vec<i64> {
        let tiering = self.tiering(warehouse(double, 2, PATIENT)).await;
        let split = tiering.read_split(std::slice::from_ref(&self.table)).await.unwrap().remove(0);
        read(&self.table, &split.lake.expect("rows were tiered")).await.unwrap()
    }

    /// How many are lost, and how many are there more than once.
    async fn lost_and_doubled(&self, double: &S3Double) -> (usize, usize) {
        let mut found = BTreeMap::<i64, usize>::new();
        for id in self.ids_in_lake(double).await {
            *found.entry(id).or_default() += 1;
        }
        let lost = (0..self.appended).filter(|id| !found.contains_key(id)).count();
        (lost, found.values().filter(|count| **count > 1).count())
    }
}

/// Every row of a lake part, checked to be what its id says.
async fn read(table: &Table, lake: &LakePart) -> Result<Vec<i64>> {
    let mut found = Vec::new();
    for file in lake.files.iter() {
        let mut batches = lake.table.read_file(file, &table.descriptor().schema, Offset::ZERO).await?;
        while let Some(batch) = batches.next().await {
            let batch = batch?.batch;
            let ids = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(oracle::ids(&batch).unwrap(), ids);
            found.extend(ids);
        }
    }
    Ok(found)
}

pub fn faults_of(kind: &str) -> &'static [Fault] {
    use Fault::*;
    match kind {
        "create" | "put" => &[
            Status(503),
            Status(429),
            Status(409),
            Status(412),
            StatusAfter(503),
            StatusAfter(409),
            StatusAfter(412),
            Reset,
            ResetAfter,
            Hang,
            HangAfter,
        ],
        "list" => &[Status(503), Reset, Hang, BodyCut, BodySlow, StaleList],
        _ => &[Status(503), Status(429), Reset, Hang, BodyCut, BodySlow],
    }
}

#[derive(Debug, Default)]
struct Tally {
    /// By kind of request.
    faults: BTreeMap<&'static str, usize>,
    unclear_commits: usize,
    failed_rounds: usize,
    rows: i64,
    lost: usize,
    doubled: usize,
}

/// One fault at the n-th request of a round and the read after it, for every n and every fault that it can meet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_fault_at_any_request_of_a_round_loses_nothing_and_doubles_nothing() {
    // Without repeats of the client's own each fault reaches us; with them, repeats of what had its effect do.
    for repeats in [0, 2] {
        let started = Instant::now();
        let mut tally = Tally::default();
        let mut number = 0;
        while faults_at(number, repeats, &mut tally).await {
            number += 1;
        }
        println!("{repeats} repeats below us, {number} requests a round, {:.1?}: {tally:?}", started.elapsed());
        assert_eq!((tally.lost, tally.doubled), (0, 0));
        assert!(tally.unclear_commits >= 5);
        assert!(["create", "put", "get", "get range"].iter().all(|kind| tally.faults.contains_key(kind)), "{tally:?}");
    }
}

/// All faults at one request, each in a round of its own of one table; false when a round has no such request.
async fn faults_at(number: usize, repeats: usize, tally: &mut Tally) -> bool {
    let double = S3Double::start().await;
    let mut hot = Hot::start().await;
    let tiering = hot.tiering(warehouse(&double, repeats, IMPATIENT)).await;
    hot.append(5).await;
    clean_round(&tiering, &hot).await;
    // A first round without a fault shows what is asked there.
    let mut faults: &[Fault] = &[];
    for place in 0.. {
        let fault = if place == 0 { None } else { faults.get(place - 1).copied() };
        if place > 0 && fault.is_none() {
            break;
        }
        hot.append(5).await;
        let (asked, kind) = (AtomicUsize::new(0), Arc::new(Mutex::new(None)));
        let seen = kind.clone();
        double.set_policy(move |request| {
            if asked.fetch_add(1, Ordering::Relaxed) != number {
                return None;
            }
            *hold(&seen) = Some(request.kind());
            fault
        });
        let round = tiering.tier(&hot.table).await;
        read_the_newest(&tiering, &hot).await;
        double.be_well();
        let Some(kind) = *hold(&kind) else { break };
        faults = faults_of(kind);
        clean_round(&tiering, &hot).await;
        tally.failed_rounds += usize::from(round.is_err());
        if let Some(fault) = fault {
            *tally.faults.entry(kind).or_default() += 1;
            let had_effect = matches!(fault, Fault::StatusAfter(_) | Fault::ResetAfter | Fault::HangAfter);
            tally.unclear_commits += usize::from(had_effect && kind == "create");
        }
    }
    let (lost, doubled) = hot.lost_and_doubled(&double).await;
    (tally.lost, tally.doubled, tally.rows) = (tally.lost + lost, tally.doubled + doubled, tally.rows + hot.appended);
    hot.engine.close();
    !faults.is_empty()
}

/// A round that nothing hinders, after which all rows are in the lake.
async fn clean_round(tiering: &Tiering, hot: &Hot) {
    let mut last = None;
    for _ in 0..CLEAN_TRIES {
        let round = tiering.tier(&hot.table).await;
        let split = tiering.read_split(std::slice::from_ref(&hot.table)).await;
        if let (Ok(_), Ok(split)) = (&round, &split) {
            assert_eq!((split[0].lake_rows(), split[0].hot_rows()), (hot.appended as u64, 0), "{round:?}");
            return;
        }
        last = Some((round, split.err()));
    }
    panic!("no round in {CLEAN_TRIES}: {last:?}");
}

/// Reads what the last round may have added: an error, or the whole of it.
async fn read_the_newest(tiering: &Tiering, hot: &Hot) {
    let Ok(split) = tiering.read_split(std::slice::from_ref(&hot.table)).await.map(|mut split| split.remove(0)) else {
        return;
    };
    assert_eq!(split.lake_rows() + split.hot_rows(), hot.appended as u64);
    let Some(lake) = split.lake else { return };
    let newest = lake.files.iter().max_by_key(|file| file.data_sequence).expect("a snapshot has files").clone();
    let rows = read(&hot.table, &LakePart { files: Arc::new(vec![newest.clone()]), ..lake }).await;
    assert!(rows.is_err() || rows.is_ok_and(|rows| rows.len() as u64 == newest.rows));
}

pub fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that goes in parts: a fault at each request of its upload. What a failed upload sent is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_fault_at_any_request_of_an_upload_in_parts_loses_nothing_and_doubles_nothing() {
    let mut random = StdRng::seed_from_u64(1);
    let mut incompressible = || {
        let mut bytes = vec![0; 100_000];
        random.fill(&mut bytes[..]);
        bytes.iter_mut().for_each(|byte| *byte = b'!' + (*byte & 63));
        String::from_utf8(bytes).expect("ASCII")
    };
    let texts = StringArray::from_iter_values((0..120).map(|_| incompressible()));
    let schema = TableSchema::new([("text".to_owned(), ColumnType::String, false)]).unwrap();
    let (mut runs, mut failed, mut left_in_all) = (BTreeMap::<&str, usize>::new(), 0, 0);
    for wanted in ["begin upload", "part", "complete upload"] {
        let mut left = 0;
        let double = S3Double::start().await;
        let hot = Hot::start_with(schema.clone(), &[]).await;
        let tiering = hot.tiering(warehouse(&double, 0, PATIENT)).await;
        let rows = RecordBatch::try_new(hot.table.schema().clone(), vec![Arc::new(texts.clone())]).unwrap();
        let faults = [Fault::Status(503), Fault::StatusAfter(503), Fault::ResetAfter];
        for (round, fault) in faults.into_iter().enumerate() {
            hot.engine.append(&hot.table, rows.clone(), Sender::default()).await.unwrap();
            let mut struck = false;
            double.set_policy(move |request| {
                let here = !struck && request.kind() == wanted;
                struck |= here;
                here.then_some(fault)
            });
            failed += usize::from(tiering.tier(&hot.table).await.is_err());
            // A begin that nobody heard of cannot be taken back by its name.
            let unheard = wanted == "begin upload" && !matches!(fault, Fault::Status(_));
            left += usize::from(unheard);
            assert_eq!(double.open_uploads(), left, "{wanted}, {fault:?}");
            double.be_well();
            tiering.tier(&hot.table).await.unwrap();
            let split = tiering.read_split(std::slice::from_ref(&hot.table)).await.unwrap().remove(0);
            assert_eq!((split.lake_rows(), split.hot_rows()), (120 * (round as u64 + 1), 0), "{wanted}, {fault:?}");
            *runs.entry(wanted).or_default() += 1;
        }
        left_in_all += left;
        hot.engine.close();
    }
    println!(
        "uploads in parts: {runs:?}, {failed} rounds failed and were made good, {left_in_all} begun uploads nobody heard of"
    );
    assert!(failed >= 6);
}

/// Two tierings of one table race for it. Of all requests 10 % are answered 503, 5 % 429, and 10 % are reset, half of
/// these after their effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_tier_one_table_under_random_faults_lose_nothing_and_double_nothing() {
    let variable = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    let rounds = variable("THERMOCLINE_ROUNDS").unwrap_or(40);
    let first = rand::rng().random_range(0..1_000_000);
    for seed in variable("THERMOCLINE_SEED").map_or(first..first + 2, |seed| seed..seed + 1) {
        println!("seed {seed}");
        let started = Instant::now();
        let double = S3Double::start().await;
        let mut hot = Hot::start().await;
        let mut random = StdRng::seed_from_u64(seed);
        let faults = Arc::new(Mutex::new(BTreeMap::<Fault, usize>::new()));
        let count = faults.clone();
        double.set_policy(move |_| {
            let fault = match random.random_range(0..100) {
                0..10 => Fault::Status(503),
                10..15 => Fault::Status(429),
                15..20 => Fault::Reset,
                20..25 => Fault::ResetAfter,
                _ => return None,
            };
            *hold(&count).entry(fault).or_default() += 1;
            Some(fault)
        });
        hot.append(1).await;
        let racers = [2, 3].map(|repeats| warehouse(&double, repeats, PATIENT));
        let mut tierings = Vec::new();
        for racer in racers {
            tierings.push(hot.tiering(racer).await);
        }
        let racers: Vec<_> = tierings
            .into_iter()
            .map(|tiering| {
                let table = hot.table.clone();
                tokio::spawn(async move {
                    let (mut committed, mut failed) = (0, 0);
                    for _ in 0..rounds {
                        match tiering.tier(&table).await {
                            Ok(report) => committed += u64::from(report.rows > 0),
                            Err(_) => failed += 1,
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    (committed, failed)
                })
            })
            .collect();
        while racers.iter().any(|racer| !racer.is_finished()) {
            hot.append(3).await;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let mut outcomes = Vec::new();
        for racer in racers {
            outcomes.push(racer.await.unwrap());
        }
        double.be_well();
        hot.append(3).await;
        hot.tiering(warehouse(&double, 2, PATIENT)).await.tier(&hot.table).await.unwrap();
        let (lost, doubled) = hot.lost_and_doubled(&double).await;
        println!(
            "racers' (rounds that committed, rounds that failed) {outcomes:?}, faults {:?}, {} rows, lost {lost}, \
             doubled {doubled}, {:.1?}",
            hold(&faults),
            hot.appended,
            started.elapsed()
        );
        assert_eq!((lost, doubled), (0, 0), "seed {seed}");
        assert!(outcomes.iter().all(|(committed, _)| *committed > 0), "seed {seed}: {outcomes:?}");
        hot.engine.close();
    }
}
