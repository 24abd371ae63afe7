//! What became of a record when it was applied.

use odgm_log::{Hash, Kind, Offset, Payload, Record, Timestamp, chain};

use crate::calls::Queued;
use crate::change::Change;

/// A record that is committed and may be applied, with its payload read.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The record.
    pub record: Record,
    /// What [`Record::decode`] gives; a proposer hands over what it encoded and saves the decoding.
    pub payload: Payload,
    /// The log's chain up to this record.
    pub chain: Hash,
}

impl Committed {
    /// The record that follows the one up to which the chain is `previous`.
    pub fn new(previous: Hash, record: Record, payload: Payload) -> Self {
        let chain = chain::link(previous, &record);
        Self { record, payload, chain }
    }
}

/// What one record did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The record.
    pub offset: Offset,
    /// Its time: the largest stamp up to it.
    pub time: Timestamp,
    /// The answer to whoever asked for the operation.
    pub outcome: Outcome,
    /// What changed, the one classification that events, triggers and history read; none for a record that is
    /// no event.
    pub change: Option<Change>,
    /// What it put into the outbox, or has to be delivered, and may be dispatched at once.
    pub queued: Vec<Queued>,
}

/// The answer to an operation. Equal for equal logs, so that a repeated request gets the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It changed the object.
    Changed {
        /// The object's version from here on; of a deleted object, the version of its tombstone.
        version: u64,
    },
    /// There was nothing to change.
    Unchanged {
        /// The object's version, 0 if there is none.
        version: u64,
    },
    /// The object's version was not the expected one; nothing was changed.
    VersionMismatch {
        /// The version that was asked for; 0 for "must not exist".
        expected: u64,
        /// The object's version, 0 if there is none.
        current: u64,
    },
    /// The operation cannot be done; nothing was changed.
    Rejected(Rejection),
    /// The same request was applied before and is not applied again.
    Duplicate {
        /// Where it was applied.
        offset: Offset,
        /// What became of it then.
        outcome: Box<Outcome>,
    },
    /// The request id was used for a different request; nothing was changed.
    RequestIdReused {
        /// Where the id was used first.
        offset: Offset,
    },
    /// One of the partition's own records, or one about calls, took effect.
    Noted,
    /// The outcome of a call is known already, or nobody waits for it any more; nothing was changed.
    Stale,
    /// The record is about calls, of which the partition's rules know nothing yet; nothing was changed. It has not arrived
    /// anywhere: whoever proposed it does so again once the rules are those of calls ([`crate::Header::has_calls`]).
    NotUnderstood,
}

/// Why an operation cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A value marked as a CRDT map is no automerge document.
    #[error("the value of entry {key:?} is not an automerge document: {reason}")]
    CrdtMalformed {
        /// The entry.
        key: String,
        /// What is wrong, and with which side of the merge.
        reason: String,
    },
    /// The calls that it asks for have no room in the outbox.
    #[error(
        "the partition has {rows} calls and outcomes to be delivered of {bytes} bytes in its outbox, its limit: wait until \
         they are settled, or see why they are not (odgm calls)"
    )]
    OutboxFull {
        /// How many there are: calls that wait, and outcomes that are to be delivered.
        rows: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// An invocation of this id asked for something else.
    #[error(
        "invocation id {invocation:?} was used at offset {offset} for another call: expected a new id for a new call"
    )]
    InvocationIdReused {
        /// The id.
        invocation: String,
        /// Where it was used.
        offset: Offset,
    },
    /// The merged document would be larger than the partition allows.
    #[error("the merged document of entry {key:?} would have {bytes} bytes; this collection allows {limit}")]
    CrdtTooLarge {
        /// The entry.
        key: String,
        /// The size it would have, in bytes.
        bytes: u64,
        /// The largest size allowed, in bytes.
        limit: u64,
    },
}

/// Identifies what a request asked for, its cause left out: two requests with the same id are the same request if
/// their bodies are the same bytes. `body` is [`Payload::body_bytes`].
pub fn fingerprint(kind: Kind, body: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&kind.body_type.number().to_be_bytes());
    hasher.update(&[kind.body_version]);
    hasher.update(body);
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}
