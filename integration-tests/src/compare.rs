//! Every way to read a table against the list.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use futures::StreamExt;
use thermocline_schemas::Offset;
use thermocline_sql::SqlRequest;
use thermocline_tiering::{FollowFrom, FollowOptions};

use crate::node::Node;
use crate::oracle::{self, Oracle};

/// What a comparison found out about the state it was made in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub hot_rows: u64,
    pub lake_rows: u64,
}

async fn query(node: &Node, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let answer = node.sql.execute(sql, SqlRequest::default()).await.map_err(|error| format!("{sql}: {error:?}"))?;
    let batches: Vec<_> = answer.batches.collect().await;
    batches.into_iter().collect::<Result<_, _>>().map_err(|error| format!("{sql}: {error:?}"))
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: &[T], expected: &[T]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    Err(format!(
        "{what}: {} rows, expected {}; first difference at {at}: {:?}, expected {:?}",
        found.len(),
        expected.len(),
        found.get(at),
        expected.get(at)
    ))
}

/// All ids that SQL shows, with their contents checked.
pub async fn all_ids(node: &Node) -> Result<HashSet<i64>, String> {
    let mut found = HashSet::new();
    for batch in query(node, "SELECT * FROM t").await? {
        for id in oracle::ids(&batch)? {
            if !found.insert(id) {
                return Err(format!("SELECT shows id {id} twice"));
            }
        }
    }
    Ok(found)
}

/// Reads the table in every way there is; `pick` varies the filtered queries.
pub async fn everything(node: &Node, oracle: &Oracle, pick: i64) -> Result<Seen, String> {
    let seen = select(node, oracle).await?;
    filtered(node, oracle, pick).await?;
    changes(node, oracle, pick).await?;
    lake(node, oracle).await?;
    Ok(seen)
}

async fn select(node: &Node, oracle: &Oracle) -> Result<Seen, String> {
    // With the places of the rows, so that order and density are checked too.
    let mut places: BTreeMap<(i32, i64), i64> = BTreeMap::new();
    for batch in query(node, "SELECT *, __bucket, __offset FROM t").await? {
        let columns = batch.num_columns();
        let (buckets, offsets) = (
            batch.column(columns - 2).as_primitive::<Int32Type>(),
            batch.column(columns - 1).as_primitive::<Int64Type>(),
        );
        for (row, id) in oracle::ids(&batch)?.into_iter().enumerate() {
            let place = (buckets.value(row), offsets.value(row));
            if let Some(other) = places.insert(place, id) {
                return Err(format!("SELECT shows {place:?} twice, as {other} and {id}"));
            }
        }
    }
    for (bucket, expected) in oracle.buckets.iter().enumerate() {
        let found: Vec<_> = places.iter().filter(|((own, _), _)| *own == bucket as i32).collect();
        expect("SELECT", &found.iter().map(|(_, id)| **id).collect::<Vec<_>>(), expected)?;
        let dense = found.iter().enumerate().all(|(row, ((_, offset), _))| *offset == row as i64);
        if !dense {
            return Err(format!("SELECT: the offsets of bucket {bucket} have a gap"));
        }
    }
    let answer = node.sql.execute("SELECT count(*) FROM t", SqlRequest::default()).await.map_err(|e| e.to_string())?;
    let batches: Vec<_> = answer.batches.collect().await;
    let count = batches
        .first()
        .and_then(|batch| batch.as_ref().ok())
        .map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0));
    expect("count(*)", &[count.unwrap_or(-1)], &[oracle.rows() as i64])?;
    let split = node.tiering.read_split(std::slice::from_ref(&node.table)).await.map_err(|e| e.to_string())?;
    Ok(Seen { hot_rows: split[0].hot_rows(), lake_rows: split[0].lake_rows() })
}

async fn filtered(node: &Node, oracle: &Oracle, pick: i64) -> Result<(), String> {
    let all = oracle.sorted();
    let middle = all.get(all.len() / 2).copied().unwrap_or(0);
    let city = format!("city {}", pick.rem_euclid(17));
    let (from, to) = (middle - pick.rem_euclid(40), middle + 7);
    let of_city: Vec<_> = all.iter().copied().filter(|id| oracle::city(*id) == city && *id >= from).collect();
    let in_range: Vec<_> = all.iter().copied().filter(|id| (from..to).contains(id)).collect();
    let one = all.binary_search(&middle).map(|_| vec![middle]).unwrap_or_default();
    // One of them each time: planning costs more than a thousand rows.
    let (sql, expected) = match pick % 3 {
        0 => (format!("SELECT id FROM t WHERE city = '{city}' AND id >= {from} ORDER BY id"), of_city),
        1 => (format!("SELECT id FROM t WHERE id >= {from} AND id < {to} ORDER BY id"), in_range),
        _ => (format!("SELECT id FROM t WHERE id = {middle}"), one),
    };
    let mut found = Vec::new();
    for batch in query(node, &sql).await? {
        found.extend(batch.column(0).as_primitive::<Int64Type>().values());
    }
    expect(&sql, &found, &expected)
}

async fn changes(node: &Node, oracle: &Oracle, pick: i64) -> Result<(), String> {
    let buckets: Vec<_> = node.table.buckets().map(|(bucket, _)| bucket).collect();
    // From the start, and from some place in the middle.
    let middle = buckets.iter().zip(&oracle.buckets).map(|(bucket, ids)| {
        (*bucket, Offset(if ids.is_empty() { 0 } else { pick.rem_euclid(ids.len() as i64) as u64 }))
    });
    let middle: BTreeMap<_, _> = middle.collect();
    for from in [FollowFrom::Earliest, FollowFrom::Offsets(middle.clone())] {
        let first = |bucket| if from == FollowFrom::Earliest { Offset(0) } else { middle[&bucket] };
        let followed = node.tiering.follow(&node.table, from.clone(), FollowOptions { follow: false }).await;
        let mut followed = followed.map_err(|error| format!("changes: {error:?}"))?.batches;
        let mut found: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        while let Some(change) = followed.next().await {
            let change = change.map_err(|error| format!("changes: {error:?}"))?;
            let ids = found.entry(change.bucket).or_default();
            let expected = first(change.bucket).plus(ids.len() as u64);
            if change.first != expected {
                return Err(format!("changes: bucket {} goes from {expected} to {}", change.bucket, change.first));
            }
            ids.extend(oracle::ids(&change.batch)?);
        }
        for (bucket, expected) in buckets.iter().zip(&oracle.buckets) {
            let found = found.remove(bucket).unwrap_or_default();
            expect("changes", &found, &expected[first(*bucket).0 as usize..])?;
        }
    }
    Ok(())
}

/// The lake by itself: exactly the rows below its offsets.
async fn lake(node: &Node, oracle: &Oracle) -> Result<(), String> {
    let split = node.tiering.read_split(std::slice::from_ref(&node.table)).await.map_err(|e| e.to_string())?;
    let Some(lake) = &split[0].lake else { return Ok(()) };
    let schema = &node.table.descriptor().schema;
    let mut found: Vec<Vec<i64>> = vec![Vec::new(); oracle.buckets.len()];
    for file in lake.files.iter() {
        let file: &Arc<_> = file;
        let mut rows = lake.table.read_file(file, schema, Offset(0)).await.map_err(|error| error.to_string())?;
        while let Some(rows) = rows.next().await {
            let rows = rows.map_err(|error| format!("lake: {error:?}"))?;
            found[file.bucket.bucket.0 as usize].extend(oracle::ids(&rows.batch)?);
        }
    }
    for (bucket, _) in node.table.buckets() {
        let end = lake.version.offsets.get(bucket).0 as usize;
        let expected = &oracle.buckets[bucket.bucket.0 as usize];
        let expected =
            expected.get(..end).ok_or_else(|| format!("the lake claims {end} rows of {}", expected.len()))?;
        expect("lake", &found[bucket.bucket.0 as usize], expected)?;
    }
    Ok(())
}
