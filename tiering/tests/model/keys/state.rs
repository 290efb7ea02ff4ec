//! The state of everything around one table with keys: clients, one node's memory and disk, the lake, and who reads.

use std::rc::Rc;

use super::scope::Budget;

pub const BUCKETS: usize = 2;
pub const KEYS: usize = 2;

pub type Offset = u8;
pub type Key = u8;
/// A row is known by its request and its place in it.
pub type Row = u8;
/// A set of offsets of one bucket.
pub type Offsets = u32;
/// Where the newest row of each key stands.
pub type Places = [Option<Offset>; KEYS];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// One per request.
    pub clients: Vec<Client>,
    pub owner: Owner,
    pub deriver: Deriver,
    /// The newest ticket that the index knows.
    pub durable: u8,
    /// Tickets that wait for the journal's thread.
    pub queue: Vec<Ticket>,
    /// Tickets that the journal's thread is at.
    pub group: Vec<Ticket>,
    pub phase: Phase,
    /// Its first frames are durable.
    pub journal: Vec<Rc<Frame>>,
    pub synced: usize,
    pub lanes: [Lane; BUCKETS],
    /// What edits have made durable.
    pub disk: [Kept; BUCKETS],
    pub letting_go: Option<LettingGo>,
    /// Version N stands at place N; the first is empty.
    pub versions: Vec<Rc<Version>>,
    /// What readers use.
    pub boundary: Rc<Version>,
    pub round: Round,
    pub rewrites: Vec<Option<Rc<Rewrite>>>,
    pub reader: Reader,
    pub looker: Looker,
    pub follower: Follower,
    pub left: Budget,
    /// The first thing that must not be.
    pub broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub knows: Knows,
    /// Old rows that are no longer hot and were fetched for it, per bucket.
    pub fetched: [Offsets; BUCKETS],
    /// Where the rows stand that a statement has read.
    pub read: Option<Places>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Knows {
    /// It has not got a ticket.
    Nothing,
    Waiting,
    /// The node went away before it answered.
    Unsure,
    /// Told that nothing was done.
    Failed,
    Acked,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    pub next: [Offset; BUCKETS],
    pub epoch: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Deriver {
    pub epoch: u8,
    pub tickets: u8,
    /// In ticket order.
    pub overlay: Vec<Pending>,
    /// Derived, and without a ticket yet.
    pub draft: Option<Draft>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    pub ticket: u8,
    pub frame: Rc<Frame>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Draft {
    pub epoch: u8,
    pub frame: Frame,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub number: u8,
    pub epoch: u8,
    pub frame: Rc<Frame>,
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub request: usize,
    /// What its statement has read; nobody's memory.
    pub read: Option<Places>,
    /// Buckets ascend; none without a row.
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    pub bucket: usize,
    pub base: Offset,
    pub rows: Vec<Change>,
    /// Where the newest row of each key that it touches will stand; in memory only.
    pub effects: Vec<(Key, Option<Offset>)>,
}

/// A row of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    pub kind: Kind,
    pub key: Key,
    pub row: Row,
    pub ends: Option<Offset>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Insert,
    Before,
    After,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Idle,
    Written,
    /// The next step of publication.
    Synced(usize),
}

/// One bucket in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lane {
    /// All rows that are in the log; those below `floor` are nobody's to read.
    pub rows: Vec<Change>,
    /// Which change ended each of them.
    pub ended: Vec<Option<Offset>>,
    pub floor: Offset,
    /// The published end.
    pub shown: Offset,
    /// Of keys of this bucket.
    pub index: Places,
}

/// What is durable of a bucket besides its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kept {
    pub floor: Offset,
    pub keys: Option<KeysSnapshot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeysSnapshot {
    pub end: Offset,
    pub index: Places,
    pub synced: bool,
}

/// Hot rows are about to be let go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LettingGo {
    pub floors: [Offset; BUCKETS],
    pub ends: Option<[Offset; BUCKETS]>,
    pub indexes: Option<[Places; BUCKETS]>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version {
    pub number: usize,
    pub offsets: [Offset; BUCKETS],
    pub files: Vec<File>,
}

/// A data file as a version has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct File {
    /// The version that it came with.
    pub made: usize,
    pub bucket: usize,
    pub rows: Offsets,
    pub deleted: Offsets,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    Idle,
    Begun([Offset; BUCKETS]),
    Planned(Rc<Attempt>),
    /// The commit is in this version.
    Committed(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    pub base: usize,
    pub start: [Offset; BUCKETS],
    pub end: [Offset; BUCKETS],
    pub rows: [Offsets; BUCKETS],
    /// What ends of each file of the base, in its order.
    pub ended: Vec<Offsets>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rewrite {
    pub base: usize,
    /// As they were when they were read.
    pub replaced: Vec<File>,
    pub rows: Offsets,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reader {
    /// How many of its steps are done.
    pub step: usize,
    pub boundary: Option<Rc<Version>>,
    pub ends: [Offset; BUCKETS],
    /// Where its hot rows begin.
    pub from: [Offset; BUCKETS],
    /// The published ends when its boundary was loaded.
    pub ends_before: [Offset; BUCKETS],
    /// What the index says, and where the log ended then.
    pub places: [Places; BUCKETS],
    pub log_ends: [Offset; BUCKETS],
}

/// Somebody who looks up all keys, again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Looker {
    /// How many buckets were asked.
    pub step: usize,
    pub places: [Places; BUCKETS],
    /// The least number of rows that what it was told before is the state of.
    pub seen: [Offset; BUCKETS],
    /// The same of what it has found now.
    pub found: [Offset; BUCKETS],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Follower {
    None,
    Follows {
        next: [Offset; BUCKETS],
        state: [Option<Row>; KEYS],
    },
    /// What it would get next is no longer kept.
    TooSlow,
}

impl Client {
    pub fn new(knows: Knows) -> Client {
        Client { knows, fetched: [0; BUCKETS], read: None }
    }
}

impl Change {
    /// Whether it is a version of its key.
    pub fn is_version(&self) -> bool {
        matches!(self.kind, Kind::Insert | Kind::After)
    }
}

impl Part {
    pub fn end(&self) -> Offset {
        self.base + self.rows.len() as Offset
    }

    pub fn effect(&self, key: Key) -> Option<Option<Offset>> {
        self.effects.iter().find(|(own, _)| *own == key).map(|(_, place)| *place)
    }
}

impl Frame {
    pub fn part(&self, bucket: usize) -> Option<&Part> {
        self.parts.iter().find(|part| part.bucket == bucket)
    }
}

impl Lane {
    pub fn end(&self) -> Offset {
        self.rows.len() as Offset
    }

    /// The rows `[from, to)` that are part of the state at `to`, as rows know by now what ended them.
    pub fn visible(&self, from: Offset, to: Offset) -> Offsets {
        self.versions(from, to, |ended| ended.is_none_or(|by| to <= by))
    }

    pub fn versions(&self, from: Offset, to: Offset, lives: impl Fn(Option<Offset>) -> bool) -> Offsets {
        let of = |offset: &Offset| {
            let place = usize::from(*offset);
            self.rows[place].is_version() && lives(self.ended[place])
        };
        (from..to).filter(of).map(bit).sum()
    }

    /// What the changes `[from, to)` have ended of the rows before them.
    pub fn ended_before(&self, from: Offset, to: Offset) -> Offsets {
        let changes = self.rows[usize::from(from)..usize::from(to)].iter();
        let ended = changes.filter_map(|change| change.ends).filter(|ended| *ended < from);
        ended.fold(0, |all, ended| all | bit(ended))
    }
}

impl File {
    /// Whether it is the same file, whatever is deleted of it.
    pub fn is(&self, other: &File) -> bool {
        (self.made, self.bucket) == (other.made, other.bucket)
    }

    pub fn living(&self) -> Offsets {
        self.rows & !self.deleted
    }
}

impl Version {
    pub fn of(&self, bucket: usize) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| file.bucket == bucket)
    }

    pub fn living(&self, bucket: usize) -> Offsets {
        self.of(bucket).fold(0, |all, file| all | file.living())
    }

    /// Whether some file has the row, be it deleted.
    pub fn has(&self, bucket: usize, offset: Offset) -> bool {
        self.of(bucket).any(|file| file.rows & bit(offset) != 0)
    }
}

impl State {
    pub fn newest(&self) -> &Rc<Version> {
        &self.versions[self.versions.len() - 1]
    }

    pub fn shown(&self) -> [Offset; BUCKETS] {
        [self.lanes[0].shown, self.lanes[1].shown]
    }

    pub fn break_with(&mut self, what: &'static str) {
        self.broken.get_or_insert(what);
    }
}

pub fn bit(offset: Offset) -> Offsets {
    1 << offset
}

pub fn each(mut offsets: Offsets) -> impl Iterator<Item = Offset> {
    std::iter::from_fn(move || {
        let first = (offsets != 0).then(|| offsets.trailing_zeros() as Offset)?;
        offsets &= offsets - 1;
        Some(first)
    })
}
