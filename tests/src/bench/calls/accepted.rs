//! Work that is accepted first and done later: it counts when all of it is settled, and is in the log.

use std::time::{Duration, Instant};

use super::super::load::{Samples, Timing};
use super::Visit;
use super::node::Node;
use crate::Result;

/// Records of a trigger or an accepted call: that which asks for it, and its outcome.
const RECORDS_OF_EACH: u64 = 2;

/// Runs a load for its time, and waits until all that it has asked for is settled. The rate is that of the whole, from the
/// first request until nothing is left to do; latencies are those until a request was accepted.
pub(super) async fn until_settled<F>(node: &Node, timing: Timing, load: impl Fn(Timing) -> F) -> Result<Visit>
where
    F: Future<Output = Result<Samples>>,
{
    load(Timing { warm_up: Duration::ZERO, measured: timing.warm_up }).await?;
    node.settled().await?;
    let (before, begun) = (node.records().await?, Instant::now());
    let samples = load(Timing { warm_up: Duration::ZERO, measured: timing.measured }).await?;
    let waiting = node.unsettled().await?;
    node.settled().await?;
    let took = begun.elapsed();
    require_records(node, before, samples.answered * RECORDS_OF_EACH).await?;
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let per_second = samples.answered as f64 / took.as_secs_f64();
    Ok(Visit { per_second, samples, waiting: Some(waiting) })
}

/// An error unless the log has grown by so many records.
pub(super) async fn require_records(node: &Node, before: u64, expected: u64) -> Result<()> {
    let found = node.records().await? - before;
    if found < expected {
        return Err(format!(
            "{expected} records were expected, with the outcomes, but only {found} are durable"
        )
        .into());
    }
    Ok(())
}
