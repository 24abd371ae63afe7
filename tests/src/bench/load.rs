//! The closed loop: each of N connections has M requests in flight, and sends the next when one is answered.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use serde::Serialize;
use tokio::task::JoinSet;

use super::options::Options;
use super::workload::{Random, VALUE_BYTES, Workload};
use crate::Result;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ValueEnum)]
pub(super) enum Operation {
    /// Write one value.
    SetValue,
    /// Read one value.
    GetValue,
}

/// How much of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Shape {
    /// Connections, or streams each on its own connection.
    pub(super) connections: usize,
    /// Requests in flight on each.
    pub(super) in_flight: usize,
}

impl Shape {
    /// One request at a time.
    pub(super) const ONE: Self = Self { connections: 1, in_flight: 1 };
    /// As many as a node is kept busy by.
    pub(super) const MANY: Self = Self { connections: 4, in_flight: 32 };
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.connections, self.in_flight)
    }
}

/// One table of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Load {
    pub(super) operation: Operation,
    pub(super) shape: Shape,
}

impl Load {
    /// Every load of one node, in the order of the report.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::shaped([(1, 1), (4, 32), (8, 64)])
    }

    /// Every load of a cluster: connections are spread over its nodes.
    pub(super) fn of_clusters() -> impl Iterator<Item = Self> {
        Self::shaped([(1, 1), (3, 1), (6, 32)])
    }

    fn shaped<const N: usize>(shapes: [(usize, usize); N]) -> impl Iterator<Item = Self> {
        [Operation::SetValue, Operation::GetValue].into_iter().flat_map(move |operation| {
            shapes.map(move |(connections, in_flight)| Self {
                operation,
                shape: Shape { connections, in_flight },
            })
        })
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.operation, self.shape)
    }
}

/// How long a visit lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
}

impl Timing {
    /// As the command line says.
    pub(super) fn of(options: &Options) -> Result<Self> {
        Ok(Self {
            warm_up: Duration::try_from_secs_f64(options.warm_up)?,
            measured: Duration::try_from_secs_f64(options.seconds)?,
        })
    }
}

/// The part of a visit that counts.
#[derive(Clone, Copy, Debug)]
struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    fn starting_now(timing: Timing) -> Self {
        let begin = Instant::now() + timing.warm_up;
        Self { begin, end: begin + timing.measured }
    }
}

/// Latencies of the requests that were answered within the window.
#[derive(Debug)]
pub(super) struct Samples {
    /// Nanoseconds, in no order.
    pub(super) nanos: Vec<u32>,
    /// All answers, those outside of the window too.
    pub(super) answered: u64,
    /// How long the window was.
    pub(super) measured: Duration,
}

impl Samples {
    /// None yet, of a window so long.
    pub(super) fn new(measured: Duration) -> Self {
        Self { nanos: Vec::new(), answered: 0, measured }
    }

    /// Keeps a latency.
    pub(super) fn push(&mut self, latency: Duration) {
        self.nanos.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
    }

    fn note(&mut self, window: Window, sent: Instant, answered: Instant) {
        self.answered += 1;
        if answered >= window.begin && answered < window.end {
            self.push(answered - sent);
        }
    }

    /// Answers per second.
    #[allow(clippy::cast_precision_loss)] // far below 2^52 answers
    pub(super) fn rate(&self) -> f64 {
        self.nanos.len() as f64 / self.measured.as_secs_f64()
    }
}

/// A client of one target; clones share the connection.
pub(super) trait Connection: Clone + Send + 'static {
    /// A durable write. An error if the target does not acknowledge it.
    fn set(&mut self, id: usize, key: &str, value: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// A read; the length of the value found.
    fn get(&mut self, id: usize, key: &str) -> impl Future<Output = Result<usize>> + Send;
}

/// Something to ask for over and over; clones share the connection.
pub(super) trait Asking: Clone + Send + 'static {
    /// Asks once and waits for the answer. An error if it is not the one that is expected.
    fn ask(&mut self, id: usize, key: &str, value: Bytes) -> impl Future<Output = Result<()>> + Send;
}

/// One operation on a target.
#[derive(Clone)]
struct Operating<C> {
    connection: C,
    operation: Operation,
}

impl<C: Connection> Asking for Operating<C> {
    async fn ask(&mut self, id: usize, key: &str, value: Bytes) -> Result<()> {
        match self.operation {
            Operation::SetValue => self.connection.set(id, key, value).await,
            Operation::GetValue => expect_value(key, self.connection.get(id, key).await?),
        }
    }
}

/// Runs unary requests through `connections` and keeps the latencies.
pub(super) async fn closed_loop<C: Connection>(
    connections: Vec<C>,
    load: Load,
    workload: Arc<Workload>,
    timing: Timing,
) -> Result<Samples> {
    let operation = load.operation;
    let connections = connections.into_iter().map(|connection| Operating { connection, operation }).collect();
    ask_over_and_over(connections, load.shape.in_flight, workload, timing).await
}

/// Has each of `connections` ask for so many things at once, and keeps the latencies.
pub(super) async fn ask_over_and_over<A: Asking>(
    connections: Vec<A>,
    in_flight: usize,
    workload: Arc<Workload>,
    timing: Timing,
) -> Result<Samples> {
    let window = Window::starting_now(timing);
    let clients = connections.into_iter().flat_map(|connection| vec![connection; in_flight]);
    let tasks = clients.zip(1..).map(|(client, seed)| {
        let workload = Arc::clone(&workload);
        async move { one_in_flight(client, &workload, Random::new(seed), window).await }
    });
    gather(tasks, timing.measured).await
}

/// Runs `tasks` at once and puts their samples together.
async fn gather<F>(tasks: impl Iterator<Item = F>, measured: Duration) -> Result<Samples>
where
    F: Future<Output = Result<Samples>> + Send + 'static,
{
    let mut running: JoinSet<_> = tasks.collect();
    let mut all = Samples::new(measured);
    while let Some(finished) = running.join_next().await {
        let mut samples = finished??;
        all.nanos.append(&mut samples.nanos);
        all.answered += samples.answered;
    }
    Ok(all)
}

async fn one_in_flight<A: Asking>(
    mut client: A,
    workload: &Workload,
    mut random: Random,
    window: Window,
) -> Result<Samples> {
    let mut samples = Samples::new(window.end - window.begin);
    loop {
        let id = workload.any(&mut random);
        let key = &workload.ids()[id];
        let value = workload.value(&mut random);
        let sent = Instant::now();
        if sent >= window.end {
            return Ok(samples);
        }
        client.ask(id, key, value).await?;
        samples.note(window, sent, Instant::now());
    }
}

fn expect_value(key: &str, bytes: usize) -> Result<()> {
    if bytes == VALUE_BYTES {
        return Ok(());
    }
    Err(format!("{key} answered with {bytes} bytes where {VALUE_BYTES} were written").into())
}

/// A client that sends without waiting and gets its acknowledgements in order.
pub(super) trait Pipeline: Send + 'static {
    /// Sends a write.
    fn send(&mut self, id: usize, key: &str, value: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// The next acknowledgement. An error if it is a refusal, or out of order.
    fn acknowledged(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Keeps each pipeline filled with as many requests as the load says, and keeps the latencies.
pub(super) async fn closed_pipelines<P: Pipeline>(
    pipelines: Vec<P>,
    load: Load,
    workload: Arc<Workload>,
    timing: Timing,
) -> Result<Samples> {
    let window = Window::starting_now(timing);
    let tasks = pipelines.into_iter().zip(1..).map(|(pipeline, seed)| {
        let workload = Arc::clone(&workload);
        let outstanding = load.shape.in_flight;
        async move { one_pipeline(pipeline, outstanding, &workload, Random::new(seed), window).await }
    });
    gather(tasks, timing.measured).await
}

async fn one_pipeline<P: Pipeline>(
    mut pipeline: P,
    outstanding: usize,
    workload: &Workload,
    mut random: Random,
    window: Window,
) -> Result<Samples> {
    let mut samples = Samples::new(window.end - window.begin);
    let mut sent = VecDeque::with_capacity(outstanding);
    loop {
        let now = Instant::now();
        while now < window.end && sent.len() < outstanding {
            let id = workload.any(&mut random);
            sent.push_back(Instant::now());
            pipeline.send(id, &workload.ids()[id], workload.value(&mut random)).await?;
        }
        let Some(first) = sent.pop_front() else { return Ok(samples) };
        pipeline.acknowledged().await?;
        samples.note(window, first, Instant::now());
    }
}
