//! What leaves a lake's history, and the metadata files that go after it.
//!
//! A commit of ours leaves out of the metadata it writes the snapshots that were **superseded** longer ago than
//! `snapshot_retention` ([`expired`]). So expiry has no commit of its own to race with, and a metadata file is as large as
//! the retention, not as the table is old. Every [`SWEEP_EVERY`] versions a sweep removes files: manifest lists that the
//! newest version does not name, and version files that have left its metadata log.
//!
//! Always:
//! - The current snapshot stays, and what a tag or branch names. The one that the commit adds is ours, so the offsets in it
//!   can be checked (see `version`).
//! - Age counts from being superseded. A snapshot that was the newest for a week has readers from a moment ago.
//! - [`Grace::files`] is the least that a superseded snapshot and a file of nobody are kept, whatever the property says:
//!   time for foreign readers, and for attempts that are still under way.
//! - Version files stay [`Grace::versions`], those in the metadata log longer. They go one by one, oldest first, and only
//!   below what the hint says: what is left has no gap, and nobody who finds the newest version by hint or by listing meets
//!   one. A commit that slept could create a version anew that was removed; so an attempt has a deadline, by the wall clock.
//! - Manifests and data files are not touched here: see `orphans`.
//! - Ages are told by the store's clock alone: "now" is the time of the newest file in the listing.
//!
//! Readers need no pins for lists and manifests: a split has read them when it is made. Who comes to an old version later
//! than the grace gets `snapshot_expired`, never fewer rows.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use futures::stream::{self, StreamExt};
use iceberg::spec::{TableMetadata, TableMetadataBuilder};
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStoreExt};
use thermocline_schemas::{Error, Result};

use super::metadata_files::{MetadataFiles, version_in};
use super::{LakeTable, LakeVersion};
use crate::warehouse::store_error;

const SWEEP_EVERY: u64 = 32;
/// What is more waits for the next sweep.
const SWEPT_AT_ONCE: usize = 1000;

/// The least that is kept; see the module's text.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    pub files: Duration,
    pub versions: Duration,
}

impl Default for Grace {
    fn default() -> Grace {
        Grace { files: Duration::from_secs(3600), versions: Duration::from_secs(86_400) }
    }
}

/// The snapshots that were superseded at or before `before_ms`, apart from those that tags and branches name.
pub(super) fn expired(version: &LakeVersion, before_ms: i64) -> Result<Vec<i64>> {
    let mut successor: Option<i64> = None;
    let mut found = Vec::new();
    for snapshot in version.ancestors() {
        if successor.is_some_and(|superseded_ms| superseded_ms <= before_ms) {
            found.push(snapshot.snapshot_id());
        }
        successor = Some(snapshot.timestamp_ms());
    }
    if !found.is_empty() {
        let named = named_snapshots(&version.metadata)?;
        found.retain(|id| !named.contains(id));
    }
    Ok(found)
}

/// Takes snapshots out of a history, with what other engines have computed of them.
pub(super) fn without(builder: TableMetadataBuilder, gone: &[i64]) -> TableMetadataBuilder {
    let builder = builder.remove_snapshots(gone);
    gone.iter().fold(builder, |builder, id| builder.remove_statistics(*id).remove_partition_statistics(*id))
}

/// What tags and branches point at. The library keeps them to itself, the text does not.
fn named_snapshots(metadata: &TableMetadata) -> Result<HashSet<i64>> {
    let text = serde_json::to_value(metadata)
        .map_err(|error| Error::internal("table metadata does not serialise").with_source(error))?;
    let references = text["refs"].as_object().into_iter().flatten();
    Ok(references.filter_map(|(_, reference)| reference["snapshot-id"].as_i64()).collect())
}

/// The files that a sweep removes, version files last and in their order.
fn superfluous(
    files: &MetadataFiles,
    listed: &[ObjectMeta],
    newest: &LakeVersion,
    hint: Option<u64>,
    grace: Grace,
) -> Result<(Vec<StorePath>, Vec<StorePath>)> {
    let now = listed.iter().map(|object| object.last_modified).max().unwrap_or(DateTime::<Utc>::MIN_UTC);
    let is_older = |object: &ObjectMeta, age: Duration| {
        TimeDelta::from_std(age).is_ok_and(|age| now.signed_duration_since(object.last_modified) >= age)
    };
    let lists = newest.metadata.snapshots().map(|snapshot| snapshot.manifest_list());
    let log = newest.metadata.metadata_log().iter().map(|entry| entry.metadata_file.as_str());
    let named = lists.chain(log).map(|url| files.warehouse().path(url)).collect::<Result<HashSet<_>>>()?;
    let (mut old_lists, mut old_versions) = (Vec::new(), Vec::new());
    for object in listed.iter().filter(|object| !named.contains(&object.location)) {
        match version_in(&object.location) {
            Some(version) => {
                let is_past = version < newest.version && hint.is_some_and(|hint| version < hint);
                if is_past && is_older(object, grace.versions) {
                    old_versions.push((version, object.location.clone()));
                }
            }
            None if is_manifest_list(&object.location) && is_older(object, grace.files) => {
                old_lists.push(object.location.clone());
            }
            None => {}
        }
    }
    old_versions.sort();
    old_versions.truncate(SWEPT_AT_ONCE);
    old_lists.truncate(SWEPT_AT_ONCE);
    Ok((old_lists, old_versions.into_iter().map(|(_, path)| path).collect()))
}

/// Ours and other engines' are named alike.
pub(super) fn is_manifest_list(path: &StorePath) -> bool {
    path.filename().is_some_and(|name| name.starts_with("snap-") && name.ends_with(".avro"))
}

impl LakeTable {
    /// Superseded at or before this moment, snapshots go.
    pub(super) fn expires_before_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(i64::try_from(self.kept_ms()).unwrap_or(i64::MAX))
    }

    /// How long what was superseded is kept.
    pub(super) fn kept_ms(&self) -> u64 {
        self.layout().snapshot_retention_ms().max(self.grace.files.as_millis() as u64)
    }

    /// After the commit of `version`: sweeps if it is time to. What fails is for the next sweep.
    pub async fn sweep_if_due(&self, version: &LakeVersion) {
        if !version.version.is_multiple_of(SWEEP_EVERY) {
            return;
        }
        match self.sweep().await {
            Ok(0) => {}
            Ok(count) => tracing::info!(table = %self.id(), count, "superfluous metadata files removed"),
            Err(error) => tracing::warn!(table = %self.id(), %error, "superfluous metadata files stay"),
        }
    }

    /// Removes the metadata files that nobody needs any more, and says how many.
    pub async fn sweep(&self) -> Result<usize> {
        let _turn = self.queue.lock().await;
        // In this order: what the newest version names and the listing does not know is not lost, it is new.
        let listed = self.files.list().await?;
        let newest = self.refresh().await?;
        let hint = self.files.hint().await?;
        let (lists, versions) = superfluous(&self.files, &listed, &newest, hint, self.grace)?;
        let count = lists.len() + versions.len();
        let store = self.files.warehouse().store();
        let gone = store.delete_stream(stream::iter(lists.into_iter().map(Ok)).boxed());
        let gone = gone.try_for_each(|_| std::future::ready(Ok(())));
        gone.await.map_err(|error| store_error(error, format!("sweep {}", self.location())))?;
        for path in versions {
            let deleted = store.delete(&path).await;
            deleted.map_err(|error| store_error(error, format!("remove {path}")))?;
        }
        Ok(count)
    }
}
