//! The commit of a round: its rows enter the lake exactly once, together with the offsets that say so.
//!
//! A commit carries `[start, end)` per bucket. A log table's files tile that range without gap or overlap. Those of a
//! primary-key table hold what is left of it, so they are disjoint and within it, and there may be none; and the commit
//! says which rows of older files ended in it (see `ended`). Where a log table has lost its first rows, the files that hold
//! them go with the commit, and its own files begin there. This is checked before anything else. A commit builds on one metadata file, and on that very file the guard must hold: the same table, nothing
//! foreign in between (see `version`), and **offsets equal to `start` to the letter**. `≥ end` is not "done": another
//! writer's prefix of the same rows would pass for it, and the rest would be doubled.
//!
//! Then the create of the next version file decides (see `metadata_files`):
//! - it is ours: committed;
//! - it is another's: read on from there. If our commit is in its history, committed. If the offsets are still `start`
//!   (somebody replaced files without changing rows), the data files stay and everything above them is built anew on the
//!   new base; but not if rows of older files end, since these are files of one version. Else the rows are in the lake by another's doing, or never were ours to write: [`CommitOutcome::Stale`];
//! - nobody can tell: an error. The commit may yet appear. Whoever tries again refreshes first and finds either its
//!   commit id or the offsets to plan from.
//!
//! Nothing is ever deleted here. A file that looks lost may belong to a commit that landed late. A commit leaves snapshots
//! out of the history whose time is over (see `expire`).
//!
//! Rewrites take the same way (see `rewrite`): they carry no offsets, and are stale where their files are gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, TryStreamExt};
use iceberg::spec::Operation;
use object_store::path::Path as StorePath;
use thermocline_engine::faults::{self, CrashPoint, Defect};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result};
use tokio::time::timeout;
use uuid::Uuid;

use super::ended::CommitDeletes;
use super::metadata_files::Creation;
use super::snapshot::{Attempt, Delta};
use super::{Ended, LakeFile, LakeTable, LakeVersion, Offsets, Rewrite, WrittenFile};

/// How often a commit is built anew because others committed in between.
pub(super) const BASES_MAX: u32 = 16;
const PUTS_AT_ONCE: usize = 8;
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
    /// Rows below `start` that end before `end`; for tables with a primary key.
    pub ended: Option<Ended>,
    /// Of a log table: where its buckets start, if not at 0. What lies below is in no file afterwards.
    pub log_starts: Offsets,
    /// When the first and the last of what lies between `start` and `end` were accepted, in microseconds since 1970.
    pub stamps: Option<(i64, i64)>,
}

/// How a commit ended.
#[derive(Clone, Debug)]
pub enum CommitOutcome {
    /// The commit is in this version's history. Others may have committed since: take offsets and snapshot from here.
    Committed(Arc<LakeVersion>),
    /// The table is not at the commit's start: forget its files, plan anew from this version.
    Stale(Arc<LakeVersion>),
}

/// What a commit is about.
#[derive(Clone, Copy)]
enum Change<'c> {
    Append(&'c Append),
    Rewrite(&'c Rewrite),
}

impl<'c> Change<'c> {
    fn commit_id(self) -> Uuid {
        match self {
            Change::Append(append) => append.commit_id,
            Change::Rewrite(rewrite) => rewrite.commit_id,
        }
    }

    /// What it does to `base`; none if it was made for something else.
    async fn on<'b>(self, table: &LakeTable, base: &'b LakeVersion) -> Result<Option<Delta<'b>>>
    where
        'c: 'b,
    {
        match self {
            Change::Append(append) => append.on(table, base).await,
            Change::Rewrite(rewrite) => rewrite.on(table, base).await,
        }
    }

    fn is_done(self, base: &LakeVersion) -> bool {
        match self {
            Change::Append(append) if faults::planted(Defect::EndTakenAsDone) => base.offsets.covers(&append.end),
            _ => base.contains_commit(self.commit_id()),
        }
    }
}

impl LakeTable {
    /// Commits `append`; see the module's text for what an error means.
    pub async fn append(&self, append: &Append) -> Result<CommitOutcome> {
        append.check(self.layout().is_keyed())?;
        self.commit_in_turn(Change::Append(append)).await
    }

    /// Commits `rewrite`; see the module's text for what an error means.
    pub async fn replace(&self, rewrite: &Rewrite) -> Result<CommitOutcome> {
        rewrite.check(self.layout().is_keyed())?;
        let outcome = self.commit_in_turn(Change::Rewrite(rewrite)).await?;
        rewrite.keep_offsets(self);
        Ok(outcome)
    }

    async fn commit_in_turn(&self, change: Change<'_>) -> Result<CommitOutcome> {
        let _turn = self.queue.lock().await;
        match timeout(COMMIT_TIMEOUT, self.commit(change)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(
                Code::StoreUnavailable,
                format!("whether commit {} landed is not known after {COMMIT_TIMEOUT:?}", change.commit_id()),
            )),
        }
    }

    async fn commit(&self, change: Change<'_>) -> Result<CommitOutcome> {
        for _ in 0..BASES_MAX {
            let deadline = SystemTime::now() + COMMIT_TIMEOUT;
            // Every attempt reads anew what it builds on.
            let base = self.refresh().await?;
            if change.is_done(&base) {
                return Ok(CommitOutcome::Committed(base));
            }
            base.check_history()?;
            self.layout().check(&base.metadata)?;
            let Some(delta) = change.on(self, &base).await? else { return Ok(CommitOutcome::Stale(base)) };
            let attempt = Attempt::build(self, &base, delta).await?;
            // Deletes, manifests and list must last before the version that names them.
            self.put_all(&attempt.deletes).await?;
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
                    tracing::debug!(table = %self.id(), version = next, commit = %change.commit_id(), "committed");
                    return Ok(CommitOutcome::Committed(version));
                }
                Creation::Taken => {
                    metrics::counter!(crate::metric_names::COMMIT_CONFLICTS.name).increment(1);
                    tracing::info!(table = %self.id(), version = next, "another commit was first, reading it");
                }
            }
        }
        Err(Error::new(Code::LakeConflict, format!("others committed first {BASES_MAX} times in a row"))
            .with_hint("try again when the table is quieter"))
    }

    async fn put_all(&self, objects: &[(StorePath, Bytes)]) -> Result<()> {
        let puts: Vec<_> = objects.iter().map(|(path, bytes)| Ok(self.files.put_new(path, bytes.clone()))).collect();
        stream::iter(puts).try_buffer_unordered(PUTS_AT_ONCE).try_collect().await
    }
}

impl Append {
    /// What it does to `base`; none if the table is not at its start, or at another version than its deletes are of.
    async fn on<'c>(&'c self, table: &LakeTable, base: &'c LakeVersion) -> Result<Option<Delta<'c>>> {
        if base.offsets != self.start && !faults::planted(Defect::CommitRebased) {
            return Ok(None);
        }
        if self.ended.as_ref().is_some_and(|ended| ended.base != base.version) {
            return Ok(None);
        }
        let (mut touched, mut joined) = (HashSet::new(), Vec::new());
        if let Some(ended) = &self.ended {
            for (path, deletes) in ended.joined(table, base).await? {
                touched.insert(path);
                joined.push(deletes);
            }
        }
        let deletes = match joined.is_empty() {
            true => None,
            false => CommitDeletes::of(table, base, self.commit_id, joined, &touched).await?,
        };
        let gone = self.gone(table, base).await?;
        let takes_away = deletes.is_some() || !gone.is_empty();
        Ok(Some(Delta {
            commit_id: self.commit_id,
            // As Iceberg's own row deltas call themselves.
            operation: match takes_away {
                false => Operation::Append,
                true if self.files.is_empty() => Operation::Delete,
                true => Operation::Overwrite,
            },
            start: &self.start,
            end: &self.end,
            rows_gone: self.log_starts.sum().max(base.rows_gone),
            stamps: self.stamps,
            added: self.files.iter().collect(),
            gone,
            deletes,
            files_of: base,
        }))
    }

    /// The files of `base` whose rows lie before the log's start.
    async fn gone(&self, table: &LakeTable, base: &LakeVersion) -> Result<Vec<Arc<LakeFile>>> {
        if self.log_starts.sum() <= base.rows_gone || faults::planted(Defect::LostRowsKept) {
            return Ok(Vec::new());
        }
        let files = table.data_files(base).await?;
        Ok(table.parted(&files, |bucket| self.log_starts.get(bucket)).await?.1)
    }

    /// The files are rows between `start`, or the log's start, and `end`; without a key, exactly these.
    fn check(&self, is_keyed: bool) -> Result<()> {
        let changes = self.end.changes_since(&self.start);
        if changes.is_empty() && self.log_starts.is_empty() {
            return Err(Error::internal("a commit that moves no offset"));
        }
        if !is_keyed && self.ended.is_some() {
            return Err(Error::internal("a commit that ends rows of a log table"));
        }
        if is_keyed && !self.log_starts.is_empty() {
            return Err(Error::internal("a commit that takes the first changes away of rows with a key"));
        }
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|file| (file.bucket, file.first_offset));
        let mut files = files.into_iter().peekable();
        for (bucket, start, end) in changes {
            let mut reached = start.max(self.log_starts.get(bucket));
            while let Some(file) = files.next_if(|file| file.bucket == bucket) {
                let follows = if is_keyed { file.first_offset >= reached } else { file.first_offset == reached };
                if !follows {
                    return Err(untiled(bucket, reached, file.first_offset));
                }
                reached = file.end_offset;
            }
            if reached > end || !is_keyed && reached != end {
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
