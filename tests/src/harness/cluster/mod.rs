//! Several nodes that replicate to each other through a network that tests can disturb.

mod agreement;
mod layout;
mod member;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

pub use self::agreement::Replica;
pub use self::layout::{Layout, Wire};

use self::member::Member;
use super::clients::{Connection, Objects};
use super::command::Ran;
use super::node::PATIENCE;
use super::proxy::Network;
use crate::Result;

/// How long one question to a node may take before it is asked again: it may be paused, or cut off.
const ASK: Duration = Duration::from_secs(1);

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

    /// Runs `odgm` against a node.
    ///
    /// # Errors
    /// When there is no such node, or the program cannot be run; how it ends is for the caller to judge.
    pub async fn odgm(&self, node: u64, arguments: &[&str]) -> Result<Ran> {
        let command = self.member(node)?.command(arguments)?;
        tokio::task::spawn_blocking(move || Ran::of(command)).await?
    }

    /// Removes the data directory of a node that does not run.
    ///
    /// # Errors
    /// When it runs, or the system refuses.
    pub fn wipe(&self, node: u64) -> Result<()> {
        self.member(node)?.wipe()
    }

    /// Waits until a node has logged something.
    ///
    /// # Errors
    /// When it has not after a minute.
    pub async fn logged(&self, node: u64, what: &str) -> Result<()> {
        let member = self.member(node)?;
        let waiting = || format!("node {node} to log {what:?}:\n{}", member.output());
        until(waiting, async || Ok(member.output().contains(what).then_some(()))).await
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

    fn member(&self, node: u64) -> Result<&Member> {
        self.members.get(&node).ok_or_else(|| format!("there is no node {node}").into())
    }
}

/// The answer, if it comes in time.
async fn within<T>(time: Duration, asked: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, asked).await.ok()
}

/// Looks again and again until there is something.
async fn until<T>(what: impl Fn() -> String, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
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
