//! Who leads a group, and letting another member lead.

use std::time::Instant;

use odgm_log::{NodeId, Term};
use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;

use super::group::Group;
use super::machine::Machine;
use super::types::Types;
use super::{HANDOVER_PATIENCE, RETRY_PAUSE};
use crate::reading::ReadError;

impl Group {
    /// Waits until this member leads and a quorum has confirmed it, so that its view holds all that was written before; the
    /// term in which it does.
    pub(super) async fn lead(&self) -> Result<Term, ReadError> {
        let mut metrics = self.raft.server_metrics();
        loop {
            while metrics.borrow_and_update().current_leader != Some(self.node.0) {
                metrics.changed().await.map_err(|_| ReadError::Closed)?;
            }
            match self.leading_term().await {
                Ok(term) => return Ok(Term(term)),
                Err(ReadError::Closed) => return Err(ReadError::Closed),
                // It may be deposed by now, or its first entry is not committed yet.
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Returns when this member does not lead in that term any more.
    pub(super) async fn deposed(&self, term: Term) {
        let mut metrics = self.raft.metrics();
        loop {
            let leads = {
                let now = metrics.borrow_and_update();
                now.current_leader == Some(self.node.0) && now.current_term == term.0
            };
            // An error says that the member has stopped.
            if !leads || metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Lets another member lead, if this one does; returns when one does or nobody wants to.
    pub(crate) async fn hand_over(&self) {
        let standing = self.standing();
        let mut others: Vec<NodeId> = standing.members.voters.into_iter().collect();
        others.retain(|other| *other != self.node);
        // Who has most of the log takes over first.
        others.sort_by_key(|other| std::cmp::Reverse(standing.others.get(other).map(|other| other.matched)));
        self.hand_over_to(&others).await;
    }

    /// Lets a member lead that is fit for it, if this one leads, is not, and there is one that is.
    pub(crate) async fn give_way(&self) {
        let is_full = self.log.store().is_low_on_space();
        if self.leader() != Some(self.node) || !(is_full || self.neighbours.has_worries()) {
            return;
        }
        let voters = members_of(&self.raft);
        let clock = self.neighbours.clock(&voters);
        let fit = self.neighbours.fit(&voters);
        if (is_full || clock.is_err()) && !fit.is_empty() {
            let reason =
                clock.err().map_or_else(|| "its disk is nearly full".to_owned(), |clock| clock.to_string());
            tracing::warn!(group = %self.id, reason, "this node gives the lead to another one");
            self.hand_over_to(&fit).await;
        }
    }

    /// Lets one of these members lead, the first before the others; whether another one does now.
    pub(super) async fn hand_over_to(&self, others: &[NodeId]) -> bool {
        if self.leader() != Some(self.node) {
            return true;
        }
        let since = Instant::now();
        for other in others.iter().cycle() {
            if since.elapsed() > HANDOVER_PATIENCE
                || self.raft.trigger().transfer_leader(other.0).await.is_err()
            {
                return false;
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
                return true;
            }
        }
        false
    }
}

/// The voters of a group as this member knows them.
pub(super) fn members_of(raft: &Raft<Types, Machine>) -> Vec<NodeId> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.voter_ids().map(NodeId).collect()
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
