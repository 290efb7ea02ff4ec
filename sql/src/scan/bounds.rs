//! Pruning before anything is opened: files and hot pieces whose bounds rule a predicate out.
//!
//! Always: a container is dropped only if no row of it can pass. A bound that is not known keeps it. Bounds of floats
//! leave NaN out, while comparisons rank NaN above every number, so they count only where there is no NaN.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicate;
use thermocline_engine::HotRows;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{
    ColumnType, FieldId, Offset, PartitionBucket, PartitionId, SystemColumn, TableDescriptor, partition_bounds,
};
use thermocline_tiering::CutFile;

use super::{ScanColumn, ScanColumns};

/// Rows that are read or left together, with bounds on their values.
pub(super) trait Container {
    fn rows(&self) -> u64;
    fn bound(&self, columns: &ScanColumns, place: usize, upper: bool) -> Option<ArrayRef>;
    fn nulls(&self, columns: &ScanColumns, place: usize) -> Option<u64>;
}

/// Which containers may hold rows that pass.
pub(super) fn surviving<C: Container>(
    containers: &[C],
    columns: &ScanColumns,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
) -> Vec<bool> {
    let all = vec![true; containers.len()];
    let Some(predicate) = predicate else { return all };
    // A predicate that cannot be judged by bounds prunes nothing.
    let Ok(pruning) = PruningPredicate::try_new(predicate.clone(), columns.schema().clone()) else { return all };
    pruning.prune(&Statistics { containers, columns }).unwrap_or(all)
}

struct Statistics<'a, C> {
    containers: &'a [C],
    columns: &'a ScanColumns,
}

impl<C: Container> Statistics<'_, C> {
    fn bounds(&self, column: &Column, upper: bool) -> Option<ArrayRef> {
        let place = self.columns.schema().index_of(column.name()).ok()?;
        let data_type = self.columns.schema().field(place).data_type();
        let bound = |container: &C| {
            let bound = container.bound(self.columns, place, upper)?;
            ScalarValue::try_from_array(&bound, 0).ok()?.cast_to(data_type).ok()
        };
        let null = ScalarValue::try_from(data_type).ok()?;
        let values = self.containers.iter().map(|container| bound(container).unwrap_or_else(|| null.clone()));
        ScalarValue::iter_to_array(values).ok()
    }
}

impl<C: Container> PruningStatistics for Statistics<'_, C> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, false)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, true)
    }

    fn num_containers(&self) -> usize {
        self.containers.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let place = self.columns.schema().index_of(column.name()).ok()?;
        let nulls = self.containers.iter().map(|container| container.nulls(self.columns, place));
        Some(Arc::new(nulls.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.containers.iter().map(|container| Some(container.rows())).collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn is_float(schema: &SchemaRef, place: usize) -> bool {
    matches!(schema.field(place).data_type(), DataType::Float32 | DataType::Float64)
}

/// Whether some file may hold a NaN in one of these float columns: then statistics within files mislead too.
pub(super) fn may_have_nan(files: &[CutFile], columns: &ScanColumns) -> bool {
    let floats = (0..columns.len()).filter(|place| is_float(columns.schema(), *place));
    let ids: Vec<_> = floats.filter_map(|place| columns.field_id(place)).collect();
    files.iter().any(|cut| ids.iter().any(|id| cut.file.nan_count(*id) != Some(0)))
}

impl Container for CutFile {
    /// With those that are hidden: bounds and counts are of all of them.
    fn rows(&self) -> u64 {
        self.file.rows
    }

    fn bound(&self, columns: &ScanColumns, place: usize, upper: bool) -> Option<ArrayRef> {
        let id = columns.field_id(place)?;
        if is_float(columns.schema(), place) && self.file.nan_count(id) != Some(0) {
            return None;
        }
        if upper && !faults::planted(Defect::FileRuledOut) {
            self.file.upper_bound(id)
        } else {
            self.file.lower_bound(id)
        }
    }

    fn nulls(&self, columns: &ScanColumns, place: usize) -> Option<u64> {
        self.file.null_count(columns.field_id(place)?)
    }
}

/// Consecutive hot rows of one bucket.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub bucket: PartitionBucket,
    pub rows: HotRows,
    /// Where the bucket ends for this read.
    pub end: Offset,
    /// What its partition says of its rows, if the table has partitions.
    pub partition: Option<Arc<ColumnBounds>>,
}

/// Between which values columns lie, by their place.
#[derive(Debug, Default)]
pub(super) struct ColumnBounds(HashMap<usize, ColumnBound>);

#[derive(Debug)]
struct ColumnBound {
    lower: Option<ArrayRef>,
    upper: Option<ArrayRef>,
    all_null: bool,
}

/// What partitions say of the columns that they are made of, each told once.
pub(super) struct PartitionBounds<'a> {
    descriptor: &'a TableDescriptor,
    /// The fields whose columns are there, with the columns' places.
    fields: Vec<(usize, usize, &'a ColumnType)>,
    last: Option<(PartitionId, Arc<ColumnBounds>)>,
}

impl<'a> PartitionBounds<'a> {
    pub(super) fn of(descriptor: &'a TableDescriptor, columns: &ScanColumns) -> PartitionBounds<'a> {
        let place = |id: FieldId| (0..columns.len()).find(|place| columns.field_id(*place) == Some(id));
        let fields = descriptor.partitioning.iter().enumerate().filter_map(|(number, field)| {
            let own = descriptor.schema.columns().iter().find(|column| column.id == field.source)?;
            Some((number, place(field.source)?, &own.column_type))
        });
        PartitionBounds { descriptor, fields: fields.collect(), last: None }
    }

    /// None where the table has no partitions, or this version of it has not heard of this one.
    pub(super) fn get(&mut self, id: PartitionId) -> Option<Arc<ColumnBounds>> {
        if let Some((_, known)) = self.last.as_ref().filter(|(known, _)| *known == id) {
            return Some(known.clone());
        }
        let values = self.descriptor.partitions.get(id.0 as usize)?;
        let mut bounds = HashMap::new();
        for (number, place, column_type) in &self.fields {
            let value = values.get(*number)?;
            let (lower, upper) = partition_bounds(self.descriptor.partitioning[*number].transform, value, column_type);
            let of =
                bounds.entry(*place).or_insert(ColumnBound { lower: None, upper: None, all_null: value.is_none() });
            // Of one column made into two things, either says something.
            of.lower = of.lower.take().or(lower);
            of.upper = of.upper.take().or(upper);
        }
        let bounds = Arc::new(ColumnBounds(bounds));
        self.last = Some((id, bounds.clone()));
        Some(bounds)
    }
}

impl Container for Piece {
    fn rows(&self) -> u64 {
        self.rows.count()
    }

    fn bound(&self, columns: &ScanColumns, place: usize, upper: bool) -> Option<ArrayRef> {
        let value = match columns.get(place) {
            ScanColumn::System(SystemColumn::Bucket) => {
                ScalarValue::Int32(Some(i32::try_from(self.bucket.bucket.0).ok()?))
            }
            ScanColumn::System(SystemColumn::Offset) => {
                let past = if faults::planted(Defect::UpperBoundExclusive) { 2 } else { 1 };
                let bound = if upper { self.rows.to().0.saturating_sub(past) } else { self.rows.from().0 };
                ScalarValue::Int64(Some(i64::try_from(bound).ok()?))
            }
            _ => {
                let bound = self.partition.as_ref()?.0.get(&place)?;
                let upper = upper && !faults::planted(Defect::PartitionRuledOut);
                return if upper { bound.upper.clone() } else { bound.lower.clone() };
            }
        };
        value.to_array().ok()
    }

    fn nulls(&self, columns: &ScanColumns, place: usize) -> Option<u64> {
        let of_partition = |bound: &ColumnBound| if bound.all_null { self.rows.count() } else { 0 };
        match columns.get(place) {
            ScanColumn::System(_) => Some(0),
            _ => self.partition.as_ref()?.0.get(&place).map(of_partition),
        }
    }
}
