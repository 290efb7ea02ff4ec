//! The metrics of this crate, a line each. Gauges of tables, memory and disk are taken when somebody asks.

use thermocline_schemas::Metric;

pub const REQUESTS: Metric =
    Metric::counter("thermocline_http_requests_total", &["route", "method", "status"], "requests answered");
pub const REQUEST_SECONDS: Metric = Metric::histogram(
    "thermocline_http_request_seconds",
    &["route"],
    &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0],
    "seconds from a request's head to its answer's head",
);
pub const TABLE_REQUESTS: Metric = Metric::counter(
    "thermocline_table_requests_total",
    &["table", "operation", "status"],
    "requests answered about one table, by its address",
);
pub const CONNECTIONS: Metric = Metric::gauge("thermocline_http_connections", &[], "open connections");
pub const QUERIES_RUNNING: Metric =
    Metric::gauge("thermocline_queries_running", &[], "statements whose answer is not whole yet");
pub const QUERIES: Metric = Metric::counter(
    "thermocline_queries_total",
    &["outcome"],
    "statements: finished, refused (as wrong), failed, timed_out, or cancelled (the client went away)",
);
pub const QUERY_SECONDS: Metric = Metric::histogram(
    "thermocline_query_seconds",
    &[],
    &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0],
    "seconds from a statement to the end of its answer",
);
pub const FOLLOWERS: Metric = Metric::gauge("thermocline_followers", &["table"], "open subscriptions");
pub const FOLLOWER_BEHIND: Metric = Metric::gauge(
    "thermocline_follower_behind_rows",
    &["table"],
    "rows not yet sent to the subscriber that is furthest behind",
);
pub const FOLLOWED_ROWS: Metric =
    Metric::counter("thermocline_followed_rows_total", &[], "rows read for subscribers, before their conditions");
pub const HOT_ROWS: Metric = Metric::gauge("thermocline_hot_rows", &["table"], "rows that are hot, in the lake or not");
pub const NEWEST_ROW: Metric = Metric::gauge(
    "thermocline_newest_row_timestamp_seconds",
    &["table"],
    "when the newest rows were acked, in seconds since 1970",
);
pub const LAKE_LAG_ROWS: Metric =
    Metric::gauge("thermocline_lake_lag_rows", &["table"], "rows acked that are not in the lake yet");
pub const LAKE_LAG_SECONDS: Metric =
    Metric::gauge("thermocline_lake_lag_seconds", &["table"], "the age of the oldest row that is not in the lake yet");
pub const REFUSED_BUCKETS: Metric =
    Metric::gauge("thermocline_refused_buckets", &["table"], "buckets that are not served because of rot");
pub const SEGMENT_BYTES: Metric =
    Metric::gauge("thermocline_segment_bytes", &["table"], "bytes of segments on the local disk");
pub const JOURNAL_BYTES: Metric = Metric::gauge("thermocline_journal_bytes", &[], "bytes of journal files kept");
pub const DISK_FREE_BYTES: Metric =
    Metric::gauge("thermocline_disk_free_bytes", &[], "bytes that the disk of the data directory has left for us");
pub const MEMORY_BYTES: Metric = Metric::gauge(
    "thermocline_memory_bytes",
    &["owner"],
    "bytes of memory: tails, writes (rows on their way, and held by readers), keys, queries, bodies (of requests)",
);

pub const ALL: &[&Metric] = &[
    &REQUESTS,
    &REQUEST_SECONDS,
    &TABLE_REQUESTS,
    &CONNECTIONS,
    &QUERIES_RUNNING,
    &QUERIES,
    &QUERY_SECONDS,
    &FOLLOWERS,
    &FOLLOWER_BEHIND,
    &FOLLOWED_ROWS,
    &HOT_ROWS,
    &NEWEST_ROW,
    &LAKE_LAG_ROWS,
    &LAKE_LAG_SECONDS,
    &REFUSED_BUCKETS,
    &SEGMENT_BYTES,
    &JOURNAL_BYTES,
    &DISK_FREE_BYTES,
    &MEMORY_BYTES,
];
