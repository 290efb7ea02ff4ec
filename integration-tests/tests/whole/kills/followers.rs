//! Followers that live as long as the directory: cut off by every kill, they resume at their last token.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use thermocline_integration_tests::oracle;
use thermocline_schemas::text::JsonEncoder;
use thermocline_schemas::{Offset, PartitionBucket};
use thermocline_tiering::check::{Follower, Placed, Row};

use super::world::{Target, World, count, hold, pause};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Events,
    Lines,
}

/// Where a stream can be taken up: the newest token, and what was there up to it.
#[derive(Clone, Default)]
pub struct Resume {
    token: Option<String>,
    pub follower: Follower,
}

/// Follows until all is over.
pub async fn follow(world: Arc<World>, target: usize, format: Format) {
    // A stream ends when it ends, and not by a clock.
    let client = Client::builder().no_proxy().connect_timeout(Duration::from_secs(2)).build().expect("a client");
    let mut resume = Resume::default();
    while let Some(url) = world.url(false).await {
        let target = &world.targets[target];
        let request = client.get(format!("{url}/v1/tables/public/{}/changes", target.name));
        let resumed = resume.token.is_some();
        let over = async {
            // The next server has another port.
            while world.url(false).await.as_deref() == Some(&url) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let seen = tokio::select! {
            seen = stream(&world, target, request, format, &mut resume) => seen,
            () = over => 0,
        };
        if seen > 0 && resumed {
            count(&world.counts.resumes, 1);
        }
        pause().await;
    }
}

/// One stream, to its end; answers how many rows it had.
pub async fn stream(
    world: &World,
    target: &Target,
    request: RequestBuilder,
    format: Format,
    resume: &mut Resume,
) -> u64 {
    let request = match (format, &resume.token) {
        (Format::Events, Some(token)) => request.header("last-event-id", token),
        (Format::Lines, Some(token)) => request.query(&[("from", format!("token:{token}"))]),
        (_, None) => request.query(&[("from", "earliest")]),
    };
    let accept = if format == Format::Events { "text/event-stream" } else { "application/x-ndjson" };
    let Ok(answer) = request.header("accept", accept).send().await else { return 0 };
    match answer.status().as_u16() {
        200 => {}
        429 | 503 => return 0,
        status => {
            world.fail(format!("changes of {} were answered {status}", target.name));
            return 0;
        }
    }
    let mut reading = Reading { what: format!("{format:?} of {}", target.name), ..Reading::default() };
    let mut follower = resume.follower.clone();
    let (mut bytes, mut unfinished) = (answer.bytes_stream(), Vec::new());
    let mut seen = 0;
    while let Some(Ok(chunk)) = bytes.next().await {
        unfinished.extend_from_slice(&chunk);
        let Some(whole) = unfinished.iter().rposition(|byte| *byte == b'\n') else { continue };
        let lines: Vec<u8> = unfinished.drain(..=whole).collect();
        let lines = String::from_utf8(lines).expect("streams are text");
        for line in lines.lines() {
            match format {
                Format::Lines => reading.line(line),
                Format::Events => reading.event_line(line),
            }
        }
        seen += reading.settle(world, target, &mut follower, resume);
    }
    seen
}

/// What of a stream has been read and not yet checked.
#[derive(Default)]
struct Reading {
    what: String,
    /// Of an event that is not whole yet.
    event: Option<Value>,
    id: Option<String>,
    items: Vec<Item>,
}

enum Item {
    Change(Value),
    Token(String),
}

impl Reading {
    fn line(&mut self, line: &str) {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        match value["token"].as_str() {
            Some(token) => self.items.push(Item::Token(token.to_owned())),
            // An error, as of a server that stops, ends the stream.
            None if value.get("error").is_some() => {}
            None => self.items.push(Item::Change(value)),
        }
    }

    fn event_line(&mut self, line: &str) {
        if let Some(id) = line.strip_prefix("id: ") {
            self.id = Some(id.to_owned());
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {line}"));
            self.event = Some(data).filter(|data| data.get("offset").is_some());
        } else if line.is_empty() {
            self.items.extend(self.event.take().map(Item::Change));
            self.items.extend(self.id.take().map(Item::Token));
        }
    }

    fn settle(&mut self, world: &World, target: &Target, follower: &mut Follower, resume: &mut Resume) -> u64 {
        let items = std::mem::take(&mut self.items);
        let mut seen = 0;
        let changes: Vec<_> =
            items.iter().filter_map(|item| if let Item::Change(change) = item { Some(change) } else { None }).collect();
        world.check(contents(&self.what, &changes));
        let mut history = hold(&target.history);
        for item in items {
            match item {
                Item::Token(token) => *resume = Resume { token: Some(token), follower: follower.clone() },
                Item::Change(change) => {
                    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no place: {change}"));
                    let placed = Placed {
                        bucket: PartitionBucket::unpartitioned(number(&change["bucket"]) as u32),
                        offset: Offset(number(&change["offset"])),
                        row: Row(number(&change["row"]["id"])),
                    };
                    world.check(history.followed(&self.what, follower, placed));
                    seen += 1;
                }
            }
        }
        count(&world.counts.followed, seen);
        seen
    }
}

/// Whether each row is what its id stands for.
fn contents(what: &str, changes: &[&Value]) -> Result<(), String> {
    let schema = oracle::schema().arrow();
    let ids: Vec<_> = changes.iter().filter_map(|change| change["row"]["id"].as_i64()).collect();
    let expected = oracle::rows(&schema, &ids);
    let mut encoder = JsonEncoder::new(&schema).expect("plain columns");
    for (row, change) in changes.iter().enumerate() {
        let mut text = Vec::new();
        encoder.write_object(&expected, row, &mut text).expect("plain columns");
        let expected: Value = serde_json::from_slice(&text).expect("a row is JSON");
        if change["row"] != expected {
            return Err(format!("{what}: {change}, expected {expected}"));
        }
    }
    Ok(())
}
