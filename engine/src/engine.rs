//! The engine's face: open, take a cut, let go, close. What changes tables is in `ddl`, what brings rows in `writes`, what finds
//! them by key in `lookups`.

mod ddl;
mod lookups;
mod writes;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use thermocline_schemas::{
    Code, Conditions, Error, Identifier, NoConditions, Offset, PartitionBucket, Result, TableId, TableName,
};
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

pub use ddl::Unfinished;

use crate::backup::{HotState, check_finished, forget_links};
use crate::clock::Clock;
use crate::cold::ColdRows;
use crate::core::{Context, Core, CorePublisher, Turn};
use crate::disk::{Disk, create_directories};
use crate::edit::Edit;
use crate::faults::{self, CrashPoint, Defect};
use crate::journal::{Draft, Durability, Journal, Loglet, Ticket};
use crate::keys::IndexSnapshot;
use crate::recovery::{read_checkpoint, recover};
use crate::table::{Owner, Table, TableEnds};
use crate::upkeep::Upkeep;
use crate::writers::{Digest, WriterSequence};

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

    /// The newest version of a table; the one that is given where it was dropped.
    pub fn newest(&self, table: &Arc<Table>) -> Arc<Table> {
        self.table_by_id(table.descriptor().id).unwrap_or_else(|| table.clone())
    }

    pub fn table_by_id(&self, id: TableId) -> Option<Arc<Table>> {
        self.core.table_by_id(id)
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

    fn cold(&self) -> Result<Arc<dyn ColdRows>> {
        let cold = self.cold.get().and_then(Weak::upgrade);
        cold.ok_or_else(|| Error::new(Code::StoreUnavailable, "the rows that are no longer hot cannot be read now"))
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
