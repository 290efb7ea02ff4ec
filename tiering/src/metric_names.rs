//! The metrics of this crate, a line each.

use thermocline_schemas::Metric;

pub const TIERED_ROWS: Metric =
    Metric::counter("thermocline_tiered_rows_total", &["table"], "rows committed to the lake");
pub const ROUND_SECONDS: Metric = Metric::histogram(
    "thermocline_round_seconds",
    &["table"],
    &[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0],
    "how long rounds that succeed take",
);
pub const ROUND_FAILURES: Metric = Metric::counter(
    "thermocline_round_failures_total",
    &["table", "reason"],
    "rounds that failed, by the error's code",
);
pub const ROUND_REPLANS: Metric =
    Metric::counter("thermocline_round_replans_total", &["table"], "rounds planned anew because the lake had moved");
pub const COMMIT_CONFLICTS: Metric =
    Metric::counter("thermocline_lake_commit_conflicts_total", &[], "commits built anew because another one was first");
pub const STORE_ERRORS: Metric = Metric::counter(
    "thermocline_store_errors_total",
    &["reason"],
    "calls of the object store that failed for good, by the error's code",
);
pub const REWRITES: Metric =
    Metric::counter("thermocline_rewrites_total", &["table"], "commits of files that were written anew");
pub const REWRITTEN_FILES: Metric =
    Metric::counter("thermocline_rewritten_files_total", &["table"], "files whose place others have taken");
pub const REWRITTEN_ROWS: Metric =
    Metric::counter("thermocline_rewritten_rows_total", &["table"], "rows that were written anew");
pub const REWRITTEN_BYTES: Metric =
    Metric::counter("thermocline_rewritten_bytes_total", &["table"], "bytes of files that were written anew");
pub const SWEPT_OBJECTS: Metric =
    Metric::counter("thermocline_swept_objects_total", &["table"], "files of the lake that nobody needed, removed");

pub const ALL: &[&Metric] = &[
    &TIERED_ROWS,
    &ROUND_SECONDS,
    &ROUND_FAILURES,
    &ROUND_REPLANS,
    &COMMIT_CONFLICTS,
    &STORE_ERRORS,
    &REWRITES,
    &REWRITTEN_FILES,
    &REWRITTEN_ROWS,
    &REWRITTEN_BYTES,
    &SWEPT_OBJECTS,
];
