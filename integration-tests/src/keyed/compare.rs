//! Read splits and lookups against the map: the state as the two tiers make it together, as the lake has it alone, as the
//! changes add up to it, and as keys lead to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt8Array};
use futures::{StreamExt, TryStreamExt};
use thermocline_engine::{Stamps, Table};
use thermocline_schemas::ChangeKind;
use thermocline_tiering::{CutFile, HotPart, LakeFile, LakePart, Picked, ReadSplit};

use super::oracle::{self, Change, KeyOracle, Living, Passing};
use crate::compare::{Tiers, buckets, lake_ends, same};
use crate::node::Node;

/// How a split was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub tiers: Tiers,
    /// Rows of the lake were hidden by hot changes.
    pub masked: bool,
    /// Rows of the lake's files were deleted there.
    pub deleted: bool,
}

/// Compares splits with the map. Data files never change, so each is read once until [`KeyAudit::forget`]; what a split
/// shows of them is told by their offsets.
#[derive(Debug, Default)]
pub struct KeyAudit {
    /// The offsets of files that were read, in the order of positions.
    verified: HashMap<String, Vec<u64>>,
}

impl KeyAudit {
    /// After a power cut nothing is believed.
    pub fn forget(&mut self) {
        self.verified.clear();
    }

    pub async fn split(&mut self, split: &ReadSplit, oracle: &KeyOracle) -> Result<Found, String> {
        let table = &split.table.descriptor().name;
        let served = buckets(&split.table).filter_map(|(bucket, _)| split.ends.ends.get(&bucket));
        let ends: Vec<u64> = served.map(|end| end.0).collect();
        same(&format!("the ends of {table}"), &ends, &oracle.ends())?;
        let tiered = lake_ends(split, oracle.rules.buckets);
        let mut cold = Vec::new();
        let (mut masked, mut deleted) = (false, false);
        if let Some(lake) = &split.lake {
            for file in lake.files.iter() {
                self.verify(lake, file, &split.table, oracle).await?;
                deleted |= file.deletes.is_some();
            }
            let alone = self.picked(&split.lake_files(false).await.map_err(told)?, oracle)?;
            same(&format!("the lake of {table} alone"), &alone, &oracle.living_at(&tiered))?;
            cold = self.picked(&split.lake_files(true).await.map_err(told)?, oracle)?;
            masked = cold.len() < alone.len();
        }
        let passing = Passing::of(split.table.descriptor());
        let hot = living(&split.hot, passing)?;
        for part in &split.hot {
            let number = part.bucket.bucket.0 as usize;
            if (part.from.0, part.to.0) != (tiered[number], ends[number]) {
                return Err(format!("{table}: the hot part {part:?} should be {}..{}", tiered[number], ends[number]));
            }
        }
        let mut both = [cold, hot].concat();
        both.sort_unstable();
        same(&format!("the state of {table}"), &both, &oracle.living())?;
        changes(split, oracle).map_err(|failure| format!("the changes of {table}: {failure}"))?;
        let keys = split.table.key_figures().map(|figures| figures.keys as usize);
        if keys != Some(oracle.state().len()) {
            return Err(format!("{table} has {} keys, its index {keys:?}", oracle.state().len()));
        }
        Ok(Found { tiers: Tiers::of(split), masked, deleted })
    }

    /// Reads a file whole, deleted rows included: each is what the upsert at its offset had made.
    async fn verify(
        &mut self,
        lake: &LakePart,
        file: &Arc<LakeFile>,
        table: &Table,
        oracle: &KeyOracle,
    ) -> Result<(), String> {
        if self.verified.contains_key(&file.url) {
            return Ok(());
        }
        let number = file.bucket.bucket.0 as usize;
        let passing = Passing::of(table.descriptor());
        let mut rows = lake.table.read_positions(file, &table.descriptor().schema, None).await.map_err(told)?;
        let mut offsets = Vec::new();
        while let Some(rows) = rows.next().await {
            let rows = rows.map_err(told)?;
            for (offset, (id, version, stamp)) in rows.offsets.iter().zip(read(&rows.batch, &rows.stamps, passing)?) {
                let found = Living { bucket: number, offset: offset.0, id, version, stamp };
                if made(oracle, number, offset.0)? != found {
                    return Err(format!("{} has {found:?}", file.url));
                }
                offsets.push(offset.0);
            }
        }
        let within = offsets.iter().all(|offset| (file.first_offset.0..file.end_offset.0).contains(offset));
        if !within || !offsets.is_sorted() || offsets.len() as u64 != file.rows {
            return Err(format!("{file:?} has the offsets {offsets:?}"));
        }
        self.verified.insert(file.url.clone(), offsets);
        Ok(())
    }

    /// The rows of files, by place.
    fn picked(&self, files: &[CutFile], oracle: &KeyOracle) -> Result<Vec<Living>, String> {
        let mut rows = Vec::new();
        for cut in files {
            let number = cut.file.bucket.bucket.0 as usize;
            let offsets =
                self.verified.get(&cut.file.url).ok_or_else(|| format!("{} is not the split's", cut.file.url))?;
            let before = rows.len();
            match &cut.picked {
                None => rows.extend(offsets.iter().map(|offset| (number, *offset))),
                Some(picked) => {
                    for position in picked.positions() {
                        let offset = offsets.get(position as usize);
                        let offset = offset.ok_or_else(|| format!("{} has no row {position}", cut.file.url))?;
                        rows.push((number, *offset));
                    }
                }
            }
            if (rows.len() - before) as u64 != cut.rows() {
                return Err(format!("{} has {} rows, says {}", cut.file.url, rows.len() - before, cut.rows()));
            }
        }
        let mut rows =
            rows.into_iter().map(|(number, offset)| made(oracle, number, offset)).collect::<Result<Vec<_>, _>>()?;
        rows.sort_unstable();
        Ok(rows)
    }
}

fn told(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// The row that the change at this place has made.
fn made(oracle: &KeyOracle, bucket: usize, offset: u64) -> Result<Living, String> {
    let change = oracle.log[bucket].get(offset as usize);
    match change {
        Some(Change { kind: ChangeKind::Insert | ChangeKind::UpdateAfter, id, version, stamp }) => {
            Ok(Living { bucket, offset, id: *id, version: *version, stamp: *stamp })
        }
        other => Err(format!("a row at {bucket}:{offset}, where {other:?} is")),
    }
}

/// Id, version and stamp of the rows of a batch, each with its contents checked.
pub fn read(batch: &RecordBatch, stamps: &Stamps, passing: Passing) -> Result<Vec<(i64, i64, i64)>, String> {
    let contents = oracle::contents(batch, passing)?.into_iter();
    Ok(contents.zip(stamps.values()).map(|((id, version), stamp)| (id, version, stamp)).collect())
}

/// The rows of these parts that are part of the state at the parts' ends, by place.
pub fn living(parts: &[HotPart], passing: Passing) -> Result<Vec<Living>, String> {
    let mut living = Vec::new();
    for part in parts {
        let bucket = part.bucket.bucket.0 as usize;
        for rows in &part.rows {
            for batch in rows.read(None) {
                let batch = batch.map_err(told)?;
                let visible = batch.visible(part.to).ok_or("rows that do not know what ended them")?;
                for (row, (id, version, stamp)) in read(&batch.batch, &batch.stamps, passing)?.into_iter().enumerate() {
                    if visible.value(row) {
                        living.push(Living { bucket, offset: batch.first.0 + row as u64, id, version, stamp });
                    }
                }
            }
        }
    }
    living.sort_unstable();
    Ok(living)
}

/// The changes of these parts, per bucket from its first offset on.
pub fn read_changes(parts: &[HotPart], passing: Passing) -> Result<BTreeMap<usize, (u64, Vec<Change>)>, String> {
    let mut found = BTreeMap::new();
    for part in parts {
        let mut changes = Vec::new();
        for rows in &part.rows {
            for batch in rows.read(None) {
                let batch = batch.map_err(told)?;
                if batch.first.0 != part.from.0 + changes.len() as u64 {
                    return Err(format!("{} goes on at {} after {} changes", part.bucket, batch.first, changes.len()));
                }
                let kinds = batch.kinds().ok_or("changes without their kinds")?;
                changes.extend(change_rows(&batch.batch, &batch.stamps, kinds, passing)?);
            }
        }
        found.insert(part.bucket.bucket.0 as usize, (part.from.0, changes));
    }
    Ok(found)
}

pub fn change_rows(
    batch: &RecordBatch,
    stamps: &Stamps,
    kinds: &UInt8Array,
    passing: Passing,
) -> Result<Vec<Change>, String> {
    let rows = read(batch, stamps, passing)?.into_iter().zip(kinds.values());
    let change = |((id, version, stamp), code): ((i64, i64, i64), &u8)| {
        let kind = ChangeKind::from_code(*code).ok_or_else(|| format!("a change of kind {code}"))?;
        Ok(Change { kind, id, version, stamp })
    };
    rows.map(change).collect()
}

/// The changes that are kept are the list's, and make the map of the state before them.
fn changes(split: &ReadSplit, oracle: &KeyOracle) -> Result<(), String> {
    let passing = Passing::of(split.table.descriptor());
    let found = read_changes(&split.changes().map_err(told)?, passing)?;
    let mut state: BTreeMap<i64, i64> =
        oracle.living_at(&oracle.floors).into_iter().map(|row| (row.id, row.version)).collect();
    for (number, (log, floor)) in oracle.log.iter().zip(&oracle.floors).enumerate() {
        let expected = &log[*floor as usize..];
        let none = (*floor, Vec::new());
        let (from, own) = found.get(&number).unwrap_or(&none);
        same(&format!("bucket {number} from {floor}"), own, expected)?;
        if from != floor {
            return Err(format!("bucket {number} begins at {from}, is kept from {floor}"));
        }
        fold(own, &mut state, oracle.rules.full)?;
    }
    let expected: BTreeMap<_, _> = oracle.state().values().map(|row| (row.id, row.version)).collect();
    if state != expected {
        return Err(format!("they add up to {state:?}, expected {expected:?}"));
    }
    Ok(())
}

/// Adds changes of one bucket to a state: each old row is the row that was there, and the halves of an update stand side
/// by side.
pub fn fold(changes: &[Change], state: &mut BTreeMap<i64, i64>, full: bool) -> Result<(), String> {
    let mut half: Option<i64> = None;
    for change in changes {
        let Change { kind, id, version, .. } = *change;
        let before = state.get(&id).copied();
        let fits = match (kind, half.take()) {
            (ChangeKind::Insert, None) => full && before.is_none(),
            (ChangeKind::UpdateBefore, None) => {
                half = Some(id);
                full && before == Some(version)
            }
            (ChangeKind::UpdateAfter, half) => {
                if full {
                    half == Some(id)
                } else {
                    half.is_none()
                }
            }
            (ChangeKind::Delete, None) => before == Some(version),
            _ => false,
        };
        if !fits {
            return Err(format!("{change:?} of {before:?}"));
        }
        match kind {
            ChangeKind::Delete => drop(state.remove(&id)),
            _ => drop(state.insert(id, version)),
        }
    }
    match half {
        None => Ok(()),
        Some(id) => Err(format!("a cut parts the update of {id}")),
    }
}

/// The columns of these keys, in the key's order.
pub fn key_columns(table: &Table, ids: &[i64]) -> Vec<ArrayRef> {
    let columns = table.descriptor().key_places().into_iter().map(|place| -> ArrayRef {
        match place {
            0 => Arc::new(Int64Array::from_iter_values(ids.iter().copied())),
            _ => Arc::new(StringArray::from_iter_values(ids.iter().map(|id| oracle::region(*id)))),
        }
    });
    columns.collect()
}

/// The versions that these keys have, by lookup.
pub async fn look_up(node: &Node, table: &Arc<Table>, ids: &[i64]) -> Result<Vec<Option<i64>>, String> {
    let found = node.engine.lookup(table, key_columns(table, ids)).await.map_err(told)?;
    let mut rows = oracle::contents(&found.rows, Passing::of(table.descriptor()))?.into_iter();
    let mut versions = Vec::with_capacity(ids.len());
    for (id, count) in ids.iter().zip(&found.counts) {
        let row = if *count > 0 { Some(rows.next().ok_or("a key was found and its row was not")?) } else { None };
        if row.is_some_and(|(own, _)| own != *id) {
            return Err(format!("key {id} led to {row:?}"));
        }
        versions.push(row.map(|(_, version)| version));
    }
    if found.counts.len() != ids.len() || rows.next().is_some() {
        return Err(format!("{} keys were looked up: {:?}", ids.len(), found.counts));
    }
    Ok(versions)
}

/// The rows that live at a split's cut, read from the lake's files and the hot tier, by place.
pub async fn read_state(split: &ReadSplit) -> Result<Vec<Living>, String> {
    let passing = Passing::of(split.table.descriptor());
    let mut state = living(&split.hot, passing)?;
    if let Some(lake) = &split.lake {
        for cut in split.lake_files(true).await.map_err(told)? {
            let positions = cut.picked.as_ref().map(Picked::positions);
            let schema = &split.table.descriptor().schema;
            let rows = lake.table.read_positions(&cut.file, schema, positions.as_ref()).await.map_err(told)?;
            let rows: Vec<_> = rows.try_collect().await.map_err(told)?;
            let bucket = cut.file.bucket.bucket.0 as usize;
            for rows in rows {
                let places = rows.offsets.iter().zip(read(&rows.batch, &rows.stamps, passing)?);
                state.extend(places.map(|(offset, (id, version, stamp))| Living {
                    bucket,
                    offset: offset.0,
                    id,
                    version,
                    stamp,
                }));
            }
        }
    }
    state.sort_unstable();
    Ok(state)
}
