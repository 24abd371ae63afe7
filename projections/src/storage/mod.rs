//! Where a view keeps its rows: ordered byte keys with byte values, written in atomic batches.
//!
//! An engine knows nothing of objects, records or offsets. It promises four things, and one conformance suite
//! (`projections/tests/storage`) holds every engine to them:
//!
//! - a [`Batch`] is seen whole or not at all, by readers and after a crash;
//! - [`ApplicationDataStorage::get_many`] and a [`Reader`] show one moment between two batches;
//! - after a crash the storage is what it was after *some* batch, not older than the last
//!   [`flush`](ApplicationDataStorage::flush);
//! - damage on disk is an [`Error::Corrupt`] that names the file, never a wrong answer.
//!
//! What was lost since the last flush is applied again from the log, which is why no engine keeps a log of its own.

mod batch;
mod engine;
mod error;
mod live;
mod marker;
mod memory;
mod publish;
mod range;
mod resources;
mod rocks;

use std::path::Path;

use bytes::Bytes;

pub use batch::Batch;
pub use engine::{Engine, UnknownEngine, open_snapshot, restore};
pub use error::Error;
pub(crate) use live::Live;
pub use range::{Order, Range};
pub(crate) use resources::Share;
pub use resources::{Budget, Resources};

/// One row: key and value.
pub type Row = (Bytes, Bytes);

/// Rows in key order. After an error there are no more.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row, Error>> + 'a>;

/// The rows of one view. One thread writes; any number reads meanwhile.
pub trait ApplicationDataStorage: Send + Sync + 'static {
    /// The value of one key, as the last batch left it.
    ///
    /// # Errors
    /// If the storage cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// The values of several keys, in their order and all from one moment.
    ///
    /// # Errors
    /// If the storage cannot be read.
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error>;

    /// The value of one key as a crash at this moment would leave it: at least as new as the last
    /// [`flush`](Self::flush), perhaps older than what [`get`](Self::get) answers. Not for hot paths: the memory
    /// engine reads its whole image.
    ///
    /// # Errors
    /// If the storage cannot be read.
    fn get_durable(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// The rows as they are now, whatever is written later. Drop it soon: it keeps replaced values alive.
    ///
    /// # Errors
    /// If the storage cannot be read.
    fn reader(&self) -> Result<Box<dyn Reader + '_>, Error>;

    /// Applies a batch; on return everyone sees all of it. It is durable only after the next
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// If the engine refuses; nothing of the batch is visible then.
    fn write(&self, batch: Batch) -> Result<(), Error>;

    /// What was written is on disk when this returns.
    ///
    /// # Errors
    /// If it could not be written; what is durable is then as before.
    fn flush(&self) -> Result<(), Error>;
}

/// A storage that can be copied as it stands, cheaply, while it is in use.
pub trait SnapshotCapableStorage: ApplicationDataStorage {
    /// Makes the directory `into`, which must not exist, hold the rows as of one moment during the call; durable on
    /// return. It is made under another name beside and renamed, so a crash leaves either nothing or all of it.
    /// Read it with [`open_snapshot`], start a view from it with [`restore`].
    ///
    /// # Errors
    /// [`Error::Exists`] if there is something at `into`; otherwise if it could not be written.
    fn snapshot(&self, into: &Path) -> Result<(), Error>;
}

/// The rows of one moment: a live view's, from [`ApplicationDataStorage::reader`], or a snapshot's, from
/// [`open_snapshot`].
pub trait Reader: Send + Sync {
    /// The value of one key.
    ///
    /// # Errors
    /// If the storage cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// The values of several keys, in their order.
    ///
    /// # Errors
    /// If the storage cannot be read.
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// The rows in `range`. The iterator seeks to its first row and costs what is taken from it.
    fn range(&self, range: Range, order: Order) -> Rows<'_>;
}
