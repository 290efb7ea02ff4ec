//! Rounds, splits and followers over a disk in memory and a store in memory.

mod alter;
mod cold;
mod compaction;
mod growth;
mod keyed;
mod keyed_store_faults;
mod partitions;
mod store_faults;
mod weight;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use object_store::memory::InMemory;
use thermocline_engine::disk::MemoryDisk;
use thermocline_engine::{Engine, EngineOptions, Sender, SystemClock, Table};
use thermocline_schemas::{Code, ColumnType, Offset, PartitionBucket, Properties, TableName, TableSchema};

use crate::faulty_store::{Fault, FaultyStore};
use crate::*;

struct Node {
    engine: Arc<Engine>,
    tiering: Arc<Tiering>,
    table: Arc<Table>,
}

fn manual() -> TieringOptions {
    TieringOptions { scheduler: false, ..TieringOptions::default() }
}

/// Manual, and nothing is too small to be written anew or swept.
fn eager() -> TieringOptions {
    let compaction =
        CompactionPolicy { files_min: 3, dead_percent: 30, dead_bytes_min: 1, ..CompactionPolicy::default() };
    let grace = Grace { files: Duration::ZERO, versions: Duration::ZERO };
    TieringOptions { compaction, grace, ..manual() }
}

async fn start(
    disk: &Arc<MemoryDisk>,
    warehouse: &Warehouse,
    properties: &[(&str, &str)],
    options: TieringOptions,
) -> Node {
    let engine_options = EngineOptions { upkeep: false, ..EngineOptions::default() };
    let engine = Engine::open(disk.clone(), Path::new("/data"), engine_options, Arc::new(SystemClock)).unwrap();
    let columns = [
        ("id".to_owned(), ColumnType::Int64, false),
        ("small".to_owned(), ColumnType::Int16, true),
        ("text".to_owned(), ColumnType::String, false),
    ];
    let schema = TableSchema::new(columns).unwrap();
    let name = TableName::parse("public", "t").unwrap();
    let properties = Properties::parse(properties.iter().copied()).unwrap();
    let table = engine.create_table(name, schema, &[], properties, true).await.unwrap();
    let tiering = Tiering::open(engine.clone(), warehouse.clone(), options).await.unwrap();
    Node { engine, tiering, table }
}

fn memory() -> Warehouse {
    Warehouse::with_store("s3://lake/warehouse", Arc::new(InMemory::new()))
}

impl Node {
    async fn append(&self, from: i64, to: i64) {
        let ids = Int64Array::from_iter_values(from..to);
        let small = arrow::array::Int16Array::from_iter((from..to).map(|id| (id % 3 > 0).then_some(id as i16)));
        let text = StringArray::from_iter_values((from..to).map(|id| format!("row {id}")));
        let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(ids), Arc::new(small), Arc::new(text)];
        let rows = RecordBatch::try_new(self.table.schema().clone(), columns).unwrap();
        self.engine.append(&self.table, rows, Sender::default()).await.unwrap();
    }

    async fn follow(&self, from: FollowFrom) -> Vec<(u32, u64, i64)> {
        let followed = self.tiering.follow(&self.table, from, FollowOptions { follow: false }).await.unwrap();
        changes(followed.batches.map(Result::unwrap).collect::<Vec<_>>().await)
    }

    async fn counts(&self) -> (u64, u64) {
        let split = self.tiering.read_split(std::slice::from_ref(&self.table)).await.unwrap().remove(0);
        (split.lake_rows(), split.hot_rows())
    }

    async fn stop(self) {
        self.tiering.close().await;
        self.engine.close();
    }
}

/// (bucket, offset, id) of each row.
fn changes(batches: Vec<ChangeBatch>) -> Vec<(u32, u64, i64)> {
    let mut found = Vec::new();
    for change in batches {
        assert_eq!(change.stamps.rows(), change.batch.num_rows());
        let ids = change.batch.column(0).as_primitive::<Int64Type>().values();
        let texts = change.batch.column(2).as_string::<i32>();
        for (row, id) in ids.iter().enumerate() {
            assert_eq!(texts.value(row), format!("row {id}"));
            found.push((change.bucket.bucket.0, change.first.0 + row as u64, *id));
        }
    }
    found
}

fn in_order(ids: impl IntoIterator<Item = i64>) -> Vec<(u32, u64, i64)> {
    ids.into_iter().enumerate().map(|(offset, id)| (0, offset as u64, id)).collect()
}

#[tokio::test]
async fn rows_sink_and_are_read_once_from_either_tier() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let node = start(&disk, &warehouse, &[("hot_retention", "1h")], manual()).await;
    assert_eq!(node.counts().await, (0, 0));
    node.append(0, 100).await;
    assert_eq!(node.counts().await, (0, 100));
    let report = node.tiering.tier(&node.table).await.unwrap();
    assert_eq!((report.rows, report.files), (100, 1));
    assert_eq!(node.counts().await, (100, 0));
    node.append(100, 150).await;
    assert_eq!(node.counts().await, (100, 50));
    let again = node.tiering.tier(&node.table).await.unwrap();
    assert_eq!(again.rows, 50);
    assert_eq!(
        node.tiering.tier(&node.table).await.unwrap().snapshot_id,
        again.snapshot_id,
        "nothing new, no snapshot"
    );
    assert_eq!(node.tiering.snapshots(&node.table).await.unwrap().len(), 2);
    node.append(150, 160).await;
    node.stop().await;

    let node = start(&disk, &warehouse, &[], manual()).await;
    assert_eq!(node.counts().await, (150, 10), "the boundary is in the lake, so a restart finds it");
    assert_eq!(node.follow(FollowFrom::Earliest).await, in_order(0..160));
    node.stop().await;
}

#[tokio::test]
async fn so_many_bytes_stay_hot_and_all_that_is_not_in_the_lake() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let node = start(&disk, &warehouse, &[("hot_bytes_max", "100KiB"), ("buckets", "1")], manual()).await;
    let log = || node.table.bucket(PartitionBucket::unpartitioned(0)).unwrap();
    let mut floors = Vec::new();
    for round in 0..12 {
        node.append(round * 1000, round * 1000 + 1000).await;
        node.engine.seal(&node.table).await.unwrap();
        node.tiering.let_go_now(&node.table).await.unwrap();
        let untiered = log().bytes_from(Offset(round as u64 * 1000));
        assert!(log().bytes_from(Offset::ZERO) <= (100 << 10) + untiered, "round {round}");
        node.tiering.tier(&node.table).await.unwrap();
        node.tiering.let_go_now(&node.table).await.unwrap();
        floors.push(log().trim_floor());
        assert!(log().bytes_from(Offset::ZERO) <= 100 << 10, "round {round}");
    }
    assert_eq!(floors[0], Offset::ZERO, "what fits stays");
    assert!(*floors.last().unwrap() < Offset(12_000), "no more goes than must: {floors:?}");
    assert!(floors.is_sorted() && *floors.last().unwrap() > Offset(6_000), "{floors:?}");
    node.append(12_000, 30_000).await;
    node.engine.seal(&node.table).await.unwrap();
    node.tiering.let_go_now(&node.table).await.unwrap();
    assert!(log().trim_floor() <= Offset(12_000), "what is not in the lake stays, however much it is");
    assert_eq!(node.counts().await, (12_000, 18_000));
    assert_eq!(node.follow(FollowFrom::Earliest).await, in_order(0..30_000));
    node.stop().await;
}

#[tokio::test]
async fn followers_go_cold_to_hot_to_live() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let node = start(&disk, &warehouse, &[("hot_retention", "0s")], manual()).await;
    for round in 0..3 {
        node.append(round * 1000, round * 1000 + 1000).await;
        node.tiering.tier(&node.table).await.unwrap();
        node.tiering.let_go_now(&node.table).await.unwrap();
    }
    let floor = node.table.bucket(PartitionBucket::unpartitioned(0)).unwrap().trim_floor();
    assert_eq!(floor, Offset(3000), "with no retention, what is in the lake is let go");
    node.append(3000, 3010).await;
    let from = |offset| FollowFrom::Offsets([(PartitionBucket::unpartitioned(0), Offset(offset))].into());
    assert_eq!(node.follow(FollowFrom::Earliest).await, in_order(0..3010));
    assert_eq!(node.follow(from(1500)).await, in_order(0..3010)[1500..]);
    assert_eq!(node.follow(from(3005)).await, in_order(0..3010)[3005..]);
    assert_eq!(node.follow(FollowFrom::Latest).await, []);
    let late = node.tiering.follow(&node.table, from(4000), FollowOptions { follow: false }).await.err().unwrap();
    assert_eq!(late.code(), Code::InvalidOffset);

    let live = node.tiering.follow(&node.table, FollowFrom::Earliest, FollowOptions { follow: true }).await.unwrap();
    let (mut seen, mut live) = (Vec::new(), live.batches);
    for step in 0..20 {
        let at = 3010 + step * 10;
        node.append(at, at + 10).await;
        if step % 5 == 0 {
            node.tiering.tier(&node.table).await.unwrap();
            node.tiering.let_go_now(&node.table).await.unwrap();
        }
        while seen.len() < (at + 10) as usize {
            let change = tokio::time::timeout(Duration::from_secs(60), live.next()).await.unwrap().unwrap().unwrap();
            seen.extend(changes(vec![change]));
        }
    }
    assert_eq!(seen, in_order(0..3210));
    node.engine.drop_table(&node.table.descriptor().name, false, false).await.unwrap();
    assert_eq!(live.next().await.unwrap().unwrap_err().code(), Code::TableDropped);
    assert!(live.next().await.is_none());
    node.stop().await;
}

/// On one thread, the follower's task cannot have run before the second append.
#[tokio::test]
async fn a_follower_that_ends_does_so_where_the_table_ended_when_it_was_asked() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let node = start(&disk, &warehouse, &[], manual()).await;
    node.append(0, 10).await;
    let options = FollowOptions { follow: false };
    let followed = node.tiering.follow(&node.table, FollowFrom::Earliest, options).await.unwrap();
    node.append(10, 20).await;
    let seen = changes(followed.batches.map(Result::unwrap).collect::<Vec<_>>().await);
    assert_eq!(seen, in_order(0..10));
    node.stop().await;
}

/// The first bucket's rows fill the follower's channel, so it comes to the second when a round has taken more.
#[tokio::test]
async fn a_follower_that_ends_leaves_out_what_a_round_took_later() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let properties = [("hot_retention", "0s"), ("buckets", "2"), ("bucket_key", "text")];
    let node = start(&disk, &warehouse, &properties, manual()).await;
    for from in 0..8 {
        node.append(from * 10, from * 10 + 10).await;
        node.engine.seal(&node.table).await.unwrap();
    }
    let options = FollowOptions { follow: false };
    let followed = node.tiering.follow(&node.table, FollowFrom::Earliest, options).await.unwrap();
    node.append(80, 100).await;
    node.tiering.tier(&node.table).await.unwrap();
    node.tiering.let_go_now(&node.table).await.unwrap();
    let seen = changes(followed.batches.map(Result::unwrap).collect::<Vec<_>>().await);
    let mut ids: Vec<_> = seen.into_iter().map(|(_, _, id)| id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..80).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn timestamps_find_their_row_in_either_tier() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let node = start(&disk, &warehouse, &[("hot_retention", "0s")], manual()).await;
    let mut moments = Vec::new();
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(3)).await;
        moments.push(node.engine.now_micros());
        node.append(round * 10, round * 10 + 10).await;
        if round == 1 {
            node.tiering.tier(&node.table).await.unwrap();
            node.tiering.let_go_now(&node.table).await.unwrap();
        }
    }
    for (round, moment) in moments.into_iter().enumerate() {
        assert_eq!(node.follow(FollowFrom::Timestamp(moment)).await, in_order(0..40)[round * 10..], "round {round}");
    }
    let now = node.engine.now_micros();
    assert_eq!(node.follow(FollowFrom::Timestamp(now)).await, []);
    let future = FollowFrom::Timestamp(now + 1_000_000_000);
    let refused = node.tiering.follow(&node.table, future, FollowOptions { follow: false }).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidOffset);
    node.stop().await;
}

#[tokio::test]
async fn hashed_buckets_lie_where_iceberg_looks_for_them() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let node = start(&disk, &warehouse, &[("buckets", "4"), ("bucket_key", "text")], manual()).await;
    node.append(0, 500).await;
    node.tiering.tier(&node.table).await.unwrap();
    node.append(500, 700).await;
    node.tiering.tier(&node.table).await.unwrap();
    let mut ids: Vec<_> = node.follow(FollowFrom::Earliest).await.into_iter().map(|(_, _, id)| id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..700).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn the_scheduler_keeps_the_lake_fresh() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let options = TieringOptions { interval: Duration::from_millis(5), ..TieringOptions::default() };
    let node = start(&disk, &warehouse, &[("lake_freshness", "100ms"), ("hot_retention", "0s")], options).await;
    for batch in 0..30 {
        node.append(batch * 10, batch * 10 + 10).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (lake, hot) = node.counts().await;
        assert_eq!(lake + hot, (batch as u64 + 1) * 10, "whatever the tier, each row once");
    }
    let all = async {
        loop {
            let status = node.tiering.status(&node.table).await.unwrap();
            if node.counts().await == (300, 0) && status.buckets[0].trim_floor == Offset(300) {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(60), all).await.expect("all rows are in the lake alone");
    assert_eq!((status.lake_lag_rows, status.last_error), (0, None));
    assert!(node.tiering.snapshots(&node.table).await.unwrap().len() > 2);
    node.stop().await;
}

#[tokio::test]
async fn a_round_that_fails_lets_nothing_go() {
    let store = FaultyStore::new(Arc::new(InMemory::new()));
    let warehouse = Warehouse::with_store("s3://lake/warehouse", store.clone());
    let node = start(&MemoryDisk::new(), &warehouse, &[("hot_retention", "0s")], manual()).await;
    node.append(0, 10).await;
    store.refuse(Some("snap-"));
    node.tiering.tier(&node.table).await.unwrap_err();
    node.tiering.let_go_now(&node.table).await.unwrap();
    assert_eq!(node.counts().await, (0, 10));
    node.stop().await;
}

/// Files of many buckets are written at once; when one fails no other is begun, and the next round has all rows once.
#[tokio::test]
async fn a_round_of_many_buckets_ends_with_the_first_file_that_fails() {
    let round = async |strike: Option<usize>| {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        let warehouse = Warehouse::with_store("s3://lake/warehouse", store.clone());
        if let Some(call) = strike {
            store.strike(call, Fault::RequestLost);
        }
        let node = start(&MemoryDisk::new(), &warehouse, &[("buckets", "40"), ("bucket_key", "id")], manual()).await;
        node.append(0, 800).await;
        let done = node.tiering.tier(&node.table).await;
        let of_data = |call: &usize| store.path(*call).as_ref().contains("/data/");
        let calls: Vec<usize> = (0..store.calls().len()).filter(of_data).collect();
        (node, done, calls)
    };
    let (node, done, whole) = round(None).await;
    assert_eq!((done.unwrap().files, whole.len()), (40, 40));
    node.stop().await;
    let (node, done, begun) = round(Some(whole[0])).await;
    done.unwrap_err();
    assert!(begun.len() < 20, "{} files were begun", begun.len());
    assert_eq!(node.tiering.tier(&node.table).await.unwrap().rows, 800);
    assert_eq!(node.counts().await, (800, 0));
    node.stop().await;
}

/// Whatever sinks and is let go meanwhile: a split holds each row below its ends once, and none past them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_is_one_cut_while_rounds_run() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let node = Arc::new(start(&disk, &warehouse, &[("hot_retention", "0s")], manual()).await);
    let split = async |at: u64| {
        let split = node.tiering.read_split(std::slice::from_ref(&node.table)).await.unwrap().remove(0);
        let bucket = PartitionBucket::unpartitioned(0);
        let (end, cold) = (split.ends.end(bucket), split.lake_rows());
        assert!(cold <= end.0, "read {at}: the lake has {cold} rows of {end}");
        assert_eq!(cold + split.hot_rows(), end.0, "read {at}");
    };
    let sink = tokio::spawn({
        let node = node.clone();
        async move {
            for round in 0..50 {
                node.append(round * 10, round * 10 + 10).await;
                node.tiering.tier(&node.table).await.unwrap();
                node.tiering.let_go_now(&node.table).await.unwrap();
            }
        }
    });
    let mut reads = 0;
    while !sink.is_finished() {
        split(reads).await;
        reads += 1;
        tokio::task::yield_now().await;
    }
    sink.await.unwrap();
    node.tiering.close().await;
    node.engine.close();
}

#[tokio::test]
async fn a_lake_ahead_of_the_journal_is_refused() {
    let warehouse = memory();
    let disk = MemoryDisk::new();
    let node = start(&disk, &warehouse, &[], manual()).await;
    let before = disk.power_cut(&mut rand::rng());
    node.append(0, 10).await;
    node.tiering.tier(&node.table).await.unwrap();
    node.stop().await;
    // The data directory goes back to an older copy; the warehouse does not.
    let node = start(&before, &warehouse, &[], manual()).await;
    let error = node.tiering.tier(&node.table).await.unwrap_err();
    assert_eq!(error.code(), Code::LakeConflict);
    node.stop().await;
}
