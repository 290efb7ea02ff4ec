//! Every fault at every call that a table with a primary key makes of the store, one at a time: rounds that delete rows of
//! older files, reads and lookups of rows in the lake alone, requests that need old rows from there, a restart.
//!
//! After the fault the same steps are taken again without one, and the lake is held against a map: no key lost, none
//! twice, none with another row than its newest, none that was deleted. Reads meanwhile may fail, and requests too; what
//! they answer is right, and a request that failed did nothing.

#![allow(clippy::print_stdout)] // what a run covered is for people to see

use std::collections::BTreeMap;
use std::time::SystemTime;

use thermocline_engine::Change;

use super::keyed::{State, keyed, rows_in_lake, try_state};
use super::*;
use crate::faulty_store::{Call, Fault, FaultyStore};

/// What became of one fault.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Rounds, reads, requests and starts that answered with an error.
    errors: usize,
    lost: usize,
    doubled: usize,
    /// Rows that are not the newest of their key, or whose key was deleted.
    stale: usize,
    /// Versions of the lake: more than the rounds need means that one was committed twice.
    versions: u64,
}

struct Scenario {
    disk: Arc<MemoryDisk>,
    store: Arc<FaultyStore>,
    properties: [(&'static str, &'static str); 3],
    node: Node,
    map: State,
    errors: usize,
}

fn warehouse(store: &Arc<FaultyStore>) -> Warehouse {
    Warehouse::with_store("s3://lake/warehouse", store.clone())
}

impl Scenario {
    async fn new(store: &Arc<FaultyStore>, format: &'static str) -> Scenario {
        let (disk, store) = (MemoryDisk::new(), store.clone());
        let properties = [("format_version", format), ("hot_retention", "0s"), ("buckets", "2")];
        let node = keyed(&disk, &warehouse(&store), &properties).await;
        Scenario { disk, store, properties, node, map: State::new(), errors: 0 }
    }

    /// Puts some keys and deletes others, in one request.
    async fn change(&mut self, put: std::ops::Range<i64>, text: &str, deleted: std::ops::Range<i64>) {
        let puts = put.map(|id| (id, format!("{text} {id}"), Change::Upsert));
        let request: Vec<_> = puts.chain(deleted.map(|id| (id, String::new(), Change::Delete))).collect();
        match self.node.try_change(&request).await {
            Ok(()) => {
                for (id, text, change) in request {
                    match change {
                        Change::Upsert => self.map.insert(id, text),
                        Change::Delete => self.map.remove(&id),
                    };
                }
            }
            Err(_) => self.errors += 1,
        }
    }

    /// A round, and what is in the lake then is let go.
    async fn tier(&mut self) {
        self.errors += usize::from(self.node.tiering.tier(&self.node.table).await.is_err());
        self.errors += usize::from(self.node.tiering.let_go_now(&self.node.table).await.is_err());
    }

    /// Reads and looks up every row: an error, or all of them.
    async fn read(&mut self) {
        let split = match self.node.tiering.read_split(std::slice::from_ref(&self.node.table)).await {
            Ok(mut splits) => try_state(&splits.remove(0)).await,
            Err(error) => Err(error),
        };
        for found in [split, self.node.try_lookup(0..50).await] {
            match found {
                Ok(state) => assert_eq!(state, self.map, "a read answered other rows"),
                Err(_) => self.errors += 1,
            }
        }
    }

    async fn restart(self) -> Scenario {
        self.node.tiering.close().await;
        self.node.engine.close();
        let node = keyed(&self.disk, &warehouse(&self.store), &self.properties).await;
        Scenario { node, ..self }
    }

    async fn steps(mut self) -> Scenario {
        self.change(0..30, "a", 0..0).await;
        self.tier().await;
        // Rows of the first file end in two rounds, so that what deletes them is made and replaced.
        self.change(0..6, "b", 20..23).await;
        self.tier().await;
        self.change(6..9, "c", 0..2).await;
        self.read().await;
        self.tier().await;
        self = self.restart().await;
        self.change(8..12, "d", 23..25).await;
        self.read().await;
        self.tier().await;
        self.read().await;
        self
    }

    /// Goes on without faults, and says what is in the lake.
    async fn outcome(mut self) -> Outcome {
        let errors = self.errors;
        self.store.settle().await;
        self.change(40..42, "e", 3..4).await;
        assert_eq!(self.errors, errors, "a request without faults");
        self.node.tiering.tier(&self.node.table).await.expect("a round without faults");
        // Another process finds the same.
        self = self.restart().await;
        self.read().await;
        assert_eq!(self.errors, errors, "a read without faults");
        let split = self.node.tiering.read_split(std::slice::from_ref(&self.node.table)).await.unwrap().remove(0);
        let version = split.lake.as_ref().expect("rows were tiered").version.clone();
        version.check_history().unwrap();
        let mut found = BTreeMap::<i64, Vec<String>>::new();
        for (id, text) in rows_in_lake(&split, false).await.unwrap() {
            found.entry(id).or_default().push(text);
        }
        let lost = self.map.keys().filter(|id| !found.contains_key(id)).count();
        let doubled = found.values().filter(|texts| texts.len() > 1).count();
        let stale = found.iter().flat_map(|(id, texts)| texts.iter().filter(|text| self.map.get(id) != Some(text)));
        let stale = stale.count();
        self.node.stop().await;
        Outcome { errors, lost, doubled, stale, versions: version.version }
    }
}

async fn every_fault(format: &'static str, each: usize) {
    let faulty = || FaultyStore::new(Arc::new(InMemory::new()));
    let store = faulty();
    let clean = Scenario::new(&store, format).await.steps().await;
    let calls = store.calls();
    let clean = clean.outcome().await;
    assert_eq!(clean, Outcome { versions: 6, ..Outcome::default() });
    let (mut seen, mut failed) = (BTreeMap::<(Call, Fault), usize>::new(), 0);
    let faults =
        calls.iter().enumerate().flat_map(|(number, call)| call.faults().iter().map(move |f| (number, *call, *f)));
    let day = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    for (number, call, fault) in faults.skip(day as usize % each).step_by(each) {
        let store = faulty();
        store.strike(number, fault);
        let outcome = Scenario::new(&store, format).await.steps().await.outcome().await;
        let place = store.path(number);
        let wrong = (outcome.lost, outcome.doubled, outcome.stale);
        assert_eq!(wrong, (0, 0, 0), "format {format}, call {number}, {call:?} of {place}: {fault:?}");
        // A failed round is made good by the next: never a version more than the rounds that there were.
        let no_more = outcome.versions <= clean.versions;
        assert!(no_more, "format {format}, call {number}, {call:?} of {place}: {fault:?}: {outcome:?}");
        *seen.entry((call, fault)).or_default() += 1;
        failed += usize::from(outcome.errors > 0);
    }
    let runs: usize = seen.values().sum();
    println!(
        "format {format}: {} calls, {runs} runs with one fault each: lost 0, doubled 0, stale 0; {failed} had errors on \
         the way",
        calls.len()
    );
    for ((call, fault), count) in &seen {
        println!("{count:>5}  {call:?} {fault:?}");
    }
    for call in [Call::Create, Call::Overwrite, Call::Get, Call::GetRange, Call::List] {
        assert!(calls.contains(&call), "never called: {call:?}");
    }
}

/// One in so many, others every day; `THERMOCLINE_FAULTS=all` tries all.
fn each() -> usize {
    if std::env::var("THERMOCLINE_FAULTS").is_ok_and(|faults| faults == "all") { 1 } else { 5 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_fault_of_a_table_with_keys_and_vectors_leaves_no_wrong_row() {
    every_fault("3", each()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_fault_of_a_table_with_keys_and_position_deletes_leaves_no_wrong_row() {
    every_fault("2", each()).await;
}
