//! Stories of groups some of whose members are of an older build, as far as they have said.

use odgm_log::body::calls::Source;
use odgm_log::body::{Config, Outcome, Semantics};
use odgm_log::{Body, Cause, Kind, NodeId, Payload, Term, Timestamp};
use odgm_projections::{Outcome as Became, SEMANTICS};

use super::scenarios::{ALL, Cluster, others};
use super::types::Command;
use crate::proposal::ProposeError;
use crate::replicator::Replicator as _;

/// Bytes of a `Config` that its first version did not have: they are its last.
const SINCE_CONFIG_1: usize = 24;

/// The rules before calls.
const BEFORE: u32 = 1;

fn outcome() -> Body {
    Body::Outcome(Outcome {
        source: Source::Client,
        invocation: "i".into(),
        object: None,
        function: "f".into(),
        finished: Default::default(),
    })
}

/// Has all members have heard from a node which rules it knows, and by how many seconds its clock is ahead of theirs.
fn hear(cluster: &Cluster, node: NodeId, semantics: u32, ahead: i64) {
    for member in others(node) {
        cluster.group(member).neighbours.hear(node, semantics, ahead);
    }
}

/// Begins the log as a leader of the build before calls did.
async fn begin_as_before(cluster: &Cluster, leader: NodeId) {
    let encode = |body| Payload { cause: Cause::default(), body }.encode().expect("a record");
    let (config, rules) = encode(Body::Config(Config::default()));
    let config = Kind { body_version: 1, ..config };
    let first = [
        encode(Body::Semantics(Semantics { version: BEFORE })),
        (config, rules.slice(..rules.len() - SINCE_CONFIG_1)),
    ];
    for (kind, encoded) in first {
        let command = Command { stamp: Timestamp::now(), origin: leader, kind, encoded };
        cluster.group(leader).raft().client_write(command).await.expect("written");
    }
}

fn semantics(cluster: &Cluster, node: NodeId) -> u32 {
    cluster.group(node).view().header().semantics
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_raised_once_all_members_know_the_rules_and_takes_no_calls_before() {
    let rules = Config { max_outbox_rows: 7, ..Config::default() };
    let cluster = Cluster::start_by(31, rules.clone()).await;
    let leader = cluster.leader_of(&ALL).await;
    ALL.into_iter().for_each(|node| hear(&cluster, node, BEFORE, 0));
    begin_as_before(&cluster, leader).await;
    let written = cluster.propose(leader, "o", "1").await.expect("the rules before calls have writes");
    assert_eq!(semantics(&cluster, leader), BEFORE);

    let refused = cluster.propose_body(leader, outcome()).await.expect_err("old members could not read it");
    assert!(matches!(refused, ProposeError::Unavailable { .. }), "{refused}");
    assert_eq!(cluster.last(leader), written.offset, "it is not in the log");

    let [first, second] = others(leader)[..] else { panic!("there are three") };
    hear(&cluster, first, SEMANTICS, 0);
    cluster.group(leader).raise_semantics().await;
    assert_eq!(semantics(&cluster, leader), BEFORE, "node {second} does not know them");

    hear(&cluster, second, SEMANTICS, 0);
    cluster.group(leader).raise_semantics().await;
    let header = cluster.group(leader).view().header();
    assert_eq!((header.semantics, header.config), (SEMANTICS, rules));
    let taken = cluster.propose_body(leader, outcome()).await.expect("all know what it is");
    assert_eq!(taken.outcome, Became::Noted);
    cluster.expect_equal(taken.offset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_begins_when_no_member_is_known_not_to_know_its_rules() {
    let cluster = Cluster::start(32).await;
    let leader = cluster.leader_of(&ALL).await;
    let old = others(leader)[0];
    hear(&cluster, old, BEFORE, 0);
    let before = cluster.last(leader);
    // In a term it is not tried again and again.
    let term = Some(Term(cluster.term(leader)));
    let refused = cluster.propose_in(term, leader, outcome()).await.expect_err("one would not understand");
    let ProposeError::Unavailable { reason } = refused else { panic!("{refused}") };
    assert!(reason.contains(&format!("node {old} does not know")), "{reason}");
    assert_eq!(cluster.last(leader), before, "nothing is written");
    assert!(cluster.group(leader).cannot_begin().is_some());

    hear(&cluster, old, SEMANTICS, 0);
    assert_eq!(cluster.group(leader).cannot_begin(), None);
    let written = cluster.propose(leader, "o", "1").await.expect("all know the rules");
    assert_eq!(semantics(&cluster, leader), SEMANTICS);
    cluster.expect_equal(written.offset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_is_wrong_raises_nothing() {
    let cluster = Cluster::start(33).await;
    let leader = cluster.leader_of(&ALL).await;
    ALL.into_iter().for_each(|node| hear(&cluster, node, BEFORE, 0));
    begin_as_before(&cluster, leader).await;
    others(leader).into_iter().for_each(|node| hear(&cluster, node, SEMANTICS, 3_600));
    let before = cluster.last(leader);
    cluster.group(leader).raise_semantics().await;
    assert_eq!(
        cluster.last(leader),
        before,
        "one record of such a clock would move the time of the log for ever"
    );

    others(leader).into_iter().for_each(|node| hear(&cluster, node, SEMANTICS, 0));
    cluster.group(leader).raise_semantics().await;
    assert_eq!(semantics(&cluster, leader), SEMANTICS);
}
