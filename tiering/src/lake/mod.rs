//! One Iceberg table per log table: written here, read by every engine that knows Iceberg.
//!
//! Always, per table: the rows of bucket b with offsets below [`LakeVersion::offsets`]`.get(b)` are in that version's
//! snapshot, each once, and no others are. A version is one metadata file and never changes; the table's versions form one
//! line, and going from one to the next is the create of one file.
//!
//! iceberg-rust is used as a library of formats: metadata, manifests and lists are built and parsed in memory, and every
//! byte goes through the warehouse's store. Where each thing is told: `commit` (exactly once), `metadata_files` (how a
//! version is found and made), `version` (what others may do), `layout` (schema and partitions), `file_writer` (Parquet),
//! `data_files` (what is in a snapshot), `expire` (what
//! leaves the history).
//!
//! Not here: what to write and when (rounds), reading rows (SQL, followers), compaction.

mod bounds;
mod commit;
mod data_files;
mod expire;
mod file_writer;
mod inspect;
mod layout;
mod metadata_files;
mod offsets;
mod properties;
mod read;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod upload;
mod version;

pub use commit::{Append, CommitOutcome};
pub use data_files::LakeFile;
pub use expire::Grace;
pub use file_writer::{LakeFileWriter, WrittenFile};
pub use inspect::{LakeInspection, NamedFile, NamedManifest};
pub use offsets::Offsets;
pub use read::LakeRows;
pub use table::LakeTable;
pub use version::LakeVersion;
