//! Thermocline as one table: SQL over the hot and the cold tier.
//!
//! The path of a statement: `front` parses and checks it; a query's tables are resolved and pinned at one cut (`relations`),
//! planned and run by DataFusion on threads of its own (`session`, `query`), which reads them through `scan` and whose
//! answers `meaning` keeps to what SQL says; `insert` reads its source the same way and appends one frame; everything else
//! speaks to the engine alone.
//!
//! Always: a statement sees one cut of all its tables; it reaches our tables and nothing else; whatever it is, it ends
//! in an answer or an error within its time, memory and depth, never in the end of the process.
//!
//! Not here: HTTP, formats of answers, rounds. This is the only home of DataFusion.

mod assign;
mod change;
mod checks;
mod condition;
mod errors;
mod front;
mod insert;
mod meaning;
mod query;
mod relations;
mod scan;
mod session;
mod show;
mod sql;
mod system;
#[cfg(test)]
mod tests;
mod values;
mod versions;

pub use condition::Condition;
pub use scan::ReadStats;
pub use session::SqlOptions;
pub use sql::{Answer, Sql, SqlRequest};
