//! The one classification of what a record changed: kept in history, sent to subscribers, matched by triggers.

use bincode::{Decode, Encode};
use odgm_log::{BodyType, Offset, Timestamp};

/// What one record changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The record.
    pub offset: Offset,
    /// The record's time.
    pub time: Timestamp,
    /// The object; empty for one of the partition's own records, and for a function of the class.
    pub object: String,
    /// What happened to the object.
    pub kind: ChangeKind,
    /// The object's version after the record; 0 for one of the partition's own records.
    pub version: u64,
    /// The entries that were touched, sorted by key.
    pub keys: Vec<(String, Action)>,
    /// Whether the object's triggers are different from before.
    pub triggers_changed: bool,
    /// Whether the record replaced all entries of the object, so that none from before it is left.
    pub replaced: bool,
    /// The operation.
    pub operation: BodyType,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It did not exist before.
    Created,
    /// It existed before and still does.
    Updated,
    /// It exists no more.
    Deleted,
    /// A function that was called on it has completed; or one of the class, if no object is named.
    Completed,
    /// Such a function has failed.
    Failed,
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Action {
    /// It did not exist before.
    Created,
    /// It was written over, with other bytes or the same.
    Updated,
    /// It was removed.
    Deleted,
}

impl ChangeKind {
    /// `created`, `updated`, `deleted`, `completed` or `failed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Whether it tells of a function, and the object is as it was.
    pub const fn is_of_function(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

impl Action {
    /// `created`, `updated` or `deleted`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}
