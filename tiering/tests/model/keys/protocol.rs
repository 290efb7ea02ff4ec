//! The protocol of a table with keys as a whole: what can happen next, and what must never be.
//!
//! Most is judged by whom it happens to: changes when they are durable, splits and lookups when they are read,
//! followers with each change. What stays is judged in every state: acked requests are in, failed ones are not, the
//! lake is the state at its offsets. *Discipline* is how that is reached, and asked of the protocol without a mistake
//! alone: a mutant has to break what users see.

use std::cell::Cell;
use std::rc::Rc;

use super::reading::{ReadStep, read_steps};
use super::scope::{Event, Mutant, Scope};
use super::state::*;
use super::truth;
use super::writing::Step;
use crate::explore::Protocol;

/// One step of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A statement reads the rows that it is to change.
    Plan(usize),
    /// Old rows that a request needs are fetched from the lake.
    Fetch(usize),
    /// A request becomes changes.
    Derive(usize),
    /// They get their offsets.
    Submit,
    /// The journal's thread writes what waits.
    Write,
    /// The disk is full: what was to be written is not.
    Refuse,
    Sync,
    /// The next step of publication.
    Publish(Step),
    /// The node dies and starts again; of what is not synced so many frames are kept.
    Restart {
        kept: usize,
        torn: bool,
    },
    BeginTrim,
    DrawKeys,
    Trim,
    /// A round takes the published ends.
    BeginRound,
    PlanRound,
    CommitRound,
    PublishRound,
    PlanRewrite {
        rewriter: usize,
        bucket: usize,
    },
    CommitRewrite(usize),
    /// The node reads the newest version and its readers use it.
    Find,
    Read(ReadStep),
    LookUp,
    FetchFound,
    Follow(usize),
}

/// A scope, made ready.
pub struct Model {
    pub scope: Scope,
    pub read_steps: Vec<ReadStep>,
    /// A bit for each event that a search came across.
    seen: Cell<u64>,
}

impl Model {
    pub fn new(scope: Scope) -> Model {
        Model { read_steps: read_steps(&scope), scope, seen: Cell::new(0) }
    }

    pub fn bucket(&self, key: Key) -> usize {
        self.scope.buckets[usize::from(key)]
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
            Action::Plan(request) => self.plan(state, *request),
            Action::Fetch(request) => self.fetch(state, *request),
            Action::Derive(request) => self.derive(state, *request),
            Action::Submit => self.submit(state),
            Action::Write => self.write(state),
            Action::Refuse => self.refuse(state),
            Action::Sync => self.sync(state),
            Action::Publish(step) => self.publish(state, *step),
            Action::Restart { kept, torn } => self.restart(state, *kept, *torn),
            Action::BeginTrim => self.begin_trim(state),
            Action::DrawKeys => self.draw_keys(state),
            Action::Trim => self.trim(state),
            Action::BeginRound => self.begin_round(state),
            Action::PlanRound => self.plan_round(state),
            Action::CommitRound => self.commit_round(state),
            Action::PublishRound => self.publish_round(state),
            Action::PlanRewrite { rewriter, bucket } => self.plan_rewrite(state, *rewriter, *bucket),
            Action::CommitRewrite(rewriter) => self.commit_rewrite(state, *rewriter),
            Action::Find => {
                let newest = state.newest().clone();
                self.show_version(state, &newest);
            }
            Action::Read(step) => self.read(state, *step),
            Action::LookUp => self.look_up(state),
            Action::FetchFound => self.fetch_found(state),
            Action::Follow(bucket) => self.follow(state, *bucket),
        }
    }

    /// One step of a write that waits, if there is one.
    fn advance(&self, state: &mut State) -> bool {
        match state.phase {
            Phase::Idle if state.deriver.draft.is_some() => self.submit(state),
            Phase::Idle if state.queue.is_empty() => return false,
            Phase::Idle => self.write(state),
            Phase::Written => self.sync(state),
            Phase::Synced(done) => self.publish(state, self.publication(&state.group)[done]),
        }
        state.broken.is_none()
    }

    fn requests_violated(&self, state: &State) -> Option<&'static str> {
        let durable = &state.journal[..state.synced];
        for (request, client) in state.clients.iter().enumerate() {
            let frame = durable.iter().find(|frame| frame.request == request);
            let is_shown = |part: &Part| part.end() <= state.lanes[part.bucket].shown;
            match (client.knows, frame) {
                (Knows::Acked, None) => return Some("what was acked is there"),
                (Knows::Acked, Some(frame)) if !frame.parts.iter().all(is_shown) => {
                    return Some("what was acked can be seen");
                }
                (Knows::Failed, Some(_)) => return Some("what failed left nothing"),
                _ => {}
            }
        }
        None
    }

    fn lake_violated(&self, state: &State) -> Option<&'static str> {
        let newest = state.newest();
        for (bucket, lane) in state.lanes.iter().enumerate() {
            let end = newest.offsets[bucket];
            let rows = newest.of(bucket).map(|file| file.living().count_ones()).sum::<u32>();
            let living = newest.living(bucket);
            if end > lane.end()
                || rows != living.count_ones()
                || living != truth::living(&lane.rows[..usize::from(end)])
            {
                return Some("the lake is the state at its offsets, each row once");
            }
        }
        None
    }

    fn discipline_violated(&self, state: &State) -> Option<&'static str> {
        for (bucket, lane) in state.lanes.iter().enumerate() {
            if !(lane.floor <= state.boundary.offsets[bucket] && state.boundary.offsets[bucket] <= lane.shown) {
                return Some("a bucket's floor, boundary and end stand in this order");
            }
            if state.phase == Phase::Idle && lane.index != truth::places(&lane.rows) {
                return Some("between groups the index says where each key's row stands");
            }
        }
        None
    }
}

impl Protocol for Model {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let empty = Rc::new(Version::default());
        State {
            clients: vec![Client::new(Knows::Nothing); self.scope.requests.len()],
            owner: Owner::default(),
            deriver: Deriver::default(),
            durable: 0,
            queue: Vec::new(),
            group: Vec::new(),
            phase: Phase::Idle,
            journal: Vec::new(),
            synced: 0,
            lanes: Default::default(),
            disk: Default::default(),
            letting_go: None,
            versions: vec![empty.clone()],
            boundary: empty,
            round: Round::Idle,
            rewrites: vec![None; self.scope.rewriters],
            reader: Reader::default(),
            looker: Looker::default(),
            follower: Follower::None,
            left: self.scope.budget,
            broken: None,
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        self.writing_actions(state, actions);
        self.lake_actions(state, actions);
        self.recovery_actions(state, actions);
        self.reading_actions(state, actions);
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        self.perform(&mut next, action);
        if self.scope.whole_writes {
            while self.advance(&mut next) {}
        }
        next
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        let discipline = || self.scope.mutant.is_none().then(|| self.discipline_violated(state)).flatten();
        state.broken.or_else(|| self.requests_violated(state)).or_else(|| self.lake_violated(state)).or_else(discipline)
    }
}
