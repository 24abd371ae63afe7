//! What can be set, and the limits that cannot.

use crate::record::MAX_PAYLOAD_BYTES;

/// The most bytes of payload in one append; a batch is one write to RocksDB.
pub const MAX_APPEND_BYTES: usize = 4 * MAX_PAYLOAD_BYTES;

/// The longest name of a note ([`LogStore::put_meta`](super::LogStore::put_meta)), in bytes.
pub const MAX_NOTE_KEY_BYTES: usize = 160;

/// The largest note, in bytes.
pub const MAX_NOTE_BYTES: usize = 1 << 20;

/// The settings of a store. All sizes are in bytes and hold for the whole node, not for each group.
#[derive(Clone, Debug)]
pub struct Options {
    /// Records kept in memory after they are written, for those who read right behind the writers.
    pub tail_cache_bytes: usize,
    /// Below this much free space in the file system, [`Space::is_low`](super::Space::is_low) says so. What waits in
    /// memory has to fit into it as well: the log's write buffers, and those of the views on the same disk.
    pub free_space_reserve: u64,
    /// RocksDB's memory tables are flushed when the write-ahead log has grown to this; it bounds the time of recovery.
    pub max_wal_bytes: u64,
    /// The size of one memory table. At most three exist at a time.
    pub write_buffer_bytes: usize,
    /// Blocks of table files (with their indexes) that are kept in memory.
    pub block_cache_bytes: usize,
    /// The most table files that are open at a time.
    pub max_open_files: i32,
    /// Whether a thread of the store syncs what was appended, as on every node. Without it nothing appended becomes
    /// durable before [`LogStore::sync`](super::LogStore::sync), on the caller's thread: for simulations, in which one
    /// thread does everything.
    pub sync_thread: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tail_cache_bytes: 32 << 20,
            free_space_reserve: 256 << 20,
            max_wal_bytes: 64 << 20,
            write_buffer_bytes: 32 << 20,
            block_cache_bytes: 32 << 20,
            max_open_files: 512,
            sync_thread: true,
        }
    }
}

/// How much one [`LogStore::read`](super::LogStore::read) returns. Whatever the limit, one record is returned if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// The most records.
    pub records: usize,
    /// The most bytes of payload.
    pub bytes: usize,
}

impl Default for ReadLimit {
    fn default() -> Self {
        Self { records: 1_024, bytes: 1 << 20 }
    }
}

impl ReadLimit {
    /// Whether a record of `next` bytes still fits after `records` records of `bytes` bytes together.
    pub(super) fn allows(&self, records: usize, bytes: usize, next: usize) -> bool {
        records == 0 || (records < self.records && bytes + next <= self.bytes)
    }
}
