//! Group commit: one thread that syncs for all groups.
//!
//! The thread takes the whole queue first, syncs once, notes the watermarks and then calls everyone who was in the
//! queue. What arrives meanwhile waits for the next round, so batches grow with the time that a sync takes and no
//! timer is needed. While the thread is idle, one who appends and has nothing else to do may run a round in its place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::error::SyncError;
use super::group::Group;
use super::space::{self, SpaceWatch};
use super::stats::Counters;
use super::tables::Tables;
use super::watermarks::Watermarks;
use super::write_ahead::WriteAhead;
use crate::ids::Offset;

/// Called once from the thread that syncs, when what was written before is durable or can no longer become so. It holds up
/// everybody else's callbacks: hand over and return.
pub type OnDurable = Box<dyn FnOnce(Result<(), SyncError>) + Send>;

/// One who waits for a sync.
pub(super) struct Waiting {
    /// The log that will be durable up to an offset, unless it is truncated meanwhile.
    pub mark: Option<Mark>,
    pub callback: OnDurable,
}

/// A log that will be durable up to an offset.
pub(super) struct Mark {
    pub group: Arc<Group>,
    pub epoch: u64,
    pub last: Offset,
}

/// All that the sync thread and the store share.
pub(super) struct Syncer {
    pub tables: Tables,
    pub watermarks: Mutex<Watermarks>,
    pub space: SpaceWatch,
    write_ahead: WriteAhead,
    pub counters: Counters,
    queue: Mutex<Queue>,
    /// Held over a round by whoever runs it.
    round: Mutex<Vec<Waiting>>,
    arrived: Condvar,
    /// Whether a thread waits for those who arrive; else they sync themselves.
    has_thread: bool,
    stopped: AtomicBool,
    failure: watch::Sender<Option<SyncError>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    closing: bool,
    closed: bool,
}

impl Syncer {
    pub(super) fn new(
        tables: Tables,
        watermarks: Watermarks,
        space: SpaceWatch,
        write_ahead: WriteAhead,
        has_thread: bool,
    ) -> Self {
        Self {
            tables,
            watermarks: Mutex::new(watermarks),
            space,
            write_ahead,
            counters: Counters::default(),
            queue: Mutex::default(),
            round: Mutex::default(),
            arrived: Condvar::new(),
            has_thread,
            stopped: AtomicBool::new(false),
            failure: watch::Sender::new(None),
        }
    }

    /// Refuses writes once the store has failed or was closed.
    pub(super) fn check_running(&self) -> Result<(), SyncError> {
        if !self.stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.failure.borrow().clone().unwrap_or_else(closed))
    }

    pub(super) fn failure(&self) -> watch::Receiver<Option<SyncError>> {
        self.failure.subscribe()
    }

    /// Notes the first failure; from here on nothing is written.
    pub(super) fn fail(&self, reason: String) -> SyncError {
        let error = SyncError::new(reason);
        self.failure.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| error.clone());
            is_first
        });
        self.stopped.store(true, Ordering::Release);
        tracing::error!(%error, "the log store stops");
        error
    }

    /// Queues a callback for the next sync; [`Self::wake`] or [`Self::serve_here`] has to follow.
    pub(super) fn enqueue(&self, waiting: Waiting) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            (waiting.callback)(Err(self.check_running().err().unwrap_or_else(closed)));
            return;
        }
        queue.waiting.push(waiting);
    }

    /// Tells the thread that somebody waits.
    pub(super) fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Runs a round on the calling thread, or leaves it to the sync thread if that is at work.
    pub(super) fn serve_here(&self) {
        match self.round.try_lock() {
            Some(mut round) => {
                std::mem::swap(&mut self.queue.lock().waiting, &mut *round);
                self.run_round(&mut round);
                if self.space.is_low() {
                    // Only the thread looks after space while nobody may write.
                    self.wake();
                }
            }
            None => self.wake(),
        }
    }

    /// Waits until everything written before is durable.
    pub(super) fn sync_now(&self) -> Result<(), SyncError> {
        self.request(None).wait()
    }

    /// Asks for a sync of everything written before, and for the mark to be noted then.
    pub(super) fn request(&self, mark: Option<Mark>) -> Requested {
        let (done, outcome) = std::sync::mpsc::sync_channel(1);
        let callback = Box::new(move |result| drop(done.send(result)));
        self.enqueue(Waiting { mark, callback });
        if self.has_thread {
            self.wake();
        } else {
            self.serve_here();
        }
        Requested(outcome)
    }

    /// Asks the thread to finish what waits and to end.
    pub(super) fn begin_close(&self) {
        self.stopped.store(true, Ordering::Release);
        self.queue.lock().closing = true;
        self.arrived.notify_one();
    }

    /// The body of the sync thread.
    pub(super) fn run(&self) {
        while self.wait() {
            let mut round = self.round.lock();
            std::mem::swap(&mut self.queue.lock().waiting, &mut *round);
            self.run_round(&mut round);
        }
    }

    /// Syncs once and calls everyone in `round`.
    fn run_round(&self, round: &mut Vec<Waiting>) {
        // Another thread may have taken the queue between a wake-up and here.
        if round.is_empty() {
            return;
        }
        let outcome = self.sync_round(round);
        for waiting in round.drain(..) {
            // One that panics must not leave the others waiting for ever.
            if catch_unwind(AssertUnwindSafe(|| (waiting.callback)(outcome.clone()))).is_err() {
                self.fail("a callback of the sync thread panicked".to_owned());
            }
        }
        self.space.refresh();
        self.write_ahead.refresh();
    }

    /// Waits for somebody to arrive. `false` at the end.
    fn wait(&self) -> bool {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() {
            if queue.closing {
                queue.closed = true;
                return false;
            }
            if self.space.is_low() {
                // Writes are refused, so no sync would notice that there is space again.
                self.arrived.wait_for(&mut queue, space::REFRESH);
                self.space.refresh();
            } else {
                self.arrived.wait(&mut queue);
            }
        }
        true
    }

    fn sync_round(&self, round: &[Waiting]) -> Result<(), SyncError> {
        if let Some(error) = self.failure.borrow().clone() {
            return Err(error);
        }
        // Whatever carries this number or a lower one was written before the sync begins.
        let sequence = self.tables.sequence();
        self.flush_wal().map_err(|reason| self.fail(format!("fsync of the write-ahead log: {reason}")))?;
        self.counters.count_fsync();
        fail::fail_point!("log-after-fsync");
        self.note(round, sequence).map_err(|reason| self.fail(reason))?;
        fail::fail_point!("log-after-watermark");
        Ok(())
    }

    fn flush_wal(&self) -> Result<(), String> {
        fail::fail_point!("log-before-fsync", |reason| Err(reason.unwrap_or_default()));
        self.tables.sync().map_err(rocksdb::Error::into_string)
    }

    /// Notes in memory and in the side file what is durable now.
    fn note(&self, round: &[Waiting], sequence: u64) -> Result<(), String> {
        let mut file = self.watermarks.lock();
        for Mark { group, epoch, last } in round.iter().filter_map(|waiting| waiting.mark.as_ref()) {
            // What was truncated meanwhile is promised no more.
            if group.epoch() == *epoch {
                file.set_log(group.id, *last);
                group.set_durable(*last);
            }
        }
        file.set_sequence(sequence);
        file.write().map_err(|error| format!("{}: {error}", file.path().display()))
    }
}

/// A sync that was asked for.
pub(super) struct Requested(std::sync::mpsc::Receiver<Result<(), SyncError>>);

impl Requested {
    /// Waits until it is done.
    pub(super) fn wait(self) -> Result<(), SyncError> {
        self.0.recv().unwrap_or_else(|_| Err(closed()))
    }
}

fn closed() -> SyncError {
    SyncError::new("it was closed, or opened for reading only")
}
