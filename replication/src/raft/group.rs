//! A member of a group: openraft with our log, our view and our network, and the ways in for writes and reads.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::body::Config;
use odgm_log::store::LogStore;
use odgm_log::{GroupId, NodeId, Offset, Term};
use odgm_projections::{SEMANTICS, View};
use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::checkpoints::{Checkpoint, Divergence};
use super::confirming::Reads;
use super::fencing::Fence;
use super::forwarding::Arrived;
use super::incoming::Incoming;
use super::leading::members_of;
use super::log::Log;
use super::machine::Machine;
use super::proposing::Write;
use super::transfers::Transfers;
use super::types::{LogId, Peer, Types, index, offset};
use super::{DRAIN_PATIENCE, RETRY_PAUSE, SNAPSHOT_PATIENCE};
use crate::feed::Feeder;
use crate::neighbours::Neighbours;
use crate::proposal::{Gate, Proposal, ProposeError};
use crate::reading::{Consistency, ReadError};
use crate::replicator::Replicator;
use crate::transport::Transport;

/// This node's member of a group.
pub(crate) struct Group {
    pub(super) name: String,
    pub(super) restored: bool,
    /// Whether it may make the group.
    pub(super) founds: bool,
    pub(super) id: GroupId,
    pub(super) node: NodeId,
    pub(super) store: LogStore,
    pub(super) transport: Arc<dyn Transport>,
    /// What is wrong between the replicas, as far as the leader has told.
    pub(super) divergence: watch::Sender<Option<Divergence>>,
    pub(super) raft: Raft<Types, Machine>,
    pub(super) machine: Machine,
    pub(super) log: Log,
    /// The rules with which its log begins.
    pub(super) rules: Config,
    pub(super) neighbours: Arc<Neighbours>,
    pub(super) incoming: Arc<Incoming>,
    pub(super) transfers: Arc<Transfers>,
    pub(super) fence: Fence,
    pub(super) gate: Arc<Gate>,
    pub(super) writes: mpsc::UnboundedSender<Write>,
    /// By quorum, and by lease.
    pub(super) reads: [Reads; 2],
    /// What other nodes have passed on.
    pub(super) arrived: Mutex<Arrived>,
    pub(super) closed: Mutex<Option<ProposeError>>,
    /// Ended with the member.
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
    pub(super) runtime: Handle,
}

impl Group {
    /// Keeps a task that is to end with the member.
    pub(crate) fn keep(&self, task: JoinHandle<()>) {
        self.tasks.lock().push(task);
    }

    pub(crate) fn id(&self) -> GroupId {
        self.id
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn store(&self) -> &LogStore {
        &self.store
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    pub(super) fn told(&self) -> &watch::Sender<Option<Divergence>> {
        &self.divergence
    }

    pub(super) fn checkpoints(&self, since: Offset) -> Vec<Checkpoint> {
        self.machine.checkpoints(since)
    }

    /// Makes the group of these members, all of them voters, unless it has been made. Safe on several of them, as long as
    /// all say the same members.
    pub(crate) async fn initialize(&self, members: &[NodeId]) -> Result<(), String> {
        if self.is_initialized().await? {
            return Ok(());
        }
        let members: BTreeMap<u64, Peer> = members.iter().map(|node| (node.0, Peer)).collect();
        match self.raft.initialize(members).await {
            Ok(()) => Ok(()),
            // Another one has done it in the meantime, and told this one.
            Err(_) if self.is_initialized().await? => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Calls an election at once: nobody else is there to wait for.
    pub(crate) async fn campaign(&self) {
        if let Err(error) = self.raft.trigger().elect(true).await {
            tracing::warn!(group = %self.id, %error, "the only member does not campaign");
        }
    }

    /// Whether the group has members, as far as this one has heard.
    pub(crate) async fn is_initialized(&self) -> Result<bool, String> {
        self.raft.is_initialized().await.map_err(|error| error.to_string())
    }

    /// Who leads, as far as this member knows.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.raft.server_metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// Returns when the view here holds everything that was acknowledged before the call.
    #[cfg(test)]
    pub(crate) async fn linearizable(&self) -> Result<Offset, ReadError> {
        self.reads[0].confirm().await
    }

    pub(super) fn raft(&self) -> &Raft<Types, Machine> {
        &self.raft
    }

    pub(super) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The term in which this member leads, once a quorum has confirmed that it does.
    pub(super) async fn leading_term(&self) -> Result<u64, ReadError> {
        let term = || {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_leader == Some(self.node.0)).then_some(metrics.current_term)
        };
        let before = term().ok_or(ReadError::NoLeader)?;
        self.reads[0].confirm().await?;
        // It may have been deposed and elected again; the confirmation can be of either term then.
        term().filter(|after| *after == before).ok_or(ReadError::NoLeader)
    }

    /// Ends the member. What was proposed and not answered is answered as unknown.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(group = %self.id, %error, "the Raft core ended by a panic");
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            // An error says that it was ended, as it should be.
            drop(task.await);
        }
    }

    /// Takes a snapshot that Raft knows of, too: it may be sent to a member that has been away.
    async fn take_snapshot(&self) -> io::Result<Offset> {
        let mut metrics = self.raft.data_metrics();
        let at = self.machine.view().header().applied;
        let taken =
            |snapshot: Option<LogId>| snapshot.map(|id| offset(id.index)).filter(|taken| *taken >= at);
        if let Some(taken) = taken(metrics.borrow_watched().snapshot) {
            return Ok(taken);
        }
        self.raft.trigger().snapshot().await.map_err(io::Error::other)?;
        let found = async {
            loop {
                if let Some(taken) = taken(metrics.borrow_and_update().snapshot) {
                    return Ok(taken);
                }
                metrics.changed().await.map_err(|_| io::Error::other("the member has stopped"))?;
            }
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the snapshot takes too long");
        tokio::time::timeout(SNAPSHOT_PATIENCE, found).await.map_err(|_| late())?
    }

    pub(super) fn enter(&self, write: Write) {
        let closed = self.closed.lock().clone();
        if let Some(error) = closed {
            write.answer(Err(error));
        } else if let Err(mpsc::error::SendError(write)) = self.writes.send(write) {
            let reason = "its Raft member has stopped".to_owned();
            write.answer(Err(ProposeError::Stopped { reason }));
        }
    }
}

impl Replicator for Arc<Group> {
    fn propose(&self, proposal: Proposal) {
        self.enter(Write::new(proposal));
    }

    fn confirm(&self, consistency: Consistency) -> Option<BoxFuture<'_, Result<(), ReadError>>> {
        if let Some(divergence) = self.is_odd() {
            let refused = ReadError::Diverged { reason: divergence.to_string() };
            return Some(std::future::ready(Err(refused)).boxed());
        }
        let by_lease = match consistency {
            Consistency::Linearizable => false,
            Consistency::Lease => true,
            Consistency::Local => return None,
        };
        let reads = &self.reads[usize::from(by_lease)];
        Some(reads.confirm().map(|confirmed| confirmed.map(drop)).boxed())
    }

    fn view(&self) -> View {
        self.machine.view()
    }

    fn visible(&self) -> &watch::Sender<Offset> {
        self.machine.visible()
    }

    fn snapshot(&self) -> io::Result<Offset> {
        self.runtime.block_on(self.take_snapshot())
    }

    fn release(&self, below: Offset) -> io::Result<Offset> {
        let Some(last) = index(below.previous()) else { return Ok(Offset(1)) };
        let purged =
            self.raft.data_metrics().borrow_watched().purged.map_or(Offset::ZERO, |id| offset(id.index));
        if purged < below.previous() {
            // Done in the background; the next round finds it done.
            self.runtime.block_on(self.raft.trigger().purge_log(last)).map_err(io::Error::other)?;
        }
        Ok(purged.next().min(below))
    }

    fn feeder(&self) -> &Arc<Feeder> {
        self.machine.feeder()
    }

    fn lead(&self) -> BoxFuture<'_, Result<Term, ReadError>> {
        Group::lead(self).boxed()
    }

    fn deposed(&self, term: Term) -> BoxFuture<'_, ()> {
        Group::deposed(self, term).boxed()
    }

    fn leader(&self) -> Option<NodeId> {
        Group::leader(self)
    }

    fn trouble(&self) -> Option<String> {
        self.neighbours.quorum(&members_of(&self.raft)).err().map(|silent| silent.to_string())
    }

    fn cannot_begin(&self) -> Option<String> {
        self.neighbours.may_begin(SEMANTICS, &members_of(&self.raft)).err().map(|old| old.to_string())
    }

    fn divergence(&self) -> Option<Divergence> {
        self.divergence.borrow().clone()
    }

    fn stop(&self, reason: &str) {
        self.closed.lock().get_or_insert(ProposeError::Stopped { reason: reason.to_owned() });
        let since = Instant::now();
        while self.gate.in_flight() > 0 && since.elapsed() < DRAIN_PATIENCE {
            std::thread::sleep(RETRY_PAUSE);
        }
        self.runtime.block_on(self.shutdown());
    }

    fn failure(&self) -> Option<ProposeError> {
        let failed = self.machine.failure().borrow().clone().map(|reason| ProposeError::Stopped { reason });
        failed.or_else(|| self.closed.lock().clone())
    }

    fn has_failed(&self) -> bool {
        self.machine.failure().borrow().is_some()
    }
}
