//! A round: one pass of tiering of one table.
//!
//! It takes `[L, N)`: L is what the lake holds, read from the very version that the commit builds on, N is a cut. It writes
//! data files in offset order, commits them with their offsets as one Iceberg snapshot, publishes the boundary, and later
//! lets hot rows go. Of a primary-key table it writes the rows that live at N, and as deletes those of older files that
//! changes of `[L, N)` have ended; rows keep their offsets, so nobody has to learn where they are now. Each step may fail
//! and the round be begun again: files without a commit are never read, and a commit names the offsets that it starts at, so
//! rows enter once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use futures::stream::{self, StreamExt};
use thermocline_engine::faults::{self, CrashPoint, Defect};
use thermocline_engine::{HotBatch, HotRows, Table, TableEnds};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result, fitted_values, slice_bytes};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::lake::{Append, CommitOutcome, Ended, LakeFileWriter, LakeTable, LakeVersion, Offsets, WrittenFile};
use crate::masks::Masks;
use crate::metric_names;
use crate::split::HotPart;
use crate::tiering::{TableLake, Tiering};

/// A data file ends after so many rows or so many bytes in memory, whichever is first.
const FILE_ROWS_MAX: u64 = 16 << 20;
const FILE_BYTES_MAX: usize = 1 << 30;
/// A round writes files of so many buckets at once, if their hot rows together have no more than so many bytes.
const BUCKETS_AT_ONCE: usize = 8;
const BYTES_AT_ONCE: usize = 64 << 20;
/// A key in an index snapshot takes about as much as a small row.
const KEYS_PER_ROW: u64 = 4;
/// How often a round is planned anew because the lake was not where it seemed.
const PLANS_MAX: usize = 5;

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RoundReport {
    /// The snapshot that holds the rows; none if the table has never had any.
    pub snapshot_id: Option<i64>,
    pub rows: u64,
    pub files: u64,
    pub seconds: f64,
}

impl Tiering {
    /// Tiers all rows that are published now. Does nothing where nothing is new. An error if a bucket is refused, after the
    /// others were tiered.
    pub async fn tier(&self, table: &Arc<Table>) -> Result<RoundReport> {
        if !table.descriptor().properties.lake_enabled {
            return Err(Error::new(Code::WrongTableKind, format!("table {} has no lake", table.descriptor().name))
                .with_hint("lake_enabled = false keeps rows hot only"));
        }
        let early = faults::planted(Defect::RoundInOldColumns).then(|| self.engine().newest(table));
        faults::linger(Defect::RoundInOldColumns);
        let ends = table.ends();
        // After the ends: no row below them has columns that this version has not heard of. The lake gets these columns, and
        // its new files have them.
        let table = &early.unwrap_or_else(|| self.engine().newest(table));
        let lake = self.table_lake(table);
        let _one = lake.round.lock().await;
        check_kept(table)?;
        let started = Instant::now();
        let mut done = self.round(table, &lake, &ends).await;
        // Rows that were to be written may have been taken away meanwhile.
        let (mut table, mut ends) = (table.clone(), ends);
        while done.as_ref().is_err_and(|error| error.code() == Code::OffsetOutOfRetention)
            && table.ends().starts != ends.starts
        {
            ends = table.ends();
            table = self.engine().newest(&table);
            done = self.round(&table, &lake, &ends).await;
        }
        let table = &table;
        let name = table.descriptor().name.to_string();
        match &done {
            Ok(report) => {
                metrics::counter!(metric_names::TIERED_ROWS.name, "table" => name.clone()).increment(report.rows);
                metrics::histogram!(metric_names::ROUND_SECONDS.name, "table" => name)
                    .record(started.elapsed().as_secs_f64());
            }
            Err(error) => {
                let reason = error.code().as_str();
                metrics::counter!(metric_names::ROUND_FAILURES.name, "table" => name, "reason" => reason).increment(1);
            }
        }
        lake.note_round(self.engine().now_micros() / 1000, done.as_ref().err());
        let report = done?;
        table.check_served()?;
        Ok(RoundReport { seconds: started.elapsed().as_secs_f64(), ..report })
    }

    async fn round(&self, table: &Arc<Table>, table_lake: &TableLake, ends: &TableEnds) -> Result<RoundReport> {
        let lake = table_lake.open(self, table).await?;
        for _ in 0..PLANS_MAX {
            let version = lake.evolve(table.descriptor()).await?;
            version.check_history()?;
            table_lake.published.publish(table, lake, version.clone())?;
            let start = &version.offsets;
            let mut end = start.clone();
            end.merge_max(&ends.ends.iter().map(|(bucket, end)| (*bucket, *end)).collect());
            let log_starts: Offsets = ends.starts.iter().collect();
            // Of a refused bucket nobody knows where it ends, but where it starts.
            end.merge_max(&log_starts);
            if end == *start && log_starts.sum() <= version.rows_gone {
                return Ok(RoundReport { snapshot_id: version.snapshot_id(), ..RoundReport::default() });
            }
            faults::reached(CrashPoint::RoundPlanned);
            faults::linger(Defect::RoundSeesLater);
            let under_way = lake.begin();
            let commit_id = under_way.commit_id;
            let changes = end.changes_since(start).into_iter();
            let kept = changes.map(|(bucket, from, to)| (bucket, from.max(log_starts.get(bucket)), to));
            let changes: Vec<_> = kept.filter(|(_, from, to)| from < to).collect();
            let ended = match table.descriptor().is_keyed() {
                true => Some(ended(table, lake, &version, &changes).await?),
                false => None,
            };
            let stamps = stamps(table, &changes)?;
            let files = write_buckets(table, lake, commit_id, changes).await?;
            faults::reached(CrashPoint::DataFilesWritten);
            let append = Append { commit_id, start: start.clone(), end: end.clone(), files, ended, log_starts, stamps };
            if faults::planted(Defect::TrimmedUncommitted) {
                table_lake.remember_tiered(self.engine().now_micros() / 1000, end.clone());
            }
            if faults::planted(Defect::BoundaryBeforeCommit) {
                let ahead = LakeVersion { offsets: end.clone(), ..(*version).clone() };
                table_lake.published.publish_unchecked(lake, ahead);
                faults::linger(Defect::BoundaryBeforeCommit);
            }
            match lake.append(&append).await? {
                CommitOutcome::Committed(version) => {
                    table_lake.published.publish(table, lake, version.clone())?;
                    faults::reached(CrashPoint::BoundaryPublished);
                    let data = append.files.iter().map(WrittenFile::bytes).sum();
                    table_lake.note_weight(data, version.added_bytes().saturating_sub(data));
                    table_lake.sweep_if_due(lake, &version).await;
                    table_lake.remember_tiered(self.engine().now_micros() / 1000, version.offsets.clone());
                    return Ok(RoundReport {
                        snapshot_id: version.snapshot_id(),
                        rows: append.files.iter().map(|file| file.rows()).sum(),
                        files: append.files.len() as u64,
                        seconds: 0.0,
                    });
                }
                CommitOutcome::Stale(version) => {
                    let found = &version.offsets;
                    let name = table.descriptor().name.to_string();
                    metrics::counter!(metric_names::ROUND_REPLANS.name, "table" => name).increment(1);
                    tracing::info!(table = %table.descriptor().name, %start, %found, "the lake has moved, planning anew");
                }
            }
        }
        Err(Error::new(Code::LakeConflict, format!("the lake moved {PLANS_MAX} times while a round was being written"))
            .with_hint("does another server tier the same table?"))
    }

    /// Lets hot rows of one table go whose time is up, as the scheduler does by itself.
    pub async fn let_go_now(&self, table: &Arc<Table>) -> Result<()> {
        self.let_go(table, &self.table_lake(table)).await
    }

    /// Lets hot rows go whose time is up: a while after they were tiered, or, without a lake, after they were accepted.
    pub(crate) async fn let_go(&self, table: &Arc<Table>, lake: &TableLake) -> Result<()> {
        let properties = &table.descriptor().properties;
        let now = self.engine().now_micros();
        if !properties.lake_enabled {
            if table.descriptor().is_keyed() {
                // Its hot rows are its state, which nothing else holds.
                return Ok(());
            }
            if !lake.is_time_to_let_go(now / 1000) {
                return Ok(());
            }
            let before = now.saturating_sub((properties.hot_retention_ms as i64).saturating_mul(1000));
            let ends = table.ends();
            let floors = table.buckets().map(|(bucket, log)| (bucket, log.offset_at(before, ends.end(bucket))));
            return self.engine().trim(table, floors.collect()).await;
        }
        let retired = lake.retired((now / 1000).saturating_sub(properties.hot_retention_ms as i64));
        let retired = retired.or_else(|| {
            let fits = |offsets: &Offsets| {
                let bytes = table.buckets().map(|(bucket, log)| log.bytes_from(offsets.get(bucket)));
                properties.hot_bytes_max.is_none_or(|most| bytes.sum::<u64>() <= most)
            };
            // What is hot from the first offset on is all that is hot.
            if fits(&Offsets::default()) { None } else { lake.fitting(fits) }
        });
        let Some((tiered_ms, offsets)) = retired else { return Ok(()) };
        if !is_worth_it(table, &offsets) {
            lake.not_let_go(tiered_ms, offsets);
            return Ok(());
        }
        let trimmed = self.engine().trim(table, offsets.iter().collect()).await;
        if trimmed.is_err() {
            lake.not_let_go(tiered_ms, offsets);
        }
        trimmed
    }
}

/// An error if the table was dropped: nothing of it may be written after its lake is gone.
pub(crate) fn check_kept(table: &Table) -> Result<()> {
    match table.is_dropped() {
        true => Err(Error::new(Code::TableDropped, format!("table {} was dropped", table.descriptor().name))),
        false => Ok(()),
    }
}

/// Whether so many hot rows may go that writing down what they say of their keys costs less than keeping them.
fn is_worth_it(table: &Table, offsets: &Offsets) -> bool {
    let Some(figures) = table.key_figures() else { return true };
    let buckets = table.buckets().map(|(bucket, log)| offsets.get(bucket).0.saturating_sub(log.trim_floor().0));
    buckets.sum::<u64>() >= figures.keys / KEYS_PER_ROW
}

/// When the first and the last of these changes were accepted.
fn stamps(table: &Table, changes: &[(PartitionBucket, Offset, Offset)]) -> Result<Option<(i64, i64)>> {
    let mut stamps: Option<(i64, i64)> = None;
    for (bucket, from, to) in changes.iter().copied() {
        for rows in table.hot_rows(bucket, from, to)? {
            let (Some(first), Some(last)) = (rows.first_stamp(), rows.last_stamp()) else { continue };
            stamps = Some(stamps.map_or((first, last), |known| (known.0.min(first), known.1.max(last))));
        }
    }
    Ok(stamps)
}

/// The rows of a version that these changes have ended.
async fn ended(
    table: &Table,
    lake: &LakeTable,
    version: &LakeVersion,
    changes: &[(PartitionBucket, Offset, Offset)],
) -> Result<Ended> {
    let mut parts = Vec::with_capacity(changes.len());
    for (bucket, from, to) in changes.iter().copied() {
        parts.push(HotPart { bucket, from, to, rows: table.hot_rows(bucket, from, to)? });
    }
    let files = lake.data_files(version).await?;
    let mut ended = Masks::of(&parts)?.positions(lake, &files).await?;
    if faults::planted(Defect::EndedRowsKept) {
        ended.clear();
    }
    Ok(Ended { base: version.version, files: ended })
}

/// Writes these changes, some buckets at once: many if they are small, where what takes time is the store's answer.
///
/// After an error no further bucket is begun; those under way end as they do, and take back what they sent if they fail.
async fn write_buckets(
    table: &Table,
    lake: &LakeTable,
    commit_id: Uuid,
    changes: Vec<(PartitionBucket, Offset, Offset)>,
) -> Result<Vec<WrittenFile>> {
    let room = Semaphore::new(BYTES_AT_ONCE);
    let has_failed = AtomicBool::new(false);
    let (room, has_failed) = (&room, &has_failed);
    let writes = changes.into_iter().map(|(bucket, from, to)| async move {
        let bytes = table.bucket(bucket)?.bytes_from(from).clamp(1, BYTES_AT_ONCE as u64);
        let _room = room.acquire_many(bytes as u32).await.map_err(|_| Error::internal("a round's room is closed"))?;
        if has_failed.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let written = write_bucket(table, lake, commit_id, bucket, from, to).await;
        has_failed.fetch_or(written.is_err(), Ordering::Relaxed);
        written
    });
    let written: Vec<Result<_>> = stream::iter(writes).buffered(BUCKETS_AT_ONCE).collect().await;
    let mut files = Vec::new();
    for written in written {
        files.extend(written?);
    }
    Ok(files)
}

/// Writes `[from, to)` of one bucket as one data file or more; of a primary-key table, those that live at `to`.
async fn write_bucket(
    table: &Table,
    lake: &LakeTable,
    commit_id: Uuid,
    bucket: PartitionBucket,
    from: Offset,
    to: Offset,
) -> Result<Vec<WrittenFile>> {
    let mut files = Vec::new();
    let mut writer: Option<LakeFileWriter> = None;
    let (mut rows, mut bytes) = (0, 0);
    let columns = table.descriptor().schema.lake_arrow();
    for hot in table.hot_rows(bucket, from, to)? {
        for batch in lake_batches(&hot, bucket, to, &columns) {
            if batch.as_ref().is_ok_and(|batch| batch.num_rows() == 0) {
                continue;
            }
            let mut open = match writer.take() {
                Some(writer) => writer,
                None => lake.file_writer_in(commit_id, bucket, columns.clone())?,
            };
            let written = match batch {
                Ok(batch) => {
                    rows += batch.num_rows() as u64;
                    // Not what the arrays hold on to, which may be a whole segment for each.
                    let columns = batch.columns().iter();
                    bytes += columns.map(|column| slice_bytes(column)).sum::<usize>();
                    open.write(batch).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                open.abort().await;
                return Err(error);
            }
            if rows >= FILE_ROWS_MAX || bytes >= FILE_BYTES_MAX {
                (rows, bytes) = (0, 0);
                files.push(open.finish().await?);
            } else {
                writer = Some(open);
            }
        }
    }
    if let Some(writer) = writer {
        files.push(writer.finish().await?);
    }
    Ok(files)
}

fn lake_batches(
    hot: &HotRows,
    bucket: PartitionBucket,
    end: Offset,
    schema: &SchemaRef,
) -> impl Iterator<Item = Result<RecordBatch>> {
    let end = if faults::planted(Defect::RoundSeesLater) { Offset(u64::MAX) } else { end };
    hot.read(None).map(move |batch| {
        let batch = batch?;
        let rows = lake_batch(&batch, bucket, schema)?;
        match batch.visible(end) {
            Some(living) => Ok(filter_record_batch(&rows, &living)?),
            None => Ok(rows),
        }
    })
}

/// Hot rows in the lake's columns: small integers widened, bucket, offset and timestamp added.
pub(crate) fn lake_batch(hot: &HotBatch, bucket: PartitionBucket, schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = hot.batch.num_rows();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (column, field) in hot.batch.columns().iter().zip(schema.fields()) {
        columns.push(fitted_values(column, field.data_type())?);
    }
    let offsets = Int64Array::from_iter_values((0..rows as u64).map(|row| hot.first.plus(row).0 as i64));
    let stamps = TimestampMicrosecondArray::from_iter_values(hot.stamps.values()).with_timezone("UTC");
    let system: [ArrayRef; 3] =
        [Arc::new(Int32Array::from_value(bucket.bucket.0 as i32, rows)), Arc::new(offsets), Arc::new(stamps)];
    columns.extend(system);
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// The rows of `offsets` past `ends` would be a fault; used to show lag.
pub(crate) fn lag_rows(ends: &TableEnds, tiered: &Offsets) -> u64 {
    let rows = |(bucket, end): (&PartitionBucket, &Offset)| end.since(tiered.get(*bucket).max(ends.start(*bucket)));
    ends.ends.iter().map(rows).sum()
}
