//! What can go wrong below a view.

use std::io;
use std::path::{Path, PathBuf};

use super::Engine;

/// An error of a storage engine. Each names the path it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried, as in "cannot _write_ the file".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// RocksDB refused, for another reason than damage.
    #[error("RocksDB failed in {path}: {source}", path = .path.display())]
    RocksDb {
        /// The directory of the view or snapshot.
        path: PathBuf,
        /// RocksDB's message.
        source: rocksdb::Error,
    },
    /// Bytes on disk are not those that were written.
    #[error(
        "{path} is damaged: {reason}; stop the node and remove the directory of this view or snapshot: a view is rebuilt \
         from the newest intact snapshot and the log", path = .path.display()
    )]
    Corrupt {
        /// The damaged file, or the directory if the engine's message in `reason` names the file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// The directory was written by the other engine.
    #[error(
        "{path} holds a view of storage engine {found}, but {expected} was asked for; the option `storage` of a collection \
         cannot change: move the directory away and let the view be rebuilt", path = .path.display()
    )]
    OtherEngine {
        /// The directory.
        path: PathBuf,
        /// The engine of the collection.
        expected: Engine,
        /// The engine that wrote the directory.
        found: Engine,
    },
    /// The directory was written by a build that this one does not understand.
    #[error(
        "{path} says {found:?}, which this build does not know (it reads view format {supported}): upgrade the node, or \
         move the directory away and let the view be rebuilt", path = .path.display()
    )]
    UnknownFormat {
        /// The marker file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// The format of this build.
        supported: u32,
    },
    /// The directory has files in it but was not made by a view.
    #[error(
        "{path} is not the directory of a view: it has no file `{marker}`; check the path, nothing was changed",
        path = .path.display(), marker = super::marker::FILE
    )]
    NotAView {
        /// The directory.
        path: PathBuf,
    },
    /// There is something where a snapshot or view was to be made.
    #[error("{path} exists already; nothing was changed", path = .path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
}

impl Error {
    /// For `map_err` on the operating system's errors.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }

    /// For `map_err` on RocksDB's errors: damage is told apart from refusals.
    pub(super) fn rocksdb(path: &Path) -> impl Fn(rocksdb::Error) -> Self {
        move |source| match source.kind() {
            rocksdb::ErrorKind::Corruption => {
                Self::Corrupt { path: path.to_path_buf(), reason: source.into_string() }
            }
            _ => Self::RocksDb { path: path.to_path_buf(), source },
        }
    }
}
