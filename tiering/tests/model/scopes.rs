//! The scopes that are searched, each around one chapter of the protocol, and which mutant must show in which.
//!
//! The small ones are for every run; `large` ones have more requests, rounds and crashes.

use crate::scope::{Budget, Event, Mutant, Request, Scope, Worker};

const OWN: Worker = Worker { table: 0, foreign: false };
const FOREIGN: Worker = Worker { table: 0, foreign: true };

fn rows(table: usize, buckets: &[u8]) -> Request {
    let parts = buckets.iter().map(|bucket| (*bucket, 1)).collect();
    Request { table, parts, keyless: false, writer: None }
}

fn of_writer(sequence: u8) -> Request {
    Request { table: 0, parts: vec![(0, 1)], keyless: true, writer: Some((0, sequence)) }
}

/// Requests over two buckets of one table, in groups that are refused or cut off by a crash.
pub fn tickets(large: bool) -> Scope {
    let mut requests = vec![rows(0, &[0, 1]), rows(0, &[1, 0]), rows(0, &[0])];
    requests.extend(large.then(|| rows(0, &[1])));
    Scope {
        name: "tickets",
        tables: vec![2],
        requests,
        budget: Budget {
            refusals: 1,
            sync_failures: 1,
            kills: 1,
            power_cuts: 1 + u16::from(large),
            ..Budget::default()
        },
        sometimes: vec![
            Event::TicketStale,
            Event::TornTailCut,
            Event::WholeFrameAfterHole,
            Event::UnansweredRowsRecovered,
        ],
        ..Scope::default()
    }
}

/// A writer that repeats itself, to a table that spreads its requests over two buckets.
pub fn repeats(large: bool) -> Scope {
    Scope {
        name: "repeats",
        tables: vec![2],
        requests: (0..2 + u8::from(large)).map(of_writer).collect(),
        sends_max: 2,
        answers_kept: 2,
        budget: Budget { refusals: 1, kills: 1, power_cuts: 1, checkpoints: 1, ..Budget::default() },
        sometimes: vec![Event::RepeatAnswered, Event::RepeatWaited, Event::TicketStale, Event::RestartFromCheckpoint],
        ..Scope::default()
    }
}

/// A statement over two tables that are written and tiered meanwhile.
pub fn cuts(large: bool) -> Scope {
    Scope {
        name: "cuts",
        tables: vec![1, 1],
        requests: vec![rows(0, &[0]), rows(1, &[0]), rows(0, &[0])],
        budget: Budget { plans: 2, trims: 1 + u16::from(large), kills: u16::from(large), ..Budget::default() },
        workers: vec![OWN, Worker { table: 1, foreign: false }],
        reader: true,
        whole_rounds: true,
        sometimes: vec![Event::SplitFoundBoundaryMoved, Event::SplitFoundRowsGone],
        ..Scope::default()
    }
}

/// Two servers tier one table, a third engine rewrites it, answers get lost and creates come late.
pub fn rounds(large: bool) -> Scope {
    Scope {
        name: "rounds",
        tables: vec![1],
        requests: vec![rows(0, &[0]), rows(0, &[0])],
        budget: Budget {
            plans: 3,
            replaces: 1,
            trims: u16::from(large),
            kills: u16::from(large),
            power_cuts: 1,
            ..Budget::default()
        },
        workers: vec![OWN, FOREIGN],
        whole_writes: true,
        sometimes: vec![
            Event::RoundStale,
            Event::CreateFoundMine,
            Event::CreateFoundTaken,
            Event::CreateFoundAbsent,
            Event::CreateLandedUnheard,
            Event::VersionLostByPowerCut,
            Event::CrashAfterCreate,
        ],
        ..Scope::default()
    }
}

/// A reader and a follower beside rounds in their single steps.
pub fn boundaries(large: bool) -> Scope {
    Scope {
        name: "boundaries",
        tables: vec![1],
        requests: vec![rows(0, &[0]), rows(0, &[0])],
        budget: Budget { plans: 2, trims: 1, power_cuts: 1, kills: u16::from(large), ..Budget::default() },
        workers: vec![OWN, FOREIGN],
        followers: usize::from(large),
        reader: true,
        whole_writes: true,
        sometimes: vec![Event::SplitFoundBoundaryMoved, Event::SplitFoundRowsGone, Event::RoundStale],
        ..Scope::default()
    }
}

/// A reader and a follower of two buckets while rows sink and are let go.
pub fn splits(large: bool) -> Scope {
    let mut requests = vec![rows(0, &[0, 1]), rows(0, &[0])];
    requests.extend(large.then(|| rows(0, &[1])));
    Scope {
        name: "splits",
        tables: vec![2],
        requests,
        budget: Budget { plans: 2, trims: 2, kills: u16::from(large), power_cuts: 1, ..Budget::default() },
        workers: vec![OWN],
        followers: 1,
        reader: true,
        whole_writes: true,
        whole_rounds: true,
        sometimes: vec![Event::SplitFoundBoundaryMoved, Event::SplitFoundRowsGone, Event::FollowerWentCold],
        ..Scope::default()
    }
}

/// Carried frames, seals and checkpoints let journal files go.
pub fn files(large: bool) -> Scope {
    let mut requests = vec![rows(0, &[0, 1]), rows(0, &[0])];
    requests.extend(large.then(|| rows(0, &[1])));
    Scope {
        name: "files",
        tables: vec![2],
        requests,
        budget: Budget {
            seals: 1,
            carries: 1,
            checkpoints: 2 - u16::from(large),
            kills: u16::from(large),
            power_cuts: 1,
            ..Budget::default()
        },
        frames_per_file: 1,
        sometimes: vec![
            Event::CarriedRowsKnown,
            Event::CarriedRowsNeeded,
            Event::JournalFileFreed,
            Event::RestartFromCheckpoint,
        ],
        ..Scope::default()
    }
}

/// Sealed rows sink and are let go, while checkpoints come in between.
pub fn segments(large: bool) -> Scope {
    Scope {
        name: "segments",
        tables: vec![1],
        requests: vec![rows(0, &[0]), rows(0, &[0])],
        budget: Budget {
            plans: 1 + u16::from(large),
            trims: 1 + u16::from(large),
            seals: 1 + u16::from(large),
            carries: u16::from(large),
            checkpoints: 1 + u16::from(large),
            power_cuts: 1,
            ..Budget::default()
        },
        workers: vec![OWN],
        followers: 1,
        whole_rounds: true,
        frames_per_file: 1,
        sometimes: vec![Event::SegmentMadeSuperfluous, Event::JournalFileFreed, Event::FollowerWentCold],
        ..Scope::default()
    }
}

/// Bytes that were durable go bad.
pub fn rot(large: bool) -> Scope {
    Scope {
        name: "rot",
        tables: vec![1],
        requests: vec![rows(0, &[0]); 2 + usize::from(large)],
        budget: Budget { rots: 1, marks: 2, kills: 1, power_cuts: 1, checkpoints: 1, ..Budget::default() },
        frames_per_file: 2,
        sometimes: vec![Event::RotRefused, Event::TornTailCut],
        ..Scope::default()
    }
}

/// A scope with a mistake that it must show.
pub fn with(mutant: Mutant) -> Scope {
    let scope = match mutant {
        Mutant::AckBeforeSync
        | Mutant::OwnerPerBucket
        | Mutant::AbortOneOnly
        | Mutant::RecoveredTailUnsynced
        | Mutant::FailedGroupLeft
        | Mutant::SyncedEndAhead => tickets(false),
        Mutant::DedupeAfterBucket
        | Mutant::DedupeLostAtRestart
        | Mutant::DedupeLostAtCheckpoint
        | Mutant::RepeatAnsweredEarly => repeats(false),
        // One request a table: so that it is not seen by offsets alone.
        Mutant::PublishOutOfOrder => Scope { requests: vec![rows(0, &[0]), rows(1, &[0])], ..cuts(false) },
        Mutant::CutApart => cuts(false),
        Mutant::SplitUnchecked
        | Mutant::SplitNotRechecked
        | Mutant::EndsBeforeBoundary
        | Mutant::ReaderOffsetsApart => splits(false),
        Mutant::GuardApart | Mutant::Rebase | Mutant::PastEndMeansDone => rounds(false),
        Mutant::ConflictIsMine
        | Mutant::VersionOverwritten
        | Mutant::BoundaryBeforeCommit
        | Mutant::HintBelieved
        | Mutant::TrimBeforeBoundary
        | Mutant::LakeReadUnsynced => boundaries(false),
        Mutant::CarriedAsNew
        | Mutant::CarriedInFlight
        | Mutant::SegmentUnsynced
        | Mutant::TailForgotten
        | Mutant::FilesBeforeCheckpoint => files(false),
        Mutant::SegmentRemovedEarly => segments(false),
        Mutant::RotTakenAsTorn => rot(false),
    };
    Scope { mutant: Some(mutant), ..scope }
}
