//! Proofs: the log is what was written, and the view is what the log says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use odgm_log::Offset;
use odgm_proto::odgm::v1::{VerifyRequest, VerifyResponse, VerifyResult};
use odgm_replication::{LookupError, Partition};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::services::{Shared, blocking, lookup};

/// The progress of a verification, and a result for each partition.
pub(crate) type Progress = ReceiverStream<Result<VerifyResponse, Status>>;

/// Responses that wait to be sent.
const RESPONSES: usize = 16;

/// How often progress is told.
const INTERVAL: Duration = Duration::from_millis(200);

/// Checks each record and the chain over them.
pub(super) fn log(shared: &Arc<Shared>, request: &VerifyRequest) -> Result<Progress, Status> {
    run(shared, request, |shared, partition, progress| {
        let verified = shared.manager.log().verify(partition.group(), progress);
        verified
            .map(|verified| (verified.last, verified.chain.to_string()))
            .map_err(|error| error.to_string())
    })
}

/// Replays the log into a fresh view and compares the two.
pub(super) fn view(shared: &Arc<Shared>, request: &VerifyRequest) -> Result<Progress, Status> {
    run(shared, request, |shared, partition, progress| {
        let proven = shared.manager.prove_view(partition, progress);
        proven.map(|proven| (proven.offset, proven.state.to_string())).map_err(|error| error.to_string())
    })
}

/// The last offset that was checked and the hash there, or what is wrong.
type Checked = Result<(Offset, String), String>;

fn run(
    shared: &Arc<Shared>,
    request: &VerifyRequest,
    check: impl Fn(&Shared, &Partition, &mut dyn FnMut(Offset, Offset)) -> Checked + Copy + Send + 'static,
) -> Result<Progress, Status> {
    let partitions = partitions(shared, request)?;
    let (sender, responses) = mpsc::channel(RESPONSES);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        // A few at a time: each keeps a core and the disk busy.
        let Ok(_permit) = shared.heavy().await else { return };
        for partition in partitions {
            if sender.is_closed() {
                return;
            }
            let partition = match partition {
                Ok(partition) => partition,
                Err(out_of_service) => {
                    drop(sender.send(Ok(out_of_service)).await);
                    continue;
                }
            };
            let (shared, sender_here) = (Arc::clone(&shared), sender.clone());
            let checked = blocking(move || {
                let checked = check(&shared, &partition, &mut reporter(&partition, &sender_here));
                Ok(result(&partition, checked))
            });
            // An error says that the client has gone; it is noticed before the next partition.
            drop(sender.send(checked.await).await);
        }
    });
    Ok(ReceiverStream::new(responses))
}

/// What is to be verified: the partition asked for or all. Of all, one that is out of service is wrong, and does not
/// keep the others from being verified.
fn partitions(
    shared: &Shared,
    request: &VerifyRequest,
) -> Result<Vec<Result<Arc<Partition>, VerifyResponse>>, Status> {
    if let Some(id) = request.partition_id {
        return Ok(vec![Ok(shared.partition(&request.cls_id, id)?)]);
    }
    let collection = shared.collection(&request.cls_id)?;
    let partitions = collection.partitions().map(|partition| match partition {
        Ok(partition) => Ok(Ok(partition)),
        Err(LookupError::Failed { partition, reason, .. }) => Ok(Err(VerifyResponse {
            partition_id: partition,
            result: Some(VerifyResult { ok: false, problem: reason, hash: String::new() }),
            ..Default::default()
        })),
        Err(error) => Err(lookup(&error)),
    });
    partitions.collect()
}

/// Tells of progress now and then. It is not waited for: a client that does not read misses some.
fn reporter<'a>(
    partition: &'a Partition,
    sender: &'a mpsc::Sender<Result<VerifyResponse, Status>>,
) -> impl FnMut(Offset, Offset) + 'a {
    let mut told = Instant::now();
    move |checked, last| {
        if told.elapsed() >= INTERVAL {
            told = Instant::now();
            let response = VerifyResponse {
                partition_id: partition.index(),
                checked_offset: checked.get(),
                last_offset: last.get(),
                result: None,
            };
            drop(sender.try_send(Ok(response)));
        }
    }
}

fn result(partition: &Partition, checked: Checked) -> VerifyResponse {
    let (last, result) = match checked {
        Ok((last, hash)) => (last, VerifyResult { ok: true, problem: String::new(), hash }),
        Err(problem) => {
            tracing::error!(
                class = partition.class(),
                partition = partition.index(),
                problem,
                "verification failed"
            );
            (partition.head(), VerifyResult { ok: false, problem, hash: String::new() })
        }
    };
    VerifyResponse {
        partition_id: partition.index(),
        checked_offset: last.get(),
        last_offset: last.get(),
        result: Some(result),
    }
}
