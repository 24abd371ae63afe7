//! Calls that are accepted and made later; their results are asked for by their ids.

use odgm_proto::oprc::ResponseStatus;
use odgm_tests::harness::{Answer, Gate, Home, until};
use tokio::task::block_in_place;
use tonic::Code;

use super::{CLASS, functions, outcomes_by_call};
use crate::Story;

/// Far longer than a call takes.
const WAIT_MS: u32 = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_call_is_made_once_and_its_result_is_there_by_its_id() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 2, &["count", "echo", "fail"], &[]).await?;
    let things = node.objects(CLASS, 1);
    functions.hold("count", Gate::BeforeEffect);
    let accepted = things.accept(Some("tally"), "count", "hello", "first").await?;
    assert_eq!(accepted.invocation_id, "first");
    functions.held(1).await?;
    let pending = things.result("first", 0).await?;
    assert_eq!((pending.state.as_str(), pending.accepted_offset), ("pending", accepted.offset));
    assert_eq!((pending.fn_id.as_str(), pending.object_id.as_deref()), ("count", Some("tally")));

    // Asked for again it is the same; another call needs another id.
    assert_eq!(things.accept(Some("tally"), "count", "hello", "first").await?, accepted);
    let refused = things.accept(Some("tally"), "count", "bye", "first").await.expect_err("it is another");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

    functions.release("count");
    let ended = things.result("first", WAIT_MS).await?;
    assert_eq!(ended.state, "ended");
    let outcome = ended.outcome.ok_or("it ended somehow")?;
    assert_eq!((outcome.status(), outcome.payload.as_ref()), (ResponseStatus::Okay, &b"1"[..]));
    assert_eq!(things.accept(Some("tally"), "count", "hello", "first").await?, accepted);
    assert_eq!(functions.calls().len(), 1);

    // An id is chosen for those who name none, and a failure is a result.
    let chosen = things.accept(None, "fail", "", "").await?.invocation_id;
    let refusal = things.result(&chosen, WAIT_MS).await?.outcome.ok_or("it ended somehow")?;
    assert_eq!(refusal.status(), ResponseStatus::AppError);
    let ended = outcomes_by_call(&things).await?;
    assert_eq!(ended.keys().map(String::as_str).filter(|id| *id == "first" || *id == chosen).count(), 2);

    let unknown = things.result("unknown", 0).await.expect_err("nobody has asked for it");
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    let elsewhere = node.objects(CLASS, 0).result("first", 0).await.expect_err("it is of another partition");
    assert_eq!(elsewhere.code(), Code::NotFound, "{elsewhere}");
    let nothing = things.accept(None, "nothing", "", "n").await;
    assert_eq!(nothing.err().map(|status| status.code()), Some(Code::NotFound), "there is no such function");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_calls_survive_a_kill_and_are_made_again_if_nothing_is_known_of_them() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["count", "echo"], &[]).await?;
    let things = node.objects(CLASS, 0);
    things.accept(None, "echo", "before", "before").await?;
    assert_eq!(things.result("before", WAIT_MS).await?.state, "ended");
    functions.hold("count", Gate::BeforeAnswer);
    for number in 0..5 {
        things.accept(Some("tally"), "count", "", &format!("held-{number}")).await?;
    }
    functions.held(5).await?;
    node.kill()?;

    let node = home.start().await?;
    functions.write_to(&[node.address()])?;
    functions.release("count");
    let things = node.objects(CLASS, 0);
    for number in 0..5 {
        let result = things.result(&format!("held-{number}"), WAIT_MS).await?;
        assert_eq!(result.state, "ended", "{result:?}");
    }
    let before = things.result("before", 0).await?.outcome.ok_or("it had ended")?;
    assert_eq!(before.payload.as_ref(), b"before");
    assert!(functions.calls_of("count").len() >= 10, "each was called before and after");
    assert_eq!(functions.distinct(), 6);
    assert_eq!(things.value("tally", "count").await?.as_deref(), Some("5"), "and counted once");
    assert_eq!(outcomes_by_call(&things).await?.len(), 6);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_says_so_and_ends_after_it_was_redriven() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let options = [("trigger_max_attempts", "2"), ("trigger_backoff_ms", "1")];
    let functions = functions(&node, 1, &["echo"], &options).await?;
    let things = node.objects(CLASS, 0);
    functions.answer("echo", Answer::Status(Code::Unavailable));
    things.accept(None, "echo", "hello", "first").await?;
    let given_up = things.result("first", WAIT_MS).await?;
    assert_eq!(given_up.state, "dead", "{given_up:?}");
    assert!(!given_up.reason.is_empty());
    assert_eq!(node.connection().dead(CLASS).await?.len(), 1);

    functions.answer("echo", Answer::Example);
    assert_eq!(things.redrive(&[]).await?, 1);
    let ended = things.result("first", WAIT_MS).await?;
    assert_eq!(ended.state, "ended", "{ended:?}");
    assert_eq!(ended.outcome.map(|outcome| outcome.payload), Some("hello".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_forgotten_when_their_time_is_over() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let _functions = functions(&node, 1, &["echo"], &[("result_retention_ms", "500")]).await?;
    let things = node.objects(CLASS, 0);
    things.accept(None, "echo", "hello", "first").await?;
    assert_eq!(things.result("first", WAIT_MS).await?.state, "ended");
    let waiting = || "the result to be forgotten".to_owned();
    until(waiting, async || {
        // The time of a partition is that of its newest record.
        things.set_value("a", "k", "").await?;
        match things.result("first", 0).await {
            Ok(_) => Ok(None),
            Err(status) if status.code() == Code::NotFound => Ok(Some(())),
            Err(status) => Err(status.into()),
        }
    })
    .await?;
    // Its id may be used again.
    things.accept(None, "echo", "bye", "first").await?;
    let again = things.result("first", WAIT_MS).await?.outcome.ok_or("it ended somehow")?;
    assert_eq!(again.payload.as_ref(), b"bye");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_calls_and_asks_for_results() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo", "count"], &[]).await?;
    let run = |arguments: &[&str]| block_in_place(|| node.odgm(arguments)?.success());
    assert_eq!(run(&["invoke", "things/0/tally", "count"])?, "1");
    assert_eq!(run(&["invoke", "things", "echo", "--payload", "hello"])?, "hello");

    functions.hold("count", Gate::BeforeEffect);
    let id = run(&["invoke", "things/0/tally", "count", "--async"])?;
    functions.held(1).await?;
    let (code, told) = block_in_place(|| node.odgm(&["result", "things/0", id.trim()])?.failure())?;
    assert_eq!(code, 5, "it has not ended: {told}");
    functions.release("count");
    assert_eq!(run(&["result", "things/0", id.trim(), "--wait", "60"])?, "2");
    let (code, told) = block_in_place(|| node.odgm(&["result", "things/0", "unknown"])?.failure())?;
    assert_eq!(code, 3, "there is none: {told}");
    Ok(())
}
