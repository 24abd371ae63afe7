//! The nodes of the cluster and what can be done with them.
//!
//! Each of these is one change of the catalogue; the leaders of the groups then make it so ([`crate::steering`]), whatever
//! becomes of whoever asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::{GroupId, NodeId, Offset};
use parking_lot::Mutex;

use crate::administration::CatalogueError;
use crate::catalogue::{Catalogue, NodeEntry, NodeState};
use crate::data_dir::NodeName;
use crate::definition::Replication;
use crate::errands::{ErrandError, GroupReport, Introduction, Survey};
use crate::manager::Manager;
use crate::plans::{Move, Plan, PlanError, Sacrifice};

/// Why the nodes of the cluster were not changed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// This node is alone.
    #[error("this node is not part of a cluster: start it with ODGM_MEMBERS")]
    Alone,
    /// A new node is not there.
    #[error(
        "node {node} does not answer ({reason}): start it with ODGM_NODE_ID={node}, an empty data directory, ODGM_MEMBERS={members} \
         (the nodes there are), the same ODGM_CLUSTER, and a way to them (OPRC_ZENOH_PEERS)"
    )]
    Silent {
        /// The node.
        node: NodeId,
        /// What happened.
        reason: String,
        /// The nodes that it should be started with.
        members: String,
    },
    /// A new node has another history.
    #[error(
        "node {node} has a catalogue of its own, with {records} records: stop it, delete its data directory, and start it with \
         ODGM_MEMBERS={members}, which does not name it"
    )]
    Foreign {
        /// The node.
        node: NodeId,
        /// How much it has.
        records: u64,
        /// The nodes that it should be started with.
        members: String,
    },
    /// The node that is to begin anew has not been heard.
    #[error(
        "node {0} has not spoken with another data directory than the known one lately: start it on its new, empty data directory \
         first, and ask a node that it reaches"
    )]
    NotHeard(NodeId),
    /// The node that is to begin anew is there, as it was.
    #[error(
        "node {node} answers with the data directory that it is known by, {incarnation}: its disk is not lost. End the other process          that was started with its id"
    )]
    IsWell {
        /// The node.
        node: NodeId,
        /// Its data directory.
        incarnation: String,
    },
    /// The node that was asked is not part of the cluster any more.
    #[error("{0}")]
    Left(String),
    /// A partition cannot be moved.
    #[error(
        "partition {class}/{partition} has no leader now, and without one it cannot be moved: bring back enough of its nodes ({nodes}); \
         if their disks are lost, delete the collection, and restore it from a backup"
    )]
    NoLeader {
        /// The collection.
        class: String,
        /// The partition.
        partition: u32,
        /// Where it is.
        nodes: String,
    },
    /// Another node did not do what it was asked for.
    #[error("node {node}: {reason}")]
    Failed {
        /// The node.
        node: NodeId,
        /// What it says.
        reason: String,
    },
    /// The catalogue was not changed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

impl From<PlanError> for MembershipError {
    fn from(error: PlanError) -> Self {
        Self::Catalogue(error.into())
    }
}

/// What comes of a change of the nodes, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// The partitions that get other replicas, or another leader.
    pub moves: Vec<Move>,
    /// The version of the catalogue that it was planned on.
    pub version: u64,
}

/// Whether a change is only to be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Nothing is changed.
    Plan,
    /// It is done; if a version is given, only if the catalogue has it still.
    Do(Option<u64>),
}

/// The part of a node in the catalogue's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has a vote.
    Voter,
    /// It follows.
    Learner,
    /// It is not in it.
    None,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its number.
    pub node: NodeId,
    /// Who it is; none of a founder that has not said so yet.
    pub entry: Option<NodeEntry>,
    /// Its part in the catalogue's group.
    pub role: Role,
    /// Partitions that it has, or is to have.
    pub replicas: usize,
    /// Partitions that it leads.
    pub leaders: usize,
    /// Whether it answers.
    pub is_reachable: bool,
    /// Records that it lacks of all of its partitions together, as far as is known.
    pub behind: u64,
}

/// A replica of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// The node.
    pub node: NodeId,
    /// Whether it is to stay.
    pub is_wanted: bool,
    /// Whether it has a vote in the group.
    pub votes: bool,
    /// Records that it lacks, if the leader knows.
    pub behind: Option<u64>,
}

/// A replicated partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// The collection.
    pub class: String,
    /// The partition.
    pub partition: u32,
    /// Its group.
    pub group: GroupId,
    /// Whether its replicas are not yet where they are to be.
    pub is_moving: bool,
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// Who is to lead it.
    pub preferred: Option<NodeId>,
    /// Where it is and is to be.
    pub replicas: Vec<ReplicaView>,
}

/// The cluster at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// The version of the catalogue.
    pub version: u64,
    /// Its nodes.
    pub nodes: Vec<NodeView>,
    /// Its replicated partitions.
    pub partitions: Vec<PartitionView>,
}

/// What a plan is made with.
type Making<'a> = &'a (dyn Fn(&Catalogue) -> Result<Plan, PlanError> + Send + Sync);

impl Manager {
    /// The nodes and replicated partitions of the cluster, as the nodes say that answer within a second.
    ///
    /// # Errors
    /// [`MembershipError`]; the catalogue need not be confirmed for it.
    pub fn cluster(&self) -> BoxFuture<'_, Result<ClusterView, MembershipError>> {
        async move {
            let catalogue = self.catalogue_of_cluster()?;
            let me = catalogue.nodes.get(&self.node_id());
            if let Some(reason) =
                self.outside().filter(|_| me.is_some_and(|me| me.state == NodeState::Leaving))
            {
                return Err(MembershipError::Left(reason));
            }
            let survey = self.survey(self.nodes.everybody()).await;
            Ok(view(&catalogue, &survey))
        }
        .boxed()
    }

    /// Lets a node in that was started and waits for it.
    ///
    /// # Errors
    /// [`MembershipError`]; nothing was changed.
    pub fn add_node<'a>(
        self: &'a Arc<Self>,
        node: &'a NodeName,
    ) -> BoxFuture<'a, Result<Planned, MembershipError>> {
        async move {
            self.confirmed().await?;
            let node = node.node_id();
            let catalogue = self.catalogue_of_cluster()?;
            // What cannot be is said before the node is asked.
            let stranger = NodeEntry {
                name: None,
                address: String::new(),
                incarnation: String::new(),
                state: NodeState::Member,
            };
            catalogue.admit(node, &stranger)?;
            let introduction = self.introduction_of(node, &catalogue).await?;
            let Introduction { name, address, incarnation, .. } = introduction;
            let entry = NodeEntry { name, address, incarnation, state: NodeState::Member };
            self.do_plan(Doing::Do(None), &|catalogue| catalogue.admit(node, &entry)).await
        }
        .boxed()
    }

    /// Takes all partitions off a node, which then leaves.
    ///
    /// # Errors
    /// [`MembershipError`]; nothing was changed.
    pub fn remove_node<'a>(
        self: &'a Arc<Self>,
        node: &'a NodeName,
        sacrifice: Sacrifice,
        doing: Doing,
    ) -> BoxFuture<'a, Result<Planned, MembershipError>> {
        let node = node.node_id();
        async move { self.do_plan(doing, &|catalogue| catalogue.drain(node, sacrifice)).await }.boxed()
    }

    /// Puts a node into the places of another one, which leaves; lets it in first if need be.
    ///
    /// # Errors
    /// [`MembershipError`]; nothing was changed, but that the new node may have been let in.
    pub fn replace_node<'a>(
        self: &'a Arc<Self>,
        old: &'a NodeName,
        new: &'a NodeName,
        sacrifice: Sacrifice,
        doing: Doing,
    ) -> BoxFuture<'a, Result<Planned, MembershipError>> {
        async move {
            self.confirmed().await?;
            let (old, new_id) = (old.node_id(), new.node_id());
            let catalogue = self.catalogue_of_cluster()?;
            if !catalogue.nodes.contains_key(&old) {
                return Err(PlanError::NoNode(old).into());
            }
            let is_new = !catalogue.nodes.contains_key(&new_id);
            if is_new && doing == Doing::Plan {
                // As it would be.
                let entry = catalogue.nodes[&old].clone();
                return self
                    .do_plan(doing, &|catalogue| {
                        let mut catalogue = catalogue.clone();
                        catalogue
                            .nodes
                            .insert(new_id, NodeEntry { state: NodeState::Member, ..entry.clone() });
                        catalogue.replace(old, new_id, sacrifice)
                    })
                    .await;
            }
            if is_new {
                self.add_node(new).await?;
            }
            // Letting the node in was a change by itself.
            let doing = if is_new { Doing::Do(None) } else { doing };
            self.do_plan(doing, &|catalogue| catalogue.replace(old, new_id, sacrifice)).await
        }
        .boxed()
    }

    /// Lets a node begin anew whose disk was lost: takes it out of all groups, and then back in.
    ///
    /// # Errors
    /// [`MembershipError`]; nothing was changed.
    pub fn readmit_node<'a>(
        self: &'a Arc<Self>,
        node: &'a NodeName,
        drop_local: bool,
        doing: Doing,
    ) -> BoxFuture<'a, Result<Planned, MembershipError>> {
        let node = node.node_id();
        async move {
            let catalogue = self.catalogue_of_cluster()?;
            let known = catalogue.nodes.get(&node).ok_or(PlanError::NoNode(node))?;
            let answered = self.introduce(node).await;
            if answered.is_ok_and(|answered| answered.incarnation == known.incarnation) {
                return Err(MembershipError::IsWell { node, incarnation: known.incarnation.clone() });
            }
            let incarnation = self.nodes.other_incarnation(node).ok_or(MembershipError::NotHeard(node))?;
            self.do_plan(doing, &|catalogue| catalogue.readmit(node, incarnation.clone(), drop_local)).await
        }
        .boxed()
    }

    /// Spreads replicas and leaders over the nodes, or leaders alone.
    ///
    /// # Errors
    /// [`MembershipError`]; nothing was changed.
    pub fn rebalance(
        self: &Arc<Self>,
        leaders_only: bool,
        doing: Doing,
    ) -> BoxFuture<'_, Result<Planned, MembershipError>> {
        async move {
            self.confirmed().await?;
            let catalogue = self.catalogue_of_cluster()?;
            let survey = self.survey(catalogue.members()).await;
            let led = catalogue.placements().filter_map(|(_, _, placed)| {
                survey.leader(placed.group).map(|(leader, _)| (placed.group, leader))
            });
            let led: BTreeMap<GroupId, NodeId> = led.collect();
            self.do_plan(doing, &|catalogue| Ok(catalogue.rebalance(leaders_only, &led))).await
        }
        .boxed()
    }

    /// Has a node hand over what it leads, before a planned stop; answers how many groups it still leads.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn move_leaders<'a>(&'a self, from: &'a NodeName) -> BoxFuture<'a, Result<usize, MembershipError>> {
        async move {
            let node = from.node_id();
            if !self.catalogue_of_cluster()?.nodes.contains_key(&node) {
                return Err(PlanError::NoNode(node).into());
            }
            let handed = self.have_handed_over(node).await;
            handed.map_err(|error| MembershipError::Failed { node, reason: error.to_string() })
        }
        .boxed()
    }

    async fn do_plan(self: &Arc<Self>, doing: Doing, make: Making<'_>) -> Result<Planned, MembershipError> {
        self.confirmed().await?;
        let catalogue = self.catalogue_of_cluster()?;
        let plan = make(&catalogue)?;
        self.check_leaders(&catalogue, &plan.moves).await?;
        let planned = Mutex::new(Planned { moves: plan.moves, version: catalogue.version() });
        let Doing::Do(expected) = doing else { return Ok(planned.into_inner()) };
        self.edit(|_, catalogue| {
            if expected.is_some_and(|expected| expected != catalogue.version()) {
                return Err(CatalogueError::Conflict);
            }
            let plan = make(catalogue)?;
            *planned.lock() = Planned { moves: plan.moves, version: catalogue.version() };
            Ok(Some(plan.change))
        })
        .await?;
        Ok(planned.into_inner())
    }

    /// Partitions are moved by their leaders, so each has to have one; then its group has been made, too.
    async fn check_leaders(&self, catalogue: &Catalogue, moves: &[Move]) -> Result<(), MembershipError> {
        let replicated = moves.iter().filter(|change| {
            let placed = catalogue.collections.get(&change.class);
            placed.is_some_and(|placed| placed.definition.replication == Replication::Raft)
        });
        let replicated: Vec<&Move> = replicated.collect();
        if replicated.is_empty() {
            return Ok(());
        }
        let survey = self.survey(catalogue.nodes.keys().copied().collect()).await;
        match replicated.into_iter().find(|change| survey.leader(change.group).is_none()) {
            None => Ok(()),
            Some(Move { class, partition, from, .. }) => Err(MembershipError::NoLeader {
                class: class.clone(),
                partition: *partition,
                nodes: list(from),
            }),
        }
    }

    /// Asks a new node who it is, and whether it can be of this cluster.
    async fn introduction_of(
        &self,
        node: NodeId,
        catalogue: &Catalogue,
    ) -> Result<Introduction, MembershipError> {
        let members = || list(&catalogue.members().into_iter().collect::<Vec<_>>());
        let introduction = self.introduce(node).await.map_err(|error| {
            let (ErrandError::Refused(reason) | ErrandError::Silent(reason)) = error;
            MembershipError::Silent { node, reason, members: members() }
        })?;
        let records = introduction.applied;
        let ours = self.catalogue.log().chain_at(GroupId::CATALOGUE, Offset(records));
        if records == 0 || ours.is_ok_and(|ours| ours.to_string() == introduction.chain) {
            return Ok(introduction);
        }
        Err(MembershipError::Foreign { node, records, members: members() })
    }

    async fn confirmed(&self) -> Result<(), MembershipError> {
        self.confirm_catalogue().await.map_err(|error| CatalogueError::from(error).into())
    }

    fn catalogue_of_cluster(&self) -> Result<Catalogue, MembershipError> {
        if self.links.is_none() {
            return Err(MembershipError::Alone);
        }
        self.read_catalogue().map_err(|error| CatalogueError::from(error).into())
    }
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What the catalogue and the nodes say, put together.
fn view(catalogue: &Catalogue, survey: &Survey) -> ClusterView {
    let partitions = catalogue
        .placements()
        .filter(|(name, _, _)| catalogue.collections[*name].definition.replication == Replication::Raft);
    let partitions: Vec<PartitionView> = partitions
        .map(|(class, number, placed)| {
            let led = survey.leader(placed.group);
            let report = led.map(|(_, report)| report);
            let replicas = placed.holders().into_iter().map(|node| ReplicaView {
                node,
                is_wanted: placed.replicas.contains(&node),
                votes: report.is_some_and(|report| report.voters.contains(&node.0)),
                behind: report.and_then(|report| behind(report, node)),
            });
            PartitionView {
                class: class.to_owned(),
                partition: u32::try_from(number).unwrap_or(u32::MAX),
                group: placed.group,
                is_moving: placed.moving.is_some(),
                leader: led.map(|(leader, _)| leader),
                preferred: placed.replicas.first().copied(),
                replicas: replicas.collect(),
            }
        })
        .collect();
    let council = survey.leader(GroupId::CATALOGUE).map(|(_, report)| report);
    let known: BTreeSet<NodeId> = catalogue.nodes.keys().chain(survey.said.keys()).copied().collect();
    let nodes = known.into_iter().map(|node| {
        let on = catalogue.placements().filter(|(_, _, placed)| placed.is_on(node));
        let replicas = partitions.iter().flat_map(|partition| &partition.replicas);
        let role = match council {
            Some(report) if report.voters.contains(&node.0) => Role::Voter,
            Some(report) if report.learners.contains(&node.0) => Role::Learner,
            _ => Role::None,
        };
        NodeView {
            node,
            entry: catalogue.nodes.get(&node).cloned(),
            role,
            replicas: on.count(),
            leaders: partitions.iter().filter(|partition| partition.leader == Some(node)).count(),
            is_reachable: survey.said.get(&node).is_some_and(Option::is_some),
            behind: replicas
                .filter(|replica| replica.node == node)
                .filter_map(|replica| replica.behind)
                .sum(),
        }
    });
    ClusterView { version: catalogue.version(), nodes: nodes.collect(), partitions }
}

/// Records that a replica lacks.
fn behind(report: &GroupReport, node: NodeId) -> Option<u64> {
    // The leader does not replicate to itself.
    match report.matched.get(&node.0) {
        Some(matched) => Some(report.last.saturating_sub(*matched)),
        None => report.voters.contains(&node.0).then_some(0),
    }
}
