//! Small manifests that commits bring together: few stay, and entries say what they said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::TryStreamExt;
use iceberg::spec::{
    DataContentType, Datum, FormatVersion, ManifestContentType, ManifestFile, ManifestStatus, PrimitiveType,
};
use object_store::path::Path as StorePath;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::deletes::{Live, ended, random_round, verify_live};
use super::rewrites::{all_runs, assert_apart, lineage, rewritten};
use super::*;
use crate::faulty_store::{Call, FaultyStore};
use crate::lake::data_files::{manifest, manifest_list};
use crate::lake::{Grace, LakeFile};

const NONE: Grace = Grace { files: Duration::ZERO, versions: Duration::ZERO };
/// So many small ones are brought together.
const TOGETHER: usize = 16;

/// What is said of a data file, or of a file's deletes, whichever manifest says it.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    snapshot_id: i64,
    data_sequence: i64,
    file_sequence: i64,
    first_row_id: Option<i64>,
    rows: u64,
    vector: Option<(i64, i64, String)>,
    bounds: String,
}

/// The live entries of a version by address, as the specification has them inherit, and each held against its manifest, and
/// each manifest against its list. A vector is named by its data file too.
async fn said(table: &LakeTable, version: &LakeVersion) -> BTreeMap<String, Said> {
    let mut all = BTreeMap::new();
    let v3 = version.metadata.format_version() == FormatVersion::V3;
    let snapshot_id = version.snapshot_id().unwrap();
    for listed in manifest_list(&table.files, version).await.unwrap() {
        let url = &listed.manifest_path;
        let found = manifest(&table.files, url).await.unwrap();
        let is_data = listed.content == ManifestContentType::Data;
        assert_eq!(listed.first_row_id.is_some(), is_data && v3, "{url}");
        let mut next_row_id = listed.first_row_id;
        let mut counts = BTreeMap::<String, (u32, u64)>::new();
        let (mut least, mut buckets) = (i64::MAX, BTreeSet::new());
        for entry in found.entries() {
            let (file, status) = (entry.data_file(), entry.status());
            assert_eq!(file.content_type() == DataContentType::Data, is_data, "{url}");
            let count = counts.entry(format!("{status:?}")).or_default();
            *count = (count.0 + 1, count.1 + file.record_count());
            buckets.insert(format!("{:?}", file.partition().fields()));
            let of = entry.snapshot_id().unwrap_or(listed.added_snapshot_id);
            match status {
                ManifestStatus::Deleted => {
                    assert_eq!(of, listed.added_snapshot_id, "{url}: what went earlier is not carried along");
                    continue;
                }
                ManifestStatus::Added => assert_eq!(of, listed.added_snapshot_id, "{url}"),
                ManifestStatus::Existing => {
                    assert_ne!(of, listed.added_snapshot_id, "{url}");
                    assert!(entry.sequence_number().is_some() && entry.file_sequence_number.is_some(), "{url}");
                }
            }
            let mut first_row_id = file.first_row_id();
            if first_row_id.is_none() && is_data {
                first_row_id = next_row_id.map(|id| id as i64);
                next_row_id = next_row_id.map(|id| id + file.record_count());
            }
            let data_sequence = entry.sequence_number().unwrap_or(listed.sequence_number);
            least = least.min(data_sequence);
            let said = Said {
                snapshot_id: of,
                data_sequence,
                file_sequence: entry.file_sequence_number.unwrap_or(listed.sequence_number),
                first_row_id,
                rows: file.record_count(),
                vector: file
                    .content_offset()
                    .zip(file.content_size_in_bytes())
                    .map(|(offset, bytes)| (offset, bytes, file.referenced_data_file().unwrap())),
                bounds: format!("{:?}", (sorted(file.lower_bounds()), sorted(file.upper_bounds()))),
            };
            let name = match &said.vector {
                Some((_, _, of)) => format!("{} of {of}", file.file_path()),
                None => file.file_path().to_owned(),
            };
            assert!(all.insert(name, said).is_none(), "{url}");
        }
        let counted = |status: &str| counts.get(status).copied().unwrap_or_default();
        assert_eq!((listed.added_files_count, listed.added_rows_count), some(counted("Added")), "{url}");
        assert_eq!((listed.existing_files_count, listed.existing_rows_count), some(counted("Existing")), "{url}");
        assert_eq!((listed.deleted_files_count, listed.deleted_rows_count), some(counted("Deleted")), "{url}");
        assert!(counted("Added").0 + counted("Existing").0 > 0 || listed.added_snapshot_id == snapshot_id, "{url}");
        if counted("Added").0 + counted("Existing").0 > 0 {
            assert_eq!(listed.min_sequence_number, least, "{url}");
        }
        assert_eq!(shown_partitions(&listed), partitions_of(&found), "{url}: {buckets:?}");
    }
    all
}

fn sorted(bounds: &std::collections::HashMap<i32, Datum>) -> BTreeMap<i32, String> {
    bounds.iter().map(|(id, bound)| (*id, format!("{bound:?}"))).collect()
}

fn some<A, B>((one, other): (A, B)) -> (Option<A>, Option<B>) {
    (Some(one), Some(other))
}

/// The least and the greatest bucket that the list says are in a manifest.
fn shown_partitions(listed: &ManifestFile) -> Vec<(i32, i32)> {
    let number = |bytes: &[u8]| match Datum::try_from_bytes(bytes, PrimitiveType::Int).unwrap().literal() {
        iceberg::spec::PrimitiveLiteral::Int(number) => *number,
        other => panic!("{other:?}"),
    };
    let fields = listed.partitions.as_ref().unwrap().iter().map(|field| {
        assert!(!field.contains_null);
        (number(field.lower_bound.as_ref().unwrap()), number(field.upper_bound.as_ref().unwrap()))
    });
    fields.collect()
}

fn partitions_of(manifest: &iceberg::spec::Manifest) -> Vec<(i32, i32)> {
    let numbers: Vec<_> = manifest
        .entries()
        .iter()
        .map(|entry| match &entry.data_file().partition().fields()[0] {
            Some(iceberg::spec::Literal::Primitive(iceberg::spec::PrimitiveLiteral::Int(number))) => *number,
            other => panic!("{other:?}"),
        })
        .collect();
    vec![(*numbers.iter().min().unwrap(), *numbers.iter().max().unwrap())]
}

async fn manifests(table: &LakeTable, version: &LakeVersion) -> Vec<ManifestFile> {
    manifest_list(&table.files, version).await.unwrap()
}

async fn add(table: &LakeTable, adds: &[(u32, u64)]) -> Arc<LakeVersion> {
    let append = round(table, &table.current(), adds).await;
    committed(table.append(&append).await.unwrap())
}

#[tokio::test]
async fn entries_of_a_log_table_say_what_they_said() {
    for format in ["2", "3"] {
        let properties = [("buckets", "3"), ("format_version", format)];
        let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, &properties)).await.unwrap();
        let mut known = BTreeMap::new();
        let mut rows = BTreeMap::new();
        let mut most = 0;
        for number in 0..150_u32 {
            let adds = [(number % 3, 1 + u64::from(number % 4)), ((number + 1) % 3, 2)];
            let before = table.current();
            let version = add(&table, &adds).await;
            let now = said(&table, &version).await;
            assert_eq!(now.len(), known.len() + 2, "format {format}, commit {number}");
            for (name, said) in &now {
                let said_before = known.entry(name.clone()).or_insert_with(|| said.clone());
                assert_eq!(said, said_before, "format {format}, commit {number}: {name}");
            }
            if format == "3" {
                let added: u64 = adds.iter().map(|(_, rows)| rows).sum();
                let next = before.metadata.next_row_id() + added;
                assert_eq!(version.metadata.next_row_id(), next, "new rows alone get new ids");
            }
            most = most.max(manifests(&table, &version).await.len());
        }
        assert!(most <= 2 * TOGETHER, "{most} manifests");
        assert!(most >= TOGETHER, "{most}: too eager");
        for (row, lineage) in lineage(&table).await {
            rows.insert(row, lineage);
        }
        if format == "3" {
            assert_apart(&rows, &table.current());
        }
        verify(&table).await;
        // Another process reads the same, and goes on.
        let reopened = LakeTable::create_or_open(table.warehouse(), &descriptor(1, &properties)).await.unwrap();
        assert_eq!(lineage(&reopened).await, rows);
        add(&reopened, &[(0, 3)]).await;
        verify(&reopened).await;
    }
}

/// Rounds that end rows, and rewrites: deletes apart from data, vectors where they were.
#[tokio::test]
async fn entries_of_a_table_with_a_key_say_what_they_said() {
    for (seed, format) in [(1, "2"), (2, "3"), (3, "3")] {
        let mut random = StdRng::seed_from_u64(seed);
        let properties = [("buckets", "2"), ("format_version", format)];
        let table = LakeTable::create_or_open(&in_memory(), &keyed_descriptor(1, &properties)).await.unwrap();
        let mut live = Live::new();
        let (mut known, mut rows) = (BTreeMap::new(), BTreeMap::new());
        let (mut most, mut merged) = (0, 0);
        for commit in 0..70 {
            let what = format!("seed {seed}, commit {commit}");
            let before = manifests(&table, &table.current()).await.len();
            if commit % 30 == 29 {
                let base = table.current();
                let runs = all_runs(&table, &base).await;
                let rewrite = rewritten(&table, &base, &[runs[0][..runs[0].len() / 2].to_vec()]).await;
                committed(table.replace(&rewrite).await.unwrap());
            } else {
                let append = random_round(&table, &table.current(), &mut live, &mut random).await;
                committed(table.append(&append).await.unwrap());
            }
            let version = table.current();
            for (name, said) in said(&table, &version).await {
                let said_before = known.entry(name.clone()).or_insert_with(|| said.clone());
                assert_eq!(&said, said_before, "{what}: {name}");
            }
            if format == "3" {
                let found = lineage(&table).await;
                for (row, lineage) in &found {
                    assert_eq!(rows.get(row).unwrap_or(lineage), lineage, "{what}: row {row:?}");
                }
                rows.extend(found);
            }
            let after = manifests(&table, &version).await.len();
            merged += usize::from(after + TOGETHER / 2 < before);
            most = most.max(after);
            verify_live(&table, &live, &what).await;
        }
        assert!(most <= 4 * TOGETHER && merged > 0, "{most} manifests, brought together {merged} times");
    }
}

/// The delete manifests of rounds that touch other files each: what none of them touches stays where it is.
#[tokio::test]
async fn delete_manifests_are_brought_together() {
    for format in ["2", "3"] {
        let properties = [("buckets", "2"), ("format_version", format)];
        let table = LakeTable::create_or_open(&in_memory(), &keyed_descriptor(1, &properties)).await.unwrap();
        for _ in 0..40 {
            add(&table, &[(0, 4), (1, 4)]).await;
        }
        let mut live: Live = (0..2).flat_map(|bucket| (0..160).map(move |offset| (bucket, offset))).collect();
        let is_delete = |listed: &&ManifestFile| listed.content == ManifestContentType::Deletes;
        let mut counts = Vec::new();
        for round in 0..40_u64 {
            let base = table.current();
            let before = manifests(&table, &base).await;
            let gone: Live = [((round % 2) as u32, round * 4)].into();
            live.retain(|row| !gone.contains(row));
            let mut end = base.offsets.clone();
            end.set(bucket(0), end.get(bucket(0)).plus(1));
            let ended = Some(ended(&table, &base, &gone).await);
            let (commit_id, start) = (Uuid::new_v4(), base.offsets.clone());
            let append = Append {
                commit_id,
                start,
                end,
                files: Vec::new(),
                ended,
                log_starts: Offsets::default(),
                stamps: None,
            };
            let version = committed(table.append(&append).await.unwrap());
            verify_live(&table, &live, &format!("round {round}")).await;
            said(&table, &version).await;
            let after = manifests(&table, &version).await;
            let carried = before.iter().filter(is_delete).filter(|listed| after.contains(listed)).count();
            counts.push((after.iter().filter(is_delete).count(), carried));
        }
        // One more each, until sixteen become one, and again.
        let until = |count: usize| (1..=count).map(|count| (count, count - 1));
        assert_eq!(counts[..16], until(16).collect::<Vec<_>>());
        assert_eq!(counts[16], (1, 0), "format {format}: {counts:?}");
        assert!(counts[17..].iter().all(|(count, _)| *count <= TOGETHER + 1), "{counts:?}");
    }
}

async fn with_sixteen(properties: &[(&str, &str)]) -> LakeTable {
    let table = LakeTable::create_or_open(&in_memory(), &descriptor(1, properties)).await.unwrap().with_grace(NONE);
    for _ in 0..TOGETHER {
        add(&table, &[(0, 3)]).await;
    }
    table
}

async fn names(table: &LakeTable) -> BTreeSet<String> {
    let prefix = StorePath::from("shop/orders/metadata");
    let listed: Vec<_> = table.warehouse().store().list(Some(&prefix)).try_collect().await.unwrap();
    let names = listed.iter().map(|object| object.location.filename().unwrap().to_owned());
    names.filter(|name| name.ends_with(".avro") && !name.starts_with("snap-")).collect()
}

fn of(files: &[Arc<LakeFile>]) -> Vec<(String, Option<u64>, i64)> {
    files.iter().map(|file| (file.url.clone(), file.first_row_id, file.data_sequence)).collect()
}

#[tokio::test]
async fn the_past_reads_its_own_manifests_and_they_go_with_it() {
    for format in ["2", "3"] {
        let table = with_sixteen(&[("buckets", "2"), ("format_version", format)]).await;
        let before = table.current();
        let then = of(&table.data_files(&before).await.unwrap());
        let version = add(&table, &[(0, 3)]).await;
        assert_eq!(manifests(&table, &version).await.len(), 2);
        // Some other process, and not what is remembered here.
        let other = LakeTable::create_or_open(
            table.warehouse(),
            &descriptor(1, &[("buckets", "2"), ("format_version", format)]),
        )
        .await
        .unwrap();
        let past = version.at(before.snapshot_id().unwrap(), before.offsets.clone()).unwrap();
        assert_eq!(of(&other.data_files(&past).await.unwrap()), then);
        assert_eq!(manifests(&other, &past).await.len(), TOGETHER);
        assert_eq!(of(&other.data_files(&version).await.unwrap())[..TOGETHER], then);
        // The snapshots before are kept for an hour.
        assert_eq!(table.sweep_orphans().await.unwrap().removed, 0);
        assert_eq!(names(&table).await.len(), TOGETHER + 2);

        let keeping_nothing = [("buckets", "2"), ("format_version", format), ("snapshot_retention", "0s")];
        table.adopt(&descriptor(1, &keeping_nothing)).unwrap();
        let version = add(&table, &[(0, 3)]).await;
        let is_left = version.metadata.snapshots().len() > 2;
        let version = if is_left { add(&table, &[(0, 3)]).await } else { version };
        let removed = table.sweep_orphans().await.unwrap().removed;
        assert_eq!(removed, TOGETHER, "format {format}");
        let kept: BTreeSet<_> =
            manifests(&table, &version).await.into_iter().map(|listed| listed.manifest_path).collect();
        let kept: BTreeSet<_> = kept.iter().map(|url| url.rsplit('/').next().unwrap().to_owned()).collect();
        assert_eq!(names(&table).await, kept);
        verify(&table).await;
        let reopened = LakeTable::create_or_open(table.warehouse(), &descriptor(1, &keeping_nothing)).await.unwrap();
        verify(&reopened).await;
        add(&reopened, &[(0, 3)]).await;
    }
}

/// Rows from before the table had ids get one each by the commit that brings their manifests together, and keep it.
#[tokio::test]
async fn an_upgrade_gives_ids_across_a_merge() {
    for rounds_before in [TOGETHER - 1, TOGETHER, TOGETHER + 1] {
        let descriptor = descriptor(1, &[("buckets", "2")]);
        let table = LakeTable::create_or_open(&in_memory(), &descriptor).await.unwrap();
        for _ in 0..rounds_before {
            add(&table, &[(0, 3), (1, 2)]).await;
        }
        upgrade(&table, &descriptor).await;
        let mut known = BTreeMap::new();
        for _ in 0..2 * TOGETHER {
            let version = add(&table, &[(0, 1), (1, 1)]).await;
            let found = lineage(&table).await;
            assert_apart(&found, &version);
            for (row, lineage) in &found {
                assert_eq!(known.get(row).unwrap_or(lineage), lineage, "{rounds_before} rounds before: row {row:?}");
            }
            known = found;
        }
        verify(&table).await;
    }
}

/// A fault at each request of a commit that ends rows and brings manifests together.
#[tokio::test]
async fn a_commit_lands_once_whatever_call_fails() {
    let descriptor = keyed_descriptor(1, &[("buckets", "2"), ("format_version", "3")]);
    let memory = Arc::new(InMemory::new());
    let warehouse = Warehouse::with_store("s3://bucket/lake", memory.clone());
    let table = LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap();
    for _ in 0..TOGETHER {
        add(&table, &[(0, 4), (1, 4)]).await;
    }
    let gone: Live = [(0, 5), (1, 9)].into();
    let mut append = round(&table, &table.current(), &[(0, 4)]).await;
    append.ended = Some(ended(&table, &table.current(), &gone).await);
    let mut live: Live = (0..64).flat_map(|row| [(0, row), (1, row)]).chain((64..68).map(|row| (0, row))).collect();
    live.retain(|row| !gone.contains(row));
    // Each time from here on, with all that was written.
    let faulty = async || {
        let store = FaultyStore::new(Arc::new(memory.fork()));
        let warehouse = Warehouse::with_store("s3://bucket/lake", store.clone());
        (store, LakeTable::create_or_open(&warehouse, &descriptor).await.unwrap())
    };
    let (store, table) = faulty().await;
    let first = store.calls().len();
    let version = committed(table.append(&append).await.unwrap());
    let calls = store.calls()[first..].to_vec();
    let listed = manifests(&table, &version).await;
    assert_eq!(listed.len(), 3, "the new rows, the deletes, and the others together");
    let known = lineage(&table).await;
    verify_live(&table, &live, "without a fault").await;
    assert!(calls.len() > TOGETHER);
    let mut errors = 0;
    for (number, call) in calls.iter().enumerate() {
        // Each of the manifests that are read meets one of the faults, all else each of them.
        let at_once = |place: usize| *call != Call::Get || place == number % call.faults().len();
        for (_, fault) in call.faults().iter().enumerate().filter(|(place, _)| at_once(*place)) {
            let what = format!("call {number}, {call:?}: {fault:?}");
            let (store, table) = faulty().await;
            store.strike(first + number, *fault);
            errors += usize::from(table.append(&append).await.is_err());
            store.settle().await;
            let table = match number % 2 {
                0 => table,
                // The process died there, and another one knows the files that it had written.
                _ => LakeTable::create_or_open(table.warehouse(), &descriptor).await.unwrap(),
            };
            let version = committed(table.append(&append).await.unwrap());
            // The first version, a round each, and the commit itself.
            assert_eq!(version.version, TOGETHER as u64 + 2, "{what}");
            // Another one finds the same rows with the same ids, and no others.
            let reopened = LakeTable::create_or_open(table.warehouse(), &descriptor).await.unwrap();
            said(&reopened, &version).await;
            assert_eq!(lineage(&reopened).await, known, "{what}");
        }
    }
    assert!(errors > TOGETHER, "{errors} of {} calls", calls.len());
}

/// Columns get wider and go while manifests of before and after come together: bounds say what they said.
#[tokio::test]
async fn bounds_outlive_columns_that_change() {
    use arrow::array::{Float32Array, Float64Array};
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Float64Type};
    let schema = TableSchema::new([
        ("id".to_owned(), ColumnType::Int64, false),
        ("small".to_owned(), ColumnType::Int32, true),
        ("real".to_owned(), ColumnType::Float32, true),
        ("gone".to_owned(), ColumnType::String, true),
    ]);
    let (schema, properties) = (schema.unwrap(), Properties::parse([("format_version", "3")]).unwrap());
    let name = TableName::parse("shop", "orders").unwrap();
    let before = TableDescriptor::new(TableId(1), name, schema, &[], properties, 1_000).unwrap();
    let wider = |name: &str, column_type| Alteration::SetType { name: name.to_owned(), column_type };
    let alterations = [
        wider("small", ColumnType::Int64),
        wider("real", ColumnType::Float64),
        Alteration::Drop { name: "gone".to_owned(), if_exists: false },
    ];
    let after = before.altered(&alterations, true).unwrap();
    let table = LakeTable::create_or_open(&in_memory(), &before).await.unwrap();
    let add = async |is_wide: bool| {
        let base = table.current();
        let first = base.offsets.get(bucket(0)).0 as i64;
        let own: Vec<i64> = (first..first + 3).collect();
        let narrow: [ArrayRef; 3] = [
            Arc::new(own.iter().map(|own| Some(*own as i32 - 50)).collect::<Int32Array>()),
            Arc::new(own.iter().map(|own| Some(*own as f32 / 2.0)).collect::<Float32Array>()),
            Arc::new(own.iter().map(|own| Some(format!("{own:03}"))).collect::<StringArray>()),
        ];
        let wide: [ArrayRef; 2] = [
            Arc::new(own.iter().map(|own| Some(*own - 50)).collect::<Int64Array>()),
            Arc::new(own.iter().map(|own| Some(*own as f64 / 2.0)).collect::<Float64Array>()),
        ];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(own.clone()))];
        columns.extend(if is_wide { wide.to_vec() } else { narrow.to_vec() });
        columns.extend([
            Arc::new(Int32Array::from(vec![0; 3])) as ArrayRef,
            Arc::new(Int64Array::from(own)),
            Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; 3]).with_timezone("UTC")),
        ]);
        let commit_id = Uuid::new_v4();
        let mut writer = table.file_writer(commit_id, bucket(0)).unwrap();
        writer.write(RecordBatch::try_new(table.arrow_schema(), columns).unwrap()).await.unwrap();
        let files = vec![writer.finish().await.unwrap()];
        let mut end = base.offsets.clone();
        end.set(bucket(0), Offset(first as u64 + 3));
        let append = Append {
            commit_id,
            start: base.offsets.clone(),
            end,
            files,
            ended: None,
            log_starts: Offsets::default(),
            stamps: None,
        };
        committed(table.append(&append).await.unwrap())
    };
    for _ in 0..TOGETHER + 5 {
        add(false).await;
    }
    table.evolve(&after).await.unwrap();
    for _ in 0..3 * TOGETHER {
        add(true).await;
        // Read by a process that has to read every manifest.
        let other = LakeTable::create_or_open(table.warehouse(), &after).await.unwrap();
        let columns: Vec<_> = after.schema.columns().iter().map(|column| column.id).collect();
        for file in other.data_files(&other.current()).await.unwrap().iter() {
            let first = file.first_offset.0 as f64;
            let bound = |bound: Option<ArrayRef>| {
                cast(&bound.unwrap(), &DataType::Float64).unwrap().as_primitive::<Float64Type>().value(0)
            };
            let bounds =
                |place: usize| (bound(file.lower_bound(columns[place])), bound(file.upper_bound(columns[place])));
            assert_eq!(bounds(1), (first - 50.0, first - 48.0), "{}", file.url);
            assert_eq!(bounds(2), (first / 2.0, first / 2.0 + 1.0), "{}", file.url);
        }
    }
    assert!(manifests(&table, &table.current()).await.len() <= 2 * TOGETHER);
}
