//! One new object on its way to the store: a single put if it is small, else parts, some at once.
//!
//! Always: nobody sees the object before [`Upload::finish`] has answered, and after an error nobody will through this
//! upload. What was sent of it takes room until [`Upload::abort`]; a store that is full needs that room.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path as StorePath;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, PutPayloadMut, Result};
use tokio::task::JoinSet;

/// S3 takes at most 10,000 parts: files up to 80 GB.
const PART_BYTES: usize = 8 << 20;
const PARTS_AT_ONCE: usize = 4;

pub(crate) struct Upload {
    store: Arc<dyn ObjectStore>,
    path: StorePath,
    /// Less than a part.
    waiting: PutPayloadMut,
    begun: Option<Box<dyn MultipartUpload>>,
    sending: JoinSet<Result<()>>,
}

impl Upload {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, path: StorePath) -> Upload {
        Upload { store, path, waiting: PutPayloadMut::new(), begun: None, sending: JoinSet::new() }
    }

    /// Adds bytes at the end; waits while too many parts are under way.
    pub(crate) async fn put(&mut self, mut bytes: Bytes) -> Result<()> {
        while self.waiting.content_length() + bytes.len() >= PART_BYTES {
            self.waiting.push(bytes.split_to(PART_BYTES - self.waiting.content_length()));
            let part = std::mem::take(&mut self.waiting).freeze();
            self.send(part).await?;
        }
        self.waiting.push(bytes);
        Ok(())
    }

    /// The object is in the store, whole.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        let last = std::mem::take(&mut self.waiting).freeze();
        if self.begun.is_none() {
            return self.store.put(&self.path, last).await.map(drop);
        }
        if last.content_length() > 0 {
            self.send(last).await?;
        }
        self.wait_until_fewer_than(1).await?;
        match &mut self.begun {
            Some(begun) => begun.complete().await.map(drop),
            None => Ok(()),
        }
    }

    /// Takes back what was sent.
    pub(crate) async fn abort(mut self) -> Result<()> {
        self.sending.shutdown().await;
        match &mut self.begun {
            Some(begun) => begun.abort().await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, part: PutPayload) -> Result<()> {
        self.wait_until_fewer_than(PARTS_AT_ONCE).await?;
        let begun = match &mut self.begun {
            Some(begun) => begun,
            none => none.insert(self.store.put_multipart(&self.path).await?),
        };
        self.sending.spawn(begun.put_part(part));
        Ok(())
    }

    async fn wait_until_fewer_than(&mut self, count: usize) -> Result<()> {
        while self.sending.len() >= count {
            match self.sending.join_next().await {
                Some(sent) => sent.map_err(object_store::Error::from)??,
                None => return Ok(()),
            }
        }
        Ok(())
    }
}
