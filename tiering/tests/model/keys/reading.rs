//! Readers: splits in their single steps, with what the index says of their keys; lookups; and followers from a
//! snapshot.
//!
//! Stands for `tiering/src/{split,masks,cold,follow}.rs`, the lookups of `engine/src/table.rs` and
//! `sql/src/scan/by_key.rs`. A split is judged when its rows are read, which may be long after it was drawn.
//!
//! A lookup holds the indexes of all buckets that it asks, and a request becomes known to all of its own at once. So what
//! it finds is one cut, never older than what is shown, though it may be newer.

use std::rc::Rc;

use super::protocol::{Action, Model};
use super::scope::{Event, Mutant, Scope};
use super::state::*;
use super::truth;

/// What a reader does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStep {
    LoadBoundary,
    LoadEnds,
    TakeHot(usize),
    Recheck,
    ReadRows,
    /// Asks the index where the keys' rows stand.
    FindPlaces,
    /// Looks where the log ends.
    SeeLogEnds,
    TellPlaces,
}

pub fn read_steps(scope: &Scope) -> Vec<ReadStep> {
    if !scope.reader {
        return Vec::new();
    }
    let mut steps = vec![ReadStep::LoadBoundary, ReadStep::LoadEnds];
    if scope.mutant == Some(Mutant::EndsBeforeBoundary) {
        steps.reverse();
    }
    steps.extend(used_buckets(scope).map(ReadStep::TakeHot));
    steps.extend([ReadStep::Recheck, ReadStep::ReadRows]);
    if scope.by_key {
        let mut by_key = [ReadStep::FindPlaces, ReadStep::SeeLogEnds];
        if scope.mutant == Some(Mutant::AbsenceCheckedEarly) {
            by_key.reverse();
        }
        steps.extend(by_key);
        steps.push(ReadStep::TellPlaces);
    }
    steps
}

pub fn used_buckets(scope: &Scope) -> impl Iterator<Item = usize> {
    (0..BUCKETS).filter(|bucket| scope.buckets.contains(bucket))
}

impl Model {
    pub fn reading_actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.read_steps.get(state.reader.step).copied().map(Action::Read));
        if self.scope.looker {
            let asked = state.looker.step == used_buckets(&self.scope).count();
            actions.push(if asked { Action::FetchFound } else { Action::LookUp });
        }
        if let Follower::Follows { next, .. } = &state.follower {
            let behind = (0..BUCKETS).filter(|bucket| next[*bucket] < state.lanes[*bucket].shown);
            actions.extend(behind.map(Action::Follow));
        }
    }

    pub fn read(&self, state: &mut State, step: ReadStep) {
        state.reader.step += 1;
        let (shown, log_ends) = (state.shown(), [state.lanes[0].end(), state.lanes[1].end()]);
        match step {
            ReadStep::LoadBoundary => {
                state.reader.boundary = Some(state.boundary.clone());
                if self.is(Mutant::MasksOfOlderCut) || self.is(Mutant::EndsThenSnapshot) {
                    state.reader.ends_before = shown;
                }
            }
            ReadStep::LoadEnds => state.reader.ends = shown,
            ReadStep::TakeHot(bucket) => self.take_hot(state, bucket),
            ReadStep::Recheck => {
                let moved = state.reader.boundary.as_ref() != Some(&state.boundary);
                let unchecked = self.is(Mutant::SplitUnchecked) || self.is(Mutant::SplitNotRechecked);
                if moved && !unchecked {
                    self.note(Event::SplitFoundBoundaryMoved);
                    state.reader = Reader::default();
                }
            }
            ReadStep::ReadRows => self.read_rows(state),
            ReadStep::FindPlaces => state.reader.places = [state.lanes[0].index, state.lanes[1].index],
            ReadStep::SeeLogEnds => state.reader.log_ends = log_ends,
            ReadStep::TellPlaces => self.tell_places(state),
        }
    }

    /// Holds the hot rows of a bucket.
    fn take_hot(&self, state: &mut State, bucket: usize) {
        let (lane, reader) = (&state.lanes[bucket], &mut state.reader);
        let tiered = reader.boundary.as_ref().map_or(0, |boundary| boundary.offsets[bucket]);
        reader.from[bucket] = tiered;
        if self.is(Mutant::SplitUnchecked) {
            reader.from[bucket] = tiered.max(lane.floor);
        } else if tiered < reader.ends[bucket] && tiered < lane.floor {
            self.note(Event::SplitFoundRowsGone);
            if reader.boundary.as_ref() == Some(&state.boundary) {
                return state.break_with("a split can be read");
            }
            *reader = Reader::default();
        }
    }

    fn read_rows(&self, state: &mut State) {
        let reader = state.reader.clone();
        let Some(boundary) = &reader.boundary else { return };
        if state.versions.get(boundary.number).is_none_or(|version| version.files != boundary.files) {
            return state.break_with("a split can be read");
        }
        let ends = reader.ends;
        if (0..BUCKETS).any(|bucket| state.lanes[bucket].end() > ends[bucket]) {
            self.note(Event::SplitOlderThanRows);
        }
        let at = |frames: usize, bucket: usize| {
            let mut ends = state.journal[..frames].iter().filter_map(|frame| frame.part(bucket)).map(Part::end);
            ends.next_back().unwrap_or_default()
        };
        if !(0..=state.synced).any(|frames| (0..BUCKETS).all(|bucket| at(frames, bucket) == ends[bucket])) {
            return state.break_with("the buckets of a split are cut at one position");
        }
        for bucket in 0..BUCKETS {
            if let Some(wrong) = self.part_violated(state, &reader, boundary, bucket) {
                return state.break_with(wrong);
            }
        }
        self.join(state, ends);
        if !self.scope.by_key {
            state.reader = Reader::default();
        }
    }

    fn part_violated(
        &self,
        state: &State,
        reader: &Reader,
        boundary: &Rc<Version>,
        bucket: usize,
    ) -> Option<&'static str> {
        let (lane, from, to) = (&state.lanes[bucket], reader.from[bucket], reader.ends[bucket]);
        let masks = match () {
            () if self.is(Mutant::MasksIgnored) || from >= to => 0,
            () if self.is(Mutant::MasksOfOlderCut) => {
                lane.ended_before(from, reader.ends_before[bucket].clamp(from, to))
            }
            () if self.is(Mutant::MasksOfNewerCut) => lane.ended_before(from, lane.end()),
            () => lane.ended_before(from, to),
        };
        let cold = boundary.living(bucket);
        if masks != 0 {
            self.note(Event::SplitMasked);
        }
        if masks & !cold != 0 {
            return Some("rows that a split masks are in its lake");
        }
        let hot = match self.is(Mutant::HotRowsAsOfNow) {
            true => lane.versions(from, to, |ended| ended.is_none()),
            false => lane.visible(from, to),
        };
        let right = truth::living(&lane.rows[..usize::from(to)]);
        (cold & !masks & hot != 0 || cold & !masks | hot != right).then_some("a split is the state at its cut")
    }

    /// A row that the index leads to lives at the cut, if nothing can have come between.
    fn tell_places(&self, state: &mut State) {
        let reader = std::mem::take(&mut state.reader);
        for key in 0..KEYS {
            let bucket = self.scope.buckets[key];
            let told = reader.places[bucket][key];
            let sure = match told {
                Some(place) => place < reader.ends[bucket] || self.is(Mutant::PlacesUnchecked),
                None => reader.log_ends[bucket] == reader.ends[bucket] || self.is(Mutant::AbsenceUnchecked),
            };
            self.note(if sure { Event::PlacesTold } else { Event::PlacesNotTold });
            let right = truth::places(&state.lanes[bucket].rows[..usize::from(reader.ends[bucket])])[key];
            if sure && told != right {
                return state.break_with("what the index says of a split's keys is so at its cut");
            }
        }
    }

    /// A lookup asks the indexes of all buckets.
    pub fn look_up(&self, state: &mut State) {
        let at_once = if self.is(Mutant::LookupApart) { 1 } else { BUCKETS };
        for bucket in used_buckets(&self.scope).skip(state.looker.step).take(at_once) {
            self.look_up_in(state, bucket);
        }
    }

    fn look_up_in(&self, state: &mut State, bucket: usize) {
        state.looker.step += 1;
        let lane = &state.lanes[bucket];
        let found = lane.index;
        let least = lane.shown.max(state.looker.seen[bucket]);
        let frames = &state.journal[..state.synced];
        let cuts = truth::cuts(frames.iter().map(|frame| &**frame), bucket);
        let mut likely = cuts.into_iter().filter(|cut| *cut >= least && *cut <= lane.end());
        let cut = likely.find(|cut| truth::places(&lane.rows[..usize::from(*cut)]) == found);
        let Some(cut) = cut else { return state.break_with("a lookup is a cut, not older than what was shown") };
        if cut > lane.shown {
            self.note(Event::LookupAhead);
        }
        (state.looker.places[bucket], state.looker.found[bucket]) = (found, cut);
    }

    /// It takes the rows that it has found: hot ones, or those that the lake has.
    pub fn fetch_found(&self, state: &mut State) {
        let Looker { places, seen, found, .. } = std::mem::take(&mut state.looker);
        state.looker.seen = seen;
        for bucket in used_buckets(&self.scope) {
            for (key, place) in places[bucket].iter().enumerate() {
                let Some(place) = *place else { continue };
                if place >= state.lanes[bucket].floor {
                    continue;
                }
                if state.boundary.has(bucket, place) {
                    self.note(Event::LookupCold);
                    continue;
                }
                self.note(Event::LookupAgain);
                let now = truth::places(&state.lanes[bucket].rows)[key];
                if self.is(Mutant::GoneMeansNone) && now.is_some() {
                    state.break_with("a lookup finds a row that is there");
                }
                return;
            }
        }
        if !self.is_one_cut(state, &found) {
            return state.break_with("what a lookup finds is one cut");
        }
        state.looker.seen = found;
    }

    /// Whether what was found in each bucket is so at one position of the journal.
    fn is_one_cut(&self, state: &State, found: &[Offset; BUCKETS]) -> bool {
        let mut ends = [0; BUCKETS];
        let mut same = |frame: Option<&Frame>| {
            for part in frame.iter().flat_map(|frame| &frame.parts) {
                ends[part.bucket] = part.end();
            }
            let places = |bucket: usize, end: Offset| truth::places(&state.lanes[bucket].rows[..usize::from(end)]);
            let is_in_log = |bucket: usize| ends[bucket] <= state.lanes[bucket].end();
            (0..BUCKETS)
                .all(|bucket| is_in_log(bucket) && places(bucket, ends[bucket]) == places(bucket, found[bucket]))
        };
        same(None) || state.journal[..state.synced].iter().any(|frame| same(Some(frame)))
    }

    /// The state of a split that stands begins a follower.
    fn join(&self, state: &mut State, ends: [Offset; BUCKETS]) {
        if !self.scope.follower || state.follower != Follower::None {
            return;
        }
        let next = match () {
            () if self.is(Mutant::SnapshotThenEnds) => state.shown(),
            () if self.is(Mutant::EndsThenSnapshot) => state.reader.ends_before,
            () => ends,
        };
        self.note(Event::FollowerJoined);
        let mut rows = [None; KEYS];
        for (key, row) in rows.iter_mut().enumerate() {
            let log = &state.lanes[self.scope.buckets[key]].rows;
            let place = truth::places(&log[..usize::from(ends[self.scope.buckets[key]])])[key];
            *row = place.map(|place| log[usize::from(place)].row);
        }
        state.follower = Follower::Follows { next, state: rows };
    }

    /// A follower makes the changes of a bucket that were shown since.
    pub fn follow(&self, state: &mut State, bucket: usize) {
        let Follower::Follows { next, state: rows } = &mut state.follower else { return };
        let lane = &state.lanes[bucket];
        if next[bucket] < lane.floor {
            self.note(Event::FollowerTooSlow);
            state.follower = Follower::TooSlow;
            return;
        }
        let mut wrong = false;
        for change in &lane.rows[usize::from(next[bucket])..usize::from(lane.shown)] {
            let row = &mut rows[usize::from(change.key)];
            let (before, after) = match change.kind {
                Kind::Insert => (None, Some(change.row)),
                Kind::Before => (Some(change.row), None),
                // It comes after its other half.
                Kind::After => (None, Some(change.row)),
                Kind::Delete => (Some(change.row), None),
            };
            wrong |= *row != before && !self.scope.brief;
            *row = after;
        }
        next[bucket] = lane.shown;
        self.note(Event::FollowerWentOn);
        let right = truth::places(&lane.rows[..usize::from(lane.shown)]);
        for key in (0..KEYS).filter(|key| self.scope.buckets[*key] == bucket) {
            wrong |= rows[key] != right[key].map(|place| lane.rows[usize::from(place)].row);
        }
        if wrong {
            state.break_with("a follower's changes go on from its state");
        }
    }
}
