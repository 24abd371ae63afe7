//! Letting what is ready gather before it is sent.

use std::future::poll_fn;
use std::task::Poll;

/// A future that, each time it is woken, lets the tasks go first that are ready by then, if `others` says that there may be
/// any.
///
/// The runtime runs a task that another one wakes right after that one. A connection would so be polled after every
/// single answer, and write each to its socket alone, though a whole batch of them is ready. But where there is only one
/// answer the turn has another worker wake up to take the task over.
pub(crate) fn gathering<F: Future>(inner: F, others: impl Fn() -> bool) -> impl Future<Output = F::Output> {
    let mut inner = Box::pin(inner);
    let mut had_their_turn = true;
    poll_fn(move |context| {
        had_their_turn = !had_their_turn || !others();
        if had_their_turn {
            return inner.as_mut().poll(context);
        }
        // Woken while it is polled, a task goes to the end of the queue.
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const SENDERS: usize = 16;

    /// How many messages a task that waits for them finds when it is woken, where as many tasks each send one.
    async fn found_at_once(others: bool) -> usize {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let receiving = async move { receiver.recv_many(&mut Vec::new(), SENDERS).await };
        let receiving = tokio::spawn(gathering(receiving, move || others));
        tokio::task::yield_now().await;
        for _ in 0..SENDERS {
            let sender = sender.clone();
            tokio::spawn(async move { sender.send(()).expect("it is received") });
        }
        receiving.await.expect("no panic")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_many_tasks_make_ready_is_found_at_once() {
        // On the worker, as connections are.
        assert_eq!(tokio::spawn(found_at_once(true)).await.expect("no panic"), SENDERS);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_comes_alone_waits_for_nothing() {
        assert_eq!(tokio::spawn(found_at_once(false)).await.expect("no panic"), 1);
    }
}
