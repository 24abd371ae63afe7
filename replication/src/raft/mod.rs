//! Replication by Raft: one openraft group for each partition, on the node's one log store and the partition's view.
//!
//! Only this module names openraft. It is an alpha and pinned; `docs/adr/0007-raft-by-openraft.md` says why, and what
//! to do when it has to be replaced.

mod log;
mod machine;
mod notes;
mod types;

#[cfg(test)]
mod conformance;

/// Entries that openraft is given at once.
const READ_RECORDS: usize = 4_096;

/// Payload bytes that openraft is given at once; a larger entry goes alone.
const READ_BYTES: usize = 1 << 20;

/// Committed entries that are applied as one batch.
const APPLY_RECORDS: usize = 1_024;
