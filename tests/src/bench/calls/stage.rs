//! The servers of the part, and how each kind of work is done on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::block_in_place;

use super::super::load::{
    Asking, Load, Operation, Samples, Shape, Timing, ask_over_and_over, closed_loop, closed_pipelines,
};
use super::super::options::Options;
use super::super::servers::{Server, Target};
use super::super::targets::{channel, data_service, write_stream};
use super::super::workload::{KEY_SPACE, Workload};
use super::accepted::{require_records, until_settled};
use super::disk::{REST, append_and_sync};
use super::function::{Function, NOOP, NOTED};
use super::invoke::{Invoke, InvokeFn};
use super::node::Node;
use super::restate::Ingress;
use super::{Visit, Work};
use crate::Result;

/// The only partition of the collection.
const PARTITIONS: u32 = 1;

/// All that runs.
pub(super) struct Stage {
    servers: Vec<Server>,
    pub(super) node: Node,
    pub(super) function: Function,
    /// Objects without triggers.
    plain: Arc<Workload>,
    /// Objects that call the function that does nothing.
    triggered: Arc<Workload>,
    /// Objects that call the function that notes when.
    pub(super) noted: Arc<Workload>,
    /// For the function's output, and for files of the bench's own.
    dir: TempDir,
}

impl Stage {
    /// Starts the targets that are asked for, with objects to write to.
    pub(super) async fn set(options: &Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("odgm-bench-calls-").tempdir_in(&options.dir)?;
        let function = Function::start(dir.path()).await?;
        let mut servers = Vec::new();
        for target in Target::OF_CALLS.into_iter().filter(|target| options.targets.contains(target)) {
            let server = Server::start_to_call(function.address, target, options).await?;
            eprintln!("{target} (process {}) calls functions, in {}", server.id(), server.dir().display());
            servers.push(server);
        }
        let node =
            servers.iter().find(|server| server.target == Target::Odgm).ok_or("it is about the node")?;
        let node = Node::connect(node.address()).await?;
        let workload = |name: &str| Arc::new(Workload::of(name, KEY_SPACE));
        let (plain, triggered, noted) = (workload("plain"), workload("triggered"), workload("noted"));
        node.fill(&plain, None).await?;
        node.fill(&triggered, Some(NOOP)).await?;
        node.fill(&noted, Some(NOTED)).await?;
        Ok(Self { servers, node, function, plain, triggered, noted, dir })
    }

    /// Whether a target runs.
    pub(super) fn has(&self, target: Target) -> bool {
        self.servers.iter().any(|server| server.target == target)
    }

    /// What runs.
    pub(super) fn versions(&self) -> Vec<(Target, String)> {
        self.servers.iter().map(|server| (server.target, server.version.clone())).collect()
    }

    /// Does one kind of work for the time given.
    pub(super) async fn visit(&self, work: Work, shape: Shape, timing: Timing) -> Result<Visit> {
        match work {
            Work::Write | Work::Trigger if shape == Shape::ONE => {
                let samples = self.write(work, shape, timing).await?;
                // What it left to do is not the next one's.
                self.node.settled().await?;
                Ok(samples.into())
            }
            Work::Write => Ok(self.stream(work, shape, timing).await?.into()),
            Work::Trigger => {
                until_settled(&self.node, timing, |timing| self.stream(work, shape, timing)).await
            }
            Work::InvokeFn => {
                let before = self.node.records().await?;
                let samples = self.ask(work, shape, timing, InvokeFn::through).await?;
                require_records(&self.node, before, samples.answered).await?;
                Ok(samples.into())
            }
            Work::Invoke => {
                let load = |timing| self.ask(work, shape, timing, Invoke::of);
                until_settled(&self.node, timing, load).await
            }
            Work::Proxy => Ok(self.ask(work, shape, timing, InvokeFn::through).await?.into()),
            Work::Restate => Ok(self.ask(work, shape, timing, Ingress::at).await?.into()),
            Work::Sync => self.sync(Duration::ZERO, timing),
            Work::RestedSync => self.sync(REST, timing),
        }
    }

    fn sync(&self, rest: Duration, timing: Timing) -> Result<Visit> {
        Ok(block_in_place(|| append_and_sync(self.dir.path(), rest, timing))?.into())
    }

    /// Writes with a call each.
    async fn write(&self, work: Work, shape: Shape, timing: Timing) -> Result<Samples> {
        let mut connections = Vec::with_capacity(shape.connections);
        for _ in 0..shape.connections {
            connections.push(data_service::connect(self.node.address, PARTITIONS).await?);
        }
        closed_loop(connections, writing(shape), self.objects(work), timing).await
    }

    /// Writes by the stream, which takes least of the machine.
    async fn stream(&self, work: Work, shape: Shape, timing: Timing) -> Result<Samples> {
        let mut pipelines = Vec::with_capacity(shape.connections);
        for _ in 0..shape.connections {
            pipelines.push(write_stream::open(self.node.address, PARTITIONS, shape).await?);
        }
        closed_pipelines(pipelines, writing(shape), self.objects(work), timing).await
    }

    /// Asks a target, over connections that are opened first.
    async fn ask<A: Asking>(
        &self,
        work: Work,
        shape: Shape,
        timing: Timing,
        client: impl Fn(tonic::transport::Channel) -> A,
    ) -> Result<Samples> {
        let address = self.address(work.target())?;
        let mut clients = Vec::with_capacity(shape.connections);
        for _ in 0..shape.connections {
            clients.push(client(channel(address).await?));
        }
        ask_over_and_over(clients, shape.in_flight, self.objects(work), timing).await
    }

    fn address(&self, target: Target) -> Result<SocketAddr> {
        let server = self.servers.iter().find(|server| server.target == target);
        Ok(server.ok_or_else(|| format!("invariant: {target} has been started"))?.address())
    }

    fn objects(&self, work: Work) -> Arc<Workload> {
        Arc::clone(if work == Work::Trigger { &self.triggered } else { &self.plain })
    }
}

fn writing(shape: Shape) -> Load {
    Load { operation: Operation::SetValue, shape }
}
