//! One relation of a statement, pinned: what the planner sees as a table.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use thermocline_tiering::ReadSplit;

use super::by_key::rows_by_key;
use super::{HotScanExec, LakeScanExec, ReadStats, ScanColumns, Wanted};

/// Which tiers a relation reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Legs {
    Both,
    Hot,
    Lake,
}

/// A split as a table.
#[derive(Debug)]
pub(crate) struct Relation {
    pub split: Arc<ReadSplit>,
    pub legs: Legs,
    /// Every change of a primary-key table, not only its state.
    pub changes: bool,
    pub columns: ScanColumns,
    /// Where the warehouse is for plans of this server.
    pub store: ObjectStoreUrl,
    pub stats: Arc<ReadStats>,
}

#[async_trait]
impl TableProvider for Relation {
    fn schema(&self) -> SchemaRef {
        self.columns.schema().clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters reach both legs as physical expressions, which the scans evaluate themselves; here they only prune.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let predicate = match conjunction(filters.iter().cloned()) {
            Some(filter) => {
                let schema = DFSchema::try_from(self.columns.schema().as_ref().clone())?;
                Some(session.create_physical_expr(filter, &schema)?)
            }
            None => None,
        };
        let wanted =
            Wanted { columns: &self.columns, projection, predicate: predicate.as_ref(), limit, stats: &self.stats };
        let keyed = self.split.table.descriptor().is_keyed();
        let state = keyed && !self.changes;
        let by_key = if state && self.legs == Legs::Both { rows_by_key(&self.split, filters).await? } else { None };
        // What the lake has of a primary-key table is its state; its changes are hot.
        let wants_lake = self.legs != Legs::Hot && !(keyed && self.changes);
        let (lake_files, hot) = match by_key {
            Some(found) => (found.lake, found.hot),
            None => {
                let masked = self.legs == Legs::Both;
                let files =
                    if wants_lake { self.split.lake_files(masked).await.map_err(external)? } else { Vec::new() };
                let hot = match (self.legs, keyed && self.changes) {
                    (Legs::Lake, _) => Vec::new(),
                    (_, true) => self.split.changes().map_err(external)?,
                    (_, false) => self.split.hot.clone(),
                };
                (files, hot)
            }
        };
        let mut legs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if wants_lake && let Some(lake) = &self.split.lake {
            let schema = &self.split.table.descriptor().schema;
            legs.push(Arc::new(LakeScanExec::plan(session, &self.store, lake, schema, lake_files, wanted)?));
        }
        if self.legs != Legs::Lake || legs.is_empty() {
            let partitions = session.config_options().execution.target_partitions;
            let descriptor = self.split.table.descriptor();
            legs.push(Arc::new(HotScanExec::plan(descriptor, &hot, state, wanted, partitions)?));
        }
        UnionExec::try_new(legs)
    }
}

fn external(error: thermocline_schemas::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
