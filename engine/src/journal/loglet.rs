//! What the engine asks of a log, wherever it is kept.
//!
//! [`super::LocalJournal`] is the one on local disk. The tests in `tests.rs` are the contract: whoever writes another
//! loglet runs them on it.

use thermocline_schemas::{Error, Result};

use super::{Draft, Frame, Position};

/// One log with one writer.
pub trait Loglet: Send {
    /// Appends the drafts as frames, in order, each stamped with at least `now` (microseconds since 1970). When it
    /// answers, all of them are durable, as far as the log was asked to be. Answers each frame's position and stamp.
    fn append(&mut self, drafts: &[Draft], now: i64) -> Result<Vec<Appended>, AppendError>;

    /// Frames from here on are stamped with `stamp` at least. Not for ever: a log that is opened anew does not know of it.
    fn not_before(&mut self, stamp: i64);

    /// Makes durable what a weaker setting left to the operating system.
    fn sync(&mut self) -> Result<()>;

    /// Where the next frame will start.
    fn tail(&self) -> Position;

    /// The first position that is still kept.
    fn head(&self) -> Position;

    /// No append succeeds after it, not even one of a process that does not know of it yet.
    fn seal(&mut self) -> Result<()>;

    /// Hands every frame from `from` on to `visit`, in order.
    fn read(&self, from: Position, visit: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()>;

    /// Frames below `position` are no longer needed. Drops what it can of them.
    fn trim(&mut self, position: Position) -> Result<()>;
}

/// Where a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub position: Position,
    pub end: Position,
    pub stamp: i64,
}

/// What a failed append leaves.
#[derive(Debug)]
pub enum AppendError {
    /// Nothing of the group is in the log, durably so; later appends may succeed.
    Refused(Error),
    /// What is durable is not known. The process must end and recover.
    Fatal(Error),
}
