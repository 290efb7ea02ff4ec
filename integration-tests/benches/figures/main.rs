//! The page of figures: `cargo build --release --workspace --bins`, then `cargo bench --workspace --bench figures`; one part
//! of it by its name, as `-- keys`.
//!
//! Each figure stands beside a baseline measured in the same run, because machines differ and are shared: read the ratios.
//! - `append`: rows made durable per second, through the engine and over HTTP, beside a bare loop that encodes the same
//!   batches as Arrow IPC, takes their CRC32C, writes them to one file and syncs it.
//! - `latency`: from the ack of a row to SQL showing it and to its event at a subscriber.
//! - `scan`: an aggregation over cold and hot rows as one table, beside DataFusion on the same Parquet files alone.
//! - `state`: the same for a primary key, a tenth of whose rows were replaced.
//! - `keys`: upserts, lookups and restart of a table with a primary key, beside appends of the same rows to a log table.
//! - `index`: the key index beside the standard library's maps.
#![allow(clippy::print_stdout)] // printing is what a bench is for

mod append;
mod index;
mod keys;
mod latency;
mod scan;
mod state;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thermocline_engine::disk::RealDisk;
use thermocline_engine::{Engine, EngineOptions, SystemClock};

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        println!("{} cores\n", std::thread::available_parallelism().map_or(0, usize::from));
        if is_wanted("append") {
            append::run().await;
        }
        if is_wanted("latency") {
            latency::run().await;
        }
        if is_wanted("scan") {
            scan::run().await;
        }
        if is_wanted("state") {
            state::run().await;
        }
        if is_wanted("keys") {
            keys::run().await;
        }
        if is_wanted("index") {
            index::run();
        }
    });
}

fn heading(title: &str) {
    println!("\n{title}\n{}", "-".repeat(title.chars().count()));
}

fn line(what: &str, per_second: f64, baseline: f64) {
    println!("{what:<46} {:>10.0} k rows/s {:>7.2} × baseline", per_second / 1e3, per_second / baseline);
}

fn open_engine(directory: &Path) -> Arc<Engine> {
    let engine = Engine::open(Arc::new(RealDisk), directory, EngineOptions::default(), Arc::new(SystemClock));
    engine.expect("the engine opens")
}

fn ratio(time: Duration, baseline: Duration) -> f64 {
    time.as_secs_f64() / baseline.as_secs_f64()
}

/// The best of a few runs: the others were disturbed.
async fn best(run: impl AsyncFn()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        run().await;
        best = best.min(started.elapsed());
    }
    best
}
