//! Writes on their way into a group: one at a time and in order to openraft where this node leads, or to the node that
//! does.
//!
//! A write that another node's election makes homeless is tried again for a while, where nothing was written and nobody
//! waits for an order: those of a pipeline are refused instead, since what came after them may stand already. A
//! write whose answer is lost is sent again only if it has a request id, by which it is applied once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use odgm_log::body::Config;
use odgm_log::{GroupId, Kind, NodeId, Term, Timestamp};
use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use openraft::error::{ClientWriteError, Fatal};
use openraft::raft::WriteResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::forwarding::{Passed, decode_answers};
use super::leading::{leader_by, members_of};
use super::log::Log;
use super::machine::Machine;
use super::messages::Request;
use super::types::{Command, Types};
use super::{FORWARD_TIMEOUT, LEADER_PATIENCE, PROPOSAL_ROUNDS, PROPOSALS_AT_ONCE, RETRY_PAUSE};
use crate::neighbours::{Neighbours, Trouble};
use crate::partition::{is_about_calls, require_space};
use crate::proposal::{Admission, Answer, Proposal, ProposeError, Reply};
use crate::transport::{Call, CallError, Class, Transport};

/// A write that waits for its record.
pub(super) struct Write {
    kind: Kind,
    encoded: Bytes,
    needs_room: bool,
    /// Nothing is tried for longer than a while.
    until: Instant,
    /// Whether it may be tried again after a refusal.
    again: bool,
    /// Whether applying it twice changes nothing: then it may be tried again where its answer was lost, too.
    idempotent: bool,
    /// Whether it came from another node: then it goes no further.
    passed: bool,
    /// The term in which this node has to lead for it.
    term: Option<Term>,
    /// Whether the answer to an earlier try was lost: that one may have been applied, whatever is said of a later one.
    lost: bool,
    /// Who was asked before, and whom that one named as the leader.
    sent_on: Option<(NodeId, NodeId)>,
    /// Gone once it is answered.
    waiting: Option<(Reply, Admission)>,
}

impl Write {
    pub(super) fn new(proposal: Proposal) -> Self {
        let Proposal { payload, kind, encoded, needs_room, until, term, reply, admission } = proposal;
        let patience = Instant::now() + LEADER_PATIENCE;
        let (until, passed) = (until.map_or(patience, |until| until.min(patience)), false);
        let again = matches!(reply, Reply::Channel(_)) && term.is_none();
        let idempotent = payload.cause.request_id.is_some();
        let waiting = Some((reply, admission));
        Self {
            kind,
            encoded,
            needs_room,
            until,
            again,
            idempotent,
            passed,
            term,
            lost: false,
            sent_on: None,
            waiting,
        }
    }

    /// One that another node has passed on.
    pub(super) fn passed(write: Passed, reply: Reply, admission: Admission) -> Self {
        let Passed { needs_room, kind, encoded } = write;
        let (until, again, idempotent, passed) = (Instant::now() + LEADER_PATIENCE, false, false, true);
        let waiting = Some((reply, admission));
        Self {
            kind,
            encoded,
            needs_room,
            until,
            again,
            idempotent,
            passed,
            term: None,
            lost: false,
            sent_on: None,
            waiting,
        }
    }

    pub(super) fn answer(mut self, answer: Answer) {
        self.settle(answer);
    }

    fn settle(&mut self, answer: Answer) {
        if let Some((reply, admission)) = self.waiting.take() {
            drop(admission);
            reply.send(match answer {
                Err(error) if self.lost && error.not_applied() => Err(ProposeError::Unknown {
                    reason: format!("an earlier try of it was lost, and then: {error}"),
                }),
                answer => answer,
            });
        }
    }
}

impl Drop for Write {
    /// Whoever still waits when it goes is told that nobody knows.
    fn drop(&mut self) {
        let reason = "the partition's Raft member has stopped".to_owned();
        self.settle(Err(ProposeError::Unknown { reason }));
    }
}

/// What keeps a leader from proposing.
#[derive(Default)]
struct Fitness {
    /// Why it may not stamp records.
    clock: Option<ProposeError>,
    /// Why there is no room for them, here or on a quorum.
    room: Option<ProposeError>,
    /// Whether another member could lead.
    other: bool,
}

/// Takes the writes of a group in.
pub(super) struct Proposer {
    pub(super) group: GroupId,
    pub(super) node: NodeId,
    pub(super) raft: Raft<Types, Machine>,
    pub(super) log: Log,
    pub(super) machine: Machine,
    pub(super) transport: Arc<dyn Transport>,
    /// Whether writes are passed on to the node that leads.
    pub(super) forward: bool,
    /// What is known of the other nodes.
    pub(super) neighbours: Arc<Neighbours>,
    /// The rules with which the log begins.
    pub(super) rules: Config,
    /// The id of the next message to the leader. It begins anywhere, so that an earlier process had others.
    pub(super) next: AtomicU64,
    /// Where writes that are tried again go.
    pub(super) queue: mpsc::WeakUnboundedSender<Write>,
}

impl Proposer {
    /// Works until nobody can send writes any more.
    pub(super) async fn run(self, mut writes: mpsc::UnboundedReceiver<Write>) {
        let rounds = Arc::new(Semaphore::new(PROPOSAL_ROUNDS));
        let mut batch = Vec::new();
        let mut begun = false;
        // First the round, then those who wait by then: the busier it is, the more writes share one append and one fsync.
        while let Ok(round) = Arc::clone(&rounds).acquire_owned().await {
            if writes.recv_many(&mut batch, PROPOSALS_AT_ONCE).await == 0 {
                return;
            }
            let until = batch.iter().map(|write: &Write| write.until).min().unwrap_or_else(Instant::now);
            let leader = leader_by(&self.raft, until).await.map(|leader| self.follow(leader, &batch));
            self.turn_down_the_deposed(leader, &mut batch);
            match leader {
                Some(leader) if leader == self.node => {
                    let begins = if begun { Ok(()) } else { self.begin().await };
                    begun = begins.is_ok();
                    let taken = self.take(batch.drain(..), &begins);
                    self.lead(taken, round).await;
                }
                Some(leader) if self.forward => self.pass_on(leader, &mut batch, round),
                Some(leader) => {
                    for write in batch.drain(..) {
                        write.answer(Err(ProposeError::NotLeader { leader: Some(leader) }));
                    }
                }
                // Those that have not waited for as long as the first may go on waiting.
                None => {
                    for write in batch.drain(..) {
                        self.refuse(write, ProposeError::NotLeader { leader: None });
                    }
                }
            }
        }
    }

    /// Refuses what only the leader of an earlier term may write.
    fn turn_down_the_deposed(&self, leader: Option<NodeId>, batch: &mut Vec<Write>) {
        let now =
            (leader == Some(self.node)).then(|| Term(self.raft.metrics().borrow_watched().current_term));
        for write in batch.extract_if(.., |write| write.term.is_some_and(|term| now != Some(term))) {
            write.answer(Err(ProposeError::NotLeader {
                leader: leader.filter(|leader| *leader != self.node),
            }));
        }
    }

    /// Who leads in fact: a member that was left behind knows only who did, and that one may have said who does now.
    fn follow(&self, leader: NodeId, batch: &[Write]) -> NodeId {
        let mut named = batch.iter().filter_map(|write| write.sent_on);
        let other = named.find(|(by, other)| *by == leader && *other != self.node);
        other.map_or(leader, |(_, other)| other)
    }

    /// Refuses writes that may not become records now, and answers the others.
    fn take(&self, batch: impl Iterator<Item = Write>, begins: &Result<(), ProposeError>) -> Vec<Write> {
        let Fitness { clock, room, other } = self.fitness();
        let knows_calls = std::cell::OnceCell::new();
        let mut taken = Vec::new();
        for write in batch {
            let unfit = clock.as_ref().or(room.as_ref().filter(|_| write.needs_room));
            let is_about_calls = is_about_calls(write.kind.body_type);
            match (begins, unfit) {
                // The rules come first; they could not be written, so this cannot be either.
                (Err(error), _) => self.refuse(write, error.clone()),
                (Ok(()), Some(unfit)) => self.turn_down(write, unfit.clone(), other),
                (Ok(()), None)
                    if is_about_calls
                        && !*knows_calls.get_or_init(|| self.machine.view().header().has_calls()) =>
                {
                    write.answer(Err(unknown_calls()));
                }
                (Ok(()), None) => taken.push(write),
            }
        }
        taken
    }

    /// Hands writes to openraft in one go; they are answered beside this.
    async fn lead(&self, taken: Vec<Write>, round: OwnedSemaphorePermit) {
        let stamp = Timestamp::now();
        let commands: Vec<_> = taken
            .iter()
            .map(|Write { kind, encoded, .. }| Command {
                stamp,
                origin: self.node,
                kind: *kind,
                encoded: encoded.clone(),
            })
            .collect();
        if commands.is_empty() {
            return;
        }
        // If the member has stopped, the writes are dropped here, which answers them.
        let Ok(mut written) = self.raft.client_write_many(commands).await else { return };
        let queue = self.queue.clone();
        tokio::spawn(async move {
            for write in taken {
                settle(&queue, write, written.next().await);
            }
            drop(round);
        });
    }

    fn fitness(&self) -> Fitness {
        let room = require_space(self.log.store()).err();
        if room.is_none() && !self.neighbours.has_worries() {
            return Fitness::default();
        }
        let members = members_of(&self.raft);
        let unavailable = |trouble: Trouble| ProposeError::Unavailable {
            reason: format!("the partition takes no writes: {trouble}"),
        };
        let clock = self.neighbours.clock(&members).err().map(unavailable);
        let room = room.or_else(|| self.neighbours.space(&members).err().map(unavailable));
        let is_unfit = clock.is_some() || room.is_some();
        Fitness { clock, room, other: is_unfit && !self.neighbours.fit(&members).is_empty() }
    }

    /// Refuses what this leader is not fit for. Where another member is, it leads in a moment, and the write waits for that.
    fn turn_down(&self, write: Write, error: ProposeError, other: bool) {
        match (other, write.passed) {
            (false, _) => write.answer(Err(error)),
            (true, false) => self.refuse(write, error),
            // It is tried again where it came from.
            (true, true) => write.answer(Err(ProposeError::NotLeader { leader: None })),
        }
    }

    fn refuse(&self, write: Write, error: ProposeError) {
        refuse(&self.queue, write, error);
    }

    /// Sends writes to the node that leads. Those that have come from another one are refused: it asks again itself.
    fn pass_on(&self, leader: NodeId, batch: &mut Vec<Write>, round: OwnedSemaphorePermit) {
        let (passed, own): (Vec<_>, Vec<_>) = batch.drain(..).partition(|write| write.passed);
        for write in passed {
            write.answer(Err(ProposeError::NotLeader { leader: Some(leader) }));
        }
        if own.is_empty() {
            return;
        }
        let writes = own.iter().map(|write| {
            let Write { needs_room, kind, encoded, .. } = write;
            Passed { needs_room: *needs_room, kind: *kind, encoded: encoded.clone() }
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = match (Request::Propose { id, writes: writes.collect() }).encode(self.group) {
            Ok(request) => request,
            Err(error) => {
                let reason = error.to_string();
                own.into_iter()
                    .for_each(|write| write.answer(Err(ProposeError::Stopped { reason: reason.clone() })));
                return;
            }
        };
        let (group, class, within) = (self.group, Class::Log, FORWARD_TIMEOUT);
        // Made here, not in the task: so writes leave in the order in which they came.
        let answers = self.transport.call(Call { to: leader, class, group, request, within });
        let queue = self.queue.clone();
        let mut metrics = self.raft.server_metrics();
        // Not always the one that is asked: see `follow`.
        let known = metrics.borrow_watched().current_leader;
        tokio::spawn(async move {
            let replaced = async {
                let is_another = |now: u64| now != leader.0 && Some(now) != known;
                while !metrics.borrow_and_update().current_leader.is_some_and(is_another) {
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
                // Its last answers may be on their way.
                tokio::time::sleep(RETRY_PAUSE).await;
            };
            let answers = tokio::select! {
                biased;
                answers = answers => answers.map_err(|error| lost(&error, leader)),
                () = replaced => {
                    let reason = format!("node {leader} led when the write was passed on to it, and another one leads now");
                    Err(ProposeError::Unknown { reason })
                }
            };
            drop(round);
            let answers = answers.and_then(|answers| {
                let answers = decode_answers(answers).and_then(|answers| {
                    let (sent, answered) = (own.len(), answers.len());
                    let wrong = || io::Error::other(format!("{answered} answers to {sent} writes"));
                    if sent == answered { Ok(answers) } else { Err(wrong()) }
                });
                answers.map_err(|error| ProposeError::Unknown { reason: error.to_string() })
            });
            match answers {
                Ok(answers) => {
                    for (mut write, answer) in own.into_iter().zip(answers) {
                        match answer {
                            Err(error @ ProposeError::NotLeader { leader: named }) => {
                                write.sent_on = named.map(|named| (leader, named));
                                refuse(&queue, write, late(error));
                            }
                            answer => write.answer(answer),
                        }
                    }
                }
                Err(error) => own.into_iter().for_each(|write| refuse(&queue, write, error.clone())),
            }
        });
    }
}

/// What is said of a record about calls where there are none by the group's rules: it would mean nothing there, and members
/// of older builds could not even read it.
fn unknown_calls() -> ProposeError {
    ProposeError::Unavailable {
        reason: "the partition is also on nodes that do not know calls of functions, or did not until a moment ago: upgrade \
                 them, or try again later"
            .to_owned(),
    }
}

/// Whether the request may have arrived decides what is known of its writes.
fn lost(error: &CallError, leader: NodeId) -> ProposeError {
    match error {
        CallError::Unreachable { .. } => ProposeError::NotLeader { leader: None },
        CallError::Refused { reason, .. } => {
            tracing::debug!(%leader, reason, "the leader refused writes");
            ProposeError::NotLeader { leader: None }
        }
        CallError::Timeout { .. } | CallError::Closed { .. } | CallError::Restarted { .. } => {
            ProposeError::Unknown { reason: format!("the leader, node {leader}, did not answer: {error}") }
        }
    }
}

/// Answers a write with what openraft says of it; it says nothing any more when it has stopped.
fn settle(
    queue: &mpsc::WeakUnboundedSender<Write>,
    write: Write,
    written: Option<Result<WriteResult<Types>, Fatal<Types>>>,
) {
    match written {
        Some(Ok(Ok(written))) => write.answer(Ok(written.response)),
        Some(Ok(Err(ClientWriteError::ForwardToLeader(other)))) => {
            refuse(queue, write, ProposeError::NotLeader { leader: other.leader_id.map(NodeId) });
        }
        Some(Ok(Err(error))) => write.answer(Err(ProposeError::Unknown { reason: error.to_string() })),
        Some(Err(_)) | None => drop(write),
    }
}

/// What is said of a write that was passed on in vain: whoever asked need not look for the leader itself.
fn late(error: ProposeError) -> ProposeError {
    match error {
        ProposeError::NotLeader { leader: Some(leader) } => ProposeError::Unavailable {
            reason: format!("node {leader} has only just begun to lead the partition"),
        },
        error => error,
    }
}

/// Tries a write again after a pause where that is allowed; else refuses it.
fn refuse(queue: &mpsc::WeakUnboundedSender<Write>, mut write: Write, error: ProposeError) {
    write.lost |= !error.not_applied();
    let in_time = Instant::now() + RETRY_PAUSE < write.until;
    if !(write.again && in_time && (write.idempotent || error.not_applied())) {
        write.answer(Err(error));
        return;
    }
    let queue = queue.clone();
    tokio::spawn(async move {
        tokio::time::sleep(RETRY_PAUSE).await;
        match queue.upgrade() {
            Some(queue) => {
                if let Err(mpsc::error::SendError(write)) = queue.send(write) {
                    write.answer(Err(error));
                }
            }
            None => write.answer(Err(error)),
        }
    });
}

#[cfg(test)]
mod tests {
    use odgm_log::body::SetValues;
    use odgm_log::{Body, Cause, Payload};
    use tokio::sync::oneshot;

    use super::*;
    use crate::limits::Limits;
    use crate::proposal::Gate;

    #[tokio::test]
    async fn a_write_whose_first_try_was_lost_is_not_said_to_be_refused() {
        let object = "thing".into();
        let body =
            Body::SetValues(SetValues { object, puts: vec![], deletes: vec![], expected_version: None });
        let cause = Cause { request_id: Some("once".to_owned()), ..Cause::default() };
        let payload = Payload { cause, body };
        let (kind, encoded) = payload.encode().expect("it is small");
        let admission = Gate::new(Limits::default()).admit(encoded.len(), true).expect("there is room");
        let (sender, answer) = oneshot::channel();
        let reply = Reply::Channel(sender);
        let proposal =
            Proposal { payload, kind, encoded, needs_room: true, until: None, term: None, reply, admission };
        let (queue, mut tried_again) = mpsc::unbounded_channel();

        let unanswered = ProposeError::Unknown { reason: "the leader did not answer".to_owned() };
        refuse(&queue.downgrade(), Write::new(proposal), unanswered);
        let mut write = tried_again.recv().await.expect("it has a request id");
        write.until = Instant::now();
        refuse(&queue.downgrade(), write, ProposeError::NotLeader { leader: None });
        let error = answer.await.expect("answered").expect_err("nobody leads");
        assert!(!error.not_applied(), "{error}");
    }
}
