//! Commits of metadata alone: from format version 2 to 3, and to the newest columns.
//!
//! What position deletes said stays said until a commit touches the data file again (see `ended`); rows get their ids with
//! the next snapshot. Files are never written for new columns: readers find by field id what a file has.

use std::sync::Arc;
use std::time::SystemTime;

use iceberg::spec::{FormatVersion, TableMetadata};
use thermocline_schemas::{Code, Error, Result, TableDescriptor};

use super::commit::{BASES_MAX, COMMIT_TIMEOUT};
use super::table::metadata_bytes;
use super::{LakeTable, LakeVersion};

impl LakeTable {
    /// Makes this a table of format version 3, if it is not, and gives its newest version.
    pub async fn upgrade(&self) -> Result<Arc<LakeVersion>> {
        let upgraded = |base: &LakeVersion| {
            if base.metadata.format_version() >= FormatVersion::V3 {
                return Ok(None);
            }
            let builder = (*base.metadata).clone().into_builder(Some(base.metadata_url.clone()));
            let built = builder.upgrade_format_version(FormatVersion::V3).and_then(|builder| builder.build());
            let built = built.map_err(|error| Error::internal("an upgrade of table metadata").with_source(error))?;
            Ok(Some(built.metadata))
        };
        self.commit_metadata(upgraded).await
    }

    /// Gives the lake the columns of this version of the table, if it has not them or later ones, and answers its newest
    /// version.
    pub async fn evolve(&self, descriptor: &TableDescriptor) -> Result<Arc<LakeVersion>> {
        self.adopt(descriptor)?;
        let layout = self.layout();
        self.commit_metadata(|base| {
            layout.check(&base.metadata)?;
            layout.evolved(base)
        })
        .await
    }

    /// Commits what `change` makes of the newest metadata, until it makes nothing of it any more.
    async fn commit_metadata(
        &self,
        change: impl Fn(&LakeVersion) -> Result<Option<TableMetadata>>,
    ) -> Result<Arc<LakeVersion>> {
        let _turn = self.queue.lock().await;
        for _ in 0..BASES_MAX {
            let deadline = SystemTime::now() + COMMIT_TIMEOUT;
            let base = self.refresh().await?;
            let Some(metadata) = change(&base)? else { return Ok(base) };
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
