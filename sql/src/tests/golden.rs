//! Data directories that earlier versions left: read, gone on with, and still themselves after a restart.
//!
//! `golden/before_partitions.log` is the journal of a server from before there were partitions, nested types and dropped
//! tables that come back; nothing of it was tiered. Golden files stay as they are, and are read for ever.

use std::io::IoSlice;
use std::path::Path;

use thermocline_engine::disk::{Disk, MemoryDisk};
use thermocline_engine::{Sender, WriterSequence};
use thermocline_schemas::text::{DecodeOptions, JsonShape, decode_json};
use thermocline_schemas::{Code, TableName};

use super::{Node, options};
use thermocline_tiering::Warehouse;

const JOURNAL: &[u8] = include_bytes!("golden/before_partitions.log");

async fn open() -> Node {
    let disk = MemoryDisk::new();
    for directory in ["/data", "/data/journal"] {
        disk.create_directory(Path::new(directory)).unwrap();
    }
    let file = disk.create(Path::new("/data/journal/00000000000000000000.log")).unwrap();
    file.write_at(&mut [IoSlice::new(JOURNAL)], 0).unwrap();
    file.sync().unwrap();
    disk.sync_directory(Path::new("/data/journal")).unwrap();
    let warehouse =
        Warehouse::with_store("s3://lake/warehouse", std::sync::Arc::new(object_store::memory::InMemory::new()));
    Node::open(disk, warehouse, options()).await
}

async fn check(node: &Node) {
    assert_eq!(node.engine.tables().len(), 4);
    let moment = "2026-11-29T01:02:03.000000004";
    let kinds = format!(
        "1|true|-128|-32768|-2147483648|255|65535|4294967295|0.5|-1e300|1234567890123456.7891|2026-11-29|23:59:59.999999|\
         0001-01-01T00:00:00|9999-12-31T23:59:59.999999Z|{moment}|{moment}Z|naïve 'quoted' 漢字|00ff80|010203|\
         0189dd5c-a2a5-7d1e-9a4c-0242ac120002"
    );
    let columns = ('a'..='r').map(String::from).collect::<Vec<_>>().join(", ");
    let found = node.rows(&format!("SELECT id, flag, {columns}, CAST(s AS VARCHAR) FROM kinds ORDER BY id")).await;
    assert_eq!(found, [kinds, format!("2{}", "|".repeat(20))]);
    let log = "SELECT count(*), sum(id), sum(extra), count(late), count(word) FROM shop.log WHERE id < 20000";
    assert_eq!(node.rows(log).await, ["600|180300|1198|200|600"]);
    assert_eq!(
        node.rows("SELECT word, late FROM shop.log WHERE id IN (7, 407, 20001) ORDER BY id").await,
        ["row 7|", "row 407|new", "written|new"]
    );
    assert_eq!(node.rows("SELECT count(*), sum(n), min(id), max(id) FROM state").await, ["240|36120|1|299"]);
    assert_eq!(node.rows("SELECT n FROM state WHERE part = 'p2' AND id = 8").await, ["9"]);
    assert_eq!(node.rows("SELECT id FROM tiny ORDER BY id").await, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_there_were_partitions_is_read_and_gone_on_with() {
    let node = open().await;
    check(&node).await;
    // A request that was acked by that server is known to this one.
    let table = node.engine.table(&TableName::parse("shop", "log").unwrap()).unwrap();
    let again = |sequence: u64, line: &str| {
        let rows =
            decode_json(&table.descriptor().schema, line.as_bytes(), JsonShape::Lines, &DecodeOptions::default());
        let writer = WriterSequence::new("me", sequence).unwrap();
        node.engine.append(&table, rows.unwrap(), Sender { writer: Some(writer), ..Sender::default() })
    };
    let answer = again(1, "{\"id\":20001,\"word\":\"written\"}").await.unwrap();
    assert!(answer.duplicate && answer.buckets[0].end_offset.0 == 201, "{answer:?}");
    assert_eq!(again(1, "{\"id\":20001,\"word\":\"other\"}").await.unwrap_err().code(), Code::SequenceReused);
    check(&node).await;
    let node = node.restarted().await;
    check(&node).await;
    // Into segments, checkpoint and lake of this version, changed, and back.
    for name in ["kinds", "state"] {
        node.engine.seal(&node.table(name)).await.unwrap();
        node.tier(name).await;
        node.let_go(name).await;
    }
    node.engine.checkpoint().await.unwrap();
    check(&node).await;
    node.run("ALTER TABLE state ADD COLUMN tags VARCHAR[]").await;
    node.run("UPDATE state SET n = n + 0, tags = ['x'] WHERE id = 8").await;
    let node = node.restarted().await;
    check(&node).await;
    assert_eq!(node.rows("SELECT id, tags FROM state WHERE tags IS NOT NULL").await, ["8|[x]"]);
    node.run("CREATE TABLE gone (id INT)").await;
    let ids: std::collections::BTreeSet<_> = node.engine.tables().iter().map(|table| table.descriptor().id).collect();
    assert_eq!(ids.len(), 5);
    assert_eq!(node.table("gone").descriptor().id, *ids.last().unwrap(), "ids are not given again");
}
