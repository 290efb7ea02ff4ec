//! Who may ask.
//!
//! With a token configured, every address but `/health` and `/ready` wants it. Without one the server listens on
//! loopback only, and anything on the machine may ask, except web pages: a browser lets any page send simple requests
//! to loopback addresses, so requests that say they come from elsewhere, or that were sent to another host's name, are
//! refused.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use thermocline_schemas::{Code, Error, Result};

use super::{Problem, parameters};
use crate::app::App;

pub async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Problem> {
    if !matches!(request.uri().path(), "/health" | "/ready") {
        if app.wants_token() {
            check_token(&app, request.headers())?;
        } else {
            check_origin(request.headers())?;
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

fn check_origin(headers: &HeaderMap) -> Result<()> {
    let refused = |what: &str, value: &str| {
        Err(Error::new(
            Code::Forbidden,
            format!("without a token only this machine is served, and the {what} is another"),
        )
        .with_value(value)
        .with_hint("start the server with --token, and send it"))
    };
    for (name, what) in [(header::HOST, "host"), (header::ORIGIN, "origin")] {
        if let Some(value) = headers.get(name) {
            let value = value.to_str().unwrap_or("?");
            if !is_loopback(value) {
                return refused(what, value);
            }
        }
    }
    match headers.get("sec-fetch-site").map(|site| site.as_bytes()) {
        Some(b"cross-site") => refused("page that asks", "cross-site"),
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
