//! Everything wrong that a stranger can send, one case each: by address, format and kind of mistake. Of each it is said which
//! status, code and words come back; after each the server is alive and the tables are what they were, rows and offsets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::command_line;
use crate::formats::encoded;
use crate::harness::{ARROW, NDJSON, TestServer, as_arrow, good, lines, problem};

const JSON: &str = "application/json";
const CSV: &str = "text/csv";
const PARQUET: &str = "application/vnd.apache.parquet";
const TEXT: &str = "text/plain";

const ROWS: &str = "/v1/tables/public/t/rows";
const KEYED: &str = "/v1/tables/public/k/rows";
const LOOKUP: &str = "/v1/tables/public/k/lookup";
const CHANGES: &str = "/v1/tables/public/t/changes";

/// A request that is wrong, and what it is told.
struct Case {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    /// A part of the detail.
    words: &'static str,
}

fn post(
    path: &str,
    media: &'static str,
    body: impl Into<Vec<u8>>,
    status: u16,
    code: &'static str,
    words: &'static str,
) -> Case {
    let headers = vec![("content-type", media.as_bytes().to_vec())];
    Case { method: "POST", path: path.to_owned(), headers, body: body.into(), status, code, words }
}

fn get(path: impl Into<String>, status: u16, code: &'static str, words: &'static str) -> Case {
    Case { method: "GET", path: path.into(), headers: Vec::new(), body: Vec::new(), status, code, words }
}

impl Case {
    fn with(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Case {
        self.headers.push((name, value.into()));
        self
    }

    fn name(&self) -> String {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(80)]).into_owned();
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))).collect();
        format!("{} {:.120} {headers:?} {body:?}", self.method, self.path)
    }
}

/// A server with a log table `t` and a keyed table `k`, both with rows.
async fn with_tables() -> TestServer {
    let server = TestServer::with_table().await;
    server.append(&lines(0..5)).await;
    server.sql("CREATE TABLE k (id BIGINT PRIMARY KEY, name VARCHAR)").await;
    server.sql("INSERT INTO k VALUES (1, 'a'), (2, 'b')").await;
    server
}

/// What must stay as it is.
async fn tables(server: &TestServer) -> Value {
    let mut all = Vec::new();
    for path in ["/v1/tables", "/v1/tables/public/t", "/v1/tables/public/k"] {
        let mut told: Value = good(server.get(path).send().await.unwrap()).await.json().await.unwrap();
        told["freshness"] = Value::Null;
        all.push(told);
    }
    all.into()
}

/// Sends all cases; what went wrong with any is told of all at once.
async fn check(server: &TestServer, cases: Vec<Case>) {
    let before = tables(server).await;
    let mut wrong = Vec::new();
    for case in cases {
        let mut request = server.request(case.method, &case.path).body(case.body.clone());
        for (name, value) in &case.headers {
            request = request.header(*name, reqwest::header::HeaderValue::from_bytes(value).unwrap());
        }
        let started = Instant::now();
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                wrong.push(format!("{}\n    no answer: {error:?}", case.name()));
                continue;
            }
        };
        let (status, path) = (response.status().as_u16(), response.url().path().to_owned());
        let text = response.text().await.unwrap();
        let told: Value = serde_json::from_str(&text).unwrap_or_default();
        let as_said = status == case.status && told["code"] == case.code && told["status"] == status;
        if !as_said || !told["detail"].as_str().unwrap_or_default().contains(case.words) {
            let text: String = text.chars().take(400).collect();
            wrong.push(format!(
                "{}\n    wants {} {} {:?}\n    got {status} {text}",
                case.name(),
                case.status,
                case.code,
                case.words
            ));
            continue;
        }
        crate::openapi::check_refusal(&path, status, case.code);
        if started.elapsed() > Duration::from_secs(10) {
            wrong.push(format!("{}\n    took {:?}", case.name(), started.elapsed()));
        }
        if tables(server).await != before {
            wrong.push(format!("{}\n    changed the tables", case.name()));
        }
        good(server.get("/health").send().await.unwrap()).await;
    }
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
    // Rows are still written and read.
    server.append(&lines(5..6)).await;
    assert_eq!(server.value("SELECT count(*) FROM t").await, 6);
    assert_eq!(server.value("SELECT count(*) FROM k").await, 2);
}

fn one(name: &str, column: impl Array + 'static) -> Vec<u8> {
    as_arrow(&RecordBatch::try_from_iter([(name, Arc::new(column) as ArrayRef)]).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_rows() {
    let server = with_tables().await;
    let deep =
        |open: &str, close: &str| format!("{{\"id\":1,\"name\":{}1{}}}", open.repeat(100_000), close.repeat(100_000));
    let mut cases = Vec::new();
    // One object a line and one array of them: what is wrong within an object is wrong in both.
    let objects: Vec<(Vec<u8>, u16, &str, &str)> = vec![
        (b"{\"id\":1,}".to_vec(), 400, "invalid_body", "trailing comma"),
        (b"{\"id\" 1}".to_vec(), 400, "invalid_body", "expected `:`"),
        (b"{id:1}".to_vec(), 400, "invalid_body", "key must be a string"),
        (b"{\"id\":01}".to_vec(), 400, "invalid_body", "invalid number"),
        (b"{\"id\":+1}".to_vec(), 400, "invalid_body", "expected value"),
        (b"{\"id\":NaN}".to_vec(), 400, "invalid_body", ""),
        (b"{\"id\":1,\"name\":\"\\ud800\"}".to_vec(), 400, "invalid_body", "escape"),
        (b"{\"id\":1,\"name\":\"\\x\"}".to_vec(), 400, "invalid_body", "escape"),
        (b"{\"id\":1,\"name\":\"\x01\"}".to_vec(), 400, "invalid_body", "control character"),
        (b"{\"id\":1,\"name\":\"\xff\"}".to_vec(), 400, "invalid_body", ""),
        (b"{\"id\":1,\"name\":\"\xed\xa0\x80\"}".to_vec(), 400, "invalid_body", ""),
        (b"{\"id\":1,\"name\":\"a".to_vec(), 400, "invalid_body", "EOF"),
        (b"[1]".to_vec(), 400, "invalid_body", "an object for each row"),
        (b"null".to_vec(), 400, "invalid_body", "an object for each row"),
        (deep("[", "]").into(), 422, "invalid_row", "is not a string"),
        (deep("{\"a\":", "}").into(), 422, "invalid_row", "is not a string"),
        (deep("[", "").into(), 400, "invalid_body", ""),
        (b"{\"id\":\"one\"}".to_vec(), 422, "invalid_row", "is not a number"),
        (b"{\"id\":true}".to_vec(), 422, "invalid_row", "is not a number"),
        (b"{\"id\":{}}".to_vec(), 422, "invalid_row", "is not a number"),
        (b"{\"id\":1.5}".to_vec(), 422, "invalid_row", "has a fraction"),
        (b"{\"id\":9223372036854775808}".to_vec(), 422, "invalid_row", "out of range"),
        (b"{\"id\":1e400}".to_vec(), 422, "invalid_row", "out of range"),
        (b"{\"id\":1e-400}".to_vec(), 422, "invalid_row", "has a fraction"),
        (format!("{{\"id\":1{}}}", "0".repeat(100_000)).into(), 422, "invalid_row", "out of range"),
        (b"{\"id\":null}".to_vec(), 422, "invalid_row", "NOT NULL"),
        (b"{}".to_vec(), 422, "invalid_row", "NOT NULL"),
        (b"{\"id\":1,\"name\":2}".to_vec(), 422, "invalid_row", "is not a string"),
        (b"{\"id\":1,\"id\":1}".to_vec(), 422, "invalid_row", "twice"),
        (b"{\"id\":1,\"ID\":1}".to_vec(), 422, "unknown_column", "ID"),
        (b"{\"id\":1,\"__offset\":1}".to_vec(), 422, "unknown_column", "__offset"),
        (b"{\"id\":1,\"\\u202eid\":1}".to_vec(), 422, "unknown_column", "\\u{202e}id"),
        (b"{\"id\":1,\"a\\u0000b\":1}".to_vec(), 422, "unknown_column", "a\\0b"),
        (format!("{{\"id\":1,\"{}\":1}}", "x".repeat(100_000)).into(), 422, "unknown_column", "xxx"),
        (b"{\"id\":1,\"__change\":\"upsert\"}".to_vec(), 422, "wrong_table_kind", "only appended"),
    ];
    for (object, status, code, words) in objects {
        let before = b"{\"id\":7}".to_vec();
        let line = [&before[..], b"\n", &object].concat();
        cases.push(post(ROWS, NDJSON, line, status, code, words));
        let array = [b"[", &before[..], b",", &object, b"]"].concat();
        // A text that ends early is an array that goes on.
        let words = if words == "EOF" { "" } else { words };
        cases.push(post(ROWS, JSON, array, status, code, words));
    }
    cases.extend([
        post(ROWS, NDJSON, "{\"id\":1} {\"id\":2}", 400, "invalid_body", "trailing characters"),
        post(ROWS, NDJSON, "[{\"id\":1}]", 400, "invalid_body", "an object for each row"),
        post(ROWS, NDJSON, "{\"id\":1}\n{\"id\":2", 400, "invalid_body", "row 1"),
        post(ROWS, JSON, "{\"id\":1}", 400, "invalid_body", "an array of objects"),
        post(ROWS, JSON, "[{\"id\":1},]", 400, "invalid_body", "trailing comma"),
        post(ROWS, JSON, "[{\"id\":1}", 400, "invalid_body", "EOF"),
        post(ROWS, JSON, "[{\"id\":1}] []", 400, "invalid_body", "trailing characters"),
        post(ROWS, JSON, "[".repeat(1_000_000), 400, "invalid_body", "an object for each row"),
        post(ROWS, JSON, "\u{feff}\u{feff}[]", 400, "invalid_body", "expected value"),
        post(ROWS, CSV, "id,name\n1", 400, "invalid_body", "fewer than 2 fields"),
        post(ROWS, CSV, "id,name\n1,a,b", 400, "invalid_body", "more than 2 fields"),
        post(ROWS, CSV, "id,name\n1,\"a", 400, "invalid_body", "does not end"),
        post(ROWS, CSV, "id,name\n1,\"a\"b", 400, "invalid_body", "closing quote"),
        post(ROWS, CSV, "id,name\n1,a\"b", 400, "invalid_body", "inside an unquoted field"),
        post(ROWS, CSV, "id,name\r1,a", 400, "invalid_body", "carriage return"),
        post(ROWS, CSV, b"id,name\n1,\xff\n".to_vec(), 400, "invalid_body", "UTF-8"),
        post(ROWS, CSV, "id,id\n1,2", 422, "invalid_row", "twice"),
        post(ROWS, CSV, "id,nam\n1,2", 422, "unknown_column", "nam"),
        post(ROWS, CSV, "id;name\n1;2", 422, "unknown_column", "id;name"),
        post(ROWS, CSV, "name\na", 422, "invalid_row", "NOT NULL"),
        post(ROWS, CSV, "id\n\n", 422, "invalid_row", "NOT NULL"),
        post(ROWS, CSV, "id\n1\n1e30\n", 422, "invalid_row", "out of range"),
        post(ROWS, CSV, "id\n0x10\n", 422, "invalid_row", "is not a number"),
        post(ROWS, CSV, "id\n 1\n", 422, "invalid_row", "is not a number"),
        post(ROWS, CSV, ",".repeat(100_000) + "\n", 422, "unknown_column", ""),
        post(&format!("{ROWS}?header=false&columns=id,id"), CSV, "1,2", 422, "invalid_row", "twice"),
        post(&format!("{ROWS}?header=false&columns=id,nam"), CSV, "1,2", 422, "unknown_column", "nam"),
        post(&format!("{ROWS}?header=no"), CSV, "id\n1", 400, "invalid_request", "true or false"),
    ]);
    let rows = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        ("name", Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]))),
    ])
    .unwrap();
    let arrow = as_arrow(&rows);
    // The batch's message begins at the second mark of one.
    let second = 8 + arrow[8..].windows(4).position(|bytes| bytes == [0xff; 4]).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = arrow.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    // A schema of one column before a batch of two.
    let narrow = one("id", Int64Array::from(vec![1]));
    let narrow_second = 8 + narrow[8..].windows(4).position(|bytes| bytes == [0xff; 4]).unwrap();
    let fewer = [&narrow[..narrow_second], &arrow[second..]].concat();
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)])]);
    cases.extend([
        post(ROWS, ARROW, "", 400, "invalid_body", "no schema"),
        post(ROWS, ARROW, "ARROW1\0\0", 400, "invalid_body", ""),
        post(ROWS, ARROW, vec![0xff; 100_000], 400, "invalid_body", "ends within a message"),
        post(ROWS, ARROW, vec![0; 100_000], 400, "invalid_body", "something follows its end"),
        post(ROWS, ARROW, arrow[..arrow.len() / 2].to_vec(), 400, "invalid_body", "ends within a message"),
        post(ROWS, ARROW, arrow[second..].to_vec(), 400, "invalid_body", "out of place"),
        post(ROWS, ARROW, changed(second + 4, &[0; 4]), 400, "invalid_body", "something follows its end"),
        post(ROWS, ARROW, changed(second + 4, &i32::MAX.to_le_bytes()), 400, "invalid_body", "ends within a message"),
        post(ROWS, ARROW, changed(4, &(-1i32).to_le_bytes()), 400, "invalid_body", "ends within a message"),
        post(ROWS, ARROW, [&arrow[..], b"more"].concat(), 400, "invalid_body", "something follows its end"),
        post(ROWS, ARROW, [&arrow[..], &arrow[..]].concat(), 400, "invalid_body", "something follows its end"),
        post(ROWS, ARROW, fewer, 400, "invalid_body", "more or fewer columns"),
        post(ROWS, ARROW, one("id", StringArray::from(vec!["x"])), 422, "invalid_row", "id"),
        post(ROWS, ARROW, one("id", Int64Array::from(vec![None])), 422, "invalid_row", "NOT NULL"),
        post(ROWS, ARROW, one("name", StringArray::from(vec!["x"])), 422, "invalid_row", "NOT NULL"),
        post(ROWS, ARROW, one("ID", Int64Array::from(vec![1])), 422, "unknown_column", "ID"),
        post(ROWS, ARROW, one("id", list), 422, "invalid_row", "id"),
    ]);
    let flights = include_bytes!("../../data/flights.parquet");
    let footer = flights.len() - 8;
    let mut long = flights.to_vec();
    long[footer..footer + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut encrypted = flights.to_vec();
    encrypted[footer + 4..].copy_from_slice(b"PARE");
    let mut holes = flights.to_vec();
    holes[4..100_000].fill(0);
    cases.extend([
        post(ROWS, PARQUET, "", 400, "invalid_body", "does not start and end"),
        post(ROWS, PARQUET, "PAR1PAR1", 400, "invalid_body", "does not start and end"),
        post(ROWS, PARQUET, "PAR1\0\0\0\0PAR1", 400, "invalid_body", "footer cannot be read"),
        post(ROWS, PARQUET, flights[..flights.len() / 2].to_vec(), 400, "invalid_body", "is it whole?"),
        post(ROWS, PARQUET, flights[1..].to_vec(), 400, "invalid_body", "does not start"),
        post(ROWS, PARQUET, long, 400, "invalid_body", "footer is longer than the file"),
        post(ROWS, PARQUET, encrypted, 501, "not_built", "encrypted"),
        post(ROWS, PARQUET, holes, 400, "invalid_body", ""),
        post(ROWS, PARQUET, flights.to_vec(), 422, "unknown_column", "year"),
    ]);
    for encoding in ["gzip", "zstd"] {
        let good = encoded(encoding, b"{\"id\":1}\n");
        cases.extend([
            post(ROWS, NDJSON, "{\"id\":1}", 400, "invalid_body", "").with("content-encoding", encoding),
            post(ROWS, NDJSON, good[..good.len() - 3].to_vec(), 400, "invalid_body", "")
                .with("content-encoding", encoding),
            post(ROWS, NDJSON, encoded(encoding, b"{\"id\":"), 400, "invalid_body", "EOF")
                .with("content-encoding", encoding),
            // Twice, and told once.
            post(ROWS, NDJSON, encoded(encoding, &good), 400, "invalid_body", "").with("content-encoding", encoding),
        ]);
    }
    // Of a table with a key.
    cases.extend([
        post(KEYED, NDJSON, "{\"name\":\"x\"}", 422, "invalid_row", "id"),
        post(KEYED, NDJSON, "{\"id\":null}", 422, "invalid_row", "NOT NULL"),
        post(KEYED, NDJSON, "{\"id\":1,\"__change\":\"remove\"}", 422, "invalid_row", "__change"),
        post(KEYED, NDJSON, "{\"id\":1,\"__change\":1}", 422, "invalid_row", "__change"),
        post(&format!("{KEYED}?change=append"), NDJSON, "{\"id\":1}", 422, "wrong_table_kind", ""),
        post(&format!("{KEYED}?change=delete"), NDJSON, "{\"name\":\"x\"}", 422, "invalid_row", "id"),
    ]);
    check(&server, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_parameters_and_names() {
    let server = with_tables().await;
    let rows = |status, code, words| post(ROWS, NDJSON, "{\"id\":1}", status, code, words);
    let bare =
        |body: &str, status, code, words| Case { headers: Vec::new(), ..post(ROWS, NDJSON, body, status, code, words) };
    let mut cases = vec![
        bare("{\"id\":1}", 415, "unsupported_media_type", "does not say its format"),
        post(ROWS, "", "{\"id\":1}", 415, "unsupported_media_type", ""),
        post(ROWS, "application/x-ndjson; charset=utf-16", "{\"id\":1}", 415, "unsupported_media_type", "UTF-8"),
        bare("{\"id\":1}", 415, "unsupported_media_type", "").with("content-type", b"\xff".to_vec()),
        rows(400, "invalid_request", "content-type is there twice").with("content-type", CSV),
        rows(415, "unsupported_media_type", "").with("content-encoding", "deflate"),
        rows(415, "unsupported_media_type", "").with("content-encoding", "gzip").with("content-encoding", "br"),
        rows(400, "invalid_request", "come together").with("thermocline-writer", "w"),
        rows(400, "invalid_request", "come together").with("thermocline-sequence", "0"),
        rows(400, "invalid_request", "thermocline-writer is there twice")
            .with("thermocline-writer", "w")
            .with("thermocline-writer", "v")
            .with("thermocline-sequence", "0"),
        rows(400, "invalid_request", "thermocline-sequence is there twice")
            .with("thermocline-writer", "w")
            .with("thermocline-sequence", "0")
            .with("thermocline-sequence", "1"),
        rows(400, "invalid_request", "thermocline-tag is there twice")
            .with("thermocline-tag", "a")
            .with("thermocline-tag", "a"),
        rows(400, "invalid_request", "longer than 255").with("thermocline-tag", "x".repeat(256)),
        rows(400, "invalid_request", "not ASCII").with("thermocline-tag", b"\xe9".to_vec()),
    ];
    for (writer, sequence) in [
        ("w", "-1"),
        ("w", "1.0"),
        ("w", "0x1"),
        ("w", "18446744073709551616"),
        ("w", ""),
        ("", "0"),
        ("../w", "0"),
        ("w w", "0"),
        ("\"w\"", "0"),
    ] {
        cases.push(
            rows(400, "invalid_request", "").with("thermocline-writer", writer).with("thermocline-sequence", sequence),
        );
    }
    cases.push(
        rows(400, "invalid_request", "").with("thermocline-writer", "x".repeat(129)).with("thermocline-sequence", "0"),
    );
    cases.push(
        rows(409, "out_of_order_sequence", "")
            .with("thermocline-writer", "w")
            .with("thermocline-sequence", u64::MAX.to_string()),
    );
    for (query, words) in [
        ("change=upsert&change=delete", "twice"),
        ("change=", "must be"),
        ("time=s", "ms or us"),
        ("time=ms&time=us", "twice"),
        ("Change=append", "unknown parameter"),
        ("%00=1", "unknown parameter"),
        ("on_error=ignore", "set_aside"),
        ("on_error=", "set_aside"),
        ("null=x", "text/csv"),
        ("header=false", "text/csv"),
    ] {
        cases.push(post(&format!("{ROWS}?{query}"), NDJSON, "{\"id\":1}", 400, "invalid_request", words));
    }
    let aside = format!("{ROWS}?on_error=set_aside");
    cases.extend([
        post(&aside, CSV, "id,name\n1,\"a\n", 400, "invalid_body", "quoted field"),
        post(&aside, CSV, "id,nme\n1,a\n", 422, "unknown_column", "nme"),
        post(&aside, CSV, b"id\n\xff\n".to_vec(), 400, "invalid_body", "UTF-8"),
        post(&aside, JSON, "[{\"id\":1},", 400, "invalid_body", ""),
        post(&aside, JSON, "{\"id\":1}", 400, "invalid_body", ""),
        post(&aside, JSON, b"[{\"id\":\"\xff\"}]".to_vec(), 400, "invalid_body", ""),
        post(&aside, ARROW, "nothing", 400, "invalid_body", ""),
        post(&aside, PARQUET, "PAR1", 400, "invalid_body", ""),
        post("/v1/tables/public/t$rejected/rows", NDJSON, "{}", 400, "invalid_name", "only read"),
        post("/v1/tables/public/t$rejected$rejected/rows", NDJSON, "{}", 400, "invalid_name", ""),
        post("/v1/tables/public/nothing$rejected/rows", NDJSON, "{}", 400, "invalid_name", ""),
        get("/v1/tables/public/nothing$rejected", 404, "table_not_found", ""),
        get("/v1/tables/public/$rejected", 400, "invalid_name", ""),
    ]);
    // Names, as they may stand in an address.
    let long = "x".repeat(200);
    for name in [
        "..%2f..%2fetc",
        "a%2fb",
        "a%5cb",
        "a%22b",
        "a%27b",
        "a%3bb",
        "t%00",
        "%e2%80%ae",
        "a%e2%80%8bb",
        "t%20",
        "%20t",
        "t%0a",
        "__t",
        "t$hot",
        "1t",
        "t-1",
        "%c3%a9",
        &long,
    ] {
        for (method, rest) in
            [("GET", ""), ("POST", "/rows"), ("GET", "/changes"), ("POST", "/lookup"), ("POST", "/tier")]
        {
            for path in [format!("/v1/tables/public/{name}{rest}"), format!("/v1/tables/{name}/t{rest}")] {
                let case = if method == "GET" {
                    get(path, 400, "invalid_name", "")
                } else {
                    post(&path, JSON, "{}", 400, "invalid_name", "")
                };
                cases.push(case);
            }
        }
    }
    for name in ["T", "nothing", "public"] {
        cases.push(get(format!("/v1/tables/public/{name}"), 404, "table_not_found", ""));
        cases.push(post(&format!("/v1/tables/public/{name}/rows"), NDJSON, "{}", 404, "table_not_found", ""));
        cases.push(post(&format!("/v1/tables/public/{name}/tier"), JSON, "", 404, "table_not_found", ""));
    }
    cases.extend([
        get("/v1/tables/public/%ff", 400, "invalid_request", "UTF-8"),
        get("/v1/tables//t", 400, "invalid_name", "empty"),
        get("/v1/tables/public/t/", 404, "not_found", ""),
        get("/v1/tables/nowhere/t", 404, "database_not_found", ""),
        get("/v1/tables?database=public", 400, "invalid_request", "unknown parameter"),
        get("/metrics?format=json", 400, "invalid_request", "unknown parameter"),
        get("/ready?x", 400, "invalid_request", "unknown parameter"),
        post("/v1/tables/public/t/tier?wait=true", JSON, "", 400, "invalid_request", "unknown parameter"),
    ]);
    check(&server, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_and_lookups() {
    let server = with_tables().await;
    let changes =
        |query: &str, status, code, words| get(format!("{CHANGES}?follow=false&{query}"), status, code, words);
    let plus = format!("where=id{}%20%3E%201", "%2B1".repeat(3_000));
    let brackets = format!("where={}true{}", "(".repeat(3_000), ")".repeat(3_000));
    let mut cases = vec![
        changes("from=", 400, "invalid_request", "place to begin"),
        changes("from=yesterday", 400, "invalid_request", "place to begin"),
        changes("from=earliest:1", 400, "invalid_request", "place to begin"),
        changes("from=snapshot", 422, "wrong_table_kind", "log table"),
        changes("from=timestamp:soon", 400, "invalid_offset", "moment"),
        changes("from=timestamp:9223372036854775807", 400, "invalid_offset", "moment"),
        changes("from=timestamp:2999-01-01T00:00:00Z", 400, "invalid_offset", "future"),
        changes("from=offsets:", 400, "invalid_offset", ""),
        changes("from=offsets:0=-1", 400, "invalid_offset", ""),
        changes("from=offsets:0=18446744073709551615", 400, "invalid_offset", ""),
        changes("from=offsets:0=6", 400, "invalid_offset", ""),
        changes("from=offsets:0=1,0=2", 400, "invalid_offset", ""),
        changes("from=offsets:7=0", 400, "invalid_offset", ""),
        changes("from=offsets:4294967296=0", 400, "invalid_offset", ""),
        changes("from=token:", 400, "invalid_token", ""),
        changes("from=token:AAAA", 400, "invalid_token", ""),
        changes("from=token:%00", 400, "invalid_token", ""),
        changes(&format!("from=token:{}", "A".repeat(20_000)), 400, "invalid_token", ""),
        changes("columns=", 422, "unknown_column", ""),
        changes("columns=id,id", 400, "invalid_request", "twice"),
        changes("columns=nothing", 422, "unknown_column", "nothing"),
        changes("columns=__offset", 422, "unknown_column", "__offset"),
        changes("where=", 400, "invalid_sql", ""),
        changes("where=id", 400, "invalid_sql", ""),
        changes("where=nothing%3D1", 400, "invalid_sql", "nothing"),
        changes("where=1%3D1;DROP%20TABLE%20t", 400, "multiple_statements", ""),
        changes("where=id%20IN%20(SELECT%20id%20FROM%20t)", 400, "invalid_sql", ""),
        changes("where=count(*)%20%3E%201", 400, "invalid_sql", ""),
        changes(&plus, 400, "sql_too_deep", ""),
        changes(&brackets, 400, "sql_too_deep", ""),
        get(format!("{CHANGES}?follow=maybe"), 400, "invalid_request", "true or false"),
        get(CHANGES, 406, "not_acceptable", "").with("accept", "text/html"),
        changes("from=latest", 400, "invalid_token", "").with("last-event-id", "yesterday"),
        changes("from=latest", 400, "invalid_token", "").with("last-event-id", b"\xff".to_vec()),
        changes("from=latest", 400, "invalid_request", "last-event-id is there twice")
            .with("last-event-id", "AQEBAAABAGfavhc")
            .with("last-event-id", "AQEBAAABAGfavhc"),
    ];
    let many: Vec<_> = (0..10_001).map(|id| json!({ "id": id })).collect();
    let deep = format!("{{\"keys\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let lookup = |body: &str, status, code, words| post(LOOKUP, JSON, body, status, code, words);
    cases.extend([
        lookup("", 400, "invalid_body", "EOF"),
        lookup("[]", 400, "invalid_body", ""),
        lookup("{}", 400, "invalid_body", "either keys or prefixes"),
        lookup("{\"keys\":[],\"prefixes\":[]}", 400, "invalid_body", "either keys or prefixes"),
        lookup("{\"keys\":[],\"keys\":[]}", 400, "invalid_body", "duplicate field"),
        lookup("{\"keys\":[],\"limit\":1}", 400, "invalid_body", "unknown field"),
        lookup("{\"keys\":{}}", 400, "invalid_body", "an array of objects"),
        lookup("{\"keys\":[1]}", 400, "invalid_body", "an object for each row"),
        lookup("{\"keys\":[{}]}", 422, "invalid_row", "NOT NULL"),
        lookup("{\"keys\":[{\"id\":null}]}", 422, "invalid_row", "NOT NULL"),
        lookup("{\"keys\":[{\"id\":\"x\"}]}", 422, "invalid_row", "is not a number"),
        lookup("{\"keys\":[{\"name\":\"a\"}]}", 422, "unknown_column", "name"),
        lookup("{\"keys\":[{\"id\":1}],\"columns\":[\"nothing\"]}", 422, "unknown_column", "nothing"),
        lookup("{\"keys\":[{\"id\":1}],\"columns\":[\"id\",\"id\"]}", 400, "invalid_request", "twice"),
        lookup("{\"keys\":[{\"id\":1}],\"columns\":\"id\"}", 400, "invalid_body", ""),
        lookup("{\"prefixes\":[{\"id\":1}]}", 422, "wrong_table_kind", ""),
        lookup(&deep, 400, "invalid_body", ""),
        lookup(&json!({ "keys": many }).to_string(), 413, "request_too_large", "10000"),
        post(LOOKUP, JSON, b"{\"keys\":[{\"id\":\"\xff\"}]}".to_vec(), 400, "invalid_body", ""),
        post(LOOKUP, CSV, "id\n1", 415, "unsupported_media_type", ""),
        post(LOOKUP, ARROW, "nothing", 400, "invalid_body", ""),
        post(LOOKUP, ARROW, one("name", StringArray::from(vec!["a"])), 422, "unknown_column", "name"),
        post(LOOKUP, ARROW, one("id", StringArray::from(vec!["a"])), 422, "invalid_row", "id"),
        post(
            &format!("{LOOKUP}?columns=nothing"),
            ARROW,
            one("id", Int64Array::from(vec![1])),
            422,
            "unknown_column",
            "nothing",
        ),
        post(&format!("{LOOKUP}?columns=id"), JSON, "{\"keys\":[]}", 400, "invalid_request", "unknown parameter"),
        post("/v1/tables/public/t/lookup", JSON, "{\"keys\":[]}", 422, "wrong_table_kind", "no primary key"),
    ]);
    check(&server, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements() {
    let server = with_tables().await;
    let sql = |text: &str, status, code, words| post("/v1/sql", TEXT, text, status, code, words);
    let form = |body: &str, status, code, words| post("/v1/sql", JSON, body, status, code, words);
    let chain =
        |first: &str, more: &str, count: usize, rest: &str| format!("SELECT {first}{}{rest}", more.repeat(count));
    let nested = |open: &str, inner: &str, close: &str, count: usize| {
        format!("SELECT {}{inner}{}", open.repeat(count), close.repeat(count))
    };
    let cases = vec![
        sql("", 400, "invalid_sql", "empty"),
        sql("SELECT 1", 400, "invalid_request", "not applied once").with("thermocline-writer", "w"),
        sql("SELECT 1", 400, "invalid_request", "not applied once").with("thermocline-sequence", "0"),
        sql("SELECT * FROM (VALUES (1)) a(x) JOIN (VALUES (1)) b(x) ON a.x = b.x", 400, "invalid_sql", "name x")
            .with("accept", NDJSON),
        sql(" \n\t ", 400, "invalid_sql", "empty"),
        sql(";;", 400, "invalid_sql", ""),
        sql("-- nothing", 400, "invalid_sql", ""),
        sql("SELECT 'a", 400, "invalid_sql", ""),
        sql("SELECT \"a", 400, "invalid_sql", ""),
        sql("SELECT /* a", 400, "invalid_sql", ""),
        sql("SELECT 1\0", 400, "invalid_sql", ""),
        sql("SELECT \u{202e}1", 400, "invalid_sql", ""),
        sql("SELECT 1; SELECT 2", 400, "multiple_statements", ""),
        sql("SELECT 1; DROP TABLE t", 400, "multiple_statements", ""),
        sql("SELECT 1;/* */;DROP TABLE t", 400, "multiple_statements", ""),
        sql("COPY t TO '/tmp/x.csv'", 403, "forbidden", ""),
        sql("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", 403, "forbidden", ""),
        sql("SET datafusion.execution.batch_size = 1", 403, "forbidden", ""),
        sql("LOAD '/tmp/x.so'", 403, "forbidden", ""),
        sql("SELECT * FROM '/etc/passwd'", 404, "table_not_found", ""),
        sql("SELECT * FROM \"http://127.0.0.1/x.parquet\"", 404, "table_not_found", ""),
        sql("SELECT * FROM \"../t\"", 404, "table_not_found", ""),
        sql("DROP TABLE \"../t\"", 400, "invalid_name", ""),
        sql("CREATE TABLE \"a\u{202e}b\" (id INT)", 400, "invalid_name", ""),
        sql("CREATE TABLE \"a\0b\" (id INT)", 400, "invalid_name", ""),
        sql(&format!("CREATE TABLE {} (id INT)", "x".repeat(129)), 400, "invalid_name", ""),
        sql(&format!("CREATE TABLE x ({} INT)", "x".repeat(129)), 400, "invalid_name", ""),
        sql(&format!("CREATE DATABASE {}", "x".repeat(129)), 400, "invalid_name", ""),
        // Constraints that are none.
        sql("CREATE TABLE x (a INT CHECK (a > (SELECT 1)))", 400, "invalid_sql", "by itself"),
        sql("CREATE TABLE x (a INT, CHECK (b > 0))", 400, "invalid_sql", "CHECK (b > 0)"),
        sql("CREATE TABLE x (a INT, CHECK (random() < a))", 400, "invalid_sql", "random"),
        sql("CREATE TABLE x (a INT, CHECK ())", 400, "invalid_sql", ""),
        sql("CREATE TABLE x (a INT, CHECK (a > 0) OR true)", 400, "invalid_sql", ""),
        sql("CREATE TABLE x (a INT, CHECK (a > 0)) WHERE (true)", 400, "invalid_sql", ""),
        sql("CREATE TABLE x (a INT, CONSTRAINT \"../x\" CHECK (a > 0))", 400, "invalid_name", "constraint"),
        sql("ALTER TABLE t ADD CONSTRAINT c CHECK (id)", 400, "invalid_sql", "constraint c"),
        sql("ALTER TABLE t ADD CONSTRAINT c CHECK (id > $1)", 400, "invalid_request", "$1"),
        sql("ALTER TABLE t ADD CONSTRAINT c CHECK (__offset > 1)", 400, "invalid_sql", "__offset"),
        sql("ALTER TABLE t DROP CONSTRAINT \"c\u{202e}\"", 400, "invalid_sql", "no constraint"),
        sql(&format!("ALTER TABLE t ADD CHECK (id{} > 0)", "+1".repeat(1_000)), 400, "sql_too_deep", ""),
        sql(&format!("ALTER TABLE t ADD CHECK (name <> '{}')", "x".repeat(5_000)), 400, "invalid_sql", "4096"),
        sql(
            &format!("ALTER TABLE t ADD CHECK ({}id > 0{})", "(".repeat(300), ")".repeat(300)),
            400,
            "sql_too_deep",
            "",
        ),
        // Deep.
        sql(&chain("1", "+1", 20_000, ""), 400, "sql_too_deep", ""),
        sql(&chain("1", "+1", 500_000, ""), 400, "sql_too_deep", ""),
        sql(&chain("id = 0", " OR id = 1", 30_000, " FROM t"), 400, "sql_too_deep", ""),
        sql(&chain("id = 0", " AND NOT id = 1", 30_000, " FROM t"), 400, "sql_too_deep", ""),
        sql(&chain("'a'", "||'a'", 50_000, ""), 400, "sql_too_deep", ""),
        sql(&nested("(", "1", ")", 100_000), 400, "sql_too_deep", ""),
        sql(&nested("abs(", "1", ")", 100_000), 400, "sql_too_deep", ""),
        sql(&nested("[", "1", "]", 100_000), 400, "sql_too_deep", ""),
        sql(&nested("(SELECT ", "1", ")", 50_000), 400, "sql_too_deep", ""),
        sql(&nested("CASE WHEN true THEN ", "1", " END", 30_000), 400, "sql_too_deep", ""),
        sql(&nested("NOT ", "true", "", 200_000), 400, "sql_too_deep", ""),
        sql(&("SELECT 1 UNION ALL ".repeat(50_000) + "SELECT 1"), 400, "sql_too_deep", ""),
        sql(
            &format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(30_000), ") x".repeat(30_000)),
            400,
            "sql_too_deep",
            "",
        ),
        sql(&format!("SELECT 1 FROM t{}", ", t".repeat(100_000)), 400, "sql_too_deep", ""),
        sql(
            &format!(
                "WITH {} SELECT 1",
                (0..20_000).map(|n| format!("a{n} AS (SELECT 1)")).collect::<Vec<_>>().join(",")
            ),
            400,
            "sql_too_deep",
            "",
        ),
        sql(
            &format!(
                "INSERT INTO t VALUES {}(1,{}'a'{})",
                "(1,'a'),".repeat(100),
                "(".repeat(50_000),
                ")".repeat(50_000)
            ),
            400,
            "sql_too_deep",
            "",
        ),
        // Many.
        sql(&format!("SELECT '{}'", "x".repeat(1 << 20)), 413, "request_too_large", ""),
        sql("SELECT * FROM generate_series(1, 10000000000)", 400, "invalid_sql", "10000000"),
        sql("SELECT * FROM range(0, 9223372036854775807)", 400, "invalid_sql", ""),
        sql("SELECT generate_series(1, 10000000000)", 400, "invalid_sql", ""),
        sql("SELECT repeat('x', 2000000000)", 429, "resources_exhausted", ""),
        sql("SELECT lpad('x', 2147483647)", 429, "resources_exhausted", ""),
        sql("SELECT array_repeat(1, 10000000000)", 400, "invalid_sql", ""),
        post(
            "/v1/sql?timeout=300ms",
            TEXT,
            "SELECT sum(a.value + b.value) FROM range(1000000) a, range(10000000) b",
            504,
            "query_timeout",
            "300ms",
        ),
        post(
            "/v1/sql?timeout=300ms",
            TEXT,
            "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT count(*) FROM r",
            504,
            "query_timeout",
            "",
        ),
        // Parameters and forms.
        form("", 400, "invalid_body", ""),
        form("{}", 400, "invalid_body", "missing field `sql`"),
        form("{\"sql\":1}", 400, "invalid_body", "string"),
        form("{\"sql\":\"SELECT 1\",\"sql\":\"SELECT 2\"}", 400, "invalid_body", "duplicate field"),
        form("{\"sql\":\"SELECT 1\",\"params\":{}}", 400, "invalid_body", ""),
        form("{\"sql\":\"SELECT $1\"}", 400, "invalid_request", ""),
        form("{\"sql\":\"SELECT $0\",\"params\":[1]}", 400, "invalid_request", ""),
        form("{\"sql\":\"SELECT $1\",\"params\":[1,2]}", 400, "invalid_request", ""),
        form("{\"sql\":\"SELECT $1\",\"params\":[[1]]}", 400, "invalid_request", ""),
        form("{\"sql\":\"SELECT $99999999999999999999\",\"params\":[1]}", 400, "invalid_sql", ""),
        form(&format!("{{\"sql\":\"SELECT 1\",\"params\":{}", "[".repeat(1_000_000)), 400, "invalid_body", "recursion"),
        post("/v1/sql", TEXT, b"SELECT '\xff'".to_vec(), 400, "invalid_body", "UTF-8"),
        post("/v1/sql", JSON, b"{\"sql\":\"SELECT '\xff'\"}".to_vec(), 400, "invalid_body", ""),
        post("/v1/sql", "application/xml", "<sql/>", 415, "unsupported_media_type", ""),
        sql("SELECT 1", 400, "invalid_request", "content-type is there twice").with("content-type", JSON),
        sql("SELECT 1", 406, "not_acceptable", "").with("accept", "image/png"),
        post("/v1/sql?timeout=0s", TEXT, "SELECT 1", 400, "invalid_request", "duration"),
        post("/v1/sql?timeout=-1s", TEXT, "SELECT 1", 400, "invalid_request", "duration"),
        post("/v1/sql?timeout=1s&timeout=2s", TEXT, "SELECT 1", 400, "invalid_request", "twice"),
        post("/v1/sql?database=..", TEXT, "SELECT 1", 400, "invalid_name", ""),
        post("/v1/sql?database=nowhere", TEXT, "SELECT 1", 404, "database_not_found", ""),
        post("/v1/sql?db=public", TEXT, "SELECT 1", 400, "invalid_request", "unknown parameter"),
    ];
    check(&server, cases).await;
}

/// Long texts that people write, too, are answered.
#[tokio::test(flavor = "multi_thread")]
async fn long_lists_are_no_bad_input() {
    let server = with_tables().await;
    let list: Vec<_> = (0..100_000).map(|id| id.to_string()).collect();
    assert_eq!(server.value(&format!("SELECT count(*) FROM t WHERE id IN ({})", list.join(","))).await, 5);
    let chain = " OR id = 3".repeat(2_000);
    assert_eq!(server.value(&format!("SELECT count(*) FROM t WHERE id = 1{chain}")).await, 2);
}

/// Bodies that never end are cut off where they are too large, plain or in endless empty pieces of a compressed stream.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_without_end() {
    let server = with_tables().await;
    let before = tables(&server).await;
    let endless = |piece: Vec<u8>| {
        reqwest::Body::wrap_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone())))
    };
    let empty_members = encoded("gzip", b"").repeat(1_000);
    for (path, media, encoding, piece) in [
        (ROWS, NDJSON, "identity", vec![b' '; 64 << 10]),
        (ROWS, CSV, "zstd", encoded("zstd", &[b'x'; 64 << 10])),
        (ROWS, NDJSON, "gzip", empty_members),
        ("/v1/sql", TEXT, "identity", vec![b' '; 64 << 10]),
        (LOOKUP, JSON, "identity", vec![b' '; 64 << 10]),
    ] {
        let started = Instant::now();
        let request = server.post(path).header("content-type", media).header("content-encoding", encoding);
        let response = request.body(endless(piece)).send().await;
        assert!(started.elapsed() < Duration::from_secs(60), "{path} {encoding}: {:?}", started.elapsed());
        // The answer comes while the client still sends; a client that does not look loses it with the connection.
        match response {
            // A second member is no part of the body.
            Ok(response) if encoding == "gzip" => drop(problem(response, 400, "invalid_body").await),
            Ok(response) => drop(problem(response, 413, "request_too_large").await),
            Err(_) => {}
        }
        assert_eq!(tables(&server).await, before, "{path} {encoding}");
    }
}

/// Heads and bodies that come slowly or stop coming cost their own connection and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_slowly() {
    let server = TestServer::start_with(|options| options.limits.read_timeout = Duration::from_millis(500)).await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let head = format!("POST {ROWS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {NDJSON}\r\n");
    for (sent, expected) in [
        // Nothing, and half a head: there is nobody to answer to.
        (String::new(), ""),
        (head.clone(), ""),
        (format!("{head}content-length: 100\r\n\r\n{{\"id\":1}}\n"), "HTTP/1.1 400"),
        (format!("{head}transfer-encoding: chunked\r\n\r\n9\r\n{{\"id\":1}}\n\r\n"), "HTTP/1.1 400"),
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let reading = tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer));
        server.append(&lines(0..1)).await;
        reading.await.unwrap_or_else(|_| panic!("{sent:?} holds its connection")).unwrap();
        assert!(answer.starts_with(expected), "{sent:?}: {answer}");
        assert!(expected.is_empty() || answer.contains("the body stopped coming"), "{sent:?}: {answer}");
    }
    assert_eq!(server.value("SELECT count(*) FROM t").await, 4);
}

/// Requests that are none, or two at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http() {
    let server = with_tables().await;
    let before = tables(&server).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let post = format!("POST {ROWS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {NDJSON}\r\n");
    let cases: Vec<Vec<u8>> = vec![
        b"\0\0\0\0\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx y: 1\r\n\r\n".to_vec(),
        b"GET /v1/tables/public/%2e%2e HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(),
        b"GET /v1/tables/public/../../../etc/passwd HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(),
        b"GET http://127.0.0.1/health?x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(),
        [b"GET /".to_vec(), vec![b'x'; 1 << 20], b" HTTP/1.1\r\n\r\n".to_vec()].concat(),
        [b"GET /health HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(10_000), b"\r\n".to_vec()].concat(),
        format!("{post}content-length: 9\r\ncontent-length: 10\r\n\r\n{{\"id\":1}}\n").into(),
        format!("{post}content-length: -1\r\n\r\n{{\"id\":1}}\n").into(),
        format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n{{\"id\":1}}\r\n0\r\n\r\n").into(),
        format!("{post}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{{\"id\":1}}\r\n0\r\n\r\n").into(),
    ];
    for sent in cases {
        let shown = String::from_utf8_lossy(&sent[..sent.len().min(200)]).into_owned();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // It may hang up before it has read all.
        let _ = stream.write_all(&sent).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let reading = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer));
        let _ = reading.await.unwrap_or_else(|_| panic!("{shown:?} holds its connection"));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
        assert_eq!(tables(&server).await, before, "{shown:?}");
    }
}

/// A query that is refused, one that runs out of memory, and one that runs out of time, beside writers that do not notice.
#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_leave_ingest_alone() {
    let server = TestServer::start_with(|options| {
        options.sql.memory_bytes_max = 16 << 20;
        options.sql.query_memory_bytes_max = 16 << 20;
        options.sql.spill_directory = None;
    })
    .await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    let deep = format!("SELECT 1{}", "+1".repeat(20_000));
    let queries = [
        (deep.as_str(), "", 400, "sql_too_deep"),
        (
            "SELECT count(*) FROM range(3000000) a JOIN range(3000000) b ON a.value = b.value",
            "",
            429,
            "resources_exhausted",
        ),
        (
            "SELECT sum(a.value + b.value) FROM range(100000) a, range(10000000) b",
            "?timeout=500ms",
            504,
            "query_timeout",
        ),
        ("SELECT repeat('x', 1000000000)", "", 429, "resources_exhausted"),
    ];
    let asking = async {
        for (query, parameters, status, code) in queries.iter().cycle().take(12) {
            let request = server.post(&format!("/v1/sql{parameters}")).body(query.to_string());
            problem(request.send().await.unwrap(), *status, code).await;
        }
    };
    let writing = async {
        let mut slowest = Duration::ZERO;
        for id in 0..200 {
            let started = Instant::now();
            server.append(&lines(id..id + 1)).await;
            slowest = slowest.max(started.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        slowest
    };
    let ((), slowest) = tokio::join!(asking, writing);
    assert!(slowest < Duration::from_secs(30), "a row took {slowest:?}");
    assert_eq!(server.value("SELECT count(*) FROM t").await, 200);
    assert_eq!(server.value("SELECT sum(id) FROM t").await, 19_900);
}

/// The same mistakes on the command line: an exit code, and one line that says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line() {
    let server = with_tables().await;
    let before = tables(&server).await;
    let directory = tempfile::TempDir::new().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let flights = include_bytes!("../../data/flights.parquet");
    let url = server.url.clone();
    let deep = format!("SELECT 1{}", "+1".repeat(20_000));
    let cases: Vec<(Vec<String>, i32, &str)> = vec![
        (vec!["load".into(), file("ragged.csv", b"id,name\n1,a\n2\n"), "t".into()], 1, "fewer than 2 fields"),
        (vec!["load".into(), file("quote.csv", b"id,name\n1,\"a\n"), "t".into()], 1, "does not end"),
        (vec!["load".into(), file("type.csv", b"id,name\n1,a\nx,b\n"), "t".into()], 1, "is not a number"),
        (vec!["load".into(), file("column.csv", b"id,nme\n1,a\n"), "t".into()], 1, "nme"),
        (vec!["load".into(), file("broken.ndjson", b"{\"id\":1}\n{\"id\":\n"), "t".into()], 1, "[invalid_body]"),
        (vec!["load".into(), file("null.ndjson", b"{\"id\":1}\n{\"name\":\"a\"}\n"), "t".into()], 1, "[invalid_row]"),
        (vec!["load".into(), file("broken.json", b"[{\"id\":1},"), "t".into()], 1, ""),
        (vec!["load".into(), file("bytes.ndjson", b"{\"id\":1,\"name\":\"\xff\"}\n"), "t".into()], 1, "UTF-8"),
        (vec!["load".into(), file("cut.parquet", &flights[..flights.len() / 2]), "t".into()], 1, "cut.parquet"),
        (vec!["load".into(), file("none.parquet", b""), "t".into()], 1, "none.parquet"),
        (vec!["load".into(), file("none.arrows", b"ARROW1"), "t".into()], 1, "none.arrows"),
        (vec!["load".into(), file("what.xml", b"<a/>"), "t".into()], 1, "what.xml"),
        (vec!["load".into(), "/nowhere/at/all.csv".into(), "t".into()], 1, "/nowhere/at/all.csv"),
        (vec!["load".into(), file("fine.csv", b"id\n9\n"), "a/b".into()], 2, "a/b"),
        (vec!["load".into(), file("fine.csv", b"id\n9\n"), "..".into()], 2, ".."),
        (vec!["load".into(), file("fine.csv", b"id\n9\n"), "nowhere.t".into()], 1, "[database_not_found]"),
        (vec!["load".into(), file("fine.csv", b"id\n9\n"), "x".repeat(200)], 2, ""),
        (vec!["sql".into(), "SELEC 1".into()], 1, "[invalid_sql]"),
        (vec!["sql".into(), "".into()], 1, ""),
        (vec!["sql".into(), "SELECT 1; DROP TABLE t".into()], 1, "[multiple_statements]"),
        (vec!["sql".into(), deep], 1, "[sql_too_deep]"),
        (vec!["sql".into(), "COPY t TO '/tmp/x'".into()], 1, "[forbidden]"),
        (vec!["sql".into(), "SELECT 1 / 0".into()], 1, "[invalid_sql]"),
        (vec!["sql".into(), "SELECT 1".into(), "--format".into(), "xml".into()], 2, "xml"),
        (vec!["tail".into(), "t".into(), "--from".into(), "yesterday".into()], 1, "[invalid_request]"),
        (vec!["tail".into(), "t".into(), "--from".into(), "token:x".into()], 1, "[invalid_token]"),
        (vec!["tail".into(), "t".into(), "--where".into(), "nothing = 1".into()], 1, "[invalid_sql]"),
        (vec!["tail".into(), "../t".into()], 2, "../t"),
        (
            vec!["serve".into(), "--listen".into(), "nowhere".into(), "--data-dir".into(), file("data", b"")],
            1,
            "nowhere",
        ),
        (
            vec!["serve".into(), "--listen".into(), "127.0.0.1:0".into(), "--data-dir".into(), file("data", b"")],
            1,
            "data",
        ),
        (vec!["serve".into(), "--queries".into(), "0".into()], 2, "--queries"),
        (vec!["srve".into()], 2, "srve"),
    ];
    let mut wrong = Vec::new();
    for (arguments, code, words) in cases {
        let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if ["load", "sql", "tail"].contains(&all[0]) {
            all.extend(["--url", &url]);
        }
        let run = command_line::run(&all).await;
        if run.code != Some(code)
            || !run.err.contains(words)
            || !run.err.contains("error: ")
            || run.err.contains("panicked")
        {
            let shown: Vec<String> = arguments.iter().map(|one| one.chars().take(80).collect()).collect();
            wrong.push(format!("{shown:?}\n    wants {code} {words:?}, got {:?} {:.600}", run.code, run.err));
        }
        if tables(&server).await != before {
            wrong.push(format!("{:?} changed the tables", arguments[0]));
        }
    }
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
