//! The one bound on memory that rows take before they are in a segment: requests in flight and tails, over the whole server.
//!
//! Always: who needs room asks before allocating and waits, for a bounded time, when there is none; what was given is
//! given back when the [`Reservation`] is dropped, which is when the last reader of those rows lets go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thermocline_schemas::{Code, Error, Result};
use tokio::sync::Notify;

/// A waiter looks again after this long even if nobody rings: the ring may have gone to one that still did not fit.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct MemoryBudget {
    bytes_max: u64,
    used: AtomicU64,
    /// The largest request that waited for room since it was last asked.
    wanted: AtomicU64,
    freed: Notify,
}

/// Room for so many bytes.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl MemoryBudget {
    pub fn new(bytes_max: u64) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget { bytes_max, used: AtomicU64::new(0), wanted: AtomicU64::new(0), freed: Notify::new() })
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How much room the largest waiting request needs; 0 if none waited since the last call.
    pub fn wanted(&self) -> u64 {
        self.wanted.swap(0, Ordering::AcqRel)
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Waits for room, up to `patience`. A request larger than the whole budget passes when nothing else is in it.
    pub async fn reserve(self: &Arc<Self>, bytes: u64, patience: Duration) -> Result<Reservation> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Ok(reservation);
        }
        let waiting = async {
            loop {
                let freed = self.freed.notified();
                let reservation = self.try_reserve(bytes);
                // There may be room for another one, smaller or not.
                if let Some(reservation) = reservation {
                    self.freed.notify_one();
                    return reservation;
                }
                self.wanted.fetch_max(bytes, Ordering::AcqRel);
                tokio::select! {
                    () = freed => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
            }
        };
        tokio::time::timeout(patience, waiting).await.map_err(|_| {
            Error::new(Code::TooBusy, format!("no room for {bytes} bytes of rows within {} ms", patience.as_millis()))
                .with_hint("wait a second and send the same request again")
        })
    }

    fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let room = |used: u64| (used == 0 || used + bytes <= self.bytes_max).then_some(used + bytes);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(self.taken(bytes))
    }

    /// Takes room without asking: for rows that are durable already.
    pub fn force(self: &Arc<Self>, bytes: u64) -> Reservation {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        self.taken(bytes)
    }

    /// A larger reservation in the place of one: for rows that turned out larger than they looked.
    pub fn exchange(self: &Arc<Self>, smaller: Reservation, bytes: u64) -> Reservation {
        let larger = self.force(bytes);
        drop(smaller);
        larger
    }

    fn taken(self: &Arc<Self>, bytes: u64) -> Reservation {
        Reservation { budget: self.clone(), bytes }
    }
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        if bytes < self.bytes {
            self.budget.used.fetch_sub(self.bytes - bytes, Ordering::AcqRel);
            self.budget.freed.notify_one();
            self.bytes = bytes;
        }
    }

    /// A part of this reservation as one of its own; at most all that is left.
    pub fn split(&mut self, bytes: u64) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation { budget: self.budget.clone(), bytes }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_room_and_gives_up_in_time() {
        let budget = MemoryBudget::new(100);
        let patience = Duration::from_millis(50);
        let first = budget.reserve(80, patience).await.unwrap();
        assert_eq!(budget.reserve(30, patience).await.unwrap_err().code(), Code::TooBusy);
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(30, Duration::from_secs(5)).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(first);
        waiter.await.unwrap().unwrap();
        assert_eq!(budget.used(), 0);
        budget.reserve(1000, patience).await.expect("an empty budget lets one large request pass");
    }
}
