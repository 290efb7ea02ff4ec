//! Backups of servers with every kind of table, taken while they stand still and while everything moves, restored at another
//! address, read in every way, and gone on with.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arrow::buffer::Buffer;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::{Disk, DiskFile, Entry, MemoryDisk, create_directories};
use thermocline_engine::{Sender, WriterSequence};
use thermocline_schemas::text::{DecodeOptions, JsonShape, decode_json};
use thermocline_schemas::{Code, Error, Result, TableName};
use thermocline_tiering::{BackupReport, Progress, Warehouse, back_up_stopped, restore_into};

use super::{Node, options};

/// Files by their paths.
pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// The address that restored lakes get, longer than the one that they had.
const ELSEWHERE: &str = "s3://another-bucket/some/other/warehouse";

pub fn tree(disk: &dyn Disk, directory: &Path) -> Tree {
    let mut found = Tree::new();
    for entry in disk.list(directory).unwrap() {
        let path = directory.join(&entry.name);
        match entry.is_directory {
            true => found.extend(tree(disk, &path)),
            false => drop(found.insert(path.clone(), disk.map(&path).unwrap().as_slice().to_vec())),
        }
    }
    found
}

pub fn disk_with(tree: &Tree) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    for (path, bytes) in tree {
        create_directories(&*disk, path.parent().unwrap()).unwrap();
        let file = disk.create(path).unwrap();
        file.write_at(&mut [IoSlice::new(bytes)], 0).unwrap();
        file.sync().unwrap();
        disk.sync_directory(path.parent().unwrap()).unwrap();
    }
    disk
}

pub async fn restored_to(disk: Arc<MemoryDisk>, place: &str) -> Result<Node> {
    let warehouse = Warehouse::with_store(place, Arc::new(InMemory::new()));
    let open = {
        let warehouse = warehouse.clone();
        move || Ok(warehouse)
    };
    restore_into(disk.clone(), Path::new("/backup"), Path::new("/data"), open, &Progress::default()).await?;
    Ok(Node::open(disk, warehouse, options()).await)
}

impl Node {
    /// A backup of the running node, as files below `/backup`.
    pub async fn back_up(&self) -> (Tree, BackupReport) {
        static NUMBER: AtomicI64 = AtomicI64::new(0);
        let directory = PathBuf::from(format!("/backups/{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let progress = Arc::new(Progress::default());
        let made = self.tiering.clone().back_up(self.disk.clone(), directory.clone(), progress.clone()).await.unwrap();
        let (done, of) = progress.bytes();
        assert!(done == of && of == made.bytes, "{done} of {of}, {} in files", made.bytes);
        assert!(!self.disk.list(Path::new("/data/backing-up")).is_ok_and(|links| !links.is_empty()));
        let files = tree(&*self.disk, &directory).into_iter();
        let moved =
            files.map(|(path, bytes)| (Path::new("/backup").join(path.strip_prefix(&directory).unwrap()), bytes));
        (moved.collect(), made)
    }

    async fn close(&self) {
        self.tiering.close().await;
        self.engine.close();
    }

    async fn write_as(&self, table: &str, writer: &str, sequence: u64, line: &str) -> Result<bool> {
        let table = self.table(table);
        let rows =
            decode_json(&table.descriptor().schema, line.as_bytes(), JsonShape::Lines, &DecodeOptions::default())?;
        let writer = Some(WriterSequence::new(writer, sequence)?);
        Ok(self.engine.append(&table, rows, Sender { writer, ..Sender::default() }).await?.duplicate)
    }
}

/// Tables of every kind: rows in the lake alone, in both tiers, in segments, in the journal; deletes in position-delete files and
/// vectors, and in a table that has both; partitions, nested and altered columns, a table without a lake, a dropped one.
pub async fn fill(node: &Node) {
    node.run(
        "CREATE TABLE log (id BIGINT NOT NULL, at TIMESTAMPTZ, country VARCHAR, tags VARCHAR[], \
         place STRUCT(x INT, names VARCHAR[]), more MAP(VARCHAR, INT)) PARTITION BY (day(at), country)",
    )
    .await;
    node.run("CREATE TABLE written (id BIGINT NOT NULL, word VARCHAR) WITH (buckets = 2)").await;
    let nested = "s STRUCT(a INT, b VARCHAR NOT NULL)";
    for (table, version) in [("two", 2), ("three", 3), ("raised", 2)] {
        node.run(&format!(
            "CREATE TABLE {table} (id BIGINT PRIMARY KEY, word VARCHAR, n INT, {nested}) \
             WITH (format_version = {version}, buckets = 2)"
        ))
        .await;
    }
    node.run(
        "CREATE TABLE parts (id BIGINT, part VARCHAR, n INT, PRIMARY KEY (part, id)) PARTITION BY (part, bucket(2, id))",
    )
    .await;
    node.run("CREATE TABLE hot (id BIGINT PRIMARY KEY, n INT) WITH (lake_enabled = false)").await;
    node.run("CREATE TABLE gone (id BIGINT PRIMARY KEY) WITH (drop_retention = '36500d')").await;
    let keyed = ["two", "three", "raised"];
    for step in 0..4_i64 {
        let first = step * 10;
        // A column goes on the way.
        let (name, map) = if step < 2 { (", more", true) } else { ("", false) };
        let row = |id: i64| {
            let country = if id % 3 == 0 { "NULL" } else { "'f/i'" };
            let map = if map { format!(", MAP {{'k': {id}}}") } else { String::new() };
            let day = 23 + id % 4;
            format!("({id}, '2026-11-{day}T12:00:00Z', {country}, ['t', '{id}'], {{x: {id}, names: ['n']}}{map})")
        };
        let rows: Vec<_> = (first..first + 10).map(row).collect();
        node.run(&format!("INSERT INTO log (id, at, country, tags, place{name}) VALUES {}", rows.join(", "))).await;
        for sequence in first as u64..first as u64 + 3 {
            let line = format!("{{\"id\":{sequence},\"word\":\"w{sequence}\"}}");
            assert!(!node.write_as("written", "me", sequence - first as u64 + 3 * step as u64, &line).await.unwrap());
        }
        for table in keyed {
            let n = if step == 3 && table == "three" { "n_now" } else { "n" };
            node.run(&format!(
                "INSERT INTO {table} (id, word, {n}, s) SELECT value, 'w' || value, {step}, {{a: value, b: 'x'}} \
                 FROM generate_series({}, {}) AS s(value)",
                step * 5,
                step * 5 + 12
            ))
            .await;
            node.run(&format!("DELETE FROM {table} WHERE id % 7 = {step}")).await;
        }
        node.run(&format!(
            "INSERT INTO parts SELECT value, CASE WHEN value % 2 = 0 THEN 'a b' ELSE 'c/d' END, {step} \
             FROM generate_series({step}, {}) AS s(value)",
            step + 15
        ))
        .await;
        node.run(&format!("INSERT INTO hot VALUES ({step}, 1), (100, {step})")).await;
        match step {
            0 => {
                for table in ["log", "written", "two", "three", "raised", "parts"] {
                    node.tier(table).await;
                    node.let_go(table).await;
                }
                node.run("INSERT INTO gone VALUES (1), (2)").await;
                node.tier("gone").await;
                node.run("INSERT INTO gone VALUES (3)").await;
                node.run("DROP TABLE gone").await;
            }
            1 => {
                for table in ["log", "written", "two", "three", "raised", "parts"] {
                    node.engine.seal(&node.table(table)).await.unwrap();
                    node.tier(table).await;
                }
                node.let_go("two").await;
                node.engine.checkpoint().await.unwrap();
                node.run("ALTER TABLE raised SET (format_version = 3)").await;
                node.run("ALTER TABLE log ADD COLUMN note VARCHAR DEFAULT 's3://lake/warehouse/public/log', DROP COLUMN more").await;
            }
            2 => {
                for table in ["log", "two", "three", "raised", "parts"] {
                    node.tier(table).await;
                }
                node.let_go("three").await;
                node.run("ALTER TABLE three RENAME COLUMN n TO n_now, ADD COLUMN extra BIGINT").await;
                node.engine.seal(&node.table("hot")).await.unwrap();
                node.engine.seal(&node.table("parts")).await.unwrap();
            }
            _ => {}
        }
    }
}

/// Every table in every way that it can be read, and what was found.
pub async fn readings(node: &Node) -> Vec<(String, Vec<String>)> {
    let mut statements = vec!["SHOW TABLES".to_owned()];
    for (table, by) in [
        ("log", "id"),
        ("written", "id"),
        ("two", "id"),
        ("three", "id"),
        ("raised", "id"),
        ("parts", "part, id"),
        ("hot", "id"),
    ] {
        statements.push(format!("SELECT *, __bucket, __offset, __timestamp FROM {table} ORDER BY {by}"));
        statements.push(format!("SELECT * FROM \"{table}$hot\" ORDER BY {by}"));
        statements.push(format!("DESCRIBE {table}"));
        if !["log", "written"].contains(&table) {
            statements.push(format!("SELECT * FROM \"{table}$changes\" ORDER BY __bucket, __offset"));
            // Of the keys that these name all columns are said, but for the table of partitions.
            statements.push(format!("SELECT * FROM {table} WHERE id IN (3, 9, 13, 20) ORDER BY {by}"));
            statements.push(format!("SELECT * FROM {table} WHERE id = 5"));
        }
        if table == "hot" {
            continue;
        }
        statements.push(format!("SELECT * FROM \"{table}$lake\" ORDER BY {by}"));
        let columns =
            "snapshot_id, parent_id, sequence_number, committed_at, operation, offsets, newest_row_at, summary";
        let snapshots = format!("SELECT {columns} FROM \"{table}$snapshots\" ORDER BY committed_at, snapshot_id");
        statements.push(snapshots);
        for id in
            node.rows(&format!("SELECT snapshot_id FROM \"{table}$snapshots\" WHERE snapshot_id IS NOT NULL")).await
        {
            statements.push(format!("SELECT * FROM {table} FOR VERSION AS OF {id} ORDER BY {by}"));
        }
    }
    let mut found = Vec::new();
    for statement in statements {
        let rows = node.rows(&statement).await;
        found.push((statement, rows));
    }
    found
}

pub fn assert_same(found: &[(String, Vec<String>)], expected: &[(String, Vec<String>)]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.0, expected.0);
        // Of properties and sizes nothing differs either.
        assert_eq!(found.1, expected.1, "{}", found.0);
    }
}

/// Writes, rounds and rewrites on what was restored.
pub async fn go_on(node: &Node) {
    assert!(node.write_as("written", "me", 11, "{\"id\":32,\"word\":\"w32\"}").await.unwrap(), "it is known");
    assert_eq!(node.write_as("written", "me", 13, "{\"id\":1}").await.unwrap_err().code(), Code::OutOfOrderSequence);
    assert!(!node.write_as("written", "me", 12, "{\"id\":99,\"word\":\"after\"}").await.unwrap());
    node.run("UPDATE two SET n = 77 WHERE id IN (1, 5, 20)").await;
    node.run("UPDATE three SET n_now = 77 WHERE id IN (1, 5, 20)").await;
    node.run("UPDATE raised SET n = 77 WHERE id IN (1, 5, 20)").await;
    node.run("DELETE FROM parts WHERE id = 9").await;
    node.run("UNDROP TABLE gone").await;
    assert_eq!(node.rows("SELECT id FROM gone ORDER BY id").await, ["1", "2", "3"]);
    let tables = ["log", "written", "two", "three", "raised", "parts"];
    let mut before = Vec::new();
    for table in tables {
        before.push(node.rows(&format!("SELECT * FROM {table} ORDER BY id")).await);
        node.tier(table).await;
        let lake = node.rows(&format!("SELECT * FROM \"{table}$lake\" ORDER BY id")).await;
        assert_eq!(lake, before[before.len() - 1], "{table}");
        node.let_go(table).await;
        node.tiering.compact(&node.table(table)).await.unwrap();
    }
    for (table, before) in tables.iter().zip(before) {
        assert_eq!(node.rows(&format!("SELECT * FROM {table} ORDER BY id")).await, before, "{table}");
    }
    assert_eq!(node.rows("SELECT count(*) FROM two WHERE n = 77").await, ["2"]);
    assert_eq!(node.rows("SELECT count(*) FROM parts WHERE id = 9").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_restored_elsewhere_reads_the_same_and_goes_on() {
    let node = Node::new().await;
    fill(&node).await;
    let expected = readings(&node).await;
    let (files, made) = node.back_up().await;
    assert_eq!(made.tables.len(), 8);
    let untiered: BTreeMap<_, _> = made.tables.iter().map(|table| (table.name.as_str(), table.untiered_rows)).collect();
    assert!(untiered["public.gone"] == 1 && untiered["public.written"] == 6, "{untiered:?}");
    assert_same(&readings(&node).await, &expected);
    for place in [ELSEWHERE, "s3://lake/warehouse"] {
        let again = restored_to(disk_with(&files), place).await.unwrap();
        let found = readings(&again).await;
        assert_same(&found, &expected);
        let status = again.tiering.status(&again.table("two")).await.unwrap();
        assert_eq!(status.location.unwrap(), format!("{place}/public/two"));
        go_on(&again).await;
        let found = readings(&again).await;
        let again = again.restarted().await;
        assert_same(&readings(&again).await, &found);
        // A backup of what was restored is one too.
        let (files, _) = again.back_up().await;
        let third = restored_to(disk_with(&files), "s3://third").await.unwrap();
        assert_same(&readings(&third).await, &found);
    }
    assert_same(&readings(&node).await, &expected);
    // Nothing else in the lake spells the old address, a user's own text apart.
    let again = restored_to(disk_with(&files), ELSEWHERE).await.unwrap();
    let store = again.warehouse.store();
    let objects: Vec<_> = futures::TryStreamExt::try_collect(store.list(None)).await.unwrap();
    assert!(objects.len() > 50);
    for object in objects {
        let object: object_store::ObjectMeta = object;
        let bytes = object_store::ObjectStoreExt::get(&**store, &object.location).await.unwrap().bytes().await.unwrap();
        let old = b"s3://lake/warehouse/public";
        let spelled = bytes.windows(old.len()).filter(|window| window == old).count();
        let path = object.location.as_ref();
        let is_users = path.contains("public/log/");
        assert!(spelled == 0 || is_users, "{path} spells the old address {spelled} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_directory_is_backed_up_as_a_running_one() {
    let node = Node::new().await;
    fill(&node).await;
    let expected = readings(&node).await;
    node.close().await;
    let before = tree(&*node.disk, Path::new("/data"));
    let made = back_up_stopped(
        node.disk.clone(),
        Path::new("/data"),
        &node.warehouse,
        Path::new("/backup"),
        &Progress::default(),
    )
    .await
    .unwrap();
    assert_eq!(tree(&*node.disk, Path::new("/data")), before, "nothing was changed by it");
    let again = restored_to(disk_with(&tree(&*node.disk, Path::new("/backup"))), ELSEWHERE).await.unwrap();
    assert_same(&readings(&again).await, &expected);
    go_on(&again).await;
    // Not over something.
    let there = Path::new("/backup");
    let again =
        back_up_stopped(node.disk.clone(), Path::new("/data"), &node.warehouse, there, &Progress::default()).await;
    let error = again.unwrap_err();
    assert!(error.code() == Code::InvalidRequest && error.to_string().contains("there is something in"), "{error:?}");
    assert!(made.bytes > 100_000 && made.files > 50, "{made:?}");
    // Not with the lake of somebody else.
    let other = Warehouse::with_store("s3://lake/warehouse", Arc::new(InMemory::new()));
    let there = Path::new("/other");
    let other = back_up_stopped(node.disk.clone(), Path::new("/data"), &other, there, &Progress::default()).await;
    let error = other.unwrap_err();
    assert!(error.code() == Code::Corrupt && error.to_string().contains("its lake ends at"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_bit_and_every_missing_file_is_found_before_anything_is_written() {
    let node = Node::new().await;
    fill(&node).await;
    let (files, _) = node.back_up().await;
    let mut random = StdRng::seed_from_u64(11);
    let mut tried = 0;
    for (path, bytes) in &files {
        let bits = bytes.len() as u64 * 8;
        tried += 1;
        let disk = disk_with(&files);
        // The first byte, the last one, or one between.
        let bit =
            [random.random_range(0..8), random.random_range(0..bits), bits - 1 - random.random_range(0..8)][tried % 3];
        disk.flip_bit(path, bit).unwrap();
        let error = restored_to(disk.clone(), ELSEWHERE).await.err();
        let error = error.unwrap_or_else(|| panic!("bit {bit} of {} was not found", path.display()));
        assert_eq!(error.code(), Code::Corrupt, "{error:?}");
        assert!(disk.list(Path::new("/data")).is_err(), "something was written");
        if tried % 16 != 0 && path != Path::new("/backup/backup") {
            continue;
        }
        let mut fewer = files.clone();
        fewer.remove(path);
        let error = restored_to(disk_with(&fewer), ELSEWHERE).await.err().unwrap();
        let is_manifest = path == Path::new("/backup/backup");
        assert_eq!(error.code(), if is_manifest { Code::NotFound } else { Code::Corrupt }, "{error:?}");
        let mut longer = files.clone();
        longer.get_mut(path).unwrap().push(0);
        assert_eq!(restored_to(disk_with(&longer), ELSEWHERE).await.err().unwrap().code(), Code::Corrupt);
    }
    assert!(tried > 100, "{tried}");
    // Not over something.
    let disk = disk_with(&files);
    restored_to(disk.clone(), ELSEWHERE).await.unwrap();
    let error = restored_to(disk, ELSEWHERE).await.err().unwrap();
    assert!(error.to_string().contains("there is something in"), "{error:?}");
}

/// What is asked before each change of a disk, with the path where there is one.
type Hook = Arc<dyn Fn(Option<&Path>) -> io::Result<()> + Send + Sync>;

/// A disk whose changes somebody else may refuse, or wait with.
struct Hooked {
    disk: Arc<MemoryDisk>,
    hook: Hook,
}

struct HookedFile {
    file: Arc<dyn DiskFile>,
    hook: Hook,
}

/// So many changes, and then none.
fn limit(changes: i64) -> Hook {
    let left = AtomicI64::new(changes);
    Arc::new(move |_| match left.fetch_sub(1, Ordering::SeqCst) > 0 {
        true => Ok(()),
        false => Err(io::Error::other("the disk is gone")),
    })
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hooked")
    }
}

impl std::fmt::Debug for HookedFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("HookedFile")
    }
}

impl Disk for Hooked {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        (self.hook)(Some(path))?;
        Ok(Arc::new(HookedFile { file: self.disk.create(path)?, hook: self.hook.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HookedFile { file: self.disk.open(path)?, hook: self.hook.clone() }))
    }

    fn map(&self, path: &Path) -> io::Result<Buffer> {
        self.disk.map(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Some(path))?;
        self.disk.create_directory(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.hook)(Some(to))?;
        self.disk.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.hook)(Some(to))?;
        self.disk.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Some(path))?;
        self.disk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Some(path))?;
        self.disk.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn std::any::Any + Send + Sync>> {
        self.disk.lock(path)
    }
}

impl DiskFile for HookedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        (self.hook)(None)?;
        self.file.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        (self.hook)(None)?;
        self.file.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        (self.hook)(None)?;
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

struct Opens(Arc<AtomicBool>);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// While objects are being copied, all that would remove them goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_removed_while_it_is_copied() {
    let node = Node::eager().await;
    let retention = "hot_retention = '0s', snapshot_retention = '0s'";
    node.run(&format!("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT) WITH ({retention})")).await;
    node.run(&format!("CREATE TABLE gone (id BIGINT PRIMARY KEY) WITH ({retention}, drop_retention = '0s')")).await;
    for step in 0..2 {
        node.run(&format!("INSERT INTO t SELECT value, {step} FROM generate_series({step}, 9) AS s(value)")).await;
        node.run(&format!("INSERT INTO gone VALUES ({step})")).await;
        for table in ["t", "gone"] {
            node.tier(table).await;
            node.let_go(table).await;
        }
    }
    node.run("DELETE FROM t WHERE id = 3").await;
    let expected = node.rows("SELECT id, n FROM t ORDER BY id").await;
    let (arrived, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let hook = {
        let (arrived, open) = (arrived.clone(), open.clone());
        move |path: Option<&Path>| {
            if path.is_some_and(|path| path.starts_with("/slow/warehouse/public")) {
                arrived.store(true, Ordering::SeqCst);
                while !open.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(())
        }
    };
    let slow = Arc::new(Hooked { disk: node.disk.clone(), hook: Arc::new(hook) });
    // Also if this fails: the runtime waits for who waits.
    let opens = Opens(open);
    let making = tokio::spawn(node.tiering.clone().back_up(slow, "/slow".into(), Default::default()));
    while !arrived.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.run("DROP TABLE gone").await;
    // So many that metadata is swept too.
    for step in 0..40 {
        node.run(&format!("INSERT INTO t VALUES ({}, 100)", step % 10)).await;
        node.tier("t").await;
        node.let_go("t").await;
        node.tiering.compact(&node.table("t")).await.unwrap();
        assert_eq!(node.tiering.sweep_now(&node.table("t")).await.unwrap(), 0);
        node.tiering.purge_dropped().await.unwrap();
    }
    node.engine.checkpoint().await.unwrap();
    drop(opens);
    making.await.unwrap().unwrap();
    let files = tree(&*node.disk, Path::new("/slow")).into_iter();
    let files = files.map(|(path, bytes)| (Path::new("/backup").join(path.strip_prefix("/slow").unwrap()), bytes));
    let again = restored_to(disk_with(&files.collect()), ELSEWHERE).await.unwrap();
    assert_eq!(again.rows("SELECT id, n FROM t ORDER BY id").await, expected);
    assert_eq!(again.rows("SELECT id FROM gone ORDER BY id").await, ["0", "1"]);
    // Then it goes.
    assert!(node.tiering.sweep_now(&node.table("t")).await.unwrap() > 0);
    assert_eq!(node.tiering.purge_dropped().await.unwrap(), 1);
}

/// After every call that a backup or a restore makes of a disk, the power goes.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_early_is_no_backup_and_no_server() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT)").await;
    node.run("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)").await;
    node.tier("t").await;
    node.let_go("t").await;
    node.run("DELETE FROM t WHERE id = 2").await;
    node.tier("t").await;
    node.run("INSERT INTO t VALUES (4, 4)").await;
    node.engine.seal(&node.table("t")).await.unwrap();
    node.run("INSERT INTO t VALUES (5, 5)").await;
    const ALL: &str = "SELECT id, n FROM t ORDER BY id";
    let expected = ["1|1", "3|3", "4|4", "5|5"];
    assert_eq!(node.rows(ALL).await, expected);
    node.close().await;
    let source = tree(&*node.disk, Path::new("/data"));
    let mut random = StdRng::seed_from_u64(3);
    let (mut calls, mut backups) = (0, 0);
    let whole = loop {
        let disk = disk_with(&source);
        let limited = Arc::new(Hooked { disk: disk.clone(), hook: limit(calls) });
        let (data, backup) = (Path::new("/data"), Path::new("/backup"));
        let made = back_up_stopped(limited, data, &node.warehouse, backup, &Progress::default()).await;
        for cut in [disk.clone(), disk.power_cut(&mut random), disk.power_cut(&mut random)] {
            let files = if cut.list(backup).is_ok() { tree(&*cut, backup) } else { Tree::new() };
            match restored_to(disk_with(&files), ELSEWHERE).await {
                Ok(again) => {
                    assert_eq!(again.rows(ALL).await, expected, "after {calls} calls");
                    backups += 1;
                }
                Err(error) => {
                    assert!(made.is_err(), "after {calls} calls it was made, and is none: {error:?}");
                    assert_eq!(error.code(), Code::NotFound, "after {calls} calls: {error:?}");
                }
            }
        }
        if made.is_ok() {
            break tree(&*disk, backup);
        }
        calls += 1;
    };
    assert!(calls > 50 && backups >= 3, "{calls} calls, {backups} backups");

    let (mut calls, mut early) = (0, 0);
    loop {
        let disk = disk_with(&whole);
        let limited = Arc::new(Hooked { disk: disk.clone(), hook: limit(calls) });
        let warehouse = Warehouse::with_store(ELSEWHERE, Arc::new(InMemory::new()));
        let open = {
            let warehouse = warehouse.clone();
            move || Ok(warehouse)
        };
        let (backup, data) = (Path::new("/backup"), Path::new("/data"));
        let restored = restore_into(limited, backup, data, open, &Progress::default()).await;
        for cut in [disk.clone(), disk.power_cut(&mut random), disk.power_cut(&mut random)] {
            match opened(cut, &warehouse) {
                // Whoever opens a directory in which nothing is makes a new server of it.
                Ok(tables) => assert!(tables == 1 || restored.is_err() && tables == 0, "after {calls} calls: {tables}"),
                Err(error) => {
                    assert!(restored.is_err(), "after {calls} calls it was restored: {error:?}");
                    assert!(error.to_string().contains("did not come to its end"), "after {calls} calls: {error:?}");
                    early += 1;
                }
            }
        }
        if restored.is_ok() {
            break;
        }
        calls += 1;
    }
    assert!(calls > 20 && early > 20, "{calls} calls, {early} refused");
}

/// How many tables an engine finds there.
fn opened(disk: Arc<MemoryDisk>, _warehouse: &Warehouse) -> Result<usize, Error> {
    let engine_options = thermocline_engine::EngineOptions { upkeep: false, ..Default::default() };
    let clock = Arc::new(thermocline_engine::SystemClock);
    let engine = thermocline_engine::Engine::open(disk, Path::new("/data"), engine_options, clock)?;
    let tables = engine.tables().len();
    engine.close();
    Ok(tables)
}

/// Writers, rounds that let go at once, rewrites and sweeps that keep nothing go on while backups are made.
#[tokio::test(flavor = "multi_thread")]
async fn every_acked_row_is_in_a_backup_whatever_goes_on() {
    const WRITERS: usize = 2;
    const KEYS: i64 = 20;
    let node = Arc::new(Node::eager().await);
    node.run("CREATE TABLE l (writer INT NOT NULL, n INT NOT NULL) WITH (buckets = 2, hot_retention = '0s', snapshot_retention = '0s')")
        .await;
    for (table, version) in [("k2", 2), ("k3", 3)] {
        node.run(&format!(
            "CREATE TABLE {table} (id INT PRIMARY KEY, n INT NOT NULL) WITH (format_version = {version}, buckets = 2, \
             hot_retention = '0s', snapshot_retention = '0s')"
        ))
        .await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let acked: Arc<Vec<AtomicI64>> = Arc::new((0..WRITERS + 2).map(|_| AtomicI64::new(0)).collect());
    let mut tasks = Vec::new();
    for writer in 0..WRITERS + 2 {
        let (node, stop, acked) = (node.clone(), stop.clone(), acked.clone());
        tasks.push(tokio::spawn(async move {
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                node.run(&match writer {
                    2 | 3 => format!("INSERT INTO k{writer} VALUES ({}, {n})", n % KEYS),
                    _ => format!("INSERT INTO l VALUES ({writer}, {n})"),
                })
                .await;
                acked[writer].store(n + 1, Ordering::SeqCst);
            }
        }));
    }
    for table in ["l", "k2", "k3"] {
        let (node, stop) = (node.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let table = node.table(table);
                node.tiering.tier(&table).await.unwrap();
                node.tiering.let_go_now(&table).await.unwrap();
                node.tiering.compact(&table).await.unwrap();
                node.tiering.sweep_now(&table).await.unwrap();
                node.engine.upkeep().await.unwrap();
            }
        }));
    }
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before: Vec<i64> = acked.iter().map(|acked| acked.load(Ordering::SeqCst)).collect();
        let (files, _) = node.back_up().await;
        let again = restored_to(disk_with(&files), ELSEWHERE).await.unwrap();
        for tiered in [false, true] {
            for (writer, before) in before.iter().enumerate().take(WRITERS) {
                let rows = again.rows(&format!("SELECT n FROM l WHERE writer = {writer} ORDER BY n")).await;
                assert!(rows.len() as i64 >= *before, "round {round}: {} rows of {before}", rows.len());
                assert!(rows.iter().enumerate().all(|(place, n)| *n == place.to_string()), "round {round}: {rows:?}");
            }
            for table in [2, 3] {
                let rows = again.rows(&format!("SELECT id, n FROM k{table} ORDER BY id")).await;
                let newest = again.rows(&format!("SELECT max(n) FROM k{table}")).await[0].parse().unwrap_or(-1);
                assert!(newest + 1 >= before[table], "round {round}: {newest} of {}", before[table]);
                // Of each key the newest of its rows.
                let of = |key: i64| (newest - key).div_euclid(KEYS) * KEYS + key;
                let expected: Vec<_> = (0..KEYS)
                    .map(|key| (key, of(key)))
                    .filter(|(_, n)| *n >= 0)
                    .map(|(key, n)| format!("{key}|{n}"))
                    .collect();
                assert_eq!(rows, expected, "round {round}");
            }
            if !tiered {
                for table in ["l", "k2", "k3"] {
                    again.tier(table).await;
                    again.let_go(table).await;
                }
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(acked.iter().all(|acked| acked.load(Ordering::SeqCst) > 10), "{acked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_and_broken_off_leaves_nothing() {
    let node = Node::new().await;
    fill(&node).await;
    let progress = Arc::new(Progress::default());
    progress.cancel();
    let broken = node.tiering.clone().back_up(node.disk.clone(), "/broken".into(), progress).await.unwrap_err();
    assert_eq!(broken.code(), Code::ShuttingDown, "{broken:?}");
    assert!(tree(&*node.disk, Path::new("/broken")).is_empty());
    let table = TableName::parse("public", "two").unwrap();
    assert!(node.engine.table(&table).is_ok());
    let back_up = |name: &str| {
        let progress = Arc::new(Progress::default());
        tokio::spawn(node.tiering.clone().back_up(node.disk.clone(), name.into(), progress))
    };
    let (first, second) = (back_up("/first"), back_up("/second"));
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    // They may have come one after the other.
    for error in [first.err(), second.err()].into_iter().flatten() {
        assert_eq!(error.code(), Code::TooBusy, "{error:?}");
    }
    // The very directory that was given up is taken.
    let again = node.tiering.clone().back_up(node.disk.clone(), "/broken".into(), Default::default()).await;
    again.unwrap();
}

/// Rows that were taken away are not missed, whether the lake has heard of it or not.
#[tokio::test(flavor = "multi_thread")]
async fn truncated_tables_are_backed_up() {
    for told in [false, true] {
        let node = Node::new().await;
        node.run("CREATE TABLE t (id INT)").await;
        node.run("INSERT INTO t VALUES (1), (2)").await;
        node.tier("t").await;
        node.run("INSERT INTO t VALUES (3)").await;
        node.run("TRUNCATE t").await;
        if told {
            node.tier("t").await;
        }
        node.run("INSERT INTO t VALUES (4)").await;
        let (files, _) = node.back_up().await;
        let restored = restored_to(disk_with(&files), ELSEWHERE).await.unwrap();
        assert_eq!(restored.rows("SELECT id, __offset FROM t").await, ["4|3"]);
        restored.tier("t").await;
        assert_eq!(restored.rows("SELECT id FROM \"t$lake\"").await, ["4"]);
        restored.close().await;
        node.close().await;
    }
}
