//! The durable log store of a node: the logs of all its groups in one RocksDB.
//!
//! An append is one unsynced write, readable at once; one thread syncs for everybody ([`sync`]). After each sync a
//! side file notes how far every log was synced ([`watermarks`]), and opening refuses a log that ends before that
//! ([`recovery`]). Each group keeps its newest records in memory, bounded over all groups ([`group`]).

mod append;
mod change;
mod error;
mod group;
mod keys;
mod options;
mod prepend;
mod read;
mod recovery;
mod space;
mod stats;
mod sync;
mod tables;
mod verify;
mod watermarks;
mod write_ahead;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub use error::{AppendError, ChangeError, Corruption, OpenError, ReadError, SyncError, VerifyError};
pub use group::Bounds;
pub use options::{MAX_APPEND_BYTES, MAX_NOTE_BYTES, MAX_NOTE_KEY_BYTES, Options, ReadLimit};
pub use read::Links;
pub use space::Space;
pub use stats::Stats;
pub use sync::OnDurable;
pub use verify::Verified;

use crate::ids::GroupId;
use group::{Group, TailCache};
use sync::Syncer;

/// The logs of all groups of a node. Clones are handles of the same store.
///
/// Every method blocks at most for a disk access. `append` and reads of fresh records do not wait for the disk;
/// `trim`, `truncate_after`, `restart_after`, `prepend`, `remove_group`, `put_meta` and `delete_meta` wait for a sync, and belong on
/// a thread that may block.
#[derive(Clone)]
pub struct LogStore {
    store: Arc<Store>,
}

struct Store {
    syncer: Arc<Syncer>,
    groups: RwLock<BTreeMap<GroupId, Arc<Group>>>,
    cache: TailCache,
    /// `None` for a store that was opened for reading only or without a thread, and after the end.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LogStore {
    /// Opens the logs in a directory, creating it if it does not exist, and checks that nothing that was synced is
    /// missing and that the end of every log is whole.
    ///
    /// # Errors
    /// Any [`OpenError`]; then nothing in the directory was changed.
    #[allow(clippy::needless_pass_by_value, reason = "callers have no further use for them")]
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let store = Self::assemble(recovery::open(dir, &options)?, &options);
        if !options.sync_thread {
            return Ok(store);
        }
        let syncer = store.store.syncer.clone();
        let thread = thread::Builder::new().name("log-sync".to_owned()).spawn(move || syncer.run());
        let thread = thread.map_err(|source| OpenError::Io { path: dir.to_owned(), source })?;
        *store.store.thread.lock() = Some(thread);
        Ok(store)
    }

    /// Opens the logs of a stopped node for reading. Nothing is written and nothing but the rows of each log's ends
    /// is checked, so that a damaged log can be looked at; [`verify`](Self::verify) checks all.
    ///
    /// # Errors
    /// [`OpenError::InUse`] if a node has the directory open; any other if it cannot be read.
    pub fn open_read_only(dir: &Path) -> Result<Self, OpenError> {
        let options = Options::default();
        let store = Self::assemble(recovery::open_read_only(dir, &options)?, &options);
        store.store.syncer.begin_close();
        Ok(store)
    }

    fn assemble(opened: recovery::Opened, options: &Options) -> Self {
        let recovery::Opened { tables, watermarks, groups, space, write_ahead } = opened;
        let groups = groups.into_iter().map(|group| (group.id, Arc::new(group))).collect();
        let store = Store {
            syncer: Arc::new(Syncer::new(tables, watermarks, space, write_ahead, options.sync_thread)),
            groups: RwLock::new(groups),
            cache: TailCache::new(options.tail_cache_bytes),
            thread: Mutex::new(None),
        };
        Self { store: Arc::new(store) }
    }

    /// The groups that have a log or a note here, in order.
    pub fn groups(&self) -> Vec<GroupId> {
        self.store.groups.read().keys().copied().collect()
    }

    /// Which part of a group's log is there; of a group without a log, `first` is 1 and the others are 0.
    pub fn bounds(&self, group: GroupId) -> Bounds {
        self.find(group).map_or_else(Bounds::empty, |group| group.bounds())
    }

    /// The payload bytes of the records of a group that are there.
    pub fn payload_bytes(&self, group: GroupId) -> u64 {
        self.find(group).map_or(0, |group| {
            let state = group.state.read();
            state.head.bytes.wrapping_sub(state.floor.bytes)
        })
    }

    /// Free space, as of the last look at it.
    pub fn space(&self) -> Space {
        self.store.syncer.space.get()
    }

    /// Whether free space is below the reserve: one atomic load.
    pub fn is_low_on_space(&self) -> bool {
        self.store.syncer.space.is_low()
    }

    /// Looks how much space is free now, unless that was done a moment ago. Without writes nobody else does.
    pub fn look_at_space(&self) {
        self.store.syncer.space.refresh();
    }

    /// Becomes `Some` when the store has failed. That is final: the node must stop.
    pub fn failure(&self) -> watch::Receiver<Option<SyncError>> {
        self.store.syncer.failure()
    }

    /// What was done since the store was opened.
    pub fn stats(&self) -> Stats {
        self.store.syncer.counters.get()
    }

    /// A note that was stored with [`put_meta`](Self::put_meta).
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if it is damaged.
    pub fn get_meta(&self, group: GroupId, key: &str) -> Result<Option<Bytes>, ReadError> {
        Ok(self.store.syncer.tables.note(group, key)?)
    }

    /// Syncs what was appended before and calls everyone who waits for that. A store with a thread does so by itself.
    ///
    /// # Errors
    /// The failure that stopped the store, if any.
    pub fn sync(&self) -> Result<(), SyncError> {
        self.store.syncer.check_running()?;
        self.store.syncer.sync_now()
    }

    /// Syncs what was appended, calls everyone who waits, writes the memory tables out and ends the sync thread. Later
    /// writes are refused; reads still work. The directory is free for others when the last clone is dropped.
    ///
    /// # Errors
    /// The failure that stopped the store, if any.
    pub fn close(&self) -> Result<(), SyncError> {
        let synced = self.store.stop();
        if synced.is_ok()
            && let Err(error) = self.store.syncer.tables.flush()
        {
            // All of it is in the synced write-ahead log: the next open only takes longer.
            tracing::warn!(error = error.into_string(), "the log's memory tables were not written out");
        }
        synced
    }

    fn find(&self, group: GroupId) -> Option<Arc<Group>> {
        self.store.groups.read().get(&group).cloned()
    }
}

impl Store {
    fn stop(&self) -> Result<(), SyncError> {
        let Some(thread) = self.thread.lock().take() else {
            return self.syncer.failure().borrow().clone().map_or(Ok(()), Err);
        };
        if thread.thread().id() == thread::current().id() {
            // The last handle was dropped by a callback: the thread ends by itself.
            self.syncer.begin_close();
            return Ok(());
        }
        let synced = self.syncer.sync_now();
        self.syncer.begin_close();
        // The thread catches panics, so it ends in order.
        let _ = thread.join();
        synced
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Whoever waited has got the outcome by its callback.
        let _ = self.stop();
    }
}
