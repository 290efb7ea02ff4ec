//! Rounds grow where deletes would outweigh rows.

use std::time::Duration;

use super::keyed::keyed;
use super::*;

const FRESHNESS_MS: i64 = 1000;

/// How long after the first row that waits a round is due.
async fn wait_ms(node: &Node) -> i64 {
    let lake = node.tiering.table_lake(&node.table);
    let due = |now_ms| lake.due_since(&node.table, now_ms, Duration::ZERO);
    assert_eq!(due(0), None, "not at once");
    (0..100_000).step_by(100).find(|now_ms| due(*now_ms).is_some()).unwrap()
}

#[tokio::test]
async fn a_round_whose_deletes_outweigh_its_rows_is_followed_by_a_larger_one() {
    let properties = [("format_version", "2"), ("lake_freshness", "1s")];
    let node = keyed(&MemoryDisk::new(), &memory(), &properties).await;
    for file in 0..40 {
        node.put(file * 10..file * 10 + 10, "a").await;
        node.tiering.tier(&node.table).await.unwrap();
    }
    // One row, in a file nobody has touched: a small delete for a small file.
    node.put(0..1, "b").await;
    assert_eq!(wait_ms(&node).await, FRESHNESS_MS / 2);
    // One row of each file: forty delete files for one file of rows.
    node.put((0..40).map(|file| file * 10 + 5), "c").await;
    node.tiering.tier(&node.table).await.unwrap();
    node.put(1..2, "d").await;
    assert_eq!(wait_ms(&node).await, FRESHNESS_MS / 2 * 10);
    node.tiering.tier(&node.table).await.unwrap();
    node.put(2..3, "e").await;
    assert!(wait_ms(&node).await <= FRESHNESS_MS, "it is as before once they do not");
}
