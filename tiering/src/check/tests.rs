//! One sound history, and for every promise one that breaks it.

use thermocline_schemas::{Offset, PartitionBucket};

use super::{AckedRange, Follower, History, Placed, Row, Rule, Violation};
use crate::{BucketStatus, Offsets};

fn at(bucket: u32, offset: u64, row: u64) -> Placed {
    Placed { bucket: PartitionBucket::unpartitioned(bucket), offset: Offset(offset), row: Row(row) }
}

fn range(bucket: u32, first: u64, end: u64) -> AckedRange {
    AckedRange { bucket: PartitionBucket::unpartitioned(bucket), first: Offset(first), end: Offset(end) }
}

fn ends(pairs: &[(u32, u64)]) -> Offsets {
    pairs.iter().map(|(bucket, end)| (PartitionBucket::unpartitioned(*bucket), Offset(*end))).collect()
}

fn rows(rows: std::ops::Range<u64>) -> Vec<Row> {
    rows.map(Row).collect()
}

/// `a` 0 is acked with rows 1-3 (two in bucket 0, one in bucket 1), `b` 0 with 11, 12 in bucket 0; `a` 1 with 4, 5 is not
/// answered; `b` 1 with 13 was refused.
fn history() -> History {
    let mut history = History::new();
    history.sent("a", 0, &rows(1..4));
    history.sent("b", 0, &rows(11..13));
    history.acked("a", 0, &[range(0, 0, 2), range(1, 0, 1)]).unwrap();
    history.acked("b", 0, &[range(0, 2, 4)]).unwrap();
    history.sent("a", 1, &rows(4..6));
    history.unknown("a", 1);
    history.sent("b", 1, &rows(13..14));
    history.refused("b", 1).unwrap();
    history
}

fn acked_rows() -> Vec<Placed> {
    vec![at(0, 0, 1), at(0, 1, 3), at(0, 2, 11), at(0, 3, 12), at(1, 0, 2)]
}

/// With the unanswered request, applied.
fn all_rows() -> Vec<Placed> {
    [acked_rows(), vec![at(0, 4, 4), at(1, 1, 5)]].concat()
}

fn read(history: &mut History, rows: Vec<Placed>) -> Result<(), Violation> {
    let floor = history.floor();
    history.read("SELECT", &floor, rows)
}

/// The rule that is broken, and whether the message says all of `parts`.
#[track_caller]
fn refused(checked: Result<(), Violation>, rule: Rule, parts: &[&str]) {
    let violation = checked.expect_err("it is broken");
    assert_eq!(violation.rule, rule, "{violation}");
    for part in parts {
        assert!(violation.message.contains(part), "{part:?} is not in {violation}");
    }
}

#[test]
fn a_sound_history_passes() {
    let mut history = history();
    read(&mut history, acked_rows()).unwrap();
    let mut follower = Follower::default();
    acked_rows().into_iter().for_each(|placed| history.followed("NDJSON", &mut follower, placed).unwrap());
    let token = follower.clone();
    read(&mut history, all_rows()).unwrap();
    let floor = history.floor();
    history.caught_up("NDJSON", &follower, &floor).unwrap_err();
    let mut resumed = token;
    history.followed("NDJSON", &mut resumed, at(1, 1, 5)).unwrap();
    history.followed("NDJSON", &mut resumed, at(0, 4, 4)).unwrap();
    history.caught_up("NDJSON", &resumed, &floor).unwrap();
    history.counted("count", &floor, 7).unwrap();
    history.lake("lake", &floor, &ends(&[(0, 4), (1, 1)]), acked_rows()).unwrap();
    let few = [at(0, 1, 3), at(0, 2, 11)];
    history.read_filtered("filter", &floor, &few, |row| [3, 11, 13].contains(&row.0)).unwrap();
    history.acked("a", 1, &[range(0, 4, 5), range(1, 1, 2)]).unwrap();
    history.acked("a", 1, &[range(0, 4, 5), range(1, 1, 2)]).unwrap();
    let totals = history.totals();
    assert_eq!((totals.acked_requests, totals.acked_rows, totals.applied_unanswered, totals.seen_rows), (3, 7, 0, 7));
}

#[test]
fn an_unanswered_request_may_be_there_or_not_but_not_half_and_stays() {
    refused(
        read(&mut history(), [acked_rows(), vec![at(0, 4, 4)]].concat()),
        Rule::Torn,
        &["1 of 2", "writer a request 1"],
    );
    let mut history = history();
    read(&mut history, all_rows()).unwrap();
    refused(read(&mut history, acked_rows()), Rule::WentBack, &["bucket 0/0 ends at 4, 5"]);
    // A refusal of the second attempt says nothing of the first; it is applied, and stays so.
    history.refused("a", 1).unwrap();
    read(&mut history, all_rows()).unwrap();
}

#[test]
fn a_lost_row_is_named() {
    let mut lost = acked_rows();
    lost.remove(3);
    refused(read(&mut history(), lost), Rule::Torn, &["1 of 2 rows of writer b request 0"]);
    let none = vec![at(0, 0, 1), at(0, 1, 3), at(1, 0, 2)];
    refused(
        read(&mut history(), none),
        Rule::Lost,
        &["bucket 0/0 ends at 2, 4", "writer b request 0", "from offset 2"],
    );
    refused(read(&mut history(), Vec::new()), Rule::Lost, &["writer a request 0"]);
}

#[test]
fn a_row_is_there_once() {
    let twice = [all_rows(), vec![at(0, 5, 11)]].concat();
    refused(read(&mut history(), twice), Rule::Doubled, &["Row(11)", "writer b request 0", "at offset 2"]);
    let same_place = [acked_rows(), vec![at(0, 3, 12)]].concat();
    refused(read(&mut history(), same_place), Rule::Doubled, &["where offset 4 comes next"]);
}

#[test]
fn a_writers_rows_keep_their_order() {
    let mut history = History::new();
    history.sent("a", 0, &rows(0..2));
    history.sent("a", 1, &rows(2..3));
    refused(
        read(&mut history, vec![at(0, 0, 1), at(0, 1, 0)]),
        Rule::Reordered,
        &["row 0 of writer a request 0", "offset 1"],
    );
    let mut history = History::new();
    history.sent("a", 0, &rows(0..1));
    history.sent("a", 1, &rows(1..2));
    refused(read(&mut history, vec![at(0, 0, 1), at(0, 1, 0)]), Rule::Reordered, &["writer a request 0", "request 1"]);
}

#[test]
fn offsets_are_dense_and_hold_the_same_row_for_ever() {
    let mut gap = acked_rows();
    gap[3].offset = Offset(4);
    refused(read(&mut history(), gap), Rule::Gap, &["offset 3 comes next"]);
    let mut history = History::new();
    history.sent("a", 0, &rows(0..1));
    history.sent("b", 0, &rows(1..2));
    read(&mut history, vec![at(0, 0, 0)]).unwrap();
    refused(
        read(&mut history, vec![at(0, 0, 1), at(0, 1, 0)]),
        Rule::Changed,
        &["writer b request 0", "Row(0) of writer a"],
    );
}

#[test]
fn rows_are_where_their_answers_say() {
    let swapped = vec![at(0, 0, 11), at(0, 1, 12), at(0, 2, 1), at(0, 3, 3), at(1, 0, 2)];
    refused(read(&mut history(), swapped), Rule::Misplaced, &["writer b request 0", "writer a request 0"]);
    let mut one = history();
    refused(one.acked("a", 1, &[range(0, 3, 5)]), Rule::Misplaced, &["writer a request 1 and writer b request 0"]);
    let mut one = history();
    refused(one.acked("a", 1, &[range(0, 4, 5)]), Rule::Misplaced, &["has 2 rows", "room for 1"]);
    let mut one = history();
    read(&mut one, all_rows()).unwrap();
    refused(one.acked("a", 1, &[range(0, 5, 7)]), Rule::Misplaced, &["Row(4) was seen in bucket 0/0 at offset 4"]);
    let mut one = history();
    refused(one.acked("b", 0, &[range(0, 4, 6)]), Rule::Misplaced, &["writer b request 0 was acked at"]);
}

#[test]
fn rows_that_were_not_sent_or_were_refused_are_not_there() {
    refused(read(&mut history(), [acked_rows(), vec![at(0, 4, 99)]].concat()), Rule::Foreign, &["Row(99)"]);
    let refused_row = [acked_rows(), vec![at(0, 4, 13)]].concat();
    refused(read(&mut history(), refused_row), Rule::Foreign, &["writer b request 1", "offset: Offset(4)"]);
}

#[test]
fn a_followers_stream_has_no_gap_and_no_double() {
    let mut history = history();
    let mut follower = Follower::default();
    history.followed("SSE", &mut follower, at(0, 0, 1)).unwrap();
    let token = follower.clone();
    refused(history.followed("SSE", &mut follower, at(0, 2, 11)), Rule::Gap, &["offset 1 comes next"]);
    refused(history.followed("SSE", &mut follower, at(0, 0, 1)), Rule::Doubled, &["offset 1 comes next"]);
    let floor = history.floor();
    refused(history.caught_up("SSE", &token, &floor), Rule::Lost, &["bucket 0/0 ends at 1"]);
    // What a follower has seen, a later read shows too.
    for placed in &all_rows()[1..5] {
        history.followed("SSE", &mut follower, *placed).unwrap();
    }
    history.followed("SSE", &mut follower, at(0, 4, 4)).unwrap();
    refused(read(&mut history, acked_rows()), Rule::WentBack, &["5 was seen before"]);
}

#[test]
fn counts_do_not_go_back() {
    let mut history = history();
    let early = history.floor();
    refused(history.counted("count", &early, 4), Rule::WentBack, &["4 rows, 5 were there"]);
    refused(history.counted("count", &early, 8), Rule::Doubled, &["8 rows, only 7"]);
    history.counted("count", &early, 7).unwrap();
    let later = history.floor();
    refused(history.counted("count", &later, 6), Rule::WentBack, &["6 rows, 7 were there"]);
    history.counted("count", &early, 5).unwrap();
}

#[test]
fn filters_give_what_they_should() {
    let wanted = |row: Row| row.0 > 2;
    let right = [at(0, 1, 3), at(0, 2, 11), at(0, 3, 12)];
    let mut history = history();
    let floor = history.floor();
    history.read_filtered("filter", &floor, &right, wanted).unwrap();
    let missing = history.read_filtered("filter", &floor, &right[1..], wanted);
    refused(missing, Rule::Filter, &["Row(3) of writer a request 0", "missing"]);
    let foreign = history.read_filtered("filter", &floor, &[at(0, 0, 1)], wanted);
    refused(foreign, Rule::Filter, &["does not fit"]);
    let twice = history.read_filtered("filter", &floor, &[right[0], right[0]], wanted);
    refused(twice, Rule::Doubled, &["twice"]);
    // Acked, and never seen by anybody.
    let mut unseen = self::history();
    let floor = unseen.floor();
    refused(unseen.read_filtered("filter", &floor, &[], wanted), Rule::Filter, &["writer a request 0"]);
}

#[test]
fn the_lake_is_the_log_below_its_offsets() {
    let mut history = history();
    let floor = history.floor();
    let (offsets, rows) = (ends(&[(0, 4), (1, 1)]), acked_rows());
    refused(history.lake("lake", &floor, &ends(&[(0, 5), (1, 1)]), rows.clone()), Rule::Lake, &["rows end at"]);
    let mut doubled = rows.clone();
    doubled.push(at(0, 3, 12));
    refused(history.lake("lake", &floor, &offsets, doubled), Rule::Doubled, &["offset 4 comes next"]);
    refused(
        history.lake(
            "lake",
            &floor,
            &ends(&[(0, 3), (1, 1)]),
            rows.iter().copied().filter(|placed| placed.row.0 < 12).collect(),
        ),
        Rule::Torn,
        &["writer b"],
    );
    history.lake("lake", &floor, &offsets, rows).unwrap();
    let floor = history.floor();
    let behind = history.lake("lake", &floor, &ends(&[(0, 2), (1, 1)]), vec![at(0, 0, 1), at(0, 1, 3), at(1, 0, 2)]);
    refused(behind, Rule::WentBack, &["[0/0:2, 0/1:1]"]);
}

#[test]
fn marks_are_in_order_and_do_not_go_back() {
    let marks = |log_start, trim_floor, tiered_end, durable_end| BucketStatus {
        bucket: PartitionBucket::unpartitioned(0),
        log_start: Offset(log_start),
        trim_floor: Offset(trim_floor),
        tiered_end: Offset(tiered_end),
        durable_end: Offset(durable_end),
    };
    let mut history = history();
    let floor = history.floor();
    history.marks("status", &floor, marks(0, 1, 2, 4)).unwrap();
    refused(history.marks("status", &floor, marks(0, 1, 5, 4)), Rule::Marks, &["bucket 0/0", "tiered_end 5"]);
    refused(history.marks("status", &floor, marks(0, 3, 2, 4)), Rule::Marks, &["trim_floor 3"]);
    refused(history.marks("status", &floor, marks(0, 0, 2, 4)), Rule::WentBack, &["trim_floor 0"]);
    refused(history.marks("status", &floor, marks(0, 1, 2, 3)), Rule::Lost, &["writer b request 0"]);
}
