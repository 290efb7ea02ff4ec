//! The numbers that name things. Each is a type of its own, because two bare `u64`s side by side get swapped one day.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

id!(
    /// A table, for ever: the id of a dropped table is not given again.
    TableId(u64)
);
id!(
    /// A partition of one table; 0 is the only one of a table without partitions.
    PartitionId(u32)
);
id!(
    /// A bucket of one partition, from 0.
    BucketId(u32)
);
id!(
    /// A version of a table's columns, from 0.
    SchemaId(u32)
);
id!(
    /// A column, for ever, whatever it is called: Iceberg's field id.
    FieldId(i32)
);
id!(
    /// A row's place in its bucket, dense from 0. As a bound: the *first not yet* read, written or tiered.
    Offset(u64)
);

impl Offset {
    pub const ZERO: Offset = Offset(0);

    /// The offset `rows` further on.
    pub fn plus(self, rows: u64) -> Offset {
        Offset(self.0 + rows)
    }

    /// How many offsets lie in `[earlier, self)`; 0 when `earlier` is not earlier.
    pub fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A bucket within its table: what offsets are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionBucket {
    pub partition: PartitionId,
    pub bucket: BucketId,
}

impl PartitionBucket {
    /// Bucket `bucket` of a table without partitions.
    pub fn unpartitioned(bucket: u32) -> PartitionBucket {
        PartitionBucket { partition: PartitionId(0), bucket: BucketId(bucket) }
    }
}

impl fmt::Display for PartitionBucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.partition, self.bucket)
    }
}
