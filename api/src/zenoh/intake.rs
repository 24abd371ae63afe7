//! What keeps the routes bounded: a count of what waits, and a word about what is lost.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use zenoh::bytes::ZBytes;

use super::limits::{REQUEST_BYTES, REQUESTS, TELL_EVERY};
use super::places::Place;

/// Counts requests that have come in and are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Intake {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// The room of one request, given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    intake: Arc<Intake>,
    bytes: usize,
}

impl Intake {
    /// Room for a request; none where there are too many.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        // Counted first and judged after: the guard takes it back if it is refused.
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = Room { intake: Arc::clone(self), bytes };
        let fits = requests < REQUESTS && (before == 0 || before + bytes <= REQUEST_BYTES);
        fits.then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.intake.requests.fetch_sub(1, Ordering::Relaxed);
        self.intake.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The bytes of a payload, in memory of their own: Zenoh's are a part of a receive buffer, that would be kept for as long as
/// anything of it.
pub(super) fn copied(payload: &ZBytes) -> Bytes {
    match payload.to_bytes() {
        Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        // It came in fragments, that have just been put together.
        Cow::Owned(bytes) => Bytes::from(bytes),
    }
}

/// Tells of losses, of many at once.
#[derive(Debug)]
pub(super) struct Losses {
    what: &'static str,
    count: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Losses {
    /// Of this.
    pub(super) fn of(what: &'static str) -> Self {
        Self { what, count: AtomicU64::new(0), told: Mutex::new(None) }
    }

    /// Counts one, and tells of all so far if that was not done lately.
    pub(super) fn count(&self, place: &Place, reason: &dyn Display) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        *told = Some(Instant::now());
        drop(told);
        tracing::warn!(count, last = place.root(), reason = %reason, "{}", self.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_up_to_the_bounds_and_again_below_them() {
        let intake = Arc::new(Intake::default());
        let large = intake.enter(REQUEST_BYTES + 1).expect("one that is larger goes alone");
        assert!(intake.enter(1).is_none(), "no bytes are left");
        drop(large);
        let rooms: Vec<_> = std::iter::from_fn(|| intake.enter(1)).collect();
        assert_eq!(rooms.len(), REQUESTS);
        drop(rooms);
        assert!(intake.enter(1).is_some());
    }
}
