//! Work that goes on when whoever waits for it goes away.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::CatchUnwind;
use tokio::runtime::Handle;

/// A future that is a part of the task that waits for it as long as that waits, and a task of its own from then on. A task from
/// the start would have the runtime wake a second worker for each call, and that one the first.
pub(super) struct GoesOn<F: Future<Output: Send> + Send + 'static>(
    Option<Pin<Box<CatchUnwind<AssertUnwindSafe<F>>>>>,
);

impl<F: Future<Output: Send> + Send + 'static> GoesOn<F> {
    pub(super) fn new(future: F) -> Self {
        Self(Some(Box::pin(AssertUnwindSafe(future).catch_unwind())))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for GoesOn<F> {
    /// The error is what it panicked with, as text.
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let ended = std::task::ready!(future.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(ended.map_err(|panic| text(&*panic)))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for GoesOn<F> {
    fn drop(&mut self) {
        // Outside a runtime the node has ended.
        if let (Some(future), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(future);
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_comes_to_its_end() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let tracker = TaskTracker::new();
        let mut work = GoesOn::new(tracker.track_future(async move {
            gone.await.ok();
            done.send("done").ok();
        }));
        assert!(futures_util::poll!(&mut work).is_pending());
        drop(work);
        tracker.close();
        assert_eq!(tracker.len(), 1, "whoever stops the node waits for it");
        drop(go);
        assert_eq!(is_done.await, Ok("done"));
        tracker.wait().await;
    }

    #[tokio::test]
    async fn a_panic_is_told_and_does_not_go_on() {
        let tracker = TaskTracker::new();
        let ended = GoesOn::new(tracker.track_future(async { panic!("no {}", "way") })).await;
        assert_eq!(ended, Err::<(), _>("no way".to_owned()));
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn what_has_ended_does_not_go_on() {
        let mut work = GoesOn::new(async { 7 });
        assert_eq!((&mut work).await, Ok(7));
        assert!(work.0.is_none());
    }
}
