//! Those who write, ask, tier and make tables while the server lives.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use rand::Rng;
use thermocline_integration_tests::oracle;
use thermocline_schemas::text::{CsvEncoder, JsonEncoder};
use thermocline_schemas::{BucketId, Offset, PartitionBucket, PartitionId};
use thermocline_tiering::check::{AckedRange, Placed, Row};

use super::world::{Target, World, as_rows, count, hold, pause, sleep};

/// A writer of one table, and how it goes about it.
pub struct Writing {
    pub target: usize,
    pub number: u64,
    /// Sends with writer and sequence, and again until it is answered; else once.
    pub numbered: bool,
    pub rows_max: usize,
    /// Milliseconds between requests, at most.
    pub pause_max: u64,
}

pub async fn write(world: Arc<World>, writing: Writing) {
    let target = &world.targets[writing.target];
    let name = format!("{}-{}", if writing.numbered { "numbered" } else { "plain" }, writing.number);
    let schema = oracle::schema().arrow();
    let mut next_id = (writing.number * 1_000_000_000) as i64;
    let mut sequence = 0;
    let mut unanswered: Option<Vec<i64>> = None;
    while let Some(url) = world.url(true).await {
        let ids = unanswered.take().unwrap_or_else(|| {
            let first = next_id;
            next_id += rand::rng().random_range(1..=writing.rows_max) as i64;
            (first..next_id).collect()
        });
        hold(&target.history).sent(&name, sequence, &as_rows(&ids));
        // A repeat may come in another format: what counts is the rows.
        let (content_type, body) = encode(&oracle::rows(&schema, &ids), rand::rng().random_range(0..5));
        let path = format!("{url}/v1/tables/public/{}/rows", target.name);
        match send(&world, path, content_type, body, writing.numbered.then_some((&name, sequence))).await {
            Sent::Acked(ranges) => {
                let acked = hold(&target.history).acked(&name, sequence, &ranges);
                world.check(acked);
                sequence += 1;
            }
            Sent::Refused => {
                world.check(hold(&target.history).refused(&name, sequence));
                unanswered = Some(ids);
                sleep(20..50).await;
            }
            Sent::Unknown => {
                hold(&target.history).unknown(&name, sequence);
                if writing.numbered {
                    unanswered = Some(ids);
                } else {
                    sequence += 1;
                }
                pause().await;
            }
            Sent::Wrong => unanswered = Some(ids),
        }
        sleep(0..writing.pause_max).await;
    }
}

/// What became of a request.
pub enum Sent {
    Acked(Vec<AckedRange>),
    /// Nothing of it was applied: a byte limit was reached.
    Refused,
    /// Whether it was applied is not said.
    Unknown,
    /// It was answered as it should not be, and the run ends.
    Wrong,
}

/// Sends rows, perhaps as a writer's request of some number.
pub async fn send(
    world: &World,
    path: String,
    content_type: &str,
    body: Vec<u8>,
    writer: Option<(&String, u64)>,
) -> Sent {
    let mut request = world.client.post(&path).header("content-type", content_type).body(body);
    if let Some((name, sequence)) = writer {
        request = request.header("thermocline-writer", name).header("thermocline-sequence", sequence);
    }
    let answer = match request.send().await {
        Ok(answer) => Some((answer.status().as_u16(), answer.text().await.ok())),
        Err(_) => None,
    };
    match answer {
        Some((200, Some(text))) => {
            let answer: serde_json::Value = serde_json::from_str(&text).expect("an answer is JSON");
            if answer["duplicate"] == true {
                count(&world.counts.repeats, 1);
            }
            Sent::Acked(ranges(&answer))
        }
        Some((429, _)) => Sent::Refused,
        None | Some((200, None) | (503, _)) => Sent::Unknown,
        Some((status, text)) => {
            world.fail(format!("{path} {writer:?} was answered {status}: {text:?}"));
            Sent::Wrong
        }
    }
}

pub fn encode(batch: &RecordBatch, format: u32) -> (&'static str, Vec<u8>) {
    let mut body = Vec::new();
    let schema = batch.schema();
    match format {
        0 => {
            let mut stream = arrow::ipc::writer::StreamWriter::try_new(&mut body, &schema).expect("a stream");
            stream.write(batch).and_then(|()| stream.finish()).expect("memory takes all");
            ("application/vnd.apache.arrow.stream", body)
        }
        1 => {
            let mut file = parquet::arrow::ArrowWriter::try_new(&mut body, schema, None).expect("a file");
            file.write(batch).expect("memory takes all");
            file.close().expect("memory takes all");
            ("application/vnd.apache.parquet", body)
        }
        2 => {
            CsvEncoder.header(&schema, &mut body).expect("plain columns");
            CsvEncoder.rows(batch, &mut body).expect("plain columns");
            ("text/csv", body)
        }
        array => {
            let mut encoder = JsonEncoder::new(&schema).expect("plain columns");
            let (open, between, content_type) =
                if array == 3 { ("[", ",", "application/json") } else { ("", "\n", "application/x-ndjson") };
            body.extend(open.as_bytes());
            for row in 0..batch.num_rows() {
                if row > 0 {
                    body.extend(between.as_bytes());
                }
                encoder.write_object(batch, row, &mut body).expect("plain columns");
            }
            if array == 3 {
                body.push(b']');
            }
            (content_type, body)
        }
    }
}

fn ranges(answer: &serde_json::Value) -> Vec<AckedRange> {
    let buckets = answer["buckets"].as_array().into_iter().flatten();
    let number = |value: &serde_json::Value| value.as_u64().expect("offsets are numbers");
    let range = |bucket: &serde_json::Value| AckedRange {
        bucket: PartitionBucket::unpartitioned(number(&bucket["bucket"]) as u32),
        first: Offset(number(&bucket["first_offset"])),
        end: Offset(number(&bucket["end_offset"])),
    };
    buckets.map(range).collect()
}

/// Asks the busy table one thing after the other.
pub async fn query(world: Arc<World>) {
    while let Some(url) = world.url(true).await {
        let target = &world.targets[0];
        let pick = rand::rng().random_range(0..4);
        let asked = match pick {
            0 => select(&world, &url, target, "a running SELECT").await,
            1 | 2 => filtered(&world, &url, target, "a running filter").await,
            _ => counted(&world, &url, target, "a running count").await,
        };
        if asked.is_none() {
            pause().await;
        }
        sleep(0..60).await;
    }
}

/// The whole table; none if no answer came.
pub async fn select(world: &World, url: &str, target: &Target, what: &str) -> Option<()> {
    let floor = hold(&target.history).floor();
    let rows = placed(world, url, &format!("SELECT *, __bucket, __offset FROM {}", target.name)).await?;
    world.check(hold(&target.history).read(what, &floor, rows));
    Some(())
}

pub async fn filtered(world: &World, url: &str, target: &Target, what: &str) -> Option<()> {
    let floor = hold(&target.history).floor();
    let city = format!("city {}", rand::rng().random_range(0..17));
    let writer = rand::rng().random_range(0..4_i64);
    let (from, to) = (writer * 1_000_000_000, (writer + 1) * 1_000_000_000);
    let (filter, wanted): (String, Box<dyn Fn(Row) -> bool + Send>) = if rand::rng().random_bool(0.5) {
        (format!("city = '{city}'"), Box::new(move |row| oracle::city(row.0 as i64) == city))
    } else {
        (format!("id >= {from} AND id < {to}"), Box::new(move |row| (from..to).contains(&(row.0 as i64))))
    };
    let sql = format!("SELECT *, __bucket, __offset FROM {} WHERE {filter}", target.name);
    let rows = placed(world, url, &sql).await?;
    world.check(hold(&target.history).read_filtered(&format!("{what}, {filter}"), &floor, &rows, wanted));
    Some(())
}

pub async fn counted(world: &World, url: &str, target: &Target, what: &str) -> Option<()> {
    let floor = hold(&target.history).floor();
    let rows = count_of(world, url, target.name).await?;
    world.check(hold(&target.history).counted(what, &floor, rows));
    Some(())
}

pub async fn count_of(world: &World, url: &str, table: &str) -> Option<u64> {
    let answer = ask(world, url, &format!("SELECT count(*) FROM {table}"), "application/json").await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("an answer is JSON");
    Some(answer["rows"][0][0].as_u64().expect("a count is a number"))
}

/// The rows of an answer whose last two columns are `__bucket` and `__offset`, with their contents checked.
pub async fn placed(world: &World, url: &str, sql: &str) -> Option<Vec<Placed>> {
    rows_of(world, url, sql, places).await
}

/// The rows of an answer, read batch by batch.
pub async fn rows_of<T>(
    world: &World,
    url: &str,
    sql: &str,
    read: impl Fn(&RecordBatch) -> Result<Vec<T>, String>,
) -> Option<Vec<T>> {
    let answer = ask(world, url, sql, "application/vnd.apache.arrow.stream").await?;
    let stream = arrow::ipc::reader::StreamReader::try_new(answer.as_slice(), None);
    let batches = stream.and_then(|stream| stream.collect::<Result<Vec<_>, _>>());
    let mut rows = Vec::new();
    for mut batch in batches.unwrap_or_else(|error| panic!("{sql}: {error}")) {
        if let Ok(extra) = batch.schema_ref().index_of(EXTRA) {
            batch.remove_column(extra);
        }
        match read(&batch) {
            Ok(found) => rows.extend(found),
            Err(wrong) => world.fail(format!("{sql}: {wrong}")),
        }
    }
    Some(rows)
}

/// Of rows in the table's columns, with `__bucket` and `__offset` last.
pub fn places(batch: &RecordBatch) -> Result<Vec<Placed>, String> {
    let ids = oracle::ids(batch)?;
    let place = |((bucket, offset), id): (_, i64)| Placed { bucket, offset, row: Row(id as u64) };
    Ok(bucket_and_offset(batch).zip(ids).map(place).collect())
}

/// The last two columns.
pub fn bucket_and_offset(batch: &RecordBatch) -> impl Iterator<Item = (PartitionBucket, Offset)> + '_ {
    let columns = batch.num_columns();
    let buckets = batch.column(columns - 2).as_primitive::<Int32Type>().values();
    let offsets = batch.column(columns - 1).as_primitive::<Int64Type>().values();
    let place = |(bucket, offset): (&i32, &i64)| {
        let bucket = PartitionBucket { partition: PartitionId(0), bucket: BucketId(*bucket as u32) };
        (bucket, Offset(*offset as u64))
    };
    buckets.iter().zip(offsets).map(place)
}

/// The body of a whole answer; none if none came. An error document is a failure, unless it says to come again.
pub async fn ask(world: &World, url: &str, sql: &str, accept: &str) -> Option<Vec<u8>> {
    let asked = world.client.post(format!("{url}/v1/sql")).header("accept", accept).body(sql.to_owned()).send().await;
    let answer = asked.ok()?;
    let status = answer.status().as_u16();
    let body = answer.bytes().await.ok()?.to_vec();
    match status {
        200 => {
            count(&world.counts.reads, 1);
            Some(body)
        }
        429 | 503 => None,
        _ => {
            world.fail(format!("{sql} was answered {status}: {}", String::from_utf8_lossy(&body)));
            None
        }
    }
}

/// A column that comes and goes, and that no row has a value for.
pub const EXTRA: &str = "extra";

/// Alters the tables that are written and read.
pub async fn alter(world: Arc<World>) {
    while let Some(url) = world.url(true).await {
        let tables = world.targets.iter().map(|target| target.name);
        let mut tables: Vec<_> = tables.chain(world.keyed.iter().map(|target| target.name)).collect();
        let table = tables.swap_remove(rand::rng().random_range(0..tables.len()));
        let action = match rand::rng().random_bool(0.5) {
            true => format!("ADD COLUMN IF NOT EXISTS {EXTRA} INTEGER"),
            false => format!("DROP COLUMN IF EXISTS {EXTRA}"),
        };
        if ask(&world, &url, &format!("ALTER TABLE {table} {action}"), "application/json").await.is_none() {
            pause().await;
        }
        sleep(0..500).await;
    }
}

/// Asks for rounds at moments of its own, beside those that come by themselves.
pub async fn tier(world: Arc<World>) {
    while let Some(url) = world.url(true).await {
        let table = if rand::rng().random_bool(0.5) { world.targets[0].name } else { world.keyed[0].name };
        let asked = world.client.post(format!("{url}/v1/tables/public/{table}/tier")).send().await;
        match asked {
            Ok(answer) if answer.status().is_success() => count(&world.counts.rounds, 1),
            Ok(answer) if matches!(answer.status().as_u16(), 429 | 503) => pause().await,
            Ok(answer) => {
                let status = answer.status();
                // Without the text it was killed while it answered.
                if let Ok(text) = answer.text().await {
                    world.fail(format!("a round was answered {status}: {text}"));
                }
            }
            Err(_) => pause().await,
        }
        sleep(0..400).await;
    }
}

/// Makes a table and drops it, again and again.
pub async fn make_and_drop(world: Arc<World>) {
    let mut number = 0;
    while let Some(url) = world.url(true).await {
        number += 1;
        let name = format!("scratch_{number}");
        let key = if number % 2 == 0 { " PRIMARY KEY" } else { "" };
        let make = format!("CREATE TABLE {name} (a INTEGER{key})");
        for (there, sql) in [(true, make), (false, format!("DROP TABLE {name}"))] {
            *hold(&world.scratch) = None;
            if ask(&world, &url, &sql, "application/json").await.is_none() {
                pause().await;
                break;
            }
            *hold(&world.scratch) = Some((name.clone(), there));
            sleep(0..100).await;
        }
    }
}
