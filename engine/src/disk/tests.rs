//! One contract for every disk, and what a power cut may take.

use std::io::{ErrorKind, IoSlice};
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn write(file: &dyn DiskFile, bytes: &[u8], offset: u64) {
    file.write_at(&mut [IoSlice::new(bytes)], offset).unwrap();
}

fn contract(disk: &dyn Disk, root: &Path) {
    create_directories(disk, &root.join("a/b")).unwrap();
    let path = root.join("a/b/file");
    let file = disk.create(&path).unwrap();
    assert_eq!(disk.create(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    file.write_at(&mut [IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two")], 2).unwrap();
    file.sync().unwrap();
    assert_eq!(file.len().unwrap(), 8);
    let mut read = [0; 6];
    file.read_at(&mut read, 2).unwrap();
    assert_eq!(&read, b"onetwo");
    assert_eq!(file.read_at(&mut read, 3).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(disk.map(&path).unwrap().as_slice(), b"\0\0onetwo");
    file.set_len(5).unwrap();
    assert_eq!(disk.map(&path).unwrap().as_slice(), b"\0\0one");

    let second = root.join("a/second");
    disk.link(&path, &second).unwrap();
    assert_eq!(disk.link(&path, &second).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let mapped = disk.map(&second).unwrap();
    disk.remove(&path).unwrap();
    assert_eq!(disk.open(&path).unwrap_err().kind(), ErrorKind::NotFound);
    disk.rename(&second, &root.join("a/third")).unwrap();
    assert_eq!(mapped.as_slice(), b"\0\0one");
    let names: Vec<_> =
        disk.list(&root.join("a")).unwrap().into_iter().map(|entry| (entry.name, entry.is_directory)).collect();
    assert_eq!(names, [("b".to_owned(), true), ("third".to_owned(), false)]);
    assert_eq!(disk.create(&root.join("none/file")).unwrap_err().kind(), ErrorKind::NotFound);
    write_durably(disk, &root.join("a/third"), b"new").unwrap();
    assert_eq!(disk.map(&root.join("a/third")).unwrap().as_slice(), b"new");
}

#[test]
fn real_disk_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    contract(&RealDisk, root.path());
}

#[test]
fn memory_disk_keeps_the_contract() {
    contract(&*MemoryDisk::new(), Path::new("/root"));
}

#[test]
fn a_lock_is_held_once() {
    let root = tempfile::tempdir().unwrap();
    let held = RealDisk.lock(&root.path().join("lock")).unwrap();
    assert_eq!(RealDisk.lock(&root.path().join("lock")).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(held);
    RealDisk.lock(&root.path().join("lock")).unwrap();
}

#[test]
fn a_power_cut_takes_only_what_was_not_synced() {
    let mut taken = [false; 2];
    for seed in 0..64 {
        let disk = MemoryDisk::new();
        let root = Path::new("/data");
        create_directories(&*disk, root).unwrap();
        let file = disk.create(&root.join("synced")).unwrap();
        write(&*file, &[1; 2000], 0);
        file.sync().unwrap();
        disk.sync_directory(root).unwrap();
        write(&*file, &[2; 2000], 1000);
        disk.create(&root.join("unsynced")).unwrap();

        let left = disk.power_cut(&mut StdRng::seed_from_u64(seed));
        let bytes = left.map(&root.join("synced")).unwrap();
        assert_eq!(&bytes[..1000], [1; 1000]);
        assert!(bytes[1000..].iter().all(|byte| [0, 1, 2].contains(byte)));
        taken[0] |= bytes.len() == 2000;
        taken[1] |= left.open(&root.join("unsynced")).is_err();
    }
    assert_eq!(taken, [true; 2], "some cut takes the write, some cut takes the name");
}
