//! `thermocline sql`.

use std::io::Read;

use clap::{Args, ValueEnum};
use futures::StreamExt;
use serde_json::Value;

use super::client::{Client, ProblemDocument, Refusal, broke_off};
use super::{Connection, Failure, Outcome, output, table};

const EXAMPLES: &str = "\
Examples:
  thermocline sql \"SELECT carrier, count(*) FROM flights GROUP BY carrier\"
  thermocline sql \"SELECT * FROM flights\" --format csv > flights.csv
  thermocline sql 'SELECT count(*) FROM \"flights$hot\"'     only what is hot; also $lake, $changes, $snapshots
  thermocline sql \"EXPLAIN SELECT max(distance) FROM flights\"   which tier is read how
  thermocline sql - < report.sql";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SqlArguments {
    /// The statement, or - to read it from standard input
    statement: String,
    /// How to show the rows
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table)]
    format: OutputFormat,
    /// The database of tables that are named without one
    #[arg(long, short, default_value = thermocline_engine::DEFAULT_DATABASE, value_name = "NAME")]
    database: String,
    /// When to give up, as 30s or 5m
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people
    Table,
    /// One object, with columns, rows and statistics
    Json,
    /// One object a row
    Ndjson,
    Csv,
    /// An Arrow IPC stream
    Arrow,
}

impl OutputFormat {
    fn media_type(self) -> &'static str {
        match self {
            OutputFormat::Table | OutputFormat::Json => "application/json",
            OutputFormat::Ndjson => "application/x-ndjson",
            OutputFormat::Csv => "text/csv",
            OutputFormat::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

pub async fn run(arguments: SqlArguments) -> Outcome {
    let statement = match arguments.statement.as_str() {
        "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
            text
        }
        text => text.to_owned(),
    };
    if arguments.format == OutputFormat::Arrow && output::is_terminal() {
        return Err(Failure::new("an Arrow stream is not for terminals")
            .with_hint("send it to a file: … --format arrow > rows.arrows"));
    }
    let client = Client::new(&arguments.connection)?;
    let mut request = client
        .post("/v1/sql")
        .query(&[("database", &arguments.database)])
        .header("content-type", "text/plain")
        .header("accept", arguments.format.media_type());
    if let Some(timeout) = &arguments.timeout {
        request = request.query(&[("timeout", timeout)]);
    }
    let request = request.body(statement);
    if arguments.format == OutputFormat::Table {
        let answer = client.json(request).await?;
        output::line(table::pretty(&answer));
        output::note(table::footer(&answer));
        return Ok(());
    }
    let mut chunks = client.send(request).await?.bytes_stream();
    let mut last_line = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| broke_off(&error))?;
        output::bytes(&chunk);
        if arguments.format == OutputFormat::Ndjson {
            remember_last_line(&mut last_line, &chunk);
        }
    }
    check_last_line(&last_line)
}

/// Of what came so far, the last line.
fn remember_last_line(line: &mut Vec<u8>, chunk: &[u8]) {
    line.extend_from_slice(chunk);
    let end = line.strip_suffix(b"\n").unwrap_or(line).len();
    if let Some(start) = line[..end].iter().rposition(|byte| *byte == b'\n') {
        line.drain(..=start);
    }
}

/// Lines end with `{"error":{…}}` when not all rows came.
fn check_last_line(line: &[u8]) -> Outcome {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(line) else { return Ok(()) };
    let error = fields.remove("error").filter(|error| fields.is_empty() && error["code"].is_string());
    let Some(error) = error else { return Ok(()) };
    let problem: ProblemDocument = serde_json::from_value(error).unwrap_or_default();
    Err(Refusal::Problem(Box::new(problem)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_found_however_it_comes() {
        let mut line = Vec::new();
        for chunk in ["{\"a\":1}\n{\"a\"", ":2}\n", "{\"error\":{\"code\":\"inter", "nal\",\"detail\":\"x\"}}\n"] {
            remember_last_line(&mut line, chunk.as_bytes());
        }
        assert_eq!(check_last_line(&line).unwrap_err().message, "x [internal]");
        assert!(check_last_line(b"{\"error\":1}\n").is_ok(), "a column may have that name");
        assert!(check_last_line(b"").is_ok());
    }
}
