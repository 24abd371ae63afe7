//! The RocksDB engine: one database in each view's directory, one column family, no write-ahead log.
//!
//! The log of the partition is the log: what a crash takes from memory is applied again. Batches gather in front of
//! the database and reach it many as one; memtables reach the disk in the order in which they were filled and a batch is
//! never split between two; so a crash leaves the rows as they were after some batch.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, DBPinnableSlice, FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions};

use self::front::Front;
use self::options::{for_snapshot, for_view};
use self::scan::Scan;
use super::{
    ApplicationDataStorage, Batch, Engine, Error, Order, Range, Reader, Resources, Rows,
    Share, SnapshotCapableStorage, marker, publish,
};

mod front;
mod options;
mod scan;

/// A view's rows on disk.
pub(super) struct Rocks {
    db: DB,
    dir: PathBuf,
    write_options: WriteOptions,
    persisted: ReadOptions,
    /// Held for moments only, except by [`Rocks::reader`] over what it writes out.
    front: RwLock<Front>,
    /// Held while rows leave the front.
    leaving: Mutex<()>,
    /// How many bytes may gather in front.
    write_room: Share,
    /// How many bytes of rows that were read may stay.
    read_room: Share,
}

/// What gathers in front of one view, however large its share: it bounds how long writing it out takes.
const MOST_GATHERED: usize = 1 << 20;

impl Rocks {
    /// Opens the database, or makes an empty one.
    pub(super) fn open(dir: &Path, resources: &Resources) -> Result<Self, Error> {
        let options = for_view(resources).map_err(Error::rocksdb(dir))?;
        let db = DB::open(&options, dir).map_err(Error::rocksdb(dir))?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let mut persisted = ReadOptions::default();
        persisted.set_read_tier(ReadTier::Persisted);
        Ok(Self {
            db,
            dir: dir.to_path_buf(),
            write_options,
            persisted,
            front: RwLock::default(),
            leaving: Mutex::default(),
            write_room: resources.write_back(),
            read_room: resources.row_cache(),
        })
    }

    fn write_room(&self) -> usize {
        self.write_room.bytes().min(MOST_GATHERED)
    }

    /// A row as the database has it.
    fn read(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        copied(self.db.get_pinned(key), &self.dir)
    }

    /// Writes rows to the database, in the order of their keys, which it takes faster.
    fn put<'r>(&self, rows: impl Iterator<Item = (&'r Bytes, Option<&'r Bytes>)>) -> Result<(), Error> {
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|(key, _)| *key);
        let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.map_or(0, Bytes::len)).sum();
        // RocksDB's own framing: 12 bytes for the batch, for each operation a type and two lengths.
        let mut batch = WriteBatch::with_capacity_bytes(12 + bytes + 8 * rows.len());
        for (key, value) in rows {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        self.db.write_opt(batch, &self.write_options).map_err(Error::rocksdb(&self.dir))
    }

    /// Writes out what has gathered in front; readers go on meanwhile.
    fn write_out(&self) -> Result<(), Error> {
        let _alone = self.leaving.lock();
        let rows = self.front.write().leave();
        if !rows.is_empty() {
            self.put(rows.iter().map(|(key, value)| (key, value.as_ref())))?;
            self.front.write().left();
        }
        Ok(())
    }

    /// Opens a snapshot; RocksDB takes no lock and writes nothing.
    pub(super) fn open_snapshot(dir: &Path, resources: &Resources) -> Result<impl Reader + 'static, Error> {
        let db = DB::open_for_read_only(&for_snapshot(resources), dir, false).map_err(Error::rocksdb(dir))?;
        Ok(Frozen { db, dir: dir.to_path_buf() })
    }
}

impl ApplicationDataStorage for Rocks {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let version = {
            let front = self.front.read();
            if let Some(known) = front.get(key) {
                return Ok(known);
            }
            front.version()
        };
        let value = self.read(key)?;
        if let Some(value) = &value {
            self.front.write().keep(version, key, value, self.read_room.bytes());
        }
        Ok(value)
    }

    /// They are of one moment if no batch was published between the first look-up and the last; else a snapshot
    /// makes sure.
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        let (version, known) = {
            let front = self.front.read();
            (front.version(), keys.iter().map(|key| front.get(key)).collect::<Vec<_>>())
        };
        if known.iter().all(Option::is_some) {
            return Ok(known.into_iter().flatten().collect());
        }
        let mut values = Vec::with_capacity(keys.len());
        for (key, known) in keys.iter().zip(known) {
            let value = match known {
                Some(known) => known,
                None => {
                    let value = self.read(key)?;
                    if let Some(value) = &value {
                        self.front.write().keep(version, key, value, self.read_room.bytes());
                    }
                    value
                }
            };
            values.push(value);
        }
        if self.front.read().version() == version {
            return Ok(values);
        }
        self.reader()?.get_many(keys)
    }

    fn get_durable(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        copied(self.db.get_pinned_opt(key, &self.persisted), &self.dir)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Error> {
        let _alone = self.leaving.lock();
        // No batch may come between what is written out and the snapshot.
        let mut front = self.front.write();
        let rows = front.leave();
        if !rows.is_empty() {
            self.put(rows.iter().map(|(key, value)| (key, value.as_ref())))?;
            front.left();
        }
        Ok(Box::new(Moment { snapshot: self.db.snapshot(), dir: &self.dir }))
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let room = self.write_room();
        let gathered = self.front.read().written_bytes();
        if gathered + batch.bytes() > room {
            self.write_out()?;
        }
        if batch.bytes() <= room {
            self.front.write().write(&batch);
            return Ok(());
        }
        let mut front = self.front.write();
        self.put(batch.operations())?;
        front.passed(&batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.write_out()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(Error::rocksdb(&self.dir))
    }
}

impl SnapshotCapableStorage for Rocks {
    /// A checkpoint: the memtable is flushed, and the files are hard links.
    fn snapshot(&self, into: &Path) -> Result<(), Error> {
        self.write_out()?;
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
