//! Idempotent writers over HTTP.

use serde_json::{Value, json};

use crate::harness::{NDJSON, TestServer, good, lines, problem};

impl TestServer {
    async fn write(&self, writer: &str, sequence: &str, body: String) -> reqwest::Response {
        let request = self.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(body);
        let request = request.header("Thermocline-Writer", writer).header("Thermocline-Sequence", sequence);
        request.send().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_answered_again_and_a_gap_is_refused() {
    let server = TestServer::with_table().await;
    let mut first = Value::Null;
    for sequence in 0..8u64 {
        let response = server.write("w", &sequence.to_string(), lines(sequence..sequence + 1)).await;
        let answer: Value = good(response).await.json().await.unwrap();
        assert_eq!(answer["duplicate"], false);
        if sequence == 5 {
            first = answer;
        }
    }
    let server = server.restart().await;
    let again: Value = good(server.write("w", "5", lines(5..6)).await).await.json().await.unwrap();
    first["duplicate"] = json!(true);
    assert_eq!(again, first);
    let gap = problem(server.write("w", "9", lines(9..10)).await, 409, "out_of_order_sequence").await;
    assert_eq!(gap["expected"], 8);
    let old = problem(server.write("w", "1", lines(1..2)).await, 409, "sequence_too_old").await;
    assert_eq!(old["expected"], 8);
    problem(server.write("w", "7", lines(70..71)).await, 422, "sequence_reused").await;
    let unknown = problem(server.write("new", "3", lines(3..4)).await, 409, "out_of_order_sequence").await;
    assert_eq!(unknown["expected"], 0);
    assert_eq!(server.value("SELECT count(*) FROM t").await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_writers_are_checked() {
    let server = TestServer::with_table().await;
    for (writer, sequence) in [("w", "-1"), ("w", "one"), ("", "0"), ("a/b", "0"), (&"x".repeat(129), "0")] {
        problem(server.write(writer, sequence, lines(0..1)).await, 400, "invalid_request").await;
    }
    let request = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(lines(0..1));
    problem(request.header("Thermocline-Writer", "w").send().await.unwrap(), 400, "invalid_request").await;
    let request = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(lines(0..1));
    good(request.header("Thermocline-Tag", "import 7").send().await.unwrap()).await;
    assert_eq!(server.value("SELECT count(*) FROM t").await, 1);
}
