//! Rot refuses the buckets that it hit, names file and byte, and serves the rest; a repaired file serves them again.

use thermocline_schemas::Error;

use super::*;

const JOURNAL: &str = "/data/journal";
const SEGMENTS: &str = "/data/segments";

/// A place in a file.
#[derive(Clone, Debug)]
struct At {
    file: std::path::PathBuf,
    byte: u64,
}

impl At {
    fn flip(&self, disk: &MemoryDisk) {
        disk.flip_bit(&self.file, self.byte * 8 + 3).unwrap();
    }
}

/// Every place in a directory's files where `wanted` stands.
fn find(disk: &MemoryDisk, directory: &str, wanted: &[u8]) -> Vec<At> {
    let mut found = Vec::new();
    for entry in disk.list(Path::new(directory)).unwrap() {
        let file = Path::new(directory).join(entry.name);
        let bytes = disk.map(&file).unwrap();
        let places = bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted);
        found.extend(places.map(|(byte, _)| At { file: file.clone(), byte: byte as u64 }));
    }
    found
}

/// The headers of all frames of a kind, in order, as the disk has them.
fn headers(disk: &MemoryDisk, kind: FrameKind) -> Vec<At> {
    let kinds = |at: &At| disk.map(&at.file).unwrap().as_slice()[at.byte as usize + 4] == kind as u8;
    find(disk, JOURNAL, b"TCF1").into_iter().filter(kinds).collect()
}

fn bucket(number: u32) -> PartitionBucket {
    PartitionBucket::unpartitioned(number)
}

fn refused(table: &Table, number: u32) -> Error {
    let error = table.hot_rows(bucket(number), Offset(0), Offset(0)).unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
    error
}

async fn append(engine: &Engine, table: &Arc<Table>, ids: std::ops::Range<i64>) -> Result<Answer> {
    engine.append(table, rows(table, ids), Sender::default()).await
}

/// Closes, so that a mark stands behind all that was acked, and starts again.
fn again(engine: Arc<Engine>, disk: &Arc<MemoryDisk>) -> Arc<Engine> {
    engine.close();
    open(disk).unwrap()
}

#[tokio::test]
async fn a_damaged_segment_refuses_its_bucket_until_it_is_repaired() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let table = create(&engine, "t", &[("buckets", "2")]).await;
    let other = create(&engine, "other", &[]).await;
    for at in 0..4 {
        append(&engine, &table, at * 10..at * 10 + 10).await.unwrap();
    }
    append(&engine, &other, 0..3).await.unwrap();
    engine.seal(&table).await.unwrap();
    engine.checkpoint().await.unwrap();
    engine.close();
    let sick = find(&disk, SEGMENTS, b"thermocline.base_offset").remove(0);
    sick.flip(&disk);

    let mut engine = open(&disk).unwrap();
    for round in 0..3 {
        let (table, other) = (engine.table(&name("t")).unwrap(), engine.table(&name("other")).unwrap());
        let error = refused(&table, 0);
        assert!(error.message().contains(sick.file.to_str().unwrap()), "{error}");
        assert!(error.message().contains("bucket 0/0 of table public.t"), "{error}");
        assert_eq!(table.check_served().unwrap_err().code(), Code::Corrupt);
        assert!(!table.ends().ends.contains_key(&bucket(0)));
        // The other bucket takes what comes; only a request that may be a repeat is not sent there.
        append(&engine, &table, 100 + round..101 + round).await.unwrap();
        let repeat = engine.append(&table, rows(&table, 0..1), writer(0)).await.unwrap_err();
        assert_eq!(repeat.code(), Code::Corrupt);
        append(&engine, &other, 100 + round..101 + round).await.unwrap();
        assert_eq!(read(&table, 1)[..20], (10..20).chain(30..40).collect::<Vec<_>>());
        // Nothing that keeps the hot tier small touches what is left of it.
        engine.trim(&table, vec![(bucket(0), Offset(20)), (bucket(1), Offset(0))]).await.unwrap();
        engine.seal(&table).await.unwrap();
        engine.upkeep().await.unwrap();
        engine.checkpoint().await.unwrap();
        engine = again(engine, &disk);
    }
    engine.close();
    sick.flip(&disk);
    let engine = open(&disk).unwrap();
    let table = engine.table(&name("t")).unwrap();
    assert_eq!(read(&table, 0), (0..10).chain(20..30).collect::<Vec<_>>());
    assert_eq!(read(&table, 1)[20..], [100, 101, 102]);
    assert_eq!(read(&engine.table(&name("other")).unwrap(), 0), [0, 1, 2, 100, 101, 102]);
    engine.close();
}

#[tokio::test]
async fn a_segment_that_is_gone_refuses_its_bucket_and_a_drop_ends_that() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let table = create(&engine, "t", &[]).await;
    append(&engine, &table, 0..10).await.unwrap();
    engine.seal(&table).await.unwrap();
    engine.close();
    let file = disk.list(Path::new(SEGMENTS)).unwrap().remove(0).name;
    disk.remove(&Path::new(SEGMENTS).join(&file)).unwrap();
    let engine = open(&disk).unwrap();
    let table = engine.table(&name("t")).unwrap();
    assert!(refused(&table, 0).message().contains(&file));
    let error = append(&engine, &table, 10..11).await.unwrap_err();
    assert_eq!(error.code(), Code::Corrupt, "the only bucket takes nothing");
    assert!(error.hint().unwrap().contains("drop the table"));
    assert!(engine.drop_table(&name("t"), false, false).await.unwrap());
    let table = create(&engine, "t", &[]).await;
    append(&engine, &table, 0..2).await.unwrap();
    engine.checkpoint().await.unwrap();
    let engine = again(engine, &disk);
    assert_eq!(read(&engine.table(&name("t")).unwrap(), 0), [0, 1]);
    engine.close();
}

/// The frame's header tells whose rows are lost; the frames after it are there for all others.
#[tokio::test]
async fn a_bad_payload_refuses_the_buckets_whose_rows_it_had() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let table = create(&engine, "t", &[("buckets", "4"), ("bucket_key", "id")]).await;
    let other = create(&engine, "other", &[]).await;
    for at in 0..3 {
        append(&engine, &table, at * 40..at * 40 + 40).await.unwrap();
    }
    append(&engine, &other, 0..3).await.unwrap();
    let before: Vec<_> = (0..4).map(|number| read(&table, number)).collect();
    engine.close();
    let sick = find(&disk, JOURNAL, b"row 57row").remove(0);
    let hit = before.iter().position(|ids| ids.contains(&57)).unwrap() as u32;
    sick.flip(&disk);

    let mut engine = open(&disk).unwrap();
    for round in 0..3 {
        let table = engine.table(&name("t")).unwrap();
        let error = refused(&table, hit);
        assert!(error.message().contains(sick.file.to_str().unwrap()), "{error}");
        assert!(error.message().contains("payload checksum mismatch at byte"), "{error}");
        for number in (0..4).filter(|number| *number != hit) {
            let ids = read(&table, number);
            assert_eq!(ids[..before[number as usize].len()], before[number as usize]);
            engine.append(&table, rows(&table, ids[..1].iter().copied()), Sender::default()).await.unwrap();
        }
        let into_hit = engine.append(&table, rows(&table, [57]), Sender::default()).await.unwrap_err();
        assert_eq!(into_hit.code(), Code::Corrupt);
        let mixed = engine.append(&table, rows(&table, 0..40), Sender::default()).await.unwrap_err();
        assert_eq!(mixed.code(), Code::Corrupt, "all or nothing");
        let other = engine.table(&name("other")).unwrap();
        for _ in 0..60 {
            append(&engine, &other, 0..20).await.unwrap();
            engine.upkeep().await.unwrap();
        }
        if round == 1 {
            engine.seal(&table).await.unwrap();
            engine.checkpoint().await.unwrap();
        }
        engine = again(engine, &disk);
    }
    engine.close();
    sick.flip(&disk);
    let engine = open(&disk).unwrap();
    let table = engine.table(&name("t")).unwrap();
    assert_eq!(read(&table, hit), before[hit as usize], "the journal was kept for it");
    engine.checkpoint().await.unwrap();
    engine.seal(&table).await.unwrap();
    engine.checkpoint().await.unwrap();
    engine.close();
}

/// Rows that are in a segment, or were let go, are not missed in the journal.
#[tokio::test]
async fn rot_in_what_is_not_needed_refuses_nothing() {
    for way in ["seal", "trim"] {
        let disk = MemoryDisk::new();
        let engine = open(&disk).unwrap();
        let table = create(&engine, "t", &[]).await;
        append(&engine, &table, 0..10).await.unwrap();
        append(&engine, &table, 10..20).await.unwrap();
        match way {
            "seal" => engine.seal(&table).await.unwrap(),
            _ => engine.trim(&table, vec![(bucket(0), Offset(20))]).await.unwrap(),
        }
        append(&engine, &table, 20..30).await.unwrap();
        engine.close();
        find(&disk, JOURNAL, b"row 7row").remove(0).flip(&disk);
        headers(&disk, FrameKind::Data).remove(1).flip(&disk);
        // The edit that makes the header's rows superfluous comes after it; the magic is not what its claim rests on.
        let engine = open(&disk).unwrap();
        let table = engine.table(&name("t")).unwrap();
        let expected: Vec<i64> = if way == "seal" { (0..30).collect() } else { (20..30).collect() };
        assert_eq!(read(&table, 0), expected, "{way}");
        append(&engine, &table, 30..31).await.unwrap();
        engine.close();
    }
}

#[tokio::test]
async fn a_bad_header_refuses_the_buckets_that_nothing_proves_whole() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let names = ["later", "hit", "silent", "sealed"];
    let mut tables = Vec::new();
    for table in names {
        tables.push(create(&engine, table, &[]).await);
    }
    for table in &tables {
        append(&engine, table, 0..10).await.unwrap();
    }
    engine.seal(&tables[3]).await.unwrap();
    engine.checkpoint().await.unwrap();
    append(&engine, &tables[1], 10..20).await.unwrap();
    append(&engine, &tables[0], 10..20).await.unwrap();
    append(&engine, &tables[1], 20..30).await.unwrap();
    engine.close();
    let data = headers(&disk, FrameKind::Data);
    let sick = At { byte: data[4].byte + 40 + 24, ..data[4].clone() };
    sick.flip(&disk);

    let mut engine = open(&disk).unwrap();
    for _ in 0..2 {
        let table = |at: usize| engine.table(&name(names[at])).unwrap();
        assert_eq!(read(&table(0), 0), (0..20).collect::<Vec<_>>(), "its next rows follow on what it has");
        for at in [1, 2, 3] {
            let error = refused(&table(at), 0);
            assert!(error.message().contains(&format!("header checksum mismatch at byte {}", data[4].byte)), "{error}");
        }
        engine.checkpoint().await.unwrap();
        engine = again(engine, &disk);
    }
    engine.close();
    sick.flip(&disk);
    let engine = open(&disk).unwrap();
    for (at, expected) in [20, 30, 10, 10].into_iter().enumerate() {
        assert_eq!(read(&engine.table(&name(names[at])).unwrap(), 0), (0..expected).collect::<Vec<_>>());
    }
    engine.close();
}

/// What lies before the checkpoint concerns only those whose rows of that time are still in the journal alone.
#[tokio::test]
async fn a_bad_header_before_the_checkpoint_refuses_tails_only() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let (sealed, tail) = (create(&engine, "sealed", &[]).await, create(&engine, "tail", &[]).await);
    append(&engine, &tail, 0..10).await.unwrap();
    append(&engine, &sealed, 0..10).await.unwrap();
    engine.seal(&sealed).await.unwrap();
    engine.checkpoint().await.unwrap();
    engine.close();
    // Even an edit: the checkpoint has it.
    let edit = headers(&disk, FrameKind::Edit).pop().unwrap();
    edit.flip(&disk);
    let engine = open(&disk).unwrap();
    assert_eq!(read(&engine.table(&name("sealed")).unwrap(), 0), (0..10).collect::<Vec<_>>());
    refused(&engine.table(&name("tail")).unwrap(), 0);
    engine.close();
}

#[tokio::test]
async fn a_bad_edit_refuses_the_start() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let table = create(&engine, "t", &[]).await;
    append(&engine, &table, 0..10).await.unwrap();
    create(&engine, "second", &[]).await;
    append(&engine, &table, 10..20).await.unwrap();
    engine.close();
    let edit = headers(&disk, FrameKind::Edit).pop().unwrap();
    let before = find(&disk, JOURNAL, b"TCF1").len();
    // Wherever in the frame: in its kind, its length, its checksum, its table, its text.
    for byte in [0, 4, 8, 12, 16, 40, 44, 48, 56, 70] {
        for bit in 0..8 {
            disk.flip_bit(&edit.file, (edit.byte + byte) * 8 + bit).unwrap();
            let error = open(&disk).err().unwrap_or_else(|| panic!("byte {byte} bit {bit}"));
            assert_eq!(error.code(), Code::Corrupt);
            assert!(error.message().contains(&format!("at byte {}", edit.byte)), "{error}");
            disk.flip_bit(&edit.file, (edit.byte + byte) * 8 + bit).unwrap();
        }
    }
    let engine = open(&disk).unwrap();
    assert_eq!(engine.tables().len(), 2);
    engine.close();
    assert!(find(&disk, JOURNAL, b"TCF1").len() >= before, "a refused start cuts nothing off");
}

/// Damage that is met when a column is first read is an error of that query, and of no other.
#[tokio::test]
async fn a_damaged_column_fails_only_who_reads_it() {
    let disk = MemoryDisk::new();
    let engine = open(&disk).unwrap();
    let table = create(&engine, "t", &[]).await;
    append(&engine, &table, 0..10).await.unwrap();
    engine.seal(&table).await.unwrap();
    engine.close();
    let sick = find(&disk, SEGMENTS, b"row 3row").remove(0);
    sick.flip(&disk);
    let engine = open(&disk).unwrap();
    let table = engine.table(&name("t")).unwrap();
    let hot = table.hot_rows(bucket(0), Offset(0), Offset(10)).unwrap().remove(0);
    for _ in 0..2 {
        let texts = hot.read(Some(&[1])).next().unwrap().unwrap_err();
        assert_eq!(texts.code(), Code::Corrupt);
        assert!(
            texts.message().contains(sick.file.to_str().unwrap()) && texts.message().contains("from byte"),
            "{texts}"
        );
        assert_eq!(hot.read(Some(&[0])).next().unwrap().unwrap().batch.num_rows(), 10);
    }
    append(&engine, &table, 10..11).await.unwrap();
    engine.close();
}
