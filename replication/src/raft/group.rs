//! A member of a group: openraft with our log, our view and our network, and the ways in for writes and reads.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::body;
use odgm_log::store::LogStore;
use odgm_log::{GroupId, NodeId, Offset};
use odgm_projections::View;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{Config, EntryPayload, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::beating::beat;
use super::checkpoints::{Checkpoint, Divergence};
use super::comparing::{self, encode_chain, encode_checkpoints};
use super::confirming::{Asker, Reads};
use super::filling::{self, Filler};
use super::forwarding::{Arrived, Passed, encode_answers};
use super::hearing::{Silence, listen};
use super::incoming::Incoming;
use super::log::Log;
use super::machine::{Machine, Place};
use super::messages::{
    Request, encode_append_answer, encode_confirmation, encode_snapshot_answer, encode_transfer_answer,
    encode_vote_answer,
};
use super::network::Peers;
use super::proposing::{Proposer, Write};
use super::transfers::Transfers;
use super::types::{Entry, LogId, Peer, Types, Vote, index, invalid, offset};
use super::{DRAIN_PATIENCE, HANDOVER_PATIENCE, RETRY_PAUSE, SNAPSHOT_PATIENCE};
use crate::manager::blocking;
use crate::neighbours::Neighbours;
use crate::partition::adds;
use crate::proposal::{Gate, Proposal, ProposeError, Reply};
use crate::reading::{Consistency, ReadError};
use crate::replicator::Replicator;
use crate::transport::Transport;

/// How quickly members notice that one has gone, or is not as the others are.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often a leader that has nothing to say is heard.
    pub heartbeat: Duration,
    /// A follower that hears nothing for the lease, which is the longest, and a time between these two calls an election.
    pub election: (Duration, Duration),
    /// How often replicas are compared.
    pub comparison: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let election = (Duration::from_millis(450), Duration::from_millis(650));
        Self { heartbeat: Duration::from_millis(150), election, comparison: Duration::from_secs(10) }
    }
}

/// What a member of a group is brought up with.
pub(crate) struct Member {
    /// What the partition is called on the command line.
    pub(crate) name: String,
    /// Whether the group goes on from a backup that not all members have from the beginning.
    pub(crate) restored: bool,
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) store: LogStore,
    pub(crate) place: Place,
    pub(crate) transport: Arc<dyn Transport>,
    /// What is known of the other nodes.
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) timing: Timing,
    /// Counts the writes in flight, those of other nodes included.
    pub(crate) gate: Arc<Gate>,
    /// The rules with which the log begins.
    pub(crate) rules: body::Config,
    /// Whether what only the leader can do is passed on to it.
    pub(crate) forward: bool,
    /// Told when the member fails.
    pub(crate) failures: watch::Sender<()>,
    /// What all members of the node transfer.
    pub(crate) transfers: Arc<Transfers>,
}

/// This node's member of a group.
pub(crate) struct Group {
    name: String,
    restored: bool,
    id: GroupId,
    node: NodeId,
    store: LogStore,
    transport: Arc<dyn Transport>,
    /// What is wrong between the replicas, as far as the leader has told.
    divergence: watch::Sender<Option<Divergence>>,
    raft: Raft<Types, Machine>,
    machine: Machine,
    log: Log,
    neighbours: Arc<Neighbours>,
    incoming: Arc<Incoming>,
    transfers: Arc<Transfers>,
    gate: Arc<Gate>,
    writes: mpsc::UnboundedSender<Write>,
    /// By quorum, and by lease.
    reads: [Reads; 2],
    /// What other nodes have passed on.
    arrived: Mutex<Arrived>,
    closed: Mutex<Option<ProposeError>>,
    /// Ended with the member.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    runtime: Handle,
}

impl Group {
    /// Brings the member up. It takes part as soon as the group has been [initialised](Self::initialize) somewhere.
    pub(crate) async fn start(member: Member) -> io::Result<Arc<Self>> {
        let (id, node, timing, forward) = (member.group, member.node, member.timing, member.forward);
        let (snapshots, transfers) = (member.place.snapshots.clone(), member.transfers);
        let incoming = Arc::new(Incoming::new(&snapshots, Arc::clone(&transfers)));
        let (log, machine) = open(member.store.clone(), id, member.place).await?;
        let silence = Silence::default();
        let (transport, sent) = (Arc::clone(&member.transport), Arc::clone(&transfers));
        let peers = Peers { transport, group: id, node, silence: silence.clone(), transfers: sent };
        let config = Arc::new(config(id, timing)?);
        let raft = Raft::new(node.0, config, peers, log.clone(), machine.clone());
        let raft = raft.await.map_err(io::Error::other)?;
        let mut tasks = vec![
            tokio::spawn(listen(raft.clone(), silence, timing.election.1)),
            tokio::spawn(beat(raft.clone(), timing.heartbeat)),
        ];
        let asker = Asker {
            group: id,
            node,
            raft: raft.clone(),
            transport: Arc::clone(&member.transport),
            neighbours: Arc::clone(&member.neighbours),
            forward,
            lease: false,
            visible: machine.visible().subscribe(),
            log: log.clone(),
        };
        let reads = reads(&asker, &mut tasks);
        // Bounded by the gate, through which every write has come.
        let (writes, queue) = mpsc::unbounded_channel();
        let next = AtomicU64::new(getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?);
        let proposer = Proposer {
            group: id,
            node,
            raft: raft.clone(),
            log: log.clone(),
            neighbours: Arc::clone(&member.neighbours),
            transport: Arc::clone(&member.transport),
            forward,
            rules: member.rules,
            next,
            queue: writes.downgrade(),
        };
        tasks.push(tokio::spawn(proposer.run(queue)));
        tokio::spawn(tell_failure(machine.failure(), member.failures));
        let group = Arc::new(Self {
            name: member.name,
            restored: member.restored,
            id,
            node,
            store: member.store,
            transport: member.transport,
            divergence: watch::Sender::new(None),
            raft,
            machine,
            log,
            neighbours: member.neighbours,
            incoming,
            transfers,
            gate: member.gate,
            writes,
            reads,
            arrived: Mutex::default(),
            closed: Mutex::default(),
            tasks: Mutex::new(tasks),
            runtime: Handle::current(),
        });
        group.keep(tokio::spawn(comparing::run(Arc::downgrade(&group), timing.comparison)));
        group.keep(tokio::spawn(group.filler(snapshots).run()));
        Ok(group)
    }

    fn filler(&self, snapshots: PathBuf) -> Filler {
        let (raft, machine, store) = (self.raft.clone(), self.machine.clone(), self.store.clone());
        let (group, node, transfers) = (self.id, self.node, Arc::clone(&self.transfers));
        let transport = Arc::clone(&self.transport);
        Filler { group, node, raft, machine, store, transport, transfers, snapshots }
    }

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

    /// The members as this one knows them.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        members_of(&self.raft)
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

    pub(crate) fn raft(&self) -> &Raft<Types, Machine> {
        &self.raft
    }

    /// Lets another member lead, if this one does; returns when one does or nobody wants to.
    pub(crate) async fn hand_over(&self) {
        let others = self.members().into_iter().filter(|other| *other != self.node).collect();
        self.hand_over_to(others).await;
    }

    /// Lets a member lead that is fit for it, if this one leads, is not, and there is one that is.
    pub(crate) async fn give_way(&self) {
        let is_full = self.log.store().is_low_on_space();
        if self.leader() != Some(self.node) || !(is_full || self.neighbours.has_worries()) {
            return;
        }
        let members = self.members();
        let clock = self.neighbours.clock(&members);
        let fit = self.neighbours.fit(&members);
        if (is_full || clock.is_err()) && !fit.is_empty() {
            let reason =
                clock.err().map_or_else(|| "its disk is nearly full".to_owned(), |clock| clock.to_string());
            tracing::warn!(group = %self.id, reason, "this node gives the lead to another one");
            self.hand_over_to(fit).await;
        }
    }

    async fn hand_over_to(&self, others: Vec<NodeId>) {
        if self.leader() != Some(self.node) {
            return;
        }
        let since = Instant::now();
        for other in others.into_iter().cycle() {
            if since.elapsed() > HANDOVER_PATIENCE
                || self.raft.trigger().transfer_leader(other.0).await.is_err()
            {
                return;
            }
            let mut metrics = self.raft.server_metrics();
            let taken = async {
                while metrics.borrow_and_update().current_leader == Some(self.node.0) {
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
            };
            if tokio::time::timeout(HANDOVER_PATIENCE / 4, taken).await.is_ok() {
                return;
            }
        }
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

    /// Answers another member. Writes are taken in before this returns, so that they stay in order.
    pub(crate) fn answer(
        self: &Arc<Self>,
        from: NodeId,
        request: Bytes,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        match Request::decode(self.id, request) {
            Err(error) => std::future::ready(Err(error)).boxed(),
            // The answer to its first arrival answers it.
            Ok(Request::Propose { id, .. }) if !self.arrived.lock().is_new(from, id) => {
                std::future::pending().boxed()
            }
            Ok(Request::Propose { writes, .. }) => self.take_in(writes).map(Ok).boxed(),
            Ok(Request::Piece { vote, through, piece }) => {
                let written = self.incoming.write(through, piece);
                written.map(move |written| written.map(|()| encode_snapshot_answer(&vote, &[]))).boxed()
            }
            Ok(request) => {
                let group = Arc::clone(self);
                async move { group.answer_member(request).await }.boxed()
            }
        }
    }

    /// Takes writes in that another node has passed on; answers all when the last is answered.
    fn take_in(&self, writes: Vec<Passed>) -> impl Future<Output = Bytes> + Send + use<> {
        let answers: Vec<_> = writes
            .into_iter()
            .map(|write| {
                let (sender, answer) = oneshot::channel();
                let reply = Reply::Channel(sender);
                match self.gate.admit(write.encoded.len()) {
                    Ok(admission) => self.enter(Write::passed(write, reply, admission)),
                    Err(error) => reply.send(Err(error)),
                }
                answer
            })
            .collect();
        async move {
            let mut answered = Vec::with_capacity(answers.len());
            for answer in answers {
                let lost = || ProposeError::Unknown { reason: "the leader has stopped".to_owned() };
                answered.push(answer.await.unwrap_or_else(|_| Err(lost())));
            }
            encode_answers(&answered)
        }
    }

    fn enter(&self, write: Write) {
        let closed = self.closed.lock().clone();
        if let Some(error) = closed {
            write.answer(Err(error));
        } else if let Err(mpsc::error::SendError(write)) = self.writes.send(write) {
            let reason = "its Raft member has stopped".to_owned();
            write.answer(Err(ProposeError::Stopped { reason }));
        }
    }

    /// A member that holds nothing of a log that there is has lost its disk, or has not been brought up to date. It would
    /// make a quorum with members that miss what it had: so it votes only where the log begins. A restored log begins
    /// with a backup that only one of them has; there, that a node with a new disk is not admitted has to do.
    fn require_memory(&self, vote: &VoteRequest<Types>) -> io::Result<()> {
        let candidate = vote.last_log_id.map_or(0, |last| last.index);
        if candidate == 0 || self.restored || self.log.store().bounds(self.id).last > Offset::ZERO {
            return Ok(());
        }
        Err(io::Error::other(
            "this member holds nothing of the log, so it does not vote before a leader has filled it",
        ))
    }

    /// Stores nothing more that can wait when there is hardly any room left: so the node lives on, and what frees space
    /// still has some.
    fn require_room(&self, append: &AppendEntriesRequest<Types>) -> io::Result<()> {
        let adds = |entry: &Entry| match &entry.payload {
            EntryPayload::Normal(command) => self.id != GroupId::CATALOGUE && adds(command.kind.body_type),
            _ => false,
        };
        let space = self.log.store().space();
        if space.is_critical() && append.entries.iter().any(adds) {
            let (free, reserve) = (space.free, space.reserve);
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("only {free} bytes are free where the log is, and {reserve} are kept in reserve"),
            ));
        }
        Ok(())
    }

    async fn answer_member(&self, request: Request) -> io::Result<Bytes> {
        let raft = &self.raft;
        match &request {
            Request::Append(append) => self.require_room(append)?,
            Request::Vote(vote) | Request::PreVote(vote) => self.require_memory(vote)?,
            _ => {}
        }
        Ok(match request {
            Request::Append(append) => {
                encode_append_answer(&raft.append_entries(append).await.map_err(io::Error::other)?)
            }
            Request::Vote(vote) => encode_vote_answer(&raft.vote(vote).await.map_err(io::Error::other)?),
            Request::PreVote(vote) => {
                encode_vote_answer(&raft.pre_vote(vote).await.map_err(io::Error::other)?)
            }
            Request::Transfer(_) if self.is_odd().is_some() => {
                return Err(invalid("this replica is not as the others are, so it does not lead"));
            }
            Request::Transfer(transfer) => {
                let answer = raft.handle_transfer_leader(transfer).await.map_err(io::Error::other)?;
                encode_transfer_answer(&answer)
            }
            Request::Snapshot { vote, through, files } => {
                let incoming = Arc::clone(&self.incoming);
                let held = blocking(move || incoming.begin(through, files)).await?;
                encode_snapshot_answer(&vote, &held)
            }
            Request::Install { vote, through } => {
                encode_snapshot_answer(&self.install(vote, through).await?, &[])
            }
            Request::Confirm { lease } => encode_confirmation(&self.confirm_for_another(lease).await),
            Request::Compare { since, verdict } => {
                self.learn(&verdict);
                encode_checkpoints(&self.checkpoints(since))
            }
            Request::Chain { at } => encode_chain(self.chain_at(at).await),
            Request::Links { .. }
            | Request::Records { .. }
            | Request::Base { .. }
            | Request::BasePiece { .. } => {
                let (machine, store, id) = (self.machine.clone(), self.store.clone(), self.id);
                blocking(move || filling::answer(&request, &machine, &store, id)).await?
            }
            Request::Propose { .. } | Request::Piece { .. } => {
                return Err(invalid("what has an order is taken in elsewhere"));
            }
        })
    }

    /// A follower's read: only a leader confirms it.
    async fn confirm_for_another(&self, lease: bool) -> Result<Offset, ReadError> {
        if self.leader() != Some(self.node) {
            return Err(ReadError::NoLeader);
        }
        self.reads[usize::from(lease)].confirm().await
    }

    async fn install(&self, vote: Vote, through: LogId) -> io::Result<Vote> {
        let (incoming, machine) = (Arc::clone(&self.incoming), self.machine.clone());
        let snapshot = blocking(move || machine.received(through, &incoming.finish(through)?)).await?;
        let dir = snapshot.snapshot.dir.clone();
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let vote = installed.map_err(io::Error::other)?.vote;
        self.transfers.installed();
        let incoming = Arc::clone(&self.incoming);
        blocking(move || incoming.release(through, &dir)).await?;
        Ok(vote)
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

    fn leader(&self) -> Option<NodeId> {
        Group::leader(self)
    }

    fn trouble(&self) -> Option<String> {
        self.neighbours.quorum(&self.members()).err().map(|silent| silent.to_string())
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

/// The voters of a group as this member knows them.
pub(super) fn members_of(raft: &Raft<Types, Machine>) -> Vec<NodeId> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.voter_ids().map(NodeId).collect()
}

/// The reads by quorum, and those by lease.
fn reads(asker: &Asker, tasks: &mut Vec<JoinHandle<()>>) -> [Reads; 2] {
    [false, true].map(|lease| {
        let (reads, task) = Reads::start(Asker { lease, ..asker.clone() });
        tasks.push(task);
        reads
    })
}

/// Opens the log and the view of a member.
async fn open(store: LogStore, id: GroupId, place: Place) -> io::Result<(Log, Machine)> {
    blocking(move || {
        let log = Log::open(store, id)?;
        let machine = Machine::open(log.clone(), place)?;
        Ok((log, machine))
    })
    .await
}

/// Tells when a member has failed.
async fn tell_failure(mut failure: watch::Receiver<Option<String>>, failures: watch::Sender<()>) {
    // An error says that the member has gone, and not failed.
    if failure.wait_for(Option::is_some).await.is_ok() {
        failures.send_replace(());
    }
}

/// Who leads, once that is known; nobody if it is not in time.
pub(super) async fn leader_by(raft: &Raft<Types, Machine>, deadline: Instant) -> Option<NodeId> {
    let mut metrics = raft.server_metrics();
    let known = async {
        loop {
            let leader = metrics.borrow_and_update().current_leader;
            if leader.is_some() || metrics.changed().await.is_err() {
                return leader.map(NodeId);
            }
        }
    };
    tokio::time::timeout_at(deadline.into(), known).await.ok().flatten()
}

fn config(id: GroupId, timing: Timing) -> io::Result<Config> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: format!("group {id}"),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election.0),
        election_timeout_max: millis(timing.election.1),
        enable_pre_vote: Some(true),
        // A leader that comes back asks for votes again: what it knew to be committed is not kept.
        enable_leader_restore: Some(false),
        // Snapshots and purging are ours to ask for.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    };
    config.validate().map_err(invalid)
}
