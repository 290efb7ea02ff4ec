//! Formats: which one a client wants, and which one it sends.

use axum::http::{HeaderMap, header};
use thermocline_schemas::{Code, Error, Result};

use super::parameters;

pub const JSON: &str = "application/json";
pub const NDJSON: &str = "application/x-ndjson";
pub const CSV: &str = "text/csv";
pub const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
pub const PARQUET: &str = "application/vnd.apache.parquet";
pub const EVENT_STREAM: &str = "text/event-stream";
pub const TEXT: &str = "text/plain";

/// Of what is offered, what the `Accept` header likes best; at equal liking, what is offered first.
pub fn choose<T: Copy>(headers: &HeaderMap, offers: &[(&str, T)]) -> Result<T> {
    let mut wishes = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        wishes.extend(value.to_str().unwrap_or_default().split(',').filter_map(Wish::parse));
    }
    let liking = |offer: &str| {
        let matching = wishes.iter().filter(|wish| wish.matches(offer));
        matching.max_by_key(|wish| wish.precision()).map_or(0, |wish| wish.liking)
    };
    let mut best: Option<(u32, T)> = None;
    for (name, offer) in offers {
        let liking = if wishes.is_empty() { 1 } else { liking(name) };
        if liking > best.map_or(0, |(liking, _)| liking) {
            best = Some((liking, *offer));
        }
    }
    best.map(|(_, offer)| offer).ok_or_else(|| {
        let names: Vec<_> = offers.iter().map(|(name, _)| *name).collect();
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Error::new(Code::NotAcceptable, "no format that Accept names is offered here")
            .with_value(accept)
            .with_hint(format!("one of {}", names.join(", ")))
    })
}

/// One part of an `Accept` header.
struct Wish<'h> {
    kind: &'h str,
    subkind: &'h str,
    /// In thousandths.
    liking: u32,
}

impl<'h> Wish<'h> {
    fn parse(text: &'h str) -> Option<Wish<'h>> {
        let mut parts = text.split(';');
        let (kind, subkind) = parts.next()?.trim().split_once('/')?;
        let quality = parts.find_map(|part| part.trim().strip_prefix("q="));
        let quality = quality.map_or(1.0, |quality| quality.parse::<f32>().unwrap_or(1.0));
        Some(Wish { kind, subkind, liking: (quality.clamp(0.0, 1.0) * 1000.0) as u32 })
    }

    fn matches(&self, offer: &str) -> bool {
        let (kind, subkind) = offer.split_once('/').unwrap_or((offer, ""));
        (self.kind == "*" || self.kind.eq_ignore_ascii_case(kind))
            && (self.subkind == "*" || self.subkind.eq_ignore_ascii_case(subkind))
    }

    fn precision(&self) -> u8 {
        u8::from(self.kind != "*") + u8::from(self.subkind != "*")
    }
}

/// The media type of a body, in lower case and without its parameters; none when the client does not say. Text in
/// another encoding than UTF-8 is refused.
pub fn content_type(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = parameters::header(headers, header::CONTENT_TYPE.as_str())? else { return Ok(None) };
    let value = value.to_str().unwrap_or_default();
    let mut parts = value.split(';');
    let media_type = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let charset = value.trim().trim_matches('"');
        if name.trim().eq_ignore_ascii_case("charset")
            && !["utf-8", "utf8", "us-ascii"].iter().any(|ours| charset.eq_ignore_ascii_case(ours))
        {
            return Err(Error::new(Code::UnsupportedMediaType, "text must be UTF-8").with_value(charset));
        }
    }
    Ok(Some(media_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        let offers = [(JSON, JSON), (NDJSON, NDJSON), (CSV, CSV)];
        assert_eq!(choose(&headers, &offers).ok(), expected, "{accept}");
    }

    #[test]
    fn the_best_offer_wins() {
        check("", Some(JSON));
        check("*/*", Some(JSON));
        check("text/*", Some(CSV));
        check("text/html,application/xhtml+xml,*/*;q=0.8", Some(JSON));
        check("application/json;q=0.5, text/csv", Some(CSV));
        check("application/json;q=0, */*", Some(NDJSON));
        check("text/csv, application/json", Some(JSON));
        check("Application/X-NDJSON", Some(NDJSON));
        check("image/png", None);
        check("application/json;q=0", None);
    }
}
