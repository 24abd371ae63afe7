//! What travels with a call, and what comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use odgm_log::body::Parent;
use odgm_log::body::calls::Status as Ending;
use odgm_log::{GroupId, NodeId, Offset};
use odgm_proto::oprc::{FuncInvokeRoute, InvocationResponse};
use odgm_triggers::functions::{BreakerState, Settings};
use odgm_triggers::{Answer, Call, Failure, Functions, Invoker as _};
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

use crate::support::{
    Classes, Elsewhere, Gate, Server, begin, call, class, echo, endpoint, functions, route, settings, until,
};

#[tokio::test]
async fn a_function_answers_with_its_status_and_headers() {
    let server = Server::start(|heard| async move {
        let status = heard.payload[0] - b'0';
        let headers = [("content-type".to_owned(), "text/plain".to_owned())].into();
        let payload = Some("said".into());
        Ok(InvocationResponse { status: status.into(), payload, headers, invocation_id: String::new() })
    })
    .await;
    let functions = functions(&[&server], &[], settings());
    let statuses = [Ending::Completed, Ending::InvalidRequest, Ending::ApplicationError, Ending::SystemError];
    for (number, status) in statuses.into_iter().enumerate() {
        let answer = functions.invoke(&call(&number.to_string())).await.expect("it answered");
        let headers = [("content-type".to_owned(), "text/plain".to_owned())].into();
        assert_eq!(answer, Answer { status, payload: "said".into(), headers });
    }
    let garbled = functions.invoke(&call("7")).await.expect_err("no status");
    assert_eq!(
        garbled.to_string(),
        "the function gave no proper answer: it answered with status 7; expected 0 to 3"
    );
}

#[tokio::test]
async fn all_that_belongs_to_a_call_arrives_with_it() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Server::start(move |heard| {
        tell.send((heard.metadata.clone(), heard.options.clone(), heard.object.clone())).expect("heard");
        echo(heard)
    })
    .await;
    let functions = functions(&[&server], &[], settings());
    let mut call = Call {
        key: "7/1/42/0".into(),
        depth: 3,
        cause: Some(Parent { group: GroupId(7), origin: NodeId(1), offset: Offset(42) }),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        timeout: Duration::from_secs(20),
        ..call("p")
    };
    call.target.object = Some("42".into());
    call.target.options = vec![("flavour".into(), "sweet".into()), ("odgm-depth".into(), "0".into())];
    functions.invoke(&call).await.expect("it answered");
    let (metadata, options, object) = told.recv().await.expect("called");
    assert_eq!(object, Some((Some("42".into()), 42)), "both columns");
    for (name, value) in [
        ("odgm-depth", "3"),
        ("odgm-cause", "7/1/42"),
        ("odgm-idempotency-key", "7/1/42/0"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ] {
        assert_eq!(metadata.get(name).and_then(|value| value.to_str().ok()), Some(value));
        assert_eq!(options.get(name).map(String::as_str), Some(value));
    }
    assert_eq!(options.get("flavour").map(String::as_str), Some("sweet"));
    let timeout = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).expect("a deadline");
    let micros: u64 = timeout.strip_suffix('u').and_then(|value| value.parse().ok()).expect("microseconds");
    assert!((1..=20_000_000).contains(&micros), "what is left of it: {timeout}");

    call.target.object = None;
    functions.invoke(&call).await.expect("it answered");
    let (.., object) = told.recv().await.expect("called");
    assert_eq!(object, None, "a function by itself");
}

#[tokio::test]
async fn a_status_of_the_function_passes_through_and_is_no_failure_of_the_endpoint() {
    let server = Server::start(|_| async { Err(Status::permission_denied("not you")) }).await;
    let functions = functions(&[&server], &[], settings());
    for _ in 0..20 {
        let failure = functions.invoke(&call("p")).await.expect_err("refused");
        let code = Code::PermissionDenied;
        assert_eq!(failure, Failure::Refused { code: code as i32, message: "not you".into() });
        assert_eq!(failure.code(), code);
    }
    assert_eq!(endpoint(&functions).breaker, BreakerState::Closed);
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_its_place_is_free() {
    let (mut gate, behaviour) = Gate::new();
    let server = Server::start(behaviour).await;
    let functions = functions(&[&server], &[], settings());
    let timeout = Duration::from_millis(20);
    let failure = functions.invoke(&Call { timeout, ..call("p") }).await.expect_err("too late");
    assert_eq!(failure, Failure::Timeout { after: timeout });
    gate.begun(1).await;
    assert_eq!(endpoint(&functions).outstanding, 0);
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_cancelled() {
    struct Noticed(Option<oneshot::Sender<()>>);
    impl Drop for Noticed {
        fn drop(&mut self) {
            let _nobody = self.0.take().map(|noticed| noticed.send(()));
        }
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Server::start(move |_| {
        let (notice, noticed) = oneshot::channel();
        tell.send(noticed).expect("heard");
        let notice = Noticed(Some(notice));
        async move {
            let _notice = notice;
            std::future::pending().await
        }
    })
    .await;
    let functions = functions(&[&server], &[], settings());
    let waiting = begin(&functions, call("p"));
    let noticed = told.recv().await.expect("called");
    assert_eq!(endpoint(&functions).outstanding, 1);
    waiting.abort();
    noticed.await.expect("the function is told");
    until(|| endpoint(&functions).outstanding == 0).await;
    assert_eq!(endpoint(&functions).connections, 1, "the connection stays");
}

#[tokio::test]
async fn an_answer_that_is_too_large_ends_the_call_and_nothing_else() {
    let server = Server::start(echo).await;
    let settings = Settings { answer_bytes: 1_000, ..settings() };
    let functions = functions(&[&server], &[], settings);
    let failure = functions.invoke(&call(&"x".repeat(2_000))).await.expect_err("too large");
    assert_eq!(
        failure.to_string(),
        "the function answered with OUT_OF_RANGE: its answer is too large; expected at most 1000 bytes"
    );
    assert!(!failure.is_temporary());
    functions.invoke(&call("small")).await.expect("it answered");
    assert_eq!(server.connections().accepted, 1);
}

#[tokio::test]
async fn what_there_is_not_is_not_called() {
    let server = Server::start(echo).await;
    let functions = functions(&[&server], &[], settings());
    let mut refusals = Vec::new();
    for (class, function) in [("d", "f"), ("c", "g"), ("c", "off")] {
        let mut call = call("p");
        (call.target.class, call.target.function) = (class.into(), function.into());
        let failure = functions.invoke(&call).await.expect_err("refused");
        assert_eq!((failure.code(), failure.is_temporary()), (Code::NotFound, function == "off"));
        refusals.push(failure.to_string());
    }
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    there is no class "d": expected the name of a collection
    class "c" has no function "g" to call: expected one that invocations.fn_routes of its collection names
    class "c" has no function "off" to call: it is disabled; take it out of invocations.disabled_fn to have it called
    "#);
    assert_eq!(server.connections().accepted, 0);
}

#[tokio::test]
async fn what_only_the_catalogue_has_heard_of_is_waited_for() {
    let server = Server::start(echo).await;
    let there = class(route(&[server.address]), &[]).known.clone();
    let mut told = Vec::new();
    for confirmed in [Some(there), None, Some(BTreeMap::new())] {
        let classes = Arc::new(Classes { known: BTreeMap::new(), confirmed });
        let failure =
            Functions::new(classes, None, settings()).invoke(&call("p")).await.expect_err("unknown here");
        told.push(format!("{} {failure}", matches!(failure, Failure::Held { .. })));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    true the call was held back: there is no class "c": expected the name of a collection; there is one by now, of which this node is about to hear
    true the call was held back: there is no class "c": expected the name of a collection; whether that is so cannot be confirmed now: nobody leads the catalogue
    false there is no class "c": expected the name of a collection
    "#);
    assert_eq!(server.connections().accepted, 0);
}

#[tokio::test]
async fn a_function_without_url_is_called_over_zenoh_where_there_is_one() {
    let route = FuncInvokeRoute { stateless: true, ..FuncInvokeRoute::default() };
    let classes = class(route, &[]);
    let remote = Some(Arc::new(Elsewhere::default()) as _);
    let functions = Functions::new(Arc::clone(&classes) as _, remote, settings());
    let answer = functions.invoke(&call("p")).await.expect("it answered");
    assert_eq!(answer.headers["stateless"], "true");
    let timeout = Duration::from_millis(1);
    let failure = functions.invoke(&Call { timeout, ..call("hang") }).await.expect_err("too late");
    assert_eq!(failure, Failure::Timeout { after: timeout });

    let alone = Functions::new(classes, None, settings());
    let failure = alone.invoke(&call("p")).await.expect_err("no way");
    assert_eq!(failure.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_standby_is_called_when_nobody_else_is_alive() {
    let server = Server::start(echo).await;
    let route = FuncInvokeRoute { standby: true, active_group: vec![1, 2], ..route(&[server.address]) };
    let classes = class(route, &[]);
    let remote = |alive: &[u64]| Some(Arc::new(Elsewhere { alive: alive.to_vec() }) as _);
    let standing_by = Functions::new(Arc::clone(&classes) as _, remote(&[2, 3]), settings());
    let failure = standing_by.invoke(&call("p")).await.expect_err("shard 2 is alive");
    assert_eq!(failure.code(), Code::FailedPrecondition);
    insta::assert_snapshot!(failure, @r#"function "f" of class "c" cannot be called: its route is on standby while these shards of its active_group are alive: 2"#);
    let alone = Functions::new(classes, remote(&[3]), settings());
    alone.invoke(&call("p")).await.expect("it answered");
}
