//! News of what records put into the outbox of a partition, for the one who dispatches it.
//!
//! It is a hint that spares reading: what is missed is in the view. Whoever applies never waits for whoever listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use odgm_projections::{Applied, Queued};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::FEED_BYTES;

/// Where news come from; shared by whoever applies.
#[derive(Debug, Default)]
pub(crate) struct Feeder {
    /// Spares the lock where nobody listens.
    is_open: AtomicBool,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Which feed is the newest: earlier ones get nothing any more.
    opened: u64,
    capacity: usize,
    /// What `fed` holds.
    bytes: usize,
    fed: Fed,
}

/// What has come since it was last asked for.
#[derive(Debug, Default)]
pub struct Fed {
    /// In the order of the records.
    pub queued: Vec<Queued>,
    /// Whether some had no room: then the view has more.
    pub missed: bool,
}

/// One listener's end. Opening another one ends it.
#[derive(Debug)]
pub struct Feed {
    feeder: Arc<Feeder>,
    opened: u64,
}

impl Feeder {
    /// Begins to listen; up to `capacity` news are kept until they are taken, and no more than [`FEED_BYTES`] of them.
    pub(crate) fn open(self: &Arc<Self>, capacity: usize) -> Feed {
        let mut state = self.state.lock();
        let opened = state.opened + 1;
        *state = State { opened, capacity, ..State::default() };
        self.is_open.store(true, Ordering::Release);
        // Whoever waits at an earlier one hears that it has ended; it must not take the next news from this one.
        self.news.notify_waiters();
        Feed { feeder: Arc::clone(self), opened }
    }

    /// Passes on what records put into the outbox, after the view has it. The listener wakes up when what this answers is dropped:
    /// where one who writes alone is to be answered, what it does then would come before that.
    pub(crate) fn feed(&self, applied: &mut [Applied]) -> News<'_> {
        if applied.iter().all(|applied| applied.queued.is_empty()) {
            return News(None);
        }
        let news = applied.iter_mut().flat_map(|applied| std::mem::take(&mut applied.queued));
        if !self.is_open.load(Ordering::Acquire) {
            // Nobody wants them here; they are taken out all the same, since they are large.
            news.for_each(drop);
            return News(None);
        }
        let mut state = self.state.lock();
        for queued in news {
            let bytes = queued.bytes();
            if state.fed.queued.len() < state.capacity && state.bytes + bytes <= FEED_BYTES {
                state.bytes += bytes;
                state.fed.queued.push(queued);
            } else {
                state.fed.missed = true;
            }
        }
        News(Some(&self.news))
    }

    /// Tells the listener that the view was replaced.
    pub(crate) fn miss(&self) {
        self.state.lock().fed.missed = true;
        self.news.notify_one();
    }
}

/// News that the listener may take, and is told of at last.
#[must_use]
pub(crate) struct News<'a>(Option<&'a Notify>);

impl Drop for News<'_> {
    fn drop(&mut self) {
        if let Some(news) = self.0 {
            news.notify_one();
        }
    }
}

impl Feed {
    /// Waits for news; returns at once if there are some, or if there will be none since another feed was opened.
    pub async fn ready(&mut self) {
        loop {
            let news = self.feeder.news.notified();
            {
                let state = self.feeder.state.lock();
                if state.opened != self.opened || state.fed.missed || !state.fed.queued.is_empty() {
                    return;
                }
            }
            news.await;
        }
    }

    /// Takes what there is.
    pub fn take(&mut self) -> Fed {
        let mut state = self.feeder.state.lock();
        if state.opened != self.opened {
            return Fed::default();
        }
        state.bytes = 0;
        std::mem::take(&mut state.fed)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut state = self.feeder.state.lock();
        if state.opened == self.opened {
            (state.fed, state.bytes) = (Fed::default(), 0);
            self.feeder.is_open.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use odgm_log::body::calls::RowKey;
    use odgm_log::{NodeId, Offset, Timestamp};
    use odgm_projections::{OutboxRow, Outcome, Subject};

    use super::*;

    fn applied(offset: u64) -> Applied {
        applied_with(offset, bytes::Bytes::new())
    }

    fn applied_with(offset: u64, payload: bytes::Bytes) -> Applied {
        let row = OutboxRow {
            subject: Subject::Invocation { invocation: offset.to_string() },
            target: odgm_log::body::Target::default(),
            depth: 0,
            generation: 0,
            attempt: 0,
            origin: NodeId(1),
            created: Timestamp(0),
            traceparent: None,
            last_error: String::new(),
            payload: None,
        };
        let key = RowKey { due: Timestamp(0), offset: Offset(offset), index: 0 };
        let queued = Queued::Call { key, row: Box::new(row), payload: Some(payload), bytes: 100 };
        Applied {
            offset: Offset(offset),
            time: Timestamp(0),
            outcome: Outcome::Noted,
            change: None,
            queued: vec![queued],
        }
    }

    fn offsets(fed: &Fed) -> Vec<u64> {
        let of = |queued: &Queued| match queued {
            Queued::Call { key, .. } | Queued::Later { key } => key.offset.get(),
            Queued::Delivery { place, .. } => place.offset.get(),
        };
        fed.queued.iter().map(of).collect()
    }

    #[tokio::test]
    async fn news_are_kept_up_to_the_bound_and_what_is_beyond_is_known_to_be_missed() {
        let feeder = Arc::new(Feeder::default());
        drop(feeder.feed(&mut [applied(1)]));
        let mut feed = feeder.open(2);
        assert!(feed.ready().now_or_never().is_none(), "what came before is in the view");
        drop(feeder.feed(&mut [applied(2), applied(3), applied(4)]));
        feed.ready().await;
        let fed = feed.take();
        assert_eq!((offsets(&fed), fed.missed), (vec![2, 3], true));
        assert!(feed.ready().now_or_never().is_none(), "all is taken");
        let large = || bytes::Bytes::from(vec![0; FEED_BYTES / 2]);
        drop(feeder.feed(&mut [applied_with(5, large()), applied_with(6, large())]));
        let fed = feed.take();
        assert_eq!(
            (offsets(&fed), fed.missed),
            (vec![5], true),
            "with their rows two of them are too many bytes"
        );
        drop(feeder.feed(&mut [applied_with(7, large())]));
        assert_eq!(offsets(&feed.take()), [7], "there is room again");
        feeder.miss();
        feed.ready().await;
        assert!(feed.take().missed);
    }

    #[tokio::test]
    async fn a_new_listener_takes_over() {
        let feeder = Arc::new(Feeder::default());
        let mut first = feeder.open(9);
        let mut waits = Box::pin(first.ready());
        assert!(waits.as_mut().now_or_never().is_none());
        let mut second = feeder.open(9);
        waits.await;
        drop(feeder.feed(&mut [applied(1)]));
        assert!(first.take().queued.is_empty());
        first.ready().now_or_never().expect("it has ended");
        assert!(first.take().queued.is_empty());
        drop(first);
        second.ready().now_or_never().expect("the news are not lost to the one that has ended");
        assert_eq!(offsets(&second.take()), [1], "the end of the first one ends nothing else");
    }
}
