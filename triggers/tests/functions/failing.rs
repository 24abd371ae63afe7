//! Endpoints that hang, refuse, talk nonsense, go away and come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use odgm_triggers::functions::{BreakerSettings, BreakerState, HealthSettings, Settings};
use odgm_triggers::{Answer, Call, Failure, Functions, Invoker as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::sleep_until;
use tonic::Status;

use crate::support::{Gate, Manner, Server, begin, call, class, echo, endpoint, functions, route, settings};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A breaker that opens after three failures and tries again soon.
fn breaking() -> Settings {
    let pause = Duration::from_millis(2);
    let breaker = BreakerSettings { failures: 3, first_pause: pause, longest_pause: pause * 8 };
    Settings { breaker, patience: Duration::ZERO, ..settings() }
}

/// A breaker that stays open once it is.
fn breaking_for_long() -> Settings {
    let pause = Duration::from_secs(600);
    let breaker = BreakerSettings { failures: 3, first_pause: pause, longest_pause: pause };
    Settings { breaker, ..breaking() }
}

/// Calls until something else comes than what is expected to pass, and waits as it is told to.
async fn insist(functions: &Functions, passes: impl Fn(&Failure) -> bool) -> Result<Answer, Failure> {
    loop {
        match functions.invoke(&call("p")).await {
            Err(Failure::Held { until, .. }) => sleep_until(until).await,
            Err(failure) if passes(&failure) => {}
            ended => return ended,
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_keeps_refusing_is_left_alone_until_it_is_well() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let server = Server::start(move |heard| {
        let is_well = well.load(Ordering::Relaxed);
        async move { if is_well { echo(heard).await } else { Err(Status::unavailable("not now")) } }
    })
    .await;
    let functions = functions(&[&server], &[], breaking());
    for _ in 0..3 {
        let failure = functions.invoke(&call("p")).await.expect_err("refused");
        assert!(matches!(failure, Failure::Refused { .. }), "{failure}");
    }
    assert_eq!(endpoint(&functions).breaker, BreakerState::Open);
    is_well.store(true, Ordering::Relaxed);
    insist(&functions, |_| false).await.expect("it answered");
    assert_eq!(endpoint(&functions).breaker, BreakerState::Closed);
}

#[tokio::test]
async fn no_answer_speaks_against_an_endpoint_that_was_given_its_time_and_not_where_a_client_is_in_a_hurry() {
    let server = Server::start(|_| async { std::future::pending().await }).await;
    let functions = functions(&[&server], &[], Settings { patience: LONG, ..breaking_for_long() });
    let hasty = Call { timeout: Duration::from_millis(20), ..call("p") };
    for _ in 0..3 {
        functions.invoke(&hasty).await.expect_err("it hangs");
    }
    assert_eq!(endpoint(&functions).breaker, BreakerState::Closed);
    let given = Call { is_given_its_time: true, ..hasty };
    for _ in 0..3 {
        functions.invoke(&given).await.expect_err("it hangs");
    }
    assert_eq!(endpoint(&functions).breaker, BreakerState::Open);
}

#[tokio::test]
async fn an_open_breaker_sends_nothing() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let server = Server::start(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Err(Status::unavailable("not now")) }
    })
    .await;
    let functions = functions(&[&server], &[], breaking_for_long());
    for _ in 0..3 {
        let failure = functions.invoke(&call("p")).await.expect_err("refused");
        assert!(matches!(failure, Failure::Refused { .. }), "{failure}");
    }
    for _ in 0..20 {
        let failure = functions.invoke(&call("p")).await.expect_err("held back");
        let Failure::Held { reason, .. } = failure else { panic!("it was sent: {failure}") };
        let url = format!("http://{}", server.address);
        let last = "its last failure was: the function answered with UNAVAILABLE: not now";
        assert_eq!(reason, format!("{url}: it is left alone for now; {last}"));
    }
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_left_alone_but_not_for_those_without_patience() {
    let (_gate, behaviour) = Gate::new();
    let server = Server::start(behaviour).await;
    let settings = Settings { patience: Duration::from_millis(50), ..breaking_for_long() };
    let functions = functions(&[&server], &[], settings);
    let hasty = Call { timeout: Duration::from_millis(1), ..call("p") };
    for _ in 0..10 {
        functions.invoke(&hasty).await.expect_err("too late");
    }
    assert_eq!(endpoint(&functions).breaker, BreakerState::Closed);
    let patient = Call { timeout: Duration::from_millis(50), ..call("p") };
    for _ in 0..3 {
        let failure = functions.invoke(&patient).await.expect_err("too late");
        assert!(matches!(failure, Failure::Timeout { .. }), "{failure}");
    }
    assert_eq!(endpoint(&functions).breaker, BreakerState::Open);
}

#[tokio::test]
async fn an_endpoint_that_goes_away_is_found_again_when_it_is_back() {
    let server = Server::start(echo).await;
    let address = server.address;
    let health = HealthSettings { interval: Duration::from_millis(5), ..settings().health };
    let functions = functions(&[&server], &[], Settings { health, ..breaking() });
    functions.invoke(&call("p")).await.expect("it answered");
    server.kill().await;
    while endpoint(&functions).breaker == BreakerState::Closed {
        let failure = functions.invoke(&call("p")).await.expect_err("nobody is there");
        assert!(failure.is_temporary(), "{failure}");
    }
    assert!(!endpoint(&functions).is_healthy);
    let _again = Server::with(Manner { address: Some(address), ..Manner::default() }, echo).await;
    insist(&functions, |failure| matches!(failure, Failure::Unreachable { .. })).await.expect("it answered");
    let endpoint = endpoint(&functions);
    assert_eq!((endpoint.breaker, endpoint.is_healthy), (BreakerState::Closed, true));
}

#[tokio::test]
async fn a_call_goes_to_the_next_endpoint_if_nothing_was_sent_to_the_first() {
    let (gone, there) = (Server::start(echo).await, Server::start(echo).await);
    let functions = functions(&[&gone, &there], &[], settings());
    gone.kill().await;
    for _ in 0..10 {
        functions.invoke(&call("p")).await.expect("the other one answered");
    }
}

#[tokio::test]
async fn a_call_whose_connection_breaks_in_the_middle_may_have_been_made() {
    let (mut gate, behaviour) = Gate::new();
    let server = Server::start(behaviour).await;
    let functions = functions(&[&server], &[], settings());
    let under_way = begin(&functions, call("p"));
    gate.begun(1).await;
    server.kill().await;
    let failure = under_way.await.expect("no panic").expect_err("it broke");
    assert!(matches!(failure, Failure::Garbled { .. }), "not unreachable: {failure}");
}

/// Listens, reads something on each connection, answers with those bytes, and hangs up.
async fn nonsense(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _gone = stream.read(&mut [0; 1_024]).await;
            let _gone = stream.write_all(bytes).await;
        }
    });
    address
}

#[tokio::test]
async fn what_speaks_something_else_gives_no_answer_and_is_left_alone() {
    let texts: [&[u8]; 3] = [
        b"\x00\x01\x02 nonsense, and more of it, and still more of it, and no end to it",
        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        b"",
    ];
    for text in texts {
        let address = nonsense(text).await;
        let functions = Functions::new(class(route(&[address]), &[]), None, breaking_for_long());
        while endpoint_state(&functions) == BreakerState::Closed {
            let failure = functions.invoke(&call("p")).await.expect_err("no answer");
            let is_expected = matches!(failure, Failure::Garbled { .. } | Failure::Unreachable { .. });
            assert!(is_expected && failure.is_temporary(), "{failure}");
        }
        assert!(matches!(functions.invoke(&call("p")).await, Err(Failure::Held { .. })));
    }
}

fn endpoint_state(functions: &Functions) -> BreakerState {
    functions.endpoints().first().map(|endpoint| endpoint.breaker).unwrap_or_default()
}

#[tokio::test]
async fn a_web_server_is_no_function() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = hyper::service::service_fn(|_| async {
                let response = hyper::Response::builder().status(404).body(tonic::body::Body::empty());
                Ok::<_, std::convert::Infallible>(response.expect("valid"))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            tokio::spawn(hyper::server::conn::http2::Builder::new(executor).serve_connection(io, answer));
        }
    });
    let functions = Functions::new(class(route(&[address]), &[]), None, settings());
    let failure = functions.invoke(&call("p")).await.expect_err("no function");
    insta::assert_snapshot!(failure, @"the function gave no proper answer: grpc-status header missing, mapped from HTTP status code 404");
    assert!(failure.is_temporary(), "who answers there may be another tomorrow");
}

/// Answers, refuses, hangs or has its connection cut, as it is told to.
async fn moody(heard: crate::support::Heard) -> Result<odgm_proto::oprc::InvocationResponse, Status> {
    match &heard.payload[..] {
        b"refuse" => Err(Status::unavailable("not now")),
        b"hang" => std::future::pending().await,
        _ => echo(heard).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_no_place_is_lost_and_no_answer_mixed_up() {
    let servers = [Server::start(moody).await, Server::start(moody).await];
    let settings = Settings { calls_per_connection: 3, ..breaking() };
    let options =
        [("offload_max_pool_size", "4"), ("pool_max_lifetime", "3"), ("pool_max_idle_lifetime", "1")];
    let functions = functions(&servers.each_ref(), &options, settings);
    let callers = (0..16_usize).map(|caller| {
        let functions = Arc::clone(&functions);
        tokio::spawn(async move {
            let mut answered = 0;
            let mut number = 0_usize;
            while answered < 50 {
                number += 1;
                let text = match (number + caller) % 7 {
                    0 => "refuse".to_owned(),
                    1 => "hang".to_owned(),
                    _ => format!("{caller}-{number}"),
                };
                let timeout = Duration::from_millis(if text == "hang" { 2 } else { 60_000 });
                match functions.invoke(&Call { timeout, ..call(&text) }).await {
                    Ok(answer) => {
                        assert_eq!(answer.payload, text, "its own answer");
                        answered += 1;
                    }
                    Err(Failure::Held { until, .. }) => sleep_until(until).await,
                    Err(failure) => assert!(text == "refuse" || text == "hang", "{text}: {failure}"),
                }
            }
        })
    });
    for caller in futures_util::future::join_all(callers).await {
        caller.expect("no panic");
    }
    for endpoint in functions.endpoints() {
        assert_eq!(endpoint.outstanding, 0);
        assert!(endpoint.connections <= 8, "those that serve and those that leave: {endpoint:?}");
    }
    for server in servers {
        server.when(|connections| connections.open == 0).await;
    }
}
