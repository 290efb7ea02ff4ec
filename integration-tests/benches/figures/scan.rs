//! One table over both tiers beside its Parquet files alone.

use std::sync::Arc;
use std::time::Instant;

use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::TryStreamExt;
use thermocline_engine::Sender;
use thermocline_engine::disk::{Disk, RealDisk};
use thermocline_integration_tests::oracle::rows;
use thermocline_sql::{Sql, SqlOptions, SqlRequest};
use thermocline_tiering::{Tiering, TieringOptions, Warehouse};

use crate::{append, best, heading, open_engine, ratio};

const SCAN_LAKE_ROWS: usize = 4_000_000;
const SCAN_HOT_ROWS: usize = 400_000;

pub async fn run() {
    heading(&format!("scan, {} M rows cold and {} M hot", SCAN_LAKE_ROWS as f64 / 1e6, SCAN_HOT_ROWS as f64 / 1e6));
    let directory = tempfile::tempdir().expect("a directory can be made");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let engine = open_engine(&directory.path().join("data"));
    let table = append::table(&engine).await;
    let warehouse = Warehouse::local(disk, &directory.path().join("warehouse")).expect("a warehouse");
    let manual = TieringOptions { scheduler: false, ..TieringOptions::default() };
    let tiering = Tiering::open(engine.clone(), warehouse, manual).await.expect("tiering opens");
    let sql = Sql::new(tiering.clone(), SqlOptions::default()).expect("SQL opens");
    let fill = async |from: usize, to: usize| {
        for first in (from..to).step_by(50_000) {
            let ids: Vec<i64> = (first as i64..(first + 50_000).min(to) as i64).collect();
            engine.append(&table, rows(table.schema(), &ids), Sender::default()).await.expect("an append is acked");
        }
    };
    fill(0, SCAN_LAKE_ROWS).await;
    let round = tiering.tier(&table).await.expect("a round");
    println!(
        "the round wrote {} files in {:.1} s, {:.0} k rows/s",
        round.files,
        round.seconds,
        round.rows as f64 / round.seconds / 1e3
    );
    let location = tiering.status(&table).await.expect("a status").location.expect("a lake");
    let files = format!("{}/data/", location.trim_start_matches("file://"));
    let context = SessionContext::new_with_config(SessionConfig::new());
    context.register_parquet("bench", files, ParquetReadOptions::default()).await.expect("the files register");
    let queries = [
        "SELECT city, count(*), sum(ratio) FROM bench GROUP BY city",
        "SELECT sum(ratio) FROM bench WHERE id >= 3900000",
        "SELECT count(note) FROM bench",
    ];
    let plain = async |query: &str| {
        context.sql(query).await.expect("it plans").collect().await.expect("it runs");
    };
    let union = async |query: &str| {
        let answer = sql.execute(query, SqlRequest::default()).await.expect("it plans");
        answer.batches.try_collect::<Vec<_>>().await.expect("it runs");
    };
    let mut measured = Vec::new();
    for query in queries {
        measured.push((query, best(async || plain(query).await).await, best(async || union(query).await).await));
    }
    fill(SCAN_LAKE_ROWS, SCAN_LAKE_ROWS + SCAN_HOT_ROWS).await;
    for (query, baseline, cold) in measured {
        let both = best(async || union(query).await).await;
        println!("\n{query}");
        println!("{:<46} {baseline:>9.1?}", "  DataFusion on the Parquet files alone");
        println!("{:<46} {cold:>9.1?} {:>7.2} × baseline", "  one table, all rows cold", ratio(cold, baseline));
        println!(
            "{:<46} {both:>9.1?} {:>7.2} × baseline",
            "  one table, a tenth of the rows hot",
            ratio(both, baseline)
        );
    }
    let started = Instant::now();
    let split = tiering.read_split(std::slice::from_ref(&table)).await.expect("a split");
    println!(
        "\na read split of {} files takes {:?}",
        split[0].lake.as_ref().map_or(0, |lake| lake.files.len()),
        started.elapsed()
    );
    tiering.close().await;
    engine.close();
}
