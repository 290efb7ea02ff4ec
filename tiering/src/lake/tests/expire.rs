//! What leaves the history, and that nothing else does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use iceberg::spec::{SnapshotReference, SnapshotRetention};
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::MemoryDisk;
use thermocline_schemas::Code;

use super::foreign::{self, foreign};
use super::*;
use crate::faulty_store::{Call, FaultyStore};
use crate::lake::Grace;
use crate::lake::expire::expired;

const NONE: Grace = Grace { files: Duration::ZERO, versions: Duration::ZERO };

/// The table, keeping nothing longer than it must.
async fn forgetful(warehouse: &Warehouse, buckets: &str) -> LakeTable {
    let descriptor = descriptor(1, &[("buckets", buckets), ("snapshot_retention", "0s")]);
    LakeTable::create_or_open(warehouse, &descriptor).await.unwrap().with_grace(NONE)
}

async fn commit(table: &LakeTable, rows: u64) -> Arc<LakeVersion> {
    let append = round(table, &table.current(), &[(0, rows)]).await;
    committed(table.append(&append).await.unwrap())
}

async fn names(table: &LakeTable) -> Vec<String> {
    let prefix = StorePath::from("shop/orders/metadata");
    let listed: Vec<_> = table.warehouse().store().list(Some(&prefix)).try_collect().await.unwrap();
    listed.iter().map(|object| object.location.filename().unwrap().to_owned()).collect()
}

fn count(names: &[String], part: &str) -> usize {
    names.iter().filter(|name| name.contains(part)).count()
}

async fn metadata_bytes(table: &LakeTable) -> u64 {
    let path = StorePath::from(format!("shop/orders/metadata/v{}.metadata.json", table.current().version));
    table.warehouse().store().head(&path).await.unwrap().size
}

#[tokio::test]
async fn metadata_stays_as_large_as_the_retention_over_300_commits() {
    let table = forgetful(&in_memory(), "1").await;
    let mut early = None;
    let mut bytes = Vec::new();
    for number in 1..=300_u64 {
        let version = commit(&table, 2).await;
        table.sweep_if_due(&version).await;
        if number == 10 {
            early = Some((version.clone(), table.data_files(&version).await.unwrap()));
        }
        if number % 50 == 0 {
            bytes.push(metadata_bytes(&table).await);
        }
    }
    // From the hundredth commit on, the metadata log is full too.
    assert!(bytes[5] < bytes[1] * 21 / 20, "{bytes:?}");
    let current = table.current();
    assert!(current.metadata.snapshots().len() <= 2, "{}", current.metadata.snapshots().len());
    assert_eq!(current.metadata.metadata_log().len(), 100);
    table.sweep().await.unwrap();
    let left = names(&table).await;
    assert!(count(&left, "snap-") <= 2, "{left:?}");
    assert_eq!(count(&left, ".metadata.json"), 101, "the newest version and what its log names");
    // Superseded manifests are for the sweep of orphans.
    table.sweep_orphans().await.unwrap();
    let manifests = count(&names(&table).await, "-m");
    assert!(manifests <= 32, "{manifests}");
    for entry in current.metadata.metadata_log() {
        let path = table.warehouse().path(&entry.metadata_file).unwrap();
        table.warehouse().store().head(&path).await.unwrap();
    }
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(600));

    // A split from long ago has its files; who comes for that version only now is told.
    let (version, files) = early.unwrap();
    assert_eq!(files.len(), 10);
    for file in files.iter() {
        table.warehouse().store().head(&file.path).await.unwrap();
    }
    let late = forgetful(table.warehouse(), "1").await;
    assert_eq!(late.data_files(&version).await.unwrap_err().code(), Code::SnapshotExpired);
    assert_eq!(verify(&late).await.get(bucket(0)), Offset(600));
    late.current().check_history().unwrap();
    commit(&late, 1).await;

    // Another table, for whose snapshots it is too early.
    let kept = LakeTable::create_or_open(&in_memory(), &descriptor(1, &[])).await.unwrap();
    for _ in 0..35 {
        let version = commit(&kept, 1).await;
        kept.sweep_if_due(&version).await;
    }
    assert_eq!(kept.current().metadata.snapshots().len(), 35);
    assert_eq!(kept.sweep().await.unwrap(), 0);
    assert_eq!(count(&names(&kept).await, "snap-"), 35);
}

#[tokio::test]
async fn age_counts_from_being_superseded() {
    let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &[])).await.unwrap();
    let mut stamps = Vec::new();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let version = commit(&table, 1).await;
        let snapshot = version.metadata.current_snapshot().unwrap();
        stamps.push((snapshot.snapshot_id(), snapshot.timestamp_ms()));
    }
    let version = table.current();
    for (number, (_, stamp)) in stamps.iter().enumerate() {
        let mut found = expired(&version, *stamp).unwrap();
        found.reverse();
        // At the moment of the n-th commit, those before it were superseded; itself and the newest never.
        let before: Vec<_> = stamps[..number].iter().map(|(id, _)| *id).collect();
        assert_eq!(found, before, "at commit {number}");
    }
    assert_eq!(expired(&version, i64::MAX).unwrap().len(), 3, "the newest stays");
}

#[tokio::test]
async fn what_a_tag_names_stays() {
    let table = forgetful(&in_memory(), "1").await;
    let tagged = commit(&table, 1).await.snapshot_id().unwrap();
    foreign(&table, |metadata| {
        let retention = SnapshotRetention::Tag { max_ref_age_ms: None };
        let reference = SnapshotReference { snapshot_id: tagged, retention };
        metadata.into_builder(None).set_ref("audit", reference).unwrap().build().unwrap().metadata
    })
    .await;
    for _ in 0..5 {
        commit(&table, 1).await;
    }
    table.sweep().await.unwrap();
    let version = table.current();
    let list = version.metadata.snapshot_for_ref("audit").expect("the tag stays").manifest_list().to_owned();
    table.warehouse().store().head(&table.warehouse().path(&list).unwrap()).await.unwrap();
    assert!(version.metadata.snapshots().len() <= 3);
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(6));
}

/// A foreign rewrite on top of our newest commit: its history goes on.
#[tokio::test]
async fn a_sweep_keeps_what_a_foreign_rewrite_shares() {
    let table = forgetful(&in_memory(), "1").await;
    commit(&table, 3).await;
    foreign(&table, foreign::snapshot(iceberg::spec::Operation::Replace)).await;
    let version = table.refresh().await.unwrap();
    table.sweep().await.unwrap();
    version.check_history().unwrap();
    // Both name one list.
    commit(&table, 3).await;
    commit(&table, 3).await;
    table.sweep().await.unwrap();
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(9));
}

#[tokio::test]
async fn a_commit_that_slept_creates_nothing() {
    let store = FaultyStore::new(Arc::new(InMemory::new()));
    let table = forgetful(&Warehouse::with_store("s3://bucket/lake", store.clone()), "1").await;
    let before = store.calls().len();
    let bytes = super::super::table::metadata_bytes(&table.current().metadata).unwrap();
    let created = table.files.create(2, bytes, SystemTime::now(), |_| false).await;
    assert_eq!(created.err().unwrap().code(), Code::StoreUnavailable);
    assert_eq!(store.calls().len(), before, "the store was not even asked");
}

/// Commits, sweeps, faults at any call, and two that think the table theirs: rows stay exact.
#[tokio::test]
async fn commits_and_sweeps_under_faults_lose_nothing() {
    let (mut sweeps, mut failed, mut removed) = (0, 0, 0);
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        let warehouse = Warehouse::with_store("s3://bucket/lake", store.clone());
        let mut tables = [forgetful(&warehouse, "2").await, forgetful(&warehouse, "2").await];
        for _ in 0..40 {
            let calls = store.calls().len();
            let fault = Call::Create.faults()[random.random_range(0..Call::Create.faults().len())];
            store.strike(calls + random.random_range(0..25), fault);
            let one = random.random_range(0..2);
            let table = &tables[one];
            match random.random_range(0..10) {
                0 => {
                    tables[one] = match LakeTable::create_or_open(&warehouse, &table_descriptor()).await {
                        Ok(table) => table.with_grace(NONE),
                        Err(_) => continue,
                    }
                }
                1..4 => match table.sweep().await {
                    Ok(count) => (sweeps, removed) = (sweeps + 1, removed + count),
                    Err(_) => failed += 1,
                },
                _ => {
                    let adds = [(random.random_range(0..2), random.random_range(1..9))];
                    let Ok(base) = table.refresh().await else { continue };
                    let Ok(append) = try_round(table, &base, adds[0]).await else { continue };
                    failed += usize::from(table.append(&append).await.is_err());
                }
            }
        }
        store.strike(usize::MAX, fault_free());
        store.settle().await;
        let table = LakeTable::create_or_open(&warehouse, &table_descriptor()).await.unwrap().with_grace(NONE);
        verify(&table).await;
        commit(&table, 1).await;
        commit(&table, 1).await;
        verify(&table).await;
    }
    assert!(sweeps > 50 && removed > 100 && failed > 10, "{sweeps} sweeps, {removed} removed, {failed} failed");
}

fn fault_free() -> crate::faulty_store::Fault {
    crate::faulty_store::Fault::RequestLost
}

fn table_descriptor() -> TableDescriptor {
    descriptor(1, &[("buckets", "2"), ("snapshot_retention", "0s")])
}

/// A round whose files may not get through.
async fn try_round(table: &LakeTable, base: &LakeVersion, (number, rows): (u32, u64)) -> Result<Append, ()> {
    let commit_id = Uuid::new_v4();
    let start = base.offsets.get(bucket(number));
    let mut writer = table.file_writer(commit_id, bucket(number)).map_err(drop)?;
    writer.write(batch(table, bucket(number), start.0, rows)).await.map_err(drop)?;
    let file = writer.finish().await.map_err(drop)?;
    let mut end = base.offsets.clone();
    end.set(bucket(number), start.plus(rows));
    Ok(Append {
        commit_id,
        start: base.offsets.clone(),
        end,
        files: vec![file],
        ended: None,
        log_starts: Offsets::default(),
        stamps: None,
    })
}

#[tokio::test]
async fn a_power_cut_around_a_sweep_takes_nothing_that_was_answered() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let root = std::path::Path::new("/data/lake");
        let mut disk = MemoryDisk::new();
        let mut answered = Offsets::default();
        for _ in 0..5 {
            let table = forgetful(&Warehouse::local(disk.clone(), root).unwrap(), "2").await;
            let found = verify(&table).await;
            assert!(found.covers(&answered), "seed {seed}: {found} after {answered}");
            for _ in 0..random.random_range(1..5) {
                let adds = [(random.random_range(0..2), random.random_range(1..20))];
                let append = round(&table, &table.current(), &adds).await;
                answered = committed(table.append(&append).await.unwrap()).offsets.clone();
                if random.random_bool(0.5) {
                    table.sweep().await.unwrap();
                }
            }
            disk = disk.power_cut(&mut random);
        }
    }
}

/// What another engine computed of a snapshot stays with it, and goes with it.
#[tokio::test]
async fn statistics_go_with_their_snapshot() {
    use iceberg::spec::{PartitionStatisticsFile, StatisticsFile};
    let table = forgetful(&in_memory(), "1").await;
    commit(&table, 3).await;
    foreign(&table, |metadata| {
        let snapshot_id = metadata.current_snapshot_id().unwrap();
        let statistics = StatisticsFile {
            snapshot_id,
            statistics_path: "memory:///stats.puffin".to_owned(),
            file_size_in_bytes: 10,
            file_footer_size_in_bytes: 4,
            key_metadata: None,
            blob_metadata: Vec::new(),
        };
        let of_partitions = PartitionStatisticsFile {
            snapshot_id,
            statistics_path: "memory:///stats.parquet".to_owned(),
            file_size_in_bytes: 10,
        };
        let builder = metadata.into_builder(None).set_statistics(statistics);
        builder.set_partition_statistics(of_partitions).build().unwrap().metadata
    })
    .await;
    let count = |table: &LakeTable| {
        let metadata = table.current().metadata.clone();
        (metadata.statistics_iter().count(), metadata.partition_statistics_iter().count())
    };
    table.refresh().await.unwrap();
    assert_eq!(count(&table), (1, 1));
    commit(&table, 3).await;
    assert_eq!(count(&table), (1, 1), "their snapshot is kept");
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        commit(&table, 3).await;
    }
    assert_eq!(count(&table), (0, 0));
}
