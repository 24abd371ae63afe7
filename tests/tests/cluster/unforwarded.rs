//! Calls in a cluster whose nodes pass nothing on for clients: what the nodes owe each other arrives all the same.

use odgm_proto::metadata::consistency::LOCAL;
use odgm_proto::odgm::v1::MoveLeadersRequest;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Earliest, Event};
use odgm_proto::oprc::CreateCollectionRequest;
use odgm_tests::Result;
use odgm_tests::harness::{Attached, Cluster, Functions, Gate, Layout, Objects, routed, target, until};
use tonic::Code;

use crate::{CLASS, Story};

/// Where the triggers are.
const SOURCES: &str = "sources";

async fn begin(replicas: i32) -> Result<(Cluster, Functions)> {
    let cluster = Layout::of(3).with("ODGM_FORWARD", "false").start().await?;
    let functions = Functions::start().await?;
    let collection = routed(CLASS, 1, &["echo"], &functions.url());
    let shard_type = "raft".to_owned();
    let collection = CreateCollectionRequest { replica_count: replicas, shard_type, ..collection };
    cluster.create_as(collection).await?;
    cluster.leader(CLASS, 0).await?;
    Ok((cluster, functions))
}

/// Has a partition led by another node.
async fn move_leader(cluster: &Cluster) -> Result<u64> {
    let before = cluster.leader(CLASS, 0).await?;
    let mut admin = cluster.client(before)?.admin.clone();
    admin.move_leaders(MoveLeadersRequest { from: before.to_string() }).await?;
    let waiting = || format!("another leader than node {before}");
    until(waiting, async || {
        let leader = cluster.leader(CLASS, 0).await?;
        Ok((leader != before).then_some(leader))
    })
    .await
}

/// The outcomes that a replica has, when there are some.
async fn outcomes(things: &Objects) -> Result<Vec<Event>> {
    let waiting = || "an outcome".to_owned();
    until(waiting, async || {
        let mut events = things.watch_until_current(From::Earliest(Earliest {})).await?;
        events.retain(|event| event.outcome.is_some());
        Ok((!events.is_empty()).then_some(events))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_partition_is_led_by_another_node_in_the_end_is_recorded_there() -> Story {
    let (cluster, functions) = begin(3).await?;
    let leader = cluster.leader(CLASS, 0).await?;
    let things = cluster.objects(leader, CLASS, 0)?;
    functions.hold("echo", Gate::BeforeAnswer);
    let call = tokio::spawn(async move { things.invoke(Some("a"), "echo", "hi").await });
    functions.held(1).await?;
    move_leader(&cluster).await?;
    functions.release("echo");
    let answer = call.await??;
    assert_eq!(answer.payload.as_deref(), Some(b"hi".as_slice()));
    // Followers refuse to be asked for what is newest, too.
    let leader = cluster.leader(CLASS, 0).await?;
    let found = outcomes(&cluster.objects(leader, CLASS, 0)?).await?;
    let ids: Vec<_> = found.iter().filter_map(|event| event.outcome.as_ref()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(ids[0].invocation_id, answer.invocation_id);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_reaches_a_partition_whoever_of_its_nodes_leads() -> Story {
    let (cluster, _functions) = begin(2).await?;
    cluster.create(SOURCES, 3, 1, &[]).await?;
    // The node that has none of the target's replicas, and what it has of the sources.
    let mut with = Vec::new();
    let mut without = None;
    for node in cluster.nodes() {
        match cluster.objects(node, CLASS, 0)?.reading(LOCAL).find("a").await {
            Ok(_) => with.push(node),
            Err(status) if status.code() == Code::FailedPrecondition => without = Some(node),
            Err(status) => return Err(status.into()),
        }
    }
    let without = without.ok_or("each node has a replica")?;
    let sources = (0..3).map(|partition| cluster.objects(without, SOURCES, partition));
    let sources = sources.collect::<Result<Vec<_>>>()?;
    let waiting = || format!("node {without} to take writes of a partition");
    let things = until(waiting, async || {
        for things in &sources {
            let called = target(CLASS, 0, Some("a"), "echo");
            // Those that are elsewhere refuse.
            if things.attach("s", Attached::none().on_write("k", called)).await.is_ok() {
                return Ok(Some(things.clone()));
            }
        }
        Ok(None)
    })
    .await?;

    // Whichever node is asked first, it follows once.
    for round in 1..=with.len() {
        things.set_value("s", "k", "").await?;
        let leader = cluster.leader(CLASS, 0).await?;
        let there = cluster.objects(leader, CLASS, 0)?;
        let waiting = || format!("outcome {round} at node {leader}");
        until(waiting, async || Ok((outcomes(&there).await?.len() == round).then_some(()))).await?;
        move_leader(&cluster).await?;
    }
    Ok(())
}
