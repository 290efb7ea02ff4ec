//! Subscriptions: three formats, where they begin, and how they are taken up again.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::harness::{ARROW, NDJSON, TestServer, from_arrow, good, lines, problem};

const CHANGES: &str = "/v1/tables/public/t/changes";
const EVENTS: &str = "text/event-stream";

/// One block of an event stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    pub event: Option<String>,
    pub id: Option<String>,
    data: Option<String>,
    comment: bool,
}

impl Block {
    fn parse(text: &str) -> Block {
        let mut block = Block::default();
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("", _)) => block.comment = true,
                Some(("event", value)) => block.event = Some(value.to_owned()),
                Some(("id", value)) => block.id = Some(value.to_owned()),
                Some(("data", value)) => block.data = Some(value.to_owned()),
                _ => panic!("{line:?}"),
            }
        }
        block
    }

    pub fn is_change(&self) -> bool {
        self.event.as_deref() == Some("change")
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(self.data.as_deref().unwrap()).unwrap()
    }
}

/// An event stream, block by block.
pub struct Events {
    chunks: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    rest: String,
}

impl Events {
    pub async fn open(request: RequestBuilder) -> Events {
        let response = good(request.header("accept", EVENTS).send().await.unwrap()).await;
        assert_eq!(response.headers()["content-type"], EVENTS);
        Events { chunks: response.bytes_stream().boxed(), rest: String::new() }
    }

    /// The next block; none at the end.
    pub async fn next(&mut self) -> Option<Block> {
        loop {
            if let Some((block, rest)) = self.rest.split_once("\n\n") {
                let block = Block::parse(block);
                self.rest = rest.to_owned();
                return Some(block);
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.chunks.next()).await.expect("no event came");
            self.rest.push_str(std::str::from_utf8(&chunk?.unwrap()).unwrap());
        }
    }

    /// The next change, which comes before two signs of life do.
    pub async fn change(&mut self) -> Block {
        for _ in 0..3 {
            let block = self.next().await.expect("the stream ended");
            if block.is_change() {
                return block;
            }
        }
        panic!("no change came");
    }

    pub async fn all(mut self) -> Vec<Block> {
        let mut blocks = Vec::new();
        while let Some(block) = self.next().await {
            blocks.push(block);
        }
        blocks
    }
}

fn ids(blocks: &[Block]) -> Vec<u64> {
    let changes = blocks.iter().filter(|block| block.is_change());
    changes.map(|block| block.json()["row"]["id"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_from_cold_to_hot_to_live() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..5)).await;
    server.tier("t").await;
    server.append(&lines(5..8)).await;
    let mut events = Events::open(server.get(&format!("{CHANGES}?from=earliest"))).await;
    let first = events.next().await.unwrap();
    assert!(first.id.is_some() && first.event.is_none() && first.data.is_none(), "{first:?}");
    for id in 0..8 {
        let block = events.change().await;
        let change = block.json();
        assert_eq!(change["row"], json!({"id": id, "name": format!("n{id}")}));
        assert_eq!((&change["kind"], &change["bucket"], &change["offset"]), (&json!("+A"), &json!(0), &json!(id)));
        assert!(change["partition"].is_null() && change["timestamp"].as_str().unwrap().ends_with('Z'), "{change}");
        assert!(block.id.is_some());
    }
    server.append(&lines(8..9)).await;
    assert_eq!(events.change().await.json()["row"]["id"], 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_sees_only_what_comes_later() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..5)).await;
    let mut events = Events::open(server.get(CHANGES)).await;
    events.next().await.unwrap();
    server.append(&lines(5..6)).await;
    assert_eq!(events.change().await.json()["row"]["id"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconnect_goes_on_after_the_last_id() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..6)).await;
    let blocks = Events::open(server.get(&format!("{CHANGES}?from=earliest&follow=false"))).await.all().await;
    assert_eq!(ids(&blocks), [0, 1, 2, 3, 4, 5]);
    let end = blocks.last().unwrap();
    assert_eq!(end.event.as_deref(), Some("end"));
    let changes: Vec<_> = blocks.iter().filter(|block| block.is_change()).cloned().collect();
    server.tier("t").await;
    let server = server.restart().await;
    for (place, block) in changes.iter().enumerate() {
        let id = block.id.clone().unwrap();
        // The header beats what the address says.
        let request = server.get(&format!("{CHANGES}?from=earliest&follow=false")).header("last-event-id", &id);
        if place + 1 == changes.len() {
            let response = request.header("accept", EVENTS).send().await.unwrap();
            assert_eq!(response.status(), 204, "nothing is left");
            continue;
        }
        let resumed = Events::open(request).await.all().await;
        assert_eq!(ids(&resumed), (place as u64 + 1..6).collect::<Vec<_>>());
        let by_token = server.get(CHANGES).query(&[("from", format!("token:{id}").as_str()), ("follow", "false")]);
        assert_eq!(ids(&Events::open(by_token).await.all().await), ids(&resumed));
    }
}

async fn read_lines(response: Response) -> Vec<Value> {
    let text = good(response).await.text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_carry_their_tokens() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..30_000)).await;
    let request = server.get(&format!("{CHANGES}?from=earliest&follow=false&columns=id")).header("accept", NDJSON);
    let all = read_lines(request.send().await.unwrap()).await;
    assert!(all[0]["token"].is_string());
    let changes: Vec<_> = all.iter().filter(|line| line["token"].is_null()).collect();
    assert_eq!(changes.len(), 30_000);
    assert_eq!(changes[29_999]["row"], json!({"id": 29_999}));
    let mut since = 0;
    for line in &all {
        since = if line["token"].is_string() { 0 } else { since + 1 };
        assert!(since <= 10_000);
    }
    // Resuming from a token in the middle gives what came after it.
    let (place, token) = all.iter().enumerate().skip(1).find(|(_, line)| line["token"].is_string()).unwrap();
    let from = format!("token:{}", token["token"].as_str().unwrap());
    let request = server.get(CHANGES).query(&[("from", from.as_str()), ("follow", "false")]).header("accept", NDJSON);
    let rest = read_lines(request.send().await.unwrap()).await;
    let expected: Vec<_> =
        all[place..].iter().filter(|line| line["token"].is_null()).map(|line| &line["offset"]).collect();
    let got: Vec<_> = rest.iter().filter(|line| line["token"].is_null()).map(|line| &line["offset"]).collect();
    assert_eq!(got, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn arrow_has_the_system_columns() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..3)).await;
    let request = server.get(&format!("{CHANGES}?from=earliest&follow=false&columns=name,id")).header("accept", ARROW);
    let batches = from_arrow(&good(request.send().await.unwrap()).await.bytes().await.unwrap());
    let schema = batches[0].schema();
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["name", "id", "__kind", "__bucket", "__offset", "__timestamp"]);
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_pass_are_passed_over() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..400)).await;
    server.tier("t").await;
    server.append(&lines(400..1_000)).await;
    let wanted: Vec<_> = (0..1_000).filter(|id| id % 10 == 3 && id / 100 != 5).collect();
    let test = "id % 10 = 3 AND name NOT LIKE 'n5__' AND __offset >= 0 AND __kind = '+A'";
    let of = |query: &[(&str, &str)]| server.get(CHANGES).query(&[("where", test), ("follow", "false")]).query(query);
    let blocks = Events::open(of(&[("from", "earliest")])).await.all().await;
    assert_eq!(ids(&blocks), wanted);
    // Who comes back at a row that passed, or at the end, misses none and gets none again.
    let middle = blocks.iter().filter(|block| block.is_change()).nth(40).and_then(|block| block.id.clone()).unwrap();
    let from = format!("token:{middle}");
    assert_eq!(ids(&Events::open(of(&[("from", &from)])).await.all().await), wanted[41..]);
    let request = of(&[("from", "earliest"), ("columns", "name")]).header("accept", NDJSON);
    let all = read_lines(request.send().await.unwrap()).await;
    let told: Vec<_> = all.iter().filter(|line| line["token"].is_null()).map(|line| line["row"].clone()).collect();
    assert_eq!(told, wanted.iter().map(|id| json!({"name": format!("n{id}")})).collect::<Vec<_>>());
    let last = all.last().and_then(|line| line["token"].as_str()).unwrap().to_owned();
    let request = server.get(CHANGES).query(&[("from", format!("token:{last}").as_str()), ("follow", "false")]);
    assert!(ids(&Events::open(request).await.all().await).is_empty(), "the last token is past all rows");
    let batches = from_arrow(
        &good(of(&[("from", "earliest")]).header("accept", ARROW).send().await.unwrap()).await.bytes().await.unwrap(),
    );
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), wanted.len());
    // What is null does not pass; and columns that come and go meanwhile keep nobody from testing.
    server.sql("ALTER TABLE t ADD COLUMN late BIGINT").await;
    server.append("{\"id\":1000,\"late\":5}\n{\"id\":1001,\"late\":7}\n").await;
    let late = server.get(CHANGES).query(&[("where", "late > 5"), ("from", "earliest")]);
    let mut events = Events::open(late).await;
    assert_eq!(events.change().await.json()["row"], json!({"id": 1_001, "name": null, "late": 7}));
    server.sql("ALTER TABLE t RENAME COLUMN late TO later, ADD COLUMN late BIGINT").await;
    server.append("{\"id\":1002,\"late\":9}\n{\"id\":1003,\"later\":8}\n").await;
    let row = json!({"id": 1_003, "name": null, "later": 8, "late": null});
    assert_eq!(events.change().await.json()["row"], row, "the column is the one that was meant");
}

/// Fixed columns outlive what happens to the table's, or say why they cannot.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_lives_through_alterations() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..1)).await;
    let mut newest = Events::open(server.get(&format!("{CHANGES}?from=earliest"))).await;
    let mut fixed = Events::open(server.get(&format!("{CHANGES}?from=earliest&columns=name"))).await;
    assert_eq!(newest.change().await.json()["row"], json!({"id": 0, "name": "n0"}));
    assert_eq!(fixed.change().await.json()["row"], json!({"name": "n0"}));
    server.sql("ALTER TABLE t DROP COLUMN name, ADD COLUMN name INTEGER DEFAULT 3").await;
    server.append("{\"id\":1}\n").await;
    assert_eq!(newest.change().await.json()["row"], json!({"id": 1, "name": 3}));
    assert_eq!(fixed.change().await.json()["row"], json!({"name": null}), "not the column that it began with");
}

#[tokio::test(flavor = "multi_thread")]
async fn places_to_begin() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR) WITH (buckets = 2)").await;
    server.append(&lines(0..3)).await;
    server.append(&lines(3..6)).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let between = server.value("SELECT now()").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    server.append(&lines(6..8)).await;
    let from = async |place: &str| {
        let request = server.get(CHANGES).query(&[("from", place), ("follow", "false")]).header("accept", NDJSON);
        let lines = read_lines(request.send().await.unwrap()).await;
        let rows = lines.iter().filter(|line| line["token"].is_null());
        let mut ids: Vec<_> = rows.map(|line| line["row"]["id"].as_u64().unwrap()).collect();
        ids.sort();
        ids
    };
    assert_eq!(from("earliest").await, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(from("latest").await, [0; 0]);
    assert_eq!(from("offsets:0=1").await, [1, 2, 6, 7]);
    assert_eq!(from("offsets:0=5,1=2").await, [5]);
    let moment = between.as_str().unwrap();
    let moment = if moment.ends_with('Z') { moment.to_owned() } else { format!("{moment}Z") };
    assert_eq!(from(&format!("timestamp:{moment}")).await, [6, 7]);
    assert_eq!(from("timestamp:0").await.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..3)).await;
    server.sql("CREATE TABLE other (a INTEGER)").await;
    let other = Events::open(server.get("/v1/tables/public/other/changes?follow=false")).await.all().await;
    let foreign = format!("from=token:{}", other[0].id.as_deref().unwrap());
    let cases = [
        ("from=snapshot", 422, "wrong_table_kind"),
        ("from=yesterday", 400, "invalid_request"),
        ("from=token:garbage", 400, "invalid_token"),
        (foreign.as_str(), 410, "table_dropped"),
        ("from=offsets:0=4", 400, "invalid_offset"),
        ("from=offsets:7=0", 400, "invalid_offset"),
        ("from=offsets:0=-1", 400, "invalid_offset"),
        ("from=offsets:0=9223372036854775807", 400, "invalid_offset"),
        ("from=timestamp:soon", 400, "invalid_offset"),
        ("from=timestamp:2999-01-01T00:00:00Z", 400, "invalid_offset"),
        ("columns=nothing", 422, "unknown_column"),
        ("where=id%20%3E", 400, "invalid_sql"),
        ("where=id", 400, "invalid_sql"),
        ("where=nothing%20%3E%201", 400, "invalid_sql"),
        ("where=id%20%3E%201%20LIMIT%201", 400, "invalid_sql"),
        ("where=true)%20LIMIT%20(1", 400, "invalid_sql"),
        ("where=true)%20UNION%20SELECT%20(1", 400, "invalid_sql"),
        ("where=id%20IN%20(SELECT%20id%20FROM%20t)", 400, "invalid_sql"),
        ("where=count(*)%20%3E%201", 400, "invalid_sql"),
        ("where=true;%20DROP%20TABLE%20t", 400, "multiple_statements"),
        ("where=", 400, "invalid_sql"),
        ("follow=maybe", 400, "invalid_request"),
        ("form=earliest", 400, "invalid_request"),
    ];
    for (query, status, code) in cases {
        problem(server.get(&format!("{CHANGES}?{query}")).send().await.unwrap(), status, code).await;
    }
    let request = server.get(CHANGES).header("last-event-id", "garbage");
    problem(request.send().await.unwrap(), 400, "invalid_token").await;
    let request = server.get(CHANGES).header("accept", "text/csv");
    problem(request.send().await.unwrap(), 406, "not_acceptable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_ends_its_subscriptions_and_voids_its_tokens() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..1)).await;
    let mut events = Events::open(server.get(&format!("{CHANGES}?from=earliest"))).await;
    let id = events.change().await.id.unwrap();
    server.sql("DROP TABLE t").await;
    let last = events.all().await.pop().unwrap();
    assert_eq!(last.event.as_deref(), Some("error"));
    assert_eq!(last.json()["code"], "table_dropped");
    let with_token = || server.get(&format!("{CHANGES}?follow=false")).header("last-event-id", &id);
    problem(with_token().send().await.unwrap(), 410, "table_dropped").await;
    problem(server.get(CHANGES).send().await.unwrap(), 404, "table_not_found").await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    problem(with_token().send().await.unwrap(), 410, "table_dropped").await;
    // What comes back is what it was, also for who followed it.
    server.sql("DROP TABLE t PURGE").await;
    server.sql("UNDROP TABLE t").await;
    server.append(&lines(1..3)).await;
    let events = Events::open(with_token()).await.all().await;
    let rows: Vec<_> = events.iter().filter(|event| event.event.as_deref() == Some("change")).collect();
    assert_eq!(rows.len(), 2, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_shows_that_it_lives() {
    let server = TestServer::start_with(|options| options.limits.ping_interval = Duration::from_millis(100)).await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    let mut events = Events::open(server.get(CHANGES)).await;
    let first = events.next().await.unwrap();
    let ping = events.next().await.unwrap();
    assert_eq!((ping.comment, &ping.id, &ping.event, &ping.data), (true, &first.id, &None, &None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_read_is_cut_off() {
    let server = TestServer::start_with(|options| options.limits.write_timeout = Duration::from_millis(300)).await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    let wide: String = (0..4_000).map(|id| format!("{{\"id\":{id},\"name\":\"{}\"}}\n", "x".repeat(8_000))).collect();
    server.append(&wide).await;
    let request = server.get(&format!("{CHANGES}?from=earliest")).header("accept", EVENTS);
    let response = good(request.send().await.unwrap()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut chunks = response.bytes_stream();
    let mut bytes = 0;
    let broke = loop {
        match tokio::time::timeout(Duration::from_secs(60), chunks.next()).await.expect("it was cut off") {
            Some(Ok(chunk)) => bytes += chunk.len(),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broke && bytes < wide.len(), "{bytes} of {}", wide.len());
}
