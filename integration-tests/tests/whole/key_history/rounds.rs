//! Rounds of our node, commits of another server, a foreign engine that must be refused, and rows that are let go.

use rand::Rng;
use rand::seq::IndexedRandom;
use thermocline_integration_tests::committer;
use thermocline_integration_tests::compare::{bucket, lake_ends};
use thermocline_integration_tests::histories::told;
use thermocline_integration_tests::keyed::committer::plan;
use thermocline_integration_tests::keyed::oracle::KeyOracle;
use thermocline_schemas::Code;
use thermocline_tiering::{Offsets, RoundReport};

use super::{History, Late};

/// How many rows a round from `start` to `end` writes, and how many older ones it ends.
fn moved(oracle: &KeyOracle, start: &[u64], end: &[u64]) -> (u64, u64) {
    let (before, after) = (oracle.living_at(start), oracle.living_at(end));
    let new = after.iter().filter(|row| row.offset >= start[row.bucket]).count();
    (new as u64, before.iter().filter(|row| !after.contains(row)).count() as u64)
}

impl History<'_> {
    pub fn lake_table(&self, table: usize) -> usize {
        // The first is never without a lake.
        if self.tables[table].has_lake() { table } else { 1 - table }
    }

    /// A round of our node whose end is not known beforehand wrote so many rows.
    pub async fn sank_somewhere(&mut self, table: usize, rows: u64) -> Result<(), String> {
        let tracked = &self.tables[table];
        let split = told(self.node.tiering.read_split(std::slice::from_ref(&tracked.table)).await)?.remove(0);
        let end = lake_ends(&split, tracked.kind.rules.buckets);
        let start = &tracked.lake;
        let known = tracked.oracle.cuts.contains(&end) && end.iter().zip(start).all(|(end, start)| end >= start);
        if !known || moved(&tracked.oracle, start, &end).0 != rows {
            return Err(format!("a round of {rows} rows went from {start:?} to {end:?}"));
        }
        self.sank(table, end);
        Ok(())
    }

    /// A round of our node took the lake to `end`.
    fn sank(&mut self, table: usize, end: Vec<u64>) {
        let tracked = &mut self.tables[table];
        let (new, ended) = moved(&tracked.oracle, &tracked.lake, &end);
        let state = match (end != tracked.lake, new, ended) {
            (false, ..) => "round: nothing to do",
            (true, 0, 0) => "round: its rows cancelled out",
            (true, 0, _) => "round: only deletes, no file",
            (true, ..) => "round: rows sank",
        };
        let foreign = tracked.lake != tracked.boundary;
        tracked.untold_columns = false;
        (tracked.boundary, tracked.lake) = (end.clone(), end);
        self.count(state);
        if ended > 0 {
            self.count("round: deleted rows of older files");
        }
        if foreign {
            self.count("round: found another server's commit");
        }
        self.crossed(Some(table), "a round");
    }

    /// The rows that rounds must have written that took the lake to the table's end.
    fn check_rows(&self, table: usize, reports: &[RoundReport]) -> Result<Vec<u64>, String> {
        let tracked = &self.tables[table];
        let end = tracked.oracle.ends();
        let (new, _) = moved(&tracked.oracle, &tracked.lake, &end);
        if reports.iter().map(|report| report.rows).sum::<u64>() != new {
            return Err(format!("{new} rows from {:?} to {end:?}: {reports:?}", tracked.lake));
        }
        Ok(end)
    }

    pub async fn round(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let report = told(self.node.tiering.tier(&self.tables[table].table).await)?;
        let end = self.check_rows(table, &[report])?;
        self.sank(table, end);
        Ok(())
    }

    pub async fn round_twice(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let rounds = [(); 2].map(|()| {
            let (tiering, table) = (self.node.tiering.clone(), self.tables[table].table.clone());
            tokio::spawn(async move { tiering.tier(&table).await })
        });
        let mut reports = Vec::new();
        for round in rounds {
            reports.push(told(told(round.await)?)?);
        }
        let end = self.check_rows(table, &reports)?;
        self.sank(table, end);
        self.count("round: two at once");
        Ok(())
    }

    /// Our round and another server's over the same rows at one moment: whoever commits first has them.
    pub async fn race_rounds(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let before = self.data_files(table).await?;
        let second = told(self.node.second_tiering().await)?;
        let ours = {
            let (tiering, table) = (self.node.tiering.clone(), self.tables[table].table.clone());
            tokio::spawn(async move { tiering.tier(&table).await })
        };
        let theirs = told(second.tier(&self.tables[table].table).await)?;
        let ours = told(told(ours.await)?)?;
        let end = self.check_rows(table, &[ours, theirs])?;
        let written = self.data_files(table).await? - before;
        if written as u64 > ours.files + theirs.files {
            self.count("round: beside another server's, lost");
        }
        self.sank(table, end);
        Ok(())
    }

    /// How many data files the table has in the warehouse, in a snapshot or not.
    async fn data_files(&self, table: usize) -> Result<usize, String> {
        use futures::TryStreamExt;
        let warehouse = self.node.tiering.warehouse();
        let location = told(self.node.tiering.status(&self.tables[table].table).await)?.location;
        let Some(location) = location else { return Ok(0) };
        let prefix = told(warehouse.path(&format!("{location}/data")))?;
        let found: Vec<_> = told(warehouse.store().list(Some(&prefix)).try_collect().await)?;
        Ok(found.iter().filter(|object| object.location.as_ref().ends_with(".parquet")).count())
    }

    /// Another server's commit, to the end or to an earlier cut, which lands later.
    pub async fn plan_commit(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        let tracked = &self.tables[table];
        if tracked.untold_columns {
            // Another server would make them known first.
            return self.round(table).await;
        }
        let to_the_end = self.random.random_bool(0.5);
        let cuts = &tracked.oracle.cuts;
        let cut = if to_the_end { cuts.last() } else { cuts.choose(&mut self.random) };
        let cut = cut.ok_or("a table without a cut")?;
        let planned = plan(self.node.tiering.warehouse(), &tracked.table, &tracked.oracle, cut).await;
        if let Some(planned) = told(planned)? {
            self.planned.push(Late { planned, since: None, rewrites: tracked.rewrites });
        }
        Ok(())
    }

    pub async fn land_commit(&mut self) -> Result<(), String> {
        if self.planned.is_empty() {
            return Ok(());
        }
        // The newest has the best chance.
        let newest = self.planned.len() - 1;
        let planned = if self.random.random_bool(0.5) { newest } else { self.random.random_range(0..=newest) };
        let Late { planned, since, rewrites } = self.planned.swap_remove(planned);
        let landed = planned.land(self.node.tiering.warehouse()).await;
        let id = planned.table.descriptor().id;
        let Some(table) = self.tables.iter().position(|tracked| tracked.table.descriptor().id == id) else {
            // Of a table whose lake was purged it makes another, which nobody reads; a second one may not fit that.
            self.count("late commit: of a dropped table");
            return Ok(());
        };
        let landed = told(landed)?;
        let tracked = &mut self.tables[table];
        let numbers = |offsets: &Offsets| {
            (0..tracked.kind.rules.buckets)
                .map(|number| offsets.get(bucket(&tracked.table, number)).0)
                .collect::<Vec<_>>()
        };
        let (start, end) = (numbers(planned.start()), numbers(planned.end()));
        // Deletes are of the version that they were planned on: on a later one the commit is lost though offsets fit.
        if landed != (tracked.lake == start && tracked.rewrites == rewrites) {
            return Err(format!("a commit from {start:?} on {:?} landed: {landed}", tracked.lake));
        }
        if landed {
            tracked.lake = end;
            self.crossed(Some(table), "another server's commit");
        }
        self.count(if landed { "late commit: landed" } else { "late commit: lost" });
        match since {
            Some("restart") => self.count("late commit: planned before a restart"),
            Some(_) => self.count("late commit: planned before a power cut"),
            None => {}
        }
        Ok(())
    }

    /// Another engine rewrites the lake: of a table with a key that stops rounds, and nothing else, until it is undone.
    pub async fn replace(&mut self, table: usize) -> Result<(), String> {
        let table = self.lake_table(table);
        if self.tables[table].untold_columns {
            return self.round(table).await;
        }
        let warehouse = self.node.tiering.warehouse().clone();
        let shared = self.tables[table].table.clone();
        if !committer::replace(&warehouse, &shared).await? {
            return Ok(());
        }
        match self.node.tiering.tier(&shared).await {
            Err(error) if error.code() == Code::LakeConflict => {}
            other => return Err(format!("after a foreign rewrite a round did {other:?}")),
        }
        self.tables[table].rewrites += 1;
        self.compare().await?;
        committer::roll_back(&warehouse, &shared).await?;
        self.count("round: stopped by a foreign rewrite");
        self.round(table).await
    }

    pub async fn let_go(&mut self, table: usize) -> Result<(), String> {
        told(self.node.tiering.let_go_now(&self.tables[table].table).await)?;
        self.note_floors(table)
    }

    /// What was let go was in the lake, as far as our readers know it.
    pub fn note_floors(&mut self, table: usize) -> Result<(), String> {
        let tracked = &mut self.tables[table];
        let (before, after) = (tracked.oracle.floors.clone(), tracked.floors());
        let forward = after.iter().zip(&before).all(|(after, before)| after >= before);
        let known = after.iter().zip(&tracked.boundary).all(|(after, boundary)| after <= boundary);
        if !forward || !known {
            return Err(format!("the floors {before:?} went to {after:?}, the boundary is {:?}", tracked.boundary));
        }
        tracked.oracle.floors = after.clone();
        if after != before {
            self.crossed(Some(table), "a trim");
        }
        Ok(())
    }
}
