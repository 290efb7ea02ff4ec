//! The state of a table with a primary key over both tiers, a tenth of the lake's rows ended, beside its Parquet files alone.
//!
//! Three times the same questions: all rows in the lake; a tenth of them replaced by hot ones, which mask them; these in the
//! lake too, with the old ones deleted there.

use std::sync::Arc;
use std::time::Duration;

use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::TryStreamExt;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::{Disk, RealDisk};
use thermocline_sql::{Sql, SqlOptions, SqlRequest};
use thermocline_tiering::{RoundReport, Tiering, TieringOptions, Warehouse};

use crate::{best, heading, keys, open_engine, ratio};

const ROWS: usize = 4_000_000;
const REPLACED: usize = ROWS / 10;
const LOOKUPS: usize = 200;

const QUERIES: [&str; 3] = [
    "SELECT amount > 1e6, count(*), sum(amount) FROM state GROUP BY 1",
    "SELECT sum(amount) FROM state WHERE id >= 3900000",
    "SELECT count(*) FROM state",
];

pub async fn run() {
    heading(&format!("the state of {} M keys, {} k of them replaced", ROWS as f64 / 1e6, REPLACED / 1000));
    let directory = tempfile::tempdir().expect("a directory can be made");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let engine = open_engine(&directory.path().join("data"));
    let warehouse = Warehouse::local(disk, &directory.path().join("warehouse")).expect("a warehouse");
    let manual = TieringOptions { scheduler: false, ..TieringOptions::default() };
    let tiering = Tiering::open(engine.clone(), warehouse, manual).await.expect("tiering opens");
    let sql = Sql::new(tiering.clone(), SqlOptions::default()).expect("SQL opens");
    let table = keys::table(&engine, "state", &["id".to_owned()], &[]).await;
    let mut ids: Vec<i64> = (0..ROWS as i64).collect();
    keys::write(&engine, &table, ids.clone()).await;
    said("the first round", &tiering.tier(&table).await.expect("a round"));

    let location = tiering.status(&table).await.expect("a status").location.expect("a lake");
    let files = format!("{}/data/", location.trim_start_matches("file://"));
    let context = SessionContext::new_with_config(SessionConfig::new());
    context.register_parquet("state", files, ParquetReadOptions::default()).await.expect("the files register");
    let plain = async |query: &str| {
        context.sql(query).await.expect("it plans").collect().await.expect("it runs");
    };
    let union = async |query: &str| {
        let answer = sql.execute(query, SqlRequest::default()).await.expect("it plans");
        answer.batches.try_collect::<Vec<_>>().await.expect("it runs");
    };
    let mut measured: Vec<(&str, Vec<Duration>)> = Vec::new();
    for query in QUERIES {
        let baseline = best(async || plain(query).await).await;
        measured.push((query, vec![baseline, best(async || union(query).await).await]));
    }
    ids.shuffle(&mut SmallRng::seed_from_u64(3));
    ids.truncate(REPLACED);
    keys::write(&engine, &table, ids).await;
    for (query, times) in &mut measured {
        times.push(best(async || union(query).await).await);
    }
    said("the round that ends them", &tiering.tier(&table).await.expect("a round"));
    for (query, times) in &mut measured {
        times.push(best(async || union(query).await).await);
    }
    let labels = [
        "DataFusion on the first Parquet files alone",
        "one table, all rows cold",
        "one table, a tenth masked by hot rows",
        "one table, a tenth deleted in the lake",
    ];
    for (query, times) in measured {
        println!("\n{query}");
        for (label, time) in labels.iter().zip(&times) {
            println!("  {label:<44} {time:>9.1?} {:>7.2} × baseline", ratio(*time, times[0]));
        }
    }
    let floors = table.buckets().map(|(bucket, _)| (bucket, table.ends().end(bucket))).collect();
    engine.trim(&table, floors).await.expect("hot rows go");
    let mut random = SmallRng::seed_from_u64(4);
    for at_once in [1, 128] {
        let started = std::time::Instant::now();
        for _ in 0..LOOKUPS {
            let asked = (0..at_once).map(|_| random.random_range(0..ROWS as i64));
            let asked = Arc::new(arrow::array::Int64Array::from_iter_values(asked));
            engine.lookup(&table, vec![asked]).await.expect("a lookup");
        }
        println!("lookups of cold rows, {at_once} at once: {:.2?} each", started.elapsed() / LOOKUPS as u32);
    }
    tiering.close().await;
    engine.close();
}

fn said(what: &str, round: &RoundReport) {
    let rate = round.rows as f64 / round.seconds / 1e3;
    println!("{what} wrote {} rows in {:.2} s, {rate:.0} k rows/s", round.rows, round.seconds);
}
