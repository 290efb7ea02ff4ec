//! Queries: four formats, and what they do when something goes wrong.

use serde_json::{Value, json};

use crate::harness::{ARROW, NDJSON, TestServer, from_arrow, good, lines, problem};

#[tokio::test(flavor = "multi_thread")]
async fn each_format_says_the_same() {
    let server = TestServer::with_table().await;
    server.append("{\"id\":1,\"name\":\"a,\\\"b\"}\n{\"id\":2}\n{\"id\":3,\"name\":\"\"}\n").await;
    let ask = |accept: &str| {
        let request = server.post("/v1/sql").header("accept", accept);
        let request = request.body("SELECT id, name FROM t ORDER BY id");
        async { good(request.send().await.unwrap()).await }
    };
    for accept in ["application/json", "*/*", "text/html, */*;q=0.1"] {
        let response = ask(accept).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["columns"], json!([{"name": "id", "type": "BIGINT"}, {"name": "name", "type": "VARCHAR"}]));
        assert_eq!(answer["rows"], json!([[1, "a,\"b"], [2, null], [3, ""]]));
        assert_eq!(answer["stats"]["hot_rows"], 3);
        assert_eq!(answer["stats"]["lake_rows"], 0);
        assert!(answer["stats"]["elapsed_ms"].is_number());
    }
    let text = ask(NDJSON).await.text().await.unwrap();
    assert_eq!(text, "{\"id\":1,\"name\":\"a,\\\"b\"}\n{\"id\":2,\"name\":null}\n{\"id\":3,\"name\":\"\"}\n");
    let text = ask("text/csv").await.text().await.unwrap();
    assert_eq!(text, "id,name\n1,\"a,\"\"b\"\n2,\n3,\"\"\n");
    let batches = from_arrow(&ask(ARROW).await.bytes().await.unwrap());
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 3);
    assert_eq!(batches[0].schema().field(0).name(), "id");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_told_apart_by_tier() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..10)).await;
    let round = server.tier("t").await;
    assert_eq!(round["rows"], 10);
    assert!(round["snapshot_id"].is_number() && round["files"].is_number() && round["seconds"].is_number(), "{round}");
    server.append(&lines(10..14)).await;
    let answer = server.sql("SELECT sum(id), min(name) FROM t").await;
    assert_eq!(answer["rows"], json!([[91, "n0"]]));
    assert_eq!((&answer["stats"]["hot_rows"], &answer["stats"]["lake_rows"]), (&json!(4), &json!(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_come_as_text_or_as_json() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..3)).await;
    let cases = [
        ("text/plain", "SELECT count(*) FROM t", 3),
        ("text/plain; charset=UTF-8", "SELECT count(*) FROM t;", 3),
        ("application/x-www-form-urlencoded", "SELECT count(*) FROM t", 3),
        ("application/json", r#"{"sql":"SELECT count(*) FROM t WHERE id > $1","params":[0]}"#, 2),
        ("application/json", r#"{"sql":"SELECT count(*) FROM t WHERE name = $1","params":["n1"]}"#, 1),
    ];
    for (content_type, body, expected) in cases {
        let request = server.post("/v1/sql").header("content-type", content_type).body(body);
        let answer: Value = good(request.send().await.unwrap()).await.json().await.unwrap();
        assert_eq!(answer["rows"], json!([[expected]]), "{body}");
    }
    server.sql("CREATE DATABASE other").await;
    let request = server.post("/v1/sql?database=other&timeout=10s").body("CREATE TABLE t (a INTEGER)");
    let answer: Value = good(request.send().await.unwrap()).await.json().await.unwrap();
    assert_eq!(answer["columns"][0]["name"], "rows");
    assert_eq!(server.value("SELECT count(*) FROM other.t").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_streams_and_is_whole() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..20_000)).await;
    let sql = "SELECT a.id, b.id AS other FROM t a CROSS JOIN (SELECT id FROM t WHERE id < 20) b";
    for accept in ["application/json", NDJSON, "text/csv", ARROW] {
        let request = server.post("/v1/sql").header("accept", accept).body(sql);
        let bytes = good(request.send().await.unwrap()).await.bytes().await.unwrap();
        let rows = match accept {
            NDJSON => bytes.split(|byte| *byte == b'\n').count() - 1,
            "text/csv" => bytes.split(|byte| *byte == b'\n').count() - 2,
            ARROW => from_arrow(&bytes).iter().map(|batch| batch.num_rows()).sum(),
            _ => serde_json::from_slice::<Value>(&bytes).unwrap()["rows"].as_array().unwrap().len(),
        };
        assert_eq!(rows, 400_000, "{accept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_the_first_row_is_never_a_clean_end() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..100_000)).await;
    // Only the last row cannot be divided, and the rows before it are far more than one batch.
    let sql = "SELECT 1000 / (99999 - id) AS x FROM t";
    let ask = |accept: &str| server.post("/v1/sql").header("accept", accept).body(sql).send();
    let text = good(ask(NDJSON).await.unwrap()).await.text().await.unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["error"]["code"].is_string(), "{last}");
    for accept in ["application/json", "text/csv", ARROW] {
        let response = good(ask(accept).await.unwrap()).await;
        assert!(response.bytes().await.is_err(), "{accept} ended cleanly");
    }
    // One that fails at once has a status.
    let response = server.post("/v1/sql").body("SELECT 1 / (id - id) FROM t").send().await.unwrap();
    assert!(response.status().is_client_error() || response.status().is_server_error());
    assert_eq!(response.headers()["content-type"], "application/problem+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_statements() {
    let server = TestServer::with_table().await;
    let cases: &[(&str, &str, u16, &str, &str)] = &[
        ("text/plain", "", 400, "invalid_sql", "empty"),
        ("text/plain", "SELEC 1", 400, "invalid_sql", ""),
        ("text/plain", "SELECT 1; SELECT 2", 400, "multiple_statements", ""),
        ("text/plain", "SELECT * FROM nothing", 404, "table_not_found", "nothing"),
        ("text/plain", "CREATE TABLE t (a INTEGER)", 409, "table_exists", "public.t"),
        ("application/json", "SELECT 1", 400, "invalid_body", ""),
        ("application/json", r#"{"sql":"SELECT 1","parms":[]}"#, 400, "invalid_body", "parms"),
        ("application/xml", "<sql/>", 415, "unsupported_media_type", ""),
        ("text/plain; charset=latin1", "SELECT 1", 415, "unsupported_media_type", ""),
    ];
    for (content_type, body, status, code, part) in cases {
        let request = server.post("/v1/sql").header("content-type", *content_type).body(*body);
        let problem = problem(request.send().await.unwrap(), *status, code).await;
        assert!(problem["detail"].as_str().unwrap().contains(part), "{body}: {problem}");
    }
    let response =
        server.post("/v1/sql").body("SELECT '".to_owned() + &"x".repeat(2 << 20) + "'").send().await.unwrap();
    problem(response, 413, "request_too_large").await;
    let response = server.post("/v1/sql").header("accept", "image/png").body("SELECT 1").send().await.unwrap();
    problem(response, 406, "not_acceptable").await;
    let response = server.post("/v1/sql?timeout=never").body("SELECT 1").send().await.unwrap();
    problem(response, 400, "invalid_request").await;
    let response = server.post("/v1/sql?database=nowhere").body("SELECT 1").send().await.unwrap();
    problem(response, 404, "database_not_found").await;
}
