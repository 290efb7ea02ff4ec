//! The cold tier of Thermocline: rows sink into Parquet under Iceberg, and are read back as if they had never left.
//!
//! The path of a row: a `round` takes it from the hot tier into a data file (`lake`), commits it and publishes the
//! `boundary`; [`Tiering::read_split`] says for one cut which rows to take from which tier; [`Tiering::follow`] reads cold,
//! then hot, then live. `compact` brings the small files of rounds together, beside it all. `warehouse` is where lakes live: a local directory or an S3-compatible store.
//! `backup` copies it all as it is at one moment, and makes servers of copies.
//!
//! Always, per bucket: `log_start ≤ trim_floor ≤ tiered_end ≤ durable_end`; below `tiered_end` rows are in the boundary's
//! snapshot, each once; a hot row goes only after the commit that holds it is durable.

mod backup;
mod boundary;
mod byte_cache;
pub mod check;
mod cold;
mod compact;
mod decode;
mod dropped;
mod expiry;
#[cfg(test)]
mod faulty_store;
mod follow;
mod guarded;
mod lake;
mod masks;
pub mod metric_names;
mod positions;
mod round;
mod snapshots;
mod split;
#[cfg(test)]
mod tests;
mod tiering;
pub mod token_format;
mod travel;
mod upkeep;
mod warehouse;

pub use backup::{BackedUpLake, BackedUpTable, BackupReport, Progress, back_up_stopped, restore, restore_into};
pub use boundary::Boundary;
pub use compact::CompactionReport;
pub use decode::{DecodeLimits, ParquetRows, decode_parquet};
pub use follow::{ChangeBatch, FollowFrom, FollowOptions, Followed, StateBatch};
pub use guarded::{guarded, guarded_future, guarded_stream};
pub use lake::{
    Append, CommitOutcome, CompactionPolicy, Ended, FileOffsets, Grace, LakeDeletes, LakeFile, LakeFileWriter,
    LakeTable, LakeVersion, Offsets, PickedRows, Rewrite, RewrittenFile, RewrittenRun, Swept, WrittenFile,
};
pub use masks::{CutFile, Picked};
pub use positions::parse_offsets;
pub use roaring::RoaringTreemap;
pub use round::RoundReport;
pub use snapshots::SnapshotInfo;
pub use split::{HotPart, LakePart, ReadSplit};
pub use tiering::{BucketStatus, TableStatus, Tiering, TieringOptions};
pub use travel::Version;
pub use warehouse::{DiskStore, Warehouse};
