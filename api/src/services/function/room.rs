//! How many calls there may be whose clients wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::Status;

/// Counts the calls of the whole node whose clients wait for their answers.
#[derive(Debug)]
pub(super) struct Room {
    max_calls: usize,
    max_bytes: usize,
    calls: AtomicUsize,
    bytes: AtomicUsize,
}

/// A call's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(max_calls: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_calls, max_bytes, calls: AtomicUsize::new(0), bytes: AtomicUsize::new(0) })
    }

    /// How many there are.
    pub(super) fn taken(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Takes a call in whose request has so many bytes, or says which bound is reached.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize) -> Result<Place, Status> {
        // Counted first and judged after: the guard takes it back if it is refused.
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = Place { room: Arc::clone(self), bytes };
        if calls >= self.max_calls {
            return Err(Status::resource_exhausted(format!(
                "the node makes {calls} calls for clients, its limit (ODGM_MAX_CONCURRENT_CALLS): try again later, or let it call by \
                 itself (odgm.v1.Calls.Invoke)"
            )));
        }
        // One that is larger than the bound goes alone.
        if before > 0 && before.saturating_add(bytes) > self.max_bytes {
            return Err(Status::resource_exhausted(format!(
                "the node holds {before} bytes of requests of calls, its limit is {} (ODGM_MAX_CALL_BYTES): try again later",
                self.max_bytes
            )));
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.calls.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_refused_at_either_bound_and_taken_in_again_below_it() {
        let room = Room::new(2, 100);
        let first = room.enter(60).expect("room for the first");
        let refused = room.enter(60).expect_err("too many bytes");
        assert!(refused.message().contains("ODGM_MAX_CALL_BYTES"), "{refused}");
        let second = room.enter(0).expect("room for a small one");
        let refused = room.enter(0).expect_err("too many calls");
        assert!(refused.message().contains("ODGM_MAX_CONCURRENT_CALLS"), "{refused}");
        drop((first, second));
        assert_eq!(room.taken(), 0);
        room.enter(1_000).expect("one that is larger than the bound goes alone");
    }
}
