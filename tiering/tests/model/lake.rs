//! The lake: rounds of several workers, a store whose answers get lost or come late, and a foreign engine.
//!
//! Stands for `tiering/src/round.rs` and `lake/{commit,metadata_files}.rs`. A worker reads, plans and writes data files in one
//! step, since what it reads does not change; it guards and sends its create in one step, since the create is a step of its
//! own. The look into the history for its own commit, which `commit.rs` takes first, is left out: a create is repeated under
//! the same number only, so what is found there says it all. A name in the lake is not durable before somebody who heard of it, or reads it, has synced its directory.

use std::rc::Rc;

use crate::protocol::{Action, Model};
use crate::scope::{Event, Mutant};
use crate::state::*;

impl Model {
    pub fn lake_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, worker) in self.scope.workers.iter().enumerate() {
            if worker.foreign || state.life == Life::Up {
                self.worker_actions(state, index, actions);
            }
        }
        for (index, put) in state.puts.iter().enumerate() {
            actions.push(Action::Deliver { put: index, heard: false });
            if self.is_awaited(state, put) {
                actions.push(Action::Deliver { put: index, heard: true });
                actions.push(Action::Conflict(index));
            }
        }
        for (table, lake) in state.lakes.iter().enumerate() {
            if state.left.replaces > 0 && lake.newest() > 0 {
                actions.push(Action::Replace(table));
            }
            if state.life != Life::Up {
                continue;
            }
            let boundary = state.boundaries[table].as_ref();
            if boundary.is_none_or(|boundary| boundary.version < lake.newest()) {
                actions.push(Action::Find(table));
            }
            let Some(boundary) = boundary else { continue };
            let trims = |ticket: &Ticket| matches!(ticket.draft, Draft::Trim { .. });
            if state.left.trims == 0 || state.queue.iter().chain(&state.group).any(trims) {
                continue;
            }
            let oldest = if self.scope.loose { 0 } else { boundary.version };
            for version in oldest..=boundary.version.min(lake.newest()) {
                let offsets = &lake.versions[version].offsets;
                if self.lanes(table).zip(offsets).any(|(lane, offset)| *offset > state.lanes[lane].floor) {
                    actions.push(Action::Trim { table, version });
                }
            }
        }
    }

    fn worker_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let worker = self.scope.workers[index];
        let lake = &state.lakes[worker.table];
        match &state.rounds[index] {
            Round::Idle => {
                let boundary = state.boundaries[worker.table].as_ref();
                let current = worker.foreign || boundary.is_some_and(|boundary| boundary.version == lake.newest());
                if state.left.plans == 0 || state.life != Life::Up || !current {
                    return;
                }
                let start = &lake.versions[lake.newest()].offsets;
                let lanes = || self.lanes(worker.table).zip(start);
                let hot = lanes().all(|(lane, start)| *start >= state.lanes[lane].floor);
                let most = lanes().map(|(lane, start)| state.lanes[lane].end().saturating_sub(*start)).max();
                let most = if hot { most.unwrap_or(0) } else { 0 };
                let least = if self.scope.loose { 1 } else { most.max(1) };
                actions.extend((least..=most).map(|rows| Action::Plan { worker: index, less: most - rows }));
            }
            Round::Planned { guarded, .. } => {
                if self.is(Mutant::GuardApart) && !guarded {
                    actions.push(Action::Guard(index));
                } else {
                    actions.push(Action::Commit(index));
                }
            }
            Round::Sent { .. } => {
                actions.push(Action::TimeOut(index));
                if self.is(Mutant::TrimBeforeBoundary) && !worker.foreign && state.left.trims > 0 {
                    actions.push(Action::TrimAhead(index));
                }
            }
            Round::Looking { .. } => actions.extend([Action::Look(index), Action::Abandon(index)]),
            Round::Committed { .. } => actions.push(Action::Publish(index)),
        }
    }

    fn is_awaited(&self, state: &State, put: &Put) -> bool {
        matches!(&state.rounds[put.worker], Round::Sent { put: sent, .. } if sent == put)
    }

    /// Who reads a version makes its name durable first.
    fn read_newest(&self, state: &mut State, table: usize) -> usize {
        let lake = &mut state.lakes[table];
        if !self.is(Mutant::LakeReadUnsynced) {
            for version in lake.versions.iter_mut().filter(|version| !version.synced) {
                *version = Rc::new(Version { synced: true, ..(**version).clone() });
            }
        }
        lake.newest()
    }

    pub fn plan(&self, state: &mut State, index: usize, less: Offset) {
        let worker = self.scope.workers[index];
        state.left.plans -= 1;
        let commit = self.scope.budget.plans - state.left.plans;
        let newest = self.read_newest(state, worker.table);
        let start = state.lakes[worker.table].versions[newest].offsets.clone();
        let rows = self.lanes(worker.table).zip(&start).map(|(lane, start)| {
            let end = state.lanes[lane].end().saturating_sub(less).max(*start);
            state.hot(lane, *start, end)
        });
        let Some(rows) = rows.collect::<Option<Vec<_>>>() else { return };
        let attempt = Rc::new(Attempt { commit, start, rows });
        state.rounds[index] = Round::Planned { attempt, guarded: false };
        if self.scope.whole_rounds && !worker.foreign {
            self.commit(state, index);
            self.deliver(state, 0, true);
            self.publish(state, index);
        }
    }

    pub fn guard(&self, state: &mut State, index: usize) {
        let Round::Planned { attempt, .. } = state.rounds[index].clone() else { return };
        let table = self.scope.workers[index].table;
        let newest = self.read_newest(state, table);
        let same = state.lakes[table].versions[newest].offsets == attempt.start;
        state.rounds[index] = if same { Round::Planned { attempt, guarded: true } } else { Round::Idle };
    }

    /// Reads what it builds on, guards, and sends the create.
    pub fn commit(&self, state: &mut State, index: usize) {
        let Round::Planned { attempt, guarded } = state.rounds[index].clone() else { return };
        let worker = self.scope.workers[index];
        let newest = self.read_newest(state, worker.table);
        let versions = &state.lakes[worker.table].versions;
        let base = &versions[newest];
        let ends = attempt.ends();
        if self.is(Mutant::PastEndMeansDone) && base.offsets.iter().zip(&ends).all(|(offset, end)| offset >= end) {
            return self.committed(state, index, newest);
        }
        let unguarded = guarded || self.is(Mutant::Rebase) || self.is(Mutant::PastEndMeansDone);
        if base.offsets != attempt.start && !unguarded {
            self.note(Event::RoundStale);
            state.rounds[index] = Round::Idle;
            return;
        }
        let rows = base.rows.iter().zip(&attempt.rows).map(|(base, mine)| [base.as_slice(), mine].concat());
        let offsets = base.offsets.iter().zip(&ends).map(|(base, end)| *base.max(end));
        let content =
            Version { offsets: offsets.collect(), rows: rows.collect(), commit: attempt.commit, synced: true };
        if self.is(Mutant::BoundaryBeforeCommit) && !worker.foreign {
            let boundary = Boundary { version: newest + 1, offsets: content.offsets.clone() };
            state.boundaries[worker.table] = Some(boundary);
        }
        let put = Put { worker: index, table: worker.table, version: newest + 1, content: Rc::new(content) };
        state.puts.push(put.clone());
        state.rounds[index] = Round::Sent { attempt, put };
    }

    fn committed(&self, state: &mut State, index: usize, version: usize) {
        let foreign = self.scope.workers[index].foreign;
        state.rounds[index] = if foreign { Round::Idle } else { Round::Committed { version } };
    }

    pub fn deliver(&self, state: &mut State, index: usize, heard: bool) {
        let awaited = self.is_awaited(state, &state.puts[index]);
        let put = state.puts.remove(index);
        let versions = &mut state.lakes[put.table].versions;
        let taken = versions.len() > put.version;
        let content = Rc::new(Version { synced: heard, ..(*put.content).clone() });
        if !taken {
            // Whoever built on a version had made it last, so none is missing in between. A mutant's is never found.
            if versions.len() < put.version {
                if self.scope.mutant.is_none() {
                    state.break_with("versions follow each other");
                }
                return;
            }
            versions.push(content);
            if !awaited {
                self.note(Event::CreateLandedUnheard);
            }
        } else if self.is(Mutant::VersionOverwritten) {
            versions[put.version] = content;
        }
        if !heard {
            return;
        }
        if !taken || self.is(Mutant::VersionOverwritten) || self.is(Mutant::ConflictIsMine) {
            self.read_newest(state, put.table);
            self.committed(state, put.worker, put.version);
        } else {
            self.time_out(state, put.worker);
        }
    }

    pub fn conflict(&self, state: &mut State, index: usize) {
        let put = state.puts.remove(index);
        if self.is(Mutant::ConflictIsMine) {
            self.committed(state, put.worker, put.version);
        } else {
            self.time_out(state, put.worker);
        }
    }

    pub fn time_out(&self, state: &mut State, index: usize) {
        if let Round::Sent { attempt, put } = state.rounds[index].clone() {
            state.rounds[index] = Round::Looking { attempt, put };
        }
    }

    /// Not the answer but the file says what became of a create.
    pub fn look(&self, state: &mut State, index: usize) {
        let Round::Looking { attempt, put } = state.rounds[index].clone() else { return };
        self.read_newest(state, put.table);
        match state.lakes[put.table].versions.get(put.version) {
            Some(found) if found.commit == attempt.commit => {
                self.note(Event::CreateFoundMine);
                self.committed(state, index, put.version);
            }
            Some(_) => {
                self.note(Event::CreateFoundTaken);
                state.rounds[index] = Round::Planned { attempt, guarded: false };
            }
            None => {
                self.note(Event::CreateFoundAbsent);
                // Twice the same create is no more than one that may come late.
                if !state.puts.contains(&put) {
                    state.puts.push(put.clone());
                }
                state.rounds[index] = Round::Sent { attempt, put };
            }
        }
    }

    pub fn publish(&self, state: &mut State, index: usize) {
        let Round::Committed { version } = state.rounds[index] else { return };
        let table = self.scope.workers[index].table;
        state.rounds[index] = Round::Idle;
        if self.is(Mutant::HintBelieved) {
            state.lakes[table].hint = version as u16;
        }
        if self.is(Mutant::ConflictIsMine) && state.lakes[table].versions.len() <= version {
            // What it takes for its own is published as it would be.
            let offsets = self.lanes(table).map(|lane| state.lanes[lane].end()).collect();
            state.boundaries[table] = Some(Boundary { version, offsets });
            return;
        }
        self.use_version(state, table, version);
    }

    fn use_version(&self, state: &mut State, table: usize, version: usize) {
        let offsets = state.lakes[table].versions[version].offsets.clone();
        let mut ends = self.lanes(table).map(|lane| state.lanes[lane].end());
        if offsets.iter().any(|offset| *offset > ends.next().unwrap_or(0)) {
            return state.break_with("the lake holds no rows that the journal does not know");
        }
        let known = state.boundaries[table].as_ref().map(|boundary| boundary.version);
        if known.is_none_or(|known| known < version) {
            state.boundaries[table] = Some(Boundary { version, offsets });
        }
    }

    pub fn replace(&self, state: &mut State, table: usize) {
        state.left.replaces -= 1;
        let newest = self.read_newest(state, table);
        let versions = &mut state.lakes[table].versions;
        let rewritten = Version { commit: 0, ..(*versions[newest]).clone() };
        versions.push(Rc::new(rewritten));
    }

    pub fn find(&self, state: &mut State, table: usize) {
        let newest = self.read_newest(state, table);
        let hinted = self.is(Mutant::HintBelieved) && state.boundaries[table].is_none();
        let version = if hinted { usize::from(state.lakes[table].hint) } else { newest };
        self.use_version(state, table, version);
    }

    /// Only where rows are let go for a round that is on its way.
    pub fn trim_ahead(&self, state: &mut State, index: usize) {
        let Round::Sent { attempt, .. } = state.rounds[index].clone() else { return };
        self.trim(state, self.scope.workers[index].table, &attempt.ends());
    }
}
