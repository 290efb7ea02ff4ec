//! The columns of a relation, as both legs and the planner know them.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use thermocline_schemas::{ColumnType, FieldId, SystemColumn, TableSchema};

/// Where a column of a relation comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanColumn {
    /// The user's column of this place.
    User(usize),
    System(SystemColumn),
}

/// The columns of a relation in order, with the schema that they make.
///
/// Fields carry no field ids: those are for files, and an answer's column is no longer the table's.
#[derive(Clone, Debug)]
pub(crate) struct ScanColumns {
    columns: Arc<Vec<ScanColumn>>,
    schema: SchemaRef,
    /// By place in the relation; none for what the lake does not hold.
    field_ids: Arc<Vec<Option<FieldId>>>,
    /// By place in the relation: the type of a nested column with the field ids inside it; none for all others.
    nested: Arc<Vec<Option<DataType>>>,
}

impl ScanColumns {
    /// Which system columns stand before and after the user's.
    pub(crate) fn new(table: &TableSchema, before: &[SystemColumn], after: &[SystemColumn]) -> ScanColumns {
        let user = (0..table.columns().len()).map(ScanColumn::User);
        let columns: Vec<_> = before
            .iter()
            .map(|column| ScanColumn::System(*column))
            .chain(user)
            .chain(after.iter().map(|column| ScanColumn::System(*column)))
            .collect();
        let field = |column: &ScanColumn| match column {
            ScanColumn::User(place) => table.columns()[*place].field(ColumnType::arrow),
            ScanColumn::System(column) => column.field(),
        };
        let nested = |column: &ScanColumn| match column {
            ScanColumn::User(place) => Some(&table.columns()[*place].column_type)
                .filter(|column_type| column_type.is_nested())
                .map(ColumnType::log_arrow),
            ScanColumn::System(_) => None,
        };
        let field_id = |column: &ScanColumn| match column {
            ScanColumn::User(place) => Some(table.columns()[*place].id),
            ScanColumn::System(column) => table.system_id(*column),
        };
        ScanColumns {
            schema: Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>())),
            field_ids: Arc::new(columns.iter().map(field_id).collect()),
            nested: Arc::new(columns.iter().map(nested).collect()),
            columns: Arc::new(columns),
        }
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(crate) fn get(&self, place: usize) -> ScanColumn {
        self.columns[place]
    }

    pub(crate) fn field_id(&self, place: usize) -> Option<FieldId> {
        self.field_ids[place]
    }

    /// The type of a nested column, with field ids inside it.
    pub(crate) fn nested(&self, place: usize) -> Option<&DataType> {
        self.nested[place].as_ref()
    }

    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }
}
