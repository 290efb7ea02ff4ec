//! A store that stops a server at a step of a round: puts of objects whose path has some text wait until they are let
//! through, or fail. What is not held goes through, so other servers over the same objects go on.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// What a round puts, in order, as part of the path of each.
pub const STEPS: [&str; 5] = [".parquet", "-m0.avro", "/snap-", ".metadata.json", "version-hint.text"];

/// What happens to a put that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits, then goes through.
    Held,
    /// It fails, and nothing is stored.
    Refused,
    /// It goes through, and the answer is an error.
    AnswerLost,
}

#[derive(Debug)]
struct Meant {
    part: String,
    fate: Fate,
}

/// See the module's text.
#[derive(Debug)]
pub struct Gate {
    inner: Arc<dyn ObjectStore>,
    meant: Mutex<Option<Meant>>,
    /// How many puts wait, or did.
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl Gate {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Gate> {
        Arc::new(Gate {
            inner,
            meant: Mutex::default(),
            arrived: watch::Sender::new(0),
            open: watch::Sender::new(false),
        })
    }

    /// From now on, the first put of an object whose path has `part` in it meets `fate`.
    pub fn set(&self, part: &str, fate: Fate) {
        self.open.send_replace(false);
        self.arrived.send_replace(0);
        *self.meant.lock().unwrap_or_else(PoisonError::into_inner) = Some(Meant { part: part.to_owned(), fate });
    }

    /// Waits until the put is there.
    pub async fn arrived(&self) {
        let mut arrived = self.arrived.subscribe();
        // The sender lives as long as the gate does.
        let _ = arrived.wait_for(|count| *count > 0).await;
    }

    /// Lets the put through.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    fn fate(&self, location: &Path) -> Option<Fate> {
        let mut meant = self.meant.lock().unwrap_or_else(PoisonError::into_inner);
        let found = meant.take_if(|meant| location.as_ref().contains(&meant.part))?;
        self.arrived.send_modify(|count| *count += 1);
        Some(found.fate)
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "gate", source: "connection reset".into() }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.fate(location) {
            None => {}
            Some(Fate::Refused) => return Err(broken()),
            Some(Fate::AnswerLost) => {
                self.inner.put_opts(location, payload, options).await?;
                return Err(broken());
            }
            Some(Fate::Held) => {
                let mut open = self.open.subscribe();
                let _ = open.wait_for(|open| *open).await;
            }
        }
        self.inner.put_opts(location, payload, options).await
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

impl fmt::Display for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Gate({})", self.inner)
    }
}
