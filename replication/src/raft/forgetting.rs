//! Stories of members that hold nothing of the log: one that had nothing yet, and one that has lost what it had.

use odgm_log::body::Config;
use odgm_log::{NodeId, Offset, Term};
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::VoteRequest;

use super::messages::{Request, decode_vote_answer};
use super::scenarios::{ALL, Cluster, GROUP, others};
use super::types::{Vote, log_id};
use crate::proposal::ProposeError;

/// What a founder asks that has nothing but the first entry.
fn first_vote(candidate: NodeId) -> Request {
    let vote = Vote { leader_id: LeaderId { term: 1, voted_for: candidate.0 }, committed: false };
    let last_log_id = log_id(Term(0), Offset(1));
    Request::Vote(VoteRequest { vote, last_log_id, leadership_transfer: false })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_had_nothing_yet_helps_to_lead_when_the_first_leader_has_gone() {
    let mut cluster = Cluster::begin_all(12, false, Config::default()).await;
    let [first, second, third] = ALL;
    // It votes where the log begins; then nothing reaches it.
    let asked = first_vote(first).encode(GROUP).expect("a message");
    let answer = cluster.group(third).answer(first, asked).await.expect("answered");
    assert!(decode_vote_answer(answer).expect("an answer").vote_granted);
    cluster.network().isolate(third);
    cluster.group(first).initialize(&ALL).await.expect("initialised");
    let written = cluster.write(&[first, second], "o", "acknowledged").await.expect("two are a quorum");
    let leader = cluster.leader_of(&[first, second]).await;
    assert_eq!(cluster.last(third), Offset::ZERO);

    cluster.end(third).await;
    cluster.end(leader).await;
    cluster.network().heal();
    cluster.begin(third).await;
    let rest = others(leader);
    let next = cluster.write(&rest, "p", "without the first leader").await.expect("two are a quorum");
    assert!(next.offset > written.offset);
    assert_eq!(cluster.value(third, "o"), Some("acknowledged".into()));
    cluster.begin(leader).await;
    cluster.expect_equal(next.offset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_lost_its_disk_helps_nobody_to_lead_before_it_is_filled_again() {
    let mut cluster = Cluster::start(11).await;
    let leader = cluster.leader_of(&ALL).await;
    let (behind, wiped) = (others(leader)[0], others(leader)[1]);
    // Only the leader and the one that is to lose it have the write.
    cluster.network().isolate(behind);
    let written = cluster.write(&[leader, wiped], "o", "acknowledged").await.expect("two are a quorum");
    for node in ALL {
        cluster.end(node).await;
    }
    cluster.network().heal();
    cluster.wipe(wiped);
    cluster.begin(behind).await;
    cluster.begin(wiped).await;
    let refused = cluster.propose(behind, "o", "instead of it").await.expect_err("nobody leads");
    assert!(matches!(refused, ProposeError::NotLeader { .. }), "{refused}");
    // With the one that remembers, all goes on.
    cluster.begin(leader).await;
    let next = cluster.write(&ALL, "p", "after it").await.expect("acknowledged");
    assert!(next.offset > written.offset);
    cluster.expect_equal(next.offset).await;
    assert_eq!(cluster.value(wiped, "o"), Some("acknowledged".into()));
}
