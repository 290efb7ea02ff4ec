//! `on_error=set_aside`: what fits is in the table, what does not is beside it, each row once, whatever comes between.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use serde_json::{Value, json};

use crate::harness::{ARROW, NDJSON, TestServer, as_arrow, good, problem};

const ROWS: &str = "/v1/tables/public/t/rows?on_error=set_aside";

async fn send(server: &TestServer, query: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Value {
    let request = server.post(&format!("{ROWS}{query}")).header("content-type", content_type).body(body.into());
    good(request.send().await.unwrap()).await.json().await.unwrap()
}

/// What a query answers, as JSON.
async fn rows(server: &TestServer, query: &str) -> Value {
    server.sql(query).await["rows"].clone()
}

async fn rejected(server: &TestServer, columns: &str) -> Value {
    rows(server, &format!("SELECT {columns} FROM \"t$rejected\" ORDER BY __offset")).await
}

fn counts(answer: &Value) -> (u64, u64, bool) {
    let count = |name: &str| answer[name].as_u64().unwrap();
    (count("rows"), count("rejected"), answer["duplicate"].as_bool().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_are_set_aside_with_the_reason() {
    let server = TestServer::start().await;
    server
        .sql(
            "CREATE TABLE t (id BIGINT NOT NULL, n INT CHECK (n > 0), s STRUCT(a INT NOT NULL, m MAP(VARCHAR, INT)), \
             l INT[], d DATE DEFAULT '2026-01-01')",
        )
        .await;
    assert_eq!(rejected(&server, "*").await, json!([]));
    let lines = [
        r#"{"id":1,"n":1,"s":{"a":1,"m":[["k",1]]},"l":[1,2]}"#,
        r#"{"id":2,"n":"x"}"#,
        r#"{"id":"#,
        r#"{"n":1}"#,
        "",
        r#"{"id":3,"nn":1}"#,
        r#"{"id":4,"s":{"a":1,"m":[["k",1],["k",2]]},"l":[1]}"#,
        r#"{"id":5,"l":[1,"x",3],"n":1}"#,
        r#"{"id":6,"s":{"m":[]},"l":[9]}"#,
        r#"{"id":7,"n":0}"#,
        r#"{"id":8,"n":null,"l":[8]} "#,
        r#"{"id":9,"id":9}"#,
        "17",
        r#"{"id":10} x"#,
        r#"{"id":11,"n":11,"s":{"a":11,"m":[]},"l":[11],"d":"2026-02-30"}"#,
        r#"{"id":12,"n":12,"s":{"a":12,"m":[["k",12]]},"l":[12]}"#,
    ];
    let answer = send(&server, "", NDJSON, lines.join("\n")).await;
    assert_eq!(counts(&answer), (3, 12, false));
    let all = rows(&server, "SELECT id, n, s.a, s.m['k'], l[1], d FROM t ORDER BY id").await;
    assert_eq!(
        all,
        json!([
            [1, 1, 1, 1, 1, "2026-01-01"],
            [8, null, null, null, 8, "2026-01-01"],
            [12, 12, 12, 12, 12, "2026-01-01"]
        ])
    );
    let told = rejected(&server, "row, code, \"column\", content, reason").await;
    let told = told.as_array().unwrap();
    // A blank line is no row.
    let expected = [
        (1, "invalid_row", json!("n"), 1),
        (2, "invalid_body", Value::Null, 2),
        (3, "invalid_row", json!("id"), 3),
        (4, "unknown_column", json!("nn"), 5),
        (5, "invalid_row", json!("s.m"), 6),
        (6, "invalid_row", json!("l.element"), 7),
        (7, "invalid_row", json!("s.a"), 8),
        (8, "check_violation", json!("n"), 9),
        (10, "invalid_row", json!("id"), 11),
        (11, "invalid_body", Value::Null, 12),
        (12, "invalid_body", Value::Null, 13),
        (13, "invalid_row", json!("d"), 14),
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, (row, code, column, line)) in told.iter().zip(expected) {
        assert_eq!(told.as_array().unwrap()[..4], [json!(row), json!(code), column, json!(lines[line])], "{told}");
        assert!(told[4].as_str().is_some_and(|reason| !reason.is_empty()), "{told}");
    }
    let reason = rows(&server, "SELECT reason, writer, sequence FROM \"t$rejected\" WHERE row = 8").await;
    assert_eq!(reason, json!([["the row breaks constraint t_n_check, CHECK (n > 0): n = 0", null, null]]));
    // Elsewhere the request is refused as before.
    let request = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(lines.join("\n"));
    problem(request.send().await.unwrap(), 422, "invalid_row").await;
    assert_eq!(rows(&server, "SELECT count(*) FROM t").await, json!([[3]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_sets_its_rows_aside() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE t (id INT NOT NULL, name VARCHAR CHECK (name <> 'bad'))").await;
    let csv = "id,name\n1,\"a\n1\"\nx,b\n3\n4,d,e\n5,bad\n6,\"say \"\"hi\"\"\"\n,g\n";
    assert_eq!(counts(&send(&server, "", "text/csv", csv).await), (2, 5, false));
    assert_eq!(
        rejected(&server, "row, code, content").await,
        json!([
            [1, "invalid_row", "x,b"],
            [2, "invalid_body", "3"],
            [3, "invalid_body", "4,d,e"],
            [4, "check_violation", "5,bad"],
            [6, "invalid_row", ",g"]
        ])
    );
    let array = r#" [{"id":7}, {"id":"y"} , 5, {"id":8,"name":"bad"}, {"id":9}] "#;
    assert_eq!(counts(&send(&server, "", "application/json", array).await), (2, 3, false));
    let last = "SELECT row, code, content FROM \"t$rejected\" WHERE __offset >= 5 ORDER BY __offset";
    assert_eq!(
        rows(&server, last).await,
        json!([
            [1, "invalid_row", "{\"id\":\"y\"}"],
            [2, "invalid_body", "5"],
            [3, "check_violation", "{\"id\":8,\"name\":\"bad\"}"]
        ])
    );
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(10), Some(1 << 40), None, Some(13), Some(14)]));
    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("j"), Some("k"), None, Some("bad"), None]));
    let batch = RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap();
    assert_eq!(counts(&send(&server, "", ARROW, as_arrow(&batch)).await), (2, 3, false));
    assert_eq!(
        rows(&server, &last.replace(">= 5", ">= 8")).await,
        json!([
            [1, "invalid_row", "{\"id\":1099511627776,\"name\":\"k\"}"],
            [2, "invalid_row", "{\"id\":null,\"name\":null}"],
            [3, "check_violation", "{\"id\":13,\"name\":\"bad\"}"]
        ])
    );
    // What is no row, or wrong with all of them, refuses the request.
    let whole: [(&str, Vec<u8>, u16, &str); 6] = [
        ("text/csv", b"id,name\n1,\"a\n".to_vec(), 400, "invalid_body"),
        ("text/csv", b"id,nme\n1,a\n".to_vec(), 422, "unknown_column"),
        ("application/json", b"[{\"id\":1},".to_vec(), 400, "invalid_body"),
        ("application/json", b"{\"id\":1}".to_vec(), 400, "invalid_body"),
        (ARROW, as_arrow(&batch)[..200].to_vec(), 400, "invalid_body"),
        (ARROW, as_arrow(&batch.project(&[1]).unwrap()).to_vec(), 200, ""),
    ];
    for (content_type, body, status, code) in whole {
        let request = server.post(ROWS).header("content-type", content_type).body(body);
        let response = request.send().await.unwrap();
        if status == 200 {
            // Each row lacks what must be there.
            assert_eq!(counts(&good(response).await.json().await.unwrap()), (0, 5, false));
        } else {
            problem(response, status, code).await;
        }
    }
    let ids = rows(&server, "SELECT id FROM t ORDER BY id").await;
    assert_eq!(ids, json!([[1], [6], [7], [9], [10], [14]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_do_not_fit_are_set_aside() {
    let server = TestServer::start().await;
    server
        .sql("CREATE TABLE t (k VARCHAR PRIMARY KEY, n INT NOT NULL CHECK (n < 10), p VARCHAR) PARTITION BY (k)")
        .await;
    let (long, far) = ("x".repeat(70_000), "y".repeat(300));
    let lines = format!(
        "{{\"k\":\"a\",\"n\":1}}\n{{\"k\":\"b\",\"n\":2}}\n{{\"k\":\"a\",\"__change\":\"delete\"}}\n{{\"__change\":\"delete\"}}\n\
         {{\"k\":\"c\"}}\n{{\"k\":\"d\",\"n\":3,\"__change\":\"remove\"}}\n{{\"k\":\"e\",\"n\":10}}\n\
         {{\"k\":\"b\",\"n\":99,\"__change\":\"delete\"}}\n{{\"k\":\"{long}\",\"n\":1}}\n{{\"k\":\"{far}\",\"n\":1}}\n{{\"k\":\"f\",\"n\":6}}\n"
    );
    assert_eq!(counts(&send(&server, "", NDJSON, lines).await), (5, 6, false));
    assert_eq!(rows(&server, "SELECT k, n FROM t ORDER BY k").await, json!([["f", 6]]));
    assert_eq!(
        rejected(&server, "row, code, \"column\"").await,
        json!([
            [3, "invalid_row", "k"],
            [4, "invalid_row", "n"],
            [5, "invalid_row", "__change"],
            [6, "check_violation", "n"],
            [8, "invalid_row", null],
            [9, "invalid_row", "k"]
        ])
    );
    let longest = rows(&server, "SELECT max(length(content)) FROM \"t$rejected\"").await;
    assert_eq!(longest, json!([[65_536]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_sets_nothing_aside_twice() {
    // Too little for the keys of the good row, at first.
    let server = TestServer::start_with(|options| options.engine.key_bytes_max = 1).await;
    server.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT)").await;
    let body = "{\"id\":1}\n{\"id\":\"x\"}\n{\"id\":2}\n{\"id\":null}\n";
    let request = |sequence: u64, body: &str| {
        let request = server.post(ROWS).header("content-type", NDJSON).body(body.to_owned());
        request.header("thermocline-writer", "w").header("thermocline-sequence", sequence.to_string())
    };
    for _ in 0..3 {
        // Between what is set aside and what is applied it fails.
        problem(request(0, body).send().await.unwrap(), 429, "index_full").await;
        assert_eq!(rejected(&server, "row, writer, sequence").await, json!([[1, "w", 0], [3, "w", 0]]));
    }
    // What comes out of order sets nothing aside.
    problem(request(1, body).send().await.unwrap(), 409, "out_of_order_sequence").await;
    let server = {
        let directory = server.directory().clone();
        server.stop().await;
        TestServer::start_in(directory, |_| {}).await
    };
    let request = |sequence: u64, body: &str| {
        let request = server.post(ROWS).header("content-type", NDJSON).body(body.to_owned());
        request.header("thermocline-writer", "w").header("thermocline-sequence", sequence.to_string())
    };
    let answer = |response| async { good(response).await.json::<Value>().await.unwrap() };
    let first = answer(request(0, body).send().await.unwrap()).await;
    assert_eq!(counts(&first), (2, 2, false));
    for round in 0..3 {
        let again = answer(request(0, body).send().await.unwrap()).await;
        assert_eq!((counts(&again), &again["buckets"]), ((2, 2, true), &first["buckets"]), "{round}");
        // Whatever the table asks for by then.
        match round {
            0 => drop(server.sql("ALTER TABLE t ADD CHECK (id > 1) NOT VALID").await),
            _ => drop(server.sql(&format!("ALTER TABLE t ADD COLUMN c{round} INT")).await),
        }
    }
    problem(request(0, "{\"id\":1}\n").send().await.unwrap(), 422, "sequence_reused").await;
    assert_eq!(counts(&answer(request(1, "{\"id\":\"y\"}\n").send().await.unwrap()).await), (0, 1, false));
    let server = server.restart().await;
    let all = rejected(&server, "row, writer, sequence").await;
    assert_eq!(all, json!([[1, "w", 0], [3, "w", 0], [0, "w", 1]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_is_a_table_that_goes_and_comes_with_its_own() {
    let server = TestServer::with_table().await;
    send(&server, "", NDJSON, "{\"id\":1}\n{}\n").await;
    assert_eq!(server.sql("SHOW TABLES").await["rows"], json!([["public", "t", "log"]]));
    let listed: Value = good(server.get("/v1/tables").send().await.unwrap()).await.json().await.unwrap();
    assert_eq!(listed["tables"].as_array().unwrap().len(), 1);
    // It is described, tiered, followed and read by its tiers as any other.
    server.tier("t$rejected").await;
    assert_eq!(rows(&server, "SELECT row FROM \"t$rejected$lake\"").await, json!([[1]]));
    send(&server, "", NDJSON, "{\"id\":2}\n{\"id\":2.5}\n").await;
    assert_eq!(rows(&server, "SELECT count(*) FROM \"t$rejected$changes\"").await, json!([[2]]));
    let described: Value =
        good(server.get("/v1/tables/public/t$rejected").send().await.unwrap()).await.json().await.unwrap();
    assert_eq!(described["name"], "t$rejected");
    assert!(described["lake"]["location"].as_str().is_some_and(|place| place.ends_with("/public/t$rejected")));
    let follow = server.get("/v1/tables/public/t$rejected/changes?from=earliest&follow=false").header("accept", NDJSON);
    let followed = good(follow.send().await.unwrap()).await.text().await.unwrap();
    assert_eq!(followed.lines().filter(|line| line.contains("\"kind\":\"+A\"")).count(), 2, "{followed}");
    // Nobody else writes to it.
    let request = server.post("/v1/tables/public/t$rejected/rows").header("content-type", NDJSON).body("{}");
    problem(request.send().await.unwrap(), 400, "invalid_name").await;
    for statement in [
        "INSERT INTO \"t$rejected\" (row) VALUES (1)",
        "DROP TABLE \"t$rejected\"",
        "ALTER TABLE \"t$rejected\" ADD COLUMN x INT",
        "CREATE TABLE \"u$rejected\" (x INT)",
    ] {
        let response = server.post("/v1/sql").body(statement).send().await.unwrap();
        problem(response, 400, "invalid_name").await;
    }
    server.sql("DROP TABLE t").await;
    let gone = server.post("/v1/sql").body("SELECT * FROM \"t$rejected\"").send().await.unwrap();
    problem(gone, 404, "table_not_found").await;
    assert_eq!(server.sql("SHOW DROPPED TABLES").await["rows"].as_array().unwrap().len(), 1);
    // Another table of the name has rows of its own set aside.
    server.sql("CREATE TABLE t (id BIGINT NOT NULL)").await;
    assert_eq!(rejected(&server, "row").await, json!([]));
    send(&server, "", NDJSON, "{\"id\":3}\n{\"id\":4}\n{\"id\":\"z\"}\n").await;
    assert_eq!(rejected(&server, "row").await, json!([[2]]));
    server.sql("DROP TABLE t PURGE").await;
    let server = server.restart().await;
    server.sql("UNDROP TABLE t").await;
    assert_eq!(rejected(&server, "row").await, json!([[1], [1]]));
    send(&server, "", NDJSON, "{}\n").await;
    assert_eq!(rejected(&server, "row").await, json!([[1], [1], [0]]));
}

/// Random rows, good and bad in any order, in each format: the table has the good ones and nothing else, what was set
/// aside the bad ones with their numbers.
#[tokio::test(flavor = "multi_thread")]
async fn good_rows_are_applied_and_bad_ones_set_aside_whatever_their_order() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE t (id INT NOT NULL, n SMALLINT CHECK (n <> 13), l INT[])").await;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % below
    };
    let (mut ids, mut bad, mut id) = (Vec::new(), Vec::new(), 0_i64);
    for round in 0..60 {
        let format = round % 3;
        let count = next(40);
        let share = 1 + next(4);
        let mut numbers = Vec::new();
        let mut text = if format == 1 { "id,n\n".to_owned() } else { String::new() };
        let (mut id_column, mut n_column) = (Vec::new(), Vec::new());
        for number in 0..count {
            id += 1;
            let kind = if next(share) == 0 { 1 + next(4) } else { 0 };
            let n = match kind {
                1 => 13,
                2 => 70_000,
                _ => next(10) as i64,
            };
            let own = (kind != 3).then_some(id);
            // A kind that Arrow cannot say.
            let broken = kind == 4 && format != 2;
            match format {
                0 if broken => text.push_str(&format!("{{\"id\":{id},\"l\":[1,[2]],\"n\":1}}\n")),
                0 => text.push_str(&format!("{{\"n\":{n},\"id\":{},\"l\":[{n}]}}\n", json!(own))),
                1 if broken => text.push_str(&format!("{id},1,2\n")),
                1 => text.push_str(&format!("{},{n}\n", own.map_or(String::new(), |own| own.to_string()))),
                _ => {}
            }
            id_column.push(own);
            n_column.push(n);
            match kind == 0 || kind == 4 && !broken {
                true => ids.push(json!([id])),
                false => numbers.push(number),
            }
        }
        let answer = match format {
            0 => send(&server, "", NDJSON, text).await,
            1 => send(&server, "", "text/csv", text).await,
            _ => {
                let columns: [(&str, ArrayRef); 2] =
                    [("id", Arc::new(Int64Array::from(id_column))), ("n", Arc::new(Int64Array::from(n_column)))];
                send(&server, "", ARROW, as_arrow(&RecordBatch::try_from_iter(columns).unwrap())).await
            }
        };
        assert_eq!(counts(&answer), (count - numbers.len() as u64, numbers.len() as u64, false), "round {round}");
        bad.extend(numbers.into_iter().map(|number| json!([number])));
    }
    assert_eq!(rows(&server, "SELECT id FROM t ORDER BY id").await, Value::Array(ids));
    assert_eq!(rejected(&server, "row").await, Value::Array(bad));
    assert_eq!(rows(&server, "SELECT count(*) FROM t WHERE n = 13 OR l[1] <> n").await, json!([[0]]));
}
