//! The history of one table with a primary key, and the promises it is held against.
//!
//! Each key is written by one writer. A writer numbers its requests, sends each again until it is answered, and only
//! then the next: so its requests are one sequence, of which the last alone can be in doubt. From the sequence follow
//! the changes of each request and the rows after it, whatever other writers do. The row of a key is known by a number
//! that the caller gives it, an id or a digest; different rows may have the same.
//!
//! Always, or a [`Violation`](super::Violation) says where not:
//! - a read of the whole table shows of each writer exactly the rows that a prefix of its requests leaves: all that
//!   were acked, or seen before the read began ([`KeyedFloor`]), and none that were not sent. So requests are whole,
//!   and what was replaced or deleted does not come back;
//! - these prefixes are one cut: no bucket shows a change and hides one before it;
//! - counts, filtered reads and lookups are what such prefixes give;
//! - the log of a bucket is dense and holds each request's changes side by side, writer by writer in their order: `+I`;
//!   `-U` with the row before and `+U`, or where the changelog says no old rows, `+U` alone for both; `-D` with the row
//!   before; of a delete of a key without a row, nothing. An offset holds the same change for ever, and where the
//!   request's answer said;
//! - a follower's stream is a gapless run of that log, also over restarts ([`KeyedFollower`]); one that begins with the
//!   state begins with what a read may show, and goes on with the first change that is not in it;
//! - the lake alone is what the log below its offsets leaves, and these only grow.
//!
//! Checks need no search: offsets say which request a row is of, and of the prefixes of one writer there are few
//! between what was answered when a read began and what was sent when it ended.

mod follower;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use thermocline_schemas::{Changelog, Offset, PartitionBucket};

pub use self::follower::KeyedFollower;
use self::requests::{Place, Version, Writer};
use super::rules::{Checked, Rule, broken, check_marks};
use super::{AckedRange, Row, Totals};
use crate::{BucketStatus, Offsets};

/// What stands for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

/// What a request wants of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where the key belongs.
    pub bucket: PartitionBucket,
    pub key: Key,
    /// None for a delete.
    pub row: Option<Row>,
}

/// A row, or a change, where a reader found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedRow {
    pub bucket: PartitionBucket,
    pub offset: Offset,
    pub key: Key,
    pub row: Row,
}

/// What a read that begins now must show at least.
#[derive(Clone, Debug, Default)]
pub struct KeyedFloor {
    /// Of each writer how many requests were acked, and how many were seen.
    writers: Vec<(usize, usize)>,
    ends: Offsets,
    lake: Offsets,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct KeyedHistory {
    changelog: Changelog,
    by_name: HashMap<String, usize>,
    writers: Vec<Writer>,
    owners: HashMap<Key, (usize, PartitionBucket)>,
    /// What is known of the log, by first offset.
    log: BTreeMap<PartitionBucket, BTreeMap<Offset, Place>>,
    /// What some reader has seen, or an answer has promised.
    promised: Offsets,
    lake: Offsets,
    marks: BTreeMap<PartitionBucket, Option<BucketStatus>>,
    /// The least prefix of its writer that a key was looked up at: lookups may run ahead of reads, not back.
    looked_up: HashMap<Key, usize>,
}

impl KeyedHistory {
    /// Of a table with this changelog.
    pub fn new(changelog: Changelog) -> KeyedHistory {
        KeyedHistory { changelog, ..KeyedHistory::default() }
    }

    /// A request is about to be sent, for the first time or again. Panics where the caller contradicts itself: a key
    /// has one writer and one bucket, and a writer sends the next request when the one before was answered.
    pub fn sent(&mut self, writer: &str, sequence: u64, wanted: &[Wanted]) {
        let count = self.writers.len();
        let number = *self.by_name.entry(writer.to_owned()).or_insert(count);
        if number == count {
            self.writers.push(Writer::new(writer));
        }
        for one in wanted {
            let owner = *self.owners.entry(one.key).or_insert((number, one.bucket));
            assert_eq!(owner, (number, one.bucket), "{:?} has another writer or bucket", one.key);
        }
        let own = &mut self.writers[number];
        let sequence = sequence as usize;
        if sequence < own.requests.len() {
            assert_eq!(own.requests[sequence].wanted, wanted, "writer {writer} sends another request {sequence}");
            return;
        }
        assert_eq!((own.requests.len(), own.acked), (sequence, sequence), "writer {writer} goes on unanswered");
        own.add(wanted, self.changelog);
    }

    /// A request was answered: it is there, and where.
    pub fn acked(&mut self, writer: &str, sequence: u64, ranges: &[AckedRange]) -> Checked {
        let (number, sequence) = (self.by_name[writer], sequence as usize);
        let named = self.describe(number, sequence);
        let request = &self.writers[number].requests[sequence];
        let ranges: Vec<_> = ranges.iter().copied().filter(|range| range.first < range.end).collect();
        if let Some(before) = &request.acked {
            if *before != ranges {
                return broken(Rule::Misplaced, format!("{named} was acked at {before:?} and then at {ranges:?}"));
            }
            return Ok(());
        }
        let room = ranges.iter().map(|range| (range.bucket, range.end.since(range.first)));
        let made = request.changes.iter().map(|(bucket, changes)| (*bucket, changes.len() as u64));
        let (room, made): (BTreeMap<_, _>, BTreeMap<_, _>) = (room.collect(), made.collect());
        if room != made || room.len() != ranges.len() {
            return broken(
                Rule::Misplaced,
                format!("{named} makes so many changes per bucket: {made:?}, its answer says {ranges:?}"),
            );
        }
        for range in &ranges {
            self.put("its answer", range.bucket, number, sequence, range.first)?;
        }
        let own = &mut self.writers[number];
        own.requests[sequence].acked = Some(ranges.clone());
        own.acked = sequence + 1;
        self.promised.merge_max(&ranges.iter().map(|range| (range.bucket, range.end)).collect());
        Ok(())
    }

    /// Taken before a read begins, and given with what it showed.
    pub fn floor(&self) -> KeyedFloor {
        let writers = self.writers.iter().map(|writer| (writer.acked, writer.seen));
        KeyedFloor { writers: writers.collect(), ends: self.promised.clone(), lake: self.lake.clone() }
    }

    /// A read of the whole table, in any order.
    pub fn read(&mut self, what: &str, floor: &KeyedFloor, rows: &[KeyedRow]) -> Checked {
        self.read_filtered(what, floor, rows, |_, _| true)
    }

    /// A read of the rows that a filter wants, in any order.
    pub fn read_filtered(
        &mut self,
        what: &str,
        floor: &KeyedFloor,
        rows: &[KeyedRow],
        wanted: impl Fn(Key, Row) -> bool,
    ) -> Checked {
        let bounds = self.bounds(floor);
        let prefixes = self.shown(what, floor, &bounds, rows, wanted)?;
        self.promise(&prefixes);
        Ok(())
    }

    /// The newest rows of some keys. Each is told by itself, and may be newer than what a read shows.
    pub fn looked_up(&mut self, what: &str, floor: &KeyedFloor, found: &[(Key, Option<Row>)]) -> Checked {
        for (key, row) in found.iter().copied() {
            let Some((number, _)) = self.owners.get(&key).copied() else {
                match row {
                    None => continue,
                    Some(row) => {
                        return broken(Rule::Foreign, format!("{what}: {key:?} has {row:?}, and nobody wrote it"));
                    }
                }
            };
            let writer = &self.writers[number];
            let least = floor_of(floor, number).max(self.looked_up.get(&key).copied().unwrap_or(0));
            let mut versions = writer.versions_from(key, least);
            let fits = versions.find(|version| version.and_then(|version| version.row) == row);
            match fits {
                Some(version) => {
                    let prefix = version.map_or(0, |version| version.request + 1).max(least);
                    self.looked_up.insert(key, prefix);
                }
                None => return self.misfit(what, number, (least, least), key, row.map(|row| (row, None))),
            }
        }
        Ok(())
    }

    /// The number of rows that a read of the whole table counted.
    pub fn counted(&self, what: &str, floor: &KeyedFloor, count: u64) -> Checked {
        let mut sums = BTreeSet::from([0]);
        for (writer, (least, most)) in self.writers.iter().zip(self.bounds(floor)) {
            let own: BTreeSet<u64> = (least..=most).map(|prefix| writer.rows_after(prefix)).collect();
            sums = sums.iter().flat_map(|sum| own.iter().map(move |own| sum + own)).collect();
        }
        if sums.contains(&count) {
            return Ok(());
        }
        let rule = match sums.first().is_some_and(|least| count < *least) {
            true => Rule::Lost,
            false if sums.last().is_some_and(|most| count > *most) => Rule::Doubled,
            false => Rule::Torn,
        };
        broken(rule, format!("{what}: {count} rows, there may be {sums:?}"))
    }

    /// What the lake alone shows, and the offsets that it claims.
    pub fn lake(&mut self, what: &str, floor: &KeyedFloor, offsets: &Offsets, rows: &[KeyedRow]) -> Checked {
        if !offsets.covers(&floor.lake) {
            return broken(Rule::WentBack, format!("{what}: offsets {offsets}, after {}", floor.lake));
        }
        if let Some(row) = rows.iter().find(|row| row.offset >= offsets.get(row.bucket)) {
            return broken(Rule::Lake, format!("{what}: its offsets are {offsets}, and it has {row:?}"));
        }
        let mut bounds = Vec::with_capacity(self.writers.len());
        for (number, writer) in self.writers.iter().enumerate() {
            let (mut least, mut most) = (0, writer.requests.len());
            for bucket in writer.placed_buckets() {
                let (below, others) = writer.places_by(bucket, offsets.get(bucket));
                least = least.max(below.last().map_or(0, |place| place.request + 1));
                most = most.min(others.first().map_or(most, |place| place.request));
                if let Some(place) = others.first().filter(|place| place.first < offsets.get(bucket)) {
                    let named = self.describe(number, place.request);
                    return broken(Rule::Torn, format!("{what}: its offsets {offsets} part {named}, {place:?}"));
                }
            }
            if least > most {
                let (there, missing) = (self.describe(number, least - 1), self.describe(number, most));
                return broken(
                    Rule::Torn,
                    format!("{what}: its offsets {offsets} are past {there}, not past {missing}"),
                );
            }
            bounds.push((least, most));
        }
        let prefixes = self.shown(what, floor, &bounds, rows, |_, _| true)?;
        self.promise(&prefixes);
        self.lake.merge_max(offsets);
        self.promised.merge_max(offsets);
        Ok(())
    }

    /// How a bucket says that it stands.
    pub fn marks(&mut self, what: &str, floor: &KeyedFloor, marks: BucketStatus) -> Checked {
        let needed = floor.ends.get(marks.bucket);
        if marks.durable_end < needed {
            return self.short(what, marks.bucket, marks.durable_end, needed);
        }
        check_marks(what, self.marks.entry(marks.bucket).or_default(), marks)
    }

    /// Rows are here upserts and deletes; those that were seen are changes.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for writer in &self.writers {
            let acked = &writer.requests[..writer.acked];
            totals.acked_requests += acked.len() as u64;
            totals.acked_rows += acked.iter().map(|request| request.wanted.len() as u64).sum::<u64>();
            totals.applied_unanswered += writer.seen.saturating_sub(writer.acked) as u64;
            totals.seen_rows += writer.placed_changes();
        }
        totals
    }

    /// Which prefixes of each writer a read may show.
    fn bounds(&self, floor: &KeyedFloor) -> Vec<(usize, usize)> {
        let bound = |(number, writer): (usize, &Writer)| (floor_of(floor, number), writer.requests.len());
        self.writers.iter().enumerate().map(bound).collect()
    }

    /// The prefixes of each writer, within the bounds, whose wanted rows are exactly these; they are one cut.
    fn shown(
        &mut self,
        what: &str,
        floor: &KeyedFloor,
        bounds: &[(usize, usize)],
        rows: &[KeyedRow],
        wanted: impl Fn(Key, Row) -> bool,
    ) -> Checked<Vec<Vec<usize>>> {
        let mut found: HashMap<Key, KeyedRow> = HashMap::with_capacity(rows.len());
        for row in rows {
            let Some((_, bucket)) = self.owners.get(&row.key) else {
                return broken(Rule::Foreign, format!("{what}: {row:?} was never sent"));
            };
            if *bucket != row.bucket {
                return broken(Rule::Misplaced, format!("{what}: {row:?}, its key belongs to bucket {bucket}"));
            }
            if !wanted(row.key, row.row) {
                return broken(Rule::Filter, format!("{what}: {row:?} does not fit the filter"));
            }
            if let Some(other) = found.insert(row.key, *row) {
                return broken(Rule::Doubled, format!("{what}: {row:?} and {other:?} have one key"));
            }
        }
        let mut prefixes = Vec::with_capacity(self.writers.len());
        for (number, (least, most)) in bounds.iter().copied().enumerate() {
            let writer = &self.writers[number];
            let fits = |key: Key, version: Option<&Version>| {
                let row = version.and_then(|version| version.row).filter(|row| wanted(key, *row));
                match (version.zip(row), found.get(&key)) {
                    (None, None) => true,
                    (Some((version, row)), Some(found)) => found.row == row && self.may_stand(writer, version, found),
                    _ => false,
                }
            };
            let fit = writer.fit(least, most, fits);
            let Some(first) = fit.prefixes.first().copied() else {
                let Some(earlier) = writer.fit(0, least, fits).prefixes.last().copied() else {
                    let (prefix, key) = fit.nearest.unwrap_or((least, Key(0)));
                    let shown = found.get(&key).map(|found| (found.row, Some(found.offset)));
                    return self.misfit(what, number, (least, prefix), key, shown);
                };
                let rule = if earlier < acked_of(floor, number) { Rule::Lost } else { Rule::WentBack };
                let missing = self.describe(number, earlier);
                return broken(rule, format!("{what}: {missing} is not there, {least} were promised"));
            };
            // A row of a request that was not answered yet says where the request stands.
            let placed = found.values().filter(|row| self.owners[&row.key].0 == number).filter_map(|row| {
                let version = writer.version(row.key, first)?;
                let known = writer.place(version.request, row.bucket).is_some();
                (!known).then_some((*row, *version))
            });
            for (row, version) in placed.collect::<Vec<_>>() {
                let Some(base) = row.offset.0.checked_sub(version.change as u64) else {
                    return broken(
                        Rule::Misplaced,
                        format!("{what}: {row:?} has {} changes before it", version.change),
                    );
                };
                self.put(what, row.bucket, number, version.request, Offset(base))?;
            }
            prefixes.push(fit.prefixes);
        }
        self.check_cut(what, &prefixes)?;
        Ok(prefixes)
    }

    /// Whether the row of a version can stand where one was found.
    fn may_stand(&self, writer: &Writer, version: &Version, found: &KeyedRow) -> bool {
        match writer.place(version.request, version.bucket) {
            Some(place) => place.first.plus(version.change as u64) == found.offset,
            None => self.placed_at(found.bucket, found.offset).is_none(),
        }
    }

    /// Whether one end of each bucket lies past all that these prefixes show of it, and before all that they hide.
    fn check_cut(&self, what: &str, prefixes: &[Vec<usize>]) -> Checked {
        for bucket in self.log.keys().copied() {
            let (mut last, mut first): (Option<Place>, Option<Place>) = (None, None);
            for (writer, prefixes) in self.writers.iter().zip(prefixes) {
                let (Some(least), Some(most)) = (prefixes.first(), prefixes.last()) else { continue };
                let (shown, hidden) = (writer.around(*least, bucket).0, writer.around(*most, bucket).1);
                last = last.into_iter().chain(shown.copied()).max_by_key(|place| place.end);
                first = first.into_iter().chain(hidden.copied()).min_by_key(|place| place.first);
            }
            if let (Some(shown), Some(hidden)) = (last, first)
                && hidden.first < shown.end
            {
                let (there, missing) =
                    (self.describe(shown.writer, shown.request), self.describe(hidden.writer, hidden.request));
                return broken(
                    Rule::Torn,
                    format!(
                        "{what}: {there} is there, which ends at offset {} of bucket {bucket}, and {missing} is not, \
                         which begins at {}",
                        shown.end, hidden.first
                    ),
                );
            }
        }
        Ok(())
    }

    /// Later reads show at least what these prefixes show.
    fn promise(&mut self, prefixes: &[Vec<usize>]) {
        for (writer, prefixes) in self.writers.iter_mut().zip(prefixes) {
            let Some(least) = prefixes.first().copied() else { continue };
            writer.seen = writer.seen.max(least);
            let buckets: Vec<_> = writer.placed_buckets().collect();
            let ends = buckets.into_iter().filter_map(|bucket| Some((bucket, writer.around(least, bucket).0?.end)));
            self.promised.merge_max(&ends.collect());
        }
    }

    /// Says what is wrong with what a key was found with, where so many of its writer's requests were promised and a
    /// prefix of them comes nearest.
    fn misfit<T>(
        &self,
        what: &str,
        number: usize,
        (promised, prefix): (usize, usize),
        key: Key,
        found: Option<(Row, Option<Offset>)>,
    ) -> Checked<T> {
        let writer = &self.writers[number];
        let version = writer.version(key, prefix);
        let expected = match version {
            Some(version) => {
                let place = writer.place(version.request, version.bucket);
                let offset = place.map(|place| place.first.plus(version.change as u64));
                format!("{:?} at {offset:?}, by {}", version.row, self.describe(number, version.request))
            }
            None => "nothing".to_owned(),
        };
        let message = |found: String| {
            format!(
                "{what}: {key:?} has {found}; after the first {prefix} requests of writer {} it has {expected}",
                writer.name
            )
        };
        let in_doubt = version.is_some_and(|version| version.request >= promised);
        let Some((row, offset)) = found else {
            let rule = if in_doubt { Rule::Torn } else { Rule::Lost };
            return broken(rule, message("no row".to_owned()));
        };
        // The request that left the key with this row, if one did.
        let at = |version: &&Version| {
            let place = writer.place(version.request, version.bucket);
            let known = place.map(|place| place.first.plus(version.change as u64));
            offset.is_none() || known.is_none() || known == offset
        };
        let versions: Vec<&Version> =
            writer.versions_from(key, 0).flatten().filter(|version| version.row == Some(row)).collect();
        let left_by = versions.iter().copied().rfind(at);
        let told = match left_by {
            Some(version) => format!("{row:?} at {offset:?} of {}", self.describe(number, version.request)),
            None => format!("{row:?} at {offset:?}"),
        };
        let rule = match left_by {
            None if versions.is_empty() => Rule::Foreign,
            None => Rule::Misplaced,
            Some(version) if in_doubt || version.request >= prefix => Rule::Torn,
            Some(_) => Rule::Resurrected,
        };
        broken(rule, message(told))
    }

    fn placed_at(&self, bucket: PartitionBucket, offset: Offset) -> Option<Place> {
        let (_, place) = self.log.get(&bucket)?.range(..=offset).next_back()?;
        (offset < place.end).then_some(*place)
    }

    /// Notes where a request's changes of a bucket stand, or holds it against what is known.
    fn put(
        &mut self,
        what: &str,
        bucket: PartitionBucket,
        number: usize,
        request: usize,
        first: Offset,
    ) -> Checked<Place> {
        let named = self.describe(number, request);
        let changes = self.writers[number].requests[request].changes.get(&bucket).map_or(0, Vec::len);
        let place = Place { writer: number, request, first, end: first.plus(changes as u64) };
        if let Some(known) = self.writers[number].place(request, bucket) {
            if *known != place {
                return broken(Rule::Misplaced, format!("{what}: {named} is at {place:?}, it was at {known:?}"));
            }
            return Ok(place);
        }
        let log = self.log.entry(bucket).or_default();
        let before = log.range(..place.end).next_back().map(|(_, other)| *other);
        if let Some(other) = before.filter(|other| other.end > first) {
            let other_named = self.describe(other.writer, other.request);
            return broken(Rule::Misplaced, format!("{what}: {named} is at {place:?}, {other_named} at {other:?}"));
        }
        log.insert(first, place);
        if !self.writers[number].put_place(bucket, place) {
            return broken(
                Rule::Reordered,
                format!("{what}: {named} is at {place:?}, before one that was sent earlier"),
            );
        }
        Ok(place)
    }

    /// A bucket ends before it may.
    fn short(&self, what: &str, bucket: PartitionBucket, end: Offset, needed: Offset) -> Checked {
        let last = needed.0.checked_sub(1).and_then(|last| self.placed_at(bucket, Offset(last)));
        match last.filter(|place| place.request < self.writers[place.writer].acked) {
            Some(place) => broken(
                Rule::Lost,
                format!(
                    "{what}: bucket {bucket} ends at {end}; {} was acked from offset {}",
                    self.describe(place.writer, place.request),
                    place.first
                ),
            ),
            None => broken(Rule::WentBack, format!("{what}: bucket {bucket} ends at {end}, {needed} was seen before")),
        }
    }

    fn describe(&self, writer: usize, request: usize) -> String {
        format!("writer {} request {request}", self.writers[writer].name)
    }
}

/// How many requests of a writer a read must show at least.
fn floor_of(floor: &KeyedFloor, writer: usize) -> usize {
    floor.writers.get(writer).map_or(0, |(acked, seen)| (*acked).max(*seen))
}

fn acked_of(floor: &KeyedFloor, writer: usize) -> usize {
    floor.writers.get(writer).map_or(0, |(acked, _)| *acked)
}
