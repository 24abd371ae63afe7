//! The servers under load: a process each, with its data in a directory of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::calls::{function, proxy, restate};
use super::options::Options;
use super::targets::{self, CLASS};
use super::{ceiling, install};
use crate::Result;
use crate::process::Process;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// This node.
    Odgm,
    /// etcd with its defaults: every write is fsynced before it is acknowledged.
    Etcd,
    /// Redis with `appendfsync always`.
    Redis,
    /// The do-nothing gRPC service.
    Ceiling,
    /// A gRPC server that passes calls of functions on, and does nothing else.
    Proxy,
    /// Restate, which makes calls durable.
    Restate,
    /// Three of our nodes, the collection's one partition on all of them.
    #[value(name = "odgm-cluster")]
    #[serde(rename = "odgm-cluster")]
    Cluster,
    /// The same with three partitions.
    #[value(name = "odgm-cluster-3")]
    #[serde(rename = "odgm-cluster-3")]
    ClusterOfThree,
    /// Three members of etcd.
    #[value(name = "etcd-cluster")]
    #[serde(rename = "etcd-cluster")]
    EtcdCluster,
}

impl Target {
    /// Those of one node, in the order in which a round visits them.
    pub const SINGLE: [Self; 4] = [Self::Odgm, Self::Etcd, Self::Redis, Self::Ceiling];
    /// Those that call functions.
    pub const OF_CALLS: [Self; 3] = [Self::Odgm, Self::Proxy, Self::Restate];
    /// Those of three nodes.
    pub const CLUSTERS: [Self; 3] = [Self::Cluster, Self::ClusterOfThree, Self::EtcdCluster];
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Odgm,
        Self::Etcd,
        Self::Redis,
        Self::Ceiling,
        Self::Proxy,
        Self::Restate,
        Self::Cluster,
        Self::ClusterOfThree,
        Self::EtcdCluster,
    ];

    /// Whether it has three nodes.
    pub fn is_cluster(self) -> bool {
        Self::CLUSTERS.contains(&self)
    }

    /// How many partitions the collection has.
    fn partitions(self, options: &Options) -> u32 {
        match self {
            Self::Cluster => 1,
            Self::ClusterOfThree => 3,
            _ => options.partitions,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Odgm => "odgm",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Ceiling => "ceiling",
            Self::Proxy => "proxy",
            Self::Restate => "restate",
            Self::Cluster => "odgm-cluster",
            Self::ClusterOfThree => "odgm-cluster-3",
            Self::EtcdCluster => "etcd-cluster",
        })
    }
}

/// A server that accepts connections, or several that are one. Dropping it kills the processes and removes their data.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) target: Target,
    /// Where each of its nodes listens.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) partitions: u32,
    pub(super) version: String,
    // Before `dir`: the processes end before their files go.
    processes: Vec<Process>,
    dir: TempDir,
}

/// How many nodes a cluster has.
const NODES: usize = 3;

const START_PATIENCE: Duration = Duration::from_secs(30);

impl Server {
    /// Starts a target and waits until it accepts connections.
    pub(super) async fn start(target: Target, options: &Options) -> Result<Self> {
        let dir = directory(target, options)?;
        let partitions = target.partitions(options);
        let started = match target {
            Target::Odgm => vec![odgm(dir.path(), partitions, None, options)?],
            Target::Etcd => etcd_members(dir.path(), 1)?,
            Target::Redis => vec![redis(dir.path())?],
            Target::Ceiling => vec![ceiling(dir.path())?],
            Target::Cluster | Target::ClusterOfThree => nodes(dir.path(), options, partitions)?,
            Target::EtcdCluster => etcd_members(dir.path(), NODES)?,
            Target::Proxy | Target::Restate => return Err(format!("{target} is for calls only").into()),
        };
        Self::ready(target, partitions, started, dir).await
    }

    /// Starts one of [`Target::OF_CALLS`], to call the function that listens there, and waits until it accepts
    /// connections. Restate calls a handler of its own.
    pub(super) async fn start_to_call(
        function: SocketAddr,
        target: Target,
        options: &Options,
    ) -> Result<Self> {
        let dir = directory(target, options)?;
        let started = match target {
            // All calls go through one partition.
            Target::Odgm => vec![odgm(dir.path(), 1, Some(function), options)?],
            Target::Proxy => vec![proxy(dir.path(), function)?],
            Target::Restate => restate::start(dir.path()).await?,
            _ => return Err(format!("{target} calls no functions").into()),
        };
        Self::ready(target, 1, started, dir).await
    }

    /// Waits until all of `started` accept connections.
    async fn ready(target: Target, partitions: u32, started: Vec<Started>, dir: TempDir) -> Result<Self> {
        let is_ours = matches!(target, Target::Odgm | Target::Cluster | Target::ClusterOfThree);
        let (mut addresses, mut processes, mut version) = (Vec::new(), Vec::new(), String::new());
        for mut node in started {
            let address = node.address.wait(&mut node.process).await?;
            addresses.push(address);
            processes.push(node.process);
            version = node.version;
        }
        for address in addresses.iter().filter(|_| is_ours) {
            // It listens while its partitions still start.
            targets::until_serving(*address, START_PATIENCE).await?;
        }
        Ok(Self { target, addresses, partitions, version, processes, dir })
    }

    /// Where the node listens that is asked first.
    pub(super) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The process of the first node.
    pub(super) fn id(&self) -> u32 {
        self.processes[0].id()
    }

    /// Where the server keeps its data.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// A process that may not accept connections yet.
pub(super) struct Started {
    pub(super) process: Process,
    pub(super) address: Announced,
    pub(super) version: String,
}

/// How a server says where it listens.
pub(super) enum Announced {
    /// It was told.
    Given(SocketAddr),
    /// In its output, after these words.
    Output(&'static str),
    /// By its port in this file.
    PortFile(PathBuf),
}

impl Announced {
    /// Waits until the server accepts connections.
    pub(super) async fn wait(self, process: &mut Process) -> Result<SocketAddr> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = process.try_wait()? {
                return Err(format!("the server ended with {status}:\n{}", process.output()).into());
            }
            let address = match &self {
                Self::Given(address) => Some(*address),
                Self::Output(words) => after(&process.output(), words),
                Self::PortFile(path) => port_in(path),
            };
            if let Some(address) = address
                && TcpStream::connect(address).await.is_ok()
            {
                return Ok(address);
            }
            if Instant::now() > deadline {
                let output = process.output();
                return Err(format!("no connection within {START_PATIENCE:?}:\n{output}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The address that follows `words` in `text`.
fn after(text: &str, words: &str) -> Option<SocketAddr> {
    let rest = text.split_once(words)?.1;
    rest.split_whitespace().next()?.parse().ok()
}

/// The loopback address with the port that the file names, once it is there.
fn port_in(path: &Path) -> Option<SocketAddr> {
    let port = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn directory(target: Target, options: &Options) -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix(&format!("odgm-bench-{target}-")).tempdir_in(&options.dir)?)
}

fn odgm(dir: &Path, partitions: u32, function: Option<SocketAddr>, options: &Options) -> Result<Started> {
    let program = install::odgm(options.odgm.as_deref())?;
    let collection = serde_json::json!([{
        "name": CLASS,
        "partition_count": partitions,
        "replica_count": 1,
        "shard_type": "basic",
        "invocations": function.map(function::routes),
    }]);
    let port_file = dir.join("port");
    let mut command = Command::new(&program);
    command
        .arg("serve")
        .env("ODGM_DATA_DIR", dir.join("data"))
        .env("ODGM_HTTP_HOST", "127.0.0.1")
        .env("ODGM_HTTP_PORT", "0")
        .env("ODGM_PORT_FILE", &port_file)
        .env("ODGM_COLLECTION", collection.to_string());
    Ok(Started {
        process: Process::spawn("odgm", command, &dir.join("output"))?,
        address: Announced::PortFile(port_file),
        version: install::version(&program)?,
    })
}

/// Our nodes, each with all of the collection's partitions.
fn nodes(dir: &Path, options: &Options, partitions: u32) -> Result<Vec<Started>> {
    let program = install::odgm(options.odgm.as_deref())?;
    let collection = serde_json::json!([{
        "name": CLASS,
        "partition_count": partitions,
        "replica_count": NODES,
        "shard_type": "raft",
    }]);
    let ports = (0..NODES).map(|_| Ok((free_address()?, free_address()?))).collect::<Result<Vec<_>>>()?;
    let start = |node: usize| {
        let others = || ports.iter().enumerate().filter(move |(other, _)| *other != node);
        let zenoh: Vec<_> = others().map(|(_, (zenoh, _))| format!("tcp/{zenoh}")).collect();
        let tcp: Vec<_> = others().map(|(other, (_, tcp))| format!("{}={tcp}", other + 1)).collect();
        let home = dir.join(node.to_string());
        std::fs::create_dir(&home)?;
        let port_file = home.join("port");
        let mut command = Command::new(&program);
        command
            .arg("serve")
            .env("ODGM_NODE_ID", (node + 1).to_string())
            .env("ODGM_MEMBERS", "1,2,3")
            .env("ODGM_DATA_DIR", home.join("data"))
            .env("ODGM_HTTP_HOST", "127.0.0.1")
            .env("ODGM_HTTP_PORT", "0")
            .env("ODGM_PORT_FILE", &port_file)
            .env("ODGM_COLLECTION", collection.to_string())
            .env("ODGM_CLUSTER", format!("bench-{}", std::process::id()))
            .env("ODGM_ZENOH_HOST", "127.0.0.1")
            .env("OPRC_ZENOH_PORT", ports[node].0.port().to_string())
            .env("OPRC_ZENOH_PEERS", zenoh.join(","))
            .env("OPRC_ZENOH_GOSSIP_ENABLED", "false")
            .env("ODGM_TCP_LISTEN", ports[node].1.to_string())
            .env("ODGM_TCP_PEERS", tcp.join(","))
            .env("ODGM_LOG", "warn");
        if let Some(wire) = &options.wire {
            command.env("ODGM_TRANSPORT", wire);
        }
        Ok(Started {
            process: Process::spawn("odgm", command, &home.join("output"))?,
            address: Announced::PortFile(port_file),
            version: install::version(&program)?,
        })
    };
    (0..NODES).map(start).collect()
}

fn etcd_members(dir: &Path, members: usize) -> Result<Vec<Started>> {
    let program = install::etcd()?;
    let urls = (0..members).map(|_| Ok((free_address()?, free_address()?))).collect::<Result<Vec<_>>>()?;
    let cluster: Vec<_> =
        urls.iter().enumerate().map(|(number, (_, peer))| format!("bench{number}=http://{peer}")).collect();
    let start = |(number, (client, peer)): (usize, &(SocketAddr, SocketAddr))| {
        let home = dir.join(number.to_string());
        std::fs::create_dir(&home)?;
        let mut command = Command::new(&program);
        command
            .arg(format!("--name=bench{number}"))
            .arg(format!("--data-dir={}", home.join("data").display()))
            .arg(format!("--listen-client-urls=http://{client}"))
            .arg(format!("--advertise-client-urls=http://{client}"))
            .arg(format!("--listen-peer-urls=http://{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
            .arg(format!("--initial-cluster={}", cluster.join(",")))
            .arg("--log-level=warn");
        Ok(Started {
            process: Process::spawn("etcd", command, &home.join("output"))?,
            address: Announced::Given(*client),
            version: install::version(&program)?,
        })
    };
    urls.iter().enumerate().map(start).collect()
}

fn redis(dir: &Path) -> Result<Started> {
    let program = install::redis()?;
    let address = free_address()?;
    let mut command = Command::new(&program);
    command.current_dir(dir).args(["--bind", "127.0.0.1", "--port"]).arg(address.port().to_string());
    // Durable as the others are, and no second, periodic copy of the data beside the log.
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    Ok(Started {
        process: Process::spawn("redis-server", command, &dir.join("output"))?,
        address: Announced::Given(address),
        version: install::version(&program)?,
    })
}

fn ceiling(dir: &Path) -> Result<Started> {
    of_this_program("ceiling", &["ceiling"], ceiling::LISTENING, dir)
}

fn proxy(dir: &Path, function: SocketAddr) -> Result<Started> {
    of_this_program("proxy", &["proxy", "--function", &function.to_string()], proxy::LISTENING, dir)
}

/// A server that is a command of this program, which says in its output, after `listening`, where it listens.
pub(super) fn of_this_program(
    name: &str,
    arguments: &[&str],
    listening: &'static str,
    dir: &Path,
) -> Result<Started> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(Started {
        process: Process::spawn(name, command, &dir.join("output"))?,
        address: Announced::Output(listening),
        version: "tonic, with its own server".to_owned(),
    })
}

/// An address of the loopback interface that nobody listens on, for servers that cannot choose one themselves.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
