//! The hot leg: rows of tails and segments, without a copy.
//!
//! Only the columns that the query needs are touched; system columns are made for the rows at hand; filters run on each
//! batch as it is read, and a limit stops reading. Reading is lazy and inline: a segment's first touch may wait for the
//! local disk, on a thread of the query runtime.
//!
//! Of a primary-key table the scan hands on either every change, or only the rows that are its state at the cut.
//!
//! Always: a column of a batch is the log's own buffers unless rows were filtered out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr, conjunction};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream;
use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{HotBatch, HotRows};
use thermocline_schemas::{ChangeKind, Offset, PartitionBucket, SystemColumn, TableDescriptor, fitted_values};
use thermocline_tiering::HotPart;

use super::bounds::{Container, PartitionBounds, Piece, surviving};
use super::{ReadStats, ScanColumn, ScanColumns, Wanted};

/// Scans the hot rows of a split.
#[derive(Clone, Debug)]
pub(crate) struct HotScanExec {
    columns: ScanColumns,
    /// Per partition, what it reads.
    pieces: Arc<Vec<Vec<Piece>>>,
    /// Places of the columns that are handed on.
    projection: Vec<usize>,
    /// Over all columns.
    predicate: Option<Arc<dyn PhysicalExpr>>,
    limit: Option<usize>,
    /// Only rows that are part of the state at the cut, not all of the log.
    state: bool,
    rows: Precision<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    stats: Arc<ReadStats>,
}

impl HotScanExec {
    pub(super) fn plan(
        descriptor: &TableDescriptor,
        parts: &[HotPart],
        state: bool,
        wanted: Wanted<'_>,
        partitions: usize,
    ) -> Result<HotScanExec> {
        let Wanted { columns, projection, predicate, limit, stats } = wanted;
        let mut bounds = PartitionBounds::of(descriptor, columns);
        let all: Vec<_> = parts
            .iter()
            .flat_map(|part| {
                let partition = predicate.and_then(|_| bounds.get(part.bucket.partition));
                let piece = move |rows: &HotRows| Piece {
                    bucket: part.bucket,
                    rows: rows.clone(),
                    end: part.to,
                    partition: partition.clone(),
                };
                part.rows.iter().map(piece)
            })
            .collect();
        let kept = surviving(&all, columns, predicate);
        let pruned = kept.iter().any(|kept| !kept);
        let pieces: Vec<_> = all.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(piece, _)| piece).collect();
        let count: u64 = pieces.iter().map(Container::rows).sum();
        let rows = if pruned || state { Precision::Inexact(count as usize) } else { Precision::Exact(count as usize) };
        let pieces = Arc::new(spread(pieces, partitions));
        let projection = projection.cloned().unwrap_or_else(|| (0..columns.len()).collect());
        let properties = properties(columns, &projection, pieces.len())?;
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(HotScanExec {
            columns: columns.clone(),
            pieces,
            projection,
            predicate: None,
            limit,
            state,
            rows,
            properties,
            metrics,
            stats: stats.clone(),
        })
    }

    /// An expression over the columns handed on, over all columns.
    fn over_all(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        expr.transform(|expr| match expr.downcast_ref::<Column>() {
            Some(column) => match self.projection.get(column.index()) {
                Some(place) => Ok(Transformed::yes(Arc::new(Column::new(column.name(), *place)))),
                None => internal_err!("the hot scan has no column {}", column.name()),
            },
            None => Ok(Transformed::no(expr)),
        })
        .data()
    }
}

fn properties(columns: &ScanColumns, projection: &[usize], partitions: usize) -> Result<Arc<PlanProperties>> {
    let schema = Arc::new(columns.schema().project(projection)?);
    Ok(Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    )))
}

/// Pieces over partitions: the largest first, each to the partition that has least.
fn spread(mut pieces: Vec<Piece>, partitions: usize) -> Vec<Vec<Piece>> {
    let mut spread: Vec<(u64, Vec<Piece>)> = vec![Default::default(); partitions.min(pieces.len()).max(1)];
    if spread.len() == 1 {
        // In the order of the log.
        return vec![pieces];
    }
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.rows()));
    for piece in pieces {
        if let Some(least) = spread.iter_mut().min_by_key(|(rows, _)| *rows) {
            least.0 += piece.rows();
            least.1.push(piece);
        }
    }
    let mut spread: Vec<_> = spread.into_iter().map(|(_, pieces)| pieces).collect();
    for pieces in &mut spread {
        pieces.sort_by_key(|piece| (piece.bucket, piece.rows.from()));
    }
    spread
}

impl DisplayAs for HotScanExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: BTreeMap<PartitionBucket, (Offset, Offset)> = BTreeMap::new();
        for piece in self.pieces.iter().flatten() {
            let range = ranges.entry(piece.bucket).or_insert((piece.rows.from(), piece.rows.to()));
            *range = (range.0.min(piece.rows.from()), range.1.max(piece.rows.to()));
        }
        const SHOWN: usize = 8;
        let mut shown: Vec<_> =
            ranges.iter().take(SHOWN).map(|(bucket, (from, to))| format!("{}:[{from}, {to})", bucket.bucket)).collect();
        if ranges.len() > SHOWN {
            shown.push(format!("and {} more", ranges.len() - SHOWN));
        }
        let names: Vec<_> = self.projection.iter().map(|place| self.columns.schema().field(*place).name()).collect();
        let names = names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let rows: u64 = self.pieces.iter().flatten().map(Container::rows).sum();
        write!(formatter, "HotScanExec: buckets=[{}], rows={rows}, projection=[{names}]", shown.join(", "))?;
        if let Some(predicate) = &self.predicate {
            write!(formatter, ", predicate={predicate}")?;
        }
        if let Some(limit) = self.limit {
            write!(formatter, ", limit={limit}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for HotScanExec {
    fn name(&self) -> &str {
        "HotScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(pieces) = self.pieces.get(partition).cloned() else {
            return internal_err!("the hot scan has no partition {partition}");
        };
        let reading = Reading::new(&self.columns, &self.projection, self.predicate.clone())?;
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let stats = self.stats.clone();
        let batch_rows = context.session_config().batch_size();
        let mut left = self.limit.unwrap_or(usize::MAX);
        let mut pieces = pieces.into_iter();
        let state = self.state;
        let mut ready: std::vec::IntoIter<Result<Readable>> = Vec::new().into_iter();
        let mut current: Option<(Readable, usize)> = None;
        let next = move || -> Result<Option<RecordBatch>> {
            while left > 0 {
                let Some((readable, at)) = &mut current else {
                    match ready.next() {
                        Some(read) => current = Some((read?, 0)),
                        None => match pieces.next() {
                            Some(piece) => ready = reading.read(&piece, state).into_iter(),
                            None => return Ok(None),
                        },
                    }
                    continue;
                };
                let rows = batch_rows.min(readable.rows.batch.num_rows() - *at);
                if rows == 0 {
                    current = None;
                    continue;
                }
                let made = {
                    let _timer = baseline.elapsed_compute().timer();
                    reading.batch(readable, *at, rows)?
                };
                *at += rows;
                if made.num_rows() == 0 {
                    continue;
                }
                let made = if made.num_rows() > left { made.slice(0, left) } else { made };
                left -= made.num_rows();
                baseline.output_rows().add(made.num_rows());
                stats.hot_rows.fetch_add(made.num_rows() as u64, Ordering::Relaxed);
                return Ok(Some(made));
            }
            Ok(None)
        };
        let batches = stream::iter(ended_by_error(next));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        let counted = self.predicate.is_none() || faults::planted(Defect::FilteredCountExact);
        let exact = counted && self.limit.is_none() && !self.state;
        statistics.num_rows = match partition {
            None => self.rows,
            Some(partition) => {
                let pieces = self.pieces.get(partition).into_iter().flatten();
                Precision::Exact(pieces.map(|piece| piece.rows() as usize).sum())
            }
        };
        Ok(Arc::new(if exact { statistics } else { statistics.to_inexact() }))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(HotScanExec { limit, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        // Only a choice of columns under their own names; anything computed stays above.
        let mut chosen = Vec::with_capacity(projection.expr().len());
        for item in projection.expr() {
            match item.expr.downcast_ref::<Column>() {
                Some(column) if column.name() == item.alias => match self.projection.get(column.index()) {
                    Some(place) => chosen.push(*place),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        let properties = properties(&self.columns, &chosen, self.pieces.len())?;
        Ok(Some(Arc::new(HotScanExec { projection: chosen, properties, ..self.clone() })))
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let count = result.parent_filters.len();
        if count == 0 {
            return Ok(FilterPushdownPropagation::if_all(result));
        }
        let pushed = result.parent_filters.into_iter().map(|parent| self.over_all(parent.filter));
        let filters = self.predicate.iter().cloned().map(Ok).chain(pushed).collect::<Result<Vec<_>>>()?;
        let updated = HotScanExec { predicate: Some(conjunction(filters)), ..self.clone() };
        let node: Arc<dyn ExecutionPlan> = Arc::new(updated);
        Ok(FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::Yes; count]).with_updated_node(node))
    }
}

/// Calls `next` until it has no more or fails.
fn ended_by_error<T>(mut next: impl FnMut() -> Result<Option<T>>) -> impl Iterator<Item = Result<T>> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let item = next().transpose();
        ended = !matches!(item, Some(Ok(_)));
        item
    })
}

/// Rows that are read, and which of them are handed on; none for all.
struct Readable {
    bucket: PartitionBucket,
    rows: HotBatch,
    visible: Option<BooleanArray>,
}

/// How hot rows become batches of one scan.
struct Reading {
    /// The columns to make: those handed on and those that the predicate looks at.
    needed: Vec<ScanColumn>,
    schema: SchemaRef,
    /// Places of the user's columns among all, ascending, as they are read.
    read: Vec<usize>,
    /// Over the needed columns.
    predicate: Option<Arc<dyn PhysicalExpr>>,
    /// Places of the columns to hand on among those needed.
    output: Vec<usize>,
}

impl Reading {
    fn new(columns: &ScanColumns, projection: &[usize], predicate: Option<Arc<dyn PhysicalExpr>>) -> Result<Reading> {
        let mut places = projection.to_vec();
        if let Some(predicate) = &predicate {
            let looked_at = datafusion::physical_expr::utils::collect_columns(predicate);
            places.extend(looked_at.iter().map(Column::index));
        }
        places.sort_unstable();
        places.dedup();
        let place_of = |place: usize| places.binary_search(&place).ok();
        let predicate = predicate.map(|predicate| {
            predicate
                .transform(|expr| {
                    match expr.downcast_ref::<Column>().map(|column| (column, place_of(column.index()))) {
                        Some((column, Some(place))) => {
                            Ok(Transformed::yes(Arc::new(Column::new(column.name(), place))))
                        }
                        Some((column, None)) => internal_err!("the hot scan does not read {}", column.name()),
                        None => Ok(Transformed::no(expr)),
                    }
                })
                .data()
        });
        let needed: Vec<_> = places.iter().map(|place| columns.get(*place)).collect();
        let mut read: Vec<_> = needed
            .iter()
            .filter_map(|column| match column {
                ScanColumn::User(place) => Some(*place),
                ScanColumn::System(_) => None,
            })
            .collect();
        read.sort_unstable();
        Ok(Reading {
            schema: Arc::new(columns.schema().project(&places)?),
            predicate: predicate.transpose()?,
            output: projection.iter().filter_map(|place| place_of(*place)).collect(),
            needed,
            read,
        })
    }

    fn read(&self, piece: &Piece, state: bool) -> Vec<Result<Readable>> {
        let readable = |rows: HotBatch| {
            let visible = if state { rows.visible(piece.end) } else { None };
            Readable { bucket: piece.bucket, rows, visible }
        };
        let external = |error| DataFusionError::External(Box::new(error));
        piece.rows.read(Some(&self.read)).map(|rows| rows.map(readable).map_err(external)).collect()
    }

    /// The rows `[at, at + rows)` of a batch, as the scan hands them on.
    fn batch(&self, readable: &Readable, at: usize, rows: usize) -> Result<RecordBatch> {
        let hot = &readable.rows;
        let column = |(column, field): (&ScanColumn, &Arc<Field>)| -> Result<ArrayRef> {
            match column {
                ScanColumn::User(place) => match self.read.binary_search(place) {
                    // An answer's nested columns say nothing of field ids.
                    Ok(read) => Ok(fitted_values(&hot.batch.column(read).slice(at, rows), field.data_type())?),
                    Err(_) => internal_err!("column {place} was not read"),
                },
                ScanColumn::System(column) => system_column(*column, readable.bucket, hot, at, rows),
            }
        };
        let arrays = self.needed.iter().zip(self.schema.fields()).map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let mut batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?;
        if let Some(visible) = &readable.visible {
            batch = filter_record_batch(&batch, &visible.slice(at, rows))?;
        }
        if let Some(predicate) = &self.predicate {
            let rows = batch.num_rows();
            let passed = predicate.evaluate(&batch)?.into_array(rows)?;
            let Some(passed) = passed.as_boolean_opt() else {
                return internal_err!("a predicate is not boolean");
            };
            if passed.true_count() < rows {
                batch = filter_record_batch(&batch, passed)?;
            }
        }
        if self.output.len() == self.needed.len() && self.output.is_sorted() {
            return Ok(batch);
        }
        Ok(batch.project(&self.output)?)
    }
}

/// The values of a system column for rows of a log that follow each other.
fn system_column(
    column: SystemColumn,
    bucket: PartitionBucket,
    hot: &HotBatch,
    at: usize,
    rows: usize,
) -> Result<ArrayRef> {
    Ok(match column {
        SystemColumn::Kind => match hot.kinds() {
            None => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(ChangeKind::Append.symbol(), rows))),
            Some(kinds) => {
                let symbol = |code: &u8| ChangeKind::from_code(*code).map(ChangeKind::symbol);
                Arc::new(kinds.values()[at..at + rows].iter().map(symbol).collect::<StringArray>())
            }
        },
        SystemColumn::Bucket => Arc::new(Int32Array::from(vec![bucket.bucket.0 as i32; rows])),
        SystemColumn::Offset => {
            let first = hot.first.plus(at as u64).0 as i64;
            Arc::new(Int64Array::from_iter_values(first..first + rows as i64))
        }
        SystemColumn::Timestamp => {
            let values = TimestampMicrosecondArray::from_iter_values(hot.stamps.slice(at, rows).values());
            let zone = match column.arrow() {
                DataType::Timestamp(_, zone) => zone,
                _ => None,
            };
            Arc::new(values.with_timezone_opt(zone))
        }
    })
}
