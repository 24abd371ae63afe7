//! Room for so many requests, and so many bytes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what there is of something that is bounded in number and bytes.
#[derive(Debug)]
pub(crate) struct Room {
    max: usize,
    max_bytes: usize,
    taken: AtomicUsize,
    bytes: AtomicUsize,
}

/// A place in it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    room: Arc<Room>,
    bytes: usize,
}

/// Which bound is reached, and what there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// So many.
    Number(usize),
    /// So many bytes.
    Bytes(usize),
}

impl Room {
    pub(crate) fn new(max: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max, max_bytes, taken: AtomicUsize::new(0), bytes: AtomicUsize::new(0) })
    }

    /// How many there are.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes one in that has so many bytes.
    pub(crate) fn enter(self: &Arc<Self>, bytes: usize) -> Result<Seat, Full> {
        // Counted first and judged after: the guard takes it back if it is refused.
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let seat = Seat { room: Arc::clone(self), bytes };
        if taken >= self.max {
            return Err(Full::Number(taken));
        }
        // One that is larger than the bound goes alone.
        if before > 0 && before.saturating_add(bytes) > self.max_bytes {
            return Err(Full::Bytes(before));
        }
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_up_to_either_bound_and_again_below_it() {
        let room = Room::new(2, 100);
        let first = room.enter(60).expect("room for the first");
        assert_eq!(room.enter(60).expect_err("too many bytes"), Full::Bytes(60));
        let second = room.enter(0).expect("room for a small one");
        assert_eq!(room.enter(0).expect_err("too many"), Full::Number(2));
        drop((first, second));
        assert_eq!(room.taken(), 0);
        let large = room.enter(1_000).expect("one that is larger than the bound goes alone");
        assert_eq!(room.enter(1).expect_err("no bytes are left"), Full::Bytes(1_000));
        drop(large);
        assert!(room.enter(1).is_ok());
    }
}
