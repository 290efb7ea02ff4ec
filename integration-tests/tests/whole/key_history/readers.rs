//! Slow readers and followers of a history.

use rand::Rng;
use thermocline_engine::Clock;
use thermocline_integration_tests::compare::bucket;
use thermocline_integration_tests::histories::told;
use thermocline_integration_tests::keyed::readers::{Ending, KeyFollower, Pinned, SlowReader};
use thermocline_integration_tests::keyed::statements::{PLACE, change_place};
use thermocline_integration_tests::statements;
use thermocline_schemas::Offset;
use thermocline_tiering::{FollowFrom, FollowOptions};

use super::History;

const READERS_MAX: usize = 6;
const FOLLOWERS_MAX: usize = 4;

impl History<'_> {
    pub async fn open_reader(&mut self, table: usize) -> Result<(), String> {
        if self.readers.len() >= READERS_MAX {
            let oldest = self.readers.remove(0);
            self.finish(oldest).await?;
        }
        let tracked = &self.tables[table];
        let (tiering, shared, name) = (&self.node.tiering, &tracked.table, tracked.name);
        let to_the_end = FollowOptions { follow: false };
        let pinned = match self.random.random_range(0..5) {
            0 => Pinned::Split(Box::new(told(tiering.read_split(std::slice::from_ref(shared)).await)?.remove(0))),
            1 => Pinned::Query(statements::open(&self.node, &format!("SELECT {PLACE} FROM {name}")).await?),
            2 => {
                let sql = format!("SELECT {} FROM \"{name}$changes\" ORDER BY __bucket, __offset", change_place());
                Pinned::ChangesQuery(statements::open(&self.node, &sql).await?)
            }
            3 => Pinned::Snapshot(told(tiering.follow(shared, FollowFrom::Snapshot, to_the_end).await)?),
            _ => Pinned::Changes(told(tiering.follow(shared, FollowFrom::Earliest, to_the_end).await)?.batches),
        };
        let (table, cut, crossed) = (shared.clone(), tracked.oracle.clone(), Default::default());
        self.readers.push(SlowReader { table, pinned, cut, crossed });
        Ok(())
    }

    pub async fn finish(&mut self, reader: SlowReader) -> Result<(), String> {
        let (name, crossed, id) = (reader.pinned.name(), reader.crossed.clone(), reader.table.descriptor().id);
        let table = self.tables.iter().find(|tracked| tracked.table.descriptor().id == id);
        // Of a dropped table nothing more is let go.
        let now = table.map_or_else(|| reader.cut.clone(), |tracked| tracked.oracle.clone());
        let ending = reader.finish(&now).await;
        let ending = ending.map_err(|failure| format!("slow {name} across {crossed:?}: {failure}"))?;
        self.count(match ending {
            Ending::Exact => format!("slow {name}: exact"),
            Ending::Gone => format!("slow {name}: let go"),
        });
        for what in crossed {
            self.count(format!("slow reader across {what}"));
        }
        Ok(())
    }

    pub async fn follow(&mut self, table: usize) -> Result<(), String> {
        if self.followers.len() >= FOLLOWERS_MAX {
            self.drain(0, u64::MAX).await?;
            self.followers.remove(0);
        }
        let tracked = &self.tables[table];
        let oracle = &tracked.oracle;
        let (from, state) = match self.random.random_range(0..6) {
            0 => (FollowFrom::Earliest, "follower from earliest"),
            1 => (FollowFrom::Latest, "follower from latest"),
            2 => {
                let kept = oracle.floors.iter().zip(oracle.ends());
                let offsets = kept.map(|(floor, end)| Offset(self.random.random_range(*floor..=end)));
                let offsets = offsets.enumerate().map(|(number, offset)| (bucket(&tracked.table, number), offset));
                (FollowFrom::Offsets(offsets.collect()), "follower from offsets")
            }
            3 => {
                let back = self.random.random_range(0..60_000_000);
                (FollowFrom::Timestamp(self.clock.now_micros() - back), "follower from a timestamp")
            }
            _ => (FollowFrom::Snapshot, "follower from a snapshot"),
        };
        self.opened += 1;
        let (tiering, shared) = (&self.node.tiering, &tracked.table);
        let follower = KeyFollower::begin(self.opened, tiering, shared, from, oracle).await?;
        self.followers.push(follower);
        self.count(state);
        Ok(())
    }

    pub async fn drain(&mut self, follower: usize, changes: u64) -> Result<(), String> {
        let follower = &mut self.followers[follower];
        let id = follower.table.descriptor().id;
        let tracked = self.tables.iter().find(|tracked| tracked.table.descriptor().id == id);
        let tracked = tracked.ok_or("a follower of a table that is gone")?;
        let drained = follower.drain(&self.node.tiering, &tracked.oracle, changes).await;
        let drained = drained.map_err(|failure| {
            format!("follower {} of {} across {:?}: {failure}", follower.number, tracked.name, follower.crossed)
        })?;
        let crossed = if drained.changes > 0 { std::mem::take(&mut follower.crossed) } else { Default::default() };
        for what in crossed {
            self.count(format!("follower across {what}"));
        }
        if drained.state {
            self.count("follower: read a state");
        }
        if drained.gone {
            self.count("follower: changes were let go, began again");
        }
        Ok(())
    }
}
