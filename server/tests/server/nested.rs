//! Lists, maps and structs over HTTP: the same rows in every format, followers, lookups, and what is refused.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, FixedSizeBinaryArray, Int32Array, Int64Array, ListArray, MapArray, RecordBatch,
    StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int8Type, Int32Type};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::harness::{ARROW, NDJSON, TestServer, as_arrow, from_arrow, good, problem};

const PARQUET: &str = "application/vnd.apache.parquet";
const ROWS: &str = "/v1/tables/public/t/rows";

async fn server(key: &str) -> TestServer {
    let server = TestServer::start().await;
    let columns = "id BIGINT NOT NULL, l INTEGER[], s STRUCT(a SMALLINT, b VARCHAR NOT NULL), m MAP(VARCHAR, INTEGER)";
    server.sql(&format!("CREATE TABLE t ({columns}{key})")).await;
    server
}

fn as_parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn list(items: Vec<Option<Vec<Option<i32>>>>) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(items))
}

fn map(keys: Vec<Option<&str>>, values: Vec<i32>, lengths: Vec<usize>) -> ArrayRef {
    let nullable = keys.iter().any(Option::is_none);
    let sides = Fields::from(vec![Field::new("k", DataType::Utf8, nullable), Field::new("v", DataType::Int32, true)]);
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(keys)), Arc::new(Int32Array::from(values))];
    let entries = StructArray::new(sides, columns, None);
    let field = Arc::new(Field::new("kv", entries.data_type().clone(), false));
    Arc::new(MapArray::new(field, OffsetBuffer::from_lengths(lengths), entries, None, false))
}

fn structs(a: Vec<Option<i32>>, b: Vec<Option<&str>>, nulls: Option<NullBuffer>) -> ArrayRef {
    // In another order than the table's.
    let fields = vec![Field::new("b", DataType::Utf8, true), Field::new("a", DataType::Int32, true)];
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(b)), Arc::new(Int32Array::from(a))];
    Arc::new(StructArray::new(fields.into(), columns, nulls))
}

fn batch() -> RecordBatch {
    RecordBatch::try_from_iter([
        ("m", map(vec![Some("k"), Some("l"), Some("k")], vec![1, 2, 3], vec![2, 0, 1])),
        (
            "s",
            structs(
                vec![Some(1), Some(2), None],
                vec![Some("x"), Some("y"), None],
                Some(vec![true, true, false].into()),
            ),
        ),
        ("l", list(vec![Some(vec![Some(1), None]), Some(vec![]), None])),
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
    ])
    .unwrap()
}

fn rows() -> [Value; 3] {
    [
        json!({"id": 1, "l": [1, null], "s": {"a": 1, "b": "x"}, "m": [["k", 1], ["l", 2]]}),
        json!({"id": 2, "l": [], "s": {"a": 2, "b": "y"}, "m": []}),
        json!({"id": 3, "l": null, "s": null, "m": [["k", 3]]}),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_format_brings_the_same_nested_rows() {
    for key in ["", ", PRIMARY KEY (id)"] {
        let server = server(key).await;
        let lines = rows().map(|row| row.to_string()).join("\n");
        for (number, (content_type, body)) in [
            (NDJSON, lines.clone().into_bytes()),
            ("application/json", json!(rows()).to_string().into_bytes()),
            (ARROW, as_arrow(&batch())),
            (PARQUET, as_parquet(&batch())),
        ]
        .into_iter()
        .enumerate()
        {
            let send = || {
                let request = server.post(ROWS).header("content-type", content_type);
                request.header("thermocline-writer", "w").header("thermocline-sequence", "0").body(body.clone()).send()
            };
            let answer: Value = good(send().await.unwrap()).await.json().await.unwrap();
            // The same rows in another format are the same request.
            assert_eq!(answer["duplicate"], number > 0, "{content_type}: {answer}");
        }
        let fetched = async |accept: &str| {
            let request = server.post("/v1/sql").header("accept", accept).body("SELECT * FROM t ORDER BY id");
            good(request.send().await.unwrap()).await.bytes().await.unwrap()
        };
        for tiered in [false, true] {
            if tiered {
                server.tier("t").await;
            }
            assert_eq!(String::from_utf8(fetched(NDJSON).await.to_vec()).unwrap().trim(), lines, "{key} {tiered}");
            let arrow = from_arrow(&fetched(ARROW).await);
            let again = server.post(ROWS).header("content-type", ARROW).body(as_arrow(&arrow[0])).send().await.unwrap();
            good(again).await;
            if key.is_empty() {
                // What was sent twice is there twice.
                assert_eq!(server.sql("SELECT count(*) FROM t").await["rows"], json!([[6]]));
                break;
            }
        }
        let refused = server.post("/v1/sql").header("accept", "text/csv").body("SELECT l FROM t").send().await.unwrap();
        let refused = problem(refused, 406, "not_acceptable").await;
        assert_eq!(refused["column"], "l");
        let sent = server.post(ROWS).header("content-type", "text/csv").body("id,l\n1,\"[1]\"\n").send().await.unwrap();
        assert_eq!(problem(sent, 400, "invalid_body").await["column"], "l");
        let sent = server.post(ROWS).header("content-type", "text/csv").body("id\n9\n").send().await.unwrap();
        good(sent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_and_lookups_give_nested_rows() {
    for key in ["", ", PRIMARY KEY (id)"] {
        let server = server(key).await;
        server.append(&rows().map(|row| row.to_string()).join("\n")).await;
        for tiered in [false, true] {
            if tiered {
                server.tier("t").await;
            }
            let followed =
                server.get("/v1/tables/public/t/changes?from=earliest&follow=false").header("accept", NDJSON);
            let text = good(followed.send().await.unwrap()).await.text().await.unwrap();
            let found: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap())
                .filter_map(|event| event.get("row").cloned())
                .collect();
            assert_eq!(found, rows(), "{key} {tiered}");
            let request = "/v1/tables/public/t/changes?from=earliest&follow=false&columns=s,l&where=s.b%3D%27y%27";
            let followed = server.get(request).header("accept", ARROW).send().await.unwrap();
            let found = from_arrow(&good(followed).await.bytes().await.unwrap());
            assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), 1, "{key} {tiered}");
            if !key.is_empty() {
                let looked = server.post("/v1/tables/public/t/lookup").header("content-type", "application/json");
                let looked = looked.body(json!({"keys": [{"id": 3}, {"id": 1}]}).to_string()).send().await.unwrap();
                let found: Value = good(looked).await.json().await.unwrap();
                assert_eq!(found["rows"], json!([rows()[2], rows()[0]]), "{tiered}");
            }
        }
        let described: Value =
            good(server.get("/v1/tables/public/t").send().await.unwrap()).await.json().await.unwrap();
        let types: Vec<_> =
            described["schema"]["columns"].as_array().unwrap().iter().map(|column| column["type"].clone()).collect();
        let expected = ["BIGINT", "INTEGER[]", "STRUCT(a SMALLINT, b VARCHAR NOT NULL)", "MAP(VARCHAR, INTEGER)"];
        assert_eq!(json!(types), json!(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_json_that_does_not_fit_is_refused_by_row_and_path() {
    let server = server("").await;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for (row, status, code, column) in [
        (r#""l":1"#.to_owned(), 422, "invalid_row", "l"),
        (r#""l":{"a":1}"#.to_owned(), 422, "invalid_row", "l"),
        (r#""l":["x"]"#.to_owned(), 422, "invalid_row", "l.element"),
        (r#""l":[1,[2]]"#.to_owned(), 422, "invalid_row", "l.element"),
        (r#""l":[2147483648]"#.to_owned(), 422, "invalid_row", "l.element"),
        (format!(r#""l":{deep}"#), 422, "invalid_row", "l.element"),
        (r#""s":[]"#.to_owned(), 422, "invalid_row", "s"),
        (r#""s":{}"#.to_owned(), 422, "invalid_row", "s.b"),
        (r#""s":{"b":null}"#.to_owned(), 422, "invalid_row", "s.b"),
        (r#""s":{"b":"x","a":40000}"#.to_owned(), 422, "invalid_row", "s.a"),
        (r#""s":{"b":"x","c":1}"#.to_owned(), 422, "unknown_column", "s.c"),
        (r#""s":{"b":"x","B":1}"#.to_owned(), 422, "unknown_column", "s.B"),
        (r#""s":{"b":"x","b":"y"}"#.to_owned(), 422, "invalid_row", "s.b"),
        (r#""s":{"b":"\ud800"}"#.to_owned(), 400, "invalid_body", "s.b"),
        (r#""m":{"k":1}"#.to_owned(), 422, "invalid_row", "m"),
        (r#""m":[["k"]]"#.to_owned(), 422, "invalid_row", "m"),
        (r#""m":[["k",1,2]]"#.to_owned(), 422, "invalid_row", "m"),
        (r#""m":[[null,1]]"#.to_owned(), 422, "invalid_row", "m.key"),
        (r#""m":[["k","x"]]"#.to_owned(), 422, "invalid_row", "m.value"),
        (r#""m":[["k",1],["l",2],["k",3]]"#.to_owned(), 422, "invalid_row", "m"),
    ] {
        let body = format!("{{\"id\":1,\"l\":[1]}}\n{{\"id\":2,{row}}}\n");
        let sent = server.post(ROWS).header("content-type", NDJSON).body(body).send().await.unwrap();
        let refused = problem(sent, status, code).await;
        let shown = &row[..row.len().min(80)];
        assert_eq!((&refused["column"], &refused["row"]), (&json!(column), &json!(1)), "{shown}: {refused}");
    }
    assert_eq!(server.sql("SELECT count(*) FROM t").await["rows"], json!([[0]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_batches_that_do_not_fit_are_refused_by_row_and_path() {
    let server = server("").await;
    let ids = |count: i64| ("id", Arc::new(Int64Array::from_iter_values(0..count)) as ArrayRef);
    let other: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("b", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
        (Arc::new(Field::new("z", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
    ]));
    let unnamed: ArrayRef = Arc::new(StructArray::from(vec![(
        Arc::new(Field::new("a", DataType::Int32, true)),
        Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef,
    )]));
    for (name, column, code, path, row) in [
        ("s", structs(vec![Some(1), Some(40_000)], vec![Some("x"); 2], None), "invalid_row", "s.a", Some(1)),
        ("s", structs(vec![Some(1); 2], vec![Some("x"), None], None), "invalid_row", "s.b", Some(1)),
        ("s", unnamed, "invalid_row", "s.b", Some(0)),
        ("s", other, "unknown_column", "s.z", Some(0)),
        ("m", map(vec![Some("k"), Some("l"), Some("l")], vec![1, 2, 3], vec![1, 2]), "invalid_row", "m", Some(1)),
        ("l", structs(vec![Some(1); 2], vec![Some("x"); 2], None), "invalid_row", "l", None),
        ("m", list(vec![Some(vec![Some(1)]), None]), "invalid_row", "m", None),
    ] {
        let batch = RecordBatch::try_from_iter([ids(2), (name, column)]).unwrap();
        for (content_type, body) in [(ARROW, as_arrow(&batch)), (PARQUET, as_parquet(&batch))] {
            let sent = server.post(ROWS).header("content-type", content_type).body(body).send().await.unwrap();
            let refused = problem(sent, 422, code).await;
            assert_eq!(refused["column"], path, "{content_type} {refused}");
            assert_eq!(refused.get("row").and_then(Value::as_u64), row, "{content_type} {refused}");
        }
    }
    // A map whose keys are null is none in Parquet.
    let nulls =
        RecordBatch::try_from_iter([ids(2), ("m", map(vec![Some("k"), None], vec![1, 2], vec![1, 1]))]).unwrap();
    let sent = server.post(ROWS).header("content-type", ARROW).body(as_arrow(&nulls)).send().await.unwrap();
    let refused = problem(sent, 422, "invalid_row").await;
    assert_eq!((&refused["column"], &refused["row"]), (&json!("m.key"), &json!(1)));
    assert_eq!(server.sql("SELECT count(*) FROM t").await["rows"], json!([[0]]));
}

/// What takes few bytes to say and many to hold.
#[tokio::test(flavor = "multi_thread")]
async fn nested_bombs_are_refused() {
    let server = TestServer::start().await;
    server
        .sql("CREATE TABLE t (l BIGINT[], f FIXED(4096)[], b BYTEA[], s STRUCT(a FIXED(4096), b FIXED(4096))[])")
        .await;
    // One value of 4,096 bytes, again and again.
    let repeated = |count: usize| -> ArrayRef {
        let value = FixedSizeBinaryArray::try_from_iter([[7u8; 4096]].iter()).unwrap();
        let dictionary = DictionaryArray::<Int8Type>::new(vec![0; count].into(), Arc::new(value));
        let field = Arc::new(Field::new("item", dictionary.data_type().clone(), true));
        Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([count]), Arc::new(dictionary), None))
    };
    let refused = async |content_type: &str, body: Vec<u8>| {
        assert!(body.len() < 4 << 20, "{content_type}: {}", body.len());
        let sent = server.post(ROWS).header("content-type", content_type).body(body).send().await.unwrap();
        problem(sent, 413, "request_too_large").await
    };
    for (column, count) in [("f", 3_000_000), ("f", 100_000), ("f", 20_000), ("b", 3_000_000), ("b", 20_000)] {
        let batch = RecordBatch::try_from_iter([(column, repeated(count))]).unwrap();
        let answer = refused(ARROW, as_arrow(&batch)).await;
        assert!(answer["detail"].as_str().unwrap().contains("bytes"), "{column} {count} {answer}");
    }
    for count in [64_000_000, 9_000_000] {
        let nulls: ArrayRef = Arc::new(Int64Array::new_null(count));
        let field = Arc::new(Field::new("item", DataType::Int64, true));
        let nulls: ArrayRef = Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([count]), nulls, None));
        refused(PARQUET, as_parquet(&RecordBatch::try_from_iter([("l", nulls)]).unwrap())).await;
    }
    for (column, item, count) in [("f", "null", 100_000), ("s", "{}", 50_000)] {
        refused(NDJSON, format!("{{\"{column}\":[{}]}}", vec![item; count].join(",")).into_bytes()).await;
    }
    // Deeper than any type, and with more fields than a table has columns.
    let mut deep: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    for _ in 0..20 {
        let field = Arc::new(Field::new("item", deep.data_type().clone(), true));
        deep = Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([deep.len()]), deep, None));
    }
    let batch = RecordBatch::try_from_iter([("l", deep)]).unwrap();
    for (content_type, body) in [(ARROW, as_arrow(&batch)), (PARQUET, as_parquet(&batch))] {
        let sent = server.post(ROWS).header("content-type", content_type).body(body).send().await.unwrap();
        problem(sent, 400, "invalid_type").await;
    }
    assert_eq!(server.sql("SELECT count(*) FROM t").await["rows"], json!([[0]]));
}
