//! Request bodies: read whole, up to a limit, in memory that was asked for first.
//!
//! Always: a body takes room from one budget for the whole server before it takes memory, and gives it back when what
//! was made of it is done. What a compressed body expands to counts, not what it is on the wire.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{LengthLimitError, Limited};
use thermocline_schemas::{Code, Error, Result};

use super::Problem;
use crate::app::{App, BodyRoom};

/// A body that is too large is read on for so long, so that the client comes to read the answer.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// Room is asked for in steps of this when the length is not known.
const ROOM_STEP: usize = 1 << 20;

/// A body, and the room it takes.
pub struct Received {
    pub bytes: Bytes,
    pub room: BodyRoom,
}

/// Reads a body of at most `bytes_max`.
pub async fn receive(app: &App, body: Body, bytes_max: usize) -> Result<Received> {
    let known = body.size_hint().exact().unwrap_or(0);
    let mut room = app.body_room();
    let mut stream = body.into_data_stream();
    if known > bytes_max as u64 {
        drain(&mut stream).await;
        return Err(too_large(bytes_max));
    }
    room.grow_to(known as usize, app.limits.patience).await?;
    let mut bytes = BytesMut::with_capacity(known as usize);
    loop {
        let chunk = tokio::time::timeout(app.limits.read_timeout, stream.next()).await.map_err(|_| {
            Error::new(Code::InvalidBody, format!("the body stopped coming after {} bytes", bytes.len()))
        })?;
        let Some(chunk) = chunk else { break };
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) if is_length_limit(&error) => {
                drain(&mut stream).await;
                return Err(too_large(bytes_max));
            }
            Err(error) => {
                return Err(Error::new(Code::InvalidBody, "the body cannot be read").with_source(error));
            }
        };
        let total = bytes.len() + chunk.len();
        if total > bytes_max {
            drain(&mut stream).await;
            return Err(too_large(bytes_max));
        }
        if total > known as usize {
            room.grow_to(total.next_multiple_of(ROOM_STEP), app.limits.patience).await?;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Received { bytes: bytes.freeze(), room })
}

/// Reads on without keeping anything: an answer that comes while a client still sends is often lost to it.
async fn drain(stream: &mut axum::body::BodyDataStream) {
    let reading = async { while let Some(Ok(_)) = stream.next().await {} };
    // What is left after that time is the client's affair.
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

fn too_large(bytes_max: usize) -> Error {
    Error::new(Code::RequestTooLarge, format!("the body is larger than {bytes_max} bytes"))
        .with_hint("`thermocline load FILE db.table` cuts a file into requests that fit")
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if one.is::<LengthLimitError>() {
            return true;
        }
        cause = one.source();
    }
    false
}

/// Bounds what comes over the wire, below decompression: a compressed stream can go on for ever and expand to nothing.
pub async fn limit_wire(request: Request, next: Next) -> Result<Response, Problem> {
    check_encoding(request.headers())?;
    let limited = request.map(|body| Body::new(Limited::new(body, WIRE_BYTES_MAX)));
    Ok(next.run(limited).await)
}

/// A body of the largest size, and what a compressor adds when it finds nothing to gain.
const WIRE_BYTES_MAX: usize = thermocline_engine::REQUEST_BYTES_MAX as usize + (4 << 20);

fn check_encoding(headers: &HeaderMap) -> Result<()> {
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = value.to_str().unwrap_or("?");
        if !["identity", "gzip", "zstd"].iter().any(|ours| value.eq_ignore_ascii_case(ours)) {
            return Err(Error::new(Code::UnsupportedMediaType, "a content encoding that is not read here")
                .with_value(value)
                .with_hint("gzip, zstd, or none"));
        }
    }
    Ok(())
}
