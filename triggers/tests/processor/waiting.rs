//! Calls that wait: many of them, for long, or in vain.

use std::collections::BTreeSet;
use std::sync::Arc;

use odgm_log::body::Target;
use odgm_projections::{Outcome, Rejection};
use odgm_replication::Partition;
use odgm_triggers::processor::Settings;
use tokio::task::JoinSet;

use crate::support::{
    Doing, Functions, Node, attach, outcomes, put, settled, target, triggers, until, write,
};

/// Writes so many times, to a few objects at once.
async fn write_many(partition: &Arc<Partition>, times: usize) {
    let mut writers = JoinSet::new();
    for writer in 0..32 {
        let partition = Arc::clone(partition);
        writers.spawn(async move {
            for _ in (writer..times).step_by(32) {
                write(&partition, put("o", "7")).await;
            }
        });
    }
    writers.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_wait_for_a_function_that_is_held_and_are_made_when_it_is_released() {
    const CALLS: usize = 12_000;
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let (here, there) = (node.collection("here", &[]).await, node.collection("there", &[]).await);
    attach(&here, "o", triggers(&[target("there", "count")], &[], &[])).await;
    functions.set("count", Doing::IsHeld);
    write_many(&here, CALLS).await;
    assert_eq!(here.view().header().calls.outbox_rows, CALLS as u64);
    assert!(functions.calls().is_empty());
    // Another function is called all the same.
    attach(&here, "other", triggers(&[target("here", "other")], &[], &[])).await;
    write(&here, put("other", "1")).await;
    functions.called(1).await;

    functions.set("count", Doing::Answers(Default::default()));
    settled(&here).await;
    assert_eq!(here.view().header().calls.dead_letters, 0);
    let keys: BTreeSet<_> = functions.calls().into_iter().map(|call| call.key).collect();
    assert_eq!(keys.len(), CALLS + 1);
    assert_eq!(functions.calls().len(), CALLS + 1, "each once");
    assert_eq!(outcomes(&there).len(), CALLS);
    let announced = node.announced.keys();
    assert_eq!(announced.len(), CALLS + 1, "each once, too");
    assert_eq!(announced.into_iter().collect::<BTreeSet<_>>(), keys);
    assert_eq!(here.view().header().calls.stale + there.view().header().calls.stale, 0);
    assert!(functions.most_under_way() <= 100, "{} under way", functions.most_under_way());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_write_calls_a_thousand_functions() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let (here, _) = (node.collection("here", &[]).await, node.collection("there", &[]).await);
    let targets: Vec<Target> = (0..1_000)
        .map(|n| target(if n % 2 == 0 { "here" } else { "there" }, &format!("count-{n}")))
        .collect();
    attach(&here, "o", triggers(&targets, &[], &[])).await;
    write(&here, put("o", "7")).await;
    settled(&here).await;
    let called: BTreeSet<_> = functions.calls().into_iter().map(|call| call.target.function).collect();
    assert_eq!((called.len(), functions.calls().len()), (1_000, 1_000));
    assert_eq!(here.view().header().calls.dead_letters, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_hangs_leaves_room_and_a_full_outbox_refuses_until_there_is_some() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let options = [("outbox_max_rows", "20"), ("max_concurrent_triggers", "8")];
    let here = node.collection("here", &options).await;
    attach(&here, "o", triggers(&[target("here", "count")], &[], &[])).await;
    attach(&here, "other", triggers(&[target("here", "other")], &[], &[])).await;
    functions.set("count", Doing::Hangs);
    for _ in 0..19 {
        write(&here, put("o", "7")).await;
    }
    // Three quarters of what may be under way.
    functions.called(6).await;
    write(&here, put("other", "7")).await;
    functions.called(7).await;
    until(&here, |header| header.calls.outbox_rows == 19).await;
    write(&here, put("o", "7")).await;
    let applied = here.propose(put("o", "8")).await.expect("recorded");
    assert!(matches!(applied.outcome, Outcome::Rejected(Rejection::OutboxFull { .. })), "{applied:?}");
    assert_eq!(functions.calls().len(), 7);

    functions.set("count", Doing::Answers(Default::default()));
    settled(&here).await;
    assert_eq!(outcomes(&here).len(), 21);
    write(&here, put("o", "8")).await;
    settled(&here).await;
    assert_eq!(here.view().header().calls.dead_letters, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_payloads_wait_until_there_is_room_for_them_on_the_node() {
    const MIB: u64 = 1 << 20;
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    // Each of them is counted twice.
    let settings = Settings { payload_bytes: 5 * MIB, ..Settings::default() };
    let node = Node::start_with(dir.path(), &functions, settings).await;
    let (here, there) = (node.collection("here", &[]).await, node.collection("there", &[]).await);
    functions.set("count", Doing::Hangs);
    let large = "x".repeat(1_000_000);
    for partition in [&here, &there] {
        attach(partition, "o", triggers(&[target("here", "count")], &[], &[])).await;
        for _ in 0..5 {
            write(partition, put("o", &large)).await;
        }
    }
    functions.called(2).await;
    functions.set("count", Doing::Answers(Default::default()));
    settled(&here).await;
    settled(&there).await;
    assert_eq!((functions.calls().len(), functions.most_under_way()), (10, 2));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_that_is_changed_counts_at_once() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let here = node.collection("here", &[("max_concurrent_triggers", "1")]).await;
    attach(&here, "o", triggers(&[target("here", "count")], &[], &[])).await;
    functions.set("count", Doing::Hangs);
    for _ in 0..9 {
        write(&here, put("o", "7")).await;
    }
    functions.called(1).await;
    assert_eq!(functions.most_under_way(), 1);
    let options = [("max_concurrent_triggers".to_owned(), "4".to_owned())];
    node.manager.update_collection("here", options.into_iter().collect(), None).await.expect("changed");
    functions.called(3).await;
    functions.set("count", Doing::Answers(Default::default()));
    settled(&here).await;
    assert_eq!(functions.calls().len(), 9);
    node.stop().await;
}
