//! Ends and beginnings: stops, power cuts, and tables that are dropped and made anew.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use thermocline_engine::{Clock, Sender};
use thermocline_integration_tests::compare::{self, lake_ends};
use thermocline_integration_tests::histories::told;
use thermocline_integration_tests::keyed::compare::read_changes;
use thermocline_integration_tests::keyed::oracle::Passing;
use thermocline_integration_tests::node::Node;
use thermocline_schemas::Result as Answered;

use super::{History, Kind, Sent, Tracked, request_in};

impl History<'_> {
    pub async fn restart(&mut self) -> Result<(), String> {
        self.cut_off("a restart");
        self.node.stop().await;
        for late in &mut self.planned {
            late.since.get_or_insert("restart");
        }
        self.start().await
    }

    fn cut_off(&mut self, what: &'static str) {
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
        let (requests, rounds) = *[(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)].choose(&mut self.random).expect("some");
        for request in 0..requests {
            let table = if request == 0 { self.random.random_range(0..self.tables.len()) } else { 1 };
            let nothing = self.random.random_bool(0.2);
            let wishes = if nothing { self.deletes_of_nothing(table) } else { self.wishes(table) };
            let numbered = self.tables[table].unanswered.is_none() && self.random.random_bool(0.5);
            let tracked = &mut self.tables[table];
            let sender = if numbered { tracked.sender(tracked.sequence) } else { Sender::default() };
            let (engine, shared, rows) = (self.node.engine.clone(), tracked.writer.clone(), tracked.request(&wishes)?);
            tokio::spawn(async move { engine.change(&shared, rows, sender).await.is_ok() });
            if numbered {
                tracked.unanswered = Some(tracked.sent(wishes.clone()));
            }
            tracked.oracle.unclear(wishes, self.clock.now_micros(), numbered);
        }
        if rounds > 0 {
            let table = self.random.random_range(0..self.tables.len());
            let table = self.lake_table(table);
            let tracked = &mut self.tables[table];
            let (tiering, shared) = (self.node.tiering.clone(), tracked.table.clone());
            tokio::spawn(async move { tiering.tier(&shared).await.is_ok() });
            tracked.landing = true;
        }
        self.count(match (requests, rounds) {
            (0, 0) => "power cut: idle",
            (_, 0) => "power cut: under a request",
            (0, _) => "power cut: under a round",
            _ => "power cut: under both",
        });
        if requests + rounds > 0 {
            let longer = [1, 10, 100].choose(&mut self.random).expect("some");
            tokio::time::sleep(if rounds > 0 { pause * *longer } else { pause }).await;
        }
        let left = self.disk.power_cut(&mut self.random);
        self.cut_off("a power cut");
        self.node.stop().await;
        self.disk = left;
        for tracked in &mut self.tables {
            tracked.audit.forget();
        }
        for late in &mut self.planned {
            late.since = Some("power cut");
        }
        self.start().await
    }

    /// Starts the node on what the disk has, and learns what a crash left open.
    async fn start(&mut self) -> Result<(), String> {
        self.node = told(Node::start(&self.disk, self.durability, self.clock.clone()).await)?;
        for table in 0..self.tables.len() {
            let Tracked { name, kind, .. } = self.tables[table];
            let opened = told(self.node.keyed_table(name, kind.key, kind.properties).await)?;
            let tracked = &mut self.tables[table];
            if opened.descriptor() != tracked.table.descriptor() {
                return Err(format!("{name} is another table: {:?}", opened.descriptor()));
            }
            for follower in &mut self.followers {
                if follower.table.descriptor().id == opened.descriptor().id {
                    follower.table = opened.clone();
                }
            }
            tracked.writer = Arc::new(told(opened.in_version(tracked.writer.descriptor().schema.id))?);
            tracked.table = opened;
            (tracked.carried, tracked.restarted, tracked.answered) = (false, true, None);
            let split = told(self.node.tiering.read_split(std::slice::from_ref(&tracked.table)).await)?.remove(0);
            let mut states = Vec::new();
            if tracked.oracle.has_unclear() {
                let ends = tracked.oracle.ends();
                let mut found = vec![Vec::new(); ends.len()];
                for (number, (from, changes)) in
                    read_changes(&told(split.changes())?, Passing::of(split.table.descriptor()))?
                {
                    found[number] = changes.into_iter().skip(ends[number].saturating_sub(from) as usize).collect();
                }
                for (applied, numbered) in tracked.oracle.settle(&found)? {
                    if numbered {
                        tracked.answered = applied;
                    }
                    states.extend(applied.map(|applied| match applied {
                        true => "request: unclear at a crash, applied",
                        false => "request: unclear at a crash, not applied",
                    }));
                }
            }
            // A round that was under way may have landed, and taken what was under way as well.
            let lake = lake_ends(&split, kind.rules.buckets);
            if std::mem::take(&mut tracked.landing) && lake != tracked.lake {
                let forward = lake.iter().zip(&tracked.lake).all(|(lake, before)| lake >= before);
                if !forward || !tracked.oracle.cuts.contains(&lake) {
                    return Err(format!("the lake of {name} went from {:?} to {lake:?}", tracked.lake));
                }
                states.push("power cut: a round landed");
            } else {
                compare::same(&format!("the lake of {name} after a start"), &lake, &tracked.lake)?;
            }
            (tracked.lake, tracked.boundary) = (lake.clone(), lake);
            if tracked.oracle.floors.iter().any(|floor| *floor > 0) {
                states.push("start: after keys were let go");
            }
            for state in states {
                self.count(state);
            }
            self.converge(table).await?;
        }
        Ok(())
    }

    /// A numbered writer that heard no answer before the crash sends its request again: it is there once.
    async fn converge(&mut self, table: usize) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let Some(Sent { version, wishes }) = tracked.unanswered.take() else { return Ok(()) };
        let sender = tracked.sender(tracked.sequence);
        let writer = tracked.to_send_again(version, self.random.random_bool(0.5))?;
        let answer = told(self.node.engine.change(&writer, request_in(&writer, &wishes)?, sender).await)?;
        let there = tracked.answered.take();
        if there.is_some_and(|there| there != answer.duplicate) {
            return Err(format!("there before: {there:?}, answered {answer:?}"));
        }
        if !answer.duplicate {
            tracked.oracle.acked(&wishes, self.clock.now_micros(), &answer)?;
        }
        tracked.sequence += 1;
        tracked.last = Some(Sent { version, wishes });
        self.count(match there {
            Some(true) => "request: sent again after a crash, had been applied",
            Some(false) => "request: sent again after a crash, had not been applied",
            None => "request: sent again after a crash, changes nothing",
        });
        Ok(())
    }

    /// Drops a table, maybe while a round of it is under way, and makes another of the same name.
    pub async fn recreate(&mut self, table: usize) -> Result<(), String> {
        let shared = self.tables[table].table.clone();
        self.crossed(Some(table), "a drop");
        let round = (self.tables[table].has_lake() && self.random.random_bool(0.5)).then(|| {
            let (tiering, shared) = (self.node.tiering.clone(), shared.clone());
            tokio::spawn(async move { tiering.tier(&shared).await })
        });
        let purge = self.random.random_bool(0.5);
        told(self.node.engine.drop_table(&shared.descriptor().name, false, purge).await)?;
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
        let name = self.tables[table].name;
        let made = told(self.node.keyed_table(name, kind.key, kind.properties).await)?;
        self.tables[table] = Tracked::new(name, kind, made);
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
}
