//! The metrics of this crate, a line each.

/// Requests answered, by route, method and status.
pub const REQUESTS: &str = "thermocline_http_requests_total";
/// Seconds from a request's head to its answer's head, by route.
pub const REQUEST_SECONDS: &str = "thermocline_http_request_seconds";
/// Open connections.
pub const CONNECTIONS: &str = "thermocline_http_connections";
/// Open subscriptions.
pub const FOLLOWERS: &str = "thermocline_followers";
/// Rows sent to subscribers.
pub const FOLLOWED_ROWS: &str = "thermocline_followed_rows_total";
/// Bytes of request bodies that are in memory.
pub const BODY_BYTES: &str = "thermocline_body_bytes";

/// Says in `/metrics` what each one means.
pub fn describe() {
    metrics::describe_counter!(REQUESTS, "requests answered");
    metrics::describe_histogram!(REQUEST_SECONDS, "seconds from a request's head to its answer's head");
    metrics::describe_gauge!(CONNECTIONS, "open connections");
    metrics::describe_gauge!(FOLLOWERS, "open subscriptions");
    metrics::describe_counter!(FOLLOWED_ROWS, "rows sent to subscribers");
    metrics::describe_gauge!(BODY_BYTES, "bytes of request bodies in memory");
}
