//! Tables that change under rounds, rewrites and followers; what their lakes say of it.

use iceberg::spec::{NestedField, PrimitiveType, TableMetadata, TableMetadataBuilder, Type};
use thermocline_schemas::text::JsonEncoder;
use thermocline_schemas::{Alteration, Place};

use super::*;

fn add(name: &str, column_type: ColumnType) -> Alteration {
    let (name, if_not_exists) = (name.to_owned(), false);
    Alteration::Add { name, column_type, nullable: true, default: None, place: None, if_not_exists }
}

fn changes_of_columns() -> Vec<Alteration> {
    vec![
        Alteration::Rename { from: "text".to_owned(), to: "word".to_owned() },
        add("text", ColumnType::Int32),
        Alteration::SetType { name: "small".to_owned(), column_type: ColumnType::Int64 },
        Alteration::Move { name: "word".to_owned(), place: Place::First },
    ]
}

async fn alter(node: &Node, alterations: &[Alteration]) -> Arc<Table> {
    node.engine.alter_table(&node.table.descriptor().name, alterations, false).await.unwrap().unwrap()
}

/// Field id, name and type of each column of the lake's current schema.
fn columns(metadata: &TableMetadata) -> Vec<(i32, String, String)> {
    let fields = metadata.current_schema().as_struct().fields().iter();
    fields.map(|field| (field.id, field.name.clone(), field.field_type.to_string())).collect()
}

fn named(columns: &[(i32, &str, &str)]) -> Vec<(i32, String, String)> {
    columns.iter().map(|(id, name, kind)| (*id, (*name).to_owned(), (*kind).to_owned())).collect()
}

const SYSTEM: [(i32, &str, &str); 3] =
    [(4, "__bucket", "int"), (5, "__offset", "long"), (6, "__timestamp", "timestamptz")];

async fn metadata(node: &Node) -> Arc<TableMetadata> {
    let lake = node.tiering.table_lake(&node.table).published.load().lake.clone().unwrap().0;
    lake.refresh().await.unwrap().metadata.clone()
}

#[tokio::test]
async fn the_lake_follows_with_the_next_round_and_with_one_that_has_no_rows() {
    let node = start(&MemoryDisk::new(), &memory(), &[("buckets", "2"), ("bucket_key", "id")], eager()).await;
    node.append(0, 10).await;
    node.tiering.tier(&node.table).await.unwrap();
    let first = [(1, "id", "long"), (2, "small", "int"), (3, "text", "string")];
    assert_eq!(columns(&*metadata(&node).await), named(&[&first[..], &SYSTEM].concat()));
    alter(&node, &changes_of_columns()).await;
    assert_eq!(columns(&*metadata(&node).await), named(&[&first[..], &SYSTEM].concat()), "no round has come");
    // Rows of a writer that has the older columns.
    node.append(10, 20).await;
    node.tiering.tier(&node.table).await.unwrap();
    let second = [(3, "word", "string"), (1, "id", "long"), (2, "small", "long"), (7, "text", "int")];
    assert_eq!(columns(&*metadata(&node).await), named(&[&second[..], &SYSTEM].concat()));
    let newest = alter(&node, &[Alteration::Drop { name: "text".to_owned(), if_exists: false }]).await;
    let snapshot = metadata(&node).await.current_snapshot_id();
    let report = node.tiering.tier(&node.table).await.unwrap();
    assert_eq!((report.rows, report.snapshot_id), (0, snapshot));
    let last = metadata(&node).await;
    assert_eq!(columns(&last), named(&[&second[..3], &SYSTEM].concat()));
    assert_eq!((last.schemas_iter().count(), last.last_column_id()), (3, 7));
    assert_eq!(last.default_partition_spec().fields()[0].name, "id_bucket");
    // What is written anew has the newest columns, and the rows are the same.
    let files = |node: &Node| {
        let lake = node.tiering.table_lake(&node.table).published.load().lake.clone().unwrap();
        async move { lake.0.data_files(&lake.1).await.unwrap().len() }
    };
    alter(&node, &[add("late", ColumnType::Float64)]).await;
    while node.tiering.compact(&node.table).await.unwrap().replaced > 0 {}
    assert_eq!((files(&node).await, columns(&*metadata(&node).await).len()), (4, 7), "too few files to write anew");
    for part in 2..5 {
        node.append(part * 10, part * 10 + 10).await;
        node.tiering.tier(&node.table).await.unwrap();
    }
    let before = told(&node, FollowFrom::Earliest).await;
    let before_files = files(&node).await;
    while node.tiering.compact(&node.table).await.unwrap().replaced > 0 {}
    assert!(files(&node).await < before_files);
    assert_eq!(told(&node, FollowFrom::Earliest).await, before);
    assert_eq!(before.len(), 50);
    assert!(newest.descriptor().schema.id < node.engine.newest(&node.table).descriptor().schema.id);
}

/// What a follower that ends tells, in the order of bucket and offset.
async fn told(node: &Node, from: FollowFrom) -> Vec<String> {
    let followed = node.tiering.follow(&node.table, from, FollowOptions { follow: false }).await.unwrap();
    let mut told: Vec<_> = followed.batches.map(|batch| objects(&batch.unwrap())).collect::<Vec<_>>().await.concat();
    told.sort();
    told.into_iter().map(|(_, _, object)| object).collect()
}

fn objects(changes: &ChangeBatch) -> Vec<(u32, u64, String)> {
    let mut encoder = JsonEncoder::new(changes.batch.schema_ref()).unwrap();
    let object = |row: usize| {
        let mut out = Vec::new();
        encoder.write_object(&changes.batch, row, &mut out).unwrap();
        (changes.bucket.bucket.0, changes.first.0 + row as u64, String::from_utf8(out).unwrap())
    };
    (0..changes.batch.num_rows()).map(object).collect()
}

#[tokio::test]
async fn a_follower_has_the_columns_of_the_moment_cold_hot_and_live() {
    let node = start(&MemoryDisk::new(), &memory(), &[], manual()).await;
    node.append(0, 2).await;
    node.tiering.tier(&node.table).await.unwrap();
    let floors = vec![(PartitionBucket::unpartitioned(0), Offset(2))];
    node.engine.trim(&node.table, floors).await.unwrap();
    node.append(2, 3).await;
    let options = FollowOptions { follow: true };
    let mut followed = node.tiering.follow(&node.table, FollowFrom::Earliest, options).await.unwrap().batches;
    let mut next = async || {
        let batch = tokio::time::timeout(Duration::from_secs(20), followed.next()).await.unwrap().unwrap().unwrap();
        objects(&batch).into_iter().map(|(_, _, object)| object).collect::<Vec<_>>()
    };
    let first = |id: i64, small: &str| format!(r#"{{"id":{id},"small":{small},"text":"row {id}"}}"#);
    assert_eq!(next().await, [first(0, "null"), first(1, "1")]);
    assert_eq!(next().await, [first(2, "2")]);
    alter(&node, &changes_of_columns()).await;
    // Of a writer that does not know of it.
    node.append(3, 4).await;
    let second = |id: i64, small: &str| format!(r#"{{"word":"row {id}","id":{id},"small":{small},"text":null}}"#);
    assert_eq!(next().await, [second(3, "null")]);
    let all = [second(0, "null"), second(1, "1"), second(2, "2"), second(3, "null")];
    assert_eq!(told(&node, FollowFrom::Earliest).await, all);
}

/// Whatever was written in a column is in it, when rounds and alterations meet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_loses_no_value_of_a_column_that_comes_under_it() {
    let node = Arc::new(start(&MemoryDisk::new(), &memory(), &[], manual()).await);
    let name = node.table.descriptor().name.clone();
    let rounds = tokio::spawn({
        let node = node.clone();
        async move {
            // As the scheduler does: with the table that there is when it looks.
            while !node.table.is_dropped() {
                let table = node.engine.newest(&node.table);
                let _ = node.tiering.tier(&table).await;
            }
        }
    });
    for turn in 0..30 {
        let column = format!("c{turn}");
        let table = alter(&node, &[add(&column, ColumnType::Int64)]).await;
        let mut columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![turn])),
            arrow::array::new_null_array(&arrow::datatypes::DataType::Int16, 1),
            Arc::new(StringArray::from(vec!["text"])),
        ];
        columns.push(Arc::new(Int64Array::from(vec![turn])));
        let rows = RecordBatch::try_new(table.schema().clone(), columns).unwrap();
        node.engine.append(&table, rows, Sender::default()).await.unwrap();
        node.tiering.tier(&table).await.unwrap();
        let last = told(&node, FollowFrom::Earliest).await.pop().unwrap();
        let floors = vec![(PartitionBucket::unpartitioned(0), table.ends().end(PartitionBucket::unpartitioned(0)))];
        node.engine.trim(&table, floors).await.unwrap();
        let cold = told(&node, FollowFrom::Earliest).await.pop().unwrap();
        assert!(last.ends_with(&format!(r#""{column}":{turn}}}"#)), "{last}");
        assert_eq!(cold, last);
        alter(&node, &[Alteration::Drop { name: column, if_exists: false }]).await;
    }
    node.engine.drop_table(&name, false, false).await.unwrap();
    rounds.await.unwrap();
}

#[tokio::test]
async fn a_column_of_others_keeps_ours_from_changing_until_it_is_gone() {
    let warehouse = memory();
    let node = start(&MemoryDisk::new(), &warehouse, &[], manual()).await;
    node.append(0, 2).await;
    node.tiering.tier(&node.table).await.unwrap();
    let metadata = metadata(&node).await;
    let theirs = NestedField::optional(7, "theirs", Type::Primitive(PrimitiveType::String)).into();
    let fields = metadata.current_schema().as_struct().fields().iter().cloned().chain([theirs]);
    let schema = iceberg::spec::Schema::builder().with_fields(fields).build().unwrap();
    let builder = (*metadata).clone().into_builder(None).add_schema(schema).unwrap();
    let built = builder.set_current_schema(TableMetadataBuilder::LAST_ADDED).unwrap().build().unwrap().metadata;
    let place = object_store::path::Path::from("public/t/metadata/v3.metadata.json");
    let bytes = serde_json::to_vec(&built).unwrap();
    object_store::ObjectStoreExt::put(warehouse.store(), &place, bytes.into()).await.unwrap();
    // As long as ours stay as they are, theirs may be there.
    node.append(2, 4).await;
    node.tiering.tier(&node.table).await.unwrap();
    alter(&node, &[add("ours", ColumnType::Int32)]).await;
    let refused = node.tiering.tier(&node.table).await.unwrap_err();
    assert_eq!(refused.code(), Code::LakeConflict);
    assert!(refused.to_string().contains("theirs"), "{refused}");
    assert_eq!(told(&node, FollowFrom::Earliest).await.len(), 4);
}
