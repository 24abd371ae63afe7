//! Functions that are gone, mute, late, or talk nonsense: writes go on, and nothing is forgotten.

use odgm_tests::harness::{Answer, Attached, Door, Functions, Gate, Home, Node, target};

use super::{CLASS, functions, outcomes, outcomes_by_call};
use crate::Story;

const WRITES: u64 = 60;

/// Calls are given up late, and tried again soon. They are waited for long enough to speak against the function.
const PATIENT: &[(&str, &str)] = &[
    ("trigger_timeout_ms", "1200"),
    ("trigger_backoff_ms", "20"),
    ("trigger_backoff_max_ms", "300"),
    ("trigger_max_attempts", "1000"),
];

/// The figure of an endpoint whose breaker is open.
const OPEN: f64 = 2.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_is_gone_for_a_while_is_called_when_it_is_back() -> Story {
    outage(Trouble::Door(Door::Gone)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_takes_connections_and_is_mute_is_called_when_it_speaks() -> Story {
    outage(Trouble::Door(Door::Mute)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_speaks_something_else_is_called_when_it_has_remembered() -> Story {
    outage(Trouble::Door(Door::Noisy)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_whose_answers_cannot_be_read_is_called_again() -> Story {
    outage(Trouble::Door(Door::Garbled)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_hangs_is_called_again() -> Story {
    outage(Trouble::Hangs).await
}

/// What is wrong with a function.
#[derive(Clone, Copy)]
enum Trouble {
    /// It cannot be reached as usual.
    Door(Door),
    /// It does not answer.
    Hangs,
}

impl Trouble {
    async fn begin(self, functions: &Functions) -> Story {
        match self {
            Self::Door(door) => functions.door(door).await?,
            Self::Hangs => functions.answer("count", Answer::Never),
        }
        Ok(())
    }

    async fn end(self, functions: &Functions) -> Story {
        match self {
            Self::Door(_) => functions.door(Door::Open).await?,
            Self::Hangs => functions.answer("count", Answer::Example),
        }
        Ok(())
    }
}

/// Writes go on while a function is out of order, its breaker opens, and afterwards everything is made up for.
async fn outage(trouble: Trouble) -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["count"], PATIENT).await?;
    let things = node.objects(CLASS, 0);
    let called = target(CLASS, 0, Some("tally"), "count");
    things.attach("a", Attached::none().on_write("k", called)).await?;
    things.write_all("a", "k", 3).await?;
    node.connection().settled(&[CLASS]).await?;

    trouble.begin(&functions).await?;
    things.write_all("a", "k", WRITES).await?;
    let waiting = rows(&node).await?;
    assert_eq!(waiting, WRITES, "all that was written waits");
    node.connection().figure_where("odgm_endpoint_state", |state| state >= OPEN).await?;
    // And goes on being acknowledged while the breaker is open.
    things.write_all("a", "k", WRITES).await?;
    let pending = node.connection().pending(CLASS).await?;
    assert!(pending.iter().any(|call| !call.last_error.is_empty()), "{pending:?}");

    trouble.end(&functions).await?;
    node.connection().settled(&[CLASS]).await?;
    node.connection().figure_where("odgm_endpoint_state", |state| state < OPEN).await?;
    assert_eq!(things.value("tally", "count").await?, Some((3 + 2 * WRITES).to_string()));
    assert_eq!(outcomes_by_call(&things).await?.len() as u64, 3 + 2 * WRITES);
    assert_eq!(node.connection().dead(CLASS).await?, []);
    Ok(())
}

async fn rows(node: &Node<'_>) -> odgm_tests::Result<u64> {
    Ok(node.connection().totals(CLASS).await?.iter().map(|totals| totals.outbox_rows).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_function_holds_up_nobody_who_writes() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo"], &[("max_concurrent_triggers", "4")]).await?;
    functions.hold("echo", Gate::BeforeAnswer);
    let things = node.objects(CLASS, 0);
    things.attach("a", Attached::none().on_write("k", target(CLASS, 0, None, "echo"))).await?;
    things.write_all("a", "k", WRITES).await?;
    // Three quarters of the places are the most that one function has.
    functions.held(3).await?;
    assert_eq!(rows(&node).await?, WRITES, "all was written while no call had ended");
    functions.release("echo");
    node.connection().settled(&[CLASS]).await?;
    assert_eq!((functions.calls().len() as u64, functions.most_at_once()), (WRITES, 3));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_for_a_while_is_tried_again_under_the_same_key_and_ends_once() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["broken-3"], PATIENT).await?;
    let things = node.objects(CLASS, 0);
    things.attach("a", Attached::none().on_write("k", target(CLASS, 0, None, "broken-3"))).await?;
    things.set_value("a", "k", "1").await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!((functions.calls().len(), functions.distinct()), (4, 1));
    let ended = outcomes(&things).await?;
    let ended: Vec<_> = ended.iter().filter_map(|event| event.outcome.clone()).collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0].payload.as_ref(), b"mended after 3");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_final_and_what_is_tried_too_often_is_dead_until_it_is_redriven() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let options = [("trigger_max_attempts", "3"), ("trigger_backoff_ms", "1")];
    let functions = functions(&node, 1, &["fail", "broken", "count-errors"], &options).await?;
    let things = node.objects(CLASS, 0);
    let attached = Attached::none()
        .on_create("refused", target(CLASS, 0, Some("b"), "fail"))
        .on_create("broken", target(CLASS, 0, Some("b"), "broken"));
    things.attach("a", attached).await?;
    let errors = || target(CLASS, 0, Some("errors"), "count-errors");
    things.attach("b", Attached::none().on_error("fail", errors()).on_error("broken", errors())).await?;

    things.set_value("a", "refused", "").await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(functions.calls_of("fail").len(), 1, "a refusal is not tried again");
    assert_eq!(node.connection().dead(CLASS).await?, []);
    assert_eq!(things.value("errors", "count").await?.as_deref(), Some("1"));

    things.set_value("a", "broken", "").await?;
    let dead = node.connection().died(CLASS, 1).await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!((functions.calls_of("broken").len(), dead[0].attempts), (3, 3));
    assert_eq!(
        things.value("errors", "count").await?.as_deref(),
        Some("2"),
        "that it failed is an outcome, too"
    );

    functions.answer("broken", Answer::Text("mended"));
    assert_eq!(things.redrive(&[]).await?, 1);
    functions.called("broken", 4).await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(node.connection().dead(CLASS).await?, []);
    let keys: std::collections::BTreeSet<_> =
        functions.calls_of("broken").iter().map(|call| call.key().to_owned()).collect();
    assert_eq!(keys.len(), 1, "the key stays the same: {keys:?}");
    let last = outcomes(&things).await?.pop().and_then(|event| event.outcome).ok_or("it has ended")?;
    assert_eq!(last.payload.as_ref(), b"mended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_counts_of_calls_is_what_happened() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let options = [("trigger_max_attempts", "2"), ("trigger_backoff_ms", "1")];
    let functions = functions(&node, 2, &["echo", "fail", "broken"], &options).await?;
    let things = node.objects(CLASS, 0);
    // The outcomes of one of them have to be delivered.
    let attached = [("echo", 1), ("fail", 0), ("broken", 0)]
        .iter()
        .fold(Attached::none(), |attached, (function, partition)| {
            attached.on_write("k", target(CLASS, *partition, None, function))
        });
    things.attach("a", attached).await?;
    functions.hold("echo", Gate::BeforeAnswer);
    things.write_all("a", "k", 5).await?;
    node.connection().died(CLASS, 5).await?;
    // While something is under way.
    for (figure, expected) in [("odgm_calls_in_flight", 5.0), ("odgm_outbox_rows", 5.0)] {
        node.connection().figure_where(figure, is(expected)).await?;
    }
    for figure in ["odgm_outbox_bytes", "odgm_outbox_age_seconds"] {
        node.connection().figure_where(figure, |found| found > 0.0).await?;
    }
    functions.release("echo");
    node.connection().settled(&[CLASS]).await?;
    things.invoke(None, "echo", "").await?;
    things.accept(None, "fail", "", "accepted").await?;
    assert_eq!(things.result("accepted", 60_000).await?.state, "ended");
    for (figure, expected) in [
        ("odgm_calls_dispatched_total", 21.0),
        ("odgm_calls_succeeded_total", 5.0),
        ("odgm_calls_failed_total", 6.0),
        ("odgm_calls_retried_total", 5.0),
        ("odgm_calls_dead_total", 5.0),
        ("odgm_calls_delivered_total", 5.0),
        ("odgm_calls_stale_total", 0.0),
        ("odgm_invocations_total", 2.0),
        ("odgm_calls_in_flight", 0.0),
        ("odgm_outbox_rows", 0.0),
        ("odgm_outbox_bytes", 0.0),
        ("odgm_outbox_age_seconds", 0.0),
        ("odgm_dead_letters", 5.0),
        ("odgm_deliveries_waiting", 0.0),
    ] {
        node.connection().figure_where(figure, is(expected)).await?;
    }
    assert_eq!(functions.calls().len(), 22);
    Ok(())
}

/// Whether a figure is this one.
fn is(expected: f64) -> impl Fn(f64) -> bool {
    move |found| (found - expected).abs() < 0.001
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_in_one_function_is_none_of_another_ones() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    // What hangs would have all places for longer than anybody waits here.
    let options = [("max_concurrent_triggers", "8"), ("trigger_timeout_ms", "600000")];
    let well = functions(&node, 1, &["echo"], &options).await?;
    let ill = Functions::start().await?;
    super::create(&node, "ill", 1, &["echo"], &options, &ill).await?;
    ill.hold("echo", Gate::BeforeAnswer);
    let things = node.objects(CLASS, 0);
    let attached = Attached::none()
        .on_write("k", target("ill", 0, None, "echo"))
        .on_write("k", target(CLASS, 0, None, "echo"));
    things.attach("a", attached).await?;
    things.write_all("a", "k", WRITES).await?;
    well.called("echo", usize::try_from(WRITES)?).await?;
    ill.held(6).await?;
    assert_eq!(
        (ill.waiting(), ill.answered()),
        (6, 0),
        "it hangs, in no more than three quarters of the places"
    );
    ill.release("echo");
    node.connection().settled(&[CLASS, "ill"]).await?;
    assert_eq!((ill.calls().len() as u64, ill.most_at_once()), (WRITES, 6));
    Ok(())
}
