//! INSERT: a query whose rows are made to fit the table and appended as one frame.
//!
//! Always: all rows or none; a row that does not fit is named with its column and value, and nothing is written.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;
use thermocline_engine::{REQUEST_BYTES_MAX, Sender, Table};
use thermocline_schemas::text::conform;
use thermocline_schemas::{Code, Error, Result};

use crate::assign::assign;
use crate::errors::from_datafusion;
use crate::query::Fractions;
use crate::sql::{Sql, SqlRequest};

impl Sql {
    /// Appends the rows of `source`; `columns` are those that it fills, none for all.
    pub(crate) async fn insert(
        &self,
        table: &Arc<Table>,
        columns: &[String],
        source: Box<ast::Query>,
        names_system_columns: bool,
        request: &SqlRequest,
    ) -> Result<u64> {
        let targets = targets(table, columns)?;
        let mut batches =
            self.stream(source, None, names_system_columns, request, Fractions::Decimals, Arc::default()).await?;
        let found = batches.schema().fields().len();
        if found != targets.len() {
            let message = format!("{found} values for {} columns", targets.len());
            return Err(Error::new(Code::InvalidSql, message).with_hint("name the columns: INSERT INTO t (a, b) …"));
        }
        let mut fitted = Vec::new();
        let (mut rows, mut bytes) = (0u64, 0u64);
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(from_datafusion)?;
            let batch = fit(table, &targets, &batch).map_err(|error| match error.row() {
                Some(row) => error.with_row(rows + row),
                None => error,
            })?;
            rows += batch.num_rows() as u64;
            bytes += batch.columns().iter().map(sliced_bytes).sum::<u64>();
            if bytes > REQUEST_BYTES_MAX {
                let message = format!("the rows to insert take more than {REQUEST_BYTES_MAX} bytes");
                return Err(Error::new(Code::RequestTooLarge, message)
                    .with_hint("insert by ranges of a key, or use `thermocline load` for a file"));
            }
            fitted.push(batch);
        }
        let all = concat_batches(table.schema(), &fitted)?;
        let answer = self.engine().append(table, all, Sender::default()).await?;
        Ok(answer.rows)
    }
}

/// The places of the columns to fill, in the order of the values.
fn targets(table: &Table, columns: &[String]) -> Result<Vec<usize>> {
    let schema = &table.descriptor().schema;
    if columns.is_empty() {
        return Ok((0..schema.columns().len()).collect());
    }
    let mut targets = Vec::with_capacity(columns.len());
    for name in columns {
        let place = schema.columns().iter().position(|column| column.name.as_str() == name);
        let place = place.ok_or_else(|| {
            Error::new(Code::UnknownColumn, format!("table {} has no column {name}", table.descriptor().name))
                .with_column(name)
        })?;
        if targets.contains(&place) {
            return Err(Error::new(Code::InvalidSql, format!("column {name} is named twice")).with_column(name));
        }
        targets.push(place);
    }
    let missing =
        schema.columns().iter().enumerate().find(|(place, column)| !column.nullable && !targets.contains(place));
    match missing {
        Some((_, column)) => {
            Err(Error::new(Code::InvalidRow, format!("column {} is NOT NULL and gets no value", column.name))
                .with_column(column.name.as_str()))
        }
        None => Ok(targets),
    }
}

/// A batch of values as rows of the table.
fn fit(table: &Table, targets: &[usize], batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = &table.descriptor().schema;
    let mut arrays = Vec::with_capacity(targets.len());
    for (place, array) in targets.iter().zip(batch.columns()) {
        let column = &schema.columns()[*place];
        arrays.push((column.name.as_str(), assign(column, array)?));
    }
    // Only the names matter now: conform checks the rest.
    let batch = crate::system::batch(arrays.into_iter().map(|(name, array)| (name, true, array)).collect())?;
    conform(schema, &batch)
}

fn sliced_bytes(array: &ArrayRef) -> u64 {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()) as u64
}
