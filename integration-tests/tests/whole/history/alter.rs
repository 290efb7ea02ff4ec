//! Columns that come and go, and tables that lose all their rows.

use std::time::Duration;

use rand::Rng;
use thermocline_integration_tests::compare::lake_ends;
use thermocline_integration_tests::histories::told;
use thermocline_integration_tests::statements;

use super::History;

impl History<'_> {
    /// A column comes, goes, or gets another name; or one goes and another comes under its name.
    pub async fn alter(&mut self, table: usize) -> Result<(), String> {
        let tracked = &self.tables[table];
        let known = tracked.newest.schema.columns().get(8).map(|column| column.name.as_str().to_owned());
        let (action, state) = match (known, self.random.random_range(0..3)) {
            (None, _) => ("ADD COLUMN extra BIGINT".to_owned(), "a column comes"),
            (Some(name), 0) => (format!("DROP COLUMN {name}"), "a column goes"),
            (Some(name), 1) => {
                let other = if name == "extra" { "more" } else { "extra" };
                (format!("RENAME COLUMN {name} TO {other}"), "a column is renamed")
            }
            (Some(name), _) => {
                let actions = format!("DROP COLUMN {name}, ADD COLUMN {name} BIGINT");
                (actions, "a column comes under the name of one that goes")
            }
        };
        statements::query(&self.node, &format!("ALTER TABLE {} {action}", tracked.name)).await?;
        let newest = self.node.engine.newest(&tracked.table);
        let id = newest.descriptor().id;
        self.planned.retain(|(planned, _)| planned.table.descriptor().id != id);
        let keeps = self.random.random_bool(0.3);
        let tracked = &mut self.tables[table];
        tracked.newest = newest.descriptor().clone();
        (tracked.untold, tracked.untold_columns) = (true, true);
        if !keeps {
            tracked.written_in(newest);
        }
        self.count(format!("alter: {state}"));
        if keeps {
            self.count("alter: its writer keeps the older columns");
        }
        self.crossed(Some(table), "altered columns");
        Ok(())
    }

    /// All rows go, maybe while a round is under way.
    pub async fn truncate(&mut self, table: usize) -> Result<(), String> {
        let tracked = &self.tables[table];
        let round = (tracked.kind.lake && self.random.random_bool(0.5)).then(|| {
            let (tiering, table) = (self.node.tiering.clone(), tracked.table.clone());
            tokio::spawn(async move { tiering.tier(&table).await })
        });
        if round.is_some() {
            tokio::time::sleep(Duration::from_micros(self.random.random_range(0..4_000))).await;
        }
        let rows = told(self.node.engine.truncate(&tracked.table).await)?;
        let kept = tracked.oracle.visible().count() as u64;
        if rows != kept {
            return Err(format!("{rows} rows were taken away, {kept} were there"));
        }
        let (lake, end) = (tracked.lake.clone(), tracked.oracle.ends());
        let tracked = &mut self.tables[table];
        tracked.oracle.floors = end.clone();
        // The model knows nothing of this.
        tracked.untold = true;
        if let Some(round) = round {
            told(told(round.await)?)?;
            let split = told(self.node.tiering.read_split(std::slice::from_ref(&tracked.table)).await)?.remove(0);
            let found = lake_ends(&split, tracked.kind.buckets);
            if found != lake && found != end {
                return Err(format!("a round beside a truncation went from {lake:?} to {found:?}"));
            }
            self.sank(table, found);
            self.count("round: beside a truncation");
        } else if tracked.kind.lake && self.random.random_bool(0.3) {
            self.round(table).await?;
            self.count("round: first after a truncation");
        }
        self.crossed(Some(table), "a truncation");
        Ok(())
    }
}
