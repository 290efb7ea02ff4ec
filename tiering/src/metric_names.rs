//! The metrics of this crate, a line each.

/// Rows committed to the lake, by table.
pub const TIERED_ROWS: &str = "thermocline_tiered_rows_total";
/// How long rounds take, by table.
pub const ROUND_SECONDS: &str = "thermocline_round_seconds";
/// Rounds that failed, by table.
pub const ROUND_FAILURES: &str = "thermocline_round_failures_total";
/// Rows that are durable and not in the lake yet, by table.
pub const LAKE_LAG_ROWS: &str = "thermocline_lake_lag_rows";
