//! What keeps the routes bounded: a count of what waits, and a word about what is lost.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use zenoh::bytes::ZBytes;

use super::limits::{REQUEST_BYTES, REQUESTS, TELL_EVERY};
use super::places::Place;
use crate::room::Room;

/// Room for requests that have come in and are not answered yet.
pub(super) fn intake() -> Arc<Room> {
    Room::new(REQUESTS, REQUEST_BYTES)
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
