//! The nodes of the cluster: who they are, and what is done with them.

use odgm_proto::odgm::v1;
use odgm_replication::{
    ClusterView, Doing, MembershipError, NodeName, NodeState, NodeView, PartitionView, Planned, Role,
    Sacrifice,
};
use tonic::Status;

use super::catalogue;
use crate::services::Shared;
use crate::status::{self, not_applied};

pub(super) async fn get(shared: &Shared) -> Result<v1::GetClusterResponse, Status> {
    let ClusterView { version, nodes, partitions } =
        shared.manager.cluster().await.map_err(|error| refusal(&error))?;
    Ok(v1::GetClusterResponse {
        version,
        nodes: nodes.into_iter().map(node).collect(),
        partitions: partitions.into_iter().map(partition).collect(),
    })
}

pub(super) async fn add(
    shared: &Shared,
    request: v1::AddNodeRequest,
) -> Result<v1::ChangeClusterResponse, Status> {
    let node = name(&request.node)?;
    answer(shared.manager.add_node(&node).await)
}

pub(super) async fn remove(
    shared: &Shared,
    request: v1::RemoveNodeRequest,
) -> Result<v1::ChangeClusterResponse, Status> {
    let v1::RemoveNodeRequest { node, change, fewer_replicas, drop_local } = request;
    let sacrifice = Sacrifice { fewer_replicas, drop_local };
    answer(shared.manager.remove_node(&name(&node)?, sacrifice, doing(change)).await)
}

pub(super) async fn replace(
    shared: &Shared,
    request: v1::ReplaceNodeRequest,
) -> Result<v1::ChangeClusterResponse, Status> {
    let v1::ReplaceNodeRequest { node, replacement, change, fewer_replicas, drop_local } = request;
    let sacrifice = Sacrifice { fewer_replicas, drop_local };
    let (old, new) = (name(&node)?, name(&replacement)?);
    if old == new {
        return Err(not_applied(Status::invalid_argument(format!(
            "{node} cannot take its own places: expected another node, or `odgm cluster readmit {node}` if its disk was lost"
        ))));
    }
    answer(shared.manager.replace_node(&old, &new, sacrifice, doing(change)).await)
}

pub(super) async fn readmit(
    shared: &Shared,
    request: v1::ReadmitNodeRequest,
) -> Result<v1::ChangeClusterResponse, Status> {
    let v1::ReadmitNodeRequest { node, change, drop_local } = request;
    answer(shared.manager.readmit_node(&name(&node)?, drop_local, doing(change)).await)
}

pub(super) async fn rebalance(
    shared: &Shared,
    request: v1::RebalanceRequest,
) -> Result<v1::ChangeClusterResponse, Status> {
    answer(shared.manager.rebalance(request.leaders_only, doing(request.change)).await)
}

pub(super) async fn move_leaders(
    shared: &Shared,
    request: v1::MoveLeadersRequest,
) -> Result<v1::MoveLeadersResponse, Status> {
    let from = name(&request.from)?;
    let left = shared.manager.move_leaders(&from).await.map_err(|error| refusal(&error))?;
    Ok(v1::MoveLeadersResponse { left: count(left) })
}

fn name(text: &str) -> Result<NodeName, Status> {
    NodeName::parse(text).ok_or_else(|| {
        not_applied(Status::invalid_argument(format!(
            "{text:?} names no node: expected a number, or a name of 1 to 160 printable characters without spaces"
        )))
    })
}

fn doing(change: Option<v1::ClusterChange>) -> Doing {
    let v1::ClusterChange { dry_run, expected_version } = change.unwrap_or_default();
    if dry_run { Doing::Plan } else { Doing::Do((expected_version > 0).then_some(expected_version)) }
}

fn answer(planned: Result<Planned, MembershipError>) -> Result<v1::ChangeClusterResponse, Status> {
    let Planned { moves, version } = planned.map_err(|error| refusal(&error))?;
    let numbers = |nodes: Vec<odgm_log::NodeId>| nodes.into_iter().map(|node| node.0).collect();
    let moves = moves.into_iter().map(|change| v1::Move {
        cls_id: change.class,
        partition_id: change.partition,
        group: change.group.get(),
        from: numbers(change.from),
        to: numbers(change.to),
    });
    Ok(v1::ChangeClusterResponse { moves: moves.collect(), version })
}

fn refusal(error: &MembershipError) -> Status {
    let message = error.to_string();
    match error {
        MembershipError::Catalogue(error) => catalogue(error),
        MembershipError::Silent { .. } | MembershipError::Failed { .. } => {
            not_applied(status::unavailable(message))
        }
        MembershipError::Alone
        | MembershipError::Foreign { .. }
        | MembershipError::NotHeard(_)
        | MembershipError::IsWell { .. }
        | MembershipError::Left(_)
        | MembershipError::NoLeader { .. } => not_applied(Status::failed_precondition(message)),
    }
}

fn node(view: NodeView) -> v1::Node {
    let NodeView { node, entry, role, replicas, leaders, is_reachable, behind } = view;
    let state = match entry.as_ref().map(|entry| &entry.state) {
        None => "joining",
        Some(NodeState::Member) => "member",
        Some(NodeState::Leaving) => "leaving",
        Some(NodeState::Readmitting { .. }) => "readmitting",
    };
    let role = match role {
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::None => "",
    };
    let (name, address, incarnation) = entry
        .map(|entry| (entry.name.unwrap_or_default(), entry.address, entry.incarnation))
        .unwrap_or_default();
    v1::Node {
        node_id: node.0,
        name,
        address,
        state: state.to_owned(),
        incarnation,
        role: role.to_owned(),
        replicas: count(replicas),
        leaders: count(leaders),
        reachable: is_reachable,
        behind,
    }
}

fn partition(view: PartitionView) -> v1::PartitionPlacement {
    let replicas = view.replicas.into_iter().map(|replica| v1::ReplicaPlacement {
        node_id: replica.node.0,
        wanted: replica.is_wanted,
        votes: replica.votes,
        behind: replica.behind,
    });
    v1::PartitionPlacement {
        cls_id: view.class,
        partition_id: view.partition,
        group: view.group.get(),
        moving: view.is_moving,
        leader: view.leader.unwrap_or_default().0,
        preferred_leader: view.preferred.unwrap_or_default().0,
        replicas: replicas.collect(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
