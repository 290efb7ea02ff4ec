//! Followers that live as long as the directory: cut off by every kill, they resume at their last token.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use thermocline_integration_tests::oracle;
use thermocline_schemas::text::JsonEncoder;
use thermocline_schemas::{Offset, PartitionBucket};
use thermocline_tiering::check::{Follower, Placed, Row};

use super::clients::EXTRA;
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
    let what = format!("{format:?} of {}", target.name);
    let mut follower = resume.follower.clone();
    let mut seen = 0;
    read(world, answer, format, |items| {
        seen += settle(world, &what, target, items, &mut follower, resume);
    })
    .await;
    seen
}

/// Reads an answer to its end, and hands on what each piece of it brings. False if it breaks off.
pub async fn read(world: &World, answer: Response, format: Format, mut settle: impl FnMut(Vec<Item>)) -> bool {
    let mut reading = Reading::default();
    let (mut bytes, mut unfinished) = (answer.bytes_stream(), Vec::new());
    while let Some(chunk) = bytes.next().await {
        let Ok(chunk) = chunk else { return false };
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
        count(
            &world.counts.followed,
            reading.items.iter().filter(|item| matches!(item, Item::Change(_))).count() as u64,
        );
        settle(std::mem::take(&mut reading.items));
    }
    true
}

/// What of a stream has been read and not yet handed on.
#[derive(Default)]
struct Reading {
    /// Of an event that is not whole yet.
    event: Option<Value>,
    id: Option<String>,
    items: Vec<Item>,
}

pub enum Item {
    Change(Value),
    Token(String),
    /// Why the stream ends.
    Error(Value),
}

impl Reading {
    fn line(&mut self, line: &str) {
        let mut value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.items.push(match value["token"].as_str() {
            Some(token) => Item::Token(token.to_owned()),
            None if value.get("error").is_some() => Item::Error(value["error"].take()),
            None => Item::Change(value),
        });
    }

    fn event_line(&mut self, line: &str) {
        if let Some(id) = line.strip_prefix("id: ") {
            self.id = Some(id.to_owned());
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {line}"));
            self.event = Some(data);
        } else if line.is_empty() {
            let item = self.event.take().and_then(|data| match (data.get("offset"), data.get("code")) {
                (Some(_), _) => Some(Item::Change(data)),
                (None, Some(_)) => Some(Item::Error(data)),
                // The clean end.
                (None, None) => None,
            });
            self.items.extend(item);
            self.items.extend(self.id.take().map(Item::Token));
        }
    }
}

fn settle(
    world: &World,
    what: &str,
    target: &Target,
    items: Vec<Item>,
    follower: &mut Follower,
    resume: &mut Resume,
) -> u64 {
    let mut seen = 0;
    let changes: Vec<_> =
        items.iter().filter_map(|item| if let Item::Change(change) = item { Some(change) } else { None }).collect();
    world.check(contents(what, &changes));
    let mut history = hold(&target.history);
    for item in items {
        match item {
            Item::Token(token) => *resume = Resume { token: Some(token), follower: follower.clone() },
            Item::Change(change) => {
                let (bucket, offset) = place(&change);
                let row = Row(number(&change, &change["row"]["id"]));
                world.check(history.followed(what, follower, Placed { bucket, offset, row }));
                seen += 1;
            }
            Item::Error(error) => ended(world, what, &error),
        }
    }
    seen
}

/// Where a change says that it stands.
pub fn place(change: &Value) -> (PartitionBucket, Offset) {
    let bucket = PartitionBucket::unpartitioned(number(change, &change["bucket"]) as u32);
    (bucket, Offset(number(change, &change["offset"])))
}

pub fn number(change: &Value, value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {change}"))
}

/// A stream says why it ends: a server may stop, nothing else happens to it.
pub fn ended(world: &World, what: &str, error: &Value) {
    if error["code"] != "shutting_down" {
        world.fail(format!("{what} ends with {error}"));
    }
}

/// Whether each row is what its id stands for.
fn contents(what: &str, changes: &[&Value]) -> Result<(), String> {
    let ids: Vec<_> = changes.iter().filter_map(|change| change["row"]["id"].as_i64()).collect();
    for (change, expected) in changes.iter().zip(rows_as_json(&ids)) {
        if without_extra(&change["row"]) != expected {
            return Err(format!("{what}: {change}, expected {expected}"));
        }
    }
    Ok(())
}

/// A row without the column that comes and goes.
pub fn without_extra(row: &Value) -> Value {
    let mut row = row.clone();
    if let Some(row) = row.as_object_mut() {
        row.remove(EXTRA);
    }
    row
}

/// What ids stand for.
pub fn rows_as_json(ids: &[i64]) -> Vec<Value> {
    let schema = oracle::schema().arrow();
    let rows = oracle::rows(&schema, ids);
    let mut encoder = JsonEncoder::new(&schema).expect("plain columns");
    let row = |row: usize| {
        let mut text = Vec::new();
        encoder.write_object(&rows, row, &mut text).expect("plain columns");
        serde_json::from_slice(&text).expect("a row is JSON")
    };
    (0..ids.len()).map(row).collect()
}
