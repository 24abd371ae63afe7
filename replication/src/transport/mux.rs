//! Calls over a carrier that knows nothing but to bring frames to a node.
//!
//! For each node and class there is one bounded queue and one task that packs all that waits in it into a frame. So the
//! messages of all groups to a node share frames, and nothing waits for a timer: a frame is what gathered while the one
//! before was on its way. Answers travel on the queue of the same class in the other direction.
//!
//! Requests of one node and class are given to the [`Service`] in the order in which they arrived: the call of `answer`
//! is made in that order, the futures then run side by side.

mod counters;
mod lane;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use odgm_log::{GroupId, NodeId};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::counters::{Counters, Dropped};
use self::lane::{Lane, Outgoing, Waiting};
use super::frame::{
    ClusterId, FrameError, Header, MAX_FRAME_BYTES, Message, Messages, decode, decode_beginning, fits,
};
use super::{Call, CallError, Class, GREETING, STARTING, Service, Transport};

/// Messages that wait to be sent to one node in one class; one more fails at once.
pub(crate) const QUEUE_MESSAGES: usize = 8_192;

/// The bytes of those messages. A larger message is taken where nothing else waits.
pub(crate) const QUEUE_BYTES: usize = 32 << 20;

/// Requests of one node and class that are being answered; one more is refused.
pub(crate) const ANSWERING: usize = 4_096;

/// Ways to nodes, three for each. Nodes beyond are not talked to.
pub(crate) const LANES: usize = 3 * 1_024;

/// Ways to nodes beyond which none is made for a node that may not talk to this one: it is not told why.
pub(crate) const LANES_WITH_STRANGERS: usize = LANES / 2;

/// How long a refusal is worth sending.
const REFUSAL_WITHIN: Duration = Duration::from_secs(1);

/// Brings frames to nodes.
pub(crate) trait Carrier: Send + Sync + 'static {
    /// The way to a node. Nothing need be connected before the first frame.
    fn open(&self, to: NodeId, class: Class) -> Box<dyn Outlet>;

    /// Takes nothing in any more.
    fn close(&self);
}

/// A carrier's way to one node, for one class. One task has it to itself.
pub(crate) trait Outlet: Send + 'static {
    /// Hands a frame over. It may be lost even so; an error says that it certainly is, and comes soon. `heard` is how many
    /// frames of this class have come from the node: where it does not grow, the node may hang.
    fn send(&mut self, frame: Vec<u8>, heard: u64) -> BoxFuture<'_, Result<(), String>>;
}

/// Who may talk to this node. It is asked once for each frame.
pub(crate) trait Admission: Send + Sync + 'static {
    /// Whether it can tell yet. Until then nobody is heeded.
    fn is_ready(&self) -> bool {
        true
    }

    /// Whether what the node says is heeded; if not, the error tells it why.
    fn admit(&self, sender: NodeId, incarnation: u64) -> Result<(), Stranger>;
}

/// Who may not talk to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stranger {
    /// What it is told.
    pub(crate) reason: String,
    /// Whether it may answer what it is asked.
    pub(crate) may_answer: bool,
}

/// Who this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    /// Which life of its data directory: a wiped disk under an old id is another one.
    pub(crate) incarnation: u64,
}

/// Calls and answers over a [`Carrier`]. Dropping it ends its tasks, and the carrier with them.
pub(crate) struct Mux {
    shared: Arc<Shared>,
}

/// Where carriers put the frames that arrive. It does not keep the [`Mux`].
#[derive(Clone)]
pub(crate) struct Inbound(Weak<Shared>);

struct Shared {
    me: Identity,
    carrier: Arc<dyn Carrier>,
    admission: Arc<dyn Admission>,
    /// Given up when the mux is closed, as who answers may well hold the mux.
    service: RwLock<Option<Arc<dyn Service>>>,
    lanes: RwLock<HashMap<(NodeId, Class), Arc<Lane>>>,
    /// Begins anywhere, so that an answer to an earlier process of this node finds nobody.
    next: AtomicU64,
    counters: Arc<Counters>,
    runtime: Handle,
    closing: CancellationToken,
}

impl Mux {
    /// A mux of this node; to be made within the runtime that its tasks are to run in. It can call at once; others are
    /// refused until it serves. What arrives is to be given to its [`Mux::inbound`].
    pub(crate) fn new(me: Identity, admission: Arc<dyn Admission>, carrier: Arc<dyn Carrier>) -> Self {
        // No secret: where there is no randomness, the incarnation and the clock do as well.
        let first = getrandom::u64().unwrap_or_else(|_| me.incarnation.rotate_left(32) ^ clock());
        let shared = Shared {
            me,
            carrier,
            admission,
            service: RwLock::default(),
            lanes: RwLock::default(),
            next: AtomicU64::new(first),
            counters: Arc::default(),
            runtime: Handle::current(),
            closing: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Who answers the other nodes from now on.
    pub(crate) fn serve(&self, service: Arc<dyn Service>) {
        *self.shared.service.write() = Some(service);
    }

    /// Where frames that arrive are to be put.
    pub(crate) fn inbound(&self) -> Inbound {
        Inbound(Arc::downgrade(&self.shared))
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// Ends all tasks, fails all calls, and takes nothing in any more.
    pub(crate) fn close(&self) {
        self.shared.close();
    }
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.close();
    }
}

impl Transport for Mux {
    /// The request is in its queue when this returns, so that calls are sent in the order in which they are made.
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let (node, within) = (call.to, call.within);
        let expires = Instant::now() + within;
        match self.shared.ask(call, expires) {
            Ok(waiting) => Box::pin(async move {
                waiting.until(expires).await.unwrap_or(Err(CallError::Timeout { node, within }))
            }),
            Err(reason) => Box::pin(ready(Err(CallError::Unreachable { node, reason }))),
        }
    }

    fn forget(&self, node: NodeId, before: std::time::Instant) {
        let lanes = self.shared.lanes.read();
        for (_, lane) in lanes.iter().filter(|((peer, _), _)| *peer == node) {
            lane.forget(before.into());
        }
    }
}

impl Inbound {
    /// Heeds a frame. Frames of one node and class must come one after the other; it does not wait for anything.
    pub(crate) fn receive(&self, frame: Bytes) {
        if let Some(shared) = self.0.upgrade().filter(|shared| !shared.closing.is_cancelled()) {
            shared.receive(frame);
        }
    }

    /// Whether the rest of a frame is worth reading, of which this is the beginning. One that is not is counted.
    pub(crate) fn is_worth_reading(&self, beginning: &[u8]) -> bool {
        self.0.upgrade().is_some_and(|shared| shared.is_worth_reading(beginning))
    }

    /// Counts what the carrier could not bring here.
    pub(crate) fn drop_frame(&self, reason: Dropped, why: &str) {
        if let Some(shared) = self.0.upgrade() {
            shared.counters.count_dropped(None, reason, &why);
        }
    }
}

impl Shared {
    fn ask(&self, call: Call, expires: Instant) -> Result<Waiting, String> {
        let Call { to, class, group, request, .. } = call;
        if !fits(request.len()) {
            return Err(format!("{} bytes do not fit into a frame of {MAX_FRAME_BYTES}", request.len()));
        }
        let lane = self.lane(to, class, LANES).ok_or("there are too many nodes, or this one is closing")?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let message = Message::Request { id, group, left_ms: 0, bytes: request };
        lane.ask(id, Outgoing { message, expires }).map_err(|error| error.to_string())
    }

    fn lane(&self, peer: NodeId, class: Class, at_most: usize) -> Option<Arc<Lane>> {
        if let Some(lane) = self.lanes.read().get(&(peer, class)) {
            return Some(Arc::clone(lane));
        }
        let mut lanes = self.lanes.write();
        if let Some(lane) = lanes.get(&(peer, class)) {
            return Some(Arc::clone(lane));
        }
        if lanes.len() >= at_most || self.closing.is_cancelled() {
            return None;
        }
        let lane = Arc::new(Lane::new(peer, class));
        lanes.insert((peer, class), Arc::clone(&lane));
        let outlet = self.carrier.open(peer, class);
        let (me, counters) = (self.me, Arc::clone(&self.counters));
        let (sending, closing) = (Arc::clone(&lane), self.closing.clone());
        self.runtime.spawn(async move {
            closing.run_until_cancelled(sending.send_all(me, &counters, outlet)).await;
            sending.close();
        });
        Some(lane)
    }

    fn receive(&self, frame: Bytes) {
        let bytes = frame.len();
        let (header, messages) = match decode(frame) {
            Ok(decoded) => decoded,
            Err(error) => return self.count_unreadable(error),
        };
        let sender = header.sender;
        if let Some((reason, why)) = self.misdirected(&header) {
            return self.counters.count_dropped(Some(sender), reason, &why);
        }
        if !self.admission.is_ready() {
            self.counters.count_dropped_silently(Dropped::Starting);
            let starting = Stranger { reason: STARTING.to_owned(), may_answer: false };
            self.receive_of_stranger(&header, messages, &starting);
            return;
        }
        let admitted = self.admission.admit(sender, header.incarnation);
        if let Err(stranger) = admitted {
            if self.receive_of_stranger(&header, messages, &stranger) {
                self.counters.count_dropped(Some(sender), Dropped::Admission, &stranger.reason);
            }
            return;
        }
        let Some(lane) = self.lane(sender, header.class, LANES) else {
            return self.counters.count_dropped(Some(sender), Dropped::Crowded, &"there are too many nodes");
        };
        self.counters.count_received(messages.total(), bytes);
        lane.hear();
        for message in messages {
            self.heed(&lane, sender, message);
        }
    }

    fn count_unreadable(&self, error: FrameError) {
        let reason =
            if matches!(error, FrameError::Version(_)) { Dropped::Format } else { Dropped::Unreadable };
        self.counters.count_dropped(None, reason, &error);
    }

    fn is_worth_reading(&self, beginning: &[u8]) -> bool {
        match decode_beginning(beginning) {
            Ok(None) => true,
            Ok(Some(header)) => match self.misdirected(&header) {
                None => true,
                Some((reason, why)) => {
                    self.counters.count_dropped(Some(header.sender), reason, &why);
                    false
                }
            },
            Err(error) => {
                self.count_unreadable(error);
                false
            }
        }
    }

    fn misdirected(&self, header: &Header) -> Option<(Dropped, String)> {
        let Header { cluster, recipient, .. } = *header;
        if cluster != self.me.cluster {
            let (other, this) = (cluster.0, self.me.cluster.0);
            return Some((Dropped::Cluster, format!("it is of cluster {other:016x}, this is {this:016x}")));
        }
        if recipient != self.me.node {
            return Some((
                Dropped::Recipient,
                format!("it is for node {recipient}, this is {}", self.me.node),
            ));
        }
        None
    }

    fn heed(&self, lane: &Arc<Lane>, sender: NodeId, message: Message) {
        match message {
            Message::Request { id, group, left_ms, bytes } => {
                let expires = Instant::now() + Duration::from_millis(left_ms.into());
                self.answer(lane, sender, id, group, bytes, expires);
            }
            // Where nobody waits for it any more, it came too late, or twice.
            Message::Answer { id, bytes } => {
                lane.settle(id, Ok(bytes));
            }
            Message::Refusal { id, reason } => {
                let reason = String::from_utf8_lossy(&reason).into_owned();
                lane.settle(id, Err(CallError::Refused { node: sender, reason }));
            }
        }
    }

    fn answer(
        &self,
        lane: &Arc<Lane>,
        from: NodeId,
        id: u64,
        group: GroupId,
        request: Bytes,
        expires: Instant,
    ) {
        let Some(service) = self.service.read().clone() else {
            return self.refuse(lane, id, STARTING);
        };
        let Some(answering) = lane.begin_answering() else {
            return self.refuse(lane, id, "it is busy");
        };
        let answer = service.answer(from, group, request);
        let (lane, counters, closing) = (Arc::clone(lane), Arc::clone(&self.counters), self.closing.clone());
        self.runtime.spawn(async move {
            let in_time = closing.run_until_cancelled(tokio::time::timeout_at(expires, answer)).await;
            drop(answering);
            // Nobody waits for an answer after its time.
            let Some(Ok(answer)) = in_time else { return };
            let message = match answer {
                Ok(bytes) if fits(bytes.len()) => Message::Answer { id, bytes },
                Ok(bytes) => {
                    Message::refusal(id, &format!("its answer of {} bytes is too long", bytes.len()))
                }
                Err(reason) => Message::refusal(id, &reason),
            };
            if let Err(error) = lane.push(Outgoing { message, expires }) {
                counters.count_dropped(Some(from), Dropped::Answer, &error);
            }
        });
    }

    /// Refuses requests but greetings; answers are heeded where that is allowed. Says whether anything was not heeded.
    fn receive_of_stranger(&self, header: &Header, messages: Messages, stranger: &Stranger) -> bool {
        let Stranger { reason, may_answer } = stranger;
        let mut is_refused = false;
        for message in messages {
            let is_request = matches!(message, Message::Request { .. });
            let Some(lane) = self.lane(header.sender, header.class, LANES_WITH_STRANGERS) else { continue };
            match message {
                greeting @ Message::Request { group: GREETING, .. } => {
                    self.heed(&lane, header.sender, greeting);
                }
                Message::Request { id, .. } => self.refuse(&lane, id, reason),
                answer if *may_answer => self.heed(&lane, header.sender, answer),
                _ => {}
            }
            is_refused |= is_request || !may_answer;
        }
        is_refused
    }

    fn refuse(&self, lane: &Lane, id: u64, reason: &str) {
        let message = Message::refusal(id, reason);
        let expires = Instant::now() + REFUSAL_WITHIN;
        if let Err(error) = lane.push(Outgoing { message, expires }) {
            self.counters.count_dropped(None, Dropped::Answer, &error);
        }
    }

    fn close(&self) {
        self.closing.cancel();
        self.carrier.close();
        // Dropped when the lock has been left.
        let _service = self.service.write().take();
        for lane in self.lanes.read().values() {
            lane.close();
        }
    }
}

/// The nanoseconds of the clock; of use only because they differ each time.
fn clock() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_secs() ^ u64::from(since.subsec_nanos()) << 32
}
