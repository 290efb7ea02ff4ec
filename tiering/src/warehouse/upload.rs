//! A large object that arrives in parts, on disk.
//!
//! Parts go straight to their place in one staged file, in any order and at once; nothing is seen under the object's name
//! before `complete`. An upload that is dropped leaves its staged file to the next opening: no I/O in `Drop`.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::FutureExt;
use object_store::path::Path as StorePath;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::disk_store::{DiskStore, StagedFile};
use super::errors::from_io;

#[derive(Debug)]
pub(super) struct DiskUpload {
    store: DiskStore,
    location: StorePath,
    staged: Arc<StagedFile>,
    /// Where the next part goes.
    end: u64,
    /// Bytes of the parts that were written whole.
    written: Arc<AtomicU64>,
}

impl DiskUpload {
    pub(super) fn new(store: DiskStore, location: StorePath, staged: StagedFile) -> DiskUpload {
        DiskUpload { store, location, staged: Arc::new(staged), end: 0, written: Arc::default() }
    }
}

#[async_trait]
impl MultipartUpload for DiskUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let offset = self.end;
        self.end += payload.content_length() as u64;
        let (store, location) = (self.store.clone(), self.location.clone());
        let (staged, written) = (self.staged.clone(), self.written.clone());
        async move {
            store
                .blocking(move |_| {
                    let mut parts: Vec<_> = payload.iter().map(|part| IoSlice::new(part)).collect();
                    staged.file.write_at(&mut parts, offset).map_err(|error| from_io(&location, error))?;
                    written.fetch_add(payload.content_length() as u64, Ordering::AcqRel);
                    Ok(())
                })
                .await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (written, end) = (self.written.load(Ordering::Acquire), self.end);
        if written != end {
            // A part failed or was never waited for: a file with a hole must not get a name.
            let source = format!("{}: {written} of {end} bytes were written", self.location).into();
            return Err(Error::Generic { store: "disk", source });
        }
        let (staged, location) = (self.staged.clone(), self.location.clone());
        self.store.blocking(move |inner| inner.publish(&staged, &location, false)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.clone();
        self.store
            .blocking(move |inner| {
                inner.discard(&staged);
                Ok(())
            })
            .await
    }
}
