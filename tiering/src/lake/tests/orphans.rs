//! What a sweep removes: what nobody needs, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{ObjectStoreExt, PutPayload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_schemas::Code;

use super::deletes::{Live, random_round, verify_live};
use super::rewrites::{all_runs, rewritten};
use super::*;
use crate::faulty_store::{Call, Fault, FaultyStore};
use crate::lake::data_files::{manifest, manifests_of};
use crate::lake::{Grace, Swept};

const NONE: Grace = Grace { files: Duration::ZERO, versions: Duration::ZERO };

fn keeping_nothing(format: &'static str) -> [(&'static str, &'static str); 3] {
    [("buckets", "2"), ("format_version", format), ("snapshot_retention", "0s")]
}

/// Data files, delete files and manifests.
async fn present(table: &LakeTable) -> BTreeSet<String> {
    let listed: Vec<_> =
        table.warehouse().store().list(Some(&StorePath::from("shop/orders"))).try_collect().await.unwrap();
    let names = listed.into_iter().map(|object| object.location.to_string());
    names.filter(|name| !name.contains("/snap-") && !name.ends_with(".json") && !name.ends_with(".text")).collect()
}

/// What the snapshots of the newest version name, read without the code under test.
async fn named(table: &LakeTable) -> BTreeSet<String> {
    let version = table.refresh().await.unwrap();
    let mut named = BTreeSet::new();
    for snapshot in version.metadata.snapshots() {
        for listed in manifests_of(&table.files, &version, snapshot).await.unwrap() {
            let manifest = manifest(&table.files, &listed.manifest_path).await.unwrap();
            let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
            named.extend(alive.map(|entry| entry.data_file().file_path().to_owned()));
            named.insert(listed.manifest_path);
        }
    }
    named.into_iter().map(|url| table.warehouse().path(&url).unwrap().to_string()).collect()
}

async fn rewrite_all(table: &LakeTable) -> Arc<LakeVersion> {
    let base = table.current();
    let rewrite = rewritten(table, &base, &all_runs(table, &base).await).await;
    committed(table.replace(&rewrite).await.unwrap())
}

/// Rounds, rewrites, files of nobody: what is left after a sweep is what snapshots name, to the file.
#[tokio::test]
async fn what_is_left_is_what_snapshots_name() {
    for (seed, format) in [(1, "2"), (2, "3"), (3, "2"), (4, "3")] {
        let mut random = StdRng::seed_from_u64(seed);
        let descriptor = keyed_descriptor(1, &keeping_nothing(format));
        let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap().with_grace(NONE);
        let mut live = Live::new();
        let mut removed = 0;
        for step in 0..40 {
            match random.random_range(0..6) {
                0 if !table.data_files(&table.current()).await.unwrap().is_empty() => {
                    rewrite_all(&table).await;
                }
                1 => {
                    // A round that died before its commit.
                    write(&table, Uuid::new_v4(), bucket(0), 1_000_000, 3).await;
                }
                2 => {
                    // The cache holds what it read; a sweep must not rest on that.
                    removed += table.sweep_orphans().await.unwrap().removed;
                    assert_eq!(present(&table).await, named(&table).await, "seed {seed}, step {step}");
                    assert_eq!(table.sweep_orphans().await.unwrap().removed, 0);
                }
                _ => {
                    let append = random_round(&table, &table.current(), &mut live, &mut random).await;
                    committed(table.append(&append).await.unwrap());
                }
            }
            verify_live(&table, &live, &format!("seed {seed}, step {step}")).await;
        }
        assert!(removed > 20, "seed {seed}: {removed}");
    }
}

/// Without a grace of zero, nothing goes that any snapshot names, or that is young.
#[tokio::test]
async fn what_is_young_stays() {
    let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &[])).await.unwrap();
    for _ in 0..4 {
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
    }
    rewrite_all(&table).await;
    write(&table, Uuid::new_v4(), bucket(0), 1_000_000, 3).await;
    let before = present(&table).await;
    assert_eq!(table.sweep_orphans().await.unwrap(), Swept { removed: 0, waits: true });
    // The snapshots before the rewrite are kept by the property, the file of nobody only by the grace.
    let table = table.with_grace(NONE);
    assert_eq!(table.sweep_orphans().await.unwrap().removed, 0, "kept for `snapshot_retention`");
    assert_eq!(present(&table).await, before);
}

/// An old snapshot that a tag names keeps its files, whatever its age.
#[tokio::test]
async fn a_snapshot_that_is_kept_keeps_its_files() {
    let descriptor = descriptor(1, &[("snapshot_retention", "0s")]);
    let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap().with_grace(NONE);
    for _ in 0..3 {
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
    }
    let tagged = table.current();
    foreign::foreign(&table, |metadata| {
        let retention = iceberg::spec::SnapshotRetention::Tag { max_ref_age_ms: None };
        let snapshot_id = metadata.current_snapshot_id().unwrap();
        let reference = iceberg::spec::SnapshotReference { snapshot_id, retention };
        metadata.into_builder(None).set_ref("audit", reference).unwrap().build().unwrap().metadata
    })
    .await;
    table.refresh().await.unwrap();
    let old: Vec<_> = table.data_files(&tagged).await.unwrap().iter().map(|file| file.path.clone()).collect();
    for _ in 0..3 {
        rewrite_all(&table).await;
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
    }
    let table = LakeTable::create_or_open(table.warehouse(), &descriptor).await.unwrap().with_grace(NONE);
    assert!(table.sweep_orphans().await.unwrap().removed > 0);
    for path in old {
        table.warehouse().store().head(&path).await.unwrap();
    }
    assert_eq!(present(&table).await, named(&table).await);
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(30));
}

/// What a commit here has under way, and what a reader here holds, stays however old.
#[tokio::test]
async fn what_somebody_here_needs_stays() {
    let descriptor = keyed_descriptor(1, &keeping_nothing("3"));
    let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap().with_grace(NONE);
    let mut random = StdRng::seed_from_u64(1);
    let mut live = Live::new();
    for _ in 0..6 {
        let append = random_round(&table, &table.current(), &mut live, &mut random).await;
        committed(table.append(&append).await.unwrap());
    }
    let old = table.current();
    let held = table.data_files(&old).await.unwrap();
    assert!(held.iter().any(|file| file.deletes.is_some()));
    let under_way = table.begin();
    let file = write(&table, under_way.commit_id, bucket(0), 2_000_000, 3).await;
    rewrite_all(&table).await;
    rewrite_all(&table).await;
    rewrite_all(&table).await;
    assert!(table.current().metadata.snapshot_by_id(old.snapshot_id().unwrap()).is_none());
    table.sweep_orphans().await.unwrap();
    table.warehouse().store().head(&file.path).await.unwrap();
    for file in held.iter() {
        let keep = table.live_positions(file).await.unwrap();
        let rows = table.read_positions(file, &descriptor.schema, keep.as_ref()).await.unwrap();
        assert_eq!(
            rows.map_ok(|rows| rows.batch.num_rows() as u64)
                .try_fold(0, async |all, rows| Ok(all + rows))
                .await
                .unwrap(),
            file.live_rows()
        );
    }
    // A stream that is read holds its file, also when nobody else does.
    let first = held.iter().find(|file| file.live_rows() > 0).unwrap().clone();
    let path = first.path.clone();
    let stream = table.read_positions(&first, &descriptor.schema, None).await.unwrap();
    drop((held, first));
    drop(under_way);
    assert!(table.sweep_orphans().await.unwrap().removed > 3);
    table.warehouse().store().head(&path).await.unwrap();
    table.warehouse().store().head(&file.path).await.unwrap_err();
    drop(stream);
    assert!(table.sweep_orphans().await.unwrap().removed > 0);
    table.warehouse().store().head(&path).await.unwrap_err();
    assert_eq!(present(&table).await, named(&table).await);
    verify_live(&table, &live, "after all").await;
}

/// Only what is named like ours, in this table's own directories.
#[tokio::test]
async fn what_is_not_ours_stays() {
    let store = Arc::new(InMemory::new());
    let warehouse = Warehouse::with_store("s3://bucket/lake", store);
    let descriptor = descriptor(1, &[("snapshot_retention", "0s")]);
    let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap().with_grace(NONE);
    let append = round(&table, &table.current(), &[(0, 5)]).await;
    committed(table.append(&append).await.unwrap());
    let foreign = [
        "shop/orders-2/data/0-x.parquet",
        "shop/orders2/data/0-x.parquet",
        "shop/orders/data/notes.txt",
        "shop/orders/metadata/statistics.puffin",
        "shop/orders/metadata/x.stats",
        "shop/x.parquet",
        "shop/orders/x.parquet",
    ];
    let orphans =
        ["shop/orders/data/0-x.parquet", "shop/orders/data/a=1/x-deletes.puffin", "shop/orders/metadata/x-m0.avro"];
    for name in foreign.iter().chain(&orphans) {
        warehouse.store().put(&StorePath::from(*name), PutPayload::from("x")).await.unwrap();
    }
    assert_eq!(table.sweep_orphans().await.unwrap(), Swept { removed: 3, waits: false });
    for name in foreign {
        warehouse.store().head(&StorePath::from(name)).await.unwrap();
    }
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(5));
}

/// Where one list, manifest or listing cannot be read, nothing is removed.
#[tokio::test]
async fn a_store_that_fails_loses_nothing() {
    let mut call = 0;
    let mut failed = 0;
    loop {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        let warehouse = Warehouse::with_store("s3://bucket/lake", store.clone());
        let properties = [("snapshot_retention", "0s")];
        let table = LakeTable::create_or_open(&warehouse, &descriptor(1, &properties)).await.unwrap();
        let table = table.with_grace(NONE);
        for _ in 0..3 {
            let append = round(&table, &table.current(), &[(0, 5)]).await;
            committed(table.append(&append).await.unwrap());
        }
        rewrite_all(&table).await;
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
        // Of a fresh process, which knows nothing yet.
        let table = LakeTable::create_or_open(&warehouse, &descriptor(1, &properties)).await.unwrap();
        let table = table.with_grace(NONE);
        let before = present(&table).await;
        let begun = store.calls().len();
        store.strike(begun + call, Fault::RequestLost);
        let swept = table.sweep_orphans().await;
        let calls = store.calls()[begun..].to_vec();
        store.strike(usize::MAX, Fault::RequestLost);
        let is_over = calls.len() <= call;
        match swept {
            Ok(swept) => assert!(swept.removed > 0, "call {call}"),
            Err(_) => {
                failed += 1;
                let removed = before.difference(&present(&table).await).count();
                let deleting = calls.iter().filter(|call| matches!(call, Call::Delete)).count();
                assert!(removed <= deleting, "call {call}: {removed} removed by {deleting} calls");
            }
        }
        assert!(named(&table).await.is_subset(&present(&table).await), "call {call}");
        verify(&table).await;
        if is_over {
            break;
        }
        call += 1;
    }
    assert!(failed > 5, "{failed}");

    // A list that a snapshot names, and that is gone.
    let descriptor = descriptor(1, &[]);
    let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
    for _ in 0..3 {
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
    }
    rewrite_all(&table).await;
    let table = table.with_grace(NONE);
    let mut impatient = descriptor;
    impatient.properties.snapshot_retention_ms = 0;
    table.adopt(&impatient).unwrap();
    let version = table.current();
    let first = version.metadata.snapshots().min_by_key(|snapshot| snapshot.sequence_number()).unwrap();
    let list = table.warehouse().path(first.manifest_list()).unwrap();
    table.warehouse().store().delete(&list).await.unwrap();
    write(&table, Uuid::new_v4(), bucket(0), 1_000_000, 3).await;
    let before = present(&table).await;
    assert_eq!(table.sweep_orphans().await.unwrap_err().code(), Code::SnapshotExpired);
    assert_eq!(present(&table).await, before);
}

/// A table that gets no more commits lets go of its past all the same.
#[tokio::test]
async fn an_idle_table_keeps_no_past() {
    let descriptor = descriptor(1, &[("snapshot_retention", "0s")]);
    let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap().with_grace(NONE);
    assert!(!table.expire_if_idle().await.unwrap(), "nothing to leave out");
    for _ in 0..3 {
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
    }
    let version = rewrite_all(&table).await;
    assert!(version.metadata.snapshots().len() > 1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(table.expire_if_idle().await.unwrap());
    let expired = table.current();
    assert_eq!(expired.version, version.version + 1);
    assert_eq!(expired.snapshot_id(), version.snapshot_id());
    assert_eq!(expired.metadata.snapshots().len(), 1);
    expired.check_history().unwrap();
    assert!(!table.expire_if_idle().await.unwrap());
    table.sweep_orphans().await.unwrap();
    assert_eq!(present(&table).await.len(), 3, "a file, its manifest, and the one that says what the rewrite replaced");
    let append = round(&table, &table.current(), &[(0, 5)]).await;
    committed(table.append(&append).await.unwrap());
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(20));

    let kept = LakeTable::create_or_open(&in_memory(), &super::descriptor(1, &[])).await.unwrap();
    for _ in 0..2 {
        let append = round(&kept, &kept.current(), &[(0, 5)]).await;
        committed(kept.append(&append).await.unwrap());
    }
    assert!(!kept.expire_if_idle().await.unwrap(), "it is too early");
}
