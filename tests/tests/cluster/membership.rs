//! Nodes that come, go, and are replaced while clients write, all by the `odgm cluster` command.

use odgm_proto::metadata::consistency::LOCAL;
use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Layout};
use serde_json::Value;

use crate::load::{Load, Written, check};
use crate::{CLASS, Story};

/// Acknowledgements between two events of a story.
const SOME: u64 = 100;

/// The partitions of the collection; the clients write to the first.
const PARTITIONS: u32 = 4;

/// Objects of each of the others.
const FILLINGS: u32 = 50;

/// Runs `odgm cluster` at a node and answers what it printed.
async fn cluster_command(cluster: &Cluster, node: u64, line: &str) -> Result<String> {
    let words: Vec<&str> = ["cluster"].into_iter().chain(line.split(' ')).collect();
    let told = cluster.odgm(node, &words).await?.success();
    let told = told.map_err(|error| format!("odgm cluster {line}, at node {node}: {error}"))?;
    println!("$ odgm cluster {line}\n{told}");
    Ok(told)
}

/// The same, as JSON.
async fn asked(cluster: &Cluster, node: u64, line: &str) -> Result<Value> {
    Ok(serde_json::from_str(&cluster_command(cluster, node, &format!("{line} --json")).await?)?)
}

/// The numbers under a name in each document of a list.
fn numbers(list: &Value, name: &str) -> Vec<u64> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|item| item[name].as_u64()).collect()
}

/// A list of numbers in their order.
fn sorted(list: &Value) -> Vec<u64> {
    let mut numbers: Vec<u64> = list.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    numbers.sort_unstable();
    numbers
}

/// The changes of a plan but those of the leader alone.
fn moves_of_data(plan: &Value) -> Vec<&Value> {
    let moves = plan["moves"].as_array().into_iter().flatten();
    moves.filter(|change| sorted(&change["from"]) != sorted(&change["to"])).collect()
}

/// The nodes that have the partition the clients write to.
async fn holders(cluster: &Cluster, node: u64) -> Result<Vec<u64>> {
    let status = asked(cluster, node, "status").await?;
    assert_eq!(status["moving"], 0, "{status}");
    Ok(numbers(&status["partitions"][0]["replicas"], "node"))
}

/// Requires that all that was written is there, on every node that is to have it, and the same everywhere.
async fn check_everywhere(cluster: &Cluster, node: u64, written: &[Written]) -> Story {
    cluster.converged(CLASS).await?;
    for holder in holders(cluster, node).await? {
        check(cluster, holder, written).await?;
    }
    let status = asked(cluster, node, "status").await?;
    let partitions = status["partitions"].as_array().into_iter().flatten();
    let mut seen = 0;
    for (partition, placed) in (0..).zip(partitions).filter(|(partition, _)| *partition > 0) {
        for holder in numbers(&placed["replicas"], "node") {
            let things = cluster.objects(holder, CLASS, partition)?.reading(LOCAL);
            for filling in [0, FILLINGS - 1] {
                let held = things.value(&format!("filling-{filling}"), "k").await?;
                assert_eq!(held, Some(filling.to_string()), "partition {partition} on node {holder}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 2 * (PARTITIONS - 1), "{status}");
    Ok(())
}

/// Something in every partition, so that there is something to move.
async fn fill(cluster: &Cluster) -> Story {
    for partition in 0..PARTITIONS {
        let things = cluster.objects(1, CLASS, partition)?;
        let writes = (0..FILLINGS).map(|n| (format!("filling-{n}"), "k", n.to_string()));
        // The clients count the events of the first.
        if partition > 0 {
            things.set_values(writes.collect()).await?;
        }
    }
    Ok(())
}

/// Starts a node that nobody has heard of, and lets it in as it says itself.
async fn let_in(cluster: &Cluster, node: u64, at: u64) -> Story {
    cluster.begin_to_start(node)?;
    cluster.said(node, &format!("odgm cluster add {node}")).await?;
    cluster_command(cluster, at, &format!("add {node}")).await?;
    cluster.in_service(&[node]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_under_load_and_spreads_what_it_has() -> Story {
    let cluster = Layout::of(3).spare(2).collection(CLASS, PARTITIONS).start().await?;
    fill(&cluster).await?;
    let mut load = Load::begin(&cluster, 4)?;
    load.proceed(SOME).await?;
    for node in [4, 5] {
        let_in(&cluster, node, node - 3).await?;
        let planned = asked(&cluster, 1, "rebalance --dry-run").await?;
        assert_eq!(planned["done"], false);
        assert!(!moves_of_data(&planned).is_empty(), "{planned}");
        // The new node is asked, so it knows already.
        let done = asked(&cluster, node, "rebalance --yes").await?;
        assert_eq!(done["done"], true);
        assert_eq!(moves_of_data(&done), moves_of_data(&planned), "what was shown is what is done");
        load.proceed(SOME).await?;
    }
    let again = asked(&cluster, 5, "rebalance --dry-run").await?;
    let moves_data = |change: &Value| sorted(&change["from"]) != sorted(&change["to"]);
    assert!(
        !again["moves"].as_array().into_iter().flatten().any(moves_data),
        "nothing is left to move: {again}"
    );
    let written = load.end().await?;
    println!("{written:?}");

    let nodes = asked(&cluster, 2, "list").await?["nodes"].clone();
    assert_eq!(numbers(&nodes, "node"), [1, 2, 3, 4, 5]);
    let mut replicas = numbers(&nodes, "replicas");
    replicas.sort_unstable();
    assert_eq!(replicas, [2, 2, 2, 3, 3], "twelve replicas on five nodes");
    let mut preferred = numbers(&asked(&cluster, 2, "status").await?["partitions"], "preferred_leader");
    preferred.sort_unstable();
    preferred.dedup();
    assert_eq!(preferred.len(), PARTITIONS as usize, "each is to be led by another node");
    let voters = nodes.as_array().into_iter().flatten().filter(|node| node["role"] == "voter");
    assert_eq!(voters.count(), 5);
    check_everywhere(&cluster, 1, &written).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_and_leaves_under_load() -> Story {
    let cluster = Layout::of(3).spare(1).collection(CLASS, PARTITIONS).start().await?;
    fill(&cluster).await?;
    let (code, refused) = cluster.odgm(1, &["cluster", "remove", "1", "--yes"]).await?.failure()?;
    assert_eq!(code, 1);
    assert!(refused.contains("--fewer-replicas") && refused.contains("odgm cluster add"), "{refused}");
    let mut load = Load::begin(&cluster, 4)?;
    let_in(&cluster, 4, 2).await?;
    load.proceed(SOME).await?;
    let leader = cluster.leader(CLASS, 0).await?;
    cluster_command(&cluster, 4, &format!("move-leaders {leader}")).await?;
    load.proceed(SOME).await?;
    assert_ne!(cluster.leader(CLASS, 0).await?, leader, "it handed over");
    cluster_command(&cluster, 4, "rebalance --leaders --yes").await?;
    for partition in asked(&cluster, 4, "status").await?["partitions"].as_array().into_iter().flatten() {
        assert_eq!(partition["leader"], partition["preferred_leader"], "{partition}");
    }
    // Whoever leads the partition that is written to, so that it has to be handed over.
    let leaving = cluster.leader(CLASS, 0).await?;
    let other = if leaving == 1 { 2 } else { 1 };
    let (code, refused) = cluster.odgm(other, &["cluster", "remove", "9", "--yes"]).await?.failure()?;
    assert_eq!(code, 3, "{refused}");
    // It takes it from the node itself, too, which then knows only that it has left.
    cluster_command(&cluster, leaving, &format!("remove {leaving} --yes")).await?;
    load.proceed(SOME).await?;
    cluster.said(leaving, "this node has left the cluster").await?;
    cluster.stop(leaving).await?;
    load.proceed(SOME).await?;
    let written = load.end().await?;
    println!("{written:?}");

    let nodes = asked(&cluster, other, "list").await?["nodes"].clone();
    assert_eq!(nodes.as_array().map(Vec::len), Some(3), "{nodes}");
    assert!(!numbers(&nodes, "node").contains(&leaving));
    check_everywhere(&cluster, other, &written).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_replaced_under_load() -> Story {
    let cluster = Layout::of(3).spare(1).collection(CLASS, PARTITIONS).start().await?;
    fill(&cluster).await?;
    let mut load = Load::begin(&cluster, 4)?;
    load.proceed(SOME).await?;
    let dead = cluster.leader(CLASS, 0).await?;
    let other = if dead == 1 { 2 } else { 1 };
    cluster.kill(&[dead]).await?;
    cluster.wipe(dead)?;
    load.proceed(SOME).await?;
    cluster.begin_to_start(4)?;
    cluster.said(4, "odgm cluster add 4").await?;
    // It is let in by that, too.
    cluster_command(&cluster, other, &format!("replace {dead} 4 --yes")).await?;
    cluster.in_service(&[4]).await?;
    load.proceed(SOME).await?;
    let written = load.end().await?;
    println!("{written:?}");

    let nodes = asked(&cluster, 4, "list").await?["nodes"].clone();
    assert!(!numbers(&nodes, "node").contains(&dead), "{nodes}");
    assert_eq!(numbers(&nodes, "replicas"), [4, 4, 4], "it has all that the dead one had");
    check_everywhere(&cluster, other, &written).await?;
    // The catalogue has a majority without the dead one: it can lose another node.
    cluster.kill(&[other]).await?;
    let left = if other + dead == 3 { 3 } else { 3 - other };
    cluster.odgm(left, &["collection", "create", "late", "--type", "raft"]).await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_is_refused_until_the_node_is_readmitted() -> Story {
    let cluster = Layout::of(3).collection(CLASS, PARTITIONS).start().await?;
    fill(&cluster).await?;
    let mut load = Load::begin(&cluster, 4)?;
    load.proceed(SOME).await?;
    cluster.kill(&[3]).await?;
    cluster.wipe(3)?;
    let (code, early) = cluster.odgm(1, &["cluster", "readmit", "3", "--yes"]).await?.failure()?;
    assert_eq!(code, 1);
    assert!(early.contains("start it on its new, empty data directory"), "{early}");
    cluster.begin_to_start(3)?;
    cluster.said(3, "odgm cluster readmit 3").await?;
    let refused = cluster.objects(3, CLASS, 0)?.value("writer-0", "k").await;
    let refused = refused.err().map(|status| status.message().to_owned()).unwrap_or_default();
    assert!(refused.contains("odgm cluster readmit 3"), "clients are told, too: {refused:?}");
    load.proceed(SOME).await?;
    let nodes = asked(&cluster, 1, "list").await?["nodes"].clone();
    let old = nodes[2]["incarnation"].clone();
    assert_eq!(nodes[2]["reachable"], false, "it does not count: {nodes}");

    cluster_command(&cluster, 1, "readmit 3 --yes").await?;
    cluster.in_service(&[3]).await?;
    load.proceed(SOME).await?;
    let written = load.end().await?;
    println!("{written:?}");
    let nodes = asked(&cluster, 3, "list").await?["nodes"].clone();
    assert_ne!(nodes[2]["incarnation"], old);
    assert_eq!(numbers(&nodes, "replicas"), [4, 4, 4]);
    check_everywhere(&cluster, 3, &written).await
}
