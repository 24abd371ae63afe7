//! A network in memory whose links can be cut in either direction, hold requests back, be slow, reorder, and repeat requests.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use odgm_log::{GroupId, NodeId};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Call, CallError, Service, Transport};

/// The network. Clones are handles of the same one.
#[derive(Clone, Default)]
pub(crate) struct Network {
    shared: Arc<Mutex<State>>,
    /// From, to: ways on which requests wait.
    held: watch::Sender<HashSet<(NodeId, NodeId)>>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<NodeId, Arc<dyn Service>>,
    /// From, to.
    cut: HashSet<(NodeId, NodeId)>,
    weather: Weather,
    /// How often each node has left; what an earlier process of it has sent or answers is lost.
    left: HashMap<NodeId, u64>,
    tap: Option<Tap>,
    /// Of xorshift64; what comes of the weather depends on it alone.
    random: u64,
    /// How many calls met which fault.
    faults: Faults,
}

/// Sees every request that is sent (from, to, of which group), and says what arrives in its place.
pub(crate) type Tap = Arc<dyn Fn(NodeId, NodeId, GroupId, Bytes) -> Bytes + Send + Sync>;

/// How bad all links are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// A request and its answer each take up to this long; so they overtake each other.
    pub(crate) delay: Duration,
    /// One of so many requests arrives twice; 0 is never.
    pub(crate) repeat_one_in: u64,
    /// One of so many requests or answers is lost; 0 is never.
    pub(crate) lose_one_in: u64,
}

/// What has been done to calls: a test in which nothing happened shows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) cut: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
}

impl Network {
    /// An undisturbed network; `seed` decides what bad weather does.
    pub(crate) fn new(seed: u64) -> Self {
        let network = Self::default();
        network.shared.lock().random = seed | 1;
        network
    }

    /// The transport of one node.
    pub(crate) fn endpoint(&self, node: NodeId) -> Endpoint {
        Endpoint { node, left: self.left(node), network: self.clone() }
    }

    /// Lets all requests go through a tap.
    pub(crate) fn tap(&self, tap: Tap) {
        self.shared.lock().tap = Some(tap);
    }

    /// Lets a node be called.
    pub(crate) fn join(&self, node: NodeId, service: Arc<dyn Service>) {
        self.shared.lock().nodes.insert(node, service);
    }

    /// Takes a node off the network, as if its process had ended.
    pub(crate) fn leave(&self, node: NodeId) {
        let mut state = self.shared.lock();
        state.nodes.remove(&node);
        *state.left.entry(node).or_default() += 1;
    }

    fn left(&self, node: NodeId) -> u64 {
        self.shared.lock().left.get(&node).copied().unwrap_or(0)
    }

    /// Loses everything that goes from one node to another.
    pub(crate) fn cut(&self, from: NodeId, to: NodeId) {
        self.shared.lock().cut.insert((from, to));
    }

    /// Cuts a node off from all others.
    pub(crate) fn isolate(&self, node: NodeId) {
        let others: Vec<NodeId> = self.shared.lock().nodes.keys().copied().collect();
        for other in others {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Mends what was cut between two nodes.
    pub(crate) fn mend(&self, one: NodeId, other: NodeId) {
        self.shared.lock().cut.retain(|cut| *cut != (one, other) && *cut != (other, one));
    }

    /// Mends all that was cut.
    pub(crate) fn heal(&self) {
        self.shared.lock().cut.clear();
    }

    /// Has what one node asks another wait on its way until it is released.
    pub(crate) fn hold(&self, from: NodeId, to: NodeId) {
        self.held.send_modify(|held| {
            held.insert((from, to));
        });
    }

    /// Lets go on all that is held.
    pub(crate) fn release(&self) {
        self.held.send_modify(HashSet::clear);
    }

    /// Waits while requests on this way are held.
    async fn pass(&self, from: NodeId, to: NodeId) {
        let mut held = self.held.subscribe();
        while held.borrow_and_update().contains(&(from, to)) {
            // No error: the sender is a part of the network.
            drop(held.changed().await);
        }
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.shared.lock().weather = weather;
    }

    pub(crate) fn faults(&self) -> Faults {
        self.shared.lock().faults
    }

    /// One way of a message: whether it arrives, and after how long.
    fn carry(&self, from: NodeId, to: NodeId) -> Option<Duration> {
        let mut state = self.shared.lock();
        if state.cut.contains(&(from, to)) {
            state.faults.cut += 1;
            return None;
        }
        let Weather { delay, lose_one_in, .. } = state.weather;
        if state.one_in(lose_one_in) {
            state.faults.lost += 1;
            return None;
        }
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        let random = state.next();
        Some(Duration::from_micros(if micros == 0 { 0 } else { random % micros }))
    }

    fn repeats(&self) -> bool {
        let mut state = self.shared.lock();
        let one_in = state.weather.repeat_one_in;
        let repeats = state.one_in(one_in);
        state.faults.repeated += u64::from(repeats);
        repeats
    }

    async fn deliver(&self, from: NodeId, call: &Call) -> Result<Option<Bytes>, CallError> {
        let node = call.to;
        tracing::trace!(%from, to = %node, class = ?call.class, "a call");
        let (tap, sent) = (self.shared.lock().tap.clone(), call.request.clone());
        let request = match tap {
            Some(tap) => tap(from, node, call.group, sent),
            None => sent,
        };
        self.pass(from, node).await;
        let Some(delay) = self.carry(from, node) else { return Ok(None) };
        pause(delay).await;
        let service = self.shared.lock().nodes.get(&node).cloned();
        let Some(service) = service else {
            return Err(CallError::Unreachable { node, reason: "it is not on the network".to_owned() });
        };
        if self.repeats() {
            let again = service.answer(from, call.group, request.clone());
            // Nobody waits for its answer, and it may never come.
            tokio::spawn(tokio::time::timeout(call.within, again));
        }
        let left = self.left(node);
        let answer = service.answer(from, call.group, request).await;
        if self.left(node) != left {
            return Ok(None);
        }
        let Some(delay) = self.carry(node, from) else { return Ok(None) };
        pause(delay).await;
        answer.map(Some).map_err(|reason| CallError::Refused { node, reason })
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn one_in(&mut self, many: u64) -> bool {
        many > 0 && self.next().is_multiple_of(many)
    }
}

async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// One node's way into a [`Network`].
pub(crate) struct Endpoint {
    node: NodeId,
    /// How often the node had left when this was made.
    left: u64,
    network: Network,
}

impl Transport for Endpoint {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let (from, left, network) = (self.node, self.left, self.network.clone());
        Box::pin(async move {
            let (node, within) = (call.to, call.within);
            let lost = CallError::Timeout { node, within };
            let delivered = tokio::time::timeout(within, async {
                if network.left(from) != left {
                    return std::future::pending().await;
                }
                match network.deliver(from, &call).await {
                    Ok(Some(answer)) => Ok(answer),
                    // Nobody learns that a message was lost but by waiting.
                    Ok(None) => std::future::pending().await,
                    Err(error) => Err(error),
                }
            });
            delivered.await.unwrap_or(Err(lost))
        })
    }
}
