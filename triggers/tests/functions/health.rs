//! Endpoints that say how they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use odgm_triggers::functions::{HealthSettings, Settings};
use odgm_triggers::{Failure, Functions, Invoker as _};
use tonic::Code;
use tonic_health::ServingStatus;

use crate::support::{Manner, Server, call, echo, endpoint, functions, settings, until};

/// Asked often.
fn asking() -> Settings {
    let interval = Duration::from_millis(5);
    Settings { health: HealthSettings { interval, ..settings().health }, ..settings() }
}

async fn counting() -> (Server, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let manner = Manner { has_health: true, ..Manner::default() };
    let server = Server::with(manner, move |heard| {
        counted.fetch_add(1, Ordering::Relaxed);
        echo(heard)
    })
    .await;
    (server, count)
}

fn is_healthy(functions: &Functions, server: &Server) -> bool {
    let url = format!("http://{}", server.address);
    functions.endpoints().iter().any(|endpoint| endpoint.url == url && endpoint.is_healthy)
}

#[tokio::test]
async fn an_endpoint_that_says_it_is_not_serving_gets_no_calls_until_it_is() {
    let ((one, count), (other, _)) = (counting().await, counting().await);
    let functions = functions(&[&one, &other], &[], asking());
    for _ in 0..2 {
        functions.invoke(&call("p")).await.expect("it answered");
    }
    one.say(ServingStatus::NotServing).await;
    until(|| !is_healthy(&functions, &one)).await;
    let before = count.load(Ordering::Relaxed);
    for _ in 0..10 {
        functions.invoke(&call("p")).await.expect("the other one answered");
    }
    assert_eq!(count.load(Ordering::Relaxed), before);
    one.say(ServingStatus::Serving).await;
    until(|| is_healthy(&functions, &one)).await;
    for _ in 0..10 {
        functions.invoke(&call("p")).await.expect("it answered");
    }
    assert!(count.load(Ordering::Relaxed) > before);
}

#[tokio::test]
async fn calls_wait_if_nobody_is_serving() {
    let (server, _) = counting().await;
    let functions = functions(&[&server], &[], asking());
    functions.invoke(&call("p")).await.expect("it answered");
    server.say(ServingStatus::NotServing).await;
    until(|| !is_healthy(&functions, &server)).await;
    let failure = functions.invoke(&call("p")).await.expect_err("held back");
    let Failure::Held { reason, .. } = &failure else { panic!("held back: {failure}") };
    assert_eq!(*reason, format!("http://{}: it says of itself that it is not serving", server.address));
    assert_eq!((failure.code(), failure.is_temporary()), (Code::Unavailable, true));
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_is_well_as_long_as_it_answers() {
    let server = Server::start(echo).await;
    let functions = functions(&[&server], &[], asking());
    for _ in 0..10 {
        functions.invoke(&call("p")).await.expect("it answered");
        assert!(endpoint(&functions).is_healthy);
    }
}
