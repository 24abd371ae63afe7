//! How fresh a read has to be, and why it may have to wait in vain.

use odgm_log::NodeId;
use odgm_proto::metadata::consistency;

/// What a read may miss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Nothing that was acknowledged before it began: a quorum confirms who leads.
    #[default]
    Linearizable,
    /// As linearizable, as long as the clocks of all replicas run at about the same rate: the leader trusts its lease.
    Lease,
    /// Whatever this replica has not applied yet.
    Local,
}

impl Consistency {
    /// Reads the word by which requests and collections name a level.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            consistency::LINEARIZABLE => Some(Self::Linearizable),
            consistency::LEASE => Some(Self::Lease),
            consistency::LOCAL => Some(Self::Local),
            _ => None,
        }
    }
}

/// Why a read cannot be answered as freshly as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody is known to lead the partition.
    #[error(
        "the partition has no leader at present, so what it holds cannot be confirmed: try again in a moment"
    )]
    NoLeader,
    /// Another node leads, and this one does not ask it.
    #[error(
        "node {leader} leads the partition, and this node does not pass requests on (ODGM_FORWARD): ask there"
    )]
    Elsewhere {
        /// Who leads.
        leader: NodeId,
    },
    /// The leader did not hear from enough replicas, or this node not from the leader.
    #[error("what the partition holds cannot be confirmed: {reason}; try again in a moment")]
    Unconfirmed {
        /// What happened.
        reason: String,
    },
    /// The replica on this node is not what the others are.
    #[error("this node's replica is out of service, since {reason}: ask another node")]
    Diverged {
        /// Where it differs from which others.
        reason: String,
    },
    /// The partition is closing.
    #[error("the partition is closed")]
    Closed,
}
