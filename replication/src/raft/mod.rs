//! Replication by Raft: one openraft group for each partition, on the node's one log store and the partition's view.
//!
//! Only this module names openraft. It is an alpha and pinned; `docs/adr/0007-raft-by-openraft.md` says why, and what
//! to do when it has to be replaced.

mod answering;
mod beating;
mod beginning;
mod changing;
mod checkpoints;
mod comparing;
mod confirming;
mod fencing;
mod filling;
mod forwarding;
mod group;
mod groups;
mod hearing;
mod incoming;
mod leading;
mod log;
mod machine;
mod messages;
mod network;
mod notes;
mod proposing;
mod raising;
mod starting;
mod transfers;
mod types;

#[cfg(test)]
mod asking;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod divergences;
#[cfg(test)]
mod forgetting;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod installing;
#[cfg(test)]
mod moving;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod terms;
#[cfg(test)]
mod upgrading;

use std::time::Duration;

#[cfg(test)]
pub(crate) use self::changing::Other;
pub(crate) use self::changing::{Members, Standing, Step};
pub use self::checkpoints::{Differing, Divergence};
pub(crate) use self::group::Group;
pub(crate) use self::groups::{CLUSTER, Groups, Member as GroupMember, NODE};
pub(crate) use self::machine::{Place, newest as newest_view};
pub(crate) use self::notes::{VOTE, restored};
#[cfg(test)]
pub(crate) use self::simulation::is_simulated;
pub(crate) use self::starting::Member;
pub use self::starting::Timing;
pub use self::transfers::TransferCounts;
pub(crate) use self::transfers::Transfers;

/// Entries that openraft is given at once.
const READ_RECORDS: usize = 4_096;

/// Payload bytes that openraft is given at once; a larger entry goes alone.
const READ_BYTES: usize = 1 << 20;

/// Committed entries that are applied as one batch.
const APPLY_RECORDS: usize = 1_024;

/// Payload bytes after which a batch that is applied ends.
const APPLY_BYTES: usize = 4 << 20;

/// Proposals that are handed to openraft under one stamp, or to the leader in one message.
const PROPOSALS_AT_ONCE: usize = 1_024;

/// Pieces of a snapshot that are on their way to another member at once.
const PIECES_UNDER_WAY: usize = 8;

/// Batches of proposals that may be on their way at once; what comes meanwhile gathers for the next.
const PROPOSAL_ROUNDS: usize = 2;

/// Payload bytes of the past's records that one message carries; a larger record goes alone.
const FILL_BYTES: usize = 1 << 20;

/// How long another member may take over one question about the past.
const FILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a replica that found nobody who has what it is missing waits before it asks again.
const FILL_PAUSE: Duration = Duration::from_secs(1);

/// How long the other side may take over one message of a snapshot: it may be the last of several that wait until a file
/// is on the disk.
const PIECE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the other side may take to put a snapshot in the place of its view.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long writes and reads wait for somebody to lead.
const LEADER_PATIENCE: Duration = Duration::from_secs(3);

/// How long the leader may take over writes that were passed on to it. After that nobody knows what became of them.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the confirmation of reads may take.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// Questions to the quorum at once, for the reads of one group and level; reads that come meanwhile share the next.
const READ_ROUNDS: usize = 2;

/// How long a replica may take to say where it was.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);

/// Questions to find the first record in which two logs differ; each halves what may be.
const NARROWING_QUESTIONS: usize = 64;

/// Reads that share one question.
const READS_AT_ONCE: usize = 4_096;

/// How long what found no leader waits before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Records that a member may miss and still be given a vote: it has them soon.
const NEAR_RECORDS: u64 = 1_000;

/// Since when a member must have been heard to be given a vote or the lead.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// How long the members of a group may take to commit a change of them.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a member that stops waits for another one to lead.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(2);

/// How long a member that stops waits for the writes that it has taken in.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// How long a snapshot may take before whoever asked for it goes on without.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);

/// Messages with writes of another node that are remembered, so that one that arrives twice is taken in once.
const REMEMBERED_MESSAGES: usize = 4_096;
