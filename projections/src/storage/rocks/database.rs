//! The database with the rows in front of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions};

use super::front::{Front, Written};
use super::options::for_view;
use super::writer::WriteOut;
use super::{Moment, copied};
use crate::storage::{Engine, Error, Reader as _, Resources, Share, marker, publish};

/// What is shared with the thread that writes out.
pub(super) struct Database {
    db: DB,
    dir: PathBuf,
    write_options: WriteOptions,
    persisted: ReadOptions,
    /// Held for moments only, except by [`Database::moment`] over what it writes out.
    pub(super) front: RwLock<Front>,
    /// Held while rows leave the front.
    leaving: Mutex<()>,
    /// Whether the thread has been asked to write out and has not begun.
    pub(super) requested: AtomicBool,
    /// How many bytes of rows that were read may stay.
    read_room: Share,
}

impl Database {
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
            requested: AtomicBool::new(false),
            read_room: resources.row_cache(),
        })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let version = {
            let front = self.front.read();
            if let Some(known) = front.get(key) {
                return Ok(known);
            }
            front.version()
        };
        self.read(version, key)
    }

    /// The rows are of one moment if no batch was published between the first look-up and the last; else a snapshot makes
    /// sure.
    pub(super) fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        let (version, known) = {
            let front = self.front.read();
            (front.version(), keys.iter().map(|key| front.get(key)).collect::<Vec<_>>())
        };
        if known.iter().all(Option::is_some) {
            return Ok(known.into_iter().flatten().collect());
        }
        let read = |(key, known): (&&[u8], Option<_>)| match known {
            Some(known) => Ok(known),
            None => self.read(version, key),
        };
        let values = keys.iter().zip(known).map(read).collect::<Result<_, _>>()?;
        if self.front.read().version() == version {
            return Ok(values);
        }
        self.moment()?.get_many(keys)
    }

    /// A row as the database has it; it is kept, unless there has been a batch since `version`.
    fn read(&self, version: u64, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = copied(self.db.get_pinned(key), &self.dir)?;
        if let Some(value) = &value {
            self.front.write().keep(version, key, value, self.read_room.bytes());
        }
        Ok(value)
    }

    pub(super) fn get_durable(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        copied(self.db.get_pinned_opt(key, &self.persisted), &self.dir)
    }

    /// The rows as they are now.
    pub(super) fn moment(&self) -> Result<Moment<'_>, Error> {
        // Most of it without holding anybody up.
        self.write_out()?;
        let _alone = self.leaving.lock();
        // No batch may come between what is written out and the snapshot.
        let mut front = self.front.write();
        let rows = front.leave();
        if !rows.is_empty() {
            self.put(&rows)?;
            front.left();
        }
        Ok(Moment { snapshot: self.db.snapshot(), dir: &self.dir })
    }

    /// Writes out what has gathered in front; readers and batches go on meanwhile.
    pub(super) fn write_out(&self) -> Result<(), Error> {
        let _alone = self.leaving.lock();
        let rows = self.front.write().leave();
        if !rows.is_empty() {
            self.put(&rows)?;
            let left = self.front.write().left();
            drop(left);
        }
        Ok(())
    }

    /// Writes rows to the database in the order of their keys, which it takes faster.
    fn put(&self, rows: &Written) -> Result<(), Error> {
        let mut rows: Vec<_> = rows.iter().collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        let bytes: usize =
            rows.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
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

    pub(super) fn flush(&self) -> Result<(), Error> {
        self.write_out()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(Error::rocksdb(&self.dir))
    }

    /// A checkpoint: the memtable is flushed, and the files are hard links.
    pub(super) fn checkpoint(&self, into: &Path) -> Result<(), Error> {
        self.write_out()?;
        publish::directory(into, |prepared| {
            let checkpoint = Checkpoint::new(&self.db).map_err(Error::rocksdb(&self.dir))?;
            checkpoint.create_checkpoint(prepared).map_err(Error::rocksdb(prepared))?;
            marker::write(prepared, Engine::RocksDb)
        })
    }
}

impl WriteOut for Database {
    fn write_out(&self) {
        self.requested.store(false, Ordering::Release);
        if let Err(error) = Database::write_out(self) {
            // Who applies will try it again when there is no more room, and stop at the error.
            tracing::error!(dir = %self.dir.display(), %error, "a view could not be written out");
        }
    }
}
