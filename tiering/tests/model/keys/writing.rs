//! Writing: requests, the overlay, tickets, the journal's thread, and what it publishes step by step.
//!
//! Stands for `engine/src/keys/{derive,overlay}.rs`, `table.rs`, `core.rs` and `journal/group.rs`. A request is derived
//! in one step, since nobody else changes the overlay then; it gets its ticket in another. Old rows that are no longer
//! hot are fetched before, and statements have read what they change in a split. Writers that repeat themselves, and
//! what a disk can do to a journal, are the other model's.

use std::rc::Rc;

use super::protocol::{Action, Model};
use super::scope::{Event, Mutant, Wish};
use super::state::*;
use super::truth::{self, outcomes, row_of};

/// One step of the publication of a group; tickets by their place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Rows(usize),
    Endings(usize),
    /// Of some of a ticket's parts: from one up to another.
    Index(usize, usize, usize),
    Durable(usize),
    Show,
    Answer,
}

impl Model {
    pub fn writing_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let idle = state.phase == Phase::Idle && state.queue.is_empty();
        if state.deriver.draft.is_some() {
            actions.push(Action::Submit);
        } else if idle || !self.scope.whole_writes {
            self.request_actions(state, actions);
        }
        match state.phase {
            Phase::Idle if state.queue.is_empty() => {}
            Phase::Idle => actions.push(Action::Write),
            Phase::Written => {
                actions.push(Action::Sync);
                if state.left.refusals > 0 {
                    actions.push(Action::Refuse);
                }
            }
            Phase::Synced(done) => actions.push(Action::Publish(self.publication(&state.group)[done])),
        }
    }

    fn request_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, client) in state.clients.iter().enumerate() {
            if client.knows != Knows::Nothing {
                continue;
            }
            if self.scope.requests[index].is_statement && client.read.is_none() {
                if self.read_by(state, index).is_some() {
                    actions.push(Action::Plan(index));
                }
                continue;
            }
            actions.push(Action::Derive(index));
            let cold = self.cold_places(state, index);
            if client.fetched == [0; BUCKETS] && cold != [0; BUCKETS] {
                actions.push(Action::Fetch(index));
            }
        }
    }

    /// Where the rows stand that a statement reads; none if there are none for it.
    fn read_by(&self, state: &State, request: usize) -> Option<Places> {
        let mut read = [None; KEYS];
        for (key, _) in &self.scope.requests[request].changes {
            let lane = &state.lanes[self.bucket(*key)];
            let place = truth::places(&lane.rows[..usize::from(lane.shown)])[usize::from(*key)];
            read[usize::from(*key)] = Some(place?);
        }
        Some(read)
    }

    /// A statement reads the rows that it is to change, in a split.
    pub fn plan(&self, state: &mut State, request: usize) {
        state.clients[request].read = self.read_by(state, request);
    }

    /// Old rows of a request that are no longer hot, as the index knows them.
    fn cold_places(&self, state: &State, request: usize) -> [Offsets; BUCKETS] {
        let mut cold = [0; BUCKETS];
        let needs_old = |wish: Wish| wish == Wish::Delete || !self.scope.brief;
        for (key, wish) in &self.scope.requests[request].changes {
            if !needs_old(*wish) {
                continue;
            }
            let bucket = self.bucket(*key);
            let lane = &state.lanes[bucket];
            let place = lane.index[usize::from(*key)].filter(|place| *place < lane.floor);
            cold[bucket] |= place.map_or(0, bit);
        }
        cold
    }

    pub fn fetch(&self, state: &mut State, request: usize) {
        let cold = self.cold_places(state, request);
        let has = |bucket: usize, offset| state.boundary.has(bucket, offset);
        if !(0..BUCKETS).all(|bucket| each(cold[bucket]).all(|offset| has(bucket, offset))) {
            // A newer row has taken its place: it is looked for again.
            return;
        }
        self.note(Event::ColdRowFetched);
        state.clients[request].fetched = cold;
    }

    pub fn derive(&self, state: &mut State, request: usize) {
        let epoch = state.owner.epoch;
        if state.deriver.epoch != epoch {
            if !self.is(Mutant::OverlayKept) {
                state.deriver.overlay.clear();
            }
            state.deriver.epoch = epoch;
        }
        settle(state);
        let read = state.clients[request].read;
        if read.is_some_and(|read| !self.is_as_read(state, request, read)) {
            self.note(Event::StatementOutdated);
            state.clients[request] = Client::new(Knows::Nothing);
            return;
        }
        let Some(parts) = self.derived(state, request) else {
            self.note(Event::FetchedInVain);
            state.clients[request].fetched = [0; BUCKETS];
            return;
        };
        if self.is(Mutant::OverlaySeen) {
            parts.iter().for_each(|part| apply(&mut state.lanes[part.bucket], part));
        }
        state.clients[request] = Client::new(Knows::Waiting);
        state.deriver.draft = Some(Draft { epoch, frame: Frame { request, read, parts } });
    }

    /// Whether the rows that a statement has read are the newest.
    fn is_as_read(&self, state: &State, request: usize, read: Places) -> bool {
        let newest = |key: Key| match self.is(Mutant::ExpectedOfIndex) {
            true => self.indexed(state, key),
            false => self.under_way(state, key).unwrap_or(self.indexed(state, key)),
        };
        let mut changes = self.scope.requests[request].changes.iter();
        changes.all(|(key, _)| newest(*key) == read[usize::from(*key)]) || self.is(Mutant::ExpectedUnchecked)
    }

    /// None if an old row is not at hand.
    fn derived(&self, state: &State, request: usize) -> Option<Vec<Part>> {
        let part = |bucket| Part { bucket, base: state.owner.next[bucket], rows: Vec::new(), effects: Vec::new() };
        let mut parts: Vec<Part> = (0..BUCKETS).map(part).collect();
        for (place, (key, wish)) in self.scope.requests[request].changes.iter().enumerate() {
            let bucket = self.bucket(*key);
            let part = &mut parts[bucket];
            let own = part.effect(*key).filter(|_| !self.is(Mutant::RequestNotFolded));
            let at = own.or_else(|| self.under_way(state, *key)).unwrap_or(self.indexed(state, *key));
            let old = match at {
                None => None,
                Some(at) if self.scope.brief && *wish == Wish::Upsert => Some((at, 0)),
                Some(at) => Some((at, self.old_row(state, request, part, *key, at)?)),
            };
            let made = outcomes(*key, *wish, row_of(request, place), old, self.scope.brief);
            part.rows.extend(&made);
            let Some(last) = made.last() else { continue };
            let newest = last.is_version().then(|| part.end() - 1);
            part.effects.retain(|(own, _)| own != key);
            part.effects.push((*key, newest));
        }
        parts.retain(|part| !part.rows.is_empty());
        Some(parts)
    }

    fn indexed(&self, state: &State, key: Key) -> Option<Offset> {
        state.lanes[self.bucket(key)].index[usize::from(key)]
    }

    fn under_way(&self, state: &State, key: Key) -> Option<Option<Offset>> {
        if self.is(Mutant::OverlayIgnored) {
            return None;
        }
        let bucket = self.bucket(key);
        let pending = state.deriver.overlay.iter().rev();
        let found = pending.filter_map(|pending| pending.frame.part(bucket)).find_map(|part| part.effect(key));
        if found.is_some() {
            self.note(Event::BuiltOnOverlay);
        }
        found
    }

    /// The row at an offset: of the request itself, of one under way, fetched, or hot.
    fn old_row(&self, state: &State, request: usize, own: &Part, key: Key, at: Offset) -> Option<Row> {
        let lane = &state.lanes[own.bucket];
        let fetched = state.clients[request].fetched[own.bucket];
        if self.is(Mutant::FetchedRowBelieved) {
            let of_key = each(fetched).map(|offset| lane.rows[usize::from(offset)]).find(|row| row.key == key);
            if let Some(row) = of_key {
                return Some(row.row);
            }
        }
        let inside =
            |part: &Part| at.checked_sub(part.base).and_then(|place| part.rows.get(usize::from(place)).copied());
        let under_way = || {
            let parts = state.deriver.overlay.iter().filter_map(|pending| pending.frame.part(own.bucket));
            parts.rev().find_map(inside)
        };
        let here = at >= lane.floor || fetched & bit(at) != 0;
        let there = || lane.rows.get(usize::from(at)).copied().filter(|_| here);
        inside(own).or_else(under_way).or_else(there).map(|change| change.row)
    }

    pub fn submit(&self, state: &mut State) {
        let Some(Draft { epoch, mut frame }) = state.deriver.draft.take() else { return };
        if epoch != state.owner.epoch && !self.is(Mutant::DraftOutlivesAbort) {
            self.note(Event::DraftVoid);
            state.clients[frame.request].knows = Knows::Failed;
            return;
        }
        for part in &mut frame.parts {
            part.base = state.owner.next[part.bucket];
            state.owner.next[part.bucket] = part.end();
        }
        state.deriver.tickets += 1;
        let (number, frame) = (state.deriver.tickets, Rc::new(frame));
        state.deriver.overlay.push(Pending { ticket: number, frame: frame.clone() });
        state.queue.push(Ticket { number, epoch: state.owner.epoch, frame });
    }

    pub fn write(&self, state: &mut State) {
        for ticket in std::mem::take(&mut state.queue) {
            if ticket.epoch != state.owner.epoch && !self.is(Mutant::StaleTicketWritten) {
                self.note(Event::TicketStale);
                state.clients[ticket.frame.request].knows = Knows::Failed;
                continue;
            }
            state.journal.push(ticket.frame.clone());
            state.group.push(ticket);
        }
        if !state.group.is_empty() {
            state.phase = Phase::Written;
        }
    }

    pub fn refuse(&self, state: &mut State) {
        state.left.refusals -= 1;
        state.journal.truncate(state.synced);
        for ticket in std::mem::take(&mut state.group) {
            state.clients[ticket.frame.request].knows = Knows::Failed;
        }
        state.owner.epoch += 1;
        if !self.is(Mutant::OffsetsNotGivenBack) {
            state.owner.next = [state.lanes[0].end(), state.lanes[1].end()];
        }
        state.phase = Phase::Idle;
    }

    pub fn sync(&self, state: &mut State) {
        state.synced = state.journal.len();
        state.phase = Phase::Synced(0);
    }

    /// The steps in which a group is published.
    pub fn publication(&self, group: &[Ticket]) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut late = Vec::new();
        for (place, ticket) in group.iter().enumerate() {
            let parts = ticket.frame.parts.len();
            let index: Vec<_> = match self.is(Mutant::IndexesApart) {
                true => (0..parts).map(|part| Step::Index(place, part, part + 1)).collect(),
                false => vec![Step::Index(place, 0, parts)],
            };
            if self.is(Mutant::SettledEarly) {
                steps.push(Step::Durable(place));
            }
            if self.is(Mutant::IndexBeforeRows) {
                steps.extend(index.clone());
            }
            steps.push(Step::Rows(place));
            let endings = if self.is(Mutant::EndingsAfterEnds) { &mut late } else { &mut steps };
            endings.push(Step::Endings(place));
            let indexed = if self.is(Mutant::IndexAfterEnds) { &mut late } else { &mut steps };
            indexed.extend(index);
            indexed.push(Step::Durable(place));
        }
        steps.push(Step::Show);
        steps.extend(late);
        steps.push(Step::Answer);
        if self.is(Mutant::AnsweredBeforeShown) {
            let last = steps.len() - 1;
            steps.swap(last - 1, last);
        }
        steps
    }

    pub fn publish(&self, state: &mut State, step: Step) {
        let Phase::Synced(done) = state.phase else { return };
        let is_last = done + 1 == self.publication(&state.group).len();
        state.phase = Phase::Synced(done + 1);
        let frame = |place: usize| state.group[place].frame.clone();
        match step {
            Step::Rows(place) => self.push_rows(state, &frame(place)),
            Step::Endings(place) => frame(place).parts.iter().for_each(|part| end_versions(state, part)),
            Step::Index(place, from, to) => {
                for part in &frame(place).parts[from..to] {
                    apply(&mut state.lanes[part.bucket], part);
                }
            }
            Step::Durable(place) => {
                state.durable = state.group[place].number;
                settle(state);
            }
            Step::Show => state.lanes.iter_mut().for_each(|lane| lane.shown = lane.end()),
            Step::Answer => {
                for ticket in &state.group {
                    state.clients[ticket.frame.request].knows = Knows::Acked;
                }
            }
        }
        if is_last {
            state.group.clear();
            state.phase = Phase::Idle;
        }
    }

    /// Puts a durable frame's rows into the log. They are judged here, for they are here for good.
    pub fn push_rows(&self, state: &mut State, frame: &Frame) {
        for bucket in 0..BUCKETS {
            let lane = &mut state.lanes[bucket];
            let part = frame.part(bucket);
            let (base, rows) = part.map_or((lane.end(), &[][..]), |part| (part.base, &part.rows));
            if base != lane.end() {
                return state.break_with("what is durable can be shown");
            }
            let expected = truth::changes(&self.scope, frame.request, bucket, &lane.rows);
            let (read, newest) = (frame.read.unwrap_or_default(), truth::places(&lane.rows));
            if (0..KEYS).any(|key| self.scope.buckets[key] == bucket && read[key].is_some() && read[key] != newest[key])
            {
                return state.break_with("a statement changes the rows that it has read");
            }
            lane.rows.extend(rows);
            lane.ended.resize(lane.rows.len(), None);
            if rows.is_empty() && !expected.is_empty() {
                return state.break_with("a request is applied whole or not at all");
            }
            if rows != expected {
                return state.break_with("changes are what the request makes of the rows before it");
            }
        }
    }
}

/// Rows learn what ended them.
pub fn end_versions(state: &mut State, part: &Part) {
    let lane = &mut state.lanes[part.bucket];
    for (place, change) in part.rows.iter().enumerate() {
        if let Some(ended) = change.ends {
            lane.ended[usize::from(ended)] = Some(part.base + place as Offset);
        }
    }
}

fn apply(lane: &mut Lane, part: &Part) {
    for (key, place) in &part.effects {
        lane.index[usize::from(*key)] = *place;
    }
}

/// The overlay lets go of what the index knows.
fn settle(state: &mut State) {
    let durable = state.durable;
    state.deriver.overlay.retain(|pending| pending.ticket > durable);
}
