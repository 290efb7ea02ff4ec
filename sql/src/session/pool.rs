//! Memory of queries: each has a pool of its own, fair among its operators, and all draw on one sum.
//!
//! Always: what a pool gives out is counted in the sum, and comes back when the reservation goes. Only what operators
//! reserve is counted; see the README on what they do not.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// The sum over all queries.
#[derive(Debug)]
pub(super) struct ServerMemory {
    used: AtomicUsize,
    max: usize,
}

impl ServerMemory {
    pub(super) fn new(max: usize) -> Arc<ServerMemory> {
        Arc::new(ServerMemory { used: AtomicUsize::new(0), max })
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<()> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.max)
        });
        taken.map(drop).map_err(|used| {
            DataFusionError::ResourcesExhausted(format!(
                "{bytes} bytes more than the {used} in use by all queries pass their limit of {}",
                self.max
            ))
        })
    }
}

/// The memory of one query.
#[derive(Debug)]
pub(super) struct QueryPool {
    own: FairSpillPool,
    server: Arc<ServerMemory>,
}

impl QueryPool {
    pub(super) fn new(server: Arc<ServerMemory>, max: usize) -> QueryPool {
        QueryPool { own: FairSpillPool::new(max), server }
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "query memory: {}", self.own)
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.server.used.fetch_add(additional, Ordering::Relaxed);
        self.own.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.server.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.server.take(additional)?;
        self.own.try_grow(reservation, additional).inspect_err(|_| {
            self.server.used.fetch_sub(additional, Ordering::Relaxed);
        })
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.own.memory_limit()
    }
}
