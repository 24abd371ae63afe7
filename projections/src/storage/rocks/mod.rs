//! The RocksDB engine: one database in each view's directory, one column family, no write-ahead log.
//!
//! The log of the partition is the log: what a crash takes from memory is applied again. Batches gather in front of
//! the database and reach it many as one; memtables reach the disk in the order in which they were filled and a batch is
//! never split between two; so a crash leaves the rows as they were after some batch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rocksdb::{DB, DBPinnableSlice};

use self::database::Database;
use self::options::for_snapshot;
use self::scan::Scan;
use self::writer::{Pending, WriteOut};
use super::{
    ApplicationDataStorage, Batch, Error, Order, Range, Reader, Resources, Rows, Share,
    SnapshotCapableStorage,
};

mod database;
mod front;
mod options;
mod scan;
mod writer;

pub(super) use self::writer::Writer;

/// A view's rows on disk.
pub(super) struct Rocks {
    rows: Arc<Database>,
    writer: Writer,
    /// What the writer has been asked to do for this view.
    pending: Arc<Pending>,
    /// How many bytes may gather in front.
    write_room: Share,
}

/// What may gather in front of one view, however large the view's share: it bounds how long writing it out takes.
const MOST_GATHERED: usize = 16 << 20;

impl Rocks {
    /// Opens the database, or makes an empty one.
    pub(super) fn open(dir: &Path, resources: &Resources) -> Result<Self, Error> {
        Ok(Self {
            rows: Arc::new(Database::open(dir, resources)?),
            writer: resources.writer.clone(),
            pending: Arc::default(),
            write_room: resources.write_back(),
        })
    }

    /// Opens a snapshot; RocksDB takes no lock and writes nothing.
    pub(super) fn open_snapshot(dir: &Path, resources: &Resources) -> Result<impl Reader + 'static, Error> {
        let db = DB::open_for_read_only(&for_snapshot(resources), dir, false).map_err(Error::rocksdb(dir))?;
        Ok(Frozen { db, dir: dir.to_path_buf() })
    }

    /// Lets the writer take what has gathered when half of the room is used, and takes part in the work when all is.
    fn make_room(&self) -> Result<(), Error> {
        let room = self.write_room.bytes().min(MOST_GATHERED);
        let gathered = self.rows.front.read().written_weight();
        if gathered <= room / 2 {
            return Ok(());
        }
        let rows = &self.rows;
        if gathered > room {
            return rows.write_out();
        }
        if !rows.requested.swap(true, Ordering::AcqRel) {
            let work: Arc<dyn WriteOut> = Arc::clone(rows) as _;
            if !self.writer.request(work, &self.pending) {
                return rows.write_out();
            }
        }
        Ok(())
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        // So that the directory is free when this returns.
        self.pending.wait();
    }
}

impl ApplicationDataStorage for Rocks {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.rows.get(key)
    }

    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        self.rows.get_many(keys)
    }

    fn get_durable(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.rows.get_durable(key)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Error> {
        Ok(Box::new(self.rows.moment()?))
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        fail::fail_point!("view-write", |reason| {
            let reason = std::io::Error::other(reason.unwrap_or_default());
            Err(Error::io("write", &self.rows.dir)(reason))
        });
        self.make_room()?;
        self.rows.front.write().write(batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.rows.flush()
    }
}

impl SnapshotCapableStorage for Rocks {
    fn snapshot(&self, into: &Path) -> Result<(), Error> {
        self.rows.checkpoint(into)
    }
}

/// A live database at one moment.
struct Moment<'a> {
    snapshot: rocksdb::Snapshot<'a>,
    dir: &'a Path,
}

impl Reader for Moment<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        copied(self.snapshot.get_pinned(key), self.dir)
    }

    fn range(&self, range: Range, order: Order) -> Rows<'_> {
        Scan::rows(&range, order, self.dir, |options| self.snapshot.raw_iterator_opt(options))
    }
}

/// A snapshot's database, which nobody writes to.
struct Frozen {
    db: DB,
    dir: PathBuf,
}

impl Reader for Frozen {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        copied(self.db.get_pinned(key), &self.dir)
    }

    fn range(&self, range: Range, order: Order) -> Rows<'_> {
        Scan::rows(&range, order, &self.dir, |options| self.db.raw_iterator_opt(options))
    }
}

/// The one copy out of RocksDB's memory.
fn copied(
    value: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>,
    dir: &Path,
) -> Result<Option<Bytes>, Error> {
    match value {
        Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
        Err(error) => Err(Error::rocksdb(dir)(error)),
    }
}
