//! Replication to one replica: the next offset, one group commit, apply, answer.
//!
//! Each partition is a lane; a few worker threads serve all lanes, each lane always by the same one. A worker
//! appends what has gathered in a lane without syncing; the log's one fsync thread makes the appends of all lanes
//! durable together and tells the workers, each of which hands them to its applier, that applies and answers. Nothing
//! waits for a timer: a batch is what arrived while the disk was busy. A worker that has nothing else to do spares
//! the switches of threads: it makes what it appended durable itself, and applies a few records itself; and one who
//! writes alone does all that in its place ([`worker`]).

mod applier;
mod lane;
mod worker;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::{GroupId, NodeId, Offset, Term};
use odgm_projections::View;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::applier::Applier;
use self::lane::Lane;
use self::worker::{Desk, Message, StandIns, Worker};
use crate::feed::Feeder;
use crate::limits::Limits;
use crate::proposal::{Proposal, ProposeError, Reply};
use crate::reading::{Consistency, ReadError};
use crate::replica::Replica;
use crate::replicator::Replicator;

/// The threads that serve all partitions of a node.
pub(crate) struct Workers {
    runtime: Handle,
    failures: watch::Sender<()>,
    desks: Vec<Arc<Desk>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Starts `count` workers, of two threads each. To be called within the runtime whose tasks will propose.
    pub(crate) fn start(count: usize) -> std::io::Result<Arc<Self>> {
        let (runtime, failures) = (Handle::current(), watch::Sender::new(()));
        let stand_ins = StandIns::of(&runtime);
        let mut desks = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(2 * count);
        for index in 0..count.max(1) {
            let (applier, thread) = Applier::start(format!("appliers-{index}"))?;
            threads.push(thread);
            let (worker, desk) = Worker::new(applier, stand_ins.clone());
            threads.push(
                std::thread::Builder::new()
                    .name(format!("partitions-{index}"))
                    .spawn(move || worker.run())?,
            );
            desks.push(desk);
        }
        Ok(Arc::new(Self { runtime, failures, desks, threads: Mutex::new(threads) }))
    }

    /// Where those that fail tell of it.
    pub(crate) fn failed(&self) -> watch::Sender<()> {
        self.failures.clone()
    }

    /// News of partitions that fail while they run.
    pub(crate) fn failures(&self) -> watch::Receiver<()> {
        self.failures.subscribe()
    }

    /// Ends the threads. Lanes must have been stopped before.
    pub(crate) fn stop(&self) {
        for desk in &self.desks {
            // A thread that has gone needs no telling.
            let _ = desk.tell(Message::Stop);
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a partition worker ended by a panic");
            }
        }
    }

    fn desk(&self, group: GroupId) -> &Arc<Desk> {
        &self.desks[group.0 as usize % self.desks.len()]
    }
}

/// The replicator of one partition with one replica.
pub(crate) struct Local {
    lane: Arc<Lane>,
    desk: Arc<Desk>,
}

impl Local {
    pub(crate) fn new(workers: &Workers, replica: Replica, limits: Limits) -> Self {
        let desk = Arc::clone(workers.desk(replica.group));
        Self { lane: Lane::new(replica, limits, workers.runtime.clone(), workers.failures.clone()), desk }
    }
}

impl Replicator for Local {
    fn propose(&self, proposal: Proposal) {
        // Others have more to do than to wait for the disk, or may not be called back before this returns.
        let is_awaited = matches!(proposal.reply, Reply::Channel(_)) && proposal.term.is_none();
        if !self.lane.push(proposal) || (is_awaited && self.desk.stand_in(&self.lane)) {
            return;
        }
        if !self.desk.tell(Message::Wake(Arc::clone(&self.lane))) {
            self.lane.fail(&worker_gone());
        }
    }

    /// One replica alone has nothing fresher to offer than what it has applied.
    fn confirm(&self, _: Consistency) -> Option<BoxFuture<'_, Result<(), ReadError>>> {
        None
    }

    fn view(&self) -> View {
        self.lane.replica.view.clone()
    }

    fn visible(&self) -> &watch::Sender<Offset> {
        &self.lane.replica.visible
    }

    fn snapshot(&self) -> io::Result<Offset> {
        self.lane.replica.view.snapshot().map_err(io::Error::other)
    }

    fn release(&self, below: Offset) -> io::Result<Offset> {
        Ok(below)
    }

    fn feeder(&self) -> &Arc<Feeder> {
        &self.lane.replica.feeder
    }

    fn leader(&self) -> Option<NodeId> {
        Some(self.lane.replica.node)
    }

    fn lead(&self) -> BoxFuture<'_, Result<Term, ReadError>> {
        std::future::ready(Ok(Term(0))).boxed()
    }

    fn deposed(&self, _: Term) -> BoxFuture<'_, ()> {
        std::future::pending().boxed()
    }

    fn stop(&self, reason: &str) {
        self.lane.close(ProposeError::Stopped { reason: reason.to_owned() });
        let (done, drained) = crossbeam_channel::bounded(1);
        if self.desk.tell(Message::Drain(Arc::clone(&self.lane), done)) {
            // An error says that the worker has gone, and with it everything that was in flight.
            let _ = drained.recv();
        }
    }

    fn failure(&self) -> Option<ProposeError> {
        self.lane.closed()
    }

    fn has_failed(&self) -> bool {
        self.lane.has_failed()
    }
}

fn worker_gone() -> ProposeError {
    ProposeError::Stopped { reason: "its worker thread has ended".to_owned() }
}
