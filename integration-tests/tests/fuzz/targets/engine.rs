//! A whole data directory: journal, checkpoint, segments.
//!
//! With rows: one file is damaged, and the engine refuses to start, or to read a bucket, and all other rows are as they
//! were; a damaged journal may also cost the last rows, as a torn write does. Checksums are never made right here: rows are decoded
//! without validation once their checksum has been compared.
//!
//! Without rows (`catalog`): checkpoint and edits, half of them with right checksums, so that their contents are what is
//! judged. What opens can be opened again, and is the same.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::util::pretty::pretty_format_batches;
use rand::Rng;
use rand::rngs::StdRng;
use thermocline_engine::disk::{Disk, MemoryDisk};
use thermocline_engine::{Engine, EngineOptions, Sender, SystemClock, Table, WriterSequence};
use thermocline_integration_tests::oracle;
use thermocline_schemas::{Code, ColumnType, Error, PartitionBucket, Properties, TableName, TableSchema};
use tokio::runtime::Runtime;

use super::archive::{self, Files};
use super::journal::{put, seal};
use crate::driver::{Outcome, Target, hash};
use crate::mutate::Source;

const ROOT: &str = "/data";

pub struct DataDirectory {
    rows: bool,
    runtime: Runtime,
    /// What good inputs hold, by their hashes.
    known: HashMap<u64, Rows>,
}

/// Per table and bucket, its rows as text; none where reading them is refused.
type Rows = BTreeMap<String, Option<Vec<String>>>;

impl DataDirectory {
    pub fn with_rows() -> DataDirectory {
        DataDirectory { rows: true, runtime: runtime(), known: HashMap::new() }
    }

    pub fn without_rows() -> DataDirectory {
        DataDirectory { rows: false, runtime: runtime(), known: HashMap::new() }
    }

    fn open(&self, disk: &Arc<MemoryDisk>) -> Result<Arc<Engine>, Error> {
        let options = EngineOptions {
            journal_file_bytes: 4 << 10,
            segment_bytes: 4 << 10,
            memory_bytes_max: 16 << 20,
            patience: Duration::from_millis(10),
            upkeep: false,
            ..EngineOptions::default()
        };
        Engine::open(disk.clone(), Path::new(ROOT), options, Arc::new(SystemClock))
    }

    fn rows_of(&self, files: &Files) -> Result<Rows, Error> {
        let disk = disk_with(files);
        let engine = self.open(&disk)?;
        let rows = read(&engine);
        engine.close();
        rows
    }

    fn judge(&self, found: Result<Rows, Error>) -> Result<Outcome, String> {
        match found {
            Ok(rows) => {
                let refused = rows.values().filter(|rows| rows.is_none()).count();
                Ok(Outcome::Taken(format!("{} buckets, {refused} refused", rows.len())))
            }
            Err(error) => Outcome::refused(&error),
        }
    }
}

impl Target for DataDirectory {
    fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        let seed = |name: &str, checkpoint: bool| {
            let disk = MemoryDisk::new();
            let engine = self.open(&disk).expect("an empty disk is an empty engine");
            self.runtime.block_on(fill(&engine, self.rows, checkpoint));
            engine.close();
            (name.to_owned(), archive::pack(&files_on(&disk)))
        };
        vec![seed("journal_alone", false), seed("checkpoint", true)]
    }

    fn words(&self) -> &'static [&'static str] {
        &[
            "null",
            "[]",
            "{}",
            "\"next_table_id\":",
            "4294967295",
            "\"edit\":\"trim\"",
            "drop_table",
            "\"\"",
            "primary_key",
        ]
    }

    fn memory(&self) -> (usize, usize) {
        (32, 32 << 20)
    }

    fn change(&self, input: &mut Vec<u8>, source: &Source<'_>, random: &mut StdRng) {
        let sealed = !self.rows && random.random();
        archive::change_one(
            input,
            source,
            random,
            |_| true,
            |path, bytes, _| {
                if sealed && path.ends_with(".log") {
                    seal(bytes);
                } else if sealed && path.ends_with("checkpoint") {
                    seal_checkpoint(bytes);
                }
            },
        );
    }

    fn flip(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        archive::flip_one(input, random, |_| true);
    }

    fn run(&mut self, input: &[u8]) -> Result<Outcome, String> {
        let Some(files) = archive::unpack(input) else { return Ok(Outcome::Refused("no archive".to_owned())) };
        if self.rows {
            return self.judge(self.rows_of(&files));
        }
        let disk = disk_with(&files);
        let engine = match self.open(&disk) {
            Ok(engine) => engine,
            Err(error) => return Outcome::refused(&error),
        };
        let tables = |engine: &Engine| {
            engine.tables().iter().map(|table| format!("{:?}", table.descriptor())).collect::<Vec<_>>()
        };
        let first = tables(&engine);
        let checkpoint = self.runtime.block_on(engine.checkpoint());
        engine.close();
        checkpoint.map_err(|error| format!("what opened cannot be checkpointed: {error:?}"))?;
        let again = self.open(&disk).map_err(|error| format!("what opened does not open again: {error:?}"))?;
        let second = tables(&again);
        again.close();
        if first != second {
            return Err(format!("tables {first:?} became {second:?}"));
        }
        Ok(Outcome::Taken(format!("{} tables", first.len())))
    }

    fn run_flipped(&mut self, whole: &[u8], flipped: &[u8]) -> Result<Outcome, String> {
        if !self.rows {
            return self.run(flipped);
        }
        let (Some(files), Some(damaged)) = (archive::unpack(whole), archive::unpack(flipped)) else {
            return self.run(flipped);
        };
        let key = hash(whole);
        if !self.known.contains_key(&key) {
            let rows = self.rows_of(&files).map_err(|error| format!("a good directory does not open: {error:?}"))?;
            self.known.insert(key, rows);
        }
        let expected = &self.known[&key];
        let found = self.rows_of(&damaged);
        let torn = files.iter().zip(&damaged).any(|(old, new)| old != new && old.0.ends_with(".log"));
        if let Ok(found) = &found
            && !is_part(found, expected, torn)
        {
            return Err(format!("a flipped bit made other rows: {found:?} of {expected:?}"));
        }
        self.judge(found)
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be made")
}

async fn fill(engine: &Arc<Engine>, rows: bool, checkpoint: bool) {
    let table = |name: &str| TableName::parse("public", name).expect("a good name");
    let properties = Properties::parse([("buckets", "2"), ("bucket_key", "city")]).expect("good properties");
    let orders = engine.create_table(table("orders"), oracle::schema(), &[], properties, false).await.expect("a table");
    let append = async |number: i64| {
        let batch = oracle::rows(orders.schema(), &(number * 20..number * 20 + 20).collect::<Vec<_>>());
        let writer = WriterSequence::new("writer", number as u64).expect("a good writer");
        let sender = Sender { writer: Some(writer), tag: "tag".to_owned(), ..Sender::default() };
        engine.append(&orders, batch, sender).await.expect("rows are taken");
    };
    if rows {
        append(0).await;
        append(1).await;
        if checkpoint {
            engine.seal(&orders).await.expect("a segment");
            append(2).await;
        }
    }
    if checkpoint {
        engine.checkpoint().await.expect("a checkpoint");
    }
    let columns = [("a".to_owned(), ColumnType::Decimal { precision: 9, scale: 2 }, true)];
    let small = TableSchema::new(columns).expect("a good schema");
    engine.create_table(table("small"), small, &[], Properties::default(), false).await.expect("a table");
    let key = ["id".to_owned()];
    let hot = Properties::parse([("lake_enabled", "false")]).expect("good properties");
    engine.create_table(table("keyed"), oracle::schema(), &key, hot, false).await.expect("a table");
    engine.create_database("shop", false).await.expect("a database");
    if rows {
        append(if checkpoint { 3 } else { 2 }).await;
    }
}

/// All hot rows that are published.
fn read(engine: &Engine) -> Result<Rows, Error> {
    let mut all = Rows::new();
    for table in engine.tables() {
        for (bucket, _) in table.buckets() {
            all.insert(format!("{}/{bucket}", table.descriptor().name), bucket_rows(&table, bucket)?);
        }
    }
    Ok(all)
}

fn bucket_rows(table: &Table, bucket: PartitionBucket) -> Result<Option<Vec<String>>, Error> {
    let read = || -> Result<Vec<String>, Error> {
        let log = table.bucket(bucket)?;
        let mut rows = Vec::new();
        for part in table.hot_rows(bucket, log.trim_floor(), table.ends().end(bucket))? {
            for batch in part.read(None) {
                let text = pretty_format_batches(&[batch?.batch])?.to_string();
                rows.extend(text.lines().skip(3).filter(|line| line.starts_with('|')).map(str::to_owned));
            }
        }
        Ok(rows)
    };
    match read() {
        Err(error) if error.code() == Code::Corrupt => Ok(None),
        read => read.map(Some),
    }
}

/// Whether each bucket has the rows that it should have, or the first of them if a write may have been torn.
fn is_part(found: &Rows, expected: &Rows, torn: bool) -> bool {
    found.len() == expected.len()
        && found.iter().zip(expected).all(|((bucket, found), (same_bucket, all))| {
            bucket == same_bucket
                && match (found, all) {
                    (None, _) => true,
                    (Some(found), Some(all)) => found == all || (torn && all.starts_with(found)),
                    (Some(_), None) => false,
                }
        })
}

fn disk_with(files: &Files) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    for directory in ["", "journal", "segments"] {
        disk.create_directory(&Path::new(ROOT).join(directory)).expect("memory takes it");
    }
    for (path, bytes) in files {
        put(&disk, &Path::new(ROOT).join(path), bytes);
    }
    disk
}

fn files_on(disk: &MemoryDisk) -> Files {
    let mut files = Files::new();
    for directory in ["", "journal", "segments"] {
        for entry in disk.list(&Path::new(ROOT).join(directory)).expect("the directory is there") {
            let path = Path::new(directory).join(&entry.name);
            if !entry.is_directory {
                let bytes = disk.map(&Path::new(ROOT).join(&path)).expect("the file is there");
                files.push((path.to_string_lossy().into_owned(), bytes.to_vec()));
            }
        }
    }
    files
}

/// Makes the checksum in the first line right.
fn seal_checkpoint(bytes: &mut Vec<u8>) {
    let line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
    let crc = crc32c::crc32c(&bytes[line..]);
    bytes.splice(..line, format!("TCCK1 {crc:08x}\n").into_bytes());
}
