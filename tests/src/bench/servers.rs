//! The servers under load: a process each, with its data in a directory of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;
use tokio::net::TcpStream;

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
}

impl Target {
    /// All of them, in the order in which a round visits them.
    pub const ALL: [Self; 4] = [Self::Odgm, Self::Etcd, Self::Redis, Self::Ceiling];
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Odgm => "odgm",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Ceiling => "ceiling",
        })
    }
}

/// A server that accepts connections. Dropping it kills the process and removes its data.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) target: Target,
    pub(super) address: SocketAddr,
    pub(super) partitions: u32,
    pub(super) version: String,
    // Before `dir`: the process ends before its files go.
    process: Process,
    dir: TempDir,
}

const START_PATIENCE: Duration = Duration::from_secs(30);

impl Server {
    /// Starts a target and waits until it accepts connections.
    pub(super) async fn start(target: Target, options: &Options) -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix(&format!("odgm-bench-{target}-")).tempdir_in(&options.dir)?;
        let started = match target {
            Target::Odgm => odgm(dir.path(), options)?,
            Target::Etcd => etcd(dir.path())?,
            Target::Redis => redis(dir.path())?,
            Target::Ceiling => ceiling(dir.path())?,
        };
        let Started { mut process, address, version } = started;
        let address = address.wait(&mut process).await?;
        if target == Target::Odgm {
            // It listens while its partitions still start.
            targets::until_serving(address, START_PATIENCE).await?;
        }
        Ok(Self { target, address, partitions: options.partitions, version, process, dir })
    }

    /// The process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where the server keeps its data.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

struct Started {
    process: Process,
    address: Announced,
    version: String,
}

/// How a server says where it listens.
enum Announced {
    /// It was told.
    Given(SocketAddr),
    /// In its output, after these words.
    Output(&'static str),
    /// By its port in this file.
    PortFile(PathBuf),
}

impl Announced {
    /// Waits until the server accepts connections.
    async fn wait(self, process: &mut Process) -> Result<SocketAddr> {
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

fn odgm(dir: &Path, options: &Options) -> Result<Started> {
    let program = install::odgm(options.odgm.as_deref())?;
    let collection = serde_json::json!([{
        "name": CLASS,
        "partition_count": options.partitions,
        "replica_count": 1,
        "shard_type": "basic",
    }]);
    let port_file = dir.join("port");
    let mut command = Command::new(&program);
    command
        .arg("serve")
        .env("ODGM_DATA_DIR", dir.join("data"))
        .env("ODGM_HTTP_HOST", "127.0.0.1")
        .env("ODGM_HTTP_PORT", "0")
        .env("ODGM_PORT_FILE", &port_file)
        .env("ODGM_COLLECTION", collection.to_string())
        .env("ODGM_LOG", "warn");
    Ok(Started {
        process: Process::spawn("odgm", command, &dir.join("output"))?,
        address: Announced::PortFile(port_file),
        version: install::version(&program)?,
    })
}

fn etcd(dir: &Path) -> Result<Started> {
    let program = install::etcd()?;
    let (client, peer) = (free_address()?, free_address()?);
    let mut command = Command::new(&program);
    command
        .arg("--name=bench")
        .arg(format!("--data-dir={}", dir.join("data").display()))
        .arg(format!("--listen-client-urls=http://{client}"))
        .arg(format!("--advertise-client-urls=http://{client}"))
        .arg(format!("--listen-peer-urls=http://{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
        .arg(format!("--initial-cluster=bench=http://{peer}"))
        .arg("--log-level=warn");
    Ok(Started {
        process: Process::spawn("etcd", command, &dir.join("output"))?,
        address: Announced::Given(client),
        version: install::version(&program)?,
    })
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
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("ceiling");
    Ok(Started {
        process: Process::spawn("ceiling", command, &dir.join("output"))?,
        address: Announced::Output(ceiling::LISTENING),
        version: "tonic, with its own server".to_owned(),
    })
}

/// An address of the loopback interface that nobody listens on, for servers that cannot choose one themselves.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
