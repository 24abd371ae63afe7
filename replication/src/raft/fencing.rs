//! Keeping a member that remembers nothing from being taken for the one that was there before.
//!
//! A node may come to a group that it was in once: its partition was moved away, with log and vote, and comes back. A leader of
//! that time, who was cut off and still counts on the node's vote, must find nobody: together they could be a quorum of members
//! that are no more. So a member without log and vote takes nothing from a leader before that has had a quorum confirm that it
//! leads, for which this member does not count; from then on nothing of an earlier term is heeded.

use std::io;

use odgm_log::NodeId;
use parking_lot::Mutex;

use super::CONFIRM_TIMEOUT;
use super::group::Group;
use super::messages::{Request, decode_term};
use super::types::Vote;
use crate::transport::{Call, Class};

/// From which term on a member heeds others.
pub(super) enum Fence {
    /// It has a log, or a vote, that say so, or founds the group.
    None,
    /// It is new, and has seen no leader that leads; or one of this term.
    From(Mutex<Option<u64>>),
}

impl Fence {
    pub(super) fn new(is_new: bool) -> Self {
        if is_new { Self::From(Mutex::default()) } else { Self::None }
    }

    fn is_open_for(&self, term: u64) -> bool {
        match self {
            Self::None => true,
            Self::From(first) => first.lock().is_some_and(|first| term >= first),
        }
    }

    fn open(&self, term: u64) {
        if let Self::From(first) = self {
            let mut first = first.lock();
            *first = Some(first.map_or(term, |first| first.max(term)));
        }
    }
}

impl Group {
    /// Refuses what may come from a leader of the past, or from somebody who wants to lead.
    pub(super) async fn check_fence(&self, from: NodeId, request: &Request) -> io::Result<()> {
        let (vote, leads): (&Vote, bool) = match request {
            Request::Append(append) => (&append.vote, true),
            Request::Snapshot { vote, .. } | Request::Install { vote, .. } => (vote, true),
            Request::Vote(vote) | Request::PreVote(vote) => (&vote.vote, false),
            Request::Transfer(transfer) => (transfer.from_leader(), false),
            // Pieces are kept only of a snapshot that was begun, and the others take nothing in.
            Request::Piece { .. }
            | Request::Propose { .. }
            | Request::Confirm { .. }
            | Request::Compare { .. }
            | Request::Chain { .. }
            | Request::Links { .. }
            | Request::Records { .. }
            | Request::Base { .. }
            | Request::BasePiece { .. }
            | Request::Lead => return Ok(()),
        };
        let term = vote.leader_id.term;
        if self.fence().is_open_for(term) {
            return Ok(());
        }
        if leads {
            self.fence().open(self.ask_for_proof(from).await?);
        }
        if self.fence().is_open_for(term) {
            return Ok(());
        }
        Err(io::Error::other("this member is new to the group and has not seen who leads it"))
    }

    /// The term in which another member leads, as a quorum has confirmed.
    async fn ask_for_proof(&self, leader: NodeId) -> io::Result<u64> {
        let (to, group, class, within) = (leader, self.id(), Class::Log, CONFIRM_TIMEOUT);
        let request = Request::Lead.encode(group)?;
        let answer = self.transport().call(Call { to, class, group, request, within }).await;
        decode_term(answer.map_err(io::Error::other)?)?.map_err(io::Error::other)
    }
}
