//! Frames over Zenoh, by put and subscribe: queries cost a second message for each answer.
//!
//! A node subscribes to `odgm/CLUSTER/raft/NODE/CLASS`. Each class has a priority, and so a queue, of its own: what blocks
//! bulk does not block votes. A put to nobody succeeds, so it is first looked whether anybody subscribes there. A put waits
//! where its queue is full, for up to five seconds if the other side hangs, and it waits by blocking its thread. So where it
//! might wait the runtime is told first; as that costs as much as the put, a small one to a node that is heard of is spared
//! it: see [`Caution`].
//!
//! Zenoh calls a subscriber on the threads that receive for all. There, bytes only go into a bounded queue.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use odgm_log::NodeId;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use zenoh::bytes::ZBytes;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::{CongestionControl, Priority};
use zenoh::query::{ConsolidationMode, Query, Queryable};
use zenoh::sample::{Locality, Sample};
use zenoh::{Session, Wait};

use super::Class;
use super::mux::{Carrier, Dropped, Inbound, Outlet};
use super::tcp::Addresses;
use crate::sessions::ZenohError;

/// Frames of one class that have arrived and wait to be heeded.
const INBOUND_FRAMES: usize = 4_096;

/// The bytes of those frames. A larger one is taken where nothing else waits.
const INBOUND_BYTES: usize = 64 << 20;

/// For how long it is taken as known that a node is there, and that it is not.
const PRESENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(10));

/// Larger frames take more than one of the queue's batches.
const SMALL_FRAME_BYTES: usize = 60 << 10;

/// Bytes that a node is sent without a word from it before it may hang. A queue holds twice as many.
const UNHEARD_BYTES: usize = 512 << 10;

/// A put that takes longer has waited, and for how long the next ones then may too.
const WAITED: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long a node is asked for its address.
const ADDRESS_WITHIN: Duration = Duration::from_secs(1);

/// Addresses of nodes that are remembered; beyond them all are asked for anew.
const KNOWN_ADDRESSES: usize = 1_024;

const CLASSES: [Class; 3] = [Class::Urgent, Class::Log, Class::Bulk];

/// A [`Carrier`] over a session.
pub(crate) struct ZenohCarrier {
    session: Session,
    keys: Keys,
    /// As long as they are kept, frames arrive.
    subscribers: Mutex<Vec<Subscriber<()>>>,
}

/// The names of a cluster's things in Zenoh.
#[derive(Clone, Debug)]
struct Keys {
    cluster: Arc<str>,
}

impl Keys {
    fn new(cluster: &str) -> Result<Self, ZenohError> {
        let usable = !cluster.is_empty() && !cluster.contains(['/', '*', '$', '?', '#']);
        if !usable || cluster.starts_with('@') {
            return Err(ZenohError::Name(cluster.to_owned()));
        }
        Ok(Self { cluster: cluster.into() })
    }

    fn frames(&self, node: NodeId, class: Class) -> String {
        format!("odgm/{}/raft/{node}/{}", self.cluster, class.name())
    }

    fn address(&self, node: NodeId) -> String {
        format!("odgm/{}/address/{node}", self.cluster)
    }
}

impl ZenohCarrier {
    /// The carrier of a cluster over this session.
    pub(crate) fn new(session: &Session, cluster: &str) -> Result<Self, ZenohError> {
        Ok(Self { session: session.clone(), keys: Keys::new(cluster)?, subscribers: Mutex::default() })
    }

    /// Begins to take in what is sent to this node. It ends when the carrier is dropped or its session closed.
    pub(crate) async fn listen(&self, node: NodeId, inbound: &Inbound) -> Result<(), ZenohError> {
        for class in CLASSES {
            let (arrivals, waiting) = Arrivals::new(inbound.clone());
            tokio::spawn(heed(waiting, Arc::clone(&arrivals.bytes), inbound.clone()));
            let subscriber = self
                .session
                .declare_subscriber(self.keys.frames(node, class))
                .allowed_origin(Locality::Remote)
                .callback(move |sample| arrivals.take(&sample))
                .await?;
            self.subscribers.lock().push(subscriber);
        }
        Ok(())
    }
}

impl Carrier for ZenohCarrier {
    fn open(&self, to: NodeId, class: Class) -> Box<dyn Outlet> {
        let (session, key) = (self.session.clone(), self.keys.frames(to, class));
        let caution = Caution::default();
        Box::new(ZenohOutlet { session, key, class, publisher: None, seen: None, caution })
    }

    fn close(&self) {
        // Taken out first, so that Zenoh is not called with the lock held.
        let subscribers = std::mem::take(&mut *self.subscribers.lock());
        drop(subscribers);
    }
}

/// What Zenoh's threads put frames into.
struct Arrivals {
    queue: mpsc::Sender<Bytes>,
    bytes: Arc<AtomicUsize>,
    inbound: Inbound,
}

impl Arrivals {
    fn new(inbound: Inbound) -> (Self, mpsc::Receiver<Bytes>) {
        let (queue, waiting) = mpsc::channel(INBOUND_FRAMES);
        (Self { queue, bytes: Arc::default(), inbound }, waiting)
    }

    fn take(&self, sample: &Sample) {
        let frame = match sample.payload().to_bytes() {
            // A copy, as it is a part of a receive buffer that would be kept for as long as any message of it.
            Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            // It came in fragments, that have just been put together.
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let size = frame.len();
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        if (before > 0 && before + size > INBOUND_BYTES) || self.queue.try_send(frame).is_err() {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.inbound.drop_frame(Dropped::Crowded, "frames arrive faster than they are heeded");
        }
    }
}

async fn heed(mut waiting: mpsc::Receiver<Bytes>, bytes: Arc<AtomicUsize>, inbound: Inbound) {
    while let Some(frame) = waiting.recv().await {
        bytes.fetch_sub(frame.len(), Ordering::Relaxed);
        inbound.receive(frame);
    }
}

/// Publishes to one node, in one class.
struct ZenohOutlet {
    session: Session,
    key: String,
    class: Class,
    publisher: Option<Publisher<'static>>,
    /// When it was last looked whether the node is there, and whether it was.
    seen: Option<(Instant, bool)>,
    caution: Caution,
}

impl Outlet for ZenohOutlet {
    /// Zenoh's futures do all that they do when they are made, so nothing is awaited here.
    fn send(&mut self, frame: Vec<u8>, heard: u64) -> BoxFuture<'_, Result<(), String>> {
        let may_wait = self.caution.before(frame.len(), heard) || self.publisher.is_none();
        let begun = Instant::now();
        let sent = if may_wait { tokio::task::block_in_place(|| self.put(frame)) } else { self.put(frame) };
        self.caution.after(begun);
        Box::pin(ready(sent.map_err(|error| error.to_string())))
    }
}

/// Whether the next put may have to wait.
///
/// It does not where the queue has room, which Zenoh does not tell. A node that is heard of takes what it is sent, so that a
/// put which waits there at all waits briefly. One that is not may hang; then what it was sent since does not fill a queue
/// that was not full before.
#[derive(Debug, Default)]
struct Caution {
    /// Frames that have come from the node.
    heard: u64,
    /// Bytes put since the last of them.
    unheard: usize,
    waiting_until: Option<Instant>,
}

impl Caution {
    fn before(&mut self, bytes: usize, heard: u64) -> bool {
        if heard != self.heard {
            (self.heard, self.unheard) = (heard, 0);
        }
        self.unheard = self.unheard.saturating_add(bytes);
        let waiting = self.waiting_until.is_some_and(|until| Instant::now() < until);
        waiting || bytes > SMALL_FRAME_BYTES || self.unheard > UNHEARD_BYTES
    }

    fn after(&mut self, begun: Instant) {
        let now = Instant::now();
        if now.duration_since(begun) > WAITED.0 {
            self.waiting_until = Some(now + WAITED.1);
        }
    }
}

impl ZenohOutlet {
    fn put(&mut self, frame: Vec<u8>) -> Result<(), PutError> {
        let publisher = match &mut self.publisher {
            Some(publisher) => publisher,
            none => none.insert(declare(&self.session, self.key.clone(), self.class)?),
        };
        if !is_there(publisher, &mut self.seen)? {
            return Err(PutError::Nobody);
        }
        Ok(publisher.put(ZBytes::from(frame)).wait()?)
    }
}

#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error("nobody subscribes under its name")]
    Nobody,
    #[error("Zenoh: {0}")]
    Zenoh(#[from] zenoh::Error),
}

fn declare(session: &Session, key: String, class: Class) -> zenoh::Result<Publisher<'static>> {
    let (priority, express) = match class {
        Class::Urgent => (Priority::RealTime, true),
        Class::Log => (Priority::InteractiveHigh, true),
        Class::Bulk => (Priority::DataLow, false),
    };
    session
        .declare_publisher(key)
        .congestion_control(CongestionControl::Block)
        .priority(priority)
        .express(express)
        .allowed_destination(Locality::Remote)
        .wait()
}

/// Whether anybody subscribes there, as far as this session knows. Looked up at most once in [`PRESENCE`].
fn is_there(publisher: &Publisher<'static>, seen: &mut Option<(Instant, bool)>) -> zenoh::Result<bool> {
    let now = Instant::now();
    if let Some((at, there)) = *seen
        && now.duration_since(at) < if there { PRESENCE.0 } else { PRESENCE.1 }
    {
        return Ok(there);
    }
    let there = publisher.matching_status().wait()?.matching();
    *seen = Some((now, there));
    Ok(there)
}

/// At which address each node listens for TCP; nodes are asked for theirs.
pub(crate) struct ZenohAddresses {
    session: Session,
    keys: Keys,
    known: Mutex<HashMap<NodeId, String>>,
}

/// As long as it is kept, others can learn this node's address.
pub(crate) struct Announced {
    _queryable: Queryable<()>,
}

impl ZenohAddresses {
    /// The addresses of a cluster's nodes.
    pub(crate) fn new(session: &Session, cluster: &str) -> Result<Self, ZenohError> {
        Ok(Self { session: session.clone(), keys: Keys::new(cluster)?, known: Mutex::default() })
    }

    /// Tells whoever asks where this node listens.
    pub(crate) async fn announce(&self, node: NodeId, address: String) -> Result<Announced, ZenohError> {
        let (key, runtime) = (self.keys.address(node), tokio::runtime::Handle::current());
        let answer = move |query: Query| {
            let address = address.clone();
            // An answer may wait, and Zenoh's thread must not.
            runtime.spawn_blocking(move || {
                let key = query.key_expr().clone();
                if let Err(error) = query.reply(key, address).wait() {
                    tracing::debug!(%error, "the address of this node could not be told");
                }
            });
        };
        let queryable =
            self.session.declare_queryable(key).allowed_origin(Locality::Remote).callback(answer).await?;
        Ok(Announced { _queryable: queryable })
    }

    async fn ask(&self, node: NodeId) -> Option<String> {
        let key = self.keys.address(node);
        let (sender, mut replies) = mpsc::channel(1);
        let asked = self
            .session
            .get(key)
            .timeout(ADDRESS_WITHIN)
            .allowed_destination(Locality::Remote)
            .consolidation(ConsolidationMode::None)
            .callback(move |reply| {
                if let Ok(sample) = reply.result()
                    && let Ok(address) = sample.payload().try_to_string()
                {
                    // The first one is enough.
                    let _ = sender.try_send(address.into_owned());
                }
            })
            .await;
        if let Err(error) = asked {
            tracing::debug!(%node, %error, "a node's address could not be asked for");
            return None;
        }
        replies.recv().await
    }
}

impl Addresses for ZenohAddresses {
    fn address(&self, node: NodeId) -> BoxFuture<'_, Option<String>> {
        if let Some(known) = self.known.lock().get(&node) {
            return Box::pin(ready(Some(known.clone())));
        }
        Box::pin(async move {
            let address = self.ask(node).await?;
            let mut known = self.known.lock();
            if known.len() >= KNOWN_ADDRESSES {
                known.clear();
            }
            known.insert(node, address.clone());
            Some(address)
        })
    }

    fn forget(&self, node: NodeId) {
        self.known.lock().remove(&node);
    }
}
