//! The command line of the chaos runner.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use odgm_proto::metadata::consistency;
use serde::Serialize;

use super::faults::Fault;
use crate::harness::Wire;

/// Kills, pauses and cuts off the nodes of a cluster under load, and checks all that clients were promised.
#[derive(Clone, Debug, Parser)]
#[command(name = "chaos")]
pub struct Options {
    /// Makes the same choices again; when they take effect is another matter. Default: a random one.
    #[arg(long)]
    pub seed: Option<u64>,

    /// How long faults are made. A run goes on until each fault was made once.
    #[arg(long, default_value_t = 300)]
    pub seconds: u64,

    /// Over what the nodes talk about Raft.
    #[arg(long, value_enum, default_value_t = Wire::Zenoh)]
    pub wire: Wire,

    /// Which faults are made. Default: all that the level of reads stands.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub faults: Vec<Fault>,

    /// The level of reads. Leases trust the clocks, so that pauses are no default there.
    #[arg(long, value_enum, default_value_t = Level::Linearizable)]
    pub consistency: Level,

    /// Partitions of the collection.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub partitions: u32,

    /// Clients, each with one request in flight.
    #[arg(long, default_value_t = 6)]
    pub clients: usize,

    /// Steps that the search for an order may take for each history.
    #[arg(long, default_value_t = 5_000_000)]
    pub steps: usize,

    /// Lets a run pass in which a history could not be decided in so many steps.
    #[arg(long)]
    pub allow_undecided: bool,

    /// The longest time, in milliseconds, in which no write at all may be acknowledged. Whatever is done, there is a majority
    /// of which all hear each other, or will be as soon as they have started.
    #[arg(long, default_value_t = 10_000)]
    pub max_silence: u128,

    /// Writes the report as JSON to this file too.
    #[arg(long)]
    pub json: Option<PathBuf>,

    /// Writes what the nodes have logged and the histories into this directory, if the run fails.
    #[arg(long)]
    pub logs: Option<PathBuf>,

    /// The directory for the nodes' data.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub dir: PathBuf,

    /// The `odgm` binary. Default: the one beside this program.
    #[arg(long, env = "ODGM_BIN")]
    pub odgm: Option<PathBuf>,
}

/// How fresh reads are asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Confirmed by a quorum.
    Linearizable,
    /// Trusting the leader's lease.
    Lease,
    /// Whatever the node that is asked has applied. It is no wonder if this does not hold: it shows that stale reads are
    /// found.
    Local,
}

impl Level {
    /// As requests say it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Linearizable => consistency::LINEARIZABLE,
            Self::Lease => consistency::LEASE,
            Self::Local => consistency::LOCAL,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Options {
    /// The faults that are made.
    pub(super) fn faults(&self) -> Vec<Fault> {
        if !self.faults.is_empty() {
            return self.faults.clone();
        }
        let stands = |fault: &Fault| self.consistency != Level::Lease || *fault != Fault::Pause;
        Fault::ALL.into_iter().filter(stands).collect()
    }

    /// The seed that was given, or another one each time.
    pub(super) fn seed(&self) -> u64 {
        // Short enough to be typed again.
        self.seed.unwrap_or_else(|| RandomState::new().hash_one("seed") >> 40)
    }

    pub(super) fn partitions(&self) -> u32 {
        self.partitions.max(1)
    }
}
