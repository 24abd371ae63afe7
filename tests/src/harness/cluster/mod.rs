//! Several nodes that replicate to each other through a network that tests can disturb.

mod agreement;
mod collections;
mod layout;
mod member;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use odgm_proto::odgm::v1::GetNodeRequest;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

pub use self::agreement::Replica;
pub use self::layout::{Layout, Wire};

use self::member::Member;
use super::clients::{Connection, Objects};
use super::command::Ran;
use super::home::Home;
use super::node::PATIENCE;
use super::proxy::Network;
use crate::Result;

/// How long one question to a node may take before it is asked again: it may be paused, or cut off.
const ASK: Duration = Duration::from_secs(1);

/// The pause between two looks at a figure that changes quickly.
const SHORT_LOOK: Duration = Duration::from_millis(1);

/// The pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// Nodes numbered from 1, each with a data directory and ports of its own that it keeps over restarts.
///
/// They reach each other only through a [`Network`]. Dropping the cluster kills all of them, also those that are
/// paused. The methods take `&self`, so that clients and whoever disturbs them can share it.
#[derive(Debug)]
pub struct Cluster {
    members: BTreeMap<u64, Member>,
    network: Network,
    listening: BTreeMap<u64, Vec<SocketAddr>>,
}

impl Cluster {
    /// The numbers of all nodes.
    pub fn nodes(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    /// The numbers of the nodes that run and are not paused.
    pub fn awake(&self) -> Vec<u64> {
        self.members.values().filter(|member| member.is_awake()).map(|member| member.number).collect()
    }

    /// What is between the nodes.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A connection to a node that is made when it is needed, and made again after it has broken.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn channel(&self, node: u64) -> Result<Channel> {
        self.member(node)?.endpoint().map(|endpoint| endpoint.connect_lazy())
    }

    /// Clients of every service over a connection of their own.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn client(&self, node: u64) -> Result<Connection> {
        Ok(Connection::new(self.channel(node)?))
    }

    /// The objects of one partition, asked for at one node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn objects(&self, node: u64, class: &str, partition: u32) -> Result<Objects> {
        Ok(self.client(node)?.objects(class, partition))
    }

    /// Where a node listens for clients.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn address(&self, node: u64) -> Result<SocketAddr> {
        Ok(self.member(node)?.address())
    }

    /// Starts nodes that do not run, all at once, and waits until each is in service.
    ///
    /// # Errors
    /// When one runs already, or ends instead, or is not in service after a minute.
    pub async fn start(&self, nodes: &[u64]) -> Result<()> {
        for node in nodes {
            self.member(*node)?.spawn()?;
        }
        self.in_service(nodes).await
    }

    /// Starts a node without waiting for it.
    ///
    /// # Errors
    /// When it runs already.
    pub fn begin_to_start(&self, node: u64) -> Result<()> {
        self.member(node)?.spawn()
    }

    /// Waits until each of these nodes says that it serves.
    ///
    /// # Errors
    /// When one has ended, or does not serve after a minute; the message has what it said.
    pub async fn in_service(&self, nodes: &[u64]) -> Result<()> {
        for node in nodes {
            let member = self.member(*node)?;
            let channel = self.channel(*node)?;
            let waiting = || format!("node {node} to be in service:\n{}", member.output());
            until(waiting, async || {
                member.check()?;
                let mut health = HealthClient::new(channel.clone());
                let asked = within(ASK, health.check(HealthCheckRequest::default())).await;
                let serves = asked.is_some_and(|answer| {
                    answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
                });
                Ok(serves.then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// kill -9 of nodes, as nearly at once as it goes; returns when they are gone.
    ///
    /// # Errors
    /// When one does not run, or the system refuses.
    pub async fn kill(&self, nodes: &[u64]) -> Result<()> {
        for node in nodes {
            self.member(*node)?.begin_to_kill()?;
        }
        for node in nodes {
            self.member(*node)?.ended().await?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the node to end in order.
    ///
    /// # Errors
    /// When it does not run, ends with another code than 0, or not within a minute.
    pub async fn stop(&self, node: u64) -> Result<()> {
        let member = self.member(node)?;
        member.begin_to_stop()?;
        let status = member.ended().await?;
        if status.success() {
            return Ok(());
        }
        Err(format!("node {node} was told to stop and ended with {status}:\n{}", member.output()).into())
    }

    /// kill -9 and a start; returns when the node is in service again.
    ///
    /// # Errors
    /// As of the two.
    pub async fn restart(&self, node: u64) -> Result<()> {
        self.kill(&[node]).await?;
        self.start(&[node]).await
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When the node does not run, or the system refuses.
    pub fn pause(&self, node: u64) -> Result<()> {
        self.member(node)?.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When the node does not run, or the system refuses.
    pub fn resume(&self, node: u64) -> Result<()> {
        self.member(node)?.resume()
    }

    /// Heals the network, has every node run, and waits until all are in service.
    ///
    /// # Errors
    /// When one has ended without having been told to, or is not in service after a minute.
    pub async fn mend(&self) -> Result<()> {
        self.network.heal();
        self.members.values().try_for_each(Member::mend)?;
        self.in_service(&self.nodes()).await
    }

    /// Nothing, or which node has ended without having been told to, and what it said.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<()> {
        self.members.values().try_for_each(Member::check_if_started)
    }

    /// The data directory of a node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn data(&self, node: u64) -> Result<PathBuf> {
        Ok(self.member(node)?.data())
    }

    /// Runs `odgm` against a node.
    ///
    /// # Errors
    /// When there is no such node, or the program cannot be run; how it ends is for the caller to judge.
    pub async fn odgm(&self, node: u64, arguments: &[&str]) -> Result<Ran> {
        let command = self.odgm_command(node, arguments)?;
        tokio::task::spawn_blocking(move || Ran::of(command)).await?
    }

    /// The same, to be run by the caller.
    ///
    /// # Errors
    /// When there is no such node or program.
    pub fn odgm_command(&self, node: u64, arguments: &[&str]) -> Result<Command> {
        self.member(node)?.odgm(arguments)
    }

    /// One of the figures of a node (`odgm stats`), a whole number; none if it does not answer at once.
    ///
    /// # Errors
    /// When it has no such figure.
    pub async fn figure(&self, node: u64, name: &str) -> Result<Option<u64>> {
        let mut admin = self.client(node)?.admin;
        let Some(Ok(answer)) = within(ASK, admin.get_node(GetNodeRequest {})).await else { return Ok(None) };
        let metrics = answer.into_inner().metrics;
        let found = metrics.into_iter().find(|metric| metric.name == name);
        let found = found.ok_or_else(|| format!("node {node} has no figure {name}"))?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count below 2^53
        Ok(Some(found.value as u64))
    }

    /// Waits until a figure of a node is as wanted.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub async fn figure_where(&self, node: u64, name: &str, wanted: impl Fn(u64) -> bool) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.figure(node, name).await?.filter(|found| wanted(*found)) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                return Err(format!("waited {PATIENCE:?} for {name} of node {node}").into());
            }
            tokio::time::sleep(SHORT_LOOK).await;
        }
    }

    /// Removes the data directory of a node that does not run.
    ///
    /// # Errors
    /// When it runs, or the system refuses.
    pub fn wipe(&self, node: u64) -> Result<()> {
        self.member(node)?.wipe()
    }

    /// Everything that a node has logged.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn output(&self, node: u64) -> Result<String> {
        Ok(self.member(node)?.output())
    }

    /// Copies what each node has logged into a directory, as `node-1.log` and so on.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_outputs(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for member in self.members.values() {
            std::fs::write(folder.join(format!("node-{}.log", member.number)), member.output())?;
        }
        Ok(())
    }

    /// Waits until a node has logged these words, and answers the line.
    ///
    /// # Errors
    /// When it has not after a minute.
    pub async fn said(&self, node: u64, words: &str) -> Result<String> {
        let member = self.member(node)?;
        let waiting = || format!("node {node} to say {words:?}:\n{}", member.output());
        until(waiting, async || {
            Ok(member.output().lines().find(|line| line.contains(words)).map(str::to_owned))
        })
        .await
    }

    /// Whether a node says now that it serves.
    ///
    /// # Errors
    /// When there is no such node.
    pub async fn serves(&self, node: u64) -> Result<bool> {
        let mut health = HealthClient::new(self.channel(node)?);
        let asked = within(ASK, health.check(HealthCheckRequest::default())).await;
        Ok(asked.is_some_and(|answer| {
            answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
        }))
    }

    /// What a node counts, by name.
    ///
    /// # Errors
    /// When there is no such node, or it does not answer.
    pub async fn metrics(&self, node: u64) -> Result<BTreeMap<String, f64>> {
        let answer = self.client(node)?.admin.get_node(GetNodeRequest {}).await?.into_inner();
        Ok(answer.metrics.into_iter().map(|metric| (metric.name, metric.value)).collect())
    }

    /// Where a node listens for the others: for Zenoh, and for TCP.
    pub fn listening(&self, node: u64) -> &[SocketAddr] {
        self.listening.get(&node).map_or(&[], Vec::as_slice)
    }

    /// The process of a node; none while it does not run.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn process(&self, node: u64) -> Result<Option<u32>> {
        Ok(self.member(node)?.id())
    }

    /// What outlives a node's process.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn home(&self, node: u64) -> Result<&Home> {
        Ok(&self.member(node)?.home)
    }

    /// Sets an environment variable of a node, from its next start on.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn set(&mut self, node: u64, name: &str, value: &str) -> Result<()> {
        let member = self.members.get_mut(&node).ok_or_else(|| format!("there is no node {node}"))?;
        member.home.set(name, value);
        Ok(())
    }

    /// Waits for a node that ends by itself.
    ///
    /// # Errors
    /// When it does not run, or is still there after a minute.
    pub async fn ended(&self, node: u64) -> Result<ExitStatus> {
        self.member(node)?.ended().await
    }

    fn member(&self, node: u64) -> Result<&Member> {
        self.members.get(&node).ok_or_else(|| format!("there is no node {node}").into())
    }
}

/// The answer, if it comes in time.
async fn within<T>(time: Duration, asked: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, asked).await.ok()
}

/// Looks again and again until there is something.
///
/// # Errors
/// What looking fails with; and `what` it was, when there is nothing after a minute.
pub async fn until<T>(what: impl Fn() -> String, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("waited {PATIENCE:?} for {}", what()).into());
        }
        tokio::time::sleep(LOOK).await;
    }
}
