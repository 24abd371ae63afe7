//! Which of several endpoints gets a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use odgm_triggers::Invoker as _;

use crate::support::{Gate, Server, begin, call, echo, functions, settings};

/// A server that counts its calls.
async fn counting() -> (Server, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let server = Server::start(move |heard| {
        counted.fetch_add(1, Ordering::Relaxed);
        echo(heard)
    })
    .await;
    (server, count)
}

#[tokio::test]
async fn endpoints_that_have_nothing_to_do_take_turns() {
    let servers = [counting().await, counting().await, counting().await];
    let functions = functions(&servers.each_ref().map(|(server, _)| server), &[], settings());
    for _ in 0..30 {
        functions.invoke(&call("p")).await.expect("it answered");
    }
    assert_eq!(servers.map(|(_, count)| count.load(Ordering::Relaxed)), [10, 10, 10]);
}

#[tokio::test]
async fn an_endpoint_that_is_busy_gets_fewer_calls() {
    let (mut gate, behaviour) = Gate::new();
    let slow = Server::start(behaviour).await;
    let (quick, count) = counting().await;
    let functions = functions(&[&slow, &quick], &[], settings());
    let first = begin(&functions, call("p"));
    gate.begun(1).await;
    for _ in 0..10 {
        functions.invoke(&call("p")).await.expect("the quick one answered");
    }
    assert_eq!(count.load(Ordering::Relaxed), 10);
    gate.open();
    first.await.expect("no panic").expect("it answered");
}

#[tokio::test]
async fn calls_at_once_are_spread() {
    let (mut first, behaviour) = Gate::new();
    let one = Server::start(behaviour).await;
    let (mut second, behaviour) = Gate::new();
    let other = Server::start(behaviour).await;
    let functions = functions(&[&one, &other], &[], settings());
    let calls: Vec<_> = (0..40).map(|_| begin(&functions, call("p"))).collect();
    first.begun(20).await;
    second.begun(20).await;
    first.open();
    second.open();
    for answered in join_all(calls).await {
        answered.expect("no panic").expect("it answered");
    }
}
