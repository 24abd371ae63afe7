//! A partition on this node: its log, its view, and the way in.

use std::sync::Arc;

use odgm_log::store::Bounds;
use odgm_log::{Body, GroupId, Offset, Payload};
use odgm_projections::View;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;
use crate::local::{Local, Workers};
use crate::proposal::{Answer, Gate, Proposal, ProposeError, Reply};
use crate::replica::Replica;
use crate::replicator::Replicator;
use crate::source::Records;

/// A partition that serves reads and takes writes.
pub struct Partition {
    class: String,
    index: u32,
    gate: Arc<Gate>,
    closed: CancellationToken,
    // The one way there is until partitions are replicated; then a `Box<dyn Replicator>` beside the replica.
    replicator: Local,
}

impl Partition {
    pub(crate) fn new(
        class: &str,
        index: u32,
        replica: Replica,
        workers: &Workers,
        limits: Limits,
    ) -> Arc<Self> {
        Arc::new(Self {
            class: class.to_owned(),
            index,
            gate: Gate::new(limits),
            closed: CancellationToken::new(),
            replicator: Local::new(workers, replica, limits),
        })
    }

    /// The collection it belongs to.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Its number within the collection.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.replica().group
    }

    /// Its view. Reads see what is committed and applied here.
    pub fn view(&self) -> &View {
        &self.replica().view
    }

    /// Its records, as far as they are committed and applied here.
    pub fn records(&self) -> Records<'_> {
        self.replica().records()
    }

    /// The first, last and durable offsets of its log.
    pub fn bounds(&self) -> Bounds {
        self.replica().log.bounds(self.group())
    }

    /// The newest committed and applied offset, and news of it.
    pub fn visible(&self) -> watch::Receiver<Offset> {
        self.replica().visible.subscribe()
    }

    /// The newest committed and applied offset.
    pub fn head(&self) -> Offset {
        self.replica().visible()
    }

    /// How many proposals wait for their record to be durable and applied.
    pub fn in_flight(&self) -> usize {
        self.gate.in_flight()
    }

    /// Why the partition takes no writes, if it does not.
    pub fn failure(&self) -> Option<ProposeError> {
        self.replicator.failure()
    }

    /// Whether it has failed while it was running; it then takes no more writes until the node is started again.
    pub(crate) fn has_failed(&self) -> bool {
        self.replicator.has_failed()
    }

    /// Makes a command into a record; returns when it is durable and applied.
    ///
    /// # Errors
    /// [`ProposeError`], which says whether the command was certainly not applied.
    pub async fn propose(&self, payload: Payload) -> Answer {
        let (sender, receiver) = oneshot::channel();
        self.enter(payload, Reply::Channel(sender));
        receiver.await.unwrap_or_else(|_| {
            Err(ProposeError::Unknown { reason: "the partition's worker thread has ended".to_owned() })
        })
    }

    /// As [`Partition::propose`], for pipelines: commands become records in the order of the calls. `reply` is
    /// called exactly once, perhaps before this returns, and must not block.
    pub fn submit(&self, payload: Payload, reply: impl FnOnce(Answer) + Send + 'static) {
        self.enter(payload, Reply::Call(Box::new(reply)));
    }

    fn enter(&self, payload: Payload, reply: Reply) {
        let admitted = self.check_space(&payload.body).and_then(|()| {
            let (kind, encoded) = payload.encode().map_err(ProposeError::TooLarge)?;
            let admission = self.gate.admit(encoded.len())?;
            Ok((kind, encoded, admission))
        });
        match admitted {
            Ok((kind, encoded, admission)) => {
                self.replicator.propose(Proposal { payload, kind, encoded, reply, admission });
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    /// What frees space goes on when space is low, and what a partition cannot do without.
    fn check_space(&self, body: &Body) -> Result<(), ProposeError> {
        let needs_room = match body {
            Body::Semantics(_)
            | Body::Config(_)
            | Body::Trimmed(_)
            | Body::CollectTombstones(_)
            | Body::Blank
            | Body::Membership(_) => false,
            Body::CursorMoved(cursor) => cursor.position.is_some(),
            // Deleting a collection frees space; creating one asks for space first.
            _ => self.group() != GroupId::CATALOGUE,
        };
        if needs_room { self.require_space() } else { Ok(()) }
    }

    /// Refuses while space is low.
    pub(crate) fn require_space(&self) -> Result<(), ProposeError> {
        let log = &self.replica().log;
        if log.is_low_on_space() {
            let space = log.space();
            return Err(ProposeError::LowSpace { free: space.free, reserve: space.reserve });
        }
        Ok(())
    }

    /// Takes no more commands, and returns when those that were taken in are answered; streams end. Blocks.
    pub(crate) fn close(&self, reason: &str) {
        self.replicator.stop(reason);
        self.closed.cancel();
    }

    /// Cancelled when the partition is closed.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    pub(crate) fn replica(&self) -> &Replica {
        self.replicator.replica()
    }
}
