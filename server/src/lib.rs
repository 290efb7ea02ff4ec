//! The face of Thermocline: the HTTP server, the command line, and the demo.
//!
//! The path of a request: `listener` takes connections and bounds them; `http` has one file per family of addresses,
//! and `http/problem` the one shape of every refusal; `app` holds what requests share; `metrics` counts. [`serve`] starts and stops it
//! all. [`cli`] is `thermocline` as people type it: apart from `serve` and `demo` its commands are clients of the same
//! HTTP.
//!
//! Not here: what tables, queries and rounds are. This crate turns requests into calls, and results into bytes.

mod app;
pub mod cli;
mod http;
mod listener;
mod metric_names;
mod metrics;
pub mod serve;
mod timed_stream;

pub use app::Limits;
/// The contract of all addresses, for who holds answers against it.
pub use http::openapi_document;
/// What strangers' bytes meet first: rows that they send, and the tokens that they send back.
pub use http::uploads;
