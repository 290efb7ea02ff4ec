//! Idempotent writers: who has written what, so that a request sent twice is applied once.
//!
//! A writer numbers its requests per table from 0. The last five answers of each are kept, with a digest of the rows; a
//! repeat of one of them is answered again, not applied again. What is not durable yet lives in an overlay of its own: a
//! repeat that arrives meanwhile waits for the first one's fate, and a failed write is forgotten with all after it.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use thermocline_schemas::{BucketId, Code, Error, Offset, PartitionId, Result};
use tokio::sync::oneshot;

const ANSWERS_KEPT: usize = 5;
/// A writer that is silent for this long must start at 0 again.
const EXPIRY_MICROS: i64 = 7 * 24 * 3600 * 1_000_000;
/// More writers than this in one table: the one that was silent longest is forgotten.
const WRITERS_MAX: usize = 65_536;

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub rows: u64,
    /// Rows that the table's rules skip.
    pub ignored: u64,
    /// Rows that were set aside.
    pub rejected: u64,
    pub duplicate: bool,
    pub buckets: Vec<BucketRange>,
}

/// The offsets that a request got in one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRange {
    /// None in what was kept by versions that knew no partitions.
    pub partition: Option<PartitionId>,
    pub bucket: BucketId,
    pub first_offset: Offset,
    pub end_offset: Offset,
}

/// A request's place in its writer's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WriterSequence {
    pub writer: String,
    pub sequence: u64,
}

impl WriterSequence {
    /// Checks a writer's name.
    pub fn new(writer: &str, sequence: u64) -> Result<WriterSequence> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if writer.is_empty() || writer.len() > 128 || !writer.bytes().all(good) {
            return Err(Error::new(Code::InvalidRequest, "a writer's name is 1 to 128 of A-Z a-z 0-9 . _ -")
                .with_value(writer.escape_debug().to_string()));
        }
        Ok(WriterSequence { writer: writer.to_owned(), sequence })
    }
}

/// The first 16 bytes of the SHA-256 of a request's decoded rows.
pub type Digest = [u8; 16];

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub sequence: u64,
    pub digest: Digest,
    pub answer: Answer,
}

/// One writer as the checkpoint has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriterState {
    pub writer: String,
    pub answers: VecDeque<Kept>,
    /// Stamp of its last frame.
    pub last_used: i64,
}

/// All writers of one table.
#[derive(Debug, Default)]
pub struct Writers {
    durable: HashMap<String, WriterState>,
    /// In ticket order.
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    writer: String,
    kept: Kept,
    /// Repeats that wait for it.
    waiting: Vec<oneshot::Sender<Result<Answer>>>,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Verdict {
    New,
    /// Applied before: this was the answer.
    Repeat(Answer),
    /// Being applied: this will be the answer.
    InFlight(oneshot::Receiver<Result<Answer>>),
}

impl Writers {
    pub fn judge(&mut self, from: &WriterSequence, digest: &Digest) -> Result<Verdict> {
        let sequence = from.sequence;
        let pending = self.pending.iter_mut().rev().filter(|pending| pending.writer == from.writer);
        let mut last = None;
        for pending in pending {
            last = last.max(Some(pending.kept.sequence));
            if pending.kept.sequence == sequence {
                pending.kept.same_rows(from, digest)?;
                let (sender, receiver) = oneshot::channel();
                pending.waiting.push(sender);
                return Ok(Verdict::InFlight(receiver));
            }
        }
        let durable = self.durable.get(&from.writer);
        if let Some(kept) = durable.and_then(|state| state.answers.iter().find(|kept| kept.sequence == sequence)) {
            kept.same_rows(from, digest)?;
            return Ok(Verdict::Repeat(Answer { duplicate: true, ..kept.answer.clone() }));
        }
        let last = last.or_else(|| durable.and_then(|state| state.answers.back()).map(|kept| kept.sequence));
        let expected = last.map_or(0, |last| last + 1);
        if sequence == expected {
            return Ok(Verdict::New);
        }
        let (code, why) = if sequence > expected {
            (Code::OutOfOrderSequence, "is ahead of what was sent")
        } else {
            (Code::SequenceTooOld, "is older than the answers that are kept")
        };
        let hint = match (last, code) {
            (None, _) => "an unknown or expired writer starts at 0",
            (Some(_), Code::SequenceTooOld) => {
                "its rows are there: do not send them again; the expected one is for new rows"
            }
            (Some(_), _) => "send the expected sequence next",
        };
        Err(Error::new(code, format!("sequence {sequence} of writer {} {why}, expected {expected}", from.writer))
            .with_expected(expected)
            .with_hint(hint))
    }

    /// A new request got a ticket.
    pub fn begin(&mut self, writer: &str, kept: Kept) {
        self.pending.push_back(Pending { writer: writer.to_owned(), kept, waiting: Vec::new() });
    }

    /// The oldest pending request is durable.
    pub fn settle(&mut self, stamp: i64) {
        let Some(pending) = self.pending.pop_front() else { return };
        for waiting in pending.waiting {
            // Nobody is left to hear it: the client went away.
            let _ = waiting.send(Ok(Answer { duplicate: true, ..pending.kept.answer.clone() }));
        }
        self.keep(&pending.writer, pending.kept, stamp);
    }

    /// Puts a durable answer in its place.
    pub fn keep(&mut self, writer: &str, kept: Kept, stamp: i64) {
        if !self.durable.contains_key(writer) {
            if self.durable.len() >= WRITERS_MAX {
                let oldest =
                    self.durable.values().min_by_key(|state| state.last_used).map(|state| state.writer.clone());
                oldest.map(|oldest| self.durable.remove(&oldest));
            }
            let state = WriterState { writer: writer.to_owned(), answers: VecDeque::new(), last_used: stamp };
            self.durable.insert(writer.to_owned(), state);
        }
        let Some(state) = self.durable.get_mut(writer) else { return };
        state.last_used = state.last_used.max(stamp);
        if state.answers.back().is_some_and(|last| last.sequence >= kept.sequence) {
            // It was judged new, so it had been forgotten and began again.
            state.answers.clear();
        }
        state.answers.push_back(kept);
        if state.answers.len() > ANSWERS_KEPT {
            state.answers.pop_front();
        }
    }

    /// All that is pending failed.
    pub fn abort(&mut self, error: impl Fn() -> Error) {
        for pending in self.pending.drain(..) {
            for waiting in pending.waiting {
                let _ = waiting.send(Err(error()));
            }
        }
    }

    /// For the checkpoint; the expired ones are forgotten first.
    pub fn states(&mut self, now: i64) -> Vec<WriterState> {
        self.durable.retain(|_, state| now - state.last_used < EXPIRY_MICROS);
        let mut states: Vec<_> = self.durable.values().cloned().collect();
        states.sort_by(|left, right| left.writer.cmp(&right.writer));
        states
    }

    pub fn restore(&mut self, states: Vec<WriterState>) {
        self.durable = states.into_iter().map(|state| (state.writer.clone(), state)).collect();
    }
}

impl Kept {
    fn same_rows(&self, from: &WriterSequence, digest: &Digest) -> Result<()> {
        if self.digest == *digest {
            return Ok(());
        }
        Err(Error::new(
            Code::SequenceReused,
            format!("sequence {} of writer {} was used for other rows", from.sequence, from.writer),
        )
        .with_hint("a repeat must carry the same rows; new rows take the next sequence"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(sequence: u64) -> WriterSequence {
        WriterSequence::new("w", sequence).unwrap()
    }

    fn kept(sequence: u64) -> Kept {
        Kept { sequence, digest: [sequence as u8; 16], answer: Answer { rows: sequence, ..Answer::default() } }
    }

    fn apply(writers: &mut Writers, sequence: u64) {
        assert!(matches!(writers.judge(&from(sequence), &[sequence as u8; 16]).unwrap(), Verdict::New));
        writers.begin("w", kept(sequence));
        writers.settle(1);
    }

    #[test]
    fn five_answers_are_kept_and_order_is_enforced() {
        let mut writers = Writers::default();
        assert_eq!(writers.judge(&from(3), &[3; 16]).unwrap_err().expected(), Some(0));
        for sequence in 0..8 {
            apply(&mut writers, sequence);
        }
        for sequence in 3..8 {
            let Verdict::Repeat(answer) = writers.judge(&from(sequence), &[sequence as u8; 16]).unwrap() else {
                panic!()
            };
            assert_eq!((answer.rows, answer.duplicate), (sequence, true));
        }
        assert_eq!(writers.judge(&from(2), &[2; 16]).unwrap_err().code(), Code::SequenceTooOld);
        assert_eq!(writers.judge(&from(9), &[9; 16]).unwrap_err().code(), Code::OutOfOrderSequence);
        assert_eq!(writers.judge(&from(7), &[0; 16]).unwrap_err().code(), Code::SequenceReused);
        let states = writers.states(1);
        let mut restored = Writers::default();
        restored.restore(states);
        assert!(matches!(restored.judge(&from(7), &[7; 16]).unwrap(), Verdict::Repeat(_)));
        assert!(restored.states(1 + EXPIRY_MICROS).is_empty());
        assert_eq!(restored.judge(&from(8), &[8; 16]).unwrap_err().expected(), Some(0));
    }

    #[test]
    fn a_repeat_of_what_is_in_flight_shares_its_fate() {
        let mut writers = Writers::default();
        writers.begin("w", kept(0));
        let Verdict::InFlight(mut first) = writers.judge(&from(0), &[0; 16]).unwrap() else { panic!() };
        assert!(matches!(writers.judge(&from(1), &[1; 16]).unwrap(), Verdict::New));
        writers.settle(1);
        assert!(first.try_recv().unwrap().unwrap().duplicate);
        writers.begin("w", kept(1));
        let Verdict::InFlight(mut second) = writers.judge(&from(1), &[1; 16]).unwrap() else { panic!() };
        writers.abort(|| Error::new(Code::DiskFull, "full"));
        assert_eq!(second.try_recv().unwrap().unwrap_err().code(), Code::DiskFull);
        assert!(matches!(writers.judge(&from(1), &[1; 16]).unwrap(), Verdict::New), "a failed write may come again");
    }
}
