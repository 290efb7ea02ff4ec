//! Followers of tables with a primary key: they begin with the first change that is kept, or with the state, and resume
//! at their last token; below hot retention they are told so, and begin with the state again.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use reqwest::Client;
use serde_json::Value;
use thermocline_schemas::ChangeKind;
use thermocline_tiering::Offsets;
use thermocline_tiering::check::{KeyedFloor, KeyedFollower, KeyedRow};

use super::super::followers::{Format, Item, ended, place, read};
use super::super::verify::marks;
use super::super::world::{World, count, hold, pause, sleep};
use super::{Target, rows_from_json};

const OUT_OF_RETENTION: &str = "offset_out_of_retention";

/// Where a stream begins.
#[derive(Clone, Debug)]
pub enum Begin {
    Earliest,
    Snapshot,
    /// At a token, with what was there up to it.
    Token(String, KeyedFollower),
}

/// Follows until all is over. Leaves now and then by itself, and may stay away until what comes next for it is gone.
pub async fn follow(world: Arc<World>, target: usize, format: Format, first: Begin) {
    // A stream ends when it ends, and not by a clock.
    let client = Client::builder().no_proxy().connect_timeout(Duration::from_secs(2)).build().expect("a client");
    let mut begin = first;
    while let Some(url) = world.url(false).await {
        let target = &world.keyed[target];
        let over = async {
            // The next server has another port.
            while world.url(false).await.as_deref() == Some(&url) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let before = begin.clone();
        let left = tokio::select! {
            _ = stream(&world, &client, &url, target, true, format, &mut begin) => false,
            () = over => false,
            () = sleep(300..4_000) => true,
        };
        if let (Begin::Token(before, _), Begin::Token(after, _)) = (&before, &begin)
            && before != after
        {
            count(&world.counts.resumes, 1);
        }
        let chosen = rand::rng().random_range(0..10);
        match chosen {
            0 => begin = Begin::Earliest,
            1 | 2 => begin = Begin::Snapshot,
            3..6 if left => sleep(300..2_000).await,
            _ => pause().await,
        }
    }
}

/// One stream, to its end; answers what it has shown if it came to the end that was asked for. `begin` becomes where it
/// can be taken up.
pub async fn stream(
    world: &World,
    client: &Client,
    url: &str,
    target: &Target,
    go_on: bool,
    format: Format,
    begin: &mut Begin,
) -> Option<KeyedFollower> {
    let floor = hold(&target.history).floor();
    let request = client.get(format!("{url}/v1/tables/public/{}/changes?follow={go_on}", target.name));
    let (request, from) = match (&*begin, format) {
        (Begin::Earliest, _) => (request.query(&[("from", "earliest")]), "from=earliest"),
        (Begin::Snapshot, _) => (request.query(&[("from", "snapshot")]), "from=snapshot"),
        (Begin::Token(token, _), Format::Events) => (request.header("last-event-id", token), "a token"),
        (Begin::Token(token, _), Format::Lines) => (request.query(&[("from", format!("token:{token}"))]), "a token"),
    };
    let what = format!("{format:?} of {}, {from}", target.name);
    let accept = if format == Format::Events { "text/event-stream" } else { "application/x-ndjson" };
    let answer = request.header("accept", accept).send().await.ok()?;
    match answer.status().as_u16() {
        200 => {}
        429 | 503 => return None,
        410 => {
            let problem: Value = answer.json().await.ok()?;
            match begin {
                Begin::Token(_, follower) if problem["code"] == OUT_OF_RETENTION => {
                    check_out_of_retention(world, url, target, &what, follower).await;
                    *begin = Begin::Snapshot;
                }
                _ => world.fail(format!("{what} was answered {problem}")),
            }
            return None;
        }
        status => {
            world.fail(format!("{what} was answered {status}: {}", answer.text().await.unwrap_or_default()));
            return None;
        }
    }
    let follower = match &*begin {
        // Where it begins is settled by now, and what is kept begins there, or later.
        Begin::Earliest => {
            let kept = marks(world, url, target.name).await?;
            let kept: Offsets = kept.iter().map(|marks| (marks.bucket, marks.log_start)).collect();
            Some(KeyedFollower::from_earliest(kept))
        }
        Begin::Snapshot => None,
        Begin::Token(_, follower) => Some(follower.clone()),
    };
    let mut stream =
        Stream { world, target, what, floor, state: Vec::new(), follower, fallen_behind: false, over: false };
    let whole = read(world, answer, format, |items| stream.settle(items, begin)).await;
    if stream.fallen_behind
        && let Some(follower) = &stream.follower
    {
        check_out_of_retention(world, url, target, &stream.what, follower).await;
        *begin = Begin::Snapshot;
    }
    stream.follower.filter(|_| whole && !stream.over)
}

/// A stream that is being read.
struct Stream<'a> {
    world: &'a World,
    target: &'a Target,
    what: String,
    floor: KeyedFloor,
    /// Rows of the state that it begins with, until its cut comes.
    state: Vec<KeyedRow>,
    follower: Option<KeyedFollower>,
    /// It went below what is kept.
    fallen_behind: bool,
    /// It ended with an error, or something in it was wrong.
    over: bool,
}

impl Stream<'_> {
    fn settle(&mut self, items: Vec<Item>, begin: &mut Begin) {
        let changes: Vec<_> =
            items.iter().filter_map(|item| if let Item::Change(change) = item { Some(change) } else { None }).collect();
        let told: Vec<_> = changes.iter().map(|change| &change["row"]).collect();
        let told = match rows_from_json(&told) {
            Ok(told) => told,
            Err(wrong) => return self.fail(wrong),
        };
        let mut told = told.into_iter();
        for item in items {
            if self.over {
                return;
            }
            match item {
                Item::Change(change) => {
                    let Some((key, row)) = told.next().flatten() else {
                        return self.fail(format!("a change without a row: {change}"));
                    };
                    let (bucket, offset) = place(&change);
                    self.change(&change["kind"], KeyedRow { bucket, offset, key, row });
                }
                Item::Token(token) => {
                    if self.follower.is_none() {
                        let state = std::mem::take(&mut self.state);
                        match hold(&self.target.history).state(&self.what, &self.floor, &state) {
                            Ok(follower) => self.follower = Some(follower),
                            Err(violation) => self.world.fail(violation),
                        }
                        count(&self.world.counts.snapshots, 1);
                    }
                    match &self.follower {
                        Some(follower) => *begin = Begin::Token(token, follower.clone()),
                        None => self.over = true,
                    }
                }
                Item::Error(error) => {
                    self.over = true;
                    match error["code"] == OUT_OF_RETENTION {
                        true => self.fallen_behind = true,
                        false => ended(self.world, &self.what, &error),
                    }
                }
            }
        }
    }

    fn change(&mut self, kind: &Value, row: KeyedRow) {
        let named = ChangeKind::ALL.iter().copied().find(|known| *kind == known.symbol());
        match (&mut self.follower, named) {
            (None, Some(ChangeKind::Insert)) => self.state.push(row),
            (Some(follower), Some(kind)) => {
                let followed = hold(&self.target.history).followed(&self.what, follower, kind, row);
                if let Err(violation) = followed {
                    self.fail(violation);
                }
            }
            _ => self.fail(format!("{kind} {row:?}, in a state or unknown")),
        }
    }

    fn fail(&mut self, wrong: impl std::fmt::Display) {
        self.world.fail(format!("{}: {wrong}", self.what));
        self.over = true;
    }
}

/// Only what is below the first change that is kept may be called so.
async fn check_out_of_retention(world: &World, url: &str, target: &Target, what: &str, follower: &KeyedFollower) {
    count(&world.counts.fallen_behind, 1);
    // If it does not answer it was killed.
    let Some(kept) = marks(world, url, target.name).await else { return };
    if !kept.iter().any(|marks| follower.may_be_below(marks.bucket, marks.log_start)) {
        world.fail(format!("{what} is told {OUT_OF_RETENTION}: {follower:?}, kept is {kept:?}"));
    }
}
