//! Files written anew: rows, deletes, lineage and counts are what they were, whatever is committed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use iceberg::spec::{FormatVersion, Operation};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use thermocline_schemas::{Code, FIELD_ID_KEY};

use super::deletes::{Live, ended, objects, random_round, verify_live, write_at};
use super::foreign::{foreign, snapshot};
use super::*;
use crate::faulty_store::{Fault, FaultyStore};
use crate::lake::data_files::manifest_list;
use crate::lake::{LakeFile, Rewrite};

const ROW_ID: i32 = 2_147_483_540;
const LAST_UPDATED: i32 = 2_147_483_539;

pub(super) type Lineage = BTreeMap<(u32, u64), (Option<i64>, Option<i64>)>;

/// Writes these runs of the files of `base` anew, and commits nothing.
pub(super) async fn rewritten(table: &LakeTable, base: &Arc<LakeVersion>, runs: &[Vec<Arc<LakeFile>>]) -> Rewrite {
    let mut rewrite = Rewrite::new(Uuid::new_v4(), base.clone());
    for run in runs {
        rewrite
            .runs
            .push(table.write_anew(rewrite.commit_id, base, run, &table.arrow_schema(), || Ok(())).await.unwrap());
    }
    rewrite
}

/// All files of each bucket as one run.
pub(super) async fn all_runs(table: &LakeTable, base: &LakeVersion) -> Vec<Vec<Arc<LakeFile>>> {
    let files = table.data_files(base).await.unwrap();
    files.chunk_by(|left, right| left.bucket == right.bucket).map(<[_]>::to_vec).collect()
}

/// Some files in a row, of some buckets.
async fn random_runs(table: &LakeTable, base: &LakeVersion, random: &mut StdRng) -> Vec<Vec<Arc<LakeFile>>> {
    let mut runs = all_runs(table, base).await;
    for run in &mut runs {
        let start = random.random_range(0..run.len());
        let end = random.random_range(start..=run.len());
        *run = run[start..end].to_vec();
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// The columns of a file of rows, and the rows, by field id.
async fn columns(table: &LakeTable, file: &LakeFile) -> (Vec<String>, Vec<BTreeMap<i32, ArrayRef>>) {
    let bytes = table.warehouse().store().get(&file.path).await.unwrap().bytes().await.unwrap();
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).unwrap();
    let names = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let reader: ParquetRecordBatchReader = builder.build().unwrap();
    let by_id = |batch: RecordBatch| {
        let fields = batch.schema();
        let ids = fields.fields().iter().map(|field| field.metadata()[FIELD_ID_KEY].parse::<i32>().unwrap());
        ids.zip(batch.columns().to_vec()).collect()
    };
    (names, reader.map(|batch| by_id(batch.unwrap())).collect())
}

/// What another engine would read of every living row, by the rules of the specification.
pub(super) async fn lineage(table: &LakeTable) -> Lineage {
    let version = table.refresh().await.unwrap();
    let offset_id = table.layout().offset_id().0;
    let mut found = Lineage::new();
    for file in table.data_files(&version).await.unwrap().iter() {
        let deleted = table.deleted_positions(file).await.unwrap();
        let mut position = 0;
        for batch in columns(table, file).await.1 {
            let offsets = batch[&offset_id].as_primitive::<Int64Type>();
            let stored = |id: i32, row: usize| {
                let column = batch.get(&id)?.as_primitive::<Int64Type>();
                arrow::array::Array::is_valid(column, row).then(|| column.value(row))
            };
            for (row, offset) in offsets.values().iter().enumerate() {
                let inherited = file.first_row_id.map(|first| (first + position) as i64);
                let one = (
                    stored(ROW_ID, row).or(inherited),
                    stored(LAST_UPDATED, row).or(inherited.map(|_| file.data_sequence)),
                );
                if !deleted.contains(position) {
                    assert!(found.insert((file.bucket.bucket.0, *offset as u64), one).is_none());
                }
                position += 1;
            }
        }
    }
    found
}

pub(super) fn assert_apart(lineage: &Lineage, version: &LakeVersion) {
    let ids: BTreeSet<_> = lineage.values().map(|(id, _)| id.expect("every row has an id")).collect();
    assert_eq!(ids.len(), lineage.len(), "an id each");
    assert!(ids.last().is_none_or(|last| (*last as u64) < version.metadata.next_row_id()));
}

/// Rounds, and rewrites of which some are committed rounds later, in both formats.
#[tokio::test]
async fn rows_and_deletes_are_those_of_the_model() {
    let (mut late, mut early) = (0, 0);
    for (seed, format) in [(1, "2"), (2, "3"), (3, "2"), (4, "3")] {
        let mut random = StdRng::seed_from_u64(seed);
        let properties = [("buckets", "2"), ("format_version", format)];
        let warehouse = in_memory();
        let mut table = LakeTable::create_or_open(&warehouse, &keyed_descriptor(1, &properties)).await.unwrap();
        let mut live = Live::new();
        let mut known = Lineage::new();
        let mut written: Option<Rewrite> = None;
        for step in 0..60 {
            let what = format!("seed {seed}, step {step}");
            match random.random_range(0..6) {
                0 if written.is_none() => {
                    let base = table.refresh().await.unwrap();
                    let runs = random_runs(&table, &base, &mut random).await;
                    if !runs.is_empty() {
                        written = Some(rewritten(&table, &base, &runs).await);
                    }
                }
                0 | 1 if written.is_some() => {
                    let rewrite = written.take().unwrap();
                    let before = table.refresh().await.unwrap();
                    let version = committed(table.replace(&rewrite).await.unwrap());
                    if version.version > rewrite.base.version + 1 {
                        late += 1
                    } else {
                        early += 1
                    }
                    assert_eq!((version.version, &version.offsets), (before.version + 1, &before.offsets));
                    let summary = version.metadata.current_snapshot().unwrap().summary().clone();
                    assert_eq!(summary.operation, Operation::Replace);
                    let count = |name: &str| -> u64 {
                        summary.additional_properties.get(name).map_or(0, |count| count.parse().unwrap())
                    };
                    let files = |run: &crate::lake::RewrittenRun| run.replaced.len() as u64;
                    assert_eq!(count("deleted-data-files"), rewrite.runs.iter().map(files).sum::<u64>());
                    let gone = rewrite.runs.iter().flat_map(|run| &run.replaced).map(|file| file.rows).sum::<u64>();
                    assert_eq!(count("deleted-records"), gone);
                    // Again, and it is known.
                    let again = committed(table.replace(&rewrite).await.unwrap());
                    assert_eq!(again.version, version.version);
                }
                2 if random.random_bool(0.2) => {
                    let descriptor = keyed_descriptor(1, &properties);
                    table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
                }
                _ => {
                    let base = table.refresh().await.unwrap();
                    let append = random_round(&table, &base, &mut live, &mut random).await;
                    committed(table.append(&append).await.unwrap());
                }
            }
            verify_live(&table, &live, &what).await;
            if format == "3" {
                // A row never changes its id nor the number of the commit that wrote it.
                let found = lineage(&table).await;
                for (row, lineage) in &found {
                    assert_eq!(known.get(row).unwrap_or(lineage), lineage, "{what}: row {row:?}");
                }
                assert_apart(&found, &table.current());
                known.extend(found);
            }
        }
    }
    assert!(late > 8 && early + late > 16, "{early} at once, {late} later");
}

/// By the letter: of rows of rounds, of rows that were written anew, and of those that were twice.
#[tokio::test]
async fn lineage_outlives_two_rewrites() {
    for is_keyed in [false, true] {
        let of = if is_keyed { keyed_descriptor } else { descriptor };
        let table = LakeTable::create_or_open(&in_memory(), &of(1, &[("format_version", "3")])).await.unwrap();
        let mut expected = Lineage::new();
        let add = async |rows: u64| {
            let append = round(&table, &table.current(), &[(0, rows)]).await;
            committed(table.append(&append).await.unwrap())
        };
        for number in 0..4_u64 {
            let version = add(5).await;
            let sequence = version.metadata.current_snapshot().unwrap().sequence_number();
            assert_eq!(sequence, number as i64 + 1);
            for row in number * 5..number * 5 + 5 {
                expected.insert((0, row), (Some(row as i64), Some(sequence)));
            }
        }
        assert_eq!(lineage(&table).await, expected);
        let base = table.current();
        let files = table.data_files(&base).await.unwrap();
        let rewrite = rewritten(&table, &base, &[files[1..3].to_vec()]).await;
        let version = committed(table.replace(&rewrite).await.unwrap());
        assert_eq!(lineage(&table).await, expected);
        // Rows that are written anew take a range that nobody uses: see `snapshot`.
        assert_eq!(version.metadata.next_row_id(), 30);
        let version = add(5).await;
        assert_eq!(version.metadata.next_row_id(), 35);
        expected.extend((20..25).map(|row| ((0, row), (Some(row as i64 + 10), Some(6)))));
        assert_eq!(lineage(&table).await, expected);
        let rewrite = rewritten(&table, &version, &all_runs(&table, &version).await).await;
        let version = committed(table.replace(&rewrite).await.unwrap());
        assert_eq!(lineage(&table).await, expected);
        let files = table.data_files(&version).await.unwrap();
        let [file] = &files[..] else { panic!("{} files", files.len()) };
        let (names, _) = columns(&table, file).await;
        assert_eq!(names[names.len() - 2..], ["_row_id", "_last_updated_sequence_number"]);

        // Readers of ours find their columns, and no others.
        let schema = of(1, &[]).schema;
        let rows: Vec<_> = table.read_positions(file, &schema, None).await.unwrap().map(Result::unwrap).collect().await;
        assert_eq!((rows[0].batch.num_columns(), rows[0].batch.num_rows()), (2, 25));
        table.check_file(file, &schema).await.unwrap();
        if !is_keyed {
            verify(&table).await;
        }
    }
}

/// A user's column that is called like one of lineage's is not mixed up with it.
#[tokio::test]
async fn a_column_of_the_same_name_stays_the_users() {
    let columns_of = [("id".to_owned(), ColumnType::Int64, false), ("_ROW_id".to_owned(), ColumnType::Int64, true)];
    let properties = Properties::parse([("format_version", "3")]).unwrap();
    let name = TableName::parse("shop", "orders").unwrap();
    let schema = TableSchema::new(columns_of).unwrap();
    let descriptor = TableDescriptor::new(TableId(1), name, schema, &[], properties, 1_000).unwrap();
    let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
    for first in [0, 2] {
        let commit_id = Uuid::new_v4();
        let mut writer = table.file_writer(commit_id, bucket(0)).unwrap();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![first, first + 1])),
            Arc::new(Int64Array::from(vec![Some(77), None])),
            Arc::new(Int32Array::from(vec![0, 0])),
            Arc::new(Int64Array::from(vec![first, first + 1])),
            Arc::new(TimestampMicrosecondArray::from(vec![1, 1]).with_timezone("UTC")),
        ];
        writer.write(RecordBatch::try_new(table.arrow_schema(), columns).unwrap()).await.unwrap();
        let file = writer.finish().await.unwrap();
        let end = Offsets::from_iter([(bucket(0), Offset(first as u64 + 2))]);
        let append = Append {
            log_starts: Offsets::default(),
            commit_id,
            start: table.current().offsets.clone(),
            end,
            files: vec![file],
            ended: None,
            stamps: None,
        };
        committed(table.append(&append).await.unwrap());
    }
    let before = lineage(&table).await;
    for _ in 0..2 {
        let base = table.current();
        let rewrite = rewritten(&table, &base, &all_runs(&table, &base).await).await;
        let version = committed(table.replace(&rewrite).await.unwrap());
        assert_eq!(lineage(&table).await, before);
        let file = table.data_files(&version).await.unwrap()[0].clone();
        let (names, rows) = columns(&table, &file).await;
        assert_eq!(names[1], "_ROW_id");
        assert_eq!(names[5..], ["__row_id", "_last_updated_sequence_number"]);
        let own = rows[0][&2].as_primitive::<Int64Type>();
        assert_eq!(own.iter().collect::<Vec<_>>(), [Some(77), None, Some(77), None]);
    }
}

/// Of a log table the new file is the range of the old ones; in format version 2 it has no lineage.
#[tokio::test]
async fn log_tables_stay_dense_and_in_order() {
    for format in ["2", "3"] {
        let properties = [("buckets", "3"), ("format_version", format)];
        let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &properties)).await.unwrap();
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..12 {
            let adds: Vec<_> = (0..3).map(|bucket| (bucket, random.random_range(1..50))).collect();
            let append = round(&table, &table.current(), &adds).await;
            committed(table.append(&append).await.unwrap());
        }
        let offsets = verify(&table).await;
        while table.data_files(&table.current()).await.unwrap().len() > 3 {
            let base = table.current();
            let runs = random_runs(&table, &base, &mut random).await;
            // A round is committed while files are written anew.
            let rewrite = rewritten(&table, &base, &runs).await;
            let files = rewrite.runs.iter().map(|run| run.replaced.len() - 1).sum::<usize>();
            let before = table.data_files(&base).await.unwrap().len();
            let version = committed(table.replace(&rewrite).await.unwrap());
            assert_eq!(table.data_files(&version).await.unwrap().len(), before - files);
            assert_eq!(verify(&table).await, offsets);
        }
        let version = table.current();
        for file in table.data_files(&version).await.unwrap().iter() {
            let (names, _) = columns(&table, file).await;
            assert_eq!(names.contains(&"_row_id".to_owned()), format == "3", "{names:?}");
        }
        // The next commit carries nothing that only says what is gone.
        let append = round(&table, &version, &[(0, 1)]).await;
        let version = committed(table.append(&append).await.unwrap());
        let manifests = manifest_list(&table.files, &version).await.unwrap();
        assert!(manifests.iter().all(|manifest| manifest.has_added_files() || manifest.has_existing_files()));
        assert!(manifests.len() <= 4, "{}", manifests.len());
    }
}

/// A list of manifests says how many files and rows are in each, and each manifest says the same.
#[tokio::test]
async fn manifests_are_brought_together() {
    let properties = [("buckets", "4"), ("format_version", "3")];
    let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &properties)).await.unwrap();
    for _ in 0..5 {
        let append = round(&table, &table.current(), &[(0, 3), (1, 4), (2, 5), (3, 6)]).await;
        committed(table.append(&append).await.unwrap());
    }
    let before = lineage(&table).await;
    let base = table.current();
    let runs = all_runs(&table, &base).await;
    let rewrite = rewritten(&table, &base, &runs[1..2]).await;
    let version = committed(table.replace(&rewrite).await.unwrap());
    let manifests = manifest_list(&table.files, &version).await.unwrap();
    let counts = |manifest: &iceberg::spec::ManifestFile| {
        (
            manifest.added_files_count.unwrap(),
            manifest.existing_files_count.unwrap(),
            manifest.deleted_files_count.unwrap(),
        )
    };
    assert_eq!(manifests.iter().map(counts).collect::<Vec<_>>(), [(1, 0, 0), (0, 15, 5)]);
    assert_eq!(manifests[1].existing_rows_count, Some(5 * 14));
    assert_eq!(lineage(&table).await, before);
    // Also when what stays is touched once more.
    let rewrite = rewritten(&table, &version, &[runs[2].clone(), runs[0][..2].to_vec()]).await;
    let version = committed(table.replace(&rewrite).await.unwrap());
    let manifests = manifest_list(&table.files, &version).await.unwrap();
    assert_eq!(manifests.iter().map(counts).collect::<Vec<_>>(), [(2, 0, 0), (0, 8, 7), (1, 0, 0)]);
    assert_eq!(lineage(&table).await, before);
    verify(&table).await;
    let reopened = LakeTable::create_or_open(table.warehouse(), &descriptor(1, &properties)).await.unwrap();
    assert_eq!(lineage(&reopened).await, before);
}

/// Rows from before the table had ids get theirs by the rewrite, or had them before it and keep them.
#[tokio::test]
async fn an_upgrade_gives_rows_their_ids_once() {
    for rounds_after in [0, 1] {
        let descriptor = descriptor(1, &[("buckets", "2")]);
        let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
        for _ in 0..3 {
            let append = round(&table, &table.current(), &[(0, 5), (1, 7)]).await;
            committed(table.append(&append).await.unwrap());
        }
        let base = table.current();
        let early = rewritten(&table, &base, &all_runs(&table, &base).await).await;
        let upgraded = upgrade(&table, &descriptor).await;
        assert_eq!(upgraded.metadata.format_version(), FormatVersion::V3);
        assert!(matches!(table.replace(&early).await.unwrap(), CommitOutcome::Stale(_)), "it has no lineage");
        let without = rewritten(&table, &upgraded, &all_runs(&table, &upgraded).await[..1]).await;
        for _ in 0..rounds_after {
            let append = round(&table, &table.current(), &[(0, 5), (1, 7)]).await;
            committed(table.append(&append).await.unwrap());
        }
        let known = lineage(&table).await;
        let outcome = table.replace(&without).await.unwrap();
        if rounds_after == 0 {
            committed(outcome);
        } else {
            assert!(matches!(outcome, CommitOutcome::Stale(_)), "its rows have ids by now");
        }
        let version = table.current();
        let after = lineage(&table).await;
        assert_apart(&after, &version);
        if rounds_after > 0 {
            assert_eq!(after, known);
        }
        let rewrite = rewritten(&table, &version, &all_runs(&table, &version).await).await;
        committed(table.replace(&rewrite).await.unwrap());
        assert_eq!(lineage(&table).await, after);
        verify(&table).await;
    }
}

#[tokio::test]
async fn files_that_are_gone_make_a_rewrite_stale() {
    let table = LakeTable::create_or_open(&in_memory(), &keyed_descriptor(1, &[])).await.unwrap();
    for _ in 0..4 {
        let append = round(&table, &table.current(), &[(0, 10)]).await;
        committed(table.append(&append).await.unwrap());
    }
    let live: Live = (0..40).map(|offset| (0, offset)).collect();
    let base = table.current();
    let files = table.data_files(&base).await.unwrap();
    let first = rewritten(&table, &base, &[files[0..2].to_vec()]).await;
    let second = rewritten(&table, &base, &[files[1..3].to_vec()]).await;
    let third = rewritten(&table, &base, &[files[2..4].to_vec()]).await;
    committed(table.replace(&first).await.unwrap());
    let before = objects(&table).await;
    let CommitOutcome::Stale(at) = table.replace(&second).await.unwrap() else { panic!("a file is gone") };
    assert_eq!((at.version, &objects(&table).await), (table.current().version, &before));
    committed(table.replace(&third).await.unwrap());
    verify_live(&table, &live, "after two").await;

    // Somebody rolled the table back: what was dead lives again, and the rewrite does not have it.
    let gone: Live = [(0, 3), (0, 17)].into();
    let base = table.current();
    let end = Offsets::from_iter([(bucket(0), Offset(41))]);
    let ended = ended(&table, &base, &gone).await;
    let append = Append {
        log_starts: Offsets::default(),
        commit_id: Uuid::new_v4(),
        start: base.offsets.clone(),
        end,
        files: vec![],
        ended: Some(ended),
        stamps: None,
    };
    let version = committed(table.append(&append).await.unwrap());
    let rewrite = rewritten(&table, &version, &all_runs(&table, &version).await).await;
    assert_eq!(rewrite.runs[0].written.as_ref().unwrap().file.rows(), 38);
    let before = table.data_files(&base).await.unwrap();
    let mut revived = rewrite.clone();
    revived.base = base.clone();
    assert!(before.iter().all(|file| file.deletes.is_none()));
    let store = table.warehouse().store();
    let path = table.warehouse().path(&base.metadata_url).unwrap();
    let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
    let next = table.warehouse().path(&version.metadata_url).unwrap().to_string();
    let next = next.replace(&format!("v{}.", version.version), &format!("v{}.", version.version + 1));
    store.put(&next.into(), bytes.into()).await.unwrap();
    assert!(matches!(table.replace(&revived).await.unwrap(), CommitOutcome::Stale(_)));
}

/// A process that slept for half of the time that orphans are kept, or whose clock went back.
#[tokio::test]
async fn a_rewrite_that_slept_commits_nothing() {
    let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &[])).await.unwrap();
    for _ in 0..2 {
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
    }
    let base = table.current();
    let rewrite = rewritten(&table, &base, &all_runs(&table, &base).await).await;
    let before = objects(&table).await;
    for minutes in [31, 60 * 24] {
        let slept = rewrite.clone().aged(Duration::from_secs(60 * minutes));
        assert!(matches!(table.replace(&slept).await.unwrap(), CommitOutcome::Stale(_)), "{minutes}");
    }
    assert_eq!(objects(&table).await, before);
    committed(table.replace(&rewrite.aged(Duration::from_secs(60 * 29))).await.unwrap());
}

#[tokio::test]
async fn a_rewrite_that_does_not_fit_is_refused_before_anything_is_written() {
    for is_keyed in [false, true] {
        let of = if is_keyed { keyed_descriptor } else { descriptor };
        let table = LakeTable::create_or_open(&in_memory(), &of(1, &[("buckets", "2")])).await.unwrap();
        for _ in 0..3 {
            let append = round(&table, &table.current(), &[(0, 5), (1, 5)]).await;
            committed(table.append(&append).await.unwrap());
        }
        let base = table.current();
        let runs = all_runs(&table, &base).await;
        let good = rewritten(&table, &base, &runs).await;
        let before = objects(&table).await;
        let changed = |change: &dyn Fn(&mut Rewrite)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad
        };
        let bad = [
            changed(&|rewrite| rewrite.runs[0].replaced.truncate(2)),
            changed(&|rewrite| rewrite.runs[0].replaced.clear()),
            changed(&|rewrite| rewrite.runs[0].replaced.reverse()),
            changed(&|rewrite| rewrite.runs[0].written = None),
            changed(&|rewrite| rewrite.runs[0].written = rewrite.runs[1].written.clone()),
            changed(&|rewrite| rewrite.runs[0].replaced[1] = rewrite.runs[1].replaced[1].clone()),
            changed(&|rewrite| rewrite.runs.push(rewrite.runs[0].clone())),
        ];
        for (number, bad) in bad.iter().enumerate() {
            assert_eq!(table.replace(bad).await.unwrap_err().code(), Code::Internal, "{number}");
        }
        assert_eq!(objects(&table).await, before);
        committed(table.replace(&good).await.unwrap());
        // Who asks to stop is heard.
        let base = table.current();
        let stop = || Err(thermocline_schemas::Error::new(Code::ShuttingDown, "enough"));
        let before = objects(&table).await;
        let stopped = table
            .write_anew(Uuid::new_v4(), &base, &all_runs(&table, &base).await[0], &table.arrow_schema(), stop)
            .await;
        assert_eq!(stopped.unwrap_err().code(), Code::ShuttingDown);
        assert_eq!(objects(&table).await, before, "what was sent of the file is taken back");
    }
}

/// A foreign rewrite of a log table is built on, and what it left in another order is no reason to lose a row.
#[tokio::test]
async fn a_foreign_rewrite_is_rewritten() {
    let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &[])).await.unwrap();
    for _ in 0..3 {
        let append = round(&table, &table.current(), &[(0, 5)]).await;
        committed(table.append(&append).await.unwrap());
    }
    foreign(&table, snapshot(Operation::Replace)).await;
    let base = table.refresh().await.unwrap();
    let rewrite = rewritten(&table, &base, &all_runs(&table, &base).await).await;
    let version = committed(table.replace(&rewrite).await.unwrap());
    version.check_history().unwrap();
    assert_eq!(verify(&table).await.get(bucket(0)), Offset(15));
}

/// A rewrite whose rows all ended, before or while it was under way.
#[tokio::test]
async fn of_files_of_which_nothing_lives_nothing_stays() {
    for format in ["2", "3"] {
        let descriptor = keyed_descriptor(1, &[("format_version", format)]);
        let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
        let commit_id = Uuid::new_v4();
        let files = vec![
            write_at(&table, commit_id, bucket(0), &[0, 4]).await,
            write_at(&table, commit_id, bucket(0), &[7, 9, 11]).await,
        ];
        let end = |end| Offsets::from_iter([(bucket(0), Offset(end))]);
        let append = Append {
            commit_id,
            start: Offsets::default(),
            end: end(12),
            files,
            ended: None,
            log_starts: Offsets::default(),
            stamps: None,
        };
        let version = committed(table.append(&append).await.unwrap());
        let end_rows = async |base: &LakeVersion, next: u64, gone: &[u64]| {
            let gone = gone.iter().map(|offset| (0, *offset)).collect();
            let ended = Some(ended(&table, base, &gone).await);
            let (commit_id, start) = (Uuid::new_v4(), base.offsets.clone());
            committed(
                table
                    .append(&Append {
                        commit_id,
                        start,
                        end: end(next),
                        files: vec![],
                        ended,
                        log_starts: Offsets::default(),
                        stamps: None,
                    })
                    .await
                    .unwrap(),
            )
        };
        let base = end_rows(&version, 13, &[0, 4]).await;
        let runs = table.data_files(&base).await.unwrap();
        let runs = [vec![runs[0].clone()], vec![runs[1].clone()]];
        let rewrite = rewritten(&table, &base, &runs).await;
        assert!(rewrite.runs[0].written.is_none());
        // While the second is under way, all that it has ends.
        end_rows(&base, 14, &[7, 9, 11]).await;
        let version = committed(table.replace(&rewrite).await.unwrap());
        verify_live(&table, &Live::new(), "all gone").await;
        let files = table.data_files(&version).await.unwrap();
        assert_eq!(files.iter().map(|file| (file.rows, file.deleted())).collect::<Vec<_>>(), [(3, 3)]);
        let rewrite = rewritten(&table, &version, &[files.to_vec()]).await;
        let version = committed(table.replace(&rewrite).await.unwrap());
        assert!(table.data_files(&version).await.unwrap().is_empty());
        verify_live(&table, &Live::new(), "no file").await;
    }
}

/// What a round and a rewrite that began before it did on a store that lost something.
struct Faulty {
    store: Arc<FaultyStore>,
    warehouse: Warehouse,
    descriptor: TableDescriptor,
    /// Where the rewrite's calls began.
    begun: usize,
    live: Live,
    rewrite: Option<Rewrite>,
}

impl Faulty {
    /// With `fault` at one call, if it is said at which, counted from the rewrite's first.
    async fn run(format: &str, strike: Option<(usize, Fault)>) -> Faulty {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        let warehouse = Warehouse::with_store("s3://bucket/lake", store.clone());
        let descriptor = keyed_descriptor(1, &[("format_version", format)]);
        let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
        let mut live = Live::new();
        let next = async |live: &mut Live, gone: &[u64]| {
            let base = table.refresh().await.unwrap();
            let gone: Live = gone.iter().map(|offset| (0, *offset)).collect();
            let ended = Some(ended(&table, &base, &gone).await);
            live.retain(|row| !gone.contains(row));
            let append = round(&table, &base, &[(0, 5)]).await;
            live.extend((append.start.get(bucket(0)).0..append.end.get(bucket(0)).0).map(|offset| (0, offset)));
            committed(table.append(&Append { ended, ..append }).await.unwrap());
        };
        next(&mut live, &[]).await;
        next(&mut live, &[1]).await;
        next(&mut live, &[2, 8]).await;
        let base = table.current();
        let runs = all_runs(&table, &base).await;
        let begun = store.calls().len();
        // A fault of the round is not what this is about.
        let at = |call: usize| store.calls().len() - begun <= call;
        if let Some((call, fault)) = strike {
            store.strike(begun + call, fault);
        }
        let commit_id = Uuid::new_v4();
        let written = table.write_anew(commit_id, &base, &runs[0], &table.arrow_schema(), || Ok(())).await;
        let rewrite = written.ok().map(|run| {
            let mut rewrite = Rewrite::new(commit_id, base);
            rewrite.runs.push(run);
            rewrite
        });
        let is_to_come = strike.is_some_and(|(call, _)| at(call));
        let before = store.calls().len();
        store.strike(usize::MAX, Fault::RequestLost);
        next(&mut live, &[3, 12]).await;
        let between = store.calls().len() - before;
        if let Some((call, fault)) = strike.filter(|_| is_to_come) {
            store.strike(begun + between + call, fault);
        }
        if let Some(rewrite) = &rewrite {
            // Whether it landed is what is looked at.
            let _ = table.replace(rewrite).await;
        }
        let begun = begun + between;
        Faulty { store, warehouse, descriptor, begun, live, rewrite }
    }
}

/// Every fault at every call of a rewrite: it lands once or not at all, and the table goes on.
#[tokio::test]
async fn faults_of_the_store_lose_nothing_and_double_nothing() {
    let mut faults = 0;
    let mut calls = Vec::new();
    for format in ["2", "3"] {
        let sound = Faulty::run(format, None).await;
        calls.push((format, sound.store.calls()[sound.begun..].to_vec()));
    }
    for (which, (format, calls)) in calls.into_iter().enumerate() {
        for (call, kind) in calls.into_iter().enumerate() {
            for fault in kind.faults().iter().skip((call + which) % 2).step_by(2) {
                let what = format!("format {format}, call {call} ({kind:?}), {fault:?}");
                let Faulty { store, warehouse, descriptor, live, rewrite, .. } =
                    Faulty::run(format, Some((call, *fault))).await;
                store.strike(usize::MAX, *fault);
                store.settle().await;
                let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
                verify_live(&table, &live, &what).await;
                if let Some(rewrite) = rewrite {
                    let again = table.replace(&rewrite).await.unwrap();
                    assert!(matches!(again, CommitOutcome::Committed(_)), "{what}");
                    verify_live(&table, &live, &what).await;
                    assert_eq!(table.data_files(&table.current()).await.unwrap().len(), 2, "{what}");
                }
                faults += 1;
            }
        }
    }
    assert!(faults > 100, "{faults}");
}

/// Two writers of rewrites and a writer of rounds, on one table opened twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn rewrites_race_rounds_and_each_other() {
    for format in ["2", "3"] {
        let warehouse = in_memory();
        let descriptor = keyed_descriptor(1, &[("buckets", "2"), ("format_version", format)]);
        let table = Arc::new(LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap());
        let rewriters: Vec<_> = (0..2)
            .map(|seed| {
                let (warehouse, descriptor) = (warehouse.clone(), descriptor.clone());
                tokio::spawn(async move {
                    let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
                    let mut random = StdRng::seed_from_u64(seed);
                    let (mut done, mut stale) = (0, 0);
                    while done < 6 {
                        let base = table.refresh().await.unwrap();
                        let runs = random_runs(&table, &base, &mut random).await;
                        let Some(run) = runs.choose(&mut random) else {
                            tokio::task::yield_now().await;
                            continue;
                        };
                        let rewrite = rewritten(&table, &base, std::slice::from_ref(run)).await;
                        match table.replace(&rewrite).await {
                            Ok(CommitOutcome::Committed(_)) => done += 1,
                            Ok(CommitOutcome::Stale(_)) => stale += 1,
                            // In one process commits wait their turn; these do not, and may lose every race.
                            Err(error) => assert_eq!(error.code(), Code::LakeConflict, "{error}"),
                        }
                    }
                    (done, stale)
                })
            })
            .collect();
        let mut random = StdRng::seed_from_u64(9);
        let mut live = Live::new();
        let (mut rounds, mut again) = (0, 0);
        while rounds < 10 || rewriters.iter().any(|rewriter| !rewriter.is_finished()) {
            let base = table.refresh().await.unwrap();
            let mut after = live.clone();
            let append = random_round(&table, &base, &mut after, &mut random).await;
            match table.append(&append).await.unwrap() {
                CommitOutcome::Committed(_) => (live, rounds) = (after, rounds + 1),
                CommitOutcome::Stale(_) => again += 1,
            }
            // Let them come first now and then.
            tokio::time::sleep(Duration::from_millis(random.random_range(0..15))).await;
        }
        for rewriter in rewriters {
            rewriter.await.unwrap();
        }
        verify_live(&table, &live, &format!("format {format}, {rounds} rounds, {again} anew")).await;
    }
}
