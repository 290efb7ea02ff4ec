//! Rows sent at a pace to watch, with a question now and then.
//!
//! Always: the table never holds a flight twice. Requests hold the same rows in every run, and each is applied whole or
//! not at all, so the count of rows says which comes next; within a run, the writer's sequence keeps retries from
//! doubling.

use std::time::Duration;

use serde_json::Value;
use thermocline_schemas::TableName;
use tokio::time::{Instant, sleep_until};

use super::screen::Screen;
use super::watch::Watcher;
use super::{flights, number};
use crate::cli::client::{Client, Numbered, table_path};
use crate::cli::output::grouped;
use crate::cli::{Failure, Outcome, table};
use crate::http::accept::ARROW_STREAM;

const REQUEST_ROWS: u64 = 4096;
const PACE: Duration = Duration::from_millis(180);
/// After so many requests, a question.
const REQUESTS_BETWEEN_QUESTIONS: u64 = 11;

const QUESTIONS: [(&str, &str); 3] = [
    (
        "latest departure, and how late it left on average so far",
        "SELECT max(time_hour) AS latest, round(avg(dep_delay), 2) AS minutes FROM flights",
    ),
    (
        "the busiest airline so far",
        "SELECT carrier, count(*) AS departures FROM flights GROUP BY carrier ORDER BY 2 DESC, 1 LIMIT 1",
    ),
    (
        "miles flown to Honolulu so far",
        "SELECT dest, sum(distance) AS miles FROM flights WHERE dest = 'HNL' GROUP BY dest",
    ),
];

/// How many rows the table has; 0 if there is none.
pub async fn rows_in(client: &Client, table: &TableName) -> Outcome<u64> {
    let Some(described) = client.table(table).await? else { return Ok(0) };
    let buckets = described["buckets"].as_array().into_iter().flatten();
    Ok(buckets.map(|bucket| number(&bucket["durable_end"])).sum())
}

/// Makes the table if it is missing, and answers its DDL.
pub async fn create(client: &Client) -> Outcome<String> {
    let ddl = flights::ddl(&flights::read()?.schema())?;
    let missing_only = ddl.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1);
    client.sql(&missing_only, "public").await?;
    Ok(ddl)
}

/// Sends all rows from `start` on.
pub async fn feed(
    client: &Client,
    table: &TableName,
    start: u64,
    fast: bool,
    screen: &Screen,
    watcher: &Watcher,
) -> Outcome {
    if !start.is_multiple_of(REQUEST_ROWS) {
        return Err(Failure::new(format!("{table} has {start} rows, which this demo has not put there"))
            .with_hint("give the demo another --data-dir, or delete this one"));
    }
    let rows = tokio::task::spawn_blocking(flights::read);
    let rows = rows.await.map_err(|error| Failure::new(format!("the demo's data cannot be read: {error}")))??;
    // A name for each start: a writer of an earlier run may have been forgotten, or not.
    let writer = format!("demo-from-{start}");
    let path = table_path(table, "/rows");
    watcher.connected().await;
    let began = Instant::now();
    let mut snapshot = Value::Null;
    let mut sent = start;
    for sequence in 0.. {
        let count = REQUEST_ROWS.min(flights::ROWS - sent);
        if count == 0 {
            break;
        }
        let body = flights::request(&rows.slice(sent as usize, count as usize))?;
        client.append(&path, ARROW_STREAM, body, Numbered { writer: &writer, sequence }).await?;
        sent += count;
        screen.advance(sent, watcher.seen());
        let half = (flights::ROWS - start) / 2;
        if fast && sent - start >= half && sent - start < half + count {
            // No time for rounds to fall due by themselves.
            client.json(client.post(&table_path(table, "/tier"))).await?;
        }
        if sequence % REQUESTS_BETWEEN_QUESTIONS == REQUESTS_BETWEEN_QUESTIONS - 1 {
            tell_of_rounds(client, table, &mut snapshot, screen).await?;
            let (title, question) = QUESTIONS[(sequence / REQUESTS_BETWEEN_QUESTIONS) as usize % QUESTIONS.len()];
            let answer = client.sql(question, "public").await?;
            screen.say(format_args!("  sql    {title}: {}  ({})", first_row(&answer), table::tiers(&answer)));
        }
        if !fast {
            sleep_until(began + PACE * (sequence as u32 + 1)).await;
        }
    }
    tell_of_rounds(client, table, &mut snapshot, screen).await
}

/// Says so when there is a new snapshot.
async fn tell_of_rounds(client: &Client, table: &TableName, last: &mut Value, screen: &Screen) -> Outcome {
    let described = client.json(client.get(&table_path(table, ""))).await?;
    let snapshot = &described["lake"]["snapshot_id"];
    if snapshot.is_null() || snapshot == last {
        return Ok(());
    }
    *last = snapshot.clone();
    let buckets: Vec<_> = described["buckets"].as_array().into_iter().flatten().collect();
    let tiered: u64 = buckets.iter().map(|bucket| number(&bucket["tiered_end"])).sum();
    let durable: u64 = buckets.iter().map(|bucket| number(&bucket["durable_end"])).sum();
    screen.say(format_args!(
        "  round  Iceberg snapshot {snapshot}: {} rows in the lake, {} only hot",
        grouped(tiered),
        grouped(durable - tiered)
    ));
    Ok(())
}

fn first_row(answer: &Value) -> String {
    let values = answer["rows"][0].as_array().into_iter().flatten();
    let shown = values.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let shown: Vec<_> = shown.collect();
    if shown.is_empty() { "none yet".to_owned() } else { shown.join(", ") }
}
