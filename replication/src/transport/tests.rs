//! Muxes over carriers: a stub, Zenoh and TCP.

mod frames;
mod muxes;
mod wires;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use odgm_log::{GroupId, NodeId};
use parking_lot::Mutex;

use super::frame::ClusterId;
use super::mux::{Admission, Identity, Mux, Stranger};
use super::{Call, CallError, Class, Service, Transport};

/// The longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

fn identity(node: NodeId) -> Identity {
    Identity { cluster: ClusterId::of("test"), node, incarnation: 100 + node.0 }
}

/// Admits nodes in the incarnations that [`identity`] gives them.
struct Members;

impl Admission for Members {
    fn admit(&self, sender: NodeId, incarnation: u64) -> Result<(), Stranger> {
        let known = identity(sender).incarnation;
        if known == incarnation {
            return Ok(());
        }
        let reason = format!("node {sender} is known in incarnation {known}, not {incarnation}");
        Err(Stranger { reason, may_answer: false })
    }
}

/// Answers with what it was asked, and remembers it.
#[derive(Default)]
struct Echo {
    asked: Mutex<Vec<(NodeId, GroupId, Bytes)>>,
}

impl Service for Echo {
    fn answer(
        &self,
        from: NodeId,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        self.asked.lock().push((from, group, request.clone()));
        Box::pin(ready(if request.is_empty() { Err("nothing was asked".to_owned()) } else { Ok(request) }))
    }
}

fn call(to: NodeId, class: Class, request: impl Into<Bytes>) -> Call {
    Call { to, class, group: GroupId(7), request: request.into(), within: Duration::from_secs(10) }
}

/// Asks again and again, as nodes take a moment to find each other.
async fn call_until_answered(mux: &Mux, to: NodeId) {
    let begun = Instant::now();
    let mut last = None;
    while begun.elapsed() < PATIENCE {
        let mut call = call(to, Class::Urgent, "there?");
        call.within = Duration::from_millis(500);
        match mux.call(call).await {
            Ok(_) => return,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("node {to} did not answer within {PATIENCE:?}; the last error is {last:?}");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn numbers(echo: &Echo) -> Vec<u32> {
    let asked = echo.asked.lock();
    let numbers = asked.iter().filter_map(|(_, _, request)| request.first_chunk().copied());
    numbers.map(u32::from_be_bytes).collect()
}

/// Thousand calls at once are answered in any order, and asked in theirs.
async fn ask_in_order(mux: &Mux, echo: &Arc<Echo>, to: NodeId) {
    echo.asked.lock().clear();
    let calls: Vec<_> =
        (0..1_000_u32).map(|number| mux.call(call(to, Class::Log, number.to_be_bytes().to_vec()))).collect();
    for (number, answer) in (0_u32..).zip(futures_util::future::join_all(calls).await) {
        assert_eq!(answer.expect("an answer"), Bytes::copy_from_slice(&number.to_be_bytes()));
    }
    assert_eq!(numbers(echo), (0..1_000).collect::<Vec<_>>());
    let sent = mux.counters().sent();
    assert!(sent.frames * 4 < sent.messages, "{sent:?}");
}
