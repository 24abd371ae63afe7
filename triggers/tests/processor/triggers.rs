//! The life of a trigger's call.

use odgm_log::body::calls::{Discard, Invoke, Place, Redrive, Status};
use odgm_log::{Body, Cause, Payload};
use odgm_projections::{InvocationState, Letter};
use odgm_triggers::IdempotencyKey;

use crate::support::{
    Doing, Functions, Node, attach, outcomes, put, settled, target, triggers, until, write,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_fires_and_its_outcome_is_recorded_where_the_function_is() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let (here, there) = (node.collection("here", &[]).await, node.collection("there", &[]).await);
    let targets = [target("here", "count"), target("there", "count")];
    attach(&here, "o", triggers(&targets, &[], &[])).await;
    let offset = write(&here, put("o", "7")).await;
    settled(&here).await;
    until(&there, |header| header.applied.0 > 0).await;

    assert_eq!(outcomes(&here), [("count".to_owned(), Status::Completed, offset.0)]);
    assert_eq!(outcomes(&there), [("count".to_owned(), Status::Completed, offset.0)]);
    let mut calls = functions.calls();
    calls.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(calls.len(), 2);
    for (index, call) in calls.iter().enumerate() {
        let cause = call.cause.expect("a record");
        assert_eq!((cause.group, cause.offset), (here.group(), offset));
        let target = u32::try_from(index).expect("few");
        assert_eq!(call.key, IdempotencyKey { cause, target }.to_string());
        assert_eq!((call.depth, &call.target), (1, &targets[index]));
        let event: serde_json::Value = serde_json::from_slice(&call.payload).expect("JSON");
        assert_eq!(event["event_info"]["source_object_id"], "o");
        assert_eq!(event["event_info"]["context"]["idempotency_key"], call.key);
        assert_eq!(event["original_payload"], "Nw==");
    }
    let mut announced = node.announced.keys();
    announced.sort();
    assert_eq!(announced, calls.iter().map(|call| call.key.clone()).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_function_calls_others_deeper_and_deeper_up_to_the_limit() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let here = node.collection("here", &[("max_trigger_depth", "5")]).await;
    // What is called on the object is called again when it has completed.
    let again = [target("here", "count")];
    attach(&here, "counter", triggers(&again, &again, &[])).await;
    write(&here, put("counter", "7")).await;
    until(&here, |header| header.calls.dead_letters == 1).await;
    settled(&here).await;
    let mut depths: Vec<_> = functions.calls().iter().map(|call| call.depth).collect();
    depths.sort_unstable();
    assert_eq!(depths, [1, 2, 3, 4, 5]);
    let letters = here.view().dead_letters(None, 9).expect("readable");
    let (_, letter) = letters.first().expect("one");
    assert_eq!(letter.reason, "depth 6 is beyond max_trigger_depth 5");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_can_be_tried_again_or_dropped() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let here = node.collection("here", &[("trigger_max_attempts", "3")]).await;
    attach(&here, "o", triggers(&[target("here", "count")], &[], &[])).await;
    functions.set("count", Doing::Fails);
    let offset = write(&here, put("o", "7")).await;
    until(&here, |header| header.calls.dead_letters == 1).await;
    settled(&here).await;
    assert_eq!(functions.calls().len(), 3);
    let place = Place { offset, index: 0 };
    let letter = here.view().dead_letter(place).expect("readable").expect("there");
    let reason = "given up after 3 attempts: the function was not reached: nobody is there";
    assert_eq!(letter.reason, reason);
    let Letter::Call(row) = letter.letter else { panic!("a call") };
    assert_eq!(row.payload.expect("kept").0, "7");
    assert_eq!(outcomes(&here), [("count".to_owned(), Status::SystemError, offset.0)]);

    functions.set("count", Doing::Answers(Status::Completed));
    let body = Body::Redrive(Redrive { letters: vec![place] });
    here.propose(Payload { cause: Cause::default(), body }).await.expect("recorded");
    settled(&here).await;
    let calls = functions.calls();
    assert!(calls.iter().all(|call| call.key == calls[0].key && call.payload == calls[0].payload));
    assert_eq!(calls.len(), 4);
    assert_eq!(here.view().header().calls.dead_letters, 0);

    functions.set("count", Doing::IsMissing);
    let offset = write(&here, put("o", "8")).await;
    until(&here, |header| header.calls.dead_letters == 1).await;
    assert_eq!(functions.calls().len(), 5, "what is not there is not asked for twice");
    let letters = vec![Place { offset, index: 0 }];
    let body = Body::Discard(Discard { letters, reason: "nobody wants it".into() });
    here.propose(Payload { cause: Cause::default(), body }).await.expect("recorded");
    assert_eq!(here.view().header().calls.dead_letters, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_to_be_told_is_a_dead_letter() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let here = node.collection("here", &[]).await;
    attach(&here, "o", triggers(&[target("nowhere", "count")], &[], &[])).await;
    write(&here, put("o", "7")).await;
    until(&here, |header| header.calls.dead_letters == 1).await;
    let letters = here.view().dead_letters(None, 9).expect("readable");
    let (place, letter) = letters.first().expect("one");
    assert!(matches!(letter.letter, Letter::Delivery(_)), "{letter:?}");

    node.collection("nowhere", &[]).await;
    let body = Body::Redrive(Redrive { letters: vec![*place] });
    here.propose(Payload { cause: Cause::default(), body }).await.expect("recorded");
    settled(&here).await;
    let there = node.manager.partition("nowhere", 0).expect("there");
    assert_eq!(outcomes(&there).len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_ends_once_and_keeps_its_answer() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let here = node.collection("here", &[]).await;
    let body = Body::Invoke(Invoke {
        invocation: "i".into(),
        object: None,
        function: "count".into(),
        options: Vec::new(),
        payload: bytes::Bytes::from_static(b"request").into(),
    });
    here.propose(Payload { cause: Cause::default(), body }).await.expect("recorded");
    settled(&here).await;
    let calls = functions.calls();
    let [call] = calls.as_slice() else { panic!("one call, not {calls:?}") };
    assert_eq!((call.payload.as_ref(), call.depth), (b"request".as_slice(), 0));
    assert_eq!((call.target.class.as_str(), call.target.partition), ("here", 0));
    let known = here.view().invocation("i").expect("readable").expect("remembered");
    let InvocationState::Ended { finished, .. } = known.state else { panic!("{known:?}") };
    assert_eq!(finished.payload.0, format!("answer to {}", call.key));
    assert!(node.announced.keys().is_empty(), "only calls of triggers are announced");
    node.stop().await;
}
