//! Points at which a test may halt the process to kill it, and defects that a test may plant.
//!
//! Only with the feature `faults`, which `integration-tests` asks for and a build of the server alone does not; without
//! it [`reached`] does nothing and [`planted`] is false, and neither costs anything. One environment variable each:
//! - `THERMOCLINE_HALT_AT=journal-synced:3` halts the thread that comes to that point for the third time. It says
//!   `halted at journal-synced` on standard error and waits to be killed; the other threads go on.
//! - `THERMOCLINE_PLANT=ack-before-sync` switches a defect on, for the whole life of the process.

macro_rules! named {
    ($(#[$about:meta])* $enum:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $enum { $($(#[$doc])* $variant,)* }

        impl $enum {
            pub const ALL: &[$enum] = &[$($enum::$variant),*];

            pub fn name(self) -> &'static str {
                match self { $($enum::$variant => $name),* }
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
    }
}

named! {
    /// A mistake that the tests must catch.
    Defect {
        /// Answers are sent for what the disk may still lose.
        AckBeforeSync = "ack-before-sync",
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
