//! Rows of every type, and their five spellings.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use thermocline_schemas::text::{CsvEncoder, JsonEncoder, JsonShape};
use thermocline_schemas::{ColumnType, TableSchema};
use thermocline_server::uploads::UploadFormat;

pub const FORMATS: [UploadFormat; 5] = [
    UploadFormat::Json(JsonShape::Lines),
    UploadFormat::Json(JsonShape::Array),
    UploadFormat::Csv,
    UploadFormat::Arrow,
    UploadFormat::Parquet,
];

pub fn schema() -> TableSchema {
    use ColumnType::*;
    let columns = [
        ("id", Int64, false),
        ("flag", Boolean, true),
        ("tiny", Int8, true),
        ("small", Int16, true),
        ("whole", Int32, true),
        ("real", Float32, true),
        ("double", Float64, true),
        ("price", Decimal { precision: 12, scale: 2 }, true),
        ("huge", Decimal { precision: 38, scale: 0 }, true),
        ("day", Date, true),
        ("wall", Timestamp, true),
        ("at", TimestampTz, true),
        ("name", String, true),
        ("bytes", Binary, true),
    ];
    TableSchema::new(columns.map(|(name, column_type, nullable)| (name.to_owned(), column_type, nullable)))
        .expect("the schema is well formed")
}

/// Some rows, with nulls, edges and characters that formats escape.
pub fn some(count: i64) -> RecordBatch {
    let ids = || 0..count;
    let some = |id: i64| id % 4 != 3;
    let edge = |id: i64, low: i64, high: i64| match id % 5 {
        0 => low,
        1 => high,
        _ => id,
    };
    let texts = ["plain", "", "a,b", "\"quoted\"", "line\nbreak", "ünï·cødé 🦀", "\\N", "null", "\u{1}", "'"];
    let text = |id: i64| texts[id as usize % texts.len()];
    let floats = [0.0, -0.0, 1.5, 1e300, -1e-300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.1];
    let float = |id: i64| floats[id as usize % floats.len()];
    let decimals = |high: i128, precision| {
        let values = ids().map(|id| some(id).then_some(if id % 2 == 0 { high } else { -i128::from(id) }));
        Decimal128Array::from_iter(values).with_precision_and_scale(precision, if precision == 12 { 2 } else { 0 })
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids().map(|id| edge(id, i64::MIN, i64::MAX)))),
        Arc::new(BooleanArray::from_iter(ids().map(|id| some(id).then_some(id % 2 == 0)))),
        Arc::new(Int8Array::from_iter(ids().map(|id| some(id).then_some(edge(id, -128, 127) as i8)))),
        Arc::new(Int16Array::from_iter(ids().map(|id| some(id).then_some(edge(id, -32768, 32767) as i16)))),
        Arc::new(Int32Array::from_iter(ids().map(|id| some(id).then_some(id as i32 * 1_000_003)))),
        Arc::new(Float32Array::from_iter(ids().map(|id| some(id).then_some(float(id) as f32)))),
        Arc::new(Float64Array::from_iter(ids().map(|id| some(id).then_some(float(id))))),
        Arc::new(decimals(999_999_999_999, 12).expect("twelve digits hold it")),
        Arc::new(decimals(10i128.pow(38) - 1, 38).expect("38 digits hold it")),
        Arc::new(Date32Array::from_iter(ids().map(|id| some(id).then_some(id as i32 * 1_000 - 9_000)))),
        Arc::new(TimestampMicrosecondArray::from_iter(ids().map(|id| some(id).then_some(id * 1_234_567_890_123)))),
        Arc::new(
            TimestampMicrosecondArray::from_iter(ids().map(|id| some(id).then_some(-id * 987_654_321)))
                .with_timezone("UTC"),
        ),
        Arc::new(StringArray::from_iter(ids().map(|id| some(id).then(|| text(id))))),
        Arc::new(BinaryArray::from_iter(ids().map(|id| some(id).then(|| text(id).as_bytes())))),
    ];
    RecordBatch::try_new(schema().arrow(), columns).expect("columns fit the schema")
}

/// Rows as a body, by our own encoders.
pub fn encode(batch: &RecordBatch, format: UploadFormat) -> Result<Vec<u8>, String> {
    let text = |error: &dyn std::fmt::Debug| format!("{error:?}");
    let mut body = Vec::new();
    match format {
        UploadFormat::Json(shape) => {
            let mut encoder = JsonEncoder::new(batch.schema_ref()).map_err(|error| text(&error))?;
            let array = shape == JsonShape::Array;
            body.extend_from_slice(if array { b"[" } else { b"" });
            for row in 0..batch.num_rows() {
                if array && row > 0 {
                    body.push(b',');
                }
                encoder.write_object(batch, row, &mut body).map_err(|error| text(&error))?;
                body.extend_from_slice(if array { b"" } else { b"\n" });
            }
            body.extend_from_slice(if array { b"]" } else { b"" });
        }
        UploadFormat::Csv => {
            let written =
                CsvEncoder.header(batch.schema_ref(), &mut body).and_then(|()| CsvEncoder.rows(batch, &mut body));
            written.map_err(|error| text(&error))?;
        }
        UploadFormat::Arrow => {
            let mut writer = StreamWriter::try_new(&mut body, batch.schema_ref()).map_err(|error| text(&error))?;
            writer.write(batch).and_then(|()| writer.finish()).map_err(|error| text(&error))?;
        }
        UploadFormat::Parquet => parquet(batch, Compression::UNCOMPRESSED, &mut body)?,
    }
    Ok(body)
}

fn parquet(batch: &RecordBatch, compression: Compression, body: &mut Vec<u8>) -> Result<(), String> {
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(body, batch.schema(), Some(properties)).map_err(|error| error.to_string())?;
    writer.write(batch).map_err(|error| error.to_string())?;
    writer.close().map(drop).map_err(|error| error.to_string())
}

/// The same rows once per compression that uploads may have.
pub fn compressed_parquet(batch: &RecordBatch) -> Vec<(&'static str, Vec<u8>)> {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).expect("a level"));
    let all = [("zstd", zstd), ("snappy", Compression::SNAPPY), ("lz4", Compression::LZ4_RAW)];
    all.map(|(name, compression)| {
        let mut body = Vec::new();
        parquet(batch, compression, &mut body).expect("rows can be written");
        (name, body)
    })
    .into()
}
