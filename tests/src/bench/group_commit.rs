//! How many syncs of the disk a write costs where it goes to one of many groups.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use super::failover::start;
use super::options::Options;
use super::targets::CLASS;
use crate::Result;
use crate::harness::{Cluster, Wire};
use crate::table::{empty, right_align};

/// Groups whose logs share the disk of each node.
const PARTITIONS: u32 = 64;

/// Writes in flight, each to a group of its own as far as there are enough.
const IN_FLIGHT: [u32; 5] = [1, 4, 16, 64, 256];

/// What was found for each number of writes in flight.
#[derive(Clone, Debug, Serialize)]
pub(super) struct GroupCommit(Vec<Shared>);

#[derive(Clone, Copy, Debug, Serialize)]
struct Shared {
    in_flight: u32,
    writes_per_second: f64,
    /// Of all three nodes together.
    syncs_per_write: f64,
}

impl GroupCommit {
    /// Starts three nodes with 64 groups, and writes to all of them more and more at once.
    pub(super) async fn measure(options: &Options) -> Result<Self> {
        let wire = if options.wire.as_deref() == Some("tcp") { Wire::Tcp } else { Wire::Zenoh };
        let cluster = start(wire, PARTITIONS, options).await?;
        for partition in 0..PARTITIONS {
            cluster.leader(CLASS, partition).await?;
        }
        let time = Duration::try_from_secs_f64(options.seconds)?;
        let mut found = Vec::new();
        for in_flight in IN_FLIGHT {
            write(&cluster, in_flight, Duration::try_from_secs_f64(options.warm_up)?).await?;
            let (before, since) = (syncs(&cluster).await?, Instant::now());
            let writes = write(&cluster, in_flight, time).await?;
            let (seconds, syncs) = (since.elapsed().as_secs_f64(), syncs(&cluster).await? - before);
            let shared =
                Shared { in_flight, writes_per_second: writes / seconds, syncs_per_write: syncs / writes };
            found.push(shared);
        }
        cluster.check()?;
        Ok(Self(found))
    }

    /// Syncs of a write among many, of those of a write alone.
    pub(super) fn ratio(&self) -> Option<f64> {
        let (alone, among_many) = (self.0.first()?, self.0.last()?);
        Some(among_many.syncs_per_write / alone.syncs_per_write)
    }
}

/// Has so many writers write one after the other for a time; answers how many writes were acknowledged.
async fn write(cluster: &Cluster, writers: u32, time: Duration) -> Result<f64> {
    let mut tasks = JoinSet::new();
    let nodes = cluster.nodes();
    for (writer, node) in (0..writers).zip(nodes.iter().cycle()) {
        let things = cluster.objects(*node, CLASS, writer % PARTITIONS)?;
        tasks.spawn(async move {
            let (end, mut writes) = (Instant::now() + time, 0_u32);
            while Instant::now() < end {
                let value = "v".repeat(super::workload::VALUE_BYTES);
                things.set_value(&format!("thing-{writer}-{writes}"), "k", &value).await?;
                writes += 1;
            }
            Ok::<_, tonic::Status>(writes)
        });
    }
    let mut writes = 0.0;
    while let Some(ended) = tasks.join_next().await {
        writes += f64::from(ended??);
    }
    Ok(writes)
}

async fn syncs(cluster: &Cluster) -> Result<f64> {
    let mut syncs = 0.0;
    for node in cluster.nodes() {
        syncs += cluster.metrics(node).await?.get("log_fsyncs_total").ok_or("nodes tell their syncs")?;
    }
    Ok(syncs)
}

impl fmt::Display for GroupCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{PARTITIONS} groups on three nodes; syncs are those of all three")?;
        let mut grid = empty(&["writes in flight", "writes/s", "syncs per write"]);
        for Shared { in_flight, writes_per_second, syncs_per_write } in &self.0 {
            grid.add_row([
                in_flight.to_string(),
                format!("{writes_per_second:.0}"),
                format!("{syncs_per_write:.2}"),
            ]);
        }
        right_align(&mut grid);
        write!(f, "{grid}")
    }
}
