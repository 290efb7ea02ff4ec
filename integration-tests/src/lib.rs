//! What the tests of the whole share: a node to drive, and a list that knows better.
//!
//! [`oracle`] is the list: what was acked, in order. [`node`] runs engine, tiering and SQL in one process over a disk that
//! can lose power, by a [`clock`] that is moved by hand; [`binary`] runs the real binary as a child process. [`compare`] holds
//! read splits against the list, [`statements`] SQL, [`readers`] slow readers and followers. [`committer`] is who else
//! writes to the lake, [`gate`] stops a round at a step, [`s3_double`] is a bucket over HTTP that fails on demand. [`trace`]
//! tells a model of tiering what was done; [`read_counter`] counts what a start reads. [`keyed`] is all that again for tables
//! with a primary key, and [`histories`] runs random ones of both.

pub mod binary;
pub mod clock;
pub mod committer;
pub mod compare;
pub mod gate;
pub mod histories;
pub mod keyed;
pub mod node;
pub mod oracle;
pub mod read_counter;
pub mod readers;
pub mod s3_double;
pub mod statements;
pub mod trace;
