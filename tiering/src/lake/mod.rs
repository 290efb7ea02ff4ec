//! One Iceberg table per table of ours: written here, read by every engine that knows Iceberg.
//!
//! Always, per log table: the rows of bucket b with offsets below [`LakeVersion::offsets`]`.get(b)` are in that version's
//! snapshot, each once, and no others are. Of a table with a primary key, those of them that are visible there are. A row is
//! known by bucket and offset, in files too; its position in a file is the rank of its offset (see `file_offsets`), so that
//! a file may be written anew and nothing has to be pointed elsewhere. A version is one metadata file and never changes; the
//! table's versions form one line, and going from one to the next is the create of one file.
//!
//! iceberg-rust is used as a library of formats: metadata, manifests and lists are built and parsed in memory, and every
//! byte goes through the warehouse's store. Where each thing is told: `commit` (exactly once), `metadata_files` (how a
//! version is found and made), `version` (what others may do), `layout` (schema and partitions), `file_writer` (Parquet),
//! `data_files` and `deletes` (what is in a snapshot), `ended` (the deletes of a commit; how they are kept: `vectors`,
//! `position_deletes`), `rewrite` (files written anew; which: `compaction`), `merging` (few manifests), `expire` (what leaves
//! the history), `orphans` (what leaves the warehouse), `captured` and `relocate` (what a backup holds of a table, and how it
//! comes to another address).
//!
//! Not here: what to write and when (rounds, upkeep), reading rows (SQL, followers).

mod avro_edit;
mod bounds;
mod captured;
mod commit;
mod compaction;
mod data_files;
mod deletes;
mod ended;
mod evolve;
mod expire;
mod file_offsets;
mod file_writer;
mod footer;
mod history;
mod inspect;
mod layout;
mod leaves;
mod lineage;
mod merging;
mod metadata_files;
mod offsets;
mod orphans;
mod position_deletes;
mod properties;
mod read;
mod regroup;
mod relocate;
mod rewrite;
mod snapshot;
mod summary;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod upload;
mod vectors;
mod version;

pub use captured::{CapturedLake, LakeObject, ObjectKind, RestoredMetadata, relocated};
pub use commit::{Append, CommitOutcome};
pub use compaction::CompactionPolicy;
pub use data_files::{LakeFile, files_of};
pub use deletes::LakeDeletes;
pub use ended::Ended;
pub use expire::Grace;
pub use file_offsets::FileOffsets;
pub use file_writer::{LakeFileWriter, WrittenFile};
pub use history::PastSnapshot;
pub use inspect::{FilePartitions, LakeInspection, NamedDeletes, NamedFile, NamedManifest};
pub use offsets::Offsets;
pub use orphans::Swept;
pub use read::{LakeRows, PickedRows};
pub use relocate::Relocation;
pub use rewrite::{Rewrite, RewrittenFile, RewrittenRun};
pub use table::LakeTable;
pub use version::LakeVersion;
