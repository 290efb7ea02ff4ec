//! `thermocline restore`: a backup becomes a data directory and a warehouse.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use thermocline_engine::disk::RealDisk;
use thermocline_tiering::restore;

use super::backup::{show, told, watched};
use super::{Outcome, output};

const EXAMPLES: &str = "\
Examples:
  thermocline restore /srv/backups/monday --data-dir /srv/again
  thermocline restore /srv/backups/monday --data-dir /srv/again --warehouse s3://other-bucket/lake

First every byte of the backup is held against its checksum; nothing is written if one is wrong. The lake may come to another
place than it had: whatever names its files is written anew. Then `thermocline serve` with the same --data-dir and --warehouse goes
on from the backup's moment. Two servers on copies of one backup are two: never give both one warehouse.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RestoreArguments {
    /// The backup's directory
    backup: PathBuf,
    /// The data directory to make: new, or empty
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: PathBuf,
    /// Where the Iceberg tables shall live: a directory, file:///… or s3://bucket/prefix, with nothing in it [default: <data-dir>/warehouse]
    #[arg(long, value_name = "PLACE")]
    warehouse: Option<String>,
}

pub async fn run(arguments: RestoreArguments) -> Outcome {
    super::serve::log_to_stderr(super::serve::LogFormat::Text, "off");
    let RestoreArguments { backup, data_dir, warehouse } = arguments;
    let place = warehouse.clone().filter(|place| !place.is_empty());
    let report = watched("checked and restored", async move |progress| {
        restore(Arc::new(RealDisk), &backup, &data_dir, place.as_deref(), &progress).await
    });
    let report = report.await?;
    show(&report.tables);
    output::line(told("restored", &report));
    Ok(())
}
