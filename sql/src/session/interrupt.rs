//! Joins that can be interrupted: one whose condition nothing passes computes for minutes within a single step, and neither
//! yields nor hears that its statement was given up.
//!
//! What it does all the time is to evaluate its condition, so the condition asks: whether anybody still waits, else the
//! join ends with an error; and whether it has had its thread for long, then others get the thread's place and it goes on
//! beside them.

use std::cell::Cell;
use std::fmt::{self, Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder};
use tokio::runtime::{Handle, RuntimeFlavor};

/// A join keeps a thread for so long before others get its place.
const TURN: Duration = Duration::from_millis(20);

tokio::task_local! {
    /// Of the statement that a task on the query threads is of.
    pub(crate) static INTERRUPT: Arc<Interrupt>;
}

thread_local! {
    /// Since when this thread has computed conditions without a pause, and when it did last.
    static BUSY: Cell<Option<(Instant, Instant)>> = const { Cell::new(None) };
}

/// Whether a statement is still wanted.
#[derive(Debug)]
pub(crate) struct Interrupt {
    until: Instant,
    is_given_up: AtomicBool,
}

impl Interrupt {
    /// Of a statement whose time is over at a moment. Whoever waits is told then; a little later nobody does.
    pub(crate) fn at(over: Instant) -> Arc<Interrupt> {
        Arc::new(Interrupt { until: over + Duration::from_secs(1), is_given_up: AtomicBool::new(false) })
    }

    fn check(&self) -> Result<()> {
        let now = Instant::now();
        if self.is_given_up.load(Ordering::Relaxed) || now > self.until {
            return Err(DataFusionError::Execution("the statement was given up".to_owned()));
        }
        give_way(now);
        Ok(())
    }
}

/// Lets others have this thread's place if it has computed for long. Without a place it does so for nothing, and goes on.
fn give_way(now: Instant) {
    let begun = match BUSY.get() {
        Some((begun, last)) if now.saturating_duration_since(last) < TURN => begun,
        _ => now,
    };
    let is_worker = || Handle::try_current().is_ok_and(|at| at.runtime_flavor() == RuntimeFlavor::MultiThread);
    if now.saturating_duration_since(begun) > TURN && is_worker() {
        tokio::task::block_in_place(|| ());
        BUSY.set(Some((now, now)));
    } else {
        BUSY.set(Some((begun, now)));
    }
}

/// Gives the statement up when it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(pub(crate) Arc<Interrupt>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.is_given_up.store(true, Ordering::Relaxed);
    }
}

/// Puts an [`Asking`] around the conditions of joins.
#[derive(Debug)]
pub(super) struct JoinsAsk(pub(super) Arc<Interrupt>);

impl PhysicalOptimizerRule for JoinsAsk {
    fn name(&self) -> &str {
        "JoinsAsk"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let ask = |filter: &JoinFilter| {
            let inner = filter.expression().clone();
            let asking = Arc::new(Asking { inner, interrupt: self.0.clone() });
            JoinFilter::new(asking, filter.column_indices().to_vec(), filter.schema().clone())
        };
        let wrap = |plan: Arc<dyn ExecutionPlan>| {
            if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>()
                && let Some(filter) = join.filter()
            {
                let join = NestedLoopJoinExecBuilder::from(join).with_filter(Some(ask(filter))).build()?;
                return Ok(Transformed::yes(Arc::new(join) as Arc<dyn ExecutionPlan>));
            }
            if let Some(join) = plan.downcast_ref::<HashJoinExec>()
                && let Some(filter) = join.filter()
            {
                let join = join.builder().with_filter(Some(ask(filter))).build()?;
                return Ok(Transformed::yes(Arc::new(join) as Arc<dyn ExecutionPlan>));
            }
            Ok(Transformed::no(plan))
        };
        plan.transform_up(wrap).map(|done| done.data)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A condition that asks whether it is still wanted.
#[derive(Debug)]
struct Asking {
    inner: Arc<dyn PhysicalExpr>,
    interrupt: Arc<Interrupt>,
}

impl PartialEq for Asking {
    fn eq(&self, other: &Asking) -> bool {
        *self.inner == *other.inner
    }
}

impl Eq for Asking {}

impl Hash for Asking {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl Display for Asking {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.inner, formatter)
    }
}

impl PhysicalExpr for Asking {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.inner.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.interrupt.check()?;
        self.inner.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match <[_; 1]>::try_from(children) {
            Ok([inner]) => Ok(Arc::new(Asking { inner, interrupt: self.interrupt.clone() })),
            Err(_) => Err(DataFusionError::Internal("a condition is one expression".to_owned())),
        }
    }

    fn fmt_sql(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(formatter)
    }
}
