//! How openraft reaches the other members: its calls as messages over a [`Transport`].

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odgm_log::{GroupId, Hash, NodeId};
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
    File, Request, decode_append_answer, decode_snapshot_answer, decode_transfer_answer, decode_vote_answer,
};
use super::types::{Peer, Types, Vote, invalid};
use super::{PIECE_BYTES, PIECE_TIMEOUT};
use crate::manager::blocking;
use crate::transport::{Call, CallError, Class, Transport};

/// Makes connections to the members of a group.
pub(super) struct Peers {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) group: GroupId,
    pub(super) node: NodeId,
    pub(super) silence: Silence,
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
}

impl Connection {
    async fn ask(
        &self,
        request: Request,
        class: Class,
        within: Duration,
        action: RPCTypes,
    ) -> Result<Bytes, RPCError<Types>> {
        let request =
            request.encode(self.group).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let (to, group) = (self.to, self.group);
        let answer = self.transport.call(Call { to, class, group, request, within }).await;
        answer.map_err(|error| match error {
            CallError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(&error)),
            CallError::Timeout { .. } => {
                RPCError::Timeout(Timeout { action, id: self.node.0, target: to.0, timeout: within })
            }
            CallError::Refused { .. } | CallError::Closed { .. } => {
                RPCError::Network(NetworkError::new(&error))
            }
        })
    }

    async fn ask_for_vote(
        &self,
        request: Request,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.ask(request, Class::Urgent, option.soft_ttl(), RPCTypes::Vote).await?;
        decode_vote_answer(answer).map_err(|error| unreadable(&error))
    }

    /// Sends the files of a snapshot, as far as the other side does not have them from an earlier try.
    async fn send(
        &self,
        vote: Vote,
        snapshot: Snapshot,
        within: Duration,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let failed = |error: &io::Error| StreamingError::Network(NetworkError::new(error));
        let through = snapshot.meta.last_log_id;
        let through = through.ok_or_else(|| failed(&invalid("a snapshot of nothing cannot be sent")))?;
        let dir = Arc::new(snapshot.snapshot);
        let files = {
            let dir = Arc::clone(&dir);
            blocking(move || list(&dir.dir)).await.map_err(|error| failed(&error))?
        };
        let begin = Request::Snapshot { vote, through, files: files.clone() };
        let (answered, held) = self.send_part(begin, PIECE_TIMEOUT).await?;
        if answered > vote {
            return Ok(SnapshotResponse::new(answered));
        }
        if held.len() != files.len() {
            let error =
                invalid(format!("{} files were announced, {} are known there", files.len(), held.len()));
            return Err(failed(&error));
        }
        for (number, (file, held)) in (0..).zip(files.into_iter().zip(held)) {
            let mut at = held;
            while at < file.bytes {
                let path = dir.dir.join(&file.name);
                let bytes = blocking(move || read_piece(&path, at)).await.map_err(|error| failed(&error))?;
                let next = at + bytes.len() as u64;
                let piece = Request::Piece { vote, through, file: number, at, bytes };
                let (answered, _) = self.send_part(piece, PIECE_TIMEOUT).await?;
                if answered > vote {
                    return Ok(SnapshotResponse::new(answered));
                }
                at = next;
            }
        }
        let (answered, _) = self.send_part(Request::Install { vote, through }, within).await?;
        Ok(SnapshotResponse::new(answered))
    }

    async fn send_part(
        &self,
        request: Request,
        within: Duration,
    ) -> Result<(Vote, Vec<u64>), StreamingError<Types>> {
        let answer = self.ask(request, Class::Bulk, within, RPCTypes::InstallSnapshot).await?;
        decode_snapshot_answer(answer).map_err(|error| StreamingError::Network(NetworkError::new(&error)))
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
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send(vote, snapshot, option.hard_ttl()) => sent,
        }
    }
}

fn unreadable(error: &io::Error) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(error))
}

fn read_piece(path: &Path, at: u64) -> io::Result<Bytes> {
    use std::io::{Read, Seek};
    let mut file = std::fs::File::open(path)?;
    file.seek(io::SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(PIECE_BYTES).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{} ends before {at}", path.display()),
        ));
    }
    Ok(bytes.into())
}

/// The files of a directory, by name.
fn list(dir: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name =
            name.ok_or_else(|| invalid(format!("{} has no name in UTF-8", path.display())))?.to_owned();
        let mut hasher = blake3::Hasher::new();
        let bytes = io::copy(&mut std::fs::File::open(&path)?, &mut hasher)?;
        files.push(File { name, bytes, hash: Hash(*hasher.finalize().as_bytes()) });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}
