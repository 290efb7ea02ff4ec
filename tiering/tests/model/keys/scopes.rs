//! The scopes that are searched, each around one chapter of tables with keys, and which mutant must show in which.
//!
//! The small ones are for every run; `large` ones have more requests, rounds and crashes.

use super::scope::{Budget, Event, Mutant, Request, Scope, Wish};
use super::state::{BUCKETS, KEYS, Key};

/// Both keys in one bucket, or each in its own.
const TOGETHER: [usize; KEYS] = [0; KEYS];
const APART: [usize; KEYS] = [0, BUCKETS - 1];

fn upsert(keys: &[Key]) -> Request {
    Request { changes: keys.iter().map(|key| (*key, Wish::Upsert)).collect(), is_statement: false }
}

fn delete(key: Key) -> Request {
    Request { changes: vec![(key, Wish::Delete)], is_statement: false }
}

fn and(first: Request, then: Request) -> Request {
    Request { changes: [first.changes, then.changes].concat(), ..first }
}

/// The same as a statement.
fn where_read(request: Request) -> Request {
    Request { is_statement: true, ..request }
}

/// Requests that build on each other before they are durable, in groups that are refused or cut off by a crash.
pub fn overlays(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0]), and(upsert(&[1, 1]), delete(0)), upsert(&[0]), delete(1)];
    requests.extend(large.then(|| upsert(&[0, 1])));
    Scope {
        name: "overlays",
        buckets: APART,
        requests,
        budget: Budget { refusals: 1 + u8::from(large), crashes: 1, ..Budget::default() },
        sometimes: vec![Event::BuiltOnOverlay, Event::TicketStale, Event::DraftVoid, Event::UnansweredRowsRecovered],
        ..Scope::default()
    }
}

/// Statements that have read what others change meanwhile.
pub fn statements(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), where_read(upsert(&[0])), where_read(and(delete(0), delete(1)))];
    requests.push(upsert(&[1]));
    requests.extend(large.then(|| where_read(upsert(&[0, 1]))));
    Scope {
        name: "statements",
        buckets: APART,
        requests,
        budget: Budget { refusals: 1, crashes: 1 + u8::from(large), ..Budget::default() },
        sometimes: vec![Event::StatementOutdated, Event::BuiltOnOverlay, Event::DraftVoid],
        ..Scope::default()
    }
}

/// Lookups while groups are published step by step.
pub fn lookups(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), and(delete(0), upsert(&[1])), upsert(&[0])];
    requests.extend(large.then(|| and(upsert(&[0]), delete(1))));
    Scope {
        name: "lookups",
        buckets: APART,
        requests,
        budget: Budget { refusals: 1, crashes: 1 + u8::from(large), ..Budget::default() },
        looker: true,
        sometimes: vec![Event::LookupAhead, Event::BuiltOnOverlay],
        ..Scope::default()
    }
}

/// Splits, and what the index says of their keys, while groups are published step by step.
pub fn cuts(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), and(delete(0), upsert(&[1])), upsert(&[0])];
    requests.extend(large.then(|| and(upsert(&[0]), delete(1))));
    Scope {
        name: "cuts",
        buckets: APART,
        requests,
        budget: Budget { crashes: u8::from(large), ..Budget::default() },
        reader: true,
        by_key: true,
        sometimes: vec![Event::SplitOlderThanRows, Event::PlacesTold, Event::PlacesNotTold],
        ..Scope::default()
    }
}

/// Rounds in their single steps, with deletes of what they end, beside a rewrite that does not wait for them.
pub fn rounds(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), upsert(&[0]), delete(1), upsert(&[1])];
    requests.extend(large.then(|| upsert(&[0, 1])));
    Scope {
        name: "rounds",
        buckets: TOGETHER,
        requests,
        budget: Budget { rounds: 3 + u8::from(large), rewrites: 1 + u8::from(large), crashes: 1, ..Budget::default() },
        rewriters: 1,
        whole_writes: true,
        sometimes: vec![
            Event::RoundStale,
            Event::RowsEndedInLake,
            Event::RowsEndedPastRound,
            Event::VectorGrew,
            Event::RewriteCaughtUp,
        ],
        ..Scope::default()
    }
}

/// Two servers write files anew while rounds end rows of them.
pub fn rewrites(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), upsert(&[0]), and(delete(1), upsert(&[0])), upsert(&[1])];
    requests.extend(large.then(|| upsert(&[0, 1])));
    Scope {
        name: "rewrites",
        buckets: TOGETHER,
        requests,
        budget: Budget { rounds: 4, rewrites: 3, crashes: 1, ..Budget::default() },
        rewriters: 2,
        whole_writes: true,
        whole_rounds: true,
        sometimes: vec![Event::RewriteStale, Event::RewriteCaughtUp, Event::VectorGrew],
        ..Scope::default()
    }
}

/// A reader while rows end, sink, are written anew and are let go.
pub fn splits(large: bool) -> Scope {
    let requests = vec![upsert(&[0, 1]), upsert(&[0]), delete(1)];
    Scope {
        name: "splits",
        buckets: TOGETHER,
        requests,
        budget: Budget {
            rounds: 2,
            rewrites: u8::from(large),
            trims: 1,
            crashes: u8::from(large),
            ..Budget::default()
        },
        rewriters: 1,
        reader: true,
        by_key: true,
        whole_writes: true,
        sometimes: vec![
            Event::SplitMasked,
            Event::SplitOlderThanRows,
            Event::SplitFoundBoundaryMoved,
            Event::SplitFoundRowsGone,
            Event::PlacesTold,
            Event::PlacesNotTold,
        ],
        ..Scope::default()
    }
}

/// All of it with the fewest requests: written, published, tiered, let go and read in single steps, and crashes
/// anywhere.
pub fn steps(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), and(delete(0), upsert(&[1]))];
    requests.extend(large.then(|| upsert(&[0])));
    Scope {
        name: "steps",
        buckets: if large { TOGETHER } else { APART },
        requests,
        budget: Budget { rounds: 2, trims: 1, crashes: 1, ..Budget::default() },
        reader: true,
        by_key: true,
        sometimes: vec![
            Event::SplitMasked,
            Event::SplitFoundRowsGone,
            Event::RowsEndedPastRound,
            Event::KeysAheadOfEnd,
            Event::PlacesTold,
        ],
        ..Scope::default()
    }
}

/// Hot rows are let go while others are written, and crashes find out whether their keys are still known.
pub fn floors(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), upsert(&[0]), delete(0)];
    requests.extend(large.then(|| upsert(&[1])));
    Scope {
        name: "floors",
        buckets: TOGETHER,
        requests,
        budget: Budget { rounds: 2, trims: 2, crashes: 1, ..Budget::default() },
        looker: true,
        whole_rounds: true,
        sometimes: vec![Event::KeysAheadOfEnd, Event::KeysRestored, Event::LookupCold, Event::ColdRowFetched],
        ..Scope::default()
    }
}

/// Requests and lookups that need rows of the lake.
pub fn cold_rows(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), upsert(&[0]), and(delete(0), upsert(&[0, 1]))];
    requests.extend(large.then(|| delete(1)));
    Scope {
        name: "cold rows",
        buckets: TOGETHER,
        requests,
        budget: Budget { rounds: 3, trims: 2, rewrites: 1, crashes: u8::from(large), ..Budget::default() },
        rewriters: 1,
        looker: true,
        whole_writes: true,
        whole_rounds: true,
        sometimes: vec![Event::ColdRowFetched, Event::FetchedInVain, Event::LookupCold, Event::LookupAgain],
        ..Scope::default()
    }
}

/// A follower that begins with the state, while rows sink and are let go.
pub fn followers(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), upsert(&[0]), and(delete(1), upsert(&[0]))];
    requests.extend(large.then(|| upsert(&[1])));
    Scope {
        name: "followers",
        buckets: TOGETHER,
        requests,
        budget: Budget { rounds: 1 + u8::from(large), trims: 1, crashes: 1, ..Budget::default() },
        reader: true,
        follower: true,
        whole_writes: true,
        whole_rounds: true,
        sometimes: vec![Event::FollowerJoined, Event::FollowerWentOn, Event::FollowerTooSlow, Event::SplitMasked],
        ..Scope::default()
    }
}

/// All of the lake under a log that does not tell old rows of upserts.
pub fn brief_logs(large: bool) -> Scope {
    let mut requests = vec![upsert(&[0, 1]), upsert(&[0]), delete(1)];
    requests.extend(large.then(|| upsert(&[1])));
    Scope {
        name: "brief logs",
        buckets: TOGETHER,
        brief: true,
        requests,
        budget: Budget { rounds: 2, trims: 1, rewrites: 1, crashes: u8::from(large), ..Budget::default() },
        rewriters: 1,
        reader: true,
        follower: true,
        whole_writes: true,
        whole_rounds: true,
        sometimes: vec![Event::SplitMasked, Event::RowsEndedInLake, Event::ColdRowFetched, Event::FollowerWentOn],
        ..Scope::default()
    }
}

/// A scope with a mistake that it must show.
pub fn with(mutant: Mutant) -> Scope {
    let scope = match mutant {
        Mutant::OverlayIgnored
        | Mutant::OverlayKept
        | Mutant::SettledEarly
        | Mutant::StaleTicketWritten
        | Mutant::OffsetsNotGivenBack
        | Mutant::DraftOutlivesAbort
        | Mutant::RequestNotFolded
        | Mutant::HalfFrameTaken => overlays(false),
        Mutant::ExpectedUnchecked | Mutant::ExpectedOfIndex | Mutant::AnsweredBeforeShown => statements(false),
        Mutant::OverlaySeen
        | Mutant::IndexAfterEnds
        | Mutant::IndexBeforeRows
        | Mutant::IndexesApart
        | Mutant::LookupApart => lookups(false),
        Mutant::EndingsAfterEnds | Mutant::PlacesUnchecked | Mutant::AbsenceUnchecked | Mutant::AbsenceCheckedEarly => {
            cuts(false)
        }
        Mutant::RoundForgetsEnded
        | Mutant::RoundLivesNow
        | Mutant::RoundEndsNow
        | Mutant::VectorReplaced
        | Mutant::RoundOnOtherFiles => rounds(false),
        Mutant::RewriteForgetsEnded | Mutant::RewriteOnOlderList | Mutant::RewriteUnguarded => rewrites(false),
        Mutant::BoundaryBeforeCommit
        | Mutant::OffsetsOfBefore
        | Mutant::MasksIgnored
        | Mutant::MasksOfOlderCut
        | Mutant::MasksOfNewerCut
        | Mutant::HotRowsAsOfNow
        | Mutant::SplitUnchecked
        | Mutant::SplitNotRechecked
        | Mutant::EndsBeforeBoundary
        | Mutant::TrimBeforeBoundary => splits(false),
        // Somebody has to read what a start makes of it.
        Mutant::EndingsNotReplayed | Mutant::EndingsSkipped => followers(false),
        Mutant::KeysNotKept | Mutant::KeysKeptAhead | Mutant::KeysUnsynced | Mutant::KeysTooOld => floors(false),
        Mutant::FetchedRowBelieved | Mutant::GoneMeansNone => cold_rows(false),
        Mutant::SnapshotThenEnds | Mutant::EndsThenSnapshot => followers(false),
    };
    Scope { mutant: Some(mutant), ..scope }
}
