//! Calls that a partition has to make, and what is known of those that ended: rows of its view.

use bincode::{Decode, Encode};
use bytes::Bytes;
use odgm_log::body::calls::{Blob, DeliveryKey, Finished, Place, RowKey};
use odgm_log::body::{Body, Config, Target};
use odgm_log::{NodeId, Payload, Timestamp};

use crate::change::Action;
use crate::object::Moment;

/// A call that waits in the outbox, as its row has it; its [`RowKey`] is the row's key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutboxRow {
    /// What asks for the call.
    pub subject: Subject,
    /// What is to be called. An invocation's is of this very partition: class and partition are empty and 0 then, since a
    /// view does not know what it is called.
    pub target: Target,
    /// How many triggers led here; what the function does because of it carries the same.
    pub depth: u32,
    /// How often it was redriven.
    pub generation: u32,
    /// How many attempts of this generation have failed.
    pub attempt: u32,
    /// Who stamped the record that caused it.
    pub origin: NodeId,
    /// When that record was applied.
    pub created: Timestamp,
    /// W3C trace context of the record that caused it.
    pub traceparent: Option<String>,
    /// Why the last attempt failed; empty before there was one.
    pub last_error: String,
    /// What it is called with, where the record need not be there any more: of most rows that were redriven, and of most
    /// dead letters. Else see [`Subject::payload_in`].
    pub payload: Option<Blob>,
}

/// What asks for a call.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Subject {
    /// A trigger on an entry of an object.
    Data {
        /// The object.
        object: String,
        /// The entry.
        key: String,
        /// What happened to it.
        action: Action,
        /// The object's version after it.
        version: u64,
    },
    /// A trigger on a function of an object.
    Function {
        /// The object.
        object: String,
        /// The function that has ended.
        function: String,
        /// Whether it completed.
        is_complete: bool,
        /// The object's version.
        version: u64,
    },
    /// A client, that will ask for the result under this id.
    Invocation {
        /// The id.
        invocation: String,
    },
}

impl Subject {
    /// What the call is about out of the record that caused it: the value that was written, what the function answered, or
    /// the request.
    pub fn payload_in(&self, record: &Payload) -> Bytes {
        match (self, &record.body) {
            (Self::Data { key, .. }, body) => {
                let written = match body {
                    Body::Set(set) => set.entries.as_slice(),
                    Body::Merge(merge) => merge.entries.as_slice(),
                    Body::SetValues(values) => values.puts.as_slice(),
                    _ => &[],
                };
                let found = written.binary_search_by(|(other, _)| other.as_str().cmp(key)).ok();
                found.map(|at| written[at].1.data.clone()).unwrap_or_default()
            }
            (Self::Function { .. }, Body::Outcome(outcome)) => outcome.finished.payload.0.clone(),
            (Self::Invocation { .. }, Body::Invoke(invoke)) => invoke.payload.0.clone(),
            _ => Bytes::new(),
        }
    }
}

/// An outcome that is still to be told to the partition of its target.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeliveryRow {
    /// The call that has ended.
    pub call: Place,
    /// Who stamped the record that caused the call.
    pub origin: NodeId,
    /// Whose partition is told; see [`OutboxRow::target`].
    pub target: Target,
    /// The call's id there, of an invocation. Empty for a call that a trigger asked for: its id is its idempotency key, of
    /// which `origin` and `call` are parts. The group is the other one, and nothing in a view depends on its group: a
    /// restored partition may have a new one.
    pub invocation: String,
    /// The depth that the function was given.
    pub depth: u32,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// How the call ended.
    pub finished: Finished,
    /// When it was settled.
    pub created: Timestamp,
}

/// What was given up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeadLetter {
    /// Why.
    pub reason: String,
    /// When.
    pub died: Moment,
    /// What it was.
    pub letter: Letter,
}

/// What a dead letter holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Letter {
    /// A call under the place of its row: with its payload, unless its record made too many of them for that.
    Call(Box<OutboxRow>),
    /// An outcome without a place to go to, under the place of its delivery.
    Delivery(Box<DeliveryRow>),
}

/// An invocation that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Invocation {
    /// Where it was accepted.
    pub accepted: Moment,
    /// Identifies what was asked for; see [`crate::fingerprint`].
    pub fingerprint: [u8; 16],
    /// The object it is called on.
    pub object: Option<String>,
    /// The function.
    pub function: String,
    /// How far it is.
    pub state: InvocationState,
}

impl Invocation {
    /// Whether it is a result that is no longer kept at `now`, the time of the view, even if it is still there.
    pub fn is_past(&self, now: Timestamp, config: &Config) -> bool {
        match &self.state {
            InvocationState::Ended { at, .. } | InvocationState::Dead { at, has_letter: false, .. } => {
                is_past(at.time, now, config.result_retention_ms)
            }
            InvocationState::Pending | InvocationState::Dead { has_letter: true, .. } => false,
        }
    }
}

/// How far an invocation is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum InvocationState {
    /// It waits, or is being called.
    Pending,
    /// It has ended.
    Ended {
        /// The record of its outcome.
        at: Moment,
        /// How.
        finished: Finished,
    },
    /// It was given up: see the dead letter under the place of its row, with which it can come back. Without the letter it
    /// is forgotten as a result is.
    Dead {
        /// The record that gave it up, or that dropped the letter.
        at: Moment,
        /// Why.
        reason: String,
        /// Whether the letter is still there.
        has_letter: bool,
    },
}

/// What applying a record put into the outbox, or has to be delivered: news for whoever dispatches, who need not read
/// the view for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queued {
    /// A call.
    Call {
        /// Its key.
        key: RowKey,
        /// Its row.
        row: Box<OutboxRow>,
        /// What it is called with; none if that is in its record alone, which was applied before.
        payload: Option<Bytes>,
        /// What its row has in the view, key included.
        bytes: usize,
    },
    /// A call of which an attempt has failed: the next one is due then, and its row is in the view.
    Later {
        /// Its key from now on.
        key: RowKey,
    },
    /// An outcome to be delivered.
    Delivery {
        /// Where it is.
        place: Place,
        /// Its row.
        row: Box<DeliveryRow>,
        /// What its row has in the view, key included.
        bytes: usize,
    },
}

impl Queued {
    /// About how many bytes it holds.
    pub fn bytes(&self) -> usize {
        match self {
            // A row that has its payload shares it with what is told beside it.
            Self::Call { row, payload, bytes, .. } if row.payload.is_none() => {
                bytes + payload.as_ref().map_or(0, Bytes::len)
            }
            Self::Call { bytes, .. } | Self::Delivery { bytes, .. } => *bytes,
            Self::Later { .. } => size_of::<Self>(),
        }
    }
}

/// Whether a result of that time is no longer kept at `now`.
pub(crate) fn is_past(ended: Timestamp, now: Timestamp, retention_ms: u64) -> bool {
    now.get().saturating_sub(ended.get()) > Timestamp::from_millis(retention_ms).get()
}

/// How much of all that there is in a view. Part of its header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Calls {
    /// Whether a call or an outcome was ever named by the view's group: then another log must not go on under it.
    pub has_named: bool,
    /// Rows of the outbox.
    pub outbox_rows: u64,
    /// Their bytes, keys included.
    pub outbox_bytes: u64,
    /// Outcomes to be delivered.
    pub deliveries: u64,
    /// Their bytes, keys included. They count against the bounds of the outbox as its rows do.
    pub delivery_bytes: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Their bytes, keys included.
    pub dead_letter_bytes: u64,
    /// Invocations that are remembered and have not ended.
    pub pending_invocations: u64,
    /// Invocations that are remembered and have ended, or were given up and can not come back.
    pub results: u64,
    /// Bytes of the rows of those.
    pub result_bytes: u64,
    /// The oldest of those: when it ended, and the record of that.
    pub oldest_result: Option<Moment>,
    /// Outcomes and settlements that came too late to count, since the log began.
    pub stale: u64,
}

/// The key under which an outcome is delivered.
pub fn delivery_key(group: odgm_log::GroupId, place: Place) -> DeliveryKey {
    DeliveryKey { group, origin: NodeId(0), offset: place.offset, index: place.index }
}
