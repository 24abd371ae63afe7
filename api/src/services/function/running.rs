//! A call that is being made, and the record of how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use odgm_log::body::calls::{Finished, Outcome, Source};
use odgm_log::body::{Cause, Target};
use odgm_log::{Body, Offset, Payload, Timestamp};
use odgm_projections::{Outcome as Applied, RecordSource, SourceError};
use odgm_proto::metadata::REQUEST_ID;
use odgm_replication::{Partition, ProposeError};
use odgm_triggers::{Call, Failure, Invoker as _, metrics};
use tonic::Status;

use super::ended::{Ended, finished, recordable};
use super::room::Place;
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
    pub(super) _place: Place,
}

impl Running {
    /// Calls the function and records how that ended.
    pub(super) async fn run(self) -> Result<Ended, Status> {
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
        let Self { partition, call, cause, invocation, fingerprint, .. } = self;
        let Target { object, function, .. } = call.target;
        let outcome = Outcome {
            source: Source::Client,
            invocation: invocation.clone(),
            object,
            function: function.clone(),
            finished: recordable(&finished),
        };
        let payload = Payload { cause, body: Body::Outcome(outcome) };
        let applied = propose(&partition, payload).await.map_err(|error| {
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
        match applied.outcome {
            // Another call of the same request was recorded first, and is the one that counts.
            Applied::Duplicate { offset, .. } | Applied::RequestIdReused { offset } => {
                recorded(&partition, offset, &fingerprint.unwrap_or_default()).await
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

/// Makes an outcome a record, though it take several tries: the function has run.
async fn propose(partition: &Partition, payload: Payload) -> odgm_replication::Answer {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = partition.propose_within(payload.clone(), PATIENCE).await;
        match answer {
            Err(ProposeError::Overloaded { .. }) if Instant::now() < until => {
                tokio::time::sleep(RECORD_PAUSE).await;
            }
            answer => return answer,
        }
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
pub(super) fn known(partition: &Partition, id: &str) -> Result<Option<Offset>, Status> {
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
