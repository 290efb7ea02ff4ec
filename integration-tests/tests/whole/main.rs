//! One test binary: linking DataFusion once is enough.

mod history;
mod kills;
mod layers;
