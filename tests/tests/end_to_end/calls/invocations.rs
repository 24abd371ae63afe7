//! Calls that wait for their answer.

use odgm_proto::metadata::TRACEPARENT;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{DeleteCollectionRequest, Earliest, Event, Latest};
use odgm_proto::oprc::ResponseStatus;
use odgm_tests::harness::{Answer, Attached, Door, Functions, Gate, Home, lines, routed, target, until};
use tokio::task::block_in_place;
use tonic::{Code, Request};

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
    create(&node, "hasty", 1, &["echo"], &[("invoke_timeout_ms", "100")], &functions).await?;
    functions.answer("echo", Answer::Never);
    let late = node.objects("hasty", 0).invoke(None, "echo", "").await.expect_err("it hangs");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    let call = functions.calls().pop().ok_or("it was called")?;
    assert!(!call.timeout.is_empty(), "the function knows how long it is waited for");

    functions.answer("echo", Answer::Example);
    functions.door(Door::Garbled).await?;
    // That the connection of before has ended may not be known yet.
    let waiting = || "the function to be reached again".to_owned();
    let garbled = until(waiting, async || {
        let garbled = things.invoke(None, "echo", "").await.expect_err("nobody can read that");
        Ok(Some(garbled).filter(|garbled| garbled.code() != Code::Unavailable))
    });
    let garbled = garbled.await?;
    assert_eq!(garbled.code(), Code::Internal, "{garbled}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_change_and_go_while_a_collection_is_in_use() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let (first, second) = (functions(&node, 1, &["echo"], &[]).await?, Functions::start().await?);
    let things = node.objects(CLASS, 0);
    let url = second.url();
    let route = |words: &[&str]| {
        let words: Vec<_> = ["collection", "route", CLASS].iter().chain(words).copied().collect();
        block_in_place(|| node.odgm(&words))
    };
    let made = || (first.calls().len(), second.calls().len());
    things.invoke(None, "echo", "").await?;
    assert_eq!(made(), (1, 0));

    // Elsewhere; a call that is under way goes on where it began.
    first.hold("echo", Gate::BeforeAnswer);
    let under_way = {
        let things = things.clone();
        tokio::spawn(async move { things.invoke(None, "echo", "under way").await })
    };
    first.held(1).await?;
    let both = ["echo", "fail"].map(|function| format!("{function}={url}"));
    let said = route(&["--function", &both[0], "--function", &both[1]])?.success()?;
    assert_eq!(said.lines().filter(|line| line.contains(&url)).count(), 2, "{said}");
    things.invoke(None, "echo", "").await?;
    things.invoke(None, "fail", "").await?;
    first.release("echo");
    assert_eq!(under_way.await??.payload.as_deref(), Some(&b"under way"[..]));
    assert_eq!(made(), (2, 2));

    // Not called for a while, and then again; and one of them is gone.
    route(&["--disable", "echo", "--yes"])?.success()?;
    let off = things.invoke(None, "echo", "").await.expect_err("it is disabled");
    assert_eq!(off.code(), Code::NotFound, "{off}");
    route(&["--enable", "echo", "--remove", "fail", "--yes"])?.success()?;
    things.invoke(None, "echo", "").await?;
    let gone = things.invoke(None, "fail", "").await.expect_err("it is gone");
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
    let (code, said) = route(&["--remove", "fail"])?.failure()?;
    assert_eq!(code, 3, "{said}");
    assert_eq!(made(), (2, 3));

    create(&node, "others", 1, &["echo"], &[], &first).await?;
    let others = node.objects("others", 0);
    others.invoke(None, "echo", "").await?;
    let request = DeleteCollectionRequest { name: "others".into() };
    node.connection().admin.delete_collection(request).await?;
    let gone = others.invoke(None, "echo", "").await.expect_err("the collection is gone");
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
    things.invoke(None, "echo", "").await?;
    assert_eq!(made(), (3, 4));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_endpoints_each_takes_its_part_and_those_that_are_left_take_all() -> Story {
    const WRITES: u64 = 20;
    let home = Home::new()?;
    let node = home.start().await?;
    let (one, two) = (Functions::start().await?, Functions::start().await?);
    let mut collection = routed(CLASS, 1, &["echo"], &format!("{},{}", one.url(), two.url()));
    let soon = [("trigger_backoff_ms", "10"), ("trigger_backoff_max_ms", "100")];
    collection.options = soon.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    node.connection().create(collection).await?;
    let things = node.objects(CLASS, 0);
    // The one with the fewest calls under way gets the next.
    for functions in [&one, &two] {
        functions.hold("echo", Gate::BeforeAnswer);
    }
    for number in 0..4 {
        things.accept(None, "echo", "", &format!("call-{number}")).await?;
    }
    one.held(2).await?;
    two.held(2).await?;
    for functions in [&one, &two] {
        functions.release("echo");
    }
    node.connection().settled(&[CLASS]).await?;
    assert_eq!((one.calls().len(), two.calls().len()), (2, 2));

    one.door(Door::Gone).await?;
    things.attach("a", Attached::none().on_write("k", target(CLASS, 0, None, "echo"))).await?;
    things.write_all("a", "k", WRITES).await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!((one.calls().len(), two.distinct() as u64), (2, 2 + WRITES));
    // And it is called again when it is back.
    one.door(Door::Open).await?;
    let waiting = || "the other endpoint to be called again".to_owned();
    until(waiting, async || {
        things.invoke(None, "echo", "").await?;
        Ok((one.calls().len() > 2).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_from_a_client_to_the_function_and_what_it_writes() -> Story {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["loop-b"], &[]).await?;
    let things = node.objects(CLASS, 0);
    things.attach("a", Attached::none().on_write("k", target(CLASS, 0, Some("a"), "loop-b"))).await?;
    let mut write = Request::new(things.put("a", "k", ""));
    write.metadata_mut().insert(TRACEPARENT, TRACE.parse()?);
    node.connection().data.clone().set_value(write).await?;
    node.connection().settled(&[CLASS]).await?;
    let calls = functions.calls();
    let traced: Vec<_> = calls.iter().map(|call| call.beside.get(TRACEPARENT).cloned()).collect();
    assert_eq!(traced, [Some(TRACE.to_owned())]);
    let events = things.watch_until_current(From::Earliest(Earliest {})).await?;
    let is_traced = |event: &&Event| {
        event.cause.as_ref().is_some_and(|cause| cause.traceparent.as_deref() == Some(TRACE))
    };
    let traced = events.iter().filter(is_traced);
    let traced: Vec<_> = traced.map(|event| format!("{:?} {}", event.kind(), event.object_id)).collect();
    insta::assert_snapshot!(traced.join("\n"), @r"
    Updated a
    Created b
    Completed a
    ");
    Ok(())
}
