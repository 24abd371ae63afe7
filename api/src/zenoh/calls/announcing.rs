//! Word of the calls that triggers ask for, for those who listen: best effort.
//!
//! The first implementation sent triggers to whoever subscribes to `oprc/CLASS/PARTITION/async/FUNCTION/ID`, or
//! `.../objects/OBJECT/async/FUNCTION/ID`. Here they are calls, made by the node; who listens is still told of each when it
//! is first made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use odgm_triggers::{Announce, Call};
use tokio::sync::mpsc;
use zenoh::pubsub::Publisher;
use zenoh::qos::CongestionControl;
use zenoh::{Session, Wait};

use super::{key, request};
use crate::zenoh::limits::ANNOUNCED;

/// All that is said of functions by themselves, and on objects.
const SAID: [&str; 2] = ["oprc/*/*/async/*/*", "oprc/*/*/objects/*/async/*/*"];

/// How many are put before other tasks have their turn.
const AT_ONCE: usize = 64;

/// Tells those who listen.
pub(crate) struct Announcer {
    by_itself: Audience,
    on_object: Audience,
    queue: mpsc::Sender<Word>,
}

/// Whether anybody listens, so that nothing is made for nobody.
struct Audience {
    listens: Arc<AtomicBool>,
    /// As long as it is kept, Zenoh tells of it.
    _publisher: Publisher<'static>,
}

/// What is put.
struct Word {
    key: String,
    payload: Bytes,
    attachment: Vec<u8>,
}

impl Announcer {
    /// Over this session. Within a runtime, where it has a task until it is dropped.
    pub(crate) fn open(session: &Session) -> zenoh::Result<Self> {
        let [by_itself, on_object] = SAID.map(|key| Audience::of(session, key));
        let (queue, waiting) = mpsc::channel(ANNOUNCED);
        tokio::spawn(put_all(session.clone(), waiting));
        Ok(Self { by_itself: by_itself?, on_object: on_object?, queue })
    }
}

impl Announce for Announcer {
    fn announce(&self, call: &Call) {
        let audience = if call.target.object.is_some() { &self.on_object } else { &self.by_itself };
        if !audience.listens.load(Ordering::Relaxed) {
            return;
        }
        // An id is one part of a key.
        let id = call.key.replace('/', "-");
        let Some(key) = key(call, true, "async").filter(|_| !id.is_empty()) else { return };
        let (payload, attachment) = request(call);
        let word = Word { key: format!("{key}/{id}"), payload, attachment };
        if self.queue.try_send(word).is_err() {
            tracing::debug!(call = %call.key, "listeners are not told of a call: they are told of too many already");
        }
    }
}

impl Audience {
    fn of(session: &Session, key: &'static str) -> zenoh::Result<Self> {
        let listens = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&listens);
        let publisher = session.declare_publisher(key).wait()?;
        let listening = publisher.matching_listener();
        let listening = listening.callback(move |status| heard.store(status.matching(), Ordering::Relaxed));
        listening.background().wait()?;
        Ok(Self { listens, _publisher: publisher })
    }
}

async fn put_all(session: Session, mut queue: mpsc::Receiver<Word>) {
    let mut words = Vec::with_capacity(AT_ONCE);
    while queue.recv_many(&mut words, AT_ONCE).await > 0 {
        // A put may wait for a moment where the way is congested, and then is dropped.
        tokio::task::block_in_place(|| {
            for Word { key, payload, attachment } in words.drain(..) {
                let put = session.put(key, payload).attachment(attachment);
                if let Err(error) = put.congestion_control(CongestionControl::Drop).wait() {
                    tracing::debug!(%error, "listeners were not told of a call");
                }
            }
        });
    }
}
