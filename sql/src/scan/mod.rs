//! Reading a pinned split as one relation: the plan is a union of a cold leg ([`LakeScanExec`]) and a hot leg
//! ([`HotScanExec`]), each of which filters, projects and counts for itself.
//!
//! Always: a relation reads exactly the rows of its [`ReadSplit`], whatever is appended, tiered or let go meanwhile; both
//! legs have the same schema; what was pruned is only what no row of could pass.
//!
//! [`ReadSplit`]: thermocline_tiering::ReadSplit

mod bounds;
mod by_key;
mod columns;
mod data_files;
mod field_ids;
mod hot;
mod lake;
mod relation;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use datafusion::physical_expr::PhysicalExpr;

pub(crate) use columns::{ScanColumn, ScanColumns};
pub(crate) use hot::HotScanExec;
pub(crate) use lake::LakeScanExec;
pub(crate) use relation::{Legs, Relation};

/// How many rows each tier handed on to a query, after its own filters. Complete when the answer's stream has ended.
/// A count that statistics answer reads no rows.
#[derive(Debug, Default)]
pub struct ReadStats {
    pub hot_rows: AtomicU64,
    pub lake_rows: AtomicU64,
    /// Data files that the query had to open, and those of its snapshots that bounds ruled out.
    pub lake_files: AtomicU64,
    pub lake_files_pruned: AtomicU64,
}

/// What a query wants of a leg.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    columns: &'a ScanColumns,
    /// Places among the columns; none for all.
    projection: Option<&'a Vec<usize>>,
    /// Over all columns. It prunes when the query is planned; filtering rows comes with the pushdown of filters.
    predicate: Option<&'a Arc<dyn PhysicalExpr>>,
    limit: Option<usize>,
    stats: &'a Arc<ReadStats>,
}
