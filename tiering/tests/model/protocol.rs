//! The protocol as a whole: what can happen next, and what must never be.
//!
//! Two kinds of rule are checked. *Outcomes* are what users see: acked rows are there once, nothing shown goes away, splits,
//! followers and other engines that read the lake get the rows that were shown, a start after an honest crash succeeds.
//! *Discipline* is how that is reached: nothing is shown before it is durable, nothing let go before the lake has it. A
//! mutant has to break an outcome.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use crate::explore::Protocol;
use crate::reading::{ReadStep, read_steps};
use crate::scope::{Event, Mutant, Scope};
use crate::state::*;

/// One step of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client sends a request, or sends it again.
    Send(usize),
    /// Only where each bucket gives out its own offsets: a request takes those of its next bucket.
    TakeBucket(usize),
    /// A client stops waiting: the answer is lost.
    GiveUp(usize),
    /// The journal's thread writes so many of the tickets that wait.
    Write(usize),
    /// The disk is full: what was to be written is not.
    Refuse,
    Sync,
    /// The disk cannot say that it has the group: the process ends.
    FailSync,
    Show,
    Answer,
    Mark,
    Seal(usize),
    Carry(usize),
    CaptureCheckpoint,
    WriteCheckpoint,
    RemoveSuperfluous,
    /// A round takes what is published, except for the last so many rows of each bucket.
    Plan {
        worker: usize,
        less: Offset,
    },
    /// Only where the guard is a step of its own.
    Guard(usize),
    Commit(usize),
    /// A create reaches the store, and its worker hears the answer or not.
    Deliver {
        put: usize,
        heard: bool,
    },
    /// The store answers "exists" though nothing is there, and forgets the create.
    Conflict(usize),
    TimeOut(usize),
    Look(usize),
    Abandon(usize),
    Publish(usize),
    /// Another engine rewrites files.
    Replace(usize),
    /// The node reads the newest version and its readers use it.
    Find(usize),
    Trim {
        table: usize,
        version: usize,
    },
    TrimAhead(usize),
    Read,
    FollowHot {
        follower: usize,
        lane: usize,
        to: Offset,
    },
    FollowCold {
        follower: usize,
        lane: usize,
        to: Offset,
    },
    /// The process dies; the system keeps what was written.
    Kill,
    /// Of what is not synced so many frames are kept, and perhaps those after the next one; perhaps names in the lake.
    PowerCut {
        frames: u16,
        later: bool,
        lake: bool,
    },
    Recover,
    Rot(Position),
}

/// A scope, made ready.
pub struct Model {
    pub scope: Scope,
    pub read_steps: Vec<ReadStep>,
    first_lane: Vec<usize>,
    /// A bit for each event that a search came across.
    seen: Cell<u64>,
}

impl Model {
    pub fn new(scope: Scope) -> Model {
        let mut first_lane = vec![0];
        for buckets in &scope.tables {
            first_lane.push(first_lane[first_lane.len() - 1] + usize::from(*buckets));
        }
        Model { read_steps: read_steps(&scope, &first_lane), scope, first_lane, seen: Cell::new(0) }
    }

    pub fn lanes(&self, table: usize) -> Range<usize> {
        self.first_lane[table]..self.first_lane[table + 1]
    }

    pub fn lanes_count(&self) -> usize {
        self.first_lane[self.scope.tables.len()]
    }

    pub fn is(&self, mutant: Mutant) -> bool {
        self.scope.mutant == Some(mutant)
    }

    pub fn note(&self, event: Event) {
        self.seen.set(self.seen.get() | 1 << event as u32);
    }

    pub fn has_seen(&self, event: Event) -> bool {
        self.seen.get() & 1 << event as u32 != 0
    }

    fn perform(&self, state: &mut State, action: &Action) {
        match action {
            Action::Send(request) => self.send(state, *request),
            Action::TakeBucket(request) => self.take_bucket(state, *request),
            Action::GiveUp(request) => state.clients[*request].knows = Knows::Nothing,
            Action::Write(count) => self.write(state, *count),
            Action::Refuse => self.refuse(state),
            Action::Sync => self.sync(state),
            Action::FailSync => self.fail_sync(state),
            Action::Show => self.show(state),
            Action::Answer => self.answer(state),
            Action::Mark => self.mark(state),
            Action::Seal(lane) => self.seal(state, *lane),
            Action::Carry(lane) => self.carry(state, *lane),
            Action::CaptureCheckpoint => self.capture_checkpoint(state),
            Action::WriteCheckpoint => self.write_checkpoint(state),
            Action::RemoveSuperfluous => self.remove_superfluous(state),
            Action::Plan { worker, less } => self.plan(state, *worker, *less),
            Action::Guard(worker) => self.guard(state, *worker),
            Action::Commit(worker) => self.commit(state, *worker),
            Action::Deliver { put, heard } => self.deliver(state, *put, *heard),
            Action::Conflict(put) => self.conflict(state, *put),
            Action::TimeOut(worker) => self.time_out(state, *worker),
            Action::Look(worker) => self.look(state, *worker),
            Action::Abandon(worker) => state.rounds[*worker] = Round::Idle,
            Action::Publish(worker) => self.publish(state, *worker),
            Action::Replace(table) => self.replace(state, *table),
            Action::Find(table) => self.find(state, *table),
            Action::Trim { table, version } => {
                let offsets = state.lakes[*table].versions[*version].offsets.clone();
                self.trim(state, *table, &offsets);
            }
            Action::TrimAhead(worker) => self.trim_ahead(state, *worker),
            Action::Read => self.read(state),
            Action::FollowHot { follower, lane, to } => self.follow_hot(state, *follower, *lane, *to),
            Action::FollowCold { follower, lane, to } => self.follow_cold(state, *follower, *lane, *to),
            Action::Kill => {
                state.left.kills -= 1;
                self.crash(state);
            }
            Action::PowerCut { frames, later, lake } => self.power_cut(state, *frames, *later, *lake),
            Action::Recover => self.recover(state),
            Action::Rot(position) => self.rot(state, *position),
        }
    }

    fn crash_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.life == Life::Up && state.left.kills > 0 {
            actions.push(Action::Kill);
        }
        let unsynced = state.journal.end() - state.journal.synced;
        let lake_unsynced = state.lakes.iter().any(|lake| lake.versions.iter().any(|version| !version.synced));
        let matters = unsynced > 0 || lake_unsynced || state.segments.iter().any(|segment| !segment.synced);
        if state.left.power_cuts == 0 || !(matters || state.life == Life::Up && state.left.kills == 0) {
            return;
        }
        for frames in 0..=unsynced {
            for later in [false, true] {
                for lake in [true, false] {
                    if (later && frames + 1 >= unsynced) || (!lake && !lake_unsynced) {
                        continue;
                    }
                    actions.push(Action::PowerCut { frames, later, lake });
                }
            }
        }
    }

    /// Acked rows are there once; of a request all rows or none; what was refused is not there.
    fn requests_violated(&self, state: &State) -> Option<&'static str> {
        let mut counts = vec![0; state.clients.len()];
        for (row, _) in state.shown.iter().flatten() {
            counts[usize::from(*row)] += 1;
        }
        for (index, request) in self.scope.requests.iter().enumerate() {
            let client = &state.clients[index];
            let rows: u16 = request.parts.iter().map(|(_, rows)| *rows).sum();
            if counts[index] > rows {
                return Some("a request is applied once");
            }
            if counts[index] != 0 && counts[index] != rows {
                return Some("a request is applied whole or not at all");
            }
            if client.knows == Knows::Acked && counts[index] == 0 {
                return Some("acked rows can be seen");
            }
            if client.knows == Knows::Failed && client.sent == 1 && counts[index] > 0 {
                return Some("what was refused is not there");
            }
        }
        None
    }

    fn lake_violated(&self, state: &State) -> Option<&'static str> {
        for (table, lake) in state.lakes.iter().enumerate() {
            let version = &lake.versions[lake.newest()];
            for (bucket, lane) in self.lanes(table).enumerate() {
                let rows = &version.rows[bucket];
                let same = rows.len() == usize::from(version.offsets[bucket])
                    && rows.len() <= state.shown[lane].len()
                    && rows.iter().zip(&state.shown[lane]).all(|(row, (shown, _))| row == shown);
                if !same {
                    return Some("the lake holds the rows below its offsets, each once");
                }
            }
        }
        None
    }

    fn discipline_violated(&self, state: &State) -> Option<&'static str> {
        if state.shown.iter().flatten().any(|(_, position)| *position >= state.journal.synced) {
            return Some("shown rows are durable");
        }
        for (table, lake) in state.lakes.iter().enumerate() {
            let durable = lake.versions.iter().rev().find(|version| version.synced);
            for (bucket, lane) in self.lanes(table).enumerate() {
                if state.lanes[lane].floor > durable.map_or(0, |version| version.offsets[bucket]) {
                    return Some("rows are let go when the lake has them for good");
                }
            }
            let Some(boundary) = &state.boundaries[table] else { continue };
            let there = lake.versions.get(boundary.version).is_some_and(|version| version.offsets == boundary.offsets);
            if !there {
                return Some("a boundary is a version that is there");
            }
        }
        None
    }
}

impl Protocol for Model {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let scope = &self.scope;
        let lanes = self.lanes_count();
        let buckets = |table: usize| usize::from(scope.tables[table]);
        let tables = 0..scope.tables.len();
        let writers = scope.requests.iter().filter_map(|request| request.writer).map(|(writer, _)| writer + 1);
        let writers = writers.max().unwrap_or(0);
        let kept = vec![vec![Vec::new(); writers]; scope.tables.len()];
        let empty = |table: usize| Version {
            offsets: vec![0; buckets(table)],
            rows: vec![Vec::new(); buckets(table)],
            commit: 0,
            synced: true,
        };
        let owners = tables.clone().map(|table| Owner {
            next: vec![0; buckets(table)],
            kept: kept[table].clone(),
            ..Owner::default()
        });
        let boundary = |table: usize| Boundary { version: 0, offsets: vec![0; buckets(table)] };
        let follower = Follower { next: vec![0; buckets(0)], cold: None };
        State {
            life: Life::Up,
            clients: vec![Client { sent: 0, knows: Knows::Nothing, parts: Vec::new() }; scope.requests.len()],
            owners: owners.collect(),
            lanes: vec![Lane::default(); lanes],
            queue: Vec::new(),
            group: Vec::new(),
            phase: Phase::Idle,
            journal: Journal { files: vec![0], frames: Vec::new(), synced: 0, lost: false },
            checkpoint: Checkpoint { position: 0, lanes: vec![LaneState::default(); lanes], kept: kept.clone() },
            capture: None,
            segments: Vec::new(),
            garbage: Vec::new(),
            lakes: tables.clone().map(|table| Lake { versions: vec![Rc::new(empty(table))], hint: 0 }).collect(),
            boundaries: tables.map(|table| Some(boundary(table))).collect(),
            rounds: vec![Round::Idle; scope.workers.len()],
            puts: Vec::new(),
            reader: Reader::default(),
            followers: vec![follower; scope.followers],
            shown: vec![Vec::new(); lanes],
            left: scope.budget.clone(),
            broken: None,
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() || state.life == Life::Refused {
            return;
        }
        self.hot_actions(state, actions);
        self.lake_actions(state, actions);
        self.reading_actions(state, actions);
        self.crash_actions(state, actions);
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        self.perform(&mut next, action);
        if self.scope.whole_writes && next.life == Life::Up {
            while !next.queue.is_empty() || next.phase != Phase::Idle {
                self.advance_journal(&mut next);
            }
        }
        next
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        let discipline = || self.scope.mutant.is_none().then(|| self.discipline_violated(state)).flatten();
        state.broken.or_else(|| self.requests_violated(state)).or_else(|| self.lake_violated(state)).or_else(discipline)
    }
}
