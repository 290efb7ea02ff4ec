//! Old rows out of the lake's files: which are read again, and how many at once.

use arrow::array::ArrayRef;
use object_store::memory::InMemory;
use thermocline_schemas::{Alteration, ColumnType, Place};

use super::keyed::{keyed, rows_of};
use super::*;
use crate::faulty_store::FaultyStore;

/// Rows that were asked for, and their neighbours, are answered without the store; rows all over a large file are too.
#[tokio::test]
async fn what_was_read_of_old_rows_is_kept() {
    let store = FaultyStore::new(Arc::new(InMemory::new()));
    let warehouse = Warehouse::with_store("s3://lake/warehouse", store.clone());
    let node = keyed(&MemoryDisk::new(), &warehouse, &[("format_version", "2")]).await;
    for part in 0..8 {
        node.put(part * 10_000..(part + 1) * 10_000, "text").await;
    }
    node.tiering.tier(&node.table).await.unwrap();
    node.trim().await;
    let found = async |ids: Vec<i64>| {
        let before = store.calls().len();
        let asked: ArrayRef = Arc::new(Int64Array::from(ids.clone()));
        let found = node.engine.lookup(&node.table, vec![asked]).await.unwrap();
        let expected: Vec<_> = ids.iter().map(|id| (*id, format!("text {id}"))).collect();
        assert_eq!(rows_of(&found.rows), expected);
        store.calls().len() - before
    };
    let first = found(vec![70_000, 5]).await;
    assert_eq!(found(vec![6, 511, 0, 70_001]).await, 0, "in the same blocks");
    let other = found(vec![512, 6]).await;
    assert!(0 < other && other < first, "{first}, then {other}: the footer is known");
    // In more blocks than are read at once, and the last block is not full.
    let scattered: Vec<i64> = (0..80_000).step_by(601).chain([79_999]).collect();
    for _ in 0..2 {
        assert!(found(scattered.clone()).await > 0);
    }
    assert!(found(vec![79_999]).await > 0);
    assert_eq!(found(vec![79_998, 79_999]).await, 0);
    // An old row that is ended is told as it was.
    node.put([5], "new").await;
    let split = node.split().await;
    let changes = split.changes().unwrap();
    let told: Vec<_> =
        changes[0].rows.iter().flat_map(|rows| rows.read(None)).map(|rows| rows.unwrap().batch).collect();
    let told: Vec<_> = told.iter().flat_map(rows_of).collect();
    assert_eq!(told, [(5, "text 5".to_owned()), (5, "new 5".to_owned())]);
    // A block is of the columns that it was read in.
    let name = "again".to_owned();
    let again = Alteration::Add {
        name: name.clone(),
        column_type: ColumnType::String,
        nullable: true,
        default: None,
        place: Some(Place::First),
        if_not_exists: false,
    };
    let altered = node.engine.alter_table(&node.table.descriptor().name, &[again], false).await.unwrap().unwrap();
    for (table, columns) in [(&node.table, 2), (&altered, 3), (&node.table, 2)] {
        let asked: ArrayRef = Arc::new(Int64Array::from(vec![6, 7]));
        let found = node.engine.lookup(table, vec![asked]).await.unwrap().rows;
        assert_eq!(found.num_columns(), columns);
        assert_eq!(
            rows_of(&found.project(&[columns - 2, columns - 1]).unwrap()),
            [6, 7].map(|id| (id, format!("text {id}")))
        );
    }
}
