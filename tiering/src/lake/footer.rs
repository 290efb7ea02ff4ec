//! The footer of a data file in which floats are NaN: of such columns it says how many nulls there are, and no
//! extremes.
//!
//! Extremes leave NaN out, in Parquet and in Iceberg, and who looks for NaN must not go by them. DuckDB, and what reads
//! through Arrow's dataset library, as PyIceberg does, go by them all the same: asked for NaN, or for what differs from
//! a number, they skip row groups that have it, and whoever ranks NaN above all numbers skips more. Without extremes
//! nothing is skipped. Nothing is lost by it: extremes of columns with NaN are of no use to our own reads either.

use parquet::basic::Type;
use parquet::errors::Result;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataWriter};
use parquet::file::statistics::Statistics;

/// The length of the footer, in four bytes, and `PAR1`.
const TRAILER_BYTES: usize = 8;

/// The same without extremes of these float columns, which `bytes`, the end of the file, then does not have either.
pub(super) fn without_extremes(
    metadata: ParquetMetaData,
    columns: &[usize],
    bytes: &mut Vec<u8>,
) -> Result<ParquetMetaData> {
    let mut builder = metadata.into_builder();
    for row_group in builder.take_row_groups() {
        let mut row_group = row_group.into_builder();
        let mut chunks = row_group.take_columns();
        for place in columns {
            let chunk = chunks[*place].clone();
            let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
            let unknown = match chunk.column_type() {
                Type::FLOAT => Statistics::float(None, None, None, nulls, false),
                _ => Statistics::double(None, None, None, nulls, false),
            };
            // The index of a column's pages says their extremes. Its bytes stay in the file; nothing points at them.
            let chunk = chunk.into_builder().set_statistics(unknown);
            chunks[*place] = chunk.set_column_index_offset(None).set_column_index_length(None).build()?;
        }
        builder = builder.add_row_group(row_group.set_column_metadata(chunks).build()?);
    }
    // The other indexes stay where they are: the column chunks say where.
    let metadata = builder.set_column_index(None).set_offset_index(None).build();
    let trailer =
        bytes.len().checked_sub(TRAILER_BYTES).and_then(|at| bytes[at..].first_chunk::<4>().map(|four| (at, four)));
    let footer = trailer.and_then(|(at, length)| at.checked_sub(u32::from_le_bytes(*length) as usize));
    bytes.truncate(footer.ok_or_else(|| parquet::errors::ParquetError::EOF("a file without a footer".to_owned()))?);
    ParquetMetaDataWriter::new(bytes, &metadata).finish()?;
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch};
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
    use parquet::file::metadata::PageIndexPolicy;
    use parquet::file::properties::WriterProperties;

    use super::*;

    #[test]
    fn only_the_named_columns_lose_their_extremes_and_no_row_is_lost() {
        let columns: [(&str, ArrayRef); 4] = [
            ("id", Arc::new(Int64Array::from_iter_values(0..10))),
            ("real", Arc::new(Float32Array::from_iter((0..10).map(|n| (n != 3).then_some(f32::NAN))))),
            ("sound", Arc::new(Float64Array::from_iter_values((0..10).map(f64::from)))),
            ("double", Arc::new(Float64Array::from_iter((0..10).map(|n| Some(if n == 5 { f64::NAN } else { 1.5 }))))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(4)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        let metadata = writer.finish().unwrap();
        let mut bytes = std::mem::take(writer.inner_mut());
        let given = without_extremes(metadata, &[1, 3], &mut bytes).unwrap();

        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let bytes = Bytes::from(bytes);
        let read = ArrowReaderMetadata::load(&bytes, options.clone()).unwrap();
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).unwrap();
        let found: Vec<_> = builder.build().unwrap().map(|batch| batch.unwrap()).collect();
        let found = arrow::compute::concat_batches(&rows.schema(), &found).unwrap();
        assert_eq!(format!("{found:?}"), format!("{rows:?}"));
        for metadata in [&given, read.metadata().as_ref()] {
            assert_eq!(metadata.num_row_groups(), 3);
            for row_group in metadata.row_groups() {
                for (place, chunk) in row_group.columns().iter().enumerate() {
                    let statistics = chunk.statistics().unwrap();
                    assert_eq!(statistics.min_bytes_opt().is_some(), [true, false, true, false][place], "{place}");
                    assert_eq!(statistics.max_bytes_opt().is_some(), [true, false, true, false][place], "{place}");
                    assert_eq!(chunk.column_index_offset().is_some(), [true, false, true, false][place], "{place}");
                    assert!(chunk.offset_index_offset().is_some());
                    let nulls = if place == 1 && row_group.ordinal() == Some(0) { 1 } else { 0 };
                    assert_eq!(statistics.null_count_opt(), Some(nulls), "{place}");
                }
            }
        }
        assert!(without_extremes(given, &[1], &mut b"no".to_vec()).is_err());
    }
}
