//! What becomes of dropped tables when nobody can bring them back any more: their lake goes, then their hot rows.
//!
//! Always: the lake goes first, because the table is what leads to it. A purge that ends early is done again: data goes before
//! the metadata that says whose it is.

use std::sync::Arc;

use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{Table, UNFINISHED};
use thermocline_schemas::Result;

use crate::compact::closing;
use crate::lake::LakeTable;
use crate::tiering::Tiering;

impl Tiering {
    /// Purges the dropped tables whose time is up, as the scheduler does by itself; how many.
    pub async fn purge_dropped(&self) -> Result<usize> {
        let _one = self.upkeep.acquire().await.map_err(|_| closing())?;
        self.purge_due().await
    }

    /// The dropped tables whose time is up, and whether each was never finished, so that it has no lake.
    pub(crate) fn due_for_purge(&self) -> Vec<(Arc<Table>, bool)> {
        let now = self.engine().now_micros();
        let dropped = self.engine().dropped_tables().into_iter();
        // One that is still being made is not dropped.
        let due = dropped.filter(|(table, until)| *until <= now && table.is_dropped());
        due.map(|(table, until)| (table, until == UNFINISHED)).collect()
    }

    /// The same, for who has the permit. One that does not go holds up no other.
    pub(crate) async fn purge_due(&self) -> Result<usize> {
        let (mut purged, mut failed) = (0, None);
        for (table, is_unfinished) in &self.due_for_purge() {
            match self.purge(table, *is_unfinished).await {
                Ok(is_gone) => purged += usize::from(is_gone),
                Err(error) => {
                    let descriptor = table.descriptor();
                    tracing::warn!(table = %descriptor.name, id = %descriptor.id, %error, "not gone yet");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(purged), Err)
    }

    /// False if it has to wait.
    async fn purge(&self, table: &Arc<Table>, is_unfinished: bool) -> Result<bool> {
        let descriptor = table.descriptor();
        // After this one there is none: the table is dropped.
        let lake = self.table_lake(table);
        let _after_rounds = lake.round.lock().await;
        if lake.lake.get().is_some_and(|open| open.is_read()) && !faults::planted(Defect::HeldSwept) {
            // Statements that have begun are answered.
            return Ok(false);
        }
        let Ok(_alone) = lake.kept.try_write() else { return Ok(false) };
        if descriptor.properties.lake_enabled && !is_unfinished {
            LakeTable::remove(self.warehouse(), descriptor).await?;
        }
        self.engine().purge_table(descriptor.id).await?;
        let what =
            if is_unfinished { "what was not finished of a table is gone" } else { "a dropped table is gone for good" };
        tracing::info!(table = %descriptor.name, id = %descriptor.id, "{what}");
        Ok(true)
    }
}
