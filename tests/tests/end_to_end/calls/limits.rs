//! A full outbox: what would need more room is refused, and everything else goes on.

use odgm_tests::harness::{Attached, Door, Gate, Home, Knowledge, knowledge, letter, target};
use tokio::task::JoinSet;
use tonic::Code;

use super::{CLASS, functions, outcomes};
use crate::Story;

const ROWS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_without_room_for_their_calls_are_refused_and_taken_again_later() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let options =
        [("outbox_max_rows", "10"), ("trigger_backoff_ms", "20"), ("trigger_backoff_max_ms", "200")];
    let functions = functions(&node, 1, &["count"], &options).await?;
    let things = node.objects(CLASS, 0);
    let called = || target(CLASS, 0, Some("tally"), "count");
    things.attach("one", Attached::none().on_write("k", called())).await?;
    things.attach("two", Attached::none().on_write("k", called()).on_write("k", called())).await?;
    functions.door(Door::Gone).await?;
    for number in 0..ROWS - 1 {
        things.set_value("one", "k", &number.to_string()).await?;
    }

    // There is room for one more call, and not for two.
    let once = things.once("again-later");
    let refused = once.set_value("two", "k", "1").await.expect_err("there is no room for two");
    assert_eq!((refused.code(), knowledge(&refused)), (Code::ResourceExhausted, Knowledge::NotApplied));
    assert!(refused.message().contains("outbox"), "it says why: {refused}");
    assert_eq!(things.value("two", "k").await?, None, "nothing was changed");
    things.set_value("one", "k", "last").await?;
    let refused = things.set_value("one", "k", "refused").await.expect_err("it is full");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let refused = things.accept(Some("tally"), "count", "", "i").await.expect_err("it is full");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // What calls nobody needs no room.
    things.set_value("one", "l", "1").await?;
    things.set_value("three", "k", "1").await?;
    things.attach("two", Attached::none()).await?;
    things.attach("two", Attached::none().on_write("k", called()).on_write("k", called())).await?;

    functions.door(Door::Open).await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(things.value("tally", "count").await?, Some(ROWS.to_string()));
    // The refusal was not the answer to the request once and for all.
    let written = once.set_value("two", "k", "1").await?;
    assert_eq!(once.set_value("two", "k", "1").await?, written);
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(things.value("tally", "count").await?, Some((ROWS + 2).to_string()));
    assert_eq!(node.connection().dead(CLASS).await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_wait_for_more_calls_than_a_node_makes_are_refused() -> Story {
    const MOST: u64 = 3;
    let home = Home::new()?.with("ODGM_MAX_CONCURRENT_CALLS", &MOST.to_string());
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo"], &[]).await?;
    let things = node.objects(CLASS, 0);
    functions.hold("echo", Gate::BeforeAnswer);
    let mut under_way = JoinSet::new();
    for _ in 0..MOST {
        let things = things.clone();
        under_way.spawn(async move { things.invoke(None, "echo", "").await });
    }
    functions.held(MOST).await?;
    let refused = things.invoke(None, "echo", "").await.expect_err("there is no room");
    assert_eq!((refused.code(), knowledge(&refused)), (Code::ResourceExhausted, Knowledge::NotApplied));
    assert!(refused.message().contains("ODGM_MAX_CONCURRENT_CALLS"), "{refused}");
    // Nobody waits for an accepted one.
    things.accept(None, "echo", "", "first").await?;
    functions.release("echo");
    for answer in under_way.join_all().await {
        answer?;
    }
    things.invoke(None, "echo", "").await?;
    assert_eq!(things.result("first", 60_000).await?.state, "ended");
    assert_eq!(functions.calls().len() as u64, MOST + 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_taken_without_room_and_what_they_ask_for_is_a_dead_letter() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["count", "echo"], &[("outbox_max_rows", "2")]).await?;
    let things = node.objects(CLASS, 0);
    let called = || target(CLASS, 0, Some("tally"), "count");
    let attached = Attached::none().on_write("k", called()).on_complete("echo", called());
    things.attach("a", attached).await?;
    functions.hold("count", Gate::BeforeEffect);
    things.write_all("a", "k", 2).await?;
    functions.held(2).await?;

    let answer = things.invoke(Some("a"), "echo", "hello").await?;
    assert_eq!(answer.payload.as_deref(), Some(&b"hello"[..]));
    assert_eq!(outcomes(&things).await?.len(), 1, "the outcome is in the log");
    let dead = node.connection().died(CLASS, 1).await?;
    let told = letter(&dead[0]);
    assert!(told.starts_with("a echo complete -> things/0/tally count") && told.contains("outbox"), "{told}");

    functions.release("count");
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(things.value("tally", "count").await?.as_deref(), Some("2"));
    assert_eq!(things.redrive(&[]).await?, 1);
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(things.value("tally", "count").await?.as_deref(), Some("3"));
    Ok(())
}
