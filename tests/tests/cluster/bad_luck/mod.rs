//! What operators, clocks, disks and strangers do to a cluster: it keeps what was acknowledged, and says what to do.

mod absence;
mod clock;
mod disk;
mod founding;
mod identity;
mod quorum;
mod strangers;

use std::time::{Duration, Instant};

use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Objects};
use tonic::Status;

use crate::CLASS;

/// The deadline of requests that are expected to be refused. The refusal comes before it, with a reason.
const DEADLINE: Duration = Duration::from_secs(4);

/// How long something that is sure to happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The objects at a node, with that deadline.
fn things(cluster: &Cluster, node: u64) -> Result<Objects> {
    Ok(cluster.objects(node, CLASS, 0)?.within(DEADLINE))
}

/// The nodes but one.
fn others(cluster: &Cluster, node: u64) -> Vec<u64> {
    cluster.nodes().into_iter().filter(|other| *other != node).collect()
}

/// What a node says of a request that it has to refuse before its deadline.
async fn refusal<T>(ask: impl Future<Output = std::result::Result<T, Status>>) -> Result<Status> {
    let begun = Instant::now();
    match ask.await {
        Ok(_) => Err("it was answered".into()),
        Err(status) if begun.elapsed() > DEADLINE => Err(format!("it was refused too late: {status}").into()),
        Err(status) => Ok(status),
    }
}

/// Tries until it is answered.
async fn until_answered<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
