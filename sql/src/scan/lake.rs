//! The cold leg: the data files of one snapshot.
//!
//! A leaf of our own around DataFusion's Parquet scan, which it builds when the query is planned and forwards everything
//! to: projection, filters, limit, statistics, partitions, metrics. It stays a leaf of our own because a plan that travels
//! must carry the split, not what DataFusion's own serialisation keeps of it.
//!
//! Always: the files are exactly those of the pinned snapshot, less those that bounds rule out. A file that is gone is an
//! error, never fewer rows; one that is damaged is an error that names it. Where rows of a file are left out, a limit is left
//! to the plan above: DataFusion's scan, which under a limit takes whole row groups that a filter lets pass, would forget
//! which of their rows to read.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::Session;
use datafusion::common::config::{ConfigOptions, TableParquetOptions};
use datafusion::common::stats::Precision;
use datafusion::common::{Result, Statistics, internal_datafusion_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, ParquetAccessPlan};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sort_pushdown::SortOrderPushdownResult;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::TryStreamExt;
use thermocline_engine::faults::{self, Defect};
use thermocline_tiering::{CutFile, LakePart, guarded_stream};

use super::bounds::{may_have_nan, surviving};
use super::data_files::DataFiles;
use super::field_ids::ByFieldId;
use super::{ReadStats, Wanted};

/// Scans the pinned snapshot of a lake table.
#[derive(Debug)]
pub(crate) struct LakeScanExec {
    /// The scan that does the work.
    inner: Arc<dyn ExecutionPlan>,
    data_files: Arc<DataFiles>,
    snapshot_id: Option<i64>,
    files: usize,
    files_all: usize,
    /// All rows of each file are read.
    is_whole: bool,
    stats: Arc<ReadStats>,
}

impl LakeScanExec {
    pub(super) fn plan(
        session: &dyn Session,
        store: &ObjectStoreUrl,
        lake: &LakePart,
        schema: &thermocline_schemas::TableSchema,
        files: Vec<CutFile>,
        wanted: Wanted<'_>,
    ) -> Result<LakeScanExec> {
        let Wanted { columns, projection, predicate, limit, stats } = wanted;
        let kept = surviving(&files, columns, predicate);
        let all = files.len();
        let files: Vec<_> = files.into_iter().zip(kept).filter_map(|(file, kept)| kept.then_some(file)).collect();
        stats.lake_files.fetch_add(files.len() as u64, Ordering::Relaxed);
        stats.lake_files_pruned.fetch_add((lake.files.len() - files.len()) as u64, Ordering::Relaxed);

        let runtime = session.runtime_env();
        let mut options =
            TableParquetOptions { global: session.config_options().execution.parquet.clone(), ..Default::default() };
        options.global.pushdown_filters = true;
        if may_have_nan(&files, columns) {
            options.global.pruning = false;
            options.global.enable_page_index = false;
        }
        let objects = runtime.object_store(store)?;
        let reader = CachedParquetFileReaderFactory::new(objects, runtime.cache_manager.get_file_metadata_cache());
        let data_files = Arc::new(DataFiles::new(reader, lake, schema));
        let source = ParquetSource::new(TableSchema::from_file_schema(columns.schema().clone()))
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(data_files.clone());
        let rows: u64 = files.iter().map(CutFile::rows).sum();
        let bytes: u64 = files.iter().map(|cut| cut.file.bytes).sum();
        let statistics = Statistics {
            num_rows: match files.len() == all {
                true => Precision::Exact(rows as usize),
                false => Precision::Inexact(rows as usize),
            },
            total_byte_size: Precision::Inexact(bytes as usize),
            column_statistics: Statistics::unknown_column(columns.schema()),
        };
        let group = FileGroup::new(files.iter().map(partitioned).collect());
        let mut groups = group.split_files(session.config_options().execution.target_partitions);
        if groups.is_empty() {
            groups.push(FileGroup::new(Vec::new()));
        }
        let forgets = faults::planted(Defect::LimitForgetsDeletes);
        let is_whole = forgets || files.iter().all(|cut| cut.picked.is_none());
        let config = FileScanConfigBuilder::new(store.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit.filter(|_| is_whole))
            .with_statistics(statistics)
            .with_expr_adapter(Some(Arc::new(ByFieldId(columns.clone()))))
            .build();
        Ok(LakeScanExec {
            inner: DataSourceExec::from_data_source(config),
            data_files,
            snapshot_id: lake.version.snapshot_id(),
            files: files.len(),
            files_all: lake.files.len(),
            is_whole,
            stats: stats.clone(),
        })
    }

    fn around(&self, inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(LakeScanExec {
            inner,
            data_files: self.data_files.clone(),
            snapshot_id: self.snapshot_id,
            files: self.files,
            files_all: self.files_all,
            is_whole: self.is_whole,
            stats: self.stats.clone(),
        })
    }

    fn config(&self) -> Option<&FileScanConfig> {
        self.inner.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
    }
}

/// A file for DataFusion, with the rows to read of it.
fn partitioned(cut: &CutFile) -> PartitionedFile {
    let file = PartitionedFile::new(cut.file.path.to_string(), cut.file.bytes);
    match &cut.picked {
        None => file,
        Some(picked) => {
            let selections = picked.selections();
            let mut plan = ParquetAccessPlan::new_none(selections.len());
            for (group, selection) in selections.into_iter().enumerate() {
                if let Some(selection) = selection {
                    plan.scan(group);
                    plan.scan_selection(group, selection);
                }
            }
            // It is found by its own type: in an `Arc` it would be passed over, and hidden rows would come back.
            file.with_extension(plan)
        }
    }
}

impl DisplayAs for LakeScanExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "LakeScanExec: snapshot=")?;
        match self.snapshot_id {
            Some(id) => write!(formatter, "{id}")?,
            None => write!(formatter, "none")?,
        }
        write!(formatter, ", files={} of {}", self.files, self.files_all)?;
        let names: Vec<_> = self.schema().fields().iter().map(|field| field.name().clone()).collect();
        write!(formatter, ", projection=[{}]", names.join(", "))?;
        if let Some(predicate) = self.config().and_then(|config| config.file_source().filter()) {
            write!(formatter, ", predicate={predicate}")?;
        }
        if let Some(limit) = self.fetch() {
            write!(formatter, ", limit={limit}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for LakeScanExec {
    fn name(&self) -> &str {
        "LakeScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.around(self.inner.clone().reset_state()?))
    }

    fn repartitioned(&self, target: usize, config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        Ok(self.inner.repartitioned(target, config)?.map(|inner| self.around(inner)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let stats = self.stats.clone();
        let count = move |batch: &RecordBatch| {
            stats.lake_rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        };
        let panicked = || internal_datafusion_err!("a scan of the lake panicked");
        let batches = guarded_stream(panicked, self.inner.execute(partition, context)?.inspect_ok(count));
        let data_files = self.data_files.clone();
        let batches = batches.or_else(move |failure| {
            let data_files = data_files.clone();
            async move { Err(data_files.explain(partition, failure).await) }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.inner.partition_statistics(partition)
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        if !self.is_whole && limit.is_some() {
            return None;
        }
        Some(self.around(self.inner.with_fetch(limit)?))
    }

    fn fetch(&self) -> Option<usize> {
        self.inner.fetch()
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let swapped = self.inner.try_swapping_with_projection(projection)?;
        // Only a scan may stand inside: another node would hide from the rules that come after.
        Ok(swapped.filter(|inner| inner.is::<DataSourceExec>()).map(|inner| self.around(inner)))
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        // Files are asked nothing of nested columns, whose fields the scan within would find by name: such filters stay above.
        let is_flat = |filter: &Arc<dyn PhysicalExpr>| {
            let columns = collect_columns(filter);
            let schema = self.schema();
            columns.iter().all(|column| !schema.field(column.index()).data_type().is_nested())
        };
        let asks: Vec<bool> = result.parent_filters.iter().map(|parent| is_flat(&parent.filter)).collect();
        let mut asked = asks.iter();
        let ChildPushdownResult { mut parent_filters, self_filters } = result;
        parent_filters.retain(|_| asked.next().is_some_and(|asked| *asked));
        let result = ChildPushdownResult { parent_filters, self_filters };
        let pushed = self.inner.handle_child_pushdown_result(phase, result, config)?;
        let updated_node = pushed.updated_node.map(|inner| self.around(inner));
        let mut answers = pushed.filters.into_iter();
        let filters = asks.into_iter().map(|asked| match asked {
            true => answers.next().unwrap_or(PushedDown::No),
            false if faults::planted(Defect::NestedConditionLost) => PushedDown::Yes,
            false => PushedDown::No,
        });
        Ok(FilterPushdownPropagation { filters: filters.collect(), updated_node })
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        self.inner.try_pushdown_sort(order)?.try_map(|inner| Ok(self.around(inner)))
    }

    fn with_preserve_order(&self, preserve: bool) -> Option<Arc<dyn ExecutionPlan>> {
        Some(self.around(self.inner.with_preserve_order(preserve)?))
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(self.around(self.inner.with_new_state(state)?))
    }
}
