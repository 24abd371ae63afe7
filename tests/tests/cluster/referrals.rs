//! Nodes that pass nothing on say who is to be asked instead.

use std::time::Duration;

use odgm_proto::metadata::LEADER;
use odgm_proto::metadata::consistency::{LEASE, LOCAL};
use odgm_tests::Result;
use odgm_tests::harness::{Connection, Layout, Objects, Retrying};
use tonic::{Code, Status};

use crate::elsewhere::owner;
use crate::{CLASS, Story};

/// How long a partition may take to have a leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a node does not do what is for another one.
fn refusal<T>(answer: std::result::Result<T, Status>) -> Result<Status> {
    let refused = answer.err().ok_or("it was passed on")?;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    Ok(refused)
}

/// The number and the address of the node that a refusal names.
fn named(refused: &Status) -> Result<(u64, String)> {
    let named = refused.metadata().get(LEADER).ok_or_else(|| format!("nobody is named: {refused}"))?;
    let (node, address) = named.to_str()?.split_once('@').ok_or_else(|| format!("no address: {refused}"))?;
    Ok((node.parse()?, address.to_owned()))
}

/// The same objects where a refusal says.
fn there(refused: &Status) -> Result<Objects> {
    let (_, address) = named(refused)?;
    Ok(Connection::to(&address)?.objects(CLASS, 0))
}

fn outcome(refused: &Status) -> Option<&str> {
    refused.metadata().get("odgm-outcome")?.to_str().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_passes_nothing_on_names_the_leader_and_its_address() -> Story {
    let cluster = Layout::of(3).with("ODGM_FORWARD", "false").collection(CLASS, 1).start().await?;
    let leader = cluster.leader(CLASS, 0).await?;
    let follower = cluster.nodes().into_iter().find(|node| *node != leader).ok_or("there are others")?;
    cluster.objects(leader, CLASS, 0)?.set_value("thing", "k", "1").await?;
    cluster.converged(CLASS).await?;

    let here = cluster.objects(follower, CLASS, 0)?;
    let write = refusal(here.set_value("thing", "k", "2").await)?;
    assert_eq!(outcome(&write), Some("not-applied"), "{write}");
    let read = refusal(here.value("thing", "k").await)?;
    let by_lease = refusal(here.reading(LEASE).find("thing").await)?;
    for refused in [&write, &read, &by_lease] {
        assert_eq!(named(refused)?.0, leader, "{refused}");
    }
    // What it holds itself it answers.
    assert_eq!(here.reading(LOCAL).value("thing", "k").await?.as_deref(), Some("1"));

    let there = there(&write)?;
    assert_eq!(there.set_value("thing", "k", "2").await?.version, 2, "what was refused was not applied");
    assert_eq!(there.value("thing", "k").await?.as_deref(), Some("2"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_no_replica_and_passes_nothing_on_names_one_that_has() -> Story {
    let cluster = Layout::of(3).with("ODGM_FORWARD", "false").start().await?;
    cluster.create(CLASS, 1, 1, &[]).await?;
    let owner = owner(&cluster, 0).await?;
    let other = cluster.nodes().into_iter().find(|node| *node != owner).ok_or("there are others")?;

    let here = cluster.objects(other, CLASS, 0)?;
    let write = refusal(here.set_value("thing", "k", "1").await)?;
    assert_eq!(outcome(&write), Some("not-applied"), "{write}");
    let read = refusal(here.value("thing", "k").await)?;
    let local = refusal(here.reading(LOCAL).find("thing").await)?;
    for refused in [&write, &read, &local] {
        assert_eq!(named(refused)?.0, owner, "{refused}");
    }

    let mut client = Retrying::new(vec![there(&write)?], PATIENCE);
    let set = |things: Objects| async move { things.set_value("thing", "k", "1").await };
    assert_eq!(client.write("once", set).await?.version, 1, "what was refused was not applied");
    let held = client.ask(|things| async move { things.value("thing", "k").await }).await?;
    assert_eq!(held.as_deref(), Some("1"));
    Ok(())
}
