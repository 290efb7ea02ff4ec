//! Compaction of one table's lake: what to write anew is planned, written, and committed.
//!
//! Always: reading and writing go on beside rounds and hold none up; the commit alone takes the round's lock, so that it
//! comes between rounds and no round finds its plan outdated by it. Rows that rounds ended meanwhile are the commit's affair
//! (`lake/rewrite.rs`), so however fast rows change, a rewrite that was written is committed. One plan at a time in a
//! server: the memory and the bandwidth of one, however many tables wait.
//!
//! A rewrite that fails leaves files that no commit names, for the sweep of orphans.

use std::sync::Arc;

use thermocline_engine::Table;
use thermocline_engine::faults::{self, CrashPoint};
use thermocline_schemas::{Code, Error, Result};

use crate::lake::{CommitOutcome, LakeTable, LakeVersion, Rewrite};
use crate::metric_names;
use crate::round::check_kept;
use crate::tiering::{TableLake, Tiering};

/// How often a rewrite is planned anew because its files were not there any more.
const PLANS_MAX: usize = 3;

/// What one plan came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Files that were there before; none if there was nothing to do.
    pub replaced: u64,
    /// Files that are there instead.
    pub written: u64,
    pub rows: u64,
    pub bytes: u64,
    /// The version that was planned on, or that came of it.
    pub(crate) version: u64,
}

impl Tiering {
    /// Writes files of a table's lake anew where that is worth it: as much as one plan does, nothing if nothing is.
    pub async fn compact(&self, table: &Arc<Table>) -> Result<CompactionReport> {
        if !table.descriptor().properties.lake_enabled {
            return Err(Error::new(Code::WrongTableKind, format!("table {} has no lake", table.descriptor().name)));
        }
        let _one = self.upkeep.acquire().await.map_err(|_| closing())?;
        self.compact_alone(table, &self.table_lake(table)).await
    }

    /// The same, for who has the permit.
    pub(crate) async fn compact_alone(&self, table: &Arc<Table>, table_lake: &TableLake) -> Result<CompactionReport> {
        let report = self.rewrite(table, table_lake).await?;
        if report.replaced > 0 {
            let name = table.descriptor().name.to_string();
            metrics::counter!(metric_names::REWRITES.name, "table" => name.clone()).increment(1);
            metrics::counter!(metric_names::REWRITTEN_FILES.name, "table" => name.clone()).increment(report.replaced);
            metrics::counter!(metric_names::REWRITTEN_ROWS.name, "table" => name.clone()).increment(report.rows);
            metrics::counter!(metric_names::REWRITTEN_BYTES.name, "table" => name.clone()).increment(report.bytes);
            let CompactionReport { replaced, written, rows, bytes, .. } = report;
            tracing::info!(table = name, replaced, written, rows, bytes, "files of the lake were written anew");
        }
        Ok(report)
    }

    async fn rewrite(&self, table: &Arc<Table>, table_lake: &TableLake) -> Result<CompactionReport> {
        let table = &self.engine().newest(table);
        let lake = table_lake.open(self, table).await?;
        for _ in 0..PLANS_MAX {
            // What is written anew has the newest columns.
            let version = lake.evolve(table.descriptor()).await?;
            version.check_history()?;
            let files = lake.data_files(&version).await?;
            // Those of rows that were taken away go with the next round.
            let starts = table.ends().starts.clone();
            let files = match starts.rows_gone() > version.rows_gone {
                true => Arc::new(lake.parted(&files, |bucket| starts.start(bucket)).await?.0),
                false => files,
            };
            let plan = self.options().compaction.plan(&files, table.descriptor().is_keyed());
            if plan.is_empty() {
                return Ok(CompactionReport { version: version.version, ..CompactionReport::default() });
            }
            let under_way = lake.begin();
            let mut rewrite = Rewrite::new(under_way.commit_id, version.clone());
            // The lake has them by now.
            let columns = table.descriptor().schema.lake_arrow();
            for run in &plan {
                let go_on = || self.may_go_on(table);
                rewrite.runs.push(lake.write_anew(under_way.commit_id, &version, run, &columns, go_on).await?);
            }
            faults::reached(CrashPoint::RewriteWritten);
            if let Some(committed) = self.commit(table, table_lake, lake, &rewrite).await? {
                table_lake.sweep_if_due(lake, &committed).await;
                return Ok(report(&rewrite, &committed));
            }
            tracing::info!(table = %table.descriptor().name, "files to be replaced are gone, planning anew");
        }
        Err(Error::new(Code::LakeConflict, format!("files went {PLANS_MAX} times while they were being written anew"))
            .with_hint("does somebody else write the table's files anew?"))
    }

    /// None if its files are not there any more.
    pub(crate) async fn commit(
        &self,
        table: &Arc<Table>,
        table_lake: &TableLake,
        lake: &Arc<LakeTable>,
        rewrite: &Rewrite,
    ) -> Result<Option<Arc<LakeVersion>>> {
        lake.read_ahead(rewrite).await?;
        let _between_rounds = table_lake.round.lock().await;
        check_kept(table)?;
        match lake.replace(rewrite).await? {
            CommitOutcome::Committed(version) => {
                faults::reached(CrashPoint::RewriteCommitted);
                table_lake.published.publish(table, lake, version.clone())?;
                Ok(Some(version))
            }
            CommitOutcome::Stale(_) => Ok(None),
        }
    }

    fn may_go_on(&self, table: &Table) -> Result<()> {
        check_kept(table)?;
        if self.is_closing() { Err(closing()) } else { Ok(()) }
    }
}

pub(crate) fn closing() -> Error {
    Error::new(Code::ShuttingDown, "the server is stopping")
}

fn report(rewrite: &Rewrite, committed: &LakeVersion) -> CompactionReport {
    let written = || rewrite.runs.iter().filter_map(|run| run.written.as_ref());
    CompactionReport {
        replaced: rewrite.runs.iter().map(|run| run.replaced.len() as u64).sum(),
        written: written().count() as u64,
        rows: written().map(|written| written.file.rows()).sum(),
        bytes: written().map(|written| written.file.bytes).sum(),
        version: committed.version,
    }
}
