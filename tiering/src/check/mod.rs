//! Whether what was seen of a table is what may be seen: one checker for tests, kill loops and stopped directories.
//!
//! [`History`] is pure: it is told what was sent and answered, and what reads, followers and the lake showed, and says at
//! once which promise that breaks; it reads no clock, disk or socket. [`scrub`] reads a stopped data directory and its lake.

mod history;
mod scrub;
#[cfg(test)]
mod tests;

pub use crate::lake::{LakeInspection, NamedFile, NamedManifest};
pub use history::{AckedRange, Floor, Follower, History, Placed, Row, Rule, Totals, Violation};
pub use scrub::{Scrub, ScrubbedBucket, scrub};
