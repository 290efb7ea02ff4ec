//! Random histories: how many, from which seeds, and how often they were in which state.
//!
//! `THERMOCLINE_OPERATIONS=<n>` sets how many operations all histories have together, `THERMOCLINE_SEED=<seed>` runs the
//! history of that seed alone. A run of full length fails if a state was never reached.

#![allow(clippy::print_stdout)] // what a run covered is for people to see

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;

use rand::Rng;

/// How many operations all histories have together: of log tables, which are seven tenths of them, 10,000.
const OPERATIONS: usize = 14_300;
/// Of one history.
pub const OPERATIONS_PER_HISTORY: usize = 100;

/// How often histories were in which state.
pub type Coverage = BTreeMap<String, usize>;

fn from_environment(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// The histories of one test.
pub struct Plan {
    pub seeds: Vec<u64>,
    /// All states must be reached.
    is_whole: bool,
}

impl Plan {
    /// With so many percent of all operations.
    pub fn of(percent: usize) -> Plan {
        let operations = from_environment("THERMOCLINE_OPERATIONS").unwrap_or(OPERATIONS);
        let one = from_environment("THERMOCLINE_SEED").map(|seed| seed as u64);
        let histories = (operations * percent / 100).div_ceil(OPERATIONS_PER_HISTORY);
        let first = rand::rng().random_range(0..1_000_000);
        let seeds: Vec<u64> = one.map_or_else(|| (first..first + histories as u64).collect(), |seed| vec![seed]);
        // Past what the test harness keeps back: a process that is killed must have said it.
        let _ = writeln!(
            std::io::stderr(),
            "{} histories of {OPERATIONS_PER_HISTORY} operations, seeds from {}",
            seeds.len(),
            seeds[0]
        );
        Plan { seeds, is_whole: one.is_none() && operations >= OPERATIONS }
    }

    /// Shows what was reached; all that is wanted must be, if the plan was long enough.
    pub fn conclude(&self, coverage: &Coverage, wanted: impl IntoIterator<Item = String>) {
        for (state, count) in coverage {
            println!("{count:>7}  {state}");
        }
        let never: Vec<_> = wanted.into_iter().filter(|state| !coverage.contains_key(state)).collect();
        assert!(never.is_empty() || !self.is_whole, "never reached: {never:#?}");
    }
}

/// Runs the history of each seed, two at a time, one per core.
pub fn run(
    seeds: &[u64],
    history: impl AsyncFn(u64, &mut Coverage) -> Result<(), String> + Sync,
) -> Result<Coverage, String> {
    let half = seeds.len().div_ceil(2).max(1);
    let each = |seeds: &[u64]| {
        let mut coverage = Coverage::new();
        for seed in seeds {
            // On a runtime of its own, so that a power cut takes its tasks too.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let done = told(runtime)?.block_on(history(*seed, &mut coverage));
            done.map_err(|failure| format!("seed {seed}: {failure}"))?;
        }
        Ok::<_, String>(coverage)
    };
    let mut all = Coverage::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = seeds.chunks(half).map(|seeds| scope.spawn(|| each(seeds))).collect();
        for thread in threads {
            for (state, count) in thread.join().map_err(|_| "a history panicked".to_owned())?? {
                *all.entry(state).or_default() += count;
            }
        }
        Ok(all)
    })
}

pub fn told<T, E: Debug>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{error:?}"))
}
