//! Planted bugs: the tests are run on our own mistakes, made on purpose, and each must be caught.
//!
//! [`Defect`] names one wrong line at a time in the real code. For each, the test binaries are run with it switched on,
//! the cheapest first, until one fails; it counts as caught only by a run that passes without the defect. A defect that
//! every layer lets pass means that a test is missing.
//!
//! `cargo test --workspace` tries a few, others every day. All of them, with the table of which layer caught which:
//!
//! ```sh
//! cargo test --workspace --no-run && THERMOCLINE_PLANTED=all cargo test --workspace --test whole planted -- --nocapture
//! ```
//!
//! `THERMOCLINE_PLANTED` takes names too, with commas between. Binaries are not built from here: the newest of each name that
//! lies beside this one is run, and it must have been built with the feature `faults`, as `--workspace` does.

use std::collections::HashSet;
use std::fs::File;
use std::iter::repeat_n;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use thermocline_engine::faults::Defect;

/// Defects that are tried when none are asked for, and how long they may take before the rest of them is left out.
const SAMPLE: usize = 4;
const SAMPLE_TIME: Duration = Duration::from_secs(60);
/// A run that takes longer hangs.
const RUN_TIME: Duration = Duration::from_secs(120);
const HISTORIES: u64 = 10;
const NEAREST_RUNS: usize = 3;

/// A test binary, by the start of its name.
const ENGINE: &str = "thermocline_engine";
const TIERING: &str = "thermocline_tiering";
const SQL: &str = "thermocline_sql";
const POWER: &str = "power";
const SERVER: &str = "server";
const WHOLE: &str = "whole";

/// One run: a binary, which of its tests, and with which seed if it takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Run {
    binary: &'static str,
    filter: &'static str,
    /// Tests of minutes are left out.
    skip: &'static str,
    seed: Option<u64>,
}

const fn run(binary: &'static str, filter: &'static str) -> Run {
    Run { binary, filter, skip: "any_fault", seed: None }
}

enum Outcome {
    Passed,
    /// What failed first.
    Failed(String),
}

struct Caught {
    by: String,
    runs: usize,
}

/// The tests of the layer in which the defect is, which should know it best.
fn nearest(defect: Defect) -> (&'static str, &'static str) {
    match defect {
        Defect::AckBeforeSync
        | Defect::DirectoryNotSynced
        | Defect::RecoveredNotSynced
        | Defect::RotCutOff
        | Defect::RotForgotten
        | Defect::SyncedEndAhead
        | Defect::TornFrameInPart
        | Defect::PayloadUnchecked
        | Defect::StampGoesBack => (ENGINE, "journal::"),
        Defect::ColumnUnchecked | Defect::SkeletonUnchecked => (ENGINE, "bucket::"),
        Defect::CarriedInFlight
        | Defect::JournalGoneEarly
        | Defect::StaleTicketWritten
        | Defect::EpochNotRaised
        | Defect::OffsetsNotGivenBack => (ENGINE, "tests::aborts::"),
        Defect::WritersForgotten | Defect::RepeatTakesOffsets | Defect::RepeatAnsweredAnew => (ENGINE, "sent_twice"),
        Defect::PublishedOutOfOrder => (ENGINE, "many_writers"),
        Defect::SegmentNotSynced | Defect::CarriedTakenAsNew => (ENGINE, "random_operations"),
        Defect::EditsTwice => (ENGINE, "tests::rot::"),
        Defect::LakeBytesNotSynced | Defect::LakeNameNotSynced | Defect::PendingNameRead => (TIERING, "warehouse::"),
        Defect::CommitRebased | Defect::EndTakenAsDone | Defect::ConflictTakenAsMine => {
            (TIERING, "lake::tests::faults")
        }
        Defect::VersionOverwritten | Defect::HintBelieved => (TIERING, "lake::tests::commits"),
        Defect::HistoryUnchecked | Defect::OwnerUnchecked => (TIERING, "lake::tests::foreign"),
        Defect::CutBoundNotRaised => (TIERING, "lake::bounds"),
        Defect::FirstVectorForgets | Defect::VectorReplaced | Defect::OldVectorKept => {
            (TIERING, "lake::tests::deletes")
        }
        Defect::RewriteForgetsEnded | Defect::RewriteOnOlderList => (TIERING, "of_files_of_which_nothing_lives"),
        Defect::LineageDropped => (TIERING, "lineage_outlives"),
        Defect::MergeForgetsRowIds | Defect::MergeTakesNewNumbers => (TIERING, "lake::tests::merging"),
        Defect::RetainedSwept | Defect::HeldSwept => (TIERING, "lake::tests::orphans"),
        Defect::BackupTakesLakeFirst => (SQL, "backup::every_acked_row"),
        Defect::BackupNotKept => (SQL, "backup::nothing_is_removed"),
        Defect::RestoreForgetsVectors => (SQL, "backup::what_is_restored"),
        Defect::DropForgotten => (SQL, "dropped"),
        Defect::UnfinishedShown => (SQL, "it_is_not_there_before"),
        Defect::UnfinishedStays => (POWER, "a_table_that_cannot_be_finished"),
        Defect::UnfinishedKept => (SQL, "a_power_cut_leaves_all_or_nothing"),
        Defect::StartsForgotten | Defect::StartsUnread | Defect::LostRowsKept => (SQL, "truncated_log_is_empty"),
        Defect::ExpiryBeforeTiering => (SQL, "partitions_go"),
        Defect::MomentNotSettled => (SQL, "a_moment_is_settled"),
        Defect::PastBaseTooNew | Defect::PastRowsUncut | Defect::PastInNewColumns => (SQL, "tests::travel::"),
        Defect::TrimmedUncommitted => (TIERING, "a_round_that_fails"),
        Defect::OffsetsOfBefore => (TIERING, "rows_sink"),
        Defect::FollowerOneLate => (TIERING, "tests::followers"),
        Defect::EndsBeforeBoundary | Defect::SplitNotRedrawn => (TIERING, "a_split_is_one_cut"),
        Defect::CutTableByTable => (SQL, "one_cut"),
        Defect::UpperBoundExclusive | Defect::FileRuledOut | Defect::FilteredCountExact => (SQL, "tests::reading::q"),
        Defect::ColumnsByName => (SQL, "field_ids"),
        Defect::OverlaySeen | Defect::OverlayKept => (ENGINE, "tests::aborts::"),
        Defect::KeyOf64Bits
        | Defect::IndexHoleLeft
        | Defect::SegmentKeysForgotten
        | Defect::EndedByFirstHalf
        | Defect::OldRowIsNew
        | Defect::RequestNotFolded
        | Defect::OverlayIgnored
        | Defect::KeysNotKept
        | Defect::KeysKeptAhead
        | Defect::SharesLost => (ENGINE, "keys::"),
        Defect::IndexesApart => (ENGINE, "lookups_are_of_one_cut"),
        Defect::MasksIgnored | Defect::EndedRowsKept => (TIERING, "tests::keyed::"),
        Defect::BoundaryBeforeCommit | Defect::RoundSeesLater | Defect::EndingsBehindEnds => {
            (TIERING, "splits_are_one_cut")
        }
        Defect::LetGoRowTaken | Defect::IndexBehindEnds => (ENGINE, "keys::"),
        Defect::PlaceUnchecked => (SQL, "updates_that_meet"),
        Defect::IndexOverCut | Defect::LimitForgetsDeletes => (SQL, "tests::keys::"),
        Defect::ColumnsByPlace | Defect::OldColumnsDerived | Defect::DigestOfVersion | Defect::OldVersionTaken => {
            (ENGINE, "tests::alter::")
        }
        Defect::CheckOfOlderVersion | Defect::ChecksOfAnyVersion => (SQL, "tests::constraints::"),
        Defect::SetAsideRowLost | Defect::SetAsideTwice => (SERVER, "set_aside::"),
        Defect::BlocksOfAnyVersion => (TIERING, "tests::cold::"),
        Defect::FollowerKeepsColumns | Defect::RoundInOldColumns => (TIERING, "tests::alter::"),
        Defect::CutInOldColumns => (SQL, "tests::alter::"),
        Defect::PartitionIgnored | Defect::PartitionRuledOut => (SQL, "way_to_part_a_log"),
        Defect::FilesOfOnePartition => (TIERING, "partitions::"),
        Defect::KeyOutsidePartition | Defect::PartitionFollowedLate => (SERVER, "partitions::"),
        Defect::NestedByName | Defect::NestedConditionLost => (SQL, "tests::nested::"),
        Defect::DigestWithoutItems => (ENGINE, "rows_digest::"),
        Defect::SnapshotOneLate => (SERVER, "a_snapshot_follower"),
        Defect::BytesPastTheEnd | Defect::SurplusColumnsLeft => (SERVER, "bad_input::bodies_of_rows"),
    }
}

/// What is run against a defect, from cheap to dear. Some defects show only when threads meet, so the first comes again.
fn layers(defect: Defect) -> impl Iterator<Item = Run> {
    let (binary, filter) = nearest(defect);
    let all = [ENGINE, TIERING, SQL].map(|binary| run(binary, ""));
    let histories = (0..HISTORIES).map(|seed| Run { seed: Some(seed), ..run(WHOLE, "random_operations") });
    repeat_n(run(binary, filter), NEAREST_RUNS).chain(all).chain(histories)
}

struct Binaries {
    directory: PathBuf,
    output: tempfile::TempDir,
    /// Runs that pass without a defect.
    sound: HashSet<Run>,
}

impl Binaries {
    fn new() -> Binaries {
        let own = std::env::current_exe().expect("a test knows where it is");
        let directory = own.parent().expect("a test lies in a folder").to_owned();
        Binaries { directory, output: tempfile::tempdir().expect("a folder can be made"), sound: HashSet::new() }
    }

    /// The newest binary of this name: a name, a dash and a hash, with no ending.
    fn find(&self, name: &str) -> PathBuf {
        let files = std::fs::read_dir(&self.directory).expect("the folder can be listed").filter_map(Result::ok);
        let hash = |path: &Path| Some(path.file_name()?.to_str()?.strip_prefix(name)?.strip_prefix('-')?.to_owned());
        let binary = |path: &Path| hash(path).is_some_and(|hash| hash.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let modified =
            |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let newest = files.map(|file| file.path()).filter(|path| binary(path)).max_by_key(modified);
        newest.unwrap_or_else(|| panic!("there is no test binary {name}: run `cargo test --workspace --no-run` first"))
    }

    fn run(&self, run: Run, defect: Option<&str>) -> Outcome {
        let output = self.output.path().join("output");
        let file = File::create(&output).expect("a file can be made");
        let errors = file.try_clone().expect("a file can be shared");
        let mut command = Command::new(self.find(run.binary));
        command.args([run.filter, "--skip", run.skip]).stdin(Stdio::null()).stdout(file).stderr(errors);
        command.env_remove("THERMOCLINE_PLANTED").env_remove("THERMOCLINE_PLANT");
        if let Some(defect) = defect {
            command.env("THERMOCLINE_PLANT", defect);
        }
        if let Some(seed) = run.seed {
            command.env("THERMOCLINE_SEED", seed.to_string());
        }
        let mut child = command.spawn().expect("a test binary starts");
        let started = Instant::now();
        let status = loop {
            match child.try_wait().expect("a child can be asked") {
                Some(status) => break Some(status),
                None if started.elapsed() > RUN_TIME => {
                    // It may have ended this very moment, which is as good.
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        if status.is_some_and(|status| status.success()) {
            return Outcome::Passed;
        }
        let text = std::fs::read(&output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let failed = text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        Outcome::Failed(match (failed, status) {
            (Some(test), _) => test.to_owned(),
            (None, Some(status)) => format!("{} ({status})", run.filter),
            (None, None) => format!("{} (hangs)", run.filter),
        })
    }

    fn passes_without(&mut self, run: Run) -> bool {
        if !self.sound.contains(&run) && matches!(self.run(run, None), Outcome::Passed) {
            self.sound.insert(run);
        }
        self.sound.contains(&run)
    }

    fn catch(&mut self, defect: Defect, runs_max: usize) -> Option<Caught> {
        for (before, run) in layers(defect).take(runs_max).enumerate() {
            if let Outcome::Failed(test) = self.run(run, Some(defect.name())) {
                if self.passes_without(run) {
                    return Some(Caught { by: format!("{}: {test}", run.binary), runs: before + 1 });
                }
                println!("{}: {test} fails without the defect too", run.binary);
            }
        }
        None
    }
}

/// Which defects to try, and whether time may end it.
fn chosen() -> (Vec<Defect>, bool) {
    match std::env::var("THERMOCLINE_PLANTED").as_deref() {
        Ok("all") => (Defect::ALL.to_vec(), false),
        Ok(names) => {
            let named = |name: &str| Defect::named(name).unwrap_or_else(|| panic!("there is no defect {name}"));
            (names.split(',').map(named).collect(), false)
        }
        Err(_) => {
            let day =
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
            let first = day as usize * SAMPLE;
            ((first..first + SAMPLE).map(|at| Defect::ALL[at % Defect::ALL.len()]).collect(), true)
        }
    }
}

#[test]
fn planted_bugs_are_caught() {
    let mut binaries = Binaries::new();
    let (defects, bounded) = chosen();
    let started = Instant::now();
    let (mut tried, mut survivors) = (0, Vec::new());
    println!("| planted | what is wrong | caught by | runs | seconds |\n| --- | --- | --- | --- | --- |");
    for defect in defects.iter().take_while(|_| !bounded || started.elapsed() < SAMPLE_TIME) {
        tried += 1;
        let began = Instant::now();
        let caught = binaries.catch(*defect, if bounded { NEAREST_RUNS } else { usize::MAX });
        let (by, runs) = match &caught {
            Some(caught) => (caught.by.as_str(), caught.runs.to_string()),
            None => ("**nobody**", "all".to_owned()),
        };
        let seconds = began.elapsed().as_secs_f64();
        println!("| `{}` | {} | {by} | {runs} | {seconds:.1} |", defect.name(), defect.about());
        if caught.is_none() {
            survivors.push(defect.name());
        }
    }
    println!("{} of {tried} planted bugs caught, in {:.0} s", tried - survivors.len(), started.elapsed().as_secs_f64());
    assert!(tried > 0 && survivors.is_empty(), "not caught: {survivors:?}");
}

/// Were the binaries built without the feature, every defect would survive, and the cause would be hard to see.
#[test]
fn the_binaries_know_defects() {
    let binaries = Binaries::new();
    let any = run(ENGINE, "what_was_appended_comes_back");
    let unknown = binaries.run(any, Some("no-such-defect"));
    assert!(matches!(unknown, Outcome::Failed(_)), "the engine's tests were built without the feature `faults`");
}
