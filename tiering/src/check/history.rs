//! The history of one log table, and the promises it is held against.
//!
//! Rows are known by a number that the caller gives them, an id or a digest; no two rows have the same. A request is a
//! writer's name and sequence; writers that do not number their requests count them for the checker alone.
//!
//! Always, or a [`Violation`] says where not:
//! - a row of an acked request is there, once, where its answer said; a row that nobody sent, or that was refused, is not;
//! - of a request, also of one whose outcome is unknown, all rows are there or none; what was seen once stays;
//! - in each bucket the rows of one writer lie in the order they were sent;
//! - offsets are dense from 0, and an offset holds the same row for ever, whoever reads it;
//! - a read shows at least what was acked or seen before it began ([`Floor`]): no reader's ends go back;
//! - a follower's stream is a gapless run of the log, also over restarts ([`Follower`]);
//! - the lake is exactly the log below its offsets, which only grow.
//!
//! All checks are linear in what is read, and need no search, because answers say offsets. Not here: tables with a
//! primary key, whose rows are not their log (`keyed`), and tables whose old rows end with their retention.

use std::collections::{BTreeMap, HashMap};

use thermocline_schemas::{Offset, PartitionBucket};

use super::rules::{Checked, Rule, broken, check_marks};
use crate::{BucketStatus, Offsets};

/// What stands for one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row(pub u64);

/// A row where a reader found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    pub bucket: PartitionBucket,
    pub offset: Offset,
    pub row: Row,
}

/// Where an answer says that a request's rows of one bucket are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckedRange {
    pub bucket: PartitionBucket,
    pub first: Offset,
    pub end: Offset,
}

/// What a read that begins now must show at least.
#[derive(Clone, Debug, Default)]
pub struct Floor {
    ends: Offsets,
    lake: Offsets,
    rows: u64,
}

/// How far a follower has come. A copy taken where a token was received is what resuming at that token goes on from.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    next: Offsets,
}

/// How much a history holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub acked_requests: u64,
    pub acked_rows: u64,
    /// Requests that were never answered and whose rows are there.
    pub applied_unanswered: u64,
    /// Rows that some reader has seen.
    pub seen_rows: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct History {
    writers: HashMap<String, usize>,
    names: Vec<String>,
    requests: Vec<Request>,
    /// By writer and sequence, the newest request under that name.
    by_name: HashMap<(usize, u64), usize>,
    rows: HashMap<Row, Sent>,
    buckets: BTreeMap<PartitionBucket, Log>,
    /// What some reader has seen, or an answer has promised.
    promised: Offsets,
    lake: Offsets,
    /// The most rows that a reader has counted.
    counted: u64,
}

#[derive(Debug)]
struct Request {
    writer: usize,
    sequence: u64,
    rows: Vec<Row>,
    outcome: Outcome,
    /// Some attempt ended without an answer, so a later refusal says nothing of it.
    doubtful: bool,
    /// How many of its rows have been seen.
    seen: usize,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Open,
    Acked(Vec<AckedRange>),
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    request: usize,
    /// Its number in the request.
    index: usize,
    place: Option<(PartitionBucket, Offset)>,
}

/// What is known of a bucket.
#[derive(Debug, Default)]
struct Log {
    rows: Vec<Option<Row>>,
    /// Acked ranges by their first offset: end and request.
    acked: BTreeMap<Offset, (Offset, usize)>,
    marks: Option<BucketStatus>,
}

impl History {
    pub fn new() -> History {
        History::default()
    }

    /// A request is about to be sent, for the first time or again. Panics where the caller contradicts itself: rows are
    /// unlike all others, and a request keeps its rows unless it was refused.
    pub fn sent(&mut self, writer: &str, sequence: u64, rows: &[Row]) {
        let count = self.writers.len();
        let writer_index = *self.writers.entry(writer.to_owned()).or_insert(count);
        if writer_index == count {
            self.names.push(writer.to_owned());
        }
        let name = (writer_index, sequence);
        if let Some(known) = self.by_name.get(&name).map(|known| &mut self.requests[*known]) {
            if known.rows == rows {
                if known.outcome == Outcome::Refused {
                    known.outcome = Outcome::Open;
                }
                return;
            }
            assert_eq!(known.outcome, Outcome::Refused, "writer {writer} sends other rows as its request {sequence}");
        }
        let request = self.requests.len();
        for (index, row) in rows.iter().enumerate() {
            let new = self.rows.insert(*row, Sent { request, index, place: None });
            assert!(new.is_none_or(|old| self.requests[old.request].outcome == Outcome::Refused), "{row:?} sent twice");
        }
        let rows = rows.to_vec();
        self.requests.push(Request {
            writer: writer_index,
            sequence,
            rows,
            outcome: Outcome::Open,
            doubtful: false,
            seen: 0,
        });
        self.by_name.insert(name, request);
    }

    /// A request was answered: it is there, and where.
    pub fn acked(&mut self, writer: &str, sequence: u64, ranges: &[AckedRange]) -> Checked {
        let number = self.named(writer, sequence);
        let named = self.describe(number);
        let request = &self.requests[number];
        if let Outcome::Acked(before) = &request.outcome {
            if before != ranges {
                return broken(Rule::Misplaced, format!("{named} was acked at {before:?} and then at {ranges:?}"));
            }
            return Ok(());
        }
        let acked: u64 = ranges.iter().map(|range| range.end.since(range.first)).sum();
        if acked != request.rows.len() as u64 {
            return broken(
                Rule::Misplaced,
                format!("{named} has {} rows, its answer has room for {acked}: {ranges:?}", request.rows.len()),
            );
        }
        for row in &request.rows {
            if let Some((bucket, offset)) = self.rows[row].place
                && !covers(ranges, bucket, offset)
            {
                return broken(
                    Rule::Misplaced,
                    format!(
                        "{named}: {row:?} was seen in bucket {bucket} at offset {offset}, its answer says {ranges:?}"
                    ),
                );
            }
        }
        for range in ranges {
            let log = self.buckets.entry(range.bucket).or_default();
            if let Some((first, (end, other))) = log.acked.range(..range.end).next_back()
                && *end > range.first
            {
                let (first, end, other) = (*first, *end, *other);
                let other = self.describe(other);
                return broken(
                    Rule::Misplaced,
                    format!(
                        "{named} and {other} were both acked in bucket {}: {range:?}, [{first}, {end})",
                        range.bucket
                    ),
                );
            }
            let known = (range.first.0..range.end.0).filter_map(|at| log.rows.get(at as usize).copied().flatten());
            if let Some(row) = known.into_iter().find(|row| self.rows[row].request != number) {
                let other = self.describe(self.rows[&row].request);
                return broken(Rule::Misplaced, format!("{named} was acked at {range:?}, where {other} was seen"));
            }
            log.acked.insert(range.first, (range.end, number));
            self.promised.merge_max(&Offsets::from_iter([(range.bucket, range.end)]));
        }
        self.requests[number].outcome = Outcome::Acked(ranges.to_vec());
        Ok(())
    }

    /// A request was answered with an error that says that nothing of it was applied.
    pub fn refused(&mut self, writer: &str, sequence: u64) -> Checked {
        let number = self.named(writer, sequence);
        let request = &mut self.requests[number];
        if request.doubtful || matches!(request.outcome, Outcome::Acked(_)) {
            return Ok(());
        }
        request.outcome = Outcome::Refused;
        if request.seen > 0 {
            return broken(Rule::Foreign, format!("{} was refused, and its rows were seen", self.describe(number)));
        }
        Ok(())
    }

    /// No answer came: it may be there or not.
    pub fn unknown(&mut self, writer: &str, sequence: u64) {
        let number = self.named(writer, sequence);
        self.requests[number].doubtful = true;
    }

    /// Taken before a read begins, and given with what it showed.
    pub fn floor(&self) -> Floor {
        let promised: u64 = self.promised.iter().map(|(_, end)| end.0).sum();
        Floor { ends: self.promised.clone(), lake: self.lake.clone(), rows: promised.max(self.counted) }
    }

    /// A read of the whole table, in any order.
    pub fn read(&mut self, what: &str, floor: &Floor, rows: Vec<Placed>) -> Checked {
        let ends = self.dense(what, rows)?;
        for (bucket, needed) in floor.ends.iter() {
            if ends.get(bucket) < needed {
                return self.short(what, bucket, ends.get(bucket), needed);
            }
        }
        self.promised.merge_max(&ends);
        Ok(())
    }

    /// A read of the rows that a filter wants, in any order.
    pub fn read_filtered(
        &mut self,
        what: &str,
        floor: &Floor,
        rows: &[Placed],
        wanted: impl Fn(Row) -> bool,
    ) -> Checked {
        let mut found = std::collections::HashSet::with_capacity(rows.len());
        for placed in rows {
            self.learn(what, *placed)?;
            if !wanted(placed.row) {
                return broken(Rule::Filter, format!("{what}: {placed:?} does not fit the filter"));
            }
            if !found.insert(placed.row) {
                return broken(Rule::Doubled, format!("{what}: {placed:?} is there twice"));
            }
            let end = placed.offset.plus(1);
            self.promised.merge_max(&Offsets::from_iter([(placed.bucket, end)]));
        }
        for (number, request) in self.requests.iter().enumerate() {
            let acked = match &request.outcome {
                Outcome::Acked(ranges) => ranges.iter().all(|range| range.end <= floor.ends.get(range.bucket)),
                _ => false,
            };
            let needed = |row: &Row| match self.rows[row].place {
                Some((bucket, offset)) => offset < floor.ends.get(bucket),
                None => acked,
            };
            if let Some(row) = request.rows.iter().find(|row| wanted(**row) && needed(row) && !found.contains(row)) {
                let named = self.describe(number);
                return broken(Rule::Filter, format!("{what}: {row:?} of {named} fits the filter and is missing"));
            }
        }
        Ok(())
    }

    /// The number of rows that a read of the whole table counted.
    pub fn counted(&mut self, what: &str, floor: &Floor, count: u64) -> Checked {
        if count < floor.rows {
            return broken(Rule::WentBack, format!("{what}: {count} rows, {} were there before", floor.rows));
        }
        let sent = self.requests.iter().filter(|request| request.outcome != Outcome::Refused);
        let sent: u64 = sent.map(|request| request.rows.len() as u64).sum();
        if count > sent {
            return broken(Rule::Doubled, format!("{what}: {count} rows, only {sent} were ever sent"));
        }
        self.counted = self.counted.max(count);
        Ok(())
    }

    /// What the lake alone shows, and the offsets that it claims.
    pub fn lake(&mut self, what: &str, floor: &Floor, offsets: &Offsets, rows: Vec<Placed>) -> Checked {
        if !offsets.covers(&floor.lake) {
            return broken(Rule::WentBack, format!("{what}: offsets {offsets}, after {}", floor.lake));
        }
        let ends = self.dense(what, rows)?;
        if ends != *offsets {
            return broken(Rule::Lake, format!("{what}: its offsets are {offsets}, its rows end at {ends}"));
        }
        self.lake.merge_max(offsets);
        self.promised.merge_max(offsets);
        Ok(())
    }

    /// One more row of a follower's stream.
    pub fn followed(&mut self, what: &str, follower: &mut Follower, placed: Placed) -> Checked {
        let next = follower.next.get(placed.bucket);
        if placed.offset != next {
            let rule = if placed.offset < next { Rule::Doubled } else { Rule::Gap };
            return broken(rule, format!("{what}: {placed:?}, where offset {next} comes next"));
        }
        self.learn(what, placed)?;
        follower.next.set(placed.bucket, next.plus(1));
        self.promised.merge_max(&Offsets::from_iter([(placed.bucket, next.plus(1))]));
        Ok(())
    }

    /// A follower has had the time to catch up.
    pub fn caught_up(&self, what: &str, follower: &Follower, floor: &Floor) -> Checked {
        for (bucket, needed) in floor.ends.iter() {
            if follower.next.get(bucket) < needed {
                return self.short(what, bucket, follower.next.get(bucket), needed);
            }
        }
        Ok(())
    }

    /// How a bucket says that it stands.
    pub fn marks(&mut self, what: &str, floor: &Floor, marks: BucketStatus) -> Checked {
        let bucket = marks.bucket;
        if marks.durable_end < floor.ends.get(bucket) {
            return self.short(what, bucket, marks.durable_end, floor.ends.get(bucket));
        }
        // Marks are asked for one after the other, so they can be compared with the last ones.
        check_marks(what, &mut self.buckets.entry(bucket).or_default().marks, marks)
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for request in &self.requests {
            match request.outcome {
                Outcome::Acked(_) => {
                    totals.acked_requests += 1;
                    totals.acked_rows += request.rows.len() as u64;
                }
                _ if request.seen > 0 => totals.applied_unanswered += 1,
                _ => {}
            }
            totals.seen_rows += request.seen as u64;
        }
        totals
    }

    /// Checks rows that must be dense from 0 in every bucket, in the order of each writer, and of each request all.
    fn dense(&mut self, what: &str, mut rows: Vec<Placed>) -> Checked<Offsets> {
        rows.sort_unstable();
        let mut ends = Offsets::default();
        // Per request, how many of its rows; per bucket and writer, the newest row.
        let mut present: HashMap<usize, usize> = HashMap::new();
        let mut newest: HashMap<(PartitionBucket, usize), (u64, usize)> = HashMap::new();
        let (mut bucket, mut next) = (None, Offset::ZERO);
        for placed in rows {
            if bucket != Some(placed.bucket) {
                (bucket, next) = (Some(placed.bucket), Offset::ZERO);
            }
            if placed.offset != next {
                let rule = if placed.offset < next { Rule::Doubled } else { Rule::Gap };
                return broken(rule, format!("{what}: {placed:?}, where offset {next} comes next"));
            }
            next = next.plus(1);
            ends.set(placed.bucket, next);
            let number = self.learn(what, placed)?;
            *present.entry(number).or_default() += 1;
            let request = &self.requests[number];
            let place = (request.sequence, self.rows[&placed.row].index);
            if let Some(before) = newest.insert((placed.bucket, request.writer), place)
                && before >= place
            {
                return broken(
                    Rule::Reordered,
                    format!(
                        "{what}: row {} of {} comes after row {} of request {} in bucket {}, at offset {}",
                        place.1,
                        self.describe(number),
                        before.1,
                        before.0,
                        placed.bucket,
                        placed.offset
                    ),
                );
            }
        }
        for (number, count) in present {
            let all = self.requests[number].rows.len();
            if count != all {
                return broken(
                    Rule::Torn,
                    format!("{what}: {count} of {all} rows of {} are there", self.describe(number)),
                );
            }
        }
        Ok(ends)
    }

    /// Holds a row against all that is known of it and of its place. Answers its request.
    fn learn(&mut self, what: &str, placed: Placed) -> Checked<usize> {
        let Placed { bucket, offset, row } = placed;
        let Some(sent) = self.rows.get(&row).copied() else {
            return broken(Rule::Foreign, format!("{what}: {placed:?} was never sent"));
        };
        let named = |history: &History| history.describe(sent.request);
        if sent.place == Some((bucket, offset)) {
            return Ok(sent.request);
        }
        if self.requests[sent.request].outcome == Outcome::Refused {
            return broken(Rule::Foreign, format!("{what}: {placed:?} of {} was refused", named(self)));
        }
        if let Some((other_bucket, other)) = sent.place {
            return broken(
                Rule::Doubled,
                format!("{what}: {placed:?} of {} was seen in bucket {other_bucket} at offset {other}", named(self)),
            );
        }
        let log = self.buckets.entry(bucket).or_default();
        let at = offset.0 as usize;
        if let Some(other) = log.rows.get(at).copied().flatten() {
            return broken(
                Rule::Changed,
                format!("{what}: {placed:?} of {}, where {other:?} of {} was seen", named(self), {
                    let other = self.rows[&other].request;
                    self.describe(other)
                }),
            );
        }
        let promised = log.acked.range(..=offset).next_back().filter(|(_, (end, _))| offset < *end);
        if let Some((_, (_, other))) = promised
            && *other != sent.request
        {
            let other = *other;
            return broken(
                Rule::Misplaced,
                format!("{what}: {placed:?} of {}, where {} was acked", named(self), self.describe(other)),
            );
        }
        if let Outcome::Acked(ranges) = &self.requests[sent.request].outcome
            && !covers(ranges, bucket, offset)
        {
            return broken(Rule::Misplaced, format!("{what}: {placed:?} of {}, acked at {ranges:?}", named(self)));
        }
        if log.rows.len() <= at {
            log.rows.resize(at + 1, None);
        }
        log.rows[at] = Some(row);
        self.rows.insert(row, Sent { place: Some((bucket, offset)), ..sent });
        self.requests[sent.request].seen += 1;
        Ok(sent.request)
    }

    /// A read ends before it may.
    fn short(&self, what: &str, bucket: PartitionBucket, end: Offset, needed: Offset) -> Checked {
        let log = self.buckets.get(&bucket);
        let acked = log.and_then(|log| log.acked.range(..needed).rev().take_while(|(_, (past, _))| *past > end).last());
        match acked {
            Some((first, (_, request))) => broken(
                Rule::Lost,
                format!(
                    "{what}: bucket {bucket} ends at {end}, {needed} was promised; {} was acked from offset {first}",
                    self.describe(*request)
                ),
            ),
            None => broken(Rule::WentBack, format!("{what}: bucket {bucket} ends at {end}, {needed} was seen before")),
        }
    }

    fn named(&self, writer: &str, sequence: u64) -> usize {
        let writer_index = self.writers.get(writer).copied();
        let number = writer_index.and_then(|writer| self.by_name.get(&(writer, sequence)).copied());
        number.unwrap_or_else(|| panic!("writer {writer} request {sequence} was answered before it was sent"))
    }

    fn describe(&self, request: usize) -> String {
        let request = &self.requests[request];
        format!("writer {} request {}", self.names[request.writer], request.sequence)
    }
}

impl Follower {
    /// A follower that begins at these offsets.
    pub fn from(next: Offsets) -> Follower {
        Follower { next }
    }

    pub fn next(&self) -> &Offsets {
        &self.next
    }
}

fn covers(ranges: &[AckedRange], bucket: PartitionBucket, offset: Offset) -> bool {
    ranges.iter().any(|range| range.bucket == bucket && (range.first..range.end).contains(&offset))
}
