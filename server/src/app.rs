//! What all requests share: the tables, once they are open, and the bounds that keep many requests from being too many.
//!
//! Always: a request that finds no room waits a little, then is told to come again; nothing queues without bound.
//! Bounds are semaphores taken inside the handlers: a layer's limit would be one per connection, and bound nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use axum::http::HeaderValue;
use sha2::{Digest, Sha256};
use thermocline_engine::{Engine, Table};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result, TableId, TableName};
use thermocline_sql::Sql;
use thermocline_tiering::Tiering;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How much may be under way at once.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of request bodies in memory, over the whole server.
    pub body_bytes_max: usize,
    pub queries_max: usize,
    pub followers_max: usize,
    pub connections_max: usize,
    /// A client that takes no byte for so long is cut off.
    pub write_timeout: Duration,
    /// A client that sends no byte of its request for so long is cut off.
    pub read_timeout: Duration,
    /// How long a request waits for room.
    pub patience: Duration,
    /// How long a stop waits for requests under way.
    pub stop_timeout: Duration,
    /// Between two signs of life on a quiet subscription.
    pub ping_interval: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes_max: 256 << 20,
            queries_max: 64,
            followers_max: 1024,
            connections_max: 4096,
            write_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(30),
            patience: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(15),
        }
    }
}

/// The tables, open.
#[derive(Clone)]
pub struct Store {
    pub tiering: Arc<Tiering>,
    pub sql: Arc<Sql>,
    /// Where backups may be made.
    pub backup_dir: Option<PathBuf>,
}

impl Store {
    pub fn engine(&self) -> &Arc<Engine> {
        self.tiering.engine()
    }

    pub fn table(&self, name: &TableName) -> Result<Arc<Table>> {
        self.engine().table(name)
    }
}

enum Phase {
    Starting,
    Ready(Store),
    Stopping,
}

/// See the module.
pub struct App {
    pub limits: Limits,
    phase: RwLock<Phase>,
    /// What a client must show; none: only loopback clients are served.
    token: Option<[u8; 32]>,
    /// Of which other origins web pages may ask, as browsers name them.
    pub origins: Vec<HeaderValue>,
    /// Subscriptions end, with their token, when this is cancelled.
    pub stopping: CancellationToken,
    /// Work that goes on when its client has gone away.
    pub background: TaskTracker,
    bodies: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    followed: Mutex<Vec<Weak<Followed>>>,
}

impl App {
    pub fn new(limits: Limits, token: Option<&str>, origins: Vec<HeaderValue>) -> Arc<App> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Arc::new(App {
            phase: RwLock::new(Phase::Starting),
            token: token.map(digest),
            origins,
            stopping: CancellationToken::new(),
            background: TaskTracker::new(),
            bodies: Arc::new(Semaphore::new(limits.body_bytes_max)),
            queries: Arc::new(Semaphore::new(limits.queries_max)),
            followers: Arc::new(Semaphore::new(limits.followers_max)),
            decoders: Arc::new(Semaphore::new(cores)),
            followed: Mutex::default(),
            limits,
        })
    }

    pub fn open(&self, store: Store) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = Phase::Ready(store);
    }

    /// Serves no new request.
    pub fn stop(&self) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = Phase::Stopping;
        self.stopping.cancel();
    }

    /// The tables, or why there are none now.
    pub fn store(&self) -> Result<Store> {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Ready(store) => Ok(store.clone()),
            Phase::Starting => Err(Error::new(Code::Starting, "the server is recovering what is on disk")
                .with_hint("GET /ready answers 200 when it is done")),
            Phase::Stopping => {
                Err(Error::new(Code::ShuttingDown, "the server is stopping").with_hint("send again when it is back"))
            }
        }
    }

    pub fn wants_token(&self) -> bool {
        self.token.is_some()
    }

    /// Digests are compared, so that the time it takes says nothing of the token.
    pub fn is_token(&self, shown: &str) -> bool {
        self.token.is_some_and(|token| token == digest(shown))
    }

    pub async fn query_permit(&self) -> Result<OwnedSemaphorePermit> {
        self.permit(&self.queries, "queries").await
    }

    pub async fn follower_permit(&self) -> Result<OwnedSemaphorePermit> {
        self.permit(&self.followers, "subscriptions").await
    }

    /// Leave to decode a body, which keeps a core busy.
    pub async fn decoder_permit(&self) -> Result<OwnedSemaphorePermit> {
        self.permit(&self.decoders, "uploads").await
    }

    async fn permit(&self, semaphore: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit> {
        match tokio::time::timeout(self.limits.patience, semaphore.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::new(Code::TooBusy, format!("too many {what} are under way"))
                .with_hint("wait a second and send the same request again")),
        }
    }

    /// Bytes of request bodies in memory.
    pub fn body_bytes(&self) -> usize {
        self.limits.body_bytes_max - self.bodies.available_permits()
    }

    /// Keeps an eye on a subscription for as long as it lives.
    pub fn watch(&self, followed: &Arc<Followed>) {
        let mut all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(followed));
    }

    /// Of each subscription its table, and how many rows it has not been sent.
    pub fn followed(&self) -> Vec<(TableId, u64)> {
        let all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).map(|one| (one.table.descriptor().id, one.behind())).collect()
    }

    /// No room taken yet, of the memory for request bodies.
    pub fn body_room(&self) -> BodyRoom {
        BodyRoom { semaphore: self.bodies.clone(), permit: None, max: self.limits.body_bytes_max }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// A subscription, as who watches it sees it.
pub struct Followed {
    pub table: Arc<Table>,
    /// The first offset of each bucket that is not yet sent.
    pub positions: Mutex<BTreeMap<PartitionBucket, Offset>>,
}

impl Followed {
    fn behind(&self) -> u64 {
        let (ends, positions) = (self.table.ends(), self.positions.lock().unwrap_or_else(PoisonError::into_inner));
        positions.iter().map(|(bucket, position)| ends.end(*bucket).0.saturating_sub(position.0)).sum()
    }
}

/// Memory that a request's body may take; given back when dropped.
pub struct BodyRoom {
    semaphore: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    max: usize,
}

impl BodyRoom {
    fn bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Makes it at least `bytes`, waiting a bounded time.
    pub async fn grow_to(&mut self, bytes: usize, patience: Duration) -> Result<()> {
        let more = bytes.min(self.max).saturating_sub(self.bytes());
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| too_busy(bytes))?;
        let taking = self.semaphore.clone().acquire_many_owned(more);
        let Ok(Ok(permit)) = tokio::time::timeout(patience, taking).await else { return Err(too_busy(bytes)) };
        match &mut self.permit {
            Some(own) => own.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}

fn too_busy(bytes: usize) -> Error {
    Error::new(Code::TooBusy, format!("no room for a body of {bytes} bytes now"))
        .with_hint("wait a second and send the same request again")
}
