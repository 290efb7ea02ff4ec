//! What is in data files, and what manifests say of it.

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, RecordBatchOptions,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::array_value_to_string;
use thermocline_schemas::{FieldId, hash_column};

use super::*;

#[tokio::test]
async fn bounds_and_counts_come_back_from_the_manifest() {
    let columns = [
        ("flag", ColumnType::Boolean),
        ("tiny", ColumnType::Int8),
        ("long", ColumnType::Int64),
        ("real", ColumnType::Float32),
        ("double", ColumnType::Float64),
        ("small_decimal", ColumnType::Decimal { precision: 9, scale: 2 }),
        ("middle_decimal", ColumnType::Decimal { precision: 18, scale: 2 }),
        ("large_decimal", ColumnType::Decimal { precision: 38, scale: 4 }),
        ("day", ColumnType::Date),
        ("local", ColumnType::Timestamp),
        ("stamp", ColumnType::TimestampTz),
        ("text", ColumnType::String),
        ("bytes", ColumnType::Binary),
        ("nothing", ColumnType::String),
    ];
    let schema = TableSchema::new(columns.map(|(name, kind)| (name.to_owned(), kind, true))).unwrap();
    let descriptor = TableDescriptor { schema, ..descriptor(1, &[]) };
    let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
    let decimal = |values: [Option<i128>; 3], precision, scale| {
        Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, scale).unwrap()) as ArrayRef
    };
    let long_text = "ß".repeat(100);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(false), None, Some(true)])),
        Arc::new(Int32Array::from(vec![Some(-128), None, Some(127)])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(5)])),
        Arc::new(Float32Array::from(vec![Some(f32::NAN), Some(-1.5), Some(2.5)])),
        Arc::new(Float64Array::from(vec![Some(0.0), None, Some(2.5)])),
        decimal([Some(-12345), None, Some(12345)], 9, 2),
        decimal([Some(-1), None, Some(999_999_999_999_999_999)], 18, 2),
        decimal([Some(-99_999_999_999_999_999_999_999_999_999_999_999_999), None, Some(7)], 38, 4),
        Arc::new(Date32Array::from(vec![Some(-1), None, Some(20_000)])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(-5), None, Some(5)])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(-5), None, Some(5)]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec![Some("a"), None, Some(long_text.as_str())])),
        Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0][..]), None, Some(&[255; 40][..])])),
        Arc::new(StringArray::from(vec![None::<&str>; 3])),
        Arc::new(Int32Array::from(vec![0; 3])),
        Arc::new(Int64Array::from(vec![0, 1, 2])),
        Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC")),
    ];
    let batch = RecordBatch::try_new(table.arrow_schema(), columns.clone()).unwrap();
    let commit_id = Uuid::new_v4();
    let mut writer = table.file_writer(commit_id, bucket(0)).unwrap();
    writer.write(batch).await.unwrap();
    let file = writer.finish().await.unwrap();
    let end = Offsets::from_iter([(bucket(0), Offset(3))]);
    let append = Append {
        commit_id,
        start: Offsets::default(),
        end,
        files: vec![file],
        ended: None,
        log_starts: Offsets::default(),
        stamps: None,
    };
    let version = committed(table.append(&append).await.unwrap());
    let files = table.data_files(&version).await.unwrap();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    assert_eq!((file.rows, file.first_offset, file.end_offset), (3, Offset(0), Offset(3)));
    let text = |bound: Option<ArrayRef>| {
        let Some(bound) = bound else { return "-".to_owned() };
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        // The name of a zone needs a table of zones to be shown.
        let shown = if bound.data_type().to_string().contains("UTC") { cast(&bound, &utc).unwrap() } else { bound };
        array_value_to_string(&shown, 0).unwrap()
    };
    let upper_text = format!("{}à", "ß".repeat(15));
    let expected = [
        ("false", "true", 1, None),
        ("-128", "127", 1, None),
        ("-9223372036854775808", "5", 1, None),
        // Not all engines rank NaN as bounds have to.
        ("-", "-", 0, Some(1)),
        ("-0.0", "2.5", 1, Some(0)),
        ("-123.45", "123.45", 1, None),
        ("-0.01", "9999999999999999.99", 1, None),
        ("-9999999999999999999999999999999999.9999", "0.0007", 1, None),
        ("1969-12-31", "2024-10-04", 1, None),
        ("1969-12-31T23:59:59.999995", "1970-01-01T00:00:00.000005", 1, None),
        ("1969-12-31T23:59:59.999995Z", "1970-01-01T00:00:00.000005Z", 1, None),
        ("a", upper_text.as_str(), 1, None),
        ("00", "-", 1, None),
        ("-", "-", 3, None),
        ("0", "0", 0, None),
        ("0", "2", 0, None),
    ];
    for (place, (lower, upper, nulls, nans)) in expected.into_iter().enumerate() {
        let id = FieldId(place as i32 + 1);
        assert_eq!(text(file.lower_bound(id)), lower, "lower bound of {id}");
        assert_eq!(text(file.upper_bound(id)), upper, "upper bound of {id}");
        assert_eq!((file.null_count(id), file.nan_count(id)), (Some(nulls), nans), "counts of {id}");
        if let Some(bound) = file.lower_bound(id) {
            assert_eq!(bound.data_type(), columns[place].data_type());
        }
    }
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(3));
}

#[tokio::test]
async fn files_lie_in_the_partition_of_their_bucket() {
    for (properties, directory, transform) in [
        (&[("buckets", "4")][..], "__bucket=3/", "identity"),
        (&[("buckets", "4"), ("bucket_key", "id")], "id_bucket=3/", "bucket[4]"),
        // A null key is in bucket 0 with us and in no bucket with Iceberg.
        (&[("buckets", "4"), ("bucket_key", "name")], "__bucket=3/", "identity"),
        (&[("bucket_key", "id")], "", ""),
    ] {
        let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, properties)).await.unwrap();
        let number = if directory.is_empty() { 0 } else { 3 };
        let append = round(&table, &table.current(), &[(number, 5)]).await;
        let path = append.files[0].path.to_string();
        assert!(path.starts_with(&format!("shop/orders/data/{directory}{number}-{}", append.commit_id)), "{path}");
        let version = committed(table.append(&append).await.unwrap());
        let spec = version.metadata.default_partition_spec().fields().first().map(|field| field.transform.to_string());
        assert_eq!(spec.unwrap_or_default(), transform);
        let files = table.data_files(&version).await.unwrap();
        assert_eq!((files[0].bucket, files[0].rows), (bucket(number), 5));
        assert_eq!(files[0].url, table.warehouse().url(&files[0].path));
    }
    let hash = hash_column(&(Arc::new(Int64Array::from(vec![34])) as ArrayRef)).unwrap()[0];
    assert_eq!(thermocline_schemas::bucket_of_hash(hash, 16), 2017239379 % 16);
}

#[tokio::test]
async fn a_writer_refuses_rows_that_do_not_follow() {
    let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &[("buckets", "2")])).await.unwrap();
    for bad in [
        batch(&table, bucket(0), 6, 1),
        batch(&table, bucket(0), 4, 1),
        batch(&table, bucket(1), 5, 1),
        batch(&table, bucket(0), 5, 1).project(&[0, 1]).unwrap(),
    ] {
        let mut writer = table.file_writer(Uuid::new_v4(), bucket(0)).unwrap();
        writer.write(batch(&table, bucket(0), 3, 2)).await.unwrap();
        assert!(writer.write(bad).await.is_err());
        assert!(writer.write(batch(&table, bucket(0), 5, 1)).await.is_err(), "spent after an error");
        writer.abort().await;
    }
    let writer = table.file_writer(Uuid::new_v4(), bucket(0)).unwrap();
    assert!(writer.finish().await.is_err(), "no rows");
    let mut writer = table.file_writer(Uuid::new_v4(), bucket(0)).unwrap();
    let options = RecordBatchOptions::new().with_row_count(Some(0));
    let empty = RecordBatch::new_empty(table.arrow_schema());
    let empty = RecordBatch::try_new_with_options(empty.schema(), empty.columns().to_vec(), &options).unwrap();
    writer.write(empty).await.unwrap();
    writer.write(batch(&table, bucket(0), 3, 2)).await.unwrap();
    writer.write(batch(&table, bucket(0), 5, 2)).await.unwrap();
    let file = writer.finish().await.unwrap();
    assert_eq!((file.first_offset, file.end_offset, file.rows()), (Offset(3), Offset(7), 4));
}

/// More than one part of an upload and more than one row group, on a disk.
#[tokio::test]
async fn a_large_file_arrives_whole() {
    let directory = tempfile::tempdir().unwrap();
    let warehouse = Warehouse::local(Arc::new(thermocline_engine::disk::RealDisk), directory.path()).unwrap();
    let table = LakeTable::create_or_open(&warehouse, &descriptor(1, &[])).await.unwrap();
    let commit_id = Uuid::new_v4();
    let mut writer = table.file_writer(commit_id, bucket(0)).unwrap();
    for first in (0..1_500_000).step_by(100_000) {
        let rows = batch(&table, bucket(0), first, 100_000);
        let mut columns = rows.columns().to_vec();
        // Texts that do not compress well, so that the file is larger than a part.
        let text = |row: u64| format!("{:x}", row.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        columns[1] = Arc::new(StringArray::from_iter_values((first..first + 100_000).map(text)));
        writer.write(RecordBatch::try_new(rows.schema(), columns).unwrap()).await.unwrap();
    }
    let file = writer.finish().await.unwrap();
    assert!(file.bytes > 8 << 20, "{}", file.bytes);
    assert_eq!(file.data_file.split_offsets().unwrap().len(), 2);
    let append = Append {
        log_starts: Offsets::default(),
        commit_id,
        start: Offsets::default(),
        end: [(bucket(0), Offset(1_500_000))].into_iter().collect(),
        files: vec![file],
        ended: None,
        stamps: None,
    };
    committed(table.append(&append).await.unwrap());
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(1_500_000));
}

/// Ids, counts and bounds at every level: as Iceberg's own writer has them, of lists and maps counts alone.
#[tokio::test]
async fn nested_columns_have_ids_counts_and_bounds_as_iceberg_has_them() {
    let list = |element| ColumnType::list(element, true).unwrap();
    let structure = ColumnType::structure([
        ("a".to_owned(), ColumnType::Int16, true),
        ("f".to_owned(), list(ColumnType::Float64), true),
        ("u".to_owned(), ColumnType::Uuid, true),
    ]);
    let map = ColumnType::map(ColumnType::String, list(ColumnType::UInt32), true).unwrap();
    let columns = [("id", ColumnType::Int64), ("s", structure.unwrap()), ("m", map), ("l", list(ColumnType::Float32))];
    let schema = TableSchema::new(columns.map(|(name, kind)| (name.to_owned(), kind, true))).unwrap();
    let descriptor = TableDescriptor { schema: schema.clone(), ..descriptor(1, &[]) };
    let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
    let text = r#"{"id":1,"s":{"a":-5,"f":[1.5,"NaN"],"u":"0189dd5c-a2a5-7d1e-9a4c-0242ac120002"},"m":[["k",[1,null]],["l",[]]],"l":[0.5]}
{"id":2,"s":{"a":7,"f":[],"u":null},"m":[],"l":["NaN",1.5]}
{"id":3,"s":{"a":null,"f":null},"m":null,"l":[]}
{"id":4,"s":null,"m":[["z",null]],"l":null}"#;
    let options = thermocline_schemas::text::DecodeOptions::default();
    let lines = thermocline_schemas::text::JsonShape::Lines;
    let rows = thermocline_schemas::text::decode_json(&schema, text.as_bytes(), lines, &options).unwrap();
    let lake = table.arrow_schema();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (column, field) in rows.columns().iter().zip(lake.fields()) {
        arrays.push(thermocline_schemas::fitted_values(column, field.data_type()).unwrap());
    }
    arrays.push(Arc::new(Int32Array::from(vec![0; 4])));
    arrays.push(Arc::new(Int64Array::from(vec![0, 1, 2, 3])));
    arrays.push(Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3, 4]).with_timezone("UTC")));
    let commit_id = Uuid::new_v4();
    let mut writer = table.file_writer(commit_id, bucket(0)).unwrap();
    writer.write(RecordBatch::try_new(lake.clone(), arrays).unwrap()).await.unwrap();
    let file = writer.finish().await.unwrap();
    let described = file.data_file.clone();
    let end = Offsets::from_iter([(bucket(0), Offset(4))]);
    let append = Append {
        commit_id,
        start: Offsets::default(),
        end,
        files: vec![file],
        ended: None,
        log_starts: Offsets::default(),
        stamps: None,
    };
    let version = committed(table.append(&append).await.unwrap());

    // The columns are 1 to 4, the system's 5 to 7; then s: a 8, f 9, u 10, f's element 11; m: 12, 13, 14; l: 15.
    let current = version.metadata.current_schema();
    for (name, id) in [
        ("s.a", 8),
        ("s.f", 9),
        ("s.u", 10),
        ("s.f.element", 11),
        ("m.key", 12),
        ("m.value", 13),
        ("m.value.element", 14),
        ("l.element", 15),
    ] {
        assert_eq!(current.field_id_by_name(name), Some(id), "{name}");
    }
    assert_eq!(schema.last_id(), FieldId(15));
    // Values and nulls with the places of lists that are empty or null.
    let counts = [(8, 4, 2), (10, 4, 4), (11, 5, 3), (12, 5, 2), (14, 6, 5), (15, 5, 2)];
    for (id, values, nulls) in counts {
        assert_eq!(described.value_counts().get(&id), Some(&values), "values of {id}");
        if id != 10 {
            assert_eq!(described.null_value_counts().get(&id), Some(&nulls), "nulls of {id}");
        }
        assert!(described.column_sizes().contains_key(&id), "{id}");
    }
    assert_eq!(described.nan_value_counts(), &[(11, 1), (15, 1)].into());
    let bounded = |bounds: &std::collections::HashMap<i32, iceberg::spec::Datum>| {
        let mut ids: Vec<_> = bounds.keys().copied().collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(bounded(described.lower_bounds()), [1, 5, 6, 7, 8]);
    assert_eq!(bounded(described.upper_bounds()), [1, 5, 6, 7, 8]);

    // The file says the same ids, and calls things as Iceberg does.
    let files = table.data_files(&version).await.unwrap();
    let opened =
        super::super::read::open(table.warehouse().store(), &files[0], parquet::file::metadata::PageIndexPolicy::Skip);
    let opened = opened.await.unwrap();
    let found: Vec<_> = opened
        .parquet_schema()
        .columns()
        .iter()
        .map(|column| (column.path().string(), column.self_type().get_basic_info().id()))
        .collect();
    let found: Vec<_> = found.iter().map(|(path, id)| (path.as_str(), *id)).collect();
    assert_eq!(
        found[..7],
        [
            ("id", 1),
            ("s.a", 8),
            ("s.f.list.element", 11),
            ("s.u", 10),
            ("m.key_value.key", 12),
            ("m.key_value.value.list.element", 14),
            ("l.list.element", 15),
        ]
    );
    let read: Vec<_> =
        futures::TryStreamExt::try_collect(table.read_file(&files[0], &schema, Offset(0)).await.unwrap())
            .await
            .unwrap();
    assert_eq!(read[0].batch, rows);
    table.check_file(&files[0], &schema).await.unwrap();
}
