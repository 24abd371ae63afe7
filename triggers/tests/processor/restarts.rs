//! Calls that a node takes with it when it is started again.

use std::collections::BTreeSet;

use odgm_log::body::calls::Status;

use crate::support::{
    Doing, Functions, Node, attach, outcomes, put, settled, target, triggers, until, write,
};

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_are_tried_again_after_a_restart_and_those_under_way_are_begun_again() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let here = node.collection("here", &[]).await;
    attach(&here, "o", triggers(&[target("here", "count"), target("here", "slow")], &[], &[])).await;
    functions.set("count", Doing::Fails);
    functions.set("slow", Doing::Hangs);
    let mut written = BTreeSet::new();
    for _ in 0..50 {
        written.insert(write(&here, put("o", "7")).await.0);
    }
    // Until each has failed at least once.
    until(&here, |header| {
        let rows = here.view().outbox(Default::default(), odgm_log::Timestamp(u64::MAX), 1_000);
        let rows = rows.expect("readable");
        header.calls.outbox_rows == 100
            && rows.iter().all(|(_, row)| row.target.function == "slow" || row.attempt > 0)
    })
    .await;
    node.stop().await;
    drop(here);

    functions.set("count", Doing::Answers(Status::Completed));
    functions.set("slow", Doing::Answers(Status::ApplicationError));
    let node = Node::start(dir.path(), &functions).await;
    let here = node.manager.partition("here", 0).expect("there");
    settled(&here).await;
    let ended = outcomes(&here);
    for (function, status) in [("count", Status::Completed), ("slow", Status::ApplicationError)] {
        let of_it = ended.iter().filter(|(name, ended, _)| name == function && *ended == status);
        let causes: Vec<_> = of_it.map(|(_, _, cause)| *cause).collect();
        assert_eq!(causes.len(), 50, "each has one outcome of {function}");
        assert_eq!(causes.into_iter().collect::<BTreeSet<_>>(), written);
    }
    assert_eq!(here.view().header().calls.stale, 0, "a node that stops records nothing late");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_a_collection_end_with_it_and_one_of_the_same_name_begins_with_none() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let here = node.collection("here", &[]).await;
    attach(&here, "o", triggers(&[target("here", "count")], &[], &[])).await;
    functions.set("count", Doing::Hangs);
    write(&here, put("o", "7")).await;
    functions.called(1).await;
    drop(here);
    node.manager.delete_collection("here").await.expect("deleted");
    functions.left_alone().await;

    functions.set("count", Doing::Answers(Status::Completed));
    let here = node.collection("here", &[]).await;
    attach(&here, "o", triggers(&[target("here", "count")], &[], &[])).await;
    let offset = write(&here, put("o", "8")).await;
    settled(&here).await;
    assert_eq!(outcomes(&here), [("count".to_owned(), Status::Completed, offset.0)]);
    assert_eq!(functions.calls().len(), 2);
    node.stop().await;
}
