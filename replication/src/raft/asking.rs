//! Stories of what members ask each other: as little as can be for reads, and before they would be elected.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::BoxFuture;
use odgm_log::NodeId;
use tokio::sync::watch;

use super::READ_ROUNDS;
use super::messages::Request;
use super::scenarios::{ALL, Cluster, GROUP, others, patiently};
use crate::reading::Consistency;

/// How often a node has asked for something, whether that arrived or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    confirmations: usize,
    pre_votes: usize,
    votes: usize,
}

/// Counts what a node asks others from now on.
fn count(cluster: &Cluster, node: NodeId) -> watch::Receiver<Asked> {
    let (counting, asked) = watch::channel(Asked::default());
    cluster.network().tap(Arc::new(move |from, _, _, request| {
        if from == node {
            let decoded = Request::decode(GROUP, request.clone()).expect("a request");
            counting.send_modify(|asked| match decoded {
                Request::Confirm { .. } => asked.confirmations += 1,
                Request::PreVote(_) => asked.pre_votes += 1,
                Request::Vote(_) => asked.votes += 1,
                _ => {}
            });
        }
        request
    }));
    asked
}

/// Waits until a node has asked for so much.
async fn until(asked: &mut watch::Receiver<Asked>, enough: impl FnMut(&Asked) -> bool) {
    drop(patiently(asked.wait_for(enough)).await.expect("it is counted"));
}

/// Begins a read. It waits for its answer when this returns.
async fn begin<'a, T>(read: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    let mut read: BoxFuture<'a, T> = Box::pin(read);
    poll_fn(|context| {
        assert!(read.as_mut().poll(context).is_pending(), "nobody can have answered it yet");
        Poll::Ready(())
    })
    .await;
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_at_a_follower_that_come_while_questions_are_under_way_share_the_next() {
    const READS: usize = 500;
    let cluster = Cluster::start_forwarding(31).await;
    let leader = cluster.leader_of(&ALL).await;
    let reader = others(leader)[0];
    cluster.propose(leader, "o", "before").await.expect("acknowledged");
    let mut asked = count(&cluster, reader);
    cluster.network().hold(reader, leader);
    let read = || begin(cluster.confirm(reader, Consistency::Linearizable));
    let mut reads = Vec::new();
    for round in 1..=READ_ROUNDS {
        reads.push(read().await);
        until(&mut asked, |asked| asked.confirmations == round).await;
    }
    for _ in 0..READS {
        reads.push(read().await);
    }
    cluster.network().release();
    for read in reads {
        read.await.expect("confirmed");
    }
    assert_eq!(cluster.value(reader, "o"), Some("before".into()), "they miss nothing");
    assert_eq!(asked.borrow().confirmations, READ_ROUNDS + 1, "one for all {READS}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_cut_off_for_many_elections_comes_back_and_deposes_nobody() {
    const ELECTIONS: usize = 4;
    let cluster = Cluster::start(32).await;
    let leader = cluster.leader_of(&ALL).await;
    let away = others(leader)[0];
    let term = cluster.term(leader);
    let mut asked = count(&cluster, away);
    cluster.network().isolate(away);
    // It would be elected, and asks both others each time whether they would vote for it.
    until(&mut asked, |asked| asked.pre_votes >= 2 * ELECTIONS).await;
    assert_eq!(cluster.term(away), term, "nothing has come of it");
    let without = cluster.propose(leader, "o", "without it").await.expect("acknowledged");
    cluster.network().heal();
    cluster.applied(away, without.offset).await;
    let with = cluster.propose(leader, "o", "with it").await.expect("the same one leads");
    cluster.expect_equal(with.offset).await;
    assert_eq!(ALL.map(|node| cluster.term(node)), [term; 3]);
    assert_eq!(asked.borrow().votes, 0, "it never was a candidate");
}
