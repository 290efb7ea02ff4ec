//! Tables with a primary key: what commits leave of older rows, against a model of which rows are there.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use futures::TryStreamExt;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, ManifestListWriter,
    ManifestWriterBuilder, Operation,
};
use object_store::path::Path as StorePath;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::ArrowWriter;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roaring::RoaringTreemap;
use thermocline_schemas::{Code, FIELD_ID_KEY};

use super::foreign::{foreign, snapshot, with_snapshot};
use super::*;
use crate::lake::data_files::manifest_list;
use crate::lake::{Ended, LakeFile, LakeInspection, LakeVersion, NamedDeletes, NamedFile};

/// Which rows are there: bucket and offset.
pub(super) type Live = BTreeSet<(u32, u64)>;

/// Writes rows at these offsets of a bucket.
pub(super) async fn write_at(table: &LakeTable, commit: Uuid, at: PartitionBucket, offsets: &[u64]) -> WrittenFile {
    let mut writer = table.file_writer(commit, at).unwrap();
    for some in offsets.chunks(100) {
        writer.write(batch_at(table, at, some.iter().copied())).await.unwrap();
    }
    writer.finish().await.unwrap()
}

/// The rows of `gone`, with where they stand in the files of `base`.
pub(super) async fn ended(table: &LakeTable, base: &LakeVersion, gone: &Live) -> Ended {
    let mut files = Vec::new();
    for file in table.data_files(base).await.unwrap().iter() {
        let offsets = table.file_offsets(file).await.unwrap();
        let of_bucket = gone.range((file.bucket.bucket.0, 0)..=(file.bucket.bucket.0, u64::MAX));
        let found: RoaringTreemap =
            of_bucket.map(|(_, offset)| *offset).filter(|offset| offsets.position(Offset(*offset)).is_some()).collect();
        if !found.is_empty() {
            files.push((file.clone(), offsets.positions(&found).unwrap()));
        }
    }
    assert_eq!(files.iter().map(|(_, positions)| positions.len()).sum::<u64>(), gone.len() as u64);
    Ended { base: base.version, files }
}

/// A round of random rows, some of which cancel out, and of random ends of older ones.
pub(super) async fn random_round(
    table: &LakeTable,
    base: &LakeVersion,
    live: &mut Live,
    random: &mut StdRng,
) -> Append {
    let commit_id = Uuid::new_v4();
    let share = [0.0, 0.02, 0.3, 0.9][random.random_range(0..4)];
    let gone: Live = live.iter().copied().filter(|_| random.random_bool(share)).collect();
    let ended = ended(table, base, &gone).await;
    live.retain(|row| !gone.contains(row));
    let mut end = base.offsets.clone();
    let mut files = Vec::new();
    for number in 0..2 {
        let start = base.offsets.get(bucket(number));
        let rows = random.random_range(0..300);
        end.set(bucket(number), start.plus(rows));
        let left = [0.0, 0.5, 1.0][random.random_range(0..3)];
        let offsets: Vec<u64> = (start.0..start.0 + rows).filter(|_| random.random_bool(left)).collect();
        live.extend(offsets.iter().map(|offset| (number, *offset)));
        let halves = offsets.split_at(random.random_range(0..=offsets.len()));
        for part in [halves.0, halves.1].into_iter().filter(|part| !part.is_empty()) {
            files.push(write_at(table, commit_id, bucket(number), part).await);
        }
    }
    if end == base.offsets {
        end.set(bucket(0), end.get(bucket(0)).plus(1));
    }
    Append {
        commit_id,
        start: base.offsets.clone(),
        end,
        files,
        ended: Some(ended),
        log_starts: Offsets::default(),
        stamps: None,
    }
}

/// Reads a version and holds it against the model and against its own summary.
pub(super) async fn verify_live(table: &LakeTable, live: &Live, what: &str) {
    let version = table.refresh().await.unwrap();
    version.check_history().unwrap();
    let schema = keyed_descriptor(1, &[]).schema;
    let mut found = Live::new();
    let mut totals = BTreeMap::from([("total-data-files", 0), ("total-records", 0), ("total-position-deletes", 0)]);
    let files = table.data_files(&version).await.unwrap();
    for file in files.iter() {
        let deleted = table.deleted_positions(file).await.unwrap();
        assert_eq!(deleted.len(), file.deleted(), "{what}");
        let keep = table.live_positions(file).await.unwrap();
        assert_eq!(keep.as_ref().map_or(file.rows, RoaringTreemap::len), file.live_rows(), "{what}");
        let rows = table.read_positions(file, &schema, keep.as_ref()).await.unwrap();
        for rows in rows.try_collect::<Vec<_>>().await.unwrap() {
            let ids = rows.batch.column(0).as_primitive::<Int64Type>();
            assert_eq!(rows.stamps.rows(), rows.batch.num_rows());
            for (offset, id) in rows.offsets.iter().zip(ids.values()) {
                assert_eq!(offset.0 as i64, *id);
                assert!(found.insert((file.bucket.bucket.0, offset.0)), "{what}: {offset} twice");
            }
        }
        *totals.get_mut("total-data-files").unwrap() += 1;
        *totals.get_mut("total-records").unwrap() += file.rows;
        *totals.get_mut("total-position-deletes").unwrap() += file.deleted();
    }
    assert_eq!(found, *live, "{what}");
    let Some(snapshot) = version.metadata.current_snapshot() else { return };
    let entries = table.snapshot_files(&version).await.unwrap().deletes;
    let targets: BTreeSet<_> = entries.iter().map(|entry| entry.of().unwrap()).collect();
    assert_eq!(targets.len(), entries.len(), "{what}: a data file has one delete entry at most");
    totals.insert("total-delete-files", entries.len() as u64);
    let delete_bytes = entries.iter().map(|entry| match entry.file.content_size_in_bytes() {
        Some(bytes) => bytes as u64,
        None => entry.file.file_size_in_bytes(),
    });
    let bytes = files.iter().map(|file| file.bytes).chain(delete_bytes).sum();
    totals.insert("total-files-size", bytes);
    totals.insert("total-equality-deletes", 0);
    let summary = &snapshot.summary().additional_properties;
    for (name, total) in totals {
        assert_eq!(summary[name], total.to_string(), "{what}: {name}");
    }
    let lists = manifest_list(&table.files, &version).await.unwrap();
    let delete_manifests = lists.iter().filter(|manifest| manifest.content.to_string() == "deletes").count();
    assert!(delete_manifests <= 32, "{what}: {delete_manifests} delete manifests");
}

/// The rows that checks find in the files, without the code that reads them otherwise.
async fn inspected(warehouse: &Warehouse) -> Live {
    let lake = LakeInspection::newest(warehouse, "shop/orders").await.unwrap().unwrap();
    let (mut files, mut deletes) = (Vec::new(), Vec::new());
    for manifest in lake.manifests().await.unwrap() {
        match manifest.deletes {
            true => deletes.extend(lake.deletes(&manifest).await.unwrap()),
            false => files.extend(lake.data_files(&manifest).await.unwrap()),
        }
    }
    let mut deleted = lake.all_deleted(&files, &deletes).await.unwrap();
    let mut live = Live::new();
    for file in &files {
        let deleted = deleted.remove(&file.url).unwrap_or_default();
        let rows = lake.rows_without(file, deleted).await.unwrap();
        for batch in rows.try_collect::<Vec<_>>().await.unwrap() {
            let buckets = lake.column(&batch, "__bucket").unwrap().as_primitive::<Int32Type>().values().to_vec();
            let offsets = lake.column(&batch, "__offset").unwrap().as_primitive::<Int64Type>().values();
            live.extend(buckets.into_iter().zip(offsets).map(|(bucket, offset)| (bucket as u32, *offset as u64)));
        }
    }
    live
}

#[tokio::test]
async fn rows_end_as_the_model_says() {
    for (seed, format) in [(1, "2"), (2, "3"), (3, "2"), (4, "3")] {
        let mut random = StdRng::seed_from_u64(seed);
        let properties = [("buckets", "2"), ("format_version", format)];
        let warehouse = in_memory();
        let mut table = LakeTable::create_or_open(&warehouse, &keyed_descriptor(1, &properties)).await.unwrap();
        let mut live = Live::new();
        for commit in 0..32 {
            let base = table.current();
            let before = live.clone();
            let append = random_round(&table, &base, &mut live, &mut random).await;
            let version = committed(table.append(&append).await.unwrap());
            assert_eq!(version.offsets, append.end);
            let ended_rows = before.difference(&live).count() as u64;
            let operation = match (append.files.is_empty(), ended_rows) {
                (_, 0) => Operation::Append,
                (true, _) => Operation::Delete,
                (false, _) => Operation::Overwrite,
            };
            let summary = version.metadata.current_snapshot().unwrap().summary();
            assert_eq!(summary.operation, operation);
            let count = |name: &str| summary.additional_properties.get(name).map_or(0, |count| count.parse().unwrap());
            assert_eq!(count("added-position-deletes") - count("removed-position-deletes"), ended_rows);
            let (vectors, files) = (count("added-dvs"), count("added-position-delete-files"));
            assert_eq!(count("added-delete-files"), vectors + files);
            assert!(if format == "3" { files == 0 } else { vectors == 0 }, "{vectors} vectors, {files} files");
            verify_live(&table, &live, &format!("seed {seed}, commit {commit}")).await;
            if commit % 6 == 5 {
                assert_eq!(inspected(&warehouse).await, live, "seed {seed}, commit {commit}");
            }
            if random.random_bool(0.1) {
                table = LakeTable::create_or_open(&warehouse, &keyed_descriptor(1, &properties)).await.unwrap();
                verify_live(&table, &live, &format!("seed {seed}, commit {commit}, opened anew")).await;
            }
        }
    }
}

/// Half the life of the table with position deletes, then with vectors, which take over what those said.
#[tokio::test]
async fn an_upgrade_keeps_what_was_deleted() {
    for seed in 0..3 {
        let mut random = StdRng::seed_from_u64(seed);
        let warehouse = in_memory();
        let descriptor = keyed_descriptor(1, &[("buckets", "2")]);
        let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
        let mut live = Live::new();
        for commit in 0..24 {
            if commit == 8 {
                let version = upgrade(&table, &descriptor).await;
                assert_eq!(version.metadata.format_version(), FormatVersion::V3);
                assert_eq!(upgrade(&table, &descriptor).await.version, version.version, "once is enough");
                verify_live(&table, &live, &format!("seed {seed}, upgraded")).await;
            }
            let append = random_round(&table, &table.current(), &mut live, &mut random).await;
            committed(table.append(&append).await.unwrap());
            verify_live(&table, &live, &format!("seed {seed}, commit {commit}")).await;
            if commit % 6 == 5 {
                assert_eq!(inspected(&warehouse).await, live, "seed {seed}, commit {commit}");
            }
        }
        // Rows from before the upgrade have ids too, each its own.
        let files = table.data_files(&table.current()).await.unwrap();
        let mut ids: Vec<_> = files.iter().map(|file| (file.first_row_id.unwrap(), file.rows)).collect();
        ids.sort();
        assert!(ids.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{ids:?}");
    }
}

/// The first vector of a file after an upgrade, and the one after it.
#[tokio::test]
async fn a_new_entry_says_what_the_old_one_said() {
    for (format, upgrades) in [("2", false), ("3", false), ("2", true)] {
        let descriptor = keyed_descriptor(1, &[("format_version", format)]);
        let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
        let mut live: Live = (0..100).map(|offset| (0, offset)).collect();
        let append = round(&table, &table.current(), &[(0, 100)]).await;
        committed(table.append(&append).await.unwrap());
        for (commit, gone) in [&[3, 50][..], &[4, 99], &[0]].into_iter().enumerate() {
            if upgrades && commit == 1 {
                upgrade(&table, &descriptor).await;
            }
            let gone: Live = gone.iter().map(|offset| (0, *offset)).collect();
            let base = table.current();
            let mut end = base.offsets.clone();
            end.set(bucket(0), end.get(bucket(0)).plus(1));
            let ended = Some(ended(&table, &base, &gone).await);
            let append = Append {
                log_starts: Offsets::default(),
                commit_id: Uuid::new_v4(),
                start: base.offsets.clone(),
                end,
                files: vec![],
                ended,
                stamps: None,
            };
            committed(table.append(&append).await.unwrap());
            live.retain(|row| !gone.contains(row));
            verify_live(&table, &live, &format!("version {format}, commit {commit}, upgrades {upgrades}")).await;
        }
    }
}

#[tokio::test]
async fn files_of_a_round_are_disjoint_and_within_it() {
    let table = LakeTable::create_or_open(&in_memory(), &keyed_descriptor(1, &[])).await.unwrap();
    let commit_id = Uuid::new_v4();
    let end = |end: u64| Offsets::from_iter([(bucket(0), Offset(end))]);
    let first = write_at(&table, commit_id, bucket(0), &[2, 3, 9]).await;
    let second = write_at(&table, commit_id, bucket(0), &[10, 14]).await;
    let overlapping = write_at(&table, commit_id, bucket(0), &[8, 12]).await;
    let elsewhere = write_at(&table, commit_id, bucket(1), &[1]).await;
    assert_eq!((first.rows(), first.first_offset, first.end_offset), (3, Offset(2), Offset(10)));
    let good = Append {
        log_starts: Offsets::default(),
        commit_id,
        start: Offsets::default(),
        end: end(20),
        files: vec![second, first],
        ended: None,
        stamps: None,
    };
    for bad in [
        Append { end: end(14), ..good.clone() },
        Append { end: Offsets::default(), ..good.clone() },
        Append { start: end(3), ..good.clone() },
        Append { files: vec![good.files[0].clone(), overlapping.clone()], ..good.clone() },
        Append { files: vec![good.files[0].clone(), elsewhere], ..good.clone() },
        Append { files: vec![good.files[0].clone(), good.files[0].clone()], ..good.clone() },
    ] {
        assert_eq!(table.append(&bad).await.unwrap_err().code(), Code::Internal);
    }
    committed(table.append(&good).await.unwrap());
    // Nothing is left of a round, and nothing ended: its offsets are kept all the same.
    let empty = Append {
        commit_id: Uuid::new_v4(),
        start: end(20),
        end: end(25),
        files: vec![],
        ended: None,
        log_starts: Offsets::default(),
        stamps: None,
    };
    let version = committed(table.append(&empty).await.unwrap());
    assert_eq!(version.offsets, end(25));
    assert_eq!(version.metadata.current_snapshot().unwrap().summary().operation, Operation::Append);
    verify_live(&table, &[2, 3, 9, 10, 14].map(|offset| (0, offset)).into(), "after all").await;

    let mut writer = table.file_writer(commit_id, bucket(0)).unwrap();
    writer.write(batch_at(&table, bucket(0), [30, 40])).await.unwrap();
    assert!(writer.write(batch_at(&table, bucket(0), [40])).await.is_err(), "offsets ascend");
    writer.abort().await;
}

#[tokio::test]
async fn what_cannot_end_is_refused_before_anything_is_written() {
    for format in ["2", "3"] {
        let descriptor = keyed_descriptor(1, &[("format_version", format)]);
        let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
        let append = round(&table, &table.current(), &[(0, 10)]).await;
        let first = committed(table.append(&append).await.unwrap());
        let file = table.data_files(&first).await.unwrap()[0].clone();
        let start = first.offsets.clone();
        let end = Offsets::from_iter([(bucket(0), Offset(11))]);
        let ends = |base: u64, files: Vec<(Arc<LakeFile>, RoaringTreemap)>| {
            let (start, end) = (start.clone(), end.clone());
            Append {
                log_starts: Offsets::default(),
                commit_id: Uuid::new_v4(),
                start,
                end,
                files: vec![],
                ended: Some(Ended { base, files }),
                stamps: None,
            }
        };
        let rows = |rows: &[u64]| rows.iter().copied().collect::<RoaringTreemap>();
        let before = objects(&table).await;
        let mut unknown = (*file).clone();
        unknown.path = StorePath::from("shop/orders/data/another.parquet");
        for bad in [
            vec![(file.clone(), rows(&[10]))],
            vec![(file.clone(), rows(&[1])), (file.clone(), rows(&[2]))],
            vec![(Arc::new(unknown), rows(&[1]))],
        ] {
            let error = table.append(&ends(first.version, bad)).await.unwrap_err();
            assert_eq!(error.code(), Code::Internal, "{error}");
        }
        assert_eq!(objects(&table).await, before);
        // Planned on another version: plan anew.
        let stale = table.append(&ends(first.version - 1, vec![(file.clone(), rows(&[1]))])).await.unwrap();
        assert!(matches!(stale, CommitOutcome::Stale(version) if version.version == first.version));
        // Where nothing ends in fact, there is nothing to delete.
        let version = committed(table.append(&ends(first.version, vec![(file.clone(), rows(&[]))])).await.unwrap());
        assert!(table.snapshot_files(&version).await.unwrap().deletes.is_empty());

        let (start, end) = (version.offsets.clone(), Offsets::from_iter([(bucket(0), Offset(12))]));
        let good = Append { start, end, ..ends(version.version, vec![(file.clone(), rows(&[1, 2]))]) };
        let version = committed(table.append(&good).await.unwrap());
        let twice = table.data_files(&version).await.unwrap()[0].clone();
        let (start, end) = (version.offsets.clone(), Offsets::from_iter([(bucket(0), Offset(13))]));
        let again = Append { start, end, ..ends(version.version, vec![(twice, rows(&[2, 3]))]) };
        let error = table.append(&again).await.unwrap_err();
        assert!(error.code() == Code::Internal && error.message().contains("deleted already"), "{error}");
        // The plan of a commit that landed is done, whatever came after.
        assert!(matches!(table.append(&good).await.unwrap(), CommitOutcome::Committed(_)));
    }
    let log = LakeTable::create_or_open(&in_memory(), &descriptor(1, &[])).await.unwrap();
    let append = round(&log, &log.current(), &[(0, 5)]).await;
    let append = Append { ended: Some(Ended { base: 1, files: vec![] }), ..append };
    assert_eq!(log.append(&append).await.unwrap_err().code(), Code::Internal, "rows of a log table do not end");
}

pub(super) async fn objects(table: &LakeTable) -> BTreeSet<String> {
    let listed: Vec<_> = table.warehouse().store().list(None).try_collect().await.unwrap();
    listed.iter().map(|object| object.location.to_string()).collect()
}

#[tokio::test]
async fn any_foreign_commit_stops_a_table_with_a_key() {
    for operation in [Operation::Replace, Operation::Append, Operation::Delete, Operation::Overwrite] {
        let table =
            LakeTable::create_or_open(&in_memory(), &keyed_descriptor(1, &[("format_version", "2")])).await.unwrap();
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        let name = operation.as_str().to_owned();
        foreign(&table, snapshot(operation)).await;
        let error = table.append(&append).await.unwrap_err();
        assert_eq!(error.code(), Code::LakeConflict);
        assert!(error.message().contains(&format!("foreign {name}")), "{error}");
    }
}

/// Deletes that are of no file, of a later one, of rows that it does not have, or said twice; in another place than the
/// manifest says; none where some are said to be.
#[tokio::test]
async fn checks_refuse_deletes_that_do_not_fit() {
    for format in ["2", "3"] {
        let warehouse = in_memory();
        let descriptor = keyed_descriptor(1, &[("format_version", format)]);
        let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
        let append = round(&table, &table.current(), &[(0, 10)]).await;
        let base = committed(table.append(&append).await.unwrap());
        let gone = [3, 4].map(|offset| (0, offset)).into();
        let end = Offsets::from_iter([(bucket(0), Offset(11))]);
        let ended = Some(ended(&table, &base, &gone).await);
        let append = Append {
            commit_id: Uuid::new_v4(),
            start: base.offsets.clone(),
            end,
            files: vec![],
            ended,
            log_starts: Offsets::default(),
            stamps: None,
        };
        committed(table.append(&append).await.unwrap());

        let lake = LakeInspection::newest(&warehouse, "shop/orders").await.unwrap().unwrap();
        let manifests = lake.manifests().await.unwrap();
        let manifest = |deletes| manifests.iter().find(|manifest| manifest.deletes == deletes).unwrap();
        let files = lake.data_files(manifest(false)).await.unwrap();
        let deletes = lake.deletes(manifest(true)).await.unwrap();
        assert!(lake.data_files(manifest(true)).await.is_err(), "deletes are no data files");
        let found = lake.all_deleted(&files, &deletes).await.unwrap();
        assert_eq!(found[&files[0].url], [3, 4].into_iter().collect());
        let refused = async |files: &[NamedFile], deletes: &[NamedDeletes], says: &str| {
            let error = lake.all_deleted(files, deletes).await.unwrap_err();
            assert!(error.code() == Code::Corrupt && error.to_string().contains(says), "{says}: {error}");
        };
        let twice = [deletes.clone(), deletes.clone()].concat();
        refused(&[], &deletes, "which is not there").await;
        refused(&files, &twice, "deleted before").await;
        let mut short = files[0].clone();
        short.rows = 4;
        refused(&[short], &deletes, "more than it has").await;
        let mut more = deletes[0].clone();
        more.rows += 1;
        refused(&files, &[more], "its manifest says 3").await;
        let mut other = deletes[0].clone();
        other.of = Some("another".to_owned());
        refused(&files, &[other], "is said to be of another").await;
    }
}

/// The key is the schema's identifier fields, and stays so.
#[tokio::test]
async fn the_key_is_told_to_other_engines() {
    let table = LakeTable::create_or_open(&in_memory(), &keyed_descriptor(1, &[])).await.unwrap();
    let ids: Vec<_> = table.current().metadata.current_schema().identifier_field_ids().collect();
    assert_eq!(ids, [1]);
    foreign(&table, |metadata| {
        let mut text = serde_json::to_value(&metadata).unwrap();
        text["schemas"][0].as_object_mut().unwrap().remove("identifier-field-ids");
        serde_json::from_value(text).unwrap()
    })
    .await;
    let append = round(&table, &table.current(), &[(0, 5)]).await;
    let error = table.append(&append).await.unwrap_err();
    assert!(error.code() == Code::LakeConflict && error.message().contains("identifier fields"), "{error}");
}

#[tokio::test]
async fn rows_are_picked_by_position() {
    let table = LakeTable::create_or_open(&in_memory(), &keyed_descriptor(1, &[])).await.unwrap();
    let commit_id = Uuid::new_v4();
    let offsets: Vec<u64> = (0..60_000).map(|row| row * 3 + 7).collect();
    let file = write_at(&table, commit_id, bucket(0), &offsets).await;
    let end = Offsets::from_iter([(bucket(0), Offset(200_000))]);
    let append = Append {
        commit_id,
        start: Offsets::default(),
        end,
        files: vec![file],
        ended: None,
        log_starts: Offsets::default(),
        stamps: None,
    };
    let version = committed(table.append(&append).await.unwrap());
    let file = table.data_files(&version).await.unwrap()[0].clone();
    let schema = keyed_descriptor(1, &[]).schema;
    let pick = async |keep: Option<RoaringTreemap>| {
        let rows = table.read_positions(&file, &schema, keep.as_ref()).await?;
        let rows: Vec<_> = rows.try_collect().await?;
        let ids = rows.iter().flat_map(|rows| rows.batch.column(0).as_primitive::<Int64Type>().values().to_vec());
        let offsets = rows.iter().flat_map(|rows| &rows.offsets);
        assert!(ids.eq(offsets.clone().map(|offset| offset.0 as i64)), "each row with its own offset");
        Ok::<Vec<u64>, thermocline_schemas::Error>(offsets.map(|offset| offset.0).collect())
    };
    assert_eq!(pick(None).await.unwrap(), offsets);
    assert!(pick(Some(RoaringTreemap::new())).await.unwrap().is_empty());
    let some: RoaringTreemap = [0, 1, 2, 8_191, 8_192, 30_000, 59_999].into_iter().collect();
    let expected: Vec<u64> = some.iter().map(|position| offsets[position as usize]).collect();
    assert_eq!(pick(Some(some)).await.unwrap(), expected);
    assert_eq!(pick(Some([60_000].into_iter().collect())).await.unwrap_err().code(), Code::Internal);
    let known = table.file_offsets(&file).await.unwrap();
    assert_eq!((known.rows(), known.row_groups()), (60_000, &[60_000][..]));
    assert_eq!(known.position(Offset(7 + 3 * 41)), Some(41));
    assert!(Arc::ptr_eq(&known, &table.file_offsets(&file).await.unwrap()), "read once");
}

/// Several files that hide rows of one data file, and one that hides rows of many, as other engines write them.
#[tokio::test]
async fn deletes_of_other_engines_are_all_read() {
    let descriptor = keyed_descriptor(1, &[("buckets", "2"), ("format_version", "2")]);
    let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
    for _ in 0..2 {
        let append = round(&table, &table.current(), &[(0, 10), (1, 10)]).await;
        committed(table.append(&append).await.unwrap());
    }
    let files = table.data_files(&table.current()).await.unwrap();
    let urls: Vec<_> = files.iter().map(|file| file.url.clone()).collect();
    let of = |file: usize| Some(urls[file].as_str());
    let entries = vec![
        delete_file(&table, "a", &files[0], of(0), &[(&urls[0], 1), (&urls[0], 2)]).await,
        delete_file(&table, "b", &files[0], of(0), &[(&urls[0], 2), (&urls[0], 5)]).await,
        // Of the whole partition: its rows in any order, twice what is said elsewhere, nothing of the second file.
        delete_file(&table, "c", &files[2], None, &[(&urls[2], 7), (&urls[2], 0), (&urls[2], 7)]).await,
    ];
    add_deletes(&table, entries).await;
    let version = table.refresh().await.unwrap();
    let files = table.data_files(&version).await.unwrap();
    assert_eq!(files.iter().map(|file| file.deleted()).collect::<Vec<_>>(), [3, 0, 2, 0]);
    assert_eq!(files.iter().map(|file| file.live_rows()).collect::<Vec<_>>(), [7, 10, 8, 10]);
    for (file, expected) in files.iter().zip([&[1, 2, 5][..], &[], &[0, 7], &[]]) {
        let found = table.deleted_positions(file).await.unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    }
    // Where the numbers do not agree, rows are not shown on a guess.
    for (name, rows, said) in [("d", &[(urls[1].as_str(), 3)][..], 2), ("e", &[(urls[1].as_str(), 10)], 1)] {
        let table = LakeTable::create_or_open(table.warehouse(), &descriptor).await.unwrap();
        let mut entry = delete_file(&table, name, &files[1], of(1), rows).await;
        if said != rows.len() {
            entry = rebuilt(&entry, said as u64);
        }
        add_deletes(&table, vec![entry]).await;
        let version = table.refresh().await.unwrap();
        let read = async {
            let files = table.data_files(&version).await?;
            table.deleted_positions(&files[1]).await
        };
        assert_eq!(read.await.unwrap_err().code(), Code::Corrupt, "{name}");
    }
}

fn rebuilt(entry: &DataFile, records: u64) -> DataFile {
    let mut builder = DataFileBuilder::default();
    builder.content(entry.content_type()).file_path(entry.file_path().to_owned()).file_format(entry.file_format());
    builder.partition(entry.partition().clone()).file_size_in_bytes(entry.file_size_in_bytes());
    builder.referenced_data_file(entry.referenced_data_file()).record_count(records).build().unwrap()
}

/// A position-delete file in the partition of `beside`.
async fn delete_file(
    table: &LakeTable,
    name: &str,
    beside: &LakeFile,
    of: Option<&str>,
    rows: &[(&str, i64)],
) -> DataFile {
    let field = |name: &str, data_type: DataType, id: i32| {
        Field::new(name, data_type, false).with_metadata([(FIELD_ID_KEY.to_owned(), id.to_string())].into())
    };
    let schema = Arc::new(Schema::new(vec![
        field("pos", DataType::Int64, 2_147_483_545),
        field("file_path", DataType::Utf8, 2_147_483_546),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, position)| *position))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(path, _)| *path))),
    ];
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), None).unwrap();
    writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    let bytes = writer.into_inner().unwrap();
    let path = StorePath::from(format!("shop/orders/data/{name}.parquet"));
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::PositionDeletes)
        .file_path(table.warehouse().url(&path))
        .file_format(DataFileFormat::Parquet)
        .partition(table.layout().partition(beside.bucket).unwrap())
        .record_count(rows.len() as u64)
        .file_size_in_bytes(bytes.len() as u64)
        .referenced_data_file(of.map(str::to_owned));
    table.warehouse().store().put(&path, PutPayload::from(bytes)).await.unwrap();
    builder.build().unwrap()
}

/// Commits a snapshot with these delete files beside all that is there.
async fn add_deletes(table: &LakeTable, entries: Vec<DataFile>) {
    let base = table.refresh().await.unwrap();
    let current = &base.metadata;
    let memory = FileIO::new_with_memory();
    let store = table.warehouse().store();
    let save = async |url: &str| {
        let bytes = memory.new_input(url).unwrap().read().await.unwrap();
        store.put(&table.warehouse().path(url).unwrap(), PutPayload::from(bytes)).await.unwrap();
    };
    let url = |name: &str| table.warehouse().url(&table.files.in_metadata(&format!("{name}-{}.avro", Uuid::new_v4())));
    let (manifest_url, list_url) = (url("foreign"), url("snap"));
    let snapshot_id = current.current_snapshot_id().unwrap() / 2 + 7;
    let (schema, spec) = (current.current_schema().clone(), (**current.default_partition_spec()).clone());
    let output = memory.new_output(&manifest_url).unwrap();
    let mut writer = ManifestWriterBuilder::new(output, Some(snapshot_id), schema, spec).build_v2_deletes();
    for entry in entries {
        writer.add_file(entry, -1).unwrap();
    }
    let manifest = writer.write_manifest_file().await.unwrap();
    save(&manifest_url).await;
    let output = memory.new_output(&list_url).unwrap().writer().await.unwrap();
    let sequence = current.next_sequence_number();
    let mut list = ManifestListWriter::v2(output, snapshot_id, current.current_snapshot_id(), sequence);
    let earlier = manifest_list(&table.files, &base).await.unwrap();
    list.add_manifests(earlier.into_iter().chain([manifest])).unwrap();
    list.close().await.unwrap();
    save(&list_url).await;
    foreign(table, |metadata| with_snapshot(metadata, snapshot_id, Operation::Delete, list_url)).await;
}
