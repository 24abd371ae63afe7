//! The clients: one module per protocol, all driven by the same loop.

pub(super) mod data_service;
mod etcd;
mod redis;
pub(super) mod write_stream;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
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
    /// A call each, to the node that leads the partition.
    Leader,
    /// A call each, of reads that trust the leader's lease.
    Lease,
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
        let is_ours = |target: &&Target| matches!(target, Target::Cluster | Target::ClusterOfThree);
        let clusters: Vec<_> = targets.iter().filter(is_ours).copied().collect();
        let leaders = targets.iter().filter(|target| **target == Target::Cluster);
        let leaders = leaders.map(|target| Self { target: *target, via: Via::Leader });
        let leases = clusters.into_iter().map(|target| Self { target, via: Via::Lease });
        let streams = |target| matches!(target, Target::Odgm | Target::Ceiling);
        let calls = targets.iter().copied().map(Self::calls);
        let streams = targets.iter().copied().filter(|target| streams(*target)).map(Self::stream);
        match operation {
            Operation::SetValue => calls.chain(streams).chain(leaders).collect(),
            Operation::GetValue => calls.chain(leaders).chain(leases).collect(),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.via {
            Via::Calls => write!(f, "{}", self.target),
            Via::Stream => write!(f, "{}, write stream", self.target),
            Via::Leader => write!(f, "{}, at the leader", self.target),
            Via::Lease => write!(f, "{}, by lease", self.target),
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
    let partitions = server.partitions;
    let all = server.addresses.as_slice();
    match (server.target, via) {
        (Target::Odgm | Target::Ceiling, Via::Stream) => {
            let open_one = |address| write_stream::open(address, partitions, load.shape);
            closed_pipelines(open(load, all, open_one).await?, load, workload, timing).await
        }
        (Target::Odgm | Target::Ceiling | Target::Cluster | Target::ClusterOfThree, Via::Calls) => {
            let connections = open(load, all, |address| data_service::connect(address, partitions)).await?;
            closed_loop(connections, load, workload, timing).await
        }
        (Target::Cluster | Target::ClusterOfThree, Via::Leader) => {
            let leader = [data_service::leader(all).await?];
            let connections =
                open(load, &leader, |address| data_service::connect(address, partitions)).await?;
            closed_loop(connections, load, workload, timing).await
        }
        (Target::Cluster | Target::ClusterOfThree, Via::Lease) => {
            let connect = |address| data_service::connect_for_leases(address, partitions);
            closed_loop(open(load, all, connect).await?, load, workload, timing).await
        }
        (Target::Etcd | Target::EtcdCluster, Via::Calls) => {
            closed_loop(open(load, all, etcd::connect).await?, load, workload, timing).await
        }
        (Target::Redis, Via::Calls) => {
            closed_loop(open(load, all, redis::connect).await?, load, workload, timing).await
        }
        (target, via) => Err(format!("{target} has nothing to be reached by as {via:?}").into()),
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
    let address = server.address();
    match server.target {
        Target::Odgm | Target::Ceiling | Target::Cluster | Target::ClusterOfThree => {
            fill_through(data_service::connect(address, server.partitions).await?, workload).await
        }
        Target::Etcd | Target::EtcdCluster => fill_through(etcd::connect(address).await?, workload).await,
        Target::Redis => fill_through(redis::connect(address).await?, workload).await,
        // They hold nothing.
        Target::Proxy | Target::Restate => Ok(()),
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

/// Opens the connections of a load, to all nodes in turn.
async fn open<C, F>(load: Load, nodes: &[SocketAddr], connect: impl Fn(SocketAddr) -> F) -> Result<Vec<C>>
where
    F: Future<Output = Result<C>>,
{
    let mut connections = Vec::with_capacity(load.shape.connections);
    for node in nodes.iter().cycle().take(load.shape.connections) {
        connections.push(connect(*node).await?);
    }
    Ok(connections)
}

/// A connection of its own.
pub(super) async fn channel(address: SocketAddr) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.executor(Gathering).connect().await?)
}

/// Lets the tasks of a connection run behind those that are ready by then. Else it would write every frame to the socket
/// alone, and what is measured on few cores would be the clients' system calls.
struct Gathering;

impl Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Gathering {
    fn execute(&self, mut task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let mut had_their_turn = true;
        tokio::spawn(poll_fn(move |context| {
            had_their_turn = !had_their_turn;
            if had_their_turn {
                return task.as_mut().poll(context);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }));
    }
}
