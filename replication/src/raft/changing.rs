//! Changing who the members of a group are, one safe step at a time.
//!
//! A new member is a learner first, and votes once it has nearly all of the log; the voters then change at once, by joint
//! consensus; who has gone is removed last. Each step starts from what is committed, so that any leader can go on where
//! another one was interrupted. A step is made only in the term in which the plan was looked up: a leader that was
//! deposed and elected again in the meantime may have an old plan in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use odgm_log::{NodeId, Offset};
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Instant as _};

use super::group::Group;
use super::messages::{Request, decode_links};
use super::types::{LogId, Peer, offset};
use super::{CHANGE_TIMEOUT, HEARD_WITHIN, NEAR_RECORDS};

/// Who is to be in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) learners: BTreeSet<NodeId>,
}

impl Members {
    /// All of them.
    pub(crate) fn all(&self) -> BTreeSet<NodeId> {
        self.voters.union(&self.learners).copied().collect()
    }
}

/// A group as one of its members sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) term: u64,
    pub(crate) leader: Option<NodeId>,
    pub(crate) members: Members,
    /// Whether they are committed, and no change of them is under way.
    pub(crate) is_settled: bool,
    /// The newest record of the log here.
    pub(crate) last: Offset,
    /// What the leader knows of the others.
    pub(crate) others: BTreeMap<NodeId, Other>,
}

/// Another member as the leader sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Other {
    /// Up to where it has the log.
    pub(crate) matched: Offset,
    /// How long ago it was heard.
    pub(crate) heard: Option<Duration>,
}

impl Standing {
    /// Whether another member answers its leader.
    pub(crate) fn is_heard(&self, node: NodeId) -> bool {
        self.others.get(&node).and_then(|other| other.heard).is_some_and(|heard| heard < HEARD_WITHIN)
    }

    /// Whether a member has nearly all of the log, and is there.
    pub(crate) fn is_near(&self, node: NodeId) -> bool {
        self.others.get(&node).is_some_and(|other| {
            self.is_heard(node)
                && other.matched > Offset::ZERO
                && self.last.0.saturating_sub(other.matched.0) <= NEAR_RECORDS
        })
    }
}

/// What one step has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The members are who they are to be; a quorum has said that this node still leads.
    Done,
    /// There is more to do.
    Made,
    /// These have to catch up first; or, if there are none, what was changed before is not committed yet.
    Waits(BTreeSet<NodeId>),
    /// Another member is to lead, or does.
    Elsewhere,
}

impl Group {
    /// How the group is, as this member sees it.
    pub(crate) fn standing(&self) -> Standing {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let is_settled = metrics.membership_config == metrics.committed_membership_config
            && membership.get_joint_config().len() == 1;
        let matched = metrics.replication.iter().flatten();
        let mut others: BTreeMap<NodeId, Other> = matched
            .map(|(node, log_id)| {
                let matched = log_id.map_or(Offset::ZERO, |id: LogId| offset(id.index));
                (NodeId(*node), Other { matched, heard: None })
            })
            .collect();
        for (node, heard) in metrics.heartbeat.iter().flatten() {
            if let Some(other) = others.get_mut(&NodeId(*node)) {
                other.heard = heard.as_ref().map(|heard| heard.elapsed());
            }
        }
        Standing {
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            members: Members {
                voters: membership.voter_ids().map(NodeId).collect(),
                learners: membership.learner_ids().map(NodeId).collect(),
            },
            is_settled,
            last: metrics.last_log_index.map_or(Offset::ZERO, offset),
            others,
        }
    }

    /// Brings the members one step nearer to whom they are to be, if this node leads in that term.
    pub(crate) async fn approach(&self, term: u64, wanted: &Members) -> Result<Step, String> {
        let standing = self.standing();
        if standing.leader != Some(self.node()) || standing.term != term {
            return Ok(Step::Elsewhere);
        }
        let metrics = self.raft().metrics();
        let is_joint = {
            let metrics = metrics.borrow_watched();
            if metrics.membership_config != metrics.committed_membership_config {
                // A change of them is under way, or was when the leader before ended.
                return Ok(Step::Waits(BTreeSet::new()));
            }
            metrics.membership_config.membership().get_joint_config().len() > 1
        };
        let Members { voters, learners } = &standing.members;
        let present: BTreeSet<NodeId> = voters.union(learners).copied().collect();
        let missing: Vec<NodeId> = wanted.all().difference(&present).copied().collect();
        if !missing.is_empty() {
            let nodes = missing.into_iter().map(|node| (node.0, Peer)).collect();
            return self.change(term, ChangeMembers::AddNodes(nodes)).await;
        }
        if is_joint || *voters != wanted.voters {
            return self.change_voters(term, &standing, wanted, is_joint).await;
        }
        let gone: BTreeSet<u64> = present.difference(&wanted.all()).map(|node| node.0).collect();
        if !gone.is_empty() {
            return self.change(term, ChangeMembers::RemoveNodes(gone)).await;
        }
        // A leader that was deposed and has not heard of it knows members of the past.
        let confirmed = self.leading_term().await.map_err(|error| error.to_string())?;
        Ok(if confirmed == term { Step::Done } else { Step::Elsewhere })
    }

    async fn change_voters(
        &self,
        term: u64,
        standing: &Standing,
        wanted: &Members,
        is_joint: bool,
    ) -> Result<Step, String> {
        let voters = &standing.members.voters;
        let joining = wanted.voters.difference(voters).filter(|node| **node != self.node());
        let (near, mut behind): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
            joining.copied().partition(|node| standing.is_near(*node));
        behind.extend(self.not_whole(near).await);
        if !behind.is_empty() {
            return Ok(Step::Waits(behind));
        }
        let ids = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect::<BTreeSet<u64>>();
        if !wanted.voters.contains(&self.node()) {
            let (heirs, away): (Vec<NodeId>, Vec<NodeId>) =
                wanted.voters.intersection(voters).partition(|node| standing.is_near(**node));
            if heirs.is_empty() {
                if is_joint || wanted.voters.is_subset(voters) {
                    // Whoever gives the lead to one that is not there leaves the group without.
                    return Ok(Step::Waits(away.into_iter().collect()));
                }
                // All who could lead are new: for a while both have a vote.
                return self.change(term, ChangeMembers::AddVoterIds(ids(&wanted.voters))).await;
            }
            return match self.hand_over_to(&heirs).await {
                true => Ok(Step::Elsewhere),
                false => Err("none of the members that stay takes over the lead".to_owned()),
            };
        }
        self.change(term, ChangeMembers::ReplaceAllVoters(ids(&wanted.voters))).await
    }

    /// Those of these members that have not all that this one keeps of the log: a snapshot came first, and the past is
    /// fetched after it. Whoever has it must not be let go before.
    async fn not_whole(&self, members: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let kept = self.store().bounds(self.id()).first.max(self.machine.view().header().floor);
        let asked = members.into_iter().map(|node| async move {
            // What is below the first record there is nothing but where the log begins.
            let answer = self.call(node, Request::Links { below: Offset(1) }).await;
            let first = answer.and_then(|answer| decode_links(answer).ok()).map(|(first, _)| first);
            first.is_none_or(|first| first > kept).then_some(node)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn change(&self, term: u64, change: ChangeMembers<u64, Peer>) -> Result<Step, String> {
        let committed_leader_id = LogId::new_term_index(term, 0).leader_id;
        let still_leads = [Precondition::CommittedLeaderId { committed_leader_id }];
        // Who loses its vote stays a learner, to be removed by a step of its own.
        let changed = self.raft().change_membership_if(change, true, still_leads);
        match tokio::time::timeout(CHANGE_TIMEOUT, changed).await {
            Ok(Ok(_)) => Ok(Step::Made),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the members do not commit it within {CHANGE_TIMEOUT:?}")),
        }
    }
}
