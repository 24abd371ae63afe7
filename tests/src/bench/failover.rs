//! How long nothing is written after the process that leads was killed.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::install;
use super::options::Options;
use super::statistics::Spread;
use super::targets::CLASS;
use crate::Result;
use crate::harness::{Cluster, Layout, Retrying, Wire};

const KILLS: usize = 10;

/// How long a write is tried, and each time.
const PATIENCE: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(2);

/// What was found, over each wire.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failover {
    pub(super) zenoh: Spread,
    pub(super) tcp: Spread,
}

impl Failover {
    /// Kills leaders, with the default timing.
    pub(super) async fn measure(options: &Options) -> Result<Self> {
        Ok(Self { zenoh: over(Wire::Zenoh, options).await?, tcp: over(Wire::Tcp, options).await? })
    }
}

/// Seconds from the kill of a leader to the next acknowledged write.
async fn over(wire: Wire, options: &Options) -> Result<Spread> {
    let cluster = start(wire, 1, options).await?;
    let mut seconds = Vec::new();
    for kill in 0..KILLS {
        // All have all: else those that are behind could not lead.
        cluster.converged(CLASS).await?;
        let leader = cluster.leader(CLASS, 0).await?;
        let others = cluster.nodes().into_iter().filter(|node| *node != leader);
        let things = others.map(|node| Ok(cluster.objects(node, CLASS, 0)?.within(DEADLINE)));
        let mut client = Retrying::new(things.collect::<Result<_>>()?, PATIENCE);
        write(&mut client, &format!("before-{kill}")).await?;
        let begun = Instant::now();
        cluster.kill(&[leader]).await?;
        write(&mut client, &format!("after-{kill}")).await?;
        let took = begun.elapsed();
        eprintln!("{wire}: node {leader} was killed, written again after {took:?}");
        seconds.push(took.as_secs_f64());
        cluster.start(&[leader]).await?;
    }
    Spread::of(seconds).ok_or_else(|| "at least one kill is needed".into())
}

async fn write(client: &mut Retrying, id: &str) -> Result<()> {
    let write = |things: crate::harness::Objects| {
        let id = id.to_owned();
        async move { things.set_value(&id, "k", "v").await }
    };
    client.write(id, write).await?;
    Ok(())
}

/// Three nodes on the disk that is measured.
pub(super) async fn start(wire: Wire, partitions: u32, options: &Options) -> Result<Cluster> {
    let program = install::odgm(options.odgm.as_deref())?;
    let layout = Layout::of(3).wire(wire).collection(CLASS, partitions).quiet();
    layout.program(Some(program)).within(options.dir.clone()).with("ODGM_LOG", "warn").start().await
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (wire, Spread { median, min, max }) in [(Wire::Zenoh, self.zenoh), (Wire::Tcp, self.tcp)] {
            writeln!(f, "{wire}: {median:.2} s [{min:.2}-{max:.2}], {KILLS} kills")?;
        }
        Ok(())
    }
}
