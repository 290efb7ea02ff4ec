//! Refusals: every one is `application/problem+json` of the same shape, whatever refused.

use std::any::Any;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use thermocline_schemas::{Code, Error, Kind};

pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error on its way to a client.
#[derive(Debug)]
pub struct Problem(pub Error);

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem(error)
    }
}

/// The document: `{"type","title","status","detail","code","row"?,"column"?,"value"?,"hint"?,"expected"?}`.
pub fn document(error: &Error) -> Value {
    let code = error.code();
    let mut fields = Map::new();
    fields.insert("type".into(), json!(format!("urn:thermocline:problem:{}", code.as_str())));
    fields.insert("title".into(), json!(code.meaning()));
    fields.insert("status".into(), json!(code.kind().status()));
    fields.insert("detail".into(), json!(detail(error)));
    fields.insert("code".into(), json!(code.as_str()));
    let rest = [
        ("row", error.row().map(Value::from)),
        ("column", error.column().map(Value::from)),
        ("value", error.value().map(Value::from)),
        ("hint", error.hint().map(Value::from)),
        ("expected", error.expected().map(Value::from)),
    ];
    fields.extend(rest.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Value::Object(fields)
}

/// The message with what caused it: the row is a field of its own.
fn detail(error: &Error) -> String {
    let mut detail = error.message().to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !detail.contains(&text) {
            detail.push_str(": ");
            detail.push_str(&text);
        }
        source = cause.source();
    }
    detail
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let error = self.0;
        // Handled here, so logged here.
        match error.kind() {
            Kind::Internal => tracing::error!(%error, code = error.code().as_str(), "a request failed"),
            _ => tracing::debug!(%error, code = error.code().as_str(), "a request was refused"),
        }
        let status = StatusCode::from_u16(error.kind().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(document(&error).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(error.kind(), Kind::Busy | Kind::Unavailable) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if error.kind() == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A handler that panicked: our fault, and the others go on.
pub fn panicked(_: Box<dyn Any + Send>) -> Response {
    // What was panicked with may quote data, and the hook has printed it.
    Problem(Error::internal("the server failed at this request; its log has more")).into_response()
}

/// For addresses that are none.
pub async fn not_found(uri: axum::http::Uri) -> Problem {
    Problem(
        Error::new(Code::NotFound, "no such address")
            .with_value(uri.path())
            .with_hint("tables are at /v1/tables, SQL is POST /v1/sql, and /openapi.json tells of all"),
    )
}

/// For methods that an address does not have.
pub async fn method_not_allowed(method: axum::http::Method) -> Problem {
    Problem(
        Error::new(Code::MethodNotAllowed, format!("the address does not take {method}"))
            .with_hint("the Allow header says what it takes"),
    )
}
