//! What may happen in one search, how often, and with which mistake.

/// Rules that have another behind them: leaving one of these out alone breaks nothing here.
///
/// Hot rows of a split are held as soon as they are looked at, and looked at together with the floor. So the second look
/// at the boundary only matters to tables whose hot rows change older ones.
pub const SECOND_LINES: [Mutant; 1] = [Mutant::SplitNotRechecked];

/// The bounds of a search. All else that can happen may happen at any time, any number of times.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub name: &'static str,
    /// How many buckets each table has.
    pub tables: Vec<u8>,
    pub requests: Vec<Request>,
    /// How often a request of an idempotent writer is sent at most.
    pub sends_max: u8,
    /// How many answers of a writer are kept.
    pub answers_kept: usize,
    pub budget: Budget,
    pub workers: Vec<Worker>,
    /// How many followers there are of table 0.
    pub followers: usize,
    pub reader: bool,
    /// A journal file ends after so many frames; 0: never.
    pub frames_per_file: u16,
    /// Each write, and each edit, is durable, shown and answered in one step.
    pub whole_writes: bool,
    /// Each round of the node is planned, committed and published in one step.
    pub whole_rounds: bool,
    /// Groups may be split, rounds may stop short, trims may lag: what a trace may do.
    pub loose: bool,
    pub mutant: Option<Mutant>,
    /// What a search of this scope must have come across.
    pub sometimes: Vec<Event>,
}

/// Rows of one client for one table.
#[derive(Clone, Debug)]
pub struct Request {
    pub table: usize,
    /// Bucket and number of rows. Of a keyless one the owner chooses the bucket.
    pub parts: Vec<(u8, u16)>,
    pub keyless: bool,
    /// An idempotent writer and the request's number in its order.
    pub writer: Option<(usize, u8)>,
}

/// Who tiers a table.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    pub table: usize,
    /// Of another server: survives this node's crashes, and its commits are news to this node.
    pub foreign: bool,
}

/// How often what costs states may happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub refusals: u16,
    pub sync_failures: u16,
    pub kills: u16,
    pub power_cuts: u16,
    pub rots: u16,
    pub marks: u16,
    pub plans: u16,
    pub replaces: u16,
    pub trims: u16,
    pub seals: u16,
    pub carries: u16,
    pub checkpoints: u16,
}

macro_rules! all_of {
    ($(#[$about:meta])* $enum:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum { $($(#[$doc])* $variant,)* }

        impl $enum {
            pub const ALL: &[$enum] = &[$($enum::$variant),*];
        }
    };
}

pub(crate) use all_of;

all_of! {
    /// A rule that is broken.
    Mutant {
        /// Rows are shown and acked when they are written.
        AckBeforeSync,
        /// Of a group, the last is shown before the others.
        PublishOutOfOrder,
        /// Each bucket gives out its own offsets; a request takes them one after the other.
        OwnerPerBucket,
        /// A failed group leaves valid what was built on it and waits behind it.
        AbortOneOnly,
        /// A writer's answers are looked for in the bucket that was chosen.
        DedupeAfterBucket,
        /// Recovery does not bring back the answers.
        DedupeLostAtRestart,
        /// A checkpoint does not hold the answers.
        DedupeLostAtCheckpoint,
        /// A repeat of what is in flight is answered at once.
        RepeatAnsweredEarly,
        /// Recovery serves what it read without making it durable.
        RecoveredTailUnsynced,
        /// A group whose sync failed is left where the next start reads it, though no later sync makes it last.
        FailedGroupLeft,
        /// Recovery takes every bad frame for a torn tail.
        RotTakenAsTorn,
        /// A frame says that its own group is durable.
        SyncedEndAhead,
        /// Neither the hot floor nor the boundary is looked at again once both are loaded.
        SplitUnchecked,
        /// The boundary is not looked at again, the hot floor is.
        SplitNotRechecked,
        /// The published ends are loaded before the boundary.
        EndsBeforeBoundary,
        /// The ends of two tables are loaded one after the other.
        CutApart,
        /// A reader loads offsets and snapshot one after the other, and does not look again.
        ReaderOffsetsApart,
        /// A commit compares offsets with one version and builds on the newest one.
        GuardApart,
        /// A commit does not compare offsets at all: it rebases.
        Rebase,
        /// A commit takes offsets at or past its end as done, and goes on otherwise.
        PastEndMeansDone,
        /// "Already exists" is taken for: it is mine.
        ConflictIsMine,
        /// A create replaces a version that is there.
        VersionOverwritten,
        /// Readers use the new snapshot before its commit landed.
        BoundaryBeforeCommit,
        /// After a start the hint is believed, and not what is there.
        HintBelieved,
        /// Hot rows go when the round that takes them is on its way.
        TrimBeforeBoundary,
        /// A version is read, and rows let go for it, that a power cut may still take.
        LakeReadUnsynced,
        /// A carried frame's rows are appended at recovery.
        CarriedAsNew,
        /// Rows are carried while others of the bucket are in flight.
        CarriedInFlight,
        /// A segment stands for journal frames before it is durable.
        SegmentUnsynced,
        /// Journal files go up to the checkpoint's position, whatever tails need.
        TailForgotten,
        /// Journal files go before the checkpoint that makes them superfluous is durable.
        FilesBeforeCheckpoint,
        /// A trimmed segment goes before a checkpoint stopped naming it.
        SegmentRemovedEarly,
    }
}

/// Something that a search should have come across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    RepeatAnswered,
    RepeatWaited,
    TicketStale,
    TornTailCut,
    WholeFrameAfterHole,
    RotRefused,
    UnansweredRowsRecovered,
    RoundStale,
    CreateFoundMine,
    CreateFoundTaken,
    CreateFoundAbsent,
    CreateLandedUnheard,
    VersionLostByPowerCut,
    CrashAfterCreate,
    SplitFoundRowsGone,
    SplitFoundBoundaryMoved,
    FollowerWentCold,
    CarriedRowsKnown,
    CarriedRowsNeeded,
    JournalFileFreed,
    SegmentMadeSuperfluous,
    RestartFromCheckpoint,
}
