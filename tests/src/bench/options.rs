//! The command line of the benchmark.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use super::servers::Target;

/// Compares a node with etcd, Redis, Restate and gRPC services that do nothing, all with the same load loop.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub struct Options {
    /// What to run instead of the comparison.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How many times each load visits each target.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,

    /// Measured seconds of each visit.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,

    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,

    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    pub parts: Vec<Part>,

    /// Only these targets.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Target::ALL)]
    pub targets: Vec<Target>,

    /// What messages between the nodes of a cluster go over, zenoh or tcp; as the node has it unless given.
    #[arg(long)]
    pub wire: Option<String>,

    /// Only loads whose name contains this, as in `SetValue 4x32`.
    #[arg(long, default_value = "")]
    pub load: String,

    /// How long idle groups are watched, in seconds.
    #[arg(long, default_value_t = 60.0)]
    pub idle_seconds: f64,

    /// Partitions of the node's collection.
    #[arg(long, default_value_t = 1)]
    pub partitions: u32,

    /// The operations that are imported before views are rebuilt.
    #[arg(long, env = "FLIGHTS", default_value = "../shared/data/flights.jsonl.gz")]
    pub flights: PathBuf,

    /// Calls that wait for the function that is away.
    #[arg(long, default_value_t = 1_000_000)]
    pub waiting: usize,

    /// The directory for the servers' data. It must be on a disk: on a tmpfs an fsync costs nothing.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub dir: PathBuf,

    /// Writes the report as JSON to this file too.
    #[arg(long)]
    pub json: Option<PathBuf>,

    /// The `odgm` binary. Default: built now, in release, from this workspace.
    #[arg(long, env = "ODGM_BIN")]
    pub odgm: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// All loads on all targets of one node.
    Loads,
    /// Loads on clusters of three nodes.
    Clusters,
    /// Memory and bytes written of a node with a million objects.
    Footprint,
    /// Rebuilding views from their logs.
    Rebuild,
    /// Killing leaders of a cluster of three nodes.
    Failover,
    /// Many groups on three nodes that have nothing to do.
    Idle,
    /// A follower that comes back through a snapshot.
    CatchUp,
    /// Syncs of the disk per write, over many groups.
    GroupCommit,
    /// Triggers, and calls of functions.
    Calls,
    /// A million calls that wait for a function that is away.
    Waiting,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Loads,
        Self::Clusters,
        Self::Footprint,
        Self::Rebuild,
        Self::Failover,
        Self::Idle,
        Self::CatchUp,
        Self::GroupCommit,
        Self::Calls,
        Self::Waiting,
    ];
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Loads => "loads",
            Self::Clusters => "clusters",
            Self::Footprint => "footprint",
            Self::Rebuild => "rebuild",
            Self::Failover => "failover",
            Self::Idle => "idle",
            Self::CatchUp => "catch-up",
            Self::GroupCommit => "group-commit",
            Self::Calls => "calls",
            Self::Waiting => "waiting",
        })
    }
}

/// What the binary can do besides the comparison.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the ceiling: the same schema, answers of the same size, nothing behind it.
    #[command(hide = true)]
    Ceiling,
    /// Serve a function that does nothing.
    #[command(hide = true)]
    Function {
        /// Where it listens; at a port that the system gives unless it is named.
        #[arg(long, default_value = "127.0.0.1:0")]
        at: SocketAddr,
    },
    /// Serve the proxy: it passes calls of functions on.
    #[command(hide = true)]
    Proxy {
        /// Where the function listens.
        #[arg(long)]
        function: SocketAddr,
    },
}
