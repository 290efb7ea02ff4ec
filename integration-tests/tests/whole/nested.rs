//! Random nested types and random values of them: what goes in as JSON, Arrow or Parquet is what comes out, from the log,
//! from segments, after a restart, from both tiers and from the lake alone.
//!
//! A value is made as the text that our JSON has for it, so there is nothing to compare but texts. The seed is in every
//! message; `THERMOCLINE_SEED` runs one alone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::StreamWriter;
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::MemoryDisk;
use thermocline_engine::{Change, ChangeRows, Durability, Sender, SystemClock, Table};
use thermocline_integration_tests::node::Node;
use thermocline_schemas::text::{DecodeOptions, JsonEncoder, JsonShape};
use thermocline_schemas::{ColumnType, TableName};
use thermocline_server::uploads::{UploadFormat, decode_rows};
use thermocline_sql::SqlRequest;

const SEEDS: u64 = 24;
const LINES: UploadFormat = UploadFormat::Json(JsonShape::Lines);

/// A type of these many levels at most, as a statement may declare it.
fn column_type(rng: &mut StdRng, levels: usize) -> ColumnType {
    let inner = |rng: &mut StdRng| column_type(rng, levels - 1);
    match if levels == 0 { 9 } else { rng.random_range(0..10) } {
        0..3 => ColumnType::list(inner(rng), rng.random_bool(0.8)).unwrap(),
        3..5 => ColumnType::map(scalar(rng), inner(rng), rng.random_bool(0.8)).unwrap(),
        5..8 => {
            let fields = (0..rng.random_range(1..4)).map(|place| {
                let name = ["a", "B", "list", "element", "key"][place].to_owned();
                (name, inner(rng), rng.random_bool(0.7))
            });
            ColumnType::structure(fields.collect::<Vec<_>>()).unwrap()
        }
        _ => scalar(rng),
    }
}

fn scalar(rng: &mut StdRng) -> ColumnType {
    use ColumnType::*;
    let all = [
        Boolean,
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        Float32,
        Float64,
        Date,
        Time,
        Timestamp,
        TimestampTz,
        TimestampNs,
        TimestampTzNs,
        String,
        Binary,
        Uuid,
    ];
    match rng.random_range(0..all.len() + 2) {
        0 => ColumnType::decimal(9, 2).unwrap(),
        1 => ColumnType::fixed(3).unwrap(),
        place => all[place - 2].clone(),
    }
}

fn value(rng: &mut StdRng, column_type: &ColumnType, nullable: bool) -> String {
    if nullable && rng.random_bool(0.2) {
        return "null".to_owned();
    }
    let count = |rng: &mut StdRng| if rng.random_bool(0.3) { 0 } else { rng.random_range(1..4) };
    match column_type {
        ColumnType::List(element) => {
            let items: Vec<_> = (0..count(rng)).map(|_| value(rng, &element.column_type, element.nullable)).collect();
            format!("[{}]", items.join(","))
        }
        ColumnType::Map(sides) => {
            let mut seen = HashSet::new();
            let keys: Vec<_> = (0..count(rng)).map(|_| value(rng, &sides[0].column_type, false)).collect();
            let entries = keys.into_iter().filter(|key| seen.insert(key.clone()));
            let entries: Vec<_> = entries
                .map(|key| format!("[{key},{}]", value(rng, &sides[1].column_type, sides[1].nullable)))
                .collect();
            format!("[{}]", entries.join(","))
        }
        ColumnType::Struct(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|field| format!("\"{}\":{}", field.name.as_str(), value(rng, &field.column_type, field.nullable)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        flat => plain(rng, flat),
    }
}

fn plain(rng: &mut StdRng, column_type: &ColumnType) -> String {
    let one = |rng: &mut StdRng, texts: &[&str]| texts[rng.random_range(0..texts.len())].to_owned();
    match column_type {
        ColumnType::Boolean => one(rng, &["true", "false"]),
        ColumnType::Int8 => one(rng, &["-128", "127", "0", "5"]),
        ColumnType::Int16 => one(rng, &["-32768", "32767", "0", "-5"]),
        ColumnType::Int32 => one(rng, &["-2147483648", "2147483647", "0", "7"]),
        ColumnType::Int64 => one(rng, &["-9223372036854775808", "9223372036854775807", "0", "9"]),
        ColumnType::UInt8 => one(rng, &["0", "255"]),
        ColumnType::UInt16 => one(rng, &["0", "65535"]),
        ColumnType::UInt32 => one(rng, &["0", "4294967295"]),
        ColumnType::Float32 => {
            one(rng, &["-0.0", "0.0", "\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "1.5", "3.4028235e+38"])
        }
        ColumnType::Float64 => one(rng, &["-0.0", "0.0", "\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "0.1", "5e-324"]),
        ColumnType::Decimal { .. } => one(rng, &["\"0.00\"", "\"-9999999.99\"", "\"9999999.99\"", "\"0.01\""]),
        ColumnType::Date => one(rng, &["\"1970-01-01\"", "\"0001-01-01\"", "\"9999-12-31\""]),
        ColumnType::Time => one(rng, &["\"00:00:00\"", "\"23:59:59.999999\""]),
        ColumnType::Timestamp => one(rng, &["\"1969-12-31T23:59:59.999999\"", "\"9999-12-31T00:00:00\""]),
        ColumnType::TimestampTz => one(rng, &["\"1969-12-31T23:59:59.999999Z\"", "\"2026-11-23T13:00:01Z\""]),
        ColumnType::TimestampNs => one(rng, &["\"1677-09-21T00:12:43.145224192\"", "\"2026-11-23T13:00:01\""]),
        ColumnType::TimestampTzNs => one(rng, &["\"2262-04-11T23:47:16.854775807Z\"", "\"1970-01-01T00:00:00Z\""]),
        ColumnType::String => one(
            rng,
            &["\"\"", "\"null\"", "\"a,\\\"b\\\"\"", "\"é漢😀\"", "\"x\"", "\"long text of more than twelve bytes\""],
        ),
        ColumnType::Binary => one(rng, &["\"\"", "\"AP+A\"", "\"AA==\""]),
        ColumnType::Fixed(_) => one(rng, &["\"AAAA\"", "\"AP+A\""]),
        ColumnType::Uuid => one(
            rng,
            &[
                "\"00000000-0000-0000-0000-000000000000\"",
                "\"f79c3e09-677c-4bbd-a479-3f349cb785e7\"",
                "\"ffffffff-ffff-ffff-ffff-ffffffffffff\"",
            ],
        ),
        nested => panic!("{nested} nests"),
    }
}

async fn sql(node: &Node, text: &str) -> Vec<RecordBatch> {
    let answer = node.sql.execute(text, SqlRequest::default()).await;
    let answer = answer.unwrap_or_else(|error| panic!("{text}: {error:?} {:?}", error.hint()));
    answer.batches.try_collect().await.unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        let mut encoder = JsonEncoder::new(batch.schema_ref()).unwrap();
        for row in 0..batch.num_rows() {
            let mut line = Vec::new();
            encoder.write_object(batch, row, &mut line).unwrap();
            lines.push(String::from_utf8(line).unwrap());
        }
    }
    lines
}

/// Relatives of a type that other programs write.
fn relative(rng: &mut StdRng, data_type: &DataType) -> DataType {
    let inner = |rng: &mut StdRng, field: &Field| {
        // Lists say nothing of the uuids in them when Arrow's own cast makes them anew.
        Arc::new(field.clone().with_data_type(relative(rng, field.data_type())))
    };
    match data_type {
        DataType::List(item) if rng.random_bool(0.5) => DataType::LargeList(inner(rng, item)),
        DataType::List(item) => DataType::List(inner(rng, item)),
        DataType::Utf8 if rng.random_bool(0.5) => DataType::LargeUtf8,
        DataType::Utf8 if rng.random_bool(0.5) => DataType::Utf8View,
        DataType::Binary if rng.random_bool(0.5) => DataType::LargeBinary,
        DataType::Int16 if rng.random_bool(0.5) => DataType::Int64,
        other => other.clone(),
    }
}

async fn write(node: &Node, table: &Arc<Table>, rows: RecordBatch) {
    if table.descriptor().is_keyed() {
        let upserts = ChangeRows::from_upload(table.descriptor(), &rows, Change::Upsert).unwrap();
        node.engine.change(table, upserts, Sender::default()).await.unwrap();
    } else {
        node.engine.append(table, rows, Sender::default()).await.unwrap();
    }
}

async fn one(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let is_keyed = seed % 2 == 1;
    let columns: Vec<_> = (0..3).map(|place| (format!("c{place}"), column_type(&mut rng, 1 + place))).collect();
    let disk = MemoryDisk::new();
    let mut node = Node::start(&disk, Durability::Fsync, Arc::new(SystemClock)).await.unwrap();
    let spelled: Vec<_> = columns.iter().map(|(name, column_type)| format!("{name} {column_type}")).collect();
    let key = if is_keyed { " PRIMARY KEY" } else { "" };
    let ddl = format!("CREATE TABLE t (id BIGINT NOT NULL{key}, {}) WITH (format_version = 3)", spelled.join(", "));
    sql(&node, &ddl).await;
    let name = TableName::parse("public", "t").unwrap();
    let mut expected: BTreeMap<u64, String> = BTreeMap::new();
    let made = |rng: &mut StdRng, ids: std::ops::Range<u64>, expected: &mut BTreeMap<u64, String>| {
        let mut body = String::new();
        for id in ids {
            let values: Vec<_> =
                columns.iter().map(|(name, kind)| format!("\"{name}\":{}", value(rng, kind, true))).collect();
            let line = format!("{{\"id\":{id},{}}}", values.join(","));
            body.push_str(&line);
            body.push('\n');
            expected.insert(id, line);
        }
        body
    };
    for part in 0..4u64 {
        let table = node.engine.table(&name).unwrap();
        let descriptor = table.descriptor();
        let schema = match is_keyed {
            true => descriptor.schema.for_changes(&descriptor.key),
            false => descriptor.schema.clone(),
        };
        let decode = |format: UploadFormat, body: Vec<u8>| {
            decode_rows(&schema, format, &body.into(), &DecodeOptions::default())
                .unwrap_or_else(|error| panic!("seed {seed} {format:?}: {error:?} {:?}\n{ddl}", error.value()))
        };
        let ids = if is_keyed { part * 20..part * 20 + 40 } else { part * 20..part * 20 + 20 };
        let body = made(&mut rng, ids.clone(), &mut expected);
        let rows = decode(LINES, body.clone().into_bytes());
        // The columns alone, as others would send them: without field ids, and of related types.
        let own = rows.project(&(0..columns.len() + 1).collect::<Vec<_>>()).unwrap();
        let rows = match part {
            0 => rows,
            1 => {
                let (fields, arrays): (Vec<_>, Vec<_>) = own
                    .schema()
                    .fields()
                    .iter()
                    .zip(own.columns())
                    .map(|(field, column)| {
                        let to = relative(&mut rng, field.data_type());
                        let column = cast(column, &to).unwrap_or_else(|_| column.clone());
                        (Arc::new(field.as_ref().clone().with_data_type(column.data_type().clone())), column)
                    })
                    .unzip();
                let sent = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
                let mut writer = StreamWriter::try_new(Vec::new(), &sent.schema()).unwrap();
                // Slices have more behind them than they say.
                for start in (0..sent.num_rows()).step_by(7) {
                    writer.write(&sent.slice(start, 7.min(sent.num_rows() - start))).unwrap();
                }
                decode(UploadFormat::Arrow, writer.into_inner().unwrap())
            }
            2 => {
                let mut writer = ArrowWriter::try_new(Vec::new(), own.schema(), None).unwrap();
                writer.write(&own).unwrap();
                decode(UploadFormat::Parquet, writer.into_inner().unwrap())
            }
            _ => decode(
                UploadFormat::Json(JsonShape::Array),
                format!("[{}]", body.trim().replace('\n', ",")).into_bytes(),
            ),
        };
        write(&node, &table, rows).await;
        let check = async |node: &Node, expected: &BTreeMap<u64, String>, when: &str| {
            let found = lines(&sql(node, "SELECT * FROM t ORDER BY id").await);
            for (found, expected) in found.iter().zip(expected.values()) {
                assert_eq!(found, expected, "seed {seed}, part {part}, {when}:\n{ddl}");
            }
            assert_eq!(found.len(), expected.len(), "seed {seed}, part {part}, {when}");
        };
        check(&node, &expected, "in the tail").await;
        match part {
            0 => {
                node.engine.seal(&table).await.unwrap();
                check(&node, &expected, "in a segment").await;
            }
            1 | 3 => {
                node.tiering.tier(&table).await.unwrap();
                check(&node, &expected, "in the lake and hot").await;
                let split = node.tiering.read_split(std::slice::from_ref(&table)).await.unwrap().remove(0);
                let floors = table.buckets().map(|(bucket, _)| (bucket, split.tiered_end(bucket))).collect();
                node.engine.trim(&table, floors).await.unwrap();
                check(&node, &expected, "in the lake").await;
                // Small files of many rounds are joined.
                for _ in 0..if part == 3 { 8 } else { 0 } {
                    let id = expected.len() as u64;
                    let body = made(&mut rng, id..id + 1, &mut expected);
                    write(&node, &table, decode(LINES, body.into_bytes())).await;
                    node.tiering.tier(&table).await.unwrap();
                }
                let report = node.tiering.compact(&table).await.unwrap();
                if part == 3 {
                    assert!(report.replaced > 1, "seed {seed}: {report:?}");
                }
                check(&node, &expected, "in joined files").await;
            }
            _ => {}
        }
        drop(table);
        node.stop().await;
        node = Node::start(&disk, Durability::Fsync, Arc::new(SystemClock)).await.unwrap();
        check(&node, &expected, "after a restart").await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_values_go_in_and_come_out_the_same() {
    let only = std::env::var("THERMOCLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..SEEDS, |seed: u64| seed..seed + 1) {
        one(seed).await;
    }
}
