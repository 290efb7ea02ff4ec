//! Relations about tables: `"t$snapshots"`, and an `information_schema` that lists ours alone.

use std::sync::Arc;

use datafusion::arrow::array::TimestampMicrosecondArray;
use datafusion::arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::catalog::{MemTable, TableProvider};
use thermocline_schemas::{Code, Error, Result};
use thermocline_tiering::{SnapshotInfo, token_format};

use crate::errors::from_datafusion;
use crate::sql::Sql;

pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";

/// A batch from named columns.
pub(crate) fn batch(columns: Vec<(&str, bool, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<_> =
        columns.iter().map(|(name, nullable, array)| Field::new(*name, array.data_type().clone(), *nullable)).collect();
    let arrays = columns.into_iter().map(|(_, _, array)| array).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

pub(crate) fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

pub(crate) fn table(batch: RecordBatch) -> Result<Arc<dyn TableProvider>> {
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(from_datafusion)?;
    Ok(Arc::new(table))
}

/// The columns of `"t$snapshots"`.
pub(crate) fn snapshot_schema() -> Schema {
    let stamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Schema::new(vec![
        Field::new("snapshot_id", DataType::Int64, false),
        Field::new("parent_id", DataType::Int64, true),
        Field::new("sequence_number", DataType::Int64, false),
        Field::new("committed_at", stamp.clone(), false),
        Field::new("operation", DataType::Utf8, false),
        Field::new("manifest_list", DataType::Utf8, false),
        Field::new("summary", DataType::Utf8, false),
        Field::new("offsets", DataType::Utf8, true),
        Field::new("newest_row_at", stamp, true),
    ])
}

/// The lake's snapshots as rows, oldest first.
pub(crate) fn snapshots(snapshots: Vec<SnapshotInfo>) -> Result<Arc<dyn TableProvider>> {
    let each = || snapshots.iter();
    let numbers =
        |number: fn(&SnapshotInfo) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(each().map(number))) };
    let summaries = each().map(|snapshot| {
        serde_json::to_string(&snapshot.summary)
            .map_err(|error| Error::internal("a summary that is no JSON").with_source(error))
    });
    let committed = each().map(|snapshot| snapshot.committed_at_ms.saturating_mul(1000));
    let arrays: Vec<ArrayRef> = vec![
        numbers(|snapshot| snapshot.snapshot_id),
        Arc::new(each().map(|snapshot| snapshot.parent_id).collect::<Int64Array>()),
        numbers(|snapshot| snapshot.sequence_number),
        Arc::new(TimestampMicrosecondArray::from_iter_values(committed).with_timezone("UTC")),
        texts(each().map(|snapshot| &snapshot.operation)),
        texts(each().map(|snapshot| &snapshot.manifest_list)),
        texts(summaries.collect::<Result<Vec<_>>>()?),
        Arc::new(each().map(as_version).collect::<StringArray>()),
        Arc::new(
            each().map(|snapshot| snapshot.last_stamp).collect::<TimestampMicrosecondArray>().with_timezone("UTC"),
        ),
    ];
    table(RecordBatch::try_new(Arc::new(snapshot_schema()), arrays)?)
}

/// A snapshot's offsets as VERSION AS OF takes them.
fn as_version(snapshot: &SnapshotInfo) -> Option<String> {
    let offsets = snapshot.offsets.as_ref()?;
    if snapshot.is_partitioned {
        return Some(format!("token:{}", token_format::encode(snapshot.table, offsets)));
    }
    let each: Vec<_> = offsets.iter().map(|(bucket, offset)| format!("{}={offset}", bucket.bucket)).collect();
    Some(format!("offsets:{}", each.join(",")))
}

impl Sql {
    /// `information_schema.tables` and `.columns`, as the SQL standard calls their columns.
    pub(crate) fn information_schema(&self, relation: &str) -> Result<Arc<dyn TableProvider>> {
        let mut tables = self.engine().tables();
        tables.retain(|table| table.descriptor().rejected_of.is_none());
        let name = |place: usize| &tables[place].descriptor().name;
        match relation {
            "tables" => table(batch(vec![
                ("table_schema", false, texts((0..tables.len()).map(|place| name(place).database.as_str()))),
                ("table_name", false, texts((0..tables.len()).map(|place| name(place).table.as_str()))),
                ("table_type", false, texts(tables.iter().map(|_| "BASE TABLE"))),
            ])?),
            "columns" => {
                let columns: Vec<_> = tables
                    .iter()
                    .flat_map(|table| {
                        let descriptor = table.descriptor();
                        descriptor.schema.columns().iter().enumerate().map(move |column| (&descriptor.name, column))
                    })
                    .collect();
                let each = || columns.iter();
                table(batch(vec![
                    ("table_schema", false, texts(each().map(|(name, _)| name.database.as_str()))),
                    ("table_name", false, texts(each().map(|(name, _)| name.table.as_str()))),
                    ("column_name", false, texts(each().map(|(_, (_, column))| column.name.as_str()))),
                    (
                        "ordinal_position",
                        false,
                        Arc::new(Int32Array::from_iter_values(each().map(|(_, (place, _))| *place as i32 + 1))),
                    ),
                    (
                        "is_nullable",
                        false,
                        texts(each().map(|(_, (_, column))| if column.nullable { "YES" } else { "NO" })),
                    ),
                    ("data_type", false, texts(each().map(|(_, (_, column))| column.column_type.to_string()))),
                ])?)
            }
            _ => Err(Error::new(Code::TableNotFound, format!("no table {INFORMATION_SCHEMA}.{relation}"))
                .with_hint("there are information_schema.tables and information_schema.columns")),
        }
    }
}

/// Some booleans.
pub(crate) fn flags(values: impl IntoIterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<BooleanArray>())
}
