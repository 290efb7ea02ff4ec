//! Partitions as the lake spells them: made by Iceberg's own transforms, and found again.

use arrow::array::{Decimal128Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use iceberg::spec::{Datum, Literal, Transform};
use proptest::prelude::*;
use thermocline_schemas::{BucketId, PartitionId, PartitionValues, partition_rows};

use super::super::layout::LakeLayout;
use super::*;

/// Each transform of each kind of column, as a property and as Iceberg's.
fn transforms() -> Vec<(&'static str, ColumnType, Transform)> {
    use ColumnType::*;
    let mut all = Vec::new();
    let price = Decimal { precision: 20, scale: 3 };
    let numbers = [Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, price];
    for kind in numbers.into_iter().chain([String]) {
        all.push(("truncate(7, c)", kind.clone(), Transform::Truncate(7)));
    }
    let instants = [Timestamp, TimestampTz, TimestampNs, TimestampTzNs];
    for kind in instants.iter().cloned().chain([Date]) {
        all.push(("year(c)", kind.clone(), Transform::Year));
        all.push(("month(c)", kind.clone(), Transform::Month));
        all.push(("day(c)", kind.clone(), Transform::Day));
    }
    // The library does not count hours of nanoseconds; the specification does.
    all.extend(instants[..2].iter().cloned().map(|kind| ("hour(c)", kind, Transform::Hour)));
    let bucketed =
        [Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, Decimal { precision: 20, scale: 3 }, String, Date];
    for kind in bucketed.into_iter().chain(instants).chain([Time]) {
        all.push(("c", kind.clone(), Transform::Identity));
        all.push(("bucket(5, c)", kind, Transform::Bucket(5)));
    }
    all.push(("c", Boolean, Transform::Identity));
    all
}

fn partitioned(partition_by: &str, column: ColumnType, properties: &[(&str, &str)]) -> TableDescriptor {
    let schema =
        TableSchema::new([("c".to_owned(), column, true), ("id".to_owned(), ColumnType::Int64, false)]).unwrap();
    let own = [("partition_by", partition_by), ("format_version", "3")];
    let properties = Properties::parse(properties.iter().copied().chain(own)).unwrap();
    TableDescriptor::new(TableId(1), TableName::parse("shop", "p").unwrap(), schema, &[], properties, 1_000).unwrap()
}

/// Our values of a column, of which Iceberg's transform says the same.
fn compare(partition_by: &str, column_type: ColumnType, transform: Transform, column: &ArrayRef) {
    let descriptor = partitioned(partition_by, column_type.clone(), &[]);
    let (values, numbers) = partition_rows(&descriptor.partitioning, |_| Some(column)).unwrap();
    let descriptor = descriptor.with_partitions(&values).unwrap();
    let layout = LakeLayout::new(&descriptor).unwrap();
    let theirs = iceberg::transform::create_transform_function(&transform).unwrap();
    let lake = cast(column, &column_type.lake_arrow()).unwrap();
    let theirs = theirs.transform(lake).unwrap();
    for (row, number) in numbers.into_iter().enumerate() {
        let at = PartitionBucket { partition: PartitionId(number), bucket: BucketId(0) };
        let ours = layout.partition(at).unwrap();
        let theirs = literal(&theirs, row);
        assert_eq!(ours.fields(), [theirs], "{partition_by} of {column_type}: {:?}", column.slice(row, 1));
        assert_eq!(layout.bucket_of(&ours), Some(at));
    }
}

fn literal(values: &ArrayRef, row: usize) -> Option<Literal> {
    use arrow::array::Array;
    if values.is_null(row) {
        return None;
    }
    let whole = |to: &DataType| cast(values, to).unwrap();
    Some(match values.data_type() {
        DataType::Boolean => Literal::bool(values.as_boolean().value(row)),
        DataType::Utf8 => Literal::string(values.as_string::<i32>().value(row)),
        DataType::Decimal128(_, _) => {
            Literal::decimal(values.as_primitive::<arrow::datatypes::Decimal128Type>().value(row))
        }
        DataType::Int32 | DataType::Date32 => {
            Literal::int(whole(&DataType::Int32).as_primitive::<arrow::datatypes::Int32Type>().value(row))
        }
        _ => Literal::long(whole(&DataType::Int64).as_primitive::<Int64Type>().value(row)),
    })
}

/// A number as a value of a column, if it can be one.
fn column_of(kind: &ColumnType, numbers: &[i64], texts: &[String]) -> ArrayRef {
    let data_type = kind.arrow();
    let given: ArrayRef = match kind {
        ColumnType::String => Arc::new(StringArray::from_iter_values(texts)),
        ColumnType::Boolean => {
            Arc::new(numbers.iter().map(|number| Some(number % 2 == 0)).collect::<arrow::array::BooleanArray>())
        }
        ColumnType::Decimal { .. } => {
            let values = numbers.iter().map(|number| i128::from(*number)).collect::<Vec<_>>();
            Arc::new(Decimal128Array::from(values).with_data_type(data_type.clone()))
        }
        ColumnType::Date => Arc::new(Int32Array::from_iter_values(numbers.iter().map(|number| *number as i32))),
        ColumnType::Time => {
            Arc::new(Int64Array::from_iter_values(numbers.iter().map(|number| number.rem_euclid(86_400_000_000))))
        }
        _ => Arc::new(Int64Array::from_iter_values(numbers.iter().copied())),
    };
    // Numbers that are too large for it become null.
    let column = cast(&given, &data_type).unwrap();
    arrow::compute::concat(&[&column, &new_null_array(&data_type, 1)]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn values_are_those_of_icebergs_transforms(
        numbers in prop::collection::vec(prop_oneof![any::<i64>(), -200_i64..200, -70_000_i64..70_000, -3_000_000_000_000_000_i64..3_000_000_000_000_000], 1..20),
        texts in prop::collection::vec(".{0,12}", 1..20),
    ) {
        for (partition_by, kind, transform) in transforms() {
            // The library's dates end where years have more than six digits.
            let dates = matches!(kind, ColumnType::Date);
            let numbers: Vec<_> = numbers.iter().map(|number| if dates { number % 1_000_000 } else { *number }).collect();
            let numbers: Vec<_> = match (&kind, transform) {
                (ColumnType::Timestamp | ColumnType::TimestampTz, _) => {
                    numbers.iter().map(|number| number / 10_000).collect()
                }
                // Before 1970 the library rounds to microseconds upwards; the specification, and Java, downwards.
                (ColumnType::TimestampNs | ColumnType::TimestampTzNs, Transform::Bucket(_)) => {
                    numbers.iter().map(|number| number.saturating_abs()).collect()
                }
                _ => numbers,
            };
            compare(partition_by, kind.clone(), transform, &column_of(&kind, &numbers, &texts));
        }
    }
}

#[tokio::test]
async fn files_lie_in_their_partition_and_are_found_by_it() {
    let warehouse = in_memory();
    let first = partitioned("c, bucket(4, id)", ColumnType::String, &[("buckets", "2"), ("bucket_key", "id")]);
    let table = LakeTable::create_or_open(&warehouse, &first).await.unwrap();
    let spec = table.current().metadata.default_partition_spec().clone();
    let fields: Vec<_> = spec.fields().iter().map(|field| (field.name.as_str(), field.transform)).collect();
    assert_eq!(
        fields,
        [("c", Transform::Identity), ("id_bucket", Transform::Bucket(4)), ("__id_bucket", Transform::Bucket(2))]
    );
    let text = |text: Option<&str>, bucket| -> PartitionValues {
        use thermocline_schemas::PartitionValue::*;
        vec![text.map(|text| Text(text.to_owned())), Some(Integer(bucket))]
    };
    let grown = first.with_partitions(&[text(Some("a/b 7%"), 3), text(None, 0)]).unwrap();
    assert!(table.layout().partition(bucket(0)).is_err(), "it has not heard of them");
    table.adopt(&grown).unwrap();
    let layout = table.layout();
    let places = [(0, 1), (1, 0)]
        .map(|(partition, number)| PartitionBucket { partition: PartitionId(partition), bucket: BucketId(number) });
    assert_eq!(layout.partition_directory(places[0]).unwrap(), "c=a_2Fb_207_25/id_bucket=3/__id_bucket=1/");
    assert_eq!(layout.partition_directory(places[1]).unwrap(), "c=null/id_bucket=0/__id_bucket=0/");
    for place in places {
        assert_eq!(layout.bucket_of(&layout.partition(place).unwrap()), Some(place));
    }
    let datum = Datum::string("other");
    let stranger = [Some(Literal::Primitive(datum.literal().clone())), Some(Literal::int(0)), Some(Literal::int(0))];
    assert_eq!(layout.bucket_of(&stranger.into_iter().collect()), None);
    // What knows fewer partitions does not take its place.
    table.adopt(&first).unwrap();
    assert!(table.layout().partition(places[1]).is_ok());
}
