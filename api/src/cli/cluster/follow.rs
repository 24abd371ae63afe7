//! Watching a change of the cluster until it is done.

use std::time::{Duration, Instant};

use odgm_proto::odgm::v1;
use tonic::{Code, Response, Status};

use super::view::MoveShown;
use crate::cli::{client::Client, error::Error, progress};

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// All partitions that are moved are where they are to be.
    Settled,
    /// And a node has left.
    Gone(String),
    /// And a node has begun anew.
    Anew(String),
    /// A node follows the catalogue.
    Follows(String),
}

impl Goal {
    /// Whether it is reached, once no partition is being moved.
    fn is_reached(&self, nodes: &[v1::Node]) -> bool {
        let find = |node: &str| nodes.iter().find(|known| is_named(known, node));
        match self {
            Self::Settled => true,
            Self::Gone(node) => find(node).is_none(),
            Self::Anew(node) => find(node).is_some_and(|node| node.state == "member" && node.reachable),
            Self::Follows(node) => find(node).is_some_and(|node| !node.role.is_empty() && node.reachable),
        }
    }
}

/// Whether a node is the one that was named.
pub(super) fn is_named(node: &v1::Node, name: &str) -> bool {
    node.name == name || node.node_id.to_string() == name
}

/// Shows how far it is, until it is done.
pub(super) async fn follow(
    client: &Client,
    goal: &Goal,
    moves: &[MoveShown],
    at_most: Duration,
) -> Result<(), Error> {
    let bar = progress::steps(moves.len() as u64, "partitions");
    let begun = Instant::now();
    loop {
        let mut admin = client.admin();
        let looked = tokio::select! {
            looked = admin.get_cluster(v1::GetClusterRequest {}) => looked,
            _ = tokio::signal::ctrl_c() => {
                bar.abandon_with_message("goes on by itself: `odgm cluster status`");
                return Err(Error::Interrupted);
            }
        };
        // The node that was asked may be the one that leaves: it knows that it has, and nothing more. It may also be busy.
        let has_left = |status: &Status| status.code() == Code::FailedPrecondition;
        if matches!(goal, Goal::Gone(_)) && looked.as_ref().is_err_and(has_left) {
            bar.finish_and_clear();
            return Ok(());
        }
        if let Ok(cluster) = looked.map(Response::into_inner) {
            let left = cluster.partitions.iter().filter(|partition| partition.moving).collect::<Vec<_>>();
            // A node that begins anew gets partitions that were not planned for.
            bar.set_length(bar.length().unwrap_or(0).max(left.len() as u64));
            bar.set_position(bar.length().unwrap_or(0).saturating_sub(left.len() as u64));
            bar.set_message(lag(&left));
            if left.is_empty() && goal.is_reached(&cluster.nodes) {
                bar.finish_and_clear();
                return Ok(());
            }
        }
        if begun.elapsed() > at_most {
            bar.abandon();
            return Err(Error::Unavailable(format!(
                "not done within {at_most:?}; it goes on, and `odgm cluster status` shows how far it is"
            )));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => {
                bar.abandon_with_message("goes on by itself: `odgm cluster status`");
                return Err(Error::Interrupted);
            }
        }
    }
}

/// How much new replicas lack, all together.
fn lag(left: &[&v1::PartitionPlacement]) -> String {
    let new = left.iter().flat_map(|partition| &partition.replicas);
    let behind: u64 =
        new.filter(|replica| replica.wanted && !replica.votes).filter_map(|replica| replica.behind).sum();
    if behind == 0 { String::new() } else { format!("{behind} records to catch up") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_id: u64, state: &str, role: &str) -> v1::Node {
        v1::Node { node_id, state: state.into(), role: role.into(), reachable: true, ..Default::default() }
    }

    #[test]
    fn a_goal_is_reached_when_the_node_is_what_it_is_to_be() {
        let nodes = [node(1, "member", "voter"), node(3, "readmitting", ""), node(4, "member", "")];
        assert!(Goal::Gone("2".into()).is_reached(&nodes));
        assert!(!Goal::Gone("3".into()).is_reached(&nodes));
        assert!(!Goal::Anew("3".into()).is_reached(&nodes));
        assert!(!Goal::Follows("4".into()).is_reached(&nodes));
        assert!(Goal::Follows("1".into()).is_reached(&nodes));
    }
}
