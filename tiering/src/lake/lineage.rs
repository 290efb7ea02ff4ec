//! Row lineage of format version 3: which row it is (`_row_id`), and which commit wrote it (`_last_updated_sequence_number`).
//!
//! Rows that a round writes have neither as a column: the id is the file's first one plus the row's position, the number is
//! the file's data sequence number. Rows that are written anew keep both, so their file has them as columns, under the
//! field ids that Iceberg keeps for them, and where a value is null it is told as for all others. A row has no id before
//! the table's first snapshot in format version 3; the null that stands for it gets one by the commit, as a new row does.
//!
//! Readers of ours go by the field ids of the table's columns and never see these.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use thermocline_schemas::{Error, FIELD_ID_KEY, FieldId, Result};

use super::LakeFile;

/// Iceberg's ids of the two columns.
pub(super) const ROW_ID: FieldId = FieldId(i32::MAX - 107);
pub(super) const LAST_UPDATED: FieldId = FieldId(i32::MAX - 108);

const NAMES: [(FieldId, &str); 2] = [(ROW_ID, "_row_id"), (LAST_UPDATED, "_last_updated_sequence_number")];

/// Whether this is one of the two columns.
pub(super) fn is_lineage(id: FieldId) -> bool {
    NAMES.iter().any(|(own, _)| *own == id)
}

/// The columns of a file of rows that are written anew in format version 3: all others, then these two.
pub(super) fn with_lineage(schema: &SchemaRef) -> SchemaRef {
    let lineage = NAMES.map(|(id, name)| {
        // A user may have a column of that name. Readers go by the id, and no user's column begins like this.
        let is_taken = schema.fields().iter().any(|field| field.name().eq_ignore_ascii_case(name));
        let name = if is_taken { format!("_{name}") } else { name.to_owned() };
        let metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]);
        Arc::new(Field::new(name, DataType::Int64, true).with_metadata(metadata))
    });
    Arc::new(Schema::new(schema.fields().iter().cloned().chain(lineage).collect::<Vec<_>>()))
}

/// The two columns of rows of `file` that stand at these positions; `stored` finds what the file itself says of them.
pub(super) fn lineage<'b>(
    file: &LakeFile,
    positions: &[u64],
    stored: impl Fn(FieldId) -> Option<&'b ArrayRef>,
) -> Result<[ArrayRef; 2]> {
    let id = |row: usize| file.first_row_id.map(|first| (first + positions[row]) as i64);
    let ids = complete(file, stored(ROW_ID), positions.len(), id)?;
    let numbers = complete(file, stored(LAST_UPDATED), positions.len(), |_| Some(file.data_sequence))?;
    Ok([Arc::new(ids), Arc::new(numbers)])
}

/// What is stored, and where that is nothing what is inherited.
fn complete(
    file: &LakeFile,
    stored: Option<&ArrayRef>,
    rows: usize,
    inherited: impl Fn(usize) -> Option<i64>,
) -> Result<Int64Array> {
    let Some(stored) = stored else { return Ok((0..rows).map(inherited).collect()) };
    let stored = stored.as_primitive_opt::<Int64Type>();
    let stored = stored.ok_or_else(|| Error::corrupt(format!("{} has lineage columns of another type", file.url)))?;
    Ok((0..rows).map(|row| if stored.is_null(row) { inherited(row) } else { Some(stored.value(row)) }).collect())
}
