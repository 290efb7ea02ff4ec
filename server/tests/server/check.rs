//! `thermocline check` on directories that are sound, damaged, in use, or none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command_line::run;
use crate::harness::{TestServer, lines};

/// Every file below a directory but the lock, which says who looked.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().unwrap() != "lock" {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

/// A directory with journal files, segments, and a lake of two commits.
async fn stopped() -> std::sync::Arc<tempfile::TempDir> {
    let server = TestServer::start_with(|options| {
        options.engine.segment_bytes = 4096;
        options.engine.journal_file_bytes = 8192;
    })
    .await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR) WITH (buckets = 2, bucket_key = 'id')").await;
    for request in 0..10u64 {
        server.append(&lines(request * 100..request * 100 + 100)).await;
        if request % 4 == 3 {
            server.tier("t").await;
        }
    }
    let segments = server.directory().path().join("data/segments");
    while std::fs::read_dir(&segments).unwrap().count() < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let directory = server.directory().clone();
    server.stop().await;
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_directory_is_sound_and_every_damaged_file_is_named() {
    let directory = stopped().await;
    let data = directory.path().join("data");
    let argument = data.to_str().unwrap();
    let before = files(&data);
    let sound = run(&["check", argument]).await;
    assert_eq!(sound.code, Some(0), "{sound:?}");
    for part in ["public.t", "frames", "sound"] {
        assert!(sound.out.contains(part), "{part:?} is not in\n{}", sound.out);
    }
    // Not their checksums, which have the same names.
    let objects: Vec<_> = before.keys().filter(|path| !path.to_str().unwrap().contains("/.sums/")).collect();
    let find = |place: &str, end: &str| {
        let inside = |path: &&PathBuf| path.to_str().unwrap().contains(place) && path.to_str().unwrap().ends_with(end);
        objects.iter().copied().find(inside).unwrap_or_else(|| panic!("no {end} in {place}")).clone()
    };
    let size = |path: &Path| before[path].len();
    let (journal, segment) = (find("/journal/", ".log"), find("/segments/", ".arrow"));
    let (parquet, metadata) = (find("/data/", ".parquet"), find("/metadata/v3", ".json"));
    let mut manifests = objects.iter().copied().filter(|path| path.to_str().unwrap().ends_with(".avro"));
    let manifest = manifests.find(|path| !path.to_str().unwrap().contains("snap-")).unwrap().clone();
    let current: serde_json::Value = serde_json::from_slice(&before[&metadata]).unwrap();
    let is_current = |snapshot: &&serde_json::Value| snapshot["snapshot-id"] == current["current-snapshot-id"];
    let snapshot = current["snapshots"].as_array().unwrap().iter().find(is_current).unwrap();
    let list = find("/metadata/snap-", snapshot["manifest-list"].as_str().unwrap().rsplit('/').next().unwrap());
    let checkpoint = find("/data/checkpoint", "checkpoint");
    let places = [
        (&journal, 64 + 20),
        (&segment, size(&segment) / 2),
        (&segment, 9),
        (&parquet, size(&parquet) - 7),
        (&parquet, 200),
        (&manifest, 1),
        (&list, 1),
        (&metadata, 0),
        (&checkpoint, 30),
    ];
    for (path, place) in places {
        let mut bytes = before[path].clone();
        bytes[place] ^= 0x10;
        std::fs::write(path, &bytes).unwrap();
        let damaged = run(&["check", argument]).await;
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(damaged.code, Some(1), "{name} byte {place}: {damaged:?}");
        let named = damaged.out.lines().any(|line| line.starts_with("damage: ") && line.contains(name));
        assert!(named, "{name} byte {place}: {damaged:?}");
        std::fs::write(path, &before[path]).unwrap();
    }
    std::fs::remove_file(&parquet).unwrap();
    let missing = run(&["check", argument]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.out.contains(parquet.file_name().unwrap().to_str().unwrap()), "{missing:?}");
    std::fs::write(&parquet, &before[&parquet]).unwrap();
    assert_eq!(run(&["check", argument]).await.code, Some(0));
    assert_eq!(files(&data), before, "nothing was changed by looking");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_no_damage_and_stays() {
    let directory = stopped().await;
    let data = directory.path().join("data");
    let journals = std::fs::read_dir(data.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let newest = journals.max().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes.extend(b"TCF1 and then the power went");
    std::fs::write(&newest, &bytes).unwrap();
    let torn = run(&["check", data.to_str().unwrap()]).await;
    assert_eq!(torn.code, Some(0), "{torn:?}");
    assert!(torn.out.contains("note: the last 28 bytes of the journal"), "{torn:?}");
    assert_eq!(std::fs::read(&newest).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_says_why() {
    let server = TestServer::with_table().await;
    let data = server.directory().path().join("data");
    let running = run(&["check", data.to_str().unwrap()]).await;
    assert_eq!(running.code, Some(2), "{running:?}");
    assert!(running.err.contains("another server has the data directory"), "{running:?}");
    let nothing = run(&["check", server.directory().path().to_str().unwrap()]).await;
    assert_eq!(nothing.code, Some(2), "{nothing:?}");
    assert!(nothing.err.contains("is not a data directory"), "{nothing:?}");
}

/// Rows of both kinds of tables in partitions: hot, in the lake, in both, replaced and deleted.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_checked_each_by_itself() {
    let server = TestServer::start().await;
    server.sql("CREATE TABLE p (id BIGINT, part VARCHAR) WITH (buckets = 2) PARTITION BY (part)").await;
    server
        .sql("CREATE TABLE k (id BIGINT, part VARCHAR, n INT, PRIMARY KEY (part, id)) PARTITION BY (part, bucket(2, id))")
        .await;
    for round in 0..3 {
        for table in ["p (id, part)", "k (id, part)"] {
            let rows = "SELECT value, CASE WHEN value % 3 = 0 THEN 'a/b' ELSE 'c' END FROM generate_series(1, 40)";
            server.sql(&format!("INSERT INTO {table} {rows}")).await;
        }
        server.sql(&format!("INSERT INTO k VALUES ({round}, 'new {round}', {round})")).await;
        server.sql(&format!("DELETE FROM k WHERE id = {}", round * 7 + 1)).await;
        if round < 2 {
            server.tier("p").await;
            server.tier("k").await;
        }
    }
    let directory = server.directory().clone();
    server.stop().await;
    let sound = run(&["check", directory.path().join("data").to_str().unwrap()]).await;
    assert_eq!(sound.code, Some(0), "{sound:?}");
    assert!(sound.out.contains("sound"), "{}", sound.out);
}
