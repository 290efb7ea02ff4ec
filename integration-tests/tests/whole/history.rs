//! Random histories in one process: appends, rounds, seals, trims, restarts and power cuts, and after each operation
//! every way to read the table against a plain list.
//!
//! A failure prints its seed; `THERMOCLINE_SEED=<seed>` runs that one alone, `THERMOCLINE_OPERATIONS=<n>` sets how many
//! operations all histories have together.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::MemoryDisk;
use thermocline_engine::{Durability, Sender, WriterSequence};
use thermocline_integration_tests::compare;
use thermocline_integration_tests::node::Node;
use thermocline_integration_tests::oracle::{Oracle, rows};

const OPERATIONS_PER_HISTORY: usize = 100;
const OPERATIONS: usize = 10_000;

type Coverage = BTreeMap<String, usize>;

fn from_environment(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn ten_thousand_random_operations_agree_with_a_list() {
    let one = from_environment("THERMOCLINE_SEED").map(|seed| seed as u64);
    let histories = from_environment("THERMOCLINE_OPERATIONS").unwrap_or(OPERATIONS) / OPERATIONS_PER_HISTORY;
    let first = rand::rng().random_range(0..1_000_000);
    let seeds: Vec<u64> = one.map_or_else(|| (first..first + histories as u64).collect(), |seed| vec![seed]);
    println!("{} histories of {OPERATIONS_PER_HISTORY} operations, seeds from {}", seeds.len(), seeds[0]);
    let coverage = run(&seeds, Durability::Fsync).unwrap_or_else(|failure| panic!("{failure}"));
    for (state, count) in &coverage {
        println!("{count:>7}  {state}");
    }
    if one.is_none() && histories >= 20 {
        for state in [
            "append",
            "repeat",
            "round",
            "seal",
            "carry",
            "checkpoint",
            "upkeep",
            "let go",
            "restart",
            "power cut",
            "power cut during append",
            "power cut during round",
            "unclear request was applied",
            "unclear request was not applied",
            "read: hot only",
            "read: lake only",
            "read: both",
            "read: empty",
        ] {
            assert!(coverage.contains_key(state), "never reached: {state}");
        }
    }
}

/// The switch that acks before the disk has the bytes is what this test is for: it must be caught.
#[test]
fn without_fsync_the_histories_fail() {
    let caught = (0..20).find_map(|seed| run(&[seed], Durability::Os).err());
    let failure = caught.expect("20 histories of power cuts lost nothing though nothing was synced");
    println!("caught: {failure}");
}

/// Two histories at a time, one per core.
fn run(seeds: &[u64], durability: Durability) -> Result<Coverage, String> {
    let half = seeds.len().div_ceil(2);
    let parts: Vec<_> = seeds.chunks(half.max(1)).map(<[u64]>::to_vec).collect();
    let threads: Vec<_> = parts
        .into_iter()
        .map(|seeds| {
            std::thread::spawn(move || {
                let mut coverage = Coverage::new();
                for seed in seeds {
                    // Boxed on a runtime of its own, so that a power cut takes its tasks too.
                    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                    let history = History::run(seed, durability, &mut coverage);
                    let done = runtime.expect("a runtime can be made").block_on(history);
                    done.map_err(|failure| format!("seed {seed}: {failure}"))?;
                }
                Ok::<_, String>(coverage)
            })
        })
        .collect();
    let mut all = Coverage::new();
    for thread in threads {
        for (state, count) in thread.join().expect("a history does not panic")? {
            *all.entry(state).or_default() += count;
        }
    }
    Ok(all)
}

struct History<'a> {
    random: StdRng,
    disk: std::sync::Arc<MemoryDisk>,
    durability: Durability,
    properties: Vec<(&'static str, &'static str)>,
    node: Node,
    oracle: Oracle,
    /// The next sequence number of the one idempotent writer, and what it sent last.
    sequence: u64,
    last: Option<Vec<i64>>,
    coverage: &'a mut Coverage,
}

impl History<'_> {
    async fn run(seed: u64, durability: Durability, coverage: &mut Coverage) -> Result<(), String> {
        let mut random = StdRng::seed_from_u64(seed);
        let keyed = random.random_bool(0.4);
        let mut properties = vec![("hot_retention", "0s"), ("lake_freshness", "1h")];
        if keyed {
            properties.extend([("buckets", "3"), ("bucket_key", "city")]);
        }
        if random.random_bool(0.3) {
            properties.push(("format_version", "3"));
        }
        let disk = MemoryDisk::new();
        let node = Node::start(&disk, durability, &properties).await.map_err(|error| format!("start: {error:?}"))?;
        let oracle = Oracle::new(if keyed { 3 } else { 1 }, keyed);
        let mut history =
            History { random, disk, durability, properties, node, oracle, sequence: 0, last: None, coverage };
        for step in 0..OPERATIONS_PER_HISTORY {
            let done = history.operation().await.map_err(|failure| format!("step {step}: {failure}"))?;
            let pick = history.random.random_range(0..1_000_000);
            let seen = compare::everything(&history.node, &history.oracle, pick).await;
            let seen = seen.map_err(|failure| format!("step {step}, after {done}: {failure}"))?;
            history.count(&done);
            history.count(match (seen.hot_rows, seen.lake_rows) {
                (0, 0) => "read: empty",
                (_, 0) => "read: hot only",
                (0, _) => "read: lake only",
                _ => "read: both",
            });
        }
        history.node.stop().await;
        Ok(())
    }

    fn count(&mut self, state: &str) {
        *self.coverage.entry(state.to_owned()).or_default() += 1;
    }

    async fn operation(&mut self) -> Result<String, String> {
        let node = &self.node;
        let (engine, tiering, table) = (&node.engine, &node.tiering, &node.table);
        let done = match self.random.random_range(0..30) {
            0..12 => return self.append().await,
            12 | 13 => return self.repeat().await,
            14..17 => tiering.tier(table).await.map(|_| "round"),
            17 => engine.seal(table).await.map(|()| "seal"),
            18 => engine.carry(table).await.map(|_| "carry"),
            19 => engine.checkpoint().await.map(|()| "checkpoint"),
            20 | 21 => engine.upkeep().await.map(|()| "upkeep"),
            22 | 23 => tiering.let_go_now(table).await.map(|()| "let go"),
            24 | 25 => return self.restart().await,
            _ => return self.power_cut().await,
        };
        done.map(str::to_owned).map_err(|error| format!("{error:?}"))
    }

    async fn append(&mut self) -> Result<String, String> {
        let count = self.random.random_range(1..40);
        let ids = self.oracle.fresh(count);
        let batch = rows(self.node.table.schema(), &ids);
        let numbered = self.random.random_bool(0.3);
        let sender = if numbered { self.sender(self.sequence) } else { Sender::default() };
        let answer =
            self.node.engine.append(&self.node.table, batch, sender).await.map_err(|error| format!("{error:?}"))?;
        if answer.duplicate || answer.rows != ids.len() as u64 {
            return Err(format!("a new request was answered {answer:?}"));
        }
        self.oracle.acked(&ids);
        if numbered {
            self.sequence += 1;
            self.last = Some(ids);
        }
        Ok("append".to_owned())
    }

    /// Sends the writer's last request again, as a client does that has not heard the answer.
    async fn repeat(&mut self) -> Result<String, String> {
        let Some(ids) = self.last.clone() else { return self.append().await };
        let batch = rows(self.node.table.schema(), &ids);
        let sender = self.sender(self.sequence - 1);
        let answer =
            self.node.engine.append(&self.node.table, batch, sender).await.map_err(|error| format!("{error:?}"))?;
        if !answer.duplicate {
            return Err(format!("a repeat was applied: {answer:?}"));
        }
        Ok("repeat".to_owned())
    }

    fn sender(&self, sequence: u64) -> Sender {
        Sender { writer: WriterSequence::new("history", sequence).ok(), ..Sender::default() }
    }

    async fn restart(&mut self) -> Result<String, String> {
        self.node.stop().await;
        self.start().await?;
        Ok("restart".to_owned())
    }

    async fn start(&mut self) -> Result<(), String> {
        let node = Node::start(&self.disk, self.durability, &self.properties).await;
        self.node = node.map_err(|error| format!("start: {error:?}"))?;
        Ok(())
    }

    /// The power goes, maybe with a request or a round under way.
    async fn power_cut(&mut self) -> Result<String, String> {
        let (engine, tiering, table) = (self.node.engine.clone(), self.node.tiering.clone(), self.node.table.clone());
        let pause = Duration::from_micros(self.random.random_range(0..400));
        let mut unclear = None;
        let done = match self.random.random_range(0..3) {
            0 => "power cut",
            1 => {
                let ids = self.oracle.fresh(7);
                let batch = rows(table.schema(), &ids);
                tokio::spawn(async move { engine.append(&table, batch, Sender::default()).await.is_ok() });
                unclear = Some(ids);
                tokio::time::sleep(pause).await;
                "power cut during append"
            }
            _ => {
                tokio::spawn(async move { tiering.tier(&table).await.is_ok() });
                tokio::time::sleep(pause * 10).await;
                "power cut during round"
            }
        };
        let left = self.disk.power_cut(&mut self.random);
        self.node.stop().await;
        self.disk = left;
        self.start().await?;
        if let Some(ids) = unclear {
            self.oracle.unclear(ids);
            let present = compare::all_ids(&self.node).await?;
            let applied = self.oracle.settle(&present)?;
            self.count(if applied > 0 { "unclear request was applied" } else { "unclear request was not applied" });
        }
        Ok(done.to_owned())
    }
}
