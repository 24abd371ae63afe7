//! What can go wrong, with the group and the offset at which it did.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::options::{MAX_APPEND_BYTES, MAX_NOTE_BYTES, MAX_NOTE_KEY_BYTES};
use crate::envelope::EnvelopeError;
use crate::ids::{GroupId, Hash, Offset};
use crate::record::MAX_PAYLOAD_BYTES;

/// The log could not be written or synced, and never will be again by this process: after a failed fsync the kernel
/// may have dropped the pages, so that a second, successful one would prove nothing.
///
/// To a callback it means that the outcome is unknown: its records may or may not be there after a restart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log store has stopped: {reason}")]
pub struct SyncError {
    reason: Arc<str>,
}

impl SyncError {
    pub(super) fn new(reason: impl Into<Arc<str>>) -> Self {
        Self { reason: reason.into() }
    }
}

/// The bytes on disk are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// A record cannot be trusted.
    #[error("group {group}, offset {offset}: the record is damaged: {source}")]
    Record {
        /// The group.
        group: GroupId,
        /// The record.
        offset: Offset,
        /// What is wrong with it.
        source: EnvelopeError,
    },
    /// A record is not there.
    #[error("group {group}: the record at offset {expected} is missing; {}", next_record(.found))]
    Missing {
        /// The group.
        group: GroupId,
        /// The record that should be there.
        expected: Offset,
        /// The record that follows the gap.
        found: Option<Offset>,
    },
    /// There are records after the head of the log.
    #[error("group {group}: the log ends at offset {last} but there is a record at {found}")]
    BeyondHead {
        /// The group.
        group: GroupId,
        /// The offset of the head.
        last: Offset,
        /// The record after it.
        found: Offset,
    },
    /// The hash chain does not lead to the hash that was stored: a record up to this offset was replaced.
    #[error(
        "group {group}: the chain at offset {offset} is {found}, but {expected} was stored: a record at or below it was changed"
    )]
    Chain {
        /// The group.
        group: GroupId,
        /// Where the chain was compared.
        offset: Offset,
        /// The stored hash.
        expected: Hash,
        /// The hash of the records.
        found: Hash,
    },
    /// A row about the log cannot be trusted.
    #[error("group {group}: the {row} row of the log's meta table is damaged: {reason}")]
    Meta {
        /// The group.
        group: GroupId,
        /// Which row.
        row: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// RocksDB found a damaged file; the reason names it.
    #[error("group {group}, offset {offset}: {reason}")]
    Table {
        /// The group that was read.
        group: GroupId,
        /// The offset that was read.
        offset: Offset,
        /// RocksDB's message, which names the file.
        reason: String,
    },
}

fn next_record(found: &Option<Offset>) -> String {
    found.map_or_else(|| "no record follows it".to_owned(), |found| format!("the next one is at {found}"))
}

/// Why a log directory was not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{dir} is in use by another process; stop that node, or ask it instead", dir = .dir.display())]
    InUse {
        /// The log directory.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// RocksDB refused; the reason names the file.
    #[error("{dir}: RocksDB does not open the log: {reason}", dir = .dir.display())]
    Engine {
        /// The log directory.
        dir: PathBuf,
        /// RocksDB's message.
        reason: String,
    },
    /// The watermark file cannot be trusted.
    #[error("{path}: {reason}", path = .path.display())]
    Watermarks {
        /// The file.
        path: PathBuf,
        /// What is wrong and what can be done.
        reason: String,
    },
    /// Records that were synced are gone.
    #[error(
        "{dir}: group {group}: the log ends at offset {found} but records up to {expected} were synced: acknowledged \
         records are lost; restore the directory from a backup or another replica",
        dir = .dir.display()
    )]
    BelowWatermark {
        /// The log directory.
        dir: PathBuf,
        /// The group.
        group: GroupId,
        /// The last offset that was synced.
        expected: Offset,
        /// The last offset that is there.
        found: Offset,
    },
    /// Every log is long enough, but a later change that was synced (a note, a truncation) is gone.
    #[error(
        "{dir}: the write-ahead log ends at change {found} but changes up to {expected} were synced: a note or a \
         truncation is lost; restore the directory from a backup or another replica",
        dir = .dir.display()
    )]
    ChangesLost {
        /// The log directory.
        dir: PathBuf,
        /// RocksDB's sequence number at the last sync.
        expected: u64,
        /// RocksDB's last sequence number now.
        found: u64,
    },
    /// The end of a log is damaged.
    #[error("{dir}: {source}", dir = .dir.display())]
    Corrupt {
        /// The log directory.
        dir: PathBuf,
        /// What was found.
        source: Corruption,
    },
}

/// Why records were not appended. The callback is not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The first record does not follow the last one, or there is a gap in the batch.
    #[error("group {group}: a record with offset {found} was appended where {expected} was expected")]
    NotContiguous {
        /// The group.
        group: GroupId,
        /// The offset that comes next.
        expected: Offset,
        /// The offset of the record.
        found: Offset,
    },
    /// A record is larger than a record may be.
    #[error(
        "group {group}, offset {offset}: the payload has {bytes} bytes; a record holds at most {MAX_PAYLOAD_BYTES}"
    )]
    RecordTooLarge {
        /// The group.
        group: GroupId,
        /// The record.
        offset: Offset,
        /// The size of its payload.
        bytes: usize,
    },
    /// The records together are too large for one write.
    #[error("group {group}: the batch has {bytes} bytes; one append takes at most {MAX_APPEND_BYTES}")]
    BatchTooLarge {
        /// The group.
        group: GroupId,
        /// The size of all payloads.
        bytes: usize,
    },
    /// The group was removed while this append waited for its turn.
    #[error("group {group} was removed")]
    Removed {
        /// The group.
        group: GroupId,
    },
    /// The store no longer takes writes; these records were not written.
    #[error("nothing was written: {0}")]
    Stopped(SyncError),
    /// The write itself failed: the records may or may not be there after a restart.
    #[error("{0}; whether the records were kept is known after a restart")]
    Failed(SyncError),
}

/// Why records could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The records were trimmed.
    #[error("group {group}: offset {requested} was trimmed; the first record kept is {first}")]
    BelowFloor {
        /// The group.
        group: GroupId,
        /// The offset asked for.
        requested: Offset,
        /// The first offset that is kept.
        first: Offset,
    },
    /// There is no such record yet.
    #[error("group {group}: offset {requested} is above the last record, {last}")]
    AboveHead {
        /// The group.
        group: GroupId,
        /// The offset asked for.
        requested: Offset,
        /// The last record.
        last: Offset,
    },
    /// What was read cannot be trusted.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
}

/// Why a trim, a truncation, a removal or a note was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The offset is not in the log.
    #[error("group {group}: offset {requested} is outside the log, which holds {first} to {last}")]
    OutOfRange {
        /// The group.
        group: GroupId,
        /// The offset asked for.
        requested: Offset,
        /// The first record.
        first: Offset,
        /// The last record.
        last: Offset,
    },
    /// There is no such group.
    #[error("group {group} has no log here")]
    NoGroup {
        /// The group.
        group: GroupId,
    },
    /// Records that were to be put in front of a log are not those that were there.
    #[error(
        "group {group}: the records before {first} lead to the chain {found}, but it begins with {expected}: they are of \
         another log or damaged, and none was taken"
    )]
    OtherChain {
        /// The group.
        group: GroupId,
        /// The first record of the log.
        first: Offset,
        /// The chain with which it begins.
        expected: Hash,
        /// Where the records lead.
        found: Hash,
    },
    /// A note is too large.
    #[error(
        "note {key:?} has {bytes} bytes; a name has at most {MAX_NOTE_KEY_BYTES}, a note at most {MAX_NOTE_BYTES}"
    )]
    NoteTooLarge {
        /// Its name.
        key: String,
        /// Its size.
        bytes: usize,
    },
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store has stopped; the change may or may not be there after a restart.
    #[error(transparent)]
    Stopped(#[from] SyncError),
}

impl From<Corruption> for ChangeError {
    fn from(corruption: Corruption) -> Self {
        Self::Read(corruption.into())
    }
}

/// What [`verify`](super::LogStore::verify) found wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A record, the chain or a row is wrong.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// Records that were synced are gone.
    #[error(
        "group {group}: the log ends at offset {found} but records up to {expected} were synced: acknowledged records are lost"
    )]
    BelowWatermark {
        /// The group.
        group: GroupId,
        /// The last offset that was synced.
        expected: Offset,
        /// The last offset that is there.
        found: Offset,
    },
    /// There is no such group.
    #[error("group {group} has no log here")]
    NoGroup {
        /// The group.
        group: GroupId,
    },
}
