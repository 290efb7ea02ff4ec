//! After a restart, before new load: a table with a primary key read in every way there is.

use std::sync::atomic::Ordering;

use arrow::array::{AsArray, RecordBatch};
use rand::seq::SliceRandom;
use thermocline_schemas::ChangeKind;
use thermocline_tiering::Offsets;
use thermocline_tiering::check::{KeyedFollower, KeyedRow};

use super::super::clients::rows_of;
use super::super::followers::Format;
use super::super::verify::{lake_batches, marks};
use super::super::world::{World, hold};
use super::clients::{counted, filtered, look_up_items, select};
use super::followers::{Begin, stream};
use super::{Target, rows, schema};

/// How often something is tried that a round, or rows that are let go, may come between.
const TRIES: usize = 20;

pub async fn everything(world: &World, url: &str, target: &Target) {
    let mut items: Vec<_> = target.writers.clone().flat_map(|writer| target.items_of(writer)).collect();
    items.shuffle(&mut rand::rng());
    let mut read = vec![
        select(world, url, target, "SELECT").await,
        counted(world, url, target, "count").await,
        look_up_items(world, url, target, "a lookup", &items).await,
    ];
    for _ in 0..4 {
        read.push(filtered(world, url, target, "a filter").await);
    }
    if read.contains(&None) {
        world.fail(format!("{} was not answered after the restart", target.name));
    }
    for format in [Format::Lines, Format::Events] {
        for begin in [Begin::Earliest, Begin::Snapshot] {
            follow(world, url, target, format, begin).await;
        }
    }
    changes_by_sql(world, url, target).await;
    lake_by_sql(world, url, target).await;
    lake_by_files(world, target).await;
}

async fn follow(world: &World, url: &str, target: &Target, format: Format, begin: Begin) {
    let what = format!("changes of {}, {format:?}, {begin:?}", target.name);
    for _ in 0..TRIES {
        let floor = hold(&target.history).floor();
        let followed = stream(world, &world.client, url, target, false, format, &mut begin.clone()).await;
        if let Some(follower) = followed {
            return world.check(hold(&target.history).caught_up(&what, &follower, &floor));
        }
    }
    world.fail(format!("{what} do not come to their end"));
}

/// How far each bucket is tiered, and from where its changes are kept; also checks its marks.
async fn tiered(world: &World, url: &str, target: &Target) -> (Offsets, Offsets) {
    let floor = hold(&target.history).floor();
    let marks = marks(world, url, target.name).await.expect("the server lives");
    marks.iter().for_each(|marks| world.check(hold(&target.history).marks("the table's marks", &floor, *marks)));
    let let_go = marks.iter().map(|marks| marks.log_start.0).sum();
    target.let_go.fetch_max(let_go, Ordering::Relaxed);
    let tiered = marks.iter().map(|marks| (marks.bucket, marks.tiered_end)).collect();
    (tiered, marks.iter().map(|marks| (marks.bucket, marks.log_start)).collect())
}

/// Every change that is kept.
async fn changes_by_sql(world: &World, url: &str, target: &Target) {
    let floor = hold(&target.history).floor();
    let own = schema();
    let columns: Vec<_> = own.fields().iter().map(|field| field.name().as_str()).collect();
    let sql = format!(
        "SELECT __kind, {}, __bucket, __offset FROM \"{}$changes\" ORDER BY __bucket, __offset",
        columns.join(", "),
        target.name
    );
    let Some(changes) = rows_of(world, url, &sql, kinds_and_rows).await else {
        return world.fail(format!("{sql} was not answered after the restart"));
    };
    let (_, kept) = tiered(world, url, target).await;
    let mut history = hold(&target.history);
    let mut follower = KeyedFollower::from_earliest(kept);
    for (kind, row) in changes {
        world.check(history.followed("changes by SQL", &mut follower, kind, row));
    }
    world.check(history.caught_up("changes by SQL", &follower, &floor));
}

fn kinds_and_rows(batch: &RecordBatch) -> Result<Vec<(ChangeKind, KeyedRow)>, String> {
    let kinds = batch.column(0).as_string::<i32>();
    let others: Vec<_> = (1..batch.num_columns()).collect();
    let rows = rows(&batch.project(&others).expect("columns that are there"))?;
    let kind = |symbol: Option<&str>| ChangeKind::ALL.iter().copied().find(|kind| Some(kind.symbol()) == symbol);
    let kinds: Option<Vec<_>> = kinds.iter().map(kind).collect();
    Ok(kinds.ok_or("a kind that is none")?.into_iter().zip(rows).collect())
}

async fn lake_by_sql(world: &World, url: &str, target: &Target) {
    // A round may end between the question and its offsets; rounds are rare without load.
    for _ in 0..TRIES {
        let (before, _) = tiered(world, url, target).await;
        let floor = hold(&target.history).floor();
        let sql = format!("SELECT *, __bucket, __offset FROM \"{}$lake\"", target.name);
        let Some(rows) = rows_of(world, url, &sql, rows).await else { continue };
        if tiered(world, url, target).await.0 == before {
            return world.check(hold(&target.history).lake("the lake by SQL", &floor, &before, &rows));
        }
    }
    world.fail(format!("the lake of {} does not come to rest", target.name));
}

async fn lake_by_files(world: &World, target: &Target) {
    let floor = hold(&target.history).floor();
    match lake_batches(world, target.name, &schema()).await {
        Ok(Some((offsets, batches))) => match batches.iter().map(rows).collect::<Result<Vec<_>, _>>() {
            Ok(rows) => world.check(hold(&target.history).lake("the lake's files", &floor, &offsets, &rows.concat())),
            Err(wrong) => world.fail(format!("the lake's files: {wrong}")),
        },
        Ok(None) => {}
        Err(error) => world.fail(format!("the lake's files: {error}")),
    }
}
