//! What calls are called with, within what a node may have of it in memory.

use std::sync::Arc;

use bytes::Bytes;
use odgm_replication::Partition;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::processor::limits::PAYLOAD_COPIES;
use crate::processor::plan::Dispatch;
use crate::processor::reading::{self, ReadError};

/// The room that the calls of all partitions of a node share. It is counted in KiB.
pub(in crate::processor) struct Room {
    free: Arc<Semaphore>,
    total: u32,
}

/// What a call takes of it, as long as it is under way.
pub(super) type Place = OwnedSemaphorePermit;

/// What a call is called with and its place, or why that is not known.
pub(super) type Payload = Result<(Bytes, Place), ReadError>;

/// Calls with what they are called with, or why that is not known.
pub(super) struct Loaded {
    pub(super) calls: Vec<(Dispatch, Payload)>,
    /// Those for which there was no room.
    pub(super) rest: Option<Rest>,
}

/// Calls that wait for room, and how much the first of them needs.
pub(super) struct Rest {
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) wanted: u32,
}

impl Room {
    pub(in crate::processor) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / 1_024).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 3);
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// How much a payload of that size needs; one that is larger than all there is goes alone.
    fn weight(&self, bytes: usize) -> u32 {
        u32::try_from(bytes * PAYLOAD_COPIES / 1_024 + 1).unwrap_or(u32::MAX).min(self.total)
    }

    /// A place for a payload, if there is room now.
    pub(super) fn try_enter(&self, bytes: usize) -> Option<Place> {
        Arc::clone(&self.free).try_acquire_many_owned(self.weight(bytes)).ok()
    }

    /// So much room, as soon as it is there and all who came before have had theirs. None never comes: it is not closed.
    pub(super) async fn enter(&self, wanted: u32) -> Option<Place> {
        Arc::clone(&self.free).acquire_many_owned(wanted).await.ok()
    }
}

/// Reads until there is no room for more. `first` is a place that has been waited for.
pub(super) fn read(
    partition: &Partition,
    room: &Room,
    dispatches: Vec<Dispatch>,
    mut first: Option<Place>,
) -> Loaded {
    let mut calls = Vec::new();
    let mut left = dispatches.into_iter();
    while let Some(dispatch) = left.next() {
        let payload = match reading::payload(partition, &dispatch) {
            Ok(payload) => payload,
            Err(error) => {
                calls.push((dispatch, Err(error)));
                continue;
            }
        };
        let wanted = room.weight(payload.len());
        let waited_for = first.take().filter(|place| place.num_permits() >= wanted as usize);
        let Some(place) = waited_for.or_else(|| room.try_enter(payload.len())) else {
            let dispatches = std::iter::once(dispatch).chain(left).collect();
            return Loaded { calls, rest: Some(Rest { dispatches, wanted }) };
        };
        calls.push((dispatch, Ok((payload, place))));
    }
    Loaded { calls, rest: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_share_the_room_of_a_node_and_one_that_is_larger_goes_alone() {
        let room = Room::new(1 << 20);
        let large = room.try_enter(1 << 30).expect("nothing else is there");
        assert!(room.try_enter(0).is_none());
        drop(large);
        let places: Vec<_> = std::iter::from_fn(|| room.try_enter(100 << 10)).collect();
        assert_eq!(places.len(), (1 << 20) / (PAYLOAD_COPIES * 100 * 1_024 + 1_024));
        drop(places);
        assert!(room.try_enter(1 << 30).is_some());
    }
}
