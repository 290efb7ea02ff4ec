//! Time travel: the rows that a table had at an earlier cut.
//!
//! A cut is an end per bucket. A moment is one: the rows that were accepted up to then, in all tables alike, because stamps
//! follow the order of the journal ([`thermocline_engine::Engine::settle`]). So are offsets that somebody names. The state
//! at a cut is a retained snapshot that does not go past it, and the hot changes from there up to the cut. Of a log table
//! any snapshot will do, because its rows say their offsets and what is past the cut is left out. A snapshot that is named
//! is read as it is.
//!
//! Columns: a moment is read in the columns that the table had then, a snapshot in its own, offsets in those of today.
//!
//! Always: the answer is the same whenever it is asked for, or it is an error that names cuts that work: never fewer rows,
//! never a column's values as null because they were let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use futures::TryStreamExt;
use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{Table, TableEnds};
use thermocline_schemas::{Code, Error, FieldId, Offset, PartitionBucket, Result, SchemaId, SystemColumn, TableSchema};
use tokio::time::timeout;

use crate::boundary::Boundary;
use crate::lake::{LakeFile, LakeTable, LakeVersion, PastSnapshot, files_of};
use crate::split::{ATTEMPTS_MAX, HotPart, LakePart, ReadSplit};
use crate::tiering::{TableLake, Tiering};
use crate::token_format::Token;

/// An earlier version of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The rows that were accepted up to this moment, in microseconds since 1970; not in the future.
    Moment(i64),
    /// The rows below these offsets. Each bucket is named.
    Offsets(BTreeMap<PartitionBucket, Offset>),
    /// What a follower had who was given this.
    Token(Token),
    /// A snapshot that the lake keeps, as it is.
    Snapshot(i64),
    /// The snapshot of a tag or branch.
    Reference(String),
}

impl Tiering {
    /// The split of a table at an earlier version. Its table has the columns of that version.
    pub async fn split_at(&self, table: &Arc<Table>, version: &Version) -> Result<ReadSplit> {
        let table = &self.engine().newest(table);
        if let Version::Moment(moment) = version {
            let created_ms = table.descriptor().created_ms;
            if *moment < created_ms.saturating_mul(1000) {
                let (name, created) = (&table.descriptor().name, shown(created_ms.saturating_mul(1000)));
                return Err(Error::new(Code::InvalidOffset, format!("table {name} was made later, at {created}")));
            }
            self.engine().settle(*moment).await?;
        }
        let lake = self.table_lake_with_past(table).await?;
        for _ in 0..ATTEMPTS_MAX {
            let boundary = lake.published.load();
            let past = Past::new(table, &boundary, self.engine().cut([table]).remove(0));
            let split = match version {
                Version::Snapshot(id) => Some(past.snapshot(*id).await?),
                Version::Reference(name) => Some(past.snapshot(past.reference(name)?).await?),
                Version::Moment(moment) => past.moment(*moment).await?,
                Version::Offsets(_) if table.descriptor().is_partitioned() => {
                    return Err(Error::new(
                        Code::InvalidOffset,
                        "a table with partitions has no offsets by bucket alone",
                    )
                    .with_hint("token:<token> names any place of it"));
                }
                Version::Offsets(offsets) => past.offsets(offsets).await?,
                Version::Token(token) if token.table != table.descriptor().id => {
                    let name = &table.descriptor().name;
                    let was = format!("the token is of a table that was there before this {name}");
                    return Err(Error::new(Code::TableDropped, was));
                }
                Version::Token(token) => past.offsets(&token.positions).await?,
            };
            if let Some(split) = split {
                return Ok(split);
            }
        }
        Err(Error::new(Code::StoreUnavailable, "hot rows are let go faster than a read can be planned"))
    }

    /// The cold side of a table, opened if it has one: its snapshots count also while all rows are hot.
    async fn table_lake_with_past(&self, table: &Table) -> Result<Arc<TableLake>> {
        let lake = self.table_lake_for_reading(table).await?;
        if table.descriptor().properties.lake_enabled {
            match timeout(self.options().patience, lake.open(self, table)).await {
                Ok(opened) => opened.map(drop),
                Err(_) => Err(Error::new(Code::StoreUnavailable, "the warehouse does not answer")),
            }
            .map_err(|error| error.while_doing(format!("the lake of table {}", table.descriptor().name)))?;
        }
        Ok(lake)
    }
}

/// What is kept of a table, at one look.
struct Past<'a> {
    table: &'a Arc<Table>,
    lake: Option<&'a (Arc<LakeTable>, Arc<LakeVersion>)>,
    /// Newest first.
    history: Vec<PastSnapshot>,
    /// Those published now.
    now: Arc<TableEnds>,
}

impl<'a> Past<'a> {
    fn new(table: &'a Arc<Table>, boundary: &'a Boundary, now: Arc<TableEnds>) -> Past<'a> {
        let history = match &boundary.lake {
            Some((_, version)) => version.history(),
            None => vec![PastSnapshot::empty()],
        };
        Past { table, lake: boundary.lake.as_ref(), history, now }
    }

    /// A snapshot as it is.
    async fn snapshot(&self, id: i64) -> Result<ReadSplit> {
        let name = &self.table.descriptor().name;
        let kept = self.lake.filter(|(_, version)| version.metadata.snapshot_by_id(id).is_some());
        let Some((lake, version)) = kept else {
            return Err(Error::new(Code::SnapshotExpired, format!("table {name} keeps no snapshot {id}"))
                .with_hint(self.snapshots_near(None)));
        };
        let known = self.history.iter().find(|past| past.snapshot_id == Some(id));
        let past = match known {
            Some(past) => past.clone(),
            // One that only a tag or a branch keeps.
            None => version.alone(id).ok_or_else(|| Error::internal("a snapshot that went away"))?,
        };
        let place = lake.columns_of(&past);
        let schema = place.and_then(|place| self.table.descriptor().schemas().nth(place));
        let table = self.in_columns(schema.unwrap_or(&self.table.descriptor().schema).id)?;
        let ends = past.offsets.iter().collect();
        let version = Arc::new(version.at(id, past.offsets)?);
        let lake = Some(LakePart::read(lake, &version).await?);
        Ok(ReadSplit { table, ends: self.ends(ends), lake, hot: Vec::new() })
    }

    fn reference(&self, name: &str) -> Result<i64> {
        let found = self.lake.and_then(|(_, version)| version.metadata.snapshot_for_ref(name));
        found.map(|snapshot| snapshot.snapshot_id()).ok_or_else(|| {
            let table = &self.table.descriptor().name;
            Error::new(Code::InvalidOffset, "that is no version of the table")
                .with_value(name)
                .with_hint(format!("the lake of {table} has no such tag or branch; a snapshot's id, offsets:0=120,1=98 or token:<token> are versions too"))
        })
    }

    /// The rows below these offsets, in the columns of today; none if hot rows were let go meanwhile.
    async fn offsets(&self, offsets: &BTreeMap<PartitionBucket, Offset>) -> Result<Option<ReadSplit>> {
        let invalid = |what: String| Err(Error::new(Code::InvalidOffset, what));
        for (bucket, _) in self.table.buckets() {
            let end = self.now.end(bucket);
            match offsets.get(&bucket) {
                // One that was not there yet.
                None if self.table.descriptor().is_partitioned() => {}
                None => {
                    return invalid(format!("the version does not name bucket {bucket}, which has rows up to {end}"));
                }
                Some(offset) if *offset > end => {
                    return invalid(format!("bucket {bucket} ends at offset {end}, {offset} has not been written"));
                }
                Some(_) => {}
            }
        }
        self.check_kept(offsets)?;
        for bucket in offsets.keys() {
            self.table.bucket(*bucket)?;
        }
        let schema = &self.table.descriptor().schema;
        let cut = offsets.iter().map(|(bucket, offset)| (*bucket, *offset)).collect();
        self.state(cut, schema, None).await
    }

    /// An error for a cut that had rows which were taken away since. One of more rows than there were then is younger.
    fn check_kept(&self, offsets: &BTreeMap<PartitionBucket, Offset>) -> Result<()> {
        let Some(raised) = self.now.starts.raised() else { return Ok(()) };
        let is_younger = offsets.values().map(|offset| offset.0).sum::<u64>() > raised.rows;
        let at = |bucket| offsets.get(&bucket).copied().unwrap_or_default();
        let had_rows = |(bucket, start)| at(bucket) > Offset::ZERO && (!is_younger || at(bucket) < start);
        match self.now.starts.iter().any(had_rows) {
            true => Err(self.gone(Some(raised.at.saturating_sub(1)), "rows below these offsets were taken away since")),
            false => Ok(()),
        }
    }

    /// The rows that were accepted up to a moment that is settled; none if hot rows were let go meanwhile.
    async fn moment(&self, moment: i64) -> Result<Option<ReadSplit>> {
        let descriptor = self.table.descriptor();
        if self.now.starts.raised().is_some_and(|raised| moment < raised.at) {
            return Err(self.gone(Some(moment), "rows of that moment were taken away since"));
        }
        let schema = match faults::planted(Defect::PastInNewColumns) {
            true => &descriptor.schema,
            false => descriptor.schema_at(moment),
        };
        let mut cut = BTreeMap::new();
        let mut unknown = Vec::new();
        for (bucket, log) in self.table.buckets() {
            let end = self.now.end(bucket);
            let hot = log.offset_at(moment.saturating_add(1), end);
            // Asked afterwards: what was let go meanwhile is not known to be hot.
            let floor = log.trim_floor();
            cut.insert(bucket, hot);
            if floor > Offset::ZERO && hot <= floor {
                unknown.push((bucket, hot, end));
            }
        }
        if unknown.is_empty() {
            return self.state(cut, schema, Some(moment)).await;
        }
        if !descriptor.properties.lake_enabled {
            // What retention has let go of is gone from every cut. But then nothing is left of this one.
            return match unknown.iter().all(|(_, hot, end)| hot == end) {
                true => self.state(cut, schema, Some(moment)).await,
                false => Err(self.gone(Some(moment), "rows of that moment are no longer kept")),
            };
        }
        if descriptor.is_keyed() {
            let cut = match self.reaches_hot(moment) {
                true => cut,
                false => match self.snapshot_of(moment) {
                    Some(past) => past.offsets.iter().collect(),
                    None => return Err(self.gone(Some(moment), "changes of that moment are no longer hot")),
                },
            };
            return self.state(cut, schema, Some(moment)).await;
        }
        let Some((lake, version)) = self.lake else { return Ok(None) };
        let files = lake.data_files(version).await?;
        for (bucket, hot, _) in unknown {
            let cold = first_after(lake, &files, &descriptor.schema, bucket, moment).await?;
            cut.insert(bucket, cold.map_or(hot, |cold| cold.min(hot)).max(self.now.start(bucket)));
        }
        self.state(cut, schema, Some(moment)).await
    }

    /// Whether the cut at a moment lies in what is hot, in every bucket: some snapshot that has all that is no longer hot has
    /// no newer row.
    fn reaches_hot(&self, moment: i64) -> bool {
        self.history.iter().any(|past| {
            let has_all = self.table.buckets().all(|(bucket, log)| past.offsets.get(bucket) >= log.trim_floor());
            has_all && past.last_stamp.is_some_and(|last| last <= moment)
        })
    }

    /// The snapshot that is the table's state at a moment.
    fn snapshot_of(&self, moment: i64) -> Option<&PastSnapshot> {
        self.history.iter().find(|past| {
            let begins = past.last_stamp.is_some_and(|last| last <= moment);
            begins && past.next_stamp.or_else(|| self.first_hot_after(past)).is_some_and(|next| moment < next)
        })
    }

    /// When the first row was accepted that the newest snapshots do not have; the end of all times if there is none.
    fn first_hot_after(&self, past: &PastSnapshot) -> Option<i64> {
        let newest = self.history.first()?;
        if past.offsets != newest.offsets {
            return None;
        }
        let mut first = i64::MAX;
        for (bucket, _) in self.table.buckets() {
            let rows = self.table.hot_rows(bucket, past.offsets.get(bucket), self.now.end(bucket)).ok()?;
            first = first.min(rows.first().and_then(thermocline_engine::HotRows::first_stamp).unwrap_or(i64::MAX));
        }
        Some(first)
    }

    /// The state at a cut, in these columns; none if hot rows were let go meanwhile.
    async fn state(
        &self,
        cut: BTreeMap<PartitionBucket, Offset>,
        schema: &TableSchema,
        moment: Option<i64>,
    ) -> Result<Option<ReadSplit>> {
        let keyed = self.table.descriptor().is_keyed();
        let end = |bucket| cut.get(&bucket).copied().unwrap_or_default();
        let fits = |past: &&PastSnapshot| {
            let goes_past = past.offsets.iter().any(|(bucket, offset)| offset > end(bucket));
            !(keyed && goes_past) || faults::planted(Defect::PastBaseTooNew)
        };
        let mut lacks_columns = false;
        let has_columns = |past: &&PastSnapshot| {
            let has = self.has_columns(past, schema);
            lacks_columns |= !has;
            has
        };
        let base = self.history.iter().filter(fits).find(has_columns);
        let Some(base) = base else {
            let what = match lacks_columns {
                true => "columns that the table had then were dropped, and their values are no longer kept",
                false => "no snapshot is kept that goes back so far",
            };
            return Err(self.gone(moment, what));
        };
        // Older snapshots would need even more that is hot.
        let cold = |bucket| self.from(base, bucket);
        let is_gone =
            self.table.buckets().any(|(bucket, log)| cold(bucket) < end(bucket) && cold(bucket) < log.trim_floor());
        if is_gone {
            return Err(self.gone(moment, "changes from the newest snapshot before that cut on are no longer hot"));
        }
        let table = self.in_columns(schema.id)?;
        let mut hot = Vec::new();
        for (bucket, _) in self.table.buckets() {
            let (from, to) = (cold(bucket), end(bucket));
            match table.hot_rows(bucket, from, to) {
                Ok(rows) if rows.is_empty() => {}
                Ok(rows) => hot.push(HotPart { bucket, from, to, rows }),
                Err(error) if error.code() == Code::OffsetOutOfRetention => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let lake = match (self.lake, base.snapshot_id) {
            (Some((lake, version)), Some(id)) if version.snapshot_id() == Some(id) => {
                Some(LakePart::read(lake, version).await?)
            }
            (Some((lake, version)), Some(id)) => {
                Some(LakePart::read(lake, &Arc::new(version.at(id, base.offsets.clone())?)).await?)
            }
            _ => None,
        };
        let lake = match lake {
            Some(lake) => Some(lake.from(&self.now.starts).await?),
            None => None,
        };
        Ok(Some(ReadSplit { table, ends: self.ends(cut), lake, hot }))
    }

    /// Where the hot part begins that a snapshot needs. Without a lake, what retention let go of is gone for all.
    fn from(&self, base: &PastSnapshot, bucket: PartitionBucket) -> Offset {
        let descriptor = self.table.descriptor();
        let floor = self.table.bucket(bucket).map(|log| log.trim_floor()).unwrap_or_default();
        let lets_go = !descriptor.properties.lake_enabled && !descriptor.is_keyed();
        if lets_go { floor } else { base.offsets.get(bucket).max(self.now.start(bucket)) }
    }

    /// Whether the files of a snapshot have all that they ever had in these columns.
    fn has_columns(&self, past: &PastSnapshot, schema: &TableSchema) -> bool {
        let Some((lake, _)) = self.lake.filter(|_| past.snapshot_id.is_some()) else { return true };
        let wanted = || schema.columns().iter().map(|column| column.id);
        match lake.columns_of(past).and_then(|place| self.table.descriptor().schemas().nth(place)) {
            // What came later than the snapshot's columns is in none of its files.
            Some(own) if own.id <= schema.id => true,
            Some(own) => {
                let own: BTreeSet<FieldId> = own.columns().iter().map(|column| column.id).collect();
                wanted().all(|id| own.contains(&id))
            }
            None => wanted().all(|id| past.has_column(id)),
        }
    }

    fn in_columns(&self, version: SchemaId) -> Result<Arc<Table>> {
        Ok(match version == self.table.descriptor().schema.id {
            true => self.table.clone(),
            false => Arc::new(self.table.in_version(version)?),
        })
    }

    fn ends(&self, ends: BTreeMap<PartitionBucket, Offset>) -> Arc<TableEnds> {
        Arc::new(TableEnds { ends, ..(*self.now).clone() })
    }

    /// The error for a cut of which not all is kept, with those nearby that work.
    fn gone(&self, moment: Option<i64>, what: &str) -> Error {
        let name = &self.table.descriptor().name;
        Error::new(Code::OffsetOutOfRetention, format!("table {name}: {what}")).with_hint(self.snapshots_near(moment))
    }

    /// The snapshots around a moment, or the oldest and the newest, as versions to be asked for.
    fn snapshots_near(&self, moment: Option<i64>) -> String {
        let kept = self.history.iter().filter(|past| past.snapshot_id.is_some());
        let then = |past: &PastSnapshot| past.last_stamp.unwrap_or(past.committed_at_ms.saturating_mul(1000));
        let (older, newer) = match moment {
            // What was committed after rows went has not got them, whenever its own were accepted.
            Some(moment) => {
                let raised_at = self.now.starts.raised().map_or(i64::MAX, |raised| raised.at);
                let is_older = |past: &&PastSnapshot| {
                    let had_them = moment >= raised_at || past.committed_at_ms.saturating_mul(1000) < raised_at;
                    then(past) <= moment && had_them
                };
                let (older, newer): (Vec<_>, Vec<_>) = kept.partition(is_older);
                (older.first().copied(), newer.last().copied())
            }
            None => (kept.clone().next_back(), kept.clone().next()),
        };
        let mut near: Vec<String> = Vec::new();
        for past in [older, newer].into_iter().flatten() {
            let Some(id) = past.snapshot_id else { continue };
            let raised_at = self.now.starts.raised().map_or(i64::MIN, |raised| raised.at);
            let version = match past.last_stamp.filter(|last| *last >= raised_at) {
                Some(last) => format!("TIMESTAMP AS OF '{}' (snapshot {id})", shown(last)),
                None => format!("VERSION AS OF {id}"),
            };
            if !near.contains(&version) {
                near.push(version);
            }
        }
        match near.is_empty() {
            true => "what is hot can be asked for at any moment".to_owned(),
            false => {
                let name = &self.table.descriptor().name;
                format!("the nearest that are kept: {}; \"{}$snapshots\" lists all", near.join(", "), name.table)
            }
        }
    }
}

/// The first offset of a bucket of a log table whose row was accepted after a moment, of those in these files.
async fn first_after(
    lake: &LakeTable,
    files: &[Arc<LakeFile>],
    schema: &TableSchema,
    bucket: PartitionBucket,
    moment: i64,
) -> Result<Option<Offset>> {
    use arrow::array::AsArray;
    use arrow::datatypes::TimestampMicrosecondType;
    let column = schema.system_id(SystemColumn::Timestamp);
    let newest = |file: &LakeFile| {
        let bound = file.upper_bound(column?)?;
        bound.as_primitive_opt::<TimestampMicrosecondType>().map(|bound| bound.value(0))
    };
    // As little of the rows as will do: what counts comes with them.
    let first = schema.columns().iter().map(|column| column.id).take(1).collect::<Vec<_>>();
    let little = schema.key(&first);
    for file in files_of(files, bucket) {
        if newest(file).is_some_and(|newest| newest <= moment) {
            continue;
        }
        let mut rows = lake.read_positions(file, &little, None).await?;
        while let Some(rows) = rows.try_next().await? {
            let after = rows.stamps.first_at_or_after(moment.saturating_add(1));
            if let Some(offset) = rows.offsets.get(after) {
                return Ok(Some(*offset));
            }
        }
    }
    Ok(None)
}

/// A moment as SQL may spell it.
fn shown(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
}
