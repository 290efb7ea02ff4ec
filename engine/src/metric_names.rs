//! The metrics of this crate, a line each.

use thermocline_schemas::Metric;

pub const APPENDED_ROWS: Metric = Metric::counter("thermocline_appended_rows_total", &["table"], "rows acked");
pub const APPENDED_BYTES: Metric =
    Metric::counter("thermocline_appended_bytes_total", &["table"], "bytes of rows acked, as the journal has them");
pub const APPENDED_REQUESTS: Metric =
    Metric::counter("thermocline_appended_requests_total", &["table"], "requests with rows acked, repeats apart");
pub const SYNC_SECONDS: Metric = Metric::histogram(
    "thermocline_journal_sync_seconds",
    &[],
    &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
    "how long the disk takes to make a group durable",
);
pub const GROUP_REQUESTS: Metric = Metric::histogram(
    "thermocline_journal_group_requests",
    &[],
    &[1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0],
    "requests that one durable write takes",
);
pub const GROUP_BYTES: Metric = Metric::histogram(
    "thermocline_journal_group_bytes",
    &[],
    &[1024.0, 16384.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0],
    "bytes that one durable write takes",
);
pub const SEGMENTS_SEALED: Metric = Metric::counter("thermocline_segments_sealed_total", &[], "segments written");

pub const ALL: &[&Metric] = &[
    &APPENDED_ROWS,
    &APPENDED_BYTES,
    &APPENDED_REQUESTS,
    &SYNC_SECONDS,
    &GROUP_REQUESTS,
    &GROUP_BYTES,
    &SEGMENTS_SEALED,
];
