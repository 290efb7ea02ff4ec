//! A lake for other engines to read, made on request: every type, both format versions, every kind of partitioning.

use arrow::array::{BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array};
use thermocline_engine::disk::RealDisk;
use thermocline_schemas::{bucket_of_hash, hash_column};

use super::*;

const ROWS: u64 = 1_000;

/// Six tables `shop.v<format>_<partitioning>` with the ids 0 to 2,999 each; and `shop.v2_empty`, `shop.v3_empty`.
#[tokio::test]
#[ignore = "writes a lake for other engines below $THERMOCLINE_LAKE, a path or s3://bucket/prefix"]
async fn write_a_lake_for_other_engines() {
    let address = std::env::var("THERMOCLINE_LAKE").unwrap();
    let warehouse = Warehouse::open(&address, Arc::new(RealDisk)).unwrap();
    let columns = [
        ("id", ColumnType::Int64, false),
        ("flag", ColumnType::Boolean, true),
        ("small", ColumnType::Int16, true),
        ("real", ColumnType::Float32, true),
        ("double", ColumnType::Float64, true),
        ("price", ColumnType::Decimal { precision: 12, scale: 2 }, true),
        ("day", ColumnType::Date, true),
        ("local", ColumnType::Timestamp, true),
        ("stamp", ColumnType::TimestampTz, true),
        ("name", ColumnType::String, true),
        ("bytes", ColumnType::Binary, true),
    ];
    let schema = TableSchema::new(columns.map(|(name, kind, null)| (name.to_owned(), kind, null))).unwrap();
    let kinds: [(&str, &[(&str, &str)]); 4] = [
        ("plain", &[]),
        ("identity", &[("buckets", "4")]),
        ("hash", &[("buckets", "4"), ("bucket_key", "id")]),
        ("empty", &[]),
    ];
    let cases = ["2", "3"].into_iter().flat_map(|format| kinds.map(|(name, properties)| (format, name, properties)));
    for (id, (format, kind, properties)) in cases.enumerate() {
        let name = TableName::parse("shop", &format!("v{format}_{kind}")).unwrap();
        let properties = properties.iter().copied().chain([("format_version", format)]);
        let properties = Properties::parse(properties).unwrap();
        let id = TableId(id as u64 + 1);
        let descriptor = TableDescriptor::new(id, name, schema.clone(), &[], properties, 1_000).unwrap();
        let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
        if kind == "empty" {
            continue;
        }
        for round in 0..3 {
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(round * ROWS as i64..(round + 1) * ROWS as i64));
            let bucket_of: Vec<u32> = match (descriptor.properties.buckets, &descriptor.properties.bucket_key) {
                (1, _) => vec![0; ROWS as usize],
                (buckets, None) => (0..ROWS as u32).map(|row| row % buckets).collect(),
                (buckets, Some(_)) => {
                    hash_column(&ids).unwrap().into_iter().map(|hash| bucket_of_hash(hash, buckets)).collect()
                }
            };
            let base = table.current();
            let mut append = Append {
                log_starts: Offsets::default(),
                commit_id: Uuid::new_v4(),
                start: base.offsets.clone(),
                end: base.offsets.clone(),
                files: vec![],
                ended: None,
                stamps: None,
            };
            for number in 0..descriptor.properties.buckets {
                let of_bucket = ids.as_primitive::<Int64Type>().values().iter().zip(&bucket_of);
                let ids: Vec<i64> = of_bucket.filter(|(_, at)| **at == number).map(|(id, _)| *id).collect();
                let first = base.offsets.get(bucket(number));
                let mut writer = table.file_writer(append.commit_id, bucket(number)).unwrap();
                writer.write(rows(&table, number, first, &ids)).await.unwrap();
                append.files.push(writer.finish().await.unwrap());
                append.end.set(bucket(number), first.plus(ids.len() as u64));
            }
            committed(table.append(&append).await.unwrap());
        }
        verify(&table).await;
    }
}

fn rows(table: &LakeTable, number: u32, first: Offset, ids: &[i64]) -> RecordBatch {
    // Every seventh row has nothing but its id.
    let each = |id: &i64| (id % 7 != 0).then_some(*id);
    let decimals = Decimal128Array::from_iter(ids.iter().map(|id| each(id).map(|id| i128::from(id) * 100 + 7)));
    let stamps = |id: &i64| each(id).map(|id| 1_700_000_000_000_000 + id * 1_000_001);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.to_vec())),
        Arc::new(BooleanArray::from_iter(ids.iter().map(|id| each(id).map(|id| id % 2 == 0)))),
        Arc::new(Int32Array::from_iter(ids.iter().map(|id| each(id).map(|id| id as i32)))),
        Arc::new(Float32Array::from_iter(ids.iter().map(|id| each(id).map(|id| id as f32 / 2.0)))),
        Arc::new(Float64Array::from_iter(ids.iter().map(|id| each(id).map(|id| id as f64 / 4.0)))),
        Arc::new(decimals.with_precision_and_scale(12, 2).unwrap()),
        Arc::new(Date32Array::from_iter(ids.iter().map(|id| each(id).map(|id| id as i32)))),
        Arc::new(TimestampMicrosecondArray::from_iter(ids.iter().map(stamps))),
        Arc::new(TimestampMicrosecondArray::from_iter(ids.iter().map(stamps)).with_timezone("UTC")),
        Arc::new(StringArray::from_iter(ids.iter().map(|id| each(id).map(|id| format!("a rather long name {id}"))))),
        Arc::new(BinaryArray::from_iter(ids.iter().map(|id| each(id).map(i64::to_be_bytes)))),
        Arc::new(Int32Array::from(vec![number as i32; ids.len()])),
        Arc::new(Int64Array::from_iter_values((0..ids.len() as u64).map(|row| first.plus(row).0 as i64))),
        Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; ids.len()]).with_timezone("UTC")),
    ];
    RecordBatch::try_new(table.arrow_schema(), columns).unwrap()
}
