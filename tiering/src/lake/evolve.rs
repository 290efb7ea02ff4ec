//! Commits of metadata alone: from format version 2 to 3, and to the newest columns.
//!
//! What position deletes said stays said until a commit touches the data file again (see `ended`); rows get their ids with
//! the next snapshot. Files are never written for new columns: readers find by field id what a file has.

use std::sync::Arc;
use std::time::SystemTime;

use iceberg::spec::TableMetadata;
use thermocline_schemas::{Code, Error, Result, TableDescriptor};

use super::commit::{BASES_MAX, COMMIT_TIMEOUT};
use super::table::metadata_bytes;
use super::{LakeTable, LakeVersion};

impl LakeTable {
    /// Gives the lake the format and the columns of this version of the table, if it has not them or later ones, and answers
    /// its newest version.
    pub async fn evolve(&self, descriptor: &TableDescriptor) -> Result<Arc<LakeVersion>> {
        self.adopt(descriptor)?;
        let layout = self.layout();
        let _turn = self.queue.lock().await;
        for _ in 0..BASES_MAX {
            let deadline = SystemTime::now() + COMMIT_TIMEOUT;
            let base = self.refresh().await?;
            layout.check(&base.metadata)?;
            let Some(metadata) = layout.evolved(&base)? else { return Ok(base) };
            base.check_history()?;
            let bytes = metadata_bytes(&metadata)?;
            // Whoever creates it, ours or another's, it is read from there.
            let is_alike = |found: &TableMetadata| *found == metadata;
            self.files.create(base.version + 1, bytes, deadline, is_alike).await?;
        }
        Err(Error::new(Code::LakeConflict, format!("others committed first {BASES_MAX} times in a row"))
            .with_hint("try again when the table is quieter"))
    }
}
