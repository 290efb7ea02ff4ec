//! The commit of a round of a log table: its rows enter the lake exactly once, together with the offsets that say so.
//!
//! A commit carries `[start, end)` per bucket, and its files tile that range without gap or overlap; this is checked before
//! anything else. It builds on one metadata file, and on that very file the guard must hold: the same table, nothing
//! foreign in between (see `version`), and **offsets equal to `start` to the letter**. `≥ end` is not "done": another
//! writer's prefix of the same rows would pass for it, and the rest would be doubled.
//!
//! Then the create of the next version file decides (see `metadata_files`):
//! - it is ours: committed;
//! - it is another's: read on from there. If our commit is in its history, committed. If the offsets are still `start`
//!   (somebody replaced files without changing rows), the data files stay and everything above them is built anew on the
//!   new base. Else the rows are in the lake by another's doing, or never were ours to write: [`CommitOutcome::Stale`];
//! - nobody can tell: an error. The commit may yet appear. Whoever tries again refreshes first and finds either its
//!   commit id or the offsets to plan from.
//!
//! Nothing is ever deleted here. A file that looks lost may belong to a commit that landed late. A commit leaves snapshots
//! out of the history whose time is over (see `expire`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thermocline_engine::faults::{self, CrashPoint, Defect};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result};
use tokio::time::timeout;
use uuid::Uuid;

use super::metadata_files::Creation;
use super::snapshot::Attempt;
use super::{LakeTable, LakeVersion, Offsets, WrittenFile};

/// How often a commit is built anew because others committed in between.
const BASES_MAX: u32 = 16;
/// An attempt older than this must be dead: version files are kept for much longer.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(180);

/// What a round wants to add.
#[derive(Clone, Debug)]
pub struct Append {
    /// Never used for other contents.
    pub commit_id: Uuid,
    /// The offsets that the rows start at: all of the table's.
    pub start: Offsets,
    /// The offsets afterwards: all of the table's.
    pub end: Offsets,
    pub files: Vec<WrittenFile>,
}

/// How a commit ended.
#[derive(Clone, Debug)]
pub enum CommitOutcome {
    /// The commit is in this version's history. Others may have committed since: take offsets and snapshot from here.
    Committed(Arc<LakeVersion>),
    /// The table is not at the commit's start: forget its files, plan anew from this version.
    Stale(Arc<LakeVersion>),
}

impl LakeTable {
    /// Commits `append`; see the module's text for what an error means.
    pub async fn append(&self, append: &Append) -> Result<CommitOutcome> {
        append.check()?;
        let _turn = self.queue.lock().await;
        match timeout(COMMIT_TIMEOUT, self.commit(append)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(
                Code::StoreUnavailable,
                format!("whether commit {} landed is not known after {COMMIT_TIMEOUT:?}", append.commit_id),
            )),
        }
    }

    async fn commit(&self, append: &Append) -> Result<CommitOutcome> {
        for _ in 0..BASES_MAX {
            let deadline = SystemTime::now() + COMMIT_TIMEOUT;
            // Every attempt reads anew what it builds on.
            let base = self.refresh().await?;
            if base.contains_commit(append.commit_id) {
                return Ok(CommitOutcome::Committed(base));
            }
            if faults::planted(Defect::EndTakenAsDone) && base.offsets.covers(&append.end) {
                return Ok(CommitOutcome::Committed(base));
            }
            base.check_history()?;
            if base.offsets != append.start && !faults::planted(Defect::CommitRebased) {
                return Ok(CommitOutcome::Stale(base));
            }
            self.layout.check(&base.metadata)?;

            let attempt = Attempt::build(self, &base, append).await?;
            // Manifest and list must last before the version that names them.
            for (path, bytes) in &attempt.objects {
                self.files.put_new(path, bytes.clone()).await?;
            }
            faults::reached(CrashPoint::ManifestsWritten);
            let next = base.version + 1;
            let is_mine = |found: &iceberg::spec::TableMetadata| {
                found.current_snapshot_id() == attempt.metadata.current_snapshot_id()
            };
            match self.files.create(next, attempt.bytes.clone(), deadline, is_mine).await? {
                Creation::Mine => {
                    faults::reached(CrashPoint::VersionCreated);
                    let url = self.files.version_url(next);
                    let version = self.advance(LakeVersion::new(next, url, attempt.metadata)?)?;
                    self.files.write_hint(next).await;
                    faults::reached(CrashPoint::HintWritten);
                    tracing::debug!(table = %self.id(), version = next, commit = %append.commit_id, "committed");
                    return Ok(CommitOutcome::Committed(version));
                }
                Creation::Taken => {
                    tracing::info!(table = %self.id(), version = next, "another commit was first, reading it");
                }
            }
        }
        Err(Error::new(Code::LakeConflict, format!("others committed first {BASES_MAX} times in a row"))
            .with_hint("try again when the table is quieter"))
    }
}

impl Append {
    /// The files are exactly the rows between `start` and `end`.
    fn check(&self) -> Result<()> {
        let changes = self.end.changes_since(&self.start);
        if changes.is_empty() {
            return Err(Error::internal("a commit that moves no offset"));
        }
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|file| (file.bucket, file.first_offset));
        let mut files = files.into_iter().peekable();
        for (bucket, start, end) in changes {
            let mut reached = start;
            while let Some(file) = files.next_if(|file| file.bucket == bucket) {
                if file.first_offset != reached {
                    return Err(untiled(bucket, reached, file.first_offset));
                }
                reached = file.end_offset;
            }
            if reached != end {
                return Err(untiled(bucket, reached, end));
            }
        }
        match files.next() {
            Some(file) => Err(untiled(file.bucket, self.end.get(file.bucket), file.first_offset)),
            None => Ok(()),
        }
    }
}

fn untiled(bucket: PartitionBucket, reached: Offset, found: Offset) -> Error {
    Error::internal(format!("the files of bucket {bucket} reach offset {reached}, then comes {found}"))
}
