//! A network that does not carry everything.

use std::time::{Duration, Instant};

use odgm_proto::metadata::consistency::{LINEARIZABLE, LOCAL};
use odgm_tests::harness::{Layout, Way, Wire, until};
use tonic::Status;

use crate::load::retrying;
use crate::{CLASS, Story};

/// The deadline of requests that are expected to be refused, and how much later the refusal may be here.
const DEADLINE: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(1);

/// How long it may take until another leads than one that cannot: several elections.
const GIVES_WAY: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_refuses_and_the_majority_goes_on() -> Story {
    minority(Wire::Zenoh).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_refuses_and_the_majority_goes_on_over_tcp() -> Story {
    minority(Wire::Tcp).await
}

async fn minority(wire: Wire) -> Story {
    let cluster = Layout::of(3).wire(wire).collection(CLASS, 1).start().await?;
    let leader = cluster.leader(CLASS, 0).await?;
    let cut_off = cluster.objects(leader, CLASS, 0)?.within(DEADLINE);
    cut_off.set_value("thing", "k", "before").await?;
    cluster.network().isolate(leader, Way::Stalled);

    let mut others = cluster.nodes();
    others.retain(|node| *node != leader);
    let begun = Instant::now();
    let next = cluster.leader_among(&others, CLASS, 0).await?;
    println!("node {leader} was cut off; node {next} leads after {:?}", begun.elapsed());
    for other in &others {
        let things = cluster.objects(*other, CLASS, 0)?;
        things.set_value("thing", "k", &format!("at {other}")).await?;
        assert_eq!(things.value("thing", "k").await?, Some(format!("at {other}")));
    }
    let last = others.last().map(|other| format!("at {other}"));

    refused("a write", async || cut_off.set_value("thing", "k", "lost").await.map(drop)).await?;
    refused("a read", async || cut_off.value("thing", "k").await.map(drop)).await?;
    refused("a read of all", async || cut_off.find("thing").await.map(drop)).await?;
    let local = cut_off.reading(LOCAL).value("thing", "k").await?;
    assert_eq!(local.as_deref(), Some("before"), "what it holds itself");

    cluster.network().heal();
    assert!(cluster.network().harm().is_any(), "nothing was held back: nothing was tested");
    let mut client = retrying(&cluster, usize::try_from(leader - 1)?)?;
    let held = client.ask(|things| async move { things.value("thing", "k").await }).await?;
    // What the minority refused is nowhere, or was passed on when all healed.
    assert!(held == last || held.as_deref() == Some("lost"), "{held:?}");
    let once =
        |things: odgm_tests::harness::Objects| async move { things.set_value("thing", "k", "after").await };
    client.write("after", once).await?;
    cluster.converged(CLASS).await?;
    for node in cluster.nodes() {
        let held = cluster.objects(node, CLASS, 0)?.reading(LOCAL).value("thing", "k").await?;
        assert_eq!(held.as_deref(), Some("after"), "node {node}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody_gives_way() -> Story {
    deaf_leader(Wire::Zenoh).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody_gives_way_over_tcp() -> Story {
    deaf_leader(Wire::Tcp).await
}

/// Its heartbeats still reach the others, so that they do not elect another leader as long as it sends them.
async fn deaf_leader(wire: Wire) -> Story {
    let cluster = Layout::of(3).wire(wire).collection(CLASS, 1).start().await?;
    let leader = cluster.leader(CLASS, 0).await?;
    cluster.network().deafen(leader, Way::Stalled);
    let mut others = cluster.nodes();
    others.retain(|node| *node != leader);
    let begun = Instant::now();
    let next = cluster.leader_among(&others, CLASS, 0).await?;
    let took = begun.elapsed();
    println!("node {leader} heard nobody; node {next} leads after {took:?}");
    for other in others {
        cluster.objects(other, CLASS, 0)?.within(DEADLINE).set_value("thing", "k", "1").await?;
    }
    cluster.network().heal();
    cluster.converged(CLASS).await?;
    assert!(took < GIVES_WAY, "nothing could be written for {took:?}");
    Ok(())
}

/// Requires that something is refused within its deadline.
async fn refused(what: &str, ask: impl AsyncFn() -> Result<(), Status>) -> Story {
    let begun = Instant::now();
    let answer = ask().await;
    let took = begun.elapsed();
    println!("{what} at the node that is cut off: {answer:?} after {took:?}");
    if answer.is_ok() {
        return Err(format!("{what} was answered by a node that is cut off").into());
    }
    if took > DEADLINE + SLACK {
        return Err(format!("{what} was refused after {took:?}").into());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_option_that_is_changed_at_one_node_counts_on_all() -> Story {
    let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
    cluster.objects(1, CLASS, 0)?.set_value("thing", "k", "1").await?;
    cluster.converged(CLASS).await?;
    let said = cluster
        .odgm(2, &["collection", "set", CLASS, "consistency=local", "retention=7d"])
        .await?
        .success()?;
    assert!(said.contains("consistency=local retention=7d"), "{said}");
    for node in cluster.nodes() {
        let waiting = || format!("node {node} to follow");
        until(waiting, async || {
            let described = cluster.odgm(node, &["collection", "describe", CLASS]).await?.success()?;
            Ok(described.contains("consistency = local").then_some(()))
        })
        .await?;
    }
    // Only what a node has itself is read now, where the read does not ask for more.
    cluster.kill(&[1, 2]).await?;
    let alone = cluster.objects(3, CLASS, 0)?.within(DEADLINE);
    assert_eq!(alone.value("thing", "k").await?.as_deref(), Some("1"));
    refused("a read that asks for more", async || {
        alone.clone().reading(LINEARIZABLE).value("thing", "k").await.map(drop)
    })
    .await
}
