//! Rows in, in each format and encoding.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use serde_json::{Value, json};

use crate::harness::{ARROW, NDJSON, TestServer, as_arrow, good, problem};

const ROWS: &str = "/v1/tables/public/t/rows";

fn batch() -> RecordBatch {
    let ids = Int64Array::from(vec![1, 2, 3]);
    let names = StringArray::from(vec![Some("a"), None, Some("")]);
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("name", Arc::new(names) as _)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_format_brings_the_same_rows() {
    let server = TestServer::with_table().await;
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("", NDJSON, b"{\"id\":1,\"name\":\"a\"}\n{\"id\":\"2\"}\n\n{\"name\":\"\",\"id\":3}".to_vec()),
        ("", "application/json", br#"[{"id":1,"name":"a"},{"id":2,"name":null},{"id":3,"name":""}]"#.to_vec()),
        ("", "text/csv", b"name,id\na,1\n,2\n\"\",3\n".to_vec()),
        ("?null=NA", "text/csv; header=present", b"id,name\n1,a\n2,NA\n3,\n".to_vec()),
        ("?header=false&columns=id,name", "text/csv", b"1,a\r\n2,\r\n3,\"\"\r\n".to_vec()),
        ("?change=append", ARROW, as_arrow(&batch())),
    ];
    let mut next = 0;
    for (query, content_type, body) in cases {
        for encoding in ["identity", "gzip", "zstd"] {
            let body = encoded(encoding, &body);
            let request = server.post(&format!("{ROWS}{query}")).header("content-type", content_type);
            let response = request.header("content-encoding", encoding).body(body).send().await.unwrap();
            let answer: Value = good(response).await.json().await.unwrap();
            let expected = json!({
                "rows": 3, "ignored": 0, "rejected": 0, "duplicate": false,
                "buckets": [{"partition": null, "bucket": 0, "first_offset": next, "end_offset": next + 3}],
            });
            assert_eq!(answer, expected, "{content_type} {encoding}");
            let got = server.sql(&format!("SELECT id, name FROM t WHERE __offset >= {next} ORDER BY id")).await;
            assert_eq!(got["rows"], json!([[1, "a"], [2, null], [3, ""]]), "{content_type} {encoding}");
            next += 3;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parquet_file_is_one_request() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE some (origin VARCHAR, distance BIGINT NOT NULL, time_hour TIMESTAMPTZ)").await;
    let flights = include_bytes!("../../data/flights.parquet");
    let request = server.post("/v1/tables/public/some/rows").header("content-type", "application/vnd.apache.parquet");
    let refused = problem(request.body(flights.to_vec()).send().await.unwrap(), 422, "unknown_column").await;
    assert_eq!(refused["column"], "year");
    server
        .sql(
            "CREATE TABLE flights (year INTEGER, month INTEGER, day INTEGER, dep_time INTEGER, sched_dep_time INTEGER, \
             dep_delay INTEGER, arr_time INTEGER, sched_arr_time INTEGER, arr_delay INTEGER, carrier VARCHAR, \
             flight INTEGER, tailnum VARCHAR, origin VARCHAR, dest VARCHAR, air_time INTEGER, distance BIGINT, \
             hour INTEGER, minute INTEGER, time_hour TIMESTAMPTZ)",
        )
        .await;
    let request =
        server.post("/v1/tables/public/flights/rows").header("content-type", "application/vnd.apache.parquet");
    let answer: Value = good(request.body(flights.to_vec()).send().await.unwrap()).await.json().await.unwrap();
    assert_eq!(answer["rows"], 336_776);
    let rows = server.sql("SELECT count(*), count(tailnum), sum(distance) FROM flights").await;
    assert_eq!(rows["rows"], json!([[336_776, 334_264, 350_217_607u64]]));
}

pub fn encoded(encoding: &str, body: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(body, 3).unwrap(),
        _ => body.to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_may_be_numbers_when_asked() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE times (at TIMESTAMPTZ)").await;
    for (query, number) in [("?time=ms", "1763902800000"), ("?time=us", "1763902800000000")] {
        let request = server.post(&format!("/v1/tables/public/times/rows{query}")).header("content-type", NDJSON);
        good(request.body(format!("{{\"at\":{number}}}")).send().await.unwrap()).await;
    }
    let rows = server.sql("SELECT at FROM times").await;
    assert_eq!(rows["rows"], json!([["2025-11-23T13:00:00Z"], ["2025-11-23T13:00:00Z"]]));
    let request = server.post("/v1/tables/public/times/rows").header("content-type", NDJSON);
    let refused = problem(request.body("{\"at\":1763902800000}").send().await.unwrap(), 422, "invalid_row").await;
    assert_eq!(refused["column"], "at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_all_or_nothing_and_names_what_is_wrong() {
    let server = TestServer::with_table().await;
    let cases: &[(&str, &str, &str, u16, &str, Value)] = &[
        ("", NDJSON, "{\"id\":1}\n{\"id\":\"x\"}", 422, "invalid_row", json!({"row": 1, "column": "id", "value": "x"})),
        ("", NDJSON, "{\"id\":1}\n{\"name\":\"a\"}", 422, "invalid_row", json!({"row": 1, "column": "id"})),
        ("", NDJSON, "{\"id\":1,\"nme\":2}", 422, "unknown_column", json!({"column": "nme"})),
        ("", NDJSON, "{\"id\":1,\"id\":2}", 422, "invalid_row", json!({"column": "id"})),
        ("", NDJSON, "{\"id\":", 400, "invalid_body", json!({})),
        ("", NDJSON, "{\"id\":1,\"__change\":\"append\"}", 422, "wrong_table_kind", json!({"column": "__change"})),
        ("", "application/json", "{\"id\":1}", 400, "invalid_body", json!({})),
        ("", "text/csv", "id,nme\n1,2\n", 422, "unknown_column", json!({"column": "nme"})),
        ("", "text/csv", "id\n1,2\n", 400, "invalid_body", json!({})),
        ("", "text/csv", "id\n1\nx\n", 422, "invalid_row", json!({"row": 1, "column": "id", "value": "x"})),
        ("", ARROW, "not arrow at all", 400, "invalid_body", json!({})),
        ("", "application/vnd.apache.parquet", "PAR1xxxxPAR1", 400, "invalid_body", json!({})),
        ("", "application/xml", "<row/>", 415, "unsupported_media_type", json!({"value": "application/xml"})),
        ("?change=upsert", NDJSON, "{\"id\":1}", 422, "wrong_table_kind", json!({})),
        ("?change=delete", NDJSON, "{\"id\":1}", 422, "wrong_table_kind", json!({})),
        ("?change=remove", NDJSON, "{\"id\":1}", 400, "invalid_request", json!({"value": "remove"})),
        ("?columns=id", NDJSON, "{\"id\":1}", 501, "not_built", json!({})),
        ("?header=false", "text/csv", "1,a\n", 400, "invalid_request", json!({})),
        ("?null=NA", NDJSON, "{\"id\":1}", 400, "invalid_request", json!({})),
        ("?time=s", NDJSON, "{\"id\":1}", 400, "invalid_request", json!({"value": "s"})),
        ("?chnge=append", NDJSON, "{\"id\":1}", 400, "invalid_request", json!({})),
    ];
    for (query, content_type, body, status, code, fields) in cases {
        let request = server.post(&format!("{ROWS}{query}")).header("content-type", *content_type).body(*body);
        let problem = problem(request.send().await.unwrap(), *status, code).await;
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(problem[name], *value, "{body}: {problem}");
        }
    }
    assert_eq!(server.value("SELECT count(*) FROM t").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_or_encoded_strangely() {
    let server = TestServer::with_table().await;
    let post = || server.post(ROWS).header("content-type", NDJSON);
    let large = vec![b' '; (64 << 20) + 1];
    let refused = problem(post().body(large.clone()).send().await.unwrap(), 413, "request_too_large").await;
    assert!(refused["hint"].as_str().unwrap().contains("thermocline load"), "{refused}");
    // The same without saying its length, and squeezed into some kilobytes.
    let chunks = futures::stream::iter(
        large.chunks(1 << 20).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>(),
    );
    let response = post().body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    problem(response, 413, "request_too_large").await;
    for encoding in ["gzip", "zstd"] {
        let bomb = encoded(encoding, &large);
        assert!(bomb.len() < 100 << 10);
        let response = post().header("content-encoding", encoding).body(bomb).send().await.unwrap();
        problem(response, 413, "request_too_large").await;
        let mut broken = encoded(encoding, b"{\"id\":1}\n{\"id\":2}\n");
        let middle = broken.len() / 2;
        broken.truncate(middle);
        let response = post().header("content-encoding", encoding).body(broken).send().await.unwrap();
        problem(response, 400, "invalid_body").await;
    }
    for encoding in ["br", "gzip, gzip"] {
        let response = post().header("content-encoding", encoding).body("{}").send().await.unwrap();
        problem(response, 415, "unsupported_media_type").await;
    }
    // Arrow that says more than it has.
    let mut lying = as_arrow(&batch());
    lying[4..8].copy_from_slice(&i32::MAX.to_le_bytes());
    let response = server.post(ROWS).header("content-type", ARROW).body(lying).send().await.unwrap();
    problem(response, 400, "invalid_body").await;
    assert_eq!(server.value("SELECT count(*) FROM t").await, 0);
}

/// A query without rows is an answer like any other.
#[tokio::test]
async fn no_rows_are_an_answer_in_every_format() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE empty (id BIGINT NOT NULL, at TIMESTAMPTZ)").await;
    for format in ["application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"] {
        for sql in ["SELECT * FROM empty", "SELECT id FROM empty ORDER BY id", "SELECT 1 WHERE false"] {
            let answer = server.post("/v1/sql").header("accept", format).body(sql).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{format}: {sql}");
            answer.bytes().await.unwrap_or_else(|error| panic!("{format}: {sql}: {error}"));
        }
    }
}
