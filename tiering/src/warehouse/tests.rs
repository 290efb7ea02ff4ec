//! The contract that lakes rest on, run on every store that can hold one; and what only a disk must do.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use arrow::buffer::Buffer;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use thermocline_engine::disk::{Disk, DiskFile, Entry, MemoryDisk, RealDisk, create_directories};

use super::directories::Directories;
use super::*;

fn real() -> (tempfile::TempDir, Arc<dyn ObjectStore>) {
    let directory = tempfile::tempdir().unwrap();
    let store = DiskStore::open(Arc::new(RealDisk), directory.path()).unwrap();
    (directory, Arc::new(store))
}

fn in_memory_disk() -> Arc<dyn ObjectStore> {
    Arc::new(DiskStore::open(MemoryDisk::new(), Path::new("/data/lake")).unwrap())
}

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

async fn create(store: &dyn ObjectStore, at: &str, bytes: &'static str) -> object_store::Result<()> {
    let options = PutOptions::from(PutMode::Create);
    store.put_opts(&path(at), PutPayload::from_static(bytes.as_bytes()), options).await.map(drop)
}

async fn read(store: &dyn ObjectStore, at: &str) -> Bytes {
    store.get(&path(at)).await.unwrap().bytes().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_keeps_the_contract() {
    let (_directory, on_disk) = real();
    for store in [on_disk, in_memory_disk(), Arc::new(InMemory::new()) as _] {
        contract(store).await;
    }
}

async fn contract(store: Arc<dyn ObjectStore>) {
    // Of many that create one name, one does.
    for round in 0..20 {
        let name = format!("race/v{round}");
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                let (store, name) = (store.clone(), name.clone());
                tokio::spawn(async move {
                    let options = PutOptions::from(PutMode::Create);
                    (racer, store.put_opts(&path(&name), PutPayload::from(racer.to_string()), options).await)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for racer in racers {
            match racer.await.unwrap() {
                (racer, Ok(_)) => winners.push(racer.to_string()),
                (_, Err(Error::AlreadyExists { .. })) => {}
                (_, Err(error)) => panic!("{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(read(&*store, &name).await, winners[0]);
    }

    // Overwriting, reading in ranges, what is not there.
    create(&*store, "a/b/one", "0123456789").await.unwrap();
    assert!(matches!(create(&*store, "a/b/one", "x").await, Err(Error::AlreadyExists { .. })));
    store.put(&path("a/b/two"), PutPayload::from_static(b"old")).await.unwrap();
    store.put(&path("a/b/two"), PutPayload::from_static(b"newer")).await.unwrap();
    assert_eq!(read(&*store, "a/b/two").await, "newer");
    assert_eq!(store.get_range(&path("a/b/one"), 2..5).await.unwrap(), "234");
    assert_eq!(store.get_ranges(&path("a/b/one"), &[0..1, 8..10]).await.unwrap(), ["0", "89"]);
    for (range, expected) in
        [(GetRange::Offset(7), "789"), (GetRange::Suffix(2), "89"), (GetRange::Bounded(8..99), "89")]
    {
        let options = GetOptions::new().with_range(Some(range));
        let got = store.get_opts(&path("a/b/one"), options).await.unwrap();
        assert_eq!((got.meta.size, got.bytes().await.unwrap()), (10, Bytes::from(expected)));
    }
    assert!(store.get_range(&path("a/b/one"), 10..11).await.is_err());
    assert_eq!(store.head(&path("a/b/one")).await.unwrap().size, 10);
    for missing in ["a/b/none", "a/b", "a/b/one/below", "none/at/all"] {
        assert!(matches!(store.get(&path(missing)).await, Err(Error::NotFound { .. })), "{missing}");
        assert!(matches!(store.head(&path(missing)).await, Err(Error::NotFound { .. })), "{missing}");
    }

    // Listing goes by whole parts of paths and is sorted.
    store.put(&path("a/bc/three"), PutPayload::new()).await.unwrap();
    let list = async |prefix: &str| -> Vec<String> {
        let found: Vec<_> = store.list(Some(&path(prefix))).try_collect().await.unwrap();
        found.iter().map(|object| object.location.to_string()).collect()
    };
    assert_eq!(list("a").await, ["a/b/one", "a/b/two", "a/bc/three"]);
    assert_eq!(list("a/b").await, ["a/b/one", "a/b/two"]);
    assert!(list("a/b/one").await.is_empty() && list("nothing").await.is_empty());
    let level = store.list_with_delimiter(Some(&path("a"))).await.unwrap();
    assert_eq!((level.common_prefixes, level.objects.len()), (vec![path("a/b"), path("a/bc")], 0));
    let level = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(level.common_prefixes, [path("a"), path("race")]);

    // Copies, renames, deletes.
    store.copy(&path("a/b/one"), &path("c/copy")).await.unwrap();
    let taken = store.copy_if_not_exists(&path("a/b/two"), &path("c/copy")).await;
    assert!(matches!(taken, Err(Error::AlreadyExists { .. })));
    store.rename(&path("a/b/two"), &path("c/moved")).await.unwrap();
    assert_eq!((read(&*store, "c/copy").await, read(&*store, "c/moved").await), ("0123456789".into(), "newer".into()));
    assert_eq!(list("a/b").await, ["a/b/one"]);
    store.delete(&path("a/b/one")).await.unwrap();
    assert!(list("a/b").await.is_empty());

    // An upload in parts shows itself whole, or not at all.
    let upload = store.put_multipart(&path("large")).await.unwrap();
    let mut writer = WriteMultipart::new_with_chunk_size(upload, 1 << 20);
    let bytes: Bytes = (0..10_500_000u32).map(|number| (number % 251) as u8).collect();
    writer.put(bytes.clone());
    assert!(matches!(store.get(&path("large")).await, Err(Error::NotFound { .. })));
    writer.finish().await.unwrap();
    assert_eq!(read(&*store, "large").await, bytes);
    let mut upload = store.put_multipart(&path("given-up")).await.unwrap();
    upload.put_part(PutPayload::from_static(b"abc")).await.unwrap();
    upload.abort().await.unwrap();
    assert!(matches!(store.get(&path("given-up")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn an_upload_with_a_hole_gets_no_name() {
    let store = in_memory_disk();
    let mut upload = store.put_multipart(&path("holey")).await.unwrap();
    drop(upload.put_part(PutPayload::from_static(b"never waited for")));
    upload.put_part(PutPayload::from_static(b"abc")).await.unwrap();
    assert!(upload.complete().await.is_err());
    assert!(matches!(store.get(&path("holey")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn nothing_leads_out_of_the_root_or_into_staged_files() {
    let (directory, store) = real();
    std::fs::write(directory.path().parent().unwrap().join("thermocline-outside"), "secret").unwrap();
    for text in ["../thermocline-outside", "a/../../thermocline-outside", "./x", "a//b"] {
        assert!(StorePath::parse(text).is_err(), "{text}");
        // The lenient way makes a name of it that stays inside.
        let inside = StorePath::from(text);
        assert!(store.get(&inside).await.is_err());
        store.put(&inside, PutPayload::from_static(b"x")).await.unwrap();
        assert_eq!(read(&*store, inside.as_ref()).await, "x");
    }
    std::fs::remove_file(directory.path().parent().unwrap().join("thermocline-outside")).unwrap();
    for text in [".staged/x", ".staged", "a\\..\\b"] {
        assert!(store.put(&path(text), PutPayload::new()).await.is_err(), "{text}");
        assert!(store.get(&path(text)).await.is_err(), "{text}");
    }
}

#[tokio::test]
async fn left_overs_are_removed_at_opening_and_never_listed() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(DiskStore::open(Arc::new(RealDisk), directory.path()).unwrap());
    let mut upload = store.put_multipart(&path("x")).await.unwrap();
    upload.put_part(PutPayload::from_static(b"abc")).await.unwrap();
    drop(upload);
    let staged = || std::fs::read_dir(directory.path().join(".staged")).unwrap().count();
    assert_eq!(staged(), 1);
    assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert!(store.list_with_delimiter(None).await.unwrap().common_prefixes.is_empty());
    let store = DiskStore::open(Arc::new(RealDisk), directory.path()).unwrap();
    create(&store, "y", "1").await.unwrap();
    assert!(create(&store, "y", "2").await.is_err());
    assert_eq!(staged(), 0);
}

#[tokio::test]
async fn what_was_answered_outlives_a_power_cut() {
    let root = Path::new("/data/lake");
    for seed in 0..50 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = MemoryDisk::new();
        let store = DiskStore::open(disk.clone(), root).unwrap();
        create(&store, "deep/er/created", "one").await.unwrap();
        store.put(&path("deep/put"), PutPayload::from_static(b"old")).await.unwrap();
        store.put(&path("deep/put"), PutPayload::from_static(b"new")).await.unwrap();
        let mut upload = store.put_multipart(&path("in/parts")).await.unwrap();
        upload.put_part(PutPayload::from_static(b"abc")).await.unwrap();
        upload.complete().await.unwrap();
        create(&store, "deleted", "x").await.unwrap();
        store.delete(&path("deleted")).await.unwrap();
        let left = DiskStore::open(disk.power_cut(&mut random), root).unwrap();
        assert_eq!(read(&left, "deep/er/created").await, "one", "seed {seed}");
        assert_eq!(read(&left, "deep/put").await, "new", "seed {seed}");
        assert_eq!(read(&left, "in/parts").await, "abc", "seed {seed}");
        assert!(matches!(left.get(&path("deleted")).await, Err(Error::NotFound { .. })));
    }
}

/// A reader that comes between a name and the sync of its directory makes the name last before it reads.
#[test]
fn a_name_that_was_read_outlives_a_power_cut() {
    for seed in 0..20 {
        let (disk, root) = (MemoryDisk::new(), Path::new("/data/lake"));
        create_directories(&*disk, root).unwrap();
        let directories = Directories::new(disk.clone(), root);
        directories.before_reading(&root.join("earlier")).unwrap();
        let name = root.join("object");
        directories.announce(&name);
        disk.create(&name).unwrap();
        directories.before_reading(&name).unwrap();
        assert!(disk.power_cut(&mut StdRng::seed_from_u64(seed)).open(&name).is_ok(), "seed {seed}");
    }
}

/// A disk whose directory syncs fail from some moment on.
#[derive(Debug)]
struct FailingSync(Arc<MemoryDisk>, std::sync::atomic::AtomicBool);

impl Disk for FailingSync {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path)
    }
    fn map(&self, path: &Path) -> io::Result<Buffer> {
        self.0.map(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(directory)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.0.create_directory(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::other("input/output error"));
        }
        self.0.sync_directory(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn std::any::Any + Send + Sync>> {
        self.0.lock(path)
    }
}

#[tokio::test]
async fn a_name_that_may_not_last_is_never_read() {
    let disk = Arc::new(FailingSync(MemoryDisk::new(), false.into()));
    let root = Path::new("/data/lake");
    let store = DiskStore::open(disk.clone(), root).unwrap();
    create(&store, "t/v1", "1").await.unwrap();
    disk.1.store(true, std::sync::atomic::Ordering::Relaxed);
    create(&store, "t/v2", "2").await.unwrap_err();
    // v2 is there to see, but a commit must not be taken for done on its account.
    assert!(disk.open(&root.join("t/v2")).is_ok());
    assert!(matches!(store.get(&path("t/v2")).await, Err(Error::Generic { .. })));
    // Nor after the disk has recovered: what it lost before, a later sync does not tell.
    disk.1.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(store.get(&path("t/v2")).await.is_err() && create(&store, "t/v3", "3").await.is_err());
    // A new process reads what is there, and makes it last first.
    let store = DiskStore::open(disk.clone(), root).unwrap();
    assert_eq!(read(&store, "t/v2").await, "2");
    for seed in 0..20 {
        let left = disk.0.power_cut(&mut StdRng::seed_from_u64(seed));
        assert!(left.open(&root.join("t/v2")).is_ok(), "seed {seed}");
    }
}

#[tokio::test]
async fn a_full_disk_says_so() {
    #[derive(Debug)]
    struct Full;
    impl DiskFile for Full {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
        fn write_at(&self, _: &mut [IoSlice<'_>], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
    }
    let error = Full.write_at(&mut [], 0).unwrap_err();
    let error = store_error(errors::from_io(&"x", error), "write x");
    assert_eq!((error.code(), error.message()), (Code::DiskFull, "cannot write x"));
}

#[test]
fn addresses_and_paths_are_one_to_one() {
    let warehouse = Warehouse::local(MemoryDisk::new(), Path::new("/data/./x/../my lake/")).unwrap();
    assert_eq!(warehouse.root_url(), "file:///data/my lake");
    let file = path("shop/orders/data/__bucket=3/a.parquet");
    assert_eq!(warehouse.url(&file), "file:///data/my lake/shop/orders/data/__bucket=3/a.parquet");
    for same in ["file:///data/my lake/", "file:/data/my lake/", "/data/my lake/"] {
        assert_eq!(warehouse.path(&format!("{same}{file}")).unwrap(), file);
    }
    for outside in ["/data/my lakes/x", "/data/x", "s3://data/my lake/x", "/data/my lake/../x", "/data/my lake"] {
        assert!(warehouse.path(outside).is_err(), "{outside}");
    }
    let bucket = Warehouse::with_store("s3://b/p/", Arc::new(InMemory::new()));
    assert_eq!(bucket.path("s3a://b/p/x/y").unwrap(), path("x/y"));
    assert!(bucket.path("s3://b/q/x").is_err() && bucket.path("file:///b/p/x").is_err());
}

#[test]
fn addresses_of_other_kinds_are_refused() {
    for url in ["gs://bucket/x", "http://host/x", "file://host/x", "s3://", "s3:///x", "s3://bucket/a?b", "/data/a#b"] {
        let refused = Warehouse::open(url, MemoryDisk::new()).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidRequest, "{url}");
    }
    let local = Warehouse::open("file:///data/lake", MemoryDisk::new()).unwrap();
    assert_eq!(local.root_url(), "file:///data/lake");
}
