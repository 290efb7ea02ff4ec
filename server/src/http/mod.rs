//! The HTTP contract, one file per family of addresses.
//!
//! `sql` and `answers`: queries, and their rows in four formats. `rows` and `uploads`: writes in five. `lookup`: rows by key. `changes` and
//! what is below it: subscriptions. `tables`: what is there. `backup`: all of it, copied. `operations`: alive, ready, metrics. `contract`: all of it as a
//! table, of which the router is made, and which `openapi` tells. Common to all: `problem` (refusals), `access` (who may ask), `observe` (numbers and the log), `parameters`, `accept` (formats), `bodies`.
//!
//! Always: an answer that began with 200 either ends cleanly and is whole, or says that it is not.

pub mod accept;
mod access;
mod answers;
mod arrow_upload;
mod backup;
mod bodies;
mod changes;
mod contract;
mod lookup;
mod observe;
mod openapi;
mod operations;
mod parameters;
mod problem;
mod rows;
mod set_aside;
mod sql;
mod tables;

pub mod uploads;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::handler::Handler;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, on};
use tower::ServiceBuilder;
use tower::util::{MapRequestLayer, option_layer};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::decompression::RequestDecompressionLayer;

pub use answers::NOTE;
pub use openapi::document as openapi_document;
pub use problem::Problem;

use self::contract::Operation;
use crate::app::App;

/// An operation, and how it is served.
type Route = (&'static Operation, MethodRouter<Arc<App>>);

/// All addresses.
fn routes() -> Vec<Route> {
    let decompressed = ServiceBuilder::new()
        .layer(from_fn(bodies::limit_wire))
        .layer(RequestDecompressionLayer::new())
        .layer(MapRequestLayer::new(|request: axum::http::Request<_>| request.map(Body::new)));
    vec![
        served(&contract::SQL, sql::run),
        served(&contract::TABLES, tables::list),
        served(&contract::TABLE_STATUS, tables::show),
        (&contract::ROWS, on(contract::ROWS.method.filter(), rows::append).layer(decompressed)),
        served(&contract::CHANGES, changes::follow),
        served(&contract::LOOKUP, lookup::find),
        served(&contract::TIER, tables::tier),
        served(&contract::BACKUP, backup::make),
        served(&contract::HEALTH, operations::health),
        served(&contract::READY, operations::ready),
        served(&contract::METRICS, operations::metrics),
        served(&contract::OPENAPI, openapi::show),
    ]
}

fn served<H: Handler<T, Arc<App>>, T: 'static>(operation: &'static Operation, handler: H) -> Route {
    (operation, on(operation.method.filter(), handler))
}

/// What the router is made of.
fn operations_of_routes() -> &'static [&'static Operation] {
    static OPERATIONS: OnceLock<Vec<&'static Operation>> = OnceLock::new();
    OPERATIONS.get_or_init(|| routes().into_iter().map(|(operation, _)| operation).collect())
}

/// Whatever a client may ask, answered.
pub fn router(app: Arc<App>) -> Router {
    let add = |router: Router<_>, (operation, method): Route| router.route(operation.path, method);
    routes()
        .into_iter()
        .fold(Router::new(), add)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn_with_state(app.clone(), access::check))
        .layer(option_layer(access::pages(&app)))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}
