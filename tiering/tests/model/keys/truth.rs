//! What is right, told from the log alone, change by change: by this everybody else is judged.

use super::scope::{Scope, Wish};
use super::state::*;

/// Where the newest row of each key stands after these rows.
pub fn places(rows: &[Change]) -> Places {
    let mut places = [None; KEYS];
    for (offset, change) in rows.iter().enumerate() {
        match change.kind {
            Kind::Insert | Kind::After => places[usize::from(change.key)] = Some(offset as Offset),
            Kind::Delete => places[usize::from(change.key)] = None,
            Kind::Before => {}
        }
    }
    places
}

/// The offsets of the rows that live after these.
pub fn living(rows: &[Change]) -> Offsets {
    places(rows).into_iter().flatten().map(bit).sum()
}

/// The changes that a request makes of one bucket's rows.
pub fn changes(scope: &Scope, number: usize, bucket: usize, rows: &[Change]) -> Vec<Change> {
    let mut log = rows.to_vec();
    for (place, (key, wish)) in scope.requests[number].changes.iter().enumerate() {
        if scope.buckets[usize::from(*key)] == bucket {
            let old = places(&log)[usize::from(*key)];
            let told = old.map(|old| log[usize::from(old)].row);
            log.extend(outcomes(*key, *wish, row_of(number, place), old.zip(told), scope.brief));
        }
    }
    log.split_off(rows.len())
}

/// The changes that one row of a request comes to. `old`: where the key's row stands, and the row.
pub fn outcomes(key: Key, wish: Wish, row: Row, old: Option<(Offset, Row)>, brief: bool) -> Vec<Change> {
    let change = |kind, row, ends| Change { kind, key, row, ends };
    match (wish, old) {
        (Wish::Upsert, old) if brief => vec![change(Kind::After, row, old.map(|(at, _)| at))],
        (Wish::Upsert, None) => vec![change(Kind::Insert, row, None)],
        (Wish::Upsert, Some((at, old))) => vec![change(Kind::Before, old, None), change(Kind::After, row, Some(at))],
        (Wish::Delete, Some((at, old))) => vec![change(Kind::Delete, old, Some(at))],
        (Wish::Delete, None) => Vec::new(),
    }
}

pub fn row_of(request: usize, place: usize) -> Row {
    (request * 4 + place) as Row
}

/// The ends of a bucket that are cuts, ascending: a frame is in or out.
pub fn cuts<'f>(frames: impl Iterator<Item = &'f Frame>, bucket: usize) -> Vec<Offset> {
    let ends = frames.filter_map(|frame| frame.part(bucket)).map(Part::end);
    std::iter::once(0).chain(ends).collect()
}
