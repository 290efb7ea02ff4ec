//! What many small rounds leave in a lake, and that it is as much after many as after few.
//!
//! Rounds, rewrites and sweeps come as the scheduler has them, and nothing is kept longer than it must be. `cargo test` makes
//! a few hundred rounds; `THERMOCLINE_ROUNDS=20000` with the filter `growth` and `--nocapture` makes so many, and prints what was measured on
//! the way.

#![allow(clippy::print_stdout)] // what was measured is for people to see

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::keyed::keyed_with;
use super::*;
use crate::lake::{LakeInspection, LakeTable};

const ROUNDS: usize = 300;
/// As often as the scheduler looks for files to be written anew.
const ROUNDS_PER_REWRITE: usize = 4;
const ROUNDS_PER_SWEEP: usize = 32;
/// Times are those of so many rounds before a measurement.
const TIMED: usize = 200;
/// Data and deletes.
const MANIFESTS_MAX: usize = 64;
const KEYS: i64 = 2_000;

/// A lake after so many rounds.
#[derive(Debug)]
struct Measured {
    rounds: usize,
    /// Of the newest metadata file, in bytes.
    metadata: u64,
    manifests: usize,
    /// Of the newest snapshot's list, in bytes.
    list: u64,
    data_files: usize,
    /// All objects in the table's directory.
    objects: usize,
    /// Of a round with its commit.
    round: Duration,
    /// Of a split right after a round.
    split: Duration,
    /// Of reading all that a process needs which knows nothing.
    opened: Duration,
    /// Memory of this process but for what the store and the journal hold, which are in memory here, the journal twice.
    resident: u64,
}

impl Measured {
    fn print(&self) {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{:>6} rounds: metadata {:>6} bytes, {:>3} manifests, list {:>6} bytes, {:>5} data files, {:>5} objects; round {:>6.1} ms, split {:>6.1} ms, opened in {:>6.1} ms; {:>4} MiB",
            self.rounds,
            self.metadata,
            self.manifests,
            self.list,
            self.data_files,
            self.objects,
            milliseconds(self.round),
            milliseconds(self.split),
            milliseconds(self.opened),
            self.resident >> 20,
        );
    }
}

fn options() -> TieringOptions {
    TieringOptions { grace: Grace { files: Duration::ZERO, versions: Duration::ZERO }, ..manual() }
}

/// What a quarter of the last ones took at most: a machine that others use too makes the rest longer.
fn quarter(times: &[Duration]) -> Duration {
    let mut times = times[times.len().saturating_sub(TIMED)..].to_vec();
    times.sort();
    times[times.len() / 4]
}

fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

async fn measure(node: &Node, rounds: usize, round: &[Duration], split: &[Duration]) -> Measured {
    let warehouse = node.tiering.warehouse();
    let name = &node.table.descriptor().name;
    let root = format!("{}/{}", name.database, name.table);
    let lake = LakeInspection::newest(warehouse, &root).await.unwrap().unwrap();
    let size = async |url: &str| warehouse.store().head(&warehouse.path(url).unwrap()).await.unwrap().size;
    let listed = lake.manifests().await.unwrap();
    let mut data_files = 0;
    for manifest in listed.iter().filter(|manifest| !manifest.deletes) {
        data_files += lake.data_files(manifest).await.unwrap().len();
    }
    let all: Vec<_> = warehouse.store().list(Some(&root.as_str().into())).try_collect().await.unwrap();
    let object_bytes: u64 = all.iter().map(|object| object.size).sum();
    let started = Instant::now();
    let opened = LakeTable::create_or_open(warehouse, node.engine.newest(&node.table).descriptor()).await.unwrap();
    opened.data_files(&opened.current()).await.unwrap();
    Measured {
        rounds,
        metadata: size(&lake.version().metadata_url).await,
        manifests: listed.len(),
        list: size(lake.manifest_list().unwrap()).await,
        data_files,
        objects: all.len(),
        round: quarter(round),
        split: quarter(split),
        opened: started.elapsed(),
        resident: resident().saturating_sub(object_bytes + 2 * node.engine.journal_bytes().await.unwrap()),
    }
}

/// So many rounds of what `append` adds, with a measurement at each of these.
async fn grow(node: &Node, at: &[usize], append: impl AsyncFn(usize)) -> Vec<Measured> {
    let (mut measured, mut round, mut split) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=at.last().copied().unwrap_or(0) {
        append(number).await;
        let started = Instant::now();
        node.tiering.tier(&node.table).await.unwrap();
        round.push(started.elapsed());
        let started = Instant::now();
        node.tiering.read_split(std::slice::from_ref(&node.table)).await.unwrap();
        split.push(started.elapsed());
        node.tiering.let_go_now(&node.table).await.unwrap();
        if number % ROUNDS_PER_REWRITE == 0 {
            node.tiering.compact(&node.table).await.unwrap();
        }
        if number % ROUNDS_PER_SWEEP == 0 {
            node.tiering.sweep_now(&node.table).await.unwrap();
            node.engine.upkeep().await.unwrap();
            node.engine.checkpoint().await.unwrap();
        }
        if at.contains(&number) {
            // What waits for the next sweep says nothing.
            let lake = node.tiering.table_lake(&node.table).open(&node.tiering, &node.table).await.unwrap().clone();
            lake.sweep().await.unwrap();
            node.tiering.sweep_now(&node.table).await.unwrap();
            let found = measure(node, number, &round, &split).await;
            found.print();
            measured.push(found);
        }
    }
    measured
}

/// When to measure, and whether more was asked for than tests do.
fn moments() -> (Vec<usize>, bool) {
    let wanted = std::env::var("THERMOCLINE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds = wanted.unwrap_or(ROUNDS);
    let mut at: Vec<_> =
        [100, 1_000, 5_000, 20_000, rounds / 2, rounds].into_iter().filter(|at| *at <= rounds).collect();
    at.sort_unstable();
    at.dedup();
    (at, wanted.is_some())
}

fn assert_flat(measured: &[Measured], is_long: bool) {
    let [.., half, whole] = measured else { panic!("two measurements at least") };
    for one in [half, whole] {
        assert!(one.manifests <= MANIFESTS_MAX, "{one:?}");
    }
    assert!(whole.metadata * 5 <= half.metadata * 6, "{half:?}, then {whole:?}");
    assert!(whole.objects <= half.objects + MANIFESTS_MAX, "{half:?}, then {whole:?}");
    assert!(whole.list <= half.list * 3 / 2 + 4_096, "{half:?}, then {whole:?}");
    // What grew with the rounds would be hundreds of times as long; others use the machine too.
    let first = &measured[0];
    if is_long {
        assert!(whole.round <= first.round * 5, "{first:?}, then {whole:?}");
        assert!(whole.split <= first.split * 5, "{first:?}, then {whole:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_of_a_log_table() {
    let properties = [
        ("hot_retention", "0s"),
        ("snapshot_retention", "0s"),
        ("buckets", "4"),
        ("bucket_key", "text"),
        ("format_version", "2"),
    ];
    let node = start(&MemoryDisk::new(), &memory(), &properties, options()).await;
    let (at, is_long) = moments();
    let measured = grow(&node, &at, async |number| {
        let from = number as i64 * 8;
        node.append(from, from + 8).await;
    })
    .await;
    assert_flat(&measured, is_long);
    assert_eq!(node.counts().await, (*at.last().unwrap() as u64 * 8, 0));
    node.stop().await;
}

/// Each round adds to one partition, so that rewrites touch few of the manifests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_of_a_table_with_partitions() {
    let properties = [
        ("hot_retention", "0s"),
        ("snapshot_retention", "0s"),
        ("partition_by", "bucket(16, id)"),
        ("format_version", "3"),
    ];
    let node = start(&MemoryDisk::new(), &memory(), &properties, options()).await;
    let (at, is_long) = moments();
    let measured = grow(&node, &at, async |number| {
        let from = number as i64;
        node.append(from, from + 1).await;
    })
    .await;
    assert_flat(&measured, is_long);
    assert_eq!(node.counts().await, (*at.last().unwrap() as u64, 0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_of_a_table_with_a_primary_key() {
    let properties = [("hot_retention", "0s"), ("snapshot_retention", "0s"), ("format_version", "3")];
    let node = keyed_with(&MemoryDisk::new(), &memory(), &properties, options()).await;
    let (at, is_long) = moments();
    let random = std::sync::Mutex::new(StdRng::seed_from_u64(1));
    let measured = grow(&node, &at, async |number| {
        let ids: std::collections::BTreeSet<_> = {
            let mut random = random.lock().unwrap();
            (0..8).map(|_| random.random_range(0..KEYS)).collect()
        };
        node.put(ids, &format!("round {number}")).await;
    })
    .await;
    assert_flat(&measured, is_long);
    node.stop().await;
}
