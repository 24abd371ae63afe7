//! The clients: one module per protocol, all driven by the same loop.

pub(super) mod data_service;
mod etcd;
mod redis;
pub(super) mod write_stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::load::{Load, Operation, Samples, Timing, closed_loop, closed_pipelines};
use super::servers::{Server, Target};
use super::workload::Workload;
use crate::Result;

/// The collection that the loads write to.
pub(super) const CLASS: &str = "bench";

/// A way to put load on a target; one row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Subject {
    pub(super) target: Target,
    pub(super) via: Via,
}

/// How the requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Via {
    /// A call each; for Redis, a command each.
    Calls,
    /// The pipelined stream `odgm.v1.Writes`.
    Stream,
}

impl Subject {
    /// The target's calls.
    pub(super) const fn calls(target: Target) -> Self {
        Self { target, via: Via::Calls }
    }

    /// The target's write stream.
    pub(super) const fn stream(target: Target) -> Self {
        Self { target, via: Via::Stream }
    }

    /// Every way of `targets` to do what is asked for.
    pub(super) fn all(targets: &[Target], operation: Operation) -> Vec<Self> {
        let streams = |target| matches!(target, Target::Odgm | Target::Ceiling);
        let calls = targets.iter().copied().map(Self::calls);
        let streams = targets.iter().copied().filter(|target| streams(*target)).map(Self::stream);
        match operation {
            Operation::SetValue => calls.chain(streams).collect(),
            Operation::GetValue => calls.collect(),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.via {
            Via::Calls => write!(f, "{}", self.target),
            Via::Stream => write!(f, "{}, write stream", self.target),
        }
    }
}

/// Puts `load` on `server` for the time given, over connections that are opened first.
pub(super) async fn visit(
    server: &Server,
    via: Via,
    load: Load,
    workload: &Arc<Workload>,
    timing: Timing,
) -> Result<Samples> {
    let workload = Arc::clone(workload);
    let (address, partitions) = (server.address, server.partitions);
    match (server.target, via) {
        (Target::Odgm | Target::Ceiling, Via::Calls) => {
            let connections = open(load, || data_service::connect(address, partitions)).await?;
            closed_loop(connections, load, workload, timing).await
        }
        (Target::Odgm | Target::Ceiling, Via::Stream) => {
            let pipelines = open(load, || write_stream::open(address, partitions, load.shape)).await?;
            closed_pipelines(pipelines, load, workload, timing).await
        }
        (Target::Etcd, Via::Calls) => {
            closed_loop(open(load, || etcd::connect(address)).await?, load, workload, timing).await
        }
        (Target::Redis, Via::Calls) => {
            closed_loop(open(load, || redis::connect(address)).await?, load, workload, timing).await
        }
        (Target::Etcd | Target::Redis, Via::Stream) => {
            Err(format!("{} has no write stream", server.target).into())
        }
    }
}

/// Waits until a node's health says that all of its partitions serve.
pub(super) async fn until_serving(address: SocketAddr, patience: Duration) -> Result<()> {
    let mut health = HealthClient::new(channel(address).await?);
    let watched = async {
        let mut changes = health.watch(HealthCheckRequest::default()).await?.into_inner();
        while let Some(change) = changes.message().await? {
            if change.status() == ServingStatus::Serving {
                return Ok(());
            }
        }
        Err("the node ended while it started".into())
    };
    timeout(patience, watched).await.map_err(|_| format!("the node was not ready within {patience:?}"))?
}

/// Writes every id once, so that reads find a value.
pub(super) async fn fill(server: &Server, workload: &Workload) -> Result<()> {
    let address = server.address;
    match server.target {
        Target::Odgm | Target::Ceiling => {
            fill_through(data_service::connect(address, server.partitions).await?, workload).await
        }
        Target::Etcd => fill_through(etcd::connect(address).await?, workload).await,
        Target::Redis => fill_through(redis::connect(address).await?, workload).await,
    }
}

async fn fill_through<C: super::load::Connection>(connection: C, workload: &Workload) -> Result<()> {
    use futures_util::{StreamExt as _, TryStreamExt as _, stream};

    let mut random = super::workload::Random::new(u64::MAX);
    let ids = workload.ids().iter().enumerate();
    let writes: Vec<_> = ids.map(|(number, key)| (number, key, workload.value(&mut random))).collect();
    stream::iter(writes)
        .map(|(number, key, value)| {
            let mut connection = connection.clone();
            async move { connection.set(number, key, value).await }
        })
        .buffer_unordered(64)
        .try_collect()
        .await
}

async fn open<C, F>(load: Load, connect: impl Fn() -> F) -> Result<Vec<C>>
where
    F: Future<Output = Result<C>>,
{
    let mut connections = Vec::with_capacity(load.shape.connections);
    for _ in 0..load.shape.connections {
        connections.push(connect().await?);
    }
    Ok(connections)
}

async fn channel(address: SocketAddr) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.connect().await?)
}
