//! Files that nobody needs any more: data files, delete files and manifests that no snapshot of the newest version names.
//! Rewrites leave them when the snapshots before are over, failed commits at once.
//!
//! Always:
//! - What any snapshot names that the newest metadata has, stays, tagged and branched ones too. If one of their lists or
//!   manifests cannot be read, or the listing breaks off, nothing is removed.
//! - A file stays until it is as old as superseded snapshots are kept ([`Grace::files`] at least, `snapshot_retention` if it
//!   is longer). So what another process has under way is safe for that long, and so is what was committed under an answer
//!   that got lost. What a rewrite replaced is named by the snapshot before it, and that one's time counts from the rewrite.
//! - What a commit of this process has under way stays however old ([`UnderWay`]), and so does what a reader of this process
//!   holds, however long it reads.
//! - Only what is named like a data file, delete file or manifest, and lies in this table's own directories, is touched.
//! - One sweep removes [`SWEPT_AT_ONCE`] files at most.
//!
//! The order matters: what lies there is listed first, then what is under way is noted, then the newest version is read. So
//! a file that was committed meanwhile is in the version, and one that was written later is not in the listing.
//!
//! Ages are told by the store's clock alone, as in `expire`. Manifest lists and version files are swept there.

use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;
use std::time::SystemTime;

use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{ManifestFile, Snapshot};
use object_store::ObjectMeta;
use object_store::path::Path as StorePath;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Code, Error, Result};
use uuid::Uuid;

use super::commit::COMMIT_TIMEOUT;
use super::data_files::{manifest, manifest_list, manifests_of};
use super::expire::{expired, is_manifest_list, without};
use super::metadata_files::Creation;
use super::table::metadata_bytes;
use super::{LakeTable, LakeVersion};
use crate::warehouse::store_error;

const READS_AT_ONCE: usize = 8;
/// What is more waits for the next sweep.
const SWEPT_AT_ONCE: usize = 1000;
/// How often a sweep is tried while snapshots go under it.
const TRIES_MAX: usize = 3;
/// So many sweeps in the time that files are kept: an orphan lives that much longer than it must.
const SWEEPS_PER_GRACE: u64 = 4;

/// The id of a commit whose files are not swept while this lives.
#[derive(Debug)]
pub struct UnderWay<'t> {
    table: &'t LakeTable,
    pub commit_id: Uuid,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.table.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.commit_id);
    }
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub removed: usize,
    /// There is more that the current snapshot does not name, and whose time may come.
    pub waits: bool,
}

/// Files that the current snapshot does not name, and when each was written.
type Candidates = BTreeMap<StorePath, DateTime<Utc>>;

impl LakeTable {
    /// A new commit id; files that are written for it are not swept while the answer lives.
    pub fn begin(&self) -> UnderWay<'_> {
        let commit_id = Uuid::now_v7();
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(commit_id);
        UnderWay { table: self, commit_id }
    }

    /// How long to wait from one sweep to the next.
    pub fn sweep_interval_ms(&self) -> u64 {
        (self.kept_ms() / SWEEPS_PER_GRACE).max(1_000)
    }

    /// Removes files that nobody needs; see the module's text.
    pub async fn sweep_orphans(&self) -> Result<Swept> {
        for _ in 1..TRIES_MAX {
            match self.try_sweep().await {
                // A snapshot went while its list was looked for; it names nothing any more.
                Err(error) if error.code() == Code::SnapshotExpired => {}
                swept => return swept,
            }
        }
        self.try_sweep().await
    }

    async fn try_sweep(&self) -> Result<Swept> {
        // A bound on what is remembered of the listing; what counts is read after it.
        let known = self.named_now(&*self.refresh().await?).await?;
        let in_metadata = self.files.list().await?;
        let manifests = in_metadata.iter().filter(|object| is_manifest(&object.location)).cloned();
        let mut candidates: Candidates = manifests
            .map(|object| (object.location, object.last_modified))
            .filter(|(path, _)| !known.contains(path))
            .collect();
        let mut now = in_metadata.iter().map(|object| object.last_modified).max().unwrap_or(DateTime::<Utc>::MIN_UTC);
        let mut in_data = self.files.list_below("data");
        while let Some(ObjectMeta { location, last_modified, .. }) = in_data.try_next().await? {
            now = now.max(last_modified);
            if is_data(&location) && !known.contains(&location) {
                candidates.insert(location, last_modified);
            }
        }
        let under_way: Vec<_> = {
            let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.iter().map(Uuid::to_string).collect()
        };
        let newest = self.refresh().await?;
        newest.check_history()?;
        let named = self.named_now(&newest).await?;
        candidates.retain(|path, _| !named.contains(path));
        let count = candidates.len();
        let kept = TimeDelta::milliseconds(i64::try_from(self.kept_ms()).unwrap_or(i64::MAX / 2));
        let mut held = newest.snapshot_id().map(|id| self.cache.held(Some(id))).unwrap_or_default();
        if faults::planted(Defect::HeldSwept) {
            held.clear();
        }
        candidates.retain(|path, written| {
            let is_under_way = || under_way.iter().any(|id| path.filename().is_some_and(|name| name.contains(id)));
            now.signed_duration_since(*written) >= kept && !held.contains(path) && !is_under_way()
        });
        self.keep_named(&newest, &mut candidates).await?;
        let removed: Vec<_> = candidates.into_keys().take(SWEPT_AT_ONCE).collect();
        let swept = Swept { removed: removed.len(), waits: count > removed.len() };
        let gone = self.warehouse().store().delete_stream(stream::iter(removed.into_iter().map(Ok)).boxed());
        let gone = gone.try_for_each(|_| std::future::ready(Ok(())));
        gone.await.map_err(|error| store_error(error, format!("sweep {}", self.location())))?;
        Ok(swept)
    }

    /// What the current snapshot names.
    async fn named_now(&self, version: &LakeVersion) -> Result<HashSet<StorePath>> {
        let mut named = HashSet::new();
        for listed in manifest_list(&self.files, version).await? {
            named.insert(self.warehouse().path(&listed.manifest_path)?);
        }
        let files = self.snapshot_files(version).await?;
        named.extend(files.data.iter().map(|file| file.path.clone()));
        named.extend(files.deletes.iter().map(|entry| entry.path.clone()));
        Ok(named)
    }

    /// Takes out of `candidates` what any other snapshot of `newest` names, oldest first: those name most of it.
    async fn keep_named(&self, newest: &LakeVersion, candidates: &mut Candidates) -> Result<()> {
        let mut snapshots: Vec<_> = newest.metadata.snapshots().cloned().collect();
        snapshots.retain(|snapshot| Some(snapshot.snapshot_id()) != newest.snapshot_id());
        if faults::planted(Defect::RetainedSwept) {
            snapshots.clear();
        }
        snapshots.sort_by_key(|snapshot| snapshot.sequence_number());
        let current = manifest_list(&self.files, newest).await?;
        // What the current snapshot's manifests name has been taken out.
        let mut seen: HashSet<String> = current.into_iter().map(|listed| listed.manifest_path).collect();
        for snapshot in snapshots {
            if candidates.is_empty() {
                return Ok(());
            }
            for (listed, names) in self.names(newest, &snapshot, &mut seen).await? {
                candidates.remove(&self.warehouse().path(&listed.manifest_path)?);
                candidates.retain(|path, _| !names.contains(path));
            }
        }
        Ok(())
    }

    /// The manifests of a snapshot that were not seen yet, each with what lives in it.
    async fn names(
        &self,
        newest: &LakeVersion,
        snapshot: &Snapshot,
        seen: &mut HashSet<String>,
    ) -> Result<Vec<(ManifestFile, HashSet<StorePath>)>> {
        let mut listed = manifests_of(&self.files, newest, snapshot).await?;
        listed.retain(|listed| seen.insert(listed.manifest_path.clone()));
        let read: Vec<_> = listed
            .into_iter()
            .map(|listed| async move {
                let manifest = manifest(&self.files, &listed.manifest_path).await?;
                let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
                let names = alive.map(|entry| self.warehouse().path(entry.data_file().file_path()));
                let names = names.collect::<Result<HashSet<_>>>()?;
                Ok::<_, Error>((listed, names))
            })
            .collect();
        stream::iter(read).buffer_unordered(READS_AT_ONCE).try_collect().await
    }

    /// Leaves superseded snapshots out of the history of a table that gets no more commits, which would leave them out. For
    /// tables whose newest snapshot is as old as that.
    pub async fn expire_if_idle(&self) -> Result<bool> {
        let _turn = self.queue.lock().await;
        let deadline = SystemTime::now() + COMMIT_TIMEOUT;
        let base = self.refresh().await?;
        base.check_history()?;
        let before_ms = self.expires_before_ms(Utc::now().timestamp_millis());
        let Some(current) = base.metadata.current_snapshot() else { return Ok(false) };
        let gone = expired(&base, before_ms)?;
        // One that is another's says nothing of our offsets; the one of ours before it does.
        if gone.is_empty() || current.timestamp_ms() > before_ms || !base.is_ours() {
            return Ok(false);
        }
        let builder = (*base.metadata).clone().into_builder(Some(base.metadata_url.clone()));
        let built = without(builder, &gone).build();
        let built = built.map_err(|error| Error::internal("an expiry of snapshots").with_source(error))?;
        let next = base.version + 1;
        let is_mine = |found: &iceberg::spec::TableMetadata| {
            found.current_snapshot_id() == base.snapshot_id()
                && gone.iter().all(|id| found.snapshot_by_id(*id).is_none())
        };
        let created = self.files.create(next, metadata_bytes(&built.metadata)?, deadline, is_mine).await?;
        self.refresh().await?;
        Ok(matches!(created, Creation::Mine))
    }
}

fn is_data(path: &StorePath) -> bool {
    matches!(path.extension(), Some("parquet" | "puffin"))
}

fn is_manifest(path: &StorePath) -> bool {
    path.extension() == Some("avro") && !is_manifest_list(path)
}
