//! A request to a primary-key table: rows, and for each whether it is to be there or to go.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use thermocline_schemas::{CHANGE_COLUMN, Code, Column, DeleteBehavior, Error, Offset, Result, TableDescriptor};

use crate::rows_digest::rows_digest;
use crate::writers::Digest;

/// What is wanted of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Upsert,
    /// Only the key counts.
    Delete,
}

impl Change {
    /// As clients spell it.
    pub fn named(name: &str) -> Option<Change> {
        match name {
            "upsert" => Some(Change::Upsert),
            "delete" => Some(Change::Delete),
            _ => None,
        }
    }
}

/// Checked rows of a primary-key table, in the order in which they are to be applied.
#[derive(Clone, Debug)]
pub struct ChangeRows {
    /// The table's columns. In a row that is deleted, those outside the key may be null though the table's may not.
    pub(super) rows: RecordBatch,
    pub(super) changes: Vec<Change>,
    /// Deletes that the table's rules skip.
    pub(super) ignored: u64,
    /// Where the row stands that each is a change of; if it stands elsewhere by then, nothing of the request is done.
    pub(super) expected: Option<Vec<Offset>>,
}

impl ChangeRows {
    /// Rows that have the columns of [`thermocline_schemas::TableSchema::for_changes`]; where `__change` is null it is
    /// `otherwise`.
    pub fn from_upload(table: &TableDescriptor, rows: &RecordBatch, otherwise: Change) -> Result<ChangeRows> {
        let own = table.schema.columns().len();
        let named = named_changes(table, rows)?;
        let changes = (0..rows.num_rows()).map(|row| change(named, row, otherwise)).collect::<Result<_>>()?;
        let places: Vec<_> = (0..own).collect();
        ChangeRows::new(table, rows.project(&places)?, changes)
    }

    /// Adds what is wrong with those of these rows that [`ChangeRows::from_upload`] would refuse, and says which are to go.
    pub fn wrong(
        table: &TableDescriptor,
        rows: &RecordBatch,
        otherwise: Change,
        deletes: &mut [bool],
        wrong: &mut BTreeMap<usize, Error>,
    ) -> Result<()> {
        let named = named_changes(table, rows)?;
        for (row, is_delete) in deletes.iter_mut().enumerate() {
            match change(named, row, otherwise) {
                Ok(change) => *is_delete = change == Change::Delete,
                Err(error) => drop(wrong.insert(row, error)),
            }
            if *is_delete && table.properties.delete_behavior == DeleteBehavior::Refuse {
                wrong.insert(row, no_deletes(table, row));
            }
        }
        for (column, values) in table.schema.columns().iter().zip(rows.columns()) {
            if column.nullable || values.null_count() == 0 {
                continue;
            }
            let is_key = table.key.contains(&column.id);
            for row in (0..rows.num_rows()).filter(|row| values.is_null(*row) && (is_key || !deletes[*row])) {
                wrong.entry(row).or_insert_with(|| lacks(column, row));
            }
        }
        Ok(())
    }

    /// All rows are to be there. They have the table's columns.
    pub fn upserts(table: &TableDescriptor, rows: RecordBatch) -> Result<ChangeRows> {
        let changes = vec![Change::Upsert; rows.num_rows()];
        ChangeRows::new(table, rows, changes)
    }

    /// Rows with one change each. Checks what nullable columns let through, and what the table says of deletes.
    pub fn new(table: &TableDescriptor, rows: RecordBatch, changes: Vec<Change>) -> Result<ChangeRows> {
        if changes.len() != rows.num_rows() || rows.num_columns() != table.schema.columns().len() {
            return Err(Error::internal("changes that do not fit their rows"));
        }
        for (column, values) in table.schema.columns().iter().zip(rows.columns()) {
            if column.nullable || values.null_count() == 0 {
                continue;
            }
            let missing = (0..changes.len()).find(|row| {
                values.is_null(*row) && (changes[*row] == Change::Upsert || table.key.contains(&column.id))
            });
            if let Some(row) = missing {
                return Err(lacks(column, row));
            }
        }
        let first_delete = changes.iter().position(|change| *change == Change::Delete);
        match (first_delete, table.properties.delete_behavior) {
            (Some(row), DeleteBehavior::Refuse) => Err(no_deletes(table, row)),
            (Some(_), DeleteBehavior::Ignore) => {
                let kept: Vec<bool> = changes.iter().map(|change| *change == Change::Upsert).collect();
                let rows = arrow::compute::filter_record_batch(&rows, &kept.clone().into())?;
                let ignored = (kept.len() - rows.num_rows()) as u64;
                Ok(ChangeRows { changes: vec![Change::Upsert; rows.num_rows()], rows, ignored, expected: None })
            }
            _ => Ok(ChangeRows { rows, changes, ignored: 0, expected: None }),
        }
    }

    /// To be done only if the newest rows of the keys are those at these offsets.
    pub fn expecting(mut self, offsets: Vec<Offset>) -> Result<ChangeRows> {
        if self.rows.num_rows() > 0 && offsets.len() != self.rows.num_rows() {
            return Err(Error::internal("expected places that do not fit their rows"));
        }
        self.expected = Some(offsets).filter(|_| self.rows.num_rows() > 0);
        Ok(self)
    }

    /// By what a repeat is known.
    pub fn digest(&self, table: &TableDescriptor) -> Result<Digest> {
        let deletes: Vec<_> = self.changes.iter().map(|change| u8::from(*change == Change::Delete)).collect();
        rows_digest(&self.rows, table.schema.columns(), &deletes)
    }

    pub fn expected(&self) -> Option<&[Offset]> {
        self.expected.as_deref()
    }

    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub fn ignored(&self) -> u64 {
        self.ignored
    }
}

/// What rows of an upload say is wanted of them.
fn named_changes<'r>(table: &TableDescriptor, rows: &'r RecordBatch) -> Result<&'r StringArray> {
    let own = table.schema.columns().len();
    let named = rows.columns().get(own).and_then(|column| column.as_string_opt::<i32>());
    let named = named.filter(|_| rows.num_columns() == own + 1);
    named.ok_or_else(|| Error::internal("rows of changes without their last column"))
}

fn change(named: &StringArray, row: usize, otherwise: Change) -> Result<Change> {
    if named.is_null(row) {
        return Ok(otherwise);
    }
    Change::named(named.value(row)).ok_or_else(|| {
        Error::new(Code::InvalidRow, format!("{CHANGE_COLUMN} must be upsert or delete"))
            .with_row(row as u64)
            .with_column(CHANGE_COLUMN)
            .with_value(named.value(row))
    })
}

fn lacks(column: &Column, row: usize) -> Error {
    Error::new(Code::InvalidRow, format!("column {} is NOT NULL", column.name))
        .with_row(row as u64)
        .with_column(column.name.as_str())
        .with_value("null")
}

fn no_deletes(table: &TableDescriptor, row: usize) -> Error {
    Error::new(Code::InvalidRow, format!("table {} takes no deletes", table.name))
        .with_row(row as u64)
        .with_hint("its delete_behavior is refuse")
}
