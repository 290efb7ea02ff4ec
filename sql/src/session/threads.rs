//! The threads that plan and run queries: a runtime of their own, so that no query starves the log.
//!
//! Always: they have large stacks, because planners and expressions recurse: the bounds in `front` are set for
//! [`STACK_BYTES`]. Their end is waited for, by a thread that does nothing else: who lets them go may be a task, which must
//! not wait. Letting a thread go that is about to end is no way out: `pthread_detach` of glibc 2.36 reads the thread's
//! memory once more after it has let it go, when it may be gone, and stacks of this size are gone at once.

use std::sync::mpsc;

use thermocline_schemas::{Error, Result};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Virtual memory: pages that are never touched cost nothing.
const STACK_BYTES: usize = 256 << 20;
/// Of threads for work that blocks.
const BLOCKING_MAX: usize = 32;

pub(super) struct QueryThreads {
    /// Taken when they end.
    runtime: Option<Runtime>,
}

impl QueryThreads {
    pub(super) fn start(threads: usize) -> Result<QueryThreads> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .max_blocking_threads(BLOCKING_MAX)
            .enable_all()
            .build()
            .map_err(|error| Error::internal("cannot start the query threads").with_source(error))?;
        Ok(QueryThreads { runtime: Some(runtime) })
    }

    /// Runs work on them.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let runtime = self.runtime.as_ref().ok_or_else(|| Error::internal("the query threads have ended"))?;
        Ok(runtime.spawn(work))
    }
}

impl Drop for QueryThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The thread that waits is let go itself: it begins to wait after that.
            let (begin, begun) = mpsc::channel::<()>();
            let waits = std::thread::spawn(move || {
                let _ = begun.recv();
                drop(runtime);
            });
            drop(waits);
            drop(begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whoever lets them go does not wait; what they were at is dropped.
    #[tokio::test]
    async fn they_end_with_what_they_were_at() {
        let threads = QueryThreads::start(2).unwrap();
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        let (at_it, is_at_it) = tokio::sync::oneshot::channel();
        let work = async move {
            let _held = held;
            at_it.send(()).unwrap();
            std::future::pending::<()>().await;
        };
        threads.spawn(work).unwrap();
        is_at_it.await.unwrap();
        drop(threads);
        let ended = tokio::time::timeout(Duration::from_secs(60), dropped).await.expect("it is dropped");
        ended.unwrap_err();
    }
}
