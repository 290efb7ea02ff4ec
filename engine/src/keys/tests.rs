//! Primary-key tables against a plain map, over a disk that loses what it may.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt8Array, UInt64Array};
use arrow::datatypes::Int64Type;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_schemas::{
    ChangeKind, Code, ColumnType, Error, Offset, PartitionBucket, Properties, Result, TableName, TableSchema,
};

use super::{Change, ChangeRows, Endings, end_versions};
use crate::disk::MemoryDisk;
use crate::{ColdRows, Engine, EngineOptions, Sender, SystemClock, Table, WriterSequence};

/// A key of two columns, and one column more.
type Key = (i64, String);
type State = BTreeMap<Key, Option<String>>;
type Request = Vec<(Key, Option<String>, Change)>;

fn open(disk: &Arc<MemoryDisk>) -> Arc<Engine> {
    let options = EngineOptions {
        journal_file_bytes: 16 << 10,
        journal_bytes_max: 64 << 10,
        segment_bytes: 8 << 10,
        memory_bytes_max: 64 << 20,
        patience: Duration::from_secs(1),
        upkeep: false,
        ..EngineOptions::default()
    };
    Engine::open(disk.clone(), Path::new("/data"), options, Arc::new(SystemClock)).unwrap()
}

async fn table(engine: &Engine, properties: &[(&str, &str)]) -> Arc<Table> {
    let columns = [
        ("id".to_owned(), ColumnType::Int64, false),
        ("region".to_owned(), ColumnType::String, false),
        ("text".to_owned(), ColumnType::String, true),
    ];
    let schema = TableSchema::new(columns).unwrap();
    let properties: Vec<_> = properties.iter().copied().chain([("lake_enabled", "false")]).collect();
    let properties = Properties::parse(properties).unwrap();
    let name = TableName::parse("public", "k").unwrap();
    let key = ["region".to_owned(), "id".to_owned()];
    engine.create_table(name, schema, &key, properties, true).await.unwrap()
}

fn key(number: i64) -> Key {
    (number / 3, format!("region {}", number % 3))
}

fn rows(table: &Table, request: &Request) -> ChangeRows {
    let ids = Int64Array::from_iter_values(request.iter().map(|(key, _, _)| key.0));
    let regions = StringArray::from_iter_values(request.iter().map(|(key, _, _)| &key.1));
    let texts = StringArray::from_iter(request.iter().map(|(_, text, _)| text.clone()));
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(regions), Arc::new(texts)];
    let rows = RecordBatch::try_new(table.schema().clone(), columns).unwrap();
    ChangeRows::new(table.descriptor(), rows, request.iter().map(|(_, _, change)| *change).collect()).unwrap()
}

fn row(batch: &RecordBatch, row: usize) -> (Key, Option<String>) {
    let text = batch.column(2).as_string::<i32>();
    let key = (batch.column(0).as_primitive::<Int64Type>().value(row), batch.column(1).as_string::<i32>().value(row));
    ((key.0, key.1.to_owned()), text.is_valid(row).then(|| text.value(row).to_owned()))
}

fn apply(state: &mut State, request: &Request) {
    for (key, text, change) in request {
        match change {
            Change::Upsert => state.insert(key.clone(), text.clone()),
            Change::Delete => state.remove(key),
        };
    }
}

/// What a lake does for the engine: it takes versions of rows over at a cut, and gives them back by offset.
#[derive(Debug, Default)]
struct Lake(Mutex<Tiered>);

#[derive(Debug, Default)]
struct Tiered {
    ends: BTreeMap<PartitionBucket, Offset>,
    rows: BTreeMap<(PartitionBucket, Offset), (Key, Option<String>)>,
}

impl Lake {
    /// Takes over what is visible at the published ends.
    fn round(&self, table: &Table) {
        let mut tiered = self.0.lock().unwrap();
        for (bucket, _) in table.buckets() {
            let (from, end) = (tiered.ends.get(&bucket).copied().unwrap_or_default(), table.ends().end(bucket));
            for (offset, key, text) in visible_rows(table, bucket, from, end) {
                tiered.rows.insert((bucket, offset), (key, text));
            }
            for offset in ended(table, bucket, from, end).into_iter().filter(|offset| *offset < from) {
                tiered.rows.remove(&(bucket, offset)).expect("a row is ended once");
            }
            tiered.ends.insert(bucket, end);
        }
    }

    /// The state that readers see at the published ends: the lake, less what has been ended since, and hot rows.
    fn visible(&self, table: &Table) -> State {
        let tiered = self.0.lock().unwrap();
        let mut rows = tiered.rows.clone();
        let mut state = State::new();
        for (bucket, _) in table.buckets() {
            let (from, end) = (tiered.ends.get(&bucket).copied().unwrap_or_default(), table.ends().end(bucket));
            for offset in ended(table, bucket, from, end).into_iter().filter(|offset| *offset < from) {
                rows.remove(&(bucket, offset)).expect("a row is ended once");
            }
            for (_, key, text) in visible_rows(table, bucket, from, end) {
                assert!(state.insert(key.clone(), text).is_none(), "{key:?} is visible twice");
            }
        }
        for (key, text) in rows.into_values() {
            assert!(state.insert(key.clone(), text).is_none(), "{key:?} is visible twice");
        }
        state
    }
}

impl ColdRows for Lake {
    fn rows<'a>(
        &'a self,
        table: &'a Arc<Table>,
        bucket: PartitionBucket,
        offsets: &'a [Offset],
        _: u64,
    ) -> Pin<Box<dyn Future<Output = Result<RecordBatch>> + Send + 'a>> {
        assert!(
            offsets.is_sorted() && offsets.iter().all(|offset| *offset < table.bucket(bucket).unwrap().trim_floor())
        );
        Box::pin(async move {
            // Ready at once, so that requests keep the order in which they were sent.
            let tiered = self.0.lock().unwrap();
            let found: Option<Request> = offsets
                .iter()
                .map(|offset| tiered.rows.get(&(bucket, *offset)).cloned())
                .map(|row| row.map(|(key, text)| (key, text, Change::Upsert)))
                .collect();
            let found = found.ok_or_else(|| Error::new(Code::OffsetOutOfRetention, "a row that is gone"))?;
            Ok(rows(table, &found).rows().clone())
        })
    }
}

fn visible_rows(
    table: &Table,
    bucket: PartitionBucket,
    from: Offset,
    end: Offset,
) -> Vec<(Offset, Key, Option<String>)> {
    let mut found = Vec::new();
    for rows in table.hot_rows(bucket, from, end).unwrap() {
        for batch in rows.read(None) {
            let batch = batch.unwrap();
            for at in batch.visible(end).unwrap().values().set_indices() {
                let (key, text) = row(&batch.batch, at);
                found.push((batch.first.plus(at as u64), key, text));
            }
        }
    }
    found
}

/// The offsets of the rows that changes of `[from, end)` have ended.
fn ended(table: &Table, bucket: PartitionBucket, from: Offset, end: Offset) -> Vec<Offset> {
    let mut ended = Vec::new();
    for rows in table.hot_rows(bucket, from, end).unwrap() {
        rows.each_ended(|offset| ended.push(offset)).unwrap();
    }
    ended
}

/// The state that readers see at the published ends of a table that has no lake.
fn visible(table: &Table) -> State {
    Lake::default().visible(table)
}

fn folded(table: &Table) -> State {
    folded_on(State::new(), table)
}

/// The state that the changelog makes of `state`, which is that of the first hot offsets; each change is checked against
/// the state before it.
fn folded_on(mut state: State, table: &Table) -> State {
    let ends = table.ends();
    for (bucket, log) in table.buckets() {
        let mut awaited: Option<Key> = None;
        let mut next = log.trim_floor();
        for rows in table.hot_rows(bucket, next, ends.end(bucket)).unwrap() {
            for batch in rows.read(None) {
                let batch = batch.unwrap();
                assert_eq!(batch.first, next, "offsets are dense");
                next = next.plus(batch.batch.num_rows() as u64);
                for (at, kind) in batch.kinds().unwrap().values().iter().enumerate() {
                    let (key, text) = row(&batch.batch, at);
                    let kind = ChangeKind::from_code(*kind).unwrap();
                    match (kind, awaited.take()) {
                        (ChangeKind::UpdateAfter, Some(before)) => {
                            assert_eq!(before, key, "the halves of an update stand side by side");
                            state.insert(key, text);
                        }
                        (ChangeKind::UpdateBefore, None) => {
                            assert_eq!(state.get(&key), Some(&text), "-U is the row before");
                            awaited = Some(key);
                        }
                        (ChangeKind::Insert, None) => {
                            assert!(state.insert(key, text).is_none(), "+I of a key that is there")
                        }
                        (ChangeKind::Delete, None) => {
                            assert_eq!(state.remove(&key), Some(text), "-D is the row before")
                        }
                        (kind, awaited) => panic!("{kind:?} of {key:?} after half an update of {awaited:?}"),
                    }
                }
            }
        }
        assert!(awaited.is_none(), "a cut never parts an update");
    }
    state
}

async fn looked_up(engine: &Engine, table: &Arc<Table>, keys: &[Key]) -> Vec<Option<Option<String>>> {
    let regions: ArrayRef = Arc::new(StringArray::from_iter_values(keys.iter().map(|key| &key.1)));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(keys.iter().map(|key| key.0)));
    let found = engine.lookup(table, vec![regions, ids]).await.unwrap();
    let mut next = 0;
    let each = found.counts.iter().zip(keys).map(|(count, key)| {
        (*count == 1).then(|| {
            let (found, text) = row(&found.rows, next);
            assert_eq!(found, *key);
            next += 1;
            text
        })
    });
    each.collect()
}

fn request(random: &mut StdRng) -> Request {
    let count = random.random_range(1..30);
    let one = |random: &mut StdRng| {
        let key = key(random.random_range(0..60));
        let text = random.random_bool(0.8).then(|| format!("text {}", random.random_range(0..1_000_000)));
        let change = if random.random_bool(0.3) { Change::Delete } else { Change::Upsert };
        (key, text, change)
    };
    (0..count).map(|_| one(random)).collect()
}

/// Requests several at a time, seals, carries, checkpoints, rounds, trims, restarts and power cuts; whatever is done, the
/// visible state, the fold of the changelog and lookups are those of a map.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_changelog_and_lookups_are_those_of_a_map() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let buckets = ["1", "3"][random.random_range(0..2)];
        let mut disk = MemoryDisk::new();
        let mut engine = open(&disk);
        let grouped = random.random_bool(0.5);
        let properties = [("buckets", buckets), ("bucket_key", if grouped { "region" } else { "id" })];
        let mut keyed = table(&engine, &properties).await;
        let lake = Arc::new(Lake::default());
        let cold: Arc<dyn ColdRows> = lake.clone();
        engine.set_cold(Arc::downgrade(&cold));
        let mut state = State::new();
        // Cuts up to which the lake has rows, and the state at the first hot offsets.
        let mut tiered: Vec<(Vec<(PartitionBucket, Offset)>, State)> = Vec::new();
        let mut base = State::new();
        for step in 0..160 {
            match random.random_range(0..24) {
                0 => engine.seal(&keyed).await.unwrap(),
                1 => drop(engine.carry(&keyed).await.unwrap()),
                2 => engine.checkpoint().await.unwrap(),
                3 => engine.upkeep().await.unwrap(),
                4 | 5 => {
                    if random.random_bool(0.5) {
                        engine.close();
                    } else {
                        let left = disk.power_cut(&mut random);
                        engine.close();
                        disk = left;
                    }
                    engine = open(&disk);
                    engine.set_cold(Arc::downgrade(&cold));
                    keyed = table(&engine, &[]).await;
                }
                20 | 21 => {
                    lake.round(&keyed);
                    let ends = keyed.ends().ends.iter().map(|(bucket, end)| (*bucket, *end)).collect();
                    tiered.push((ends, state.clone()));
                }
                22 | 23 if !tiered.is_empty() => {
                    let (floors, then) = tiered.swap_remove(random.random_range(0..tiered.len()));
                    tiered.retain(|(ends, _)| ends.iter().zip(&floors).all(|(end, floor)| end.1 >= floor.1));
                    engine.trim(&keyed, floors).await.unwrap();
                    base = then;
                }
                _ => {
                    // Sent one after the other without waiting: later ones are derived on what is not yet durable.
                    let requests: Vec<_> = (0..random.random_range(1..5)).map(|_| request(&mut random)).collect();
                    let sent: Vec<_> = requests
                        .iter()
                        .map(|request| engine.change(&keyed, rows(&keyed, request), Sender::default()))
                        .collect();
                    for answer in futures_in_order(sent).await {
                        answer.unwrap();
                    }
                    requests.iter().for_each(|request| apply(&mut state, request));
                }
            }
            assert_eq!(lake.visible(&keyed), state, "seed {seed} step {step}: visible");
            assert_eq!(folded_on(base.clone(), &keyed), state, "seed {seed} step {step}: folded");
            let keys: Vec<_> = (0..60).map(key).collect();
            let expected: Vec<_> = keys.iter().map(|key| state.get(key).cloned()).collect();
            assert_eq!(looked_up(&engine, &keyed, &keys).await, expected, "seed {seed} step {step}: looked up");
            assert_eq!(keyed.key_figures().unwrap().keys, state.len() as u64);
            let by_region: ArrayRef = Arc::new(StringArray::from(vec!["region 2", "region 9", "region 0"]));
            match engine.lookup_groups(&keyed, by_region).await {
                Ok(found) if grouped => {
                    let mut left = (0..found.rows.num_rows()).map(|place| row(&found.rows, place));
                    for (region, count) in ["region 2", "region 9", "region 0"].into_iter().zip(found.counts) {
                        let rows: State = left.by_ref().take(count).collect();
                        let expected = state.iter().filter(|(key, _)| key.1 == region);
                        let expected: State = expected.map(|(key, text)| (key.clone(), text.clone())).collect();
                        assert_eq!((rows.len(), rows), (count, expected), "seed {seed} step {step}: {region}");
                    }
                }
                Err(error) if !grouped => assert_eq!(error.code(), Code::WrongTableKind),
                other => panic!("{other:?}"),
            }
        }
        engine.close();
    }
}

/// Polls all of them at once, beginning with the first, so that they take their tickets in order.
async fn futures_in_order<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

fn kinds(table: &Table) -> Vec<&'static str> {
    let bucket = PartitionBucket::unpartitioned(0);
    let rows = table.hot_rows(bucket, Offset::ZERO, table.ends().end(bucket)).unwrap();
    let batches = rows.iter().flat_map(|rows| rows.read(Some(&[])).map(Result::unwrap).collect::<Vec<_>>());
    let codes: Vec<u8> = batches.flat_map(|batch| batch.kinds().unwrap().values().to_vec()).collect();
    codes.into_iter().map(|code| ChangeKind::from_code(code).unwrap().symbol()).collect()
}

fn upsert(number: i64, text: &str) -> (Key, Option<String>, Change) {
    (key(number), Some(text.to_owned()), Change::Upsert)
}

fn delete(number: i64) -> (Key, Option<String>, Change) {
    (key(number), None, Change::Delete)
}

#[tokio::test]
async fn a_request_folds_its_own_rows_in_order() {
    let engine = open(&MemoryDisk::new());
    let table = table(&engine, &[]).await;
    let request = vec![upsert(1, "a"), upsert(1, "a"), delete(2), upsert(2, "b"), delete(2), delete(2), upsert(2, "c")];
    let answer = engine.change(&table, rows(&table, &request), Sender::default()).await.unwrap();
    assert_eq!(kinds(&table), ["+I", "-U", "+U", "+I", "-D", "+I"]);
    assert_eq!((answer.rows, answer.buckets[0].end_offset), (7, Offset(6)));
    assert_eq!(visible(&table), folded(&table));
}

/// Two keys in two buckets, which every request gives the same text: no lookup finds two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_are_of_one_cut() {
    let engine = open(&MemoryDisk::new());
    let table = table(&engine, &[("buckets", "2"), ("bucket_key", "region")]).await;
    let (one, other) = ((1, "north".to_owned()), (1, "west".to_owned()));
    let regions: ArrayRef = Arc::new(StringArray::from(vec![one.1.as_str(), other.1.as_str()]));
    let writer = tokio::spawn({
        let (engine, table, one, other) = (engine.clone(), table.clone(), one.clone(), other.clone());
        async move {
            for number in 0..300 {
                let text = Some(number.to_string());
                let request = vec![(one.clone(), text.clone(), Change::Upsert), (other.clone(), text, Change::Upsert)];
                let answer = engine.change(&table, rows(&table, &request), Sender::default()).await.unwrap();
                assert_eq!(answer.buckets.len(), 2, "the keys share a bucket");
            }
        }
    });
    while !writer.is_finished() {
        let found = looked_up(&engine, &table, &[one.clone(), other.clone()]).await;
        assert_eq!(found[0], found[1]);
        let found = engine.lookup_groups(&table, regions.clone()).await.unwrap();
        let texts: Vec<_> = (0..found.rows.num_rows()).map(|at| row(&found.rows, at).1).collect();
        assert!(texts.is_empty() || texts.len() == 2 && texts[0] == texts[1], "{texts:?}");
    }
    writer.await.unwrap();
}

/// Where keys have no more room, upserts are refused and deletes are not, and the room that deletes make is used again.
#[tokio::test]
async fn keys_have_a_bound() {
    let options = EngineOptions { key_bytes_max: 64 << 10, upkeep: false, ..EngineOptions::default() };
    let clock = Arc::new(SystemClock);
    let engine = Engine::open(MemoryDisk::new(), Path::new("/data"), options, clock).unwrap();
    let table = table(&engine, &[]).await;
    let mut next = 0;
    let refused = loop {
        let request: Vec<_> = (next..next + 100).map(|number| upsert(number, "a")).collect();
        match engine.change(&table, rows(&table, &request), Sender::default()).await {
            Ok(_) => next += 100,
            Err(error) => break error,
        }
        assert!(next < 10_000, "no bound");
    };
    assert_eq!(refused.code(), Code::IndexFull);
    assert!(next >= 500, "{next}");
    assert_eq!(table.key_figures().unwrap().keys, next as u64, "a refused request has changed nothing");
    let request: Vec<_> = (0..next).map(delete).collect();
    engine.change(&table, rows(&table, &request), Sender::default()).await.unwrap();
    assert_eq!(visible(&table), State::new());
}

#[tokio::test]
async fn without_old_rows_every_write_is_an_update() {
    let engine = open(&MemoryDisk::new());
    let table = table(&engine, &[("changelog", "upsert")]).await;
    for request in [vec![upsert(1, "a"), upsert(1, "b")], vec![upsert(1, "c"), delete(1), upsert(1, "d")]] {
        engine.change(&table, rows(&table, &request), Sender::default()).await.unwrap();
    }
    assert_eq!(kinds(&table), ["+U", "+U", "+U", "-D", "+U"]);
    assert_eq!(visible(&table), State::from([(key(1), Some("d".to_owned()))]));
}

/// A delete of nothing is durable and counts for its writer, and takes no offset; its repeat, too, after a restart.
#[tokio::test]
async fn a_request_that_changes_nothing_is_answered_and_kept() {
    let disk = MemoryDisk::new();
    for restart in 0..2 {
        let engine = open(&disk);
        let table = table(&engine, &[]).await;
        let sender = Sender { writer: Some(WriterSequence::new("w", 0).unwrap()), ..Sender::default() };
        let answer = engine.change(&table, rows(&table, &vec![delete(1), delete(2)]), sender.clone()).await.unwrap();
        assert_eq!((answer.rows, answer.buckets.len(), answer.duplicate), (2, 0, restart > 0));
        assert_eq!(kinds(&table), [""; 0]);
        let other = engine.change(&table, rows(&table, &vec![upsert(1, "a")]), sender).await.unwrap_err();
        assert_eq!(other.code(), Code::SequenceReused);
        engine.close();
    }
}

#[tokio::test]
async fn deletes_are_ignored_or_refused_as_the_table_says() {
    let engine = open(&MemoryDisk::new());
    let ignoring = table(&engine, &[("delete_behavior", "ignore")]).await;
    let request = vec![upsert(1, "a"), delete(1)];
    let answer = engine.change(&ignoring, rows(&ignoring, &request), Sender::default()).await.unwrap();
    assert_eq!((answer.rows, answer.ignored, kinds(&ignoring)), (1, 1, vec!["+I"]));
    engine.drop_table(&ignoring.descriptor().name, false, false).await.unwrap();
    let refusing = table(&engine, &[("delete_behavior", "refuse")]).await;
    let columns = rows_of(&refusing, &request);
    let changes = request.iter().map(|(_, _, change)| *change).collect();
    let refused = ChangeRows::new(refusing.descriptor(), columns, changes).unwrap_err();
    assert_eq!((refused.code(), refused.row()), (Code::InvalidRow, Some(1)));
}

fn rows_of(table: &Table, request: &Request) -> RecordBatch {
    let kept: Request = request.iter().map(|(key, text, _)| (key.clone(), text.clone(), Change::Upsert)).collect();
    rows(table, &kept).rows().clone()
}

#[tokio::test]
async fn keys_that_are_too_long_and_tables_without_keys_are_refused() {
    let engine = open(&MemoryDisk::new());
    let keyed = table(&engine, &[]).await;
    let long = vec![upsert(1, "a"), ((1, "x".repeat(100_000)), None, Change::Upsert)];
    let refused = engine.change(&keyed, rows(&keyed, &long), Sender::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.row()), (Code::InvalidRow, Some(1)));
    let name = TableName::parse("public", "log").unwrap();
    let schema = keyed.descriptor().schema.clone();
    let log = engine.create_table(name, schema, &[], Properties::default(), false).await.unwrap();
    let refused = engine.change(&log, rows(&keyed, &vec![upsert(1, "a")]), Sender::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::WrongTableKind);
}

/// At a cut the halves of an update are never apart; arithmetic on offsets may part them.
#[test]
fn an_update_ends_the_old_row_with_its_second_half() {
    let kinds = [ChangeKind::Insert, ChangeKind::UpdateBefore, ChangeKind::UpdateAfter].map(ChangeKind::code);
    let previous: ArrayRef = Arc::new(UInt64Array::from(vec![None, None, Some(0)]));
    let columns = [("kind", Arc::new(UInt8Array::from(kinds.to_vec())) as ArrayRef), ("previous", previous)];
    let endings = Endings::default();
    endings.extend(Offset(0), Offset(3));
    end_versions(&endings, Offset(0), &RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    let ended = endings.of(Offset(0), Offset(3));
    for (end, row) in [(1, 0), (2, 0), (3, 2)] {
        let visible = ended.visible(Offset(0), &kinds, Offset(end));
        assert_eq!(visible.values().set_indices().collect::<Vec<_>>(), [row], "at the end {end}");
    }
}
