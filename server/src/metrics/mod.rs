//! What the server does, in numbers for Prometheus.
//!
//! The crates below count as they go, through the `metrics` crate, into the one [`Recorder`] of this process; what can be
//! asked for (rows, lags, memory, disk) is asked for when somebody scrapes. Tables that are gone leave no series.

mod query;
mod recorder;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

pub use self::query::CountedQuery;
use self::recorder::Recorder;
use crate::app::App;
use crate::metric_names::*;

/// The one recorder of this process; more than one server in a process share it.
static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// Collects metrics from now on.
pub fn install() {
    RECORDER.get_or_init(|| {
        let all = [thermocline_engine::metric_names::ALL, thermocline_tiering::metric_names::ALL, ALL];
        let recorder = Recorder::new(all.into_iter().flatten().copied());
        if metrics::set_global_recorder(recorder.clone()).is_err() {
            tracing::warn!("another recorder has the metrics; /metrics will be empty");
        }
        recorder
    });
}

/// All samples, taken now.
pub async fn scrape(app: &App) -> String {
    sample(app).await;
    RECORDER.get().map(Recorder::render).unwrap_or_default()
}

async fn sample(app: &App) {
    metrics::gauge!(MEMORY_BYTES.name, "owner" => "bodies").set(app.body_bytes() as f64);
    let Ok(store) = app.store() else { return };
    let (engine, mut tail_bytes, mut names) = (store.engine(), 0, BTreeSet::new());
    let mut followers = BTreeMap::<_, (u64, u64)>::new();
    for (table, behind) in app.followed() {
        let of_table = followers.entry(table).or_default();
        *of_table = (of_table.0 + 1, of_table.1.max(behind));
    }
    for table in engine.tables() {
        let name = table.descriptor().name.to_string();
        let ends = table.ends();
        let set = |metric: &thermocline_schemas::Metric, value: f64| {
            metrics::gauge!(metric.name, "table" => name.clone()).set(value);
        };
        let buckets = table.buckets().map(|(bucket, log)| (ends.end(bucket), log));
        let hot = buckets.map(|(end, log)| {
            tail_bytes += log.tail_bytes();
            let segments: u64 = log.segments().iter().map(|segment| segment.bytes()).sum();
            (end.0.saturating_sub(log.trim_floor().0), segments)
        });
        let (rows, segments) = hot.fold((0, 0), |sum, hot| (sum.0 + hot.0, sum.1 + hot.1));
        set(&HOT_ROWS, rows as f64);
        set(&SEGMENT_BYTES, segments as f64);
        if ends.stamp > 0 {
            set(&NEWEST_ROW, ends.stamp as f64 / 1e6);
        }
        let (count, behind) = followers.get(&table.descriptor().id).copied().unwrap_or_default();
        set(&FOLLOWERS, count as f64);
        set(&FOLLOWER_BEHIND, behind as f64);
        if let Ok(status) = store.tiering.status(&table).await {
            set(&LAKE_LAG_ROWS, status.lake_lag_rows as f64);
            set(&LAKE_LAG_SECONDS, status.lake_lag_seconds);
            set(&REFUSED_BUCKETS, status.refused.len() as f64);
        }
        names.insert(name);
    }
    if let Some(recorder) = RECORDER.get() {
        recorder.retain("table", &names);
    }
    let owners = [
        ("tails", tail_bytes),
        ("writes", engine.memory_bytes().saturating_sub(tail_bytes)),
        ("keys", engine.key_bytes()),
        ("queries", store.sql.memory_bytes()),
    ];
    for (owner, bytes) in owners {
        metrics::gauge!(MEMORY_BYTES.name, "owner" => owner).set(bytes as f64);
    }
    // A journal that cannot say has failed, which the process does not outlive.
    if let Ok(bytes) = engine.journal_bytes().await {
        metrics::gauge!(JOURNAL_BYTES.name).set(bytes as f64);
    }
    if let Ok(bytes) = engine.disk_free_bytes() {
        metrics::gauge!(DISK_FREE_BYTES.name).set(bytes as f64);
    }
}
