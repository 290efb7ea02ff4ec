//! The cold side of every table, and the scheduler that keeps it fresh.
//!
//! Each table has one [`TableLake`]: its lake, opened when first needed, its boundary, and how its rounds went. The
//! scheduler looks at all tables several times a second and begins a round where one is due: at the latest when the oldest
//! row that is not in the lake is as old as `lake_freshness` allows. A table whose rounds fail is tried again, ever
//! less often; its rows stay hot. Beside rounds it looks after the lakes (see `upkeep`).
//!
//! A round of a primary-key table writes anew what is deleted of each file that it touches, so many small rounds over many
//! files would write more deletes than rows. When a round did, the next one waits for more rows: up to
//! [`FRESHNESS_STRETCH_MAX`] times as long.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use thermocline_engine::{ColdRows, Engine, Table};
use thermocline_schemas::{BucketId, Code, Error, Offset, PartitionBucket, Result, TableId};
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::boundary::Published;
use crate::cold::ColdBlocks;
use crate::lake::{CompactionPolicy, Grace, LakeTable, LakeVersion, Offsets};
use crate::round::lag_rows;
use crate::upkeep::Upkeep;
use crate::warehouse::Warehouse;

/// How much longer than `lake_freshness` rows wait for the round of a table whose deletes outweigh its rows.
const FRESHNESS_STRETCH_MAX: u64 = 10;
/// Moments of which it is remembered what was tiered by then, each with an offset of every bucket.
const TIERED_MAX: usize = 256;
/// Lakes that are opened at one time when the server starts.
const OPENED_AT_ONCE: usize = 16;

/// The settings of tiering.
#[derive(Clone, Debug)]
pub struct TieringOptions {
    /// Whether rounds begin by themselves; tests may want each at a moment of their own.
    pub scheduler: bool,
    /// How often the scheduler looks.
    pub interval: Duration,
    /// Rounds of different tables at one time.
    pub rounds_at_once: usize,
    /// How much longer than `lake_freshness` a table whose rounds fail waits, at most.
    pub backoff_max: Duration,
    /// How long a start, a stop or a reader waits for a warehouse that does not answer.
    pub patience: Duration,
    /// The least that lakes keep of their past.
    pub grace: Grace,
    /// Which files are written anew.
    pub compaction: CompactionPolicy,
}

impl Default for TieringOptions {
    fn default() -> TieringOptions {
        TieringOptions {
            scheduler: true,
            interval: Duration::from_millis(100),
            rounds_at_once: 2,
            backoff_max: Duration::from_secs(60),
            patience: Duration::from_secs(10),
            grace: Grace::default(),
            compaction: CompactionPolicy::default(),
        }
    }
}

/// The lakes of one engine's tables.
pub struct Tiering {
    engine: Arc<Engine>,
    warehouse: Warehouse,
    options: TieringOptions,
    tables: Mutex<HashMap<TableId, Arc<TableLake>>>,
    scheduler: Mutex<Option<JoinHandle<()>>>,
    stop: Notify,
    rounds: Arc<Semaphore>,
    /// One table is looked after at a time.
    pub(crate) upkeep: Arc<Semaphore>,
    is_closing: AtomicBool,
    /// Not before then are dropped tables purged, in milliseconds since 1970: a store that failed is not asked all the time.
    purge_after_ms: AtomicI64,
    pub(crate) cold_blocks: ColdBlocks,
    /// One backup at a time.
    pub(crate) backup: tokio::sync::Mutex<()>,
}

/// One table's cold side.
#[derive(Debug, Default)]
pub struct TableLake {
    pub(crate) lake: OnceCell<Arc<LakeTable>>,
    pub(crate) published: Published,
    /// One round at a time.
    pub(crate) round: Arc<tokio::sync::Mutex<()>>,
    /// Taken for writing by who removes files of the lake, for reading by who copies them all (see `backup`).
    pub(crate) kept: Arc<tokio::sync::RwLock<()>>,
    /// Set while the scheduler has a round of this table under way.
    busy: AtomicBool,
    history: Mutex<History>,
    pub(crate) upkeep: Mutex<Upkeep>,
}

#[derive(Debug, Default)]
struct History {
    last_round_ms: Option<i64>,
    last_error: Option<String>,
    failures: u32,
    /// The last round wrote so many times as many bytes of deletes as of rows.
    stretch: u64,
    last_let_go_ms: i64,
    /// When the table was first seen to have rows that are not in the lake.
    waiting_since_ms: Option<i64>,
    /// What was tiered when, so that it can be let go in time; oldest first.
    tiered: VecDeque<(i64, Offsets)>,
}

/// How a table stands, for people and for `/v1/tables`.
#[derive(Clone, Debug)]
pub struct TableStatus {
    /// The lake's address; none before its first round, or without a lake.
    pub location: Option<String>,
    pub snapshot_id: Option<i64>,
    pub buckets: Vec<BucketStatus>,
    /// Buckets of which nothing is served, and why.
    pub refused: HashMap<PartitionBucket, Arc<str>>,
    pub lake_lag_rows: u64,
    /// Age of the oldest row that is not in the lake.
    pub lake_lag_seconds: f64,
    pub last_round_ms: Option<i64>,
    pub last_error: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub struct BucketStatus {
    pub bucket: PartitionBucket,
    /// The first offset that a follower can get.
    pub log_start: Offset,
    /// The first hot offset.
    pub trim_floor: Offset,
    /// The first offset that is still to be tiered.
    pub tiered_end: Offset,
    pub durable_end: Offset,
}

impl Tiering {
    /// Opens the lakes of all tables that have let hot rows go, so that each can be read, and starts the scheduler.
    pub async fn open(engine: Arc<Engine>, warehouse: Warehouse, options: TieringOptions) -> Result<Arc<Tiering>> {
        let rounds = Arc::new(Semaphore::new(options.rounds_at_once.max(1)));
        let tiering = Arc::new(Tiering {
            engine,
            warehouse,
            options,
            tables: Mutex::default(),
            scheduler: Mutex::default(),
            stop: Notify::new(),
            rounds,
            upkeep: Arc::new(Semaphore::new(1)),
            is_closing: AtomicBool::new(false),
            purge_after_ms: AtomicI64::new(0),
            cold_blocks: ColdBlocks::default(),
            backup: Default::default(),
        });
        let cold: Arc<dyn ColdRows> = tiering.clone();
        tiering.engine.set_cold(Arc::downgrade(&cold));
        tiering.open_lakes().await;
        if tiering.options.scheduler {
            let scheduler = tokio::spawn(schedule(tiering.clone()));
            *hold(&tiering.scheduler) = Some(scheduler);
        }
        Ok(tiering)
    }

    /// A store that does not answer now must not keep the server down: what is not open in time is opened by the table's
    /// next round, or by whoever needs its cold rows.
    async fn open_lakes(&self) {
        let tables = self.engine.tables().into_iter().filter(|table| table.descriptor().properties.lake_enabled);
        let opening = tables.map(|table| async move {
            if let Err(error) = self.table_lake(&table).open(self, &table).await {
                tracing::warn!(table = %table.descriptor().name, %error, "the lake of a table cannot be opened yet");
            }
        });
        let all = stream::iter(opening).buffer_unordered(OPENED_AT_ONCE).collect::<()>();
        if timeout(self.options.patience, all).await.is_err() {
            tracing::warn!("the lakes of some tables are not open yet: the warehouse is slow or does not answer");
        }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    pub(crate) fn options(&self) -> &TieringOptions {
        &self.options
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    /// Begins no more rounds, and waits a while for those under way. The engine is closed by its owner.
    pub async fn close(&self) {
        // What a rewrite has written so far is given up.
        self.is_closing.store(true, Ordering::Release);
        self.stop.notify_one();
        let scheduler = hold(&self.scheduler).take();
        if let Some(scheduler) = scheduler {
            // It ends by itself once told; a panic of it was logged.
            let _ = scheduler.await;
        }
        // All permits back means that no round is under way. One that waits for a store that does not answer is left: a
        // round may end anywhere, the next start finds out what became of it.
        let over = async {
            let rounds = self.rounds.acquire_many(self.options.rounds_at_once.max(1) as u32).await;
            (rounds, self.upkeep.acquire().await)
        };
        if timeout(self.options.patience, over).await.is_err() {
            tracing::warn!("a round is still under way and is left: the warehouse is slow or does not answer");
        }
    }

    pub(crate) fn table_lake(&self, table: &Table) -> Arc<TableLake> {
        hold(&self.tables).entry(table.descriptor().id).or_default().clone()
    }

    /// The cold side of a table, with its boundary known.
    pub(crate) async fn table_lake_for_reading(&self, table: &Table) -> Result<Arc<TableLake>> {
        let lake = self.table_lake(table);
        // While all rows are hot the empty boundary is as right as the true one, and asks no store.
        let ends = table.ends();
        let all_hot = || table.buckets().all(|(bucket, log)| log.trim_floor() <= ends.start(bucket));
        if lake.lake.initialized() || !table.descriptor().properties.lake_enabled || all_hot() {
            return Ok(lake);
        }
        let opened = match timeout(self.options.patience, lake.open(self, table)).await {
            Ok(opened) => opened.map(drop),
            Err(_) => Err(Error::new(Code::StoreUnavailable, "the warehouse does not answer")),
        };
        opened.map_err(|error| error.while_doing(format!("the lake of table {}", table.descriptor().name)))?;
        Ok(lake)
    }

    /// How a table stands.
    pub async fn status(&self, table: &Arc<Table>) -> Result<TableStatus> {
        let lake = self.table_lake(table);
        let boundary = lake.published.load();
        let ends = table.ends();
        let lake_enabled = table.descriptor().properties.lake_enabled;
        let buckets = table.buckets().map(|(bucket, log)| {
            let trim_floor = log.trim_floor();
            let (log_start, tiered_end) =
                if lake_enabled { (ends.start(bucket), boundary.tiered_end(bucket)) } else { (trim_floor, trim_floor) };
            let tiered_end = tiered_end.max(log_start);
            // Of a primary-key table the lake has no changes.
            let log_start = if table.descriptor().is_keyed() { trim_floor } else { log_start };
            let durable_end = ends.ends.get(&bucket).copied().unwrap_or_else(|| log.end());
            BucketStatus { bucket, log_start, trim_floor, tiered_end, durable_end }
        });
        let history = hold(&lake.history);
        let lag = if lake_enabled { lag_rows(&ends, &boundary.offsets()) } else { 0 };
        let oldest = oldest_untiered(table, &lake).filter(|_| lag > 0);
        Ok(TableStatus {
            location: boundary.lake.as_ref().map(|(lake, _)| lake.location()),
            snapshot_id: boundary.lake.as_ref().and_then(|(_, version)| version.snapshot_id()),
            buckets: buckets.collect(),
            refused: table.buckets().filter_map(|(bucket, log)| Some((bucket, log.refused()?))).collect(),
            lake_lag_rows: lag,
            lake_lag_seconds: oldest.map_or(0.0, |stamp| (self.engine.now_micros() - stamp).max(0) as f64 / 1e6),
            last_round_ms: history.last_round_ms,
            last_error: history.last_error.clone(),
        })
    }
}

/// The stamp of the oldest row that is not in the lake.
fn oldest_untiered(table: &Table, lake: &TableLake) -> Option<i64> {
    let boundary = lake.published.load();
    let ends = table.ends();
    let stamps = table.buckets().filter_map(|(bucket, log)| {
        let from = boundary.tiered_end(bucket).max(log.trim_floor());
        table.hot_rows(bucket, from, ends.end(bucket)).ok()?.first().and_then(thermocline_engine::HotRows::first_stamp)
    });
    stamps.min()
}

impl TableLake {
    /// The lake, opened and its boundary published if it was not.
    pub(crate) async fn open(&self, tiering: &Tiering, table: &Table) -> Result<&Arc<LakeTable>> {
        let open = || async {
            let lake = LakeTable::create_or_open(&tiering.warehouse, table.descriptor()).await?;
            let lake = Arc::new(lake.with_grace(tiering.options.grace));
            let version = lake.current();
            self.published.publish(table, &lake, version.clone())?;
            // When it was tiered is not known any more: it stays hot for its whole time from now.
            self.remember_tiered(tiering.engine.now_micros() / 1000, version.offsets.clone());
            Ok::<_, Error>(lake)
        };
        let lake = self.lake.get_or_try_init(open).await?;
        let newest = tiering.engine.table_by_id(table.descriptor().id);
        lake.adopt(newest.as_deref().unwrap_or(table).descriptor())?;
        Ok(lake)
    }

    /// After the commit of `version`: sweeps metadata files if it is time to, and nobody is copying the lake.
    pub(crate) async fn sweep_if_due(&self, lake: &LakeTable, version: &LakeVersion) {
        if let Ok(_alone) = self.kept.try_write() {
            lake.sweep_if_due(version).await;
        }
    }

    /// Whether the lake has not heard of the table's newest columns, or of rows that it lost.
    fn is_outdated(&self, table: &Table) -> bool {
        let rows_gone = table.ends().starts.rows_gone();
        match self.lake.get() {
            Some(lake) => !lake.knows(table.descriptor()) || lake.current().rows_gone < rows_gone,
            None => rows_gone > 0,
        }
    }

    pub(crate) fn note_round(&self, now_ms: i64, error: Option<&Error>) {
        let mut history = hold(&self.history);
        history.last_round_ms = Some(now_ms);
        history.last_error = error.map(ToString::to_string);
        history.failures = if error.is_some() { history.failures.saturating_add(1) } else { 0 };
        history.waiting_since_ms = None;
    }

    /// What a round wrote, in bytes.
    pub(crate) fn note_weight(&self, data: u64, deletes: u64) {
        hold(&self.history).stretch = deletes / data.max(1);
    }

    pub(crate) fn remember_tiered(&self, now_ms: i64, offsets: Offsets) {
        let tiered = &mut hold(&self.history).tiered;
        if tiered.len() >= TIERED_MAX {
            // Rows of the one that goes wait for the next one's time: of all but the ends, where that is least.
            let gap = |place: &usize| tiered[place + 1].0.saturating_sub(tiered[place - 1].0);
            if let Some(place) = (1..tiered.len() - 1).min_by_key(gap) {
                tiered.remove(place);
            }
        }
        tiered.push_back((now_ms, offsets));
    }

    /// The furthest offsets that were tiered at or before `before_ms`, taken off the queue.
    pub(crate) fn retired(&self, before_ms: i64) -> Option<(i64, Offsets)> {
        let mut history = hold(&self.history);
        let mut retired = None;
        while history.tiered.front().is_some_and(|(tiered_ms, _)| *tiered_ms <= before_ms) {
            retired = history.tiered.pop_front();
        }
        retired
    }

    /// The nearest offsets, of those that were tiered, from which on what is hot fits; or the furthest. Taken off the queue
    /// with those before.
    pub(crate) fn fitting(&self, fits: impl Fn(&Offsets) -> bool) -> Option<(i64, Offsets)> {
        let mut history = hold(&self.history);
        let mut retired: Option<(i64, Offsets)> = None;
        while retired.as_ref().is_none_or(|(_, offsets)| !fits(offsets)) {
            match history.tiered.pop_front() {
                Some(next) => retired = Some(next),
                None => break,
            }
        }
        retired
    }

    /// What [`Self::retired`] gave could not be let go now.
    pub(crate) fn not_let_go(&self, tiered_ms: i64, offsets: Offsets) {
        hold(&self.history).tiered.push_front((tiered_ms, offsets));
    }

    /// Once a second at most: each letting go is an edit in the journal.
    pub(crate) fn is_time_to_let_go(&self, now_ms: i64) -> bool {
        let mut history = hold(&self.history);
        let due = now_ms >= history.last_let_go_ms + 1000;
        if due {
            history.last_let_go_ms = now_ms;
        }
        due
    }

    /// Since when a round is due, if one is: rows wait, and have waited long enough.
    pub(crate) fn due_since(&self, table: &Table, now_ms: i64, backoff_max: Duration) -> Option<i64> {
        let waiting = lag_rows(&table.ends(), &self.published.load().offsets()) > 0 || self.is_outdated(table);
        let mut history = hold(&self.history);
        if !waiting {
            history.waiting_since_ms = None;
            return None;
        }
        let since = *history.waiting_since_ms.get_or_insert(now_ms);
        let stretch = history.stretch.clamp(1, FRESHNESS_STRETCH_MAX);
        let freshness = table.descriptor().properties.lake_freshness_ms.saturating_mul(stretch) as i64;
        let backoff = match history.failures {
            0 => 0,
            failures => (500_i64 << failures.min(10)).min(backoff_max.as_millis() as i64),
        };
        // A round takes time too: half of the allowance is for it.
        let due = since.saturating_add(freshness / 2 + backoff);
        (now_ms >= due).then_some(due)
    }
}

async fn schedule(tiering: Arc<Tiering>) {
    loop {
        tokio::select! {
            () = tiering.stop.notified() => return,
            () = tokio::time::sleep(tiering.options.interval) => {}
        }
        let tables = {
            let mut lakes = hold(&tiering.tables);
            // Asked under the lock, so that a table whose lake is in the map is in the list.
            let tables = tiering.engine.tables();
            // Nobody who comes for a dropped table may be beside a round that is still under way.
            let dropped = tiering.engine.dropped_tables();
            let all = || tables.iter().chain(dropped.iter().map(|(table, _)| table));
            lakes.retain(|id, _| all().any(|table| table.descriptor().id == *id));
            tables
        };
        let (mut due, mut worn) = (Vec::new(), Vec::new());
        for table in tables {
            let lake = tiering.table_lake(&table);
            let name = table.descriptor().name.to_string();
            if let Err(error) = tiering.let_go(&table, &lake).await {
                tracing::warn!(table = name, %error, "could not let hot rows go");
            }
            if !table.descriptor().properties.lake_enabled {
                continue;
            }
            let now_ms = tiering.engine.now_micros() / 1000;
            if let Some(since) = lake.upkeep_due_since(&table, now_ms) {
                worn.push((since, table.clone(), lake.clone()));
            }
            if let Some(since) = lake.due_since(&table, now_ms, tiering.options.backoff_max) {
                due.push((since, table, lake));
            }
        }
        // Who has been due for longest comes first, or tables with late names would never be served.
        due.sort_by_key(|(since, _, _)| *since);
        for (_, table, lake) in due {
            let Ok(permit) = tiering.rounds.clone().try_acquire_owned() else { break };
            let Some(busy) = Busy::begin(&lake) else { continue };
            let tiering = tiering.clone();
            tokio::spawn(async move {
                let _both = (permit, busy);
                if let Err(error) = tiering.tier(&table).await {
                    tracing::warn!(table = %table.descriptor().name, %error, "a round failed; it will be tried again");
                }
            });
        }
        let now_ms = tiering.engine.now_micros() / 1000;
        let may_purge = now_ms >= tiering.purge_after_ms.load(Ordering::Acquire);
        let is_due = may_purge && !tiering.due_for_purge().is_empty();
        if is_due && let Ok(permit) = tiering.upkeep.clone().try_acquire_owned() {
            let tiering = tiering.clone();
            tokio::spawn(async move {
                let _one = permit;
                if let Err(error) = tiering.purge_due().await {
                    tracing::warn!(%error, "a dropped table is not gone yet; it will be tried again");
                    let wait_ms = tiering.options.backoff_max.as_millis() as i64;
                    tiering.purge_after_ms.store(now_ms.saturating_add(wait_ms), Ordering::Release);
                }
            });
        } else if let Some((_, table, lake)) = worn.into_iter().min_by_key(|(since, _, _)| *since)
            && let Ok(permit) = tiering.upkeep.clone().try_acquire_owned()
        {
            let tiering = tiering.clone();
            tokio::spawn(async move {
                let _one = permit;
                tiering.look_after(&table, &lake).await;
            });
        }
    }
}

/// The scheduler has a round of this table under way; over when dropped, however the round ends.
struct Busy(Arc<TableLake>);

impl Busy {
    fn begin(lake: &Arc<TableLake>) -> Option<Busy> {
        (!lake.busy.swap(true, Ordering::AcqRel)).then(|| Busy(lake.clone()))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

pub(crate) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BucketStatus {
    pub fn bucket_id(&self) -> BucketId {
        self.bucket.bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of a day, of which the hour is to stay hot: what goes was tiered an hour ago, and not much longer.
    #[test]
    fn few_moments_say_what_may_go() {
        let (lake, bucket) = (TableLake::default(), PartitionBucket::unpartitioned(0));
        let (round_ms, kept_ms) = (1_000, 3_600_000);
        let mut gone = 0;
        for round in 1..=86_400_i64 {
            let now_ms = round * round_ms;
            lake.remember_tiered(now_ms, [(bucket, Offset(round as u64))].into_iter().collect());
            assert!(hold(&lake.history).tiered.len() <= TIERED_MAX);
            if let Some((_, offsets)) = lake.retired(now_ms - kept_ms) {
                gone = offsets.get(bucket).0 as i64;
            }
            assert!(now_ms - gone * round_ms >= kept_ms.min(now_ms), "round {round}: too early");
            let most = kept_ms + kept_ms / 64;
            assert!(now_ms - (gone + 1) * round_ms <= most, "round {round}: {gone} is long since");
        }
    }
}
