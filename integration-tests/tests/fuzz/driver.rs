//! One target in this process: its corpus as it is, then changed inputs until the time is over.
//!
//! An input whose outcome has a new shape (which error, how it was taken) is kept for further changes: that is the only
//! feedback there is, and it costs nothing. Every input is written to a file before it runs, so that one that ends the
//! process is found there.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::memory;
use crate::mutate::{self, BYTES_MAX, Source};

/// An input that takes longer is a hang.
const INPUT_TIME_MAX: Duration = Duration::from_secs(180);
/// More of a message is what the input said.
const SHAPE_CHARACTERS: usize = 80;
/// Inputs kept for further changes.
const POOL_MAX: usize = 1_000;

/// What is fuzzed: something that reads bytes from outside.
pub trait Target {
    /// Inputs that are as they should be, with names; made by our own encoders. They lie in the tree.
    fn seeds(&self) -> Vec<(String, Vec<u8>)>;

    /// Words of the format.
    fn words(&self) -> &'static [&'static str] {
        &[]
    }

    /// What one input may allocate: so many times its own size, and so many bytes more.
    fn memory(&self) -> (usize, usize);

    /// Changes an input.
    fn change(&self, input: &mut Vec<u8>, source: &Source<'_>, random: &mut StdRng) {
        mutate::mutate(input, source, random);
    }

    /// Reads an input and checks what comes of it. The error is a finding.
    fn run(&mut self, input: &[u8]) -> Result<Outcome, String>;

    /// Flips one bit of a good input, where that may be anywhere but not everywhere.
    fn flip(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        mutate::flip(input, random);
    }

    /// Reads an input that is `whole` but for one bit. The error is a finding.
    fn run_flipped(&mut self, _whole: &[u8], flipped: &[u8]) -> Result<Outcome, String> {
        self.run(flipped)
    }
}

/// What became of an input, in a shape that many inputs share.
pub enum Outcome {
    Taken(String),
    Refused(String),
}

impl Outcome {
    /// A refusal, unless it says that the fault is ours.
    pub fn refused(error: &thermocline_schemas::Error) -> Result<Outcome, String> {
        match error.code() {
            thermocline_schemas::Code::Internal => Err(format!("a fault of ours: {error:?}")),
            code => Ok(Outcome::Refused(format!("{} {}", code.as_str(), error.message()))),
        }
    }
}

/// What to do with a target.
pub struct Task {
    pub name: &'static str,
    pub time: Duration,
    pub seed: u64,
    /// Only this input.
    pub input: Option<PathBuf>,
    pub corpus: PathBuf,
    /// Where findings go.
    pub findings: PathBuf,
}

#[derive(Default)]
struct Tally {
    runs: u64,
    taken: u64,
    guarded_panics: u64,
    peak: usize,
    slowest: Duration,
    slowest_input: Vec<u8>,
    shapes: HashSet<u64>,
}

/// Runs a target; whether nothing was found.
pub fn run(mut target: Box<dyn Target>, task: &Task) -> bool {
    std::fs::create_dir_all(&task.findings).expect("findings need a place");
    let mut driver = Driver {
        current: File::create(task.findings.join(format!("{}.current", task.name))).expect("a file for inputs"),
        began: Arc::default(),
        zero: Instant::now(),
        tally: Tally::default(),
        task,
    };
    driver.watch();
    listen_to_panics();
    let started = Instant::now();
    let failed = match &task.input {
        Some(path) => {
            let input = std::fs::read(path).expect("the input can be read");
            driver.one(&mut *target, &input, None).err().map(|why| (input, why))
        }
        None => driver.all(&mut *target, started),
    };
    let tally = &driver.tally;
    println!(
        "{:<16} {:>9} inputs  {:>8.0}/s  {:>5.1} % taken  {:>5} shapes  peak {:>7.1} MiB asked, {:>6.0} MiB resident  slowest {:>6} ms  {} panics caught",
        task.name,
        tally.runs,
        tally.runs as f64 / started.elapsed().as_secs_f64(),
        100.0 * tally.taken as f64 / tally.runs.max(1) as f64,
        tally.shapes.len(),
        tally.peak as f64 / f64::from(1 << 20),
        memory::peak_resident() as f64 / f64::from(1 << 20),
        tally.slowest.as_millis(),
        tally.guarded_panics,
    );
    std::fs::write(task.findings.join(format!("{}.slowest", task.name)), &tally.slowest_input).expect("a file for it");
    let Some((input, why)) = failed else { return true };
    let path = task.findings.join(format!("{}-{:016x}", task.name, hash(&input)));
    std::fs::write(&path, &input).expect("a finding can be written");
    println!(
        "{}: {why}\n  again: THERMOCLINE_FUZZ_INPUT={} cargo test --workspace --test fuzz -- {}",
        task.name,
        path.display(),
        task.name
    );
    false
}

struct Driver<'a> {
    current: File,
    /// Milliseconds after `zero` at which the input began; 0 between inputs.
    began: Arc<AtomicU64>,
    zero: Instant,
    tally: Tally,
    task: &'a Task,
}

impl Driver<'_> {
    fn all(&mut self, target: &mut dyn Target, started: Instant) -> Option<(Vec<u8>, String)> {
        let corpus = read_corpus(&self.task.corpus);
        let mut costs = Vec::new();
        assert!(
            !corpus.is_empty(),
            "{} is empty: THERMOCLINE_FUZZ_WRITE_CORPUS=1 fills it",
            self.task.corpus.display()
        );
        for input in &corpus {
            let began = Instant::now();
            if let Err(why) = self.one(target, input, None) {
                return Some((input.clone(), why));
            }
            costs.push(began.elapsed());
        }
        let mut pool = corpus.clone();
        let mut random = StdRng::seed_from_u64(self.task.seed);
        while started.elapsed() < self.task.time {
            let flips = random.random_bool(0.2);
            let base = cheap(&costs[..if flips { corpus.len() } else { pool.len() }], &mut random);
            let mut input = pool[base].clone();
            if flips {
                target.flip(&mut input, &mut random);
            } else {
                target.change(&mut input, &Source { words: target.words(), pool: &pool }, &mut random);
            }
            let began = Instant::now();
            match self.one(target, &input, flips.then_some(pool[base].as_slice())) {
                Err(why) => return Some((input, why)),
                Ok(new) if new && input.len() < BYTES_MAX => {
                    if pool.len() >= POOL_MAX {
                        let place = random.random_range(corpus.len()..pool.len());
                        pool.swap_remove(place);
                        costs.swap_remove(place);
                    }
                    pool.push(input);
                    costs.push(began.elapsed());
                }
                Ok(_) => {}
            }
        }
        None
    }

    /// Runs one input; whether its outcome has a new shape.
    fn one(&mut self, target: &mut dyn Target, input: &[u8], whole: Option<&[u8]>) -> Result<bool, String> {
        self.current.set_len(input.len() as u64).and_then(|()| self.current.write_all_at(input, 0)).map_err(text)?;
        let began = Instant::now();
        self.began.store((began - self.zero).as_millis() as u64 + 1, Ordering::Relaxed);
        let memory = memory::begin();
        let outcome = catch_unwind(AssertUnwindSafe(|| match whole {
            Some(whole) => target.run_flipped(whole, input),
            None => target.run(input),
        }));
        let peak = memory::peak_since(memory);
        self.began.store(0, Ordering::Relaxed);
        let panics = std::mem::take(&mut *hold(&PANICS));
        self.tally.runs += 1;
        if began.elapsed() > self.tally.slowest {
            self.tally.slowest = began.elapsed();
            self.tally.slowest_input = input.to_vec();
        }
        self.tally.peak = self.tally.peak.max(peak);
        if let Some(ours) = panics.iter().find(|panic| panic.ours) {
            return Err(format!("our own code panicked: {}", ours.what));
        }
        let Ok(outcome) = outcome else {
            let what = panics.last().map_or("?", |panic| panic.what.as_str());
            return Err(format!("a panic that nothing caught: {what}"));
        };
        self.tally.guarded_panics += panics.len() as u64;
        let (times, more) = target.memory();
        if peak > times * input.len() + more {
            return Err(format!(
                "{peak} bytes at the peak for {} bytes of input: more than {times} times that and {more}",
                input.len()
            ));
        }
        let shape = match outcome? {
            Outcome::Taken(shape) => {
                self.tally.taken += 1;
                format!("taken {shape}")
            }
            Outcome::Refused(shape) => shape,
        };
        Ok(self.tally.shapes.insert(hash(&without_values(&shape))))
    }

    /// Ends the process when an input hangs.
    fn watch(&self) {
        let (began, zero, name) = (self.began.clone(), self.zero, self.task.name);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(200));
                let began = began.load(Ordering::Relaxed);
                if began > 0 && zero.elapsed() > Duration::from_millis(began) + INPUT_TIME_MAX {
                    println!("{name}: an input took longer than {INPUT_TIME_MAX:?}");
                    std::process::abort();
                }
            }
        });
    }
}

/// One of those inputs, mostly not one that takes long.
fn cheap(costs: &[Duration], random: &mut StdRng) -> usize {
    let tries: [usize; 3] = std::array::from_fn(|_| random.random_range(0..costs.len()));
    tries.into_iter().min_by_key(|place| costs[*place]).unwrap_or(0)
}

struct Panicked {
    what: String,
    ours: bool,
}

static PANICS: Mutex<Vec<Panicked>> = Mutex::new(Vec::new());

fn hold<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Panics of any thread are noted; whose they are, their place says: only this workspace's files have relative paths.
fn listen_to_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location();
        let ours = place.is_none_or(|place| !Path::new(place.file()).is_absolute());
        hold(&PANICS).push(Panicked { what: panic.to_string(), ours });
    }));
}

/// Files in a folder, by name.
fn read_corpus(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("the corpus can be read")).collect()
}

/// Messages that differ in their numbers, or in what they quote, have one shape.
fn without_values(text: &str) -> String {
    let mut shape = String::new();
    let mut quoted = None;
    for character in text.chars().take(SHAPE_CHARACTERS) {
        match character {
            _ if quoted.is_some() => quoted = quoted.filter(|quote| *quote != character),
            '"' | '\'' | '`' => quoted = Some(character),
            '0'..='9' if shape.ends_with('0') => {}
            '0'..='9' => shape.push('0'),
            other if other.is_ascii() => shape.push(other),
            _ => {}
        }
    }
    shape
}

pub fn hash(of: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
