//! Where the log of each bucket starts for its readers: the first offset that is kept, hot or cold.
//!
//! Starts only rise, each time by an edit, to where rounds ended or rows end at that place of the journal. So what lies below
//! is gone from every tier at one moment, and no file or round reaches over it. A table that has never lost a row starts at
//! 0 everywhere. Not here: rows that are no longer hot, which the lake has (`BucketLog::trim_floor`), and tables with a
//! primary key, whose rows go one by one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thermocline_schemas::{Offset, PartitionBucket};

/// The starts of one table's buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStarts {
    /// Those past 0.
    starts: BTreeMap<PartitionBucket, Offset>,
    raised: Option<Raised>,
}

/// When rows were taken away last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raised {
    /// In microseconds since 1970.
    pub at: i64,
    /// How many rows had been written then, over all buckets: a cut below more of them is younger.
    pub rows: u64,
}

impl LogStarts {
    /// These; of those that are at 0 nothing is kept.
    pub fn at(starts: impl IntoIterator<Item = (PartitionBucket, Offset)>) -> LogStarts {
        let starts = starts.into_iter().filter(|(_, start)| *start > Offset::ZERO).collect();
        LogStarts { starts, raised: None }
    }

    /// The same, raised last then.
    pub(crate) fn raised_last(self, raised: Option<Raised>) -> LogStarts {
        LogStarts { raised, ..self }
    }

    /// The first offset that is kept.
    pub fn start(&self, bucket: PartitionBucket) -> Offset {
        self.starts.get(&bucket).copied().unwrap_or_default()
    }

    /// Raises a bucket's start; one that is further stays.
    pub(crate) fn raise(&mut self, bucket: PartitionBucket, start: Offset) {
        if start > self.start(bucket) {
            self.starts.insert(bucket, start);
        }
    }

    /// The buckets whose start is past 0, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionBucket, Offset)> + '_ {
        self.starts.iter().map(|(bucket, start)| (*bucket, *start))
    }

    /// When rows were taken away last; none if none ever were.
    pub fn raised(&self) -> Option<Raised> {
        self.raised
    }

    /// How many rows the table has lost, ever.
    pub fn rows_gone(&self) -> u64 {
        self.starts.values().map(|start| start.0).sum()
    }
}
