//! The hot tier of Thermocline: rows are durable and visible in milliseconds, on local disk. It knows no lake.
//!
//! The path of a row: [`Engine::append`] checks and encodes it; the table's owner (`table`) gives it a bucket and an
//! offset; the `journal` makes it durable in a group with others; `core` publishes it into its `bucket`, whose tail becomes
//! segments (`upkeep`); readers take [`Engine::cut`] and [`Table::hot_rows`], followers wait on [`Table::subscribe`].
//! `recovery` walks the same path from what is on disk.
//!
//! Always: an acked row survives whatever an honest disk survives; offsets are dense per bucket; a frame is visible whole
//! or not at all; per bucket `trim_floor ≤ durable_end ≤ next_offset`.

mod backup;
mod bucket;
mod catalog;
mod checkpoint_format;
mod clock;
mod cold;
mod core;
pub mod disk;
mod edit;
mod engine;
pub mod faults;
mod inspect;
mod ipc;
mod journal;
mod keys;
mod log_starts;
mod memory_budget;
pub mod metric_names;
mod recovery;
mod rows_digest;
mod source_format;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;
mod writers;

pub use backup::{HotFile, HotState, HotTable, begin_restore, finish_restore};
pub use bucket::{BucketLog, HotBatch, HotRows, Stamps};
pub use catalog::{DEFAULT_DATABASE, UNFINISHED};
pub use clock::{Clock, SystemClock};
pub use cold::ColdRows;
pub use engine::{Engine, EngineOptions, REQUEST_BYTES_MAX, Sender, Unfinished};
pub use inspect::{Inspection, InspectionTotals};
pub use journal::{
    AppendError, Appended, Draft, Durability, Frame, FrameKind, Gap, LocalJournal, Loglet, Part, Position, Recovered,
    Span,
};
pub use keys::{Change, ChangeRows, KeyHash, KeyIndex};
pub use log_starts::{LogStarts, Raised};
pub use table::{KeyFigures, LookedUp, Table, TableEnds};
pub use writers::{Answer, BucketRange, Digest, WriterSequence};
