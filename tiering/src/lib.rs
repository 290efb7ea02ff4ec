//! The cold tier: where lakes live, and the Iceberg tables in them.

mod lake;
mod warehouse;

pub use lake::{Append, CommitOutcome, LakeFile, LakeFileWriter, LakeTable, LakeVersion, Offsets, WrittenFile};
pub use warehouse::{DiskStore, Warehouse};
