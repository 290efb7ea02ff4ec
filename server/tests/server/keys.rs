//! Primary-key tables over HTTP: upserts and deletes in every format, the changelog, snapshots, lookups, SQL, refusals.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use reqwest::Response;
use serde_json::{Value, json};

use crate::changes::Events;
use crate::harness::{ARROW, NDJSON, TestServer, as_arrow, from_arrow, good, problem};

const ROWS: &str = "/v1/tables/public/k/rows";
const CHANGES: &str = "/v1/tables/public/k/changes";
const LOOKUP: &str = "/v1/tables/public/k/lookup";

async fn with_keys(properties: &str) -> TestServer {
    let server = TestServer::start().await;
    let ddl = format!(
        "CREATE TABLE k (id BIGINT, region VARCHAR, name VARCHAR NOT NULL, PRIMARY KEY (region, id)) \
         WITH (lake_enabled = false{properties})"
    );
    server.sql(&ddl).await;
    server
}

async fn send(server: &TestServer, query: &str, media_type: &str, body: impl Into<reqwest::Body>) -> Response {
    let request = server.post(&format!("{ROWS}{query}")).header("content-type", media_type);
    request.body(body).send().await.unwrap()
}

async fn change(server: &TestServer, lines: &[Value]) -> Value {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    good(send(server, "", NDJSON, body).await).await.json().await.unwrap()
}

async fn state(server: &TestServer) -> Value {
    server.sql("SELECT id, region, name FROM k ORDER BY region, id").await["rows"].clone()
}

/// Kind, id and name of each change.
async fn changes(server: &TestServer, query: &str) -> Vec<(String, i64, String)> {
    let request = server.get(&format!("{CHANGES}?follow=false&{query}")).header("accept", NDJSON);
    let text = good(request.send().await.unwrap()).await.text().await.unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let changes = lines.filter(|line| line.get("kind").is_some());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    changes.map(|line| (text(&line["kind"]), line["row"]["id"].as_i64().unwrap(), text(&line["row"]["name"]))).collect()
}

fn seen(kind: &str, id: i64, name: &str) -> (String, i64, String) {
    (kind.to_owned(), id, name.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn upserts_and_deletes_show_in_sql_changes_and_lookups() {
    let server = with_keys("").await;
    let answer = change(
        &server,
        &[
            json!({"id": 1, "region": "eu", "name": "a"}),
            json!({"id": 2, "region": "eu", "name": "b"}),
            json!({"id": 1, "region": "eu", "name": "c"}),
            json!({"id": 2, "region": "eu", "__change": "delete"}),
            json!({"id": 1, "region": "us", "name": "d", "__change": "upsert"}),
        ],
    )
    .await;
    assert_eq!((&answer["rows"], &answer["buckets"][0]["end_offset"]), (&json!(5), &json!(6)));
    assert_eq!(state(&server).await, json!([[1, "eu", "c"], [1, "us", "d"]]));
    let log = [
        seen("+I", 1, "a"),
        seen("+I", 2, "b"),
        seen("-U", 1, "a"),
        seen("+U", 1, "c"),
        seen("-D", 2, "b"),
        seen("+I", 1, "d"),
    ];
    assert_eq!(changes(&server, "from=earliest").await, log);
    assert_eq!(changes(&server, "from=offsets:0=3").await, log[3..]);
    let kinds = server.sql("SELECT __kind, id, name FROM \"k$changes\" ORDER BY __offset").await["rows"].clone();
    let expected: Vec<_> = log.iter().map(|(kind, id, name)| json!([kind, id, name])).collect();
    assert_eq!(kinds, json!(expected));
    assert_eq!(server.value("SELECT count(*) FROM k").await, 2);
    assert_eq!(server.sql("SELECT name FROM k WHERE id = 1 AND region = 'us'").await["rows"], json!([["d"]]));
    assert_eq!(server.sql("SELECT name, __offset FROM k LIMIT 1").await["rows"].as_array().unwrap().len(), 1);

    let lookup = json!({"keys": [
        {"id": 2, "region": "eu"}, {"region": "us", "id": 1}, {"id": 1, "region": "eu"}, {"id": 1, "region": "eu"}
    ]});
    let found: Value = good(server.post(LOOKUP).json(&lookup).send().await.unwrap()).await.json().await.unwrap();
    let us = json!({"id": 1, "region": "us", "name": "d"});
    let eu = json!({"id": 1, "region": "eu", "name": "c"});
    assert_eq!(found["rows"], json!([null, us, eu, eu]));
    let lookup = json!({"keys": [{"id": 1, "region": "eu"}], "columns": ["name"]});
    let found: Value = good(server.post(LOOKUP).json(&lookup).send().await.unwrap()).await.json().await.unwrap();
    assert_eq!(found["rows"], json!([{"name": "c"}]));

    // INSERT is an upsert, and all of it is still there after a restart.
    server.sql("INSERT INTO k (id, region, name) VALUES (1, 'eu', 'e'), (3, 'eu', 'f')").await;
    let expected = json!([[1, "eu", "e"], [3, "eu", "f"], [1, "us", "d"]]);
    assert_eq!(state(&server).await, expected);
    let server = server.restart().await;
    assert_eq!(state(&server).await, expected);
    assert_eq!(changes(&server, "from=earliest").await[..6], log);
    let shown: Value = server.get("/v1/tables/public/k").send().await.unwrap().json().await.unwrap();
    assert_eq!((&shown["kind"], &shown["primary_key"]), (&json!("primary_key"), &json!(["region", "id"])));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_upserts_and_deletes() {
    let server = with_keys("").await;
    let upsert = |name: &str| {
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![1, 2])) as _),
            ("region", Arc::new(StringArray::from(vec!["eu", "eu"])) as _),
            ("name", Arc::new(StringArray::from(vec![name, name])) as _),
        ]);
        batch.unwrap()
    };
    let bodies: [(&str, &str, Vec<u8>); 3] = [
        (
            "application/json",
            "json",
            br#"[{"id":1,"region":"eu","name":"json"},{"id":2,"region":"eu","name":"json"}]"#.to_vec(),
        ),
        ("text/csv", "csv", b"id,region,name\n1,eu,csv\n2,eu,csv\n".to_vec()),
        (ARROW, "arrow", as_arrow(&upsert("arrow"))),
    ];
    for (media_type, name, body) in bodies {
        good(send(&server, "", media_type, body).await).await;
        assert_eq!(state(&server).await, json!([[1, "eu", name], [2, "eu", name]]));
    }
    // A delete needs the key alone, whatever the format.
    let keys = upsert("").project(&[0, 1]).unwrap();
    for (media_type, body) in [
        (NDJSON, b"{\"id\":1,\"region\":\"eu\"}\n{\"id\":2,\"region\":\"eu\"}".to_vec()),
        ("text/csv", b"region,id\neu,1\neu,2\n".to_vec()),
        (ARROW, as_arrow(&keys)),
    ] {
        good(send(&server, "", ARROW, as_arrow(&upsert("again"))).await).await;
        good(send(&server, "?change=delete", media_type, body).await).await;
        assert_eq!(state(&server).await, json!([]), "{media_type}");
    }
    let mixed = b"__change,id,region,name\n,1,eu,kept\nupsert,2,eu,gone\ndelete,2,eu,\n".to_vec();
    good(send(&server, "", "text/csv", mixed).await).await;
    assert_eq!(state(&server).await, json!([[1, "eu", "kept"]]));
    server.stop().await;
}

/// The state at one cut, without ids, then every change after it, once; a half of an update never carries an id.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_follower_gets_the_state_and_then_every_change() {
    let server = with_keys(", buckets = 3").await;
    for id in 0..20 {
        change(&server, &[json!({"id": id, "region": "eu", "name": "old"})]).await;
    }
    for id in 0..5 {
        change(&server, &[json!({"id": id, "region": "eu", "__change": "delete"})]).await;
        change(&server, &[json!({"id": id + 5, "region": "eu", "name": "new"})]).await;
    }
    let mut events = Events::open(server.get(&format!("{CHANGES}?from=snapshot"))).await;
    let mut rows = Vec::new();
    let cut = loop {
        let block = events.next().await.unwrap();
        if !block.is_change() {
            break block;
        }
        assert!(block.id.is_none(), "a row of a snapshot has no place to come back to");
        let change = block.json();
        assert_eq!(change["kind"], "+I");
        rows.push((change["row"]["id"].as_i64().unwrap(), change["row"]["name"].as_str().unwrap().to_owned()));
    };
    rows.sort();
    let expected: Vec<_> = (5..20).map(|id| (id, if id < 10 { "new" } else { "old" }.to_owned())).collect();
    assert_eq!(rows, expected);
    let token = cut.id.expect("the cut has a token");
    change(&server, &[json!({"id": 7, "region": "eu", "name": "newer"})]).await;
    let (half, whole) = (events.change().await, events.change().await);
    assert_eq!((half.json()["kind"].clone(), half.json()["row"]["name"].clone()), (json!("-U"), json!("new")));
    assert_eq!((whole.json()["kind"].clone(), whole.json()["row"]["name"].clone()), (json!("+U"), json!("newer")));
    assert!(half.id.is_none() && whole.id.is_some());
    drop(events);
    let resumed = [seen("-U", 7, "new"), seen("+U", 7, "newer")];
    assert_eq!(changes(&server, &format!("from=token:{token}")).await, resumed);
    let server = server.restart().await;
    assert_eq!(changes(&server, &format!("from=token:{token}")).await, resumed);
    assert_eq!(changes(&server, "from=snapshot").await.len(), 15);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_applied_once() {
    let server = with_keys("").await;
    let body = "{\"id\":1,\"region\":\"eu\",\"name\":\"a\"}\n{\"id\":2,\"region\":\"eu\",\"__change\":\"delete\"}\n";
    for duplicate in [false, true] {
        let request = server.post(ROWS).header("content-type", NDJSON).header("thermocline-writer", "w");
        let response = request.header("thermocline-sequence", "0").body(body).send().await.unwrap();
        let answer: Value = good(response).await.json().await.unwrap();
        assert_eq!((&answer["rows"], &answer["duplicate"]), (&json!(2), &json!(duplicate)));
    }
    assert_eq!(changes(&server, "from=earliest").await, [seen("+I", 1, "a")]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_come_as_arrow_are_answered_as_arrow() {
    let server = with_keys("").await;
    change(&server, &[json!({"id": 1, "region": "eu", "name": "a"}), json!({"id": 2, "region": "us", "name": "b"})])
        .await;
    let keys = |regions: Vec<&str>| {
        let columns: [(&str, ArrayRef); 2] = [
            ("id", Arc::new(Int64Array::from_iter_values(1..=regions.len() as i64))),
            ("region", Arc::new(StringArray::from(regions))),
        ];
        as_arrow(&RecordBatch::try_from_iter(columns).unwrap())
    };
    let ask = async |query: &str, body: Vec<u8>| {
        let request = server.post(&format!("{LOOKUP}{query}")).header("content-type", ARROW);
        request.body(body).send().await.unwrap()
    };
    let answer = good(ask("?columns=name,id", keys(vec!["us", "us", "eu"])).await).await;
    assert_eq!(answer.headers()["content-type"], ARROW);
    let rows = from_arrow(&answer.bytes().await.unwrap()).remove(0);
    let names = rows.column(0).as_string::<i32>().iter().collect::<Vec<_>>();
    let ids = rows.column(1).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    assert_eq!((names, ids), (vec![None, Some("b"), None], vec![None, Some(2), None]));
    let none = from_arrow(&good(ask("", keys(vec![])).await).await.bytes().await.unwrap());
    assert_eq!(none.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    problem(ask("?columns=nothing", keys(vec!["us"])).await, 422, "unknown_column").await;
    problem(ask("", vec![1, 2, 3]).await, 400, "invalid_body").await;
    let only_ids = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    problem(ask("", as_arrow(&only_ids)).await, 422, "invalid_row").await;
    let as_csv = server.post(LOOKUP).header("content-type", "text/csv").body("id").send().await.unwrap();
    problem(as_csv, 415, "unsupported_media_type").await;
    server.stop().await;
}

/// Where the bucket key is the first of the key's columns, a lookup may name it alone. The rows may be hot or in the lake.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_begin_alike_are_looked_up_together() {
    let server = TestServer::start().await;
    let ddl = "CREATE TABLE k (id BIGINT, region VARCHAR, name VARCHAR NOT NULL, PRIMARY KEY (region, id)) \
               WITH (buckets = 3, bucket_key = 'region', hot_retention = '0s')";
    server.sql(ddl).await;
    let row = |id: i64, region: &str, name: &str| json!({"id": id, "region": region, "name": name});
    let asked =
        json!({"prefixes": [{"region": "us"}, {"region": "nowhere"}, {"region": "eu"}], "columns": ["id", "name"]});
    let found = async |server: &TestServer| {
        let answer = good(server.post(LOOKUP).json(&asked).send().await.unwrap()).await;
        answer.json::<Value>().await.unwrap()["rows"].clone()
    };
    change(&server, &[row(1, "eu", "a"), row(1, "us", "b"), row(2, "eu", "c"), row(3, "eu", "d")]).await;
    let there = |id: i64, name: &str| json!({"id": id, "name": name});
    assert_eq!(found(&server).await, json!([[there(1, "b")], [], [there(1, "a"), there(2, "c"), there(3, "d")]]));
    server.tier("k").await;
    change(&server, &[row(2, "eu", "e"), json!({"id": 3, "region": "eu", "__change": "delete"})]).await;
    let expected = json!([[there(1, "b")], [], [there(1, "a"), there(2, "e")]]);
    assert_eq!(found(&server).await, expected);
    server.tier("k").await;
    let server = server.restart().await;
    assert_eq!(found(&server).await, expected);
    assert_eq!(server.sql("SELECT count(*) FROM \"k$lake\"").await["rows"], json!([[3]]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_changes_nothing() {
    let server = with_keys("").await;
    change(&server, &[json!({"id": 1, "region": "eu", "name": "a"})]).await;
    let long = format!("{{\"id\":1,\"region\":\"{}\",\"name\":\"a\"}}", "x".repeat(16 << 20));
    let cases: [(&str, &str, String, u16, &str, Value); 11] = [
        ("", NDJSON, r#"{"id":1,"region":"eu"}"#.into(), 422, "invalid_row", json!({"row": 0, "column": "name"})),
        ("", NDJSON, r#"{"region":"eu","name":"a"}"#.into(), 422, "invalid_row", json!({"row": 0, "column": "id"})),
        ("", NDJSON, r#"{"id":null,"region":"eu","name":"a"}"#.into(), 422, "invalid_row", json!({"column": "id"})),
        ("?change=delete", NDJSON, r#"{"id":1}"#.into(), 422, "invalid_row", json!({"row": 0, "column": "region"})),
        (
            "",
            NDJSON,
            r#"{"id":1,"region":"eu","name":"a","__change":"-D"}"#.into(),
            422,
            "invalid_row",
            json!({"column": "__change", "value": "-D"}),
        ),
        // The key of zero has one spelling.
        ("", NDJSON, r#"{"id":-0.5,"region":"eu","name":"a"}"#.into(), 422, "invalid_row", json!({"column": "id"})),
        ("", NDJSON, r#"{"id":"NaN","region":"eu","name":"a"}"#.into(), 422, "invalid_row", json!({"column": "id"})),
        ("?change=append", NDJSON, r#"{"id":1,"region":"eu","name":"a"}"#.into(), 422, "wrong_table_kind", json!({})),
        ("?change=replace", NDJSON, String::new(), 400, "invalid_request", json!({"value": "replace"})),
        ("", "text/csv", "id,id,region,name\n1,2,eu,a\n".into(), 422, "", json!({})),
        ("", NDJSON, long, 422, "invalid_row", json!({"row": 0})),
    ];
    for (query, media_type, body, status, code, with) in cases {
        let shown = body.chars().take(80).collect::<String>();
        let response = send(&server, query, media_type, body).await;
        if code.is_empty() {
            assert!(response.status().is_client_error(), "{shown}: {}", response.status());
        } else {
            let problem = problem(response, status, code).await;
            for (name, value) in with.as_object().unwrap() {
                assert_eq!(&problem[name], value, "{shown}: {problem}");
            }
        }
        assert_eq!(state(&server).await, json!([[1, "eu", "a"]]), "{shown}");
    }
    for (body, status, code) in [
        (json!({"keys": [{"id": 1}]}), 422, "invalid_row"),
        (json!({"keys": [{"id": 1, "region": "eu", "name": "a"}]}), 422, "unknown_column"),
        (json!({"keys": 1}), 400, "invalid_body"),
        (json!({}), 400, "invalid_body"),
        (json!({"prefixes": [{"region": "eu"}]}), 422, "wrong_table_kind"),
        (json!({"prefixes": [{"id": 1}]}), 422, "unknown_column"),
        (json!({"prefixes": [{}]}), 422, "invalid_row"),
        (json!({"prefixes": [{"region": "eu"}], "keys": []}), 400, "invalid_body"),
        (json!({"keys": [{"id": null, "region": "eu"}]}), 422, "invalid_row"),
        (json!({"keys": [{"id": "NaN", "region": "eu"}]}), 422, "invalid_row"),
        (json!({"keys": [{"id": 1.5, "region": "eu"}]}), 422, "invalid_row"),
        (json!({"keys": vec![json!({"id": 1, "region": "eu"}); 10_001]}), 413, "request_too_large"),
        (json!({"keys": [], "columns": ["nothing"]}), 422, "unknown_column"),
    ] {
        problem(server.post(LOOKUP).json(&body).send().await.unwrap(), status, code).await;
    }
    for (ddl, code) in [
        ("CREATE TABLE x (a DOUBLE PRECISION PRIMARY KEY)", "invalid_type"),
        ("CREATE TABLE x (a INT, PRIMARY KEY (b))", "unknown_column"),
        ("CREATE TABLE x (a INT PRIMARY KEY, b INT PRIMARY KEY)", "invalid_sql"),
        ("CREATE TABLE x (a INT NULL PRIMARY KEY)", "invalid_sql"),
        ("CREATE TABLE x (a INT) WITH (changelog = 'upsert')", "invalid_property"),
    ] {
        let response = server.post("/v1/sql").body(ddl).send().await.unwrap();
        let found: Value = response.json().await.unwrap();
        assert_eq!(found["code"], code, "{ddl}: {found}");
    }
    server.stop().await;
}
