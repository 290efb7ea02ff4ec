//! Read splits against the list: the one cut that everything else reads, row by row.

use std::collections::HashSet;
use std::fmt::Debug;

use futures::StreamExt;
use thermocline_engine::{BucketLog, HotRows, Stamps, Table};
use thermocline_schemas::{BucketId, Offset, PartitionBucket, PartitionId};
use thermocline_tiering::{LakePart, ReadSplit};

use crate::oracle::{self, Oracle, Row, shown};

/// The same, or where they differ first.
pub fn same<T: PartialEq + Debug>(what: &str, found: &[T], expected: &[T]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    Err(format!(
        "{what}: {} rows, expected {}; first difference at {at}: {:?}, expected {:?}",
        found.len(),
        expected.len(),
        found.get(at),
        expected.get(at)
    ))
}

/// The bucket with this number. Test tables with partitions have their rows in those buckets whose number is that of their
/// partition: both are made of the same column by the same hash.
pub fn bucket(table: &Table, number: usize) -> PartitionBucket {
    let partition = if table.descriptor().is_partitioned() { PartitionId(number as u32) } else { PartitionId(0) };
    PartitionBucket { partition, bucket: BucketId(number as u32) }
}

/// Those of a table's buckets that may have rows, by number.
pub fn buckets(table: &Table) -> impl Iterator<Item = (PartitionBucket, &BucketLog)> {
    let is_own = |at: &PartitionBucket| *at == bucket(table, at.bucket.0 as usize);
    table.buckets().filter(move |(at, _)| is_own(at))
}

/// Which rows of a table are where, as a reader finds it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tiers {
    pub lake: bool,
    /// Hot rows that are not in the lake and lie in a segment.
    pub segments: bool,
    /// Hot rows that are not in the lake and are only in memory and the journal.
    pub tail: bool,
}

impl Tiers {
    pub const ALL: [Tiers; 8] = {
        let mut all = [Tiers { lake: false, segments: false, tail: false }; 8];
        let mut bits = 0;
        while bits < 8 {
            all[bits] = Tiers { lake: bits & 4 > 0, segments: bits & 2 > 0, tail: bits & 1 > 0 };
            bits += 1;
        }
        all
    };

    pub fn of(split: &ReadSplit) -> Tiers {
        let mut tiers = Tiers { lake: split.lake_rows() > 0, segments: false, tail: false };
        for part in &split.hot {
            let covered = split.table.bucket(part.bucket).map_or(Offset::ZERO, |log| log.covered());
            tiers.segments |= part.from < covered;
            tiers.tail |= covered < part.to;
        }
        tiers
    }

    pub fn name(self) -> String {
        let named = [(self.lake, "lake"), (self.segments, "segments"), (self.tail, "tail")];
        let named: Vec<_> = named.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
        if named.is_empty() { "nothing".to_owned() } else { named.join(" + ") }
    }
}

/// The end of what a split takes from the lake, per bucket.
pub fn lake_ends(split: &ReadSplit, buckets: usize) -> Vec<u64> {
    let offset =
        |number| split.lake.as_ref().map_or(0, |lake| lake.version.offsets.get(bucket(&split.table, number)).0);
    (0..buckets).map(offset).collect()
}

/// Compares splits with the list. Data files never change, so each is read once until [`Audit::forget`].
#[derive(Debug, Default)]
pub struct Audit {
    verified: HashSet<(String, u32)>,
}

impl Audit {
    /// After a power cut nothing is believed.
    pub fn forget(&mut self) {
        self.verified.clear();
    }

    /// The split's parts tile every bucket from what is kept to the list's end, and hold the list's rows.
    pub async fn split(&mut self, split: &ReadSplit, oracle: &Oracle) -> Result<Tiers, String> {
        let table = &split.table.descriptor().name;
        let served = buckets(&split.table).filter_map(|(bucket, _)| split.ends.ends.get(&bucket));
        let ends: Vec<u64> = served.map(|end| end.0).collect();
        same(&format!("the ends of {table}"), &ends, &oracle.ends())?;
        if let Some(lake) = &split.lake {
            self.lake(lake, &split.table, oracle).await.map_err(|failure| format!("the lake of {table}: {failure}"))?;
        }
        let tiered = lake_ends(split, oracle.buckets.len());
        let mut hot = split.hot.iter();
        for (number, rows) in oracle.buckets.iter().enumerate() {
            let from = tiered[number].max(oracle.floors[number]);
            if from >= rows.len() as u64 {
                continue;
            }
            let part = hot.next().ok_or_else(|| format!("bucket {number} of {table} has no hot part from {from}"))?;
            if (part.bucket, part.from.0, part.to.0) != (bucket(&split.table, number), from, rows.len() as u64) {
                return Err(format!("{table}: the hot part {part:?} should be [{from}, {})", rows.len()));
            }
            let found = read_hot(&part.rows)?;
            let expected = shown(&rows[from as usize..], field_of(&split.table));
            same(&format!("the hot rows of {table} from {number}:{from}"), &found, &expected)?;
        }
        match hot.next() {
            Some(part) => Err(format!("{table}: a hot part that should not be: {part:?}")),
            None => Ok(Tiers::of(split)),
        }
    }

    async fn lake(&mut self, lake: &LakePart, table: &Table, oracle: &Oracle) -> Result<(), String> {
        let claimed: Vec<_> =
            (0..oracle.buckets.len()).map(|number| lake.version.offsets.get(bucket(table, number)).0).collect();
        let mut reached: Vec<_> = oracle.floors.iter().zip(&claimed).map(|(floor, end)| *floor.min(end)).collect();
        for file in lake.files.iter() {
            let number = file.bucket.bucket.0 as usize;
            let (from, to) = (file.first_offset.0, file.end_offset.0);
            if reached[number] != from {
                return Err(format!("bucket {number} reaches {}, {} begins at {from}", reached[number], file.url));
            }
            reached[number] = to;
            let verified = (file.url.clone(), field_of(table));
            if self.verified.contains(&verified) {
                continue;
            }
            let expected = oracle.buckets[number].get(from as usize..to as usize);
            let expected = expected.ok_or_else(|| format!("{} reaches to {to}, past the list", file.url))?;
            let schema = &table.descriptor().schema;
            let mut found = Vec::new();
            let mut rows = lake.table.read_file(file, schema, Offset(0)).await.map_err(|error| format!("{error:?}"))?;
            while let Some(rows) = rows.next().await {
                let rows = rows.map_err(|error| format!("{error:?}"))?;
                found.extend(read_batch(&rows.batch, &rows.stamps)?);
            }
            same(&file.url, &found, &shown(expected, field_of(table)))?;
            self.verified.insert(verified);
        }
        same("its offsets", &claimed, &reached)
    }
}

/// The rows of a batch in the table's columns, each with its contents checked.
pub fn read_batch(batch: &arrow::array::RecordBatch, stamps: &Stamps) -> Result<Vec<Row>, String> {
    let fields = oracle::fields_shown(batch)?;
    let rows = oracle::ids(batch)?.into_iter().zip(stamps.values()).zip(fields);
    Ok(rows.map(|((id, stamp), field)| Row { id, stamp, field }).collect())
}

/// The passing column of a table; 0 if it has none.
pub fn field_of(table: &Table) -> u32 {
    oracle::passing_column(table).map_or(0, |(_, field)| field)
}

pub fn read_hot(parts: &[HotRows]) -> Result<Vec<Row>, String> {
    let mut found = Vec::new();
    for part in parts {
        for batch in part.read(None) {
            let batch = batch.map_err(|error| format!("hot rows: {error:?}"))?;
            found.extend(read_batch(&batch.batch, &batch.stamps)?);
        }
    }
    Ok(found)
}

/// Everything that a split holds, per bucket, whatever the list says.
pub async fn read_split(split: &ReadSplit, from: &[u64]) -> Result<Vec<Vec<Row>>, String> {
    let mut found = vec![Vec::new(); from.len()];
    if let Some(lake) = &split.lake {
        for file in lake.files.iter() {
            let number = file.bucket.bucket.0 as usize;
            if file.end_offset.0 <= from[number] {
                continue;
            }
            let schema = &split.table.descriptor().schema;
            let first = Offset(from[number]);
            let mut rows = lake.table.read_file(file, schema, first).await.map_err(|error| format!("{error:?}"))?;
            while let Some(rows) = rows.next().await {
                let rows = rows.map_err(|error| format!("{}: {error:?}", file.url))?;
                found[number].extend(read_batch(&rows.batch, &rows.stamps)?);
            }
        }
    }
    for part in &split.hot {
        let number = part.bucket.bucket.0 as usize;
        let skipped = from[number].saturating_sub(part.from.0) as usize;
        found[number].extend(read_hot(&part.rows)?.into_iter().skip(skipped));
    }
    Ok(found)
}
