//! One node in this process: engine, tiering and SQL over one disk in memory, which holds the warehouse too, so a power
//! cut takes from both.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use thermocline_engine::disk::{Disk, MemoryDisk};
use thermocline_engine::{Clock, Durability, Engine, EngineOptions, Sender, Table, WriterSequence};
use thermocline_schemas::{Code, Properties, Result, TableName, bucket_of_hash, hash_column};
use thermocline_sql::{Sql, SqlOptions};
use thermocline_tiering::{Tiering, TieringOptions, Warehouse};

use crate::keyed::oracle::{Wish, request};
use crate::{keyed, oracle};

pub struct Node {
    pub engine: Arc<Engine>,
    pub tiering: Arc<Tiering>,
    pub sql: Arc<Sql>,
}

impl Node {
    /// Starts on what is on the disk, the warehouse included.
    pub async fn start(disk: &Arc<MemoryDisk>, durability: Durability, clock: Arc<dyn Clock>) -> Result<Node> {
        let warehouse = Warehouse::local(disk.clone(), Path::new("/warehouse"))?;
        Node::start_on(disk, warehouse, durability, clock).await
    }

    /// Starts with a warehouse of its own. Small limits, so that every state is reached with few rows.
    pub async fn start_on(
        disk: &Arc<MemoryDisk>,
        warehouse: Warehouse,
        durability: Durability,
        clock: Arc<dyn Clock>,
    ) -> Result<Node> {
        let options = EngineOptions {
            durability,
            journal_file_bytes: 32 << 10,
            journal_bytes_max: 256 << 10,
            segment_bytes: 32 << 10,
            memory_bytes_max: 64 << 20,
            patience: Duration::from_secs(5),
            upkeep: false,
            ..EngineOptions::default()
        };
        let disk: Arc<dyn Disk> = disk.clone();
        let engine = Engine::open(disk, Path::new("/data"), options, clock)?;
        let tiering = Tiering::open(engine.clone(), warehouse, manual()).await?;
        let sql = Sql::new(tiering.clone(), SqlOptions { partitions: 2, ..SqlOptions::default() })?;
        Ok(Node { engine, tiering, sql })
    }

    /// The table of this name, made if it is not there.
    pub async fn table(&self, name: &str, properties: &[(&str, &str)]) -> Result<Arc<Table>> {
        let name = TableName::parse("public", name)?;
        let properties = Properties::parse(properties.iter().copied())?;
        let table = self.engine.create_table(name, oracle::schema(), &[], properties, true).await?;
        self.with_partitions(table, |table, ids| Ok(oracle::rows_of(table, ids))).await
    }

    /// A table whose partitions, if it has any, are there already, each with the number of its one bucket: those of the first
    /// row that would be in each. What makes them is a request that is refused.
    async fn with_partitions(
        &self,
        table: Arc<Table>,
        rows: impl Fn(&Table, &[i64]) -> Result<RecordBatch>,
    ) -> Result<Arc<Table>> {
        let descriptor = table.descriptor();
        let Some(field) = descriptor.partitioning.first() else { return Ok(table) };
        let ids: Vec<i64> = (0..1_000).collect();
        let all = rows(&table, &ids)?;
        let place = descriptor.schema.columns().iter().position(|column| column.id == field.source);
        let hashes = hash_column(all.column(place.expect("a partition is of a column")))?;
        let buckets = descriptor.bucketing.buckets();
        let first = |bucket| hashes.iter().position(|hash| bucket_of_hash(*hash, buckets) == bucket);
        let wanted: Vec<_> = (0..buckets).map(|bucket| ids[first(bucket).expect("all buckets have rows")]).collect();
        let sender = Sender { writer: WriterSequence::new("nobody", 5).ok(), ..Sender::default() };
        let refused = self.engine.append(&table, rows(&table, &wanted)?, sender).await.expect_err("it skips numbers");
        match refused.code() {
            Code::OutOfOrderSequence => Ok(self.engine.newest(&table)),
            _ => Err(refused),
        }
    }

    /// The table of this name and primary key, made if it is not there.
    pub async fn keyed_table(&self, name: &str, key: &[&str], properties: &[(&str, &str)]) -> Result<Arc<Table>> {
        let name = TableName::parse("public", name)?;
        let properties = Properties::parse(properties.iter().copied())?;
        let key: Vec<_> = key.iter().map(|column| (*column).to_owned()).collect();
        let table = self.engine.create_table(name, keyed::oracle::schema(), &key, properties, true).await?;
        self.with_partitions(table, |table, ids| {
            let wishes: Vec<_> = ids.iter().map(|id| Wish::Upsert { id: *id, version: 0 }).collect();
            Ok(request(table.descriptor(), table.schema(), &wishes)?.rows().clone())
        })
        .await
    }

    /// A second server's tiering of the same tables, with lake handles and boundaries of its own.
    pub async fn second_tiering(&self) -> Result<Arc<Tiering>> {
        Tiering::open(self.engine.clone(), self.tiering.warehouse().clone(), manual()).await
    }

    pub async fn stop(&self) {
        self.tiering.close().await;
        self.engine.close();
    }
}

/// Rounds begin when the test says so.
fn manual() -> TieringOptions {
    TieringOptions { scheduler: false, ..TieringOptions::default() }
}
