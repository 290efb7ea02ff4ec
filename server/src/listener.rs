//! Connections: how many, how long they may be silent, and how they end.
//!
//! HTTP/1.1 only. The head of a request must come within the read timeout, which is also how long a connection may lie
//! idle between requests.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::Limits;
use crate::metric_names;
use crate::timed_stream::TimedStream;

/// Serves until `closed`. From `stop` on, connections end after the request that they are serving, and new ones serve one:
/// it is told that the server is stopping. Those still open when `abort` comes are dropped. The tracker has a task for each.
pub async fn listen(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
    abort: CancellationToken,
    closed: CancellationToken,
    connections: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let accepted = async {
            // Before accepting: who finds no room waits in the operating system's queue.
            let permit = room.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            () = closed.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = serve(stream, router.clone(), limits.clone(), stop.clone(), abort.clone());
                connections.spawn(async move {
                    metrics::gauge!(metric_names::CONNECTIONS.name).increment(1);
                    serving.await;
                    metrics::gauge!(metric_names::CONNECTIONS.name).decrement(1);
                    drop(permit);
                });
            }
            Err(error) => {
                // The peer has gone, or the process has no file handle left: the latter passes only with time.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router, limits: Limits, stop: CancellationToken, abort: CancellationToken) {
    // Small answers and events go out at once; if the option cannot be set they are only later.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(TimedStream::new(stream, limits.write_timeout));
    let stopping = stop.is_cancelled();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(!stopping)
        .header_read_timeout(limits.read_timeout)
        .serve_connection(io, TowerToHyperService::new(router));
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            if !stopping {
                connection.as_mut().graceful_shutdown();
            }
            tokio::select! {
                served = connection.as_mut() => served,
                () = abort.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke");
    }
}
