//! Followers: each change in its place in the log, and where a stream may begin.

use std::collections::{BTreeMap, HashMap, HashSet};

use thermocline_schemas::{ChangeKind, Offset, PartitionBucket};

use super::requests::{Change, Place};
use super::{KeyedFloor, KeyedHistory, KeyedRow};
use crate::Offsets;
use crate::check::rules::{Checked, Rule, broken};

/// How far a follower has come. A copy taken where a token was received is what resuming at that token goes on from.
#[derive(Clone, Debug)]
pub struct KeyedFollower {
    next: BTreeMap<PartitionBucket, Offset>,
    start: Start,
}

/// Where the stream of a follower begins in a bucket that has not shown anything yet.
#[derive(Clone, Debug)]
enum Start {
    /// Here, or before.
    AtMost(Offsets),
    /// After a state, with the prefixes of each writer that it may be; and the writers that have gone on from it where.
    State { prefixes: HashMap<usize, Vec<usize>>, joined: HashSet<(usize, PartitionBucket)> },
}

impl KeyedFollower {
    /// A follower that begins in each bucket with the first change that is kept, which is one of these or before it.
    pub fn from_earliest(at_most: Offsets) -> KeyedFollower {
        KeyedFollower { next: BTreeMap::new(), start: Start::AtMost(at_most) }
    }

    /// Whether what comes next of a bucket may lie below `kept`: that is not known before it has shown something.
    pub fn may_be_below(&self, bucket: PartitionBucket, kept: Offset) -> bool {
        self.next.get(&bucket).is_none_or(|next| *next < kept)
    }

    /// The next offset of a bucket, as far as it is known.
    pub fn reached(&self, bucket: PartitionBucket) -> Option<Offset> {
        let start = match &self.start {
            Start::AtMost(offsets) => Some(offsets.get(bucket)),
            Start::State { .. } => None,
        };
        self.next.get(&bucket).copied().or(start)
    }
}

impl KeyedHistory {
    /// The state that a follower begins with.
    pub fn state(&mut self, what: &str, floor: &KeyedFloor, rows: &[KeyedRow]) -> Checked<KeyedFollower> {
        let bounds = self.bounds(floor);
        let prefixes = self.shown(what, floor, &bounds, rows, |_, _| true)?;
        self.promise(&prefixes);
        let prefixes = prefixes.into_iter().enumerate().collect();
        Ok(KeyedFollower { next: BTreeMap::new(), start: Start::State { prefixes, joined: HashSet::new() } })
    }

    /// One more change of a follower's stream.
    pub fn followed(&mut self, what: &str, follower: &mut KeyedFollower, kind: ChangeKind, row: KeyedRow) -> Checked {
        let KeyedRow { bucket, offset, .. } = row;
        let next = follower.next.get(&bucket).copied();
        if let Some(next) = next.filter(|next| *next != offset) {
            let rule = if offset < next { Rule::Doubled } else { Rule::Gap };
            return broken(rule, format!("{what}: {kind:?} {row:?}, where offset {next} comes next"));
        }
        let place = self.place_of(what, kind, row)?;
        let named = || self.describe(place.writer, place.request);
        if next.is_none() {
            if place.first != offset {
                return broken(Rule::Torn, format!("{what}: begins with {kind:?} {row:?}, within {}", named()));
            }
            if let Start::AtMost(most) = &follower.start
                && offset > most.get(bucket)
            {
                let most = most.get(bucket);
                return broken(Rule::Gap, format!("{what}: begins with {row:?}, bucket {bucket} is kept from {most}"));
            }
        }
        if let Start::State { prefixes, joined } = &mut follower.start
            && joined.insert((place.writer, bucket))
        {
            let (before, _) = self.writers[place.writer].around(place.request, bucket);
            let first_missing = before.map_or(0, |before| before.request + 1);
            let shown = prefixes.entry(place.writer).or_insert_with(|| vec![0]);
            let told = format!("{what}: after a state of so many requests, {shown:?}, comes {row:?} of {}", named());
            let all_behind = shown.iter().all(|prefix| *prefix < first_missing);
            shown.retain(|prefix| (first_missing..=place.request).contains(prefix));
            if shown.is_empty() {
                return broken(if all_behind { Rule::Gap } else { Rule::Doubled }, told);
            }
        }
        follower.next.insert(bucket, offset.plus(1));
        let seen = &mut self.writers[place.writer].seen;
        *seen = (*seen).max(place.request + 1);
        self.promised.merge_max(&Offsets::from_iter([(bucket, place.end)]));
        Ok(())
    }

    /// A follower has had the time to catch up.
    pub fn caught_up(&self, what: &str, follower: &KeyedFollower, floor: &KeyedFloor) -> Checked {
        for (bucket, needed) in floor.ends.iter() {
            // What a state must show was looked at when it was read.
            if let Some(end) = follower.reached(bucket).filter(|end| *end < needed) {
                return self.short(what, bucket, end, needed);
            }
        }
        Ok(())
    }

    /// The place of the request that made a change; learned, if it was not known.
    fn place_of(&mut self, what: &str, kind: ChangeKind, row: KeyedRow) -> Checked<Place> {
        let KeyedRow { bucket, offset, key, row: shown } = row;
        let change = Change { kind, key, row: shown };
        if let Some(place) = self.placed_at(bucket, offset) {
            let changes = &self.writers[place.writer].requests[place.request].changes;
            let expected = changes.get(&bucket).and_then(|changes| changes.get(offset.since(place.first) as usize));
            if expected != Some(&change) {
                let named = self.describe(place.writer, place.request);
                return broken(
                    Rule::Derived,
                    format!("{what}: {kind:?} {row:?}, where {named} has {expected:?}, its first at {}", place.first),
                );
            }
            return Ok(place);
        }
        let Some((number, _)) = self.owners.get(&key).copied() else {
            return broken(Rule::Foreign, format!("{what}: {kind:?} {row:?} was never sent"));
        };
        let writer = &self.writers[number];
        let open = writer.acked;
        let changes = writer.requests.get(open).and_then(|request| request.changes.get(&bucket));
        match changes.filter(|_| writer.place(open, bucket).is_none()) {
            Some(changes) if changes.first() == Some(&change) => self.put(what, bucket, number, open, offset),
            Some(changes) => {
                let (named, first) = (self.describe(number, open), changes.first());
                broken(Rule::Derived, format!("{what}: {kind:?} {row:?}, where {named} begins with {first:?}"))
            }
            None => {
                let made = writer.requests.iter().filter_map(|request| request.changes.get(&bucket)).flatten();
                let rule = if made.into_iter().any(|made| *made == change) { Rule::Doubled } else { Rule::Foreign };
                broken(rule, format!("{what}: {kind:?} {row:?}, which no request is left to make"))
            }
        }
    }
}
