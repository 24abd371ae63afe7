//! What the groups of a node send each other beside entries, over all of them: snapshots, and records of the past.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

/// Replicas of a node that fetch records of the past at once: each takes as little as one piece at a time.
const FILLING_AT_ONCE: usize = 1;

/// The transfers of a node.
#[derive(Debug)]
pub(crate) struct Transfers {
    pub(super) filling: Semaphore,
    sent: AtomicU64,
    received: AtomicU64,
    installed: AtomicU64,
    records: AtomicU64,
    record_bytes: AtomicU64,
}

/// What has been transferred since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferCounts {
    /// Bytes of snapshots sent to other members.
    pub snapshot_bytes_sent: u64,
    /// Bytes of snapshots received; what had arrived before and was sent again is not counted twice.
    pub snapshot_bytes_received: u64,
    /// Snapshots of other members that took the place of a view.
    pub snapshots_installed: u64,
    /// Records of the past that were fetched from other members.
    pub filled_records: u64,
    /// Their payload bytes.
    pub filled_bytes: u64,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            filling: Semaphore::new(FILLING_AT_ONCE),
            sent: AtomicU64::default(),
            received: AtomicU64::default(),
            installed: AtomicU64::default(),
            records: AtomicU64::default(),
            record_bytes: AtomicU64::default(),
        }
    }
}

impl Transfers {
    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn installed(&self) {
        self.installed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn filled(&self, records: usize, bytes: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.record_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> TransferCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransferCounts {
            snapshot_bytes_sent: load(&self.sent),
            snapshot_bytes_received: load(&self.received),
            snapshots_installed: load(&self.installed),
            filled_records: load(&self.records),
            filled_bytes: load(&self.record_bytes),
        }
    }
}
