//! Where a subscription begins: `latest`, `earliest`, `snapshot`, `timestamp:…`, `offsets:…`, `token:…`.

use chrono::DateTime;
use thermocline_engine::{Engine, Table};
use thermocline_schemas::{Code, Error, Result};
use thermocline_tiering::{FollowFrom, parse_offsets};

use super::check_kind;
use crate::http::parameters::invalid;
use thermocline_tiering::token_format;

/// What a request asks for. `Last-Event-ID` beats `from=`: an event source that reconnects sends both.
pub fn parse(table: &Table, from: Option<&str>, last_event_id: Option<&str>) -> Result<FollowFrom> {
    let from = from.unwrap_or("latest");
    let (word, argument) = from.split_once(':').map_or((from, None), |(word, argument)| (word, Some(argument)));
    check_kind(table.descriptor().kind, word)?;
    if let Some(token) = last_event_id {
        return from_token(table, token);
    }
    match (word, argument) {
        ("latest", None) => Ok(FollowFrom::Latest),
        ("earliest", None) => Ok(FollowFrom::Earliest),
        ("snapshot", None) => Ok(FollowFrom::Snapshot),
        ("timestamp", Some(text)) => timestamp(text),
        ("offsets", Some(_)) if table.descriptor().is_partitioned() => {
            Err(Error::new(Code::InvalidOffset, "a table with partitions has no offsets by bucket alone")
                .with_hint("from=token:… goes on at any place of it"))
        }
        ("offsets", Some(text)) => Ok(FollowFrom::Offsets(parse_offsets(text)?)),
        ("token", Some(text)) => from_token(table, text),
        _ => Err(invalid("from", "is not a place to begin").with_value(from).with_hint(
            "latest, earliest, snapshot, timestamp:<RFC 3339 or epoch ms>, offsets:0=120,1=98 or token:<token>",
        )),
    }
}

/// The error for a table that is not there: to who comes with a token of one that was dropped, that.
pub fn of_dropped(engine: &Engine, error: Error, from: Option<&str>, last_event_id: Option<&str>) -> Error {
    let token = last_event_id.or_else(|| from?.strip_prefix("token:"));
    let token = token.and_then(|token| token_format::decode(token).ok());
    let dropped = engine.dropped_tables();
    let of_token = dropped.iter().map(|(table, _)| table.descriptor()).find(|table| {
        error.code() == Code::TableNotFound && token.as_ref().is_some_and(|token| token.table == table.id)
    });
    match of_token {
        None => error,
        Some(table) => Error::new(Code::TableDropped, format!("table {} was dropped", table.name))
            .with_hint(format!("UNDROP TABLE {} brings it back, and its tokens are good again", table.name)),
    }
}

fn from_token(table: &Table, text: &str) -> Result<FollowFrom> {
    let token = token_format::decode(text)?;
    if token.table != table.descriptor().id {
        return Err(Error::new(
            Code::TableDropped,
            format!("the token is of a table that was there before this {}", table.descriptor().name),
        )
        .with_hint("from=earliest begins with the first row of this one"));
    }
    Ok(FollowFrom::Offsets(token.positions))
}

fn timestamp(text: &str) -> Result<FollowFrom> {
    let milliseconds = text.parse::<i64>().ok().and_then(|milliseconds| milliseconds.checked_mul(1000));
    // A plus sign in an address means a space, which is easily forgotten.
    let time = || DateTime::parse_from_rfc3339(&text.replace(' ', "+")).ok().map(|time| time.timestamp_micros());
    let micros = milliseconds.or_else(time).ok_or_else(|| {
        Error::new(Code::InvalidOffset, "that is not a moment")
            .with_value(text)
            .with_hint("as timestamp:2026-11-23T13:00:00Z, or milliseconds since 1970")
    })?;
    Ok(FollowFrom::Timestamp(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let expected = FollowFrom::Timestamp(1_763_902_800_000_000);
        for text in ["1763902800000", "2025-11-23T13:00:00Z", "2025-11-23T14:00:00 01:00", "2025-11-23T13:00:00.000Z"] {
            assert_eq!(timestamp(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "soon", "2025-11-23", "9223372036854775807"] {
            assert_eq!(timestamp(bad).unwrap_err().code(), Code::InvalidOffset, "{bad}");
        }
    }
}
