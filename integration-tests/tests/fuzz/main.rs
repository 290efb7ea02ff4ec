//! Bytes from outside, changed at random, against everything of ours that reads some.
//!
//! Each target runs in a process of its own, as many at a time as there are cores. Of every input it is checked that it is
//! refused or taken and survives the way back to bytes; that no panic leaves the code (nor starts in ours), nothing aborts
//! and nothing hangs; that the memory it takes is bounded by its size; and, target by target, what its module says. What is
//! found is written below `target/tmp/fuzz` with the command that runs it again.
//!
//!     cargo test --workspace --test fuzz                                  # all targets, 10 seconds each
//!     THERMOCLINE_FUZZ_SECONDS=3600 cargo test --workspace --test fuzz -- parquet arrow
//!     THERMOCLINE_FUZZ_SEED=7                                             # other inputs
//!     THERMOCLINE_FUZZ_INPUT=<file> cargo test --workspace --test fuzz -- parquet
//!     THERMOCLINE_FUZZ_WRITE_CORPUS=1 cargo test --workspace --test fuzz  # what `seeds` says, into `corpus/`
//!
//! It is a plain driver and not libFuzzer because that needs a nightly compiler; it has no coverage to go by.

#![allow(clippy::print_stdout)] // what was covered is for people to see

mod driver;
mod memory;
mod mutate;
mod targets;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Duration;

use driver::{Target, Task};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// The stack of the threads that decode uploads, which is tokio's default.
const STACK_BYTES: usize = 2 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [run, name] = arguments.as_slice()
        && run == "--run"
    {
        return run_one(name);
    }
    // What a test harness knows beside names means nothing here.
    let wanted: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen =
        targets::ALL.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|want| name.contains(*want)));
    let chosen: Vec<_> = chosen.map(|(name, _)| *name).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("THERMOCLINE_FUZZ_WRITE_CORPUS").is_some() {
        chosen.iter().for_each(|name| write_corpus(name));
        return ExitCode::SUCCESS;
    }
    println!("fuzzing {} targets, {} s each, seed {}", chosen.len(), seconds().as_secs(), seed());
    if run_all(&chosen) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn seconds() -> Duration {
    Duration::from_secs(setting("THERMOCLINE_FUZZ_SECONDS").unwrap_or(10))
}

fn seed() -> u64 {
    setting("THERMOCLINE_FUZZ_SEED").unwrap_or(1)
}

/// A process for each, a core for each process.
fn run_all(names: &[&'static str]) -> bool {
    let waiting = Mutex::new(names.iter());
    let failed = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("nobody panics with it").next();
                    let Some(name) = next else { break };
                    let own = std::env::current_exe().expect("a test knows where it is");
                    // Backtraces of errors that are only counted would take most of the time.
                    let status = Command::new(own)
                        .args(["--run", name])
                        .env_remove("RUST_BACKTRACE")
                        .status()
                        .expect("a target starts");
                    if !status.success() {
                        println!("{name} ended with {status}; its last input is {}", last_input(name).display());
                        failed.lock().expect("nobody panics with it").push(*name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    match failed.as_slice() {
        [] => println!("fuzz: nothing found"),
        some => println!("fuzz: FAILED in {}", some.join(", ")),
    }
    failed.is_empty()
}

fn findings() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz")
}

fn last_input(name: &str) -> PathBuf {
    findings().join(format!("{name}.current"))
}

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name)
}

fn target(name: &str) -> (&'static str, Box<dyn Target>) {
    let found = targets::ALL.iter().find(|(own, _)| *own == name);
    let (name, make) = found.unwrap_or_else(|| panic!("no target {name}"));
    (*name, make())
}

fn run_one(name: &str) -> ExitCode {
    let name = name.to_owned();
    let work = move || {
        let (name, target) = target(&name);
        let input = std::env::var_os("THERMOCLINE_FUZZ_INPUT").map(PathBuf::from);
        let task = Task { name, time: seconds(), seed: seed(), input, corpus: corpus(name), findings: findings() };
        driver::run(target, &task)
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).expect("a thread starts");
    // Not through the destructors of what the target left running.
    std::process::exit(if thread.join().unwrap_or(false) { 0 } else { 1 });
}

/// Writes the seeds. What else is in the folder stays: findings of earlier days.
fn write_corpus(name: &str) {
    let (name, target) = target(name);
    let folder = corpus(name);
    std::fs::create_dir_all(&folder).expect("the corpus can be written");
    for (seed, bytes) in target.seeds() {
        std::fs::write(folder.join(&seed), bytes).expect("the corpus can be written");
    }
}
