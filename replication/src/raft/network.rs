//! How openraft reaches the other members: its calls as messages over a [`Transport`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};
use odgm_log::{GroupId, NodeId};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use super::hearing::Silence;
use super::machine::{Snapshot, SnapshotFiles};
use super::messages::{
    Request, decode_append_answer, decode_snapshot_answer, decode_transfer_answer, decode_vote_answer,
};
use super::transfers::Transfers;
use super::types::{Peer, Types, Vote};
use super::{INSTALL_TIMEOUT, PIECE_TIMEOUT, PIECES_UNDER_WAY};
use crate::encoding::invalid;
use crate::manager::blocking;
use crate::pieces::Outgoing;
use crate::transport::{Call, CallError, Class, Transport};

/// Makes connections to the members of a group.
pub(super) struct Peers {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) group: GroupId,
    pub(super) node: NodeId,
    pub(super) silence: Silence,
    pub(super) transfers: Arc<Transfers>,
}

impl Peers {
    fn connect(&self, target: u64, class: Class) -> Connection {
        Connection {
            transport: Arc::clone(&self.transport),
            group: self.group,
            node: self.node,
            to: NodeId(target),
            class,
            silence: self.silence.clone(),
            transfers: Arc::clone(&self.transfers),
        }
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _: &Peer) -> Connection {
        self.connect(target, Class::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _: &Peer) -> Connection {
        self.connect(target, Class::Urgent)
    }

    async fn new_snapshot_client(&mut self, target: u64, _: &Peer) -> Connection {
        self.connect(target, Class::Bulk)
    }
}

/// The way to one member.
pub(super) struct Connection {
    transport: Arc<dyn Transport>,
    group: GroupId,
    node: NodeId,
    to: NodeId,
    class: Class,
    silence: Silence,
    transfers: Arc<Transfers>,
}

impl Connection {
    /// Asks; the request has left, or is queued, when this returns.
    fn ask(
        &self,
        request: Request,
        class: Class,
        within: Duration,
        action: RPCTypes,
    ) -> impl Future<Output = Result<Bytes, RPCError<Types>>> + Send + use<> {
        let (to, group, id) = (self.to, self.group, self.node.0);
        let asked = request.encode(group).map(|request| {
            let call = Call { to, class, group, request, within };
            self.transport.call(call)
        });
        async move {
            let answer = asked.map_err(|error| RPCError::Network(NetworkError::new(&error)))?.await;
            answer.map_err(|error| match error {
                CallError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(&error)),
                CallError::Timeout { .. } => {
                    RPCError::Timeout(Timeout { action, id, target: to.0, timeout: within })
                }
                CallError::Refused { .. } | CallError::Closed { .. } | CallError::Restarted { .. } => {
                    RPCError::Network(NetworkError::new(&error))
                }
            })
        }
    }

    async fn ask_for_vote(
        &self,
        request: Request,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.ask(request, Class::Urgent, option.soft_ttl(), RPCTypes::Vote).await?;
        decode_vote_answer(answer).map_err(|error| unreadable(&error))
    }

    /// Sends the files of a snapshot, as far as the other side does not have them from an earlier try. Several pieces are
    /// under way at once; the other side writes them in the order in which they were sent.
    async fn send(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let failed = |error: &io::Error| StreamingError::Network(NetworkError::new(error));
        let through = snapshot.meta.last_log_id;
        let through = through.ok_or_else(|| failed(&invalid("a snapshot of nothing cannot be sent")))?;
        let dir = snapshot.snapshot.dir;
        let files = blocking(move || Outgoing::open(&dir)).await;
        let mut files = files.map_err(|error| failed(&error))?;
        let begin = Request::Snapshot { vote, through, files: files.files().to_vec() };
        let (answered, held) = self.send_part(begin, PIECE_TIMEOUT).await?;
        if answered > vote {
            return Ok(SnapshotResponse::new(answered));
        }
        files.leave_out(held).map_err(|error| failed(&error))?;
        let mut files = Some(files);
        let mut under_way = FuturesOrdered::new();
        loop {
            while under_way.len() < PIECES_UNDER_WAY
                && let Some(mut reading) = files.take()
            {
                let (next, read) = blocking(move || (reading.next(), reading)).await;
                let Some(piece) = next.map_err(|error| failed(&error))? else { break };
                files = Some(read);
                let bytes = piece.bytes.len() as u64;
                // Made here and not when it is first waited for: so pieces leave in order.
                let sent = self.send_part(Request::Piece { vote, through, piece }, PIECE_TIMEOUT);
                under_way.push_back(sent.map(move |answer| answer.map(|(answered, _)| (answered, bytes))));
            }
            let Some(answer) = under_way.next().await else { break };
            let (answered, bytes) = answer?;
            if answered > vote {
                return Ok(SnapshotResponse::new(answered));
            }
            self.transfers.sent(bytes);
        }
        let (answered, _) = self.send_part(Request::Install { vote, through }, INSTALL_TIMEOUT).await?;
        Ok(SnapshotResponse::new(answered))
    }

    fn send_part(
        &self,
        request: Request,
        within: Duration,
    ) -> impl Future<Output = Result<(Vote, Vec<u64>), StreamingError<Types>>> + Send + use<> {
        let answer = self.ask(request, Class::Bulk, within, RPCTypes::InstallSnapshot);
        async move {
            let answer = answer.await?;
            decode_snapshot_answer(answer).map_err(|error| StreamingError::Network(NetworkError::new(&error)))
        }
    }
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        if self.silence.is_kept() {
            let kept = io::Error::other("no quorum answers this leader, so it is silent");
            return Err(RPCError::Unreachable(Unreachable::new(&kept)));
        }
        let action = RPCTypes::AppendEntries;
        let answer = self.ask(Request::Append(append), self.class, option.soft_ttl(), action).await?;
        decode_append_answer(answer).map_err(|error| unreadable(&error))
    }

    async fn vote(
        &mut self,
        vote: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Request::Vote(vote), &option).await
    }

    async fn pre_vote(
        &mut self,
        vote: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Request::PreVote(vote), &option).await
    }

    async fn transfer_leader(
        &mut self,
        transfer: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let action = RPCTypes::TransferLeader;
        let answer = self.ask(Request::Transfer(transfer), Class::Urgent, option.soft_ttl(), action).await?;
        decode_transfer_answer(answer).map_err(|error| unreadable(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send(vote, snapshot) => sent,
        }
    }
}

fn unreadable(error: &io::Error) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(error))
}
