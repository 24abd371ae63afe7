//! Three nodes that replicate to each other, with the ports on which clients reach them over Zenoh.

use odgm_proto::odgm::v1::{DescribeCollectionRequest, ListPartitionsRequest};
use odgm_tests::Result;
use odgm_tests::harness::{Home, Node};
use serde_json::json;

use crate::client::{free_ports, until};

/// Data directories and ports of three nodes.
pub(crate) struct Homes {
    homes: [Home; 3],
    pub(crate) ports: [u16; 3],
}

impl Homes {
    /// With the collections `things`, `led` (only leaders answer over Zenoh), both with three replicas, and `solo`, each of
    /// whose three partitions is on one node.
    pub(crate) fn new(settings: &[(&str, &str)]) -> Result<Self> {
        let ports: [u16; 3] = free_ports()?;
        let raft = |name: &str, leader_only: &str| {
            json!({
                "name": name,
                "partition_count": 1,
                "replica_count": 3,
                "shard_type": "raft",
                "options": { "raft_net_leader_only": leader_only },
            })
        };
        let solo = json!({ "name": "solo", "partition_count": 3, "shard_type": "single" });
        let collections = json!([raft("things", "false"), raft("led", "true"), solo]).to_string();
        let homes = [0, 1, 2].map(|at| {
            let others = (0..3).filter(|other| *other != at);
            let peers: Vec<_> = others.map(|other| format!("tcp/127.0.0.1:{}", ports[other])).collect();
            let mut home = Home::new()?
                .with("ODGM_NODE_ID", &(at + 1).to_string())
                .with("ODGM_MEMBERS", "1,2,3")
                .with("ODGM_CLUSTER", &format!("zenoh-test-{}", ports[0]))
                .with("ODGM_ZENOH_HOST", "127.0.0.1")
                .with("OPRC_ZENOH_PORT", &ports[at].to_string())
                .with("OPRC_ZENOH_PEERS", &peers.join(","))
                .with("OPRC_ZENOH_GOSSIP_ENABLED", "false")
                .with("ODGM_COLLECTION", &collections);
            for (name, value) in settings {
                home = home.with(name, value);
            }
            Ok::<_, odgm_tests::Error>(home)
        });
        let [one, two, three] = homes;
        Ok(Self { homes: [one?, two?, three?], ports })
    }

    pub(crate) async fn start(&self) -> Result<Vec<Node<'_>>> {
        let [one, two, three] = &self.homes;
        let (one, two, three) = tokio::try_join!(one.start(), two.start(), three.start())?;
        Ok(vec![one, two, three])
    }
}

/// The place among the nodes of the one that leads, once all say the same.
pub(crate) async fn leader(nodes: &[Node<'_>], class: &str) -> Result<usize> {
    until(&format!("a leader of {class}"), async || {
        let mut named = Vec::new();
        for node in nodes {
            let request = DescribeCollectionRequest { name: class.to_owned() };
            let described = node.connection().admin.describe_collection(request).await;
            let partitions = described.map(|described| described.into_inner().partitions);
            named.extend(partitions.unwrap_or_default().first().map(|partition| partition.leader));
        }
        named.dedup();
        Ok(match named.as_slice() {
            [leader] if *leader > 0 => usize::try_from(leader - 1).ok(),
            _ => None,
        })
    })
    .await
}

/// The newest record of a partition on a node.
pub(crate) async fn head(node: &Node<'_>, class: &str) -> Result<u64> {
    let request = ListPartitionsRequest { cls_id: class.to_owned() };
    let partitions = node.connection().admin.list_partitions(request).await?.into_inner().partitions;
    Ok(partitions.first().ok_or("no partition")?.applied_offset)
}
