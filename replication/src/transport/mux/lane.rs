//! The way to one node for one class: what waits to be sent, which calls wait for an answer, and the task that sends.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use odgm_log::NodeId;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::counters::Counters;
use super::{ANSWERING, Identity, Outlet, QUEUE_BYTES, QUEUE_MESSAGES};
use crate::transport::frame::{FRAME_BYTES, Header, Message, encode};
use crate::transport::{CallError, Class};

/// Its messages go to one node, in order.
pub(super) struct Lane {
    peer: NodeId,
    class: Class,
    queue: Mutex<Queue>,
    wake: Notify,
    waiting: Mutex<HashMap<u64, Asked>>,
    answering: AtomicUsize,
    heard: AtomicU64,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Outgoing>,
    bytes: usize,
    closed: bool,
}

/// When a call was made, and where its answer goes.
type Asked = (Instant, oneshot::Sender<Result<Bytes, CallError>>);

/// A message, and when it is of no use any more.
pub(super) struct Outgoing {
    pub(super) message: Message,
    pub(super) expires: Instant,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PushError {
    #[error("its queue is full")]
    Full,
    #[error("this node is closing")]
    Closed,
}

/// A call that waits. Whoever gives it up takes it off the list.
pub(super) struct Waiting {
    lane: Arc<Lane>,
    id: u64,
    answer: oneshot::Receiver<Result<Bytes, CallError>>,
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Lane>);

impl Lane {
    pub(super) fn new(peer: NodeId, class: Class) -> Self {
        Self {
            peer,
            class,
            queue: Mutex::default(),
            wake: Notify::new(),
            waiting: Mutex::default(),
            answering: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
        }
    }

    /// A frame has come from the node.
    pub(super) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn push(&self, outgoing: Outgoing) -> Result<(), PushError> {
        let size = outgoing.message.size();
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(PushError::Closed);
        }
        let full = queue.messages.len() >= QUEUE_MESSAGES || queue.bytes + size > QUEUE_BYTES;
        if full && !queue.messages.is_empty() {
            return Err(PushError::Full);
        }
        queue.bytes += size;
        queue.messages.push_back(outgoing);
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    /// Sends a request, whose answer is then waited for.
    pub(super) fn ask(self: &Arc<Self>, id: u64, outgoing: Outgoing) -> Result<Waiting, PushError> {
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(id, (Instant::now(), sender));
        // Made before the push, so that it takes the call off the list where that fails.
        let waiting = Waiting { lane: Arc::clone(self), id, answer };
        self.push(outgoing)?;
        Ok(waiting)
    }

    /// Tells a call how it ended. Whether it still waited for that.
    pub(super) fn settle(&self, id: u64, outcome: Result<Bytes, CallError>) -> bool {
        let waiting = self.waiting.lock().remove(&id);
        waiting.is_some_and(|(_, waiting)| waiting.send(outcome).is_ok())
    }

    /// Fails the calls that were made before a process was replaced by another one.
    pub(super) fn forget(&self, before: Instant) {
        let gone = |_: &u64, (since, _): &mut Asked| *since < before;
        let waiting: Vec<_> = self.waiting.lock().extract_if(gone).collect();
        for (_, (_, waiting)) in waiting {
            // Whoever does not wait any more need not be told.
            let _ = waiting.send(Err(CallError::Restarted { node: self.peer }));
        }
    }

    /// Takes on another request, unless too many are being answered.
    pub(super) fn begin_answering(self: &Arc<Self>) -> Option<Answering> {
        let begun = Answering(Arc::clone(self));
        (self.answering.fetch_add(1, Ordering::Relaxed) < ANSWERING).then_some(begun)
    }

    /// Takes all that waits, up to a frame, and leaves out what came too late to be of use.
    fn take(&self, batch: &mut Vec<Outgoing>) {
        let now = Instant::now();
        let mut size = 0;
        let mut queue = self.queue.lock();
        while let Some(next) = queue.messages.pop_front() {
            let bytes = next.message.size();
            if next.expires <= now {
                queue.bytes -= bytes;
            } else if size > 0 && size + bytes > FRAME_BYTES {
                queue.messages.push_front(next);
                break;
            } else {
                size += bytes;
                queue.bytes -= bytes;
                batch.push(next);
            }
        }
    }

    /// Sends what comes, until it is dropped.
    pub(super) async fn send_all(&self, me: Identity, counters: &Counters, mut outlet: Box<dyn Outlet>) {
        let header = Header {
            class: self.class,
            cluster: me.cluster,
            sender: me.node,
            incarnation: me.incarnation,
            recipient: self.peer,
        };
        let mut batch = Vec::new();
        loop {
            // Others that are ready may still add to this frame; where nobody is, this costs next to nothing.
            tokio::task::yield_now().await;
            self.take(&mut batch);
            if batch.is_empty() {
                self.wake.notified().await;
                continue;
            }
            stamp(&mut batch);
            let frame = encode(&header, batch.iter().map(|outgoing| &outgoing.message));
            let (count, bytes) = (batch.len() as u64, frame.len());
            match outlet.send(frame, self.heard.load(Ordering::Relaxed)).await {
                Ok(()) => counters.count_sent(count, bytes),
                Err(reason) => self.fail(&batch, &reason),
            }
            batch.clear();
        }
    }

    fn fail<'a>(&self, batch: impl IntoIterator<Item = &'a Outgoing>, reason: &dyn fmt::Display) {
        for outgoing in batch {
            if let Message::Request { id, .. } = outgoing.message {
                self.settle(id, Err(self.unreachable(reason)));
            }
        }
    }

    fn unreachable(&self, reason: &dyn fmt::Display) -> CallError {
        CallError::Unreachable { node: self.peer, reason: reason.to_string() }
    }

    /// Takes nothing more, and fails all calls that wait.
    pub(super) fn close(&self) {
        let messages = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.messages)
        };
        // These were never sent; of the others nobody knows.
        self.fail(messages.iter(), &PushError::Closed);
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for (_, (_, waiting)) in waiting {
            // Whoever does not wait any more need not be told.
            let _ = waiting.send(Err(CallError::Closed { node: self.peer }));
        }
    }
}

/// Writes into requests how much of their time is left.
fn stamp(batch: &mut [Outgoing]) {
    let now = Instant::now();
    for outgoing in batch {
        if let Message::Request { left_ms, .. } = &mut outgoing.message {
            let left = outgoing.expires.saturating_duration_since(now).as_millis();
            *left_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        }
    }
}

impl Waiting {
    /// What comes until then; nothing where nothing came.
    pub(super) async fn until(mut self, expires: Instant) -> Option<Result<Bytes, CallError>> {
        match tokio::time::timeout_at(expires, &mut self.answer).await {
            Ok(Ok(outcome)) => Some(outcome),
            Ok(Err(_)) => Some(Err(CallError::Closed { node: self.lane.peer })),
            Err(_) => None,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lane.waiting.lock().remove(&self.id);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}
