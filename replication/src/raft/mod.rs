//! Replication by Raft: one openraft group for each partition, on the node's one log store and the partition's view.
//!
//! Only this module names openraft. It is an alpha and pinned; `docs/adr/0007-raft-by-openraft.md` says why, and what
//! to do when it has to be replaced.

mod group;
mod incoming;
mod log;
mod machine;
mod messages;
mod network;
mod notes;
mod types;

mod conformance;
mod histories;
mod installing;
mod scenarios;

use std::time::Duration;

/// Entries that openraft is given at once.
const READ_RECORDS: usize = 4_096;

/// Payload bytes that openraft is given at once; a larger entry goes alone.
const READ_BYTES: usize = 1 << 20;

/// Committed entries that are applied as one batch.
const APPLY_RECORDS: usize = 1_024;

/// Payload bytes after which a batch that is applied ends.
const APPLY_BYTES: usize = 4 << 20;

/// Proposals that are handed to openraft under one stamp.
const PROPOSALS_AT_ONCE: usize = 1_024;

/// Bytes of a snapshot's file that one message carries.
const PIECE_BYTES: u64 = 512 << 10;

/// How long the other side may take over one message of a snapshot.
const PIECE_TIMEOUT: Duration = Duration::from_secs(5);
