//! A bucket's hot rows: the tail in memory, the segments on disk, and how the one becomes the other.
//!
//! Always, per bucket: `trim_floor ≤ end of the last segment ≤ end of the tail`, without a gap. What a reader has taken out
//! stays readable however the bucket changes meanwhile: rows are held by reference, and a mapped file survives its name.

mod log;
mod segment;
mod segment_format;
mod stamps;
mod tail;
#[cfg(test)]
mod tests;

pub use log::{BucketLog, HotBatch, HotRows, ReadColumns, RowPlace};
pub use segment::{Segment, write_segment};
pub use segment_format::SegmentInfo;
pub use stamps::Stamps;
pub use tail::Chunk;
