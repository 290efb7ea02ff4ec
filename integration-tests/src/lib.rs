//! What the tests of the whole share: a node to drive, and a list that knows better.
//!
//! [`oracle`] is the list: what was acked, in order. [`node`] runs engine, tiering and SQL in one process over a disk that
//! can lose power; [`binary`] runs the real binary as a child process. [`compare`] holds one against the other; [`trace`] tells
//! a model of tiering what was done; [`s3_double`] is a bucket over HTTP that fails on demand.

pub mod binary;
pub mod compare;
pub mod node;
pub mod oracle;
pub mod s3_double;
pub mod trace;
