//! What the clients of one directory share: where the server is, what each table's history is, and what went wrong.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use reqwest::Client;
use thermocline_integration_tests::oracle;
use thermocline_schemas::Changelog;
use thermocline_tiering::check::{History, KeyedHistory, Row};
use tokio::sync::watch;

use super::emptied::Emptied;
use super::keyed;

/// A table that is written and read.
pub struct Target {
    pub name: &'static str,
    pub history: Mutex<History>,
    /// Its `WITH` properties.
    pub properties: String,
}

/// Where the server is, and whether it is time for load.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    pub url: Option<String>,
    pub load: bool,
    pub done: bool,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub reads: AtomicU64,
    pub repeats: AtomicU64,
    pub followed: AtomicU64,
    pub resumes: AtomicU64,
    pub rounds: AtomicU64,
    /// Keys that were looked up.
    pub lookups: AtomicU64,
    /// States that followers began with.
    pub snapshots: AtomicU64,
    /// Followers that were told that what comes next is no longer kept.
    pub fallen_behind: AtomicU64,
}

pub struct World {
    pub data: PathBuf,
    pub targets: Vec<Target>,
    pub keyed: Vec<keyed::Target>,
    /// A table that is truncated.
    pub emptied: Mutex<Emptied>,
    /// A table that comes and goes; whether it is there, if that is known.
    pub scratch: Mutex<Option<(String, bool)>>,
    pub client: Client,
    pub counts: Counts,
    phase: watch::Sender<Phase>,
    failures: Mutex<Vec<String>>,
}

pub fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn as_rows(ids: &[i64]) -> Vec<Row> {
    ids.iter().map(|id| Row(*id as u64)).collect()
}

impl World {
    /// `number`: of the directory; those in a row differ in their busy tables.
    pub fn new(data: PathBuf, number: usize) -> World {
        // Rows of a table with partitions are in buckets that have the number of their partition.
        let buckets = [
            "buckets = 1",
            "buckets = 3, bucket_key = 'city'",
            "buckets = 2",
            "buckets = 3, bucket_key = 'city', partition_by = 'bucket(3, city)'",
        ];
        let buckets = buckets[number % buckets.len()];
        let keyed = [
            (1, 3, "300ms", Changelog::Full, ""),
            (3, 2, "0s", Changelog::Full, ""),
            (4, 3, "0s", Changelog::Full, ", partition_by = 'bucket(4, item)'"),
            (1, 2, "300ms", Changelog::Full, ""),
            (2, 3, "300ms", Changelog::Upsert, ""),
        ];
        let (keyed_buckets, format_version, hot_retention, changelog, partitions) = keyed[number % keyed.len()];
        let busy = format!("{buckets}, lake_freshness = '200ms', hot_retention = '300ms'");
        let targets = vec![
            Target { name: "busy", history: Mutex::default(), properties: busy },
            // So rarely written and tiered that its rows hold old journal files, and are carried.
            Target { name: "quiet", history: Mutex::default(), properties: "lake_freshness = '1h'".to_owned() },
        ];
        let keyed = |name, changelog, buckets, properties, writers, items| keyed::Target {
            name,
            history: Mutex::new(KeyedHistory::new(changelog)),
            properties,
            buckets,
            writers,
            items,
            let_go: AtomicU64::default(),
        };
        let told = if changelog == Changelog::Full { "full" } else { "upsert" };
        let stock = format!(
            "format_version = {format_version}, lake_freshness = '300ms', hot_retention = '{hot_retention}', \
             changelog = '{told}'{partitions}"
        );
        let keyed = vec![
            keyed("stock", changelog, keyed_buckets, stock, 1..4, 80),
            // Nothing of it is let go, and it is carried.
            keyed("shelf", Changelog::Full, 2, "lake_freshness = '1h'".to_owned(), 8..9, 16),
        ];
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client");
        World {
            data,
            targets,
            keyed,
            emptied: Mutex::default(),
            scratch: Mutex::default(),
            client,
            counts: Counts::default(),
            phase: watch::Sender::new(Phase::default()),
            failures: Mutex::default(),
        }
    }

    pub fn ddl(target: &Target) -> String {
        format!("CREATE TABLE {} ({}) WITH ({})", target.name, oracle::DDL_COLUMNS, target.properties)
    }

    pub fn set(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits for a server, and for load to be wanted if `load`; none when all is over.
    pub async fn url(&self, load: bool) -> Option<String> {
        let mut phase = self.phase.subscribe();
        let phase = phase.wait_for(|phase| phase.done || (phase.url.is_some() && (phase.load || !load))).await;
        phase.ok().filter(|phase| !phase.done).and_then(|phase| phase.url.clone())
    }

    /// Something is not as it must be: the run ends.
    pub fn fail(&self, what: impl ToString) {
        hold(&self.failures).push(what.to_string());
    }

    pub fn check(&self, checked: Result<(), impl ToString>) {
        if let Err(violation) = checked {
            self.fail(violation);
        }
    }

    pub fn failure(&self) -> Option<String> {
        let failures = hold(&self.failures);
        (!failures.is_empty()).then(|| failures.join("\n"))
    }
}

pub fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// After an answer that did not come: the kill may not have been noticed yet.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

pub async fn sleep(milliseconds: std::ops::Range<u64>) {
    let chosen = rand::rng().random_range(milliseconds);
    tokio::time::sleep(Duration::from_millis(chosen)).await;
}
