//! Decoders that are not ours (Parquet, Avro, Iceberg's JSON) panic on some broken bytes: the bytes are at fault, and who
//! reads them gets an error.
//!
//! Always: what was half done at a panic is not used again. An abort, a hang or a stack that is too small is no panic and
//! gets through.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures::future::FutureExt;
use futures::stream::{Stream, StreamExt};

/// What `work` gives, or `broken` where it panics.
pub fn guarded<T, E>(broken: impl FnOnce() -> E, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(broken()))
}

/// The same for a future.
pub async fn guarded_future<T, E>(
    broken: impl FnOnce() -> E,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(broken()))
}

/// The same for a stream, which ends after a panic.
pub fn guarded_stream<T, E>(
    broken: impl Fn() -> E,
    items: impl Stream<Item = Result<T, E>>,
) -> impl Stream<Item = Result<T, E>> {
    AssertUnwindSafe(items).catch_unwind().map(move |item| item.unwrap_or_else(|_| Err(broken())))
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_ends_a_stream() {
        let broken = || "broken";
        assert_eq!(guarded(broken, || Ok(1)), Ok(1));
        assert_eq!(guarded(broken, || Err::<i32, _>("own")), Err("own"));
        assert_eq!(guarded(broken, || -> Result<i32, _> { panic!("bytes") }), Err("broken"));
        assert_eq!(guarded_future(broken, async { Ok(1) }).await, Ok(1));
        assert_eq!(guarded_future(broken, async { panic!("bytes") }).await, Err::<i32, _>("broken"));
        let items = stream::iter([1, 2, 3]).map(|item| if item == 2 { panic!("bytes") } else { Ok(item) });
        let read: Vec<_> = guarded_stream(broken, items).collect().await;
        assert_eq!(read, [Ok(1), Err("broken")]);
    }
}
