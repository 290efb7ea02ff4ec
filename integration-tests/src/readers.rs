//! Readers that take their time: cuts that are opened now and read many operations later, and followers that live as long
//! as a history does.
//!
//! A slow reader must give exactly the cut at which it was opened. A follower must give the list's rows from where it began,
//! each once and in order, whatever happened to segments, lake and server meanwhile; it keeps what a token says, the next
//! offset per bucket, and nothing else. Where retention has taken rows, and only there, either may say 410.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use thermocline_engine::Table;
use thermocline_schemas::{Code, Error, Offset, Result as Answered};
use thermocline_sql::Answer;
use thermocline_tiering::{ChangeBatch, FollowFrom, FollowOptions, ReadSplit, Tiering};

use crate::compare::{bucket, read_batch, read_split, same};
use crate::oracle::{Oracle, Row};
use crate::statements::numbers;

/// What is due must come within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a slow reader reads.
pub enum Pinned {
    Split(Box<ReadSplit>),
    /// `SELECT __bucket, __offset, __timestamp, id`.
    Query(Answer),
    /// Followed to the end of the cut.
    Changes(BoxStream<'static, Answered<ChangeBatch>>),
}

/// A cut that was opened and not read yet.
pub struct SlowReader {
    pub number: usize,
    pub table: Arc<Table>,
    pub pinned: Pinned,
    /// What it must give: the list as it was.
    pub cut: Oracle,
    /// What happened to its table since.
    pub crossed: BTreeSet<&'static str>,
}

/// How a slow reader ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exact,
    /// It said that retention had taken its rows.
    Gone,
}

impl SlowReader {
    /// Reads all of it. `now` is the list as it stands, which says what retention has taken since.
    pub async fn finish(self, now: &Oracle) -> Result<Ending, String> {
        let SlowReader { pinned, cut, crossed, .. } = self;
        // Of a table that was dropped since, `now` does not say what was let go; and what is no longer hot may be purged.
        let purged = crossed.contains("a drop");
        let taken = now.floors != cut.floors || purged && crossed.contains("a trim");
        let expected: Vec<_> =
            cut.visible().map(|(bucket, offset, row)| vec![bucket as i64, offset as i64, row.stamp, row.id]).collect();
        let found = match pinned {
            Pinned::Split(split) => {
                let rows = read_split(&split, &cut.floors).await?;
                let place = |number: usize, row: usize, found: Row| {
                    vec![number as i64, (cut.floors[number] as usize + row) as i64, found.stamp, found.id]
                };
                let buckets = rows.into_iter().enumerate();
                let places = buckets.map(|(number, rows)| {
                    rows.into_iter().enumerate().map(move |(row, found)| (number, row, found)).collect::<Vec<_>>()
                });
                places.flatten().map(|(number, row, found)| place(number, row, found)).collect()
            }
            Pinned::Query(answer) => {
                let batches: Vec<_> = answer.batches.collect().await;
                let batches: Vec<_> = batches.into_iter().collect::<Result<_, _>>().map_err(|e| format!("{e:?}"))?;
                let mut found = numbers(&batches)?;
                found.sort_unstable();
                found
            }
            Pinned::Changes(mut batches) => {
                let mut found = Vec::new();
                while let Some(change) =
                    tokio::time::timeout(PATIENCE, batches.next()).await.map_err(|e| e.to_string())?
                {
                    let change = match change {
                        Err(error) if taken && error.code() == Code::OffsetOutOfRetention => return Ok(Ending::Gone),
                        Err(error) if purged && error.code() == Code::SnapshotExpired => return Ok(Ending::Gone),
                        change => change.map_err(|error| format!("{error:?}"))?,
                    };
                    let number = change.bucket.bucket.0 as i64;
                    let rows = read_batch(&change.batch, &change.stamps)?;
                    let rows = rows.into_iter().zip(change.first.0 as i64..);
                    found.extend(rows.map(|(row, offset)| vec![number, offset, row.stamp, row.id]));
                }
                found.sort_by_key(|place: &Vec<i64>| place[0]);
                found
            }
        };
        same("a slow reader's cut", &found, &expected).map(|()| Ending::Exact)
    }
}

/// A follower and what it holds: the next offset per bucket.
pub struct Follower {
    pub number: usize,
    pub table: Arc<Table>,
    pub next: Vec<u64>,
    /// Rows accepted before this are left out.
    not_before: i64,
    stream: Option<BoxStream<'static, Answered<ChangeBatch>>>,
    /// What happened to its table since it last got rows.
    pub crossed: BTreeSet<&'static str>,
}

/// What a look at a follower gave.
#[derive(Debug, Default)]
pub struct Followed {
    /// What came, per bucket.
    pub rows: Vec<Range<u64>>,
    /// It said that retention had taken rows, and goes on where they are kept.
    pub gone: bool,
}

impl Follower {
    /// Begins to follow. What it must give first is asked of the list, not of the follower.
    pub async fn begin(
        number: usize,
        tiering: &Arc<Tiering>,
        table: &Arc<Table>,
        from: FollowFrom,
        oracle: &Oracle,
    ) -> Result<Follower, String> {
        let mut not_before = i64::MIN;
        let next = match &from {
            FollowFrom::Earliest => oracle.floors.clone(),
            FollowFrom::Latest => oracle.ends(),
            FollowFrom::Snapshot => return Err("only a table with a key has a state to begin with".to_owned()),
            FollowFrom::Offsets(offsets) => {
                let ends = oracle.ends().into_iter().enumerate();
                ends.map(|(number, end)| offsets.get(&bucket(table, number)).map_or(end, |offset| offset.0)).collect()
            }
            FollowFrom::Timestamp(moment) => {
                not_before = *moment;
                let early = |(rows, floor): (&Vec<Row>, &u64)| {
                    (rows.iter().take_while(|row| row.stamp < *moment).count() as u64).max(*floor)
                };
                oracle.buckets.iter().zip(&oracle.floors).map(early).collect()
            }
        };
        let stream = tiering.follow(table, from, FollowOptions { follow: true }).await;
        let stream = Some(stream.map_err(|error| format!("follow: {error:?}"))?.batches);
        let crossed = BTreeSet::new();
        Ok(Follower { number, table: table.clone(), next, not_before, stream, crossed })
    }

    /// The server is gone; what is left is the token.
    pub fn cut_off(&mut self) {
        self.stream = None;
    }

    /// Takes about `rows` rows of what is due, fewer if fewer are; at the end makes sure that nothing more comes.
    pub async fn drain(&mut self, tiering: &Arc<Tiering>, oracle: &Oracle, rows: u64) -> Result<Followed, String> {
        let before = self.next.clone();
        let (mut taken, mut gone) = (0, false);
        while taken < rows && self.next != oracle.ends() {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => match self.resume(tiering).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        self.went(&error, oracle)?;
                        gone = true;
                        continue;
                    }
                },
            };
            let change = tokio::time::timeout(PATIENCE, stream.next()).await;
            let change = change.map_err(|_| format!("nothing comes after {:?} of {:?}", self.next, oracle.ends()))?;
            let change = change.ok_or_else(|| format!("the stream ended at {:?}", self.next))?;
            match change {
                Err(error) => {
                    self.went(&error, oracle)?;
                    gone = true;
                }
                Ok(change) => {
                    taken += change.batch.num_rows() as u64;
                    self.take(&change, oracle)?;
                    self.stream = Some(stream);
                }
            }
        }
        if self.next == oracle.ends()
            && let Some(stream) = &mut self.stream
            && let Some(more) = stream.next().now_or_never()
        {
            return Err(format!("after the last row came {more:?}"));
        }
        let rows = before.into_iter().zip(&self.next).map(|(from, to)| from..*to).collect();
        Ok(Followed { rows, gone })
    }

    /// The table is gone: what was under way may still come, then the stream ends and says why.
    pub async fn dropped(mut self, oracle: &Oracle) -> Result<(), String> {
        let Some(mut stream) = self.stream.take() else { return Ok(()) };
        loop {
            let change = tokio::time::timeout(PATIENCE, stream.next()).await;
            match change.map_err(|_| "a follower of a dropped table hears nothing")? {
                Some(Ok(change)) => self.take(&change, oracle)?,
                Some(Err(error)) if error.code() == Code::TableDropped => return Ok(()),
                Some(Err(error)) => return self.went(&error, oracle),
                None => return Err("the stream of a dropped table ended without a word".to_owned()),
            }
        }
    }

    async fn resume(&self, tiering: &Arc<Tiering>) -> Answered<BoxStream<'static, Answered<ChangeBatch>>> {
        let offsets: BTreeMap<_, _> =
            self.next.iter().enumerate().map(|(number, next)| (bucket(&self.table, number), Offset(*next))).collect();
        let from = FollowFrom::Offsets(offsets);
        Ok(tiering.follow(&self.table, from, FollowOptions { follow: true }).await?.batches)
    }

    fn take(&mut self, change: &ChangeBatch, oracle: &Oracle) -> Result<(), String> {
        let number = change.bucket.bucket.0 as usize;
        let next = self.next[number];
        if change.first.0 != next {
            return Err(format!("bucket {number} goes from {next} to {}", change.first));
        }
        let found = read_batch(&change.batch, &change.stamps)?;
        let end = next as usize + found.len();
        let expected = oracle.buckets[number].get(next as usize..end).unwrap_or_default();
        // In which columns they were read nobody says; what they show must be what was written.
        let fits = |(row, found): (&Row, &Row)| if found.field == 0 { row.shown(0) } else { *row };
        let expected: Vec<_> = expected.iter().zip(&found).map(fits).collect();
        same(&format!("rows from {number}:{next}"), &found, &expected)?;
        if found.iter().any(|row| row.stamp < self.not_before) {
            return Err(format!("rows accepted before {} came: {found:?}", self.not_before));
        }
        self.next[number] = end as u64;
        Ok(())
    }

    /// An error is right only if it is 410 and rows that were due are no longer kept.
    fn went(&mut self, error: &Error, oracle: &Oracle) -> Result<(), String> {
        let lost = self.next.iter().zip(&oracle.floors).any(|(next, floor)| next < floor);
        if error.code() != Code::OffsetOutOfRetention || !lost {
            return Err(format!("at {:?}, kept from {:?}: {error:?}", self.next, oracle.floors));
        }
        self.next = self.next.iter().zip(&oracle.floors).map(|(next, floor)| *next.max(floor)).collect();
        Ok(())
    }
}
