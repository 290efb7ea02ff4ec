//! Rounds of our node, commits of another server, a foreign engine that rewrites the lake, and rows that are let go.

use rand::Rng;
use thermocline_engine::Clock;
use thermocline_integration_tests::committer::{self, Planned};
use thermocline_integration_tests::compare::{self, bucket};
use thermocline_integration_tests::histories::told;
use thermocline_integration_tests::trace::{Action, Outcome};

use super::History;

impl History<'_> {
    /// A round of our node whose end is not known beforehand committed so many rows.
    pub async fn sank_somewhere(&mut self, table: usize, rows: u64) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let lake = tracked.lake.clone();
        tracked.adopted(&lake);
        // Where it ended is what our readers use now; that it is right is for the comparison to say.
        let offsets = compare::buckets(&tracked.table).map(|(bucket, _)| bucket);
        let split = futures::executor::block_on(self.node.tiering.read_split(std::slice::from_ref(&tracked.table)));
        let split = told(split)?.remove(0);
        let end: Vec<u64> =
            offsets.map(|bucket| split.lake.as_ref().map_or(0, |lake| lake.version.offsets.get(bucket).0)).collect();
        let moved = tracked.rows_between(&lake, &end);
        if moved != rows || end.iter().zip(&lake).any(|(end, start)| end < start) {
            return Err(format!("a round of {rows} rows went from {lake:?} to {end:?}"));
        }
        self.sank(table, end);
        Ok(())
    }

    /// A round of our node took the lake to `end`.
    pub fn sank(&mut self, table: usize, end: Vec<u64>) {
        let tracked = &mut self.tables[table];
        let lake = tracked.lake.clone();
        let (is_new, foreign, rewritten) = (end != lake, lake != tracked.boundary, tracked.replaced);
        tracked.adopted(&lake);
        tracked.untold_columns = false;
        if is_new {
            let outcome = Outcome::Committed;
            tracked.trace.note(Action::Round { start: lake[0], end: end[0], outcome });
        }
        (tracked.boundary, tracked.lake) = (end.clone(), end);
        self.count(if is_new { "round: rows sank" } else { "round: nothing to do" });
        if foreign {
            self.count("round: found another server's commit");
        }
        if rewritten {
            self.count("round: found a foreign rewrite");
        }
        self.crossed(Some(table), "a round");
    }

    pub fn lake_table(&self, table: usize) -> usize {
        // The first is never without a lake.
        if self.tables[table].kind.lake { table } else { 1 - table }
    }

    pub async fn round(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &self.tables[table];
        let end = tracked.oracle.ends();
        let due = tracked.due();
        let report = told(self.node.tiering.tier(&tracked.table).await)?;
        if report.rows != due {
            return Err(format!("{report:?} from {:?} to {end:?}, {due} were due", tracked.lake));
        }
        self.sank(table, end);
        Ok(())
    }

    pub async fn round_twice(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &self.tables[table];
        let end = tracked.oracle.ends();
        let due = tracked.due();
        let rounds = [(); 2].map(|()| {
            let (tiering, table) = (self.node.tiering.clone(), tracked.table.clone());
            tokio::spawn(async move { tiering.tier(&table).await })
        });
        let mut rows = 0;
        for round in rounds {
            rows += told(told(round.await)?)?.rows;
        }
        if rows != due {
            return Err(format!("two rounds took {rows} rows to {end:?}, {due} were due"));
        }
        self.sank(table, end);
        self.count("round: two at once");
        Ok(())
    }

    /// Our round and another server's over the same rows at one moment: whoever commits first has them.
    pub async fn race_rounds(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &self.tables[table];
        let end = tracked.oracle.ends();
        let (start, due) = (tracked.lake.clone(), tracked.due());
        let before = self.data_files(table).await?;
        let second = told(self.node.second_tiering().await)?;
        let ours = {
            let (tiering, table) = (self.node.tiering.clone(), self.tables[table].table.clone());
            tokio::spawn(async move { tiering.tier(&table).await })
        };
        let theirs = told(second.tier(&self.tables[table].table).await)?;
        let ours = told(told(ours.await)?)?;
        if ours.rows + theirs.rows != due {
            return Err(format!("from {start:?} to {end:?}: {ours:?} and {theirs:?}"));
        }
        let written = self.data_files(table).await? - before;
        if written as u64 > ours.files + theirs.files {
            self.count("round: beside another server's, lost");
        }
        if theirs.rows > 0 {
            let tracked = &mut self.tables[table];
            tracked.trace.note(Action::Commit { start: start[0], end: end[0] });
            tracked.lake = end.clone();
        }
        self.sank(table, end);
        Ok(())
    }

    /// How many data files the table has in the warehouse, in a snapshot or not.
    pub async fn data_files(&self, table: usize) -> Result<usize, String> {
        use futures::TryStreamExt;
        let warehouse = self.node.tiering.warehouse();
        let location = told(self.node.tiering.status(&self.tables[table].table).await)?.location;
        let Some(location) = location else { return Ok(0) };
        let prefix = told(warehouse.path(&format!("{location}/data")))?;
        let found: Vec<_> = told(warehouse.store().list(Some(&prefix)).try_collect().await)?;
        Ok(found.len())
    }

    pub async fn plan_commit(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &self.tables[table];
        let to_the_end = self.random.random_bool(0.4);
        let ends = tracked.oracle.ends().into_iter();
        let ends: Vec<_> = ends.map(|end| if to_the_end { end } else { self.random.random_range(0..=end) }).collect();
        let newest = self.node.engine.newest(&tracked.table);
        if tracked.untold_columns {
            // Another server would make them known first.
            return self.round(table).await;
        }
        let planned = Planned::new(self.node.tiering.warehouse(), &newest, &tracked.oracle, &ends).await;
        if let Some(planned) = told(planned)? {
            self.planned.push((planned, None));
        }
        Ok(())
    }

    pub async fn land_commit(&mut self) -> Result<(), String> {
        if self.planned.is_empty() {
            return Ok(());
        }
        let planned = self.random.random_range(0..self.planned.len());
        let (planned, since) = self.planned.swap_remove(planned);
        let landed = told(planned.land(self.node.tiering.warehouse()).await)?;
        let id = planned.table.descriptor().id;
        let Some(table) = self.tables.iter().position(|tracked| tracked.table.descriptor().id == id) else {
            self.count("late commit: of a dropped table");
            return Ok(());
        };
        let tracked = &mut self.tables[table];
        let numbers = |offsets: &thermocline_tiering::Offsets| {
            (0..tracked.kind.buckets).map(|number| offsets.get(bucket(&tracked.table, number)).0).collect::<Vec<_>>()
        };
        let (start, end) = (numbers(planned.start()), numbers(planned.end()));
        if landed != (tracked.lake == start) {
            return Err(format!("a commit from {start:?} on {:?} landed: {landed}", tracked.lake));
        }
        if landed {
            tracked.trace.note(Action::Commit { start: start[0], end: end[0] });
            tracked.lake = end;
            self.crossed(Some(table), "another server's commit");
        } else {
            let outcome = Outcome::Stale;
            tracked.trace.note(Action::Round { start: start[0], end: end[0], outcome });
        }
        self.count(if landed { "late commit: landed" } else { "late commit: lost" });
        match since {
            Some("restart") => self.count("late commit: planned before a restart"),
            Some(_) => self.count("late commit: planned before a power cut"),
            None => {}
        }
        Ok(())
    }

    pub async fn replace(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &mut self.tables[table];
        if committer::replace(self.node.tiering.warehouse(), &tracked.table).await? {
            tracked.replaced = true;
            tracked.trace.note(Action::Replace);
        }
        Ok(())
    }

    pub async fn let_go(&mut self, table: usize) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let before = tracked.floors();
        told(self.node.tiering.let_go_now(&tracked.table).await)?;
        let after = tracked.floors();
        if after.iter().zip(&before).any(|(after, before)| after < before) {
            return Err(format!("the floors {before:?} went back to {after:?}"));
        }
        if !tracked.kind.lake {
            // What retention may take is what was accepted before its time.
            let kept_ms = tracked.table.descriptor().properties.hot_retention_ms as i64;
            let oldest = self.clock.now_micros() - kept_ms * 1000;
            for ((rows, before), floor) in tracked.oracle.buckets.iter().zip(&before).zip(&after) {
                if rows[*before as usize..*floor as usize].iter().any(|row| row.stamp >= oldest) {
                    return Err(format!("rows younger than {kept_ms} ms were let go: {after:?}"));
                }
            }
            tracked.oracle.floors = after.clone();
        }
        if after != before {
            tracked.trace.note(Action::Trim { to: after[0] });
            self.crossed(Some(table), "a trim");
        }
        Ok(())
    }
}
