//! Stories of who may write what only the leader of a term may.

use futures_util::FutureExt as _;
use odgm_log::body::Delete;
use odgm_log::{Body, Term};

use super::scenarios::{ALL, Cluster, patiently};
use crate::proposal::ProposeError;
use crate::replicator::Replicator as _;

fn deletion() -> Body {
    Body::Delete(Delete { object: "nothing".into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_term_is_written_by_its_leader_and_by_nobody_later() {
    let cluster = Cluster::start_forwarding(21).await;
    let first = cluster.leader_of(&ALL).await;
    let other = *ALL.iter().find(|node| **node != first).expect("there are three");
    let term = cluster.group(first).lead().await.expect("it leads");
    assert_eq!(term, Term(cluster.term(first)));
    assert!(cluster.group(first).deposed(term).now_or_never().is_none(), "nobody else leads");
    cluster.propose_in(Some(term), first, deletion()).await.expect("it leads in that term");

    // Another node does not pass it on.
    let refused = cluster.propose_in(Some(term), other, deletion()).await.expect_err("it does not lead");
    assert_eq!(refused, ProposeError::NotLeader { leader: Some(first) });

    cluster.lead(&ALL, other).await;
    patiently(cluster.group(first).deposed(term)).await;
    let late = cluster.propose_in(Some(term), first, deletion()).await.expect_err("deposed");
    assert!(matches!(late, ProposeError::NotLeader { .. }), "{late}");

    // Whoever leads again does so in another term.
    cluster.lead(&ALL, first).await;
    let again = patiently(cluster.group(first).lead()).await.expect("it leads");
    assert!(again > term, "{again} after {term}");
    let late = cluster.propose_in(Some(term), first, deletion()).await.expect_err("of an earlier term");
    assert!(matches!(late, ProposeError::NotLeader { .. }), "{late}");
    cluster.propose_in(Some(again), first, deletion()).await.expect("it leads in that term");
}
