//! `thermocline backup`: of a running server, by asking it; of a stopped data directory, by reading it.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use clap::Args;
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::Value;
use thermocline_engine::disk::RealDisk;
use thermocline_tiering::{BackedUpTable, BackupReport, Progress, Warehouse, back_up_stopped};

use super::client::{Client, ProblemDocument, Refusal, broke_off};
use super::output::{self, grouped};
use super::signals::Signals;
use super::{Connection, Failure, Outcome, table};

const EXAMPLES: &str = "\
Examples:
  thermocline serve --backup-dir /srv/backups      then, while it runs:
  thermocline backup monday                        makes /srv/backups/monday, on the server's machine
  thermocline backup /srv/backups/monday --data-dir /srv/thermocline --warehouse s3://bucket/lake
                                                   of a server that is stopped

A backup holds every row that was acked before, hot rows and lake, at one moment in all tables, with checksums. It needs nothing
but itself: `thermocline restore` makes a server of it, wherever its files shall lie.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BackupArguments {
    /// The backup's name in the server's --backup-dir; by default the time. With --data-dir, its directory: new, or empty
    #[arg(value_name = "NAME|DIRECTORY")]
    backup: Option<String>,
    /// Back up this data directory, whose server is stopped
    #[arg(long, value_name = "DIRECTORY", requires = "backup")]
    data_dir: Option<PathBuf>,
    /// With --data-dir: where its Iceberg tables live, as `serve` was told [default: <data-dir>/warehouse]
    #[arg(long, env = "THERMOCLINE_WAREHOUSE", value_name = "PLACE")]
    warehouse: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// A line of the server's answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Progress { bytes: u64, of: u64 },
    Backup { backup: Value },
    Error { error: Box<ProblemDocument> },
}

pub async fn run(arguments: BackupArguments) -> Outcome {
    match (arguments.data_dir, arguments.backup) {
        (Some(data_dir), Some(directory)) => stopped(data_dir, arguments.warehouse, directory.into()).await,
        (_, name) => running(&arguments.connection, name).await,
    }
}

async fn running(connection: &Connection, name: Option<String>) -> Outcome {
    let client = Client::new(connection)?;
    let request = client.post("/v1/backup").query(&name.map(|name| ("name", name)).as_slice());
    let mut answer = client.send(request).await?.bytes_stream();
    let bar = progress_bar("backed up");
    let mut waiting = Vec::new();
    while let Some(bytes) = answer.try_next().await.map_err(|error| broke_off(&error))? {
        waiting.extend(bytes);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            let line = serde_json::from_slice(&line);
            match line.map_err(|error| Failure::new(format!("an answer that is not one: {error}")))? {
                Line::Progress { bytes, of } => {
                    bar.set_length(of);
                    bar.set_position(bytes);
                }
                Line::Error { error } => {
                    bar.finish_and_clear();
                    return Err(Refusal::Problem(error).into());
                }
                Line::Backup { backup } => {
                    bar.finish_and_clear();
                    let tables: Result<Vec<BackedUpTable>, _> = serde_json::from_value(backup["tables"].clone());
                    show(&tables.map_err(|error| Failure::new(format!("an answer that is not one: {error}")))?);
                    let text = |name: &str| backup[name].as_str().unwrap_or_default().to_owned();
                    let number = |name: &str| grouped(backup[name].as_u64().unwrap_or(0));
                    let (files, bytes, directory) = (number("files"), number("bytes"), text("directory"));
                    let made_at = text("made_at");
                    output::line(format_args!("backed up {files} files, {bytes} bytes, as of {made_at}: {directory}"));
                    return Ok(());
                }
            }
        }
    }
    Err(Failure::new("the answer broke off: whether there is a backup, a file named backup in it says"))
}

async fn stopped(data_dir: PathBuf, warehouse: Option<String>, directory: PathBuf) -> Outcome {
    super::serve::log_to_stderr(super::serve::LogFormat::Text, "off");
    let warehouse = warehouse.filter(|warehouse| !warehouse.is_empty());
    let warehouse = warehouse.unwrap_or_else(|| data_dir.join("warehouse").to_string_lossy().into_owned());
    let warehouse = Warehouse::open_to_read(&warehouse)?;
    let report = watched("backed up", async move |progress| {
        back_up_stopped(Arc::new(RealDisk), &data_dir, &warehouse, &directory, &progress).await
    });
    let report = report.await?;
    show(&report.tables);
    output::line(told("backed up", &report));
    Ok(())
}

/// Runs what has a progress, and shows it. Ctrl-C breaks it off, which leaves nothing that could be taken for done.
pub async fn watched(
    doing: &'static str,
    work: impl AsyncFnOnce(Arc<Progress>) -> thermocline_schemas::Result<BackupReport>,
) -> Outcome<BackupReport> {
    let mut signals = Signals::listen()?;
    let progress = Arc::new(Progress::default());
    let bar = progress_bar(doing);
    let working = work(progress.clone());
    tokio::pin!(working);
    let done = loop {
        tokio::select! {
            done = &mut working => break done,
            () = signals.stop() => progress.cancel(),
            () = tokio::time::sleep(std::time::Duration::from_millis(100)) => {
                let (done, of) = progress.bytes();
                bar.set_length(of);
                bar.set_position(done);
            }
        }
    };
    bar.finish_and_clear();
    Ok(done?)
}

pub fn show(tables: &[BackedUpTable]) {
    let rows = tables.iter().map(|table| {
        let lake = table.lake.as_ref();
        let of_lake = |figure: Option<u64>| figure.map_or_else(|| "-".to_owned(), grouped);
        vec![
            table.name.clone(),
            grouped(table.hot_rows),
            grouped(table.untiered_rows),
            of_lake(lake.map(|lake| lake.version)),
            of_lake(lake.map(|lake| lake.snapshots as u64)),
        ]
    });
    output::line(table::plain(&["table", "hot rows", "not in the lake", "lake version", "snapshots"], rows));
    for table in tables.iter().filter(|table| table.refused_buckets > 0) {
        let (name, count) = (&table.name, table.refused_buckets);
        output::line(format_args!("note: {count} buckets of {name} are damaged, in the backup as before"));
    }
}

pub fn told(done: &str, report: &BackupReport) -> String {
    let made_at = DateTime::from_timestamp_micros(report.made_at).unwrap_or_default();
    let made_at = made_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    let (files, bytes) = (grouped(report.files), grouped(report.bytes));
    format!("{done} {files} files, {bytes} bytes, as of {made_at}: {}", report.directory.display())
}

fn progress_bar(doing: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes} {msg}, {bytes_per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(doing.to_owned());
    bar
}
