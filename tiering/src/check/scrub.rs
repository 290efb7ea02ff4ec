//! A stopped data directory with its lake, read to the last row and not changed.
//!
//! The hot side is [`Inspection`]'s; here each table's lake is found as another engine finds it, and its rows are
//! counted off: per bucket they must be exactly the offsets below what the lake says it holds, each once, and what the
//! hot tier has let go of must be among them. Of a table with a primary key the rows that live must be those that its
//! keys lead to, whichever tier they are in. All that is wrong is gathered; nothing is mended.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use futures::StreamExt;
use roaring::RoaringTreemap;
use thermocline_engine::disk::Disk;
use thermocline_engine::{Inspection, LogStarts, Table};
use thermocline_schemas::{BucketId, Error, Offset, PartitionBucket, PartitionId, Result, SystemColumn, TableName};

use super::{FilePartitions, LakeInspection, NamedFile};
use crate::{BucketStatus, Offsets, Warehouse};

/// What was found.
#[derive(Debug, Default)]
pub struct Scrub {
    pub buckets: Vec<ScrubbedBucket>,
    pub files: u64,
    pub frames: u64,
    /// Every row that was read, as often as it was: in the journal, in a segment, in the lake.
    pub rows: u64,
    pub bytes: u64,
    /// What is wrong, each with its file and byte, or its table, bucket and offset.
    pub damage: Vec<String>,
    /// What is odd, and as it may be after a crash.
    pub notes: Vec<String>,
}

/// One bucket as it lies there.
#[derive(Clone, Debug)]
pub struct ScrubbedBucket {
    pub table: TableName,
    pub status: BucketStatus,
    pub lake_files: u64,
}

/// Offsets that were found one after the other: first and end.
type Run = (u64, u64);

/// Offsets of rows that live, per bucket.
type Living = BTreeMap<PartitionBucket, RoaringTreemap>;

/// Reads it all. An error where nothing can be checked: no data directory, a server that runs, a store that does not
/// answer. `progress` is called with the bytes that were read since it was called last.
pub async fn scrub(
    disk: Arc<dyn Disk>,
    directory: &Path,
    warehouse: &str,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<Scrub> {
    let inspection = {
        let (directory, progress) = (directory.to_owned(), progress.clone());
        let inspecting = tokio::task::spawn_blocking(move || Inspection::of(disk, &directory, &*progress));
        inspecting.await.map_err(|error| Error::internal("reading the hot side").with_source(error))??
    };
    let totals = inspection.totals;
    let mut scrub = Scrub {
        buckets: Vec::new(),
        files: totals.journal_files + totals.segments + 1,
        frames: totals.frames,
        rows: totals.rows,
        bytes: totals.bytes,
        damage: inspection.damage.clone(),
        notes: inspection.notes.clone(),
    };
    for table in &inspection.tables {
        if !table.descriptor().properties.lake_enabled {
            scrub.without_lake(table);
            continue;
        }
        let lake = match Warehouse::open_to_read(warehouse) {
            Ok(warehouse) => find(&warehouse, table).await,
            Err(error) => Err(error),
        };
        match lake {
            Ok(Some(lake)) => scrub.lake(table, &lake, &*progress).await,
            Ok(None) => scrub.compare(table, &Offsets::default(), &BTreeMap::new()),
            Err(error) => {
                scrub.compare(table, &Offsets::default(), &BTreeMap::new());
                scrub.damage.push(format!("the lake of table {}: {}", table.descriptor().name, told(&error)));
            }
        }
    }
    Ok(scrub)
}

/// The lake of a table, at one of the places where it may be.
async fn find(warehouse: &Warehouse, table: &Table) -> Result<Option<LakeInspection>> {
    let descriptor = table.descriptor();
    let (id, made) = (descriptor.id, descriptor.created_ms);
    let name = format!("{}/{}", descriptor.name.database, descriptor.name.table);
    for root in [name.clone(), format!("{name}-{id}"), format!("{name}-{id}-{made}")] {
        if let Some(lake) = LakeInspection::newest(warehouse, &root).await?
            && lake.owner() == Some((id, made))
        {
            return Ok(Some(lake));
        }
    }
    Ok(None)
}

impl Scrub {
    fn without_lake(&mut self, table: &Table) {
        for (bucket, log) in table.buckets() {
            let floor = log.trim_floor();
            let status = BucketStatus {
                bucket,
                log_start: floor,
                trim_floor: floor,
                tiered_end: floor,
                durable_end: table.ends().end(bucket).max(floor),
            };
            let table = table.descriptor().name.clone();
            self.buckets.push(ScrubbedBucket { table, status, lake_files: 0 });
        }
        self.keys(table, &Offsets::default(), Living::new());
    }

    async fn lake(&mut self, table: &Table, lake: &LakeInspection, progress: &(dyn Fn(u64) + Send + Sync)) {
        let name = table.descriptor().name.to_string();
        self.files += 1;
        if let Err(error) = lake.version().check_history() {
            self.damage.push(told(&error));
        }
        let mut found = Found::default();
        let damaged = self.damage.len();
        let (mut files, mut deletes) = (Vec::new(), Vec::new());
        if lake.manifest_list().is_some() {
            self.files += 1;
            for manifest in self.keep(lake.manifests().await).unwrap_or_default() {
                self.files += 1;
                self.bytes += manifest.bytes;
                match manifest.deletes {
                    true => deletes.extend(self.keep(lake.deletes(&manifest).await).unwrap_or_default()),
                    false => files.extend(self.keep(lake.data_files(&manifest).await).unwrap_or_default()),
                }
            }
        }
        let puffins: BTreeMap<_, _> = deletes.iter().map(|one| (&one.url, one.bytes)).collect();
        self.files += puffins.len() as u64;
        self.bytes += puffins.into_values().sum::<u64>();
        let deleted = self.keep(lake.all_deleted(&files, &deletes).await).unwrap_or_default();
        let Some(partitions) = self.keep(FilePartitions::of(table.descriptor())) else { return };
        for file in &files {
            self.files += 1;
            self.bytes += file.bytes;
            let read = match partitions.partition(file) {
                Ok(partition) => self.file(lake, file, partition, &deleted, &mut found).await,
                Err(error) => Err(error),
            };
            if self.keep(read.map_err(|error| error.while_doing(&file.url))).is_none() {
                self.notes.push(format!("rows of {name} that are in {} were not counted", file.url));
            }
            progress(file.bytes);
        }
        let counts = found.runs.iter().map(|(bucket, (files, _))| (*bucket, *files)).collect();
        self.compare(table, &lake.version().offsets, &counts);
        // A file that cannot be read leaves a gap that says nothing more.
        if self.damage.len() > damaged {
            return;
        }
        if !table.descriptor().is_keyed() {
            let version = lake.version();
            return self.tile(&name, (&version.offsets, version.rows_gone), &table.ends().starts, found.runs);
        }
        let living = found.living.values().map(RoaringTreemap::len).sum::<u64>();
        match lake.version().live_rows() {
            Ok(said) if said == living => self.keys(table, &lake.version().offsets, found.living),
            Ok(said) => {
                self.damage.push(format!("the lake of table {name} has {living} rows, its metadata says {said}"))
            }
            Err(error) => self.damage.push(told(&error)),
        }
    }

    /// Reads a data file, and gathers which offsets of which buckets it has.
    async fn file(
        &mut self,
        lake: &LakeInspection,
        file: &NamedFile,
        partition: PartitionId,
        deleted: &HashMap<String, RoaringTreemap>,
        found: &mut Found,
    ) -> Result<()> {
        let keyed = lake.version().is_keyed;
        let deleted = deleted.get(&file.url);
        let mut batches = lake.rows(file).await?;
        let mut rows = 0;
        let mut living = Living::new();
        let mut last = None;
        let mut bounds: Option<(u64, u64)> = None;
        let mut own: BTreeMap<i32, Vec<Run>> = BTreeMap::new();
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            let other = || Error::corrupt("system columns of other types");
            let buckets = lake.column(&batch, SystemColumn::Bucket.name())?;
            let offsets = lake.column(&batch, SystemColumn::Offset.name())?;
            let buckets = buckets.as_primitive_opt::<Int32Type>().ok_or_else(other)?;
            let offsets = offsets.as_primitive_opt::<Int64Type>().ok_or_else(other)?;
            let positions = rows - batch.num_rows() as u64..rows;
            for ((bucket, offset), position) in buckets.values().iter().zip(offsets.values()).zip(positions) {
                let offset = *offset as u64;
                if keyed {
                    // Where a row stands is told by the order of offsets.
                    if last.replace(offset).is_some_and(|last| last >= offset) {
                        return Err(Error::corrupt(format!("offset {offset} comes too late")));
                    }
                    if deleted.is_none_or(|deleted| !deleted.contains(position)) {
                        living.entry(bucket_of(partition, *bucket)).or_default().insert(offset);
                    }
                }
                bounds = Some(bounds.map_or((offset, offset), |(low, high)| (low.min(offset), high.max(offset))));
                let runs = own.entry(*bucket).or_default();
                match runs.last_mut() {
                    Some((_, end)) if *end == offset => *end += 1,
                    _ => runs.push((offset, offset + 1)),
                }
            }
        }
        self.rows += rows;
        if rows != file.rows {
            return Err(Error::corrupt(format!("{rows} rows, its manifest says {}", file.rows)));
        }
        if let (Some((low, high)), Some(said)) = (bounds, file.offsets)
            && (Offset(low), Offset(high)) != said
        {
            let (first, last) = said;
            return Err(Error::corrupt(format!("offsets {low} to {high}, its manifest says {first} to {last}")));
        }
        for (bucket, own) in own {
            let (files, runs) = found.runs.entry(bucket_of(partition, bucket)).or_default();
            *files += 1;
            // Of a table with a primary key they are no runs worth keeping.
            runs.extend(own.into_iter().filter(|_| !keyed));
        }
        for (bucket, own) in living {
            let all = found.living.entry(bucket).or_default();
            if let Some(twice) = (&*all & &own).min() {
                return Err(Error::corrupt(format!("offset {twice} of bucket {bucket} is in another file too")));
            }
            *all |= own;
        }
        Ok(())
    }

    /// Whether the rows that live in both tiers are those that the keys of the table lead to.
    fn keys(&mut self, table: &Table, offsets: &Offsets, mut lake: Living) {
        if !table.descriptor().is_keyed() {
            return;
        }
        let name = &table.descriptor().name;
        for (bucket, log) in table.buckets() {
            let own = lake.remove(&bucket).unwrap_or_default();
            let tiered_end = offsets.get(bucket);
            if let Some(past) = own.max().filter(|past| Offset(*past) >= tiered_end) {
                self.damage.push(format!(
                    "the lake of table {name} bucket {bucket} has offset {past}, its metadata says that it ends at \
                     {tiered_end}"
                ));
                continue;
            }
            if log.refused().is_some() || log.trim_floor() > tiered_end || tiered_end > log.end() {
                // Said elsewhere.
                continue;
            }
            let compared = living(table, bucket, tiered_end, own).and_then(|living| {
                Ok((living, table.key_places(bucket)?.into_iter().map(|place| place.0).collect::<RoaringTreemap>()))
            });
            let Some((living, places)) = self.keep(compared) else { continue };
            let (lost, stray) = (&places - &living, &living - &places);
            for (offsets, what) in
                [(lost, "where a key leads, no row lives"), (stray, "a row lives that no key leads to")]
            {
                if let Some(first) = offsets.min() {
                    let count = offsets.len();
                    self.damage
                        .push(format!("table {name} bucket {bucket}: at {count} offsets, {first} the first, {what}"));
                }
            }
        }
        for bucket in lake.keys() {
            self.damage.push(format!("the lake of table {name} has bucket {bucket}, the table has none"));
        }
    }

    /// Whether the runs are exactly the offsets below the lake's, from the log's starts on. A lake that has not heard of
    /// the newest ones may begin before them, as many rows are there as it says.
    fn tile(
        &mut self,
        table: &str,
        (offsets, rows_gone): (&Offsets, u64),
        starts: &LogStarts,
        mut runs: BTreeMap<PartitionBucket, (u64, Vec<Run>)>,
    ) {
        let mut ends = Offsets::default();
        let is_new = starts.rows_gone() == rows_gone;
        let mut begins = 0;
        for (bucket, start) in starts.iter() {
            // One of which nothing is left.
            let end = start.min(offsets.get(bucket)).0;
            runs.entry(bucket).or_insert_with(|| (0, vec![(end, end)]));
        }
        for (bucket, (_, mut runs)) in runs {
            runs.sort_unstable();
            let start = starts.start(bucket).0;
            let mut next = match runs.first() {
                Some((first, _)) if !is_new => start.min(*first),
                _ => start,
            };
            begins += next;
            for (first, end) in runs {
                if first != next {
                    let what = if first > next { "misses offsets" } else { "has twice offsets" };
                    let (from, to) = (first.min(next), first.max(next));
                    self.damage.push(format!("the lake of table {table} bucket {bucket} {what} {from} to {to}"));
                }
                next = next.max(end);
            }
            ends.set(bucket, Offset(next));
        }
        if begins != rows_gone {
            self.damage.push(format!("the lake of table {table} misses {begins} rows, its metadata says {rows_gone}"));
        }
        for (bucket, found, said) in offsets.changes_since(&ends) {
            self.damage.push(format!(
                "the lake of table {table} bucket {bucket} ends at offset {found}, its metadata says {said}"
            ));
        }
    }

    /// Holds the lake's offsets against the hot side's.
    fn compare(&mut self, table: &Table, offsets: &Offsets, files: &BTreeMap<PartitionBucket, u64>) {
        let name = &table.descriptor().name;
        for (bucket, log) in table.buckets() {
            let status = BucketStatus {
                bucket,
                log_start: table.ends().start(bucket),
                trim_floor: log.trim_floor(),
                tiered_end: offsets.get(bucket).max(table.ends().start(bucket)),
                durable_end: log.end(),
            };
            let lake_files = files.get(&bucket).copied().unwrap_or(0);
            self.buckets.push(ScrubbedBucket { table: name.clone(), status, lake_files });
            if status.trim_floor > status.tiered_end {
                self.damage.push(format!(
                    "table {name} bucket {bucket}: hot rows start at offset {}, the lake ends at {}",
                    status.trim_floor, status.tiered_end
                ));
            }
            if status.tiered_end > status.durable_end {
                self.damage.push(format!(
                    "table {name} bucket {bucket}: the lake ends at offset {}, the journal at {}",
                    status.tiered_end, status.durable_end
                ));
            }
        }
    }

    fn keep<T>(&mut self, read: Result<T>) -> Option<T> {
        read.map_err(|error| self.damage.push(told(&error))).ok()
    }
}

/// What the data files of a lake hold.
#[derive(Default)]
struct Found {
    /// Of each bucket how many files, and its offsets.
    runs: BTreeMap<PartitionBucket, (u64, Vec<Run>)>,
    /// With a primary key.
    living: Living,
}

fn bucket_of(partition: PartitionId, bucket: i32) -> PartitionBucket {
    PartitionBucket { partition, bucket: BucketId(bucket as u32) }
}

/// The offsets of a bucket whose rows live: those of its lake that no hot change has ended, and the hot ones.
fn living(
    table: &Table,
    bucket: PartitionBucket,
    tiered_end: Offset,
    mut lake: RoaringTreemap,
) -> Result<RoaringTreemap> {
    let end = table.bucket(bucket)?.end();
    for hot in table.hot_rows(bucket, tiered_end, end)? {
        hot.each_ended(|offset| {
            lake.remove(offset.0);
        })?;
        for batch in hot.read(None) {
            let batch = batch?;
            let visible = batch.visible(end).ok_or_else(|| Error::internal("rows that do not know what ended them"))?;
            lake.extend(visible.values().set_indices().map(|row| batch.first.plus(row as u64).0));
        }
    }
    Ok(lake)
}

/// An error with its causes.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use thermocline_engine::disk::MemoryDisk;
    use thermocline_engine::{Change, ChangeRows, Engine, EngineOptions, Sender, SystemClock};
    use thermocline_schemas::{ColumnType, Properties, TableSchema};

    use super::*;

    /// What is said of a lake whose bucket 0 has these runs of offsets and claims to end at `end`.
    fn tiled(runs: &[Run], end: u64) -> Vec<String> {
        let bucket = PartitionBucket::unpartitioned(0);
        let mut scrub = Scrub::default();
        let offsets = Offsets::from_iter([(bucket, Offset(end))]);
        scrub.tile("public.t", (&offsets, 0), &LogStarts::default(), BTreeMap::from([(bucket, (1, runs.to_vec()))]));
        scrub.damage
    }

    #[test]
    fn lake_rows_are_counted_off() {
        assert_eq!(tiled(&[(5, 9), (0, 5)], 9), [""; 0], "in whatever order the files are");
        let gap = tiled(&[(0, 4), (5, 9)], 9);
        assert_eq!(gap, ["the lake of table public.t bucket 0/0 misses offsets 4 to 5"]);
        let twice = tiled(&[(0, 5), (3, 9)], 9);
        assert_eq!(twice, ["the lake of table public.t bucket 0/0 has twice offsets 3 to 5"]);
        let bucket = PartitionBucket::unpartitioned(0);
        let lost = |runs: &[Run], start: u64, rows_gone: u64| {
            let mut scrub = Scrub::default();
            let starts = LogStarts::at([(bucket, Offset(start))]);
            let runs = BTreeMap::from([(bucket, (1, runs.to_vec()))]);
            scrub.tile("public.t", (&Offsets::from_iter([(bucket, Offset(9))]), rows_gone), &starts, runs);
            scrub.damage
        };
        assert_eq!(lost(&[(4, 9)], 4, 4), [""; 0], "the log starts at 4");
        assert_eq!(lost(&[(0, 4), (4, 9)], 4, 0), [""; 0], "the lake has not heard of it");
        assert_eq!(lost(&[], 9, 9), [""; 0], "all is gone");
        let gone = "the lake of table public.t bucket 0/0 misses offsets 4 to 5";
        assert_eq!(lost(&[(5, 9)], 4, 4), [gone]);
        assert_eq!(lost(&[(4, 9)], 4, 0), ["the lake of table public.t misses 4 rows, its metadata says 0"]);
        let short = tiled(&[(0, 5)], 9);
        assert_eq!(short, ["the lake of table public.t bucket 0/0 ends at offset 5, its metadata says 9"]);
        let long = tiled(&[(0, 5)], 3);
        assert_eq!(long, ["the lake of table public.t bucket 0/0 ends at offset 5, its metadata says 3"]);
    }

    /// Three keys, of which one is replaced and one deleted after the lake's end: offsets 0 to 2, then 3 to 5.
    #[tokio::test]
    async fn keys_lead_to_the_rows_that_live() {
        let options = EngineOptions { upkeep: false, ..EngineOptions::default() };
        let engine = Engine::open(MemoryDisk::new(), Path::new("/data"), options, Arc::new(SystemClock)).unwrap();
        let schema = TableSchema::new([("id".to_owned(), ColumnType::Int64, false)]).unwrap();
        let name = TableName::parse("public", "k").unwrap();
        let key = ["id".to_owned()];
        let table = engine.create_table(name, schema, &key, Properties::default(), false).await.unwrap();
        for (ids, change) in [(vec![0, 1, 2], Change::Upsert), (vec![0], Change::Upsert), (vec![1], Change::Delete)] {
            let ids: ArrayRef = Arc::new(Int64Array::from(ids));
            let rows = RecordBatch::try_new(table.schema().clone(), vec![ids.clone()]).unwrap();
            let rows = ChangeRows::new(table.descriptor(), rows, vec![change; ids.len()]).unwrap();
            engine.change(&table, rows, Sender::default()).await.unwrap();
        }
        let bucket = PartitionBucket::unpartitioned(0);
        let said = |lake: &[u64], end: u64| {
            let mut scrub = Scrub::default();
            let living = BTreeMap::from([(bucket, lake.iter().copied().collect())]);
            scrub.keys(&table, &Offsets::from_iter([(bucket, Offset(end))]), living);
            scrub.damage
        };
        assert_eq!(said(&[0, 1, 2], 3), [""; 0]);
        assert_eq!(said(&[], 0), [""; 0], "nothing is in the lake");
        assert_eq!(said(&[2, 4], 6), [""; 0], "all is");
        let lost = "table public.k bucket 0/0: at 1 offsets, 2 the first, where a key leads, no row lives";
        let stray = "table public.k bucket 0/0: at 2 offsets, 0 the first, a row lives that no key leads to";
        assert_eq!(said(&[0, 1], 3), [lost]);
        assert_eq!(said(&[0, 1, 2, 4], 6), [stray]);
        assert_eq!(said(&[0, 1, 4], 6), [lost, stray]);
        let past = "the lake of table public.k bucket 0/0 has offset 4, its metadata says that it ends at 3";
        assert_eq!(said(&[0, 1, 2, 4], 3), [past]);
        engine.close();
    }
}
