//! Reads that must not miss anything: those that wait at the same time share one question to the quorum.
//!
//! A follower asks the leader up to where its view has to be, and answers the reads itself once it is there.

use std::sync::Arc;
use std::time::Instant;

use odgm_log::{GroupId, NodeId, Offset};
use openraft::{Raft, ReadPolicy};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::leading::{leader_by, members_of};
use super::log::Log;
use super::machine::Machine;
use super::messages::{Request, decode_confirmation};
use super::types::{Types, offset};
use super::{CONFIRM_TIMEOUT, LEADER_PATIENCE, READ_ROUNDS, READS_AT_ONCE, RETRY_PAUSE};
use crate::neighbours::Neighbours;
use crate::reading::ReadError;
use crate::transport::{Call, Class, Transport};

/// What a waiting read is told: up to where the view is and had to be.
type Confirmed = Result<Offset, ReadError>;

/// The reads of a group that wait for one level of freshness.
pub(super) struct Reads {
    waiting: mpsc::UnboundedSender<oneshot::Sender<Confirmed>>,
}

impl Reads {
    /// The reads, and the task that works on them.
    pub(super) fn start(asker: Asker) -> (Self, JoinHandle<()>) {
        // Bounded by the requests of all connections; a read that waits is a few words.
        let (waiting, queue) = mpsc::unbounded_channel();
        let task = tokio::spawn(answer_all(Arc::new(asker), queue));
        (Self { waiting }, task)
    }

    pub(super) async fn confirm(&self) -> Confirmed {
        let (sender, confirmed) = oneshot::channel();
        if self.waiting.send(sender).is_err() {
            return Err(ReadError::Closed);
        }
        confirmed.await.unwrap_or(Err(ReadError::Closed))
    }
}

async fn answer_all(asker: Arc<Asker>, mut queue: mpsc::UnboundedReceiver<oneshot::Sender<Confirmed>>) {
    let rounds = Arc::new(Semaphore::new(READ_ROUNDS));
    loop {
        // First the round, then those who wait by then: the busier it is, the more reads share one.
        let Ok(round) = Arc::clone(&rounds).acquire_owned().await else { return };
        let mut waiting = Vec::new();
        if queue.recv_many(&mut waiting, READS_AT_ONCE).await == 0 {
            return;
        }
        let asker = Arc::clone(&asker);
        tokio::spawn(async move {
            let confirmed = asker.ask().await;
            drop(round);
            for read in waiting {
                // Whoever asked may have given up.
                drop(read.send(confirmed.clone()));
            }
        });
    }
}

/// Asks the quorum, or the leader to ask it.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) group: GroupId,
    pub(super) node: NodeId,
    pub(super) raft: Raft<Types, Machine>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) neighbours: Arc<Neighbours>,
    pub(super) forward: bool,
    pub(super) lease: bool,
    pub(super) visible: watch::Receiver<Offset>,
    pub(super) log: Log,
}

impl Asker {
    /// Until it is known, or for as long as it is worth waiting for a new leader.
    async fn ask(&self) -> Confirmed {
        let since = Instant::now();
        loop {
            let asked = self.ask_once(since).await;
            let again = matches!(asked, Err(ReadError::NoLeader | ReadError::Unconfirmed { .. }));
            if !again {
                return asked;
            }
            if since.elapsed() + RETRY_PAUSE > LEADER_PATIENCE {
                let quorum = self.neighbours.quorum(&members_of(&self.raft));
                return quorum.map_or_else(|silent| Err(unconfirmed(silent.to_string())), |()| asked);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn ask_once(&self, since: Instant) -> Confirmed {
        let leader = leader_by(&self.raft, since + LEADER_PATIENCE).await.ok_or(ReadError::NoLeader)?;
        if leader == self.node {
            return self.lead().await;
        }
        if !self.forward {
            return Err(ReadError::Elsewhere { leader });
        }
        let (group, class, within) = (self.group, Class::Log, CONFIRM_TIMEOUT);
        let request = Request::Confirm { lease: self.lease }.encode(group);
        let request = request.map_err(|error| unconfirmed(error.to_string()))?;
        let answer = self.transport.call(Call { to: leader, class, group, request, within }).await;
        let answer = answer.map_err(|error| unconfirmed(error.to_string()))?;
        let offset = decode_confirmation(answer).map_err(|error| unconfirmed(error.to_string()))??;
        let mut visible = self.visible.clone();
        let reached = tokio::time::timeout(within, visible.wait_for(|visible| *visible >= offset)).await;
        match reached {
            Ok(Ok(visible)) => Ok(*visible),
            Ok(Err(_)) => Err(ReadError::Closed),
            Err(_) => {
                let full = if self.is_full() { ", and its disk is nearly full: free some space" } else { "" };
                Err(unconfirmed(format!(
                    "this replica is behind offset {offset}, which the leader has{full}"
                )))
            }
        }
    }

    fn is_full(&self) -> bool {
        self.log.store().space().is_critical()
    }

    async fn lead(&self) -> Confirmed {
        if self.lease
            && let Ok(read) = self.raft.ensure_linearizable(ReadPolicy::LeaseRead).await
        {
            return Ok(offset(read.log_id().index));
        }
        let asked = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(CONFIRM_TIMEOUT, asked).await {
            Ok(Ok(read)) => Ok(offset(read.log_id().index)),
            Ok(Err(error)) if error.forward_to_leader().is_some() => Err(ReadError::NoLeader),
            Ok(Err(error)) => Err(ReadError::Unconfirmed { reason: error.to_string() }),
            Err(_) => Err(ReadError::Unconfirmed { reason: "no quorum of the replicas answers".to_owned() }),
        }
    }
}

fn unconfirmed(reason: String) -> ReadError {
    ReadError::Unconfirmed { reason }
}
