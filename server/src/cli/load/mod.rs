//! `thermocline load`: a file becomes requests of an idempotent writer.
//!
//! Always: the writer's name is a digest of the file's bytes and of how they are read, and the same file is cut into
//! the same requests every time. So a load that broke off goes on where it was, and a second load of a loaded file
//! changes nothing, for as long as the server remembers the writer (a week).
//!
//! `source` cuts files, `infer` finds columns for a table that is missing.

mod infer;
mod source;
mod text;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};
use thermocline_schemas::{Properties, TableDescriptor, TableId, TableName, TableSchema, quoted};

use self::source::{FileFormat, Request, TextOptions};
use super::client::{Client, Numbered, ProblemDocument, Refusal, table_name, table_path};
use super::output::{self, grouped};
use super::{Connection, Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  thermocline load flights.parquet public.flights
  thermocline load events.ndjson public.events --time ms
  thermocline load measures.csv lab.measures --null NA

The kind of file is told by its extension: .parquet, .csv, .ndjson or .jsonl, .json (an array of objects), .arrow,
.feather, .ipc or .arrows; --input says otherwise. A table that is missing is made from the file's columns, and its DDL
shown.

Loading the same file again adds nothing: the server knows its writer for a week.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LoadArguments {
    /// The file
    file: PathBuf,
    /// The table, as db.table
    #[arg(value_parser = table_name)]
    table: TableName,
    /// What the file is, whatever its name says
    #[arg(long, value_enum)]
    input: Option<FileFormat>,
    /// How dates and times that are numbers count: since 1970, in milliseconds or microseconds
    #[arg(long, value_enum)]
    time: Option<TimeUnit>,
    /// The unquoted CSV field that means null, instead of an empty one
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// The columns of a CSV file that has no header, separated by commas
    #[arg(long, value_name = "NAMES")]
    columns: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TimeUnit {
    Ms,
    Us,
}

/// Changes when the same file is cut otherwise: its requests are then others.
const CUT_VERSION: &str = "thermocline load 1";

pub async fn run(arguments: LoadArguments) -> Outcome {
    let client = Client::new(&arguments.connection)?;
    let format = match arguments.input {
        Some(format) => format,
        None => FileFormat::of_name(&arguments.file)?,
    };
    let options =
        TextOptions { time: arguments.time, null: arguments.null.clone(), columns: arguments.columns.clone() };
    options.check(format)?;
    let file = map(&arguments.file)?;
    let about = |failure: Failure| failure.about(arguments.file.display());
    let is_missing = client.table(&arguments.table).await?.is_none();
    if is_missing {
        let columns = infer::columns(&file, format, &options).map_err(about)?;
        create(&client, &arguments.table, columns).await?;
    }
    let writer = writer_name(&file, format, &options);
    let path = table_path(&arguments.table, &options.query());
    let bar = progress_bar(file.len() as u64);
    let requests = source::requests(file, format, &options).map_err(about)?;
    let made = is_missing.then_some(&arguments.table);
    let loaded = send(&client, &path, made, &writer, requests, &bar).await;
    bar.finish_and_clear();
    let loaded = loaded?;
    output::note(loaded.summary(&arguments.table));
    Ok(())
}

/// The file's bytes, without reading them all into memory.
fn map(path: &std::path::Path) -> Outcome<Bytes> {
    let cannot = |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(cannot)?;
    if file.metadata().map_err(cannot)?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the bytes are only read. Whoever changes the file meanwhile gets a load of mixed content, or ends this
    // client; the server checks every request by itself.
    let mapped = unsafe { memmap2::Mmap::map(&file) }.map_err(cannot)?;
    Ok(Bytes::from_owner(mapped))
}

async fn create(client: &Client, name: &TableName, columns: Columns) -> Outcome {
    let schema = TableSchema::new(columns).map_err(|error| {
        Failure::from(error).with_hint("make the table with thermocline sql \"CREATE TABLE …\", then load into it")
    })?;
    let table = TableDescriptor::new(TableId(0), name.clone(), schema, &[], Properties::default(), 0)?;
    let ddl = table.ddl();
    output::line(format_args!("{ddl};"));
    let database = name.database.as_str();
    match client.sql(&ddl, database).await {
        Ok(_) => Ok(()),
        Err(Refusal::Problem(problem)) if problem.code == "database_not_found" => {
            Err(Failure::from(Refusal::Problem(problem))
                .with_hint(format!("thermocline sql \"CREATE DATABASE {database}\"")))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// The same for the same content read the same way.
fn writer_name(file: &[u8], format: FileFormat, options: &TextOptions) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("{CUT_VERSION}\n{format:?}\n{}\n", options.query()));
    hasher.update(file);
    let digest = hasher.finalize();
    let hex: String = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    format!("load-{hex}")
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {msg}  {bytes_per_sec}, {eta} left");
    // The template is constant; a test draws it.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// What a load did.
struct Loaded {
    rows: u64,
    /// Rows that were there from an earlier load.
    known: u64,
    elapsed: Duration,
}

impl Loaded {
    fn summary(&self, table: &TableName) -> String {
        let rate = self.rows as f64 / self.elapsed.as_secs_f64().max(1e-3);
        match (self.rows, self.known) {
            (0, 0) => "the file has no rows".to_owned(),
            (0, known) => {
                format!("all {} of this file are in {table} already, from an earlier load", output::rows(known))
            }
            (rows, known) => {
                let earlier =
                    if known == 0 { String::new() } else { format!(", after {} of an earlier load", grouped(known)) };
                format!(
                    "{} into {table} in {:.1} s ({} rows/s){earlier}",
                    output::rows(rows),
                    self.elapsed.as_secs_f64(),
                    grouped(rate as u64)
                )
            }
        }
    }
}

/// Sends the requests in order; what the server has already is skipped. `made` is a table that was made for them.
async fn send(
    client: &Client,
    path: &str,
    made: Option<&TableName>,
    writer: &str,
    requests: impl Iterator<Item = Outcome<Request>> + Send + 'static,
    bar: &ProgressBar,
) -> Outcome<Loaded> {
    let started = Instant::now();
    let mut loaded = Loaded { rows: 0, known: 0, elapsed: Duration::ZERO };
    // The next request is cut while this one is on its way.
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let cutter = tokio::task::spawn_blocking(move || {
        for request in requests {
            let last = request.is_err();
            if sender.blocking_send(request).is_err() || last {
                return;
            }
        }
    });
    let mut sequence = 0;
    // Requests below this are known to be in the table.
    let mut expected = 0;
    let mut first_row = 0;
    while let Some(request) = receiver.recv().await {
        let request = request?;
        if sequence >= expected {
            let numbered = Numbered { writer, sequence };
            match client.append(path, request.content_type, request.body, numbered).await {
                Ok(answer) if answer.duplicate => loaded.known += answer.rows,
                Ok(answer) => loaded.rows += answer.rows,
                Err(Refusal::Problem(problem)) if is_behind(&problem, sequence) => {
                    expected = problem.expected.unwrap_or_default();
                    loaded.known += request.rows;
                }
                Err(refusal) => return Err(in_the_file(refusal, first_row, made)),
            }
        } else {
            loaded.known += request.rows;
        }
        sequence += 1;
        first_row += request.rows;
        bar.set_position(request.file_position);
        bar.set_message(output::rows(first_row));
    }
    cutter.await.map_err(|error| Failure::new(format!("reading the file failed: {error}")))?;
    loaded.elapsed = started.elapsed();
    Ok(loaded)
}

/// An earlier load got further than what the server keeps answers of.
fn is_behind(problem: &ProblemDocument, sequence: u64) -> bool {
    problem.code == "sequence_too_old" && problem.expected.is_some_and(|expected| expected > sequence)
}

/// A refusal of a row, counted in the file instead of in its request.
fn in_the_file(refusal: Refusal, first_row: u64, made: Option<&TableName>) -> Failure {
    match refusal {
        Refusal::Problem(mut problem) => {
            let Some(row) = problem.row else { return Refusal::Problem(problem).into() };
            problem.row = Some(row + first_row);
            problem.detail = format!("{}, counted from 0 in the file", problem.detail);
            let failure = Failure::from(Refusal::Problem(problem));
            match made {
                Some(made) if failure.hint.is_none() => {
                    let table = format!("{}.{}", quoted(made.database.as_str()), quoted(made.table.as_str()));
                    failure.with_hint(format!(
                        "{made} was made with the columns that the file begins with; to make others, first: DROP TABLE \
                         {table} PURGE"
                    ))
                }
                _ => failure,
            }
        }
        broken => broken.into(),
    }
}

/// Shared with the tests of the parts.
type Columns = Vec<(String, thermocline_schemas::ColumnType, bool)>;

/// Rows of a file as Arrow schemas have them.
fn arrow_columns(schema: &Arc<arrow::datatypes::Schema>) -> Outcome<Columns> {
    let column = |field: &Arc<arrow::datatypes::Field>| {
        let column_type = thermocline_schemas::ColumnType::of_field(field)
            .map_err(|error| Failure::from(error.while_doing(format!("column {}", field.name()))))?;
        Ok((field.name().clone(), column_type, field.is_nullable()))
    };
    schema.fields().iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_its_file_and_how_it_is_read() {
        let options = TextOptions::default();
        let name = writer_name(b"a,b\n1,2\n", FileFormat::Csv, &options);
        assert_eq!(name, writer_name(b"a,b\n1,2\n", FileFormat::Csv, &options));
        assert_eq!(name.len(), 45);
        let others = [
            writer_name(b"a,b\n1,3\n", FileFormat::Csv, &options),
            writer_name(b"a,b\n1,2\n", FileFormat::Ndjson, &options),
            writer_name(b"a,b\n1,2\n", FileFormat::Csv, &TextOptions { null: Some("2".into()), ..options.clone() }),
        ];
        assert!(!others.contains(&name));
    }

    #[test]
    fn the_progress_bar_can_be_drawn() {
        assert!(
            ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {msg}  {bytes_per_sec}, {eta} left").is_ok()
        );
    }
}
