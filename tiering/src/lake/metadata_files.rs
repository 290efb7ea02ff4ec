//! The metadata files of one table location: `metadata/v<N>.metadata.json`, and `metadata/version-hint.text` beside them.
//!
//! Always: a version file is created once, under a condition, and never changed: **its creation is the commit**. The hint
//! only follows. It may lag after a crash, or when a put of it was lost; so the newest version is found by probing forward
//! from it, and whoever finds a newer one rolls it forward. Readers that look at the hint alone see an older commit until
//! then, never a wrong one.
//!
//! Version files are not removed by anything here; `expire` keeps them for a day at least. An attempt that slept longer
//! might not find its version taken, so a create has a deadline after which it is not begun.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{Stream, StreamExt, TryStreamExt};
use iceberg::spec::TableMetadata;
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Code, Error, Result};

use super::LakeVersion;
use super::version::Owner;
use crate::Warehouse;
use crate::guarded::guarded;
use crate::warehouse::store_error;

/// How often one create is tried before its outcome is left open.
const CREATE_TRIES: u32 = 8;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A table's place in the warehouse.
#[derive(Clone, Debug)]
pub(super) struct MetadataFiles {
    warehouse: Warehouse,
    /// The table's directory.
    root: StorePath,
}

/// A metadata file as it is.
pub(super) struct Found {
    pub(super) version: u64,
    pub(super) metadata: TableMetadata,
}

/// What became of a create.
pub(super) enum Creation {
    /// The file is there and ours.
    Mine,
    /// The file is there and somebody else's.
    Taken,
}

impl MetadataFiles {
    pub(super) fn new(warehouse: &Warehouse, root: StorePath) -> MetadataFiles {
        MetadataFiles { warehouse: warehouse.clone(), root }
    }

    pub(super) fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    /// The table's directory, as a store path.
    pub(super) fn root(&self) -> &StorePath {
        &self.root
    }

    /// The table's location as Iceberg spells it.
    pub(super) fn location(&self) -> String {
        self.warehouse.url(&self.root)
    }

    pub(super) fn in_metadata(&self, name: &str) -> StorePath {
        self.root.clone().join("metadata").join(name)
    }

    pub(super) fn version_url(&self, version: u64) -> String {
        self.warehouse.url(&self.version_path(version))
    }

    pub(super) fn version_path(&self, version: u64) -> StorePath {
        self.in_metadata(&format!("v{version}.metadata.json"))
    }

    fn hint_path(&self) -> StorePath {
        self.in_metadata("version-hint.text")
    }

    /// Whether anything lies under `metadata/`: then the location is somebody's.
    pub(super) async fn is_taken(&self) -> Result<bool> {
        let prefix = self.root.clone().join("metadata");
        let mut listing = self.warehouse.store().list(Some(&prefix));
        let first = listing.try_next().await.map_err(|error| store_error(error, format!("list {prefix}")))?;
        Ok(first.is_some())
    }

    /// Version `version`, if it is there.
    pub(super) async fn read(&self, version: u64) -> Result<Option<Found>> {
        let path = self.version_path(version);
        let Some(bytes) = self.get(&path).await? else { return Ok(None) };
        let broken = || Error::corrupt(format!("{path} is no table metadata"));
        let metadata = guarded(broken, || serde_json::from_slice(&bytes).map_err(|error| broken().with_source(error)))?;
        Ok(Some(Found { version, metadata }))
    }

    /// The newest version past `known` (0: of all), probing forward from `known` or from the hint, whichever is further.
    /// The hint is rolled forward if it was behind.
    pub(super) async fn newer_than(&self, known: u64) -> Result<Option<Found>> {
        let hint = self.hint().await?;
        let mut newest = match hint.filter(|hint| *hint > known) {
            Some(hint) => self.read(hint).await?,
            None => None,
        };
        if newest.is_none() && known == 0 {
            // No hint, or one that leads nowhere: the listing says what there is.
            let Some(listed) = self.newest_listed().await? else {
                // The hint follows a version, so one was there. To take this for a free place would begin a second line.
                return match hint {
                    None => Ok(None),
                    Some(hint) => Err(Error::new(
                        Code::StoreUnavailable,
                        format!("{} names version {hint}, and no version can be found", self.hint_path()),
                    )
                    .with_hint("is the listing of the store complete? were files removed by hand?")),
                };
            };
            newest = self.read(listed).await?;
        }
        let mut last = newest.as_ref().map_or(known, |found| found.version);
        while !faults::planted(Defect::HintBelieved)
            && let Some(next) = self.read(last + 1).await?
        {
            last = next.version;
            newest = Some(next);
        }
        if last > 0 && hint.is_none_or(|hint| hint < last) {
            self.write_hint(last).await;
        }
        Ok(newest)
    }

    /// The newest version by listing alone.
    pub(super) async fn newest_listed(&self) -> Result<Option<u64>> {
        let listed = self.list().await?;
        Ok(listed.iter().filter_map(|object| version_in(&object.location)).max())
    }

    /// What lies under `metadata/`.
    pub(super) async fn list(&self) -> Result<Vec<ObjectMeta>> {
        self.list_below("metadata").try_collect().await
    }

    /// What lies under a directory of the table, in whatever order the store has it.
    pub(super) fn list_below(&self, directory: &str) -> impl Stream<Item = Result<ObjectMeta>> + use<> {
        let prefix = self.root.clone().join(directory);
        let listed = self.warehouse.store().list(Some(&prefix));
        listed.map_err(move |error| store_error(error, format!("list {prefix}")))
    }

    /// Removes all that lies in the table's directory: first what is not metadata, then versions from the newest on, so
    /// that who looks for the newest finds one as long as there is any.
    pub(super) async fn remove_all(&self) -> Result<()> {
        let store = self.warehouse.store();
        let failed = |error| store_error(error, format!("remove {}", self.location()));
        let all: Vec<ObjectMeta> = store.list(Some(&self.root)).try_collect().await.map_err(failed)?;
        let (mut versions, mut others) = (Vec::new(), Vec::new());
        for object in all {
            match version_in(&object.location) {
                Some(version) => versions.push((version, object.location)),
                None if object.location == self.hint_path() => {}
                None => others.push(Ok(object.location)),
            }
        }
        store
            .delete_stream(futures::stream::iter(others).boxed())
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
            .map_err(failed)?;
        match store.delete(&self.hint_path()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        versions.sort();
        for (_, path) in versions.into_iter().rev() {
            store.delete(&path).await.map_err(failed)?;
        }
        Ok(())
    }

    /// What the hint says; a text that is no number is no hint.
    pub(super) async fn hint(&self) -> Result<Option<u64>> {
        let bytes = self.get(&self.hint_path()).await?;
        Ok(bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok()))
    }

    /// Best effort: who finds it behind rolls it forward.
    pub(super) async fn write_hint(&self, version: u64) {
        let text = PutPayload::from(version.to_string());
        if let Err(error) = self.warehouse.store().put(&self.hint_path(), text).await {
            tracing::warn!(table = %self.root, version, %error, "version hint stays behind");
        }
    }

    /// Creates version `version` with `bytes`, unless it is there. `is_mine` knows our file again. At `deadline` no more is
    /// tried.
    ///
    /// No answer but the file itself is believed. A store says "already exists" for a file that a lost answer of ours
    /// created, and S3's 409 ("a conditional write is in progress") arrives under the same name though nothing is there.
    /// So after anything but success the file is read: ours is success, another's is [`Creation::Taken`], none is the same
    /// create again: same name, same bytes, so however many of the tries arrive late, one file results.
    pub(super) async fn create(
        &self,
        version: u64,
        bytes: Bytes,
        deadline: SystemTime,
        is_mine: impl Fn(&TableMetadata) -> bool,
    ) -> Result<Creation> {
        let path = self.version_path(version);
        let mut backoff = BACKOFF_MIN;
        let mut last_error = None;
        for _ in 0..CREATE_TRIES {
            // Not a monotonic clock: those stand still while a machine sleeps.
            if SystemTime::now() >= deadline {
                let late = Error::new(Code::StoreUnavailable, format!("{path} was to be created by {deadline:?}"));
                last_error.get_or_insert(late);
                break;
            }
            let payload = PutPayload::from(bytes.clone());
            let mode = if faults::planted(Defect::VersionOverwritten) { PutMode::Overwrite } else { PutMode::Create };
            let options = PutOptions::from(mode);
            match self.warehouse.store().put_opts(&path, payload, options).await {
                Ok(_) => return Ok(Creation::Mine),
                Err(object_store::Error::AlreadyExists { .. }) if faults::planted(Defect::ConflictTakenAsMine) => {
                    return Ok(Creation::Mine);
                }
                Err(error) => {
                    tracing::info!(%path, %error, "create was not confirmed, looking");
                    last_error = Some(store_error(error, format!("create {path}")));
                }
            }
            match self.read(version).await {
                Ok(Some(found)) if is_mine(&found.metadata) => return Ok(Creation::Mine),
                Ok(Some(_)) => return Ok(Creation::Taken),
                Ok(None) => {}
                Err(error) => last_error = Some(error),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        let code = last_error.as_ref().map_or(Code::StoreUnavailable, Error::code);
        let error = Error::new(code, format!("whether {path} was created is not known"));
        Err(match last_error {
            Some(last) => error.with_source(last),
            None => error,
        })
    }

    pub(super) async fn get(&self, path: &StorePath) -> Result<Option<Bytes>> {
        let got = async {
            let got = self.warehouse.store().get(path).await?;
            let size = got.meta.size;
            Ok((got.bytes().await?, size))
        };
        match got.await {
            // The first half of a hint is a hint too: to a version long gone.
            Ok((bytes, size)) if bytes.len() as u64 != size => {
                let cut = format!("{path} was answered with {} of {size} bytes", bytes.len());
                Err(Error::new(Code::StoreUnavailable, cut))
            }
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error(error, format!("read {path}"))),
        }
    }

    /// Writes a file that nobody knows of yet, under a name that was never used.
    pub(super) async fn put_new(&self, path: &StorePath, bytes: Bytes) -> Result<()> {
        let put = self.warehouse.store().put(path, PutPayload::from(bytes)).await;
        put.map(drop).map_err(|error| store_error(error, format!("write {path}")))
    }

    /// `found` as a version of the table of `owner`.
    pub(super) fn version_of(&self, found: Found, owner: Owner) -> Result<LakeVersion> {
        let url = self.version_url(found.version);
        if Owner::in_metadata(&found.metadata) != Some(owner) && !faults::planted(Defect::OwnerUnchecked) {
            return Err(Error::new(Code::LakeConflict, format!("{url} is not of this table any more"))
                .with_hint("the lake table was replaced by another one"));
        }
        LakeVersion::new(found.version, url, found.metadata)
    }
}

/// N of `…/v<N>.metadata.json`.
pub(super) fn version_in(path: &StorePath) -> Option<u64> {
    path.filename()?.strip_prefix('v')?.strip_suffix(".metadata.json")?.parse().ok()
}
