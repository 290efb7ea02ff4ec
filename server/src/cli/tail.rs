//! `thermocline tail`.
//!
//! Always: each change is shown once, however often the connection breaks. The server's tokens say where to go on; what
//! came after the last token comes again, and is known by its bucket and offset.

use std::collections::HashMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::StreamExt;
use serde_json::Value;
use thermocline_schemas::TableName;

use super::client::{Client, ProblemDocument, Refusal, table_name, table_path};
use super::signals::Signals;
use super::{Connection, Failure, Outcome, output};

const EXAMPLES: &str = "\
Examples:
  thermocline tail public.flights                              what happens from now on
  thermocline tail public.flights --from earliest --no-follow  all there is, then the end
  thermocline tail public.flights --from timestamp:2026-11-23T13:00:00Z --columns carrier,dest
  thermocline tail public.flights --where \"dest = 'OSL' AND distance > 500\"
  thermocline tail public.flights --from offsets:0=120 --format json | jq .row";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TailArguments {
    /// The table, as db.table
    #[arg(value_parser = table_name)]
    table: TableName,
    /// Where to begin: latest, earliest, timestamp:<time>, offsets:<bucket>=<offset>,… or token:<token>
    #[arg(long, default_value = "latest", value_name = "PLACE")]
    from: String,
    /// End where the table ends now
    #[arg(long)]
    no_follow: bool,
    /// Only these columns, separated by commas
    #[arg(long, value_name = "NAMES")]
    columns: Option<String>,
    /// Only changes whose row passes this SQL condition
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// End after so many changes
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<u64>,
    /// How to show a change
    #[arg(long, short, value_enum, default_value_t = ChangeFormat::Text)]
    format: ChangeFormat,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ChangeFormat {
    /// Kind, bucket:offset, time, and the row
    Text,
    /// The whole change as one object
    Json,
    /// The row as one object
    Row,
}

/// Where a tail is.
#[derive(Default)]
struct Progress {
    token: Option<String>,
    /// The next offset of each bucket that a change was shown of.
    next: HashMap<u64, u64>,
    shown: u64,
    shown_since_token: u64,
}

/// How a connection ended.
enum Ended {
    /// By the server, cleanly.
    Stream,
    Limit,
    Broken(Refusal),
}

pub async fn run(arguments: TailArguments) -> Outcome {
    let client = Client::new(&arguments.connection)?;
    let mut signals = Signals::listen()?;
    let mut progress = Progress::default();
    let done = tokio::select! {
        done = follow(&client, &arguments, &mut progress) => done,
        () = signals.stop() => Ok(()),
    };
    if let Some(token) = &progress.token
        && !arguments.no_follow
    {
        let again = match progress.shown_since_token {
            0 => String::new(),
            count => format!("   (the last {} shown come again)", output::grouped(count)),
        };
        output::note(format_args!("go on with: --from token:{token}{again}"));
    }
    done
}

async fn follow(client: &Client, arguments: &TailArguments, progress: &mut Progress) -> Outcome {
    let mut tries = 0;
    loop {
        let before = progress.shown;
        match connect(client, arguments, progress).await {
            Ended::Limit => return Ok(()),
            Ended::Stream if arguments.no_follow => return Ok(()),
            Ended::Stream => {}
            Ended::Broken(Refusal::Problem(problem)) if ![429, 503].contains(&problem.status) => {
                return Err(Refusal::Problem(problem).into());
            }
            Ended::Broken(refusal) if progress.token.is_none() => return Err(refusal.into()),
            Ended::Broken(_) => {}
        }
        tries = if progress.shown > before { 0 } else { tries + 1 };
        if tries > 30 {
            return Err(Failure::new("the server does not come back"));
        }
        tokio::time::sleep(Duration::from_millis(200 << tries.min(4))).await;
    }
}

async fn connect(client: &Client, arguments: &TailArguments, progress: &mut Progress) -> Ended {
    let from = progress.token.as_ref().map_or_else(|| arguments.from.clone(), |token| format!("token:{token}"));
    let mut request = client
        .get(&table_path(&arguments.table, "/changes"))
        .query(&[("from", from.as_str()), ("follow", if arguments.no_follow { "false" } else { "true" })])
        .header("accept", "application/x-ndjson");
    if let Some(columns) = &arguments.columns {
        request = request.query(&[("columns", columns)]);
    }
    if let Some(condition) = &arguments.condition {
        request = request.query(&[("where", condition)]);
    }
    let response = match client.send(request).await {
        Ok(response) => response,
        Err(refusal) => return Ended::Broken(refusal),
    };
    let mut chunks = response.bytes_stream();
    let mut rest = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return Ended::Broken(Refusal::Broken(super::client::broke_off(&error))),
        };
        rest.extend_from_slice(&chunk);
        let mut start = 0;
        while let Some(length) = rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = &rest[start..start + length];
            start += length + 1;
            match progress.take(line, arguments.format) {
                Ok(()) => {}
                Err(problem) => return Ended::Broken(Refusal::Problem(problem)),
            }
            if arguments.limit.is_some_and(|limit| progress.shown >= limit) {
                return Ended::Limit;
            }
        }
        rest.drain(..start);
    }
    Ended::Stream
}

impl Progress {
    fn take(&mut self, line: &[u8], format: ChangeFormat) -> Result<(), Box<ProblemDocument>> {
        let Ok(value) = serde_json::from_slice::<Value>(line) else { return Ok(()) };
        if let Some(token) = value["token"].as_str() {
            self.token = Some(token.to_owned());
            self.shown_since_token = 0;
            return Ok(());
        }
        if value["kind"].is_null() {
            return Err(Box::new(serde_json::from_value(value["error"].clone()).unwrap_or_default()));
        }
        let (bucket, offset) = (value["bucket"].as_u64().unwrap_or(0), value["offset"].as_u64().unwrap_or(0));
        let next = self.next.entry(bucket).or_default();
        if offset < *next {
            return Ok(());
        }
        *next = offset + 1;
        self.shown += 1;
        self.shown_since_token += 1;
        match format {
            ChangeFormat::Json => output::line(String::from_utf8_lossy(line)),
            ChangeFormat::Row => output::line(&value["row"]),
            ChangeFormat::Text => output::line(format_args!(
                "{} {bucket}:{offset} {} {}",
                value["kind"].as_str().unwrap_or_default(),
                value["timestamp"].as_str().unwrap_or_default(),
                value["row"]
            )),
        }
        Ok(())
    }
}
