//! Those who write tables with a primary key, and ask them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take;
use rand::Rng;
use rand::rngs::ThreadRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use thermocline_integration_tests::oracle;
use thermocline_tiering::check::{Key, Row, Wanted};

use super::super::clients::{Sent, count_of, encode, rows_of, send};
use super::super::world::{World, count, hold, pause, sleep};
use super::{Target, rows, rows_from_json, schema};

/// A writer of one table, and how it goes about it.
pub struct Writing {
    pub target: usize,
    pub number: i64,
    pub rows_max: usize,
    /// Milliseconds between requests, at most.
    pub pause_max: u64,
}

pub async fn write(world: Arc<World>, writing: Writing) {
    let target = &world.keyed[writing.target];
    let name = format!("keyed-{}", writing.number);
    let mut rows = OwnRows::new(writing.number);
    let mut sequence = 0;
    let mut unanswered: Option<Vec<Wanted>> = None;
    while let Some(url) = world.url(true).await {
        let request = unanswered.take().unwrap_or_else(|| rows.next(target, writing.rows_max));
        hold(&target.history).sent(&name, sequence, &request);
        // A repeat may come in another format: what counts is the rows.
        let (query, batch) = as_batch(&request);
        let (content_type, body) = encode(&batch, rand::rng().random_range(0..5));
        let path = format!("{url}/v1/tables/public/{}/rows{query}", target.name);
        match send(&world, path, content_type, body, Some((&name, sequence))).await {
            Sent::Acked(ranges) => {
                let acked = hold(&target.history).acked(&name, sequence, &ranges);
                match acked {
                    Ok(()) => sequence += 1,
                    // It counts as unanswered; the run ends.
                    Err(violation) => {
                        world.fail(violation);
                        unanswered = Some(request);
                    }
                }
            }
            Sent::Refused => {
                unanswered = Some(request);
                sleep(20..50).await;
            }
            Sent::Unknown | Sent::Wrong => {
                unanswered = Some(request);
                pause().await;
            }
        }
        sleep(0..writing.pause_max).await;
    }
}

/// What a writer's items have, by what it has sent.
struct OwnRows {
    writer: i64,
    current: BTreeMap<i64, i64>,
    next_id: i64,
}

impl OwnRows {
    fn new(writer: i64) -> OwnRows {
        OwnRows { writer, current: BTreeMap::new(), next_id: writer * 1_000_000_000 }
    }

    /// Some upserts and deletes, of some items more than once.
    fn next(&mut self, target: &Target, rows_max: usize) -> Vec<Wanted> {
        let mut random = rand::rng();
        let count = random.random_range(1..=rows_max);
        let items = target.items_of(self.writer);
        let busy = items.start..items.start + target.items / 8;
        let mut one = |random: &mut ThreadRng| {
            let among = if random.random_bool(0.6) { busy.clone() } else { items.clone() };
            let item = random.random_range(among);
            let old = self.current.get(&item).copied();
            let id = match random.random_range(0..10) {
                0..3 => None,
                // Equal values are an update too.
                3 if old.is_some() => old,
                _ => {
                    self.next_id += 1;
                    Some(self.next_id)
                }
            };
            match id {
                Some(id) => self.current.insert(item, id),
                None => self.current.remove(&item),
            };
            Wanted { bucket: target.bucket_of(item), key: Key(item as u64), row: id.map(|id| Row(id as u64)) }
        };
        std::iter::repeat_with(|| one(&mut random)).take(count).collect()
    }
}

/// A request as rows, and what its address says besides. A delete needs the key alone.
fn as_batch(request: &[Wanted]) -> (&'static str, RecordBatch) {
    let items: ArrayRef = Arc::new(Int64Array::from_iter_values(request.iter().map(|one| one.key.0 as i64)));
    if request.iter().all(|one| one.row.is_none()) && rand::rng().random_bool(0.5) {
        return ("?change=delete", RecordBatch::try_from_iter([("item", items)]).expect("one column"));
    }
    let ids: Vec<_> = request.iter().filter_map(|one| Some(one.row?.0 as i64)).collect();
    let upserts = oracle::rows(&oracle::schema().arrow(), &ids);
    let mut next = 0;
    let places = UInt32Array::from_iter(request.iter().map(|one| {
        one.row?;
        next += 1;
        Some(next - 1)
    }));
    let spelled = rand::rng().random_bool(0.5).then_some("upsert");
    let changes = request.iter().map(|one| if one.row.is_some() { spelled } else { Some("delete") });
    let changes: ArrayRef = Arc::new(StringArray::from_iter(changes));
    let columns = upserts.columns().iter().map(|column| take(column, &places, None).expect("places that are there"));
    let columns: Vec<_> = std::iter::once(items).chain(columns).chain([changes]).collect();
    let own = schema();
    let names = own.fields().iter().map(|field| field.name().as_str()).chain(["__change"]);
    let columns = names.zip(columns).map(|(name, column)| (name, column, true));
    ("", RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length"))
}

/// Asks the busy table one thing after the other.
pub async fn query(world: Arc<World>) {
    while let Some(url) = world.url(true).await {
        let target = &world.keyed[0];
        let pick = rand::rng().random_range(0..6);
        let asked = match pick {
            0 | 1 => select(&world, &url, target, "a running SELECT").await,
            2 | 3 => filtered(&world, &url, target, "a running filter").await,
            4 => look_up(&world, &url, target, "a running lookup").await,
            _ => counted(&world, &url, target, "a running count").await,
        };
        if asked.is_none() {
            pause().await;
        }
        sleep(0..60).await;
    }
}

/// The whole table; none if no answer came.
pub async fn select(world: &World, url: &str, target: &Target, what: &str) -> Option<()> {
    let floor = hold(&target.history).floor();
    let found = rows_of(world, url, &format!("SELECT *, __bucket, __offset FROM {}", target.name), rows).await?;
    world.check(hold(&target.history).read(what, &floor, &found));
    Some(())
}

/// By a value, by a range of keys, and by keys.
pub async fn filtered(world: &World, url: &str, target: &Target, what: &str) -> Option<()> {
    let (filter, wanted): (String, Box<dyn Fn(Key, Row) -> bool + Send>) = {
        let mut random = rand::rng();
        match random.random_range(0..3) {
            0 => {
                let city = format!("city {}", random.random_range(0..17));
                (format!("city = '{city}'"), Box::new(move |_, row| oracle::city(row.0 as i64) == city))
            }
            1 => {
                let own = target.items_of(random.random_range(target.writers.clone()));
                let from = random.random_range(own.clone());
                let range = from..random.random_range(from..=own.end);
                let filter = format!("item >= {} AND item < {}", range.start, range.end);
                (filter, Box::new(move |key, _| range.contains(&(key.0 as i64))))
            }
            _ => {
                let items = some_items(target, [1, 2, 7, 40][random.random_range(0..4)]);
                let filter = match items.first() {
                    Some(only) if items.len() == 1 => format!("item = {only}"),
                    _ => {
                        let items: Vec<_> = items.iter().map(i64::to_string).collect();
                        format!("item IN ({})", items.join(", "))
                    }
                };
                (filter, Box::new(move |key, _| items.contains(&(key.0 as i64))))
            }
        }
    };
    let floor = hold(&target.history).floor();
    let sql = format!("SELECT *, __bucket, __offset FROM {} WHERE {filter}", target.name);
    let found = rows_of(world, url, &sql, rows).await?;
    world.check(hold(&target.history).read_filtered(&format!("{what}, {filter}"), &floor, &found, wanted));
    Some(())
}

pub async fn counted(world: &World, url: &str, target: &Target, what: &str) -> Option<()> {
    let floor = hold(&target.history).floor();
    let rows = count_of(world, url, target.name).await?;
    world.check(hold(&target.history).counted(what, &floor, rows));
    Some(())
}

/// Some items, and one that nobody writes.
pub async fn look_up(world: &World, url: &str, target: &Target, what: &str) -> Option<()> {
    let mut items: Vec<i64> = some_items(target, 60).into_iter().collect();
    items.push(-1);
    look_up_items(world, url, target, what, &items).await
}

pub async fn look_up_items(world: &World, url: &str, target: &Target, what: &str, items: &[i64]) -> Option<()> {
    let floor = hold(&target.history).floor();
    let keys: Vec<_> = items.iter().map(|item| json!({ "item": item })).collect();
    let request = world.client.post(format!("{url}/v1/tables/public/{}/lookup", target.name));
    let answer = request.json(&json!({ "keys": keys })).send().await.ok()?;
    let status = answer.status().as_u16();
    let text = answer.text().await.ok()?;
    match status {
        200 => count(&world.counts.lookups, items.len() as u64),
        429 | 503 => return None,
        _ => {
            world.fail(format!("{what} was answered {status}: {text}"));
            return None;
        }
    }
    let answer: Value = serde_json::from_str(&text).expect("an answer is JSON");
    let found: Vec<_> = answer["rows"].as_array().into_iter().flatten().collect();
    let found = match rows_from_json(&found) {
        Ok(found) => found,
        Err(wrong) => {
            world.fail(format!("{what}: {wrong}"));
            return None;
        }
    };
    let asked = items.iter().map(|item| Key(*item as u64));
    let in_order = found.len() == items.len()
        && asked.clone().zip(&found).all(|(key, found)| found.is_none_or(|(found, _)| found == key));
    if !in_order {
        world.fail(format!("{what}: {items:?} were asked for, {found:?} was answered"));
        return None;
    }
    let found: Vec<_> = asked.zip(found).map(|(key, found)| (key, found.map(|(_, row)| row))).collect();
    world.check(hold(&target.history).looked_up(what, &floor, &found));
    Some(())
}

/// So many items of all writers, or fewer.
fn some_items(target: &Target, count: usize) -> BTreeSet<i64> {
    let all: Vec<_> = target.writers.clone().flat_map(|writer| target.items_of(writer)).collect();
    all.choose_multiple(&mut rand::rng(), count).copied().collect()
}
