//! Points at which a test may halt the process to kill it, and defects that a test may plant.
//!
//! Only with the feature `faults`, which `integration-tests` asks for and a build of the server alone does not; without
//! it [`reached`] does nothing and [`planted`] is false, and neither costs anything. One environment variable each:
//! - `THERMOCLINE_HALT_AT=journal-synced:3` halts the thread that comes to that point for the third time. It says
//!   `halted at journal-synced` on standard error and waits to be killed; the other threads go on.
//! - `THERMOCLINE_PLANT=ack-before-sync` switches a defect on, for the whole life of the process.

macro_rules! named {
    ($(#[$about:meta])* $enum:ident { $($(#[doc = $doc:literal])* $variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $enum { $($(#[doc = $doc])* $variant,)* }

        impl $enum {
            pub const ALL: &[$enum] = &[$($enum::$variant),*];

            pub fn name(self) -> &'static str {
                match self { $($enum::$variant => $name),* }
            }

            pub fn about(self) -> &'static str {
                match self { $($enum::$variant => concat!($($doc),*).trim_ascii()),* }
            }

            pub fn named(name: &str) -> Option<$enum> {
                $enum::ALL.iter().copied().find(|one| one.name() == name)
            }
        }
    };
}

named! {
    /// A step after which a crash must lose nothing.
    CrashPoint {
        /// A group is in the journal's file, not synced.
        JournalWritten = "journal-written",
        /// A group is durable, nobody has seen it.
        JournalSynced = "journal-synced",
        /// A group can be seen, nobody has heard an answer.
        Published = "published",
        /// A new journal file has its name.
        JournalFileBegun = "journal-file-begun",
        /// A segment's file is durable, no edit names it.
        SegmentWritten = "segment-written",
        /// A segment is part of its bucket.
        SegmentAdded = "segment-added",
        /// A table or database was made or dropped.
        CatalogChanged = "catalog-changed",
        /// Rows were written once more at the journal's end.
        Carried = "carried",
        /// A file that replaces another (checkpoint, hint) or begins a journal file is whole under its staged name.
        Staged = "staged",
        /// A checkpoint is the one to start from; what it makes superfluous is still there.
        CheckpointWritten = "checkpoint-written",
        /// Superfluous segments are gone, journal files are not.
        SegmentsRemoved = "segments-removed",
        /// What rows say of their keys is durable, and the rows are still there.
        KeysWritten = "keys-written",
        /// Hot rows were let go.
        Trimmed = "trimmed",
        /// A round knows what it will write.
        RoundPlanned = "round-planned",
        /// A round's data files are in the lake, no commit names them.
        DataFilesWritten = "data-files-written",
        /// Manifest and list are in the lake.
        ManifestsWritten = "manifests-written",
        /// `v<N+1>` is there, the hint says N.
        VersionCreated = "version-created",
        /// The hint says N+1, our own readers use N.
        HintWritten = "hint-written",
        /// Our own readers use the new snapshot.
        BoundaryPublished = "boundary-published",
        /// Files that take the place of others are in the lake, no commit names them.
        RewriteWritten = "rewrite-written",
        /// Files have taken the place of others, our own readers use those before.
        RewriteCommitted = "rewrite-committed",
    }
}

named! {
    /// A mistake that the tests must catch.
    Defect {
        /// The lake of a backup is that of a while before its hot rows, and rounds go on between.
        BackupTakesLakeFirst = "backup-takes-lake-first",
        /// What a backup copies may be swept meanwhile.
        BackupNotKept = "backup-not-kept",
        /// Deletion vectors that are restored elsewhere say the old addresses of their data files.
        RestoreForgetsVectors = "restore-forgets-vectors",
        /// Answers are sent for what the disk may still lose.
        AckBeforeSync = "ack-before-sync",
        /// A file that replaces another has its name before the directory keeps it.
        DirectoryNotSynced = "directory-not-synced",
        /// A segment's bytes are not synced.
        SegmentNotSynced = "segment-not-synced",
        /// What recovery read is served before the disk keeps it.
        RecoveredNotSynced = "recovered-not-synced",
        /// Rot in the journal is cut off as if it were a torn tail.
        RotCutOff = "rot-cut-off",
        /// A frame says that the journal is durable up to itself.
        SyncedEndAhead = "synced-end-ahead",
        /// Of a frame that is half there, the parts that are whole are taken.
        TornFrameInPart = "torn-frame-in-part",
        /// Payloads of the journal are believed without their checksum.
        PayloadUnchecked = "payload-unchecked",
        /// A clock that goes back takes the stamps along.
        StampGoesBack = "stamp-goes-back",
        /// A column's bytes are believed without their checksum.
        ColumnUnchecked = "column-unchecked",
        /// A segment's frame around the columns is believed without its checksum.
        SkeletonUnchecked = "skeleton-unchecked",
        /// Carried rows are taken for new ones at recovery.
        CarriedTakenAsNew = "carried-taken-as-new",
        /// A tail is carried although rows of its bucket are on their way.
        CarriedInFlight = "carried-in-flight",
        /// The edits before a checkpoint are made once more at recovery.
        EditsTwice = "edits-twice",
        /// Journal files go before the checkpoint that makes them superfluous is durable.
        JournalGoneEarly = "journal-gone-early",
        /// A checkpoint leaves out who has written what.
        WritersForgotten = "writers-forgotten",
        /// A repeat is looked for only after its bucket was chosen.
        RepeatTakesOffsets = "repeat-takes-offsets",
        /// A repeat is answered with the offsets that come next.
        RepeatAnsweredAnew = "repeat-answered-anew",
        /// Frames are published in another order than that of the journal.
        PublishedOutOfOrder = "published-out-of-order",
        /// The ends of several tables are taken at several moments.
        CutTableByTable = "cut-table-by-table",
        /// What was made on the assumption that a failed write holds is written all the same.
        StaleTicketWritten = "stale-ticket-written",
        /// A failed write does not void the tickets behind it.
        EpochNotRaised = "epoch-not-raised",
        /// A failed write keeps its offsets.
        OffsetsNotGivenBack = "offsets-not-given-back",
        /// An object gets its name before its bytes are synced.
        LakeBytesNotSynced = "lake-bytes-not-synced",
        /// An object is answered for before its directory keeps its name.
        LakeNameNotSynced = "lake-name-not-synced",
        /// A name is read that a power cut may still take.
        PendingNameRead = "pending-name-read",
        /// Rows are committed on whatever offsets the lake has by now.
        CommitRebased = "commit-rebased",
        /// Offsets at or past the end of a commit are taken for that commit.
        EndTakenAsDone = "end-taken-as-done",
        /// "Already exists" is taken for success.
        ConflictTakenAsMine = "conflict-taken-as-mine",
        /// A version file is written whether it is there or not.
        VersionOverwritten = "version-overwritten",
        /// The newest version is the one that the hint names.
        HintBelieved = "hint-believed",
        /// What others did to the lake table is not looked at.
        HistoryUnchecked = "history-unchecked",
        /// A lake table in the place of ours is taken for ours.
        OwnerUnchecked = "owner-unchecked",
        /// The bound of a long text is cut and not raised.
        CutBoundNotRaised = "cut-bound-not-raised",
        /// The first deletion vector of a file forgets what position deletes said.
        FirstVectorForgets = "first-vector-forgets",
        /// A new deletion vector forgets what the one before said.
        VectorReplaced = "vector-replaced",
        /// The deletion vector that a new one replaces stays.
        OldVectorKept = "old-vector-kept",
        /// A rewrite brings rows back that ended while it was under way.
        RewriteForgetsEnded = "rewrite-forgets-ended",
        /// Rows that are written anew are new rows to other engines.
        LineageDropped = "lineage-dropped",
        /// Manifests are brought together without the row ids that their entries got from them.
        MergeForgetsRowIds = "merge-forgets-row-ids",
        /// Entries that are brought together count as of the commit that does it.
        MergeTakesNewNumbers = "merge-takes-new-numbers",
        /// A rewrite is committed on the files of the version that it was planned on.
        RewriteOnOlderList = "rewrite-on-older-list",
        /// A moment that is asked for is not settled: a frame may still get its stamp.
        MomentNotSettled = "moment-not-settled",
        /// Time travel takes a snapshot that goes past the cut.
        PastBaseTooNew = "past-base-too-new",
        /// Time travel reads rows of files past the cut.
        PastRowsUncut = "past-rows-uncut",
        /// Time travel reads the rows of an earlier moment in the columns of today.
        PastInNewColumns = "past-in-new-columns",
        /// A checkpoint does not say that a table is dropped.
        DropForgotten = "drop-forgotten",
        /// A table that is being made is found by its name.
        UnfinishedShown = "unfinished-shown",
        /// A table that could not be finished is neither there nor dropped.
        UnfinishedStays = "unfinished-stays",
        /// A start takes a table that was being made for one that still is.
        UnfinishedKept = "unfinished-kept",
        /// A checkpoint does not say where the log starts.
        StartsForgotten = "starts-forgotten",
        /// Readers see rows of the lake that lie before the log's start.
        StartsUnread = "starts-unread",
        /// The files of rows that were taken away stay in the lake.
        LostRowsKept = "lost-rows-kept",
        /// A partition expires although some of its rows are not in the lake.
        ExpiryBeforeTiering = "expiry-before-tiering",
        /// A sweep does not ask what readers hold.
        HeldSwept = "held-swept",
        /// A sweep removes what a snapshot names that is not the newest.
        RetainedSwept = "retained-swept",
        /// Hot rows go by offsets whose commit has not landed.
        TrimmedUncommitted = "trimmed-uncommitted",
        /// A snapshot is published with the offsets of the one before.
        OffsetsOfBefore = "offsets-of-before",
        /// The published ends are taken before the boundary.
        EndsBeforeBoundary = "ends-before-boundary",
        /// A split is not drawn again when rows were let go under it.
        SplitNotRedrawn = "split-not-redrawn",
        /// A follower skips the first row after the cold ones.
        FollowerOneLate = "follower-one-late",
        /// The last offset of a piece is taken for the first one past it.
        UpperBoundExclusive = "upper-bound-exclusive",
        /// A file is ruled out by its lower bound where the upper one counts.
        FileRuledOut = "file-ruled-out",
        /// The count of rows before a filter is told as exact.
        FilteredCountExact = "filtered-count-exact",
        /// Columns of data files are found by name.
        ColumnsByName = "columns-by-name",
        /// Two keys that share 64 bits of their hashes are taken for one.
        KeyOf64Bits = "key-of-64-bits",
        /// A key that is removed leaves a hole before others of its probe.
        IndexHoleLeft = "index-hole-left",
        /// After a start the index knows the keys of tails alone.
        SegmentKeysForgotten = "segment-keys-forgotten",
        /// A row is ended by the first half of an update.
        EndedByFirstHalf = "ended-by-first-half",
        /// The half of an update that tells the old row tells the new one.
        OldRowIsNew = "old-row-is-new",
        /// A second row of a key in one request does not meet the first one.
        RequestNotFolded = "request-not-folded",
        /// A change is derived without those that are on their way.
        OverlayIgnored = "overlay-ignored",
        /// A lookup sees changes that are on their way.
        OverlaySeen = "overlay-seen",
        /// A request's keys become known bucket by bucket.
        IndexesApart = "indexes-apart",
        /// Changes are derived on what a failed write had derived.
        OverlayKept = "overlay-kept",
        /// Of a request's shares the first alone is written.
        SharesLost = "shares-lost",
        /// Hot rows go without what they say of their keys.
        KeysNotKept = "keys-not-kept",
        /// A snapshot of the index says that it knows changes which it does not.
        KeysKeptAhead = "keys-kept-ahead",
        /// For a row that was let go the first one that is still hot is taken.
        LetGoRowTaken = "let-go-row-taken",
        /// Changes are shown, and answered for, before the index knows of them.
        IndexBehindEnds = "index-behind-ends",
        /// Changes are shown before the rows that they end are ended.
        EndingsBehindEnds = "endings-behind-ends",
        /// Rows are changed wherever they stand by now.
        PlaceUnchecked = "place-unchecked",
        /// A key that has changed since the cut is taken to have no row there.
        IndexOverCut = "index-over-cut",
        /// Readers use the offsets of a commit that has not landed.
        BoundaryBeforeCommit = "boundary-before-commit",
        /// A round leaves out rows that changes past its own end have ended.
        RoundSeesLater = "round-sees-later",
        /// Under a limit a scan forgets which rows of a file to read.
        LimitForgetsDeletes = "limit-forgets-deletes",
        /// Rows of the lake that hot changes have ended are read all the same.
        MasksIgnored = "masks-ignored",
        /// A round leaves the rows in the lake that its changes have ended.
        EndedRowsKept = "ended-rows-kept",
        /// Hot rows of an older version are read by their places and not by their field ids.
        ColumnsByPlace = "columns-by-place",
        /// A change is derived in the columns that its sender knew.
        OldColumnsDerived = "old-columns-derived",
        /// A request that comes again after columns were added is another one.
        DigestOfVersion = "digest-of-version",
        /// Rows of older versions are taken although they lack a column that is NOT NULL.
        OldVersionTaken = "old-version-taken",
        /// A constraint is not held against rows that were checked before it came.
        CheckOfOlderVersion = "check-of-older-version",
        /// Rows are held against the constraints of whichever version was met first.
        ChecksOfAnyVersion = "checks-of-any-version",
        /// Of rows that are set aside, those are forgotten which break what a table asks of whole rows.
        SetAsideRowLost = "set-aside-row-lost",
        /// What is set aside of a request that comes again is set aside again.
        SetAsideTwice = "set-aside-twice",
        /// Old rows that were read in the columns of one version are handed out in another.
        BlocksOfAnyVersion = "blocks-of-any-version",
        /// A statement reads a cut with columns that are older than its rows.
        CutInOldColumns = "cut-in-old-columns",
        /// A round writes rows in columns that are older than they are.
        RoundInOldColumns = "round-in-old-columns",
        /// A follower goes on in the columns that it began with.
        FollowerKeepsColumns = "follower-keeps-columns",
        /// What tells rot from a torn tail is cut off with a torn tail.
        RotForgotten = "rot-forgotten",
        /// All rows of a request go to the partition of the first one.
        PartitionIgnored = "partition-ignored",
        /// Keys are looked for in the first partition alone.
        KeyOutsidePartition = "key-outside-partition",
        /// Files of every partition are called files of the first one.
        FilesOfOnePartition = "files-of-one-partition",
        /// A partition that comes under a follower is followed from its end.
        PartitionFollowedLate = "partition-followed-late",
        /// What a partition says of its smallest values is taken to be true of its largest.
        PartitionRuledOut = "partition-ruled-out",
        /// Fields of structs in older files are found by name.
        NestedByName = "nested-by-name",
        /// A scan says that it has tested conditions on nested columns, and has not.
        NestedConditionLost = "nested-condition-lost",
        /// Two requests that differ only inside lists are the same.
        DigestWithoutItems = "digest-without-items",
        /// What follows a snapshot begins one offset late.
        SnapshotOneLate = "snapshot-one-late",
        /// An Arrow stream that seems to end before its bytes do is taken.
        BytesPastTheEnd = "bytes-past-the-end",
        /// Of an Arrow batch with more columns than its schema the first ones are taken.
        SurplusColumnsLeft = "surplus-columns-left",
    }
}

/// Says that the process has come to a point.
#[inline(always)]
pub fn reached(point: CrashPoint) {
    #[cfg(feature = "faults")]
    switched::reached(point);
    #[cfg(not(feature = "faults"))]
    let _ = point;
}

/// Whether a defect is switched on.
#[inline(always)]
pub fn planted(defect: Defect) -> bool {
    #[cfg(feature = "faults")]
    return switched::planted(defect);
    #[cfg(not(feature = "faults"))]
    {
        let _ = defect;
        false
    }
}

/// Waits a while where a defect that is switched on shows only if others act meanwhile.
#[inline(always)]
pub fn linger(defect: Defect) {
    if planted(defect) {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Does in a while, on a thread of its own, what a defect that is switched on does too late.
pub fn late(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        work();
    });
}

#[cfg(feature = "faults")]
mod switched {
    use std::io::Write;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{CrashPoint, Defect};

    /// Where to halt, and how often to come there before.
    static HALT_AT: LazyLock<Option<(CrashPoint, AtomicU64)>> = LazyLock::new(|| {
        let wanted = std::env::var("THERMOCLINE_HALT_AT").ok()?;
        let (name, times) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        let point = CrashPoint::named(name).unwrap_or_else(|| panic!("THERMOCLINE_HALT_AT={wanted}: no such point"));
        let times = times.parse().unwrap_or_else(|_| panic!("THERMOCLINE_HALT_AT={wanted}: not a number of times"));
        Some((point, AtomicU64::new(times)))
    });

    static PLANTED: LazyLock<Option<Defect>> = LazyLock::new(|| {
        let name = std::env::var("THERMOCLINE_PLANT").ok()?;
        Some(Defect::named(&name).unwrap_or_else(|| panic!("THERMOCLINE_PLANT={name}: no such defect")))
    });

    pub fn reached(point: CrashPoint) {
        if let Some((wanted, left)) = &*HALT_AT
            && *wanted == point
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let _ = writeln!(std::io::stderr(), "halted at {}", point.name());
            loop {
                std::thread::park();
            }
        }
    }

    pub fn planted(defect: Defect) -> bool {
        *PLANTED == Some(defect)
    }
}
