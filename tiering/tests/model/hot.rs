//! The hot tier: clients, owners and their tickets, the journal's thread, upkeep, crashes and recovery.
//!
//! Stands for `engine/src/table.rs`, `writers.rs`, `core.rs`, `upkeep.rs`, `recovery.rs` and `journal/{group,local}.rs`, with
//! frames for bytes. Done in one step here are what happens under one lock, on the journal's thread between two looks of
//! others, or, as recovery, before anybody is served.

use std::rc::Rc;

use crate::protocol::{Action, Model};
use crate::scope::{Event, Mutant};
use crate::state::*;

enum Verdict {
    New,
    Repeat,
    InFlight(usize),
    OutOfOrder,
}

impl Model {
    pub fn hot_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.life {
            Life::Up => {}
            Life::Down => return actions.push(Action::Recover),
            Life::Refused => return,
        }
        self.client_actions(state, actions);
        match state.phase {
            Phase::Idle => {
                let least = if self.scope.loose { 1 } else { state.queue.len().max(1) };
                actions.extend((least..=state.queue.len()).map(Action::Write));
                if state.queue.is_empty() && state.left.marks > 0 && self.is_unmarked(state) {
                    actions.push(Action::Mark);
                }
            }
            Phase::Written => {
                actions.push(Action::Sync);
                if state.left.refusals > 0 {
                    actions.push(Action::Refuse);
                }
                if state.left.sync_failures > 0 {
                    actions.push(Action::FailSync);
                }
            }
            Phase::Synced | Phase::HalfShown => actions.push(Action::Show),
            Phase::Shown => actions.push(Action::Answer),
        }
        self.upkeep_actions(state, actions);
        let rots = if state.left.rots > 0 { state.journal.head()..state.journal.synced } else { 0..0 };
        actions.extend(rots.filter(|position| is_provable(state, *position)).map(Action::Rot));
    }

    fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, request) in self.scope.requests.iter().enumerate() {
            let client = &state.clients[index];
            let sends_max = if request.writer.is_some() { self.scope.sends_max } else { 1 };
            let may_send = client.sent < sends_max && matches!(client.knows, Knows::Nothing | Knows::Failed);
            // A writer sends the first time in its own order, without waiting for answers.
            let before = self.scope.requests[..index].iter().zip(&state.clients);
            let in_turn =
                before.filter(|(other, _)| same_writer(other.writer, request.writer)).all(|(_, c)| c.sent > 0);
            if self.is(Mutant::OwnerPerBucket) {
                if client.sent == 0 && client.parts.len() < request.parts.len() {
                    actions.push(Action::TakeBucket(index));
                }
            } else if may_send && in_turn {
                actions.push(Action::Send(index));
            }
            if client.knows == Knows::Waiting && client.sent < sends_max {
                actions.push(Action::GiveUp(index));
            }
        }
    }

    fn upkeep_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let upkeep = |ticket: &Ticket| matches!(ticket.draft, Draft::AddSegment { .. } | Draft::Carried(_));
        if state.queue.iter().chain(&state.group).any(upkeep) {
            return;
        }
        match &state.capture {
            Some(capture) if capture.durable => actions.push(Action::RemoveSuperfluous),
            Some(_) => {
                actions.push(Action::WriteCheckpoint);
                if self.is(Mutant::FilesBeforeCheckpoint) {
                    actions.push(Action::RemoveSuperfluous);
                }
            }
            None => {
                if state.left.checkpoints > 0 && state.phase == Phase::Idle {
                    actions.push(Action::CaptureCheckpoint);
                }
                for (lane, memory) in state.lanes.iter().enumerate().filter(|(_, memory)| !memory.tail.is_empty()) {
                    if state.left.seals > 0 {
                        actions.push(Action::Seal(lane));
                    }
                    let (table, bucket) = self.place(lane);
                    let in_flight = state.owners[table].next[bucket] != memory.end();
                    if state.left.carries > 0 && (!in_flight || self.is(Mutant::CarriedInFlight)) {
                        actions.push(Action::Carry(lane));
                    }
                }
            }
        }
    }

    pub fn send(&self, state: &mut State, index: usize) {
        let request = &self.scope.requests[index];
        state.clients[index].sent += 1;
        let sending = state.clients[index].sent;
        state.clients[index].knows = Knows::Waiting;
        let lanes = self.lanes(request.table);
        let owner = &mut state.owners[request.table];
        let choose = |owner: &mut Owner| {
            let bucket = usize::from(owner.turn) % lanes.len();
            owner.turn = (owner.turn + 1) % lanes.len() as u16;
            bucket
        };
        let mut chosen = None;
        if let Some((writer, sequence)) = request.writer {
            let bucket = if self.is(Mutant::DedupeAfterBucket) {
                chosen = Some(choose(owner));
                chosen.map(|bucket| lanes.start + bucket)
            } else {
                None
            };
            match self.judge(owner, writer, sequence, bucket) {
                Verdict::New => {}
                Verdict::Repeat => {
                    self.note(Event::RepeatAnswered);
                    state.clients[index].knows = Knows::Acked;
                    return;
                }
                Verdict::InFlight(_) if self.is(Mutant::RepeatAnsweredEarly) => {
                    state.clients[index].knows = Knows::Acked;
                    return;
                }
                Verdict::InFlight(place) => {
                    self.note(Event::RepeatWaited);
                    owner.pending[place].waits = sending;
                    return;
                }
                Verdict::OutOfOrder => {
                    state.clients[index].knows = Knows::Nothing;
                    return;
                }
            }
        }
        let mut parts = Vec::new();
        for (bucket, rows) in &request.parts {
            let bucket = if request.keyless { chosen.unwrap_or_else(|| choose(owner)) } else { usize::from(*bucket) };
            let base = owner.next[bucket];
            owner.next[bucket] += rows;
            parts.push(Part { lane: lanes.start + bucket, base, rows: vec![index as Row; usize::from(*rows)] });
        }
        if let Some((writer, sequence)) = request.writer {
            let kept = Kept { sequence, lane: parts[0].lane };
            owner.pending.push(Pending { request: index, writer, kept, waits: 0 });
        }
        let epoch = owner.epoch;
        let draft = Draft::Rows { request: index, parts };
        state.queue.push(Ticket { draft, table: request.table, epoch, sending });
    }

    /// `bucket`: only where answers are looked for in it.
    fn judge(&self, owner: &Owner, writer: usize, sequence: u8, bucket: Option<usize>) -> Verdict {
        let here = |kept: &Kept| bucket.is_none_or(|bucket| bucket == kept.lane);
        let mut last = None;
        for (place, pending) in owner.pending.iter().enumerate().filter(|(_, pending)| pending.writer == writer) {
            last = last.max(Some(pending.kept.sequence));
            if pending.kept.sequence == sequence && here(&pending.kept) {
                return Verdict::InFlight(place);
            }
        }
        if owner.kept[writer].iter().any(|kept| kept.sequence == sequence && here(kept)) {
            return Verdict::Repeat;
        }
        let last = last.or_else(|| owner.kept[writer].last().map(|kept| kept.sequence));
        if bucket.is_some() || sequence == last.map_or(0, |last| last + 1) {
            return Verdict::New;
        }
        Verdict::OutOfOrder
    }

    pub fn take_bucket(&self, state: &mut State, index: usize) {
        let request = &self.scope.requests[index];
        let client = &mut state.clients[index];
        let (bucket, rows) = request.parts[client.parts.len()];
        let owner = &mut state.owners[request.table];
        let base = owner.next[usize::from(bucket)];
        owner.next[usize::from(bucket)] += rows;
        let lane = self.lanes(request.table).start + usize::from(bucket);
        client.parts.push(Part { lane, base, rows: vec![index as Row; usize::from(rows)] });
        if client.parts.len() == request.parts.len() {
            client.sent = 1;
            client.knows = Knows::Waiting;
            let draft = Draft::Rows { request: index, parts: client.parts.clone() };
            state.queue.push(Ticket { draft, table: request.table, epoch: owner.epoch, sending: 1 });
        }
    }

    /// With whole writes: the next thing that the journal's thread does.
    pub fn advance_journal(&self, state: &mut State) {
        match state.phase {
            Phase::Idle => self.write(state, state.queue.len()),
            Phase::Written => self.sync(state),
            Phase::Synced | Phase::HalfShown => self.show(state),
            Phase::Shown => self.answer(state),
        }
    }

    pub fn write(&self, state: &mut State, count: usize) {
        let taken: Vec<_> = state.queue.drain(..count).collect();
        let (current, stale): (Vec<_>, Vec<_>) = taken.into_iter().partition(|ticket| match ticket.draft {
            Draft::Rows { .. } | Draft::Carried(_) => ticket.epoch == state.owners[ticket.table].epoch,
            Draft::AddSegment { .. } | Draft::Trim { .. } | Draft::Mark => true,
        });
        if !stale.is_empty() {
            self.note(Event::TicketStale);
            self.abort(state, stale);
        }
        if current.is_empty() {
            return;
        }
        self.begin_file(state);
        for ticket in &current {
            self.append(state, ticket.draft.clone(), current.len());
        }
        state.group = current;
        state.phase = Phase::Written;
    }

    fn begin_file(&self, state: &mut State) {
        let journal = &mut state.journal;
        let newest = journal.files[journal.files.len() - 1];
        if self.scope.frames_per_file > 0 && journal.end() - newest >= self.scope.frames_per_file {
            journal.synced = journal.end();
            journal.files.push(journal.end());
        }
    }

    fn append(&self, state: &mut State, draft: Draft, group: usize) {
        let journal = &mut state.journal;
        let ahead = if self.is(Mutant::SyncedEndAhead) { group as Position } else { 0 };
        let synced_end = (journal.synced + ahead).min(journal.end() + 1);
        journal.frames.push(Rc::new(Frame { draft, synced_end, whole: true }));
    }

    pub fn refuse(&self, state: &mut State) {
        state.left.refusals -= 1;
        let group = std::mem::take(&mut state.group);
        let kept = state.journal.frames.len() - group.len();
        state.journal.frames.truncate(kept);
        state.phase = Phase::Idle;
        self.abort(state, group);
    }

    fn abort(&self, state: &mut State, tickets: Vec<Ticket>) {
        for ticket in tickets {
            match ticket.draft {
                Draft::Rows { request, .. } => {
                    let ends: Vec<_> = self.lanes(ticket.table).map(|lane| state.lanes[lane].end()).collect();
                    let owner = &mut state.owners[ticket.table];
                    if owner.epoch == ticket.epoch {
                        owner.epoch += u16::from(!self.is(Mutant::AbortOneOnly));
                        owner.next = ends;
                        for pending in std::mem::take(&mut owner.pending) {
                            fail(&mut state.clients[pending.request], pending.waits);
                        }
                    }
                    fail(&mut state.clients[request], ticket.sending);
                }
                Draft::AddSegment { lane, from, .. } => {
                    state.segments.retain(|file| (file.lane, file.from) != (lane, from));
                }
                Draft::Carried(_) | Draft::Trim { .. } | Draft::Mark => {}
            }
        }
    }

    pub fn sync(&self, state: &mut State) {
        if !self.is(Mutant::AckBeforeSync) && !state.journal.lost {
            state.journal.synced = state.journal.end();
        }
        state.phase = Phase::Synced;
    }

    /// Nobody knows what the disk has, and a second sync might lie: what was written is cut off and the process ends.
    pub fn fail_sync(&self, state: &mut State) {
        state.left.sync_failures -= 1;
        if self.is(Mutant::FailedGroupLeft) {
            state.journal.lost = true;
        } else {
            let kept = state.journal.frames.len() - state.group.len();
            state.journal.frames.truncate(kept);
        }
        self.crash(state);
    }

    pub fn show(&self, state: &mut State) {
        let first = state.journal.end() - state.group.len() as Position;
        let tickets = state.group.clone();
        let count = tickets.len();
        let last_first = self.is(Mutant::PublishOutOfOrder) && count > 1;
        for (index, ticket) in tickets.into_iter().enumerate() {
            let now = !last_first || (state.phase == Phase::Synced) == (index + 1 == count);
            if now {
                self.show_ticket(state, ticket, first + index as Position);
            }
        }
        state.phase = if last_first && state.phase == Phase::Synced { Phase::HalfShown } else { Phase::Shown };
    }

    fn show_ticket(&self, state: &mut State, ticket: Ticket, position: Position) {
        match ticket.draft {
            Draft::Rows { parts, .. } => {
                for part in parts {
                    if part.base != state.lanes[part.lane].end() {
                        return state.break_with("rows follow the rows before them");
                    }
                    let rows = part.rows.iter().map(|row| (*row, position));
                    state.lanes[part.lane].tail.extend(rows.clone());
                    state.shown[part.lane].extend(rows);
                }
            }
            Draft::Carried(part) => {
                let (covered, end) = (state.lanes[part.lane].covered(), part.base + part.rows.len() as Offset);
                let moved = usize::from(end.saturating_sub(covered));
                state.lanes[part.lane].tail.iter_mut().take(moved).for_each(|(_, at)| *at = position);
            }
            Draft::AddSegment { .. } | Draft::Trim { .. } => self.apply(state, &ticket.draft),
            Draft::Mark => {}
        }
    }

    /// Makes an edit's change; live and at recovery.
    fn apply(&self, state: &mut State, edit: &Draft) {
        match edit {
            Draft::AddSegment { lane, from, to } => {
                let covered = state.lanes[*lane].covered();
                if *to <= covered {
                    self.note(Event::SegmentMadeSuperfluous);
                    return state.garbage.push((*lane, *from, *to));
                }
                if *from > covered {
                    return state.break_with("segments follow each other");
                }
                if !state.segments.iter().any(|file| file.lane == *lane && file.from == *from) {
                    return state.break_with("a start after an honest crash finds its segments");
                }
                state.lanes[*lane].segments.push((*from, *to));
                let gone = usize::from(to - covered).min(state.lanes[*lane].tail.len());
                state.lanes[*lane].tail.drain(..gone);
            }
            Draft::Trim { floors } => {
                for (lane, floor) in floors {
                    let memory = &mut state.lanes[*lane];
                    if *floor <= memory.floor {
                        continue;
                    }
                    let covered = memory.covered();
                    let gone = memory.segments.iter().take_while(|(_, to)| to <= floor).count();
                    let segments: Vec<_> = memory.segments.drain(..gone).map(|(from, to)| (*lane, from, to)).collect();
                    memory.floor = *floor;
                    let below = usize::from(memory.covered().saturating_sub(covered)).min(memory.tail.len());
                    memory.tail.drain(..below);
                    if self.is(Mutant::SegmentRemovedEarly) {
                        state.segments.retain(|file| !segments.iter().any(|gone| is_file(file, gone)));
                    } else {
                        state.garbage.extend(segments);
                    }
                }
            }
            Draft::Rows { .. } | Draft::Carried(_) | Draft::Mark => {}
        }
    }

    pub fn answer(&self, state: &mut State) {
        for ticket in std::mem::take(&mut state.group) {
            let Draft::Rows { request, .. } = ticket.draft else { continue };
            if self.scope.requests[request].writer.is_some() {
                let owner = &mut state.owners[ticket.table];
                if !owner.pending.is_empty() {
                    let pending = owner.pending.remove(0);
                    keep(&mut owner.kept[pending.writer], pending.kept, self.scope.answers_kept);
                    acknowledge(&mut state.clients[pending.request], pending.waits);
                }
            }
            acknowledge(&mut state.clients[request], ticket.sending);
        }
        state.phase = Phase::Idle;
    }

    fn is_unmarked(&self, state: &State) -> bool {
        state.journal.frames.last().is_some_and(|frame| frame.draft != Draft::Mark)
    }

    pub fn mark(&self, state: &mut State) {
        state.left.marks -= 1;
        self.begin_file(state);
        self.append(state, Draft::Mark, 1);
        state.journal.synced = state.journal.end();
    }

    pub fn seal(&self, state: &mut State, lane: usize) {
        state.left.seals -= 1;
        let (from, to) = (state.lanes[lane].covered(), state.lanes[lane].end());
        let rows = state.lanes[lane].tail.iter().map(|(row, _)| *row).collect();
        // One of the same name was left by a pass that failed halfway.
        state.segments.retain(|file| (file.lane, file.from) != (lane, from));
        state.segments.push(SegmentFile { lane, from, rows, synced: !self.is(Mutant::SegmentUnsynced) });
        self.submit(state, lane, Draft::AddSegment { lane, from, to });
    }

    pub fn carry(&self, state: &mut State, lane: usize) {
        state.left.carries -= 1;
        let rows = state.lanes[lane].tail.iter().map(|(row, _)| *row).collect();
        let part = Part { lane, base: state.lanes[lane].covered(), rows };
        self.submit(state, lane, Draft::Carried(part));
    }

    fn submit(&self, state: &mut State, lane: usize, draft: Draft) {
        let (table, _) = self.place(lane);
        let epoch = state.owners[table].epoch;
        state.queue.push(Ticket { draft, table, epoch, sending: 0 });
    }

    /// Lets hot rows of a table go up to these offsets.
    pub fn trim(&self, state: &mut State, table: usize, offsets: &[Offset]) {
        state.left.trims -= 1;
        let floors = self.lanes(table).zip(offsets.iter().copied());
        let floors: Vec<_> = floors.filter(|(lane, floor)| *floor > state.lanes[*lane].floor).collect();
        if floors.iter().any(|(lane, floor)| *floor > state.lanes[*lane].end()) {
            return state.break_with("no row is let go before it is there");
        }
        self.submit(state, self.lanes(table).start, Draft::Trim { floors });
    }

    /// Between two groups: what is known at this very position.
    pub fn capture_checkpoint(&self, state: &mut State) {
        state.left.checkpoints -= 1;
        state.journal.synced = state.journal.end();
        let lanes = state.lanes.iter().map(|lane| LaneState {
            floor: lane.floor,
            segments: lane.segments.clone(),
            replay_from: lane.tail.first().map(|(_, position)| *position),
        });
        let forgets = self.is(Mutant::DedupeLostAtCheckpoint);
        let kept = state
            .owners
            .iter()
            .map(|owner| if forgets { vec![Vec::new(); owner.kept.len()] } else { owner.kept.clone() });
        let checkpoint = Checkpoint { position: state.journal.end(), lanes: lanes.collect(), kept: kept.collect() };
        let garbage = std::mem::take(&mut state.garbage);
        state.capture = Some(Capture { checkpoint, garbage, durable: false });
    }

    pub fn write_checkpoint(&self, state: &mut State) {
        if let Some(capture) = &mut state.capture {
            state.checkpoint = capture.checkpoint.clone();
            capture.durable = true;
        }
    }

    pub fn remove_superfluous(&self, state: &mut State) {
        let Some(capture) = state.capture.take() else { return };
        state.segments.retain(|file| !capture.garbage.iter().any(|gone| is_file(file, gone)));
        let checkpoint = &capture.checkpoint;
        let floor = if self.is(Mutant::TailForgotten) { checkpoint.position } else { checkpoint.journal_floor() };
        if state.journal.trim(floor) {
            self.note(Event::JournalFileFreed);
        }
        if !capture.durable {
            // The checkpoint follows.
            state.capture = Some(Capture { garbage: Vec::new(), ..capture });
        }
    }

    pub fn crash(&self, state: &mut State) {
        if state.rounds.iter().any(|round| matches!(round, Round::Committed { .. })) {
            self.note(Event::CrashAfterCreate);
        }
        state.life = Life::Down;
        for client in &mut state.clients {
            if client.knows == Knows::Waiting {
                client.knows = Knows::Nothing;
            }
            client.parts.clear();
        }
        for (owner, buckets) in state.owners.iter_mut().zip(&self.scope.tables) {
            let writers = owner.kept.len();
            *owner =
                Owner { next: vec![0; usize::from(*buckets)], kept: vec![Vec::new(); writers], ..Owner::default() };
        }
        state.lanes.iter_mut().for_each(|lane| *lane = Lane::default());
        state.queue.clear();
        state.group.clear();
        state.phase = Phase::Idle;
        state.capture = None;
        state.garbage.clear();
        state.boundaries.iter_mut().for_each(|boundary| *boundary = None);
        for (round, worker) in state.rounds.iter_mut().zip(&self.scope.workers) {
            if !worker.foreign {
                *round = Round::Idle;
            }
        }
        state.reader = Reader::default();
        state.followers.iter_mut().for_each(|follower| follower.cold = None);
    }

    pub fn power_cut(&self, state: &mut State, frames: u16, later: bool, lake: bool) {
        state.left.power_cuts -= 1;
        if state.life == Life::Up {
            self.crash(state);
        }
        let journal = &mut state.journal;
        let kept = usize::from(journal.synced - journal.head() + frames);
        if later {
            let hole = Frame { whole: false, ..(*journal.frames[kept]).clone() };
            journal.frames[kept] = Rc::new(hole);
        } else {
            journal.frames.truncate(kept);
        }
        // What a power cut left is on the disk.
        (journal.synced, journal.lost) = (journal.end(), false);
        state.segments.retain(|file| file.synced);
        for of_table in &mut state.lakes {
            for version in of_table.versions.iter_mut().filter(|version| lake && !version.synced) {
                *version = Rc::new(Version { synced: true, ..(**version).clone() });
            }
            let before = of_table.versions.len();
            of_table.versions.retain(|version| version.synced);
            if of_table.versions.len() < before {
                self.note(Event::VersionLostByPowerCut);
            }
        }
    }

    pub fn rot(&self, state: &mut State, position: Position) {
        state.left.rots -= 1;
        let index = usize::from(position - state.journal.head());
        let rotten = Frame { whole: false, ..state.journal.frame(position).clone() };
        state.journal.frames[index] = Rc::new(rotten);
    }

    pub fn recover(&self, state: &mut State) {
        let checkpoint = state.checkpoint.clone();
        if checkpoint.position > 0 {
            self.note(Event::RestartFromCheckpoint);
        }
        for (lane, known) in state.lanes.iter_mut().zip(&checkpoint.lanes) {
            (lane.floor, lane.segments) = (known.floor, known.segments.clone());
        }
        for (owner, kept) in state.owners.iter_mut().zip(&checkpoint.kept) {
            owner.kept = kept.clone();
        }
        let missing = state.lanes.iter().enumerate().any(|(lane, memory)| {
            let there = |from: Offset| state.segments.iter().any(|file| file.lane == lane && file.from == from);
            memory.segments.iter().any(|(from, _)| !there(*from))
        });
        if missing {
            return state.break_with("a start after an honest crash finds its segments");
        }
        if !self.recover_journal(state, &checkpoint) {
            return;
        }
        for position in state.journal.head().max(checkpoint.journal_floor())..state.journal.end() {
            let draft = state.journal.frame(position).draft.clone();
            self.replay(state, &checkpoint, position, &draft);
            if state.broken.is_some() {
                return;
            }
        }
        for (table, owner) in state.owners.iter_mut().enumerate() {
            owner.next = self.lanes(table).map(|lane| state.lanes[lane].end()).collect();
        }
        let known = |file: &SegmentFile, lanes: &[Lane], garbage: &[(usize, Offset, Offset)]| {
            lanes[file.lane].segments.iter().any(|(from, _)| *from == file.from)
                || garbage.iter().any(|gone| is_file(file, gone))
        };
        let (lanes, garbage) = (&state.lanes, &state.garbage);
        state.segments.retain(|file| known(file, lanes, garbage));
        state.life = Life::Up;
        self.compare_with_shown(state);
    }

    /// Finds the journal's end; false if it is refused.
    fn recover_journal(&self, state: &mut State, checkpoint: &Checkpoint) -> bool {
        state.journal.trim(checkpoint.journal_floor());
        let journal = &mut state.journal;
        if journal.head() > checkpoint.journal_floor() {
            state.break_with("a start after an honest crash finds its journal");
            return false;
        }
        let newest = journal.files[journal.files.len() - 1];
        let bad = (journal.head()..journal.end()).find(|position| !journal.frame(*position).whole);
        if let Some(bad) = bad {
            let later = |position: Position| journal.frame(position).whole && journal.frame(position).synced_end > bad;
            let rot = bad < checkpoint.position || bad < newest || (bad + 1..journal.end()).any(later);
            if rot && !self.is(Mutant::RotTakenAsTorn) {
                if state.left.rots == self.scope.budget.rots {
                    state.break_with("an honest crash is not taken for rot");
                }
                self.note(Event::RotRefused);
                state.life = Life::Refused;
                return false;
            }
            self.note(Event::TornTailCut);
            if (bad + 1..journal.end()).any(|position| journal.frame(position).whole) {
                self.note(Event::WholeFrameAfterHole);
            }
            let kept = usize::from(bad - journal.head());
            journal.frames.truncate(kept);
            journal.files.retain(|start| *start <= bad);
        }
        if journal.end() < checkpoint.position {
            state.break_with("a start after an honest crash finds its journal");
            return false;
        }
        if !self.is(Mutant::RecoveredTailUnsynced) && !journal.lost {
            journal.synced = journal.end();
        }
        journal.synced = journal.synced.min(journal.end());
        true
    }

    fn replay(&self, state: &mut State, checkpoint: &Checkpoint, position: Position, draft: &Draft) {
        let fresh = position >= checkpoint.position;
        match draft {
            Draft::AddSegment { .. } | Draft::Trim { .. } if fresh => self.apply(state, draft),
            Draft::AddSegment { .. } | Draft::Trim { .. } | Draft::Mark => {}
            Draft::Carried(part) => self.replay_part(state, checkpoint, position, part, true),
            Draft::Rows { request, parts } => {
                for part in parts {
                    self.replay_part(state, checkpoint, position, part, false);
                }
                let request = &self.scope.requests[*request];
                if let (true, Some((writer, sequence))) =
                    (fresh && !self.is(Mutant::DedupeLostAtRestart), request.writer)
                {
                    let kept = Kept { sequence, lane: parts[0].lane };
                    keep(&mut state.owners[request.table].kept[writer], kept, self.scope.answers_kept);
                }
            }
        }
    }

    fn replay_part(&self, state: &mut State, checkpoint: &Checkpoint, position: Position, part: &Part, carried: bool) {
        if checkpoint.lanes[part.lane].replay_from.is_some_and(|from| position < from) {
            return;
        }
        let end = state.lanes[part.lane].end();
        let exact = !carried && position >= checkpoint.position;
        let base = if carried && self.is(Mutant::CarriedAsNew) { end } else { part.base };
        if base > end || (exact && base != end) {
            return state.break_with("the journal holds rows without a gap");
        }
        let known = usize::from(end - base);
        if carried && known < part.rows.len() {
            self.note(Event::CarriedRowsNeeded);
        } else if carried {
            self.note(Event::CarriedRowsKnown);
        }
        let rows = part.rows.iter().skip(known).map(|row| (*row, position));
        state.lanes[part.lane].tail.extend(rows);
    }

    /// After recovery: what was shown is there as it was. What is there beside it is shown from now on.
    fn compare_with_shown(&self, state: &mut State) {
        for lane in 0..state.lanes.len() {
            let (floor, end) = (state.lanes[lane].floor, state.lanes[lane].end());
            let shown = state.shown[lane].len() as Offset;
            if end < shown {
                return state.break_with("rows that were shown outlive a crash");
            }
            let Some(rows) = state.hot(lane, floor, end) else {
                return state.break_with("hot rows can be read after a crash");
            };
            let of_shown = state.shown[lane].iter().skip(usize::from(floor));
            if rows.iter().zip(of_shown).any(|(row, (shown, _))| row != shown) {
                return state.break_with("rows that were shown outlive a crash");
            }
            if end > shown {
                self.note(Event::UnansweredRowsRecovered);
            }
            let covered = state.lanes[lane].covered();
            for offset in shown.max(floor)..end {
                let position = match offset.checked_sub(covered) {
                    Some(place) => state.lanes[lane].tail[usize::from(place)].1,
                    None => 0,
                };
                state.shown[lane].push((rows[usize::from(offset - floor)], position));
            }
        }
    }
}

/// Whether rot at `position` can be told from a torn write.
fn is_provable(state: &State, position: Position) -> bool {
    let journal = &state.journal;
    let newest = journal.files[journal.files.len() - 1];
    // The proof must not be lost itself.
    let later = |later: Position| journal.frame(later).whole && journal.frame(later).synced_end > position;
    journal.frame(position).whole && (position < newest || (position + 1..journal.synced).any(later))
}

fn same_writer(left: Option<(usize, u8)>, right: Option<(usize, u8)>) -> bool {
    left.zip(right).is_some_and(|(left, right)| left.0 == right.0)
}

fn is_file(file: &SegmentFile, gone: &(usize, Offset, Offset)) -> bool {
    (file.lane, file.from, file.from + file.rows.len() as Offset) == *gone
}

fn keep(answers: &mut Vec<Kept>, kept: Kept, most: usize) {
    if answers.last().is_some_and(|last| last.sequence >= kept.sequence) {
        answers.clear();
    }
    answers.push(kept);
    if answers.len() > most {
        answers.remove(0);
    }
}

/// Whoever waits with this sending of a request hears that it is done.
fn acknowledge(client: &mut Client, sending: u8) {
    if client.knows == Knows::Waiting && client.sent == sending {
        client.knows = Knows::Acked;
    }
}

fn fail(client: &mut Client, sending: u8) {
    if client.knows == Knows::Waiting && client.sent == sending {
        client.knows = Knows::Failed;
    }
}
