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

/// Between two looks at a call that is waited for: a part of the time that it has been waited for, within these bounds. Any
/// record of the partition may be the one that ends it, and there may be many.
const LOOKS: (u32, Duration, Duration) = (8, Duration::from_millis(2), Duration::from_millis(500));

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
    let since = Instant::now();
    let until = since + Duration::from_millis(wait_ms.into());
    let partition = shared.readable(metadata, &cls_id, partition_id).await?;
    let _place = if wait_ms > 0 { Some(shared.calling.wait_for_result()?) } else { None };
    loop {
        // Before it is looked at: what comes meanwhile is waited for no more.
        let next = partition.head().next();
        let looked = Instant::now();
        let found = read(&partition, id.clone()).await?;
        if found.state != InvocationState::Pending || looked >= until {
            return Ok(response(id, found));
        }
        let news = async {
            let applied = partition.applied(next).await;
            tokio::time::sleep_until(looked + pause(looked - since)).await;
            applied
        };
        tokio::select! {
            applied = news => applied.map_err(|error| status::from_read(&error))?,
            // To look once more.
            () = tokio::time::sleep_until(until) => {}
            () = shared.stop.cancelled() => {
                return Err(status::unavailable("the node is stopping: ask again, or another node"));
            }
        }
    }
}

/// How long whoever has waited so long does not look.
fn pause(waited: Duration) -> Duration {
    let (part, least, most) = LOOKS;
    (waited / part).clamp(least, most)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_takes_few_looks_however_many_records_come() {
        let (mut waited, mut looks) = (Duration::ZERO, 0);
        while waited < Duration::from_millis(MAX_WAIT_MS.into()) {
            waited += pause(waited);
            looks += 1;
        }
        assert!(looks < 200, "{looks}");
        assert_eq!(pause(Duration::from_millis(80)), Duration::from_millis(10));
    }
}
