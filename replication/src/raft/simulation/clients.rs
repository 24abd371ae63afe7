//! The clients of a simulation: they write and read wherever they like, and keep to what they were told.

use std::sync::Arc;
use std::time::Duration;

use odgm_log::body::{SetValues, Value};
use odgm_log::{Body, Cause, NodeId, Offset, Payload};
use odgm_projections::Outcome;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Plant;
use super::interposed::Random;
use super::oracle::{Oracle, WriteId};
use super::trace::Trace;
use super::world::Process;
use crate::proposal::{Answer, Gate, Proposal, Reply};
use crate::reading::Consistency;
use crate::replicator::Replicator as _;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where clients find the nodes that run. Clones are handles of the same.
pub(super) type Running = Arc<Mutex<Vec<(NodeId, Process)>>>;

/// One client.
pub(super) struct Client {
    pub(super) number: u64,
    pub(super) random: Random,
    pub(super) running: Running,
    pub(super) oracle: Oracle,
    pub(super) trace: Trace,
    pub(super) gate: Arc<Gate>,
    pub(super) plant: Option<Plant>,
}

impl Client {
    /// Works until it is aborted.
    pub(super) async fn run(mut self) {
        for write in 1.. {
            let pause = self.random.millis(1..120);
            tokio::time::sleep(pause).await;
            let Some((node, process)) = self.anybody() else { continue };
            if self.random.below(10) < 7 {
                let with_id = self.random.one_in(2);
                self.write(node, &process, self.number * 1_000_000 + write, with_id).await;
            } else {
                let lease = self.random.one_in(3);
                let consistency = if lease { Consistency::Lease } else { Consistency::Linearizable };
                self.read(node, &process, consistency).await;
            }
        }
    }

    fn anybody(&mut self) -> Option<(NodeId, Process)> {
        let running = self.running.lock();
        let at = self.random.below(running.len().max(1) as u64);
        running.get(usize::try_from(at).unwrap_or(0)).cloned()
    }

    /// Answers whether it was acknowledged.
    pub(super) async fn write(
        &self,
        node: NodeId,
        process: &Process,
        write: WriteId,
        with_id: bool,
    ) -> Option<Offset> {
        self.trace.note("write", format_args!("{write} on {node}"));
        let request_id = with_id.then(|| format!("w{write}"));
        let body = Body::SetValues(SetValues {
            object: format!("c{}", self.number),
            puts: vec![(format!("k{}", write % 7), Value::bytes(write.to_string()))],
            deletes: Vec::new(),
            expected_version: None,
        });
        let payload = Payload { cause: Cause { request_id, ..Cause::default() }, body };
        let (kind, encoded) = payload.encode().expect("a record");
        let admission = self.gate.admit(encoded.len(), true).ok()?;
        let (sender, answer) = oneshot::channel();
        let reply = Reply::Channel(sender);
        process.group.propose(Proposal {
            payload,
            kind,
            encoded,
            needs_room: true,
            until: None,
            term: None,
            reply,
            admission,
        });
        let answer: Option<Answer> = tokio::select! {
            biased;
            () = process.crashed.cancelled() => None,
            answer = answer => Some(answer.expect("every proposal is answered")),
            () = tokio::time::sleep(PATIENCE) => None,
        };
        let applied = match answer {
            Some(Ok(applied)) => applied,
            Some(Err(error)) => {
                self.trace.note("refused", format_args!("{write}: {error}"));
                if error.not_applied() {
                    self.oracle.refuse(write);
                }
                return None;
            }
            None => {
                self.trace.note("unknown", write);
                return None;
            }
        };
        let at = match applied.outcome {
            Outcome::Changed { .. } => applied.offset,
            Outcome::Duplicate { offset, .. } => offset,
            other => {
                self.oracle.violated(format!("write {write} was answered with {other:?}"));
                return None;
            }
        };
        self.trace.note("written", format_args!("{write} at {at}"));
        self.oracle.acknowledge(write, at);
        Some(at)
    }

    async fn read(&self, node: NodeId, process: &Process, consistency: Consistency) {
        let newest = self.oracle.newest_acknowledged();
        let by_hearsay = self.plant == Some(Plant::UnconfirmedReads) && process.leads().is_some();
        if !by_hearsay {
            let confirmed = process.group.confirm(consistency).expect("replicas have to be asked");
            let confirmed = tokio::select! {
                biased;
                () = process.crashed.cancelled() => return,
                confirmed = confirmed => confirmed,
                () = tokio::time::sleep(PATIENCE) => return,
            };
            if confirmed.is_err() {
                self.trace.note("unread", node);
                return;
            }
        }
        let applied = process.group.view().header().applied;
        self.trace.note("read", format_args!("{node} at {applied}"));
        if applied < newest {
            self.oracle.violated(format!(
                "reads: node {node} confirmed a {consistency:?} read at {applied}, and {newest} was acknowledged before it"
            ));
        }
    }
}
