//! Replication to one replica: the next offset, one group commit, apply, answer.
//!
//! Each partition is a lane; a few worker threads serve all lanes, each lane always by the same one. A worker
//! appends what has gathered in a lane without syncing; the log's one fsync thread makes the appends of all lanes
//! durable together and tells the workers, each of which hands them to its applier, that applies and answers. Nothing
//! waits for a timer: a batch is what arrived while the disk was busy. A worker that has nothing else to do spares
//! the switches of threads: it makes what it appended durable itself, and applies a few records itself.

mod applier;
mod lane;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::store::SyncError;
use odgm_log::{GroupId, NodeId, Offset, Term};
use odgm_projections::View;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::applier::Applier;
use self::lane::{Append, FEW, InFlight, Lane};
use crate::feed::Feeder;
use crate::limits::Limits;
use crate::proposal::{Proposal, ProposeError};
use crate::reading::{Consistency, ReadError};
use crate::replica::Replica;
use crate::replicator::Replicator;

/// The threads that serve all partitions of a node.
pub(crate) struct Workers {
    runtime: Handle,
    failures: watch::Sender<()>,
    inboxes: Vec<Sender<Message>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

enum Message {
    /// Proposals are waiting.
    Wake(Arc<Lane>),
    /// An append has been synced, or never will be.
    Durable(Arc<Lane>, Result<Offset, SyncError>),
    /// Say when nothing is queued or in flight.
    Drain(Arc<Lane>, Sender<()>),
    /// End the thread.
    Stop,
}

impl Workers {
    /// Starts `count` workers, of two threads each. To be called within the runtime whose tasks will propose.
    pub(crate) fn start(count: usize) -> std::io::Result<Arc<Self>> {
        let mut inboxes = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(2 * count);
        for index in 0..count.max(1) {
            let (sender, receiver) = crossbeam_channel::unbounded();
            let (applier, thread) = Applier::start(format!("appliers-{index}"))?;
            threads.push(thread);
            let outbox = sender.clone();
            let worker =
                Worker { inbox: receiver, outbox, applier, lanes: HashMap::new(), later: Later::new() };
            threads.push(
                std::thread::Builder::new()
                    .name(format!("partitions-{index}"))
                    .spawn(move || worker.run())?,
            );
            inboxes.push(sender);
        }
        let (runtime, failures) = (Handle::current(), watch::Sender::new(()));
        Ok(Arc::new(Self { runtime, failures, inboxes, threads: Mutex::new(threads) }))
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
        for inbox in &self.inboxes {
            // A thread that has gone needs no telling.
            drop(inbox.send(Message::Stop));
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a partition worker ended by a panic");
            }
        }
    }

    fn inbox(&self, group: GroupId) -> &Sender<Message> {
        &self.inboxes[group.0 as usize % self.inboxes.len()]
    }
}

/// The replicator of one partition with one replica.
pub(crate) struct Local {
    lane: Arc<Lane>,
    worker: Sender<Message>,
}

impl Local {
    pub(crate) fn new(workers: &Workers, replica: Replica, limits: Limits) -> Self {
        let worker = workers.inbox(replica.group).clone();
        Self { lane: Lane::new(replica, limits, workers.runtime.clone(), workers.failures.clone()), worker }
    }
}

impl Replicator for Local {
    fn propose(&self, proposal: Proposal) {
        if self.lane.push(proposal) && self.worker.send(Message::Wake(Arc::clone(&self.lane))).is_err() {
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
        if self.worker.send(Message::Drain(Arc::clone(&self.lane), done)).is_ok() {
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

struct Worker {
    inbox: Receiver<Message>,
    outbox: Sender<Message>,
    applier: Applier,
    /// Lanes with something in flight, or waited for.
    lanes: HashMap<GroupId, Entry>,
    /// Lanes in which proposals wait for company, at most once each for a while.
    later: Later,
}

#[derive(Default)]
struct Entry {
    in_flight: InFlight,
    drained: Vec<Sender<()>>,
}

/// What a worker is to look at again, and when.
type Later = Vec<(Instant, Arc<Lane>)>;

impl Worker {
    fn run(mut self) {
        loop {
            // Before the next message: where there is always one, nothing would be late enough otherwise.
            self.pump_due();
            let message = match self.later.iter().map(|(until, _)| *until).min() {
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(until) => self.inbox.recv_deadline(until),
            };
            let message = match message {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match message {
                Message::Wake(lane) => self.pump(&lane),
                Message::Durable(lane, durable) => self.complete(&lane, durable),
                Message::Drain(lane, done) => {
                    self.lanes.entry(lane.replica.group).or_default().drained.push(done);
                    self.pump(&lane);
                }
                Message::Stop => return,
            }
        }
    }

    /// Looks at the lanes in which proposals have waited for company for long enough.
    fn pump_due(&mut self) {
        if self.later.is_empty() {
            return;
        }
        let now = Instant::now();
        for (_, lane) in self.later.extract_if(.., |(until, _)| *until <= now).collect::<Vec<_>>() {
            self.pump(&lane);
        }
    }

    /// Appends what has gathered; lets the lane sleep if there is nothing.
    fn pump(&mut self, lane: &Arc<Lane>) {
        let group = lane.replica.group;
        loop {
            let idle = self.inbox.is_empty();
            if let Some(until) = self.fill(lane, idle) {
                self.later.retain(|(_, other)| !Arc::ptr_eq(other, lane));
                self.later.push((until, Arc::clone(lane)));
            }
            let entry = self.lanes.entry(group).or_default();
            if entry.in_flight.may_sleep(lane) {
                let drained = std::mem::take(&mut entry.drained);
                if !drained.is_empty() {
                    self.applier.drain(drained);
                }
                self.lanes.remove(&group);
                return;
            }
            if entry.in_flight.busy() {
                return;
            }
        }
    }

    fn complete(&mut self, lane: &Arc<Lane>, durable: Result<Offset, SyncError>) {
        let entry = self.lanes.entry(lane.replica.group).or_default();
        for append in entry.in_flight.durable(lane, durable) {
            self.apply(lane, append);
        }
        self.pump(lane);
    }

    /// Appends are applied by the applier, while this thread makes the next durable; but a few records that nothing
    /// is before are not worth a switch of threads.
    fn apply(&self, lane: &Arc<Lane>, append: Append) {
        if append.len() <= FEW && lane.is_applied() {
            append.apply(lane);
        } else {
            self.applier.apply(lane, append);
        }
    }

    /// `idle` says that nothing else is waiting for this thread.
    fn fill(&mut self, lane: &Arc<Lane>, idle: bool) -> Option<Instant> {
        let outbox = self.outbox.clone();
        let told = Arc::clone(lane);
        let entry = self.lanes.entry(lane.replica.group).or_default();
        let hurried = !entry.drained.is_empty();
        entry.in_flight.fill(lane, idle, hurried, move |durable| {
            // The worker outlives its lanes' appends: it only ends after they have drained.
            drop(outbox.send(Message::Durable(Arc::clone(&told), durable)));
        })
    }
}

#[cfg(test)]
mod tests {
    use odgm_log::body::Delete;
    use odgm_log::store::{LogStore, Options};
    use odgm_log::{Body, Cause, Payload};
    use odgm_projections::ViewOptions;
    use odgm_projections::storage::{Engine, Resources};

    use super::*;
    use crate::proposal::{Gate, Reply};

    fn lane(log: &LogStore, dir: &std::path::Path, group: GroupId) -> Arc<Lane> {
        let view = View::open(&ViewOptions {
            group,
            engine: Engine::Memory,
            dir: dir.join(group.to_string()),
            snapshots: dir.join("snapshots"),
            resources: Resources::default(),
        });
        let view = view.expect("a view");
        let replica = Replica::open(group, NodeId(1), log.clone(), view, &mut |_, _| ()).expect("a replica");
        Lane::new(replica, Limits::default(), Handle::current(), watch::Sender::new(()))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waited_for_company_is_looked_at_though_other_lanes_never_rest() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = LogStore::open(&dir.path().join("log"), Options::default()).expect("a log store");
        let (patient, busy) = (lane(&log, dir.path(), GroupId(1)), lane(&log, dir.path(), GroupId(2)));
        let payload = Payload { cause: Cause::default(), body: Body::Delete(Delete { object: "o".into() }) };
        let (kind, encoded) = payload.encode().expect("it is small");
        let admission = Gate::new(Limits::default()).admit(encoded.len(), true).expect("there is room");
        let (needs_room, until, reply) = (false, None, Reply::Call(Box::new(drop)));
        let term = Some(Term(0));
        patient.push(Proposal { payload, kind, encoded, needs_room, until, term, reply, admission });

        let (outbox, inbox) = crossbeam_channel::unbounded();
        let (applier, thread) = Applier::start("appliers-test".to_owned()).expect("a thread");
        let later = vec![(Instant::now(), Arc::clone(&patient))];
        // There is a message whenever it looks, up to the one that ends it.
        outbox.send(Message::Wake(busy)).expect("it listens");
        outbox.send(Message::Stop).expect("it listens");
        Worker { inbox, outbox, applier, lanes: HashMap::new(), later }.run();
        assert_eq!(log.bounds(GroupId(1)).last, Offset(1), "its time had come");
        thread.join().expect("it ends with the worker");
    }
}
