//! What came of accepted calls.

use std::sync::Arc;
use std::time::Duration;

use odgm_projections::{Invocation, InvocationState};
use odgm_proto::odgm::v1::{GetResultRequest, GetResultResponse};
use odgm_replication::Partition;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::accept::invocation_id;
use crate::convert::calls::call_outcome;
use crate::services::{Shared, blocking};
use crate::status;

/// The longest wait for the end of a call, in milliseconds.
const MAX_WAIT_MS: u32 = 60_000;

/// What is known of a call; waits for its end as long as the request says.
pub(super) async fn get(
    shared: &Shared,
    metadata: &MetadataMap,
    request: GetResultRequest,
) -> Result<GetResultResponse, Status> {
    let GetResultRequest { cls_id, partition_id, invocation_id: id, wait_ms } = request;
    let id = invocation_id(id)?;
    if wait_ms > MAX_WAIT_MS {
        return Err(Status::invalid_argument(format!("wait_ms {wait_ms}: expected at most {MAX_WAIT_MS}")));
    }
    let until = Instant::now() + Duration::from_millis(wait_ms.into());
    let partition = shared.readable(metadata, &cls_id, partition_id).await?;
    loop {
        // Before it is looked at: what comes meanwhile is waited for no more.
        let next = partition.head().next();
        let found = read(&partition, id.clone()).await?;
        if found.state != InvocationState::Pending {
            return Ok(response(id, found));
        }
        tokio::select! {
            applied = partition.applied(next) => applied.map_err(|error| status::from_read(&error))?,
            () = tokio::time::sleep_until(until) => return Ok(response(id, found)),
            () = shared.stop.cancelled() => {
                return Err(status::unavailable("the node is stopping: ask again, or another node"));
            }
        }
    }
}

async fn read(partition: &Arc<Partition>, id: String) -> Result<Invocation, Status> {
    let partition = Arc::clone(partition);
    blocking(move || {
        let view = partition.view();
        let found = view.invocation(&id).map_err(|error| status::from_view(&error))?;
        let header = view.header();
        // A result past its time is as good as gone, whether or not its row is.
        let found = found.filter(|found| !found.is_past(header.time, &header.config));
        found.ok_or_else(|| {
            Status::not_found(format!(
                "partition {}/{} knows no invocation {id:?}: none was accepted under this id, or its result is not kept any \
                 more",
                partition.class(),
                partition.index()
            ))
        })
    })
    .await
}

fn response(id: String, found: Invocation) -> GetResultResponse {
    let Invocation { accepted, object, function, state, .. } = found;
    let known = GetResultResponse {
        invocation_id: id,
        accepted_offset: accepted.offset.get(),
        fn_id: function,
        object_id: object,
        ..Default::default()
    };
    match state {
        InvocationState::Pending => GetResultResponse { state: "pending".into(), ..known },
        InvocationState::Ended { at, finished } => GetResultResponse {
            state: "ended".into(),
            outcome: Some(call_outcome(&known.invocation_id, &known.fn_id, &finished, true)),
            ended_offset: Some(at.offset.get()),
            ..known
        },
        InvocationState::Dead { at, reason, .. } => {
            GetResultResponse { state: "dead".into(), reason, ended_offset: Some(at.offset.get()), ..known }
        }
    }
}
