//! A live subscription to what the demo sends: how many changes came, and a few of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde_json::Value;
use thermocline_schemas::TableName;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::screen::Screen;
use crate::cli::client::{Client, Refusal, table_path};
use crate::cli::output::grouped;

/// So many changes are shown from the start, and then one in so many.
const SHOWN_FIRST: u64 = 3;
const SHOWN_EACH: u64 = 60_000;
/// How long the last changes may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Watcher {
    seen: Arc<AtomicU64>,
    connected: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

/// Subscribes to what comes from now on.
pub fn start(client: &Client, table: &TableName, screen: &Screen) -> Watcher {
    let seen = Arc::new(AtomicU64::new(0));
    let (sender, connected) = watch::channel(false);
    let following = follow(client.clone(), table.clone(), screen.clone(), seen.clone(), sender);
    let screen = screen.clone();
    let task = tokio::spawn(async move {
        if let Err(refusal) = following.await {
            let failure = crate::cli::Failure::from(refusal);
            screen.say(format_args!("  live   the subscription ended: {}", failure.message));
        }
    });
    Watcher { seen, connected, task }
}

impl Watcher {
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Waits until it misses nothing that is sent from now on.
    pub async fn connected(&self) {
        // If it ended before, it has said why.
        let _ = self.connected.clone().wait_for(|connected| *connected).await;
    }

    /// Waits for the last change, and ends. How many came.
    pub async fn finish(self, expected: u64) -> u64 {
        let waiting = async {
            while self.seen() < expected && !self.task.is_finished() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // What has not come by then is told by the count.
        let _ = tokio::time::timeout(PATIENCE, waiting).await;
        self.task.abort();
        self.seen()
    }
}

async fn follow(
    client: Client,
    table: TableName,
    screen: Screen,
    seen: Arc<AtomicU64>,
    connected: watch::Sender<bool>,
) -> Result<(), Refusal> {
    let request = client.get(&table_path(&table, "/changes")).header("accept", "text/event-stream");
    let mut chunks = client.send(request).await?.bytes_stream();
    let mut rest = Vec::new();
    while let Some(chunk) = chunks.next().await {
        rest.extend_from_slice(&chunk.map_err(|error| Refusal::Broken(crate::cli::client::broke_off(&error)))?);
        let mut start = 0;
        while let Some(length) = rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = &rest[start..start + length];
            start += length + 1;
            if line.starts_with(b"id: ") {
                // Not before the first id is it known where it began.
                connected.send_replace(true);
            } else if let Some(data) = line.strip_prefix(b"data: ") {
                let count = seen.fetch_add(1, Ordering::Relaxed);
                if count < SHOWN_FIRST || count.is_multiple_of(SHOWN_EACH) {
                    show(&screen, count + 1, data);
                }
            }
        }
        rest.drain(..start);
    }
    Ok(())
}

fn show(screen: &Screen, count: u64, data: &[u8]) {
    let Ok(change) = serde_json::from_slice::<Value>(data) else { return };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let row = &change["row"];
    let late = change["timestamp"].as_str().and_then(|stamp| DateTime::parse_from_rfc3339(stamp).ok());
    let late = late.map_or(0, |stamp| (Utc::now() - stamp.with_timezone(&Utc)).num_milliseconds().max(0));
    screen.say(format_args!(
        "  live   change {}: {} {} {} {} → {}, {late} ms after it was accepted",
        grouped(count),
        text(&change["kind"]),
        text(&row["carrier"]),
        text(&row["flight"]),
        text(&row["origin"]),
        text(&row["dest"]),
    ));
}
