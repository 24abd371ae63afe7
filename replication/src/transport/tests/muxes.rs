//! What a mux does, over carriers that do as they are told.

use std::collections::HashMap;
use std::future::pending;

use futures_util::FutureExt as _;
use tokio::sync::Notify;

use super::*;
use crate::transport::GREETING;
use crate::transport::frame::{Header, Message, decode, encode};
use crate::transport::mux::{ANSWERING, Carrier, Dropped, Inbound, Outlet, QUEUE_MESSAGES};

/// Gives frames to the muxes that are on it, and holds up those of one class.
#[derive(Clone, Default)]
struct Wire {
    nodes: Arc<Mutex<HashMap<NodeId, Inbound>>>,
    held: Option<Class>,
    took: Arc<Notify>,
}

impl Carrier for Wire {
    fn open(&self, to: NodeId, class: Class) -> Box<dyn Outlet> {
        Box::new(Way { wire: self.clone(), to, class })
    }

    fn close(&self) {}
}

struct Way {
    wire: Wire,
    to: NodeId,
    class: Class,
}

impl Outlet for Way {
    fn send(&mut self, frame: Vec<u8>, _heard: u64) -> BoxFuture<'_, Result<(), String>> {
        self.wire.took.notify_one();
        if self.wire.held == Some(self.class) {
            return Box::pin(pending());
        }
        let inbound = self.wire.nodes.lock().get(&self.to).cloned();
        let Some(inbound) = inbound else { return Box::pin(ready(Err("it is not on the wire".to_owned()))) };
        inbound.receive(frame.into());
        Box::pin(ready(Ok(())))
    }
}

impl Wire {
    fn node(&self, me: Identity, service: Option<Arc<dyn Service>>) -> Mux {
        let mux = Mux::new(me, Arc::new(Members), Arc::new(self.clone()));
        if let Some(service) = service {
            mux.serve(service);
        }
        self.nodes.lock().insert(me.node, mux.inbound());
        mux
    }

    /// Two nodes, of which the second answers with what it is asked.
    fn pair(&self) -> (Mux, Mux, Arc<Echo>) {
        let echo = Arc::new(Echo::default());
        (self.node(identity(ONE), None), self.node(identity(TWO), Some(echo.clone())), echo)
    }
}

/// Never answers.
struct Mute;

impl Service for Mute {
    fn answer(&self, _: NodeId, _: GroupId, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(pending())
    }
}

#[tokio::test]
async fn calls_are_asked_in_order_and_share_frames() {
    let (one, two, echo) = Wire::default().pair();
    ask_in_order(&one, &echo, TWO).await;
    let (sent, received) = (one.counters().sent(), two.counters().received());
    assert_eq!((sent.messages, sent), (1_000, received));
    assert_eq!(echo.asked.lock()[0], (ONE, GroupId(7), Bytes::from_static(&[0; 4])));
}

#[tokio::test]
async fn what_a_service_refuses_is_told() {
    let (one, _two, _) = Wire::default().pair();
    let refused = one.call(call(TWO, Class::Log, "")).await;
    assert_eq!(refused, Err(CallError::Refused { node: TWO, reason: "nothing was asked".to_owned() }));
    // The first serves nobody yet.
    let wire = Wire::default();
    let (_one, two, _) = wire.pair();
    let refused = two.call(call(ONE, Class::Log, "there?")).await;
    assert_eq!(refused, Err(CallError::Refused { node: ONE, reason: "it is starting".to_owned() }));
}

#[tokio::test]
async fn a_call_to_nobody_fails_at_once() {
    let (one, _two, _) = Wire::default().pair();
    let failed = one.call(call(NodeId(3), Class::Log, "there?")).await;
    let reason = "it is not on the wire".to_owned();
    assert_eq!(failed, Err(CallError::Unreachable { node: NodeId(3), reason }));
}

#[tokio::test]
async fn a_call_that_is_not_answered_ends_in_its_time() {
    let wire = Wire::default();
    let one = wire.node(identity(ONE), None);
    let _two = wire.node(identity(TWO), Some(Arc::new(Mute)));
    let (begun, within) = (Instant::now(), Duration::from_millis(50));
    let failed = one.call(Call { within, ..call(TWO, Class::Bulk, "there?") }).await;
    assert_eq!(failed, Err(CallError::Timeout { node: TWO, within }));
    assert!(begun.elapsed() >= within);
}

#[tokio::test]
async fn a_call_to_a_process_that_was_replaced_ends_at_once_and_later_ones_go_on() {
    let wire = Wire::default();
    let one = wire.node(identity(ONE), None);
    let _two = wire.node(identity(TWO), Some(Arc::new(Mute)));
    let before = one.call(call(TWO, Class::Bulk, "there?"));
    let replaced = Instant::now();
    let after = one.call(call(TWO, Class::Bulk, "and now?"));
    one.forget(TWO, replaced);
    assert_eq!(before.await, Err(CallError::Restarted { node: TWO }));
    assert!(after.now_or_never().is_none(), "it waits");
}

#[tokio::test]
async fn a_call_that_was_sent_before_this_node_closed_may_have_been_heard() {
    let wire = Wire::default();
    let one = wire.node(identity(ONE), None);
    let _two = wire.node(identity(TWO), Some(Arc::new(Mute)));
    let asked = tokio::spawn(one.call(call(TWO, Class::Log, "there?")));
    until("the request is sent", || one.counters().sent().messages == 1).await;
    one.close();
    assert_eq!(asked.await.expect("no panic"), Err(CallError::Closed { node: TWO }));
}

#[tokio::test]
async fn more_requests_than_a_node_answers_at_once_are_refused() {
    let wire = Wire::default();
    let one = wire.node(identity(ONE), None);
    let _two = wire.node(identity(TWO), Some(Arc::new(Mute)));
    let within = Duration::from_secs(2);
    let ask = |_| one.call(Call { within, ..call(TWO, Class::Log, "there?") });
    let (first, second): (Vec<_>, Vec<_>) = ((0..ANSWERING).map(ask).collect(), (0..3).map(ask).collect());
    for refused in futures_util::future::join_all(second).await {
        assert_eq!(refused, Err(CallError::Refused { node: TWO, reason: "it is busy".to_owned() }));
    }
    // Those that have run out of time make room for others.
    for late in futures_util::future::join_all(first).await {
        assert!(matches!(late, Err(CallError::Timeout { .. })), "{late:?}");
    }
    assert!(matches!(ask(0).await, Err(CallError::Timeout { .. })));
}

#[tokio::test]
async fn a_full_queue_fails_at_once_and_holds_up_no_other_class() {
    let wire = Wire { held: Some(Class::Bulk), ..Wire::default() };
    let (one, _two, _) = wire.pair();
    let held = one.call(call(TWO, Class::Bulk, "first"));
    wire.took.notified().await;
    let waiting: Vec<_> = (0..QUEUE_MESSAGES).map(|_| one.call(call(TWO, Class::Bulk, "more"))).collect();
    let full = one.call(call(TWO, Class::Bulk, "one too many")).await;
    let reason = "its queue is full".to_owned();
    assert_eq!(full, Err(CallError::Unreachable { node: TWO, reason }));
    assert_eq!(one.call(call(TWO, Class::Urgent, "there?")).await, Ok(Bytes::from_static(b"there?")));
    one.close();
    // What the wire has may have gone out; what waited behind it has not.
    assert_eq!(held.await, Err(CallError::Closed { node: TWO }));
    let closed = Err(CallError::Unreachable { node: TWO, reason: "this node is closing".to_owned() });
    for waiting in waiting {
        assert_eq!(waiting.await, closed);
    }
}

#[tokio::test]
async fn a_request_that_fits_into_no_frame_is_not_sent() {
    let (one, _two, _) = Wire::default().pair();
    let failed = one.call(call(TWO, Class::Bulk, vec![0; 81 << 20])).await;
    assert!(matches!(failed, Err(CallError::Unreachable { .. })), "{failed:?}");
}

#[tokio::test]
async fn what_is_not_for_this_node_is_dropped_and_counted() {
    let (_one, two, echo) = Wire::default().pair();
    let right = Header {
        class: Class::Log,
        cluster: identity(TWO).cluster,
        sender: ONE,
        incarnation: identity(ONE).incarnation,
        recipient: TWO,
    };
    let request =
        || Message::Request { id: 1, group: GroupId(7), left_ms: 1_000, bytes: Bytes::from_static(b"x") };
    let frame = |header: Header| encode(&header, [request()].iter());
    let mut other_format = frame(right);
    other_format[4] = 2;
    let dropped = [
        (Dropped::Unreadable, b"GET / HTTP/1.1\r\nhost: odgm\r\n\r\n".to_vec()),
        (Dropped::Unreadable, frame(right)[..50].to_vec()),
        (Dropped::Format, other_format),
        (Dropped::Cluster, frame(Header { cluster: ClusterId::of("another"), ..right })),
        (Dropped::Recipient, frame(Header { recipient: NodeId(9), ..right })),
        (Dropped::Admission, frame(Header { incarnation: 5, ..right })),
    ];
    for (reason, bytes) in dropped {
        let before = two.counters().dropped(reason);
        two.inbound().receive(bytes.into());
        assert_eq!(two.counters().dropped(reason), before + 1, "{reason:?}");
    }
    assert_eq!((two.counters().received().frames, echo.asked.lock().len()), (0, 0));
    two.inbound().receive(frame(right).into());
    assert_eq!((two.counters().received().frames, echo.asked.lock().len()), (1, 1));
}

#[tokio::test]
async fn an_answer_from_a_stranger_is_not_heeded() {
    let wire = Wire::default();
    let one = wire.node(identity(ONE), None);
    let (heard, frames) = std::sync::mpsc::channel();
    // What the first sends to the second is answered here, by hand.
    let catcher = Arc::new(Catcher(Mutex::new(heard)));
    let two = Mux::new(identity(TWO), Arc::new(Members), Arc::new(Wire::default()));
    two.serve(catcher);
    wire.nodes.lock().insert(TWO, two.inbound());
    let mut asked = call(TWO, Class::Log, "there?");
    asked.within = Duration::from_millis(200);
    let within = asked.within;
    let answer = one.call(asked);
    until("the request arrives", || frames.try_recv().is_ok()).await;
    let header = Header {
        class: Class::Log,
        cluster: identity(ONE).cluster,
        sender: TWO,
        incarnation: 1,
        recipient: ONE,
    };
    for id in 0..64 {
        let forged = encode(&header, [Message::Answer { id, bytes: Bytes::new() }].iter());
        assert!(decode(forged.clone().into()).is_ok());
        one.inbound().receive(forged.into());
    }
    assert_eq!(one.counters().dropped(Dropped::Admission), 64);
    assert_eq!(answer.await, Err(CallError::Timeout { node: TWO, within }));
}

struct Catcher(Mutex<std::sync::mpsc::Sender<Bytes>>);

impl Service for Catcher {
    fn answer(&self, _: NodeId, _: GroupId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        self.0.lock().send(request).expect("the test runs");
        Box::pin(pending())
    }
}

#[tokio::test]
async fn a_node_in_another_incarnation_is_refused_and_told() {
    let wire = Wire::default();
    let one = wire.node(Identity { incarnation: 1, ..identity(ONE) }, None);
    let echo = Arc::new(Echo::default());
    let two = wire.node(identity(TWO), Some(echo.clone()));
    let refused = one.call(call(TWO, Class::Log, "there?")).await;
    let reason = "node 1 is known in incarnation 101, not 1".to_owned();
    assert_eq!(refused, Err(CallError::Refused { node: TWO, reason }));
    assert_eq!((two.counters().dropped(Dropped::Admission), echo.asked.lock().len()), (1, 0));
    // It may ask why.
    let greeting = Call { group: GREETING, ..call(TWO, Class::Urgent, "it is me") };
    assert_eq!(one.call(greeting).await, Ok(Bytes::from_static(b"it is me")));
    assert_eq!(echo.asked.lock().as_slice(), [(ONE, GREETING, Bytes::from_static(b"it is me"))]);
}

/// Holds the mux that it answers for, as a node does.
struct Holder {
    _mux: Arc<Mux>,
}

impl Service for Holder {
    fn answer(&self, _: NodeId, _: GroupId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(ready(Ok(request)))
    }
}

#[tokio::test]
async fn a_closed_mux_lets_go_of_its_service_and_hears_nothing() {
    let wire = Wire::default();
    let one = wire.node(identity(ONE), None);
    let two = Arc::new(wire.node(identity(TWO), None));
    let holder = Arc::new(Holder { _mux: Arc::clone(&two) });
    two.serve(holder.clone());
    assert!(one.call(call(TWO, Class::Log, "there?")).await.is_ok());
    two.close();
    assert_eq!((Arc::strong_count(&holder), two.counters().received().frames), (1, 1));
    let within = Duration::from_millis(50);
    let failed = one.call(Call { within, ..call(TWO, Class::Log, "there?") }).await;
    assert_eq!(failed, Err(CallError::Timeout { node: TWO, within }));
    assert_eq!(two.counters().received().frames, 1);
    assert!(matches!(two.call(call(ONE, Class::Log, "there?")).await, Err(CallError::Unreachable { .. })));
}
