//! What can go wrong with a view.

use std::path::PathBuf;

use odgm_log::{GroupId, Offset, PayloadError};

use crate::source::SourceError;
use crate::storage;

/// Why a view could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The engine could not open its files.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A directory could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The view was written by another build, in a layout that this one does not know.
    #[error(
        "the view in {dir} has format {found}; this build reads format {supported}: use the build that wrote it, \
         or remove the directory to rebuild the view from the log"
    )]
    Format {
        /// The view's directory.
        dir: PathBuf,
        /// The format found.
        found: u8,
        /// The format that this build reads.
        supported: u8,
    },
    /// The view belongs to another partition.
    #[error(
        "the view in {dir} is of group {found}, not {expected}: the directory belongs to another partition"
    )]
    Group {
        /// The view's directory.
        dir: PathBuf,
        /// The group asked for.
        expected: GroupId,
        /// The group found.
        found: GroupId,
    },
    /// The view follows rules that this build does not know.
    #[error(
        "the view in {dir} follows semantics {found}; this build knows up to {supported}: upgrade the node"
    )]
    Semantics {
        /// The view's directory.
        dir: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version known.
        supported: u32,
    },
    /// The header row cannot be read.
    #[error(
        "the header of the view in {dir} is damaged ({reason}): remove the directory to rebuild the view"
    )]
    Header {
        /// The view's directory.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Why records could not be applied. The view is as it was before the whole batch.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The records do not follow what was applied.
    #[error("record {found} cannot follow: the view expects record {expected} next")]
    Gap {
        /// The next offset.
        expected: Offset,
        /// The offset given.
        found: Offset,
    },
    /// A newer build's rules hold from this record on.
    #[error(
        "record {offset} asks for semantics {version}; this build knows up to {supported}: upgrade the node"
    )]
    UnknownSemantics {
        /// The record.
        offset: Offset,
        /// The version asked for.
        version: u32,
        /// The newest version known.
        supported: u32,
    },
    /// The view could not be read.
    #[error("reading the view at record {offset} failed: {source}")]
    Read {
        /// The record that was being applied.
        offset: Offset,
        /// The reason.
        source: Error,
    },
    /// The view could not be written.
    #[error("writing the view failed: {0}")]
    Write(#[source] storage::Error),
}

/// Why a view could not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A row cannot be read.
    #[error(
        "a row of table {table} is damaged ({reason}): remove the view's directory to rebuild it from the log"
    )]
    Damaged {
        /// The table.
        table: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// The past that was asked for is no longer kept.
    #[error(
        "offset {requested} is below what is kept: records begin at {first}{}",
        .snapshot.map_or_else(String::new, |offset| format!(", and there is a snapshot at {offset}"))
    )]
    BelowFloor {
        /// What was asked for.
        requested: Offset,
        /// The first offset whose record is kept.
        first: Offset,
        /// The oldest kept snapshot, from which reading can start again.
        snapshot: Option<Offset>,
    },
    /// The offset has not been applied yet.
    #[error("offset {requested} is not applied yet: the view is at {applied}")]
    Ahead {
        /// What was asked for.
        requested: Offset,
        /// The last applied offset.
        applied: Offset,
    },
    /// The log could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A record in the log cannot be understood.
    #[error("record {offset}: {source}")]
    Payload {
        /// The record.
        offset: Offset,
        /// What is wrong with it.
        source: PayloadError,
    },
    /// A snapshot could not be opened.
    #[error("the snapshot at {offset} cannot be opened: {source}")]
    Snapshot {
        /// Its offset.
        offset: Offset,
        /// The reason.
        source: Box<OpenError>,
    },
    /// Replaying history or rebuilding met a record that cannot be applied.
    #[error(transparent)]
    Apply(#[from] Box<ApplyError>),
    /// A file or directory could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
