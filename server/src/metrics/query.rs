//! Statements under way, and how each ended.

use std::time::Instant;

use thermocline_schemas::{Code, Error, Kind};

use crate::metric_names;

/// Counts a statement: as running while it lives, and by its end. One that is dropped before has been cancelled.
pub struct CountedQuery {
    started: Instant,
    outcome: &'static str,
}

impl CountedQuery {
    pub fn begin(started: Instant) -> CountedQuery {
        metrics::gauge!(metric_names::QUERIES_RUNNING.name).increment(1);
        CountedQuery { started, outcome: "cancelled" }
    }

    /// The answer is whole.
    pub fn finished(&mut self) {
        self.outcome = "finished";
    }

    pub fn ended_with(&mut self, error: &Error) {
        self.outcome = match (error.code(), error.kind()) {
            (Code::QueryTimeout, _) => "timed_out",
            (_, Kind::Busy | Kind::Internal | Kind::Unavailable | Kind::Timeout) => "failed",
            _ => "refused",
        };
    }
}

impl Drop for CountedQuery {
    fn drop(&mut self) {
        metrics::gauge!(metric_names::QUERIES_RUNNING.name).decrement(1);
        metrics::counter!(metric_names::QUERIES.name, "outcome" => self.outcome).increment(1);
        metrics::histogram!(metric_names::QUERY_SECONDS.name).record(self.started.elapsed());
    }
}
