//! Making, opening, committing; on disk, in memory, and by many at once.

use std::sync::Arc;

use object_store::path::Path as StorePath;
use object_store::{ObjectStoreExt, PutPayload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_engine::disk::{MemoryDisk, RealDisk};
use thermocline_schemas::{Code, TableId, TableName};

use super::*;
use crate::faulty_store::{Fault, FaultyStore};

#[tokio::test]
async fn three_rounds_and_the_table_reopens_equal() {
    for format in ["2", "3"] {
        let directory = tempfile::tempdir().unwrap();
        let warehouse = Warehouse::local(Arc::new(RealDisk), directory.path()).unwrap();
        let descriptor = descriptor(7, &[("buckets", "3"), ("format_version", format)]);
        let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
        assert_eq!(table.location(), format!("file://{}/shop/orders", directory.path().display()));
        assert_eq!((table.current().version, table.current().snapshot_id()), (1, None));
        for adds in [&[(0, 10), (2, 5)][..], &[(0, 1)], &[(1, 100), (2, 7), (0, 3)]] {
            let append = round(&table, &table.current(), adds).await;
            let version = committed(table.append(&append).await.unwrap());
            assert_eq!((&version.offsets, version.commit_id), (&append.end, Some(append.commit_id)));
        }
        let (offsets, current) = (verify(&table).await, table.current());
        assert_eq!(current.version, 4);
        let summary = &current.metadata.current_snapshot().unwrap().summary().additional_properties;
        let count = |name: &str| summary[name].parse::<u64>().unwrap();
        assert_eq!((count("total-records"), count("added-records")), (126, 110));
        assert_eq!((count("total-data-files"), count("added-data-files")), (6, 3));
        assert_eq!(summary["thermocline.changed-offsets"], "[[0,0,11,14],[0,1,0,100],[0,2,5,12]]");
        if format == "3" {
            assert_eq!(current.metadata.next_row_id(), 126);
            let files = table.data_files(&current).await.unwrap();
            let mut ranges: Vec<_> = files.iter().map(|file| (file.first_row_id.unwrap(), file.rows)).collect();
            ranges.sort();
            assert_eq!(ranges.iter().fold(0, |next, (first, rows)| if next == *first { next + rows } else { 0 }), 126);
        }

        let reopened = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
        assert_eq!(verify(&reopened).await, offsets);
        assert_eq!(reopened.current().metadata, current.metadata);
        assert_eq!(reopened.current().commit_id, current.commit_id);
    }
}

#[tokio::test]
async fn a_place_that_is_anothers_is_left_alone() {
    let warehouse = in_memory();
    let first = LakeTable::create_or_open(&warehouse, &descriptor(1, &[])).await.unwrap();
    let second = LakeTable::create_or_open(&warehouse, &descriptor(2, &[])).await.unwrap();
    let later = TableDescriptor { created_ms: 5, ..descriptor(2, &[]) };
    let third = LakeTable::create_or_open(&warehouse, &later).await.unwrap();
    assert_eq!(first.location(), "s3://bucket/lake/shop/orders");
    assert_eq!(second.location(), "s3://bucket/lake/shop/orders-2");
    assert_eq!(third.location(), "s3://bucket/lake/shop/orders-2-5");
    let append = round(&second, &second.current(), &[(0, 4)]).await;
    committed(second.append(&append).await.unwrap());
    // The plain place becomes free: whoever has a place keeps it.
    for name in ["v1.metadata.json", "version-hint.text"] {
        warehouse.store().delete(&StorePath::from(format!("shop/orders/metadata/{name}"))).await.unwrap();
    }
    let again = LakeTable::create_or_open(&warehouse, &descriptor(2, &[])).await.unwrap();
    assert_eq!(again.location(), second.location());
    assert_eq!(verify(&again).await.get(bucket(0)), Offset(4));

    // Another catalog's table, whose files have other names.
    let name = TableName::parse("shop", "else").unwrap();
    let path = StorePath::from("shop/else/metadata/00000-aa.metadata.json");
    warehouse.store().put(&path, PutPayload::from_static(b"{}")).await.unwrap();
    let other = TableDescriptor { name, id: TableId(9), ..descriptor(9, &[]) };
    let other = LakeTable::create_or_open(&warehouse, &other).await.unwrap();
    assert_eq!(other.location(), "s3://bucket/lake/shop/else-9");
}

#[tokio::test]
async fn a_commit_that_does_not_tile_its_range_is_refused() {
    let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &[])).await.unwrap();
    let good = round(&table, &table.current(), &[(0, 10)]).await;
    let offsets = |end: u64| Offsets::from_iter([(bucket(0), Offset(end))]);
    let extra = write(&table, good.commit_id, bucket(0), 4, 2).await;
    for bad in [
        Append { end: offsets(11), ..good.clone() },
        Append { end: offsets(9), ..good.clone() },
        Append { start: offsets(1), ..good.clone() },
        Append { files: vec![], ..good.clone() },
        Append { end: offsets(0), files: vec![], ..good.clone() },
        Append { files: vec![good.files[0].clone(), good.files[0].clone()], ..good.clone() },
        Append { files: vec![good.files[0].clone(), extra], ..good.clone() },
    ] {
        assert_eq!(table.append(&bad).await.unwrap_err().code(), Code::Internal);
    }
    let elsewhere = write(&table, good.commit_id, bucket(1), 0, 2).await;
    let bad = Append { files: vec![good.files[0].clone(), elsewhere], ..good.clone() };
    assert_eq!(table.append(&bad).await.unwrap_err().code(), Code::Internal);
    committed(table.append(&good).await.unwrap());
    // The same commit again is done already; the same rows under another id are not wanted.
    committed(table.append(&good).await.unwrap());
    let again = Append { commit_id: Uuid::new_v4(), ..good };
    assert!(
        matches!(table.append(&again).await.unwrap(), CommitOutcome::Stale(version) if version.offsets == offsets(10))
    );
    assert_eq!(verify(&table).await, offsets(10));
}

#[tokio::test]
async fn a_crash_between_the_version_and_its_hint_loses_nothing() {
    for hint in [None, Some("1"), Some("77"), Some("nonsense")] {
        let warehouse = in_memory();
        let table = LakeTable::create_or_open(&warehouse, &descriptor(1, &[])).await.unwrap();
        for _ in 0..3 {
            let append = round(&table, &table.current(), &[(0, 2)]).await;
            committed(table.append(&append).await.unwrap());
        }
        let path = StorePath::from("shop/orders/metadata/version-hint.text");
        match hint {
            None => warehouse.store().delete(&path).await.unwrap(),
            Some(text) => drop(warehouse.store().put(&path, PutPayload::from(text.to_owned())).await.unwrap()),
        }
        let reopened = LakeTable::create_or_open(&warehouse, &descriptor(1, &[])).await.unwrap();
        assert_eq!(reopened.current().version, 4, "{hint:?}");
        assert_eq!(verify(&reopened).await.get(bucket(0)), Offset(6));
        if hint != Some("77") {
            let text = warehouse.store().get(&path).await.unwrap().bytes().await.unwrap();
            assert_eq!(text, "4", "{hint:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_commits_one_wins_each_version() {
    for (seed, faults) in [(1, false), (2, true), (3, true)] {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        if faults {
            let mut random = StdRng::seed_from_u64(seed);
            let faults = [Fault::AnswerLost, Fault::RequestLost, Fault::FalseConflict, Fault::AnswerTwice];
            let kinds = faults.map(Some).into_iter().chain([None]).collect::<Vec<_>>();
            store.plan((0..200).map(|_| kinds[random.random_range(0..kinds.len())]));
        }
        race(&Warehouse::with_store("s3://bucket/lake", store), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "races below $THERMOCLINE_LAKE, a path or s3://bucket/prefix"]
async fn of_racing_commits_one_wins_each_version_on_a_real_store() {
    let address = std::env::var("THERMOCLINE_LAKE").unwrap();
    for seed in 1..=3 {
        let address = format!("{address}/race-{}", Uuid::new_v4());
        race(&Warehouse::open(&address, Arc::new(RealDisk)).unwrap(), seed).await;
    }
}

/// Eight servers that think the table theirs. Of commits that build on one version one wins, and the winners are one chain.
async fn race(warehouse: &Warehouse, seed: u64) {
    let format = if seed == 2 { "3" } else { "2" };
    let descriptor = Arc::new(descriptor(1, &[("buckets", "2"), ("format_version", format)]));
    let racers: Vec<_> = (0..8)
        .map(|racer| {
            let (warehouse, descriptor) = (warehouse.clone(), descriptor.clone());
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed * 100 + racer);
                let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
                let mut commits = Vec::new();
                for _ in 0..6 {
                    let base = table.refresh().await.unwrap();
                    let adds = [(random.random_range(0..2), random.random_range(1..20))];
                    let append = round(&table, &base, &adds).await;
                    match table.append(&append).await.unwrap() {
                        CommitOutcome::Committed(_) => commits.push((append.commit_id, append.start, append.end)),
                        CommitOutcome::Stale(version) => {
                            assert!(version.offsets.covers(&append.start) && version.offsets != append.start);
                        }
                    }
                }
                commits
            })
        })
        .collect();
    let mut commits = Vec::new();
    for racer in racers {
        commits.extend(racer.await.unwrap());
    }
    let table = LakeTable::create_or_open(warehouse, &descriptor).await.unwrap();
    let end = verify(&table).await;
    let current = table.current();
    assert_eq!(current.version, 1 + commits.len() as u64, "seed {seed}: each version is one winner's");
    // The winners' ranges are one chain from nothing to the end.
    let mut reached = Offsets::default();
    while reached != end {
        let next: Vec<_> = commits.iter().filter(|(_, start, _)| *start == reached).collect();
        assert_eq!(next.len(), 1, "seed {seed} at {reached}");
        assert!(current.contains_commit(next[0].0));
        reached = next[0].2.clone();
    }
}

/// What was answered for is there after any power cut, and what is there is whole.
#[tokio::test]
async fn a_power_cut_takes_no_commit_that_was_answered() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let root = std::path::Path::new("/data/lake");
        let mut disk = MemoryDisk::new();
        let descriptor = descriptor(1, &[("buckets", "2")]);
        let mut answered = Offsets::default();
        for _ in 0..4 {
            let warehouse = Warehouse::local(disk.clone(), root).unwrap();
            let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
            let found = verify(&table).await;
            assert!(found.covers(&answered), "seed {seed}: {found} after {answered}");
            for _ in 0..random.random_range(0..3) {
                let adds = [(random.random_range(0..2), random.random_range(1..20))];
                let append = round(&table, &table.current(), &adds).await;
                answered = committed(table.append(&append).await.unwrap()).offsets.clone();
            }
            disk = disk.power_cut(&mut random);
        }
    }
}
