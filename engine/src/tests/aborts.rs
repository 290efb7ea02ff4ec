//! What is behind a write that fails, and what a write that is under way must not let happen.

use std::any::Any;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Condvar, Mutex};

use arrow::array::ArrayRef;
use arrow::buffer::Buffer;

use super::*;
use crate::disk::{DiskFile, Entry};

/// A disk whose journal holds a write back until it is told what becomes of it.
#[derive(Debug)]
struct Gate {
    disk: Arc<MemoryDisk>,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    /// The next write of the journal waits.
    Shut,
    Waiting,
    /// The write that waits finds the disk full.
    Full,
    /// Checkpoints find the disk full.
    NoCheckpoint,
}

#[derive(Debug)]
struct GatedFile(Arc<dyn DiskFile>, Arc<(Mutex<State>, Condvar)>);

impl Gate {
    fn new(disk: &Arc<MemoryDisk>) -> Arc<Gate> {
        Arc::new(Gate { disk: disk.clone(), state: Arc::new((Mutex::new(State::Open), Condvar::new())) })
    }

    fn set(&self, state: State) {
        *self.state.0.lock().unwrap() = state;
        self.state.1.notify_all();
    }

    fn wait_for_a_write(&self) {
        let waiting = |state: &mut State| *state != State::Waiting;
        let (state, _) =
            self.state.1.wait_timeout_while(self.state.0.lock().unwrap(), Duration::from_secs(10), waiting).unwrap();
        assert_eq!(*state, State::Waiting);
    }

    fn gated(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        match path.extension().is_some_and(|extension| extension == "log") {
            true => Arc::new(GatedFile(file, self.state.clone())),
            false => file,
        }
    }
}

impl DiskFile for GatedFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.1.0.lock().unwrap();
        if *state == State::Shut {
            *state = State::Waiting;
            self.1.1.notify_all();
            state = self.1.1.wait_while(state, |state| *state == State::Waiting).unwrap();
            if std::mem::replace(&mut *state, State::Open) == State::Full {
                return Err(ErrorKind::StorageFull.into());
            }
        }
        drop(state);
        self.0.write_at(parts, offset)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

impl Disk for Gate {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if path.ends_with("checkpoint.staged") && *self.state.0.lock().unwrap() == State::NoCheckpoint {
            return Err(ErrorKind::StorageFull.into());
        }
        self.disk.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.gated(path, self.disk.open(path)?))
    }
    fn map(&self, path: &Path) -> io::Result<Buffer> {
        self.disk.map(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(directory)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.create_directory(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_directory(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.disk.lock(path)
    }
}

fn open_gated(gate: &Arc<Gate>) -> Arc<Engine> {
    Engine::open(gate.clone(), Path::new("/data"), options(), Arc::new(TestClock::default())).unwrap()
}

/// A request of three rows, handed in and not waited for.
async fn hand_in(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    first: i64,
    sender: Sender,
) -> tokio::task::JoinHandle<Result<Answer>> {
    hand_in_rows(engine, table, rows(table, first..first + 3), sender).await
}

async fn hand_in_rows(
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    batch: RecordBatch,
    sender: Sender,
) -> tokio::task::JoinHandle<Result<Answer>> {
    let (engine, table) = (engine.clone(), table.clone());
    let handed = tokio::spawn(async move { engine.append(&table, batch, sender).await });
    // On one thread the task runs until it waits for its answer.
    tokio::task::yield_now().await;
    handed
}

#[tokio::test]
async fn what_waits_behind_a_failed_write_fails_with_it_and_may_come_again() {
    let disk = MemoryDisk::new();
    let gate = Gate::new(&disk);
    let engine = open_gated(&gate);
    let table = create(&engine, "t", &[]).await;
    engine.append(&table, rows(&table, 0..3), writer(0)).await.unwrap();
    gate.set(State::Shut);
    let mut sent = vec![hand_in(&engine, &table, 3, writer(1)).await];
    gate.wait_for_a_write();
    sent.push(hand_in(&engine, &table, 6, writer(2)).await);
    sent.push(hand_in(&engine, &table, 9, Sender::default()).await);
    gate.set(State::Full);
    for (request, answer) in sent.into_iter().enumerate() {
        let error = answer.await.unwrap().unwrap_err();
        let expected = if request == 0 { Code::DiskFull } else { Code::StoreUnavailable };
        assert_eq!(error.code(), expected, "request {request}: {error}");
    }
    assert_eq!(*engine.failure().borrow(), None, "a refused write ends nothing");
    for (first, sender) in [(3, writer(1)), (6, writer(2)), (9, Sender::default())] {
        let answer = engine.append(&table, rows(&table, first..first + 3), sender).await.unwrap();
        assert_eq!((answer.duplicate, answer.buckets[0].first_offset), (false, Offset(first as u64)));
    }
    assert_eq!(read(&table, 0), (0..12).collect::<Vec<_>>());
    engine.close();
    let engine = open(&disk).unwrap();
    assert_eq!(read(&engine.table(&name("t")).unwrap(), 0), (0..12).collect::<Vec<_>>());
    engine.close();
}

#[tokio::test]
async fn a_tail_is_not_carried_past_rows_that_are_on_their_way() {
    let disk = MemoryDisk::new();
    let gate = Gate::new(&disk);
    let engine = open_gated(&gate);
    let table = create(&engine, "t", &[]).await;
    engine.append(&table, rows(&table, 0..3), Sender::default()).await.unwrap();
    gate.set(State::Shut);
    let sent = hand_in(&engine, &table, 3, Sender::default()).await;
    gate.wait_for_a_write();
    let carried = tokio::spawn({
        let (engine, table) = (engine.clone(), table.clone());
        async move { engine.carry(&table).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    gate.set(State::Open);
    sent.await.unwrap().unwrap();
    carried.await.unwrap().unwrap();
    engine.checkpoint().await.unwrap();
    engine.close();
    let engine = open(&disk).unwrap();
    assert_eq!(read(&engine.table(&name("t")).unwrap(), 0), (0..6).collect::<Vec<_>>());
    engine.close();
}

#[tokio::test]
async fn a_checkpoint_that_fails_lets_nothing_go() {
    let disk = MemoryDisk::new();
    let gate = Gate::new(&disk);
    let engine = open_gated(&gate);
    let table = create(&engine, "t", &[]).await;
    for request in 0..100 {
        engine.append(&table, rows(&table, request * 20..request * 20 + 20), Sender::default()).await.unwrap();
    }
    engine.seal(&table).await.unwrap();
    gate.set(State::NoCheckpoint);
    assert_eq!(engine.checkpoint().await.unwrap_err().code(), Code::DiskFull);
    engine.close();
    let engine = open(&disk).unwrap();
    assert_eq!(read(&engine.table(&name("t")).unwrap(), 0), (0..2000).collect::<Vec<_>>());
    engine.close();
}

/// The row of key 1 with another text.
fn row(table: &Table, text: &str) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1])), Arc::new(StringArray::from(vec![text]))];
    RecordBatch::try_new(table.schema().clone(), columns).unwrap()
}

#[tokio::test]
async fn a_change_on_its_way_is_seen_by_no_lookup_and_a_failed_one_by_nothing() {
    let gate = Gate::new(&MemoryDisk::new());
    let engine = open_gated(&gate);
    let columns = [("id".to_owned(), ColumnType::Int64, false), ("text".to_owned(), ColumnType::String, false)];
    let (schema, properties) = (TableSchema::new(columns).unwrap(), [("lake_enabled", "false")]);
    let properties = Properties::parse(properties).unwrap();
    let table = engine.create_table(name("k"), schema, &["id".to_owned()], properties, false).await.unwrap();
    let looked_up = async || {
        let found = engine.lookup(&table, vec![Arc::new(Int64Array::from(vec![1]))]).await.unwrap();
        found.rows.column(1).as_string::<i32>().value(0).to_owned()
    };
    engine.append(&table, row(&table, "first"), Sender::default()).await.unwrap();
    gate.set(State::Shut);
    let one = hand_in_rows(&engine, &table, row(&table, "lost"), Sender::default()).await;
    gate.wait_for_a_write();
    let other = hand_in_rows(&engine, &table, row(&table, "lost too"), Sender::default()).await;
    assert_eq!(looked_up().await, "first");
    gate.set(State::Full);
    assert_eq!(one.await.unwrap().unwrap_err().code(), Code::DiskFull);
    assert_eq!(other.await.unwrap().unwrap_err().code(), Code::StoreUnavailable);
    assert_eq!(looked_up().await, "first");
    engine.append(&table, row(&table, "second"), Sender::default()).await.unwrap();
    assert_eq!(looked_up().await, "second");
    let mut texts = Vec::new();
    for rows in table.hot_rows(PartitionBucket::unpartitioned(0), Offset(0), Offset(3)).unwrap() {
        for batch in rows.read(Some(&[1])) {
            texts.extend(batch.unwrap().batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
        }
    }
    assert_eq!(texts, ["first", "first", "second"], "+I, -U, +U");
    engine.close();
}
