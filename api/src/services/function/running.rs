//! A call that is being made, and the record of how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use odgm_log::body::calls::{Finished, Outcome, Source};
use odgm_log::body::{Cause, Target};
use odgm_log::{Body, Offset, Payload, Timestamp};
use odgm_projections::{Outcome as Applied, RecordSource, SourceError};
use odgm_proto::metadata::REQUEST_ID;
use odgm_replication::{Manager, Partition, ProposeError};
use odgm_triggers::{Call, Failure, Invoker as _, metrics};
use tonic::Status;

use super::ended::{Ended, finished};
use super::joining::Turn;
use crate::room::Seat;
use crate::services::post::{self, Unsent};
use crate::services::{PATIENCE, Shared, blocking};
use crate::status::{self, not_applied};

/// Between two tries to record how a call ended, where the partition is too busy.
const RECORD_PAUSE: Duration = Duration::from_millis(20);

/// A call that is to be made.
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) partition: Arc<Partition>,
    pub(super) call: Call,
    pub(super) cause: Cause,
    pub(super) invocation: String,
    /// What tells the request from others, if it may be asked again.
    pub(super) fingerprint: Option<String>,
    /// The request's, if it may be asked again.
    pub(super) turn: Option<Turn>,
    pub(super) _place: Seat,
}

/// Where the outcome of a call is.
enum Placed {
    /// It was applied here, or the leader said what applying it gave.
    Applied(odgm_projections::Applied),
    /// The leader has it there, or that of another call of the same request.
    At(Offset),
}

impl Running {
    /// Calls the function and records how that ended; tells it to whoever waits for the same request.
    pub(super) async fn run(mut self) -> Result<Ended, Status> {
        let turn = self.turn.take();
        let ended = self.end().await;
        if let Some(turn) = turn {
            turn.end(ended.clone());
        }
        ended
    }

    async fn end(self) -> Result<Ended, Status> {
        let begun = Instant::now();
        let answered = self.shared.calling.functions.invoke(&self.call).await;
        match answered {
            Err(
                failure @ (Failure::NoClass { .. }
                | Failure::NoPartition { .. }
                | Failure::NoFunction { .. }
                | Failure::Disabled { .. }
                | Failure::Standby { .. }
                | Failure::Misconfigured { .. }
                | Failure::Held { .. }),
            ) => Err(not_applied(refused(&failure))),
            answered => {
                let finished = finished(answered, begun.elapsed(), self.fingerprint.clone());
                metrics::invocation_ended(finished.status);
                self.record(finished).await
            }
        }
    }

    async fn record(self, finished: Finished) -> Result<Ended, Status> {
        let Self { shared, partition, call, cause, invocation, fingerprint, .. } = self;
        let Target { object, function, .. } = call.target;
        let outcome = Outcome {
            source: Source::Client,
            invocation: invocation.clone(),
            object,
            function: function.clone(),
            // Answers are bounded so that a record holds them.
            finished: finished.clone(),
        };
        let payload = Payload { cause, body: Body::Outcome(outcome) };
        let placed = propose(&shared.manager, &partition, payload).await.map_err(|error| {
            let status = status::from_proposal(&error);
            let said = finished.status.name();
            let message = format!(
                "function {function:?} was called and ended ({said}), but that was not recorded: {}",
                status.message()
            );
            Status::with_details_and_metadata(
                status.code(),
                message,
                Bytes::copy_from_slice(status.details()),
                status.metadata().clone(),
            )
        })?;
        let fingerprint = fingerprint.unwrap_or_default();
        let applied = match placed {
            Placed::Applied(applied) => applied,
            Placed::At(offset) => return recorded(&partition, offset, &fingerprint).await,
        };
        match applied.outcome {
            // Another call of the same request was recorded first, and is the one that counts.
            Applied::Duplicate { offset, .. } | Applied::RequestIdReused { offset } => {
                recorded(&partition, offset, &fingerprint).await
            }
            Applied::Noted => Ok(Ended { invocation, offset: applied.offset, finished }),
            // No rule of apply says so of an outcome that a client waits for.
            other => Err(not_applied(status::internal(format!(
                "function {function:?} was called and ended, but its outcome is {other:?} at offset {}",
                applied.offset
            )))),
        }
    }
}

/// Makes an outcome a record, though it take several tries: the function has run. Where another node has come to lead
/// meanwhile it goes there, whether or not this node passes on what clients write.
async fn propose(manager: &Manager, partition: &Partition, payload: Payload) -> Result<Placed, ProposeError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let refused = match partition.propose_within(payload.clone(), PATIENCE).await {
            Ok(applied) => return Ok(Placed::Applied(applied)),
            Err(error @ ProposeError::Overloaded { .. }) => error,
            Err(error @ ProposeError::NotLeader { leader: Some(leader) }) if leader != manager.node_id() => {
                match post::send_to_leader(manager, leader, partition, &payload).await {
                    Ok(offset) => return Ok(Placed::At(offset)),
                    Err(Unsent::NotApplied(_)) => error,
                    Err(Unsent::Malformed(reason) | Unsent::Unknown(reason)) => {
                        return Err(ProposeError::Unknown { reason });
                    }
                }
            }
            Err(error) => return Err(error),
        };
        if Instant::now() >= until {
            return Err(refused);
        }
        tokio::time::sleep(RECORD_PAUSE).await;
    }
}

/// Why a function was not called.
fn refused(failure: &Failure) -> Status {
    match failure {
        Failure::Held { until, .. } => {
            let after = until.saturating_duration_since(tokio::time::Instant::now());
            status::unavailable_for(failure.to_string(), after)
        }
        failure => Status::new(failure.code(), failure.to_string()),
    }
}

/// The record of a request, if it is remembered.
pub(in crate::services) fn known(partition: &Partition, id: &str) -> Result<Option<Offset>, Status> {
    let view = partition.view();
    let known = view.request(id).map_err(|error| status::from_view(&error))?;
    let header = view.header();
    let window = Timestamp::from_millis(header.config.dedup_window_ms).get();
    let is_remembered = |time: Timestamp| header.time.get().saturating_sub(time.get()) <= window;
    Ok(known.filter(|known| is_remembered(known.time)).map(|known| known.offset))
}

/// How the call ended of which the record at `offset` tells; it has to be one of the same request.
pub(super) async fn recorded(
    partition: &Arc<Partition>,
    offset: Offset,
    fingerprint: &str,
) -> Result<Ended, Status> {
    // The leader has applied it; this replica may still be about to.
    partition.applied(offset).await.map_err(|error| status::applied(offset, &error))?;
    let read = Arc::clone(partition);
    let record = blocking(move || {
        read.records().get(offset).map_err(|error| match error {
            SourceError::Missing { .. } => status::applied(offset, &"its record is not kept any more"),
            SourceError::Log(_) => status::applied(offset, &error),
        })
    });
    let payload = record.await?.decode().map_err(|error| status::applied(offset, &error))?;
    let ended = match payload.body {
        Body::Outcome(Outcome { invocation, finished, .. }) => Some(Ended { invocation, offset, finished }),
        _ => None,
    };
    ended.filter(|ended| ended.is_of(fingerprint)).ok_or_else(|| {
        not_applied(Status::invalid_argument(format!(
            "{REQUEST_ID} was used at offset {offset} for a different request: expected a new id for a new call"
        )))
    })
}
