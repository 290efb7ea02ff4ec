//! Appends: repeats, lost answers, and all of that at one moment with statements, rounds and seals.

use std::time::Duration;

use rand::Rng;
use thermocline_engine::{Clock, Sender};
use thermocline_integration_tests::histories::told;
use thermocline_integration_tests::statements;

use super::History;

impl History<'_> {
    pub fn fresh(&mut self, table: usize) -> Vec<i64> {
        let count = self.random.random_range(1..40);
        self.tables[table].oracle.fresh(count)
    }

    pub async fn append(&mut self, table: usize) -> Result<(), String> {
        let ids = self.fresh(table);
        let numbered = self.random.random_bool(0.3);
        let tracked = &mut self.tables[table];
        let sender = if numbered { tracked.sender(tracked.sequence) } else { Sender::default() };
        let answer = told(self.node.engine.append(&tracked.table, tracked.rows(&ids), sender).await)?;
        if answer.duplicate {
            return Err(format!("a new request was answered {answer:?}"));
        }
        tracked.oracle.acked(&ids, self.clock.now_micros(), &answer)?;
        tracked.appended(ids.len());
        if numbered {
            tracked.sequence += 1;
            tracked.last = Some(tracked.sent(ids));
        }
        self.crossed(Some(table), "an append");
        Ok(())
    }

    /// Two writers at one moment; their answers say in which order they came.
    pub async fn append_twice(&mut self, table: usize) -> Result<(), String> {
        let (one, two) = (self.fresh(table), self.fresh(table));
        let tracked = &mut self.tables[table];
        let send = |ids: &[i64]| {
            let (engine, table, rows) = (self.node.engine.clone(), tracked.table.clone(), tracked.rows(ids));
            tokio::spawn(async move { engine.append(&table, rows, Sender::default()).await })
        };
        let sent = (send(&one), send(&two));
        let mut answers = [(one, told(told(sent.0.await)?)?), (two, told(told(sent.1.await)?)?)];
        let shared = answers[0].1.buckets.iter().find_map(|range| {
            answers[1].1.buckets.iter().find(|other| other.bucket == range.bucket).map(|other| (range, other))
        });
        if shared.is_some_and(|(first, second)| first.first_offset > second.first_offset) {
            answers.reverse();
        }
        for (ids, answer) in answers {
            tracked.oracle.acked(&ids, self.clock.now_micros(), &answer)?;
            tracked.appended(ids.len());
        }
        self.count("append: two at once");
        self.crossed(Some(table), "an append");
        Ok(())
    }

    /// Sends the writer's last request again, as a client does that has not heard the answer.
    pub async fn repeat(&mut self, table: usize) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let Some(sent) = tracked.last.clone() else { return self.append(table).await };
        let sender = tracked.sender(tracked.sequence - 1);
        let (table, rows) = tracked.again(&sent)?;
        let answer = told(self.node.engine.append(&table, rows, sender).await)?;
        if !answer.duplicate || answer.rows != sent.ids.len() as u64 {
            return Err(format!("a repeat was answered {answer:?}"));
        }
        Ok(())
    }

    /// The answer of a numbered request is lost on its way; the request is sent again, maybe while the first is under way.
    pub async fn lose_answer(&mut self, table: usize) -> Result<(), String> {
        let ids = self.fresh(table);
        let tracked = &mut self.tables[table];
        let (engine, shared) = (self.node.engine.clone(), tracked.table.clone());
        let (rows, sender) = (tracked.rows(&ids), tracked.sender(tracked.sequence));
        let first = tokio::spawn(async move { engine.append(&shared, rows, sender).await });
        if self.random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_micros(self.random.random_range(0..300))).await;
        }
        // Who waited for the answer is gone.
        first.abort();
        let sender = tracked.sender(tracked.sequence);
        let answer = told(self.node.engine.append(&tracked.table, tracked.rows(&ids), sender).await)?;
        tracked.oracle.acked(&ids, self.clock.now_micros(), &answer)?;
        tracked.appended(ids.len());
        tracked.sequence += 1;
        tracked.last = Some(tracked.sent(ids));
        self.count("append: its answer was lost, sent again");
        self.crossed(Some(table), "an append");
        Ok(())
    }

    /// Requests to both tables in turn, each sent when the one before is acked, while statements read both tables and a
    /// round and a seal go on. Each statement must show the first so many of the requests, and no others.
    pub async fn beside(&mut self) -> Result<(), String> {
        let before = [self.tables[0].oracle.clone(), self.tables[1].oracle.clone()];
        let requests: Vec<(usize, Vec<i64>)> = (0..8).map(|turn| (turn % 2, self.fresh(turn % 2))).collect();
        let writer = {
            let engine = self.node.engine.clone();
            let batches = requests
                .iter()
                .map(|(table, ids)| (*table, self.tables[*table].table.clone(), self.tables[*table].rows(ids)));
            let batches: Vec<_> = batches.collect();
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for (_, table, rows) in batches {
                    answers.push(engine.append(&table, rows, Sender::default()).await?);
                }
                Ok::<_, thermocline_schemas::Error>(answers)
            })
        };
        let sinking = self.random.random_range(0..self.tables.len());
        let rounds = self.tables[sinking].kind.lake.then(|| {
            let (tiering, engine) = (self.node.tiering.clone(), self.node.engine.clone());
            let (table, other) = (self.tables[sinking].table.clone(), self.tables[1 - sinking].table.clone());
            tokio::spawn(async move {
                engine.seal(&other).await?;
                tiering.tier(&table).await
            })
        });
        let mut shown = Vec::new();
        for _ in 0..4 {
            let sql = statements::both(self.tables[0].name, self.tables[1].name);
            let batches = statements::query(&self.node, &sql).await?;
            let mut ids: Vec<_> =
                statements::numbers(&batches)?.into_iter().map(|row| (row[0] as usize, row[3])).collect();
            ids.sort_unstable();
            shown.push(ids);
        }
        let answers = told(told(writer.await)?)?;
        let mut known: Vec<(usize, i64)> = Vec::new();
        for (table, oracle) in before.iter().enumerate() {
            known.extend(oracle.visible().map(|(_, _, row)| (table, row.id)));
        }
        let mut cuts = vec![known.clone()];
        for ((table, ids), answer) in requests.iter().zip(&answers) {
            self.tables[*table].oracle.acked(ids, self.clock.now_micros(), answer)?;
            self.tables[*table].appended(ids.len());
            known.extend(ids.iter().map(|id| (*table, *id)));
            cuts.push(known.clone());
        }
        for cut in &mut cuts {
            cut.sort_unstable();
        }
        let mut least = 0;
        for ids in shown {
            let Some(cut) = cuts.iter().position(|cut| *cut == ids).filter(|cut| *cut >= least) else {
                return Err(format!("{} rows of both tables are no cut at or after request {least}", ids.len()));
            };
            least = cut;
        }
        if let Some(rounds) = rounds {
            let rows = told(told(rounds.await)?)?.rows;
            self.sank_somewhere(sinking, rows).await?;
        }
        self.count("append: beside statements, a round and a seal");
        self.crossed(None, "an append");
        Ok(())
    }
}
