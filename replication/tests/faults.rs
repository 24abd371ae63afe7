//! Failures and moments of one node's partitions that only an armed failpoint can bring about.

#![allow(clippy::expect_used, clippy::panic)]

mod support;

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use odgm_log::Offset;
use odgm_replication::{Answer, Manager, Options, Partition, ProposeError};
use support::{collection, definition, put, start};

/// Where a failpoint holds back who comes by, one after the other, until it is opened for each.
struct Gate {
    arrived: mpsc::Receiver<()>,
    open: mpsc::Sender<()>,
}

impl Gate {
    /// Those after the first `held` pass.
    fn at(point: &str, held: usize) -> Self {
        let (arriving, arrived) = mpsc::channel();
        let (open, opened) = mpsc::channel();
        let left = Mutex::new((held, arriving, opened));
        let wait = move || {
            let mut left = left.lock().expect("not poisoned");
            if left.0 > 0 {
                left.0 -= 1;
                left.1.send(()).expect("the test waits");
                left.2.recv().expect("the test opens the gate");
            }
        };
        fail::cfg_callback(point, wait).expect("a failpoint");
        Self { arrived, open }
    }

    fn wait_until_held(&self) {
        self.arrived.recv().expect("somebody comes by");
    }

    fn open(&self) {
        self.open.send(()).expect("somebody waits");
    }
}

/// Submits nine writes: the first is applied, being alone where it was appended; the four after it are held back
/// before they are applied, at the gate, while the last four have become durable behind them.
fn nine_of_which_one_is_applied(partition: &Partition) -> (Gate, mpsc::Receiver<(u64, Answer)>) {
    let before = partition.bounds().durable;
    let (answered, answers) = mpsc::channel();
    let submit = |n: u64| {
        let answered = answered.clone();
        let reply = move |answer| answered.send((n, answer)).expect("awaited");
        partition.submit(put("o", "k", &n.to_string()), reply);
    };
    let gate = Gate::at("view-before-write", 2);
    submit(0);
    gate.wait_until_held();
    (1..=4).for_each(submit);
    gate.open();
    gate.wait_until_held();
    (5..=8).for_each(submit);
    while partition.bounds().durable < Offset(before.0 + 9) {
        std::thread::yield_now();
    }
    (gate, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_next_becomes_durable_while_what_came_before_is_applied() {
    let scenario = fail::FailScenario::setup();
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    let partition = collection(&manager, "c", &[]).await;
    let before = partition.bounds().durable;
    let (gate, answers) = nine_of_which_one_is_applied(&partition);
    assert_eq!(partition.view().header().applied, Offset(before.0 + 1), "the second append is held back");

    let stopping = tokio::spawn(async move { manager.shutdown().await });
    gate.open();
    stopping.await.expect("stopped");
    assert_eq!(
        partition.view().header().applied,
        Offset(before.0 + 9),
        "stopping waits for all that is durable"
    );
    let mut answers: Vec<_> =
        answers.iter().take(9).map(|(n, answer)| (n, answer.expect("applied").offset.0)).collect();
    answers.sort_unstable();
    let expected: Vec<_> = (0..9).map(|n| (n, before.0 + 1 + n)).collect();
    assert_eq!(answers, expected, "each has its own offset, in the order of the calls");
    scenario.teardown();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_view_cannot_be_written_says_so_and_has_everything_after_a_restart() {
    let scenario = fail::FailScenario::setup();
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    let partition = collection(&manager, "c", &[]).await;
    partition.propose(put("a", "k", "1")).await.expect("written");

    fail::cfg("view-write", "return(No space left on device)").expect("a failpoint");
    let unknown =
        partition.propose(put("b", "k", "1")).await.expect_err("it is in the log, but not in the view");
    assert!(
        matches!(&unknown, ProposeError::Unknown { reason } if reason.contains("No space left")),
        "{unknown}"
    );
    let refused = partition.propose(put("c", "k", "1")).await.expect_err("the partition has failed");
    assert!(refused.not_applied() && refused.to_string().contains("No space left"), "{refused}");
    assert_eq!(partition.view().header().applied.next(), partition.bounds().last, "the view is as it was");
    fail::remove("view-write");
    manager.shutdown().await;
    drop((partition, manager));

    let manager = start(dir.path()).await;
    let partition = manager.partition("c", 0).expect("in service");
    for (object, there) in [("a", true), ("b", true), ("c", false)] {
        assert_eq!(partition.view().object(object).expect("readable").is_some(), there, "{object}");
    }
    manager.shutdown().await;
    scenario.teardown();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_record_that_cannot_be_applied_learns_the_cause() {
    for fault in ["return(No space left on device)", "panic(a bug)"] {
        let scenario = fail::FailScenario::setup();
        let dir = tempfile::tempdir().expect("a folder");
        let manager = start(dir.path()).await;
        let partition = collection(&manager, "c", &[]).await;
        let before = partition.bounds().durable;
        let (gate, answers) = nine_of_which_one_is_applied(&partition);
        fail::cfg("view-write", fault).expect("a failpoint");
        gate.open();
        let failed: Vec<_> = answers.iter().take(9).filter_map(|(_, answer)| answer.err()).collect();
        assert_eq!(failed.len(), 8, "all but the first: {failed:?}");
        for error in failed {
            assert!(!error.not_applied(), "{error}");
        }
        let refused = partition.propose(put("p", "k", "1")).await.expect_err("the partition has failed");
        let cause = if fault.starts_with("panic") { "panicked" } else { "No space left" };
        assert!(refused.not_applied() && refused.to_string().contains(cause), "{refused}");
        fail::remove("view-write");
        manager.shutdown().await;
        drop((partition, manager));
        let manager = start(dir.path()).await;
        let partition = manager.partition("c", 0).expect("in service");
        assert_eq!(partition.view().header().applied, Offset(before.0 + 9), "all of it is in the log");
        manager.shutdown().await;
        scenario.teardown();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_while_it_starts_lets_go_of_its_directory() {
    let scenario = fail::FailScenario::setup();
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    manager.create_collection(definition("c", 64, &[])).await.expect("created");
    manager.shutdown().await;
    drop(manager);

    let gate = Gate::at("partition-before-open", 1);
    let manager = Manager::open(Options::new(dir.path())).await.expect("the node starts");
    gate.wait_until_held();
    let mut stopping = tokio::spawn({
        let manager = Arc::clone(&manager);
        async move { manager.shutdown().await }
    });
    drop(manager);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut stopping).await;
    assert!(early.is_err(), "it has stopped while one of its partitions was still being opened");
    gate.open();
    stopping.await.expect("stopped");
    start(dir.path()).await.shutdown().await;
    scenario.teardown();
}
