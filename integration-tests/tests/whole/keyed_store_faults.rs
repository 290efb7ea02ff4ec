//! Rounds of a table with a primary key over real HTTP against a bucket that fails: every fault at every request of a round
//! that deletes rows of older files, and of the reads after it. In the end the lake is the map: no key is lost, none is
//! there twice, none has an older row or one that was deleted.
//!
//! One request in three is tried, others every day; all of them with `THERMOCLINE_FAULTS=all`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use thermocline_engine::disk::MemoryDisk;
use thermocline_engine::{Clock, Engine, EngineOptions, Sender, Table};
use thermocline_integration_tests::clock::HandClock;
use thermocline_integration_tests::keyed::compare::{KeyAudit, key_columns, read_state};
use thermocline_integration_tests::keyed::oracle::{self, KeyOracle, Living, Rules, Wish, request};
use thermocline_integration_tests::s3_double::{Fault, S3Double};
use thermocline_schemas::{Properties, TableName};
use thermocline_tiering::{ReadSplit, Tiering, TieringOptions, Warehouse};

use super::store_faults::{CLEAN_TRIES, IMPATIENT, PATIENT, faults_of, hold, warehouse};

const KEYS: i64 = 24;

/// An engine with one table, and as many tierings of it as one wants.
struct Hot {
    engine: Arc<Engine>,
    clock: Arc<HandClock>,
    table: Arc<Table>,
    oracle: KeyOracle,
}

impl Hot {
    async fn start(format: &str) -> Hot {
        let options = EngineOptions { upkeep: false, ..EngineOptions::default() };
        let clock = HandClock::new();
        let engine = Engine::open(MemoryDisk::new(), Path::new("/data"), options, clock.clone()).unwrap();
        let properties = [("buckets", "2"), ("format_version", format), ("hot_retention", "0s")];
        let properties = Properties::parse(properties).unwrap();
        let name = TableName::parse("public", "t").unwrap();
        let table = engine.create_table(name, oracle::schema(), &["id".to_owned()], properties, true).await.unwrap();
        let rules = Rules { buckets: 2, by_region: false, full: true, deletes: true };
        Hot { engine, clock, table, oracle: KeyOracle::new(rules) }
    }

    /// New rows for half of the keys; a few go.
    async fn change(&mut self, turn: i64) {
        let wishes: Vec<_> = (0..KEYS / 2)
            .map(|at| (turn * 7 + at * 5) % KEYS)
            .map(|id| match (id + turn) % 6 {
                0 => Wish::Delete { id },
                _ => Wish::Upsert { id, version: self.oracle.fresh_version(self.table.descriptor()) },
            })
            .collect();
        self.clock.advance(1_000);
        let rows = request(self.table.descriptor(), self.table.schema(), &wishes).unwrap();
        for _ in 0..CLEAN_TRIES {
            // Old rows come from the lake, maybe too late for the impatient.
            if let Ok(answer) = self.engine.change(&self.table, rows.clone(), Sender::default()).await {
                return self.oracle.acked(&wishes, self.clock.now_micros(), &answer).unwrap();
            }
        }
        panic!("no request in {CLEAN_TRIES}");
    }

    async fn tiering(&self, warehouse: Warehouse) -> Arc<Tiering> {
        let options = TieringOptions { scheduler: false, ..TieringOptions::default() };
        Tiering::open(self.engine.clone(), warehouse, options).await.unwrap()
    }

    async fn split(&self, tiering: &Tiering) -> thermocline_schemas::Result<ReadSplit> {
        Ok(tiering.read_split(std::slice::from_ref(&self.table)).await?.remove(0))
    }

    /// A round that nothing hinders, after which the whole state is in the lake; then it is in the lake alone.
    async fn clean_round(&mut self, tiering: &Tiering) {
        let mut last = None;
        for _ in 0..CLEAN_TRIES {
            let round = tiering.tier(&self.table).await;
            let split = self.split(tiering).await;
            if let (Ok(_), Ok(split)) = (&round, &split) {
                assert_eq!((split.lake_rows(), split.hot_rows()), (self.oracle.state().len() as u64, 0), "{round:?}");
                tiering.let_go_now(&self.table).await.unwrap();
                self.oracle.floors = self.table.buckets().map(|(_, log)| log.trim_floor().0).collect();
                return;
            }
            last = Some((round, split.err()));
        }
        panic!("no round in {CLEAN_TRIES}: {last:?}");
    }

    /// Reads and looks up all rows, where the store may fail: an error, or the map.
    async fn read(&self, tiering: &Tiering) {
        if let Ok(split) = self.split(tiering).await
            && let Ok(state) = read_state(&split).await
        {
            assert_eq!(state, self.oracle.living());
        }
        let ids: Vec<i64> = (0..KEYS).collect();
        if let Ok(found) = self.engine.lookup(&self.table, key_columns(&self.table, &ids)).await {
            let expected: Vec<_> = self.oracle.state().values().map(|row| (row.id, row.version)).collect();
            assert_eq!(oracle::contents(&found.rows, oracle::Passing::Of(0)).unwrap(), expected);
        }
    }

    /// How many keys of the lake, as another process finds it, are lost, there more than once, or not what they should be.
    async fn wrong_in_lake(&self, double: &S3Double) -> (usize, usize, usize) {
        let tiering = self.tiering(warehouse(double, 2, PATIENT)).await;
        let split = self.split(&tiering).await.unwrap();
        KeyAudit::default().split(&split, &self.oracle).await.unwrap();
        let mut found = BTreeMap::<i64, Vec<Living>>::new();
        for row in read_state(&split).await.unwrap() {
            found.entry(row.id).or_default().push(row);
        }
        let state = self.oracle.state();
        let lost = state.keys().filter(|id| !found.contains_key(id)).count();
        let doubled = found.values().filter(|rows| rows.len() > 1).count();
        let stale = found.values().flatten().filter(|row| state.get(&row.id) != Some(row)).count();
        (lost, doubled, stale)
    }
}

#[derive(Debug, Default)]
struct Tally {
    /// By kind of request.
    faults: BTreeMap<&'static str, usize>,
    unclear_commits: usize,
    failed_rounds: usize,
    wrong: (usize, usize, usize),
}

/// One fault at the n-th request of a round and the reads after it, for every n and every fault that it can meet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_fault_at_any_request_of_a_round_with_deletes_leaves_no_wrong_row() {
    let all = std::env::var("THERMOCLINE_FAULTS").is_ok_and(|faults| faults == "all");
    let day = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let (first, each) = if all { (0, 1) } else { (day as usize % 3, 3) };
    // Without repeats of the client's own each fault reaches us; with them, repeats of what had its effect do.
    for (repeats, format) in [(0, "3"), (2, "2")] {
        let started = Instant::now();
        let mut tally = Tally::default();
        let mut number = first;
        while faults_at(number, repeats, format, &mut tally).await {
            number += each;
        }
        let took = started.elapsed();
        println!("format {format}, {repeats} repeats below us, {number} requests a round, {took:.1?}: {tally:?}");
        assert_eq!(tally.wrong, (0, 0, 0));
        assert!(tally.unclear_commits >= 3 || !all);
        assert!(["put", "get", "get range"].iter().all(|kind| tally.faults.contains_key(kind)), "{tally:?}");
    }
}

/// All faults at one request, each in a round of its own of one table; false when a round has no such request.
async fn faults_at(number: usize, repeats: usize, format: &str, tally: &mut Tally) -> bool {
    let double = S3Double::start().await;
    let mut hot = Hot::start(format).await;
    let tiering = hot.tiering(warehouse(&double, repeats, IMPATIENT)).await;
    hot.change(0).await;
    hot.clean_round(&tiering).await;
    // A first round without a fault shows what is asked there.
    let mut faults: &[Fault] = &[];
    for place in 0.. {
        let fault = if place == 0 { None } else { faults.get(place - 1).copied() };
        if place > 0 && fault.is_none() {
            break;
        }
        hot.change(place as i64 + 1).await;
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
        hot.read(&tiering).await;
        double.be_well();
        let Some(kind) = *hold(&kind) else { break };
        faults = faults_of(kind);
        hot.clean_round(&tiering).await;
        tally.failed_rounds += usize::from(round.is_err());
        if let Some(fault) = fault {
            *tally.faults.entry(kind).or_default() += 1;
            let had_effect = matches!(fault, Fault::StatusAfter(_) | Fault::ResetAfter | Fault::HangAfter);
            tally.unclear_commits += usize::from(had_effect && kind == "create");
        }
    }
    let (lost, doubled, stale) = hot.wrong_in_lake(&double).await;
    tally.wrong = (tally.wrong.0 + lost, tally.wrong.1 + doubled, tally.wrong.2 + stale);
    hot.engine.close();
    !faults.is_empty()
}
