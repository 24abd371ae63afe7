//! How many connections there are, and when they end.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use odgm_triggers::functions::Settings;
use odgm_triggers::{Failure, Invoker as _};

use crate::support::{
    Connections, Gate, Manner, Server, begin, call, echo, endpoint, functions, settings, until,
};

#[tokio::test]
async fn calls_share_a_connection() {
    let server = Server::start(echo).await;
    let functions = functions(&[&server], &[], settings());
    for _ in 0..20 {
        functions.invoke(&call("p")).await.expect("it answered");
    }
    let calls = (0..50).map(|_| begin(&functions, call("p")));
    for answered in join_all(calls).await {
        answered.expect("no panic").expect("it answered");
    }
    assert_eq!(server.connections(), Connections { accepted: 1, open: 1 });
}

#[tokio::test]
async fn there_are_no_more_connections_than_may_be() {
    let (mut gate, behaviour) = Gate::new();
    let server = Server::start(behaviour).await;
    let settings = Settings { calls_per_connection: 2, ..settings() };
    let functions = functions(&[&server], &[("offload_max_pool_size", "2")], settings);
    let calls: Vec<_> = (0..4).map(|_| begin(&functions, call("p"))).collect();
    gate.begun(4).await;
    assert_eq!(server.connections().open, 2);
    let failure = functions.invoke(&call("p")).await.expect_err("no room");
    let Failure::Held { reason, .. } = &failure else { panic!("held back: {failure}") };
    assert_eq!(
        *reason,
        format!("http://{}: its 2 connections, offload_max_pool_size, carry 2 calls each", server.address)
    );
    gate.open();
    for answered in join_all(calls).await {
        answered.expect("no panic").expect("it answered");
    }
    functions.invoke(&call("p")).await.expect("there is room again");
    assert_eq!(server.connections(), Connections { accepted: 2, open: 2 });
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed() {
    let server = Server::start(echo).await;
    let functions = functions(&[&server], &[("pool_max_idle_lifetime", "20")], settings());
    for accepted in 1..=3 {
        functions.invoke(&call("p")).await.expect("it answered");
        server.when(|connections| *connections == Connections { accepted, open: 0 }).await;
    }
}

#[tokio::test]
async fn an_old_connection_ends_with_its_last_call() {
    let (mut gate, behaviour) = Gate::new();
    let server = Server::start(
        move |heard| if heard.payload == "wait" { behaviour(heard) } else { echo(heard).boxed() },
    )
    .await;
    let functions = functions(&[&server], &[("pool_max_lifetime", "50")], settings());
    let old = begin(&functions, call("wait"));
    gate.begun(1).await;
    while server.connections().accepted < 3 {
        functions.invoke(&call("p")).await.expect("it answered");
    }
    assert!(!old.is_finished(), "it is under way, on the first connection");
    gate.open();
    old.await.expect("no panic").expect("it answered");
    server.when(|connections| connections.open <= 1).await;
}

#[tokio::test]
async fn no_call_is_lost_when_the_server_closes_connections_in_order() {
    let connection_age = Some(Duration::from_millis(5));
    let server = Server::with(Manner { connection_age, ..Manner::default() }, echo).await;
    let functions = functions(&[&server], &[], settings());
    while server.connections().accepted < 20 {
        let calls = (0..20).map(|_| begin(&functions, call("p")));
        for answered in join_all(calls).await {
            answered.expect("no panic").expect("it answered");
        }
    }
}

#[tokio::test]
async fn what_nobody_calls_is_forgotten() {
    let server = Server::start(echo).await;
    let settings = Settings { forgotten_after: Duration::from_millis(20), ..settings() };
    let functions = functions(&[&server], &[("pool_max_idle_lifetime", "10")], settings);
    functions.invoke(&call("p")).await.expect("it answered");
    until(|| functions.endpoints().is_empty()).await;
    server.when(|connections| connections.open == 0).await;
    functions.invoke(&call("p")).await.expect("it is found anew");
    assert_eq!(endpoint(&functions).connections, 1);
}

#[tokio::test]
async fn nothing_is_left_of_functions_that_nobody_has() {
    let server = Server::start(echo).await;
    let functions = functions(&[&server], &[], settings());
    functions.invoke(&call("p")).await.expect("it answered");
    drop(functions);
    server.when(|connections| *connections == Connections { accepted: 1, open: 0 }).await;
}
