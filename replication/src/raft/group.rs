//! A member of a group: openraft with our log, our view and our network, and the way in for proposals.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use odgm_log::store::LogStore;
use odgm_log::{GroupId, NodeId, Offset, Timestamp};
use odgm_projections::View;
use openraft::error::{ClientWriteError, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use openraft::{Config, OptionalSend, Raft, ReadPolicy, SnapshotPolicy};
use tokio::sync::mpsc;

use super::PROPOSALS_AT_ONCE;
use super::incoming::Incoming;
use super::log::Log;
use super::machine::{Machine, Place};
use super::messages::{
    Request, encode_append_answer, encode_snapshot_answer, encode_transfer_answer, encode_vote_answer,
};
use super::network::Peers;
use super::types::{Command, LogId, Peer, Types, Vote, invalid, offset};
use crate::manager::blocking;
use crate::proposal::{Admission, Proposal, ProposeError, Reply};
use crate::transport::Transport;

/// How quickly members notice that one has gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) heartbeat: Duration,
    /// A follower that hears nothing for the lease, which is the longest, and a time between these two calls an election.
    pub(crate) election: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Self {
        let election = (Duration::from_millis(450), Duration::from_millis(650));
        Self { heartbeat: Duration::from_millis(150), election }
    }
}

/// This node's member of a group.
pub(crate) struct Group {
    id: GroupId,
    raft: Raft<Types, Machine>,
    machine: Machine,
    incoming: Arc<Incoming>,
    proposals: mpsc::UnboundedSender<Proposal>,
}

/// Why a read cannot be answered now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// Another node leads, or none.
    #[error("this node does not lead the group")]
    NotLeader(Option<NodeId>),
    /// No quorum answers, or the member has stopped.
    #[error("no quorum answers: {0}")]
    NoQuorum(String),
}

impl Group {
    /// Brings the member up. It takes part as soon as the group has been [initialised](Self::initialize) somewhere.
    pub(crate) async fn start(
        id: GroupId,
        node: NodeId,
        store: LogStore,
        place: Place,
        transport: Arc<dyn Transport>,
        timing: Timing,
    ) -> io::Result<Arc<Self>> {
        let incoming = Arc::new(Incoming::new(&place.snapshots));
        let (log, machine) = blocking(move || {
            let log = Log::open(store, id)?;
            let machine = Machine::open(log.clone(), place)?;
            Ok::<_, io::Error>((log, machine))
        })
        .await?;
        let config = Arc::new(config(id, timing)?);
        let peers = Peers { transport, group: id, node };
        let raft = Raft::new(node.0, config, peers, log, machine.clone()).await.map_err(io::Error::other)?;
        // Bounded by the partition's gate, through which every proposal has come.
        let (proposals, queue) = mpsc::unbounded_channel();
        tokio::spawn(propose_all(raft.clone(), node, queue));
        Ok(Arc::new(Self { id, raft, machine, incoming, proposals }))
    }

    /// Makes the group of these members, all of them voters. To be called once, on one of them.
    pub(crate) async fn initialize(&self, members: &[(NodeId, String)]) -> Result<(), String> {
        let members: BTreeMap<u64, Peer> =
            members.iter().map(|(node, address)| (node.0, Peer { address: address.clone() })).collect();
        self.raft.initialize(members).await.map_err(|error| error.to_string())
    }

    /// Takes a proposal in; it is answered when its record is applied here, or refused.
    pub(crate) fn propose(&self, proposal: Proposal) {
        if let Err(mpsc::error::SendError(proposal)) = self.proposals.send(proposal) {
            let reason = "its Raft member has stopped".to_owned();
            proposal.reply.send(Err(ProposeError::Stopped { reason }));
        }
    }

    /// Returns when the view here holds everything that was acknowledged before the call. Calls at the same time share
    /// a round of messages.
    pub(crate) async fn linearizable(&self) -> Result<Offset, ReadError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(read) => Ok(offset(read.log_id().index)),
            Err(error) => Err(match error.forward_to_leader() {
                Some(forward) => ReadError::NotLeader(forward.leader_id.map(NodeId)),
                None => ReadError::NoQuorum(error.to_string()),
            }),
        }
    }

    /// Who leads, as far as this member knows.
    pub(crate) async fn leader(&self) -> Option<NodeId> {
        self.raft.current_leader().await.map(NodeId)
    }

    /// The view as it is now.
    pub(crate) fn view(&self) -> View {
        self.machine.view()
    }

    pub(crate) fn raft(&self) -> &Raft<Types, Machine> {
        &self.raft
    }

    /// Ends the member. What was proposed and not answered is answered as unknown.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(group = %self.id, %error, "the Raft core ended by a panic");
        }
    }

    /// Answers another member.
    pub(crate) async fn answer(&self, request: Bytes) -> io::Result<Bytes> {
        let raft = &self.raft;
        Ok(match Request::decode(self.id, request)? {
            Request::Append(append) => {
                encode_append_answer(&raft.append_entries(append).await.map_err(io::Error::other)?)
            }
            Request::Vote(vote) => encode_vote_answer(&raft.vote(vote).await.map_err(io::Error::other)?),
            Request::PreVote(vote) => {
                encode_vote_answer(&raft.pre_vote(vote).await.map_err(io::Error::other)?)
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
            Request::Piece { vote, through, file, at, bytes } => {
                let incoming = Arc::clone(&self.incoming);
                blocking(move || incoming.piece(through, file, at, &bytes)).await?;
                encode_snapshot_answer(&vote, &[])
            }
            Request::Install { vote, through } => {
                encode_snapshot_answer(&self.install(vote, through).await?, &[])
            }
        })
    }

    async fn install(&self, vote: Vote, through: LogId) -> io::Result<Vote> {
        let (incoming, machine) = (Arc::clone(&self.incoming), self.machine.clone());
        let snapshot = blocking(move || machine.received(through, &incoming.finish(through)?)).await?;
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let vote = installed.map_err(io::Error::other)?.vote;
        let incoming = Arc::clone(&self.incoming);
        blocking(move || incoming.release(through)).await?;
        Ok(vote)
    }
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

/// Hands proposals to openraft in the order in which they came.
async fn propose_all(
    raft: Raft<Types, Machine>,
    origin: NodeId,
    mut queue: mpsc::UnboundedReceiver<Proposal>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, PROPOSALS_AT_ONCE).await > 0 {
        let stamp = Timestamp::now();
        for Proposal { kind, encoded, reply, admission, .. } in batch.drain(..) {
            let command = Command { stamp, origin, kind, encoded };
            // An error drops the responder, which answers by itself.
            drop(raft.client_write_ff(command, Some(answering(reply, admission))).await);
        }
    }
}

fn answering(reply: Reply, admission: Admission) -> Callback<ClientWriteResult<Types>> {
    Callback::new(move |written: Option<ClientWriteResult<Types>>| {
        drop(admission);
        reply.send(match written {
            Some(Ok(written)) => Ok(written.data),
            Some(Err(ClientWriteError::ForwardToLeader(ForwardToLeader {
                leader_id, leader_node, ..
            }))) => {
                let leader = leader_id.map(|id| (NodeId(id), leader_node.unwrap_or_default().address));
                Err(ProposeError::NotLeader { leader })
            }
            Some(Err(error)) => Err(ProposeError::Unknown { reason: error.to_string() }),
            None => Err(ProposeError::Unknown { reason: "the Raft member has stopped".to_owned() }),
        });
    })
}

/// What openraft calls with the outcome of a write; with nothing if it drops it.
pub(crate) struct Callback<T> {
    call: Option<Box<dyn FnOnce(Option<T>) + Send>>,
}

impl<T> Callback<T> {
    fn new(call: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self { call: Some(Box::new(call)) }
    }
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Callback<T> {
    fn on_complete(mut self, outcome: T) {
        if let Some(call) = self.call.take() {
            call(Some(outcome));
        }
    }
}

impl<T> Drop for Callback<T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call(None);
        }
    }
}

/// The groups of a node, by id: who answers the other nodes.
#[derive(Default)]
pub(crate) struct Groups {
    groups: parking_lot::RwLock<BTreeMap<GroupId, Arc<Group>>>,
}

impl Groups {
    pub(crate) fn add(&self, group: Arc<Group>) {
        self.groups.write().insert(group.id, group);
    }
}

impl crate::transport::Service for Groups {
    fn answer(
        &self,
        from: NodeId,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let found = self.groups.read().get(&group).cloned();
        Box::pin(async move {
            let found = found.ok_or_else(|| format!("group {group} has no member on this node"))?;
            found.answer(request).await.map_err(|error| format!("the request of node {from}: {error}"))
        })
    }
}
