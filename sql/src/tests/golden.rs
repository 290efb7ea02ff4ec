//! Data directories that earlier versions left: read, gone on with, and still themselves after a restart.
//!
//! `golden/before_partitions.log` is the journal of a server from before there were partitions, nested types and dropped
//! tables that come back; nothing of it was tiered. `golden/backup_1.gz` is a backup, which can be restored anywhere. Golden files
//! stay as they are, and are read for ever.

use std::io::{IoSlice, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use thermocline_engine::disk::{Disk, MemoryDisk};
use thermocline_engine::{Sender, WriterSequence};
use thermocline_schemas::text::{DecodeOptions, JsonShape, decode_json};
use thermocline_schemas::{Code, TableName};

use super::backup::{Tree, assert_same, disk_with, fill, go_on, readings, restored_to};
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

/// The files of a golden backup: gzip of path and content of one after the other, each with its length before it.
fn golden(packed: &[u8]) -> Tree {
    let mut unpacked = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut unpacked).unwrap();
    let mut rest = &unpacked[..];
    let mut next = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (part, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        rest = after;
        Some(part.to_vec())
    };
    let mut found = Tree::new();
    while let (Some(path), Some(content)) = (next(), next()) {
        found.insert(Path::new("/backup").join(String::from_utf8(path).unwrap()), content);
    }
    found
}

fn packed(files: &Tree) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    for (path, content) in files {
        let path = path.strip_prefix("/backup").unwrap().to_str().unwrap();
        for part in [path.as_bytes(), content] {
            packer.write_all(&(part.len() as u32).to_le_bytes()).unwrap();
            packer.write_all(part).unwrap();
        }
    }
    packer.finish().unwrap()
}

/// What `backup::fill` came to when the golden backups were made.
async fn check_backup(node: &Node) {
    let columns = "count(*), sum(id), min(at), max(at), count(country), sum(place['x']), count(note)";
    let log = format!("SELECT {columns} FROM log");
    assert_eq!(node.rows(&log).await, ["40|780|2026-11-23T12:00:00Z|2026-11-26T12:00:00Z|26|780|20"]);
    assert_eq!(
        node.rows("SELECT country, tags, place, note FROM log WHERE id IN (7, 39) ORDER BY id").await,
        ["f/i|[t, 7]|{x: 7, names: [n]}|", "|[t, 39]|{x: 39, names: [n]}|s3://lake/warehouse/public/log"]
    );
    assert_eq!(node.rows("SELECT count(*), sum(id), min(word), max(word) FROM written").await, ["12|192|w0|w32"]);
    for (table, n) in [("two", "n"), ("three", "n_now"), ("raised", "n")] {
        let state = format!("SELECT count(*), sum(id), sum({n}), sum(s['a']) FROM {table}");
        assert_eq!(node.rows(&state).await, ["19|304|44|304"], "{table}");
        let some = format!("SELECT id, word, {n}, s FROM {table} WHERE id IN (3, 4, 11, 14, 27) ORDER BY id");
        let some = node.rows(&some).await;
        assert_eq!(
            some,
            ["4|w4|0|{a: 4, b: x}", "11|w11|2|{a: 11, b: x}", "14|w14|2|{a: 14, b: x}", "27|w27|3|{a: 27, b: x}"]
        );
    }
    let parts = "SELECT part, count(*), sum(id), sum(n) FROM parts GROUP BY part ORDER BY part";
    assert_eq!(node.rows(parts).await, ["a b|10|90|26", "c/d|9|81|25"]);
    assert_eq!(node.rows("SELECT id, n FROM hot ORDER BY id").await, ["0|1", "1|1", "2|1", "3|1", "100|3"]);
    assert_eq!(node.rows("SHOW DROPPED TABLES").await.len(), 1);
}

/// Segments, index snapshots, a checkpoint, and lakes of both format versions with deletes of both kinds, as version 0.1.0 left
/// them: `golden/backup_1.gz` was made by the test below.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_an_earlier_version_is_restored_and_gone_on_with() {
    let files = golden(include_bytes!("golden/backup_1.gz"));
    let has = |directory: &str, end: &str| {
        let inside = |path: &&str| path.contains(directory) && path.ends_with(end);
        assert!(files.keys().filter_map(|path| path.to_str()).any(|path| inside(&path)), "no {directory}…{end}");
    };
    for (directory, end) in [
        ("/data/segments/", ".arrow"),
        ("/data/keys/", ".keys"),
        ("/data/journal/", ".log"),
        ("/warehouse/public/two/", ".parquet"),
        ("/warehouse/public/three/", ".puffin"),
        ("/warehouse/public/raised/", ".puffin"),
    ] {
        has(directory, end);
    }
    let node = restored_to(disk_with(&files), "s3://somewhere/else").await.unwrap();
    check_backup(&node).await;
    // Every snapshot is there, of its time.
    for table in ["log", "two", "three", "raised", "parts"] {
        let counts =
            node.rows(&format!("SELECT snapshot_id FROM \"{table}$snapshots\" ORDER BY sequence_number")).await;
        assert_eq!(counts.len(), 3, "{table}");
        let first = node.rows(&format!("SELECT count(*) FROM {table} FOR VERSION AS OF {}", counts[0])).await;
        assert_eq!(
            first,
            [match table {
                "log" => "10",
                "parts" => "16",
                _ => "11",
            }],
            "{table}"
        );
    }
    let node = node.restarted().await;
    check_backup(&node).await;
    go_on(&node).await;
    let found = readings(&node).await;
    let node = node.restarted().await;
    assert_same(&readings(&node).await, &found);
}

/// Makes `golden/backup_<n>.gz` for the first free n, when the format of anything in it has changed: then add a test for it.
/// `cargo test --workspace make_a_golden_backup -- --ignored`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes into the source tree"]
async fn make_a_golden_backup() {
    let node = Node::new().await;
    fill(&node).await;
    check_backup(&node).await;
    let (files, _) = node.back_up().await;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden");
    let free = (1..).map(|number| golden.join(format!("backup_{number}.gz"))).find(|path| !path.exists()).unwrap();
    let bytes = packed(&files);
    assert!(bytes.len() < 300_000, "{} bytes", bytes.len());
    std::fs::write(free, bytes).unwrap();
}
