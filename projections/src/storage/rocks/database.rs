//! The database with the rows in front of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
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
    pub(super) dir: PathBuf,
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
        if rows.is_empty() {
            return Ok(());
        }
        let many = rows.len();
        self.put(&rows)?;
        drop(rows);
        let left = self.front.write().left();
        // A table that was mostly empty is larger than this view still needs.
        if let Ok(mut table) = Arc::try_unwrap(left)
            && many >= table.capacity() / 8
        {
            table.clear();
            self.front.write().reuse(table);
        }
        Ok(())
    }

    /// Writes rows to the database in the order of their keys, which it takes faster.
    fn put(&self, rows: &Written) -> Result<(), Error> {
        let bytes: usize =
            rows.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        // RocksDB's own framing: 12 bytes for the batch, for each operation a type and two lengths.
        let mut batch = WriteBatch::with_capacity_bytes(12 + bytes + 8 * rows.len());
        for (key, value) in in_order(rows) {
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

/// The rows in the order of their keys. Most comparisons are settled by a few bytes that stand beside each other in
/// memory: those behind what all keys of a table (the first byte) have in common.
fn in_order(rows: &Written) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
    let mut first_of: [Option<(&[u8], usize)>; 256] = [None; 256];
    for key in rows.keys() {
        let table = usize::from(key.first().copied().unwrap_or_default());
        match &mut first_of[table] {
            Some((first, common)) => {
                *common = first.iter().zip(key.iter()).take(*common).take_while(|(a, b)| a == b).count();
            }
            unseen => *unseen = Some((key, key.len())),
        }
    }
    let mut sorted: Vec<_> = rows
        .iter()
        .map(|(key, value)| {
            let table = key.first().copied().unwrap_or_default();
            let common = first_of[usize::from(table)].map_or(0, |(_, common)| common);
            let mut telling = [0; 8];
            for (to, from) in telling.iter_mut().zip(&key[common..]) {
                *to = *from;
            }
            (table, u64::from_be_bytes(telling), key, value)
        })
        .collect();
    sorted.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| a.2.cmp(b.2)));
    sorted.into_iter().map(|(_, _, key, value)| (key, value.as_ref()))
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

#[cfg(test)]
mod tests {
    use proptest::collection::hash_map;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_are_in_the_order_of_their_keys(
            rows in hash_map("[eh][ab]{0,3}(common)?[\\x00ab]{0,12}", any::<Option<u8>>(), 0..60)
        ) {
            let rows: Written = rows
                .into_iter()
                .map(|(key, value)| (Bytes::from(key), value.map(|byte| Bytes::from(vec![byte]))))
                .collect();
            let mut expected: Vec<_> = rows.iter().map(|(key, value)| (key, value.as_ref())).collect();
            expected.sort();
            prop_assert_eq!(in_order(&rows).collect::<Vec<_>>(), expected);
        }
    }
}
