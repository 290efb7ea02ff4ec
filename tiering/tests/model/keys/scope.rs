//! What may happen in one search of a table with keys, how often, and with which mistake.

use super::state::{KEYS, Key};
use crate::scope::all_of;

/// Rules that have another behind them: leaving one of these out alone breaks nothing here.
///
/// A snapshot never changes, and the hot rows that a split holds say all that they end of it. So a boundary that moves
/// under a split only matters if rows were let go, which is seen where they are taken.
pub const SECOND_LINES: [Mutant; 1] = [Mutant::SplitNotRechecked];

/// The bounds of a search. All else that can happen may happen at any time, any number of times.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub name: &'static str,
    /// The bucket of each key.
    pub buckets: [usize; KEYS],
    /// The log does not tell old rows of upserts.
    pub brief: bool,
    pub requests: Vec<Request>,
    pub budget: Budget,
    /// How many rewrites may be under way at one time.
    pub rewriters: usize,
    /// Somebody draws splits.
    pub reader: bool,
    /// What a split has of each key is told by the index, too.
    pub by_key: bool,
    /// The first split that stands is the beginning of a follower.
    pub follower: bool,
    /// Somebody looks keys up.
    pub looker: bool,
    /// Each write is derived, durable, shown and answered in one step.
    pub whole_writes: bool,
    /// Each round is planned, committed and published in one step.
    pub whole_rounds: bool,
    pub mutant: Option<Mutant>,
    /// What a search of this scope must have come across.
    pub sometimes: Vec<Event>,
}

/// What one client wants.
#[derive(Clone, Debug)]
pub struct Request {
    /// In their order.
    pub changes: Vec<(Key, Wish)>,
    /// A statement has read the rows that it changes, and they must be the newest still.
    pub is_statement: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Upsert,
    Delete,
}

/// How often what costs states may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub refusals: u8,
    pub crashes: u8,
    pub rounds: u8,
    pub rewrites: u8,
    pub trims: u8,
}

all_of! {
    /// A rule that is broken.
    Mutant {
        /// Old rows are looked for in the index alone.
        OverlayIgnored,
        /// What is derived goes into the index at once.
        OverlaySeen,
        /// What was aborted stays in the overlay.
        OverlayKept,
        /// The overlay lets go of a ticket before the index has it.
        SettledEarly,
        /// What was derived on an aborted ticket, and has its own, is written.
        StaleTicketWritten,
        /// The offsets of aborted tickets are not given back.
        OffsetsNotGivenBack,
        /// What was derived before an abort gets its ticket after it.
        DraftOutlivesAbort,
        /// The second change of a key in a request meets what was there before the request.
        RequestNotFolded,
        /// A statement changes a row that somebody else has changed since it was read.
        ExpectedUnchecked,
        /// What a statement has read is compared with the index, and not with what is under way.
        ExpectedOfIndex,
        /// Clients hear that it is done before others can see it.
        AnsweredBeforeShown,
        /// Ends are shown before the index knows.
        IndexAfterEnds,
        /// Ends are shown before rows know what ended them.
        EndingsAfterEnds,
        /// A request becomes known to the index of one bucket after the other.
        IndexesApart,
        /// A lookup asks the index of one bucket after the other.
        LookupApart,
        /// The index knows of rows before they can be read.
        IndexBeforeRows,
        /// An old row that was fetched is told although the key has a newer one.
        FetchedRowBelieved,
        /// A row that is gone when a lookup comes for it is answered as none.
        GoneMeansNone,
        /// Hot rows go, and nothing keeps what they said of their keys.
        KeysNotKept,
        /// The end of an index snapshot is taken after its keys.
        KeysKeptAhead,
        /// Hot rows go before the index snapshot is durable.
        KeysUnsynced,
        /// An index snapshot that is there already will do, whatever it knows.
        KeysTooOld,
        /// Recovery does not tell rows what ended them.
        EndingsNotReplayed,
        /// Recovery skips the endings that stand where the index snapshot knows all keys.
        EndingsSkipped,
        /// Of a frame that is cut off, recovery takes what is there.
        HalfFrameTaken,
        /// Hot rows go when the round that takes them is on its way.
        TrimBeforeBoundary,
        /// A round writes its rows and forgets what they end.
        RoundForgetsEnded,
        /// A round leaves out rows that have ended since its cut.
        RoundLivesNow,
        /// A round deletes what has ended since its cut.
        RoundEndsNow,
        /// What is deleted of a file takes the place of what was.
        VectorReplaced,
        /// A commit compares offsets, and not the files that its deletes are of.
        RoundOnOtherFiles,
        /// Readers use the new snapshot before its commit landed.
        BoundaryBeforeCommit,
        /// A boundary is a new snapshot with the offsets of the one before.
        OffsetsOfBefore,
        /// A rewrite brings back what ended while it was written.
        RewriteForgetsEnded,
        /// A rewrite changes the list of files that it has read, and not the newest.
        RewriteOnOlderList,
        /// A rewrite does not look whether its files are there still.
        RewriteUnguarded,
        /// A split shows rows of the lake that its hot rows have ended.
        MasksIgnored,
        /// A split masks what had ended when its boundary was loaded.
        MasksOfOlderCut,
        /// A split masks what has ended by the time that it is read.
        MasksOfNewerCut,
        /// A split leaves out hot rows that have ended, whenever.
        HotRowsAsOfNow,
        /// Neither the hot floor nor the boundary is looked at again once both are loaded.
        SplitUnchecked,
        /// The boundary is not looked at again, the hot floor is.
        SplitNotRechecked,
        /// The published ends are loaded before the boundary.
        EndsBeforeBoundary,
        /// A split takes the index's word for rows past its cut.
        PlacesUnchecked,
        /// A split takes the index's word for keys without a row, whatever came past its cut.
        AbsenceUnchecked,
        /// Whether something came past the cut is looked at before the index.
        AbsenceCheckedEarly,
        /// A follower takes the state, and then the ends to go on from.
        SnapshotThenEnds,
        /// A follower takes the ends to go on from, and then the state.
        EndsThenSnapshot,
    }
}

/// Something that a search should have come across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    BuiltOnOverlay,
    TicketStale,
    DraftVoid,
    StatementOutdated,
    UnansweredRowsRecovered,
    ColdRowFetched,
    FetchedInVain,
    LookupAhead,
    LookupCold,
    LookupAgain,
    KeysAheadOfEnd,
    KeysRestored,
    RoundStale,
    RowsEndedInLake,
    RowsEndedPastRound,
    VectorGrew,
    RewriteCaughtUp,
    RewriteStale,
    SplitMasked,
    SplitOlderThanRows,
    SplitFoundBoundaryMoved,
    SplitFoundRowsGone,
    PlacesTold,
    PlacesNotTold,
    FollowerJoined,
    FollowerWentOn,
    FollowerTooSlow,
}
