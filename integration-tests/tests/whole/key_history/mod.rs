//! Random histories of tables with a primary key in one process, against a map and the list of changes that it must have
//! made: upserts and deletes, rounds, other servers' commits, trims, restarts, power cuts, tables dropped and made anew, columns that come and go.
//!
//! Each history has two tables of different kinds. After each operation one read split of both is compared: the state as
//! both tiers make it, the lake alone, the changes, which must add up to the state, and lookups; and statements picked at
//! random are asked. Slow readers hold cuts that they read many operations later; followers live as long as their tables.
//! The run prints how often it was in which state, and **fails if a state was never reached**.
//!
//! A failure prints its seed; see `histories` for how to run it again. Threads still run as they like, so a race may want
//! a few tries. [`writers`] has the requests, [`rounds`] rounds and those of others, [`readers`] who reads slowly or
//! follows, [`crashes`] ends and beginnings, [`alter`] other columns.

mod alter;
mod crashes;
mod readers;
mod rounds;
mod writers;

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::MemoryDisk;
use thermocline_engine::{ChangeRows, Durability, Sender, Table, WriterSequence};
use thermocline_integration_tests::clock::HandClock;
use thermocline_integration_tests::committer::Planned;
use thermocline_integration_tests::compare::{self, Tiers, buckets, lake_ends};
use thermocline_integration_tests::histories::{self, Coverage, OPERATIONS_PER_HISTORY, Plan, told};
use thermocline_integration_tests::keyed::compare::{KeyAudit, look_up};
use thermocline_integration_tests::keyed::oracle::{KeyOracle, Rules, Wish, request};
use thermocline_integration_tests::keyed::readers::{KeyFollower, SlowReader};
use thermocline_integration_tests::keyed::statements::{Asked, KeyStatement, ask};
use thermocline_integration_tests::node::Node;
use thermocline_integration_tests::oracle::passing_column;
use thermocline_schemas::SchemaId;

/// Of all operations of both kinds of histories.
const PERCENT: usize = 30;
const STATEMENTS_PER_OPERATION: usize = 2;
const LOOKUPS_PER_OPERATION: usize = 20;
/// Few, so that requests meet.
const KEYS: i64 = 60;

#[test]
fn random_operations_on_keys_agree_with_a_map() {
    let plan = Plan::of(PERCENT);
    let coverage = run(&plan.seeds, Durability::Fsync).unwrap_or_else(|failure| panic!("{failure}"));
    plan.conclude(&coverage, wanted());
}

/// The switch that acks before the disk has the bytes is what this test is for: it must be caught.
#[test]
fn without_fsync_the_histories_of_keys_fail() {
    let caught = (0..20).find_map(|seed| run(&[seed], Durability::Os).err());
    let failure = caught.expect("20 histories of power cuts lost nothing though nothing was synced");
    println!("caught: {failure}");
}

fn run(seeds: &[u64], durability: Durability) -> Result<Coverage, String> {
    histories::run(seeds, async |seed, coverage: &mut Coverage| History::run(seed, durability, coverage).await)
}

/// All states that a run of full length must reach.
fn wanted() -> Vec<String> {
    let mut wanted: Vec<String> = STATES.iter().map(|state| (*state).to_owned()).collect();
    wanted.extend(OPERATION_WEIGHTS.iter().map(|(operation, _)| format!("operation: {operation:?}")));
    wanted.extend(Kind::ALL.iter().map(|kind| format!("table: {}", kind.name)));
    for tiers in Tiers::ALL {
        wanted.extend(KeyStatement::ALL.iter().map(|statement| asked(tiers, *statement)));
    }
    wanted
}

fn asked(tiers: Tiers, statement: KeyStatement) -> String {
    format!("{statement:?} asked of {}", tiers.name())
}

const STATES: &[&str] = &[
    "request: its answer was lost, sent again",
    "request: sent again after a crash, had been applied",
    "request: sent again after a crash, had not been applied",
    "request: sent again after a crash, changes nothing",
    "request: unclear at a crash, applied",
    "request: unclear at a crash, not applied",
    "request: two at once",
    "request: beside statements, lookups, a round and a trim",
    "request: one key several times",
    "request: changes nothing",
    "request: makes keys and deletes them",
    "request: deletes alone",
    "request: an old row from the lake alone",
    "request: deletes a row of the lake alone",
    "request: brings back a key that was deleted",
    "statement: deleted rows",
    "statement: updated a row",
    "round: rows sank",
    "round: deleted rows of older files",
    "round: only deletes, no file",
    "round: its rows cancelled out",
    "round: nothing to do",
    "round: two at once",
    "round: beside another server's, lost",
    "round: beside a drop",
    "round: found another server's commit",
    "round: stopped by a foreign rewrite",
    "late commit: landed",
    "late commit: lost",
    "late commit: of a dropped table",
    "late commit: planned before a power cut",
    "split: rows of the lake are masked",
    "split: rows of the lake are deleted by vectors",
    "split: rows of the lake are deleted by position deletes",
    "split: after a trim",
    "split: hot rows kept below the lake's end",
    "split: tail was carried",
    "split: after a restart",
    "split: another server's commit not seen yet",
    "lookup: of rows in the lake alone",
    "slow split: exact",
    "slow query: exact",
    "slow query of changes: exact",
    "slow snapshot: exact",
    "slow changes: exact",
    "slow reader across a request",
    "slow reader across a round",
    "slow reader across a trim",
    "slow reader across altered columns",
    "slow reader across a seal",
    "slow reader across a carry",
    "slow reader across a checkpoint",
    "slow reader across a drop",
    "slow reader ended by a restart",
    "follower from earliest",
    "follower from latest",
    "follower from offsets",
    "follower from a timestamp",
    "follower from a snapshot",
    "follower: read a state",
    "follower: changes were let go, began again",
    "follower across a round",
    "follower across a trim",
    "follower across altered columns",
    "follower across a seal",
    "follower across a restart",
    "follower across a power cut",
    "follower ended by a drop",
    "power cut: idle",
    "power cut: under a request",
    "power cut: under a round",
    "power cut: under both",
    "power cut: a round landed",
    "start: after keys were let go",
    "alter: a column comes",
    "alter: a column goes",
    "alter: a column is renamed",
    "alter: a column comes under the name of one that goes",
    "alter: its writer keeps the older columns",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Request,
    RequestTwice,
    Nothing,
    Repeat,
    LoseAnswer,
    DeleteWhere,
    UpdateOne,
    Beside,
    Round,
    RoundTwice,
    RaceRounds,
    PlanCommit,
    LandCommit,
    Replace,
    Seal,
    Carry,
    Checkpoint,
    Upkeep,
    LetGo,
    OpenReader,
    FinishReader,
    Follow,
    Drain,
    Restart,
    PowerCut,
    Recreate,
    Alter,
}

const OPERATION_WEIGHTS: [(Operation, u32); 27] = [
    (Operation::Request, 18),
    (Operation::RequestTwice, 3),
    (Operation::Nothing, 4),
    (Operation::Repeat, 2),
    (Operation::LoseAnswer, 2),
    (Operation::DeleteWhere, 2),
    (Operation::UpdateOne, 2),
    (Operation::Beside, 2),
    (Operation::Round, 7),
    (Operation::RoundTwice, 2),
    (Operation::RaceRounds, 2),
    (Operation::PlanCommit, 4),
    (Operation::LandCommit, 4),
    (Operation::Replace, 1),
    (Operation::Seal, 6),
    (Operation::Carry, 3),
    (Operation::Checkpoint, 2),
    (Operation::Upkeep, 2),
    (Operation::LetGo, 6),
    (Operation::OpenReader, 6),
    (Operation::FinishReader, 5),
    (Operation::Follow, 3),
    (Operation::Drain, 6),
    (Operation::Restart, 3),
    (Operation::PowerCut, 5),
    (Operation::Recreate, 2),
    (Operation::Alter, 3),
];

/// A kind of table: what it does with requests, how its rows are spread, and where they sink.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    key: &'static [&'static str],
    rules: Rules,
    /// Of Iceberg; none without a lake.
    format: Option<u8>,
    properties: &'static [(&'static str, &'static str)],
}

const PLAIN: Rules = Rules { buckets: 1, by_region: false, full: true, deletes: true };

impl Kind {
    const ALL: [Kind; 7] = [
        Kind {
            name: "one bucket",
            key: &["id"],
            rules: PLAIN,
            format: Some(3),
            properties: &[("hot_retention", "0s")],
        },
        Kind {
            name: "one bucket, format 2",
            key: &["id"],
            rules: PLAIN,
            format: Some(2),
            properties: &[("format_version", "2"), ("hot_retention", "10s")],
        },
        Kind {
            name: "three buckets by a part of the key, format 2",
            key: &["id", "region"],
            rules: Rules { buckets: 3, by_region: true, ..PLAIN },
            format: Some(2),
            properties: &[("buckets", "3"), ("bucket_key", "region"), ("format_version", "2"), ("hot_retention", "0s")],
        },
        Kind {
            name: "three buckets, no old rows told",
            key: &["id"],
            rules: Rules { buckets: 3, full: false, ..PLAIN },
            format: Some(3),
            properties: &[("buckets", "3"), ("changelog", "upsert"), ("hot_retention", "0s")],
        },
        Kind {
            name: "three partitions",
            key: &["region", "id"],
            rules: Rules { buckets: 3, by_region: true, ..PLAIN },
            format: Some(3),
            properties: &[
                ("partition_by", "bucket(3, region)"),
                ("buckets", "3"),
                ("bucket_key", "region"),
                ("hot_retention", "0s"),
            ],
        },
        Kind {
            name: "deletes ignored",
            key: &["region", "id"],
            rules: Rules { by_region: true, deletes: false, ..PLAIN },
            format: Some(3),
            properties: &[("bucket_key", "region"), ("delete_behavior", "ignore"), ("hot_retention", "0s")],
        },
        Kind {
            name: "no lake",
            key: &["id"],
            rules: PLAIN,
            format: None,
            properties: &[("lake_enabled", "false"), ("hot_retention", "20s")],
        },
    ];

    const LAKELESS: usize = 6;
}

/// A request as it was sent: what is sent again is the same, in the same columns.
#[derive(Clone, Debug)]
struct Sent {
    version: SchemaId,
    wishes: Vec<Wish>,
}

/// A request in the columns of a table's version.
fn request_in(table: &Table, wishes: &[Wish]) -> Result<ChangeRows, String> {
    told(request(table.descriptor(), table.schema(), wishes))
}

/// A table and all that is known of it.
struct Tracked {
    name: &'static str,
    kind: &'static Kind,
    /// Its newest version.
    table: Arc<Table>,
    /// In the columns that its writers use.
    writer: Arc<Table>,
    /// The lake has not heard of its newest columns.
    untold_columns: bool,
    oracle: KeyOracle,
    audit: KeyAudit,
    /// How far the lake is, whether our node has seen it or not.
    lake: Vec<u64>,
    /// A crash came while a round was under way, so it may be further.
    landing: bool,
    /// How far our node's readers take rows from the lake.
    boundary: Vec<u64>,
    /// How often a foreign engine rewrote it.
    rewrites: usize,
    carried: bool,
    restarted: bool,
    tiers: Tiers,
    /// The next sequence number of the table's one numbered writer, and what it sent last.
    sequence: u64,
    last: Option<Sent>,
    /// Sent under the next sequence number, and not answered.
    unanswered: Option<Sent>,
    /// Whether what was not answered had been applied, where a start could tell.
    answered: Option<bool>,
}

impl Tracked {
    fn new(name: &'static str, kind: &'static Kind, table: Arc<Table>) -> Tracked {
        let none = vec![0; kind.rules.buckets];
        Tracked {
            name,
            kind,
            writer: table.clone(),
            table,
            untold_columns: false,
            oracle: KeyOracle::new(kind.rules),
            audit: KeyAudit::default(),
            lake: none.clone(),
            landing: false,
            boundary: none,
            rewrites: 0,
            carried: false,
            restarted: false,
            tiers: Tiers::ALL[0],
            sequence: 0,
            last: None,
            unanswered: None,
            answered: None,
        }
    }

    fn sender(&self, sequence: u64) -> Sender {
        Sender { writer: WriterSequence::new("history", sequence).ok(), ..Sender::default() }
    }

    fn asked(&self) -> Asked<'_> {
        Asked { name: self.name, table: self.table.descriptor(), oracle: &self.oracle, lake: &self.boundary }
    }

    fn request(&self, wishes: &[Wish]) -> Result<ChangeRows, String> {
        request_in(&self.writer, wishes)
    }

    fn sent(&self, wishes: Vec<Wish>) -> Sent {
        Sent { version: self.writer.descriptor().schema.id, wishes }
    }

    /// In whose columns a request is sent again: those in which it was sent, or the newest where its rows are the same in them.
    fn to_send_again(&self, version: SchemaId, newest: bool) -> Result<Arc<Table>, String> {
        let sent = Arc::new(told(self.table.in_version(version))?);
        let field = |table: &Table| passing_column(table).map_or(0, |(_, field)| field);
        let is_same = field(&sent) == 0 || field(&sent) == field(&self.table);
        Ok(if newest && is_same { self.table.clone() } else { sent })
    }

    fn floors(&self) -> Vec<u64> {
        buckets(&self.table).map(|(_, log)| log.trim_floor().0).collect()
    }

    fn has_lake(&self) -> bool {
        self.kind.format.is_some()
    }
}

/// A commit of another server, planned and not landed.
struct Late {
    planned: Planned,
    /// What happened since.
    since: Option<&'static str>,
    /// How often the table had been rewritten by then.
    rewrites: usize,
}

struct History<'a> {
    random: StdRng,
    clock: Arc<HandClock>,
    disk: Arc<MemoryDisk>,
    durability: Durability,
    node: Node,
    tables: Vec<Tracked>,
    readers: Vec<SlowReader>,
    followers: Vec<KeyFollower>,
    planned: Vec<Late>,
    /// Followers so far, which numbers them.
    opened: usize,
    coverage: &'a mut Coverage,
}

impl History<'_> {
    async fn run(seed: u64, durability: Durability, coverage: &mut Coverage) -> Result<(), String> {
        let mut random = StdRng::seed_from_u64(seed);
        let (disk, clock) = (MemoryDisk::new(), HandClock::new());
        let node = told(Node::start(&disk, durability, clock.clone()).await)?;
        // The first is never without a lake.
        let kinds = [random.random_range(0..Kind::LAKELESS), random.random_range(0..Kind::ALL.len())];
        let mut tables = Vec::new();
        for (name, kind) in ["t", "u"].into_iter().zip(kinds) {
            let kind = &Kind::ALL[kind];
            tables.push(Tracked::new(name, kind, told(node.keyed_table(name, kind.key, kind.properties).await)?));
        }
        let mut history = History {
            random,
            clock,
            disk,
            durability,
            node,
            tables,
            readers: Vec::new(),
            followers: Vec::new(),
            planned: Vec::new(),
            opened: 0,
            coverage,
        };
        for table in 0..history.tables.len() {
            history.count(format!("table: {}", history.tables[table].kind.name));
        }
        for step in 0..OPERATIONS_PER_HISTORY {
            let moment = history.random.random_range(1..2_000_000);
            history.clock.advance(moment);
            let operation = OPERATION_WEIGHTS
                .choose_weighted(&mut history.random, |(_, weight)| *weight)
                .expect("there are some")
                .0;
            let done = history.operation(operation).await;
            done.map_err(|failure| format!("step {step}, {operation:?}: {failure}"))?;
            history.count(format!("operation: {operation:?}"));
            let seen = history.compare().await;
            seen.map_err(|failure| format!("step {step}, after {operation:?}: {failure}"))?;
        }
        while let Some(reader) = history.readers.pop() {
            history.finish(reader).await?;
        }
        for follower in 0..history.followers.len() {
            history.drain(follower, u64::MAX).await?;
        }
        history.node.stop().await;
        Ok(())
    }

    fn count(&mut self, state: impl Into<String>) {
        *self.coverage.entry(state.into()).or_default() += 1;
    }

    /// Notes for all who read this table, or any, that something happened.
    fn crossed(&mut self, table: Option<usize>, what: &'static str) {
        let id = table.map(|table| self.tables[table].table.descriptor().id);
        let concerned = |other: &Arc<Table>| id.is_none_or(|id| other.descriptor().id == id);
        for reader in self.readers.iter_mut().filter(|reader| concerned(&reader.table)) {
            reader.crossed.insert(what);
        }
        for follower in self.followers.iter_mut().filter(|follower| concerned(&follower.table)) {
            follower.crossed.insert(what);
        }
    }

    /// One cut of both tables in all ways; then lookups, and statements.
    async fn compare(&mut self) -> Result<(), String> {
        let tables: Vec<_> = self.tables.iter().map(|tracked| tracked.table.clone()).collect();
        let splits = told(self.node.tiering.read_split(&tables).await)?;
        let mut states = Vec::new();
        for (tracked, split) in self.tables.iter_mut().zip(&splits) {
            let floors = tracked.floors();
            compare::same(&format!("the floors of {}", tracked.name), &floors, &tracked.oracle.floors)?;
            let found = tracked.audit.split(split, &tracked.oracle).await?;
            tracked.tiers = found.tiers;
            let lake = lake_ends(split, tracked.kind.rules.buckets);
            compare::same(&format!("the lake of {} for our readers", tracked.name), &lake, &tracked.boundary)?;
            let kept = lake.iter().zip(&floors).any(|(lake, floor)| floor < lake);
            let deleted = |format| found.deleted && tracked.kind.format == Some(format);
            let seen = [
                (found.masked, "split: rows of the lake are masked"),
                (deleted(3), "split: rows of the lake are deleted by vectors"),
                (deleted(2), "split: rows of the lake are deleted by position deletes"),
                (floors.iter().any(|floor| *floor > 0), "split: after a trim"),
                (kept, "split: hot rows kept below the lake's end"),
                (tracked.carried && tracked.tiers.tail, "split: tail was carried"),
                (tracked.restarted, "split: after a restart"),
                (tracked.lake != tracked.boundary, "split: another server's commit not seen yet"),
            ];
            states.extend(seen.iter().filter(|(is, _)| *is).map(|(_, state)| *state));
        }
        for state in states {
            self.count(state);
        }
        for table in 0..self.tables.len() {
            self.look_up(table).await?;
        }
        let mut about: Vec<_> =
            (0..STATEMENTS_PER_OPERATION).map(|_| self.random.random_range(0..self.tables.len())).collect();
        // Without a tail tables are rare, so of these more is asked.
        let rare = |(_, tracked): &(usize, &Tracked)| tracked.tiers.segments && !tracked.tiers.tail;
        about.extend(self.tables.iter().enumerate().filter(rare).flat_map(|(table, _)| [table; 3]));
        for one in about {
            let (table, other) = (&self.tables[one], &self.tables[1 - one]);
            let statement = *KeyStatement::ALL.choose(&mut self.random).expect("there are some");
            let pick = self.random.random_range(0..1_000_000);
            ask(&self.node, statement, table.asked(), other.asked(), pick).await?;
            let state = asked(table.tiers, statement);
            self.count(state);
        }
        if self.random.random_bool(0.3) && !self.followers.is_empty() {
            let follower = self.random.random_range(0..self.followers.len());
            self.drain(follower, 10).await?;
        }
        Ok(())
    }

    /// Some keys, there or not, maybe one twice.
    async fn look_up(&mut self, table: usize) -> Result<(), String> {
        let ids: Vec<i64> = (0..LOOKUPS_PER_OPERATION).map(|_| self.random.random_range(0..KEYS + 10)).collect();
        let tracked = &self.tables[table];
        let found = look_up(&self.node, &tracked.table, &ids).await?;
        let state = tracked.oracle.state();
        let expected: Vec<_> = ids.iter().map(|id| state.get(id).map(|row| row.version)).collect();
        compare::same(&format!("the keys {ids:?} of {}", tracked.name), &found, &expected)?;
        let rows = ids.iter().filter_map(|id| state.get(id));
        if rows.into_iter().any(|row| row.offset < tracked.oracle.floors[row.bucket]) {
            self.count("lookup: of rows in the lake alone");
        }
        Ok(())
    }

    async fn operation(&mut self, operation: Operation) -> Result<(), String> {
        let table = self.random.random_range(0..self.tables.len());
        let (engine, shared) = (self.node.engine.clone(), self.tables[table].table.clone());
        match operation {
            Operation::Request => self.request(table).await,
            Operation::RequestTwice => self.request_twice(table).await,
            Operation::Nothing => self.nothing(table).await,
            Operation::Repeat => self.repeat(table).await,
            Operation::LoseAnswer => self.lose_answer(table).await,
            Operation::DeleteWhere => self.delete_where(table).await,
            Operation::UpdateOne => self.update_one(table).await,
            Operation::Beside => self.beside().await,
            Operation::Round => self.round(table).await,
            Operation::RoundTwice => self.round_twice(table).await,
            Operation::RaceRounds => self.race_rounds(table).await,
            Operation::PlanCommit => self.plan_commit(table).await,
            Operation::LandCommit => self.land_commit().await,
            Operation::Replace => self.replace(table).await,
            Operation::Seal => {
                told(engine.seal(&shared).await)?;
                self.tables[table].carried = false;
                self.crossed(Some(table), "a seal");
                Ok(())
            }
            Operation::Carry => {
                self.tables[table].carried = told(engine.carry(&shared).await)?;
                self.crossed(Some(table), "a carry");
                Ok(())
            }
            Operation::Checkpoint => {
                told(engine.checkpoint().await)?;
                self.crossed(None, "a checkpoint");
                Ok(())
            }
            Operation::Upkeep => told(engine.upkeep().await),
            Operation::LetGo => self.let_go(table).await,
            Operation::OpenReader => self.open_reader(table).await,
            Operation::FinishReader => match self.readers.is_empty() {
                true => self.open_reader(table).await,
                false => {
                    let reader = self.random.random_range(0..self.readers.len());
                    let reader = self.readers.swap_remove(reader);
                    self.finish(reader).await
                }
            },
            Operation::Follow => self.follow(table).await,
            Operation::Drain => {
                for follower in 0..self.followers.len() {
                    let changes = *[5, 50, u64::MAX].choose(&mut self.random).expect("there are some");
                    self.drain(follower, changes).await?;
                }
                Ok(())
            }
            Operation::Restart => self.restart().await,
            Operation::PowerCut => self.power_cut().await,
            Operation::Recreate => self.recreate(table).await,
            Operation::Alter => self.alter(table).await,
        }
    }
}
