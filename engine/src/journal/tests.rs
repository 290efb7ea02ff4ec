//! The contract of a loglet, and what local files do with damage.

use std::any::Any;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::buffer::Buffer;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result, SchemaId, TableId};

use super::*;
use crate::disk::{Disk, DiskFile, Entry, MemoryDisk, RealDisk};

const FILE_BYTES: u64 = 4096;
const HEADER_BYTES: u64 = 64;

fn open(disk: &Arc<MemoryDisk>, from: u64) -> Result<(LocalJournal, Vec<Frame>)> {
    open_on(disk.clone(), Path::new("/journal"), Durability::Fsync, from)
}

fn open_on(disk: Arc<dyn Disk>, path: &Path, durability: Durability, from: u64) -> Result<(LocalJournal, Vec<Frame>)> {
    let mut frames = Vec::new();
    let span = Span { from: Position(from), durable: Position(from) };
    let journal = LocalJournal::recover(disk, path, durability, FILE_BYTES, span, &mut |found| {
        // Whoever reads a bare journal has no buckets to refuse: damage ends it.
        match found {
            Recovered::Frame(frame) => match frame.damage.values().next() {
                Some(wrong) => return Err(Error::corrupt(wrong)),
                None => frames.push(frame),
            },
            Recovered::Gap(gap) => return Err(Error::corrupt(gap.reason)),
        }
        Ok(())
    })?;
    Ok((journal, frames))
}

fn draft(number: u32, payload_bytes: usize) -> Draft {
    let payload = Buffer::from(vec![number as u8; payload_bytes]);
    let mut part = Part::new(PartitionBucket::unpartitioned(0), SchemaId(0), 1, payload);
    part.base = Offset(u64::from(number));
    Draft { kind: FrameKind::Data, table: TableId(1), parts: vec![part], extra: number.to_le_bytes().to_vec() }
}

fn numbers(frames: &[Frame]) -> Vec<u32> {
    frames.iter().map(|frame| u32::from_le_bytes(frame.draft.extra.as_slice().try_into().unwrap())).collect()
}

fn read(loglet: &dyn Loglet, from: Position) -> Vec<u32> {
    let mut frames = Vec::new();
    loglet
        .read(from, &mut |frame| {
            frames.push(frame);
            Ok(())
        })
        .unwrap();
    numbers(&frames)
}

/// A disk whose syncs of files fail when told to.
#[derive(Debug)]
struct FailingSync(Arc<MemoryDisk>, Arc<AtomicBool>);

#[derive(Debug)]
struct FailingFile(Arc<dyn DiskFile>, Arc<AtomicBool>);

impl Disk for FailingSync {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(FailingFile(self.0.create(path)?, self.1.clone())))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(FailingFile(self.0.open(path)?, self.1.clone())))
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
        self.0.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.0.lock(path)
    }
}

impl DiskFile for FailingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::Error::other("input/output error"));
        }
        self.0.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

#[test]
fn a_group_whose_sync_failed_is_not_served_by_the_next_start() {
    let (disk, fails) = (MemoryDisk::new(), Arc::new(AtomicBool::new(false)));
    let failing = Arc::new(FailingSync(disk.clone(), fails.clone()));
    let (mut journal, _) = open_on(failing, Path::new("/journal"), Durability::Fsync, 0).unwrap();
    journal.append(&[draft(0, 100)], 1).unwrap();
    fails.store(true, Ordering::Relaxed);
    assert!(matches!(journal.append(&[draft(1, 100), draft(2, 3000)], 2), Err(AppendError::Fatal(_))));
    fails.store(false, Ordering::Relaxed);
    assert!(matches!(journal.append(&[draft(3, 100)], 3), Err(AppendError::Fatal(_))), "it ends here");
    // The process starts anew; the system was up all the time.
    let (mut journal, found) = open(&disk, 0).unwrap();
    assert_eq!(numbers(&found), [0]);
    journal.append(&[draft(4, 10)], 4).unwrap();
    for seed in 0..20 {
        let left = disk.power_cut(&mut StdRng::seed_from_u64(seed));
        assert_eq!(numbers(&open(&left, 0).unwrap().1), [0, 4]);
    }
}

/// What every loglet must do.
fn contract(loglet: &mut dyn Loglet) {
    assert_eq!(read(loglet, Position(0)), [0; 0]);
    let first = loglet.append(&[draft(0, 10), draft(1, 0)], 100).unwrap();
    assert_eq!((first[0].position, first[0].end, first[1].end), (Position(0), first[1].position, loglet.tail()));
    // A clock that goes back does not take the stamps along.
    loglet.not_before(70);
    let second = loglet.append(&[draft(2, 3000)], 50).unwrap();
    assert_eq!((first[0].stamp, second[0].stamp), (100, 100));
    for number in 3..20 {
        loglet.append(&[draft(number, 700)], i64::from(number) * 100).unwrap();
    }
    assert_eq!(read(loglet, Position(0)), (0..20).collect::<Vec<_>>());
    assert_eq!(read(loglet, second[0].position), (2..20).collect::<Vec<_>>());
    loglet.trim(second[0].position).unwrap();
    assert!(loglet.head() <= second[0].position);
    let tail = loglet.tail();
    loglet.trim(tail).unwrap();
    assert!(loglet.head() > Position(0), "files that nobody needs go");
    loglet.seal().unwrap();
    loglet.seal().unwrap();
    assert!(matches!(loglet.append(&[draft(99, 1)], 0), Err(AppendError::Refused(_))));
}

#[test]
fn local_journal_keeps_the_contract() {
    let (mut journal, _) = open(&MemoryDisk::new(), 0).unwrap();
    contract(&mut journal);
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal");
    let (mut journal, _) = open_on(Arc::new(RealDisk), &path, Durability::Fsync, 0).unwrap();
    contract(&mut journal);
    let head = journal.head().0;
    drop(journal);
    let (mut journal, _) = open_on(Arc::new(RealDisk), &path, Durability::Fsync, head).unwrap();
    assert!(matches!(journal.append(&[draft(99, 1)], 0), Err(AppendError::Refused(_))), "a seal outlives the process");
}

#[test]
fn what_was_appended_comes_back_and_goes_on() {
    let disk = MemoryDisk::new();
    for round in 0..5 {
        let (mut journal, frames) = open(&disk, 0).unwrap();
        assert_eq!(numbers(&frames), (0..round * 10).collect::<Vec<_>>());
        for number in round * 10..round * 10 + 10 {
            journal.append(&[draft(number, number as usize * 20)], 1).unwrap();
        }
    }
}

/// Runs groups until a power cut, and says which numbers had been answered and which came back.
fn cut(seed: u64, durability: Durability) -> (u32, Vec<u32>) {
    let random = &mut StdRng::seed_from_u64(seed);
    let disk = MemoryDisk::new();
    let (mut journal, _) = open_on(disk.clone(), Path::new("/journal"), durability, 0).unwrap();
    let mut number = 0;
    for _ in 0..random.random_range(1..12) {
        let group: Vec<_> =
            (0..random.random_range(1..4)).map(|at| draft(number + at, random.random_range(0..2000))).collect();
        journal.append(&group, 1).unwrap();
        number += group.len() as u32;
    }
    let left = disk.power_cut(random);
    let frames = match open_on(left, Path::new("/journal"), durability, 0) {
        Ok((_, frames)) => numbers(&frames),
        Err(_) => Vec::new(),
    };
    (number, frames)
}

#[test]
fn a_power_cut_takes_nothing_that_was_answered() {
    for seed in 0..300 {
        let (answered, found) = cut(seed, Durability::Fsync);
        assert_eq!(found, (0..answered).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn without_fsync_the_same_test_fails() {
    let losses = (0..100).filter(|seed| {
        let (answered, found) = cut(*seed, Durability::Os);
        found.len() < answered as usize
    });
    assert!(losses.count() > 50, "the disk in memory must be able to lose what was not synced");
}

#[test]
fn an_unsynced_group_half_there_is_cut_off() {
    for seed in 0..300 {
        let random = &mut StdRng::seed_from_u64(seed);
        let disk = MemoryDisk::new();
        let (mut journal, _) = open(&disk, 0).unwrap();
        for number in 0..3 {
            journal.append(&[draft(number, 300)], 1).unwrap();
        }
        // The same bytes, not synced: what a crash between write and sync leaves.
        let (mut unsynced, _) = open_on(disk.clone(), Path::new("/journal"), Durability::Os, 0).unwrap();
        unsynced.append(&[draft(3, 600), draft(4, 600), draft(5, 10)], 1).unwrap();
        let (_, frames) = open(&disk.power_cut(random), 0).unwrap();
        let found = numbers(&frames);
        assert!(found.len() >= 3 && found == (0..found.len() as u32).collect::<Vec<_>>(), "seed {seed}: {found:?}");
        assert!(frames.iter().all(|frame| frame.draft.parts.len() == 1), "seed {seed}: a part of a frame");
    }
}

/// What a killed process had not synced is served by the next one: it must have synced it before.
#[test]
fn what_recovery_has_shown_outlives_a_power_cut() {
    for seed in 0..20 {
        let disk = MemoryDisk::new();
        let (mut unsynced, _) = open_on(disk.clone(), Path::new("/journal"), Durability::Os, 0).unwrap();
        unsynced.append(&[draft(0, 600), draft(1, 600)], 1).unwrap();
        assert_eq!(numbers(&open(&disk, 0).unwrap().1), [0, 1]);
        let left = disk.power_cut(&mut StdRng::seed_from_u64(seed));
        assert_eq!(numbers(&open(&left, 0).unwrap().1), [0, 1], "seed {seed}");
    }
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk, 0).unwrap();
    for number in 0..8 {
        journal.append(&[draft(number, 900)], 1).unwrap();
    }
    journal.append(&[Draft::bare(FrameKind::Mark, 8u32.to_le_bytes().to_vec())], 1).unwrap();
    let files: Vec<_> = disk.list(Path::new("/journal")).unwrap();
    assert!(files.len() > 1);
    let (mut refused, mut harmless) = (0, 0);
    for file in &files {
        let path = Path::new("/journal").join(&file.name);
        for bit in (0..file.bytes * 8).step_by(37) {
            disk.flip_bit(&path, bit).unwrap();
            match open(&disk, 0) {
                Ok((_, frames)) => {
                    let found = numbers(&frames);
                    // Only the mark itself may be taken for a torn tail; padding says nothing.
                    assert!(found.len() >= 8, "{} bit {bit}: lost {found:?}", file.name);
                    assert!(
                        frames
                            .iter()
                            .take(8)
                            .enumerate()
                            .all(|(at, frame)| frame.draft.parts[0].payload.as_slice() == [at as u8; 900])
                    );
                    harmless += 1;
                    if found.len() == 8 {
                        journal = open(&disk, 0).unwrap().0;
                        journal.append(&[Draft::bare(FrameKind::Mark, 8u32.to_le_bytes().to_vec())], 1).unwrap();
                        continue;
                    }
                }
                Err(error) => {
                    assert_eq!(error.code(), Code::Corrupt);
                    assert!(error.message().contains(&file.name), "{error}");
                    refused += 1;
                }
            }
            disk.flip_bit(&path, bit).unwrap();
        }
    }
    assert!(refused > 1000 && harmless > 0, "{refused} refused, {harmless} harmless");
}

/// A group of two frames is half there, and its second half is what says that the first frame of all was durable.
#[test]
fn rot_is_told_again_after_a_torn_tail_was_cut_off() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk, 0).unwrap();
    journal.append(&[draft(0, 300)], 1).unwrap();
    journal.append(&[draft(1, 300), draft(2, 300)], 1).unwrap();
    drop(journal);
    let file = disk.list(Path::new("/journal")).unwrap().remove(0);
    let path = Path::new("/journal").join(&file.name);
    // The payload of the first frame, the header of the second.
    let frame_bytes = (file.bytes - HEADER_BYTES) / 3;
    disk.flip_bit(&path, (HEADER_BYTES + frame_bytes - 100) * 8).unwrap();
    disk.flip_bit(&path, (HEADER_BYTES + frame_bytes + 10) * 8).unwrap();
    let damaged = |disk: &Arc<MemoryDisk>| {
        let (mut frames, mut damaged) = (0, 0);
        let (path, mode) = (Path::new("/journal"), Durability::Fsync);
        let journal = LocalJournal::recover(disk.clone(), path, mode, FILE_BYTES, Span::default(), &mut |found| {
            let Recovered::Frame(frame) = found else { panic!("a gap") };
            frames += 1;
            damaged += usize::from(!frame.damage.is_empty());
            Ok(())
        });
        (damaged, frames, journal.unwrap().torn_bytes().unwrap())
    };
    for seed in 0..20 {
        assert_eq!(damaged(&disk), (1, 2, 0), "the damaged frame, and a mark");
        assert_eq!(damaged(&disk.power_cut(&mut StdRng::seed_from_u64(seed))), (1, 2, 0), "{seed}");
    }
}
