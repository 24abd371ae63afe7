//! What all views of a node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rocksdb::{Cache, WriteBufferManager};

use super::rocks::Writer;

/// How much memory all views of a node may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes for blocks read from disk, and for the indexes and filters of the files.
    pub block_cache_bytes: usize,
    /// Bytes for rows not yet on disk. A view that would exceed it writes its rows out.
    pub write_buffer_bytes: usize,
    /// Bytes for rows that gather before they go to the write buffers; the views that are open share them equally.
    pub write_back_bytes: usize,
    /// Bytes for rows that were read; the views that are open share them equally.
    pub row_cache_bytes: usize,
    /// Bytes for what apply remembers of the objects it touched last; the views that are open share them equally.
    pub object_cache_bytes: usize,
}

impl Default for Budget {
    /// 128 MiB of blocks, 64 MiB of unwritten rows and 16 MiB of those that gather, 32 MiB of rows that were read,
    /// and 32 MiB of what is known of objects.
    fn default() -> Self {
        Self {
            block_cache_bytes: 128 << 20,
            write_buffer_bytes: 64 << 20,
            write_back_bytes: 16 << 20,
            row_cache_bytes: 32 << 20,
            object_cache_bytes: 32 << 20,
        }
    }
}

/// The memory that the views of a node share. Cheap to clone.
#[derive(Clone)]
pub struct Resources {
    pub(super) budget: Budget,
    pub(super) cache: Cache,
    pub(super) write_buffers: WriteBufferManager,
    /// Writes views out in the background.
    pub(super) writer: Writer,
    /// Those who share, by what they share.
    gathering: Arc<AtomicUsize>,
    reading: Arc<AtomicUsize>,
    applying: Arc<AtomicUsize>,
}

/// A view's part of a budget that all open views share equally.
pub(crate) struct Share {
    total: usize,
    holders: Arc<AtomicUsize>,
}

impl Share {
    fn new(total: usize, holders: &Arc<AtomicUsize>) -> Self {
        holders.fetch_add(1, Ordering::Relaxed);
        Self { total, holders: Arc::clone(holders) }
    }

    /// No room at all.
    pub(crate) fn none() -> Self {
        Self { total: 0, holders: Arc::new(AtomicUsize::new(1)) }
    }

    /// Its size at this moment, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.total / self.holders.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.holders.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Resources {
    /// Resources within a budget. Make one per node.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            // Entry size 0: the cache finds out; it has no lock on its read path, which an LRU cache has.
            cache: Cache::new_hyper_clock_cache(budget.block_cache_bytes, 0),
            // Writers are never stalled for memory: the view that is over writes out, and its worker goes on.
            write_buffers: WriteBufferManager::new_write_buffer_manager(budget.write_buffer_bytes, false),
            writer: Writer::start(),
            gathering: Arc::default(),
            reading: Arc::default(),
            applying: Arc::default(),
        }
    }

    /// One more view's share of the rows that gather.
    pub(super) fn write_back(&self) -> Share {
        Share::new(self.budget.write_back_bytes, &self.gathering)
    }

    /// One more view's share of the rows that were read.
    pub(super) fn row_cache(&self) -> Share {
        Share::new(self.budget.row_cache_bytes, &self.reading)
    }

    /// One more view's share of what apply remembers of objects.
    pub(crate) fn object_cache(&self) -> Share {
        Share::new(self.budget.object_cache_bytes, &self.applying)
    }

    /// Bytes of rows that are not on disk yet, over all views.
    #[must_use]
    pub fn write_buffer_usage(&self) -> usize {
        self.write_buffers.get_usage()
    }

    /// Bytes of cached blocks, over all views.
    #[must_use]
    pub fn block_cache_usage(&self) -> usize {
        self.cache.get_usage()
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::new(Budget::default())
    }
}

impl std::fmt::Debug for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resources").field("budget", &self.budget).finish_non_exhaustive()
    }
}
