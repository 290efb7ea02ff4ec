//! The hot tier.
pub mod bucket;
pub mod clock;
pub mod disk;
pub mod ipc;
pub mod journal;
pub mod memory_budget;
pub mod metric_names;
