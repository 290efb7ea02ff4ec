//! Addresses that are none, methods that do not fit, and who may ask.

use serde_json::Value;

use crate::harness::{NDJSON, TestServer, good, lines, problem};

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_a_problem_document() {
    let server = TestServer::with_table().await;
    let long = format!("/v1/tables/public/{}", "x".repeat(200));
    let cases: &[(&str, &str, u16, &str)] = &[
        ("GET", "/", 404, "not_found"),
        ("GET", "/v2/sql", 404, "not_found"),
        ("GET", "/v1/tables/public/t/nothing", 404, "not_found"),
        ("GET", "/v1/tables/public/nothing", 404, "table_not_found"),
        ("GET", "/v1/tables/nowhere/t", 404, "database_not_found"),
        ("GET", "/v1/tables/public/t/changes?from=latest&from=earliest", 400, "invalid_request"),
        ("GET", "/v1/tables/public/..%2f..%2fetc", 400, "invalid_name"),
        ("GET", "/v1/tables/public/t%00", 400, "invalid_name"),
        ("GET", "/v1/tables/public/%ff", 400, "invalid_request"),
        ("GET", "/v1/tables/public/t$hot", 400, "invalid_name"),
        ("GET", &long, 400, "invalid_name"),
        ("GET", "/v1/tables?limit=3", 400, "invalid_request"),
        ("GET", "/health?verbose=1", 400, "invalid_request"),
        ("GET", "/v1/sql", 405, "method_not_allowed"),
        ("DELETE", "/v1/tables/public/t", 405, "method_not_allowed"),
        ("GET", "/v1/tables/public/t/rows", 405, "method_not_allowed"),
        ("POST", "/v1/tables/public/t/changes", 405, "method_not_allowed"),
        ("POST", "/v1/tables/public/t/lookup", 422, "wrong_table_kind"),
        ("GET", "/openapi.json?pretty=1", 400, "invalid_request"),
        ("POST", "/openapi.json", 405, "method_not_allowed"),
    ];
    for (method, path, status, code) in cases {
        let response = server.request(method, path).send().await.unwrap();
        let allow = response.headers().get("allow").cloned();
        let problem = problem(response, *status, code).await;
        assert_eq!(allow.is_some(), *status == 405, "{method} {path}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_listed_and_described() {
    let server = TestServer::with_table().await;
    server.append(&lines(0..5)).await;
    let list: Value = good(server.get("/v1/tables").send().await.unwrap()).await.json().await.unwrap();
    assert_eq!(list, serde_json::json!({"tables": [{"database": "public", "name": "t", "kind": "log"}]}));
    let describe =
        async || -> Value { good(server.get("/v1/tables/public/t").send().await.unwrap()).await.json().await.unwrap() };
    let before = describe().await;
    assert_eq!(
        before["schema"]["columns"][0],
        serde_json::json!({"id": 1, "name": "id", "type": "BIGINT", "nullable": false})
    );
    assert_eq!(before["properties"]["lake_freshness"], "30s");
    assert_eq!(before["freshness"]["lake_lag_rows"], 5);
    assert!(before["freshness"]["lake_lag_seconds"].as_f64().unwrap() > 0.0);
    assert!(before["freshness"]["last_round"].is_null() && before["freshness"]["last_error"].is_null());
    let round = server.tier("t").await;
    let after = describe().await;
    assert_eq!(after["lake"]["snapshot_id"], round["snapshot_id"]);
    assert!(after["lake"]["location"].as_str().unwrap().ends_with("/warehouse/public/t"), "{after}");
    let bucket = serde_json::json!({"partition": null, "bucket": 0, "log_start": 0, "tiered_end": 5, "durable_end": 5});
    assert_eq!(after["buckets"], serde_json::json!([bucket]));
    assert_eq!(after["freshness"]["lake_lag_rows"], 0);
    assert!(after["freshness"]["last_round"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_wanted_everywhere_but_for_health() {
    let server = TestServer::start_with(|options| options.token = Some("s3cret".into())).await;
    for path in ["/health", "/ready"] {
        good(server.get(path).send().await.unwrap()).await;
    }
    for path in ["/v1/tables", "/metrics", "/v1/tables/public/t/changes", "/nothing"] {
        let response = server.get(path).send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        problem(response, 401, "unauthorized").await;
        let response = server.get(path).bearer_auth("wrong").send().await.unwrap();
        problem(response, 401, "unauthorized").await;
    }
    let response = server.get("/v1/tables").header("authorization", "Basic s3cret").send().await.unwrap();
    problem(response, 401, "unauthorized").await;
    good(server.get("/v1/tables").bearer_auth("s3cret").send().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_may_not_ask_a_server_without_a_token() {
    let server = TestServer::with_table().await;
    for (name, value) in [("origin", "https://example.com"), ("sec-fetch-site", "cross-site"), ("host", "example.com")]
    {
        let response = server.post("/v1/sql").header(name, value).body("DROP TABLE t").send().await.unwrap();
        problem(response, 403, "forbidden").await;
    }
    let request = server.post("/v1/sql").header("origin", "http://localhost:3000").body("SELECT 1");
    good(request.send().await.unwrap()).await;
    let request = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(lines(0..1));
    good(request.send().await.unwrap()).await;
}

/// What a browser does for a page: it asks whether it may, asks, and shows the page what says that it may see it.
#[tokio::test(flavor = "multi_thread")]
async fn web_pages_of_an_origin_that_the_server_knows_may_ask() {
    const KNOWN: &str = "https://app.example.com";
    let server = TestServer::start_with(|options| options.origins = vec![KNOWN.parse().unwrap()]).await;
    server.sql("CREATE TABLE t (id BIGINT)").await;
    let may = |origin: &str| {
        let asks = server.request("OPTIONS", "/v1/tables/public/t/rows").header("origin", origin);
        asks.header("access-control-request-method", "POST").header("access-control-request-headers", "content-type")
    };
    let told = good(may(KNOWN).send().await.unwrap()).await;
    assert_eq!(told.headers()["access-control-allow-origin"], KNOWN);
    assert_eq!(told.headers()["access-control-allow-headers"], "content-type");
    let told = may("https://example.com").send().await.unwrap();
    assert!(!told.headers().contains_key("access-control-allow-origin"));

    let asks = |origin: &str| server.post("/v1/sql").header("origin", origin).header("sec-fetch-site", "cross-site");
    let answer = good(asks(KNOWN).body("SELECT 1").send().await.unwrap()).await;
    assert_eq!(answer.headers()["access-control-allow-origin"], KNOWN);
    for other in ["https://example.com", "http://app.example.com", "https://app.example.com:444", "null"] {
        problem(asks(other).body("DROP TABLE t").send().await.unwrap(), 403, "forbidden").await;
    }
    let elsewhere = asks(KNOWN).header("host", "example.com").body("DROP TABLE t").send().await.unwrap();
    problem(elsewhere, 403, "forbidden").await;
}
