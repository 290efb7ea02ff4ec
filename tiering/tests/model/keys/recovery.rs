//! Crashes and what a start makes of them, and how hot rows are let go so that it can.
//!
//! Stands for `engine/src/recovery.rs`, `keys/index_snapshot.rs` and the trims of `engine.rs`. Checkpoints, segments
//! and journal files are the other model's: here the journal keeps all frames, and rows below a durable floor are not
//! looked at.

use std::rc::Rc;

use super::protocol::{Action, Model};
use super::scope::{Event, Mutant};
use super::state::*;
use super::truth;
use super::writing::end_versions;

impl Model {
    pub fn recovery_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.left.crashes > 0 {
            let unsynced = state.journal.len() - state.synced;
            for kept in 0..=unsynced {
                actions.push(Action::Restart { kept, torn: false });
                if self.is(Mutant::HalfFrameTaken) && kept < unsynced {
                    actions.push(Action::Restart { kept, torn: true });
                }
            }
        }
        match &state.letting_go {
            None => {
                let floors = self.floors(state);
                let raised = floors.iter().zip(&state.lanes).any(|(floor, lane)| *floor > lane.floor);
                if state.left.trims > 0 && raised {
                    actions.push(Action::BeginTrim);
                }
            }
            Some(LettingGo { ends: Some(_), indexes: Some(_), .. }) => {
                if state.phase == Phase::Idle {
                    actions.push(Action::Trim);
                }
            }
            Some(_) => actions.push(Action::DrawKeys),
        }
    }

    /// Up to where rows may go.
    fn floors(&self, state: &State) -> [Offset; BUCKETS] {
        match &state.round {
            Round::Planned(attempt) if self.is(Mutant::TrimBeforeBoundary) => attempt.end,
            _ => state.boundary.offsets,
        }
    }

    pub fn begin_trim(&self, state: &mut State) {
        state.left.trims -= 1;
        state.letting_go = Some(LettingGo { floors: self.floors(state), ends: None, indexes: None });
        self.draw_keys(state);
    }

    /// The ends first and then the keys: the index knows what was published, and maybe more.
    pub fn draw_keys(&self, state: &mut State) {
        let (ends, indexes) = (state.shown(), [state.lanes[0].index, state.lanes[1].index]);
        let Some(letting_go) = &mut state.letting_go else { return };
        let keys_first = self.is(Mutant::KeysKeptAhead);
        if letting_go.ends.is_none() && (!keys_first || letting_go.indexes.is_some()) {
            letting_go.ends = Some(ends);
            return;
        }
        letting_go.indexes = Some(indexes);
        if letting_go.ends.is_some_and(|ends| (0..BUCKETS).any(|bucket| state.lanes[bucket].end() > ends[bucket])) {
            self.note(Event::KeysAheadOfEnd);
        }
    }

    /// The edit that names the snapshots raises the floors.
    pub fn trim(&self, state: &mut State) {
        let Some(LettingGo { floors, ends: Some(ends), indexes: Some(indexes) }) = state.letting_go.take() else {
            return;
        };
        for bucket in 0..BUCKETS {
            let (lane, disk) = (&mut state.lanes[bucket], &mut state.disk[bucket]);
            if floors[bucket] <= lane.floor {
                continue;
            }
            let will_do = |known: &KeysSnapshot| known.end >= floors[bucket] || self.is(Mutant::KeysTooOld);
            if !disk.keys.as_ref().is_some_and(will_do) && !self.is(Mutant::KeysNotKept) {
                let synced = !self.is(Mutant::KeysUnsynced);
                disk.keys = Some(KeysSnapshot { end: ends[bucket], index: indexes[bucket], synced });
            }
            (lane.floor, disk.floor) = (floors[bucket], floors[bucket]);
        }
    }

    /// The node dies. Of what is not synced so many frames are there when it starts again.
    pub fn restart(&self, state: &mut State, kept: usize, torn: bool) {
        state.left.crashes -= 1;
        let half = torn.then(|| half(&state.journal[state.synced + kept]));
        state.journal.truncate(state.synced + kept);
        state.journal.extend(half.map(Rc::new));
        if kept > 0 {
            self.note(Event::UnansweredRowsRecovered);
        }
        for client in &mut state.clients {
            let waited = client.knows == Knows::Waiting;
            *client = Client::new(if waited { Knows::Unsure } else { client.knows });
        }
        state.synced = state.journal.len();
        (state.queue, state.group, state.phase) = (Vec::new(), Vec::new(), Phase::Idle);
        (state.deriver, state.durable) = (Deriver::default(), 0);
        (state.letting_go, state.round) = (None, Round::Idle);
        state.rewrites.fill(None);
        (state.reader, state.looker.step) = (Reader::default(), 0);
        (state.looker.places, state.looker.found) = Default::default();
        state.boundary = state.newest().clone();
        self.recover(state);
    }

    fn recover(&self, state: &mut State) {
        state.lanes = Default::default();
        for frame in state.journal.clone() {
            self.push_rows(state, &frame);
            if state.broken.is_some() {
                return;
            }
        }
        for bucket in 0..BUCKETS {
            let Kept { floor, keys } = state.disk[bucket];
            if keys.is_some_and(|keys| !keys.synced) {
                return state.break_with("a start after a crash finds what it needs");
            }
            let (known, index) = keys.map_or((0, [None; KEYS]), |keys| (keys.end, keys.index));
            let lane = &mut state.lanes[bucket];
            (lane.floor, lane.shown, lane.index) = (floor, lane.end(), index);
            state.owner.next[bucket] = lane.shown;
            if keys.is_some() {
                self.note(Event::KeysRestored);
            }
            self.replay(state, bucket, known);
        }
        state.owner.epoch = 0;
    }

    /// Hot rows say the rest: of keys those past what the snapshot knows, of endings all.
    fn replay(&self, state: &mut State, bucket: usize, known: Offset) {
        let lane = &mut state.lanes[bucket];
        let replayed = truth::places(&lane.rows);
        let from = known.max(lane.floor);
        for change in &lane.rows[usize::from(from).min(lane.rows.len())..] {
            let key = usize::from(change.key);
            lane.index[key] = replayed[key];
        }
        let skipped = if self.is(Mutant::EndingsSkipped) { from } else { lane.floor };
        let first = usize::from(skipped).min(lane.rows.len());
        let rows = lane.rows[first..].to_vec();
        if !self.is(Mutant::EndingsNotReplayed) {
            end_versions(state, &Part { bucket, base: first as Offset, rows, effects: Vec::new() });
        }
    }
}

/// A frame up to its first part.
fn half(frame: &Frame) -> Frame {
    Frame { request: frame.request, read: frame.read, parts: frame.parts[..1.min(frame.parts.len())].to_vec() }
}
