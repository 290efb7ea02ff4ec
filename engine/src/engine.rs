//! The engine's face: open, make tables, append, take a cut, let go.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use thermocline_schemas::{
    Alteration, Code, Conditions, Error, Identifier, NoConditions, Offset, PartitionBucket, PartitionValues,
    Properties, Result, TableDescriptor, TableId, TableName, TableSchema, rejected_schema,
};
use tokio::runtime::RuntimeFlavor;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use crate::backup::{HotState, check_finished, forget_links};
use crate::clock::Clock;
use crate::cold::{ColdRows, Fetched};
use crate::core::{Context, Core, CorePublisher, Turn};
use crate::disk::{Disk, create_directories};
use crate::edit::Edit;
use crate::faults::{self, CrashPoint, Defect};
use crate::ipc::{batch_bytes, encode_batch};
use crate::journal::{Draft, Durability, FrameKind, Journal, Loglet, Part, Ticket};
use crate::keys::{Change, ChangeRows, DERIVED_BYTES_MAX, Derived, IndexSnapshot};
use crate::memory_budget::Reservation;
use crate::recovery::{read_checkpoint, recover};
use crate::rows_digest::rows_digest;
use crate::table::{
    Decision, Deriver, LookedUp, Lookup, Owner, Prepared, PreparedChanges, RowPartitions, Table, TableEnds,
};
use crate::upkeep::Upkeep;
use crate::writers::{Answer, Digest, Verdict, WriterSequence};

/// The settings of an engine. The defaults suit a machine that does other things too.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub durability: Durability,
    /// Rows in flight and tails, over the whole server.
    pub memory_bytes_max: u64,
    /// Indexes of primary keys, and what says which hot row was ended by which change, over the whole server.
    pub key_bytes_max: u64,
    /// A tail of this size becomes a segment.
    pub segment_bytes: u64,
    pub journal_file_bytes: u64,
    /// Past half of it, tails that hold old files are sealed.
    pub journal_bytes_max: u64,
    /// How long a writer waits for room before it is told to come again.
    pub patience: Duration,
    /// Whether a thread keeps the hot tier small by itself; tests may want to do it at moments of their own.
    pub upkeep: bool,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            durability: Durability::Fsync,
            memory_bytes_max: 512 << 20,
            key_bytes_max: 2 << 30,
            segment_bytes: 64 << 20,
            journal_file_bytes: 64 << 20,
            journal_bytes_max: 1 << 30,
            patience: Duration::from_secs(5),
            upkeep: true,
        }
    }
}

/// One request is at most this large once decoded: it is one journal frame.
pub const REQUEST_BYTES_MAX: u64 = 64 << 20;
/// A tag's length is one byte in the frame.
pub const TAG_BYTES_MAX: usize = 255;
/// How often rows may be let go between being asked for and being used.
const FETCHES_MAX: u32 = 8;
/// Encoding more than this leaves the caller's thread.
const INLINE_BYTES_MAX: u64 = 256 << 10;

/// The hot tier of one data directory.
pub struct Engine {
    core: Arc<Core>,
    journal: Arc<Journal<Context>>,
    upkeep: Arc<Upkeep>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// DDL is checked and written one at a time.
    ddl: Arc<tokio::sync::Mutex<()>>,
    /// Rows with keys are let go one table at a time.
    letting_go: tokio::sync::Mutex<()>,
    cold: OnceLock<Weak<dyn ColdRows>>,
    conditions: OnceLock<Arc<dyn Conditions>>,
}

/// Who sends rows.
#[derive(Clone, Debug, Default)]
pub struct Sender {
    pub writer: Option<WriterSequence>,
    pub tag: String,
    /// By what a repeat is known, where the rows alone do not say it.
    pub digest: Option<Digest>,
    /// How many rows were sent besides and set aside.
    pub rejected: u64,
}

impl Engine {
    /// Opens the data directory, making it if it is new: recovers what a crash left and starts to take writes. Blocks.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: EngineOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Engine>> {
        for directory in [directory, &directory.join("segments"), &directory.join("keys")] {
            create_directories(&*disk, directory).map_err(|error| io_error("make", directory, error))?;
        }
        // A process that was killed may have left names unsynced on which this one is going to build.
        for directory in directory.ancestors().take(2).filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            disk.sync_directory(directory).map_err(|error| io_error("sync", directory, error))?;
        }
        let lock = lock_directory(&*disk, directory)?;
        check_finished(&*disk, directory)?;
        forget_links(&*disk, directory)?;
        let checkpoint = read_checkpoint(&*disk, directory)?;
        let core = Arc::new(Core::new(disk, directory, options, clock, &checkpoint, lock)?);
        let loglet = recover(&core, checkpoint)?;
        core.abandon_unfinished();
        let journal = Journal::start(Box::new(loglet), CorePublisher(core.clone()), core.clock.clone());
        let journal = Arc::new(journal);
        let upkeep = Upkeep::new(core.clone(), journal.clone());
        let threads = if core.options.upkeep { vec![upkeep.start()] } else { Vec::new() };
        Ok(Arc::new(Engine {
            core,
            journal,
            upkeep,
            threads: Mutex::new(threads),
            ddl: Default::default(),
            letting_go: Default::default(),
            cold: OnceLock::new(),
            conditions: OnceLock::new(),
        }))
    }

    /// Says who has the rows that are no longer hot; whoever says so first.
    pub fn set_cold(&self, cold: Weak<dyn ColdRows>) {
        let _ = self.cold.set(cold);
    }

    /// Says who knows what the constraints of tables mean; whoever says so first. Before, no row is taken that there is a
    /// constraint on.
    pub fn set_conditions(&self, conditions: Arc<dyn Conditions>) {
        let _ = self.conditions.set(conditions);
    }

    fn conditions(&self) -> Arc<dyn Conditions> {
        self.conditions.get().map_or_else(|| Arc::new(NoConditions) as Arc<dyn Conditions>, Arc::clone)
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

    /// Makes a database; false if it was there and that is fine.
    pub async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<bool> {
        let name = Identifier::parse("database", name)?;
        let turn = self.ddl.clone().lock_owned().await;
        if self.core.catalog().databases.contains(&name) {
            let there = Error::new(Code::DatabaseExists, format!("database {name} is there already"));
            return if if_not_exists { Ok(false) } else { Err(there) };
        }
        self.edit(Edit::CreateDatabase { name }, Some(turn)).await.map(|()| true)
    }

    /// Drops an empty database; false if there was none and that is fine.
    pub async fn drop_database(&self, name: &str, if_exists: bool) -> Result<bool> {
        let name = Identifier::parse("database", name)?;
        let turn = self.ddl.clone().lock_owned().await;
        {
            let catalog = self.core.catalog();
            if let Err(error) = catalog.has_database(&name) {
                return if if_exists { Ok(false) } else { Err(error) };
            }
            if name.as_str() == crate::catalog::DEFAULT_DATABASE {
                return Err(Error::new(Code::DatabaseNotEmpty, "the default database stays"));
            }
            if let Some(table) = catalog.tables.keys().find(|table| table.database == name) {
                return Err(Error::new(
                    Code::DatabaseNotEmpty,
                    format!("database {name} has tables, {table} among them"),
                )
                .with_hint("drop its tables first"));
            }
        }
        self.edit(Edit::DropDatabase { name }, Some(turn)).await.map(|()| true)
    }

    /// Makes a table, with a primary key of the columns named in `key` if there are any. When it is there and that is
    /// fine, answers it as it is, whatever its columns.
    pub async fn create_table(
        &self,
        name: TableName,
        schema: TableSchema,
        key: &[String],
        properties: Properties,
        if_not_exists: bool,
    ) -> Result<Arc<Table>> {
        let turn = self.ddl.clone().lock_owned().await;
        let id = {
            let catalog = self.core.catalog();
            if let Some(table) = catalog.tables.get(&name).filter(|_| if_not_exists) {
                return Ok(table.clone());
            }
            catalog.free_id(&name)?
        };
        let created_ms = self.core.clock.now_micros() / 1000;
        let table = TableDescriptor::new(id, name.clone(), schema, key, properties, created_ms)?;
        self.edit(Edit::CreateTable { table, unfinished: false }, Some(turn)).await?;
        self.core.catalog().table(&name)
    }

    /// Makes a table that nobody finds until [`Engine::finish_table`], to be given its rows before. Its name stays free.
    pub async fn create_unfinished(
        &self,
        name: TableName,
        schema: TableSchema,
        properties: Properties,
    ) -> Result<Unfinished> {
        let turn = self.ddl.clone().lock_owned().await;
        let id = self.core.catalog().free_id(&name)?;
        let created_ms = self.core.clock.now_micros() / 1000;
        let table = TableDescriptor::new(id, name, schema, &[], properties, created_ms)?;
        self.edit(Edit::CreateTable { table, unfinished: true }, Some(turn)).await?;
        let table = self.table_by_id(id).ok_or_else(|| Error::internal("a table that was just made is not there"))?;
        Ok(Unfinished { table: Some(table) })
    }

    /// Gives a table its name, with all rows that it has been given. An error if another table has the name meanwhile.
    pub async fn finish_table(&self, mut unfinished: Unfinished) -> Result<Arc<Table>> {
        let turn = self.ddl.clone().lock_owned().await;
        let table = unfinished.table();
        let (id, name) = (table.descriptor().id, table.descriptor().name.clone());
        self.core.catalog().free_id(&name)?;
        let edit = self.edit(Edit::FinishTable { table: id }, Some(turn));
        // From here on the journal says what becomes of it.
        unfinished.table = None;
        edit.await?;
        self.core.catalog().table(&name)
    }

    /// The table of rows of a table that were set aside; it is made if there is none.
    pub async fn rejected_table(&self, table: &Arc<Table>) -> Result<Arc<Table>> {
        let id = table.descriptor().id;
        let name = table.descriptor().name.rejected();
        let known = || {
            let catalog = self.core.catalog();
            catalog.tables.get(&name).filter(|own| own.descriptor().rejected_of == Some(id)).cloned()
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let turn = self.ddl.clone().lock_owned().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let of = self.newest(table);
        let of = of.descriptor();
        if table.is_dropped() {
            return Err(Error::new(Code::TableDropped, format!("table {} was dropped", of.name)));
        }
        let properties = of.properties.of_rejected();
        let created_ms = self.core.clock.now_micros() / 1000;
        let own = TableId(self.core.catalog().next_table_id);
        let table = TableDescriptor::new(own, name.clone(), rejected_schema()?, &[], properties, created_ms)?;
        let table = TableDescriptor { rejected_of: Some(id), ..table };
        self.edit(Edit::CreateTable { table, unfinished: false }, Some(turn)).await?;
        self.core.catalog().table(&name)
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

    /// What was answered to a request that is known by its digest; none if it is new.
    pub async fn repeat(&self, table: &Arc<Table>, sender: &Sender) -> Result<Option<Answer>> {
        let (Some(from), Some(digest)) = (&sender.writer, &sender.digest) else { return Ok(None) };
        let verdict = table.owner().writers.judge(from, digest)?;
        match verdict {
            Verdict::New => Ok(None),
            settled => Submitted::Settled(settled).answer().await.map(Some),
        }
    }

    /// Changes a table's columns and properties, one alteration after the other, all or none. Rows that are there stay as
    /// they were written; who holds an older version reads and writes in its columns as before. Answers this version;
    /// none if there was no table and that is fine.
    pub async fn alter_table(
        &self,
        name: &TableName,
        alterations: &[Alteration],
        if_exists: bool,
    ) -> Result<Option<Arc<Table>>> {
        let ddl = self.ddl.clone().lock_owned().await;
        let table = match self.table(name) {
            Ok(table) => table,
            Err(error) if if_exists && error.code() == Code::TableNotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let deriver = match table.descriptor().is_keyed() {
            true => Some(table.deriver().await?),
            false => None,
        };
        let current = table.descriptor();
        let has_rows = table.has_rows();
        let altered = current.altered_under(alterations, has_rows, &*self.conditions())?;
        if altered == **current {
            return Ok(Some(table.clone()));
        }
        let version = altered.schema.id;
        let needs_value = altered.schema.needs_value_after(current.schema.last_id());
        let has_new_checks = altered.schema.has_checks_after(current.schema.id);
        let is_stricter = needs_value || has_new_checks && !faults::planted(Defect::CheckOfOlderVersion);
        // Which partitions it has others say.
        let edit = Edit::AlterTable { table: TableDescriptor { partitions: Vec::new(), ..altered } };
        let draft = edit.draft()?;
        let done = {
            // Held, so that no row comes between the look and the edit.
            let mut owner = table.owner();
            if !has_rows && needs_value && owner.has_rows() {
                return Err(Error::new(Code::WriteConflict, "the table got its first rows meanwhile"));
            }
            let before = if is_stricter { owner.refuse_before(version) } else { owner.oldest_version() };
            let refused_before = Some((table.clone(), before));
            let turn = Turn { _ddl: ddl, _deriver: deriver, refused_before, epoch: None };
            self.submit_draft(edit, draft, Some(turn)).inspect_err(|_| {
                owner.refuse_before(before);
            })?
        };
        done.await.map_err(|_| closing())??;
        let newest = self.table(name)?;
        // Others may have altered it since.
        match newest.descriptor().schema.id == version {
            true => Ok(Some(newest)),
            false => newest.in_version(version).map(|table| Some(Arc::new(table))),
        }
    }

    /// The newest version of a table; the one that is given where it was dropped.
    pub fn newest(&self, table: &Arc<Table>) -> Arc<Table> {
        self.table_by_id(table.descriptor().id).unwrap_or_else(|| table.clone())
    }

    pub fn table_by_id(&self, id: TableId) -> Option<Arc<Table>> {
        self.core.table_by_id(id)
    }

    /// Drops a table; false if there was none and that is fine. It can be brought back for `drop_retention`, or, with
    /// `purge`, not at all.
    pub async fn drop_table(&self, name: &TableName, if_exists: bool, purge: bool) -> Result<bool> {
        let turn = self.ddl.clone().lock_owned().await;
        let table = match self.table(name) {
            Ok(table) => table,
            Err(_) if if_exists => return Ok(false),
            Err(error) => return Err(error),
        };
        let kept_ms = if purge { 0 } else { table.descriptor().properties.drop_retention_ms };
        let kept = i64::try_from(kept_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
        let until = Some(self.now_micros().saturating_add(kept));
        self.edit(Edit::DropTable { table: table.descriptor().id, until }, Some(turn)).await.map(|()| true)
    }

    /// The dropped tables that are still kept, and until when each can be brought back, in microseconds since 1970.
    pub fn dropped_tables(&self) -> Vec<(Arc<Table>, i64)> {
        let catalog = self.core.catalog();
        catalog.dropped.iter().filter_map(|(id, until)| Some((catalog.by_id.get(id)?.clone(), *until))).collect()
    }

    /// Brings a dropped table back, as it was, under its name, which must be free; `id` says which one where there are
    /// several.
    pub async fn undrop_table(&self, name: &TableName, id: Option<TableId>) -> Result<Arc<Table>> {
        let turn = self.ddl.clone().lock_owned().await;
        let now = self.now_micros();
        let table = {
            let catalog = self.core.catalog();
            catalog.free_id(name).map_err(|error| match error.code() {
                Code::TableExists => error.with_hint("drop it first: it can be brought back too"),
                _ => error,
            })?;
            let mut dropped = catalog.dropped_as(name);
            // What is due may be half gone.
            dropped.retain(|(table, until)| *until > now && id.is_none_or(|id| table.descriptor().id == id));
            match dropped.as_slice() {
                [] => {
                    return Err(Error::new(Code::TableNotFound, format!("no dropped table {name} is kept"))
                        .with_hint("SHOW DROPPED TABLES lists those that are"));
                }
                [(table, _)] => table.descriptor().id,
                several => {
                    let ids: Vec<_> = several.iter().map(|(table, _)| table.descriptor().id.to_string()).collect();
                    let message = format!("{} tables were dropped that were called {name}", several.len());
                    return Err(Error::new(Code::InvalidRequest, message)
                        .with_hint(format!("say which: UNDROP TABLE {name} ID {}", ids.join(" or "))));
                }
            }
        };
        self.edit(Edit::UndropTable { table }, Some(turn)).await?;
        self.table(name)
    }

    /// Lets go of a dropped table for good: its rows go with the next checkpoint.
    pub async fn purge_table(&self, id: TableId) -> Result<()> {
        let turn = self.ddl.clone().lock_owned().await;
        if !self.core.catalog().dropped.contains_key(&id) {
            return Ok(());
        }
        self.edit(Edit::DropTable { table: id, until: None }, Some(turn)).await
    }

    pub fn table(&self, name: &TableName) -> Result<Arc<Table>> {
        self.core.catalog().table(name)
    }

    /// All tables, by name.
    pub fn tables(&self) -> Vec<Arc<Table>> {
        self.core.catalog().tables.values().cloned().collect()
    }

    pub fn databases(&self) -> Vec<Identifier> {
        self.core.catalog().databases.iter().cloned().collect()
    }

    pub fn has_database(&self, name: &Identifier) -> Result<()> {
        self.core.catalog().has_database(name)
    }

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

    /// What becomes of a request that was sent before: it may break a constraint which was not there then.
    fn told_before(table: &Table, sender: &Sender, digest: impl FnOnce() -> Result<Digest>) -> Option<Submitted> {
        let from = sender.writer.as_ref()?;
        let digest = sender.digest.map_or_else(digest, Ok).ok()?;
        match table.owner().writers.judge(from, &digest) {
            Ok(Verdict::New) | Err(_) => None,
            Ok(settled) => Some(Submitted::Settled(settled)),
        }
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

    fn cold(&self) -> Result<Arc<dyn ColdRows>> {
        let cold = self.cold.get().and_then(Weak::upgrade);
        cold.ok_or_else(|| Error::new(Code::StoreUnavailable, "the rows that are no longer hot cannot be read now"))
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

    /// The newest rows of these keys, each where there is one. `keys` are the key's columns, in the key's order. A row may
    /// be newer than the published ends, never older.
    pub async fn lookup(&self, table: &Arc<Table>, keys: Vec<ArrayRef>) -> Result<LookedUp> {
        self.look_up(table, move |table| table.lookup(&keys)).await
    }

    /// The newest rows of all keys that begin with these values of the key's first column, where the table keeps its keys in
    /// such groups ([`TableDescriptor::group_column`]).
    pub async fn lookup_groups(&self, table: &Arc<Table>, first: ArrayRef) -> Result<LookedUp> {
        self.look_up(table, move |table| table.lookup_groups(&first)).await
    }

    async fn look_up(
        &self,
        table: &Arc<Table>,
        find: impl Fn(&Table) -> Result<Lookup> + Clone + Send + 'static,
    ) -> Result<LookedUp> {
        let mut attempts = 1;
        loop {
            let (own, find) = (table.clone(), find.clone());
            let lookup = blocking(move || find(&own)).await;
            let found = match lookup {
                Ok(lookup) => self.with_cold(table, lookup).await,
                Err(error) => Err(error),
            };
            match found {
                // A row was let go, or replaced, since its key was found.
                Err(error) if error.code() == Code::OffsetOutOfRetention && attempts < FETCHES_MAX => attempts += 1,
                found => return found.map_err(lost),
            }
        }
    }

    async fn with_cold(&self, table: &Arc<Table>, lookup: Lookup) -> Result<LookedUp> {
        let mut fetched = Fetched::default();
        for (bucket, offsets) in lookup.cold() {
            let rows = self.cold()?.rows(table, bucket, &offsets, DERIVED_BYTES_MAX).await?;
            fetched.add(bucket, offsets, rows);
        }
        lookup.finish(table, &fetched)
    }

    /// The published ends of these tables, all at one journal position.
    pub fn cut<'a>(&self, tables: impl IntoIterator<Item = &'a Arc<Table>>) -> Vec<Arc<TableEnds>> {
        self.core.cut(tables)
    }

    /// Waits until all is published that was or will be accepted up to a moment, in microseconds since 1970; not in the
    /// future. So what a table had at that moment is what it will always have had.
    pub async fn settle(&self, moment: i64) -> Result<()> {
        let now = self.now_micros();
        if moment > now {
            return Err(Error::new(Code::InvalidOffset, "that moment is in the future"));
        }
        if faults::planted(Defect::MomentNotSettled) {
            return Ok(());
        }
        let (reply, done) = oneshot::channel();
        let settled = move |loglet: &mut dyn Loglet| {
            // Before this, every frame was published in its turn; from here on, they are stamped later.
            loglet.not_before(moment.saturating_add(1));
            let _ = reply.send(());
        };
        if !self.journal.between(settled) {
            return Err(closing());
        }
        done.await.map_err(|_| closing())
    }

    /// Lets go of hot rows below these offsets. The caller has them safe elsewhere, or has given them up.
    pub async fn trim(&self, table: &Arc<Table>, floors: Vec<(PartitionBucket, Offset)>) -> Result<()> {
        let _one = self.letting_go.lock().await;
        let ends = table.ends();
        let mut raised = Vec::new();
        for (bucket, floor) in floors {
            if table.bucket(bucket)?.refused().is_some() {
                // What is left of it may be needed to repair it.
                continue;
            }
            if floor > ends.end(bucket) {
                return Err(Error::internal(format!("trim to {floor}, past the published end {}", ends.end(bucket))));
            }
            if floor > table.bucket(bucket)?.trim_floor() {
                raised.push((bucket, floor));
            }
        }
        if raised.is_empty() {
            return Ok(());
        }
        let indexes = match table.descriptor().is_keyed() && !faults::planted(Defect::KeysNotKept) {
            true => self.keep_keys(table, &raised).await?,
            false => Vec::new(),
        };
        self.edit(Edit::Trim { table: table.descriptor().id, floors: raised, indexes }, None).await
    }

    /// Takes all rows of a log table away that were accepted before, from both tiers; answers how many. The lake's files go
    /// with the next round.
    pub async fn truncate(&self, table: &Arc<Table>) -> Result<u64> {
        let all =
            |table: &Table, owner: &Owner| table.buckets().map(|(bucket, _)| (bucket, owner.next(bucket))).collect();
        self.raise_starts(table, all).await
    }

    /// The same for the rows of a log table below these published offsets; answers how many went. The caller makes sure that
    /// no file of the lake reaches over them.
    pub async fn take_away(&self, table: &Arc<Table>, below: Vec<(PartitionBucket, Offset)>) -> Result<u64> {
        self.raise_starts(table, |_, _| below).await
    }

    /// `choose` picks new starts, none past what the owner gives next: all rows below come before the edit.
    async fn raise_starts(
        &self,
        table: &Arc<Table>,
        choose: impl FnOnce(&Table, &Owner) -> Vec<(PartitionBucket, Offset)>,
    ) -> Result<u64> {
        let ddl = self.ddl.clone().lock_owned().await;
        let table = self.newest(table);
        if table.descriptor().is_keyed() {
            return Err(Error::internal("rows with a key go one by one"));
        }
        let (rows, done) = {
            // Held, so that what is below the starts is before the edit, and nothing else.
            let owner = table.owner();
            if table.is_dropped() {
                return Err(Error::new(Code::TableDropped, format!("table {} was dropped", table.descriptor().name)));
            }
            let starts = table.ends().starts.clone();
            let mut raised = choose(&table, &owner);
            raised.retain(|(bucket, start)| *start > starts.start(*bucket));
            if raised.is_empty() {
                return Ok(0);
            }
            // Without a lake some were let go before.
            let keeps_all = table.descriptor().properties.lake_enabled;
            let mut rows = 0;
            for (bucket, start) in &raised {
                table.bucket(*bucket)?.check_served()?;
                let floor = if keeps_all { Offset::ZERO } else { table.bucket(*bucket)?.trim_floor() };
                rows += start.since(starts.start(*bucket).max(floor));
            }
            let edit = Edit::RaiseStarts { table: table.descriptor().id, starts: raised };
            let draft = edit.draft()?;
            let epoch = Some((table.clone(), owner.epoch()));
            let turn = Turn { _ddl: ddl, _deriver: None, refused_before: None, epoch };
            (rows, self.submit_draft(edit, draft, Some(turn))?)
        };
        done.await.map_err(|_| closing())??;
        Ok(rows)
    }

    /// Writes index snapshots that know all changes below the floors, where there are none yet. One whose edit does not
    /// come to pass is swept by the next start.
    async fn keep_keys(&self, table: &Arc<Table>, floors: &[(PartitionBucket, Offset)]) -> Result<Vec<IndexSnapshot>> {
        let mut written = Vec::new();
        for (bucket, floor) in floors.iter().copied() {
            if table.index_snapshot(bucket).is_some_and(|known| known.end >= floor) {
                continue;
            }
            let (core, table) = (self.core.clone(), table.clone());
            let write = move || {
                let (snapshot, bytes) = table.draw_index_snapshot(bucket)?;
                snapshot.write(&*core.disk, &core.index_directory(), &bytes)?;
                Ok(snapshot)
            };
            written.push(blocking(write).await?);
        }
        if !written.is_empty() {
            faults::reached(CrashPoint::KeysWritten);
        }
        Ok(written)
    }

    /// Turns the published tails of a table into segments now.
    pub async fn seal(&self, table: &Arc<Table>) -> Result<()> {
        let (upkeep, table) = (self.upkeep.clone(), table.clone());
        blocking(move || upkeep.seal_table(&table)).await
    }

    /// Writes the tails of a table once more at the journal's end; false if some of its rows are in flight.
    pub async fn carry(&self, table: &Arc<Table>) -> Result<bool> {
        let (upkeep, table) = (self.upkeep.clone(), table.clone());
        blocking(move || upkeep.carry_table(&table)).await
    }

    /// Writes a checkpoint and drops what it makes superfluous.
    pub async fn checkpoint(&self) -> Result<()> {
        let upkeep = self.upkeep.clone();
        blocking(move || upkeep.checkpoint_now()).await
    }

    /// All that is hot at one journal position, in files that stay until [`HotState::let_go`]. One at a time: the next takes
    /// the files of the one before.
    pub async fn hot_state(&self) -> Result<HotState> {
        let upkeep = self.upkeep.clone();
        blocking(move || upkeep.hot_state()).await
    }

    /// One pass of upkeep, as the thread does it.
    pub async fn upkeep(&self) -> Result<()> {
        let upkeep = self.upkeep.clone();
        blocking(move || upkeep.pass()).await
    }

    /// Becomes some text when the journal cannot go on; the process must then end, without acking anything more.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.core.failure()
    }

    /// Now, as the engine's clock has it, in microseconds since 1970.
    pub fn now_micros(&self) -> i64 {
        self.core.clock.now_micros()
    }

    /// Bytes that rows in flight and tails take.
    pub fn memory_bytes(&self) -> u64 {
        self.core.budget.used()
    }

    /// Bytes that the indexes and endings of all primary keys take, as of a moment ago.
    pub fn key_bytes(&self) -> u64 {
        self.core.key_bytes()
    }

    /// Bytes that the disk of the data directory has left for us.
    pub fn disk_free_bytes(&self) -> std::io::Result<u64> {
        self.core.disk.free_bytes(&self.core.directory)
    }

    /// Bytes of journal files that are kept.
    pub async fn journal_bytes(&self) -> Result<u64> {
        let upkeep = self.upkeep.clone();
        blocking(move || upkeep.journal_bytes()).await
    }

    pub fn options(&self) -> &EngineOptions {
        &self.core.options
    }

    /// Takes no more writes, makes durable what was taken, ends the threads. Blocks.
    pub fn close(&self) {
        self.upkeep.stop();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It logs its own errors; a panic of it does not concern who closes.
            let _ = thread.join();
        }
        self.journal.close();
    }

    /// Writes an edit, and waits until it is applied.
    async fn edit(&self, edit: Edit, ddl: Option<OwnedMutexGuard<()>>) -> Result<()> {
        let turn = ddl.map(|ddl| Turn { _ddl: ddl, _deriver: None, refused_before: None, epoch: None });
        let draft = edit.draft()?;
        self.submit_draft(edit, draft, turn)?.await.map_err(|_| closing())?
    }

    /// Writes an edit. `turn`, if any, is given back on the journal's thread.
    fn submit_draft(&self, edit: Edit, draft: Draft, turn: Option<Turn>) -> Result<oneshot::Receiver<Result<()>>> {
        let (reply, done) = oneshot::channel();
        let context = Context::Edit { edit: Box::new(edit), segment: None, turn, reply };
        self.journal.submit(Ticket { draft, context }).map_err(|_| closing())?;
        Ok(done)
    }
}

/// A table that has no name yet. If this is dropped, it will never have one, and goes.
#[derive(Debug)]
pub struct Unfinished {
    /// Until the journal has the edit that finishes it.
    table: Option<Arc<Table>>,
}

impl Unfinished {
    /// What takes rows.
    pub fn table(&self) -> &Arc<Table> {
        self.table.as_ref().expect("taken by what ends it alone")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(table) = &self.table {
            table.mark_dropped(true);
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

/// Does work on so many bytes: at once, or where it keeps nobody waiting.
async fn apart_if_large<T: Send + 'static>(bytes: u64, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if bytes <= INLINE_BYTES_MAX { work() } else { blocking(work).await }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal("a task ended early").with_source(error))?
}

/// A row that its key leads to was asked for again and again and is nowhere.
fn lost(error: Error) -> Error {
    match error.code() {
        Code::OffsetOutOfRetention => Error::corrupt("a key leads to a row that is nowhere").with_source(error),
        _ => error,
    }
}

fn closing() -> Error {
    Error::new(Code::ShuttingDown, "the server is stopping").with_hint("send again when it is back")
}

/// Takes the data directory for this process.
pub(crate) fn lock_directory(disk: &dyn Disk, directory: &Path) -> Result<Box<dyn std::any::Any + Send + Sync>> {
    disk.lock(&directory.join("lock")).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            Error::new(Code::TooBusy, format!("another server has the data directory {}", directory.display()))
                .with_hint("stop it, or give this one another --data-dir")
        }
        _ => io_error("lock", directory, error),
    })
}

pub(crate) fn io_error(doing: &str, path: &Path, error: std::io::Error) -> Error {
    let code = if error.kind() == std::io::ErrorKind::StorageFull { Code::DiskFull } else { Code::Internal };
    Error::new(code, format!("cannot {doing} {}", path.display())).with_source(error)
}
