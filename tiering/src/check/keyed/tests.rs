//! One sound history, and for every promise some that break it.

use thermocline_schemas::ChangeKind::{self, Delete, Insert, UpdateAfter, UpdateBefore};
use thermocline_schemas::{Changelog, Offset, PartitionBucket};

use super::{Key, KeyedFollower, KeyedHistory, KeyedRow, Wanted};
use crate::check::{AckedRange, Row, Rule, Violation};
use crate::{BucketStatus, Offsets};

fn bucket(number: u32) -> PartitionBucket {
    PartitionBucket::unpartitioned(number)
}

/// Key 2 belongs to bucket 1, all others to bucket 0.
fn bucket_of(key: u64) -> PartitionBucket {
    bucket(u32::from(key == 2))
}

fn put(key: u64, row: u64) -> Wanted {
    Wanted { bucket: bucket_of(key), key: Key(key), row: Some(Row(row)) }
}

fn delete(key: u64) -> Wanted {
    Wanted { bucket: bucket_of(key), key: Key(key), row: None }
}

fn at(offset: u64, key: u64, row: u64) -> KeyedRow {
    KeyedRow { bucket: bucket_of(key), offset: Offset(offset), key: Key(key), row: Row(row) }
}

fn range(number: u32, first: u64, end: u64) -> AckedRange {
    AckedRange { bucket: bucket(number), first: Offset(first), end: Offset(end) }
}

fn ends(pairs: &[(u32, u64)]) -> Offsets {
    pairs.iter().map(|(number, end)| (bucket(*number), Offset(*end))).collect()
}

/// Three requests are acked; the second of `b` is not answered. What they come to: [`log`].
fn history() -> KeyedHistory {
    let mut history = KeyedHistory::default();
    history.sent("a", 0, &[put(1, 10), put(2, 20), put(1, 11)]);
    history.acked("a", 0, &[range(0, 0, 3), range(1, 0, 1)]).unwrap();
    history.sent("b", 0, &[put(11, 110), put(12, 120), delete(13)]);
    history.acked("b", 0, &[range(0, 3, 5)]).unwrap();
    // An upsert of equal values is an update all the same.
    history.sent("a", 1, &[delete(1), put(2, 20), put(3, 30)]);
    history.acked("a", 1, &[range(0, 5, 7), range(1, 1, 3)]).unwrap();
    history.sent("b", 1, &[put(11, 111), delete(12)]);
    history
}

fn log() -> Vec<(ChangeKind, KeyedRow)> {
    vec![
        (Insert, at(0, 1, 10)),
        (UpdateBefore, at(1, 1, 10)),
        (UpdateAfter, at(2, 1, 11)),
        (Insert, at(3, 11, 110)),
        (Insert, at(4, 12, 120)),
        (Delete, at(5, 1, 11)),
        (Insert, at(6, 3, 30)),
        (Insert, at(0, 2, 20)),
        (UpdateBefore, at(1, 2, 20)),
        (UpdateAfter, at(2, 2, 20)),
    ]
}

/// What the unanswered request adds, if it was applied.
fn more() -> Vec<(ChangeKind, KeyedRow)> {
    vec![(UpdateBefore, at(7, 11, 110)), (UpdateAfter, at(8, 11, 111)), (Delete, at(9, 12, 120))]
}

fn acked_rows() -> Vec<KeyedRow> {
    vec![at(6, 3, 30), at(2, 2, 20), at(3, 11, 110), at(4, 12, 120)]
}

fn all_rows() -> Vec<KeyedRow> {
    vec![at(6, 3, 30), at(2, 2, 20), at(8, 11, 111)]
}

/// After the first request of each.
fn early_rows() -> Vec<KeyedRow> {
    vec![at(2, 1, 11), at(0, 2, 20), at(3, 11, 110), at(4, 12, 120)]
}

fn read(history: &mut KeyedHistory, rows: &[KeyedRow]) -> Result<(), Violation> {
    let floor = history.floor();
    history.read("SELECT", &floor, rows)
}

fn follow(
    history: &mut KeyedHistory,
    follower: &mut KeyedFollower,
    changes: &[(ChangeKind, KeyedRow)],
) -> Result<(), Violation> {
    changes.iter().try_for_each(|(kind, row)| history.followed("NDJSON", follower, *kind, *row))
}

/// The log with one change in the place of another, followed from its start.
fn followed_with(place: usize, kind: ChangeKind, row: KeyedRow) -> Result<(), Violation> {
    let mut changes = [log(), more()].concat();
    changes[place] = (kind, row);
    follow(&mut history(), &mut KeyedFollower::from_earliest(Offsets::default()), &changes)
}

fn without(rows: &[KeyedRow], place: usize) -> Vec<KeyedRow> {
    let mut rows = rows.to_vec();
    rows.remove(place);
    rows
}

/// The rule that is broken, and whether the message says all of `parts`.
#[track_caller]
fn refused<T: std::fmt::Debug>(checked: Result<T, Violation>, rule: Rule, parts: &[&str]) {
    let violation = checked.expect_err("it is broken");
    assert_eq!(violation.rule, rule, "{violation}");
    for part in parts {
        assert!(violation.message.contains(part), "{part:?} is not in {violation}");
    }
}

#[test]
fn a_sound_history_passes() {
    let mut history = history();
    let first = history.floor();
    read(&mut history, &acked_rows()).unwrap();
    let mut follower = KeyedFollower::from_earliest(Offsets::default());
    follow(&mut history, &mut follower, &log()).unwrap();
    let token = follower.clone();
    history.caught_up("NDJSON", &follower, &first).unwrap();
    let mut state = history.state("snapshot", &first, &acked_rows()).unwrap();
    let found = [(Key(1), None), (Key(2), Some(Row(20))), (Key(11), Some(Row(110))), (Key(99), None)];
    history.looked_up("lookup", &first, &found).unwrap();
    history.counted("count", &first, 4).unwrap();
    history.counted("count", &first, 3).unwrap();

    // It was applied; all that read shows it.
    read(&mut history, &all_rows()).unwrap();
    for follower in [&mut follower, &mut token.clone(), &mut state] {
        follow(&mut history, follower, &more()).unwrap();
    }
    let floor = history.floor();
    history.caught_up("NDJSON", &follower, &floor).unwrap();
    history.caught_up("NDJSON", &state, &floor).unwrap();
    history.looked_up("lookup", &floor, &[(Key(12), None), (Key(11), Some(Row(111)))]).unwrap();
    history.counted("count", &floor, 3).unwrap();
    history.read_filtered("filter", &floor, &[at(8, 11, 111)], |_, row| row.0 > 100).unwrap();
    history.read_filtered("filter", &floor, &[], |key, _| key.0 == 12).unwrap();
    // A read that began before may show less.
    history.read("SELECT", &first, &acked_rows()).unwrap();

    history.lake("lake", &first, &Offsets::default(), &[]).unwrap();
    history.lake("lake", &first, &ends(&[(0, 5), (1, 1)]), &early_rows()).unwrap();
    history.lake("lake", &floor, &ends(&[(0, 7), (1, 3)]), &acked_rows()).unwrap();
    history.lake("lake", &floor, &ends(&[(0, 10), (1, 3)]), &all_rows()).unwrap();

    let totals = history.totals();
    assert_eq!((totals.acked_requests, totals.acked_rows, totals.applied_unanswered, totals.seen_rows), (3, 9, 1, 13));
    for _ in 0..2 {
        history.acked("b", 1, &[range(0, 7, 10)]).unwrap();
    }
    let totals = history.totals();
    assert_eq!((totals.acked_requests, totals.acked_rows, totals.applied_unanswered, totals.seen_rows), (4, 11, 0, 13));
}

#[test]
fn an_unanswered_request_may_be_there_or_not_but_not_half_and_stays() {
    let half = [at(6, 3, 30), at(2, 2, 20), at(8, 11, 111), at(4, 12, 120)];
    refused(read(&mut history(), &half), Rule::Torn, &["Key(11)", "writer b"]);
    let other_half = [at(6, 3, 30), at(2, 2, 20), at(3, 11, 110)];
    refused(read(&mut history(), &other_half), Rule::Lost, &["Key(12) has no row"]);
    let mut history = history();
    read(&mut history, &all_rows()).unwrap();
    refused(read(&mut history, &acked_rows()), Rule::WentBack, &["writer b request 1 is not there"]);
}

#[test]
fn an_acked_row_is_there() {
    for place in 0..4 {
        refused(read(&mut history(), &without(&acked_rows(), place)), Rule::Lost, &["no row"]);
    }
    refused(read(&mut history(), &early_rows()), Rule::Lost, &["writer a request 1 is not there", "2 were promised"]);
    refused(read(&mut history(), &[]), Rule::Lost, &[]);
}

#[test]
fn what_was_replaced_or_deleted_does_not_come_back() {
    let deleted = [acked_rows(), vec![at(2, 1, 11)]].concat();
    refused(
        read(&mut history(), &deleted),
        Rule::Resurrected,
        &["Key(1) has Row(11)", "writer a request 0", "None at Some(Offset(5)), by writer a request 1"],
    );
    // The same values, from where they were before.
    let mut replaced = acked_rows();
    replaced[1] = at(0, 2, 20);
    refused(read(&mut history(), &replaced), Rule::Resurrected, &["Key(2)", "writer a request 0"]);
}

#[test]
fn a_key_has_one_row_where_it_belongs_and_of_its_own() {
    let twice = [acked_rows(), vec![at(2, 1, 11), at(0, 1, 10)]].concat();
    refused(read(&mut history(), &twice), Rule::Doubled, &["Key(1)"]);
    let mut moved = acked_rows();
    moved[0].bucket = bucket(1);
    refused(read(&mut history(), &moved), Rule::Misplaced, &["belongs to bucket 0/0"]);
    let mut elsewhere = acked_rows();
    elsewhere[0].offset = Offset(2);
    refused(read(&mut history(), &elsewhere), Rule::Misplaced, &["Row(30)", "Offset(6)"]);
    refused(read(&mut history(), &[acked_rows(), vec![at(20, 99, 1)]].concat()), Rule::Foreign, &["Key(99)"]);
    let mut other = acked_rows();
    other[0].row = Row(31);
    refused(read(&mut history(), &other), Rule::Foreign, &["Row(31)"]);
    // Never there, but deleted.
    refused(read(&mut history(), &[acked_rows(), vec![at(20, 13, 1)]].concat()), Rule::Foreign, &["Key(13)"]);
}

#[test]
fn a_read_is_one_cut_over_writers() {
    let mut history = KeyedHistory::default();
    let floor = history.floor();
    history.sent("a", 0, &[put(1, 10)]);
    history.sent("b", 0, &[put(11, 110)]);
    history.acked("b", 0, &[range(0, 1, 2)]).unwrap();
    history.read("SELECT", &floor, &[at(1, 11, 110)]).unwrap();
    // Now it is known that something stands before it.
    history.acked("a", 0, &[range(0, 0, 1)]).unwrap();
    history.read("SELECT", &floor, &[at(0, 1, 10)]).unwrap();
    let later = history.read("SELECT", &floor, &[at(1, 11, 110)]);
    refused(later, Rule::Torn, &["writer b request 0 is there", "writer a request 0 is not"]);
}

#[test]
fn answers_say_where_requests_are() {
    let mut one = history();
    refused(one.acked("b", 1, &[range(0, 7, 9)]), Rule::Misplaced, &["writer b request 1", "3}"]);
    refused(one.acked("b", 1, &[range(1, 3, 6)]), Rule::Misplaced, &["writer b request 1"]);
    refused(one.acked("b", 1, &[range(0, 7, 10), range(0, 10, 13)]), Rule::Misplaced, &["writer b request 1"]);
    refused(one.acked("b", 1, &[range(0, 6, 9)]), Rule::Misplaced, &["writer b request 1", "writer a request 1"]);
    refused(one.acked("a", 1, &[range(0, 7, 9), range(1, 1, 3)]), Rule::Misplaced, &["and then at"]);
    let mut seen = history();
    read(&mut seen, &all_rows()).unwrap();
    refused(seen.acked("b", 1, &[range(0, 8, 11)]), Rule::Misplaced, &["it was at"]);
    let mut early = KeyedHistory::default();
    early.sent("a", 0, &[put(1, 10)]);
    early.acked("a", 0, &[range(0, 5, 6)]).unwrap();
    early.sent("a", 1, &[put(1, 11)]);
    refused(early.acked("a", 1, &[range(0, 1, 3)]), Rule::Reordered, &["writer a request 1"]);
}

#[test]
fn counts_are_those_of_prefixes() {
    let history = history();
    let floor = history.floor();
    refused(history.counted("count", &floor, 2), Rule::Lost, &["{3, 4}"]);
    refused(history.counted("count", &floor, 5), Rule::Doubled, &["5 rows"]);
    let mut history = KeyedHistory::default();
    let floor = history.floor();
    history.sent("a", 0, &[put(1, 10), put(3, 30)]);
    refused(history.counted("count", &floor, 1), Rule::Torn, &["{0, 2}"]);
}

#[test]
fn filters_give_what_they_should() {
    let filtered = |rows: &[KeyedRow]| {
        let mut history = history();
        let floor = history.floor();
        history.read_filtered("filter", &floor, rows, |key, row| key.0 == 2 || row.0 == 30)
    };
    filtered(&[at(6, 3, 30), at(2, 2, 20)]).unwrap();
    refused(filtered(&acked_rows()), Rule::Filter, &["Key(11)", "does not fit"]);
    refused(filtered(&[at(6, 3, 30)]), Rule::Lost, &["Key(2) has no row"]);
    refused(filtered(&[at(6, 3, 30), at(0, 2, 20)]), Rule::Resurrected, &["Key(2)"]);
}

#[test]
fn lookups_give_the_newest_rows_and_do_not_go_back() {
    let looked_up = |key, row: Option<u64>| {
        let mut history = history();
        let floor = history.floor();
        history.looked_up("lookup", &floor, &[(Key(key), row.map(Row))])
    };
    for (key, row) in [(1, None), (2, Some(20)), (12, Some(120)), (12, None), (11, Some(111)), (13, None)] {
        looked_up(key, row).unwrap();
    }
    refused(looked_up(1, Some(11)), Rule::Resurrected, &["Key(1)", "writer a request 0"]);
    refused(looked_up(3, None), Rule::Lost, &["Key(3) has no row"]);
    refused(looked_up(3, Some(31)), Rule::Foreign, &["Row(31)"]);
    refused(looked_up(99, Some(1)), Rule::Foreign, &["Key(99)"]);
    let mut history = history();
    let floor = history.floor();
    history.looked_up("lookup", &floor, &[(Key(11), Some(Row(111)))]).unwrap();
    // Reads may be behind lookups for a moment.
    history.read("SELECT", &floor, &acked_rows()).unwrap();
    refused(history.looked_up("lookup", &floor, &[(Key(11), Some(Row(110)))]), Rule::Resurrected, &["Key(11)"]);
}

#[test]
fn changes_are_what_the_requests_make() {
    // Not the row before.
    refused(followed_with(1, UpdateBefore, at(1, 1, 11)), Rule::Derived, &["Row(10)", "writer a request 0"]);
    refused(followed_with(5, Delete, at(5, 1, 10)), Rule::Derived, &["writer a request 1"]);
    // Halves that have changed places, an update that is called an insert, a delete that is none.
    refused(followed_with(1, UpdateAfter, at(1, 1, 11)), Rule::Derived, &["UpdateBefore"]);
    refused(followed_with(9, Insert, at(2, 2, 20)), Rule::Derived, &["UpdateAfter"]);
    refused(followed_with(5, Insert, at(5, 3, 30)), Rule::Derived, &["Delete"]);
    // A change of others in between, and the same for a request that nobody has heard of.
    refused(followed_with(2, Insert, at(2, 11, 110)), Rule::Derived, &["writer a request 0"]);
    refused(followed_with(10, UpdateAfter, at(7, 11, 111)), Rule::Derived, &["writer b request 1 begins with"]);
    refused(followed_with(12, Insert, at(9, 12, 120)), Rule::Derived, &["writer b request 1"]);

    // What no request is left to make.
    let mut one = history();
    let mut follower = KeyedFollower::from_earliest(Offsets::default());
    follow(&mut one, &mut follower, &[log(), more()].concat()).unwrap();
    one.acked("b", 1, &[range(0, 7, 10)]).unwrap();
    refused(follow(&mut one, &mut follower, &[(Insert, at(10, 3, 30))]), Rule::Doubled, &["no request is left"]);
    refused(follow(&mut one, &mut follower, &[(Delete, at(10, 13, 0))]), Rule::Foreign, &["no request is left"]);
    refused(follow(&mut one, &mut follower, &[(Insert, at(10, 99, 0))]), Rule::Foreign, &["was never sent"]);
    refused(follow(&mut one, &mut follower, &[(Delete, at(9, 12, 120))]), Rule::Doubled, &["offset 10 comes next"]);
}

#[test]
fn a_changelog_of_upserts_tells_no_old_rows() {
    let mut history = KeyedHistory::new(Changelog::Upsert);
    history.sent("a", 0, &[put(1, 10), put(1, 11), delete(3), put(3, 30), delete(3)]);
    let changes =
        [(UpdateAfter, at(0, 1, 10)), (UpdateAfter, at(1, 1, 11)), (UpdateAfter, at(2, 3, 30)), (Delete, at(3, 3, 30))];
    let earliest = || KeyedFollower::from_earliest(Offsets::default());
    follow(&mut history, &mut earliest(), &changes).unwrap();
    history.acked("a", 0, &[range(0, 0, 4)]).unwrap();
    read(&mut history, &[at(1, 1, 11)]).unwrap();
    let floor = history.floor();
    history.counted("count", &floor, 1).unwrap();
    refused(follow(&mut history, &mut earliest(), &[(Insert, at(0, 1, 10))]), Rule::Derived, &["UpdateAfter"]);
}

#[test]
fn a_followers_stream_has_no_gap_and_no_double() {
    let mut history = history();
    let earliest = || KeyedFollower::from_earliest(ends(&[(0, 5), (1, 3)]));
    let mut follower = earliest();
    follow(&mut history, &mut follower, &log()[3..4]).unwrap();
    let token = follower.clone();
    refused(follow(&mut history, &mut follower, &log()[5..6]), Rule::Gap, &["offset 4 comes next"]);
    refused(follow(&mut history, &mut follower, &log()[3..4]), Rule::Doubled, &["offset 4 comes next"]);
    let floor = history.floor();
    refused(history.caught_up("SSE", &token, &floor), Rule::Lost, &["ends at 4", "writer a request 1"]);
    refused(history.caught_up("SSE", &earliest(), &floor), Rule::Lost, &["ends at 5"]);
    // From where it says that it is kept, and from where a request begins.
    refused(follow(&mut history, &mut earliest(), &more()), Rule::Gap, &["is kept from 5"]);
    refused(follow(&mut history, &mut earliest(), &log()[4..5]), Rule::Torn, &["within writer b request 0"]);
    refused(follow(&mut history, &mut earliest(), &log()[9..10]), Rule::Torn, &["within writer a request 1"]);
    // What a follower has seen, a later read shows too.
    follow(&mut history, &mut token.clone(), &[&log()[4..7], &more()].concat()).unwrap();
    refused(read(&mut history, &acked_rows()), Rule::WentBack, &["writer b request 1"]);
}

#[test]
fn a_state_is_what_a_read_may_show_and_the_changes_after_it_join_it() {
    let mut history = history();
    let first = history.floor();
    refused(history.state("snapshot", &first, &acked_rows()[1..]), Rule::Lost, &["Key(3)"]);
    read(&mut history, &all_rows()).unwrap();
    let mut joined = history.state("snapshot", &first, &acked_rows()).unwrap();
    follow(&mut history, &mut joined, &more()).unwrap();
    // Its changes are in the state already.
    let mut late = history.state("snapshot", &first, &all_rows()).unwrap();
    refused(follow(&mut history, &mut late, &more()), Rule::Doubled, &["[2]", "writer b request 1"]);
    // The request after the one that comes next.
    history.acked("b", 1, &[range(0, 7, 10)]).unwrap();
    history.sent("b", 2, &[put(14, 140), put(12, 121)]);
    let next = [(Insert, at(10, 14, 140)), (Insert, at(11, 12, 121))];
    let mut early = history.state("snapshot", &first, &acked_rows()).unwrap();
    refused(follow(&mut history, &mut early.clone(), &next), Rule::Gap, &["[1]", "writer b request 2"]);
    refused(follow(&mut history, &mut early, &more()[1..]), Rule::Torn, &["within writer b request 1"]);
}

#[test]
fn the_lake_is_what_the_log_below_its_offsets_leaves() {
    let mut history = history();
    let floor = history.floor();
    let early = ends(&[(0, 5), (1, 1)]);
    let later = ends(&[(0, 7), (1, 3)]);
    refused(history.lake("lake", &floor, &early, &acked_rows()), Rule::Lake, &["offset: Offset(6)"]);
    refused(history.lake("lake", &floor, &later, &early_rows()), Rule::Lost, &["writer a request 1"]);
    refused(history.lake("lake", &floor, &later, &acked_rows()[1..]), Rule::Lost, &["Key(3)"]);
    let kept = [acked_rows(), vec![at(2, 1, 11)]].concat();
    refused(history.lake("lake", &floor, &later, &kept), Rule::Resurrected, &["Key(1)"]);
    // Offsets that are no cut.
    refused(history.lake("lake", &floor, &ends(&[(0, 4), (1, 1)]), &[]), Rule::Torn, &["part writer b request 0"]);
    let uneven = history.lake("lake", &floor, &ends(&[(0, 7), (1, 1)]), &[]);
    refused(uneven, Rule::Torn, &["past writer a request 1, not past writer a request 1"]);
    history.lake("lake", &floor, &later, &acked_rows()).unwrap();
    let floor = history.floor();
    refused(history.lake("lake", &floor, &early, &early_rows()), Rule::WentBack, &["[0/0:5, 0/1:1]"]);
}

#[test]
fn marks_are_in_order_and_do_not_go_back() {
    let marks = |log_start, trim_floor, tiered_end, durable_end| BucketStatus {
        bucket: bucket(0),
        log_start: Offset(log_start),
        trim_floor: Offset(trim_floor),
        tiered_end: Offset(tiered_end),
        durable_end: Offset(durable_end),
    };
    let mut history = history();
    let floor = history.floor();
    history.marks("status", &floor, marks(3, 3, 5, 7)).unwrap();
    refused(history.marks("status", &floor, marks(3, 3, 8, 7)), Rule::Marks, &["tiered_end 8"]);
    refused(history.marks("status", &floor, marks(0, 3, 5, 7)), Rule::WentBack, &["log_start 0"]);
    refused(history.marks("status", &floor, marks(3, 3, 5, 6)), Rule::Lost, &["writer a request 1"]);
}
