//! Making the groups that this node leads match the catalogue: who is to be in them, who leads, and which nodes go.
//!
//! Nothing of it is kept but in the catalogue and in the groups themselves: whoever leads next goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use odgm_log::{GroupId, NodeId};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::catalogue::{Catalogue, Moving, NodeState};
use crate::manager::Manager;
use crate::neighbours::listed;
use crate::raft::{GroupMember, Members, Standing, Step};

/// How often it is looked whether there is something to do that no change of the catalogue has told of.
const LOOK: Duration = Duration::from_millis(500);

/// Groups of one leader whose new members catch up at the same time.
const CATCHING_UP: usize = 4;

/// Voters of the catalogue's group; other nodes follow it without a vote. More would only make its writes slower.
pub(crate) const CATALOGUE_VOTERS: usize = 7;

/// A group that this node leads, and is to be changed.
struct Task {
    group: GroupId,
    member: Arc<dyn GroupMember>,
    /// As it was before the catalogue was confirmed: what is done is done in its term, or not at all.
    standing: Standing,
}

/// Who is to be in a group, and who is to lead it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    members: Members,
    leader: Option<NodeId>,
    moving: Option<Moving>,
}

/// What was last told of each group, so that nothing is told twice.
#[derive(Default)]
pub(crate) struct Told(BTreeMap<GroupId, String>);

impl Told {
    fn is_new(&mut self, group: GroupId, what: String) -> bool {
        let is_new = self.0.get(&group) != Some(&what);
        if is_new {
            self.0.insert(group, what);
        }
        is_new
    }
}

impl Manager {
    /// Steers until the node stops.
    pub(crate) async fn keep_steering(manager: Weak<Self>, stopping: CancellationToken) {
        let Some(mut visible) = manager.upgrade().map(|manager| manager.catalogue.visible()) else { return };
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Told::default();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                changed = visible.changed() => if changed.is_err() { return },
                () = stopping.cancelled() => return,
            }
            let Some(manager) = manager.upgrade() else { return };
            tokio::select! {
                () = manager.look_around() => {}
                () = stopping.cancelled() => return,
            }
            // Each round makes one step of each group.
            loop {
                let again = tokio::select! {
                    again = manager.steer(&mut told) => again,
                    () = stopping.cancelled() => return,
                };
                if !again {
                    break;
                }
            }
        }
    }

    /// One step of each group that is led here and is not as it is to be; whether there is more to do at once.
    async fn steer(self: &Arc<Self>, told: &mut Told) -> bool {
        let led = self.led();
        let Ok(catalogue) = self.read_catalogue() else { return false };
        let is_steward = led.iter().any(|task| task.group == GroupId::CATALOGUE)
            && catalogue.nodes.values().any(|entry| !entry.state.is_member());
        let tasks: Vec<Task> = led.into_iter().filter(|task| task.is_due(&catalogue)).collect();
        if tasks.is_empty() && !is_steward {
            return false;
        }
        // Only a plan that was looked up after the term is acted on in the term: one that has been done and replaced by another
        // leader must not be done again.
        if self.confirm_catalogue().await.is_err() {
            return false;
        }
        let Ok(catalogue) = self.read_catalogue() else { return false };
        let tasks: Vec<_> = bounded(tasks, &catalogue);
        let made = tasks.iter().map(|(task, wanted)| {
            let made = task.member.approach(task.standing.term, &wanted.members);
            made.map(move |step| (task, wanted, step)).boxed()
        });
        let made: Vec<BoxFuture<'_, _>> = made.collect();
        let made: Vec<_> = futures_util::stream::iter(made).buffer_unordered(CATCHING_UP).collect().await;
        let (mut again, mut settled) = (false, Vec::new());
        for (task, wanted, step) in made {
            match step {
                Ok(Step::Made) => again = true,
                Ok(Step::Elsewhere) => {}
                Ok(Step::Done) => settled.extend(self.has_settled(task, wanted, told).await),
                Ok(Step::Waits(behind)) => {
                    let silent = listed(behind.iter().filter(|node| !task.standing.is_heard(**node)));
                    let nodes = listed(&behind);
                    if !behind.is_empty() && told.is_new(task.group, format!("{nodes}; {silent}")) {
                        tracing::info!(group = %task.group, nodes, silent, "new members are catching up");
                    }
                }
                Err(reason) => {
                    if told.is_new(task.group, reason.clone()) {
                        tracing::warn!(group = %task.group, reason, "the members were not changed; it is tried again");
                    }
                }
            }
        }
        if !settled.is_empty()
            && let Err(error) = self.edit(|_, catalogue| Ok(catalogue.settle(&settled))).await
        {
            tracing::warn!(%error, "that partitions are where they are to be is noted later");
        }
        if is_steward {
            self.dismiss(&catalogue).await;
        }
        again
    }

    /// The groups that this node leads.
    fn led(&self) -> Vec<Task> {
        let node = self.node_id();
        let all = self.opener.groups.numbered().into_iter();
        let all = all.map(|(group, member)| Task { group, standing: member.standing(), member });
        all.filter(|task| task.standing.leader == Some(node)).collect()
    }

    /// The change that has come to its end, after the lead was given to whom it is to go.
    async fn has_settled(&self, task: &Task, wanted: &Wanted, told: &mut Told) -> Option<(GroupId, Moving)> {
        let moving = wanted.moving.clone()?;
        // Tried once: nobody can write while the lead goes over.
        if let Some(leader) = wanted.leader.filter(|leader| *leader != self.node_id())
            && task.member.standing().is_near(leader)
            && told.is_new(task.group, format!("handing over for the change of {}", moving.since))
            && task.member.hand_over_to(leader).await
        {
            // It settles what it leads.
            return None;
        }
        Some((task.group, moving))
    }

    /// Lets nodes go, or begin anew, on which no group counts any more.
    async fn dismiss(self: &Arc<Self>, catalogue: &Catalogue) {
        let Some(members) = self.opener.groups.get(GroupId::CATALOGUE).map(|member| member.standing()) else {
            return;
        };
        let present = members.members.voters.union(&members.members.learners).copied();
        let present: BTreeSet<NodeId> = present.collect();
        let leaving = catalogue.nodes.iter().filter(|(_, entry)| !entry.state.is_member());
        for (node, entry) in leaving {
            if !members.is_settled || present.contains(node) || catalogue.counts_on(*node) {
                continue;
            }
            let dismissed = self.edit(|_, catalogue| {
                let may_go = !catalogue.counts_on(*node);
                Ok(may_go.then(|| catalogue.dismiss(*node)).flatten().map(|plan| plan.change))
            });
            match dismissed.await {
                Ok(()) if entry.state == NodeState::Leaving => {
                    tracing::info!(%node, "the node has left the cluster");
                }
                Ok(()) => tracing::info!(%node, "the node begins anew with another data directory"),
                Err(error) => tracing::warn!(%node, %error, "the node is let go later"),
            }
        }
    }
}

impl Task {
    fn is_due(&self, catalogue: &Catalogue) -> bool {
        self.wanted(catalogue).is_some_and(|wanted| {
            !self.standing.is_settled || wanted.members != self.standing.members || wanted.moving.is_some()
        })
    }

    /// Who is to be in the group; none where its collection has gone.
    fn wanted(&self, catalogue: &Catalogue) -> Option<Wanted> {
        if self.group == GroupId::CATALOGUE {
            let members = council(catalogue, &self.standing);
            return Some(Wanted { members, ..Wanted::default() });
        }
        let (_, _, placed) = catalogue.placements().find(|(_, _, placed)| placed.group == self.group)?;
        let voters: BTreeSet<NodeId> = placed.replicas.iter().copied().collect();
        let members = Members { voters, learners: BTreeSet::new() };
        Some(Wanted { members, leader: placed.replicas.first().copied(), moving: placed.moving.clone() })
    }

    /// New members that have no vote yet.
    fn newcomers<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = NodeId> + 'a {
        self.standing.members.learners.intersection(&wanted.members.voters).copied()
    }

    /// Whether a new member is catching up. One that is not there keeps nobody busy.
    fn is_catching_up(&self, wanted: &Wanted) -> bool {
        self.newcomers(wanted).any(|node| self.standing.is_heard(node))
    }

    /// Whether a new member is to come.
    fn takes_in(&self, wanted: &Wanted) -> bool {
        let Members { voters, learners } = &self.standing.members;
        wanted.members.voters.iter().any(|node| !voters.contains(node) && !learners.contains(node))
    }
}

/// What is to be done now: not more groups take new members in than may catch up at the same time.
fn bounded(tasks: Vec<Task>, catalogue: &Catalogue) -> Vec<(Task, Wanted)> {
    let known = tasks.into_iter().filter_map(|task| task.wanted(catalogue).map(|wanted| (task, wanted)));
    let mut due: Vec<_> = known.collect();
    let mut busy = due.iter().filter(|(task, wanted)| task.is_catching_up(wanted)).count();
    due.retain(|(task, wanted)| {
        if task.group == GroupId::CATALOGUE
            || !task.takes_in(wanted)
            || task.newcomers(wanted).next().is_some()
        {
            return true;
        }
        busy += 1;
        busy <= CATCHING_UP
    });
    due
}

/// Who is to be in the catalogue's group: all nodes that stay, so that they can follow it, and some of them with a vote; nodes that
/// leave follow it as long as they have partitions. Votes are as few as [`CATALOGUE_VOTERS`] and, but for two nodes, odd, and
/// stay with those that have them.
fn council(catalogue: &Catalogue, standing: &Standing) -> Members {
    let Members { voters, learners } = &standing.members;
    let present: BTreeSet<NodeId> = voters.union(learners).copied().collect();
    // Those that have not yet said who they are founded the cluster.
    let unknown = present.iter().filter(|node| !catalogue.nodes.contains_key(node));
    let known = catalogue.nodes.iter().filter(|(_, entry)| entry.state.is_member()).map(|(node, _)| node);
    let stay: BTreeSet<NodeId> = unknown.chain(known).copied().collect();
    let leave = catalogue.nodes.iter().filter(|(_, entry)| entry.state == NodeState::Leaving);
    let leave =
        leave.map(|(node, _)| *node).filter(|node| present.contains(node) && catalogue.counts_on(*node));
    let leave: BTreeSet<NodeId> = leave.collect();

    let many = stay.len().min(CATALOGUE_VOTERS);
    let many = if many > 2 && many.is_multiple_of(2) { many - 1 } else { many };
    let is_here = |node: &&NodeId| standing.leader == Some(**node) || standing.is_near(**node);
    // Who has a vote keeps it before others get one; who is there, before who is not.
    let mut ranked: Vec<&NodeId> = stay.iter().filter(|node| voters.contains(node)).collect();
    ranked.sort_by_key(|node| !is_here(node));
    ranked.extend(stay.iter().filter(|node| !voters.contains(node)).filter(is_here));
    // A vote that nobody can take over yet stays where it is as long as it can.
    ranked.extend(leave.iter().filter(|node| voters.contains(node)).filter(is_here));
    let mut votes: BTreeSet<NodeId> = ranked.iter().take(many.max(1)).copied().copied().collect();
    // An even number loses as much with one as an odd one less.
    if votes.len() > 2
        && votes.len().is_multiple_of(2)
        && let Some(last) = ranked.get(votes.len() - 1).filter(|last| !voters.contains(last))
    {
        votes.remove(*last);
    }
    if votes.is_empty() {
        // Nobody is there who could take over.
        return standing.members.clone();
    }
    let others = stay.union(&leave).filter(|node| !votes.contains(node)).copied();
    Members { learners: others.collect(), voters: votes }
}

#[cfg(test)]
mod tests {
    use odgm_log::Offset;

    use super::*;
    use crate::catalogue::NodeEntry;
    use crate::raft::Other;

    fn nodes(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    fn catalogue(members: &[u64], leaving: &[u64]) -> Catalogue {
        let mut catalogue = Catalogue::default();
        for node in members.iter().chain(leaving) {
            let state = if leaving.contains(node) { NodeState::Leaving } else { NodeState::Member };
            let entry = NodeEntry { name: None, address: String::new(), incarnation: String::new(), state };
            catalogue.nodes.insert(NodeId(*node), entry);
        }
        catalogue
    }

    fn standing(voters: &[u64], learners: &[u64], here: &[u64]) -> Standing {
        let last = Offset(10);
        let other = Other { matched: last, heard: Some(Duration::ZERO) };
        Standing {
            leader: voters.first().copied().map(NodeId),
            members: Members { voters: nodes(voters), learners: nodes(learners) },
            last,
            others: here.iter().map(|node| (NodeId(*node), other)).collect(),
            ..Standing::default()
        }
    }

    fn voters(catalogue: &Catalogue, standing: &Standing) -> Vec<u64> {
        council(catalogue, standing).voters.into_iter().map(|node| node.0).collect()
    }

    #[test]
    fn the_catalogue_has_an_odd_number_of_voters() {
        let four = catalogue(&[1, 2, 3, 4], &[]);
        assert_eq!(voters(&four, &standing(&[1, 2, 3], &[4], &[2, 3, 4])), [1, 2, 3]);
        let five = catalogue(&[1, 2, 3, 4, 5], &[]);
        let one_behind = standing(&[1, 2, 3], &[4, 5], &[2, 3, 4]);
        assert_eq!(
            voters(&five, &one_behind),
            [1, 2, 3],
            "both get their votes when the fifth has caught up"
        );
        assert_eq!(voters(&five, &standing(&[1, 2, 3], &[4, 5], &[2, 3, 4, 5])), [1, 2, 3, 4, 5]);
        let twelve: Vec<u64> = (1..=12).collect();
        assert_eq!(voters(&catalogue(&twelve, &[]), &standing(&[1], &twelve[1..], &twelve[1..])).len(), 7);
        assert_eq!(voters(&catalogue(&[1, 2], &[3]), &standing(&[1, 2, 3], &[], &[2, 3])), [1, 2]);
    }

    #[test]
    fn who_leaves_gives_its_vote_to_another_one() {
        let left = catalogue(&[1, 2, 4], &[3]);
        assert_eq!(voters(&left, &standing(&[3, 1, 2], &[4], &[1, 2, 4])), [1, 2, 4]);
        assert_eq!(council(&left, &standing(&[1, 2, 3], &[4], &[2, 3])).learners, nodes(&[4]));
    }

    #[test]
    fn the_last_vote_stays_until_somebody_can_take_it_over() {
        let left = catalogue(&[2], &[1]);
        assert_eq!(voters(&left, &standing(&[1], &[2], &[])), [1], "node 2 is not there");
        assert_eq!(voters(&left, &standing(&[1], &[2], &[2])), [2]);
        assert_eq!(voters(&catalogue(&[], &[1]), &standing(&[1], &[], &[])), [1]);
    }

    #[test]
    fn founders_that_have_not_yet_come_stay() {
        let young = catalogue(&[1], &[]);
        assert_eq!(voters(&young, &standing(&[1, 2, 3], &[], &[2])), [1, 2, 3]);
    }
}
