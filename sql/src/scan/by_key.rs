//! Lookups instead of scans: filters that name every column of the primary key find their rows by the key index.
//!
//! `id = 1`, `id IN (1, 2)`, and for a key of several columns one of these for each. Filters stay where they are, so what
//! is found here need only hold all rows that pass.
//!
//! Always: the rows are those of the split's own cut. Where keys have changed since it was drawn, and the index cannot
//! tell any more, the scan reads everything.
//!
//! A row's offset says in which tier it is: below the boundary of the split it is in the lake, and lives there, for a row
//! that the index leads to was not ended.

use std::collections::BTreeMap;

use datafusion::arrow::array::{ArrayRef, UInt32Array, new_empty_array};
use datafusion::arrow::compute::take;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Offset, PartitionBucket};
use thermocline_tiering::{CutFile, HotPart, ReadSplit};

/// More keys than this are scanned for.
const KEYS_MAX: usize = 10_000;

/// The rows that may pass the filters.
pub(super) struct RowsByKey {
    pub hot: Vec<HotPart>,
    pub lake: Vec<CutFile>,
}

/// The rows that may pass the filters, if these name keys.
pub(super) async fn rows_by_key(split: &ReadSplit, filters: &[Expr]) -> Result<Option<RowsByKey>> {
    let external = |error| DataFusionError::External(Box::new(error));
    let Some(keys) = named_keys(split, filters)? else { return Ok(None) };
    faults::linger(Defect::IndexOverCut);
    let Some(places) = split.table.places_at(&keys, &split.ends).map_err(external)? else { return Ok(None) };
    let mut hot = Vec::new();
    let mut cold: BTreeMap<PartitionBucket, Vec<Offset>> = BTreeMap::new();
    for (bucket, offset) in places {
        if offset < split.tiered_end(bucket) {
            cold.entry(bucket).or_default().push(offset);
            continue;
        }
        let part = split.hot.iter().find(|part| part.bucket == bucket);
        let rows = part.and_then(|part| Some((part, part.rows.iter().find_map(|rows| rows.only(offset))?)));
        // What is not here is for the scan to find.
        let Some((part, rows)) = rows else { return Ok(None) };
        hot.push(HotPart { bucket, from: part.from, to: part.to, rows: vec![rows] });
    }
    cold.values_mut().for_each(|offsets| offsets.sort_unstable());
    let lake = split.lake_files_at(&cold).await.map_err(external)?;
    Ok(lake.map(|lake| RowsByKey { hot, lake }))
}

/// Every key that may pass: the key's columns, in the key's order.
fn named_keys(split: &ReadSplit, filters: &[Expr]) -> Result<Option<Vec<ArrayRef>>> {
    let descriptor = split.table.descriptor();
    let conditions: Vec<&Expr> = filters.iter().flat_map(split_conjunction).collect();
    let mut keys: Vec<ArrayRef> = Vec::new();
    for place in descriptor.key_places() {
        let column = &descriptor.schema.columns()[place];
        let values = conditions.iter().find_map(|condition| values_of(condition, column.name.as_str()));
        let Some(mut values) = values else { return Ok(None) };
        let wanted = column.column_type.arrow();
        // Of another type the planner compares otherwise than the index does.
        if values.iter().any(|value| value.data_type() != wanted) {
            return Ok(None);
        }
        values.retain(|value| !value.is_null());
        values.sort_by(|left, right| left.partial_cmp(right).unwrap_or(std::cmp::Ordering::Equal));
        values.dedup();
        let values = match values.is_empty() {
            true => new_empty_array(&wanted),
            false => ScalarValue::iter_to_array(values)?,
        };
        let known = keys.first().map_or(1, |column| column.len());
        if known.saturating_mul(values.len()) > KEYS_MAX {
            return Ok(None);
        }
        // Each of those so far with each of these.
        let count = values.len() as u32;
        let left =
            UInt32Array::from_iter_values((0..known as u32).flat_map(|key| std::iter::repeat_n(key, count as usize)));
        let right = UInt32Array::from_iter_values((0..known as u32).flat_map(|_| 0..count));
        keys = keys.iter().map(|column| take(column, &left, None)).collect::<Result<_, _>>()?;
        keys.push(take(&values, &right, None)?);
    }
    Ok((!keys.is_empty()).then_some(keys))
}

/// The values that a condition allows a column to have, if it says so.
fn values_of(condition: &Expr, name: &str) -> Option<Vec<ScalarValue>> {
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == name);
    let literal = |expr: &Expr| match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        _ => None,
    };
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let value = if is_column(left) { right } else { left };
            (is_column(left) || is_column(right)).then(|| literal(value)).flatten().map(|value| vec![value])
        }
        Expr::InList(list) if !list.negated && is_column(&list.expr) => list.list.iter().map(literal).collect(),
        // The planner writes short lists so.
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let mut values = values_of(left, name)?;
            values.extend(values_of(right, name)?);
            Some(values)
        }
        _ => None,
    }
}
