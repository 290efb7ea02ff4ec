//! Random histories in one process: writers, rounds, other servers' commits, trims, restarts, power cuts, tables dropped
//! and made anew, against a plain list.
//!
//! Each history has two tables of different kinds. After each operation one read split of both is compared row by row, and
//! statements picked at random are asked; slow readers hold cuts that they read many operations later; followers live as
//! long as their tables. The run prints how often it was in which state, and **fails if a state was never reached**: among
//! them every statement in every state of tiering.
//!
//! A failure prints its seed; see `histories` for how to run it again. Threads still run as they like, so a race may want a
//! few tries. `THERMOCLINE_TRACES=<directory>` writes what was done to tables of one bucket, one file each (see `trace`).
//! [`writers`] has the appends, [`rounds`] rounds and those of others, [`alter`] what changes a table, [`readers`] who reads slowly or
//! follows, [`crashes`] ends and beginnings.

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
use thermocline_engine::{Durability, Sender, Table, WriterSequence};
use thermocline_integration_tests::clock::HandClock;
use thermocline_integration_tests::committer::Planned;
use thermocline_integration_tests::compare::{self, Audit, Tiers, lake_ends};
use thermocline_integration_tests::histories::{self, Coverage, OPERATIONS_PER_HISTORY, Plan, told};
use thermocline_integration_tests::node::Node;
use thermocline_integration_tests::oracle::{Oracle, rows_of};
use thermocline_integration_tests::readers::{Follower, SlowReader};
use thermocline_integration_tests::statements::{Asked, Statement, ask};
use thermocline_integration_tests::trace::{Action, Trace};
use thermocline_schemas::{SchemaId, TableDescriptor};

/// Of all operations of both kinds of histories.
const PERCENT: usize = 70;
const STATEMENTS_PER_OPERATION: usize = 2;

#[test]
fn random_operations_agree_with_a_list() {
    let plan = Plan::of(PERCENT);
    let coverage = run(&plan.seeds, Durability::Fsync).unwrap_or_else(|failure| panic!("{failure}"));
    plan.conclude(&coverage, wanted());
}

/// The switch that acks before the disk has the bytes is what this test is for: it must be caught.
#[test]
fn without_fsync_the_histories_fail() {
    let caught = (0..20).find_map(|seed| run(&[seed], Durability::Os).err());
    let failure = caught.expect("20 histories of power cuts lost nothing though nothing was synced");
    println!("caught: {failure}");
}

/// All states that a run of full length must reach.
fn wanted() -> Vec<String> {
    let mut wanted: Vec<String> = STATES.iter().map(|state| (*state).to_owned()).collect();
    wanted.extend(OPERATION_WEIGHTS.iter().map(|(operation, _)| format!("operation: {operation:?}")));
    wanted.extend(Kind::ALL.iter().map(|kind| format!("table: {}", kind.name)));
    for tiers in Tiers::ALL {
        wanted.extend(Statement::ALL.iter().map(|statement| asked(tiers, *statement)));
    }
    wanted
}

fn asked(tiers: Tiers, statement: Statement) -> String {
    format!("{statement:?} asked of {}", tiers.name())
}

const STATES: &[&str] = &[
    "append: its answer was lost, sent again",
    "append: sent again after a crash, had been applied",
    "append: sent again after a crash, had not been applied",
    "append: unclear at a crash, applied",
    "append: unclear at a crash, not applied",
    "append: two at once",
    "append: beside statements, a round and a seal",
    "round: rows sank",
    "round: nothing to do",
    "round: two at once",
    "round: beside another server's, lost",
    "round: beside a drop",
    "round: beside a truncation",
    "round: first after a truncation",
    "round: found another server's commit",
    "round: found a foreign rewrite",
    "late commit: landed",
    "late commit: lost",
    "late commit: of a dropped table",
    "late commit: planned before a power cut",
    "split: after a trim",
    "split: hot rows kept below the lake's end",
    "split: tail was carried",
    "split: after a restart",
    "split: another server's commit not seen yet",
    "split: a foreign rewrite not seen yet",
    "split: retention took rows",
    "slow split: exact",
    "slow query: exact",
    "slow changes: exact",
    "slow reader across an append",
    "slow reader across a round",
    "slow reader across a trim",
    "slow reader across a truncation",
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
    "follower across a round",
    "follower across a trim",
    "follower across a truncation",
    "follower across altered columns",
    "alter: a column comes",
    "alter: a column goes",
    "alter: a column is renamed",
    "alter: a column comes under the name of one that goes",
    "alter: its writer keeps the older columns",
    "follower across a seal",
    "follower across a restart",
    "follower across a power cut",
    "follower ended by a drop",
    "power cut: idle",
    "power cut: under an append",
    "power cut: under a round",
    "power cut: under both",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Append,
    AppendTwice,
    Repeat,
    LoseAnswer,
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
    Truncate,
    Alter,
    OpenReader,
    FinishReader,
    Follow,
    Drain,
    Restart,
    PowerCut,
    Recreate,
}

const OPERATION_WEIGHTS: [(Operation, u32); 25] = [
    (Operation::Append, 18),
    (Operation::AppendTwice, 3),
    (Operation::Repeat, 2),
    (Operation::LoseAnswer, 2),
    (Operation::Beside, 2),
    (Operation::Round, 7),
    (Operation::RoundTwice, 2),
    (Operation::RaceRounds, 2),
    (Operation::PlanCommit, 3),
    (Operation::LandCommit, 3),
    (Operation::Replace, 2),
    (Operation::Seal, 5),
    (Operation::Carry, 3),
    (Operation::Checkpoint, 2),
    (Operation::Upkeep, 2),
    (Operation::LetGo, 5),
    (Operation::Truncate, 1),
    (Operation::Alter, 3),
    (Operation::OpenReader, 6),
    (Operation::FinishReader, 5),
    (Operation::Follow, 3),
    (Operation::Drain, 6),
    (Operation::Restart, 3),
    (Operation::PowerCut, 5),
    (Operation::Recreate, 2),
];

/// A kind of table: how its rows are spread, and where they sink.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    buckets: usize,
    keyed: bool,
    lake: bool,
    properties: &'static [(&'static str, &'static str)],
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind { name: "one bucket", buckets: 1, keyed: false, lake: true, properties: &[("hot_retention", "0s")] },
        Kind {
            name: "one bucket, format 3",
            buckets: 1,
            keyed: false,
            lake: true,
            properties: &[("format_version", "3"), ("hot_retention", "10s")],
        },
        Kind {
            name: "three buckets by key",
            buckets: 3,
            keyed: true,
            lake: true,
            properties: &[("buckets", "3"), ("bucket_key", "city"), ("hot_retention", "0s")],
        },
        Kind {
            name: "three buckets in turn, format 3",
            buckets: 3,
            keyed: false,
            lake: true,
            properties: &[("buckets", "3"), ("format_version", "3"), ("hot_retention", "0s")],
        },
        Kind {
            name: "three partitions",
            buckets: 3,
            keyed: true,
            lake: true,
            properties: &[
                ("partition_by", "bucket(3, city)"),
                ("buckets", "3"),
                ("bucket_key", "city"),
                ("hot_retention", "0s"),
            ],
        },
        Kind {
            name: "no lake",
            buckets: 1,
            keyed: false,
            lake: false,
            properties: &[("lake_enabled", "false"), ("hot_retention", "20s")],
        },
    ];

    const LAKELESS: usize = 5;
}

/// A numbered request.
#[derive(Clone)]
struct Sent {
    ids: Vec<i64>,
    version: SchemaId,
}

/// A table and all that is known of it.
struct Tracked {
    name: &'static str,
    kind: &'static Kind,
    table: Arc<Table>,
    oracle: Oracle,
    audit: Audit,
    /// How far the lake is, whether our node has seen it or not.
    lake: Vec<u64>,
    /// How far it may be instead: a crash came while a round was under way. Or further, by what was under way itself.
    landing: Option<Vec<u64>>,
    /// How far our node's readers take rows from the lake.
    boundary: Vec<u64>,
    /// Somebody rewrote the lake, which our node has not seen yet.
    replaced: bool,
    carried: bool,
    restarted: bool,
    tiers: Tiers,
    /// The next sequence number of the table's one numbered writer, and what it sent last.
    sequence: u64,
    last: Option<Sent>,
    /// Sent under the next sequence number, and not answered.
    unanswered: Option<Sent>,
    /// How it is now; `table` may be an older version, which its writer knows.
    newest: Arc<TableDescriptor>,
    trace: Trace,
    /// Something happened that no line of the trace can tell.
    untold: bool,
    /// The lake has not heard of its newest columns.
    untold_columns: bool,
}

impl Tracked {
    fn new(name: &'static str, kind: &'static Kind, table: Arc<Table>) -> Tracked {
        Tracked {
            newest: table.descriptor().clone(),
            name,
            kind,
            table,
            oracle: Oracle::new(kind.buckets, kind.keyed),
            audit: Audit::default(),
            lake: vec![0; kind.buckets],
            landing: None,
            boundary: vec![0; kind.buckets],
            replaced: false,
            carried: false,
            restarted: false,
            tiers: Tiers::ALL[0],
            sequence: 0,
            last: None,
            unanswered: None,
            trace: Trace::default(),
            untold: false,
            untold_columns: false,
        }
    }

    fn sender(&self, sequence: u64) -> Sender {
        Sender { writer: WriterSequence::new("history", sequence).ok(), ..Sender::default() }
    }

    fn asked(&self) -> Asked<'_> {
        let column = self.newest.schema.columns().get(8);
        let passing = column.map(|column| (column.name.as_str(), column.id.0 as u32));
        Asked { name: self.name, oracle: &self.oracle, lake: &self.boundary, passing }
    }

    fn rows(&self, ids: &[i64]) -> arrow::array::RecordBatch {
        rows_of(&self.table, ids)
    }

    fn sent(&self, ids: Vec<i64>) -> Sent {
        Sent { ids, version: self.table.descriptor().schema.id }
    }

    /// A request as it was sent: with the columns of then.
    fn again(&self, sent: &Sent) -> Result<(Arc<Table>, arrow::array::RecordBatch), String> {
        let table = Arc::new(told(self.table.in_version(sent.version))?);
        let rows = rows_of(&table, &sent.ids);
        Ok((table, rows))
    }

    /// The version of its columns that its writer uses from now on.
    fn written_in(&mut self, table: Arc<Table>) {
        self.oracle.field = compare::field_of(&table);
        self.table = table;
    }

    fn floors(&self) -> Vec<u64> {
        compare::buckets(&self.table).map(|(_, log)| log.trim_floor().0).collect()
    }

    /// How many rows are kept between these offsets.
    fn rows_between(&self, from: &[u64], to: &[u64]) -> u64 {
        let kept = from.iter().zip(&self.oracle.floors).map(|(from, floor)| *from.max(floor));
        kept.zip(to).map(|(from, to)| to.saturating_sub(from)).sum()
    }

    /// How many rows the next round takes.
    fn due(&self) -> u64 {
        self.rows_between(&self.lake, &self.oracle.ends())
    }

    /// Rows that were sent have been acked.
    fn appended(&mut self, rows: usize) {
        self.carried = false;
        self.trace.note(Action::Append { rows: rows as u64 });
        self.trace.note(Action::Publish { end: self.oracle.ends()[0] });
    }

    /// What the node's round must have found before its own commit.
    fn adopted(&mut self, lake: &[u64]) {
        if self.boundary != lake || self.replaced {
            self.trace.note(Action::Adopt { lake: lake[0] });
        }
        self.boundary = lake.to_vec();
        self.replaced = false;
    }
}

fn run(seeds: &[u64], durability: Durability) -> Result<Coverage, String> {
    histories::run(seeds, async |seed, coverage: &mut Coverage| History::run(seed, durability, coverage).await)
}

struct History<'a> {
    seed: u64,
    random: StdRng,
    clock: Arc<HandClock>,
    disk: Arc<MemoryDisk>,
    durability: Durability,
    node: Node,
    tables: Vec<Tracked>,
    readers: Vec<SlowReader>,
    followers: Vec<Follower>,
    /// Commits of another server, planned and not landed, and what happened since.
    planned: Vec<(Planned, Option<&'static str>)>,
    /// Readers and followers so far, which numbers them.
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
            tables.push(Tracked::new(name, kind, told(node.table(name, kind.properties).await)?));
        }
        let mut history = History {
            seed,
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
        (0..history.tables.len()).try_for_each(|table| history.write_trace(table))
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

    /// One cut of both tables, row by row; then statements.
    async fn compare(&mut self) -> Result<(), String> {
        // What a column had that was dropped is nobody's affair any more, its writer's neither.
        let tables: Vec<_> = self.tables.iter().map(|tracked| self.node.engine.newest(&tracked.table)).collect();
        let splits = told(self.node.tiering.read_split(&tables).await)?;
        let mut states = Vec::new();
        for (tracked, split) in self.tables.iter_mut().zip(&splits) {
            let buckets = tracked.kind.buckets;
            let floors = tracked.floors();
            tracked.tiers = tracked.audit.split(split, &tracked.oracle).await?;
            let lake = lake_ends(split, buckets);
            compare::same(&format!("the lake of {} for our readers", tracked.name), &lake, &tracked.boundary)?;
            let seen = Action::Split { lake: lake[0], hot: lake[0]..tracked.oracle.ends()[0] };
            if tracked.trace.actions().last() != Some(&seen) {
                tracked.trace.note(seen);
            }
            let kept = lake.iter().zip(&floors).any(|(lake, floor)| floor < lake);
            let unseen = tracked.lake != tracked.boundary;
            let told = [
                (tracked.kind.lake && floors.iter().any(|floor| *floor > 0), "split: after a trim"),
                (kept, "split: hot rows kept below the lake's end"),
                (tracked.carried && tracked.tiers.tail, "split: tail was carried"),
                (tracked.restarted, "split: after a restart"),
                (unseen, "split: another server's commit not seen yet"),
                (tracked.replaced, "split: a foreign rewrite not seen yet"),
                (tracked.oracle.floors.iter().any(|floor| *floor > 0), "split: retention took rows"),
            ];
            states.extend(told.iter().filter(|(is, _)| *is).map(|(_, state)| *state));
        }
        for state in states {
            self.count(state);
        }
        for _ in 0..STATEMENTS_PER_OPERATION {
            let one = self.random.random_range(0..self.tables.len());
            let (table, other) = (&self.tables[one], &self.tables[1 - one]);
            let statement = *Statement::ALL.choose(&mut self.random).expect("there are some");
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

    async fn operation(&mut self, operation: Operation) -> Result<(), String> {
        let table = self.random.random_range(0..self.tables.len());
        let (engine, shared) = (self.node.engine.clone(), self.tables[table].table.clone());
        match operation {
            Operation::Append => self.append(table).await,
            Operation::AppendTwice => self.append_twice(table).await,
            Operation::Repeat => self.repeat(table).await,
            Operation::LoseAnswer => self.lose_answer(table).await,
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
            Operation::Truncate => self.truncate(table).await,
            Operation::Alter => self.alter(table).await,
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
                    let rows = *[5, 50, u64::MAX].choose(&mut self.random).expect("there are some");
                    self.drain(follower, rows).await?;
                }
                Ok(())
            }
            Operation::Restart => self.restart().await,
            Operation::PowerCut => self.power_cut().await,
            Operation::Recreate => self.recreate(table).await,
        }
    }
}
