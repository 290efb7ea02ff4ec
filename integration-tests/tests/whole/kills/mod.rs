//! The real binary, killed with SIGKILL again and again under writers, followers, queries and rounds, and every read
//! held against the one checker (`thermocline_tiering::check`): log tables and tables with a primary key. One more table is
//! filled and truncated, and sets rows aside (`emptied`).
//!
//! A cycle ends with a SIGKILL: at a random moment, perhaps while the process is stopped (SIGSTOP) or still recovering,
//! or when one thread has halted at a `CrashPoint` and the others have gone on for a moment. Then the server is started
//! again, and before new load comes, everything is read in every way: SELECT, filtered SELECT, count, lookups, changes
//! from the start and from the state, the lake by SQL, and the lake's files without us. Followers live through it all
//! and resume by their tokens.
//!
//! Each directory is left after some cycles, checked with `thermocline check`, and a fresh one begun, so that the cost
//! of reading everything stays the same however long the run. A run hits every crash point at least once.
//! `THERMOCLINE_KILLS=<n>` runs at least so many cycles, `THERMOCLINE_KILL_SECONDS=<n>` at least so long.

mod clients;
mod emptied;
mod epoch;
mod followers;
mod keyed;
mod verify;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::SliceRandom;
use thermocline_engine::faults::CrashPoint;

/// Cycles in one directory.
const EPOCH_CYCLES: usize = 10;
/// Enough for every crash point, and some that are tried again.
const CYCLES: usize = 30;
/// How often a point that was not reached is tried again.
const POINT_TRIES: usize = 3;

/// How a cycle ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    Anywhen,
    Recovering,
    At(CrashPoint),
}

/// What a run found.
#[derive(Debug, Default)]
struct Report {
    /// The number of the first directory, which says how its tables are made.
    first: usize,
    kills: u64,
    directories: u64,
    acked_rows: u64,
    /// Upserts and deletes of tables with a primary key, and what they came to.
    keyed_acked_rows: u64,
    keyed_changes: u64,
    /// Changes that were no longer hot in the end.
    let_go: u64,
    applied_unanswered: u64,
    repeats: u64,
    reads: u64,
    followed_rows: u64,
    resumes: u64,
    rounds: u64,
    lookups: u64,
    snapshots: u64,
    fallen_behind: u64,
    points: BTreeMap<&'static str, u64>,
    missed: Vec<CrashPoint>,
    restarts: Vec<Duration>,
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_loses_nothing_doubles_nothing_and_misleads_nobody() {
    let started = Instant::now();
    let cycles = number("THERMOCLINE_KILLS").map_or(CYCLES, |cycles| cycles as usize);
    let seconds = number("THERMOCLINE_KILL_SECONDS").unwrap_or(0);
    let mut report = Report { first: rand::rng().random_range(0..100), ..Report::default() };
    let mut done = 0;
    let mut points = Vec::new();
    let mut tries: BTreeMap<&str, usize> = BTreeMap::new();
    loop {
        let all_hit = CrashPoint::ALL.iter().all(|point| report.points.contains_key(point.name()));
        if done >= cycles && started.elapsed().as_secs() >= seconds && all_hit {
            break;
        }
        let mut plan = Vec::new();
        while plan.len() < EPOCH_CYCLES {
            for point in report.missed.drain(..) {
                let tried = tries.entry(point.name()).or_default();
                *tried += 1;
                assert!(*tried < POINT_TRIES, "{} was not reached in {POINT_TRIES} cycles", point.name());
                points.push(point);
            }
            if points.is_empty() {
                points = CrashPoint::ALL.to_vec();
                points.shuffle(&mut rand::rng());
            }
            plan.push(match plan.len() % 5 {
                0 if rand::rng().random_bool(0.3) => Kill::Recovering,
                0 => Kill::Anywhen,
                _ => points.pop().map_or(Kill::Anywhen, Kill::At),
            });
        }
        done += plan.len();
        epoch::run(&plan, &mut report).await;
        println!("{done} cycles in {:?}: {}", started.elapsed(), report.summary());
    }
    println!("{}", report.summary());
    println!("points hit: {:?}", report.points);
    let floor = 500 * done as u64;
    assert!(report.acked_rows > floor, "{} rows acked are too few for the kills to mean something", report.acked_rows);
    let (acked, floor) = (report.keyed_acked_rows, 100 * done as u64);
    assert!(acked > floor, "{acked} upserts and deletes acked are too few for the kills to mean something");
}

impl Report {
    /// Nothing was lost, doubled, reordered or misread, or the run would have ended there.
    fn summary(&self) -> String {
        let mut restarts = self.restarts.clone();
        restarts.sort();
        let percentile = |percent: usize| restarts.get((restarts.len() * percent / 100).min(restarts.len() - 1));
        format!(
            "{} kills in {} directories, {} acked rows, {} acked upserts and deletes as {} changes, {} of \
             them let go: lost 0, doubled 0, reordered 0, wrong changes 0, wrong reads 0; {} unanswered requests \
             applied, {} repeats answered, {} reads, {} keys looked up, {} followed rows over {} resumes and {} \
             states, {} followers told that they fell behind, {} rounds; {} of {} points hit; restart p50 {:?}, \
             p99 {:?}",
            self.kills,
            self.directories,
            self.acked_rows,
            self.keyed_acked_rows,
            self.keyed_changes,
            self.let_go,
            self.applied_unanswered,
            self.repeats,
            self.reads,
            self.lookups,
            self.followed_rows,
            self.resumes,
            self.snapshots,
            self.fallen_behind,
            self.rounds,
            self.points.len(),
            CrashPoint::ALL.len(),
            percentile(50).copied().unwrap_or_default(),
            percentile(99).copied().unwrap_or_default(),
        )
    }
}
