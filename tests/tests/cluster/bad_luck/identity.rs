//! Nodes that are not who they say they are.

use std::fs;

use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Home, Layout, Wire};

use super::{refusal, things, until_answered};
use crate::{CLASS, Story};

/// Another process that takes itself for a node.
fn twin(cluster: &Cluster, node: u64) -> Result<Home> {
    let mut twin = cluster.home(node)?.twin()?;
    for (port, value) in
        [("ODGM_HTTP_PORT", "0"), ("OPRC_ZENOH_PORT", "0"), ("ODGM_TCP_LISTEN", "127.0.0.1:0")]
    {
        twin.set(port, value);
    }
    Ok(twin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_under_an_old_id_is_refused_and_gets_no_vote() -> Story {
    let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
    things(&cluster, 1)?.set_value("thing", "k", "kept").await?;
    cluster.converged(CLASS).await?;
    cluster.kill(&[2]).await?;
    fs::remove_dir_all(cluster.home(2)?.data())?;
    cluster.begin_to_start(2)?;
    // It says so itself, and so do those that refuse it.
    for node in [2, 1] {
        let said = cluster.said(node, "if its disk was lost, run `odgm cluster readmit 2`").await?;
        assert!(said.contains("node 2 is known to the cluster with data directory"), "{said}");
    }
    assert!(!cluster.serves(2).await?, "it is not part of the cluster");
    // The two others are enough.
    let kept_on =
        async || Ok(things(&cluster, 3)?.once("kept-on").set_value("thing", "k", "kept on").await?);
    until_answered(kept_on).await?;

    // With the empty one, one that is left is no quorum.
    cluster.kill(&[1, 3]).await?;
    cluster.begin_to_start(3)?;
    cluster.said(3, "members do not answer").await?;
    let refused = refusal(things(&cluster, 3)?.set_value("thing", "k", "lost")).await?;
    println!("one of three, and an empty one: {refused}");
    assert!(!cluster.serves(2).await?);
    cluster.start(&[1]).await?;
    cluster.in_service(&[3]).await?;
    for node in [1, 3] {
        let held = until_answered(async || Ok(things(&cluster, node)?.value("thing", "k").await?)).await?;
        assert_eq!(held.as_deref(), Some("kept on"), "node {node}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_under_one_id_is_refused_and_changes_nothing() -> Story {
    second_process(Wire::Zenoh).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_under_one_id_is_refused_and_changes_nothing_over_tcp() -> Story {
    second_process(Wire::Tcp).await
}

async fn second_process(wire: Wire) -> Story {
    let cluster = Layout::of(3).wire(wire).collection(CLASS, 1).start().await?;
    things(&cluster, 1)?.set_value("thing", "k", "1").await?;

    // One with a directory of its own is told apart by that.
    let empty = twin(&cluster, 2)?;
    let second = empty.listen().await?;
    cluster.said(1, "end the second process that has its id").await?;
    // Over TCP the answers go to where the operator says that the node is: the second process hears nobody.
    let hears = wire == Wire::Zenoh;
    let reason = if hears { "end the second process that has its id" } else { "does not answer yet" };
    until_output(|| second.output(), reason).await?;
    things(&cluster, 2)?.set_value("thing", "k", "2").await?;
    assert_eq!(things(&cluster, 2)?.value("thing", "k").await?.as_deref(), Some("2"));
    second.kill()?;

    // One with a copy of the directory cannot be told from the first: neither is listened to.
    cluster.kill(&[2]).await?;
    let copy = twin(&cluster, 2)?;
    cluster.home(2)?.copy_data_to(&copy)?;
    cluster.start(&[2]).await?;
    let second = copy.listen().await?;
    for node in [1, 2, 3] {
        cluster.said(node, "two processes speak as node 2").await?;
    }
    let reason = if hears { "two processes speak as node 2" } else { "members do not answer" };
    until_output(|| second.output(), reason).await?;
    until_answered(async || Ok(things(&cluster, 1)?.set_value("thing", "k", "3").await?)).await?;
    // When one of them is gone, the other is believed again.
    second.kill()?;
    cluster.said(2, "other nodes listen to this one again").await?;
    until_answered(async || Ok(things(&cluster, 2)?.value("thing", "k").await?)).await?;
    cluster.converged(CLASS).await?;
    cluster.prove(CLASS, 1).await
}

async fn until_output(output: impl Fn() -> String, words: &str) -> Story {
    let deadline = std::time::Instant::now() + super::PATIENCE;
    while !output().contains(words) {
        if std::time::Instant::now() > deadline {
            return Err(format!("waited in vain for {words:?} in:\n{}", output()).into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}
