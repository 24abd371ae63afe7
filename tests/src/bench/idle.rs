//! What groups cost that have nothing to do.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::failover::start;
use super::footprint::memory_mib;
use super::options::Options;
use super::targets::CLASS;
use crate::Result;
use crate::harness::{Cluster, Wire};

/// The catalogue is a group, too.
const PARTITIONS: u32 = 63;

/// How long the nodes have to come to rest after their start.
const SETTLING: Duration = Duration::from_secs(15);

/// Ticks of the clock by which Linux counts processor time.
const TICKS_PER_SECOND: f64 = 100.0;

/// What was found of each node.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Idle {
    groups: u32,
    seconds: f64,
    wire: Wire,
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Node {
    /// Partitions that it leads.
    leads: usize,
    /// Of one core.
    percent: f64,
    resident_mib: f64,
    /// By how much that has grown.
    growth_mib: f64,
    messages_per_second: f64,
    frames_per_second: f64,
}

/// What is counted up while a node runs.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Instant,
    ticks: f64,
    resident_mib: f64,
    messages: f64,
    frames: f64,
}

impl Idle {
    /// Starts three nodes with 64 groups, and lets them be.
    pub(super) async fn measure(options: &Options) -> Result<Self> {
        let wire = if options.wire.as_deref() == Some("tcp") { Wire::Tcp } else { Wire::Zenoh };
        let cluster = start(wire, PARTITIONS, options).await?;
        let mut leads: BTreeMap<u64, usize> = BTreeMap::new();
        for partition in 0..PARTITIONS {
            *leads.entry(cluster.leader(CLASS, partition).await?).or_default() += 1;
        }
        tokio::time::sleep(SETTLING).await;
        let before = count_all(&cluster).await?;
        tokio::time::sleep(Duration::try_from_secs_f64(options.idle_seconds)?).await;
        let after = count_all(&cluster).await?;
        cluster.check()?;
        let nodes = before.iter().zip(&after).map(|((node, before), (_, after))| {
            let seconds = (after.at - before.at).as_secs_f64();
            Node {
                leads: leads.get(node).copied().unwrap_or_default(),
                percent: 100.0 * (after.ticks - before.ticks) / TICKS_PER_SECOND / seconds,
                resident_mib: after.resident_mib,
                growth_mib: after.resident_mib - before.resident_mib,
                messages_per_second: (after.messages - before.messages) / seconds,
                frames_per_second: (after.frames - before.frames) / seconds,
            }
        });
        Ok(Self { groups: PARTITIONS + 1, seconds: options.idle_seconds, wire, nodes: nodes.collect() })
    }

    /// What the busiest node takes of one core.
    pub(super) fn percent(&self) -> Option<f64> {
        self.nodes.iter().map(|node| node.percent).max_by(f64::total_cmp)
    }

    /// By how much the node grew that grew most.
    pub(super) fn growth_mib(&self) -> Option<f64> {
        self.nodes.iter().map(|node| node.growth_mib).max_by(f64::total_cmp)
    }
}

async fn count_all(cluster: &Cluster) -> Result<BTreeMap<u64, Counted>> {
    let mut counted = BTreeMap::new();
    for node in cluster.nodes() {
        let process = cluster.process(node)?.ok_or("every node runs")?;
        let metrics = cluster.metrics(node).await?;
        let metric = |name: &str| metrics.get(name).copied().unwrap_or_default();
        counted.insert(
            node,
            Counted {
                at: Instant::now(),
                ticks: ticks(process)?,
                resident_mib: memory_mib(process, "VmRSS")?,
                messages: metric("peer_messages_sent_total"),
                frames: metric("peer_frames_sent_total"),
            },
        );
    }
    Ok(counted)
}

/// Processor time of a process, in its own code and in the kernel.
fn ticks(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, which may hold anything, is in parentheses; the times are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').ok_or("the system does not tell processor times")?;
    let times = fields.split_whitespace().skip(11).take(2);
    Ok(times.filter_map(|ticks| ticks.parse::<f64>().ok()).sum())
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { groups, seconds, wire, .. } = self;
        writeln!(f, "{groups} groups over {wire}, {seconds} s")?;
        for node in &self.nodes {
            let Node { leads, percent, resident_mib, growth_mib, messages_per_second, frames_per_second } =
                node;
            writeln!(
                f,
                "leads {leads}: {percent:.2} % of a core; {resident_mib:.1} MiB resident, {growth_mib:+.2}; sends \
                 {messages_per_second:.0} messages in {frames_per_second:.0} frames a second"
            )?;
        }
        Ok(())
    }
}
