//! Whether what was seen of a table is what may be seen: one checker for tests, kill loops and stopped directories.
//!
//! [`History`] of a log table and [`KeyedHistory`] of one with a primary key are pure: they are told what was sent and
//! answered, and what reads, followers and the lake showed, and say at once which promise that breaks; they read no
//! clock, disk or socket. [`scrub`] reads a stopped data directory and its lake.

mod history;
mod keyed;
mod rules;
mod scrub;
#[cfg(test)]
mod tests;

pub use crate::lake::{FilePartitions, LakeInspection, NamedDeletes, NamedFile, NamedManifest};
pub use history::{AckedRange, Floor, Follower, History, Placed, Row, Totals};
pub use keyed::{Key, KeyedFloor, KeyedFollower, KeyedHistory, KeyedRow, Wanted};
pub use rules::{Rule, Violation};
pub use scrub::{Scrub, ScrubbedBucket, scrub};
