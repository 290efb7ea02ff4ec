//! Readers of tables with a key that take their time: cuts that are opened now and read many operations later, and
//! followers that live as long as a history does.
//!
//! A slow reader must give exactly the cut at which it was opened. A follower must give the list's changes from where it
//! began, each once and in order; one from a snapshot first the state there. It keeps what a token says, the next offset per
//! bucket, and nothing else. Where changes were let go that it had not seen, and only there, it is told 410, and does what the
//! hint says: it begins again with the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use thermocline_engine::Table;
use thermocline_schemas::{Code, Error, Offset, Result as Answered};
use thermocline_sql::Answer;
use thermocline_tiering::{ChangeBatch, FollowFrom, FollowOptions, Followed, ReadSplit, StateBatch, Tiering};

use super::compare::{change_rows, read_state};
use super::oracle::{Change, KeyOracle, Living, Passing, contents};
use super::statements::change_numbers;
use crate::compare::{bucket, same};
use crate::statements::{Numbers, numbers};

/// What is due must come within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a slow reader reads.
pub enum Pinned {
    Split(Box<ReadSplit>),
    /// The state, by [`super::statements::PLACE`].
    Query(Answer),
    /// The changes, by [`super::statements::change_place`], in order.
    ChangesQuery(Answer),
    /// A follower's state, and the changes from there to the end of the cut, of which there are none.
    Snapshot(Followed),
    /// Followed from the first change that is kept to the end of the cut.
    Changes(BoxStream<'static, Answered<ChangeBatch>>),
}

impl Pinned {
    pub fn name(&self) -> &'static str {
        match self {
            Pinned::Split(_) => "split",
            Pinned::Query(_) => "query",
            Pinned::ChangesQuery(_) => "query of changes",
            Pinned::Snapshot(_) => "snapshot",
            Pinned::Changes(_) => "changes",
        }
    }
}

/// A cut that was opened and not read yet.
pub struct SlowReader {
    pub table: Arc<Table>,
    pub pinned: Pinned,
    /// What it must give: the map and the list as they were.
    pub cut: KeyOracle,
    /// What happened to its table since.
    pub crossed: BTreeSet<&'static str>,
}

/// How a slow reader ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exact,
    /// It said that its changes were let go.
    Gone,
}

impl SlowReader {
    /// Reads all of it. `now` is the table as it stands, which says what was let go since.
    pub async fn finish(self, now: &KeyOracle) -> Result<Ending, String> {
        let SlowReader { pinned, cut, crossed, .. } = self;
        // Of a table that was dropped since, `now` does not say it.
        let gone = now.floors != cut.floors || crossed.contains("a trim");
        let what = format!("a slow {}", pinned.name());
        let expected_state = || cut.living();
        match pinned {
            Pinned::Split(split) => same(&what, &read_state(&split).await?, &expected_state())?,
            Pinned::Query(answer) => {
                let mut found = collected(answer).await?;
                found.sort_unstable();
                same(&what, &found, &expected_state().into_iter().map(Living::numbers).collect::<Vec<_>>())?;
            }
            Pinned::ChangesQuery(answer) => {
                let expected: Vec<_> = cut.kept().map(change_numbers).collect();
                same(&what, &collected(answer).await?, &expected)?;
            }
            Pinned::Snapshot(followed) => {
                let mut state = followed.state.ok_or("a follower from a snapshot without a state")?;
                let mut found = Vec::new();
                while let Some(rows) = in_time(state.next()).await? {
                    found.extend(state_rows(&rows.map_err(|error| format!("{error:?}"))?)?);
                }
                found.sort_unstable();
                same(&what, &found, &expected_state())?;
                let mut batches = followed.batches;
                if let Some(more) = in_time(batches.next()).await? {
                    return Err(format!("{what}: after the state came {more:?}"));
                }
            }
            Pinned::Changes(mut batches) => {
                let mut next = cut.floors.clone();
                while let Some(change) = in_time(batches.next()).await? {
                    let change = match change {
                        Err(error) if gone && error.code() == Code::OffsetOutOfRetention => return Ok(Ending::Gone),
                        change => change.map_err(|error| format!("{error:?}"))?,
                    };
                    take(&change, &mut next, &cut)?;
                }
                same(&what, &next, &cut.ends())?;
            }
        }
        Ok(Ending::Exact)
    }
}

async fn collected(answer: Answer) -> Result<Vec<Numbers>, String> {
    let batches: Vec<_> = answer.batches.collect().await;
    let batches: Vec<_> = batches.into_iter().collect::<Result<_, _>>().map_err(|error| format!("{error:?}"))?;
    numbers(&batches)
}

async fn in_time<T>(due: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, due).await.map_err(|_| "what is due does not come".to_owned())
}

/// The rows of a follower's state.
pub fn state_rows(rows: &StateBatch) -> Result<Vec<Living>, String> {
    let bucket = rows.bucket.bucket.0 as usize;
    if (rows.offsets.len(), rows.stamps.len()) != (rows.batch.num_rows(), rows.batch.num_rows()) {
        return Err(format!("{} rows with {} offsets", rows.batch.num_rows(), rows.offsets.len()));
    }
    let places = rows.offsets.iter().zip(&rows.stamps).zip(contents(&rows.batch, Passing::Any)?);
    let living =
        places.map(|((offset, stamp), (id, version))| Living { bucket, offset: offset.0, id, version, stamp: *stamp });
    Ok(living.collect())
}

/// The changes of a batch are those that come next.
fn take(change: &ChangeBatch, next: &mut [u64], oracle: &KeyOracle) -> Result<(), String> {
    let number = change.bucket.bucket.0 as usize;
    let from = next[number];
    if change.first.0 != from {
        return Err(format!("bucket {number} goes from {from} to {}", change.first));
    }
    let kinds = change.kinds.as_ref().ok_or("changes without their kinds")?;
    let found = change_rows(&change.batch, &change.stamps, kinds, Passing::Any)?;
    let end = from as usize + found.len();
    let expected: &[Change] = oracle.log[number].get(from as usize..end).unwrap_or_default();
    same(&format!("changes from {number}:{from}"), &found, expected)?;
    next[number] = end as u64;
    Ok(())
}

/// The state at which a follower began, not read yet.
struct State {
    rows: BoxStream<'static, Answered<StateBatch>>,
    expected: Vec<Living>,
}

/// A follower and what it holds: the next offset per bucket.
pub struct KeyFollower {
    pub number: usize,
    pub table: Arc<Table>,
    pub next: Vec<u64>,
    state: Option<State>,
    /// It has to begin with the state.
    begins: bool,
    stream: Option<BoxStream<'static, Answered<ChangeBatch>>>,
    /// What happened to its table since it last got changes.
    pub crossed: BTreeSet<&'static str>,
}

/// What a look at a follower gave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drained {
    pub changes: u64,
    /// It read a state to its end.
    pub state: bool,
    /// It said that changes were let go.
    pub gone: bool,
}

impl KeyFollower {
    /// Begins to follow. What it must give first is asked of the list, not of the follower.
    pub async fn begin(
        number: usize,
        tiering: &Arc<Tiering>,
        table: &Arc<Table>,
        from: FollowFrom,
        oracle: &KeyOracle,
    ) -> Result<KeyFollower, String> {
        let ends = oracle.ends();
        let next = match &from {
            FollowFrom::Earliest => oracle.floors.clone(),
            FollowFrom::Latest | FollowFrom::Snapshot => ends.clone(),
            FollowFrom::Offsets(offsets) => {
                let ends = ends.iter().enumerate();
                ends.map(|(number, end)| offsets.get(&bucket(table, number)).map_or(*end, |offset| offset.0)).collect()
            }
            FollowFrom::Timestamp(moment) => {
                let early = |(changes, floor): (&Vec<Change>, &u64)| {
                    (changes.iter().take_while(|change| change.stamp < *moment).count() as u64).max(*floor)
                };
                oracle.log.iter().zip(&oracle.floors).map(early).collect()
            }
        };
        let begins = from == FollowFrom::Snapshot;
        let (table, crossed) = (table.clone(), BTreeSet::new());
        let mut follower = KeyFollower { number, table, next, state: None, begins, stream: None, crossed };
        follower.follow(tiering, from, oracle).await.map_err(|error| format!("follow: {error:?}"))?;
        Ok(follower)
    }

    async fn follow(&mut self, tiering: &Arc<Tiering>, from: FollowFrom, oracle: &KeyOracle) -> Answered<()> {
        let followed = tiering.follow(&self.table, from, FollowOptions { follow: true }).await?;
        self.state = followed.state.map(|rows| State { rows, expected: oracle.living() });
        self.stream = Some(followed.batches);
        Ok(())
    }

    /// The server is gone; what is left is the token, and nothing of a state that was not read.
    pub fn cut_off(&mut self) {
        (self.stream, self.state) = (None, None);
    }

    /// Takes about `changes` of what is due, fewer if fewer are; at the end makes sure that nothing more comes.
    pub async fn drain(&mut self, tiering: &Arc<Tiering>, oracle: &KeyOracle, changes: u64) -> Result<Drained, String> {
        let mut drained = Drained::default();
        while self.begins || drained.changes < changes && self.next != oracle.ends() {
            if self.stream.is_none() {
                let from = match self.begins {
                    true => {
                        self.next = oracle.ends();
                        FollowFrom::Snapshot
                    }
                    false => FollowFrom::Offsets(
                        self.next
                            .iter()
                            .enumerate()
                            .map(|(number, next)| (bucket(&self.table, number), Offset(*next)))
                            .collect(),
                    ),
                };
                if let Err(error) = self.follow(tiering, from, oracle).await {
                    self.went(&error, oracle)?;
                    drained.gone = true;
                    continue;
                }
            }
            if let Some(State { rows, expected }) = self.state.take() {
                read_from(rows, &expected).await?;
                (self.begins, drained.state) = (false, true);
                continue;
            }
            let Some(stream) = &mut self.stream else { continue };
            let change = in_time(stream.next()).await.map_err(|error| format!("{error} after {:?}", self.next))?;
            match change.ok_or_else(|| format!("the stream ended at {:?}", self.next))? {
                Err(error) => {
                    self.went(&error, oracle)?;
                    drained.gone = true;
                }
                Ok(change) => {
                    drained.changes += change.batch.num_rows() as u64;
                    take(&change, &mut self.next, oracle)?;
                }
            }
        }
        if self.next == oracle.ends()
            && let Some(stream) = &mut self.stream
            && let Some(more) = stream.next().now_or_never()
        {
            return Err(format!("after the last change came {more:?}"));
        }
        Ok(drained)
    }

    /// The table is gone: what was under way may still come, then the stream ends and says why.
    pub async fn dropped(mut self, oracle: &KeyOracle) -> Result<(), String> {
        let Some(mut stream) = self.stream.take() else { return Ok(()) };
        loop {
            match in_time(stream.next()).await? {
                Some(Ok(change)) => take(&change, &mut self.next, oracle)?,
                Some(Err(error)) if error.code() == Code::TableDropped => return Ok(()),
                Some(Err(error)) => return self.went(&error, oracle),
                None => return Err("the stream of a dropped table ended without a word".to_owned()),
            }
        }
    }

    /// An error is right only if it is 410 and changes that were due are no longer kept.
    fn went(&mut self, error: &Error, oracle: &KeyOracle) -> Result<(), String> {
        let lost = self.next.iter().zip(&oracle.floors).any(|(next, floor)| next < floor);
        if error.code() != Code::OffsetOutOfRetention || !lost {
            return Err(format!("at {:?}, kept from {:?}: {error:?}", self.next, oracle.floors));
        }
        (self.begins, self.stream, self.state) = (true, None, None);
        Ok(())
    }
}

async fn read_from(mut rows: BoxStream<'static, Answered<StateBatch>>, expected: &[Living]) -> Result<(), String> {
    let mut found = Vec::new();
    while let Some(rows) = in_time(rows.next()).await? {
        found.extend(state_rows(&rows.map_err(|error| format!("{error:?}"))?)?);
    }
    found.sort_unstable();
    same("a follower's state", &found, expected)
}

/// Two followers' worth of one: the state at the start, and all changes up to `ends`, added up.
pub async fn state_and_changes(
    mut followed: Followed,
    ends: &[u64],
    full: bool,
) -> Result<(Vec<u64>, BTreeMap<i64, i64>), String> {
    let mut start = vec![0; ends.len()];
    for (at, offset) in &followed.start {
        // Where there are partitions, one bucket of each number has all rows.
        let number = at.bucket.0 as usize;
        start[number] = offset.0.max(start[number]);
    }
    let mut state = BTreeMap::new();
    let mut rows = followed.state.take().ok_or("a follower from a snapshot without a state")?;
    while let Some(batch) = in_time(rows.next()).await? {
        for row in state_rows(&batch.map_err(|error| format!("{error:?}"))?)? {
            if state.insert(row.id, row.version).is_some() {
                return Err(format!("key {} is in the state twice", row.id));
            }
        }
    }
    let mut next = start.clone();
    while next != ends {
        let change = in_time(followed.batches.next()).await?.ok_or_else(|| format!("the stream ended at {next:?}"))?;
        let change = change.map_err(|error| format!("{error:?}"))?;
        let number = change.bucket.bucket.0 as usize;
        if change.first.0 != next[number] {
            return Err(format!("bucket {number} goes from {} to {}", next[number], change.first));
        }
        let kinds = change.kinds.as_ref().ok_or("changes without their kinds")?;
        let found = change_rows(&change.batch, &change.stamps, kinds, Passing::Any)?;
        super::compare::fold(&found, &mut state, full)?;
        next[number] += found.len() as u64;
    }
    Ok((start, state))
}
