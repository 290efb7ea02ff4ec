//! Rows by their keys, hot or cold.

use std::sync::Arc;

use arrow::array::ArrayRef;
use thermocline_schemas::{Code, Result};

use super::{Engine, FETCHES_MAX, blocking, lost};
use crate::cold::Fetched;
use crate::keys::DERIVED_BYTES_MAX;
use crate::table::{LookedUp, Lookup, Table};

impl Engine {
    /// The newest rows of these keys, each where there is one. `keys` are the key's columns, in the key's order. A row may
    /// be newer than the published ends, never older.
    pub async fn lookup(&self, table: &Arc<Table>, keys: Vec<ArrayRef>) -> Result<LookedUp> {
        self.look_up(table, move |table| table.lookup(&keys)).await
    }

    /// The newest rows of all keys that begin with these values of the key's first column, where the table keeps its keys in
    /// such groups (`TableDescriptor::group_column`).
    pub async fn lookup_groups(&self, table: &Arc<Table>, first: ArrayRef) -> Result<LookedUp> {
        self.look_up(table, move |table| table.lookup_groups(&first)).await
    }

    async fn look_up(
        &self,
        table: &Arc<Table>,
        find: impl Fn(&Table) -> Result<Lookup> + Clone + Send + 'static,
    ) -> Result<LookedUp> {
        let mut attempts = 1;
        loop {
            let (own, find) = (table.clone(), find.clone());
            let lookup = blocking(move || find(&own)).await;
            let found = match lookup {
                Ok(lookup) => self.with_cold(table, lookup).await,
                Err(error) => Err(error),
            };
            match found {
                // A row was let go, or replaced, since its key was found.
                Err(error) if error.code() == Code::OffsetOutOfRetention && attempts < FETCHES_MAX => attempts += 1,
                found => return found.map_err(lost),
            }
        }
    }

    async fn with_cold(&self, table: &Arc<Table>, lookup: Lookup) -> Result<LookedUp> {
        let mut fetched = Fetched::default();
        for (bucket, offsets) in lookup.cold() {
            let rows = self.cold()?.rows(table, bucket, &offsets, DERIVED_BYTES_MAX).await?;
            fetched.add(bucket, offsets, rows);
        }
        lookup.finish(table, &fetched)
    }
}
