//! SQL over both tiers, on a disk and a warehouse in memory.

mod alter;
mod backup;
mod bombs;
mod constraints;
mod create_as;
mod dropped;
mod golden;
mod keys;
mod meaning;
mod nested;
mod partitions;
mod reading;
mod refusals;
mod statements;
mod travel;
mod truncate;
mod types;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use thermocline_engine::disk::MemoryDisk;
use thermocline_engine::{Engine, EngineOptions, SystemClock, Table};
use thermocline_schemas::{Error, Result, TableName};
use thermocline_tiering::{CompactionPolicy, Grace, Tiering, TieringOptions, Warehouse};

use crate::{Answer, Sql, SqlOptions, SqlRequest};

/// One server without its doors.
struct Node {
    engine: Arc<Engine>,
    tiering: Arc<Tiering>,
    sql: Arc<Sql>,
    disk: Arc<MemoryDisk>,
    warehouse: Warehouse,
    tiering_options: TieringOptions,
}

fn options() -> SqlOptions {
    SqlOptions {
        partitions: 2,
        memory_bytes_max: 256 << 20,
        query_memory_bytes_max: 128 << 20,
        timeout: Duration::from_secs(60),
        ..SqlOptions::default()
    }
}

impl Node {
    async fn new() -> Node {
        let warehouse = Warehouse::with_store("s3://lake/warehouse", Arc::new(InMemory::new()));
        Node::open(MemoryDisk::new(), warehouse, options()).await
    }

    async fn open(disk: Arc<MemoryDisk>, warehouse: Warehouse, options: SqlOptions) -> Node {
        let manual = TieringOptions { scheduler: false, ..TieringOptions::default() };
        Node::open_tiering(disk, warehouse, options, manual).await
    }

    /// One that keeps nothing longer than tables say, and for which no file is too small to be written anew.
    async fn eager() -> Node {
        let warehouse = Warehouse::with_store("s3://lake/warehouse", Arc::new(InMemory::new()));
        let grace = Grace { files: Duration::ZERO, versions: Duration::ZERO };
        let compaction =
            CompactionPolicy { files_min: 2, dead_percent: 30, dead_bytes_min: 1, ..CompactionPolicy::default() };
        let eager = TieringOptions { scheduler: false, grace, compaction, ..TieringOptions::default() };
        Node::open_tiering(MemoryDisk::new(), warehouse, options(), eager).await
    }

    async fn open_tiering(
        disk: Arc<MemoryDisk>,
        warehouse: Warehouse,
        options: SqlOptions,
        tiering_options: TieringOptions,
    ) -> Node {
        let engine_options = EngineOptions { upkeep: false, ..EngineOptions::default() };
        let engine = Engine::open(disk.clone(), Path::new("/data"), engine_options, Arc::new(SystemClock)).unwrap();
        let tiering = Tiering::open(engine.clone(), warehouse.clone(), tiering_options.clone()).await.unwrap();
        let sql = Sql::new(tiering.clone(), options).unwrap();
        Node { engine, tiering, sql, disk, warehouse, tiering_options }
    }

    async fn restarted(self) -> Node {
        Node::open_again(self, options()).await
    }

    async fn open_again(node: Node, options: SqlOptions) -> Node {
        node.tiering.close().await;
        node.engine.close();
        let Node { engine, tiering, sql, disk, warehouse, tiering_options } = node;
        drop((sql, tiering, engine));
        Node::open_tiering(disk, warehouse, options, tiering_options).await
    }

    fn table(&self, name: &str) -> Arc<Table> {
        self.engine.table(&TableName::parse("public", name).unwrap()).unwrap()
    }

    async fn tier(&self, name: &str) {
        self.tiering.tier(&self.table(name)).await.unwrap();
    }

    /// Lets all hot rows go that are in the lake.
    async fn let_go(&self, name: &str) {
        let table = self.table(name);
        let split = self.tiering.read_split(std::slice::from_ref(&table)).await.unwrap().remove(0);
        let floors = table.buckets().map(|(bucket, _)| (bucket, split.tiered_end(bucket))).collect();
        self.engine.trim(&table, floors).await.unwrap();
    }

    async fn answer(&self, text: &str) -> Result<Answer> {
        self.sql.execute(text, SqlRequest::default()).await
    }

    async fn batches(&self, text: &str) -> Result<Vec<RecordBatch>> {
        self.answer(text).await?.batches.try_collect().await
    }

    /// The rows, each as its values between bars.
    async fn rows(&self, text: &str) -> Vec<String> {
        match self.batches(text).await {
            Ok(batches) => lines(&batches),
            Err(error) => panic!("{text}: {error:?} {:?}", error.hint()),
        }
    }

    async fn run(&self, text: &str) {
        self.rows(text).await;
    }

    async fn refused(&self, text: &str) -> Error {
        match self.batches(text).await {
            Ok(batches) => panic!("{text} was answered: {:?}", lines(&batches)),
            Err(error) => error,
        }
    }
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let table = pretty_format_batches(batches).unwrap().to_string();
    let lines = table.lines().filter(|line| line.starts_with('|')).skip(1);
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join("|")).collect()
}
