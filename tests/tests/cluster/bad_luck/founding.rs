//! Lists of members that do not agree.

use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Home, Layout};

use super::things;
use crate::{CLASS, Story};

/// Why a node does not start on its directory, which stays as it is.
fn start_refused(cluster: &Cluster, node: u64) -> Result<String> {
    let home = cluster.home(node)?;
    let refusal = home.refused()?;
    assert!(!refusal.status.success(), "{}", refusal.output);
    let error = refusal.output.lines().rfind(|line| line.starts_with("odgm: "));
    let error = error.ok_or_else(|| format!("no error among:\n{}", refusal.output))?;
    Ok(error.replace(&home.data().display().to_string(), "DATA"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_differ_found_no_cluster_until_they_agree() -> Story {
    let mut cluster = Layout::of(4)
        .with("ODGM_MEMBERS", "1,2,3")
        .with_at(2, "ODGM_MEMBERS", "1,2,4")
        .with_at(4, "ODGM_MEMBERS", "1,2,4")
        .prepare()
        .await?;
    for node in cluster.nodes() {
        cluster.begin_to_start(node)?;
    }
    for (node, words) in [
        (1, "ODGM_MEMBERS names nodes 1, 2, 3 here and 1, 2, 4 at node 2: give all of them the same list"),
        (2, "ODGM_MEMBERS names nodes 1, 2, 4 here and 1, 2, 3 at node 1: give all of them the same list"),
        (3, "ODGM_MEMBERS names nodes 1, 2, 3 here and 1, 2, 4 at node 2: give all of them the same list"),
    ] {
        cluster.said(node, words).await?;
    }
    for node in cluster.nodes() {
        assert!(!cluster.serves(node).await?, "node {node} is part of no cluster");
    }
    // Mended, it is founded at once by all who are named.
    cluster.kill(&[2]).await?;
    cluster.set(2, "ODGM_MEMBERS", "3,2,1")?;
    cluster.begin_to_start(2)?;
    cluster.in_service(&[1, 2, 3]).await?;
    // The fourth one is in nobody's list but its own.
    cluster.said(4, "node 4 is not part of this cluster: to let it in, run `odgm cluster add 4`").await?;
    assert!(!cluster.serves(4).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_is_missing_is_waited_for_and_named() -> Story {
    let cluster = Layout::of(3).prepare().await?;
    cluster.begin_to_start(1)?;
    cluster.begin_to_start(2)?;
    for node in [1, 2] {
        cluster.said(node, "node 3 does not answer yet: start it, or correct ODGM_MEMBERS").await?;
        assert!(!cluster.serves(node).await?);
    }
    cluster.begin_to_start(3)?;
    cluster.in_service(&[1, 2, 3]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_not_that_of_the_directory_is_not_heeded_or_refused() -> Story {
    let mut cluster = Layout::of(3).collection(CLASS, 1).start().await?;
    things(&cluster, 1)?.set_value("thing", "k", "1").await?;
    // A list that was not kept up to date, or has a slip: the directory knows better.
    cluster.kill(&[1]).await?;
    cluster.set(1, "ODGM_MEMBERS", "1,2,4")?;
    cluster.start(&[1]).await?;
    let said = cluster.said(1, "ODGM_MEMBERS differs from the members of this node's cluster").await?;
    assert!(said.contains("`odgm cluster` changes one"), "{said}");
    assert_eq!(things(&cluster, 1)?.value("thing", "k").await?.as_deref(), Some("1"));
    // A list that names none of them is of another cluster.
    cluster.kill(&[1]).await?;
    cluster.set(1, "ODGM_MEMBERS", "4,5,6")?;
    insta::assert_snapshot!(start_refused(&cluster, 1)?, @"odgm: the data directory DATA belongs to a cluster of nodes 1, 2, 3, and ODGM_MEMBERS names 4, 5, 6, none of them: correct ODGM_MEMBERS or ODGM_DATA_DIR");
    cluster.set(1, "ODGM_MEMBERS", "1,2,3")?;
    cluster.start(&[1]).await?;
    cluster.converged(CLASS).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_of_a_lone_node_is_refused_in_a_cluster() -> Story {
    let cluster = Layout::of(3).prepare().await?;
    let alone = Home::new()?.with("ODGM_NODE_ID", "2").collection(CLASS, 1);
    let node = alone.start().await?;
    node.objects(CLASS, 0).set_value("thing", "k", "1").await?;
    node.stop()?;
    alone.copy_data_to(cluster.home(2)?)?;
    insta::assert_snapshot!(start_refused(&cluster, 2)?, @"odgm: the data directory DATA is of a node that was never part of a cluster, and ODGM_MEMBERS names 3 nodes: start it without ODGM_MEMBERS, or begin the cluster on empty directories and import what this one exports");
    Ok(())
}
