//! A partition on this node: its log, its view, and the way in.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use odgm_log::store::{Bounds, LogStore};
use odgm_log::{Body, BodyType, GroupId, NodeId, Offset, Payload, Term};
use odgm_projections::View;
use parking_lot::RwLock;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::feed::Feed;
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
    consistency: RwLock<Consistency>,
    log: LogStore,
    gate: Arc<Gate>,
    closed: CancellationToken,
    /// Whether other nodes have replicas of it, too.
    is_replicated: bool,
    replicator: Box<dyn Replicator>,
}

/// What of the time that a client waits is left for the answer to reach it: a part, and at most so much.
const FOR_THE_ANSWER: (u32, Duration) = (8, Duration::from_millis(250));

/// How long the part of a client's time that is left for its answer begins before its end.
fn kept(within: Duration) -> Duration {
    (within / FOR_THE_ANSWER.0).min(FOR_THE_ANSWER.1)
}

impl Partition {
    pub(crate) fn new(
        blueprint: &Blueprint,
        log: LogStore,
        gate: Arc<Gate>,
        replicator: Box<dyn Replicator>,
    ) -> Arc<Self> {
        let Blueprint { class, index, group, consistency, .. } = blueprint.clone();
        let (closed, is_replicated) = (CancellationToken::new(), blueprint.founders.is_some());
        let consistency = RwLock::new(consistency);
        Arc::new(Self { class, index, group, consistency, log, gate, closed, is_replicated, replicator })
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

    /// The same, with the reason in time for a client that waits no longer than `within`.
    ///
    /// # Errors
    /// [`ReadError`], where it cannot be confirmed, or not in time.
    pub async fn confirm_within(&self, consistency: Consistency, within: Duration) -> Result<(), ReadError> {
        let Some(confirmed) = self.replicator.confirm(consistency) else { return Ok(()) };
        let in_time = tokio::time::timeout(within.saturating_sub(kept(within)), confirmed).await;
        in_time.unwrap_or_else(|_| {
            let late = || format!("nobody answered within {within:?}");
            Err(ReadError::Unconfirmed { reason: self.replicator.trouble().unwrap_or_else(late) })
        })
    }

    /// How fresh a read is that does not say so itself.
    pub fn consistency(&self) -> Consistency {
        *self.consistency.read()
    }

    /// Has reads that do not say it themselves be so fresh from now on.
    pub(crate) fn read_by(&self, consistency: Consistency) {
        *self.consistency.write() = consistency;
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

    /// What is wrong between its replicas, as far as is known here, and what to do about it.
    pub fn divergence(&self) -> Option<String> {
        let divergence = self.replicator.divergence()?;
        let remedy = divergence.remedy(&format!("{}/{}", self.class, self.index));
        Some(format!("{divergence}: {remedy}"))
    }

    /// How many proposals wait for their record to be durable and applied.
    pub fn in_flight(&self) -> usize {
        self.gate.in_flight()
    }

    /// Why the partition takes no writes, if it does not.
    pub fn failure(&self) -> Option<ProposeError> {
        self.replicator.failure()
    }

    /// Why its log, which has nothing yet, cannot begin, if it cannot: it begins by the newest rules of apply, which some of
    /// its nodes do not know.
    pub fn cannot_begin(&self) -> Option<ProposeError> {
        self.replicator.cannot_begin().map(|reason| ProposeError::Unavailable { reason })
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
        self.enter(payload, Reply::Channel(sender), None, None);
        answered(receiver).await
    }

    /// Waits until this node leads the partition and its view holds all that was written before; the term in which it does.
    ///
    /// # Errors
    /// [`ReadError::Closed`], if it never will.
    pub async fn lead(&self) -> Result<Term, ReadError> {
        tokio::select! {
            led = self.replicator.lead() => led,
            () = self.closed.cancelled() => Err(ReadError::Closed),
        }
    }

    /// Returns when this node does not lead in that term any more, or the partition is closed.
    pub async fn deposed(&self, term: Term) {
        tokio::select! {
            () = self.replicator.deposed(term) => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// News of what records put into the outbox from now on; up to `capacity` are kept until they are taken. One feed is
    /// fed at a time, the newest.
    pub fn feed(&self, capacity: usize) -> Feed {
        self.replicator.feeder().open(capacity)
    }

    /// As [`Partition::propose`], but only as the leader of that term: the command goes to no other node.
    ///
    /// # Errors
    /// [`ProposeError`]; `NotLeader` once another term has begun.
    pub async fn propose_as_leader(&self, term: Term, payload: Payload) -> Answer {
        let (sender, receiver) = oneshot::channel();
        self.enter(payload, Reply::Channel(sender), None, Some(term));
        answered(receiver).await
    }

    /// As [`Partition::submit`], but only as the leader of that term.
    pub fn submit_as_leader(
        &self,
        term: Term,
        payload: Payload,
        reply: impl FnOnce(Answer) + Send + 'static,
    ) {
        self.enter(payload, Reply::Call(Box::new(reply)), None, Some(term));
    }

    /// The same, with the reason in time for a client that waits no longer than `within`.
    ///
    /// # Errors
    /// [`ProposeError`], which says whether the command was certainly not applied.
    pub async fn propose_within(&self, payload: Payload, within: Duration) -> Answer {
        if !self.is_replicated {
            return self.propose(payload).await;
        }
        let (sender, receiver) = oneshot::channel();
        let now = Instant::now();
        // Waiting for a leader ends before all else does: what was given to none by then was certainly not applied.
        self.enter(
            payload,
            Reply::Channel(sender),
            Some(now + within.saturating_sub(2 * kept(within))),
            None,
        );
        let in_time = tokio::time::timeout(within.saturating_sub(kept(within)), answered(receiver)).await;
        match in_time {
            Ok(Err(ProposeError::NotLeader { leader: None })) => Err(self.leaderless()),
            Ok(answer) => answer,
            Err(_) => {
                let late = || format!("no quorum of the replicas confirmed it within {within:?}");
                Err(ProposeError::Unknown { reason: self.replicator.trouble().unwrap_or_else(late) })
            }
        }
    }

    /// What a write is told that found no leader.
    fn leaderless(&self) -> ProposeError {
        match self.replicator.trouble() {
            Some(trouble) => {
                ProposeError::Unavailable { reason: format!("the partition has no leader: {trouble}") }
            }
            None => ProposeError::NotLeader { leader: None },
        }
    }

    /// As [`Partition::propose`], for pipelines: commands become records in the order of the calls. `reply` is
    /// called exactly once, perhaps before this returns, and must not block.
    pub fn submit(&self, payload: Payload, reply: impl FnOnce(Answer) + Send + 'static) {
        self.enter(payload, Reply::Call(Box::new(reply)), None, None);
    }

    fn enter(&self, payload: Payload, reply: Reply, until: Option<Instant>, term: Option<Term>) {
        let needs_room = self.needs_room(&payload.body);
        // Where there are replicas it is the leader's room that counts.
        let room = if needs_room && !self.is_replicated { self.require_space() } else { Ok(()) };
        let admitted = room.and_then(|()| {
            let (kind, encoded) = payload.encode().map_err(ProposeError::TooLarge)?;
            let admission = self.gate.admit(encoded.len(), needs_room)?;
            Ok((kind, encoded, admission))
        });
        match admitted {
            Ok((kind, encoded, admission)) => {
                let proposal = Proposal { payload, kind, encoded, needs_room, until, term, reply, admission };
                self.replicator.propose(proposal);
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    /// What frees space goes on when space is low, and what a partition cannot do without.
    fn needs_room(&self, body: &Body) -> bool {
        match body {
            Body::CursorMoved(cursor) => cursor.position.is_some(),
            // Deleting a collection frees space; creating one asks for space first.
            _ => adds(self.group, body.body_type()),
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

async fn answered(answer: oneshot::Receiver<Answer>) -> Answer {
    answer.await.unwrap_or_else(|_| {
        Err(ProposeError::Unknown { reason: "the partition's worker thread has ended".to_owned() })
    })
}

/// Whether records of this type add to what a group holds; the others, and the catalogue, it cannot do without.
pub(crate) fn adds(group: GroupId, body: BodyType) -> bool {
    let is_needed = matches!(
        body,
        BodyType::Semantics
            | BodyType::Config
            | BodyType::Trimmed
            | BodyType::CollectTombstones
            | BodyType::CursorMoved
            | BodyType::Blank
            | BodyType::Membership
            | BodyType::Outcome
            | BodyType::TriggerSettled
            | BodyType::Delivered
            | BodyType::Discard
    );
    group != GroupId::CATALOGUE && !is_needed
}

/// Whether records of this type are about calls: by rules of apply before those of calls they mean nothing, and builds that
/// know no others cannot read them.
pub(crate) fn is_about_calls(body: BodyType) -> bool {
    matches!(
        body,
        BodyType::Invoke
            | BodyType::Outcome
            | BodyType::TriggerSettled
            | BodyType::Delivered
            | BodyType::Redrive
            | BodyType::Discard
    )
}

/// Refuses while space is low.
pub(crate) fn require_space(log: &LogStore) -> Result<(), ProposeError> {
    if log.is_low_on_space() {
        let space = log.space();
        return Err(ProposeError::LowSpace { free: space.free, reserve: space.reserve });
    }
    Ok(())
}
