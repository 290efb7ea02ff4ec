//! Who may ask.
//!
//! With a token configured, every address but `/health` and `/ready` wants it. Without one the server listens on
//! loopback only, and anything on the machine may ask, except web pages: a browser lets any page send simple requests
//! to loopback addresses, so requests that say they come from elsewhere, or that were sent to another host's name, are
//! refused. Pages of origins that the server was told of may ask, and browsers are told that they may.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use thermocline_schemas::{Code, Error, Result};
use tower_http::cors::{AllowHeaders, CorsLayer};

use super::{NOTE, Problem, parameters};
use crate::app::App;

/// How long browsers need not ask again.
const ASKED_FOR: Duration = Duration::from_secs(3600);

pub async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Problem> {
    if !matches!(request.uri().path(), "/health" | "/ready") {
        if app.wants_token() {
            check_token(&app, request.headers())?;
        } else {
            check_origin(&app, request.headers())?;
        }
    }
    Ok(next.run(request).await)
}

fn check_token(app: &App, headers: &HeaderMap) -> Result<()> {
    let refused = |why: &str| {
        Err(Error::new(Code::Unauthorized, why).with_hint("send the header Authorization: Bearer <the server's token>"))
    };
    let Some(shown) = parameters::header(headers, header::AUTHORIZATION.as_str())? else {
        return refused("this server wants a token");
    };
    let shown = shown.to_str().unwrap_or_default();
    let token = shown.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match token {
        Some((_, token)) if app.is_token(token.trim()) => Ok(()),
        Some(_) => refused("that is not this server's token"),
        None => refused("the Authorization header is not a bearer token"),
    }
}

/// What browsers are told of pages from elsewhere; none if there is nothing to tell.
pub fn pages(app: &App) -> Option<CorsLayer> {
    let layer = CorsLayer::new()
        .allow_origin(app.origins.clone())
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static(NOTE), header::RETRY_AFTER])
        .max_age(ASKED_FOR);
    (!app.origins.is_empty()).then_some(layer)
}

fn check_origin(app: &App, headers: &HeaderMap) -> Result<()> {
    let refused = |what: &str, value: &str| {
        Err(Error::new(
            Code::Forbidden,
            format!("without a token only this machine is served, and the {what} is another"),
        )
        .with_value(value)
        .with_hint("start the server with --token, and send it; pages of an origin may ask with --allow-origin"))
    };
    let is_known = headers.get(header::ORIGIN).is_some_and(|origin| app.origins.contains(origin));
    for (name, what) in [(header::HOST, "host"), (header::ORIGIN, "origin")] {
        if name == header::ORIGIN && is_known {
            continue;
        }
        if let Some(value) = headers.get(name) {
            let value = value.to_str().unwrap_or("?");
            if !is_loopback(value) {
                return refused(what, value);
            }
        }
    }
    match headers.get("sec-fetch-site").map(|site| site.as_bytes()) {
        Some(b"cross-site") if !is_known => refused("page that asks", "cross-site"),
        _ => Ok(()),
    }
}

/// Whether `localhost:8080`, `http://127.0.0.1:8080` and the like name this machine.
fn is_loopback(text: &str) -> bool {
    let authority = text.split_once("://").map_or(text, |(_, authority)| authority);
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').map_or("", |(host, _)| host),
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn hosts() {
        for ours in ["localhost", "localhost:8080", "http://LOCALHOST:1", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080"] {
            assert!(is_loopback(ours), "{ours}");
        }
        for other in
            ["example.com", "null", "", "10.0.0.1:8080", "http://localhost.evil.com", "127.0.0.1.evil.com", "["]
        {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
