//! A collection is deleted, and a node was not there.

use odgm_proto::odgm::v1::{DeleteCollectionRequest, DescribeCollectionRequest};
use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Layout, until};
use tonic::Code;

use crate::{CLASS, Story};

/// The node that is away.
const AWAY: u64 = 3;

/// Whether a node has files of a group.
fn has_files(cluster: &Cluster, node: u64, group: u32) -> Result<bool> {
    let data = cluster.data(node)?;
    Ok(["views", "snapshots"].iter().any(|folder| data.join(folder).join(group.to_string()).exists()))
}

async fn files_are_gone(cluster: &Cluster, node: u64, group: u32) -> Story {
    let waiting = || format!("node {node} to remove what it had of the collection");
    until(waiting, async || Ok((!has_files(cluster, node, group)?).then_some(()))).await
}

/// The groups of the collection's partitions as a node knows it; none if it says that there is no such collection.
async fn groups(cluster: &Cluster, node: u64) -> Result<Option<Vec<u32>>> {
    let request = DescribeCollectionRequest { name: CLASS.to_owned() };
    match cluster.client(node)?.admin.describe_collection(request).await {
        Ok(described) => {
            let partitions = described.into_inner().partitions;
            Ok(Some(partitions.iter().map(|partition| partition.group).collect()))
        }
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_was_deleted_does_not_come_back_with_a_node_that_was_away() -> Story {
    let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
    cluster.objects(1, CLASS, 0)?.set_value("thing", "k", "1").await?;
    cluster.converged(CLASS).await?;
    let known = groups(&cluster, 1).await?.ok_or("it was created")?;
    let [group] = known.as_slice() else { return Err(format!("one partition, not {known:?}").into()) };
    for node in cluster.nodes() {
        assert!(has_files(&cluster, node, *group)?, "node {node}");
    }

    cluster.kill(&[AWAY]).await?;
    let admin = cluster.client(2)?.admin;
    let waiting = || "node 2 to delete the collection".to_owned();
    until(waiting, async || {
        let request = DeleteCollectionRequest { name: CLASS.to_owned() };
        match admin.clone().delete_collection(request).await {
            Ok(_) => Ok(Some(())),
            // An earlier try did it.
            Err(status) if status.code() == Code::NotFound => Ok(Some(())),
            // The node that is away may have led the catalogue.
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown) => Ok(None),
            Err(status) => Err(status.into()),
        }
    })
    .await?;
    for node in cluster.awake() {
        files_are_gone(&cluster, node, *group).await?;
    }
    assert!(has_files(&cluster, AWAY, *group)?, "it was away");

    // All of them are told again to create it.
    cluster.kill(&cluster.awake()).await?;
    cluster.start(&cluster.nodes()).await?;
    for node in cluster.nodes() {
        files_are_gone(&cluster, node, *group).await?;
    }
    // Whatever the nodes did about what they were told is in the catalogue before this one.
    cluster.create("later", 1, 3, &[]).await?;
    for node in cluster.nodes() {
        assert_eq!(groups(&cluster, node).await?, None, "node {node}");
        assert!(!has_files(&cluster, node, *group)?, "node {node}");
    }
    Ok(())
}
