//! The RocksDB engine: one database in each view's directory, one column family, no write-ahead log.
//!
//! The log of the partition is the log: what a crash takes from the memtable is applied again. Memtables reach the disk
//! in the order in which they were filled and a batch is never split between two, so a crash leaves the rows as
//! they were after some batch.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, DBPinnableSlice, FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions};

use self::options::{for_snapshot, for_view};
use self::scan::Scan;
use super::{
    ApplicationDataStorage, Batch, Engine, Error, Order, Range, Reader, Resources, Rows,
    SnapshotCapableStorage, marker, publish,
};

mod options;
mod scan;

/// A view's rows on disk.
pub(super) struct Rocks {
    db: DB,
    dir: PathBuf,
    write_options: WriteOptions,
    persisted: ReadOptions,
}

impl Rocks {
    /// Opens the database, or makes an empty one.
    pub(super) fn open(dir: &Path, resources: &Resources) -> Result<Self, Error> {
        let db = DB::open(&for_view(resources), dir).map_err(Error::rocksdb(dir))?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let mut persisted = ReadOptions::default();
        persisted.set_read_tier(ReadTier::Persisted);
        Ok(Self { db, dir: dir.to_path_buf(), write_options, persisted })
    }

    /// Opens a snapshot; RocksDB takes no lock and writes nothing.
    pub(super) fn open_snapshot(dir: &Path, resources: &Resources) -> Result<impl Reader + 'static, Error> {
        let db = DB::open_for_read_only(&for_snapshot(resources), dir, false).map_err(Error::rocksdb(dir))?;
        Ok(Frozen { db, dir: dir.to_path_buf() })
    }
}

impl ApplicationDataStorage for Rocks {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        copied(self.db.get_pinned(key), &self.dir)
    }

    /// Look-ups one by one, which for a few keys cost less than RocksDB's multi-get and, unlike a snapshot, no lock. They
    /// are of one moment if no batch was published between the first and the last; else a snapshot makes sure.
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        let before = self.db.latest_sequence_number();
        let values = keys.iter().map(|key| self.get(key)).collect::<Result<_, _>>()?;
        if self.db.latest_sequence_number() == before {
            return Ok(values);
        }
        self.reader()?.get_many(keys)
    }

    fn get_durable(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        copied(self.db.get_pinned_opt(key, &self.persisted), &self.dir)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Error> {
        Ok(Box::new(Moment { snapshot: self.db.snapshot(), dir: &self.dir }))
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        // RocksDB's own framing: 12 bytes for the batch, for each operation a type and two lengths.
        let mut rows = WriteBatch::with_capacity_bytes(12 + batch.bytes() + 8 * batch.len());
        for (key, value) in batch.operations() {
            match value {
                Some(value) => rows.put(key, value),
                None => rows.delete(key),
            }
        }
        self.db.write_opt(rows, &self.write_options).map_err(Error::rocksdb(&self.dir))
    }

    fn flush(&self) -> Result<(), Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(Error::rocksdb(&self.dir))
    }
}

impl SnapshotCapableStorage for Rocks {
    /// A checkpoint: the memtable is flushed, and the files are hard links.
    fn snapshot(&self, into: &Path) -> Result<(), Error> {
        publish::directory(into, |prepared| {
            let checkpoint = Checkpoint::new(&self.db).map_err(Error::rocksdb(&self.dir))?;
            checkpoint.create_checkpoint(prepared).map_err(Error::rocksdb(prepared))?;
            marker::write(prepared, Engine::RocksDb)
        })
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
