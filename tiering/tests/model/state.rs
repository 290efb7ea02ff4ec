//! The state of everything: clients, one node's memory and disk, the lake, and what was ever shown.

use std::rc::Rc;

use crate::scope::Budget;

pub type Offset = u16;
/// Frames are counted, not bytes.
pub type Position = u16;
/// A row is known by the number of its request.
pub type Row = u16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub life: Life,
    /// One per request.
    pub clients: Vec<Client>,
    /// One per table.
    pub owners: Vec<Owner>,
    /// The buckets of all tables, in memory.
    pub lanes: Vec<Lane>,
    /// Tickets that wait for the journal's thread.
    pub queue: Vec<Ticket>,
    /// Tickets that the journal's thread is at.
    pub group: Vec<Ticket>,
    pub phase: Phase,
    pub journal: Journal,
    /// The durable checkpoint.
    pub checkpoint: Checkpoint,
    /// A checkpoint on its way.
    pub capture: Option<Capture>,
    pub segments: Vec<SegmentFile>,
    /// Segment files that the next checkpoint makes superfluous.
    pub garbage: Vec<(usize, Offset, Offset)>,
    /// One per table.
    pub lakes: Vec<Lake>,
    /// What the node's readers use, per table; none until the lake is opened after a start.
    pub boundaries: Vec<Option<Boundary>>,
    /// One per worker.
    pub rounds: Vec<Round>,
    /// Creates that may reach the store at any time.
    pub puts: Vec<Put>,
    pub reader: Reader,
    pub followers: Vec<Follower>,
    /// Nobody's memory: all rows that anybody could ever see, per bucket, with their frame's position.
    pub shown: Vec<Vec<(Row, Position)>>,
    pub left: Budget,
    /// The first thing that must not be.
    pub broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    Up,
    Down,
    /// Recovery found rot and refuses to serve.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub sent: u8,
    pub knows: Knows,
    /// Only where each bucket gives out its own offsets: what it has so far.
    pub parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Knows {
    Nothing,
    Waiting,
    /// Told that the last request sent was not applied.
    Failed,
    Acked,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    pub next: Vec<Offset>,
    pub epoch: u16,
    pub turn: u16,
    /// Per writer, oldest first.
    pub kept: Vec<Vec<Kept>>,
    pub pending: Vec<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kept {
    pub sequence: u8,
    /// The bucket of its first part.
    pub lane: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    pub request: usize,
    pub writer: usize,
    pub kept: Kept,
    /// Which sending of the request waits for it; 0: none.
    pub waits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub draft: Draft,
    pub table: usize,
    pub epoch: u16,
    /// Which sending of its request it is.
    pub sending: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Draft {
    Rows { request: usize, parts: Vec<Part> },
    Carried(Part),
    AddSegment { lane: usize, from: Offset, to: Offset },
    Trim { floors: Vec<(usize, Offset)> },
    Mark,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    pub lane: usize,
    pub base: Offset,
    pub rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Idle,
    Written,
    Synced,
    /// Only where groups are shown out of order.
    HalfShown,
    Shown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Journal {
    /// Where each file starts; the first frame kept stands at the first of them.
    pub files: Vec<Position>,
    pub frames: Vec<Rc<Frame>>,
    pub synced: Position,
    /// A sync failed: what can be read past `synced` will never last.
    pub lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub draft: Draft,
    pub synced_end: Position,
    /// Else torn, missing or rotten.
    pub whole: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    pub position: Position,
    pub lanes: Vec<LaneState>,
    /// Per table.
    pub kept: Vec<Vec<Vec<Kept>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LaneState {
    pub floor: Offset,
    pub segments: Vec<(Offset, Offset)>,
    pub replay_from: Option<Position>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Capture {
    pub checkpoint: Checkpoint,
    pub garbage: Vec<(usize, Offset, Offset)>,
    /// Whether it is durable, and only removing is left.
    pub durable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SegmentFile {
    pub lane: usize,
    pub from: Offset,
    pub rows: Vec<Row>,
    pub synced: bool,
}

/// One bucket in memory. All of it is published: rows are put in and shown in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lane {
    pub floor: Offset,
    pub segments: Vec<(Offset, Offset)>,
    /// Each row with the position of the frame that holds it.
    pub tail: Vec<(Row, Position)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lake {
    /// Version N stands at place N; the first is empty.
    pub versions: Vec<Rc<Version>>,
    /// Only where it is believed.
    pub hint: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Per bucket of the table.
    pub offsets: Vec<Offset>,
    pub rows: Vec<Vec<Row>>,
    /// 0: not a round's.
    pub commit: u16,
    pub synced: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Boundary {
    pub version: usize,
    pub offsets: Vec<Offset>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    Idle,
    /// Data files are written. `guarded`: only where the guard is a step of its own.
    Planned {
        attempt: Rc<Attempt>,
        guarded: bool,
    },
    /// A create is under way.
    Sent {
        attempt: Rc<Attempt>,
        put: Put,
    },
    /// It was not confirmed.
    Looking {
        attempt: Rc<Attempt>,
        put: Put,
    },
    /// The commit is in this version.
    Committed {
        version: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    pub commit: u16,
    pub start: Vec<Offset>,
    pub rows: Vec<Vec<Row>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Put {
    pub worker: usize,
    pub table: usize,
    pub version: usize,
    pub content: Rc<Version>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reader {
    /// How many of its steps are done.
    pub step: usize,
    pub boundaries: Vec<Boundary>,
    /// Of all buckets.
    pub ends: Vec<Offset>,
    /// What is wrong with the split, should it stand.
    pub wrong: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Follower {
    /// Per bucket of table 0.
    pub next: Vec<Offset>,
    /// A bucket whose next rows are no longer hot.
    pub cold: Option<usize>,
}

impl Lane {
    pub fn covered(&self) -> Offset {
        self.segments.last().map_or(self.floor, |(_, to)| self.floor.max(*to))
    }

    pub fn end(&self) -> Offset {
        self.covered() + self.tail.len() as Offset
    }
}

impl Journal {
    pub fn head(&self) -> Position {
        self.files[0]
    }

    pub fn end(&self) -> Position {
        self.head() + self.frames.len() as Position
    }

    pub fn frame(&self, position: Position) -> &Frame {
        &self.frames[usize::from(position - self.head())]
    }

    /// Drops whole files below `floor`.
    pub fn trim(&mut self, floor: Position) -> bool {
        let before = self.head();
        while self.files.len() > 1 && self.files[1] <= floor {
            self.frames.drain(..usize::from(self.files[1] - self.files[0]));
            self.files.remove(0);
        }
        self.head() > before
    }
}

impl Checkpoint {
    pub fn journal_floor(&self) -> Position {
        self.lanes.iter().filter_map(|lane| lane.replay_from).fold(self.position, Position::min)
    }
}

impl Lake {
    pub fn newest(&self) -> usize {
        self.versions.len() - 1
    }
}

impl Attempt {
    pub fn ends(&self) -> Vec<Offset> {
        self.start.iter().zip(&self.rows).map(|(start, rows)| start + rows.len() as Offset).collect()
    }
}

impl State {
    /// The hot rows `[from, to)` of a bucket; none if some are not there.
    pub fn hot(&self, lane: usize, from: Offset, to: Offset) -> Option<Vec<Row>> {
        let memory = &self.lanes[lane];
        let covered = memory.covered();
        let row = |offset: Offset| {
            if offset >= covered {
                return memory.tail.get(usize::from(offset - covered)).map(|(row, _)| *row);
            }
            let (first, _) = memory.segments.iter().find(|(first, end)| *first <= offset && offset < *end)?;
            let file = self.segments.iter().find(|file| file.lane == lane && file.from == *first)?;
            file.rows.get(usize::from(offset - first)).copied()
        };
        (from..to).map(row).collect()
    }

    pub fn break_with(&mut self, what: &'static str) {
        self.broken.get_or_insert(what);
    }
}
