//! A worker: a thread that appends what is proposed to its lanes, has it synced and applied; and whoever stands in for it.
//!
//! One who writes alone would wait for two switches of threads with each write: to the worker, and back. So where writes
//! have come one by one lately and the disk is quick, whoever proposes does for that one write what the thread would do,
//! unless that is at work. It is a thread of the runtime, and one that waits for the disk serves nobody else meanwhile: so
//! of a node at most one is away for that, and wakes another one before, which looks after sockets and timers.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use odgm_log::store::SyncError;
use odgm_log::{GroupId, Offset};
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::applier::Applier;
use super::lane::{Append, FEW, InFlight, Lane};
use crate::limits::{ALONE, QUICK};
use crate::proposal::ProposeError;

pub(super) enum Message {
    /// Proposals are waiting.
    Wake(Arc<Lane>),
    /// An append has been synced, or never will be.
    Durable(Arc<Lane>, Result<Offset, SyncError>),
    /// Say when nothing is queued or in flight.
    Drain(Arc<Lane>, Sender<()>),
    /// End the thread.
    Stop,
}

/// The thread.
pub(super) struct Worker {
    inbox: Receiver<Message>,
    desk: Arc<Desk>,
}

/// What the thread shares with those who propose.
pub(super) struct Desk {
    outbox: Sender<Message>,
    work: Mutex<Work>,
    stand_ins: StandIns,
}

/// Who stands in for the workers of a node: nobody, or one.
#[derive(Clone)]
pub(super) struct StandIns {
    runtime: Handle,
    /// Whether there is one; none where there may not be.
    taken: Option<Arc<AtomicBool>>,
}

/// What is done for the lanes of a worker, by whoever has it locked.
struct Work {
    applier: Applier,
    /// Lanes with something in flight, or waited for.
    lanes: HashMap<GroupId, Entry>,
    /// Lanes in which proposals wait for company, at most once each for a while.
    later: Vec<(Instant, Arc<Lane>)>,
    /// How many appends in a row were of one who writes, and quick where they were synced at once.
    alone: u32,
    /// Whether the thread is there.
    is_served: bool,
}

#[derive(Default)]
struct Entry {
    in_flight: InFlight,
    drained: Vec<Sender<()>>,
}

impl StandIns {
    /// Those that a runtime has room for.
    pub(super) fn of(runtime: &Handle) -> Self {
        let has_others =
            runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().num_workers() > 1;
        Self { runtime: runtime.clone(), taken: has_others.then(Arc::default) }
    }

    /// Becomes the one, until what this answers is dropped.
    fn enter(&self) -> Option<StandIn<'_>> {
        let taken = self.taken.as_deref()?;
        (!taken.swap(true, Ordering::AcqRel)).then_some(StandIn(taken))
    }

    /// Wakes another thread of the runtime. It finds nothing to do, and waits for sockets and timers in place of this one.
    fn wake_another(&self) {
        drop(self.runtime.spawn(std::future::ready(())));
    }
}

struct StandIn<'a>(&'a AtomicBool);

impl Drop for StandIn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Worker {
    pub(super) fn new(applier: Applier, stand_ins: StandIns) -> (Self, Arc<Desk>) {
        let (outbox, inbox) = crossbeam_channel::unbounded();
        let (lanes, later) = (HashMap::new(), Vec::new());
        let work = Work { applier, lanes, later, alone: 0, is_served: true };
        let desk = Arc::new(Desk { outbox, work: Mutex::new(work), stand_ins });
        (Self { inbox, desk: Arc::clone(&desk) }, desk)
    }

    pub(super) fn run(self) {
        let _end = End(&self.desk);
        loop {
            // Before the next message: where there is always one, nothing would be late enough otherwise.
            let until = self.desk.work.lock().pump_due(&self.desk);
            let message = match until {
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(until) => self.inbox.recv_deadline(until),
            };
            let message = match message {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut work = self.desk.work.lock();
            match message {
                Message::Wake(lane) => work.pump(&self.desk, &lane),
                Message::Durable(lane, durable) => {
                    work.complete(&lane, durable);
                    work.pump(&self.desk, &lane);
                }
                Message::Drain(lane, done) => {
                    work.lanes.entry(lane.replica.group).or_default().drained.push(done);
                    work.pump(&self.desk, &lane);
                }
                Message::Stop => return,
            }
        }
    }
}

/// What has to be done when the thread ends, by a panic too: those who propose keep the desk.
struct End<'a>(&'a Desk);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut work = self.0.work.lock();
        work.is_served = false;
        work.later.clear();
        // Whoever waits for what was in flight is told so by this.
        work.lanes.clear();
        work.applier.stop();
    }
}

impl Desk {
    /// Tells the thread. Whether there is one still.
    pub(super) fn tell(&self, message: Message) -> bool {
        self.outbox.send(message).is_ok()
    }

    /// Does in the thread's place what has been proposed to a lane, or the first of it. Whether the thread need not be told.
    pub(super) fn stand_in(self: &Arc<Self>, lane: &Arc<Lane>) -> bool {
        let Some(mut work) = self.work.try_lock() else { return false };
        if !work.is_served || work.alone < ALONE || !self.outbox.is_empty() {
            return false;
        }
        let Some(_stand_in) = self.stand_ins.enter() else { return false };
        self.stand_ins.wake_another();
        catch_unwind(AssertUnwindSafe(|| work.serve(self, lane))).unwrap_or_else(|_| {
            // As when the thread panics, but for the other lanes.
            work.lanes.remove(&lane.replica.group);
            lane.fail(&ProposeError::Stopped {
                reason: "appending to it panicked: this is a bug".to_owned(),
            });
            true
        })
    }
}

impl Work {
    /// Looks at the lanes in which proposals have waited for company for long enough. When the next ones have.
    fn pump_due(&mut self, desk: &Arc<Desk>) -> Option<Instant> {
        if self.later.is_empty() {
            return None;
        }
        let now = Instant::now();
        while let Some(at) = self.later.iter().position(|(until, _)| *until <= now) {
            let (_, lane) = self.later.swap_remove(at);
            self.pump(desk, &lane);
        }
        self.later.iter().map(|(until, _)| *until).min()
    }

    /// Appends what has gathered; lets the lane sleep if there is nothing.
    fn pump(&mut self, desk: &Arc<Desk>, lane: &Arc<Lane>) {
        let group = lane.replica.group;
        loop {
            let idle = desk.outbox.is_empty() && !self.is_due();
            if let Some(durable) = self.fill(desk, lane, idle) {
                self.complete(lane, durable);
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

    /// Whether the time of some that waited for company has come.
    fn is_due(&self) -> bool {
        !self.later.is_empty() && {
            let now = Instant::now();
            self.later.iter().any(|(until, _)| *until <= now)
        }
    }

    /// The same for one append. Whether the thread has nothing to do for the lane.
    fn serve(&mut self, desk: &Arc<Desk>, lane: &Arc<Lane>) -> bool {
        if let Some(durable) = self.fill(desk, lane, true) {
            self.complete(lane, durable);
        }
        let group = lane.replica.group;
        let entry = self.lanes.entry(group).or_default();
        if entry.in_flight.busy() {
            // The thread is told when it is durable.
            return true;
        }
        // It does not know how long it may sleep if some have begun to wait for company here.
        let is_later = self.later.iter().any(|(_, later)| Arc::ptr_eq(later, lane));
        if is_later || !entry.drained.is_empty() || !entry.in_flight.may_sleep(lane) {
            return false;
        }
        self.lanes.remove(&group);
        true
    }

    fn complete(&mut self, lane: &Arc<Lane>, durable: Result<Offset, SyncError>) {
        let entry = self.lanes.entry(lane.replica.group).or_default();
        for append in entry.in_flight.durable(lane, durable) {
            self.alone = if append.is_of_one() { self.alone.saturating_add(1) } else { 0 };
            self.apply(lane, append);
        }
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

    /// Appends, and syncs at once if it is to and nobody else does. What came of the sync, if it is over.
    fn fill(&mut self, desk: &Arc<Desk>, lane: &Arc<Lane>, idle: bool) -> Option<Result<Offset, SyncError>> {
        let begun = Instant::now();
        let handoff = Handoff::default();
        let (told, here, outbox) = (Arc::clone(lane), handoff.clone(), desk.outbox.clone());
        let entry = self.lanes.entry(lane.replica.group).or_default();
        let hurried = !entry.drained.is_empty();
        let later = entry.in_flight.fill(lane, idle, hurried, move |durable| {
            if let Some(durable) = here.put(durable) {
                // The worker outlives its lanes' appends: it only ends after they have drained.
                drop(outbox.send(Message::Durable(Arc::clone(&told), durable)));
            }
        });
        if let Some(until) = later {
            self.later.retain(|(_, other)| !Arc::ptr_eq(other, lane));
            self.later.push((until, Arc::clone(lane)));
        }
        let durable = handoff.take();
        if durable.is_some() && begun.elapsed() > QUICK {
            // It has to prove again that it is quick.
            self.alone = 0;
        }
        durable
    }
}

/// What came of a sync: for whoever asked for it, if it is there when that looks; from then on it is told to the worker.
#[derive(Clone, Default)]
struct Handoff(Arc<Mutex<Slot>>);

#[derive(Default)]
enum Slot {
    #[default]
    Open,
    Known(Result<Offset, SyncError>),
    Left,
}

impl Handoff {
    /// Leaves it; gives it back if nobody looks any more.
    fn put(&self, durable: Result<Offset, SyncError>) -> Option<Result<Offset, SyncError>> {
        let mut slot = self.0.lock();
        if matches!(*slot, Slot::Left) {
            return Some(durable);
        }
        *slot = Slot::Known(durable);
        None
    }

    /// Looks, for the only time.
    fn take(&self) -> Option<Result<Offset, SyncError>> {
        match std::mem::replace(&mut *self.0.lock(), Slot::Left) {
            Slot::Known(durable) => Some(durable),
            Slot::Open | Slot::Left => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use odgm_log::body::Delete;
    use odgm_log::store::{LogStore, Options};
    use odgm_log::{Body, Cause, NodeId, Payload, Term};
    use odgm_projections::storage::{Engine, Resources};
    use odgm_projections::{View, ViewOptions};
    use tokio::sync::{oneshot, watch};

    use super::*;
    use crate::limits::Limits;
    use crate::proposal::{Answer, Gate, Proposal, Reply};
    use crate::replica::Replica;

    fn lane(log: &LogStore, dir: &Path, group: GroupId) -> Arc<Lane> {
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

    fn propose(lane: &Lane, term: Option<Term>) -> oneshot::Receiver<Answer> {
        let payload = Payload { cause: Cause::default(), body: Body::Delete(Delete { object: "o".into() }) };
        let (kind, encoded) = payload.encode().expect("it is small");
        let admission = Gate::new(Limits::default()).admit(encoded.len(), true).expect("there is room");
        let (sender, answer) = oneshot::channel();
        let (needs_room, until, reply) = (false, None, Reply::Channel(sender));
        lane.push(Proposal { payload, kind, encoded, needs_room, until, term, reply, admission });
        answer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waited_for_company_is_looked_at_though_other_lanes_never_rest() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = LogStore::open(&dir.path().join("log"), Options::default()).expect("a log store");
        let (patient, busy) = (lane(&log, dir.path(), GroupId(1)), lane(&log, dir.path(), GroupId(2)));
        let _answer = propose(&patient, Some(Term(0)));
        let (applier, thread) = Applier::start("appliers-test".to_owned()).expect("a thread");
        let (worker, desk) = Worker::new(applier, StandIns::of(&Handle::current()));
        desk.work.lock().later.push((Instant::now(), Arc::clone(&patient)));
        // There is a message whenever it looks, up to the one that ends it.
        assert!(desk.tell(Message::Wake(busy)) && desk.tell(Message::Stop), "it listens");
        worker.run();
        assert_eq!(log.bounds(GroupId(1)).last, Offset(1), "its time had come");
        thread.join().expect("it ends with the worker, though the desk is kept");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_who_writes_alone_has_written_when_the_proposal_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = LogStore::open(&dir.path().join("log"), Options::default()).expect("a log store");
        let lane = lane(&log, dir.path(), GroupId(1));
        let (applier, thread) = Applier::start("appliers-test".to_owned()).expect("a thread");
        let stand_ins = StandIns::of(&Handle::current());
        let (worker, desk) = Worker::new(applier, stand_ins.clone());

        let mut answer = propose(&lane, None);
        assert!(!desk.stand_in(&lane), "it is not known yet how quick the disk is, nor who else writes");
        desk.work.lock().alone = ALONE;
        let somebody = stand_ins.enter();
        assert!(!desk.stand_in(&lane), "there is one already, for another worker perhaps");
        drop(somebody);
        assert!(desk.tell(Message::Wake(Arc::clone(&lane))));
        assert!(!desk.stand_in(&lane), "the thread has something to do");
        assert!(answer.try_recv().is_err());

        let working = std::thread::spawn(move || worker.run());
        answer.await.expect("answered").expect("written");
        let stand_in = || {
            desk.work.lock().alone = ALONE;
            desk.stand_in(&lane)
        };
        let mut answer = propose(&lane, None);
        // The thread may be about to rest still, or have taken it.
        while !stand_in() {
            std::thread::yield_now();
        }
        let written = answer.try_recv().expect("answered by now").expect("written");
        assert_eq!((written.offset, log.bounds(GroupId(1)).durable), (Offset(2), Offset(2)));
        assert!(desk.work.lock().lanes.is_empty(), "it is asleep, and the next proposal tells somebody");

        let _answer = propose(&lane, Some(Term(0)));
        assert!(!stand_in(), "the thread has to know how long what nobody waits for waits for company");
        assert!(desk.tell(Message::Stop));
        working.join().expect("it ends");
        thread.join().expect("and the applier with it, though the desk is kept");
        let _answer = propose(&lane, None);
        assert!(!stand_in(), "nobody would do what it leaves");
    }
}
