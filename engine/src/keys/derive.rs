//! From a request's rows to the changelog, as Apache Fluss defines it, row by row in the request's order:
//!
//! | | key had no row | key had a row |
//! |---|---|---|
//! | upsert, `changelog = full` | `+I` new | `-U` old, `+U` new: two offsets, always adjacent |
//! | upsert, `changelog = upsert` | `+U` new | `+U` new |
//! | delete | nothing | `-D` old |
//!
//! A second row of a key in one request meets the first one's outcome. An upsert that changes nothing is an update all
//! the same.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt8Array, UInt64Array};
use arrow::compute::interleave;
use arrow::datatypes::DataType;
use thermocline_schemas::{
    ChangeKind, Changelog, Code, Error, Offset, PartitionBucket, Result, fixed_width, slice_bytes,
};

use super::{Change, Effects, KeyHash, Keys, Overlay};
use crate::bucket::BucketLog;
use crate::cold::Fetched;
use crate::engine::REQUEST_BYTES_MAX;
use crate::faults::{self, Defect};
use crate::table::Table;

/// A frame may be larger than its request, by the old rows that it repeats; not by more than this.
pub const DERIVED_BYTES_MAX: u64 = 4 * REQUEST_BYTES_MAX;

/// The rows of one request that belong to one bucket.
#[derive(Debug)]
pub struct Share {
    pub bucket: PartitionBucket,
    pub rows: RecordBatch,
    pub changes: Vec<Change>,
    pub keys: Vec<KeyHash>,
    /// The group of each key; empty if keys are not grouped.
    pub groups: Vec<KeyHash>,
    /// See [`super::ChangeRows::expecting`].
    pub expected: Option<Vec<Offset>>,
}

/// What a share comes to.
#[derive(Debug)]
pub struct Derived {
    pub bucket: PartitionBucket,
    /// Rows of the log, with their change columns; maybe none.
    pub rows: RecordBatch,
    pub effects: Effects,
}

/// One row of the log in the making.
struct Outcome {
    kind: ChangeKind,
    row: Source,
    ends: Option<Offset>,
}

#[derive(Clone, Copy)]
enum Source {
    /// A row of the share.
    Given(usize),
    /// The row of the log at this offset, which may be one of those in the making.
    Old(Offset),
}

/// Where old rows are.
#[derive(Clone, Copy)]
pub struct OldRows<'a> {
    pub overlay: &'a Overlay,
    pub log: &'a BucketLog,
    pub fetched: &'a Fetched,
}

/// Derives the changes of a share, which has the table's columns, and whose first change will stand at `base`.
/// `OffsetOutOfRetention` if an old row is neither hot nor among those that were fetched.
pub fn derive(table: &Table, share: &Share, base: Offset, keys: &Keys, old_rows: OldRows<'_>) -> Result<Derived> {
    let changelog = table.descriptor().properties.changelog;
    let bucket = share.bucket;
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(share.keys.len() * 2);
    // Of each key that is touched, with the row that touched it last.
    let mut newest: HashMap<KeyHash, (Option<Offset>, usize)> = HashMap::with_capacity(share.keys.len());
    let indexed = keys.index(bucket)?.find(&share.keys);
    for (row, (key, indexed)) in share.keys.iter().zip(indexed).enumerate() {
        let own = newest.get(key).map(|(place, _)| *place).filter(|_| !faults::planted(Defect::RequestNotFolded));
        let under_way = || old_rows.overlay.get(bucket, *key).filter(|_| !faults::planted(Defect::OverlayIgnored));
        let old = own.or_else(under_way).unwrap_or(indexed);
        let expected = share.expected.as_ref().filter(|_| !faults::planted(Defect::PlaceUnchecked));
        if expected.is_some_and(|expected| old != Some(expected[row])) {
            return Err(Error::new(
                Code::WriteConflict,
                "rows were changed by others after the statement had read them",
            )
            .with_hint("run it again"));
        }
        let mut emit = |kind, row, ends| outcomes.push(Outcome { kind, row, ends });
        match (share.changes[row], old, changelog) {
            (Change::Upsert, None, Changelog::Full) => emit(ChangeKind::Insert, Source::Given(row), None),
            (Change::Upsert, Some(old), Changelog::Full) => {
                let before = if faults::planted(Defect::OldRowIsNew) { Source::Given(row) } else { Source::Old(old) };
                emit(ChangeKind::UpdateBefore, before, None);
                emit(ChangeKind::UpdateAfter, Source::Given(row), Some(old));
            }
            (Change::Upsert, old, Changelog::Upsert) => emit(ChangeKind::UpdateAfter, Source::Given(row), old),
            (Change::Delete, Some(old), _) => emit(ChangeKind::Delete, Source::Old(old), Some(old)),
            (Change::Delete, None, _) => continue,
        }
        let place = (share.changes[row] == Change::Upsert).then(|| base.plus(outcomes.len() as u64 - 1));
        newest.insert(*key, (place, row));
    }
    let rows = gather(table, share, base, &outcomes, old_rows)?;
    let mut effects = Effects::default();
    for (key, (place, row)) in newest {
        effects.keys.push((key, place));
        effects.groups.extend(share.groups.get(row));
    }
    Ok(Derived { bucket, rows, effects })
}

/// The outcomes as rows of the log.
fn gather(
    table: &Table,
    share: &Share,
    base: Offset,
    outcomes: &[Outcome],
    old_rows: OldRows<'_>,
) -> Result<RecordBatch> {
    let OldRows { overlay, log, fetched } = old_rows;
    // Where each row comes from: a batch and a row in it. Batch 0 is the share's own, batch 1 what was fetched.
    let cold = fetched.rows(share.bucket);
    let mut batches: Vec<_> = std::iter::once(&share.rows).chain(cold).cloned().collect();
    let mut known: HashMap<*const ArrayRef, usize> = HashMap::new();
    let mut picks = Vec::with_capacity(outcomes.len());
    let mut in_log = Vec::new();
    for outcome in outcomes {
        picks.push(match outcome.row {
            Source::Given(row) => (0, row),
            Source::Old(old) if old >= base => match outcomes[old.since(base) as usize].row {
                Source::Given(row) => (0, row),
                Source::Old(_) => return Err(Error::internal("a key whose newest row is an old row")),
            },
            Source::Old(old) => match overlay.row(share.bucket, old) {
                Some((rows, row)) => {
                    let batch = *known.entry(rows.columns().as_ptr()).or_insert_with(|| {
                        batches.push(rows.clone());
                        batches.len() - 1
                    });
                    (batch, row)
                }
                None => match fetched.place(share.bucket, old) {
                    Some(row) => (1, row),
                    None => {
                        in_log.push((picks.len(), old));
                        (0, 0)
                    }
                },
            },
        });
    }
    let first = batches.len();
    let (found, places) = log.batches_at(in_log.iter().map(|(_, old)| *old))?;
    batches.extend(found);
    for ((pick, _), (batch, row)) in in_log.into_iter().zip(places) {
        picks[pick] = (first + batch, row);
    }
    table.in_own_columns(1, &mut batches, &mut picks)?;
    let own = share.rows.num_columns();
    check_size(&batches, own, &picks)?;
    let mut columns = Vec::with_capacity(own + 2);
    for column in 0..own {
        let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        columns.push(interleave(&arrays, &picks)?);
    }
    columns.push(Arc::new(UInt8Array::from_iter_values(outcomes.iter().map(|outcome| outcome.kind.code()))));
    columns.push(Arc::new(UInt64Array::from_iter(outcomes.iter().map(|outcome| outcome.ends.map(|ends| ends.0)))));
    Ok(RecordBatch::try_new(table.log_schema().clone(), columns)?)
}

/// Old rows may be much larger than the deletes that name them: known before they are copied.
fn check_size(batches: &[RecordBatch], columns: usize, picks: &[(usize, usize)]) -> Result<()> {
    let mut bytes = 0;
    for column in 0..columns {
        if batches[0].column(column).data_type().is_nested() {
            // Each pick by itself: what a row of lists takes is known only by looking.
            let row_bytes =
                |(batch, row): &(usize, usize)| slice_bytes(&batches[*batch].column(column).slice(*row, 1)) as u64;
            bytes += picks.iter().map(row_bytes).sum::<u64>();
            continue;
        }
        let lengths: Option<Vec<&[i32]>> = batches
            .iter()
            .map(|batch| {
                let values = batch.column(column);
                match values.data_type() {
                    DataType::Utf8 => Some(values.as_string::<i32>().value_offsets()),
                    DataType::Binary => Some(values.as_binary::<i32>().value_offsets()),
                    _ => None,
                }
            })
            .collect();
        bytes += match lengths {
            Some(lengths) => {
                picks.iter().map(|(batch, row)| (lengths[*batch][row + 1] - lengths[*batch][*row]) as u64).sum()
            }
            None => picks.len() as u64 * fixed_width(batches[0].column(column).data_type()).unwrap_or(1) as u64,
        };
    }
    if bytes > DERIVED_BYTES_MAX {
        return Err(Error::new(
            Code::RequestTooLarge,
            format!(
                "with the old rows it replaces the request comes to {bytes} bytes, {DERIVED_BYTES_MAX} are the most"
            ),
        )
        .with_hint("change fewer rows at once"));
    }
    Ok(())
}
