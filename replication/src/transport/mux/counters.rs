//! What a mux counts, and how it complains without filling the log.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use odgm_log::NodeId;
use parking_lot::Mutex;

/// At most one warning per sender and reason in this time.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Senders and reasons whose last warning is remembered; beyond them nothing new is warned of until some are old.
const REMEMBERED_WARNINGS: usize = 1_024;

/// Why a frame, or an answer, was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dropped {
    /// Its bytes are no frame.
    Unreadable,
    /// It has another format.
    Format,
    /// It is of another cluster.
    Cluster,
    /// It is for another node.
    Recipient,
    /// Its sender may not talk to this node.
    Admission,
    /// This node cannot tell yet who may talk to it.
    Starting,
    /// More arrived than is taken in: it waited in a full queue, or its sender is one too many.
    Crowded,
    /// An answer that nobody could take: the way back is full.
    Answer,
}

impl Dropped {
    /// Every reason.
    pub(crate) const ALL: [Self; 8] = [
        Self::Unreadable,
        Self::Format,
        Self::Cluster,
        Self::Recipient,
        Self::Admission,
        Self::Starting,
        Self::Crowded,
        Self::Answer,
    ];

    const fn index(self) -> usize {
        self as usize
    }
}

/// What has gone through a mux.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: Flow,
    received: Flow,
    dropped: [AtomicU64; Dropped::ALL.len()],
    warned: Mutex<HashMap<(Option<NodeId>, Dropped), Instant>>,
}

#[derive(Debug, Default)]
struct Flow {
    frames: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// One direction's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) frames: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Flow {
    fn count(&self, messages: u64, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Traffic {
        Traffic {
            frames: self.frames.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Counters {
    /// What was handed to the carrier and taken by it.
    pub(crate) fn sent(&self) -> Traffic {
        self.sent.read()
    }

    /// What arrived and was heeded.
    pub(crate) fn received(&self) -> Traffic {
        self.received.read()
    }

    /// What was dropped for this reason.
    pub(crate) fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped[reason.index()].load(Ordering::Relaxed)
    }

    pub(super) fn count_sent(&self, messages: u64, bytes: usize) {
        self.sent.count(messages, bytes);
    }

    pub(super) fn count_received(&self, messages: u64, bytes: usize) {
        self.received.count(messages, bytes);
    }

    /// Counts something that was dropped, and warns of it now and then.
    pub(super) fn count_dropped(&self, sender: Option<NodeId>, reason: Dropped, why: &dyn fmt::Display) {
        self.dropped[reason.index()].fetch_add(1, Ordering::Relaxed);
        if self.may_warn(sender, reason) {
            let sender = sender.map_or_else(|| "unknown".to_owned(), |sender| sender.to_string());
            tracing::warn!(sender, ?reason, "dropped what came from another node: {why}");
        }
    }

    /// Counts something that is dropped as a matter of course.
    pub(super) fn count_dropped_silently(&self, reason: Dropped) {
        self.dropped[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    fn may_warn(&self, sender: Option<NodeId>, reason: Dropped) -> bool {
        let now = Instant::now();
        let mut warned = self.warned.lock();
        if let Some(last) = warned.get_mut(&(sender, reason)) {
            let due = now.duration_since(*last) >= WARN_EVERY;
            if due {
                *last = now;
            }
            return due;
        }
        if warned.len() >= REMEMBERED_WARNINGS {
            warned.retain(|_, last| now.duration_since(*last) < WARN_EVERY);
            if warned.len() >= REMEMBERED_WARNINGS {
                return false;
            }
        }
        warned.insert((sender, reason), now);
        true
    }
}
