//! A function that is away while a million calls gather for it, and then comes back.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::footprint::memory_mib;
use super::super::load::Shape;
use super::super::options::Options;
use super::super::servers::{Server, Target, free_address};
use super::super::statistics::Spread;
use super::super::targets::write_stream;
use super::super::workload::{KEY_SPACE, Workload};
use super::function::{Function, NOOP};
use super::node::Node;
use super::spread;
use crate::Result;

/// How long all calls may take to be settled once the function is there.
const PATIENCE: Duration = Duration::from_secs(600);

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(in super::super) struct Waiting {
    /// Calls that waited in the end.
    calls: u64,
    /// Writes to objects without triggers.
    plain_per_second: Spread,
    /// Writes to objects with a trigger, while the function is away.
    triggering_per_second: Spread,
    /// The one of the other, of passes that follow each other.
    pub(in super::super) of_plain: Spread,
    /// Memory before the first of these writes, in MiB.
    resident_before_mib: f64,
    /// When all calls wait.
    resident_waiting_mib: f64,
    /// The most until then.
    pub(in super::super) peak_waiting_mib: f64,
    /// Calls settled a second once the function is there, with the time in which the node finds that out.
    settled_per_second: f64,
    /// The most until all are settled.
    pub(in super::super) peak_settled_mib: f64,
}

impl Waiting {
    /// Writes in passes, each object of one kind once, until so many calls wait; then starts the function.
    pub(in super::super) async fn measure(options: &Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("odgm-bench-waiting-").tempdir_in(&options.dir)?;
        let address = free_address()?;
        let server = Server::start_to_call(address, Target::Odgm, options).await?;
        let node = Node::connect(server.address()).await?;
        let (plain, triggered) = (Workload::of("plain", KEY_SPACE), Workload::of("triggered", KEY_SPACE));
        node.fill(&plain, None).await?;
        node.fill(&triggered, Some(NOOP)).await?;
        let resident_before_mib = memory_mib(server.id(), "VmRSS")?;
        let passes = options.waiting.div_ceil(KEY_SPACE);
        let (mut rates, mut plain_rates) = (Vec::with_capacity(passes), Vec::with_capacity(passes));
        for pass in 1..=passes {
            plain_rates.push(write(&server, &plain).await?);
            rates.push(write(&server, &triggered).await?);
            if pass % 10 == 0 {
                eprintln!("{} calls wait", pass * KEY_SPACE);
            }
        }
        let calls = node.unsettled().await?;
        if calls != (passes * KEY_SPACE) as u64 {
            return Err(
                format!("{} writes have a trigger, but {calls} calls wait", passes * KEY_SPACE).into()
            );
        }
        let resident_waiting_mib = memory_mib(server.id(), "VmRSS")?;
        let peak_waiting_mib = memory_mib(server.id(), "VmHWM")?;
        let begun = Instant::now();
        let _function = Function::start_at(address, dir.path()).await?;
        node.settled_within(PATIENCE).await?;
        let ratios = rates.iter().zip(&plain_rates).map(|(rate, plain)| rate / plain).collect();
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let settled_per_second = calls as f64 / begun.elapsed().as_secs_f64();
        Ok(Self {
            calls,
            plain_per_second: spread(plain_rates)?,
            triggering_per_second: spread(rates)?,
            of_plain: spread(ratios)?,
            resident_before_mib,
            resident_waiting_mib,
            peak_waiting_mib,
            settled_per_second,
            peak_settled_mib: memory_mib(server.id(), "VmHWM")?,
        })
    }
}

/// Writes each object once; how many a second.
async fn write(server: &Server, workload: &Workload) -> Result<f64> {
    let begun = Instant::now();
    write_stream::write_all(server.address(), server.partitions, workload, Shape::MANY).await?;
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    Ok(workload.ids().len() as f64 / begun.elapsed().as_secs_f64())
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rates = [
            ("writes a second without a trigger", self.plain_per_second),
            ("with one whose function is away", self.triggering_per_second),
        ];
        for (what, Spread { median, min, max }) in rates {
            writeln!(f, "{what}: {median:.0} [{min:.0}-{max:.0}]")?;
        }
        let Spread { median, min, max } = self.of_plain;
        writeln!(
            f,
            "the one of the other, of passes that follow each other: {median:.2} [{min:.2}-{max:.2}]"
        )?;
        let Self { calls, resident_before_mib, resident_waiting_mib, peak_waiting_mib, .. } = self;
        writeln!(
            f,
            "resident memory: {resident_before_mib:.0} MiB before, {resident_waiting_mib:.0} MiB with {calls} calls \
             waiting, at most {peak_waiting_mib:.0} MiB"
        )?;
        writeln!(
            f,
            "function there: {:.0} calls settled a second, none given up; at most {:.0} MiB",
            self.settled_per_second, self.peak_settled_mib
        )
    }
}
