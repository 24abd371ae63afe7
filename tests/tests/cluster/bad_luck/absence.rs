//! The node that is to found a group is away.

use odgm_proto::odgm::v1::ListPartitionsRequest;
use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Layout};
use tonic::Code;

use super::{DEADLINE, others, refusal, until_answered};
use crate::{CLASS, Story};

/// The node that is away.
const AWAY: u64 = 3;

/// So many that each node is to lead one.
const PARTITIONS: u32 = 3;

/// A collection whose groups wait for the nodes that are to found them.
const PATIENT: &str = "patient";

/// The partition of a collection that a node is to lead.
async fn to_be_led_by(cluster: &Cluster, leader: u64, class: &str) -> Result<u32> {
    let request = ListPartitionsRequest { cls_id: class.to_owned() };
    let listed = cluster.client(1)?.admin.list_partitions(request).await?.into_inner().partitions;
    let found = listed.iter().find(|found| found.replicas.first() == Some(&leader));
    found
        .map(|found| found.partition_id)
        .ok_or_else(|| format!("node {leader} is to lead none of {listed:?}").into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_group_that_may_be_founded_by_others_has_a_leader_before_its_founder_is_back() -> Story {
    let cluster = Layout::of(3).start().await?;
    cluster.kill(&[AWAY]).await?;
    // First, so that it has had more time.
    cluster.create(PATIENT, PARTITIONS, 3, &[("raft_init_leader_only", "true")]).await?;
    cluster.create(CLASS, PARTITIONS, 3, &[]).await?;
    let patient = to_be_led_by(&cluster, AWAY, PATIENT).await?;
    let other = to_be_led_by(&cluster, AWAY, CLASS).await?;

    let here = others(&cluster, AWAY);
    let leader = cluster.leader_among(&here, CLASS, other).await?;
    cluster.objects(leader, CLASS, other)?.set_value("thing", "k", "1").await?;
    // Those whose founders are there have been founded.
    for partition in (0..PARTITIONS).filter(|partition| *partition != patient) {
        cluster.leader_among(&here, PATIENT, partition).await?;
    }
    for node in &here {
        let things = cluster.objects(*node, PATIENT, patient)?.within(DEADLINE);
        let refused = refusal(things.set_value("thing", "k", "1")).await?;
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        let outcome = refused.metadata().get("odgm-outcome").and_then(|outcome| outcome.to_str().ok());
        assert_eq!(outcome, Some("not-applied"), "{refused}");
    }
    assert_eq!(cluster.presumed_leader(PATIENT, patient).await, None);

    cluster.start(&[AWAY]).await?;
    let leader = cluster.leader(PATIENT, patient).await?;
    let things = cluster.objects(leader, PATIENT, patient)?;
    until_answered(async || Ok(things.once("once").set_value("thing", "k", "1").await?)).await?;
    for class in [PATIENT, CLASS] {
        cluster.converged(class).await?;
        cluster.prove(class, PARTITIONS).await?;
    }
    Ok(())
}
