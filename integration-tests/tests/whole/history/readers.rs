//! Slow readers and followers of a history.

use rand::Rng;
use thermocline_engine::Clock;
use thermocline_integration_tests::compare::bucket;
use thermocline_integration_tests::histories::told;
use thermocline_integration_tests::readers::{Ending, Follower, Pinned, SlowReader};
use thermocline_integration_tests::statements;
use thermocline_integration_tests::trace::Action;
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
        let (tiering, shared) = (&self.node.tiering, &tracked.table);
        let pinned = match self.random.random_range(0..3) {
            0 => {
                let newest = self.node.engine.newest(shared);
                Pinned::Split(Box::new(told(tiering.read_split(&[newest]).await)?.remove(0)))
            }
            1 => {
                let sql = format!("SELECT __bucket, __offset, __timestamp, id FROM {}", tracked.name);
                Pinned::Query(statements::open(&self.node, &sql).await?)
            }
            _ => {
                let options = FollowOptions { follow: false };
                Pinned::Changes(told(tiering.follow(shared, FollowFrom::Earliest, options).await)?.batches)
            }
        };
        self.opened += 1;
        let number = self.opened;
        let (table_of, cut, crossed) = (shared.clone(), tracked.oracle.clone(), Default::default());
        self.readers.push(SlowReader { number, table: table_of, pinned, cut, crossed });
        let tracked = &mut self.tables[table];
        let lake = tracked.boundary[0];
        tracked.trace.note(Action::Pin { reader: number, lake, hot: lake..tracked.oracle.ends()[0] });
        Ok(())
    }

    pub async fn finish(&mut self, reader: SlowReader) -> Result<(), String> {
        let (number, crossed, id) = (reader.number, reader.crossed.clone(), reader.table.descriptor().id);
        let kind = match reader.pinned {
            Pinned::Split(_) => "split",
            Pinned::Query(_) => "query",
            Pinned::Changes(_) => "changes",
        };
        let table = self.tables.iter().position(|tracked| tracked.table.descriptor().id == id);
        // Of a dropped table nothing more is taken.
        let now = table.map_or_else(|| reader.cut.clone(), |table| self.tables[table].oracle.clone());
        let ending = reader.finish(&now).await;
        let ending = ending.map_err(|failure| format!("slow {kind} across {crossed:?}: {failure}"))?;
        self.count(match ending {
            Ending::Exact => format!("slow {kind}: exact"),
            Ending::Gone => format!("slow {kind}: retention took rows"),
        });
        for what in crossed {
            self.count(format!("slow reader across {what}"));
        }
        if let Some(table) = table {
            self.tables[table].trace.note(Action::Read { reader: number });
        }
        Ok(())
    }

    pub async fn follow(&mut self, table: usize) -> Result<(), String> {
        if self.followers.len() >= FOLLOWERS_MAX {
            self.drain(0, u64::MAX).await?;
            self.followers.remove(0);
        }
        let tracked = &self.tables[table];
        let (from, state) = match self.random.random_range(0..4) {
            0 => (FollowFrom::Earliest, "follower from earliest"),
            1 => (FollowFrom::Latest, "follower from latest"),
            2 => {
                let oracle = &tracked.oracle;
                let kept = oracle.floors.iter().zip(oracle.ends());
                let offsets = kept.map(|(floor, end)| Offset(self.random.random_range(*floor..=end)));
                let offsets = offsets.enumerate().map(|(number, offset)| (bucket(&tracked.table, number), offset));
                (FollowFrom::Offsets(offsets.collect()), "follower from offsets")
            }
            _ => {
                let back = self.random.random_range(0..60_000_000);
                (FollowFrom::Timestamp(self.clock.now_micros() - back), "follower from a timestamp")
            }
        };
        self.opened += 1;
        let (tiering, shared) = (&self.node.tiering, &tracked.table);
        let follower = Follower::begin(self.opened, tiering, shared, from, &tracked.oracle).await?;
        self.followers.push(follower);
        self.count(state);
        Ok(())
    }

    pub async fn drain(&mut self, follower: usize, rows: u64) -> Result<(), String> {
        let follower = &mut self.followers[follower];
        let id = follower.table.descriptor().id;
        let tracked = self.tables.iter_mut().find(|tracked| tracked.table.descriptor().id == id);
        let tracked = tracked.ok_or("a follower of a table that is gone")?;
        let followed = follower.drain(&self.node.tiering, &tracked.oracle, rows).await;
        let followed = followed.map_err(|failure| {
            format!("follower {} of {} across {:?}: {failure}", follower.number, tracked.name, follower.crossed)
        })?;
        let rows = followed.rows[0].clone();
        if !rows.is_empty() && !followed.gone {
            tracked.trace.note(Action::Follow { follower: follower.number, rows });
        }
        if followed.rows.iter().any(|rows| !rows.is_empty()) {
            for what in std::mem::take(&mut follower.crossed) {
                self.count(format!("follower across {what}"));
            }
        }
        if followed.gone {
            self.count("follower: retention took rows");
        }
        Ok(())
    }
}
