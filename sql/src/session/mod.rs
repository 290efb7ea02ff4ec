//! What every query of a server shares, and what each gets for itself.
//!
//! Shared: the threads; the functions; the memory, the spill quota; the cache of file footers. For itself, a query gets a
//! memory pool with a share of the whole, and tables pinned for it alone: there is no catalog to look into.
//!
//! Always: the only store that plans can reach is the warehouse, under an address that no statement can spell; no function
//! reads files or settings.

mod functions;
mod interrupt;
mod names;
mod pool;
mod stores;
mod threads;
mod types;
mod yielding;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use object_store::ObjectStore;
use thermocline_schemas::{Error, Result};

pub(crate) use interrupt::{INTERRUPT, Interrupt, Waiting};
pub(crate) use names::{Names, RelationKey};

use crate::front::DEPTH_MAX;
use crate::meaning::{analyzer_rules, physical_rules};
use pool::{QueryPool, ServerMemory};
use threads::QueryThreads;

const FOOTER_CACHE_BYTES: usize = 64 << 20;

/// The limits of queries. The defaults suit a machine that does other things too.
#[derive(Clone, Debug)]
pub struct SqlOptions {
    /// What all queries together may reserve.
    pub memory_bytes_max: usize,
    /// What one query may reserve.
    pub query_memory_bytes_max: usize,
    /// Where sorts and joins put what does not fit; none = they fail instead.
    pub spill_directory: Option<PathBuf>,
    pub spill_bytes_max: u64,
    /// The longest that a statement may take, planning and reading its answer included.
    pub timeout: Duration,
    /// How many threads a query spreads over; also the number of query threads.
    pub partitions: usize,
    /// How deep statements may nest.
    pub depth_max: usize,
}

impl Default for SqlOptions {
    fn default() -> SqlOptions {
        SqlOptions {
            memory_bytes_max: 1 << 30,
            query_memory_bytes_max: 512 << 20,
            spill_directory: None,
            spill_bytes_max: 4 << 30,
            timeout: Duration::from_secs(300),
            partitions: std::thread::available_parallelism().map_or(2, usize::from),
            depth_max: DEPTH_MAX,
        }
    }
}

/// See the module's text.
pub(crate) struct Session {
    base: SessionState,
    memory: Arc<ServerMemory>,
    query_memory_bytes_max: usize,
    store: ObjectStoreUrl,
    threads: QueryThreads,
}

impl Session {
    pub(crate) fn new(options: &SqlOptions, warehouse: Arc<dyn ObjectStore>) -> Result<Session> {
        let fault = |error| Error::internal("the query engine does not start").with_source(error);
        let store = ObjectStoreUrl::parse(stores::WAREHOUSE).map_err(fault)?;
        let disk = match &options.spill_directory {
            Some(directory) => {
                prepare_spill_directory(directory).map_err(|error| {
                    Error::internal(format!("cannot use the spill directory {}", directory.display()))
                        .with_source(error)
                })?;
                DiskManagerMode::Directories(vec![directory.clone()])
            }
            None => DiskManagerMode::Disabled,
        };
        let disk = DiskManagerBuilder::default().with_mode(disk).with_max_temp_directory_size(options.spill_bytes_max);
        let runtime = RuntimeEnvBuilder::new()
            .with_disk_manager_builder(disk)
            .with_object_store_registry(Arc::new(stores::OnlyWarehouse(warehouse)))
            .with_metadata_cache_limit(FOOTER_CACHE_BYTES)
            .build_arc()
            .map_err(fault)?;
        let base = SessionStateBuilder::new_with_default_features()
            .with_config(config(options))
            .with_runtime_env(runtime)
            .with_analyzer_rules(analyzer_rules())
            .with_physical_optimizer_rules(physical_rules())
            .with_physical_optimizer_rule(Arc::new(yielding::JoinsYield))
            .build();
        Ok(Session {
            base: functions::tame(base),
            memory: ServerMemory::new(options.memory_bytes_max),
            query_memory_bytes_max: options.query_memory_bytes_max.min(options.memory_bytes_max),
            store,
            threads: QueryThreads::start(options.partitions)?,
        })
    }

    /// The state of one query.
    pub(crate) fn query(&self) -> SessionState {
        let shared = self.base.runtime_env();
        let pool = QueryPool::new(self.memory.clone(), self.query_memory_bytes_max);
        let runtime = RuntimeEnv { memory_pool: Arc::new(pool), ..shared.as_ref().clone() };
        let mut builder = SessionStateBuilder::new_from_existing(self.base.clone()).with_runtime_env(Arc::new(runtime));
        if let Ok(interrupt) = INTERRUPT.try_with(Arc::clone) {
            builder = builder.with_physical_optimizer_rule(Arc::new(interrupt::JoinsAsk(interrupt)));
        }
        let mut state = builder.build();
        state.mark_start_execution();
        state
    }

    /// Bytes that all queries have reserved.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.used() as u64
    }

    /// Where plans find the warehouse.
    pub(crate) fn store(&self) -> &ObjectStoreUrl {
        &self.store
    }

    /// Runs work on the query threads.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<tokio::task::JoinHandle<T>> {
        self.threads.spawn(work)
    }
}

fn config(options: &SqlOptions) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(options.partitions.max(1))
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false);
    let all = config.options_mut();
    all.sql_parser.map_string_types_to_utf8view = false;
    all.sql_parser.collect_spans = false;
    all.execution.parquet.pushdown_filters = true;
    all.execution.parquet.schema_force_view_types = false;
    all.execution.time_zone = Some("UTC".to_owned());
    config
}

/// Makes the directory and removes what a crash left of earlier queries.
fn prepare_spill_directory(directory: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("datafusion-") {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
