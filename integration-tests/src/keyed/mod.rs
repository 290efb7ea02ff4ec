//! The same for tables with a primary key: [`oracle`] is a map and the list of changes that the requests must have made of
//! it; [`compare`], [`statements`] and [`readers`] hold everything that can be read against both; [`committer`] is another
//! server that tiers the same rows.

pub mod committer;
pub mod compare;
pub mod oracle;
pub mod readers;
pub mod statements;
