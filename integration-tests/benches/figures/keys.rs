//! A table with a primary key: durable upserts, lookups, memory of the index, restart.
//!
//! `THERMOCLINE_KEYS` is how many keys there are; 5 million unless told.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::{Engine, Sender, Table};
use thermocline_schemas::{ColumnType, Properties, TableName, TableSchema};

use crate::{heading, line, open_engine};

const BATCH_ROWS: usize = 10_000;
const UPSERTS: usize = 2_000_000;
const LOOKUPS: usize = 1_000_000;
/// Requests under way at one time.
const WRITERS: usize = 4;

pub async fn run() {
    let keys = std::env::var("THERMOCLINE_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(5_000_000);
    heading(&format!(
        "a primary key: {:.0} M keys, rows of about 100 bytes, batches of {BATCH_ROWS}",
        keys as f64 / 1e6
    ));
    let directory = tempfile::tempdir().expect("a directory can be made");
    let mut engine = open_engine(directory.path());
    let mut random = SmallRng::seed_from_u64(1);
    let log = table(&engine, "log", &[], &[]).await;
    let shuffled = shuffled(keys, &mut random);
    let baseline = write(&engine, &log, shuffled[..UPSERTS.min(keys)].to_vec()).await;
    line("appends of such rows to a log table", baseline, baseline);
    for changelog in ["full", "upsert"] {
        let name = format!("keys_{changelog}");
        let properties = [("lake_enabled", "false"), ("changelog", changelog)];
        let keyed = table(&engine, &name, &["id".to_owned()], &properties).await;
        line(&format!("new keys, changelog = {changelog}"), write(&engine, &keyed, shuffled.clone()).await, baseline);
        let uniform = (0..UPSERTS).map(|_| random.random_range(0..keys as i64)).collect();
        line("  updates, uniform", write(&engine, &keyed, uniform).await, baseline);
        let zipf = Zipf::new(keys as u64);
        let skewed = (0..UPSERTS).map(|_| shuffled[zipf.sample(&mut random) as usize]).collect();
        line("  updates, Zipf 0.99", write(&engine, &keyed, skewed).await, baseline);
    }
    let keyed = engine.table(&TableName::parse("public", "keys_full").expect("a good name")).expect("it is there");
    for at_once in [1, 128, 10_000] {
        line(
            &format!("lookups, {at_once} at once"),
            look_up(&engine, &keyed, keys, at_once, &mut random).await,
            baseline,
        );
    }
    let figures = keyed.key_figures().expect("it has a key");
    println!(
        "index: {:.1} bytes a key; endings of versions: {:.1} bytes a key",
        figures.index_bytes as f64 / figures.keys as f64,
        figures.endings_bytes as f64 / figures.keys as f64
    );
    engine.close();
    drop((keyed, log));
    drop(engine);
    let started = Instant::now();
    engine = open_engine(directory.path());
    println!("restart with 2 × {:.0} M keys and their changelogs: {:.2?}", keys as f64 / 1e6, started.elapsed());
    engine.close();
}

pub async fn table(engine: &Engine, name: &str, key: &[String], properties: &[(&str, &str)]) -> Arc<Table> {
    let columns = [
        ("id".to_owned(), ColumnType::Int64, false),
        ("name".to_owned(), ColumnType::String, false),
        ("amount".to_owned(), ColumnType::Float64, false),
        ("at".to_owned(), ColumnType::Timestamp, false),
        ("note".to_owned(), ColumnType::String, false),
    ];
    let name = TableName::parse("public", name).expect("a good name");
    let schema = TableSchema::new(columns).expect("a good schema");
    let properties = Properties::parse(properties.iter().copied()).expect("good properties");
    engine.create_table(name, schema, key, properties, false).await.expect("a table can be made")
}

fn batch(table: &Table, ids: &[i64], round: i64) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.to_vec())),
        Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("customer {id:012}")))),
        Arc::new(Float64Array::from_iter_values(ids.iter().map(|id| *id as f64 + round as f64))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(ids.iter().map(|id| id + round))),
        Arc::new(StringArray::from_iter_values(
            ids.iter().map(|id| format!("a note of some forty bytes on number {id:08}")),
        )),
    ];
    RecordBatch::try_new(table.schema().clone(), columns).expect("columns fit the schema")
}

/// Rows of these ids a second, several requests at one time. Making the rows is not counted.
pub async fn write(engine: &Arc<Engine>, table: &Arc<Table>, ids: Vec<i64>) -> f64 {
    let mut seconds = 0.0;
    for (round, ids) in ids.chunks(BATCH_ROWS * 50).enumerate() {
        let batches: Vec<_> = ids.chunks(BATCH_ROWS).map(|ids| batch(table, ids, round as i64)).collect();
        let started = Instant::now();
        let writers = (0..WRITERS).map(|writer| {
            let own: Vec<_> = batches.iter().skip(writer).step_by(WRITERS).cloned().collect();
            let (engine, table) = (engine.clone(), table.clone());
            tokio::spawn(async move {
                for batch in own {
                    // Upkeep may be behind: wait as a client would.
                    while engine.append(&table, batch.clone(), Sender::default()).await.is_err() {}
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("a writer ends well");
        }
        seconds += started.elapsed().as_secs_f64();
    }
    ids.len() as f64 / seconds
}

async fn look_up(engine: &Engine, table: &Arc<Table>, keys: usize, at_once: usize, random: &mut SmallRng) -> f64 {
    let count = LOOKUPS.min(at_once * 2_000);
    let ids: Vec<i64> = (0..count).map(|_| random.random_range(0..keys as i64)).collect();
    let started = Instant::now();
    for ids in ids.chunks(at_once) {
        let found = engine.lookup(table, vec![Arc::new(Int64Array::from(ids.to_vec()))]).await.expect("a lookup");
        assert_eq!(found.rows.num_rows(), ids.len(), "all keys are there");
    }
    count as f64 / started.elapsed().as_secs_f64()
}

fn shuffled(keys: usize, random: &mut SmallRng) -> Vec<i64> {
    let mut ids: Vec<i64> = (0..keys as i64).collect();
    for at in (1..ids.len()).rev() {
        ids.swap(at, random.random_range(0..=at));
    }
    ids
}

/// Ranks by Zipf's law with the exponent 0.99, after Gray et al., "Quickly Generating Billion-Record Synthetic
/// Databases" (1994), as YCSB has it.
struct Zipf {
    items: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    fn new(items: u64) -> Zipf {
        let zeta = |items: u64| (1..=items).map(|rank| 1.0 / (rank as f64).powf(Self::THETA)).sum::<f64>();
        let all = zeta(items);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - Self::THETA)) / (1.0 - zeta(2) / all);
        Zipf { items: items as f64, zeta: all, eta }
    }

    fn sample(&self, random: &mut impl Rng) -> u64 {
        let uniform: f64 = random.random();
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(Self::THETA) {
            return 1;
        }
        let alpha = 1.0 / (1.0 - Self::THETA);
        ((self.items * (self.eta * uniform - self.eta + 1.0).powf(alpha)) as u64).min(self.items as u64 - 1)
    }
}
