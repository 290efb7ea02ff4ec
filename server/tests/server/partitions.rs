//! Partitions as clients see them: in answers, in events, in tokens, and made while somebody follows.

use serde_json::{Value, json};

use crate::changes::Events;
use crate::harness::{NDJSON, TestServer, good, problem};

const CHANGES: &str = "/v1/tables/public/t/changes";

/// What `from=token:…` gives that does not go on: place and id of each row.
async fn rest(server: &TestServer, token: &str) -> Vec<(String, u64)> {
    let request = server.get(CHANGES).query(&[("from", format!("token:{token}").as_str()), ("follow", "false")]);
    let text = good(request.header("accept", NDJSON).send().await.unwrap()).await.text().await.unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut rest: Vec<_> = lines.filter(|line| line["token"].is_null()).map(|line| told(&line)).collect();
    rest.sort();
    rest
}

fn told(change: &Value) -> (String, u64) {
    let partition = change["partition"].as_str().unwrap_or_else(|| panic!("{change}"));
    (format!("{partition}/{}@{}", change["bucket"], change["offset"]), change["row"]["id"].as_u64().unwrap())
}

fn pairs(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(place, id)| ((*place).to_owned(), *id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_told_and_those_that_come_later_are_followed() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE t (id BIGINT, at TIMESTAMPTZ, region VARCHAR) PARTITION BY (day(at), region)").await;
    let line = |id: u64, day: u64, region: &str| {
        format!("{{\"id\":{id},\"at\":\"2026-11-{day}T10:00:00Z\",\"region\":\"{region}\"}}\n")
    };
    let mut events = Events::open(server.get(&format!("{CHANGES}?from=latest"))).await;
    let nothing = events.next().await.unwrap().id.unwrap();
    let answer = server.append(&(line(1, 23, "eu") + &line(2, 24, "a/b") + &line(3, 23, "eu"))).await;
    let range = |partition: &str, first: u64, end: u64| json!({"partition": partition, "bucket": 0, "first_offset": first, "end_offset": end});
    let (eu, ab) = ("at_day=2026-11-23/region=eu", "at_day=2026-11-24/region=a%2Fb");
    assert_eq!(answer["buckets"], json!([range(eu, 0, 2), range(ab, 0, 1)]));
    let mut seen = Vec::new();
    let mut tokens = vec![nothing];
    for _ in 0..3 {
        let change = events.change().await;
        seen.push(told(&change.json()));
        tokens.push(change.id.unwrap());
    }
    let all = pairs(&[(&format!("{eu}/0@0"), 1), (&format!("{eu}/0@1"), 3), (&format!("{ab}/0@0"), 2)]);
    assert_eq!(seen, all);
    // Cold, hot, and a partition that none of the tokens has heard of.
    server.tier("t").await;
    server.append(&line(4, 24, "eu")).await;
    let late = ("at_day=2026-11-24/region=eu/0@0".to_owned(), 4);
    assert_eq!(told(&events.change().await.json()), late);
    let server = server.restart().await;
    for (sent, token) in tokens.iter().enumerate() {
        let mut expected = [&all[sent..], std::slice::from_ref(&late)].concat();
        expected.sort();
        assert_eq!(rest(&server, token).await, expected, "after {sent}");
    }
    let newest = tokens.last().unwrap().as_str();
    let request = server.get(&format!("{CHANGES}?follow=false")).header("Last-Event-ID", newest);
    let blocks = Events::open(request).await.all().await;
    assert_eq!(blocks.iter().filter(|block| block.is_change()).count(), 1, "there is something left");
    let described: Value = good(server.get("/v1/tables/public/t").send().await.unwrap()).await.json().await.unwrap();
    let partitions: Vec<_> =
        described["buckets"].as_array().unwrap().iter().map(|bucket| &bucket["partition"]).collect();
    assert_eq!(partitions, [eu, ab, "at_day=2026-11-24/region=eu"]);
    assert_eq!(described["properties"]["partition_by"], "day(at), region");
    problem(server.get(&format!("{CHANGES}?from=offsets:0=0")).send().await.unwrap(), 400, "invalid_offset").await;
    let by_where = server.get(CHANGES).query(&[("from", "earliest"), ("follow", "false"), ("where", "region = 'eu'")]);
    let text = good(by_where.header("accept", NDJSON).send().await.unwrap()).await.text().await.unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("\"row\"")).count(), 3, "{text}");
}

/// Two partitions, of which the first gets its first row after the second: a token that says where the second stands
/// begins with the first row of the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_knows_nothing_of_partitions_without_rows() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE t (id BIGINT, part INT, PRIMARY KEY (part, id)) PARTITION BY (part)").await;
    let mut events = Events::open(server.get(&format!("{CHANGES}?from=earliest"))).await;
    // A key that is not there makes no partition; a request that is refused does, and leaves no row.
    let gone = "{\"id\":1,\"part\":7,\"__change\":\"delete\"}\n";
    assert_eq!(server.append(gone).await["buckets"], json!([]));
    let refused = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON);
    let refused = refused.header("Thermocline-Writer", "w").header("Thermocline-Sequence", 5);
    let refused = refused.body("{\"id\":1,\"part\":1}\n").send().await.unwrap();
    problem(refused, 409, "out_of_order_sequence").await;
    server.append("{\"id\":2,\"part\":2}\n").await;
    let token = events.change().await.id.unwrap();
    server.append("{\"id\":3,\"part\":1}\n{\"id\":4,\"part\":2}\n{\"id\":5,\"part\":3}\n").await;
    assert_eq!(rest(&server, &token).await, pairs(&[("part=1/0@0", 3), ("part=2/0@1", 4), ("part=3/0@0", 5)]));
    // A version by the token knows nothing of what came later.
    let versioned = format!("SELECT id FROM t FOR VERSION AS OF 'token:{token}'");
    assert_eq!(server.sql(&versioned).await["rows"], json!([[2]]));
    let keys = json!({"keys": [{"part": 2, "id": 4}, {"part": 9, "id": 4}, {"part": 1, "id": 3}]});
    let found = server.post("/v1/tables/public/t/lookup").json(&keys).send().await.unwrap();
    let found: Value = good(found).await.json().await.unwrap();
    assert_eq!(found["rows"], json!([{"id": 4, "part": 2}, null, {"id": 3, "part": 1}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_known_whatever_partitions_came_between() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE t (id BIGINT, region VARCHAR) WITH (buckets = 2) PARTITION BY (region)").await;
    let send = async |sequence: u64, body: &str| {
        let request = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON);
        let request = request.header("Thermocline-Writer", "w").header("Thermocline-Sequence", sequence);
        good(request.body(body.to_owned()).send().await.unwrap()).await.json::<Value>().await.unwrap()
    };
    let body = "{\"id\":1,\"region\":\"b\"}\n{\"id\":2,\"region\":\"a\"}\n";
    let first = send(0, body).await;
    send(1, "{\"id\":3,\"region\":\"c\"}\n").await;
    let again = send(0, body).await;
    assert_eq!((&first["buckets"], &first["duplicate"]), (&again["buckets"], &json!(false)));
    assert_eq!(again["duplicate"], json!(true));
    assert_eq!(server.value("SELECT count(*) FROM t").await, json!(3));
}
