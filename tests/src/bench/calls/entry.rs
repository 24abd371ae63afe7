//! How soon after the commit of a write its trigger enters the function.
//!
//! All times are of one clock. The commit lies before the acknowledgement arrives, by the way of that from the node, which is
//! less than a round trip of a call that does nothing. So the time since the acknowledgement is the least that it can have
//! been, and with such a round trip the most.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use odgm_proto::odgm::v1::writes_client::WritesClient;
use odgm_proto::odgm::v1::{WriteRequest, write_request, write_response};
use odgm_proto::oprc::CapabilitiesRequest;
use odgm_proto::oprc::data_service_client::DataServiceClient;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::load::{Samples, Timing};
use super::super::statistics::{Latencies, Spread};
use super::super::targets::{channel, data_service};
use super::super::workload::{Random, Workload};
use super::function::now;
use super::spread;
use super::stage::Stage;
use crate::Result;

/// Writes a second, evenly, whatever becomes of those before.
const PER_SECOND: u32 = 2_000;

/// Between calls that do nothing, beside the writes.
const BETWEEN_ROUND_TRIPS: Duration = Duration::from_millis(5);

/// Requests that may wait for the stream. It is not meant to fill.
const WAITING: usize = 4_096;

/// What was found.
#[derive(Clone, Copy, Debug, Serialize)]
pub(in super::super) struct Entry {
    /// Writes that were sent, which is what was meant to be unless the machine was too slow.
    per_second: Spread,
    /// From the acknowledgement to the entry; 0 where the entry came first.
    pub(in super::super) since_acknowledged_us: Latencies,
    /// The same with a round trip of a call that does nothing, the last one before the acknowledgement.
    pub(in super::super) with_round_trip_us: Latencies,
    /// From the sending to the entry.
    since_sent_us: Latencies,
    /// From the sending to the acknowledgement.
    write_us: Latencies,
    /// The share of triggers that entered the function before the acknowledgement arrived.
    entered_first: f64,
}

/// The times of one write, in nanoseconds.
struct Times {
    sent: u64,
    acknowledged: u64,
    entered: u64,
    /// What a call that does nothing took at that time.
    round_trip: u64,
}

impl Times {
    fn since_acknowledged(&self) -> u64 {
        self.entered.saturating_sub(self.acknowledged)
    }
}

impl Entry {
    /// Its name among the loads.
    pub(super) const NAME: &str = "Entry";

    /// Writes at an even pace, in each round.
    pub(super) async fn measure(stage: &Stage, rounds: usize, timing: Timing) -> Result<Self> {
        let (mut all, mut rates) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            run(stage, timing.warm_up).await?;
            let begun = Instant::now();
            let times = run(stage, timing.measured).await?;
            let last = times.iter().map(|times| times.sent).max().unwrap_or_default();
            let first = times.iter().map(|times| times.sent).min().unwrap_or_default();
            let rate = rate(times.len(), last - first);
            eprintln!(
                "{}, round {round}: {rate:.0} triggers/s, all settled after {:?}",
                Self::NAME,
                begun.elapsed()
            );
            rates.push(rate);
            all.extend(times);
        }
        let latencies = |nanos: fn(&Times) -> u64| {
            let mut samples = Samples::new(timing.measured);
            all.iter().for_each(|times| samples.push(Duration::from_nanos(nanos(times))));
            Latencies::of([&samples])
        };
        let first = all.iter().filter(|times| times.entered < times.acknowledged).count();
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let entered_first = first as f64 / all.len() as f64;
        Ok(Self {
            per_second: spread(rates)?,
            since_acknowledged_us: latencies(Times::since_acknowledged)?,
            with_round_trip_us: latencies(|times| times.since_acknowledged() + times.round_trip)?,
            since_sent_us: latencies(|times| times.entered - times.sent)?,
            write_us: latencies(|times| times.acknowledged - times.sent)?,
            entered_first,
        })
    }
}

/// So many events in so many nanoseconds.
#[allow(clippy::cast_precision_loss)] // far below 2^52
fn rate(events: usize, nanos: u64) -> f64 {
    // The last one has no time after it.
    events.saturating_sub(1) as f64 / (nanos as f64 / 1e9)
}

/// Writes for some time, waits until all triggers are settled, and puts the times together.
async fn run(stage: &Stage, time: Duration) -> Result<Vec<Times>> {
    let mut round_trips = Vec::new();
    let (sent, acknowledged) = tokio::select! {
        written = write(stage, time) => written?,
        failed = make_round_trips(stage.node.address, &mut round_trips) => return Err(failed),
    };
    stage.node.settled().await?;
    let entries = stage.function.entries().await?;
    if acknowledged.len() != sent.len() {
        return Err(format!("{} writes were sent, {} acknowledged", sent.len(), acknowledged.len()).into());
    }
    let times = sent.into_iter().zip(acknowledged).map(|(sent, (offset, acknowledged))| {
        let entered = entries.get(&offset).copied();
        let entered =
            entered.ok_or_else(|| format!("the trigger of record {offset} never entered the function"))?;
        let before = round_trips.partition_point(|(ended, _)| *ended <= acknowledged).saturating_sub(1);
        let (_, round_trip) = *round_trips.get(before).ok_or("not even one call was answered")?;
        Ok(Times { sent, acknowledged, entered, round_trip })
    });
    times.collect()
}

/// Writes for some time: when each write was sent, and the offset and the time of each acknowledgement.
async fn write(stage: &Stage, time: Duration) -> Result<(Vec<u64>, Vec<(u64, u64)>)> {
    let (requests, outgoing) = mpsc::channel(WAITING);
    let mut client = WritesClient::new(channel(stage.node.address).await?);
    let mut responses = client.write(ReceiverStream::new(outgoing)).await?.into_inner();
    let workload = Arc::clone(&stage.noted);
    let pacing = tokio::task::spawn_blocking(move || pace(&requests, &workload, time));
    let mut acknowledged = Vec::new();
    // The stream ends when the last write is acknowledged.
    while let Some(response) = responses.message().await? {
        match response.result {
            Some(write_response::Result::Written(written)) => acknowledged.push((written.offset, now())),
            result => return Err(format!("a write was expected to be `written`: {result:?}").into()),
        }
    }
    Ok((pacing.await??, acknowledged))
}

/// Makes calls that do nothing, evenly, and keeps when each was answered and how long it took. Ends only by an error.
async fn make_round_trips(node: SocketAddr, round_trips: &mut Vec<(u64, u64)>) -> crate::Error {
    let failed = async {
        let mut client = DataServiceClient::new(channel(node).await?);
        let mut ticks = tokio::time::interval(BETWEEN_ROUND_TRIPS);
        loop {
            ticks.tick().await;
            let sent = now();
            client.capabilities(CapabilitiesRequest {}).await?;
            let answered = now();
            round_trips.push((answered, answered - sent));
        }
    };
    let failed: Result<Infallible> = failed.await;
    match failed {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Sends writes at an even pace, on a thread of its own: the runtime's timers tick in milliseconds. Answers when each was
/// sent.
fn pace(requests: &mpsc::Sender<WriteRequest>, workload: &Workload, time: Duration) -> Result<Vec<u64>> {
    let interval = Duration::from_secs(1) / PER_SECOND;
    let mut random = Random::new(1);
    let (begin, mut sent) = (Instant::now(), Vec::new());
    let due = (0..).map(|number| interval * number).take_while(|due| *due < time);
    for (due, sequence) in due.zip(1..) {
        let id = workload.any(&mut random);
        let write = data_service::write(id, &workload.ids()[id], workload.value(&mut random), 1);
        let operation = Some(write_request::Operation::SetValue(write));
        let request = WriteRequest { sequence, operation, request_id: None };
        std::thread::sleep((begin + due).saturating_duration_since(Instant::now()));
        sent.push(now());
        requests.blocking_send(request).map_err(|_| "the node closed the write stream")?;
    }
    Ok(sent)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_second, entered_first, .. } = self;
        let Spread { median, min, max } = per_second;
        writeln!(f, "{}: {median:.0} [{min:.0}-{max:.0}] triggers/s, evenly", Self::NAME)?;
        let times = [
            ("from the write's acknowledgement to the entry", &self.since_acknowledged_us),
            ("the same with a round trip", &self.with_round_trip_us),
            ("from the write's sending to the entry", &self.since_sent_us),
            ("from the write's sending to its acknowledgement", &self.write_us),
        ];
        for (what, Latencies { p50, p99, p99_9 }) in times {
            writeln!(f, "{what}: p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p99_9:.0} us")?;
        }
        writeln!(f, "entered before the acknowledgement arrived: {:.0} %", 100.0 * entered_first)
    }
}
