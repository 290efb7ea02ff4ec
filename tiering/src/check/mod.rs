//! Whether what was seen of a table is what may be seen: one checker for tests, kill loops and stopped directories.
//!
//! [`History`] is pure: it is told what was sent and answered, and what reads, followers and the lake showed, and says at
//! once which promise that breaks. Nothing here reads a clock, a disk or a socket.

mod history;
#[cfg(test)]
mod tests;

pub use crate::lake::{LakeInspection, NamedFile, NamedManifest};
pub use history::{AckedRange, Floor, Follower, History, Placed, Row, Rule, Totals, Violation};
