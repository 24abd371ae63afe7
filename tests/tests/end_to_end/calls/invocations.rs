//! Calls that wait for their answer.

use std::time::Duration;

use odgm_proto::odgm::v1::Latest;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::oprc::ResponseStatus;
use odgm_tests::harness::{Answer, Door, Functions, Home, lines, routed};
use tonic::Code;

use super::{CLASS, create, functions, outcomes};
use crate::Story;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_of_a_call_is_answered_and_told_to_those_who_watch() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 2, &["echo", "fail", "broken"], &[]).await?;
    let things = node.objects(CLASS, 1);
    let first = things.set("a", &[("k", "v")]).await?.offset;
    let mut feed = things.watch(From::Latest(Latest {})).await?;

    let answer = things.invoke(Some("a"), "echo", "hello").await?;
    assert_eq!((answer.status(), answer.payload.as_deref()), (ResponseStatus::Okay, Some(&b"hello"[..])));
    let answer = things.invoke(None, "echo", "class").await?;
    assert_eq!(answer.payload.as_deref(), Some(&b"class"[..]));
    let refused = things.invoke(Some("a"), "fail", "hello").await?;
    assert_eq!(refused.status(), ResponseStatus::AppError);
    let failed = things.invoke(Some("absent"), "broken", "").await.expect_err("it is broken");
    assert_eq!((failed.code(), failed.message()), (Code::Internal, "broken as always"));

    let mut events = feed.take(4).await?;
    events.iter_mut().for_each(|event| event.offset -= first);
    insta::assert_snapshot!(lines(&events), @r"
    1 completed a v1: echo hello
    2 completed  v0: echo class
    3 failed a v1: fail fail refuses whatever it is asked (the function answered with application_error: fail refuses whatever it is asked)
    4 failed absent v0: broken  (the function answered with INTERNAL: broken as always)
    ");
    assert!(events.iter().all(|event| event.outcome.as_ref().is_some_and(|outcome| outcome.took_us > 0)));
    // Nothing has happened to the object.
    assert_eq!(things.find("a").await?.map(|found| found.version), Some(1));
    let mut history = things.history("a").await?;
    history.iter_mut().for_each(|event| event.offset -= first);
    insta::assert_snapshot!(lines(&history), @r"
    0 created a v1: +k=v
    1 completed a v1: echo hello
    3 failed a v1: fail fail refuses whatever it is asked (the function answered with application_error: fail refuses whatever it is asked)
    ");
    assert_eq!(functions.calls().len(), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_asked_for_again_under_its_request_id_is_made_once() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["count"], &[]).await?;
    let things = node.objects(CLASS, 0);
    let once = things.once("order-66");
    for _ in 0..3 {
        let answer = once.invoke(Some("tally"), "count", "").await?;
        assert_eq!(answer.payload.as_deref(), Some(&b"1"[..]), "the same answer each time");
    }
    assert_eq!(functions.calls().len(), 1);
    assert_eq!(outcomes(&things).await?.len(), 1);
    let refused = once.invoke(Some("tally"), "count", "another").await.expect_err("it is another request");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(things.invoke(Some("tally"), "count", "").await?.payload.as_deref(), Some(&b"2"[..]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_cannot_be_made_fails_with_the_code_of_the_contract() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = Functions::start().await?;
    let mut collection = routed(CLASS, 1, &["echo", "off", "lost"], &functions.url());
    if let Some(routes) = &mut collection.invocations {
        routes.disabled_fn.push("off".to_owned());
        routes.fn_routes.entry("lost".to_owned()).and_modify(|route| route.url = "http://127.0.0.1:1".into());
    }
    node.connection().create(collection).await?;
    let things = node.objects(CLASS, 0);
    let nowhere = node.objects("nowhere", 0);
    let far = node.objects(CLASS, 7);
    let refused = |status: tonic::Status| (status.code(), status.message().to_owned());
    let told = [
        nowhere.invoke(None, "echo", "").await.map_err(refused),
        far.invoke(Some("a"), "echo", "").await.map_err(refused),
        things.invoke(None, "nothing", "").await.map_err(refused),
        things.invoke(None, "off", "").await.map_err(refused),
        things.invoke(Some("not:an id"), "echo", "").await.map_err(refused),
    ];
    let told: Vec<_> = told.into_iter().map(|told| told.expect_err("it cannot be called")).collect();
    let codes: Vec<_> = told.iter().map(|(code, _)| *code).collect();
    let not_found = Code::NotFound;
    assert_eq!(codes, [not_found, not_found, not_found, not_found, Code::InvalidArgument], "{told:?}");
    assert_eq!(outcomes(&things).await?, [], "what was never called has no outcome");

    let lost = things.invoke(None, "lost", "").await.expect_err("nobody listens there");
    assert_eq!(lost.code(), Code::Unavailable, "{lost}");
    for code in [Code::PermissionDenied, Code::ResourceExhausted, Code::Unimplemented] {
        functions.answer("echo", Answer::Status(code));
        let failed = things.invoke(None, "echo", "").await.expect_err("it fails");
        assert_eq!(failed.code(), code, "what the function says passes: {failed}");
    }
    functions.answer("echo", Answer::Never);
    let hasty = things.within(Duration::from_millis(300));
    let late = hasty.invoke(None, "echo", "").await.expect_err("it hangs");
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late}");
    let call = functions.calls().pop().ok_or("it was called")?;
    assert!(!call.timeout.is_empty(), "the function knows how long it is waited for");

    functions.answer("echo", Answer::Example);
    functions.door(Door::Garbled);
    let garbled = things.invoke(None, "echo", "").await.expect_err("nobody can read that");
    assert!(matches!(garbled.code(), Code::Internal | Code::Unknown | Code::Unavailable), "{garbled}");
    functions.door(Door::Open);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_change_and_go_while_a_collection_is_in_use() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo"], &[]).await?;
    create(&node, "others", 1, &["echo"], &[], &functions).await?;
    let others = node.objects("others", 0);
    others.invoke(None, "echo", "").await?;
    node.objects(CLASS, 0).invoke(None, "echo", "").await?;
    let request = odgm_proto::odgm::v1::DeleteCollectionRequest { name: "others".into() };
    node.connection().admin.delete_collection(request).await?;
    let gone = others.invoke(None, "echo", "").await.expect_err("the collection is gone");
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
    node.objects(CLASS, 0).invoke(None, "echo", "").await?;
    assert_eq!(functions.calls().len(), 3);
    Ok(())
}
