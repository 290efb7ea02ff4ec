//! Tables that change under their rows, writers and readers.

use thermocline_schemas::text::{DecodeOptions, JsonEncoder, JsonShape, decode_json};
use thermocline_schemas::{Alteration, ChangeKind, Place};

use super::*;

const BUCKET: PartitionBucket =
    PartitionBucket { partition: thermocline_schemas::PartitionId(0), bucket: thermocline_schemas::BucketId(0) };

fn add(name: &str, column_type: ColumnType) -> Alteration {
    let (name, if_not_exists) = (name.to_owned(), false);
    Alteration::Add { name, column_type, nullable: true, default: None, place: None, if_not_exists }
}

fn not_null(name: &str, default: Option<&str>) -> Alteration {
    let (name, default) = (name.to_owned(), default.map(str::to_owned));
    let column_type = ColumnType::Int32;
    Alteration::Add { name, column_type, nullable: false, default, place: None, if_not_exists: false }
}

fn rename(from: &str, to: &str) -> Alteration {
    Alteration::Rename { from: from.to_owned(), to: to.to_owned() }
}

async fn alter(engine: &Engine, alterations: &[Alteration]) -> Arc<Table> {
    engine.alter_table(&name("t"), alterations, false).await.unwrap().unwrap()
}

async fn create(engine: &Engine, key: &[&str], properties: &[(&str, &str)]) -> Arc<Table> {
    let columns =
        [("id", ColumnType::Int64, false), ("n", ColumnType::Int16, true), ("text", ColumnType::String, true)];
    let schema = TableSchema::new(columns.map(|(name, kind, null)| (name.to_owned(), kind, null))).unwrap();
    let properties = Properties::parse(properties.iter().copied().chain([("lake_enabled", "false")])).unwrap();
    let key: Vec<_> = key.iter().map(|name| (*name).to_owned()).collect();
    engine.create_table(name("t"), schema, &key, properties, false).await.unwrap()
}

/// Sends JSON lines in the columns of this version of the table.
async fn send(engine: &Engine, table: &Arc<Table>, lines: &str, sender: Sender) -> Result<Answer> {
    let descriptor = table.descriptor();
    let options = DecodeOptions::default();
    if !descriptor.is_keyed() {
        let rows = decode_json(&descriptor.schema, lines.as_bytes(), JsonShape::Lines, &options).unwrap();
        return engine.append(table, rows, sender).await;
    }
    let columns = descriptor.schema.for_changes(&descriptor.key);
    let rows = decode_json(&columns, lines.as_bytes(), JsonShape::Lines, &options).unwrap();
    engine.change(table, ChangeRows::from_upload(descriptor, &rows, Change::Upsert).unwrap(), sender).await
}

async fn put(engine: &Engine, table: &Arc<Table>, lines: &str) {
    send(engine, table, lines, Sender::default()).await.unwrap();
}

/// All hot rows in the table's columns, as JSON; with a key, after what happened.
fn told(table: &Table) -> Vec<String> {
    let (floor, end) = (table.bucket(BUCKET).unwrap().trim_floor(), table.ends().end(BUCKET));
    let mut told = Vec::new();
    for rows in table.hot_rows(BUCKET, floor, end).unwrap() {
        for batch in rows.read(None) {
            let batch = batch.unwrap();
            for (row, object) in objects(&batch.batch).into_iter().enumerate() {
                let kind = batch.kinds().map(|kinds| ChangeKind::from_code(kinds.value(row)).unwrap());
                told.push(format!("{}{object}", kind.map_or("", ChangeKind::symbol)));
            }
            // A part of the columns is the same as that part of all of them.
            for column in 0..batch.batch.num_columns() {
                let part: Vec<_> = rows.read(Some(&[column])).map(|batch| batch.unwrap().batch).collect();
                let whole: Vec<_> =
                    rows.read(None).map(|batch| batch.unwrap().batch.project(&[column]).unwrap()).collect();
                assert_eq!(part, whole);
            }
        }
    }
    told
}

fn objects(rows: &RecordBatch) -> Vec<String> {
    let mut encoder = JsonEncoder::new(rows.schema_ref()).unwrap();
    let mut object = |row| {
        let mut out = Vec::new();
        encoder.write_object(rows, row, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    (0..rows.num_rows()).map(&mut object).collect()
}

#[tokio::test]
async fn rows_of_every_version_are_read_in_the_columns_of_each() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let first = create(&engine, &[], &[]).await;
    put(&engine, &first, r#"{"id":1,"n":7,"text":"a"}"#).await;
    let wider = Alteration::SetType { name: "n".to_owned(), column_type: ColumnType::Int64 };
    let front = Alteration::Move { name: "n".to_owned(), place: Place::First };
    let second = alter(&engine, &[rename("text", "word"), wider, add("text", ColumnType::Float64), front]).await;
    put(&engine, &second, r#"{"id":2,"n":5000000000,"word":"b","text":1.5}"#).await;
    // A writer that has the older columns goes on.
    put(&engine, &first, r#"{"id":3,"n":8,"text":"c"}"#).await;
    let third = alter(&engine, &[Alteration::Drop { name: "word".to_owned(), if_exists: false }]).await;
    put(&engine, &third, r#"{"id":4,"n":9}"#).await;
    let in_second = [
        r#"{"n":7,"id":1,"word":"a","text":null}"#,
        r#"{"n":5000000000,"id":2,"word":"b","text":1.5}"#,
        r#"{"n":8,"id":3,"word":"c","text":null}"#,
        r#"{"n":9,"id":4,"word":null,"text":null}"#,
    ];
    let in_third = [
        r#"{"n":7,"id":1,"text":null}"#,
        r#"{"n":5000000000,"id":2,"text":1.5}"#,
        r#"{"n":8,"id":3,"text":null}"#,
        r#"{"n":9,"id":4,"text":null}"#,
    ];
    assert_eq!(
        (told(&second), told(&third)),
        (in_second.map(str::to_owned).to_vec(), in_third.map(str::to_owned).to_vec())
    );
    // What became wider does not fit into the older column, and nobody gets another value.
    let end = first.ends().end(BUCKET);
    let read: Vec<_> = first
        .hot_rows(BUCKET, Offset(0), end)
        .unwrap()
        .iter()
        .flat_map(|rows| rows.read(None).collect::<Vec<_>>())
        .collect();
    assert!(read.iter().any(|batch| batch.as_ref().is_err_and(|error| error.code() == Code::WriteConflict)));
    let restarted = |disk: &Arc<MemoryDisk>| {
        let engine = open(disk).unwrap();
        let table = engine.table(&name("t")).unwrap();
        assert_eq!(table.descriptor(), third.descriptor());
        assert_eq!(told(&table), in_third);
        (engine, table)
    };
    engine.close();
    // From the journal alone; from segments, one a version; from a checkpoint with segments.
    let (engine, table) = restarted(&disk);
    assert!(!engine.carry(&table).await.unwrap(), "rows of several versions are not one frame");
    for _ in 0..4 {
        engine.seal(&table).await.unwrap();
    }
    assert_eq!(told(&table), in_third);
    engine.close();
    let (engine, _) = restarted(&disk);
    engine.checkpoint().await.unwrap();
    engine.close();
    let (engine, table) = restarted(&disk);
    put(&engine, &table, r#"{"id":5}"#).await;
    engine.close();
}

#[tokio::test]
async fn changes_tell_whole_rows_whoever_makes_them_in_whatever_columns() {
    for changelog in ["full", "upsert"] {
        let disk = MemoryDisk::new();
        let engine = open(&disk).unwrap();
        let first = create(&engine, &["id"], &[("changelog", changelog)]).await;
        put(&engine, &first, r#"{"id":1,"n":7,"text":"a"}"#).await;
        put(&engine, &first, r#"{"id":2,"n":8,"text":"b"}"#).await;
        let key_last = Alteration::Move { name: "id".to_owned(), place: Place::After("text".to_owned()) };
        let second = alter(&engine, &[add("more", ColumnType::String), key_last]).await;
        put(&engine, &second, r#"{"id":2,"n":9,"text":"c","more":"x"}"#).await;
        // Who does not know of a column deletes and replaces rows that have it.
        put(&engine, &first, r#"{"__change":"delete","id":2}"#).await;
        put(&engine, &second, r#"{"id":1,"n":1,"text":"d","more":"y"}"#).await;
        put(&engine, &first, r#"{"id":1,"n":2,"text":"e"}"#).await;
        let expected = match changelog {
            "full" => vec![
                r#"+I{"n":7,"text":"a","id":1,"more":null}"#,
                r#"+I{"n":8,"text":"b","id":2,"more":null}"#,
                r#"-U{"n":8,"text":"b","id":2,"more":null}"#,
                r#"+U{"n":9,"text":"c","id":2,"more":"x"}"#,
                r#"-D{"n":9,"text":"c","id":2,"more":"x"}"#,
                r#"-U{"n":7,"text":"a","id":1,"more":null}"#,
                r#"+U{"n":1,"text":"d","id":1,"more":"y"}"#,
                r#"-U{"n":1,"text":"d","id":1,"more":"y"}"#,
                r#"+U{"n":2,"text":"e","id":1,"more":null}"#,
            ],
            _ => vec![
                r#"+U{"n":7,"text":"a","id":1,"more":null}"#,
                r#"+U{"n":8,"text":"b","id":2,"more":null}"#,
                r#"+U{"n":9,"text":"c","id":2,"more":"x"}"#,
                r#"-D{"n":9,"text":"c","id":2,"more":"x"}"#,
                r#"+U{"n":1,"text":"d","id":1,"more":"y"}"#,
                r#"+U{"n":2,"text":"e","id":1,"more":null}"#,
            ],
        };
        assert_eq!(told(&second), expected);
        let key = || vec![Arc::new(Int64Array::from(vec![1, 2])) as arrow::array::ArrayRef];
        for _ in 0..2 {
            let found = engine.lookup(&second, key()).await.unwrap();
            assert_eq!(
                (found.counts, objects(&found.rows)),
                (vec![1, 0], vec![r#"{"n":2,"text":"e","id":1,"more":null}"#.to_owned()])
            );
            let found = engine.lookup(&first, key()).await.unwrap();
            assert_eq!(objects(&found.rows), [r#"{"id":1,"n":2,"text":"e"}"#]);
            engine.seal(&second).await.unwrap();
        }
        engine.close();
        let engine = open(&disk).unwrap();
        let table = engine.table(&name("t")).unwrap();
        assert_eq!(told(&table), expected);
        put(&engine, &table, r#"{"id":1,"n":3,"text":"f","more":"z"}"#).await;
        assert_eq!(engine.lookup(&table, key()).await.unwrap().counts, [1, 0]);
        engine.close();
    }
}

#[tokio::test]
async fn a_request_sent_twice_is_known_again_in_other_columns() {
    for key in [&[][..], &["id"]] {
        let disk = MemoryDisk::new();
        let engine = open(&disk).unwrap();
        let first = create(&engine, key, &[]).await;
        let lines = r#"{"id":1,"n":7,"text":"a"}"#;
        let answer = send(&engine, &first, lines, writer(0)).await.unwrap();
        let wider = Alteration::SetType { name: "n".to_owned(), column_type: ColumnType::Int64 };
        let with_default = Alteration::SetDefault { name: "more".to_owned(), default: Some("x".to_owned()) };
        let front = Alteration::Move { name: "text".to_owned(), place: Place::First };
        let second = alter(
            &engine,
            &[wider, add("more", ColumnType::String), with_default, add("last", ColumnType::Date), front],
        )
        .await;
        for table in [&second, &first] {
            let again = send(&engine, table, lines, writer(0)).await.unwrap();
            assert_eq!((again.duplicate, &again.buckets), (true, &answer.buckets));
        }
        let other = send(&engine, &second, r#"{"id":1,"n":7,"text":"a","more":"y"}"#, writer(0)).await.unwrap_err();
        assert_eq!(other.code(), Code::SequenceReused);
        // Some rows name the column, and its default changes before they come again.
        let lines = r#"{"id":2,"more":"z"}
{"id":3}"#;
        let answer = send(&engine, &second, lines, writer(1)).await.unwrap();
        let third = alter(&engine, &[Alteration::SetDefault { name: "more".to_owned(), default: None }]).await;
        let again = send(&engine, &third, lines, writer(1)).await.unwrap();
        assert_eq!((again.duplicate, &again.buckets), (true, &answer.buckets));
        engine.close();
    }
}

#[tokio::test]
async fn a_field_that_is_not_null_comes_only_to_a_table_without_rows() {
    for key in [&[][..], &["id"]] {
        let engine = open(&MemoryDisk::new()).unwrap();
        create(&engine, key, &[]).await;
        let one = ColumnType::structure([("a".to_owned(), ColumnType::Int32, true)]).unwrap();
        let second = alter(&engine, &[add("s", one)]).await;
        let third = alter(&engine, &[not_null("s.b", None)]).await;
        let late = send(&engine, &second, r#"{"id":1,"s":{"a":1}}"#, Sender::default()).await.unwrap_err();
        assert_eq!(late.code(), Code::WriteConflict, "{late}");
        put(&engine, &third, r#"{"id":1,"s":{"a":1,"b":2}}"#).await;
        let refused = engine.alter_table(&name("t"), &[not_null("s.c", None)], false).await.unwrap_err();
        assert_eq!((refused.code(), refused.column()), (Code::InvalidType, Some("s.c")));
        let fourth = alter(&engine, &[Alteration::DropNotNull { name: "s.b".to_owned() }]).await;
        put(&engine, &fourth, r#"{"id":2,"s":{"a":1}}"#).await;
        assert_eq!(told(&fourth).len(), 2);
        engine.close();
    }
}

#[tokio::test]
async fn a_column_that_is_not_null_comes_only_to_a_table_without_rows() {
    for key in [&[][..], &["id"]] {
        let engine = open(&MemoryDisk::new()).unwrap();
        let first = create(&engine, key, &[]).await;
        let second = alter(&engine, &[not_null("more", Some("5"))]).await;
        // Accepted before, given its place after.
        let late = send(&engine, &first, r#"{"id":1,"n":7,"text":"a"}"#, Sender::default()).await.unwrap_err();
        assert_eq!(late.code(), Code::WriteConflict);
        put(&engine, &second, r#"{"id":1}"#).await;
        let refused = engine.alter_table(&name("t"), &[not_null("other", Some("5"))], false).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidType);
        let third = alter(&engine, &[add("other", ColumnType::Int32)]).await;
        put(&engine, &second, r#"{"id":2,"more":6}"#).await;
        let kind = if key.is_empty() { "" } else { "+I" };
        assert_eq!(
            told(&third),
            [(1, 5), (2, 6)]
                .map(|(id, more)| format!(r#"{kind}{{"id":{id},"n":null,"text":null,"more":{more},"other":null}}"#))
        );
        assert_eq!(engine.alter_table(&name("nothing"), &[], true).await.unwrap().map(|_| ()), None);
        engine.close();
    }
}

/// Columns come and go while rows are written and replaced: each row keeps what was written of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn columns_come_and_go_while_rows_are_written() {
    for key in [&[][..], &["id"]] {
        let disk = MemoryDisk::new();
        let engine = open(&disk).unwrap();
        let table = create(&engine, key, &[]).await;
        put(&engine, &table, r#"{"id":-1}"#).await;
        let writers = (0..4).map(|writer| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for round in 0..60 {
                    let table = engine.table(&name("t")).unwrap();
                    let id = writer * 10 + round % 10;
                    put(&engine, &table, &format!(r#"{{"id":{id},"n":{round},"text":"{writer}-{round}"}}"#)).await;
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let mut versions = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            versions += 1;
            alter(&engine, &[add(&format!("c{versions}"), ColumnType::Int32)]).await;
            if versions % 3 == 0 {
                alter(&engine, &[Alteration::Drop { name: format!("c{}", versions - 1), if_exists: false }]).await;
            }
            if versions % 5 == 0 {
                engine.seal(&table).await.unwrap();
            }
        }
        for writer in writers {
            writer.await.unwrap();
        }
        let newest = engine.table(&name("t")).unwrap();
        let live = told(&newest);
        assert_eq!(told(&table).len(), live.len());
        let mut written: Vec<_> = live
            .iter()
            .filter(|row| !row.starts_with("-U"))
            .map(|row| row.split(r#""text":"#).nth(1).unwrap().split(',').next().unwrap().to_owned())
            .collect();
        written.sort();
        let mut expected: Vec<_> =
            (0..4).flat_map(|writer| (0..60).map(move |round| format!("\"{writer}-{round}\""))).collect();
        expected.push("null".to_owned());
        expected.sort();
        assert_eq!(written, expected);
        engine.close();
        let engine = open(&disk).unwrap();
        assert_eq!(told(&engine.table(&name("t")).unwrap()), live);
        engine.close();
    }
}
