//! Backups from a bucket to a local directory and back: the address of every file changes its scheme.

use std::path::Path;
use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use futures::TryStreamExt;
use thermocline_engine::disk::{Disk, MemoryDisk, RealDisk};
use thermocline_engine::{Durability, SystemClock};
use thermocline_integration_tests::node::Node;
use thermocline_integration_tests::s3_double::S3Double;
use thermocline_sql::SqlRequest;
use thermocline_tiering::check::scrub;
use thermocline_tiering::{Progress, back_up_stopped, restore, restore_into};

use crate::store_faults::{PATIENT, warehouse};

async fn rows(node: &Node, statement: &str) -> String {
    let answer = node.sql.execute(statement, SqlRequest::default()).await;
    let answer = answer.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    pretty_format_batches(&answer.batches.try_collect::<Vec<_>>().await.unwrap()).unwrap().to_string()
}

async fn tier(node: &Node, table: &str) {
    let name = thermocline_schemas::TableName::parse("public", table).unwrap();
    node.tiering.tier(&node.engine.table(&name).unwrap()).await.unwrap();
}

const READ: [&str; 4] = [
    "SELECT * FROM two ORDER BY id",
    "SELECT * FROM \"two$lake\" ORDER BY id",
    "SELECT * FROM three ORDER BY id",
    "SELECT * FROM \"three$lake\" ORDER BY id",
];

async fn read(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    for statement in READ {
        found.push(rows(node, statement).await);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_bucket_to_a_directory_and_back() {
    let double = S3Double::start().await;
    let memory = MemoryDisk::new();
    let node = Node::start_on(&memory, warehouse(&double, 2, PATIENT), Durability::Fsync, Arc::new(SystemClock));
    let node = node.await.unwrap();
    for (table, version) in [("two", 2), ("three", 3)] {
        let made =
            format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, word VARCHAR) WITH (format_version = {version})");
        rows(&node, &made).await;
        for step in 0..3 {
            let from = format!("SELECT value, 'w{step}' FROM generate_series({step}, 40) AS s(value)");
            rows(&node, &format!("INSERT INTO {table} {from}")).await;
            rows(&node, &format!("DELETE FROM {table} WHERE id % 5 = {step}")).await;
            if step < 2 {
                tier(&node, table).await;
            }
        }
    }
    let expected = read(&node).await;
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let progress = || Arc::new(Progress::default());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    node.tiering.clone().back_up(disk.clone(), place("backup"), progress()).await.unwrap();
    node.stop().await;
    restore(disk.clone(), &place("backup"), &place("data"), None, &progress()).await.unwrap();
    let inside = place("data/warehouse");
    let inside = inside.to_str().unwrap();
    let sound = scrub(disk.clone(), &place("data"), inside, Arc::new(|_| {})).await.unwrap();
    assert_eq!(sound.damage, [""; 0]);
    assert!(sound.rows > 100, "{sound:?}");

    let local = thermocline_tiering::Warehouse::open_to_read(inside).unwrap();
    back_up_stopped(disk.clone(), &place("data"), &local, &place("second"), &progress()).await.unwrap();
    // The directory holds what the bucket held; a bucket that is not empty is refused.
    let into = |double: &S3Double| {
        let warehouse = warehouse(double, 2, PATIENT);
        move || Ok(warehouse)
    };
    let refused = restore_into(disk.clone(), &place("second"), &place("third"), into(&double), &progress()).await;
    assert!(refused.unwrap_err().to_string().contains("there is something in s3://"));
    assert!(!place("third").exists());

    let empty = S3Double::start().await;
    restore_into(disk.clone(), &place("second"), &place("third"), into(&empty), &progress()).await.unwrap();
    assert_eq!(empty.open_uploads(), 0);
    // The node of these tests has its disk in memory.
    let again = copied(&place("third"), Path::new("/data"));
    let again = Node::start_on(&again, warehouse(&empty, 2, PATIENT), Durability::Fsync, Arc::new(SystemClock));
    let again = again.await.unwrap();
    assert_eq!(read(&again).await, expected);
    rows(&again, "UPDATE three SET word = 'after' WHERE id = 7").await;
    for table in ["two", "three"] {
        let state = rows(&again, &format!("SELECT * FROM {table} ORDER BY id")).await;
        tier(&again, table).await;
        assert_eq!(rows(&again, &format!("SELECT * FROM \"{table}$lake\" ORDER BY id")).await, state);
    }
    again.stop().await;
}

fn copied(from: &Path, to: &Path) -> Arc<MemoryDisk> {
    fn copy(disk: &MemoryDisk, from: &Path, to: &Path) {
        thermocline_engine::disk::create_directories(disk, to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(disk, &path, &target);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                disk.create(&target).unwrap().write_at(&mut [std::io::IoSlice::new(&bytes)], 0).unwrap();
            }
        }
    }
    let disk = MemoryDisk::new();
    copy(&disk, from, to);
    disk
}
