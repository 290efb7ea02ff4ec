//! Lake files that are not what was written. Our own directory has checksums; buckets and other engines do not.

use futures::TryStreamExt;
use object_store::path::Path as StorePath;
use object_store::{ObjectStoreExt, PutPayload};
use thermocline_schemas::{Code, Error, Result};

use super::*;
use crate::lake::LakeInspection;

async fn put(warehouse: &Warehouse, path: &StorePath, bytes: Vec<u8>) {
    warehouse.store().put(path, PutPayload::from(bytes)).await.unwrap();
}

async fn get(warehouse: &Warehouse, path: &StorePath) -> Vec<u8> {
    warehouse.store().get(path).await.unwrap().bytes().await.unwrap().to_vec()
}

/// Reads all rows as followers do; the error is the first.
async fn follow(warehouse: &Warehouse) -> Result<()> {
    let descriptor = descriptor(1, &[]);
    let table = LakeTable::create_or_open(warehouse, &descriptor).await?;
    let version = table.refresh().await?;
    for file in table.data_files(&version).await?.iter() {
        for from in [file.first_offset, file.first_offset.plus(7)] {
            table.read_file(file, &descriptor.schema, from).await?.try_collect::<Vec<_>>().await?;
        }
        table.check_file(file, &descriptor.schema).await?;
    }
    Ok(())
}

/// Reads all rows as checks do.
async fn inspect(warehouse: &Warehouse) -> Result<()> {
    let lake = LakeInspection::newest(warehouse, "shop/orders").await?.unwrap();
    let (mut files, mut deletes) = (Vec::new(), Vec::new());
    for manifest in lake.manifests().await? {
        match manifest.deletes {
            true => deletes.extend(lake.deletes(&manifest).await?),
            false => files.extend(lake.data_files(&manifest).await?),
        }
    }
    for file in &files {
        lake.rows(file).await?.try_collect::<Vec<_>>().await?;
    }
    lake.all_deleted(&files, &deletes).await.map(drop)
}

fn names(error: &Error, path: &StorePath) -> bool {
    error.message().contains(path.filename().unwrap())
}

/// Some of these make the readers of Parquet and Avro panic: a bit width of 255, a name that is none.
#[tokio::test]
async fn a_damaged_lake_file_is_an_error_that_names_it() {
    let warehouse = in_memory();
    let table = LakeTable::create_or_open(&warehouse, &descriptor(1, &[])).await.unwrap();
    committed(table.append(&round(&table, &table.current(), &[(0, 40)]).await).await.unwrap());
    follow(&warehouse).await.unwrap();
    inspect(&warehouse).await.unwrap();
    let listed: Vec<_> = warehouse.store().list(None).try_collect().await.unwrap();
    let damaged = listed.iter().map(|object| &object.location);
    let damaged = damaged.filter(|path| matches!(path.extension(), Some("parquet" | "avro")));
    let mut found = 0;
    for path in damaged {
        let whole = get(&warehouse, path).await;
        // Manifests are long, and mostly names.
        let step = if path.extension() == Some("avro") { 13 } else { 1 };
        for at in (0..whole.len()).step_by(step) {
            let mut bytes = whole.clone();
            bytes[at] = if at % 4 == 0 { !whole[at] } else { 0xff };
            put(&warehouse, path, bytes).await;
            for read in [follow(&warehouse).await, inspect(&warehouse).await] {
                let Err(error) = read else { continue };
                // What a manifest says may also be wrong of other files, or of what others did.
                let of_others = path.extension() == Some("avro") && error.code() != Code::Internal;
                let ours = matches!(error.code(), Code::Corrupt | Code::LakeConflict) && names(&error, path);
                assert!(ours || of_others, "{path} with another byte {at}: {error:?}");
                found += 1;
            }
        }
        put(&warehouse, path, whole).await;
    }
    assert!(found > 500, "{found} errors");
}
