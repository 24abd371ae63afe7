//! What reads of a view answer.

use bincode::{Decode, Encode};
use odgm_log::body::{Membership, Triggers, Value};
use odgm_log::{Offset, Term, Timestamp};

use crate::outcome::Outcome;

/// A whole object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its id.
    pub id: String,
    /// How often it was written; see [`crate::Outcome::Changed`].
    pub version: u64,
    /// All entries, in byte order of their keys.
    pub entries: Vec<(String, Value)>,
    /// What to call when it changes; none if nothing.
    pub triggers: Option<Triggers>,
    /// Where and when it was created (again, if it was deleted before).
    pub created: Moment,
    /// Where and when it was changed last.
    pub updated: Moment,
}

/// A record's place and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Moment {
    /// The record.
    pub offset: Offset,
    /// The record's time.
    pub time: Timestamp,
}

/// An object without its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSummary {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: u64,
    /// How many entries it has.
    pub entry_count: u64,
}

/// One entry of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// The object's version at which the entry was last written.
    pub version: u64,
}

/// The answer to a read of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryRead {
    /// The object's version, if there is such an object.
    pub object_version: Option<u64>,
    /// The entry's value, if there is such an entry.
    pub value: Option<Value>,
    /// The object's version at which the entry was last written; 0 if there is no such entry.
    pub version: u64,
}

/// A named durable cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Its name.
    pub name: String,
    /// The last offset that its consumer is done with.
    pub position: Offset,
    /// How many records below the head it may hold back trimming; 0 holds nothing back.
    pub allowed_lag: u64,
    /// The record that moved it there.
    pub moved: Moment,
}

/// Who replicates the partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The record that says so.
    pub offset: Offset,
    /// Its term.
    pub term: Term,
    /// What it says.
    pub membership: Membership,
}

/// A request id that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where it was applied.
    pub offset: Offset,
    /// When it was applied.
    pub time: Timestamp,
    /// Identifies what was asked for; see [`crate::fingerprint`].
    pub fingerprint: [u8; 16],
    /// What became of it.
    pub outcome: Outcome,
}
