//! The memory engine: all rows in a persistent tree, written out whole by each flush and snapshot.

mod image;
mod keys;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use self::tree::Tree;
use super::{
    ApplicationDataStorage, Batch, Engine, Error, Order, Range, Reader, Rows, SnapshotCapableStorage, marker,
    publish,
};

/// A view's rows in memory. What is on disk is the image of the last flush.
pub(super) struct Memory {
    dir: PathBuf,
    current: RwLock<Current>,
    /// How many batches are in the image on disk. Locked while an image is written, so that images replace each
    /// other in order.
    flushed: Mutex<u64>,
}

/// The rows after so many batches since the directory was opened.
struct Current {
    rows: Tree,
    batches: u64,
}

impl Memory {
    /// Opens the rows of the last flush; none if there was none.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(image::FILE);
        let rows = if path.try_exists().map_err(Error::io("look at", &path))? {
            // Values are copied one by one: a slice would keep the whole image in memory for as long as one row stays.
            let copied = image::read(&path)?.into_iter().map(|(key, value)| (key, copy(&value)));
            Tree::from_sorted(copied.collect())
        } else {
            Tree::default()
        };
        let current = RwLock::new(Current { rows, batches: 0 });
        Ok(Self { dir: dir.to_path_buf(), current, flushed: Mutex::new(0) })
    }

    /// Opens a snapshot.
    pub(super) fn open_snapshot(dir: &Path) -> Result<impl Reader + 'static, Error> {
        Ok(Frozen(Tree::from_sorted(image::read(&dir.join(image::FILE))?)))
    }
}

impl ApplicationDataStorage for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.current.read().rows.get(key).cloned())
    }

    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        let current = self.current.read();
        Ok(keys.iter().map(|key| current.rows.get(key).cloned()).collect())
    }

    fn get_durable(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let _image_stays = self.flushed.lock();
        let path = self.dir.join(image::FILE);
        if !path.try_exists().map_err(Error::io("look at", &path))? {
            return Ok(None);
        }
        let rows = image::read(&path)?;
        let found = rows.binary_search_by(|(candidate, _)| candidate.as_ref().cmp(key));
        Ok(found.ok().map(|index| copy(&rows[index].1)))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Error> {
        Ok(Box::new(Frozen(self.current.read().rows.clone())))
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let mut current = self.current.write();
        for (key, value) in batch.operations() {
            match value {
                // Copied: what the batch holds may be a small part of a large request.
                Some(value) => current.rows.insert(key, copy(value)),
                None => current.rows.remove(key),
            }
        }
        current.batches += 1;
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        let mut flushed = self.flushed.lock();
        let (rows, batches) = {
            let current = self.current.read();
            (current.rows.clone(), current.batches)
        };
        if *flushed != batches {
            image::write(&self.dir.join(image::FILE), &rows)?;
            *flushed = batches;
        }
        Ok(())
    }
}

impl SnapshotCapableStorage for Memory {
    fn snapshot(&self, into: &Path) -> Result<(), Error> {
        let rows = self.current.read().rows.clone();
        publish::directory(into, |prepared| {
            fs::create_dir(prepared).map_err(Error::io("create the directory", prepared))?;
            marker::write(prepared, Engine::Memory)?;
            image::write(&prepared.join(image::FILE), &rows)
        })
    }
}

/// Rows that no longer change.
struct Frozen(Tree);

impl Reader for Frozen {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, range: Range, order: Order) -> Rows<'_> {
        let rows = self.0.range(range, order);
        Box::new(rows.map(|(key, value)| Ok((Bytes::copy_from_slice(key), value.clone()))))
    }
}

fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
