//! The lake: rounds that write rows and deletes, and rewrites beside them.
//!
//! Stands for `tiering/src/{round,masks,boundary,compact}.rs` and `lake/{commit,ended,rewrite}.rs`. A commit looks at
//! the newest version and creates the next one in one step: how a store loses answers, and whose create comes first, is
//! the other model's. Rewrites do not wait for rounds here, as those of another server would not.

use std::rc::Rc;

use super::protocol::{Action, Model};
use super::scope::{Event, Mutant};
use super::state::*;

impl Model {
    pub fn lake_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match &state.round {
            Round::Idle => {
                let ahead = (0..BUCKETS).any(|bucket| state.lanes[bucket].shown > state.newest().offsets[bucket]);
                if state.left.rounds > 0 && ahead {
                    actions.push(Action::BeginRound);
                }
            }
            Round::Begun(_) => actions.push(Action::PlanRound),
            Round::Planned(_) => actions.push(Action::CommitRound),
            Round::Committed(_) => actions.push(Action::PublishRound),
        }
        if state.boundary.number < state.newest().number {
            actions.push(Action::Find);
        }
        for (rewriter, rewrite) in state.rewrites.iter().enumerate() {
            if rewrite.is_some() {
                actions.push(Action::CommitRewrite(rewriter));
            } else if state.left.rewrites > 0 {
                let worth_it = |bucket: &usize| {
                    let files = || state.newest().of(*bucket);
                    files().count() > 1 || files().any(|file| file.deleted != 0)
                };
                let buckets = (0..BUCKETS).filter(worth_it);
                actions.extend(buckets.map(|bucket| Action::PlanRewrite { rewriter, bucket }));
            }
        }
    }

    pub fn begin_round(&self, state: &mut State) {
        state.left.rounds -= 1;
        state.round = Round::Begun(state.shown());
        if self.scope.whole_rounds {
            self.plan_round(state);
            self.commit_round(state);
            self.publish_round(state);
        }
    }

    pub fn plan_round(&self, state: &mut State) {
        let Round::Begun(ends) = state.round else { return };
        let base = state.newest().clone();
        self.show_version(state, &base);
        let mut end = base.offsets;
        end.iter_mut().zip(ends).for_each(|(end, shown)| *end = shown.max(*end));
        if end == base.offsets {
            state.round = Round::Idle;
            return;
        }
        let (mut rows, mut left) = ([0; BUCKETS], [0; BUCKETS]);
        for bucket in 0..BUCKETS {
            let (lane, from, to) = (&state.lanes[bucket], base.offsets[bucket], end[bucket]);
            if from < to && from < lane.floor {
                return state.break_with("a round finds its rows");
            }
            (rows[bucket], left[bucket]) = self.of_round(lane, from, to);
        }
        let mut ended = Vec::new();
        for file in &base.files {
            let own = left[file.bucket] & file.living();
            left[file.bucket] &= !own;
            ended.push(own);
        }
        if left != [0; BUCKETS] {
            return state.break_with("rows that are ended are in the lake");
        }
        let attempt = Rc::new(Attempt { base: base.number, start: base.offsets, end, rows, ended });
        if self.is(Mutant::BoundaryBeforeCommit) {
            let next = self.with_round(&base, &attempt);
            self.show_version(state, &Rc::new(next));
        }
        state.round = Round::Planned(attempt);
    }

    /// The rows `[from, to)` that live at `to`, and the older ones that their changes end.
    fn of_round(&self, lane: &Lane, from: Offset, to: Offset) -> (Offsets, Offsets) {
        let now = lane.end();
        let rows = match self.is(Mutant::RoundLivesNow) {
            true => lane.versions(from, to, |ended| ended.is_none()),
            false => lane.visible(from, to),
        };
        if rows != lane.versions(from, to, |ended| ended.is_none()) {
            self.note(Event::RowsEndedPastRound);
        }
        let ended = match () {
            () if self.is(Mutant::RoundForgetsEnded) => 0,
            () if self.is(Mutant::RoundEndsNow) => lane.ended_before(from, now),
            () => lane.ended_before(from, to),
        };
        (rows, ended)
    }

    fn with_round(&self, base: &Version, attempt: &Attempt) -> Version {
        let number = base.number + 1;
        let mut files = base.files.clone();
        for (file, ended) in files.iter_mut().zip(&attempt.ended).filter(|(_, ended)| **ended != 0) {
            self.note(if file.deleted == 0 { Event::RowsEndedInLake } else { Event::VectorGrew });
            let before = if self.is(Mutant::VectorReplaced) { 0 } else { file.deleted };
            file.deleted = before | ended;
        }
        for bucket in (0..BUCKETS).filter(|bucket| attempt.rows[*bucket] != 0) {
            files.push(File { made: number, bucket, rows: attempt.rows[bucket], deleted: 0 });
        }
        Version { number, offsets: attempt.end, files }
    }

    pub fn commit_round(&self, state: &mut State) {
        let Round::Planned(attempt) = state.round.clone() else { return };
        let newest = state.newest().clone();
        let moved = newest.number != attempt.base && !self.is(Mutant::RoundOnOtherFiles);
        if newest.offsets != attempt.start || moved {
            self.note(Event::RoundStale);
            state.round = Round::Begun(attempt.end);
            return;
        }
        let next = self.with_round(&newest, &attempt);
        state.round = Round::Committed(next.number);
        state.versions.push(Rc::new(next));
    }

    pub fn publish_round(&self, state: &mut State) {
        let Round::Committed(number) = state.round else { return };
        state.round = Round::Idle;
        let version = state.versions[number].clone();
        self.show_version(state, &version);
    }

    /// Readers use a version from now on, unless they use a newer one.
    pub fn show_version(&self, state: &mut State, version: &Rc<Version>) {
        if version.number <= state.boundary.number {
            return;
        }
        state.boundary = version.clone();
        if self.is(Mutant::OffsetsOfBefore) && version.number > 1 {
            let offsets = state.versions[version.number - 1].offsets;
            state.boundary = Rc::new(Version { offsets, ..(**version).clone() });
        }
    }

    /// All files of a bucket are to become one.
    pub fn plan_rewrite(&self, state: &mut State, rewriter: usize, bucket: usize) {
        state.left.rewrites -= 1;
        let base = state.newest();
        let replaced: Vec<File> = base.of(bucket).copied().collect();
        let rewrite = Rewrite { base: base.number, replaced, rows: base.living(bucket) };
        state.rewrites[rewriter] = Some(Rc::new(rewrite));
    }

    pub fn commit_rewrite(&self, state: &mut State, rewriter: usize) {
        let Some(rewrite) = state.rewrites[rewriter].take() else { return };
        let newest = state.newest().clone();
        let files_of = match self.is(Mutant::RewriteOnOlderList) {
            true => state.versions[rewrite.base].clone(),
            false => newest.clone(),
        };
        let now = |before: &File| files_of.files.iter().find(|file| file.is(before));
        let mut ended = 0;
        for before in &rewrite.replaced {
            match now(before) {
                Some(now) if before.deleted & !now.deleted == 0 => ended |= now.deleted & !before.deleted,
                _ if self.is(Mutant::RewriteUnguarded) => {}
                _ => return self.note(Event::RewriteStale),
            }
        }
        if ended != 0 {
            self.note(Event::RewriteCaughtUp);
        }
        let number = newest.number + 1;
        let stays = |file: &&File| !rewrite.replaced.iter().any(|before| file.is(before));
        let mut files: Vec<File> = files_of.files.iter().filter(stays).copied().collect();
        if rewrite.rows != 0 {
            let deleted = if self.is(Mutant::RewriteForgetsEnded) { 0 } else { ended };
            let bucket = rewrite.replaced[0].bucket;
            files.push(File { made: number, bucket, rows: rewrite.rows, deleted });
        }
        state.versions.push(Rc::new(Version { number, offsets: newest.offsets, files }));
    }
}
