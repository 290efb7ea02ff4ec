//! One node in this process: engine, tiering and SQL over one disk in memory, which holds the warehouse too, so a power
//! cut takes from both.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thermocline_engine::disk::{Disk, MemoryDisk};
use thermocline_engine::{Durability, Engine, EngineOptions, SystemClock, Table};
use thermocline_schemas::{Properties, Result, TableName};
use thermocline_sql::{Sql, SqlOptions};
use thermocline_tiering::{Tiering, TieringOptions, Warehouse};

use crate::oracle;

pub struct Node {
    pub engine: Arc<Engine>,
    pub tiering: Arc<Tiering>,
    pub sql: Arc<Sql>,
    pub table: Arc<Table>,
}

impl Node {
    /// Starts on what is on the disk. Small limits, so that every state is reached with few rows.
    pub async fn start(disk: &Arc<MemoryDisk>, durability: Durability, properties: &[(&str, &str)]) -> Result<Node> {
        let options = EngineOptions {
            durability,
            journal_file_bytes: 32 << 10,
            journal_bytes_max: 256 << 10,
            segment_bytes: 32 << 10,
            memory_bytes_max: 64 << 20,
            patience: Duration::from_secs(5),
            upkeep: false,
        };
        let disk: Arc<dyn Disk> = disk.clone();
        let engine = Engine::open(disk.clone(), Path::new("/data"), options, Arc::new(SystemClock))?;
        let warehouse = Warehouse::local(disk, Path::new("/warehouse"))?;
        let manual = TieringOptions { scheduler: false, ..TieringOptions::default() };
        let tiering = Tiering::open(engine.clone(), warehouse, manual).await?;
        let sql = Sql::new(tiering.clone(), SqlOptions { partitions: 2, ..SqlOptions::default() })?;
        let name = TableName::parse("public", "t")?;
        let properties = Properties::parse(properties.iter().copied())?;
        let table = engine.create_table(name, oracle::schema(), &[], properties, true).await?;
        Ok(Node { engine, tiering, sql, table })
    }

    pub async fn stop(&self) {
        self.tiering.close().await;
        self.engine.close();
    }
}
