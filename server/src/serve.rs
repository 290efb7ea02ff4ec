//! A server from start to stop.
//!
//! Start: bind, answer `/health`, recover; then `/ready`. Stop, in this order: tell new requests so, end subscriptions with
//! their token, answer what is under way within a bound, take no new connection, drop what is left, wait for rounds, close the
//! journal. What was acked is durable long before any of this.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use thermocline_engine::disk::{Disk, RealDisk};
use thermocline_engine::{Engine, EngineOptions, SystemClock};
use thermocline_schemas::{Code, Error, Result};
use thermocline_sql::{Sql, SqlOptions};
use thermocline_tiering::{Tiering, TieringOptions, Warehouse};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::{App, Limits, Store};
use crate::{http, listener, metrics};

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Address and port; port 0 takes any that is free.
    pub listen: String,
    pub data_dir: PathBuf,
    /// A directory, `file:///…` or `s3://…`; else `warehouse` inside the data directory.
    pub warehouse: Option<String>,
    /// What clients must show.
    pub token: Option<String>,
    /// Of which origins web pages may ask, besides those of this machine.
    pub origins: Vec<HeaderValue>,
    /// Where backups may be made; nowhere if it is not said.
    pub backup_dir: Option<PathBuf>,
    pub engine: EngineOptions,
    pub tiering: TieringOptions,
    pub sql: SqlOptions,
    pub limits: Limits,
}

impl ServeOptions {
    /// The defaults, with data in one directory.
    pub fn new(data_dir: impl Into<PathBuf>, listen: impl Into<String>) -> ServeOptions {
        ServeOptions {
            listen: listen.into(),
            data_dir: data_dir.into(),
            warehouse: None,
            token: None,
            origins: Vec::new(),
            backup_dir: None,
            engine: EngineOptions::default(),
            tiering: TieringOptions::default(),
            sql: SqlOptions::default(),
            limits: Limits::default(),
        }
    }
}

/// A server that runs, or is about to.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
    opened: watch::Receiver<Opened>,
    stopping: CancellationToken,
    abort: CancellationToken,
    closed: CancellationToken,
    connections: TaskTracker,
}

/// How far the start is.
#[derive(Clone)]
enum Opened {
    NotYet,
    Ready(Store),
    Failed(Arc<Error>),
}

impl Server {
    /// Binds the address, answers `/health`, and starts to open the tables.
    pub async fn start(options: ServeOptions) -> Result<Server> {
        let listener = bind(&options).await?;
        let address = listener
            .local_addr()
            .map_err(|error| Error::internal("the bound address is not known").with_source(error))?;
        metrics::install();
        let app = App::new(options.limits.clone(), options.token.as_deref(), options.origins.clone());
        let (stopping, abort, closed) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let connections = TaskTracker::new();
        let listening = listener::listen(
            listener,
            http::router(app.clone()),
            options.limits.clone(),
            stopping.clone(),
            abort.clone(),
            closed.clone(),
            connections.clone(),
        );
        tokio::spawn(listening);
        let (sender, opened) = watch::channel(Opened::NotYet);
        tokio::spawn({
            let app = app.clone();
            async move {
                let outcome = match open(&options).await {
                    Ok(store) => {
                        app.open(store.clone());
                        Opened::Ready(store)
                    }
                    Err(error) => Opened::Failed(Arc::new(error)),
                };
                // Nobody waits any more: the process is going.
                let _ = sender.send(outcome);
            }
        });
        Ok(Server { address, app, opened, stopping, abort, closed, connections })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What answers its requests, without the sockets.
    pub fn router(&self) -> axum::Router {
        http::router(self.app.clone())
    }

    /// Waits until the tables are open.
    pub async fn ready(&self) -> Result<()> {
        self.store().await.map(|_| ())
    }

    async fn store(&self) -> Result<Store> {
        let mut opened = self.opened.clone();
        let outcome = opened.wait_for(|opened| !matches!(opened, Opened::NotYet)).await;
        match outcome.as_deref() {
            Ok(Opened::Ready(store)) => Ok(store.clone()),
            Ok(Opened::Failed(error)) => Err(copy(error)),
            _ => Err(Error::internal("the start ended early")),
        }
    }

    /// Becomes the reason when the journal cannot go on. The process must then end: nothing more will be acked.
    pub async fn failed(&self) -> String {
        let Ok(store) = self.store().await else { return std::future::pending().await };
        let mut failure = store.engine().failure();
        let failed = failure.wait_for(Option::is_some).await;
        failed.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "the journal ended".to_owned())
    }

    /// Ends it cleanly; see the module.
    pub async fn stop(self) -> Result<()> {
        self.app.stop();
        self.stopping.cancel();
        self.connections.close();
        let grace = self.app.limits.stop_timeout;
        if tokio::time::timeout(grace, self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "connections were cut off at the stop");
            self.abort.cancel();
            // They end at their next turn; a query between two turns ends by itself.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.connections.wait()).await;
        }
        self.closed.cancel();
        self.app.background.close();
        if tokio::time::timeout(grace, self.app.background.wait()).await.is_err() {
            tracing::warn!("a round was still under way at the stop; the next start goes on with it");
        }
        let store = self.store().await?;
        store.tiering.close().await;
        let engine = store.engine().clone();
        let closing = tokio::task::spawn_blocking(move || engine.close());
        closing.await.map_err(|error| Error::internal("closing the journal").with_source(error))
    }
}

/// Connections that wait to be accepted: as many as may be open. With fewer, a crowd that comes at once is turned away.
const BACKLOG: u32 = 4096;

/// Without a token only this machine may ask, so only it may reach us.
async fn bind(options: &ServeOptions) -> Result<TcpListener> {
    let cannot = |why: &str| {
        Error::new(Code::InvalidRequest, format!("cannot listen on {}: {why}", options.listen))
            .with_hint("--listen takes an address and a port, as 127.0.0.1:8080")
    };
    let addresses = tokio::net::lookup_host(&options.listen).await;
    let addresses: Vec<_> = addresses.map_err(|error| cannot(&error.to_string()))?.collect();
    if addresses.is_empty() {
        return Err(cannot("the name has no address"));
    }
    if options.token.as_deref().is_some_and(str::is_empty) {
        return Err(Error::new(Code::InvalidRequest, "the token is empty"));
    }
    if options.token.is_none() && !addresses.iter().all(|address| address.ip().is_loopback()) {
        return Err(Error::new(
            Code::InvalidRequest,
            format!("{} can be reached from other machines, and no token is set", options.listen),
        )
        .with_hint("add --token \"$(openssl rand -hex 32)\", or set THERMOCLINE_TOKEN"));
    }
    let mut tried = addresses.iter().map(|address| listen_on(*address));
    let first = tried.next().unwrap_or_else(|| Err(std::io::ErrorKind::AddrNotAvailable.into()));
    first.or_else(|error| tried.find_map(std::io::Result::ok).ok_or(error)).map_err(|error| {
        Error::new(Code::InvalidRequest, format!("cannot listen on {}", options.listen))
            .with_source(error)
            .with_hint("is another server there? --listen 127.0.0.1:0 takes any free port")
    })
}

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As a listener of the standard library has it: a restart finds the port free.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn open(options: &ServeOptions) -> Result<Store> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let engine = {
        let (disk, directory, settings) = (disk.clone(), options.data_dir.clone(), options.engine.clone());
        let opening = move || Engine::open(disk, &directory, settings, Arc::new(SystemClock));
        let opening = tokio::task::spawn_blocking(opening);
        opening.await.map_err(|error| Error::internal("opening the data directory").with_source(error))??
    };
    let default = || options.data_dir.join("warehouse").to_string_lossy().into_owned();
    let address = options.warehouse.clone().unwrap_or_else(default);
    let warehouse = {
        let opening = tokio::task::spawn_blocking(move || Warehouse::open(&address, disk));
        opening.await.map_err(|error| Error::internal("opening the warehouse").with_source(error))??
    };
    let tiering = Tiering::open(engine, warehouse, options.tiering.clone()).await?;
    let mut settings = options.sql.clone();
    settings.spill_directory.get_or_insert_with(|| options.data_dir.join("spill"));
    let sql = Sql::new(tiering.clone(), settings)?;
    Ok(Store { tiering, sql, backup_dir: options.backup_dir.clone() })
}

/// The same error once more: many wait for one start.
fn copy(error: &Error) -> Error {
    let copy = Error::new(error.code(), error.to_string());
    match error.hint() {
        Some(hint) => copy.with_hint(hint),
        None => copy,
    }
}
