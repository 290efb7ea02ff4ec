//! The data set that the binary carries; `server/data/README.md` says where it comes from.

use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use std::sync::Arc;
use thermocline_schemas::{ColumnType, Properties, TableDescriptor, TableId, TableName, TableSchema};
use thermocline_tiering::{DecodeLimits, decode_parquet};

use crate::cli::{Failure, Outcome};

static PARQUET: &[u8] = include_bytes!("../../../data/flights.parquet");
pub const QUESTIONS: &str = include_str!("../../../data/questions.sql");
pub const ROWS: u64 = 336_776;

/// All rows, in order, with plain texts.
pub fn read() -> Outcome<RecordBatch> {
    let limits = DecodeLimits { bytes_max: 1 << 30, rows_max: 1 << 20, columns_max: 64 };
    let batches = decode_parquet(Bytes::from_static(PARQUET), &limits)?.collect::<Result<Vec<_>, _>>()?;
    let cannot = |error: arrow::error::ArrowError| Failure::new(format!("the demo's data cannot be read: {error}"));
    let schema = batches.first().map(|batch| batch.schema()).ok_or_else(|| Failure::new("the demo's data is empty"))?;
    let all = concat_batches(&schema, &batches).map_err(cannot)?;
    let schema = plain(&schema);
    let columns = all.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
    let columns: Result<Vec<_>, _> = columns.collect();
    RecordBatch::try_new(schema.clone(), columns.map_err(cannot)?).map_err(cannot)
}

fn plain(schema: &SchemaRef) -> SchemaRef {
    let plain = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8View => field.as_ref().clone().with_data_type(DataType::Utf8),
        _ => field.as_ref().clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()))
}

/// The statement that makes the table.
pub fn ddl(schema: &SchemaRef) -> Outcome<String> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| Ok((field.name().clone(), ColumnType::from_arrow(field.data_type())?, field.is_nullable())));
    let columns = columns.collect::<Result<Vec<_>, thermocline_schemas::Error>>()?;
    // Rounds so often that they can be watched.
    let properties = Properties::parse([("lake_freshness", "5s")])?;
    let name = TableName::parse("public", "flights")?;
    let table = TableDescriptor::new(TableId(0), name, TableSchema::new(columns)?, &[], properties, 0)?;
    Ok(table.ddl())
}

/// Some rows as a request.
pub fn request(rows: &RecordBatch) -> Outcome<Bytes> {
    let cannot = |error: arrow::error::ArrowError| Failure::new(format!("the demo's data cannot be sent: {error}"));
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema()).map_err(cannot)?;
    writer.write(rows).map_err(cannot)?;
    Ok(writer.into_inner().map_err(cannot)?.into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_data_is_what_the_readme_says() {
        let rows = super::read().unwrap();
        assert_eq!(rows.num_rows() as u64, super::ROWS);
        let ddl = super::ddl(&rows.schema()).unwrap();
        assert!(ddl.contains("time_hour TIMESTAMPTZ") && ddl.contains("lake_freshness = '5s'"), "{ddl}");
    }
}
