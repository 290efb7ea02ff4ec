//! Ends and beginnings: stops, power cuts, and tables that are dropped and made anew.

use std::path::PathBuf;
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use thermocline_engine::{Clock, Sender};
use thermocline_integration_tests::compare::{self, lake_ends};
use thermocline_integration_tests::histories::told;
use thermocline_integration_tests::node::Node;
use thermocline_integration_tests::trace::{Action, Outcome};
use thermocline_schemas::Result as Answered;

use super::{History, Kind, Tracked};

impl History<'_> {
    pub async fn restart(&mut self) -> Result<(), String> {
        self.cut_off("a restart");
        self.node.stop().await;
        for tracked in &mut self.tables {
            tracked.trace.note(Action::Stop);
        }
        for (_, since) in &mut self.planned {
            since.get_or_insert("restart");
        }
        self.start().await
    }

    pub fn cut_off(&mut self, what: &'static str) {
        self.crossed(None, what);
        for follower in &mut self.followers {
            follower.cut_off();
        }
        for _ in std::mem::take(&mut self.readers) {
            self.count("slow reader ended by a restart");
        }
    }

    /// The power goes, maybe with requests or a round under way.
    pub async fn power_cut(&mut self) -> Result<(), String> {
        let pause = Duration::from_micros(self.random.random_range(0..400));
        let (appends, rounds) = *[(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)].choose(&mut self.random).expect("some");
        for append in 0..appends {
            let table = if append == 0 { self.random.random_range(0..self.tables.len()) } else { 1 };
            let ids = self.tables[table].oracle.fresh(7);
            let numbered = self.tables[table].unanswered.is_none() && self.random.random_bool(0.5);
            let tracked = &mut self.tables[table];
            let sender = if numbered { tracked.sender(tracked.sequence) } else { Sender::default() };
            let (engine, shared, rows) = (self.node.engine.clone(), tracked.table.clone(), tracked.rows(&ids));
            tokio::spawn(async move { engine.append(&shared, rows, sender).await.is_ok() });
            tracked.trace.note(Action::Append { rows: ids.len() as u64 });
            if numbered {
                tracked.unanswered = Some(tracked.sent(ids.clone()));
            }
            tracked.oracle.unclear(ids, self.clock.now_micros());
        }
        if rounds > 0 {
            let table = self.random.random_range(0..self.tables.len());
            let table = self.lake_table(table);
            let tracked = &mut self.tables[table];
            let (tiering, shared) = (self.node.tiering.clone(), tracked.table.clone());
            tokio::spawn(async move { tiering.tier(&shared).await.is_ok() });
            let end = tracked.oracle.ends();
            if end != tracked.lake {
                let outcome = Outcome::Unclear;
                tracked.trace.note(Action::Round { start: tracked.lake[0], end: end[0], outcome });
            }
            tracked.landing = Some(end);
        }
        self.count(match (appends, rounds) {
            (0, 0) => "power cut: idle",
            (_, 0) => "power cut: under an append",
            (0, _) => "power cut: under a round",
            _ => "power cut: under both",
        });
        if appends + rounds > 0 {
            tokio::time::sleep(if rounds > 0 { pause * 10 } else { pause }).await;
        }
        let left = self.disk.power_cut(&mut self.random);
        self.cut_off("a power cut");
        self.node.stop().await;
        self.disk = left;
        for tracked in &mut self.tables {
            tracked.trace.note(Action::Crash);
            tracked.audit.forget();
        }
        for (_, since) in &mut self.planned {
            *since = Some("power cut");
        }
        self.start().await
    }

    /// Starts the node on what the disk has, and learns what a crash left open.
    pub async fn start(&mut self) -> Result<(), String> {
        self.node = told(Node::start(&self.disk, self.durability, self.clock.clone()).await)?;
        for table in 0..self.tables.len() {
            let (name, properties) = (self.tables[table].name, self.tables[table].kind.properties);
            let opened = told(self.node.table(name, properties).await)?;
            let tracked = &mut self.tables[table];
            if **opened.descriptor() != *tracked.newest {
                return Err(format!("{name} is another table: {:?}", opened.descriptor()));
            }
            for follower in &mut self.followers {
                if follower.table.descriptor().id == opened.descriptor().id {
                    follower.table = opened.clone();
                }
            }
            tracked.written_in(opened);
            let split = told(self.node.tiering.read_split(std::slice::from_ref(&tracked.table)).await)?.remove(0);
            (tracked.replaced, tracked.carried, tracked.restarted) = (false, false, true);
            if tracked.oracle.has_unclear() {
                let found = compare::read_split(&split, &tracked.oracle.ends()).await?;
                let applied = tracked.oracle.settle(&found)?;
                for applied in applied {
                    let state = if applied { "applied" } else { "not applied" };
                    *self.coverage.entry(format!("append: unclear at a crash, {state}")).or_default() += 1;
                }
            }
            let lake = lake_ends(&split, tracked.kind.buckets);
            match tracked.landing.take() {
                Some(end) if end == lake => {}
                Some(_) if lake != tracked.lake && lake == tracked.oracle.ends() => tracked.untold = true,
                _ => compare::same(&format!("the lake of {name} after a start"), &lake, &tracked.lake)?,
            }
            (tracked.lake, tracked.boundary) = (lake.clone(), lake.clone());
            let (end, trim) = (tracked.oracle.ends()[0], tracked.floors()[0]);
            tracked.trace.note(Action::Restart { end, lake: lake[0], trim });
            self.converge(table).await?;
        }
        Ok(())
    }

    /// A numbered writer that heard no answer before the crash sends its request again: it is there once.
    pub async fn converge(&mut self, table: usize) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let Some(sent) = tracked.unanswered.take() else { return Ok(()) };
        let sender = tracked.sender(tracked.sequence);
        let ids = sent.ids.clone();
        let there = tracked.oracle.buckets.iter().flatten().any(|row| row.id == ids[0]);
        let (version, rows) = tracked.again(&sent)?;
        let answer = told(self.node.engine.append(&version, rows, sender).await)?;
        if answer.duplicate != there || answer.rows != ids.len() as u64 {
            return Err(format!("there before: {there}, answered {answer:?}"));
        }
        if !there {
            let field = std::mem::replace(&mut tracked.oracle.field, compare::field_of(&version));
            tracked.oracle.acked(&ids, self.clock.now_micros(), &answer)?;
            tracked.oracle.field = field;
            tracked.appended(ids.len());
        }
        tracked.sequence += 1;
        tracked.last = Some(sent);
        self.count(match there {
            true => "append: sent again after a crash, had been applied",
            false => "append: sent again after a crash, had not been applied",
        });
        Ok(())
    }

    /// Drops a table, maybe while a round of it is under way, and makes another of the same name.
    pub async fn recreate(&mut self, table: usize) -> Result<(), String> {
        let shared = self.tables[table].table.clone();
        self.crossed(Some(table), "a drop");
        let round = (self.tables[table].kind.lake && self.random.random_bool(0.5)).then(|| {
            let (tiering, shared) = (self.node.tiering.clone(), shared.clone());
            tokio::spawn(async move { tiering.tier(&shared).await })
        });
        let name = &shared.descriptor().name;
        let purge = self.random.random_bool(0.5);
        told(self.node.engine.drop_table(name, false, purge).await)?;
        self.tables[table].trace.note(Action::Drop);
        self.write_trace(table)?;
        let id = shared.descriptor().id;
        for follower in std::mem::take(&mut self.followers) {
            if follower.table.descriptor().id != id {
                self.followers.push(follower);
                continue;
            }
            follower.dropped(&self.tables[table].oracle).await?;
            self.count("follower ended by a drop");
        }
        let kind = if table == 0 { Kind::LAKELESS } else { Kind::ALL.len() };
        let kind = &Kind::ALL[self.random.random_range(0..kind)];
        let made = told(self.node.table(self.tables[table].name, kind.properties).await)?;
        self.tables[table] = Tracked::new(self.tables[table].name, kind, made);
        if let Some(round) = round {
            // It may have been done before, or be refused; the new table must not see it.
            let _: Answered<_> = told(round.await)?;
            self.count("round: beside a drop");
        }
        if purge {
            told(self.node.tiering.purge_dropped().await)?;
            self.count("purge");
        }
        self.count(format!("table: {}", kind.name));
        Ok(())
    }

    /// Writes what was done to a table of one bucket, if traces are wanted.
    pub fn write_trace(&self, table: usize) -> Result<(), String> {
        let tracked = &self.tables[table];
        let Some(directory) = std::env::var_os("THERMOCLINE_TRACES").filter(|_| tracked.kind.buckets == 1) else {
            return Ok(());
        };
        if !tracked.kind.lake || tracked.untold {
            return Ok(());
        }
        let name = format!("{}-{}-{}.trace", self.seed, tracked.name, tracked.table.descriptor().id);
        told(std::fs::write(PathBuf::from(directory).join(name), tracked.trace.to_string()))
    }
}
