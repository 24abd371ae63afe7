//! Losing nodes, one after the other and all at once, by accident and in order.

use std::time::{Duration, Instant};

use odgm_proto::odgm::v1::DescribeCollectionRequest;
use odgm_tests::harness::{Cluster, Layout, Retrying, Wire, fields, until};
use tonic::Code;

use crate::load::{Load, check, retrying};
use crate::{CLASS, Story};

/// Acknowledgements between two events of a story.
const SOME: u64 = 150;

/// How long a node may take to answer after it was started.
const PATIENCE: Duration = Duration::from_secs(30);

/// In the story of nodes that stop: nobody calls an election before it has missed a leader for so long, and far longer than
/// it takes to hand the lead over.
const ELECTION: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_and_answer_anywhere() -> Story {
    elect_and_answer_anywhere(Wire::Zenoh).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_and_answer_anywhere_over_tcp() -> Story {
    elect_and_answer_anywhere(Wire::Tcp).await
}

async fn elect_and_answer_anywhere(wire: Wire) -> Story {
    let cluster = Layout::of(3).wire(wire).collection(CLASS, 1).start().await?;
    let leader = cluster.leader(CLASS, 0).await?;
    for node in cluster.nodes() {
        let request = DescribeCollectionRequest { name: CLASS.to_owned() };
        let described = cluster.client(node)?.admin.describe_collection(request).await?.into_inner();
        let partition = described.partitions.first().ok_or("it has a partition")?;
        let mut replicas = partition.replicas.clone();
        replicas.sort_unstable();
        assert_eq!(replicas, cluster.nodes(), "as node {node} says");
        assert_eq!(partition.leader, leader, "as node {node} says");
    }
    // Whatever is acknowledged at one node is there at once at every other.
    for node in cluster.nodes() {
        let things = cluster.objects(node, CLASS, 0)?;
        let object = format!("thing-{node}");
        let first = things.set_value(&object, "k", "1").await?;
        assert_eq!(first.version, 1);
        for other in cluster.nodes() {
            let held = cluster.objects(other, CLASS, 0)?.value(&object, "k").await?;
            assert_eq!(held.as_deref(), Some("1"), "written at node {node}, read at node {other}");
        }
        assert_eq!(things.batch(&object, &[("k", "2")], &[], Some(1)).await?.version, 2);
        let refused =
            things.batch(&object, &[("k", "3")], &[], Some(1)).await.map_err(|refused| refused.code());
        assert_eq!(refused, Err(Code::Aborted), "it has changed");
        let whole = fields(&[("k", "2"), ("m", "merged")]);
        assert_eq!(things.merge(&object, &[("m", "merged")]).await?, whole);
        for other in cluster.nodes() {
            assert_eq!(cluster.objects(other, CLASS, 0)?.get(&object).await?, whole);
        }
        things.delete(&object).await?;
        for other in cluster.nodes() {
            assert_eq!(cluster.objects(other, CLASS, 0)?.find(&object).await?, None);
        }
    }
    cluster.converged(CLASS).await?;
    cluster.prove(CLASS, 1).await
}

/// That would be final, and clients would give up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_does_not_say_that_there_is_no_such_collection() -> Story {
    const STARTS: usize = 3;
    let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
    for start in 0..STARTS {
        // Without waiting for anything after the nodes say that they serve.
        for node in cluster.nodes() {
            let things = cluster.objects(node, CLASS, 0)?;
            let written = things.set_value("thing", "k", "1").await;
            written.map_err(|status| format!("start {start}, node {node}, which serves: {status}"))?;
        }
        cluster.kill(&cluster.nodes()).await?;
        for node in cluster.nodes() {
            cluster.begin_to_start(node)?;
        }
        // As long as they do not serve they may refuse, but only for now.
        for node in cluster.nodes() {
            let mut client = Retrying::new(vec![cluster.objects(node, CLASS, 0)?], PATIENCE);
            let held = client.ask(|things| async move { things.value("thing", "k").await }).await;
            let held =
                held.map_err(|status| format!("start {start}, node {node}, which starts: {status}"))?;
            assert_eq!(held.as_deref(), Some("1"));
        }
        cluster.in_service(&cluster.nodes()).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_leader_loses_nothing() -> Story {
    let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
    kill_leaders(&cluster, 4).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_leader_loses_nothing_with_several_zenoh_sessions() -> Story {
    const SESSIONS: u64 = 3;
    let cluster = Layout::of(3).with("ODGM_MAX_SESSIONS", &SESSIONS.to_string());
    let cluster = cluster.collection(CLASS, 1).start().await?;
    // All but the first listen nowhere, so that each has to connect to each other node.
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        let waiting = || format!("the sessions of node {from} to connect to node {to}");
        until(waiting, async || Ok((cluster.network().connections(from, to) >= SESSIONS - 1).then_some(())))
            .await?;
    }
    kill_leaders(&cluster, 2).await
}

async fn kill_leaders(cluster: &Cluster, kills: usize) -> Story {
    let mut load = Load::begin(cluster, 6)?;
    for kill in 0..kills {
        load.proceed(SOME).await?;
        let leader = cluster.leader(CLASS, 0).await?;
        let begun = Instant::now();
        cluster.kill(&[leader]).await?;
        load.proceed(1).await?;
        println!("kill {kill}, of node {leader}: written again after {:?}", begun.elapsed());
        load.proceed(SOME).await?;
        cluster.start(&[leader]).await?;
    }
    let written = load.end().await?;
    println!("{written:?}");
    assert!(written.iter().any(|written| written.retries > 0), "no kill hit a request: nothing was tested");
    cluster.converged(CLASS).await?;
    for node in cluster.nodes() {
        check(cluster, node, &written).await?;
    }
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_killed_at_once_lose_nothing_acknowledged() -> Story {
    const KILLS: usize = 3;
    let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
    let mut load = Load::begin(&cluster, 6)?;
    for _ in 0..KILLS {
        load.proceed(2 * SOME).await?;
        cluster.kill(&cluster.nodes()).await?;
        cluster.start(&cluster.nodes()).await?;
    }
    load.proceed(SOME).await?;
    let written = load.end().await?;
    println!("{written:?}");
    assert!(written.iter().any(|written| written.retries > 0), "no kill hit a request: nothing was tested");
    cluster.converged(CLASS).await?;
    for node in cluster.nodes() {
        check(&cluster, node, &written).await?;
    }
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_hands_its_leadership_over() -> Story {
    let cluster = Layout::of(3)
        .with("ODGM_ELECTION_MIN_MS", &ELECTION.as_millis().to_string())
        .with("ODGM_ELECTION_MAX_MS", &(ELECTION + ELECTION / 4).as_millis().to_string())
        .collection(CLASS, 1)
        .start()
        .await?;
    // The first one is elected, which may take as long.
    cluster.leader(CLASS, 0).await?;
    let mut load = Load::begin(&cluster, 6)?;
    let mut stopped = Vec::new();
    // A rolling restart that begins with whoever leads, so that leaders are stopped.
    while stopped.len() < cluster.nodes().len() {
        load.proceed(SOME).await?;
        let leader = cluster.leader(CLASS, 0).await?;
        let next = cluster.nodes().into_iter().filter(|node| !stopped.contains(node));
        let node = next.max_by_key(|node| *node == leader).ok_or("one is left")?;
        let begun = Instant::now();
        cluster.stop(node).await?;
        println!("node {node} stopped in {:?}; node {leader} led", begun.elapsed());
        load.proceed(SOME).await?;
        assert_ne!(cluster.leader(CLASS, 0).await?, node, "it has stopped");
        cluster.start(&[node]).await?;
        stopped.push(node);
    }
    let written = load.end().await?;
    println!("{written:?}");
    for written in &written {
        assert!(
            written.longest < ELECTION,
            "a leader that stopped was missed until an election: {written:?}"
        );
    }
    cluster.converged(CLASS).await?;
    for node in cluster.nodes() {
        check(&cluster, node, &written).await?;
    }
    // A client that has not been there before needs no retries now.
    let mut client = retrying(&cluster, 0)?;
    client.write("last", |things| async move { things.set_value("last", "k", "1").await }).await?;
    assert_eq!(client.retries, 0);
    Ok(())
}
