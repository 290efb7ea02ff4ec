//! Requests: upserts and deletes mixed, repeats and lost answers, statements that change rows, and all of that at one
//! moment with reads, rounds and trims.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::DateTime;
use rand::Rng;
use thermocline_engine::{Clock, Sender};
use thermocline_integration_tests::histories::told;
use thermocline_integration_tests::keyed::compare::{look_up, read_changes};
use thermocline_integration_tests::keyed::oracle::{FIELDS_MAX, KeyOracle, Passing, Wish};
use thermocline_integration_tests::keyed::readers::state_and_changes;
use thermocline_integration_tests::keyed::statements::{both, both_expected};
use thermocline_integration_tests::oracle::{at, note, ok, passing_column, price, small};
use thermocline_integration_tests::statements::{numbers, query};
use thermocline_schemas::ChangeKind;
use thermocline_tiering::{FollowFrom, FollowOptions};

use super::{History, KEYS, Sent, request_in};

impl History<'_> {
    /// Upserts and deletes of some keys, often of one key several times.
    pub fn wishes(&mut self, table: usize) -> Vec<Wish> {
        let count = self.random.random_range(1..25);
        let keys = if self.random.random_bool(0.3) { 6 } else { KEYS };
        let first = self.random.random_range(0..=KEYS - keys);
        let random = &mut self.random;
        let writer = self.tables[table].writer.descriptor().clone();
        let oracle = &mut self.tables[table].oracle;
        let wish = |_| {
            let id = first + random.random_range(0..keys);
            match random.random_bool(0.3) {
                true => Wish::Delete { id },
                false => Wish::Upsert { id, version: oracle.fresh_version(&writer) },
            }
        };
        (0..count).map(wish).collect()
    }

    /// Counts what a request is about to meet.
    fn meets(&mut self, table: usize, wishes: &[Wish]) {
        let oracle = &self.tables[table].oracle;
        let cold = |wish: &&Wish| {
            let row = oracle.state().get(&wish.id());
            row.is_some_and(|row| row.offset < oracle.floors[row.bucket])
        };
        let upserts = || wishes.iter().filter(|wish| matches!(wish, Wish::Upsert { .. }));
        let deletes = || wishes.iter().filter(|wish| matches!(wish, Wish::Delete { .. }));
        let was_deleted = |wish: &&Wish| {
            let id = wish.id();
            let mut log = oracle.log[oracle.bucket_of(id)].iter();
            !oracle.state().contains_key(&id) && log.any(|change| change.kind == ChangeKind::Delete && change.id == id)
        };
        let keys: BTreeSet<_> = wishes.iter().map(|wish| wish.id()).collect();
        let states = [
            (keys.len() < wishes.len(), "request: one key several times"),
            (oracle.rules.full && upserts().any(|wish| cold(&wish)), "request: an old row from the lake alone"),
            (oracle.rules.deletes && deletes().any(|wish| cold(&wish)), "request: deletes a row of the lake alone"),
            (upserts().any(|wish| was_deleted(&wish)), "request: brings back a key that was deleted"),
        ];
        for (_, state) in states.into_iter().filter(|(is, _)| *is) {
            self.count(state);
        }
    }

    pub async fn request(&mut self, table: usize) -> Result<(), String> {
        let wishes = self.wishes(table);
        self.send(table, wishes).await
    }

    /// Sends a request, sometimes numbered, and hears the answer.
    async fn send(&mut self, table: usize, wishes: Vec<Wish>) -> Result<(), String> {
        self.meets(table, &wishes);
        let numbered = self.random.random_bool(0.3);
        let tracked = &mut self.tables[table];
        let sender = if numbered { tracked.sender(tracked.sequence) } else { Sender::default() };
        let answer = told(self.node.engine.change(&tracked.writer, tracked.request(&wishes)?, sender).await)?;
        if answer.duplicate {
            return Err(format!("a new request was answered {answer:?}"));
        }
        tracked.oracle.acked(&wishes, self.clock.now_micros(), &answer)?;
        tracked.carried = false;
        if numbered {
            tracked.sequence += 1;
            tracked.last = Some(tracked.sent(wishes));
        }
        self.crossed(Some(table), "a request");
        Ok(())
    }

    /// Deletes of keys that are not there; or keys that come and go within one request; or deletes alone. Of the latter two
    /// sometimes a round of their own.
    pub async fn nothing(&mut self, table: usize) -> Result<(), String> {
        let shape = self.random.random_range(0..3);
        let lake = self.tables[table].has_lake() && self.tables[table].kind.rules.deletes;
        let sinks = shape > 0 && lake && self.random.random_bool(0.6);
        if sinks {
            self.round(table).await?;
        }
        let (wishes, state) = match shape {
            0 => (self.deletes_of_nothing(table), "request: changes nothing"),
            1 => {
                let gone = self.deletes_of_nothing(table);
                let writer = self.tables[table].writer.descriptor().clone();
                let oracle = &mut self.tables[table].oracle;
                let come = |wish: &Wish| Wish::Upsert { id: wish.id(), version: oracle.fresh_version(&writer) };
                ([gone.iter().map(come).collect(), gone].concat(), "request: makes keys and deletes them")
            }
            _ => {
                let keys = self.tables[table].oracle.state().keys();
                (keys.step_by(3).map(|id| Wish::Delete { id: *id }).collect(), "request: deletes alone")
            }
        };
        self.send(table, wishes).await?;
        self.count(state);
        if sinks {
            self.round(table).await?;
        }
        Ok(())
    }

    /// A delete of each key that is not there.
    pub fn deletes_of_nothing(&self, table: usize) -> Vec<Wish> {
        let state = self.tables[table].oracle.state();
        (0..KEYS + 5).filter(|id| !state.contains_key(id)).map(|id| Wish::Delete { id }).collect()
    }

    /// Two writers at one moment; their answers say in which order they came.
    pub async fn request_twice(&mut self, table: usize) -> Result<(), String> {
        let (one, two) = (self.wishes(table), self.wishes(table));
        let tracked = &mut self.tables[table];
        let mut sent = Vec::new();
        for wishes in [&one, &two] {
            let (engine, table, rows) = (self.node.engine.clone(), tracked.writer.clone(), tracked.request(wishes)?);
            sent.push(tokio::spawn(async move { engine.change(&table, rows, Sender::default()).await }));
        }
        let mut answers = Vec::new();
        for sent in sent {
            answers.push(told(told(sent.await)?)?);
        }
        let both = [(one.as_slice(), &answers[0]), (two.as_slice(), &answers[1])];
        tracked.oracle.both_acked(both, self.clock.now_micros())?;
        tracked.carried = false;
        self.count("request: two at once");
        self.crossed(Some(table), "a request");
        Ok(())
    }

    /// Sends the writer's last request again, as a client does that has not heard the answer.
    pub async fn repeat(&mut self, table: usize) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let Some(Sent { version, wishes }) = tracked.last.clone() else { return self.request(table).await };
        let sender = tracked.sender(tracked.sequence - 1);
        let writer = tracked.to_send_again(version, self.random.random_bool(0.5))?;
        let answer = told(self.node.engine.change(&writer, request_in(&writer, &wishes)?, sender).await)?;
        if !answer.duplicate || (answer.rows + answer.ignored) as usize != wishes.len() {
            return Err(format!("a repeat was answered {answer:?}"));
        }
        Ok(())
    }

    /// The answer of a numbered request is lost on its way; the request is sent again, maybe while the first is under way.
    pub async fn lose_answer(&mut self, table: usize) -> Result<(), String> {
        let wishes = self.wishes(table);
        self.meets(table, &wishes);
        let tracked = &mut self.tables[table];
        let (engine, shared) = (self.node.engine.clone(), tracked.writer.clone());
        let (rows, sender) = (tracked.request(&wishes)?, tracked.sender(tracked.sequence));
        let first = tokio::spawn(async move { engine.change(&shared, rows, sender).await });
        if self.random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_micros(self.random.random_range(0..300))).await;
        }
        // Who waited for the answer is gone.
        first.abort();
        let sender = tracked.sender(tracked.sequence);
        let answer = told(self.node.engine.change(&tracked.writer, tracked.request(&wishes)?, sender).await)?;
        tracked.oracle.acked(&wishes, self.clock.now_micros(), &answer)?;
        tracked.carried = false;
        tracked.sequence += 1;
        tracked.last = Some(tracked.sent(wishes));
        self.count("request: its answer was lost, sent again");
        self.crossed(Some(table), "a request");
        Ok(())
    }

    /// A DELETE by what is no part of the key. In which order it deletes is its own affair, and is read from the log.
    pub async fn delete_where(&mut self, table: usize) -> Result<(), String> {
        let tracked = &self.tables[table];
        if !tracked.kind.rules.deletes {
            return self.update_one(table).await;
        }
        let versions: Vec<_> = tracked.oracle.state().values().map(|row| row.version).collect();
        let middle = versions.get(self.random.random_range(0..versions.len().max(1))).copied().unwrap_or(0);
        let (from, to) = (middle - self.random.random_range(0..60) * FIELDS_MAX, middle + FIELDS_MAX);
        let sql = format!("DELETE FROM {} WHERE version BETWEEN {from} AND {to} AND price IS NOT NULL", tracked.name);
        let rows = numbers(&query(&self.node, &sql).await?)?;
        let wanted = |version: i64| (from..=to).contains(&version) && price(version).is_some();
        let gone: BTreeSet<_> =
            tracked.oracle.state().values().filter(|row| wanted(row.version)).map(|row| row.id).collect();
        let before = tracked.oracle.ends();
        let split = told(self.node.tiering.read_split(std::slice::from_ref(&tracked.table)).await)?.remove(0);
        let mut told_ids = Vec::new();
        let passing = Passing::of(split.table.descriptor());
        for (number, (from, changes)) in read_changes(&told(split.changes())?, passing)? {
            told_ids.extend(changes.iter().skip((before[number] - from) as usize).map(|change| change.id));
        }
        if rows != [[gone.len() as i64]] || told_ids.len() != gone.len() || !told_ids.iter().all(|id| gone.contains(id))
        {
            return Err(format!("{sql} was to delete {gone:?}: {rows:?}, {told_ids:?}"));
        }
        let wishes: Vec<_> = told_ids.into_iter().map(|id| Wish::Delete { id }).collect();
        self.meets(table, &wishes);
        self.changed_by_statement(table, &wishes);
        if !wishes.is_empty() {
            self.count("statement: deleted rows");
        }
        Ok(())
    }

    /// An UPDATE of all that is no part of the key, in one row or none.
    pub async fn update_one(&mut self, table: usize) -> Result<(), String> {
        let id = self.random.random_range(0..KEYS);
        let tracked = &mut self.tables[table];
        let there = tracked.oracle.state().contains_key(&id);
        let version = tracked.oracle.fresh_version(tracked.table.descriptor());
        let passing =
            passing_column(&tracked.table).map(|(name, _)| format!(", {name} = {version}")).unwrap_or_default();
        let or_null = |value: Option<String>| value.unwrap_or_else(|| "NULL".to_owned());
        let cents = |cents: i128| {
            let (sign, size) = (if cents < 0 { "-" } else { "" }, cents.abs());
            format!("{sign}{}.{:02}", size / 100, size % 100)
        };
        let sql = format!(
            "UPDATE {} SET version = {version}, note = {}, small = {}, price = {}, at = {}, ok = {}{passing} WHERE id = {id}",
            tracked.name,
            or_null(note(version).map(|note| format!("'{note}'"))),
            or_null(small(version).map(|small| small.to_string())),
            or_null(price(version).map(cents)),
            or_null(at(version).and_then(DateTime::from_timestamp_micros).map(|at| format!("'{}'", at.to_rfc3339()))),
            or_null(ok(version).map(|ok| ok.to_string())),
        );
        let rows = numbers(&query(&self.node, &sql).await?)?;
        if rows != [[i64::from(there)]] {
            return Err(format!("{sql}: {rows:?}, is there: {there}"));
        }
        if there {
            let wishes = [Wish::Upsert { id, version }];
            self.meets(table, &wishes);
            self.changed_by_statement(table, &wishes);
            self.count("statement: updated a row");
        }
        Ok(())
    }

    fn changed_by_statement(&mut self, table: usize, wishes: &[Wish]) {
        if !wishes.is_empty() {
            self.tables[table].oracle.done(wishes, self.clock.now_micros());
            self.tables[table].carried = false;
            self.crossed(Some(table), "a request");
        }
    }

    /// Requests to both tables in turn, each sent when the one before is acked, while statements read both tables, keys are
    /// looked up, a follower begins with the state, and a round, a seal and a trim go on. Each statement must show the
    /// first so many of the requests, and no others; a lookup what is no older; the follower all of it.
    pub async fn beside(&mut self) -> Result<(), String> {
        let requests: Vec<(usize, Vec<Wish>)> = (0..8).map(|turn| (turn % 2, self.wishes(turn % 2))).collect();
        let mut sent = Vec::new();
        for (table, wishes) in &requests {
            let tracked = &self.tables[*table];
            sent.push((tracked.writer.clone(), tracked.request(wishes)?));
        }
        let engine = self.node.engine.clone();
        let writer = tokio::spawn(async move {
            let mut answers = Vec::new();
            for (table, rows) in sent {
                answers.push(engine.change(&table, rows, Sender::default()).await?);
            }
            Ok::<_, thermocline_schemas::Error>(answers)
        });
        let sinking = self.random.random_range(0..self.tables.len());
        let sinking = self.lake_table(sinking);
        let rounds = {
            let (tiering, engine) = (self.node.tiering.clone(), self.node.engine.clone());
            let (table, other) = (self.tables[sinking].table.clone(), self.tables[1 - sinking].table.clone());
            tokio::spawn(async move {
                engine.seal(&other).await?;
                let report = tiering.tier(&table).await?;
                tiering.let_go_now(&table).await?;
                Ok::<_, thermocline_schemas::Error>(report.rows)
            })
        };
        let (mut shown, mut found) = (Vec::new(), Vec::new());
        let sql = both(self.tables[0].name, self.tables[1].name);
        let ids: Vec<i64> = (0..KEYS).step_by(7).collect();
        let mut followed = None;
        for turn in 0..4 {
            let mut rows = numbers(&query(&self.node, &sql).await?)?;
            rows.sort_unstable();
            shown.push(rows);
            found.push(look_up(&self.node, &self.tables[turn % 2].table, &ids).await?);
            if turn == 1 {
                let from = (FollowFrom::Snapshot, FollowOptions { follow: true });
                followed = Some(told(self.node.tiering.follow(&self.tables[sinking].table, from.0, from.1).await)?);
            }
        }
        let answers = told(told(writer.await)?)?;
        let sunk = told(told(rounds.await)?)?;

        let mut oracles = [self.tables[0].oracle.clone(), self.tables[1].oracle.clone()];
        let cut = |oracles: &[KeyOracle; 2]| (both_expected([&oracles[0], &oracles[1]]), versions(oracles));
        let mut cuts = vec![cut(&oracles)];
        for ((table, wishes), answer) in requests.iter().zip(&answers) {
            oracles[*table].acked(wishes, self.clock.now_micros(), answer)?;
            cuts.push(cut(&oracles));
        }
        let mut least = 0;
        for (turn, (rows, versions)) in shown.into_iter().zip(found).enumerate() {
            let Some(place) = cuts.iter().position(|(cut, _)| *cut == rows).filter(|place| *place >= least) else {
                return Err(format!("{} rows of both tables are no cut at or after request {least}", rows.len()));
            };
            least = place;
            for (id, version) in ids.iter().zip(versions) {
                let mut later = cuts[least..].iter().map(|(_, versions)| versions[turn % 2].get(id).copied());
                if !later.any(|later| later == version) {
                    return Err(format!("key {id} was looked up after request {least}: {version:?}"));
                }
            }
        }
        let [one, two] = oracles;
        (self.tables[0].oracle, self.tables[1].oracle) = (one, two);
        for tracked in &mut self.tables {
            tracked.carried = false;
        }
        let oracle = &self.tables[sinking].oracle;
        let followed = followed.ok_or("nobody followed")?;
        let (start, state) = state_and_changes(followed, &oracle.ends(), oracle.rules.full).await?;
        if !oracle.cuts.contains(&start) || state != versions(std::slice::from_ref(oracle))[0] {
            return Err(format!("a follower from a snapshot at {start:?} ends with {state:?}"));
        }
        self.sank_somewhere(sinking, sunk).await?;
        self.note_floors(sinking)?;
        self.count("request: beside statements, lookups, a round and a trim");
        self.crossed(None, "a request");
        Ok(())
    }
}

/// The version of each key.
fn versions(oracles: &[KeyOracle]) -> Vec<BTreeMap<i64, i64>> {
    let of = |oracle: &KeyOracle| oracle.state().values().map(|row| (row.id, row.version)).collect();
    oracles.iter().map(of).collect()
}
