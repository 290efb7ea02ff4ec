//! Group commit: one thread that makes durable what waits, then has it published, then goes for what came meanwhile.
//!
//! Always: tickets are appended in the order in which they were handed in, published in that order, and answered only
//! after both. When the loglet refuses a group, that group and all that waits behind it are given back, because later
//! tickets were made on the assumption that earlier ones hold. When the loglet fails, everything after is given back too,
//! and the publisher is told that the process must end.
//!
//! The queue is bounded by its callers: each ticket holds a reservation of the memory budget.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thermocline_schemas::{Code, Error};

use super::loglet::Appended;
use super::{AppendError, Draft, FrameKind, Loglet, Position};
use crate::clock::Clock;
use crate::faults::{self, Defect};
use crate::metric_names;

/// A group ends when it has this many bytes of payload; one ticket may be larger.
const GROUP_BYTES_MAX: usize = 16 << 20;
const GROUP_TICKETS_MAX: usize = 1024;
/// A journal that was idle for this long gets a mark, so that rot in its last group can be told from a torn write.
const MARK_AFTER: Duration = Duration::from_millis(200);

/// A draft on its way, and what its owner wants to know it by.
pub struct Ticket<C> {
    pub draft: Draft,
    pub context: C,
}

/// Who is told what became of tickets; called by the journal's thread alone.
pub trait Publisher<C>: Send + 'static {
    /// Whether the ticket's assumptions still hold; one that no longer does is given back by [`Self::abort`].
    fn is_current(&mut self, ticket: &Ticket<C>) -> bool;

    /// These are durable up to `end`, in this order. Makes them visible and answers them.
    fn publish(&mut self, group: Vec<(Ticket<C>, Appended)>, end: Position);

    /// These are not in the journal and will not be.
    fn abort(&mut self, tickets: Vec<Ticket<C>>, error: &Error);

    /// The journal cannot go on: the process must end.
    fn fail(&mut self, error: &Error);
}

/// Something to do between two groups: what it sees is the state at exactly this position.
type Work = Box<dyn FnOnce(&mut dyn Loglet) + Send>;

enum Item<C> {
    Ticket(Ticket<C>),
    Between(Work),
}

/// The way to the journal's thread.
pub struct Journal<C> {
    queue: Arc<Queue<C>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Queue<C> {
    items: Mutex<Items<C>>,
    arrived: Condvar,
}

struct Items<C> {
    waiting: VecDeque<Item<C>>,
    closed: bool,
}

impl<C> Queue<C> {
    fn hold(&self) -> MutexGuard<'_, Items<C>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Send + 'static> Journal<C> {
    /// Starts the thread.
    pub fn start(loglet: Box<dyn Loglet>, publisher: impl Publisher<C>, clock: Arc<dyn Clock>) -> Journal<C> {
        let items = Items { waiting: VecDeque::new(), closed: false };
        let queue = Arc::new(Queue { items: Mutex::new(items), arrived: Condvar::new() });
        let worker = Worker { queue: queue.clone(), loglet, publisher, clock, unmarked_since: None };
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || worker.run_or_fail());
        let thread = thread.expect("the system gives a thread at start");
        Journal { queue, thread: Mutex::new(Some(thread)) }
    }

    /// Hands a ticket in. The caller holds what orders its tickets, so that the queue has them in that order.
    pub fn submit(&self, ticket: Ticket<C>) -> Result<(), Ticket<C>> {
        self.push(Item::Ticket(ticket)).map_err(|item| match item {
            Item::Ticket(ticket) => ticket,
            Item::Between(_) => unreachable!("a refused item comes back as it went"),
        })
    }

    /// Runs `work` on the journal's thread between two groups. False when the journal is closed.
    pub fn between(&self, work: impl FnOnce(&mut dyn Loglet) + Send + 'static) -> bool {
        self.push(Item::Between(Box::new(work))).is_ok()
    }

    fn push(&self, item: Item<C>) -> Result<(), Item<C>> {
        let mut items = self.queue.hold();
        if items.closed {
            return Err(item);
        }
        items.waiting.push_back(item);
        drop(items);
        self.queue.arrived.notify_one();
        Ok(())
    }

    /// Takes nothing more, writes what waits, and ends the thread.
    pub fn close(&self) {
        self.queue.hold().closed = true;
        self.queue.arrived.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the thread has been told to its waiters already: their answers were dropped.
            let _ = thread.join();
        }
    }
}

struct Worker<C, P> {
    queue: Arc<Queue<C>>,
    loglet: Box<dyn Loglet>,
    publisher: P,
    clock: Arc<dyn Clock>,
    /// When something was appended last, if no mark came after it.
    unmarked_since: Option<Instant>,
}

enum Next<C> {
    Group(Vec<Ticket<C>>),
    Between(Work),
    Idle,
    Closed,
}

impl<C, P: Publisher<C>> Worker<C, P> {
    /// A panic here must not leave anybody waiting for an answer that never comes.
    fn run_or_fail(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            let mut items = self.queue.hold();
            items.closed = true;
            let waiting = std::mem::take(&mut items.waiting);
            drop(items);
            self.publisher.fail(&Error::internal("the journal's thread panicked"));
            drop(waiting);
        }
    }

    fn run(&mut self) {
        loop {
            match self.next() {
                Next::Group(tickets) => self.commit(tickets),
                Next::Between(work) => work(&mut *self.loglet),
                Next::Idle => self.mark(),
                Next::Closed => return self.mark(),
            }
        }
    }

    fn next(&self) -> Next<C> {
        let mut items = self.queue.hold();
        while items.waiting.is_empty() {
            if items.closed {
                return Next::Closed;
            }
            let Some(since) = self.unmarked_since else {
                items = self.queue.arrived.wait(items).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = MARK_AFTER.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Next::Idle;
            }
            items = self.queue.arrived.wait_timeout(items, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        // Somebody who only asks does not keep the journal from being idle.
        let only_asks = items.waiting.iter().all(|item| matches!(item, Item::Between(_)));
        if only_asks && self.unmarked_since.is_some_and(|since| since.elapsed() >= MARK_AFTER) {
            return Next::Idle;
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(item) = items.waiting.pop_front() {
            match item {
                Item::Ticket(ticket) => {
                    bytes += ticket.draft.parts.iter().map(|part| part.payload.len()).sum::<usize>();
                    group.push(ticket);
                }
                Item::Between(work) if group.is_empty() => return Next::Between(work),
                between => {
                    items.waiting.push_front(between);
                    break;
                }
            }
            if bytes >= GROUP_BYTES_MAX || group.len() >= GROUP_TICKETS_MAX {
                break;
            }
        }
        Next::Group(group)
    }

    fn commit(&mut self, tickets: Vec<Ticket<C>>) {
        let (current, stale): (Vec<_>, Vec<_>) =
            tickets.into_iter().partition(|ticket| self.publisher.is_current(ticket));
        if !stale.is_empty() {
            let error =
                Error::new(Code::StoreUnavailable, "an earlier write of this table failed").with_hint("send again");
            self.publisher.abort(stale, &error);
        }
        if current.is_empty() {
            return;
        }
        let (mut drafts, mut contexts) = (Vec::with_capacity(current.len()), Vec::with_capacity(current.len()));
        for ticket in current {
            drafts.push(ticket.draft);
            contexts.push(ticket.context);
        }
        let from = self.loglet.tail();
        let outcome = self.loglet.append(&drafts, self.clock.now_micros());
        let tickets = drafts.into_iter().zip(contexts).map(|(draft, context)| Ticket { draft, context });
        match outcome {
            Ok(places) => {
                self.unmarked_since = Some(Instant::now());
                let bytes = self.loglet.tail().0 - from.0;
                metrics::histogram!(metric_names::GROUP_REQUESTS.name).record(places.len() as f64);
                metrics::histogram!(metric_names::GROUP_BYTES.name).record(bytes as f64);
                let mut group: Vec<_> = tickets.zip(places).collect();
                if faults::planted(Defect::PublishedOutOfOrder) {
                    group.reverse();
                }
                self.publisher.publish(group, self.loglet.tail());
            }
            Err(AppendError::Refused(error)) => self.publisher.abort(tickets.collect(), &error),
            Err(AppendError::Fatal(error)) => {
                self.queue.hold().closed = true;
                self.publisher.fail(&error);
                self.publisher.abort(tickets.collect(), &error);
            }
        }
    }

    /// Writes an empty frame, whose `synced_end` covers all before it.
    fn mark(&mut self) {
        if self.unmarked_since.take().is_none() {
            return;
        }
        match self.loglet.append(&[Draft::bare(FrameKind::Mark, Vec::new())], self.clock.now_micros()) {
            Ok(_) => {}
            // Only a mark is lost; what was acked is durable without it.
            Err(AppendError::Refused(error)) => tracing::warn!(%error, "could not mark the journal"),
            Err(AppendError::Fatal(error)) => {
                self.queue.hold().closed = true;
                self.publisher.fail(&error);
            }
        }
    }
}
