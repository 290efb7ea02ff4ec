//! `thermocline check`: a stopped data directory, read to the last byte.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use thermocline_engine::disk::RealDisk;
use thermocline_tiering::check::{Scrub, scrub};

use super::output::{self, grouped};
use super::{EXIT_CANNOT_CHECK, Failure, Outcome, table};

const EXAMPLES: &str = "\
Examples:
  thermocline check ./thermocline-data
  thermocline check /srv/thermocline --warehouse s3://bucket/lake

Reads every byte under a checksum, every row of the lake, and whether offsets follow each other from tier to tier. Changes
nothing. The server must be stopped. Exit codes: 0 sound, 1 damage was found, 2 it could not be checked.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArguments {
    /// The data directory of a server that is stopped
    data_dir: PathBuf,
    /// Where its Iceberg tables live, as `serve` was told [default: <data-dir>/warehouse]
    #[arg(long, env = "THERMOCLINE_WAREHOUSE", value_name = "PLACE")]
    warehouse: Option<String>,
}

pub async fn run(arguments: CheckArguments) -> Outcome {
    // What is found is said below, once.
    super::serve::log_to_stderr(super::serve::LogFormat::Text, "off");
    let inside = arguments.data_dir.join("warehouse");
    let warehouse = arguments.warehouse.filter(|warehouse| !warehouse.is_empty());
    let warehouse = warehouse.unwrap_or_else(|| inside.to_string_lossy().into_owned());
    let bar = progress_bar();
    let started = Instant::now();
    let read = {
        let bar = bar.clone();
        let progress = Arc::new(move |bytes| bar.inc(bytes));
        scrub(Arc::new(RealDisk), &arguments.data_dir, &warehouse, progress).await
    };
    bar.finish_and_clear();
    let found = read.map_err(|error| Failure::from(error).with_exit(EXIT_CANNOT_CHECK))?;
    output::line(table::plain(
        &["table", "bucket", "hot from", "lake to", "end", "lake files"],
        found.buckets.iter().map(|bucket| {
            let status = &bucket.status;
            let offsets = [status.trim_floor, status.tiered_end, status.durable_end];
            let numbers = offsets.map(|offset| grouped(offset.0));
            [bucket.table.to_string(), status.bucket.bucket.to_string()]
                .into_iter()
                .chain(numbers)
                .chain([grouped(bucket.lake_files)])
                .collect()
        }),
    ));
    for note in &found.notes {
        output::line(format_args!("note: {note}"));
    }
    for damage in &found.damage {
        output::line(format_args!("damage: {damage}"));
    }
    output::line(totals(&found, started.elapsed().as_secs_f64()));
    match found.damage.len() {
        0 => Ok(()),
        1 => Err(Failure::new("1 place is damaged")),
        many => Err(Failure::new(format!("{many} places are damaged"))),
    }
}

fn totals(found: &Scrub, seconds: f64) -> String {
    format!(
        "read {} files, {} frames, {}, {} bytes in {seconds:.1} s: {}",
        grouped(found.files),
        grouped(found.frames),
        output::rows(found.rows),
        grouped(found.bytes),
        if found.damage.is_empty() { "sound" } else { "damaged" }
    )
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {bytes} checked, {bytes_per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}
