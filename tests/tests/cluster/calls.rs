//! Functions that a cluster calls while its nodes come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Earliest, Event, ListPartitionsRequest};
use odgm_proto::oprc::CreateCollectionRequest;
use odgm_tests::Result;
use odgm_tests::harness::{
    Answer, Attached, Cluster, Functions, Gate, Layout, Objects, Retrying, Way, routed, target, until,
};
use tonic::Code;

use crate::load::{Load, everywhere, retrying};
use crate::{CLASS, Story};

/// Acknowledgements between two events of a story.
const SOME: u64 = 100;

/// As many writers as [`Load`] is told to have.
const WRITERS: usize = 4;

/// How long a request is tried in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Far longer than a call takes.
const WAIT_MS: u32 = 60_000;

/// Three nodes, and a collection under Raft whose functions write to any of them.
async fn begin(options: &[(&str, &str)]) -> Result<(Cluster, Functions)> {
    let cluster = Layout::of(3).start().await?;
    let functions = Functions::start().await?;
    let nodes = cluster.nodes().into_iter().map(|node| cluster.address(node));
    functions.write_to(&nodes.collect::<Result<Vec<_>>>()?)?;
    create(&cluster, CLASS, 1, 3, options, &functions).await?;
    // Whoever is to lead next knows the group by then.
    cluster.converged(CLASS).await?;
    Ok((cluster, functions))
}

async fn create(
    cluster: &Cluster,
    class: &str,
    partitions: u32,
    replicas: i32,
    options: &[(&str, &str)],
    functions: &Functions,
) -> Story {
    let mut collection = routed(class, partitions, &["count", "echo"], &functions.url());
    collection.options =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let is_local = replicas == 0;
    let (replica_count, shard_type) = if is_local { (1, "basic") } else { (replicas, "raft") };
    let shard_type = shard_type.to_owned();
    cluster.create_as(CreateCollectionRequest { replica_count, shard_type, ..collection }).await?;
    for partition in 0..partitions {
        // The first write waits for the leader.
        let nodes = cluster.nodes().into_iter().map(|node| cluster.objects(node, class, partition));
        let mut client = Retrying::new(nodes.collect::<Result<_>>()?, PATIENCE);
        client.write("first", |things| async move { things.set_value("first", "k", "").await }).await?;
    }
    Ok(())
}

/// Some node that answers.
fn anywhere(cluster: &Cluster) -> Result<Objects> {
    let awake = cluster.awake();
    cluster.objects(*awake.first().ok_or("no node is awake")?, CLASS, 0)
}

/// The outcomes in the log of a partition, by the ids of their calls, each once.
async fn outcomes(things: &Objects) -> Result<BTreeMap<String, Event>> {
    let mut found = BTreeMap::new();
    for event in things.watch_until_current(From::Earliest(Earliest {})).await? {
        let Some(outcome) = &event.outcome else { continue };
        let id = outcome.invocation_id.clone();
        if let Some(first) = found.insert(id.clone(), event) {
            return Err(format!("{id} ended at {}, and again", first.offset).into());
        }
    }
    Ok(found)
}

/// Requires that the outcomes are the same at every node, and answers their number.
async fn agreed(cluster: &Cluster) -> Result<usize> {
    cluster.converged(CLASS).await?;
    let first = outcomes(&cluster.objects(1, CLASS, 0)?).await?;
    for node in cluster.nodes() {
        let there = outcomes(&cluster.objects(node, CLASS, 0)?).await?;
        if there != first {
            return Err(format!("node {node} has other outcomes than node 1").into());
        }
    }
    Ok(first.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_while_it_calls_is_followed_by_one_that_calls_again() -> Story {
    let (cluster, functions) = begin(&[]).await?;
    let called = target(CLASS, 0, Some("tally"), "count");
    anywhere(&cluster)?.attach("a", Attached::none().on_write("k", called)).await?;
    for (round, gate) in (1..).zip([Gate::BeforeAnswer, Gate::BeforeEffect]) {
        let leader = cluster.leader(CLASS, 0).await?;
        functions.hold("count", gate);
        anywhere(&cluster)?.set_value("a", "k", "").await?;
        functions.held(1).await?;
        cluster.kill(&[leader]).await?;
        // The next one calls, too, while the first call is still under way.
        functions.held(2).await?;
        functions.release("count");
        let things = anywhere(&cluster)?;
        things.connection.settled(&[CLASS]).await?;
        assert_eq!(things.value("tally", "count").await?, Some(round.to_string()));
        cluster.start(&[leader]).await?;
        assert_eq!(agreed(&cluster).await?, round);
        assert_eq!(functions.distinct(), round);
    }
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_killed_under_load_lose_no_call_and_count_none_twice() -> Story {
    const KILLS: usize = 4;
    let (cluster, functions) = begin(&[]).await?;
    for writer in 0..WRITERS {
        let called = target(CLASS, 0, Some(&format!("counter-{writer}")), "count");
        anywhere(&cluster)?
            .attach(&format!("writer-{writer}"), Attached::none().on_write("k", called))
            .await?;
    }
    let mut load = Load::begin(&cluster, WRITERS)?;
    for kill in 0..KILLS {
        load.proceed(SOME).await?;
        if kill % 2 == 0 {
            functions.hold("count", Gate::BeforeAnswer);
            load.proceed(SOME / 2).await?;
        }
        let leader = cluster.leader(CLASS, 0).await?;
        cluster.kill(&[leader]).await?;
        functions.release("count");
        load.proceed(SOME).await?;
        cluster.start(&[leader]).await?;
    }
    let written = load.end().await?;
    println!("{written:?}");
    let things = anywhere(&cluster)?;
    things.connection.settled(&[CLASS]).await?;
    let outcomes = agreed(&cluster).await?;
    let mut changes = 0;
    for written in &written {
        let counter = written.object.replace("writer", "counter");
        assert_eq!(things.value(&counter, "count").await?, Some(written.last.to_string()), "{written:?}");
        changes += usize::try_from(written.last)?;
    }
    let (calls, distinct) = (functions.calls().len(), functions.distinct());
    println!("{KILLS} kills, {distinct} calls, made {calls} times");
    assert_eq!((distinct, outcomes), (changes, changes));
    assert!(calls > distinct, "no kill came between a call and its outcome: nothing was tested");
    assert_eq!(things.connection.dead(CLASS).await?, []);
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_hears_after_its_term_does_not_count() -> Story {
    let (cluster, functions) = begin(&[]).await?;
    let called = target(CLASS, 0, Some("tally"), "count");
    anywhere(&cluster)?.attach("a", Attached::none().on_write("k", called)).await?;
    for (round, hears_first) in (1..).zip([false, true]) {
        let leader = cluster.leader(CLASS, 0).await?;
        let old = cluster.client(leader)?;
        let stale_before = old.figure("odgm_calls_stale_total").await?;
        functions.hold("count", Gate::BeforeAnswer);
        anywhere(&cluster)?.set_value("a", "k", "").await?;
        functions.held(1).await?;
        if hears_first {
            // No word of another term is waiting for it when it goes on.
            cluster.network().isolate(leader, Way::Stalled);
        }
        cluster.pause(leader)?;
        functions.held(2).await?;
        // Both are answered; who is paused hears it when it goes on.
        functions.release("count");
        let things = anywhere(&cluster)?;
        things.connection.settled(&[CLASS]).await?;
        cluster.resume(leader)?;
        if hears_first {
            // It takes itself for the leader still, and asks for a record of what it hears.
            old.figure_where("odgm_calls_in_flight", |calls| calls < 0.5).await?;
            cluster.network().heal();
        }
        cluster.follows(leader, CLASS, 0).await?;
        old.figure_where("odgm_calls_in_flight", |calls| calls < 0.5).await?;
        old.figure_where("odgm_calls_stale_total", |stale| stale > stale_before).await?;
        assert_eq!(agreed(&cluster).await?, round, "the answer to the old leader counted, too");
        assert_eq!(things.value("tally", "count").await?, Some(round.to_string()));
        assert_eq!(functions.distinct(), round);
    }
    cluster.prove(CLASS, 1).await
}

/// A cluster whose leader was killed after some attempts at a function that always fails.
async fn killed_while_it_fails(most_attempts: u32) -> Result<(Cluster, Functions)> {
    const ATTEMPTS: u32 = 3;
    let most_attempts = most_attempts.to_string();
    let (cluster, functions) = begin(&[
        ("trigger_backoff_ms", "50"),
        ("trigger_backoff_max_ms", "200"),
        ("trigger_max_attempts", most_attempts.as_str()),
    ])
    .await?;
    // It does not speak against the endpoint: calls of one that is left alone lose no attempts.
    functions.answer("count", Answer::Status(Code::Internal));
    let leader = cluster.leader(CLASS, 0).await?;
    let things = cluster.objects(leader, CLASS, 0)?;
    let called = target(CLASS, 0, Some("tally"), "count");
    things.attach("a", Attached::none().on_write("k", called)).await?;
    things.set_value("a", "k", "").await?;
    let waiting = || format!("{ATTEMPTS} attempts to be recorded");
    until(waiting, async || {
        let pending = things.connection.pending(CLASS).await?;
        Ok(pending.iter().any(|call| call.attempt >= ATTEMPTS).then_some(()))
    })
    .await?;
    cluster.kill(&[leader]).await?;
    Ok((cluster, functions))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_at_a_function_that_fails_are_counted_on_by_the_next_leader() -> Story {
    const MOST: u32 = 20;
    let (cluster, functions) = killed_while_it_fails(MOST).await?;
    let things = anywhere(&cluster)?;
    things.connection.settled(&[CLASS]).await?;
    let dead = things.connection.dead(CLASS).await?;
    assert_eq!(dead.iter().map(|letter| letter.attempts).collect::<Vec<_>>(), [MOST]);
    // The attempt that was under way at the kill was made again; had the next leader begun anew, it would be some more.
    let calls = u32::try_from(functions.calls().len())?;
    assert!((MOST..=MOST + 1).contains(&calls), "{calls} calls");
    assert_eq!(functions.distinct(), 1);
    cluster.mend().await?;
    assert_eq!(agreed(&cluster).await?, 1, "that it has failed stands in the log once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_fails_is_called_by_the_next_leader_until_it_is_well() -> Story {
    let (cluster, functions) = killed_while_it_fails(1_000).await?;
    let before = functions.calls().len();
    // At least one of them is the next leader's.
    functions.called("count", before + 3).await?;
    functions.answer("count", Answer::Example);
    let things = anywhere(&cluster)?;
    things.connection.settled(&[CLASS]).await?;
    assert_eq!(things.value("tally", "count").await?.as_deref(), Some("1"));
    assert_eq!((functions.distinct(), things.connection.dead(CLASS).await?.len()), (1, 0));
    cluster.mend().await?;
    assert_eq!(agreed(&cluster).await?, 1);
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_call_survives_those_who_accepted_it() -> Story {
    let (cluster, functions) = begin(&[]).await?;
    functions.hold("count", Gate::BeforeAnswer);
    let leader = cluster.leader(CLASS, 0).await?;
    // At a node that passes it on.
    let other = cluster.nodes().into_iter().find(|node| *node != leader).ok_or("there are three")?;
    let mut client = Retrying::new(vec![cluster.objects(other, CLASS, 0)?], PATIENCE);
    let accept = async |things: Objects| things.accept(Some("tally"), "count", "", "first").await;
    let accepted = client.ask(accept).await?;
    functions.held(1).await?;
    cluster.kill(&[leader]).await?;
    functions.held(2).await?;
    functions.release("count");
    let mut client = retrying(&cluster, 0)?;
    let result = client.ask(|things| async move { things.result("first", WAIT_MS / 10).await }).await?;
    assert_eq!((result.state.as_str(), result.accepted_offset), ("ended", accepted.offset));
    let again =
        client.ask(|things| async move { things.accept(Some("tally"), "count", "", "first").await }).await?;
    assert_eq!(again, accepted, "it is known under its id");
    cluster.start(&[leader]).await?;
    assert_eq!(agreed(&cluster).await?, 1);
    for things in everywhere(&cluster)? {
        assert_eq!(things.value("tally", "count").await?.as_deref(), Some("1"));
        assert_eq!(things.result("first", 0).await?.state, "ended");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_reach_partitions_on_other_nodes_and_come_from_there() -> Story {
    const WRITES: u64 = 10;
    let (cluster, functions) = begin(&[]).await?;
    // Partitions of one replica each, replicated in name and not.
    create(&cluster, "scattered", 3, 1, &[], &functions).await?;
    create(&cluster, "local", 3, 0, &[], &functions).await?;
    let mut places = vec![(CLASS, 0)];
    places.extend(["scattered", "local"].into_iter().flat_map(|class| (0..3).map(move |at| (class, at))));
    let owners = owners(&cluster, "scattered").await?;
    assert_eq!(owners, BTreeSet::from([1, 2, 3]), "they are all over the cluster");

    // Each calls all, its own included.
    for (class, partition) in &places {
        let attached = places.iter().fold(Attached::none(), |attached, (to, at)| {
            attached.on_write("k", target(to, *at, Some("tally"), "count"))
        });
        let things = cluster.objects(2, class, *partition)?;
        things.attach("a", attached).await?;
        things.write_all("a", "k", WRITES).await?;
    }
    let classes = [CLASS, "scattered", "local"];
    cluster.client(3)?.settled(&classes).await?;
    let expected = WRITES * u64::try_from(places.len())?;
    for (class, partition) in &places {
        let there = cluster.objects(1, class, *partition)?;
        let count = there.value("tally", "count").await?;
        assert_eq!(count, Some(expected.to_string()), "{class}/{partition}");
        assert_eq!(outcomes(&there).await?.len() as u64, expected, "{class}/{partition}");
    }
    for class in classes {
        assert_eq!(cluster.client(1)?.dead(class).await?, []);
    }
    assert_eq!(functions.distinct() as u64, expected * u64::try_from(places.len())?);
    an_outcome_waits_for_its_partition(&cluster, &functions).await
}

/// An outcome of a partition whose only node does not answer is on its way until that does.
async fn an_outcome_waits_for_its_partition(cluster: &Cluster, functions: &Functions) -> Story {
    let leader = cluster.leader(CLASS, 0).await?;
    let request = ListPartitionsRequest { cls_id: "scattered".to_owned() };
    let listed = cluster.client(leader)?.admin.list_partitions(request).await?.into_inner().partitions;
    let elsewhere = listed.iter().find(|partition| !partition.replicas.contains(&leader));
    let elsewhere = elsewhere.ok_or("a partition is on another node")?;
    let (away, partition) = (elsewhere.replicas[0], elsewhere.partition_id);
    let things = cluster.objects(leader, CLASS, 0)?;
    let there = cluster.objects(away, "scattered", partition)?;
    let before = outcomes(&there).await?.len();
    things.attach("b", Attached::none().on_write("k", target("scattered", partition, None, "echo"))).await?;
    functions.hold("echo", Gate::BeforeAnswer);
    things.set_value("b", "k", "").await?;
    functions.held(1).await?;
    cluster.pause(away)?;
    functions.release("echo");
    let at_leader = cluster.client(leader)?;
    at_leader.figure_where("odgm_deliveries_waiting", |waiting| waiting > 0.5).await?;
    cluster.resume(away)?;
    cluster.client(leader)?.settled(&[CLASS]).await?;
    at_leader.figure_where("odgm_deliveries_waiting", |waiting| waiting < 0.5).await?;
    assert_eq!(outcomes(&there).await?.len(), before + 1);
    Ok(())
}

/// The nodes that have partitions of a collection.
async fn owners(cluster: &Cluster, class: &str) -> Result<BTreeSet<u64>> {
    let waiting = || format!("all partitions of {class} to be somewhere");
    until(waiting, async || {
        let request = ListPartitionsRequest { cls_id: class.to_owned() };
        let listed = match cluster.client(1)?.admin.list_partitions(request).await {
            Ok(listed) => listed.into_inner().partitions,
            Err(status) if status.code() == Code::Unavailable => return Ok(None),
            Err(status) => return Err(status.into()),
        };
        let owners: BTreeSet<u64> = listed.iter().flat_map(|partition| partition.replicas.clone()).collect();
        Ok(Some(owners).filter(|owners| !owners.is_empty()))
    })
    .await
}
