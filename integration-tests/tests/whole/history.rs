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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::MemoryDisk;
use thermocline_engine::{Clock, Durability, Sender, Table, WriterSequence};
use thermocline_integration_tests::clock::HandClock;
use thermocline_integration_tests::committer::{self, Planned};
use thermocline_integration_tests::compare::{self, Audit, Tiers, bucket, lake_ends};
use thermocline_integration_tests::histories::{self, Coverage, OPERATIONS_PER_HISTORY, Plan, told};
use thermocline_integration_tests::node::Node;
use thermocline_integration_tests::oracle::{Oracle, rows_of};
use thermocline_integration_tests::readers::{Ending, Follower, Pinned, SlowReader};
use thermocline_integration_tests::statements::{self, Asked, Statement, ask};
use thermocline_integration_tests::trace::{Action, Outcome, Trace};
use thermocline_schemas::{Offset, Result as Answered, SchemaId, TableDescriptor};
use thermocline_tiering::{FollowFrom, FollowOptions};

/// Of all operations of both kinds of histories.
const PERCENT: usize = 70;
const STATEMENTS_PER_OPERATION: usize = 2;
const READERS_MAX: usize = 6;
const FOLLOWERS_MAX: usize = 4;

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

    // Writers.

    fn fresh(&mut self, table: usize) -> Vec<i64> {
        let count = self.random.random_range(1..40);
        self.tables[table].oracle.fresh(count)
    }

    async fn append(&mut self, table: usize) -> Result<(), String> {
        let ids = self.fresh(table);
        let numbered = self.random.random_bool(0.3);
        let tracked = &mut self.tables[table];
        let sender = if numbered { tracked.sender(tracked.sequence) } else { Sender::default() };
        let answer = told(self.node.engine.append(&tracked.table, tracked.rows(&ids), sender).await)?;
        if answer.duplicate {
            return Err(format!("a new request was answered {answer:?}"));
        }
        tracked.oracle.acked(&ids, self.clock.now_micros(), &answer)?;
        tracked.appended(ids.len());
        if numbered {
            tracked.sequence += 1;
            tracked.last = Some(tracked.sent(ids));
        }
        self.crossed(Some(table), "an append");
        Ok(())
    }

    /// Two writers at one moment; their answers say in which order they came.
    async fn append_twice(&mut self, table: usize) -> Result<(), String> {
        let (one, two) = (self.fresh(table), self.fresh(table));
        let tracked = &mut self.tables[table];
        let send = |ids: &[i64]| {
            let (engine, table, rows) = (self.node.engine.clone(), tracked.table.clone(), tracked.rows(ids));
            tokio::spawn(async move { engine.append(&table, rows, Sender::default()).await })
        };
        let sent = (send(&one), send(&two));
        let mut answers = [(one, told(told(sent.0.await)?)?), (two, told(told(sent.1.await)?)?)];
        let shared = answers[0].1.buckets.iter().find_map(|range| {
            answers[1].1.buckets.iter().find(|other| other.bucket == range.bucket).map(|other| (range, other))
        });
        if shared.is_some_and(|(first, second)| first.first_offset > second.first_offset) {
            answers.reverse();
        }
        for (ids, answer) in answers {
            tracked.oracle.acked(&ids, self.clock.now_micros(), &answer)?;
            tracked.appended(ids.len());
        }
        self.count("append: two at once");
        self.crossed(Some(table), "an append");
        Ok(())
    }

    /// Sends the writer's last request again, as a client does that has not heard the answer.
    async fn repeat(&mut self, table: usize) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let Some(sent) = tracked.last.clone() else { return self.append(table).await };
        let sender = tracked.sender(tracked.sequence - 1);
        let (table, rows) = tracked.again(&sent)?;
        let answer = told(self.node.engine.append(&table, rows, sender).await)?;
        if !answer.duplicate || answer.rows != sent.ids.len() as u64 {
            return Err(format!("a repeat was answered {answer:?}"));
        }
        Ok(())
    }

    /// The answer of a numbered request is lost on its way; the request is sent again, maybe while the first is under way.
    async fn lose_answer(&mut self, table: usize) -> Result<(), String> {
        let ids = self.fresh(table);
        let tracked = &mut self.tables[table];
        let (engine, shared) = (self.node.engine.clone(), tracked.table.clone());
        let (rows, sender) = (tracked.rows(&ids), tracked.sender(tracked.sequence));
        let first = tokio::spawn(async move { engine.append(&shared, rows, sender).await });
        if self.random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_micros(self.random.random_range(0..300))).await;
        }
        // Who waited for the answer is gone.
        first.abort();
        let sender = tracked.sender(tracked.sequence);
        let answer = told(self.node.engine.append(&tracked.table, tracked.rows(&ids), sender).await)?;
        tracked.oracle.acked(&ids, self.clock.now_micros(), &answer)?;
        tracked.appended(ids.len());
        tracked.sequence += 1;
        tracked.last = Some(tracked.sent(ids));
        self.count("append: its answer was lost, sent again");
        self.crossed(Some(table), "an append");
        Ok(())
    }

    /// Requests to both tables in turn, each sent when the one before is acked, while statements read both tables and a
    /// round and a seal go on. Each statement must show the first so many of the requests, and no others.
    async fn beside(&mut self) -> Result<(), String> {
        let before = [self.tables[0].oracle.clone(), self.tables[1].oracle.clone()];
        let requests: Vec<(usize, Vec<i64>)> = (0..8).map(|turn| (turn % 2, self.fresh(turn % 2))).collect();
        let writer = {
            let engine = self.node.engine.clone();
            let batches = requests
                .iter()
                .map(|(table, ids)| (*table, self.tables[*table].table.clone(), self.tables[*table].rows(ids)));
            let batches: Vec<_> = batches.collect();
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for (_, table, rows) in batches {
                    answers.push(engine.append(&table, rows, Sender::default()).await?);
                }
                Ok::<_, thermocline_schemas::Error>(answers)
            })
        };
        let sinking = self.random.random_range(0..self.tables.len());
        let rounds = self.tables[sinking].kind.lake.then(|| {
            let (tiering, engine) = (self.node.tiering.clone(), self.node.engine.clone());
            let (table, other) = (self.tables[sinking].table.clone(), self.tables[1 - sinking].table.clone());
            tokio::spawn(async move {
                engine.seal(&other).await?;
                tiering.tier(&table).await
            })
        });
        let mut shown = Vec::new();
        for _ in 0..4 {
            let sql = statements::both(self.tables[0].name, self.tables[1].name);
            let batches = statements::query(&self.node, &sql).await?;
            let mut ids: Vec<_> =
                statements::numbers(&batches)?.into_iter().map(|row| (row[0] as usize, row[3])).collect();
            ids.sort_unstable();
            shown.push(ids);
        }
        let answers = told(told(writer.await)?)?;
        let mut known: Vec<(usize, i64)> = Vec::new();
        for (table, oracle) in before.iter().enumerate() {
            known.extend(oracle.visible().map(|(_, _, row)| (table, row.id)));
        }
        let mut cuts = vec![known.clone()];
        for ((table, ids), answer) in requests.iter().zip(&answers) {
            self.tables[*table].oracle.acked(ids, self.clock.now_micros(), answer)?;
            self.tables[*table].appended(ids.len());
            known.extend(ids.iter().map(|id| (*table, *id)));
            cuts.push(known.clone());
        }
        for cut in &mut cuts {
            cut.sort_unstable();
        }
        let mut least = 0;
        for ids in shown {
            let Some(cut) = cuts.iter().position(|cut| *cut == ids).filter(|cut| *cut >= least) else {
                return Err(format!("{} rows of both tables are no cut at or after request {least}", ids.len()));
            };
            least = cut;
        }
        if let Some(rounds) = rounds {
            let rows = told(told(rounds.await)?)?.rows;
            self.sank_somewhere(sinking, rows).await?;
        }
        self.count("append: beside statements, a round and a seal");
        self.crossed(None, "an append");
        Ok(())
    }

    // Rounds and other committers.

    /// A round of our node whose end is not known beforehand committed so many rows.
    async fn sank_somewhere(&mut self, table: usize, rows: u64) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let lake = tracked.lake.clone();
        tracked.adopted(&lake);
        // Where it ended is what our readers use now; that it is right is for the comparison to say.
        let offsets = compare::buckets(&tracked.table).map(|(bucket, _)| bucket);
        let split = futures::executor::block_on(self.node.tiering.read_split(std::slice::from_ref(&tracked.table)));
        let split = told(split)?.remove(0);
        let end: Vec<u64> =
            offsets.map(|bucket| split.lake.as_ref().map_or(0, |lake| lake.version.offsets.get(bucket).0)).collect();
        let moved = tracked.rows_between(&lake, &end);
        if moved != rows || end.iter().zip(&lake).any(|(end, start)| end < start) {
            return Err(format!("a round of {rows} rows went from {lake:?} to {end:?}"));
        }
        self.sank(table, end);
        Ok(())
    }

    /// A round of our node took the lake to `end`.
    fn sank(&mut self, table: usize, end: Vec<u64>) {
        let tracked = &mut self.tables[table];
        let lake = tracked.lake.clone();
        let (is_new, foreign, rewritten) = (end != lake, lake != tracked.boundary, tracked.replaced);
        tracked.adopted(&lake);
        tracked.untold_columns = false;
        if is_new {
            let outcome = Outcome::Committed;
            tracked.trace.note(Action::Round { start: lake[0], end: end[0], outcome });
        }
        (tracked.boundary, tracked.lake) = (end.clone(), end);
        self.count(if is_new { "round: rows sank" } else { "round: nothing to do" });
        if foreign {
            self.count("round: found another server's commit");
        }
        if rewritten {
            self.count("round: found a foreign rewrite");
        }
        self.crossed(Some(table), "a round");
    }

    fn lake_table(&self, table: usize) -> usize {
        // The first is never without a lake.
        if self.tables[table].kind.lake { table } else { 1 - table }
    }

    async fn round(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &self.tables[table];
        let end = tracked.oracle.ends();
        let due = tracked.due();
        let report = told(self.node.tiering.tier(&tracked.table).await)?;
        if report.rows != due {
            return Err(format!("{report:?} from {:?} to {end:?}, {due} were due", tracked.lake));
        }
        self.sank(table, end);
        Ok(())
    }

    async fn round_twice(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &self.tables[table];
        let end = tracked.oracle.ends();
        let due = tracked.due();
        let rounds = [(); 2].map(|()| {
            let (tiering, table) = (self.node.tiering.clone(), tracked.table.clone());
            tokio::spawn(async move { tiering.tier(&table).await })
        });
        let mut rows = 0;
        for round in rounds {
            rows += told(told(round.await)?)?.rows;
        }
        if rows != due {
            return Err(format!("two rounds took {rows} rows to {end:?}, {due} were due"));
        }
        self.sank(table, end);
        self.count("round: two at once");
        Ok(())
    }

    /// Our round and another server's over the same rows at one moment: whoever commits first has them.
    async fn race_rounds(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &self.tables[table];
        let end = tracked.oracle.ends();
        let (start, due) = (tracked.lake.clone(), tracked.due());
        let before = self.data_files(table).await?;
        let second = told(self.node.second_tiering().await)?;
        let ours = {
            let (tiering, table) = (self.node.tiering.clone(), self.tables[table].table.clone());
            tokio::spawn(async move { tiering.tier(&table).await })
        };
        let theirs = told(second.tier(&self.tables[table].table).await)?;
        let ours = told(told(ours.await)?)?;
        if ours.rows + theirs.rows != due {
            return Err(format!("from {start:?} to {end:?}: {ours:?} and {theirs:?}"));
        }
        let written = self.data_files(table).await? - before;
        if written as u64 > ours.files + theirs.files {
            self.count("round: beside another server's, lost");
        }
        if theirs.rows > 0 {
            let tracked = &mut self.tables[table];
            tracked.trace.note(Action::Commit { start: start[0], end: end[0] });
            tracked.lake = end.clone();
        }
        self.sank(table, end);
        Ok(())
    }

    /// How many data files the table has in the warehouse, in a snapshot or not.
    async fn data_files(&self, table: usize) -> Result<usize, String> {
        use futures::TryStreamExt;
        let warehouse = self.node.tiering.warehouse();
        let location = told(self.node.tiering.status(&self.tables[table].table).await)?.location;
        let Some(location) = location else { return Ok(0) };
        let prefix = told(warehouse.path(&format!("{location}/data")))?;
        let found: Vec<_> = told(warehouse.store().list(Some(&prefix)).try_collect().await)?;
        Ok(found.len())
    }

    async fn plan_commit(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &self.tables[table];
        let to_the_end = self.random.random_bool(0.4);
        let ends = tracked.oracle.ends().into_iter();
        let ends: Vec<_> = ends.map(|end| if to_the_end { end } else { self.random.random_range(0..=end) }).collect();
        let newest = self.node.engine.newest(&tracked.table);
        if tracked.untold_columns {
            // Another server would make them known first.
            return self.round(table).await;
        }
        let planned = Planned::new(self.node.tiering.warehouse(), &newest, &tracked.oracle, &ends).await;
        if let Some(planned) = told(planned)? {
            self.planned.push((planned, None));
        }
        Ok(())
    }

    async fn land_commit(&mut self) -> Result<(), String> {
        if self.planned.is_empty() {
            return Ok(());
        }
        let planned = self.random.random_range(0..self.planned.len());
        let (planned, since) = self.planned.swap_remove(planned);
        let landed = told(planned.land(self.node.tiering.warehouse()).await)?;
        let id = planned.table.descriptor().id;
        let Some(table) = self.tables.iter().position(|tracked| tracked.table.descriptor().id == id) else {
            self.count("late commit: of a dropped table");
            return Ok(());
        };
        let tracked = &mut self.tables[table];
        let numbers = |offsets: &thermocline_tiering::Offsets| {
            (0..tracked.kind.buckets).map(|number| offsets.get(bucket(&tracked.table, number)).0).collect::<Vec<_>>()
        };
        let (start, end) = (numbers(planned.start()), numbers(planned.end()));
        if landed != (tracked.lake == start) {
            return Err(format!("a commit from {start:?} on {:?} landed: {landed}", tracked.lake));
        }
        if landed {
            tracked.trace.note(Action::Commit { start: start[0], end: end[0] });
            tracked.lake = end;
            self.crossed(Some(table), "another server's commit");
        } else {
            let outcome = Outcome::Stale;
            tracked.trace.note(Action::Round { start: start[0], end: end[0], outcome });
        }
        self.count(if landed { "late commit: landed" } else { "late commit: lost" });
        match since {
            Some("restart") => self.count("late commit: planned before a restart"),
            Some(_) => self.count("late commit: planned before a power cut"),
            None => {}
        }
        Ok(())
    }

    async fn replace(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &mut self.tables[table];
        if committer::replace(self.node.tiering.warehouse(), &tracked.table).await? {
            tracked.replaced = true;
            tracked.trace.note(Action::Replace);
        }
        Ok(())
    }

    async fn let_go(&mut self, table: usize) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let before = tracked.floors();
        told(self.node.tiering.let_go_now(&tracked.table).await)?;
        let after = tracked.floors();
        if after.iter().zip(&before).any(|(after, before)| after < before) {
            return Err(format!("the floors {before:?} went back to {after:?}"));
        }
        if !tracked.kind.lake {
            // What retention may take is what was accepted before its time.
            let kept_ms = tracked.table.descriptor().properties.hot_retention_ms as i64;
            let oldest = self.clock.now_micros() - kept_ms * 1000;
            for ((rows, before), floor) in tracked.oracle.buckets.iter().zip(&before).zip(&after) {
                if rows[*before as usize..*floor as usize].iter().any(|row| row.stamp >= oldest) {
                    return Err(format!("rows younger than {kept_ms} ms were let go: {after:?}"));
                }
            }
            tracked.oracle.floors = after.clone();
        }
        if after != before {
            tracked.trace.note(Action::Trim { to: after[0] });
            self.crossed(Some(table), "a trim");
        }
        Ok(())
    }

    /// A column comes, goes, or gets another name; or one goes and another comes under its name.
    async fn alter(&mut self, table: usize) -> Result<(), String> {
        let tracked = &self.tables[table];
        let known = tracked.newest.schema.columns().get(8).map(|column| column.name.as_str().to_owned());
        let (action, state) = match (known, self.random.random_range(0..3)) {
            (None, _) => ("ADD COLUMN extra BIGINT".to_owned(), "a column comes"),
            (Some(name), 0) => (format!("DROP COLUMN {name}"), "a column goes"),
            (Some(name), 1) => {
                let other = if name == "extra" { "more" } else { "extra" };
                (format!("RENAME COLUMN {name} TO {other}"), "a column is renamed")
            }
            (Some(name), _) => {
                let actions = format!("DROP COLUMN {name}, ADD COLUMN {name} BIGINT");
                (actions, "a column comes under the name of one that goes")
            }
        };
        statements::query(&self.node, &format!("ALTER TABLE {} {action}", tracked.name)).await?;
        let newest = self.node.engine.newest(&tracked.table);
        let id = newest.descriptor().id;
        self.planned.retain(|(planned, _)| planned.table.descriptor().id != id);
        let keeps = self.random.random_bool(0.3);
        let tracked = &mut self.tables[table];
        tracked.newest = newest.descriptor().clone();
        (tracked.untold, tracked.untold_columns) = (true, true);
        if !keeps {
            tracked.written_in(newest);
        }
        self.count(format!("alter: {state}"));
        if keeps {
            self.count("alter: its writer keeps the older columns");
        }
        self.crossed(Some(table), "altered columns");
        Ok(())
    }

    /// All rows go, maybe while a round is under way.
    async fn truncate(&mut self, table: usize) -> Result<(), String> {
        let tracked = &self.tables[table];
        let round = (tracked.kind.lake && self.random.random_bool(0.5)).then(|| {
            let (tiering, table) = (self.node.tiering.clone(), tracked.table.clone());
            tokio::spawn(async move { tiering.tier(&table).await })
        });
        if round.is_some() {
            tokio::time::sleep(Duration::from_micros(self.random.random_range(0..4_000))).await;
        }
        let rows = told(self.node.engine.truncate(&tracked.table).await)?;
        let kept = tracked.oracle.visible().count() as u64;
        if rows != kept {
            return Err(format!("{rows} rows were taken away, {kept} were there"));
        }
        let (lake, end) = (tracked.lake.clone(), tracked.oracle.ends());
        let tracked = &mut self.tables[table];
        tracked.oracle.floors = end.clone();
        // The model knows nothing of this.
        tracked.untold = true;
        if let Some(round) = round {
            told(told(round.await)?)?;
            let split = told(self.node.tiering.read_split(std::slice::from_ref(&tracked.table)).await)?.remove(0);
            let found = lake_ends(&split, tracked.kind.buckets);
            if found != lake && found != end {
                return Err(format!("a round beside a truncation went from {lake:?} to {found:?}"));
            }
            self.sank(table, found);
            self.count("round: beside a truncation");
        } else if tracked.kind.lake && self.random.random_bool(0.3) {
            self.round(table).await?;
            self.count("round: first after a truncation");
        }
        self.crossed(Some(table), "a truncation");
        Ok(())
    }

    // Readers.

    async fn open_reader(&mut self, table: usize) -> Result<(), String> {
        if self.readers.len() >= READERS_MAX {
            let oldest = self.readers.remove(0);
            self.finish(oldest).await?;
        }
        let tracked = &self.tables[table];
        let (tiering, shared) = (&self.node.tiering, &tracked.table);
        let pinned = match self.random.random_range(0..3) {
            0 => {
                let newest = self.node.engine.newest(shared);
                Pinned::Split(Box::new(told(tiering.read_split(&[newest]).await)?.remove(0)))
            }
            1 => {
                let sql = format!("SELECT __bucket, __offset, __timestamp, id FROM {}", tracked.name);
                Pinned::Query(statements::open(&self.node, &sql).await?)
            }
            _ => {
                let options = FollowOptions { follow: false };
                Pinned::Changes(told(tiering.follow(shared, FollowFrom::Earliest, options).await)?.batches)
            }
        };
        self.opened += 1;
        let number = self.opened;
        let (table_of, cut, crossed) = (shared.clone(), tracked.oracle.clone(), Default::default());
        self.readers.push(SlowReader { number, table: table_of, pinned, cut, crossed });
        let tracked = &mut self.tables[table];
        let lake = tracked.boundary[0];
        tracked.trace.note(Action::Pin { reader: number, lake, hot: lake..tracked.oracle.ends()[0] });
        Ok(())
    }

    async fn finish(&mut self, reader: SlowReader) -> Result<(), String> {
        let (number, crossed, id) = (reader.number, reader.crossed.clone(), reader.table.descriptor().id);
        let kind = match reader.pinned {
            Pinned::Split(_) => "split",
            Pinned::Query(_) => "query",
            Pinned::Changes(_) => "changes",
        };
        let table = self.tables.iter().position(|tracked| tracked.table.descriptor().id == id);
        // Of a dropped table nothing more is taken.
        let now = table.map_or_else(|| reader.cut.clone(), |table| self.tables[table].oracle.clone());
        let ending = reader.finish(&now).await;
        let ending = ending.map_err(|failure| format!("slow {kind} across {crossed:?}: {failure}"))?;
        self.count(match ending {
            Ending::Exact => format!("slow {kind}: exact"),
            Ending::Gone => format!("slow {kind}: retention took rows"),
        });
        for what in crossed {
            self.count(format!("slow reader across {what}"));
        }
        if let Some(table) = table {
            self.tables[table].trace.note(Action::Read { reader: number });
        }
        Ok(())
    }

    async fn follow(&mut self, table: usize) -> Result<(), String> {
        if self.followers.len() >= FOLLOWERS_MAX {
            self.drain(0, u64::MAX).await?;
            self.followers.remove(0);
        }
        let tracked = &self.tables[table];
        let (from, state) = match self.random.random_range(0..4) {
            0 => (FollowFrom::Earliest, "follower from earliest"),
            1 => (FollowFrom::Latest, "follower from latest"),
            2 => {
                let oracle = &tracked.oracle;
                let kept = oracle.floors.iter().zip(oracle.ends());
                let offsets = kept.map(|(floor, end)| Offset(self.random.random_range(*floor..=end)));
                let offsets = offsets.enumerate().map(|(number, offset)| (bucket(&tracked.table, number), offset));
                (FollowFrom::Offsets(offsets.collect()), "follower from offsets")
            }
            _ => {
                let back = self.random.random_range(0..60_000_000);
                (FollowFrom::Timestamp(self.clock.now_micros() - back), "follower from a timestamp")
            }
        };
        self.opened += 1;
        let (tiering, shared) = (&self.node.tiering, &tracked.table);
        let follower = Follower::begin(self.opened, tiering, shared, from, &tracked.oracle).await?;
        self.followers.push(follower);
        self.count(state);
        Ok(())
    }

    async fn drain(&mut self, follower: usize, rows: u64) -> Result<(), String> {
        let follower = &mut self.followers[follower];
        let id = follower.table.descriptor().id;
        let tracked = self.tables.iter_mut().find(|tracked| tracked.table.descriptor().id == id);
        let tracked = tracked.ok_or("a follower of a table that is gone")?;
        let followed = follower.drain(&self.node.tiering, &tracked.oracle, rows).await;
        let followed = followed.map_err(|failure| {
            format!("follower {} of {} across {:?}: {failure}", follower.number, tracked.name, follower.crossed)
        })?;
        let rows = followed.rows[0].clone();
        if !rows.is_empty() && !followed.gone {
            tracked.trace.note(Action::Follow { follower: follower.number, rows });
        }
        if followed.rows.iter().any(|rows| !rows.is_empty()) {
            for what in std::mem::take(&mut follower.crossed) {
                self.count(format!("follower across {what}"));
            }
        }
        if followed.gone {
            self.count("follower: retention took rows");
        }
        Ok(())
    }

    // Ends and beginnings.

    async fn restart(&mut self) -> Result<(), String> {
        self.cut_off("a restart");
        self.node.stop().await;
        for tracked in &mut self.tables {
            tracked.trace.note(Action::Stop);
        }
        for (_, since) in &mut self.planned {
            since.get_or_insert("restart");
        }
        self.start().await
    }

    fn cut_off(&mut self, what: &'static str) {
        self.crossed(None, what);
        for follower in &mut self.followers {
            follower.cut_off();
        }
        for _ in std::mem::take(&mut self.readers) {
            self.count("slow reader ended by a restart");
        }
    }

    /// The power goes, maybe with requests or a round under way.
    async fn power_cut(&mut self) -> Result<(), String> {
        let pause = Duration::from_micros(self.random.random_range(0..400));
        let (appends, rounds) = *[(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)].choose(&mut self.random).expect("some");
        for append in 0..appends {
            let table = if append == 0 { self.random.random_range(0..self.tables.len()) } else { 1 };
            let ids = self.tables[table].oracle.fresh(7);
            let numbered = self.tables[table].unanswered.is_none() && self.random.random_bool(0.5);
            let tracked = &mut self.tables[table];
            let sender = if numbered { tracked.sender(tracked.sequence) } else { Sender::default() };
            let (engine, shared, rows) = (self.node.engine.clone(), tracked.table.clone(), tracked.rows(&ids));
            tokio::spawn(async move { engine.append(&shared, rows, sender).await.is_ok() });
            tracked.trace.note(Action::Append { rows: ids.len() as u64 });
            if numbered {
                tracked.unanswered = Some(tracked.sent(ids.clone()));
            }
            tracked.oracle.unclear(ids, self.clock.now_micros());
        }
        if rounds > 0 {
            let table = self.random.random_range(0..self.tables.len());
            let table = self.lake_table(table);
            let tracked = &mut self.tables[table];
            let (tiering, shared) = (self.node.tiering.clone(), tracked.table.clone());
            tokio::spawn(async move { tiering.tier(&shared).await.is_ok() });
            let end = tracked.oracle.ends();
            if end != tracked.lake {
                let outcome = Outcome::Unclear;
                tracked.trace.note(Action::Round { start: tracked.lake[0], end: end[0], outcome });
            }
            tracked.landing = Some(end);
        }
        self.count(match (appends, rounds) {
            (0, 0) => "power cut: idle",
            (_, 0) => "power cut: under an append",
            (0, _) => "power cut: under a round",
            _ => "power cut: under both",
        });
        if appends + rounds > 0 {
            tokio::time::sleep(if rounds > 0 { pause * 10 } else { pause }).await;
        }
        let left = self.disk.power_cut(&mut self.random);
        self.cut_off("a power cut");
        self.node.stop().await;
        self.disk = left;
        for tracked in &mut self.tables {
            tracked.trace.note(Action::Crash);
            tracked.audit.forget();
        }
        for (_, since) in &mut self.planned {
            *since = Some("power cut");
        }
        self.start().await
    }

    /// Starts the node on what the disk has, and learns what a crash left open.
    async fn start(&mut self) -> Result<(), String> {
        self.node = told(Node::start(&self.disk, self.durability, self.clock.clone()).await)?;
        for table in 0..self.tables.len() {
            let (name, properties) = (self.tables[table].name, self.tables[table].kind.properties);
            let opened = told(self.node.table(name, properties).await)?;
            let tracked = &mut self.tables[table];
            if **opened.descriptor() != *tracked.newest {
                return Err(format!("{name} is another table: {:?}", opened.descriptor()));
            }
            for follower in &mut self.followers {
                if follower.table.descriptor().id == opened.descriptor().id {
                    follower.table = opened.clone();
                }
            }
            tracked.written_in(opened);
            let split = told(self.node.tiering.read_split(std::slice::from_ref(&tracked.table)).await)?.remove(0);
            (tracked.replaced, tracked.carried, tracked.restarted) = (false, false, true);
            if tracked.oracle.has_unclear() {
                let found = compare::read_split(&split, &tracked.oracle.ends()).await?;
                let applied = tracked.oracle.settle(&found)?;
                for applied in applied {
                    let state = if applied { "applied" } else { "not applied" };
                    *self.coverage.entry(format!("append: unclear at a crash, {state}")).or_default() += 1;
                }
            }
            let lake = lake_ends(&split, tracked.kind.buckets);
            match tracked.landing.take() {
                Some(end) if end == lake => {}
                Some(_) if lake != tracked.lake && lake == tracked.oracle.ends() => tracked.untold = true,
                _ => compare::same(&format!("the lake of {name} after a start"), &lake, &tracked.lake)?,
            }
            (tracked.lake, tracked.boundary) = (lake.clone(), lake.clone());
            let (end, trim) = (tracked.oracle.ends()[0], tracked.floors()[0]);
            tracked.trace.note(Action::Restart { end, lake: lake[0], trim });
            self.converge(table).await?;
        }
        Ok(())
    }

    /// A numbered writer that heard no answer before the crash sends its request again: it is there once.
    async fn converge(&mut self, table: usize) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let Some(sent) = tracked.unanswered.take() else { return Ok(()) };
        let sender = tracked.sender(tracked.sequence);
        let ids = sent.ids.clone();
        let there = tracked.oracle.buckets.iter().flatten().any(|row| row.id == ids[0]);
        let (version, rows) = tracked.again(&sent)?;
        let answer = told(self.node.engine.append(&version, rows, sender).await)?;
        if answer.duplicate != there || answer.rows != ids.len() as u64 {
            return Err(format!("there before: {there}, answered {answer:?}"));
        }
        if !there {
            let field = std::mem::replace(&mut tracked.oracle.field, compare::field_of(&version));
            tracked.oracle.acked(&ids, self.clock.now_micros(), &answer)?;
            tracked.oracle.field = field;
            tracked.appended(ids.len());
        }
        tracked.sequence += 1;
        tracked.last = Some(sent);
        self.count(match there {
            true => "append: sent again after a crash, had been applied",
            false => "append: sent again after a crash, had not been applied",
        });
        Ok(())
    }

    /// Drops a table, maybe while a round of it is under way, and makes another of the same name.
    async fn recreate(&mut self, table: usize) -> Result<(), String> {
        let shared = self.tables[table].table.clone();
        self.crossed(Some(table), "a drop");
        let round = (self.tables[table].kind.lake && self.random.random_bool(0.5)).then(|| {
            let (tiering, shared) = (self.node.tiering.clone(), shared.clone());
            tokio::spawn(async move { tiering.tier(&shared).await })
        });
        let name = &shared.descriptor().name;
        let purge = self.random.random_bool(0.5);
        told(self.node.engine.drop_table(name, false, purge).await)?;
        self.tables[table].trace.note(Action::Drop);
        self.write_trace(table)?;
        let id = shared.descriptor().id;
        for follower in std::mem::take(&mut self.followers) {
            if follower.table.descriptor().id != id {
                self.followers.push(follower);
                continue;
            }
            follower.dropped(&self.tables[table].oracle).await?;
            self.count("follower ended by a drop");
        }
        let kind = if table == 0 { Kind::LAKELESS } else { Kind::ALL.len() };
        let kind = &Kind::ALL[self.random.random_range(0..kind)];
        let made = told(self.node.table(self.tables[table].name, kind.properties).await)?;
        self.tables[table] = Tracked::new(self.tables[table].name, kind, made);
        if let Some(round) = round {
            // It may have been done before, or be refused; the new table must not see it.
            let _: Answered<_> = told(round.await)?;
            self.count("round: beside a drop");
        }
        if purge {
            told(self.node.tiering.purge_dropped().await)?;
            self.count("purge");
        }
        self.count(format!("table: {}", kind.name));
        Ok(())
    }

    /// Writes what was done to a table of one bucket, if traces are wanted.
    fn write_trace(&self, table: usize) -> Result<(), String> {
        let tracked = &self.tables[table];
        let Some(directory) = std::env::var_os("THERMOCLINE_TRACES").filter(|_| tracked.kind.buckets == 1) else {
            return Ok(());
        };
        if !tracked.kind.lake || tracked.untold {
            return Ok(());
        }
        let name = format!("{}-{}-{}.trace", self.seed, tracked.name, tracked.table.descriptor().id);
        told(std::fs::write(PathBuf::from(directory).join(name), tracked.trace.to_string()))
    }
}
