//! What a member of a group answers the other members.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::{NodeId, Offset};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, VoteRequest, VoteResponse};
use tokio::sync::oneshot;

use super::comparing::{encode_chain, encode_checkpoints};
use super::filling;
use super::forwarding::{Passed, encode_answers};
use super::group::Group;
use super::messages::{
    Request, encode_append_answer, encode_confirmation, encode_snapshot_answer, encode_term,
    encode_transfer_answer, encode_vote_answer,
};
use super::proposing::Write;
use super::types::{Entry, LogId, Types, Vote};
use crate::encoding::invalid;
use crate::manager::blocking;
use crate::partition::adds;
use crate::proposal::{ProposeError, Reply};
use crate::reading::ReadError;

impl Group {
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
                async move {
                    group.check_fence(from, &request).await?;
                    group.answer_member(request).await
                }
                .boxed()
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
                match self.gate.admit(write.encoded.len(), write.needs_room) {
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

    /// A member that holds nothing of a log that there is may have lost its disk, and would make a quorum with members that
    /// miss what it had. So it votes only where the log begins; or where it did so then and still knows it, since it has
    /// lost nothing if it has not lost that. A restored log begins with a backup that only one of them has; there, that a node
    /// with a new disk is not admitted has to do. So it has to where there are five founders or more: one that lost its
    /// log could vote for another that holds nothing, and take that for the beginning.
    fn require_memory(&self, vote: &VoteRequest<Types>) -> io::Result<()> {
        let holds_something = self.log.store().bounds(self.id).last > Offset::ZERO;
        if begins(vote) || self.restored || holds_something || self.log.has_voted_first() {
            return Ok(());
        }
        Err(io::Error::other(
            "this member holds nothing of the log, so it does not vote before a leader has filled it",
        ))
    }

    /// Votes. A founder that does where the log begins, and holds nothing of it yet, remembers that.
    async fn vote(&self, request: VoteRequest<Types>) -> io::Result<VoteResponse<Types>> {
        let (is_first, term) = (self.founds && begins(&request), request.vote.leader_id.term);
        let answer = self.raft.vote(request).await.map_err(io::Error::other)?;
        let is_empty = self.log.store().bounds(self.id).last == Offset::ZERO;
        if is_first && is_empty && answer.vote_granted && !self.log.has_voted_first() {
            let log = self.log.clone();
            blocking(move || log.note_first_vote(term)).await?;
        }
        Ok(answer)
    }

    /// Stores nothing more that can wait when there is hardly any room left: so the node lives on, and what frees space
    /// still has some.
    fn require_room(&self, append: &AppendEntriesRequest<Types>) -> io::Result<()> {
        let adds = |entry: &Entry| match &entry.payload {
            EntryPayload::Normal(command) => adds(self.id, command.kind.body_type),
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
            Request::Vote(vote) => encode_vote_answer(&self.vote(vote).await?),
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
            Request::Lead => encode_term(&self.leading_term().await),
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

/// Whether whoever asks for this vote has nothing but the first entry, with which each founder can make the log.
fn begins(vote: &VoteRequest<Types>) -> bool {
    vote.last_log_id.is_none_or(|last| last.index == 0)
}
