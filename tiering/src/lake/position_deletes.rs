//! Position-delete files, the deletes of format version 2: Parquet with the address of a data file and a position in each
//! row.
//!
//! Always, in those written here: one data file, said by `referenced_data_file` and by equal bounds of the address; its
//! deleted positions ascending, each once. Those of others may cover many data files, and are read all the same.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use futures::TryStreamExt;
use iceberg::spec::Datum;
use object_store::path::Path as StorePath;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use roaring::RoaringTreemap;
use thermocline_schemas::{Error, FIELD_ID_KEY, FieldId, Result};

use super::read::{batches, field_id, open_parquet};
use crate::Warehouse;

/// Iceberg's ids of the two columns.
pub(super) const PATH_FIELD: FieldId = FieldId(i32::MAX - 101);
pub(super) const POSITION_FIELD: FieldId = FieldId(i32::MAX - 102);
const BATCH_ROWS: usize = 1 << 16;

/// A position-delete file before it is stored, with what its manifest entry says.
pub(super) struct EncodedDeletes {
    pub(super) bytes: Bytes,
    pub(super) sizes: HashMap<i32, u64>,
    pub(super) lower: HashMap<i32, Datum>,
    pub(super) upper: HashMap<i32, Datum>,
}

/// The file that deletes these positions of the data file at `data_url`; there must be one at least.
pub(super) fn encode(data_url: &str, positions: &RoaringTreemap) -> Result<EncodedDeletes> {
    let (Some(first), Some(last)) = (positions.min(), positions.max()) else {
        return Err(Error::internal("a position-delete file without positions"));
    };
    let one = [(data_url.to_owned(), positions.clone())];
    let (bytes, sizes) = write(&one).map_err(|error| Error::internal("a position-delete file").with_source(error))?;
    let bounds = |position: u64| {
        HashMap::from([(PATH_FIELD.0, Datum::string(data_url)), (POSITION_FIELD.0, Datum::long(position as i64))])
    };
    Ok(EncodedDeletes { bytes, sizes, lower: bounds(first), upper: bounds(last) })
}

/// The file that deletes positions of several data files, which come in the order of their addresses.
pub(super) fn encode_all(deleted: &[(String, RoaringTreemap)]) -> Result<Bytes> {
    let written = write(deleted).map_err(|error| Error::internal("a position-delete file").with_source(error))?;
    Ok(written.0)
}

fn write(deleted: &[(String, RoaringTreemap)]) -> Result<(Bytes, HashMap<i32, u64>), ParquetError> {
    let column = |name: &str, data_type: DataType, id: FieldId| {
        let metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]);
        Field::new(name, data_type, false).with_metadata(metadata)
    };
    let text = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let schema = Arc::new(Schema::new(vec![
        column("file_path", text, PATH_FIELD),
        column("pos", DataType::Int64, POSITION_FIELD),
    ]));
    let properties = WriterProperties::builder()
        .set_created_by(concat!("thermocline version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        // An address that is cut would not be the data file's.
        .set_statistics_truncate_length(None)
        .set_column_dictionary_enabled(ColumnPath::from("pos"), false)
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options)?;
    for (data_url, positions) in deleted {
        let address: ArrayRef = Arc::new(StringArray::from(vec![data_url.as_str()]));
        let mut positions = positions.iter();
        loop {
            let batch: Vec<i64> = positions.by_ref().take(BATCH_ROWS).map(|position| position as i64).collect();
            if batch.is_empty() {
                break;
            }
            let addresses = DictionaryArray::try_new(Int32Array::from(vec![0; batch.len()]), address.clone())?;
            let columns: Vec<ArrayRef> = vec![Arc::new(addresses), Arc::new(Int64Array::from(batch))];
            writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
        }
    }
    let metadata = writer.finish()?;
    let size = |place: usize| {
        metadata.row_groups().iter().map(|group| group.column(place).compressed_size().unsigned_abs()).sum()
    };
    let sizes = HashMap::from([(PATH_FIELD.0, size(0)), (POSITION_FIELD.0, size(1))]);
    Ok((std::mem::take(writer.inner_mut()).into(), sizes))
}

/// What a position-delete file deletes, by data file; those outside the warehouse are an error. `bytes` and `rows` are what
/// its manifest says.
pub(super) async fn read(
    warehouse: &Warehouse,
    path: &StorePath,
    bytes: u64,
    rows: u64,
) -> Result<HashMap<StorePath, RoaringTreemap>> {
    let (found, count) = read_rows(warehouse, path, bytes).await?;
    if count != rows {
        let url = warehouse.url(path);
        return Err(Error::corrupt(format!("{url} has {count} rows, its manifest says {rows}")));
    }
    Ok(found)
}

/// The same for who does not know how many rows it has. Rows that are there twice are an error: there would be fewer.
pub(super) async fn read_all(
    warehouse: &Warehouse,
    path: &StorePath,
    bytes: u64,
) -> Result<HashMap<StorePath, RoaringTreemap>> {
    let (found, count) = read_rows(warehouse, path, bytes).await?;
    if found.values().map(RoaringTreemap::len).sum::<u64>() != count {
        return Err(Error::corrupt(format!("{} deletes a row twice", warehouse.url(path))));
    }
    Ok(found)
}

async fn read_rows(
    warehouse: &Warehouse,
    path: &StorePath,
    bytes: u64,
) -> Result<(HashMap<StorePath, RoaringTreemap>, u64)> {
    let url = warehouse.url(path);
    let builder = open_parquet(warehouse.store(), path, &url, bytes, PageIndexPolicy::Skip).await?;
    let places = (place(builder.schema(), PATH_FIELD, &url)?, place(builder.schema(), POSITION_FIELD, &url)?);
    // The deleted rows themselves may be there too.
    let only = ProjectionMask::roots(builder.parquet_schema(), [places.0, places.1]);
    let (path_column, position_column) = if places.0 < places.1 { (0, 1) } else { (1, 0) };
    let mut batches = batches(builder.with_projection(only), &url)?;
    let mut found: HashMap<StorePath, RoaringTreemap> = HashMap::new();
    let mut count = 0;
    while let Some(batch) = batches.try_next().await? {
        count += batch.num_rows() as u64;
        let paths = batch.column(path_column).as_string_opt::<i32>();
        let positions = batch.column(position_column).as_primitive_opt::<Int64Type>();
        let (Some(paths), Some(positions)) = (paths, positions) else {
            return Err(Error::corrupt(format!("{url} deletes positions and has columns of other types")));
        };
        // Rows of one data file stand together.
        let mut row = 0;
        while row < batch.num_rows() {
            let data_url = paths.value(row);
            let end = (row..batch.num_rows()).find(|other| paths.value(*other) != data_url).unwrap_or(batch.num_rows());
            let deleted = found.entry(warehouse.path(data_url)?).or_default();
            for position in &positions.values()[row..end] {
                let position = u64::try_from(*position)
                    .map_err(|_| Error::corrupt(format!("{url} deletes position {position} of {data_url}")))?;
                deleted.insert(position);
            }
            row = end;
        }
    }
    Ok((found, count))
}

fn place(schema: &Schema, id: FieldId, url: &str) -> Result<usize> {
    let place = schema.fields().iter().position(|field| field_id(field) == Some(id));
    place.ok_or_else(|| Error::corrupt(format!("{url} deletes positions and has no column with field id {id}")))
}

#[cfg(test)]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn a_file_names_one_data_file_and_its_positions_in_order() {
        let url = format!("s3://bucket/{}.parquet", "long/".repeat(40));
        let positions: RoaringTreemap = (0..200_000).step_by(2).collect();
        let encoded = encode(&url, &positions).unwrap();
        assert!(encoded.bytes.len() < 400_000, "{}", encoded.bytes.len());
        assert_eq!(encoded.lower[&PATH_FIELD.0], Datum::string(&url));
        assert_eq!(encoded.upper[&PATH_FIELD.0], Datum::string(&url));
        assert_eq!(
            (&encoded.lower[&POSITION_FIELD.0], &encoded.upper[&POSITION_FIELD.0]),
            (&Datum::long(0), &Datum::long(199_998))
        );
        let builder = ParquetRecordBatchReaderBuilder::try_new(encoded.bytes).unwrap();
        let columns = builder.parquet_schema().columns();
        let named: Vec<_> =
            columns.iter().map(|column| (column.name(), column.self_type().get_basic_info().id())).collect();
        assert_eq!(named, [("file_path", 2_147_483_546), ("pos", 2_147_483_545)]);
        let statistics = builder.metadata().row_group(0).column(0).statistics().unwrap();
        assert_eq!(statistics.min_bytes_opt(), Some(url.as_bytes()));
        let mut found = Vec::new();
        for batch in builder.build().unwrap() {
            let batch = batch.unwrap();
            assert!(batch.column(0).as_string::<i32>().iter().all(|path| path == Some(url.as_str())));
            found.extend(batch.column(1).as_primitive::<Int64Type>().values().iter().map(|position| *position as u64));
        }
        assert!(positions.iter().eq(found));
        assert!(encode(&url, &RoaringTreemap::new()).is_err());
    }
}
