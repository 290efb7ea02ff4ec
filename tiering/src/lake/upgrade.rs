//! From format version 2 to 3: a commit of metadata alone.
//!
//! What position deletes said stays said until a commit touches the data file again (see `ended`); rows get their ids with
//! the next snapshot.

use std::sync::Arc;
use std::time::SystemTime;

use iceberg::spec::{FormatVersion, TableMetadata};
use thermocline_schemas::{Code, Error, Result};

use super::commit::{BASES_MAX, COMMIT_TIMEOUT};
use super::table::metadata_bytes;
use super::{LakeTable, LakeVersion};

impl LakeTable {
    /// Makes this a table of format version 3, if it is not, and gives its newest version.
    pub async fn upgrade(&self) -> Result<Arc<LakeVersion>> {
        let _turn = self.queue.lock().await;
        for _ in 0..BASES_MAX {
            let deadline = SystemTime::now() + COMMIT_TIMEOUT;
            let base = self.refresh().await?;
            let is_upgraded = |metadata: &TableMetadata| metadata.format_version() >= FormatVersion::V3;
            if is_upgraded(&base.metadata) {
                return Ok(base);
            }
            base.check_history()?;
            let builder = (*base.metadata).clone().into_builder(Some(base.metadata_url.clone()));
            let built = builder.upgrade_format_version(FormatVersion::V3).and_then(|builder| builder.build());
            let built = built.map_err(|error| Error::internal("an upgrade of table metadata").with_source(error))?;
            // Whoever creates it, ours or another's upgrade, it is read from there.
            self.files.create(base.version + 1, metadata_bytes(&built.metadata)?, deadline, is_upgraded).await?;
        }
        Err(Error::new(Code::LakeConflict, format!("others committed first {BASES_MAX} times in a row"))
            .with_hint("try again when the table is quieter"))
    }
}
