//! A partition on this node: its log, its view, and the way in.

use std::io;
use std::sync::Arc;

use odgm_log::store::{Bounds, LogStore};
use odgm_log::{Body, GroupId, NodeId, Offset, Payload};
use odgm_projections::View;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::opening::Blueprint;
use crate::proposal::{Answer, Gate, Proposal, ProposeError, Reply};
use crate::reading::{Consistency, ReadError};
use crate::replicator::Replicator;
use crate::source::{Records, missing_from};

/// A partition that serves reads and takes writes.
pub struct Partition {
    class: String,
    index: u32,
    group: GroupId,
    consistency: Consistency,
    log: LogStore,
    gate: Arc<Gate>,
    closed: CancellationToken,
    replicator: Box<dyn Replicator>,
}

impl Partition {
    pub(crate) fn new(
        blueprint: &Blueprint,
        log: LogStore,
        gate: Arc<Gate>,
        replicator: Box<dyn Replicator>,
    ) -> Arc<Self> {
        let Blueprint { class, index, group, consistency, .. } = blueprint.clone();
        let closed = CancellationToken::new();
        Arc::new(Self { class, index, group, consistency, log, gate, closed, replicator })
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
        self.group
    }

    /// Its view as it is now. Reads see what is committed and applied here.
    pub fn view(&self) -> View {
        self.replicator.view()
    }

    /// Its records, as far as they are committed and applied here.
    pub fn records(&self) -> Records<'_> {
        Records::visible(&self.log, self.group, self.replicator.visible())
    }

    /// The log store that holds its records.
    pub(crate) fn log(&self) -> &LogStore {
        &self.log
    }

    /// The first, last and durable offsets of its log.
    pub fn bounds(&self) -> Bounds {
        self.log.bounds(self.group)
    }

    /// The first record that the partition keeps and this replica does not have (yet): it came back through a snapshot and
    /// fetches what was before. None if it is a whole copy.
    pub fn missing_from(&self) -> Option<Offset> {
        missing_from(&self.log, self.group, &self.view().header())
    }

    /// The newest committed and applied offset, and news of it.
    pub fn visible(&self) -> watch::Receiver<Offset> {
        self.replicator.visible().subscribe()
    }

    /// The newest committed and applied offset.
    pub fn head(&self) -> Offset {
        *self.replicator.visible().borrow()
    }

    /// Waits until a record is applied here, or the partition is closed.
    ///
    /// # Errors
    /// [`ReadError::Closed`].
    pub async fn applied(&self, offset: Offset) -> Result<(), ReadError> {
        let mut visible = self.visible();
        tokio::select! {
            reached = visible.wait_for(|visible| *visible >= offset) => {
                reached.map(drop).map_err(|_| ReadError::Closed)
            }
            () = self.closed.cancelled() => Err(ReadError::Closed),
        }
    }

    /// Returns when a read of the view may be answered: then it misses nothing that it may not miss.
    ///
    /// # Errors
    /// [`ReadError`], where that cannot be confirmed.
    pub async fn confirm(&self, consistency: Consistency) -> Result<(), ReadError> {
        match self.replicator.confirm(consistency) {
            Some(confirmed) => confirmed.await,
            None => Ok(()),
        }
    }

    /// How fresh a read is that does not say so itself.
    pub fn consistency(&self) -> Consistency {
        self.consistency
    }

    /// Takes a snapshot of the view, unless there is one of what it is now. Blocks.
    pub(crate) fn snapshot(&self) -> io::Result<Offset> {
        self.replicator.snapshot()
    }

    /// Asks that records below an offset may be deleted here; answers below which they may be now.
    pub(crate) fn release(&self, below: Offset) -> io::Result<Offset> {
        self.replicator.release(below)
    }

    /// The node that leads the partition, as far as is known here.
    pub fn leader(&self) -> Option<NodeId> {
        self.replicator.leader()
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
        let needs_room = self.needs_room(&payload.body);
        let room = if needs_room { self.require_space() } else { Ok(()) };
        let admitted = room.and_then(|()| {
            let (kind, encoded) = payload.encode().map_err(ProposeError::TooLarge)?;
            let admission = self.gate.admit(encoded.len())?;
            Ok((kind, encoded, admission))
        });
        match admitted {
            Ok((kind, encoded, admission)) => {
                self.replicator.propose(Proposal { payload, kind, encoded, needs_room, reply, admission });
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    /// What frees space goes on when space is low, and what a partition cannot do without.
    fn needs_room(&self, body: &Body) -> bool {
        match body {
            Body::Semantics(_)
            | Body::Config(_)
            | Body::Trimmed(_)
            | Body::CollectTombstones(_)
            | Body::Blank
            | Body::Membership(_) => false,
            Body::CursorMoved(cursor) => cursor.position.is_some(),
            // Deleting a collection frees space; creating one asks for space first.
            _ => self.group != GroupId::CATALOGUE,
        }
    }

    /// Refuses while space is low.
    pub(crate) fn require_space(&self) -> Result<(), ProposeError> {
        require_space(&self.log)
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
}

/// Refuses while space is low.
pub(crate) fn require_space(log: &LogStore) -> Result<(), ProposeError> {
    if log.is_low_on_space() {
        let space = log.space();
        return Err(ProposeError::LowSpace { free: space.free, reserve: space.reserve });
    }
    Ok(())
}
