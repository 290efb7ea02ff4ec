//! What every layer of Thermocline shares: ids, tables, types, kinds of change, errors, and the text forms of values.
//!
//! Always: no I/O, no clock, no threads. A value that exists has been checked ([`TableName`], [`TableSchema`],
//! [`Properties`]), so code past the door need not check it again.
//!
//! Not here: how rows are stored (`engine`), how the lake spells a table (`tiering`), SQL text (`sql`).

mod bucket;
mod change;
mod check;
mod columns;
mod error;
mod evolve;
mod evolve_nested;
mod ids;
mod metric;
mod names;
mod nested;
mod nested_arrays;
mod partition;
mod properties;
mod set_aside;
mod table;
mod types;

pub mod text;

pub use bucket::{bucket_of_hash, hash_column, iceberg_hash};
pub use change::ChangeKind;
pub use check::{CONDITION_BYTES_MAX, Check, Conditions, NoConditions, Understood};
pub use columns::{FIELD_ID_KEY, SystemColumn};
pub use error::{Code, Error, Kind, Result};
pub use evolve::{Alteration, Fitting, Place, fitted, nullable};
pub use ids::{BucketId, FieldId, Offset, PartitionBucket, PartitionId, SchemaId, TableId};
pub use metric::{Metric, MetricKind};
pub use names::{Identifier, REJECTED, TableName, fold, quoted};
pub use nested::NestedField;
pub use nested_arrays::{fitted_values, nullable_throughout, plain_rows, plain_schema, slice_bytes};
pub use partition::{
    BUCKETS_MAX, PARTITIONS_MAX, PartitionField, PartitionPath, PartitionValue, PartitionValues, Transform,
    partition_bounds, partition_rows,
};
pub use properties::{Changelog, DEFINITIONS, Definition, DeleteBehavior, Properties, PropertyRow};
pub use set_aside::{CONTENT_BYTES_MAX, RejectedRow, SetAside, rejected_schema};
pub use table::{Bucketing, CHANGE_COLUMN, Column, TableDescriptor, TableKind, TableSchema};
pub use types::{ColumnType, UUID_BYTES, fixed_width, is_uuid};
