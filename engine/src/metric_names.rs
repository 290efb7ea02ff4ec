//! The metrics of this crate, a line each.

/// Frames per durable write.
pub const GROUP_FRAMES: &str = "thermocline_journal_group_frames";
/// Rows acked, by table.
pub const APPENDED_ROWS: &str = "thermocline_appended_rows_total";
/// Bytes of memory that tails and requests in flight take.
pub const MEMORY_BYTES: &str = "thermocline_hot_memory_bytes";
/// Bytes of journal files that are kept.
pub const JOURNAL_BYTES: &str = "thermocline_journal_bytes";
/// Segments written.
pub const SEGMENTS_SEALED: &str = "thermocline_segments_sealed_total";
/// Bytes of memory that the indexes and endings of primary keys take.
pub const KEY_BYTES: &str = "thermocline_key_bytes";
