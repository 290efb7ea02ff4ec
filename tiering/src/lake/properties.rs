//! The names of what we keep in Iceberg metadata. They are persisted: none may change.

/// Table property: the table's id with us.
pub(super) const TABLE_ID: &str = "thermocline.table-id";
/// Table property: when the table was made, in milliseconds since 1970. Two servers may give one id, hardly at one time.
pub(super) const TABLE_CREATED: &str = "thermocline.table-created-ms";
/// Table property: `log` or `primary_key`; tables made before there were keys have none.
pub(super) const TABLE_KIND: &str = "thermocline.table-kind";
/// Table property: the full map of offsets.
pub(super) const OFFSETS: &str = "thermocline.offsets";
/// Table property and snapshot summary: the id of the commit.
pub(super) const COMMIT_ID: &str = "thermocline.commit-id";
/// Snapshot summary: the hash of the full map of offsets after the commit.
pub(super) const OFFSETS_HASH: &str = "thermocline.offsets-hash";
/// Snapshot summary: `[[partition,bucket,start,end],…]` of the buckets that the commit moved.
pub(super) const CHANGED_OFFSETS: &str = "thermocline.changed-offsets";
/// Snapshot summary: when the oldest and the newest of the rows were accepted that the commit took in, as changes:
/// `[first,last]`, in microseconds since 1970.
pub(super) const STAMPS: &str = "thermocline.stamps-us";
/// Table property and snapshot summary, where there are some: how many rows below the offsets were taken away for good.
pub(super) const ROWS_GONE: &str = "thermocline.rows-gone";
/// Table property, Iceberg's: how long engines that expire snapshots keep them.
pub(super) const SNAPSHOT_AGE_MAX: &str = "history.expire.max-snapshot-age-ms";
