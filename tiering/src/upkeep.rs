//! When lakes are looked after: partitions expired, files written anew after rounds, what nobody needs swept once in a while.
//!
//! The scheduler asks after each look at rounds. One table at a time in a server, who waits for longest first; rounds never
//! wait for it but for the moment of a commit. What fails is tried again, ever less often.

use std::sync::Arc;

use thermocline_engine::Table;
use thermocline_schemas::Result;

use crate::compact::closing;
use crate::expiry::INTERVAL_MS;
use crate::lake::Swept;
use crate::metric_names;
use crate::tiering::{TableLake, Tiering, hold};

/// Versions between two looks for files to be written anew. A look costs a read of the newest manifests; a run that is
/// complete waits for so many rounds at most.
const VERSIONS_BETWEEN: u64 = 4;
const BACKOFF_MIN_MS: i64 = 1_000;
const BACKOFF_MAX_MS: i64 = 3_600_000;

/// How upkeep of one table stands.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// The version in which there was nothing to be written anew; 0 before the first look.
    looked_at: u64,
    /// When orphans are swept next; none before the first look.
    sweep_at_ms: Option<i64>,
    /// The version that was swept last, if nothing was left for later.
    swept: Option<u64>,
    /// When partitions were looked at last whose time may be over.
    expired_ms: i64,
    last_ms: i64,
    failures: u32,
}

impl Upkeep {
    /// Whether enough has happened up to this version for another look at its files.
    fn is_changed(&self, version: u64) -> bool {
        self.looked_at == 0 || version >= self.looked_at + VERSIONS_BETWEEN
    }
}

impl TableLake {
    /// Since when upkeep is due, if it is.
    pub(crate) fn upkeep_due_since(&self, table: &Table, now_ms: i64) -> Option<i64> {
        let boundary = self.published.load();
        let (lake, version) = boundary.lake.as_ref()?;
        let mut upkeep = hold(&self.upkeep);
        // What a process before this one left is swept after a while, not at the start of every one.
        let first = now_ms.saturating_add(lake.sweep_interval_ms() as i64);
        let sweep_at_ms = *upkeep.sweep_at_ms.get_or_insert(first);
        let backoff = match upkeep.failures {
            0 => 0,
            failures => (BACKOFF_MIN_MS << failures.min(12)).min(BACKOFF_MAX_MS),
        };
        if now_ms < upkeep.last_ms.saturating_add(backoff) {
            return None;
        }
        let is_changed = upkeep.is_changed(version.version);
        let is_to_sweep = now_ms >= sweep_at_ms && upkeep.swept != Some(version.version);
        let expires = table.descriptor().properties.partition_retention_ms.is_some();
        let is_to_expire = expires && now_ms >= upkeep.expired_ms.saturating_add(INTERVAL_MS);
        (is_changed || is_to_sweep || is_to_expire).then_some(upkeep.last_ms)
    }
}

impl Tiering {
    /// Looks after one table; for who has the permit.
    pub(crate) async fn look_after(&self, table: &Arc<Table>, table_lake: &TableLake) {
        let expired = match table.descriptor().properties.partition_retention_ms {
            None => Ok(()),
            Some(_) => {
                let expired = self.expire_due(table, table_lake).await.map(drop);
                hold(&table_lake.upkeep).expired_ms = self.engine().now_micros() / 1000;
                expired
            }
        };
        let done = self.compact_and_sweep(table, table_lake).await.and(expired);
        let mut upkeep = hold(&table_lake.upkeep);
        upkeep.last_ms = self.engine().now_micros() / 1000;
        match done {
            Ok(()) => upkeep.failures = 0,
            Err(error) => {
                upkeep.failures = upkeep.failures.saturating_add(1);
                let table = table.descriptor().name.to_string();
                tracing::warn!(table, %error, "the upkeep of a lake failed; it will be tried again");
            }
        }
    }

    async fn compact_and_sweep(&self, table: &Arc<Table>, table_lake: &TableLake) -> Result<()> {
        let boundary = table_lake.published.load();
        let version = boundary.lake.as_ref().map_or(0, |(_, version)| version.version);
        if hold(&table_lake.upkeep).is_changed(version) {
            self.compact_once(table, table_lake).await?;
        }
        let now_ms = self.engine().now_micros() / 1000;
        if hold(&table_lake.upkeep).sweep_at_ms.is_some_and(|sweep_at_ms| now_ms >= sweep_at_ms) {
            self.sweep(table, table_lake).await?;
        }
        Ok(())
    }

    async fn compact_once(&self, table: &Arc<Table>, table_lake: &TableLake) -> Result<()> {
        let report = self.compact_alone(table, table_lake).await?;
        if report.replaced == 0 {
            hold(&table_lake.upkeep).looked_at = report.version;
        }
        Ok(())
    }

    /// Removes what nobody needs any more of a table's lake, as the scheduler does by itself, and says how much that was.
    pub async fn sweep_now(&self, table: &Arc<Table>) -> Result<usize> {
        let _one = self.upkeep.acquire().await.map_err(|_| closing())?;
        self.sweep(table, &self.table_lake(table)).await
    }

    async fn sweep(&self, table: &Arc<Table>, table_lake: &TableLake) -> Result<usize> {
        let lake = table_lake.open(self, table).await?;
        {
            // A version that comes between a round's plan and its commit would void the plan.
            let _between_rounds = table_lake.round.lock().await;
            if lake.expire_if_idle().await? {
                table_lake.published.publish(table, lake, lake.current())?;
            }
        }
        let version = lake.current().version;
        // While a backup copies them, files stay; the next sweep removes them.
        let swept = match table_lake.kept.try_write() {
            Ok(_alone) => lake.sweep_orphans().await?,
            Err(_) => Swept { removed: 0, waits: true },
        };
        if swept.removed > 0 {
            let name = table.descriptor().name.to_string();
            metrics::counter!(metric_names::SWEPT_OBJECTS.name, "table" => name.clone())
                .increment(swept.removed as u64);
            tracing::info!(table = name, count = swept.removed, "files that nobody needs were removed");
        }
        let mut upkeep = hold(&table_lake.upkeep);
        upkeep.swept = (!swept.waits).then_some(version);
        let next = self.engine().now_micros() / 1000 + lake.sweep_interval_ms() as i64;
        upkeep.sweep_at_ms = Some(next);
        Ok(swept.removed)
    }
}
