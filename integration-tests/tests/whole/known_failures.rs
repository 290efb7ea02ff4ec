//! Failures that other systems have had, each as a test that ours must pass. The names are those of public projects and
//! of their issues.
//!
//! Only what tables without a primary key can show. To come with primary keys: snapshots of the key index that share
//! files with rejected ones, or are committed broken (Fluss #543, #1481, #1304, #3740); one deleted while a round reads it
//! (#2512); the newest rows lost in a merge of lake and log (#3626, #2168); rows behind deletion vectors lost (#2121); a
//! high watermark inside a batch of changes (#4267); deletes applied by a racing scan to rows that came back (Spice.ai
//! #11275); a row that outlives its deletion after many flushes (Streambed #30). Followers that diverge by high watermark
//! instead of by epoch (Fluss #673) want replicas, which there are none of.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::{Disk, MemoryDisk};
use thermocline_engine::{Clock, Durability, Engine, EngineOptions, Sender, Table, WriterSequence};
use thermocline_integration_tests::clock::HandClock;
use thermocline_integration_tests::committer::{self, Planned};
use thermocline_integration_tests::compare::{self, Audit};
use thermocline_integration_tests::gate::{Fate, Gate, STEPS};
use thermocline_integration_tests::node::Node;
use thermocline_integration_tests::oracle::{self, Oracle, rows};
use thermocline_integration_tests::read_counter::ReadCounter;
use thermocline_integration_tests::readers::{Ending, Follower, Pinned, SlowReader};
use thermocline_integration_tests::statements::{self, Asked, Statement, ask};
use thermocline_schemas::{Code, Offset, PartitionBucket, Properties, TableName};
use thermocline_tiering::{FollowFrom, FollowOptions, RoundReport, Tiering, TieringOptions, Warehouse};
use tokio::task::JoinHandle;

const WAREHOUSE: &str = "s3://lake/warehouse";

/// A server whose lake is behind a gate, over objects that others reach too.
struct Server {
    disk: Arc<MemoryDisk>,
    clock: Arc<HandClock>,
    objects: Arc<InMemory>,
    gate: Arc<Gate>,
    node: Node,
    table: Arc<Table>,
    oracle: Oracle,
}

impl Server {
    async fn start(properties: &[(&str, &str)]) -> Server {
        let (disk, clock, objects) = (MemoryDisk::new(), HandClock::new(), Arc::new(InMemory::new()));
        let gate = Gate::new(objects.clone());
        let node = start(&disk, &clock, &gate).await;
        let table = node.table("t", properties).await.unwrap();
        Server { disk, clock, objects, gate, node, table, oracle: Oracle::new(1, false) }
    }

    /// On another disk, which a crash left, or on the same after an orderly stop.
    async fn again(&mut self, disk: Arc<MemoryDisk>) {
        self.node.stop().await;
        self.disk = disk;
        self.node = start(&self.disk, &self.clock, &self.gate).await;
        self.table = self.node.table("t", &[]).await.unwrap();
    }

    async fn append(&mut self, count: usize) {
        self.clock.advance(1_000_000);
        let ids = self.oracle.fresh(count);
        let answer = self.node.engine.append(&self.table, rows(self.table.schema(), &ids), Sender::default()).await;
        self.oracle.acked(&ids, self.clock.now_micros(), &answer.unwrap()).unwrap();
    }

    /// The lake as others reach it, past the gate.
    fn warehouse(&self) -> Warehouse {
        Warehouse::with_store(WAREHOUSE, self.objects.clone())
    }

    /// Another server's tiering of the same tables.
    async fn second(&self) -> Arc<Tiering> {
        let options = TieringOptions { scheduler: false, ..TieringOptions::default() };
        Tiering::open(self.node.engine.clone(), self.warehouse(), options).await.unwrap()
    }

    fn round(&self) -> JoinHandle<thermocline_schemas::Result<RoundReport>> {
        let (tiering, table) = (self.node.tiering.clone(), self.table.clone());
        tokio::spawn(async move { tiering.tier(&table).await })
    }

    async fn sink(&self) {
        self.node.tiering.tier(&self.table).await.unwrap();
        self.node.tiering.let_go_now(&self.table).await.unwrap();
    }

    /// Every way to read shows each row of the list once: the split, statements with predicates, followers.
    async fn shows_all(&self, when: &str) {
        self.shows_all_by(&self.node.tiering, when).await;
        for statement in [Statement::Everything, Statement::Count, Statement::IdRange, Statement::Offsets] {
            for pick in [0, 7] {
                let lake = vec![self.lake_end().await];
                let asked = Asked { name: "t", oracle: &self.oracle, lake: &lake, passing: None };
                ask(&self.node, statement, asked, asked, pick).await.unwrap_or_else(|e| panic!("{when}: {e}"));
            }
        }
    }

    /// The same by another server's boundary.
    async fn shows_all_by(&self, tiering: &Arc<Tiering>, when: &str) {
        let split = tiering.read_split(std::slice::from_ref(&self.table)).await.unwrap().remove(0);
        Audit::default().split(&split, &self.oracle).await.unwrap_or_else(|e| panic!("{when}: {e}"));
        let follower = Follower::begin(1, tiering, &self.table, FollowFrom::Earliest, &self.oracle).await;
        let followed = follower.unwrap().drain(tiering, &self.oracle, u64::MAX).await;
        followed.unwrap_or_else(|e| panic!("{when}: {e}"));
    }

    /// How far our own readers take rows from the lake.
    async fn lake_end(&self) -> u64 {
        let split = self.node.tiering.read_split(std::slice::from_ref(&self.table)).await.unwrap().remove(0);
        split.lake.map_or(0, |lake| lake.version.offsets.get(PartitionBucket::default()).0)
    }

    /// How far the lake is for who comes new to it: its rows are counted, not believed.
    async fn lake_rows(&self) -> u64 {
        let second = self.second().await;
        second.read_split(std::slice::from_ref(&self.table)).await.unwrap().remove(0).lake_rows()
    }

    async fn slow_readers(&self) -> Vec<SlowReader> {
        let shared = std::slice::from_ref(&self.table);
        let split = self.node.tiering.read_split(shared).await.unwrap().remove(0);
        let sql = "SELECT __bucket, __offset, __timestamp, id FROM t";
        let query = statements::open(&self.node, sql).await.unwrap();
        let options = FollowOptions { follow: false };
        let changes = self.node.tiering.follow(&self.table, FollowFrom::Earliest, options).await.unwrap();
        let pinned = [Pinned::Split(Box::new(split)), Pinned::Query(query), Pinned::Changes(changes.batches)];
        let reader = |(number, pinned)| SlowReader {
            number,
            table: self.table.clone(),
            pinned,
            cut: self.oracle.clone(),
            crossed: Default::default(),
        };
        pinned.into_iter().enumerate().map(reader).collect()
    }

    async fn finish(&self, readers: Vec<SlowReader>, when: &str) {
        for reader in readers {
            let ending = reader.finish(&self.oracle).await.unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_eq!(ending, Ending::Exact, "{when}");
        }
    }
}

async fn start(disk: &Arc<MemoryDisk>, clock: &Arc<HandClock>, gate: &Arc<Gate>) -> Node {
    let warehouse = Warehouse::with_store(WAREHOUSE, gate.clone());
    Node::start_on(disk, warehouse, Durability::Fsync, clock.clone()).await.unwrap()
}

const FORMATS: [&str; 2] = ["2", "3"];

fn properties(format: &'static str) -> [(&'static str, &'static str); 2] {
    [("format_version", format), ("hot_retention", "0s")]
}

/// Fluss #1064, #2648: a round is held at any of its steps, is given up for dead, and another server does its work; then
/// it goes on. Iceberg Kafka Connect #13763 and Materialize #38441 doubled rows the same way.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_wakes_up_after_its_successor_adds_nothing() {
    for (format, step) in FORMATS.into_iter().flat_map(|format| STEPS.map(|step| (format, step))) {
        let mut server = Server::start(&properties(format)).await;
        server.append(10).await;
        server.sink().await;
        server.append(10).await;
        server.gate.set(step, Fate::Held);
        let late = server.round();
        server.gate.arrived().await;
        let second = server.second().await;
        let taken = second.tier(&server.table).await.unwrap().rows;
        let expected = if step == STEPS[4] { 0 } else { 10 };
        assert_eq!(taken, expected, "only a round that is held after its commit has done the work: {step}");
        server.append(5).await;
        server.gate.open();
        // It ends well, with nothing of its own or with what came since.
        late.await.unwrap().unwrap_or_else(|error| panic!("format {format}, held at {step}: {error:?}"));
        server.shows_all(&format!("format {format}, held at {step}")).await;
        server.shows_all_by(&second, "the successor").await;
        server.sink().await;
        assert_eq!(server.lake_rows().await, 25, "format {format}, held at {step}");
        server.shows_all("after one more round").await;
    }
}

/// Materialize #38441: the first repair took any foreign commit below the round's end for its own. Here another server
/// commits a prefix of the very rows, while the round is held before its commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_by_another_server_is_not_taken_for_the_round() {
    for prefix in [1, 9, 10] {
        let mut server = Server::start(&properties("2")).await;
        server.append(10).await;
        server.gate.set(".metadata.json", Fate::Held);
        // The first version file is the table itself, so that the commit is the second.
        server.gate.open();
        server.sink().await;
        server.append(10).await;
        server.gate.set(".metadata.json", Fate::Held);
        let late = server.round();
        server.gate.arrived().await;
        let planned = Planned::new(&server.warehouse(), &server.table, &server.oracle, &[10 + prefix]).await;
        assert!(planned.unwrap().unwrap().land(&server.warehouse()).await.unwrap());
        server.gate.open();
        let report = late.await.unwrap().unwrap();
        assert_eq!(report.rows, 10 - prefix, "the round plans anew from where the other ended");
        assert_eq!(server.lake_rows().await, 20);
        server.shows_all("after both").await;
    }
}

/// Fluss #3483: a commit that is under way when its table is dropped and made anew lands in the new one, or blocks it.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_a_dropped_table_leaves_the_new_one_alone() {
    for step in STEPS {
        let mut server = Server::start(&properties("2")).await;
        server.append(10).await;
        server.sink().await;
        server.append(10).await;
        server.gate.set(step, Fate::Held);
        let late = server.round();
        server.gate.arrived().await;
        server.node.engine.drop_table(&server.table.descriptor().name, false, false).await.unwrap();
        let old = std::mem::replace(&mut server.table, server.node.table("t", &properties("2")).await.unwrap());
        assert_ne!(old.descriptor().id, server.table.descriptor().id);
        server.oracle = Oracle::new(1, false);
        server.append(3).await;
        server.sink().await;
        server.append(3).await;
        server.gate.open();
        // How it ends is of no concern to the new table.
        let _ = late.await.unwrap();
        server.shows_all(&format!("held at {step}")).await;
        server.sink().await;
        assert_eq!(server.lake_rows().await, 6, "held at {step}");
        server.again(server.disk.clone()).await;
        server.shows_all("restarted").await;
    }
}

/// MatrixOne #25686 and Pinot #7849: a read while rows are being flushed misses some. MatrixOne #5992 and InfluxDB #3315: it
/// shows some twice. The flush is held at each step, and after it let go of memory.
#[tokio::test(flavor = "multi_thread")]
async fn reads_beside_a_round_show_each_row_once() {
    for (format, step) in FORMATS.into_iter().flat_map(|format| STEPS.map(|step| (format, step))) {
        let mut server = Server::start(&properties(format)).await;
        server.append(10).await;
        server.sink().await;
        server.append(10).await;
        let before = server.slow_readers().await;
        server.gate.set(step, Fate::Held);
        let round = server.round();
        server.gate.arrived().await;
        server.shows_all(&format!("held at {step}")).await;
        let during = server.slow_readers().await;
        server.node.engine.seal(&server.table).await.unwrap();
        server.shows_all(&format!("held at {step}, sealed")).await;
        server.gate.open();
        round.await.unwrap().unwrap();
        server.shows_all("committed").await;
        server.node.tiering.let_go_now(&server.table).await.unwrap();
        server.node.engine.checkpoint().await.unwrap();
        server.shows_all("let go").await;
        server.finish(before, "opened before the round").await;
        server.finish(during, "opened while it was held").await;
    }
}

/// Pinot PR #66: each flush lost one row, the first of the next segment. moonlink #1186: the snapshot has not all rows.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_while_a_round_is_under_way_are_in_the_next() {
    for step in STEPS {
        let mut server = Server::start(&properties("2")).await;
        for batch in 1..6 {
            server.append(batch).await;
            let before = server.oracle.ends()[0];
            server.gate.set(step, Fate::Held);
            let round = server.round();
            server.gate.arrived().await;
            server.append(1).await;
            server.gate.open();
            round.await.unwrap().unwrap();
            assert_eq!(server.lake_rows().await, before, "the row that came while held at {step} is not in this round");
            server.shows_all(&format!("held at {step}")).await;
            server.node.tiering.let_go_now(&server.table).await.unwrap();
        }
        server.sink().await;
        assert_eq!(server.lake_rows().await, server.oracle.ends()[0]);
    }
}

/// Fluss #1919: the time to live takes rows that were never tiered. Here no time at all, and no round that succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn retention_takes_nothing_that_is_not_in_the_lake() {
    let mut server = Server::start(&properties("2")).await;
    server.append(10).await;
    server.sink().await;
    for step in [".parquet", "-m0.avro", "/snap-"] {
        server.append(10).await;
        server.gate.set(step, Fate::Refused);
        assert!(server.node.tiering.tier(&server.table).await.is_err(), "{step}");
        server.clock.advance(3600 * 1_000_000);
        server.node.tiering.let_go_now(&server.table).await.unwrap();
        server.node.engine.upkeep().await.unwrap();
        server.node.engine.checkpoint().await.unwrap();
        server.shows_all(&format!("{step} was refused")).await;
    }
    server.again(server.disk.clone()).await;
    server.shows_all("restarted").await;
    server.sink().await;
    assert_eq!(server.lake_rows().await, 40);
    server.shows_all("sunk").await;
}

/// Fluss #543, #1481, #1304, in what log tables have of it: an attempt that failed must not take files of a good one along,
/// nor be committed half. Also Iceberg #2328, which deletes files of a commit whose outcome is not known.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_leaves_neither_half_a_snapshot_nor_a_hole() {
    for fate in [Fate::Refused, Fate::AnswerLost] {
        for step in STEPS {
            let mut server = Server::start(&properties("2")).await;
            server.append(10).await;
            server.sink().await;
            server.append(10).await;
            server.gate.set(step, fate);
            // Whether it fails, or tries again by itself, is for the step to say.
            let _ = server.node.tiering.tier(&server.table).await;
            server.shows_all(&format!("{fate:?} at {step}")).await;
            server.sink().await;
            assert_eq!(server.lake_rows().await, 20, "{fate:?} at {step}");
            server.shows_all("after the next round").await;
        }
    }
}

/// Fluss keeps no count of readers: what a slow one is reading is removed under it. Here segments go with a trim and a
/// checkpoint, the lake is rewritten, and the table is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_reader_reads_stays_until_it_has_read_it() {
    let mut server = Server::start(&properties("2")).await;
    for _ in 0..3 {
        server.append(20).await;
        server.node.engine.seal(&server.table).await.unwrap();
    }
    server.append(20).await;
    let hot = server.slow_readers().await;
    server.sink().await;
    server.node.engine.checkpoint().await.unwrap();
    assert_eq!(
        server.table.bucket(PartitionBucket::default()).unwrap().trim_floor(),
        Offset(80),
        "no row is hot any more"
    );
    server.append(10).await;
    let cold = server.slow_readers().await;
    assert!(committer::replace(&server.warehouse(), &server.table).await.unwrap());
    server.sink().await;
    server.node.engine.drop_table(&server.table.descriptor().name, false, false).await.unwrap();
    server.node.engine.checkpoint().await.unwrap();
    server.finish(hot, "opened when all was hot").await;
    server.finish(cold, "opened when most was cold").await;
}

/// Fluss #4325: a predicate prunes files of the lake, and with them the offset from which the log is read. Also #3626 in
/// log tables: the newest rows, acked a moment ago, are in the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_predicate_prunes_files_and_never_offsets() {
    let mut server = Server::start(&properties("2")).await;
    for sunk in 0..4 {
        server.append(25).await;
        let count = async |predicate: &str| {
            let batches = statements::query(&server.node, &format!("SELECT id FROM t WHERE {predicate}")).await;
            statements::numbers(&batches.unwrap()).unwrap().len()
        };
        let end = (sunk + 1) * 25;
        assert_eq!(count(&format!("id >= {}", end - 1)).await, 1, "the newest row");
        assert_eq!(count(&format!("id >= {end}")).await, 0);
        assert_eq!(count("id < 0").await, 0, "all files pruned, and all hot rows read");
        assert_eq!(count("id < 10").await, 10);
        assert_eq!(count(&format!("id = 0 OR id = {}", end - 1)).await, 2);
        assert_eq!(count(&format!("__offset >= {}", end - 5)).await, 5);
        server.shows_all(&format!("{sunk} rounds")).await;
        if sunk != 2 {
            server.sink().await;
        }
    }
}

/// Fluss #2369, #2371: an empty batch in the log, and readers stop at it for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_request_stops_nobody() {
    let mut server = Server::start(&properties("2")).await;
    let follower = Follower::begin(1, &server.node.tiering, &server.table, FollowFrom::Latest, &server.oracle).await;
    let mut follower = follower.unwrap();
    for sequence in 0..4 {
        let sender = Sender { writer: WriterSequence::new("w", sequence).ok(), ..Sender::default() };
        let nothing = rows(server.table.schema(), &[]);
        let answer = server.node.engine.append(&server.table, nothing, sender).await.unwrap();
        assert_eq!((answer.rows, answer.duplicate), (0, false));
        server.append(3).await;
        follower.drain(&server.node.tiering, &server.oracle, u64::MAX).await.unwrap();
        assert_eq!(follower.next, server.oracle.ends());
        server.shows_all("hot").await;
        server.sink().await;
        server.shows_all("cold").await;
        server.again(server.disk.clone()).await;
        follower.cut_off();
        follower.table = server.table.clone();
    }
}

/// Fluss #2826 (PR #2827): all of a writer's requests were applied, the answer to the first was lost, and sending it again
/// is refused for ever as out of order. Ours is answered as the first time, as often as it is sent, also after a restart;
/// when it is too long ago, that is said and is final.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_answer_was_lost_converges() {
    let mut server = Server::start(&properties("2")).await;
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(server.oracle.fresh(4));
    }
    let send = async |server: &Server, sequence: usize, ids: &[i64]| {
        let sender = Sender { writer: WriterSequence::new("w", sequence as u64).ok(), ..Sender::default() };
        server.node.engine.append(&server.table, rows(server.table.schema(), ids), sender).await
    };
    let mut answers = Vec::new();
    for (sequence, ids) in sent.iter().enumerate() {
        let answer = send(&server, sequence, ids).await.unwrap();
        server.oracle.acked(ids, server.clock.now_micros(), &answer).unwrap();
        answers.push(answer);
    }
    for pass in ["at once", "tiered", "restarted", "after a power cut"] {
        for (sequence, ids) in sent.iter().enumerate() {
            let again = send(&server, sequence, ids).await.unwrap();
            assert!(again.duplicate, "{pass}: {again:?}");
            assert_eq!((again.rows, &again.buckets), (4, &answers[sequence].buckets), "{pass}");
        }
        let skipped = server.oracle.clone().fresh(1);
        assert_eq!(send(&server, 6, &skipped).await.unwrap_err().code(), Code::OutOfOrderSequence, "{pass}");
        server.shows_all(pass).await;
        match pass {
            "at once" => server.sink().await,
            "tiered" => server.again(server.disk.clone()).await,
            _ => {
                let left = server.disk.power_cut(&mut StdRng::seed_from_u64(7));
                server.again(left).await;
            }
        }
    }
    let next = server.oracle.fresh(4);
    let answer = send(&server, 5, &next).await.unwrap();
    server.oracle.acked(&next, server.clock.now_micros(), &answer).unwrap();
    assert_eq!(send(&server, 0, &sent[0]).await.unwrap_err().code(), Code::SequenceTooOld);
    server.shows_all("at the end").await;
}

/// Fluss #2941, #3546: after `kill -9` in the middle of a batch the server does not start. Sixty images that a power cut may
/// leave while a request is being written, some of them torn: each starts, with every acked row (Fluss #674 lost some) and
/// the other request whole or not at all. A second cut right after (Kafka PR #8812) takes nothing that was shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_within_a_batch_starts_with_all_that_was_acked() {
    let mut random = StdRng::seed_from_u64(17);
    let mut server = Server::start(&properties("2")).await;
    let mut images = [0, 0];
    for image in 0..60 {
        let ids = server.oracle.fresh(60);
        let (engine, table, batch) =
            (server.node.engine.clone(), server.table.clone(), rows(server.table.schema(), &ids));
        let under_way = tokio::spawn(async move { engine.append(&table, batch, Sender::default()).await });
        tokio::time::sleep(Duration::from_micros(random.random_range(0..500))).await;
        let left = server.disk.power_cut(&mut random);
        let mut after = server.oracle.clone();
        after.unclear(ids.clone(), server.clock.now_micros());
        for cut in ["once", "twice"] {
            let disk = if cut == "once" { left.clone() } else { left.power_cut(&mut random) };
            let node = start(&disk, &server.clock, &server.gate).await;
            let table = node.table("t", &[]).await.unwrap();
            let split = node.tiering.read_split(std::slice::from_ref(&table)).await.unwrap().remove(0);
            if after.has_unclear() {
                let found = compare::read_split(&split, &after.ends()).await.unwrap();
                let applied = after.settle(&found).unwrap_or_else(|e| panic!("image {image}: {e}"));
                images[usize::from(applied[0])] += 1;
            }
            let seen = Audit::default().split(&split, &after).await;
            seen.unwrap_or_else(|e| panic!("image {image}, cut {cut}: {e}"));
            node.stop().await;
        }
        // The living server goes on; what it has acked is in every later image.
        let answer = under_way.await.unwrap().unwrap();
        server.oracle.acked(&ids, server.clock.now_micros(), &answer).unwrap();
    }
    println!("the request under way was not there in {} images, and there in {}", images[0], images[1]);
    assert!(images[0] > 0 && images[1] > 0, "{images:?}");
}

/// Fluss #3009, #2036: recovery scans the whole log, and the repair was to throw the log away. Ours reads the journal from
/// what is not in segments yet: a log eight times as long costs no more, one with eight times as many unsealed bytes about
/// eight times as much.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_reads_what_is_unsealed_and_not_the_whole_log() {
    let mut read = Vec::new();
    for (sealed, unsealed) in [(20, 20), (160, 20), (20, 160)] {
        let disk = MemoryDisk::new();
        let options = EngineOptions { upkeep: false, journal_file_bytes: 32 << 10, ..EngineOptions::default() };
        let clock = HandClock::new();
        let open = |disk: Arc<dyn Disk>| {
            let engine = Engine::open(disk, Path::new("/data"), options.clone(), clock.clone()).unwrap();
            let name = TableName::parse("public", "t").unwrap();
            (engine, name)
        };
        let (engine, name) = open(disk.clone());
        let schema = oracle::schema();
        let table = engine.create_table(name, schema, &[], Properties::default(), true).await.unwrap();
        let ids: Vec<i64> = (0..100).collect();
        for batch in 0..sealed + unsealed {
            engine.append(&table, rows(table.schema(), &ids), Sender::default()).await.unwrap();
            if batch < sealed && batch % 10 == 9 {
                engine.seal(&table).await.unwrap();
                engine.checkpoint().await.unwrap();
            }
        }
        // Pulled the plug, not stopped.
        let left = disk.power_cut(&mut StdRng::seed_from_u64(1));
        engine.close();
        let counter = ReadCounter::new(left);
        let (engine, name) = open(counter.clone());
        let table = engine.table(&name).unwrap();
        assert_eq!(table.ends().end(PartitionBucket::default()), Offset((sealed + unsealed) * 100));
        read.push(counter.bytes());
        engine.close();
    }
    println!("journal bytes read at start: {read:?}");
    let [base, longer_log, more_unsealed] = read[..] else { unreachable!("three starts") };
    assert!(longer_log < base * 3 / 2, "{read:?}");
    assert!(more_unsealed > base * 4 && more_unsealed < base * 12, "{read:?}");
}

/// Fluss #4272, #3835: segments that overlap, and offsets that nobody can read. Here the boundary, and with it the trim, is
/// in the middle of a segment and of a carried tail, over restarts.
#[tokio::test(flavor = "multi_thread")]
async fn every_offset_is_readable_where_a_trim_cuts_a_segment() {
    for carried in [false, true] {
        let mut server = Server::start(&properties("2")).await;
        server.append(20).await;
        server.node.engine.seal(&server.table).await.unwrap();
        server.append(20).await;
        if carried {
            assert!(server.node.engine.carry(&server.table).await.unwrap());
        }
        for middle in [7, 20, 33] {
            let planned = Planned::new(&server.warehouse(), &server.table, &server.oracle, &[middle]).await;
            assert!(planned.unwrap().unwrap().land(&server.warehouse()).await.unwrap());
            // It comes to know the lake, and trims to it, when it starts.
            server.again(server.disk.clone()).await;
            server.clock.advance(1_000_000);
            server.node.tiering.let_go_now(&server.table).await.unwrap();
            assert_eq!(server.table.bucket(PartitionBucket::default()).unwrap().trim_floor(), Offset(middle));
            server.shows_all(&format!("cut at {middle}")).await;
            let left = server.disk.power_cut(&mut StdRng::seed_from_u64(middle));
            server.again(left).await;
            server.shows_all(&format!("cut at {middle}, and the power")).await;
            let offsets: Vec<_> = (0..=40).collect();
            for offset in offsets {
                let from = FollowFrom::Offsets([(PartitionBucket::default(), Offset(offset))].into());
                let options = FollowOptions { follow: false };
                let mut changes = server.node.tiering.follow(&server.table, from, options).await.unwrap().batches;
                let mut next = offset;
                while let Some(change) = changes.next().await {
                    let change = change.unwrap();
                    assert_eq!(change.first, Offset(next));
                    next = change.next().0;
                }
                assert_eq!(next, 40, "from {offset}, cut at {middle}");
            }
        }
    }
}
