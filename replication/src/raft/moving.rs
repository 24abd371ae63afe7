//! Stories of a group whose members change, on the network that fails on request.

use std::collections::BTreeSet;
use std::time::Duration;

use odgm_log::{NodeId, Offset};

use super::changing::{Members, Step};
use super::scenarios::{ALL, Cluster, others, patiently};
use crate::replicator::Replicator as _;
use crate::transport::memory::Weather;

const FOURTH: NodeId = NodeId(4);

/// How long a leader of the past may try to find somebody: several elections.
const SEVERAL_ELECTIONS: Duration = Duration::from_secs(5);

fn voters(nodes: &[NodeId]) -> Members {
    Members { voters: nodes.iter().copied().collect(), learners: BTreeSet::new() }
}

/// Whoever of `nodes` leads. Those that are not members yet, or not any more, do not know.
async fn leading(cluster: &Cluster, nodes: &[NodeId]) -> NodeId {
    patiently(async {
        loop {
            let leads = |node: &&NodeId| cluster.group(**node).leader() == Some(**node);
            let term = |node: NodeId| cluster.group(node).standing().term;
            if let Some(leader) = nodes.iter().filter(leads).copied().max_by_key(|node| term(*node)) {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Writes on whoever of `nodes` leads, until it is acknowledged, more than once perhaps.
async fn write(cluster: &Cluster, nodes: &[NodeId], object: &str, value: &str) -> Offset {
    patiently(async {
        loop {
            let leader = leading(cluster, nodes).await;
            if let Ok(applied) = cluster.propose(leader, object, value).await {
                return applied.offset;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// One step by whoever of `nodes` leads: the leader, and what came of it.
async fn step(cluster: &Cluster, nodes: &[NodeId], wanted: &Members) -> (NodeId, Result<Step, String>) {
    patiently(async {
        loop {
            let leader = leading(cluster, nodes).await;
            let term = cluster.group(leader).standing().term;
            match cluster.group(leader).approach(term, wanted).await {
                // The step before is not committed yet.
                Ok(Step::Waits(behind)) if behind.is_empty() => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                made => return (leader, made),
            }
        }
    })
    .await
}

/// Steps until it is done; answers who led then.
async fn change(cluster: &Cluster, nodes: &[NodeId], wanted: &Members) -> NodeId {
    patiently(async {
        loop {
            match step(cluster, nodes, wanted).await {
                (leader, Ok(Step::Done)) => return leader,
                (_, Ok(Step::Made)) => {}
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

/// Waits until a node has what was acknowledged.
async fn expect(cluster: &Cluster, nodes: &[NodeId], at: Offset, object: &str, value: &str) {
    for node in nodes {
        cluster.applied(*node, at).await;
        assert_eq!(cluster.value(*node, object).as_deref(), Some(value), "on node {node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_votes_once_it_has_the_log() {
    let mut cluster = Cluster::start(21).await;
    cluster.write(&ALL, "before", "1").await.expect("acknowledged");
    let wanted = voters(&[ALL[0], ALL[1], ALL[2], FOURTH]);
    // It is not there yet.
    let (leader, made) = step(&cluster, &ALL, &wanted).await;
    assert_eq!(made, Ok(Step::Made), "it becomes a learner");
    let (_, waits) = step(&cluster, &ALL, &wanted).await;
    assert_eq!(waits, Ok(Step::Waits([FOURTH].into())), "who has nothing gets no vote");
    let term = cluster.group(leader).standing().term;
    let stale = cluster.group(leader).approach(term - 1, &voters(&ALL)).await;
    assert_eq!(stale, Ok(Step::Elsewhere), "a plan of an earlier term is not done");

    cluster.begin(FOURTH).await;
    let all = [ALL[0], ALL[1], ALL[2], FOURTH];
    change(&cluster, &all, &wanted).await;
    let last = cluster.write(&all, "after", "2").await.expect("acknowledged").offset;
    expect(&cluster, &all, last, "before", "1").await;
    cluster.expect_equal(last).await;
    // Of four, three are a majority, and the new one counts.
    let leader = cluster.leader_of(&all).await;
    cluster.end(leader).await;
    let left: Vec<_> = all.into_iter().filter(|node| *node != leader).collect();
    let last = cluster.write(&left, "later", "3").await.expect("acknowledged").offset;
    cluster.expect_equal(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_replaced_and_whoever_leads_goes_last() {
    let mut cluster = Cluster::start(22).await;
    let dead = others(cluster.leader_of(&ALL).await)[0];
    cluster.end(dead).await;
    cluster.begin(FOURTH).await;
    let left = others(dead);
    let first = cluster.write(&left, "a", "1").await.expect("acknowledged").offset;
    let now = [left[0], left[1], FOURTH];
    change(&cluster, &now, &voters(&now)).await;
    expect(&cluster, &now, first, "a", "1").await;

    // Whoever leads is to go: it hands over, and the next leader takes it out.
    let leader = cluster.leader_of(&now).await;
    let stay: Vec<_> = now.into_iter().filter(|node| *node != leader).collect();
    let next = change(&cluster, &now, &voters(&stay)).await;
    assert_ne!(next, leader);
    let standing = cluster.group(next).standing();
    assert_eq!(standing.members, voters(&stay));
    cluster.end(leader).await;
    let last = cluster.write(&stay, "b", "2").await.expect("acknowledged").offset;
    cluster.expect_equal(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_are_exchanged_at_once() {
    let mut cluster = Cluster::start(23).await;
    let last = cluster.write(&ALL, "a", "1").await.expect("acknowledged").offset;
    let new = [FOURTH, NodeId(5)];
    for node in new {
        cluster.begin(node).await;
    }
    let all = [ALL[0], ALL[1], ALL[2], new[0], new[1]];
    change(&cluster, &all, &voters(&new)).await;
    expect(&cluster, &new, last, "a", "1").await;
    for node in ALL {
        cluster.end(node).await;
    }
    let last = cluster.write(&new, "b", "2").await.expect("acknowledged").offset;
    cluster.expect_equal(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_goes_on_wherever_a_leader_ended() {
    let mut cluster = Cluster::start(24).await;
    cluster.begin(FOURTH).await;
    let all = [ALL[0], ALL[1], ALL[2], FOURTH];
    let mut last = cluster.write(&ALL, "a", "0").await.expect("acknowledged").offset;
    let gone = others(cluster.leader_of(&ALL).await)[0];
    let stay: Vec<_> = all.into_iter().filter(|node| *node != gone).collect();
    let (wanted, mut steps) = (voters(&stay), 0);
    patiently(async {
        loop {
            // Whoever is new may lead as soon as it votes.
            match step(&cluster, &all, &wanted).await {
                (_, Ok(Step::Done)) => return,
                (leader, Ok(Step::Made)) => {
                    steps += 1;
                    cluster.end(leader).await;
                    cluster.begin(leader).await;
                    last = write(&cluster, &all, "a", &steps.to_string()).await;
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    assert!(steps >= 2, "leaders ended between {steps} steps");
    cluster.end(gone).await;
    expect(&cluster, &stay, last, "a", &steps.to_string()).await;
    cluster.expect_equal(last).await;
}

/// It knows the leader of the past, who names the one of now; the answers take longer than a leader's last ones would.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_left_behind_writes_through_whom_its_last_leader_names() {
    let cluster = Cluster::start_forwarding(26).await;
    let past = cluster.leader_of(&ALL).await;
    let [now, left] = [others(past)[0], others(past)[1]];
    cluster.network().isolate(left);
    // As long as it does not look for a new leader, it knows the old one.
    cluster.group(left).raft().runtime_config().elect(false);
    let stay = [past, now];
    change(&cluster, &stay, &voters(&stay)).await;
    cluster.lead(&stay, now).await;
    cluster.network().heal();
    assert_eq!(cluster.group(left).leader(), Some(past), "nobody tells it more");
    cluster.network().set_weather(Weather { delay: Duration::from_millis(100), ..Weather::default() });
    let mut last = Offset::ZERO;
    for n in 0..10 {
        last = cluster.propose(left, "a", &n.to_string()).await.expect("acknowledged").offset;
    }
    cluster.network().set_weather(Weather::default());
    expect(&cluster, &stay, last, "a", "9").await;
}

/// Without the fence the node that came back without its vote would let a member of the past lead again.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_without_memory_makes_no_quorum_with_a_member_of_the_past() {
    for is_fenced in [true, false] {
        let mut cluster = Cluster::start(25).await;
        cluster.begin(FOURTH).await;
        cluster.write(&ALL, "a", "1").await.expect("acknowledged");
        let past = cluster.leader_of(&ALL).await;
        let [stays, moved] = [others(past)[0], others(past)[1]];
        cluster.network().isolate(past);
        change(&cluster, &[stays, moved, FOURTH], &voters(&[stays, FOURTH])).await;
        let now = cluster.write(&[stays, FOURTH], "a", "2").await.expect("acknowledged").offset;
        // The partition is moved away from one, and comes back later.
        cluster.end(moved).await;
        cluster.wipe(moved);
        // It would vote, as members do whose group goes on from a backup that they have not: only the fence is left.
        cluster.begin_as(moved, !is_fenced, true).await;
        cluster.network().isolate(moved);
        // The member of the past starts again, and reaches nobody else.
        cluster.end(past).await;
        cluster.begin(past).await;
        cluster.network().mend(past, moved);
        let led = tokio::time::timeout(SEVERAL_ELECTIONS, cluster.leader_of(&[past, moved])).await;
        assert_eq!(led.is_err(), is_fenced, "{led:?}");
        if is_fenced {
            assert_eq!(cluster.group(moved).view().header().applied, Offset::ZERO, "it took nothing");
            // A leader that leads is believed, and tells it everything.
            cluster.network().heal();
            change(&cluster, &[stays, FOURTH], &voters(&[stays, FOURTH, moved])).await;
            expect(&cluster, &[stays, FOURTH, moved], now, "a", "2").await;
        }
    }
}
