//! What `oprc.OprcFunction` means: calls whose clients wait for the answer.

use std::time::Duration;

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{
    Earliest, Event, Filter, HistoryRequest, SubscribeRequest, SubscribeResponse, UpdateCollectionRequest,
};
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::functions::{TestFunctions, nowhere, routes};
use crate::node::{TestNode, number};

/// The class whose functions are called.
pub(crate) const JOBS: &str = "jobs";

fn by_itself(function: &str, payload: &'static str) -> InvocationRequest {
    InvocationRequest {
        cls_id: JOBS.into(),
        fn_id: function.into(),
        payload: payload.into(),
        ..Default::default()
    }
}

fn on(object: &str, function: &str, payload: &'static str) -> ObjectInvocationRequest {
    ObjectInvocationRequest {
        cls_id: JOBS.into(),
        fn_id: function.into(),
        object_id_str: Some(object.into()),
        payload: payload.into(),
        ..Default::default()
    }
}

fn with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().expect("a value"));
    }
    request
}

/// `kind object: function status detail payload`, with the depth if there is one.
pub(crate) fn line(event: &Event) -> String {
    let outcome = event.outcome.as_ref().expect("an outcome");
    let kind = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_lowercase();
    let status = outcome.status().as_str_name().trim_start_matches("RESPONSE_STATUS_").to_lowercase();
    let payload = String::from_utf8_lossy(&outcome.payload);
    let depth = event.cause.as_ref().map_or(0, |cause| cause.depth);
    let depth = if depth == 0 { String::new() } else { format!(" (depth {depth})") };
    let object = if event.object_id.is_empty() { "-" } else { &event.object_id };
    let parts = [kind.as_str(), object, &outcome.fn_id, &status, &outcome.detail, &payload];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{}{depth}", parts.join(" "))
}

/// The outcomes of the first partition, as they come.
pub(crate) struct Outcomes(Streaming<SubscribeResponse>);

impl Outcomes {
    pub(crate) async fn of(node: &TestNode, class: &str) -> Self {
        let request = SubscribeRequest {
            cls_id: class.into(),
            partitions: vec![0],
            from: Some(From::Earliest(Earliest {})),
            filter: Some(Filter { kinds: vec![4, 5], ..Default::default() }),
            with_values: true,
            ..Default::default()
        };
        Self(node.streams().subscribe(request).await.expect("a subscription").into_inner())
    }

    pub(crate) async fn next(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.0.message().await.expect("a response").expect("no end");
            events.extend(response.events);
        }
        events
    }
}

async fn node_with(functions: &TestFunctions, names: &[&str]) -> TestNode {
    let node = TestNode::start().await;
    node.create(JOBS, Some(functions.routes(names)), &[]).await;
    node
}

pub(crate) fn outcome_of(status: &Status) -> &str {
    status.metadata().get("odgm-outcome").map_or("-", |outcome| outcome.to_str().expect("ASCII"))
}

#[tokio::test]
async fn a_function_answers_and_the_log_has_its_outcome() {
    let functions = TestFunctions::start().await;
    let node = node_with(&functions, &["echo", "fail"]).await;
    let mut client = node.functions();
    let mut request = on("Flight-1", "echo", "hello");
    request.options.insert("accept".into(), "text/plain".into());
    let response = client.invoke_obj(request).await.expect("an answer");
    let offset = number(response.metadata(), "odgm-offset");
    let response = response.into_inner();
    assert_eq!((response.payload.as_deref(), response.status), (Some(b"hello".as_slice()), 0));
    assert_eq!(response.headers["content-type"], "text/plain");
    assert!(
        response.invocation_id.len() == 32 && response.invocation_id.bytes().all(|b| b.is_ascii_hexdigit())
    );
    let failed = client.invoke_fn(by_itself("fail", "")).await.expect("an answer").into_inner();
    assert_eq!((failed.payload.as_deref(), failed.status), (Some(b"no such flight".as_slice()), 2));

    let asked = functions.asked(2).await;
    assert_eq!(
        (asked[0].object.as_deref(), asked[0].options["accept"].as_str()),
        (Some("flight-1"), "text/plain")
    );
    assert_eq!(asked[0].metadata.get("odgm-depth").map(|depth| depth.as_bytes()), Some(b"0".as_slice()));
    assert!(asked[0].metadata.contains_key("grpc-timeout"), "{:?}", asked[0].metadata);

    let events = Outcomes::of(&node, JOBS).await.next(2).await;
    let lines: Vec<_> = events.iter().map(line).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    completed flight-1 echo okay hello
    failed - fail app_error the function answered with application_error: no such flight no such flight
    ");
    assert_eq!(events[0].offset, offset);
    assert_eq!(events[0].outcome.as_ref().map(|it| &it.invocation_id), Some(&response.invocation_id));
    let history = HistoryRequest { cls_id: JOBS.into(), object_id: "flight-1".into(), ..Default::default() };
    let mut history = node.streams().history(history).await.expect("a history").into_inner();
    let event = history.message().await.expect("an event").expect("one");
    assert_eq!((event.operation.as_str(), event.object_version), ("outcome", 0), "it is no object's state");
    assert_eq!(event.outcome.as_ref().map(|it| it.payload.len()), Some(0), "no values were asked for");
    assert!(history.message().await.expect("the end").is_none());
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "most of them are the snapshot")]
async fn what_keeps_a_function_from_answering_is_told_and_recorded_if_it_was_called() {
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    let (gone, mut all) = (nowhere().await, functions.routes(&["echo", "refuse", "disabled"]));
    all.disabled_fn = vec!["disabled".into()];
    all.fn_routes.extend(routes(&gone, &["gone"]).fn_routes);
    all.fn_routes.extend(routes("ftp://nowhere", &["odd"]).fn_routes);
    node.create(JOBS, Some(all), &[("max_trigger_depth", "3")]).await;
    let mut client = node.functions();
    let mut lines = Vec::new();
    let mut tell = |what: &str, answer: Result<Response<InvocationResponse>, Status>| {
        let status = answer.err().unwrap_or_else(|| Status::ok("was answered"));
        let message = status.message().replace(&gone, "URL").replace(&gone[7..], "HOST");
        lines.push(format!("{what}: {:?} [{}] {message}", status.code(), outcome_of(&status)));
    };
    tell("refused by the function", client.invoke_fn(by_itself("refuse", "")).await);
    tell("unreachable", client.invoke_obj(on("o", "gone", "")).await);
    tell("no route", client.invoke_fn(by_itself("other", "")).await);
    tell("disabled", client.invoke_fn(by_itself("disabled", "")).await);
    tell("odd URL", client.invoke_fn(by_itself("odd", "")).await);
    tell("no function", client.invoke_fn(by_itself("", "")).await);
    let nothing = InvocationRequest { cls_id: "nothing".into(), ..by_itself("echo", "") };
    tell("no class", client.invoke_fn(nothing).await);
    let partition = |partition_id| InvocationRequest { partition_id, ..by_itself("echo", "") };
    tell("no partition", client.invoke_fn(partition(1)).await);
    tell("huge partition", client.invoke_fn(partition(70_000)).await);
    tell("bad id", client.invoke_obj(on("a/b", "echo", "")).await);
    tell(
        "no id",
        client.invoke_obj(ObjectInvocationRequest { object_id_str: None, ..on("", "echo", "") }).await,
    );
    tell(
        "as deep as may be",
        client.invoke_fn(with(by_itself("echo", "deep"), &[("odgm-depth", "3")])).await,
    );
    tell("too deep", client.invoke_fn(with(by_itself("echo", ""), &[("odgm-depth", "4")])).await);
    let mut by_option = by_itself("echo", "");
    by_option.options.insert("odgm-depth".into(), "5".into());
    tell("too deep by option", client.invoke_fn(by_option.clone()).await);
    tell("metadata wins", client.invoke_fn(with(by_option, &[("odgm-depth", "1")])).await);
    tell("bad depth", client.invoke_fn(with(by_itself("echo", ""), &[("odgm-depth", "deep")])).await);
    insta::assert_snapshot!(lines.join("\n"), @r#"
    refused by the function: PermissionDenied [applied] not you
    unreachable: Unavailable [applied] the function was not reached: URL: Connection refused (os error 111)
    no route: NotFound [not-applied] class "jobs" has no function "other" to call: expected one that invocations.fn_routes of its collection names
    disabled: NotFound [not-applied] class "jobs" has no function "disabled" to call: it is disabled; take it out of invocations.disabled_fn to have it called
    odd URL: FailedPrecondition [not-applied] function "odd" of class "jobs" cannot be called: "ftp://nowhere" is no endpoint; expected http://host:port
    no function: InvalidArgument [not-applied] invalid fn_id "": expected 1 to 256 bytes
    no class: NotFound [not-applied] there is no collection "nothing"
    no partition: NotFound [not-applied] collection "jobs" has 1 partitions, 0 to 0: there is no partition 1
    huge partition: InvalidArgument [not-applied] invalid partition_id 70000: expected 0 to 65535
    bad id: InvalidArgument [not-applied] invalid object_id "a/b": '/' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    no id: InvalidArgument [not-applied] object_id required: expected 1 to 160 bytes of a-z 0-9 . _ : -
    as deep as may be: Ok [-] was answered
    too deep: FailedPrecondition [not-applied] depth 4 is beyond max_trigger_depth 3 of collection "jobs": what calls this is called by itself in the end
    too deep by option: FailedPrecondition [not-applied] depth 5 is beyond max_trigger_depth 3 of collection "jobs": what calls this is called by itself in the end
    metadata wins: Ok [-] was answered
    bad depth: InvalidArgument [not-applied] odgm-depth "deep": expected a decimal number
    "#);

    let events = Outcomes::of(&node, JOBS).await.next(4).await;
    let lines: Vec<_> = events.iter().map(|event| line(event).replace(&gone[7..], "HOST")).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    failed - refuse app_error the function answered with PERMISSION_DENIED: not you
    failed o gone system_error the function was not reached: http://HOST: Connection refused (os error 111)
    completed - echo okay deep (depth 3)
    completed - echo okay (depth 1)
    ");
}

#[tokio::test]
async fn a_function_that_is_late_has_an_outcome_like_any_other() {
    let functions = TestFunctions::start().await;
    let node = node_with(&functions, &["slow"]).await;
    let mut request = Request::new(by_itself("slow", ""));
    // The client waits on, to hear what the node says of it.
    request.metadata_mut().insert("grpc-timeout", "200m".parse().expect("a value"));
    let late = node.functions().invoke_fn(request).await.expect_err("nobody lets it answer");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    let event = Outcomes::of(&node, JOBS).await.next(1).await.remove(0);
    let outcome = event.outcome.as_ref().expect("an outcome");
    assert!(outcome.detail.starts_with("the function did not answer within "), "{}", outcome.detail);
    assert_eq!(outcome.status().as_str_name(), "RESPONSE_STATUS_SYSTEM_ERROR");

    let options = [("invoke_timeout_ms".to_owned(), "50".to_owned())].into();
    let update = UpdateCollectionRequest { name: JOBS.into(), options, invocations: None };
    node.admin().update_collection(update).await.expect("changed");
    let late = node.functions().invoke_fn(by_itself("slow", "")).await.expect_err("nobody lets it answer");
    assert_eq!((late.code(), outcome_of(&late)), (Code::DeadlineExceeded, "applied"));
    assert_eq!(late.message(), "the function did not answer within 50 ms");
}

#[tokio::test]
async fn a_request_that_is_repeated_calls_the_function_once() {
    let functions = TestFunctions::start().await;
    let node = node_with(&functions, &["times", "refuse", "echo", "slow"]).await;
    let mut client = node.functions();
    let as_before = |function: &str| with(on("o", function, ""), &[("odgm-request-id", "order-17")]);
    let first = client.invoke_obj(as_before("times")).await.expect("an answer");
    let again = client.invoke_obj(as_before("times")).await.expect("the same answer");
    let node = node.restart().await;
    let mut client = node.functions();
    let after_restart = client.invoke_obj(as_before("times")).await.expect("the same answer");
    let answers = [first, again, after_restart].map(|answer| {
        let offset = number(answer.metadata(), "odgm-offset");
        let answer = answer.into_inner();
        (offset, answer.payload.clone(), answer.invocation_id)
    });
    assert_eq!(answers[0].1.as_deref(), Some(b"1".as_slice()));
    assert_eq!(answers[0].2, "order-17");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let other = client.invoke_obj(as_before("echo")).await.expect_err("another function");
    assert_eq!((other.code(), outcome_of(&other)), (Code::InvalidArgument, "not-applied"), "{other}");
    let other = with(on("o", "times", "more"), &[("odgm-request-id", "order-17")]);
    let other = client.invoke_obj(other).await.expect_err("another payload");
    assert_eq!((other.code(), outcome_of(&other)), (Code::InvalidArgument, "not-applied"), "{other}");
    assert_eq!(functions.asked(1).await.len(), 1);

    let refused = || with(by_itself("refuse", ""), &[("odgm-request-id", "order-18")]);
    let first = client.invoke_fn(refused()).await.expect_err("the function's own refusal");
    let again = client.invoke_fn(refused()).await.expect_err("the same");
    assert_eq!((first.code(), first.message()), (again.code(), again.message()));
    assert_eq!(number(first.metadata(), "odgm-offset"), number(again.metadata(), "odgm-offset"));
    assert_eq!(functions.asked(2).await.len(), 2);
}

#[tokio::test]
async fn who_asks_again_while_a_call_is_made_waits_for_its_end() {
    let functions = TestFunctions::start().await;
    let node = node_with(&functions, &["slow"]).await;
    let call = |payload| {
        let mut client = node.functions();
        let request = with(by_itself("slow", payload), &[("odgm-request-id", "twice")]);
        tokio::spawn(async move { client.invoke_fn(request).await })
    };
    let one = call("");
    functions.asked(1).await;
    let again = [call(""), call("")];
    let clients = async {
        while node.figure("client_calls").await < 3.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), clients).await.expect("all of them wait");
    let other = call("another").await.expect("a task").expect_err("another request of that id");
    assert_eq!((other.code(), outcome_of(&other)), (Code::InvalidArgument, "not-applied"), "{other}");
    // The first client has no patience.
    one.abort();
    functions.let_go(2);
    let mut answers = Vec::new();
    for call in again {
        let answer = call.await.expect("a task").expect("an answer");
        answers.push((number(answer.metadata(), "odgm-offset"), answer.into_inner().payload));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(functions.asked(1).await.len(), 1);
}

#[tokio::test]
async fn a_call_goes_on_when_its_client_goes_away() {
    let functions = TestFunctions::start().await;
    let node = node_with(&functions, &["slow"]).await;
    let mut client = node.functions();
    let waiting = tokio::spawn(async move { client.invoke_obj(on("o", "slow", "")).await });
    functions.asked(1).await;
    waiting.abort();
    assert!(waiting.await.expect_err("aborted").is_cancelled());
    let mut outcomes = Outcomes::of(&node, JOBS).await;
    functions.let_go(1);
    let lines: Vec<_> = outcomes.next(1).await.iter().map(line).collect();
    assert_eq!(lines, ["completed o slow okay 1"]);
}

#[tokio::test]
async fn depth_cause_and_key_travel_with_a_call_and_into_the_log() {
    let functions = TestFunctions::start().await;
    let node = node_with(&functions, &["echo"]).await;
    let beside = [
        ("odgm-depth", "2"),
        ("odgm-cause", "7/1/99"),
        ("odgm-idempotency-key", "7/1/99/0"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let request = with(by_itself("echo", ""), &beside);
    tokio::time::timeout(Duration::from_secs(60), node.functions().invoke_fn(request))
        .await
        .expect("in time")
        .expect("an answer");
    let asked = functions.asked(1).await.remove(0);
    // What a function calls because of a record is one deeper than the function.
    let arrived = beside.map(|(name, value)| (name, if name == "odgm-depth" { "3" } else { value }));
    for (name, value) in arrived {
        assert_eq!(asked.metadata.get(name).map(|it| it.as_bytes()), Some(value.as_bytes()), "{name}");
        assert_eq!(asked.options.get(name).map(String::as_str), Some(value), "{name}");
    }
    let event = Outcomes::of(&node, JOBS).await.next(1).await.remove(0);
    let cause = event.cause.expect("a cause");
    let parent = cause.parent.expect("a parent");
    assert_eq!((cause.depth, parent.group, parent.origin, parent.offset), (3, 7, 1, 99));
    assert!(cause.traceparent.is_some());
}
