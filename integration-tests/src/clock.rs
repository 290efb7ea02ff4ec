//! A clock that moves only when it is told to, so that the stamp of every row is known beforehand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use thermocline_engine::Clock;

#[derive(Debug)]
pub struct HandClock(AtomicI64);

impl HandClock {
    /// At a moment in 2027.
    pub fn new() -> Arc<HandClock> {
        Arc::new(HandClock(AtomicI64::new(1_800_000_000_000_000)))
    }

    pub fn advance(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now_micros(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}
