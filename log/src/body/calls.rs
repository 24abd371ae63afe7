//! What records say of calls: accepted, ended, to be tried again, given up, delivered.

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use bytes::Bytes;

use super::{decode_bytes, encode_bytes};
use crate::ids::{GroupId, NodeId, Offset, Timestamp};

/// Bytes in a record, shared instead of copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub Bytes);

impl Encode for Blob {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        encode_bytes(&self.0, encoder)
    }
}

impl<Context> Decode<Context> for Blob {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        decode_bytes(decoder).map(Self)
    }
}

bincode::impl_borrow_decode!(Blob);

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

/// Call a function of this partition, and keep its answer under an id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Invoke {
    /// The id under which the result is asked for; unique within the partition as long as it is remembered.
    pub invocation: String,
    /// The object it is called on; none for a function of the class.
    pub object: Option<String>,
    /// The function.
    pub function: String,
    /// Request options to pass on, sorted.
    pub options: Vec<(String, String)>,
    /// The request.
    pub payload: Blob,
}

/// A call that has ended, in the log of the class and partition whose function it was. The depth of the record's cause is
/// the one that the function was given.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Outcome {
    /// Whose call it was.
    pub source: Source,
    /// The call's id: the invocation's, or the idempotency key of a trigger's call; empty if it has none.
    pub invocation: String,
    /// The object it was called on.
    pub object: Option<String>,
    /// The function.
    pub function: String,
    /// How it ended.
    pub finished: Finished,
}

/// Whose call an [`Outcome`] is of, and how it stands once in the log, however often it is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Source {
    /// A client that waited for the answer.
    Client,
    /// A row of this partition's own outbox. It takes effect only if the row still waits for this attempt.
    Outbox(Attempt),
    /// A row of another partition's outbox. It takes effect if it was not here before.
    Delivery {
        /// Which one.
        key: DeliveryKey,
        /// The lowest offset of the source under which a delivery to this partition is not forgotten there: keys below will not
        /// come here again.
        forgotten_below: Offset,
    },
    /// A row of this partition's own outbox that was settled before, and whose outcome waits to be delivered to this very
    /// partition. It takes effect if it still waits, and no more of it waits then. That needs no key with the partition's
    /// group, so a restored partition, which may have another one, makes the same of its log.
    Own(Place),
}

/// How a call ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Finished {
    /// Well, or why not.
    pub status: Status,
    /// What went wrong, for people; empty if nothing did.
    pub detail: String,
    /// What the function answered.
    pub payload: Blob,
    /// Headers of its answer, sorted.
    pub headers: Vec<(String, String)>,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// How a call ended, as `oprc.ResponseStatus` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Status {
    /// The function completed.
    #[default]
    Completed,
    /// It says that the request was wrong.
    InvalidRequest,
    /// It refused, or failed by its own rules: trying again gives the same.
    ApplicationError,
    /// It was not reached, was too slow, or failed inside.
    SystemError,
}

impl Status {
    /// Whether the function completed.
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Completed)
    }

    /// `completed`, `invalid_request`, `application_error` or `system_error`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::InvalidRequest => "invalid_request",
            Self::ApplicationError => "application_error",
            Self::SystemError => "system_error",
        }
    }
}

/// A row of an outbox: a call that waits. In the order in which rows are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct RowKey {
    /// From when on it may be made, in the time of the log.
    pub due: Timestamp,
    /// The record that caused it.
    pub offset: Offset,
    /// Its place among what that record caused, from 0.
    pub index: u32,
}

/// One attempt at the call of a row. What comes of it counts only as long as the row waits for this attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Attempt {
    /// The row.
    pub row: RowKey,
    /// How often it was redriven.
    pub generation: u32,
    /// How many attempts of this generation came before.
    pub attempt: u32,
}

/// What came of attempts: their rows are done, wait again, or are dead. Those of one record take effect in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TriggerSettled {
    /// One for each attempt.
    pub settlements: Vec<Settlement>,
}

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Settlement {
    /// The attempt.
    pub attempt: Attempt,
    /// What becomes of its row.
    pub verdict: Verdict,
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Verdict {
    /// The call has ended: its outcome is to be delivered to the partition of its target.
    Ended(Finished),
    /// It is tried again.
    Retry {
        /// Not before.
        at: Timestamp,
        /// Why it has to be.
        reason: String,
    },
    /// It is given up.
    Dead {
        /// Why.
        reason: String,
        /// What it was called with, so that it can be redriven when its record has been trimmed; none if that was never known, or
        /// no record can hold it.
        payload: Option<Blob>,
        /// What is told to its target's partition, if it was ever called.
        finished: Option<Finished>,
    },
}

/// An outcome on its way to another partition: the record that settled its call, and which of that record's it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct DeliveryKey {
    /// The group of the source.
    pub group: GroupId,
    /// The node that stamped the record; 0 where offsets are the same on all replicas.
    pub origin: NodeId,
    /// The record.
    pub offset: Offset,
    /// The place among its settlements.
    pub index: u32,
}

/// The place of a row, a dead letter or a delivery within its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Place {
    /// The record: of a call, the one that caused it; of a delivery, the one that settled its call.
    pub offset: Offset,
    /// The place among what the record caused, or settled.
    pub index: u32,
}

/// Outcomes that have arrived where they belong, or never will.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Delivered {
    /// Those that have arrived.
    pub arrived: Vec<Place>,
    /// Those for which there is no place, and why: they become dead letters.
    pub undeliverable: Vec<(Place, String)>,
}

/// Dead letters that are tried again, as new generations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Redrive {
    /// Which.
    pub letters: Vec<Place>,
}

/// Dead letters that are dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Discard {
    /// Which.
    pub letters: Vec<Place>,
    /// Why.
    pub reason: String,
}
