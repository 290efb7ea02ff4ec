//! What other engines may do to a table of ours, and what stops tiering.

use iceberg::spec::{
    FormatVersion, MAIN_BRANCH, Operation, Snapshot, SnapshotReference, SnapshotRetention, Summary, TableMetadata,
};
use object_store::path::Path as StorePath;
use object_store::{ObjectStoreExt, PutPayload};
use thermocline_schemas::Code;

use super::*;

/// Commits a change of metadata as another engine would: the next version file, and our properties kept.
pub(super) async fn foreign(table: &LakeTable, change: impl FnOnce(TableMetadata) -> TableMetadata) {
    let current = table.current();
    let changed = change((*current.metadata).clone());
    let path = StorePath::from(format!("shop/orders/metadata/v{}.metadata.json", current.version + 1));
    let bytes = serde_json::to_vec(&changed).unwrap();
    table.warehouse().store().put(&path, PutPayload::from(bytes)).await.unwrap();
}

/// A snapshot with the same files under another operation.
pub(super) fn snapshot(operation: Operation) -> impl FnOnce(TableMetadata) -> TableMetadata {
    move |metadata| {
        let parent = metadata.current_snapshot().unwrap().clone();
        let list = parent.manifest_list().to_owned();
        with_snapshot(metadata, parent.snapshot_id() / 2 + 1, operation, list)
    }
}

/// The metadata with one more snapshot, which adds no rows.
pub(super) fn with_snapshot(
    metadata: TableMetadata,
    snapshot_id: i64,
    operation: Operation,
    manifest_list: String,
) -> TableMetadata {
    let snapshot = Snapshot::builder()
        .with_snapshot_id(snapshot_id)
        .with_parent_snapshot_id(metadata.current_snapshot_id())
        .with_sequence_number(metadata.next_sequence_number())
        .with_timestamp_ms(metadata.last_updated_ms() + 1)
        .with_manifest_list(manifest_list)
        .with_summary(Summary { operation, additional_properties: Default::default() });
    let snapshot = match metadata.format_version() {
        FormatVersion::V3 => snapshot.with_row_range(metadata.next_row_id(), 0).build(),
        FormatVersion::V1 | FormatVersion::V2 => snapshot.build(),
    };
    metadata.into_builder(None).set_branch_snapshot(snapshot, MAIN_BRANCH).unwrap().build().unwrap().metadata
}

async fn two_rounds() -> LakeTable {
    let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &[])).await.unwrap();
    for _ in 0..2 {
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
    }
    table
}

#[tokio::test]
async fn a_foreign_rewrite_is_built_on() {
    let table = two_rounds().await;
    let append = round(&table, &table.current(), &[(0, 5)]).await;
    foreign(&table, snapshot(Operation::Replace)).await;
    // The files were written before the rewrite, and are committed on top of it.
    let version = committed(table.append(&append).await.unwrap());
    assert_eq!(version.version, 5);
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(15));
    let totals = &version.metadata.current_snapshot().unwrap().summary().additional_properties;
    assert!(!totals.contains_key("total-records"), "the rewrite did not say, so neither can we");
}

#[tokio::test]
async fn foreign_rows_and_deletes_stop_tiering() {
    for operation in [Operation::Append, Operation::Delete, Operation::Overwrite] {
        let table = two_rounds().await;
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        let name = operation.as_str().to_owned();
        foreign(&table, snapshot(operation)).await;
        let error = table.append(&append).await.unwrap_err();
        assert_eq!(error.code(), Code::LakeConflict);
        assert!(error.message().contains(&format!("foreign {name}")), "{error}");
        assert_eq!(table.refresh().await.unwrap().check_history().unwrap_err().code(), Code::LakeConflict);
    }
}

#[tokio::test]
async fn a_rollback_stops_tiering() {
    let table = two_rounds().await;
    let append = round(&table, &table.current(), &[(0, 5)]).await;
    foreign(&table, |metadata| {
        let snapshot_id = metadata.current_snapshot().unwrap().parent_snapshot_id().unwrap();
        let retention =
            SnapshotRetention::Branch { min_snapshots_to_keep: None, max_snapshot_age_ms: None, max_ref_age_ms: None };
        let reference = SnapshotReference { snapshot_id, retention };
        metadata.into_builder(None).set_ref(MAIN_BRANCH, reference).unwrap().build().unwrap().metadata
    })
    .await;
    let error = table.append(&append).await.unwrap_err();
    assert_eq!(error.code(), Code::LakeConflict);
    assert!(error.message().contains("rolled back"), "{error}");
}

#[tokio::test]
async fn expired_history_leaves_the_property_to_trust() {
    let table = two_rounds().await;
    foreign(&table, snapshot(Operation::Replace)).await;
    table.refresh().await.unwrap();
    foreign(&table, |metadata| {
        let current = metadata.current_snapshot_id().unwrap();
        let old: Vec<_> = metadata.snapshots().map(|s| s.snapshot_id()).filter(|id| *id != current).collect();
        metadata.into_builder(None).remove_snapshots(&old).build().unwrap().metadata
    })
    .await;
    let append = round(&table, &table.refresh().await.unwrap(), &[(0, 5)]).await;
    committed(table.append(&append).await.unwrap());
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(15));
}

#[tokio::test]
async fn another_table_in_its_place_is_noticed() {
    let table = two_rounds().await;
    foreign(&table, |metadata| metadata.into_builder(None).assign_uuid(Uuid::new_v4()).build().unwrap().metadata).await;
    assert_eq!(table.refresh().await.unwrap_err().code(), Code::LakeConflict);

    let table = two_rounds().await;
    foreign(&table, |metadata| {
        let id = [("thermocline.table-id".to_owned(), "99".to_owned())];
        metadata.into_builder(None).set_properties(id.into()).unwrap().build().unwrap().metadata
    })
    .await;
    assert_eq!(table.refresh().await.unwrap_err().code(), Code::LakeConflict);
}
