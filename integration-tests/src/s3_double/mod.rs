//! A small S3 on loopback: what object_store's client asks of one, over real HTTP, with faults per request.
//!
//! Objects live in memory. Conditional puts are strict: of many creates of one key one succeeds, the others get 412. What
//! is not understood is answered 501, never guessed. Lists come in pages of [`PAGE_KEYS`], so every lister has to go on.
//!
//! A policy looks at each request before it is served and may choose a [`Fault`] for it; requests are counted as they
//! arrive, so those that the client repeats by itself count too. It is not a general S3: one user, whose signature is not
//! checked (but must be there), no versions, no copies.

mod http;
mod objects;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub use http::Request;
use http::Response;
use objects::Objects;

/// Keys in one page of a listing.
pub const PAGE_KEYS: usize = 7;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// This status, and no effect.
    Status(u16),
    /// The effect, and then this status.
    StatusAfter(u16),
    /// The connection is reset, without effect.
    Reset,
    /// The effect, and then the connection is reset.
    ResetAfter,
    /// No effect and no answer; the connection stays open until the client leaves or the double is well again.
    Hang,
    /// The effect, and then the same.
    HangAfter,
    /// The head with the full length, half of the body, and the end of the connection.
    BodyCut,
    /// The body in pieces, with pauses.
    BodySlow,
    /// A listing without the newest object.
    StaleList,
}

type Policy = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

/// The running double; gone when dropped, with its connections.
pub struct S3Double {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

struct Shared {
    objects: Mutex<Objects>,
    policy: Mutex<Option<Policy>>,
    /// Wakes connections that hang.
    well: Notify,
}

impl S3Double {
    pub async fn start() -> S3Double {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared { objects: Mutex::default(), policy: Mutex::default(), well: Notify::new() });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, shared.clone()));
        S3Double { address, shared, _accepting: accepting }
    }

    /// What clients are pointed at.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this decides about faults.
    pub fn set_policy(&self, policy: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        *hold(&self.shared.policy) = Some(Box::new(policy));
    }

    /// From now on every request is served; what hangs is closed, as a service does that starts anew.
    pub fn be_well(&self) {
        *hold(&self.shared.policy) = None;
        self.shared.well.notify_waiters();
    }

    /// Keys of a bucket, for tests to look at.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        hold(&self.shared.objects).keys(bucket)
    }

    /// Uploads in parts that were begun and neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        hold(&self.shared.objects).open_uploads()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        connections.spawn(serve(connection, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, until either side has enough.
async fn serve(mut connection: TcpStream, shared: Arc<Shared>) {
    let mut left_over = Vec::new();
    while let Some(request) = http::read_request(&mut connection, &mut left_over).await {
        let fault = hold(&shared.policy).as_mut().and_then(|policy| policy(&request));
        let lists_stale = fault == Some(Fault::StaleList);
        let answer = || hold(&shared.objects).answer(&request, lists_stale);
        let response = match fault {
            None | Some(Fault::BodyCut | Fault::BodySlow | Fault::StaleList) => answer(),
            Some(Fault::Status(status)) => Response::error(status, "Planned"),
            Some(Fault::StatusAfter(status)) => {
                answer();
                Response::error(status, "Planned")
            }
            Some(fault @ (Fault::Reset | Fault::ResetAfter)) => {
                if fault == Fault::ResetAfter {
                    answer();
                }
                // With nothing to wait for, closing resets.
                let _ = connection.set_zero_linger();
                return;
            }
            Some(fault @ (Fault::Hang | Fault::HangAfter)) => {
                if fault == Fault::HangAfter {
                    answer();
                }
                tokio::select! {
                    () = shared.well.notified() => {}
                    // The client leaves: then reading ends.
                    _ = http::read_request(&mut connection, &mut left_over) => {}
                }
                return;
            }
        };
        let (head, body) = response.bytes(request.method == "HEAD");
        let sent = match fault {
            Some(Fault::BodyCut) => {
                // A head alone that is cut is no answer at all.
                let _ = connection.write_all(&head).await;
                let _ = connection.write_all(&body[..body.len() / 2]).await;
                return;
            }
            Some(Fault::BodySlow) => slowly(&mut connection, &head, &body).await,
            _ => connection.write_all(&[head, body].concat()).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn slowly(connection: &mut TcpStream, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    connection.write_all(head).await?;
    for piece in body.chunks(body.len().div_ceil(8).max(1)) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        connection.write_all(piece).await?;
    }
    Ok(())
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
