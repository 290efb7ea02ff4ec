//! A column that comes, goes, is renamed, and comes back under an old name.

use rand::Rng;
use thermocline_integration_tests::keyed::oracle::FIELDS_MAX;
use thermocline_integration_tests::oracle::passing_column;
use thermocline_integration_tests::statements;

use super::History;

impl History<'_> {
    /// Alters a table; sometimes its writers go on in the older columns.
    pub async fn alter(&mut self, table: usize) -> Result<(), String> {
        let tracked = &self.tables[table];
        let known = passing_column(&tracked.table);
        // Of a table that was altered so often, field ids would run out.
        let choice = if known.is_some_and(|(_, field)| i64::from(field) + 2 > FIELDS_MAX) {
            1
        } else {
            self.random.random_range(0..3)
        };
        let (action, state) = match (known, choice) {
            (None, _) => ("ADD COLUMN extra BIGINT".to_owned(), "a column comes"),
            (Some((name, _)), 0) => (format!("DROP COLUMN {name}"), "a column goes"),
            (Some((name, _)), 1) => {
                let other = if name == "extra" { "more" } else { "extra" };
                (format!("RENAME COLUMN {name} TO {other}"), "a column is renamed")
            }
            (Some((name, _)), _) => {
                let actions = format!("DROP COLUMN {name}, ADD COLUMN {name} BIGINT");
                (actions, "a column comes under the name of one that goes")
            }
        };
        statements::query(&self.node, &format!("ALTER TABLE {} {action}", tracked.name)).await?;
        let newest = self.node.engine.newest(&tracked.table);
        let id = newest.descriptor().id;
        // Another server's commit is of columns that the lake knows.
        self.planned.retain(|late| late.planned.table.descriptor().id != id);
        let keeps = self.random.random_bool(0.3);
        let tracked = &mut self.tables[table];
        // Files are read again, in these columns.
        tracked.audit.forget();
        tracked.untold_columns = true;
        tracked.table = newest.clone();
        if !keeps {
            tracked.writer = newest;
        }
        self.count(format!("alter: {state}"));
        if keeps {
            self.count("alter: its writer keeps the older columns");
        }
        self.crossed(Some(table), "altered columns");
        Ok(())
    }
}
