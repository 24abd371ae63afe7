//! Counters for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Syncs of the write-ahead log.
    pub fsyncs: u64,
    /// Appends, each of one batch.
    pub appends: u64,
    /// Records appended.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Reads answered from memory.
    pub cache_hits: u64,
    /// Reads that went to RocksDB.
    pub cache_misses: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    fsyncs: AtomicU64,
    appends: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
}

impl Counters {
    pub(super) fn count_fsync(&self) {
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_append(&self, records: usize, bytes: usize) {
        self.appends.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_read(&self, hit: bool) {
        let counter = if hit { &self.cache_hits } else { &self.cache_misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            fsyncs: load(&self.fsyncs),
            appends: load(&self.appends),
            records: load(&self.records),
            bytes: load(&self.bytes),
            cache_hits: load(&self.cache_hits),
            cache_misses: load(&self.cache_misses),
        }
    }
}
