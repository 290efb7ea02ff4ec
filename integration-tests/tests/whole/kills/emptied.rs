//! One client with a table of its own, which it fills and truncates, and sends a row with each request that the table does
//! not take and sets aside.
//!
//! It does one thing after the other, each again until it is answered. So at every moment the table is as it was after the
//! last answer, or as what is under way makes it; and of each request one row is set aside, however often it was sent.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::Rng;
use serde_json::Value;

use super::clients::ask;
use super::world::{World, count, hold, pause, sleep};

const TABLE: &str = "emptied";
const DDL: &str = "CREATE TABLE emptied (id BIGINT NOT NULL CHECK (id >= 0), word VARCHAR) \
     WITH (buckets = 2, lake_freshness = '200ms', hot_retention = '300ms')";
const WRITER: &str = "filler";
const ROWS_MAX: i64 = 30;

/// What the table holds.
#[derive(Debug, Default)]
pub struct Emptied {
    ids: BTreeSet<i64>,
    next_id: i64,
    /// Of the next request with rows; as many rows were set aside.
    sequence: u64,
    under_way: Option<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Fill(Vec<i64>),
    Truncate,
}

impl Emptied {
    fn step(&mut self) -> Step {
        let next = match rand::rng().random_bool(0.8) {
            false => Step::Truncate,
            true => {
                let first = self.next_id;
                self.next_id += rand::rng().random_range(1..=ROWS_MAX);
                Step::Fill((first..self.next_id).collect())
            }
        };
        self.under_way.get_or_insert(next).clone()
    }

    fn done(&mut self) {
        match self.under_way.take() {
            Some(Step::Fill(ids)) => {
                self.ids.extend(ids);
                self.sequence += 1;
            }
            Some(Step::Truncate) => self.ids.clear(),
            None => {}
        }
    }

    /// Whether the table may hold these now.
    fn may_be(&self, found: &[i64]) -> Result<(), String> {
        let ids: BTreeSet<i64> = found.iter().copied().collect();
        let after = match &self.under_way {
            Some(Step::Fill(ids)) => self.ids.iter().chain(ids).copied().collect(),
            Some(Step::Truncate) => BTreeSet::new(),
            None => self.ids.clone(),
        };
        if ids.len() == found.len() && (ids == self.ids || ids == after) {
            return Ok(());
        }
        let known = (self.ids.len(), self.ids.first(), self.ids.last());
        let (least, most) = (ids.first(), ids.last());
        Err(format!("{TABLE} holds {} rows, {least:?} to {most:?}: {known:?}, then {:?}", found.len(), self.under_way))
    }
}

pub async fn make(url: &str, world: &World) -> Result<(), String> {
    ask(world, url, DDL, "application/json").await.map(drop).ok_or_else(|| format!("{TABLE} could not be made"))
}

/// Fills and truncates it.
pub async fn fill_and_truncate(world: Arc<World>) {
    while let Some(url) = world.url(true).await {
        let (step, sequence) = {
            let mut emptied = hold(&world.emptied);
            (emptied.step(), emptied.sequence)
        };
        let answered = match step {
            Step::Truncate => ask(&world, &url, &format!("TRUNCATE {TABLE}"), "application/json").await.is_some(),
            Step::Fill(ids) => fill(&world, &url, &ids, sequence).await,
        };
        match answered {
            true => hold(&world.emptied).done(),
            false => pause().await,
        }
        sleep(0..60).await;
    }
}

/// Sends these rows, and one that is set aside; whether it was answered.
async fn fill(world: &World, url: &str, ids: &[i64], sequence: u64) -> bool {
    let rows: Vec<String> = ids.iter().map(|id| format!("{{\"id\":{id},\"word\":\"w{id}\"}}")).collect();
    let body = format!("{{\"id\":-1,\"word\":\"{sequence}\"}}\n{}", rows.join("\n"));
    let request = world.client.post(format!("{url}/v1/tables/public/{TABLE}/rows?on_error=set_aside"));
    let request = request.header("content-type", "application/x-ndjson").header("thermocline-writer", WRITER);
    let Ok(answer) = request.header("thermocline-sequence", sequence).body(body).send().await else { return false };
    let status = answer.status().as_u16();
    let Ok(text) = answer.text().await else { return false };
    match status {
        200 => {
            let answer: Value = serde_json::from_str(&text).expect("an answer is JSON");
            if (&answer["rows"], &answer["rejected"]) != (&Value::from(ids.len()), &Value::from(1)) {
                world.fail(format!("{} rows and one to be set aside were answered {text}", ids.len()));
            }
            if answer["duplicate"] == true {
                count(&world.counts.repeats, 1);
            }
            true
        }
        429 | 503 => false,
        _ => {
            world.fail(format!("rows of {TABLE} were answered {status}: {text}"));
            false
        }
    }
}

/// After a restart, before new load.
pub async fn verify(world: &World, url: &str) {
    let relations = [TABLE.to_owned(), format!("\"{TABLE}$changes\"")];
    for relation in relations {
        let found = numbers(world, url, &format!("SELECT id FROM {relation}")).await;
        let may_be = hold(&world.emptied).may_be(&found);
        world.check(may_be.map_err(|wrong| format!("{relation}: {wrong}")));
    }
    // Each request has one, and says which.
    let words = numbers(world, url, &format!("SELECT sequence FROM \"{TABLE}$rejected\" ORDER BY sequence")).await;
    let emptied = hold(&world.emptied);
    let (least, most) = (emptied.sequence, emptied.sequence + u64::from(emptied.under_way.is_some()));
    let is_dense = words.iter().enumerate().all(|(place, sequence)| *sequence == place as i64);
    if !is_dense || !(least..=most).contains(&(words.len() as u64)) {
        world.fail(format!("{} rows were set aside of {least} to {most} requests: {words:?}", words.len()));
    }
}

async fn numbers(world: &World, url: &str, sql: &str) -> Vec<i64> {
    let Some(answer) = ask(world, url, sql, "application/json").await else {
        world.fail(format!("{sql} was not answered after the restart"));
        return Vec::new();
    };
    let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
    let rows = answer["rows"].as_array().into_iter().flatten();
    rows.map(|row| row[0].as_i64().expect("a number")).collect()
}
