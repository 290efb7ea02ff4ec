//! `GET /v1/tables/{database}/{table}/changes`: what happened, from some place on, and then as it happens.
//!
//! `from`: where to begin. `encode`: changes in three formats. Here: the stream, which is pulled by the client's
//! socket, so a slow client slows only itself; one that takes nothing for the write timeout is cut off and may resume.
//!
//! `columns=` and `where=` say which columns of which rows are sent, each row tested by itself; what is left out is passed
//! all the same.
//!
//! Always: a token says of each bucket the first offset not yet sent, so resuming from any token gives each later
//! change once and none twice. A stop of the server ends a stream cleanly, after its last token.

mod encode;
mod from;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use thermocline_engine::Table;
use thermocline_schemas::{Code, Error, Offset, Result, TableKind};
use thermocline_tiering::{ChangeBatch, FollowFrom, FollowOptions, StateBatch};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use self::encode::{Encoder, Format};
use super::Problem;
use super::accept::{self, ARROW_STREAM, EVENT_STREAM, NDJSON};
use super::parameters::{self, Address, Parameters, columns_of};
use crate::app::{App, Followed};
use crate::metric_names;
use thermocline_tiering::token_format::Positions;

/// So many changes are encoded before they are handed on.
const ROWS_AT_ONCE: usize = 256;
/// NDJSON has a token at least so often.
const TOKEN_INTERVAL: Duration = Duration::from_secs(1);

pub async fn follow(
    State(app): State<Arc<App>>,
    Address(name): Address,
    mut parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let from = parameters.take("from");
    let go_on = parameters.boolean("follow", true)?;
    let columns = parameters.names("columns");
    let filter = parameters.take("where");
    parameters.finish()?;
    let formats = [(EVENT_STREAM, Format::Events), (NDJSON, Format::Lines), (ARROW_STREAM, Format::Arrow)];
    let format = accept::choose(&headers, &formats)?;
    let store = app.store()?;
    let last_event_id = last_event_id(&headers)?;
    let table =
        store.table(&name).map_err(|error| from::of_dropped(store.engine(), error, from.as_deref(), last_event_id))?;
    let from = from::parse(&table, from.as_deref(), last_event_id)?;
    let columns = columns_of(&table, columns)?;
    let condition = match filter {
        Some(text) => Some(store.sql.condition(&table, &text).await?),
        None => None,
    };
    if let (Some(_), FollowFrom::Offsets(positions), false, Format::Events) = (last_event_id, &from, go_on, format)
        && is_at_end(&table, positions)?
    {
        // An event source takes this for: do not connect again.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let permit = app.follower_permit().await?;
    let followed = store.tiering.follow(&table, from, FollowOptions { follow: go_on }).await?;
    let mut encoder = Encoder::new(format, &table, columns, condition)?;
    let mut head = Vec::new();
    encoder.head(&mut head);
    if followed.state.is_none() {
        encoder.begin(&followed.start, &mut head);
    }
    let ticks = match format {
        Format::Lines => TOKEN_INTERVAL.min(app.limits.ping_interval),
        _ => app.limits.ping_interval,
    };
    let mut ticks = interval_at(tokio::time::Instant::now() + ticks, ticks);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watched = Arc::new(Followed { table, positions: Mutex::new(followed.start.clone()) });
    app.watch(&watched);
    let sending = Sending {
        encoder,
        positions: followed.start,
        state: followed.state,
        batches: followed.batches,
        pending: VecDeque::new(),
        ticks,
        stopping: app.stopping.clone(),
        ends: !go_on,
        done: false,
        ready: Some(head.into()),
        followed: watched,
        _permit: permit,
    };
    let mut response = Response::new(Body::from_stream(stream::unfold(sending, Sending::step)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather an answer before they pass it on are asked not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(id) = parameters::header(headers, "last-event-id")? else { return Ok(None) };
    let id = id.to_str().map_err(|_| Error::new(Code::InvalidToken, "Last-Event-ID is not one of our tokens"))?;
    // An event source that has seen no id yet sends none, or an empty one.
    Ok(Some(id).filter(|id| !id.is_empty()))
}

fn is_at_end(table: &Table, positions: &Positions) -> Result<bool> {
    positions.keys().try_for_each(|bucket| table.bucket(*bucket).map(drop))?;
    let ends = table.ends();
    // Partitions that are newer than the token begin with their first rows.
    let unnamed = |end: Offset| if table.descriptor().is_partitioned() { Offset::ZERO } else { end };
    Ok(ends.ends.iter().all(|(bucket, end)| positions.get(bucket).copied().unwrap_or_else(|| unnamed(*end)) >= *end))
}

/// A subscription being served.
struct Sending {
    encoder: Encoder,
    /// The first offset of each bucket that is not yet sent.
    positions: Positions,
    /// The rest of the snapshot that comes before the changes.
    state: Option<BoxStream<'static, Result<StateBatch>>>,
    batches: BoxStream<'static, Result<ChangeBatch>>,
    /// Slices of the last batch.
    pending: VecDeque<ChangeBatch>,
    ticks: Interval,
    stopping: CancellationToken,
    /// Whether it ends where the table ended when it began.
    ends: bool,
    done: bool,
    ready: Option<Bytes>,
    followed: Arc<Followed>,
    _permit: OwnedSemaphorePermit,
}

/// All that can wake a subscription.
enum Event {
    State(StateBatch),
    /// The snapshot is whole; what comes now are changes after it.
    Cut,
    Changes(ChangeBatch),
    Failed(Error),
    End,
    Tick,
    Stop,
}

impl Sending {
    async fn step(mut self) -> Option<(io::Result<Bytes>, Sending)> {
        if let Some(ready) = self.ready.take().filter(|ready| !ready.is_empty()) {
            return Some((Ok(ready), self));
        }
        let mut out = Vec::new();
        while !self.done && out.is_empty() {
            let event = self.event().await;
            if let Err(error) = self.handle(event, &mut out) {
                tracing::debug!(%error, "a subscription broke off");
                self.done = true;
                return Some((Err(io::Error::other(error)), self));
            }
        }
        (!out.is_empty()).then(|| (Ok(out.into()), self))
    }

    async fn event(&mut self) -> Event {
        if self.stopping.is_cancelled() {
            return Event::Stop;
        }
        if let Some(changes) = self.pending.pop_front() {
            return Event::Changes(changes);
        }
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Event::Stop,
            rows = next_of(&mut self.state), if self.state.is_some() => match rows {
                None => Event::Cut,
                Some(Err(error)) => Event::Failed(error),
                Some(Ok(rows)) => Event::State(rows),
            },
            batch = self.batches.next(), if self.state.is_none() => match batch {
                None => Event::End,
                Some(Err(error)) => Event::Failed(error),
                Some(Ok(batch)) => {
                    self.pending = sliced(batch);
                    self.pending.pop_front().map_or(Event::Tick, Event::Changes)
                }
            },
            _ = self.ticks.tick() => Event::Tick,
        }
    }

    fn handle(&mut self, event: Event, out: &mut Vec<u8>) -> Result<()> {
        match event {
            Event::Changes(changes) => {
                metrics::counter!(metric_names::FOLLOWED_ROWS.name).increment(changes.batch.num_rows() as u64);
                let sent = self.encoder.changes(&changes, &mut self.positions, out);
                let mut seen = self.followed.positions.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend(self.positions.get(&changes.bucket).map(|position| (changes.bucket, *position)));
                drop(seen);
                sent.or_else(|error| self.fail(error, out))
            }
            Event::State(state) => {
                metrics::counter!(metric_names::FOLLOWED_ROWS.name).increment(state.batch.num_rows() as u64);
                self.encoder.state(&state, out).or_else(|error| self.fail(error, out))
            }
            Event::Cut => {
                self.state = None;
                self.encoder.begin(&self.positions, out);
                Ok(())
            }
            Event::Tick => {
                // In the midst of a snapshot there is no place to come back to.
                let positions = self.state.is_none().then_some(&self.positions);
                self.encoder.tick(positions, out);
                Ok(())
            }
            Event::Stop if self.state.is_some() => {
                self.done = true;
                let stopping = Error::new(Code::ShuttingDown, "the server is stopping before the snapshot was whole");
                self.encoder.fail(stopping.with_hint("begin again with from=snapshot"), out)
            }
            Event::End | Event::Stop => {
                self.done = true;
                // Only who asked for an end is told that this is it; the others will come again.
                let ends = self.ends && matches!(event, Event::End);
                self.encoder.end(&self.positions, ends, out)
            }
            Event::Failed(error) => self.fail(error, out),
        }
    }

    fn fail(&mut self, error: Error, out: &mut Vec<u8>) -> Result<()> {
        self.done = true;
        self.encoder.fail(error, out)
    }
}

async fn next_of<T>(stream: &mut Option<BoxStream<'static, T>>) -> Option<T> {
    stream.as_mut()?.next().await
}

fn sliced(batch: ChangeBatch) -> VecDeque<ChangeBatch> {
    let rows = batch.batch.num_rows();
    let starts = (0..rows).step_by(ROWS_AT_ONCE);
    let slice = |start: usize| {
        let length = ROWS_AT_ONCE.min(rows - start);
        ChangeBatch {
            bucket: batch.bucket,
            partition: batch.partition.clone(),
            first: batch.first.plus(start as u64),
            batch: batch.batch.slice(start, length),
            stamps: batch.stamps.slice(start, length),
            kinds: batch.kinds.as_ref().map(|kinds| kinds.slice(start, length)),
        }
    };
    starts.map(slice).collect()
}

/// What a table of each kind can be followed from.
fn check_kind(kind: TableKind, from: &str) -> Result<()> {
    if kind == TableKind::Log && from == "snapshot" {
        return Err(Error::new(Code::WrongTableKind, "a log table has no from=snapshot")
            .with_hint("from=earliest begins with its first row"));
    }
    Ok(())
}
