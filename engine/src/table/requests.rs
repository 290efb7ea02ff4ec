//! Requests that are checked and spread over buckets, before their table's owner gives them offsets.

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use thermocline_schemas::{
    BucketId, Bucketing, Code, Error, Offset, PartitionBucket, PartitionId, Result, SchemaId, TableDescriptor,
    bucket_of_hash, fitted, hash_column, nullable,
};

use super::{Table, is_of_older_version};
use crate::engine::{REQUEST_BYTES_MAX, Sender};
use crate::faults::{self, Defect};
use crate::ipc::encode_batch;
use crate::journal::Part;
use crate::keys::{Change, ChangeRows, Share};
use crate::rows_digest::rows_digest;
use crate::writers::{Digest, WriterSequence};

/// A request that is checked and encoded, and needs only its offsets.
#[derive(Debug)]
pub struct Prepared {
    /// One part a bucket; a keyless request has one part whose bucket the owner chooses.
    pub parts: Vec<Part>,
    pub keyless: bool,
    pub writer: Option<(WriterSequence, Digest)>,
    pub tag: String,
    /// What the sender is told.
    pub rows: u64,
    pub ignored: u64,
    pub rejected: u64,
}

impl Prepared {
    /// Splits rows over buckets as the table wants it and encodes each share.
    pub fn new(table: &Table, rows: &RecordBatch, partitions: &RowPartitions, sender: Sender) -> Result<Prepared> {
        let Sender { writer, tag, digest, rejected } = sender;
        let schema_id = table.descriptor.schema.id;
        let mut parts = Vec::new();
        let mut encoded_bytes = 0;
        let mut part = |target, share: &RecordBatch| -> Result<Part> {
            let part = Part::new(target, schema_id, share.num_rows() as u32, encode_batch(share)?);
            // Each bucket's share is padded by column: many buckets of a wide table make much of few rows.
            encoded_bytes += part.payload.len() as u64;
            if encoded_bytes > 2 * REQUEST_BYTES_MAX {
                return Err(Error::new(Code::RequestTooLarge, "the request is too large once spread over its buckets")
                    .with_hint("send fewer rows at once"));
            }
            Ok(part)
        };
        let keyless = matches!(table.descriptor.bucketing, Bucketing::RoundRobin { .. });
        // A writer's empty request is a frame of no bucket.
        if rows.num_rows() > 0 {
            for (target, share) in shares(&table.descriptor, rows, partitions)? {
                parts.push(match share {
                    None => part(target, rows)?,
                    Some(share) => part(target, &take_record_batch(rows, &share)?)?,
                });
            }
        }
        let digest = || digest.map_or_else(|| rows_digest(rows, table.descriptor.schema.columns(), &[]), Ok);
        let writer = writer.map(|from| Ok::<_, Error>((from, digest()?))).transpose()?;
        Ok(Prepared { parts, keyless, writer, tag, rows: rows.num_rows() as u64, ignored: 0, rejected })
    }

    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.payload.len() as u64).sum()
    }
}

/// A request to a primary-key table that is checked and spread over buckets, and needs to be derived.
#[derive(Debug)]
pub struct PreparedChanges {
    pub shares: Vec<Share>,
    pub writer: Option<(WriterSequence, Digest)>,
    pub tag: String,
    pub rows: u64,
    pub ignored: u64,
    pub rejected: u64,
}

impl PreparedChanges {
    /// Checks keys and splits rows over buckets.
    pub fn new(table: &Table, request: &ChangeRows, partitions: &RowPartitions, sender: Sender) -> Result<Self> {
        let Sender { writer, tag, digest, rejected } = sender;
        let rows = request.rows();
        let hasher = &table.keys()?.hasher;
        let key: Vec<_> = table.descriptor.key_places().iter().map(|place| rows.column(*place).clone()).collect();
        let keys = hasher.hash_columns(&key)?;
        let groups = key.first().map(|first| hasher.hash_groups(first)).transpose()?.flatten().unwrap_or_default();
        let share = |(bucket, share): (PartitionBucket, Option<UInt32Array>)| -> Result<Share> {
            let Some(share) = share else {
                return Ok(Share {
                    bucket,
                    rows: rows.clone(),
                    changes: request.changes().to_vec(),
                    keys: keys.clone(),
                    groups: groups.clone(),
                    expected: request.expected().map(<[Offset]>::to_vec),
                });
            };
            let rows = take_record_batch(rows, &share)?;
            let share: Vec<_> = share.values().iter().map(|row| *row as usize).collect();
            Ok(Share {
                bucket,
                rows,
                changes: share.iter().map(|row| request.changes()[*row]).collect(),
                keys: share.iter().map(|row| keys[*row]).collect(),
                groups: share.iter().filter_map(|row| groups.get(*row).copied()).collect(),
                expected: request.expected().map(|all| share.iter().map(|row| all[*row]).collect()),
            })
        };
        let shares = shares(&table.descriptor, rows, partitions)?.into_iter().map(share).collect::<Result<Vec<_>>>()?;
        let digest = || digest.map_or_else(|| request.digest(&table.descriptor), Ok);
        let writer = writer.map(|from| Ok::<_, Error>((from, digest()?))).transpose()?;
        let (rows, ignored) = (rows.num_rows() as u64, request.ignored());
        Ok(PreparedChanges { shares, writer, tag, rows, ignored, rejected })
    }

    /// The same request, checked in one version of the columns, in those of another. One that names the rows which it changes read them in its own
    /// columns, and would take from them what it did not see.
    pub fn fit(&mut self, checked: SchemaId, table: &Table) -> Result<()> {
        if self.shares.iter().any(|share| share.expected.is_some()) {
            return Err(Error::new(Code::WriteConflict, "the table's columns were changed while the statement ran")
                .with_hint("run it again"));
        }
        if table.descriptor.schema.has_checks_after(checked) && !faults::planted(Defect::CheckOfOlderVersion) {
            return Err(is_of_older_version());
        }
        // A row that is to go may lack anything but its key.
        let target = nullable(&table.columns.schema);
        for share in &mut self.shares {
            share.rows = fitted(&share.rows, &target)?;
            let columns = table.descriptor.schema.columns().iter().zip(share.rows.columns());
            let is_upsert = |row: usize| share.changes[row] == Change::Upsert;
            for (_, values) in columns.filter(|(column, values)| !column.nullable && values.null_count() > 0) {
                let lacks = (0..share.changes.len()).any(|row| values.is_null(row) && is_upsert(row));
                if lacks && !faults::planted(Defect::OldVersionTaken) {
                    return Err(is_of_older_version());
                }
            }
        }
        Ok(())
    }
}

/// Which partition each row of a request is in.
#[derive(Clone, Debug)]
pub struct RowPartitions {
    /// None of one that is not there, for rows that say of keys in it that they are to go.
    partitions: Vec<Option<PartitionId>>,
    /// For each row, the number of its own among them; none where all are in the first.
    numbers: Option<Vec<u32>>,
}

impl Default for RowPartitions {
    /// Of a table without partitions.
    fn default() -> RowPartitions {
        RowPartitions { partitions: vec![Some(PartitionId(0))], numbers: None }
    }
}

impl RowPartitions {
    pub fn new(partitions: Vec<Option<PartitionId>>, numbers: Vec<u32>) -> RowPartitions {
        let numbers = (partitions.len() > 1).then_some(numbers);
        RowPartitions { partitions, numbers }
    }
}

/// Which rows go to which bucket, ascending, and none where all do. Rows of no partition go nowhere. Where the owner chooses the bucket, rows of one partition are one
/// share, of bucket 0.
fn shares(
    descriptor: &TableDescriptor,
    rows: &RecordBatch,
    of: &RowPartitions,
) -> Result<Vec<(PartitionBucket, Option<UInt32Array>)>> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let (buckets, hashes) = match descriptor.bucketing {
        Bucketing::RoundRobin { .. } => (1, None),
        Bucketing::Hash { buckets, column } => {
            let place = descriptor.schema.columns().iter().position(|own| own.id == column);
            let place = place.ok_or_else(|| Error::internal("the bucket key is no column"))?;
            (buckets, Some(hash_column(rows.column(place))?))
        }
    };
    let target = |share: usize| {
        let partition = of.partitions.get(share / buckets as usize).copied().flatten()?;
        Some(PartitionBucket { partition, bucket: BucketId((share % buckets as usize) as u32) })
    };
    if hashes.is_none() && of.numbers.is_none() {
        return Ok(target(0).map(|target| (target, None)).into_iter().collect());
    }
    let mut shares = vec![Vec::new(); of.partitions.len() * buckets as usize];
    for row in 0..rows.num_rows() {
        let partition = of.numbers.as_ref().map_or(0, |numbers| numbers[row] as usize);
        let partition = if faults::planted(Defect::PartitionIgnored) { 0 } else { partition };
        let bucket = hashes.as_ref().map_or(0, |hashes| bucket_of_hash(hashes[row], buckets) as usize);
        shares[partition * buckets as usize + bucket].push(row as u32);
    }
    let shares = shares.into_iter().enumerate().filter(|(_, share)| !share.is_empty());
    let shares = shares.filter_map(|(number, share)| Some((target(number)?, Some(share.into()))));
    let mut shares: Vec<_> = shares.collect();
    shares.sort_unstable_by_key(|(target, _)| *target);
    Ok(shares)
}
