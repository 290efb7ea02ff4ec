//! For those who run a server: is it alive, is it ready, what does it do.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use thermocline_schemas::Result;

use super::Problem;
use super::parameters::Parameters;
use crate::app::App;
use crate::metric_names;

/// The one recorder of this process.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Seconds, from a cached lookup to a query at its limit.
const SECONDS: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
/// Frames that one fsync makes durable.
const FRAMES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0];

/// Collects metrics from now on; more than one server in a process share them.
pub fn install_metrics() {
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        // The only refusal is an empty list of buckets.
        let builder = builder
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_frames".into()), FRAMES))
            .unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another recorder has the metrics; /metrics will be empty");
        }
        metric_names::describe();
        handle
    });
}

/// Histograms gather samples until somebody folds them: this does, in the background.
pub fn fold_metrics() {
    if let Some(recorder) = RECORDER.get() {
        recorder.run_upkeep();
    }
}

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

pub async fn metrics(parameters: Parameters) -> Result<Response, Problem> {
    parameters.finish()?;
    let text = RECORDER.get().map(PrometheusHandle::render).unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// JSON text as an answer.
pub fn json(text: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.into()).into_response()
}
