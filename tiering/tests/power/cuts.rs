//! At every call, the images that a power cut may leave.
//!
//! Of the writes, lengths and names that no sync has covered, each subset may be there: all subsets where they are few, a
//! sample where they are many, always with none, with all, and with all but one. The last write may be torn at any
//! 512-byte sector, from either end. Each image is started, read, and now and then written to.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::{Disk, MemoryDisk};

use crate::disk::{Step, TestDisk};
use crate::scenario::{Cast, Knowledge, Life, Node};

const SECTOR: usize = 512;
/// At one call; `THERMOCLINE_IMAGES` multiplies it.
fn images_per_call(cast: Cast) -> usize {
    match cast {
        Cast::Logs => 6,
        // More calls, and more to read.
        Cast::Keys => 2,
    }
}

#[derive(Clone, Debug)]
enum Name {
    Directory,
    File(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Name { added: Option<(PathBuf, Name)>, removed: Option<PathBuf> },
    Write { file: usize, offset: usize, bytes: Vec<u8> },
    Length { file: usize, bytes: usize },
}

/// What a disk has for sure, and what it may have besides.
#[derive(Clone, Debug, Default)]
struct Disks {
    names_now: BTreeMap<PathBuf, Name>,
    names: BTreeMap<PathBuf, Name>,
    files: BTreeMap<usize, Vec<u8>>,
    /// In order.
    unsynced: Vec<Change>,
}

/// All that is on a disk.
#[derive(Clone, Debug, Default, Hash)]
pub struct Image {
    pub directories: Vec<PathBuf>,
    /// Two names of one file are one file here too: nobody writes to it after that.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Disks {
    fn step(&mut self, step: &Step) {
        let change = match step {
            Step::Known(_) => return,
            Step::SyncDirectory(directory) => {
                let (names, changes) = (&mut self.names, std::mem::take(&mut self.unsynced));
                self.unsynced = changes
                    .into_iter()
                    .filter(|change| {
                        let Change::Name { added, removed } = change else { return true };
                        let touched = added.iter().map(|(path, _)| path).chain(removed);
                        let covered = touched.into_iter().any(|path| path.parent() == Some(directory));
                        if covered {
                            apply_name(names, added, removed);
                        }
                        !covered
                    })
                    .collect();
                return;
            }
            Step::Sync { file } => {
                let changes = std::mem::take(&mut self.unsynced);
                for change in changes {
                    match &change {
                        Change::Write { file: own, .. } | Change::Length { file: own, .. } if own == file => {
                            apply_bytes(&mut self.files, &change);
                        }
                        _ => self.unsynced.push(change),
                    }
                }
                return;
            }
            Step::Create { path, file } => {
                self.files.insert(*file, Vec::new());
                Change::Name { added: Some((path.clone(), Name::File(*file))), removed: None }
            }
            Step::CreateDirectory(path) if self.names_now.contains_key(path) => return,
            Step::CreateDirectory(path) => Change::Name { added: Some((path.clone(), Name::Directory)), removed: None },
            Step::Rename { from, to } => {
                let name = self.names_now[from].clone();
                Change::Name { added: Some((to.clone(), name)), removed: Some(from.clone()) }
            }
            Step::Link { from, to } => {
                Change::Name { added: Some((to.clone(), self.names_now[from].clone())), removed: None }
            }
            Step::Remove(path) => Change::Name { added: None, removed: Some(path.clone()) },
            Step::Write { file, offset, bytes } => {
                Change::Write { file: *file, offset: *offset as usize, bytes: bytes.clone() }
            }
            Step::SetLength { file, bytes } => Change::Length { file: *file, bytes: *bytes as usize },
        };
        if let Change::Name { added, removed } = &change {
            apply_name(&mut self.names_now, added, removed);
        }
        self.unsynced.push(change);
    }

    /// With those of the unsynced changes that `kept` says, and of the last one only these bytes of a write.
    fn image(&self, kept: &[bool], torn: Option<std::ops::Range<usize>>) -> Image {
        let (mut names, mut files) = (self.names.clone(), self.files.clone());
        for (place, change) in self.unsynced.iter().enumerate().filter(|(place, _)| kept[*place]) {
            match (change, &torn) {
                (Change::Name { added, removed }, _) => apply_name(&mut names, added, removed),
                (Change::Write { file, offset, bytes }, Some(torn)) if place + 1 == kept.len() => {
                    let (offset, bytes) = (offset + torn.start, bytes[torn.clone()].to_vec());
                    apply_bytes(&mut files, &Change::Write { file: *file, offset, bytes });
                }
                (change, _) => apply_bytes(&mut files, change),
            }
        }
        // A name whose directory did not last is gone with it.
        let mut image = Image::default();
        for (path, name) in names {
            let parent = path.parent().expect("no file is the root");
            if parent.parent().is_some() && !image.directories.iter().any(|directory| directory == parent) {
                continue;
            }
            match name {
                Name::Directory => image.directories.push(path),
                Name::File(file) => drop(image.files.insert(path, files[&file].clone())),
            }
        }
        image
    }

    /// At most `count` of the images that a cut now may leave.
    fn images(&self, count: usize, random: &mut StdRng) -> Vec<Image> {
        let changes = self.unsynced.len();
        let mut subsets: BTreeSet<Vec<bool>> = BTreeSet::new();
        if changes < 20 && 1 << changes <= count {
            subsets.extend((0..1u32 << changes).map(|bits| (0..changes).map(|bit| bits >> bit & 1 == 1).collect()));
        } else {
            subsets.insert(vec![false; changes]);
            subsets.insert(vec![true; changes]);
            let mut tries = 0;
            while subsets.len() < count && tries < 4 * count {
                tries += 1;
                let density = [0.1, 0.5, 0.9][tries % 3];
                subsets.insert((0..changes).map(|_| random.random_bool(density)).collect());
                if tries % 3 == 0 {
                    let missing = random.random_range(0..changes);
                    subsets.insert((0..changes).map(|place| place != missing).collect());
                }
            }
        }
        let mut images: Vec<_> = subsets.iter().map(|kept| self.image(kept, None)).collect();
        if let Some(Change::Write { offset, bytes, .. }) = self.unsynced.last() {
            let first = SECTOR - offset % SECTOR;
            let tears: Vec<_> = (first..bytes.len()).step_by(SECTOR).collect();
            for _ in 0..(2 * tears.len()).min(count) {
                let tear = tears[random.random_range(0..tears.len())];
                let torn = if random.random_bool(0.5) { 0..tear } else { tear..bytes.len() };
                images.push(self.image(&vec![true; changes], Some(torn)));
            }
        }
        images
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, Name>, added: &Option<(PathBuf, Name)>, removed: &Option<PathBuf>) {
    if let Some(path) = removed {
        names.remove(path);
    }
    if let Some((path, name)) = added {
        names.insert(path.clone(), name.clone());
    }
}

fn apply_bytes(files: &mut BTreeMap<usize, Vec<u8>>, change: &Change) {
    match change {
        Change::Write { file, offset, bytes } => {
            let content = files.get_mut(file).expect("a file that was made");
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(bytes);
        }
        Change::Length { file, bytes } => files.get_mut(file).expect("a file that was made").resize(*bytes, 0),
        Change::Name { .. } => {}
    }
}

impl Image {
    pub fn of(disk: &MemoryDisk) -> Image {
        let mut image = Image::default();
        let mut waiting = VecDeque::from([PathBuf::from("/")]);
        while let Some(directory) = waiting.pop_front() {
            for entry in disk.list(&directory).expect("it was listed") {
                let path = directory.join(entry.name);
                if entry.is_directory {
                    image.directories.push(path.clone());
                    waiting.push_back(path);
                } else {
                    let bytes = disk.map(&path).expect("it was listed").to_vec();
                    image.files.insert(path, bytes);
                }
            }
        }
        image
    }

    pub fn disk(&self) -> Arc<MemoryDisk> {
        let disk = MemoryDisk::new();
        for directory in &self.directories {
            disk.create_directory(directory).expect("memory has room");
            disk.sync_directory(directory.parent().expect("no directory is the root")).expect("memory has room");
        }
        for (path, bytes) in &self.files {
            let file = disk.create(path).expect("memory has room");
            file.write_at(&mut [IoSlice::new(bytes)], 0).and_then(|()| file.sync()).expect("memory has room");
            disk.sync_directory(path.parent().expect("a file is in a directory")).expect("memory has room");
        }
        disk
    }
}

/// An image, and what was known when the power went.
struct Case {
    cast: Cast,
    call: usize,
    after: String,
    image: Image,
    known: Knowledge,
    write: bool,
}

async fn check(case: &Case) -> Result<(), String> {
    let disk = case.image.disk();
    let node = Node::start(disk.clone()).await.map_err(|error| format!("does not start: {error:?}"))?;
    let checked = node.check(&case.known).await.map_err(|error| format!("does not read: {error:?}"))?;
    checked?;
    let first = case.cast.tables().start;
    if case.write
        && let Some(table) = node.table(first)
    {
        node.write(first, 1_000_000).await.map_err(|error| format!("does not write: {error:?}"))?;
        node.tiering.tier(&table).await.map_err(|error| format!("does not tier: {error:?}"))?;
        node.tiering.let_go_now(&table).await.map_err(|error| format!("does not let go: {error:?}"))?;
        node.write(first, 1_000_100).await.map_err(|error| format!("does not write on: {error:?}"))?;
        node.engine.checkpoint().await.map_err(|error| format!("no checkpoint: {error:?}"))?;
        let before = node.show(&table).await.map_err(|error| format!("does not read on: {error:?}"))??;
        node.stop().await;
        let node = Node::start(disk).await.map_err(|error| format!("does not start twice: {error:?}"))?;
        let table = node.table(first).ok_or("a table is gone")?;
        let after = node.show(&table).await.map_err(|error| format!("does not read twice: {error:?}"))??;
        if before != after {
            return Err(format!("a second start shows other rows: {before}, then {after}"));
        }
        node.stop().await;
        return Ok(());
    }
    node.stop().await;
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn whatever_a_power_cut_leaves_holds_what_was_acked() {
    cut_everywhere(Cast::Logs);
}

#[test]
fn whatever_a_power_cut_leaves_holds_the_changes_that_were_acked() {
    cut_everywhere(Cast::Keys);
}

fn cut_everywhere(cast: Cast) {
    let recorder = TestDisk::recording();
    runtime().block_on(async {
        let mut life = Life::new(&recorder, cast);
        life.live().await;
        assert!(life.errors.is_empty(), "{:?}", life.errors);
        assert!(life.known.acked_requests() > 10);
    });
    let steps = recorder.steps();
    let per_call = images_per_call(cast) * crate::times("THERMOCLINE_IMAGES");
    let (mut disks, mut known, mut seen) = (Disks::default(), Knowledge::default(), HashSet::new());
    let mut random = StdRng::seed_from_u64(1);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Case>(64);
    let receiver = Mutex::new(receiver);
    let (checked, written, failures) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let runtime = runtime();
                loop {
                    let Ok(case) = receiver.lock().expect("no holder panics").recv() else { return };
                    if let Err(wrong) = runtime.block_on(check(&case)) {
                        let mut failures = failures.lock().expect("no holder panics");
                        failures.push(format!("cut at call {} ({}): {wrong}", case.call, case.after));
                    }
                    checked.fetch_add(1, Ordering::Relaxed);
                    written.fetch_add(usize::from(case.write), Ordering::Relaxed);
                }
            });
        }
        for (call, step) in steps.iter().enumerate() {
            disks.step(step);
            if let Step::Known(new) = step {
                known.add(*new);
            }
            for image in disks.images(per_call, &mut random) {
                let mut hasher = DefaultHasher::new();
                image.hash(&mut hasher);
                (known.acked_requests(), matches!(step, Step::Known(_))).hash(&mut hasher);
                if seen.insert(hasher.finish()) && failures.lock().expect("no holder panics").is_empty() {
                    let mut after = format!("{step:?}");
                    after.truncate(after.floor_char_boundary(160));
                    let write = seen.len() % 16 == 0;
                    sender
                        .send(Case { cast, call, after, image, known: known.clone(), write })
                        .expect("somebody checks");
                }
            }
        }
        drop(sender);
    });
    let failures = failures.into_inner().expect("no holder panics");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let (checked, written) = (checked.into_inner(), written.into_inner());
    let calls = steps.len();
    println!("{cast:?}: power cuts: {checked} images of {calls} calls checked, {written} of them written to as well");
    assert!(checked > 800, "only {checked} images");
}
