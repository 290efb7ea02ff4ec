//! Recorded histories of the real thing, taken again by the model.
//!
//! `traces/*.trace` were written by the random histories of `integration-tests`, whose `trace` module says what each line
//! means. Each line becomes the model's steps that it stands for; every step must be one that the model could take just
//! then, nothing may be violated by it, and the numbers that were observed must come out. What a trace leaves open (what
//! of a group a power cut took, when a commit that came too late was planned) the model tries in all ways: some way must
//! fit all that follows.
//!
//! `THERMOCLINE_TRACES=<directory>` takes the traces of that directory too.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::explore::Protocol;
use crate::protocol::{Action, Model};
use crate::reading::ReadStep;
use crate::scope::{Budget, Request, Scope, Worker};
use crate::state::{Life, Offset, Phase, Round, State};

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
enum Line {
    Append(Offset),
    Publish(Offset),
    Committed { start: Offset, end: Offset },
    Stale { start: Offset, end: Offset },
    Unclear { start: Offset, end: Offset },
    Foreign { start: Offset, end: Offset },
    Replace,
    Adopt(Offset),
    Trim(Offset),
    Split { lake: Offset, end: Offset },
    Pin { reader: usize, lake: Offset, end: Offset },
    Read(usize),
    Follow { follower: usize, from: Offset, to: Offset },
    Crash,
    Stop,
    Restart { end: Offset, lake: Offset, trim: Offset },
    Drop,
}

/// The node's own rounds.
const OWN: usize = 0;
/// Commits of others that land at once.
const OTHER: usize = 1;
/// Of what a trace leaves open, more ways than this are not followed.
const STATES_MAX: usize = 256;

fn parse(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str| word.parse::<Offset>().ok();
    let place = |word: &str| word.parse::<usize>().ok();
    let named = |word: &str, name: &str| number(word.strip_prefix(name)?.strip_prefix('=')?);
    let range = |word: &str| {
        let (from, to) = word.split_once("..")?;
        Some((number(from)?, number(to)?))
    };
    // The hot part begins where the lake ends.
    let drawn = |lake: &str, hot: &str| {
        let (lake, hot) = (named(lake, "lake")?, range(hot.strip_prefix("hot=")?)?);
        (hot.0 == lake).then_some((lake, hot.1))
    };
    Some(match words.as_slice() {
        ["append", rows] => Line::Append(number(rows)?),
        ["publish", end] => Line::Publish(number(end)?),
        ["round", start, end, outcome] => {
            let (start, end) = (number(start)?, number(end)?);
            match *outcome {
                "committed" => Line::Committed { start, end },
                "stale" => Line::Stale { start, end },
                "unclear" => Line::Unclear { start, end },
                _ => return None,
            }
        }
        ["commit", start, end] => Line::Foreign { start: number(start)?, end: number(end)? },
        ["replace"] => Line::Replace,
        ["adopt", lake] => Line::Adopt(number(lake)?),
        ["trim", to] => Line::Trim(number(to)?),
        ["split", lake, hot] => {
            let (lake, end) = drawn(lake, hot)?;
            Line::Split { lake, end }
        }
        ["pin", reader, lake, hot] => {
            let (lake, end) = drawn(lake, hot)?;
            Line::Pin { reader: place(reader)?, lake, end }
        }
        ["read", reader] => Line::Read(place(reader)?),
        ["follow", follower, rows] => {
            let (from, to) = range(rows)?;
            Line::Follow { follower: place(follower)?, from, to }
        }
        ["crash"] => Line::Crash,
        ["stop"] => Line::Stop,
        ["restart", end, lake, trim] => {
            Line::Restart { end: named(end, "end")?, lake: named(lake, "lake")?, trim: named(trim, "trim")? }
        }
        ["drop"] => Line::Drop,
        _ => return None,
    })
}

/// Takes a trace again; the number of steps that the model took, or the line that does not fit, and why.
fn replay(text: &str) -> Result<usize, String> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.is_empty()) {
        lines.push((index + 1, parse(line).ok_or_else(|| format!("line {}: {line:?} is no action", index + 1))?));
    }
    let mut replay = Replay::new(&lines);
    let plans = replay.late_plans(&lines)?;
    for (index, (number, line)) in lines.iter().enumerate() {
        let told = |error: String| format!("line {number}, {line:?}: {error}");
        for (_, worker, end) in plans.iter().filter(|(at, ..)| *at == index) {
            replay.each(|replay, state| replay.plan(state, *worker, *end)).map_err(told)?;
        }
        if *line == Line::Drop {
            break;
        }
        replay.take(line).map_err(told)?;
    }
    Ok(replay.steps)
}

struct Replay {
    model: Model,
    /// All that fit what was observed so far.
    states: Vec<State>,
    sent: usize,
    /// Which worker's commit comes too late next.
    late: usize,
    followers: HashMap<usize, usize>,
    begun: Vec<bool>,
    /// What slow readers hold: a version of the lake, and its end.
    pins: HashMap<usize, (usize, Offset)>,
    steps: usize,
}

/// Ways to go on, or why there is none.
type Ways = Result<Vec<State>, String>;

impl Replay {
    fn new(lines: &[(usize, Line)]) -> Replay {
        let mut requests = Vec::new();
        let mut followers = HashMap::new();
        let mut workers = vec![Worker { table: 0, foreign: false }, Worker { table: 0, foreign: true }];
        for (_, line) in lines {
            match line {
                Line::Append(rows) => {
                    let parts = vec![(0, *rows)];
                    requests.push(Request { table: 0, parts, keyless: false, writer: None });
                }
                Line::Follow { follower, .. } => {
                    let count = followers.len();
                    followers.entry(*follower).or_insert(count);
                }
                Line::Stale { .. } => workers.push(Worker { table: 0, foreign: true }),
                _ => {}
            }
        }
        let enough = u16::MAX;
        let budget = Budget {
            kills: enough,
            power_cuts: enough,
            plans: enough,
            replaces: enough,
            trims: enough,
            ..Budget::default()
        };
        let scope = Scope {
            name: "trace",
            tables: vec![1],
            requests,
            budget,
            workers,
            followers: followers.len(),
            reader: true,
            loose: true,
            ..Scope::default()
        };
        let model = Model::new(scope);
        let states = vec![model.initial()];
        let begun = vec![false; followers.len()];
        Replay { model, states, sent: 0, late: OTHER + 1, followers, begun, pins: HashMap::new(), steps: 0 }
    }

    /// Before which line each commit that came too late was planned: where the lake was at its start for the last time.
    fn late_plans(&self, lines: &[(usize, Line)]) -> Result<Vec<(usize, usize, Offset)>, String> {
        let mut plans = Vec::new();
        for (index, (number, line)) in lines.iter().enumerate() {
            let Line::Stale { start, end } = line else { continue };
            let (mut lake, mut published, mut up, mut place) = (0, 0, true, None);
            for (before, (_, line)) in lines[..=index].iter().enumerate() {
                if lake == *start && published >= *end && up {
                    place = Some(before);
                }
                match line {
                    Line::Publish(end) => published = *end,
                    Line::Committed { end, .. } | Line::Foreign { end, .. } => lake = *end,
                    Line::Crash | Line::Stop => up = false,
                    Line::Restart { end, lake: found, .. } => (published, lake, up) = (*end, *found, true),
                    _ => {}
                }
            }
            let place = place.ok_or_else(|| format!("line {number}: the lake was never at {start}"))?;
            plans.push((place, OTHER + 1 + plans.len(), *end));
        }
        Ok(plans)
    }

    /// One step, if the model could take it, and nothing is violated by it.
    fn step(&self, state: &State, action: &Action) -> Result<State, String> {
        let mut actions = Vec::new();
        self.model.actions(state, &mut actions);
        if !actions.contains(action) {
            return Err(format!("{action:?} cannot happen here"));
        }
        let next = self.model.step(state, action);
        match self.model.violated(&next) {
            Some(violated) => Err(format!("{action:?} violates: {violated}")),
            None => Ok(next),
        }
    }

    fn steps(&self, state: &State, actions: &[Action]) -> Result<State, String> {
        actions.iter().try_fold(state.clone(), |state, action| self.step(&state, action))
    }

    /// Goes on with each state in all its ways; some must be left.
    fn each(&mut self, ways: impl Fn(&Replay, &State) -> Ways) -> Result<(), String> {
        let mut found: Vec<State> = Vec::new();
        let mut failure = None;
        for state in &self.states {
            match ways(self, state) {
                Ok(states) => {
                    for state in states {
                        if !found.contains(&state) && found.len() < STATES_MAX {
                            found.push(state);
                        }
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        if found.is_empty() {
            return Err(failure.unwrap_or_else(|| "no way fits".to_owned()));
        }
        self.states = found;
        self.steps += 1;
        Ok(())
    }

    fn take(&mut self, line: &Line) -> Result<(), String> {
        match line {
            Line::Append(_) => {
                self.sent += 1;
                self.each(|replay, state| replay.step(state, &Action::Send(replay.sent - 1)).map(|state| vec![state]))
            }
            Line::Publish(end) => self.each(|replay, state| replay.publish(state, *end)),
            Line::Committed { start, end } => self.each(|replay, state| {
                let sent = replay.send(state, *start, *end)?;
                let put = Action::Deliver { put: sent.puts.len() - 1, heard: true };
                Ok(vec![replay.steps(&sent, &[put, Action::Publish(OWN)])?])
            }),
            Line::Unclear { start, end } => self.each(|replay, state| {
                let sent = replay.send(state, *start, *end)?;
                let put = Action::Deliver { put: sent.puts.len() - 1, heard: false };
                Ok(vec![state.clone(), replay.step(&sent, &put)?, sent])
            }),
            Line::Stale { start, .. } => {
                self.late += 1;
                self.each(|replay, state| {
                    let late = replay.late - 1;
                    let of_start =
                        |round: &Round| matches!(round, Round::Planned { attempt, .. } if attempt.start == [*start]);
                    if !of_start(&state.rounds[late]) {
                        return Err("it did not start there".to_owned());
                    }
                    let next = replay.step(state, &Action::Commit(late))?;
                    let stale = next.rounds[late] == Round::Idle && next.lakes == state.lakes;
                    if stale { Ok(vec![next]) } else { Err("it would have landed".to_owned()) }
                })
            }
            Line::Foreign { start, end } => self.each(|replay, state| {
                expect("the lake", replay.lake_end(state), *start)?;
                let planned = replay.plan(state, OTHER, *end)?.remove(0);
                let sent = replay.step(&planned, &Action::Commit(OTHER))?;
                let put = Action::Deliver { put: sent.puts.len() - 1, heard: true };
                Ok(vec![replay.step(&sent, &put)?])
            }),
            Line::Replace => self.each(|replay, state| Ok(vec![replay.step(state, &Action::Replace(0))?])),
            Line::Adopt(lake) => self.each(|replay, state| {
                let next = replay.step(state, &Action::Find(0))?;
                expect("the boundary", boundary(&next), *lake)?;
                Ok(vec![next])
            }),
            Line::Trim(to) => self.each(|replay, state| {
                let versions = &state.lakes[0].versions;
                let version = versions.iter().position(|version| version.offsets == [*to]);
                let version = version.ok_or("the lake was never there")?;
                let trimmed = replay.step(state, &Action::Trim { table: 0, version })?;
                let next = replay.write(&trimmed, trimmed.queue.len())?;
                expect("the hot floor", next.lanes[0].floor, *to)?;
                Ok(vec![next])
            }),
            Line::Split { lake, end } => self.each(|replay, state| Ok(vec![replay.split(state, *lake, *end)?])),
            Line::Pin { reader, lake, end } => {
                self.each(|replay, state| Ok(vec![replay.split(state, *lake, *end)?]))?;
                let version = self.states[0].boundaries[0].as_ref().map_or(0, |boundary| boundary.version);
                self.pins.insert(*reader, (version, *lake));
                Ok(())
            }
            Line::Read(reader) => {
                let (version, lake) = self.pins.remove(reader).ok_or("it holds nothing")?;
                self.each(|_, state| {
                    let found = state.lakes[0].versions.get(version).ok_or("its version is gone")?;
                    expect("its version", found.offsets[0], lake)?;
                    Ok(vec![state.clone()])
                })
            }
            Line::Follow { follower, from, to } => {
                let follower = self.followers[follower];
                let first = !std::mem::replace(&mut self.begun[follower], true);
                self.each(|replay, state| Ok(vec![replay.follow(state, follower, first, *from, *to)?]))
            }
            Line::Crash => {
                self.pins.clear();
                self.each(Replay::crash)
            }
            Line::Stop => {
                self.pins.clear();
                self.each(|replay, state| {
                    expect("what waits", state.queue.len() as Offset, 0)?;
                    Ok(vec![replay.step(state, &Action::Kill)?])
                })
            }
            Line::Restart { end, lake, trim } => self.each(|replay, state| {
                let next = replay.steps(state, &[Action::Recover, Action::Find(0)])?;
                expect("the published end", next.lanes[0].end(), *end)?;
                expect("the lake", boundary(&next), *lake)?;
                expect("the hot floor", next.lanes[0].floor, *trim)?;
                Ok(vec![next])
            }),
            Line::Drop => Ok(()),
        }
    }

    fn lake_end(&self, state: &State) -> Offset {
        let lake = &state.lakes[0];
        lake.versions[lake.newest()].offsets[0]
    }

    /// Writes the first of the tickets that wait, to the answer.
    fn write(&self, state: &State, count: usize) -> Result<State, String> {
        self.steps(state, &[Action::Write(count), Action::Sync, Action::Show, Action::Answer])
    }

    fn publish(&self, state: &State, end: Offset) -> Ways {
        for count in 1..=state.queue.len() {
            let next = self.write(state, count)?;
            if next.lanes[0].end() == end {
                return Ok(vec![next]);
            }
        }
        Err(format!("{} tickets wait after offset {}", state.queue.len(), state.lanes[0].end()))
    }

    fn plan(&self, state: &State, worker: usize, end: Offset) -> Ways {
        let less = state.lanes[0].end().checked_sub(end).ok_or("those rows are not published")?;
        Ok(vec![self.step(state, &Action::Plan { worker, less })?])
    }

    /// A round of the node's own, up to its create.
    fn send(&self, state: &State, start: Offset, end: Offset) -> Result<State, String> {
        let behind = |state: &State| state.boundaries[0].as_ref().map(|boundary| boundary.version);
        let mut state = state.clone();
        if behind(&state) != Some(state.lakes[0].newest()) {
            // Versions with the same rows are adopted without a word.
            let known = boundary(&state);
            state = self.step(&state, &Action::Find(0))?;
            expect("the boundary", boundary(&state), known)?;
        }
        expect("the lake", self.lake_end(&state), start)?;
        self.step(&self.plan(&state, OWN, end)?.remove(0), &Action::Commit(OWN))
    }

    fn split(&self, state: &State, lake: Offset, end: Offset) -> Result<State, String> {
        let mut state = state.clone();
        for step in &self.model.read_steps {
            if *step == ReadStep::Recheck {
                expect("the boundary", state.reader.boundaries[0].offsets[0], lake)?;
                expect("the end", state.reader.ends[0], end)?;
            }
            state = self.step(&state, &Action::Read)?;
        }
        Ok(state)
    }

    fn follow(&self, state: &State, follower: usize, first: bool, from: Offset, to: Offset) -> Result<State, String> {
        let mut state = state.clone();
        if first {
            // A follower may begin anywhere.
            state.followers[follower].next[0] = from;
        }
        expect("what comes next", state.followers[follower].next[0], from)?;
        while state.followers[follower].next[0] < to {
            state = self.step(&state, &Action::FollowHot { follower, lane: 0, to })?;
            if state.followers[follower].cold.is_some() {
                let to = to.min(boundary(&state));
                state = self.step(&state, &Action::FollowCold { follower, lane: 0, to })?;
            }
        }
        Ok(state)
    }

    /// What waited was written or not, and a power cut takes of it what it likes.
    fn crash(&self, state: &State) -> Ways {
        let mut before = vec![state.clone()];
        if state.phase == Phase::Idle && !state.queue.is_empty() {
            before.push(self.step(state, &Action::Write(state.queue.len()))?);
        }
        let mut found = Vec::new();
        for state in before {
            let mut actions = Vec::new();
            self.model.actions(&state, &mut actions);
            // With nothing unsynced, a power cut is no more than the end of the process.
            let ends = |action: &&Action| matches!(action, Action::PowerCut { .. } | Action::Kill);
            for action in actions.iter().filter(ends) {
                let next = self.step(&state, action)?;
                if next.life == Life::Down && !found.contains(&next) {
                    found.push(next);
                }
            }
        }
        Ok(found)
    }
}

fn boundary(state: &State) -> Offset {
    state.boundaries[0].as_ref().map_or(0, |boundary| boundary.offsets[0])
}

fn expect(what: &str, found: Offset, expected: Offset) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is at {found} in the model")) }
}

fn traces(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a directory can be read").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "trace"));
    paths.sort();
    paths
}

#[test]
fn recorded_traces_are_ways_of_the_model() {
    let mut paths = traces(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/traces"));
    assert!(!paths.is_empty(), "no traces");
    if let Some(more) = std::env::var_os("THERMOCLINE_TRACES") {
        paths.extend(traces(Path::new(&more)));
    }
    let mut steps = 0;
    let mut failures = Vec::new();
    for path in &paths {
        let text = std::fs::read_to_string(path).expect("a trace can be read");
        match replay(&text) {
            Ok(taken) => steps += taken,
            Err(error) => failures.push(format!("{}: {error}", path.display())),
        }
    }
    println!("traces: {} taken again, {steps} lines", paths.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_did_not_happen_is_refused() {
    let good = "append 3\npublish 3\nround 0 3 committed\nsplit lake=3 hot=3..3\nappend 2\npublish 5\n\
                follow 1 0..5\ncommit 3 5\nround 3 4 stale\nadopt 5\ntrim 3\npin 1 lake=5 hot=5..5\nread 1\n\
                follow 2 1..5\nappend 1\ncrash\nrestart end=6 lake=5 trim=3\nround 5 6 unclear\ncrash\n\
                restart end=6 lake=5 trim=3\nstop\nrestart end=6 lake=5 trim=3\ndrop\n";
    assert_eq!(replay(good), Ok(23));
    let bad = [
        // Lost, made up, or served twice.
        ("restart end=6 lake=5 trim=3\nround", "restart end=4 lake=5 trim=3\nround"),
        ("restart end=6 lake=5 trim=3\nround", "restart end=7 lake=5 trim=3\nround"),
        ("publish 5", "publish 6"),
        ("split lake=3 hot=3..3", "split lake=0 hot=0..3"),
        ("split lake=3 hot=3..3", "split lake=3 hot=2..3"),
        ("follow 1 0..5", "follow 1 0..6"),
        ("follow 1 0..5", "follow 1 0..4\nfollow 1 3..5"),
        // The lake.
        ("commit 3 5", "commit 0 5"),
        ("commit 3 5", "commit 3 6"),
        ("round 3 4 stale", "round 5 5 stale"),
        ("adopt 5", "adopt 3"),
        ("trim 3", "trim 4"),
        ("trim 3", "trim 6"),
        ("restart end=6 lake=5 trim=3\nround", "restart end=6 lake=3 trim=3\nround"),
        ("restart end=6 lake=5 trim=3\nround", "restart end=6 lake=5 trim=0\nround"),
        ("read 1", "read 2"),
        ("drop", "restart end=6 lake=5 trim=3"),
        ("drop", "vanish"),
    ];
    for (found, replaced) in bad {
        assert!(good.contains(found), "{found}");
        let told = replay(&good.replacen(found, replaced, 1));
        assert!(told.is_err(), "{replaced} was taken for what happened");
    }
}
