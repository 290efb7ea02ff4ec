//! Rows of primary-key tables that are no longer hot: whoever let them go hands them back.
//!
//! The engine knows no lake. It knows of each key at which offset its newest row stands, and when that lies below the
//! bucket's first hot offset it asks here: for the old row that a change is to tell, and for what a lookup is to answer.
//! Rows are asked for before a request gets its turn to be derived, so nobody waits for a store while holding it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use thermocline_schemas::{Offset, PartitionBucket, Result};

use crate::Table;

/// Rows that were let go, by offset.
pub trait ColdRows: Send + Sync {
    /// The rows at these offsets of a bucket, which ascend and lie below its first hot offset: one each, in that order,
    /// in the table's columns. `OffsetOutOfRetention` if one is not to be had, because a newer row has taken its place;
    /// `RequestTooLarge` if they come to more than `bytes_max`.
    fn rows<'a>(
        &'a self,
        table: &'a Arc<Table>,
        bucket: PartitionBucket,
        offsets: &'a [Offset],
        bytes_max: u64,
    ) -> Pin<Box<dyn Future<Output = Result<RecordBatch>> + Send + 'a>>;
}

/// Cold rows that were fetched, per bucket.
#[derive(Debug, Default)]
pub struct Fetched(BTreeMap<PartitionBucket, (Vec<Offset>, RecordBatch)>);

impl Fetched {
    /// Adds the rows at these offsets, which ascend.
    pub fn add(&mut self, bucket: PartitionBucket, offsets: Vec<Offset>, rows: RecordBatch) {
        self.0.insert(bucket, (offsets, rows));
    }

    pub fn rows(&self, bucket: PartitionBucket) -> Option<&RecordBatch> {
        self.0.get(&bucket).map(|(_, rows)| rows)
    }

    /// The number of the row at `offset` among those of its bucket.
    pub fn place(&self, bucket: PartitionBucket, offset: Offset) -> Option<usize> {
        self.0.get(&bucket)?.0.binary_search(&offset).ok()
    }
}
