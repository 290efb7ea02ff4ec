//! Every request as an operator sees it: counted, named by an id, and written into the log when its answer is over.
//!
//! The id is the client's `x-request-id` if that is short and plain, else a new one; the answer has it, and so has every line
//! that is logged on the request's way. Always: counts are by route and by tables that there are, never by path: paths are
//! the clients' words, and have no bound.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use thermocline_schemas::TableName;
use tracing::Instrument;
use uuid::Uuid;

use super::operations_of_routes;
use crate::app::App;
use crate::metric_names;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ID_BYTES_MAX: usize = 128;

pub async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let id = given_id(request.headers()).unwrap_or_else(|| Uuid::now_v7().to_string());
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id);
    let mut response = next.run(request).instrument(span).await;
    let status = response.status().as_u16();
    count(&app, &route, &method, &path, status, started);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let entry = Entry { id, method, path, status, started, bytes: 0, whole: false };
    response.map(|body| Body::new(Observed { body, entry }))
}

fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_.:/+=@".contains(character);
    (!id.is_empty() && id.len() <= ID_BYTES_MAX && id.chars().all(is_plain)).then(|| id.to_owned())
}

fn count(app: &App, route: &str, method: &str, path: &str, status: u16, started: Instant) {
    let (route, status) = (route.to_owned(), status.to_string());
    let method = if method == "GET" || method == "POST" { method.to_owned() } else { "other".to_owned() };
    metrics::histogram!(metric_names::REQUEST_SECONDS.name, "route" => route.clone()).record(started.elapsed());
    if let Some(table) = table_of(app, path)
        && let Some(operation) = operations_of_routes().iter().find(|operation| operation.path == route)
    {
        metrics::counter!(
            metric_names::TABLE_REQUESTS.name,
            "table" => table.to_string(), "operation" => operation.id, "status" => status.clone()
        )
        .increment(1);
    }
    metrics::counter!(metric_names::REQUESTS.name, "route" => route, "method" => method, "status" => status)
        .increment(1);
}

/// The table that a path is about, if there is one.
fn table_of(app: &App, path: &str) -> Option<TableName> {
    let mut parts = path.strip_prefix("/v1/tables/")?.split('/');
    let name = TableName::parse(parts.next()?, parts.next()?).ok()?;
    app.store().ok()?.table(&name).ok()?;
    Some(name)
}

/// A line of the log.
struct Entry {
    id: String,
    method: String,
    path: String,
    status: u16,
    started: Instant,
    bytes: u64,
    whole: bool,
}

/// An answer's body; written into the log when it is over, however it ends.
struct Observed {
    body: Body,
    entry: Entry,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.entry.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Poll::Ready(None) => self.entry.whole = true,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let Entry { id, method, path, status, started, bytes, whole } = &self.entry;
        tracing::debug!(
            target: "thermocline::access",
            id,
            method,
            path,
            status,
            elapsed_ms = started.elapsed().as_secs_f64() * 1e3,
            bytes,
            // Else the client went away, or the answer broke off.
            whole = *whole || self.body.is_end_stream(),
            "answered"
        );
    }
}
