//! The files of a lake table, as we read them back: metadata, manifest list, manifest, data.
//!
//! They have no checksum over the whole, so a flipped bit may change what they say; it must not do more. A table that
//! opens gives its files, and each file its rows or an error.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use rand::rngs::StdRng;
use thermocline_schemas::{
    Code, ColumnType, Offset, PartitionBucket, Properties, Result, TableDescriptor, TableId, TableName, TableSchema,
};
use thermocline_tiering::check::LakeInspection;
use thermocline_tiering::{Append, LakeTable, Warehouse};
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::archive::{self, Files};
use crate::driver::{Outcome, Target};
use crate::mutate::Source;

/// Which of the files are changed.
#[derive(Clone, Copy)]
pub enum Part {
    Metadata,
    Files,
}

impl Part {
    fn has(self, path: &str) -> bool {
        let metadata = path.ends_with(".json") || path.ends_with(".text");
        metadata == matches!(self, Part::Metadata)
    }
}

pub struct Lake {
    part: Part,
    runtime: Runtime,
}

impl Lake {
    pub fn new(part: Part) -> Lake {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        Lake { part, runtime }
    }
}

impl Target for Lake {
    fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        let seeds = ["2", "3"].map(|format| {
            let files = self.runtime.block_on(lake(format)).expect("a lake in memory");
            (format!("version_{format}"), archive::pack(&files))
        });
        seeds.into()
    }

    fn words(&self) -> &'static [&'static str] {
        match self.part {
            Part::Metadata => &[
                "null",
                "[]",
                "{}",
                "-1",
                "\"schemas\":",
                "\"fields\":[",
                "\"type\":\"struct\"",
                "\"decimal(9,2)\"",
                "\"fixed[16]\"",
                "\"list\"",
                "\"current-snapshot-id\":",
                "\"refs\":{",
                "\"manifest-list\":\"",
                "s3://bucket/lake/",
                "../",
                "file:///etc/passwd",
                "version-hint",
            ],
            Part::Files => &[
                "Obj\u{1}",
                "avro.codec",
                "deflate",
                "null",
                "zstandard",
                "snappy",
                "avro.schema",
                "PAR1",
                "record",
                "fields",
            ],
        }
    }

    fn memory(&self) -> (usize, usize) {
        match self.part {
            Part::Metadata => (64, 64 << 20),
            // The Avro reader takes a length at its word, up to 512 MiB that it then does not touch.
            Part::Files => (64, 600 << 20),
        }
    }

    fn change(&self, input: &mut Vec<u8>, source: &Source<'_>, random: &mut StdRng) {
        archive::change_one(input, source, random, |path| self.part.has(path), |_, _, _| {});
    }

    fn flip(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        archive::flip_one(input, random, |path| self.part.has(path));
    }

    fn run(&mut self, input: &[u8]) -> std::result::Result<Outcome, String> {
        let Some(files) = archive::unpack(input) else { return Ok(Outcome::Refused("no archive".to_owned())) };
        // The version of the format only matters to a table that is made.
        match self.runtime.block_on(read(&files)) {
            Ok(shape) => Ok(Outcome::Taken(shape)),
            Err(error) => Outcome::refused(&error),
        }
    }
}

fn descriptor(format: &str) -> TableDescriptor {
    let columns = [("id".to_owned(), ColumnType::Int64, false), ("name".to_owned(), ColumnType::String, true)];
    let schema = TableSchema::new(columns).expect("a good schema");
    let properties = Properties::parse([("buckets", "2"), ("format_version", format)]).expect("good properties");
    let name = TableName::parse("shop", "orders").expect("a good name");
    TableDescriptor::new(TableId(1), name, schema, &[], properties, 1_000).expect("a good table")
}

/// All files of a lake table after two rounds.
async fn lake(format: &str) -> Result<Files> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let table = LakeTable::create_or_open(&warehouse(&store), &descriptor(format)).await?;
    for (bucket, rows) in [(0, 3), (1, 5)] {
        let at = PartitionBucket::unpartitioned(bucket);
        let start = table.current().offsets.clone();
        let mut end = start.clone();
        end.set(at, Offset(rows));
        let commit_id = Uuid::from_u128(u128::from(bucket) + 1);
        let mut writer = table.file_writer(commit_id, at)?;
        writer.write(batch(&table, at, rows)).await?;
        let files = vec![writer.finish().await?];
        table
            .append(&Append { commit_id, start, end, files, ended: None, log_starts: Default::default(), stamps: None })
            .await?;
    }
    let mut files = Files::new();
    let mut listed: Vec<_> = store.list(None).map_ok(|object| object.location).try_collect().await.expect("a list");
    listed.sort();
    for path in listed {
        let bytes = store.get(&path).await.expect("the file is there").bytes().await.expect("memory answers");
        files.push((path.to_string(), bytes.to_vec()));
    }
    Ok(files)
}

fn warehouse(store: &Arc<dyn ObjectStore>) -> Warehouse {
    Warehouse::with_store("s3://bucket/lake", store.clone())
}

fn batch(table: &LakeTable, at: PartitionBucket, rows: u64) -> RecordBatch {
    let offsets: Vec<i64> = (0..rows as i64).collect();
    let names = offsets.iter().map(|offset| (offset % 3 != 0).then(|| format!("name {offset}")));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(offsets.clone())),
        Arc::new(StringArray::from_iter(names)),
        Arc::new(Int32Array::from(vec![at.bucket.0 as i32; rows as usize])),
        Arc::new(Int64Array::from(offsets)),
        Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; rows as usize]).with_timezone("UTC")),
    ];
    RecordBatch::try_new(table.arrow_schema(), columns).expect("columns fit the schema")
}

/// Reads all of the table as followers do and as checks do. Whether both find the same is not asked: each looks at what
/// the other leaves out.
async fn read(files: &Files) -> Result<String> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (path, bytes) in files {
        store.put(&StorePath::from(path.as_str()), PutPayload::from(bytes.clone())).await.expect("memory takes it");
    }
    match (followed(&store).await, inspected(&store).await) {
        (Ok(followed), Ok(inspected)) => Ok(format!("{followed}, {inspected}")),
        (Err(ours), Err(other)) if ours.code() != Code::Internal => Err(other),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

async fn inspected(store: &Arc<dyn ObjectStore>) -> Result<String> {
    let Some(lake) = LakeInspection::newest(&warehouse(store), "shop/orders").await? else {
        return Ok("no lake".to_owned());
    };
    let mut read = 0;
    for manifest in lake.manifests().await? {
        for file in lake.data_files(&manifest).await? {
            let batches: Vec<_> = lake.rows(&file).await?.try_collect().await?;
            read += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        }
    }
    Ok(format!("{read} rows inspected"))
}

async fn followed(store: &Arc<dyn ObjectStore>) -> Result<String> {
    let descriptor = descriptor("2");
    let table = LakeTable::create_or_open(&warehouse(store), &descriptor).await?;
    let version = table.refresh().await?;
    let history = version.check_history().is_ok();
    let mut read = 0;
    let listed = table.data_files(&version).await?;
    for file in listed.iter() {
        for from in [Offset(0), Offset(2)] {
            let rows = table.read_file(file, &descriptor.schema, from).await?;
            let batches: Vec<_> = rows.try_collect().await?;
            read += batches.iter().map(|rows| rows.batch.num_rows()).sum::<usize>();
        }
    }
    Ok(format!("{} files {read} rows {history}", listed.len()))
}
