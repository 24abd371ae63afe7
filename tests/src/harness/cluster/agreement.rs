//! What the nodes of a cluster say about partitions, and whether they agree.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use odgm_proto::odgm::v1::{
    DescribeCollectionRequest, ListPartitionsRequest, Partition, VerifyRequest, VerifyResponse,
};
use serde::Serialize;
use tonic::Streaming;

use super::{ASK, Cluster, until, within};
use crate::Result;
use crate::harness::clients::Connection;

/// What one replica of a partition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replica {
    /// The newest record that it has applied.
    pub applied: u64,
    /// The chain over its log, up to there.
    pub chain: String,
    /// The hash of its view.
    pub state_hash: String,
}

impl Cluster {
    /// Waits until most of the nodes that are awake agree on a leader of a partition that is awake.
    ///
    /// # Errors
    /// When they do not within a minute.
    pub async fn leader(&self, class: &str, partition: u32) -> Result<u64> {
        self.leader_among(&self.awake(), class, partition).await
    }

    /// Waits until most of these nodes agree on one of them as the leader of a partition. Nodes that are cut off from the
    /// others and do not know it yet are better left out.
    ///
    /// # Errors
    /// When they do not within a minute.
    pub async fn leader_among(&self, nodes: &[u64], class: &str, partition: u32) -> Result<u64> {
        let clients = self.clients(nodes)?;
        let waiting = || format!("{nodes:?} to agree on a leader of {class}/{partition}");
        until(waiting, async || {
            let named = leaders(&clients, class, partition).await;
            let votes = |leader: u64| named.values().filter(|named| **named == leader).count();
            Ok(nodes.iter().copied().find(|leader| 2 * votes(*leader) > nodes.len()))
        })
        .await
    }

    /// Waits until a node takes another one for the leader of a partition, and answers which.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn follows(&self, node: u64, class: &str, partition: u32) -> Result<u64> {
        let clients = self.clients(&[node])?;
        let waiting = || format!("node {node} to follow another one in {class}/{partition}");
        until(waiting, async || {
            let named = leaders(&clients, class, partition).await;
            Ok(named.get(&node).copied().filter(|leader| *leader != 0 && *leader != node))
        })
        .await
    }

    /// Whom a node that is awake takes for the leader of a partition now; none if nobody answers at once.
    pub async fn presumed_leader(&self, class: &str, partition: u32) -> Option<u64> {
        let clients = self.clients(&self.awake()).ok()?;
        let mut named: Vec<u64> = leaders(&clients, class, partition).await.into_values().collect();
        named.retain(|leader| *leader != 0);
        named.sort_unstable();
        // Whom most name: of two, the same twice.
        let twice = named.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        twice.or(named.first().copied())
    }

    /// Waits until all nodes that are to have a partition hold the same, in every partition of a collection, and answers what.
    /// Nothing may be written meanwhile.
    ///
    /// # Errors
    /// When two have applied equally much and hold something else, or have not caught up after a minute.
    pub async fn converged(&self, class: &str) -> Result<BTreeMap<u32, Replica>> {
        let clients = self.clients(&self.nodes())?;
        let waiting = || format!("all replicas of {class} to catch up with each other");
        until(waiting, async || {
            let mut partitions: BTreeMap<u32, (usize, BTreeMap<u64, Replica>)> = BTreeMap::new();
            for (node, found) in replicas(&clients, class).await {
                for partition in found.into_iter().filter(|found| found.replicas.contains(&node)) {
                    let wanted = partition.replicas.len();
                    let held = partitions.entry(partition.partition_id).or_insert((wanted, BTreeMap::new()));
                    held.1.insert(node, replica(partition));
                }
            }
            let equal = partitions.iter().map(|(partition, (wanted, replicas))| {
                let same = same(replicas).map_err(|error| format!("{class}/{partition}: {error}"))?;
                Ok::<_, crate::Error>(
                    same.filter(|_| replicas.len() == *wanted).map(|replica| (*partition, replica)),
                )
            });
            let equal: Option<BTreeMap<u32, Replica>> = equal.collect::<Result<_>>()?;
            Ok(equal.filter(|partitions| !partitions.is_empty()))
        })
        .await
    }

    /// Has each node prove its logs and views of a collection.
    ///
    /// # Errors
    /// What is wrong, and where; also where a partition was not proven.
    pub async fn prove(&self, class: &str, partitions: u32) -> Result<()> {
        for (node, client) in self.clients(&self.nodes())? {
            let request = VerifyRequest { cls_id: class.to_owned(), partition_id: None };
            let mut admin = client.admin;
            let logs = admin.verify(request.clone()).await?.into_inner();
            let views = admin.verify_view(request).await?.into_inner();
            for (what, proofs) in [("log", logs), ("view", views)] {
                let proven =
                    proven(proofs).await.map_err(|error| format!("the {what} of node {node}: {error}"))?;
                if proven != partitions {
                    return Err(format!("node {node} proved the {what} of {proven} partitions").into());
                }
            }
        }
        Ok(())
    }

    fn clients(&self, nodes: &[u64]) -> Result<Vec<(u64, Connection)>> {
        nodes.iter().map(|node| Ok((*node, self.client(*node)?))).collect()
    }
}

/// Whom each node names, 0 if it knows of nobody; only those that answer.
async fn leaders(clients: &[(u64, Connection)], class: &str, partition: u32) -> BTreeMap<u64, u64> {
    let asked = clients.iter().map(|(node, client)| async {
        let request = DescribeCollectionRequest { name: class.to_owned() };
        let mut admin = client.admin.clone();
        let described = within(ASK, admin.describe_collection(request)).await?.ok()?.into_inner();
        let found = described.partitions.iter().find(|found| found.partition_id == partition)?;
        Some((*node, found.leader))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What each node holds of a collection; only those that answer.
async fn replicas(clients: &[(u64, Connection)], class: &str) -> BTreeMap<u64, Vec<Partition>> {
    let asked = clients.iter().map(|(node, client)| async {
        let request = ListPartitionsRequest { cls_id: class.to_owned() };
        let mut admin = client.admin.clone();
        let listed = within(ASK, admin.list_partitions(request)).await?.ok()?.into_inner();
        Some((*node, listed.partitions))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn replica(partition: Partition) -> Replica {
    Replica { applied: partition.applied_offset, chain: partition.chain, state_hash: partition.state_hash }
}

/// What all replicas hold; none if they are not equally far yet.
fn same(replicas: &BTreeMap<u64, Replica>) -> Result<Option<Replica>> {
    for (node, replica) in replicas {
        let differs = |other: &&Replica| other.applied == replica.applied && *other != replica;
        if let Some(other) = replicas.values().find(differs) {
            return Err(format!("node {node} has {replica:?}, another {other:?}").into());
        }
    }
    let mut all = replicas.values();
    let first = all.next().cloned();
    Ok(first.filter(|first| all.all(|other| other == first)))
}

/// How many partitions were proven.
async fn proven(mut proofs: Streaming<VerifyResponse>) -> Result<u32> {
    let mut proven = 0;
    while let Some(proof) = proofs.message().await? {
        match proof.result {
            Some(result) if !result.ok => {
                return Err(format!("partition {}: {}", proof.partition_id, result.problem).into());
            }
            Some(_) => proven += 1,
            None => {}
        }
    }
    Ok(proven)
}
