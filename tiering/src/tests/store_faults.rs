//! Every fault at every call that a table's first rounds, its reads and a restart make of the store, one at a time.
//!
//! After the fault the same steps are taken again without one, and the rows in the lake are held against what was
//! appended: none lost, none twice. Reads meanwhile may fail; what they answer is right.

#![allow(clippy::print_stdout)] // what a run covered is for people to see

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::Disk;
use tokio::time::timeout;

use super::*;
use crate::faulty_store::Call;

/// What became of one fault.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    /// Rounds, reads and starts that answered with an error.
    errors: usize,
    lost: usize,
    doubled: usize,
    /// Versions of the lake: more than the rounds need means that one was committed twice.
    versions: u64,
}

struct Scenario {
    disk: Arc<MemoryDisk>,
    store: Arc<FaultyStore>,
    node: Node,
    appended: i64,
    errors: usize,
}

const TWO_BUCKETS: &[(&str, &str)] = &[("buckets", "2"), ("hot_retention", "1h")];

impl Scenario {
    async fn new(store: &Arc<FaultyStore>) -> Scenario {
        let (disk, store) = (MemoryDisk::new(), store.clone());
        let node = start(&disk, &warehouse(&store), TWO_BUCKETS, manual()).await;
        Scenario { disk, store, node, appended: 0, errors: 0 }
    }

    async fn append(&mut self, rows: i64) {
        for half in 0..2 {
            let from = self.appended + half * rows / 2;
            self.node.append(from, from + rows / 2).await;
        }
        self.appended += rows;
    }

    async fn tier(&mut self) {
        self.errors += usize::from(self.node.tiering.tier(&self.node.table).await.is_err());
    }

    /// Reads every row of the split: an error, or all of them.
    async fn read(&mut self) {
        match all_ids(&self.node).await {
            Ok(ids) => assert_eq!(ids, (0..self.appended).collect::<Vec<_>>(), "a read answered other rows"),
            Err(_) => self.errors += 1,
        }
    }

    async fn restart(self) -> Scenario {
        self.node.tiering.close().await;
        self.node.engine.close();
        let node = start(&self.disk, &warehouse(&self.store), TWO_BUCKETS, manual()).await;
        Scenario { node, ..self }
    }

    async fn steps(mut self) -> Scenario {
        self.append(40).await;
        self.tier().await;
        self.read().await;
        self.append(20).await;
        self.tier().await;
        self = self.restart().await;
        self.append(20).await;
        self.tier().await;
        self.read().await;
        self
    }

    /// Goes on without faults, and says what is in the lake.
    async fn outcome(mut self) -> Outcome {
        let errors = self.errors;
        self.store.settle().await;
        self.append(10).await;
        self.node.tiering.tier(&self.node.table).await.expect("a round without faults");
        // Another process finds the same.
        self = self.restart().await;
        let split = self.node.tiering.read_split(std::slice::from_ref(&self.node.table)).await.unwrap().remove(0);
        let lake = split.lake.expect("rows were tiered");
        lake.version.check_history().unwrap();
        let mut found = BTreeMap::<i64, usize>::new();
        for id in ids_in_lake(&self.node, &lake).await.unwrap() {
            *found.entry(id).or_default() += 1;
        }
        let lost = (0..self.appended).filter(|id| !found.contains_key(id)).count();
        let doubled = found.values().filter(|count| **count > 1).count();
        self.node.stop().await;
        Outcome { errors, lost, doubled, versions: lake.version.version }
    }
}

fn warehouse(store: &Arc<FaultyStore>) -> Warehouse {
    Warehouse::with_store("s3://lake/warehouse", store.clone())
}

fn faulty() -> Arc<FaultyStore> {
    FaultyStore::new(Arc::new(InMemory::new()))
}

async fn ids_in_lake(node: &Node, lake: &LakePart) -> Result<Vec<i64>, thermocline_schemas::Error> {
    let mut found = Vec::new();
    for file in lake.files.iter() {
        let mut rows = lake.table.read_file(file, &node.table.descriptor().schema, Offset::ZERO).await?;
        while let Some(rows) = rows.next().await {
            found.extend(rows?.batch.column(0).as_primitive::<Int64Type>().values().iter().copied());
        }
    }
    Ok(found)
}

/// The ids of a split, sorted: cold and hot.
async fn all_ids(node: &Node) -> Result<Vec<i64>, thermocline_schemas::Error> {
    let split = node.tiering.read_split(std::slice::from_ref(&node.table)).await?.remove(0);
    let mut found = match &split.lake {
        Some(lake) => ids_in_lake(node, lake).await?,
        None => Vec::new(),
    };
    for rows in split.hot.iter().flat_map(|part| &part.rows) {
        for batch in rows.read(None) {
            found.extend(batch?.batch.column(0).as_primitive::<Int64Type>().values().iter().copied());
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_fault_at_any_call_loses_nothing_and_doubles_nothing() {
    let store = faulty();
    let clean = Scenario::new(&store).await.steps().await;
    let calls = store.calls();
    let clean = clean.outcome().await;
    assert_eq!((clean.errors, clean.lost, clean.doubled, clean.versions), (0, 0, 0, 5));
    let (mut seen, mut ambiguous, mut failed) = (BTreeMap::<(Call, Fault), usize>::new(), 0, 0);
    for (number, call) in calls.iter().enumerate() {
        for fault in call.faults() {
            let store = faulty();
            store.strike(number, *fault);
            let outcome = Scenario::new(&store).await.steps().await.outcome().await;
            let place = store.path(number);
            assert_eq!((outcome.lost, outcome.doubled), (0, 0), "call {number}, {call:?} of {place}: {fault:?}");
            // A failed round is made good by the next: never a version more than the rounds that there were.
            assert!(outcome.versions <= clean.versions, "call {number}, {call:?} of {place}: {fault:?}: {outcome:?}");
            *seen.entry((*call, *fault)).or_default() += 1;
            let unclear =
                matches!(fault, Fault::AnswerLost | Fault::Late | Fault::AnswerTwice | Fault::PreconditionTwice);
            ambiguous += usize::from(unclear && *call == Call::Create);
            failed += usize::from(outcome.errors > 0);
        }
    }
    let runs: usize = seen.values().sum();
    println!(
        "{} calls, {runs} runs with one fault each: lost 0, doubled 0; {failed} runs had errors on the way",
        calls.len()
    );
    println!("ambiguous creates of versions resolved: {ambiguous}/{ambiguous}");
    for ((call, fault), count) in &seen {
        println!("{count:>5}  {call:?} {fault:?}");
    }
    for call in [Call::Create, Call::Overwrite, Call::Get, Call::GetRange, Call::List] {
        assert!(calls.contains(&call), "never called: {call:?}");
    }
}

/// Rows that do not fit one part, and do not compress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_fault_in_an_upload_in_parts_loses_nothing_and_doubles_nothing() {
    let mut random = StdRng::seed_from_u64(1);
    let mut text = || {
        let mut bytes = vec![0; 110_000];
        random.fill(&mut bytes[..]);
        bytes.iter_mut().for_each(|byte| *byte = b'!' + (*byte & 63));
        String::from_utf8(bytes).unwrap()
    };
    let texts: Vec<String> = (0..110).map(|_| text()).collect();
    let mut runs = 0;
    let mut upload = Vec::new();
    // The first turn is without a fault, to see the calls.
    for turn in 0.. {
        let faults: Vec<(usize, Fault)> = upload
            .iter()
            .flat_map(|(number, call): &(usize, Call)| call.faults().iter().map(|f| (*number, *f)))
            .collect();
        let Some(fault) = (if turn == 0 { Some(None) } else { faults.get(turn - 1).map(|fault| Some(*fault)) }) else {
            break;
        };
        let disk = MemoryDisk::new();
        let local = Warehouse::local(disk.clone(), Path::new("/warehouse")).unwrap();
        let store = FaultyStore::new(local.store().clone());
        let node = start(&disk, &Warehouse::with_store(local.root_url(), store.clone()), &[], manual()).await;
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(0..110)),
            Arc::new(arrow::array::Int16Array::from(vec![None; 110])),
            Arc::new(StringArray::from_iter_values(&texts)),
        ];
        let rows = RecordBatch::try_new(node.table.schema().clone(), columns).unwrap();
        node.engine.append(&node.table, rows, Sender::default()).await.unwrap();
        if let Some((number, fault)) = fault {
            store.strike(number, fault);
        }
        let first = node.tiering.tier(&node.table).await;
        if fault.is_none() {
            let parts = [Call::BeginUpload, Call::Part, Call::Complete];
            upload = store.calls().into_iter().enumerate().filter(|(_, call)| parts.contains(call)).collect();
            assert_eq!(upload.len(), 4, "begin, two parts, complete: {upload:?}");
            first.as_ref().unwrap();
        }
        // A store that is full needs the room of a failed upload; only one that nobody heard of may stay.
        let staged = disk.list(Path::new("/warehouse/.staged")).unwrap().len();
        let unheard = fault.is_some_and(|(number, fault)| {
            upload[0].0 == number && matches!(fault, Fault::AnswerLost | Fault::AnswerTwice)
        });
        assert_eq!(staged, usize::from(unheard), "{fault:?}");
        node.tiering.tier(&node.table).await.unwrap();
        assert_eq!(all_ids(&node).await.unwrap(), (0..110).collect::<Vec<_>>(), "{fault:?}");
        let split = node.tiering.read_split(std::slice::from_ref(&node.table)).await.unwrap().remove(0);
        assert_eq!((split.lake_rows(), split.lake.unwrap().version.version), (110, 2), "{fault:?}");
        node.stop().await;
        runs += 1;
    }
    println!("{} runs with one fault each in an upload of {} calls: lost 0, doubled 0", runs - 1, upload.len());
}

/// Hung connections, not errors: the server starts, takes rows, shows them, follows them and stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_says_nothing_stops_nothing_but_tiering() {
    let store = faulty();
    let patience = Duration::from_millis(300);
    let options = |scheduler| TieringOptions { scheduler, patience, ..TieringOptions::default() };
    let disk = MemoryDisk::new();
    let properties = &[("lake_freshness", "10ms"), ("hot_retention", "1h")];
    let node = start(&disk, &warehouse(&store), properties, manual()).await;
    node.append(0, 50).await;
    node.tiering.tier(&node.table).await.unwrap();
    node.stop().await;

    store.silence(true);
    let within = Duration::from_secs(20);
    let node = timeout(within, start(&disk, &warehouse(&store), properties, options(true))).await.unwrap();
    node.append(50, 70).await;
    timeout(within, async {
        assert_eq!(node.counts().await, (0, 70), "what is hot is read without the lake");
        let live =
            node.tiering.follow(&node.table, FollowFrom::Earliest, FollowOptions { follow: true }).await.unwrap();
        let (mut live, mut seen) = (live.batches, Vec::new());
        node.append(70, 80).await;
        while seen.len() < 80 {
            seen.extend(changes(vec![live.next().await.unwrap().unwrap()]));
        }
        assert_eq!(seen, in_order(0..80));
        // The scheduler has begun a round, which hangs.
        while !node.tiering.status(&node.table).await.is_ok_and(|status| status.lake_lag_rows == 80) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.stop().await;
    })
    .await
    .unwrap();

    store.silence(false);
    let node = start(&disk, &warehouse(&store), properties, manual()).await;
    assert_eq!(node.counts().await, (50, 30));
    node.tiering.tier(&node.table).await.unwrap();
    assert_eq!(all_ids(&node).await.unwrap(), (0..80).collect::<Vec<_>>());
    assert_eq!(node.counts().await, (80, 0));
    node.stop().await;
}

/// Cold rows need their store: their readers are told so in time, and the others are not held up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_cold_rows_are_told_in_time() {
    let (store, disk) = (faulty(), MemoryDisk::new());
    let options = TieringOptions { patience: Duration::from_millis(200), ..manual() };
    let properties = &[("hot_retention", "0s")];
    let node = start(&disk, &warehouse(&store), properties, manual()).await;
    node.append(0, 50).await;
    node.tiering.tier(&node.table).await.unwrap();
    node.tiering.let_go_now(&node.table).await.unwrap();
    node.append(50, 60).await;
    let hot = node.tiering.read_split_of(std::slice::from_ref(&node.table), |_| false);
    store.silence(true);
    let hot = timeout(Duration::from_secs(20), hot).await.unwrap().unwrap().remove(0);
    assert_eq!((hot.hot_rows(), hot.lake.is_none()), (10, true), "hot rows alone ask no store");
    node.stop().await;

    let node = start(&disk, &warehouse(&store), properties, options).await;
    let split = node.tiering.read_split(std::slice::from_ref(&node.table));
    let error = timeout(Duration::from_secs(20), split).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable, "{error}");
    node.stop().await;
}
