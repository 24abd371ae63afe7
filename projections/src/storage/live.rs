//! Reading for the one who writes.

use std::sync::OnceLock;

use bytes::Bytes;

use super::{ApplicationDataStorage, Error, Order, Range, Reader, Row, Rows};

/// The rows as they are, for whoever is the only one that writes: between its batches they are of one moment without
/// costing a snapshot. One is taken when a range is first asked for.
pub(crate) struct Live<'a> {
    storage: &'a dyn ApplicationDataStorage,
    ranges: OnceLock<Box<dyn Reader + 'a>>,
}

impl<'a> Live<'a> {
    /// Reads `storage`, which must not be written to as long as this lives.
    pub(crate) fn new(storage: &'a dyn ApplicationDataStorage) -> Self {
        Self { storage, ranges: OnceLock::new() }
    }
}

impl Reader for Live<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.storage.get(key)
    }

    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        self.storage.get_many(keys)
    }

    fn range(&self, range: Range, order: Order) -> Rows<'_> {
        if self.ranges.get().is_none() {
            match self.storage.reader() {
                // If another thread was faster, its snapshot is the same.
                Ok(reader) => drop(self.ranges.set(reader)),
                Err(error) => return Box::new(std::iter::once(Err::<Row, _>(error))),
            }
        }
        match self.ranges.get() {
            Some(reader) => reader.range(range, order),
            None => Box::new(std::iter::empty()),
        }
    }
}
