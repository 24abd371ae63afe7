//! What a record says: the cause of an operation and the operation itself.
//!
//! Maps are kept as vectors sorted by key without repeats, so that equal operations have equal bytes.
//! bincode is positional: a changed struct is a new body version ([`BodyType`]), and the old struct stays.

use bincode::de::Decoder;
use bincode::de::read::Reader;
use bincode::enc::Encoder;
use bincode::error::{DecodeError as BincodeError, EncodeError as BincodeEncodeError};
use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::ids::{GroupId, NodeId, Offset};

pub mod calls;
mod config;

pub use self::calls::{Delivered, Discard, Invoke, Outcome, Redrive, TriggerSettled};
pub use self::config::{Config, ConfigV1, SetMode};

/// A whole operation with the reason for it. Its encoding is a record's payload: the cause, then the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Why the operation was asked for.
    pub cause: Cause,
    /// What is to be done.
    pub body: Body,
}

/// Why an operation was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Cause {
    /// The client's idempotency key; the same id is applied once within the partition's window.
    pub request_id: Option<String>,
    /// How many triggers led here; a client's own write has depth 0.
    pub depth: u32,
    /// The record that caused this one.
    pub parent: Option<Parent>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

impl Cause {
    /// The depth of a call that is asked for because of this: a client's own is as deep as it says, and what a function calls
    /// because of a record is one deeper than the function, as what a trigger calls is. So functions that call each
    /// other without end come to the limit.
    pub fn depth_of_call(&self) -> u32 {
        self.depth.saturating_add(u32::from(self.parent.is_some()))
    }
}

/// The place of a record in the whole grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Parent {
    /// The partition's group.
    pub group: GroupId,
    /// The node that proposed it.
    pub origin: NodeId,
    /// Its offset.
    pub offset: Offset,
}

/// Which body a record carries, as the number in its envelope. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum BodyType {
    /// [`Set`].
    Set = 1,
    /// [`Delete`].
    Delete = 2,
    /// [`Merge`].
    Merge = 3,
    /// [`SetValues`].
    SetValues = 4,
    /// [`Invoke`].
    Invoke = 5,
    /// [`Outcome`].
    Outcome = 6,
    /// [`TriggerSettled`].
    TriggerSettled = 7,
    /// [`CursorMoved`].
    CursorMoved = 8,
    /// [`Config`].
    Config = 9,
    /// [`Semantics`].
    Semantics = 10,
    /// [`Trimmed`].
    Trimmed = 11,
    /// [`CollectTombstones`].
    CollectTombstones = 12,
    /// [`Body::Blank`].
    Blank = 13,
    /// [`Membership`].
    Membership = 14,
    /// [`Delivered`].
    Delivered = 15,
    /// [`Redrive`].
    Redrive = 16,
    /// [`Discard`].
    Discard = 17,
}

impl BodyType {
    /// Every type this build can read, in order of number.
    pub const ALL: [Self; 17] = [
        Self::Set,
        Self::Delete,
        Self::Merge,
        Self::SetValues,
        Self::Invoke,
        Self::Outcome,
        Self::TriggerSettled,
        Self::CursorMoved,
        Self::Config,
        Self::Semantics,
        Self::Trimmed,
        Self::CollectTombstones,
        Self::Blank,
        Self::Membership,
        Self::Delivered,
        Self::Redrive,
        Self::Discard,
    ];

    /// The number in the envelope.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The type of that number, if this build knows it.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The version of the body's encoding that this build writes. It reads those before, too.
    pub const fn version(self) -> u8 {
        match self {
            Self::Config => 2,
            _ => 1,
        }
    }

    /// A short name for people: `set`, `set_values`, ...
    pub const fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Merge => "merge",
            Self::SetValues => "set_values",
            Self::CursorMoved => "cursor_moved",
            Self::Config => "config",
            Self::Semantics => "semantics",
            Self::Trimmed => "trimmed",
            Self::CollectTombstones => "collect_tombstones",
            Self::Blank => "blank",
            Self::Membership => "membership",
            Self::Invoke => "invoke",
            Self::Outcome => "outcome",
            Self::TriggerSettled => "trigger_settled",
            Self::Delivered => "delivered",
            Self::Redrive => "redrive",
            Self::Discard => "discard",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Replace (or, by `Config`, upsert) an object.
    Set(Set),
    /// Delete an object.
    Delete(Delete),
    /// Upsert entries, merging CRDT values.
    Merge(Merge),
    /// Put and delete single entries of an object, optionally compare-and-set.
    SetValues(SetValues),
    /// Move, create or drop a named cursor.
    CursorMoved(CursorMoved),
    /// The rules of this partition from here on.
    Config(Config),
    /// The version of the rules of apply from here on.
    Semantics(Semantics),
    /// Everything below an offset may be deleted.
    Trimmed(Trimmed),
    /// Tombstones of objects deleted at or below an offset are forgotten.
    CollectTombstones(CollectTombstones),
    /// Nothing: what a new leader writes to commit what its predecessors left.
    Blank,
    /// Who replicates this partition from here on.
    Membership(Membership),
    /// Call a function and keep its answer.
    Invoke(Invoke),
    /// A call has ended.
    Outcome(Outcome),
    /// What came of attempts at calls.
    TriggerSettled(TriggerSettled),
    /// Outcomes have arrived in other partitions.
    Delivered(Delivered),
    /// Dead letters are tried again.
    Redrive(Redrive),
    /// Dead letters are dropped.
    Discard(Discard),
}

impl Body {
    /// The number and version under which this body is encoded.
    pub const fn body_type(&self) -> BodyType {
        match self {
            Self::Set(_) => BodyType::Set,
            Self::Delete(_) => BodyType::Delete,
            Self::Merge(_) => BodyType::Merge,
            Self::SetValues(_) => BodyType::SetValues,
            Self::CursorMoved(_) => BodyType::CursorMoved,
            Self::Config(_) => BodyType::Config,
            Self::Semantics(_) => BodyType::Semantics,
            Self::Trimmed(_) => BodyType::Trimmed,
            Self::CollectTombstones(_) => BodyType::CollectTombstones,
            Self::Blank => BodyType::Blank,
            Self::Membership(_) => BodyType::Membership,
            Self::Invoke(_) => BodyType::Invoke,
            Self::Outcome(_) => BodyType::Outcome,
            Self::TriggerSettled(_) => BodyType::TriggerSettled,
            Self::Delivered(_) => BodyType::Delivered,
            Self::Redrive(_) => BodyType::Redrive,
            Self::Discard(_) => BodyType::Discard,
        }
    }

    /// The object that this operation writes; none for the partition's own records and those of calls.
    pub fn object(&self) -> Option<&str> {
        match self {
            Self::Set(Set { object, .. })
            | Self::Delete(Delete { object })
            | Self::Merge(Merge { object, .. })
            | Self::SetValues(SetValues { object, .. }) => Some(object),
            Self::CursorMoved(_)
            | Self::Config(_)
            | Self::Semantics(_)
            | Self::Trimmed(_)
            | Self::CollectTombstones(_)
            | Self::Blank
            | Self::Membership(_)
            | Self::Invoke(_)
            | Self::Outcome(_)
            | Self::TriggerSettled(_)
            | Self::Delivered(_)
            | Self::Redrive(_)
            | Self::Discard(_) => None,
        }
    }

    /// The id under which what this record did is in the history: the object's that it wrote, or that a call was made on;
    /// empty for a call of the class. None for what is no event.
    pub fn subject(&self) -> Option<&str> {
        match self {
            Self::Outcome(outcome) => Some(outcome.object.as_deref().unwrap_or_default()),
            _ => self.object(),
        }
    }
}

/// Replace all entries of an object (or upsert them, where [`Config::set_mode`] says so).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Set {
    /// The object's id.
    pub object: String,
    /// All entries, sorted by key.
    pub entries: Vec<(String, Value)>,
    /// `None` keeps the triggers that the object has; an empty one clears them.
    pub triggers: Option<Triggers>,
}

/// Delete an object with all its entries. Deleting what does not exist changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Delete {
    /// The object's id.
    pub object: String,
}

/// Upsert entries; where both sides are CRDT maps they are merged.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Merge {
    /// The object's id.
    pub object: String,
    /// The entries given, sorted by key.
    pub entries: Vec<(String, Value)>,
    /// As in [`Set::triggers`].
    pub triggers: Option<Triggers>,
}

/// Put and delete entries of one object, all or none.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetValues {
    /// The object's id.
    pub object: String,
    /// Entries to write, sorted by key.
    pub puts: Vec<(String, Value)>,
    /// Keys to remove, sorted; none of them is also put.
    pub deletes: Vec<String>,
    /// Apply only if the object's version is this; 0 means that it must not exist.
    pub expected_version: Option<u64>,
}

/// The value of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// How the bytes merge.
    pub kind: ValueKind,
    /// The bytes, never interpreted unless `kind` says so.
    pub data: Bytes,
}

impl Value {
    /// A plain value.
    pub fn bytes(data: impl Into<Bytes>) -> Self {
        Self { kind: ValueKind::Bytes, data: data.into() }
    }

    /// An automerge document.
    pub fn crdt_map(data: impl Into<Bytes>) -> Self {
        Self { kind: ValueKind::CrdtMap, data: data.into() }
    }
}

/// How a value merges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[repr(u8)]
pub enum ValueKind {
    /// Opaque; the last write wins.
    #[default]
    Bytes = 0,
    /// A saved automerge document; merged by `Merge`.
    CrdtMap = 1,
}

impl Encode for Value {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), BincodeEncodeError> {
        self.kind.encode(encoder)?;
        encode_bytes(&self.data, encoder)
    }
}

impl<Context> Decode<Context> for Value {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, BincodeError> {
        Ok(Self { kind: ValueKind::decode(decoder)?, data: decode_bytes(decoder)? })
    }
}

bincode::impl_borrow_decode!(Value);

fn encode_bytes<E: Encoder>(bytes: &Bytes, encoder: &mut E) -> Result<(), BincodeEncodeError> {
    bytes.as_ref().encode(encoder)
}

fn decode_bytes<Context, D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Bytes, BincodeError> {
    let length = u64::decode(decoder)?;
    let length = usize::try_from(length).map_err(|_| BincodeError::OutsideUsizeRange(length))?;
    decoder.claim_bytes_read(length)?;
    // The length is not trusted with an allocation before the bytes are seen to be there.
    if decoder.reader().peek_read(length).is_none() {
        return Err(BincodeError::UnexpectedEnd { additional: length });
    }
    let mut bytes = vec![0; length];
    decoder.reader().read(&mut bytes)?;
    Ok(bytes.into())
}

/// What to call when something happens to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Triggers {
    /// By function id, sorted.
    pub functions: Vec<(String, FunctionTrigger)>,
    /// By entry key, sorted.
    pub data: Vec<(String, DataTrigger)>,
}

impl Triggers {
    /// Whether there is nothing to call.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.data.is_empty()
    }
}

/// Targets by the way a function ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct FunctionTrigger {
    /// Called after success.
    pub on_complete: Vec<Target>,
    /// Called after failure.
    pub on_error: Vec<Target>,
}

/// Targets by the way an entry changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct DataTrigger {
    /// Called when the entry appears.
    pub on_create: Vec<Target>,
    /// Called when it is written again.
    pub on_update: Vec<Target>,
    /// Called when it is removed.
    pub on_delete: Vec<Target>,
}

/// A function to call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Target {
    /// The class that has the function.
    pub class: String,
    /// Its partition.
    pub partition: u32,
    /// The object to call it on; none for a function of the class.
    pub object: Option<String>,
    /// The function's id.
    pub function: String,
    /// Request options to pass on, sorted.
    pub options: Vec<(String, String)>,
}

/// A named durable cursor: where a consumer of this partition's log has got to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CursorMoved {
    /// The cursor's name.
    pub name: String,
    /// The last offset that the consumer is done with; `None` drops the cursor.
    pub position: Option<Offset>,
    /// How many records below the head the cursor may hold back trimming before its lease breaks; 0 holds nothing back.
    pub allowed_lag: u64,
}

/// From this record on, apply follows rules version `version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Semantics {
    /// The version of the rules.
    pub version: u32,
}

/// Records below `below` may be deleted on every replica that has them in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Trimmed {
    /// The first offset that is kept.
    pub below: Offset,
}

/// Tombstones of objects deleted at or below `through` are forgotten; the version floor rises past theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CollectTombstones {
    /// The newest deletion that may be forgotten.
    pub through: Offset,
}

/// Who replicates the partition from this record on, as Raft's joint consensus has it (Ongaro, 2014, section 4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Membership {
    /// One set of voters, or two of which each must agree while the members change. The ids of a set are sorted.
    pub voters: Vec<Vec<NodeId>>,
    /// Every member, voters and learners. Sorted.
    pub nodes: Vec<NodeId>,
}
