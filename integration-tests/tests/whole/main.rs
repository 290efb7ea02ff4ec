//! One test binary: linking DataFusion once is enough.

#![allow(clippy::print_stdout)] // what a run covered is for people to see

mod backup;
mod history;
mod key_history;
mod keyed_store_faults;
mod kills;
mod known_failures;
mod layers;
mod nested;
mod planted;
mod store_faults;
mod store_outage;
