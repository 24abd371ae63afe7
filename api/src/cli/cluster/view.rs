//! What is shown of a cluster.

use odgm_proto::odgm::v1;
use serde::Serialize;

use crate::cli::output::{Cell, Human, Style, Table, Tint};

/// So many digits tell data directories apart at a glance.
const SHORT_INCARNATION: usize = 8;

#[derive(Debug, Serialize)]
pub(super) struct ClusterShown {
    nodes: Vec<NodeShown>,
}

#[derive(Debug, Serialize)]
struct NodeShown {
    node: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    address: String,
    state: String,
    role: String,
    replicas: u32,
    leaders: u32,
    reachable: bool,
    /// Records that it lacks of all its partitions together.
    behind: u64,
    incarnation: String,
}

impl From<v1::GetClusterResponse> for ClusterShown {
    fn from(cluster: v1::GetClusterResponse) -> Self {
        let nodes = cluster.nodes.into_iter().map(|node| NodeShown {
            node: node.node_id,
            name: node.name,
            address: node.address,
            state: node.state,
            role: node.role,
            replicas: node.replicas,
            leaders: node.leaders,
            reachable: node.reachable,
            behind: node.behind,
            incarnation: node.incarnation,
        });
        Self { nodes: nodes.collect() }
    }
}

impl Human for ClusterShown {
    fn human(&self, style: Style) -> String {
        let mut table = Table::new(&[
            "NODE",
            "NAME",
            "ADDRESS",
            "STATE",
            "ROLE",
            "REPLICAS",
            "LEADERS",
            "ANSWERS",
            "BEHIND",
            "DIRECTORY",
        ]);
        for node in &self.nodes {
            let state = if node.state == "member" { Tint::Good } else { Tint::Notice };
            let (answers, tint) = if node.reachable { ("yes", Tint::Good) } else { ("no", Tint::Bad) };
            table.row(vec![
                node.node.into(),
                node.name.as_str().into(),
                node.address.as_str().into(),
                Cell::from(node.state.as_str()).tinted(state),
                node.role.as_str().into(),
                node.replicas.into(),
                node.leaders.into(),
                Cell::from(answers).tinted(tint),
                node.behind.into(),
                node.incarnation.chars().take(SHORT_INCARNATION).collect::<String>().into(),
            ]);
        }
        table.render(style)
    }
}

#[derive(Debug, Serialize)]
pub(super) struct StatusShown {
    partitions: Vec<PartitionShown>,
    /// Those that are not yet where they are to be.
    moving: usize,
}

#[derive(Debug, Serialize)]
struct PartitionShown {
    class: String,
    partition: u32,
    group: u32,
    moving: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_leader: Option<u64>,
    replicas: Vec<ReplicaShown>,
}

#[derive(Debug, Serialize)]
struct ReplicaShown {
    node: u64,
    wanted: bool,
    votes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<u64>,
}

impl StatusShown {
    pub(super) fn of(cluster: v1::GetClusterResponse, class: Option<&str>, only_moving: bool) -> Self {
        let known = |node: u64| (node > 0).then_some(node);
        let partitions = cluster.partitions.into_iter();
        let partitions = partitions.filter(|partition| class.is_none_or(|class| class == partition.cls_id));
        let partitions: Vec<_> = partitions
            .filter(|partition| partition.moving || !only_moving)
            .map(|partition| PartitionShown {
                class: partition.cls_id,
                partition: partition.partition_id,
                group: partition.group,
                moving: partition.moving,
                leader: known(partition.leader),
                preferred_leader: known(partition.preferred_leader),
                replicas: partition.replicas.into_iter().map(ReplicaShown::from).collect(),
            })
            .collect();
        let moving = partitions.iter().filter(|partition| partition.moving).count();
        Self { partitions, moving }
    }
}

impl From<v1::ReplicaPlacement> for ReplicaShown {
    fn from(replica: v1::ReplicaPlacement) -> Self {
        let v1::ReplicaPlacement { node_id: node, wanted, votes, behind } = replica;
        Self { node, wanted, votes, behind }
    }
}

impl ReplicaShown {
    /// The node, and what is not as it is to be.
    fn text(&self) -> String {
        let part = match (self.wanted, self.votes) {
            (true, true) => "",
            (true, false) => "+",
            (false, _) => "-",
        };
        match self.behind {
            Some(behind) if behind > 0 => format!("{part}{} ({behind} behind)", self.node),
            _ => format!("{part}{}", self.node),
        }
    }
}

impl Human for StatusShown {
    fn human(&self, style: Style) -> String {
        if self.partitions.is_empty() {
            return "no partitions\n".to_owned();
        }
        let mut table = Table::new(&["PARTITION", "GROUP", "STATE", "LEADER", "PREFERRED", "NODES"]);
        for partition in &self.partitions {
            let (state, tint) = match (partition.moving, partition.leader) {
                (_, None) => ("no leader", Tint::Bad),
                (true, _) => ("moving", Tint::Notice),
                (false, _) => ("settled", Tint::Good),
            };
            let number = |node: Option<u64>| node.map_or_else(String::new, |node| node.to_string());
            let nodes: Vec<_> = partition.replicas.iter().map(ReplicaShown::text).collect();
            table.row(vec![
                format!("{}/{}", partition.class, partition.partition).into(),
                partition.group.into(),
                Cell::from(state).tinted(tint),
                number(partition.leader).into(),
                number(partition.preferred_leader).into(),
                nodes.join(" ").into(),
            ]);
        }
        let mut text = table.render(style);
        if self.moving > 0 {
            text += "+ comes and catches up, - goes when it has\n";
        }
        text
    }
}

/// A change of a partition's replicas.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MoveShown {
    class: String,
    partition: u32,
    from: Vec<u64>,
    to: Vec<u64>,
}

impl From<v1::Move> for MoveShown {
    fn from(change: v1::Move) -> Self {
        let v1::Move { cls_id: class, partition_id: partition, from, to, .. } = change;
        Self { class, partition, from, to }
    }
}

/// Changes as a table.
pub(super) struct Moves<'a>(&'a [MoveShown]);

impl MoveShown {
    pub(super) fn table(moves: &[Self]) -> Moves<'_> {
        Moves(moves)
    }
}

impl Human for Moves<'_> {
    fn human(&self, style: Style) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let list = |nodes: &[u64]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let mut table = Table::new(&["PARTITION", "FROM", "TO", "LEADER"]);
        for change in self.0 {
            let (before, after) = (change.from.first().copied(), change.to.first().copied());
            let number = |node: Option<u64>| node.map_or_else(String::new, |node| node.to_string());
            let leader = if change.from == change.to {
                // It is led by another one than it is to be.
                format!("back to {}", number(after))
            } else if before == after {
                String::new()
            } else {
                format!("{} to {}", number(before), number(after))
            };
            table.row(vec![
                format!("{}/{}", change.class, change.partition).into(),
                list(&change.from).into(),
                list(&change.to).into(),
                leader.into(),
            ]);
        }
        table.render(style)
    }
}

/// What came of a change.
#[derive(Debug, Serialize)]
pub(super) struct Changed {
    #[serde(skip)]
    pub(super) told: String,
    pub(super) moves: Vec<MoveShown>,
    /// Whether all is as it is to be.
    pub(super) done: bool,
}

impl Human for Changed {
    fn human(&self, style: Style) -> String {
        format!("{}{}\n", MoveShown::table(&self.moves).human(style), self.told)
    }
}

/// What came of handing over.
#[derive(Debug, Serialize)]
pub(super) struct Handed {
    pub(super) node: String,
    /// Groups that it leads still.
    pub(super) left: u32,
}

impl Human for Handed {
    fn human(&self, _: Style) -> String {
        match self.left {
            0 => format!("{}  leads nothing any more\n", self.node),
            left => format!("{}  leads {left} groups still: nobody else could\n", self.node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> v1::GetClusterResponse {
        let node = |node_id, state: &str, role: &str, reachable| v1::Node {
            node_id,
            address: format!("10.0.0.{node_id}:8080"),
            state: state.into(),
            incarnation: "5f0c1e2d3b4a5968".into(),
            role: role.into(),
            replicas: 2,
            leaders: 1,
            reachable,
            ..Default::default()
        };
        let replica =
            |node_id, wanted, votes, behind| v1::ReplicaPlacement { node_id, wanted, votes, behind };
        let moving = v1::PartitionPlacement {
            cls_id: "orders".into(),
            group: 7,
            moving: true,
            leader: 1,
            preferred_leader: 1,
            replicas: vec![
                replica(1, true, true, Some(0)),
                replica(3, false, true, None),
                replica(4, true, false, Some(1_200)),
            ],
            ..Default::default()
        };
        let settled = v1::PartitionPlacement {
            partition_id: 1,
            moving: false,
            leader: 0,
            replicas: vec![replica(1, true, true, Some(0))],
            ..moving.clone()
        };
        v1::GetClusterResponse {
            version: 9,
            nodes: vec![node(1, "member", "voter", true), node(3, "leaving", "learner", false)],
            partitions: vec![moving, settled],
        }
    }

    #[test]
    fn nodes_are_a_table() {
        insta::assert_snapshot!(ClusterShown::from(cluster()).human(Style::PLAIN));
    }

    #[test]
    fn partitions_show_who_comes_and_who_goes() {
        insta::assert_snapshot!(StatusShown::of(cluster(), None, false).human(Style::PLAIN));
        let json = serde_json::to_string(&StatusShown::of(cluster(), Some("orders"), true)).expect("JSON");
        insta::assert_snapshot!("status_json", json);
    }

    #[test]
    fn a_plan_shows_what_moves_and_who_leads_then() {
        let moves = [
            MoveShown { class: "orders".into(), partition: 0, from: vec![1, 2, 3], to: vec![4, 1, 2] },
            MoveShown { class: "orders".into(), partition: 1, from: vec![2, 3], to: vec![2, 4] },
            MoveShown { class: "orders".into(), partition: 2, from: vec![3, 1], to: vec![3, 1] },
        ];
        insta::assert_snapshot!(MoveShown::table(&moves).human(Style::PLAIN));
    }
}
