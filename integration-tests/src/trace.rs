//! What a history did, as a few abstract actions in the order in which they took effect: food for a model of tiering.
//!
//! One trace tells of one table of one bucket, from its making to its dropping or the history's end. As text it has one
//! action a line, lower-case words, decimal offsets, half-open ranges; lines that begin with `#` are comments.
//!
//! | line | what happened |
//! |---|---|
//! | `append 3` | three rows were sent; neither durable nor readable yet |
//! | `publish 5` | rows below offset 5 are durable, acked and readable |
//! | `round 0 5 committed` | the node's own round took `[0, 5)` and committed it; its readers use the new snapshot |
//! | `round 0 5 stale` | a commit that started at 0 found the lake elsewhere and changed nothing |
//! | `round 0 5 unclear` | the round was under way when the crash of the next line came; `restart` says what became of it |
//! | `commit 0 5` | another committer's `[0, 5)` landed; this node's readers do not use it yet |
//! | `replace` | another engine rewrote the lake without changing rows; this node's readers do not use it yet |
//! | `adopt 5` | the node found a newer lake and its readers use it: rows below 5 are cold for them |
//! | `trim 5` | hot rows below 5 were let go |
//! | `split lake=5 hot=5..8` | a read was drawn: rows `[0, 5)` from the lake, `[5, 8)` hot. It showed each once |
//! | `pin 2 lake=5 hot=5..8` | the same, by slow reader number 2, which has read nothing yet |
//! | `read 2` | slow reader 2 has read all that its `pin` says, each row once |
//! | `follow 1 3..8` | follower 1 got the rows `[3, 8)`, having had all before them |
//! | `crash` | power cut: memory is gone, and what was neither synced nor lucky |
//! | `stop` | the process ended in order |
//! | `restart end=8 lake=5 trim=5` | recovered: rows `[0, 8)`, of which the lake holds `[0, 5)`, hot from 5 |
//! | `drop` | the table is gone, and with it everything after this line |
//!
//! Seals and carried frames move rows between places that a model of tiering does not tell apart; they are not recorded.
//! After `restart`, all pins are gone; followers go on where they were.

use std::fmt;
use std::ops::Range;

/// How a commit of this node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    Stale,
    Unclear,
}

/// One line; see the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Append { rows: u64 },
    Publish { end: u64 },
    Round { start: u64, end: u64, outcome: Outcome },
    Commit { start: u64, end: u64 },
    Replace,
    Adopt { lake: u64 },
    Trim { to: u64 },
    Split { lake: u64, hot: Range<u64> },
    Pin { reader: usize, lake: u64, hot: Range<u64> },
    Read { reader: usize },
    Follow { follower: usize, rows: Range<u64> },
    Crash,
    Stop,
    Restart { end: u64, lake: u64, trim: u64 },
    Drop,
}

/// What happened to one table, in order.
#[derive(Clone, Debug, Default)]
pub struct Trace(Vec<Action>);

impl Trace {
    pub fn note(&mut self, action: Action) {
        self.0.push(action);
    }

    pub fn actions(&self) -> &[Action] {
        &self.0
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Append { rows } => write!(formatter, "append {rows}"),
            Action::Publish { end } => write!(formatter, "publish {end}"),
            Action::Round { start, end, outcome } => {
                let outcome = match outcome {
                    Outcome::Committed => "committed",
                    Outcome::Stale => "stale",
                    Outcome::Unclear => "unclear",
                };
                write!(formatter, "round {start} {end} {outcome}")
            }
            Action::Commit { start, end } => write!(formatter, "commit {start} {end}"),
            Action::Replace => write!(formatter, "replace"),
            Action::Adopt { lake } => write!(formatter, "adopt {lake}"),
            Action::Trim { to } => write!(formatter, "trim {to}"),
            Action::Split { lake, hot } => write!(formatter, "split lake={lake} hot={}..{}", hot.start, hot.end),
            Action::Pin { reader, lake, hot } => {
                write!(formatter, "pin {reader} lake={lake} hot={}..{}", hot.start, hot.end)
            }
            Action::Read { reader } => write!(formatter, "read {reader}"),
            Action::Follow { follower, rows } => write!(formatter, "follow {follower} {}..{}", rows.start, rows.end),
            Action::Crash => write!(formatter, "crash"),
            Action::Stop => write!(formatter, "stop"),
            Action::Restart { end, lake, trim } => write!(formatter, "restart end={end} lake={lake} trim={trim}"),
            Action::Drop => write!(formatter, "drop"),
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|action| writeln!(formatter, "{action}"))
    }
}
