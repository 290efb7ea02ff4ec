//! What a disk can do to engine and tiering, tried out: it loses power, fails a call, is full, rots.
//!
//! [`disk`] is a disk in memory that writes down every call and can fail one. [`scenario`] is a short life of two tables on
//! it, in which the journal rolls, rows are sealed, carried, tiered and let go; it knows what was answered when. [`keys`] is
//! another, of tables with a primary key. On each of them:
//! - [`cuts`]: at every call, the images that a power cut may leave, each started and read;
//! - [`calls`]: every n-th call of every kind fails once, or the disk is full from there on;
//! - [`flips`]: one bit flips in every kind of file.
//!
//! Read means: everything that was acked is there once, in order, offsets dense; of what was not, a request is there whole
//! or not at all; the lake is a prefix. The numbers that each prints are the claim; `THERMOCLINE_IMAGES`,
//! `THERMOCLINE_CALLS` and `THERMOCLINE_FLIPS` (default 1) multiply how many are tried.

// What was tried is the result.
#![allow(clippy::print_stdout)]

mod calls;
mod cuts;
mod disk;
mod flips;
mod keys;
mod scenario;

/// How many times more than by default.
fn times(variable: &str) -> usize {
    std::env::var(variable).ok().map_or(1, |times| times.parse().unwrap_or_else(|_| panic!("{variable}={times}")))
}
