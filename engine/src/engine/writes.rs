//! Rows on their way in: checked, given partitions, encoded, in a table with a key made into changes, and handed to the journal
//! with a ticket of the table's owner.
//!
//! Always: all rows of a request or none; answered when they are durable and visible; a request that is known by its writer
//! is told what it was told before.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use thermocline_schemas::{Code, Error, PartitionValues, Result};
use tokio::runtime::RuntimeFlavor;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::{
    Engine, FETCHES_MAX, INLINE_BYTES_MAX, REQUEST_BYTES_MAX, Sender, TAG_BYTES_MAX, apart_if_large, closing, lost,
};
use crate::cold::Fetched;
use crate::core::Context;
use crate::edit::Edit;
use crate::faults::{self, Defect};
use crate::ipc::{batch_bytes, encode_batch};
use crate::journal::{Draft, FrameKind, Part, Ticket};
use crate::keys::{Change, ChangeRows, DERIVED_BYTES_MAX, Derived};
use crate::memory_budget::Reservation;
use crate::rows_digest::rows_digest;
use crate::table::{Decision, Deriver, Prepared, PreparedChanges, RowPartitions, Table};
use crate::writers::{Answer, Digest, Verdict};

impl Engine {
    /// Appends rows, which have the table's columns, to a log table as one frame: all or nothing. Answers when they are
    /// durable and visible.
    pub async fn append(&self, table: &Arc<Table>, rows: RecordBatch, sender: Sender) -> Result<Answer> {
        if rows.schema_ref().fields() != table.schema().fields() {
            return Err(Error::internal("rows that do not have the table's columns"));
        }
        if table.descriptor().is_keyed() {
            let rows = ChangeRows::upserts(table.descriptor(), rows)?;
            return self.change(table, rows, sender).await;
        }
        let bytes = check_request(&rows, &sender)?;
        if rows.num_rows() == 0 && sender.writer.is_none() {
            return Ok(Answer { rejected: sender.rejected, ..Answer::default() });
        }
        let mut memory = self.core.budget.reserve(bytes, self.core.options.patience).await?;
        if let Err(broken) = self.check_rows(table, &rows, None).await {
            let digest = || rows_digest(&rows, table.descriptor().schema.columns(), &[]);
            return Self::told_before(table, &sender, digest).unwrap_or(Submitted::Refused(broken)).answer().await;
        }
        let partitions = self.row_partitions(table, &rows, None).await?;
        let encode = {
            let table = table.clone();
            move || Prepared::new(&table, &rows, &partitions, sender)
        };
        let prepared = apart_if_large(bytes, encode).await?;
        table.check_takes(&prepared)?;
        let encoded = prepared.bytes();
        if encoded <= bytes {
            memory.shrink_to(encoded);
        } else {
            memory = self.core.budget.exchange(memory, encoded);
        }
        match self.submit(table, prepared, memory, None) {
            Err(error) if error.code() == Code::WriteConflict => {
                // Whoever sends again then finds the version that refused it.
                drop(self.ddl.lock().await);
                Err(error)
            }
            submitted => submitted?.answer().await,
        }
    }

    /// Upserts and deletes rows of a primary-key table as one frame: all or nothing, in the request's order. Answers when
    /// the changes are durable and visible.
    pub async fn change(&self, table: &Arc<Table>, request: ChangeRows, sender: Sender) -> Result<Answer> {
        let bytes = check_request(request.rows(), &sender)?;
        if request.rows().num_rows() == 0 && sender.writer.is_none() {
            return Ok(Answer { ignored: request.ignored(), rejected: sender.rejected, ..Answer::default() });
        }
        let memory = self.core.budget.reserve(bytes, self.core.options.patience).await?;
        if let Err(broken) = self.check_rows(table, request.rows(), Some(request.changes())).await {
            let digest = || request.digest(table.descriptor());
            return Self::told_before(table, &sender, digest).unwrap_or(Submitted::Refused(broken)).answer().await;
        }
        let partitions = self.row_partitions(table, request.rows(), Some(request.changes())).await?;
        let prepare = {
            let table = table.clone();
            move || PreparedChanges::new(&table, &request, &partitions, sender)
        };
        let prepared = apart_if_large(bytes, prepare).await?;
        self.check_key_room(table, &prepared)?;
        let mut table = table.clone();
        let mut request = Some((prepared, memory));
        let mut attempts = 1;
        while let Some((prepared, _)) = &mut request {
            // Before its turn: a store may take long to answer.
            let fetched = match self.old_rows(&table, prepared).await {
                Err(error) if error.code() == Code::OffsetOutOfRetention && attempts < FETCHES_MAX => {
                    attempts += 1;
                    continue;
                }
                fetched => fetched.map_err(lost)?,
            };
            let deriver = table.deriver().await?;
            // Held, it keeps the columns as they are.
            let newest = self.newest(&table);
            let is_newest = newest.has_columns_of(&table);
            if !is_newest && !faults::planted(Defect::OldColumnsDerived) {
                prepared.fit(table.descriptor().schema.id, &newest)?;
                table = newest;
                continue;
            }
            let verdict = match &prepared.writer {
                Some((from, digest)) => table.owner().writers.judge(from, digest)?,
                None => Verdict::New,
            };
            let submitted = match verdict {
                Verdict::New => self.derive_and_submit(&table, deriver, &mut request, &fetched, bytes),
                settled => {
                    drop(deriver);
                    Ok(Submitted::Settled(settled))
                }
            };
            match submitted {
                // An old row was let go since the rows were fetched.
                Err(error) if error.code() == Code::OffsetOutOfRetention && attempts < FETCHES_MAX => attempts += 1,
                submitted => return submitted.map_err(lost)?.answer().await,
            }
        }
        Err(Error::internal("a request that was submitted and not answered"))
    }

    /// What was answered to a request that is known by its digest; none if it is new.
    pub async fn repeat(&self, table: &Arc<Table>, sender: &Sender) -> Result<Option<Answer>> {
        let (Some(from), Some(digest)) = (&sender.writer, &sender.digest) else { return Ok(None) };
        let verdict = table.owner().writers.judge(from, digest)?;
        match verdict {
            Verdict::New => Ok(None),
            settled => Submitted::Settled(settled).answer().await.map(Some),
        }
    }

    /// What is wrong with those of these rows that do not fit the table although they have its columns, by row. With a
    /// primary key they have those of its changes, and `change` is what is wanted where they do not say it.
    pub fn wrong_rows(
        &self,
        table: &Table,
        rows: &RecordBatch,
        change: Option<Change>,
    ) -> Result<BTreeMap<usize, Error>> {
        let descriptor = table.descriptor();
        let mut wrong = BTreeMap::new();
        let mut deletes = vec![false; rows.num_rows()];
        if let Some(change) = change {
            ChangeRows::wrong(descriptor, rows, change, &mut deletes, &mut wrong)?;
            let key: Vec<_> = descriptor.key_places().iter().map(|place| rows.column(*place).clone()).collect();
            for (row, error) in table.keys()?.hasher.wrong_keys(&key)? {
                wrong.entry(row).or_insert(error);
            }
        }
        if descriptor.is_partitioned() {
            let (values, numbers) = table.partition_values(rows)?;
            let partitions = descriptor.wrong_partitions(&values);
            for (row, number) in numbers.iter().enumerate().filter(|(row, _)| !deletes[*row]) {
                if let Some(error) = &partitions[*number as usize] {
                    wrong.entry(row).or_insert_with(|| error.again().with_row(row as u64));
                }
            }
        }
        if !descriptor.schema.checks().is_empty() {
            let is_tested = |row: usize| !deletes[row] && !wrong.contains_key(&row);
            let broken = self.conditions().broken(descriptor, rows, &is_tested, usize::MAX)?;
            for error in broken {
                let row = error.row().ok_or_else(|| Error::internal("a broken constraint of no row"))?;
                wrong.insert(row as usize, error);
            }
        }
        Ok(wrong)
    }

    /// What becomes of a request that was sent before: it may break a constraint which was not there then.
    fn told_before(table: &Table, sender: &Sender, digest: impl FnOnce() -> Result<Digest>) -> Option<Submitted> {
        let from = sender.writer.as_ref()?;
        let digest = sender.digest.map_or_else(digest, Ok).ok()?;
        match table.owner().writers.judge(from, &digest) {
            Ok(Verdict::New) | Err(_) => None,
            Ok(settled) => Some(Submitted::Settled(settled)),
        }
    }

    /// An error that names the first row which breaks a constraint of this version of the table. Rows that are to go are
    /// not looked at.
    async fn check_rows(&self, table: &Arc<Table>, rows: &RecordBatch, changes: Option<&[Change]>) -> Result<()> {
        if table.descriptor().schema.checks().is_empty() || rows.num_rows() == 0 {
            return Ok(());
        }
        let conditions = self.conditions();
        let (bytes, changes) = (batch_bytes(rows), changes.map(<[Change]>::to_vec));
        let (table, rows) = (table.clone(), rows.clone());
        let check = move || {
            let comes = |row: usize| changes.as_ref().is_none_or(|changes| changes[row] == Change::Upsert);
            match conditions.broken(table.descriptor(), &rows, &comes, 1)?.into_iter().next() {
                Some(broken) => Err(broken),
                None => Ok(()),
            }
        };
        apart_if_large(bytes, check).await
    }

    /// Which partition each of these rows is in. Those that are not there yet are made, and stay whatever becomes of the
    /// rows; but not for keys that are to go.
    async fn row_partitions(
        &self,
        table: &Arc<Table>,
        rows: &RecordBatch,
        changes: Option<&[Change]>,
    ) -> Result<RowPartitions> {
        if !table.descriptor().is_partitioned() {
            return Ok(RowPartitions::default());
        }
        let find = {
            let (table, rows) = (table.clone(), rows.clone());
            move || table.partition_values(&rows)
        };
        let (values, numbers) = apart_if_large(batch_bytes(rows), find).await?;
        let mut ids = table.partition_ids(&values);
        if ids.contains(&None) {
            let mut needed = vec![changes.is_none(); values.len()];
            for (number, change) in numbers.iter().zip(changes.into_iter().flatten()) {
                needed[*number as usize] |= *change == Change::Upsert;
            }
            let needed = values.iter().zip(needed).filter(|(_, needed)| *needed).map(|(own, _)| own.clone());
            self.add_partitions(table, needed.collect()).await?;
            ids = table.partition_ids(&values);
        }
        Ok(RowPartitions::new(ids, numbers))
    }

    /// Makes those of these partitions that are not there, all or none of them.
    async fn add_partitions(&self, table: &Arc<Table>, mut wanted: Vec<PartitionValues>) -> Result<()> {
        let turn = self.ddl.clone().lock_owned().await;
        let newest = self.newest(table);
        if newest.is_dropped() {
            return Err(Error::new(Code::TableDropped, format!("table {} was dropped", newest.descriptor().name)));
        }
        let mut ids = newest.partition_ids(&wanted).into_iter();
        wanted.retain(|_| ids.next() == Some(None));
        if wanted.is_empty() {
            return Ok(());
        }
        newest.descriptor().with_partitions(&wanted)?;
        let edit = Edit::AddPartitions { table: newest.descriptor().id, partitions: wanted };
        self.edit(edit, Some(turn)).await
    }

    /// Whether what the request's keys may take is there. Deletes are always taken: they make room.
    fn check_key_room(&self, table: &Table, request: &PreparedChanges) -> Result<()> {
        if request.shares.iter().all(|share| share.changes.iter().all(|change| *change == Change::Delete)) {
            return Ok(());
        }
        let (used, growth, max) = (self.core.key_bytes(), table.key_growth(request)?, self.core.options.key_bytes_max);
        if used + growth > max {
            return Err(Error::new(
                Code::IndexFull,
                format!("primary keys take {used} bytes and would take {growth} more, {max} are the most"),
            )
            .with_hint("delete keys or drop tables, or start the server with a larger --key-memory"));
        }
        Ok(())
    }

    /// The old rows that a request needs and that are no longer hot.
    async fn old_rows(&self, table: &Arc<Table>, request: &PreparedChanges) -> Result<Fetched> {
        let mut fetched = Fetched::default();
        let mut left = DERIVED_BYTES_MAX;
        for share in &request.shares {
            let offsets = table.cold_places(share)?;
            if !offsets.is_empty() {
                let rows = self.cold()?.rows(table, share.bucket, &offsets, left).await?;
                left = left.saturating_sub(batch_bytes(&rows));
                fetched.add(share.bucket, offsets, rows);
            }
        }
        Ok(fetched)
    }

    /// Whoever stops waiting stops before or after this, never within it.
    fn derive_and_submit(
        &self,
        table: &Arc<Table>,
        mut deriver: OwnedMutexGuard<Deriver>,
        request: &mut Option<(PreparedChanges, Reservation)>,
        fetched: &Fetched,
        bytes: u64,
    ) -> Result<Submitted> {
        let mut work = || {
            let taken = || Error::internal("a request that was derived before");
            let (prepared, _) = request.as_ref().ok_or_else(taken)?;
            let (epoch, derived) = deriver.derive(table, prepared, fetched)?;
            let (prepared, memory) = request.take().ok_or_else(taken)?;
            let schema = table.descriptor().schema.id;
            let shares = if faults::planted(Defect::SharesLost) { 1 } else { usize::MAX };
            let with_rows = derived.iter().filter(|derived| derived.rows.num_rows() > 0).take(shares);
            let part = |derived: &Derived| -> Result<Part> {
                Ok(Part::new(derived.bucket, schema, derived.rows.num_rows() as u32, encode_batch(&derived.rows)?))
            };
            let parts = with_rows.map(part).collect::<Result<Vec<_>>>()?;
            let PreparedChanges { writer, tag, rows, ignored, rejected, .. } = prepared;
            let prepared = Prepared { parts, keyless: false, writer, tag, rows, ignored, rejected };
            let memory = self.core.budget.exchange(memory, prepared.bytes());
            self.submit(table, prepared, memory, Some(DerivedTicket { epoch, derived, deriver: &mut deriver }))
        };
        // A large request keeps this thread for milliseconds: the runtime gives its other tasks another.
        match tokio::runtime::Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread if bytes > INLINE_BYTES_MAX => tokio::task::block_in_place(work),
            _ => work(),
        }
    }

    /// Gives a request its ticket and hands it to the journal.
    fn submit(
        &self,
        table: &Arc<Table>,
        prepared: Prepared,
        memory: Reservation,
        derived: Option<DerivedTicket<'_>>,
    ) -> Result<Submitted> {
        let (reply, done) = oneshot::channel();
        let mut owner = table.owner();
        if table.is_dropped() {
            return Err(Error::new(Code::TableDropped, format!("table {} was dropped", table.descriptor().name)));
        }
        if derived.as_ref().is_some_and(|derived| derived.epoch != owner.epoch()) {
            return Err(
                Error::new(Code::StoreUnavailable, "an earlier write of this table failed").with_hint("send again")
            );
        }
        match owner.decide(prepared, table.descriptor().schema.id)? {
            Decision::Settled(verdict) => Ok(Submitted::Settled(verdict)),
            Decision::Ticket { epoch, parts, source, answer } => {
                let writer = source.writer.is_some();
                let keyed = derived.map(|derived| derived.deriver.accept(&parts, derived.derived));
                let draft =
                    Draft { kind: FrameKind::Data, table: table.descriptor().id, parts, extra: source.encode() };
                let context = Context::Rows { table: table.clone(), epoch, memory, answer, writer, keyed, reply };
                // Under the owner's lock, so that the queue has the table's tickets in their order.
                self.journal.submit(Ticket { draft, context }).map_err(|_| closing())?;
                Ok(Submitted::Waiting(done))
            }
        }
    }
}

/// A derived request on its way to its ticket.
struct DerivedTicket<'a> {
    epoch: u64,
    derived: Vec<Derived>,
    deriver: &'a mut Deriver,
}

/// A request that has a ticket, or needs none.
enum Submitted {
    Waiting(oneshot::Receiver<Result<Answer>>),
    Settled(Verdict),
    Refused(Error),
}

impl Submitted {
    async fn answer(self) -> Result<Answer> {
        match self {
            Submitted::Waiting(done) | Submitted::Settled(Verdict::InFlight(done)) => {
                done.await.map_err(|_| closing())?
            }
            Submitted::Settled(Verdict::Repeat(answer)) => Ok(answer),
            Submitted::Refused(error) => Err(error),
            Submitted::Settled(Verdict::New) => Err(Error::internal("a new request that was taken for a settled one")),
        }
    }
}

/// The size of a request that is not too large.
fn check_request(rows: &RecordBatch, sender: &Sender) -> Result<u64> {
    if sender.tag.len() > TAG_BYTES_MAX {
        return Err(Error::new(Code::InvalidRequest, format!("a tag has at most {TAG_BYTES_MAX} bytes"))
            .with_value(sender.tag.as_str()));
    }
    let bytes = batch_bytes(rows);
    if bytes > REQUEST_BYTES_MAX {
        return Err(Error::new(
            Code::RequestTooLarge,
            format!("{bytes} bytes of rows are more than one request may have, {REQUEST_BYTES_MAX}"),
        )
        .with_hint("send fewer rows at once, or use `thermocline load`, which cuts a file into requests"));
    }
    Ok(bytes)
}
