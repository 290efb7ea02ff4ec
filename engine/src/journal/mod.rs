//! The journal: the node's one write-ahead file sequence.
//!
//! Data comes in at [`group`], which gathers what waits into one durable write; [`local`] is that write; [`frame_format`]
//! is how a frame looks. Always: what was acked is in the journal or in what replaced it, publication follows journal
//! order, and each frame names its place, so that none can be missing, moved or half there without being seen.

mod frame_format;
mod group;
mod local;
mod loglet;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use frame_format::{Draft, Frame, FrameKind, Part};
pub use group::{Journal, Publisher, Ticket};
pub use local::{Durability, Gap, LocalJournal, Recovered, Span, files_between};
pub use loglet::{AppendError, Appended, Loglet};

/// A place in the journal: bytes from its very beginning, over all its files, gone or there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
