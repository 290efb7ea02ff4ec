//! The metrics of this crate, a line each.

/// Rows committed to the lake, by table.
pub const TIERED_ROWS: &str = "thermocline_tiered_rows_total";
/// How long rounds take, by table.
pub const ROUND_SECONDS: &str = "thermocline_round_seconds";
/// Rounds that failed, by table.
pub const ROUND_FAILURES: &str = "thermocline_round_failures_total";
/// Rows that are durable and not in the lake yet, by table.
pub const LAKE_LAG_ROWS: &str = "thermocline_lake_lag_rows";
/// Commits of files that were written anew, by table.
pub const REWRITES: &str = "thermocline_rewrites_total";
/// Files whose place others have taken, by table.
pub const REWRITTEN_FILES: &str = "thermocline_rewritten_files_total";
/// Rows that were written anew, by table.
pub const REWRITTEN_ROWS: &str = "thermocline_rewritten_rows_total";
/// Bytes of files that were written anew, by table.
pub const REWRITTEN_BYTES: &str = "thermocline_rewritten_bytes_total";
/// Files of lakes that nobody needed any more and that were removed, by table.
pub const SWEPT_OBJECTS: &str = "thermocline_swept_objects_total";
