//! Answers that are lost, wrong or never come: each case alone.

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use thermocline_schemas::Code;

use super::*;
use crate::faulty_store::{Fault, FaultyStore};

async fn faulty_table() -> (Arc<FaultyStore>, LakeTable) {
    let store = FaultyStore::new(Arc::new(InMemory::new()));
    let warehouse = Warehouse::with_store("s3://bucket/lake", store.clone());
    let table = LakeTable::create_or_open(&warehouse, &descriptor(1, &[])).await.unwrap();
    (store, table)
}

#[tokio::test]
async fn an_unclear_answer_is_cleared_by_looking() {
    for faults in [
        &[Fault::AnswerLost][..],
        &[Fault::RequestLost],
        &[Fault::FalseConflict],
        &[Fault::AnswerTwice],
        &[Fault::RequestLost, Fault::FalseConflict, Fault::RequestLost, Fault::AnswerLost],
    ] {
        let (store, table) = faulty_table().await;
        for commits in 1..=3 {
            let append = round(&table, &table.current(), &[(0, 5)]).await;
            store.plan(faults.iter().copied().map(Some));
            let version = committed(table.append(&append).await.unwrap());
            assert_eq!((version.version, version.commit_id), (1 + commits, Some(append.commit_id)), "{faults:?}");
        }
        assert_eq!(verify(&table).await.get(bucket(0)), Offset(15));
    }
}

#[tokio::test]
async fn making_a_table_survives_the_same() {
    for fault in [Fault::AnswerLost, Fault::RequestLost, Fault::FalseConflict, Fault::AnswerTwice] {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        let warehouse = Warehouse::with_store("s3://bucket/lake", store.clone());
        store.plan([Some(fault)]);
        let table = LakeTable::create_or_open(&warehouse, &descriptor(1, &[])).await.unwrap();
        assert_eq!((table.location().as_str(), table.current().version), ("s3://bucket/lake/shop/orders", 1));
    }
}

#[tokio::test]
async fn a_commit_nobody_can_tell_of_is_an_error_and_is_found_later() {
    // It landed at the first try, and every answer since was lost.
    let (store, table) = faulty_table().await;
    let append = round(&table, &table.current(), &[(0, 5)]).await;
    store.plan([Some(Fault::RequestLost); 8]);
    let error = table.append(&append).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    // Nothing landed: the same commit goes through later, once.
    committed(table.append(&append).await.unwrap());
    committed(table.append(&append).await.unwrap());
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(5));
}

#[tokio::test]
async fn an_answer_that_comes_after_another_commit_doubles_nothing() {
    // Ours lands, its answer is lost with the process; another server goes on; then we try again with the same files.
    let (_, table) = faulty_table().await;
    let other = LakeTable::create_or_open(table.warehouse(), &descriptor(1, &[])).await.unwrap();
    let ours = round(&table, &table.current(), &[(0, 5)]).await;
    committed(other.append(&ours).await.unwrap());
    let theirs = round(&other, &other.current(), &[(0, 3)]).await;
    committed(other.append(&theirs).await.unwrap());
    let version = committed(table.append(&ours).await.unwrap());
    assert_eq!(version.offsets.get(bucket(0)), Offset(8));

    // A strict prefix by another: not at the start, not at the end, and not done.
    let base = table.refresh().await.unwrap();
    let ours = round(&table, &base, &[(0, 10)]).await;
    let prefix = round(&other, &base, &[(0, 4)]).await;
    committed(other.append(&prefix).await.unwrap());
    assert!(matches!(table.append(&ours).await.unwrap(), CommitOutcome::Stale(at) if at.offsets == prefix.end));

    // All of it and more by another: our files are not in the table, so ours is not done either.
    let base = table.refresh().await.unwrap();
    let ours = round(&table, &base, &[(0, 3)]).await;
    let more = round(&other, &base, &[(0, 5)]).await;
    committed(other.append(&more).await.unwrap());
    assert!(matches!(table.append(&ours).await.unwrap(), CommitOutcome::Stale(at) if at.offsets == more.end));
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(17));
}

#[tokio::test]
async fn a_hint_that_cannot_be_written_stops_nothing() {
    let (store, table) = faulty_table().await;
    store.refuse(Some("version-hint"));
    let append = round(&table, &table.current(), &[(0, 5)]).await;
    committed(table.append(&append).await.unwrap());
    store.refuse(None);
    let reopened = LakeTable::create_or_open(table.warehouse(), &descriptor(1, &[])).await.unwrap();
    assert_eq!(reopened.current().version, 2);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_written_commits_nothing() {
    let (store, table) = faulty_table().await;
    let append = round(&table, &table.current(), &[(0, 5)]).await;
    for part in ["-m0.avro", "snap-"] {
        store.refuse(Some(part));
        assert_eq!(table.append(&append).await.unwrap_err().code(), Code::StoreUnavailable);
        assert_eq!(table.refresh().await.unwrap().version, 1);
    }
    store.refuse(None);
    committed(table.append(&append).await.unwrap());
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(5));
}

/// A listing that leaves out what is there must not make the place look free.
#[tokio::test]
async fn a_hint_to_a_version_that_cannot_be_found_is_no_free_place() {
    let (_, table) = faulty_table().await;
    let store = table.warehouse().store();
    store.delete(&StorePath::from("shop/orders/metadata/v1.metadata.json")).await.unwrap();
    let error = LakeTable::create_or_open(table.warehouse(), &descriptor(1, &[])).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable, "{error}");
}
