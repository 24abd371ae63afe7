//! The hash chain over a log.
//!
//! `chain(n) = blake3(chain(n-1) ‖ offset ‖ term ‖ stamp ‖ origin ‖ body type ‖ body version ‖ payload)`, numbers
//! big-endian (8, 8, 8, 8, 2 and 1 bytes), `chain(0)` all zero. It is a pure function of the records.
//!
//! What it proves: whoever kept the head at offset n elsewhere can tell that records 1 to n are still those that
//! were there. It does not stop somebody who can rewrite the log and every copy of its head.

use crate::ids::Hash;
use crate::record::Record;

/// A checkpoint of the chain is stored at every multiple of this offset, and at the head.
pub const CHECKPOINT_INTERVAL: u64 = 1_024;

/// The chain after `record`, given the chain before it.
pub fn link(previous: Hash, record: &Record) -> Hash {
    let mut fixed = [0; 67];
    fixed[..32].copy_from_slice(&previous.0);
    fixed[32..40].copy_from_slice(&record.offset.0.to_be_bytes());
    fixed[40..48].copy_from_slice(&record.term.0.to_be_bytes());
    fixed[48..56].copy_from_slice(&record.stamp.0.to_be_bytes());
    fixed[56..64].copy_from_slice(&record.origin.0.to_be_bytes());
    fixed[64..66].copy_from_slice(&record.kind.body_type.number().to_be_bytes());
    fixed[66] = record.kind.body_version;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&fixed);
    hasher.update(&record.payload);
    Hash(*hasher.finalize().as_bytes())
}
