//! After a restart, before new load: everything is read in every way there is.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use futures::TryStreamExt;
use thermocline_integration_tests::oracle;
use thermocline_schemas::{Offset, PartitionBucket, SystemColumn};
use thermocline_tiering::check::LakeInspection;
use thermocline_tiering::{BucketStatus, Offsets, Warehouse};

use super::clients::{ask, counted, filtered, placed, places, select};
use super::followers::{self, Format, Resume};
use super::world::{Target, World, hold};

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
    scratch(world, url).await;
}

/// How far each bucket is tiered; also checks its marks.
async fn tiered(world: &World, url: &str, target: &Target) -> Offsets {
    let floor = hold(&target.history).floor();
    let asked = world.client.get(format!("{url}/v1/tables/public/{}", target.name)).send().await;
    let answer: serde_json::Value = asked.expect("the server lives").json().await.expect("a table is JSON");
    let buckets = answer["buckets"].as_array().into_iter().flatten().map(|bucket| {
        let number = |name: &str| bucket[name].as_u64().expect("marks are numbers");
        let status = BucketStatus {
            bucket: PartitionBucket::unpartitioned(number("bucket") as u32),
            log_start: Offset(number("log_start")),
            // Not said over HTTP.
            trim_floor: Offset(number("log_start")),
            tiered_end: Offset(number("tiered_end")),
            durable_end: Offset(number("durable_end")),
        };
        world.check(hold(&target.history).marks("the table's marks", &floor, status));
        (status.bucket, status.tiered_end)
    });
    buckets.collect()
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
    match lake_rows(world, target).await {
        Ok(Some((offsets, rows))) => {
            world.check(hold(&target.history).lake("the lake's files", &floor, &offsets, rows))
        }
        Ok(None) => {}
        Err(error) => world.fail(format!("the lake's files: {error}")),
    }
}

type Rows = Vec<thermocline_tiering::check::Placed>;

async fn lake_rows(world: &World, target: &Target) -> thermocline_schemas::Result<Option<(Offsets, Rows)>> {
    let path = world.data.join("warehouse");
    let warehouse = Warehouse::open_to_read(path.to_str().expect("a plain path"))?;
    let root = format!("public/{}", target.name);
    let Some(lake) = LakeInspection::newest(&warehouse, &root).await? else { return Ok(None) };
    let schema = oracle::schema().arrow();
    let mut rows = Vec::new();
    if lake.manifest_list().is_some() {
        for manifest in lake.manifests().await? {
            for file in lake.data_files(&manifest).await? {
                let batches: Vec<_> = lake.rows(&file).await?.try_collect().await?;
                for batch in batches {
                    // Small integers are wider in the lake.
                    let column = |name: &str, wanted: &DataType| -> thermocline_schemas::Result<ArrayRef> {
                        Ok(arrow::compute::cast(lake.column(&batch, name)?, wanted)?)
                    };
                    let user = schema.fields().iter().map(|field| column(field.name(), field.data_type()));
                    let system = [SystemColumn::Bucket, SystemColumn::Offset];
                    let system = system.iter().map(|one| column(one.name(), &one.arrow()));
                    let columns = user.chain(system).collect::<thermocline_schemas::Result<Vec<_>>>()?;
                    let names =
                        schema.fields().iter().map(|field| field.name().as_str()).chain(["__bucket", "__offset"]);
                    let batch = RecordBatch::try_from_iter_with_nullable(
                        names.zip(columns).map(|(name, column)| (name, column, true)),
                    )?;
                    rows.extend(places(&batch).map_err(thermocline_schemas::Error::corrupt)?);
                }
            }
        }
    }
    Ok(Some((lake.version().offsets.clone(), rows)))
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
