//! For those who run a server: is it alive, is it ready, what does it do.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use thermocline_schemas::Result;

use super::Problem;
use super::parameters::Parameters;
use crate::app::App;

pub async fn health(parameters: Parameters) -> Result<Response, Problem> {
    parameters.finish()?;
    Ok(json(r#"{"status":"alive"}"#))
}

pub async fn ready(State(app): State<Arc<App>>, parameters: Parameters) -> Result<Response, Problem> {
    parameters.finish()?;
    let store = app.store()?;
    let tables = store.engine().tables();
    let refused = tables.iter().flat_map(|table| table.buckets()).filter(|(_, log)| log.refused().is_some()).count();
    // How many, for who must look; which and why is for those who may see tables.
    Ok(json(serde_json::json!({ "status": "ready", "refused_buckets": refused }).to_string()))
}

pub async fn metrics(State(app): State<Arc<App>>, parameters: Parameters) -> Result<Response, Problem> {
    parameters.finish()?;
    let text = crate::metrics::scrape(&app).await;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// JSON text as an answer.
pub fn json(text: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.into()).into_response()
}
