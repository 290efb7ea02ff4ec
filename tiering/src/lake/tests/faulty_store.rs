//! A store between a lake and its real store, which loses answers, requests and truth on demand.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What happens to a put of a version file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It is stored, and the answer is an error.
    AnswerLost,
    /// It is not stored, and the answer is an error.
    RequestLost,
    /// It is not stored, and the answer is that it is there already.
    FalseConflict,
    /// It is stored, and the answer is that it was there already.
    AnswerTwice,
}

#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    /// For the next puts of version files, in order.
    faults: Mutex<VecDeque<Fault>>,
    /// Puts whose path contains this fail.
    refused: Mutex<Option<String>>,
}

impl FaultyStore {
    pub(super) fn new(inner: Arc<dyn ObjectStore>) -> Arc<FaultyStore> {
        Arc::new(FaultyStore { inner, faults: Mutex::default(), refused: Mutex::default() })
    }

    pub(super) fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    pub(super) fn refuse(&self, path_part: Option<&str>) {
        *self.refused.lock().unwrap() = path_part.map(str::to_owned);
    }
}

fn lost() -> Error {
    Error::Generic { store: "faulty", source: "connection reset".into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.refused.lock().unwrap().as_ref().is_some_and(|part| location.as_ref().contains(part)) {
            return Err(lost());
        }
        let is_version = location.filename().is_some_and(|name| name.ends_with(".metadata.json"));
        let fault = if is_version { self.faults.lock().unwrap().pop_front() } else { None };
        let exists = Error::AlreadyExists { path: location.to_string(), source: "conflict".into() };
        match fault.unwrap_or(Fault::None) {
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::RequestLost => Err(lost()),
            Fault::FalseConflict => Err(exists),
            Fault::AnswerLost => Err(self.inner.put_opts(location, payload, options).await.err().unwrap_or(lost())),
            Fault::AnswerTwice => Err(self.inner.put_opts(location, payload, options).await.err().unwrap_or(exists)),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FaultyStore({})", self.inner)
    }
}
