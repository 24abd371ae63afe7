//! What can go wrong, and how often it did.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::harness::Harm;

/// Something that is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A node is killed and started again.
    Kill,
    /// All nodes are killed at once and started again.
    Blackout,
    /// A node is told to stop, and started again.
    Stop,
    /// A node is stopped by SIGSTOP for longer than an election takes, and goes on without knowing.
    Pause,
    /// Nothing passes between a node and the others, and goes on later.
    Isolate,
    /// The connections between a node and the others are closed, and none are made.
    Cut,
    /// A node is not heard, or hears nothing, or is not heard by one of the others.
    OneWay,
    /// Two nodes do not hear each other, and the third hears both.
    Bridge,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Kill,
        Self::Blackout,
        Self::Stop,
        Self::Pause,
        Self::Isolate,
        Self::Cut,
        Self::OneWay,
        Self::Bridge,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Blackout => "blackout",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Isolate => "isolate",
            Self::Cut => "cut",
            Self::OneWay => "one-way",
            Self::Bridge => "bridge",
        })
    }
}

/// How often a fault was made.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Made {
    /// How often it was tried.
    pub(super) tried: u64,
    /// How often it took hold: the process was there, or something ran into what was done to the network.
    pub(super) fired: u64,
    /// How often it hit a leader.
    pub(super) leaders: u64,
    /// Of the network: bytes held back, and connections closed or not made.
    pub(super) harm: Harm,
    /// The longest time without an acknowledged write, and what had been done.
    pub(super) silence_ms: u128,
    pub(super) silenced_by: String,
}

impl Made {
    /// Counts one more.
    pub(super) fn add(&mut self, hit: Hit, silence: Duration) {
        if silence.as_millis() > self.silence_ms {
            (self.silence_ms, self.silenced_by) = (silence.as_millis(), hit.what);
        }
        self.tried += 1;
        self.fired += u64::from(hit.has_fired);
        self.leaders += u64::from(hit.has_fired && hit.is_leader);
        self.harm.held_bytes += hit.harm.held_bytes;
        self.harm.held += hit.harm.held;
        self.harm.closed += hit.harm.closed;
    }
}

/// What one fault did.
#[derive(Clone, Debug, Default)]
pub(super) struct Hit {
    /// What was done to whom.
    pub(super) what: String,
    pub(super) has_fired: bool,
    pub(super) is_leader: bool,
    pub(super) harm: Harm,
}
