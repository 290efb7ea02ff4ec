//! After a restart, before new load: everything is read in every way there is.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use futures::TryStreamExt;
use thermocline_integration_tests::oracle;
use thermocline_schemas::{Offset, PartitionBucket, SystemColumn};
use thermocline_tiering::check::LakeInspection;
use thermocline_tiering::{BucketStatus, Offsets, Warehouse};

use super::clients::{ask, counted, filtered, placed, places, select};
use super::followers::{self, Format, Resume};
use super::world::{Target, World, hold};
use super::{emptied, keyed};

pub async fn everything(world: &World, url: &str) {
    for target in &world.targets {
        let floor = hold(&target.history).floor();
        let read = [
            select(world, url, target, "SELECT").await,
            filtered(world, url, target, "a filter").await,
            counted(world, url, target, "count").await,
        ];
        if read.contains(&None) {
            world.fail("a query was not answered after the restart");
        }
        for format in [Format::Lines, Format::Events] {
            let mut resume = Resume::default();
            let request = world.client.get(format!("{url}/v1/tables/public/{}/changes?follow=false", target.name));
            followers::stream(world, target, request, format, &mut resume).await;
            world.check(hold(&target.history).caught_up(&format!("changes, {format:?}"), &resume.follower, &floor));
        }
        lake_by_sql(world, url, target).await;
        lake_by_files(world, target).await;
    }
    for target in &world.keyed {
        keyed::verify::everything(world, url, target).await;
    }
    emptied::verify(world, url).await;
    scratch(world, url).await;
}

/// How far each bucket is tiered; also checks its marks.
async fn tiered(world: &World, url: &str, target: &Target) -> Offsets {
    let floor = hold(&target.history).floor();
    let marks = marks(world, url, target.name).await.expect("the server lives");
    marks.iter().for_each(|marks| world.check(hold(&target.history).marks("the table's marks", &floor, *marks)));
    marks.iter().map(|marks| (marks.bucket, marks.tiered_end)).collect()
}

/// How the buckets of a table say that they stand; none if the server does not answer. Of a table with partitions, those
/// that have rows: one of each number.
pub async fn marks(world: &World, url: &str, table: &str) -> Option<Vec<BucketStatus>> {
    let asked = world.client.get(format!("{url}/v1/tables/public/{table}")).send().await.ok()?;
    let answer: serde_json::Value = asked.json().await.ok()?;
    let buckets = answer["buckets"].as_array().into_iter().flatten().map(|bucket| {
        let number = |name: &str| bucket[name].as_u64().expect("marks are numbers");
        BucketStatus {
            bucket: PartitionBucket::unpartitioned(number("bucket") as u32),
            log_start: Offset(number("log_start")),
            // Not said over HTTP.
            trim_floor: Offset(number("log_start")),
            tiered_end: Offset(number("tiered_end")),
            durable_end: Offset(number("durable_end")),
        }
    });
    let mut marks: BTreeMap<PartitionBucket, BucketStatus> = BTreeMap::new();
    for found in buckets {
        let known = marks.entry(found.bucket).or_insert(found);
        if found.durable_end > known.durable_end {
            *known = found;
        }
    }
    Some(marks.into_values().collect())
}

async fn lake_by_sql(world: &World, url: &str, target: &Target) {
    // A round may end between the question and its offsets; rounds are rare without load.
    for _ in 0..20 {
        let before = tiered(world, url, target).await;
        let floor = hold(&target.history).floor();
        let sql = format!("SELECT *, __bucket, __offset FROM \"{}$lake\"", target.name);
        let Some(rows) = placed(world, url, &sql).await else { continue };
        if tiered(world, url, target).await == before {
            world.check(hold(&target.history).lake("the lake by SQL", &floor, &before, rows));
            return;
        }
    }
    world.fail(format!("the lake of {} does not come to rest", target.name));
}

async fn lake_by_files(world: &World, target: &Target) {
    let floor = hold(&target.history).floor();
    match lake_batches(world, target.name, &oracle::schema().arrow()).await {
        Ok(Some((offsets, batches))) => match batches.iter().map(places).collect::<Result<Vec<_>, _>>() {
            Ok(rows) => world.check(hold(&target.history).lake("the lake's files", &floor, &offsets, rows.concat())),
            Err(wrong) => world.fail(format!("the lake's files: {wrong}")),
        },
        Ok(None) => {}
        Err(error) => world.fail(format!("the lake's files: {error}")),
    }
}

/// The rows of a table's lake, read without the server: in the table's columns, `__bucket` and `__offset` last.
pub async fn lake_batches(
    world: &World,
    table: &str,
    schema: &SchemaRef,
) -> thermocline_schemas::Result<Option<(Offsets, Vec<RecordBatch>)>> {
    let path = world.data.join("warehouse");
    let warehouse = Warehouse::open_to_read(path.to_str().expect("a plain path"))?;
    let Some(lake) = LakeInspection::newest(&warehouse, &format!("public/{table}")).await? else { return Ok(None) };
    let (mut files, mut deletes) = (Vec::new(), Vec::new());
    if lake.manifest_list().is_some() {
        for manifest in lake.manifests().await? {
            match manifest.deletes {
                true => deletes.extend(lake.deletes(&manifest).await?),
                false => files.extend(lake.data_files(&manifest).await?),
            }
        }
    }
    let mut deleted = lake.all_deleted(&files, &deletes).await?;
    let mut found = Vec::new();
    for file in &files {
        let deleted = deleted.remove(&file.url).unwrap_or_default();
        let batches: Vec<_> = lake.rows_without(file, deleted).await?.try_collect().await?;
        for batch in batches {
            // Small integers are wider in the lake.
            let column = |name: &str, wanted: &DataType| -> thermocline_schemas::Result<ArrayRef> {
                Ok(arrow::compute::cast(lake.column(&batch, name)?, wanted)?)
            };
            let user = schema.fields().iter().map(|field| (field.name().as_str(), field.data_type().clone()));
            let system = [SystemColumn::Bucket, SystemColumn::Offset];
            let system = system.iter().map(|one| (one.name(), one.arrow()));
            let columns = user.chain(system).map(|(name, wanted)| Ok((name, column(name, &wanted)?, true)));
            let columns = columns.collect::<thermocline_schemas::Result<Vec<_>>>()?;
            found.push(RecordBatch::try_from_iter_with_nullable(columns)?);
        }
    }
    let offsets = lake.version().offsets.iter();
    let of_number = |(at, end): (PartitionBucket, _)| (PartitionBucket::unpartitioned(at.bucket.0), end);
    Ok(Some((offsets.map(of_number).collect(), found)))
}

/// A table that was made is there, one that was dropped is not.
async fn scratch(world: &World, url: &str) {
    let Some((name, there)) = hold(&world.scratch).clone() else { return };
    let sql = "SHOW TABLES";
    let Some(answer) = ask(world, url, sql, "text/csv").await else { return world.fail("SHOW TABLES: no answer") };
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if answer.lines().any(|line| line.split(',').any(|field| field == name)) != there {
        world.fail(format!("table {name} should {}be there:\n{answer}", if there { "" } else { "not " }));
    }
}
