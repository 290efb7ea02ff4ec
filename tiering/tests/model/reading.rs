//! Readers: the split in its single steps, and followers.
//!
//! Stands for `tiering/src/split.rs`, `boundary.rs` and `follow.rs`. A split is judged when it stands: its cold and hot rows
//! together must be the rows shown below its ends, and its ends must be one cut of all tables.

use crate::protocol::{Action, Model};
use crate::scope::{Event, Mutant, Scope};
use crate::state::*;

/// What a reader does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStep {
    LoadBoundary(usize),
    /// Only where offsets and snapshot are loaded apart.
    LoadSnapshot(usize),
    LoadEnds,
    /// Only where tables are cut apart.
    LoadEndsOf(usize),
    TakeHot(usize),
    Recheck,
}

/// The steps of a split of all tables.
pub fn read_steps(scope: &Scope, first_lane: &[usize]) -> Vec<ReadStep> {
    if !scope.reader {
        return Vec::new();
    }
    let tables = 0..scope.tables.len();
    let mut boundaries: Vec<_> = tables.clone().map(ReadStep::LoadBoundary).collect();
    let ends = match scope.mutant {
        Some(Mutant::CutApart) => tables.clone().map(ReadStep::LoadEndsOf).collect(),
        _ => vec![ReadStep::LoadEnds],
    };
    if scope.mutant == Some(Mutant::ReaderOffsetsApart) {
        boundaries.extend(tables.map(ReadStep::LoadSnapshot));
    }
    let mut steps = if scope.mutant == Some(Mutant::EndsBeforeBoundary) {
        [ends, boundaries].concat()
    } else {
        [boundaries, ends].concat()
    };
    steps.extend((0..first_lane[scope.tables.len()]).map(ReadStep::TakeHot));
    steps.push(ReadStep::Recheck);
    steps
}

impl Model {
    pub fn reading_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.life != Life::Up {
            return;
        }
        match self.read_steps.get(state.reader.step) {
            Some(ReadStep::LoadBoundary(table)) if self.loadable(state, *table).is_none() => {}
            Some(_) => actions.push(Action::Read),
            None => {}
        }
        for (index, follower) in state.followers.iter().enumerate() {
            if let Some(lane) = follower.cold {
                let Some(boundary) = &state.boundaries[0] else { continue };
                // With nothing there, the step finds that out.
                let end = boundary.offsets[lane].max(follower.next[lane] + 1);
                let ends = if self.scope.loose { follower.next[lane] + 1..=end } else { end..=end };
                actions.extend(ends.map(|to| Action::FollowCold { follower: index, lane, to }));
                continue;
            }
            for lane in self.lanes(0) {
                let (next, end) = (follower.next[lane], state.lanes[lane].end());
                if next < end {
                    let ends = if self.scope.loose { next + 1..=end } else { end..=end };
                    actions.extend(ends.map(|to| Action::FollowHot { follower: index, lane, to }));
                }
            }
        }
    }

    /// The boundary that a reader gets: the empty one will do while all rows are hot.
    fn loadable(&self, state: &State, table: usize) -> Option<Boundary> {
        let all_hot = self.lanes(table).all(|lane| state.lanes[lane].floor == 0);
        let empty = || Boundary { version: 0, offsets: vec![0; self.lanes(table).len()] };
        state.boundaries[table].clone().or_else(|| all_hot.then(empty))
    }

    pub fn read(&self, state: &mut State) {
        let step = self.read_steps[state.reader.step];
        state.reader.step += 1;
        match step {
            ReadStep::LoadBoundary(table) => {
                let boundary = self.loadable(state, table).unwrap_or_default();
                state.reader.boundaries.push(boundary);
            }
            ReadStep::LoadSnapshot(table) => {
                let boundary = self.loadable(state, table).unwrap_or_default();
                state.reader.boundaries[table].version = boundary.version;
            }
            ReadStep::LoadEnds => state.reader.ends = state.lanes.iter().map(Lane::end).collect(),
            ReadStep::LoadEndsOf(table) => {
                let ends = self.lanes(table).map(|lane| state.lanes[lane].end());
                state.reader.ends.extend(ends.collect::<Vec<_>>());
            }
            ReadStep::TakeHot(lane) => self.take_hot(state, lane),
            ReadStep::Recheck => {
                let reader = std::mem::take(&mut state.reader);
                let tables = 0..self.scope.tables.len();
                let unmoved = |table: usize| self.loadable(state, table).as_ref() == Some(&reader.boundaries[table]);
                let unchecked = [Mutant::SplitUnchecked, Mutant::SplitNotRechecked, Mutant::ReaderOffsetsApart]
                    .map(|one| self.is(one));
                if !unchecked.contains(&true) && !tables.clone().all(unmoved) {
                    self.note(Event::SplitFoundBoundaryMoved);
                    return;
                }
                if let Some(wrong) = reader.wrong.or_else(|| cut_violated(state, &reader.ends)) {
                    state.break_with(wrong);
                }
            }
        }
    }

    fn take_hot(&self, state: &mut State, lane: usize) {
        let (table, bucket) = self.place(lane);
        let boundary = &state.reader.boundaries[table];
        let (tiered, end) = (boundary.offsets[bucket], state.reader.ends[lane]);
        let floor = state.lanes[lane].floor;
        let mut from = tiered;
        if self.is(Mutant::SplitUnchecked) {
            from = from.max(floor);
        } else if tiered < end && tiered < floor {
            self.note(Event::SplitFoundRowsGone);
            if self.loadable(state, table).as_ref() == Some(boundary) {
                return state.break_with("a split can be read");
            }
            state.reader = Reader::default();
            return;
        }
        let version = state.lakes[table].versions.get(boundary.version);
        let cold = version.map(|version| version.rows[bucket].clone());
        let hot = if from < end { state.hot(lane, from, end) } else { Some(Vec::new()) };
        let (Some(mut rows), Some(hot)) = (cold, hot) else {
            state.reader.wrong.get_or_insert("a split can be read");
            return;
        };
        rows.extend(hot);
        let shown = &state.shown[lane][..usize::from(end)];
        if rows.len() != shown.len() || rows.iter().zip(shown).any(|(row, (shown, _))| row != shown) {
            state.reader.wrong.get_or_insert("a split has the rows below its ends, each once");
        }
    }

    pub fn place(&self, lane: usize) -> (usize, usize) {
        let table = (0..self.scope.tables.len()).find(|table| self.lanes(*table).contains(&lane)).unwrap_or(0);
        (table, lane - self.lanes(table).start)
    }

    pub fn follow_hot(&self, state: &mut State, follower: usize, lane: usize, to: Offset) {
        let next = state.followers[follower].next[lane];
        if next < state.lanes[lane].floor {
            self.note(Event::FollowerWentCold);
            state.followers[follower].cold = Some(lane);
            return;
        }
        let rows = state.hot(lane, next, to);
        self.followed(state, follower, lane, rows);
    }

    pub fn follow_cold(&self, state: &mut State, follower: usize, lane: usize, to: Offset) {
        state.followers[follower].cold = None;
        let next = state.followers[follower].next[lane];
        let Some(boundary) = &state.boundaries[0] else { return };
        let rows = state.lakes[0].versions.get(boundary.version);
        let rows = rows.and_then(|version| version.rows[lane].get(usize::from(next)..usize::from(to)));
        let rows = rows.map(<[Row]>::to_vec);
        self.followed(state, follower, lane, rows);
    }

    fn followed(&self, state: &mut State, follower: usize, lane: usize, rows: Option<Vec<Row>>) {
        let next = state.followers[follower].next[lane];
        let Some(rows) = rows else { return state.break_with("a follower's rows are in one of the tiers") };
        let shown = &state.shown[lane][usize::from(next)..];
        if rows.len() > shown.len() || rows.iter().zip(shown).any(|(row, (shown, _))| row != shown) {
            return state.break_with("a follower gets the rows that were shown");
        }
        state.followers[follower].next[lane] += rows.len() as Offset;
    }
}

/// Whether there is no journal position at which the tables had these ends.
fn cut_violated(state: &State, ends: &[Offset]) -> Option<&'static str> {
    let inside = state.shown.iter().zip(ends).flat_map(|(shown, end)| &shown[..usize::from(*end)]);
    let newest = inside.map(|(_, position)| *position).max();
    let outside = state.shown.iter().zip(ends).flat_map(|(shown, end)| &shown[usize::from(*end)..]);
    let oldest = outside.map(|(_, position)| *position).min();
    match (newest, oldest) {
        (Some(newest), Some(oldest)) if oldest < newest => Some("the tables of a statement are cut at one position"),
        _ => None,
    }
}
